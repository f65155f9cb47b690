//! Repositories in real object stores, and what is made of everything that they and the network between can say.

use std::error::Error as _;
use std::time::{Duration, Instant};

use object_store::path::Path;
use pgbr_repo::{
    AzureCredentials, AzureOptions, CloudConnect, CloudKind, CloudOptions, Created, Error, GcsCredentials,
    GcsOptions, PushOutcome, Repo, Resolved, Result, S3Credentials, S3Options, Secret, Stanza, Store,
    UriStyle, WalGet, WalPush, WalSource, WalStore,
};
use pgbr_testkit::{Act, AzureServer, Bucket, Proxy, S3Server, StoreKind, free_port};

use crate::fixture::*;
use crate::store::{creates, listings};

fn options(bucket: &Bucket) -> CloudOptions {
    options_at(bucket, bucket.endpoint())
}

/// A repository in a bucket, by way of another address.
fn options_at(bucket: &Bucket, endpoint: &str) -> CloudOptions {
    let endpoint = endpoint.to_owned();
    let kind = match bucket.kind() {
        StoreKind::Posix => panic!("a directory is no cloud"),
        StoreKind::S3 => CloudKind::S3(S3Options {
            bucket: bucket.name().to_owned(),
            endpoint,
            region: S3Server::REGION.to_owned(),
            uri_style: UriStyle::Path,
            credentials: S3Credentials::Shared {
                key: Secret::new(S3Server::KEY),
                secret: Secret::new(S3Server::SECRET),
                token: None,
            },
            kms_key_id: None,
            sse_customer_key: None,
            requester_pays: false,
        }),
        StoreKind::Azure => CloudKind::Azure(AzureOptions {
            account: AzureServer::ACCOUNT.to_owned(),
            container: bucket.name().to_owned(),
            endpoint,
            uri_style: UriStyle::Path,
            credentials: AzureCredentials::Shared(Secret::new(AzureServer::KEY)),
        }),
        StoreKind::Gcs => CloudKind::Gcs(GcsOptions {
            bucket: bucket.name().to_owned(),
            endpoint,
            credentials: GcsCredentials::Token(Secret::new("test-token")),
            user_project: None,
        }),
    };
    let connect = CloudConnect {
        ca_file: bucket.certificates().map(pgbr_testkit::Certificates::authority),
        io_timeout: Duration::from_secs(20),
        retry: Duration::from_secs(20),
        ..CloudConnect::default()
    };
    CloudOptions { kind, prefix: "some/where".to_owned(), connect, tags: Vec::new(), as_of: None }
}

fn store(bucket: &Bucket) -> Store {
    Store::cloud(&options(bucket)).unwrap()
}

/// A store behind a proxy, where a request is not repeated for long.
fn behind(bucket: &Bucket, proxy: &Proxy, change: impl FnOnce(&mut CloudConnect)) -> Store {
    let mut options = options_at(bucket, &proxy.endpoint());
    change(&mut options.connect);
    Store::cloud(&options).unwrap()
}

fn key() -> Path {
    Path::from("pgbr/main/object")
}

/// What an error says with its cause.
fn said(error: &Error) -> String {
    let cause = error.source().map(ToString::to_string).unwrap_or_default();
    assert!(cause.is_empty() || !error.to_string().contains(&cause), "a cause is said once: {error}");
    format!("{error} | {cause}")
}

#[tokio::test]
async fn the_seam_is_the_same_on_every_store() {
    for kind in StoreKind::CLOUD {
        let bucket = Bucket::of(kind);
        creates(&store(&bucket)).await;
        listings(&store(&bucket)).await;
    }
}

