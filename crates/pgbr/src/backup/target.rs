//! One repository of a backup: what the backup there builds on and is called, who may touch it, and how it is committed or given up.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use pgbr_codec::{Compressor, seal_manifest};
use pgbr_manifest::merge::Merge;
use pgbr_manifest::{BackupLabel, BackupType, HashKey, LabelTime, SystemId, WalSegmentName, WalSegmentSize};
use pgbr_repo::{Lease, Pin, PinKind, RunFacts};
use tokio::runtime::Handle;

use super::copy::{Branch, Copied, Parent, discard};
use super::resume::{self, Adopted, Broken};
use super::wal;
use super::{BackupReport, BackupRequest, Complete, ManifestFacts, label, prior};
use crate::error::{Error, Result};
use crate::held::{Held, pin_in_doubt};
use crate::host::Host;
use crate::load::{self, Backup, FirstNodes, LayerNodes};
use crate::observe::Event;
use crate::packs::{DataPacks, IndexPacks, Uploads, plan_uploads};
use crate::place::StanzaPlace;
use crate::standing::take_back;
use crate::writer::Writer;

/// The most raw bytes of a frame in a full backup.
const FULL_FRAME: usize = 1 << 20;
/// The same in a diff or incr, whose frames hold pages of many files.
const INCR_FRAME: usize = 256 << 10;

/// A repository to which nobody else writes now, and what a backup in it builds on.
pub(super) struct Base {
    /// The number of the repository in the options.
    number: u16,
    host: Host,
    place: StanzaPlace,
    pack_size: usize,
    lease: Held<Lease>,
    grounds: Grounds,
}

/// What is to be backed up.
pub(super) struct Ground<'a> {
    pub(super) request: &'a BackupRequest,
    pub(super) system_id: SystemId,
    /// The cluster as it is now.
    pub(super) now: &'a ManifestFacts,
}

/// What a backup builds on.
struct Grounds {
    kind: BackupType,
    /// Newest first; empty for a full.
    chain: Vec<Backup>,
    facts: RunFacts,
    broken: Option<Broken>,
    /// The newest label there is.
    newest: Option<BackupLabel>,
}

impl Base {
    /// Takes the lease of an open repository, whose stanza is the cluster's, and looks what there is.
    pub(super) async fn lay(
        number: u16,
        host: Host,
        place: StanzaPlace,
        pack_size: usize,
        ground: &Ground<'_>,
    ) -> Result<Self> {
        let lease = Held::lease(&host, &place).await?;
        match Grounds::find(&host, &place.guarded(&lease), ground).await {
            Ok(grounds) => Ok(Self { number, host, place, pack_size, lease, grounds }),
            Err(error) => {
                lease.release(&host).await;
                Err(error)
            }
        }
    }

    pub(super) const fn number(&self) -> u16 {
        self.number
    }

    pub(super) const fn host(&self) -> &Host {
        &self.host
    }

    /// The newest label there is; none where it does not matter, as an earlier run has chosen the name of the backup.
    pub(super) fn newest(&self) -> Option<BackupLabel> {
        self.grounds.newest
    }

    /// Gives the backup a name, and pins what it reads and writes.
    pub(super) async fn name(self, time: LabelTime, resume: bool) -> Result<Target> {
        let Self { number, host, place, pack_size, lease, grounds } = self;
        let Grounds { kind, chain, facts, broken, .. } = grounds;
        let full = chain.first().map(|prior| prior.summary.label.full());
        let label = broken.as_ref().map_or_else(|| label::at(time, kind, full), |broken| broken.label);
        let pinned = async {
            let attempt = u64::from_le_bytes(host.random()?);
            Ok((attempt, pin(&host, &place, &chain, label, attempt).await?))
        };
        let (attempt, pin) = match pinned.await {
            Ok(pinned) => pinned,
            Err(error) => {
                lease.release(&host).await;
                return Err(error);
            }
        };
        let (adopted, copied, complete) = (Arc::default(), None, None);
        Ok(Target {
            number,
            host,
            place,
            pack_size,
            resume,
            label,
            kind,
            attempt,
            lease,
            pin,
            chain,
            broken,
            facts,
            adopted,
            copied,
            complete,
        })
    }
}

