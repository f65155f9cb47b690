//! Which WAL stays: what some backup that stays can use, and a little more where that is not known.

use std::fmt;

use super::{Asked, Candidate, ExpireInput, Facts, Stock, backups};
use crate::ids::ArchiveId;
use crate::label::{BackupLabel, BackupType};
use crate::wal::WalSegmentName;

/// Why WAL stays or goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WalReason {
    /// Stays: recovery from this backup can go on through it.
    From(BackupLabel),
    /// Stays: this backup needs it to become consistent.
    Consistent(BackupLabel),
    /// Stays: the manifest of this backup cannot be read, so nobody knows what it needs.
    Unreadable(BackupLabel),
    /// Stays: there is no usable backup of this cluster.
    NoBackup,
    /// Stays: nothing limits WAL.
    NoRule,
    /// Stays: there are fewer backups than WAL is kept for.
    TooFew {
        /// How many there are.
        have: u32,
        /// For how many it is kept.
        want: u32,
    },
    /// Stays: no full backup is so many days old yet.
    TooYoung(u32),
    /// Stays: it is not before this segment, which was given as `archive-expire-before`.
    NotBefore(WalSegmentName),
    /// Goes: no backup that stays needs it.
    Unneeded,
}

impl fmt::Display for WalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::From(label) => write!(f, "recovery from {label} can go on through it"),
            Self::Consistent(label) => write!(f, "{label} needs it to become consistent"),
            Self::Unreadable(label) => write!(f, "the manifest of {label} cannot be read: it may need it"),
            Self::NoBackup => f.write_str("there is no usable backup of this cluster"),
            Self::NoRule => f.write_str("retention-archive is not set"),
            Self::TooFew { have, want } => {
                write!(f, "WAL of {want} backups is kept, and there are {have}")
            }
            Self::TooYoung(days) => write!(f, "no full backup is {days} days old yet"),
            Self::NotBefore(segment) => write!(f, "it is not before {segment}"),
            Self::Unneeded => f.write_str("no backup that stays needs it"),
        }
    }
}

/// Segments that stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct WalKept {
    /// The first.
    pub from: WalSegmentName,
    /// The last; `None`: all that follow by name, those of later timelines included.
    pub to: Option<WalSegmentName>,
    /// Why.
    pub reason: WalReason,
}

impl WalKept {
    fn holds(&self, segment: WalSegmentName) -> bool {
        let after = match self.reason {
            // Timelines apart: what has a higher position is not before it, whatever its name.
            WalReason::NotBefore(first) => segment >= first || segment.on_timeline(first.timeline()) >= first,
            _ => segment >= self.from,
        };
        after && self.to.is_none_or(|to| segment <= to)
    }
}

/// What becomes of a directory of the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "all, nothing, or something in between")]
pub enum LogVerdict {
    /// All that can be in it stays.
    Stays(WalReason),
    /// All that can be in it goes.
    Goes,
    /// Its files have to be looked at.
    Mixed,
}

/// What becomes of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ArchivePlan {
    /// Which one.
    pub archive: ArchiveId,
    /// Why all of it stays; `None` where `ranges` say what does.
    pub all: Option<WalReason>,
    /// What stays, if not all: in the order of backups. Nothing at all where no backup is left of a cluster that was upgraded or replaced.
    pub ranges: Vec<WalKept>,
}

impl ArchivePlan {
    fn all(archive: ArchiveId, reason: WalReason) -> Self {
        Self { archive, all: Some(reason), ranges: Vec::new() }
    }

    /// Whether nothing of it stays, history files included.
    pub const fn goes(&self) -> bool {
        self.all.is_none() && self.ranges.is_empty()
    }

    /// Why a segment stays, or [`WalReason::Unneeded`]. Its `.partial` and `.backup` files go with it.
    pub fn decide(&self, segment: WalSegmentName) -> WalReason {
        let range = || self.ranges.iter().find(|range| range.holds(segment)).map(|range| range.reason);
        self.all.or_else(range).unwrap_or(WalReason::Unneeded)
    }

    /// What becomes of a directory that holds segments from `first` to `last`.
    pub fn decide_log(&self, first: WalSegmentName, last: WalSegmentName) -> LogVerdict {
        if let Some(reason) = self.all {
            return LogVerdict::Stays(reason);
        }
        if let Some(range) = self.ranges.iter().find(|range| range.holds(first) && range.holds(last)) {
            return LogVerdict::Stays(range.reason);
        }
        let touched = |range: &WalKept| {
            range.holds(first) || range.holds(last) || (range.from >= first && range.from <= last)
        };
        if self.ranges.iter().any(touched) { LogVerdict::Mixed } else { LogVerdict::Goes }
    }
}

/// How far back WAL is kept without a gap.
enum Reach {
    /// As far as there is any.
    All(WalReason),
    /// From the oldest of these backups on. `fallback`: nothing but `archive-expire-before` says so.
    From { backups: Vec<BackupLabel>, fallback: Option<WalReason> },
}

