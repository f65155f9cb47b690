//! The WAL that pgBackRest archived of a stanza.

use std::collections::BTreeSet;
use std::sync::Arc;

use pgbr_manifest::{MAX_HISTORY_BYTES, StanzaName, SystemId, TimelineId, WalFileName, WalSegmentName};
use pgbr_pgbackrest::{Archive, ArchiveCluster, ArchiveId, DbVersion, WalObject};

use super::{Theirs, bounds, off_thread, there};
use crate::error::Result;

/// An archive of pgBackRest, whose `archive.info` was read. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct TheirWal {
    pub(super) archive: Arc<Archive>,
}

impl TheirWal {
    /// That of a stanza; none where pgBackRest has no archive of it.
    ///
    /// # Errors
    /// [`Error::PgBackRest`] where it cannot be read, here and below.
    pub(crate) async fn open(theirs: &Theirs, stanza: &StanzaName) -> Result<Option<Self>> {
        let archive = theirs.of_stanza(stanza, |stanza| there(stanza.archive())).await?;
        Ok(archive.map(|archive| Self { archive: Arc::new(archive) }))
    }

    /// The archives of a cluster, newest first: after an upgrade that was undone there may be several.
    pub(crate) fn archives_of(&self, system_id: SystemId, version: DbVersion) -> Vec<ArchiveId> {
        let clusters = self.archive.clusters(system_id, version);
        clusters.map(ArchiveCluster::archive_id).collect()
    }

    /// The cluster that is archived now.
    pub(crate) fn current(&self) -> (SystemId, DbVersion) {
        let current = &self.archive.info.info.current;
        (current.system_id, current.version)
    }

    pub(super) async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Archive) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let archive = Arc::clone(&self.archive);
        off_thread(move || ask(&archive)).await
    }

    /// The timelines whose history files are there.
    pub(crate) async fn history_timelines(&self, id: ArchiveId) -> Result<Vec<TimelineId>> {
        self.ask(move |archive| {
            let histories = archive.histories(id)?.into_iter();
            Ok(histories
                .filter_map(|object| match object.file {
                    WalFileName::History(timeline) => Some(timeline),
                    _ => None,
                })
                .collect())
        })
        .await
    }

    /// The text of a history file, if it is there.
    pub(crate) async fn history(&self, id: ArchiveId, timeline: TimelineId) -> Result<Option<Vec<u8>>> {
        self.ask(move |archive| {
            let found = archive.find(id, &WalFileName::History(timeline))?;
            let Some(object) = found.first() else { return Ok(None) };
            Ok(Some(archive.open(object, None)?.into_bytes(MAX_HISTORY_BYTES)?))
        })
        .await
    }

    /// The timelines of which there is WAL.
    pub(crate) async fn timelines(&self, id: ArchiveId) -> Result<BTreeSet<TimelineId>> {
        self.ask(move |archive| {
            let of = |name: &String| u32::from_str_radix(name.get(..8)?, 16).ok().map(TimelineId::new);
            Ok(archive.directories(id)?.iter().filter_map(of).collect())
        })
        .await
    }

    /// Those of some segments that are there: one listing for each directory that they lie in.
    pub(crate) async fn segments_present(
        &self,
        id: ArchiveId,
        wanted: BTreeSet<WalSegmentName>,
    ) -> Result<BTreeSet<WalSegmentName>> {
        self.ask(move |archive| {
            let directories: BTreeSet<String> = wanted.iter().map(|segment| segment.directory()).collect();
            let mut found = BTreeSet::new();
            for directory in directories {
                let files = archive.files(id, &directory)?;
                found.extend(files.iter().filter_map(|object| match object.file {
                    WalFileName::Segment(segment) => Some(segment),
                    _ => None,
                }));
            }
            found.retain(|segment| wanted.contains(segment));
            Ok(found)
        })
        .await
    }

    /// The last segment by name.
    pub(crate) async fn newest(&self, id: ArchiveId) -> Result<Option<WalSegmentName>> {
        self.ask(move |archive| Ok(bounds(archive, id)?.map(|(_, last)| last))).await
    }

    /// Reads a segment to its end; false where it is not there. Of several copies one that is whole is enough, as for `archive-get`.
    ///
    /// # Errors
    /// As none of them is.
    pub(crate) async fn check(&self, id: ArchiveId, segment: WalSegmentName) -> Result<bool> {
        self.ask(move |archive| {
            let (mut piece, mut failed) = (vec![0; 1 << 20], None);
            let mut read = |object: WalObject| -> Result<()> {
                let mut content = archive.open(&object, None)?;
                while content.next(&mut piece)? > 0 {}
                Ok(())
            };
            for object in archive.find(id, &WalFileName::Segment(segment))? {
                match read(object) {
                    Ok(()) => return Ok(true),
                    Err(error) => failed = failed.or(Some(error)),
                }
            }
            failed.map_or(Ok(false), Err)
        })
        .await
    }
}
