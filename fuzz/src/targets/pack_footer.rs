//! The content of a pack's footer, behind frames of any length.

use pgbr_codec::{FrameKind, ObjectKind, PackFooter};

pub(crate) fn run(input: (u64, bool, &[u8])) {
    let (frames, is_index, content) = input;
    let kind = if is_index { ObjectKind::IndexPack } else { ObjectKind::DataPack };
    let sealer = crate::plain::sealer(kind);
    let attempt = content.first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
    let pack = content.get(8..).and_then(|c| c.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b));
    let number = u64::from(pack) | u64::from(is_index) << 63;
    let Some(mut tail) = crate::plain::frame(&sealer, FrameKind::PackFooter, number, content) else { return };
    tail.extend(u32::try_from(tail.len()).expect("a frame is small").to_le_bytes());
    tail.extend(*b"\0\0\0\0PGBREND1");
    let total = frames.saturating_add(tail.len() as u64);
    if let Ok(footer) = PackFooter::read(&crate::plain::keyring(), &sealer.header(attempt, pack), &tail, total) {
        assert!(footer.places().all(|place| place.offset + u64::from(place.size.frame) <= frames));
    }
}
