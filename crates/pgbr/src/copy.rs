//! Copying a backup to another repository, with what it builds on and the WAL that it needs.
//!
//! A copy has the label, the identity and the hash key of its original, and says the same of the cluster. What depends on the repository is made
//! anew: every frame is sealed again for the target (as it is compressed), packs get another attempt, the index is written again for where
//! things lie now, and a child names the copy of its parent. So diff and incr backups can be made on top of a copy, in its repository.
//!
//! 1. Pin the chain in the source; take the target's lease.
//! 2. For each backup that the target lacks, oldest first: pin it, copy its packs and its WAL, read all of it back and compare every grain with
//!    its hash, see that pins and parent are still there, and only then put the manifest.
//! 3. Copy the WAL since then, where that is wanted.
//!
//! A copy that breaks off leaves packs that nothing names. The next one goes on with the first backup that the target lacks.

mod check;
mod packs;
mod wal;

use std::collections::BTreeMap;

use bytes::Bytes;
use pgbr_codec::{Compression, seal_manifest};
use pgbr_manifest::manifest::{Body, DatabaseRef, Parent, Sizes, Summary};
use pgbr_manifest::{BackupLabel, BackupType, StanzaName, WalSegmentName};
use pgbr_repo::{ClusterId, Error as RepoError, Lease, NewCluster, Notes, Pin, PinKind, Stanza};

use crate::error::{Error, Result};
use crate::held::{Held, pin_in_doubt};
use crate::host::Host;
use crate::load::{self, Backup};
use crate::observe::Event;
use crate::place::{RepoAccess, StanzaPlace};
use crate::restore::check_packs;
use crate::standing::take_back;
use crate::stanza::open_or_create;

/// What to copy.
#[derive(Debug, Clone)]
pub struct CopyRequest {
    /// The repository that has it.
    pub from: RepoAccess,
    /// The repository that is to have it; it and the stanza are made where they are missing.
    pub to: RepoAccess,
    /// The stanza, of the same name in both.
    pub stanza: StanzaName,
    /// The backup; without it the newest.
    pub set: Option<BackupLabel>,
    /// How much WAL.
    pub wal: CopyWal,
    /// Whether all that was copied is read back and compared with its hashes before it counts.
    pub check: bool,
    /// How WAL is compressed; data stays compressed as it is.
    pub compression: Compression,
    /// How many packs and WAL files are under way at once.
    pub threads: usize,
    /// Whether to say what would be copied, and touch nothing.
    pub dry_run: bool,
}

/// How much WAL goes with a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::exhaustive_enums, reason = "the ways in which the command can be called")]
pub enum CopyWal {
    /// What the backup needs to become consistent.
    #[default]
    Needed,
    /// All that the archive has since the backup began, on its timeline and later ones.
    Newest,
}

/// What was copied, or would be.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CopyReport {
    /// The backup that was asked for.
    pub label: BackupLabel,
    /// It and all that it builds on, oldest first.
    pub backups: Vec<CopiedBackup>,
    /// The WAL.
    pub wal: CopiedWal,
    /// Whether the stanza was made in the target.
    pub stanza_made: bool,
    /// Whether nothing was done.
    pub dry_run: bool,
    /// Requests to the source.
    pub requests_from: BTreeMap<&'static str, u64>,
    /// Requests to the target.
    pub requests_to: BTreeMap<&'static str, u64>,
}

/// One backup of the chain.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CopiedBackup {
    /// The backup.
    pub label: BackupLabel,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: BackupType,
    /// Whether it was copied: else the target had it.
    pub copied: bool,
    /// Bytes of its packs.
    pub bytes: u64,
}

/// WAL files.
#[derive(Debug, Clone, Default, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CopiedWal {
    /// Files that were copied.
    pub copied: u64,
    /// Their bytes, before compression.
    pub bytes: u64,
    /// Files that the target had, with the same content.
    pub present: u64,
    /// The newest segment of all these.
    pub last: Option<WalSegmentName>,
}

/// What the target of a copy has to be open for.
const READ_BACK: &str = "read back what is copied";

