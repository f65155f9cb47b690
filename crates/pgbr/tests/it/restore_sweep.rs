//! The crash sweep of a restore's target: every change that it makes to a file or directory fails, or is the one at which the process dies. After each the
//! target holds no cluster that a server would start on, or a complete one; and the next restore makes it what an undisturbed one makes it.
//!
//! What a restore does is read from a trace of an undisturbed one. Each of its calls is then taken by its name, its path and how many of the kind
//! came before, and a restore in a process of its own is run by strace, which makes just that call fail, or kills the process there.
//! So it does not matter in which order the threads of a restore come to their calls.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use pgbr::{BackupLabel, Existing, Host, Places, RecoveryGoal, RepoAccess, RestoreRequest, restore};
use pgbr_testkit::is_dense;

use crate::server::{Chain, restored};
use crate::world::{Ground, Site, World, quick_dir, stanza};

/// What a process is told that is to restore and nothing else.
const CHILD: &str = "PGBR_TEST_RESTORE";
/// The calls that change files and directories or make that durable. A `?` excuses those that a platform does not have.
const CALLS: &str = "?open,openat,write,writev,pwrite64,ftruncate,fsync,fdatasync,syncfs,?rename,renameat,?renameat2,?symlink,symlinkat,\
                     ?unlink,unlinkat,?rmdir,?mkdir,mkdirat,?chmod,fchmod,fchmodat,?chown,fchown,fchownat,utimensat";

fn request(repo: RepoAccess, label: BackupLabel, target: &Path, existing: Existing) -> RestoreRequest {
    let places = Places {
        pg_data: target.join("data"),
        tablespace_map_all: Some(target.join("spaces")),
        existing,
        ..Places::default()
    };
    let request = RestoreRequest::new(repo, stanza(), places, "false".to_owned());
    RestoreRequest { set: Some(label), goal: RecoveryGoal::Immediate, ..request }
}

const WAYS: [(&str, Existing); 3] =
    [("refuse", Existing::Refuse), ("replace", Existing::Replace), ("delta", Existing::Delta)];

/// As a test by itself: a restore gives what was backed up. In a process of its own it restores what it is told to.
#[test]
fn a_restore_gives_what_was_backed_up() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    if let Ok(told) = std::env::var(CHILD) {
        let [repo, label, target, way] = told.split('\n').collect::<Vec<_>>()[..] else { panic!("{told}") };
        let existing = WAYS.into_iter().find(|(name, _)| *name == way).unwrap().1;
        let repo = RepoAccess::plain(repo);
        let request = request(repo, label.parse().unwrap(), Path::new(target), existing);
        runtime.block_on(restore(&Host::system(), request)).unwrap();
        return;
    }
    let chain = Chain::get();
    runtime.block_on(async {
        let ground = Ground::with(Site::Memory, &chain.objects).await;
        for (label, files) in &chain.backups {
            assert_eq!(restored(&World::new(1, 30).host(), ground.sound(), *label).await, *files);
        }
    });
}

/// A file or directory that was restored: what it is, its mode and owner, and what it holds.
type Node = (bool, u32, u32, u32, Option<i64>, Vec<u8>);

/// All that is below a directory, but the settings of recovery, which tell when they were written.
fn image(target: &Path) -> BTreeMap<PathBuf, Node> {
    let (mut found, mut todo) = (BTreeMap::new(), vec![target.to_owned()]);
    while let Some(path) = todo.pop() {
        let about = fs::symlink_metadata(&path).unwrap();
        let (times, content) = if about.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            (None, Vec::new())
        } else if about.is_symlink() {
            let leads_to = fs::read_link(&path).unwrap();
            let leads_to = leads_to.strip_prefix(target).unwrap_or(&leads_to);
            (None, leads_to.as_os_str().as_encoded_bytes().to_vec())
        } else {
            (Some(about.mtime()), fs::read(&path).unwrap())
        };
        let node = (about.is_dir(), about.mode(), about.uid(), about.gid(), times, content);
        found.insert(path.strip_prefix(target).unwrap().to_owned(), node);
    }
    for written in ["postgresql.auto.conf", "recovery.signal", "backup_label", "tablespace_map"] {
        if let Some((_, _, _, _, time, content)) = found.get_mut(&Path::new("data").join(written)) {
            *time = None;
            // When it was written, and where to.
            if written != "backup_label" {
                content.clear();
            }
        }
    }
    found
}

