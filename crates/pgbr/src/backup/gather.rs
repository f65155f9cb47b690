//! The one ordered step of a backup: runs of grains in index order become records, and frames of the stream.

use std::sync::Arc;

use pgbr_manifest::diff::{EntryWriter, Outcome, ParentFile, Written};
use pgbr_manifest::index::{BadPages, Fields, FileRecord, Meta, Record};
use pgbr_manifest::manifest::Link;
use pgbr_manifest::merge::Known;
use pgbr_manifest::{GRAIN, HashKey, RelPath};

use crate::error::{Error, Result};
use crate::packs::IndexPacks;
use crate::run::FrameRow;

/// A frame that is not full is closed early where a whole run can then become a frame without being copied; not below this size.
const EARLY: usize = 256 << 10;
/// A frame is closed when what says whose grains it holds has about this many bytes: very small files make more of that than of content, and
/// it has to fit into a pack.
const MAX_ROW_BYTES: usize = 256 << 10;
/// What a row takes at most, but for its names and hashes.
const ROW_BYTES: usize = 96;
/// The most links of a data directory: their list stands in the manifest.
const MAX_LINKS: usize = 1000;
/// The most ranges of bad pages that are kept for one file.
const MAX_BAD_RANGES: usize = 1024;

/// A frame before it is compressed.
#[derive(Debug)]
pub(crate) struct RawFrame {
    /// Its number in the lane.
    pub(crate) number: u64,
    /// The grains, one after the other; none where they are the very bytes of the run that was handed in last.
    pub(crate) raw: Option<Vec<u8>>,
    /// What they are.
    pub(crate) rows: Vec<FrameRow>,
}

/// Numbers of the whole backup.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Totals {
    /// Bytes of all files.
    pub(crate) bytes: u64,
    /// Files, directories and links.
    pub(crate) entries: u64,
    /// Regular files.
    pub(crate) files: u64,
    /// Pages with a wrong checksum.
    pub(crate) bad_pages: u64,
    /// Bytes of the files that are new or whose content has changed.
    pub(crate) changed: u64,
    /// How many those are.
    pub(crate) changed_files: u64,
    /// Files that were not even opened.
    pub(crate) unread: u64,
    /// Bytes of files that a broken run had stored and that were not stored again.
    pub(crate) reused: u64,
}

/// Takes runs in order.
pub(crate) struct Gather {
    entries: EntryWriter,
    limit: usize,
    /// The number of the next frame.
    number: u64,
    /// What is in it.
    raw: Vec<u8>,
    rows: Vec<FrameRow>,
    /// About how many bytes the rows take.
    row_bytes: usize,
    file: Option<OpenFile>,
    links: Vec<Link>,
    /// Mode and owner of `pg_wal`, once it was there.
    wal_directory: Option<Meta>,
    pub(crate) totals: Totals,
}

struct OpenFile {
    record: Arc<FileRecord>,
    bad: BadPages,
    /// Whether its record is written even where the parent has it just so.
    forced: bool,
}

/// What the parent has in the places of a run of grains.
#[derive(Debug, Default)]
pub(crate) struct Expected {
    /// The hashes.
    pub(crate) known: Known,
    /// Whether they are of a broken run that was taken up; empty where none was.
    pub(crate) recent: Vec<bool>,
}

impl Expected {
    /// The part from grain `start` on, `count` long or less.
    pub(crate) fn part(&self, start: usize, count: usize) -> Self {
        Self {
            known: self.known.iter().skip(start).take(count).copied().collect(),
            recent: self.recent.iter().skip(start).take(count).copied().collect(),
        }
    }

    /// How many grains of a broken run are those of the file as it is now.
    fn reused(&self, hashes: &[u64]) -> u64 {
        let right = self.known.iter().zip(hashes).map(|(known, hash)| *known == Some(*hash));
        right.zip(&self.recent).filter(|(right, recent)| *right && **recent).count() as u64
    }
}

