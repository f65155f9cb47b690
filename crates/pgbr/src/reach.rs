//! How far the WAL of an archive leads from each backup: pure decisions over what is there, for `verify` and `info`.

use std::collections::{BTreeMap, BTreeSet};

use pgbr_manifest::{BackupLabel, Lsn, TimelineHistory, TimelineId, WalSegmentSize};

/// Numbers of segments, as unbroken rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rows(BTreeMap<u64, u64>);

impl Rows {
    /// Adds a segment.
    pub(crate) fn add(&mut self, number: u64) {
        if self.holds(number) {
            return;
        }
        let behind = number.checked_add(1).and_then(|next| self.0.remove(&next));
        let end = behind.unwrap_or(number);
        let before =
            self.0.range_mut(..number).next_back().filter(|(_, last)| last.checked_add(1) == Some(number));
        match before {
            Some((_, last)) => *last = end,
            None => drop(self.0.insert(number, end)),
        }
    }

    /// The last of the row that holds a segment.
    pub(crate) fn end_of(&self, number: u64) -> Option<u64> {
        self.0.range(..=number).next_back().map(|(_, end)| *end).filter(|end| *end >= number)
    }

    /// The first segment from `number` on.
    fn next(&self, number: u64) -> Option<u64> {
        match self.end_of(number) {
            Some(_) => Some(number),
            None => self.0.range(number..).next().map(|(start, _)| *start),
        }
    }

    /// Whether a segment is in one of them.
    pub(crate) fn holds(&self, number: u64) -> bool {
        self.end_of(number).is_some()
    }

    /// First and last of each row.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().map(|(start, end)| (*start, *end))
    }
}

/// What an archive holds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shelf {
    /// The segments that are there and sound, by timeline.
    pub(crate) rows: BTreeMap<TimelineId, Rows>,
    /// The segments that are there and damaged.
    pub(crate) damaged: BTreeSet<(TimelineId, u64)>,
    /// Where backups began that need not exist any more, as the notes tell that the server archives behind each.
    pub(crate) marks: BTreeSet<(TimelineId, u64)>,
    /// The histories that could be read.
    pub(crate) histories: BTreeMap<TimelineId, TimelineHistory>,
}

impl Shelf {
    /// The way to a timeline: by its history, or where there is none that of the timeline alone.
    pub(crate) fn track(&self, to: TimelineId, size: WalSegmentSize) -> Track {
        self.histories.get(&to).map_or_else(|| Track::own(to), |history| Track::of(history, size))
    }
}

/// A backup as the archive sees it: the segments that it needs to become consistent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Point {
    pub(crate) label: BackupLabel,
    pub(crate) timeline: TimelineId,
    pub(crate) start: u64,
    pub(crate) stop: u64,
    /// Where it is consistent.
    pub(crate) lsn: Lsn,
    /// Whether it brings these segments in its own `pg_wal`.
    pub(crate) inside: bool,
    /// Whether the last of these was only begun: to go on, recovery needs it of the archive.
    pub(crate) begun: bool,
}

/// What recovery from a backup finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reached {
    pub(crate) label: BackupLabel,
    /// What it needs to become consistent and does not have: missing segments and damaged ones.
    pub(crate) lacks: Vec<(u64, Lack)>,
    /// How far it gets, by timeline; empty where it cannot become consistent.
    pub(crate) ways: Vec<Way>,
}

/// Why a segment cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lack {
    Missing,
    Damaged,
}

/// How far a recovery gets on its way to a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) to: TimelineId,
    /// The last segment that it reads, and the timeline in its name.
    pub(crate) last: (TimelineId, u64),
    pub(crate) end: End,
}

/// Why a recovery goes no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    /// There is no more.
    Archive,
    /// Segments from the first to the last number are missing, named as of this timeline, as retention leaves it.
    Expired(TimelineId, u64, u64),
    /// The same, and retention does not leave it so.
    Gap(TimelineId, u64, u64),
    /// The segment is damaged.
    Damaged(TimelineId, u64),
}

/// Follows the WAL from each backup. `points`: all backups of the archive, those that only retention has to know included.
pub(crate) fn plan_reach(shelf: &Shelf, points: &[Point], size: WalSegmentSize) -> Vec<Reached> {
    points.iter().map(|point| reach(shelf, points, point, size)).collect()
}

