//! What a run of a backup says of itself before it stores anything: enough for another run to take up what a broken one has stored.

use bytes::Bytes;
use pgbr_manifest::manifest::Parent;
use pgbr_manifest::{BackupLabel, HashKey, SystemId, TimelineId};
use serde::{Deserialize, Serialize};

use crate::backup_objects::BackupStore;
use crate::error::Result;
use crate::keys::{Layout, ParsedKey};
use crate::record::{self, Record};
use crate::store::Resolved;

/// What must agree for the packs of a broken run to be of use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(clippy::exhaustive_structs, reason = "filled in by the caller; a new field has to be decided on")]
pub struct RunFacts {
    /// The key of all hashes in its packs.
    pub hash_key: HashKey,
    /// What it builds on; none for a full.
    pub parent: Option<Parent>,
    /// The cluster.
    pub system_id: SystemId,
    /// The timeline that the cluster is on.
    pub timeline: TimelineId,
    /// Whether pages carry checksums.
    pub data_checksums: bool,
    /// When it began, Unix nanoseconds by the clock of its host: it orders the runs at one backup, nothing else.
    pub started_ns: i64,
}

/// A run at a backup, as it is found later.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunFound {
    /// Its random number, part of its packs' names.
    pub attempt: u64,
    /// What it said of itself; none where that cannot be read.
    pub facts: Option<RunFacts>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RunRecord {
    record: String,
    name: String,
    #[serde(flatten)]
    facts: RunFacts,
}

impl Record for RunRecord {
    const KIND: &'static str = "run";

    fn identity(&self) -> (&str, &str) {
        (&self.record, &self.name)
    }
}

impl BackupStore {
    /// Says what a run is about, before its first pack.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn put_run(&self, label: &BackupLabel, attempt: u64, facts: RunFacts) -> Result<()> {
        let key = Layout::new().run(self.stanza(), label, attempt);
        let record = RunRecord { record: RunRecord::KIND.to_owned(), name: key.to_string(), facts };
        let object: Bytes = record::seal(self.repo(), &record)?;
        match self.repo().store().create_resolved(&key, object, record::MAX_OBJECT).await? {
            Resolved::Ours => Ok(()),
            Resolved::Others(_) => Err(crate::error::Error::corrupt(&key, "another run has its name")),
        }
    }

    /// The runs at a backup that said what they are about, oldest first; those that cannot be read come first.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn list_runs(&self, label: &BackupLabel) -> Result<Vec<RunFound>> {
        let level = self.repo().store().level(&Layout::new().label_dir(self.stanza(), label)).await?;
        let mut runs = Vec::new();
        for object in level.objects {
            let Some(ParsedKey::Run { attempt, .. }) = ParsedKey::parse(&object.key) else { continue };
            let facts = match record::read_keyed::<RunRecord>(self.repo(), &object.key).await {
                // All that a manifest names is sealed under one key: what a run stored before the key was changed is of no use to another.
                Ok((record, key_id)) => (key_id == self.repo().keyring().key_id()).then_some(record.facts),
                Err(error) if error.is_not_found() => continue,
                Err(error) if error.is_unverified() => None,
                Err(error) => return Err(error),
            };
            runs.push(RunFound { attempt, facts });
        }
        runs.sort_by_key(|run| (run.facts.as_ref().map(|facts| facts.started_ns), run.attempt));
        Ok(runs)
    }

    /// Takes away what a run said of itself: its backup is complete, or gone.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn delete_run(&self, label: &BackupLabel, attempt: u64) -> Result<()> {
        self.repo().store().delete(&Layout::new().run(self.stanza(), label, attempt)).await
    }
}
