//! The tree against a plain list of records.

use proptest::prelude::*;

use super::*;
use crate::hash::FileDigest;
use crate::index::shelf::Shelf;
use crate::index::{Fields, FrameCursor, FramePlace, FrameTableWriter, Meta, PackFrames};

fn file(path: &str, size: u64) -> Record {
    let path = RelPath::new(path).unwrap();
    let meta = Meta::default();
    Record::File(FileRecord {
        path,
        meta,
        size,
        mtime_ns: 1,
        ctime_ns: 2,
        inode: 3,
        flags: Default::default(),
    })
}

fn end(size: u64) -> Record {
    Record::End(Fields { size, digest: FileDigest([7; 16]), bad_pages: Default::default() })
}

fn write(records: &[Record]) -> Result<(Shelf, Option<Root>, u64)> {
    let mut shelf = Shelf::default();
    let mut writer = IndexWriter::new();
    for record in records {
        writer.push(&mut shelf, record.clone())?;
    }
    let (root, stream) = writer.finish(&mut shelf)?;
    Ok((shelf, root, stream))
}

fn read(shelf: &mut Shelf, root: Option<Root>) -> Result<Vec<Placed>> {
    let mut cursor = IndexCursor::new(root);
    let mut found = Vec::new();
    while let Some(placed) = cursor.next_record(shelf)? {
        found.push(placed);
    }
    Ok(found)
}

/// Hashes and places of all stored grains, whatever records they came in.
fn grains(placed: &[Placed]) -> Vec<(u64, u64)> {
    let mut all = Vec::new();
    for p in placed {
        if let Record::Grains { hashes, .. } = &p.record {
            all.extend(hashes.iter().enumerate().map(|(i, h)| (p.grain + i as u64, *h)));
        }
    }
    all
}

#[test]
fn a_file_larger_than_a_leaf_goes_on_in_the_next() {
    let count = 40_000u64;
    let mut records = vec![file("pg_data/base/1/1", count * 8192)];
    for at in (0..count).step_by(100) {
        records.push(Record::Grains { gap: 0, hashes: (at..at + 100).map(|h| h + 1).collect() });
    }
    records.extend([
        end(count * 8192),
        file("pg_data/base/1/2", 3),
        Record::Grains { gap: 0, hashes: vec![9] },
        end(3),
    ]);
    let (mut shelf, root, stream) = write(&records).unwrap();
    assert_eq!(stream, count * 8192 + 3);
    assert_eq!(root.unwrap().level, 1);
    assert!(shelf.0.len() > 4);
    let found = read(&mut shelf, root).unwrap();
    let expected: Vec<_> = (0..count).map(|g| (g, g + 1)).chain([(0, 9)]).collect();
    assert_eq!(grains(&found), expected);
    assert_eq!(found[found.len() - 2].stream, count * 8192);
    assert!(shelf.0.values().all(|raw| raw.len() < TARGET_NODE_BYTES * 2));
}

#[test]
fn many_files_make_three_levels() {
    let name = |n: u32| format!("pg_data/base/{n:06}{}", "x".repeat(200));
    let records: Vec<_> = (0..60_000).flat_map(|n| [file(&name(n), 0), end(0)]).collect();
    let (mut shelf, root, _) = write(&records).unwrap();
    assert!(root.unwrap().level >= 1);
    let found: Vec<_> = read(&mut shelf, root).unwrap().into_iter().map(|p| p.record).collect();
    assert_eq!(found, records);
}

#[test]
fn what_a_link_leads_to_follows_it_under_the_same_path() {
    let path = RelPath::new("a").unwrap();
    let link = Record::Link { path: path.clone(), meta: Meta::default(), target: b"/x".to_vec() };
    let directory = Record::Directory { path, meta: Meta::default() };
    assert!(write(&[link.clone(), directory.clone()]).is_ok());
    assert!(write(&[link.clone(), file("a", 0), end(0)]).is_ok());
    assert!(write(&[directory.clone(), link.clone()]).is_err());
    assert!(write(&[link.clone(), link.clone()]).is_err());
    assert!(write(&[link, directory.clone(), directory]).is_err());
}

