//! What must hold for every stanza and every policy, and a second, naive opinion on the policy.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::cases::segment;
use super::*;
use crate::label::LabelTime;

const DAY: i64 = 86_400;

/// One backup of a history, before it has a name.
#[derive(Debug, Clone, Copy)]
struct Step {
    kind: u8,
    prior: u8,
    hours: i64,
    wal: u32,
    timeline: bool,
    upgrade: bool,
    marks: u8,
}

fn step() -> impl Strategy<Value = Step> {
    let event = || prop::bool::weighted(0.05);
    (0..5_u8, any::<u8>(), 1..200_i64, 0..4_u32, event(), event(), 0..40_u8).prop_map(
        |(kind, prior, hours, wal, timeline, upgrade, marks)| Step {
            kind,
            prior,
            hours,
            wal,
            timeline,
            upgrade,
            marks,
        },
    )
}

fn policy() -> impl Strategy<Value = Policy> {
    let count = || option::of(1..6_u32);
    let few = || option::weighted(0.2, 1..4_u32);
    let periods = (few(), few(), few(), few()).prop_map(|(daily, weekly, monthly, yearly)| Periods {
        daily,
        weekly,
        monthly,
        yearly,
    });
    let kind = prop_oneof![Just(BackupType::Full), Just(BackupType::Diff), Just(BackupType::Incr)];
    let before = option::weighted(0.1, (1..4_u32, 0..200_u32).prop_map(|(t, n)| segment(t, n)));
    (count(), any::<bool>(), count(), count(), kind, periods, before).prop_map(
        |(full, time, diff, archive, archive_type, periods, archive_before)| Policy {
            full: full.map(|n| if time { n * 10 } else { n }),
            full_type: if time { FullRetention::Time } else { FullRetention::Count },
            diff,
            archive,
            archive_type,
            periods,
            archive_before,
        },
    )
}

/// A stanza with a past.
#[derive(Debug, Clone)]
struct Past {
    backups: Vec<Candidate>,
    archives: Vec<ArchiveId>,
    current: ArchiveId,
    now: i64,
    /// Segments of the current archive and of those before it.
    wal: Vec<(ArchiveId, WalSegmentName)>,
}

/// Plays the steps. With `plain` there are no marks: nothing is held, in use, unreadable, damaged or missing.
fn play(steps: &[Step], plain: bool) -> Past {
    let mut now = 1_700_000_000;
    let (mut number, mut timeline, mut at) = (1, 1, 1);
    let mut past = Past {
        backups: Vec::new(),
        archives: Vec::new(),
        current: ArchiveId::new(crate::PgVersion::V15, 1),
        now,
        wal: Vec::new(),
    };
    for (place, step) in steps.iter().enumerate() {
        if step.upgrade {
            (number, timeline, at) = (number + 1, 1, 1);
            past.current = ArchiveId::new(crate::PgVersion::V15, number);
        } else if step.timeline {
            // Some of the old timeline was archived beyond the fork.
            past.wal.extend((0..3).map(|n| (past.current, segment(timeline, at + n))));
            timeline += 1;
        }
        now += step.hours * 3600;
        let time = LabelTime::new(
            2026,
            1,
            1,
            0,
            u32::try_from(place / 60).unwrap(),
            u32::try_from(place % 60).unwrap(),
        );
        let (label, prior) = name(&past, *step, time.unwrap());
        let first = at + step.wal;
        let last = first + step.wal / 2;
        past.wal.extend((at..=last).map(|n| (past.current, segment(timeline, n))));
        at = last + 1;
        let facts = Facts {
            prior,
            archive: past.current,
            stop: now,
            day: now.div_euclid(DAY),
            wal: Span { start: segment(timeline, first), stop: segment(timeline, last) },
            error: !plain && step.marks == 0,
        };
        let facts = (plain || step.marks != 1).then_some(facts);
        let (held, in_use) = (!plain && step.marks == 2, !plain && step.marks == 3);
        past.backups.push(Candidate { label, facts, held, in_use });
    }
    past.now = now;
    past.wal.extend((at..at + 3).map(|n| (past.current, segment(timeline, n))));
    past.archives = (1..=number).map(|n| ArchiveId::new(crate::PgVersion::V15, n)).collect();
    if !plain {
        // Here and there one is gone that others build on.
        let mut place = 0;
        past.backups.retain(|_| {
            place += 1;
            steps[place - 1].marks != 4
        });
    }
    past
}

/// A name for the next backup, and what it builds on: as the backup command would choose.
fn name(past: &Past, step: Step, time: LabelTime) -> (BackupLabel, Option<BackupLabel>) {
    let of_it = |b: &&Candidate| b.facts.is_none_or(|facts| facts.archive == past.current);
    let full = past.backups.iter().rev().filter(of_it).find(|b| b.label == b.label.full()).map(|b| b.label);
    let Some(full) = full.filter(|_| step.kind > 0) else { return (BackupLabel::new_full(time), None) };
    let family: Vec<BackupLabel> =
        past.backups.iter().map(|b| b.label).filter(|label| label.full() == full).collect();
    match step.kind {
        1 => (full.dependant(time, false), Some(full)),
        2 => (full.dependant(time, true), family.get(usize::from(step.prior) % family.len()).copied()),
        _ => (full.dependant(time, true), family.last().copied()),
    }
}

