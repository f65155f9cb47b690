//! Every file of every backup, held against its manifest, against what is known of the cluster, and against pgBackRest's own restore.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;

use pgbr_manifest::{BackupType, RelPath};
use pgbr_pgbackrest::{Backup, Checksum, Compression, File, Place, TargetKind, WalRange};
use pgbr_testkit::PgBackRest;

use crate::written::{Storage, Written, all, alone, dense, offline, owner};

/// Opens each backup that can be used.
fn each_backup(written: &Written, mut test: impl FnMut(&Backup)) {
    let backups = written.stanza().backups().unwrap();
    for entry in &backups.usable {
        test(&backups.open(entry.label).unwrap());
    }
}

fn read(backup: &Backup, file: &File) -> Vec<u8> {
    let mut content = Vec::new();
    let opened = backup.open(file).unwrap_or_else(|error| panic!("{}: {error}", file.path));
    { opened }.read_to_end(&mut content).unwrap_or_else(|error| panic!("{}: {error}", file.path));
    content
}

#[test]
fn all_files_are_what_their_manifest_says() {
    for written in &all().repositories {
        let (mut backups, mut files, mut bytes) = (0, 0, 0);
        each_backup(written, |backup| {
            backups += 1;
            for file in &backup.manifest().files {
                // Size and checksum are looked at by the reader; this is to see that it does.
                assert_eq!(read(backup, file).len() as u64, file.size, "{}: {}", written.kind, file.path);
                (files, bytes) = (files + 1, bytes + file.size);
            }
        });
        assert!(files > 250 * backups, "{}: only {files} files were read", written.kind);
        println!("{}: {files} files, {bytes} bytes", written.kind);
    }
}

#[test]
fn backups_are_listed_as_they_were_made() {
    let mut chains = BTreeSet::new();
    for written in &all().repositories {
        let backups = written.stanza().backups().unwrap();
        let kinds: Vec<BackupType> = backups.usable.iter().map(|entry| entry.kind).collect();
        assert_eq!(kinds.first(), Some(&BackupType::Full));
        assert_eq!(kinds.len() == 1, alone(written.kind), "{kinds:?}");
        chains.insert(kinds);
        assert!(backups.dropped.is_empty() && backups.unlisted.is_empty() && backups.unfinished.is_empty());
        assert!(backups.info.from_copy.is_none());
        assert_eq!(backups.info.info.current.version.to_string(), "15");
        for entry in &backups.usable {
            let backup = backups.open(entry.label).unwrap();
            let manifest = backup.manifest();
            assert_eq!(
                (manifest.label, manifest.kind, manifest.prior),
                (entry.label, entry.kind, entry.prior)
            );
            assert_eq!(manifest.wal, entry.wal);
            assert_eq!(manifest.cluster, backups.info.info.current);
            assert_eq!(manifest.stopped, entry.stopped);
            assert_eq!(manifest.references[..manifest.references.len() - 1], entry.references);
            assert_eq!(entry.annotations.get("who").map(String::as_str), Some("the tests"));
            assert_eq!(manifest.annotations, entry.annotations);
            assert_eq!(manifest.files.iter().map(|file| file.size).sum::<u64>(), entry.sizes.original);
            assert_eq!(entry.page_errors, Some(false));
            assert_eq!(entry.options.online, !offline(written.kind));
            assert_eq!(manifest.options.online, entry.options.online);
            assert!(!entry.options.archive_check);
            let WalRange { start, stop, start_lsn, stop_lsn, .. } = entry.wal;
            let known = [start.is_some(), stop.is_some(), start_lsn.is_some(), stop_lsn.is_some()];
            assert_eq!(known, [entry.options.online; 4]);
        }
    }
    let longest = [BackupType::Full, BackupType::Diff, BackupType::Incr, BackupType::Incr];
    assert!(chains.contains(&longest[..]), "{chains:?}");
}

