//! One file of a live cluster, read by runs: its size fixed when opened, torn pages read again.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pgbr_manifest::Lsn;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::page::{PageVerdict, check_page};

/// How far past the last known end of the log a page may be: what a server can write between two questions.
const LSN_SLACK: u64 = 1 << 30;
/// How long to wait before each new look at pages that seem wrong; a write of a page takes microseconds.
const PAUSES: [Duration; 3] = [Duration::from_millis(1), Duration::from_millis(5), Duration::from_millis(20)];

/// The furthest that the log is known to have come; one thread learns it from the server, those that check pages read it.
#[derive(Debug, Clone, Default)]
pub struct UpperLsn(Arc<AtomicU64>);

impl UpperLsn {
    /// Begins with a position, as that of the backup's start.
    pub fn new(lsn: Lsn) -> Self {
        Self(Arc::new(AtomicU64::new(lsn.as_u64())))
    }

    /// Notes a position; an older one changes nothing.
    pub fn advance(&self, lsn: Lsn) {
        self.0.fetch_max(lsn.as_u64(), Ordering::Relaxed);
    }

    /// The last noted position.
    pub fn get(&self) -> Lsn {
        Lsn::new(self.0.load(Ordering::Relaxed))
    }
}

/// What pages are checked against.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_structs, reason = "it is filled in by callers, field by field")]
pub struct PageContext {
    /// Where the backup began.
    pub start_lsn: Lsn,
    /// How far the log has come.
    pub upper_lsn: UpperLsn,
    /// Bytes in a page.
    pub block_size: u32,
    /// The number in the relation of the file's first page: [`crate::RelationFile::first_block`].
    pub segment_start: u32,
}

/// An open file. What it holds beyond the size that it had when opened is left to the WAL.
#[derive(Debug)]
pub struct FileReader {
    file: File,
    path: PathBuf,
    size: u64,
    mtime_ns: i64,
    ctime_ns: i64,
    inode: u64,
}

impl FileReader {
    /// Opens a regular file; `None` if it has vanished since it was listed. Does not follow a link, leaves the access time alone
    /// where that is allowed.
    ///
    /// # Errors
    /// When it cannot be opened, or is something else by now.
    pub fn open(path: impl AsRef<Path>) -> Result<Option<Self>> {
        let path = path.as_ref();
        // A pipe would wait for a writer; without blocking it is found out by its type.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let open = |flags| rustix::fs::open(path, flags, Mode::empty());
        let opened = match open(flags | OFlags::NOATIME) {
            // Only the owner may leave the access time alone.
            Err(Errno::PERM) => open(flags),
            other => other,
        };
        let file = match opened {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(Errno::LOOP | Errno::NXIO) => return Err(not_regular(path)),
            Err(errno) => return Err(Error::io("open", path)(errno.into())),
        };
        let meta = file.metadata().map_err(Error::io("examine", path))?;
        if !meta.is_file() {
            return Err(not_regular(path));
        }
        Ok(Some(Self {
            file,
            path: path.to_owned(),
            size: meta.size(),
            mtime_ns: nanoseconds(meta.mtime(), meta.mtime_nsec()),
            ctime_ns: nanoseconds(meta.ctime(), meta.ctime_nsec()),
            inode: meta.ino(),
        }))
    }

    /// Bytes when it was opened.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Time of the last change of content when it was opened, in nanoseconds since 1970.
    pub const fn mtime_ns(&self) -> i64 {
        self.mtime_ns
    }

    /// Time of the last change of anything when it was opened, in nanoseconds since 1970.
    pub const fn ctime_ns(&self) -> i64 {
        self.ctime_ns
    }

    /// The inode.
    pub const fn inode(&self) -> u64 {
        self.inode
    }

    /// Reads at `offset` until `buf` is full or the file (as long as it was when opened) ends. How many bytes there are; fewer
    /// than expected mean that the file has shrunk.
    ///
    /// # Errors
    /// When the operating system fails to read.
    pub fn read_run(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let left = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let wanted = buf.len().min(left);
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..wanted).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, offset.saturating_add(done as u64)) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::Io { doing: "read", path: self.path.clone(), source }),
            }
        }
        Ok(done)
    }

    /// Checks the checksums of a run that [`FileReader::read_run`] gave, whose first page is number `first_page` of this file.
    /// The numbers (in this file) of the pages that are wrong.
    ///
    /// A page that seems wrong is read again, a few times over some milliseconds, and `buf` gets the last reading. It is fine
    /// if its checksum is right then, if it differs from the reading before (it is being written), or if its position lies between
    /// the backup's start and the end of the log: the WAL of the backup holds it in full. A page cut by the end of the file has
    /// no verdict.
    ///
    /// # Errors
    /// When a page cannot be read again.
    pub fn check_pages(&self, buf: &mut [u8], first_page: u32, context: &PageContext) -> Result<Vec<u32>> {
        let size = context.block_size as usize;
        if size == 0 {
            return Ok(Vec::new());
        }
        let mut suspects: Vec<usize> = buf
            .chunks_exact(size)
            .enumerate()
            .filter(|(at, page)| is_wrong(page, *at, first_page, context))
            .map(|(at, _)| at)
            .collect();
        let mut again = vec![0; if suspects.is_empty() { 0 } else { size }];
        for pause in PAUSES {
            if suspects.is_empty() {
                break;
            }
            std::thread::sleep(pause);
            let mut still = Vec::new();
            for at in suspects {
                let page = buf.get_mut(at * size..(at + 1) * size).unwrap_or_default();
                let offset = (u64::from(first_page) + at as u64) * u64::from(context.block_size);
                let found = self.read_run(offset, &mut again)?;
                // Shorter: truncated meanwhile, so replay has no use for the page. Different: being written.
                if found == size && again == *page && is_wrong(page, at, first_page, context) {
                    still.push(at);
                } else if found == size {
                    page.copy_from_slice(&again);
                }
            }
            suspects = still;
        }
        Ok(suspects
            .into_iter()
            .map(|at| first_page.wrapping_add(u32::try_from(at).unwrap_or(u32::MAX)))
            .collect())
    }
}

/// Whether a page has a wrong checksum that nothing excuses.
fn is_wrong(page: &[u8], at: usize, first_page: u32, context: &PageContext) -> bool {
    let number = u32::try_from(at).unwrap_or(u32::MAX).wrapping_add(first_page);
    let block = context.segment_start.wrapping_add(number);
    let upper = Lsn::new(context.upper_lsn.get().as_u64().saturating_add(LSN_SLACK));
    matches!(check_page(page, block, context.start_lsn, upper), PageVerdict::Bad { .. })
}

/// The content of a small file; no more than `limit` bytes are read.
pub(crate) fn read_bounded(path: &Path, limit: usize) -> Result<Vec<u8>> {
    use std::io::Read;
    let file = File::open(path).map_err(Error::io("open", path))?;
    let mut bytes = Vec::new();
    file.take(limit as u64).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    Ok(bytes)
}

/// Seconds and nanoseconds as one number; what does not fit is cut.
pub(crate) const fn nanoseconds(seconds: i64, nanoseconds: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}

fn not_regular(path: &Path) -> Error {
    Error::NotA { path: path.to_owned(), expected: "regular file" }
}

#[cfg(test)]
mod tests;