#[tokio::test]
async fn a_repository_lives_in_every_store() {
    for kind in StoreKind::CLOUD {
        let bucket = Bucket::of(kind);
        let made = Repo::create(store(&bucket), sealed()).await.unwrap();
        assert!(made.traits().create, "{bucket:?} honours creates");
        assert!(matches!(Repo::create(store(&bucket), sealed()).await, Err(Error::RepositoryExists { .. })));

        let repo = open(store(&bucket)).await.unwrap();
        let made = Stanza::create(&repo, &stanza(), cluster(7), NOW).await.unwrap();
        let wal = WalStore::new(&repo, &stanza());
        let file = "000000010000000000000001".parse().unwrap();
        let push = |bytes| WalPush::new(made.archive_id(), file, WalSource::Bytes(bytes));
        assert!(matches!(wal.push(push(content(1, 100_000))).await.unwrap(), PushOutcome::Stored { .. }));
        assert!(matches!(wal.push(push(content(2, 100_000))).await, Err(Error::WalConflict { .. })));
        let WalGet::Found(found) = wal.get(made.archive_id(), &file).await.unwrap() else {
            panic!("is there")
        };
        assert_eq!(found.content, content(1, 100_000));
        let next = "000000010000000000000002".parse().unwrap();
        assert!(!matches!(wal.get(made.archive_id(), &next).await.unwrap(), WalGet::Found(_)));
    }
}

#[tokio::test]
async fn a_store_that_cannot_hold_a_repository_is_refused() {
    // Azure signs the header that is taken away here.
    for kind in [StoreKind::S3, StoreKind::Gcs] {
        let bucket = Bucket::of(kind);
        let proxy = Proxy::before(&bucket);
        proxy.act(|seen| if seen.range.is_some() { Act::Without("range") } else { Act::Pass });
        let refused = Repo::create(behind(&bucket, &proxy, |_| {}), plain()).await.unwrap_err();
        let said = said(&refused);
        assert!(matches!(refused, Error::UnfitStore { .. }) && said.contains("part of an object"), "{said}");
        // What it does not honour, no repository relies on.
        proxy.act(|_| Act::Without("if-none-match"));
        if kind == StoreKind::S3 {
            let made = Repo::create(behind(&bucket, &proxy, |_| {}), plain()).await.unwrap();
            assert!(!made.traits().create);
        }
    }
}

#[tokio::test]
async fn a_missing_bucket_is_never_a_missing_object() {
    for kind in StoreKind::CLOUD {
        let bucket = Bucket::of(kind);
        let mut options = options(&bucket);
        match &mut options.kind {
            CloudKind::S3(s3) => s3.bucket.push_str("-none"),
            CloudKind::Azure(azure) => azure.container.push_str("-none"),
            CloudKind::Gcs(gcs) => gcs.bucket.push_str("-none"),
        }
        let store = Store::cloud(&options).unwrap();
        let listed = futures::TryStreamExt::try_collect::<Vec<_>>(store.list(&key())).await;
        let errors = [
            store.get(&key(), 10).await.unwrap_err(),
            store.get_range(&key(), 0..5).await.unwrap_err(),
            store.head(&key()).await.unwrap_err(),
            store.exists(&key()).await.unwrap_err(),
            store.level(&key()).await.unwrap_err(),
            listed.unwrap_err(),
            store.create(&key(), content(1, 10)).await.unwrap_err(),
            store.create_resolved(&key(), content(1, 10), 10).await.unwrap_err(),
            store.overwrite(&key(), content(1, 10)).await.unwrap_err(),
            store.delete(&key()).await.unwrap_err(),
            store.delete_all(vec![key()]).await.unwrap_err(),
            store.check_reached().await.err().unwrap_or(open(store.clone()).await.unwrap_err()),
        ];
        let code = if kind == StoreKind::Azure { "ContainerNotFound" } else { "NoSuchBucket" };
        for (n, error) in errors.iter().enumerate() {
            let missing = matches!(error, Error::StoreMissing { .. });
            assert!(missing && said(error).contains(code), "{kind:?} {n}: {}", said(error));
        }
    }
}

