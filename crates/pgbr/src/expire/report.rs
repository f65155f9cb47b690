//! What expire has done, or would do.

use std::collections::BTreeMap;

use pgbr_manifest::retention::{ExpirePlan, Reason};
use pgbr_manifest::{ArchiveId, BackupLabel, BackupType, WalSegmentName};

/// What became of everything.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ExpireReport {
    /// Whether nothing was touched.
    pub dry_run: bool,
    /// Every backup, oldest first.
    pub backups: Vec<BackupFate>,
    /// Every archive.
    pub archives: Vec<ArchiveFate>,
    /// Runs of backups that were never finished.
    pub unfinished: Vec<RunFate>,
    /// What was in the packs that went.
    pub packs: Rubbish,
    /// What interrupted puts had left.
    pub leftovers: Rubbish,
    /// Objects that nothing needs and that the store would not let go of: by a lock or for lack of rights. A later expire tries again.
    pub undeleted: u64,
    /// What the operator should know; it was told when it was found.
    pub warnings: Vec<String>,
    /// Requests to the repository.
    pub requests: BTreeMap<&'static str, u64>,
}

/// What became of a backup.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BackupFate {
    /// Its name.
    pub label: BackupLabel,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: BackupType,
    /// Whether it stays.
    pub keep: bool,
    /// Why.
    pub reasons: Vec<String>,
}

/// What became of the WAL of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ArchiveFate {
    /// The archive.
    pub archive: ArchiveId,
    /// What was looked at, in the order of names; in a run that is no dry run, directories of which all stays are not looked at.
    pub ranges: Vec<WalRange>,
}

/// Segments with one fate.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct WalRange {
    /// The first.
    pub start: WalSegmentName,
    /// The last.
    pub stop: WalSegmentName,
    /// Objects of segments and files that go with them.
    pub files: u64,
    /// Their size in the repository.
    pub bytes: u64,
    /// Whether they stay.
    pub keep: bool,
    /// Why.
    pub reason: String,
}

/// What became of what unfinished runs at a backup have left.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RunFate {
    /// The backup.
    pub label: BackupLabel,
    /// Packs.
    pub packs: u64,
    /// Their size.
    pub bytes: u64,
    /// Whether they stay.
    pub keep: bool,
    /// Why.
    pub reason: &'static str,
}

/// Objects that went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Rubbish {
    /// How many.
    pub count: u64,
    /// How large.
    pub bytes: u64,
}

impl Rubbish {
    pub(super) const fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }
}

/// Backups that go together.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExpiredBackups {
    /// What for, as pgBackRest calls it: `full`, `diff`, `time-based`, `adhoc`; and `incr` by rules of the calendar.
    pub rule: &'static str,
    /// The backups, oldest first.
    pub labels: Vec<BackupLabel>,
}

/// What pgBackRest calls the reason.
pub(super) fn rule(reason: Reason, labels: &[BackupLabel]) -> &'static str {
    match (reason, labels.first().map(|label| label.backup_type())) {
        (Reason::Asked | Reason::Oldest, _) => "adhoc",
        (Reason::BeyondFullDays(_), _) => "time-based",
        (_, Some(BackupType::Diff)) => "diff",
        (_, Some(BackupType::Incr)) => "incr",
        _ => "full",
    }
}

impl ExpireReport {
    pub(super) fn new(dry_run: bool, plan: &ExpirePlan) -> Self {
        let fates = plan.backups.iter().map(|plan| BackupFate {
            label: plan.label,
            kind: plan.label.backup_type(),
            keep: plan.keep,
            reasons: plan.reasons.iter().map(ToString::to_string).collect(),
        });
        Self {
            dry_run,
            backups: fates.collect(),
            archives: Vec::new(),
            unfinished: Vec::new(),
            packs: Rubbish::default(),
            leftovers: Rubbish::default(),
            undeleted: 0,
            warnings: Vec::new(),
            requests: BTreeMap::new(),
        }
    }
}
