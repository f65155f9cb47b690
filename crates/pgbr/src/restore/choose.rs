//! Which backup a restore begins with, of ours and of those that pgBackRest made beside them.

use pgbr_manifest::manifest::{Span, Summary};
use pgbr_manifest::plan_restore::{Candidate, Goal, RestoreChoice, plan_restore};
use pgbr_manifest::{BackupLabel, StanzaName, SystemId, TimelineHistory};
use pgbr_pg::RecoveryGoal;
use pgbr_pgbackrest::{BackupEntry, Backups, DbVersion};
use pgbr_repo::Store;

use super::archives::Archives;
use super::theirs::TheirBackup;
use super::{RestoreRequest, goal};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::load;
use crate::observe::Event;
use crate::place::{StanzaPlace, is_absent};
use crate::theirs::{TheirWal, Theirs, off_thread};

/// What there is to choose from: ours, theirs, or both.
pub(crate) struct Sides {
    pub(crate) ours: Option<StanzaPlace>,
    pub(crate) theirs: Option<TheirSide>,
}

/// What pgBackRest has of a stanza.
pub(crate) struct TheirSide {
    pub(crate) theirs: Theirs,
    pub(crate) stanza: StanzaName,
    backups: Option<Backups>,
    wal: Option<TheirWal>,
}

/// The backup to restore.
pub(crate) struct Chosen {
    pub(crate) label: BackupLabel,
    pub(crate) of: Side,
    /// Where recovery is to end, as far as it is known beforehand.
    pub(crate) goal: Goal,
    /// The history of the timeline that recovery follows; none where it stays on the backup's own.
    pub(crate) history: Option<TimelineHistory>,
    /// All backups that could be chosen from.
    pub(crate) backups: Vec<Candidate>,
    /// Where its WAL is.
    pub(crate) archives: Archives,
}

/// Whose backup it is.
pub(crate) enum Side {
    /// Ours: it, and all that it builds on, as far as their summaries tell.
    Ours(Vec<BackupLabel>),
    /// One of pgBackRest's.
    Theirs,
}

/// A backup that could be chosen, with the number of its cluster.
struct Found {
    candidate: Candidate,
    cluster: (SystemId, DbVersion),
    /// The number of that in our stanza, if the backup is ours, and the backup before it.
    ours: Option<(u32, Option<BackupLabel>)>,
}

impl Sides {
    /// Opens what there is. With `ours_alone` what pgBackRest has is not looked at.
    pub(crate) async fn open(host: &Host, request: &RestoreRequest, ours_alone: bool) -> Result<Self> {
        let ours = request.repo.open_to_read(host, &request.stanza, "restore").await;
        if ours_alone {
            return Ok(Self { ours: Some(ours?), theirs: None });
        }
        let theirs = TheirSide::open(request).await;
        match (ours, theirs) {
            (Ok(ours), Ok(theirs)) => Ok(Self { ours: Some(ours), theirs }),
            (Ok(ours), Err(error)) => {
                host.warn(format!("what pgBackRest has in the repository is passed over: {error}"));
                Ok(Self { ours: Some(ours), theirs: None })
            }
            (Err(error), Ok(None)) => Err(error),
            // Only pgBackRest has something there.
            (Err(error), theirs) if is_absent(&error) => Ok(Self { ours: None, theirs: theirs? }),
            (Err(error), _) => Err(error),
        }
    }

    /// The cluster that the stanza is of now.
    fn current(&self) -> Option<(SystemId, DbVersion)> {
        if let Some(place) = &self.ours {
            let current = place.stanza.current();
            return Some((current.system_id, current.version.into()));
        }
        let theirs = self.theirs.as_ref()?;
        let listed = theirs.backups.as_ref().map(|backups| &backups.info.info.current);
        let listed = listed.map(|current| (current.system_id, current.version));
        listed.or_else(|| theirs.wal.as_ref().map(TheirWal::current))
    }

    async fn backups(&self, host: &Host, request: &RestoreRequest) -> Result<Vec<Found>> {
        let mut found = Vec::new();
        if let Some(place) = &self.ours {
            for (label, summary) in load::summaries(&place.backups).await? {
                match summary {
                    Ok(summary) => found.push(of_ours(&summary)),
                    Err(error) if request.set == Some(label) => return Err(error),
                    Err(error) => host.warn(format!("backup {label} is passed over: {error}")),
                }
            }
        }
        if let Some(backups) = self.theirs.as_ref().and_then(|side| side.backups.as_ref()) {
            let history = &backups.info.info.history;
            found.extend(backups.usable.iter().filter_map(|backup| {
                let cluster = history.iter().find(|cluster| cluster.id == backup.cluster)?;
                let cluster = (cluster.system_id, cluster.version);
                Some(Found { candidate: of_theirs(backup), cluster, ours: None })
            }));
        }
        Ok(found)
    }

