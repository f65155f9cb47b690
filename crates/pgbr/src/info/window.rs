//! To which moments one can go back: pure decisions over how far the WAL leads from each backup.

use std::collections::{BTreeMap, BTreeSet};

use pgbr_manifest::{BackupLabel, TimelineId, WalSegmentSize};

use crate::reach::{End, Point, Reached, Shelf, Track, Way, plan_reach};

/// A segment: the timeline in its name, and its number.
pub(super) type Segment = (TimelineId, u64);

/// What a stanza can be brought back to with one archive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct WindowPlan {
    /// In the order of their oldest backups.
    pub(super) windows: Vec<Window>,
    /// By the first segment that is missing.
    pub(super) gaps: Vec<Gap>,
    /// Backups that cannot become consistent, each with the first segment that it lacks.
    pub(super) lacking: Vec<(BackupLabel, Segment)>,
}

/// Moments without a break: from the end of the oldest backup on, through the WAL behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Window {
    /// The backups from which one gets to its end, by position. Never empty.
    pub(super) backups: Vec<BackupLabel>,
    /// The last segment that leads through it.
    pub(super) last: Segment,
    /// Where it ends.
    pub(super) end: Edge,
}

/// Where moments end that can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Edge {
    /// With this backup: no segment behind its own is there.
    Backup(BackupLabel),
    /// With this segment.
    Segment(Segment),
}

/// Segments that are missing in a row while later ones are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) first: Segment,
    pub(super) last: Segment,
    /// The backups from which one gets to it and no further, by position. Never empty.
    pub(super) cut: Vec<BackupLabel>,
    /// Where they get.
    pub(super) before: Edge,
    /// The first segment that is there again.
    pub(super) behind: Segment,
    /// The first backup behind it.
    pub(super) next: Option<BackupLabel>,
    /// Whether it is what retention leaves.
    pub(super) expired: bool,
    /// Whether it begins right behind a backup, as what an expire is removing just now does.
    pub(super) behind_backup: bool,
}

/// How far recovery from one backup gets on the way to one timeline.
#[derive(Clone, Copy)]
struct Lead<'a> {
    point: &'a Point,
    way: Way,
    track: &'a Track,
}

/// Decides from how far recovery from each backup gets. `points`: all backups of the archive; `whole`: those that can be restored.
pub(super) fn plan_windows(
    shelf: &Shelf,
    points: &[Point],
    whole: &BTreeSet<BackupLabel>,
    size: WalSegmentSize,
) -> WindowPlan {
    let reached = plan_reach(shelf, points, size);
    let used: Vec<_> =
        points.iter().zip(&reached).filter(|(point, _)| whole.contains(&point.label)).collect();
    let lacks = |(point, reached): &(&Point, &Reached)| {
        reached.lacks.first().map(|(number, _)| (point.label, (point.timeline, *number)))
    };
    let tracks: BTreeMap<TimelineId, Track> = used
        .iter()
        .flat_map(|(_, reached)| &reached.ways)
        .map(|way| (way.to, shelf.track(way.to, size)))
        .collect();
    let leads = used.iter().flat_map(|(point, reached)| reached.ways.iter().map(move |way| (*point, way)));
    let leads = leads.filter_map(|(point, way)| Some(Lead { point, way: *way, track: tracks.get(&way.to)? }));
    let mut leads: Vec<Lead<'_>> = leads.collect();
    leads.sort_by_key(|lead| (lead.point.stop, lead.point.label.time(), lead.point.label));
    WindowPlan {
        windows: windows(&leads, points),
        gaps: gaps(&leads, points),
        lacking: used.iter().filter_map(lacks).collect(),
    }
}

/// A window on the way to one timeline, before it is seen whether it is only the beginning of another.
struct Stretch<'a> {
    track: &'a Track,
    to: TimelineId,
    last: Segment,
    points: Vec<&'a Point>,
}

