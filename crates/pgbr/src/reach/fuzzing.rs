//! A second opinion on how far WAL leads: segment by segment, without rows.

use super::*;
use crate::fuzzing::Found;

/// Sees that both come to the same.
pub(crate) fn compare(found: &Found) {
    let (size, shelf, points) = (WalSegmentSize::DEFAULT, shelf(found), points(found));
    for reached in plan_reach(&shelf, &points, size) {
        let point = points.iter().find(|point| point.label == reached.label).expect("it was asked for");
        let lacks = (point.start..=point.stop).any(|number| !is_sound(&shelf, point.timeline, number));
        assert_eq!(lacks, !reached.lacks.is_empty());
        assert_eq!(lacks, reached.ways.is_empty());
        for way in &reached.ways {
            let track = match shelf.histories.get(&way.to) {
                Some(history) if way.to != point.timeline => Track::of(history, size),
                _ => Track::own(way.to),
            };
            assert_eq!((way.last, is_damage(way.end)), walk(&shelf, point, &track.0), "{way:?} of {point:?}");
        }
    }
}

fn shelf(found: &Found) -> Shelf {
    let mut shelf = Shelf::default();
    for (timeline, number, sound) in &found.segments {
        let (timeline, number) = (TimelineId::new((*timeline).into()), u64::from(*number));
        match sound {
            true => shelf.rows.entry(timeline).or_default().add(number),
            false => drop(shelf.damaged.insert((timeline, number))),
        }
    }
    for (timeline, ancestors) in &found.histories {
        let line = |(id, number): &(u8, u8)| format!("{id}\t0/{number:X}000100\tx\n");
        let (id, text) =
            (TimelineId::new((*timeline).into()), ancestors.iter().map(line).collect::<String>());
        if let Ok(history) = TimelineHistory::parse(id, text.as_bytes()) {
            shelf.histories.insert(id, history);
        }
    }
    shelf
}

fn points(found: &Found) -> Vec<Point> {
    let point = |(n, (timeline, start, more)): (u32, &(u8, u8, u8))| {
        let label = format!("202611{:02}-1200{:02}F", n / 60 + 1, n % 60).parse().expect("it is a label");
        let (start, stop) = (u64::from(*start), u64::from(*start) + u64::from(more % 4));
        Point {
            label,
            timeline: TimelineId::new((*timeline).into()),
            start,
            stop,
            lsn: Lsn::new((stop << 24) + 99),
            inside: false,
            begun: false,
        }
    };
    (0..1600).zip(&found.backups).map(point).collect()
}

fn is_sound(shelf: &Shelf, timeline: TimelineId, number: u64) -> bool {
    shelf.rows.get(&timeline).is_some_and(|rows| rows.end_of(number).is_some())
}

fn is_damage(end: End) -> bool {
    matches!(end, End::Damaged(..))
}

/// The last segment that is read on the way through these timelines, and whether damage ends it.
fn walk(shelf: &Shelf, point: &Point, parts: &[(TimelineId, u64)]) -> ((TimelineId, u64), bool) {
    let on = |number: u64| parts.iter().rev().find(|(_, begin)| *begin <= number).or(parts.first());
    let fork = parts.iter().skip_while(|(timeline, _)| *timeline != point.timeline).nth(1);
    let mut next = fork.map_or(point.stop + 1, |(_, begin)| (*begin).min(point.stop + 1));
    let mut last = (point.timeline, point.stop);
    loop {
        let timeline = on(next).expect("a way has a timeline").0;
        if !is_sound(shelf, timeline, next) {
            return (last, shelf.damaged.contains(&(timeline, next)));
        }
        last = (timeline, next);
        next += 1;
    }
}