#[test]
fn an_empty_index_has_no_root() {
    assert_eq!(write(&[]).unwrap().1, None);
}

#[test]
fn what_breaks_a_rule_is_refused_at_writing() {
    let grain = |gap, n| Record::Grains { gap, hashes: vec![1; n] };
    for (rule, records) in [
        ("out of order", vec![file("b", 0), end(0), file("a", 0), end(0)]),
        ("twice", vec![file("a", 0), end(0), file("a", 0), end(0)]),
        ("no end", vec![file("a", 0)]),
        ("no end before the next", vec![file("a", 0), file("b", 0)]),
        ("end without a file", vec![end(0)]),
        ("grains without a file", vec![grain(0, 1)]),
        ("too many grains", vec![file("a", 8192), grain(0, 2), end(8192)]),
        ("gap leads out", vec![file("a", 8192), grain(1, 1), end(8192)]),
        ("end behind the size", vec![file("a", 8192), end(8193)]),
        ("a run of nothing", vec![file("a", 1), grain(1, 0), end(1)]),
        ("a run that no leaf can hold", vec![file("a", 1 << 40), grain(0, 1 << 17), end(1 << 40)]),
        ("a size that no file has", vec![file("a", 1 << 63), end(1 << 63)]),
        ("continue", vec![file("a", 8192), Record::Continue { path: RelPath::new("a").unwrap(), grain: 0 }]),
    ] {
        assert!(write(&records).is_err(), "{rule}");
    }
}

/// A fence of level 1 with these entries: path, grain, stream offset, and number of the leaf.
fn fence(level: u64, entries: &[(&str, u64, u64, u64)]) -> Vec<u8> {
    let (mut bytes, mut last) = (Vec::new(), Vec::new());
    put_varint(&mut bytes, level);
    for (path, grain, stream, number) in entries {
        IndexKey { path: RelPath::new(*path).unwrap(), grain: *grain }.put(&mut last, &mut bytes);
        [*stream, *number, 0, 0, 0].iter().for_each(|field| put_varint(&mut bytes, *field));
    }
    bytes
}

/// Reads nodes that somebody else made; the root is the first fence, of this level.
fn foreign(level: u32, fences: Vec<Vec<u8>>, leaves: Vec<Vec<u8>>) -> Result<Vec<Placed>> {
    let mut shelf = Shelf::default();
    for (kind, nodes) in [(NodeKind::Fence, fences), (NodeKind::Leaf, leaves)] {
        shelf.0.extend((0..).zip(nodes).map(|(number, raw)| ((kind, number), raw)));
    }
    read(&mut shelf, Some(Root { level, place: NodePlace { number: 0, pack: 0, offset: 0, len: 0 } }))
}

fn leaf(records: &[Record]) -> Vec<u8> {
    let mut writer = LeafWriter::default();
    records.iter().for_each(|record| writer.push(record));
    writer.take()
}

#[test]
fn a_leaf_that_leads_nowhere_is_not_walked_again_and_again() {
    let begin = leaf(&[file("a", 8192)]);
    let on = || leaf(&[Record::Continue { path: RelPath::new("a").unwrap(), grain: 0 }]);
    let nothing = leaf(&[
        Record::Continue { path: RelPath::new("a").unwrap(), grain: 0 },
        Record::Zeros { gap: 0, count: 0 },
    ]);
    for idle in [on(), nothing] {
        let entries: Vec<_> = std::iter::once(("a", 0, 0, 0)).chain([("a", 0, 0, 1); 1000]).collect();
        let found = foreign(1, vec![fence(1, &entries)], vec![begin.clone(), idle]);
        assert!(found.unwrap_err().to_string().contains("does not come after"));
    }
}

