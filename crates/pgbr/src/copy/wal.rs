//! The WAL that goes with a backup to another repository.

use futures::stream::{self, StreamExt, TryStreamExt};
use pgbr_manifest::{ArchiveId, WalFileName, WalSegmentName};
use pgbr_repo::{PushOutcome, WalGet, WalPush, WalSource};

use super::{CopiedWal, Copy, cluster_in};
use crate::cluster::segments_between;
use crate::error::{Error, Result};
use crate::load::Backup;
use crate::place::StanzaPlace;

/// What became of one file.
enum Moved {
    Copied(u64),
    Present,
}

/// The files that a backup needs to become consistent and does not bring: its segments.
pub(super) fn needed(backup: &Backup) -> Result<Vec<WalFileName>> {
    if backup.summary.wal_inside || backup.body.backup_label.is_none() {
        return Ok(Vec::new());
    }
    let (summary, size) = (&backup.summary, backup.body.cluster.wal_segment_size);
    let timeline = summary.wal.start.timeline();
    let segments = segments_between(timeline, summary.lsn.start, summary.lsn.stop, size);
    let segments = segments.ok_or_else(|| {
        let reason = format!("it cannot need all WAL from {} to {}", summary.lsn.start, summary.lsn.stop);
        Error::Damaged { label: summary.label, reason }
    })?;
    Ok(segments.into_iter().map(WalFileName::Segment).collect())
}

/// All that the archive has of the log since the backup began, on its timeline and later ones, with all histories.
pub(super) async fn since(from: &StanzaPlace, backup: &Backup) -> Result<Vec<WalFileName>> {
    let archive = archive_of(from, backup)?;
    let start = backup.summary.wal.start;
    let mut files: Vec<WalFileName> = Vec::new();
    for log in from.wal.logs(archive).await? {
        let first = start.on_timeline(log.timeline());
        if log.timeline() < start.timeline() || log.span().is_none_or(|(_, last)| last < first) {
            continue;
        }
        let entries = from.wal.files(archive, &log).await?.into_iter().map(|entry| entry.file);
        files.extend(entries.filter(|file| file.segment().is_some_and(|segment| segment >= first)));
    }
    files.extend(from.wal.histories(archive).await?.into_iter().map(|entry| entry.file));
    files.sort_unstable();
    files.dedup();
    Ok(files)
}

fn archive_of(place: &StanzaPlace, backup: &Backup) -> Result<ArchiveId> {
    Ok(cluster_in(place, &backup.summary.database)?.archive_id())
}

impl Copy<'_> {
    /// Copies WAL files of the cluster of `backup`, and the histories that lead to its timeline; every file is checked on the way.
    pub(super) async fn wal(
        &self,
        backup: &Backup,
        mut files: Vec<WalFileName>,
        done: &mut CopiedWal,
    ) -> Result<()> {
        let number = backup.summary.database.id;
        let known = self.from.stanza.history().iter().find(|entry| entry.number == number);
        let from = known.map_or_else(|| archive_of(self.from, backup), |entry| Ok(entry.archive_id()))?;
        let to = archive_of(self.to, backup)?;
        let own = backup.summary.wal.stop.timeline();
        for entry in self.from.wal.histories(from).await? {
            if matches!(entry.file, WalFileName::History(timeline) if timeline <= own) {
                files.push(entry.file);
            }
        }
        files.sort_unstable();
        files.dedup();
        let moves = files.iter().map(|file| self.wal_file(backup, (from, to), file));
        let mut moves = stream::iter(moves).buffered(self.request.threads.max(2));
        while let Some(moved) = moves.try_next().await? {
            self.host.stop.check()?;
            match moved {
                Moved::Copied(bytes) => {
                    done.copied += 1;
                    done.bytes += bytes;
                }
                Moved::Present => done.present += 1,
            }
        }
        let segments: Vec<WalSegmentName> = files
            .iter()
            .filter_map(|file| match file {
                WalFileName::Segment(segment) => Some(*segment),
                _ => None,
            })
            .collect();
        self.to.wal.settle(to, &segments).await?;
        done.last = done.last.max(segments.last().copied());
        Ok(())
    }

    async fn wal_file(
        &self,
        backup: &Backup,
        (from, to): (ArchiveId, ArchiveId),
        file: &WalFileName,
    ) -> Result<Moved> {
        let WalGet::Found(found) = self.from.wal.get(from, file).await? else {
            let reason = format!("WAL file {file}, which it needs, is not in the archive");
            return Err(Error::Damaged { label: backup.summary.label, reason });
        };
        found.warnings.iter().for_each(|warning| self.host.warn(warning.as_str()));
        if self.to.wal.exists(to, file).await?
            && let Ok(WalGet::Found(there)) = self.to.wal.check(to, file).await
            && there.digest == found.trailer.digest
        {
            return Ok(Moved::Present);
        }
        let bytes = found.content.len() as u64;
        let mut push = WalPush::new(to, *file, WalSource::Bytes(found.content.into()))
            .with_compression(self.request.compression, 1);
        if let Some(system_id) = found.trailer.system_id {
            push = push.with_system_id(pgbr_manifest::SystemId::new(system_id));
        }
        match self.to.wal.push(push).await? {
            PushOutcome::SameAlreadyThere => Ok(Moved::Present),
            PushOutcome::StoredBeside { object, damage } => {
                self.host.warn(format!(
                    "WAL file {file} in the target is damaged ({damage}): stored as '{object}'"
                ));
                Ok(Moved::Copied(bytes))
            }
            _ => Ok(Moved::Copied(bytes)),
        }
    }
}
