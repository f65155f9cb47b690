//! What pgBackRest has in a repository, beside ours.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pgbr::{
    AskedSet, BackupLabel, BackupStatus, Error, Existing, Host, InfoReport, InfoRequest, Places,
    RecoveryGoal, RepoAccess, RepoAnswer, RestoreReport, RestoreRequest, StanzaState, Store, TheirError,
    VerifyReport, VerifyRequest, combine_info, info, restore, verify,
};
use pgbr_pgbackrest::{Backup, Checksum, Directory, Passphrase, Repository};
use pgbr_testkit::FaultStore;

/// A repository that pgBackRest 2.59 wrote, copied to where something else can be put beside it.
fn written(name: &str) -> tempfile::TempDir {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pgbr-pgbackrest/tests/vectors").join(name);
    let to = tempfile::tempdir().unwrap();
    copy(&from, to.path());
    to
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let place: PathBuf = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&place).unwrap();
            copy(&entry.path(), &place);
        } else {
            fs::copy(entry.path(), place).unwrap();
        }
    }
}

fn access(place: &Path, passphrase: Option<&str>) -> RepoAccess {
    let repo = RepoAccess::plain(place);
    match passphrase {
        Some(passphrase) => repo.with_passphrase(pgbr_codec::Passphrase::new(passphrase)),
        None => repo,
    }
}

async fn told(place: &Path, passphrase: Option<&str>) -> pgbr::Result<InfoReport> {
    let repo = access(place, passphrase);
    info(&Host::system(), InfoRequest { repo, stanza: None, set: None, recovery_windows: false }).await
}

#[tokio::test]
async fn a_repository_of_theirs_alone_is_told() {
    for (name, passphrase) in [("2.59-gz", None), ("2.59-zst-encrypted", Some("vectors"))] {
        let place = written(name);
        let report = told(place.path(), passphrase).await.unwrap();
        assert!(report.cipher.is_none(), "nothing of ours is there");
        assert_eq!(report.stanzas.len(), 1);
        let stanza = &report.stanzas[0];
        let theirs = stanza.theirs.as_ref().unwrap().as_ref().unwrap();
        assert_eq!((stanza.name.as_str(), theirs.encrypted), ("main", passphrase.is_some()));
        assert!(stanza.clusters.is_empty() && stanza.backups.is_empty());
        assert_eq!((theirs.backups.len(), theirs.clusters.len()), (5, 1));
        assert!(theirs.dropped.is_empty() && theirs.healed.is_empty());
        assert_eq!(theirs.clusters[0].version, "15");
        let views = combine_info(vec![RepoAnswer { key: 1, report: Ok(report) }], None, AskedSet::All);
        assert_eq!(views[0].state, StanzaState::Ok);
    }
}

#[tokio::test]
async fn what_is_wrong_with_theirs_is_told() {
    let place = written("2.59-zst-encrypted");
    let report = told(place.path(), Some("another")).await.unwrap();
    let error = report.stanzas[0].theirs.as_ref().unwrap().as_ref().unwrap_err().to_string();
    assert!(error.contains("the passphrase does not open"), "{error}");
    let views = combine_info(vec![RepoAnswer { key: 1, report: Ok(report) }], None, AskedSet::All);
    assert_eq!(views[0].state, StanzaState::Other);

    // A damaged list has a copy, and a backup whose manifest is gone takes those that need it along.
    let place = written("2.59-gz");
    let list = place.path().join("backup/main/backup.info");
    fs::copy(&list, list.with_extension("info.copy")).unwrap();
    fs::write(list, "damaged").unwrap();
    let report = told(place.path(), None).await.unwrap();
    let theirs = report.stanzas[0].theirs.as_ref().unwrap().as_ref().unwrap();
    assert_eq!((theirs.healed.len(), theirs.backups.len()), (1, 5));
    let first = theirs.backups[0].label;
    fs::remove_file(place.path().join(format!("backup/main/{first}/backup.manifest"))).unwrap();
    let report = told(place.path(), None).await.unwrap();
    let theirs = report.stanzas[0].theirs.as_ref().unwrap().as_ref().unwrap();
    assert!(theirs.backups.is_empty() && theirs.dropped.len() == 5);
}

