//! The stream of a restore: index and frame table side by side, frames fetched ahead, opened and written on all cores.
//!
//! One thread (this module's) decides; fetching runs on tokio, the rest on the workers. What is out is bounded in bytes and frames.

use std::sync::Arc;

use bytes::Bytes;
use pgbr_codec::{ObjectKind, Opener};
use pgbr_manifest::index::{Fields, FileRecord, FrameCursor, FramePlace, IndexCursor, Placed, Record};
use pgbr_manifest::manifest::Layer;
use pgbr_manifest::{Digest, FileDigester, GRAIN, HashKey, ListDigester, ZERO_GRAIN};
use tokio::runtime::Handle;

use super::target::Layout;
use super::write::{Fault, FrameWork, Piece, Scratch, Target, write_frame};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::load::{Backup, LayerNodes, lane_opener};
use crate::observe::Event;
use crate::place::StanzaPlace;
use crate::pool::{Pool, Submitter, Urgency};

/// One request fetches frames up to this many bytes.
const GROUP_BYTES: u64 = 4 << 20;
/// And up to this many frames.
const GROUP_FRAMES: usize = 64;
/// The most frames that are out at once.
const OUT_FRAMES: usize = 256;
/// The most stored bytes that are out at once.
const OUT_BYTES: u64 = 24 << 20;

/// What was written.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Written {
    /// Bytes of all files.
    pub(crate) bytes: u64,
    /// Regular files.
    pub(crate) files: u64,
}

enum Job {
    Frame { work: FrameWork, stored: Bytes },
    Finish(Arc<Target>),
}

enum Output {
    /// A frame was written: its stored length.
    Frame(u64),
    Finished,
    Failed(Error),
}

/// Writes all files of a backup into the directories that `layout` made or makes.
pub(crate) fn write_files(
    host: &Host,
    place: &StanzaPlace,
    backup: &Backup,
    layout: &mut Layout,
    threads: usize,
    runtime: &Handle,
) -> Result<Written> {
    let label = backup.summary.label;
    let [layer] = backup.body.layers.as_slice() else {
        return Err(Error::Unsupported {
            what: format!("backup {label} of {} layers", backup.body.layers.len()),
        });
    };
    let layer = Arc::new(layer.clone());
    let pool = start_workers(place, backup, &layer, threads)?;
    let mut records = LayerNodes::new(place, label, &layer, runtime.clone());
    let mut index = IndexCursor::new(layer.index);
    let mut fetch = Fetch {
        host,
        place,
        backup,
        runtime,
        nodes: LayerNodes::new(place, label, &layer, runtime.clone()),
        table: FrameCursor::new(layer.frames),
        layer: Arc::clone(&layer),
        pool,
        frame: None,
        group: Group::default(),
        out_frames: 0,
        out_bytes: 0,
        open: None,
        list: ListDigester::new(&backup.body.hash_key),
        written: Written::default(),
    };
    while let Some(placed) = index.next_record(&mut records)? {
        host.stop.check()?;
        fetch.record(layout, placed)?;
    }
    fetch.finish()
}

fn start_workers(
    place: &StanzaPlace,
    backup: &Backup,
    layer: &Layer,
    threads: usize,
) -> Result<Pool<Job, Output>> {
    let keys = place.repo.keyring();
    let openers: Vec<Opener> =
        layer.data_lanes.iter().map(|salt| lane_opener(keys, ObjectKind::DataPack, *salt)).collect();
    let (label, attempt) = (backup.summary.label, layer.attempt);
    let make = || {
        let (openers, key, mut scratch) = (openers.clone(), backup.body.hash_key.clone(), Scratch::new());
        move |job| match job {
            Job::Finish(target) => target.finish().map_or_else(Output::Failed, |()| Output::Finished),
            Job::Frame { work, stored } => match open_and_write(&work, &stored, &openers, &key, &mut scratch)
            {
                Ok(()) => Output::Frame(u64::from(work.place.len)),
                Err(Fault::Other(error)) => Output::Failed(error),
                Err(Fault::Damaged(what)) => {
                    let FramePlace { pack, offset, .. } = work.place;
                    let reason = format!("pack {attempt:016x}-{pack:08x}, frame at {offset}: {what}");
                    Output::Failed(Error::Damaged { label, reason })
                }
            },
        }
    };
    Pool::start(threads, make).map_err(Error::io("start a thread for", "workers"))
}

