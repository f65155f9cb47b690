//! What a recovery goal means for the choice of the backup.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use pgbr_manifest::plan_restore::{Candidate, Goal};
use pgbr_manifest::{TimelineHistory, TimelineId};
use pgbr_pg::RecoveryGoal;
use pgbr_pgbackrest::DbVersion;

use super::archives::Archives;
use crate::error::{Error, Result};
use crate::host::Host;

/// The moment that a target names. One that only PostgreSQL understands leaves the choice at the newest backup, with a warning.
pub(crate) fn time(host: &Host, text: &str) -> Goal {
    match parse_time(text, &host.zone) {
        Some(micros) => Goal::Time(micros),
        None => {
            host.warn(format!("target time '{text}' is not of the form YYYY-MM-DD HH:MM:SS with a zone: the newest backup is used"));
            Goal::Newest
        }
    }
}

/// Microseconds since 1970 of a moment as people write it: `2026-11-22 13:27:32.5+01`; without a zone it is local time. `None` for
/// anything that is no such moment.
pub fn parse_time(text: &str, local: &TimeZone) -> Option<i64> {
    let text = text.trim();
    let micros = |t: jiff::Timestamp| t.as_microsecond();
    if let Some(utc) = text.strip_suffix(" UTC").or_else(|| text.strip_suffix('Z')) {
        let civil: DateTime = utc.trim_end().parse().ok()?;
        return civil.to_zoned(TimeZone::UTC).ok().map(|z| micros(z.timestamp()));
    }
    let (date, rest) = text.split_once([' ', 'T'])?;
    let sign = rest.rfind(['+', '-']);
    let Some(at) = sign else {
        let civil: DateTime = text.parse().ok()?;
        return civil.to_zoned(local.clone()).ok().map(|z| micros(z.timestamp()));
    };
    let (time, zone) = rest.split_at(at);
    let civil: DateTime = format!("{date} {}", time.trim_end()).parse().ok()?;
    let seconds = offset_seconds(zone)?;
    let offset = jiff::tz::Offset::from_seconds(seconds).ok()?;
    offset.to_timestamp(civil).ok().map(micros)
}

/// `+01`, `-0330`, `+05:30`.
fn offset_seconds(zone: &str) -> Option<i32> {
    let sign = if zone.starts_with('-') { -1 } else { 1 };
    let digits: String = zone[1..].chars().filter(|c| *c != ':').collect();
    if !digits.bytes().all(|b| b.is_ascii_digit()) || !matches!(digits.len(), 1 | 2 | 4 | 6) {
        return None;
    }
    let part = |range: std::ops::Range<usize>| digits.get(range).map_or(Some(0), |d| d.parse::<i32>().ok());
    let hours = digits.get(..digits.len().min(2))?.parse::<i32>().ok()?;
    Some(sign * (hours * 3600 + part(2..4)? * 60 + part(4..6)?))
}

/// The timeline that recovery follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Follow<'a> {
    /// The backup's own, whichever that is.
    Own,
    /// The newest that there is.
    Latest,
    /// The one of this number.
    Named(&'a str),
}

/// Which timeline a server of `version` follows with the settings that it gets.
pub(crate) fn follow<'a>(goal: &RecoveryGoal, timeline: Option<&'a str>, version: DbVersion) -> Follow<'a> {
    match (goal, timeline) {
        (RecoveryGoal::Immediate | RecoveryGoal::Preserve | RecoveryGoal::None, _) | (_, Some("current")) => {
            Follow::Own
        }
        // The default has been another one since 12 (`recovery_target_timeline`).
        (_, None) if version.is_before(12) => Follow::Own,
        (_, None | Some("latest")) => Follow::Latest,
        (_, Some(number)) => Follow::Named(number),
    }
}

/// The history of the timeline that recovery will follow; none where it stays on the backup's own.
pub(crate) async fn history(archives: &Archives, follow: Follow<'_>) -> Result<Option<TimelineHistory>> {
    let wanted = match follow {
        Follow::Own => return Ok(None),
        Follow::Latest => match archives.history_timelines().await?.into_iter().max() {
            Some(newest) => newest,
            None => return Ok(None),
        },
        Follow::Named(number) => {
            let id = match number.strip_prefix("0x") {
                Some(hex) => u32::from_str_radix(hex, 16).ok(),
                None => number.parse().ok(),
            };
            TimelineId::new(id.ok_or_else(|| Error::Target { what: "timeline", value: number.to_owned() })?)
        }
    };
    if wanted.as_u32() <= 1 {
        return Ok(Some(TimelineHistory::first(wanted)));
    }
    match archives.history(wanted).await? {
        Some(text) => Ok(Some(TimelineHistory::parse(wanted, &text)?)),
        None => Err(Error::Target {
            what: "timeline (its history file is not in the archive)",
            value: wanted.to_string(),
        }),
    }
}

