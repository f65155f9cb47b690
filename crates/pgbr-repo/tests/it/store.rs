//! The seam to storage: what it promises of a directory, and what the probe finds out.

use std::sync::Arc;

use bytes::Bytes;
use object_store::integration;
use object_store::path::Path;
use pgbr_repo::{Created, Error, Repo, Resolved, Store};

use crate::fixture::*;
use pgbr_testkit::{Fault, FaultStore, failures};

/// The stores in the cloud are tried the same way where their clients are made.
#[tokio::test]
async fn a_directory_passes_the_tests_of_object_store() {
    let dir = tempfile::tempdir().unwrap();
    let mut inner = None;
    let store = Store::local_wrapped(dir.path(), true, |files| {
        inner = Some(Arc::clone(&files));
        files
    });
    store.unwrap();
    let files = inner.unwrap();
    integration::put_get_delete_list(&files).await;
    integration::get_opts(&files).await;
    // A file has no condition to be replaced under.
    integration::put_opts(&files, false).await;
    integration::list_uses_directories_correctly(&files).await;
    integration::list_with_delimiter(&files).await;
    integration::stream_get(&files).await;
    integration::rename_and_copy(&files).await;
    integration::copy_if_not_exists(&files).await;
    integration::copy_rename_nonexistent_object(&files).await;
    integration::multipart_race_condition(&files, true).await;
    integration::multipart_out_of_order(&files).await;
}

#[tokio::test]
async fn what_was_created_first_stays() {
    let dir = tempfile::tempdir().unwrap();
    creates(&local(dir.path())).await;
}

/// What every store promises of an object.
pub(crate) async fn creates(store: &Store) {
    let key = Path::from("pgbr/a/b/c");
    assert_eq!(store.create(&key, content(1, 100)).await.unwrap(), Created::New);
    assert_eq!(store.create(&key, content(2, 100)).await.unwrap(), Created::AlreadyThere);
    assert_eq!(store.get(&key, 100).await.unwrap(), content(1, 100));
    assert_eq!(store.head(&key).await.unwrap(), 100);
    store.settle(&key).await.unwrap();

    assert_eq!(store.get_range(&key, 10..20).await.unwrap(), content(1, 100).slice(10..20));
    assert_eq!(store.get_range(&key, 10..10).await.unwrap(), Bytes::new());
    for beyond in [90..101, 100..101, 200..300] {
        let error = store.get_range(&key, beyond.clone()).await.unwrap_err();
        assert!(error.is_damage(), "{store}: {beyond:?}: {error}");
    }
    assert!(store.get(&key, 99).await.unwrap_err().is_damage(), "larger than allowed");

    store.overwrite(&key, content(3, 10)).await.unwrap();
    assert_eq!(store.get(&key, 10).await.unwrap(), content(3, 10));
    for _ in 0..2 {
        store.delete_durable(&key).await.unwrap();
        assert!(store.get(&key, 10).await.unwrap_err().is_not_found());
    }
    let requests = store.requests();
    assert_eq!((requests.puts, requests.deletes, requests.bytes_out), (3, 2, 210));
    assert!(requests.gets >= 10 && requests.bytes_in >= 120, "{requests:?}");
}

#[tokio::test]
async fn listings_are_sorted_and_show_no_leftovers() {
    let dir = tempfile::tempdir().unwrap();
    let store = local(dir.path());
    std::fs::create_dir_all(dir.path().join("d/y")).unwrap();
    std::fs::write(dir.path().join("d/y/2#17"), b"half").unwrap();
    listings(&store).await;

    let mut leftovers = store.leftovers(&Path::from("d")).await.unwrap();
    assert_eq!(leftovers.len(), 1);
    assert!(leftovers[0].path.ends_with("d/y/2#17") && leftovers[0].size == 4);
    store.remove_leftover(leftovers.remove(0)).await.unwrap();
    assert!(store.leftovers(&Path::from("d")).await.unwrap().is_empty());
}

