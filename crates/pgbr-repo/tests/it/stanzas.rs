//! Stanza records: two copies, one place, one history.

use pgbr_manifest::StanzaName;
use pgbr_repo::{BackupStore, Error, Notes, Repo, Stanza, WalPush, WalSource, WalStore};

use crate::fixture::*;
use pgbr_testkit::failures;

async fn create(repo: &Repo) -> Stanza {
    Stanza::create(repo, &stanza(), cluster(1), NOW).await.unwrap()
}

#[tokio::test]
async fn a_stanza_is_made_once_for_one_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repo(dir.path()).await;
    let missing = Stanza::open(&repo, &stanza()).await.unwrap_err();
    assert!(matches!(missing, Error::StanzaMissing { .. }), "{missing}");
    let made = create(&repo).await;
    assert_eq!(made.archive_id().to_string(), "15-1");
    assert_eq!(repo.stanzas().await.unwrap(), [stanza()]);
    let opened = Stanza::open(&repo, &stanza()).await.unwrap();
    assert_eq!(opened.history(), made.history());
    assert_eq!((opened.current().added, opened.current().catalog_version), (NOW, 202_209_061));

    let same = Stanza::create(&repo, &stanza(), cluster(1), NOW).await.unwrap_err();
    assert!(matches!(same, Error::StanzaExists { .. }), "{same}");
    let other = Stanza::create(&repo, &stanza(), cluster(2), NOW).await.unwrap_err();
    assert!(matches!(other, Error::StanzaMismatch { .. }), "{other}");

    let upgraded = opened.upgrade(cluster(2), NOW + 1).await.unwrap();
    assert_eq!(upgraded.archive_id().to_string(), "15-2");
    let opened = Stanza::open(&repo, &stanza()).await.unwrap();
    assert_eq!(opened.history(), upgraded.history());
    assert_eq!(opened.history().len(), 2);
    assert!(matches!(opened.upgrade(cluster(2), NOW).await, Err(Error::StanzaExists { .. })));
}

#[tokio::test]
async fn a_history_keeps_the_numbers_that_it_is_made_with() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repo(dir.path()).await;
    for wrong in [
        &[][..],
        &[(0, cluster(1))],
        &[(2, cluster(1)), (2, cluster(2))],
        &[(2, cluster(1)), (1, cluster(2))],
    ] {
        let refused = Stanza::create_numbered(&repo, &stanza(), wrong, NOW).await.unwrap_err();
        assert!(matches!(refused, Error::Invalid { .. }), "{refused}");
    }
    let history = [(2, cluster(1)), (5, cluster(2))];
    Stanza::create_numbered(&repo, &stanza(), &history, NOW).await.unwrap();
    let opened = Stanza::open(&repo, &stanza()).await.unwrap();
    let numbers: Vec<u32> = opened.history().iter().map(|cluster| cluster.number).collect();
    assert_eq!(numbers, [2, 5]);
    assert_eq!(opened.upgrade(cluster(3), NOW).await.unwrap().current().number, 6);
    let again = Stanza::create_numbered(&repo, &stanza(), &history, NOW).await.unwrap_err();
    assert!(matches!(again, Error::StanzaMismatch { .. }), "{again}");
}

#[tokio::test]
async fn names_cannot_leave_their_place() {
    for name in ["..", ".", "a/b", "/etc", "", "a\0b", "-x"] {
        assert!(name.parse::<StanzaName>().is_err(), "{name}");
    }
    let dir = tempfile::tempdir().unwrap();
    let repo = repo(dir.path()).await;
    let name: StanzaName = "repo.json.lease".parse().unwrap();
    let error = Stanza::create(&repo, &name, cluster(1), NOW).await.unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
}

