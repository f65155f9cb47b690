//! The WAL of one cluster, as a restore asks for it: what is in our archive, and what pgBackRest left in its own beside it.

use std::collections::BTreeSet;

use pgbr_manifest::{ArchiveId, SystemId, TimelineId, WalFileName, WalSegmentName};
use pgbr_pgbackrest::{ArchiveId as TheirArchiveId, DbVersion};
use pgbr_repo::{WalGet, WalStore};

use crate::error::Result;
use crate::place::StanzaPlace;
use crate::theirs::TheirWal;

/// The archives of a cluster.
#[derive(Debug, Clone)]
pub(crate) struct Archives {
    ours: Option<(WalStore, ArchiveId)>,
    theirs: Vec<(TheirWal, TheirArchiveId)>,
}

impl Archives {
    /// Those of the cluster with this number in our stanza and with this identifier and version in theirs.
    pub(crate) fn of(
        ours: Option<(&StanzaPlace, u32)>,
        theirs: Option<&TheirWal>,
        system_id: SystemId,
        version: DbVersion,
    ) -> Self {
        let ours = ours.and_then(|(place, number)| {
            let cluster = place.stanza.history().iter().find(|cluster| cluster.number == number)?;
            Some((place.wal.clone(), cluster.archive_id()))
        });
        let theirs = theirs.into_iter().flat_map(|wal| {
            wal.archives_of(system_id, version).into_iter().map(|archive| (wal.clone(), archive))
        });
        Self { ours, theirs: theirs.collect() }
    }

    /// The timelines whose history files are there.
    pub(crate) async fn history_timelines(&self) -> Result<Vec<TimelineId>> {
        let mut found = match &self.ours {
            Some((wal, archive)) => wal.history_timelines(*archive).await?,
            None => Vec::new(),
        };
        for (wal, archive) in &self.theirs {
            found.extend(wal.history_timelines(*archive).await?);
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// The text of a history file, if it is there.
    pub(crate) async fn history(&self, timeline: TimelineId) -> Result<Option<Vec<u8>>> {
        if let Some((wal, archive)) = &self.ours
            && let WalGet::Found(found) = wal.get(*archive, &WalFileName::History(timeline)).await?
        {
            return Ok(Some(found.content));
        }
        for (wal, archive) in &self.theirs {
            if let Some(text) = wal.history(*archive, timeline).await? {
                return Ok(Some(text));
            }
        }
        Ok(None)
    }

    /// The timelines of which there is WAL.
    pub(crate) async fn timelines(&self) -> Result<BTreeSet<TimelineId>> {
        let mut found = BTreeSet::new();
        if let Some((wal, archive)) = &self.ours {
            found.extend(wal.logs(*archive).await?.into_iter().map(|log| log.timeline()));
        }
        for (wal, archive) in &self.theirs {
            found.extend(wal.timelines(*archive).await?);
        }
        Ok(found)
    }

    /// Those of some segments that are there.
    pub(crate) async fn segments_present(
        &self,
        wanted: BTreeSet<WalSegmentName>,
    ) -> Result<BTreeSet<WalSegmentName>> {
        let mut found = match &self.ours {
            Some((wal, archive)) => wal.segments_present(*archive, wanted.iter().copied()).await?,
            None => BTreeSet::new(),
        };
        for (wal, archive) in &self.theirs {
            let missing: BTreeSet<_> = wanted.difference(&found).copied().collect();
            if missing.is_empty() {
                break;
            }
            found.extend(wal.segments_present(*archive, missing).await?);
        }
        Ok(found)
    }

    /// The last segment by name.
    pub(crate) async fn newest(&self) -> Result<Option<WalSegmentName>> {
        let mut newest = match &self.ours {
            Some((wal, archive)) => wal.bounds(*archive).await?.map(|bounds| bounds.last),
            None => None,
        };
        for (wal, archive) in &self.theirs {
            newest = newest.max(wal.newest(*archive).await?);
        }
        Ok(newest)
    }

    /// Reads a segment to its end; false where it is in none of them.
    pub(crate) async fn check(&self, segment: WalSegmentName) -> Result<bool> {
        if let Some((wal, archive)) = &self.ours
            && let WalGet::Found(_) = wal.check(*archive, &WalFileName::Segment(segment)).await?
        {
            return Ok(true);
        }
        for (wal, archive) in &self.theirs {
            if wal.check(*archive, segment).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
