//! Repositories of pgBackRest about foreign bytes: everything else in them is right.

use std::collections::BTreeMap;
use std::sync::Arc;

use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockModeEncrypt, KeyIvInit};
use pgbr_pgbackrest::{Compression, Objects, Passphrase};
use sha1::{Digest, Sha1};

/// The label of the one backup.
const LABEL: &str = "20261122-120000F";
/// A checksum that nothing has.
const SUM: &str = "0123456789abcdef0123456789abcdef01234567";
/// What opens everything.
const PASSPHRASE: &str = "fuzz";
const SALT: [u8; 8] = *b"saltsalt";

/// Sections of an info file with format, version and the right checksum about them. Lines that have no sign of equality are left out.
pub(crate) fn seal(sections: &[u8]) -> Vec<u8> {
    let mut text = b"[backrest]\nbackrest-format=5\nbackrest-version=\"2.59\"\n".to_vec();
    let mut json = b"{\"backrest\":{\"backrest-format\":5,\"backrest-version\":\"2.59\"".to_vec();
    let mut section = &b"backrest"[..];
    let mut shown = section;
    for line in sections.split(|byte| *byte == b'\n') {
        if let [b'[', name @ .., b']'] = line {
            section = name;
        } else if let Some((key, value)) = split(line).filter(|_| section != b"backrest") {
            if section == shown {
                json.push(b',');
            } else {
                json.extend_from_slice(b"},\"");
                json.extend_from_slice(section);
                json.extend_from_slice(b"\":{");
                shown = section;
            }
            json.push(b'"');
            json.extend(key.iter().flat_map(|byte| escape(*byte)));
            json.extend_from_slice(b"\":");
            json.extend_from_slice(value);
        } else {
            continue;
        }
        text.extend_from_slice(line);
        text.push(b'\n');
    }
    json.extend_from_slice(b"}}");
    let checksum: String = Sha1::digest(&json).iter().map(|byte| format!("{byte:02x}")).collect();
    text.extend_from_slice(format!("[backrest]\nbackrest-checksum=\"{checksum}\"\n").as_bytes());
    text
}

/// A key and its JSON value.
fn split(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let signs = line.iter().enumerate().filter(|(_, byte)| **byte == b'=').map(|(at, _)| at);
    let json = |at: &usize| serde_json::from_slice::<serde::de::IgnoredAny>(&line[at + 1..]).is_ok();
    signs.into_iter().find(json).map(|at| (&line[..at], &line[at + 1..]))
}

fn escape(byte: u8) -> Vec<u8> {
    match byte {
        b'"' => b"\\\"".to_vec(),
        b'\\' => b"\\\\".to_vec(),
        b'\t' => b"\\t".to_vec(),
        b'\r' => b"\\r".to_vec(),
        0x08 => b"\\b".to_vec(),
        0x0c => b"\\f".to_vec(),
        other => vec![other],
    }
}

/// A repository in which `bytes` are a segment, a file in a bundle and a file of blocks.
pub(crate) fn repository(how: u8, bytes: &[u8]) -> (Arc<dyn Objects>, Option<Passphrase>) {
    let compression = Compression::ALL[usize::from(how) % Compression::ALL.len()];
    let (encrypted, raw) = (how & 0x40 != 0, how & 0x80 != 0);
    let info = |text: String| {
        let cipher =
            if encrypted { format!("[cipher]\ncipher-pass=\"{PASSPHRASE}\"\n") } else { String::new() };
        let text = seal(format!("{text}{cipher}").as_bytes());
        if encrypted { encrypt(&text) } else { text }
    };
    let db =
        "db-catalog-version=202209061\ndb-control-version=1300\ndb-id=1\ndb-system-id=7\ndb-version=\"15\"\n";
    let history = "[db:history]\n1={\"db-catalog-version\":202209061,\"db-control-version\":1300,\"db-system-id\":7,\"db-version\":\"15\"}\n";
    let entry = "{\"backup-info-repo-size\":1,\"backup-info-repo-size-delta\":1,\"backup-info-size\":1,\"backup-info-size-delta\":1,\"backup-timestamp-start\":1,\"backup-timestamp-stop\":2,\"backup-type\":\"full\",\"db-id\":1}";
    let length = bytes.len();
    let map = (length / 2).max(1);
    let objects: BTreeMap<String, Vec<u8>> = BTreeMap::from([
        (
            "archive/main/archive.info".to_owned(),
            info("[db]\ndb-id=1\ndb-system-id=7\ndb-version=\"15\"\n[db:history]\n1={\"db-id\":7,\"db-version\":\"15\"}\n".to_owned()),
        ),
        ("backup/main/backup.info".to_owned(), info(format!("[backup:current]\n{LABEL}={entry}\n[db]\n{db}{history}"))),
        (
            format!("backup/main/{LABEL}/backup.manifest"),
            info(format!(
                "[backup]\nbackup-bundle=true\nbackup-bundle-raw={raw}\nbackup-label=\"{LABEL}\"\nbackup-timestamp-copy-start=1\nbackup-timestamp-start=1\n\
                 backup-timestamp-stop=2\nbackup-type=\"full\"\n[backup:db]\n{db}[backup:option]\noption-compress-type=\"{compression}\"\n\
                 [backup:target]\npg_data={{\"path\":\"/data\",\"type\":\"path\"}}\n[target:file]\n\
                 pg_data/whole={{\"bni\":1,\"checksum\":\"{SUM}\",\"repo-size\":{length},\"size\":65536,\"timestamp\":1}}\n\
                 pg_data/blocks={{\"bi\":1,\"bim\":{map},\"bni\":1,\"checksum\":\"{SUM}\",\"repo-size\":{},\"size\":16384,\"timestamp\":1}}\n\
                 [target:file:default]\ngroup=false\nmode=\"0600\"\nuser=false\n[target:path]\npg_data={{}}\n\
                 [target:path:default]\ngroup=false\nmode=\"0700\"\nuser=false\n",
                length.max(1)
            )),
        ),
        (format!("backup/main/{LABEL}/bundle/1"), bytes.to_vec()),
        (
            format!("archive/main/15-1/0000000100000000/000000010000000000000001-{SUM}{}", compression.extension()),
            bytes.to_vec(),
        ),
    ]);
    (Arc::new(objects), encrypted.then(|| Passphrase::new(PASSPHRASE)))
}

/// As OpenSSL does it with `-md sha1`.
fn encrypt(text: &[u8]) -> Vec<u8> {
    let mut derived = Vec::new();
    while derived.len() < 48 {
        let previous = derived.len().saturating_sub(20);
        let hash = Sha1::new().chain_update(&derived[previous..]).chain_update(PASSPHRASE).chain_update(SALT);
        derived.extend_from_slice(&hash.finalize());
    }
    let cipher = cbc::Encryptor::<aes::Aes256>::new_from_slices(&derived[..32], &derived[32..48])
        .expect("these are their lengths");
    let mut sealed = [&b"Salted__"[..], &SALT, text, &[0; 16]].concat();
    let length = cipher.encrypt_padded::<Pkcs7>(&mut sealed[16..], text.len()).expect("there is room").len();
    sealed.truncate(16 + length);
    sealed
}
