//! Which backups and which WAL expire: pgBackRest's rules, holds, and rules by day, week, month and year.
//!
//! [`plan_expire`] decides; nothing here removes anything. What stays, in order of strength:
//!
//! - the newest backup, and the newest one without page errors, whatever the rules say;
//! - what is on hold, what somebody works with, and what cannot be read (nobody knows what it is);
//! - what one of the rules keeps: they are a union;
//! - whatever a backup that stays builds on.
//!
//! Everything else goes, a dependant before what it builds on. Ages count from the end of the newest backup, not from the clock: a clock
//! that is wrong, and a stanza that nobody backs up any more, expire nothing.
//!
//! WAL stays by name, as in pgBackRest: from the first segment of the oldest backup within the archive retention on, and from first to last
//! segment of every older backup that stays. Names grow with the timeline, and recovery from a backup can only go to timelines with higher
//! numbers, so that is all that any of them can use, on whatever timeline.

mod backups;
mod calendar;
mod clock;
mod wal;

#[cfg(test)]
mod cases;
#[cfg(test)]
mod properties;

use std::collections::BTreeMap;
use std::fmt;

pub use self::wal::{ArchivePlan, LogVerdict, WalKept, WalReason};
use crate::error::Result;
use crate::ids::ArchiveId;
use crate::label::{BackupLabel, BackupType};
use crate::manifest::{Span, Summary};
use crate::wal::WalSegmentName;

/// What `repo-retention-full` counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::exhaustive_enums, reason = "pgBackRest's two ways are the interface")]
pub enum FullRetention {
    /// Full backups.
    #[default]
    Count,
    /// Days.
    Time,
}

/// How many of the last days, weeks (from Monday), months and years that have a backup keep their newest one. None: no such rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::exhaustive_structs, reason = "filled in by the caller; a new field has to be decided on")]
pub struct Periods {
    /// `repo-retention-daily`.
    pub daily: Option<u32>,
    /// `repo-retention-weekly`.
    pub weekly: Option<u32>,
    /// `repo-retention-monthly`.
    pub monthly: Option<u32>,
    /// `repo-retention-yearly`.
    pub yearly: Option<u32>,
}

impl Periods {
    /// Whether one of them is set.
    pub fn any(&self) -> bool {
        self.rules().iter().any(|(_, count)| count.is_some())
    }

    const fn rules(&self) -> [(Period, Option<u32>); 4] {
        [
            (Period::Day, self.daily),
            (Period::Week, self.weekly),
            (Period::Month, self.monthly),
            (Period::Year, self.yearly),
        ]
    }
}

/// What a rule of [`Periods`] counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(clippy::exhaustive_enums, reason = "one for each of the four options")]
pub enum Period {
    /// A calendar day.
    Day,
    /// A week from Monday.
    Week,
    /// A month.
    Month,
    /// A year.
    Year,
}

impl Period {
    const fn word(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Year => "year",
        }
    }
}

/// The retention options of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "filled in by the caller; a new field has to be decided on")]
pub struct Policy {
    /// `repo-retention-full`.
    pub full: Option<u32>,
    /// `repo-retention-full-type`.
    pub full_type: FullRetention,
    /// `repo-retention-diff`.
    pub diff: Option<u32>,
    /// `repo-retention-archive`; where it is not set it follows the option of its type.
    pub archive: Option<u32>,
    /// `repo-retention-archive-type`.
    pub archive_type: BackupType,
    /// Rules by calendar. Where one is set and `full` is not, they alone decide.
    pub periods: Periods,
    /// `archive-expire-before`: of the current archive, only WAL before this segment goes.
    pub archive_before: Option<WalSegmentName>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            full: None,
            full_type: FullRetention::Count,
            diff: None,
            archive: None,
            archive_type: BackupType::Full,
            periods: Periods::default(),
            archive_before: None,
        }
    }
}

impl Policy {
    /// How many backups of the archive type keep all WAL after them; `None` where that is not a matter of counting.
    fn archive_count(&self) -> Option<u32> {
        self.archive.or(match (self.archive_type, self.full_type) {
            (BackupType::Full, FullRetention::Count) => self.full,
            (BackupType::Diff, _) => self.diff,
            _ => None,
        })
    }