impl Gather {
    /// Frames have up to `limit` bytes.
    pub(crate) fn new(key: HashKey, limit: usize) -> Self {
        Self {
            entries: EntryWriter::new(key),
            limit,
            number: 0,
            raw: Vec::new(),
            rows: Vec::new(),
            row_bytes: 0,
            file: None,
            links: Vec::new(),
            wal_directory: None,
            totals: Totals::default(),
        }
    }

    /// What the parent has there is gone.
    pub(crate) fn removed(&mut self, packs: &mut IndexPacks, path: RelPath) -> Result<()> {
        self.entries.removed(packs, path)
    }

    /// A directory or a link; `same` where the parent has it just so and it need not be written.
    pub(crate) fn entry(&mut self, packs: &mut IndexPacks, record: Record, same: bool) -> Result<()> {
        self.totals.entries += 1;
        match record {
            Record::Directory { path, meta } => {
                if path.as_bytes() == RelPath::PG_WAL.as_bytes() {
                    self.wal_directory = Some(meta.clone());
                }
                self.entries.directory(packs, path, meta, same)
            }
            Record::Link { path, meta, target } => {
                let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                if self.links.len() >= MAX_LINKS {
                    return Err(Error::Unfit {
                        reason: format!("its data directory has more than {MAX_LINKS} links"),
                    });
                }
                let name = text(path.strip("pg_data").unwrap_or_else(|| path.as_bytes()));
                self.links.push(Link { name, destination: text(&target) });
                self.entries.link(packs, path, meta, target)
            }
            _ => Err(Error::Internal { what: "an entry is a directory or a link" }),
        }
    }

    /// What a file in `pg_wal` has for mode and owner; none where there is no such directory.
    pub(crate) fn wal_meta(&self) -> Option<Meta> {
        self.wal_directory.clone().map(|meta| Meta { mode: meta.mode & 0o660, ..meta })
    }

    /// A file that was not read: it is the parent's.
    pub(crate) fn unread(
        &mut self,
        packs: &mut IndexPacks,
        record: FileRecord,
        end: &Fields,
        forced: bool,
    ) -> Result<()> {
        self.totals.entries += 1;
        self.totals.files += 1;
        self.totals.bytes += end.size;
        self.totals.bad_pages += end.bad_pages.total;
        self.totals.unread += 1;
        let path = record.path.clone();
        self.entries.unread(packs, &path, end, forced.then_some(record))
    }

    /// A file begins; its runs follow in order, then its end.
    pub(crate) fn begin(
        &mut self,
        packs: &mut IndexPacks,
        record: Arc<FileRecord>,
        parent: Option<ParentFile>,
        forced: bool,
    ) -> Result<()> {
        self.totals.entries += 1;
        self.totals.files += 1;
        self.entries.begin(packs, Arc::clone(&record), parent)?;
        self.file = Some(OpenFile { record, bad: BadPages::default(), forced });
        Ok(())
    }

    /// The next run of the open file, and what the parent has in its place. Gives finished frames to `emit`.
    pub(crate) fn run(
        &mut self,
        packs: &mut IndexPacks,
        bytes: &[u8],
        hashes: Vec<u64>,
        expected: &Expected,
        bad: &[u32],
        mut emit: impl FnMut(RawFrame),
    ) -> Result<()> {
        let Some(file) = &mut self.file else { return Err(Error::Internal { what: "a run without a file" }) };
        file.note_bad(bad);
        self.totals.bad_pages += bad.len() as u64;
        let record = Arc::clone(&file.record);
        self.totals.reused += expected.reused(&hashes) * GRAIN as u64;
        let (first, stored) = self.entries.run(packs, &hashes, &expected.known)?;
        let all = 0..hashes.len();
        let is_frame = bytes.len() == self.limit && stored.first() == Some(&all);
        if is_frame && (self.raw.len() >= EARLY || self.raw.is_empty()) {
            self.flush(&mut emit);
            let rows = vec![FrameRow { file: record, first, hashes }];
            emit(RawFrame { number: self.number, raw: None, rows });
            self.number += 1;
            return Ok(());
        }
        for stretch in stored {
            let at = first + stretch.start as u64;
            let bytes = &bytes[stretch.start * GRAIN..(stretch.end * GRAIN).min(bytes.len())];
            self.store(&record, at, bytes, &hashes[stretch], &mut emit);
        }
        Ok(())
    }

