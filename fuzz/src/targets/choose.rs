//! Which backup a restore begins with: the newest of those that can reach the goal, by a naive look at each.

use pgbr_manifest::manifest::Summary;
use pgbr_manifest::plan_restore::{Candidate, Goal, RestoreChoice, plan_restore};
use pgbr_manifest::{BackupLabel, LabelTime, Lsn, TimelineHistory, TimelineId, WalSegmentName, WalSegmentSize};

/// What of a backup decides: its place in time, timeline, where it stops in the log and on the server's clock.
type Made = (u8, u8, u8, u8);

pub(crate) fn run(input: (Vec<Made>, (u8, u8), Vec<(u8, u8)>, Option<u8>)) {
    let (made, (kind, at), ancestors, set) = input;
    let backups: Vec<Summary> = made.iter().map(backup).collect();
    let goal = match kind % 3 {
        0 => Goal::Newest,
        1 => Goal::Time(at.into()),
        _ => Goal::Lsn(Lsn::new(at.into())),
    };
    let lines: String = ancestors.iter().map(|(id, lsn)| format!("{id}\t0/{lsn:X}\tx\n")).collect();
    let history = TimelineHistory::parse(TimelineId::new(9), lines.as_bytes()).ok().filter(|_| kind >= 128);
    let set = set.map(label);
    let choice = RestoreChoice { set, goal, history: history.as_ref() };
    let fits = |backup: &&Summary| {
        let before = match goal {
            Goal::Newest => true,
            Goal::Time(at) => backup.server_time_us.stop < at,
            Goal::Lsn(at) => backup.lsn.stop <= at,
        };
        let (own, stop) = (backup.wal.stop.timeline(), backup.lsn.stop);
        let left = ancestors.iter().find(|(id, _)| own == TimelineId::new((*id).into()));
        let on_way = match left {
            _ if history.is_none() || own == TimelineId::new(9) => true,
            Some((_, left)) => stop <= Lsn::new((*left).into()),
            None => false,
        };
        before && on_way && set.is_none_or(|set| set == backup.label)
    };
    let wanted = backups.iter().filter(fits).map(|backup| backup.label).max_by_key(|label| label.time());
    let candidates: Vec<_> = backups.iter().map(Candidate::from).collect();
    match plan_restore(&candidates, &choice) {
        Ok(chosen) => assert_eq!(Some(chosen.label.time()), wanted.map(|label| label.time())),
        // Of two under one label the first is looked at.
        Err(_) => assert!(wanted.is_none() || set.is_some()),
    }
}

fn label(number: u8) -> BackupLabel {
    let time = LabelTime::new(2026, 11, 22, 12, (number / 60).into(), (number % 60).into());
    BackupLabel::new_full(time.expect("a time"))
}

fn backup(&(number, timeline, lsn, time): &Made) -> Summary {
    let json = include_bytes!("../../../crates/pgbr-manifest/tests/vectors/summary-full.json");
    let mut summary = Summary::from_json(json).expect("a vector");
    let timeline = TimelineId::new((timeline % 10).into());
    summary.label = label(number);
    summary.lsn.stop = Lsn::new(lsn.into());
    summary.wal.stop = WalSegmentName::containing(timeline, Lsn::new(lsn.into()), WalSegmentSize::DEFAULT);
    summary.server_time_us.stop = time.into();
    summary
}