/// Decides for every archive, where `kept` are the backups that stay.
pub(super) fn plan(input: &ExpireInput<'_>, kept: &Stock<'_>) -> Vec<ArchivePlan> {
    let listed = listed(input, kept);
    let reach = reach(input, kept, &listed);
    input.archives.iter().map(|archive| one(input, kept, &listed, &reach, *archive)).collect()
}

/// The usable backups that the archive retention counts, newest first.
fn listed(input: &ExpireInput<'_>, kept: &Stock<'_>) -> Vec<BackupLabel> {
    let counts = |label: &BackupLabel| match input.policy.archive_type {
        BackupType::Full => label.backup_type() == BackupType::Full,
        BackupType::Diff => label.backup_type() != BackupType::Incr,
        BackupType::Incr => true,
    };
    let mut listed = kept.whole();
    listed.retain(counts);
    listed
}

fn reach(input: &ExpireInput<'_>, kept: &Stock<'_>, listed: &[BackupLabel]) -> Reach {
    let policy = input.policy;
    if let Some(unreadable) = kept.all.values().find(|backup| backup.facts.is_none()) {
        return Reach::All(WalReason::Unreadable(unreadable.label));
    }
    let from = |backups: &[BackupLabel]| Reach::From { backups: backups.to_vec(), fallback: None };
    let not = match (policy.archive_count(), policy.full) {
        (Some(want), _) => {
            let count = usize::try_from(want).unwrap_or(usize::MAX);
            if let Some(newest) = listed.get(..count) {
                return from(newest);
            }
            WalReason::TooFew { have: u32::try_from(listed.len()).unwrap_or(u32::MAX), want }
        }
        (None, Some(days)) if policy.archive_follows_age() => {
            let fulls = kept.fulls();
            match backups::first_within(kept, &fulls, days).and_then(|place| fulls.get(place)) {
                Some(first) => {
                    let within: Vec<BackupLabel> = listed.iter().copied().filter(|l| l >= first).collect();
                    return from(&within);
                }
                None => WalReason::TooYoung(days),
            }
        }
        (None, None) if policy.periods.any() && policy.archive_type == BackupType::Full => {
            return from(listed);
        }
        _ => WalReason::NoRule,
    };
    match policy.archive_before {
        Some(_) => Reach::From { backups: listed.to_vec(), fallback: Some(not) },
        // A backup has gone that the policy would keep, and its WAL goes with it.
        None if input.asked == Asked::Oldest && !listed.is_empty() => from(listed),
        None => Reach::All(not),
    }
}

fn one(
    input: &ExpireInput<'_>,
    kept: &Stock<'_>,
    listed: &[BackupLabel],
    reach: &Reach,
    archive: ArchiveId,
) -> ArchivePlan {
    let (within, fallback) = match reach {
        Reach::All(reason) => return ArchivePlan::all(archive, *reason),
        Reach::From { backups, fallback } => (backups, fallback),
    };
    let before = input.policy.archive_before.filter(|_| archive == input.current);
    if let (Some(reason), None) = (fallback, before) {
        return ArchivePlan::all(archive, *reason);
    }
    let of_it = |label: &BackupLabel| kept.facts(*label).is_some_and(|facts| facts.archive == archive);
    // Both lists are newest first. Where none within the reach is of this archive, the newest of it keeps what follows it.
    let oldest =
        within.iter().rfind(|label| of_it(label)).or_else(|| listed.iter().find(|label| of_it(label)));
    let mut ranges = match oldest {
        Some(oldest) => ranges(kept, *oldest, archive),
        None if kept.all.keys().any(of_it) => {
            return ArchivePlan::all(archive, WalReason::NoBackup);
        }
        // No backup at all: the WAL of a cluster that was replaced is of no use, that of the current one waits for its first backup.
        None if before.is_none() && (archive.number() >= input.current.number() || listed.is_empty()) => {
            return ArchivePlan::all(archive, WalReason::NoBackup);
        }
        None => Vec::new(),
    };
    let spared = before.map(|first| WalKept { from: first, to: None, reason: WalReason::NotBefore(first) });
    ranges.extend(spared);
    ArchivePlan { archive, all: None, ranges }
}

/// What the backups of an archive need: those from `oldest` on all that follows, the others what makes them consistent.
fn ranges(kept: &Stock<'_>, oldest: BackupLabel, archive: ArchiveId) -> Vec<WalKept> {
    let of_it = |backup: &Candidate| Some((backup.label, backup.facts.filter(|f| f.archive == archive)?));
    let mut backups: Vec<(BackupLabel, Facts)> = kept.all.values().copied().filter_map(of_it).collect();
    backups.sort_unstable_by_key(|(label, _)| (label.time(), *label));
    let mut ranges: Vec<WalKept> = Vec::new();
    let mut open: Option<WalSegmentName> = None;
    for (label, facts) in backups {
        let from = facts.wal.start;
        if label.time() < oldest.time() {
            ranges.push(WalKept { from, to: Some(facts.wal.stop), reason: WalReason::Consistent(label) });
        } else if open.is_none_or(|first| from < first) {
            // A later backup lies before by name only where two clusters archived into one stanza.
            ranges.push(WalKept { from, to: None, reason: WalReason::From(label) });
            open = Some(from);
        }
    }
    ranges
}