fn open_and_write(
    work: &FrameWork,
    stored: &Bytes,
    openers: &[Opener],
    key: &HashKey,
    scratch: &mut Scratch,
) -> Result<(), Fault> {
    let opener = openers.get(work.place.lane as usize);
    let opener =
        opener.ok_or_else(|| Fault::Damaged("it is of a lane that the manifest does not have".to_owned()))?;
    write_frame(work, stored, opener, key, scratch)
}

/// Frames that one request fetches: they stand one after the other in one pack.
#[derive(Default)]
struct Group {
    frames: Vec<FrameWork>,
    bytes: u64,
}

impl Group {
    fn takes(&self, place: &FramePlace) -> bool {
        self.frames.last().is_none_or(|last| {
            last.place.pack == place.pack
                && last.place.offset + u64::from(last.place.len) == place.offset
                && self.bytes + u64::from(place.len) <= GROUP_BYTES
                && self.frames.len() < GROUP_FRAMES
        })
    }
}

struct Fetch<'a> {
    host: &'a Host,
    place: &'a StanzaPlace,
    backup: &'a Backup,
    runtime: &'a Handle,
    nodes: LayerNodes,
    table: FrameCursor,
    layer: Arc<Layer>,
    pool: Pool<Job, Output>,
    /// The frame that the next grains lie in.
    frame: Option<FrameWork>,
    group: Group,
    out_frames: usize,
    out_bytes: u64,
    open: Option<OpenFile>,
    list: ListDigester,
    written: Written,
}

struct OpenFile {
    record: FileRecord,
    target: Arc<Target>,
    digester: FileDigester,
    /// The next grain, to see that none is left out.
    at: u64,
}