#[test]
fn a_manifest_tells_what_was_backed_up() {
    for written in &all().repositories {
        each_backup(written, |backup| {
            let manifest = backup.manifest();
            assert_eq!(manifest.options.compression, written.kind.compression);
            assert_eq!(manifest.options.bundle, written.kind.storage != Storage::Own);
            assert_eq!(manifest.options.block_incr, written.kind.storage == Storage::Blocks);
            assert_eq!(manifest.passphrase.is_some(), written.kind.cipher);
            let databases: Vec<&str> =
                manifest.databases.iter().map(|database| database.name.as_str()).collect();
            // Only the server tells them.
            assert_eq!(databases, if manifest.options.online { vec!["postgres"] } else { vec![] });
            let space = if manifest.options.online { "side" } else { "ts16384" };
            let kinds: Vec<_> = manifest.targets.iter().map(|target| &target.kind).collect();
            assert!(
                matches!(
                    kinds[..],
                    [TargetKind::DataDirectory, TargetKind::LinkedFile(file), TargetKind::LinkedDirectory, TargetKind::Tablespace { name, .. }]
                        if file == "pg_ident.conf" && name == space
                ),
                "{kinds:?}"
            );
            assert_eq!(manifest.links.len(), 3, "two links and that of the tablespace");
            let control = manifest.file(&RelPath::new(RelPath::PG_CONTROL).unwrap()).unwrap();
            assert_eq!((control.size, control.user.name()), (8192, Some(owner())));
            assert_eq!(control.mode.to_string(), "0600");
            let directory = |d: &&pgbr_pgbackrest::ManifestDirectory| d.path.as_bytes() == b"pg_data/global";
            assert_eq!(manifest.directories.iter().find(directory).unwrap().mode.to_string(), "0700");
        });
    }
}

#[test]
fn every_way_of_storing_a_whole_file_is_met() {
    let (mut own, mut bundled, mut referenced, mut empty) = (0, 0, 0, 0);
    for written in &all().repositories {
        each_backup(written, |backup| {
            for file in &backup.manifest().files {
                match file.place {
                    Place::Own => own += 1,
                    Place::Bundle { .. } => bundled += 1,
                }
                referenced += u32::from(file.reference.is_some());
                empty += u32::from(file.size == 0);
                assert!(file.blocks.is_none() || written.kind.storage == Storage::Blocks);
            }
        });
    }
    assert!(own > 0 && bundled > 0 && referenced > 0 && empty > 0);
}

/// Byte by byte, for one repository of each storage: of the newest backup, which refers to all the others. A restore waits for the disk at
/// every file, so only with all combinations is there one of files that have objects of their own.
#[test]
fn files_are_what_pgbackrest_restores() {
    let all = all();
    let of_each = [(true, Storage::Own), (false, Storage::Bundles), (true, Storage::Blocks)];
    let wanted = of_each.into_iter().filter(|(_, storage)| dense() || *storage != Storage::Own);
    for written in wanted.filter_map(|(cipher, storage)| all.find(cipher, storage)) {
        let backups = written.stanza().backups().unwrap();
        let newest = backups.usable.iter().max_by_key(|entry| entry.stopped).unwrap();
        let backup = backups.open(newest.label).unwrap();
        let data = all.restore(written, &newest.label.to_string());
        let mut compared = 0;
        for file in &backup.manifest().files {
            let path = file.path.to_string();
            let restored = data.join(path.strip_prefix("pg_data/").unwrap_or(&path));
            // Restore makes the links by itself, and writes settings of its own.
            if ["pg_data/tablespace_map", "pg_data/postgresql.auto.conf"].contains(&path.as_str()) {
                continue;
            }
            let (restored, content) = (fs::read(&restored).unwrap(), read(&backup, file));
            // Newer ones than Debian's spoil the position of the checkpoint and the CRC, lest the server starts without backup_label.
            let spoiled = path == RelPath::PG_CONTROL && PgBackRest::version() > (2, 45);
            let differing = restored.iter().zip(&content).filter(|(a, b)| a != b).count();
            let same = restored.len() == content.len() && differing <= if spoiled { 12 } else { 0 };
            assert!(same, "{}: {path} differs in {differing} bytes", written.kind);
            compared += 1;
        }
        assert!(compared > 250, "only {compared} files were compared");
        fs::remove_dir_all(data.parent().unwrap()).unwrap();
    }
}

#[test]
fn known_content_comes_out() {
    for written in &all().repositories {
        each_backup(written, |backup| {
            let version = backup.manifest().file(&RelPath::new("pg_data/PG_VERSION").unwrap()).unwrap();
            assert_eq!(read(backup, version), b"15\n");
            let label = backup.manifest().file(&RelPath::new("pg_data/backup_label").unwrap());
            assert_eq!(label.is_some(), backup.manifest().options.online);
            assert!(label.is_none_or(|label| read(backup, label).starts_with(b"START WAL LOCATION")));
            let empty = backup.manifest().files.iter().find(|file| file.size == 0).unwrap();
            assert_eq!((read(backup, empty).len(), empty.checksum), (0, Checksum::EMPTY));
        });
    }
    assert!(all().repositories.iter().any(|written| written.kind.compression == Compression::None));
}
