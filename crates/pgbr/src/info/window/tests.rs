//! Windows in cases that can be read, and against a model that goes from segment to segment.

use std::ops::RangeInclusive;

use pgbr_manifest::{Lsn, TimelineHistory};
use proptest::prelude::*;

use super::*;

const SIZE: WalSegmentSize = WalSegmentSize::DEFAULT;
const ONE: TimelineId = TimelineId::new(1);
const TWO: TimelineId = TimelineId::new(2);

/// Timeline and number of a segment.
type Plain = (u32, u64);

fn shelf(rows: &[(u32, RangeInclusive<u64>)], histories: &[(u32, &str)]) -> Shelf {
    let mut shelf = Shelf::default();
    for (timeline, numbers) in rows {
        let row = shelf.rows.entry(TimelineId::new(*timeline)).or_default();
        numbers.clone().for_each(|number| row.add(number));
    }
    for (timeline, text) in histories {
        let timeline = TimelineId::new(*timeline);
        shelf.histories.insert(timeline, TimelineHistory::parse(timeline, text.as_bytes()).unwrap());
    }
    shelf
}

fn label(day: u32) -> BackupLabel {
    format!("202611{day:02}-120000F").parse().unwrap()
}

/// The full with this number of day.
fn point(day: u32, timeline: TimelineId, start: u64, stop: u64) -> Point {
    Point {
        label: label(day),
        timeline,
        start,
        stop,
        lsn: Lsn::new((stop << 24) + 100),
        inside: false,
        begun: false,
    }
}

fn plan(shelf: &Shelf, points: &[Point]) -> WindowPlan {
    plan_windows(shelf, points, &points.iter().map(|point| point.label).collect(), SIZE)
}

/// Days of the backups of each window, its last segment, and the day of the backup that it ends with, if it ends with one.
fn windows(plan: &WindowPlan) -> Vec<(Vec<u32>, Plain, Option<u32>)> {
    let day = |label: &BackupLabel| label.to_string()[6..8].parse::<u32>().unwrap();
    let of = |window: &Window| {
        let end = match &window.end {
            Edge::Backup(label) => Some(day(label)),
            Edge::Segment(last) => {
                assert_eq!(*last, window.last);
                None
            }
        };
        let (timeline, number) = window.last;
        (window.backups.iter().map(day).collect(), (timeline.as_u32(), number), end)
    };
    plan.windows.iter().map(of).collect()
}

/// First and last missing segment, days of those that are cut, day of the next, and whether retention did it.
type PlainGap = (Plain, Plain, Vec<u32>, Option<u32>, bool);

fn gaps(plan: &WindowPlan) -> Vec<PlainGap> {
    let day = |label: &BackupLabel| label.to_string()[6..8].parse::<u32>().unwrap();
    let plain = |(timeline, number): Segment| (timeline.as_u32(), number);
    let of = |gap: &Gap| {
        let cut = gap.cut.iter().map(day).collect();
        (plain(gap.first), plain(gap.last), cut, gap.next.as_ref().map(day), gap.expired)
    };
    plan.gaps.iter().map(of).collect()
}

