//! Backup: a running cluster copied while it is written to, with the WAL that makes it consistent.

mod complete;
mod copy;
mod gather;
mod label;
mod offline;
mod prior;
mod read;
mod resume;
mod standby;
mod target;
mod wal;
mod watched;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pgbr_codec::Compression;
use pgbr_manifest::manifest::{ClusterFacts as ManifestFacts, Database, Sizes, Span, Tablespace};
use pgbr_manifest::{BackupLabel, BackupType, StanzaName, WalSegmentName};
use pgbr_pg::{PageContext, RunningBackup, Scan, ScanOptions, UpperLsn, external_config_files};
use pgbr_repo::NewCluster;
use tokio::task::JoinHandle;

use self::complete::{Complete, Labels, Parts, Times, complete};
use self::copy::{Branch, CopyOptions, copy_cluster, discard};
use self::offline::Stopped;
use self::standby::Standby;
pub use self::standby::StandbyUse;
pub(crate) use self::standby::find as find_servers;
use self::target::{Base, Ground, Target};
use self::watched::{Cluster, Watched, manifest_facts};
use crate::cluster::{ClusterAccess, Connected, check_identity, end_segment, segments_between, wait_for_wal};
use crate::error::{Error, Result, with_causes};
use crate::host::Host;
use crate::observe::{Event, Observer};
use crate::place::{RepoAccess, StanzaPlace};
use crate::writer::Writer;

/// How often the server is asked how far its log has come.
const PULSE: Duration = Duration::from_millis(200);

/// What to back up, and how.
#[derive(Debug, Clone)]
pub struct BackupRequest {
    /// The repositories. The cluster is read once for all of them.
    pub repos: Vec<BackupRepo>,
    /// The stanza.
    pub stanza: StanzaName,
    /// The cluster.
    pub cluster: ClusterAccess,
    /// Other clusters of the stanza: its standbys, one of which may have become the primary.
    pub others: Vec<ClusterAccess>,
    /// Whether data files are read from a standby among them.
    pub standby: StandbyUse,
    /// Whether a server runs that is asked; else the cluster must be stopped, and its own WAL is part of the backup.
    pub online: bool,
    /// Whether a stopped cluster is backed up although a `postmaster.pid` that nobody uses is left in it.
    pub force: bool,
    /// The type that is wanted. Diff and incr become a full where there is no prior backup to build on.
    pub kind: BackupType,
    /// How to compress.
    pub compression: Compression,
    /// Whether every file is read, whatever the file system says of it.
    pub delta: bool,
    /// Whether to take up what a broken run has stored, and to leave what another run could take up.
    pub resume: bool,
    /// Worker threads.
    pub threads: usize,
    /// Whether the checkpoint is done at once.
    pub start_fast: bool,
    /// Whether to see that the WAL is in the archive. Without it a backup may not be restorable.
    pub archive_check: bool,
    /// Whether the WAL that makes it consistent is read back from the archive and becomes part of it. Means nothing without `archive_check`.
    pub archive_copy: bool,
    /// Whether to refuse `archive_mode=always`.
    pub archive_mode_check: bool,
    /// How long to wait for WAL.
    pub archive_timeout: Duration,
    /// Whether to check page checksums: by default, where the cluster has them.
    pub checksum_page: Option<bool>,
    /// Paths to leave out.
    pub exclude: Vec<String>,
    /// The operator's notes.
    pub annotation: BTreeMap<String, String>,
    /// What `archive_command` must contain.
    pub archive_program: String,
    /// Whether the right to write is kept for an expire behind it, in [`Backups::writers`].
    pub keep_writers: bool,
}

impl BackupRequest {
    /// Whether WAL of the archive becomes part of the backup.
    const fn copies_wal(&self) -> bool {
        self.archive_copy && self.archive_check && self.online
    }
}

/// A repository to back up to.
#[derive(Clone)]
pub struct BackupRepo {
    /// Its number in the options, as reports name it.
    pub number: u16,
    /// How to reach it.
    pub access: RepoAccess,
    /// Size at which packs are closed, in bytes.
    pub pack_size: usize,
    /// Listens to what concerns this repository alone; none: who listens to all else.
    pub observer: Option<Arc<dyn Observer>>,
}

