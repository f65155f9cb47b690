//! Backup: a running cluster copied while it is written to, with the WAL that makes it consistent.

mod copy;
mod gather;
mod label;
mod prior;
mod read;
mod resume;
mod standby;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use pgbr_codec::{Compression, LaneSalt, seal_manifest};
use pgbr_manifest::manifest::{
    Body, ClusterFacts as ManifestFacts, Database, DatabaseRef, Layer, MANIFEST_FORMAT, Sizes, Span, Summary,
    Tablespace,
};
use pgbr_manifest::merge::Merge;
use pgbr_manifest::{BackupId, BackupLabel, BackupType, HashKey, StanzaName, WalSegmentName};
use pgbr_pg::{
    FinishedBackup, PageContext, RunningBackup, Scan, ScanOptions, UpperLsn, external_config_files,
};
use pgbr_repo::{PinKind, RunFacts};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use self::copy::{Copied, CopyOptions, Parent, copy_cluster};
use self::resume::{Adopted, Broken};
pub use self::standby::StandbyUse;
pub(crate) use self::standby::find as find_servers;
use self::standby::{Servers, Standby};
use crate::cluster::{
    ClusterAccess, Connected, check_archiving, check_identity, end_segment, segments_between, wait_for_wal,
};
use crate::error::{Error, Result};
use crate::held::Held;
use crate::host::Host;
use crate::load::{self, Backup};
use crate::observe::Event;
use crate::packs::{DataPacked, DataPacks, IndexPacked, IndexPacks, Uploads};
use crate::place::{RepoAccess, StanzaPlace};

/// The most raw bytes of a frame in a full backup.
const FULL_FRAME: usize = 1 << 20;
/// The same in a diff or incr, whose frames hold pages of many files.
const INCR_FRAME: usize = 256 << 10;
/// How often the server is asked how far its log has come.
const PULSE: Duration = Duration::from_millis(200);

/// What to back up, and how.
#[derive(Debug, Clone)]
pub struct BackupRequest {
    /// The repository.
    pub repo: RepoAccess,
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
    /// Size at which packs are closed, in bytes.
    pub pack_size: usize,
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
}

/// What was backed up.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BackupReport {
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

/// Makes a backup.
///
/// # Errors
/// Before the server is asked to begin: when cluster and stanza do not belong together, when it does not archive, when another backup
/// runs. Later: on any failure of server, disk or store. Nothing is listed unless all of it is durable, its WAL included.
pub async fn backup(host: &Host, request: BackupRequest) -> Result<BackupReport> {
    let place = request.repo.open_stanza(host, &request.stanza).await?;
    let clusters: Vec<_> = [&request.cluster].into_iter().chain(&request.others).collect();
    let Servers { access, primary, standby } = find_servers(host, &clusters, request.standby).await?;
    let request = BackupRequest { cluster: access, ..request };
    check_cluster(&place, &primary, &request)?;
    let lease = Held::lease(host, &place).await?;
    let made = under_lease(host, &place, primary, standby, &request, &lease).await;
    lease.release(host).await;
    made
}

