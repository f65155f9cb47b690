//! Drills: what became of restores that were made only to see whether a backup can be restored.
//!
//! A drill's record is an object beside the backup, as a note is: numbered, made by one conditional create and never rewritten. The newest
//! few of a backup are kept, and all of them go with it.

use pgbr_manifest::{BackupLabel, StanzaName};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::numbered::{Numbered, Place, Series};
use crate::record::Record;
use crate::repo_file::Repo;

/// How many records of a backup are kept.
const KEPT: usize = 5;
/// The longest text in a record, in characters.
const MAX_TEXT: usize = 1000;
/// The most checks in a record.
const MAX_CHECKS: usize = 100;

/// How a drill ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "filled in by the caller; a new field has to be decided on")]
pub struct DrillFacts {
    /// When it began, in Unix seconds.
    pub start: i64,
    /// When it ended, in Unix seconds.
    pub stop: i64,
    /// Whether everything that ran passed.
    pub ok: bool,
    /// What was wrong, where a check does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// What was recovered to, for people to read.
    pub goal: String,
    /// Host and process, for people to read.
    pub host: String,
    /// The server's version; none where none came up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_version: Option<String>,
    /// When the last transaction that was recovered had been committed, for people to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_commit: Option<String>,
    /// How long the restore took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_ms: Option<u64>,
    /// How long it took from the server's start until it could be written to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_ms: Option<u64>,
    /// How long all checks took.
    pub checks_ms: u64,
    /// The checks.
    pub checks: Vec<DrillCheck>,
}

/// A check of a drill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "filled in by the caller; a new field has to be decided on")]
pub struct DrillCheck {
    /// What was done: `wal`, `amcheck`, `sql`, `checksums`.
    pub name: String,
    /// To what, where it is not done to all: a statement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// What came out.
    pub result: CheckResult,
    /// What was found, or why it was not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// How long it took.
    pub ms: u64,
}

/// What came out of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(clippy::exhaustive_enums, reason = "a check has no other end")]
pub enum CheckResult {
    /// All is well.
    Passed,
    /// Something is wrong.
    Failed,
    /// It could not be done here, or is of no use.
    Skipped,
}

/// A drill as it is found.
#[derive(Debug)]
#[non_exhaustive]
pub struct Drill {
    /// The backup.
    pub label: BackupLabel,
    /// Its number.
    pub number: u64,
    /// How it ended, or why that cannot be read.
    pub facts: Result<DrillFacts>,
}

/// The drills of a stanza.
#[derive(Debug, Clone)]
pub struct Drills(Numbered);

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct DrillRecord {
    record: String,
    name: String,
    drill: DrillFacts,
}

impl Record for DrillRecord {
    const KIND: &'static str = "drill";

    fn identity(&self) -> (&str, &str) {
        (&self.record, &self.name)
    }
}

impl Drills {
    /// The drills of `stanza` in `repo`.
    pub fn new(repo: &Repo, stanza: &StanzaName) -> Self {
        Self(Numbered::new(repo, stanza, Series::Drills))
    }

    /// Keeps what became of a drill, after all that there are of the backup, and gives its number; the oldest beyond five go. Long texts
    /// are cut. Whether the backup exists is for the caller to see, before and after.
    ///
    /// # Errors
    /// [`Error::Invalid`] where too many do so at once; as the store failed.
    pub async fn add(&self, label: &BackupLabel, facts: DrillFacts) -> Result<u64> {
        let facts = bounded(facts);
        let places = self.0.places(Some(label)).await?;
        let make = |name| DrillRecord { record: DrillRecord::KIND.to_owned(), name, drill: facts.clone() };
        let Some(number) = self.0.put(label, &places, make).await? else {
            let reason = format!("of backup {label} cannot be kept: too many end at once");
            return Err(Error::Invalid { what: "drill", reason });
        };
        for place in places.iter().take(places.len().saturating_sub(KEPT - 1)) {
            // What stays is tried again by the next drill, and goes with its backup.
            self.0.remove(place).await.ok();
        }
        Ok(number)
    }

    /// The newest drill of one backup, or of each that has any, by backup.
    ///
    /// # Errors
    /// As the store failed. A record that cannot be read is an item of its own.
    pub async fn newest(&self, label: Option<&BackupLabel>) -> Result<Vec<Drill>> {
        let places = self.0.places(label).await?;
        let newer = places.iter().skip(1).map(Some).chain([None]);
        let newest =
            places.iter().zip(newer).filter(|(place, next)| next.is_none_or(|n| n.label != place.label));
        let read = self.0.read::<DrillRecord>(newest.map(|(place, _)| *place).collect()).await;
        let drill = |(place, read): (Place, Result<DrillRecord>)| {
            let facts = read.map(|record| record.drill);
            Drill { label: place.label, number: place.number, facts }
        };
        Ok(read.into_iter().map(drill).collect())
    }

    /// The backups that have drills, sorted; one that died while it removed a backup leaves drills of one that does not exist.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn labels(&self) -> Result<Vec<BackupLabel>> {
        self.0.labels().await
    }

    /// Takes all drills of a backup away: once its manifest is gone.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn remove_all(&self, label: &BackupLabel) -> Result<()> {
        self.0.remove_all(label).await
    }
}

/// Facts that surely fit into a record.
fn bounded(mut facts: DrillFacts) -> DrillFacts {
    facts.checks.truncate(MAX_CHECKS);
    let texts = [
        Some(&mut facts.goal),
        Some(&mut facts.host),
        facts.failure.as_mut(),
        facts.server_version.as_mut(),
        facts.last_commit.as_mut(),
    ];
    texts.into_iter().flatten().for_each(cut);
    for check in &mut facts.checks {
        cut(&mut check.name);
        check.subject.as_mut().map(cut);
        check.detail.as_mut().map(cut);
    }
    facts
}

fn cut(text: &mut String) {
    if let Some((end, _)) = text.char_indices().nth(MAX_TEXT) {
        text.truncate(end);
        text.push('…');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_and_checks_counted() {
        let long = "é".repeat(MAX_TEXT + 5);
        let check = DrillCheck {
            name: "sql".to_owned(),
            subject: Some(long.clone()),
            result: CheckResult::Failed,
            detail: Some("short".to_owned()),
            ms: 1,
        };
        let facts = bounded(DrillFacts {
            start: 1,
            stop: 2,
            ok: false,
            failure: Some(long),
            goal: "the end of the archive".to_owned(),
            host: "h".to_owned(),
            server_version: None,
            last_commit: None,
            restore_ms: None,
            recovery_ms: None,
            checks_ms: 0,
            checks: vec![check; MAX_CHECKS + 1],
        });
        let length = |text: &Option<String>| text.as_ref().unwrap().chars().count();
        assert_eq!((length(&facts.failure), length(&facts.checks[0].subject)), (MAX_TEXT + 1, MAX_TEXT + 1));
        assert_eq!(facts.checks[0].detail.as_deref(), Some("short"));
        assert_eq!(facts.checks.len(), MAX_CHECKS);
        assert!(serde_json::to_vec(&facts).unwrap().len() < pgbr_codec::RECORD_MAX);
    }
}
