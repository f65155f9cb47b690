//! The spool: what the calls of the server and the workers tell each other, in `SPOOL/archive/STANZA/{out,ahead}`.
//!
//! | file | written by | says |
//! |---|---|---|
//! | `out/FILE.done` | push worker | this very file is durable in every repository |
//! | `out/FILE.error` | push worker | why it is not, yet |
//! | `out/global.error` | push worker | what keeps all files from being archived |
//! | `out/scope` | a call | with which settings a worker is wanted: one with others ends |
//! | `ahead/want` | a call | which segment the server will ask for next |
//! | `ahead/RUN/SEGMENT.N` | get worker | a segment, fetched from `repoN` and checked |
//! | `ahead/RUN/SEGMENT.fetch` | get worker | it is being fetched |
//!
//! The place is pgBackRest's as well, which may be put back at any moment, and believes an `.ok` by its name: so ours have other names, its `in/` is left
//! alone, and the first line of an error is a number for it, too.
//!
//! Nothing here has to outlive a crash, and nothing that a crash, another cluster or other settings left is believed: a `.done` holds the identity of the
//! file that it is about (inode, size, times) and of the settings it was made with, and what was fetched counts only while the very worker
//! that fetched it lives.

use std::fs::{self, DirBuilder};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use pgbr_manifest::{StanzaName, WalSegmentName};
use pgbr_repo::{Error as RepoError, HeldLock, held_locks_of_any_version};

use super::file::FileId;
use crate::error::{Error, Result};

/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 64 << 10;
/// What a `.done` begins with.
const MARK: &str = "pgbr 1";
/// What a file that is archived ends with.
const DONE: &str = ".done";
/// What pgBackRest has there for it: empty, or with a warning, and nothing about which file of that name it means.
const THEIR_OK: &str = ".ok";

/// A failure as one process tells it to another.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "made by the caller")]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    /// What happened and what to do.
    pub text: String,
}

/// A failure, and whether waiting may help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) failure: Failure,
    pub(super) passing: bool,
}

impl Told {
    pub(super) fn into_error(self) -> Error {
        Error::Reported { code: self.failure.code, text: self.failure.text }
    }
}

/// The directory of a stanza's pushes.
#[derive(Debug, Clone)]
pub(super) struct Outbox {
    dir: PathBuf,
    scope: String,
}

impl Outbox {
    pub(super) fn new(spool: &Path, stanza: &StanzaName, scope: &str) -> Self {
        Self { dir: spool.join("archive").join(stanza.as_str()).join("out"), scope: digest(scope) }
    }

    /// Makes the directory where it is missing.
    pub(super) fn prepare(&self) -> Result<()> {
        prepare(&self.dir)
    }

    /// Whether this very file is archived, with what the operator is to be told (often nothing).
    pub(super) fn archived(&self, file: &str, id: &FileId) -> Option<String> {
        let text = self.read(&format!("{file}{DONE}"))?;
        let (mark, warning) = text.split_once('\n')?;
        (mark == self.mark(id)).then(|| warning.to_owned())
    }

    /// Says that a file is archived in every repository.
    pub(super) fn set_archived(&self, file: &str, id: &FileId, warning: &str) -> Result<()> {
        self.write(&format!("{file}{DONE}"), &format!("{}\n{warning}", self.mark(id)))?;
        remove(&self.dir.join(format!("{file}.error")));
        Ok(())
    }

    /// Whether there is a `.done` of a file, whatever it says.
    pub(super) fn has_done(&self, file: &str) -> bool {
        self.dir.join(format!("{file}{DONE}")).exists()
    }

    /// Why a file could not be archived, or all of them.
    pub(super) fn failure(&self, file: &str) -> Option<Told> {
        let read = |name: String| self.read(&name).and_then(|text| parse_failure(&text));
        read(format!("{file}.error")).or_else(|| read("global.error".to_owned()))
    }

    /// Says why a file cannot be archived, or with `None` why none can.
    pub(super) fn set_failure(&self, file: Option<&str>, told: &Told) -> Result<()> {
        let name = format!("{}.error", file.unwrap_or("global"));
        self.write(&name, &render_failure(told))
    }

    /// Whether there is an error of a file.
    pub(super) fn has_failure(&self, file: &str) -> bool {
        self.dir.join(format!("{file}.error")).exists()
    }

