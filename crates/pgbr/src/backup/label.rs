//! The name of the next backup.

use pgbr_manifest::{BackupLabel, BackupType, LabelTime};

use crate::host::Host;

/// The label for a backup now, of a type and on top of a full; where the clock stands before the newest label, a second after that.
pub(crate) fn next(
    host: &Host,
    newest: Option<BackupLabel>,
    kind: BackupType,
    full: Option<BackupLabel>,
) -> BackupLabel {
    let now = jiff::Timestamp::from_nanosecond(i128::from(host.clock.now_ns())).unwrap_or_default();
    let local = now.to_zoned(host.zone.clone());
    let field = |value: i8| u32::try_from(value).unwrap_or(0);
    let year = u32::try_from(local.year()).unwrap_or(1970);
    let (month, day) = (field(local.month()), field(local.day()));
    let (hour, minute, second) = (field(local.hour()), field(local.minute()), field(local.second()));
    let now = LabelTime::new(year, month, day, hour, minute, second).unwrap_or(LabelTime::EPOCH);
    let time = newest.map_or(now, |label| now.max(label.time().next()));
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
        let full = |newest| next(&host, newest, BackupType::Full, None).to_string();
        assert_eq!(full(None), "20261122-132732F");
        let earlier = "20261122-132731F".parse().unwrap();
        assert_eq!(full(Some(earlier)), "20261122-132732F");
        let later = "20261122-235959F".parse().unwrap();
        assert_eq!(full(Some(later)), "20261123-000000F");
        let incr = next(&host, Some(later), BackupType::Incr, Some(later));
        assert_eq!(incr.to_string(), "20261122-235959F_20261123-000000I");
    }
}
