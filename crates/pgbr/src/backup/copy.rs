//! Copying a cluster: read and hash on all cores, gather in order, compress and seal on all cores, pack in order.
//!
//! A copy may go to several repositories, each a branch: all is read once, compared with what each branch's parent has, and what goes into
//! frames of several branches just so is compressed once.
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
use super::gather::{Expected, Gather, Gathered, RawFrame};
use super::read::{self, Before, Candidate, Done, Lens, OpenRun, RunPlace, Share, Small, Work};
use crate::error::{Error, Result, with_causes};
use crate::host::Host;
use crate::load::LayerNodes;
use crate::observe::Event;
use crate::packs::{DataPacked, DataPacks, IndexPacked, IndexPacks};
use crate::pool::{Ordered, Pool, Urgency};
use crate::run::{FrameRow, RUN, hash_grains};

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
    /// How page checksums are checked; none where the cluster has none.
    pub(crate) pages: Option<Arc<PageContext>>,
    /// Pages in a segment of a relation.
    pub(crate) segment_pages: u32,
    /// An estimate of the bytes to come, for progress; 0 until it is known.
    pub(crate) estimate: Arc<AtomicU64>,
}

/// What there is to copy, in the order of the index: a [`pgbr_pg::Scan`].
pub(crate) trait Entries: Iterator<Item = pgbr_pg::Result<ScanEntry>> {}

impl<I: Iterator<Item = pgbr_pg::Result<ScanEntry>>> Entries for I {}

/// One repository that a copy goes to: what its backup builds on, and its packs.
pub(crate) struct Branch {
    host: Host,
    key: HashKey,
    parent: Option<Parent>,
    gather: Gather,
    data: DataPacks,
    index: IndexPacks,
    seals: Ordered<Sealed>,
    bad_files: Vec<BadFile>,
}

/// Drops what may hold an open branch: who drops one waits for what it has under way, and that must not be a thread of the runtime.
pub(super) async fn discard<T: Send + 'static>(open: T) {
    // Where dropping panics, nothing is under way any more.
    tokio::task::spawn_blocking(move || drop(open)).await.ok();
}

/// What copying found, and what became of it in one repository.
pub(crate) struct Copied {
    /// The index and the totals.
    pub(crate) gathered: Gathered,
    /// Files that have pages with wrong checksums, the first hundred.
    pub(crate) bad_files: Vec<BadFile>,
    /// The packs of data.
    pub(crate) data: DataPacked,
    /// The packs of the index.
    pub(crate) index: IndexPacked,
}

enum Job {
    Read { seq: u64, works: Vec<Work> },
    Seal(SealJob),
}

enum Output {
    Read { seq: u64, done: Vec<Done> },
    Sealed { raw: Vec<u8>, frames: Vec<(usize, Sealed)> },
    Failed(Error),
}

/// Content to compress once, and to seal for each branch.
struct SealJob {
    /// None: the bytes of the run that is being gathered.
    raw: Option<Vec<u8>>,
    frames: Vec<Unsealed>,
}

struct Unsealed {
    branch: usize,
    number: u64,
    rows: Vec<FrameRow>,
}

struct Sealed {
    number: u64,
    raw_len: u32,
    frame: Vec<u8>,
    rows: Vec<FrameRow>,
}

/// Copies all that `scan` finds. The control file is read when everything else was. A branch whose repository fails is lost, and the
/// others go on; what fails for all of them is the error of the whole. The branches are to be closed ([`Branch::finish`]); WAL may be added
/// before that.
pub(crate) fn copy_cluster(
    host: &Host,
    scan: &mut impl Entries,
    options: &CopyOptions,
    branches: Vec<Branch>,
) -> Result<Vec<Result<Branch>>> {
    let lens = Lens {
        keys: branches.iter().map(|branch| branch.key.clone()).collect(),
        pages: options.pages.clone(),
        segment_pages: options.segment_pages,
    };
    let sealers: Arc<[Sealer]> = branches.iter().map(|branch| branch.data.sealer()).collect();
    let pool = start_workers(options, &lens, &sealers)?;
    let mut copy = Copy {
        host,
        options,
        lens,
        pool,
        alone: branches.len() == 1,
        branches: branches.into_iter().map(Ok).collect(),
        spare: Vec::new(),
        reads: Ordered::default(),
        large: None,
        waiting: None,
        due: None,
        true_size: None,
    };
    copy.all(scan)?;
    Ok(copy.branches)
}