#[tokio::test]
async fn a_bare_not_found_is_looked_into() {
    for kind in StoreKind::CLOUD {
        let bucket = Bucket::of(kind);
        let proxy = Proxy::before(&bucket);
        let store = behind(&bucket, &proxy, |_| {});
        Repo::create(store.clone(), plain()).await.unwrap();
        assert!(store.get(&key(), 10).await.unwrap_err().is_not_found());
        assert!(!store.exists(&key()).await.unwrap());
        // Somebody else answers, who knows nothing of objects.
        proxy.act(|_| Act::Answer(404, Vec::new(), "<html>nothing here</html>".to_owned()));
        let fresh = behind(&bucket, &proxy, |_| {});
        for error in [store.get(&key(), 10).await.unwrap_err(), fresh.exists(&key()).await.unwrap_err()] {
            assert!(matches!(error, Error::Unavailable { .. }), "{kind:?}: {error}");
        }
        assert!(store.delete(&key()).await.is_err());
    }
}

#[tokio::test]
async fn a_server_that_does_not_know_the_key_says_so() {
    let bucket = S3Server::strict().bucket();
    let error = store(&bucket).get(&key(), 10).await.unwrap_err();
    assert!(matches!(error, Error::Credentials { .. }), "{error}");
    let said = said(&error);
    assert!(said.contains("InvalidAccessKeyId") && !said.contains(S3Server::SECRET), "{said}");
    assert!(!said.contains("http"), "no address with a signature: {said}");
}

/// What each store says for what must not be repeated, and how it is sorted.
#[tokio::test]
async fn refusals_are_sorted_by_what_is_to_be_done() {
    type Sort = fn(&Error) -> bool;
    let credentials: Sort = |e| matches!(e, Error::Credentials { .. });
    let denied: Sort = |e| matches!(e, Error::Permission { .. });
    let clock: Sort = |e| matches!(e, Error::Clock { .. });
    let no_space: Sort = |e| matches!(e, Error::NoSpace { .. });
    let cases: [(StoreKind, u16, &str, Sort); 10] = [
        (StoreKind::S3, 403, "SignatureDoesNotMatch", credentials),
        (StoreKind::S3, 400, "ExpiredToken", credentials),
        (StoreKind::S3, 400, "AuthorizationHeaderMalformed", credentials),
        (StoreKind::S3, 403, "AccessDenied", denied),
        (StoreKind::S3, 403, "RequestTimeTooSkewed", clock),
        (StoreKind::S3, 403, "QuotaExceeded", no_space),
        (StoreKind::Azure, 403, "AuthenticationFailed", credentials),
        (StoreKind::Azure, 409, "BlobImmutableDueToPolicy", denied),
        (StoreKind::Gcs, 401, "AuthenticationRequired", credentials),
        (StoreKind::Gcs, 403, "AccessDenied", denied),
    ];
    for (kind, status, code, is_sorted) in cases {
        let bucket = Bucket::of(kind);
        let proxy = Proxy::before(&bucket);
        let store = behind(&bucket, &proxy, |_| {});
        proxy.act(move |_| Act::refuse(kind, status, code));
        let errors = [
            store.get(&key(), 10).await.unwrap_err(),
            store.create(&key(), content(1, 10)).await.unwrap_err(),
            store.overwrite(&key(), content(1, 10)).await.unwrap_err(),
            store.level(&key()).await.unwrap_err(),
            store.delete(&key()).await.unwrap_err(),
        ];
        for (n, error) in errors.iter().enumerate() {
            assert!(is_sorted(error) && said(error).contains(code), "{code} {n}: {}", said(error));
        }
        assert_eq!(proxy.seen().len(), errors.len(), "{code}: nothing of this is repeated");
    }
}

#[tokio::test]
async fn a_redirection_is_an_error_that_says_where_the_bucket_is() {
    let bucket = Bucket::of(StoreKind::S3);
    let proxy = Proxy::before(&bucket);
    let body = "<Error><Code>PermanentRedirect</Code><Message>use eu-west-1</Message></Error>";
    let header = ("location".to_owned(), "http://127.0.0.1:1/".to_owned());
    proxy.act(move |_| Act::Answer(301, vec![header.clone()], body.to_owned()));
    let error = behind(&bucket, &proxy, |_| {}).get(&key(), 10).await.unwrap_err();
    assert!(said(&error).contains("PermanentRedirect: use eu-west-1"), "{}", said(&error));
    assert_eq!(proxy.seen().len(), 1);
}

