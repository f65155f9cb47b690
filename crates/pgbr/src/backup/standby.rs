//! Backup from a standby: the backup begins and ends on the primary, the data files are read from a standby of it.
//!
//! Why that is sound. Once the standby has replayed the checkpoint that the backup began with, and has made a restartpoint of it, everything
//! from before the backup's start is in its files; what came later is in the WAL that the backup needs anyway. What it replays it got from the primary, so no page is newer
//! than the end of the backup. All of that ends with a promotion or a change of timeline, so the standby is watched until the backup has ended.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pgbr_manifest::{Lsn, SystemId, TimelineId};
use pgbr_pg::{RunningBackup, Session, read_control_file};

use crate::cluster::{ClusterAccess, Connected};
use crate::error::{Error, Result, with_causes};
use crate::host::Host;
use crate::observe::Event;

/// How often the standby is asked how far it is.
const LOOK: Duration = Duration::from_millis(200);

/// Whether data files are read from a standby.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::exhaustive_enums, reason = "pgBackRest's three choices are the interface")]
pub enum StandbyUse {
    /// No.
    #[default]
    Never,
    /// Where one can be reached.
    Prefer,
    /// Yes; without one there is no backup.
    Always,
}

/// The servers that a backup works with.
pub(crate) struct Servers {
    /// How to reach the primary.
    pub(crate) access: ClusterAccess,
    /// The primary.
    pub(crate) primary: Connected,
    /// Its standby, where data files are to be read there.
    pub(crate) standby: Option<Standby>,
}

/// A standby that data files are read from.
pub(crate) struct Standby {
    session: Session,
    pg_data: PathBuf,
    system_id: SystemId,
    /// Its last checkpoint, as it was before the backup began.
    checkpoint: Lsn,
}

/// Finds the primary among the clusters of a stanza, and a standby where one is wanted.
///
/// # Errors
/// When there is no primary, or two; when a standby is asked for and there is none, or it is one of another cluster.
pub(crate) async fn find(host: &Host, clusters: &[&ClusterAccess], wanted: StandbyUse) -> Result<Servers> {
    let mut primary: Option<(ClusterAccess, Connected)> = None;
    let mut standbys = Vec::new();
    for access in clusters {
        match access.connect().await {
            Ok(found) if found.facts.in_recovery => standbys.push((*access, found)),
            Ok(found) => match &primary {
                None => primary = Some(((*access).clone(), found)),
                Some((first, _)) => {
                    let (first, second) = (first.pg_data.clone(), access.pg_data.clone());
                    return Err(Error::TwoPrimaries { first, second });
                }
            },
            Err(error) if clusters.len() == 1 => return Err(error),
            Err(error) => {
                host.warn(format!("unable to check '{}': {}", access.pg_data.display(), with_causes(&error)));
            }
        }
        if primary.is_some() && wanted == StandbyUse::Never {
            break;
        }
    }
    let Some((access, primary)) = primary else {
        let one = clusters.len() == 1 && wanted == StandbyUse::Never;
        return Err(if one { Error::Standby } else { Error::NoServer { role: "primary" } });
    };
    let standby = match standbys.into_iter().next() {
        _ if wanted == StandbyUse::Never => None,
        Some((standby, found)) => Some(Standby::of(&primary, standby, found).await?),
        None if wanted == StandbyUse::Always => return Err(Error::NoServer { role: "standby" }),
        None => {
            host.warn("unable to find a standby to perform the backup - using primary instead");
            None
        }
    };
    Ok(Servers { access, primary, standby })
}

impl Standby {
    async fn of(primary: &Connected, access: &ClusterAccess, found: Connected) -> Result<Self> {
        let (ours, theirs) = (primary.identity(), found.identity());
        if (ours.system_id, ours.version) != (theirs.system_id, theirs.version) {
            let reason = format!(
                "'{}' is of cluster {} (PostgreSQL {}), not a standby of the primary's {} (PostgreSQL {})",
                access.pg_data.display(),
                theirs.system_id,
                theirs.version,
                ours.system_id,
                ours.version
            );
            return Err(Error::Unfit { reason });
        }
        let checkpoint = found.session.checkpoint_lsn().await?;
        let (session, system_id) = (found.session, theirs.system_id);
        Ok(Self { session, pg_data: access.pg_data.clone(), system_id, checkpoint })
    }

