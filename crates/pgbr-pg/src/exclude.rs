//! What of a data directory is never copied, and what the operator does not want. Pure.
//!
//! The server's own list is in src/backend/backup/basebackup.c (`excludeDirContents`, `excludeFiles`) and is the same in 13 to 18;
//! what a restored server must not find (signal files, an old label) comes on top.

use pgbr_manifest::RelPath;

use crate::durable::TEMPORARY_SUFFIX;
use crate::relation::{holds_relations, is_temporary};

/// Directories that the server fills anew; they must exist, empty.
const EMPTIED: [&str; 9] = [
    "pg_data/pg_dynshmem",
    "pg_data/pg_notify",
    "pg_data/pg_replslot",
    "pg_data/pg_serial",
    "pg_data/pg_snapshots",
    "pg_data/pg_stat_tmp",
    "pg_data/pg_subtrans",
    ARCHIVE_STATUS,
    SUMMARIES,
];
const WAL: &str = "pg_data/pg_wal";
const ARCHIVE_STATUS: &str = "pg_data/pg_wal/archive_status";
const SUMMARIES: &str = "pg_data/pg_wal/summaries";

/// Files at the top of the data directory that describe the running server, or a backup or recovery that is over.
const TOP_FILES: [&[u8]; 17] = [
    b"backup_label",
    b"backup_label.old",
    b"backup_label.tmp",
    b"backup_manifest",
    b"backup_manifest.tmp",
    b"current_logfiles",
    b"current_logfiles.tmp",
    b"postgresql.auto.conf.tmp",
    b"postmaster.opts",
    b"postmaster.pid",
    b"recovery.conf",
    b"recovery.done",
    b"recovery.signal",
    b"standby.signal",
    b"tablespace_map",
    b"tablespace_map.old",
    b"tablespace_map.tmp",
];

/// What becomes of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "callers decide for each")]
pub enum DirectoryRule {
    /// It is copied with what is in it.
    Keep,
    /// It is copied without what is in it.
    Empty,
    /// It is not copied.
    Skip,
}

/// The rules of one backup.
#[derive(Debug, Clone, Default)]
pub struct Exclusions {
    wanted_out: Vec<WantedOut>,
    wal_inside: bool,
}

#[derive(Debug, Clone)]
struct WantedOut {
    path: Vec<u8>,
    contents_only: bool,
}

impl Exclusions {
    /// Rules with the operator's own, each relative to the data directory: `junk` is a file or a whole directory, `junk/` what is
    /// in a directory but not the directory itself. What begins with `pg_tblspc/` also means tablespaces under links.
    ///
    /// `wal_inside`: whether what lies in `pg_wal` is part of the backup, as in one of a stopped server.
    pub fn new<S: AsRef<str>>(exclude: &[S], wal_inside: bool) -> Self {
        let mut wanted_out = Vec::new();
        for text in exclude {
            let text = text.as_ref();
            let contents_only = text.ends_with('/');
            let path = text.trim_matches('/');
            if path.is_empty() {
                continue;
            }
            wanted_out.push(WantedOut { path: format!("pg_data/{path}").into_bytes(), contents_only });
            if path.starts_with("pg_tblspc/") {
                wanted_out.push(WantedOut { path: path.as_bytes().to_owned(), contents_only });
            }
        }
        Self { wanted_out, wal_inside }
    }

    /// What becomes of the directory at `path`.
    pub fn directory(&self, path: &RelPath) -> DirectoryRule {
        let name = path.file_name();
        if name.starts_with(b"pgsql_tmp") || self.wanted_out.iter().any(|out| out.covers(path)) {
            return DirectoryRule::Skip;
        }
        if EMPTIED.iter().any(|emptied| emptied.as_bytes() == path.as_bytes()) {
            return DirectoryRule::Empty;
        }
        if path.strip(WAL).is_some_and(|rest| !rest.is_empty()) && (!self.wal_inside || name == b"lost+found")
        {
            return DirectoryRule::Skip;
        }
        DirectoryRule::Keep
    }

    /// Whether the file at `path` is left out. That an unlogged relation has other forks than `init` only the whole directory
    /// tells: see [`crate::Scan`].
    pub fn skips_file(&self, path: &RelPath) -> bool {
        let name = path.file_name();
        let Some(directory) = path.parent() else { return true };
        let top = directory.as_bytes() == b"pg_data" && TOP_FILES.contains(&name);
        let anywhere = name.starts_with(b"pgsql_tmp")
            || name == b".DS_Store"
            || name.ends_with(TEMPORARY_SUFFIX.as_bytes());
        let beside_relations = || {
            let server_file =
                name.starts_with(b"pg_internal.init") || name == b"pg_filenode.map.tmp" || is_temporary(name);
            server_file && holds_relations(&directory)
        };
        let wal = !self.wal_inside && directory.as_bytes() == WAL.as_bytes();
        top || anywhere || wal || beside_relations() || self.wanted_out.iter().any(|out| out.covers(path))
    }
}