fn reach(shelf: &Shelf, points: &[Point], point: &Point, size: WalSegmentSize) -> Reached {
    let lacks = lacking(shelf, point);
    let leads = |history: &&TimelineHistory| {
        history.timeline() != point.timeline && history.contains(point.timeline, point.lsn)
    };
    let ways = match lacks.is_empty() {
        false => Vec::new(),
        true => {
            let own = Track::own(point.timeline);
            let later = shelf.histories.values().filter(leads).map(|history| Track::of(history, size));
            std::iter::once(own).chain(later).map(|track| follow(shelf, points, point, &track)).collect()
        }
    };
    Reached { label: point.label, lacks, ways }
}

/// How many segments that a backup lacks are told one by one.
const MAX_LACKS: usize = 100;

fn lacking(shelf: &Shelf, point: &Point) -> Vec<(u64, Lack)> {
    if point.inside {
        return Vec::new();
    }
    let rows = shelf.rows.get(&point.timeline);
    let (mut number, mut lacks) = (point.start, Vec::new());
    while number <= point.stop && lacks.len() < MAX_LACKS {
        match rows.and_then(|rows| rows.end_of(number)) {
            Some(end) => number = end,
            None if shelf.damaged.contains(&(point.timeline, number)) => lacks.push((number, Lack::Damaged)),
            None => lacks.push((number, Lack::Missing)),
        }
        let Some(next) = number.checked_add(1) else { break };
        number = next;
    }
    lacks
}

/// The timelines that lead to one of them, oldest first, each with the first segment that is read of it.
pub(crate) struct Track(Vec<(TimelineId, u64)>);

impl Track {
    fn own(timeline: TimelineId) -> Self {
        Self(vec![(timeline, 0)])
    }

    fn of(history: &TimelineHistory, size: WalSegmentSize) -> Self {
        let (mut parts, mut begin) = (Vec::new(), 0);
        for (timeline, left) in history.ancestors() {
            parts.push((*timeline, begin));
            begin = left.as_u64() / u64::from(size.bytes());
        }
        parts.push((history.timeline(), begin));
        Self(parts)
    }

    fn to(&self) -> TimelineId {
        self.0.last().map_or(TimelineId::new(1), |(timeline, _)| *timeline)
    }

    /// The timeline of which segment `number` is read, and the first segment that is read of a later one.
    pub(crate) fn at(&self, number: u64) -> (TimelineId, Option<u64>) {
        let place = self.0.iter().rposition(|(_, begin)| *begin <= number).unwrap_or(0);
        let timeline = self.0.get(place).map_or(TimelineId::new(1), |(timeline, _)| *timeline);
        (timeline, self.0.get(place + 1).map(|(_, begin)| *begin))
    }

    /// The first segment that is read of the timeline after this one.
    fn after(&self, timeline: TimelineId) -> Option<u64> {
        let place = self.0.iter().position(|(part, _)| *part == timeline)?;
        self.0.get(place + 1).map(|(_, begin)| *begin)
    }

    /// The first segment from `number` on that is there, sound or damaged.
    fn next(&self, shelf: &Shelf, number: u64) -> Option<u64> {
        let mut from = number;
        loop {
            let (timeline, until) = self.at(from);
            let sound = shelf.rows.get(&timeline).and_then(|rows| rows.next(from));
            let damaged =
                shelf.damaged.range((timeline, from)..=(timeline, u64::MAX)).next().map(|(_, n)| *n);
            let next = sound.into_iter().chain(damaged).min();
            match (next, until) {
                (Some(next), None) => return Some(next),
                (Some(next), Some(until)) if next < until => return Some(next),
                (_, Some(until)) => from = until,
                (None, None) => return None,
            }
        }
    }
}

fn follow(shelf: &Shelf, points: &[Point], point: &Point, track: &Track) -> Way {
    let (to, mut last) = (track.to(), (point.timeline, point.stop));
    // Where the next timeline begins in the segment that the backup ends in, that segment is read of it, too.
    let fork = track.after(point.timeline);
    let behind = if point.begun { Some(point.stop) } else { point.stop.checked_add(1) };
    let mut next = behind.map(|next| fork.map_or(next, |fork| fork.min(next)));
    loop {
        let Some(number) = next else { return Way { to, last, end: End::Archive } };
        let (timeline, until) = track.at(number);
        if let Some(end) = shelf.rows.get(&timeline).and_then(|rows| rows.end_of(number)) {
            last = (timeline, until.map_or(end, |until| end.min(until - 1)));
            next = last.1.checked_add(1);
            continue;
        }
        if shelf.damaged.contains(&(timeline, number)) {
            return Way { to, last, end: End::Damaged(timeline, number) };
        }
        let end = match track.next(shelf, number) {
            None => End::Archive,
            Some(next) if is_expired(shelf, points, track, number, next) => {
                End::Expired(timeline, number, next - 1)
            }
            Some(next) => End::Gap(timeline, number, next - 1),
        };
        return Way { to, last, end };
    }
}

