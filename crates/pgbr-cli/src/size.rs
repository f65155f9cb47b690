//! Sizes and times as people write them, both ways.

use std::time::Duration;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

/// Endings of a size and the power of 1024 they stand for; any case.
const SIZE_ENDINGS: &[(&str, u32)] = &[
    ("kib", 1),
    ("kb", 1),
    ("k", 1),
    ("mib", 2),
    ("mb", 2),
    ("m", 2),
    ("gib", 3),
    ("gb", 3),
    ("g", 3),
    ("tib", 4),
    ("tb", 4),
    ("t", 4),
    ("pib", 5),
    ("pb", 5),
    ("p", 5),
    ("b", 0),
];

/// Endings of a time and how many milliseconds they stand for; any case. The first that fits counts.
const TIME_ENDINGS: &[(&str, u64)] = &[
    ("ms", 1),
    ("s", 1000),
    ("m", 60 * 1000),
    ("h", 60 * 60 * 1000),
    ("d", 24 * 60 * 60 * 1000),
    ("w", 7 * 24 * 60 * 60 * 1000),
];

/// Reads a size in bytes: digits and at most one of `b kb kib k mb mib m gb gib g tb tib t pb pib p`, all 1024 based.
///
/// `None` for anything else and for what does not fit a signed 64-bit number.
pub fn parse_size(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let (digits, power) = SIZE_ENDINGS
        .iter()
        .find_map(|(ending, power)| lower.strip_suffix(ending).map(|digits| (digits, *power)))
        .unwrap_or((&lower, 0));
    let size = parse_digits(digits)?.checked_mul(KIB.checked_pow(power)?)?;
    i64::try_from(size).is_ok().then_some(size)
}

/// Reads a time: digits and at most one of `ms s m h d w`; bare digits are seconds. No fractions, no sign.
///
/// `None` for anything else and for what does not fit a signed 64-bit number of milliseconds.
pub fn parse_time(text: &str) -> Option<Duration> {
    let lower = text.to_ascii_lowercase();
    let (digits, factor) = TIME_ENDINGS
        .iter()
        .find_map(|(ending, factor)| lower.strip_suffix(ending).map(|digits| (digits, *factor)))
        .unwrap_or((&lower, 1000));
    let millis = parse_digits(digits)?.checked_mul(factor)?;
    i64::try_from(millis).is_ok().then(|| Duration::from_millis(millis))
}

