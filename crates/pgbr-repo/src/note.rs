//! Notes: what an operator writes on a backup after it was made. A backup's manifest is never rewritten, so each note is an object beside it.
//!
//! A note holds changes to the annotations of one backup: a key gets a value, or is taken away. Notes are numbered; what a later one says of a
//! key counts. A note is made by one conditional create and never rewritten; it goes with its backup.

use std::collections::BTreeMap;

use futures::stream::{StreamExt, TryStreamExt};
use object_store::path::Path;
use pgbr_manifest::{BackupLabel, StanzaName};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::keys::{Layout, ParsedKey};
use crate::record::{self, MAX_OBJECT, Record};
use crate::repo_file::Repo;
use crate::store::Resolved;

/// How many notes a backup has at most.
const MAX_NOTES: usize = 1000;
/// The most bytes of a note's changes, as JSON.
const MAX_NOTE_BYTES: usize = 8 << 10;
/// How often another number is tried where other processes write notes at the same time.
const TRIES: u64 = 32;
/// How many notes are read at once.
const READS: usize = 16;

/// The changes that a note makes: a value for a key, or `None` where the key is taken away.
pub type NoteChanges = BTreeMap<String, Option<String>>;

/// The notes of a stanza.
#[derive(Debug, Clone)]
pub struct Notes {
    repo: Repo,
    stanza: StanzaName,
}

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

/// The place of a note in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    label: BackupLabel,
    number: u64,
    attempt: Option<u64>,
}

impl Notes {
    /// The notes of `stanza` in `repo`.
    pub fn new(repo: &Repo, stanza: &StanzaName) -> Self {
        Self { repo: repo.clone(), stanza: stanza.clone() }
    }

    /// Writes a note on a backup, after all that there are, and gives its number. `now` is in Unix seconds. Whether the backup exists is for the
    /// caller to see, before and after.
    ///
    /// # Errors
    /// [`Error::Invalid`] for changes that are too large or a backup with too many notes; as the store failed.
    pub async fn add(&self, label: &BackupLabel, changes: &NoteChanges, now: i64) -> Result<u64> {
        check(changes)?;
        let places = self.places(Some(label)).await?;
        if places.len() >= MAX_NOTES {
            let reason = format!("cannot be changed: backup {label} has {} notes already", places.len());
            return Err(Error::Invalid { what: "annotation", reason });
        }
        let first = places.last().map_or(0, |place| place.number).saturating_add(1);
        for number in first..first.saturating_add(TRIES) {
            // Where creates are not honoured, a random name keeps two of the same number apart.
            let attempt = match self.repo.store().create_honoured() {
                true => None,
                false => Some(u64::from_le_bytes(self.repo.random()?)),
            };
            let key = self.key(&Place { label: *label, number, attempt });
            let note = NoteRecord {
                record: NoteRecord::KIND.to_owned(),
                name: key.to_string(),
                created: now,
                annotation: changes.clone(),
            };
            let object = record::seal(&self.repo, &note)?;
            if self.repo.store().create_resolved(&key, object, MAX_OBJECT).await? == Resolved::Ours {
                return Ok(number);
            }
        }
        let reason = format!("of backup {label} is being changed by too many at once");
        Err(Error::Invalid { what: "annotation", reason })
    }

    /// The notes of one backup, or of all: by backup, in their order.
    ///
    /// # Errors
    /// As the store failed. A note that cannot be read is an item of its own.
    pub async fn list(&self, label: Option<&BackupLabel>) -> Result<Vec<Note>> {
        let places = self.places(label).await?;
        let read = places.into_iter().map(|place| async move {
            let key = self.key(&place);
            match record::read::<NoteRecord>(&self.repo, &key).await {
                // It went with its backup a moment ago.
                Err(error) if error.is_not_found() => None,
                read => {
                    let changes = read.map(|note| note.annotation);
                    Some(Note { label: place.label, number: place.number, changes })
                }
            }
        });
        let found: Vec<_> = futures::stream::iter(read).buffered(READS).collect().await;
        Ok(found.into_iter().flatten().collect())
    }

    /// The backups that have notes, sorted; one that died while it removed a backup leaves notes of one that does not exist.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn labels(&self) -> Result<Vec<BackupLabel>> {
        let mut labels: Vec<_> = self.places(None).await?.into_iter().map(|place| place.label).collect();
        labels.dedup();
        Ok(labels)
    }

    /// Takes all notes of a backup away: once its manifest is gone.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn remove_all(&self, label: &BackupLabel) -> Result<()> {
        for place in self.places(Some(label)).await? {
            self.repo.store().delete(&self.key(&place)).await?;
        }
        Ok(())
    }

    fn key(&self, place: &Place) -> Path {
        Layout::new().note(&self.stanza, &place.label, place.number, place.attempt)
    }

    async fn places(&self, label: Option<&BackupLabel>) -> Result<Vec<Place>> {
        let mut listed = self.repo.store().list(&Layout::new().note_dir(&self.stanza));
        let mut places = Vec::new();
        while let Some(object) = listed.try_next().await? {
            match ParsedKey::parse(&object.key) {
                Some(ParsedKey::Note { label: of, number, attempt, .. })
                    if label.is_none_or(|l| *l == of) =>
                {
                    places.push(Place { label: of, number, attempt });
                }
                _ => {}
            }
        }
        places.sort_unstable();
        Ok(places)
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