    /// Appends grains to the frame, closing it as it fills.
    fn store(
        &mut self,
        record: &Arc<FileRecord>,
        mut first: u64,
        mut bytes: &[u8],
        mut hashes: &[u64],
        emit: &mut impl FnMut(RawFrame),
    ) {
        while !hashes.is_empty() {
            let room = self.limit.saturating_sub(self.raw.len());
            let fit = if bytes.len() <= room { hashes.len() } else { room / GRAIN };
            if fit == 0 || self.row_bytes >= MAX_ROW_BYTES {
                self.flush(emit);
                continue;
            }
            let (now, later) = bytes.split_at((fit * GRAIN).min(bytes.len()));
            let (stored, rest) = hashes.split_at(fit);
            self.raw.extend_from_slice(now);
            match self.rows.last_mut() {
                Some(row)
                    if Arc::ptr_eq(&row.file, record) && row.first + row.hashes.len() as u64 == first =>
                {
                    row.hashes.extend_from_slice(stored);
                }
                _ => {
                    let meta = &record.meta;
                    self.row_bytes +=
                        ROW_BYTES + record.path.as_bytes().len() + meta.user.len() + meta.group.len();
                    let row = FrameRow { file: Arc::clone(record), first, hashes: stored.to_vec() };
                    self.rows.push(row);
                }
            }
            self.row_bytes += size_of_val(stored);
            first += fit as u64;
            (bytes, hashes) = (later, rest);
        }
    }

    fn flush(&mut self, emit: &mut impl FnMut(RawFrame)) {
        self.row_bytes = 0;
        if self.raw.is_empty() {
            return;
        }
        let raw = std::mem::replace(&mut self.raw, Vec::with_capacity(self.limit));
        emit(RawFrame { number: self.number, raw: Some(raw), rows: std::mem::take(&mut self.rows) });
        self.number += 1;
    }

    /// The open file ends; `size` is its true size, which is smaller than at first where it shrank. `parent` is the parent's end of it.
    pub(crate) fn end(
        &mut self,
        packs: &mut IndexPacks,
        size: u64,
        parent: Option<Fields>,
    ) -> Result<Outcome> {
        let Some(file) = self.file.take() else {
            return Err(Error::Internal { what: "an end without a file" });
        };
        if let Some(end) = parent {
            self.entries.parent_end(end);
        }
        let outcome = self.entries.end(packs, size, file.bad, file.forced)?;
        self.totals.bytes += size;
        if matches!(outcome, Outcome::New | Outcome::Changed) {
            self.totals.changed += size;
            self.totals.changed_files += 1;
        }
        Ok(outcome)
    }

    /// Closes the last frame; to be called before [`Gather::finish`], when frames can still be emitted.
    pub(crate) fn last_frame(&mut self, mut emit: impl FnMut(RawFrame)) {
        self.flush(&mut emit);
    }

    /// Closes the index.
    pub(crate) fn finish(self, packs: &mut IndexPacks) -> Result<Gathered> {
        let written = self.entries.finish(packs)?;
        Ok(Gathered { written, links: self.links, totals: self.totals })
    }
}

impl OpenFile {
    fn note_bad(&mut self, pages: &[u32]) {
        self.bad.total += pages.len() as u64;
        for page in pages {
            let page = u64::from(*page);
            let room = self.bad.ranges.len() < MAX_BAD_RANGES;
            match self.bad.ranges.last_mut() {
                Some((first, count)) if *first + *count == page => *count += 1,
                _ if room => self.bad.ranges.push((page, 1)),
                _ => {}
            }
        }
    }
}

/// What the whole index says.
pub(crate) struct Gathered {
    /// Index, stream and resolved list.
    pub(crate) written: Written,
    /// Links in the data directory.
    pub(crate) links: Vec<Link>,
    /// Totals.
    pub(crate) totals: Totals,
}
