//! Which backups stay: rules first, then what is stronger than rules, then what the rest needs.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Asked, BackupPlan, Candidate, ExpireInput, FullRetention, Policy, Reason, Stock, calendar, clock,
};
use crate::error::{Error, Result};
use crate::label::{BackupLabel, BackupType};

const DAY: i64 = 86_400;

/// What becomes of each backup.
pub(super) type Verdicts = BTreeMap<BackupLabel, BackupPlan>;

/// A rule's word on a backup.
type Word = (bool, Reason);

/// Decides for every backup.
pub(super) fn decide(input: &ExpireInput<'_>, stock: &Stock<'_>) -> Result<Verdicts> {
    match input.asked {
        Asked::Policy => by_policy(input, stock),
        Asked::Set(label) if stock.get(label).is_none() => by_name(input, stock, None, Reason::Asked),
        Asked::Set(label) => by_name(input, stock, Some(label), Reason::Asked),
        Asked::Oldest => by_name(input, stock, Some(oldest(stock)?), Reason::Oldest),
    }
}

fn by_policy(input: &ExpireInput<'_>, stock: &Stock<'_>) -> Result<Verdicts> {
    clock::check(stock.all.values().copied(), input.now)?;
    let words = rules(input.policy, stock)?;
    let plan = |(label, (keep, reason))| (label, BackupPlan { label, keep, reasons: vec![reason] });
    let mut verdicts: Verdicts = words.into_iter().map(plan).collect();
    protect(input.policy, stock, &mut verdicts);
    keep_parents(stock, &mut verdicts);
    Ok(verdicts)
}

/// What the retention options alone say.
fn rules(policy: &Policy, stock: &Stock<'_>) -> Result<BTreeMap<BackupLabel, Word>> {
    let fulls = full_rule(policy, stock)?;
    let oldest_kept = fulls.iter().find(|(_, (keep, _))| *keep).map(|(label, _)| *label);
    let diffs = diff_rule(policy, stock, &fulls);
    let mut words = fulls;
    // By label, what a backup builds on comes before it.
    for (&label, candidate) in stock.all.iter().filter(|(label, _)| label.backup_type() != BackupType::Full) {
        let full = words.get(&label.full()).copied();
        let word = match full {
            Some((false, _)) => (false, parent_goes(stock, label)),
            None if oldest_kept.is_some_and(|oldest| label.full() < oldest) => (false, Reason::ParentGone),
            None => (true, Reason::Incomplete),
            Some((true, _)) => dependant(stock, candidate, &words, &diffs),
        };
        words.insert(label, word);
    }
    for (label, candidate) in &stock.all {
        if candidate.facts.is_none() {
            words.insert(*label, (true, Reason::Unreadable));
        }
    }
    Ok(words)
}

fn parent_goes(stock: &Stock<'_>, label: BackupLabel) -> Reason {
    Reason::ParentGoes(stock.parent(label).unwrap_or(label.full()))
}

/// The rule for a diff or incr whose full stays.
fn dependant(
    stock: &Stock<'_>,
    candidate: &Candidate,
    words: &BTreeMap<BackupLabel, Word>,
    diffs: &BTreeMap<BackupLabel, Word>,
) -> Word {
    let label = candidate.label;
    let Some(prior) = candidate.facts.and_then(|facts| facts.prior) else {
        return (true, Reason::Unreadable);
    };
    if let Some(word) = diffs.get(&label) {
        return *word;
    }
    match words.get(&prior) {
        Some((false, _)) => (false, Reason::ParentGoes(prior)),
        Some((true, _)) => (true, Reason::WithParent(prior)),
        None if stock.get(prior).is_some() => (true, Reason::WithParent(prior)),
        None => (true, Reason::Incomplete),
    }
}

