//! Local locks and stop files, the same files and contents as pgBackRest's.
//!
//! A lock is an advisory `flock` on `LOCKPATH/STANZA-TYPE-REPOKEY.lock`; the file tells who holds it and how far the holder is. A file that
//! nobody has locked is left over from a crash and means nothing.

use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgbr_manifest::StanzaName;
use rustix::fs::{FlockOperation, flock};

use crate::error::{Error, Result};

/// What a lock keeps others from doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a new type has to be decided on")]
pub enum LockType {
    /// The asynchronous part of archive-push.
    Archive,
    /// The asynchronous part of archive-get, which may run beside the other: a standby may archive as well.
    ArchiveGet,
    /// Backup, expire, annotate.
    Backup,
    /// Restore.
    Restore,
}

impl LockType {
    const fn name(self) -> &'static str {
        match self {
            Self::Archive => "archive",
            Self::ArchiveGet => "get",
            Self::Backup => "backup",
            Self::Restore => "restore",
        }
    }
}

/// Which lock to take, and for whom.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_structs, reason = "filled in by the caller; a new field has to be decided on")]
pub struct LockRequest {
    /// The directory of the locks (`lock-path`); made where it is missing.
    pub directory: PathBuf,
    /// The stanza.
    pub stanza: StanzaName,
    /// What the lock is about.
    pub kind: LockType,
    /// The number of the repository, as in `repo1-path`.
    pub repo_key: u32,
    /// The name of this run: its own children find the lock taken by themselves.
    pub exec_id: String,
    /// The process id to tell others.
    pub pid: u32,
}

impl LockRequest {
    /// The lock's file.
    pub fn path(&self) -> PathBuf {
        lock_path(&self.directory, &self.stanza, self.kind, self.repo_key)
    }
}

/// How far the holder of a lock is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "pgBackRest's three fields are the interface")]
pub struct LockProgress {
    /// Percent done, times 100.
    pub percent: Option<u32>,
    /// Bytes to do.
    pub size: Option<u64>,
    /// Bytes done.
    pub size_complete: Option<u64>,
}

/// What a lock file tells about its holder; everything is missing where the file could not be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "pgBackRest's fields are the interface")]
pub struct LockHolder {
    /// The run.
    pub exec_id: Option<String>,
    /// Its process.
    pub pid: Option<u32>,
    /// How far it is.
    pub progress: LockProgress,
}

/// A lock that some process holds, as [`held_locks`] finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeldLock {
    /// The lock's file.
    pub path: PathBuf,
    /// What the file says.
    pub holder: LockHolder,
    /// Whether the system confirms that the process named in the file is the one that holds it: it may have been named in
    /// another container, where the same number is another process.
    pub confirmed: bool,
}

/// A lock that is held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    /// `None` where a process of the same run holds the lock already.
    file: Option<File>,
    exec_id: String,
    pid: u32,
}

/// The largest lock file that is looked at, in bytes.
const MAX_CONTENT: u64 = 4096;

/// How often a busy lock is tried: whoever reads a lock's state holds it for a moment.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(10);