/// Copies a backup, its chain and its WAL. Repeating it copies what is missing.
///
/// # Errors
/// When the source does not hold what the backup is made of; when the target has another backup of the same label, or is of another
/// cluster; when another process writes to the target's stanza; as a store failed. What is not whole in the target is not listed there.
pub async fn repo_copy(host: &Host, request: CopyRequest) -> Result<CopyReport> {
    let from = request.from.open_to_read(host, &request.stanza, "copy backups from it").await?;
    let (label, needed) = choose(&from, request.set).await?;
    let pin = match Held::pin(host, &from, PinKind::Copy, needed.clone(), None).await {
        Ok(pin) => Some(pin),
        // What is on read-only media can be copied: what another host takes away meanwhile is noticed.
        Err(Error::Repo(RepoError::Permission { .. })) => {
            host.warn(
                "the source cannot be written to: nothing keeps others from removing the backup meanwhile",
            );
            None
        }
        Err(error) => return Err(error),
    };
    let copied = pinned(host, &request, &from, label, &needed).await;
    if let Some(pin) = pin {
        pin.release(host).await;
    }
    copied
}

/// The backup to copy, and what it needs as far as summaries tell.
async fn choose(from: &StanzaPlace, set: Option<BackupLabel>) -> Result<(BackupLabel, Vec<BackupLabel>)> {
    let read = load::summaries(&from.backups).await?;
    let summaries: Vec<Summary> = read.into_iter().filter_map(|(_, summary)| summary.ok()).collect();
    let newest = || summaries.iter().map(|summary| summary.label).max_by_key(|label| (label.time(), *label));
    let none = || pgbr_manifest::Error::Unfit { reason: "there are no backup sets".to_owned() };
    let label = set.or_else(newest).ok_or_else(|| Error::NoBackup { source: none() })?;
    let of = |label| summaries.iter().find(|summary| summary.label == label);
    let Some(first) = of(label) else {
        // It may be there and not be readable: then this says why.
        load::load(&from.backups, label).await.map_err(|error| match error {
            Error::Repo(RepoError::NotFound { .. }) => Error::UnknownBackup { label },
            other => other,
        })?;
        return Err(Error::UnknownBackup { label });
    };
    let chain = std::iter::successors(Some(first), |summary| of(summary.prior?));
    Ok((label, chain.map(|summary| summary.label).collect()))
}

async fn pinned(
    host: &Host,
    request: &CopyRequest,
    from: &StanzaPlace,
    label: BackupLabel,
    needed: &[BackupLabel],
) -> Result<CopyReport> {
    let mut chain = load::chain(from, label, needed).await?;
    chain.reverse();
    if request.dry_run {
        return plan(host, request, from, &chain).await;
    }
    let repo = open_or_create(host, &request.to).await?;
    // What was written is read back before it counts.
    repo.require_reader(READ_BACK)?;
    if repo.id() == from.repo.id() {
        return Err(Error::SameRepository);
    }
    let (stanza, stanza_made) = open_or_make(host, &repo, from).await?;
    let to = StanzaPlace::new(repo, stanza);
    let lease = Held::lease(host, &to).await?;
    let done = async {
        if !stanza_made {
            make_whole(host, &to, &lease).await?;
        }
        Copy { host, request, from, to: &to, lease: &lease }.run(&chain, stanza_made).await
    };
    let done = done.await;
    lease.release(host).await;
    done
}

