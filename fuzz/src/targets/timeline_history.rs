//! History files of timelines.

use pgbr_manifest::{Lsn, TimelineHistory, TimelineId};

pub(crate) fn run(input: (u32, u64, &[u8])) {
    let (timeline, lsn, text) = input;
    if let Ok(history) = TimelineHistory::parse(TimelineId::new(timeline), text) {
        assert!(history.contains(history.timeline_at(Lsn::new(lsn)), Lsn::new(lsn)));
    }
}
