//! What each stage of a backup takes of one core: `cargo bench -p pgbr-benches`.

use std::collections::HashMap;
use std::hint::black_box;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use pgbr_benches::table_pages;
use pgbr_codec::{
    Codec, Compression, Compressor, Decompressor, FrameKind, KeyId, Keyring, LaneSeed, ObjectKind,
    RepositoryId, RepositoryKey, Sealer, WAL_PIECE, WalSealer,
};
use pgbr_manifest::index::{
    Fields, FileFlags, FileRecord, IndexCursor, IndexWriter, Meta, NodeKind, NodePlace, NodeSink, NodeSource,
    Record, Root,
};
use pgbr_manifest::{Error, FileDigester, GRAIN, HashKey, RelPath, Result, is_zero};
use pgbr_pg::page_checksum;

/// The raw bytes of a data frame in a full.
const FRAME: usize = 1 << 20;

fn main() {
    divan::main();
}

fn frame() -> Vec<u8> {
    table_pages(FRAME / GRAIN, 1)
}

fn compressor(codec: Codec) -> Compressor {
    Compression::new(codec, None).and_then(Compressor::new).expect("it has a default level")
}

fn keyring(mode: &str) -> Keyring {
    let repository = RepositoryId::from_bytes([1; 16]);
    match mode {
        "plain" => Keyring::plain(repository),
        _ => Keyring::sealed(repository, KeyId::from_bytes([2; 16]), &RepositoryKey::from_bytes([3; 32])),
    }
}

fn sealer(mode: &str, kind: ObjectKind) -> Sealer {
    keyring(mode).sealer(kind, LaneSeed::from_bytes([4; 32])).expect("its public key is one")
}

#[divan::bench(args = Codec::ALL)]
fn compress(bencher: Bencher<'_, '_>, codec: Codec) {
    let (raw, mut compressor, mut out) = (frame(), compressor(codec), Vec::new());
    bencher.counter(BytesCount::of_slice(&raw)).bench_local(|| {
        out.clear();
        compressor.compress(&raw, &mut out)
    });
}

#[divan::bench(args = Codec::ALL)]
fn decompress(bencher: Bencher<'_, '_>, codec: Codec) {
    let (raw, mut packed, mut out) = (frame(), Vec::new(), Vec::new());
    let used = compressor(codec).compress(&raw, &mut packed).expect("it is compressed");
    let mut decompressor = Decompressor::new();
    bencher.counter(BytesCount::of_slice(&raw)).bench_local(|| {
        out.clear();
        decompressor.decompress(used, &packed, raw.len(), &mut out)
    });
}

#[divan::bench(args = ["plain", "sealed"])]
fn seal(bencher: Bencher<'_, '_>, mode: &str) {
    let (raw, mut none, mut out) = (frame(), compressor(Codec::None), Vec::new());
    let sealer = sealer(mode, ObjectKind::DataPack);
    bencher.counter(BytesCount::of_slice(&raw)).bench_local(|| {
        out.clear();
        sealer.seal_into(&mut none, FrameKind::Data, 0, &raw, &mut out)
    });
}

#[divan::bench(args = ["plain", "sealed"])]
fn open(bencher: Bencher<'_, '_>, mode: &str) {
    let raw = frame();
    let sealer = sealer(mode, ObjectKind::DataPack);
    let sealed = sealer.seal(&mut compressor(Codec::None), FrameKind::Data, 0, &raw).expect("it is sealed");
    let opener = keyring(mode).opener(&sealer.header(0, 0)).expect("it is of this repository");
    let (mut decompressor, mut out) = (Decompressor::new(), Vec::new());
    bencher.counter(BytesCount::of_slice(&raw)).with_inputs(|| sealed.clone()).bench_local_refs(|sealed| {
        out.clear();
        opener.open(&mut decompressor, sealed, FrameKind::Data, 0, &mut out)
    });
}

#[divan::bench]
fn grain_hash(bencher: Bencher<'_, '_>) {
    let (page, key) = (table_pages(1, 1), HashKey::from_bytes([5; 32]));
    bencher.counter(BytesCount::of_slice(&page)).bench_local(|| key.grain(black_box(&page)));
}

/// The witness of a file of 1 GiB from its grain hashes.
#[divan::bench]
fn file_digest(bencher: Bencher<'_, '_>) {
    let (key, grains) = (HashKey::from_bytes([5; 32]), (1 << 30) / GRAIN as u64);
    bencher.counter(ItemsCount::new(grains)).bench_local(|| {
        let mut digester = FileDigester::new(&key, 1 << 30);
        (1..=grains).for_each(|hash| digester.push(hash));
        digester.finish()
    });
}

