//! annotate: notes on a backup that exists.

use pgbr_manifest::{BackupLabel, StanzaName};
use pgbr_repo::{NoteChanges, Notes};

use crate::error::{Error, Result};
use crate::host::Host;
use crate::place::{RepoAccess, StanzaPlace};
use crate::theirs::not_theirs;

/// What to write on which backup.
#[derive(Debug, Clone)]
pub struct AnnotateRequest {
    /// The repository.
    pub repo: RepoAccess,
    /// The stanza.
    pub stanza: StanzaName,
    /// The backup.
    pub set: BackupLabel,
    /// A value for a key, or `None` to take the key away.
    pub changes: NoteChanges,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct AnnotateReport {
    /// The number of the note.
    pub number: u64,
}

/// Changes the annotations of a backup. Its manifest stays as it is: the changes are an object of their own.
///
/// # Errors
/// [`Error::UnknownBackup`]; [`Error::TheirBackup`]; when the changes are too large or too many; as the store failed.
pub async fn annotate(host: &Host, request: AnnotateRequest) -> Result<AnnotateReport> {
    let place = request.repo.open_stanza(host, &request.stanza).await?;
    if let Err(error) = exists(&place, request.set).await {
        not_theirs(&request.repo, &request.stanza, request.set).await?;
        return Err(error);
    }
    let notes = Notes::new(&place.repo, place.stanza.name());
    let number = notes.add(&request.set, &request.changes, host.now_seconds()).await?;
    // Who removes a backup removes its manifest and then its notes: in this order none is left over.
    if let Err(error) = exists(&place, request.set).await {
        if matches!(error, Error::UnknownBackup { .. }) {
            notes.remove_all(&request.set).await?;
        }
        return Err(error);
    }
    Ok(AnnotateReport { number })
}

async fn exists(place: &StanzaPlace, label: BackupLabel) -> Result<()> {
    match place.backups.exists(&label).await? {
        true => Ok(()),
        false => Err(Error::UnknownBackup { label }),
    }
}
