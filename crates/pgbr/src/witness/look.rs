//! What is in a repository now, and how a record meets it.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;
use pgbr_manifest::{BackupLabel, Digest, StanzaName};
use pgbr_repo::Repo;

use super::{BackupMark, Deviation, Record, RepoJson, Seen, SlotId, WitnessFile};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::keys::KeyReport;
use crate::load::{Backup, load};
use crate::place::{RepoAccess, StanzaPlace};

/// How many manifests are read at once.
const MANIFESTS: usize = 16;

/// A record that a verify compares with.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "filled in by the caller; a new field has to be decided on")]
pub struct VerifyWitness {
    /// The record.
    pub file: WitnessFile,
    /// Whether it is an error where there is none.
    pub required: bool,
    /// Whether what is there now is right, whatever the record says: it is made anew.
    pub accept: bool,
}

/// Brings the record of a stanza up to what is there now, after a command that has succeeded; it is made where there is none. Gives what it
/// contradicts, in words: that stays in it.
///
/// # Errors
/// When the stanza cannot be opened; when the record cannot be read or written.
pub async fn witness_keep(
    host: &Host,
    repo: &RepoAccess,
    stanza: &StanzaName,
    file: &WitnessFile,
) -> Result<Vec<String>> {
    let _locked = file.lock(host).await?;
    let record = file.read()?;
    let place = repo.open_stanza(host, stanza).await?;
    let (now, writer) = (host.now_seconds(), host.owner.as_str());
    let seen = look(&place, record.as_ref(), &BTreeMap::new(), now).await?;
    let Some(mut record) = record else {
        file.write(&Record::new(stanza, &seen, now, writer))?;
        return Ok(Vec::new());
    };
    let found = record.take(&seen, now, writer);
    file.write(&record)?;
    let found = found.into_iter().filter(|deviation| deviation.is_error());
    Ok(found.map(|deviation| deviation.tell(&place, &host.zone).to_string()).collect())
}

/// Brings records up to a change of what opens their repository; those of other repositories are left alone.
///
/// # Errors
/// When a record cannot be read or written; the others are tried all the same.
pub async fn witness_keep_keys(host: &Host, report: &KeyReport, files: &[WitnessFile]) -> Result<()> {
    let mut done = Ok(());
    for file in files {
        let kept = keep_keys(host, report, file).await;
        done = done.and(kept);
    }
    done
}

async fn keep_keys(host: &Host, report: &KeyReport, file: &WitnessFile) -> Result<()> {
    let _locked = file.lock(host).await?;
    let Some(mut record) = file.read()? else { return Ok(()) };
    if record.repository_id == report.repository {
        record.take_keys(&report.repo_json, host.now_seconds());
        file.write(&record)?;
    }
    Ok(())
}

/// Takes the record of a stanza away, once the stanza is.
///
/// # Errors
/// When it cannot be removed.
pub async fn witness_forget(host: &Host, file: &WitnessFile) -> Result<()> {
    let _locked = file.lock(host).await?;
    file.remove()
}

/// Strikes out backups that are about to be taken away, so that the record does not miss them whatever comes between.
pub(crate) async fn leave(host: &Host, file: &WitnessFile, labels: &[BackupLabel]) -> Result<()> {
    let _locked = file.lock(host).await?;
    let Some(mut record) = file.read()? else { return Ok(()) };
    if record.leave(labels) { file.write(&record) } else { Ok(()) }
}

/// What came out of a comparison.
#[derive(Debug)]
pub(crate) struct Compared {
    /// When the record was written; none where there is none.
    pub(crate) written: Option<i64>,
    pub(crate) found: Vec<Deviation>,
}

/// Compares a stanza with its record. `opened` are the backups whose manifests were read already.
pub(crate) async fn compare(
    host: &Host,
    access: &RepoAccess,
    place: &StanzaPlace,
    asked: &VerifyWitness,
    opened: &BTreeMap<BackupLabel, Arc<Backup>>,
) -> Result<Compared> {
    let file = &asked.file;
    let _locked = if asked.accept { Some(file.lock(host).await?) } else { None };
    let now = host.now_seconds();
    let marks = opened.iter().map(|(label, backup)| (*label, mark(backup, now))).collect();
    let Some(record) = file.read()? else {
        if asked.required && !asked.accept {
            let reason = std::io::ErrorKind::NotFound.into();
            return Err(Error::Io { doing: "open", path: file.path().to_owned(), source: reason });
        }
        if asked.accept {
            let seen = look(place, None, &marks, now).await?;
            file.write(&Record::new(place.stanza.name(), &seen, now, host.owner.as_str()))?;
        }
        return Ok(Compared { written: None, found: Vec::new() });
    };
    if record.stanza != *place.stanza.name() {
        let reason = format!("it is about stanza '{}'", record.stanza);
        return Err(Error::BadWitness { path: file.path().to_owned(), reason });
    }
    let mut seen = look(place, Some(&record), &marks, now).await?;
    let mut found = record.compare(&seen);
    if found.iter().any(|deviation| deviation.is_error()) {
        // Others may be at work: what opens the repository may have been replaced since this began, and what expires is struck out of the
        // record first. What is in both looks is there to stay.
        seen.repo_json = RepoJson::of(&access.open(host).await?);
        let again = file.read()?.map_or_else(Vec::new, |record| record.compare(&seen));
        found.retain(|deviation| again.contains(deviation));
    }
    if asked.accept {
        let seen = look(place, None, &marks, now).await?;
        file.write(&Record::new(place.stanza.name(), &seen, now, host.owner.as_str()))?;
    }
    Ok(Compared { written: Some(record.written), found })
}

/// What is there, listed after the record was read. Manifests are read where neither the record nor `marks` know them.
async fn look(
    place: &StanzaPlace,
    record: Option<&Record>,
    marks: &BTreeMap<BackupLabel, BackupMark>,
    now: i64,
) -> Result<Seen> {
    let mut backups = BTreeMap::new();
    let mut unknown = Vec::new();
    for label in place.backups.list_backups().await? {
        let mark = marks.get(&label).copied();
        if mark.is_none() && !record.is_some_and(|record| record.backups.contains_key(&label)) {
            unknown.push(label);
        }
        backups.insert(label, mark);
    }
    let read = unknown.into_iter().map(|label| async move { (label, load(&place.backups, label).await) });
    let mut read = futures::stream::iter(read).buffered(MANIFESTS);
    while let Some((label, loaded)) = read.next().await {
        match loaded {
            Ok(backup) => drop(backups.insert(label, Some(mark(&backup, now)))),
            Err(Error::Repo(error)) if error.is_not_found() => drop(backups.remove(&label)),
            // It is there, and nobody knows what it is: verify tells.
            Err(error) if crate::load::is_unreadable(&error) => {}
            Err(error) => return Err(error),
        }
    }
    let archive = place.stanza.archive_id();
    let wal = BTreeMap::from([(archive, place.wal.newest(archive).await?)]);
    let repo_json = RepoJson::of(&place.repo);
    Ok(Seen { repository_id: place.repo.id(), repo_json, backups, wal })
}

fn mark(backup: &Backup, now: i64) -> BackupMark {
    BackupMark { id: backup.summary.id, digest: backup.digest, since: now }
}

impl RepoJson {
    /// What an open repository says of itself.
    pub(crate) fn of(repo: &Repo) -> Self {
        Self {
            digest: Digest(*blake3::hash(repo.text()).as_bytes()),
            key_id: repo.keyring().key_id(),
            retired: repo.retired_key_ids(),
            slots: repo.slots().into_iter().map(SlotId).collect(),
        }
    }
}