/// Sees that recovery to the latest timeline gets there. PostgreSQL looks for the history files of the timelines after the backup's one
/// by one and takes the last before the first that is missing for the newest: a lost file would cut off all that came later, in silence.
pub(crate) async fn check_latest(archives: &Archives, follow: Follow<'_>, chosen: &Candidate) -> Result<()> {
    let Some((own, _)) = chosen.end.filter(|_| follow == Follow::Latest) else { return Ok(()) };
    let histories = archives.history_timelines().await?;
    let with_wal = archives.timelines().await?.into_iter();
    let newest = with_wal.chain(histories.iter().copied()).max();
    match plan_latest(own, newest, &histories) {
        Some((missing, newest)) => Err(Error::HistoryMissing { missing, newest }),
        None => Ok(()),
    }
}

/// The first timeline after `own` without a history file, and the newest, where they are not the same as seen by who looks one by one.
fn plan_latest(
    own: TimelineId,
    newest: Option<TimelineId>,
    histories: &[TimelineId],
) -> Option<(TimelineId, TimelineId)> {
    let newest = newest?;
    let mut next = own;
    loop {
        next = TimelineId::new(next.as_u32().checked_add(1)?);
        if next > newest {
            return None;
        }
        if !histories.contains(&next) {
            return Some((next, newest));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_in_the_histories_is_found() {
        let ids = |numbers: &[u32]| numbers.iter().copied().map(TimelineId::new).collect::<Vec<_>>();
        let plan = |own, newest: Option<u32>, histories: &[u32]| {
            let found = plan_latest(TimelineId::new(own), newest.map(TimelineId::new), &ids(histories));
            found.map(|(missing, newest)| (missing.as_u32(), newest.as_u32()))
        };
        assert_eq!(plan(1, None, &[]), None);
        assert_eq!(plan(1, Some(1), &[]), None);
        assert_eq!(plan(1, Some(3), &[2, 3]), None);
        assert_eq!(plan(1, Some(2), &[]), Some((2, 2)));
        assert_eq!(plan(1, Some(3), &[3]), Some((2, 3)));
        assert_eq!(plan(2, Some(3), &[3]), None);
        assert_eq!(plan(5, Some(3), &[]), None);
        assert_eq!(plan(u32::MAX, Some(u32::MAX), &[]), None);
    }

    #[test]
    fn servers_before_12_stay_on_their_timeline_unless_told_otherwise() {
        let [old, new] = ["11", "12"].map(|version| version.parse::<DbVersion>().unwrap());
        assert_eq!(follow(&RecoveryGoal::Default, None, old), Follow::Own);
        assert_eq!(follow(&RecoveryGoal::Default, None, new), Follow::Latest);
        for version in [old, new] {
            assert_eq!(follow(&RecoveryGoal::Standby, Some("latest"), version), Follow::Latest);
            assert_eq!(follow(&RecoveryGoal::Default, Some("current"), version), Follow::Own);
            assert_eq!(follow(&RecoveryGoal::Default, Some("3"), version), Follow::Named("3"));
            assert_eq!(follow(&RecoveryGoal::Immediate, Some("3"), version), Follow::Own);
        }
    }

    #[test]
    fn times_are_read_as_postgresql_writes_them() {
        let utc = TimeZone::UTC;
        let base = 1_795_354_052_000_000;
        assert_eq!(parse_time("2026-11-22 13:27:32+00", &utc), Some(base));
        assert_eq!(parse_time("2026-11-22 13:27:32.25+00", &utc), Some(base + 250_000));
        assert_eq!(parse_time("2026-11-22 14:27:32+01:00", &utc), Some(base));
        assert_eq!(parse_time("2026-11-22 09:57:32-0330", &utc), Some(base));
        assert_eq!(parse_time("2026-11-22 13:27:32 UTC", &utc), Some(base));
        assert_eq!(parse_time("2026-11-22T13:27:32Z", &utc), Some(base));
        let east = TimeZone::fixed(jiff::tz::offset(2));
        assert_eq!(parse_time("2026-11-22 15:27:32", &east), Some(base));
        for odd in ["yesterday", "", "2026-11-22", "2026-11-22 13:27:32+x", "2026-11-22 13:27:32+é"] {
            assert_eq!(parse_time(odd, &utc), None, "{odd}");
        }
    }
}
