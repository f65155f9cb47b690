//! How far the archived WAL leads a recovery, as its directories tell: nothing is read, so a lost byte in a segment is not seen.

use std::collections::BTreeSet;

use pgbr_manifest::plan_restore::{Candidate, Goal};
use pgbr_manifest::{BackupLabel, Lsn, TimelineHistory, TimelineId, WalSegmentName, WalSegmentSize};
use pgbr_pg::RecoveryGoal;

use super::archives::Archives;
use crate::error::{Error, Result};
use crate::host::Host;

/// The WAL that a recovery would find.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct WalReach {
    /// The segment that it begins with.
    pub first: WalSegmentName,
    /// The last of the unbroken row that is in the archive; none where the first is missing.
    pub last: Option<WalSegmentName>,
    /// How many are in that row.
    pub segments: u64,
    /// The segment that is missing at its end, where later ones are there.
    pub gap: Option<WalSegmentName>,
    /// Whether recovery can get to its target.
    pub target: Reach,
    /// Why.
    pub reason: String,
}

/// Whether recovery can get to its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(clippy::exhaustive_enums, reason = "yes, no, and what only replay can tell")]
pub enum Reach {
    /// It can.
    Yes,
    /// It cannot.
    No,
    /// Only replay can tell.
    Unknown,
}

/// Where recovery is to end.
pub(crate) struct Aim<'a> {
    pub(crate) recovery: &'a RecoveryGoal,
    pub(crate) goal: Goal,
    pub(crate) history: Option<&'a TimelineHistory>,
    /// Backups that may show that the target was passed.
    pub(crate) backups: &'a [Candidate],
}

/// The WAL that a backup needs, whoever made it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Needed {
    pub(crate) label: BackupLabel,
    /// The segments from which and up to which.
    pub(crate) start: WalSegmentName,
    pub(crate) stop: WalSegmentName,
    /// Where it is consistent.
    pub(crate) consistent: Lsn,
    pub(crate) size: WalSegmentSize,
    /// Whether the backup brings them, so that the archive is asked for what follows.
    pub(crate) inside: bool,
    /// Whether the last of them was only begun, so that it is asked for that one, too.
    pub(crate) begun: bool,
}

/// Follows the row of segments from the first that `backup` needs.
pub(crate) async fn look(
    host: &Host,
    archives: &Archives,
    needed: &Needed,
    aim: &Aim<'_>,
) -> Result<WalReach> {
    let Needed { label, start: first, size, .. } = *needed;
    let way = Way::new(first.timeline(), aim.history, size);
    let number = |segment: WalSegmentName| {
        let damaged = || Error::Damaged { label, reason: format!("segment name {segment} cannot occur") };
        segment.number(size).ok_or_else(damaged)
    };
    let (start, stop) = (number(first)?, number(needed.stop)?);
    let (mut next, mut last) = (start, None);
    if needed.inside {
        next = if needed.begun { stop } else { stop.saturating_add(1) };
        last = (!needed.begun).then_some(needed.stop);
    }
    loop {
        host.stop.check()?;
        let found = way.segments_of_log(archives, next).await?;
        let before = next;
        while let Some(segment) = found.iter().rev().find(|segment| segment.number(size) == Some(next)) {
            (last, next) = (Some(*segment), next + 1);
        }
        if next == before || !next.is_multiple_of(size.segments_per_log()) {
            break;
        }
    }
    let later = archives.newest().await?;
    let later =
        later.filter(|newest| way.timelines.iter().any(|(timeline, _)| *timeline == newest.timeline()));
    let gap = later.and_then(|newest| newest.number(size)).filter(|newest| *newest > next);
    let gap = gap.map(|_| WalSegmentName::from_number(way.timeline_of(next), next, size));
    let stop = (!needed.inside).then_some(stop);
    let row = Row { next, stop, size, last, gap };
    let (target, reason) = row.judge(aim, needed);
    Ok(WalReach { first, last, segments: next.saturating_sub(start), gap, target, reason })
}

/// The timelines that recovery goes through, newest first, each with the first segment that it may be read from.
struct Way {
    timelines: Vec<(TimelineId, u64)>,
    size: WalSegmentSize,
}