impl WantedOut {
    fn covers(&self, path: &RelPath) -> bool {
        let rest = path.as_bytes().strip_prefix(self.path.as_slice());
        rest.is_some_and(|rest| rest.starts_with(b"/") || (rest.is_empty() && !self.contents_only))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text).unwrap()
    }

    #[test]
    fn the_servers_own_list() {
        let rules = Exclusions::default();
        for out in [
            "pg_data/postmaster.pid",
            "pg_data/backup_label",
            "pg_data/standby.signal",
            "pg_data/current_logfiles",
            "pg_data/base/5/pg_internal.init",
            "pg_data/global/pg_internal.init.123",
            "pg_data/global/pg_filenode.map.tmp",
            "pg_data/base/5/t3_16384_vm",
            "pg_data/base/pgsql_tmp123",
            "pg_data/pg_wal/000000010000000000000001",
            "pg_data/.DS_Store",
            "pg_data/global/pg_control.pgbr.tmp",
            "pg_tblspc/16400/PG_15_202209061/5/t3_16384",
        ] {
            assert!(rules.skips_file(&path(out)), "{out}");
        }
        for kept in [
            "pg_data/PG_VERSION",
            "pg_data/global/pg_control",
            "pg_data/global/pg_filenode.map",
            "pg_data/postgresql.auto.conf",
            "pg_data/base/5/16384_init",
            "pg_data/sub/postmaster.pid",
            "pg_data/log/t3_16384",
            "pg_data/pg_twophase/0000000000000300",
        ] {
            assert!(!rules.skips_file(&path(kept)), "{kept}");
        }
    }

    #[test]
    fn directories_that_are_emptied_stay() {
        let rules = Exclusions::default();
        for (directory, rule) in [
            ("pg_data", DirectoryRule::Keep),
            ("pg_data/pg_wal", DirectoryRule::Keep),
            ("pg_data/pg_wal/archive_status", DirectoryRule::Empty),
            ("pg_data/pg_wal/summaries", DirectoryRule::Empty),
            ("pg_data/pg_wal/lost+found", DirectoryRule::Skip),
            ("pg_data/pg_replslot", DirectoryRule::Empty),
            ("pg_data/pg_stat", DirectoryRule::Keep),
            ("pg_data/base/pgsql_tmp", DirectoryRule::Skip),
            ("pg_tblspc/16400/PG_15_202209061/pgsql_tmp", DirectoryRule::Skip),
            ("pg_data/other/pg_notify", DirectoryRule::Keep),
        ] {
            assert_eq!(rules.directory(&path(directory)), rule, "{directory}");
        }
    }

    #[test]
    fn wal_can_be_inside() {
        let rules = Exclusions::new::<&str>(&[], true);
        assert!(!rules.skips_file(&path("pg_data/pg_wal/000000010000000000000001")));
        assert_eq!(rules.directory(&path("pg_data/pg_wal/archive_status")), DirectoryRule::Empty);
        assert_eq!(rules.directory(&path("pg_data/pg_wal/lost+found")), DirectoryRule::Skip);
    }

    #[test]
    fn operators_leave_out_files_directories_and_contents() {
        let rules = Exclusions::new(&["junk", "log/", "/x.txt", "pg_tblspc/16400/a", ""], false);
        assert_eq!(rules.directory(&path("pg_data/junk")), DirectoryRule::Skip);
        assert!(rules.skips_file(&path("pg_data/junk/a")));
        assert_eq!(rules.directory(&path("pg_data/junkyard")), DirectoryRule::Keep);
        assert_eq!(rules.directory(&path("pg_data/log")), DirectoryRule::Keep);
        assert!(rules.skips_file(&path("pg_data/log/a")));
        assert_eq!(rules.directory(&path("pg_data/log/sub")), DirectoryRule::Skip);
        assert!(rules.skips_file(&path("pg_data/x.txt")));
        assert!(rules.skips_file(&path("pg_tblspc/16400/a")));
        assert_eq!(rules.directory(&path("pg_data")), DirectoryRule::Keep);
    }
}
