//! The objects of backups: packs that are put once, and manifests that make backups exist.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use futures::stream::{StreamExt, TryStreamExt};
use object_store::path::Path;
use pgbr_codec::{KeyId, MANIFEST_MAX, ObjectHeader, SUMMARY_END, open_manifest, open_summary};
use pgbr_manifest::{BackupLabel, StanzaName};

use crate::error::{Error, Result};
use crate::keys::{Layout, ParsedKey};
use crate::repo_file::Repo;
use crate::store::{Leftover, Resolved, Store, Undeleted};

/// How many listings of backups are under way at once.
const LISTINGS: usize = 16;
/// How long to wait before a manifest is put again that may be there.
const AGAIN: std::time::Duration = std::time::Duration::from_secs(2);
/// The largest pack, in bytes: far above what is written, and a bound for what is read back.
const MAX_PACK: u64 = 1 << 30;

/// The backups of a stanza, as objects.
#[derive(Debug, Clone)]
pub struct BackupStore {
    repo: Repo,
    stanza: StanzaName,
}

/// A pack in a listing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct PackObject {
    /// The run that wrote it.
    pub attempt: u64,
    /// Whether it is an index pack.
    pub index: bool,
    /// Its number, counted apart for data and index.
    pub number: u32,
    /// Its size in bytes.
    pub size: u64,
}

/// A manifest that was taken away, and can be put back as it was.
#[derive(Debug, Clone)]
pub struct RemovedManifest {
    label: BackupLabel,
    /// Keys and objects; one, unless two runs have put theirs side by side.
    objects: Vec<(Path, Bytes)>,
}

/// What lies under the label of a backup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LabelObjects {
    /// Packs of all runs, those of each run in a row, data first.
    pub packs: Vec<PackObject>,
    /// Runs that said what they are about.
    pub runs: Vec<u64>,
    /// Whether there is a manifest.
    pub manifest: bool,
}

impl LabelObjects {
    /// Whether they are what a single run has left that came to its end: its manifest names all of its packs, for it always names some.
    pub fn is_of_one_run(&self) -> bool {
        let attempts = self.packs.iter().map(|pack| pack.attempt);
        self.manifest
            && self.runs.is_empty()
            && attempts.clone().all(|attempt| Some(attempt) == attempts.clone().next())
    }
}

impl RemovedManifest {
    /// The backup.
    pub const fn label(&self) -> BackupLabel {
        self.label
    }
}

impl BackupStore {
    /// The backups of `stanza` in `repo`.
    pub fn new(repo: &Repo, stanza: &StanzaName) -> Self {
        Self { repo: repo.clone(), stanza: stanza.clone() }
    }

    /// The stanza.
    pub const fn stanza(&self) -> &StanzaName {
        &self.stanza
    }

    /// Puts a pack. A repetition of one's own request is success.
    ///
    /// # Errors
    /// As the store failed; [`Error::Corrupt`] where another pack has this name, which a random attempt rules out.
    pub async fn put_pack(
        &self,
        label: &BackupLabel,
        attempt: u64,
        number: u32,
        index: bool,
        pack: Bytes,
    ) -> Result<()> {
        let key = Layout::new().pack(&self.stanza, label, attempt, number, index);
        match self.store().create_resolved(&key, pack, MAX_PACK).await? {
            Resolved::Ours => Ok(()),
            Resolved::Others(_) => Err(Error::corrupt(&key, "another pack has its name")),
        }
    }

    /// A part of a pack.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Corrupt`] where the pack is shorter, and as the store failed.
    pub async fn get_pack_range(
        &self,
        label: &BackupLabel,
        attempt: u64,
        number: u32,
        index: bool,
        range: Range<u64>,
    ) -> Result<Bytes> {
        let key = Layout::new().pack(&self.stanza, label, attempt, number, index);
        self.store().get_range(&key, range).await
    }

