//! Records beside a backup that are numbered: each is made by one conditional create after all that there are, is never rewritten, and goes with
//! its backup. Notes and drills are such.

use futures::stream::{StreamExt, TryStreamExt};
use object_store::path::Path;
use pgbr_manifest::{BackupLabel, StanzaName};

use crate::error::Result;
use crate::keys::{Layout, ParsedKey};
use crate::record::{self, MAX_OBJECT, Record};
use crate::repo_file::Repo;
use crate::store::Resolved;

/// How often another number is tried where other processes write at the same time.
const TRIES: u64 = 32;
/// How many records are read at once.
const READS: usize = 16;

/// What the records are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Series {
    Notes,
    Drills,
}

/// The records of one series in a stanza.
#[derive(Debug, Clone)]
pub(crate) struct Numbered {
    repo: Repo,
    stanza: StanzaName,
    series: Series,
}

/// The place of a record in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) label: BackupLabel,
    pub(crate) number: u64,
    attempt: Option<u64>,
}

impl Numbered {
    pub(crate) fn new(repo: &Repo, stanza: &StanzaName, series: Series) -> Self {
        Self { repo: repo.clone(), stanza: stanza.clone(), series }
    }

    /// Puts the record that `make` gives for a key behind those in `places`, all that the backup has. Gives its number; none where too many others
    /// do so at once.
    pub(crate) async fn put<R: Record>(
        &self,
        label: &BackupLabel,
        places: &[Place],
        make: impl Fn(String) -> R,
    ) -> Result<Option<u64>> {
        let first = places.last().map_or(0, |place| place.number).saturating_add(1);
        for number in first..first.saturating_add(TRIES) {
            // Where creates are not honoured, a random name keeps two of the same number apart.
            let attempt = match self.repo.store().create_honoured() {
                true => None,
                false => Some(u64::from_le_bytes(self.repo.random()?)),
            };
            let key = self.key(&Place { label: *label, number, attempt });
            let object = record::seal(&self.repo, &make(key.to_string()))?;
            if self.repo.store().create_resolved(&key, object, MAX_OBJECT).await? == Resolved::Ours {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }

    /// Reads records, in this order. One that cannot be read is an item of its own; one that went with its backup a moment ago is none.
    pub(crate) async fn read<R: Record>(&self, places: Vec<Place>) -> Vec<(Place, Result<R>)> {
        let read = places.into_iter().map(|place| async move {
            match record::read::<R>(&self.repo, &self.key(&place)).await {
                Err(error) if error.is_not_found() => None,
                read => Some((place, read)),
            }
        });
        let found: Vec<_> = futures::stream::iter(read).buffered(READS).collect().await;
        found.into_iter().flatten().collect()
    }

    /// The places of all records of one backup, or of all: by backup, in their order.
    pub(crate) async fn places(&self, label: Option<&BackupLabel>) -> Result<Vec<Place>> {
        let keys = Layout::new();
        let directory = match self.series {
            Series::Notes => keys.note_dir(&self.stanza),
            Series::Drills => keys.drill_dir(&self.stanza),
        };
        let mut listed = self.repo.store().list(&directory);
        let mut places = Vec::new();
        while let Some(object) = listed.try_next().await? {
            let place = self.place(&object.key);
            places.extend(place.filter(|place| label.is_none_or(|label| *label == place.label)));
        }
        places.sort_unstable();
        Ok(places)
    }

    /// The backups that have records, sorted.
    pub(crate) async fn labels(&self) -> Result<Vec<BackupLabel>> {
        let mut labels: Vec<_> = self.places(None).await?.into_iter().map(|place| place.label).collect();
        labels.dedup();
        Ok(labels)
    }

    /// Takes a record away.
    pub(crate) async fn remove(&self, place: &Place) -> Result<()> {
        self.repo.store().delete(&self.key(place)).await
    }

    /// Takes all records of a backup away.
    pub(crate) async fn remove_all(&self, label: &BackupLabel) -> Result<()> {
        for place in self.places(Some(label)).await? {
            self.remove(&place).await?;
        }
        Ok(())
    }

    fn key(&self, place: &Place) -> Path {
        let Place { label, number, attempt } = place;
        match self.series {
            Series::Notes => Layout::new().note(&self.stanza, label, *number, *attempt),
            Series::Drills => Layout::new().drill(&self.stanza, label, *number, *attempt),
        }
    }

    fn place(&self, key: &Path) -> Option<Place> {
        match (self.series, ParsedKey::parse(key)?) {
            (Series::Notes, ParsedKey::Note { label, number, attempt, .. })
            | (Series::Drills, ParsedKey::Drill { label, number, attempt, .. }) => {
                Some(Place { label, number, attempt })
            }
            _ => None,
        }
    }
}
