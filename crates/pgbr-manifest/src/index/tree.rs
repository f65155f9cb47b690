//! Trees of nodes: leaves of records, fences above them, written and read in one direction.

use std::marker::PhantomData;

use super::bytes::{Reader, put_varint};
use super::record::{FileRecord, LeafPlace, LeafReader, LeafWriter, Record};
use crate::error::{Error, Result};
use crate::hash::GRAIN;
use crate::path::{MAX_PATH_BYTES, RelPath};

/// The size at which a node is closed, in bytes before compression.
pub const TARGET_NODE_BYTES: usize = 64 << 10;
/// Runs of grains are cut so that no record is larger than a fraction of a node.
const MAX_RUN: usize = 4096;
/// Eight levels of nodes of 64 KiB hold more than any disk.
const MAX_LEVEL: u64 = 8;
/// Fences grow over the target by one entry with a long path.
const MAX_FENCE_BYTES: usize = 128 << 10;

/// The four kinds of nodes, which are the frame kinds 2 to 5 of `docs/format.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a new kind of node is a new format version")]
pub enum NodeKind {
    /// Records.
    Leaf,
    /// Where leaves, or fences below, lie.
    Fence,
    /// Where frames lie.
    FrameTable,
    /// Where frame tables, or fences below, lie.
    TableFence,
}

/// Where a node lies: frame number of its kind, pack of the layer, place in the pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct NodePlace {
    /// Its frame number, counted a kind.
    pub number: u64,
    /// The index pack that holds it.
    pub pack: u32,
    /// Offset of the frame in that pack, in bytes.
    pub offset: u64,
    /// Length of the whole frame, in bytes.
    pub len: u32,
}

/// The top of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Root {
    /// 0 where the root is a leaf (or frame table) itself.
    pub level: u32,
    /// Where it lies.
    pub place: NodePlace,
}

/// Takes finished nodes: compresses, seals, packs them, and says where they lie.
pub trait NodeSink {
    /// Why a node could not be taken.
    type Error: From<Error>;

    /// Takes the `number`th node of its kind.
    ///
    /// # Errors
    /// The sink's own.
    fn put(&mut self, kind: NodeKind, number: u64, raw: &[u8]) -> Result<NodePlace, Self::Error>;
}

/// Gives nodes back.
pub trait NodeSource {
    /// Why a node could not be had.
    type Error: From<Error>;

    /// The decoded bytes of the node at `place`.
    ///
    /// # Errors
    /// The source's own.
    fn get(&mut self, kind: NodeKind, place: &NodePlace) -> Result<Vec<u8>, Self::Error>;
}

/// What a fence says of the node below it, beyond its place.
pub(crate) trait FenceKey: Clone + Eq {
    /// The kind of the nodes at level 0.
    const LEAF: NodeKind;
    /// The kind of the nodes above.
    const FENCE: NodeKind;
    fn put(&self, last: &mut Vec<u8>, out: &mut Vec<u8>);
    fn get(reader: &mut Reader<'_>, last: &mut Vec<u8>) -> Result<Self>;
}

/// A place in the index: a path and a grain in its file (0 for its beginning).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct IndexKey {
    /// The path.
    pub path: RelPath,
    /// The grain.
    pub grain: u64,
}

impl FenceKey for IndexKey {
    const LEAF: NodeKind = NodeKind::Leaf;
    const FENCE: NodeKind = NodeKind::Fence;

    fn put(&self, last: &mut Vec<u8>, out: &mut Vec<u8>) {
        let bytes = self.path.as_bytes();
        let shared = last.iter().zip(bytes).take_while(|(a, b)| a == b).count();
        put_varint(out, shared as u64);
        put_varint(out, (bytes.len() - shared) as u64);
        out.extend_from_slice(&bytes[shared..]);
        put_varint(out, self.grain);
        last.truncate(shared);
        last.extend_from_slice(&bytes[shared..]);
    }

    fn get(reader: &mut Reader<'_>, last: &mut Vec<u8>) -> Result<Self> {
        let shared = reader.count(last.len())?;
        let rest = reader.count(MAX_PATH_BYTES)?;
        last.truncate(shared);
        last.extend_from_slice(reader.take(rest)?);
        Ok(Self { path: RelPath::new(last.as_slice())?, grain: reader.varint()? })
    }
}

/// One level of fences under construction.
#[derive(Debug, Clone, Default)]
struct Level<K> {
    bytes: Vec<u8>,
    last: Vec<u8>,
    first: Option<(K, u64)>,
}

