//! What a backup builds on: the newest backup that fits, with its whole chain.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use pgbr_manifest::manifest::{ClusterFacts, Parent, Summary};
use pgbr_manifest::{BackupLabel, BackupType, MAX_HISTORY_BYTES, TimelineHistory, TimelineId, WalFileName};
use pgbr_repo::{Error as RepoError, WalGet};

use crate::error::{Error, Result, with_causes};
use crate::host::Host;
use crate::load::{self, Backup};
use crate::observe::Event;
use crate::place::StanzaPlace;

/// Chooses what a backup of type `kind` builds on: its chain, newest first; none for a full, or where nothing fits. What does not fit is
/// told, and the next older one is looked at.
pub(crate) async fn choose(
    host: &Host,
    place: &StanzaPlace,
    pg_data: &Path,
    kind: BackupType,
    now: &ClusterFacts,
) -> Result<Option<Vec<Backup>>> {
    if kind == BackupType::Full {
        return Ok(None);
    }
    let candidates = candidates(host, place, kind).await?;
    let history = history(host, place, pg_data, now.timeline).await?;
    let prior = |label| candidates.iter().find(|(known, _)| *known == label).and_then(|(_, prior)| *prior);
    for (candidate, _) in &candidates {
        let expected = load::expected(*candidate, prior);
        let chain = match load::chain(place, *candidate, &expected).await {
            Ok(chain) => chain,
            Err(error) => {
                host.warn(format!("backup {candidate} cannot be built on: {}", with_causes(&error)));
                continue;
            }
        };
        let Some(newest) = chain.first() else { continue };
        let reason = unfit(newest, now, history.as_ref()).or_else(|| load::full(&chain).map(str::to_owned));
        if let Some(reason) = reason {
            host.warn(format!("backup {candidate} cannot be built on: {reason}"));
            continue;
        }
        let (label, program) = (newest.summary.label, &newest.summary.program);
        host.tell(Event::Note { text: format!("last backup label = {label}, version = {program}") });
        return Ok(Some(chain));
    }
    let why =
        if candidates.is_empty() { "no prior backup exists" } else { "no prior backup can be built on" };
    host.warn(format!("{why}, {kind} backup has been changed to full"));
    Ok(None)
}

/// The backups that one of type `kind` may build on, newest first, each with what it builds on itself.
async fn candidates(
    host: &Host,
    place: &StanzaPlace,
    kind: BackupType,
) -> Result<Vec<(BackupLabel, Option<BackupLabel>)>> {
    let current = place.stanza.current();
    let mut found: Vec<(BackupLabel, Option<BackupLabel>)> = Vec::new();
    for (label, summary) in load::summaries(&place.backups).await? {
        if kind == BackupType::Diff && label.backup_type() != BackupType::Full {
            continue;
        }
        match summary {
            Ok(Summary { database, .. }) if database.id != current.number => {}
            Ok(Summary { prior, .. }) => found.push((label, prior)),
            Err(error) => {
                host.warn(format!("backup {label} cannot be built on: {}", with_causes(&error)));
            }
        }
    }
    found.sort_by_key(|(label, _)| std::cmp::Reverse(label.time()));
    Ok(found)
}

/// The way that the cluster came to its timeline; none where nobody knows. Right after a promotion only the server has the file; where the
/// archive has another one, two servers have promoted to the same timeline, and what lies in the archive is of the other.
async fn history(
    host: &Host,
    place: &StanzaPlace,
    pg_data: &Path,
    timeline: TimelineId,
) -> Result<Option<TimelineHistory>> {
    if timeline.as_u32() <= 1 {
        return Ok(Some(TimelineHistory::first(timeline)));
    }
    let name = WalFileName::History(timeline);
    let own = read_history(&pg_data.join("pg_wal").join(name.to_string()))?;
    let text = match (archived(place, &name, own.as_deref()).await?, own) {
        (Archived::Other, _) => {
            Err("of the server is not the one in the archive: another server has used this timeline")
        }
        (Archived::Unread, _) => Err("in the archive cannot be read with a passphrase for writing only"),
        (_, Some(own)) => Ok(own),
        (Archived::Content(archived), None) => Ok(archived),
        (Archived::Missing, None) => Err("is neither with the server nor in the archive"),
    };
    match text {
        Ok(text) => Ok(Some(TimelineHistory::parse(timeline, &text)?)),
        Err(reason) => {
            host.warn(format!("history file {name} {reason}"));
            Ok(None)
        }
    }
}

/// What the archive has under the name of a history file.
enum Archived {
    /// This, which may be what the server has.
    Content(Vec<u8>),
    /// Another file than the server.
    Other,
    /// One that who only writes can neither read nor compare.
    Unread,
    /// Nothing, or nothing else than the server.
    Missing,
}

async fn archived(place: &StanzaPlace, name: &WalFileName, own: Option<&[u8]>) -> Result<Archived> {
    let archive = place.stanza.archive_id();
    if place.repo.reads() {
        return Ok(match place.wal.get(archive, name).await? {
            WalGet::Found(found) if own.is_some_and(|own| own != found.content) => Archived::Other,
            WalGet::Found(found) => Archived::Content(found.content),
            WalGet::Missing => Archived::Missing,
        });
    }
    match place.wal.holds(archive, name, own.unwrap_or_default()).await {
        Ok(None | Some(true)) => Ok(Archived::Missing),
        Ok(Some(false)) if own.is_some() => Ok(Archived::Other),
        Ok(Some(false)) | Err(RepoError::WriteOnly { .. }) => Ok(Archived::Unread),
        Err(error) => Err(error.into()),
    }
}

fn read_history(path: &Path) -> Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(Error::io("open", path))?,
    };
    let mut text = Vec::new();
    file.take(MAX_HISTORY_BYTES as u64 + 1).read_to_end(&mut text).map_err(Error::io("read", path))?;
    Ok(Some(text))
}

/// Why a backup of the cluster as it is now cannot build on `prior`.
fn unfit(prior: &Backup, now: &ClusterFacts, history: Option<&TimelineHistory>) -> Option<String> {
    let then = &prior.body.cluster;
    if then.data_checksums != now.data_checksums {
        return Some("page checksums were switched on or off since".to_owned());
    }
    if (then.block_size, then.segment_pages, then.catalog_version)
        != (now.block_size, now.segment_pages, now.catalog_version)
    {
        return Some("it is of a cluster of another build".to_owned());
    }
    let (own, stop) = (prior.summary.wal.stop.timeline(), prior.summary.lsn.stop);
    match history {
        Some(history) if history.contains(own, stop) => None,
        None if own == now.timeline => None,
        Some(_) => Some(format!("timeline {} left its timeline {own} before {stop}", now.timeline)),
        None => Some(format!("nobody knows where timeline {} left its timeline {own}", now.timeline)),
    }
}

/// Why what the file system says of files cannot be trusted; none where it can.
pub(crate) fn distrust(prior: &Backup, now: &ClusterFacts, now_seconds: i64) -> Option<String> {
    if prior.summary.wal.stop.timeline() != now.timeline {
        return Some("the cluster is on another timeline than its prior backup".to_owned());
    }
    if now_seconds < prior.summary.time.stop {
        return Some("the clock stands before the end of the prior backup".to_owned());
    }
    (prior.body.cluster.data_directory != now.data_directory)
        .then(|| "the data directory is another one than that of the prior backup".to_owned())
}

/// How a child names it.
pub(crate) fn named(backup: &Backup) -> Parent {
    Parent { label: backup.summary.label, id: backup.summary.id, digest: backup.digest }
}
