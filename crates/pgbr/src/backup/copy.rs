//! Copying a cluster: read and hash on all cores, gather in order, compress and seal on all cores, pack in order.
//!
//! One thread (this module's) decides; the workers do what costs time. All queues are bounded by counting what is out.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pgbr_codec::{Compression, Compressor, FrameKind, Sealer};
use pgbr_manifest::diff::{Outcome, ParentFile, ReadPlan, plan_read};
use pgbr_manifest::index::{Fields, FileFlags, FileRecord, Meta, Record};
use pgbr_manifest::merge::{Entry, Merge, MergeReader};
use pgbr_manifest::{FileDigest, GRAIN, HashKey, RelPath};
use pgbr_pg::{EntryKind, PageContext, ScanEntry};

use super::BadFile;
use super::gather::{Expected, Gather, Gathered, Prior, RawFrame};
use super::read::{self, Done, OpenRun, RunPlace, Small, Work};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::load::LayerNodes;
use crate::observe::Event;
use crate::packs::{DataPacks, IndexPacks};
use crate::pool::{Ordered, Pool, Urgency};
use crate::run::{FrameRow, RUN};

/// Jobs under way for each worker, of each of the two kinds.
const DEPTH: usize = 3;
/// How many bad files, and pages of each, are named.
const MAX_NAMED: usize = 100;
/// The digest of a file that a broken run did not finish: nothing is known of the whole file.
pub(crate) const UNKNOWN_DIGEST: FileDigest = FileDigest([0; 16]);
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
    /// The backup or the broken run that this one builds on.
    pub(crate) parent: Option<Parent>,
}

/// What there is to copy, in the order of the index: a [`pgbr_pg::Scan`].
pub(crate) trait Entries: Iterator<Item = pgbr_pg::Result<ScanEntry>> {}