/// All levels above the leaves, closed bottom-up as they fill.
#[derive(Debug, Clone)]
pub(crate) struct Fences<K> {
    levels: Vec<Level<K>>,
    only: Option<NodePlace>,
    leaves: u64,
    fences: u64,
}

impl<K> Default for Fences<K> {
    fn default() -> Self {
        Self { levels: Vec::new(), only: None, leaves: 0, fences: 0 }
    }
}

impl<K: FenceKey> Fences<K> {
    /// Hands a finished leaf to the sink and remembers where it lies.
    pub(crate) fn add_leaf<S: NodeSink>(
        &mut self,
        sink: &mut S,
        key: K,
        stream: u64,
        raw: &[u8],
    ) -> Result<(), S::Error> {
        let place = sink.put(K::LEAF, self.leaves, raw)?;
        self.leaves += 1;
        self.only = (self.leaves == 1).then_some(place);
        self.add(sink, 0, key, stream, place)
    }

    fn add<S: NodeSink>(
        &mut self,
        sink: &mut S,
        at: usize,
        key: K,
        stream: u64,
        place: NodePlace,
    ) -> Result<(), S::Error> {
        if self.levels.len() == at {
            self.levels.push(Level { bytes: Vec::new(), last: Vec::new(), first: None });
        }
        let level = &mut self.levels[at];
        if level.first.is_none() {
            level.first = Some((key.clone(), stream));
            put_varint(&mut level.bytes, at as u64 + 1);
        }
        key.put(&mut level.last, &mut level.bytes);
        for field in [stream, place.number, u64::from(place.pack), place.offset, u64::from(place.len)] {
            put_varint(&mut level.bytes, field);
        }
        if level.bytes.len() >= TARGET_NODE_BYTES { self.close(sink, at) } else { Ok(()) }
    }

    fn close<S: NodeSink>(&mut self, sink: &mut S, at: usize) -> Result<(), S::Error> {
        let full = std::mem::replace(
            &mut self.levels[at],
            Level { bytes: Vec::new(), last: Vec::new(), first: None },
        );
        let Some((key, stream)) = full.first else { return Ok(()) };
        let place = sink.put(K::FENCE, self.fences, &full.bytes)?;
        self.fences += 1;
        self.add(sink, at + 1, key, stream, place)
    }

    /// Closes all levels; `None` where there was no leaf.
    pub(crate) fn finish<S: NodeSink>(mut self, sink: &mut S) -> Result<Option<Root>, S::Error> {
        if let (Some(place), 1) = (self.only, self.leaves) {
            return Ok(Some(Root { level: 0, place }));
        }
        // The level above the highest that holds anything has at most what closing that one puts there.
        let mut at = 0;
        while at < self.levels.len() {
            if at + 1 == self.levels.len() {
                let level = std::mem::replace(
                    &mut self.levels[at],
                    Level { bytes: Vec::new(), last: Vec::new(), first: None },
                );
                if level.first.is_none() {
                    return Ok(None);
                }
                let place = sink.put(K::FENCE, self.fences, &level.bytes)?;
                let level = u32::try_from(at + 1).unwrap_or(u32::MAX);
                return Ok(Some(Root { level, place }));
            }
            self.close(sink, at)?;
            at += 1;
        }
        Ok(None)
    }
}

/// Walks the nodes at level 0 from first to last: one fence of each level in memory, as bytes.
#[derive(Debug, Clone)]
pub(crate) struct Walk<K> {
    /// Where it begins, until it has begun.
    root: Option<Root>,
    /// The fences between the root and the current place, the lowest last.
    fences: Vec<Fence<K>>,
}

impl<K: FenceKey> Walk<K> {
    pub(crate) const fn new(root: Option<Root>) -> Self {
        Self { root, fences: Vec::new() }
    }

    /// The bytes of the next leaf and what its fence says of it (key and stream offset).
    #[expect(clippy::type_complexity, reason = "a leaf, and the claim about it that the caller checks")]
    pub(crate) fn next_leaf<S: NodeSource>(
        &mut self,
        source: &mut S,
    ) -> Result<Option<(Vec<u8>, Option<(K, u64)>)>, S::Error> {
        loop {
            let (level, place, claim) = match (self.root.take(), self.fences.last_mut()) {
                (Some(root), _) => (u64::from(root.level), root.place, None),
                (None, None) => return Ok(None),
                (None, Some(fence)) => match fence.next()? {
                    Some((place, claim)) => (fence.level - 1, place, Some(claim)),
                    None => {
                        self.fences.pop();
                        continue;
                    }
                },
            };
            if level == 0 {
                return Ok(Some((source.get(K::LEAF, &place)?, claim)));
            }
            self.fences.push(Fence::open(source.get(K::FENCE, &place)?, level, claim.as_ref())?);
        }
    }
}

