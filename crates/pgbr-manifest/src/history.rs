//! Timeline history files (src/backend/access/transam/timeline.c).

use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::wal::TimelineId;

/// The largest history file that is read: PostgreSQL adds some 50 bytes a timeline.
pub const MAX_HISTORY_BYTES: usize = 4 << 20;

/// The most ancestors that a timeline has: one more with each promotion.
const MAX_ANCESTORS: usize = 10_000;

/// Where a timeline comes from: its ancestors, oldest first, each with the position at which it was left.
///
/// ```
/// use pgbr_manifest::{TimelineHistory, TimelineId};
/// let history = TimelineHistory::parse(TimelineId::new(2), b"1\t0/13000000\tno recovery target specified\n")?;
/// assert!(history.contains(TimelineId::new(1), "0/12FFFFFF".parse()?));
/// assert!(!history.contains(TimelineId::new(1), "0/13000001".parse()?));
/// # Ok::<(), pgbr_manifest::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineHistory {
    timeline: TimelineId,
    ancestors: Vec<(TimelineId, Lsn)>,
}

impl TimelineHistory {
    /// The history of timeline 1, which has no file.
    pub const fn first(timeline: TimelineId) -> Self {
        Self { timeline, ancestors: Vec::new() }
    }

    /// Reads the file of `timeline`.
    ///
    /// # Errors
    /// When a line is not `timeline, tab, LSN`, when timelines do not grow, or when the file is too large.
    pub fn parse(timeline: TimelineId, bytes: &[u8]) -> Result<Self> {
        let bad = |reason| Error::invalid("timeline history", &bytes[..bytes.len().min(200)], reason);
        if bytes.len() > MAX_HISTORY_BYTES {
            return Err(bad("the file is too large"));
        }
        let mut ancestors: Vec<(TimelineId, Lsn)> = Vec::new();
        for line in String::from_utf8_lossy(bytes).lines() {
            let line = line.trim_start();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut words = line.split_ascii_whitespace();
            let id = words.next().and_then(|w| w.parse().ok()).map(TimelineId::new);
            let lsn = words.next().and_then(|w| w.parse::<Lsn>().ok());
            let (Some(id), Some(lsn)) = (id, lsn) else {
                return Err(bad("a line is not 'timeline LSN reason'"));
            };
            if ancestors.last().is_some_and(|(last, at)| *last >= id || *at > lsn) || id >= timeline {
                return Err(bad("its timelines do not grow"));
            }
            if ancestors.len() >= MAX_ANCESTORS {
                return Err(bad("it has more than 10000 timelines"));
            }
            ancestors.push((id, lsn));
        }
        Ok(Self { timeline, ancestors })
    }

    /// The timeline that this is the history of.
    pub const fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// The ancestors, oldest first, each with the position at which the next one left it.
    pub fn ancestors(&self) -> &[(TimelineId, Lsn)] {
        &self.ancestors
    }

    /// Whether the log of this timeline goes through position `lsn` of `timeline`.
    pub fn contains(&self, timeline: TimelineId, lsn: Lsn) -> bool {
        timeline == self.timeline || self.ancestors.iter().any(|(id, end)| *id == timeline && lsn <= *end)
    }

    /// The timeline whose file holds the byte at `lsn` on the way to this timeline.
    pub fn timeline_at(&self, lsn: Lsn) -> TimelineId {
        self.ancestors.iter().find(|(_, end)| lsn < *end).map_or(self.timeline, |(id, _)| *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_postgresql_writes() {
        let text = b"1\t0/13000000\tno recovery target specified\n\n# note\n2\t0/15000098\tbefore 2000-01-01 00:00:00+00\n";
        let history = TimelineHistory::parse(TimelineId::new(3), text).unwrap();
        assert_eq!(history.ancestors().len(), 2);
        assert_eq!(history.timeline_at("0/12000000".parse().unwrap()), TimelineId::new(1));
        assert_eq!(history.timeline_at("0/13000000".parse().unwrap()), TimelineId::new(2));
        assert_eq!(history.timeline_at("0/16000000".parse().unwrap()), TimelineId::new(3));
    }

    #[test]
    fn refuses_nonsense() {
        for text in ["x", "1", "1 zz", "2\t0/1\n1\t0/2", "1\t0/2\n2\t0/1", "3\t0/1"] {
            assert!(TimelineHistory::parse(TimelineId::new(3), text.as_bytes()).is_err(), "{text}");
        }
        let long = |count: usize| (1..=count).map(|id| format!("{id} 0/1\n")).collect::<String>();
        let parse = |count| TimelineHistory::parse(TimelineId::new(20_000), long(count).as_bytes());
        assert!(parse(MAX_ANCESTORS).is_ok() && parse(MAX_ANCESTORS + 1).is_err());
    }
}
