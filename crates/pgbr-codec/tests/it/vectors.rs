//! Objects that the first version wrote: they open for ever, and are still written so.
//!
//! `tests/vectors/vectors.json` says from which keys each file was made and what it must give. A format change makes a new
//! version and new files; the old ones stay. `cargo test -p pgbr-codec --test it -- --ignored write_vectors` writes files
//! that are not there yet.

use std::collections::BTreeMap;
use std::path::PathBuf;

use pgbr_codec::{
    Error, Kdf, KeyId, Keyring, NewLock, ObjectHeader, Passphrase, RepositoryKey, RetiredWriter, Slot,
    WriterKey, WriterSlot,
};
use serde_json::{Value, json};

use crate::objects::{KEY, KEY_ID, Named, REPOSITORY, SEED, all, compressed, hex, keyrings, read};

const OLD_KEY_ID: KeyId = KeyId::from_bytes([0xbb; 16]);
const AUTH_TEXT: &str = r#"{"format":1}"#;

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

fn stored() -> Value {
    let text = std::fs::read_to_string(directory().join("vectors.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn file(name: &str) -> Vec<u8> {
    std::fs::read(directory().join(format!("{name}.bin"))).unwrap()
}

type Objects = BTreeMap<String, Vec<u8>>;

/// Every object that this version writes, by file name; the second part are those whose bytes depend on a compressor.
fn written() -> (Objects, Objects) {
    let named = |make: fn(&Keyring) -> Vec<Named>| -> Objects {
        keyrings()
            .into_iter()
            .flat_map(|(mode, ring)| {
                let made = make(&ring).into_iter();
                // Nothing but content is sealed in another way for writers.
                let own = made.filter(move |(_, object)| {
                    mode != "written" || ObjectHeader::parse(object).unwrap().kind.is_content()
                });
                own.map(move |(name, object)| (format!("{mode}-{name}"), object))
            })
            .collect()
    };
    (named(all), named(compressed))
}

fn kdfs() -> [(Passphrase, Kdf); 2] {
    [
        (
            Passphrase::new("correct horse"),
            Kdf::Argon2id { memory_kib: 64, passes: 2, lanes: 2, salt: [0x55; 16] },
        ),
        (Passphrase::generated(&[0x66; 32]), Kdf::hkdf([0x77; 16])),
    ]
}

fn lock(passphrase: &Passphrase, kdf: Kdf) -> NewLock<'_> {
    NewLock { repository: REPOSITORY, key_id: KEY_ID, passphrase, slot_id: [0x88; 8], kdf, nonce: [0x99; 12] }
}

fn slots() -> [(Passphrase, Slot); 2] {
    kdfs().map(|(passphrase, kdf)| {
        let key = RepositoryKey::from_bytes(KEY);
        let slot = Slot::wrap(&key, lock(&passphrase, kdf)).unwrap();
        (passphrase, slot)
    })
}

fn writer_slots() -> [(Passphrase, WriterSlot); 2] {
    kdfs().map(|(passphrase, kdf)| {
        let key = WriterKey::of(&RepositoryKey::from_bytes(KEY));
        let slot = WriterSlot::wrap_writer(&key, lock(&passphrase, kdf)).unwrap();
        (passphrase, slot)
    })
}

/// What the writers of now have of an earlier key.
fn retired_writer() -> RetiredWriter {
    let (old, now) = (RepositoryKey::from_bytes([0xaa; 32]), RepositoryKey::from_bytes(KEY));
    let (old, now) = (WriterKey::of(&old), WriterKey::of(&now));
    RetiredWriter::wrap((OLD_KEY_ID, &old), REPOSITORY, (KEY_ID, &now), [0xcc; 12]).unwrap()
}

/// What `vectors.json` says, as this version makes it.
fn described() -> Value {
    let (exact, compressed) = written();
    let mut objects = BTreeMap::new();
    for (name, object) in exact.iter().chain(&compressed) {
        let ring = keyring_of(name);
        objects.insert(name.clone(), read(&ring, object).unwrap());
    }
    let slots: Vec<_> = slots()
        .iter()
        .map(|(passphrase, slot)| json!({"passphrase": passphrase.expose(), "slot": slot}))
        .collect();
    let written: Vec<_> = writer_slots()
        .iter()
        .map(|(passphrase, slot)| json!({"passphrase": passphrase.expose(), "slot": slot}))
        .collect();
    let [plain, sealed, _] = keyrings();
    let auth: BTreeMap<_, _> = [plain, sealed.clone()]
        .into_iter()
        .map(|(mode, ring)| (mode, hex(&ring.auth_tag(AUTH_TEXT.as_bytes()).unwrap())))
        .collect();
    let writer_auth = sealed.1.writer_auth_tag(AUTH_TEXT.as_bytes()).unwrap();
    json!({
        "repository-id": REPOSITORY,
        "key-id": KEY_ID,
        "repository-key": hex(&KEY),
        "lane-salt": hex(&SEED),
        "slots": slots,
        "writer-slots": written,
        "retired-writer": {"repository-key": hex(&[0xaa; 32]), "entry": retired_writer()},
        "auth": {"text": AUTH_TEXT, "values": auth, "writer": hex(&writer_auth)},
        "objects": objects,
    })
}

fn keyring_of(name: &str) -> Keyring {
    let found = keyrings().into_iter().find(|(mode, _)| name.starts_with(mode));
    found.unwrap().1
}

#[test]
fn stored_objects_give_what_is_written_down() {
    let stored = stored();
    let objects = stored["objects"].as_object().unwrap();
    assert_eq!(objects.len(), 23);
    for (name, gives) in objects {
        assert_eq!(&read(&keyring_of(name), &file(name)).unwrap(), gives, "{name}");
    }
}

#[test]
fn todays_writer_gives_the_same_bytes() {
    let (exact, _) = written();
    assert_eq!(exact.len(), 15);
    for (name, object) in exact {
        assert!(file(&name) == object, "{name} is written in another way than it was");
    }
}

#[test]
fn todays_description_is_the_stored_one() {
    assert_eq!(described(), stored());
}

#[test]
fn stored_slots_open() {
    let stored = stored();
    for entry in stored["slots"].as_array().unwrap() {
        let slot: Slot = serde_json::from_value(entry["slot"].clone()).unwrap();
        let passphrase = Passphrase::new(entry["passphrase"].as_str().unwrap());
        let key = slot.unwrap_with(&slot.wrapping_key(&passphrase).unwrap(), REPOSITORY, KEY_ID).unwrap();
        assert_eq!(key.as_bytes(), &KEY);
    }
}

#[test]
fn stored_writer_slots_open_what_they_should() {
    let stored = stored();
    let open = |object: &str, ring: &Keyring| read(ring, &file(object));
    for entry in stored["writer-slots"].as_array().unwrap() {
        let slot: WriterSlot = serde_json::from_value(entry["slot"].clone()).unwrap();
        let passphrase = Passphrase::new(entry["passphrase"].as_str().unwrap());
        let key = slot.unwrap_writer(&slot.wrapping_key(&passphrase).unwrap(), REPOSITORY, KEY_ID).unwrap();
        let retired: RetiredWriter =
            serde_json::from_value(stored["retired-writer"]["entry"].clone()).unwrap();
        assert!(retired.unwrap_with(REPOSITORY, (KEY_ID, &key)).is_ok());
        let ring = Keyring::writer(REPOSITORY, KEY_ID, &key, []);
        assert_eq!(open("sealed-manifest", &ring).unwrap(), stored["objects"]["sealed-manifest"]);
        assert_eq!(open("sealed-index-pack", &ring).unwrap(), stored["objects"]["sealed-index-pack"]);
        for content in ["sealed-wal", "sealed-data-pack", "written-wal", "written-data-pack"] {
            assert!(matches!(open(content, &ring), Err(Error::WriteOnly { .. })), "{content}");
        }
    }
}

#[test]
#[ignore = "writes into the source tree: only for vectors of a new version"]
fn write_vectors() {
    let (exact, compressed) = written();
    for (name, object) in exact.into_iter().chain(compressed) {
        let path = directory().join(format!("{name}.bin"));
        if !path.exists() {
            std::fs::write(path, object).unwrap();
        }
    }
    let text = serde_json::to_string_pretty(&described()).unwrap() + "\n";
    std::fs::write(directory().join("vectors.json"), text).unwrap();
}
