//! Diff: what a backup's index says of each entry, given what its parent says: everything in a full, only what differs otherwise.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::hash::{Digest, FileDigester, GRAIN, HashKey, ListDigester, ZERO_GRAIN};
use crate::index::{BadPages, Fields, FileRecord, IndexWriter, Meta, NodeSink, Record, Root};
use crate::path::RelPath;

/// How much older than the beginning of the parent's copy a file's times must be for the file to be taken for unchanged, in nanoseconds.
const SAFE_AGE_NS: i64 = 2_000_000_000;

/// What to do about a file that the parent has, going by what the file system says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "whoever copies must decide for each")]
pub enum ReadPlan {
    /// It cannot have changed: it is not even opened.
    Skip,
    /// It is read and compared by content.
    Read,
    /// Its times cannot be explained; no file's times may be trusted in this run. The reason, for people.
    Distrust(&'static str),
}

/// Decides whether a file has to be read. `now` is what the file system says, `parent` the parent's record, `copy_start_ns` the moment
/// at which the parent began to copy, both on this host's clock (nanoseconds since 1970).
///
/// A file is skipped only when size, mtime, ctime and inode are those of the parent and were safely old when the parent looked at it:
/// a change at the very moment of the copy could bear the same time as an earlier one.
pub fn plan_read(parent: &FileRecord, now: &FileRecord, copy_start_ns: i64) -> ReadPlan {
    let same_times = parent.mtime_ns == now.mtime_ns && parent.ctime_ns == now.ctime_ns;
    let same_file = parent.inode == now.inode;
    if same_times && same_file && parent.size != now.size {
        return ReadPlan::Distrust("its size has changed and its times have not");
    }
    if same_file && now.ctime_ns < parent.ctime_ns {
        return ReadPlan::Distrust("it was changed last at an earlier time than the prior backup says");
    }
    let safe = copy_start_ns.saturating_sub(SAFE_AGE_NS);
    match same_times && same_file && now.mtime_ns < safe && now.ctime_ns < safe {
        true => ReadPlan::Skip,
        false => ReadPlan::Read,
    }
}

/// What the parent has of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "filled in by the caller; a new field has to be decided on")]
pub struct ParentFile {
    /// Its record.
    pub record: FileRecord,
    /// Its end; none where it is not known yet ([`EntryWriter::parent_end`]), or never will be: the parent is an unfinished run.
    pub end: Option<Fields>,
}

/// What became of a file that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "whoever counts must decide for each")]
pub enum Outcome {
    /// The parent does not have it: all of it is in this backup.
    New,
    /// Its content is not the parent's.
    Changed,
    /// Only its metadata is not the parent's.
    Touched,
    /// It is as in the parent, and takes no room.
    Same,
}

/// Grains that are to be stored: the first, counted in the run, and one behind the last.
pub type Stretch = std::ops::Range<usize>;

/// Writes the index of a backup, entry by entry in index order, and knows what the resolved list comes to.
#[derive(Debug)]
pub struct EntryWriter {
    key: HashKey,
    index: IndexWriter,
    list: ListDigester,
    file: Option<Open>,
}

#[derive(Debug)]
struct Open {
    record: Arc<FileRecord>,
    parent: Option<ParentFile>,
    digester: FileDigester,
    /// The next grain.
    at: u64,
    /// Grains passed over since the last record.
    gap: u64,
    /// Whether the record is in the index.
    written: bool,
}

impl EntryWriter {
    /// An empty index; `key` is the chain's.
    pub fn new(key: HashKey) -> Self {
        let list = ListDigester::new(&key);
        Self { key, index: IndexWriter::new(), list, file: None }
    }

    /// The parent's entry at `path`, and all below it, is gone.
    ///
    /// # Errors
    /// When it is out of order, or the sink fails; so for all that follow.
    pub fn removed<S: NodeSink>(&mut self, sink: &mut S, path: RelPath) -> Result<(), S::Error> {
        self.index.push(sink, Record::Removed { path })
    }