#[test]
fn a_table_without_frames_is_not_walked_again_and_again() {
    let mut fence = vec![1];
    // Stream offset, number, pack, offset, length.
    fence.extend([0; 5].repeat(1000));
    let mut shelf = Shelf::default();
    shelf.0.insert((NodeKind::TableFence, 0), fence);
    shelf.0.insert((NodeKind::FrameTable, 0), vec![0]);
    let root = Root { level: 1, place: NodePlace { number: 0, pack: 0, offset: 0, len: 0 } };
    let error = FrameCursor::new(Some(root)).next_frame(&mut shelf).unwrap_err();
    assert!(error.to_string().contains("no frames"), "{error}");
}

#[test]
fn packs_and_frames_of_a_table_keep_their_bounds() {
    /// Number and size of a pack, and its frames.
    type Pack<'a> = (u32, u64, &'a [(u32, u32)]);
    let table = |packs: &[Pack<'_>]| {
        let mut shelf = Shelf::default();
        let mut writer = FrameTableWriter::new();
        for (pack, pack_size, frames) in packs {
            let (pack, pack_size, frames) = (*pack, *pack_size, frames.to_vec());
            let pack = PackFrames { pack, pack_size, lane: 0, offset: 96, first: 0, frames };
            writer.push(&mut shelf, &pack).unwrap();
        }
        let (root, _) = writer.finish(&mut shelf).unwrap();
        let mut cursor = FrameCursor::new(root);
        while cursor.next_frame(&mut shelf)?.is_some() {}
        Ok::<_, Error>(())
    };
    let frame: &[(u32, u32)] = &[(1 << 20, 41)];
    assert!(table(&[(0, 1 << 20, frame), (3, 1 << 30, frame)]).is_ok());
    for (what, packs) in [
        ("a pack twice", &[(1, 1 << 20, frame), (1, 1 << 20, frame)][..]),
        ("a pack again", &[(1, 1 << 20, frame), (0, 1 << 20, frame)]),
        ("a frame behind the end", &[(0, 136, frame)]),
        ("a frame without a header", &[(0, 1 << 20, &[(1, 39)])]),
        ("a frame larger than its content", &[(0, 1 << 20, &[(1, 42)])]),
        ("a frame of nothing", &[(0, 1 << 20, &[(0, 40)])]),
        ("a frame of too much", &[(0, 1 << 30, &[((1 << 20) + 1, 50)])]),
    ] {
        assert!(table(packs).is_err(), "{what}");
    }
}

#[test]
fn fences_keep_their_bounds() {
    let whole = [file("a", 0), end(0)];
    assert_eq!(foreign(1, vec![fence(1, &[("a", 0, 0, 0)])], vec![leaf(&whole)]).unwrap().len(), 2);
    let nine = (1..=9).rev().zip(1..).map(|(level, next)| fence(level, &[("a", 0, 0, next % 9)])).collect();
    for (what, level, fences) in [
        ("empty", 1, vec![fence(1, &[])]),
        ("another level", 2, vec![fence(1, &[("a", 0, 0, 0)])]),
        ("itself", 2, vec![fence(2, &[("a", 0, 0, 0)])]),
        ("begins elsewhere", 2, vec![fence(2, &[("a", 0, 0, 1)]), fence(1, &[("a", 1, 0, 0)])]),
        ("too deep", 9, nine),
        ("too large", 1, vec![fence(1, &[("a", 0, 0, 0); 20_000])]),
    ] {
        assert!(foreign(level, fences, vec![leaf(&whole)]).is_err(), "{what}");
    }
}

