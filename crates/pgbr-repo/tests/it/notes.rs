//! Notes on backups: numbered, never rewritten, and gone with their backup.

use std::collections::BTreeMap;

use pgbr_manifest::BackupLabel;
use pgbr_repo::{Error, NoteChanges, Notes, Repo};
use pgbr_testkit::failures;

use crate::fixture::*;

fn set(key: &str, value: &str) -> NoteChanges {
    BTreeMap::from([(key.to_owned(), (!value.is_empty()).then(|| value.to_owned()))])
}

fn full() -> BackupLabel {
    label("20261122-120000F")
}

/// What the notes of a backup say together.
async fn said(repo: &Repo, of: &BackupLabel) -> String {
    let mut all = BTreeMap::new();
    for note in Notes::new(repo, &stanza()).list(Some(of)).await.unwrap() {
        all.extend(note.changes.unwrap());
    }
    let pairs = all.into_iter().map(|(key, value)| format!("{key}={}", value.unwrap_or_default()));
    pairs.collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn later_notes_count_and_go_with_their_backup() {
    let dir = tempfile::tempdir().unwrap();
    for (place, honoured) in [("honoured", true), ("ignored", false)] {
        let dir = dir.path().join(place);
        let repo = if honoured { repo(&dir).await } else { repo_without_creates(&dir).await };
        let notes = Notes::new(&repo, &stanza());
        let other = label("20261122-120000F_20261122-130000I");
        assert_eq!(notes.add(&full(), &set("a", "1"), NOW).await.unwrap(), 1);
        assert_eq!(notes.add(&full(), &set("b", "2"), NOW).await.unwrap(), 2);
        assert_eq!(notes.add(&full(), &set("a", "3"), NOW).await.unwrap(), 3);
        assert_eq!(notes.add(&other, &set("b", ""), NOW).await.unwrap(), 1);
        assert_eq!(said(&repo, &full()).await, "a=3 b=2");
        assert_eq!(said(&repo, &other).await, "b=");
        assert_eq!(notes.list(None).await.unwrap().len(), 4);
        assert_eq!(notes.labels().await.unwrap(), [full(), other]);

        let first = std::fs::read_dir(dir.join("pgbr/main/note")).unwrap().flatten();
        let first = first.map(|entry| entry.path()).find(|path| {
            path.file_name().unwrap().to_str().unwrap().starts_with("20261122-120000F.0000000000000002")
        });
        damage(&first.unwrap(), 150);
        let listed = notes.list(Some(&full())).await.unwrap();
        let readable: Vec<_> = listed.iter().map(|note| (note.number, note.changes.is_ok())).collect();
        assert_eq!(readable, [(1, true), (2, false), (3, true)]);

        notes.remove_all(&full()).await.unwrap();
        assert_eq!(notes.labels().await.unwrap(), [other]);
    }
}

#[tokio::test]
async fn a_note_in_anothers_place_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repo(dir.path()).await;
    let notes = Notes::new(&repo, &stanza());
    notes.add(&full(), &set("a", "1"), NOW).await.unwrap();
    let place = |number: u64| dir.path().join(format!("pgbr/main/note/20261122-120000F.{number:016x}"));
    std::fs::copy(place(1), place(2)).unwrap();
    let listed = notes.list(None).await.unwrap();
    assert!(listed[1].changes.as_ref().is_err_and(Error::is_damage), "{listed:?}");
    assert_eq!(notes.add(&full(), &set("a", "2"), NOW).await.unwrap(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn notes_written_at_once_are_all_kept() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repo(dir.path()).await;
    let writers = (0..6).map(|n| {
        let notes = Notes::new(&repo, &stanza());
        tokio::spawn(async move { notes.add(&full(), &set(&format!("k{n}"), "v"), NOW).await })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap().unwrap();
    }
    assert_eq!(said(&repo, &full()).await, "k0=v k1=v k2=v k3=v k4=v k5=v");
}

#[tokio::test]
async fn a_failure_at_any_request_loses_nothing_that_was_reported() {
    let mut n = 0;
    loop {
        let mut requests = 0;
        for fault in failures(n) {
            let dir = tempfile::tempdir().unwrap();
            let healthy = repo(dir.path()).await;
            Notes::new(&healthy, &stanza()).add(&full(), &set("a", "1"), NOW).await.unwrap();
            let (faulty, wrapper) = faulty_repo(dir.path(), fault).await;
            let added = Notes::new(&faulty, &stanza()).add(&full(), &set("a", "2"), NOW).await;
            requests = wrapper.requests();
            let now = said(&healthy, &full()).await;
            assert!(now == "a=2" || (added.is_err() && now == "a=1"), "{fault:?}: {now}");
        }
        n += 1;
        if n > requests {
            return;
        }
    }
}

#[tokio::test]
async fn notes_have_bounds() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repo(dir.path()).await;
    let notes = Notes::new(&repo, &stanza());
    for (key, value) in [("", "v"), ("a\nb", "v"), ("k", &"v".repeat(9000))] {
        let error = notes.add(&full(), &set(key, value), NOW).await.unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
    }
    assert!(notes.list(None).await.unwrap().is_empty());
    // What others have written counts, whatever it holds.
    std::fs::create_dir(dir.path().join("pgbr/main")).unwrap();
    std::fs::create_dir(dir.path().join("pgbr/main/note")).unwrap();
    for number in 1..=1000 {
        let name = format!("pgbr/main/note/20261122-120000F.{number:016x}");
        std::fs::write(dir.path().join(name), b"x").unwrap();
    }
    let error = notes.add(&full(), &set("a", "1"), NOW).await.unwrap_err();
    assert!(error.to_string().contains("1000 notes"), "{error}");
}
