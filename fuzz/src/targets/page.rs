//! Pages: the checksum never fails, and a page that carries it is good.

use pgbr_manifest::Lsn;
use pgbr_pg::{PageVerdict, check_page, page_checksum, page_lsn};

pub(crate) fn run(input: (u32, &[u8])) {
    let (block, bytes) = input;
    let _ = (check_page(bytes, block, Lsn::ZERO, Lsn::ZERO), page_lsn(bytes));
    let mut page = bytes.to_vec();
    page.resize(8192, 0);
    page[14] |= 1;
    let checksum = page_checksum(&page, block);
    page[8..10].copy_from_slice(&checksum.to_le_bytes());
    assert_eq!(check_page(&page, block, Lsn::ZERO, Lsn::ZERO), PageVerdict::Good);
}