fn start_workers(options: &CopyOptions, lens: &Lens, sealers: &Arc<[Sealer]>) -> Result<Pool<Job, Output>> {
    let compressors: Result<Vec<_>, _> =
        (0..options.threads.max(1)).map(|_| Compressor::new(options.compression)).collect();
    let mut compressors = compressors?;
    let make = || {
        let mut compressor = compressors.pop();
        let (sealers, lens) = (Arc::clone(sealers), lens.clone());
        move |job| match job {
            Job::Read { seq, works } => {
                let done: Result<Vec<_>> = works.into_iter().map(|work| read::perform(work, &lens)).collect();
                done.map_or_else(Output::Failed, |done| Output::Read { seq, done })
            }
            Job::Seal(job) => seal(compressor.as_mut(), &sealers, job).unwrap_or_else(Output::Failed),
        }
    };
    Pool::start(options.threads, make).map_err(Error::io("start a thread for", "workers"))
}

fn seal(compressor: Option<&mut Compressor>, sealers: &[Sealer], job: SealJob) -> Result<Output> {
    let compressor = compressor.ok_or(Error::Internal { what: "a worker has no compressor" })?;
    let raw = job.raw.ok_or(Error::Internal { what: "a frame has no content" })?;
    let raw_len = u32::try_from(raw.len()).unwrap_or(u32::MAX);
    let sealer = |branch: usize| {
        sealers.get(branch).ok_or(Error::Internal { what: "a frame is of an unknown branch" })
    };
    let shared = match job.frames.as_slice() {
        [_] => None,
        _ => {
            let mut payload = Vec::with_capacity(raw.len());
            let codec = compressor.compress(&raw, &mut payload)?;
            Some((codec, payload))
        }
    };
    let mut frames = Vec::with_capacity(job.frames.len());
    for Unsealed { branch, number, rows } in job.frames {
        let (sealer, kind) = (sealer(branch)?, FrameKind::Data);
        let frame = match &shared {
            None => sealer.seal(compressor, kind, number, &raw)?,
            Some((codec, payload)) => sealer.seal_compressed(kind, number, raw.len(), *codec, payload)?,
        };
        frames.push((branch, Sealed { number, raw_len, frame, rows }));
    }
    Ok(Output::Sealed { raw, frames })
}

/// An entry of the scan, and what the parent of each branch has there; none where the branch is lost.
struct Found {
    entry: ScanEntry,
    known: Vec<Option<Known>>,
}

/// What a parent has where an entry is.
#[derive(Default)]
struct Known {
    entry: Option<Entry>,
    /// Whether the entry is written in any case.
    forced: bool,
    /// Whether the parent has something there that has to be said to be gone if this vanishes.
    hides: bool,
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
    lens: Lens,
    pool: Pool<Job, Output>,
    /// Whether there is one branch, whose failure is that of the whole.
    alone: bool,
    /// The branches; of one that is lost, why.
    branches: Vec<Result<Branch>>,
    spare: Vec<Vec<u8>>,
    reads: Ordered<Vec<Done>>,
    /// A file of many runs, and the next of them.
    large: Option<(Arc<OpenRun>, u64)>,
    /// An entry that did not fit into the last job.
    waiting: Option<Found>,
    /// An entry before which a parent has more that is gone.
    due: Option<ScanEntry>,
    /// Where the open file really ends, when it shrank while it was read.
    true_size: Option<u64>,
}