#[tokio::test]
async fn a_certificate_is_checked() {
    let bucket = S3Server::tls().bucket();
    let with = |change: &dyn Fn(&mut CloudConnect)| {
        let mut options = options(&bucket);
        change(&mut options.connect);
        Store::cloud(&options)
    };
    let certificates = bucket.certificates().unwrap();
    let good = with(&|_| {}).unwrap();
    assert_eq!(good.create(&key(), content(1, 10)).await.unwrap(), Created::New);
    let by_directory = |connect: &mut CloudConnect| {
        connect.ca_file = None;
        connect.ca_path = Some(certificates.authority_dir());
    };
    assert_eq!(with(&by_directory).unwrap().head(&key()).await.unwrap(), 10);

    let stranger = |connect: &mut CloudConnect| connect.ca_file = Some(certificates.stranger());
    let began = Instant::now();
    let error = with(&stranger).unwrap().head(&key()).await.unwrap_err();
    assert!(matches!(error, Error::Certificate { .. }), "{}", said(&error));
    assert!(began.elapsed() < Duration::from_secs(10), "that is not tried again");
    let unchecked = |connect: &mut CloudConnect| {
        stranger(connect);
        connect.verify_tls = false;
    };
    assert_eq!(with(&unchecked).unwrap().head(&key()).await.unwrap(), 10);

    let missing = |connect: &mut CloudConnect| connect.ca_file = Some("/no/such/file".into());
    assert!(matches!(with(&missing), Err(Error::StoreOptions { .. })));
    let empty = |connect: &mut CloudConnect| connect.ca_file = Some(certificates.key());
    assert!(matches!(with(&empty), Err(Error::StoreOptions { .. })));
}

#[tokio::test]
async fn a_server_without_tls_is_not_tried_for_long() {
    for kind in [StoreKind::S3, StoreKind::Azure] {
        let bucket = Bucket::of(kind);
        let began = Instant::now();
        let https = bucket.endpoint().replacen("http://", "https://", 1);
        let mut options = options_at(&bucket, &https);
        options.connect.verify_tls = false;
        let error = Store::cloud(&options).unwrap().head(&key()).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{}", said(&error));
        assert!(began.elapsed() < Duration::from_secs(10), "{kind:?}: that does not pass");
    }
}

/// As in pgBackRest: TLS is with the host that is connected to, the endpoint's name is in the request.
#[tokio::test]
async fn another_host_can_be_connected_to() {
    for style in [UriStyle::Path, UriStyle::Host] {
        let bucket = S3Server::tls().bucket();
        let mut options = options(&bucket);
        options.connect.host = Some("127.0.0.1".to_owned());
        options.connect.port = Some(bucket.port());
        let CloudKind::S3(s3) = &mut options.kind else { panic!("it is S3") };
        s3.endpoint = "s3.amazonaws.com".to_owned();
        s3.uri_style = style;
        let store = Store::cloud(&options).unwrap();
        assert_eq!(store.create(&key(), content(1, 10)).await.unwrap(), Created::New);
        let there = Path::from("some/where/pgbr/main/object");
        let there = object_store::ObjectStoreExt::head(&bucket.client(), &there).await.unwrap();
        assert_eq!(there.size, 10, "{style:?}");
        // The endpoint's own name is not the certificate's.
        options.connect.host = Some("localhost".to_owned());
        assert_eq!(Store::cloud(&options).unwrap().head(&key()).await.unwrap(), 10);
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_tried_for_a_while() {
    for kind in StoreKind::CLOUD {
        let bucket = Bucket::of(kind);
        let mut options = options_at(&bucket, &format!("http://127.0.0.1:{}", free_port()));
        options.connect.retry = Duration::from_millis(300);
        let store = Store::cloud(&options).unwrap();
        let error = store.get(&key(), 10).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }) && error.is_transient(), "{error}");
        assert!(said(&error).contains("refused"), "{}", said(&error));
        let error = store.create_resolved(&key(), content(1, 10), 10).await.unwrap_err();
        assert!(matches!(error, Error::Undecided { .. }), "{error}");
        assert!(store.delete(&key()).await.is_err());
    }
}

