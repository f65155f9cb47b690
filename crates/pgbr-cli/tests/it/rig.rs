//! A cluster that archives into a repository of its own, and how tests see that a failure changed nothing.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pgbr_testkit::{Bucket, Cluster, Finished, Objects, Pgbr, Proxy, own, wait_until};
use rustix::process::{Pid, Signal, kill_process};

use crate::monitoring::assert_fits;

/// Debian 12's own version.
pub(crate) const MAJOR: u32 = 15;
/// Looks like nothing else, so that it is found wherever it leaks.
pub(crate) const PASS: &str = "Xylophone-quartz-91-vigil";
/// The stanza.
pub(crate) const STANZA: &str = "demo";
/// Longer than anything here takes.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// A running cluster, its stanza, and a config file for both.
pub(crate) struct Rig {
    pub(crate) cluster: Cluster,
    pub(crate) pgbr: Pgbr,
}

/// Every object of a repository: its length and a hash of its content. Leases are left out, for who tries takes one.
pub(crate) type Snapshot = BTreeMap<String, (usize, u64)>;

impl Rig {
    /// With a repository that is not encrypted.
    pub(crate) fn plain() -> Self {
        Self::with(|_| ())
    }

    /// With a repository that is.
    pub(crate) fn sealed() -> Self {
        Self::with(|pgbr| pgbr.encrypt(1, "aes-256-gcm", PASS))
    }

    /// With a config file that `configure` changed before the stanza was made.
    pub(crate) fn with(configure: impl FnOnce(&Pgbr)) -> Self {
        let cluster = cluster();
        let pgbr = Pgbr::new(env!("CARGO_BIN_EXE_pgbr"), STANZA, &cluster);
        Self::around(cluster, pgbr, configure)
    }

    /// With a repository that is encrypted and lies in this bucket.
    pub(crate) fn in_bucket(bucket: Bucket) -> Self {
        Self::in_bucket_with(bucket, |_| ())
    }

    /// The same with a config file that `configure` changed before the stanza was made.
    pub(crate) fn in_bucket_with(bucket: Bucket, configure: impl FnOnce(&Pgbr)) -> Self {
        let cluster = cluster();
        let pgbr = Pgbr::with_bucket(Some(bucket), env!("CARGO_BIN_EXE_pgbr"), STANZA, &cluster);
        Self::around(cluster, pgbr, |pgbr| {
            pgbr.encrypt(1, "aes-256-gcm", PASS);
            configure(pgbr);
        })
    }

    /// Around a running cluster, with a program that has its config file, and its repository wherever that says.
    pub(crate) fn around(cluster: Cluster, pgbr: Pgbr, configure: impl FnOnce(&Pgbr)) -> Self {
        pgbr.set("global", "process-max", "2");
        pgbr.set("global", "archive-timeout", "60");
        configure(&pgbr);
        pgbr.ok(["stanza-create"]);
        pgbr.archive_from(&cluster);
        Self { cluster, pgbr }
    }

    /// Makes a full backup and gives its label.
    pub(crate) fn backup(&self) -> String {
        self.pgbr.ok(["backup", "--type=full"]);
        self.labels().pop().expect("the backup that was just made is listed")
    }

    /// The backups that the program lists, oldest first.
    pub(crate) fn labels(&self) -> Vec<String> {
        let json = self.info();
        let backups = json.pointer("/0/backup").and_then(|list| list.as_array()).cloned().unwrap_or_default();
        backups.iter().filter_map(|b| Some(b.get("label")?.as_str()?.to_owned())).collect()
    }

    /// What `info --output=json` says.
    pub(crate) fn info(&self) -> serde_json::Value {
        let info = serde_json::from_str(&self.pgbr.ok(["info", "--output=json"])).expect("info prints JSON");
        assert_fits(&info);
        info
    }

    /// A directory to restore into.
    pub(crate) fn target(&self) -> Cluster {
        Cluster::builder(self.cluster.major()).empty()
    }

