//! Object and frame headers: what is read is written in the same way.

use pgbr_codec::{FRAME_HEADER_LEN, FrameHeader, OBJECT_HEADER_LEN, ObjectHeader};

pub(crate) fn run(data: &[u8]) {
    if let Ok(header) = ObjectHeader::parse(data) {
        assert_eq!(header.encode(), data[..OBJECT_HEADER_LEN]);
    }
    if let Ok(header) = FrameHeader::parse(data) {
        assert_eq!(header.encode(), data[..FRAME_HEADER_LEN]);
    }
}
