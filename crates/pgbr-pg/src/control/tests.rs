use std::cell::Cell;

use proptest::prelude::*;

use super::*;

const VECTORS: [(PgVersion, &[u8], u64, u64); 6] = [
    (
        PgVersion::V13,
        include_bytes!("../../tests/vectors/control-13.bin"),
        7_711_017_990_238_405_795,
        0x91_3EC8,
    ),
    (
        PgVersion::V14,
        include_bytes!("../../tests/vectors/control-14.bin"),
        7_711_017_993_993_614_531,
        0x9C_CBA0,
    ),
    (
        PgVersion::V15,
        include_bytes!("../../tests/vectors/control-15.bin"),
        7_711_017_996_779_410_678,
        0x84_1540,
    ),
    (
        PgVersion::V16,
        include_bytes!("../../tests/vectors/control-16.bin"),
        7_711_017_999_782_036_773,
        0x7C_2DB0,
    ),
    (
        PgVersion::V17,
        include_bytes!("../../tests/vectors/control-17.bin"),
        7_711_018_002_325_546_331,
        0x7C_5858,
    ),
    (
        PgVersion::V18,
        include_bytes!("../../tests/vectors/control-18.bin"),
        7_711_018_004_988_159_347,
        0x7E_F478,
    ),
];

/// A control file with some bytes changed and a right checksum.
fn changed(bytes: &[u8], changes: &[(usize, u8)]) -> Vec<u8> {
    let mut bytes = bytes.to_owned();
    for (at, byte) in changes {
        bytes[*at] = *byte;
    }
    let at = if bytes[8..12] == 1800_u32.to_le_bytes() { 292 } else { 288 };
    let crc = crc32c::crc32c(&bytes[..at]).to_le_bytes();
    bytes[at..at + 4].copy_from_slice(&crc);
    bytes
}

#[test]
fn reads_the_file_of_every_version() {
    for (version, bytes, system_id, checkpoint) in VECTORS {
        let control = ControlFile::parse(bytes).unwrap();
        assert_eq!(control.version, version);
        assert_eq!(control.system_id, SystemId::new(system_id));
        assert_eq!(control.checkpoint_lsn, Lsn::new(checkpoint));
        assert_eq!(control.redo_lsn, Lsn::new(checkpoint));
        assert_eq!(control.timeline, TimelineId::new(1));
        assert_eq!(control.state, ClusterState::ShutDown);
        assert_eq!((control.block_size, control.relseg_size, control.wal_block_size), (8192, 131_072, 8192));
        assert_eq!(control.wal_segment_size.bytes(), 1 << 20);
        assert_eq!(
            (control.max_connections, control.max_worker_processes, control.max_wal_senders),
            (100, 8, 10)
        );
        assert_eq!((control.max_prepared_transactions, control.max_locks_per_transaction), (0, 64));
        assert_eq!(control.wal_level, 1);
        assert!(control.has_page_checksums());
        assert!(control.full_page_writes && !control.wal_log_hints && !control.backup_end_required);
        assert_eq!(control.min_recovery_point, Lsn::ZERO);
    }
}

#[test]
fn says_why_a_file_is_refused() {
    let (_, good, ..) = VECTORS[2];
    let reason = |bytes: &[u8]| ControlFile::parse(bytes).unwrap_err().to_string();
    for (changes, wanted) in [
        (&[(8, 0x15)][..], "version 1301 is not known"),
        (&[(12, 1)], "catalog version"),
        (&[(16, 99)], "state 99"),
        (&[(204, 4)], "32-bit"),
        (&[(208, 1)], "floating point"),
        (&[(216, 1)], "page size"),
        (&[(224, 1)], "WAL page size"),
        (&[(228, 1)], "WAL segment size"),
        (&[(220, 0), (221, 0), (222, 0), (223, 0)], "relation segment size"),
    ] {
        let text = reason(&changed(good, changes));
        assert!(text.contains(wanted), "{text}");
    }
    assert!(reason(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0x14]).contains("byte order"));
    assert!(reason(&good[..290]).contains("too short"));
    assert!(reason(&[]).contains("too short"));
}

#[test]
fn each_changed_byte_is_seen() {
    for (_, bytes, ..) in VECTORS {
        let end = if bytes[8..12] == 1800_u32.to_le_bytes() { 296 } else { 292 };
        for at in 0..end {
            let mut damaged = bytes.to_owned();
            damaged[at] ^= 0x10;
            assert!(ControlFile::parse(&damaged).is_err(), "byte {at}");
        }
    }
}

#[test]
fn a_write_in_progress_is_waited_for() {
    let (_, good, ..) = VECTORS[5];
    let reads = Cell::new(0_u8);
    let pauses = Cell::new(0);
    let read = || {
        reads.set(reads.get() + 1);
        let mut torn = good.to_owned();
        // Another half-way state at each of the first readings.
        torn[24] ^= if reads.get() < 5 { reads.get() } else { 0 };
        Ok(torn)
    };
    let (control, bytes) = parse_until_whole(read, || pauses.set(pauses.get() + 1)).unwrap();
    assert_eq!((control.version, bytes.as_slice()), (PgVersion::V18, good));
    assert_eq!((reads.get(), pauses.get()), (5, 4));
}

#[test]
fn a_damaged_file_is_given_up_soon() {
    let pauses = Cell::new(0);
    let found = parse_until_whole(|| Ok(vec![1; 300]), || pauses.set(pauses.get() + 1));
    assert!(matches!(found, Err(Error::ControlFile { .. })));
    assert!(pauses.get() <= 3);
    let reads = Cell::new(0_u8);
    let restless = parse_until_whole(
        || {
            reads.set(reads.get() + 1);
            Ok(vec![reads.get(); 300])
        },
        || {},
    );
    assert!(restless.is_err());
    assert_eq!(usize::from(reads.get()), TRIES);
}

#[test]
fn the_error_names_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pg_control");
    assert!(read_control_file(&path).unwrap_err().is_not_found());
    std::fs::write(&path, [7; 8192]).unwrap();
    let error = read_control_file(&path).unwrap_err().to_string();
    assert!(error.contains("pg_control' cannot be used"), "{error}");
}

#[test]
fn filenode_maps_are_judged() {
    for bytes in [
        &include_bytes!("../../tests/vectors/filenode-map-15.bin")[..],
        include_bytes!("../../tests/vectors/filenode-map-18.bin"),
    ] {
        assert!(filenode_map_is_whole(bytes));
        let mut torn = bytes.to_owned();
        torn[100] ^= 1;
        assert!(!filenode_map_is_whole(&torn));
        assert!(!filenode_map_is_whole(&bytes[..bytes.len() - 1]));
    }
    assert!(!filenode_map_is_whole(&[]) && !filenode_map_is_whole(&[0; 512]));
}

proptest! {
    #[test]
    fn garbage_is_no_control_file(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(ControlFile::parse(&bytes).is_err());
        prop_assert!(!filenode_map_is_whole(&bytes));
    }
}