    /// The directory of the stanza: for tests that are about files.
    pub(crate) fn stanza_dir(&self) -> PathBuf {
        self.pgbr.repo_dir().join("pgbr").join(STANZA)
    }

    /// The objects of the repository.
    pub(crate) fn objects(&self) -> &Objects {
        self.pgbr.objects()
    }

    /// The key of an object of the stanza.
    pub(crate) fn key(&self, below: &str) -> String {
        format!("pgbr/{STANZA}/{below}")
    }

    /// The keys of the stanza's objects below a prefix, without all that stands before it and the slash after it.
    pub(crate) fn names(&self, prefix: &str) -> Vec<String> {
        let prefix = self.key(prefix);
        self.objects().list(&prefix).iter().map(|key| key[prefix.len() + 1..].to_owned()).collect()
    }

    /// The key of the object of a WAL segment of the first timeline.
    pub(crate) fn wal_key(&self, segment: &str) -> String {
        self.key(&format!("archive/15-1/{}/{segment}", &segment[..16]))
    }

    /// The same as a file.
    pub(crate) fn wal_object(&self, segment: &str) -> PathBuf {
        self.pgbr.repo_dir().join(self.wal_key(segment))
    }

    /// All objects of the repository.
    pub(crate) fn snapshot(&self) -> Snapshot {
        self.snapshot_of("pgbr")
    }

    /// All objects below a prefix.
    pub(crate) fn snapshot_of(&self, prefix: &str) -> Snapshot {
        snapshot_of(self.objects(), prefix)
    }

    /// All objects but WAL, which comes by itself.
    pub(crate) fn snapshot_without_wal(&self) -> Snapshot {
        let archive = self.key("archive/");
        self.snapshot().into_iter().filter(|(key, _)| !key.starts_with(&archive)).collect()
    }

    /// Runs a command that must end with an error of this code whose message holds all of `words`, and must leave the
    /// repository as it was.
    #[track_caller]
    pub(crate) fn refused<'a>(
        &self,
        code: i32,
        words: &[&str],
        args: impl IntoIterator<Item = &'a str>,
    ) -> Finished {
        let before = self.snapshot_without_wal();
        let finished = self.pgbr.fails(code, args);
        assert_one_error(&finished, code, words);
        assert_eq!(self.snapshot_without_wal(), before, "the repository changed: {finished:#?}");
        finished
    }

    /// The server still gets its WAL into the repository.
    #[track_caller]
    pub(crate) fn still_archives(&self) {
        let segment = self.cluster.switch_wal();
        self.cluster.wait_archived(&segment);
        assert!(self.holds_wal(&segment), "{segment} is not in the archive");
    }

    /// Whether a segment is in the archive. In a store that was found not to create for one alone it has its digest behind its name: moto is
    /// such a store when many ask at once.
    fn holds_wal(&self, segment: &str) -> bool {
        let mut names = self.names(&format!("archive/15-1/{}", &segment[..16])).into_iter();
        names.any(|name| {
            name.strip_prefix(segment).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        })
    }

    /// Gets a closed WAL segment of the cluster into the archive, and gives its name.
    pub(crate) fn archived_segment(&self) -> String {
        let segment = self.cluster.switch_wal();
        self.cluster.wait_archived(&segment);
        segment
    }

    /// Waits until a segment that could not be archived for a while is. The archiver pauses for a minute after three tries; a new segment
    /// wakes it.
    pub(crate) fn wait_archived(&self, segment: &str) {
        self.cluster.switch_wal();
        self.cluster.wait_archived(segment);
        assert!(self.holds_wal(segment), "{segment} is not in the archive");
    }

    /// Nothing of a backup is left over in the server: no session, and no label in the data directory.
    pub(crate) fn assert_no_backup_mode(&self) {
        let query = "select count(*) from pg_stat_activity where application_name like '% [%]'";
        wait_until(LIMIT, "the backup's session to end", || self.cluster.sql("postgres", query) == "0");
        assert!(!self.cluster.data_dir().join("backup_label").exists());
    }
}

