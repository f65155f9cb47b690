//! The name of the next backup.

use pgbr_manifest::{BackupLabel, LabelTime};

use crate::host::Host;

/// The label for a full backup now; where the clock stands before the newest label, a second after that.
pub(crate) fn next(host: &Host, newest: Option<BackupLabel>) -> BackupLabel {
    let now = jiff::Timestamp::from_nanosecond(i128::from(host.clock.now_ns())).unwrap_or_default();
    let local = now.to_zoned(host.zone.clone());
    let field = |value: i8| u32::try_from(value).unwrap_or(0);
    let year = u32::try_from(local.year()).unwrap_or(1970);
    let (month, day) = (field(local.month()), field(local.day()));
    let (hour, minute, second) = (field(local.hour()), field(local.minute()), field(local.second()));
    let now = LabelTime::new(year, month, day, hour, minute, second).unwrap_or(LabelTime::EPOCH);
    BackupLabel::new_full(newest.map_or(now, |label| now.max(label.time().next())))
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
        assert_eq!(next(&host, None).to_string(), "20261122-132732F");
        let earlier = "20261122-132731F".parse().unwrap();
        assert_eq!(next(&host, Some(earlier)).to_string(), "20261122-132732F");
        let later = "20261122-235959F".parse().unwrap();
        assert_eq!(next(&host, Some(later)).to_string(), "20261123-000000F");
    }
}
