//! History files of timelines.

#![no_main]

use pgbr_manifest::{Lsn, TimelineHistory, TimelineId};

libfuzzer_sys::fuzz_target!(|input: (u32, u64, &[u8])| {
    let (timeline, lsn, text) = input;
    if let Ok(history) = TimelineHistory::parse(TimelineId::new(timeline), text) {
        assert!(history.contains(history.timeline_at(Lsn::new(lsn)), Lsn::new(lsn)));
    }
});