impl BackupRepo {
    /// A repository with packs of 16 MiB.
    pub const fn new(number: u16, access: RepoAccess) -> Self {
        Self { number, access, pack_size: 16 << 20, observer: None }
    }

    fn host(&self, host: &Host) -> Host {
        let observer = self.observer.as_ref().unwrap_or(&host.observer);
        Host { observer: Arc::clone(observer), ..host.clone() }
    }
}

impl std::fmt::Debug for BackupRepo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { number, access, pack_size, .. } = self;
        let mut fields = f.debug_struct("BackupRepo");
        fields.field("number", number).field("access", access).field("pack_size", pack_size);
        fields.finish_non_exhaustive()
    }
}

/// The backups of one run.
#[derive(Debug)]
pub struct Backups {
    /// Those that were made, in the order of the repositories that were asked for; at least one.
    pub made: Vec<BackupReport>,
    /// The repositories in which there is none, and why. Each was told when it happened.
    pub failed: Vec<FailedBackup>,
    /// Where that was asked for: the right to write to each repository that has a new backup, with its number. To be used or released soon.
    pub writers: Vec<(u16, Writer)>,
}

/// A repository in which a backup failed while it went on in others.
#[derive(Debug)]
pub struct FailedBackup {
    /// The number of the repository.
    pub repo: u16,
    /// Why.
    pub error: Error,
}

/// What was backed up.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BackupReport {
    /// The number of the repository.
    pub repo: u16,
    /// Its name.
    pub label: BackupLabel,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: BackupType,
    /// What it builds on.
    pub prior: Option<BackupLabel>,
    /// Sizes in bytes.
    pub sizes: Sizes,
    /// Regular files.
    pub files: u64,
    /// Those that are new or whose content has changed.
    pub changed_files: u64,
    /// Those that were not even opened: they cannot have changed.
    pub unread_files: u64,
    /// What was taken up of broken runs; none where there was nothing.
    pub resumed: Option<Resumed>,
    /// Pages with a wrong checksum.
    pub bad_pages: u64,
    /// Files that hold them, the first hundred.
    pub bad_files: Vec<BadFile>,
    /// Sockets, pipes and devices that were not copied.
    pub skipped: Vec<String>,
    /// First and last WAL segment that it needs.
    pub wal: Span<WalSegmentName>,
    /// Requests to the repository.
    pub requests: BTreeMap<&'static str, u64>,
}

/// What broken runs had stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Resumed {
    /// Bytes in the repository.
    pub stored: u64,
    /// The bytes of files in them.
    pub raw: u64,
    /// Of these, bytes that had changed meanwhile or were of files that are gone: they were of no use.
    pub again: u64,
}

/// A file with pages that have a wrong checksum.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BadFile {
    /// Its path in the backup.
    pub path: String,
    /// How many such pages.
    pub pages: u64,
    /// The first hundred of them, counted in the file from 0.
    pub first: Vec<u32>,
}

/// Makes a backup in one repository, or the same in several. They may differ in name and type: each builds on what is in its repository.
/// Where it fails in some, the others are not held up; `Ok` says that there is at least one.
///
/// # Errors
/// Where there is none in any repository. Before the server is asked to begin: when cluster and stanza do not belong together, when it does not archive, when another backup
/// runs. Later: on any failure of server, disk or store. Nothing is listed unless all of it is durable, its WAL included.
pub async fn backup(host: &Host, mut request: BackupRequest) -> Result<Backups> {
    let repos = std::mem::take(&mut request.repos);
    if repos.is_empty() {
        return Err(Error::Unsupported { what: "a backup to no repository".to_owned() });
    }
    let mut failed = Failed { of: repos.len(), list: Vec::new() };
    let mut places = Vec::new();
    for repo in repos {
        let own = repo.host(host);
        match repo.access.open_stanza(&own, &request.stanza).await {
            Ok(place) => places.push((repo, own, place)),
            Err(error) => failed.add(&own, repo.number, error)?,
        }
    }
    let cluster = Cluster::find(host, &mut request).await?;
    let mut known = Vec::new();
    for (repo, own, place) in places {
        let fits =
            check_identity(&place.stanza, &cluster.identity()).and_then(|()| can_copy_wal(&place, &request));
        match fits {
            Ok(()) => known.push((repo, own, place)),
            Err(error) => failed.add(&own, repo.number, error)?,
        }
    }
    cluster.check(&request)?;
    let (identity, now) = (cluster.identity(), cluster.facts().await?);
    let ground = Ground { request: &request, system_id: identity.system_id, now: &now };
    let mut bases = Vec::new();
    for (repo, own, place) in known {
        let base = Base::lay(repo.number, own.clone(), place, repo.pack_size, &ground);
        match base.await {
            Ok(base) => bases.push(base),
            Err(error) => failed.add(&own, repo.number, error)?,
        }
    }
    let time = label::time(host, bases.iter().filter_map(Base::newest));
    let (targets, writers) = (Vec::new(), Vec::new());
    let mut run = Run { host, request: &request, identity, now, targets, failed, writers };
    for base in bases {
        let (own, number) = (base.host().clone(), base.number());
        match base.name(time, request.resume).await {
            Ok(target) => run.targets.push(target),
            Err(error) => run.failed.add(&own, number, error)?,
        }
    }
    let made = Box::pin(run.all(cluster)).await;
    if let Err(error) = &made {
        for mut target in run.targets {
            target.give_up(error).await;
            target.release().await;
        }
        for (_, writer) in run.writers.drain(..) {
            writer.release(host).await;
        }
    }
    Ok(Backups { made: made?, failed: run.failed.list, writers: run.writers })
}

