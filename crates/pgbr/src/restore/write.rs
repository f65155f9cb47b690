//! Writing back: what one worker does with one frame, and with a file that is complete.

use std::fs::{File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use pgbr_codec::{Decompressor, FrameKind, Opener};
use pgbr_manifest::index::FileRecord;
use pgbr_manifest::{GRAIN, HashKey, ZERO_GRAIN};
use rustix::fs::{Gid, Timespec, Timestamps, Uid};

use super::source::FrameWork;
use crate::error::{Error, Result};
use crate::run::hash_grains;

/// A link is never followed: nothing outside of the place is written to.
const NO_FOLLOW: i32 = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
/// The most files that are kept open while pieces of them are out; where the process may have few, less.
const MAX_OPEN: usize = 400;

/// How many files are open.
#[derive(Debug)]
pub(crate) struct OpenFiles {
    open: AtomicUsize,
    limit: usize,
}

impl OpenFiles {
    pub(crate) fn new() -> Arc<Self> {
        let allowed = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let half = allowed.map_or(MAX_OPEN, |allowed| usize::try_from(allowed / 2).unwrap_or(MAX_OPEN));
        Arc::new(Self { open: AtomicUsize::new(0), limit: half.min(MAX_OPEN) })
    }

    fn too_many(&self) -> bool {
        self.open.load(Ordering::Relaxed) > self.limit
    }
}

/// A file that is being restored. It is complete when all pieces and its end are in.
pub(crate) struct Target {
    /// None for a file that the operator does not want: it is checked and not written.
    path: Option<PathBuf>,
    mode: u32,
    owner: Option<(Uid, Gid)>,
    mtime_ns: i64,
    slot: Mutex<Slot>,
    files: Arc<OpenFiles>,
    /// Pieces that are out, and one for the end.
    open: AtomicU64,
    /// The true size, known at the end.
    size: AtomicU64,
}

#[derive(Default)]
struct Slot {
    file: Option<Arc<File>>,
    /// Whether it was made, and is opened again where it was closed since.
    made: bool,
}

impl Target {
    /// A file to be written to `path`; without one it is checked and not written.
    pub(crate) fn new(
        path: Option<PathBuf>,
        record: &FileRecord,
        owner: Option<(Uid, Gid)>,
        files: &Arc<OpenFiles>,
    ) -> Self {
        let (mode, mtime_ns) = (record.meta.mode, record.mtime_ns);
        let (open, size) = (AtomicU64::new(1), AtomicU64::new(record.size));
        let slot = Mutex::new(Slot::default());
        Self { path, mode, owner, mtime_ns, slot, files: Arc::clone(files), open, size }
    }

    /// One more piece is out.
    pub(crate) fn add_piece(&self) {
        self.open.fetch_add(1, Ordering::AcqRel);
    }

    /// The end is known; true when nothing else is out.
    pub(crate) fn end(&self, size: u64) -> bool {
        self.size.store(size, Ordering::Release);
        self.open.fetch_sub(1, Ordering::AcqRel) == 1
    }

    fn piece_done(&self) -> bool {
        let last = self.open.fetch_sub(1, Ordering::AcqRel) == 1;
        if !last && self.files.too_many() {
            self.close();
        }
        last
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The open file. It is made here: nothing that was there before is written through.
    fn file(&self, path: &Path) -> Result<Arc<File>> {
        let mut slot = self.slot();
        if let Some(file) = &slot.file {
            return Ok(Arc::clone(file));
        }
        let mut options = OpenOptions::new();
        options.write(true).mode(0o600);
        let file = match slot.made {
            true => options.custom_flags(NO_FOLLOW).open(path).map_err(Error::io("open", path))?,
            false => options.create_new(true).open(path).map_err(Error::io("create", path))?,
        };
        let file = Arc::new(file);
        *slot = Slot { file: Some(Arc::clone(&file)), made: true };
        drop(slot);
        self.files.open.fetch_add(1, Ordering::Relaxed);
        Ok(file)
    }

    fn close(&self) {
        if self.slot().file.take().is_some() {
            self.files.open.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Size, owner, mode and time; then the file is closed.
    pub(crate) fn finish(&self) -> Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let file = self.file(path)?;
        file.set_len(self.size.load(Ordering::Acquire)).map_err(Error::io("set the size of", path))?;
        if let Some((user, group)) = self.owner {
            let changed = rustix::fs::fchown(&*file, Some(user), Some(group));
            changed.map_err(|e| Error::io("set the owner of", path)(e.into()))?;
        }
        file.set_permissions(Permissions::from_mode(self.mode))
            .map_err(Error::io("set the mode of", path))?;
        let time = timespec(self.mtime_ns);
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::futimens(&*file, &times).map_err(|e| Error::io("set the time of", path)(e.into()))?;
        self.close();
        Ok(())
    }
}

fn timespec(ns: i64) -> Timespec {
    Timespec { tv_sec: ns.div_euclid(1_000_000_000), tv_nsec: ns.rem_euclid(1_000_000_000) }
}

/// Grains of one file that stand one after the other in a frame and in the file.
pub(crate) struct Piece {
    pub(crate) target: Arc<Target>,
    /// Where they begin in the frame, in bytes.
    pub(crate) at: usize,
    /// Where they go, in bytes.
    pub(crate) offset: u64,
    /// How many bytes they are.
    pub(crate) len: usize,
    /// What they must hash to.
    pub(crate) hashes: Vec<u64>,
}

/// Opens a frame, checks every grain that is needed, writes them. Says what is wrong with it, without the frame's name.
pub(crate) fn write_frame(
    work: &FrameWork,
    stored: &Bytes,
    opener: &Opener,
    key: &HashKey,
    scratch: &mut Scratch,
) -> Result<(), Fault> {
    scratch.frame.clear();
    scratch.frame.extend_from_slice(stored);
    scratch.raw.clear();
    let opened = opener.open(
        &mut scratch.decompressor,
        &mut scratch.frame,
        FrameKind::Data,
        work.place.number,
        &mut scratch.raw,
    );
    opened.map_err(|error| Fault::Damaged(error.to_string()))?;
    for piece in &work.pieces {
        let bytes = piece.at.checked_add(piece.len).and_then(|end| scratch.raw.get(piece.at..end));
        let bytes = bytes.ok_or_else(|| Fault::Damaged("it is too short".to_owned()))?;
        check(bytes, &piece.hashes, key)?;
        write(piece, bytes)?;
        if piece.target.piece_done() {
            piece.target.finish()?;
        }
    }
    Ok(())
}

fn check(bytes: &[u8], hashes: &[u64], key: &HashKey) -> Result<(), Fault> {
    if hash_grains(key, bytes) == hashes && !hashes.contains(&ZERO_GRAIN) {
        return Ok(());
    }
    let wrong = bytes.chunks(GRAIN).zip(hashes).position(|(grain, hash)| key.grain(grain) != *hash);
    Err(Fault::Damaged(format!("grain {} of a run has another hash than the index says", wrong.unwrap_or(0))))
}

fn write(piece: &Piece, bytes: &[u8]) -> Result<()> {
    let Some(path) = &piece.target.path else { return Ok(()) };
    let file = piece.target.file(path)?;
    file.write_all_at(bytes, piece.offset).map_err(Error::io("write", path))
}

/// Why a frame was not restored.
pub(crate) enum Fault {
    /// The frame is damaged.
    Damaged(String),
    /// Anything else.
    Other(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// What a worker keeps from frame to frame.
pub(crate) struct Scratch {
    frame: Vec<u8>,
    raw: Vec<u8>,
    decompressor: Decompressor,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        Self { frame: Vec::new(), raw: Vec::new(), decompressor: Decompressor::new() }
    }
}