impl Copy<'_> {
    fn all(&mut self, scan: &mut impl Entries) -> Result<()> {
        let limit = self.limit();
        let mut more = true;
        while self.branches.iter().any(Result::is_ok) {
            self.host.stop.check()?;
            while more && self.reads.out() < limit && self.sealing() < limit {
                let works = self.next_batch(scan)?;
                more = !works.is_empty();
                if more {
                    let seq = self.reads.issue();
                    self.pool.submit(Urgency::Begin, Job::Read { seq, works });
                }
            }
            if self.reads.out() == 0 && self.sealing() == 0 && !more {
                break;
            }
            self.take_result()?;
        }
        let mut jobs = Vec::new();
        for number in 0..self.branches.len() {
            self.branch(number, |branch| {
                branch.gather.last_frame(|frame| join(&mut jobs, number, frame));
                Ok(())
            })?;
        }
        self.submit(jobs);
        while self.sealing() > 0 {
            self.take_result()?;
        }
        Ok(())
    }

    /// The most jobs of each kind that are out.
    fn limit(&self) -> u64 {
        (self.options.threads.max(1) * DEPTH) as u64
    }

    /// How many frames are on their way to packs, of the branch that has most.
    fn sealing(&self) -> u64 {
        self.branches.iter().flatten().map(|branch| branch.seals.out()).max().unwrap_or(0)
    }

    /// Does something in a branch that is not lost. What fails there loses the branch, if there are others, and not the whole.
    fn branch<T>(&mut self, number: usize, act: impl FnOnce(&mut Branch) -> Result<T>) -> Result<Option<T>> {
        let alone = self.alone;
        let Some(slot) = self.branches.get_mut(number) else { return Ok(None) };
        let Ok(branch) = slot else { return Ok(None) };
        match act(branch) {
            Ok(done) => Ok(Some(done)),
            Err(error) if alone || is_of_all(&error) => Err(error),
            Err(error) => {
                let text = format!("the backup in this repository is given up: {}", with_causes(&error));
                branch.host.warn(text);
                *slot = Err(error);
                Ok(None)
            }
        }
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
            let Found { entry, known } = found;
            match entry.kind {
                EntryKind::Directory => works.push(self.directory(entry, known)?),
                EntryKind::Link { target } => {
                    let record = Record::Link { path: entry.path, meta: meta(&entry.meta), target };
                    works.push(Work::Entry { record, same: vec![false; self.branches.len()] });
                }
                EntryKind::File { size, .. } => {
                    let (record, shares) = self.compare(&entry, known)?;
                    if !shares.iter().any(Share::is_read) {
                        works.push(Work::Unread { path: entry.path, shares });
                    } else if large {
                        works.extend(self.open_large(entry.source, record, shares)?);
                        break;
                    } else {
                        bytes += size + 512;
                        let before = self.before(&shares, 2 * RUN, true)?;
                        let small = Small { source: entry.source, record, shares, before };
                        works.push(if control { Work::Control(small) } else { Work::Small(small) });
                    }
                }
            }
        }
        Ok(works)
    }

    /// The next entry of the scan, with what the parents have there. What a parent has before it is gone, which is work, too.
    fn next_entry(&mut self, scan: &mut impl Entries, works: &mut Vec<Work>) -> Result<Option<Found>> {
        if let Some(found) = self.waiting.take() {
            return Ok(Some(found));
        }
        let entry = match self.due.take() {
            Some(entry) => Some(entry),
            None => scan.next().transpose()?,
        };
        // What a parent has behind the last entry are segments: whether these are gone is said when the branch is closed.
        let end;
        let path = match &entry {
            Some(entry) => &entry.path,
            None => {
                end = RelPath::new(RelPath::PG_CONTROL)?;
                &end
            }
        };
        for number in 0..self.branches.len() {
            if self.branch(number, |branch| branch.pass(Some(path), number, works))? == Some(false) {
                self.due = entry;
                return Ok(None);
            }
        }
        let Some(entry) = entry else { return Ok(None) };
        let mut known = Vec::with_capacity(self.branches.len());
        for number in 0..self.branches.len() {
            known.push(self.branch(number, |branch| branch.take(&entry))?);
        }
        Ok(Some(Found { entry, known }))
    }

    fn directory(&mut self, entry: ScanEntry, known: Vec<Option<Known>>) -> Result<Work> {
        let own = meta(&entry.meta);
        let mut same = Vec::with_capacity(known.len());
        for (number, known) in known.into_iter().map(Option::unwrap_or_default).enumerate() {
            same.push(match known.entry {
                Some(Entry::Directory(meta)) => meta == own && !known.forced,
                Some(Entry::File(_)) => {
                    self.branch(number, Branch::parent_end)?;
                    false
                }
                _ => false,
            });
        }
        Ok(Work::Entry { record: Record::Directory { path: entry.path, meta: own }, same })
    }

    /// What each branch makes of a file.
    fn compare(&mut self, entry: &ScanEntry, known: Vec<Option<Known>>) -> Result<(Candidate, Vec<Share>)> {
        let mut candidate = file_record(&entry.path, &entry.meta, entry.kind.clone())?;
        let mut shares = Vec::with_capacity(known.len());
        for (number, known) in known.into_iter().enumerate() {
            let share = match known {
                Some(known) => self.branch(number, |branch| branch.share(known, &candidate.record))?,
                None => None,
            };
            shares.push(share.unwrap_or(Share::Lost));
        }
        candidate.record.flags.whole = !shares.iter().any(Share::has_prior);
        Ok((candidate, shares))
    }

    /// What the parents have in the places of the next `bytes` of a file, and at its end where that is `last`.
    fn before(&mut self, shares: &[Share], bytes: usize, last: bool) -> Result<Vec<Before>> {
        let mut all = Vec::with_capacity(shares.len());
        for (number, share) in shares.iter().enumerate() {
            let before = match share.has_prior() {
                true => self.branch(number, |branch| branch.before(bytes, last))?,
                false => None,
            };
            all.push(before.unwrap_or_default());
        }
        Ok(all)
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
        mut candidate: Candidate,
        shares: Vec<Share>,
    ) -> Result<Option<Work>> {
        let Some(reader) = read::open(&source)? else {
            for (number, _) in shares.iter().enumerate().filter(|(_, share)| share.has_prior()) {
                self.branch(number, Branch::parent_end)?;
            }
            return Ok(Some(Work::Unread { path: candidate.record.path, shares }));
        };
        read::take_stat(&mut candidate, &reader);
        let Candidate { record, relation } = candidate;
        self.large = Some((Arc::new(OpenRun { reader, record: Arc::new(record), relation, shares }), 0));
        self.next_run()
    }

    fn next_run(&mut self) -> Result<Option<Work>> {
        let Some((file, offset)) = self.large.take() else { return Ok(None) };
        let size = file.record.size;
        let len = usize::try_from((size - offset).min(RUN as u64)).unwrap_or(RUN);
        let next = offset + len as u64;
        let last = next >= size;
        let before = self.before(&file.shares, len, last)?;
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.resize(len, 0);
        let place = RunPlace { offset, last, before };
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
            Output::Sealed { raw, frames } => {
                self.keep(raw);
                for (number, sealed) in frames {
                    self.branch(number, |branch| branch.pack(sealed))?;
                }
            }
        }
        Ok(())
    }

    fn take_result(&mut self) -> Result<()> {
        self.receive()?;
        while let Some(done) = self.reads.next() {
            done.into_iter().try_for_each(|done| self.gather_one(done))?;
            let done = self.branches.iter().flatten().map(|branch| branch.gather.totals.bytes).max();
            let done = done.unwrap_or(0);
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
            Done::Entry { record, same } => {
                for (number, same) in same.into_iter().enumerate() {
                    let record = record.clone();
                    self.branch(number, |branch| branch.gather.entry(&mut branch.index, record, same))?;
                }
                Ok(())
            }
            Done::Removed { branch, path } => {
                let removed = |branch: &mut Branch| branch.gather.removed(&mut branch.index, path);
                self.branch(branch, removed).map(drop)
            }
            Done::Unread { path, shares } => {
                for (number, share) in shares.iter().enumerate() {
                    self.branch(number, |branch| branch.unread(&path, share))?;
                }
                Ok(())
            }
            Done::Small { record, found, shares, mut before } => {
                let (size, end) = (record.size, found.end);
                let ends = before.iter_mut().map(|before| before.end.take()).collect();
                self.begin(&record, &shares, ends)?;
                self.take_run(&record.path, found, &shares, &before)?;
                let size = if record.flags.relation { size } else { end.unwrap_or(size) };
                self.finish_file(&record, size, &shares, &mut before)
            }
            Done::Run { file, place, found } => self.gather_run(&file, place, found),
            Done::TooLarge { file, before } => self.read_inline(&Arc::new(file), before),
        }
    }

    fn gather_run(&mut self, file: &Arc<OpenRun>, mut place: RunPlace, found: read::Found) -> Result<()> {
        if place.offset == 0 {
            self.true_size = None;
            let ends = file.shares.iter().map(|_| None).collect();
            self.begin(&file.record, &file.shares, ends)?;
        }
        if let (Some(end), None) = (found.end, self.true_size) {
            self.true_size = Some(end);
        }
        self.take_run(&file.record.path, found, &file.shares, &place.before)?;
        if !place.last {
            return Ok(());
        }
        let size = if file.record.flags.relation { None } else { self.true_size };
        let size = size.unwrap_or(file.record.size);
        self.finish_file(&file.record, size, &file.shares, &mut place.before)
    }

    /// A file that was small when it was listed and large when it was opened: rare, and read right here.
    fn read_inline(&mut self, file: &Arc<OpenRun>, mut before: Vec<Before>) -> Result<()> {
        let size = file.record.size;
        for (offset, number) in (0..size).step_by(RUN).zip(0_usize..) {
            let len = usize::try_from((size - offset).min(RUN as u64)).unwrap_or(RUN);
            let last = offset + len as u64 >= size;
            let part = |before: &mut Before| Before {
                known: before.known.part(number * (RUN / GRAIN), RUN / GRAIN),
                end: if last { before.end.take() } else { None },
            };
            let place = RunPlace { offset, last, before: before.iter_mut().map(part).collect() };
            let work = Work::Run { file: Arc::clone(file), place, buffer: vec![0; len] };
            let done = read::perform(work, &self.lens)?;
            self.gather_one(done)?;
            // It may be large by now: what is out stays bounded.
            while self.sealing() >= self.limit() {
                self.receive()?;
            }
        }
        Ok(())
    }

    /// A file begins; `ends` are the parents' ends of it, where they are known already.
    fn begin(&mut self, record: &Arc<FileRecord>, shares: &[Share], ends: Vec<Option<Fields>>) -> Result<()> {
        for ((number, share), end) in shares.iter().enumerate().zip(ends) {
            self.branch(number, |branch| branch.begin(record, share, end))?;
        }
        Ok(())
    }

    fn take_run(
        &mut self,
        path: &RelPath,
        found: read::Found,
        shares: &[Share],
        before: &[Before],
    ) -> Result<()> {
        let read::Found { bytes, hashes, bad, .. } = found;
        let mut jobs = Vec::new();
        let branches = shares.iter().zip(before).zip(hashes).enumerate();
        for (number, ((_, before), hashes)) in branches.filter(|(_, ((share, _), _))| share.is_read()) {
            self.branch(number, |branch| {
                if !bad.is_empty() {
                    branch.note_bad(path, &bad);
                }
                let emit = |frame| join(&mut jobs, number, frame);
                branch.gather.run(&mut branch.index, &bytes, hashes, &before.known, &bad, emit)
            })?;
        }
        match jobs.iter_mut().find(|job| job.raw.is_none()) {
            Some(job) => job.raw = Some(bytes),
            None => self.keep(bytes),
        }
        self.submit(jobs);
        Ok(())
    }

    /// Sends frames to the workers, ahead of all reading.
    fn submit(&mut self, jobs: Vec<SealJob>) {
        for job in jobs {
            for frame in &job.frames {
                if let Some(Ok(branch)) = self.branches.get_mut(frame.branch) {
                    branch.seals.issue();
                }
            }
            self.pool.submit(Urgency::Finish, Job::Seal(job));
        }
    }

    fn finish_file(
        &mut self,
        record: &FileRecord,
        size: u64,
        shares: &[Share],
        before: &mut [Before],
    ) -> Result<()> {
        let mut changed = false;
        let shares = shares.iter().zip(before).enumerate().filter(|(_, (share, _))| share.is_read());
        for (number, (_, before)) in shares {
            let end = before.end.take();
            let outcome = self.branch(number, |branch| branch.gather.end(&mut branch.index, size, end))?;
            changed |= matches!(outcome, Some(Outcome::New | Outcome::Changed));
        }
        if changed {
            self.host.tell(Event::File { path: record.path.to_string(), size });
        }
        Ok(())
    }
}