/// An info file of this text, with the checksum that it needs.
fn sealed(text: &str) -> String {
    let section = |section: &str| {
        let (name, lines) = section.trim().split_once('\n').unwrap();
        let pair = |line: &str| {
            let (key, value) = line.split_once('=').unwrap();
            format!("\"{key}\":{value}")
        };
        let pairs: Vec<String> = lines.lines().map(pair).collect();
        format!("\"{}\":{{{}}}", name.trim_matches(['[', ']']), pairs.join(","))
    };
    let sections: Vec<String> = text.trim().split("\n\n").map(section).collect();
    let all = format!("{{{}}}", sections.join(","));
    let checksum = Checksum::of(all.as_bytes(), &mut [0; 4096]).unwrap();
    format!("{}\n\n[backrest]\nbackrest-checksum=\"{checksum}\"\n", text.trim())
}

/// Takes the last two backups from a list.
fn without_two(list: &str) -> String {
    let (text, checksum) = list.split_once("\n\n[backrest]\nbackrest-checksum=").unwrap();
    assert_eq!(sealed(text).split_once("checksum=").unwrap().1, checksum, "that is how it is computed");
    let (head, rest) = text.split_once("\n\n[db]").unwrap();
    let kept: Vec<&str> = head.lines().collect();
    sealed(&format!("{}\n\n[db]{rest}", kept[..kept.len() - 2].join("\n")))
}

/// Verifies what is in a directory, and does something before each request.
async fn verified(place: &Path, watch: impl Fn(&str) + Send + Sync + 'static) -> VerifyReport {
    let store = Store::local_wrapped(place, false, |inner| FaultStore::watched(inner, watch)).unwrap();
    let request = VerifyRequest {
        repo: RepoAccess::store(store),
        stanza: "main".parse().unwrap(),
        set: None,
        quick: false,
        budget: None,
        witness: None,
        threads: 2,
    };
    verify(&Host::system(), request).await.unwrap()
}

/// An expire of pgBackRest removes the manifests of all that expires, and then writes the list without them.
#[tokio::test]
async fn a_manifest_that_is_gone_is_a_finding_where_the_backup_is_listed_to_the_end() {
    for ends in [true, false] {
        let place = written("2.59-gz");
        let (root, list) = (place.path().join("backup/main"), place.path().join("backup/main/backup.info"));
        let expired = ["20261126-165450F_20261126-165454I", "20261126-165450F_20261126-165456I"];
        let manifests = expired.map(|label| root.join(label).join("backup.manifest"));
        let (begun, removed) = (AtomicBool::new(false), AtomicBool::new(false));
        let report = verified(place.path(), move |request| {
            let asks_for = |label: &str| request.ends_with(&format!("{label}/backup.manifest"));
            // All manifests are looked for at first; then those of each are read, with its files.
            if request.contains("/20261126-165450F/bundle/") {
                begun.store(true, Ordering::SeqCst);
            } else if begun.load(Ordering::SeqCst) && asks_for(expired[0]) {
                manifests.iter().for_each(|manifest| drop(fs::remove_file(manifest)));
                removed.store(true, Ordering::SeqCst);
            } else if ends && asks_for(expired[1]) && removed.swap(false, Ordering::SeqCst) {
                fs::write(&list, without_two(&fs::read_to_string(&list).unwrap())).unwrap();
            }
        })
        .await;
        let theirs = report.theirs.unwrap();
        let of = |status| theirs.backups.iter().filter(|backup| backup.status == status).count();
        let missing = if ends { 0 } else { 2 };
        assert_eq!((of(BackupStatus::Valid), of(BackupStatus::ManifestMissing)), (3, missing), "{ends}");
        assert_eq!((report.findings.len(), report.clean), (missing, ends), "{:#?}", report.findings);
    }
}

/// Restores a backup into a directory and gives what the report says.
async fn restored(
    repo: &RepoAccess,
    label: BackupLabel,
    to: &Path,
    existing: Existing,
) -> pgbr::Result<RestoreReport> {
    let places = Places { pg_data: to.to_owned(), existing, ..Places::default() };
    let request = RestoreRequest::new(repo.clone(), "main".parse().unwrap(), places, "false".to_owned());
    let request = RestoreRequest { set: Some(label), goal: RecoveryGoal::Preserve, threads: 2, ..request };
    restore(&Host::system(), request).await
}