#[tokio::test]
async fn either_copy_is_enough_and_both_damaged_are_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repo(dir.path()).await;
    let made = create(&repo).await;
    let main = dir.path().join("pgbr/main/stanza.json");
    let copy = dir.path().join("pgbr/main/stanza.json.copy");
    for at in [0, 8, 40, 100, 130, 200] {
        damage(&main, at);
        let opened = Stanza::open(&repo, &stanza()).await.unwrap();
        assert_eq!((opened.history(), opened.warnings().len()), (made.history(), 1), "byte {at}");
        let healed = Stanza::create(&repo, &stanza(), cluster(1), NOW).await.unwrap_err();
        assert!(matches!(healed, Error::StanzaExists { .. }), "{healed}");
        assert!(Stanza::open(&repo, &stanza()).await.unwrap().warnings().is_empty());
    }
    std::fs::remove_file(&copy).unwrap();
    Stanza::create(&repo, &stanza(), cluster(1), NOW).await.unwrap_err();
    assert!(copy.exists(), "a missing copy is made again");

    damage(&main, 150);
    damage(&copy, 150);
    let error = Stanza::open(&repo, &stanza()).await.unwrap_err();
    assert!(error.is_damage(), "{error}");
    assert!(Stanza::create(&repo, &stanza(), cluster(1), NOW).await.unwrap_err().is_damage());
    std::fs::remove_file(&main).unwrap();
    assert!(Stanza::open(&repo, &stanza()).await.unwrap_err().is_damage(), "a missing one is no excuse");
}

#[tokio::test]
async fn a_record_in_anothers_place_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repo(dir.path()).await;
    create(&repo).await;
    let other: StanzaName = "other".parse().unwrap();
    let from = dir.path().join("pgbr/main/stanza.json");
    std::fs::create_dir(dir.path().join("pgbr/other")).unwrap();
    std::fs::copy(from, dir.path().join("pgbr/other/stanza.json")).unwrap();
    let error = Stanza::open(&repo, &other).await.unwrap_err();
    assert!(error.is_damage() && error.to_string().contains("pgbr/main/stanza.json"), "{error}");
}

