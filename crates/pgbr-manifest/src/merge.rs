//! Merging: what the layers of a chain say together, as one stream of entries in index order.
//!
//! Sources are given newest first. At each path the newest one that says anything decides what the entry is; a file that is not
//! `whole` takes the grains that it does not list from older sources, down to the first that is. One leaf of each source is in memory:
//! the cost grows with the length of the chain, never with files or pages.

use crate::diff::{grains_of, shared_grains};
use crate::error::{Error, Result};
use crate::hash::{GRAIN, ZERO_GRAIN};
use crate::index::{Fields, FileRecord, IndexCursor, Meta, NodeSource, Placed, Record, Root};
use crate::path::RelPath;

/// One step through the resolved list. The items of a file stand in a row: the file, its grains from first to last, its end.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "whoever restores or compares must decide for each")]
pub enum Item {
    /// A directory.
    Directory {
        /// Its place in the backup.
        path: RelPath,
        /// Rights and owner.
        meta: Meta,
    },
    /// A symbolic link. The next item has the same path and is what it leads to.
    Link {
        /// Its place in the backup.
        path: RelPath,
        /// Owner.
        meta: Meta,
        /// What it points to.
        target: Vec<u8>,
    },
    /// A file begins.
    File(FileRecord),
    /// Grains that a source holds.
    Grains {
        /// Which source, counted from the newest, 0.
        source: usize,
        /// The first of them, counted in the file.
        grain: u64,
        /// Where the first lies in the stream of that source, in bytes.
        stream: u64,
        /// Their hashes.
        hashes: Vec<u64>,
    },
    /// Grains of zeros.
    Zeros {
        /// The first of them.
        grain: u64,
        /// How many.
        count: u64,
    },
    /// Grains that no source has. Only an unfinished run leaves such; in a backup that was committed they mean damage.
    Absent {
        /// The first of them.
        grain: u64,
        /// How many.
        count: u64,
    },
    /// The file ends.
    End(Fields),
}

/// The layers of a chain as one stream.
#[derive(Debug)]
pub struct Merge<S> {
    sources: Vec<Source<S>>,
    begun: bool,
    /// Where a link was given and what it leads to is due from the same source.
    linked: Option<RelPath>,
    file: Option<Open>,
}

#[derive(Debug)]
struct Source<S> {
    nodes: S,
    cursor: IndexCursor,
    head: Option<Placed>,
    /// The last path that it says is gone: it hides what older sources have there and below.
    removed: Option<RelPath>,
    /// Whether the control file is one of those below: it comes last, when other paths were said to be gone.
    control_removed: bool,
    /// The same of the segments in `pg_wal`.
    wal_removed: bool,
}

/// The file that is being given.
#[derive(Debug)]
struct Open {
    path: RelPath,
    /// How many grains it has.
    grains: u64,
    at: u64,
    /// The sources of its content, newest first.
    parts: Vec<Part>,
}

/// What one source has of the open file.
#[derive(Debug)]
struct Part {
    source: usize,
    /// Grains from here on are not those of the resolved file: it was shorter, or ended inside one.
    clip: u64,
    run: Option<Run>,
    end: Option<Fields>,
}

#[derive(Debug)]
struct Run {
    start: u64,
    end: u64,
    stream: u64,
    /// Empty for zeros.
    hashes: Vec<u64>,
}

impl<S: NodeSource> Source<S> {
    fn advance(&mut self) -> Result<(), S::Error> {
        self.head = self.cursor.next_record(&mut self.nodes)?;
        Ok(())
    }

    fn path(&self) -> Option<&RelPath> {
        self.head.as_ref().and_then(|placed| placed.record.path())
    }

    /// Passes over the rest of an open file.
    fn finish_file(&mut self) -> Result<Fields, S::Error> {
        loop {
            match self.cursor.next_record(&mut self.nodes)? {
                Some(Placed { record: Record::End(end), .. }) => {
                    self.advance()?;
                    return Ok(end);
                }
                Some(Placed { record: Record::Grains { .. } | Record::Zeros { .. }, .. }) => {}
                _ => return Err(inconsistent("a file in the index has no end").into()),
            }
        }
    }

    /// Passes over all that it says of `path`.
    fn skip(&mut self, path: &RelPath) -> Result<(), S::Error> {
        while self.path() == Some(path) {
            match self.head.take().map(|placed| placed.record) {
                Some(Record::File(_)) => drop(self.finish_file()?),
                Some(Record::Removed { path }) => self.remove(path)?,
                _ => self.advance()?,
            }
        }
        Ok(())
    }

    /// Takes note that `path` is gone.
    fn remove(&mut self, path: RelPath) -> Result<(), S::Error> {
        self.control_removed |= path.holds_pg_control();
        self.wal_removed |= path.holds_pg_wal();
        if !self.hides(&path) {
            self.removed = Some(path);
        }
        self.advance()
    }

