//! A cluster that changes, and its backups: what diffs of each state against the one before say together is the last state.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use pgbr_manifest::diff::{EntryWriter, ParentFile, Written};
use pgbr_manifest::index::{
    BadPages, FileFlags, FileRecord, Meta, NodeKind, NodePlace, NodeSink, NodeSource, Root,
};
use pgbr_manifest::merge::{Entry, Item, Merge, MergeReader};
use pgbr_manifest::{Error, GRAIN, HashKey, RelPath, Result, ZERO_GRAIN};

/// A file: its grains (0: zeros) and how many bytes its last one lacks; `None` is a directory.
type Node = Option<(Vec<u8>, u16)>;
type State = BTreeMap<RelPath, Node>;

/// What happens: a path gets grains, or becomes a directory, or goes with all below.
type Event = (u8, u8, u16, Vec<u8>);

/// Nodes in memory.
#[derive(Default, Clone)]
struct Shelf(Arc<HashMap<(NodeKind, u64), Vec<u8>>>);

impl NodeSink for Shelf {
    type Error = Error;

    fn put(&mut self, kind: NodeKind, number: u64, raw: &[u8]) -> Result<NodePlace> {
        Arc::make_mut(&mut self.0).insert((kind, number), raw.to_vec());
        Ok(NodePlace { number, pack: 0, offset: 0, len: 0 })
    }
}

impl NodeSource for Shelf {
    type Error = Error;

    fn get(&mut self, kind: NodeKind, place: &NodePlace) -> Result<Vec<u8>> {
        Ok(self.0[&(kind, place.number)].clone())
    }
}

/// A backup: its index, and what lies where in its stream.
struct Layer {
    shelf: Shelf,
    root: Option<Root>,
    stream: HashMap<u64, u8>,
}

fn merge(layers: &[Layer]) -> Merge<Shelf> {
    Merge::new(layers.iter().rev().map(|layer| (layer.root, layer.shelf.clone())))
}

fn key() -> HashKey {
    HashKey::from_bytes([6; 32])
}

fn size((grains, lacks): &(Vec<u8>, u16)) -> u64 {
    let whole = grains.len() * GRAIN;
    whole.saturating_sub(usize::from(*lacks) % GRAIN) as u64
}

/// Paths of few letters, so that they meet; the control file is among them.
fn path(number: u8) -> RelPath {
    let name = |n: u8| ["a", "b", "a.b", "global"][usize::from(n % 4)];
    let text = match number {
        255 => RelPath::PG_CONTROL.to_owned(),
        0..64 => format!("pg_data/{}", name(number)),
        64..160 => format!("pg_data/{}/{}", name(number), name(number / 4)),
        _ => format!("pg_data/{}/{}/{}", name(number), name(number / 4), name(number / 16)),
    };
    RelPath::new(text).expect("it is a path")
}

fn change(state: &mut State, (what, at, lacks, grains): &Event) {
    let path = path(*at);
    match what % 4 {
        0 => state.retain(|other, _| !other.is_within(&path)),
        kind => {
            // What it lies in are directories, and a file holds nothing.
            let mut above = path.parent();
            while let Some(parent) = above {
                above = parent.parent();
                state.insert(parent, None);
            }
            let node = (kind > 1).then(|| (grains.iter().copied().take(40).collect(), *lacks));
            if node.is_some() {
                state.retain(|other, _| !other.is_within(&path));
            }
            if !path.is_pg_control() || node.is_some() {
                state.insert(path, node);
            }
        }
    }
}