/// A fence that is being read: entries are decoded one by one, for each may take a thousand times its bytes.
#[derive(Debug, Clone)]
struct Fence<K> {
    level: u64,
    raw: Vec<u8>,
    at: usize,
    last: Vec<u8>,
    key: PhantomData<K>,
}

impl<K: FenceKey> Fence<K> {
    /// Begins with a node that should be a fence of this level and begin with what is claimed.
    fn open(raw: Vec<u8>, level: u64, claim: Option<&(K, u64)>) -> Result<Self> {
        let mut reader = Reader::new("index fence", &raw);
        if raw.len() > MAX_FENCE_BYTES || level > MAX_LEVEL {
            return Err(reader.damaged("it is too large"));
        }
        if reader.varint()? != level {
            return Err(reader.damaged("it is of another level"));
        }
        let at = reader.position();
        match (entry(&mut reader, &mut Vec::new())?, claim) {
            (None, _) => Err(reader.damaged("it is empty")),
            (Some((_, first)), Some(claim)) if first != *claim => {
                Err(reader.damaged("it begins elsewhere than the level above says"))
            }
            _ => Ok(Self { level, raw, at, last: Vec::new(), key: PhantomData }),
        }
    }

    /// The next node below.
    fn next(&mut self) -> Result<Option<Below<K>>> {
        let mut reader = Reader::resume("index fence", &self.raw, self.at);
        let below = entry(&mut reader, &mut self.last)?;
        self.at = reader.position();
        Ok(below)
    }
}

/// Where a node lies, and what a fence claims of it: key and stream offset.
type Below<K> = (NodePlace, (K, u64));

/// Reads an entry of a fence; none at its end.
fn entry<K: FenceKey>(reader: &mut Reader<'_>, last: &mut Vec<u8>) -> Result<Option<Below<K>>> {
    if reader.at_end() {
        return Ok(None);
    }
    let key = K::get(reader, last)?;
    let (stream, number) = (reader.varint()?, reader.varint()?);
    let place = NodePlace { number, pack: reader.u32()?, offset: reader.varint()?, len: reader.u32()? };
    Ok(Some((place, (key, stream))))
}

/// Writes an index: records in, nodes out.
///
/// Order and completeness are checked here, so that a mistake fails the backup and not a restore.
#[derive(Debug, Clone, Default)]
pub struct IndexWriter {
    fences: Fences<IndexKey>,
    leaf: LeafWriter,
    key: Option<(IndexKey, u64)>,
    state: Grains,
    run: Option<Record>,
}

impl IndexWriter {
    /// An empty index.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next record ([`Record::Continue`] is this type's own business and is refused).
    ///
    /// # Errors
    /// When it is out of order or above a bound of the format, or the sink fails.
    pub fn push<S: NodeSink>(&mut self, sink: &mut S, record: Record) -> Result<(), S::Error> {
        if matches!(record, Record::Continue { .. }) {
            return Err(Error::Inconsistent { reason: "a record 'continue' from outside".to_owned() }.into());
        }
        if let Some(reason) = record.fault() {
            return Err(Error::Inconsistent { reason: format!("an index record: {reason}") }.into());
        }
        if self.joined(&record) {
            return Ok(());
        }
        self.flush_run(sink)?;
        match record {
            Record::Grains { .. } | Record::Zeros { .. } => {
                self.run = Some(record);
                Ok(())
            }
            other => self.write(sink, &other),
        }
    }

    /// Appends a run of grains to the one before it where they touch.
    fn joined(&mut self, record: &Record) -> bool {
        match (&mut self.run, record) {
            (Some(Record::Grains { hashes: run, .. }), Record::Grains { gap: 0, hashes })
                if run.len() + hashes.len() <= MAX_RUN =>
            {
                run.extend_from_slice(hashes);
                true
            }
            (Some(Record::Zeros { count: run, .. }), Record::Zeros { gap: 0, count }) => {
                *run = run.saturating_add(*count);
                true
            }
            _ => false,
        }
    }