/// Every file below a directory is what the backup's manifest says, and there are no others.
fn assert_is(backup: &Backup, place: &Path) {
    let mut wanted: BTreeSet<PathBuf> = BTreeSet::new();
    for file in &backup.manifest().files {
        let path = place.join(file.path.to_string().strip_prefix("pg_data/").unwrap());
        let content = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let found = Checksum::of(content.as_slice(), &mut [0; 4096]).unwrap();
        assert_eq!((content.len() as u64, found), (file.size, file.checksum), "{}", path.display());
        let about = fs::metadata(&path).unwrap();
        assert_eq!(
            (about.mode() & 0o7777, about.mtime()),
            (file.mode.bits(), file.modified),
            "{}",
            path.display()
        );
        wanted.insert(path);
    }
    let mut found = BTreeSet::new();
    files_below(place, &mut found);
    assert_eq!(found, wanted);
}

fn files_below(directory: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => files_below(&entry.path(), found),
            false => drop(found.insert(entry.path())),
        }
    }
}

#[tokio::test]
async fn backups_of_blocks_are_restored_and_mended() {
    for (name, passphrase) in
        [("2.59-zst-encrypted", Some("vectors")), ("2.46-zst", None), ("2.59-none", None)]
    {
        let place = written(name);
        let repo = access(place.path(), passphrase);
        let reader = Repository::new(Arc::new(Directory::new(place.path())), passphrase.map(Passphrase::new));
        let backups = reader.stanza("main".parse().unwrap()).backups().unwrap();
        let to = tempfile::tempdir().unwrap();
        for entry in &backups.usable {
            let backup = backups.open(entry.label).unwrap();
            let fresh = tempfile::tempdir().unwrap();
            let report = restored(&repo, entry.label, fresh.path(), Existing::Refuse).await.unwrap();
            assert_is(&backup, fresh.path());
            let sizes: u64 = backup.manifest().files.iter().map(|file| file.size).sum();
            assert_eq!((report.bytes, report.files), (sizes, backup.manifest().files.len() as u64));
            // From the state of one backup to the next one only blocks are read that differ.
            let report = restored(&repo, entry.label, to.path(), Existing::Delta).await.unwrap();
            assert_is(&backup, to.path());
            let first = entry.label == backups.usable[0].label;
            assert_eq!(report.kept > 0, !first, "{report:?}");
            if !first {
                // Of the five small files that changed in one round nothing is read anew as a whole.
                let read: u64 = report.fetched.iter().map(|fetched| fetched.bytes).sum();
                let all: u64 = backup.manifest().files.iter().map(|file| file.size).sum();
                assert!(read < all / 2, "{report:?}");
            }
            // What is foreign goes, what is damaged is mended, a file that is too long is cut.
            fs::write(to.path().join("base/foreign"), "x").unwrap();
            let large = to.path().join("base/5/104");
            let mut content = fs::read(&large).unwrap();
            content[123_456] ^= 1;
            content.extend([0; 999]);
            fs::write(&large, content).unwrap();
            let report = restored(&repo, entry.label, to.path(), Existing::Delta).await.unwrap();
            assert_is(&backup, to.path());
            assert_eq!(report.removed, 1);
            assert!(report.kept > sizes - 400_000 && report.kept < sizes, "{} of {sizes}", report.kept);
        }
    }
}

#[tokio::test]
async fn what_anybody_could_have_put_there_is_shown_and_not_restored() {
    // Not encrypted, where there is a passphrase: whoever can write to the repository can make that.
    let place = written("2.59-gz");
    let report = told(place.path(), Some("ours")).await.unwrap();
    let theirs = report.stanzas[0].theirs.as_ref().unwrap().as_ref().unwrap();
    assert!(!theirs.encrypted);
    let label = theirs.backups.last().unwrap().label;
    let to = tempfile::tempdir().unwrap();
    let error = restored(&access(place.path(), Some("ours")), label, to.path(), Existing::Refuse).await;
    let error = error.unwrap_err();
    assert!(matches!(error, Error::PgBackRest(TheirError::NotEncrypted { .. })), "{error:?}");
    assert!(fs::read_dir(to.path()).unwrap().next().is_none());
}