    /// A directory; `same` where the parent has it just so.
    ///
    /// # Errors
    /// As [`EntryWriter::removed`].
    pub fn directory<S: NodeSink>(
        &mut self,
        sink: &mut S,
        path: RelPath,
        meta: Meta,
        same: bool,
    ) -> Result<(), S::Error> {
        self.list.directory(path.as_bytes());
        if same { Ok(()) } else { self.index.push(sink, Record::Directory { path, meta }) }
    }

    /// A link. What it leads to follows and has to be written even where it is the parent's.
    ///
    /// # Errors
    /// As [`EntryWriter::removed`].
    pub fn link<S: NodeSink>(
        &mut self,
        sink: &mut S,
        path: RelPath,
        meta: Meta,
        target: Vec<u8>,
    ) -> Result<(), S::Error> {
        self.list.link(path.as_bytes(), &target);
        self.index.push(sink, Record::Link { path, meta, target })
    }

    /// A file that is taken from the parent unread; `kept` is its record where that has to be written.
    ///
    /// # Errors
    /// As [`EntryWriter::removed`].
    pub fn unread<S: NodeSink>(
        &mut self,
        sink: &mut S,
        path: &RelPath,
        end: &Fields,
        kept: Option<FileRecord>,
    ) -> Result<(), S::Error> {
        self.list.file(path.as_bytes(), end.size, end.digest);
        match kept {
            Some(record) => self.index.push(sink, Record::Kept(record)),
            None => Ok(()),
        }
    }

    /// A file begins; its runs follow in order, then its end.
    ///
    /// # Errors
    /// As [`EntryWriter::removed`].
    pub fn begin<S: NodeSink>(
        &mut self,
        sink: &mut S,
        record: Arc<FileRecord>,
        parent: Option<ParentFile>,
    ) -> Result<(), S::Error> {
        let digester = FileDigester::new(&self.key, record.size);
        let new = parent.is_none();
        self.file = Some(Open { record, parent, digester, at: 0, gap: 0, written: false });
        if new { self.write_record(sink) } else { Ok(()) }
    }

    /// The parent's end of the open file, for who learns it only when all grains were compared.
    pub fn parent_end(&mut self, end: Fields) {
        if let Some(parent) = self.file.as_mut().and_then(|open| open.parent.as_mut()) {
            parent.end = Some(end);
        }
    }

    fn open(&mut self) -> Result<&mut Open> {
        self.file.as_mut().ok_or_else(|| Error::Inconsistent { reason: "a run without a file".to_owned() })
    }

    fn write_record<S: NodeSink>(&mut self, sink: &mut S) -> Result<(), S::Error> {
        let open = self.open()?;
        if std::mem::replace(&mut open.written, true) {
            return Ok(());
        }
        let mut record = open.record.as_ref().clone();
        record.flags.whole = open.parent.is_none();
        self.index.push(sink, Record::File(record))
    }

    /// The next grains of the open file by their hashes, and what the parent has in their places (empty: nothing). Gives those that have
    /// to be stored, and the first of the run, counted in the file. A grain that a change of size went through is not the parent's, not
    /// even if both are zeros.
    ///
    /// # Errors
    /// As [`EntryWriter::removed`].
    pub fn run<S: NodeSink>(
        &mut self,
        sink: &mut S,
        hashes: &[u64],
        known: &[Option<u64>],
    ) -> Result<(u64, Vec<Stretch>), S::Error> {
        let open = self.open()?;
        let first = open.at;
        open.at += hashes.len() as u64;
        hashes.iter().for_each(|hash| open.digester.push(*hash));
        let shared =
            open.parent.as_ref().map_or(0, |parent| shared_grains(parent.record.size, open.record.size));
        let known = known.get(..index(shared.saturating_sub(first)).min(known.len())).unwrap_or_default();
        let kind = |n: usize| match (hashes.get(n), known.get(n).copied().flatten()) {
            (Some(hash), Some(old)) if *hash == old => Kind::Same,
            (Some(&ZERO_GRAIN), _) => Kind::Zero,
            _ => Kind::Stored,
        };
        let (mut stretches, mut at) = (Vec::new(), 0);
        while at < hashes.len() {
            let this = kind(at);
            let end = (at + 1..hashes.len()).find(|n| kind(*n) != this).unwrap_or(hashes.len());
            let count = (end - at) as u64;
            if this == Kind::Same {
                self.open()?.gap += count;
            } else {
                self.write_record(sink)?;
                let gap = std::mem::take(&mut self.open()?.gap);
                let record = match this {
                    Kind::Zero => Record::Zeros { gap, count },
                    _ => {
                        stretches.push(at..end);
                        Record::Grains { gap, hashes: hashes.get(at..end).unwrap_or_default().to_vec() }
                    }
                };
                self.index.push(sink, record)?;
            }
            at = end;
        }
        Ok((first, stretches))
    }