/// A running cluster that would archive.
pub(crate) fn cluster() -> Cluster {
    let builder = Cluster::builder(MAJOR).conf("archive_mode", "on").conf("archive_command", "false");
    builder.conf("track_commit_timestamp", "on").start()
}

/// All files below a directory, leases aside.
pub(crate) fn snapshot(root: &Path) -> Snapshot {
    snapshot_of(&Objects::in_directory(root.to_owned()), "")
}

fn snapshot_of(objects: &Objects, prefix: &str) -> Snapshot {
    let keys = objects.list(prefix).into_iter().filter(|key| !key.contains("/lease/"));
    // An object that is being put may go away in between.
    let found = keys.filter_map(|key| Some((objects.find(&key)?, key)));
    let hashed = found.map(|(content, key)| {
        let mut hasher = DefaultHasher::new();
        content.hash(&mut hasher);
        (key, (content.len(), hasher.finish()))
    });
    hashed.collect()
}

/// One error, of this code, that holds all of `words`; and no trace of a panic.
#[track_caller]
pub(crate) fn assert_one_error(finished: &Finished, code: i32, words: &[&str]) {
    let text = said(finished);
    let errors: Vec<&str> = text.lines().filter(|line| line.contains("ERROR: [")).collect();
    assert_eq!(errors.len(), 1, "one error is wanted: {finished:#?}");
    assert!(text.contains(&format!("ERROR: [{code:03}]: ")), "{finished:#?}");
    for word in words {
        assert!(text.contains(word), "'{word}' is missing: {finished:#?}");
    }
    assert!(!text.contains("panicked") && !text.contains("internal error"), "{finished:#?}");
}

/// All that a command wrote.
pub(crate) fn said(finished: &Finished) -> String {
    format!("{}{}", finished.stdout, finished.stderr)
}

/// The words for a restore into a target.
pub(crate) fn restore_into(target: &Cluster) -> [String; 2] {
    ["restore".to_owned(), format!("--pg1-path={}", target.data_dir().display())]
}