    /// Its data directory.
    pub(crate) fn pg_data(&self) -> &Path {
        &self.pg_data
    }

    /// Waits until all that the backup builds on is in the standby's files.
    ///
    /// # Errors
    /// When it does not follow the primary, or does not get there in time.
    pub(crate) async fn wait_for_start(
        &self,
        host: &Host,
        running: &RunningBackup,
        timeout: Duration,
    ) -> Result<()> {
        let start = running.start_lsn();
        host.tell(Event::Note { text: format!("wait for replay on the standby to reach {start}") });
        if self.checkpoint > start {
            let reason = format!(
                "the standby's last checkpoint, at {}, is ahead of the backup's start at {start}: it does not follow this primary",
                self.checkpoint
            );
            return Err(Error::Unfit { reason });
        }
        let begun = host.clock.monotonic();
        let late = |goal: Lsn, reached: Lsn| {
            let waited = host.clock.monotonic().saturating_sub(begun);
            let seconds = timeout.as_secs();
            (waited >= timeout).then_some(Error::StandbyBehind { goal, reached, seconds })
        };
        // The record of the checkpoint comes after the start; a restartpoint takes it up once it is replayed.
        let record = running.session().checkpoint_lsn().await?;
        loop {
            host.stop.check()?;
            let reached = self.session.replay_lsn().await?.unwrap_or_default();
            if reached > record {
                break;
            }
            self.follows(None).await?;
            late(record, reached).map_or(Ok(()), Err)?;
            tokio::time::sleep(LOOK).await;
        }
        loop {
            host.stop.check()?;
            self.session.checkpoint().await?;
            let reached = self.session.checkpoint_redo_lsn().await?;
            if reached >= start {
                break;
            }
            self.follows(None).await?;
            late(start, reached).map_or(Ok(()), Err)?;
            tokio::time::sleep(LOOK).await;
        }
        self.follows(Some(running.timeline())).await?;
        host.tell(Event::Note { text: format!("replay on the standby reached {start}") });
        Ok(())
    }

    /// Sees that it still follows, on the timeline that the backup is of.
    ///
    /// # Errors
    /// When it was promoted, or cannot be asked any more.
    pub(crate) async fn check(&self, timeline: TimelineId) -> Result<()> {
        self.follows(Some(timeline)).await
    }

    /// The same when all files were read, and that they were its files to the end: a directory that went away looks as if files had vanished.
    ///
    /// # Errors
    /// As [`Standby::check`]; when the data directory is not the standby's any more.
    pub(crate) async fn check_end(&self, timeline: TimelineId) -> Result<()> {
        self.check(timeline).await?;
        let (control, _) = read_control_file(self.pg_data.join("global/pg_control"))?;
        let pid = self.pg_data.join("postmaster.pid");
        let runs = pid.try_exists().map_err(Error::io("look for", &pid))?;
        match control.system_id == self.system_id && runs {
            true => Ok(()),
            false => Err(Error::StandbyChanged {
                reason: format!("'{}' is not its data directory any more", self.pg_data.display()),
            }),
        }
    }

    async fn follows(&self, timeline: Option<TimelineId>) -> Result<()> {
        let lost = |source| Error::StandbyLost { source };
        if !self.session.is_in_recovery().await.map_err(lost)? {
            return Err(Error::StandbyChanged { reason: "it was promoted".to_owned() });
        }
        let Some(timeline) = timeline else { return Ok(()) };
        let found = self.session.replica_timeline().await.map_err(lost)?;
        match found == timeline {
            true => Ok(()),
            false => Err(Error::StandbyChanged {
                reason: format!("it is on timeline {found}, the backup on {timeline}"),
            }),
        }
    }
}