/// The rule for full backups, of those that can be read.
fn full_rule(policy: &Policy, stock: &Stock<'_>) -> Result<BTreeMap<BackupLabel, Word>> {
    let fulls = stock.fulls();
    let (first_kept, keeps, goes) = match (policy.full, policy.full_type) {
        (None, _) if policy.periods.any() => (fulls.len(), Reason::NoPeriod, Reason::NoPeriod),
        (None, _) => (0, Reason::NoFullRule, Reason::NoFullRule),
        (Some(count), FullRetention::Count) => {
            let kept = usize::try_from(count).unwrap_or(usize::MAX);
            (fulls.len().saturating_sub(kept), Reason::FullCount(count), Reason::BeyondFullCount(count))
        }
        (Some(days), FullRetention::Time) => {
            let first = first_within(stock, &fulls, days).unwrap_or(0);
            if first > 0 {
                clock::check_gap(stock.all.values().copied())?;
            }
            (first, Reason::FullDays(days), Reason::BeyondFullDays(days))
        }
    };
    let word = |place| if place < first_kept { (false, goes) } else { (true, keeps) };
    Ok(fulls.into_iter().enumerate().map(|(place, label)| (label, word(place))).collect())
}

/// The place of the newest full backup that is so many days old, seen from the end of the newest backup: it is needed to reach back so
/// far, and those before it are not. `None` where none is that old.
pub(super) fn first_within(stock: &Stock<'_>, fulls: &[BackupLabel], days: u32) -> Option<usize> {
    let newest = stock.all.values().filter_map(|backup| Some(backup.facts?.stop)).max()?;
    let limit = newest.saturating_sub(i64::from(days) * DAY);
    fulls.iter().rposition(|label| stock.facts(*label).is_some_and(|facts| facts.stop <= limit))
}

/// The rule for differential backups, of those that can be read and whose full stays. Full backups count, too.
fn diff_rule(
    policy: &Policy,
    stock: &Stock<'_>,
    fulls: &BTreeMap<BackupLabel, Word>,
) -> BTreeMap<BackupLabel, Word> {
    let Some(count) = policy.diff else { return BTreeMap::new() };
    let counts = |candidate: &&&Candidate| {
        candidate.facts.is_some()
            && candidate.label.backup_type() != BackupType::Incr
            && fulls.get(&candidate.label.full()).is_some_and(|(keep, _)| *keep)
    };
    let listed: Vec<BackupLabel> =
        stock.all.values().filter(counts).map(|candidate| candidate.label).collect();
    let first_kept = listed.len().saturating_sub(usize::try_from(count).unwrap_or(usize::MAX));
    let word = |place| match place < first_kept {
        true => (false, Reason::BeyondDiffCount(count)),
        false => (true, Reason::DiffCount(count)),
    };
    let words = listed.into_iter().enumerate().map(|(place, label)| (label, word(place)));
    words.filter(|(label, _)| label.backup_type() == BackupType::Diff).collect()
}

/// Keeps what is stronger than the rules.
fn protect(policy: &Policy, stock: &Stock<'_>, verdicts: &mut Verdicts) {
    let whole = stock.whole();
    let sound = |label: &BackupLabel| stock.is_sound(*label);
    if let Some(newest) = whole.first() {
        keep(verdicts, *newest, Reason::Newest);
    }
    if let Some(newest) = whole.iter().find(|label| sound(label))
        && whole.first() != Some(newest)
    {
        keep(verdicts, *newest, Reason::NewestSound);
    }
    for (period, count) in policy.periods.rules() {
        let Some(count) = count else { continue };
        // The newest of each period; one with page errors only where there is no other.
        let mut picked: BTreeMap<i64, BackupLabel> = BTreeMap::new();
        for label in whole.iter().filter(|l| sound(l)).chain(whole.iter().filter(|l| !sound(l))) {
            if let Some(facts) = stock.facts(*label) {
                picked.entry(calendar::number(period, facts.day)).or_insert(*label);
            }
        }
        let last = usize::try_from(count).unwrap_or(usize::MAX);
        for label in picked.into_values().rev().take(last) {
            keep(verdicts, label, Reason::Period(period, count));
        }
    }
    for (label, candidate) in &stock.all {
        if candidate.held {
            keep(verdicts, *label, Reason::Held);
        }
        if candidate.in_use {
            keep(verdicts, *label, Reason::InUse);
        }
    }
}

fn keep(verdicts: &mut Verdicts, label: BackupLabel, reason: Reason) {
    let Some(plan) = verdicts.get_mut(&label) else { return };
    if !plan.keep {
        plan.keep = true;
        plan.reasons.clear();
    }
    plan.reasons.push(reason);
}

