//! Object stores that say no, or are not what the config file says: one clear error, its exit code, and nothing changed.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use pgbr_testkit::{Act, AzureServer, Bucket, Finished, GcsServer, S3Server, Seen, StoreKind, program_name};

use crate::rig::{PASS, Rig, assert_one_error, assert_untouched, assert_unusable, restore_into, said};

const BACKUP: [&str; 2] = ["backup", "--type=full"];

/// Nothing that has to stay secret is shown.
#[track_caller]
fn assert_no_secret(finished: &Finished) {
    for secret in [S3Server::SECRET, AzureServer::KEY, &AzureServer::KEY[..20], PASS, "test-token"] {
        assert!(!said(finished).contains(secret), "a secret is shown: {finished:#?}");
    }
}

/// Runs a command that must be refused, as [`Rig::refused`], at every level of logging.
#[track_caller]
fn refused(rig: &Rig, code: i32, words: &[&str], args: &[&str]) {
    let args = args.iter().copied().chain(["--log-level-console=trace"]);
    assert_no_secret(&rig.refused(code, words, args));
}

fn is_list(request: &Seen) -> bool {
    request.method == "GET" && ["list-type=2", "comp=list"].iter().any(|word| request.query.contains(word))
}

/// A batch of Azure's, which is a `POST`, is a removal as well.
fn is_removal(request: &Seen) -> bool {
    request.method == "DELETE" || request.method == "POST"
}

/// With a backup and a segment of WAL after it.
fn filled(kind: StoreKind) -> (Rig, String) {
    let rig = Rig::in_bucket(Bucket::of(kind));
    rig.backup();
    let segment = rig.archived_segment();
    rig.cluster.set_conf("archive_command", &format!("false {}", program_name()));
    rig.cluster.reload();
    (rig, segment)
}

