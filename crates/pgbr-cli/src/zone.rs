//! The local time zone, read from the one file that says it.
//!
//! The time library's own way lists the whole zone directory first, which costs more than the rest of a short command's start.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path};

use jiff::tz::TimeZone;

/// Where names of zones are looked up.
const ZONES: &str = "/usr/share/zoneinfo";
/// The zone of the machine.
const LOCAL: &str = "/etc/localtime";
/// The largest zone file that is read, in bytes; they have a few KiB.
const MAX_ZONE_BYTES: u64 = 1 << 20;

/// The zone that the variable `TZ` names (a name, a path, or a POSIX rule), else that of the machine, else UTC.
pub(crate) fn local(tz: Option<&OsStr>) -> TimeZone {
    let Some(name) = tz else { return file("Local", Path::new(LOCAL)).unwrap_or(TimeZone::UTC) };
    let Some(name) = name.to_str() else { return TimeZone::UTC };
    let name = name.strip_prefix(':').unwrap_or(name);
    let path = Path::new(name);
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    let named = match path.is_absolute() {
        true => file(name, path),
        false if plain && !name.is_empty() => file(name, &Path::new(ZONES).join(path)),
        false => None,
    };
    named.or_else(|| TimeZone::posix(name).ok()).unwrap_or(TimeZone::UTC)
}

fn file(name: &str, path: &Path) -> Option<TimeZone> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MAX_ZONE_BYTES).read_to_end(&mut bytes).ok()?;
    TimeZone::tzif(name, &bytes).ok()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn offset(tz: &str) -> i32 {
        local(Some(OsStr::new(tz))).to_offset(Timestamp::UNIX_EPOCH).seconds()
    }

    #[test]
    fn rules_and_nonsense_are_understood() {
        assert_eq!(offset("UTC0"), 0);
        assert_eq!(offset("EST5"), -5 * 3600);
        assert_eq!(offset("<+03>-3"), 3 * 3600);
        for nonsense in ["", ":", "../../etc/passwd", "/etc/passwd", "No/Such_Zone"] {
            assert_eq!(offset(nonsense), 0, "{nonsense}");
        }
    }

    #[test]
    fn names_are_those_of_the_zone_directory() {
        // Machines without the zone files have no names to test with.
        if Path::new(ZONES).join("Asia/Tokyo").exists() {
            assert_eq!(offset("Asia/Tokyo"), 9 * 3600);
            assert_eq!(offset(":Asia/Tokyo"), 9 * 3600);
        }
    }
}
