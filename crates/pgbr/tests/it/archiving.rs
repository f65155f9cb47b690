//! WAL files and several repositories: how many requests a file costs, and what is kept on this host in between.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pgbr::{
    ArchiveGetRequest, ArchivePushRequest, Cipher, Clock, Compression, Error, Failure, Got, HandOverRequest,
    HandedOver, Host, OsEntropy, Passphrase, PgVersion, PushOutcome, PushWorkerRequest, RepoAccess,
    RepoError, StanzaName, Store, SystemId, WorkerLock, archive_get, archive_push, archive_push_worker,
    hand_over,
};
use pgbr_repo::{CreateOptions, NewCluster, Repo, Requests, Stanza};
use pgbr_testkit::{Fault, FaultStore};

/// A clock that the test sets.
struct Set(AtomicU64);

impl Clock for Set {
    fn now_ns(&self) -> i64 {
        0
    }
    fn monotonic(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::Relaxed))
    }
}

/// Two repositories on other hosts, and what a server has here.
struct Rig {
    dir: tempfile::TempDir,
    stores: Vec<Store>,
    clock: Arc<Set>,
    host: Host,
}

const SYSTEM: u64 = 77;

impl Rig {
    async fn new(repositories: usize) -> Self {
        let clock = Arc::new(Set(AtomicU64::new(1000)));
        let host = Host { clock: clock.clone(), ..Host::system() };
        let stores = (0..repositories).map(memory).collect();
        let rig = Self { dir: tempfile::tempdir().unwrap(), stores, clock, host };
        for store in &rig.stores {
            make(store, SYSTEM).await;
        }
        rig
    }

    fn repos(&self) -> Vec<(u16, RepoAccess)> {
        (1..).zip(&self.stores).map(|(key, store)| (key, access(store))).collect()
    }

    fn segment(&self, number: u32, system: u64) -> PathBuf {
        segment(self.dir.path(), number, system)
    }

    async fn push(&self, file: PathBuf) -> pgbr::Result<Vec<(u16, PushOutcome)>> {
        let request = ArchivePushRequest {
            repos: self.repos(),
            stanza: stanza(),
            file,
            compression: Compression::NONE,
            threads: 1,
            header_check: true,
            facts: Some(self.dir.path().join("facts")),
        };
        archive_push(&self.host, request).await
    }

    async fn get(&self, file: &str) -> pgbr::Result<Got> {
        let request = ArchiveGetRequest {
            repos: self.repos(),
            stanza: stanza(),
            file: file.to_owned(),
            destination: self.dir.path().join("RECOVERYXLOG"),
            pg_data: None,
            timeout: Duration::ZERO,
            facts: Some(self.dir.path().join("facts")),
        };
        archive_get(&self.host, request).await
    }

    /// Puts, gets and lists that `work` cost in the first repository.
    async fn cost<T>(&self, work: impl Future<Output = T>) -> (T, [u64; 3]) {
        let three = |r: Requests| [r.puts, r.gets, r.lists];
        let before = three(self.stores[0].requests());
        let done = work.await;
        let after = three(self.stores[0].requests());
        (done, [after[0] - before[0], after[1] - before[1], after[2] - before[2]])
    }

    fn later(&self, seconds: u64) {
        self.clock.0.fetch_add(seconds, Ordering::Relaxed);
    }
}

fn stanza() -> StanzaName {
    "demo".parse().unwrap()
}

fn passphrase() -> Passphrase {
    Passphrase::generated(&[7; 32])
}

/// The name of a segment.
pub(crate) fn name(number: u32) -> String {
    format!("0000000100000000{number:08X}")
}

/// A segment of 1 MiB as a server of version 15 leaves it.
pub(crate) fn segment(directory: &Path, number: u32, system: u64) -> PathBuf {
    let mut bytes = Vec::new();
    bytes.extend(PgVersion::V15.wal_magic().to_le_bytes());
    bytes.extend(2_u16.to_le_bytes());
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend((u64::from(number) << 20).to_le_bytes());
    bytes.extend([0; 8]);
    bytes.extend(system.to_le_bytes());
    bytes.extend((1_u32 << 20).to_le_bytes());
    bytes.extend(8192_u32.to_le_bytes());
    bytes.resize(1 << 20, u8::try_from(number % 251).unwrap());
    let path = directory.join(name(number));
    std::fs::write(&path, bytes).unwrap();
    path
}

fn memory(number: usize) -> Store {
    Store::remote(Arc::new(object_store::memory::InMemory::new()), format!("memory {number}"))
}

fn access(store: &Store) -> RepoAccess {
    RepoAccess::store(store.clone()).with_passphrase(passphrase())
}

async fn make(store: &Store, system: u64) {
    let options = CreateOptions {
        cipher: Cipher::Aes256Gcm,
        passphrase: Some(passphrase()),
        kdf: None,
        now: 0,
        entropy: Arc::new(OsEntropy),
    };
    let repo = Repo::create(store.clone(), options).await.unwrap();
    let cluster = NewCluster {
        system_id: SystemId::new(system),
        version: PgVersion::V15,
        catalog_version: 202_209_061,
        control_version: 1300,
    };
    Stanza::create(&repo, &stanza(), cluster, 0).await.unwrap();
}