impl Past {
    fn plan(&self, policy: &Policy, asked: Asked) -> Result<ExpirePlan> {
        plan_expire(&ExpireInput {
            backups: &self.backups,
            archives: &self.archives,
            current: self.current,
            policy,
            asked,
            now: self.now,
        })
    }

    fn stays(&self, plan: &ExpirePlan, archive: ArchiveId, segment: WalSegmentName) -> bool {
        let of_it = plan.archives.iter().find(|a| a.archive == archive).unwrap();
        of_it.decide(segment) != WalReason::Unneeded
    }

    /// The stanza after the plan was carried out.
    fn after(&self, plan: &ExpirePlan) -> Self {
        let kept: BTreeSet<BackupLabel> = plan.kept().collect();
        let mut after = self.clone();
        after.backups.retain(|b| kept.contains(&b.label));
        after.wal.retain(|(archive, segment)| self.stays(plan, *archive, *segment));
        after
    }
}

fn nothing_needed_is_lost(
    past: &Past,
    policy: &Policy,
    plan: &ExpirePlan,
) -> std::result::Result<(), TestCaseError> {
    let stock = Stock::new(&past.backups);
    let kept: BTreeSet<BackupLabel> = plan.kept().collect();
    prop_assert_eq!(plan.backups.len(), past.backups.len());
    let removed: Vec<BackupLabel> = plan.removals().collect();
    let gone = past.backups.iter().map(|b| b.label).filter(|l| !kept.contains(l)).collect::<BTreeSet<_>>();
    prop_assert_eq!(&removed.iter().copied().collect::<BTreeSet<_>>(), &gone);
    for (place, label) in removed.iter().enumerate() {
        // A dependant goes before what it builds on.
        if let Some(prior) = stock.facts(*label).and_then(|f| f.prior) {
            prop_assert!(!removed[..place].contains(&prior), "{label} goes after {prior}");
        }
    }
    for candidate in past.backups.iter().filter(|b| kept.contains(&b.label)) {
        let Some(facts) = candidate.facts else { continue };
        if let Some(prior) = facts.prior {
            prop_assert!(
                kept.contains(&prior) || stock.get(prior).is_none(),
                "{} lost its parent",
                candidate.label
            );
        }
        for (archive, segment) in past.wal.iter().filter(|(a, _)| *a == facts.archive) {
            let needed = (facts.wal.start..=facts.wal.stop).contains(segment);
            prop_assert!(
                !needed || past.stays(plan, *archive, *segment),
                "{} lost {segment}",
                candidate.label
            );
        }
    }
    let unreadable = past.backups.iter().any(|b| b.facts.is_none() && kept.contains(&b.label));
    for (archive, segment) in &past.wal {
        prop_assert!(!unreadable || past.stays(plan, *archive, *segment));
        let before = policy.archive_before.filter(|_| *archive == past.current);
        prop_assert!(before.is_none_or(|before| *segment < before) || past.stays(plan, *archive, *segment));
    }
    Ok(())
}

/// The policy as pgBackRest carries it out, step by step, with nothing but lists: for stanzas without marks.
fn naive(past: &Past, policy: &Policy) -> BTreeSet<BackupLabel> {
    let facts = |label: BackupLabel| past.backups.iter().find(|b| b.label == label).unwrap().facts.unwrap();
    let mut left: Vec<BackupLabel> = past.backups.iter().map(|b| b.label).collect();
    left.sort_unstable();
    let expire = |left: &mut Vec<BackupLabel>, label: BackupLabel| {
        let mut going = vec![label];
        for other in left.clone() {
            if facts(other).prior.is_some_and(|prior| going.contains(&prior)) {
                going.push(other);
            }
        }
        left.retain(|label| !going.contains(label));
    };
    let newest_stop = past.backups.iter().map(|b| b.facts.unwrap().stop).max().unwrap_or(0);
    let fulls: Vec<BackupLabel> = left.iter().copied().filter(|l| *l == l.full()).collect();
    let cut = match (policy.full, policy.full_type) {
        (None, _) => 0,
        (Some(n), FullRetention::Count) => fulls.len().saturating_sub(n as usize),
        (Some(n), FullRetention::Time) => {
            let limit = newest_stop - i64::from(n) * DAY;
            fulls.iter().filter(|l| facts(**l).stop <= limit).count().saturating_sub(1)
        }
    };
    for label in &fulls[..cut] {
        expire(&mut left, *label);
    }
    if let Some(n) = policy.diff {
        let diffs: Vec<BackupLabel> =
            left.iter().copied().filter(|l| l.backup_type() != BackupType::Incr).collect();
        for label in &diffs[..diffs.len().saturating_sub(n as usize)] {
            if label.backup_type() == BackupType::Diff {
                expire(&mut left, *label);
            }
        }
    }
    left.into_iter().collect()
}

