//! Where the PostgreSQL installations for tests are found.

use std::path::{Path, PathBuf};

/// The majors that tests run against unless `PGBR_TEST_PG_MAJORS` says otherwise: the oldest, Debian 12's own, and the
/// two newest. `scripts/test.sh` installs the same ones.
const DEFAULT_MAJORS: [u32; 4] = [13, 15, 17, 18];

/// Where Debian's packages put servers.
const SYSTEM_ROOT: &str = "/usr/lib/postgresql";

/// One installed major version of PostgreSQL.
#[derive(Debug, Clone)]
pub struct PgInstall {
    major: u32,
    bin: PathBuf,
}

impl PgInstall {
    /// Finds a major version: in `PGBR_TEST_PG_DIR/<major>/bin`, where Debian's packages put it, or in the caches that
    /// `scripts/install-postgres.sh` fills.
    ///
    /// # Panics
    /// When it is in none of these places, with the command that installs it.
    pub fn find(major: u32) -> Self {
        let places = candidates(major);
        match places.iter().find(|bin| bin.join("postgres").is_file()) {
            Some(bin) => Self { major, bin: bin.clone() },
            None => panic!(
                "PostgreSQL {major} is not installed (looked in {}); install it with: scripts/install-postgres.sh {major}",
                places.iter().map(|bin| bin.display().to_string()).collect::<Vec<_>>().join(", ")
            ),
        }
    }

    /// All majors that the tests are to run against: those in `PGBR_TEST_PG_MAJORS` (numbers, divided by commas or
    /// blanks), or 13, 15, 17 and 18. Ascending.
    ///
    /// # Panics
    /// When one of them is not installed or the variable cannot be read.
    pub fn all() -> Vec<Self> {
        wanted_majors().into_iter().map(Self::find).collect()
    }

    /// The newest of [`PgInstall::all`], for tests that need a server and no particular one.
    ///
    /// # Panics
    /// When it is not installed.
    pub fn newest() -> Self {
        Self::find(wanted_majors().last().copied().expect("the list of majors is never empty"))
    }

    /// Two versions for pg_upgrade, the older one first: the newest two of [`PgInstall::all`] that
    /// `scripts/install-postgres.sh` unpacked, whose minor releases are pinned and of the same time. A server of the
    /// system may be younger than the newest major here, and then has what that one's restore of a schema refuses. Where
    /// there are no two of them, both are the newest.
    ///
    /// # Panics
    /// When one of [`PgInstall::all`] is not installed.
    pub fn upgrade_pair() -> (Self, Self) {
        let pinned: Vec<Self> =
            Self::all().into_iter().filter(|install| !install.bin.starts_with(SYSTEM_ROOT)).collect();
        match pinned.as_slice() {
            [.., old, new] => (old.clone(), new.clone()),
            _ => (Self::newest(), Self::newest()),
        }
    }

    /// The major version.
    pub fn major(&self) -> u32 {
        self.major
    }

    /// The directory of its programs.
    pub fn bin_dir(&self) -> &Path {
        &self.bin
    }

    /// The path of one of its programs.
    ///
    /// # Panics
    /// When this installation does not have it.
    pub fn bin(&self, name: &str) -> PathBuf {
        let path = self.bin.join(name);
        assert!(path.is_file(), "this installation of PostgreSQL {} has no {}", self.major, path.display());
        path
    }

    /// Whether it has a program (13 has no `pg_amcheck`, 13 and 14 have no `pg_walsummary`, …).
    pub fn has(&self, name: &str) -> bool {
        self.bin.join(name).is_file()
    }
}

fn candidates(major: u32) -> Vec<PathBuf> {
    let mut roots = Vec::new();
    if let Some(dir) = std::env::var_os("PGBR_TEST_PG_DIR") {
        roots.push(PathBuf::from(dir));
    }
    roots.push(PathBuf::from(SYSTEM_ROOT));
    roots.push(PathBuf::from("/var/cache/pgbr-test/pg"));
    if let Some(home) = std::env::var_os("HOME") {
        roots.push(PathBuf::from(home).join(".cache/pgbr-test/pg"));
    }
    roots.into_iter().map(|root| root.join(major.to_string()).join("bin")).collect()
}

fn wanted_majors() -> Vec<u32> {
    let text = std::env::var("PGBR_TEST_PG_MAJORS").unwrap_or_default();
    let mut majors: Vec<u32> = text
        .split(|c: char| c == ',' || c.is_whitespace())
        .filter(|part| !part.is_empty())
        .map(|part| {
            part.parse().unwrap_or_else(|_| panic!("PGBR_TEST_PG_MAJORS: \"{part}\" is not a major version"))
        })
        .collect();
    if majors.is_empty() {
        majors.extend(DEFAULT_MAJORS);
    }
    majors.sort_unstable();
    majors.dedup();
    majors
}
