//! The major versions of PostgreSQL that are supported, and what differs between them.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// A major version of PostgreSQL. Adding one makes the compiler list what has to be decided for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_enums, reason = "every place that knows versions shall be found by the compiler")]
pub enum PgVersion {
    /// PostgreSQL 13.
    V13,
    /// PostgreSQL 14.
    V14,
    /// PostgreSQL 15.
    V15,
    /// PostgreSQL 16.
    V16,
    /// PostgreSQL 17.
    V17,
    /// PostgreSQL 18.
    V18,
}

impl PgVersion {
    /// All supported versions, oldest first.
    pub const ALL: [Self; 6] = [Self::V13, Self::V14, Self::V15, Self::V16, Self::V17, Self::V18];

    /// The number, as in the file `PG_VERSION`.
    pub const fn major(self) -> u32 {
        match self {
            Self::V13 => 13,
            Self::V14 => 14,
            Self::V15 => 15,
            Self::V16 => 16,
            Self::V17 => 17,
            Self::V18 => 18,
        }
    }

    /// The version with this number, if it is supported.
    pub fn from_major(major: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|v| v.major() == major)
    }

    /// `catalog_version_no` of the released version (src/include/catalog/catversion.h).
    pub const fn catalog_version(self) -> u32 {
        match self {
            Self::V13 => 202_007_201,
            Self::V14 => 202_107_181,
            Self::V15 => 202_209_061,
            Self::V16 => 202_307_071,
            Self::V17 => 202_406_281,
            Self::V18 => 202_506_291,
        }
    }

    /// `pg_control_version` (src/include/catalog/pg_control.h); 13 to 16 share one.
    pub const fn control_version(self) -> u32 {
        match self {
            Self::V13 | Self::V14 | Self::V15 | Self::V16 => 1300,
            Self::V17 => 1700,
            Self::V18 => 1800,
        }
    }

    /// `XLOG_PAGE_MAGIC` (src/include/access/xlog_internal.h).
    pub const fn wal_magic(self) -> u16 {
        match self {
            Self::V13 => 0xD106,
            Self::V14 => 0xD10D,
            Self::V15 => 0xD110,
            Self::V16 => 0xD113,
            Self::V17 => 0xD116,
            Self::V18 => 0xD118,
        }
    }

    /// The name of the directory that a tablespace location has for this version: `PG_15_202209061`.
    pub fn tablespace_directory(self) -> String {
        format!("PG_{}_{}", self.major(), self.catalog_version())
    }
}

impl fmt::Display for PgVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.major().fmt(f)
    }
}

impl FromStr for PgVersion {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let major = text.parse().ok().filter(|m: &u32| m.to_string() == text);
        major
            .and_then(Self::from_major)
            .ok_or_else(|| Error::invalid("PostgreSQL version", text, "13 to 18 are supported"))
    }
}

crate::text_serde!(PgVersion);
