//! What there is before anything is touched: backups, holds, pins, archives.

use std::collections::BTreeSet;

use pgbr_manifest::retention::{Candidate, Facts};
use pgbr_manifest::{ArchiveId, BackupLabel};
use pgbr_repo::{Holds, LabelObjects, PinState, Watch};

use super::Expire;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::load::{self, is_unreadable};

/// What was found.
pub(super) struct Stock {
    /// Every backup that has a manifest.
    pub(super) candidates: Vec<Candidate>,
    /// Those that cannot be read, and why.
    pub(super) unreadable: Vec<(BackupLabel, Error)>,
    /// Labels that have objects and no manifest.
    pub(super) unfinished: BTreeSet<BackupLabel>,
    /// The archives, that of the current cluster included.
    pub(super) archives: Vec<ArchiveId>,
    /// The pins, dead ones included.
    pub(super) pins: Vec<PinState>,
    /// Whether all that lies there is of the backups that there are, as far as names tell, and nobody is at work.
    pub(super) tidy: bool,
}

impl Expire<'_> {
    pub(super) async fn stock(&self, watch: &mut Watch) -> Result<Stock> {
        let place = self.place;
        let pins = self.pins.list().await?;
        let live: Vec<&PinState> = pins.iter().filter(|pin| !is_dead(self.host, pin, watch)).collect();
        let holds = Holds::new(&place.repo, place.stanza.name()).list().await?;
        let held: BTreeSet<BackupLabel> = holds.into_iter().map(|hold| hold.label).collect();
        let (mut candidates, mut unreadable) = (Vec::new(), Vec::new());
        let survey = place.backups.survey().await?;
        let labels = survey.iter().filter(|(_, objects)| objects.manifest).map(|(label, _)| *label);
        for (label, summary) in load::summaries_of(&place.backups, labels.collect()).await {
            let facts = match summary {
                Ok(summary) => Some(Facts::new(&summary, day(self.host, summary.time.stop))),
                Err(error) if is_unreadable(&error) => {
                    unreadable.push((label, error));
                    None
                }
                Err(error) => return Err(error),
            };
            let in_use = live.iter().any(|pin| pin.covers_label(&label));
            candidates.push(Candidate { label, facts, held: held.contains(&label), in_use });
        }
        let with_manifest: BTreeSet<BackupLabel> = candidates.iter().map(|c| c.label).collect();
        let mut labels: BTreeSet<BackupLabel> = survey.keys().copied().collect();
        if place.repo.store().is_local() {
            // Empty directories too, which no listing of objects shows.
            labels.extend(place.backups.list_labels().await?);
        }
        let unfinished: BTreeSet<_> =
            labels.into_iter().filter(|label| !with_manifest.contains(label)).collect();
        let tidy =
            pins.is_empty() && unfinished.is_empty() && survey.values().all(LabelObjects::is_of_one_run);
        let mut archives: BTreeSet<ArchiveId> = place.wal.archives().await?.into_iter().collect();
        archives.insert(place.stanza.archive_id());
        let archives = archives.into_iter().collect();
        Ok(Stock { candidates, unreadable, unfinished, archives, pins, tidy })
    }
}

/// Whether the owner of a pin is known to be dead: a process of this host and boot that has ended, or one that was not seen alive for
/// the pin's time-to-live.
pub(super) fn is_dead(host: &Host, pin: &PinState, watch: &mut Watch) -> bool {
    let stale = pin.is_stale(watch, host.clock.monotonic());
    stale || pin.record.as_ref().is_some_and(|record| host.owner.knows_dead(&record.holder))
}

/// The day of a moment in the host's zone, counted from 1970-01-01.
fn day(host: &Host, seconds: i64) -> i64 {
    let offset = jiff::Timestamp::from_second(seconds).map(|moment| host.zone.to_offset(moment).seconds());
    seconds.saturating_add(i64::from(offset.unwrap_or(0))).div_euclid(86_400)
}
