//! Sizes, times, numbers and moments as people write them, hosts, and commands that give secrets.

use jiff::tz::TimeZone;
use pgbr_cli::size::{format_seconds, format_size, parse_integer, parse_size, parse_time};

pub(crate) fn run(text: &str) {
    if let Some(size) = parse_size(text) {
        assert!(i64::try_from(size).is_ok());
        assert_eq!(parse_size(&format!("{size}b")), Some(size));
        format_size(size);
    }
    if let Some(time) = parse_time(text) {
        assert_eq!(parse_time(&format!("{}ms", time.as_millis())), Some(time));
        format_seconds(time);
    }
    if let Some(number) = parse_integer(text) {
        assert_eq!(parse_integer(&number.to_string()), Some(number));
    }
    pgbr::parse_time(text, &TimeZone::UTC);
    pgbr_cli::fuzzing::endpoint(text);
    pgbr_cli::fuzzing::secret(text);
}
