//! The syntax of info files: sections of keys whose values are JSON, under a checksum.
//!
//! A file is read line by line and never held as a whole: the manifest of a large cluster has a million lines.
//!
//! ```text
//! [backrest]
//! backrest-format=5
//! backrest-version="2.59"
//!
//! [db]
//! db-id=1
//!
//! [backrest]
//! backrest-checksum="0123..."
//! ```

use std::collections::BTreeMap;
use std::io::BufRead;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use sha1::{Digest, Sha1};
use zeroize::Zeroizing;

use crate::cipher::Passphrase;
use crate::error::Fault;
use crate::names::Checksum;

/// The one format that is known.
const FORMAT: u64 = 5;
/// The longest line: far above the list of backups that the newest of a long chain refers to.
const MAX_LINE: usize = 4 << 20;
/// The most bytes of single facts: there are some dozen, of which the list of backups that are referred to is the longest. As values they take
/// some twenty times as much.
const MAX_FACTS: usize = 8 << 20;
/// What every info file begins with.
pub(crate) const FIRST_LINE: &[u8] = b"[backrest]";

/// One key of a file, in file order.
#[derive(Debug)]
pub(crate) struct Pair<'a> {
    pub(crate) section: &'a str,
    /// Bytes, for some keys are names of files.
    pub(crate) key: &'a [u8],
    /// JSON, which is valid once it was parsed. Names that a cluster without an encoding has need not be UTF-8.
    pub(crate) value: &'a [u8],
}

impl<'a> Pair<'a> {
    /// The value as what it has to be.
    pub(crate) fn parse<T: Deserialize<'a>>(&self) -> Result<T, Fault> {
        serde_json::from_slice(self.value)
            .map_err(|error| self.invalid(format!("does not have its form: {error}")))
    }

    /// The key as text.
    pub(crate) fn key_text(&self) -> Result<&'a str, Fault> {
        std::str::from_utf8(self.key).map_err(|_| self.invalid("has a name that is not UTF-8"))
    }

    pub(crate) fn invalid(&self, reason: impl Into<String>) -> Fault {
        let key: String = String::from_utf8_lossy(self.key).chars().take(200).collect();
        Fault::invalid(format!("[{}] {key}", self.section), reason)
    }
}

/// Reads a file. What it gives is to be trusted once the end was reached and the checksum was right.
pub(crate) struct InfoReader<R> {
    input: R,
    /// Bytes that may still be read.
    left: u64,
    max: u64,
    line: Zeroizing<Vec<u8>>,
    section: String,
    begun: bool,
    checksum: RunningChecksum,
    format: Option<u64>,
    version: Option<String>,
    expected: Option<Checksum>,
}

impl<R: BufRead> InfoReader<R> {
    /// A reader of a file of at most `max` bytes.
    pub(crate) fn new(input: R, max: u64) -> Self {
        Self {
            input,
            left: max,
            max,
            line: Zeroizing::new(Vec::new()),
            section: String::new(),
            begun: false,
            checksum: RunningChecksum::default(),
            format: None,
            version: None,
            expected: None,
        }
    }

