//! info: which stanzas and backups there are, which WAL, and to which moments one can go back with it.

mod combine;
mod recovery;
mod window;

use std::collections::BTreeSet;
use std::sync::Arc;

use pgbr_codec::Cipher;
use pgbr_manifest::manifest::{Body, Summary};
use pgbr_manifest::merge::Item;
use pgbr_manifest::{BackupLabel, StanzaName};
use pgbr_repo::{ClusterId, DrillFacts, Drills, Error as RepoError, HoldState, Holds, Note, Notes, Repo};
use tokio::runtime::Handle;

use crate::error::{Error, Result};
use crate::host::Host;
use crate::load::{self, load, summaries};
use crate::place::{RepoAccess, StanzaPlace};
use crate::theirs::{TheirStanza, Theirs};

use self::recovery::recovery_windows;

pub use self::combine::{AskedSet, RepoAnswer, RepoView, StanzaState, StanzaView, combine_info};
pub use self::recovery::{ArchiveInfo, GapReason, RecoveryGap, RecoveryWindow, RecoveryWindows};

/// The most damaged files of a backup that are named.
const MAX_NAMED: usize = 1000;

/// What to tell about.
#[derive(Debug, Clone)]
pub struct InfoRequest {
    /// The repository.
    pub repo: RepoAccess,
    /// Only this stanza.
    pub stanza: Option<StanzaName>,
    /// This backup in full.
    pub set: Option<BackupLabel>,
    /// Whether to look to which moments one can go back: that lists all WAL from the oldest backup on, a thousand segments by a request.
    pub recovery_windows: bool,
}

/// What a repository holds.
#[derive(Debug)]
pub struct InfoReport {
    /// How it is sealed; none where only pgBackRest has something in it.
    pub cipher: Option<Cipher>,
    /// Its stanzas, by name.
    pub stanzas: Vec<StanzaInfo>,
}

/// What a stanza holds.
#[derive(Debug)]
pub struct StanzaInfo {
    /// Its name.
    pub name: StanzaName,
    /// Its clusters, oldest first; empty where it does not exist.
    pub clusters: Vec<ClusterId>,
    /// The archives that have any WAL, and that of the current cluster.
    pub archives: Vec<ArchiveInfo>,
    /// Its backups, oldest first, with their annotations as notes have changed them.
    pub backups: Vec<Summary>,
    /// Backups that cannot be read, and why.
    pub unreadable: Vec<(BackupLabel, Error)>,
    /// Notes on backups that cannot be read, and why: an annotation may be missing or an old one.
    pub unreadable_notes: Vec<(BackupLabel, Error)>,
    /// The holds of its backups.
    pub holds: Vec<HoldState>,
    /// How the newest drill of each of its backups ended, where there was one; of all, whichever backup was asked for.
    pub drills: Vec<(BackupLabel, DrillFacts)>,
    /// The backup asked for, in full.
    pub set: Option<(Summary, Body)>,
    /// Files of that backup with pages that have a wrong checksum, by path; the first thousand.
    pub set_errors: Vec<String>,
    /// Why the stanza cannot be read.
    pub error: Option<Error>,
    /// What pgBackRest has of it in the same place, or why that is not known.
    pub theirs: Option<Result<TheirStanza>>,
}

/// Reads the heads of all backups: 4 KiB each.
///
/// # Errors
/// When the repository cannot be opened. What is wrong with one stanza or one backup is told in its place.
pub async fn info(host: &Host, request: InfoRequest) -> Result<InfoReport> {
    if request.repo.place.is_not_there() {
        return Err(RepoError::NoRepository { place: request.repo.place.to_string() }.into());
    }
    let theirs = Theirs::look(&request.repo).await;
    let repo = match request.repo.open(host).await {
        Ok(repo) => Some(repo),
        // Only pgBackRest has something there.
        Err(Error::Repo(RepoError::NoRepository { .. })) if matches!(theirs, Ok(Some(_))) => None,
        Err(error) => return Err(error),
    };
    let theirs = theirs?.map(Theirs::or_plain);
    let names = names(&request, repo.as_ref(), theirs.as_ref()).await?;
    let mut stanzas = Vec::with_capacity(names.len());
    for name in names {
        let mut found = StanzaInfo::missing(name.clone());
        if repo.is_some() {
            match stanza_info(host, &request, &mut found).await {
                Ok(()) | Err(Error::Repo(RepoError::StanzaMissing { .. })) => {}
                Err(error) => found.error = Some(error),
            }
        }
        if let Some(theirs) = &theirs {
            found.theirs = their_info(host, &request, theirs, &name).await.transpose();
        }
        stanzas.push(found);
    }
    Ok(InfoReport { cipher: repo.map(|repo| repo.cipher()), stanzas })
}

/// What pgBackRest has of a stanza, with the backup that was asked for in full.
async fn their_info(
    host: &Host,
    request: &InfoRequest,
    theirs: &Theirs,
    name: &StanzaName,
) -> Result<Option<TheirStanza>> {
    let Some(mut stanza) = theirs.stanza(host, name).await? else { return Ok(None) };
    if let Some(label) = request.set.filter(|set| stanza.backups.iter().any(|backup| backup.label == *set)) {
        stanza.set = Some(theirs.set(name, label).await.map_err(Arc::new));
    }
    Ok(Some(stanza))
}

