//! The syntax of config files: sections, `key=value`, `#` comment lines; a repeated key is a list.
//!
//! Values may be secrets, so they are wiped when dropped, kept out of `Debug` and never quoted in errors.

use std::fmt;

use zeroize::Zeroizing;

/// What config files hold.
#[derive(Debug, Default)]
pub struct Ini {
    sections: Vec<Section>,
}

#[derive(Debug)]
struct Section {
    name: String,
    entries: Vec<Entry>,
}

/// A key of a section with its values in the order they were read.
pub struct Entry {
    /// The key as written.
    pub key: String,
    /// One value, or several where the key is repeated. Never empty.
    pub values: Vec<Zeroizing<String>>,
}

/// What is wrong in a config file, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem} at line {line}")]
pub struct IniError {
    /// What is wrong.
    pub problem: &'static str,
    /// Number of the line, from 1.
    pub line: usize,
}

impl Ini {
    /// Reads the text of one file.
    ///
    /// # Errors
    /// A section that does not end with `]` or has no name, a key outside of a section, a line without `=`, an empty key.
    pub fn parse(text: &str) -> Result<Self, IniError> {
        let mut ini = Self::default();
        let mut section = None;
        for (place, line) in text.lines().enumerate() {
            let fail = |problem| Err(IniError { problem, line: place + 1 });
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(rest) = line.strip_prefix('[') {
                match rest.strip_suffix(']') {
                    None => return fail("ini section should end with ]"),
                    Some("") => return fail("invalid empty section"),
                    Some(name) => section = Some(ini.place_of(name)),
                }
                continue;
            }
            let Some(section) = section else {
                return fail("key/value found outside of section");
            };
            match line.split_once('=') {
                None => return fail("missing '=' in key/value"),
                Some((key, _)) if key.trim().is_empty() => return fail("key is zero-length"),
                Some((key, value)) => ini.add(section, key.trim(), Zeroizing::new(value.trim().to_owned())),
            }
        }
        Ok(ini)
    }

    /// Adds what another file holds, as if its text followed.
    pub fn append(&mut self, other: Self) {
        for section in other.sections {
            let place = self.place_of(&section.name);
            for entry in section.entries {
                for value in entry.values {
                    self.add(place, &entry.key, value);
                }
            }
        }
    }

    /// The keys of a section in the order they were first read; none where there is no such section.
    pub fn section(&self, name: &str) -> &[Entry] {
        self.sections.iter().find(|section| section.name == name).map_or(&[], |section| &section.entries)
    }

    /// Names of the stanzas that have a section, sorted, each once.
    pub fn stanzas(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self
            .sections
            .iter()
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

    fn place_of(&mut self, name: &str) -> usize {
        self.sections.iter().position(|section| section.name == name).unwrap_or_else(|| {
            self.sections.push(Section { name: name.to_owned(), entries: Vec::new() });
            self.sections.len() - 1
        })
    }

    fn add(&mut self, section: usize, key: &str, value: Zeroizing<String>) {
        let Some(section) = self.sections.get_mut(section) else { return };
        match section.entries.iter_mut().find(|entry| entry.key == key) {
            Some(entry) => entry.values.push(value),
            None => section.entries.push(Entry { key: key.to_owned(), values: vec![value] }),
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
        let ini = Ini::parse(text).unwrap();
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
        let mut ini = Ini::parse("[global]\na=1\n[b]\nx=1\n").unwrap();
        ini.append(Ini::parse("[global]\na=2\nb=3\n[a:info]\ny=1\n").unwrap());
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
            assert_eq!(Ini::parse(text).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn debug_shows_no_values() {
        let ini = Ini::parse("[global]\nrepo1-cipher-pass=hidden\n").unwrap();
        let text = format!("{ini:?}");
        assert!(text.contains("repo1-cipher-pass") && !text.contains("hidden"), "{text}");
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "[\\[\\]a-z:=# \n\r\t\u{e9}]*") {
            if let Ok(ini) = Ini::parse(&text) {
                prop_assert!(ini.keys().all(|key| !key.is_empty()));
            }
        }
    }
}