    /// Asks anew: what was said of failures before does not count any more.
    pub(super) fn clear_failures(&self, file: &str) {
        remove(&self.dir.join(format!("{file}.error")));
        remove(&self.dir.join("global.error"));
    }

    /// Takes away what is said about a file.
    pub(super) fn forget(&self, file: &str) {
        for ending in [DONE, THEIR_OK, ".error"] {
            remove(&self.dir.join(format!("{file}{ending}")));
        }
    }

    /// The files that something is said about.
    pub(super) fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let files = names.filter_map(|name| {
            let file = [DONE, THEIR_OK, ".error"].iter().find_map(|ending| name.strip_suffix(ending))?;
            (file != "global").then(|| file.to_owned())
        });
        files.collect()
    }

    /// Takes away what processes that have died were about to write.
    pub(super) fn sweep(&self) {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let pid =
                name.to_str().and_then(|name| name.strip_suffix(".tmp")?.rsplit('.').next()?.parse().ok());
            let dead = pid
                .and_then(rustix::process::Pid::from_raw)
                .is_some_and(|pid| rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH));
            if dead {
                remove(&entry.path());
            }
        }
    }

    /// Asks for a worker with these settings: one with others ends.
    pub(super) fn want_scope(&self) -> Result<()> {
        if self.scope_wanted() {
            self.sign();
            return Ok(());
        }
        self.write("scope", &self.scope)
    }

    /// A sign of life of the server, whose calls are what a worker works for.
    pub(super) fn sign(&self) {
        let path = self.dir.join("scope");
        let touched = fs::File::options().write(true).open(path);
        // Without it a worker ends, and another is started.
        touched.and_then(|file| file.set_modified(SystemTime::now())).ok();
    }

    /// When there was the last sign of life, by a clock that is good for comparing two of them.
    pub(super) fn signed(&self) -> Option<SystemTime> {
        self.dir.join("scope").metadata().and_then(|about| about.modified()).ok()
    }

    /// Whether a worker with these settings is the one that was asked for last.
    pub(super) fn scope_wanted(&self) -> bool {
        self.read("scope").as_deref() == Some(&self.scope)
    }

    fn mark(&self, id: &FileId) -> String {
        format!("{MARK} {} {id}", self.scope)
    }

    fn read(&self, name: &str) -> Option<String> {
        read(&self.dir.join(name))
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        write(&self.dir, name, text)
    }
}

fn render_failure(told: &Told) -> String {
    let Told { failure: Failure { code, text }, passing } = told;
    let passing = if *passing { "+" } else { "" };
    format!("{passing}{code}\n{text}")
}

fn parse_failure(text: &str) -> Option<Told> {
    let (head, text) = text.split_once('\n')?;
    let (code, passing) = match head.strip_prefix('+') {
        Some(code) => (code, true),
        None => (head, false),
    };
    // A failure that reads as success is none of ours.
    let code = code.parse().ok().filter(|code| *code != 0 && !head.starts_with("++"))?;
    Some(Told { failure: Failure { code, text: text.to_owned() }, passing })
}

/// The directory of a stanza's read-ahead.
#[derive(Debug, Clone)]
pub(super) struct Inbox {
    dir: PathBuf,
    scope: String,
}

impl Inbox {
    pub(super) fn new(spool: &Path, stanza: &StanzaName, scope: &str) -> Self {
        Self { dir: spool.join("archive").join(stanza.as_str()).join("ahead"), scope: digest(scope) }
    }

    pub(super) fn prepare(&self) -> Result<()> {
        prepare(&self.dir)
    }

    /// Says which segment the server will ask for next.
    pub(super) fn want(&self, segment: WalSegmentName) -> Result<()> {
        write(&self.dir, "want", &format!("{}\n{segment}\n", self.scope))
    }

    /// What was asked for last: `Err` where that was by a call with other settings or of another cluster.
    pub(super) fn wanted(&self) -> Result<Option<WalSegmentName>, ()> {
        let Some(text) = read(&self.dir.join("want")) else { return Ok(None) };
        let mut lines = text.lines();
        if lines.next() != Some(&self.scope) {
            return Err(());
        }
        Ok(lines.next().and_then(|name| name.parse().ok()))
    }

    /// What the worker of a run fetches into, if it is one with these settings.
    pub(super) fn shelf(&self, run: &str) -> Option<Shelf> {
        let plain = !run.is_empty() && run.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let shelf = Shelf { dir: self.dir.join(run) };
        (plain && read(&shelf.dir.join("scope")).as_deref() == Some(&self.scope)).then_some(shelf)
    }

