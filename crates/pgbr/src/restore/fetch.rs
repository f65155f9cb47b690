//! The stream of a restore: what a chain says, its frames fetched ahead, opened and written on all cores.
//!
//! One thread (this module's) decides; fetching runs on tokio, the rest on the workers. What is out is bounded in bytes and frames.

use std::sync::Arc;

use bytes::Bytes;
use pgbr_manifest::index::{Fields, FileRecord};
use pgbr_manifest::merge::{Item, Merge};
use pgbr_manifest::{
    BackupLabel, Digest, FileDigester, GRAIN, HashKey, ListDigester, Nesting, RelPath, ZERO_GRAIN,
};
use tokio::runtime::Handle;

use super::layout::Layout;
use super::look::{Look, Looked, Need, Wanted, look};
use super::source::{AllKeys, Bounds, FrameWork, Group, Source, SourceKeys};
use super::write::{Fault, Making, OpenFiles, Piece, Scratch, Target, write_frame};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::load::{self, Backup, FirstNodes, LayerNodes};
use crate::observe::Event;
use crate::place::StanzaPlace;
use crate::pool::{Ordered, Pool, Submitter, Urgency};
use crate::run::RUN;

/// After how many grains of zeros a stop is looked for.
const ZEROS_AT_ONCE: u64 = 1 << 20;
/// Jobs of comparing under way for each worker.
const LOOKS_A_THREAD: usize = 3;
/// The most runs in one job: small files share jobs.
const MAX_LOOKS: usize = 256;
/// The most pieces of files that wait for their frames or are out: of tiny files a frame holds very many.
const MAX_PIECES: usize = 128 << 10;

/// What was written.
#[derive(Debug, Clone, Default)]
pub(crate) struct Written {
    /// Bytes of all files.
    pub(crate) bytes: u64,
    /// Regular files.
    pub(crate) files: u64,
    /// Bytes that were there already.
    pub(crate) kept: u64,
    /// What was asked of each backup of the chain, newest first.
    pub(crate) fetched: Vec<Fetched>,
}

/// What was asked of one backup.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Fetched {
    /// The backup.
    pub label: BackupLabel,
    /// How many frames.
    pub frames: u64,
    /// Their bytes, as stored.
    pub bytes: u64,
}

enum Job {
    Look { number: u64, looks: Vec<Look> },
    Frame { work: FrameWork, stored: Bytes },
    Finish(Arc<Target>),
}

enum Output {
    /// Runs were compared.
    Looked {
        number: u64,
        looked: Vec<Looked>,
    },
    /// A frame was written: its stored length, and how many pieces it had.
    Frame(u64, usize),
    Finished,
    Failed(Error),
}

/// Writes all files of the newest backup of `chain` into the directories that `layout` made or makes.
pub(crate) fn write_files(
    host: &Host,
    place: &StanzaPlace,
    chain: &[Backup],
    layout: &mut Layout,
    threads: usize,
    runtime: &Handle,
) -> Result<Written> {
    let Some(backup) = chain.first() else {
        return Err(Error::Internal { what: "a chain without a backup" });
    };
    let layers = load::layers(chain);
    // Each is read twice: its index and its frame table.
    let read_ahead = load::read_ahead(2 * layers.len());
    let keys: AllKeys = Arc::new(layers.iter().map(|layer| SourceKeys::new(place, layer)).collect());
    let gate = FirstNodes::new();
    let indexes = layers.iter().map(|layer| {
        let nodes = LayerNodes::new(place, layer.label, &layer.layer, runtime.clone());
        (layer.layer.index, nodes.with_read_ahead(read_ahead).warmed(layer.layer.index, &gate))
    });
    let mut merge = Merge::new(indexes);
    let source = |(number, layer)| Source::new(number, place, layer, runtime, read_ahead, &gate);
    let mut fetch = Fetch {
        host,
        place,
        backup,
        runtime,
        sources: layers.iter().enumerate().map(source).collect(),
        pool: start_workers(&keys, &backup.body.hash_key, threads)?,
        keys,
        files: OpenFiles::new(),
        dry: layout.making() == Making::Dry,
        look_limit: (threads.max(1) * LOOKS_A_THREAD) as u64,
        looks: Ordered::default(),
        batch: Batch::default(),
        out_frames: 0,
        out_bytes: 0,
        pieces: 0,
        bounds: Bounds::of(place.repo.store().is_local()),
        open: None,
        list: ListDigester::new(&backup.body.hash_key),
        nesting: Nesting::default(),
        written: Written { fetched: chain.iter().map(nothing_of).collect(), ..Written::default() },
    };
    while let Some(item) = merge.next_item()? {
        host.stop.check()?;
        fetch.item(layout, item)?;
    }
    layout.finish_sweep()?;
    fetch.finish()
}