impl Grounds {
    async fn find(host: &Host, place: &StanzaPlace, ground: &Ground<'_>) -> Result<Self> {
        let Ground { request, system_id, now } = *ground;
        let pg_data = &request.cluster.pg_data;
        let chain = prior::choose(host, place, pg_data, request.kind, now).await?.unwrap_or_default();
        let kind = if chain.is_empty() { BackupType::Full } else { request.kind };
        let mut facts = run_facts(host, &chain, now, system_id)?;
        // Nobody else makes one while the lease is held.
        let newest = place.backups.list_labels().await?.into_iter().max_by_key(|label| label.time());
        let broken = match request.resume {
            true => resume::find(host, place, kind, newest, &facts).await?,
            false => None,
        };
        if let Some(broken) = &broken {
            facts.hash_key = broken.facts.hash_key.clone();
        }
        // A label that was chosen before says nothing about the next one.
        let newest = newest.filter(|_| broken.is_none());
        Ok(Self { kind, chain, facts, broken, newest })
    }
}

/// What a run on top of `chain` says of itself.
fn run_facts(host: &Host, chain: &[Backup], now: &ManifestFacts, system_id: SystemId) -> Result<RunFacts> {
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

/// Pins what a run reads and what it is about to write.
pub(super) async fn pin(
    host: &Host,
    place: &StanzaPlace,
    chain: &[Backup],
    label: BackupLabel,
    attempt: u64,
) -> Result<Held<Pin>> {
    let pinned = chain.iter().map(|backup| backup.summary.label).collect();
    Held::pin(host, place, PinKind::Backup, pinned, Some((label, attempt))).await
}

/// A repository in which a backup is being made.
pub(super) struct Target {
    /// The number of the repository in the options.
    pub(super) number: u16,
    /// Listens to what concerns this repository alone.
    pub(super) host: Host,
    pub(super) place: StanzaPlace,
    pub(super) pack_size: usize,
    /// Whether what is stored is left to a next run where this one fails.
    pub(super) resume: bool,
    pub(super) label: BackupLabel,
    pub(super) kind: BackupType,
    /// The number in the names of all that this pass stores.
    pub(super) attempt: u64,
    pub(super) lease: Held<Lease>,
    /// Names the chain and the attempt.
    pub(super) pin: Held<Pin>,
    /// What it builds on, newest first; empty for a full.
    pub(super) chain: Vec<Backup>,
    /// What it takes up.
    pub(super) broken: Option<Broken>,
    pub(super) facts: RunFacts,
    /// What was made of that.
    pub(super) adopted: Arc<Adopted>,
    /// What is on its way to the repository when all is copied.
    pub(super) copied: Option<Box<Branch>>,
    /// And when all is known.
    pub(super) complete: Option<Complete>,
}

impl Target {
    /// Says what this run is about, so that another can take up what it leaves.
    pub(super) async fn announce(&self) -> Result<()> {
        if let Some(broken) = &self.broken {
            let packs: Vec<_> = broken.runs.iter().flat_map(|(_, packs)| packs).collect();
            let bytes: u64 = packs.iter().map(|pack| pack.size).sum();
            let (label, runs, packs) = (self.label, broken.runs.len(), packs.len());
            let text = format!(
                "resume backup {label}: {bytes} bytes in {packs} pack(s) were stored by {runs} broken run(s)"
            );
            self.host.tell(Event::Note { text });
        }
        match self.resume {
            true => Ok(self.place.backups.put_run(&self.label, self.attempt, self.facts.clone()).await?),
            false => Ok(()),
        }
    }

    /// Sees that nobody took the stanza over, and that everything that this backup relies on is there.
    pub(super) async fn ready(&self) -> Result<()> {
        self.lease.check().await?;
        self.check().await
    }

    /// Sees that everything that this backup relies on is there: its pin, its parent, the packs that it took up.
    pub(super) async fn check(&self) -> Result<()> {
        self.pin.check().await?;
        if let Some(parent) = self.chain.first().map(|prior| prior.summary.label)
            && !self.place.backups.exists(&parent).await?
        {
            let reason = "it was removed while a backup was made on top of it".to_owned();
            return Err(Error::Damaged { label: parent, reason });
        }
        match &self.broken {
            Some(broken) => resume::check(&self.place, broken).await,
            None => Ok(()),
        }
    }

    /// Gives the next pass names of its own: what the last one has sent and nobody has seen arrive may come late, and must not take the
    /// place of anything then. Under the old names it is rubbish that no manifest names.
    pub(super) async fn begin_anew(&mut self) -> Result<()> {
        let attempt = u64::from_le_bytes(self.host.random()?);
        let pin = pin(&self.host, &self.place, &self.chain, self.label, attempt).await?;
        if self.resume
            && let Err(error) = self.place.backups.put_run(&self.label, attempt, self.facts.clone()).await
        {
            pin.release(&self.host).await;
            return Err(error.into());
        }
        self.sweep().await;
        if self.resume {
            self.forget_run(self.attempt).await;
        }
        self.attempt = attempt;
        std::mem::replace(&mut self.pin, pin).release(&self.host).await;
        Ok(())
    }

    /// Makes layers of what broken runs have stored.
    pub(super) async fn adopt(&mut self) -> Result<()> {
        let Some(broken) = self.broken.clone() else { return Ok(()) };
        let (host, place) = (self.host.clone(), self.place.guarded(&self.lease));
        let (pack_size, runtime) = (self.pack_size, Handle::current());
        let work = move || resume::adopt(&host, &place, &broken, pack_size, &runtime);
        let adopted = tokio::task::spawn_blocking(work)
            .await
            .map_err(|_| Error::Internal { what: "taking up a broken run panicked" })?;
        self.adopted = Arc::new(adopted?);
        Ok(())
    }

    /// Whether files may be taken for unchanged by what the file system says of them.
    pub(super) fn trust(&self, request: &BackupRequest, now: &ManifestFacts) -> bool {
        let Some(prior) = self.chain.first() else { return false };
        if request.delta {
            return false;
        }
        match prior::distrust(prior, now, self.host.now_seconds()) {
            Some(reason) => {
                self.host.warn(format!("{reason}: all files are read (option --delta)"));
                false
            }
            None => true,
        }
    }

    /// Where a pass puts what it stores. With `trust` files are taken for unchanged by what the file system says.
    pub(super) fn branch(&self, threads: usize, trust: bool) -> Result<Branch> {
        let keys = self.place.repo.keyring();
        let (backups, runtime) = (self.place.backups.clone(), Handle::current());
        let at_once = plan_uploads(self.place.repo.store().is_local(), threads, self.pack_size);
        let uploads = Uploads::new(backups, self.label, self.attempt, at_once, runtime);
        let data = DataPacks::new(keys, self.attempt, self.host.lane_seed()?, self.pack_size)?;
        let index = IndexPacks::new(uploads, keys, self.host.lane_seed()?, self.pack_size)?;
        let frame = if self.kind == BackupType::Full { FULL_FRAME } else { INCR_FRAME };
        let (host, key) = (self.host.clone(), self.facts.hash_key.clone());
        Ok(Branch::new(host, key, frame, self.parent(trust), data, index))
    }

    /// What files are compared with: the layers that were taken up, and the chain.
    fn parent(&self, trust: bool) -> Option<Parent> {
        let runtime = Handle::current();
        let mut sources = resume::layer_sources(&self.place, self.label, &self.adopted.layers, &runtime);
        let broken = sources.len();
        for backup in &self.chain {
            let (label, layers) = (backup.summary.label, &backup.body.layers);
            sources.extend(resume::layer_sources(&self.place, label, layers, &runtime));
        }
        // However long the chain is, memory is not.
        let read_ahead = load::read_ahead(sources.len());
        let gate = FirstNodes::new();
        let warmed =
            |(root, nodes): (_, LayerNodes)| (root, nodes.with_read_ahead(read_ahead).warmed(root, &gate));
        let sources: Vec<_> = sources.into_iter().map(warmed).collect();
        let copy_start_ns = self.chain.first().map_or(0, |prior| prior.body.copy_start_ns);
        (!sources.is_empty()).then(|| Parent::new(Merge::new(sources), broken, copy_start_ns, trust))
    }

    /// Adds the WAL that the backup is to bring, and waits until all is durable.
    pub(super) async fn close(
        &mut self,
        segments: &[WalSegmentName],
        size: WalSegmentSize,
        request: &BackupRequest,
    ) -> Result<Copied> {
        let branch = self.copied.take().ok_or(Error::Internal { what: "a backup without a copy" })?;
        let compressor = Compressor::new(request.compression)?;
        let added = wal::add(&self.host, &self.place, (branch, compressor), segments, size).await;
        let (branch, mut compressor) = added?;
        let close = move || branch.finish(&mut compressor);
        tokio::task::spawn_blocking(close)
            .await
            .map_err(|_| Error::Internal { what: "closing a backup panicked" })?
    }

    /// The commit: one create of the manifest, after everything that it names is durable.
    pub(super) async fn commit(&mut self) -> Result<BackupReport> {
        let begun = Instant::now();
        let complete = self.complete.take().ok_or(Error::Internal { what: "a commit of nothing" })?;
        let Complete { summary, body, mut report } = complete;
        let (keys, seed) = (self.place.repo.keyring(), self.host.lane_seed()?);
        let object = seal_manifest(keys, seed, &summary.to_json()?, &body.to_json()?)?;
        self.place.backups.commit_manifest(&self.label, self.attempt, Bytes::from(object)).await?;
        if let Err(lost) = self.check().await {
            // What the manifest names may have been swept while it was put: it must not be believed.
            take_back(&self.host, &self.place, (self.label, self.attempt), lost).await?;
        }
        self.host.tell(Event::BackupCommitted { label: self.label });
        self.forget_runs().await;
        self.host.tell(Event::Step { name: "commit", took: begun.elapsed() });
        report.requests = crate::report::requests(&self.place.repo);
        Ok(report)
    }

    /// What runs at this backup said of themselves is of no more use once it is there.
    async fn forget_runs(&self) {
        if !self.resume {
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
    pub(super) async fn give_up(&mut self, error: &Error) {
        self.discard().await;
        let packs = self.place.backups.list_packs(&self.label).await.unwrap_or_default();
        let keep =
            self.resume && !matches!(error, Error::Internal { .. }) && packs.iter().any(|pack| !pack.index);
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
        if self.resume {
            self.forget_run(self.attempt).await;
        }
        // An empty directory is left where this fails, and means nothing.
        self.place.backups.tidy(&self.label).await.ok();
    }

    /// Waits for what a copy that was not closed has under way: what comes to the store late would be missed by the sweep.
    async fn discard(&mut self) {
        if let Some(branch) = self.copied.take() {
            discard(branch).await;
        }
    }

    /// Takes away what this run has stored. Best effort: what stays is rubbish that nothing names.
    async fn sweep(&self) {
        let Ok(packs) = self.place.backups.list_packs(&self.label).await else { return };
        let ours: Vec<_> = packs.into_iter().filter(|pack| pack.attempt == self.attempt).collect();
        let left = self.place.backups.delete_packs(&self.label, &ours).await;
        let error = match &left {
            Ok(left) => left.first().map(|first| &first.error),
            Err(error) => Some(error),
        };
        if let Some(error) = error {
            self.host.warn(format!("a pack of the failed backup could not be removed: {error}"));
        }
    }

    /// Keeps what was stored from being taken away where nobody knows what became of the commit.
    pub(super) async fn keep_in_doubt(&self, error: &Error) {
        if error.is_undecided() {
            let below: Vec<_> = self.chain.iter().map(|backup| backup.summary.label).collect();
            pin_in_doubt(&self.host, &self.place, &below, (self.label, self.attempt)).await;
        }
    }

    /// Gives the pin back, and the lease to whoever works on.
    pub(super) async fn into_writer(self) -> Writer {
        self.pin.release(&self.host).await;
        Writer { place: self.place, lease: self.lease }
    }

    /// Gives pin and lease back.
    pub(super) async fn release(mut self) {
        self.discard().await;
        self.pin.release(&self.host).await;
        self.lease.release(&self.host).await;
    }
}