    /// Makes the directory that the worker of this run fetches into, and takes away what others have left.
    pub(super) fn new_shelf(&self, run: &str) -> Result<Shelf> {
        for entry in fs::read_dir(&self.dir).map_err(Error::io("list", &self.dir))?.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                // What stays takes room, and is not looked at.
                fs::remove_dir_all(entry.path()).ok();
            }
        }
        let shelf = Shelf { dir: self.dir.join(run) };
        prepare(&shelf.dir)?;
        write(&shelf.dir, "scope", &self.scope)?;
        Ok(shelf)
    }
}

/// What one worker has fetched.
#[derive(Debug, Clone)]
pub(super) struct Shelf {
    pub(super) dir: PathBuf,
}

impl Shelf {
    /// Where a segment lies that was fetched from this repository.
    pub(super) fn segment(&self, segment: WalSegmentName, repo: u16) -> PathBuf {
        self.dir.join(format!("{segment}.{repo}"))
    }

    /// Where a segment is while it is being fetched.
    pub(super) fn part(&self, segment: WalSegmentName) -> PathBuf {
        self.dir.join(format!("{segment}.part"))
    }

    /// Says that a segment is being fetched.
    pub(super) fn begin(&self, segment: WalSegmentName) -> Result<()> {
        write(&self.dir, &format!("{segment}.fetch"), "")
    }

    /// Says that it is not any more.
    pub(super) fn end(&self, segment: WalSegmentName) {
        remove(&self.dir.join(format!("{segment}.fetch")));
    }

    pub(super) fn is_fetching(&self, segment: WalSegmentName) -> bool {
        self.dir.join(format!("{segment}.fetch")).exists()
    }

    /// The segments that lie here, with the repository that each is from.
    pub(super) fn segments(&self) -> Vec<(WalSegmentName, u16)> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let parsed = names.filter_map(|name| {
            let (segment, repo) = name.split_once('.')?;
            Some((segment.parse().ok()?, repo.parse().ok()?))
        });
        parsed.collect()
    }

    /// Takes all of it away.
    pub(super) fn clear(&self) {
        fs::remove_dir_all(&self.dir).ok();
    }
}

/// Takes away what pgBackRest has left in the spool of a stanza, unless one archives just now (by the locks in `locks`). None of it is ever believed by
/// us, and after a restore pgBackRest must not believe it either, were it put back: it takes an `.ok` by the name of its file.
pub fn sweep_spool(spool: &Path, stanza: &StanzaName, locks: &Path) {
    let archives = |lock: &HeldLock| {
        lock.path.file_name().is_some_and(|name| name.to_string_lossy().contains("-archive"))
    };
    if held_locks_of_any_version(locks, stanza).map_or(true, |held| held.iter().any(archives)) {
        return;
    }
    let root = spool.join("archive").join(stanza.as_str());
    let user = rustix::process::geteuid().as_raw();
    // Nothing is removed by root where another user decides what lies there.
    let is_own = |dir: &Path| dir.symlink_metadata().is_ok_and(|dir| dir.is_dir() && dir.uid() == user);
    let names = |dir: &Path| {
        let entries = if is_own(dir) { fs::read_dir(dir).ok() } else { None };
        entries.into_iter().flatten().flatten()
    };
    for entry in names(&root.join("out")) {
        if entry.path().extension().is_some_and(|ending| ending == "ok") {
            remove(&entry.path());
        }
    }
    for entry in names(&root.join("in")) {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => drop(fs::remove_dir_all(entry.path())),
            _ => remove(&entry.path()),
        }
    }
}

/// Makes a directory for this user, and refuses one that others could plant something in: a `.done` lets the server remove its WAL.
fn prepare(dir: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o750).create(dir).map_err(Error::io("create directory", dir))?;
    let found = dir.symlink_metadata().map_err(Error::io("look at", dir))?;
    let reason = if !found.is_dir() {
        "it is not a directory"
    } else if found.uid() != rustix::process::geteuid().as_raw() {
        "it belongs to another user"
    } else if found.mode() & 0o002 != 0 {
        "everybody can write to it"
    } else {
        return Ok(());
    };
    Err(Error::Repo(RepoError::Unsafe { path: dir.to_owned(), reason }))
}