    /// Whether it says that `path` is gone, or something above.
    fn hides(&self, path: &RelPath) -> bool {
        (self.control_removed && path.is_pg_control())
            || (self.wal_removed && path.is_wal_segment())
            || self.removed.as_ref().is_some_and(|removed| path.is_within(removed))
    }
}

impl<S: NodeSource> Merge<S> {
    /// Merges sources, newest first: the top of each index, and what gives its nodes.
    pub fn new(sources: impl IntoIterator<Item = (Option<Root>, S)>) -> Self {
        let source = |(root, nodes)| {
            let cursor = IndexCursor::new(root);
            Source { nodes, cursor, head: None, removed: None, control_removed: false, wal_removed: false }
        };
        Self { sources: sources.into_iter().map(source).collect(), begun: false, linked: None, file: None }
    }

    /// The next item; `None` at the end.
    ///
    /// # Errors
    /// When an index is damaged, when sources contradict each other, or when one fails. There is no going on after that.
    pub fn next_item(&mut self) -> Result<Option<Item>, S::Error> {
        if self.file.is_some() {
            return self.next_of_file().map(Some);
        }
        if !std::mem::replace(&mut self.begun, true) {
            self.sources.iter_mut().try_for_each(Source::advance)?;
        }
        loop {
            let path = match self.linked.take() {
                Some(path) => path,
                None => match self.sources.iter().filter_map(Source::path).min() {
                    Some(path) => path.clone(),
                    None => return Ok(None),
                },
            };
            if let Some(item) = self.entry(&path)? {
                return Ok(Some(item));
            }
        }
    }

    /// Passes over the rest of the open file. Gives its end.
    ///
    /// # Errors
    /// As [`Merge::next_item`]; when no file is open.
    pub fn finish_file(&mut self) -> Result<Fields, S::Error> {
        let Some(open) = self.file.take() else {
            return Err(inconsistent("an end was asked for without a file").into());
        };
        let mut end = None;
        for part in open.parts {
            let own = match (part.end, self.sources.get_mut(part.source)) {
                (Some(end), _) => end,
                (None, Some(source)) => source.finish_file()?,
                (None, None) => continue,
            };
            end = end.or(Some(own));
        }
        end.ok_or_else(|| lacking(&open.path).into())
    }

    /// What the newest source with a say says of `path`; none where it is gone.
    fn entry(&mut self, path: &RelPath) -> Result<Option<Item>, S::Error> {
        let mut found: Option<Item> = None;
        let (mut hidden, mut parts, mut open) = (false, Vec::new(), true);
        let mut sizes: Option<(u64, u64)> = None;
        for number in 0..self.sources.len() {
            let Some(source) = self.sources.get_mut(number) else { break };
            if found.is_some() && matches!(source.head.as_ref().map(|h| &h.record), Some(Record::Link { .. }))
            {
                // The newer entry is none.
                if source.path() == Some(path) {
                    source.advance()?;
                }
            }
            if source.path() == Some(path) && !hidden && open {
                match source.head.take().map(|placed| placed.record) {
                    Some(Record::Link { path, meta, target }) => {
                        source.advance()?;
                        if source.path() == Some(&path) {
                            self.linked = Some(path.clone());
                            return Ok(Some(Item::Link { path, meta, target }));
                        }
                        // What it led to vanished while the backup was made.
                        open = false;
                        found = Some(Item::Link { path, meta, target });
                    }
                    Some(Record::Directory { path, meta }) => {
                        source.advance()?;
                        open = false;
                        found = found.or(Some(Item::Directory { path, meta }));
                    }
                    Some(Record::File(file)) => {
                        let clip = clip(&mut sizes, file.size);
                        parts.push(Part { source: number, clip, run: None, end: None });
                        open = !file.flags.whole;
                        found = found.or(Some(Item::File(file)));
                    }
                    Some(Record::Kept(file)) => {
                        source.advance()?;
                        clip(&mut sizes, file.size);
                        found = found.or(Some(Item::File(file)));
                    }
                    Some(Record::Removed { path }) => source.remove(path)?,
                    _ => return Err(inconsistent("an entry without a path").into()),
                }
            } else {
                source.skip(path)?;
            }
            hidden |= source.hides(path);
        }
        if let Some(Item::File(file)) = &mut found {
            if parts.is_empty() {
                return Err(lacking(path).into());
            }
            file.flags.whole = true;
            let grains = grains_of(file.size);
            self.file = Some(Open { path: path.clone(), grains, at: 0, parts });
        }
        Ok(found)
    }

