//! Objects that the first version wrote: they open for ever, and are still written so.
//!
//! `tests/vectors/vectors.json` says from which keys each file was made and what it must give. A format change makes a new
//! version and new files; the old ones stay. `cargo test -p pgbr-codec --test it -- --ignored write_vectors` writes files
//! that are not there yet.

use std::collections::BTreeMap;
use std::path::PathBuf;

use pgbr_codec::{Kdf, Keyring, Passphrase, RepositoryKey, Slot};
use serde_json::{Value, json};

use crate::objects::{KEY, KEY_ID, Named, REPOSITORY, SALT, all, compressed, hex, keyrings, read};

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
                make(&ring).into_iter().map(move |(name, object)| (format!("{mode}-{name}"), object))
            })
            .collect()
    };
    (named(all), named(compressed))
}

fn slots() -> [(Passphrase, Slot); 2] {
    [
        (
            Passphrase::new("correct horse"),
            Kdf::Argon2id { memory_kib: 64, passes: 2, lanes: 2, salt: [0x55; 16] },
        ),
        (Passphrase::generated(&[0x66; 32]), Kdf::hkdf([0x77; 16])),
    ]
    .map(|(passphrase, kdf)| {
        let key = RepositoryKey::from_bytes(KEY);
        let slot = Slot::wrap(&key, REPOSITORY, KEY_ID, &passphrase, [0x88; 8], kdf, [0x99; 12]).unwrap();
        (passphrase, slot)
    })
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
    let auth: BTreeMap<_, _> =
        keyrings().iter().map(|(mode, ring)| (*mode, hex(&ring.auth_tag(AUTH_TEXT.as_bytes())))).collect();
    json!({
        "repository-id": REPOSITORY,
        "key-id": KEY_ID,
        "repository-key": hex(&KEY),
        "lane-salt": hex(SALT.as_bytes()),
        "slots": slots,
        "auth": {"text": AUTH_TEXT, "values": auth},
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
    assert_eq!(objects.len(), 18);
    for (name, gives) in objects {
        assert_eq!(&read(&keyring_of(name), &file(name)).unwrap(), gives, "{name}");
    }
}

#[test]
fn todays_writer_gives_the_same_bytes() {
    let (exact, _) = written();
    assert_eq!(exact.len(), 12);
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