/// Whether an error has nothing to do with one repository.
const fn is_of_all(error: &Error) -> bool {
    matches!(error, Error::Stopped | Error::Internal { .. } | Error::Distrust { .. } | Error::Unfit { .. })
}

/// Adds a frame of a branch to the jobs of one step: to the one that has the same content, if there is one.
fn join(jobs: &mut Vec<SealJob>, branch: usize, frame: RawFrame) {
    let RawFrame { number, raw, rows } = frame;
    let unsealed = Unsealed { branch, number, rows };
    let of_others = |job: &&mut SealJob| job.frames.iter().all(|frame| frame.branch != branch);
    match jobs.iter_mut().filter(of_others).find(|job| job.raw == raw) {
        Some(job) => job.frames.push(unsealed),
        None => jobs.push(SealJob { raw, frames: vec![unsealed] }),
    }
}

impl Branch {
    /// A branch whose hashes have this key and whose frames have up to `frame_limit` bytes; what concerns it alone is told to `host`.
    pub(crate) fn new(
        host: Host,
        key: HashKey,
        frame_limit: usize,
        parent: Option<Parent>,
        data: DataPacks,
        index: IndexPacks,
    ) -> Self {
        let gather = Gather::new(key.clone(), frame_limit);
        Self { host, key, parent, gather, data, index, seals: Ordered::default(), bad_files: Vec::new() }
    }

