//! Whether the times are such that anything may be expired by them.

use super::Candidate;
use crate::error::{Error, Result};

const DAY: i64 = 86_400;
/// How far the clock may stand before the end of the newest backup: hosts differ by less, zones set wrongly do not reach further.
const BEHIND: i64 = DAY;
/// How far the clock may stand after the end of the newest backup.
const AHEAD: i64 = 10 * 366 * DAY;
/// How far the end of the newest backup may lie after the one before it, where ages decide what goes.
const GAP: i64 = 366 * DAY;

/// Compares the clock with the end of the newest of these backups, which is also where ages count from.
///
/// # Errors
/// [`Error::Clock`] where one of the two must be wrong.
pub(super) fn check<'a>(backups: impl Iterator<Item = &'a Candidate>, now: i64) -> Result<()> {
    let stops = backups.filter_map(|backup| Some((backup.facts?.stop, backup.label)));
    let Some((newest, label)) = stops.max() else { return Ok(()) };
    if now < newest.saturating_sub(BEHIND) {
        let days = newest.saturating_sub(now) / DAY;
        let reason = format!("the clock stands {days} day(s) before the end of backup {label}");
        return Err(Error::Clock { reason });
    }
    if now > newest.saturating_add(AHEAD) {
        let days = now.saturating_sub(newest) / DAY;
        let reason = format!("the clock stands {days} days after the end of the newest backup {label}");
        return Err(Error::Clock { reason });
    }
    Ok(())
}

/// Where ages decide what goes, the newest backup must not stand alone in the future: a clock that jumped ahead while it was made would
/// make all others look old.
///
/// # Errors
/// [`Error::Clock`] where it does.
pub(super) fn check_gap<'a>(backups: impl Iterator<Item = &'a Candidate>) -> Result<()> {
    let mut stops: Vec<_> = backups.filter_map(|backup| Some((backup.facts?.stop, backup.label))).collect();
    stops.sort_unstable();
    let (Some((newest, label)), Some((before, _))) = (stops.pop(), stops.pop()) else { return Ok(()) };
    let gap = newest.saturating_sub(before);
    if gap <= GAP {
        return Ok(());
    }
    let days = gap / DAY;
    let reason = format!(
        "backup {label} ended {days} days after the one before it: if its clock was right, expire goes on after the next backup"
    );
    Err(Error::Clock { reason })
}
