//! What became of drills: numbered, the newest few are kept, and gone with their backup.

use pgbr_manifest::BackupLabel;
use pgbr_repo::{DrillFacts, Drills, Error};

use crate::fixture::*;

fn full() -> BackupLabel {
    label("20261122-120000F")
}

fn facts(start: i64) -> DrillFacts {
    DrillFacts {
        start,
        stop: start + 60,
        ok: start % 2 == 0,
        failure: None,
        goal: "the end of the archive".to_owned(),
        host: "h process 1 boot b".to_owned(),
        server_version: Some("15.20".to_owned()),
        last_commit: None,
        restore_ms: Some(1000),
        recovery_ms: None,
        checks_ms: 0,
        checks: Vec::new(),
    }
}

/// The newest drill of each backup: number and start.
async fn newest(drills: &Drills) -> Vec<(BackupLabel, u64, Option<i64>)> {
    let found = drills.newest(None).await.unwrap().into_iter();
    found.map(|drill| (drill.label, drill.number, drill.facts.ok().map(|facts| facts.start))).collect()
}

#[tokio::test]
async fn the_newest_counts_and_five_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    for (place, honoured) in [("honoured", true), ("ignored", false)] {
        let dir = dir.path().join(place);
        let repo = if honoured { repo(&dir).await } else { repo_without_creates(&dir).await };
        let drills = Drills::new(&repo, &stanza());
        let other = label("20261122-120000F_20261122-130000I");
        assert!(newest(&drills).await.is_empty());
        for start in 1..=7 {
            assert_eq!(drills.add(&full(), facts(start)).await.unwrap(), u64::try_from(start).unwrap());
        }
        assert_eq!(drills.add(&other, facts(9)).await.unwrap(), 1);
        assert_eq!(newest(&drills).await, [(full(), 7, Some(7)), (other, 1, Some(9))]);
        assert_eq!(drills.newest(Some(&other)).await.unwrap().len(), 1);
        assert_eq!(drills.labels().await.unwrap(), [full(), other]);

        let files: Vec<_> = std::fs::read_dir(dir.join("pgbr/main/drill"))
            .unwrap()
            .flatten()
            .map(|entry| entry.path())
            .collect();
        assert_eq!(files.len(), 6, "{files:?}");
        let last = files.iter().find(|path| path.to_str().unwrap().contains("F.0000000000000007"));
        damage(last.unwrap(), 150);
        assert_eq!(newest(&drills).await, [(full(), 7, None), (other, 1, Some(9))]);

        drills.remove_all(&full()).await.unwrap();
        assert_eq!(drills.labels().await.unwrap(), [other]);
    }
}

#[tokio::test]
async fn a_drill_in_anothers_place_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repo(dir.path()).await;
    let drills = Drills::new(&repo, &stanza());
    drills.add(&full(), facts(1)).await.unwrap();
    let place = |number: u64| dir.path().join(format!("pgbr/main/drill/20261122-120000F.{number:016x}"));
    std::fs::copy(place(1), place(2)).unwrap();
    let found = drills.newest(None).await.unwrap();
    assert!(found[0].facts.as_ref().is_err_and(Error::is_damage), "{found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn drills_that_end_at_once_are_all_kept() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repo(dir.path()).await;
    let writers = (1..=4).map(|start| {
        let drills = Drills::new(&repo, &stanza());
        tokio::spawn(async move { drills.add(&full(), facts(start)).await })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap().unwrap();
    }
    assert_eq!(newest(&Drills::new(&repo, &stanza())).await.len(), 1);
    assert_eq!(std::fs::read_dir(dir.path().join("pgbr/main/drill")).unwrap().count(), 4);
}