/// What a copy would do.
async fn plan(
    host: &Host,
    request: &CopyRequest,
    from: &StanzaPlace,
    chain: &[Backup],
) -> Result<CopyReport> {
    let to = match request.to.open_to_read(host, &request.stanza, READ_BACK).await {
        Ok(to) => Some(to),
        Err(Error::Repo(RepoError::NoRepository { .. } | RepoError::StanzaMissing { .. })) => None,
        Err(error) => return Err(error),
    };
    if to.as_ref().is_some_and(|to| to.repo.id() == from.repo.id()) {
        return Err(Error::SameRepository);
    }
    let mut backups = Vec::new();
    let mut wal = CopiedWal::default();
    for backup in chain {
        let there = match &to {
            Some(to) => existing(to, backup).await?,
            None => None,
        };
        backups.push(told(backup, there.is_none(), backup.summary.sizes.stored_delta));
        let files = wal::needed(backup)?;
        wal.last = wal.last.max(files.iter().filter_map(|file| file.segment()).max());
        wal.copied += if there.is_none() { files.len() as u64 } else { 0 };
    }
    if let (CopyWal::Newest, Some(backup)) = (request.wal, chain.last()) {
        let files = wal::since(from, backup).await?;
        wal.last = wal.last.max(files.iter().filter_map(|file| file.segment()).max());
        wal.copied = files.len() as u64;
    }
    Ok(CopyReport {
        label: newest(chain)?.summary.label,
        backups,
        wal,
        stanza_made: to.is_none(),
        dry_run: true,
        requests_from: crate::report::requests(&from.repo),
        requests_to: to.map(|to| crate::report::requests(&to.repo)).unwrap_or_default(),
    })
}

fn told(backup: &Backup, copied: bool, bytes: u64) -> CopiedBackup {
    CopiedBackup { label: backup.summary.label, kind: backup.summary.kind, copied, bytes }
}

/// The last of a chain whose oldest stands first.
fn newest(chain: &[Backup]) -> Result<&Backup> {
    chain.last().ok_or(Error::Internal { what: "a chain without a backup" })
}

/// The copy that the target has of a backup.
async fn existing(to: &StanzaPlace, backup: &Backup) -> Result<Option<Backup>> {
    let label = backup.summary.label;
    if !to.backups.exists(&label).await? {
        return Ok(None);
    }
    let found = load::load(&to.backups, label).await?;
    let same = found.summary.id == backup.summary.id
        && found.body.hash_key == backup.body.hash_key
        && found.body.resolved_digest == backup.body.resolved_digest;
    if same { Ok(Some(found)) } else { Err(RepoError::BackupExists { label: label.to_string() }.into()) }
}

/// The stanza in the target; made with the source's history where it is missing.
async fn open_or_make(host: &Host, repo: &pgbr_repo::Repo, from: &StanzaPlace) -> Result<(Stanza, bool)> {
    match Stanza::open(repo, from.stanza.name()).await {
        Ok(stanza) => {
            stanza.warnings().iter().for_each(|warning| host.warn(warning.as_str()));
            Ok((stanza, false))
        }
        Err(RepoError::StanzaMissing { .. }) => {
            let history: Vec<_> = from.stanza.history().iter().map(cluster).collect();
            let (name, now) = (from.stanza.name(), host.now_seconds());
            let made = Stanza::create_with_history(repo, name, &history, now).await?;
            host.tell(Event::Note { text: format!("made stanza '{name}' in the target") });
            Ok((made, true))
        }
        Err(error) => Err(error.into()),
    }
}

/// Writes a copy of the target's stanza record again that is missing: whoever made the stanza may not have lived to do it.
async fn make_whole(host: &Host, to: &StanzaPlace, lease: &Held<Lease>) -> Result<()> {
    if to.stanza.check_copies().await?.is_empty() {
        return Ok(());
    }
    // As it is now that nobody else changes it.
    if Stanza::open(&to.repo.guarded(lease.guard()), to.stanza.name()).await?.heal().await? {
        let text = "wrote a copy of the stanza's record that was missing or damaged";
        host.tell(Event::Note { text: text.to_owned() });
    }
    Ok(())
}

const fn cluster(entry: &ClusterId) -> NewCluster {
    NewCluster {
        system_id: entry.system_id,
        version: entry.version,
        catalog_version: entry.catalog_version,
        control_version: entry.control_version,
    }
}

/// The target's entry for the cluster of a backup.
fn cluster_in<'a>(to: &'a StanzaPlace, database: &DatabaseRef) -> Result<&'a ClusterId> {
    let is_it =
        |entry: &&ClusterId| (entry.system_id, entry.version) == (database.system_id, database.version);
    let found = to.stanza.history().iter().rev().find(is_it);
    found.ok_or_else(|| Error::OtherCluster {
        stanza: to.stanza.name().to_string(),
        expected: to.stanza.current().system_id,
        expected_version: to.stanza.current().version.to_string(),
        found: database.system_id,
        found_version: database.version.to_string(),
    })
}

