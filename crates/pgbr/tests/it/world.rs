//! What a crash sweep stands on: time, randomness and processes that follow from a seed, a place for objects, and what must hold of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, LocalBoxFuture};
use futures::{FutureExt, StreamExt};
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use pgbr::{
    Asked, BackupLabel, Clock, Entropy, ExpireRequest, FindingLevel, Host, InfoRequest, Policy, RepoAccess,
    StanzaName, Store, VerifyReport, VerifyRequest, expire, info, verify,
};
use pgbr_testkit::{Case, FaultStore};

/// When everything begins: long before any file of this machine was written, so that no file looks old enough to be passed over unread.
pub(crate) const BEGINNING: i64 = 1_500_000_000;
/// More than a minute: who gave no sign of life in it is taken for dead.
const MINUTE: Duration = Duration::from_secs(70);
/// What is waited for longer than this (a sign of life of one's own) takes its time; anything else has happened at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// Time and randomness of one try.
pub(crate) struct World {
    time: Arc<Time>,
    draws: Arc<Draws>,
}

struct Time {
    seconds: AtomicI64,
    /// Of the monotonic clock, in milliseconds.
    monotonic: AtomicU64,
}

/// A process's look at the time.
struct Look {
    time: Arc<Time>,
    /// How much time passes when it waits for others; none: as much as it asks for.
    pause: Option<Duration>,
}

impl Clock for Look {
    fn now_ns(&self) -> i64 {
        self.time.seconds.fetch_add(1, Ordering::SeqCst) * 1_000_000_000
    }

    fn monotonic(&self) -> Duration {
        self.time.pass(Duration::from_millis(1))
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        if time > PATIENCE {
            return tokio::time::sleep(time).boxed();
        }
        self.time.pass(self.pause.unwrap_or(time));
        tokio::task::yield_now().boxed()
    }
}

impl Time {
    fn pass(&self, time: Duration) -> Duration {
        let step = u64::try_from(time.as_millis()).unwrap();
        Duration::from_millis(self.monotonic.fetch_add(step, Ordering::SeqCst) + step)
    }
}

struct Draws {
    seed: u64,
    count: AtomicU64,
}

impl Entropy for Draws {
    fn fill(&self, bytes: &mut [u8]) -> pgbr_repo::Result<()> {
        let count = self.count.fetch_add(1, Ordering::SeqCst);
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.seed.to_le_bytes()).update(&count.to_le_bytes()).finalize_xof().fill(bytes);
        Ok(())
    }
}

impl World {
    /// The world of a seed, so many days after the beginning.
    pub(crate) fn new(seed: u64, days: i64) -> Self {
        let seconds = AtomicI64::new(BEGINNING + days * 86_400);
        let time = Arc::new(Time { seconds, monotonic: AtomicU64::new(1_000_000) });
        Self { time, draws: Arc::new(Draws { seed, count: AtomicU64::new(0) }) }
    }

    /// A process that gives no sign of life, however long the others take: its requests come one after the other.
    pub(crate) fn host(&self) -> Host {
        self.process(None)
    }

    /// A process that comes more than a minute later, and waits as long where it waits to see whether others live.
    pub(crate) fn later(&self) -> Host {
        self.time.pass(MINUTE);
        self.process(Some(MINUTE))
    }

    fn process(&self, pause: Option<Duration>) -> Host {
        let clock = Arc::new(Look { time: Arc::clone(&self.time), pause });
        Host { clock, entropy: self.draws.clone(), zone: jiff::tz::TimeZone::UTC, ..Host::system() }
    }
}

pub(crate) fn stanza() -> StanzaName {
    "main".parse().unwrap()
}

/// Objects by their keys.
pub(crate) type Objects = BTreeMap<String, Bytes>;

/// Where a repository lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Site {
    /// In a store that is reached by requests.
    Memory,
    /// In a directory.
    Directory,
}

impl Site {
    pub(crate) const ALL: [Self; 2] = [Self::Memory, Self::Directory];

    /// How a sweep of a command there is called.
    pub(crate) fn sweep_of(self, command: &str) -> String {
        match self {
            Self::Memory => format!("{command} in memory"),
            Self::Directory => format!("{command} in a directory"),
        }
    }
}

/// A place for objects.
pub(crate) enum Ground {
    Memory(Arc<InMemory>),
    Directory(tempfile::TempDir),
}

impl Ground {
    /// One with objects in it.
    pub(crate) async fn with(site: Site, objects: &Objects) -> Self {
        let ground = match site {
            Site::Memory => Self::Memory(Arc::default()),
            Site::Directory => Self::Directory(quick_dir()),
        };
        ground.put(objects).await;
        ground
    }