#[test]
fn a_swapped_leaf_is_noticed() {
    let name = |n: u32| format!("pg_data/{n:06}");
    let records: Vec<_> = (0..20_000).flat_map(|n| [file(&name(n), 0), end(0)]).collect();
    let (mut shelf, root, _) = write(&records).unwrap();
    let second = shelf.0[&(NodeKind::Leaf, 1)].clone();
    let third = shelf.0.insert((NodeKind::Leaf, 2), second).unwrap();
    shelf.0.insert((NodeKind::Leaf, 1), third);
    assert!(read(&mut shelf, root).is_err());
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        files in proptest::collection::vec((1u64..300, proptest::collection::vec((0u64..4, 1usize..90, any::<bool>()), 0..6)), 0..60)
    ) {
        let mut records = Vec::new();
        let mut expected = Vec::new();
        for (n, (_, runs)) in files.iter().enumerate() {
            let count: u64 = runs.iter().map(|(gap, n, _)| gap + *n as u64).sum();
            records.push(file(&format!("pg_data/{n:04}"), count * 8192));
            let mut at = 0;
            for (gap, run, zero) in runs {
                at += gap;
                if *zero {
                    records.push(Record::Zeros { gap: *gap, count: *run as u64 });
                } else {
                    records.push(Record::Grains { gap: *gap, hashes: (0..*run as u64).map(|i| at + i + 1).collect() });
                    expected.extend((0..*run as u64).map(|i| (at + i, at + i + 1)));
                }
                at += *run as u64;
            }
            records.push(end(count * 8192));
        }
        let (mut shelf, root, stream) = write(&records).unwrap();
        prop_assert_eq!(stream, expected.len() as u64 * 8192);
        prop_assert_eq!(grains(&read(&mut shelf, root).unwrap()), expected);
    }

    #[test]
    fn frame_tables_round_trip(packs in proptest::collection::vec(proptest::collection::vec((1u32..1 << 20).prop_flat_map(|raw| (Just(raw), 40..=40 + raw)), 1..400), 0..60)) {
        let mut shelf = Shelf::default();
        let mut writer = FrameTableWriter::new();
        let (mut expected, mut stream, mut number) = (Vec::new(), 0u64, 0u64);
        for (pack, frames) in packs.iter().enumerate() {
            let pack = u32::try_from(pack).unwrap();
            let pack_size = 96 + frames.iter().map(|f| u64::from(f.1)).sum::<u64>();
            writer.push(&mut shelf, &PackFrames { pack, pack_size, lane: 0, offset: 96, first: number, frames: frames.clone() }).unwrap();
            let mut offset = 96;
            for (raw_len, len) in frames {
                expected.push(FramePlace { stream, raw_len: *raw_len, pack, pack_size, lane: 0, offset, len: *len, number });
                offset += u64::from(*len);
                stream += u64::from(*raw_len);
                number += 1;
            }
        }
        let (root, length) = writer.finish(&mut shelf).unwrap();
        prop_assert_eq!(length, stream);
        let mut cursor = FrameCursor::new(root);
        let mut found = Vec::new();
        while let Some(frame) = cursor.next_frame(&mut shelf).unwrap() {
            found.push(frame);
        }
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn foreign_nodes_never_panic(level in 0u32..4, nodes in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 1..4)) {
        struct Foreign(Vec<Vec<u8>>);
        impl NodeSource for Foreign {
            type Error = Error;
            fn get(&mut self, _: NodeKind, place: &NodePlace) -> Result<Vec<u8>> {
                self.0.get(usize::try_from(place.number).unwrap_or(0)).cloned().ok_or(Error::Source { reason: "no such node".into() })
            }
        }
        let root = Some(Root { level, place: NodePlace { number: 0, pack: 0, offset: 0, len: 0 } });
        let mut source = Foreign(nodes);
        let mut cursor = IndexCursor::new(root);
        for _ in 0..100 {
            if !matches!(cursor.next_record(&mut source), Ok(Some(_))) {
                break;
            }
        }
        let mut frames = FrameCursor::new(root);
        for _ in 0..100 {
            if !matches!(frames.next_frame(&mut source), Ok(Some(_))) {
                break;
            }
        }
    }
}