/// The newest backup and what it builds on: what the naive model does not know of.
fn newest_chain(past: &Past) -> BTreeSet<BackupLabel> {
    let mut chain = BTreeSet::new();
    let mut next = past.backups.last().map(|b| b.label);
    while let Some(label) = next {
        chain.insert(label);
        next = past.backups.iter().find(|b| b.label == label).and_then(|b| b.facts?.prior);
    }
    chain
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn no_backup_loses_what_it_needs(steps in vec(step(), 0..40), policy in policy()) {
        let past = play(&steps, false);
        let Ok(plan) = past.plan(&policy, Asked::Policy) else { return Ok(()) };
        nothing_needed_is_lost(&past, &policy, &plan)?;
        let kept: BTreeSet<BackupLabel> = plan.kept().collect();
        for candidate in &past.backups {
            let strong = candidate.held || candidate.in_use || candidate.facts.is_none();
            prop_assert!(!strong || kept.contains(&candidate.label));
        }
        if let Some(newest) = Stock::new(&past.backups).newest() {
            prop_assert!(kept.contains(&newest));
        }
        // Once carried out, there is nothing left to do.
        let after = past.after(&plan);
        let again = after.plan(&policy, Asked::Policy).unwrap();
        prop_assert!(again.sets.is_empty(), "{:?}", again.sets);
        prop_assert!(after.wal.iter().all(|(a, s)| after.stays(&again, *a, *s)));
    }

    #[test]
    fn neither_by_name(steps in vec(step(), 1..40), policy in policy(), which in any::<prop::sample::Index>(), oldest: bool) {
        let past = play(&steps, false);
        prop_assume!(!past.backups.is_empty());
        let asked = match oldest {
            true => Asked::Oldest,
            false => Asked::Set(which.get(&past.backups).label),
        };
        let Ok(plan) = past.plan(&policy, asked) else { return Ok(()) };
        nothing_needed_is_lost(&past, &policy, &plan)?;
        prop_assert_eq!(plan.sets.len(), 1);
        for label in plan.removals() {
            let candidate = past.backups.iter().find(|b| b.label == label).unwrap();
            prop_assert!(!candidate.held && !candidate.in_use);
        }
    }

    #[test]
    fn the_rules_are_pgbackrests(steps in vec(step(), 0..40), policy in policy()) {
        let past = play(&steps, true);
        let policy = Policy { periods: Periods::default(), archive_before: None, ..policy };
        let Ok(plan) = past.plan(&policy, Asked::Policy) else { return Ok(()) };
        let expected: BTreeSet<BackupLabel> = naive(&past, &policy).union(&newest_chain(&past)).copied().collect();
        prop_assert_eq!(plan.kept().collect::<BTreeSet<_>>(), expected);
    }

    /// Backups within the archive retention can be recovered from to the end of every timeline that leaves theirs later.
    #[test]
    fn wal_goes_on_to_the_end(steps in vec(step(), 0..40), policy in policy()) {
        let past = play(&steps, false);
        let Ok(plan) = past.plan(&policy, Asked::Policy) else { return Ok(()) };
        let kept: BTreeSet<BackupLabel> = plan.kept().collect();
        let stock = Stock { all: past.backups.iter().filter(|b| kept.contains(&b.label)).map(|b| (b.label, b)).collect() };
        let counted = |label: &BackupLabel| match policy.archive_type {
            BackupType::Full => label.backup_type() == BackupType::Full,
            BackupType::Diff => label.backup_type() != BackupType::Incr,
            BackupType::Incr => true,
        };
        let listed: Vec<BackupLabel> = stock.whole().into_iter().filter(counted).collect();
        let count = policy.archive.or(match policy.archive_type {
            BackupType::Full if policy.full_type == FullRetention::Count => policy.full,
            BackupType::Diff => policy.diff,
            _ => None,
        });
        let within = &listed[..listed.len().min(count.map_or(usize::MAX, |n| n as usize))];
        for label in within.iter().filter(|l| count.is_some() || **l >= oldest_by_age(&stock, &policy)) {
            let facts = stock.facts(*label).unwrap();
            for (archive, segment) in past.wal.iter().filter(|(a, _)| *a == facts.archive) {
                prop_assert!(*segment < facts.wal.start || past.stays(&plan, *archive, *segment), "{label} cannot go through {segment}");
            }
        }
    }
}

/// The oldest full backup within the days, the oldest of all where days do not decide.
fn oldest_by_age(stock: &Stock<'_>, policy: &Policy) -> BackupLabel {
    let newest = stock.all.values().filter_map(|b| Some(b.facts?.stop)).max().unwrap_or(0);
    let limit = newest - i64::from(policy.full.unwrap_or(0)) * DAY;
    let fulls = stock.fulls();
    let by_age = policy.full_type == FullRetention::Time && policy.full.is_some();
    let old = fulls.iter().rfind(|l| by_age && stock.facts(**l).unwrap().stop <= limit);
    old.or(fulls.first()).copied().unwrap_or_else(|| BackupLabel::new_full(LabelTime::EPOCH))
}
