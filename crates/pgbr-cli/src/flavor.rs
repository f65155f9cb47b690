//! The name the program was started under, and what follows from it.

use std::path::Path;

/// Version of pgBackRest that the program stands in for when it is started as `pgbackrest`.
const PGBACKREST_VERSION: &str = "2.59.1";

/// Whether the program is itself or stands in for pgBackRest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavor {
    /// Started as `pgbr` (or any other name): `PGBR_` variables, `/etc/pgbr`, `/var/lib/pgbr` and so on.
    Pgbr,
    /// Started as `pgbackrest`: `PGBACKREST_` variables and pgBackRest's own paths and version.
    Pgbackrest,
}

impl Flavor {
    /// The flavor that `argv[0]` asks for: only the file name `pgbackrest` makes a stand-in.
    pub fn from_program(program: &str) -> Self {
        match Path::new(program).file_name() {
            Some(name) if name == "pgbackrest" => Self::Pgbackrest,
            _ => Self::Pgbr,
        }
    }

    /// What the names of environment variables begin with.
    pub fn env_prefix(self) -> &'static str {
        match self {
            Self::Pgbr => "PGBR_",
            Self::Pgbackrest => "PGBACKREST_",
        }
    }

    /// Name of the executable, as help shows it.
    pub fn program(self) -> &'static str {
        match self {
            Self::Pgbr => "pgbr",
            Self::Pgbackrest => "pgbackrest",
        }
    }

    /// Name of the product, as titles and texts show it.
    pub fn product(self) -> &'static str {
        match self {
            Self::Pgbr => "pgbr",
            Self::Pgbackrest => "pgBackRest",
        }
    }

    /// Version that `version`, help titles and the "command begin" log line show.
    pub fn version(self) -> &'static str {
        match self {
            Self::Pgbr => env!("CARGO_PKG_VERSION"),
            Self::Pgbackrest => PGBACKREST_VERSION,
        }
    }

    /// The version as one number, `major * 1000000 + minor * 1000 + patch` (`version --output=num`).
    pub fn version_number(self) -> u64 {
        self.version()
            .split('.')
            .map(|part| part.parse::<u64>().unwrap_or(0))
            .fold(0, |sum, part| sum.saturating_mul(1000).saturating_add(part))
    }

    /// A default path of pgBackRest's as this flavor has it (`/etc/pgbackrest/conf.d` becomes `/etc/pgbr/conf.d`).
    pub fn path(self, pgbackrest: &str) -> String {
        pgbackrest.replace("pgbackrest", self.program())
    }

    /// A text about pgBackRest as this flavor says it.
    pub fn text(self, pgbackrest: &str) -> String {
        pgbackrest.replace("pgBackRest", self.product())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_name_decides() {
        assert_eq!(Flavor::from_program("/usr/bin/pgbackrest"), Flavor::Pgbackrest);
        assert_eq!(Flavor::from_program("pgbackrest"), Flavor::Pgbackrest);
        for other in ["pgbr", "./pgbr", "pgbackrest2", "/opt/pgbackrest/pgbr", ""] {
            assert_eq!(Flavor::from_program(other), Flavor::Pgbr, "{other}");
        }
    }

    #[test]
    fn versions_and_paths() {
        assert_eq!(Flavor::Pgbackrest.version_number(), 2_059_001);
        assert_eq!(Flavor::Pgbr.path("/etc/pgbackrest/pgbackrest.conf"), "/etc/pgbr/pgbr.conf");
        assert_eq!(Flavor::Pgbackrest.path("/etc/pgbackrest/conf.d"), "/etc/pgbackrest/conf.d");
    }
}
