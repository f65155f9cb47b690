//! Positions in the write-ahead log.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// A byte position in the write-ahead log, printed as PostgreSQL does: `16/B374D848`.
///
/// ```
/// use pgbr_manifest::Lsn;
/// let lsn: Lsn = "0/2000028".parse()?;
/// assert_eq!(lsn.to_string(), "0/2000028");
/// assert!(lsn < "1/0".parse()?);
/// # Ok::<(), pgbr_manifest::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(u64);

impl Lsn {
    /// The invalid position 0/0.
    pub const ZERO: Self = Self(0);

    /// From the number of bytes since the start of the log.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The number of bytes since the start of the log.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The position of the byte before this one; 0/0 stays.
    pub const fn previous_byte(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |reason| Error::invalid("LSN", text, reason);
        let (high, low) = text.split_once('/').ok_or_else(|| bad("it has the form X/X in hex digits"))?;
        let part = |digits: &str| {
            let form = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
            form.then(|| u64::from_str_radix(digits, 16).ok())
                .flatten()
                .ok_or_else(|| bad("each side of '/' has 1 to 8 hex digits"))
        };
        Ok(Self(part(high)? << 32 | part(low)?))
    }
}

crate::text_serde!(Lsn);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_and_orders() {
        for text in ["0/0", "0/2000028", "FFFFFFFF/FFFFFFFF", "A/1"] {
            assert_eq!(text.parse::<Lsn>().unwrap().to_string(), text);
        }
        assert_eq!("0/03000028".parse::<Lsn>().unwrap(), Lsn::new(0x300_0028));
    }

    #[test]
    fn refuses_other_forms() {
        for text in ["", "/", "0", "0/", "/0", "0/123456789", "x/1", "+1/1", "1/1/1", " 1/1"] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
    }
}
