//! Ledgers: when the packs of a backup, or the WAL of one directory, were verified last.
//!
//! They tell in which order a verify with a budget goes on, and nothing else: one that is lost, old or forged makes it read something sooner or
//! later than it would. Whoever verifies overwrites them, two at a time as well.

use std::collections::BTreeMap;
use std::fmt;

use pgbr_manifest::{ArchiveId, BackupLabel, StanzaName};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::keys::{Layout, WalLog};
use crate::record::{self, Record};
use crate::repo_file::Repo;

/// The most ranges that are kept in one ledger: far below the bound of a record. What is left out counts as never verified.
const MAX_RANGES: usize = 8192;

/// What a ledger is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_enums, reason = "what a stanza holds is backups and WAL")]
pub enum LedgerOf {
    /// A backup.
    Backup(BackupLabel),
    /// A directory of an archive.
    Log(ArchiveId, WalLog),
}

impl fmt::Display for LedgerOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backup(label) => label.fmt(f),
            Self::Log(archive, log) => write!(f, "{archive}.{log}"),
        }
    }
}

/// Ranges of numbers and when each was verified, in Unix seconds: first, last, time. By the name of what is numbered.
pub type LedgerParts = BTreeMap<String, Vec<(u32, u32, i64)>>;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct LedgerRecord {
    record: String,
    name: String,
    parts: LedgerParts,
}

impl Record for LedgerRecord {
    const KIND: &'static str = "ledger";

    fn identity(&self) -> (&str, &str) {
        (&self.record, &self.name)
    }
}

/// The ledgers of a stanza.
#[derive(Debug, Clone)]
pub struct Ledgers {
    repo: Repo,
    stanza: StanzaName,
}

impl Ledgers {
    /// The ledgers of `stanza` in `repo`.
    pub fn new(repo: &Repo, stanza: &StanzaName) -> Self {
        Self { repo: repo.clone(), stanza: stanza.clone() }
    }

    /// What a ledger says; none where it is missing, or cannot be read.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn read(&self, of: &LedgerOf) -> Result<Option<LedgerParts>> {
        match record::read::<LedgerRecord>(&self.repo, &Layout::new().ledger(&self.stanza, of)).await {
            Ok(record) => Ok(Some(record.parts)),
            Err(error) if error.is_not_found() || error.is_unverified() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes a ledger, in the place of what is there.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn write(&self, of: &LedgerOf, mut parts: LedgerParts) -> Result<()> {
        let key = Layout::new().ledger(&self.stanza, of);
        let mut room = MAX_RANGES;
        for ranges in parts.values_mut() {
            ranges.truncate(room);
            room -= ranges.len();
        }
        parts.retain(|_, ranges| !ranges.is_empty());
        let record = LedgerRecord { record: LedgerRecord::KIND.to_owned(), name: key.to_string(), parts };
        let object = record::seal(&self.repo, &record)?;
        self.repo.store().overwrite(&key, object).await
    }

    /// Takes ledgers away, of what is gone.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn remove(&self, of: &[LedgerOf]) -> Result<()> {
        let keys = of.iter().map(|of| Layout::new().ledger(&self.stanza, of)).collect();
        match self.repo.store().delete_all(keys).await?.into_iter().next() {
            Some(first) => Err(first.error),
            None => Ok(()),
        }
    }
}