fn check_cluster(place: &StanzaPlace, connected: &Connected, request: &BackupRequest) -> Result<()> {
    check_identity(&place.stanza, &connected.identity())?;
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

async fn under_lease(
    host: &Host,
    place: &StanzaPlace,
    connected: Connected,
    standby: Option<Standby>,
    request: &BackupRequest,
    lease: &Held<pgbr_repo::Lease>,
) -> Result<BackupReport> {
    let timeline = connected.session.timeline_id().await?;
    let now = manifest_facts(&connected.facts, &connected.control, timeline);
    let chain =
        prior::choose(host, place, &request.cluster.pg_data, request.kind, &now).await?.unwrap_or_default();
    let kind = if chain.is_empty() { BackupType::Full } else { request.kind };
    let mut facts = run_facts(host, &chain, &now, connected.facts.system_id)?;
    let broken = if request.resume { resume::find(host, place, kind, &facts).await? } else { None };
    let full = chain.first().map(|prior| prior.summary.label.full());
    let label = match &broken {
        Some(broken) => broken.label,
        None => {
            let newest = place.backups.list_labels().await?.into_iter().max_by_key(|label| label.time());
            label::next(host, newest, kind, full)
        }
    };
    if let Some(broken) = &broken {
        facts.hash_key = broken.facts.hash_key.clone();
    }
    let attempt = u64::from_le_bytes(host.random()?);
    let pin = pin(host, place, &chain, label, attempt).await?;
    let mut run = Run { host, place, request, standby, label, kind, attempt, pin, chain, broken, facts, now };
    let copied = async {
        run.announce().await?;
        let copied = run.copy(connected).await?;
        lease.check().await?;
        run.check().await?;
        Ok(copied)
    };
    let made = match copied.await {
        Ok(copied) => run.commit(copied).await,
        Err(error) => {
            run.give_up(&error).await;
            Err(error)
        }
    };
    run.pin.release(host).await;
    made
}

/// Pins what a run reads and what it is about to write.
async fn pin(
    host: &Host,
    place: &StanzaPlace,
    chain: &[Backup],
    label: BackupLabel,
    attempt: u64,
) -> Result<Held<pgbr_repo::Pin>> {
    let pinned = chain.iter().map(|backup| backup.summary.label).collect();
    Held::pin(host, place, PinKind::Backup, pinned, Some((label, attempt))).await
}

/// What a run on top of `chain` says of itself.
fn run_facts(
    host: &Host,
    chain: &[Backup],
    now: &ManifestFacts,
    system_id: pgbr_manifest::SystemId,
) -> Result<RunFacts> {
    let hash_key = match chain.first() {
        Some(prior) => prior.body.hash_key.clone(),
        None => HashKey::from_bytes(host.random()?),
    };
    Ok(RunFacts {
        hash_key,
        parent: chain.first().map(prior::named),
        system_id,
        timeline: now.timeline,
        data_checksums: now.data_checksums,
        started_ns: host.clock.now_ns(),
    })
}

/// One run of a backup.
struct Run<'a> {
    host: &'a Host,
    place: &'a StanzaPlace,
    request: &'a BackupRequest,
    /// Where data files are read from, if not from the primary.
    standby: Option<Standby>,
    label: BackupLabel,
    kind: BackupType,
    /// The number in the names of all that this pass stores.
    attempt: u64,
    /// Names the chain and the attempt.
    pin: Held<pgbr_repo::Pin>,
    /// What it builds on, newest first; empty for a full.
    chain: Vec<Backup>,
    /// What it takes up.
    broken: Option<Broken>,
    facts: RunFacts,
    /// The cluster as it is now.
    now: ManifestFacts,
}

/// Everything that the manifest needs.
struct Complete {
    summary: Summary,
    body: Body,
    report: BackupReport,
}

/// What copying left, on its way to the manifest.
struct Packed {
    copied: Copied,
    data: DataPacked,
    index: IndexPacked,
    tablespaces: Vec<(u32, PathBuf)>,
    skipped: Vec<String>,
    adopted: Arc<Adopted>,
}

