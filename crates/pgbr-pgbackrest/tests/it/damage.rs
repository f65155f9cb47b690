//! Repositories that lost something, or had it changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use pgbr_pgbackrest::{
    Compression, Error, Level, ObjectError, Objects, Passphrase, Place, Repository, Stanza,
};

use crate::info_text::{reseal, seal_as};
use crate::written::{STANZA, Storage, Written, all};

const INFO: &str = "backup/main/backup.info";

type Bucket = BTreeMap<String, Vec<u8>>;

fn newest(stanza: &Stanza) -> pgbr_manifest::BackupLabel {
    stanza.backups().unwrap().usable.last().unwrap().label
}

fn flip(objects: &mut Bucket, object: &str) {
    let bytes = objects.get_mut(object).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x20;
}

#[test]
fn a_copy_stands_in_for_a_damaged_info_file() {
    let all = all();
    for written in [all.one(false, Storage::Own), all.one(true, Storage::Bundles)] {
        let label = newest(&written.stanza());
        for object in [INFO, "archive/main/archive.info", &format!("backup/main/{label}/backup.manifest")] {
            let objects = written.objects();
            let mut damaged = objects.clone();
            flip(&mut damaged, object);
            let mut missing = objects.clone();
            missing.remove(object);
            let mut empty = objects.clone();
            empty.insert(object.to_owned(), Vec::new());
            // A manifest that is missing is another thing than a damaged one.
            let harmed = if object.contains("manifest") {
                vec![damaged, empty]
            } else {
                vec![damaged, missing, empty]
            };
            for objects in harmed {
                let stanza = written.stanza_of(objects.clone());
                let why = load(&stanza, object, label).unwrap();
                let why = why.unwrap_or_else(|| panic!("{object} is harmed, so its copy was used"));
                assert!(why.to_string().contains(object), "{why}");

                let mut both = objects;
                let copy = format!("{object}.copy");
                let half = both[&copy].len() / 2;
                both.get_mut(&copy).unwrap().truncate(half);
                let error = load(&written.stanza_of(both), object, label).unwrap_err();
                assert!(matches!(error, Error::NoCopy { .. }), "{error:?}");
                assert!(error.to_string().contains(object) && error.to_string().contains(&copy), "{error}");
            }
        }
    }
}

/// Reads one of the info files and says what was wrong with it, if its copy had to do.
fn load(stanza: &Stanza, object: &str, label: pgbr_manifest::BackupLabel) -> Result<Option<Error>, Error> {
    if object.contains("archive") {
        return Ok(stanza.archive_info()?.from_copy);
    }
    let info = stanza.backup_info()?;
    if object.contains("manifest") {
        let backup = stanza.backup(&info.info, label)?;
        return Ok(backup.from_copy().map(|error| Error::NoBackup {
            stanza: stanza.name().clone(),
            label,
            reason: error.to_string(),
        }));
    }
    Ok(info.from_copy)
}

#[test]
fn the_passphrase_must_be_that_of_the_repository() {
    let all = all();
    let open = |written: &Written, passphrase: Option<&str>| {
        let repository = Repository::new(Arc::new(written.objects()), passphrase.map(Passphrase::new));
        let stanza = repository.stanza(STANZA.parse().unwrap());
        [stanza.backups().unwrap_err(), stanza.archive().unwrap_err()]
    };
    for error in open(all.one(true, Storage::Own), Some("another one")) {
        assert!(matches!(error, Error::WrongPassphrase { .. }), "{error:?}");
    }
    for error in open(all.one(true, Storage::Own), None) {
        assert!(matches!(error, Error::Encrypted { .. }), "{error:?}");
    }
    for error in open(all.one(false, Storage::Own), Some("not needed")) {
        assert!(matches!(error, Error::NotEncrypted { .. }), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("not needed"));
    }
}

#[test]
fn cut_info_files_are_refused_wherever_they_end() {
    let all = all();
    for written in [all.one(false, Storage::Own), all.one(true, Storage::Own)] {
        let whole = written.objects()[INFO].clone();
        for end in (0..whole.len()).step_by(97).chain(whole.len() - 40..whole.len() - 1) {
            let objects = Bucket::from([(INFO.to_owned(), whole[..end].to_vec())]);
            let error = written.stanza_of(objects).backup_info().unwrap_err();
            assert!(!matches!(error, Error::WrongPassphrase { .. }), "{end}: {error:?}");
        }
    }
}

#[test]
fn another_format_is_refused() {
    let text = seal_as(6, "[db]\ndb-id=1\n");
    let objects = Bucket::from([(INFO.to_owned(), text.into_bytes())]);
    let repository = Repository::new(Arc::new(objects), None);
    let error = repository.stanza(STANZA.parse().unwrap()).backup_info().unwrap_err();
    assert!(matches!(error, Error::UnsupportedFormat { found: 6, .. }), "{error:?}");
}

