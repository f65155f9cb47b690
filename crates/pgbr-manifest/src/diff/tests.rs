//! What is read and what is written, case by case. Chains at random are in the tests of [`crate::merge`].

use super::*;
use crate::hash::FileDigest;
use crate::index::shelf::Shelf;
use crate::index::{FileFlags, IndexCursor};

const SECOND: i64 = 1_000_000_000;
/// When the parent began to copy.
const START: i64 = 1_000 * SECOND;

fn record(size: u64, mtime_ns: i64, ctime_ns: i64, inode: u64) -> FileRecord {
    let flags = FileFlags { whole: true, ..FileFlags::default() };
    let path = RelPath::new("pg_data/a").unwrap();
    FileRecord { path, meta: Meta::default(), size, mtime_ns, ctime_ns, inode, flags }
}

#[test]
fn a_file_is_skipped_only_if_nothing_could_have_changed_it() {
    let old = START - 100 * SECOND;
    let edge = START - SAFE_AGE_NS;
    let size = ReadPlan::Distrust("its size has changed and its times have not");
    let back = ReadPlan::Distrust("it was changed last at an earlier time than the prior backup says");
    let parent = record(10, old, old, 7);
    for (case, parent, now, expected) in [
        ("nothing changed", &parent, record(10, old, old, 7), ReadPlan::Skip),
        ("written", &parent, record(10, old + 1, old + 1, 7), ReadPlan::Read),
        ("written, and its time set back", &parent, record(10, old, old + 1, 7), ReadPlan::Read),
        ("its time set to come", &parent, record(10, i64::MAX, old + 1, 7), ReadPlan::Read),
        ("another file of the same times", &parent, record(10, old, old, 8), ReadPlan::Read),
        ("another file of another size", &parent, record(11, old, old, 8), ReadPlan::Read),
        ("another, older file", &parent, record(10, old - 9, old - 9, 8), ReadPlan::Read),
        ("longer at the same times", &parent, record(11, old, old, 7), size.clone()),
        ("shorter at the same times", &parent, record(9, old, old, 7), size),
        ("longer", &parent, record(11, old + 1, old + 1, 7), ReadPlan::Read),
        ("the clock went back", &parent, record(10, old - 1, old - 1, 7), back.clone()),
        ("the clock went back, another size", &parent, record(11, old, old - 1, 7), back),
        ("just safe", &record(1, edge - 1, edge - 1, 7), record(1, edge - 1, edge - 1, 7), ReadPlan::Skip),
        ("changed too late", &record(1, edge - 1, edge, 7), record(1, edge - 1, edge, 7), ReadPlan::Read),
        ("written too late", &record(1, edge, edge - 1, 7), record(1, edge, edge - 1, 7), ReadPlan::Read),
        ("changed since", &record(1, old, START + 9, 7), record(1, old, START + 9, 7), ReadPlan::Read),
        ("before 1970", &record(1, -5, -5, 7), record(1, -5, -5, 7), ReadPlan::Skip),
    ] {
        assert_eq!(plan_read(parent, &now, START), expected, "{case}");
    }
    assert_eq!(plan_read(&parent, &parent, i64::MIN), ReadPlan::Read, "no time is before the first");
}

fn records(shelf: &mut Shelf, root: Option<Root>) -> Vec<Record> {
    let mut cursor = IndexCursor::new(root);
    let next = || cursor.next_record(shelf).unwrap().map(|placed| placed.record);
    std::iter::from_fn(next).collect()
}

/// What is written of a file of `size` bytes, given its grains and those of the parent's file of another size.
fn written(size: u64, hashes: &[u64], parent_size: u64, known: &[Option<u64>]) -> Vec<Record> {
    let mut shelf = Shelf::default();
    let mut writer = EntryWriter::new(HashKey::from_bytes([1; 32]));
    let end = Fields { size: parent_size, digest: FileDigest([1; 16]), bad_pages: BadPages::default() };
    let parent = ParentFile { record: record(parent_size, 0, 0, 1), end: Some(end) };
    writer.begin(&mut shelf, Arc::new(record(size, 1, 1, 1)), Some(parent)).unwrap();
    let at = hashes.len().min(known.len());
    writer.run(&mut shelf, &hashes[..at], &known[..at]).unwrap();
    writer.run(&mut shelf, &hashes[at..], &[]).unwrap();
    assert_eq!(writer.end(&mut shelf, size, BadPages::default(), false).unwrap(), Outcome::Changed);
    let root = writer.finish(&mut shelf).unwrap().index;
    records(&mut shelf, root)
        .into_iter()
        .filter(|r| matches!(r, Record::Grains { .. } | Record::Zeros { .. }))
        .collect()
}

#[test]
fn a_grain_that_a_change_of_size_went_through_is_written_even_where_both_are_zeros() {
    let zeros = |gap, count| vec![Record::Zeros { gap, count }];
    assert_eq!(written(200, &[0], 100, &[Some(0)]), zeros(0, 1), "longer inside a grain");
    assert_eq!(
        written(8192 + 50, &[9, 0], 8192 + 100, &[Some(9), Some(0)]),
        zeros(1, 1),
        "shorter inside a grain"
    );
    assert_eq!(
        written(3 * 8192, &[9, 0, 0], 8192 + 100, &[Some(9), Some(0)]),
        zeros(1, 2),
        "longer by grains"
    );
    assert_eq!(written(8192, &[9], 2 * 8192, &[Some(9), Some(0)]), [], "shorter by whole grains");
    assert_eq!(written(2 * 8192, &[9, 0], 8192, &[Some(9)]), zeros(1, 1), "longer by whole grains");
}
