//! Notes: what an operator writes on a backup after it was made. A backup's manifest is never rewritten, so each note is an object beside it.
//!
//! A note holds changes to the annotations of one backup: a key gets a value, or is taken away. Notes are numbered; what a later one says of a
//! key counts. A note is made by one conditional create and never rewritten; it goes with its backup.

use std::collections::BTreeMap;

use pgbr_manifest::{BackupLabel, StanzaName};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::numbered::{Numbered, Place, Series};
use crate::record::Record;
use crate::repo_file::Repo;

/// How many notes a backup has at most.
const MAX_NOTES: usize = 1000;
/// The most bytes of a note's changes, as JSON.
const MAX_NOTE_BYTES: usize = 8 << 10;

/// The changes that a note makes: a value for a key, or `None` where the key is taken away.
pub type NoteChanges = BTreeMap<String, Option<String>>;

/// The notes of a stanza.
#[derive(Debug, Clone)]
pub struct Notes(Numbered);

/// A note as it is found.
#[derive(Debug)]
#[non_exhaustive]
pub struct Note {
    /// The backup that it is about.
    pub label: BackupLabel,
    /// Its number.
    pub number: u64,
    /// What it changes, or why it cannot be read: that hides no other note.
    pub changes: Result<NoteChanges>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct NoteRecord {
    record: String,
    name: String,
    /// When it was made, in Unix seconds: for people, not to compute with.
    created: i64,
    annotation: NoteChanges,
}

impl Record for NoteRecord {
    const KIND: &'static str = "note";

    fn identity(&self) -> (&str, &str) {
        (&self.record, &self.name)
    }
}

impl Notes {
    /// The notes of `stanza` in `repo`.
    pub fn new(repo: &Repo, stanza: &StanzaName) -> Self {
        Self(Numbered::new(repo, stanza, Series::Notes))
    }

    /// Writes a note on a backup, after all that there are, and gives its number. `now` is in Unix seconds. Whether the backup exists is for the
    /// caller to see, before and after.
    ///
    /// # Errors
    /// [`Error::Invalid`] for changes that are too large or a backup with too many notes; as the store failed.
    pub async fn add(&self, label: &BackupLabel, changes: &NoteChanges, now: i64) -> Result<u64> {
        check(changes)?;
        let places = self.0.places(Some(label)).await?;
        if places.len() >= MAX_NOTES {
            let reason = format!("cannot be changed: backup {label} has {} notes already", places.len());
            return Err(Error::Invalid { what: "annotation", reason });
        }
        let make = |name| NoteRecord {
            record: NoteRecord::KIND.to_owned(),
            name,
            created: now,
            annotation: changes.clone(),
        };
        self.0.put(label, &places, make).await?.ok_or_else(|| {
            let reason = format!("of backup {label} is being changed by too many at once");
            Error::Invalid { what: "annotation", reason }
        })
    }

    /// The notes of one backup, or of all: by backup, in their order.
    ///
    /// # Errors
    /// As the store failed. A note that cannot be read is an item of its own.
    pub async fn list(&self, label: Option<&BackupLabel>) -> Result<Vec<Note>> {
        let read = self.0.read::<NoteRecord>(self.0.places(label).await?).await;
        let note = |(place, read): (Place, Result<NoteRecord>)| {
            let changes = read.map(|note| note.annotation);
            Note { label: place.label, number: place.number, changes }
        };
        Ok(read.into_iter().map(note).collect())
    }

    /// The backups that have notes, sorted; one that died while it removed a backup leaves notes of one that does not exist.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn labels(&self) -> Result<Vec<BackupLabel>> {
        self.0.labels().await
    }

    /// Takes all notes of a backup away: once its manifest is gone.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn remove_all(&self, label: &BackupLabel) -> Result<()> {
        self.0.remove_all(label).await
    }
}

/// Sees that changes fit into a note and into lines of text.
fn check(changes: &NoteChanges) -> Result<()> {
    let invalid = |reason: String| Err(Error::Invalid { what: "annotation", reason });
    if let Some(key) = changes.keys().find(|key| key.is_empty() || key.contains(char::is_control)) {
        return invalid(format!("key '{}' is empty or has control characters", key.escape_default()));
    }
    match serde_json::to_vec(changes).map_or(usize::MAX, |json| json.len()) {
        size if size > MAX_NOTE_BYTES => {
            invalid(format!("takes {size} bytes at once, at most {MAX_NOTE_BYTES} are allowed"))
        }
        _ => Ok(()),
    }
}