/// A call of the undisturbed restore: the thing that is to go wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Call {
    name: String,
    path: PathBuf,
    /// The number of this one among those of the same thread with this name and path, from 1.
    number: usize,
}

/// What goes wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    Fails,
    Dies,
}

/// The calls of a trace that change something below a directory, in order, each once.
fn calls(trace: &str, below: &Path) -> Vec<Call> {
    let mut seen: BTreeMap<(String, String, PathBuf), usize> = BTreeMap::new();
    let (mut calls, mut known) = (Vec::new(), BTreeSet::new());
    for line in trace.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        // What another thread interrupts is told in two parts; the first has all the words that are needed.
        let Some((name, args)) = rest.split_once('(') else { continue };
        if rest.starts_with('<') || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            continue;
        }
        let writes = ["O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC"].iter().any(|flag| args.contains(flag));
        if name.starts_with("open") && !writes {
            continue;
        }
        let Some(path) = path(name, args).filter(|path| path.starts_with(below)) else { continue };
        let number = seen.entry((thread.to_owned(), name.to_owned(), path.clone())).or_default();
        *number += 1;
        let number = *number;
        let call = Call { name: name.to_owned(), path, number };
        if known.insert(call.clone()) {
            calls.push(call);
        }
    }
    calls
}

/// The path that strace looks at: the first that the arguments of a call name, as a string or by an open file; of a link where it is, and not where
/// it leads to. Those in these tests have nothing that strace escapes.
fn path(name: &str, args: &str) -> Option<PathBuf> {
    let quoted = args.split('"').nth(if name.starts_with("symlink") { 3 } else { 1 });
    let opened = args.split_once('<').and_then(|(_, rest)| rest.split('>').next());
    // A call that begins with a directory names what is in it by a relative path.
    let path = quoted.filter(|path| path.starts_with('/')).or(opened)?;
    path.starts_with('/').then(|| PathBuf::from(path))
}

/// A repository in a directory, what is in the target when a restore begins, and how that goes about it.
struct Rig {
    repo: tempfile::TempDir,
    label: BackupLabel,
    way: &'static str,
    /// The restores that make what is there before, and whether something is spoiled then.
    before: Option<BackupLabel>,
}

impl Rig {
    fn target(&self) -> tempfile::TempDir {
        let dir = quick_dir();
        fs::create_dir(dir.path().join("data")).unwrap();
        pgbr_testkit::own(&dir.path().join("data"));
        if let Some(label) = self.before {
            self.restore(dir.path(), label, "refuse");
            // A server has run on it.
            fs::write(dir.path().join("data/global/foreign"), "of no backup").unwrap();
            fs::create_dir_all(dir.path().join("data/base/77")).unwrap();
            fs::write(dir.path().join("data/base/77/1"), "of no backup").unwrap();
            fs::remove_file(dir.path().join("data/global/1260")).unwrap();
            fs::remove_file(dir.path().join("data/recovery.signal")).unwrap();
        }
        dir
    }

    /// Restores without any disturbance, in this process.
    fn restore(&self, target: &Path, label: BackupLabel, way: &str) {
        let existing = WAYS.into_iter().find(|(name, _)| *name == way).unwrap().1;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let request = request(RepoAccess::plain(self.repo.path()), label, target, existing);
        let host = World::new(1, 30).later();
        runtime.block_on(restore(&host, request)).unwrap_or_else(|error| panic!("{way}: {error}"));
    }

    /// Restores in a process of its own, under strace.
    fn traced(&self, target: &Path, trace: &Path, options: &[String]) -> (ExitStatus, String) {
        let told =
            [self.repo.path().to_str().unwrap(), &self.label.to_string(), target.to_str().unwrap(), self.way];
        let mut strace = Command::new("strace");
        strace.args(["-f", "-y", "-s", "300", "-qq", "-o"]).arg(trace).args(options);
        strace.arg(std::env::current_exe().unwrap());
        strace
            .args(["--exact", "restore_sweep::a_restore_gives_what_was_backed_up"])
            .env(CHILD, told.join("\n"));
        let output = strace.output().expect("strace is there: run scripts/setup-tests.sh");
        (output.status, String::from_utf8_lossy(&fs::read(trace).unwrap()).into_owned())
    }

