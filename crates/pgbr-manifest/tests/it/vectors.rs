//! Nodes and manifests that the first version wrote: they are read for ever, and are still written so.
//!
//! `tests/vectors/vectors.json` says what each file gives. A format change makes a new version and new files; the old ones
//! stay. `cargo test -p pgbr-manifest --test it -- --ignored write_vectors` writes files that are not there yet.
//!
//! A fence has something to say only above 64 KiB of nodes. Those are not kept: what they hold is simple to make, and
//! `vectors.json` has their BLAKE3.

use std::collections::BTreeMap;
use std::path::PathBuf;

use pgbr_manifest::index::{
    BadPages, Fields, FileFlags, FileRecord, FrameCursor, FrameTableWriter, IndexCursor, IndexWriter,
    LeafReader, LeafWriter, Meta, NodeKind, NodePlace, NodeSink, NodeSource, PackFrames, Record, Root,
};
use pgbr_manifest::manifest::{Body, Summary};
use pgbr_manifest::{Error, FileDigest, FileDigester, GRAIN, HashKey, ListDigester, RelPath, Result};
use serde_json::{Value, json};

fn place(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name)
}

fn stored(name: &str) -> Vec<u8> {
    std::fs::read(place(name)).unwrap()
}

fn described() -> Value {
    serde_json::from_slice(&stored("vectors.json")).unwrap()
}

/// Nodes in memory, each at an offset of its own.
#[derive(Default)]
struct Shelf {
    nodes: BTreeMap<(String, u64), Vec<u8>>,
    offset: u64,
}

impl NodeSink for Shelf {
    type Error = Error;

    fn put(&mut self, kind: NodeKind, number: u64, raw: &[u8]) -> Result<NodePlace> {
        self.nodes.insert((format!("{kind:?}"), number), raw.to_vec());
        self.offset += 1000;
        Ok(NodePlace { number, pack: 3, offset: self.offset, len: 500 })
    }
}

impl NodeSource for Shelf {
    type Error = Error;

    fn get(&mut self, kind: NodeKind, place: &NodePlace) -> Result<Vec<u8>> {
        Ok(self.nodes[&(format!("{kind:?}"), place.number)].clone())
    }
}

fn path(text: &str) -> RelPath {
    RelPath::new(text).unwrap()
}

fn meta(mode: u32, user: &str, group: &str) -> Meta {
    Meta { mode, user: user.to_owned(), group: group.to_owned() }
}

fn file(name: &str, size: u64, flags: FileFlags) -> FileRecord {
    FileRecord {
        path: path(name),
        meta: meta(0o640, "postgres", "postgres"),
        size,
        mtime_ns: 1_795_348_800_123_456_789,
        ctime_ns: -1,
        inode: 1_234_567,
        flags,
    }
}

fn end(size: u64, ranges: &[(u64, u64)]) -> Record {
    let bad_pages = BadPages { ranges: ranges.to_vec(), total: ranges.iter().map(|r| r.1).sum() };
    Record::End(Fields { size, digest: FileDigest(*b"sixteen byte end"), bad_pages })
}

/// A leaf of records of every kind.
fn records() -> Vec<Record> {
    let relation = FileFlags { whole: true, checksums: true, relation: true, ..FileFlags::default() };
    let control = FileFlags { control: true, ..FileFlags::default() };
    vec![
        Record::Continue { path: path("pg_data"), grain: 300 },
        Record::Directory { path: path("pg_data"), meta: meta(0o700, "postgres", "postgres") },
        Record::File(file("pg_data/base/5/1259", 81_920, relation)),
        Record::Grains { gap: 0, hashes: vec![1, u64::MAX, 0x0123_4567_89AB_CDEF] },
        Record::Zeros { gap: 0, count: 4 },
        Record::Grains { gap: 2, hashes: vec![7] },
        end(81_000, &[(1, 2), (300, 1)]),
        Record::Kept(file("pg_data/base/5/1260", 8192, FileFlags::default())),
        Record::Removed { path: path("pg_data/base/5/2600") },
        Record::Link {
            path: path("pg_data/pg_wal"),
            meta: meta(0o777, "", "wal"),
            target: b"/wal \xFF".to_vec(),
        },
        Record::Directory { path: path("pg_data/pg_wal"), meta: meta(0o700, "", "wal") },
        Record::File(file("pg_data/global/pg_control", 8192, control)),
        end(8192, &[]),
    ]
}

fn leaf(records: &[Record]) -> Vec<u8> {
    let mut writer = LeafWriter::default();
    records.iter().for_each(|record| writer.push(record));
    writer.take()
}

fn read_leaf(bytes: &[u8]) -> Vec<Record> {
    let mut reader = LeafReader::new(bytes).unwrap();
    std::iter::from_fn(|| reader.next_record().unwrap()).collect()
}

