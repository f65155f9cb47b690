//! Names and sizes of WAL files (src/include/access/xlog_internal.h).

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::lsn::Lsn;

/// A timeline: 1 after initdb, one more after every recovery that ended by promoting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct TimelineId(u32);

impl TimelineId {
    /// The timeline with this number.
    pub const fn new(id: u32) -> Self {
        Self(id)
    }

    /// Its number.
    pub const fn as_u32(self) -> u32 {
        self.0
    }

    /// The name of its history file, `00000002.history`.
    pub fn history_file(self) -> String {
        format!("{:08X}.history", self.0)
    }
}

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The size of a WAL segment in bytes: a power of two from 1 MiB to 1 GiB, chosen at initdb.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct WalSegmentSize(u32);

impl WalSegmentSize {
    /// 16 MiB, the default of initdb.
    pub const DEFAULT: Self = Self(16 << 20);

    /// Checks that `bytes` can be a segment size.
    ///
    /// # Errors
    /// When it is not a power of two from 1 MiB to 1 GiB.
    pub fn new(bytes: u32) -> Result<Self> {
        if bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes) {
            Ok(Self(bytes))
        } else {
            Err(Error::invalid("WAL segment size", bytes.to_string(), "a power of two from 1 MiB to 1 GiB"))
        }
    }

    /// In bytes.
    pub const fn bytes(self) -> u32 {
        self.0
    }

    /// The size that makes `name` the segment of the byte at `lsn`; `None` where there is none, or where several sizes do, as all that are large
    /// enough do in the first segment of a log.
    pub fn told_by(name: WalSegmentName, lsn: Lsn) -> Option<Self> {
        let sizes = (20..=30).map(|bits| Self(1 << bits));
        let mut fit = sizes.filter(|size| WalSegmentName::containing(name.timeline, lsn, *size) == name);
        fit.next().filter(|_| fit.next().is_none())
    }

    /// How many segments have names that differ in the last eight digits only.
    pub const fn segments_per_log(self) -> u64 {
        (1 << 32) / self.0 as u64
    }
}

impl TryFrom<u32> for WalSegmentSize {
    type Error = Error;

    fn try_from(bytes: u32) -> Result<Self> {
        Self::new(bytes)
    }
}

impl From<WalSegmentSize> for u32 {
    fn from(size: WalSegmentSize) -> Self {
        size.0
    }
}

/// The name of a WAL segment, 24 hex digits: timeline, log, segment in the log.
///
/// Which bytes it holds depends on the segment size, which the name does not tell: see [`WalSegmentName::number`].
///
/// ```
/// use pgbr_manifest::{Lsn, TimelineId, WalSegmentName, WalSegmentSize};
/// let size = WalSegmentSize::new(64 << 20)?;
/// let name = WalSegmentName::containing(TimelineId::new(1), Lsn::new(0x1_0400_0000), size);
/// assert_eq!(name.to_string(), "000000010000000100000001");
/// assert_eq!(name.next(size).unwrap().to_string(), "000000010000000100000002");
/// # Ok::<(), pgbr_manifest::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WalSegmentName {
    timeline: TimelineId,
    log: u32,
    segment: u32,
}

impl WalSegmentName {
    /// The segment that holds the byte at `lsn`.
    pub fn containing(timeline: TimelineId, lsn: Lsn, size: WalSegmentSize) -> Self {
        Self::from_number(timeline, lsn.as_u64() / u64::from(size.bytes()), size)
    }

    /// The `number`th segment of the log, counted from 0.
    pub fn from_number(timeline: TimelineId, number: u64, size: WalSegmentSize) -> Self {
        let per_log = size.segments_per_log();
        let low = |n: u64| u32::try_from(n & 0xFFFF_FFFF).unwrap_or(u32::MAX);
        Self { timeline, log: low(number / per_log), segment: low(number % per_log) }
    }

    /// The timeline in the name.
    pub const fn timeline(self) -> TimelineId {
        self.timeline
    }

    /// Which segment of the log this is, from 0; `None` where the name cannot occur with this segment size.
    pub fn number(self, size: WalSegmentSize) -> Option<u64> {
        let per_log = size.segments_per_log();
        (u64::from(self.segment) < per_log).then(|| u64::from(self.log) * per_log + u64::from(self.segment))
    }

    /// The position of its first byte; `None` where the name cannot occur with this segment size.
    pub fn start(self, size: WalSegmentSize) -> Option<Lsn> {
        Some(Lsn::new(self.number(size)? * u64::from(size.bytes())))
    }

    /// The segment after it on the same timeline; `None` where the name cannot occur with this size or is the last.
    pub fn next(self, size: WalSegmentSize) -> Option<Self> {
        let next = self.number(size)?.checked_add(1)?;
        (next < u64::from(u32::MAX) * size.segments_per_log())
            .then(|| Self::from_number(self.timeline, next, size))
    }

    /// The same segment on another timeline.
    pub const fn on_timeline(self, timeline: TimelineId) -> Self {
        Self { timeline, ..self }
    }

    /// The first 16 digits: the directory of the archive in which the segment lies.
    pub fn directory(self) -> String {
        format!("{:08X}{:08X}", self.timeline.0, self.log)
    }
}

impl fmt::Display for WalSegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}{:08X}{:08X}", self.timeline.0, self.log, self.segment)
    }
}