const fn nothing_of(backup: &Backup) -> Fetched {
    Fetched { label: backup.summary.label, frames: 0, bytes: 0 }
}

fn start_workers(keys: &AllKeys, key: &HashKey, threads: usize) -> Result<Pool<Job, Output>> {
    let make = || {
        let (keys, key, mut scratch) = (Arc::clone(keys), key.clone(), Scratch::new());
        let mut buffer = Vec::new();
        move |job| match job {
            Job::Look { number, looks } => {
                let looked: Result<Vec<_>> =
                    looks.into_iter().map(|run| look(run, &key, &mut buffer)).collect();
                looked.map_or_else(Output::Failed, |looked| Output::Looked { number, looked })
            }
            Job::Finish(target) => target.finish().map_or_else(Output::Failed, |()| Output::Finished),
            Job::Frame { work, stored } => open_and_write(&work, &stored, &keys, &key, &mut scratch)
                .map_or_else(Output::Failed, |()| {
                    Output::Frame(u64::from(work.place.len), work.pieces.len())
                }),
        }
    };
    Pool::start(threads, make).map_err(Error::io("start a thread for", "workers"))
}

fn open_and_write(
    work: &FrameWork,
    stored: &Bytes,
    keys: &AllKeys,
    key: &HashKey,
    scratch: &mut Scratch,
) -> Result<()> {
    let Some(source) = keys.get(work.source) else {
        return Err(Error::Internal { what: "an unknown source" });
    };
    let Some(opener) = source.opener(work.place.lane) else {
        return Err(source.damaged(&work.place, "it is of a lane that the manifest does not have"));
    };
    write_frame(work, stored, opener, key, scratch).map_err(|fault| match fault {
        Fault::Other(error) => error,
        Fault::Damaged(reason) => source.damaged(&work.place, &reason),
    })
}

struct Fetch<'a> {
    host: &'a Host,
    place: &'a StanzaPlace,
    backup: &'a Backup,
    runtime: &'a Handle,
    sources: Vec<Source>,
    keys: AllKeys,
    pool: Pool<Job, Output>,
    files: Arc<OpenFiles>,
    /// Whether only to count.
    dry: bool,
    /// The most jobs of comparing that are out.
    look_limit: u64,
    looks: Ordered<Vec<Looked>>,
    /// The next such job.
    batch: Batch,
    out_frames: usize,
    out_bytes: u64,
    /// Pieces that wait or are out.
    pieces: usize,
    bounds: Bounds,
    open: Option<OpenFile>,
    list: ListDigester,
    nesting: Nesting,
    written: Written,
}

/// Runs that are to be compared by one job.
#[derive(Default)]
struct Batch {
    looks: Vec<Look>,
    bytes: usize,
}

struct OpenFile {
    record: FileRecord,
    target: Arc<Target>,
    /// The run that is to be compared next, where what is there is mended.
    look: Option<Look>,
    digester: FileDigester,
    /// The next grain, to see that none is left out.
    at: u64,
}

