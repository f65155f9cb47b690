//! What is read in this run: everything, or, with a budget, what was read longest ago.
//!
//! A ledger says when each unit was read last. It is believed for the order alone. What is found damaged is struck out, so that each run begins
//! with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pgbr_manifest::{ArchiveId, BackupLabel};
use pgbr_repo::{LedgerOf, LedgerParts, WalLog};

use super::report::VerifyCoverage;
use crate::host::{Clock, Host};

/// How much is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a run ends after a time or after an amount")]
pub enum VerifyBudget {
    /// So long.
    Time(Duration),
    /// So many bytes, as stored.
    Bytes(u64),
}

/// How far ahead of the clock a time may be that is believed, in seconds: runs that follow each other within a second count up.
const SLACK: i64 = 60;

/// Something that is read and verified as a whole: a number in a part of a ledger.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Unit {
    pub(super) of: LedgerOf,
    part: String,
    number: u32,
}

impl Unit {
    /// A pack.
    pub(super) fn pack(label: BackupLabel, attempt: u64, index: bool, number: u32) -> Self {
        Self { of: LedgerOf::Backup(label), part: pack_part(attempt, index), number }
    }

    /// The list of files of a backup, with all that it takes from older ones.
    pub(super) fn list(label: BackupLabel) -> Self {
        Self { of: LedgerOf::Backup(label), part: "list".to_owned(), number: 0 }
    }

    /// A segment of the log, by the last eight digits of its name, with all files that begin with this name.
    pub(super) fn wal(archive: ArchiveId, log: WalLog, number: u32) -> Self {
        Self { of: LedgerOf::Log(archive, log), part: "wal".to_owned(), number }
    }
}

fn pack_part(attempt: u64, index: bool) -> String {
    format!("{attempt:016x}{}", if index { "i" } else { "" })
}

/// When numbers were read last: ranges, by their first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Ages(BTreeMap<u32, (u32, i64)>);

impl Ages {
    fn get(&self, number: u32) -> Option<i64> {
        let (_, (last, time)) = self.0.range(..=number).next_back()?;
        (number <= *last).then_some(*time)
    }

    fn set(&mut self, number: u32, time: Option<i64>) {
        if self.get(number) == time {
            return;
        }
        // Out of the range that it is in; then into the one before or behind, where these have the same time.
        if let Some((first, (last, old))) = self.0.range(..=number).next_back().map(|(f, range)| (*f, *range))
            && number <= last
        {
            self.0.remove(&first);
            if first < number {
                self.0.insert(first, (number - 1, old));
            }
            if number < last {
                self.0.insert(number + 1, (last, old));
            }
        }
        let Some(time) = time else { return };
        let behind = number.checked_add(1).filter(|next| self.0.get(next).is_some_and(|(_, t)| *t == time));
        let last = behind.and_then(|next| self.0.remove(&next)).map_or(number, |(last, _)| last);
        match self.0.range_mut(..number).next_back() {
            Some((_, (end, same))) if end.checked_add(1) == Some(number) && *same == time => *end = last,
            _ => drop(self.0.insert(number, (last, time))),
        }
    }

    /// Whether all numbers below `count` are known.
    fn covers(&self, count: u32) -> bool {
        let mut next = 0;
        for (first, (last, _)) in &self.0 {
            if next >= count || *first > next {
                break;
            }
            next = last.saturating_add(1);
        }
        next >= count
    }
}

/// All ledgers, as they were read and as this run changes them.
#[derive(Debug, Clone, Default)]
pub(super) struct Book {
    of: BTreeMap<LedgerOf, BTreeMap<String, Ages>>,
}

impl Book {
    /// Takes a ledger in. What it says of times to come is not believed.
    pub(super) fn read(&mut self, of: LedgerOf, parts: LedgerParts, now: i64) {
        let own = self.of.entry(of).or_default();
        for (part, ranges) in parts {
            let ages = own.entry(part).or_default();
            for (first, last, time) in ranges {
                if first <= last && time <= now.saturating_add(SLACK) {
                    ages.0.insert(first, (last, time));
                }
            }
            // Ranges that overlap would tell of numbers twice: the later one counts.
            let mut end = None;
            ages.0.retain(|first, (last, _)| {
                let apart = end.is_none_or(|end| *first > end);
                end = if apart { Some(*last) } else { end };
                apart
            });
        }
    }

    pub(super) fn get(&self, unit: &Unit) -> Option<i64> {
        self.of.get(&unit.of)?.get(&unit.part)?.get(unit.number)
    }

    fn set(&mut self, unit: &Unit, time: Option<i64>) {
        let parts = self.of.entry(unit.of.clone()).or_default();
        parts.entry(unit.part.clone()).or_default().set(unit.number, time);
    }

    /// As it is written.
    fn parts(&self, of: &LedgerOf) -> LedgerParts {
        let parts = self.of.get(of).into_iter().flatten();
        let ranges =
            |ages: &Ages| ages.0.iter().map(|(first, (last, time))| (*first, *last, *time)).collect();
        parts.map(|(part, ages)| (part.clone(), ranges(ages))).collect()
    }

