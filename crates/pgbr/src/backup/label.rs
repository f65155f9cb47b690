//! The name of the next backup.

use pgbr_manifest::{BackupLabel, BackupType, LabelTime};

use crate::host::Host;

/// The time in the names of backups that begin now; where the clock stands before one of the newest there are, a second after that.
pub(crate) fn time(host: &Host, newest: impl Iterator<Item = BackupLabel>) -> LabelTime {
    let now = jiff::Timestamp::from_nanosecond(i128::from(host.clock.now_ns())).unwrap_or_default();
    let local = now.to_zoned(host.zone.clone());
    let field = |value: i8| u32::try_from(value).unwrap_or(0);
    let year = u32::try_from(local.year()).unwrap_or(1970);
    let (month, day) = (field(local.month()), field(local.day()));
    let (hour, minute, second) = (field(local.hour()), field(local.minute()), field(local.second()));
    let now = LabelTime::new(year, month, day, hour, minute, second).unwrap_or(LabelTime::EPOCH);
    newest.map(|label| label.time().next()).fold(now, LabelTime::max)
}

/// The name of a backup of a type and on top of a full.
pub(crate) fn at(time: LabelTime, kind: BackupType, full: Option<BackupLabel>) -> BackupLabel {
    match full {
        Some(full) if kind != BackupType::Full => full.dependant(time, kind == BackupType::Incr),
        _ => BackupLabel::new_full(time),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::host::Clock;

    struct At(i64);

    impl Clock for At {
        fn now_ns(&self) -> i64 {
            self.0 * 1_000_000_000
        }

        fn monotonic(&self) -> Duration {
            Duration::ZERO
        }
    }

    #[test]
    fn labels_grow_even_when_the_clock_steps_back() {
        let host =
            Host { clock: Arc::new(At(1_795_354_052)), zone: jiff::tz::TimeZone::UTC, ..Host::system() };
        let next = |newest: &[BackupLabel], kind, full| at(time(&host, newest.iter().copied()), kind, full);
        let full = |newest: &[BackupLabel]| next(newest, BackupType::Full, None).to_string();
        assert_eq!(full(&[]), "20261122-132732F");
        let earlier = "20261122-132731F".parse().unwrap();
        assert_eq!(full(&[earlier]), "20261122-132732F");
        let later = "20261122-235959F".parse().unwrap();
        assert_eq!(full(&[earlier, later, earlier]), "20261123-000000F");
        let incr = next(&[later], BackupType::Incr, Some(later));
        assert_eq!(incr.to_string(), "20261122-235959F_20261123-000000I");
    }
}