impl FromStr for WalSegmentName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::invalid("WAL segment name", text, "it has 24 hex digits in upper case");
        if text.len() != 24 || !is_upper_hex(text) {
            return Err(bad());
        }
        let part = |at: usize| u32::from_str_radix(&text[at..at + 8], 16).map_err(|_| bad());
        Ok(Self { timeline: TimelineId(part(0)?), log: part(8)?, segment: part(16)? })
    }
}

crate::text_serde!(WalSegmentName);

/// A file that PostgreSQL hands to `archive_command` or asks of `restore_command`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_enums, reason = "PostgreSQL archives these four kinds and no other")]
pub enum WalFileName {
    /// A whole segment, `000000010000000000000003`.
    Segment(WalSegmentName),
    /// The last, unfinished segment of a timeline that was left by a promotion, `….partial`.
    Partial(WalSegmentName),
    /// The history of a timeline, `00000002.history`.
    History(TimelineId),
    /// The note of a backup's end, `000000010000000000000003.00000028.backup`.
    BackupHistory(WalSegmentName, u32),
}

impl WalFileName {
    /// The segment that the name begins with; a history file has none.
    pub const fn segment(self) -> Option<WalSegmentName> {
        match self {
            Self::Segment(s) | Self::Partial(s) | Self::BackupHistory(s, _) => Some(s),
            Self::History(_) => None,
        }
    }
}

impl fmt::Display for WalFileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(s) => s.fmt(f),
            Self::Partial(s) => write!(f, "{s}.partial"),
            Self::History(t) => f.write_str(&t.history_file()),
            Self::BackupHistory(s, offset) => write!(f, "{s}.{offset:08X}.backup"),
        }
    }
}

impl FromStr for WalFileName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            let form = "a segment, SEGMENT.partial, SEGMENT.OFFSET.backup or TIMELINE.history";
            Error::invalid("WAL file name", text, form)
        };
        let hex = |digits: &str| match digits.len() == 8 && is_upper_hex(digits) {
            true => u32::from_str_radix(digits, 16).map_err(|_| bad()),
            false => Err(bad()),
        };
        let Some((head, rest)) = text.split_once('.') else {
            return text.parse().map(Self::Segment).map_err(|_| bad());
        };
        if rest == "history" {
            return hex(head).map(|id| Self::History(TimelineId(id)));
        }
        let segment = head.parse().map_err(|_| bad())?;
        if rest == "partial" {
            return Ok(Self::Partial(segment));
        }
        let offset = rest.strip_suffix(".backup").ok_or_else(bad)?;
        hex(offset).map(|offset| Self::BackupHistory(segment, offset))
    }
}

fn is_upper_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_segment_size() {
        for (mib, lsn, name, next) in [
            (16, 0x300_0028, "000000010000000000000003", "000000010000000000000004"),
            (16, 0xFF00_0000, "0000000100000000000000FF", "000000010000000100000000"),
            (64, 0xFC00_0000, "00000001000000000000003F", "000000010000000100000000"),
            (1024, 0xC000_0000, "000000010000000000000003", "000000010000000100000000"),
            (1, 0xFFF0_0000, "000000010000000000000FFF", "000000010000000100000000"),
        ] {
            let size = WalSegmentSize::new(mib << 20).unwrap();
            let found = WalSegmentName::containing(TimelineId::new(1), Lsn::new(lsn), size);
            assert_eq!(found.to_string(), name);
            assert_eq!(found.next(size).unwrap().to_string(), next);
            assert_eq!(name.parse::<WalSegmentName>().unwrap(), found);
        }
        let name: WalSegmentName = "0000000100000000000000FF".parse().unwrap();
        assert_eq!(name.start(WalSegmentSize::new(64 << 20).unwrap()), None);
    }

    #[test]
    fn a_name_and_a_position_tell_the_size() {
        for (name, lsn, mib) in [
            ("000000010000000000000003", 0x300_0028, Some(16)),
            ("000000020000000A00000001", 0xA_0400_0000, Some(64)),
            ("000000010000000000000FFF", 0xFFF0_0000, Some(1)),
            ("000000010000000000000003", 0xC000_0000, Some(1024)),
            // Any size from 4 MiB on.
            ("000000010000000000000000", 0x30_0028, None),
            ("000000010000000000000003", 0x500_0028, None),
            ("000000010000000100000003", 0x300_0028, None),
        ] {
            let told = WalSegmentSize::told_by(name.parse().unwrap(), Lsn::new(lsn));
            assert_eq!(told.map(|size| size.bytes() >> 20), mib, "{name}");
        }
    }

    #[test]
    fn file_names_round_trip() {
        for text in [
            "000000010000000000000003",
            "000000010000000000000003.partial",
            "000000010000000000000003.00000028.backup",
            "0000000A.history",
        ] {
            assert_eq!(text.parse::<WalFileName>().unwrap().to_string(), text);
        }
        for text in [
            "",
            ".",
            "x.history",
            "0000000a.history",
            "00000001000000000000000",
            "../../etc/passwd",
            "RECOVERYXLOG",
            "000000010000000000000003.0000028.backup",
            "000000010000000000000003.gz",
            "00000001000000000000000é",
        ] {
            assert!(text.parse::<WalFileName>().is_err(), "{text}");
        }
    }
}