    /// Whether WAL goes with the full backups that are too old.
    fn archive_follows_age(&self) -> bool {
        self.full_type == FullRetention::Time && self.archive_type == BackupType::Full
    }
}

/// What to expire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::exhaustive_enums, reason = "the ways in which the command can be called")]
pub enum Asked {
    /// What the policy does not keep.
    #[default]
    Policy,
    /// This backup and what builds on it, whatever the policy says, and no other.
    Set(BackupLabel),
    /// The oldest full backup that may go and what builds on it, and no other.
    Oldest,
}

/// What a readable manifest tells about its backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "filled in by the caller; a new field has to be decided on")]
pub struct Facts {
    /// What it builds on.
    pub prior: Option<BackupLabel>,
    /// The archive of its cluster.
    pub archive: ArchiveId,
    /// When it ended, Unix seconds.
    pub stop: i64,
    /// The day on which it ended where the command runs, counted from 1970-01-01.
    pub day: i64,
    /// First and last segment that it needs.
    pub wal: Span<WalSegmentName>,
    /// Whether it has pages with wrong checksums.
    pub error: bool,
}

impl Facts {
    /// As the summary says; `day` is that of `summary.time.stop` in the caller's zone, counted from 1970-01-01.
    pub const fn new(summary: &Summary, day: i64) -> Self {
        let database = summary.database;
        Self {
            prior: summary.prior,
            archive: ArchiveId::new(database.version, database.id),
            stop: summary.time.stop,
            day,
            wal: summary.wal,
            error: summary.error,
        }
    }
}

/// A backup that is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "filled in by the caller; a new field has to be decided on")]
pub struct Candidate {
    /// Its name.
    pub label: BackupLabel,
    /// What its manifest says; `None` where it cannot be read.
    pub facts: Option<Facts>,
    /// Whether it is on hold.
    pub held: bool,
    /// Whether a live process reads it or builds on it.
    pub in_use: bool,
}

/// All that the decision depends on.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::exhaustive_structs, reason = "filled in by the caller; a new field has to be decided on")]
pub struct ExpireInput<'a> {
    /// Every backup that has a manifest, in any order.
    pub backups: &'a [Candidate],
    /// The archives that there are.
    pub archives: &'a [ArchiveId],
    /// The archive of the stanza's current cluster.
    pub current: ArchiveId,
    /// The rules.
    pub policy: &'a Policy,
    /// What was asked for.
    pub asked: Asked,
    /// The time now, Unix seconds.
    pub now: i64,
}

/// Why a backup stays or goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// Stays: no usable backup is newer.
    Newest,
    /// Stays: no usable backup that has no page errors, in what it builds on either, is newer.
    NewestSound,
    /// Stays: on hold.
    Held,
    /// Stays: a live process reads it or builds on it.
    InUse,
    /// Stays: nobody knows what it is.
    Unreadable,
    /// Stays: something that it builds on is gone, and may come back.
    Incomplete,
    /// Stays: one of so many newest full backups.
    FullCount(u32),
    /// Stays: needed to reach back so many days.
    FullDays(u32),
    /// Stays: nothing limits full backups.
    NoFullRule,
    /// Stays: one of so many newest full and differential backups.
    DiffCount(u32),
    /// Stays: what it builds on stays, and no rule is against it.
    WithParent(BackupLabel),
    /// Stays: the newest of its day, week, month or year, which is among so many last ones.
    Period(Period, u32),
    /// Stays: another that stays builds on it.
    NeededBy(BackupLabel),
    /// Stays: it was not asked for.
    NotAsked,
    /// Goes: more full backups than these are newer.
    BeyondFullCount(u32),
    /// Goes: a newer full backup is at least so many days old.
    BeyondFullDays(u32),
    /// Goes: more full and differential backups than these are newer.
    BeyondDiffCount(u32),
    /// Goes: no rule by calendar keeps it, and there are no others.
    NoPeriod,
    /// Goes: what it builds on goes.
    ParentGoes(BackupLabel),
    /// Goes: what it builds on is gone and would have expired by now.
    ParentGone,
    /// Goes: it was asked for.
    Asked,
    /// Goes: it is the oldest that may.
    Oldest,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newest => f.write_str("it is the newest backup"),
            Self::NewestSound => f.write_str("it is the newest backup without page errors"),
            Self::Held => f.write_str("it is on hold"),
            Self::InUse => f.write_str("a running command uses it"),
            Self::Unreadable => f.write_str("its manifest cannot be read"),
            Self::Incomplete => f.write_str("a backup that it builds on is missing"),
            Self::FullCount(count) => write!(f, "it is {}", newest(*count, "full")),
            Self::FullDays(days) => write!(f, "it is needed to reach back {days} days"),
            Self::NoFullRule => f.write_str("retention-full is not set"),
            Self::DiffCount(count) => write!(f, "it is {}", newest(*count, "full and diff")),
            Self::WithParent(parent) => write!(f, "{parent}, which it builds on, stays"),
            Self::Period(period, 1) => write!(f, "it is the newest of the last {}", period.word()),
            Self::Period(period, count) => {
                let word = period.word();
                write!(f, "it is the newest of its {word}, one of the last {count} {word}s with a backup")
            }
            Self::NeededBy(child) => write!(f, "{child}, which stays, builds on it"),
            Self::NotAsked => f.write_str("it was not asked for"),
            Self::BeyondFullCount(count) => write!(f, "it is not {}", newest(*count, "full")),
            Self::BeyondFullDays(days) => write!(f, "a newer full backup is at least {days} days old"),
            Self::BeyondDiffCount(count) => write!(f, "it is not {}", newest(*count, "full and diff")),
            Self::NoPeriod => f.write_str("no rule keeps it"),
            Self::ParentGoes(parent) => write!(f, "{parent}, which it builds on, goes"),
            Self::ParentGone => f.write_str("its full backup is gone and would have expired"),
            Self::Asked => f.write_str("it was asked for"),
            Self::Oldest => f.write_str("it is the oldest backup that may go"),
        }
    }
}

