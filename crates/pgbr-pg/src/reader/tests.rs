use std::os::unix::fs::symlink;
use std::process::Command;

use super::*;
use crate::page::page_checksum;

const START: Lsn = Lsn::new(0x200_0000);

fn context() -> PageContext {
    let upper_lsn = UpperLsn::new(START);
    PageContext { start_lsn: START, upper_lsn, block_size: 8192, segment_start: 131_072 }
}

/// A page with a right checksum and this position.
fn page(block: u32, lsn: Lsn) -> Vec<u8> {
    let mut page = vec![0; 8192];
    page[..8].copy_from_slice(&lsn.as_u64().rotate_left(32).to_le_bytes());
    page[14..16].copy_from_slice(&8192_u16.to_le_bytes());
    page[4000..4004].copy_from_slice(&block.to_le_bytes());
    let sum = page_checksum(&page, block).to_le_bytes();
    page[8..10].copy_from_slice(&sum);
    page
}

struct Fixture {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

/// A file of four pages in the second segment of a relation: good, wrong and old, wrong and new, all zero.
fn fixture() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("16384.1");
    let mut bytes = page(131_072, Lsn::new(5));
    for (block, lsn) in [(131_073, Lsn::new(5)), (131_074, Lsn::new(START.as_u64() + 8))] {
        let mut bad = page(block, lsn);
        bad[100] ^= 1;
        bytes.extend(bad);
    }
    bytes.extend([0; 8192]);
    std::fs::write(&path, bytes).unwrap();
    Fixture { _directory: directory, path }
}

#[test]
fn only_pages_that_stay_wrong_are_reported() {
    let fixture = fixture();
    let reader = FileReader::open(&fixture.path).unwrap().unwrap();
    let mut buf = vec![0; 4 * 8192];
    assert_eq!(reader.read_run(0, &mut buf).unwrap(), buf.len());
    let before = buf.clone();
    assert_eq!(reader.check_pages(&mut buf, 0, &context()).unwrap(), [1]);
    assert_eq!(buf, before);
    // The same pages, not from the start of the file.
    let mut buf = vec![0; 3 * 8192];
    reader.read_run(8192, &mut buf).unwrap();
    assert_eq!(reader.check_pages(&mut buf, 1, &context()).unwrap(), [1]);
    // Behind the end of the log a position excuses nothing.
    let past = PageContext {
        start_lsn: Lsn::new(1 << 40),
        upper_lsn: UpperLsn::new(Lsn::new(1 << 40)),
        ..context()
    };
    let mut buf = vec![0; 4 * 8192];
    reader.read_run(0, &mut buf).unwrap();
    assert_eq!(reader.check_pages(&mut buf, 0, &past).unwrap(), [1, 2]);
}

#[test]
fn a_torn_page_is_read_again() {
    let fixture = fixture();
    let reader = FileReader::open(&fixture.path).unwrap().unwrap();
    let mut buf = vec![0; 4 * 8192];
    reader.read_run(0, &mut buf).unwrap();
    // As if the first reading had met a write of page 0, and one of page 1 that goes on still.
    buf[6000] ^= 1;
    buf[8192 + 6000] ^= 1;
    assert_eq!(reader.check_pages(&mut buf, 0, &context()).unwrap(), Vec::<u32>::new());
    let mut file = vec![0; 4 * 8192];
    reader.read_run(0, &mut file).unwrap();
    assert_eq!(buf, file);
}

#[test]
fn a_page_cut_by_the_end_has_no_verdict() {
    let fixture = fixture();
    let reader = FileReader::open(&fixture.path).unwrap().unwrap();
    let mut buf = vec![0; 8192 + 5000];
    reader.read_run(0, &mut buf).unwrap();
    assert_eq!(reader.check_pages(&mut buf, 0, &context()).unwrap(), Vec::<u32>::new());
    assert_eq!(reader.check_pages(&mut [], 0, &context()).unwrap(), Vec::<u32>::new());
}

#[test]
fn a_page_that_is_truncated_away_is_no_error() {
    let fixture = fixture();
    let reader = FileReader::open(&fixture.path).unwrap().unwrap();
    let mut buf = vec![0; 2 * 8192];
    reader.read_run(0, &mut buf).unwrap();
    File::options().write(true).open(&fixture.path).unwrap().set_len(8192).unwrap();
    assert_eq!(reader.check_pages(&mut buf, 0, &context()).unwrap(), Vec::<u32>::new());
}

#[test]
fn the_size_is_fixed_when_opened() {
    let fixture = fixture();
    let reader = FileReader::open(&fixture.path).unwrap().unwrap();
    let file = File::options().write(true).open(&fixture.path).unwrap();
    file.set_len(8 * 8192).unwrap();
    let mut buf = vec![0; 8 * 8192];
    assert_eq!(reader.read_run(0, &mut buf).unwrap(), 4 * 8192);
    assert_eq!(reader.read_run(u64::MAX, &mut buf).unwrap(), 0);
    file.set_len(100).unwrap();
    assert_eq!(reader.read_run(0, &mut buf).unwrap(), 100);
    assert_eq!(reader.size(), 4 * 8192);
    // Unlinked, it still can be read to its end.
    std::fs::remove_file(&fixture.path).unwrap();
    assert_eq!(reader.read_run(0, &mut buf).unwrap(), 100);
    assert!(FileReader::open(&fixture.path).unwrap().is_none());
}

#[test]
fn facts_come_from_the_open_file() {
    let fixture = fixture();
    let reader = FileReader::open(&fixture.path).unwrap().unwrap();
    let meta = std::fs::metadata(&fixture.path).unwrap();
    assert_eq!(reader.inode(), meta.ino());
    assert_eq!(reader.mtime_ns(), meta.mtime() * 1_000_000_000 + meta.mtime_nsec());
    assert_eq!(reader.ctime_ns(), meta.ctime() * 1_000_000_000 + meta.ctime_nsec());
}

#[test]
fn only_regular_files_are_opened() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    symlink("/etc/passwd", at("link")).unwrap();
    assert!(Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
    for name in ["link", "pipe", "."] {
        assert!(matches!(FileReader::open(at(name)), Err(Error::NotA { .. })), "{name}");
    }
    assert!(FileReader::open(at("gone/file")).unwrap().is_none());
}

#[test]
fn the_end_of_the_log_only_grows() {
    let upper = UpperLsn::new(Lsn::new(5));
    upper.advance(Lsn::new(9));
    upper.advance(Lsn::new(7));
    assert_eq!(upper.clone().get(), Lsn::new(9));
}