/// Reads an integer with an optional minus sign.
pub fn parse_integer(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// A size for log and info texts: 1024 based, rounded to one decimal, which is dropped when it is zero. `GB` is the
/// largest unit, as in pgBackRest, whose texts people compare with.
pub fn format_size(bytes: u64) -> String {
    let (divisor, unit) = match bytes {
        0..KIB => return format!("{bytes}B"),
        KIB..MIB => (KIB, "KB"),
        MIB..GIB => (MIB, "MB"),
        _ => (GIB, "GB"),
    };
    // 2^64 tenths of a GiB fit easily, so the sum is made in 128 bits only to multiply first and round once.
    let tenths = (u128::from(bytes) * 10 + u128::from(divisor) / 2) / u128::from(divisor);
    match (tenths / 10, tenths % 10) {
        (whole, 0) => format!("{whole}{unit}"),
        (whole, tenth) => format!("{whole}.{tenth}{unit}"),
    }
}

/// A time in seconds with up to three decimals and no trailing zeros (`60`, `0.1`), as log lines show it.
pub fn format_seconds(time: Duration) -> String {
    let text = format!("{}.{:03}", time.as_secs(), time.subsec_millis());
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// An age in whole seconds for log and info texts: its two largest units, cut (`45s`, `12m 5s`, `3h 20m`, `12d 4h`).
pub fn format_age(seconds: u64) -> String {
    const UNITS: [(u64, char); 4] = [(86_400, 'd'), (3600, 'h'), (60, 'm'), (1, 's')];
    let mut left = seconds;
    let mut parts = Vec::new();
    for (unit, letter) in UNITS {
        let count = left / unit;
        left %= unit;
        // The one after the largest is told with it, or not at all.
        match (parts.is_empty(), count) {
            (true, 0) => {}
            (true, _) => parts.push(format!("{count}{letter}")),
            (false, count) => {
                parts.extend((count > 0).then(|| format!("{count}{letter}")));
                break;
            }
        }
    }
    if parts.is_empty() { "0s".to_owned() } else { parts.join(" ") }
}

fn parse_digits(digits: &str) -> Option<u64> {
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_in_every_spelling() {
        for (text, bytes) in [
            ("0", 0),
            ("10", 10),
            ("10b", 10),
            ("10B", 10),
            ("5k", 5 * KIB),
            ("5KB", 5 * KIB),
            ("5KiB", 5 * KIB),
            ("3m", 3 * MIB),
            ("3MB", 3 * MIB),
            ("3mib", 3 * MIB),
            ("2G", 2 * GIB),
            ("2GiB", 2 * GIB),
            ("1t", 1024 * GIB),
            ("4PiB", 4 * 1024 * 1024 * GIB),
            ("4PB", 4 * 1024 * 1024 * GIB),
        ] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in [
            "",
            "b",
            "k",
            "1.5g",
            "-1",
            "+1",
            " 1",
            "1 k",
            "1kk",
            "1ki",
            "1x",
            "9999999999p",
            "99999999999999999999",
        ] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn times_in_every_spelling() {
        for (text, millis) in [
            ("1", 1000),
            ("100ms", 100),
            ("100MS", 100),
            ("15s", 15_000),
            ("2m", 120_000),
            ("1H", 3_600_000),
            ("1d", 86_400_000),
            ("1w", 604_800_000),
            ("0s", 0),
        ] {
            assert_eq!(parse_time(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "ms", "1.5", "-1s", "1 s", "1y", "99999999999999999w"] {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }

    #[test]
    fn integers_with_a_sign() {
        assert_eq!(parse_integer("-7"), Some(-7));
        assert_eq!(parse_integer("22"), Some(22));
        for text in ["", "-", "+1", "1.0", "0x1", "1 ", "9223372036854775808"] {
            assert_eq!(parse_integer(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_as_pgbackrest_prints_them() {
        for (bytes, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1KB"),
            (1536, "1.5KB"),
            (1100, "1.1KB"),
            (1048575, "1024KB"),
            (MIB, "1MB"),
            (76_231_475, "72.7MB"),
            (9 * MIB, "9MB"),
            (GIB, "1GB"),
            (1536 * GIB, "1536GB"),
            (u64::MAX, "17179869184GB"),
        ] {
            assert_eq!(format_size(bytes), text);
        }
    }

    #[test]
    fn seconds_without_trailing_zeros() {
        for (millis, text) in [(60_000, "60"), (100, "0.1"), (1_005, "1.005"), (0, "0")] {
            assert_eq!(format_seconds(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn ages_have_two_units() {
        for (seconds, text) in [
            (0, "0s"),
            (45, "45s"),
            (60, "1m"),
            (725, "12m 5s"),
            (3600, "1h"),
            (3605, "1h"),
            (12_000, "3h 20m"),
            (86_400, "1d"),
            (86_400 * 12 + 4 * 3600 + 59, "12d 4h"),
            (u64::MAX, "213503982334601d 7h"),
        ] {
            assert_eq!(format_age(seconds), text);
        }
    }

    proptest! {
        #[test]
        fn anything_is_read_without_panic(text in ".*", bytes: u64) {
            parse_size(&text);
            parse_time(&text);
            parse_integer(&text);
            prop_assert!(format_size(bytes).ends_with('B'));
        }

        #[test]
        fn whole_units_round_trip(count in 1u64..1023, unit in 0usize..4) {
            let ending = ["B", "KB", "MB", "GB"][unit];
            let bytes = parse_size(&format!("{count}{ending}")).expect("a whole count of a unit is a size");
            prop_assert_eq!(format_size(bytes), format!("{}{}", count, ending));
        }
    }
}
