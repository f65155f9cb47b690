//! The text of `repo.json`: its fields, and what shows that it is authentic.

use bytes::Bytes;
use object_store::path::Path;
use pgbr_codec::{
    Cipher, KeyId, Keyring, RepositoryId, RepositoryKey, RetiredKey, RetiredWriter, Slot, WriterKey,
    WriterSlot,
};
use serde::{Deserialize, Serialize};

use super::CHANGE_KEYS;
use crate::error::{Error, Result};
use crate::keys;
use crate::probe::StoreTraits;

/// The format version of a repository without writers, as it is made.
pub(super) const FORMAT: u32 = 1;
/// And of one that has or had passphrases for writing only: older programs do not know how content is sealed in it.
pub(super) const FORMAT_WRITERS: u32 = 2;
/// How many key slots a repository has at most, of each kind.
pub(super) const MAX_SLOTS: usize = 64;
/// How many keys a repository has had before the one of now, at most.
pub(super) const MAX_RETIRED: usize = 256;

/// `repo.json` without its last field, `auth`. The order of the fields is part of the format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct File {
    pub(super) format: u32,
    pub(super) repository_id: RepositoryId,
    pub(super) created: i64,
    pub(super) cipher: Cipher,
    pub(super) key_id: Option<KeyId>,
    pub(super) store: StoreTraits,
    pub(super) slots: Vec<Slot>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) retired: Vec<RetiredKey>,
    /// Slots for writing only; none where there never was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) writers: Option<Vec<WriterSlot>>,
    /// What writers have of the retired keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) retired_writers: Vec<RetiredWriter>,
}

impl File {
    /// The text of `repo.json`: the fields, and `auth` over them.
    pub(super) fn render(&self, keyring: &Keyring) -> Result<Bytes> {
        let failed = |source| Error::Codec {
            object: "repo.json".to_owned(),
            source: pgbr_codec::Error::Json { what: "repo.json", source },
        };
        let mut fields = serde_json::to_string(self).map_err(failed)?;
        if self.writers.is_some()
            && let Some(auth) = keyring.writer_auth_tag(fields.as_bytes())
        {
            fields = Tagged::put(&fields, WRITER_AUTH, &auth);
        }
        let auth = keyring.auth_tag(fields.as_bytes());
        let auth = auth.ok_or_else(|| Error::WriteOnly { doing: CHANGE_KEYS.to_owned() })?;
        Ok(Tagged::put(&fields, AUTH, &auth).into())
    }

    /// The keys of who has the repository's key.
    pub(super) fn keyring<'a>(
        &self,
        key: &RepositoryKey,
        retired: impl IntoIterator<Item = (KeyId, &'a RepositoryKey)>,
    ) -> Keyring {
        let key_id = self.key_id.unwrap_or(KeyId::NONE);
        let keyring = Keyring::sealed_with(self.repository_id, key_id, key, retired);
        if self.writers.is_some() { keyring.for_writers() } else { keyring }
    }

    /// The keys of who only writes.
    pub(super) fn writer_keyring(&self, key_id: KeyId, key: &WriterKey) -> Result<Keyring> {
        let open = |retired: &RetiredWriter| {
            let opened = retired.unwrap_with(self.repository_id, (key_id, key));
            Ok((retired.key_id, opened.map_err(in_repo_json)?))
        };
        let retired: Vec<_> = self.retired_writers.iter().map(open).collect::<Result<_>>()?;
        let retired = retired.iter().map(|(id, key)| (*id, key));
        Ok(Keyring::writer(self.repository_id, key_id, key, retired))
    }

    /// Reads the text of `repo.json`: its fields, and what shows that it is authentic.
    pub(super) fn parse(key: &Path, text: &[u8]) -> Result<(Self, Tags)> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let bad = |reason: &str| Error::corrupt(key, reason);
        let text = std::str::from_utf8(text).map_err(|e| Error::corrupt(key, e))?;
        let version: Version = serde_json::from_str(text).map_err(|e| Error::corrupt(key, e))?;
        if ![FORMAT, FORMAT_WRITERS].contains(&version.format) {
            let known = format!("{FORMAT} and {FORMAT_WRITERS} are known");
            let reason = format!("it is of format version {}, and {known}", version.format);
            return Err(Error::Unsupported { object: key.to_string(), reason });
        }
        let auth =
            Tagged::take(text, AUTH).ok_or_else(|| bad("it has no auth of 64 hex digits at its end"))?;
        let writer_auth = match version.format {
            FORMAT_WRITERS => Some(
                Tagged::take(&auth.text, WRITER_AUTH)
                    .ok_or_else(|| bad("it has no writer-auth at its end"))?,
            ),
            _ => None,
        };
        let fields = writer_auth.as_ref().map_or(&auth.text, |tagged| &tagged.text);
        let file: Self = serde_json::from_str(fields).map_err(|e| Error::corrupt(key, e))?;
        let (encrypted, has_key) = (file.cipher != Cipher::None, file.key_id.is_some());
        if encrypted != has_key || encrypted == file.slots.is_empty() || file.slots.len() > MAX_SLOTS {
            return Err(bad("cipher, key id and key slots do not fit"));
        }
        if file.retired.len() > if encrypted { MAX_RETIRED } else { 0 } {
            return Err(bad("it has more retired keys than there can be"));
        }
        let (has_writers, writers) = (file.writers.is_some(), file.writers.iter().flatten().count());
        if has_writers != writer_auth.is_some() || (has_writers && !encrypted) || writers > MAX_SLOTS {
            return Err(bad("format and slots for writing do not fit"));
        }
        if file.retired_writers.len() > if writers > 0 { MAX_RETIRED } else { 0 } {
            return Err(bad("it has more retired keys of writers than there can be"));
        }
        Ok((file, Tags { auth, writer_auth }))
    }
}