fn newest(count: u32, what: &str) -> String {
    match count {
        1 => format!("the newest of the {what} backups"),
        _ => format!("among the {count} newest {what} backups"),
    }
}

/// What becomes of one backup.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupPlan {
    /// Its name.
    pub label: BackupLabel,
    /// Whether it stays.
    pub keep: bool,
    /// Why; at least one reason.
    pub reasons: Vec<Reason>,
}

/// Backups that go together: one, and what builds on it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExpiredSet {
    /// Why the first of them goes.
    pub reason: Reason,
    /// The backups, oldest first.
    pub labels: Vec<BackupLabel>,
}

/// What becomes of everything.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExpirePlan {
    /// Every backup, sorted by label.
    pub backups: Vec<BackupPlan>,
    /// What goes, oldest set first.
    pub sets: Vec<ExpiredSet>,
    /// The archives, in the order given.
    pub archives: Vec<ArchivePlan>,
    /// Whether the backup that was asked for by name does not exist.
    pub unknown: bool,
    /// Whether the newest backup goes, because it was asked for.
    pub newest_goes: bool,
}

impl ExpirePlan {
    /// The manifests to remove, in this order: each before whatever it builds on.
    pub fn removals(&self) -> impl Iterator<Item = BackupLabel> {
        self.sets.iter().flat_map(|set| set.labels.iter().rev().copied())
    }

    /// The backups that stay.
    pub fn kept(&self) -> impl Iterator<Item = BackupLabel> {
        self.backups.iter().filter(|backup| backup.keep).map(|backup| backup.label)
    }
}

/// Decides what expires.
///
/// ```
/// use pgbr_manifest::retention::{Asked, ExpireInput, Policy, plan_expire};
/// let policy = Policy { full: Some(2), ..Policy::default() };
/// let current = "15-1".parse()?;
/// let input = ExpireInput { backups: &[], archives: &[current], current, policy: &policy, asked: Asked::Policy, now: 0 };
/// assert!(plan_expire(&input)?.sets.is_empty());
/// # Ok::<(), pgbr_manifest::Error>(())
/// ```
///
/// # Errors
/// [`Error::Clock`](crate::Error::Clock) where the clock, or the end of the newest backup, cannot be right;
/// [`Error::Protected`](crate::Error::Protected) where what was asked for by name must stay.
pub fn plan_expire(input: &ExpireInput<'_>) -> Result<ExpirePlan> {
    let stock = Stock::new(input.backups);
    let verdicts = backups::decide(input, &stock)?;
    let backups: Vec<BackupPlan> = verdicts.into_values().collect();
    let kept =
        backups.iter().filter(|plan| plan.keep).filter_map(|plan| stock.all.get_key_value(&plan.label));
    let archives = wal::plan(input, &Stock { all: kept.map(|(label, backup)| (*label, *backup)).collect() });
    let unknown = matches!(input.asked, Asked::Set(label) if stock.get(label).is_none());
    let newest_goes =
        stock.newest().is_some_and(|newest| backups.iter().any(|b| b.label == newest && !b.keep));
    let sets = sets(&stock, &backups);
    Ok(ExpirePlan { backups, sets, archives, unknown, newest_goes })
}