    /// The times at which something was read last, oldest first; first of all those that were never read.
    fn times(&self) -> Vec<Option<i64>> {
        let all = self.of.values().flat_map(BTreeMap::values).flat_map(|ages| ages.0.values());
        let times: BTreeSet<i64> = all.map(|(_, time)| *time).collect();
        std::iter::once(None).chain(times.into_iter().map(Some)).collect()
    }
}

/// How much is left of a budget.
pub(super) struct Purse {
    clock: Arc<dyn Clock>,
    deadline: Option<Duration>,
    bytes: AtomicU64,
}

impl Purse {
    fn new(host: &Host, budget: VerifyBudget) -> Self {
        let clock = Arc::clone(&host.clock);
        let (deadline, bytes) = match budget {
            VerifyBudget::Time(time) => (Some(clock.monotonic().saturating_add(time)), u64::MAX),
            VerifyBudget::Bytes(bytes) => (None, bytes),
        };
        Self { clock, deadline, bytes: AtomicU64::new(bytes) }
    }

    /// Takes so many bytes, if anything is left: the last one may be larger than that.
    fn take(&self, bytes: u64) -> bool {
        let before = self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            (left > 0).then(|| left.saturating_sub(bytes))
        });
        before.is_ok() && !self.is_late()
    }

    fn is_late(&self) -> bool {
        self.deadline.is_some_and(|deadline| self.clock.monotonic() >= deadline)
    }

    fn is_spent(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) == 0 || self.is_late()
    }
}

/// What is due.
#[derive(Clone)]
pub(super) enum Due {
    /// Everything.
    All,
    /// Nothing more.
    Nothing,
    /// What was read last at this time, while something is left of the budget.
    Aged { book: Arc<Book>, time: Option<i64>, purse: Arc<Purse> },
}

impl Due {
    /// Whether a unit of so many bytes is to be read: then it is paid for.
    pub(super) fn takes(&self, unit: &Unit, bytes: u64) -> bool {
        match self {
            Self::All => true,
            Self::Nothing => false,
            Self::Aged { book, time, purse } => book.get(unit) == *time && purse.take(bytes),
        }
    }

    /// Whether nothing is left of the budget.
    pub(super) fn is_spent(&self) -> bool {
        matches!(self, Self::Aged { purse, .. } if purse.is_spent())
    }

    /// Whether any data pack of a run may be due, of which there are so many.
    pub(super) fn may_take_data(&self, label: BackupLabel, attempt: u64, count: u32) -> bool {
        let Self::Aged { book, time, purse } = self else { return matches!(self, Self::All) };
        let parts = book.of.get(&LedgerOf::Backup(label));
        let ages = parts.and_then(|parts| parts.get(&pack_part(attempt, false)));
        let known = match (ages, time) {
            (None, time) => time.is_none(),
            (Some(ages), None) => !ages.covers(count),
            (Some(ages), Some(time)) => ages.0.values().any(|(_, known)| known == time),
        };
        known && !purse.is_spent()
    }

    /// Whether any WAL of a directory may be due.
    pub(super) fn may_take_wal(&self, archive: ArchiveId, log: &WalLog) -> bool {
        let Self::Aged { book, time, purse } = self else { return true };
        let parts = book.of.get(&LedgerOf::Log(archive, log.clone()));
        // Only a listing tells what was never read.
        let known = time.is_none()
            || parts
                .into_iter()
                .flat_map(BTreeMap::values)
                .any(|a| a.0.values().any(|(_, t)| Some(*t) == *time));
        known && !purse.is_spent()
    }
}

/// What was read, in this run and before.
pub(super) struct Budget {
    /// The ledgers as this run has changed them.
    book: Book,
    changed: BTreeSet<LedgerOf>,
    purse: Option<Arc<Purse>>,
    /// The time that this run goes by, in Unix seconds.
    now: i64,
    coverage: VerifyCoverage,
}

impl Budget {
    pub(super) fn new(host: &Host, budget: Option<VerifyBudget>, book: Book) -> Self {
        let purse = budget.map(|budget| Arc::new(Purse::new(host, budget)));
        let (changed, coverage) = (BTreeSet::new(), VerifyCoverage::default());
        // Later than all before it, so that what this run reads is told apart.
        let newest = book.times().into_iter().flatten().max().map_or(0, |newest| newest.saturating_add(1));
        Self { book, changed, purse, now: host.now_seconds().max(newest), coverage }
    }

    /// A unit was read and is sound.
    pub(super) fn verified(&mut self, unit: &Unit) {
        self.book.set(unit, Some(self.now));
        self.changed.insert(unit.of.clone());
    }

    /// A unit is damaged: it is to be read again next time, before all that is sound.
    pub(super) fn damaged(&mut self, unit: &Unit) {
        self.book.set(unit, None);
        self.changed.insert(unit.of.clone());
    }

    /// What is to be read, part by part: all at once, or by age.
    pub(super) fn plan(&self) -> Vec<Due> {
        let Some(purse) = &self.purse else { return vec![Due::All] };
        let book = Arc::new(self.book.clone());
        let due = |time| Due::Aged { book: Arc::clone(&book), time, purse: Arc::clone(purse) };
        self.book.times().into_iter().map(due).collect()
    }