    fn next_of_file(&mut self) -> Result<Item, S::Error> {
        let Some(open) = &mut self.file else { return Err(inconsistent("no file is open").into()) };
        let at = open.at;
        if at >= open.grains {
            return self.finish_file().map(Item::End);
        }
        let mut limit = open.grains;
        for part in &mut open.parts {
            let Some(source) = self.sources.get_mut(part.source) else { continue };
            part.reach(source, at)?;
            let Some(run) = &mut part.run else { continue };
            if at >= part.clip {
                continue;
            }
            if run.start > at {
                limit = limit.min(run.start);
                continue;
            }
            let end = run.end.min(limit).min(part.clip);
            open.at = end;
            return Ok(run.cut(part.source, at, end));
        }
        open.at = limit;
        Ok(Item::Absent { grain: at, count: limit - at })
    }
}

impl Part {
    /// Moves to the run that holds grain `at`, or the first one behind it.
    fn reach<S: NodeSource>(&mut self, source: &mut Source<S>, at: u64) -> Result<(), S::Error> {
        while self.end.is_none() && self.run.as_ref().is_none_or(|run| run.end <= at) {
            let Some(Placed { record, grain, stream }) = source.cursor.next_record(&mut source.nodes)? else {
                return Err(inconsistent("a file in the index has no end").into());
            };
            self.run = match record {
                Record::Grains { hashes, .. } => {
                    Some(Run { start: grain, end: grain + hashes.len() as u64, stream, hashes })
                }
                Record::Zeros { count, .. } => {
                    Some(Run { start: grain, end: grain + count, stream, hashes: Vec::new() })
                }
                Record::End(end) => {
                    self.end = Some(end);
                    source.advance()?;
                    None
                }
                _ => return Err(inconsistent("a file in the index has no end").into()),
            };
        }
        Ok(())
    }
}

impl Run {
    /// The part from grain `at` up to `end`.
    fn cut(&mut self, source: usize, at: u64, end: u64) -> Item {
        if self.hashes.is_empty() {
            return Item::Zeros { grain: at, count: end - at };
        }
        let skip = at - self.start;
        let stream = self.stream + skip * GRAIN as u64;
        let index = |grain: u64| usize::try_from(grain).unwrap_or(usize::MAX);
        let hashes = match (skip, end == self.end) {
            // Nothing of it is needed again.
            (0, true) => {
                (self.start, self.stream) = (end, stream);
                std::mem::take(&mut self.hashes)
            }
            _ => self.hashes.get(index(skip)..index(end - self.start)).unwrap_or_default().to_vec(),
        };
        Item::Grains { source, grain: at, stream, hashes }
    }
}

/// The first grain that is not to be taken from a source whose file has `size` bytes: where sizes differ, only grains that are whole in
/// all newer ones are the same grains.
fn clip(sizes: &mut Option<(u64, u64)>, size: u64) -> u64 {
    let clip = match *sizes {
        None => grains_of(size),
        Some((last, clip)) => clip.min(shared_grains(last, size)),
    };
    *sizes = Some((size, clip));
    clip
}

fn inconsistent(reason: impl Into<String>) -> Error {
    Error::Inconsistent { reason: reason.into() }
}

fn lacking(path: &RelPath) -> Error {
    inconsistent(format!("'{path}' takes its content from an older backup, which does not have it"))
}

/// Hashes of a file's grains as a reader knows them: `None` where nobody has the grain.
pub type Known = Vec<Option<u64>>;

/// Walks the resolved list side by side with another list in the same order, as a scan.
#[derive(Debug)]
pub struct MergeReader<S> {
    merge: Merge<S>,
    next: Option<Item>,
    begun: bool,
    /// What is left of the last run of the open file.
    rest: Known,
    rest_at: usize,
    /// Whether that run is of one of the newest sources.
    rest_recent: bool,
    /// How many of the newest sources are told apart, and which grains of the last answer were theirs.
    newest: usize,
    recent: Vec<bool>,
}

/// What the list has at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "whoever compares must decide for each")]
pub enum Entry {
    /// A directory.
    Directory(Meta),
    /// A link; what it leads to is the next entry of the same path.
    Link {
        /// Owner.
        meta: Meta,
        /// What it points to.
        target: Vec<u8>,
    },
    /// A file: [`MergeReader::grains`] and [`MergeReader::end`] may follow. What is not asked for before another path is passed over.
    File(FileRecord),
}

impl<S: NodeSource> MergeReader<S> {
    /// Begins at the first entry.
    pub const fn new(merge: Merge<S>) -> Self {
        Self {
            merge,
            next: None,
            begun: false,
            rest: Vec::new(),
            rest_at: 0,
            rest_recent: false,
            newest: 0,
            recent: Vec::new(),
        }
    }

    /// Tells apart what the `newest` sources have: see [`MergeReader::take_recent`].
    #[must_use]
    pub fn telling_newest(self, newest: usize) -> Self {
        Self { newest, ..self }
    }