/// Nothing was written into a directory.
#[track_caller]
pub(crate) fn assert_untouched(target: &Cluster) {
    let left: Vec<_> = fs::read_dir(target.data_dir()).expect("it is there").flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// No server comes up on what a broken restore has left.
#[track_caller]
pub(crate) fn assert_unusable(target: &Cluster) {
    assert!(!target.data_dir().join("global/pg_control").exists());
    assert!(target.try_start().is_err(), "a server runs on a broken restore");
}

/// A command that was stopped by SIGSTOP in the middle of its work.
pub(crate) struct Frozen(Option<Child>);

impl Frozen {
    /// Starts a command and stops it as soon as `when` is true.
    #[track_caller]
    pub(crate) fn at(command: Command, when: impl FnMut() -> bool) -> Self {
        Self::begun(command, when)
            .unwrap_or_else(|ended| panic!("it ended before it was met at that moment: {ended:#?}"))
    }

    /// The same; none where it had succeeded before it was stopped, as on a busy machine.
    #[track_caller]
    pub(crate) fn met(command: Command, when: impl FnMut() -> bool) -> Option<Self> {
        match Self::begun(command, when) {
            Ok(frozen) => Some(frozen),
            Err(ended) => {
                assert!(ended.success(), "{ended:#?}");
                None
            }
        }
    }

    #[track_caller]
    fn begun(mut command: Command, mut when: impl FnMut() -> bool) -> Result<Self, Finished> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut frozen = Self(Some(child.expect("the program can be started")));
        let start = Instant::now();
        while !when() {
            if !frozen.runs() {
                return Err(frozen.finish());
            }
            assert!(start.elapsed() < LIMIT, "the moment does not come");
            std::thread::sleep(Duration::from_millis(1));
        }
        frozen.send(Signal::STOP);
        if frozen.runs() { Ok(frozen) } else { Err(frozen.finish()) }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.as_ref().expect("only its end takes the child away").id()
    }

    pub(crate) fn send(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a child has a process id");
        kill_process(pid, signal).expect("a child that was not waited for can be signalled");
    }

    /// Lets it go on and gives how it ended.
    pub(crate) fn thaw(mut self) -> Finished {
        self.send(Signal::CONT);
        self.finish()
    }

    fn runs(&mut self) -> bool {
        self.0.as_mut().is_some_and(|child| child.try_wait().expect("a child can be asked").is_none())
    }

    fn finish(&mut self) -> Finished {
        let start = Instant::now();
        let child = self.0.take().expect("it ends once");
        let output = child.wait_with_output().expect("a child can be waited for");
        Finished {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            elapsed: start.elapsed(),
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

impl Rig {
    /// Enough data, packed slowly enough, for a backup or a restore to be met in the middle of its work.
    pub(crate) fn slow_down(&self) {
        self.cluster.pgbench_init(2);
        self.pgbr.set("global", "process-max", "1");
        self.pgbr.set("global", "compress-type", "bz2");
        self.pgbr.set("global", "repo1-pack-size", "1MiB");
    }

    /// A backup that was stopped when it had stored its first pack.
    pub(crate) fn frozen_backup(&self) -> Frozen {
        self.frozen_backup_with(&[])
    }

    /// The same with more options.
    pub(crate) fn frozen_backup_with(&self, options: &[&str]) -> Frozen {
        let before = self.packs();
        let command = self.pgbr.command(["backup", "--type=full"].iter().chain(options));
        Frozen::at(command, || self.packs() > before)
    }

    /// A restore that was stopped when it had begun to write files.
    pub(crate) fn frozen_restore(&self, target: &Cluster) -> Frozen {
        let [begun, behind] = ["base/1", "global"].map(|name| target.data_dir().join(name));
        for _ in 0..20 {
            match Frozen::met(self.pgbr.command(restore_into(target)), || begun.exists()) {
                Some(frozen) if !behind.exists() => return frozen,
                // On a busy machine the moment was seen too late: once more.
                late => drop(late.map(Frozen::thaw)),
            }
            fs::remove_dir_all(target.data_dir()).expect("it can be removed");
            fs::create_dir(target.data_dir()).expect("it can be made");
            fs::set_permissions(target.data_dir(), fs::Permissions::from_mode(0o700)).expect("it is ours");
            own(target.data_dir());
        }
        panic!("no restore was met in the middle of its work");
    }

    /// How many packs there are.
    pub(crate) fn packs(&self) -> usize {
        self.names("backup").iter().filter(|name| name.contains("/pack/")).count()
    }

    /// Takes the repository away, as an unmounted disk or a store that is down.
    pub(crate) fn take_away(&self) -> Away<'_> {
        if self.pgbr.bucket().is_some() {
            self.pgbr.proxy().leave();
            return Away::Store(self.pgbr.proxy());
        }
        let (place, kept) = (self.pgbr.repo_dir(), self.pgbr.scratch().path().join("repo.away"));
        fs::rename(&place, &kept).expect("the repository can be renamed");
        Away::Directory { place, kept }
    }
}

/// A repository that is not where it should be.
pub(crate) enum Away<'a> {
    Directory { place: PathBuf, kept: PathBuf },
    Store(&'a Proxy),
}

impl Away<'_> {
    /// Brings it back; nothing may have grown in its place.
    pub(crate) fn bring_back(self) {
        match self {
            Self::Store(proxy) => proxy.come_back(),
            Self::Directory { place, kept } => {
                assert!(!place.exists(), "something was made where the repository was");
                fs::rename(&kept, &place).expect("the repository can be renamed");
            }
        }
    }
}