    fn pass(&mut self, path: Option<&RelPath>, number: usize, works: &mut Vec<Work>) -> Result<bool> {
        match &mut self.parent {
            Some(parent) => parent.pass(path, number, works),
            None => Ok(true),
        }
    }

    fn take(&mut self, entry: &ScanEntry) -> Result<Known> {
        match &mut self.parent {
            Some(parent) => parent.take(entry),
            None => Ok(Known::default()),
        }
    }

    /// Whether a file has to be read.
    fn share(&mut self, known: Known, record: &FileRecord) -> Result<Share> {
        let Known { entry, forced, hides } = known;
        let (Some(Entry::File(prior)), Some(parent)) = (entry, &mut self.parent) else {
            return Ok(Share::Compared { prior: None, forced, hides });
        };
        if parent.trust && !record.flags.control {
            match plan_read(&prior, record, parent.copy_start_ns) {
                ReadPlan::Skip if parent.reader.source().is_some_and(|source| source >= parent.broken) => {
                    let end = self.parent_end()?.ok_or(Error::Internal { what: "a file without an end" })?;
                    return Ok(Share::Unread { record: record.clone(), end, forced });
                }
                ReadPlan::Skip | ReadPlan::Read => {}
                ReadPlan::Distrust(why) => {
                    return Err(Error::Distrust { path: record.path.to_string(), why });
                }
            }
        }
        Ok(Share::Compared { prior: Some(prior), forced, hides })
    }

