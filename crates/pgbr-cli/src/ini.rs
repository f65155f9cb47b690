//! The syntax of config files: sections, `key=value`, `#` comment lines; a repeated key is a list.
//!
//! Values may be secrets, so they are wiped when dropped, kept out of `Debug` and never quoted in errors.
//!
//! Files are bytes: what is not UTF-8 harms nobody who does not need it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// What config files hold.
#[derive(Debug, Default)]
pub struct Ini {
    sections: Vec<Section>,
}

#[derive(Debug)]
struct Section {
    name: String,
    /// That the name is not UTF-8: nobody finds the section by it.
    fault: Option<IniError>,
    entries: Vec<Entry>,
}

/// A key of a section with its values in the order they were read.
pub struct Entry {
    /// The key as written.
    pub key: String,
    /// One value, or several where the key is repeated. Never empty.
    pub values: Vec<Zeroizing<String>>,
    /// That one of them is not UTF-8, and stands here as something else.
    pub fault: Option<IniError>,
}

/// What is wrong in a config file, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem} at line {line}{}", of_file(file.as_deref()))]
pub struct IniError {
    /// What is wrong.
    pub problem: &'static str,
    /// Number of the line, from 1.
    pub line: usize,
    /// The file, where it is known.
    pub file: Option<PathBuf>,
}

fn of_file(file: Option<&Path>) -> String {
    file.map_or_else(String::new, |file| format!(" of configuration file '{}'", file.display()))
}

impl Ini {
    /// Reads the text of one file, which errors name.
    ///
    /// # Errors
    /// A section that does not end with `]` or has no name, a key outside of a section, a line without `=`, an empty key.
    pub fn parse(text: impl AsRef<[u8]>, file: Option<&Path>) -> Result<Self, IniError> {
        let mut ini = Self::default();
        let mut section = None;
        for (place, bytes) in text.as_ref().split(|byte| *byte == b'\n').enumerate() {
            let error = |problem| IniError { problem, line: place + 1, file: file.map(Path::to_owned) };
            let fail = |problem| Err(error(problem));
            // A key that is not UTF-8 is none that is known, and is told of as such.
            let is_text = std::str::from_utf8(bytes).is_ok();
            let text = Zeroizing::new(String::from_utf8_lossy(bytes).into_owned());
            let line = text.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(rest) = line.strip_prefix('[') {
                match rest.strip_suffix(']') {
                    None => return fail("ini section should end with ]"),
                    Some("") => return fail("invalid empty section"),
                    Some(name) if is_text => section = Some(ini.place_of(name)),
                    Some(name) => {
                        section = Some(ini.new_place(name, Some(error("section is not valid UTF-8"))));
                    }
                }
                continue;
            }
            let Some(section) = section else {
                return fail("key/value found outside of section");
            };
            match line.split_once('=') {
                None => return fail("missing '=' in key/value"),
                Some((key, _)) if key.trim().is_empty() => return fail("key is zero-length"),
                Some((key, value)) => {
                    let fault = (!is_text).then(|| error("value is not valid UTF-8"));
                    ini.add(section, key.trim(), Zeroizing::new(value.trim().to_owned()), fault);
                }
            }
        }
        Ok(ini)
    }

    /// Adds what another file holds, as if its text followed.
    pub fn append(&mut self, other: Self) {
        for section in other.sections {
            let place = match section.fault {
                None => self.place_of(&section.name),
                fault => self.new_place(&section.name, fault),
            };
            for entry in section.entries {
                for value in entry.values {
                    self.add(place, &entry.key, value, entry.fault.clone());
                }
            }
        }
    }

    /// The keys of a section in the order they were first read; none where there is no such section.
    pub fn section(&self, name: &str) -> &[Entry] {
        self.place(name).and_then(|place| self.sections.get(place)).map_or(&[], |section| &section.entries)
    }

    /// Stanzas whose name is not UTF-8 and that have a section with anything in it, by what of the name can be read, with where it stands.
    pub fn faulty_stanzas(&self) -> BTreeMap<&str, &IniError> {
        let filled = self.sections.iter().filter(|section| !section.entries.is_empty());
        let faulty = filled.filter_map(|section| {
            Some((section.name.split(':').next().unwrap_or_default(), section.fault.as_ref()?))
        });
        // The first of them.
        faulty.rev().collect()
    }

    /// Names of the stanzas that have a section with anything in it, sorted, each once.
    pub fn stanzas(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self
            .sections
            .iter()
            .filter(|section| section.fault.is_none() && !section.entries.is_empty())
            .map(|section| section.name.split(':').next().unwrap_or_default())
            .filter(|name| *name != "global")
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Every key of every section.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.sections.iter().flat_map(|section| &section.entries).map(|entry| entry.key.as_str())
    }

    fn place(&self, name: &str) -> Option<usize> {
        self.sections.iter().position(|section| section.name == name && section.fault.is_none())
    }

    fn place_of(&mut self, name: &str) -> usize {
        self.place(name).unwrap_or_else(|| self.new_place(name, None))
    }

