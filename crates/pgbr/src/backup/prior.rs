//! What a backup builds on: the newest backup that fits, with its whole chain.

use pgbr_manifest::manifest::{ClusterFacts, Parent, Summary};
use pgbr_manifest::{BackupLabel, BackupType, TimelineHistory, TimelineId, WalFileName};
use pgbr_repo::WalGet;

use crate::error::Result;
use crate::host::Host;
use crate::load::{self, Backup};
use crate::observe::Event;
use crate::place::StanzaPlace;

/// Chooses what a backup of type `kind` builds on: its chain, newest first; none for a full, or where nothing fits. What does not fit is
/// told, and the next older one is looked at.
pub(crate) async fn choose(
    host: &Host,
    place: &StanzaPlace,
    kind: BackupType,
    now: &ClusterFacts,
) -> Result<Option<Vec<Backup>>> {
    if kind == BackupType::Full {
        return Ok(None);
    }
    let candidates = candidates(host, place, kind).await?;
    let history = history(host, place, now.timeline).await?;
    for candidate in &candidates {
        let chain = match load::chain(place, *candidate).await {
            Ok(chain) => chain,
            Err(error) => {
                host.warn(format!("backup {candidate} cannot be built on: {}", chain_text(&error)));
                continue;
            }
        };
        let Some(newest) = chain.first() else { continue };
        if let Some(reason) = unfit(newest, now, history.as_ref()) {
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

/// The backups that one of type `kind` may build on, newest first.
async fn candidates(host: &Host, place: &StanzaPlace, kind: BackupType) -> Result<Vec<BackupLabel>> {
    let current = place.stanza.current();
    let mut found: Vec<BackupLabel> = Vec::new();
    for (label, summary) in load::summaries(&place.backups).await? {
        if kind == BackupType::Diff && label.backup_type() != BackupType::Full {
            continue;
        }
        match summary {
            Ok(Summary { database, .. }) if database.id != current.number => {}
            Ok(_) => found.push(label),
            Err(error) => {
                host.warn(format!("backup {label} cannot be built on: {}", chain_text(&error)));
            }
        }
    }
    found.sort_by_key(|label| std::cmp::Reverse(label.time()));
    Ok(found)
}

/// The way that the cluster came to its timeline; none on the first one, or where nobody knows.
async fn history(host: &Host, place: &StanzaPlace, timeline: TimelineId) -> Result<Option<TimelineHistory>> {
    if timeline.as_u32() <= 1 {
        return Ok(Some(TimelineHistory::first(timeline)));
    }
    match place.wal.get(place.stanza.archive_id(), &WalFileName::History(timeline)).await? {
        WalGet::Found(found) => Ok(Some(TimelineHistory::parse(timeline, &found.content)?)),
        _ => {
            host.warn(format!("the history file of timeline {timeline} is not in the archive"));
            Ok(None)
        }
    }
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
    let on_the_way = match history {
        Some(history) => history.contains(own, stop),
        None => own == now.timeline,
    };
    (!on_the_way).then(|| format!("timeline {} left its timeline {own} before {stop}", now.timeline))
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

/// An error with its causes, in one line.
fn chain_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