/// Puts a file in one step; a crash may lose it.
fn write(dir: &Path, name: &str, text: &str) -> Result<()> {
    let staged = dir.join(format!("{name}.{}.tmp", std::process::id()));
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o640);
    let mut file = options.open(&staged).map_err(Error::io("create", &staged))?;
    io::Write::write_all(&mut file, text.as_bytes()).map_err(Error::io("write", &staged))?;
    drop(file);
    let path = dir.join(name);
    fs::rename(&staged, &path).map_err(Error::io("rename", &staged))
}

fn read(path: &Path) -> Option<String> {
    let mut text = String::new();
    fs::File::open(path).ok()?.take(MAX_FILE).read_to_string(&mut text).ok()?;
    Some(text)
}

fn remove(path: &Path) {
    // One that is gone is what was wanted, and one that stays is checked by whoever reads it.
    fs::remove_file(path).ok();
}

/// A short name for a text.
fn digest(text: &str) -> String {
    data_encoding::HEXLOWER.encode(&blake3::hash(text.as_bytes()).as_bytes()[..16])
}

/// Reads what may be an error file; what is read is written and read again.
#[cfg(fuzzing)]
pub(crate) fn read_failure(text: &str) {
    if let Some(told) = parse_failure(text) {
        assert_ne!(told.failure.code, 0);
        assert_eq!(parse_failure(&render_failure(&told)), Some(told));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const FILE: &str = "000000010000000000000003";

    fn outbox(dir: &Path, scope: &str) -> Outbox {
        let outbox = Outbox::new(dir, &"demo".parse().unwrap(), scope);
        outbox.prepare().unwrap();
        outbox
    }

    #[test]
    fn a_done_is_believed_for_the_very_file_and_settings_alone() {
        let dir = tempfile::tempdir().unwrap();
        let wal = dir.path().join(FILE);
        fs::write(&wal, "content").unwrap();
        let (id, out) = (FileId::of(&wal).unwrap(), outbox(dir.path(), "a"));
        assert_eq!(out.archived(FILE, &id), None);
        out.set_archived(FILE, &id, "take care\nof this").unwrap();
        assert_eq!(out.archived(FILE, &id).as_deref(), Some("take care\nof this"));
        assert_eq!(outbox(dir.path(), "b").archived(FILE, &id), None, "other settings");
        // The server makes another segment of the file, under the same name in the end.
        let other = dir.path().join("other");
        fs::write(&other, "content").unwrap();
        assert_eq!(out.archived(FILE, &FileId::of(&other).unwrap()), None, "another file");
        fs::rename(&wal, dir.path().join("recycled")).unwrap();
        fs::rename(dir.path().join("recycled"), &wal).unwrap();
        let renamed = FileId::of(&wal).unwrap();
        assert!(renamed == id || out.archived(FILE, &renamed).is_none(), "renamed in between");
        // What pgBackRest leaves, what a crash leaves, and what is not of this version.
        let done = dir.path().join("archive/demo/out").join(format!("{FILE}.done"));
        let text = fs::read_to_string(&done).unwrap();
        let their_ok = done.with_extension("ok");
        for bad in ["", "0", "0\n", "0\nwarning", &text[..30], &text.replace("pgbr 1", "pgbr 2")] {
            fs::write(&done, bad).unwrap();
            fs::write(&their_ok, bad).unwrap();
            assert_eq!(out.archived(FILE, &id), None, "{bad:?}");
        }
        assert!(out.has_done(FILE));
        out.forget(FILE);
        assert!(!out.has_done(FILE) && !their_ok.exists() && out.files().is_empty());
        // Process numbers end far below the first; the second is this one's.
        let staged = [2_000_000_000_u32, std::process::id()]
            .map(|pid| done.with_file_name(format!("{FILE}.done.{pid}.tmp")));
        staged.iter().for_each(|path| fs::write(path, "").unwrap());
        out.sweep();
        assert_eq!(staged.map(|path| path.exists()), [false, true]);
    }

    #[test]
    fn failures_are_told_until_somebody_asks_anew() {
        let dir = tempfile::tempdir().unwrap();
        let out = outbox(dir.path(), "a");
        let told =
            |code, text: &str, passing| Told { failure: Failure { code, text: text.to_owned() }, passing };
        let (own, all) = (told(42, "repo1: x\nHINT: y", true), told(62, "stopped", false));
        out.set_failure(None, &all).unwrap();
        assert_eq!(out.failure(FILE), Some(all));
        out.set_failure(Some(FILE), &own).unwrap();
        assert_eq!(out.failure(FILE), Some(own));
        assert_eq!(out.files(), [FILE]);
        out.clear_failures(FILE);
        assert_eq!(out.failure(FILE), None);
        for bad in ["", "x\ny", "999\ny", "12", "0\ny", "++1\ny", "+\ny", "+0\ny"] {
            assert_eq!(parse_failure(bad), None, "{bad:?}");
        }
        // pgBackRest has to read a number there, were it put back: what it cannot read ends its archiving.
        for passing in [true, false] {
            let text = render_failure(&told(42, "x", passing));
            let number: i32 = text.lines().next().unwrap().parse().unwrap();
            assert_eq!(number, 42);
        }
    }

    #[test]
    fn a_worker_learns_that_others_settings_are_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (outbox(dir.path(), "a"), outbox(dir.path(), "b"));
        assert!(!a.scope_wanted());
        a.want_scope().unwrap();
        assert!(a.scope_wanted() && !b.scope_wanted());
        let scope = dir.path().join("archive/demo/out/scope");
        let old = SystemTime::UNIX_EPOCH;
        fs::File::options().write(true).open(&scope).unwrap().set_modified(old).unwrap();
        assert_eq!(a.signed(), Some(old));
        a.want_scope().unwrap();
        assert!(a.signed() > Some(old));
        b.want_scope().unwrap();
        assert!(b.scope_wanted() && !a.scope_wanted());
    }

    #[test]
    fn what_a_worker_fetched_is_found_under_its_own_run_and_settings() {
        let dir = tempfile::tempdir().unwrap();
        let stanza: StanzaName = "demo".parse().unwrap();
        let inbox = Inbox::new(dir.path(), &stanza, "a");
        inbox.prepare().unwrap();
        let segment = FILE.parse().unwrap();
        assert_eq!(inbox.wanted(), Ok(None));
        inbox.want(segment).unwrap();
        assert_eq!(inbox.wanted(), Ok(Some(segment)));
        assert_eq!(Inbox::new(dir.path(), &stanza, "b").wanted(), Err(()));

        let shelf = inbox.new_shelf("17-0a0b").unwrap();
        fs::write(shelf.segment(segment, 2), "x").unwrap();
        shelf.begin(segment).unwrap();
        assert!(shelf.is_fetching(segment));
        assert_eq!(inbox.shelf("17-0a0b").unwrap().segments(), [(segment, 2)]);
        assert!(Inbox::new(dir.path(), &stanza, "b").shelf("17-0a0b").is_none());
        for bad in ["", "..", "17-0a0b/../x", "18-0a0b"] {
            assert!(inbox.shelf(bad).is_none(), "{bad:?}");
        }
        let next = inbox.new_shelf("18-0a0b").unwrap();
        assert!(inbox.shelf("17-0a0b").is_none() && next.segments().is_empty());
    }

    #[test]
    fn what_pgbackrest_left_goes_and_ours_stays() {
        let dir = tempfile::tempdir().unwrap();
        let stanza: StanzaName = "demo".parse().unwrap();
        let root = dir.path().join("archive/demo");
        let locks = dir.path().join("lock");
        fs::create_dir(&locks).unwrap();
        sweep_spool(dir.path(), &stanza, &locks);
        let theirs = [format!("out/{FILE}.ok"), format!("in/{FILE}"), format!("in/{FILE}.pgbackrest.tmp")];
        let ours = [format!("out/{FILE}.done"), "out/scope".to_owned(), "ahead/want".to_owned()];
        for name in ["out", "in/17-0a0b", "ahead"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        theirs.iter().chain(&ours).for_each(|name| fs::write(root.join(name), "").unwrap());
        // One that archives needs them.
        let held = fs::File::create(locks.join("demo-archive.lock")).unwrap();
        held.lock().unwrap();
        sweep_spool(dir.path(), &stanza, &locks);
        assert!(theirs.iter().chain(&ours).all(|name| root.join(name).exists()));
        drop(held);
        sweep_spool(dir.path(), &stanza, &locks);
        assert!(theirs.iter().all(|name| !root.join(name).exists()) && !root.join("in/17-0a0b").exists());
        assert!(ours.iter().all(|name| root.join(name).exists()));
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let out = outbox(dir.path(), "a");
        let path = dir.path().join("archive/demo/out");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(out.prepare(), Err(Error::Repo(RepoError::Unsafe { .. }))));
    }
}