impl<I: Iterator<Item = pgbr_pg::Result<ScanEntry>>> Entries for I {}

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
    scan: &mut impl Entries,
    mut options: CopyOptions,
    data: &mut DataPacks,
    mut index: IndexPacks,
) -> Result<(Copied, IndexPacks)> {
    let pool = start_workers(&options, &data.sealer())?;
    let parent = options.parent.take();
    let options = &options;
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
        due: None,
        parent,
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

/// An entry of the scan, what the parent has there, and whether it is written in any case.
struct Found {
    entry: ScanEntry,
    known: Option<Entry>,
    forced: bool,
    /// Whether the parent has something there that has to be said to be gone if this vanishes.
    hides: bool,
}

enum Compared {
    /// It cannot have changed.
    Unread(Work),
    /// It is to be read; with the parent's record of it.
    Read((read::Candidate, Option<FileRecord>)),
}

/// What a backup builds on: the resolved list of its chain, read side by side with the scan.
pub(crate) struct Parent {
    reader: MergeReader<LayerNodes>,
    /// How many of the newest layers are of broken runs: what these have of a file need not be all of it.
    broken: usize,
    copy_start_ns: i64,
    trust: bool,
    /// The last path that was said to be gone.
    removed: Option<RelPath>,
    /// The path of the last entry, where it was a link.
    link: Option<RelPath>,
    /// What the parent has where a link is now.
    unlinked: Option<Entry>,
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
    /// An entry that did not fit into the last job, and what the parent has there.
    waiting: Option<Found>,
    /// An entry before which the parent has more that is gone.
    due: Option<ScanEntry>,
    parent: Option<Parent>,
    bad_files: Vec<BadFile>,
    /// Where the open file really ends, when it shrank while it was read.
    true_size: Option<u64>,
}

impl Copy<'_> {
    fn all(&mut self, scan: &mut impl Entries) -> Result<()> {
        let limit = self.limit();
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

    /// The most jobs of each kind that are out.
    fn limit(&self) -> u64 {
        (self.options.threads.max(1) * DEPTH) as u64
    }

    /// The next job's work: one run of a large file, or many small things.
    fn next_batch(&mut self, scan: &mut impl Entries) -> Result<Vec<Work>> {
        if let Some(run) = self.next_run()? {
            return Ok(vec![run]);
        }
        let (mut works, mut bytes) = (Vec::new(), 0);
        while works.len() < MAX_BATCH && bytes < RUN as u64 {
            let Some(found) = self.next_entry(scan, &mut works)? else { break };
            let (large, control) = (is_large(&found.entry.kind), found.entry.path.is_pg_control());
            if !works.is_empty() && (large || control) {
                self.waiting = Some(found);
                break;
            }
            if control {
                // Everything before it must have been read, not only handed out.
                self.drain_reads()?;
            }
            let Found { entry, known, forced, hides } = found;
            match entry.kind {
                EntryKind::Directory => works.push(self.directory(entry, known, forced)?),
                EntryKind::Link { target } => {
                    let record = Record::Link { path: entry.path, meta: meta(&entry.meta), target };
                    works.push(Work::Entry { record, same: false });
                }
                EntryKind::File { size, .. } => match self.compare(&entry, known, forced)? {
                    Compared::Unread(unread) => works.push(unread),
                    Compared::Read(file) if large => {
                        works.extend(self.open_large(entry.source, file, forced, hides)?);
                        // Where it vanished there may be nothing to do about it; no work at all would be the end.
                        if !works.is_empty() {
                            break;
                        }
                    }
                    Compared::Read((record, prior)) => {
                        bytes += size + 512;
                        let prior = prior.map(|prior| self.prior(prior)).transpose()?;
                        let small = Small { source: entry.source, record, prior, forced, hides };
                        works.push(if control { Work::Control(small) } else { Work::Small(small) });
                    }
                },
            }
        }
        Ok(works)
    }

    /// The next entry of the scan, with what the parent has there. What the parent has before it is gone, which is work, too.
    fn next_entry(&mut self, scan: &mut impl Entries, works: &mut Vec<Work>) -> Result<Option<Found>> {
        if let Some(found) = self.waiting.take() {
            return Ok(Some(found));
        }
        let entry = match self.due.take() {
            Some(entry) => Some(entry),
            None => scan.next().transpose()?,
        };
        let Some(parent) = &mut self.parent else {
            return Ok(entry.map(|entry| Found { entry, known: None, forced: false, hides: false }));
        };
        if !parent.pass(entry.as_ref().map(|entry| &entry.path), works)? {
            self.due = entry;
            return Ok(None);
        }
        let Some(entry) = entry else { return Ok(None) };
        parent.take(entry).map(Some)
    }

    fn directory(&mut self, entry: ScanEntry, known: Option<Entry>, forced: bool) -> Result<Work> {
        let own = meta(&entry.meta);
        let same = match known {
            Some(Entry::Directory(meta)) => meta == own && !forced,
            Some(Entry::File(_)) => {
                self.parent_end()?;
                false
            }
            _ => false,
        };
        Ok(Work::Entry { record: Record::Directory { path: entry.path, meta: own }, same })
    }

    /// Whether a file has to be read.
    fn compare(&mut self, entry: &ScanEntry, known: Option<Entry>, forced: bool) -> Result<Compared> {
        let mut candidate = file_record(&entry.path, &entry.meta, entry.kind.clone())?;
        let (Some(Entry::File(prior)), Some(parent)) = (known, &self.parent) else {
            return Ok(Compared::Read((candidate, None)));
        };
        if parent.trust && !candidate.record.flags.control {
            match plan_read(&prior, &candidate.record, parent.copy_start_ns) {
                ReadPlan::Skip if parent.reader.source().is_some_and(|source| source >= parent.broken) => {
                    let end = self.parent_end()?.ok_or(Error::Internal { what: "a file without an end" })?;
                    return Ok(Compared::Unread(Work::Unread { record: candidate.record, end, forced }));
                }
                ReadPlan::Skip | ReadPlan::Read => {}
                ReadPlan::Distrust(why) => return Err(Error::Distrust { path: entry.path.to_string(), why }),
            }
        }
        candidate.record.flags.whole = false;
        Ok(Compared::Read((candidate, Some(prior))))
    }

    /// All that the parent has of a file that is read in one piece.
    fn prior(&mut self, record: FileRecord) -> Result<Prior> {
        let known = self.parent_grains(2 * RUN)?;
        Ok(Prior { record, known, end: self.parent_end()? })
    }

    fn parent_grains(&mut self, bytes: usize) -> Result<Expected> {
        match &mut self.parent {
            Some(parent) => {
                let known = parent.reader.grains(bytes.div_ceil(GRAIN))?;
                Ok(Expected { known, recent: parent.reader.take_recent() })
            }
            None => Ok(Expected::default()),
        }
    }

    /// The parent's end of its file; none where it is an unfinished run's.
    fn parent_end(&mut self) -> Result<Option<Fields>> {
        let Some(parent) = &mut self.parent else { return Ok(None) };
        Ok(Some(parent.reader.end()?).filter(|end| end.digest != UNKNOWN_DIGEST))
    }

    fn drain_reads(&mut self) -> Result<()> {
        while self.reads.out() > 0 {
            self.take_result()?;
        }
        Ok(())
    }

    /// Opens a file of more than one run and gives its first run; or what is to be said where it is gone.
    fn open_large(
        &mut self,
        source: PathBuf,
        (mut candidate, prior): (read::Candidate, Option<FileRecord>),
        forced: bool,
        hides: bool,
    ) -> Result<Option<Work>> {
        let Some(reader) = read::open(&source)? else {
            if prior.is_some() {
                self.parent_end()?;
            }
            return Ok(hides.then_some(Work::Removed(candidate.record.path)));
        };
        read::take_stat(&mut candidate, &reader);
        let read::Candidate { record, relation } = candidate;
        self.large =
            Some((Arc::new(OpenRun { reader, record: Arc::new(record), relation, prior, forced }), 0));
        self.next_run()
    }

    fn next_run(&mut self) -> Result<Option<Work>> {
        let Some((file, offset)) = self.large.take() else { return Ok(None) };
        let size = file.record.size;
        let len = usize::try_from((size - offset).min(RUN as u64)).unwrap_or(RUN);
        let next = offset + len as u64;
        let last = next >= size;
        let (mut known, mut end) = (Expected::default(), None);
        if file.prior.is_some() {
            known = self.parent_grains(len)?;
            end = if last { self.parent_end()? } else { None };
        }
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.resize(len, 0);
        let place = RunPlace { offset, last, known, end };
        let work = Work::Run { file: Arc::clone(&file), place, buffer };
        if !last {
            self.large = Some((file, next));
        }
        Ok(Some(work))
    }

    /// Takes one result; frames that are ready go into packs, what was read waits.
    fn receive(&mut self) -> Result<()> {
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
        Ok(())
    }

    fn take_result(&mut self) -> Result<()> {
        self.receive()?;
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
            Done::Entry { record, same } => self.gather.entry(self.index, record, same),
            Done::Removed(path) => self.gather.removed(self.index, path),
            Done::Unread { record, end, forced } => self.gather.unread(self.index, record, &end, forced),
            Done::Vanished => Ok(()),
            Done::Small { record, found, prior, forced } => {
                let (size, end) = (record.size, found.end);
                let relation = record.flags.relation;
                let (parent, known) = match prior {
                    Some(Prior { record, known, end }) => (Some(ParentFile { record, end }), known),
                    None => (None, Expected::default()),
                };
                self.gather.begin(self.index, Arc::new(record.clone()), parent, forced)?;
                self.take_run(&record.path, found, &known)?;
                self.finish_file(&record, if relation { size } else { end.unwrap_or(size) }, None)
            }
            Done::Run { file, place, found } => self.gather_run(&file, place, found),
            Done::TooLarge { file, known, end } => self.read_inline(&Arc::new(file), &known, end),
        }
    }

    fn gather_run(&mut self, file: &Arc<OpenRun>, place: RunPlace, found: read::Found) -> Result<()> {
        if place.offset == 0 {
            self.true_size = None;
            let parent = file.prior.clone().map(|record| ParentFile { record, end: None });
            self.gather.begin(self.index, Arc::clone(&file.record), parent, file.forced)?;
        }
        if let (Some(end), None) = (found.end, self.true_size) {
            self.true_size = Some(end);
        }
        self.take_run(&file.record.path, found, &place.known)?;
        if !place.last {
            return Ok(());
        }
        let size = if file.record.flags.relation { None } else { self.true_size };
        self.finish_file(&file.record, size.unwrap_or(file.record.size), place.end)
    }

    /// A file that was small when it was listed and large when it was opened: rare, and read right here.
    fn read_inline(&mut self, file: &Arc<OpenRun>, known: &Expected, end: Option<Fields>) -> Result<()> {
        let size = file.record.size;
        for (offset, number) in (0..size).step_by(RUN).zip(0_usize..) {
            let len = usize::try_from((size - offset).min(RUN as u64)).unwrap_or(RUN);
            let last = offset + len as u64 >= size;
            let known = known.part(number * (RUN / GRAIN), RUN / GRAIN);
            let place = RunPlace { offset, last, known, end: end.clone().filter(|_| last) };
            let work = Work::Run { file: Arc::clone(file), place, buffer: vec![0; len] };
            let done = read::perform(
                work,
                &self.options.key,
                self.options.pages.as_deref(),
                self.options.segment_pages,
            )?;
            self.gather_one(done)?;
            // It may be large by now: what is out stays bounded.
            while self.seals.out() >= self.limit() {
                self.receive()?;
            }
        }
        Ok(())
    }

    fn take_run(&mut self, path: &RelPath, found: read::Found, known: &Expected) -> Result<()> {
        if !found.bad.is_empty() {
            self.note_bad(path, &found.bad);
        }
        let spare = self.gather.run(
            self.index,
            found.bytes,
            found.hashes,
            known,
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

    fn finish_file(&mut self, record: &FileRecord, size: u64, parent: Option<Fields>) -> Result<()> {
        let outcome = self.gather.end(self.index, size, parent)?;
        if matches!(outcome, Outcome::New | Outcome::Changed) {
            self.host.tell(Event::File { path: record.path.to_string(), size });
        }
        Ok(())
    }
}

impl Parent {
    /// A parent of `merge`, whose copy began at `copy_start_ns`; the `broken` newest layers are of broken runs. With `trust` files are
    /// taken for unchanged by what the file system says.
    pub(crate) fn new(merge: Merge<LayerNodes>, broken: usize, copy_start_ns: i64, trust: bool) -> Self {
        Self {
            reader: MergeReader::new(merge).telling_newest(broken),
            broken,
            copy_start_ns,
            trust,
            removed: None,
            link: None,
            unlinked: None,
        }
    }

    /// Passes over what the parent has before `path`: it is gone. False where more is to come.
    fn pass(&mut self, path: Option<&RelPath>, works: &mut Vec<Work>) -> Result<bool> {
        while let Some(gone) = self.reader.pass_before(path)? {
            // One record says that a whole directory is gone; and what a link led to goes with the link.
            let said = self.removed.as_ref().is_some_and(|removed| gone.is_within(removed));
            if !said && self.link.as_ref() != Some(&gone) {
                self.removed = Some(gone.clone());
                works.push(Work::Removed(gone));
                if works.len() >= MAX_BATCH {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// What the parent has where this entry is, and whether the entry has to be written even if it is the same: a link and what it leads
    /// to are one.
    fn take(&mut self, entry: ScanEntry) -> Result<Found> {
        let path = &entry.path;
        let is_link = matches!(entry.kind, EntryKind::Link { .. });
        let behind = self.link.take().is_some_and(|link| link == *path);
        if let Some(unlinked) = self.unlinked.take().filter(|_| behind) {
            return Ok(Found { entry, known: Some(unlinked), forced: true, hides: false });
        }
        let mut known = self.reader.take(path)?;
        let mut forced = behind;
        if is_link {
            self.link = Some(path.clone());
            if !matches!(known, None | Some(Entry::Link { .. })) {
                self.unlinked = known.take();
            }
            return Ok(Found { entry, known, forced: true, hides: false });
        }
        // Where a link was written, it hides what the parent has.
        let hides = !behind && known.is_some();
        if matches!(known, Some(Entry::Link { .. })) {
            forced = true;
            known = self.reader.take(path)?;
        }
        if self.removed.as_ref().is_some_and(|removed| path.is_within(removed)) {
            // What is said to be gone is no parent of what has come back meanwhile.
            if matches!(known, Some(Entry::File(_))) {
                self.reader.end()?;
            }
            return Ok(Found { entry, known: None, forced: true, hides: false });
        }
        Ok(Found { entry, known, forced, hides })
    }
}

const fn is_large(kind: &EntryKind) -> bool {
    matches!(kind, EntryKind::File { size, .. } if *size > RUN as u64)
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
