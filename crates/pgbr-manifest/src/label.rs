//! Backup labels, spelled as pgBackRest spells them.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// What a backup holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(clippy::exhaustive_enums, reason = "pgBackRest's three types are the interface")]
pub enum BackupType {
    /// Everything; depends on no other backup.
    Full,
    /// What changed since the last full.
    Diff,
    /// What changed since the last backup of any type.
    Incr,
}

impl BackupType {
    const fn letter(self) -> char {
        match self {
            Self::Full => 'F',
            Self::Diff => 'D',
            Self::Incr => 'I',
        }
    }
}

impl fmt::Display for BackupType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "full",
            Self::Diff => "diff",
            Self::Incr => "incr",
        })
    }
}

impl FromStr for BackupType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "full" => Ok(Self::Full),
            "diff" => Ok(Self::Diff),
            "incr" => Ok(Self::Incr),
            _ => Err(Error::invalid("backup type", text, "it is full, diff or incr")),
        }
    }
}

/// A moment as it stands in a label: local wall time of the host, `YYYYMMDD-HHMMSS`.
///
/// Labels are names that sort by age, not times to compute with: the times of a backup stand in its manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LabelTime {
    /// `YYYYMMDD` as a number.
    date: u32,
    /// Seconds since midnight.
    second: u32,
}

impl LabelTime {
    /// The earliest that a label can name.
    pub const EPOCH: Self = Self { date: 19_700_101, second: 0 };

    /// From the fields of a wall clock; `None` where they are no time of a day.
    pub fn new(year: u32, month: u32, day: u32, hour: u32, minute: u32, second: u32) -> Option<Self> {
        let date = (1970..=9999).contains(&year)
            && (1..=12).contains(&month)
            && (1..=days(year, month)).contains(&day);
        let time = hour < 24 && minute < 60 && second < 60;
        (date && time).then(|| Self {
            date: year * 10_000 + month * 100 + day,
            second: hour * 3600 + minute * 60 + second,
        })
    }

    /// One second later: the label of a backup that starts before its forerunner's label on a clock that went back.
    #[must_use]
    pub fn next(self) -> Self {
        if self.second + 1 < 86_400 {
            return Self { second: self.second + 1, ..self };
        }
        let (year, month, day) = (self.date / 10_000, self.date / 100 % 100, self.date % 100);
        let date = match (month, day) {
            (_, d) if d < days(year, month) => self.date + 1,
            (12, _) => (year + 1) * 10_000 + 101,
            _ => year * 10_000 + (month + 1) * 100 + 1,
        };
        Self { date, second: 0 }
    }
}

fn days(year: u32, month: u32) -> u32 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

impl fmt::Display for LabelTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = self.second;
        write!(f, "{:08}-{:02}{:02}{:02}", self.date, s / 3600, s / 60 % 60, s % 60)
    }
}

impl FromStr for LabelTime {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::invalid("label time", text, "it has the form YYYYMMDD-HHMMSS");
        let bytes = text.as_bytes();
        let digits = |range: std::ops::Range<usize>| {
            let part = text.get(range)?;
            part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok()).flatten()
        };
        if bytes.len() != 15 || bytes.get(8) != Some(&b'-') {
            return Err(bad());
        }
        let fields =
            (digits(0..4), digits(4..6), digits(6..8), digits(9..11), digits(11..13), digits(13..15));
        match fields {
            (Some(y), Some(mo), Some(d), Some(h), Some(mi), Some(s)) => {
                Self::new(y, mo, d, h, mi, s).ok_or_else(bad)
            }
            _ => Err(bad()),
        }
    }
}

/// The name of a backup: `20261122-120000F`, and with its full in front `20261122-120000F_20261123-120000I`.
///
/// Labels sort by the time of their full, then by their own.
///
/// ```
/// use pgbr_manifest::{BackupLabel, BackupType};
/// let label: BackupLabel = "20261122-120000F_20261123-120000D".parse()?;
/// assert_eq!(label.backup_type(), BackupType::Diff);
/// assert_eq!(label.full().to_string(), "20261122-120000F");
/// # Ok::<(), pgbr_manifest::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackupLabel {
    full: LabelTime,
    own: Option<(LabelTime, BackupType)>,
}

impl BackupLabel {
    /// The label of a full backup.
    pub const fn new_full(time: LabelTime) -> Self {
        Self { full: time, own: None }
    }

    /// The label of a diff (`incr` false) or incr that belongs to the full of `self`.
    #[must_use]
    pub const fn dependant(self, time: LabelTime, incr: bool) -> Self {
        let kind = if incr { BackupType::Incr } else { BackupType::Diff };
        Self { full: self.full, own: Some((time, kind)) }
    }

    /// The type in the label.
    pub fn backup_type(self) -> BackupType {
        self.own.map_or(BackupType::Full, |(_, kind)| kind)
    }

    /// The label of the full that it depends on; its own for a full.
    #[must_use]
    pub const fn full(self) -> Self {
        Self { full: self.full, own: None }
    }

    /// The moment of this backup itself.
    pub fn time(self) -> LabelTime {
        self.own.map_or(self.full, |(time, _)| time)
    }
}

impl fmt::Display for BackupLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}F", self.full)?;
        self.own.map_or(Ok(()), |(time, kind)| write!(f, "_{time}{}", kind.letter()))
    }
}

impl FromStr for BackupLabel {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::invalid("backup label", text, "it has the form YYYYMMDD-HHMMSSF[_YYYYMMDD-HHMMSS(D|I)]")
        };
        let (full, own) = match text.split_once('_') {
            Some((full, own)) => (full, Some(own)),
            None => (text, None),
        };
        let full = full.strip_suffix('F').and_then(|t| t.parse().ok()).ok_or_else(bad)?;
        let own = match own {
            None => None,
            Some(own) => {
                let (time, kind) = match (own.strip_suffix('D'), own.strip_suffix('I')) {
                    (Some(time), _) => (time, BackupType::Diff),
                    (_, Some(time)) => (time, BackupType::Incr),
                    _ => return Err(bad()),
                };
                Some((time.parse().map_err(|_| bad())?, kind))
            }
        };
        Ok(Self { full, own })
    }
}

crate::text_serde!(BackupLabel);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_round_trip_and_sort_by_age() {
        let labels = [
            "20261122-120000F",
            "20261122-120000F_20261123-120000D",
            "20261122-120000F_20261124-235959I",
            "20261123-000000F",
        ];
        let parsed: Vec<BackupLabel> = labels.iter().map(|l| l.parse().unwrap()).collect();
        assert!(parsed.is_sorted());
        for (label, text) in parsed.iter().zip(labels) {
            assert_eq!(label.to_string(), text);
        }
    }

    #[test]
    fn refuses_other_forms() {
        for text in [
            "",
            "F",
            "20261122-120000",
            "20261122-120000D",
            "20261322-120000F",
            "20260229-120000F",
            "20261122-240000F",
            "20261122-120000F_",
            "20261122-120000F_20261123-120000F",
            "../../x",
            "20261122-120000F_20261123-120000Iä",
            "2026112é-120000F",
        ] {
            assert!(text.parse::<BackupLabel>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_next_second_is_a_time_too() {
        for (now, next) in [
            ("20261231-235959", "20270101-000000"),
            ("20280228-235959", "20280229-000000"),
            ("20260228-235959", "20260301-000000"),
            ("20261122-120000", "20261122-120001"),
        ] {
            assert_eq!(now.parse::<LabelTime>().unwrap().next().to_string(), next);
        }
    }
}
