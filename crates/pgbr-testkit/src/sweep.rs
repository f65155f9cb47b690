//! Crash sweeps: a command is done again and again, and each time another of its requests goes wrong, in every way there is.
//!
//! Each try has a seed: its clock, its randomness and the order of its requests follow from that. One that fails is printed with its seed and
//! its fault, and `PGBR_TEST_CASE` repeats it alone:
//!
//! ```text
//! PGBR_TEST_CASE='expire in memory: seed 13, Dies(12)' cargo test -p pgbr --test it sweep
//! ```
//!
//! `PGBR_TEST_SEED` begins with another seed than 1. Where a sweep is too long for every day, `PGBR_TEST_DENSE=1` makes it whole.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::faults::{Fault, failures};

/// One try of a sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// From this all follows that is left to chance.
    pub seed: u64,
    /// What goes wrong.
    pub fault: Fault,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}, {:?}", self.seed, self.fault)
    }
}

impl FromStr for Case {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (seed, fault) = text.strip_prefix("seed ")?.split_once(", ")?;
            let n = fault.split_once('(')?.1.strip_suffix(')')?.parse().ok()?;
            let fault = failures(n).into_iter().find(|known| format!("{known:?}") == fault)?;
            Some(Self { seed: seed.parse().ok()?, fault })
        };
        parse().ok_or_else(|| format!("'{text}' is not 'seed NUMBER, FAULT(NUMBER)'"))
    }
}

/// Whether the whole of a long test was asked for.
pub fn is_dense() -> bool {
    std::env::var("PGBR_TEST_DENSE").is_ok_and(|value| value == "1")
}

/// A sweep of one command.
#[derive(Debug, Clone)]
pub struct Sweep {
    command: String,
    at_least: usize,
    workers: usize,
    /// One way to fail at each request, another at the next; the first of them is of this number.
    in_turn: Option<usize>,
    kinds: Vec<fn(usize) -> Fault>,
}

/// So many requests in a row must not be reached for a sweep to be over: where threads work side by side, not every run makes as many.
const BEYOND: usize = 3;
/// When so many tries have failed, the others would say no more.
const ENOUGH: usize = 8;

impl Sweep {
    /// A sweep of what makes at least so many requests.
    pub fn of(command: impl Into<String>, at_least: usize) -> Self {
        let kinds: [fn(usize) -> Fault; 4] =
            [Fault::Fails, Fault::ActsAndFails, Fault::ActsAndDelays, Fault::Dies];
        Self { command: command.into(), at_least, workers: 2, in_turn: None, kinds: kinds.to_vec() }
    }

    /// So many tries run side by side, instead of two.
    #[must_use]
    pub fn side_by_side(self, workers: usize) -> Self {
        Self { workers, ..self }
    }

    /// Unless `PGBR_TEST_DENSE` says otherwise, each request goes wrong in one way only, which is another for the next request; the first goes
    /// wrong in the way of this number.
    #[must_use]
    pub fn in_turn(self, first: usize) -> Self {
        Self { in_turn: (!is_dense()).then_some(first), ..self }
    }

    /// All that goes wrong is that answers come late.
    #[must_use]
    pub fn of_delays(self) -> Self {
        Self { kinds: vec![Fault::ActsAndDelays], ..self }
    }

    /// Does it. `worker` makes what a thread keeps from try to try; `attempt` tries, and says whether it came as far as the request that goes wrong.
    ///
    /// # Panics
    /// When a try fails, or the command makes fewer requests than it should.
    pub fn run<W>(&self, worker: impl Fn() -> W + Sync, attempt: impl AsyncFn(&W, Case) -> bool + Sync) {
        let begun = Instant::now();
        let tries = match self.asked() {
            Some(Some(case)) => Tries::only(case),
            Some(None) => return,
            None => Tries::all(self),
        };
        std::thread::scope(|scope| {
            for _ in 0..self.workers.min(tries.at_most()) {
                scope.spawn(|| self.work(&tries, &worker, &attempt));
            }
        });
        tries.tell(self, begun);
    }

    /// The case that was asked for by the environment; `Some(None)` where it is of another sweep.
    fn asked(&self) -> Option<Option<Case>> {
        let asked = std::env::var("PGBR_TEST_CASE").ok()?;
        let of_this = asked.strip_prefix(self.command.as_str()).and_then(|rest| rest.strip_prefix(": "));
        Some(of_this.map(|case| case.parse().unwrap_or_else(|error| panic!("PGBR_TEST_CASE: {error}"))))
    }

    fn work<W>(
        &self,
        tries: &Tries,
        worker: &(impl Fn() -> W + Sync),
        attempt: &(impl AsyncFn(&W, Case) -> bool + Sync),
    ) {
        let mut kept = None;
        while let Some(case) = tries.next() {
            let kept = kept.get_or_insert_with(worker);
            let attempted = catch_unwind(AssertUnwindSafe(|| {
                // One thread, on which tasks take turns in the order in which they became ready.
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime can be made").block_on(attempt(kept, case))
            }));
            tries.done(self, case, attempted);
        }
    }
}