impl Stretch<'_> {
    /// Whether all moments of `other`, from all of its backups, are in this one.
    fn covers(&self, other: &Self) -> bool {
        let (timeline, number) = other.last;
        let passes = self.track.at(number).0 == timeline && number < self.last.1;
        // A backup that this one has, too, leads here through its own end.
        let ends = self.last == other.last || matches!(edge(&other.points, other.last), Edge::Backup(_));
        (passes || ends) && other.points.iter().all(|point| self.points.contains(point))
    }
}

fn windows(leads: &[Lead<'_>], points: &[Point]) -> Vec<Window> {
    // On one way all from which one gets to the same end lie in one row.
    let mut stretches: BTreeMap<(TimelineId, Segment), Stretch<'_>> = BTreeMap::new();
    for Lead { point, way, track } in leads {
        let new = || Stretch { track, to: way.to, last: way.last, points: Vec::new() };
        stretches.entry((way.to, way.last)).or_insert_with(new).points.push(point);
    }
    let stretches: Vec<Stretch<'_>> = stretches.into_values().collect();
    // The way to an older timeline is the beginning of the way to one that left it later, and of two that are the same one is told.
    let told = |one: &&Stretch<'_>| {
        !stretches
            .iter()
            .any(|other| other.to != one.to && other.covers(one) && (!one.covers(other) || other.to < one.to))
    };
    let window = |one: &Stretch<'_>| Window {
        backups: labels(&one.points),
        last: one.last,
        end: edge(&one.points, one.last),
    };
    let mut windows: Vec<Window> = stretches.iter().filter(told).map(window).collect();
    let place = |window: &Window| {
        let first = window.backups.first();
        (points.iter().position(|point| Some(&point.label) == first), window.last)
    };
    windows.sort_by_key(place);
    windows
}

fn gaps(leads: &[Lead<'_>], points: &[Point]) -> Vec<Gap> {
    let mut holes: BTreeMap<(Segment, Segment), Vec<(Lead<'_>, bool)>> = BTreeMap::new();
    for lead in leads {
        let (timeline, first, last, expired) = match lead.way.end {
            End::Archive => continue,
            End::Expired(timeline, first, last) => (timeline, first, last, true),
            End::Gap(timeline, first, last) => (timeline, first, last, false),
            End::Damaged(timeline, number) => (timeline, number, number, false),
        };
        let last = (lead.track.at(last).0, last);
        holes.entry(((timeline, first), last)).or_default().push((*lead, expired));
    }
    let gap = |((first, last), cut): ((Segment, Segment), Vec<(Lead<'_>, bool)>)| {
        let mut cut_points: Vec<&Point> = cut.iter().map(|(lead, _)| lead.point).collect();
        cut_points.dedup();
        let tracks: BTreeSet<TimelineId> = cut.iter().map(|(lead, _)| lead.way.to).collect();
        // By position, so the first is the nearest.
        let next = leads.iter().find(|lead| tracks.contains(&lead.way.to) && lead.point.start > last.1);
        let before = cut.iter().map(|(lead, _)| lead.way.last).max_by_key(|last| last.1).unwrap_or(first);
        let behind = last.1.saturating_add(1);
        let track = cut.first().map(|(lead, _)| lead.track.at(behind).0);
        Gap {
            first,
            last,
            before: edge(&cut_points, before),
            cut: labels(&cut_points),
            behind: (track.unwrap_or(last.0), behind),
            next: next.map(|lead| lead.point.label),
            expired: cut.iter().all(|(_, expired)| *expired),
            behind_backup: points
                .iter()
                .any(|p| p.timeline == first.0 && p.stop.checked_add(1) == Some(first.1)),
        }
    };
    holes.into_iter().map(gap).collect()
}

fn labels(points: &[&Point]) -> Vec<BackupLabel> {
    points.iter().map(|point| point.label).collect()
}

/// The end of what leads through `last`: that of the newest backup, where the segment is its own.
fn edge(points: &[&Point], last: Segment) -> Edge {
    let own = points.iter().rfind(|point| (point.timeline, point.stop) == last);
    own.map_or(Edge::Segment(last), |point| Edge::Backup(point.label))
}

#[cfg(test)]
mod tests;