fn describe(record: &Record) -> Value {
    let text = |path: &RelPath| path.to_string();
    let owner = |meta: &Meta| json!({"mode": meta.mode, "user": meta.user, "group": meta.group});
    let fields = |file: &FileRecord| {
        let flags = &file.flags;
        json!({
            "path": text(&file.path), "meta": owner(&file.meta), "size": file.size, "mtime-ns": file.mtime_ns,
            "ctime-ns": file.ctime_ns, "inode": file.inode, "whole": flags.whole, "checksums": flags.checksums,
            "control": flags.control, "relation": flags.relation,
        })
    };
    match record {
        Record::File(file) => json!({"file": fields(file)}),
        Record::Kept(file) => json!({"kept": fields(file)}),
        Record::Directory { path, meta } => json!({"directory": {"path": text(path), "meta": owner(meta)}}),
        Record::Link { path, meta, target } => {
            json!({"link": {"path": text(path), "meta": owner(meta), "target": target}})
        }
        Record::Removed { path } => json!({"removed": text(path)}),
        Record::Continue { path, grain } => json!({"continue": {"path": text(path), "grain": grain}}),
        Record::Grains { gap, hashes } => json!({"grains": {"gap": gap, "hashes": hashes}}),
        Record::Zeros { gap, count } => json!({"zeros": {"gap": gap, "count": count}}),
        Record::End(end) => json!({"end": {
            "size": end.size, "digest": end.digest.0, "bad-ranges": end.bad_pages.ranges,
            "bad-pages": end.bad_pages.total,
        }}),
    }
}

/// A file of 40,000 grains, whose hashes are 1, 2, 3 and so on, and an empty one.
fn large_index() -> (Shelf, Root) {
    let (mut shelf, mut writer) = (Shelf::default(), IndexWriter::new());
    let grains = 40_000;
    let mut push = |record| writer.push(&mut shelf, record).unwrap();
    push(Record::File(file("pg_data/base/5/16384", grains * GRAIN as u64, FileFlags::default())));
    for first in (1..=grains).step_by(100) {
        push(Record::Grains { gap: 0, hashes: (first..first + 100).collect() });
    }
    push(end(grains * GRAIN as u64, &[]));
    push(Record::File(file("pg_data/base/5/16385", 0, FileFlags::default())));
    push(end(0, &[]));
    let (root, stream) = writer.finish(&mut shelf).unwrap();
    assert_eq!(stream, grains * GRAIN as u64);
    (shelf, root.unwrap())
}

/// A frame table of so many packs of so many frames: of 256 KiB and of 8 KiB in turn, stored in half and 40 bytes more.
fn table(packs: u32, frames: u64) -> (Shelf, Root) {
    let (mut shelf, mut writer) = (Shelf::default(), FrameTableWriter::new());
    for pack in 0..packs {
        let lengths = [(262_144, 131_112), (8192, 4136)];
        let pack = PackFrames {
            pack: pack + 2,
            pack_size: 1 << 40,
            lane: pack % 2,
            offset: 96 + u64::from(pack),
            first: u64::from(pack) * frames,
            frames: (0..frames).map(|n| lengths[usize::try_from(n % 2).unwrap()]).collect(),
        };
        writer.push(&mut shelf, &pack).unwrap();
    }
    let (root, _) = writer.finish(&mut shelf).unwrap();
    (shelf, root.unwrap())
}

/// The nodes that have files, by file name, as today's writer makes them.
fn nodes() -> BTreeMap<&'static str, Vec<u8>> {
    let kept = |shelf: &Shelf, kind: &str| shelf.nodes[&(kind.to_owned(), 0)].clone();
    BTreeMap::from([
        ("leaf.bin", leaf(&records())),
        ("fence.bin", kept(&large_index().0, "Fence")),
        ("frame-table.bin", kept(&table(2, 3).0, "FrameTable")),
        ("table-fence.bin", kept(&table(6, 10_000).0, "TableFence")),
    ])
}

/// What `vectors.json` says, as this version makes it.
fn description() -> Value {
    let hashes = |shelf: &Shelf| -> BTreeMap<String, String> {
        let name = |(kind, number): &(String, u64)| format!("{kind} {number}");
        shelf.nodes.iter().map(|(key, raw)| (name(key), blake3::hash(raw).to_hex().to_string())).collect()
    };
    let ((index, index_root), (frames, frames_root)) = (large_index(), table(6, 10_000));
    let key = HashKey::from_bytes([0x5A; 32]);
    let mut digester = FileDigester::new(&key, 20_000);
    [key.grain(&[1; GRAIN]), 0, key.grain(&[2; 3616])].into_iter().for_each(|hash| digester.push(hash));
    let mut list = ListDigester::new(&key);
    list.directory(b"pg_data");
    list.file(b"pg_data/a", 20_000, digester.finish());
    list.link(b"pg_data/b", b"/elsewhere");
    json!({
        "leaf.bin": read_leaf(&leaf(&records())).iter().map(describe).collect::<Vec<_>>(),
        "fence.bin": {"root": index_root, "nodes": hashes(&index)},
        "frame-table.bin": places(&mut table(2, 3).0, table(2, 3).1),
        "table-fence.bin": {"root": frames_root, "nodes": hashes(&frames)},
        "hashes": {
            "hash-key": key,
            "8192 bytes of 1": key.grain(&[1; GRAIN]),
            "3616 bytes of 2": key.grain(&[2; 3616]),
            "file of 8192 bytes of 1, 8192 of 0, 3616 of 2": digester.finish().0,
            "list of directory pg_data, this file as pg_data/a, link pg_data/b to /elsewhere": list.finish(),
        },
    })
}