/// The tries of a sweep, as threads take them.
struct Tries {
    state: Mutex<State>,
    changed: Condvar,
    seed: u64,
    in_turn: Option<usize>,
    kinds: Vec<fn(usize) -> Fault>,
    only: Option<Case>,
}

#[derive(Default)]
struct State {
    next: usize,
    under_way: usize,
    /// The number behind the last request that was reached.
    reached: usize,
    by_kind: BTreeMap<String, usize>,
    failed: Vec<String>,
}

impl Tries {
    fn all(sweep: &Sweep) -> Self {
        let seed = std::env::var("PGBR_TEST_SEED")
            .map_or(1, |text| text.parse().expect("PGBR_TEST_SEED is a number"));
        let (state, changed, kinds) = (Mutex::default(), Condvar::new(), sweep.kinds.clone());
        Self { state, changed, seed, in_turn: sweep.in_turn, kinds, only: None }
    }

    fn only(case: Case) -> Self {
        let (state, changed, kinds) = (Mutex::default(), Condvar::new(), Vec::new());
        Self { state, changed, seed: 0, in_turn: None, kinds, only: Some(case) }
    }

    fn at_most(&self) -> usize {
        if self.only.is_some() { 1 } else { usize::MAX }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The case of a number, and its request.
    fn case(&self, number: usize) -> (Case, usize) {
        let count = self.kinds.len();
        let (n, kind) = match self.in_turn {
            Some(first) => (number, (number + first) % count),
            None => (number / count, number % count),
        };
        // Another order for each request, too.
        (Case { seed: self.seed + n as u64, fault: self.kinds[kind](n) }, n)
    }

    /// The next try; none when no request that is left is ever reached.
    fn next(&self) -> Option<Case> {
        let mut state = self.state();
        loop {
            let (case, n) = match self.only {
                Some(case) if state.next == 0 => (case, 0),
                Some(_) => return None,
                None => self.case(state.next),
            };
            if state.failed.len() >= ENOUGH {
                return None;
            }
            if n < state.reached + BEYOND {
                state.next += 1;
                state.under_way += 1;
                return Some(case);
            }
            if state.under_way == 0 {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    #[expect(clippy::print_stdout, reason = "which try has failed belongs into the log of the tests")]
    fn done(&self, sweep: &Sweep, case: Case, attempted: Result<bool, Box<dyn Any + Send>>) {
        let mut state = self.state();
        state.under_way -= 1;
        match attempted {
            Ok(true) => {
                let n = case.fault.request().unwrap_or_default();
                state.reached = state.reached.max(n + 1);
                let kind = format!("{:?}", case.fault);
                let kind = kind.split('(').next().unwrap_or_default().to_owned();
                *state.by_kind.entry(kind).or_default() += 1;
            }
            Ok(false) => {}
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
                println!("PGBR_TEST_CASE='{}: {case}' fails: {text}", sweep.command);
                state.failed.push(format!("{case}"));
                state.reached = state.reached.max(case.fault.request().map_or(0, |n| n + 1));
            }
        }
        self.changed.notify_all();
    }

    #[expect(clippy::print_stdout, reason = "how many there were belongs into the log of the tests")]
    fn tell(&self, sweep: &Sweep, begun: Instant) {
        let state = self.state();
        let (command, tried) = (&sweep.command, state.by_kind.values().sum::<usize>());
        let kinds: Vec<_> = state.by_kind.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        let (requests, kinds, took) = (state.reached, kinds.join(", "), begun.elapsed().as_secs_f32());
        println!("{command}: {tried} failures at {requests} requests ({kinds}) in {took:.1} s");
        let failed = &state.failed;
        assert!(
            failed.is_empty(),
            "{command}: {} tries failed, repeat one by PGBR_TEST_CASE='{command}: {}'",
            failed.len(),
            failed[0]
        );
        assert!(
            self.only.is_some() || requests >= sweep.at_least,
            "{command}: {requests} requests are too few to tell"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn every_request_goes_wrong_in_every_way() {
        let tried = AtomicUsize::new(0);
        let attempt = async |_: &(), case: Case| {
            let reached = case.fault.request().unwrap() < 10;
            tried.fetch_add(usize::from(reached), Ordering::SeqCst);
            reached
        };
        Sweep::of("a test", 10).side_by_side(3).run(|| (), attempt);
        assert_eq!(tried.into_inner(), 40);
    }

    #[test]
    fn a_case_is_read_as_it_is_printed() {
        for fault in failures(12) {
            let case = Case { seed: 7, fault };
            assert_eq!(case.to_string().parse(), Ok(case));
        }
        assert!("seed 7, Sleeps(1)".parse::<Case>().is_err());
    }

    #[test]
    fn a_try_that_fails_is_told() {
        let attempt = async |_: &(), case: Case| {
            assert_ne!(case.fault, Fault::Dies(2), "as it should");
            case.fault.request() < Some(4)
        };
        let swept = catch_unwind(|| Sweep::of("a test", 4).run(|| (), attempt));
        let text = swept.unwrap_err().downcast::<String>().unwrap();
        assert!(text.contains("PGBR_TEST_CASE='a test: seed 3, Dies(2)'"), "{text}");
    }
}
