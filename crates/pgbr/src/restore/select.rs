//! Which databases are restored: the others come back as zeros of the same size, so that recovery gets through, and can be dropped.

use std::collections::BTreeSet;

use pgbr_manifest::RelPath;
use pgbr_manifest::manifest::Database;

use crate::error::{Error, Result};

/// Databases with a lower OID are of the system.
const FIRST_USER_OID: u32 = 16384;
const SYSTEM_NAMES: [&str; 3] = ["postgres", "template0", "template1"];

/// Databases by name or OID; empty lists mean all of them.
#[derive(Debug, Clone, Default)]
pub struct Databases {
    /// Only these, besides those of the system.
    pub include: Vec<String>,
    /// Not these.
    pub exclude: Vec<String>,
}

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selection {
    /// All are restored.
    All,
    /// All but these.
    Without(BTreeSet<u32>),
    /// Only these: what was created while the backup was made is not among them.
    Only(BTreeSet<u32>),
}

/// Decides which databases are restored. What was asked for has to be there, and no database may be asked for both ways.
pub(crate) fn plan_databases(wanted: &Databases, found: &[Database]) -> Result<Selection> {
    let find = |name: &str, doing: &'static str| {
        let by_oid = found.iter().find(|db| db.oid.to_string() == name);
        let missing = || Error::NoDatabase { doing, name: name.to_owned() };
        by_oid.or_else(|| found.iter().find(|db| db.name == name)).ok_or_else(missing)
    };
    let mut excluded = BTreeSet::new();
    for name in &wanted.exclude {
        excluded.insert(find(name, "exclude")?.oid);
    }
    if wanted.include.is_empty() {
        return Ok(if excluded.is_empty() { Selection::All } else { Selection::Without(excluded) });
    }
    let system = found.iter().filter(|db| is_system(db) && !excluded.contains(&db.oid));
    let mut kept: BTreeSet<u32> = system.map(|db| db.oid).collect();
    for name in &wanted.include {
        let database = find(name, "include")?;
        let refused = |reason| Error::Database { name: name.clone(), reason };
        if is_system(database) {
            return Err(refused("system databases (template0, postgres, etc.) are included by default"));
        }
        if excluded.contains(&database.oid) {
            return Err(refused("it is in the exclude list as well"));
        }
        kept.insert(database.oid);
    }
    Ok(Selection::Only(kept))
}

fn is_system(database: &Database) -> bool {
    database.oid < FIRST_USER_OID || SYSTEM_NAMES.contains(&database.name.as_str())
}

impl Selection {
    /// The databases among `found` that come back as zeros.
    pub(crate) fn left_out(&self, found: &[Database]) -> Vec<String> {
        let out = |db: &&Database| match self {
            Self::All => false,
            Self::Without(excluded) => excluded.contains(&db.oid),
            Self::Only(kept) => !kept.contains(&db.oid),
        };
        found.iter().filter(out).map(|db| db.name.clone()).collect()
    }

    /// Whether a file gets its content. Files of no database do, and `PG_VERSION`, without which recovery ends.
    pub(crate) fn wants(&self, path: &RelPath) -> bool {
        if *self == Self::All || path.file_name() == b"PG_VERSION" {
            return true;
        }
        let Some(oid) = database_of(path) else { return true };
        match self {
            Self::All => true,
            Self::Without(excluded) => !excluded.contains(&oid),
            Self::Only(kept) => kept.contains(&oid),
        }
    }
}

/// The database whose directory a file lies in.
fn database_of(path: &RelPath) -> Option<u32> {
    let mut parts = path.components().peekable();
    let in_place = parts.next_if(|part| *part == b"pg_data").is_some();
    match parts.next()? {
        b"base" if in_place => {}
        // The tablespace, and the directory of the version in it.
        b"pg_tblspc" => drop((parts.next()?, parts.next()?)),
        _ => return None,
    }
    let oid = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
    parts.next().map(|_| oid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn databases() -> Vec<Database> {
        let database = |oid, name: &str| Database { oid, name: name.to_owned(), template: false };
        vec![
            database(1, "template1"),
            database(5, "postgres"),
            database(16384, "app"),
            database(16385, "16384"),
            database(20000, "template0"),
        ]
    }

    fn plan(include: &[&str], exclude: &[&str]) -> Result<Selection> {
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        plan_databases(&Databases { include: names(include), exclude: names(exclude) }, &databases())
    }

    #[test]
    fn those_asked_for_come_with_the_systems_own() {
        assert_eq!(plan(&[], &[]).unwrap(), Selection::All);
        assert_eq!(plan(&["app"], &[]).unwrap(), Selection::Only(BTreeSet::from([1, 5, 16384, 20000])));
        // A number is an OID first.
        assert_eq!(plan(&[], &["16384"]).unwrap(), Selection::Without(BTreeSet::from([16384])));
        assert_eq!(plan(&["16385"], &["template0"]).unwrap(), Selection::Only(BTreeSet::from([1, 5, 16385])));
        assert!(matches!(plan(&["gone"], &[]), Err(Error::NoDatabase { doing: "include", .. })));
        assert!(matches!(plan(&[], &["gone"]), Err(Error::NoDatabase { doing: "exclude", .. })));
        assert!(matches!(plan(&["postgres"], &[]), Err(Error::Database { .. })));
        assert!(matches!(plan(&["template0"], &[]), Err(Error::Database { .. })));
        assert!(matches!(plan(&["app"], &["16384"]), Err(Error::Database { .. })));
    }

    #[test]
    fn files_of_other_databases_are_not_wanted() {
        let only = plan(&["app"], &[]).unwrap();
        let wants = |path: &str| only.wants(&RelPath::new(path).unwrap());
        for path in [
            "pg_data/base/16384/1259",
            "pg_data/base/1/1259",
            "pg_data/base/16385/PG_VERSION",
            "pg_data/global/1262",
            "pg_data/base/pgsql_tmp/16385",
            "pg_data/pg_wal/16385/x",
            "pg_tblspc/16400/PG_15_202209061/16384/2",
            "pg_tblspc/16385/PG_15_202209061/1/2",
        ] {
            assert!(wants(path), "{path}");
        }
        for path in [
            "pg_data/base/16385/1259",
            "pg_data/base/99999/1259",
            "pg_tblspc/16400/PG_15_202209061/16385/2",
            "pg_data/pg_tblspc/16400/PG_15_202209061/16385/2",
        ] {
            assert!(!wants(path), "{path}");
        }
    }
}
