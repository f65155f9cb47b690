//! One at a time, in an order that follows from a seed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::seed::Numbers;

/// So often the others are let go on before one of those that wait is chosen: whoever can come by then without waiting for a thread has come.
const YIELDS: usize = 16;

/// Lets one at a time through. Who is next depends on the seed and on who waits, and not on who came first.
#[derive(Debug, Clone)]
pub(crate) struct Turns {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    numbers: Numbers,
    /// Whether somebody has the turn, or is being chosen.
    busy: bool,
    waiting: Vec<(String, oneshot::Sender<Turn>)>,
}

/// The right to go on alone, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    turns: Turns,
    runtime: Handle,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.runtime.spawn(self.turns.clone().choose(self.runtime.clone()));
    }
}

impl Turns {
    pub(crate) fn new(seed: u64) -> Self {
        let state = State { numbers: Numbers::new(seed), busy: false, waiting: Vec::new() };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the turn of who calls itself `name`.
    pub(crate) async fn turn(&self, name: &str) -> Turn {
        let (sender, receiver) = oneshot::channel();
        let idle = {
            let mut state = self.state();
            state.waiting.push((name.to_owned(), sender));
            !std::mem::replace(&mut state.busy, true)
        };
        if idle {
            let runtime = Handle::current();
            runtime.clone().spawn(self.clone().choose(runtime));
        }
        receiver.await.expect("who waits is chosen in the end")
    }

    /// Waits until nobody has the turn or waits for it.
    pub(crate) async fn idle(&self) {
        while self.state().busy {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Gives the turn to one of those that wait.
    async fn choose(self, runtime: Handle) {
        for _ in 0..YIELDS {
            tokio::task::yield_now().await;
        }
        let chosen = {
            let mut state = self.state();
            // Who has given up waits no more.
            state.waiting.retain(|(_, sender)| !sender.is_closed());
            state.waiting.sort_by(|one, other| one.0.cmp(&other.0));
            if state.waiting.is_empty() {
                state.busy = false;
                return;
            }
            let count = state.waiting.len();
            let chosen = state.numbers.below(count);
            state.waiting.swap_remove(chosen).1
        };
        // Where it has given up just now, the turn comes back and goes to another.
        drop(chosen.send(Turn { turns: self, runtime }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn order(seed: u64) -> Vec<usize> {
        let turns = Turns::new(seed);
        let order = Mutex::new(Vec::new());
        let each = (0..6).map(|n| {
            let (turns, order) = (&turns, &order);
            async move {
                for _ in 0..2 {
                    let turn = turns.turn(&n.to_string()).await;
                    order.lock().unwrap().push(n);
                    tokio::task::yield_now().await;
                    drop(turn);
                }
            }
        });
        futures::future::join_all(each).await;
        order.into_inner().unwrap()
    }

    #[tokio::test]
    async fn the_order_follows_from_the_seed() {
        assert_eq!(order(1).await, order(1).await);
        assert_ne!(order(1).await, order(2).await);
    }

    #[tokio::test]
    async fn nobody_waits_for_who_has_given_up() {
        let turns = Turns::new(1);
        let first = turns.turn("a").await;
        let waiting = tokio::spawn({
            let turns = turns.clone();
            async move { turns.turn("b").await }
        });
        tokio::task::yield_now().await;
        waiting.abort();
        drop(waiting.await);
        drop(first);
        drop(turns.turn("c").await);
    }
}