/// Backs a state up against what the layers say.
fn backup(layers: &[Layer], state: &State) -> Result<(Layer, Written)> {
    let (mut shelf, mut entries) = (Shelf::default(), EntryWriter::new(key()));
    let mut parent = MergeReader::new(merge(layers));
    let (mut stream, mut at) = (HashMap::new(), 0);
    for (path, node) in state {
        while let Some(gone) = parent.pass_before(Some(path))? {
            entries.removed(&mut shelf, gone)?;
        }
        let old = parent.take(path)?;
        match node {
            None => {
                let meta = Meta { mode: 0o700, ..Meta::default() };
                let same = old == Some(Entry::Directory(meta.clone()));
                entries.directory(&mut shelf, path.clone(), meta, same)?;
            }
            Some(file) => {
                let record = record(path, size(file));
                let old = match old {
                    Some(Entry::File(old)) => Some(old),
                    _ => None,
                };
                let before = old.clone().map(|record| ParentFile { record, end: None });
                entries.begin(&mut shelf, Arc::new(record.clone()), before)?;
                let count = usize::try_from(size(file).div_ceil(GRAIN as u64)).expect("it is small");
                let hashes: Vec<u64> = file.0.iter().take(count).map(|grain| hash(*grain)).collect();
                let mut known = Vec::new();
                while old.is_some() && known.len() < count {
                    let more = parent.grains(7)?;
                    if more.is_empty() {
                        break;
                    }
                    known.extend(more);
                }
                let (first, stretches) = entries.run(&mut shelf, &hashes, &known)?;
                assert_eq!(first, 0);
                for grain in stretches.into_iter().flatten() {
                    stream.insert(at, file.0[grain]);
                    at += (record.size - (grain * GRAIN) as u64).min(GRAIN as u64);
                }
                if old.is_some() {
                    entries.parent_end(parent.end()?);
                }
                entries.end(&mut shelf, record.size, BadPages::default(), false)?;
            }
        }
    }
    while let Some(gone) = parent.pass_before(None)? {
        entries.removed(&mut shelf, gone)?;
    }
    let written = entries.finish(&mut shelf)?;
    assert_eq!(written.stream, at);
    Ok((Layer { shelf, root: written.index, stream }, written))
}

fn hash(grain: u8) -> u64 {
    if grain == 0 { ZERO_GRAIN } else { u64::from(grain) << 8 }
}

fn record(path: &RelPath, size: u64) -> FileRecord {
    let flags = FileFlags { whole: true, ..FileFlags::default() };
    FileRecord { path: path.clone(), meta: Meta::default(), size, mtime_ns: 1, ctime_ns: 1, inode: 1, flags }
}

/// What the layers say together.
fn resolve(layers: &[Layer]) -> Result<State> {
    let (mut merge, mut state) = (merge(layers), State::new());
    let mut open: Option<(RelPath, u64, Vec<u8>)> = None;
    while let Some(item) = merge.next_item()? {
        match item {
            Item::Directory { path, .. } => drop(state.insert(path, None)),
            Item::File(file) => open = Some((file.path, file.size, Vec::new())),
            Item::Grains { source, stream, hashes, .. } => {
                let open = open.as_mut().expect("a file is open");
                for (n, expected) in (0..).zip(hashes) {
                    let grain = layers[layers.len() - 1 - source].stream[&(stream + n * GRAIN as u64)];
                    assert_eq!(hash(grain), expected);
                    open.2.push(grain);
                }
            }
            Item::Zeros { count, .. } => {
                open.as_mut().expect("a file is open").2.extend((0..count).map(|_| 0));
            }
            Item::End(end) => {
                let (path, size, grains) = open.take().expect("a file is open");
                assert_eq!(end.size, size);
                let lacks = u16::try_from(grains.len() as u64 * GRAIN as u64 - size).expect("less than a grain");
                state.insert(path, Some((grains, lacks)));
            }
            Item::Link { .. } | Item::Absent { .. } => panic!("there are no links, and everything is there"),
        }
    }
    Ok(state)
}

pub(crate) fn run(states: Vec<Vec<Event>>) {
    let (mut state, mut layers): (State, Vec<Layer>) = (State::new(), Vec::new());
    for events in states.iter().take(8) {
        events.iter().take(30).for_each(|event| change(&mut state, event));
        let (layer, written) = backup(&layers, &state).expect("it keeps the rules");
        layers.push(layer);
        let plain: State = state.iter().map(|(path, node)| (path.clone(), node.as_ref().map(normal))).collect();
        assert_eq!(resolve(&layers).expect("it was written just now"), plain);
        let alone = backup(&[], &state).expect("it keeps the rules").1;
        // A full of the same state has the same list.
        assert_eq!((written.entries, written.digest), (alone.entries, alone.digest));
    }
}

/// A file as its size makes it: without grains that it does not reach.
fn normal(file: &(Vec<u8>, u16)) -> (Vec<u8>, u16) {
    let size = size(file);
    let count = usize::try_from(size.div_ceil(GRAIN as u64)).expect("it is small");
    let lacks = u16::try_from((count * GRAIN) as u64 - size).expect("less than a grain");
    (file.0.iter().copied().take(count).collect(), lacks)
}
