//! Names that tell clusters, stanzas and archives apart.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::version::PgVersion;

/// The number that `initdb` gives a cluster; copies of a cluster share it (`pg_control.system_identifier`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct SystemId(u64);

impl SystemId {
    /// From the number in the control file.
    pub const fn new(id: u64) -> Self {
        Self(id)
    }

    /// The number in the control file.
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name under which one cluster, over its upgrades, is kept in a repository.
///
/// It becomes part of object and file names, so it is made of letters, digits, `-`, `_` and `.` alone, does not begin with `.` or
/// `-`, and has at most 128 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StanzaName(String);

impl StanzaName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for StanzaName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |reason| Err(Error::invalid("stanza name", text, reason));
        if text.is_empty() || text.len() > 128 {
            return bad("it has 1 to 128 characters");
        }
        if text.starts_with(['.', '-']) {
            return bad("it does not begin with '.' or '-'");
        }
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
            return bad("it is made of letters, digits, '-', '_' and '.'");
        }
        if text == "repo.json" || text == "repo.json.copy" {
            return bad("this name is taken by the repository itself");
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for StanzaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

crate::text_serde!(StanzaName);

/// The part of an archive that belongs to one cluster of a stanza: `<major version>-<number>`, as `15-1`.
///
/// The number is the entry in the stanza's history, from 1; it grows at every stanza-upgrade, so segments of an upgraded cluster,
/// whose names start over, never meet those of the old one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ArchiveId {
    number: u32,
    version: PgVersion,
}

impl ArchiveId {
    /// The archive of history entry `number` (from 1) with this major version.
    pub const fn new(version: PgVersion, number: u32) -> Self {
        Self { number, version }
    }

    /// The number of the stanza's history entry, from 1.
    pub const fn number(self) -> u32 {
        self.number
    }

    /// The major version of the cluster.
    pub const fn version(self) -> PgVersion {
        self.version
    }
}

impl fmt::Display for ArchiveId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.version, self.number)
    }
}

impl FromStr for ArchiveId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::invalid("archive id", text, "it has the form VERSION-NUMBER, as 15-1");
        let (version, number) = text.split_once('-').ok_or_else(bad)?;
        let number: u32 = number.parse().map_err(|_| bad())?;
        let id = Self::new(version.parse()?, number);
        if number == 0 || id.to_string() != text {
            return Err(bad());
        }
        Ok(id)
    }
}

crate::text_serde!(ArchiveId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stanza_names_cannot_leave_their_place() {
        for good in ["main", "a", "db-1.x_Y"] {
            assert_eq!(good.parse::<StanzaName>().unwrap().to_string(), good);
        }
        for bad in ["", ".", "..", "a/b", "-x", "a b", "ä", "repo.json", &"x".repeat(129)] {
            assert!(bad.parse::<StanzaName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn archive_ids_round_trip() {
        assert_eq!("15-1".parse::<ArchiveId>().unwrap(), ArchiveId::new(PgVersion::V15, 1));
        for bad in ["15", "15-", "15-0", "15-01", "99-1", "-1", "15-1-1"] {
            assert!(bad.parse::<ArchiveId>().is_err(), "{bad}");
        }
    }
}