impl Fetch<'_> {
    fn damaged(&self, reason: impl Into<String>) -> Error {
        Error::Damaged { label: self.backup.summary.label, reason: reason.into() }
    }

    fn record(&mut self, layout: &mut Layout, placed: Placed) -> Result<()> {
        match placed.record {
            Record::Directory { path, meta } => {
                self.list.directory(path.as_bytes());
                layout.directory(&path, &meta)
            }
            Record::Link { path, target, .. } => {
                self.list.link(path.as_bytes(), &target);
                layout.link(self.host, &path, &target)
            }
            Record::File(record) => self.begin(layout, record),
            Record::Grains { hashes, .. } => self.grains(placed.grain, placed.stream, &hashes),
            Record::Zeros { count, .. } => self.zeros(placed.grain, count),
            Record::End(end) => self.end(&end),
            Record::Removed { path } => {
                Err(self.damaged(format!("a full backup says that '{path}' was removed")))
            }
            Record::Kept(file) => {
                Err(self.damaged(format!("a full backup takes '{}' from another one", file.path)))
            }
            Record::Continue { .. } => Err(Error::Internal { what: "a cursor gives no 'continue'" }),
        }
    }

    fn begin(&mut self, layout: &mut Layout, record: FileRecord) -> Result<()> {
        let target = Arc::new(layout.file(&record)?);
        let digester = FileDigester::new(&self.backup.body.hash_key, record.size);
        self.open = Some(OpenFile { record, target, digester, at: 0 });
        Ok(())
    }

    fn zeros(&mut self, first: u64, count: u64) -> Result<()> {
        let open = self.open_at(first, count)?;
        (0..count).for_each(|_| open.digester.push(ZERO_GRAIN));
        Ok(())
    }

    /// The open file, where the next grain is `first`.
    fn open_at(&mut self, first: u64, count: u64) -> Result<&mut OpenFile> {
        let label = self.backup.summary.label;
        let Some(open) = &mut self.open else {
            return Err(Error::Internal { what: "grains without a file" });
        };
        if open.at != first {
            let reason = format!("'{}' lacks grain {} in a full backup", open.record.path, open.at);
            return Err(Error::Damaged { label, reason });
        }
        open.at = first + count;
        Ok(open)
    }

    fn grains(&mut self, first: u64, mut stream: u64, mut hashes: &[u64]) -> Result<()> {
        let open = self.open_at(first, hashes.len() as u64)?;
        hashes.iter().for_each(|hash| open.digester.push(*hash));
        let (target, size) = (Arc::clone(&open.target), open.record.size);
        let mut offset = first * GRAIN as u64;
        while !hashes.is_empty() {
            let frame_end = self.frame_at(stream)?;
            let room = frame_end - stream;
            let left = (size - offset).min(hashes.len() as u64 * GRAIN as u64);
            let len = left.min(room);
            if len < left && !len.is_multiple_of(GRAIN as u64) {
                return Err(self.damaged("a frame ends inside a grain"));
            }
            let (now, later) =
                hashes.split_at(usize::try_from(len.div_ceil(GRAIN as u64)).unwrap_or(0).min(hashes.len()));
            target.add_piece();
            let piece = Piece {
                target: Arc::clone(&target),
                offset,
                len: usize::try_from(len).unwrap_or(0),
                hashes: now.to_vec(),
            };
            if let Some(frame) = &mut self.frame {
                frame.pieces.push(piece);
            }
            (offset, stream, hashes) = (offset + len, stream + len, later);
            if stream == frame_end {
                self.dispatch_frame()?;
            }
        }
        Ok(())
    }

    /// Makes sure that the open frame is the one with the byte at `stream`; gives its end.
    fn frame_at(&mut self, stream: u64) -> Result<u64> {
        if self.frame.is_none() {
            let next = self.table.next_frame(&mut self.nodes)?;
            let place = next.ok_or_else(|| self.damaged("its frame table ends before its index"))?;
            if place.stream != stream {
                return Err(self.damaged("its frame table and its index do not agree"));
            }
            self.frame = Some(FrameWork { place, pieces: Vec::new() });
        }
        Ok(self.frame.as_ref().map_or(stream, |f| f.place.stream + u64::from(f.place.raw_len)))
    }

    fn dispatch_frame(&mut self) -> Result<()> {
        let Some(work) = self.frame.take() else { return Ok(()) };
        if !self.group.takes(&work.place) {
            self.dispatch_group()?;
        }
        self.group.bytes += u64::from(work.place.len);
        self.group.frames.push(work);
        Ok(())
    }

    /// Asks for a group of frames; waits while too much is out.
    fn dispatch_group(&mut self) -> Result<()> {
        let group = std::mem::take(&mut self.group);
        let (Some(first), bytes) = (group.frames.first(), group.bytes) else { return Ok(()) };
        while self.out_frames > 0
            && (self.out_frames + group.frames.len() > OUT_FRAMES || self.out_bytes + bytes > OUT_BYTES)
        {
            self.take_result()?;
        }
        let (pack, range) = (first.place.pack, first.place.offset..first.place.offset + bytes);
        self.out_frames += group.frames.len();
        self.out_bytes += bytes;
        let (backups, submitter) = (self.place.backups.clone(), self.pool.submitter());
        let (label, attempt) = (self.backup.summary.label, self.layer.attempt);
        self.runtime.spawn(async move {
            let got = backups.get_pack_range(&label, attempt, pack, false, range).await;
            hand_out(got, group, &submitter, label);
        });
        Ok(())
    }

    fn take_result(&mut self) -> Result<()> {
        match self.pool.next_result()? {
            Output::Failed(error) => return Err(error),
            Output::Frame(len) => self.out_bytes = self.out_bytes.saturating_sub(len),
            Output::Finished => {}
        }
        self.out_frames = self.out_frames.saturating_sub(1);
        Ok(())
    }

    fn end(&mut self, end: &Fields) -> Result<()> {
        let Some(open) = self.open.take() else {
            return Err(Error::Internal { what: "an end without a file" });
        };
        let OpenFile { record, target, digester, at } = open;
        if at != record.size.div_ceil(GRAIN as u64) || digester.finish() != end.digest {
            return Err(self.damaged(format!("'{}' is not complete in the index", record.path)));
        }
        self.list.file(record.path.as_bytes(), end.size, end.digest);
        self.written.files += 1;
        self.written.bytes += end.size;
        if target.end(end.size) {
            self.out_frames += 1;
            self.pool.submit(Urgency::Finish, Job::Finish(target));
        }
        while self.out_frames > OUT_FRAMES {
            self.take_result()?;
        }
        self.host.tell(Event::File { path: record.path.to_string(), size: end.size });
        self.host
            .tell(Event::Progress { done: self.written.bytes, total: self.backup.summary.sizes.database });
        Ok(())
    }

    /// Waits for all that is out, and compares what was read of the index with what the manifest says of it.
    fn finish(mut self) -> Result<Written> {
        if self.frame.is_some() || self.table.next_frame(&mut self.nodes)?.is_some() {
            return Err(self.damaged("its frame table goes on behind its index"));
        }
        self.dispatch_group()?;
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
    label: pgbr_manifest::BackupLabel,
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
