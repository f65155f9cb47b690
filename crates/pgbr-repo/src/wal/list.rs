//! What is in the archive: first and last segment, which of a range are there, histories, and what can be taken away.

use std::collections::{BTreeMap, BTreeSet};

use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use object_store::path::Path;
use pgbr_manifest::{ArchiveId, TimelineId, WalFileName, WalSegmentName};

use super::WalStore;
use crate::error::Result;
use crate::keys::{Layout, ParsedKey, WalDigest, WalLog};
use crate::store::{Leftover, Listed, Undeleted};

/// An object in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WalEntry {
    /// Its key.
    pub key: Path,
    /// The file that it is of.
    pub file: WalFileName,
    /// The digest in its name, if it is a variant.
    pub digest: Option<WalDigest>,
    /// Its size in bytes.
    pub size: u64,
    /// When it was put, in Unix seconds by the store's clock: that of a copy, where the repository was copied.
    pub modified: i64,
}

/// No object of a WAL file is smaller, in bytes: its header, and a trailer's frame.
const SMALLEST: u64 = 96 + 40;

impl WalEntry {
    /// Whether it is too small to hold any WAL file: what was cut.
    pub const fn is_too_small(&self) -> bool {
        self.size < SMALLEST
    }
}

/// The first and the last segment of an archive, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "filled in by whoever has listed an archive")]
pub struct WalBounds {
    /// The first.
    pub first: WalSegmentName,
    /// The last.
    pub last: WalSegmentName,
    /// When the last was put, in Unix seconds by the store's clock.
    pub modified: i64,
}

impl WalStore {
    /// The archives of the stanza, sorted by number.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn archives(&self) -> Result<Vec<ArchiveId>> {
        let level = self.store().level(&Layout::new().archives_dir(&self.stanza)).await?;
        let mut ids: Vec<ArchiveId> = level.directories.iter().filter_map(|name| name.parse().ok()).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// The directories of an archive, sorted: the logs of the first timeline, of the second, ...
    ///
    /// # Errors
    /// As the store failed.
    pub async fn logs(&self, archive: ArchiveId) -> Result<Vec<WalLog>> {
        let level = self.store().level(&Layout::new().archive_dir(&self.stanza, archive)).await?;
        Ok(level.directories.iter().filter_map(|name| WalLog::parse(name)).collect())
    }