/// Keeps what those that stay build on, dependants first, so that whole chains stay.
fn keep_parents(stock: &Stock<'_>, verdicts: &mut Verdicts) {
    for (label, candidate) in stock.all.iter().rev() {
        if !verdicts.get(label).is_some_and(|plan| plan.keep) || label.backup_type() == BackupType::Full {
            continue;
        }
        let prior = candidate.facts.and_then(|facts| facts.prior).filter(|prior| stock.get(*prior).is_some());
        let older = stock.family(label.full()).map(|other| other.label).take_while(|other| other < label);
        // Where nobody knows what it builds on, it may be any of them.
        for parent in older.filter(|other| prior.is_none_or(|prior| prior == *other)) {
            if verdicts.get(&parent).is_some_and(|plan| !plan.keep) {
                keep(verdicts, parent, Reason::NeededBy(*label));
            }
        }
    }
}

/// Removes one backup, if any, and what builds on it.
fn by_name(
    input: &ExpireInput<'_>,
    stock: &Stock<'_>,
    asked: Option<BackupLabel>,
    reason: Reason,
) -> Result<Verdicts> {
    let going = match asked {
        Some(label) => with_dependants(stock, label)?,
        None => BTreeSet::new(),
    };
    clock::check(stock.all.values().copied().filter(|b| !going.contains(&b.label)), input.now)?;
    if let Some(label) = asked {
        check_removable(stock, label, &going)?;
    }
    let plan = |&label: &BackupLabel| {
        let (keep, reason) = match (going.contains(&label), asked == Some(label)) {
            (false, _) => (true, Reason::NotAsked),
            (true, true) => (false, reason),
            (true, false) => (false, parent_goes(stock, label)),
        };
        (label, BackupPlan { label, keep, reasons: vec![reason] })
    };
    Ok(stock.all.keys().map(plan).collect())
}

/// A backup and all that builds on it.
fn with_dependants(stock: &Stock<'_>, asked: BackupLabel) -> Result<BTreeSet<BackupLabel>> {
    let mut going = BTreeSet::from([asked]);
    for candidate in stock.family(asked.full()).filter(|candidate| candidate.label > asked) {
        let label = candidate.label;
        let depends = match candidate.facts {
            _ if asked == asked.full() => true,
            Some(facts) => facts.prior.is_some_and(|prior| going.contains(&prior)),
            None => {
                let reason = format!(
                    "backup {asked} cannot be expired before {label}, which may build on it: its manifest cannot be read"
                );
                return Err(Error::Protected { reason });
            }
        };
        if depends {
            going.insert(label);
        }
    }
    Ok(going)
}

/// What is asked for by name is not removed where it is on hold, in use, or the last of its kind.
fn check_removable(stock: &Stock<'_>, asked: BackupLabel, going: &BTreeSet<BackupLabel>) -> Result<()> {
    for candidate in going.iter().filter_map(|label| stock.get(*label)) {
        let why = match candidate {
            Candidate { held: true, .. } => "is on hold",
            Candidate { in_use: true, .. } => "is used by a running command",
            _ => continue,
        };
        let reason = format!("backup {asked} cannot be expired: {} {why}", candidate.label);
        return Err(Error::Protected { reason });
    }
    let fulls = stock.fulls();
    let archive = stock.facts(asked).map(|facts| facts.archive);
    let replaces = |full: &BackupLabel| {
        *full != asked && (archive.is_none() || stock.facts(*full).map(|facts| facts.archive) == archive)
    };
    let newest = fulls.iter().all(|full| *full <= asked);
    if asked == asked.full() && newest && !fulls.iter().any(replaces) {
        return Err(last_full(asked));
    }
    Ok(())
}

fn last_full(label: BackupLabel) -> Error {
    Error::Protected {
        reason: format!(
            "full backup {label} cannot be expired until another full backup has been created on this repo"
        ),
    }
}

/// The oldest full backup that may go.
fn oldest(stock: &Stock<'_>) -> Result<BackupLabel> {
    let mut fulls = stock.fulls();
    let newest = fulls.pop();
    let free = |full: &&BackupLabel| !stock.family(**full).any(|backup| backup.held || backup.in_use);
    let none = || match newest.filter(|_| fulls.is_empty()) {
        Some(only) => last_full(only),
        None => Error::Protected { reason: "there is no full backup that could be expired".to_owned() },
    };
    fulls.iter().find(free).copied().ok_or_else(none)
}