/// WAL that becomes part of a backup is read from the archive.
fn can_copy_wal(place: &StanzaPlace, request: &BackupRequest) -> Result<()> {
    match request.copies_wal() && !place.repo.reads() {
        true => Err(Error::Repo(pgbr_repo::Error::WriteOnly {
            doing: "copy WAL from the archive into the backup (option --archive-copy)".to_owned(),
        })),
        false => Ok(()),
    }
}

/// One run of a backup.
struct Run<'a> {
    host: &'a Host,
    request: &'a BackupRequest,
    /// Which cluster it is.
    identity: NewCluster,
    /// The cluster as it is now.
    now: ManifestFacts,
    /// The repositories in which it can still succeed.
    targets: Vec<Target>,
    failed: Failed,
    /// What is kept of those in which it was made.
    writers: Vec<(u16, Writer)>,
}

/// The repositories in which the backup has failed.
struct Failed {
    /// How many there are in all.
    of: usize,
    list: Vec<FailedBackup>,
}

impl Failed {
    /// One more: an error of the whole where it is the last.
    fn add(&mut self, host: &Host, number: u16, error: Error) -> Result<()> {
        if self.list.len() + 1 >= self.of {
            return Err(error);
        }
        host.warn(format!("there is no backup in this repository: {}", with_causes(&error)));
        self.list.push(FailedBackup { repo: number, error });
        Ok(())
    }
}

/// What a pass over all files found, besides what is in the repositories.
struct Pass {
    /// What each repository got, to be closed.
    copied: Vec<Result<Branch>>,
    tablespaces: Vec<(u32, PathBuf)>,
    skipped: Vec<String>,
}