    /// Ledgers that have changed, as they are to be written.
    pub(super) fn take_changed(&mut self) -> Vec<(LedgerOf, LedgerParts)> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|of| (of.clone(), self.book.parts(&of))).collect()
    }

    /// Forgets a ledger that was written and is not asked for again.
    pub(super) fn forget(&mut self, of: &LedgerOf) {
        if self.purse.is_none() {
            self.book.of.remove(of);
        }
    }

    /// Counts a unit for the report.
    pub(super) fn count(&mut self, unit: &Unit) {
        if self.purse.is_none() {
            return;
        }
        let coverage = &mut self.coverage;
        match self.book.get(unit) {
            Some(time) if time >= self.now => coverage.read += 1,
            Some(time) => {
                coverage.left += 1;
                coverage.oldest = Some(coverage.oldest.map_or(time, |oldest| oldest.min(time)));
            }
            None => {
                coverage.left += 1;
                coverage.never += 1;
            }
        }
    }

    /// What the budget has left.
    pub(super) fn coverage(&self) -> Option<VerifyCoverage> {
        self.purse.is_some().then_some(self.coverage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label() -> BackupLabel {
        "20261122-120000F".parse().unwrap()
    }

    fn pack(number: u32) -> Unit {
        Unit::pack(label(), 7, false, number)
    }

    fn book(ranges: &[(u32, u32, i64)]) -> Book {
        let mut book = Book::default();
        let parts = LedgerParts::from([(pack_part(7, false), ranges.to_vec())]);
        book.read(LedgerOf::Backup(label()), parts, 1000);
        book
    }

    #[test]
    fn ranges_are_cut_and_joined() {
        let mut book = book(&[(0, 9, 5)]);
        for (number, time) in
            [(4, Some(8)), (5, Some(8)), (3, Some(8)), (7, None), (10, Some(5)), (12, Some(5))]
        {
            book.set(&pack(number), time);
        }
        let parts = book.parts(&LedgerOf::Backup(label()));
        assert_eq!(
            parts.values().next().unwrap(),
            &[(0, 2, 5), (3, 5, 8), (6, 6, 5), (8, 10, 5), (12, 12, 5)]
        );
        assert_eq!((book.get(&pack(4)), book.get(&pack(7)), book.get(&pack(11))), (Some(8), None, None));
    }

    #[test]
    fn what_a_ledger_says_is_bounded() {
        // Times to come, ranges that go back, and ranges that overlap.
        let book = book(&[(0, 3, 2000), (9, 8, 1), (10, 20, 1), (15, 30, 2), (31, u32::MAX, 3)]);
        let got = [0, 9, 12, 18, 25, 40].map(|number| book.get(&pack(number)));
        assert_eq!(got, [None, None, Some(1), Some(1), None, Some(3)]);
    }

    #[test]
    fn what_was_read_longest_ago_comes_first() {
        let host = Host::system();
        let book = book(&[(0, 1, 20), (2, 2, 10), (5, 5, 20)]);
        let budget = Budget::new(&host, Some(VerifyBudget::Bytes(450)), book);
        let mut order = Vec::new();
        for due in budget.plan() {
            assert!(due.may_take_data(label(), 7, 6) || order.len() >= 5);
            order.extend((0..7).filter(|number| due.takes(&pack(*number), 100)));
        }
        // Those that were never read, then by time; the last one that is begun is finished.
        assert_eq!(order, [3, 4, 6, 2, 0]);
        assert!(
            Budget::new(&host, None, Book::default()).plan().iter().all(|due| due.takes(&pack(0), u64::MAX))
        );
        let late = Budget::new(&host, Some(VerifyBudget::Time(Duration::ZERO)), Book::default());
        assert!(!late.plan().iter().any(|due| due.takes(&pack(0), 1)));
    }

    #[test]
    fn all_that_is_known_need_not_be_walked() {
        for (ranges, covers) in [
            (vec![(0, 5, 1)], true),
            (vec![(0, 2, 1), (3, 5, 2)], true),
            (vec![(0, 2, 1), (4, 9, 2)], false),
            (vec![(1, 9, 1)], false),
            (vec![], false),
        ] {
            let book = book(&ranges);
            let ages = book.of.values().next().and_then(|parts| parts.values().next());
            assert_eq!(ages.is_some_and(|ages| ages.covers(6)), covers, "{ranges:?}");
        }
    }

    /// Ages hold what a map holds.
    #[test]
    fn ages_are_maps() {
        for seed in 1..200_u64 {
            let (mut ages, mut map, mut state) = (Ages::default(), BTreeMap::new(), seed);
            for _ in 0..80 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let number = u32::try_from((state >> 33) % 20).unwrap();
                let time = [None, Some(1), Some(2)][usize::try_from((state >> 50) % 3).unwrap()];
                ages.set(number, time);
                map.insert(number, time);
            }
            for number in 0..21 {
                assert_eq!(ages.get(number), map.get(&number).copied().flatten(), "{seed}: {number}");
            }
        }
    }
}
