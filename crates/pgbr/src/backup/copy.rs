//! Copying a cluster: read and hash on all cores, gather in order, compress and seal on all cores, pack in order.
//!
//! One thread (this module's) decides; the workers do what costs time. All queues are bounded by counting what is out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pgbr_codec::{Compression, Compressor, FrameKind, Sealer};
use pgbr_manifest::index::{FileFlags, FileRecord, Meta, Record};
use pgbr_manifest::{HashKey, RelPath};
use pgbr_pg::{EntryKind, FileReader, PageContext, Scan, ScanEntry};

use super::BadFile;
use super::gather::{Gather, Gathered, RawFrame};
use super::read::{self, Done, OpenRun, Small, Work};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::observe::Event;
use crate::packs::{DataPacks, IndexPacks};
use crate::pool::{Pool, Urgency};
use crate::run::{FrameRow, RUN};

/// Jobs under way for each worker, of each of the two kinds.
const DEPTH: usize = 3;
/// How many bad files, and pages of each, are named.
const MAX_NAMED: usize = 100;
/// The most entries in one job: small files share jobs.
const MAX_BATCH: usize = 256;

/// How to copy.
pub(crate) struct CopyOptions {
    /// Worker threads.
    pub(crate) threads: usize,
    /// How frames are compressed.
    pub(crate) compression: Compression,
    /// The most raw bytes of a frame.
    pub(crate) frame_limit: usize,
    /// The key of all hashes.
    pub(crate) key: HashKey,
    /// How page checksums are checked; none where the cluster has none.
    pub(crate) pages: Option<Arc<PageContext>>,
    /// Pages in a segment of a relation.
    pub(crate) segment_pages: u32,
    /// An estimate of the bytes to come, for progress; 0 until it is known.
    pub(crate) estimate: Arc<AtomicU64>,
}

/// What copying found.
pub(crate) struct Copied {
    /// The index and the totals.
    pub(crate) gathered: Gathered,
    /// Files that have pages with wrong checksums, the first hundred.
    pub(crate) bad_files: Vec<BadFile>,
}

enum Job {
    Read { seq: u64, works: Vec<Work> },
    Seal(RawFrame),
}

enum Output {
    Read { seq: u64, done: Vec<Done> },
    Sealed(Sealed),
    Failed(Error),
}

struct Sealed {
    number: u64,
    frame: Vec<u8>,
    raw: Vec<u8>,
    rows: Vec<FrameRow>,
}

/// Copies all that `scan` finds. The control file is read when everything else was.
pub(crate) fn copy_cluster(
    host: &Host,
    scan: &mut Scan,
    options: &CopyOptions,
    data: &mut DataPacks,
    mut index: IndexPacks,
) -> Result<(Copied, IndexPacks)> {
    let pool = start_workers(options, &data.sealer())?;
    let mut copy = Copy {
        host,
        options,
        pool,
        gather: Gather::new(options.key.clone(), options.frame_limit),
        data,
        index: &mut index,
        spare: Vec::new(),
        reads: Ordered::default(),
        seals: Ordered::default(),
        large: None,
        waiting: None,
        bad_files: Vec::new(),
        true_size: None,
    };
    copy.all(scan)?;
    let bad_files = copy.bad_files;
    let gathered = copy.gather.finish(copy.index)?;
    Ok((Copied { gathered, bad_files }, index))
}

fn start_workers(options: &CopyOptions, sealer: &Sealer) -> Result<Pool<Job, Output>> {
    let compressors: Result<Vec<_>, _> =
        (0..options.threads.max(1)).map(|_| Compressor::new(options.compression)).collect();
    let mut compressors = compressors?;
    let make = || {
        let mut compressor = compressors.pop();
        let (sealer, key, pages) = (sealer.clone(), options.key.clone(), options.pages.clone());
        let segment_pages = options.segment_pages;
        move |job| match job {
            Job::Read { seq, works } => {
                let done: Result<Vec<_>> = works
                    .into_iter()
                    .map(|work| read::perform(work, &key, pages.as_deref(), segment_pages))
                    .collect();
                done.map_or_else(Output::Failed, |done| Output::Read { seq, done })
            }
            Job::Seal(frame) => seal(compressor.as_mut(), &sealer, frame).unwrap_or_else(Output::Failed),
        }
    };
    Pool::start(options.threads, make).map_err(Error::io("start a thread for", "workers"))
}

