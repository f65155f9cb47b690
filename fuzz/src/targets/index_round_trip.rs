//! An index of arbitrary files: the entries and grains that were written are read, in their places.

use std::collections::BTreeMap;
use std::collections::HashMap;

use pgbr_manifest::index::{
    Fields, FileFlags, FileRecord, IndexCursor, IndexWriter, Meta, NodeKind, NodePlace, NodeSink, NodeSource,
    Record, Root,
};
use pgbr_manifest::{Error, RelPath, Result};

/// Long enough for files of several leaves, short enough for many files a second.
const MAX_RUN: u16 = 700;

/// Nodes in memory.
#[derive(Default)]
struct Shelf(HashMap<(NodeKind, u64), Vec<u8>>);

impl NodeSink for Shelf {
    type Error = Error;

    fn put(&mut self, kind: NodeKind, number: u64, raw: &[u8]) -> Result<NodePlace> {
        assert!(self.0.insert((kind, number), raw.to_vec()).is_none(), "a number is used twice");
        Ok(NodePlace { number, pack: 0, offset: 0, len: 0 })
    }
}

impl NodeSource for Shelf {
    type Error = Error;

    fn get(&mut self, kind: NodeKind, place: &NodePlace) -> Result<Vec<u8>> {
        Ok(self.0[&(kind, place.number)].clone())
    }
}

/// What is read back, whatever runs it was cut into: entries, and for each stored grain its file's number, its own number, its
/// place in the stream and its hash.
type Content = (Vec<Record>, Vec<(usize, u64, u64, u64)>);

/// Name, mode, how many bytes the last grain lacks, and runs: gap, length, whether they are stored.
type File = (u16, (u16, u16, Vec<(u8, u16, bool)>));

fn write(files: &BTreeMap<RelPath, &File>) -> Result<(Shelf, Option<Root>, Content)> {
    let (mut shelf, mut writer, mut stream) = (Shelf::default(), IndexWriter::new(), 0);
    let (mut entries, mut grains) = (Vec::new(), Vec::new());
    for (number, (path, (_, (mode, lacks, runs)))) in files.iter().enumerate() {
        let total: u64 =
            runs.iter().map(|(gap, count, _)| u64::from(*gap) + u64::from(count % MAX_RUN)).sum();
        let size = (total * 8192).saturating_sub(u64::from(lacks % 8192));
        let meta =
            Meta { mode: (mode & 0o7777).into(), user: format!("u{}", mode % 3), group: String::new() };
        let (mtime_ns, ctime_ns, inode) =
            (i64::from(*mode) - 9, i64::from(*lacks) - 9, mode.rotate_left(5).into());
        let flags = FileFlags { whole: mode % 2 == 0, ..FileFlags::default() };
        let file = FileRecord { path: path.clone(), meta, size, mtime_ns, ctime_ns, inode, flags };
        entries.push(Record::File(file.clone()));
        writer.push(&mut shelf, Record::File(file))?;
        let mut at = 0;
        for (gap, count, stored) in runs {
            let (gap, count) = (u64::from(*gap), u64::from(count % MAX_RUN));
            at += gap;
            if *stored && count > 0 {
                let hashes: Vec<u64> =
                    (at..at + count).map(|grain| grain.wrapping_mul(0x9E37_79B9)).collect();
                grains.extend(
                    (at..).zip(&hashes).zip(0..).map(|((g, h), n)| (number, g, stream + n * 8192, *h)),
                );
                stream += ((at + count) * 8192).min(size) - at * 8192;
                writer.push(&mut shelf, Record::Grains { gap, hashes })?;
            } else {
                writer.push(&mut shelf, Record::Zeros { gap, count })?;
            }
            at += count;
        }
        let end = Record::End(Fields { size, ..Fields::default() });
        entries.push(end.clone());
        writer.push(&mut shelf, end)?;
    }
    let (root, length) = writer.finish(&mut shelf)?;
    assert_eq!(length, stream);
    Ok((shelf, root, (entries, grains)))
}

fn read(shelf: &mut Shelf, root: Option<Root>) -> Result<Content> {
    let mut cursor = IndexCursor::new(root);
    let (mut entries, mut grains) = (Vec::new(), Vec::new());
    while let Some(placed) = cursor.next_record(shelf)? {
        match placed.record {
            Record::Grains { hashes, .. } => grains.extend(
                (0..)
                    .zip(hashes)
                    .map(|(n, h)| (entries.len() / 2, placed.grain + n, placed.stream + n * 8192, h)),
            ),
            Record::Zeros { .. } => {}
            entry => entries.push(entry),
        }
    }
    Ok((entries, grains))
}

pub(crate) fn run(files: Vec<File>) {
    let name = |file: &File| RelPath::new(format!("pg_data/base/{}/{}", file.0 % 7, file.0));
    let files = files.iter().map(|file| (name(file).expect("it is a path"), file)).collect();
    let (mut shelf, root, written) = write(&files).expect("it keeps the rules");
    let found = read(&mut shelf, root).expect("it was written just now");
    // The number of a file is that of the entry it lies in: its record and its end are two.
    assert_eq!(found, written);
}