    /// A whole pack, whatever size it is said to have: what `verify` reads.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Corrupt`] where it is larger than any pack, and as the store failed.
    pub async fn get_pack(
        &self,
        label: &BackupLabel,
        attempt: u64,
        number: u32,
        index: bool,
    ) -> Result<Bytes> {
        let key = Layout::new().pack(&self.stanza, label, attempt, number, index);
        self.store().get(&key, MAX_PACK).await
    }

    /// The packs of all attempts at a backup, whether or not it has a manifest: those of each attempt in a row, data first.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn list_packs(&self, label: &BackupLabel) -> Result<Vec<PackObject>> {
        let mut packs = Vec::new();
        let mut listed = self.store().list(&Layout::new().pack_dir(&self.stanza, label));
        while let Some(object) = listed.try_next().await? {
            if let Some(ParsedKey::Pack { attempt, number, index, .. }) = ParsedKey::parse(&object.key) {
                packs.push(PackObject { attempt, index, number, size: object.size });
            }
        }
        packs.sort_unstable();
        Ok(packs)
    }

    /// All that lies under any label, by one listing.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn survey(&self) -> Result<BTreeMap<BackupLabel, LabelObjects>> {
        let mut found: BTreeMap<BackupLabel, LabelObjects> = BTreeMap::new();
        let mut listed = self.store().list(&Layout::new().backup_dir(&self.stanza));
        while let Some(object) = listed.try_next().await? {
            match ParsedKey::parse(&object.key) {
                Some(ParsedKey::Pack { label, attempt, number, index, .. }) => {
                    let pack = PackObject { attempt, index, number, size: object.size };
                    found.entry(label).or_default().packs.push(pack);
                }
                Some(ParsedKey::Run { label, attempt, .. }) => {
                    found.entry(label).or_default().runs.push(attempt);
                }
                Some(ParsedKey::Manifest { label, .. }) => found.entry(label).or_default().manifest = true,
                _ => {}
            }
        }
        for objects in found.values_mut() {
            objects.packs.sort_unstable();
            objects.runs.sort_unstable();
        }
        Ok(found)
    }

    /// Takes a pack away. Only for packs that no manifest names and no live pin covers.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn delete_pack(&self, label: &BackupLabel, pack: &PackObject) -> Result<()> {
        let key = Layout::new().pack(&self.stanza, label, pack.attempt, pack.number, pack.index);
        self.store().delete(&key).await
    }

    /// Takes away many packs of a label, with few requests where the store can. Returns those that it will not let go of.
    ///
    /// # Errors
    /// As [`Store::delete_all`](crate::Store::delete_all).
    pub async fn delete_packs(&self, label: &BackupLabel, packs: &[PackObject]) -> Result<Vec<Undeleted>> {
        let key = |pack: &PackObject| {
            Layout::new().pack(&self.stanza, label, pack.attempt, pack.number, pack.index)
        };
        self.store().delete_all(packs.iter().map(key).collect()).await
    }

    /// Removes the empty directories that a backup without objects has left in a local store.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn tidy(&self, label: &BackupLabel) -> Result<()> {
        self.store().remove_empty_directories(&Layout::new().label_dir(&self.stanza, label)).await
    }

    /// Makes a backup exist: puts its manifest by one atomic create, and knows what became of it.
    ///
    /// `attempt` is the run's own, as in the names of its packs; `object` is the sealed manifest.
    ///
    /// # Errors
    /// [`Error::BackupExists`] where another run's manifest has the label; [`Error::Undecided`] where nobody can tell whether it was
    /// stored: then nothing of this run may be cleaned up; else as the store failed, and it is not stored.
    pub async fn commit_manifest(&self, label: &BackupLabel, attempt: u64, object: Bytes) -> Result<()> {
        let exists = || Error::BackupExists { label: label.to_string() };
        if object.len() > MANIFEST_MAX {
            let reason = format!("of {} bytes is larger than {MANIFEST_MAX}", object.len());
            return Err(Error::Invalid { what: "manifest", reason });
        }
        let honoured = self.store().create_honoured();
        let key = self.manifest_key(label, attempt);
        if !honoured && !self.manifests(label).await?.iter().all(|found| *found == key) {
            return Err(exists());
        }
        match self.create_decided(&key, object).await? {
            Resolved::Others(_) => return Err(exists()),
            Resolved::Ours if honoured => return Ok(()),
            Resolved::Ours => {}
        }
        // Two runs may have put theirs side by side: who sees another's takes its own back. Both may; none is lost that was reported.
        let undecided = |error| Error::Undecided { object: key.to_string(), source: Box::new(error) };
        if self.manifests(label).await.map_err(undecided)?.iter().all(|found| *found == key) {
            return Ok(());
        }
        self.store().delete_durable(&key).await.map_err(undecided)?;
        Err(exists())
    }

    /// Creates a manifest. Where it cannot be told whether it was stored, the same bytes are put once more after a while: then they are there,
    /// whichever of the two requests brought them.
    async fn create_decided(&self, key: &Path, object: Bytes) -> Result<Resolved> {
        match self.store().create_resolved(key, object.clone(), MANIFEST_MAX as u64).await {
            Err(Error::Undecided { .. }) => {
                tokio::time::sleep(AGAIN).await;
                let again = self.store().create_resolved(key, object, MANIFEST_MAX as u64).await;
                // Whatever failed now, the first request is still in doubt.
                again.map_err(|error| match error {
                    Error::Undecided { .. } => error,
                    other => Error::Undecided { object: key.to_string(), source: Box::new(other) },
                })
            }
            decided => decided,
        }
    }

    /// Takes a backup's manifest away for good: the backup does not exist any more when this returns.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn delete_manifest(&self, label: &BackupLabel) -> Result<()> {
        for key in self.manifests(label).await? {
            self.store().delete_durable(&key).await?;
        }
        Ok(())
    }

    /// As [`BackupStore::delete_manifest`], and keeps what was there in memory, for the case that a backup which builds on this one was
    /// committed meanwhile. What cannot be read is not kept.
    ///
    /// # Errors
    /// As the store failed: the backup then exists, or does not.
    pub async fn remove_manifest(&self, label: &BackupLabel) -> Result<RemovedManifest> {
        let mut objects = Vec::new();
        for key in self.manifests(label).await? {
            match self.store().get(&key, MANIFEST_MAX as u64).await {
                Ok(object) => objects.push((key.clone(), object)),
                Err(error) if error.is_unverified() || error.is_not_found() => {}
                Err(error) => return Err(error),
            }
            self.store().delete_durable(&key).await?;
        }
        Ok(RemovedManifest { label: *label, objects })
    }

    /// Puts a removed manifest back, durably; no pack of its backup may have been touched since.
    ///
    /// # Errors
    /// [`Error::NotFound`] where nothing was kept; [`Error::BackupExists`] where another run's stands there now; as the store failed.
    pub async fn put_back(&self, removed: &RemovedManifest) -> Result<()> {
        if removed.objects.is_empty() {
            return Err(Error::not_found(&Layout::new().manifest(&self.stanza, &removed.label)));
        }
        for (key, object) in &removed.objects {
            match self.store().create_resolved(key, object.clone(), MANIFEST_MAX as u64).await? {
                Resolved::Ours => {}
                Resolved::Others(_) => {
                    return Err(Error::BackupExists { label: removed.label.to_string() });
                }
            }
        }
        Ok(())
    }

    /// Files that interrupted puts have left below the backups, in a local store.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn leftovers(&self) -> Result<Vec<Leftover>> {
        self.store().leftovers(&Layout::new().backup_dir(&self.stanza)).await
    }

    /// Takes this run's own manifest back: its pin or its parent was gone after it was put.
    ///
    /// # Errors
    /// As the store failed: then it is to be tried again.
    pub async fn withdraw_manifest(&self, label: &BackupLabel, attempt: u64) -> Result<()> {
        self.store().delete_durable(&self.manifest_key(label, attempt)).await
    }

    /// The backups that exist, sorted.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn list_backups(&self) -> Result<Vec<BackupLabel>> {
        let listed = self.list_labels().await?.into_iter().map(|label| async move {
            let manifests = self.manifests(&label).await?;
            Ok::<_, Error>((!manifests.is_empty()).then_some(label))
        });
        let found: Vec<Option<BackupLabel>> =
            futures::stream::iter(listed).buffered(LISTINGS).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// All labels that have any object, sorted: backups that exist, are being made, or were left unfinished.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn list_labels(&self) -> Result<Vec<BackupLabel>> {
        let level = self.store().level(&Layout::new().backup_dir(&self.stanza)).await?;
        let mut labels: Vec<BackupLabel> =
            level.directories.iter().filter_map(|name| name.parse().ok()).collect();
        labels.sort_unstable();
        Ok(labels)
    }

    /// Whether a backup exists.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn exists(&self, label: &BackupLabel) -> Result<bool> {
        match self.store().create_honoured() {
            true => self.store().exists(&Layout::new().manifest(&self.stanza, label)).await,
            false => Ok(!self.manifests(label).await?.is_empty()),
        }
    }

    /// The JSON of a manifest's summary, by one small read.
    ///
    /// # Errors
    /// [`Error::NotFound`] where the backup does not exist; [`Error::Corrupt`] and its like; as the store failed.
    pub async fn read_summary(&self, label: &BackupLabel) -> Result<Vec<u8>> {
        let key = self.find_manifest(label).await?;
        let begin = self.store().get_range(&key, 0..SUMMARY_END as u64).await?;
        open_summary(self.repo.keyring(), &begin).map_err(|e| Error::from_codec(&key, e))
    }

    /// A manifest: the JSON of its summary, padded as it was sealed, and of its body.
    ///
    /// # Errors
    /// As [`BackupStore::read_summary`].
    pub async fn read_manifest(&self, label: &BackupLabel) -> Result<(Vec<u8>, Vec<u8>)> {
        let (_, summary, body) = self.read_sealed_manifest(label).await?;
        Ok((summary, body))
    }

    /// The same with the key that it is sealed under, and with it all that it names.
    ///
    /// # Errors
    /// As [`BackupStore::read_summary`].
    pub async fn read_sealed_manifest(&self, label: &BackupLabel) -> Result<(KeyId, Vec<u8>, Vec<u8>)> {
        let key = self.find_manifest(label).await?;
        let object = self.store().get(&key, MANIFEST_MAX as u64).await?;
        let failed = |e| Error::from_codec(&key, e);
        let header = ObjectHeader::parse(&object).map_err(failed)?;
        let (summary, body) = open_manifest(self.repo.keyring(), &object).map_err(failed)?;
        Ok((header.key_id, summary, body))
    }

    pub(crate) const fn repo(&self) -> &Repo {
        &self.repo
    }

    fn store(&self) -> &Store {
        self.repo.store()
    }

    fn manifest_key(&self, label: &BackupLabel, attempt: u64) -> Path {
        let keys = Layout::new();
        match self.store().create_honoured() {
            true => keys.manifest(&self.stanza, label),
            false => keys.manifest_variant(&self.stanza, label, attempt),
        }
    }

    /// The key of the one manifest of a backup.
    async fn find_manifest(&self, label: &BackupLabel) -> Result<Path> {
        let plain = Layout::new().manifest(&self.stanza, label);
        if self.store().create_honoured() {
            return Ok(plain);
        }
        let mut found = self.manifests(label).await?;
        match (found.pop(), found.is_empty()) {
            (None, _) => Err(Error::not_found(&plain)),
            (Some(key), true) => Ok(key),
            (Some(key), false) => Err(Error::corrupt(&key, "the backup has two manifests")),
        }
    }

    /// The keys of all manifests of a backup.
    async fn manifests(&self, label: &BackupLabel) -> Result<Vec<Path>> {
        let level = self.store().level(&Layout::new().label_dir(&self.stanza, label)).await?;
        let is_manifest = |key: &Path| matches!(ParsedKey::parse(key), Some(ParsedKey::Manifest { .. }));
        Ok(level.objects.into_iter().map(|object| object.key).filter(is_manifest).collect())
    }
}