/// Whether what lies from `first` up to `next` was removed by retention: it leaves each older backup what makes it consistent, so what is
/// missing begins behind the last segment of a backup and ends before the first of another, which may have been removed since then.
fn is_expired(shelf: &Shelf, points: &[Point], track: &Track, first: u64, next: u64) -> bool {
    let on_way = |number: u64, timeline: TimelineId| track.at(number).0 == timeline;
    let forks = |p: &Point| p.stop == first && track.after(p.timeline) == Some(first);
    let ends = |p: &Point| forks(p) || (p.stop.checked_add(1) == Some(first) && on_way(p.stop, p.timeline));
    let begins = |p: &Point| p.start == next && on_way(p.start, p.timeline);
    let began = shelf.marks.contains(&(track.at(next).0, next));
    points.iter().any(ends) && (began || points.iter().any(begins))
}

#[cfg(fuzzing)]
mod fuzzing;
#[cfg(fuzzing)]
pub(crate) use fuzzing::compare as compare_reach;

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: TimelineId = TimelineId::new(1);
    const TWO: TimelineId = TimelineId::new(2);

    fn shelf(rows: &[(u32, std::ops::RangeInclusive<u64>)], damaged: &[(u32, u64)]) -> Shelf {
        let mut shelf = Shelf::default();
        for (timeline, numbers) in rows {
            let row = shelf.rows.entry(TimelineId::new(*timeline)).or_default();
            // Backwards and forwards: listings come in any order.
            numbers.clone().rev().step_by(2).for_each(|n| row.add(n));
            numbers.clone().for_each(|n| row.add(n));
        }
        shelf.damaged = damaged.iter().map(|(t, n)| (TimelineId::new(*t), *n)).collect();
        shelf
    }

    /// The first with this number of day.
    fn point(day: u32, timeline: TimelineId, start: u64, stop: u64) -> Point {
        let label = format!("202611{day:02}-120000F").parse().unwrap();
        Point { label, timeline, start, stop, lsn: Lsn::new((stop << 24) + 100), inside: false, begun: false }
    }

    #[test]
    fn what_a_backup_brings_need_not_be_in_the_archive() {
        let (brings, needs) = (Point { inside: true, ..point(1, ONE, 3, 4) }, point(2, ONE, 3, 4));
        for (rows, last) in [(vec![], 4), (vec![(1, 5..=9)], 9), (vec![(1, 3..=6)], 6)] {
            let reached = plan_reach(&shelf(&rows, &[]), &[brings, needs], WalSegmentSize::DEFAULT);
            assert!(reached[0].lacks.is_empty());
            assert_eq!(reached[0].ways, [Way { to: ONE, last: (ONE, last), end: End::Archive }]);
            assert_eq!(reached[1].ways.is_empty(), last != 6, "{rows:?}");
        }
        // Of a stopped cluster the last segment was only begun: without the rest of it nobody gets further.
        let stopped = Point { begun: true, ..brings };
        let ways = |rows| plan_reach(&shelf(rows, &[]), &[stopped], WalSegmentSize::DEFAULT)[0].ways.clone();
        let way = |last, end| vec![Way { to: ONE, last: (ONE, last), end }];
        assert_eq!(ways(&[]), way(4, End::Archive));
        assert_eq!(ways(&[(1, 5..=9)]), way(4, End::Gap(ONE, 4, 4)));
        assert_eq!(ways(&[(1, 4..=9)]), way(9, End::Archive));
    }

    fn ends(shelf: &Shelf, points: &[Point]) -> Vec<Vec<(u32, u64, End)>> {
        let reached = plan_reach(shelf, points, WalSegmentSize::DEFAULT);
        let way = |way: &Way| (way.to.as_u32(), way.last.1, way.end);
        reached.iter().map(|reached| reached.ways.iter().map(way).collect()).collect()
    }

    #[test]
    fn rows_join() {
        let mut rows = Rows::default();
        for number in [5, 3, 9, 4, 4, 0, u64::MAX] {
            rows.add(number);
        }
        assert_eq!(rows.iter().collect::<Vec<_>>(), [(0, 0), (3, 5), (9, 9), (u64::MAX, u64::MAX)]);
        assert_eq!(
            (rows.end_of(4), rows.end_of(6), rows.next(6), rows.next(4)),
            (Some(5), None, Some(9), Some(4))
        );
    }

    #[test]
    fn where_recovery_ends_on_one_timeline() {
        let (a, b) = (point(1, ONE, 3, 4), point(2, ONE, 10, 11));
        type Case =
            (&'static str, Vec<(u32, std::ops::RangeInclusive<u64>)>, Vec<(u32, u64)>, [End; 2], [u64; 2]);
        let cases: [Case; 9] = [
            ("whole", vec![(1, 1..=20)], vec![], [End::Archive, End::Archive], [20, 20]),
            (
                "nothing behind the backups",
                vec![(1, 3..=4), (1, 10..=11)],
                vec![],
                [End::Expired(ONE, 5, 9), End::Archive],
                [4, 11],
            ),
            (
                "what expire leaves",
                vec![(1, 3..=4), (1, 10..=20)],
                vec![],
                [End::Expired(ONE, 5, 9), End::Archive],
                [4, 20],
            ),
            (
                "lost behind the first, not up to the second",
                vec![(1, 3..=4), (1, 8..=20)],
                vec![],
                [End::Gap(ONE, 5, 7), End::Archive],
                [4, 20],
            ),
            (
                "lost up to the second, not from the first on",
                vec![(1, 3..=6), (1, 10..=20)],
                vec![],
                [End::Gap(ONE, 7, 9), End::Archive],
                [6, 20],
            ),
            (
                "lost behind both",
                vec![(1, 3..=14), (1, 16..=20)],
                vec![],
                [End::Gap(ONE, 15, 15), End::Gap(ONE, 15, 15)],
                [14, 14],
            ),
            (
                "lost right behind the second",
                vec![(1, 3..=11), (1, 13..=20)],
                vec![],
                [End::Gap(ONE, 12, 12), End::Gap(ONE, 12, 12)],
                [11, 11],
            ),
            (
                "damaged",
                vec![(1, 3..=14), (1, 16..=20)],
                vec![(1, 15)],
                [End::Damaged(ONE, 15), End::Damaged(ONE, 15)],
                [14, 14],
            ),
            (
                "damaged behind a gap",
                vec![(1, 3..=12)],
                vec![(1, 15)],
                [End::Gap(ONE, 13, 14), End::Gap(ONE, 13, 14)],
                [12, 12],
            ),
        ];
        for (what, rows, damaged, wanted, last) in cases {
            let found = ends(&shelf(&rows, &damaged), &[a, b]);
            let wanted: Vec<_> = wanted.iter().zip(last).map(|(end, last)| vec![(1, last, *end)]).collect();
            assert_eq!(found, wanted, "{what}");
        }
    }

    #[test]
    fn what_a_backup_needs_itself() {
        let a = point(1, ONE, 3, 6);
        for (rows, damaged, wanted) in [
            (vec![(1, 3..=6)], vec![], vec![]),
            (vec![(1, 3..=4), (1, 6..=9)], vec![], vec![(5, Lack::Missing)]),
            (vec![(1, 3..=4), (1, 6..=9)], vec![(1, 5)], vec![(5, Lack::Damaged)]),
            (vec![(1, 5..=5)], vec![], vec![(3, Lack::Missing), (4, Lack::Missing), (6, Lack::Missing)]),
            (vec![(2, 1..=9)], vec![], (3..=6).map(|n| (n, Lack::Missing)).collect()),
        ] {
            let reached = plan_reach(&shelf(&rows, &damaged), &[a], WalSegmentSize::DEFAULT);
            assert_eq!(reached[0].lacks, wanted, "{rows:?}");
            assert_eq!(reached[0].ways.is_empty(), !wanted.is_empty(), "{rows:?}");
        }
        // A backup of no size at all would be one of a hundred thousand segments.
        let long = Point { stop: u64::MAX, ..a };
        assert_eq!(plan_reach(&Shelf::default(), &[long], WalSegmentSize::DEFAULT)[0].lacks.len(), MAX_LACKS);
    }

    #[test]
    fn timelines_part() {
        // Timeline 2 left 1 in segment 8; the first backup is before that, the second behind it, the third on the new timeline.
        let history = TimelineHistory::parse(TWO, b"1\t0/8000100\twhy\n").unwrap();
        let (a, b, c) = (point(1, ONE, 3, 4), point(2, ONE, 9, 9), point(3, TWO, 12, 12));
        let with = |rows: &[(u32, std::ops::RangeInclusive<u64>)]| Shelf {
            histories: BTreeMap::from([(TWO, history.clone())]),
            ..shelf(rows, &[])
        };
        for (what, rows, wanted) in [
            (
                "whole",
                vec![(1, 3..=10), (2, 8..=20)],
                vec![
                    vec![(1, 10, End::Archive), (2, 20, End::Archive)],
                    vec![(1, 10, End::Archive)],
                    vec![(2, 20, End::Archive)],
                ],
            ),
            (
                "the first segment of the new timeline is lost",
                vec![(1, 3..=10), (2, 9..=20)],
                vec![
                    vec![(1, 10, End::Archive), (2, 7, End::Gap(TWO, 8, 8))],
                    vec![(1, 10, End::Archive)],
                    vec![(2, 20, End::Archive)],
                ],
            ),
            (
                "retention has left the third all that follows, and the others themselves",
                vec![(1, 3..=4), (1, 9..=9), (2, 12..=20)],
                vec![
                    vec![(1, 4, End::Expired(ONE, 5, 8)), (2, 4, End::Expired(ONE, 5, 11))],
                    vec![(1, 9, End::Archive)],
                    vec![(2, 20, End::Archive)],
                ],
            ),
            (
                "the new timeline has nothing yet",
                vec![(1, 3..=10)],
                vec![vec![(1, 10, End::Archive), (2, 7, End::Archive)], vec![(1, 10, End::Archive)], vec![]],
            ),
        ] {
            assert_eq!(ends(&with(&rows), &[a, b, c]), wanted, "{what}");
        }
    }

    #[test]
    fn a_backup_that_is_gone_has_left_its_mark() {
        let rows = [(1, 3..=4), (1, 8..=8), (1, 10..=20)];
        let (a, b) = (point(1, ONE, 3, 4), point(2, ONE, 10, 11));
        for (marks, end) in [
            (vec![], End::Gap(ONE, 5, 7)),
            (vec![(ONE, 8)], End::Expired(ONE, 5, 7)),
            (vec![(TWO, 8), (ONE, 7)], End::Gap(ONE, 5, 7)),
        ] {
            let shelf = Shelf { marks: marks.iter().copied().collect(), ..shelf(&rows, &[]) };
            assert_eq!(ends(&shelf, &[a, b])[0], [(1, 4, end)], "{marks:?}");
        }
    }

    #[test]
    fn a_timeline_may_begin_in_the_last_segment_of_a_backup() {
        let history = TimelineHistory::parse(TWO, b"1\t0/8000100\twhy\n").unwrap();
        let (a, b) = (point(1, ONE, 8, 8), point(2, TWO, 12, 12));
        for (what, rows, wanted) in [
            ("whole", vec![(1, 8..=9), (2, 8..=20)], (20, End::Archive)),
            ("lost", vec![(1, 8..=9), (2, 9..=20)], (8, End::Gap(TWO, 8, 8))),
            ("what expire leaves", vec![(1, 8..=8), (2, 12..=20)], (8, End::Expired(TWO, 8, 11))),
            ("nothing yet", vec![(1, 8..=9)], (8, End::Archive)),
        ] {
            let shelf = Shelf { histories: BTreeMap::from([(TWO, history.clone())]), ..shelf(&rows, &[]) };
            assert_eq!(ends(&shelf, &[a, b])[0][1], (2, wanted.0, wanted.1), "{what}");
        }
    }

    /// Rows hold what a set holds, in whatever order segments come.
    #[test]
    fn rows_are_sets() {
        for seed in 1..200_u64 {
            let (mut rows, mut set, mut state) = (Rows::default(), BTreeSet::new(), seed);
            for _ in 0..60 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                rows.add((state >> 33) % 40);
                set.insert((state >> 33) % 40);
            }
            let all: BTreeSet<u64> = rows.iter().flat_map(|(start, end)| start..=end).collect();
            assert_eq!(all, set, "{seed}");
            let ends: Vec<_> = rows.iter().collect();
            assert!(ends.windows(2).all(|two| two[0].1 + 1 < two[1].0), "{seed}: {ends:?}");
        }
    }
}
