//! Foreign leaves merged as the layers of a chain: by items, by ends alone, and side by side with another list.

use pgbr_manifest::index::{NodeKind, NodePlace, NodeSource, Root};
use pgbr_manifest::merge::{Entry, Item, Merge, MergeReader};
use pgbr_manifest::{Error, RelPath, Result, ZERO_GRAIN};

/// More than the grains of any file that is walked to its end.
const MAX_GRAINS: u64 = 1 << 16;

/// Gives its one leaf.
struct Leaf<'a>(&'a [u8]);

impl NodeSource for Leaf<'_> {
    type Error = Error;

    fn get(&mut self, _: NodeKind, _: &NodePlace) -> Result<Vec<u8>> {
        Ok(self.0.to_vec())
    }
}

fn merge<'a>(leaves: &[&'a [u8]]) -> Merge<Leaf<'a>> {
    let root = Some(Root { level: 0, place: NodePlace { number: 0, pack: 0, offset: 0, len: 0 } });
    Merge::new(leaves.iter().map(|leaf| (root, Leaf(leaf))))
}

/// A file: its path, its size, how many grains it has, and as many hashes as are looked at.
type File = (RelPath, u64, Vec<Option<u64>>);

/// All items. Grains stand in a row from the first to the last; every step makes progress.
fn items(leaves: &[&[u8]], files: &mut Vec<File>) -> Result<()> {
    let mut merge = merge(leaves);
    let mut open: Option<(RelPath, u64, u64, Vec<Option<u64>>)> = None;
    let mut records = 2 + leaves.iter().map(|leaf| leaf.len()).sum::<usize>() * leaves.len();
    while let Some(item) = merge.next_item()? {
        records = records.checked_sub(1).expect("there are more items than bytes");
        let mut grains = |grain: u64, count: u64, hashes: &mut dyn Iterator<Item = Option<u64>>| {
            let (_, size, at, known) = open.as_mut().expect("grains are of a file");
            assert_eq!(*at, grain, "a gap between grains");
            assert!(count > 0, "no grains");
            *at += count;
            assert!(*at <= size.div_ceil(8192), "more grains than the size has");
            let room = MAX_GRAINS.saturating_sub(known.len() as u64).min(count);
            known.extend(hashes.take(usize::try_from(room).unwrap_or(0)));
        };
        match item {
            Item::Grains { source, grain, hashes, .. } => {
                assert!(source < leaves.len());
                grains(grain, hashes.len() as u64, &mut hashes.into_iter().map(Some));
            }
            Item::Zeros { grain, count } => grains(grain, count, &mut std::iter::repeat(Some(ZERO_GRAIN))),
            Item::Absent { grain, count } => grains(grain, count, &mut std::iter::repeat(None)),
            Item::File(file) => {
                assert!(open.is_none(), "a file in a file");
                open = Some((file.path, file.size, 0, Vec::new()));
            }
            Item::End(end) => {
                let (path, size, at, known) = open.take().expect("an end without a file");
                assert_eq!(at, size.div_ceil(8192), "'{path}' ends too early");
                files.push((path, end.size, known));
            }
            Item::Directory { .. } | Item::Link { .. } => assert!(open.is_none(), "an entry in a file"),
        }
    }
    assert!(open.is_none(), "a file without an end");
    Ok(())
}

/// The same with the grains passed over.
fn ends(leaves: &[&[u8]]) -> Result<Vec<(RelPath, u64)>> {
    let (mut merge, mut files) = (merge(leaves), Vec::new());
    while let Some(item) = merge.next_item()? {
        if let Item::File(file) = item {
            files.push((file.path, merge.finish_file()?.size));
        }
    }
    Ok(files)
}

/// Walks beside the list of these files, by steps of a few grains.
fn beside(leaves: &[&[u8]], files: &[File], step: usize) -> Result<()> {
    let mut reader = MergeReader::new(merge(leaves));
    for (path, size, known) in files {
        while reader.pass_before(Some(path))?.is_some() {}
        while let Some(entry) = reader.take(path)? {
            if !matches!(entry, Entry::File(_)) {
                continue;
            }
            let mut found = Vec::new();
            while found.len() < known.len() {
                let more = reader.grains(step)?;
                assert!(!more.is_empty() && more.len() <= step, "no progress in '{path}'");
                found.extend(more);
            }
            found.truncate(known.len());
            assert_eq!(&found, known, "'{path}'");
            assert_eq!(reader.end()?.size, *size, "'{path}'");
            break;
        }
    }
    while reader.pass_before(None)?.is_some() {}
    Ok(())
}

pub(crate) fn run(data: &[u8]) {
    let Some((&step, rest)) = data.split_first() else { return };
    let leaves = crate::plain::pieces(rest);
    let mut files = Vec::new();
    if items(&leaves, &mut files).is_err() {
        // Passing over content may get further; it must end either way.
        ends(&leaves).ok();
        beside(&leaves, &files, usize::from(step) + 1).ok();
        return;
    }
    let sizes: Vec<_> = files.iter().map(|(path, size, _)| (path.clone(), *size)).collect();
    assert_eq!(ends(&leaves).expect("all items could be read"), sizes);
    beside(&leaves, &files, usize::from(step) + 1).expect("all items could be read");
}