#[tokio::test]
async fn a_server_that_comes_back_is_waited_for() {
    for kind in StoreKind::CLOUD {
        let bucket = Bucket::of(kind);
        let proxy = Proxy::before(&bucket);
        let store = behind(&bucket, &proxy, |_| {});
        store.create(&key(), content(1, 1000)).await.unwrap();
        proxy.leave();
        let [old, new, none] = [key(), Path::from("pgbr/other"), Path::from("pgbr/none")];
        let back = async {
            tokio::time::sleep(Duration::from_millis(1500)).await;
            proxy.come_back();
        };
        let (got, put, deleted, ()) = tokio::join!(
            store.get(&old, 1000),
            store.create(&new, content(2, 1000)),
            store.delete(&none),
            back
        );
        assert_eq!(got.unwrap(), content(1, 1000));
        assert_eq!(put.unwrap(), Created::New);
        deleted.unwrap();
    }
}

#[tokio::test]
async fn a_body_is_whole_or_an_error() {
    for kind in StoreKind::CLOUD {
        let bucket = Bucket::of(kind);
        let proxy = Proxy::before(&bucket);
        let store = behind(&bucket, &proxy, |connect| connect.retry = Duration::from_secs(3));
        store.create(&key(), content(1, 300_000)).await.unwrap();
        // It breaks off a few times and is gone on with.
        for limit in [1, 3] {
            proxy.forget();
            proxy.act(move |seen| if seen.number < limit { Act::Cut } else { Act::Pass });
            assert_eq!(store.get(&key(), 300_000).await.unwrap(), content(1, 300_000), "{kind:?}");
            proxy.forget();
            let range = content(1, 300_000).slice(1000..200_000);
            assert_eq!(store.get_range(&key(), 1000..200_000).await.unwrap(), range, "{kind:?}");
        }
        // Each time another object is there: two are never mixed.
        proxy.forget();
        proxy.act(|seen| match seen.number {
            0 => Act::Cut,
            1 => Act::WrongEtag,
            _ => Act::Pass,
        });
        assert_eq!(store.get(&key(), 300_000).await.unwrap(), content(1, 300_000), "{kind:?}");
        proxy.act(|_| Act::Cut);
        let error = store.get(&key(), 300_000).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{kind:?}: {error}");
    }
}

#[tokio::test]
async fn a_create_whose_answer_is_lost_is_resolved() {
    for kind in StoreKind::CLOUD {
        let bucket = Bucket::of(kind);
        let proxy = Proxy::before(&bucket);
        let store = behind(&bucket, &proxy, |_| {});
        proxy.act(|seen| if seen.number == 0 { Act::Lose } else { Act::Pass });
        let mine = store.create_resolved(&key(), content(1, 1000), 1000).await.unwrap();
        assert_eq!(mine, Resolved::Ours, "{kind:?}");
        proxy.forget();
        let others = store.create_resolved(&key(), content(2, 1000), 1000).await.unwrap();
        assert_eq!(others, Resolved::Others(content(1, 1000)), "{kind:?}");
        // Lost for good: nobody knows.
        proxy.act(|seen| if seen.method == "PUT" { Act::Lose } else { Act::Reset });
        let store = behind(&bucket, &proxy, |connect| connect.retry = Duration::from_millis(300));
        let doubt = store.create_resolved(&Path::from("pgbr/x"), content(1, 1000), 1000).await;
        assert!(matches!(doubt, Err(Error::Undecided { .. })), "{kind:?}");
    }
}