#[test]
fn one_timeline() {
    let points = [point(1, ONE, 3, 4), point(2, ONE, 6, 6), point(3, ONE, 10, 11)];
    let whole = plan(&shelf(&[(1, 1..=20)], &[]), &points);
    assert_eq!(windows(&whole), [(vec![1, 2, 3], (1, 20), None)]);
    assert!(whole.gaps.is_empty() && whole.lacking.is_empty());

    let cut = plan(&shelf(&[(1, 1..=7), (1, 9..=20)], &[]), &points);
    assert_eq!(windows(&cut), [(vec![1, 2], (1, 7), None), (vec![3], (1, 20), None)]);
    assert_eq!(gaps(&cut), [((1, 8), (1, 8), vec![1, 2], Some(3), false)]);
    assert_eq!((cut.gaps[0].before, cut.gaps[0].behind), (Edge::Segment((ONE, 7)), (ONE, 9)));
    assert!(!cut.gaps[0].behind_backup);

    // What retention leaves of the older ones.
    let kept = plan(&shelf(&[(1, 3..=4), (1, 6..=6), (1, 10..=20)], &[]), &points);
    assert_eq!(
        windows(&kept),
        [(vec![1], (1, 4), Some(1)), (vec![2], (1, 6), Some(2)), (vec![3], (1, 20), None)]
    );
    assert_eq!(
        gaps(&kept),
        [((1, 5), (1, 5), vec![1], Some(2), true), ((1, 7), (1, 9), vec![2], Some(3), true)]
    );
    assert!(kept.gaps.iter().all(|gap| gap.behind_backup));
    assert_eq!(kept.gaps[1].before, Edge::Backup(label(2)));

    // Behind all backups, and within one.
    let late = plan(&shelf(&[(1, 3..=13), (1, 16..=20)], &[]), &points);
    assert_eq!(windows(&late), [(vec![1, 2, 3], (1, 13), None)]);
    assert_eq!(gaps(&late), [((1, 14), (1, 15), vec![1, 2, 3], None, false)]);
    let within = plan(&shelf(&[(1, 3..=10), (1, 12..=20)], &[]), &points);
    assert_eq!(windows(&within), [(vec![1, 2], (1, 10), None)]);
    assert_eq!(within.lacking, [(label(3), (ONE, 11))]);
    assert_eq!(gaps(&within), [((1, 11), (1, 11), vec![1, 2], None, false)]);

    assert_eq!(plan(&shelf(&[(1, 1..=20)], &[]), &[]), WindowPlan::default());
    // A backup whose chain is broken begins no window, and explains what retention leaves.
    let of_two = [label(1), label(3)].into();
    let broken = plan_windows(&shelf(&[(1, 3..=4), (1, 6..=20)], &[]), &points, &of_two, SIZE);
    assert_eq!(windows(&broken), [(vec![1], (1, 4), Some(1)), (vec![3], (1, 20), None)]);
    assert_eq!(gaps(&broken), [((1, 5), (1, 5), vec![1], Some(3), true)]);
}

#[test]
fn several_timelines() {
    // Timeline 2 left 1 in segment 8.
    let left = [(2, "1\t0/8000100\twhy\n")];
    let (a, b, c) = (point(1, ONE, 3, 4), point(2, ONE, 9, 9), point(3, TWO, 12, 12));

    // The server of timeline 1 was lost: all that it archived whole is on the way.
    let failover = plan(&shelf(&[(1, 3..=7), (2, 8..=20)], &left), &[a, c]);
    assert_eq!(windows(&failover), [(vec![1, 3], (2, 20), None)]);
    assert!(failover.gaps.is_empty());

    // It was wound back: what was given up can still be reached.
    let back = plan(&shelf(&[(1, 3..=10), (2, 8..=20)], &left), &[a, b, c]);
    assert_eq!(windows(&back), [(vec![1, 2], (1, 10), None), (vec![1, 3], (2, 20), None)]);
    assert!(back.gaps.is_empty());

    // The first segment of the new timeline is lost.
    let lost = plan(&shelf(&[(1, 3..=10), (2, 9..=20)], &left), &[a, b, c]);
    assert_eq!(windows(&lost), [(vec![1, 2], (1, 10), None), (vec![3], (2, 20), None)]);
    assert_eq!(gaps(&lost), [((2, 8), (2, 8), vec![1], Some(3), false)]);
    assert_eq!(lost.gaps[0].before, Edge::Segment((ONE, 7)));

    // Without its history nobody finds the way to it.
    let blind = plan(&shelf(&[(1, 3..=7), (2, 8..=20)], &[]), &[a, c]);
    assert_eq!(windows(&blind), [(vec![1], (1, 7), None), (vec![3], (2, 20), None)]);

    // The fork lies in the segment that the backup ends in.
    let ends = plan(&shelf(&[(1, 8..=8), (2, 8..=20)], &left), &[point(1, ONE, 8, 8)]);
    assert_eq!(windows(&ends), [(vec![1], (2, 20), None)]);

    // A gap that begins on one timeline and ends on the next.
    let across = plan(&shelf(&[(1, 3..=5), (2, 10..=20)], &left), &[a, c]);
    assert_eq!(windows(&across), [(vec![1], (1, 5), None), (vec![3], (2, 20), None)]);
    assert_eq!(gaps(&across), [((1, 6), (2, 9), vec![1], Some(3), false)]);
}

/// A way to a timeline, as its history tells: each part with the first segment that is read of it.
type Parts = Vec<(u32, u64)>;

/// An archive with up to three timelines.
#[derive(Debug, Clone)]
struct World {
    ways: BTreeMap<u32, Parts>,
    present: BTreeSet<Plain>,
    /// Day, timeline, first and last segment, whether it can be restored.
    backups: Vec<(u32, u32, u64, u64, bool)>,
}

/// How many segments a timeline may have.
const SEGMENTS: u64 = 14;

/// What can be gone back to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    /// The end of the backup of this day.
    End(u32),
    /// All that is in a segment.
    Segment(Plain),
}

