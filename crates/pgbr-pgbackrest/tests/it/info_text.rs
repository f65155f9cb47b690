//! Info files as tests write them: the checksum is computed by the description of the format, not by the reader's code.

use sha1::{Digest, Sha1};

/// Puts format, version and checksum about sections.
pub(crate) fn seal(sections: &str) -> String {
    seal_as(5, sections)
}

/// The same in another format.
pub(crate) fn seal_as(format: u32, sections: &str) -> String {
    let text = format!("[backrest]\nbackrest-format={format}\nbackrest-version=\"2.59\"\n\n{sections}");
    let checksum = checksum(&text);
    format!("{text}\n[backrest]\nbackrest-checksum=\"{checksum}\"\n")
}

/// Takes the checksum off and puts the right one on: who can write to a repository can do that.
pub(crate) fn reseal(text: &str) -> String {
    let body = text.rsplit_once("\n[backrest]").expect("an info file ends with its checksum").0;
    format!("{body}\n[backrest]\nbackrest-checksum=\"{}\"\n", checksum(body))
}

/// The same for one that is written in Latin-1, as names of databases without an encoding can be.
pub(crate) fn reseal_latin1(text: &str) -> Vec<u8> {
    let latin1 = |text: &str| -> Vec<u8> {
        text.chars().map(|c| u8::try_from(c).expect("a character of Latin-1")).collect()
    };
    let body = text.rsplit_once("\n[backrest]").expect("an info file ends with its checksum").0;
    let checksum = data_encoding::HEXLOWER.encode(&Sha1::digest(latin1(&json_of(body))));
    latin1(&format!("{body}\n[backrest]\nbackrest-checksum=\"{checksum}\"\n"))
}

fn checksum(text: &str) -> String {
    data_encoding::HEXLOWER.encode(&Sha1::digest(json_of(text).as_bytes()))
}

/// What the checksum is of.
fn json_of(text: &str) -> String {
    let mut json = String::new();
    let mut section = None;
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            json.push_str(if section.is_none() { "{" } else { "}," });
            json.push_str(&format!("\"{name}\":{{"));
            section = Some(name);
            continue;
        }
        // Keys of these tests hold no sign of equality.
        let (key, value) = line.split_once('=').unwrap();
        let comma = if json.ends_with('{') { "" } else { "," };
        json.push_str(&format!("{comma}\"{}\":{value}", key.replace('\\', "\\\\").replace('"', "\\\"")));
    }
    json.push_str("}}");
    json
}