#[tokio::test]
async fn what_stands_still_is_given_up_and_what_crawls_is_not() {
    for kind in StoreKind::CLOUD {
        let bucket = Bucket::of(kind);
        let proxy = Proxy::before(&bucket);
        let store = behind(&bucket, &proxy, |connect| connect.io_timeout = Duration::from_millis(700));
        store.create(&key(), content(1, 200_000)).await.unwrap();
        proxy.forget();
        proxy.act(|seen| if seen.number == 0 { Act::Stall(Duration::from_secs(60)) } else { Act::Pass });
        assert_eq!(store.get(&key(), 200_000).await.unwrap().len(), 200_000, "{kind:?}");
        proxy.forget();
        let put = store.create_resolved(&Path::from("pgbr/y"), content(3, 200_000), 200_000).await;
        assert_eq!(put.unwrap(), Resolved::Ours, "{kind:?}");
        // Two seconds, three times the limit for one that stands still.
        proxy.forget();
        proxy.act(|_| Act::Slow(100_000));
        assert_eq!(store.get(&key(), 200_000).await.unwrap().len(), 200_000, "{kind:?}");
        assert_eq!(proxy.seen().len(), 1, "{kind:?}: in one go");
    }
}

#[tokio::test]
async fn a_busy_store_is_left_alone_for_as_long_as_it_asks() {
    let bucket = Bucket::of(StoreKind::S3);
    let proxy = Proxy::before(&bucket);
    let store = behind(&bucket, &proxy, |_| {});
    for status in [503, 429] {
        proxy.forget();
        proxy.act(move |seen| if seen.number == 0 { Act::busy(status, Some(2)) } else { Act::Pass });
        let began = Instant::now();
        store.overwrite(&key(), content(1, 10)).await.unwrap();
        assert!(began.elapsed() >= Duration::from_secs(2), "{status}");
        assert_eq!(proxy.seen().len(), 2);
    }
    // S3's own word for a request that was too slow, and for two creates that met: both may be repeated.
    for (status, code) in [(400, "RequestTimeout"), (409, "ConditionalRequestConflict")] {
        proxy.forget();
        proxy.act(move |seen| match seen.number {
            0 => Act::refuse(StoreKind::S3, status, code),
            _ => Act::Pass,
        });
        let made = store.create(&Path::from(format!("pgbr/{code}")), content(1, 10)).await.unwrap();
        assert_eq!((made, proxy.seen().len()), (Created::New, 2), "{code}");
    }
}

async fn many(store: &Store, count: usize) -> Vec<Path> {
    let keys: Vec<Path> = (0..count).map(|n| Path::from(format!("pgbr/many/{n:05}"))).collect();
    let puts = keys.iter().map(|key| store.create(key, content(1, 10)));
    futures::StreamExt::collect::<Vec<Result<Created>>>(futures::StreamExt::buffer_unordered(
        futures::stream::iter(puts),
        16,
    ))
    .await
    .into_iter()
    .for_each(|made| assert_eq!(made.unwrap(), Created::New));
    keys
}

async fn left(store: &Store) -> usize {
    let listed: Vec<_> =
        futures::TryStreamExt::try_collect(store.list(&Path::from("pgbr/many"))).await.unwrap();
    listed.len()
}

#[tokio::test]
async fn many_objects_go_with_few_requests() {
    for (kind, count, requests) in
        [(StoreKind::S3, 1100, 2), (StoreKind::Azure, 40, 40), (StoreKind::Gcs, 40, 40)]
    {
        let bucket = Bucket::of(kind);
        let mut keys = many(&store(&bucket), count).await;
        let proxy = Proxy::before(&bucket);
        let store = behind(&bucket, &proxy, |_| {});
        assert!(store.delete_all(keys.split_off(count / 2)).await.unwrap().is_empty());
        assert_eq!(left(&store).await, count / 2, "{kind:?}");
        assert!(store.delete_all(keys.clone()).await.unwrap().is_empty());
        assert_eq!(left(&store).await, 0);
        let asked = |proxy: &Proxy| proxy.seen().iter().filter(|s| s.method != "GET").count();
        assert_eq!(asked(&proxy), requests, "{kind:?}");
        assert!(store.delete_all(keys.split_off(count / 2 - 5)).await.unwrap().is_empty(), "gone is gone");
    }
}

