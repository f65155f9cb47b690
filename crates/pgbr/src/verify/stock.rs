//! What lies in a stanza, by listing it: backups, archives, and what nothing knows.

use std::collections::{BTreeMap, BTreeSet};
use std::time::UNIX_EPOCH;

use futures::TryStreamExt;
use object_store::path::Path;
use pgbr_manifest::BackupLabel;
use pgbr_repo::{LabelObjects, Layout, LedgerOf, Listed, PackObject, ParsedKey, PinState, Pins};

use super::books::Books;
use super::report::Unneeded;
use crate::error::Result;
use crate::host::Host;
use crate::place::StanzaPlace;

/// The most objects that are named of those that nothing knows.
const MAX_NAMED: usize = 1000;
/// How old a staging file must be, in seconds, to be nobody's: one that is being put changes or goes away within seconds.
const STAGING_AGE: u64 = 86_400;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Stock {
    /// What lies under each label.
    pub(super) labels: BTreeMap<BackupLabel, LabelObjects>,
    /// What there are ledgers of.
    pub(super) ledgers: Vec<LedgerOf>,
    /// Objects whose names mean nothing.
    pub(super) strange: Strange,
}

/// Objects whose names mean nothing: the first ones, and how many there are.
#[derive(Debug, Default)]
pub(super) struct Strange {
    named: Vec<Listed>,
    more: (u64, u64),
}

impl Strange {
    pub(super) fn add(&mut self, object: Listed) {
        if self.named.len() < MAX_NAMED {
            self.named.push(object);
        } else {
            self.more = (self.more.0 + 1, self.more.1 + object.size);
        }
    }
}

impl Stock {
    /// Lists all but the archives, which are listed when they are read.
    pub(super) async fn take(place: &StanzaPlace) -> Result<Self> {
        let (keys, name, store) = (Layout::new(), place.stanza.name(), place.repo.store());
        let mut stock = Self::default();
        let level = store.level(&keys.stanza_dir(name)).await?;
        level.objects.into_iter().for_each(|object| stock.sort(object));
        let archives = keys.archives_dir(name);
        for directory in level.directories {
            let directory = keys.stanza_dir(name).join(directory);
            if directory != archives {
                let mut listed = store.list(&directory);
                while let Some(object) = listed.try_next().await? {
                    stock.sort(object);
                }
            }
        }
        stock.labels.values_mut().for_each(|objects| objects.packs.sort_unstable());
        Ok(stock)
    }

    fn sort(&mut self, object: Listed) {
        match ParsedKey::parse(&object.key) {
            Some(ParsedKey::Pack { label, attempt, number, index, .. }) => {
                let mut pack = PackObject::default();
                (pack.attempt, pack.number, pack.index, pack.size) = (attempt, number, index, object.size);
                self.labels.entry(label).or_default().packs.push(pack);
            }
            Some(ParsedKey::Run { label, attempt, .. }) => {
                self.labels.entry(label).or_default().runs.push(attempt);
            }
            Some(ParsedKey::Manifest { label, .. }) => self.labels.entry(label).or_default().manifest = true,
            Some(ParsedKey::Ledger { of, .. }) => self.ledgers.push(of),
            Some(_) => {}
            None => self.strange.add(object),
        }
    }

    /// The backups that have a manifest.
    pub(super) fn backups(&self) -> Vec<BackupLabel> {
        let mut labels: Vec<_> =
            self.labels.iter().filter(|(_, objects)| objects.manifest).map(|(label, _)| *label).collect();
        labels.sort_unstable_by_key(|label| (label.time(), *label));
        labels
    }

    /// Labels without a manifest that a run which may be alive works under.
    pub(super) fn in_progress(&self, pins: &[PinState]) -> BTreeSet<BackupLabel> {
        let pinned = |objects: &LabelObjects| {
            let attempts = objects.packs.iter().map(|pack| pack.attempt).chain(objects.runs.iter().copied());
            attempts.into_iter().any(|attempt| pins.iter().any(|pin| pin.covers_attempt(attempt)))
        };
        let unfinished = self.labels.iter().filter(|(_, objects)| !objects.manifest);
        unfinished.filter(|(_, objects)| pinned(objects)).map(|(label, _)| *label).collect()
    }
}

