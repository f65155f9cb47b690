//! The one ordered step of a backup: runs of grains in index order become records, and frames of the stream.

use std::sync::Arc;

use pgbr_manifest::index::{BadPages, Fields, FileRecord, IndexWriter, Record};
use pgbr_manifest::manifest::Link;
use pgbr_manifest::{FileDigester, GRAIN, HashKey, ListDigester, ZERO_GRAIN};

use crate::error::{Error, Result};
use crate::packs::IndexPacks;
use crate::run::FrameRow;

/// A frame that is not full is closed early where a whole run can then become a frame without being copied; not below this size.
const EARLY: usize = 256 << 10;
/// The most links of a data directory: their list stands in the manifest.
const MAX_LINKS: usize = 1000;
/// The most ranges of bad pages that are kept for one file.
const MAX_BAD_RANGES: usize = 1024;

/// A frame before it is compressed.
#[derive(Debug)]
pub(crate) struct RawFrame {
    /// Its number in the lane.
    pub(crate) number: u64,
    /// The grains, one after the other.
    pub(crate) raw: Vec<u8>,
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
}

/// Takes runs in order.
pub(crate) struct Gather {
    key: HashKey,
    index: IndexWriter,
    list: ListDigester,
    limit: usize,
    frame: RawFrame,
    file: Option<OpenFile>,
    links: Vec<Link>,
    pub(crate) totals: Totals,
}

struct OpenFile {
    record: Arc<FileRecord>,
    digester: FileDigester,
    bad: BadPages,
    at: u64,
}

impl Gather {
    /// Frames have up to `limit` bytes.
    pub(crate) fn new(key: HashKey, limit: usize) -> Self {
        let list = ListDigester::new(&key);
        let frame = RawFrame { number: 0, raw: Vec::new(), rows: Vec::new() };
        Self {
            key,
            index: IndexWriter::new(),
            list,
            limit,
            frame,
            file: None,
            links: Vec::new(),
            totals: Totals::default(),
        }
    }

    /// A directory or a link.
    pub(crate) fn entry(&mut self, packs: &mut IndexPacks, record: Record) -> Result<()> {
        match &record {
            Record::Directory { path, .. } => self.list.directory(path.as_bytes()),
            Record::Link { path, target, .. } => {
                self.list.link(path.as_bytes(), target);
                let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                if self.links.len() >= MAX_LINKS {
                    return Err(Error::Unfit {
                        reason: format!("its data directory has more than {MAX_LINKS} links"),
                    });
                }
                let name = text(path.strip("pg_data").unwrap_or_else(|| path.as_bytes()));
                self.links.push(Link { name, destination: text(target) });
            }
            _ => return Err(Error::Internal { what: "an entry is a directory or a link" }),
        }
        self.totals.entries += 1;
        self.index.push(packs, record)
    }

    /// A file begins; its runs follow in order, then its end.
    pub(crate) fn begin(&mut self, packs: &mut IndexPacks, record: Arc<FileRecord>) -> Result<()> {
        self.totals.entries += 1;
        self.totals.files += 1;
        self.index.push(packs, Record::File(record.as_ref().clone()))?;
        let digester = FileDigester::new(&self.key, record.size);
        self.file = Some(OpenFile { record, digester, bad: BadPages::default(), at: 0 });
        Ok(())
    }

    /// The next run of the open file. Gives finished frames to `emit`, and the buffer back where it is no longer needed.
    pub(crate) fn run(
        &mut self,
        packs: &mut IndexPacks,
        buffer: Vec<u8>,
        hashes: Vec<u64>,
        bad: &[u32],
        mut emit: impl FnMut(RawFrame),
    ) -> Result<Option<Vec<u8>>> {
        let Some(file) = &mut self.file else { return Err(Error::Internal { what: "a run without a file" }) };
        let first = file.at;
        file.at += hashes.len() as u64;
        hashes.iter().for_each(|h| file.digester.push(*h));
        file.note_bad(bad);
        self.totals.bad_pages += bad.len() as u64;
        let record = Arc::clone(&file.record);
        let is_frame = !hashes.is_empty() && buffer.len() == self.limit && !hashes.contains(&ZERO_GRAIN);
        if is_frame && (self.frame.raw.len() >= EARLY || self.frame.raw.is_empty()) {
            self.flush(&mut emit);
            self.index.push(packs, Record::Grains { gap: 0, hashes: hashes.clone() })?;
            let rows = vec![FrameRow { file: record, first, hashes }];
            emit(RawFrame { number: self.frame.number, raw: buffer, rows });
            self.frame.number += 1;
            return Ok(None);
        }
        self.copy(packs, &record, first, &buffer, &hashes, &mut emit)?;
        Ok(Some(buffer))
    }

