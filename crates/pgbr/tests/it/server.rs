//! A running cluster for crash sweeps, small enough to be backed up some hundred times, and a repository with backups of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use pgbr::{
    ArchivePushRequest, BackupLabel, BackupRepo, BackupReport, BackupRequest, BackupType, Backups,
    ClusterAccess, Codec, Compression, ConnectOptions, Host, Places, RecoveryGoal, RepoAccess,
    RestoreRequest, StandbyUse, StanzaCreateRequest, archive_push, backup, restore, stanza_create,
};
use pgbr_manifest::WalSegmentSize;
use pgbr_testkit::Cluster;

use crate::world::{Ground, Objects, Site, World, assert_settled, listed, quick_dir, stanza, tree};

/// What is backed up: what lies in `global` and at the top, two megabytes.
const EXCLUDED: [&str; 1] = ["base/"];
/// So that each frame is a pack of its own: two in a full, six in an incr.
const PACK: usize = 128 << 10;
/// A file that changes from backup to backup.
const CHANGING: &str = "global/changing";
/// How many pages it has.
const PAGES: usize = 180;

/// A running cluster.
pub(crate) struct Server {
    cluster: Cluster,
}

/// A server that nobody else uses as long as it is lent. To start one takes longer than most of what is done with it.
pub(crate) struct Lent(Option<Server>);

static IDLE: Mutex<Vec<Server>> = Mutex::new(Vec::new());

impl Lent {
    pub(crate) fn get() -> Self {
        let idle = IDLE.lock().unwrap().pop();
        Self(Some(idle.unwrap_or_else(Server::start)))
    }
}

impl Deref for Lent {
    type Target = Server;

    fn deref(&self) -> &Server {
        self.0.as_ref().unwrap()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        IDLE.lock().unwrap().extend(self.0.take());
    }
}

impl Server {
    fn start() -> Self {
        let cluster = Cluster::builder(15)
            .wal_segsize(1)
            .conf("wal_keep_size", "64MB")
            .conf("min_wal_size", "2MB")
            .conf("max_wal_size", "64MB")
            .conf("autovacuum", "off");
        let cluster = cluster.start();
        let space = cluster.scratch().dir("space");
        cluster.sql("postgres", &format!("create tablespace space location '{}'", space.display()));
        cluster.sql("postgres", "create table t tablespace space as select generate_series(1, 1000)");
        Self { cluster }
    }

    /// Writes something else into the file that changes.
    pub(crate) fn change(&self, to: u64) {
        let text: String = (0..PAGES).map(|page| format!("{to:08x}{page:08x}").repeat(512)).collect();
        fs::write(self.cluster.data_dir().join(CHANGING), text).unwrap();
    }

    pub(crate) fn access(&self) -> ClusterAccess {
        let connect = ConnectOptions {
            socket_path: Some(self.cluster.socket_dir().to_owned()),
            port: self.cluster.port(),
            user: Some(self.cluster.superuser().to_owned()),
            ..ConnectOptions::default()
        };
        ClusterAccess { connect, pg_data: self.cluster.data_dir().to_owned() }
    }

    pub(crate) async fn make_stanza(&self, host: &Host, repo: RepoAccess) {
        let (cluster, others) = (self.access(), Vec::new());
        let request = StanzaCreateRequest { repo, stanza: stanza(), cluster, others, online: false };
        stanza_create(host, request).await.unwrap();
    }

    pub(crate) async fn backup(
        &self,
        host: &Host,
        kind: BackupType,
        repo: RepoAccess,
    ) -> pgbr::Result<BackupReport> {
        self.backup_to(host, kind, vec![repo]).await.map(|mut backups| backups.made.remove(0))
    }

    /// The same in several repositories, numbered from 1.
    pub(crate) async fn backup_to(
        &self,
        host: &Host,
        kind: BackupType,
        repos: Vec<RepoAccess>,
    ) -> pgbr::Result<Backups> {
        let numbered = (1..)
            .zip(repos)
            .map(|(number, repo)| BackupRepo { pack_size: PACK, ..BackupRepo::new(number, repo) });
        let request = BackupRequest {
            repos: numbered.collect(),
            stanza: stanza(),
            cluster: self.access(),
            others: Vec::new(),
            standby: StandbyUse::Never,
            online: true,
            force: false,
            kind,
            delta: false,
            resume: true,
            compression: Compression::NONE,
            threads: 1,
            start_fast: true,
            archive_check: false,
            archive_copy: false,
            archive_mode_check: false,
            archive_timeout: Duration::from_secs(10),
            checksum_page: None,
            exclude: EXCLUDED.map(str::to_owned).to_vec(),
            annotation: BTreeMap::new(),
            archive_program: String::new(),
            keep_writers: false,
        };
        backup(host, request).await
    }

