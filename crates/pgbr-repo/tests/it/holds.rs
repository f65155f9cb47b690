//! Holds: put by create, several a backup, counted where they cannot be read, gone when released.

use pgbr_repo::{Error, HoldRequest, Holds};

use crate::fixture::*;

const FULL: &str = "20261122-120000F";

fn request(backup: &str, reason: &str) -> HoldRequest {
    HoldRequest { label: label(backup), reason: reason.to_owned(), holder: "db1 4711".to_owned(), now: NOW }
}

#[tokio::test]
async fn a_backup_is_held_until_the_last_hold_is_released() {
    let dir = tempfile::tempdir().unwrap();
    for without_creates in [false, true] {
        let place = dir.path().join(without_creates.to_string());
        let repo = if without_creates { repo_without_creates(&place).await } else { repo(&place).await };
        let holds = Holds::new(&repo, &stanza());
        assert!(holds.list().await.unwrap().is_empty());
        let other = "20261122-120000F_20261123-120000I";
        let first = holds.put(request(FULL, "audit")).await.unwrap();
        let second = holds.put(request(FULL, "")).await.unwrap();
        holds.put(request(other, "migration")).await.unwrap();

        let listed = holds.list().await.unwrap();
        let labels: Vec<String> = listed.iter().map(|hold| hold.label.to_string()).collect();
        assert_eq!(labels, [FULL, FULL, other]);
        let record = listed.iter().find(|hold| hold.id == first).unwrap().record.as_ref().unwrap();
        assert_eq!((record.reason.as_str(), record.created), ("audit", NOW));

        holds.release(&label(FULL), &first).await.unwrap();
        holds.release(&label(FULL), &first).await.unwrap();
        let left = holds.list().await.unwrap();
        assert_eq!(
            left.iter().filter(|hold| hold.label == label(FULL)).map(|h| h.id).collect::<Vec<_>>(),
            [second]
        );
    }
}

#[tokio::test]
async fn a_hold_that_cannot_be_read_holds() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repo(dir.path()).await;
    let holds = Holds::new(&repo, &stanza());
    let id = holds.put(request(FULL, "audit")).await.unwrap();
    damage(&dir.path().join(format!("pgbr/main/hold/{FULL}.{id}")), 120);
    let listed = holds.list().await.unwrap();
    assert_eq!((listed[0].label, listed[0].id), (label(FULL), id));
    assert!(listed[0].record.is_none());
    // Another's content under its name is no better.
    let other = holds.put(request("20261123-120000F", "other")).await.unwrap();
    let path = |name: &str, id| dir.path().join(format!("pgbr/main/hold/{name}.{id}"));
    std::fs::copy(path("20261123-120000F", other), path(FULL, id)).unwrap();
    assert!(holds.list().await.unwrap().iter().any(|hold| hold.id == id && hold.record.is_none()));
}

#[tokio::test]
async fn a_reason_has_an_end() {
    let dir = tempfile::tempdir().unwrap();
    let holds = Holds::new(&repo(dir.path()).await, &stanza());
    assert!(matches!(holds.put(request(FULL, &"x".repeat(1001))).await, Err(Error::Invalid { .. })));
    holds.put(request(FULL, &"ä".repeat(1000))).await.unwrap();
}
