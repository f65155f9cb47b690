//! Writing back: what one worker does with one frame, and with a file that is complete.

use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
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

/// How a file comes to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Making {
    /// Anew: nothing is there.
    New,
    /// From what is there, where that is fit for it.
    Mended,
    /// Nothing is changed: what is there is only looked at.
    Dry,
}

/// A file that is being restored. It is complete when all pieces and its end are in.
pub(crate) struct Target {
    /// None for a file that the operator does not want: it is checked and not written.
    path: Option<PathBuf>,
    making: Making,
    /// Whether it is to be all zeros, whatever the backup holds.
    hollow: bool,
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
    origin: Origin,
}

/// Where the file of a target comes from.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Origin {
    #[default]
    Unknown,
    /// It was there.
    Found,
    /// Nothing that could be kept was there.
    Absent,
    /// It was made here.
    Made,
}

impl Target {
    /// A file to be written to `path`; without one it is checked and not written.
    pub(crate) fn new(
        path: Option<PathBuf>,
        record: &FileRecord,
        owner: Option<(Uid, Gid)>,
        making: Making,
        files: &Arc<OpenFiles>,
    ) -> Self {
        // Nothing in a cluster is a program that runs as its owner.
        let (mode, mtime_ns) = (record.meta.mode & 0o1777, record.mtime_ns);
        let (open, size) = (AtomicU64::new(1), AtomicU64::new(record.size));
        let (slot, files) = (Mutex::new(Slot::default()), Arc::clone(files));
        Self { path, making, hollow: false, mode, owner, mtime_ns, slot, files, open, size }
    }

    /// The same, as zeros of its size.
    #[must_use]
    pub(crate) fn hollow(self) -> Self {
        Self { hollow: true, ..self }
    }

    /// Whether it gets what the backup holds.
    pub(crate) const fn wants_content(&self) -> bool {
        !self.hollow
    }

    pub(crate) fn path(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new(""))
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

    /// A piece is in; true when nothing else is out.
    pub(crate) fn piece_done(&self) -> bool {
        let last = self.open.fetch_sub(1, Ordering::AcqRel) == 1;
        if !last && self.files.too_many() {
            self.close(&mut self.slot());
        }
        last
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is there, if it can be mended.
    pub(crate) fn existing(&self) -> Result<Option<Arc<File>>> {
        let Some(path) = self.path.as_deref().filter(|_| self.making != Making::New) else { return Ok(None) };
        let mut slot = self.slot();
        match slot.origin {
            Origin::Absent | Origin::Made => Ok(None),
            Origin::Found => self.open(&mut slot, path).map(Some),
            Origin::Unknown => self.find(&mut slot, path),
        }
    }

    /// Looks for a file that can be mended; what cannot goes.
    fn find(&self, slot: &mut Slot, path: &Path) -> Result<Option<Arc<File>>> {
        slot.origin = Origin::Absent;
        let meta = match std::fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(Error::io("look at", path))?,
        };
        if is_own_file(&meta) {
            slot.origin = Origin::Found;
            match self.open(slot, path) {
                Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {}
                opened => return opened.map(Some),
            }
            slot.origin = Origin::Absent;
        }
        if self.making != Making::Dry {
            let removed =
                if meta.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
            removed.map_err(Error::io("remove", path))?;
        }
        Ok(None)
    }

    /// Opens a file that is there, or gives the one that is open.
    fn open(&self, slot: &mut Slot, path: &Path) -> Result<Arc<File>> {
        if let Some(file) = &slot.file {
            return Ok(Arc::clone(file));
        }
        let mut options = OpenOptions::new();
        options.read(true).write(self.making != Making::Dry).custom_flags(NO_FOLLOW);
        let file = options.open(path).map_err(Error::io("open", path))?;
        Ok(self.keep(slot, file))
    }

    fn keep(&self, slot: &mut Slot, file: File) -> Arc<File> {
        let file = Arc::new(file);
        slot.file = Some(Arc::clone(&file));
        self.files.open.fetch_add(1, Ordering::Relaxed);
        file
    }

