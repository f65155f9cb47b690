//! Holds: an operator's word that a backup must stay, whatever the retention says.
//!
//! A hold is an object of its own, created once and never rewritten; it ends when it is removed. A backup may have several, of several people, and
//! is on hold as long as one of them is there. A hold that cannot be read counts: the backup is in its name.

use pgbr_manifest::{BackupLabel, StanzaName};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::keys::{HoldId, Layout, ParsedKey};
use crate::record::{self, MAX_OBJECT, Record};
use crate::repo_file::Repo;
use crate::store::Resolved;

/// The longest reason, in characters.
const MAX_REASON: usize = 1000;

/// What to hold.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_structs, reason = "filled in by the caller; a new field has to be decided on")]
pub struct HoldRequest {
    /// The backup.
    pub label: BackupLabel,
    /// Why, for people to read; at most 1000 characters.
    pub reason: String,
    /// Host and process, for people to read.
    pub holder: String,
    /// The time now in Unix seconds.
    pub now: i64,
}

/// What a hold says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub struct HoldRecord {
    record: String,
    name: String,
    /// The backup.
    pub label: BackupLabel,
    /// Why.
    pub reason: String,
    /// Host and process.
    pub holder: String,
    /// When it was made, in Unix seconds on its maker's clock.
    pub created: i64,
}

impl Record for HoldRecord {
    const KIND: &'static str = "hold";

    fn identity(&self) -> (&str, &str) {
        (&self.record, &self.name)
    }
}

/// A hold as it is found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HoldState {
    /// The backup.
    pub label: BackupLabel,
    /// Its own name.
    pub id: HoldId,
    /// What it says; `None` where it cannot be read: it holds the backup all the same.
    pub record: Option<HoldRecord>,
}

/// The holds of a stanza.
#[derive(Debug, Clone)]
pub struct Holds {
    repo: Repo,
    stanza: StanzaName,
}

impl Holds {
    /// The holds of `stanza` in `repo`.
    pub fn new(repo: &Repo, stanza: &StanzaName) -> Self {
        Self { repo: repo.clone(), stanza: stanza.clone() }
    }

    /// Puts a hold. Only for who has the stanza's lease: an expire at work would not see it.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a reason that is too long; as the store failed.
    pub async fn put(&self, request: HoldRequest) -> Result<HoldId> {
        let length = request.reason.chars().count();
        if length > MAX_REASON {
            let reason = format!("of {length} characters is longer than {MAX_REASON}");
            return Err(Error::Invalid { what: "reason of a hold", reason });
        }
        let id = HoldId(self.repo.random()?);
        let key = Layout::new().hold(&self.stanza, &request.label, &id);
        let record = HoldRecord {
            record: HoldRecord::KIND.to_owned(),
            name: key.to_string(),
            label: request.label,
            reason: request.reason,
            holder: request.holder.chars().take(200).collect(),
            created: request.now,
        };
        let object = record::seal(&self.repo, &record)?;
        match self.repo.store().create_resolved(&key, object, MAX_OBJECT).await? {
            Resolved::Ours => Ok(id),
            Resolved::Others(_) => Err(Error::corrupt(&key, "another hold has its random name")),
        }
    }

    /// The holds there are, sorted by backup.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn list(&self) -> Result<Vec<HoldState>> {
        let level = self.repo.store().level(&Layout::new().hold_dir(&self.stanza)).await?;
        let mut holds = Vec::new();
        for object in level.objects {
            let Some(ParsedKey::Hold { label, id, .. }) = ParsedKey::parse(&object.key) else { continue };
            let record = match record::read::<HoldRecord>(&self.repo, &object.key).await {
                Ok(record) => Some(record),
                // Released a moment ago.
                Err(error) if error.is_not_found() => continue,
                Err(error) if error.is_unverified() => None,
                Err(error) => return Err(error),
            };
            holds.push(HoldState { label, id, record });
        }
        holds.sort_unstable_by_key(|hold| (hold.label, hold.id));
        Ok(holds)
    }

    /// Takes a hold away for good; one that is not there is no error.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn release(&self, label: &BackupLabel, id: &HoldId) -> Result<()> {
        self.repo.store().delete_durable(&Layout::new().hold(&self.stanza, label, id)).await
    }
}
