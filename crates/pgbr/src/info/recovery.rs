//! What an archive leads back to: one listing from its oldest backup on, and the histories of its timelines. No other object is read.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use pgbr_manifest::manifest::Summary;
use pgbr_manifest::{
    ArchiveId, BackupLabel, TimelineHistory, TimelineId, WalFileName, WalSegmentName, WalSegmentSize,
};
use pgbr_repo::{WalBounds, WalEntry, WalGet, WalLog};

use super::window::{Edge, Gap, Segment, Window, WindowPlan, plan_windows};
use crate::error::{Error, Result, with_causes};
use crate::host::Host;
use crate::load::{is_unreadable, load};
use crate::place::StanzaPlace;
use crate::reach::{Point, Shelf};

/// A gap is looked at again where what follows it is not older, in seconds: segments may come out of order.
const YOUNG: i64 = 60;
/// How long is waited between these looks.
const LOOKS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(2)];
/// How many histories are read at once.
const HISTORIES: usize = 16;

/// What an archive holds.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ArchiveInfo {
    /// Its id.
    pub id: ArchiveId,
    /// Its first and last segment; none where it has none.
    pub bounds: Option<WalBounds>,
    /// To which moments one can go back with it; none where that was not asked for.
    pub recovery: Option<RecoveryWindows>,
}

/// To which moments one can go back, as names and times of what is there tell: nothing is opened, so damage is not seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryWindows {
    /// Moments without a break, in the order of their oldest backups. Those of timelines that part have the moments before in common.
    pub windows: Vec<RecoveryWindow>,
    /// What is missing between WAL that is there, by its first segment.
    pub gaps: Vec<RecoveryGap>,
    /// Backups that cannot become consistent, each with the first segment that it lacks: they begin no window.
    pub unusable: Vec<(BackupLabel, WalSegmentName)>,
}

/// Moments without a break: one can go back to each of them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryWindow {
    /// The timeline that recovery is on at the end.
    pub timeline: TimelineId,
    /// When the oldest backup ended, in Unix seconds by the clock of its server.
    pub from: i64,
    /// When the last segment was archived, in Unix seconds by the clock of the store: a little after the last transaction in it. Where no
    /// segment is there behind that of the last backup, or the clocks contradict each other, when that backup ended.
    pub to: i64,
    /// The first segment that the oldest backup needs.
    pub first: WalSegmentName,
    /// The last segment.
    pub last: WalSegmentName,
    /// The backups from which recovery gets to the end, oldest first.
    pub backups: Vec<BackupLabel>,
}

/// Segments that are missing while later ones are there.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryGap {
    /// Why they are missing.
    pub reason: GapReason,
    /// From here on one cannot go back, in Unix seconds: as [`RecoveryWindow::to`].
    pub from: i64,
    /// Until here, in Unix seconds: the end of the next backup; none where there is none yet.
    pub to: Option<i64>,
    /// The first that is missing.
    pub first: WalSegmentName,
    /// The last that is missing.
    pub last: WalSegmentName,
    /// How many are missing.
    pub segments: u64,
    /// The backups from which recovery gets no further, oldest first.
    pub backups: Vec<BackupLabel>,
}

/// Why segments are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "they were lost, they were removed, or that is not known")]
pub enum GapReason {
    /// They are lost, or were never archived.
    Missing,
    /// Retention leaves an older backup what makes it consistent, and no more.
    Retention,
    /// They begin right behind a backup, and somebody writes to the stanza: it may be an expire that is removing them.
    Unsure,
}

impl GapReason {
    /// The reason in a word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Retention => "retention",
            Self::Unsure => "unsure",
        }
    }
}

