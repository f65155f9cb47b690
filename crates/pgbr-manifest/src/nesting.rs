//! Whether every entry of a resolved list lies in a directory of the same list.
//!
//! What is restored to `a/b` goes through whatever stands at `a`: only where the list itself makes a directory of it, it is none that leads elsewhere.

use crate::error::{Error, Result};
use crate::path::RelPath;

/// The directory of the control file, which comes when all directories have been left, as the segments in `pg_wal` do.
const GLOBAL: &str = "pg_data/global";

/// Follows a resolved list. Memory: the path of each directory between the root and the current place.
#[derive(Debug, Clone, Default)]
pub struct Nesting {
    open: Vec<RelPath>,
    has_global: bool,
    has_wal: bool,
}

impl Nesting {
    /// The next entry, in index order, is at `path`.
    ///
    /// # Errors
    /// When it lies in a directory that the list does not have. Config files, which lie outside of any, and the roots `pg_data` and
    /// `pg_tblspc/<oid>` need none.
    pub fn pass(&mut self, path: &RelPath, is_directory: bool) -> Result<()> {
        while self.open.last().is_some_and(|open| *open == *path || !path.is_within(open)) {
            self.open.pop();
        }
        let fits = match path.parent() {
            None => true,
            Some(_) if path.strip("config").is_some() => true,
            Some(parent) if parent.as_bytes() == b"pg_tblspc" => true,
            Some(_) if path.is_pg_control() => self.has_global,
            Some(_) if path.is_wal_segment() => self.has_wal && !is_directory,
            parent => self.open.last() == parent.as_ref(),
        };
        if !fits {
            return Err(Error::Inconsistent {
                reason: format!("'{path}' lies in no directory of the backup"),
            });
        }
        if is_directory {
            self.has_global |= path.as_bytes() == GLOBAL.as_bytes();
            self.has_wal |= path.as_bytes() == RelPath::PG_WAL.as_bytes();
            self.open.push(path.clone());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Passes entries; those that end in a slash are directories. Gives the first that is refused.
    fn refused<'a>(entries: &[&'a str]) -> Option<&'a str> {
        let mut nesting = Nesting::default();
        let mut pass = |entry: &str| {
            let path = RelPath::new(entry.trim_end_matches('/')).unwrap();
            nesting.pass(&path, entry.ends_with('/')).is_ok()
        };
        entries.iter().copied().find(|entry| !pass(entry))
    }

    #[test]
    fn every_entry_lies_in_a_directory() {
        let whole = [
            "config/etc/x.conf",
            "pg_data/",
            "pg_data/PG_VERSION",
            "pg_data/base/",
            "pg_data/base/1/",
            "pg_data/base/1/2",
            "pg_data/global/",
            "pg_data/global/1",
            "pg_data/pg_wal",
            "pg_data/pg_wal/",
            "pg_data/pg_wal/archive_status/",
            "pg_data/z",
            "pg_tblspc/7/",
            "pg_tblspc/7/PG_15/",
            "pg_tblspc/7/PG_15/1",
            "pg_data/global/pg_control",
            "pg_data/pg_wal/000000010000000000000002",
        ];
        assert_eq!(refused(&whole), None);
        for left_out in
            ["pg_data/", "pg_data/base/", "pg_data/base/1/", "pg_tblspc/7/PG_15/", "pg_data/pg_wal/"]
        {
            let rest: Vec<_> = whole.iter().copied().filter(|entry| *entry != left_out).collect();
            let first = whole.iter().skip_while(|entry| **entry != left_out).nth(1).copied();
            assert_eq!(refused(&rest), first, "without {left_out}");
        }
        let rest: Vec<_> =
            whole.iter().copied().filter(|entry| !entry.starts_with("pg_data/global/")).collect();
        assert_eq!(refused(&rest), None);
        assert_eq!(refused(&[&rest[..], &whole[15..]].concat()), Some("pg_data/global/pg_control"));
        let segment = whole[16];
        let rest: Vec<_> = whole.iter().copied().filter(|entry| *entry != "pg_data/pg_wal/").collect();
        let rest: Vec<_> = rest.into_iter().filter(|entry| !entry.ends_with("archive_status/")).collect();
        assert_eq!(refused(&rest), Some(segment));
        assert_eq!(
            refused(&["pg_data/", "pg_data/pg_wal/", "pg_data/pg_wal/000000010000000000000002/"]),
            Some("pg_data/pg_wal/000000010000000000000002/"),
            "a segment is a file"
        );
        assert_eq!(refused(&["pg_data/", "pg_data/a", "pg_data/a/b"]), Some("pg_data/a/b"), "a file is none");
    }
}