const AUTH: &str = "auth";
const WRITER_AUTH: &str = "writer-auth";

/// A JSON object and a tag over its text, which was its last field.
struct Tagged {
    text: String,
    tag: [u8; 32],
}

impl Tagged {
    /// The object with the tag as its last field.
    fn put(text: &str, name: &str, tag: &[u8; 32]) -> String {
        let open = text.strip_suffix('}').unwrap_or(text);
        format!(r#"{open},"{name}":"{}"}}"#, data_encoding::HEXLOWER.encode(tag))
    }

    /// Takes a tag of that name off the end of an object.
    fn take(text: &str, name: &str) -> Option<Self> {
        let (open, tag) = text.rsplit_once(&format!(r#","{name}":""#))?;
        let tag = tag.strip_suffix(r#""}"#).and_then(keys::hex)?;
        Some(Self { text: format!("{open}}}"), tag })
    }
}

/// What shows that a `repo.json` was made by somebody with a key: to who has the repository's, and to who only writes.
pub(super) struct Tags {
    auth: Tagged,
    writer_auth: Option<Tagged>,
}

impl Tags {
    pub(super) fn check(&self, key: &Path, keyring: &Keyring) -> Result<()> {
        let authentic = match (&self.writer_auth, keyring.reads()) {
            (_, true) => keyring.auth_matches(self.auth.text.as_bytes(), &self.auth.tag),
            (Some(own), false) => keyring.writer_auth_matches(own.text.as_bytes(), &own.tag),
            (None, false) => false,
        };
        if authentic {
            return Ok(());
        }
        Err(Error::corrupt(key, "it is not authentic: damaged or changed by somebody without the key"))
    }
}

/// The keys that older objects are sealed under.
pub(super) fn retired_keys(
    file: &File,
    key_id: KeyId,
    key: &RepositoryKey,
) -> Result<Vec<(KeyId, RepositoryKey)>> {
    let open = |retired: &RetiredKey| {
        let opened = retired.unwrap_with(file.repository_id, (key_id, key));
        Ok((retired.key_id, opened.map_err(in_repo_json)?))
    };
    file.retired.iter().map(open).collect()
}

pub(super) fn in_repo_json(source: pgbr_codec::Error) -> Error {
    Error::Codec { object: "repo.json".to_owned(), source }
}

/// Reads a foreign `repo.json`, writes what was read, and reads that.
#[cfg(fuzzing)]
pub(crate) fn read_and_write(key: &Path, text: &[u8]) {
    let Ok((file, _)) = File::parse(key, text) else { return };
    let (writers, secret) = (file.writers.iter().flatten().count(), RepositoryKey::from_bytes([8; 32]));
    assert!(file.slots.len() <= MAX_SLOTS && file.retired.len() <= MAX_RETIRED);
    assert!(writers <= MAX_SLOTS && file.retired_writers.len() <= MAX_RETIRED);
    let keyring = match file.cipher {
        Cipher::None => Keyring::plain(file.repository_id),
        _ => file.keyring(&secret, []),
    };
    let text = file.render(&keyring).expect("it has a form");
    let (again, tags) = File::parse(key, &text).expect("it was written just now");
    assert_eq!(again, file);
    tags.check(key, &keyring).expect("it was written with these keys");
    if let (Some(key_id), Some(_)) = (file.key_id, &file.writers) {
        let file = File { retired_writers: Vec::new(), ..file };
        let writer = file.writer_keyring(key_id, &WriterKey::of(&secret)).expect("nothing is to be opened");
        tags.check(key, &writer).expect("writers see what the owner wrote");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_encrypted_repository_has_writers() {
        let (id, tag) = ("11".repeat(16), "00".repeat(32));
        let text = |format: u32, writers: &str| {
            format!(
                r#"{{"format":{format},"repository-id":"{id}","created":0,"cipher":"none","key-id":null,"store":{{"create":true}},"slots":[]{writers},"auth":"{tag}"}}"#
            )
        };
        let parse =
            |text: String| File::parse(&Path::from("pgbr/repo.json"), text.as_bytes()).map(|(file, _)| file);
        assert_eq!(parse(text(1, "")).unwrap().format, FORMAT);
        let error = parse(text(2, &format!(r#","writers":[],"writer-auth":"{tag}""#))).unwrap_err();
        assert!(error.to_string().contains("format and slots for writing do not fit"), "{error}");
    }
}
