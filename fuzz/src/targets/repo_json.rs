//! `repo.json`, whole: what is read is written and read again, and opened where its fields get right tags.

use std::sync::Arc;

use object_store::memory::InMemory;
use pgbr_codec::{KeyId, Keyring, Passphrase, RepositoryId, RepositoryKey, Slot};
use pgbr_repo::{Repo, Store};
use serde_json::Value;

/// What the first slot of the seeds opens with, and who has it.
const OWNER: [u8; 32] = [7; 32];
/// And the first of those for writing only.
const WRITER: [u8; 32] = [9; 32];

pub(crate) fn run(text: &str) {
    pgbr_repo::fuzzing::repo_json(text.as_bytes());
    let Some(fields) = without(text, "auth") else { return };
    let fields = without(&fields, "writer-auth").unwrap_or(fields);
    let Ok(value) = serde_json::from_str::<Value>(&fields) else { return };
    let id = value.get("repository-id").and_then(|id| id.as_str()?.parse::<RepositoryId>().ok());
    let Some(id) = id else { return };
    match opened_by(&value, id, &Passphrase::generated(&OWNER)) {
        None => plain(&fields, id),
        Some((key_id, key)) => sealed(&fields, &Keyring::sealed(id, key_id, &key)),
    }
}

/// Without a passphrase only one without encryption opens.
fn plain(fields: &str, id: RepositoryId) {
    let tag = Keyring::plain(id).auth_tag(fields.as_bytes()).expect("it has the key");
    let text = with(fields, "auth", &tag);
    if let Some(repo) = open(&text, None) {
        assert!(repo.slots().is_empty() && repo.retired_keys() == 0 && repo.key().is_none());
        assert_eq!((repo.id(), repo.text().as_ref()), (id, text.as_bytes()));
    }
}

/// Its owner reads it; a writer never has the key.
fn sealed(fields: &str, keyring: &Keyring) {
    // Who asks for a GiB to derive a key gets it, and libFuzzer stops at less.
    if fields.contains("argon2id") {
        return;
    }
    let mut text = fields.to_owned();
    if fields.contains(r#""writers""#) {
        text = with(&text, "writer-auth", &keyring.writer_auth_tag(text.as_bytes()).expect("it is encrypted"));
    }
    let text = with(&text, "auth", &keyring.auth_tag(text.as_bytes()).expect("it has the key"));
    assert!(open(&text, None).is_none());
    if let Some(repo) = open(&text, Some(OWNER)) {
        assert!(repo.keyring().reads() && repo.key().is_some());
    }
    if let Some(repo) = open(&text, Some(WRITER)) {
        assert!(!repo.keyring().reads() && repo.key().is_none());
    }
}

fn open(text: &str, passphrase: Option<[u8; 32]>) -> Option<Repo> {
    let store = Store::remote(Arc::new(InMemory::new()), "memory");
    let passphrase = passphrase.map(|bytes| Passphrase::generated(&bytes));
    let entropy = Arc::new(crate::plain::Fixed);
    crate::plain::block_on(Repo::open_kept(store, text.to_owned().into(), passphrase.as_ref(), None, entropy)).ok()
}

/// The key in the first slot, where this passphrase opens it.
fn opened_by(file: &Value, id: RepositoryId, passphrase: &Passphrase) -> Option<(KeyId, RepositoryKey)> {
    let slot: Slot = serde_json::from_value(file.get("slots")?.get(0)?.clone()).ok()?;
    if matches!(slot.kdf, pgbr_codec::Kdf::Argon2id { .. }) {
        return None;
    }
    let key_id = file.get("key-id")?.as_str()?.parse::<KeyId>().ok()?;
    let key = slot.unwrap_with(&slot.wrapping_key(passphrase).ok()?, id, key_id).ok()?;
    Some((key_id, key))
}

/// An object without a tag that is its last field, whatever the tag is.
fn without(text: &str, name: &str) -> Option<String> {
    let (open, _) = text.rsplit_once(&format!(r#","{name}":""#))?;
    Some(format!("{open}}}"))
}

/// An object with the tag as its last field.
fn with(text: &str, name: &str, tag: &[u8; 32]) -> String {
    let open = text.strip_suffix('}').unwrap_or(text);
    let tag: String = tag.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(r#"{open},"{name}":"{tag}"}}"#)
}