#[test]
fn backups_without_a_manifest_are_dropped_with_all_that_need_them() {
    let written = all().one(false, Storage::Bundles);
    let backups = written.stanza().backups().unwrap();
    let labels: Vec<_> = backups.usable.iter().map(|entry| entry.label).collect();
    // Full, diff, incr, incr: the first incr is built on the diff.
    for (gone, left) in [(0, 0), (1, 1), (3, 3)] {
        let mut objects = written.objects();
        objects.remove(&format!("backup/main/{}/backup.manifest", labels[gone]));
        let stanza = written.stanza_of(objects);
        let found = stanza.backups().unwrap();
        assert_eq!(found.usable.len(), left, "without {}", labels[gone]);
        assert_eq!(found.dropped.len(), labels.len() - left);
        assert!(found.dropped.iter().all(|dropped| dropped.missing == labels[gone]));
        assert!(found.unfinished.is_empty(), "what is listed is not called unfinished");
        let error = found.open(labels[3]).unwrap_err();
        assert!(matches!(error, Error::NoBackup { .. }), "{error:?}");
        assert!(stanza.backup(&found.info.info, labels[gone]).unwrap_err().is_not_found());
    }
}

#[test]
fn what_the_list_does_not_have_is_told_of() {
    let written = all().one(false, Storage::Own);
    let label = newest(&written.stanza());
    let mut objects = written.objects();
    let text = String::from_utf8(objects[INFO].clone()).unwrap();
    let without: String =
        text.lines().filter(|line| !line.starts_with(&label.to_string())).map(|l| format!("{l}\n")).collect();
    for object in [INFO.to_owned(), format!("{INFO}.copy")] {
        objects.insert(object, reseal(&without).into_bytes());
    }
    let found = written.stanza_of(objects.clone()).backups().unwrap();
    assert_eq!(found.unlisted, [label]);
    assert!(!found.usable.is_empty() && found.usable.iter().all(|entry| entry.label != label));
    assert!(found.open(label).unwrap_err().to_string().contains("not in the list"));

    objects.remove(&format!("backup/main/{label}/backup.manifest"));
    let found = written.stanza_of(objects).backups().unwrap();
    assert_eq!((found.unlisted.len(), found.unfinished.clone()), (0, vec![label]));
    assert!(found.open(label).unwrap_err().to_string().contains("not finished"));
}

#[test]
fn files_are_refused_that_are_not_what_was_stored() {
    let all = all();
    for written in &all.repositories {
        let stanza = written.stanza();
        let backups = stanza.backups().unwrap();
        let backup = backups.open(newest(&stanza)).unwrap();
        let objects = written.objects();
        // One whole file of its own, one in a bundle, one of blocks in each.
        let mut tried = std::collections::BTreeSet::new();
        for file in backup.manifest().files.iter().filter(|file| file.size > 0) {
            let way = (matches!(file.place, Place::Own), file.blocks.is_some());
            if !tried.insert(way) {
                continue;
            }
            let stored = backup.stored(file).unwrap().unwrap();
            let (start, end) =
                (usize::try_from(stored.range.start).unwrap(), usize::try_from(stored.range.end).unwrap());
            let whole = &objects[&stored.object];
            for (name, change) in [("first", start), ("middle", (start + end) / 2), ("last", end - 1)] {
                let mut bytes = whole.clone();
                // The highest bit too: the lowest of the last byte may only fill it up.
                bytes[change] ^= 0xd5;
                refuse(written, &objects, &stored.object, bytes, (&backup, file), name);
            }
            refuse(written, &objects, &stored.object, whole[..end - 1].to_vec(), (&backup, file), "cut");
            refuse(written, &objects, &stored.object, Vec::new(), (&backup, file), "empty");
            let mut missing = objects.clone();
            missing.remove(&stored.object);
            let error = read_again(written, missing, &backup, file).unwrap_err();
            assert!(error.is_not_found() && error.to_string().contains(&stored.object), "{error:?}");
        }
        let ways = if written.kind.storage == Storage::Own { 1 } else { 2 };
        assert!(tried.len() >= ways, "{}: {tried:?}", written.kind);
    }
}

fn refuse(
    written: &Written,
    objects: &Bucket,
    object: &str,
    bytes: Vec<u8>,
    (backup, file): (&pgbr_pgbackrest::Backup, &pgbr_pgbackrest::File),
    name: &str,
) {
    let mut objects = objects.clone();
    objects.insert(object.to_owned(), bytes);
    let error = read_again(written, objects, backup, file);
    let error = error.expect_err(&format!("{}: {} with the {name} byte changed", written.kind, file.path));
    assert!(matches!(error, Error::Damaged { .. } | Error::ContentMismatch { .. }), "{error:?}");
    assert!(error.to_string().contains("backup/main/"), "{error}");
}

