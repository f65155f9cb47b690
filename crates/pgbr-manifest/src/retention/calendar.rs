//! Days counted from 1970-01-01, sorted into weeks, months and years.

use super::Period;

/// The number of the period that a day lies in; it grows with time.
pub(super) const fn number(period: Period, day: i64) -> i64 {
    match period {
        Period::Day => day,
        // 1970-01-05 was a Monday.
        Period::Week => day.saturating_sub(4).div_euclid(7),
        Period::Month => {
            let (year, month) = year_and_month(day);
            year * 12 + month
        }
        Period::Year => year_and_month(day).0,
    }
}

/// Year and month (0 is March, the year begins there) by Howard Hinnant's algorithm, then put back to January.
const fn year_and_month(day: i64) -> (i64, i64) {
    const ERA: i64 = 146_097;
    let day = day.saturating_add(719_468);
    let era = day.div_euclid(ERA);
    let day_of_era = day.rem_euclid(ERA);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let month = (from_march + 2) % 12;
    let year = year_of_era + era * 400 + if month < 2 { 1 } else { 0 };
    (year, month)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_lie_in_their_months() {
        for (day, year, month) in [
            (0, 1970, 0),
            (30, 1970, 0),
            (31, 1970, 1),
            (58, 1970, 1),
            (59, 1970, 2),
            (364, 1970, 11),
            (365, 1971, 0),
            (11_016, 2000, 1),
            (11_017, 2000, 2),
            (20_779, 2026, 10),
            (-1, 1969, 11),
        ] {
            assert_eq!(year_and_month(day), (year, month), "{day}");
        }
    }

    #[test]
    fn weeks_begin_on_mondays() {
        let week = |day| number(Period::Week, day);
        assert_eq!(week(4), week(10));
        assert_eq!(week(3) + 1, week(4));
        assert_eq!(week(10) + 1, week(11));
        // 2026-11-23 is a Monday.
        assert_eq!(week(20_779) + 1, week(20_780));
    }
}