fn seal(compressor: Option<&mut Compressor>, sealer: &Sealer, frame: RawFrame) -> Result<Output> {
    let compressor = compressor.ok_or(Error::Internal { what: "a worker has no compressor" })?;
    let RawFrame { number, raw, rows } = frame;
    let sealed = sealer.seal(compressor, FrameKind::Data, number, &raw)?;
    Ok(Output::Sealed(Sealed { number, frame: sealed, raw, rows }))
}

/// Results that come in any order and are taken in order; counts what is out.
struct Ordered<T> {
    issued: u64,
    taken: u64,
    ready: BTreeMap<u64, T>,
}

impl<T> Default for Ordered<T> {
    fn default() -> Self {
        Self { issued: 0, taken: 0, ready: BTreeMap::new() }
    }
}

impl<T> Ordered<T> {
    fn issue(&mut self) -> u64 {
        self.issued += 1;
        self.issued - 1
    }

    fn next(&mut self) -> Option<T> {
        let next = self.ready.remove(&self.taken)?;
        self.taken += 1;
        Some(next)
    }

    /// How many are out: not yet taken.
    const fn out(&self) -> u64 {
        self.issued - self.taken
    }
}

struct Copy<'a> {
    host: &'a Host,
    options: &'a CopyOptions,
    pool: Pool<Job, Output>,
    gather: Gather,
    data: &'a mut DataPacks,
    index: &'a mut IndexPacks,
    spare: Vec<Vec<u8>>,
    reads: Ordered<Vec<Done>>,
    seals: Ordered<Sealed>,
    /// A file of many runs, and the next of them.
    large: Option<(Arc<OpenRun>, u64)>,
    /// An entry that did not fit into the last job.
    waiting: Option<ScanEntry>,
    bad_files: Vec<BadFile>,
    /// Where the open file really ends, when it shrank while it was read.
    true_size: Option<u64>,
}