impl Run<'_> {
    /// Says what this run is about, so that another can take up what it leaves.
    async fn announce(&self) -> Result<()> {
        if let Some(broken) = &self.broken {
            let packs: Vec<_> = broken.runs.iter().flat_map(|(_, packs)| packs).collect();
            let bytes: u64 = packs.iter().map(|pack| pack.size).sum();
            let (label, runs, packs) = (self.label, broken.runs.len(), packs.len());
            let text = format!(
                "resume backup {label}: {bytes} bytes in {packs} pack(s) were stored by {runs} broken run(s)"
            );
            self.host.tell(Event::Note { text });
        }
        match self.request.resume {
            true => Ok(self.place.backups.put_run(&self.label, self.attempt, self.facts.clone()).await?),
            false => Ok(()),
        }
    }

    /// Sees that everything that this backup relies on is there: its pin, its parent, the packs that it took up.
    async fn check(&self) -> Result<()> {
        self.pin.check().await?;
        if let Some(parent) = self.chain.first().map(|prior| prior.summary.label)
            && !self.place.backups.exists(&parent).await?
        {
            let reason = "it was removed while a backup was made on top of it".to_owned();
            return Err(Error::Damaged { label: parent, reason });
        }
        match &self.broken {
            Some(broken) => resume::check(self.place, broken).await,
            None => Ok(()),
        }
    }

    /// From the start of the backup to the last durable pack, with all WAL in the archive.
    async fn copy(&mut self, connected: Connected) -> Result<Complete> {
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
        let (name, canceller) = (format!("pgbr backup {}", self.label), session.canceller());
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
            wait_for_wal(self.host, self.place, &[ended], self.request.archive_timeout).await?;
        }
        if let Some(standby) = &self.standby {
            standby.wait_for_start(self.host, &running, self.request.archive_timeout).await?;
        }

        let begun = Instant::now();
        let copy_start_ns = self.host.clock.now_ns();
        let packed = self.copy_files(&running, &facts, &control, &config_files).await?;
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
        let segments = segments_between(finished.timeline, start_lsn, finished.stop_lsn, size)?;
        let last = *segments.last().ok_or(Error::Internal { what: "a backup without WAL" })?;
        self.host.tell(Event::BackupStopped { lsn: finished.stop_lsn, segment: last });
        if self.request.archive_check {
            wait_for_wal(self.host, self.place, &segments, self.request.archive_timeout).await?;
        }
        self.step("stop", begun);

        let wal = Span { start: segment, stop: last };
        let times = Times {
            host: Span { start: started_at, stop: self.host.now_seconds() },
            server_start: start_time,
        };
        let tablespaces = packed.tablespaces.iter().map(|(oid, path)| Tablespace {
            oid: *oid,
            name: names.iter().find(|t| t.oid == *oid).map(|t| t.name.clone()).unwrap_or_default(),
            location: path.to_string_lossy().into_owned(),
        });
        let parts = Parts {
            tablespaces: tablespaces.collect(),
            databases: databases
                .into_iter()
                .map(|d| Database { oid: d.oid, name: d.name, template: d.is_template })
                .collect(),
            config_files: config_files.iter().map(|p| p.to_string_lossy().into_owned()).collect(),
            copy_start_ns,
            lsn: Span { start: start_lsn, stop: finished.stop_lsn },
            wal,
            times,
        };
        self.complete(parts, packed, &facts, &control, finished)
    }

    /// Copies; where it turns out that the times of files cannot be trusted, all over again with every file read.
    async fn copy_files(
        &mut self,
        running: &RunningBackup,
        facts: &pgbr_pg::ClusterFacts,
        control: &pgbr_pg::ControlFile,
        config_files: &[PathBuf],
    ) -> Result<Packed> {
        let upper = UpperLsn::new(running.insert_lsn().await?);
        let estimate = Arc::new(AtomicU64::new(0));
        self.start_estimate(Arc::clone(&estimate));
        let adopted = Arc::new(self.adopt().await?);
        let mut trust = self.trust();
        loop {
            let options = CopyOptions {
                threads: self.request.threads,
                compression: self.request.compression,
                frame_limit: if self.kind == BackupType::Full { FULL_FRAME } else { INCR_FRAME },
                key: self.facts.hash_key.clone(),
                pages: self.page_context(running, &upper, facts, control),
                segment_pages: control.relseg_size,
                estimate: Arc::clone(&estimate),
                parent: self.parent(&adopted, trust),
            };
            let scan = ScanOptions {
                pg_data: self.request.cluster.pg_data.clone(),
                version: facts.version,
                exclude: self.request.exclude.clone(),
                external_config: config_files.to_vec(),
                wal_inside: false,
                standby: self.standby.as_ref().map(|standby| standby.pg_data().to_owned()),
            };
            match self.copy_once(running, &upper, options, scan, &adopted).await {
                Err(Error::Distrust { path, why }) if trust => {
                    self.host.warn(format!("file '{path}': {why}; all files are read (option --delta)"));
                    self.begin_anew().await?;
                    trust = false;
                }
                done => return done,
            }
        }
    }

    /// Gives the next pass names of its own: what the last one has sent and nobody has seen arrive may come late, and must not take the
    /// place of anything then. Under the old names it is rubbish that no manifest names.
    async fn begin_anew(&mut self) -> Result<()> {
        let attempt = u64::from_le_bytes(self.host.random()?);
        let pin = pin(self.host, self.place, &self.chain, self.label, attempt).await?;
        if self.request.resume
            && let Err(error) = self.place.backups.put_run(&self.label, attempt, self.facts.clone()).await
        {
            pin.release(self.host).await;
            return Err(error.into());
        }
        self.sweep().await;
        if self.request.resume {
            self.forget_run(self.attempt).await;
        }
        self.attempt = attempt;
        std::mem::replace(&mut self.pin, pin).release(self.host).await;
        Ok(())
    }

    /// Makes layers of what broken runs have stored.
    async fn adopt(&self) -> Result<Adopted> {
        let Some(broken) = self.broken.clone() else { return Ok(Adopted::default()) };
        let (host, place) = (self.host.clone(), self.place.clone());
        let (pack_size, runtime) = (self.request.pack_size, Handle::current());
        let work = move || resume::adopt(&host, &place, &broken, pack_size, &runtime);
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|_| Error::Internal { what: "taking up a broken run panicked" })?
    }

    /// Whether files may be taken for unchanged by what the file system says of them.
    fn trust(&self) -> bool {
        let Some(prior) = self.chain.first() else { return false };
        if self.request.delta {
            return false;
        }
        match prior::distrust(prior, &self.now, self.host.now_seconds()) {
            Some(reason) => {
                self.host.warn(format!("{reason}: all files are read (option --delta)"));
                false
            }
            None => true,
        }
    }

    /// What files are compared with: the layers that were taken up, and the chain.
    fn parent(&self, adopted: &Adopted, trust: bool) -> Option<Parent> {
        let runtime = Handle::current();
        let mut sources = resume::layer_sources(self.place, self.label, &adopted.layers, &runtime);
        let broken = sources.len();
        for backup in &self.chain {
            let (label, layers) = (backup.summary.label, &backup.body.layers);
            sources.extend(resume::layer_sources(self.place, label, layers, &runtime));
        }
        // However long the chain is, memory is not.
        let read_ahead = load::read_ahead(sources.len());
        let sources: Vec<_> =
            sources.into_iter().map(|(root, nodes)| (root, nodes.with_read_ahead(read_ahead))).collect();
        let copy_start_ns = self.chain.first().map_or(0, |prior| prior.body.copy_start_ns);
        (!sources.is_empty()).then(|| Parent::new(Merge::new(sources), broken, copy_start_ns, trust))
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
        adopted: &Arc<Adopted>,
    ) -> Result<Packed> {
        let stop = self.host.stop.child();
        let host = Host { stop: stop.clone(), ..self.host.clone() };
        let uploads = Uploads::new(self.place.backups.clone(), self.label, self.attempt, Handle::current());
        let keys = self.place.repo.keyring().clone();
        let salts = (LaneSalt::from_bytes(host.random()?), LaneSalt::from_bytes(host.random()?));
        let (attempt, pack_size, adopted) = (self.attempt, self.request.pack_size, Arc::clone(adopted));
        let work = move || -> Result<Packed> {
            let mut scan = Scan::open(scan)?;
            let mut data = DataPacks::new(&keys, attempt, salts.0, pack_size)?;
            let index = IndexPacks::new(uploads, &keys, salts.1, pack_size)?;
            let (copied, mut index) = copy_cluster(&host, &mut scan, options, &mut data, index)?;
            let data = data.finish(&mut index)?;
            let index = index.finish()?;
            let tablespaces = scan.tablespaces().iter().map(|t| (t.oid, t.target.clone())).collect();
            let skipped =
                scan.skipped().iter().map(|s| format!("{} ({})", s.path.display(), s.kind)).collect();
            Ok(Packed { copied, data, index, tablespaces, skipped, adopted })
        };
        let mut copying = tokio::task::spawn_blocking(work);
        let kept = keep_in_touch(running, self.standby.as_ref(), upper, &mut copying).await;
        match kept {
            Ok(packed) => packed,
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

    fn complete(
        &self,
        parts: Parts,
        packed: Packed,
        facts: &pgbr_pg::ClusterFacts,
        control: &pgbr_pg::ControlFile,
        finished: FinishedBackup,
    ) -> Result<Complete> {
        let Packed { copied, data, index, skipped, adopted, .. } = packed;
        let gathered = copied.gathered;
        let written = gathered.written;
        if written.stream != data.stream {
            return Err(Error::Internal {
                what: "index and frame table disagree on the length of the stream",
            });
        }
        let id = BackupId(self.host.random()?);
        let totals = gathered.totals;
        let stored_delta = index.stored + adopted.stored;
        let before = self.chain.first().map_or(0, |prior| prior.summary.sizes.stored);
        let sizes = Sizes {
            database: totals.bytes,
            delta: totals.changed,
            stored: before + stored_delta,
            stored_delta,
        };
        let current = self.place.stanza.current();
        let summary = Summary {
            format: MANIFEST_FORMAT,
            id,
            label: self.label,
            kind: self.kind,
            prior: self.chain.first().map(|prior| prior.summary.label),
            program: self.host.program.clone(),
            database: DatabaseRef { id: current.number, system_id: facts.system_id, version: facts.version },
            time: parts.times.host,
            server_time_us: Span { start: parts.times.server_start, stop: finished.stop_time },
            lsn: parts.lsn,
            wal: parts.wal,
            sizes,
            entries: totals.entries,
            error: totals.bad_pages > 0,
            annotation: self.request.annotation.clone(),
        };
        let layer = Layer {
            attempt: self.attempt,
            data_lanes: vec![data.salt],
            index_lane: index.salt,
            index_packs: index.sizes,
            data_packs: data.packs,
            index: written.index,
            frames: data.frames,
            stream: data.stream,
        };
        let body = Body {
            format: MANIFEST_FORMAT,
            id,
            parent: self.facts.parent.clone(),
            hash_key: self.facts.hash_key.clone(),
            copy_start_ns: parts.copy_start_ns,
            layers: adopted.layers.iter().cloned().chain([layer]).collect(),
            resolved_entries: written.entries,
            resolved_digest: written.digest,
            cluster: manifest_facts(facts, control, finished.timeline),
            tablespaces: parts.tablespaces,
            links: gathered.links,
            databases: parts.databases,
            tablespace_map: (!finished.tablespace_map.is_empty()).then_some(finished.tablespace_map),
            backup_label: Some(finished.label_file),
            config_files: parts.config_files,
            bad_pages: totals.bad_pages,
            options: self.options(),
        };
        let report = BackupReport {
            label: self.label,
            kind: self.kind,
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
            bad_files: copied.bad_files,
            skipped,
            wal: parts.wal,
            requests: BTreeMap::new(),
        };
        Ok(Complete { summary, body, report })
    }

    fn options(&self) -> BTreeMap<String, String> {
        let request = self.request;
        BTreeMap::from([
            ("archive-check".to_owned(), request.archive_check.to_string()),
            ("backup-standby".to_owned(), self.standby.is_some().to_string()),
            (
                "checksum-page".to_owned(),
                request.checksum_page.map_or_else(|| "auto".to_owned(), |c| c.to_string()),
            ),
            ("compress-level".to_owned(), request.compression.level().to_string()),
            ("compress-type".to_owned(), request.compression.codec().to_string()),
            ("online".to_owned(), "true".to_owned()),
        ])
    }

    /// The commit: one create of the manifest, after everything that it names is durable.
    async fn commit(&self, complete: Complete) -> Result<BackupReport> {
        let begun = Instant::now();
        let Complete { summary, body, mut report } = complete;
        let salt = LaneSalt::from_bytes(self.host.random()?);
        let object = seal_manifest(self.place.repo.keyring(), salt, &summary.to_json()?, &body.to_json()?)?;
        self.place.backups.commit_manifest(&self.label, self.attempt, Bytes::from(object)).await?;
        if let Err(lost) = self.check().await {
            // What the manifest names may have been swept while it was put: it must not be believed.
            self.place.backups.withdraw_manifest(&self.label, self.attempt).await?;
            return Err(lost);
        }
        self.host.tell(Event::BackupCommitted { label: self.label });
        self.forget_runs().await;
        self.step("commit", begun);
        report.requests = crate::report::requests(&self.place.repo);
        Ok(report)
    }

    /// What runs at this backup said of themselves is of no more use once it is there.
    async fn forget_runs(&self) {
        if !self.request.resume {
            return;
        }
        let own = [self.attempt];
        let others = self.broken.iter().flat_map(|broken| broken.runs.iter().map(|(attempt, _)| *attempt));
        for attempt in own.into_iter().chain(others) {
            self.forget_run(attempt).await;
        }
    }

    async fn forget_run(&self, attempt: u64) {
        if let Err(error) = self.place.backups.delete_run(&self.label, attempt).await {
            self.host.warn(format!("the record of run {attempt:016x} could not be removed: {error}"));
        }
    }

    /// The run has failed, and nothing was committed: what it stored stays for the next run where that is wanted, and goes otherwise.
    async fn give_up(&self, error: &Error) {
        let packs = self.place.backups.list_packs(&self.label).await.unwrap_or_default();
        let keep = self.request.resume
            && !matches!(error, Error::Internal { .. })
            && packs.iter().any(|pack| !pack.index);
        if keep {
            let bytes: u64 = packs.iter().map(|pack| pack.size).sum();
            let (label, kind) = (self.label, self.kind);
            let text = format!(
                "{bytes} bytes of unfinished backup {label} are kept: the next {kind} backup resumes it"
            );
            self.host.tell(Event::Note { text });
            return;
        }
        self.sweep().await;
        if self.request.resume {
            self.forget_run(self.attempt).await;
        }
        // An empty directory is left where this fails, and means nothing.
        self.place.backups.tidy(&self.label).await.ok();
    }

    /// Takes away what this run has stored. Best effort: what stays is rubbish that nothing names.
    async fn sweep(&self) {
        let Ok(packs) = self.place.backups.list_packs(&self.label).await else { return };
        for pack in packs.iter().filter(|pack| pack.attempt == self.attempt) {
            if let Err(error) = self.place.backups.delete_pack(&self.label, pack).await {
                self.host.warn(format!("a pack of the failed backup could not be removed: {error}"));
                return;
            }
        }
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
    tablespaces: Vec<Tablespace>,
    databases: Vec<Database>,
    config_files: Vec<String>,
    copy_start_ns: i64,
    lsn: Span<pgbr_manifest::Lsn>,
    wal: Span<WalSegmentName>,
    times: Times,
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
    copying: &mut JoinHandle<Result<Packed>>,
) -> Result<Result<Packed>> {
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
