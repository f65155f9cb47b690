//! What expire has done, or would do.

use std::collections::BTreeMap;

use pgbr_manifest::retention::{ExpirePlan, FullRetention, Policy, Reason};
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

/// When a backup was begun, by its name: to compare with others of the same host.
fn moment(label: BackupLabel) -> Option<jiff::civil::DateTime> {
    jiff::civil::DateTime::strptime("%Y%m%d-%H%M%S", label.time().to_string()).ok()
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
    /// Whether what stays reaches as far as the rules ask for, so that nothing from before is needed for that: as many full backups as are to
    /// be kept, or one that is as old as they are to reach back, counted from the newest backup; and backups over as many days, weeks, months
    /// and years as rules by calendar name. Not where there is no rule.
    pub fn satisfies(&self, policy: &Policy) -> bool {
        let kept = || self.backups.iter().filter(|backup| backup.keep);
        let Some(newest) = kept().filter_map(|backup| moment(backup.label)).max() else { return false };
        let reaches = |days: i64, full: bool| {
            let kept = kept().filter(|backup| !full || backup.kind == BackupType::Full);
            let ages =
                kept.filter_map(|backup| Some(newest.duration_since(moment(backup.label)?).as_hours()));
            ages.max().is_some_and(|hours| hours >= days.saturating_mul(24))
        };
        let full = policy.full.map(|count| match policy.full_type {
            FullRetention::Count => {
                kept().filter(|backup| backup.kind == BackupType::Full).count() >= count as usize
            }
            FullRetention::Time => reaches(count.into(), true),
        });
        let periods = &policy.periods;
        let calendar =
            [(periods.daily, 1), (periods.weekly, 7), (periods.monthly, 28), (periods.yearly, 365)];
        let calendar = calendar.into_iter().filter_map(|(count, days)| {
            Some(reaches(i64::from(count?).saturating_sub(1).saturating_mul(days), false))
        });
        let rules: Vec<bool> = full.into_iter().chain(calendar).collect();
        !rules.is_empty() && rules.iter().all(|satisfied| *satisfied)
    }

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

#[cfg(test)]
mod tests {
    use pgbr_manifest::retention::Periods;

    use super::*;

    fn report(labels: &[(&str, bool)]) -> ExpireReport {
        let fate = |(label, keep): &(&str, bool)| {
            let label: BackupLabel = label.parse().unwrap();
            BackupFate { label, kind: label.backup_type(), keep: *keep, reasons: Vec::new() }
        };
        ExpireReport {
            dry_run: false,
            backups: labels.iter().map(fate).collect(),
            archives: Vec::new(),
            unfinished: Vec::new(),
            packs: Rubbish::default(),
            leftovers: Rubbish::default(),
            undeleted: 0,
            warnings: Vec::new(),
            requests: BTreeMap::new(),
        }
    }

    #[test]
    fn rules_are_satisfied_by_what_stays_alone() {
        let some = report(&[
            ("20261101-000000F", false),
            ("20261120-000000F", true),
            ("20261120-000000F_20261121-000000I", true),
            ("20261127-000001F", true),
        ]);
        let plain = Policy::default();
        let full = |count, full_type| Policy { full: Some(count), full_type, ..plain };
        assert!(!some.satisfies(&plain), "no rule");
        for (count, satisfied) in [(1, true), (2, true), (3, false)] {
            assert_eq!(some.satisfies(&full(count, FullRetention::Count)), satisfied, "{count}");
        }
        for (days, satisfied) in [(1, true), (7, true), (8, false), (26, false)] {
            assert_eq!(some.satisfies(&full(days, FullRetention::Time)), satisfied, "{days}");
        }
        let daily = |count| Policy { periods: Periods { daily: Some(count), ..Periods::default() }, ..plain };
        assert!(some.satisfies(&daily(8)) && !some.satisfies(&daily(9)));
        let both = Policy { full: Some(1), ..daily(9) };
        assert!(!some.satisfies(&both));
        assert!(!report(&[]).satisfies(&full(1, FullRetention::Count)));
    }
}