impl Way {
    fn new(own: TimelineId, history: Option<&TimelineHistory>, size: WalSegmentSize) -> Self {
        let Some(history) = history else { return Self { timelines: vec![(own, 0)], size } };
        let mut begin = 0;
        let mut timelines = Vec::new();
        for (timeline, left) in history.ancestors() {
            timelines.push((*timeline, begin));
            begin = left.as_u64() / u64::from(size.bytes());
        }
        timelines.push((history.timeline(), begin));
        timelines.reverse();
        Self { timelines, size }
    }

    /// What is archived of the log that holds segment `number`.
    async fn segments_of_log(&self, archives: &Archives, number: u64) -> Result<BTreeSet<WalSegmentName>> {
        let per_log = self.size.segments_per_log();
        let end = (number / per_log + 1) * per_log;
        let of = |(timeline, begin): &(TimelineId, u64)| {
            let (timeline, size) = (*timeline, self.size);
            (number.max(*begin)..end).map(move |number| WalSegmentName::from_number(timeline, number, size))
        };
        archives.segments_present(self.timelines.iter().flat_map(of).collect()).await
    }

    /// The timeline that segment `number` would first be looked for on.
    fn timeline_of(&self, number: u64) -> TimelineId {
        let found = self.timelines.iter().find(|(_, begin)| *begin <= number);
        found.or(self.timelines.last()).map_or(TimelineId::new(1), |(timeline, _)| *timeline)
    }
}

/// An unbroken row of segments.
struct Row {
    /// The number of the first that is not in it.
    next: u64,
    /// The last that the backup needs to be consistent; none where it brings them.
    stop: Option<u64>,
    size: WalSegmentSize,
    last: Option<WalSegmentName>,
    gap: Option<WalSegmentName>,
}

impl Row {
    fn ends(&self) -> String {
        match (self.last, self.gap) {
            (None, _) => "the first segment is not in the archive".to_owned(),
            (Some(last), None) => format!("the archive ends with {last}"),
            (Some(last), Some(gap)) => format!("segment {gap} is missing after {last}"),
        }
    }

    fn holds(&self, lsn: Lsn) -> bool {
        lsn.previous_byte().as_u64() / u64::from(self.size.bytes()) < self.next
    }

    fn judge(&self, aim: &Aim<'_>, needed: &Needed) -> (Reach, String) {
        if self.stop.is_some_and(|stop| self.next <= stop) {
            let reason =
                format!("the backup is not consistent before {}: {}", needed.consistent, self.ends());
            return (Reach::No, reason);
        }
        match (aim.recovery, aim.goal) {
            (RecoveryGoal::Immediate | RecoveryGoal::None, _) => {
                (Reach::Yes, format!("the backup is consistent at {}", needed.consistent))
            }
            (_, Goal::Lsn(target)) if self.holds(target) => {
                (Reach::Yes, format!("{target} is in the archive"))
            }
            (_, Goal::Lsn(target)) => (Reach::No, format!("{target} comes later: {}", self.ends())),
            (_, Goal::Time(target)) => self.judge_time(aim, target),
            (RecoveryGoal::Xid(_) | RecoveryGoal::Name(_) | RecoveryGoal::Time(_), Goal::Newest) => {
                (Reach::Unknown, format!("only replay can find the target; {}", self.ends()))
            }
            (_, Goal::Newest) => {
                (Reach::Yes, format!("recovery goes to the end of the archive: {}", self.ends()))
            }
        }
    }

    /// A later backup whose WAL is in the row shows that the log goes on behind the target.
    fn judge_time(&self, aim: &Aim<'_>, target: i64) -> (Reach, String) {
        let shows = |backup: &&Candidate| {
            let Some((timeline, stop)) = backup.end else { return false };
            let on_way = aim.history.is_none_or(|history| history.contains(timeline, stop));
            backup.time_us.start > target && on_way && self.holds(stop)
        };
        match aim.backups.iter().find(shows) {
            Some(later) => (Reach::Yes, format!("backup {} was made later, and WAL goes there", later.label)),
            None => (
                Reach::Unknown,
                format!("only replay can tell when the target time is reached; {}", self.ends()),
            ),
        }
    }
}
