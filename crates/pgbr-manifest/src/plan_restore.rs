//! Which backup a restore begins with.

use crate::error::{Error, Result};
use crate::history::TimelineHistory;
use crate::label::{BackupLabel, LabelTime};
use crate::lsn::Lsn;
use crate::manifest::{Span, Summary};
use crate::wal::TimelineId;

/// Where recovery is to end, as far as it decides which backups can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "every kind of goal must be decided here")]
pub enum Goal {
    /// The end of the log, or a target that only replay can find (xid, name): the newest backup will do.
    Newest,
    /// A moment, in microseconds since 1970.
    Time(i64),
    /// A position.
    Lsn(Lsn),
}

/// A backup, as far as it decides whether a restore can begin with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "backups of other formats are candidates as well")]
pub struct Candidate {
    /// Its label.
    pub label: BackupLabel,
    /// When it began and when it was complete, in microseconds since 1970: targets are compared with these.
    pub time_us: Span<i64>,
    /// The timeline and position at which it is consistent; none where the cluster was stopped and nobody knows.
    pub end: Option<(TimelineId, Lsn)>,
}

impl From<&Summary> for Candidate {
    fn from(backup: &Summary) -> Self {
        let end = Some((backup.wal.stop.timeline(), backup.lsn.stop));
        Self { label: backup.label, time_us: backup.server_time_us, end }
    }
}

/// What the operator asked for.
#[derive(Debug, Clone, Copy)]
pub struct RestoreChoice<'a> {
    /// Only this backup (`--set`).
    pub set: Option<BackupLabel>,
    /// Where recovery is to end.
    pub goal: Goal,
    /// The timeline that recovery follows, where it is known: backups that are not on the way to its end cannot be used.
    pub history: Option<&'a TimelineHistory>,
}

/// Chooses the backup that a restore begins with: the newest that is consistent before the target and lies on the timeline's way.
///
/// ```
/// use pgbr_manifest::plan_restore::{Goal, RestoreChoice, plan_restore};
/// let choice = RestoreChoice { set: None, goal: Goal::Newest, history: None };
/// assert!(plan_restore(&[], &choice).is_err());
/// ```
///
/// # Errors
/// When there is no such backup: the error says why.
pub fn plan_restore(backups: &[Candidate], choice: &RestoreChoice<'_>) -> Result<Candidate> {
    let refuse = |reason: String| Err(Error::Unfit { reason });
    if let Some(set) = choice.set {
        let Some(backup) = backups.iter().find(|b| b.label == set) else {
            return refuse(format!("there is no backup set {set}"));
        };
        return match obstacle(backup, choice) {
            None => Ok(*backup),
            Some(why) => refuse(format!("backup set {set} cannot be used: {why}")),
        };
    }
    let Some(newest) = backups.iter().max_by_key(age) else {
        return refuse("there are no backup sets".to_owned());
    };
    let usable = backups.iter().filter(|b| obstacle(b, choice).is_none()).max_by_key(age);
    match usable {
        Some(backup) => Ok(*backup),
        None => refuse(format!(
            "no backup set can reach the target; of the newest, {}: {}",
            newest.label,
            obstacle(newest, choice).unwrap_or_default()
        )),
    }
}

/// What is greater for the newer of two backups. Labels only ever grow; the clock that the other times are by may have stepped back.
fn age(backup: &&Candidate) -> (LabelTime, BackupLabel) {
    (backup.label.time(), backup.label)
}

