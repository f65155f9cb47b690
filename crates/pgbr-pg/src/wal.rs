//! The head of a WAL segment, and whether a segment is what its name says (src/include/access/xlog_internal.h).

use pgbr_manifest::{Lsn, PgVersion, SystemId, TimelineId, WalSegmentName, WalSegmentSize};

use crate::error::{Error, Result};

/// Bytes at the start of a segment that [`WalHeader::parse`] needs.
pub const WAL_HEADER_BYTES: usize = 40;
/// The flag of the page header that the long form follows.
const LONG_HEADER: u16 = 2;

/// What the first page of a segment says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct WalHeader {
    /// `XLOG_PAGE_MAGIC`, one for each major version.
    pub magic: u16,
    /// The version with that magic, if it is known.
    pub version: Option<PgVersion>,
    /// The timeline that the page was written on.
    pub timeline: TimelineId,
    /// The position of the page.
    pub page_addr: Lsn,
    /// The cluster.
    pub system_id: SystemId,
    /// Bytes in a segment.
    pub segment_size: WalSegmentSize,
    /// Bytes in a page of WAL.
    pub block_size: u32,
}

impl WalHeader {
    /// Reads the first [`WAL_HEADER_BYTES`] of a segment.
    ///
    /// # Errors
    /// When they are too few, not a long page header, or hold sizes that cannot be.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let bad = |reason: &str| Error::WalHeader { reason: reason.to_owned() };
        let head = bytes.first_chunk::<WAL_HEADER_BYTES>().ok_or_else(|| bad("it is too short"))?;
        let short = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
        let word = |at: usize| u32::from(short(at)) | u32::from(short(at + 2)) << 16;
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let magic = short(0);
        if magic == 0 {
            return Err(bad("it is all zero, so the segment was never written"));
        }
        if short(2) & LONG_HEADER == 0 {
            return Err(bad("its first page does not have the header of a segment's first page"));
        }
        let block_size = word(36);
        if !block_size.is_power_of_two() || !(1 << 10..=1 << 16).contains(&block_size) {
            return Err(bad("its page size cannot be"));
        }
        Ok(Self {
            magic,
            version: PgVersion::ALL.into_iter().find(|version| version.wal_magic() == magic),
            timeline: TimelineId::new(word(4)),
            page_addr: Lsn::new(long(8)),
            system_id: SystemId::new(long(24)),
            segment_size: WalSegmentSize::new(word(32))?,
            block_size,
        })
    }
}

/// Checks that a segment may be archived under `name`: cluster, version, size, place.
///
/// A segment's first page may be of an earlier timeline than the name says, where the timeline was left in it.
///
/// # Errors
/// One for each of what can be wrong, by meaning.
pub fn check_segment(
    name: WalSegmentName,
    bytes_len: u64,
    header: &WalHeader,
    system_id: SystemId,
    version: PgVersion,
) -> Result<()> {
    if header.version != Some(version) {
        let unknown = || format!("unknown version (magic {:04X})", header.magic);
        return Err(Error::WalVersion {
            found: header.version.map_or_else(unknown, |v| v.to_string()),
            expected: version,
        });
    }
    if header.system_id != system_id {
        return Err(Error::WalSystem { found: header.system_id, expected: system_id });
    }
    let size = u64::from(header.segment_size.bytes());
    if bytes_len != size {
        return Err(Error::WalSize { found: bytes_len, expected: size });
    }
    let place = name.start(header.segment_size).ok_or_else(|| Error::WalHeader {
        reason: format!("segments of {size} bytes have no name {name}"),
    })?;
    if header.page_addr != place {
        return Err(Error::WalPosition { found: header.page_addr, expected: place });
    }
    if header.timeline > name.timeline() {
        return Err(Error::WalTimeline {
            found: header.timeline.as_u32(),
            expected: name.timeline().as_u32(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(version: PgVersion) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(version.wal_magic().to_le_bytes());
        bytes.extend(2_u16.to_le_bytes());
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend(0x300_0000_u64.to_le_bytes());
        bytes.extend([0; 8]);
        bytes.extend(77_u64.to_le_bytes());
        bytes.extend((16_u32 << 20).to_le_bytes());
        bytes.extend(8192_u32.to_le_bytes());
        bytes
    }

    fn check(name: &str, len: u64, head: &[u8], system: u64, version: PgVersion) -> Result<()> {
        check_segment(name.parse()?, len, &WalHeader::parse(head)?, SystemId::new(system), version)
    }

    #[test]
    fn reads_the_segments_of_every_version() {
        for (version, bytes, system_id) in [
            (PgVersion::V13, include_bytes!("../tests/vectors/wal-13.bin"), 7_711_017_990_238_405_795),
            (PgVersion::V14, include_bytes!("../tests/vectors/wal-14.bin"), 7_711_017_993_993_614_531),
            (PgVersion::V15, include_bytes!("../tests/vectors/wal-15.bin"), 7_711_017_996_779_410_678),
            (PgVersion::V16, include_bytes!("../tests/vectors/wal-16.bin"), 7_711_017_999_782_036_773),
            (PgVersion::V17, include_bytes!("../tests/vectors/wal-17.bin"), 7_711_018_002_325_546_331),
            (PgVersion::V18, include_bytes!("../tests/vectors/wal-18.bin"), 7_711_018_004_988_159_347_u64),
        ] {
            let header = WalHeader::parse(bytes).unwrap();
            assert_eq!((header.version, header.system_id), (Some(version), SystemId::new(system_id)));
            assert_eq!((header.segment_size.bytes(), header.block_size), (1 << 20, 8192));
            let name = WalSegmentName::containing(TimelineId::new(1), header.page_addr, header.segment_size);
            check_segment(name, 1 << 20, &header, header.system_id, version).unwrap();
        }
    }

    #[test]
    fn each_mistake_has_its_error() {
        const NAME: &str = "000000010000000000000003";
        const LEN: u64 = 16 << 20;
        let head = header(PgVersion::V15);
        let v15 = PgVersion::V15;
        check(NAME, LEN, &head, 77, v15).unwrap();
        check("000000020000000000000003", LEN, &head, 77, v15).unwrap();
        assert!(matches!(check(NAME, LEN, &head, 78, v15), Err(Error::WalSystem { .. })));
        assert!(matches!(check(NAME, LEN, &head, 77, PgVersion::V16), Err(Error::WalVersion { .. })));
        assert!(matches!(check(NAME, LEN - 1, &head, 77, v15), Err(Error::WalSize { .. })));
        assert!(matches!(
            check("000000010000000000000004", LEN, &head, 77, v15),
            Err(Error::WalPosition { .. })
        ));
        let mut later = head.clone();
        later[4] = 9;
        assert!(matches!(check(NAME, LEN, &later, 77, v15), Err(Error::WalTimeline { .. })));
        let mut foreign = head.clone();
        foreign[0] = 0xFF;
        assert!(matches!(check(NAME, LEN, &foreign, 77, v15), Err(Error::WalVersion { .. })));
    }

    #[test]
    fn damaged_heads_are_refused() {
        let head = header(PgVersion::V15);
        assert!(WalHeader::parse(&head[..39]).is_err());
        assert!(WalHeader::parse(&[0; 40]).is_err());
        for at in [2, 34, 36, 39] {
            let mut damaged = head.clone();
            damaged[at] ^= 0x12;
            assert!(WalHeader::parse(&damaged).is_err(), "{at}");
        }
    }
}