    fn before(&mut self, bytes: usize, last: bool) -> Result<Before> {
        let Some(parent) = &mut self.parent else { return Ok(Before::default()) };
        let known = parent.reader.grains(bytes.div_ceil(GRAIN))?;
        let known = Expected { known, recent: parent.reader.take_recent() };
        Ok(Before { known, end: if last { self.parent_end()? } else { None } })
    }

    /// The parent's end of its file; none where it is an unfinished run's.
    fn parent_end(&mut self) -> Result<Option<Fields>> {
        let Some(parent) = &mut self.parent else { return Ok(None) };
        Ok(Some(parent.reader.end()?).filter(|end| end.digest != UNKNOWN_DIGEST))
    }

    /// A file that was not read, or is gone.
    fn unread(&mut self, path: &RelPath, share: &Share) -> Result<()> {
        match share {
            Share::Unread { record, end, forced } => {
                self.gather.unread(&mut self.index, record.clone(), end, *forced)
            }
            // A link that leads nowhere any more is all that is left.
            Share::Compared { hides: true, .. } => self.gather.removed(&mut self.index, path.clone()),
            // The parent does not have it either.
            Share::Compared { hides: false, .. } | Share::Lost => Ok(()),
        }
    }

    fn begin(&mut self, record: &Arc<FileRecord>, share: &Share, end: Option<Fields>) -> Result<()> {
        let (prior, forced) = match share {
            Share::Compared { prior, forced, .. } => (prior.clone(), *forced),
            other => return self.unread(&record.path, other),
        };
        let whole = prior.is_none();
        let record = match record.flags.whole == whole {
            true => Arc::clone(record),
            false => {
                let mut record = record.as_ref().clone();
                record.flags.whole = whole;
                Arc::new(record)
            }
        };
        let parent = prior.map(|record| ParentFile { record, end });
        self.gather.begin(&mut self.index, record, parent, forced)
    }