impl Lock {
    /// Takes the lock, or finds that a process of the same run has it. Blocks for some 50 ms at most.
    ///
    /// # Errors
    /// [`Error::Locked`] where another run has it; [`Error::Local`] where the file cannot be made.
    pub fn acquire(request: &LockRequest) -> Result<Self> {
        create_lock_dir(&request.directory)?;
        let path = request.path();
        let lock =
            |file| Self { path: path.clone(), file, exec_id: request.exec_id.clone(), pid: request.pid };
        for attempt in 0..TRIES {
            if attempt > 0 {
                std::thread::sleep(PAUSE);
            }
            let file = open_lock(&path, true).map_err(|e| Error::local("open", &path, e))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) if is_current(&file, &path) => {
                    let lock = lock(Some(file));
                    lock.report(LockProgress::default())?;
                    return Ok(lock);
                }
                // The holder removed the file between our opening and locking it: this is not the lock any more.
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    if read_holder(&file).exec_id.as_deref() == Some(&request.exec_id) {
                        return Ok(lock(None));
                    }
                }
                Err(error) => return Err(Error::local("lock", &path, error.into())),
            }
        }
        let holder = open_lock(&path, false).ok().and_then(|file| read_holder(&file).pid);
        Err(Error::Locked { path, holder })
    }

    /// Tells others how far this process is.
    ///
    /// # Errors
    /// [`Error::Local`] where the file cannot be written.
    pub fn report(&self, progress: LockProgress) -> Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let content = Content {
            exec_id: Some(self.exec_id.clone()),
            percent: progress.percent,
            pid: Some(self.pid),
            size: progress.size,
            size_complete: progress.size_complete,
        };
        let failed = |e| Error::local("write", &self.path, e);
        let text = serde_json::to_vec(&content).map_err(|e| failed(e.into()))?;
        // In one write and then cut, so that a reader mostly finds a whole text; it copes with half of one.
        file.write_all_at(&text, 0).map_err(failed)?;
        file.set_len(text.len() as u64).map_err(failed)
    }

    /// Whether this process holds the lock itself, rather than another one of its run.
    pub fn is_own(&self) -> bool {
        self.file.is_some()
    }

    /// The lock's file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Lock {
    /// Removes the file while it is still locked, so that nobody takes it for another's.
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            // What cannot be removed is a stale file, and those mean nothing.
            std::fs::remove_file(&self.path).ok();
            drop(file);
        }
    }
}

/// The file of a lock.
pub fn lock_path(directory: &Path, stanza: &StanzaName, kind: LockType, repo_key: u32) -> PathBuf {
    directory.join(format!("{stanza}-{}-{repo_key}.lock", kind.name()))
}

/// Who holds a lock; `None` where nobody does, whether or not there is a file.
///
/// # Errors
/// [`Error::Local`] where the file cannot be looked at.
pub fn lock_holder(
    directory: &Path,
    stanza: &StanzaName,
    kind: LockType,
    repo_key: u32,
) -> Result<Option<LockHolder>> {
    Ok(look(lock_path(directory, stanza, kind, repo_key))?.map(|held| held.holder))
}

/// The locks in a directory that are held right now, of one stanza or of all. Blocks for a moment a file.
///
/// # Errors
/// [`Error::Local`] where the directory or a file in it cannot be looked at.
pub fn held_locks(directory: &Path, stanza: Option<&StanzaName>) -> Result<Vec<HeldLock>> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::local("list", directory, error)),
    };
    let mut held = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| Error::local("list", directory, e))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let wanted =
            stanza_of(&name).is_some_and(|found| stanza.is_none_or(|stanza| stanza.as_str() == found));
        if wanted && let Some(lock) = look(path)? {
            held.push(lock);
        }
    }
    held.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(held)
}

/// As [`held_locks`] of a stanza; with those besides that pgBackRest holds in versions which do not name the repository, `STANZA-TYPE.lock`.
///
/// # Errors
/// As [`held_locks`].
pub fn held_locks_of_any_version(directory: &Path, stanza: &StanzaName) -> Result<Vec<HeldLock>> {
    let mut held = held_locks(directory, Some(stanza))?;
    for kind in [LockType::Archive, LockType::Backup, LockType::Restore] {
        held.extend(look(directory.join(format!("{stanza}-{}.lock", kind.name())))?);
    }
    Ok(held)
}

/// A file that tells commands to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StopFile {
    /// Where it lies.
    pub path: PathBuf,
    /// Whether it is for all stanzas.
    pub all: bool,
}

/// The stop file that applies to a stanza, or with `None` to all of them.
///
/// # Errors
/// [`Error::Local`] where it cannot be looked for.
pub fn stop_file(directory: &Path, stanza: Option<&StanzaName>) -> Result<Option<StopFile>> {
    let own = stanza.map(|_| StopFile { path: stop_path(directory, stanza), all: false });
    let all = StopFile { path: stop_path(directory, None), all: true };
    for file in own.into_iter().chain([all]) {
        match file.path.symlink_metadata() {
            Ok(_) => return Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::local("look for", file.path, error)),
        }
    }
    Ok(None)
}