impl Run<'_> {
    /// From the first word to the last manifest.
    async fn all(&mut self, cluster: Cluster) -> Result<Vec<BackupReport>> {
        self.each(async |target| target.announce().await).await?;
        let parts = match cluster {
            Cluster::Online { primary, standby } => self.copy_online(*primary, standby).await?,
            Cluster::Offline(stopped) => self.copy_offline(&stopped).await?,
        };
        self.close(&parts).await?;
        self.each(async |target| target.ready().await).await?;
        let mut made = Vec::new();
        for mut target in std::mem::take(&mut self.targets) {
            let committed = target.commit().await;
            if let Err(error) = &committed {
                target.keep_in_doubt(error).await;
            }
            // What a commit that failed is about stays as it is: it may be there after all.
            let (host, number) = (target.host.clone(), target.number);
            if self.request.keep_writers && committed.is_ok() {
                self.writers.push((number, target.into_writer().await));
            } else {
                target.release().await;
            }
            match committed {
                Ok(report) => made.push(report),
                Err(error) => self.failed.add(&host, number, error)?,
            }
        }
        Ok(made)
    }

    /// Takes a step in each repository. Where it fails that one is given up, and the others go on.
    async fn each(&mut self, mut step: impl AsyncFnMut(&mut Target) -> Result<()>) -> Result<()> {
        for mut target in std::mem::take(&mut self.targets) {
            match step(&mut target).await {
                Ok(()) => self.targets.push(target),
                Err(error) => {
                    target.give_up(&error).await;
                    let (host, number) = (target.host.clone(), target.number);
                    target.release().await;
                    self.failed.add(&host, number, error)?;
                }
            }
        }
        Ok(())
    }

    /// From the start of the backup to its stop, with all WAL in the archives.
    async fn copy_online(&mut self, connected: Connected, standby: Option<Standby>) -> Result<Parts> {
        let Connected { session, facts, control, .. } = connected;
        let started_at = self.host.now_seconds();
        let databases = session.databases().await?;
        let names = session.tablespaces().await?;
        let config_files = external_config_files(&facts);
        let running = self.start(session).await?;
        if let Some(standby) = &standby {
            standby.wait_for_start(self.host, &running, self.request.archive_timeout).await?;
        }

        let copy_start_ns = self.host.clock.now_ns();
        let watched = Watched::Running(&running, standby.as_ref());
        let (tablespaces, skipped) = self.copy_files(&watched, &config_files).await?;

        let begun = Instant::now();
        self.host.tell(Event::BackupStopping);
        if let Some(standby) = &standby {
            standby.check_end(running.timeline()).await?;
        }
        let (start_lsn, start_time) = (running.start_lsn(), running.start_time());
        let finished = running.stop().await?;
        if let Some(standby) = &standby {
            // A promotion that had begun shows itself a moment later.
            standby.check(finished.timeline).await?;
        }
        let size = facts.wal_segment_size;
        let segments = segments_between(finished.timeline, start_lsn, finished.stop_lsn, size)
            .ok_or(Error::Internal { what: "a backup needs more WAL than can be" })?;
        let (Some(first), Some(last)) = (segments.first().copied(), segments.last().copied()) else {
            return Err(Error::Internal { what: "a backup without WAL" });
        };
        self.host.tell(Event::BackupStopped { lsn: finished.stop_lsn, segment: last });
        if self.request.archive_check {
            self.wait_for_wal(&segments, false).await?;
        }
        self.step("stop", begun);

        let name = |oid| names.iter().find(|t| t.oid == oid).map(|t| t.name.clone()).unwrap_or_default();
        Ok(Parts {
            cluster: manifest_facts(&facts, &control, finished.timeline),
            standby: standby.is_some(),
            skipped,
            tablespaces: tablespaces.iter().map(|(oid, path)| tablespace(*oid, name(*oid), path)).collect(),
            databases: databases
                .into_iter()
                .map(|d| Database { oid: d.oid, name: d.name, template: d.is_template })
                .collect(),
            config_files: config_files.iter().map(|p| p.to_string_lossy().into_owned()).collect(),
            copy_start_ns,
            lsn: Span { start: start_lsn, stop: finished.stop_lsn },
            wal: Span { start: first, stop: last },
            copied_wal: if self.request.copies_wal() { segments } else { Vec::new() },
            times: Times {
                host: Span { start: started_at, stop: self.host.now_seconds() },
                server: Span { start: start_time, stop: finished.stop_time },
            },
            labels: Some(Labels {
                backup_label: finished.label_file,
                tablespace_map: finished.tablespace_map,
            }),
        })
    }

    /// Begins the backup on the server, which archives.
    async fn start(&mut self, session: pgbr_pg::Session) -> Result<RunningBackup> {
        let size = self.now.wal_segment_size;
        // When this does not arrive in the archive, waiting at the end would be in vain.
        let ended = if self.request.archive_check { Some(end_segment(&session, size).await?) } else { None };
        self.host.tell(Event::BackupStarting { fast: self.request.start_fast });
        let begun = Instant::now();
        let labels: BTreeSet<String> = self.targets.iter().map(|target| target.label.to_string()).collect();
        let labels = labels.into_iter().collect::<Vec<_>>().join(" ");
        let (name, canceller) = (format!("pgbr backup {labels}"), session.canceller());
        let running = tokio::select! {
            started = session.start_backup(&name, self.request.start_fast) => started?,
            // A checkpoint that is not to be done at once takes minutes.
            stopped = self.host.stop.requested() => {
                canceller.cancel().await;
                return Err(stopped);
            }
        };
        let segment = WalSegmentName::containing(running.timeline(), running.start_lsn(), size);
        self.host.tell(Event::BackupStarted { lsn: running.start_lsn(), segment });
        self.step("start", begun);
        if let Some(ended) = ended {
            self.wait_for_wal(&[ended], true).await?;
        }
        Ok(running)
    }

    /// Copies a cluster that nobody may start meanwhile.
    async fn copy_offline(&mut self, stopped: &Stopped) -> Result<Parts> {
        let (started_at, copy_start_ns) = (self.host.now_seconds(), self.host.clock.now_ns());
        let (tablespaces, skipped) = self.copy_files(&Watched::Stopped(stopped), &[]).await?;
        let options = self.scan_options(&Watched::Stopped(stopped), &[]);
        stopped.check_unchanged(self.host, options, copy_start_ns).await?;
        Ok(Parts {
            cluster: stopped.facts(),
            standby: false,
            skipped,
            tablespaces: tablespaces
                .iter()
                .map(|(oid, path)| tablespace(*oid, String::new(), path))
                .collect(),
            databases: Vec::new(),
            config_files: Vec::new(),
            copy_start_ns,
            lsn: stopped.lsn(),
            wal: stopped.wal(),
            copied_wal: Vec::new(),
            times: Times {
                host: Span { start: started_at, stop: self.host.now_seconds() },
                server: stopped.server_time(self.host),
            },
            labels: None,
        })
    }

    /// Adds the WAL that the backup is to bring, and waits until all is durable.
    async fn close(&mut self, parts: &Parts) -> Result<()> {
        let begun = Instant::now();
        let (identity, request) = (self.identity, self.request);
        self.each(async |target| {
            let copied = target.close(&parts.copied_wal, parts.cluster.wal_segment_size, request).await?;
            target.complete = Some(complete(target, copied, parts, identity, request)?);
            Ok(())
        })
        .await?;
        self.step("close", begun);
        Ok(())
    }

    /// Waits until all these segments are in the archives, for good; `prior` is the one before the backup's first.
    async fn wait_for_wal(&mut self, segments: &[WalSegmentName], prior: bool) -> Result<()> {
        let timeout = self.request.archive_timeout;
        let pg_data = self.request.cluster.pg_data.clone();
        let (Some(first), Some(last)) = (segments.first(), segments.last()) else { return Ok(()) };
        self.each(async |target| {
            target.host.tell(Event::WaitingForWal { prior, first: *first, last: *last });
            wait_for_wal(&target.host, &target.place, &pg_data, segments, timeout).await
        })
        .await
    }

    /// Copies; where it turns out that the times of files cannot be trusted, all over again with every file read.
    async fn copy_files(
        &mut self,
        watched: &Watched<'_>,
        config_files: &[PathBuf],
    ) -> Result<(Vec<(u32, PathBuf)>, Vec<String>)> {
        let begun = Instant::now();
        let upper = UpperLsn::new(watched.upper().await?);
        let estimate = Arc::new(AtomicU64::new(0));
        self.start_estimate(Arc::clone(&estimate));
        self.each(async |target| target.adopt().await).await?;
        let mut distrusted = false;
        loop {
            let options = CopyOptions {
                threads: self.request.threads,
                compression: self.request.compression,
                pages: self.page_context(watched, &upper),
                segment_pages: self.now.segment_pages,
                estimate: Arc::clone(&estimate),
            };
            let scan = self.scan_options(watched, config_files);
            let trusts = |target: &Target| !distrusted && target.trust(self.request, &self.now);
            let branches: Result<Vec<_>> = self
                .targets
                .iter()
                .map(|target| target.branch(self.request.threads, trusts(target)))
                .collect();
            match self.copy_once(watched, &upper, options, scan, branches?).await {
                Err(Error::Distrust { path, why }) if !distrusted => {
                    self.host.warn(format!("file '{path}': {why}; all files are read (option --delta)"));
                    self.each(async |target| target.begin_anew().await).await?;
                    distrusted = true;
                }
                Err(error) => return Err(error),
                Ok(Pass { copied, tablespaces, skipped }) => {
                    let mut copied = copied.into_iter();
                    self.each(async |target| {
                        target.copied = copied.next().transpose()?.map(Box::new);
                        Ok(())
                    })
                    .await?;
                    self.step("copy", begun);
                    return Ok((tablespaces, skipped));
                }
            }
        }
    }

    fn scan_options(&self, watched: &Watched<'_>, config_files: &[PathBuf]) -> ScanOptions {
        ScanOptions {
            pg_data: self.request.cluster.pg_data.clone(),
            version: self.identity.version,
            exclude: self.request.exclude.clone(),
            external_config: config_files.to_vec(),
            stopped: !self.request.online,
            standby: watched.standby().map(|standby| standby.pg_data().to_owned()),
        }
    }

    fn page_context(&self, watched: &Watched<'_>, upper: &UpperLsn) -> Option<Arc<PageContext>> {
        let have = self.now.data_checksums;
        let check = self.request.checksum_page.unwrap_or(have) && have;
        check.then(|| {
            Arc::new(PageContext {
                start_lsn: watched.replayed_from(),
                upper_lsn: upper.clone(),
                block_size: self.now.block_size,
                segment_start: 0,
            })
        })
    }

    /// One pass over all files, in touch with the server.
    async fn copy_once(
        &self,
        watched: &Watched<'_>,
        upper: &UpperLsn,
        options: CopyOptions,
        scan: ScanOptions,
        branches: Vec<Branch>,
    ) -> Result<Pass> {
        let stop = self.host.stop.child();
        let host = Host { stop: stop.clone(), ..self.host.clone() };
        let work = move || -> Result<Pass> {
            let mut scan = Scan::open(scan)?;
            let copied = copy_cluster(&host, &mut scan, &options, branches)?;
            let tablespaces = scan.tablespaces().iter().map(|t| (t.oid, t.target.clone())).collect();
            let skipped =
                scan.skipped().iter().map(|s| format!("{} ({})", s.path.display(), s.kind)).collect();
            Ok(Pass { copied, tablespaces, skipped })
        };
        let mut copying = tokio::task::spawn_blocking(work);
        let kept = keep_in_touch(watched, upper, &mut copying).await;
        match kept {
            Ok(pass) => pass,
            Err(lost) => {
                stop.stop();
                discard(copying.await).await;
                Err(lost)
            }
        }
    }

    /// Counts the bytes to come, beside the copying.
    fn start_estimate(&self, estimate: Arc<AtomicU64>) {
        let (host, pg_data) = (self.host.clone(), self.request.cluster.pg_data.clone());
        tokio::task::spawn_blocking(move || {
            let bytes = directory_size(&pg_data, 0);
            estimate.store(bytes, Ordering::Relaxed);
            host.tell(Event::CopyStarted { estimate: bytes });
        });
    }

    fn step(&self, name: &'static str, begun: Instant) {
        self.host.tell(Event::Step { name, took: begun.elapsed() });
    }
}