    /// The objects in one directory of an archive, sorted by name.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn files(&self, archive: ArchiveId, log: &WalLog) -> Result<Vec<WalEntry>> {
        let level = self.store().level(&Layout::new().wal_dir(&self.stanza, archive, log)).await?;
        Ok(level.objects.into_iter().filter_map(entry).collect())
    }

    /// All that lies in one directory of an archive, or with `None` above all of them: WAL files, and objects that are none, both by name.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn contents(
        &self,
        archive: ArchiveId,
        log: Option<&WalLog>,
    ) -> Result<(Vec<WalEntry>, Vec<Listed>)> {
        let keys = Layout::new();
        let directory = match log {
            Some(log) => keys.wal_dir(&self.stanza, archive, log),
            None => keys.archive_dir(&self.stanza, archive),
        };
        let (mut files, mut others) = (Vec::new(), Vec::new());
        for object in self.store().level(&directory).await?.objects {
            match ParsedKey::parse(&object.key) {
                Some(ParsedKey::Wal { .. }) => files.extend(entry(object)),
                _ => others.push(object),
            }
        }
        Ok((files, others))
    }

    /// The objects of history files, sorted by timeline.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn histories(&self, archive: ArchiveId) -> Result<Vec<WalEntry>> {
        let level = self.store().level(&Layout::new().archive_dir(&self.stanza, archive)).await?;
        Ok(level.objects.into_iter().filter_map(entry).collect())
    }

    /// The timelines that a history file is archived of, sorted.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn history_timelines(&self, archive: ArchiveId) -> Result<Vec<TimelineId>> {
        let timelines = self.histories(archive).await?.into_iter().filter_map(|entry| match entry.file {
            WalFileName::History(timeline) => Some(timeline),
            _ => None,
        });
        Ok(timelines.collect::<BTreeSet<_>>().into_iter().collect())
    }

    /// The first and the last segment of an archive; `None` where there is none. Lists the first and last directory alone.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn bounds(&self, archive: ArchiveId) -> Result<Option<WalBounds>> {
        let logs = self.logs(archive).await?;
        let mut first = None;
        for log in &logs {
            // A directory may hold nothing but a `.partial` or what a crash has left.
            first = self.segments_in(archive, log).await?.pop_first();
            if first.is_some() {
                break;
            }
        }
        let Some((first, modified)) = first else { return Ok(None) };
        let (last, modified) = self.last_of(archive, &logs).await?.unwrap_or((first, modified));
        Ok(Some(WalBounds { first, last, modified }))
    }

    /// The last segment of an archive, by name, if it has any.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn newest(&self, archive: ArchiveId) -> Result<Option<WalSegmentName>> {
        let logs = self.logs(archive).await?;
        Ok(self.last_of(archive, &logs).await?.map(|(last, _)| last))
    }

    /// The last segment in these directories, and when it was put.
    async fn last_of(&self, archive: ArchiveId, logs: &[WalLog]) -> Result<Option<(WalSegmentName, i64)>> {
        for log in logs.iter().rev() {
            if let Some(last) = self.segments_in(archive, log).await?.pop_last() {
                return Ok(Some(last));
            }
        }
        Ok(None)
    }

    /// All WAL files of an archive from segment `first` on by name, so those of later timelines as well, and the histories of these, in no
    /// order: one listing, page by page.
    pub fn files_from(
        &self,
        archive: ArchiveId,
        first: WalSegmentName,
    ) -> BoxStream<'static, Result<WalEntry>> {
        let directory = Layout::new().archive_dir(&self.stanza, archive);
        // A listing begins behind its offset. The name without its last digit comes before the name, and behind almost all that do.
        let mut before = Layout::new().wal(&self.stanza, archive, &WalFileName::Segment(first)).to_string();
        before.pop();
        let listed = self.store().list_from(&directory, &Path::from(before));
        let wanted = move |entry: &WalEntry| entry.file.segment().is_none_or(|segment| segment >= first);
        listed.try_filter_map(move |listed| async move { Ok(entry(listed).filter(wanted)) }).boxed()
    }

    /// Which of these segments are in the archive, by listing the directories that they would lie in.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn segments_present(
        &self,
        archive: ArchiveId,
        wanted: impl IntoIterator<Item = WalSegmentName>,
    ) -> Result<BTreeSet<WalSegmentName>> {
        let mut by_log: BTreeMap<WalLog, BTreeSet<WalSegmentName>> = BTreeMap::new();
        for segment in wanted {
            if let Some(log) = WalLog::of(&WalFileName::Segment(segment)) {
                by_log.entry(log).or_default().insert(segment);
            }
        }
        let mut present = BTreeSet::new();
        for (log, wanted) in by_log {
            let there = self.segments_in(archive, &log).await?;
            present.extend(wanted.into_iter().filter(|segment| there.contains_key(segment)));
        }
        Ok(present)
    }

    /// Makes sure that these segments, which other processes have put and may not have reported yet, outlive a crash: what relies on
    /// them comes after this.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn settle(&self, archive: ArchiveId, segments: &[WalSegmentName]) -> Result<()> {
        if !self.store().is_local() {
            return Ok(());
        }
        let wanted: BTreeSet<WalSegmentName> = segments.iter().copied().collect();
        let logs = wanted.iter().filter_map(|segment| WalLog::of(&WalFileName::Segment(*segment)));
        for log in logs.collect::<BTreeSet<_>>() {
            let level = self.store().level(&Layout::new().wal_dir(&self.stanza, archive, &log)).await?;
            let entries = level.objects.into_iter().filter_map(entry);
            let keys = entries.filter(|e| matches!(&e.file, WalFileName::Segment(s) if wanted.contains(s)));
            self.store().settle_all(&keys.map(|e| e.key).collect::<Vec<_>>()).await?;
        }
        Ok(())
    }

    /// Whether a file is in the archive, under its own name or beside it; nothing is said about its content.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn exists(&self, archive: ArchiveId, file: &WalFileName) -> Result<bool> {
        let key = Layout::new().wal(&self.stanza, archive, file);
        let plain = self.store().create_honoured() && self.store().exists(&key).await?;
        Ok(plain || !self.variants(archive, file).await?.is_empty())
    }

    /// Takes an object of the archive away. WAL goes last: after the manifests that need it.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn delete(&self, entry: &WalEntry) -> Result<()> {
        self.store().delete(&entry.key).await
    }

    /// As [`WalStore::delete`] for many, with few requests where the store can. Returns those that it will not let go of.
    ///
    /// # Errors
    /// As [`Store::delete_all`](crate::Store::delete_all).
    pub async fn delete_wal(&self, entries: &[WalEntry]) -> Result<Vec<Undeleted>> {
        self.store().delete_all(entries.iter().map(|entry| entry.key.clone()).collect()).await
    }

    /// Files that interrupted puts have left below the archives, in a local store.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn leftovers(&self) -> Result<Vec<Leftover>> {
        self.store().leftovers(&Layout::new().archives_dir(&self.stanza)).await
    }

    /// Removes the empty directories that are left of an archive without objects in a local store.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn tidy_archive(&self, archive: ArchiveId) -> Result<()> {
        self.store().remove_empty_directories(&Layout::new().archive_dir(&self.stanza, archive)).await
    }

    /// Removes the directory of a log that has no objects any more in a local store.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn tidy(&self, archive: ArchiveId, log: &WalLog) -> Result<()> {
        let directory = Layout::new().wal_dir(&self.stanza, archive, log);
        self.store().remove_empty_directories(&directory).await
    }

    /// The objects of a file that carry a digest in their names.
    pub(super) async fn variants(&self, archive: ArchiveId, file: &WalFileName) -> Result<Vec<WalEntry>> {
        let entries = match WalLog::of(file) {
            Some(log) => self.files(archive, &log).await?,
            None => self.histories(archive).await?,
        };
        Ok(entries.into_iter().filter(|entry| entry.file == *file && entry.digest.is_some()).collect())
    }

    /// The segments in a directory, each with the time of its newest object.
    async fn segments_in(&self, archive: ArchiveId, log: &WalLog) -> Result<BTreeMap<WalSegmentName, i64>> {
        let mut segments = BTreeMap::new();
        for entry in self.files(archive, log).await? {
            if let WalFileName::Segment(segment) = entry.file {
                let modified = segments.entry(segment).or_insert(entry.modified);
                *modified = entry.modified.max(*modified);
            }
        }
        Ok(segments)
    }
}

fn entry(listed: Listed) -> Option<WalEntry> {
    match ParsedKey::parse(&listed.key) {
        Some(ParsedKey::Wal { file, digest, .. }) => {
            let Listed { key, size, modified } = listed;
            Some(WalEntry { key, file, digest, size, modified })
        }
        _ => None,
    }
}