/// Groups what goes: each that goes for a reason of its own with all that go because of it.
fn sets(stock: &Stock<'_>, plans: &[BackupPlan]) -> Vec<ExpiredSet> {
    let mut heads: BTreeMap<BackupLabel, BackupLabel> = BTreeMap::new();
    let mut sets: BTreeMap<BackupLabel, ExpiredSet> = BTreeMap::new();
    // By label, what a backup builds on comes before it.
    for plan in plans.iter().filter(|plan| !plan.keep) {
        let Some(reason) = plan.reasons.first().copied() else { continue };
        let parent = stock.parent(plan.label);
        let head = parent.and_then(|parent| heads.get(&parent).copied()).unwrap_or(plan.label);
        heads.insert(plan.label, head);
        let set = sets.entry(head).or_insert_with(|| ExpiredSet { reason, labels: Vec::new() });
        set.labels.push(plan.label);
    }
    sets.into_values().collect()
}

/// The backups by label, and what can be told of them.
struct Stock<'a> {
    all: BTreeMap<BackupLabel, &'a Candidate>,
}

impl<'a> Stock<'a> {
    fn new(backups: &'a [Candidate]) -> Self {
        Self { all: backups.iter().map(|backup| (backup.label, backup)).collect() }
    }

    fn get(&self, label: BackupLabel) -> Option<&'a Candidate> {
        self.all.get(&label).copied()
    }

    fn facts(&self, label: BackupLabel) -> Option<&'a Facts> {
        self.get(label)?.facts.as_ref()
    }

    /// What a backup builds on, if it is there; where that cannot be known, its full.
    fn parent(&self, label: BackupLabel) -> Option<BackupLabel> {
        let prior = self.facts(label).and_then(|facts| facts.prior);
        [prior, Some(label.full())].into_iter().flatten().find(|&p| p != label && self.all.contains_key(&p))
    }

    /// Whether it can be restored as far as manifests tell: it and all that it builds on are there and can be read.
    fn is_whole(&self, label: BackupLabel) -> bool {
        let mut next = Some(label);
        while let Some(label) = next {
            let Some(facts) = self.facts(label) else { return false };
            // A summary names a prior of the same full that is older, so this ends.
            next = facts.prior.filter(|prior| *prior < label);
            if next.is_none() {
                return label.backup_type() == BackupType::Full;
            }
        }
        false
    }

    /// Whether nothing in it can have a wrong checksum: an unchanged page is only looked at in the backup that stored it.
    fn is_sound(&self, label: BackupLabel) -> bool {
        let mut next = Some(label);
        while let Some(facts) = next.and_then(|label| self.facts(label)) {
            if facts.error {
                return false;
            }
            next = facts.prior.filter(|prior| Some(*prior) < next);
        }
        self.is_whole(label)
    }

    /// The usable backups, newest first.
    fn whole(&self) -> Vec<BackupLabel> {
        let mut labels: Vec<BackupLabel> = self.all.keys().copied().filter(|&l| self.is_whole(l)).collect();
        labels.sort_unstable_by_key(|label| std::cmp::Reverse((label.time(), *label)));
        labels
    }

    fn newest(&self) -> Option<BackupLabel> {
        self.whole().first().copied()
    }

    /// Readable full backups, oldest first.
    fn fulls(&self) -> Vec<BackupLabel> {
        let readable = self.all.values().filter(|backup| backup.facts.is_some()).map(|backup| backup.label);
        readable.filter(|label| label.backup_type() == BackupType::Full).collect()
    }

    /// The backups of one full, itself included, oldest first.
    fn family(&self, full: BackupLabel) -> impl Iterator<Item = &'a Candidate> {
        self.all.range(full..).map(|(_, backup)| *backup).take_while(move |b| b.label.full() == full)
    }
}