    /// Puts objects beside what there is.
    pub(crate) async fn put(&self, objects: &Objects) {
        for (key, content) in objects {
            match self {
                Self::Memory(memory) => {
                    memory.put(&key.as_str().into(), content.clone().into()).await.unwrap();
                }
                Self::Directory(dir) => {
                    let path = dir.path().join(key);
                    fs::create_dir_all(path.parent().unwrap()).unwrap();
                    fs::write(path, content).unwrap();
                }
            }
        }
    }

    /// The repository in it.
    pub(crate) fn sound(&self) -> RepoAccess {
        match self {
            Self::Memory(memory) => RepoAccess::store(Store::remote(memory.clone(), "memory")),
            Self::Directory(dir) => RepoAccess::plain(dir.path()),
        }
    }

    /// The same by way of a store with something wrong.
    pub(crate) fn faulty(&self, case: Case) -> (RepoAccess, Arc<FaultStore>) {
        match self {
            Self::Memory(memory) => {
                let faults = FaultStore::ordered(memory.clone(), case.fault, case.seed);
                (RepoAccess::store(Store::remote(faults.clone(), "memory")), faults)
            }
            Self::Directory(dir) => {
                let mut wrapper = None;
                let store = Store::local_wrapped(dir.path(), true, |inner| {
                    let faults = FaultStore::ordered(inner, case.fault, case.seed);
                    wrapper = Some(Arc::clone(&faults));
                    faults
                });
                (RepoAccess::store(store.unwrap()), wrapper.unwrap())
            }
        }
    }

    /// All that is in it, files of unfinished puts included.
    pub(crate) async fn objects(&self) -> Objects {
        match self {
            Self::Memory(memory) => {
                let mut found = Objects::new();
                let mut listed = memory.list(None);
                while let Some(object) = listed.next().await {
                    let key = object.unwrap().location;
                    let content = memory.get(&key).await.unwrap().bytes().await.unwrap();
                    found.insert(key.to_string(), content);
                }
                found
            }
            Self::Directory(dir) => tree(dir.path()),
        }
    }

    /// Changes the object whose key ends so.
    pub(crate) async fn change(&self, name: &str, change: impl FnOnce(Bytes) -> Bytes) {
        let objects = self.objects().await;
        let (key, content) = objects.into_iter().find(|(key, _)| key.ends_with(name)).unwrap();
        let changed = change(content);
        match self {
            Self::Memory(memory) => drop(memory.put(&key.into(), changed.into()).await.unwrap()),
            Self::Directory(dir) => fs::write(dir.path().join(key), changed).unwrap(),
        }
    }

    /// The keys of all that is in it; without leases, whose numbers grow with every command, and without what verify has noted.
    pub(crate) async fn keys(&self) -> BTreeSet<String> {
        let passing = ["/lease/", ".lease/", "/verify/"];
        let keys = self.objects().await.into_keys();
        keys.filter(|key| !passing.iter().any(|part| key.contains(part))).collect()
    }
}

/// All files below a directory, by their paths in it.
pub(crate) fn tree(root: &Path) -> Objects {
    let (mut found, mut todo) = (Objects::new(), vec![root.to_owned()]);
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).unwrap().flatten() {
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                todo.push(path);
            } else if let Ok(content) = fs::read(&path) {
                let name = path.strip_prefix(root).unwrap().display().to_string();
                found.insert(name, content.into());
            }
        }
    }
    found
}

/// A directory in memory, where there is room: what is tried here is not how fast a disk syncs.
pub(crate) fn quick_dir() -> tempfile::TempDir {
    const ROOM: u64 = 1 << 30;
    let shared = Path::new("/dev/shm");
    let room = rustix::fs::statvfs(shared).map_or(0, |about| about.f_bavail * about.f_frsize);
    if room > ROOM { tempfile::tempdir_in(shared).unwrap() } else { tempfile::tempdir().unwrap() }
}

/// What is listed. All of it can be read.
pub(crate) async fn listed(host: &Host, repo: RepoAccess) -> Vec<BackupLabel> {
    let request = InfoRequest { repo, stanza: Some(stanza()), set: None, recovery_windows: true };
    let report = info(host, request).await.unwrap();
    let [found] = report.stanzas.as_slice() else { panic!("one stanza: {report:?}") };
    assert!(found.unreadable.is_empty() && found.error.is_none(), "{found:?}");
    found.backups.iter().map(|summary| summary.label).collect()
}

