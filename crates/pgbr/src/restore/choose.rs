//! Which backup a restore begins with.

use pgbr_manifest::manifest::Summary;
use pgbr_manifest::plan_restore::{Goal, RestoreChoice, plan_restore};
use pgbr_manifest::{BackupLabel, TimelineHistory};
use pgbr_pg::RecoveryGoal;

use super::{RestoreRequest, goal};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::load;
use crate::observe::Event;
use crate::place::StanzaPlace;

/// The backup to restore.
pub(crate) struct Chosen {
    pub(crate) label: BackupLabel,
    /// It, and all that it builds on, as far as their summaries tell.
    pub(crate) needed: Vec<BackupLabel>,
    /// Where recovery is to end, as far as it is known beforehand.
    pub(crate) goal: Goal,
    /// The history of the timeline that recovery follows; none where it stays on the backup's own.
    pub(crate) history: Option<TimelineHistory>,
    /// All backups that could be chosen from.
    pub(crate) backups: Vec<Summary>,
}

/// Chooses the backup: the newest that can reach the goal, on the way of the timeline that recovery follows.
pub(crate) async fn choose(host: &Host, place: &StanzaPlace, request: &RestoreRequest) -> Result<Chosen> {
    let mut backups = Vec::new();
    for (label, summary) in load::summaries(&place.backups).await? {
        match summary {
            Ok(summary) => backups.push(summary),
            Err(error) if request.set == Some(label) => return Err(error),
            Err(error) => host.warn(format!("backup {label} is passed over: {error}")),
        }
    }
    let current = place.stanza.current();
    if request.set.is_none() {
        let is_current =
            |b: &Summary| (b.database.system_id, b.database.version) == (current.system_id, current.version);
        backups.retain(is_current);
    }
    let goal = match &request.goal {
        RecoveryGoal::Lsn(lsn) => Goal::Lsn(*lsn),
        RecoveryGoal::Time(text) => goal::time(host, text),
        _ => Goal::Newest,
    };
    let history = goal::history(place, request).await?;
    let choice = RestoreChoice { set: request.set, goal, history: history.as_ref() };
    let chosen = plan_restore(&backups, &choice).map_err(|source| Error::NoBackup { source })?;
    if let Some(newest) = backups.iter().max_by_key(|b| b.label)
        && newest.label != chosen.label
        && request.set.is_none()
    {
        let (used, newest) = (chosen.label, newest.label);
        host.tell(Event::Note {
            text: format!("backup {used} is used, as the newest, {newest}, cannot reach the target"),
        });
    }
    goal::check_latest(place, request, chosen).await?;
    let label = chosen.label;
    let of = |label: BackupLabel| backups.iter().find(|b| b.label == label);
    let chain = std::iter::successors(Some(chosen), |backup| of(backup.prior?));
    let needed = chain.map(|backup| backup.label).collect();
    Ok(Chosen { label, needed, goal, history, backups })
}
