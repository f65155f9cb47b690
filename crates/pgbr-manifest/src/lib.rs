//! What a PostgreSQL backup is, in words, bytes and decisions: no I/O, no clock, no randomness.
//!
//! - The vocabulary: [`Lsn`], [`TimelineId`], [`WalSegmentName`], [`BackupLabel`], [`RelPath`] and their like are parsed once and are
//!   right from then on.
//! - The index: which files and grains of 8 KiB a backup holds and what each hashes to ([`index`]), as bounded, streamable nodes.
//! - The manifest: the root of a backup ([`manifest`]).
//! - Chains: what the layers of a backup and its parents say together ([`merge`]), and what a new one has to add ([`diff`]).
//! - Plans: pure decisions, such as which backup a restore begins with ([`plan_restore`]), and what expires ([`retention`]).
//!
//! The bytes are described in `docs/format.md`. This crate knows nothing of compression, encryption or storage.
//!
//! ```
//! use pgbr_manifest::{BackupLabel, BackupType, Lsn, TimelineId, WalSegmentName, WalSegmentSize};
//!
//! let label: BackupLabel = "20261122-120000F".parse()?;
//! assert_eq!(label.backup_type(), BackupType::Full);
//!
//! let start: Lsn = "0/4000028".parse()?;
//! let segment = WalSegmentName::containing(TimelineId::new(1), start, WalSegmentSize::DEFAULT);
//! assert_eq!(segment.to_string(), "000000010000000000000004");
//! # Ok::<(), pgbr_manifest::Error>(())
//! ```

/// Serialises a type as its text, by `Display` and `FromStr`.
macro_rules! text_serde {
    ($name:ty) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use text_serde;

pub mod diff;
mod error;
mod hash;
mod history;
mod ids;
pub mod index;
mod label;
mod lsn;
pub mod manifest;
pub mod merge;
mod nesting;
mod path;
pub mod plan_restore;
pub mod retention;
mod version;
mod wal;

pub use error::{Error, Result};
pub use hash::{
    BackupId, Digest, FileDigest, FileDigester, GRAIN, HashKey, ListDigester, ZERO_GRAIN, is_zero,
};
pub use history::{MAX_HISTORY_BYTES, TimelineHistory};
pub use ids::{ArchiveId, StanzaName, SystemId};
pub use label::{BackupLabel, BackupType, LabelTime};
pub use lsn::Lsn;
pub use nesting::Nesting;
pub use path::{MAX_COMPONENT_BYTES, MAX_PATH_BYTES, RelPath};
pub use version::PgVersion;
pub use wal::{TimelineId, WalFileName, WalSegmentName, WalSegmentSize};
