//! Backup: a running cluster copied while it is written to, with the WAL that makes it consistent.

mod copy;
mod gather;
mod label;
mod prior;
mod read;
mod resume;
mod standby;
mod target;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pgbr_codec::Compression;
use pgbr_manifest::manifest::{
    Body, ClusterFacts as ManifestFacts, Database, DatabaseRef, Layer, MANIFEST_FORMAT, Sizes, Span, Summary,
    Tablespace,
};
use pgbr_manifest::{BackupId, BackupLabel, BackupType, StanzaName, WalSegmentName};
use pgbr_pg::{
    FinishedBackup, PageContext, RunningBackup, Scan, ScanOptions, UpperLsn, external_config_files,
};
use tokio::task::JoinHandle;

use self::copy::{Branch, Copied, CopyOptions, copy_cluster};
pub use self::standby::StandbyUse;
pub(crate) use self::standby::find as find_servers;
use self::standby::{Servers, Standby};
use self::target::{Base, Target};
use crate::cluster::{
    ClusterAccess, Connected, check_archiving, check_identity, end_segment, segments_between, wait_for_wal,
};
use crate::error::{Error, Result, with_causes};
use crate::host::Host;
use crate::load;
use crate::observe::{Event, Observer};
use crate::place::RepoAccess;
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
    /// Whether `archive_mode` must be on.
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
    let clusters: Vec<_> = [&request.cluster].into_iter().chain(&request.others).collect();
    let Servers { access, primary, standby } = find_servers(host, &clusters, request.standby).await?;
    request.cluster = access;
    let mut known = Vec::new();
    for (repo, own, place) in places {
        match check_identity(&place.stanza, &primary.identity()) {
            Ok(()) => known.push((repo, own, place)),
            Err(error) => failed.add(&own, repo.number, error)?,
        }
    }
    check_cluster(&primary, &request)?;
    let timeline = primary.session.timeline_id().await?;
    let now = manifest_facts(&primary.facts, &primary.control, timeline);
    let mut bases = Vec::new();
    for (repo, own, place) in known {
        let base = Base::lay(repo.number, own.clone(), place, repo.pack_size, &request, &primary, &now);
        match base.await {
            Ok(base) => bases.push(base),
            Err(error) => failed.add(&own, repo.number, error)?,
        }
    }
    let time = label::time(host, bases.iter().filter_map(Base::newest));
    let (targets, writers) = (Vec::new(), Vec::new());
    let mut run = Run { host, request: &request, standby, now, targets, failed, writers };
    for base in bases {
        let (own, number) = (base.host().clone(), base.number());
        match base.name(time, request.resume).await {
            Ok(target) => run.targets.push(target),
            Err(error) => run.failed.add(&own, number, error)?,
        }
    }
    let made = Box::pin(run.all(primary)).await;
    if let Err(error) = &made {
        for target in run.targets {
            target.give_up(error).await;
            target.release().await;
        }
        for (_, writer) in run.writers.drain(..) {
            writer.release(host).await;
        }
    }
    Ok(Backups { made: made?, failed: run.failed.list, writers: run.writers })
}

fn check_cluster(connected: &Connected, request: &BackupRequest) -> Result<()> {
    if connected.facts.in_recovery {
        return Err(Error::Standby);
    }
    if connected.facts.wal_level == "minimal" {
        return Err(Error::Unfit { reason: "wal_level is minimal".to_owned() });
    }
    if request.archive_check {
        check_archiving(&connected.facts, &request.archive_program, request.archive_mode_check)?;
    }
    Ok(())
}

/// One run of a backup.
struct Run<'a> {
    host: &'a Host,
    request: &'a BackupRequest,
    /// Where data files are read from, if not from the primary.
    standby: Option<Standby>,
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

/// Everything that the manifest needs.
struct Complete {
    summary: Summary,
    body: Body,
    report: BackupReport,
}

/// What a pass over all files found, besides what is in the repositories.
struct Pass {
    /// Of each repository.
    copied: Vec<Result<Copied>>,
    tablespaces: Vec<(u32, PathBuf)>,
    skipped: Vec<String>,
}