    fn flush_run<S: NodeSink>(&mut self, sink: &mut S) -> Result<(), S::Error> {
        match self.run.take() {
            Some(run) => self.write(sink, &run),
            None => Ok(()),
        }
    }

    fn write<S: NodeSink>(&mut self, sink: &mut S, record: &Record) -> Result<(), S::Error> {
        if self.leaf.len() >= TARGET_NODE_BYTES {
            self.close_leaf(sink)?;
        }
        if self.leaf.is_empty() {
            self.begin_leaf(record)?;
        }
        self.state.apply(record)?;
        self.leaf.push(record);
        Ok(())
    }

    fn begin_leaf(&mut self, record: &Record) -> Result<()> {
        let key = match record.path() {
            Some(path) => IndexKey { path: path.clone(), grain: 0 },
            None => {
                let (path, grain) = self.state.place()?;
                self.leaf.push(&Record::Continue { path: path.clone(), grain });
                IndexKey { path, grain }
            }
        };
        self.key = Some((key, self.state.stream));
        Ok(())
    }

    fn close_leaf<S: NodeSink>(&mut self, sink: &mut S) -> Result<(), S::Error> {
        match self.key.take() {
            Some((key, stream)) => {
                let raw = self.leaf.take();
                self.fences.add_leaf(sink, key, stream, &raw)
            }
            None => Ok(()),
        }
    }

    /// Closes all nodes. Gives the root (`None` for an index without records) and the length of the stream in bytes.
    ///
    /// # Errors
    /// When a file has no end, or the sink fails.
    pub fn finish<S: NodeSink>(mut self, sink: &mut S) -> Result<(Option<Root>, u64), S::Error> {
        self.flush_run(sink)?;
        self.close_leaf(sink)?;
        let stream = self.state.finish()?;
        Ok((self.fences.finish(sink)?, stream))
    }
}

/// A record with its place: which grain it begins with, and where its bytes begin in the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// The record; never a [`Record::Continue`].
    pub record: Record,
    /// The first grain of [`Record::Grains`] and [`Record::Zeros`], counted in the file.
    pub grain: u64,
    /// The place in the stream of the first byte of [`Record::Grains`].
    pub stream: u64,
}

/// Reads an index from first to last: the bytes of one leaf and one record of it in memory.
#[derive(Debug)]
pub struct IndexCursor {
    walk: Walk<IndexKey>,
    /// What the leaf before began with.
    last: Option<IndexKey>,
    leaf: Vec<u8>,
    place: LeafPlace,
    state: Grains,
}

impl IndexCursor {
    /// Begins at the first record below `root`.
    pub fn new(root: Option<Root>) -> Self {
        Self {
            walk: Walk::new(root),
            last: None,
            leaf: Vec::new(),
            place: LeafPlace::default(),
            state: Grains::default(),
        }
    }

    /// The next record; `None` at the end.
    ///
    /// # Errors
    /// When the index is damaged, or the source fails. There is no going on after that.
    pub fn next_record<S: NodeSource>(&mut self, source: &mut S) -> Result<Option<Placed>, S::Error> {
        loop {
            let Some(record) = self.read()? else {
                if self.next_leaf(source)? {
                    continue;
                }
                self.state.finish()?;
                return Ok(None);
            };
            let (grain, stream) = self.state.apply(&record)?;
            if !matches!(record, Record::Continue { .. }) {
                return Ok(Some(Placed { record, grain, stream }));
            }
        }
    }

    /// The next record of this leaf. They are decoded one by one: all at once can take a thousand times the leaf's size.
    fn read(&mut self) -> Result<Option<Record>> {
        let mut reader = LeafReader::resume(&self.leaf, std::mem::take(&mut self.place));
        let record = reader.next_record()?;
        self.place = reader.pause();
        Ok(record)
    }

    fn next_leaf<S: NodeSource>(&mut self, source: &mut S) -> Result<bool, S::Error> {
        let Some((raw, claim)) = self.walk.next_leaf(source)? else { return Ok(false) };
        let damaged = |reason| Error::Damaged { what: "index leaf", at: 0, reason };
        let first = match LeafReader::new(&raw)?.next_record()? {
            Some(Record::Continue { path, grain }) => Some((path, grain)),
            Some(record) => record.path().map(|path| (path.clone(), 0)),
            None => None,
        };
        let Some((path, grain)) = first else { return Err(damaged("it does not begin with a path").into()) };
        let begin = IndexKey { path, grain };
        if claim.is_some_and(|(key, stream)| key != begin || stream != self.state.stream) {
            return Err(damaged("it begins elsewhere than its fence says").into());
        }
        // No leaf can be given twice, so every walk ends.
        if self.last.as_ref().is_some_and(|last| *last >= begin) {
            return Err(damaged("it does not come after the leaf before").into());
        }
        self.last = Some(begin);
        (self.leaf, self.place) = (raw, LeafPlace::default());
        Ok(true)
    }
}