/// The stanza that was asked for, or all that there are, by name.
async fn names(
    request: &InfoRequest,
    repo: Option<&Repo>,
    theirs: Option<&Theirs>,
) -> Result<BTreeSet<StanzaName>> {
    if let Some(name) = request.stanza.clone() {
        return Ok(BTreeSet::from([name]));
    }
    let mut names = BTreeSet::new();
    if let Some(repo) = repo {
        names.extend(repo.stanzas().await?);
    }
    if let Some(theirs) = theirs {
        names.extend(theirs.stanzas().await?);
    }
    Ok(names)
}

impl StanzaInfo {
    /// The drill that ended last, whatever came of it, and its backup.
    pub fn last_drill(&self) -> Option<(BackupLabel, &DrillFacts)> {
        self.drills.iter().map(|(label, facts)| (*label, facts)).max_by_key(|(_, facts)| facts.stop)
    }

    /// A stanza that is not there.
    pub const fn missing(name: StanzaName) -> Self {
        Self {
            name,
            clusters: Vec::new(),
            archives: Vec::new(),
            backups: Vec::new(),
            unreadable: Vec::new(),
            unreadable_notes: Vec::new(),
            holds: Vec::new(),
            drills: Vec::new(),
            set: None,
            set_errors: Vec::new(),
            error: None,
            theirs: None,
        }
    }
}

async fn stanza_info(host: &Host, request: &InfoRequest, found: &mut StanzaInfo) -> Result<()> {
    let place = request.repo.open_stanza(host, &found.name).await?;
    found.clusters = place.stanza.history().to_vec();
    for cluster in place.stanza.history() {
        let id = cluster.archive_id();
        let bounds = place.wal.bounds(id).await?;
        if bounds.is_some() || cluster.number == place.stanza.current().number {
            found.archives.push(ArchiveInfo { id, bounds, recovery: None });
        }
    }
    for (label, summary) in summaries(&place.backups).await? {
        match summary {
            Ok(summary) => found.backups.push(summary),
            Err(error) => found.unreadable.push((label, error)),
        }
    }
    // Labels only ever grow; clocks may step back.
    found.backups.sort_by_key(|backup| (backup.label.time(), backup.label));
    if request.recovery_windows {
        // After the backups, so that the WAL of each of them is there already.
        for archive in &mut found.archives {
            archive.recovery = Some(recovery_windows(host, &place, archive.id, &found.backups).await?);
        }
    }
    let notes = Notes::new(&place.repo, &found.name).list(request.set.as_ref()).await?;
    found.unreadable_notes = overlay(&mut found.backups, notes);
    found.holds = Holds::new(&place.repo, &found.name).list().await?;
    for drill in Drills::new(&place.repo, &found.name).newest(None).await? {
        match drill.facts {
            Ok(facts) => found.drills.push((drill.label, facts)),
            Err(error) => {
                host.warn(format!(
                    "what became of the last drill of backup {} cannot be read: {error}",
                    drill.label
                ));
            }
        }
    }
    if let Some(label) = request.set
        && let Some(shown) = found.backups.iter().find(|backup| backup.label == label)
    {
        let backup = load(&place.backups, label).await?;
        found.set = Some((shown.clone(), backup.body));
        if shown.error {
            let of = |label| found.backups.iter().find(|backup| backup.label == label);
            let expected = load::expected(label, |label| of(label)?.prior);
            match damaged_files(host, &place, label, &expected).await {
                Ok(files) => found.set_errors = files,
                Err(error) => {
                    host.warn(format!("the damaged files of backup {label} cannot be listed: {error}"));
                }
            }
        }
    }
    Ok(())
}

/// Files of a backup that had pages with a wrong checksum, from its resolved index.
async fn damaged_files(
    host: &Host,
    place: &StanzaPlace,
    label: BackupLabel,
    expected: &[BackupLabel],
) -> Result<Vec<String>> {
    let layers = load::layers(&load::chain(place, label, expected).await?);
    let (host, place, runtime) = (host.clone(), place.clone(), Handle::current());
    let walk = move || {
        let mut merge = load::merged(&place, &layers, &runtime);
        let (mut path, mut files) = (None, Vec::new());
        while let Some(item) = merge.next_item()? {
            host.stop.check()?;
            match item {
                Item::File(file) => path = Some(file.path),
                Item::End(end) if end.bad_pages.total > 0 => files.extend(path.take().map(|p| p.to_string())),
                _ => {}
            }
            if files.len() >= MAX_NAMED {
                break;
            }
        }
        Ok(files)
    };
    tokio::task::spawn_blocking(walk)
        .await
        .map_err(|_| Error::Internal { what: "reading an index panicked" })?
}

/// Changes the annotations of backups as their notes say, which are in order. Gives the notes that cannot be read.
fn overlay(backups: &mut [Summary], notes: Vec<Note>) -> Vec<(BackupLabel, Error)> {
    let mut unreadable = Vec::new();
    for note in notes {
        let Some(backup) = backups.iter_mut().find(|backup| backup.label == note.label) else { continue };
        match note.changes {
            Ok(changes) => {
                for (key, value) in changes {
                    match value {
                        Some(value) => drop(backup.annotation.insert(key, value)),
                        None => drop(backup.annotation.remove(&key)),
                    }
                }
            }
            Err(error) => unreadable.push((note.label, error.into())),
        }
    }
    unreadable
}