    /// Puts the WAL of all backups that are listed into the archive, as far as the server has it still.
    pub(crate) async fn archive(&self, host: &Host, repo: RepoAccess) {
        let place = repo.open_stanza(host, &stanza()).await.unwrap();
        let size = WalSegmentSize::new(1 << 20).unwrap();
        for label in place.backups.list_backups().await.unwrap() {
            let wal = pgbr::load(&place.backups, label).await.unwrap().summary.wal;
            let mut segment = wal.start;
            loop {
                let file = self.cluster.data_dir().join(format!("pg_wal/{segment}"));
                if file.exists() {
                    push(host, repo.clone(), file).await.unwrap();
                }
                if segment == wal.stop {
                    break;
                }
                segment = segment.next(size).unwrap();
            }
        }
    }

    /// What a backup that is made now holds of the files that stay as they are between two changes.
    pub(crate) fn files(&self) -> Objects {
        files_of(self.cluster.data_dir())
    }
}

/// The files in `global` but those that change by themselves or are in no backup.
fn files_of(data_dir: &Path) -> Objects {
    let mut files = tree(&data_dir.join("global"));
    files.retain(|name, _| !name.starts_with("pg_control") && !name.starts_with("pg_internal.init"));
    files
}

/// Pushes a WAL file.
pub(crate) async fn push(host: &Host, repo: RepoAccess, file: PathBuf) -> pgbr::Result<()> {
    let request = ArchivePushRequest {
        repos: vec![(1, repo)],
        stanza: stanza(),
        file,
        compression: Compression::new(Codec::Zst, Some(1)).unwrap(),
        threads: 1,
        header_check: false,
        facts: None,
    };
    archive_push(host, request).await.map(drop)
}

/// Restores a backup: every byte of it is read and checked. Gives the files that do not change by themselves.
pub(crate) async fn restored(host: &Host, repo: RepoAccess, label: BackupLabel) -> Objects {
    let target = quick_dir();
    fs::create_dir(target.path().join("data")).unwrap();
    let places = Places {
        pg_data: target.path().join("data"),
        tablespace_map_all: Some(target.path().join("spaces")),
        ..Places::default()
    };
    let request = RestoreRequest::new(repo, stanza(), places, "false".to_owned());
    let request = RestoreRequest { set: Some(label), goal: RecoveryGoal::Immediate, ..request };
    let done = restore(host, request).await;
    done.unwrap_or_else(|error| panic!("{label} is listed and cannot be restored: {error}"));
    files_of(&target.path().join("data"))
}

/// A repository with a full, an incr on top of it, and both once more.
pub(crate) struct Chain {
    pub(crate) objects: Objects,
    /// The backups and what they hold, oldest first.
    pub(crate) backups: Vec<(BackupLabel, Objects)>,
    /// The keys of all that is to be there at rest.
    pub(crate) keys: BTreeSet<String>,
}

impl Chain {
    pub(crate) fn labels(&self) -> Vec<BackupLabel> {
        self.backups.iter().map(|(label, _)| *label).collect()
    }

    /// The one that all tests begin with.
    pub(crate) fn get() -> &'static Self {
        static MADE: OnceLock<Chain> = OnceLock::new();
        MADE.get_or_init(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(Self::make())
        })
    }

    async fn make() -> Self {
        let (server, world) = (Lent::get(), World::new(0, 0));
        let ground = Ground::with(Site::Memory, &Objects::new()).await;
        server.make_stanza(&world.host(), ground.sound()).await;
        let mut backups = Vec::new();
        for (number, kind) in
            (0..).zip([BackupType::Full, BackupType::Incr, BackupType::Full, BackupType::Incr])
        {
            server.change(number);
            let label = server.backup(&world.host(), kind, ground.sound()).await.unwrap().label;
            backups.push((label, server.files()));
        }
        server.archive(&world.host(), ground.sound()).await;
        assert_eq!(listed(&world.host(), ground.sound()).await.len(), backups.len());
        assert_settled(&world.host(), &ground, ground.sound(), "made").await;
        for (label, files) in &backups {
            assert_eq!(restored(&world.host(), ground.sound(), *label).await, *files, "{label}");
        }
        Self { objects: ground.objects().await, backups, keys: ground.keys().await }
    }
}