/// What every store promises of a listing.
pub(crate) async fn listings(store: &Store) {
    for name in ["d/b", "d/a", "d/z/1", "d/y/2", "d/y/3"] {
        store.create(&Path::from(name), content(1, 5)).await.unwrap();
    }
    let level = store.level(&Path::from("d")).await.unwrap();
    assert_eq!(level.directories, ["y", "z"]);
    let keys: Vec<&str> = level.objects.iter().map(|o| o.key.as_ref()).collect();
    assert_eq!(keys, ["d/a", "d/b"]);
    let all: Vec<_> = futures::TryStreamExt::try_collect(store.list(&Path::from("d"))).await.unwrap();
    assert_eq!(all.len(), 5);
    let later = store.list_from(&Path::from("d"), &Path::from("d/y/2"));
    let later: Vec<_> = futures::TryStreamExt::try_collect(later).await.unwrap();
    let mut later: Vec<_> = later.iter().map(|object| object.key.as_ref()).collect();
    later.sort_unstable();
    assert_eq!(later, ["d/y/3", "d/z/1"]);
    assert!(store.level(&Path::from("none")).await.unwrap().objects.is_empty());
}

#[tokio::test]
async fn empty_directories_go_and_full_ones_stay() {
    let dir = tempfile::tempdir().unwrap();
    let store = local(dir.path());
    for name in ["d/x/y/1", "d/z/2"] {
        store.create(&Path::from(name), content(1, 5)).await.unwrap();
    }
    store.delete(&Path::from("d/x/y/1")).await.unwrap();
    store.remove_empty_directories(&Path::from("d")).await.unwrap();
    assert!(!dir.path().join("d/x").exists() && dir.path().join("d/z/2").exists());
    store.remove_empty_directories(&Path::from("no/such")).await.unwrap();
    store.create(&Path::from("d/x/y/1"), content(1, 5)).await.unwrap();
}

#[tokio::test]
async fn the_probe_finds_stores_that_ignore_conditions() {
    for (fault, honoured) in [(Fault::None, true), (Fault::IgnoresCreate, false), (Fault::RacyCreate, false)]
    {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = faulty(dir.path(), fault);
        let made = Repo::create(store, sealed()).await.unwrap();
        assert_eq!(made.traits().create, honoured, "{fault:?}");
        assert_eq!(made.store().create_honoured(), honoured, "{fault:?}");
        let opened = open(local(dir.path())).await.unwrap();
        assert_eq!(opened.store().create_honoured(), honoured, "it is kept: {fault:?}");
    }
}

#[tokio::test]
async fn every_doubt_about_a_create_is_settled() {
    for n in 0..3 {
        for fault in failures(n) {
            for there in [None, Some(content(1, 50)), Some(content(2, 50)), Some(content(2, 5000))] {
                let dir = tempfile::tempdir().unwrap();
                let key = Path::from("pgbr/x");
                if let Some(there) = &there {
                    local(dir.path()).create(&key, there.clone()).await.unwrap();
                }
                let (store, _) = faulty(dir.path(), fault);
                let resolved = store.create_resolved(&key, content(1, 50), 1000).await;
                let now = local(dir.path()).get(&key, 10_000).await.ok();
                match resolved {
                    Ok(Resolved::Ours) => assert_eq!(now, Some(content(1, 50)), "{fault:?} {there:?}"),
                    Ok(Resolved::Others(_)) => assert_eq!(now, there, "{fault:?}"),
                    Err(Error::Undecided { .. }) => {}
                    Err(error) => assert_ne!(now, Some(content(1, 50)), "{fault:?} {error}"),
                }
                if let Some(there) = there {
                    assert_eq!(now, Some(there), "what was there stays: {fault:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_request_that_may_still_arrive_is_undecided() {
    let files = object_store::memory::InMemory::new();
    let store = Store::remote(FaultStore::new(Arc::new(files), Fault::Fails(0)), "bucket");
    let error = store.create_resolved(&Path::from("pgbr/x"), content(1, 50), 1000).await.unwrap_err();
    assert!(matches!(error, Error::Undecided { .. }) && error.is_transient(), "{error}");
}

#[tokio::test]
async fn errors_say_what_happened_once() {
    use std::error::Error as _;
    let dir = tempfile::tempdir().unwrap();
    let store = local(dir.path());
    // A file where a directory should be.
    std::fs::write(dir.path().join("file"), b"").unwrap();
    let error = store.create(&Path::from("file/x"), content(1, 1)).await.unwrap_err();
    let cause = error.source().expect("the store said why").to_string();
    assert!(matches!(error, Error::Unavailable { .. }) && cause.contains("Not a directory"), "{cause}");
    assert!(!error.to_string().contains(&cause), "{error}");
}
