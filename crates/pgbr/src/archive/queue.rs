//! What the server has ready for the archive: the files that `pg_wal/archive_status` names, in the order in which it will ask for them.

use std::path::Path;

use pgbr_manifest::WalFileName;

use crate::error::{Error, Result};

/// A file's place in the order: histories first, then by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    later: bool,
    name: String,
}

impl Place {
    pub(super) fn of(file: &WalFileName) -> Self {
        Self { later: !matches!(file, WalFileName::History(_)), name: file.to_string() }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

/// The file by which the server says that a WAL file waits.
pub(super) fn ready_file(wal_dir: &Path, name: &str) -> std::path::PathBuf {
    wal_dir.join("archive_status").join(format!("{name}.ready"))
}

/// The files that wait, sorted as the server will ask for them.
pub(super) fn ready(wal_dir: &Path) -> Result<Vec<(Place, WalFileName)>> {
    let status = wal_dir.join("archive_status");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&status).map_err(Error::io("list", &status))? {
        let name = entry.map_err(Error::io("list", &status))?.file_name();
        let file = name.to_str().and_then(|name| name.strip_suffix(".ready")?.parse::<WalFileName>().ok());
        files.extend(file.map(|file| (Place::of(&file), file)));
    }
    files.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    Ok(files)
}

/// How many bytes wait, without the files that `is_archived`.
pub(super) fn size(wal_dir: &Path, is_archived: impl Fn(&str) -> bool) -> Result<u64> {
    let waiting = ready(wal_dir)?.into_iter().filter(|(place, _)| !is_archived(place.name()));
    // One that is gone by now does not wait any more.
    Ok(waiting.map(|(place, _)| wal_dir.join(place.name()).metadata().map_or(0, |found| found.len())).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_wait_in_the_order_of_the_server() {
        let dir = tempfile::tempdir().unwrap();
        let status = dir.path().join("archive_status");
        std::fs::create_dir(&status).unwrap();
        let names = [
            "000000010000000000000003",
            "000000010000000000000003.00000028.backup",
            "000000010000000000000004.partial",
            "000000020000000000000004",
            "00000002.history",
        ];
        for name in names {
            std::fs::write(dir.path().join(name), [0; 10]).unwrap();
            std::fs::write(status.join(format!("{name}.ready")), "").unwrap();
        }
        for other in ["000000010000000000000002.done", "rubbish.ready", "000000010000000000000009.ready.x"] {
            std::fs::write(status.join(other), "").unwrap();
        }
        let found: Vec<String> =
            ready(dir.path()).unwrap().iter().map(|(_, file)| file.to_string()).collect();
        assert_eq!(found, [names[4], names[0], names[1], names[2], names[3]]);
        assert_eq!(size(dir.path(), |_| false).unwrap(), 50);
        assert_eq!(size(dir.path(), |name| name == names[0]).unwrap(), 40);
        assert!(ready(&dir.path().join("nowhere")).is_err());
    }
}
