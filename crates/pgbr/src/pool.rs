//! Plain threads for the work that costs CPU: jobs in, results out, finishing what is begun before beginning more.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Which jobs are taken first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// Work that frees memory: it goes before all else.
    Finish,
    /// Work that takes memory.
    Begin,
}

/// A fixed number of threads. The caller bounds how many jobs are out; dropping the pool waits for those that run.
pub(crate) struct Pool<J, R> {
    queue: Arc<Queue<J>>,
    results: Receiver<Option<R>>,
    sender: Sender<Option<R>>,
    threads: Vec<JoinHandle<()>>,
}

/// Hands jobs to a pool, or results past it, from elsewhere.
pub(crate) struct Submitter<J, R> {
    queue: Arc<Queue<J>>,
    sender: Sender<Option<R>>,
}

impl<J, R> Submitter<J, R> {
    /// Hands over a job.
    pub(crate) fn submit(&self, urgency: Urgency, job: J) {
        self.queue.submit(urgency, job);
    }

    /// Reports a result that no worker had a part in.
    pub(crate) fn report(&self, result: R) {
        // Nobody listens any more when the command has failed already.
        drop(self.sender.send(Some(result)));
    }
}

struct Queue<J> {
    state: Mutex<State<J>>,
    changed: Condvar,
}

struct State<J> {
    finish: VecDeque<J>,
    begin: VecDeque<J>,
    closed: bool,
}

/// A worker panicked: a defect, reported and never waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WorkerLost;

impl<J: Send + 'static, R: Send + 'static> Pool<J, R> {
    /// Starts `threads` threads; `make` gives each of them its worker.
    pub(crate) fn start<W, F>(threads: usize, mut make: F) -> std::io::Result<Self>
    where
        W: FnMut(J) -> R + Send + 'static,
        F: FnMut() -> W,
    {
        let state = State { finish: VecDeque::new(), begin: VecDeque::new(), closed: false };
        let queue = Arc::new(Queue { state: Mutex::new(state), changed: Condvar::new() });
        let (sender, results) = channel();
        let mut pool = Self { queue, results, sender, threads: Vec::new() };
        for number in 0..threads.max(1) {
            let (queue, sender, worker) = (Arc::clone(&pool.queue), pool.sender.clone(), make());
            let thread = std::thread::Builder::new().name(format!("worker-{number}"));
            pool.threads.push(thread.spawn(move || run(&queue, &sender, worker))?);
        }
        Ok(pool)
    }

    /// Hands over a job.
    pub(crate) fn submit(&self, urgency: Urgency, job: J) {
        self.queue.submit(urgency, job);
    }

    /// A handle for other threads and tasks.
    pub(crate) fn submitter(&self) -> Submitter<J, R> {
        Submitter { queue: Arc::clone(&self.queue), sender: self.sender.clone() }
    }

    /// Waits for the next result, in whatever order they come. Only to be called while jobs are out.
    pub(crate) fn next_result(&self) -> Result<R, WorkerLost> {
        self.results.recv().ok().flatten().ok_or(WorkerLost)
    }
}

impl<J> Queue<J> {
    fn lock(&self) -> MutexGuard<'_, State<J>> {
        // Nothing in here can leave the queues half changed, so a poisoned lock is as good as any.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn submit(&self, urgency: Urgency, job: J) {
        let mut state = self.lock();
        match urgency {
            Urgency::Finish => state.finish.push_back(job),
            Urgency::Begin => state.begin.push_back(job),
        }
        drop(state);
        self.changed.notify_one();
    }

    fn next(&self) -> Option<J> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(job) = state.finish.pop_front() {
                return Some(job);
            }
            if let Some(job) = state.begin.pop_front() {
                return Some(job);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn run<J, R>(queue: &Queue<J>, sender: &Sender<Option<R>>, mut worker: impl FnMut(J) -> R) {
    while let Some(job) = queue.next() {
        let result = catch_unwind(AssertUnwindSafe(|| worker(job)));
        let lost = result.is_err();
        if sender.send(result.ok()).is_err() || lost {
            return;
        }
    }
}

impl<J, R> Drop for Pool<J, R> {
    fn drop(&mut self) {
        self.queue.lock().closed = true;
        self.queue.changed.notify_all();
        for thread in self.threads.drain(..) {
            // A worker's panic was reported when it happened.
            drop(thread.join());
        }
    }
}

/// Results that come in any order and are taken in order; counts what is out.
pub(crate) struct Ordered<T> {
    issued: u64,
    taken: u64,
    /// What came before its turn, by number.
    pub(crate) ready: BTreeMap<u64, T>,
}

impl<T> Default for Ordered<T> {
    fn default() -> Self {
        Self { issued: 0, taken: 0, ready: BTreeMap::new() }
    }
}

impl<T> Ordered<T> {
    /// The number of the next job.
    pub(crate) const fn issue(&mut self) -> u64 {
        self.issued += 1;
        self.issued - 1
    }

    /// The next result in order, if it has come.
    pub(crate) fn next(&mut self) -> Option<T> {
        let next = self.ready.remove(&self.taken)?;
        self.taken += 1;
        Some(next)
    }

    /// How many are out: not yet taken.
    pub(crate) const fn out(&self) -> u64 {
        self.issued - self.taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_job_has_one_result() {
        let pool = Pool::start(2, || |n: u64| n * 2).unwrap();
        (0..100).for_each(|n| pool.submit(Urgency::Begin, n));
        let mut results: Vec<u64> = (0..100).map(|_| pool.next_result().unwrap()).collect();
        results.sort_unstable();
        assert_eq!(results, (0..100).map(|n| n * 2).collect::<Vec<_>>());
    }

    #[test]
    fn a_panic_is_seen() {
        let pool = Pool::start(1, || |n: u64| assert_ne!(n, 1)).unwrap();
        pool.submit(Urgency::Begin, 1);
        assert_eq!(pool.next_result(), Err(WorkerLost));
    }
}
