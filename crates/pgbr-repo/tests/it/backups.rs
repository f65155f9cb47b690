//! Packs and manifests: a backup exists when its manifest does, and a commit knows what became of it.

use bytes::Bytes;
use pgbr_codec::{manifest_digest, pad_summary, seal_manifest};
use pgbr_repo::{BackupStore, Error, Repo};

use crate::fixture::*;
use pgbr_testkit::{Fault, failures};

const FULL: &str = "20261122-120000F";

fn manifest(repo: &Repo, body: &str) -> Bytes {
    let summary = format!(r#"{{"id":"{body}"}}"#);
    seal_manifest(repo.keyring(), repo.lane_seed().unwrap(), summary.as_bytes(), body.as_bytes())
        .unwrap()
        .into()
}

fn backups(repo: &Repo) -> BackupStore {
    BackupStore::new(repo, &stanza())
}

#[tokio::test]
async fn a_backup_exists_when_its_manifest_does() {
    for without_creates in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let repo =
            if without_creates { repo_without_creates(dir.path()).await } else { repo(dir.path()).await };
        let (backups, full) = (backups(&repo), label(FULL));
        for (attempt, number, index) in [(7, 1, false), (7, 0, false), (7, 0, true), (3, 0, false)] {
            let pack = content(attempt + u64::from(number), 1000);
            for _ in 0..2 {
                backups.put_pack(&full, attempt, number, index, pack.clone()).await.unwrap();
            }
        }
        let listed = backups.list_packs(&full).await.unwrap();
        let listed: Vec<_> = listed.iter().map(|p| (p.attempt, p.index, p.number, p.size)).collect();
        let expected = [(3, false, 0, 1000), (7, false, 0, 1000), (7, false, 1, 1000), (7, true, 0, 1000)];
        assert_eq!(listed, expected);
        let range = backups.get_pack_range(&full, 7, 1, false, 10..20).await.unwrap();
        assert_eq!(range, content(8, 1000).slice(10..20));

        assert!(backups.list_backups().await.unwrap().is_empty());
        assert_eq!(backups.list_labels().await.unwrap(), [full]);
        assert!(backups.read_summary(&full).await.unwrap_err().is_not_found());
        assert!(!backups.exists(&full).await.unwrap());

        backups.commit_manifest(&full, 7, manifest(&repo, "seven")).await.unwrap();
        assert_eq!(backups.list_backups().await.unwrap(), [full]);
        assert!(backups.exists(&full).await.unwrap());
        assert_eq!(backups.read_summary(&full).await.unwrap(), br#"{"id":"seven"}"#);
        let (summary, body) = backups.read_manifest(&full).await.unwrap();
        assert_eq!(body, b"seven");
        assert_eq!(summary, pad_summary(br#"{"id":"seven"}"#).unwrap());
        assert_ne!(manifest_digest(&summary, &body), [0; 32]);

        let error = backups.commit_manifest(&full, 8, manifest(&repo, "eight")).await.unwrap_err();
        assert!(matches!(error, Error::BackupExists { .. }), "{error}");
        assert_eq!(backups.read_manifest(&full).await.unwrap().1, b"seven");

        backups.delete_manifest(&full).await.unwrap();
        assert!(backups.list_backups().await.unwrap().is_empty());
        for pack in backups.list_packs(&full).await.unwrap() {
            backups.delete_pack(&full, &pack).await.unwrap();
        }
        backups.tidy(&full).await.unwrap();
        assert!(backups.list_labels().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_commit_is_never_left_in_doubt() {
    for without_creates in [false, true] {
        let mut n = 0;
        loop {
            let mut requests = 0;
            for fault in failures(n) {
                let dir = tempfile::tempdir().unwrap();
                let repo = if without_creates {
                    repo_without_creates(dir.path()).await
                } else {
                    repo(dir.path()).await
                };
                let (faulty, wrapper) = faulty_repo(dir.path(), fault).await;
                let object = manifest(&repo, "mine");
                let committed = backups(&faulty).commit_manifest(&label(FULL), 7, object.clone()).await;
                requests = wrapper.requests();
                let exists = backups(&repo).exists(&label(FULL)).await.unwrap();
                match committed {
                    Ok(()) => assert!(exists, "{fault:?}: success, and no manifest"),
                    Err(Error::Undecided { .. }) => {}
                    Err(error) => assert!(!exists, "{fault:?}: {error}, and it is there"),
                }
                // Whatever happened, the same run may try again, and another may not take the label once it is there.
                backups(&repo).commit_manifest(&label(FULL), 7, object).await.unwrap();
                let other = backups(&repo).commit_manifest(&label(FULL), 8, manifest(&repo, "other")).await;
                assert!(matches!(other, Err(Error::BackupExists { .. })), "{fault:?}");
                assert_eq!(backups(&repo).read_manifest(&label(FULL)).await.unwrap().1, b"mine");
            }
            n += 1;
            if n > requests {
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_lost_answer_is_success() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repo(dir.path()).await;
    let (faulty, _) = faulty_repo(dir.path(), Fault::ActsAndFails(0)).await;
    backups(&faulty).commit_manifest(&label(FULL), 7, manifest(&repo, "mine")).await.unwrap();
    let (faulty, _) = faulty_repo(dir.path(), Fault::ActsAndFails(0)).await;
    backups(&faulty).put_pack(&label(FULL), 7, 0, false, content(1, 100)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_of_two_runs_gets_the_label() {
    for without_creates in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let repo =
            if without_creates { repo_without_creates(dir.path()).await } else { repo(dir.path()).await };
        for second in 0..10 {
            let full = label(&format!("20261122-1200{second:02}F"));
            let commit = |attempt: u64| {
                let (backups, object) = (backups(&repo), manifest(&repo, &attempt.to_string()));
                tokio::spawn(async move { backups.commit_manifest(&full, attempt, object).await })
            };
            let (a, b) = (commit(1), commit(2));
            let (a, b) = (a.await.unwrap(), b.await.unwrap());
            let winners = [(&a, "1"), (&b, "2")].into_iter().filter(|(r, _)| r.is_ok());
            let winners: Vec<&str> = winners.map(|(_, body)| body).collect();
            match winners[..] {
                [winner] => {
                    assert_eq!(backups(&repo).read_manifest(&full).await.unwrap().1, winner.as_bytes());
                }
                // Both may take theirs back where creates are not honoured; nothing is left behind.
                [] if without_creates => assert!(!backups(&repo).exists(&full).await.unwrap()),
                _ => panic!("{a:?} {b:?}"),
            }
        }
    }
}

#[tokio::test]
async fn damage_and_swaps_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repo(dir.path()).await;
    let (backups, full) = (backups(&repo), label(FULL));
    backups.commit_manifest(&full, 7, manifest(&repo, "mine")).await.unwrap();
    let file = dir.path().join("pgbr/main/backup").join(FULL).join("manifest");
    damage(&file, 4100);
    assert_eq!(backups.read_summary(&full).await.unwrap(), br#"{"id":"mine"}"#);
    assert!(backups.read_manifest(&full).await.unwrap_err().is_damage());
    std::fs::write(&file, b"short").unwrap();
    assert!(backups.read_summary(&full).await.unwrap_err().is_damage());
    let huge = Bytes::from(vec![0; 2 << 20]);
    assert!(matches!(backups.commit_manifest(&full, 7, huge).await, Err(Error::Invalid { .. })));
}

#[tokio::test]
async fn a_manifest_is_taken_back_by_its_own_run_only() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repo_without_creates(dir.path()).await;
    let (backups, full) = (backups(&repo), label(FULL));
    backups.commit_manifest(&full, 7, manifest(&repo, "mine")).await.unwrap();
    backups.withdraw_manifest(&full, 8).await.unwrap();
    assert!(backups.exists(&full).await.unwrap());
    backups.withdraw_manifest(&full, 7).await.unwrap();
    assert!(!backups.exists(&full).await.unwrap());
}

#[tokio::test]
async fn a_removed_manifest_can_be_put_back() {
    for without_creates in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let repo =
            if without_creates { repo_without_creates(dir.path()).await } else { repo(dir.path()).await };
        let (backups, full) = (backups(&repo), label(FULL));
        backups.commit_manifest(&full, 7, manifest(&repo, "seven")).await.unwrap();
        let removed = backups.remove_manifest(&full).await.unwrap();
        assert_eq!(removed.label(), full);
        assert!(!backups.exists(&full).await.unwrap());
        backups.put_back(&removed).await.unwrap();
        backups.put_back(&removed).await.unwrap();
        assert_eq!(backups.read_manifest(&full).await.unwrap().1, b"seven");
        // What was not there cannot be put back, and what stands there stays.
        let nothing = backups.remove_manifest(&label("20261123-120000F")).await.unwrap();
        assert!(backups.put_back(&nothing).await.unwrap_err().is_not_found());
        if !without_creates {
            backups.delete_manifest(&full).await.unwrap();
            backups.commit_manifest(&full, 8, manifest(&repo, "eight")).await.unwrap();
            assert!(matches!(backups.put_back(&removed).await, Err(Error::BackupExists { .. })));
            assert_eq!(backups.read_manifest(&full).await.unwrap().1, b"eight");
        }
    }
}