/// What nothing needs. The pins were read after the listing: who wrote meanwhile has a pin still, or a manifest by now.
pub(super) async fn unneeded(
    host: &Host,
    place: &StanzaPlace,
    stock: Stock,
    books: &Books,
    pins: &[PinState],
) -> Result<Vec<Unneeded>> {
    let mut found = Vec::new();
    let live: Vec<&PinState> = pins.iter().filter(|pin| !is_dead(host, pin)).collect();
    for (label, objects) in &stock.labels {
        found.extend(packs_of(place, *label, objects, books, &live).await?);
    }
    let dead = pins.len() - live.len();
    if dead > 0 {
        let object = Layout::new().pin_dir(place.stanza.name()).to_string();
        let what = "pins of processes that have ended";
        found.push(Unneeded { what, object, count: dead as u64, bytes: 0, advice: EXPIRE });
    }
    found.extend(leftovers(host, place).await?);
    let unknown = |object: String, count, bytes| Unneeded {
        what: "unknown object",
        object,
        count,
        bytes,
        advice: UNKNOWN,
    };
    let Strange { named, more } = stock.strange;
    found.extend(named.into_iter().map(|object| unknown(object.key.to_string(), 1, object.size)));
    if more.0 > 0 {
        found.push(unknown("and more".to_owned(), more.0, more.1));
    }
    Ok(found)
}

const EXPIRE: &str = "the next expire removes them";
const UNKNOWN: &str = "no command of this program has made or needs it: remove it if you know what it is";

/// Packs and records of runs under a label that nothing names and nobody may be writing.
async fn packs_of(
    place: &StanzaPlace,
    label: BackupLabel,
    objects: &LabelObjects,
    books: &Books,
    pins: &[&PinState],
) -> Result<Vec<Unneeded>> {
    let named: BTreeSet<u64> = match books.loaded.get(&label) {
        Some(backup) => backup.body.layers.iter().map(|layer| layer.attempt).collect(),
        // Nobody knows what a manifest names that was not read.
        None if objects.manifest => return Ok(Vec::new()),
        None => BTreeSet::new(),
    };
    let mut runs: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for pack in &objects.packs {
        let (count, bytes) = runs.entry(pack.attempt).or_default();
        (*count, *bytes) = (*count + 1, *bytes + pack.size);
    }
    objects.runs.iter().for_each(|run| runs.entry(*run).or_default().0 += 1);
    runs.retain(|run, _| !named.contains(run) && !pins.iter().any(|pin| pin.covers_attempt(*run)));
    if runs.is_empty() || (!objects.manifest && place.backups.exists(&label).await?) {
        // Its backup was committed while this looked.
        return Ok(Vec::new());
    }
    let directory = Layout::new().label_dir(place.stanza.name(), &label);
    let of_run = |(run, (count, bytes)): (u64, (u64, u64))| Unneeded {
        what: "what a run has left that did not finish its backup",
        object: format!("{directory}/…{run:016x}…"),
        count,
        bytes,
        advice: "the next backup may resume it; else the next expire removes it",
    };
    Ok(runs.into_iter().map(of_run).collect())
}

fn is_dead(host: &Host, pin: &PinState) -> bool {
    pin.record.as_ref().is_some_and(|record| host.owner.knows_dead(&record.holder))
}

/// Staging files of a local store that are old enough to be nobody's.
async fn leftovers(host: &Host, place: &StanzaPlace) -> Result<Option<Unneeded>> {
    let mut left = place.backups.leftovers().await?;
    left.extend(place.wal.leftovers().await?);
    let limit = u64::try_from(host.now_seconds()).unwrap_or(0).saturating_sub(STAGING_AGE);
    left.retain(|file| file.modified.duration_since(UNIX_EPOCH).is_ok_and(|since| since.as_secs() < limit));
    let Some(first) = left.first() else { return Ok(None) };
    Ok(Some(Unneeded {
        what: "files that interrupted writes have left",
        object: first.path.display().to_string(),
        count: left.len() as u64,
        bytes: left.iter().map(|file| file.size).sum(),
        advice: EXPIRE,
    }))
}

/// The pins there are.
pub(super) async fn pins(place: &StanzaPlace) -> Result<Vec<PinState>> {
    Ok(Pins::new(&place.repo, place.stanza.name()).list().await?)
}

/// The key of the manifest of a backup, for people.
pub(super) fn manifest_name(place: &StanzaPlace, label: &BackupLabel) -> String {
    Layout::new().manifest(place.stanza.name(), label).to_string()
}

/// The key of a pack.
pub(super) fn pack_name(place: &StanzaPlace, label: &BackupLabel, pack: (u64, bool, u32)) -> String {
    let (attempt, index, number) = pack;
    let key: Path = Layout::new().pack(place.stanza.name(), label, attempt, number, index);
    key.to_string()
}