/// Every bit counts, and nothing is decoded: it needs the passphrase of the manifest alone.
#[test]
fn stored_bytes_are_held_against_their_own_checksum() {
    let all = all();
    for written in &all.repositories {
        let stanza = written.stanza();
        let backup = stanza.backups().unwrap().open(newest(&stanza)).unwrap();
        let objects = written.objects();
        let mut checked = 0;
        for file in backup.manifest().files.iter().filter(|file| file.size > 0) {
            let stored = backup.stored(file).unwrap().unwrap();
            let bytes = backup.open_stored(file).unwrap().unwrap().into_bytes(1 << 30).unwrap();
            let range =
                usize::try_from(stored.range.start).unwrap()..usize::try_from(stored.range.end).unwrap();
            assert!(bytes == objects[&stored.object][range.clone()], "{}: {}", written.kind, file.path);
            let changed_too = written.kind.compression != Compression::None || written.kind.cipher;
            assert_eq!(file.stored_checksum.is_some(), changed_too, "{}: {}", written.kind, file.path);
            // Some of them: each takes a copy of the repository.
            if checked % 100 == 0 {
                let mut objects = objects.clone();
                objects.get_mut(&stored.object).unwrap()[range.end - 1] ^= 1;
                let stanza = written.stanza_of(objects);
                let again =
                    stanza.backup(&stanza.backup_info().unwrap().info, backup.manifest().label).unwrap();
                let error = again.open_stored(file).unwrap().unwrap().into_bytes(1 << 30).unwrap_err();
                assert!(matches!(error, Error::ContentMismatch { .. }), "{error:?}");
            }
            checked += 1;
        }
        assert!(checked > 100, "{}: only {checked} files", written.kind);
    }
}

fn read_again(
    written: &Written,
    objects: Bucket,
    backup: &pgbr_pgbackrest::Backup,
    file: &pgbr_pgbackrest::File,
) -> Result<Vec<u8>, Error> {
    let stanza = written.stanza_of(objects);
    let again = stanza.backup(&stanza.backup_info()?.info, backup.manifest().label)?;
    again.open(file)?.into_bytes(usize::MAX)
}

#[test]
fn an_error_is_final() {
    let written = all().one(false, Storage::Own);
    let stanza = written.stanza();
    let backups = stanza.backups().unwrap();
    let backup = backups.open(newest(&stanza)).unwrap();
    let mut file = backup.manifest().files.iter().find(|file| file.size > 8192).unwrap().clone();
    file.checksum = pgbr_pgbackrest::Checksum::EMPTY;
    let mut content = backup.open(&file).unwrap();
    let mut piece = vec![0; 4096];
    let error = loop {
        match content.next(&mut piece) {
            Ok(amount) => assert!(amount > 0, "a wrong end is not an end"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::ContentMismatch { .. }), "{error:?}");
    assert!(matches!(content.next(&mut piece), Err(Error::Failed { .. })));
    assert!(matches!(content.next(&mut piece), Err(Error::Failed { .. })));
}

/// A store that cannot be reached.
struct Away;

impl Objects for Away {
    fn read(&self, _: &str, _: std::ops::Range<u64>) -> Result<Bytes, ObjectError> {
        Err(ObjectError::Failed("the network is down".into()))
    }

    fn size(&self, _: &str) -> Result<u64, ObjectError> {
        Err(ObjectError::Failed("the network is down".into()))
    }

    fn level(&self, _: &str) -> Result<Level, ObjectError> {
        Err(ObjectError::Failed("the network is down".into()))
    }
}

#[test]
fn a_store_that_is_away_is_not_an_empty_one() {
    let directory = tempfile::tempdir().unwrap();
    let gone = directory.path().join("not-mounted");
    let stores: [Arc<dyn Objects>; 2] = [Arc::new(Away), Arc::new(pgbr_pgbackrest::Directory::new(gone))];
    for store in stores {
        let repository = Repository::new(store, None);
        let stanza = repository.stanza(STANZA.parse().unwrap());
        for error in
            [repository.stanzas().unwrap_err(), stanza.backups().unwrap_err(), stanza.archive().unwrap_err()]
        {
            assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
        }
    }
    let repository = Repository::new(Arc::new(pgbr_pgbackrest::Directory::new(directory.path())), None);
    assert!(repository.stanzas().unwrap().is_empty());
    assert!(repository.stanza(STANZA.parse().unwrap()).backups().unwrap_err().is_not_found());
}
