//! What expires, of backups that may contradict each other in any way: nothing that stays loses what it needs.

use std::collections::BTreeSet;

use libfuzzer_sys::arbitrary::{Arbitrary, Result, Unstructured};
use pgbr_manifest::manifest::Span;
use pgbr_manifest::retention::{
    Asked, Candidate, ExpireInput, Facts, FullRetention, Periods, Policy, WalReason, plan_expire,
};
use pgbr_manifest::{
    ArchiveId, BackupLabel, BackupType, LabelTime, PgVersion, TimelineId, WalSegmentName, WalSegmentSize,
};

#[derive(Debug)]
pub(crate) struct Input {
    backups: Vec<Made>,
    counts: [Option<u8>; 7],
    by_time: bool,
    archive_type: u8,
    before: Option<(u8, u8)>,
    asked: Option<u8>,
    now: u32,
}

#[derive(Debug)]
struct Made {
    kind: u8,
    of: u8,
    prior: u8,
    readable: bool,
    held: bool,
    in_use: bool,
    error: bool,
    archive: bool,
    stop: u32,
    wal: [(u8, u8); 2],
}

impl<'a> Arbitrary<'a> for Input {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let (counts, by_time, archive_type, before, asked, now, backups) = u.arbitrary()?;
        Ok(Self { backups, counts, by_time, archive_type, before, asked, now })
    }
}

impl<'a> Arbitrary<'a> for Made {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let (kind, of, prior, [readable, held, in_use, error, archive], stop, wal) = u.arbitrary()?;
        Ok(Self { kind, of, prior, readable, held, in_use, error, archive, stop, wal })
    }
}

fn segment((timeline, number): (u8, u8)) -> WalSegmentName {
    WalSegmentName::from_number(TimelineId::new((timeline % 4 + 1).into()), number.into(), WalSegmentSize::DEFAULT)
}

fn archive(second: bool) -> ArchiveId {
    ArchiveId::new(PgVersion::V15, if second { 2 } else { 1 })
}

/// Backups in order; each of a full before it, on something of the same full that is older.
fn candidates(made: &[Made]) -> Vec<Candidate> {
    let mut all: Vec<Candidate> = Vec::new();
    for (number, made) in (0..3600).zip(made) {
        let time = LabelTime::new(2026, 1, 1, 0, number / 60, number % 60).expect("a time");
        let fulls: Vec<BackupLabel> = all.iter().map(|c| c.label).filter(|l| *l == l.full()).collect();
        let full = (made.kind % 3 > 0).then(|| fulls.get(usize::from(made.of) % fulls.len().max(1))).flatten();
        let label = match full {
            None => BackupLabel::new_full(time),
            Some(full) => full.dependant(time, made.kind % 3 == 2),
        };
        let family: Vec<BackupLabel> =
            all.iter().map(|c| c.label).filter(|l| Some(&l.full()) == full).collect();
        let prior = family.get(usize::from(made.prior) % family.len().max(1)).copied();
        let stop = i64::from(made.stop);
        let [start, end] = made.wal.map(segment);
        let facts = Facts {
            prior,
            archive: archive(made.archive),
            stop,
            day: stop / 86_400,
            wal: Span { start, stop: end },
            error: made.error,
        };
        let (held, in_use) = (made.held, made.in_use);
        all.push(Candidate { label, facts: made.readable.then_some(facts), held, in_use });
    }
    all
}

pub(crate) fn run(input: Input) {
    let backups = candidates(&input.backups);
    let [full, diff, archives, daily, weekly, monthly, yearly] =
        input.counts.map(|count| count.map(|count| u32::from(count % 20) + 1));
    let policy = Policy {
        full,
        full_type: if input.by_time { FullRetention::Time } else { FullRetention::Count },
        diff,
        archive: archives,
        archive_type: [BackupType::Full, BackupType::Diff, BackupType::Incr][usize::from(input.archive_type % 3)],
        periods: Periods { daily, weekly, monthly, yearly },
        archive_before: input.before.map(segment),
    };
    let asked = match input.asked {
        None => Asked::Policy,
        Some(255) => Asked::Oldest,
        Some(number) => match backups.get(usize::from(number) % backups.len().max(1)) {
            Some(backup) => Asked::Set(backup.label),
            None => Asked::Policy,
        },
    };
    let archives = [archive(false), archive(true)];
    let plan = plan_expire(&ExpireInput {
        backups: &backups,
        archives: &archives,
        current: archive(true),
        policy: &policy,
        asked,
        now: input.now.into(),
    });
    let Ok(plan) = plan else { return };
    let kept: BTreeSet<BackupLabel> = plan.kept().collect();
    let removed: Vec<BackupLabel> = plan.removals().collect();
    assert_eq!(kept.len() + removed.len(), backups.len());
    for backup in &backups {
        let stays = kept.contains(&backup.label);
        assert_ne!(stays, removed.contains(&backup.label));
        assert!(stays || !(backup.held || backup.in_use), "{} is protected", backup.label);
        let Some(facts) = &backup.facts else { continue };
        let place = |label: BackupLabel| removed.iter().position(|removed| *removed == label);
        if let Some(prior) = facts.prior {
            assert!(!stays || kept.contains(&prior), "{} loses {prior}", backup.label);
            assert!(place(prior).is_none_or(|at| place(backup.label) < Some(at)), "{prior} goes first");
        }
        let plan = plan.archives.iter().find(|plan| plan.archive == facts.archive).expect("it was given");
        for needed in [facts.wal.start, facts.wal.stop] {
            let lost = plan.decide(needed) == WalReason::Unneeded && facts.wal.start <= facts.wal.stop;
            assert!(!stays || !lost, "{} loses {needed}", backup.label);
        }
    }
}