    fn new_place(&mut self, name: &str, fault: Option<IniError>) -> usize {
        self.sections.push(Section { name: name.to_owned(), fault, entries: Vec::new() });
        self.sections.len() - 1
    }

    fn add(&mut self, section: usize, key: &str, value: Zeroizing<String>, fault: Option<IniError>) {
        let Some(section) = self.sections.get_mut(section) else { return };
        match section.entries.iter_mut().find(|entry| entry.key == key) {
            Some(entry) => {
                entry.values.push(value);
                entry.fault = entry.fault.take().or(fault);
            }
            None => section.entries.push(Entry { key: key.to_owned(), values: vec![value], fault }),
        }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("key", &self.key).field("values", &self.values.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values<'a>(ini: &'a Ini, section: &str, key: &str) -> Vec<&'a str> {
        let entry = ini.section(section).iter().find(|entry| entry.key == key);
        entry.map_or_else(Vec::new, |entry| entry.values.iter().map(|value| value.as_str()).collect())
    }

    #[test]
    fn sections_keys_lists_and_comments() {
        let text = "# top\n[global]\n  repo1-path = /repo \n#x=y\nk=a=b\nlist=1\n\n[demo:backup]\r\nstart-fast=y\r\n[global]\nlist=2\nempty=\n";
        let ini = Ini::parse(text, None).unwrap();
        assert_eq!(values(&ini, "global", "repo1-path"), ["/repo"]);
        assert_eq!(values(&ini, "global", "k"), ["a=b"]);
        assert_eq!(values(&ini, "global", "list"), ["1", "2"]);
        assert_eq!(values(&ini, "global", "empty"), [""]);
        assert_eq!(values(&ini, "demo:backup", "start-fast"), ["y"]);
        assert!(ini.section("demo").is_empty());
        assert_eq!(ini.stanzas(), ["demo"]);
    }

    #[test]
    fn files_are_joined() {
        let mut ini = Ini::parse("[global]\na=1\n[b]\nx=1\n", None).unwrap();
        ini.append(Ini::parse("[global]\na=2\nb=3\n[a:info]\ny=1\n", None).unwrap());
        assert_eq!(values(&ini, "global", "a"), ["1", "2"]);
        assert_eq!(values(&ini, "global", "b"), ["3"]);
        assert_eq!(ini.stanzas(), ["a", "b"]);
    }

    #[test]
    fn every_error_names_its_line() {
        for (text, message) in [
            ("\n[global\n", "ini section should end with ] at line 2"),
            ("[]", "invalid empty section at line 1"),
            ("a=b\n", "key/value found outside of section at line 1"),
            ("[s]\nsecret words\n", "missing '=' in key/value at line 2"),
            ("[s]\n\n =x\n", "key is zero-length at line 3"),
        ] {
            assert_eq!(Ini::parse(text, None).unwrap_err().to_string(), message);
            let named = Ini::parse(text, Some(Path::new("/c"))).unwrap_err().to_string();
            assert_eq!(named, format!("{message} of configuration file '/c'"));
        }
    }

    #[test]
    fn what_is_not_utf8_is_known_where_it_stands() {
        let text = b"# \xe9\n[s]\na=1\nb=\xe9\nc\xe9=2\n[\xe9]\nd=3\n[s]\nb=4\n[s\xe9]\nd=5";
        let mut ini = Ini::parse(text, Some(Path::new("/c"))).unwrap();
        ini.append(Ini::parse("[\u{fffd}]\nd=6\n", None).unwrap());
        assert_eq!(values(&ini, "s", "a"), ["1"]);
        assert_eq!(values(&ini, "s", "b").len(), 2);
        let faults: Vec<_> = ini.section("s").iter().filter_map(|entry| entry.fault.as_ref()).collect();
        let faults: Vec<_> = faults.iter().map(|fault| fault.to_string()).collect();
        let of = "of configuration file '/c'";
        assert_eq!(faults, [4, 5].map(|line| format!("value is not valid UTF-8 at line {line} {of}")));
        assert_eq!(ini.stanzas(), ["s", "\u{fffd}"]);
        assert_eq!(values(&ini, "\u{fffd}", "d"), ["6"], "a name that is none is not this one");
    }

    #[test]
    fn debug_shows_no_values() {
        let ini = Ini::parse("[global]\nrepo1-cipher-pass=hidden\n", None).unwrap();
        let text = format!("{ini:?}");
        assert!(text.contains("repo1-cipher-pass") && !text.contains("hidden"), "{text}");
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "[\\[\\]a-z:=# \n\r\t\u{e9}]*", cut in any::<bool>()) {
            // Half of a letter is left where the other half of its bytes goes.
            let bytes: Vec<u8> = text.bytes().filter(|byte| !cut || *byte != 0xc3).collect();
            if let Ok(ini) = Ini::parse(&bytes, None) {
                prop_assert!(ini.keys().all(|key| !key.is_empty()));
            }
        }
    }
}
