//! Writing back: what one worker does with one frame, and with a file that is complete.

use std::fs::{File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use pgbr_codec::{Decompressor, FrameKind, Opener};
use pgbr_manifest::index::{FileRecord, FramePlace};
use pgbr_manifest::{GRAIN, HashKey, ZERO_GRAIN};
use rustix::fs::{Gid, Timespec, Timestamps, Uid};

use crate::error::{Error, Result};
use crate::run::hash_grains;

/// A file that is being restored. It is complete when all pieces and its end are in.
pub(crate) struct Target {
    /// None for a file that the operator does not want: it is checked and not written.
    path: Option<PathBuf>,
    mode: u32,
    owner: Option<(Uid, Gid)>,
    mtime_ns: i64,
    file: Mutex<Option<Arc<File>>>,
    /// Pieces that are out, and one for the end.
    open: AtomicU64,
    /// The true size, known at the end.
    size: AtomicU64,
}

impl Target {
    pub(crate) const fn new(path: PathBuf, record: &FileRecord, owner: Option<(Uid, Gid)>) -> Self {
        let (mode, mtime_ns) = (record.meta.mode, record.mtime_ns);
        let (open, size) = (AtomicU64::new(1), AtomicU64::new(record.size));
        Self { path: Some(path), mode, owner, mtime_ns, file: Mutex::new(None), open, size }
    }

    /// A file that is checked and not written.
    pub(crate) const fn discarded(record: &FileRecord) -> Self {
        let (open, size) = (AtomicU64::new(1), AtomicU64::new(record.size));
        Self { path: None, mode: 0, owner: None, mtime_ns: 0, file: Mutex::new(None), open, size }
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
        self.open.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// The open file. It is made here: nothing that was there before is written through.
    fn file(&self, path: &Path) -> Result<Arc<File>> {
        let mut slot = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &*slot {
            return Ok(Arc::clone(file));
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = Arc::new(file.map_err(Error::io("create", path))?);
        *slot = Some(Arc::clone(&file));
        Ok(file)
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
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(())
    }
}

fn timespec(ns: i64) -> Timespec {
    Timespec { tv_sec: ns.div_euclid(1_000_000_000), tv_nsec: ns.rem_euclid(1_000_000_000) }
}

/// Grains of one file that stand one after the other in a frame and in the file.
pub(crate) struct Piece {
    pub(crate) target: Arc<Target>,
    /// Where they go, in bytes.
    pub(crate) offset: u64,
    /// How many bytes they are.
    pub(crate) len: usize,
    /// What they must hash to.
    pub(crate) hashes: Vec<u64>,
}

/// A frame with what is to be done with it.
pub(crate) struct FrameWork {
    pub(crate) place: FramePlace,
    pub(crate) pieces: Vec<Piece>,
}

/// Opens a frame, checks every grain, writes them. Says what is wrong with it, without the frame's name.
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
    let mut at = 0;
    for piece in &work.pieces {
        let bytes = scratch
            .raw
            .get(at..at + piece.len)
            .ok_or_else(|| Fault::Damaged("it is too short".to_owned()))?;
        at += piece.len;
        check(bytes, &piece.hashes, key)?;
        write(piece, bytes)?;
        if piece.target.piece_done() {
            piece.target.finish()?;
        }
    }
    if at != scratch.raw.len() {
        return Err(Fault::Damaged("it holds more than the index says".to_owned()));
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
