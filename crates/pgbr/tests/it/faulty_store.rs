//! A store that fails, or acts and says that it failed, at each request of a run: nothing half-done is listed, the next run succeeds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pgbr::{
    ArchiveGetRequest, ArchivePushRequest, BackupLabel, BackupRepo, BackupReport, BackupRequest, BackupType,
    Backups, Clock, ClusterAccess, Compression, ConnectOptions, Databases, Got, Host, InfoRequest, Places,
    RecoveryAction, RecoveryGoal, RepoAccess, RestoreRequest, StandbyUse, StanzaCreateRequest, StanzaName,
    Store, SystemClock, archive_get, archive_push, backup, info, restore, stanza_create,
};
use pgbr_testkit::{Cluster, Fault, FaultStore, failures};

/// A clock whose hours fly, so that what a dead run has left goes stale between two looks.
struct Hasty(AtomicU64);

impl Clock for Hasty {
    fn now_ns(&self) -> i64 {
        SystemClock.now_ns()
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(self.0.fetch_add(70, Ordering::SeqCst))
    }
}

pub(crate) fn hasty() -> Host {
    Host { clock: Arc::new(Hasty(AtomicU64::new(0))), ..Host::system() }
}

pub(crate) fn stanza() -> StanzaName {
    "main".parse().unwrap()
}

/// A repository directory by way of a store with something wrong.
pub(crate) fn faulty(directory: &Path, fault: Fault) -> (RepoAccess, Arc<FaultStore>) {
    let mut wrapper = None;
    let store = Store::local_wrapped(directory, false, |inner| {
        let faults = FaultStore::new(inner, fault);
        wrapper = Some(Arc::clone(&faults));
        faults
    });
    (RepoAccess::store(store.unwrap()), wrapper.unwrap())
}

/// Whether a run came as far as the request that goes wrong.
pub(crate) fn reached(fault: Fault, store: &FaultStore) -> bool {
    match fault {
        Fault::Fails(n) | Fault::ActsAndFails(n) | Fault::Dies(n) => store.requests() > n,
        _ => true,
    }
}

/// A repository with the stanza of a cluster.
pub(crate) struct Rig<'a> {
    cluster: &'a Cluster,
    directory: tempfile::TempDir,
}

