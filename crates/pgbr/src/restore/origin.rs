//! The backup that is restored: one of ours or one that pgBackRest made, with what a restore has to know of either.

use pgbr_manifest::manifest::Database;
use pgbr_manifest::{BackupLabel, BackupType, SystemId, WalSegmentName};
use pgbr_pgbackrest::DbVersion;
use pgbr_repo::Store;

use super::reach::Needed;
use super::target::Outside;
use super::theirs::TheirBackup;
use crate::error::{Error, Result};
use crate::load::Backup;
use crate::place::StanzaPlace;

/// The backup that is restored.
pub(crate) enum Origin {
    /// One of ours.
    Ours(Box<OurBackup>),
    /// One of pgBackRest's, and the store that it is read from.
    Theirs(Box<TheirBackup>, Store),
}

/// A backup of ours.
pub(crate) struct OurBackup {
    pub(crate) place: StanzaPlace,
    /// It and all that it builds on, newest first.
    pub(crate) chain: Vec<Backup>,
    /// It.
    pub(crate) newest: Backup,
}

impl OurBackup {
    pub(crate) fn new(place: StanzaPlace, chain: Vec<Backup>) -> Result<Self> {
        let newest = chain.first().cloned().ok_or(Error::Internal { what: "a chain without a backup" })?;
        Ok(Self { place, chain, newest })
    }
}

impl Origin {
    pub(crate) fn label(&self) -> BackupLabel {
        match self {
            Self::Ours(ours) => ours.newest.summary.label,
            Self::Theirs(their, _) => their.label(),
        }
    }

    pub(crate) fn kind(&self) -> BackupType {
        self.label().backup_type()
    }

    /// It and all that it builds on, newest first.
    pub(crate) fn chain(&self) -> Vec<BackupLabel> {
        match self {
            Self::Ours(ours) => ours.chain.iter().map(|backup| backup.summary.label).collect(),
            Self::Theirs(their, _) => their.chain(),
        }
    }

    pub(crate) fn system_id(&self) -> SystemId {
        match self {
            Self::Ours(ours) => ours.newest.summary.database.system_id,
            Self::Theirs(their, _) => their.system_id(),
        }
    }

    pub(crate) fn version(&self) -> DbVersion {
        match self {
            Self::Ours(ours) => ours.newest.summary.database.version.into(),
            Self::Theirs(their, _) => their.version(),
        }
    }

    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Self::Ours(ours) => ours.newest.summary.sizes.database,
            Self::Theirs(their, _) => their.bytes(),
        }
    }

    /// Pages that had a wrong checksum when it was made.
    pub(crate) fn bad_pages(&self) -> u64 {
        match self {
            Self::Ours(ours) => ours.newest.body.bad_pages,
            Self::Theirs(their, _) => their.bad_pages(),
        }
    }

    pub(crate) fn databases(&self) -> &[Database] {
        match self {
            Self::Ours(ours) => &ours.newest.body.databases,
            Self::Theirs(their, _) => &their.databases,
        }
    }

    pub(crate) fn outside(&self) -> Outside<'_> {
        match self {
            Self::Ours(ours) => (&ours.newest.body).into(),
            Self::Theirs(their, _) => their.outside(),
        }
    }

    /// The name of the directory that its tablespaces have for its version.
    pub(crate) fn tablespace_directory(&self) -> String {
        match self {
            Self::Ours(ours) => ours.newest.summary.database.version.tablespace_directory(),
            Self::Theirs(their, _) => their.tablespace_directory(),
        }
    }

    /// The WAL that it needs; none where nobody knows, as of a cluster that was stopped.
    pub(crate) fn needed(&self) -> Option<Needed> {
        match self {
            Self::Ours(ours) => {
                let (summary, cluster) = (&ours.newest.summary, &ours.newest.body.cluster);
                Some(Needed {
                    label: summary.label,
                    start: summary.wal.start,
                    stop: summary.wal.stop,
                    consistent: summary.lsn.stop,
                    size: cluster.wal_segment_size,
                    inside: summary.wal_inside,
                    begun: summary.offline,
                })
            }
            Self::Theirs(their, _) => their.needed(),
        }
    }

    /// Whether the WAL that it needs lies in its `pg_wal`.
    pub(crate) fn wal_inside(&self) -> bool {
        match self {
            Self::Ours(ours) => ours.newest.summary.wal_inside,
            Self::Theirs(their, _) => their.wal_inside(),
        }
    }

    /// When it began to need WAL, in Unix seconds; none of a cluster that was stopped.
    pub(crate) fn first_needed(&self) -> Option<i64> {
        match self {
            Self::Ours(ours) => {
                let summary = &ours.newest.summary;
                (!summary.offline).then_some(summary.time.start)
            }
            Self::Theirs(their, _) => their.first_needed(),
        }
    }

    /// The first segment that recovery needs of the archive.
    pub(crate) fn first_segment(&self) -> Option<WalSegmentName> {
        match self {
            Self::Ours(ours) => {
                let newest = &ours.newest;
                let inside = newest.summary.wal_inside || newest.body.backup_label.is_none();
                (!inside).then_some(newest.summary.wal.start)
            }
            Self::Theirs(their, _) => their.first_segment(),
        }
    }
}