    /// The next key; `None` at the end of a file that is whole. Those of `[backrest]` are not among them.
    pub(crate) fn next(&mut self) -> Result<Option<Pair<'_>>, Fault> {
        let equals = loop {
            if !self.read_line()? {
                return self.finish().map(|()| None);
            }
            if self.line.is_empty() {
                continue;
            }
            if self.line.starts_with(b"[") && self.line.ends_with(b"]") {
                self.begin_section()?;
                continue;
            }
            let equals = self.find_equals()?;
            if self.section != "backrest" {
                break equals;
            }
            self.take_own(equals)?;
        };
        let pair = pair_of(&self.section, &self.line, equals);
        self.checksum.add(&pair);
        Ok(Some(pair))
    }

    /// The version of pgBackRest that wrote it.
    pub(crate) fn version(&self) -> &str {
        self.version.as_deref().unwrap_or_default()
    }

    /// Reads a line without its end; false where there is none.
    fn read_line(&mut self) -> Result<bool, Fault> {
        self.line.clear();
        loop {
            let chunk = self.input.fill_buf()?;
            let (piece, found) = match chunk.iter().position(|byte| *byte == b'\n') {
                Some(at) => (&chunk[..at], true),
                None => (chunk, false),
            };
            let taken = piece.len() + usize::from(found);
            if self.line.len() + piece.len() > MAX_LINE {
                return Err(Fault::invalid("a line", format!("has more than {MAX_LINE} bytes")));
            }
            self.line.extend_from_slice(piece);
            // Told at once, whatever comes then: this is how a wrong passphrase shows.
            if !self.begun && !FIRST_LINE.starts_with(&self.line) {
                return Err(Fault::NotInfo);
            }
            self.left = self.left.checked_sub(taken as u64).ok_or(Fault::TooLarge(self.max))?;
            self.input.consume(taken);
            if !found && taken > 0 {
                continue;
            }
            if !self.begun && *self.line != FIRST_LINE {
                return Err(Fault::NotInfo);
            }
            self.begun = true;
            if self.line.contains(&0) {
                return Err(Fault::invalid("a line", "holds a NUL byte"));
            }
            return Ok(found || !self.line.is_empty());
        }
    }

    fn begin_section(&mut self) -> Result<(), Fault> {
        let name = std::str::from_utf8(&self.line[1..self.line.len() - 1]);
        let name = name.map_err(|_| Fault::invalid("a section", "has a name that is not UTF-8"))?;
        name.clone_into(&mut self.section);
        if self.section != "backrest" && self.format.is_none() {
            return Err(Fault::invalid("[backrest] backrest-format", "is missing"));
        }
        Ok(())
    }

    /// Where key and value of the line are divided: a key may hold the sign as well, a value is JSON. Where there is one sign, whoever takes
    /// the value sees whether it is JSON, so that it is parsed once.
    fn find_equals(&self) -> Result<usize, Fault> {
        let mut signs = self.line.iter().enumerate().filter(|(_, byte)| **byte == b'=').map(|(at, _)| at);
        let found = match (signs.next(), signs.next()) {
            (Some(only), None) => Some(only),
            (Some(first), Some(second)) => {
                // An attempt ends at the next sign at the latest, unless that stands in a string: no line takes long.
                let valid = |at: &usize| serde_json::from_slice::<IgnoredAny>(&self.line[at + 1..]).is_ok();
                [first, second].into_iter().chain(signs).find(valid)
            }
            (None, _) => None,
        };
        found.ok_or_else(|| {
            let shown: String = String::from_utf8_lossy(&self.line).chars().take(60).collect();
            Fault::invalid(format!("[{}] '{shown}'", self.section), "is not a key with a JSON value")
        })
    }

    /// A key of `[backrest]`, that is about the file itself.
    fn take_own(&mut self, equals: usize) -> Result<(), Fault> {
        let pair = pair_of(&self.section, &self.line, equals);
        match pair.key {
            b"backrest-checksum" => {
                let text: String = pair.parse()?;
                self.expected = Some(text.parse().map_err(|reason: &str| pair.invalid(reason))?);
                return Ok(());
            }
            b"backrest-format" => match pair.parse()? {
                FORMAT => self.format = Some(FORMAT),
                other => return Err(Fault::Format(other)),
            },
            b"backrest-version" => self.version = Some(pair.parse()?),
            _ => drop(pair.parse::<IgnoredAny>()?),
        }
        self.checksum.add(&pair);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Fault> {
        let found = std::mem::take(&mut self.checksum).finish();
        match self.expected {
            _ if self.format.is_none() => Err(Fault::invalid("[backrest] backrest-format", "is missing")),
            None => Err(Fault::invalid("[backrest] backrest-checksum", "is missing: the file is not whole")),
            Some(expected) if expected == found => Ok(()),
            Some(expected) => {
                Err(Fault::Checksum { expected: expected.to_string(), found: found.to_string() })
            }
        }
    }
}

fn pair_of<'a>(section: &'a str, line: &'a [u8], equals: usize) -> Pair<'a> {
    Pair { section, key: &line[..equals], value: &line[equals + 1..] }
}

/// The checksum of a file: SHA-1 of its keys and raw values as one JSON object of objects.
#[derive(Default)]
struct RunningChecksum {
    hash: Sha1,
    section: Option<String>,
}

impl RunningChecksum {
    fn add(&mut self, pair: &Pair<'_>) {
        if self.section.as_deref() == Some(pair.section) {
            self.hash.update(b",");
        } else {
            self.hash.update(if self.section.is_none() { "{\"" } else { "},\"" });
            self.hash.update(pair.section);
            self.hash.update(b"\":{");
            self.section = Some(pair.section.to_owned());
        }
        self.hash.update(b"\"");
        self.add_escaped(pair.key);
        self.hash.update(b"\":");
        self.hash.update(pair.value);
    }