impl Fetch<'_> {
    fn damaged(&self, reason: impl Into<String>) -> Error {
        Error::Damaged { label: self.backup.summary.label, reason: reason.into() }
    }

    fn item(&mut self, layout: &mut Layout, item: Item) -> Result<()> {
        match item {
            Item::Directory { path, meta } => {
                self.pass(&path, true)?;
                self.list.directory(path.as_bytes());
                layout.directory(&path, &meta)
            }
            Item::Link { path, target, .. } => {
                self.pass(&path, false)?;
                self.list.link(path.as_bytes(), &target);
                layout.link(self.host, &path, &target)
            }
            Item::File(record) => self.begin(layout, record),
            Item::Grains { source, grain, stream, hashes } => self.grains(source, grain, stream, hashes),
            Item::Zeros { grain, count } => self.zeros(grain, count),
            Item::Absent { grain, .. } => {
                let path = self.open.as_ref().map(|open| open.record.path.to_string()).unwrap_or_default();
                Err(self.damaged(format!("'{path}' lacks grain {grain} in all of its chain")))
            }
            Item::End(end) => self.end(&end),
        }
    }

    /// Sees that an entry may come, before anything is made of it.
    fn pass(&mut self, path: &RelPath, is_directory: bool) -> Result<()> {
        if self.list.entries() >= self.backup.body.resolved_entries {
            return Err(self.damaged("its index has more entries than its manifest says"));
        }
        self.nesting.pass(path, is_directory).map_err(|error| self.damaged(error.to_string()))
    }

    fn begin(&mut self, layout: &mut Layout, record: FileRecord) -> Result<()> {
        self.pass(&record.path, false)?;
        let target = Arc::new(layout.file(&record, &self.files)?);
        let digester = FileDigester::new(&self.backup.body.hash_key, record.size);
        let look = (layout.mends() && target.wants_content()).then(|| Look::new(Arc::clone(&target), 0));
        self.open = Some(OpenFile { record, target, look, digester, at: 0 });
        Ok(())
    }

    fn zeros(&mut self, first: u64, count: u64) -> Result<()> {
        let (mut at, end) = (first, first + count);
        while at < end {
            // A damaged index may speak of more zeros than can be counted in a day.
            self.host.stop.check()?;
            let now = (end - at).min(ZEROS_AT_ONCE);
            let open = self.open_at(at, now)?;
            (0..now).for_each(|_| open.digester.push(ZERO_GRAIN));
            at += now;
        }
        let (mut first, mut left) = (first, count);
        while left > 0 {
            self.host.stop.check()?;
            let Some(room) = self.look_room(first)? else { return Ok(()) };
            let now = left.min(room);
            self.want(first, now, Wanted::Zeros(now));
            (first, left) = (first + now, left - now);
        }
        Ok(())
    }

    fn grains(&mut self, source: usize, first: u64, stream: u64, hashes: Vec<u64>) -> Result<()> {
        let open = self.open_at(first, hashes.len() as u64)?;
        hashes.iter().for_each(|hash| open.digester.push(*hash));
        if !open.target.wants_content() {
            return Ok(());
        }
        let (target, size) = (Arc::clone(&open.target), open.record.size);
        let (mut done, mut rest) = (0, hashes.as_slice());
        while let Some(room) = self.look_room(first + done)?.filter(|_| !rest.is_empty()) {
            let (now, later) = rest.split_at(rest.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
            let stream = stream + done * GRAIN as u64;
            let count = now.len() as u64;
            self.want(first + done, count, Wanted::Stored { source, stream, hashes: now.to_vec() });
            (done, rest) = (done + count, later);
        }
        if rest.is_empty() {
            return Ok(());
        }
        let offset = first * GRAIN as u64;
        let len = (size.saturating_sub(offset)).min(hashes.len() as u64 * GRAIN as u64);
        self.need(&target, Need { source, stream, offset, len, hashes })
    }

    /// How many grains, from `grain` of the open file on, fit into the run that is compared next; none where nothing is compared.
    fn look_room(&mut self, grain: u64) -> Result<Option<u64>> {
        let Some(look) = self.open.as_mut().and_then(|open| open.look.as_mut()) else { return Ok(None) };
        if look.room() == 0 {
            let next = Look::new(Arc::clone(&look.target), grain * GRAIN as u64);
            let full = std::mem::replace(look, next);
            self.compare(full)?;
        }
        Ok(self.open.as_ref().and_then(|open| open.look.as_ref()).map(Look::room))
    }

    fn want(&mut self, first: u64, count: u64, wanted: Wanted) {
        let Some(open) = &mut self.open else { return };
        let Some(look) = &mut open.look else { return };
        let (start, end) = (first * GRAIN as u64, (first + count) * GRAIN as u64);
        look.len += usize::try_from(end.min(open.record.size).saturating_sub(start)).unwrap_or(0);
        look.wanted.push(wanted);
    }

    /// Puts a run into the next job of comparing.
    fn compare(&mut self, look: Look) -> Result<()> {
        look.target.add_piece();
        self.batch.bytes += look.len;
        self.batch.looks.push(look);
        if self.batch.bytes >= RUN || self.batch.looks.len() >= MAX_LOOKS {
            self.send_batch()
        } else {
            Ok(())
        }
    }

    fn send_batch(&mut self) -> Result<()> {
        let looks = std::mem::take(&mut self.batch).looks;
        if looks.is_empty() {
            return Ok(());
        }
        self.settle(self.look_limit.saturating_sub(1))?;
        let number = self.looks.issue();
        self.pool.submit(Urgency::Begin, Job::Look { number, looks });
        Ok(())
    }

    /// Asks for what comparing has found to be needed, in order, until at most `out` jobs of it are out.
    fn settle(&mut self, out: u64) -> Result<()> {
        loop {
            while let Some(looked) = self.looks.next() {
                looked.into_iter().try_for_each(|looked| self.looked(looked))?;
            }
            if self.looks.out() <= out {
                return Ok(());
            }
            self.take_result()?;
        }
    }

    fn looked(&mut self, looked: Looked) -> Result<()> {
        self.written.kept += looked.kept;
        let Some((target, needs)) = looked.needed else { return Ok(()) };
        needs.into_iter().try_for_each(|need| self.need(&target, need))?;
        if target.piece_done() {
            self.complete(target);
        }
        Ok(())
    }

    fn complete(&mut self, target: Arc<Target>) {
        self.out_frames += 1;
        self.pool.submit(Urgency::Finish, Job::Finish(target));
    }

    /// The open file, where the next grain is `first`.
    fn open_at(&mut self, first: u64, count: u64) -> Result<&mut OpenFile> {
        let label = self.backup.summary.label;
        let Some(open) = &mut self.open else {
            return Err(Error::Internal { what: "grains without a file" });
        };
        if open.at != first {
            let reason = format!("'{}' lacks grain {} in its index", open.record.path, open.at);
            return Err(Error::Damaged { label, reason });
        }
        open.at = first + count;
        Ok(open)
    }

    /// Asks for grains: pieces of the frames that hold them.
    fn need(&mut self, target: &Arc<Target>, need: Need) -> Result<()> {
        let Need { source, mut stream, mut offset, len: mut left, hashes } = need;
        let mut hashes = hashes.as_slice();
        while !hashes.is_empty() {
            let (frame_start, frame_end, closed) = self.source(source)?.reach(stream)?;
            self.closed(closed)?;
            let len = left.min(frame_end - stream);
            if len < left && !len.is_multiple_of(GRAIN as u64) {
                return Err(self.damaged("a frame ends inside a grain"));
            }
            let (now, later) =
                hashes.split_at(usize::try_from(len.div_ceil(GRAIN as u64)).unwrap_or(0).min(hashes.len()));
            target.add_piece();
            let piece = Piece {
                target: Arc::clone(target),
                at: usize::try_from(stream - frame_start).unwrap_or(usize::MAX),
                offset,
                len: usize::try_from(len).unwrap_or(usize::MAX),
                hashes: now.to_vec(),
            };
            self.source(source)?.need(piece);
            self.pieces += 1;
            if self.pieces > MAX_PIECES {
                self.flush()?;
            }
            (offset, stream, left, hashes) = (offset + len, stream + len, left - len, later);
        }
        Ok(())
    }

    /// Asks for all that waits, and waits for all that is out. Of a frame that more is needed of, the rest goes by another request.
    fn flush(&mut self) -> Result<()> {
        let groups: Vec<Group> = self.sources.iter_mut().flat_map(Source::flush).collect();
        groups.into_iter().try_for_each(|group| self.dispatch(group))?;
        while self.out_frames > 0 {
            self.take_result()?;
        }
        self.pieces = 0;
        Ok(())
    }

    fn source(&mut self, number: usize) -> Result<&mut Source> {
        self.sources.get_mut(number).ok_or(Error::Internal { what: "an unknown source" })
    }

    /// After a step of a source: asks for the group that it closed, or for the largest where too many frames wait.
    fn closed(&mut self, group: Option<Group>) -> Result<()> {
        let Some(group) = group else { return Ok(()) };
        self.dispatch(group)?;
        if self.sources.iter().map(Source::waiting).sum::<usize>() <= self.bounds.waiting_frames {
            return Ok(());
        }
        let largest = self.sources.iter_mut().max_by_key(|source| source.waiting());
        match largest.map(Source::take_group) {
            Some(group) => self.dispatch(group),
            None => Ok(()),
        }
    }

    /// Asks for a group of frames; waits while too much is out.
    fn dispatch(&mut self, group: Group) -> Result<()> {
        let (Some(first), bytes) = (group.frames.first(), group.bytes) else { return Ok(()) };
        let Some(keys) = self.keys.get(first.source) else {
            return Err(Error::Internal { what: "an unknown source" });
        };
        let (label, attempt) = (keys.label, keys.attempt);
        if let Some(fetched) = self.written.fetched.iter_mut().find(|fetched| fetched.label == label) {
            fetched.frames += group.frames.len() as u64;
            fetched.bytes += bytes;
        }
        if self.dry {
            let pieces: usize = group.frames.iter().map(|work| work.pieces.len()).sum();
            self.pieces = self.pieces.saturating_sub(pieces);
            return Ok(());
        }
        while self.out_frames > 0
            && (self.out_frames + group.frames.len() > self.bounds.out_frames
                || self.out_bytes + bytes > self.bounds.out_bytes)
        {
            self.take_result()?;
        }
        let (pack, range) = (first.place.pack, first.place.offset..first.place.offset + bytes);
        self.out_frames += group.frames.len();
        self.out_bytes += bytes;
        let (backups, submitter) = (self.place.backups.clone(), self.pool.submitter());
        self.runtime.spawn(async move {
            let got = backups.get_pack_range(&label, attempt, pack, false, range).await;
            hand_out(got, group, &submitter, label);
        });
        Ok(())
    }

    fn take_result(&mut self) -> Result<()> {
        // Of a small cluster all is asked for before anything has come.
        self.host.stop.check()?;
        match self.pool.next_result()? {
            Output::Failed(error) => return Err(error),
            Output::Looked { number, looked } => {
                self.looks.ready.insert(number, looked);
                return Ok(());
            }
            Output::Frame(len, pieces) => {
                self.out_bytes = self.out_bytes.saturating_sub(len);
                self.pieces = self.pieces.saturating_sub(pieces);
            }
            Output::Finished => {}
        }
        self.out_frames = self.out_frames.saturating_sub(1);
        Ok(())
    }

    fn end(&mut self, end: &Fields) -> Result<()> {
        let Some(open) = self.open.take() else {
            return Err(Error::Internal { what: "an end without a file" });
        };
        let OpenFile { record, target, look, digester, at } = open;
        if at != record.size.div_ceil(GRAIN as u64) || digester.finish() != end.digest {
            return Err(self.damaged(format!("'{}' is not complete in the index", record.path)));
        }
        self.list.file(record.path.as_bytes(), end.size, end.digest);
        self.written.files += 1;
        self.written.bytes += end.size;
        if let Some(look) = look {
            self.compare(look)?;
        }
        if target.end(end.size) {
            self.complete(target);
        }
        while self.out_frames > self.bounds.out_frames {
            self.take_result()?;
        }
        self.host.tell(Event::File { path: record.path.to_string(), size: end.size });
        self.host
            .tell(Event::Progress { done: self.written.bytes, total: self.backup.summary.sizes.database });
        Ok(())
    }

    /// Waits for all that is out, and compares what was read of the index with what the manifest says of it.
    fn finish(mut self) -> Result<Written> {
        self.send_batch()?;
        self.settle(0)?;
        let last: Vec<Group> = self.sources.iter_mut().flat_map(Source::flush).collect();
        last.into_iter().try_for_each(|group| self.dispatch(group))?;
        while self.out_frames > 0 {
            self.take_result()?;
        }
        let (entries, digest): (u64, Digest) = self.list.finish();
        if (entries, digest) != (self.backup.body.resolved_entries, self.backup.body.resolved_digest) {
            return Err(self.damaged("its index does not give the list of files that its manifest says"));
        }
        Ok(self.written)
    }
}

/// Gives the frames of a group to the workers, or tells why they could not be had.
fn hand_out(
    got: Result<Bytes, pgbr_repo::Error>,
    group: Group,
    submitter: &Submitter<Job, Output>,
    label: BackupLabel,
) {
    let bytes = match got {
        Ok(bytes) => bytes,
        Err(error) => return submitter.report(Output::Failed(error.into())),
    };
    let mut at = 0;
    for work in group.frames {
        let end = at + work.place.len as usize;
        if end > bytes.len() {
            let reason = format!("data pack {} is shorter than its frame table says", work.place.pack);
            return submitter.report(Output::Failed(Error::Damaged { label, reason }));
        }
        let stored = bytes.slice(at..end);
        at = end;
        submitter.submit(Urgency::Begin, Job::Frame { work, stored });
    }
}