    fn close(&self, slot: &mut Slot) {
        if slot.file.take().is_some() {
            self.files.open.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The open file, made where it is not there: nothing that was there before is written through, unless it is mended.
    fn file(&self, path: &Path) -> Result<Arc<File>> {
        let mut slot = self.slot();
        if slot.origin == Origin::Unknown && self.making == Making::Mended {
            self.find(&mut slot, path)?;
        }
        if matches!(slot.origin, Origin::Found | Origin::Made) {
            return self.open(&mut slot, path);
        }
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(Error::io("create", path))?;
        slot.origin = Origin::Made;
        Ok(self.keep(&mut slot, file))
    }

    /// Zeros where something else stands.
    pub(crate) fn write_zeros(&self, file: &File, offset: u64, len: usize) -> Result<()> {
        if self.making == Making::Dry {
            return Ok(());
        }
        file.write_all_at(&vec![0; len], offset).map_err(Error::io("write", self.path()))
    }

    /// Content as it comes, where something else stands; true where that was so.
    pub(crate) fn write_content(&self, offset: u64, bytes: &[u8]) -> Result<bool> {
        let Some(path) = &self.path else { return Ok(true) };
        let file = self.file(path)?;
        if self.making == Making::Mended {
            let mut found = vec![0; bytes.len()];
            if file.read_exact_at(&mut found, offset).is_ok() && found == bytes {
                return Ok(false);
            }
        }
        file.write_all_at(bytes, offset).map_err(Error::io("write", path))?;
        Ok(true)
    }

    /// Size, owner, mode and time; then the file is closed. What is as it should be is not touched.
    pub(crate) fn finish(&self) -> Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        if self.making == Making::Dry {
            self.close(&mut self.slot());
            return Ok(());
        }
        let file = self.file(path)?;
        let mut slot = self.slot();
        let found = match slot.origin {
            Origin::Found => Some(file.metadata().map_err(Error::io("look at", path))?),
            _ => None,
        };
        self.set_all(&file, path, found.as_ref())?;
        self.close(&mut slot);
        Ok(())
    }

    fn set_all(&self, file: &File, path: &Path, found: Option<&Metadata>) -> Result<()> {
        let size = self.size.load(Ordering::Acquire);
        // What is there may be small enough to lie in the inode: blocks tell nothing of it.
        let filled = self.hollow && found.is_some();
        if filled {
            file.set_len(0).map_err(Error::io("set the size of", path))?;
        }
        let resized = filled || found.is_none_or(|found| found.len() != size);
        if resized {
            file.set_len(size).map_err(Error::io("set the size of", path))?;
        }
        if let Some((user, group)) = self.owner
            && found.is_none_or(|found| (found.uid(), found.gid()) != (user.as_raw(), group.as_raw()))
        {
            let changed = rustix::fs::fchown(file, Some(user), Some(group));
            changed.map_err(|e| Error::io("set the owner of", path)(e.into()))?;
        }
        if found.is_none_or(|found| found.mode() & 0o7777 != self.mode) {
            let mode = Permissions::from_mode(self.mode);
            file.set_permissions(mode).map_err(Error::io("set the mode of", path))?;
        }
        if resized || found.is_none_or(|found| mtime_ns(found) != i128::from(self.mtime_ns)) {
            let time = timespec(self.mtime_ns);
            let times = Timestamps { last_access: time, last_modification: time };
            rustix::fs::futimens(file, &times).map_err(|e| Error::io("set the time of", path)(e.into()))?;
        }
        Ok(())
    }
}

/// Whether what is there is a file that can be mended: its own (not under another name, too), and of this user, whom its owner may be
/// set by.
fn is_own_file(meta: &Metadata) -> bool {
    let user = rustix::process::geteuid();
    meta.is_file() && meta.nlink() == 1 && (user.is_root() || meta.uid() == user.as_raw())
}

fn mtime_ns(meta: &Metadata) -> i128 {
    i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec())
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
