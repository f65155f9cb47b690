//! Which packs, lists of files and WAL segments are read in this run.

use std::collections::BTreeSet;
use std::sync::Arc;

use pgbr_manifest::{ArchiveId, BackupLabel};
use pgbr_repo::WalLog;

/// Something that is read and verified as a whole.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Unit {
    /// A pack.
    Pack { label: BackupLabel, attempt: u64, index: bool, number: u32 },
    /// The list of files of a backup, with all that it takes from older ones.
    List { label: BackupLabel },
    /// A segment of the log, by the last eight digits of its name, with all objects of it.
    Wal { archive: ArchiveId, log: WalLog, number: u32 },
}

impl Unit {
    pub(super) const fn pack(label: BackupLabel, attempt: u64, index: bool, number: u32) -> Self {
        Self::Pack { label, attempt, index, number }
    }
}

/// What is due.
#[derive(Debug, Clone)]
pub(super) enum Due {
    /// Everything.
    All,
    /// These.
    Some(Arc<BTreeSet<Unit>>),
}

impl Due {
    pub(super) fn has(&self, unit: &Unit) -> bool {
        match self {
            Self::All => true,
            Self::Some(units) => units.contains(unit),
        }
    }

    /// Whether any data pack of a run is due.
    pub(super) fn has_data(&self, label: BackupLabel, attempt: u64) -> bool {
        match self {
            Self::All => true,
            Self::Some(units) => {
                let of = |number| Unit::pack(label, attempt, false, number);
                units.range(of(0)..=of(u32::MAX)).next().is_some()
            }
        }
    }
}

/// What was read in this run.
#[derive(Debug, Default)]
pub(super) struct Budget {
    verified: BTreeSet<Unit>,
}

impl Budget {
    /// A unit was read and is sound.
    pub(super) fn verified(&mut self, unit: Unit) {
        self.verified.insert(unit);
    }

    /// A unit is damaged: it is to be read again next time, before all that is sound.
    pub(super) fn damaged(&mut self, unit: &Unit) {
        self.verified.remove(unit);
    }
}