/// Reads everything. All backups that are listed are whole, with the WAL that they need.
pub(crate) async fn assert_whole(host: &Host, repo: RepoAccess, why: &str) -> VerifyReport {
    let request = VerifyRequest {
        repo,
        stanza: stanza(),
        set: None,
        quick: false,
        budget: None,
        threads: 1,
        witness: None,
    };
    let report = verify(host, request).await.unwrap_or_else(|error| panic!("{why}: verify: {error}"));
    assert!(report.clean, "{why}: {:#?}", report.findings);
    report
}

/// As [`assert_whole`], and nothing else is there: nothing half-done, nobody who is said to be at work.
pub(crate) async fn assert_settled(host: &Host, ground: &Ground, repo: RepoAccess, why: &str) {
    let report = assert_whole(host, repo, why).await;
    // That retention has removed WAL between backups is nothing wrong.
    let wrong: Vec<_> = report.findings.iter().filter(|f| f.level != FindingLevel::Info).collect();
    assert!(wrong.is_empty(), "{why}: {wrong:#?}");
    assert!(report.unneeded.is_empty(), "{why}: {:#?}", report.unneeded);
    let rubbish = ["/pin/", ".probe/", "#", "/run-"];
    let keys = ground.keys().await;
    let left: Vec<_> = keys.iter().filter(|key| rubbish.iter().any(|part| key.contains(part))).collect();
    assert!(left.is_empty(), "{why}: {left:?}");
}

/// Expires twice, with more than a minute in between: what nothing needs is gone, and no backup is.
pub(crate) async fn keep_all(world: &World, repo: RepoAccess) {
    let notes = quick_dir();
    for _ in 0..2 {
        let policy = Policy { full: Some(99), ..Policy::default() };
        let (asked, notes) = (Asked::Policy, Some(notes.path().join("notes")));
        let request = ExpireRequest {
            repo: repo.clone(),
            stanza: stanza(),
            policy,
            asked,
            dry_run: false,
            notes,
            witness: None,
        };
        expire(&world.later(), request).await.unwrap();
    }
}

/// One try of a sweep: a repository, and a way to it on which something goes wrong.
pub(crate) struct Try {
    pub(crate) world: World,
    pub(crate) ground: Ground,
    /// What goes wrong goes wrong here.
    pub(crate) broken: RepoAccess,
    pub(crate) faults: Arc<FaultStore>,
    /// For messages: what goes wrong.
    pub(crate) why: String,
}

impl Try {
    /// With a repository of objects that were put before.
    pub(crate) async fn new(case: Case, site: Site, objects: &Objects) -> Self {
        let (world, ground) = (World::new(case.seed, 30), Ground::with(site, objects).await);
        let (broken, faults) = ground.faulty(case);
        Self { world, ground, broken, faults, why: case.to_string() }
    }

    pub(crate) fn sound(&self) -> RepoAccess {
        self.ground.sound()
    }

    /// The command on which something goes wrong. Where an answer is late, another process does `meanwhile`, having taken this one for dead; that
    /// has to succeed. The future of a whole command is large, and goes on the heap.
    pub(crate) fn strike<'a, T: 'a, U: 'a>(
        &'a self,
        command: impl Future<Output = pgbr::Result<T>> + 'a,
        meanwhile: impl Future<Output = pgbr::Result<U>> + 'a,
    ) -> LocalBoxFuture<'a, pgbr::Result<T>> {
        let struck = async move {
            let (done, beside) = self.faults.beside(command, meanwhile).await;
            if let Some(Err(error)) = beside {
                panic!("{}: while {} waits: {error}", self.why, self.struck());
            }
            done
        };
        struck.boxed_local()
    }

    /// The request that went wrong.
    pub(crate) fn struck(&self) -> String {
        let n = self.faults.fault().request().unwrap_or_default();
        self.faults.log().get(n).cloned().unwrap_or_default()
    }

    /// The command after it, which has to succeed.
    pub(crate) fn next<T>(&self, done: pgbr::Result<T>) -> T {
        done.unwrap_or_else(|error| panic!("{}, {}: the next run: {error}", self.why, self.struck()))
    }

    pub(crate) async fn listed(&self) -> Vec<BackupLabel> {
        listed(&self.world.later(), self.sound()).await
    }

    pub(crate) async fn assert_whole(&self) {
        assert_whole(&self.world.later(), self.sound(), &format!("{}, {}", self.why, self.struck())).await;
    }

    pub(crate) async fn assert_settled(&self) {
        let why = format!("{}, {}: in the end", self.why, self.struck());
        assert_settled(&self.world.later(), &self.ground, self.sound(), &why).await;
    }
}