    fn add_escaped(&mut self, mut text: &[u8]) {
        let escape = |byte: u8| {
            Some(match byte {
                b'"' => "\\\"",
                b'\\' => "\\\\",
                b'\t' => "\\t",
                b'\r' => "\\r",
                0x08 => "\\b",
                0x0c => "\\f",
                _ => return None,
            })
        };
        while let Some((at, escaped)) =
            text.iter().enumerate().find_map(|(at, byte)| escape(*byte).map(|escaped| (at, escaped)))
        {
            self.hash.update(&text[..at]);
            self.hash.update(escaped);
            text = &text[at + 1..];
        }
        self.hash.update(text);
    }

    fn finish(mut self) -> Checksum {
        self.hash.update(if self.section.is_none() { "{}" } else { "}}" });
        Checksum::new(self.hash.finalize().into())
    }
}

/// The sections of a file that hold single facts.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    values: BTreeMap<(String, String), Value>,
    bytes: usize,
    passphrase: Option<Passphrase>,
}

impl Facts {
    /// Keeps a key.
    pub(crate) fn add(&mut self, pair: &Pair<'_>) -> Result<(), Fault> {
        if (pair.section, pair.key) == ("cipher", b"cipher-pass") {
            self.passphrase = Some(Passphrase::new(pair.parse::<String>()?));
            return Ok(());
        }
        self.bytes = self.bytes.saturating_add(pair.section.len() + pair.key.len() + pair.value.len());
        if self.bytes > MAX_FACTS {
            return Err(pair.invalid(format!("is behind more than {MAX_FACTS} bytes of others of its kind")));
        }
        let key = (pair.section.to_owned(), pair.key_text()?.to_owned());
        match self.values.insert(key, pair.parse()?) {
            Some(_) => Err(pair.invalid("is there twice")),
            None => Ok(()),
        }
    }

    /// The passphrase for what the file leads to.
    pub(crate) fn take_passphrase(&mut self) -> Option<Passphrase> {
        self.passphrase.take()
    }

    fn get(&self, section: &str, key: &str) -> Option<&Value> {
        self.values.get(&(section.to_owned(), key.to_owned())).filter(|value| !value.is_null())
    }

    fn typed<'a, T>(
        &'a self,
        (section, key): (&str, &str),
        form: &str,
        get: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Fault> {
        let Some(value) = self.get(section, key) else { return Ok(None) };
        let fault = || Fault::invalid(format!("[{section}] {key}"), format!("is not {form}"));
        get(value).map(Some).ok_or_else(fault)
    }

    /// Text; null counts as absent, here and below.
    pub(crate) fn text(&self, section: &str, key: &str) -> Result<Option<&str>, Fault> {
        self.typed((section, key), "text", Value::as_str)
    }

    /// A number.
    pub(crate) fn number(&self, section: &str, key: &str) -> Result<Option<u64>, Fault> {
        self.typed((section, key), "a number", Value::as_u64)
    }

    /// True or false.
    pub(crate) fn flag(&self, section: &str, key: &str) -> Result<Option<bool>, Fault> {
        self.typed((section, key), "true or false", Value::as_bool)
    }

    /// Pairs of text.
    pub(crate) fn table(&self, section: &str, key: &str) -> Result<BTreeMap<String, String>, Fault> {
        let get = |value: &Value| BTreeMap::deserialize(value).ok();
        Ok(self.typed((section, key), "a table of texts", get)?.unwrap_or_default())
    }

    /// Text of a form.
    pub(crate) fn word<T: FromStr<Err: ToString>>(
        &self,
        section: &str,
        key: &str,
    ) -> Result<Option<T>, Fault> {
        self.text(section, key)?.map(|text| parse_word(&format!("[{section}] {key}"), text)).transpose()
    }
}

/// Parses text that has a form of its own.
pub(crate) fn parse_word<T: FromStr<Err: ToString>>(what: &str, text: &str) -> Result<T, Fault> {
    text.parse().map_err(|error: T::Err| Fault::invalid(what, error.to_string()))
}

/// What has to be there.
pub(crate) fn required<T>(found: Option<T>, section: &str, key: &str) -> Result<T, Fault> {
    found.ok_or_else(|| Fault::invalid(format!("[{section}] {key}"), "is missing"))
}