/// Makes a stop file; `false` where it was there.
///
/// # Errors
/// [`Error::Local`] where it cannot be made.
pub fn create_stop_file(directory: &Path, stanza: Option<&StanzaName>) -> Result<bool> {
    create_lock_dir(directory)?;
    let path = stop_path(directory, stanza);
    match std::fs::OpenOptions::new().write(true).create_new(true).mode(0o640).open(&path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(Error::local("create", path, error)),
    }
}

/// Removes a stop file; `false` where there was none.
///
/// # Errors
/// [`Error::Local`] where it cannot be removed.
pub fn remove_stop_file(directory: &Path, stanza: Option<&StanzaName>) -> Result<bool> {
    let path = stop_path(directory, stanza);
    match std::fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::local("remove", path, error)),
    }
}

/// The JSON of a lock file; keys in pgBackRest's order.
#[derive(serde::Serialize, serde::Deserialize)]
struct Content {
    #[serde(rename = "execId", skip_serializing_if = "Option::is_none")]
    exec_id: Option<String>,
    #[serde(rename = "pctCplt", skip_serializing_if = "Option::is_none")]
    percent: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(rename = "sz", skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(rename = "szCplt", skip_serializing_if = "Option::is_none")]
    size_complete: Option<u64>,
}

/// Who holds the lock of a file; `None` where nobody does, or there is no such file.
fn look(path: PathBuf) -> Result<Option<HeldLock>> {
    let file = match open_lock(&path, false) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::local("open", path, error)),
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(None),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let holder = read_holder(&file);
            let confirmed = holder.pid.is_some_and(|pid| holds(pid, &file));
            Ok(Some(HeldLock { path, holder, confirmed }))
        }
        Err(error) => Err(Error::local("lock", path, error.into())),
    }
}

/// The stanza in the name of a lock file, `STANZA-TYPE-REPOKEY.lock`.
fn stanza_of(name: &str) -> Option<&str> {
    let (rest, key) = name.strip_suffix(".lock")?.rsplit_once('-')?;
    let (stanza, kind) = rest.rsplit_once('-')?;
    let kinds = [LockType::Archive, LockType::ArchiveGet, LockType::Backup, LockType::Restore];
    let form = key.parse::<u32>().is_ok() && kinds.iter().any(|known| known.name() == kind);
    form.then_some(stanza)
}

/// Whether the system's own list says that a process holds the lock of a file.
fn holds(pid: u32, file: &File) -> bool {
    let (Ok(about), Ok(locks)) = (file.metadata(), std::fs::read_to_string("/proc/locks")) else {
        return false;
    };
    is_listed(&locks, pid, about.ino())
}

/// Whether a list in the form of `/proc/locks` has a lock by `flock` of this process on this file:
/// `1: FLOCK  ADVISORY  WRITE 3465 fe:00:10010648 0 EOF`.
fn is_listed(locks: &str, pid: u32, inode: u64) -> bool {
    locks.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, owner, place, ..] = *fields.as_slice() else { return false };
        let found = place.rsplit(':').next().and_then(|inode| inode.parse::<u64>().ok());
        owner.parse() == Ok(pid) && found == Some(inode)
    })
}

fn stop_path(directory: &Path, stanza: Option<&StanzaName>) -> PathBuf {
    directory.join(format!("{}.stop", stanza.map_or("all", StanzaName::as_str)))
}

fn create_lock_dir(directory: &Path) -> Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o770).create(directory);
    made.map_err(|e| Error::local("create directory", directory, e))
}

/// Opens a lock file, never one behind a symbolic link: the directory may be `/tmp/pgbackrest`.
fn open_lock(path: &Path, create: bool) -> io::Result<File> {
    let no_follow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let mut options = std::fs::OpenOptions::new();
    let file =
        options.read(true).write(create).create(create).mode(0o640).custom_flags(no_follow).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")),
    }
}

