//! What pgBackRest has in a repository, beside ours.

use std::fs;
use std::path::{Path, PathBuf};

use pgbr::{Host, InfoReport, InfoRequest, RepoAccess, RepoAnswer, StanzaState, combine_info, info};
use pgbr_codec::Passphrase;

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

async fn told(place: &Path, passphrase: Option<&str>) -> pgbr::Result<InfoReport> {
    let repo = RepoAccess::plain(place);
    let repo = match passphrase {
        Some(passphrase) => repo.with_passphrase(Passphrase::new(passphrase)),
        None => repo,
    };
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
        let views = combine_info(vec![RepoAnswer { key: 1, report: Ok(report) }], None, None);
        assert_eq!(views[0].state, StanzaState::Ok);
    }
}

#[tokio::test]
async fn what_is_wrong_with_theirs_is_told() {
    let place = written("2.59-zst-encrypted");
    let report = told(place.path(), Some("another")).await.unwrap();
    let error = report.stanzas[0].theirs.as_ref().unwrap().as_ref().unwrap_err().to_string();
    assert!(error.contains("the passphrase does not open"), "{error}");
    let views = combine_info(vec![RepoAnswer { key: 1, report: Ok(report) }], None, None);
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
