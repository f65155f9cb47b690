//! Info files of pgBackRest with a right checksum: what a manifest promises holds for whatever is read.

use std::collections::HashSet;

use pgbr_pgbackrest::{ArchiveInfo, BackupInfo, Manifest};

pub(crate) fn run(data: &[u8]) {
    let text = crate::pgbackrest::seal(data);
    if let Ok(info) = ArchiveInfo::parse("info", &text[..]) {
        assert!(info.history.contains(&info.current));
    }
    if let Ok(info) = BackupInfo::parse("info", &text[..]) {
        assert!(info.history.contains(&info.current));
        assert!(info.backups.iter().all(|entry| info.cluster(entry.cluster).is_some()));
    }
    let Ok(manifest) = Manifest::parse("manifest", &text[..]) else { return };
    let directories: HashSet<&[u8]> = manifest.directories.iter().map(|d| d.path.as_bytes()).collect();
    assert!(manifest.references.contains(&manifest.label));
    for file in &manifest.files {
        assert!(manifest.references.contains(&manifest.owner(file)));
        assert!(file.path.parent().is_some() && !directories.contains(file.path.as_bytes()));
        assert!(manifest.file(&file.path) == Some(file));
    }
}