/// Whether `path` still names this very file.
fn is_current(file: &File, path: &Path) -> bool {
    match (file.metadata(), path.symlink_metadata()) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

fn read_holder(file: &File) -> LockHolder {
    let read = || -> Option<Content> {
        let length = file.metadata().ok()?.len().min(MAX_CONTENT);
        let mut text = vec![0; usize::try_from(length).ok()?];
        let got = file.read_at(&mut text, 0).ok()?;
        serde_json::from_slice(text.get(..got)?).ok()
    };
    read().map_or_else(LockHolder::default, Content::holder)
}

impl Content {
    fn holder(self) -> LockHolder {
        let Self { exec_id, pid, percent, size, size_complete, .. } = self;
        LockHolder { exec_id, pid, progress: LockProgress { percent, size, size_complete } }
    }
}

/// Reads what may be the content of a lock file, a name of one, or the system's list.
#[cfg(fuzzing)]
pub(crate) fn read(text: &[u8]) {
    serde_json::from_slice::<Content>(text).map(Content::holder).ok();
    let Ok(text) = std::str::from_utf8(text) else { return };
    is_listed(text, 1, 1);
    assert!(stanza_of(text).is_none_or(|stanza| text.starts_with(stanza)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(directory: &Path, exec_id: &str) -> LockRequest {
        LockRequest {
            directory: directory.join("lock/deep"),
            stanza: "main".parse().unwrap(),
            kind: LockType::Backup,
            repo_key: 1,
            exec_id: exec_id.to_owned(),
            pid: 4711,
        }
    }

    #[test]
    fn a_lock_keeps_other_runs_out_and_lets_its_own_in() {
        let dir = tempfile::tempdir().unwrap();
        let mine = request(dir.path(), "4711-0a0b0c0d");
        let held = Lock::acquire(&mine).unwrap();
        assert!(held.is_own() && held.path().ends_with("main-backup-1.lock"));

        let error = Lock::acquire(&request(dir.path(), "4712-0a0b0c0d")).unwrap_err();
        assert!(matches!(error, Error::Locked { holder: Some(4711), .. }), "{error}");
        let child = Lock::acquire(&mine).unwrap();
        assert!(!child.is_own());
        drop(child);
        assert!(held.path().exists(), "a child leaves the lock of its run alone");

        drop(held);
        assert!(!mine.path().exists());
        assert!(Lock::acquire(&request(dir.path(), "4712-0a0b0c0d")).unwrap().is_own());
    }

    #[test]
    fn the_file_has_pgbackrests_content() {
        let dir = tempfile::tempdir().unwrap();
        let mine = request(dir.path(), "4711-0a0b0c0d");
        let held = Lock::acquire(&mine).unwrap();
        assert_eq!(std::fs::read_to_string(mine.path()).unwrap(), r#"{"execId":"4711-0a0b0c0d","pid":4711}"#);
        let progress = LockProgress { percent: Some(1234), size: Some(1 << 40), size_complete: Some(7) };
        held.report(progress).unwrap();
        assert_eq!(
            std::fs::read_to_string(mine.path()).unwrap(),
            r#"{"execId":"4711-0a0b0c0d","pctCplt":1234,"pid":4711,"sz":1099511627776,"szCplt":7}"#
        );
        let seen = lock_holder(&mine.directory, &mine.stanza, mine.kind, 1).unwrap().unwrap();
        assert_eq!(seen.progress, progress);
        held.report(LockProgress::default()).unwrap();
        assert_eq!(std::fs::metadata(mine.path()).unwrap().len(), 37, "the rest of a longer text is cut");
    }

    #[test]
    fn held_locks_are_found_with_who_really_holds_them() {
        let dir = tempfile::tempdir().unwrap();
        let lie = request(dir.path(), "4711-00000000");
        let truth =
            LockRequest { stanza: "a-backup-1".parse().unwrap(), pid: std::process::id(), ..lie.clone() };
        assert_eq!(held_locks(&lie.directory, None).unwrap(), [], "no directory");
        let (one, two) = (Lock::acquire(&lie).unwrap(), Lock::acquire(&truth).unwrap());
        for stale in ["main-restore-1.lock", "main-backup-x.lock", "main.stop", "x.lock"] {
            std::fs::write(lie.directory.join(stale), r#"{"pid":1}"#).unwrap();
        }
        let found = |stanza: Option<&StanzaName>| {
            let held = held_locks(&lie.directory, stanza).unwrap();
            held.iter().map(|lock| (lock.holder.pid, lock.confirmed)).collect::<Vec<_>>()
        };
        let (lied, told) = ((Some(4711), false), (Some(std::process::id()), true));
        assert_eq!(found(None), [told, lied]);
        assert_eq!(found(Some(&lie.stanza)), [lied]);
        assert_eq!(found(Some(&truth.stanza)), [told]);
        drop((one, two));
        assert_eq!(found(None), []);
    }

    #[test]
    fn locks_without_a_repository_are_found_where_they_are_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let mine = request(dir.path(), "4711-00000000");
        let all = || held_locks_of_any_version(&mine.directory, &mine.stanza).unwrap();
        assert_eq!(all(), [], "no directory");
        let held = Lock::acquire(&mine).unwrap();
        assert_eq!(all().len(), 1);
        let old = mine.directory.join("main-archive.lock");
        std::fs::write(&old, "12\n").unwrap();
        assert_eq!(all().len(), 1, "a file that nobody has locked");
        let file = open_lock(&old, false).unwrap();
        flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
        let paths: Vec<PathBuf> = all().into_iter().map(|lock| lock.path).collect();
        assert_eq!(paths, [mine.path(), old]);
        assert_eq!(held_locks(&mine.directory, None).unwrap().len(), 1);
        drop(held);
    }

    #[test]
    fn leftover_and_foreign_files_do_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let mine = request(dir.path(), "1-00000000");
        let holder = || lock_holder(&mine.directory, &mine.stanza, mine.kind, 1).unwrap();
        assert_eq!(holder(), None, "no file");
        std::fs::create_dir_all(&mine.directory).unwrap();
        std::fs::write(mine.path(), r#"{"execId":"9-00000000","pid":9}"#).unwrap();
        assert_eq!(holder(), None, "a file that nobody has locked");
        let held = Lock::acquire(&mine).unwrap();
        std::fs::write(mine.path(), "not json").unwrap();
        assert_eq!(holder(), Some(LockHolder::default()));
        drop(held);

        std::os::unix::fs::symlink("/etc/passwd", mine.path()).unwrap();
        assert!(matches!(Lock::acquire(&mine), Err(Error::Local { .. })));
    }

    #[test]
    fn one_of_many_threads_wins() {
        let dir = tempfile::tempdir().unwrap();
        for round in 0..20 {
            let winners: Vec<Option<Lock>> = std::thread::scope(|scope| {
                let acquire = |n: u32| {
                    let request = request(dir.path(), &format!("{n}-{round:08x}"));
                    scope.spawn(move || Lock::acquire(&request).ok())
                };
                let threads: Vec<_> = (0..4).map(acquire).collect();
                threads.into_iter().map(|t| t.join().unwrap()).collect()
            });
            assert_eq!(winners.iter().flatten().count(), 1);
        }
    }

    #[test]
    fn stop_files_stop_one_stanza_or_all() {
        let dir = tempfile::tempdir().unwrap();
        let (main, other): (StanzaName, StanzaName) = ("main".parse().unwrap(), "other".parse().unwrap());
        assert_eq!(stop_file(dir.path(), Some(&main)).unwrap(), None);
        assert!(create_stop_file(dir.path(), Some(&main)).unwrap());
        assert!(!create_stop_file(dir.path(), Some(&main)).unwrap());
        assert!(!stop_file(dir.path(), Some(&main)).unwrap().unwrap().all);
        assert_eq!(stop_file(dir.path(), Some(&other)).unwrap(), None);
        assert_eq!(stop_file(dir.path(), None).unwrap(), None);
        assert!(create_stop_file(dir.path(), None).unwrap());
        assert!(stop_file(dir.path(), Some(&other)).unwrap().unwrap().all);
        assert!(remove_stop_file(dir.path(), Some(&main)).unwrap());
        assert!(remove_stop_file(dir.path(), None).unwrap());
        assert!(!remove_stop_file(dir.path(), None).unwrap());
    }
}
