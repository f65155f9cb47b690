//! Where everything lies in a repository: all keys are spelled and parsed here.

use pgbr_manifest::{BackupLabel, RelPath, StanzaName, WalFileName, WalSegmentName};

use crate::compression::Compression;
use crate::error::{Error, Result};
use crate::names::{ArchiveId, Checksum};

/// What a file is called that is being written.
const TEMPORARY: &str = ".pgbackrest.tmp";

pub(crate) fn archive_root() -> &'static str {
    "archive"
}

pub(crate) fn backup_root() -> &'static str {
    "backup"
}

pub(crate) fn archive(stanza: &StanzaName) -> String {
    format!("archive/{stanza}")
}

pub(crate) fn archive_info(stanza: &StanzaName) -> String {
    format!("archive/{stanza}/archive.info")
}

pub(crate) fn wal_root(stanza: &StanzaName, id: ArchiveId) -> String {
    format!("archive/{stanza}/{id}")
}

pub(crate) fn backups(stanza: &StanzaName) -> String {
    format!("backup/{stanza}")
}

pub(crate) fn backup_info(stanza: &StanzaName) -> String {
    format!("backup/{stanza}/backup.info")
}

pub(crate) fn manifest(stanza: &StanzaName, label: BackupLabel) -> String {
    format!("backup/{stanza}/{label}/backup.manifest")
}

/// The copy of an info file.
pub(crate) fn copy_of(object: &str) -> String {
    format!("{object}.copy")
}

pub(crate) fn bundle(stanza: &StanzaName, label: BackupLabel, id: u64) -> String {
    format!("backup/{stanza}/{label}/bundle/{id}")
}

/// A file that lies in an object of its own: `ending` is that of its compression or of blocks.
pub(crate) fn own_file(
    stanza: &StanzaName,
    label: BackupLabel,
    path: &RelPath,
    ending: &str,
) -> Result<String> {
    let object = |path: &str| format!("backup/{stanza}/{label}/{path}{ending}");
    match std::str::from_utf8(path.as_bytes()) {
        Ok(text) => Ok(object(text)),
        Err(_) => Err(Error::Invalid {
            object: object(&path.to_string()),
            what: "the path".to_owned(),
            reason: "is not UTF-8, so no object can be asked for by it".to_owned(),
        }),
    }
}

/// What the object of a file ends in that is stored as blocks.
pub(crate) const BLOCKS: &str = ".pgbi";

/// Where a file of the archive lies.
pub(crate) fn wal_directory(stanza: &StanzaName, id: ArchiveId, file: &WalFileName) -> String {
    match file.segment() {
        Some(segment) => format!("archive/{stanza}/{id}/{}", segment.directory()),
        None => wal_root(stanza, id),
    }
}

/// Whether a directory of an archive holds segments: 16 hexadecimal digits.
pub(crate) fn is_wal_directory(name: &str) -> bool {
    name.len() == 16 && format!("{name}00000000").parse::<WalSegmentName>().is_ok()
}

/// What the name of an object in an archive says: the file, the checksum of its content, how it is compressed. `None` where it is no such name.
pub(crate) fn parse_wal_object(name: &str) -> Option<(WalFileName, Option<Checksum>, Compression)> {
    if name.ends_with(TEMPORARY) {
        return None;
    }
    if let Ok(file @ (WalFileName::History(_) | WalFileName::BackupHistory(..))) = name.parse() {
        return Some((file, None, Compression::None));
    }
    let (file, rest) = name.split_once('-')?;
    let file: WalFileName = file.parse().ok()?;
    let (checksum, ending) = rest.split_at_checked(40)?;
    let compression = Compression::ALL.into_iter().find(|compression| compression.extension() == ending)?;
    match file {
        WalFileName::Segment(_) | WalFileName::Partial(_) => {
            Some((file, Some(checksum.parse().ok()?), compression))
        }
        WalFileName::History(_) | WalFileName::BackupHistory(..) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUM: &str = "da39a3ee5e6b4b0d3255bfef95601890afd80709";

    #[test]
    fn names_in_an_archive_are_told_apart() {
        for (ending, compression) in
            [("", Compression::None), (".gz", Compression::Gz), (".zst", Compression::Zst)]
        {
            for file in ["000000010000000000000004", "000000010000000000000004.partial"] {
                let found = parse_wal_object(&format!("{file}-{SUM}{ending}"));
                assert_eq!(found, Some((file.parse().unwrap(), Some(Checksum::EMPTY), compression)));
            }
        }
        for file in ["00000002.history", "000000010000000000000004.00000028.backup"] {
            assert_eq!(parse_wal_object(file), Some((file.parse().unwrap(), None, Compression::None)));
        }
        for other in [
            "000000010000000000000004",
            &format!("000000010000000000000004-{SUM}.xz"),
            &format!("000000010000000000000004-{SUM}.gz{TEMPORARY}"),
            &format!("00000002.history-{SUM}"),
            &format!("000000010000000000000004-{}", SUM.to_uppercase()),
            "000000010000000000000004-da39",
            "000000010000000000000004-é",
            "",
        ] {
            assert_eq!(parse_wal_object(other), None, "{other}");
        }
        assert!(is_wal_directory("0000000100000000"));
        assert!(!is_wal_directory("000000010000000") && !is_wal_directory("00000001000000éé"));
    }
}
