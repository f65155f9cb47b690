//! How old the newest backup, the newest WAL and the last drill of a stanza are, and whether that is too old.

use std::time::Duration;

use pgbr_manifest::StanzaName;
use pgbr_repo::Drills;

use crate::error::{Result, with_causes};
use crate::host::Host;
use crate::load::{is_unreadable, summaries_of};
use crate::place::{RepoAccess, StanzaPlace};

/// How old what a stanza relies on may be. What has no limit is not looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "filled in by the caller; a new field has to be decided on")]
pub struct AgeLimits {
    /// Since the newest backup of the current cluster ended.
    pub backup: Option<Duration>,
    /// Since the newest segment of the current cluster was archived.
    pub wal: Option<Duration>,
    /// Since a drill ended that proved a backup.
    pub drill: Option<Duration>,
}

/// What to look at.
#[derive(Debug, Clone)]
pub struct AgesRequest {
    /// The repository.
    pub repo: RepoAccess,
    /// The stanza.
    pub stanza: StanzaName,
    /// How old all of it may be.
    pub limits: AgeLimits,
}

/// Something that is too old, or was never there.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TooOld {
    /// What.
    pub what: Aged,
    /// Which one it is, and its age; none where there is none.
    pub newest: Option<(String, Duration)>,
    /// How old it may be.
    pub limit: Duration,
}

/// What gets old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "what has a limit")]
pub enum Aged {
    /// The newest backup, by its label.
    Backup,
    /// The newest segment, by its name.
    Wal,
    /// The last drill that proved a backup, by the label of that.
    Drill,
}

impl AgeLimits {
    /// Whether there is any.
    pub const fn any(&self) -> bool {
        self.backup.is_some() || self.wal.is_some() || self.drill.is_some()
    }
}

/// Finds what is older than its limit, by a few small reads. Times are those of the hosts and stores that wrote: a clock that is off is off
/// here as well.
///
/// # Errors
/// When the repository or the stanza does not open, and as the store failed.
pub async fn too_old(host: &Host, request: AgesRequest) -> Result<Vec<TooOld>> {
    let place = request.repo.open_stanza(host, &request.stanza).await?;
    let (limits, now) = (request.limits, host.now_seconds());
    let mut found = Vec::new();
    if let Some(limit) = limits.backup {
        found.extend(judge(Aged::Backup, newest_backup(host, &place).await?, limit, now));
    }
    if let Some(limit) = limits.wal {
        let bounds = place.wal.bounds(place.stanza.archive_id()).await?;
        let newest = bounds.map(|bounds| (bounds.last.to_string(), bounds.modified));
        found.extend(judge(Aged::Wal, newest, limit, now));
    }
    if let Some(limit) = limits.drill {
        found.extend(judge(Aged::Drill, last_drill(host, &place).await?, limit, now));
    }
    Ok(found)
}

/// Decides whether the newest of something, with the second that it is of, is too old.
fn judge(what: Aged, newest: Option<(String, i64)>, limit: Duration, now: i64) -> Option<TooOld> {
    let newest = newest.map(|(name, at)| {
        let age = u64::try_from(now.saturating_sub(at)).unwrap_or_default();
        (name, Duration::from_secs(age))
    });
    let old = newest.as_ref().is_none_or(|(_, age)| *age > limit);
    old.then_some(TooOld { what, newest, limit })
}

/// The newest backup of the current cluster and when it ended: labels are gone through from the newest on.
async fn newest_backup(host: &Host, place: &StanzaPlace) -> Result<Option<(String, i64)>> {
    let mut labels = place.backups.list_labels().await?;
    labels.sort_by_key(|label| (label.time(), *label));
    while let Some(label) = labels.pop() {
        host.stop.check()?;
        for (label, read) in summaries_of(&place.backups, vec![label]).await {
            match read {
                Ok(summary) if summary.database.id == place.stanza.current().number => {
                    return Ok(Some((label.to_string(), summary.time.stop)));
                }
                Ok(_) => {}
                Err(error) if is_unreadable(&error) => {
                    host.warn(format!("backup {label} cannot be read: {}", with_causes(&error)));
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(None)
}

/// The last drill that proved a backup, of those that no later one of the same backup takes back.
async fn last_drill(host: &Host, place: &StanzaPlace) -> Result<Option<(String, i64)>> {
    let mut last: Option<(String, i64)> = None;
    for drill in Drills::new(&place.repo, place.stanza.name()).newest(None).await? {
        match drill.facts {
            Ok(facts) if facts.ok && last.as_ref().is_none_or(|(_, stop)| *stop < facts.stop) => {
                last = Some((drill.label.to_string(), facts.stop));
            }
            Ok(_) => {}
            Err(error) => host.warn(format!(
                "what became of the last drill of backup {} cannot be read: {error}",
                drill.label
            )),
        }
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_as_old_as_it_may_be_is_not_too_old() {
        let hour = Duration::from_secs(3600);
        let judged = |at: i64| judge(Aged::Wal, Some(("x".to_owned(), at)), hour, 10_000);
        assert_eq!(judged(6400), None);
        let old = judged(6399).unwrap();
        assert_eq!((old.newest, old.limit), (Some(("x".to_owned(), Duration::from_secs(3601))), hour));
        // A clock that is ahead.
        assert_eq!(judged(20_000), None);
        assert_eq!(judged(i64::MIN).unwrap().newest.unwrap().1, Duration::from_secs(i64::MAX as u64));
        let never = judge(Aged::Drill, None, Duration::MAX, 0).unwrap();
        assert_eq!((never.what, never.newest), (Aged::Drill, None));
    }
}
