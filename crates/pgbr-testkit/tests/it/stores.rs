//! Each object store does what `object_store` asks of one, with and without TLS.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use object_store::integration;
use object_store::path::Path;
use object_store::{Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode};
use pgbr_testkit::{AzureServer, Bucket, Client, GcsServer, S3Server, StoreKind};

/// Many at once would only wait for each other.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// One creates, nobody else does; ranges, listings and removals are right.
async fn does_what_pgbr_needs(bucket: &Bucket) {
    let store = bucket.client();
    let key = Path::from("a/b c/1");
    let puts = (0..8_u8).map(|n| {
        let (store, key) = (Arc::clone(&store), key.clone());
        async move { store.put_opts(&key, vec![n; 1000].into(), PutMode::Create.into()).await.map(|_| n) }
    });
    let outcomes: Vec<_> = futures::future::join_all(puts).await;
    let won: Vec<u8> = outcomes.iter().filter_map(|outcome| outcome.as_ref().ok().copied()).collect();
    assert_eq!(won.len(), 1, "{bucket:?}: {outcomes:?}");
    let lost = outcomes.iter().filter(|outcome| matches!(outcome, Err(Error::AlreadyExists { .. }))).count();
    assert_eq!(lost, 7, "{bucket:?}: {outcomes:?}");
    assert_eq!(store.get(&key).await.expect("it is there").bytes().await.expect("whole"), vec![won[0]; 1000]);

    store.put(&key, (0..=255_u8).collect::<Vec<_>>().into()).await.expect("an overwrite");
    assert_eq!(store.get_range(&key, 10..13).await.expect("a range").as_ref(), [10, 11, 12]);
    if bucket.kind() != StoreKind::Azure {
        let last = GetOptions::new().with_range(Some(GetRange::Suffix(2)));
        let got = store.get_opts(&key, last).await.expect("a suffix");
        assert_eq!(got.bytes().await.expect("whole").as_ref(), [254, 255]);
    }
    assert!(matches!(store.get(&Path::from("a/b")).await, Err(Error::NotFound { .. })));

    let names: Vec<Path> = (0..5).map(|n| Path::from(format!("a/x{n}/y"))).collect();
    for name in &names {
        store.put(name, "z".into()).await.expect("a put");
    }
    let listed = store.list_with_delimiter(Some(&Path::from("a"))).await.expect("a listing");
    let prefixes: Vec<String> = listed.common_prefixes.iter().map(ToString::to_string).collect();
    assert_eq!(prefixes, ["a/b c", "a/x0", "a/x1", "a/x2", "a/x3", "a/x4"], "{bucket:?}");
    let after = store.list_with_offset(Some(&Path::from("a")), &names[2]);
    let after: Vec<Path> = after.map_ok(|meta| meta.location).try_collect().await.expect("a listing");
    assert_eq!(after, names[3..], "{bucket:?}");
    let removed = store.delete_stream(futures::stream::iter(names.into_iter().map(Ok)).boxed());
    assert_eq!(removed.try_collect::<Vec<_>>().await.expect("removals").len(), 5);
    let left: Vec<_> = store.list(None).try_collect().await.expect("a listing");
    assert_eq!(left.iter().map(|meta| (meta.location.clone(), meta.size)).collect::<Vec<_>>(), [(key, 256)]);
}

#[test]
fn plain() {
    runtime().block_on(async {
        for kind in StoreKind::CLOUD {
            does_what_pgbr_needs(&Bucket::of(kind)).await;
        }
    });
}

#[test]
fn over_tls() {
    runtime().block_on(async {
        for bucket in [S3Server::tls().bucket(), AzureServer::tls().bucket(), GcsServer::tls().bucket()] {
            does_what_pgbr_needs(&bucket).await;
        }
    });
}

/// This server is our own: it has to stand up to what `object_store` asks of Google's.
#[test]
fn googles_stand_in_passes_the_conformance_functions() {
    runtime().block_on(async {
        let bucket = GcsServer::shared().versioned_bucket();
        let store = bucket.client();
        integration::put_get_delete_list(&store).await;
        integration::put_get_attributes(&store).await;
        integration::get_opts(&store).await;
        integration::put_opts(&store, true).await;
        integration::list_uses_directories_correctly(&store).await;
        integration::list_with_delimiter(&store).await;
        integration::list_with_offset_exclusivity(&store).await;
        integration::rename_and_copy(&store).await;
        integration::copy_if_not_exists(&store).await;
        integration::stream_get(&store).await;
    });
}

/// Uploads in parts and listings page by page, which pgbr does without, on all three.
#[test]
fn parts_and_pages_pass_the_conformance_functions() {
    runtime().block_on(async {
        for kind in StoreKind::CLOUD {
            let bucket = Bucket::of(kind);
            let Client { objects, parts, pages } = bucket.whole_client();
            integration::multipart(&objects, &*parts).await;
            // Azure's client does not take attributes to what it uploads in parts by hand.
            if kind != StoreKind::Azure {
                integration::multipart_with_opts(&objects, &*parts).await;
            }
            integration::multipart_put_part_out_of_order(&objects, &*parts).await;
            integration::multipart_out_of_order(&objects).await;
            integration::multipart_race_condition(&objects, kind != StoreKind::Azure).await;
            integration::list_paginated(&objects, &*pages).await;
        }
    });
}

/// What is removed or overwritten is still there under its generation.
#[test]
fn versions_are_kept_where_they_were_asked_for() {
    runtime().block_on(async {
        for (bucket, kept) in [
            (GcsServer::shared().versioned_bucket(), true),
            (S3Server::shared().versioned_bucket(), true),
            (GcsServer::shared().bucket(), false),
        ] {
            let (store, key) = (bucket.client(), Path::from("a"));
            let first = store.put(&key, "1".into()).await.expect("a put");
            store.put(&key, "2".into()).await.expect("a put");
            store.delete(&key).await.expect("a removal");
            assert!(matches!(store.get(&key).await, Err(Error::NotFound { .. })));
            let old = store.get_opts(&key, GetOptions::new().with_version(first.version)).await;
            assert_eq!(old.is_ok(), kept, "{bucket:?}");
            if let Ok(old) = old {
                assert_eq!(old.bytes().await.expect("whole").as_ref(), b"1");
            }
        }
    });
}

/// Signatures are looked at where a test wants that.
#[test]
fn a_stranger_is_refused() {
    runtime().block_on(async {
        let refused = S3Server::strict().bucket().client().list(None).try_collect::<Vec<_>>().await;
        assert!(
            matches!(
                refused,
                Err(Error::PermissionDenied { .. } | Error::Unauthenticated { .. } | Error::Generic { .. })
            ),
            "{refused:?}"
        );
    });
}