    fn archives(&self, cluster: (SystemId, DbVersion), number: Option<u32>) -> Archives {
        let number = |place: &StanzaPlace| {
            let is = |c: &&pgbr_repo::ClusterId| (c.system_id, c.version.into()) == cluster;
            number.or_else(|| place.stanza.history().iter().rev().find(is).map(|cluster| cluster.number))
        };
        let ours = self.ours.as_ref().and_then(|place| Some((place, number(place)?)));
        let theirs = self.theirs.as_ref().and_then(|side| side.wal.as_ref());
        Archives::of(ours, theirs, cluster.0, cluster.1)
    }
}

impl TheirSide {
    /// What pgBackRest has of the stanza that is asked for; none where that is nothing.
    async fn open(request: &RestoreRequest) -> Result<Option<Self>> {
        let Some(theirs) = Theirs::look(&request.repo).await? else { return Ok(None) };
        let stanza = request.stanza.clone();
        let backups = theirs.backups(&stanza).await?;
        let wal = TheirWal::open(&theirs, &stanza).await?;
        let nothing = backups.is_none() && wal.is_none();
        Ok((!nothing).then_some(Self { theirs, stanza, backups, wal }))
    }

    /// Loads a backup.
    pub(crate) async fn load(self, host: &Host, label: BackupLabel) -> Result<(TheirBackup, Store)> {
        let backup = self.theirs.backup(&self.stanza, label).await?;
        if let Some(error) = backup.from_copy() {
            host.warn(format!("the copy of a manifest of pgBackRest is used: {error}"));
        }
        let read = move || TheirBackup::new(backup);
        Ok((off_thread(read).await?, self.theirs.store().clone()))
    }
}

fn of_ours(summary: &Summary) -> Found {
    let database = &summary.database;
    Found {
        candidate: summary.into(),
        cluster: (database.system_id, database.version.into()),
        ours: Some((database.id, summary.prior)),
    }
}

/// Their times are whole seconds: it had ended when its second had.
fn of_theirs(backup: &BackupEntry) -> Candidate {
    let micros = |seconds: i64| seconds.saturating_mul(1_000_000);
    let time_us =
        Span { start: micros(backup.started), stop: micros(backup.stopped).saturating_add(999_999) };
    let end = backup.wal.stop.zip(backup.wal.stop_lsn).map(|(segment, lsn)| (segment.timeline(), lsn));
    Candidate { label: backup.label, time_us, end }
}

/// Chooses the backup: the newest that can reach the goal, on the way of the timeline that recovery follows.
pub(crate) async fn choose(host: &Host, sides: &Sides, request: &RestoreRequest) -> Result<Chosen> {
    let mut found = sides.backups(host, request).await?;
    let current = sides.current();
    if request.set.is_none() {
        let newest = found.iter().max_by_key(|backup| backup.candidate.label).map(|b| b.candidate.label);
        found.retain(|backup| Some(backup.cluster) == current);
        if let Some(newest) = newest.filter(|_| found.is_empty()) {
            return Err(Error::EarlierCluster { newest });
        }
    }
    let goal = match &request.goal {
        RecoveryGoal::Lsn(lsn) => Goal::Lsn(*lsn),
        RecoveryGoal::Time(text) => goal::time(host, text),
        _ => Goal::Newest,
    };
    let named = found.iter().find(|backup| Some(backup.candidate.label) == request.set);
    let cluster = named.map(|backup| backup.cluster).or(current);
    let number = named.and_then(|backup| backup.ours).map(|(number, _)| number);
    let cluster = cluster.ok_or(Error::Internal { what: "a stanza without a cluster" })?;
    let archives = sides.archives(cluster, number);
    let follow = goal::follow(&request.goal, request.timeline.as_deref(), cluster.1);
    let history = goal::history(&archives, follow).await?;
    let choice = RestoreChoice { set: request.set, goal, history: history.as_ref() };
    let backups: Vec<Candidate> = found.iter().map(|backup| backup.candidate).collect();
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
    goal::check_latest(&archives, follow, &chosen).await?;
    let label = chosen.label;
    let of = side_of(&found, label);
    Ok(Chosen { label, of, goal, history, backups, archives })
}

/// Whose a backup is; for one of ours with all that it builds on.
fn side_of(found: &[Found], label: BackupLabel) -> Side {
    let ours = |label: BackupLabel| {
        found.iter().filter(|backup| backup.candidate.label == label).find_map(|backup| backup.ours)
    };
    if ours(label).is_none() {
        return Side::Theirs;
    }
    // One that is missing is found out when the chain is loaded.
    Side::Ours(
        std::iter::successors(Some(label), |label| ours(*label)?.1.filter(|prior| ours(*prior).is_some()))
            .collect(),
    )
}