#[tokio::test]
async fn a_file_costs_one_request_and_two_more_once_a_minute() {
    let rig = Rig::new(1).await;
    let (_, cold) = rig.cost(rig.push(rig.segment(1, SYSTEM))).await;
    let (_, warm) = rig.cost(rig.push(rig.segment(2, SYSTEM))).await;
    let (got, warm_get) = rig.cost(rig.get(&name(1))).await;
    assert_eq!((cold, warm, warm_get), ([1, 2, 0], [1, 0, 0], [0, 1, 0]));
    assert!(matches!(got.unwrap(), Got::Found { repo: 1, .. }));
    rig.later(60);
    let (_, old) = rig.cost(rig.push(rig.segment(3, SYSTEM))).await;
    assert_eq!(old, [1, 2, 0]);
    // A history file does not say whose it is.
    let history = rig.dir.path().join("00000002.history");
    std::fs::write(&history, "1\t0/3000000\tno recovery target specified\n").unwrap();
    let (_, history) = rig.cost(rig.push(history)).await;
    assert_eq!(history, [1, 2, 0]);
    // "Missing" is said by a repository that was asked who it is.
    let (missing, costs) = rig.cost(rig.get(&name(9))).await;
    assert_eq!(missing.unwrap(), Got::Missing);
    println!("a miss costs {costs:?} (puts, gets, lists)");
    assert!(costs[1] >= 3);
}

#[tokio::test]
async fn a_segment_of_another_cluster_makes_it_ask_again() {
    let rig = Rig::new(1).await;
    rig.push(rig.segment(1, SYSTEM)).await.unwrap();
    let foreign = rig.segment(2, SYSTEM + 1);
    let refused = rig.push(foreign.clone()).await.unwrap_err();
    assert!(matches!(refused, Error::ForeignWal { .. }), "{refused}");
    // After an upgrade it is the stanza's, at once.
    let repo =
        Repo::open(rig.stores[0].clone(), Some(&passphrase()), None, Arc::new(OsEntropy)).await.unwrap();
    let opened = Stanza::open(&repo, &stanza()).await.unwrap();
    let cluster = NewCluster {
        system_id: SystemId::new(SYSTEM + 1),
        version: PgVersion::V15,
        catalog_version: 202_209_061,
        control_version: 1300,
    };
    opened.upgrade(cluster, 0).await.unwrap();
    rig.push(foreign).await.unwrap();
    assert!(matches!(rig.get(&name(2)).await.unwrap(), Got::Found { .. }));
}

#[tokio::test]
async fn a_repository_that_was_made_anew_is_noticed() {
    let mut rig = Rig::new(1).await;
    rig.push(rig.segment(1, SYSTEM)).await.unwrap();
    // Another one in the same place, with the same passphrase and other keys.
    rig.stores[0] = memory(0);
    make(&rig.stores[0], SYSTEM).await;
    rig.push(rig.segment(2, SYSTEM)).await.unwrap();
    // Within the minute the file may be sealed for the one that was there before. Who relies on it finds out, and says so.
    rig.later(60);
    let lost = rig.get(&name(2)).await.unwrap_err();
    assert!(matches!(lost, Error::Repo(RepoError::Foreign { .. })), "{lost}");
    let place = access(&rig.stores[0]).open_stanza(&rig.host, &stanza()).await.unwrap();
    let segment = name(2).parse().unwrap();
    let found = place.wal.belongs(place.stanza.archive_id(), &[segment]).await.unwrap_err();
    assert!(matches!(found, RepoError::Foreign { .. }), "{found}");
    // What was looked up anew is right again.
    rig.push(rig.segment(3, SYSTEM)).await.unwrap();
    assert!(matches!(rig.get(&name(3)).await.unwrap(), Got::Found { .. }));
    // A second push of the same file puts it beside.
    let again = rig.push(rig.segment(2, SYSTEM)).await.unwrap();
    assert!(matches!(again[0].1, PushOutcome::StoredBeside { .. }), "{again:?}");
    assert!(matches!(rig.get(&name(2)).await.unwrap(), Got::Found { .. }));
}

#[tokio::test]
async fn one_that_fails_keeps_no_other_from_its_file() {
    let mut rig = Rig::new(3).await;
    let sound = rig.stores[1].clone();
    rig.stores[1] = memory(1);
    let file = rig.segment(1, SYSTEM);
    let failed = rig.push(file.clone()).await.unwrap_err();
    let Error::Repos { failed: repos, .. } = &failed else { panic!("{failed}") };
    assert_eq!(repos.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [2]);
    assert!(failed.to_string().contains("\nrepo2: there is no repository in 'memory 1'"), "{failed}");
    // The file is in the third repository as in the first, and is found although the second cannot say anything.
    let first = rig.stores[0].clone();
    assert!(matches!(rig.get(&name(1)).await.unwrap(), Got::Found { repo: 1, .. }));
    rig.stores[0] = memory(0);
    make(&rig.stores[0], SYSTEM).await;
    rig.later(60);
    assert!(matches!(rig.get(&name(1)).await.unwrap(), Got::Found { repo: 3, .. }));
    // What is in none of those that can be asked may be in the other.
    let unknown = rig.get(&name(9)).await.unwrap_err();
    assert!(matches!(&unknown, Error::Repos { failed, .. } if failed.len() == 1), "{unknown}");
    // Back again, and only it gets the file.
    (rig.stores[0], rig.stores[1]) = (first, sound);
    rig.later(60);
    let outcomes = rig.push(file).await.unwrap();
    let stored: Vec<bool> = outcomes.iter().map(|(_, o)| matches!(o, PushOutcome::Stored { .. })).collect();
    assert_eq!(stored, [false, true, false], "{outcomes:?}");
    assert_eq!(rig.get(&name(9)).await.unwrap(), Got::Missing);
}

