//! The first page header of a WAL segment, and whether the segment fits its name.

use pgbr_manifest::{Lsn, PgVersion, WalSegmentName};
use pgbr_pg::{WalHeader, check_segment};

pub(crate) fn run(input: (u64, &[u8])) {
    let (position, bytes) = input;
    let Ok(header) = WalHeader::parse(bytes) else { return };
    let (size, version) = (header.segment_size, header.version.unwrap_or(PgVersion::V13));
    let name = WalSegmentName::containing(header.timeline, Lsn::new(position), size);
    let fits = check_segment(name, size.bytes().into(), &header, header.system_id, version).is_ok();
    assert!(!fits || name.start(size) == Some(header.page_addr));
}