/// Looks to which moments an archive leads. `backups`: all of its stanza, oldest first.
pub(super) async fn recovery_windows(
    host: &Host,
    place: &StanzaPlace,
    archive: ArchiveId,
    backups: &[Summary],
) -> Result<RecoveryWindows> {
    let of_it = || backups.iter().filter(|backup| backup.database.id == archive.number());
    let Some(first) = of_it().map(|backup| backup.wal.start).min() else {
        return Ok(RecoveryWindows::default());
    };
    let size = segment_size(place, of_it()).await?;
    let mut look =
        Look { host, place, archive, size, backups, points: points(of_it(), size), seen: Seen::default() };
    look.list(first).await?;
    look.histories().await?;
    let plan = look.settled().await?;
    look.told(plan).await
}

/// The size of an archive's segments: what names and positions of some backup tell, else what a manifest says.
async fn segment_size(
    place: &StanzaPlace,
    backups: impl DoubleEndedIterator<Item = &Summary> + Clone,
) -> Result<WalSegmentSize> {
    let tell = |backup: &Summary| {
        let by_start = WalSegmentSize::told_by(backup.wal.start, backup.lsn.start);
        by_start.or_else(|| WalSegmentSize::told_by(backup.wal.stop, backup.lsn.stop.previous_byte()))
    };
    if let Some(size) = backups.clone().rev().find_map(tell) {
        return Ok(size);
    }
    for backup in backups.rev() {
        match load(&place.backups, backup.label).await {
            Ok(backup) => return Ok(backup.body.cluster.wal_segment_size),
            // It may have expired.
            Err(Error::Repo(error)) if error.is_not_found() => {}
            Err(error) if is_unreadable(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(WalSegmentSize::DEFAULT)
}

/// The backups as the archive sees them. One whose segments cannot occur is none.
fn points<'a>(backups: impl Iterator<Item = &'a Summary>, size: WalSegmentSize) -> Vec<Point> {
    let point = |backup: &Summary| {
        let (start, stop) = (backup.wal.start.number(size)?, backup.wal.stop.number(size)?);
        let (timeline, lsn) = (backup.wal.stop.timeline(), backup.lsn.stop);
        let (label, inside, begun) = (backup.label, backup.wal_inside, backup.offline);
        Some(Point { label, timeline, start, stop, lsn, inside, begun })
    };
    backups.filter_map(point).collect()
}

/// An archive that is looked at.
struct Look<'a> {
    host: &'a Host,
    place: &'a StanzaPlace,
    archive: ArchiveId,
    size: WalSegmentSize,
    backups: &'a [Summary],
    points: Vec<Point>,
    seen: Seen,
}

/// What was seen of it: rows of segments, never all names.
#[derive(Default)]
struct Seen {
    shelf: Shelf,
    /// When the segments were archived that lack a neighbour.
    times: BTreeMap<Segment, i64>,
    histories: BTreeSet<TimelineId>,
}

impl Seen {
    fn add(&mut self, entry: &WalEntry, size: WalSegmentSize) {
        let place = |segment: WalSegmentName| Some((segment.timeline(), segment.number(size)?));
        match entry.file {
            WalFileName::Segment(segment) if !entry.is_too_small() => {
                self.segment(place(segment), entry.modified);
            }
            WalFileName::BackupHistory(segment, _) => self.shelf.marks.extend(place(segment)),
            WalFileName::History(timeline) => drop(self.histories.insert(timeline)),
            WalFileName::Segment(_) | WalFileName::Partial(_) => {}
        }
    }

    fn segment(&mut self, segment: Option<Segment>, modified: i64) {
        let Some((timeline, number)) = segment else { return };
        let rows = self.shelf.rows.entry(timeline).or_default();
        rows.add(number);
        let time = self.times.entry((timeline, number)).or_insert(modified);
        *time = modified.max(*time);
        let inner = |at: u64| at > 0 && rows.holds(at - 1) && rows.holds(at.saturating_add(1));
        for at in [number.saturating_sub(1), number, number.saturating_add(1)] {
            if inner(at) {
                self.times.remove(&(timeline, at));
            }
        }
    }
}

impl Look<'_> {
    fn name(&self, (timeline, number): Segment) -> WalSegmentName {
        WalSegmentName::from_number(timeline, number, self.size)
    }

    async fn list(&mut self, first: WalSegmentName) -> Result<()> {
        let mut files = self.place.wal.files_from(self.archive, first);
        while let Some(entry) = files.try_next().await? {
            self.host.stop.check()?;
            self.seen.add(&entry, self.size);
        }
        Ok(())
    }

    /// Reads the histories of the timelines that some backup may lead to: those that came later and have WAL.
    async fn histories(&mut self) -> Result<()> {
        let oldest = self.points.iter().map(|point| point.timeline).min();
        let leads =
            |timeline: &TimelineId| Some(*timeline) > oldest && self.seen.shelf.rows.contains_key(timeline);
        let wanted: Vec<TimelineId> = self.seen.histories.iter().copied().filter(leads).collect();
        let (place, archive) = (self.place, self.archive);
        let reads = wanted
            .into_iter()
            .map(|timeline| async move { (timeline, history(place, archive, timeline).await) });
        let mut reads = futures::stream::iter(reads).buffer_unordered(HISTORIES);
        while let Some((timeline, read)) = reads.next().await {
            match read {
                Ok(history) => self.seen.shelf.histories.extend(history.map(|history| (timeline, history))),
                Err(error) if is_unreadable(&error) => self.host.warn(format!(
                    "the way to timeline {timeline} of archive {archive} is not known: {}",
                    with_causes(&error)
                )),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn plan(&self) -> WindowPlan {
        let listed: BTreeMap<BackupLabel, &Summary> =
            self.backups.iter().map(|backup| (backup.label, backup)).collect();
        let is_whole = |label: &BackupLabel| {
            let mut next = Some(*label);
            while let Some(label) = next {
                let Some(backup) = listed.get(&label) else { return false };
                next = backup.prior;
            }
            true
        };
        let whole = self.points.iter().map(|point| point.label).filter(is_whole).collect();
        plan_windows(&self.seen.shelf, &self.points, &whole, self.size)
    }

    /// What is there once what is on its way has come, and without backups that have expired meanwhile.
    async fn settled(&mut self) -> Result<WindowPlan> {
        for wait in LOOKS {
            let plan = self.plan();
            let young = plan.gaps.iter().filter(|gap| self.is_young(gap));
            let Some(first) = young.map(|gap| self.name(gap.first)).min() else { break };
            tokio::time::sleep(wait).await;
            self.list(first).await?;
        }
        let plan = self.plan();
        let mut gone = Vec::new();
        for (label, _) in &plan.lacking {
            if !self.place.backups.exists(label).await? {
                gone.push(*label);
            }
        }
        if gone.is_empty() {
            return Ok(plan);
        }
        self.points.retain(|point| !gone.contains(&point.label));
        Ok(self.plan())
    }

    fn is_young(&self, gap: &Gap) -> bool {
        let archived = self.seen.times.get(&gap.behind);
        !gap.expired
            && archived.is_some_and(|archived| self.host.now_seconds().saturating_sub(*archived) < YOUNG)
    }

    /// What was decided, with names and times.
    async fn told(&self, plan: WindowPlan) -> Result<RecoveryWindows> {
        let mut told = RecoveryWindows::default();
        for window in &plan.windows {
            told.windows.extend(self.window(window).await?);
        }
        let in_doubt = plan.gaps.iter().any(|gap| !gap.expired && gap.behind_backup);
        let busy = in_doubt && self.place.is_busy(self.host).await?;
        for gap in plan.gaps {
            told.gaps.push(self.gap(gap, busy).await?);
        }
        told.unusable = plan.lacking.iter().map(|(label, segment)| (*label, self.name(*segment))).collect();
        Ok(told)
    }

    async fn window(&self, window: &Window) -> Result<Option<RecoveryWindow>> {
        let summary = |label: &BackupLabel| self.backups.iter().find(|backup| backup.label == *label);
        let Some(oldest) = window.backups.first().and_then(summary) else { return Ok(None) };
        let from = ended(oldest);
        Ok(Some(RecoveryWindow {
            timeline: window.last.0,
            from,
            to: self.end(window.end, &window.backups).await?.max(from),
            first: oldest.wal.start,
            last: self.name(window.last),
            backups: window.backups.clone(),
        }))
    }

    async fn gap(&self, gap: Gap, busy: bool) -> Result<RecoveryGap> {
        let reason = match (gap.expired, gap.behind_backup && busy) {
            (true, _) => GapReason::Retention,
            (false, true) => GapReason::Unsure,
            (false, false) => GapReason::Missing,
        };
        Ok(RecoveryGap {
            reason,
            from: self.end(gap.before, &gap.cut).await?,
            to: gap.next.and_then(|label| self.end_of(label)),
            first: self.name(gap.first),
            last: self.name(gap.last),
            segments: gap.last.1.saturating_sub(gap.first.1).saturating_add(1),
            backups: gap.cut,
        })
    }

    fn end_of(&self, label: BackupLabel) -> Option<i64> {
        self.backups.iter().find(|backup| backup.label == label).map(ended)
    }

    /// The last moment that is reached from some backups: not before the newest of them ended, whatever the clock of the store says.
    async fn end(&self, edge: Edge, backups: &[BackupLabel]) -> Result<i64> {
        let newest = backups.last().and_then(|label| self.end_of(*label)).unwrap_or_default();
        Ok(match edge {
            Edge::Backup(_) => newest,
            Edge::Segment(segment) => self.archived(segment).await?.map_or(newest, |at| at.max(newest)),
        })
    }

    /// When a segment was archived; none where it went away just now.
    async fn archived(&self, segment: Segment) -> Result<Option<i64>> {
        if let Some(archived) = self.seen.times.get(&segment) {
            return Ok(Some(*archived));
        }
        // In the middle of a row: its timeline was left there.
        let file = WalFileName::Segment(self.name(segment));
        let Some(log) = WalLog::of(&file) else { return Ok(None) };
        let listed = self.place.wal.files(self.archive, &log).await?;
        Ok(listed.iter().filter(|entry| entry.file == file).map(|entry| entry.modified).max())
    }
}

/// When a backup ended, in whole seconds by its server's clock: the first moment that one can go back to.
fn ended(backup: &Summary) -> i64 {
    let micros = backup.server_time_us.stop;
    micros.div_euclid(1_000_000) + i64::from(micros.rem_euclid(1_000_000) > 0)
}

async fn history(
    place: &StanzaPlace,
    archive: ArchiveId,
    timeline: TimelineId,
) -> Result<Option<TimelineHistory>> {
    match place.wal.get(archive, &WalFileName::History(timeline)).await? {
        WalGet::Found(found) => Ok(Some(TimelineHistory::parse(timeline, &found.content)?)),
        WalGet::Missing => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In whatever order segments come, the times of those are kept that lack a neighbour, and of no others.
    #[test]
    fn times_are_kept_at_the_ends_of_rows() {
        let one = TimelineId::new(1);
        for order in [[3, 4, 5, 8, 0], [5, 3, 8, 4, 0], [4, 0, 5, 8, 3], [8, 5, 4, 3, 0]] {
            let mut seen = Seen::default();
            for number in order {
                seen.segment(Some((one, number)), 100 + i64::try_from(number).unwrap());
            }
            let times: Vec<_> = seen.times.iter().map(|((_, number), time)| (*number, *time)).collect();
            assert_eq!(times, [(0, 100), (3, 103), (5, 105), (8, 108)], "{order:?}");
            // A second object of it, put later.
            seen.segment(Some((one, 5)), 200);
            seen.segment(Some((one, 4)), 300);
            assert_eq!((seen.times.get(&(one, 5)), seen.times.get(&(one, 4))), (Some(&200), None));
        }
    }
}