/// A server with three segments that wait, a store with something wrong, and the worker between them.
struct Waiting {
    rig: Rig,
    faults: Arc<FaultStore>,
    store: Store,
    host: Host,
}

impl Waiting {
    const SEGMENTS: u32 = 3;

    async fn new(fault: Fault) -> Self {
        let memory = Arc::new(object_store::memory::InMemory::new());
        let mut rig = Rig::new(0).await;
        let sound = Store::remote(memory.clone(), "memory");
        make(&sound, SYSTEM).await;
        rig.stores.push(sound);
        let faults = FaultStore::new(memory, fault);
        let store = Store::remote(faults.clone(), "memory");
        let status = rig.dir.path().join("archive_status");
        std::fs::create_dir(&status).unwrap();
        for number in 1..=Self::SEGMENTS {
            rig.segment(number, SYSTEM);
            std::fs::write(status.join(format!("{}.ready", name(number))), "").unwrap();
        }
        Self { rig, faults, store, host: Host::system() }
    }

    async fn hand_over(&self, number: u32, timeout: Duration) -> pgbr::Result<HandedOver> {
        let request = HandOverRequest {
            spool: self.rig.dir.path().join("spool"),
            stanza: stanza(),
            scope: "test".to_owned(),
            file: self.rig.dir.path().join(name(number)),
            lock: WorkerLock { directory: self.rig.dir.path().join("lock"), repo: 1 },
            timeout,
            queue_max: None,
        };
        hand_over(&self.host, &request, &|| Ok(())).await
    }

    async fn work(&self) {
        let request = PushWorkerRequest {
            repos: vec![(1, access(&self.store))],
            stanza: stanza(),
            wal_dir: self.rig.dir.path().to_owned(),
            spool: self.rig.dir.path().join("spool"),
            scope: "test".to_owned(),
            stop_files: None,
            compression: Compression::NONE,
            threads: 1,
            header_check: true,
            batch: u64::MAX,
            idle: Duration::ZERO,
            describe: Arc::new(|error| Failure { code: 42, text: error.to_string() }),
        };
        archive_push_worker(&self.host, request).await.unwrap();
    }

    /// Whatever is called archived is in the archive.
    async fn assert_honest(&self) -> u32 {
        let mut called = 0;
        for number in 1..=Self::SEGMENTS {
            let ok =
                self.rig.dir.path().join("spool/archive/demo/out").join(format!("{}.done", name(number)));
            if ok.exists() {
                called += 1;
                assert!(matches!(self.rig.get(&name(number)).await.unwrap(), Got::Found { repo: 1, .. }));
            }
        }
        called
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_gets_over_any_request_that_fails() {
    for n in 0.. {
        let mut reached = false;
        for fault in [Fault::Fails(n), Fault::ActsAndFails(n), Fault::ActsAndDelays(n)] {
            let waiting = Waiting::new(fault).await;
            let calls = async {
                for number in 1..=Waiting::SEGMENTS {
                    let done = waiting.hand_over(number, Duration::from_secs(30)).await;
                    assert!(matches!(done, Ok(HandedOver::Archived { .. })), "{fault:?}: {done:?}");
                }
            };
            tokio::join!(calls, waiting.work());
            assert_eq!(waiting.assert_honest().await, Waiting::SEGMENTS, "{fault:?}");
            reached |= waiting.faults.requests() > n;
        }
        if !reached {
            assert!(n > 4, "it took {n} requests");
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_store_dies_calls_nothing_archived_that_is_not() {
    let mut all = Vec::new();
    for n in 0..6 {
        let waiting = Waiting::new(Fault::Dies(n)).await;
        let calls = async {
            let told = waiting.hand_over(Waiting::SEGMENTS, Duration::from_millis(600)).await;
            waiting.host.stop.stop();
            told
        };
        let (told, ()) = tokio::join!(calls, waiting.work());
        let called = waiting.assert_honest().await;
        match told {
            Ok(HandedOver::Archived { .. }) => assert!(called > 0),
            Err(Error::Reported { code: 42, text }) => assert!(text.contains("unable to reach"), "{text}"),
            other => panic!("{other:?}"),
        }
        all.push(called);
    }
    // Two requests open the repository, and one brings each segment there.
    assert_eq!((all[0], all[5]), (0, Waiting::SEGMENTS), "{all:?}");
}