impl Copy<'_> {
    fn all(&mut self, scan: &mut Scan) -> Result<()> {
        let limit = (self.options.threads.max(1) * DEPTH) as u64;
        let mut more = true;
        loop {
            self.host.stop.check()?;
            while more && self.reads.out() < limit && self.seals.out() < limit {
                let works = self.next_batch(scan)?;
                more = !works.is_empty();
                if more {
                    let seq = self.reads.issue();
                    self.pool.submit(Urgency::Begin, Job::Read { seq, works });
                }
            }
            if self.reads.out() == 0 && self.seals.out() == 0 && !more {
                break;
            }
            self.take_result()?;
        }
        self.gather.last_frame(emit(&self.pool, &mut self.seals));
        while self.seals.out() > 0 {
            self.take_result()?;
        }
        Ok(())
    }

    /// The next job's work: one run of a large file, or many small things.
    fn next_batch(&mut self, scan: &mut Scan) -> Result<Vec<Work>> {
        if let Some(run) = self.next_run() {
            return Ok(vec![run]);
        }
        let (mut works, mut bytes) = (Vec::new(), 0);
        while works.len() < MAX_BATCH && bytes < RUN as u64 {
            let Some(entry) = self.next_entry(scan)? else { break };
            if entry.path.is_pg_control() {
                // Everything before it must have been read, not only handed out.
                if self.reads.out() > 0 || !works.is_empty() {
                    self.waiting = Some(entry);
                    if works.is_empty() {
                        self.drain_reads()?;
                        continue;
                    }
                    break;
                }
                works.push(Work::Control(Small {
                    source: entry.source,
                    record: file_record(&entry.path, &entry.meta, entry.kind.clone())?,
                }));
                break;
            }
            match entry.kind {
                EntryKind::Directory => {
                    works.push(Work::Entry(Record::Directory { path: entry.path, meta: meta(&entry.meta) }));
                }
                EntryKind::Link { target } => {
                    works.push(Work::Entry(Record::Link {
                        path: entry.path,
                        meta: meta(&entry.meta),
                        target,
                    }));
                }
                EntryKind::File { size, .. } if size > RUN as u64 => {
                    if !works.is_empty() {
                        self.waiting = Some(entry);
                        break;
                    }
                    if self.open_large(entry)? {
                        works.extend(self.next_run());
                        break;
                    }
                }
                EntryKind::File { size, .. } => {
                    bytes += size + 512;
                    let record = file_record(&entry.path, &entry.meta, entry.kind)?;
                    works.push(Work::Small(Small { source: entry.source, record }));
                }
            }
        }
        Ok(works)
    }

    fn next_entry(&mut self, scan: &mut Scan) -> Result<Option<ScanEntry>> {
        match self.waiting.take() {
            Some(entry) => Ok(Some(entry)),
            None => Ok(scan.next().transpose()?),
        }
    }

    fn drain_reads(&mut self) -> Result<()> {
        while self.reads.out() > 0 {
            self.take_result()?;
        }
        Ok(())
    }

    /// Opens a file of more than one run; false where it is gone.
    fn open_large(&mut self, entry: ScanEntry) -> Result<bool> {
        let mut record = file_record(&entry.path, &entry.meta, entry.kind)?;
        let Some(reader) = FileReader::open(&entry.source)? else { return Ok(false) };
        read::take_stat(&mut record, &reader);
        self.large = Some((
            Arc::new(OpenRun { reader, record: Arc::new(record.record), relation: record.relation }),
            0,
        ));
        Ok(true)
    }

    fn next_run(&mut self) -> Option<Work> {
        let (file, offset) = self.large.take()?;
        let size = file.record.size;
        let len = usize::try_from((size - offset).min(RUN as u64)).unwrap_or(RUN);
        let next = offset + len as u64;
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.resize(len, 0);
        let work = Work::Run { file: Arc::clone(&file), offset, last: next >= size, buffer };
        if next < size {
            self.large = Some((file, next));
        }
        Some(work)
    }

    fn take_result(&mut self) -> Result<()> {
        match self.pool.next_result()? {
            Output::Failed(error) => return Err(error),
            Output::Read { seq, done } => drop(self.reads.ready.insert(seq, done)),
            Output::Sealed(sealed) => drop(self.seals.ready.insert(sealed.number, sealed)),
        }
        while let Some(sealed) = self.seals.next() {
            let raw_len = u32::try_from(sealed.raw.len()).unwrap_or(u32::MAX);
            self.data.push(self.index, sealed.number, raw_len, &sealed.frame, sealed.rows)?;
            self.keep(sealed.raw);
        }
        while let Some(done) = self.reads.next() {
            done.into_iter().try_for_each(|done| self.gather_one(done))?;
            let done = self.gather.totals.bytes;
            self.host.tell(Event::Progress {
                done,
                total: self.options.estimate.load(Ordering::Relaxed).max(done),
            });
        }
        Ok(())
    }

    /// Keeps a buffer for later reads; as many as can be in use at once.
    fn keep(&mut self, buffer: Vec<u8>) {
        if self.spare.len() < self.options.threads * DEPTH && buffer.capacity() >= RUN {
            self.spare.push(buffer);
        }
    }

    fn gather_one(&mut self, done: Done) -> Result<()> {
        match done {
            Done::Entry(record) => self.gather.entry(self.index, record),
            Done::Vanished => Ok(()),
            Done::Small { record, found } => {
                let (size, end) = (record.size, found.end);
                let relation = record.flags.relation;
                self.gather.begin(self.index, Arc::new(record.clone()))?;
                self.take_run(&record.path, found)?;
                self.finish_file(&record, if relation { size } else { end.unwrap_or(size) })
            }
            Done::Run { file, offset, last, found } => {
                if offset == 0 {
                    self.true_size = None;
                    self.gather.begin(self.index, Arc::clone(&file.record))?;
                }
                if let (Some(end), None) = (found.end, self.true_size) {
                    self.true_size = Some(end);
                }
                self.take_run(&file.record.path, found)?;
                if !last {
                    return Ok(());
                }
                let size = if file.record.flags.relation { None } else { self.true_size };
                self.finish_file(&file.record, size.unwrap_or(file.record.size))
            }
            Done::TooLarge(file) => self.read_inline(&Arc::new(file)),
        }
    }

    /// A file that was small when it was listed and large when it was opened: rare, and read right here.
    fn read_inline(&mut self, file: &Arc<OpenRun>) -> Result<()> {
        let size = file.record.size;
        for offset in (0..size).step_by(RUN) {
            let len = usize::try_from((size - offset).min(RUN as u64)).unwrap_or(RUN);
            let work = Work::Run {
                file: Arc::clone(file),
                offset,
                last: offset + len as u64 >= size,
                buffer: vec![0; len],
            };
            let done = read::perform(
                work,
                &self.options.key,
                self.options.pages.as_deref(),
                self.options.segment_pages,
            )?;
            self.gather_one(done)?;
        }
        Ok(())
    }

    fn take_run(&mut self, path: &RelPath, found: read::Found) -> Result<()> {
        if !found.bad.is_empty() {
            self.note_bad(path, &found.bad);
        }
        let spare = self.gather.run(
            self.index,
            found.bytes,
            found.hashes,
            &found.bad,
            emit(&self.pool, &mut self.seals),
        )?;
        if let Some(buffer) = spare {
            self.keep(buffer);
        }
        Ok(())
    }

    fn note_bad(&mut self, path: &RelPath, bad: &[u32]) {
        let path = path.to_string();
        if self.bad_files.last().is_none_or(|last| last.path != path) {
            if self.bad_files.len() >= MAX_NAMED {
                return;
            }
            self.bad_files.push(BadFile { path, pages: 0, first: Vec::new() });
        }
        if let Some(file) = self.bad_files.last_mut() {
            file.pages += bad.len() as u64;
            let room = MAX_NAMED.saturating_sub(file.first.len());
            file.first.extend(bad.iter().take(room));
        }
    }

    fn finish_file(&mut self, record: &FileRecord, size: u64) -> Result<()> {
        self.gather.end(self.index, size)?;
        self.host.tell(Event::File { path: record.path.to_string(), size });
        Ok(())
    }
}

/// Sends frames to the workers, ahead of all reading.
fn emit<'a>(pool: &'a Pool<Job, Output>, seals: &'a mut Ordered<Sealed>) -> impl FnMut(RawFrame) + 'a {
    move |frame| {
        seals.issue();
        pool.submit(Urgency::Finish, Job::Seal(frame));
    }
}

fn meta(meta: &pgbr_pg::FileMeta) -> Meta {
    Meta { mode: meta.mode & 0o7777, user: meta.user.clone(), group: meta.group.clone() }
}

fn file_record(path: &RelPath, file_meta: &pgbr_pg::FileMeta, kind: EntryKind) -> Result<read::Candidate> {
    let EntryKind::File { size, mtime_ns, ctime_ns, inode, relation, page_checksums } = kind else {
        return Err(Error::Internal { what: "an entry is not a file" });
    };
    let flags = FileFlags {
        whole: true,
        checksums: page_checksums,
        control: path.is_pg_control(),
        relation: relation.is_some(),
    };
    let record =
        FileRecord { path: path.clone(), meta: meta(file_meta), size, mtime_ns, ctime_ns, inode, flags };
    Ok(read::Candidate { record, relation })
}