    /// Takes a sealed frame; those whose turn it is go into packs.
    fn pack(&mut self, sealed: Sealed) -> Result<()> {
        self.seals.ready.insert(sealed.number, sealed);
        while let Some(Sealed { number, raw_len, frame, rows }) = self.seals.next() {
            self.data.push(&mut self.index, number, raw_len, &frame, rows)?;
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

    /// Adds a WAL segment behind all that was copied, in the order of their names. `compressor`: of the frames.
    pub(super) fn add_segment(
        &mut self,
        path: RelPath,
        content: &[u8],
        mtime_ns: i64,
        compressor: &mut Compressor,
    ) -> Result<()> {
        self.pass_segments(Some(&path))?;
        let meta = self.gather.wal_meta().ok_or_else(|| Error::Unfit {
            reason: format!("it has no '{}' that WAL could be copied to", RelPath::PG_WAL),
        })?;
        let (size, flags) = (content.len() as u64, FileFlags { whole: true, ..FileFlags::default() });
        let record = FileRecord { path, meta, size, mtime_ns, ctime_ns: 0, inode: 0, flags };
        self.gather.begin(&mut self.index, Arc::new(record), None, false)?;
        for run in content.chunks(RUN) {
            let mut frames = Vec::new();
            let hashes = hash_grains(&self.key, run);
            self.gather
                .run(&mut self.index, run, hashes, &Expected::default(), &[], |frame| frames.push(frame))?;
            self.seal_here(frames, run, compressor)?;
        }
        self.gather.end(&mut self.index, size, None).map(drop)
    }

    /// Passes over what the parent has before a segment, or over all that is left: it is gone. What it has of the segment is of no use.
    fn pass_segments(&mut self, path: Option<&RelPath>) -> Result<()> {
        loop {
            let mut works = Vec::new();
            let passed = self.pass(path, 0, &mut works)?;
            for work in works {
                if let Work::Removed { path, .. } = work {
                    self.gather.removed(&mut self.index, path)?;
                }
            }
            if passed {
                break;
            }
        }
        let (Some(path), Some(parent)) = (path, &mut self.parent) else { return Ok(()) };
        while let Some(entry) = parent.reader.take(path)? {
            if matches!(entry, Entry::File(_)) {
                parent.reader.end()?;
            }
        }
        Ok(())
    }

    /// Seals frames on this thread; one without content is all of `run`.
    fn seal_here(&mut self, frames: Vec<RawFrame>, run: &[u8], compressor: &mut Compressor) -> Result<()> {
        let sealer = self.data.sealer();
        for RawFrame { number, raw, rows } in frames {
            let raw = raw.as_deref().unwrap_or(run);
            let frame = sealer.seal(compressor, FrameKind::Data, number, raw)?;
            let raw_len = u32::try_from(raw.len()).unwrap_or(u32::MAX);
            self.seals.issue();
            self.pack(Sealed { number, raw_len, frame, rows })?;
        }
        Ok(())
    }

    /// Closes index and packs, and waits until all of them are stored. `compressor`: of what was added last.
    pub(super) fn finish(mut self, compressor: &mut Compressor) -> Result<Copied> {
        self.pass_segments(None)?;
        let mut frames = Vec::new();
        self.gather.last_frame(|frame| frames.push(frame));
        self.seal_here(frames, &[], compressor)?;
        let Self { gather, data, mut index, bad_files, .. } = self;
        let gathered = gather.finish(&mut index)?;
        let data = data.finish(&mut index)?;
        let index = index.finish()?;
        if gathered.written.stream != data.stream {
            return Err(Error::Internal {
                what: "index and frame table disagree on the length of the stream",
            });
        }
        Ok(Copied { gathered, bad_files, data, index })
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
    fn pass(&mut self, path: Option<&RelPath>, branch: usize, works: &mut Vec<Work>) -> Result<bool> {
        while let Some(gone) = self.reader.pass_before(path)? {
            // One record says that a whole directory is gone; and what a link led to goes with the link.
            let said = self.removed.as_ref().is_some_and(|removed| gone.is_within(removed));
            if !said && self.link.as_ref() != Some(&gone) {
                self.removed = Some(gone.clone());
                works.push(Work::Removed { branch, path: gone });
                if works.len() >= MAX_BATCH {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// What the parent has where this entry is, and whether the entry has to be written even if it is the same: a link and what it leads
    /// to are one.
    fn take(&mut self, entry: &ScanEntry) -> Result<Known> {
        let path = &entry.path;
        let is_link = matches!(entry.kind, EntryKind::Link { .. });
        let behind = self.link.take().is_some_and(|link| link == *path);
        if let Some(unlinked) = self.unlinked.take().filter(|_| behind) {
            return Ok(Known { entry: Some(unlinked), forced: true, hides: false });
        }
        let mut known = self.reader.take(path)?;
        let mut forced = behind;
        if is_link {
            self.link = Some(path.clone());
            if !matches!(known, None | Some(Entry::Link { .. })) {
                self.unlinked = known.take();
            }
            return Ok(Known { entry: known, forced: true, hides: false });
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
            return Ok(Known { entry: None, forced: true, hides: false });
        }
        Ok(Known { entry: known, forced, hides })
    }
}

const fn is_large(kind: &EntryKind) -> bool {
    matches!(kind, EntryKind::File { size, .. } if *size > RUN as u64)
}

fn meta(meta: &pgbr_pg::FileMeta) -> Meta {
    Meta { mode: meta.mode & 0o7777, user: meta.user.clone(), group: meta.group.clone() }
}

fn file_record(path: &RelPath, file_meta: &pgbr_pg::FileMeta, kind: EntryKind) -> Result<Candidate> {
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
    Ok(Candidate { record, relation })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_several_branches_share_a_job_where_their_bytes_are_the_same() {
        let mut jobs = Vec::new();
        let mut add = |branch, number, raw: Option<&[u8]>| {
            let raw = raw.map(<[u8]>::to_vec);
            join(&mut jobs, branch, RawFrame { number, raw, rows: Vec::new() });
        };
        // Each branch gives what it has gathered before, and then the run itself.
        add(0, 7, Some(b"before"));
        add(0, 8, None);
        add(1, 3, Some(b"before"));
        add(1, 4, None);
        add(2, 0, Some(b"other"));
        add(2, 1, None);
        // Content that comes again is a frame of its own.
        add(2, 2, Some(b"other"));
        let text = |job: &SealJob| {
            let raw = job.raw.as_deref().map_or("the run".into(), String::from_utf8_lossy);
            let frames: Vec<_> = job.frames.iter().map(|f| format!("{}/{}", f.branch, f.number)).collect();
            format!("{raw}: {}", frames.join(" "))
        };
        let found: Vec<String> = jobs.iter().map(text).collect();
        let wanted = ["before: 0/7 1/3", "the run: 0/8 1/4 2/1", "other: 2/0", "other: 2/2"];
        assert_eq!(found, wanted);
    }
}
