//! How long something has not changed before one observer's eyes: what makes a lease or a pin stale.
//!
//! Clocks of two hosts are never compared. An observer notes on its own monotonic clock when it saw a counter for the first time; only
//! what it has seen unchanged for the whole time-to-live is stale. A command that runs for seconds cannot wait that long, so the notes can
//! be kept between runs: they count for the same boot of the same host.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// An observer's notes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watch {
    seen: BTreeMap<String, Seen>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    /// What was seen: a counter, or a term and a counter.
    state: String,
    /// When it was seen first, in milliseconds of the monotonic clock.
    since: u64,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    boot: String,
    seen: BTreeMap<String, Seen>,
}

/// How many notes are kept; what does not fit is watched anew by the next run.
const MAX_NOTES: usize = 10_000;

impl Watch {
    /// An observer that has seen nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes that `name` is in `state` now, and tells for how long it has been seen so. `now` is the time of a monotonic clock
    /// that counts while the host sleeps, from any start that stays the same until the next boot.
    pub fn observe(&mut self, name: &str, state: &str, now: Duration) -> Duration {
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        match self.seen.get(name) {
            // A note from the future is of another clock: it counts as new.
            Some(seen) if seen.state == state && seen.since <= now => Duration::from_millis(now - seen.since),
            _ => {
                if self.seen.len() < MAX_NOTES || self.seen.contains_key(name) {
                    self.seen.insert(name.to_owned(), Seen { state: state.to_owned(), since: now });
                }
                Duration::ZERO
            }
        }
    }

    /// Forgets what is not there any more.
    pub fn retain(&mut self, still_there: impl Fn(&str) -> bool) {
        self.seen.retain(|name, _| still_there(name));
    }

    /// The notes as text, for the next run on this host; `boot` names the boot that the clock counts from.
    pub fn save(&self, boot: &str) -> String {
        let saved = Saved { boot: boot.to_owned(), seen: self.seen.clone() };
        serde_json::to_string(&saved).unwrap_or_default()
    }

    /// The notes of an earlier run; none, if the host has been started anew since or they cannot be read.
    pub fn restore(text: &str, boot: &str) -> Self {
        match serde_json::from_str::<Saved>(text) {
            Ok(saved) if saved.boot == boot && saved.seen.len() <= MAX_NOTES => Self { seen: saved.seen },
            _ => Self::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn time_counts_from_the_last_change_that_was_seen() {
        let mut watch = Watch::new();
        assert_eq!(watch.observe("pin", "1", at(100)), at(0));
        assert_eq!(watch.observe("pin", "1", at(160)), at(60));
        assert_eq!(watch.observe("other", "1", at(160)), at(0));
        assert_eq!(watch.observe("pin", "2", at(170)), at(0), "it lives");
        assert_eq!(watch.observe("pin", "2", at(175)), at(5));
        assert_eq!(watch.observe("pin", "2", at(10)), at(0), "a clock that went back proves nothing");
        watch.retain(|name| name != "pin");
        assert_eq!(watch.observe("pin", "2", at(500)), at(0));
    }

    #[test]
    fn notes_outlive_a_run_and_not_a_boot() {
        let mut watch = Watch::new();
        watch.observe("pin", "1", at(100));
        let text = watch.save("boot-a");
        assert_eq!(Watch::restore(&text, "boot-a").observe("pin", "1", at(400)), at(300));
        assert_eq!(Watch::restore(&text, "boot-b").observe("pin", "1", at(400)), at(0));
        assert_eq!(Watch::restore("junk", "boot-a"), Watch::new());
    }
}