    /// For each grain of the last answer of [`MergeReader::grains`], whether one of the newest sources holds it; empty where they are not
    /// told apart.
    pub fn take_recent(&mut self) -> Vec<bool> {
        std::mem::take(&mut self.recent)
    }

    /// Passes over the rest of the file that was taken last, where it is gone on to another path.
    fn leave_file(&mut self, path: Option<&RelPath>) -> Result<(), S::Error> {
        let open = self.merge.file.as_ref().filter(|_| self.next.is_none());
        if open.is_some_and(|open| Some(&open.path) != path) {
            self.end()?;
        }
        Ok(())
    }

    fn peek(&mut self) -> Result<Option<&RelPath>, S::Error> {
        if !std::mem::replace(&mut self.begun, true) {
            self.next = self.merge.next_item()?;
        }
        Ok(match &self.next {
            Some(Item::Directory { path, .. } | Item::Link { path, .. }) => Some(path),
            Some(Item::File(file)) => Some(&file.path),
            _ => None,
        })
    }

    /// The path of the next entry, if it comes before `path` (or at all, with `None`): the entry is passed over.
    ///
    /// # Errors
    /// As [`Merge::next_item`].
    pub fn pass_before(&mut self, path: Option<&RelPath>) -> Result<Option<RelPath>, S::Error> {
        self.leave_file(path)?;
        let Some(next) = self.peek()? else { return Ok(None) };
        if path.is_some_and(|path| next >= path) {
            return Ok(None);
        }
        let passed = next.clone();
        if matches!(self.next, Some(Item::File(_))) {
            self.merge.finish_file()?;
        }
        self.next = self.merge.next_item()?;
        Ok(Some(passed))
    }

    /// Takes the next entry if it is at `path`.
    ///
    /// # Errors
    /// As [`Merge::next_item`].
    pub fn take(&mut self, path: &RelPath) -> Result<Option<Entry>, S::Error> {
        self.leave_file(Some(path))?;
        if self.peek()? != Some(path) {
            return Ok(None);
        }
        let entry = match self.next.take() {
            Some(Item::Directory { meta, .. }) => Entry::Directory(meta),
            Some(Item::Link { meta, target, .. }) => Entry::Link { meta, target },
            Some(Item::File(file)) => {
                (self.rest, self.rest_at) = (Vec::new(), 0);
                return Ok(Some(Entry::File(file)));
            }
            _ => return Ok(None),
        };
        self.next = self.merge.next_item()?;
        Ok(Some(entry))
    }

    /// The hashes of the next `count` grains of the file that was taken last, fewer at its end.
    ///
    /// # Errors
    /// As [`Merge::next_item`].
    pub fn grains(&mut self, count: usize) -> Result<Known, S::Error> {
        let mut known = Vec::with_capacity(count);
        self.recent.clear();
        while known.len() < count {
            if let Some(hash) = self.rest.get(self.rest_at) {
                known.push(*hash);
                self.rest_at += 1;
                if self.newest > 0 {
                    self.recent.push(self.rest_recent);
                }
                continue;
            }
            let same = |hash, count: u64, room: usize| {
                let taken = usize::try_from(count).unwrap_or(usize::MAX).min(room);
                (vec![hash; taken], count - taken as u64)
            };
            if self.merge.file.as_ref().is_none_or(|open| open.at >= open.grains) {
                break;
            }
            self.rest_at = 0;
            let item = self.merge.next_item()?;
            self.rest_recent = matches!(&item, Some(Item::Grains { source, .. }) if *source < self.newest);
            self.rest = match item {
                Some(Item::Grains { hashes, .. }) => hashes.into_iter().map(Some).collect(),
                Some(Item::Zeros { count: zeros, .. }) => self.part(same(Some(ZERO_GRAIN), zeros, RUN)),
                Some(Item::Absent { count: absent, .. }) => self.part(same(None, absent, RUN)),
                _ => break,
            };
        }
        Ok(known)
    }

    /// Gives back what was not taken of a long run without content.
    fn part(&mut self, (known, left): (Known, u64)) -> Known {
        if let Some(open) = &mut self.merge.file {
            open.at -= left;
        }
        known
    }

    /// The source whose end the file that was taken last has, counted from the newest, 0: the newest that has any of its content.
    pub fn source(&self) -> Option<usize> {
        Some(self.merge.file.as_ref()?.parts.first()?.source)
    }

    /// Passes over the rest of the file that was taken last. Gives its end.
    ///
    /// # Errors
    /// As [`Merge::next_item`].
    pub fn end(&mut self) -> Result<Fields, S::Error> {
        (self.rest, self.rest_at) = (Vec::new(), 0);
        let end = self.merge.finish_file()?;
        self.next = self.merge.next_item()?;
        Ok(end)
    }
}

/// How many grains without content are looked at together: runs of them can be as long as a file.
const RUN: usize = 4096;

#[cfg(test)]
mod tests;