#[tokio::test]
async fn a_failure_at_any_request_is_healed_by_the_next_try() {
    let mut n = 0;
    loop {
        let mut requests = 0;
        for fault in failures(n) {
            let dir = tempfile::tempdir().unwrap();
            let healthy = repo(dir.path()).await;
            let (faulty, wrapper) = faulty_repo(dir.path(), fault).await;
            let made = Stanza::create(&faulty, &stanza(), cluster(1), NOW).await;
            requests = wrapper.requests();
            let there = Stanza::open(&healthy, &stanza()).await;
            assert!(made.is_err() || there.is_ok(), "{fault:?}: {there:?}");
            match Stanza::create(&healthy, &stanza(), cluster(1), NOW).await {
                Ok(_) | Err(Error::StanzaExists { .. }) => {}
                Err(error) => panic!("{fault:?}: {error}"),
            }
            let copy = dir.path().join("pgbr/main/stanza.json.copy");
            assert!(copy.exists(), "{fault:?}");

            let (faulty, wrapper) = faulty_repo(dir.path(), fault).await;
            if let Ok(opened) = Stanza::open(&faulty, &stanza()).await {
                let upgraded = opened.upgrade(cluster(2), NOW).await;
                let now = Stanza::open(&healthy, &stanza()).await.unwrap();
                assert!(upgraded.is_err() || now.history().len() == 2, "{fault:?}");
                requests = requests.max(wrapper.requests());
            }
        }
        n += 1;
        if n > requests {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_makers_of_different_clusters_end_with_one() {
    for _ in 0..10 {
        let dir = tempfile::tempdir().unwrap();
        let repo = repo(dir.path()).await;
        let make = |system_id: u64| {
            let repo = repo.clone();
            tokio::spawn(async move { Stanza::create(&repo, &stanza(), cluster(system_id), NOW).await })
        };
        let (a, b) = (make(1), make(2));
        let (a, b) = (a.await.unwrap(), b.await.unwrap());
        assert!(a.is_ok() != b.is_ok(), "{a:?} {b:?}");
        let winner = a.or(b).unwrap();
        std::fs::remove_file(dir.path().join("pgbr/main/stanza.json")).unwrap();
        assert_eq!(
            Stanza::open(&repo, &stanza()).await.unwrap().history(),
            winner.history(),
            "the copy agrees"
        );
    }
}

#[tokio::test]
async fn a_stanza_goes_with_everything_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repo(dir.path()).await;
    let made = create(&repo).await;
    let other = Stanza::create(&repo, &"other".parse().unwrap(), cluster(3), NOW).await.unwrap();
    let backups = BackupStore::new(&repo, &stanza());
    backups.put_pack(&label("20261122-120000F"), 1, 0, false, content(1, 10)).await.unwrap();
    backups.commit_manifest(&label("20261122-120000F"), 1, content(1, 5000)).await.unwrap();
    let source = WalSource::Bytes(content(1, 10));
    let push = WalPush::new(made.archive_id(), "00000002.history".parse().unwrap(), source);
    WalStore::new(&repo, &stanza()).push(push).await.unwrap();
    let changes = std::collections::BTreeMap::from([("who".to_owned(), Some("me".to_owned()))]);
    Notes::new(&repo, &stanza()).add(&label("20261122-120000F"), &changes, NOW).await.unwrap();
    std::fs::write(dir.path().join("pgbr/main/archive/15-1/x#1"), b"half").unwrap();

    for _ in 0..2 {
        Stanza::delete(&repo, &stanza()).await.unwrap();
        assert!(!dir.path().join("pgbr/main").exists());
    }
    assert_eq!(repo.stanzas().await.unwrap(), [other.name().clone()]);
    create(&repo).await;
}

#[tokio::test]
async fn a_removal_that_died_is_completed_by_the_next() {
    let labels =
        ["20261122-120000F", "20261122-120000F_20261122-130000D", "20261122-120000F_20261122-140000I"];
    let mut n = 0;
    loop {
        let mut requests = 0;
        for fault in failures(n) {
            let dir = tempfile::tempdir().unwrap();
            let healthy = repo(dir.path()).await;
            create(&healthy).await;
            let backups = BackupStore::new(&healthy, &stanza());
            for name in labels {
                backups.put_pack(&label(name), 1, 0, false, content(1, 10)).await.unwrap();
                backups.commit_manifest(&label(name), 1, content(1, 5000)).await.unwrap();
            }
            let (faulty, wrapper) = faulty_repo(dir.path(), fault).await;
            let removed = Stanza::delete(&faulty, &stanza()).await;
            requests = wrapper.requests();
            let left = backups.list_backups().await.unwrap();
            assert!(
                labels.iter().map(|name| label(name)).take(left.len()).eq(left.iter().copied()),
                "{fault:?}"
            );
            for name in &left {
                assert_eq!(backups.list_packs(name).await.unwrap().len(), 1, "{fault:?}: {name}");
            }
            let gone = || !dir.path().join("pgbr/main").exists();
            // As long as there is anything else, the record says what it is.
            assert!(left.is_empty() || Stanza::open(&healthy, &stanza()).await.is_ok(), "{fault:?}");
            assert!(removed.is_err() || gone(), "{fault:?}");
            Stanza::delete(&healthy, &stanza()).await.unwrap();
            assert!(gone(), "{fault:?}");
        }
        n += 1;
        if n > requests {
            return;
        }
    }
}

#[tokio::test]
async fn what_was_kept_of_a_repository_opens_it_without_a_request() {
    let dir = tempfile::tempdir().unwrap();
    let made = repo(dir.path()).await;
    let created = Stanza::create(&made, &stanza(), cluster(1), NOW).await.unwrap();
    let (text, record) = (made.text().clone(), created.record().unwrap());

    let (store, pass) = (local(dir.path()), passphrase());
    let open = |text: bytes::Bytes| Repo::open_kept(store.clone(), text, Some(&pass), None, entropy());
    let kept = open(text.clone()).await.unwrap();
    let opened = Stanza::open_kept(&kept, &stanza(), &record).unwrap();
    assert_eq!(store.requests(), pgbr_repo::Requests::default());
    assert_eq!((kept.id(), opened.history()), (made.id(), created.history()));

    let mut changed = text.to_vec();
    changed[text.len() / 2] ^= 1;
    assert!(open(changed.into()).await.is_err());
    let other = "other".parse().unwrap();
    assert!(matches!(Stanza::open_kept(&kept, &other, &record), Err(Error::Corrupt { .. })));
    assert!(Stanza::open_kept(&kept, &stanza(), &record[..record.len() - 1]).is_err());
    let elsewhere = tempfile::tempdir().unwrap();
    let foreign = Stanza::open_kept(&repo(elsewhere.path()).await, &stanza(), &record);
    assert!(matches!(foreign, Err(Error::Foreign { .. })), "{foreign:?}");
}