/// Why recovery from `backup` cannot end where it shall.
fn obstacle(backup: &Candidate, choice: &RestoreChoice<'_>) -> Option<String> {
    let before = match (choice.goal, backup.end) {
        (Goal::Newest, _) => None,
        (Goal::Time(target), _) if backup.time_us.stop >= target => {
            Some("it was not complete before the target time".to_owned())
        }
        (Goal::Lsn(_), None) => Some("it is of a stopped cluster and does not tell its position".to_owned()),
        (Goal::Lsn(target), Some((_, stop))) if stop > target => {
            Some(format!("it is consistent from {stop} on only"))
        }
        (Goal::Time(_) | Goal::Lsn(_), _) => None,
    };
    let off = choice.history.zip(backup.end).filter(|(h, (own, stop))| !h.contains(*own, *stop));
    let off = off
        .map(|(h, (own, stop))| format!("timeline {} left its timeline {own} before {stop}", h.timeline()));
    before.or(off)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::tests::summary;

    fn backups() -> Vec<Candidate> {
        let labels = ["20261122-120000F", "20261122-130000F", "20261122-140000F"];
        let mut all: Vec<Summary> = labels.iter().map(|l| summary(l)).collect();
        for (n, backup) in all.iter_mut().enumerate() {
            let n = i64::try_from(n).unwrap();
            backup.server_time_us.stop = 1000 * (n + 1);
            // A clock that steps back does not make the last one older.
            backup.time.stop = 1000 * (9 - n);
            backup.lsn.stop = Lsn::new(0x100_0000 * (n.cast_unsigned() + 3));
        }
        all.iter().map(Candidate::from).collect()
    }

    fn chosen(goal: Goal, history: Option<&TimelineHistory>) -> Result<String> {
        plan_restore(&backups(), &RestoreChoice { set: None, goal, history }).map(|b| b.label.to_string())
    }

    #[test]
    fn the_newest_backup_before_the_target_is_taken() {
        assert_eq!(chosen(Goal::Newest, None).unwrap(), "20261122-140000F");
        assert_eq!(chosen(Goal::Time(2001), None).unwrap(), "20261122-130000F");
        assert_eq!(chosen(Goal::Time(2000), None).unwrap(), "20261122-120000F");
        assert_eq!(chosen(Goal::Lsn(Lsn::new(0x400_0000)), None).unwrap(), "20261122-130000F");
        assert_eq!(
            chosen(Goal::Time(1000), None).unwrap_err().to_string(),
            "no backup set can reach the target; of the newest, 20261122-140000F: it was not complete before the target time"
        );
        assert!(chosen(Goal::Lsn(Lsn::new(0x2FF_FFFF)), None).is_err());
    }

    #[test]
    fn backups_off_the_timeline_are_passed_over() {
        let history = TimelineHistory::parse(TimelineId::new(2), b"1\t0/4000000\tx\n").unwrap();
        assert_eq!(chosen(Goal::Newest, Some(&history)).unwrap(), "20261122-130000F");
        let history = TimelineHistory::parse(TimelineId::new(2), b"1\t0/2000000\tx\n").unwrap();
        assert!(chosen(Goal::Newest, Some(&history)).is_err());
    }

    #[test]
    fn a_named_set_must_be_able_to_reach_the_target() {
        let all = backups();
        let choice = |goal| RestoreChoice { set: Some(all[2].label), goal, history: None };
        assert!(plan_restore(&all, &choice(Goal::Newest)).is_ok());
        assert!(plan_restore(&all, &choice(Goal::Time(1500))).is_err());
        assert!(plan_restore(&all[..1], &choice(Goal::Newest)).is_err());
    }

    #[test]
    fn a_backup_of_a_stopped_cluster_has_a_time_and_no_position() {
        let all: Vec<_> = backups().into_iter().map(|backup| Candidate { end: None, ..backup }).collect();
        let history = TimelineHistory::parse(TimelineId::new(2), b"1\t0/2000000\tx\n").unwrap();
        let plan = |goal| plan_restore(&all, &RestoreChoice { set: None, goal, history: Some(&history) });
        assert_eq!(plan(Goal::Newest).unwrap().label, all[2].label);
        assert_eq!(plan(Goal::Time(2001)).unwrap().label, all[1].label);
        assert!(plan(Goal::Lsn(Lsn::new(0x900_0000))).is_err());
    }
}