#[tokio::test]
async fn what_the_store_will_not_let_go_of_stops_nothing() {
    for kind in StoreKind::CLOUD {
        let bucket = Bucket::of(kind);
        let keys = many(&store(&bucket), 20).await;
        let proxy = Proxy::before(&bucket);
        let store = behind(&bucket, &proxy, |_| {});
        // Requests for many are not known here, and one object is locked.
        proxy.act(move |seen| match seen.method.as_str() {
            "POST" => Act::refuse(kind, 501, "NotImplemented"),
            "DELETE" if seen.path.ends_with("00007") => Act::refuse(kind, 403, "AccessDenied"),
            _ => Act::Pass,
        });
        let mut undeleted = {
            let mut options = options_at(&bucket, &proxy.endpoint());
            options.connect.retry = Duration::from_millis(300);
            Store::cloud(&options).unwrap().delete_all(keys.clone()).await.unwrap()
        };
        assert_eq!(undeleted.len(), 1, "{kind:?}");
        let one = undeleted.remove(0);
        assert_eq!(one.key, keys[7]);
        assert!(matches!(one.error, Error::Permission { .. }) && said(&one.error).contains("AccessDenied"));
        assert_eq!(left(&store).await, 1, "{kind:?}");
        // Where the store is away, nobody says that objects are gone.
        proxy.act(|seen| if seen.method == "GET" { Act::Pass } else { Act::Reset });
        let mut options = options_at(&bucket, &proxy.endpoint());
        options.connect.retry = Duration::from_millis(300);
        assert!(Store::cloud(&options).unwrap().delete_all(keys).await.is_err(), "{kind:?}");
    }
}

#[tokio::test]
async fn objects_of_a_locked_bucket_can_be_stored() {
    let bucket = S3Server::shared().locked_bucket();
    let mut options = options(&bucket);
    options.tags = vec![("owner".to_owned(), "the team 7".to_owned())];
    let store = Store::cloud(&options).unwrap();
    assert_eq!(store.create(&key(), content(1, 100)).await.unwrap(), Created::New);
    assert_eq!(store.create(&key(), content(2, 100)).await.unwrap(), Created::AlreadyThere);
    assert_eq!(store.get(&key(), 100).await.unwrap(), content(1, 100));
}

/// The time of the server is this host's, and S3 tells it by seconds.
async fn moment() -> i64 {
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    i64::try_from(now).unwrap()
}