fn places(shelf: &mut Shelf, root: Root) -> Vec<Value> {
    let mut cursor = FrameCursor::new(Some(root));
    let frames = std::iter::from_fn(|| cursor.next_frame(shelf).unwrap());
    frames
        .map(|f| {
            json!({
                "stream": f.stream, "raw-length": f.raw_len, "pack": f.pack, "pack-size": f.pack_size,
                "lane": f.lane, "offset": f.offset, "length": f.len, "number": f.number,
            })
        })
        .collect()
}

#[test]
fn todays_writer_gives_the_same_bytes() {
    for (name, raw) in nodes() {
        assert!(stored(name) == raw, "{name} is written in another way than it was");
    }
    assert_eq!(description(), described());
}

#[test]
fn stored_leaves_give_what_is_written_down() {
    let found = read_leaf(&stored("leaf.bin"));
    assert_eq!(found, records());
    assert_eq!(Value::from(found.iter().map(describe).collect::<Vec<_>>()), described()["leaf.bin"]);
}

#[test]
fn stored_fences_lead_to_their_leaves() {
    let (mut shelf, root) = large_index();
    assert_eq!(root.level, 1);
    shelf.nodes.insert(("Fence".to_owned(), 0), stored("fence.bin"));
    let mut cursor = IndexCursor::new(Some(root));
    let mut hashes = Vec::new();
    while let Some(placed) = cursor.next_record(&mut shelf).unwrap() {
        if let Record::Grains { hashes: run, .. } = placed.record {
            assert_eq!(placed.stream, placed.grain * GRAIN as u64);
            hashes.extend(run);
        }
    }
    assert!(hashes.into_iter().eq(1..=40_000));
}

#[test]
fn stored_frame_tables_give_what_is_written_down() {
    let (mut shelf, root) = table(2, 3);
    shelf.nodes.insert(("FrameTable".to_owned(), 0), stored("frame-table.bin"));
    assert_eq!(Value::from(places(&mut shelf, root)), described()["frame-table.bin"]);
    let (mut shelf, root) = table(6, 10_000);
    assert_eq!(root.level, 1);
    let whole = places(&mut shelf, root);
    shelf.nodes.insert(("TableFence".to_owned(), 0), stored("table-fence.bin"));
    assert_eq!(places(&mut shelf, root), whole);
    assert_eq!(whole.len(), 60_000);
}

#[test]
fn stored_manifests_are_read_and_written_again() {
    for name in ["summary-full.json", "summary-incr.json"] {
        assert_eq!(Summary::from_json(&stored(name)).unwrap().to_json().unwrap(), stored(name), "{name}");
    }
    for name in ["body-full.json", "body-incr.json"] {
        assert_eq!(Body::from_json(&stored(name)).unwrap().to_json().unwrap(), stored(name), "{name}");
    }
    let summary = Summary::from_json(&stored("summary-incr.json")).unwrap();
    assert_eq!(summary.label.to_string(), "20261122-120000F_20261123-120000I");
    assert_eq!(summary.prior.map(|label| label.to_string()).as_deref(), Some("20261122-120000F"));
    assert_eq!(summary.server_time_us.stop, 1_795_435_260_654_321);
    assert_eq!(summary.lsn.start.as_u64(), 0x1_0400_0028);
    assert_eq!(summary.annotation["ticket"], "OPS-17");
    let body = Body::from_json(&stored("body-incr.json")).unwrap();
    assert_eq!(body.parent.unwrap().label.to_string(), "20261122-120000F");
    assert_eq!(body.layers[0].attempt, 0x0123_4567_89AB_CDEF);
    assert_eq!(body.layers[0].index.unwrap().place.offset, 96);
    assert_eq!(body.cluster.wal_segment_size.bytes(), 16 << 20);
}

#[test]
#[ignore = "writes into the source tree: only for vectors of a new version"]
fn write_vectors() {
    for (name, raw) in nodes() {
        if !place(name).exists() {
            std::fs::write(place(name), raw).unwrap();
        }
    }
    let text = serde_json::to_string_pretty(&description()).unwrap() + "\n";
    std::fs::write(place("vectors.json"), text).unwrap();
}