fn world() -> impl Strategy<Value = World> {
    let forks = (1..SEGMENTS, 0..SEGMENTS, any::<bool>());
    let present = proptest::collection::vec(proptest::bool::weighted(0.85), 3 * 14);
    let backup = (1..=3_u32, 0..SEGMENTS, 0..2_u64, proptest::bool::weighted(0.85));
    (forks, present, proptest::collection::vec(backup, 0..6)).prop_map(|(forks, present, backups)| {
        let (second, third, from_second) = forks;
        let third = third.max(if from_second { second } else { 0 });
        let of_third = match from_second {
            true => vec![(1, 0), (2, second), (3, third)],
            false => vec![(1, 0), (3, third)],
        };
        let ways = BTreeMap::from([(1, vec![(1, 0)]), (2, vec![(1, 0), (2, second)]), (3, of_third)]);
        let begin = |timeline: u32| ways[&timeline].last().unwrap().1;
        let all = (1..=3_u32).flat_map(|timeline| (0..SEGMENTS).map(move |number| (timeline, number)));
        let there =
            all.zip(present).filter(|((timeline, number), there)| *there && *number >= begin(*timeline));
        let present = there.map(|(segment, _)| segment).collect();
        let backup = |(day, (timeline, start, more, whole)): (u32, (u32, u64, u64, bool))| {
            let start: u64 = start.max(begin(timeline));
            (day, timeline, start, start + more, whole)
        };
        World { backups: (1..).zip(backups).map(backup).collect(), ways, present }
    })
}

impl World {
    /// The timeline of which a segment is read on the way to another.
    fn at(&self, to: u32, number: u64) -> u32 {
        let parts = self.ways[&to].iter().rev();
        parts.clone().find(|(_, begin)| *begin <= number).unwrap().0
    }

    /// Where recovery from a backup can go: with the timeline it is on the way to, the positions it passes, the backup's own end first.
    fn walks(&self, backup: &(u32, u32, u64, u64, bool)) -> Vec<(u32, Vec<Plain>)> {
        let (_, timeline, start, stop, whole) = *backup;
        let has = |timeline, number| self.present.contains(&(timeline, number));
        if !whole || !(start..=stop).all(|number| has(timeline, number)) {
            return Vec::new();
        }
        let mut walks = Vec::new();
        for (to, parts) in &self.ways {
            let Some(place) = parts.iter().position(|(part, _)| *part == timeline) else { continue };
            let fork = parts.get(place + 1).map(|(_, begin)| *begin);
            // Its end lies before the fork, which lies behind it in the same segment at the earliest.
            if fork.is_some_and(|fork| stop > fork) || (*to != timeline && !self.is_known(*to)) {
                continue;
            }
            let (mut walk, mut next) = (vec![(timeline, stop)], fork.map_or(stop + 1, |f| f.min(stop + 1)));
            while has(self.at(*to, next), next) {
                walk.push((self.at(*to, next), next));
                next += 1;
            }
            walks.push((*to, walk));
        }
        walks
    }

    /// The moments that a walk from the backup of this day leads through up to its end or to `last`.
    fn moments(&self, day: u32, to: u32, walk: &[Plain], last: Plain) -> BTreeSet<(u32, Moment)> {
        let cut = walk.iter().position(|at| *at == last).unwrap();
        let walk = &walk[..=cut];
        let of_backup = |backup: &(u32, u32, u64, u64, bool)| {
            self.walks(backup)
                .into_iter()
                .find(|(way, _)| *way == to)
                .map(|(_, walk)| (backup.0, walk[0], walk.len()))
        };
        let ends: Vec<_> = self.backups.iter().filter_map(of_backup).collect();
        let mut moments: BTreeSet<_> = walk[1..].iter().map(|at| (day, Moment::Segment(*at))).collect();
        // What ends with the segment of a backup ends with that backup.
        if ends.iter().any(|(_, own, length)| *own == last && *length == 1) {
            moments.remove(&(day, Moment::Segment(last)));
        }
        let passed = ends.iter().filter(|(_, (_, stop), _)| (walk[0].1..=last.1).contains(stop));
        moments.extend(passed.map(|(end, ..)| (day, Moment::End(*end))));
        moments
    }

    fn is_known(&self, timeline: u32) -> bool {
        timeline > 1
    }

