//! Words of the format that PostgreSQL and pgbr do not have, or have otherwise.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use data_encoding::HEXLOWER;
use pgbr_manifest::PgVersion;
use sha1::{Digest, Sha1};

/// The SHA-1 of some content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Checksum([u8; 20]);

impl Checksum {
    /// That of no bytes at all.
    pub const EMPTY: Self = Self([
        0xda, 0x39, 0xa3, 0xee, 0x5e, 0x6b, 0x4b, 0x0d, 0x32, 0x55, 0xbf, 0xef, 0x95, 0x60, 0x18, 0x90, 0xaf,
        0xd8, 0x07, 0x09,
    ]);

    /// That of all that a reader gives, which is read into `buffer`.
    ///
    /// # Errors
    /// As the reader fails.
    pub fn of(mut content: impl Read, buffer: &mut [u8]) -> io::Result<Self> {
        let mut hash = Sha1::new();
        loop {
            let amount = content.read(buffer)?;
            match buffer.get(..amount).filter(|bytes| !bytes.is_empty()) {
                Some(bytes) => hash.update(bytes),
                None => return Ok(Self(hash.finalize().into())),
            }
        }
    }

    /// From its bytes.
    pub const fn new(bytes: [u8; 20]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checksum({self})")
    }
}

impl FromStr for Checksum {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 20];
        let decoded = (text.len() == 40).then(|| HEXLOWER.decode_mut(text.as_bytes(), &mut bytes));
        match decoded {
            Some(Ok(20)) => Ok(Self(bytes)),
            _ => Err("is not a SHA-1 of 40 lower-case hexadecimal digits"),
        }
    }
}

/// A version of PostgreSQL as the format writes it: `15`, or `9.6`. Any that pgBackRest ever knew can stand in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DbVersion {
    major: u16,
    /// The second part, of versions before 10.
    minor: Option<u16>,
}

impl DbVersion {
    /// Whether it comes before a version that has no second part.
    pub const fn is_before(self, major: u16) -> bool {
        self.major < major
    }

    /// The version, if it is one that pgbr supports.
    pub fn supported(self) -> Option<PgVersion> {
        match self.minor {
            None => PgVersion::from_major(self.major.into()),
            Some(_) => None,
        }
    }
}

impl From<PgVersion> for DbVersion {
    fn from(version: PgVersion) -> Self {
        Self { major: u16::try_from(version.major()).unwrap_or(u16::MAX), minor: None }
    }
}

impl fmt::Display for DbVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.minor {
            None => write!(f, "{}", self.major),
            Some(minor) => write!(f, "{}.{minor}", self.major),
        }
    }
}

impl FromStr for DbVersion {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = "is not a version of PostgreSQL, as 15 or 9.6";
        let (major, minor) = match text.split_once('.') {
            Some((major, minor)) => (major, Some(minor.parse().map_err(|_| bad)?)),
            None => (text, None),
        };
        let version = Self { major: major.parse().map_err(|_| bad)?, minor };
        // One way to write it, for it stands in the names of objects.
        if version.to_string() == text && version.major > 0 { Ok(version) } else { Err(bad) }
    }
}

/// The number of a cluster in a stanza's history, from 1; an upgrade adds one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HistoryId(u32);

impl HistoryId {
    /// From its number; `None` for 0.
    pub const fn new(number: u32) -> Option<Self> {
        if number == 0 { None } else { Some(Self(number)) }
    }

    /// Its number.
    pub const fn as_u32(self) -> u32 {
        self.0
    }
}

impl fmt::Display for HistoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The directory of a stanza's archive that belongs to one cluster of its history: `15-1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ArchiveId {
    history: HistoryId,
    version: DbVersion,
}

impl ArchiveId {
    /// That of a cluster in the history.
    pub const fn new(version: DbVersion, history: HistoryId) -> Self {
        Self { history, version }
    }

    /// The version of the cluster.
    pub const fn version(self) -> DbVersion {
        self.version
    }

    /// Its number in the history.
    pub const fn history(self) -> HistoryId {
        self.history
    }
}

impl fmt::Display for ArchiveId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.version, self.history)
    }
}

impl FromStr for ArchiveId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = "is not an archive id, as 15-1";
        let (version, history) = text.split_once('-').ok_or(bad)?;
        let history = history.parse().ok().and_then(HistoryId::new).ok_or(bad)?;
        let id = Self::new(version.parse().map_err(|_| bad)?, history);
        if id.to_string() == text { Ok(id) } else { Err(bad) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archive_ids_and_versions_round_trip() {
        for text in ["15-1", "9.6-2", "10-12"] {
            assert_eq!(text.parse::<ArchiveId>().unwrap().to_string(), text);
        }
        for text in ["15", "15-0", "15-01", "015-1", "9.06-1", "-1", "15-", "../x-1", "0-1", "+1-1", "1.-1"] {
            assert!(text.parse::<ArchiveId>().is_err(), "{text}");
        }
        assert_eq!("17".parse::<DbVersion>().unwrap().supported(), Some(PgVersion::V17));
        assert_eq!("9.6".parse::<DbVersion>().unwrap().supported(), None);
        assert!("9.6".parse::<DbVersion>().unwrap() < "10".parse().unwrap());
    }

    #[test]
    fn checksums_round_trip() {
        assert_eq!("da39a3ee5e6b4b0d3255bfef95601890afd80709".parse(), Ok(Checksum::EMPTY));
        assert_eq!(Checksum::of(&b""[..], &mut [0; 2]).unwrap(), Checksum::EMPTY);
        let abc = Checksum::of(&b"abc"[..], &mut [0; 2]).unwrap();
        assert_eq!(abc.to_string(), "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!(Checksum::EMPTY.to_string(), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
        for text in ["", "da39", "DA39A3EE5E6B4B0D3255BFEF95601890AFD80709", &"é".repeat(20)] {
            assert!(text.parse::<Checksum>().is_err(), "{text}");
        }
    }
}