#[divan::bench]
fn checksum_of_page(bencher: Bencher<'_, '_>) {
    let page = table_pages(1, 1);
    bencher.counter(BytesCount::of_slice(&page)).bench_local(|| page_checksum(black_box(&page), 7));
}

/// A page of zeros, which has to be looked at to its end.
#[divan::bench]
fn is_zero_page(bencher: Bencher<'_, '_>) {
    let page = vec![0; GRAIN];
    bencher.counter(BytesCount::of_slice(&page)).bench_local(|| is_zero(black_box(&page)));
}

/// Nodes in memory.
#[derive(Default)]
struct Shelf(HashMap<(NodeKind, u64), Vec<u8>>);

impl NodeSink for Shelf {
    type Error = Error;

    fn put(&mut self, kind: NodeKind, number: u64, raw: &[u8]) -> Result<NodePlace> {
        self.0.insert((kind, number), raw.to_vec());
        Ok(NodePlace { number, pack: 0, offset: 0, len: 0 })
    }
}

impl NodeSource for Shelf {
    type Error = Error;

    fn get(&mut self, kind: NodeKind, place: &NodePlace) -> Result<Vec<u8>> {
        let node = self.0.get(&(kind, place.number)).cloned();
        node.ok_or_else(|| Error::Source { reason: "no such node".to_owned() })
    }
}

/// Grains that the index of the benchmarks holds: 100 files of 64 MiB.
const INDEX_GRAINS: u64 = 100 * FILE_GRAINS;
const FILE_GRAINS: u64 = 8192;

fn write_index() -> Result<(Shelf, Option<Root>)> {
    let (mut shelf, mut writer) = (Shelf::default(), IndexWriter::new());
    let size = FILE_GRAINS * GRAIN as u64;
    for number in 0..100 {
        let path = RelPath::new(format!("pg_data/base/5/{}", 16_384 + number))?;
        let meta = Meta { mode: 0o600, user: "postgres".to_owned(), group: "postgres".to_owned() };
        let flags = FileFlags::default();
        let file = FileRecord { path, meta, size, mtime_ns: 1, ctime_ns: 1, inode: number, flags };
        writer.push(&mut shelf, Record::File(file))?;
        for first in (1..=FILE_GRAINS).step_by(128) {
            writer.push(&mut shelf, Record::Grains { gap: 0, hashes: (first..first + 128).collect() })?;
        }
        writer.push(&mut shelf, Record::End(Fields { size, ..Fields::default() }))?;
    }
    let (root, _) = writer.finish(&mut shelf)?;
    Ok((shelf, root))
}

/// The items are grains of 8 KiB.
#[divan::bench]
fn index_write(bencher: Bencher<'_, '_>) {
    bencher.counter(ItemsCount::new(INDEX_GRAINS)).bench_local(write_index);
}

/// The items are grains of 8 KiB.
#[divan::bench]
fn index_read(bencher: Bencher<'_, '_>) {
    let (mut shelf, root) = write_index().expect("it keeps the rules");
    bencher.counter(ItemsCount::new(INDEX_GRAINS)).bench_local(|| {
        let (mut cursor, mut grains) = (IndexCursor::new(root), 0);
        while let Ok(Some(placed)) = cursor.next_record(&mut shelf) {
            if let Record::Grains { hashes, .. } = placed.record {
                grains += hashes.len();
            }
        }
        assert_eq!(grains as u64, INDEX_GRAINS);
    });
}

/// A segment of 16 MiB: digest, compression, sealing.
#[divan::bench(args = [Codec::None, Codec::Lz4, Codec::Zst], sample_count = 10)]
fn wal_seal(bencher: Bencher<'_, '_>, codec: Codec) {
    let (raw, mut compressor) = (table_pages((16 << 20) / GRAIN, 2), compressor(codec));
    bencher
        .counter(BytesCount::of_slice(&raw))
        .bench_local(|| wal_object(&mut compressor, &raw).expect("a segment is sealed"));
}

fn wal_object(compressor: &mut Compressor, raw: &[u8]) -> pgbr_codec::Result<Vec<u8>> {
    let mut wal = WalSealer::new(sealer("sealed", ObjectKind::Wal))?;
    let mut object = wal.header().to_vec();
    for piece in raw.chunks(WAL_PIECE) {
        object.extend(wal.piece(compressor, piece)?);
    }
    let (trailer, _) = wal.finish("000000010000000000000001", Some(1))?;
    object.extend(trailer);
    Ok(object)
}