/// Whatever the reason for which a store lets nobody in.
fn says_no(kind: StoreKind, reasons: &[(u16, &'static str, i32)]) {
    let (rig, segment) = filled(kind);
    let target = rig.target();
    let into = restore_into(&target);
    let got = target.scratch().path().join("got").display().to_string();
    let pushed = format!("pg_wal/{segment}");
    for (status, reason, code) in reasons {
        let act = Act::refuse(kind, *status, reason);
        rig.pgbr.proxy().act(move |_| act.clone());
        for command in [
            &["stanza-create"][..],
            &["check", "--archive-timeout=1"],
            &BACKUP,
            &["archive-push", &pushed],
            &["archive-get", &segment, &got, "--archive-timeout=1"],
            &["expire"],
            &[&into[0], &into[1]],
        ] {
            refused(&rig, *code, &[reason], command);
            assert_untouched(&target);
        }
        assert!(!fs::exists(&got).expect("it can be looked for"));
        rig.assert_no_backup_mode();
    }
    rig.pgbr.proxy().pass();
    rig.pgbr.archive_from(&rig.cluster);
    rig.backup();
}

#[test]
fn s3_says_no() {
    says_no(
        StoreKind::S3,
        &[
            (403, "InvalidAccessKeyId", 39),
            (403, "ExpiredToken", 39),
            (403, "RequestTimeTooSkewed", 106),
            (403, "AccessDenied", 41),
        ],
    );
}

#[test]
fn azure_says_no() {
    says_no(
        StoreKind::Azure,
        &[(403, "AuthenticationFailed", 39), (403, "AuthorizationPermissionMismatch", 41)],
    );
}

#[test]
fn google_says_no() {
    says_no(StoreKind::Gcs, &[(401, "AuthenticationRequired", 39), (403, "AccessDenied", 41)]);
}

/// Rights that are missing one by one.
fn lacks_rights(kind: StoreKind) {
    let (rig, segment) = filled(kind);
    let got = rig.pgbr.scratch().path().join("spool/got").display().to_string();
    let next = rig.cluster.switch_wal();
    let pushed = format!("pg_wal/{next}");
    let deny = |what: fn(&Seen) -> bool| {
        let denied = Act::refuse(kind, 403, "AccessDenied");
        rig.pgbr.proxy().act(move |request| if what(request) { denied.clone() } else { Act::Pass });
    };

    deny(|request| request.method == "PUT");
    for command in [&BACKUP[..], &["archive-push", &pushed]] {
        refused(&rig, 41, &["AccessDenied"], command);
    }
    rig.assert_no_backup_mode();
    rig.pgbr.ok(["info"]);
    rig.pgbr.ok(["archive-get", &segment, &got]);
    fs::remove_file(&got).expect("it was given");

    deny(is_list);
    refused(&rig, 41, &["AccessDenied"], &BACKUP);
    refused(&rig, 41, &["AccessDenied"], &["expire"]);

    // What cannot be removed is named, and the next expire that may does it.
    rig.pgbr.proxy().pass();
    rig.pgbr.archive_from(&rig.cluster);
    rig.pgbr.ok(["backup", "--type=full", "--no-expire-auto"]);
    deny(is_removal);
    let finished = rig.pgbr.run(["expire", "--repo1-retention-full=1", "--log-level-console=detail"]);
    assert_no_secret(&finished);
    assert_one_error(&finished, 41, &["AccessDenied", "pgbr/demo/"]);
    assert_eq!(rig.labels().len(), 2);
    // Where manifests may go and packs may not, it says so and comes to its end.
    deny(|request| {
        is_removal(request) && !request.path.contains("/manifest") && !request.path.contains("/lease/")
    });
    let finished = rig.pgbr.run(["expire", "--repo1-retention-full=1", "--log-level-console=detail"]);
    assert_no_secret(&finished);
    assert!(finished.success(), "{finished:#?}");
    for line in [
        "WARN: unable to remove 2 of the packs of backup ",
        "of the WAL files of archive 15-1",
        "AccessDenied",
    ] {
        assert!(said(&finished).contains(line), "'{line}' is missing: {finished:#?}");
    }
    assert_eq!(rig.labels().len(), 1);
    rig.pgbr.proxy().pass();
    rig.pgbr.ok(["expire", "--repo1-retention-full=1"]);
    let left = rig.names("backup");
    assert!(left.iter().all(|name| name.starts_with(&rig.labels()[0])), "{left:?}");
}

#[test]
fn rights_are_missing_on_s3() {
    lacks_rights(StoreKind::S3);
}

#[test]
fn rights_are_missing_on_azure() {
    lacks_rights(StoreKind::Azure);
}

#[test]
fn rights_are_missing_on_googles() {
    lacks_rights(StoreKind::Gcs);
}

/// Real servers say so here: that there is no such bucket, that they do not know the key, or that nobody is at the address.
#[test]
fn a_place_that_is_not_there() {
    for kind in StoreKind::CLOUD {
        let (rig, _) = filled(kind);
        let bucket = rig.pgbr.bucket().expect("it lies in one");
        let option = match kind {
            StoreKind::Azure => "repo1-azure-container",
            StoreKind::Gcs => "repo1-gcs-bucket",
            _ => "repo1-s3-bucket",
        };
        rig.pgbr.set("global", option, "pgbr-missing");
        let word = if kind == StoreKind::Azure { "ContainerNotFound" } else { "NoSuchBucket" };
        refused(&rig, 39, &[word], &["stanza-create"]);
        refused(&rig, 39, &[word], &BACKUP);
        rig.pgbr.set("global", option, bucket.name());

        let nobody = format!("http://127.0.0.1:{}", pgbr_testkit::free_port());
        rig.pgbr.set_repo(1, &bucket.options_at(&nobody));
        rig.pgbr.set("global", "io-timeout", "1");
        refused(&rig, 42, &["unable to reach"], &BACKUP);
        rig.pgbr.set_repo(1, &bucket.options());
        rig.pgbr.archive_from(&rig.cluster);
        rig.backup();
    }
}

#[test]
fn keys_that_servers_refuse() {
    let (rig, _) = filled(StoreKind::Azure);
    // Well-formed, and another's.
    let other = format!("A{}", &AzureServer::KEY[1..]);
    rig.pgbr.set("global", "repo1-azure-key", &other);
    let finished = rig.refused(41, &["AuthorizationFailure"], BACKUP);
    assert!(!said(&finished).contains(&other), "{finished:#?}");
    rig.pgbr.set("global", "repo1-azure-key", AzureServer::KEY);
    rig.pgbr.archive_from(&rig.cluster);
    rig.backup();

    let (rig, _) = filled(StoreKind::S3);
    let strict = S3Server::strict().bucket();
    rig.pgbr.set_repo(1, &strict.options());
    refused(&rig, 39, &["InvalidAccessKeyId"], &["stanza-create"]);
}

#[test]
fn certificates_that_do_not_verify() {
    for bucket in [S3Server::tls().bucket(), AzureServer::tls().bucket(), GcsServer::tls().bucket()] {
        let certificates = bucket.certificates().expect("it has TLS");
        let rig = Rig::in_bucket(bucket);
        let stranger = certificates.stranger().display().to_string();
        rig.pgbr.set("global", "repo1-storage-ca-file", &stranger);
        refused(&rig, 95, &["certificate"], &BACKUP);
        let text = fs::read_to_string(certificates.authority()).expect("it is there");
        fs::write(rig.pgbr.scratch().path().join("none.pem"), "no certificate").expect("it can be written");
        let none = rig.pgbr.scratch().path().join("none.pem").display().to_string();
        rig.pgbr.set("global", "repo1-storage-ca-file", &none);
        let finished = rig.pgbr.run(BACKUP);
        assert!(!finished.success() && said(&finished).contains(&none), "{finished:#?}");
        assert!(!said(&finished).contains(text.lines().nth(1).expect("it has lines")));
        // Unverified where that is wanted.
        rig.pgbr.unset("global", "repo1-storage-ca-file");
        rig.pgbr.set("global", "repo1-storage-verify-tls", "n");
        rig.backup();
    }
}

/// An object is there while it is looked for, and gone when it is read.
#[test]
fn an_object_vanishes_while_it_is_read() {
    for kind in StoreKind::CLOUD {
        let (rig, _) = filled(kind);
        let pack = rig.names("backup").into_iter().find(|name| name.contains("/pack/")).expect("a pack");
        let target = rig.target();
        let (reads, vanishing) = (AtomicUsize::new(0), pack.clone());
        let code = if kind == StoreKind::Azure { "BlobNotFound" } else { "NoSuchKey" };
        let gone = Act::refuse(kind, 404, code);
        rig.pgbr.proxy().act(move |request| {
            let read = request.method == "GET" && request.path.ends_with(&vanishing);
            if read && reads.fetch_add(1, Ordering::SeqCst) > 0 { gone.clone() } else { Act::Pass }
        });
        let finished = rig.pgbr.run(restore_into(&target));
        if finished.success() {
            // It was read in one go.
            rig.pgbr.proxy().act({
                let (gone, vanishing) = (Act::refuse(kind, 404, code), pack.clone());
                move |request| match request.method == "GET" && request.path.ends_with(&vanishing) {
                    true => gone.clone(),
                    false => Act::Pass,
                }
            });
            fs::remove_dir_all(target.data_dir().join("base")).expect("it was restored");
            let finished = rig.pgbr.run(restore_into(&target).iter().map(String::as_str).chain(["--delta"]));
            assert_vanished(&finished, &pack);
            assert_unusable(&target);
            continue;
        }
        assert_vanished(&finished, &pack);
        assert_unusable(&target);
    }
}

#[track_caller]
fn assert_vanished(finished: &Finished, pack: &str) {
    let code = finished.code.expect("it ends by itself");
    assert_one_error(finished, code, &[pack.rsplit('/').next().expect("it has a name")]);
    assert_no_secret(finished);
}

/// Buckets that keep what is removed, and that let nothing be removed for good.
#[test]
fn buckets_with_versions_and_locks() {
    for bucket in [
        S3Server::shared().versioned_bucket(),
        S3Server::shared().locked_bucket(),
        GcsServer::shared().versioned_bucket(),
    ] {
        let rig = Rig::in_bucket(bucket);
        let first = rig.backup();
        rig.backup();
        rig.pgbr.ok(["expire", "--repo1-retention-full=1"]);
        assert!(!rig.labels().contains(&first));
        rig.still_archives();
        let target = rig.target();
        rig.pgbr.ok(restore_into(&target));
    }
}