    fn shelf(&self) -> Shelf {
        let mut found = shelf(&[], &[]);
        for (timeline, number) in &self.present {
            found.rows.entry(TimelineId::new(*timeline)).or_default().add(*number);
        }
        for (timeline, parts) in self.ways.iter().filter(|(timeline, _)| self.is_known(**timeline)) {
            let left =
                parts.windows(2).map(|two| format!("{}\t0/{:X}\twhy\n", two[0].0, (two[1].1 << 24) + 256));
            let (timeline, text) = (TimelineId::new(*timeline), left.collect::<String>());
            found.histories.insert(timeline, TimelineHistory::parse(timeline, text.as_bytes()).unwrap());
        }
        found
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn windows_hold_what_can_be_reached_and_nothing_else(world in world()) {
        let points: Vec<Point> = world.backups.iter()
            .map(|(day, timeline, start, stop, _)| point(*day, TimelineId::new(*timeline), *start, *stop)).collect();
        let whole = world.backups.iter().filter(|backup| backup.4).map(|backup| label(backup.0)).collect();
        let plan = plan_windows(&world.shelf(), &points, &whole, SIZE);
        let walks = |day: u32| world.walks(&world.backups[day as usize - 1]);

        // From which backups one gets to which moments.
        let mut wanted: BTreeSet<(u32, Moment)> = BTreeSet::new();
        for backup in &world.backups {
            for (to, walk) in world.walks(backup) {
                wanted.extend(world.moments(backup.0, to, &walk, *walk.last().unwrap()));
            }
        }
        let mut found: BTreeSet<(u32, Moment)> = BTreeSet::new();
        let mut told: Vec<BTreeSet<(u32, Moment)>> = Vec::new();
        for (days, last, end) in windows(&plan) {
            // One way leads all of them there, and where it ends with a backup that is so on this way.
            let on_way = |to: u32| days.iter().map(|day| {
                let walk = walks(*day).into_iter().find(|(way, walk)| *way == to && walk.contains(&last))?;
                Some(world.moments(*day, to, &walk.1, last))
            }).collect::<Option<Vec<_>>>();
            let ways = (1..=3).filter_map(on_way).map(|of_all| of_all.into_iter().flatten().collect::<BTreeSet<_>>());
            let one = ways.min_by_key(BTreeSet::len);
            prop_assert!(one.is_some(), "{:?} do not get to {:?}", days, last);
            let one = one.unwrap();
            prop_assert_eq!(end, days.iter().copied().rfind(|day| walks(*day)[0].1[0] == last));
            prop_assert!(days.is_sorted_by_key(|day| world.backups[*day as usize - 1].3));
            found.extend(&one);
            told.push(one);
        }
        prop_assert_eq!(&found, &wanted);
        for (at, one) in told.iter().enumerate() {
            let mut others = told.iter().enumerate().filter(|(other, _)| *other != at);
            prop_assert!(!others.any(|(_, other)| one.is_subset(other)), "{:?}", windows(&plan));
        }

        // Where a walk ends and more of its way is there, a gap is told, and no other.
        let mut holes: BTreeMap<(Plain, Plain), BTreeSet<u32>> = BTreeMap::new();
        for (day, to, walk) in world.backups.iter().flat_map(|b| world.walks(b).into_iter().map(|(to, w)| (b.0, to, w))) {
            let &(own, stop) = walk.last().unwrap();
            let next = if world.at(to, stop) == own { stop + 1 } else { stop };
            let again = (next..SEGMENTS).find(|number| world.present.contains(&(world.at(to, *number), *number)));
            if let Some(again) = again {
                let hole = ((world.at(to, next), next), (world.at(to, again - 1), again - 1));
                holes.entry(hole).or_default().insert(day);
            }
        }
        let found: BTreeMap<_, BTreeSet<u32>> =
            gaps(&plan).into_iter().map(|(first, last, cut, _, _)| ((first, last), cut.into_iter().collect())).collect();
        prop_assert_eq!(found, holes);
        prop_assert!(plan.gaps.iter().all(|gap| gap.cut.iter().collect::<BTreeSet<_>>().len() == gap.cut.len()));
        for gap in &plan.gaps {
            prop_assert!(world.present.contains(&(gap.behind.0.as_u32(), gap.behind.1)));
            if let Some(next) = gap.next {
                let next = points.iter().find(|point| point.label == next).unwrap();
                prop_assert!(next.start > gap.last.1);
            }
        }
        for (day, timeline, start, stop, whole) in &world.backups {
            let lacks = (*start..=*stop).find(|number| !world.present.contains(&(*timeline, *number)));
            let told = plan.lacking.iter().find(|(of, _)| *of == label(*day)).map(|(_, segment)| segment.1);
            prop_assert_eq!(told, lacks.filter(|_| *whole));
        }
    }
}