    /// Does one call wrong; gives whether the restore came to it.
    fn strike(&self, call: &Call, wrong: Wrong, complete: &BTreeMap<PathBuf, Node>, next: &str) -> bool {
        let dir = self.target();
        let before = image(dir.path());
        let why = format!("{} restore, {wrong:?} at {call:?}", self.way);
        // Where it is, in this target.
        let path = dir.path().join(&call.path);
        let error =
            if matches!(call.name.as_str(), "fsync" | "fdatasync" | "syncfs") { "EIO" } else { "ENOSPC" };
        let how = match wrong {
            Wrong::Fails => format!("error={error}"),
            Wrong::Dies => "signal=SIGKILL".to_owned(),
        };
        let (name, trace) = (&call.name, format!("trace={}", call.name));
        let inject = format!("inject={name}:{how}:when={}", call.number);
        let options = ["-P", path.to_str().unwrap(), "-e", &trace, "-e", &inject].map(str::to_owned);
        let (status, trace) = self.traced(dir.path(), &dir.path().with_extension("trace"), &options);
        fs::remove_file(dir.path().with_extension("trace")).unwrap();
        // strace ends as what it ran.
        let struck = trace.contains("(INJECTED)") || status.signal() == Some(9);
        let control = dir.path().join("data/global/pg_control").exists();
        assert!(struck || status.success(), "{why}: {trace}");
        assert!(control || !status.success(), "{why}: success, and it cannot be started");
        // No server starts without a control file. It is the old one where nothing else was touched yet.
        let startable = control.then(|| image(dir.path()));
        assert!(
            startable.is_none_or(|found| found == *complete || !status.success() && found == before),
            "{why}: it can be started and is not complete"
        );
        self.restore(dir.path(), self.label, next);
        let mended = image(dir.path());
        let differs =
            mended.iter().find(|(path, node)| complete.get(*path) != Some(node)).map(|(path, _)| path);
        assert!(
            mended == *complete,
            "{why}, then {next}: {differs:?} differs, {} and {}",
            mended.len(),
            complete.len()
        );
        struck
    }
}

/// How many calls go wrong when not all do.
const SAMPLE: usize = 14;

#[expect(clippy::print_stdout, reason = "how many there were belongs into the log of the tests")]
fn sweep(way: &'static str, over: bool) {
    let chain = Chain::get();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let Ground::Directory(repo) = runtime.block_on(Ground::with(Site::Directory, &chain.objects)) else {
        panic!("it is in a directory")
    };
    let (label, before) = (chain.labels()[3], over.then_some(chain.labels()[0]));
    let rig = Rig { repo, label, way, before };
    // What there is to go wrong, and what is there when nothing does.
    let dir = rig.target();
    let trace = dir.path().with_extension("trace");
    let (status, text) = rig.traced(dir.path(), &trace, &["-e".to_owned(), format!("trace={CALLS}")]);
    fs::remove_file(&trace).unwrap();
    assert!(status.success(), "{text}");
    let complete = image(dir.path());
    let calls: Vec<Call> = calls(&text, dir.path())
        .into_iter()
        .map(|call| Call { path: call.path.strip_prefix(dir.path()).unwrap().to_owned(), ..call })
        .collect();
    assert!(calls.len() > 100, "{calls:?}");
    let every = if is_dense() { 1 } else { calls.len().div_ceil(SAMPLE) };
    let mut struck = [0, 0];
    for (at, call) in calls.iter().enumerate().step_by(every) {
        for (wrong, count) in [Wrong::Fails, Wrong::Dies].into_iter().zip(&mut struck) {
            let nexts = ["delta", "replace"];
            let nexts = if is_dense() { &nexts[..] } else { &nexts[at % 2..=at % 2] };
            let reached =
                nexts.iter().map(|next| rig.strike(call, wrong, &complete, next)).collect::<Vec<_>>();
            if !reached.contains(&true) {
                println!("restore ({way}): no {call:?} this time");
            }
            *count += usize::from(reached.contains(&true));
        }
    }
    let (tried, [fails, dies]) = (calls.len().div_ceil(every), struck);
    println!("restore ({way}): {} calls, {fails} of {tried} failed, at {dies} it died", calls.len());
    assert!(fails * 10 >= tried * 9 && dies * 10 >= tried * 9, "too few calls were met");
}

#[test]
fn a_restore_into_an_empty_directory_is_complete_or_unusable() {
    sweep("refuse", false);
}

#[test]
fn a_restore_in_the_place_of_a_cluster_is_complete_or_unusable() {
    sweep("replace", true);
}

#[test]
fn a_restore_that_mends_a_cluster_is_complete_or_unusable() {
    sweep("delta", true);
}