/// A copy under way.
struct Copy<'a> {
    host: &'a Host,
    request: &'a CopyRequest,
    from: &'a StanzaPlace,
    to: &'a StanzaPlace,
    lease: &'a Held<Lease>,
}

/// What has been put under a label so far, and the pins that keep it.
#[derive(Default)]
struct Put {
    pins: Vec<Held<Pin>>,
    attempts: Vec<u64>,
    /// Whether the manifest may have been put: from then on nothing is cleaned up.
    committing: bool,
}

impl Copy<'_> {
    async fn run(&self, chain: &[Backup], stanza_made: bool) -> Result<CopyReport> {
        let mut copies: Vec<Backup> = Vec::with_capacity(chain.len());
        let (mut backups, mut wal) = (Vec::new(), CopiedWal::default());
        for backup in chain {
            self.host.stop.check()?;
            let there = existing(self.to, backup).await?;
            let copied = there.is_none();
            let copy = match there {
                Some(there) => self.sound(there, copies.last()).await?,
                None => self.backup(backup, &copies, &mut wal).await?,
            };
            backups.push(told(backup, copied, copy.summary.sizes.stored_delta));
            copies.push(copy);
        }
        let newest = newest(chain)?;
        let files = match self.request.wal {
            CopyWal::Needed => wal::needed(newest)?,
            CopyWal::Newest => wal::since(self.from, newest).await?,
        };
        self.wal(newest, files, &mut wal).await?;
        Ok(CopyReport {
            label: newest.summary.label,
            backups,
            wal,
            stanza_made,
            dry_run: false,
            requests_from: crate::report::requests(&self.from.repo),
            requests_to: crate::report::requests(&self.to.repo),
        })
    }

    /// A copy that the target has, if it can be restored there as far as names and sizes tell: it builds on the copy of its parent that is
    /// there now, and all its packs are there.
    async fn sound(&self, there: Backup, parent: Option<&Backup>) -> Result<Backup> {
        let label = there.summary.label;
        let named = there.body.parent.as_ref().map(|parent| parent.digest);
        if named != parent.map(|parent| parent.digest) {
            let reason = "the target has a copy that builds on another copy of its parent".to_owned();
            return Err(Error::Damaged { label, reason });
        }
        match check_packs(self.host, self.to, &there).await {
            Err(Error::Damaged { label, reason }) => {
                Err(Error::Damaged { label, reason: format!("of the copy that the target has: {reason}") })
            }
            checked => checked.map(|()| there),
        }
    }

    /// Copies one backup. `below` is what it builds on, oldest first, as the target has it.
    async fn backup(&self, backup: &Backup, below: &[Backup], wal: &mut CopiedWal) -> Result<Backup> {
        let label = backup.summary.label;
        self.host.tell(Event::Note { text: format!("copy backup set {label}") });
        let mut put = Put::default();
        let copied = self.put(backup, below, &mut put, wal).await;
        if copied.is_err() && !put.committing {
            self.sweep(label, &put.attempts).await;
        }
        if let (Err(error), Some(attempt)) = (&copied, put.attempts.last())
            && put.committing
            && error.is_undecided()
        {
            let below: Vec<_> = below.iter().map(|parent| parent.summary.label).collect();
            pin_in_doubt(self.host, self.to, &below, (label, *attempt)).await;
        }
        for pin in put.pins {
            pin.release(self.host).await;
        }
        copied
    }

    async fn put(
        &self,
        backup: &Backup,
        below: &[Backup],
        put: &mut Put,
        wal: &mut CopiedWal,
    ) -> Result<Backup> {
        let label = backup.summary.label;
        let database = DatabaseRef {
            id: cluster_in(self.to, &backup.summary.database)?.number,
            ..backup.summary.database
        };
        let parents: Vec<BackupLabel> = below.iter().map(|parent| parent.summary.label).collect();
        let (mut layers, mut stored_delta) = (Vec::new(), 0);
        for layer in &backup.body.layers {
            let attempt = u64::from_le_bytes(self.host.random()?);
            let own = Some((label, attempt));
            put.pins.push(Held::pin(self.host, self.to, PinKind::Copy, parents.clone(), own).await?);
            put.attempts.push(attempt);
            let (layer, stored) = packs::copy_layer(self, label, layer, attempt).await?;
            layers.push(layer);
            stored_delta += stored;
        }
        let parent = below.last();
        let before = parent.map_or(0, |parent| parent.summary.sizes.stored);
        let sizes = Sizes { stored: before + stored_delta, stored_delta, ..backup.summary.sizes };
        let summary = Summary { database, sizes, ..backup.summary.clone() };
        let named = |parent: &Backup| Parent {
            label: parent.summary.label,
            id: parent.summary.id,
            digest: parent.digest,
        };
        let body = Body { parent: parent.map(named), layers, ..backup.body.clone() };
        if self.request.check {
            check::check_layers(self, label, &body).await?;
        }
        self.wal(backup, wal::needed(backup)?, wal).await?;
        self.still_there(parent, &put.pins).await?;
        put.committing = true;
        self.commit(&summary, &body, parent, put).await?;
        self.notes(label).await?;
        load::load(&self.to.backups, label).await
    }

    /// Makes the copy exist, after everything that it names is durable.
    async fn commit(&self, summary: &Summary, body: &Body, parent: Option<&Backup>, put: &Put) -> Result<()> {
        let label = summary.label;
        let attempt = put.attempts.last().copied().unwrap_or_default();
        let (keys, seed) = (self.to.repo.keyring(), self.host.lane_seed()?);
        let object = seal_manifest(keys, seed, &summary.to_json()?, &body.to_json()?)?;
        self.to.backups.commit_manifest(&label, attempt, Bytes::from(object)).await?;
        if let Err(lost) = self.still_there(parent, &put.pins).await {
            // What the manifest names may have been swept while it was put: it must not be believed.
            take_back(self.host, self.to, (label, attempt), lost).await?;
        }
        self.host.tell(Event::BackupCommitted { label });
        Ok(())
    }

    /// Sees that nobody has taken away what the copy relies on.
    async fn still_there(&self, parent: Option<&Backup>, pins: &[Held<Pin>]) -> Result<()> {
        self.lease.check().await?;
        for pin in pins {
            pin.check().await?;
        }
        match parent.map(|parent| parent.summary.label) {
            Some(label) if !self.to.backups.exists(&label).await? => {
                let reason = "it was removed while a backup was copied on top of it".to_owned();
                Err(Error::Damaged { label, reason })
            }
            _ => Ok(()),
        }
    }

    /// Brings along the annotations that were changed after the backup was made.
    async fn notes(&self, label: BackupLabel) -> Result<()> {
        let notes = Notes::new(&self.from.repo, self.from.stanza.name()).list(Some(&label)).await?;
        let target = Notes::new(&self.to.repo, self.to.stanza.name());
        for note in notes {
            match note.changes {
                Ok(changes) => drop(target.add(&label, &changes, self.host.now_seconds()).await?),
                Err(error) => {
                    self.host.warn(format!("an annotation of backup {label} is not copied: {error}"));
                }
            }
        }
        Ok(())
    }

    /// Takes away what a failed copy has stored. Best effort: what stays is rubbish that nothing names.
    async fn sweep(&self, label: BackupLabel, attempts: &[u64]) {
        let Ok(packs) = self.to.backups.list_packs(&label).await else { return };
        for pack in packs.iter().filter(|pack| attempts.contains(&pack.attempt)) {
            if let Err(error) = self.to.backups.delete_pack(&label, pack).await {
                self.host.warn(format!("a pack of the failed copy could not be removed: {error}"));
                return;
            }
        }
        // An empty directory is left where this fails, and means nothing.
        self.to.backups.tidy(&label).await.ok();
    }
}
