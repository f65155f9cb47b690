//! Key slots of repo.json: what is read is written and read again.

use pgbr_codec::{Slot, WriterSlot};

pub(crate) fn run(data: &[u8]) {
    if let Ok(slot) = serde_json::from_slice::<Slot>(data) {
        let text = serde_json::to_vec(&slot).expect("a slot has a JSON form");
        assert_eq!(serde_json::from_slice::<Slot>(&text).expect("it was written just now"), slot);
    }
    if let Ok(slot) = serde_json::from_slice::<WriterSlot>(data) {
        let text = serde_json::to_vec(&slot).expect("a slot has a JSON form");
        assert_eq!(serde_json::from_slice::<WriterSlot>(&text).expect("it was written just now"), slot);
    }
}