/// What must hold from record to record: order, and where grains lie in their file and in the stream.
#[derive(Debug, Clone, Default)]
struct Grains {
    last: Option<RelPath>,
    after_link: bool,
    open: Option<(FileRecord, u64)>,
    stream: u64,
}

impl Grains {
    /// Checks a record and gives its first grain and place in the stream.
    fn apply(&mut self, record: &Record) -> Result<(u64, u64)> {
        let stream = self.stream;
        let after_link = std::mem::replace(&mut self.after_link, matches!(record, Record::Link { .. }));
        match record {
            Record::Grains { gap, hashes } => {
                let (first, end, size) = self.advance(*gap, hashes.len() as u64)?;
                self.stream += (end * GRAIN as u64).min(size) - first * GRAIN as u64;
                Ok((first, stream))
            }
            Record::Zeros { gap, count } => {
                let (first, ..) = self.advance(*gap, *count)?;
                Ok((first, stream))
            }
            Record::Continue { path, grain } => match &self.open {
                Some((file, at)) if file.path == *path && at == grain => Ok((*at, stream)),
                _ => Err(inconsistent("a leaf goes on with another file", path)),
            },
            Record::End(end) => match self.open.take() {
                Some((file, _)) if end.size > file.size => {
                    Err(inconsistent("a file ends behind its size", &file.path))
                }
                Some(_) => Ok((0, stream)),
                None => Err(Error::Inconsistent { reason: "an end without a file in the index".to_owned() }),
            },
            Record::File(file) => {
                self.in_order(&file.path, after_link)?;
                self.open = Some((file.clone(), 0));
                Ok((0, stream))
            }
            Record::Directory { path, .. } => {
                self.in_order(path, after_link)?;
                Ok((0, stream))
            }
            Record::Link { path, .. } | Record::Removed { path } => {
                self.in_order(path, false)?;
                Ok((0, stream))
            }
            Record::Kept(file) => {
                self.in_order(&file.path, after_link)?;
                Ok((0, stream))
            }
        }
    }

    /// Paths grow; what a link leads to has the link's own path and follows it.
    fn in_order(&mut self, path: &RelPath, after_link: bool) -> Result<()> {
        if let Some((file, _)) = &self.open {
            return Err(inconsistent("a file in the index has no end", &file.path));
        }
        if self.last.as_ref().is_some_and(|last| last > path || (last == path && !after_link)) {
            return Err(inconsistent("the index is out of order", path));
        }
        self.last = Some(path.clone());
        Ok(())
    }

    /// Moves over `gap` and then `count` grains: first of them, first behind them, size of the file.
    fn advance(&mut self, gap: u64, count: u64) -> Result<(u64, u64, u64)> {
        let Some((file, at)) = &mut self.open else {
            return Err(Error::Inconsistent { reason: "grains without a file in the index".to_owned() });
        };
        let first = at.checked_add(gap);
        let end = first.and_then(|f| f.checked_add(count));
        match (first, end) {
            (Some(first), Some(end)) if end <= file.size.div_ceil(GRAIN as u64) => {
                *at = end;
                Ok((first, end, file.size))
            }
            _ => Err(inconsistent("a file in the index has more grains than its size", &file.path)),
        }
    }

    fn place(&self) -> Result<(RelPath, u64)> {
        let open = self.open.as_ref().map(|(file, at)| (file.path.clone(), *at));
        open.ok_or_else(|| Error::Inconsistent { reason: "grains without a file in the index".to_owned() })
    }

    fn finish(&self) -> Result<u64> {
        match &self.open {
            Some((file, _)) => Err(inconsistent("a file in the index has no end", &file.path)),
            None => Ok(self.stream),
        }
    }
}

fn inconsistent(rule: &str, path: &RelPath) -> Error {
    Error::Inconsistent { reason: format!("{rule}: {path}") }
}

#[cfg(test)]
mod tests;