    /// Splits a run into stretches of stored grains and of zeros.
    fn copy(
        &mut self,
        packs: &mut IndexPacks,
        record: &Arc<FileRecord>,
        first: u64,
        buffer: &[u8],
        hashes: &[u64],
        emit: &mut impl FnMut(RawFrame),
    ) -> Result<()> {
        let mut at = 0;
        for stretch in hashes.chunk_by(|a, b| (*a == ZERO_GRAIN) == (*b == ZERO_GRAIN)) {
            let end = at + stretch.len();
            if stretch.first() == Some(&ZERO_GRAIN) {
                self.index.push(packs, Record::Zeros { gap: 0, count: stretch.len() as u64 })?;
            } else {
                self.index.push(packs, Record::Grains { gap: 0, hashes: stretch.to_vec() })?;
                let bytes = &buffer[at * GRAIN..(end * GRAIN).min(buffer.len())];
                self.store(record, first + at as u64, bytes, stretch, emit);
            }
            at = end;
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
            let room = self.limit.saturating_sub(self.frame.raw.len());
            let fit = if bytes.len() <= room { hashes.len() } else { room / GRAIN };
            if fit == 0 {
                self.flush(emit);
                continue;
            }
            let (now, later) = bytes.split_at((fit * GRAIN).min(bytes.len()));
            let (stored, rest) = hashes.split_at(fit);
            self.frame.raw.extend_from_slice(now);
            match self.frame.rows.last_mut() {
                Some(row)
                    if Arc::ptr_eq(&row.file, record) && row.first + row.hashes.len() as u64 == first =>
                {
                    row.hashes.extend_from_slice(stored);
                }
                _ => self.frame.rows.push(FrameRow {
                    file: Arc::clone(record),
                    first,
                    hashes: stored.to_vec(),
                }),
            }
            first += fit as u64;
            (bytes, hashes) = (later, rest);
        }
    }

    fn flush(&mut self, emit: &mut impl FnMut(RawFrame)) {
        if self.frame.raw.is_empty() {
            return;
        }
        let next =
            RawFrame { number: self.frame.number + 1, raw: Vec::with_capacity(self.limit), rows: Vec::new() };
        emit(std::mem::replace(&mut self.frame, next));
    }

    /// The open file ends; `size` is its true size, which is smaller than at first where it shrank.
    pub(crate) fn end(&mut self, packs: &mut IndexPacks, size: u64) -> Result<()> {
        let Some(file) = self.file.take() else {
            return Err(Error::Internal { what: "an end without a file" });
        };
        let digest = file.digester.finish();
        self.totals.bytes += size;
        self.list.file(file.record.path.as_bytes(), size, digest);
        self.index.push(packs, Record::End(Fields { size, digest, bad_pages: file.bad }))
    }

    /// Closes the last frame; to be called before [`Gather::finish`], when frames can still be emitted.
    pub(crate) fn last_frame(&mut self, mut emit: impl FnMut(RawFrame)) {
        self.flush(&mut emit);
    }

    /// Closes the index.
    pub(crate) fn finish(self, packs: &mut IndexPacks) -> Result<Gathered> {
        let (index, stream) = self.index.finish(packs)?;
        let (entries, digest) = self.list.finish();
        Ok(Gathered { index, stream, entries, digest, links: self.links, totals: self.totals })
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
    /// Top of the index.
    pub(crate) index: Option<pgbr_manifest::index::Root>,
    /// Length of the stream in bytes.
    pub(crate) stream: u64,
    /// Entries of the resolved list.
    pub(crate) entries: u64,
    /// Its digest.
    pub(crate) digest: pgbr_manifest::Digest,
    /// Links in the data directory.
    pub(crate) links: Vec<Link>,
    /// Totals.
    pub(crate) totals: Totals,
}