/// A tablespace, whose name may not be known.
fn tablespace(oid: u32, name: String, location: &Path) -> Tablespace {
    Tablespace { oid, name, location: location.to_string_lossy().into_owned() }
}

/// Waits for the copy. Meanwhile the server says how far its log has come, and with that, that the backup is still on; or nobody starts it.
async fn keep_in_touch(
    watched: &Watched<'_>,
    upper: &UpperLsn,
    copying: &mut JoinHandle<Result<Pass>>,
) -> Result<Result<Pass>> {
    loop {
        tokio::select! {
            done = &mut *copying => return done.map_err(|_| Error::Internal { what: "the copy thread panicked" }),
            () = tokio::time::sleep(PULSE) => upper.advance(watched.look().await?),
        }
    }
}

/// Bytes of the files below a directory, roughly what a backup of it reads; what cannot be read counts nothing.
fn directory_size(path: &Path, depth: usize) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    let sizes = entries.flatten().map(|entry| {
        let name = entry.file_name();
        let Ok(meta) = std::fs::metadata(entry.path()) else { return 0 };
        if !meta.is_dir() {
            return meta.len();
        }
        if depth > 16 || name == "pg_wal" || name.as_encoded_bytes().starts_with(b"pgsql_tmp") {
            return 0;
        }
        directory_size(&entry.path(), depth + 1)
    });
    sizes.sum()
}

#[cfg(test)]
mod tests;