#[tokio::test]
async fn a_versioned_bucket_is_read_as_it_was() {
    let bucket = S3Server::shared().versioned_bucket();
    let mut options = options(&bucket);
    let now = Store::cloud(&options).unwrap();
    let name = |text: &str| Path::from(format!("pgbr/d/{text}"));
    let before = moment().await;
    for (n, text) in ["kept", "changed", "removed", "gone/1", "twice"].iter().enumerate() {
        now.create(&name(text), content(n as u64, 100)).await.unwrap();
    }
    now.overwrite(&name("twice"), content(20, 70)).await.unwrap();
    // Of what happened in one second moto does not tell the order.
    moment().await;
    now.delete(&name("twice")).await.unwrap();
    let then = moment().await;
    now.overwrite(&name("changed"), content(21, 50)).await.unwrap();
    now.create(&name("new/2"), content(22, 10)).await.unwrap();
    now.create(&name("twice"), content(23, 10)).await.unwrap();
    assert!(now.delete_all(vec![name("removed"), name("gone/1")]).await.unwrap().is_empty());

    let mut at = |moment| {
        options.as_of = Some(moment);
        Store::cloud(&options).unwrap()
    };
    let old = at(then);
    for (n, text) in ["kept", "changed", "removed", "gone/1"].iter().enumerate() {
        assert_eq!(old.get(&name(text), 100).await.unwrap(), content(n as u64, 100), "{text}");
    }
    assert_eq!(old.get_range(&name("changed"), 10..60).await.unwrap(), content(1, 100).slice(10..60));
    assert!(old.get(&name("twice"), 100).await.unwrap_err().is_not_found());
    assert!(old.head(&name("new/2")).await.unwrap_err().is_not_found());
    let level = old.level(&Path::from("pgbr/d")).await.unwrap();
    assert_eq!(level.directories, ["gone"]);
    let keys: Vec<_> = level.objects.iter().map(|o| (o.key.filename().unwrap().to_owned(), o.size)).collect();
    assert_eq!(keys, [("changed", 100), ("kept", 100), ("removed", 100)].map(|(k, s)| (k.to_owned(), s)));
    let all: Vec<_> = futures::TryStreamExt::try_collect(old.list(&Path::from("pgbr"))).await.unwrap();
    assert_eq!(all.len(), 4);

    assert!(at(before).level(&Path::from("pgbr")).await.unwrap().directories.is_empty());
    let (seconds, far) = (i64::from(u32::MAX), name("changed"));
    assert_eq!(at(seconds).get(&far, 100).await.unwrap(), content(21, 50));
    for error in [
        old.create(&name("x"), content(1, 1)).await.unwrap_err(),
        old.overwrite(&name("x"), content(1, 1)).await.unwrap_err(),
        old.delete(&name("kept")).await.unwrap_err(),
    ] {
        assert!(matches!(error, Error::Permission { .. }) && said(&error).contains("moment"), "{error}");
    }
    assert_eq!(old.delete_all(vec![name("kept")]).await.unwrap().len(), 1);

    let mut elsewhere = self::options(&Bucket::of(StoreKind::Gcs));
    elsewhere.as_of = Some(then);
    assert!(matches!(Store::cloud(&elsewhere), Err(Error::StoreOptions { .. })));
}

#[tokio::test]
async fn long_listings_of_versions_are_read_to_their_end() {
    let bucket = S3Server::shared().versioned_bucket();
    let mut options = options(&bucket);
    let now = Store::cloud(&options).unwrap();
    let keys = many(&now, 1500).await;
    let then = moment().await;
    assert!(now.delete_all(keys.clone()).await.unwrap().is_empty());
    assert_eq!(left(&now).await, 0);
    options.as_of = Some(then);
    let old = Store::cloud(&options).unwrap();
    assert_eq!(left(&old).await, 1500);
    assert_eq!(old.level(&Path::from("pgbr/many")).await.unwrap().objects.len(), 1500);
    assert_eq!(old.level(&Path::from("pgbr")).await.unwrap().directories, ["many"]);
    options.as_of = Some(then + 3600);
    let later = Store::cloud(&options).unwrap();
    assert!(later.level(&Path::from("pgbr")).await.unwrap().directories.is_empty());
}

#[tokio::test]
async fn options_that_describe_no_store_are_refused() {
    let bucket = Bucket::of(StoreKind::S3);
    for endpoint in ["", "ftp://host", "http://user:secret@host", "https://"] {
        let Err(error) = Store::cloud(&options_at(&bucket, endpoint)) else { panic!("'{endpoint}' is none") };
        assert!(matches!(error, Error::StoreOptions { .. }), "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    let azure = Bucket::of(StoreKind::Azure);
    let mut wrong = options(&azure);
    let CloudKind::Azure(kind) = &mut wrong.kind else { panic!("it is Azure") };
    kind.credentials = AzureCredentials::Shared(Secret::new("Tr0mbone no base64"));
    let error = Store::cloud(&wrong).unwrap_err();
    assert!(!format!("{error:?} {error} {wrong:?}").contains("Tr0mbone"), "{error}");
    assert_eq!(options(&azure).to_string(), format!("azure://{}/some/where", azure.name()));
}