    /// The open file ends. `size` is its true size, which is smaller than at first where it shrank. `forced` writes its record even where
    /// the parent has it just so.
    ///
    /// # Errors
    /// As [`EntryWriter::removed`]; when a file without a changed grain does not come to the parent's digest.
    pub fn end<S: NodeSink>(
        &mut self,
        sink: &mut S,
        size: u64,
        bad_pages: BadPages,
        forced: bool,
    ) -> Result<Outcome, S::Error> {
        let Some(mut open) = self.file.take() else {
            return Err(Error::Inconsistent { reason: "an end without a file".to_owned() }.into());
        };
        let digest = open.digester.finish();
        self.list.file(open.record.path.as_bytes(), size, digest);
        let end = Fields { size, digest, bad_pages };
        let Some(parent) = open.parent.take() else {
            self.index.push(sink, Record::End(end))?;
            return Ok(Outcome::New);
        };
        let same_end = parent.end.as_ref() == Some(&end) && parent.record.size == open.record.size;
        if !open.written && same_end {
            let mut record = open.record.as_ref().clone();
            record.flags.whole = true;
            if !forced && parent.record == record {
                return Ok(Outcome::Same);
            }
            record.flags.whole = false;
            self.index.push(sink, Record::Kept(record))?;
            return Ok(Outcome::Touched);
        }
        let unlike = parent.end.as_ref().is_some_and(|old| {
            old.digest != digest && old.size == size && parent.record.size == open.record.size
        });
        if !open.written && unlike {
            let reason =
                format!("'{}' has the grains of its prior backup and not its digest", open.record.path);
            return Err(Error::Inconsistent { reason }.into());
        }
        if !open.written {
            let mut record = open.record.as_ref().clone();
            record.flags.whole = false;
            self.index.push(sink, Record::File(record))?;
        }
        self.index.push(sink, Record::End(end))?;
        Ok(Outcome::Changed)
    }

    /// Closes the index.
    ///
    /// # Errors
    /// When a file has no end, or the sink fails.
    pub fn finish<S: NodeSink>(self, sink: &mut S) -> Result<Written, S::Error> {
        let (index, stream) = self.index.finish(sink)?;
        let (entries, digest) = self.list.finish();
        Ok(Written { index, stream, entries, digest })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Same,
    Zero,
    Stored,
}

/// What a whole index says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Written {
    /// Top of the index.
    pub index: Option<Root>,
    /// Length of the stream in bytes.
    pub stream: u64,
    /// Entries of the resolved list.
    pub entries: u64,
    /// Digest of the resolved list.
    pub digest: Digest,
}

/// How many grains a file of `size` bytes has.
pub const fn grains_of(size: u64) -> u64 {
    size.div_ceil(GRAIN as u64)
}

/// How many grains, from the first on, two versions of a file can have in common by their sizes.
pub(crate) const fn shared_grains(old: u64, new: u64) -> u64 {
    if old == new {
        grains_of(old)
    } else if old < new {
        old / GRAIN as u64
    } else {
        new / GRAIN as u64
    }
}

fn index(grain: u64) -> usize {
    usize::try_from(grain).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