impl Run<'_> {
    /// From the first word to the last manifest.
    async fn all(&mut self, connected: Connected) -> Result<Vec<BackupReport>> {
        self.each(async |target| target.announce().await).await?;
        self.copy(connected).await?;
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

    /// From the start of the backup to the last durable pack, with all WAL in the archives.
    async fn copy(&mut self, connected: Connected) -> Result<()> {
        let Connected { session, facts, control, .. } = connected;
        let started_at = self.host.now_seconds();
        let databases = session.databases().await?;
        let names = session.tablespaces().await?;
        let config_files = external_config_files(&facts);
        let size = facts.wal_segment_size;
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
            self.wait_for_wal(&[ended]).await?;
        }
        if let Some(standby) = &self.standby {
            standby.wait_for_start(self.host, &running, self.request.archive_timeout).await?;
        }

        let begun = Instant::now();
        let copy_start_ns = self.host.clock.now_ns();
        let (tablespaces, skipped) = self.copy_files(&running, &facts, &control, &config_files).await?;
        self.step("copy", begun);

        let begun = Instant::now();
        self.host.tell(Event::BackupStopping);
        if let Some(standby) = &self.standby {
            standby.check_end(running.timeline()).await?;
        }
        let (start_lsn, start_time) = (running.start_lsn(), running.start_time());
        let finished = running.stop().await?;
        if let Some(standby) = &self.standby {
            // A promotion that had begun shows itself a moment later.
            standby.check(finished.timeline).await?;
        }
        let segments = segments_between(finished.timeline, start_lsn, finished.stop_lsn, size)
            .ok_or(Error::Internal { what: "a backup needs more WAL than can be" })?;
        let last = *segments.last().ok_or(Error::Internal { what: "a backup without WAL" })?;
        self.host.tell(Event::BackupStopped { lsn: finished.stop_lsn, segment: last });
        if self.request.archive_check {
            self.wait_for_wal(&segments).await?;
        }
        self.step("stop", begun);

        let wal = Span { start: segment, stop: last };
        let times = Times {
            host: Span { start: started_at, stop: self.host.now_seconds() },
            server_start: start_time,
        };
        let tablespaces = tablespaces.iter().map(|(oid, path)| Tablespace {
            oid: *oid,
            name: names.iter().find(|t| t.oid == *oid).map(|t| t.name.clone()).unwrap_or_default(),
            location: path.to_string_lossy().into_owned(),
        });
        let lsn = Span { start: start_lsn, stop: finished.stop_lsn };
        let parts = Parts {
            system_id: facts.system_id,
            version: facts.version,
            cluster: manifest_facts(&facts, &control, finished.timeline),
            standby: self.standby.is_some(),
            skipped,
            tablespaces: tablespaces.collect(),
            databases: databases
                .into_iter()
                .map(|d| Database { oid: d.oid, name: d.name, template: d.is_template })
                .collect(),
            config_files: config_files.iter().map(|p| p.to_string_lossy().into_owned()).collect(),
            copy_start_ns,
            lsn,
            wal,
            times,
            finished,
        };
        for target in &mut self.targets {
            target.complete = Some(complete(target, &parts, self.request)?);
        }
        Ok(())
    }

    /// Waits until all these segments are in the archives, for good.
    async fn wait_for_wal(&mut self, segments: &[WalSegmentName]) -> Result<()> {
        let timeout = self.request.archive_timeout;
        let pg_data = self.request.cluster.pg_data.clone();
        self.each(async |target| wait_for_wal(&target.host, &target.place, &pg_data, segments, timeout).await)
            .await
    }

    /// Copies; where it turns out that the times of files cannot be trusted, all over again with every file read.
    async fn copy_files(
        &mut self,
        running: &RunningBackup,
        facts: &pgbr_pg::ClusterFacts,
        control: &pgbr_pg::ControlFile,
        config_files: &[PathBuf],
    ) -> Result<(Vec<(u32, PathBuf)>, Vec<String>)> {
        let upper = UpperLsn::new(running.insert_lsn().await?);
        let estimate = Arc::new(AtomicU64::new(0));
        self.start_estimate(Arc::clone(&estimate));
        self.each(async |target| target.adopt().await).await?;
        let mut distrusted = false;
        loop {
            let options = CopyOptions {
                threads: self.request.threads,
                compression: self.request.compression,
                pages: self.page_context(running, &upper, facts, control),
                segment_pages: control.relseg_size,
                estimate: Arc::clone(&estimate),
            };
            let scan = ScanOptions {
                pg_data: self.request.cluster.pg_data.clone(),
                version: facts.version,
                exclude: self.request.exclude.clone(),
                external_config: config_files.to_vec(),
                wal_inside: false,
                standby: self.standby.as_ref().map(|standby| standby.pg_data().to_owned()),
            };
            let trusts = |target: &Target| !distrusted && target.trust(self.request, &self.now);
            let branches: Result<Vec<_>> = self
                .targets
                .iter()
                .map(|target| target.branch(self.request.threads, trusts(target)))
                .collect();
            match self.copy_once(running, &upper, options, scan, branches?).await {
                Err(Error::Distrust { path, why }) if !distrusted => {
                    self.host.warn(format!("file '{path}': {why}; all files are read (option --delta)"));
                    self.each(async |target| target.begin_anew().await).await?;
                    distrusted = true;
                }
                Err(error) => return Err(error),
                Ok(Pass { copied, tablespaces, skipped }) => {
                    let mut copied = copied.into_iter();
                    self.each(async |target| {
                        target.copied = copied.next().transpose()?;
                        Ok(())
                    })
                    .await?;
                    return Ok((tablespaces, skipped));
                }
            }
        }
    }

    fn page_context(
        &self,
        running: &RunningBackup,
        upper: &UpperLsn,
        facts: &pgbr_pg::ClusterFacts,
        control: &pgbr_pg::ControlFile,
    ) -> Option<Arc<PageContext>> {
        let check = self.request.checksum_page.unwrap_or(facts.data_checksums) && facts.data_checksums;
        check.then(|| {
            Arc::new(PageContext {
                start_lsn: running.start_lsn(),
                upper_lsn: upper.clone(),
                block_size: control.block_size,
                segment_start: 0,
            })
        })
    }

    /// One pass over all files, in touch with the server.
    async fn copy_once(
        &self,
        running: &RunningBackup,
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
        let kept = keep_in_touch(running, self.standby.as_ref(), upper, &mut copying).await;
        match kept {
            Ok(pass) => pass,
            Err(lost) => {
                stop.stop();
                drop(copying.await);
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

struct Times {
    host: Span<i64>,
    server_start: i64,
}

/// What is known when the backup has stopped.
struct Parts {
    system_id: pgbr_manifest::SystemId,
    version: pgbr_manifest::PgVersion,
    cluster: ManifestFacts,
    /// Whether data files came from a standby.
    standby: bool,
    skipped: Vec<String>,
    tablespaces: Vec<Tablespace>,
    databases: Vec<Database>,
    config_files: Vec<String>,
    copy_start_ns: i64,
    lsn: Span<pgbr_manifest::Lsn>,
    wal: Span<WalSegmentName>,
    times: Times,
    finished: FinishedBackup,
}

/// What the manifest of one repository says.
fn complete(target: &mut Target, run: &Parts, request: &BackupRequest) -> Result<Complete> {
    let copied = target.copied.take().ok_or(Error::Internal { what: "a backup without a copy" })?;
    let Copied { gathered, bad_files, data, index } = copied;
    let (written, adopted) = (gathered.written, &target.adopted);
    let id = BackupId(target.host.random()?);
    let totals = gathered.totals;
    let stored_delta = index.stored + adopted.stored;
    let before = target.chain.first().map_or(0, |prior| prior.summary.sizes.stored);
    let sizes =
        Sizes { database: totals.bytes, delta: totals.changed, stored: before + stored_delta, stored_delta };
    let current = target.place.stanza.current();
    let summary = Summary {
        format: MANIFEST_FORMAT,
        id,
        label: target.label,
        kind: target.kind,
        prior: target.chain.first().map(|prior| prior.summary.label),
        program: target.host.program.clone(),
        database: DatabaseRef { id: current.number, system_id: run.system_id, version: run.version },
        time: run.times.host,
        server_time_us: Span { start: run.times.server_start, stop: run.finished.stop_time },
        lsn: run.lsn,
        wal: run.wal,
        sizes,
        entries: totals.entries,
        error: totals.bad_pages > 0,
        annotation: request.annotation.clone(),
    };
    let layer = Layer {
        attempt: target.attempt,
        data_lanes: vec![data.salt],
        data_key_mode: load::data_key_mode(target.place.repo.keyring(), data.mode),
        index_lane: index.salt,
        index_packs: index.sizes,
        data_packs: data.packs,
        index: written.index,
        frames: data.frames,
        stream: data.stream,
        key_id: *target.place.repo.keyring().key_id().as_bytes(),
    };
    let body = Body {
        format: MANIFEST_FORMAT,
        id,
        parent: target.facts.parent.clone(),
        hash_key: target.facts.hash_key.clone(),
        copy_start_ns: run.copy_start_ns,
        layers: adopted.layers.iter().cloned().chain([layer]).collect(),
        resolved_entries: written.entries,
        resolved_digest: written.digest,
        cluster: run.cluster.clone(),
        tablespaces: run.tablespaces.clone(),
        links: gathered.links,
        databases: run.databases.clone(),
        tablespace_map: (!run.finished.tablespace_map.is_empty())
            .then(|| run.finished.tablespace_map.clone()),
        backup_label: Some(run.finished.label_file.clone()),
        config_files: run.config_files.clone(),
        bad_pages: totals.bad_pages,
        options: options(request, run.standby),
    };
    let report = BackupReport {
        repo: target.number,
        label: target.label,
        kind: target.kind,
        prior: summary.prior,
        sizes,
        files: totals.files,
        changed_files: totals.changed_files,
        unread_files: totals.unread,
        resumed: (adopted.raw > 0).then(|| Resumed {
            stored: adopted.stored,
            raw: adopted.raw,
            again: adopted.raw.saturating_sub(totals.reused),
        }),
        bad_pages: totals.bad_pages,
        bad_files,
        skipped: run.skipped.clone(),
        wal: run.wal,
        requests: BTreeMap::new(),
    };
    Ok(Complete { summary, body, report })
}

fn options(request: &BackupRequest, standby: bool) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("archive-check".to_owned(), request.archive_check.to_string()),
        ("backup-standby".to_owned(), standby.to_string()),
        (
            "checksum-page".to_owned(),
            request.checksum_page.map_or_else(|| "auto".to_owned(), |c| c.to_string()),
        ),
        ("compress-level".to_owned(), request.compression.level().to_string()),
        ("compress-type".to_owned(), request.compression.codec().to_string()),
        ("online".to_owned(), "true".to_owned()),
    ])
}

fn manifest_facts(
    facts: &pgbr_pg::ClusterFacts,
    control: &pgbr_pg::ControlFile,
    timeline: pgbr_manifest::TimelineId,
) -> ManifestFacts {
    ManifestFacts {
        catalog_version: control.catalog_version,
        control_version: control.control_version,
        block_size: control.block_size,
        segment_pages: control.relseg_size,
        wal_segment_size: facts.wal_segment_size,
        data_checksums: facts.data_checksums,
        timeline,
        data_directory: facts.data_directory.to_string_lossy().into_owned(),
    }
}

/// Waits for the copy. Meanwhile the server says how far its log has come, and with that, that the backup is still on.
async fn keep_in_touch(
    running: &RunningBackup,
    standby: Option<&Standby>,
    upper: &UpperLsn,
    copying: &mut JoinHandle<Result<Pass>>,
) -> Result<Result<Pass>> {
    loop {
        tokio::select! {
            done = &mut *copying => return done.map_err(|_| Error::Internal { what: "the copy thread panicked" }),
            () = tokio::time::sleep(PULSE) => upper.advance(running.insert_lsn().await?),
        }
        if let Some(standby) = standby {
            standby.check(running.timeline()).await?;
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