impl<'a> Rig<'a> {
    pub(crate) async fn new(cluster: &'a Cluster) -> Self {
        let rig = Self { cluster, directory: tempfile::tempdir().unwrap() };
        let request = StanzaCreateRequest {
            repo: rig.sound(),
            stanza: stanza(),
            cluster: rig.access(),
            others: Vec::new(),
            online: false,
        };
        stanza_create(&Host::system(), request).await.unwrap();
        rig
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn sound(&self) -> RepoAccess {
        RepoAccess::plain(self.path())
    }

    fn access(&self) -> ClusterAccess {
        let connect = ConnectOptions {
            socket_path: Some(self.cluster.socket_dir().to_owned()),
            port: self.cluster.port(),
            user: Some(self.cluster.superuser().to_owned()),
            ..ConnectOptions::default()
        };
        ClusterAccess { connect, pg_data: self.cluster.data_dir().to_owned() }
    }

    /// A backup of what lies in `global` and at the top: a dozen requests, and all that a commit does.
    pub(crate) async fn backup(
        &self,
        host: &Host,
        kind: BackupType,
        repo: RepoAccess,
    ) -> pgbr::Result<BackupReport> {
        self.backup_to(host, kind, vec![repo]).await.map(|mut backups| backups.made.remove(0))
    }

    /// The same in several repositories, numbered from 1.
    async fn backup_to(
        &self,
        host: &Host,
        kind: BackupType,
        repos: Vec<RepoAccess>,
    ) -> pgbr::Result<Backups> {
        let numbered = (1..)
            .zip(repos)
            .map(|(number, repo)| BackupRepo { pack_size: 256 << 10, ..BackupRepo::new(number, repo) });
        let request = BackupRequest {
            repos: numbered.collect(),
            stanza: stanza(),
            cluster: self.access(),
            others: Vec::new(),
            standby: StandbyUse::Never,
            kind,
            delta: false,
            resume: true,
            compression: Compression::NONE,
            threads: 1,
            start_fast: true,
            archive_check: false,
            archive_mode_check: false,
            archive_timeout: Duration::from_secs(10),
            checksum_page: None,
            exclude: vec!["base/".to_owned()],
            annotation: BTreeMap::new(),
            archive_program: String::new(),
            keep_writers: false,
        };
        backup(host, request).await
    }

    /// What is listed now. All of it can be read.
    async fn listed(&self) -> Vec<BackupLabel> {
        listed(self.sound()).await
    }

    /// Restores a backup: every byte of it is read and checked.
    pub(crate) async fn assert_whole(&self, label: BackupLabel) {
        let host = Host::system();
        let place = self.sound().open_stanza(&host, &stanza()).await.unwrap();
        let segment = pgbr::load(&place.backups, label).await.unwrap().summary.wal.start;
        self.push(self.sound(), self.cluster.data_dir().join(format!("pg_wal/{segment}"))).await.unwrap();
        assert_restores(self.sound(), label).await;
    }

    async fn push(&self, repo: RepoAccess, file: PathBuf) -> pgbr::Result<()> {
        let request = ArchivePushRequest {
            repos: vec![(1, repo)],
            stanza: stanza(),
            file,
            compression: Compression::NONE,
            threads: 1,
            header_check: false,
            facts: None,
        };
        archive_push(&Host::system(), request).await.map(drop)
    }
}

/// What a repository lists. All of it can be read.
pub(crate) async fn listed(repo: RepoAccess) -> Vec<BackupLabel> {
    let request = InfoRequest { repo, stanza: Some(stanza()), set: None, recovery_windows: true };
    let report = info(&Host::system(), request).await.unwrap();
    let [found] = report.stanzas.as_slice() else { panic!("one stanza: {report:?}") };
    assert!(found.unreadable.is_empty() && found.error.is_none(), "{found:?}");
    found.backups.iter().map(|summary| summary.label).collect()
}

/// Restores a backup: every byte of it is read and checked.
pub(crate) async fn assert_restores(repo: RepoAccess, label: BackupLabel) {
    let target = tempfile::tempdir().unwrap();
    let request = RestoreRequest {
        repo,
        stanza: stanza(),
        set: Some(label),
        places: Places { pg_data: target.path().to_owned(), ..Places::default() },
        databases: Databases::default(),
        goal: RecoveryGoal::Immediate,
        exclusive: false,
        action: RecoveryAction::Pause,
        timeline: None,
        restore_command: "false".to_owned(),
        recovery_options: Vec::new(),
        archive_off: false,
        threads: 1,
    };
    restore(&Host::system(), request)
        .await
        .unwrap_or_else(|error| panic!("{label} is listed and not whole: {error}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_over_a_failing_store_is_whole_or_absent() {
    let cluster = Cluster::builder(15).init();
    let rig = Rig::new(&cluster).await;
    let files = tempfile::tempdir().unwrap();
    let mut segments = 0;
    for n in 0.. {
        let mut any = false;
        for fault in failures(n) {
            segments += 1;
            let name = format!("0000000100000000{segments:08X}");
            let content = name.repeat(5000);
            let file = files.path().join(&name);
            std::fs::write(&file, &content).unwrap();

            let (repo, store) = faulty(rig.path(), fault);
            let pushed = rig.push(repo, file.clone()).await;
            any |= reached(fault, &store);
            let destination = files.path().join("got");
            let get = || ArchiveGetRequest {
                repos: vec![(1, rig.sound())],
                stanza: stanza(),
                file: name.clone(),
                destination: destination.clone(),
                pg_data: None,
                timeout: Duration::ZERO,
                facts: None,
            };
            // No error: what is there is sound.
            match archive_get(&Host::system(), get()).await.unwrap() {
                Got::Found { .. } => assert_eq!(std::fs::read_to_string(&destination).unwrap(), content),
                Got::Missing => assert!(pushed.is_err(), "{fault:?}: success, and nothing is there"),
            }
            rig.push(rig.sound(), file)
                .await
                .unwrap_or_else(|e| panic!("{fault:?}: the next push failed: {e}"));
            assert_eq!(archive_get(&Host::system(), get()).await.unwrap(), Got::Found { repo: 1 });
            assert_eq!(std::fs::read_to_string(&destination).unwrap(), content);
        }
        if !any {
            assert!(n > 2, "a push makes more than {n} requests");
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_over_a_failing_store_is_whole_or_absent() {
    broken_backups(BackupType::Full, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incr_over_a_failing_store_is_whole_or_absent() {
    broken_backups(BackupType::Incr, 3).await;
}

async fn broken_backups(kind: BackupType, every: usize) {
    // What the backups need stays in pg_wal, from where it is archived when it is asked for.
    let cluster = Cluster::builder(15).conf("wal_keep_size", "8GB").start();
    let (mut committed, mut failed, mut resumed) = (0, 0, 0);
    for n in (0..).step_by(AT_ONCE * every) {
        // What a dead run leaves has to go stale first, which takes two seconds.
        let faults = (n..n + AT_ONCE * every).step_by(every).flat_map(failures);
        let faults = faults.filter(|fault| !matches!(fault, Fault::Dies(n) if n % 4 != 3));
        let faults = faults.map(|fault| broken_backup(&cluster, kind, fault));
        let done = futures::future::join_all(faults).await;
        committed += done.iter().filter(|done| done.reached && done.committed).count();
        failed += done.iter().filter(|done| !done.committed).count();
        resumed += done.iter().filter(|done| done.resumed).count();
        if !done.iter().any(|done| done.reached) {
            assert!(
                n > 10 && committed > 2 && failed > 10 && resumed > 2,
                "{n} requests, {committed} made, {failed} failed, {resumed} taken up"
            );
            return;
        }
    }
}

/// How many broken backups run side by side, each with a repository of its own.
const AT_ONCE: usize = 4;

struct Done {
    reached: bool,
    committed: bool,
    resumed: bool,
}

/// A backup with a fault, what it leaves, and a backup after it.
async fn broken_backup(cluster: &Cluster, kind: BackupType, fault: Fault) -> Done {
    let rig = Rig::new(cluster).await;
    let mut before = 0;
    if kind != BackupType::Full {
        rig.backup(&Host::system(), BackupType::Full, rig.sound()).await.unwrap();
        let changed = rig.path().display().to_string().repeat(50_000);
        std::fs::write(cluster.data_dir().join("global/changed"), changed).unwrap();
        before = 1;
    }
    let (repo, store) = faulty(rig.path(), fault);
    let made = rig.backup(&Host::system(), kind, repo).await;
    let listed = rig.listed().await;
    match &made {
        Ok(report) => assert_eq!(listed[before..], [report.label], "{fault:?}"),
        Err(_) => assert!(listed.len() <= before + 1, "{fault:?}: {listed:?}"),
    }
    if let [label] = listed[before..] {
        rig.assert_whole(label).await;
    }
    let next = rig.backup(&hasty(), kind, rig.sound()).await;
    let next = next.unwrap_or_else(|error| panic!("{fault:?}: the next run failed: {error}"));
    let after = rig.listed().await;
    assert_eq!((after.len(), after.last()), (listed.len() + 1, Some(&next.label)), "{fault:?}");
    if next.resumed.is_some() || next.kind != BackupType::Full {
        rig.assert_whole(next.label).await;
    }
    Done { reached: reached(fault, &store), committed: made.is_ok(), resumed: next.resumed.is_some() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_store_spoils_no_backup_in_another() {
    let cluster = Cluster::builder(15).conf("wal_keep_size", "8GB").start();
    let (mut lost, mut made) = (0, 0);
    for n in (0..).step_by(AT_ONCE * 3) {
        let faults = (n..n + AT_ONCE * 3).step_by(3).flat_map(failures);
        let done = futures::future::join_all(faults.map(|fault| half_broken_backup(&cluster, fault))).await;
        lost += done.iter().filter(|done| !done.committed).count();
        made += done.iter().filter(|done| done.reached && done.committed).count();
        if !done.iter().any(|done| done.reached) {
            assert!(n > 10 && lost > 8 && made > 1, "{n} requests, {lost} lost, {made} made");
            return;
        }
    }
}

/// A backup to two repositories, the first or the second of which has a fault.
async fn half_broken_backup(cluster: &Cluster, fault: Fault) -> Done {
    let (sound, broken) = (Rig::new(cluster).await, Rig::new(cluster).await);
    let (repo, store) = faulty(broken.path(), fault);
    let first = matches!(fault, Fault::Fails(n) | Fault::ActsAndFails(n) | Fault::Dies(n) if n % 2 == 0);
    let (repos, number) = if first { (vec![repo, sound.sound()], 2) } else { (vec![sound.sound(), repo], 1) };
    let backups = sound.backup_to(&Host::system(), BackupType::Full, repos).await;
    let backups = backups.unwrap_or_else(|error| panic!("{fault:?}: no backup in either: {error}"));
    let report = backups.made.iter().find(|report| report.repo == number);
    let report = report.unwrap_or_else(|| panic!("{fault:?}: none in the sound one: {backups:?}"));
    assert_eq!(backups.made.len() + backups.failed.len(), 2, "{fault:?}");
    assert_eq!(sound.listed().await, [report.label], "{fault:?}");
    sound.assert_whole(report.label).await;
    let listed = broken.listed().await;
    let committed = backups.made.iter().any(|report| report.repo != number);
    assert!(!committed || listed.len() == 1, "{fault:?}: {listed:?}");
    if let [label] = listed[..] {
        broken.assert_whole(label).await;
    }
    Done { reached: reached(fault, &store), committed, resumed: false }
}
