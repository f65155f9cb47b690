//! Options of repositories in object stores, by the real program and real servers: what they lead to, and what is told where they are wrong.

use std::fs;

use pgbr_testkit::{Bucket, Pgbr, S3Server, StoreKind};

use crate::rig::{Rig, said};

/// Sets an option of the repository, runs `info`, and sets it back.
fn with(pgbr: &Pgbr, code: i32, changes: &[(&str, &str)], words: &[&str]) {
    let before: Vec<(&str, String)> = pgbr.bucket().expect("it is in a bucket").options();
    for (option, value) in changes {
        pgbr.set("global", &format!("repo1-{option}"), value);
    }
    let finished = pgbr.fails(code, ["info", "--io-timeout=1s"]);
    for word in words {
        assert!(said(&finished).contains(word), "{changes:?}: '{word}' is not in {finished:#?}");
    }
    for (option, _) in changes {
        let name = format!("repo1-{option}");
        pgbr.unset("global", &name);
        if let Some((_, value)) = before.iter().find(|(known, _)| known == option) {
            pgbr.set("global", &name, value);
        }
    }
}

#[test]
fn what_is_wrong_is_told_with_a_way_out() {
    let rig = Rig::in_bucket(Bucket::of(StoreKind::S3));
    let free = pgbr_testkit::free_port();
    let nobody = format!("http://127.0.0.1:{free}");
    for (code, change, words) in [
        (
            39,
            ("s3-bucket", "no-such-bucket"),
            ["NoSuchBucket", "HINT: is the name of the bucket or container right"],
        ),
        (42, ("s3-endpoint", nobody.as_str()), ["Connection refused", "storage-host"]),
        (42, ("storage-host", nobody.as_str()), ["Connection refused", "storage-port"]),
        (
            29,
            ("s3-endpoint", "ftp://x"),
            ["invalid URL for 'repo1-s3-endpoint' option", "HINT: it takes a host"],
        ),
        (67, ("s3-service", "s3-outposts"), ["option 'repo1-s3-service'", "is not supported"]),
    ] {
        with(&rig.pgbr, code, &[change], &words);
    }
    // The bucket is as it was.
    rig.pgbr.ok(["info"]);

    let strict =
        Pgbr::with_bucket(Some(S3Server::strict().bucket()), rig.pgbr.binary(), "demo", &rig.cluster);
    with(&strict, 39, &[], &["InvalidAccessKeyId", "HINT: are the key and its secret those of this store"]);

    let tls = Pgbr::with_bucket(Some(S3Server::tls().bucket()), rig.pgbr.binary(), "demo", &rig.cluster);
    tls.ok(["stanza-create"]);
    tls.unset("global", "repo1-storage-ca-file");
    with(
        &tls,
        95,
        &[],
        &["certificate", "HINT: name the authority that signed it with the option storage-ca-file"],
    );
    tls.set("global", "repo1-storage-verify-tls", "n");
    tls.ok(["info"]);
}

#[test]
fn keys_come_from_files_and_commands_and_hosts_from_options() {
    let rig = Rig::in_bucket(Bucket::of(StoreKind::S3));
    let bucket = rig.pgbr.bucket().expect("it is in a bucket");
    // Another host than the endpoint says.
    rig.pgbr.set("global", "repo1-s3-endpoint", "localhost:1");
    rig.pgbr.set("global", "repo1-storage-host", "http://127.0.0.1");
    rig.pgbr.set("global", "repo1-storage-port", &bucket.port().to_string());
    let key = rig.pgbr.scratch().file("key", S3Server::KEY);
    for option in ["s3-key", "s3-key-secret"] {
        rig.pgbr.unset("global", &format!("repo1-{option}"));
    }
    rig.pgbr.set("global", "repo1-s3-key-file", &key.display().to_string());
    rig.pgbr.set("global", "repo1-s3-key-secret-command", &format!("echo {}", S3Server::SECRET));
    rig.backup();
    rig.archived_segment();
    for option in ["s3-key-file", "s3-key-secret-command"] {
        rig.pgbr.unset("global", &format!("repo1-{option}"));
    }
    // Credentials that a program gives.
    let given = format!(
        r#"{{"Version":1,"AccessKeyId":"{}","SecretAccessKey":"{}"}}"#,
        S3Server::KEY,
        S3Server::SECRET
    );
    rig.pgbr.set("global", "repo1-s3-key-type", "process");
    rig.pgbr.add("global", "repo1-s3-process-cmd", "cat");
    let given = rig.pgbr.scratch().file("given", given);
    rig.pgbr.add("global", "repo1-s3-process-cmd", &given.display().to_string());
    rig.pgbr.ok(["check"]);
    assert_eq!(rig.labels().len(), 1);
}

#[test]
fn repositories_in_stores_are_looked_into() {
    for kind in StoreKind::CLOUD {
        let rig = Rig::in_bucket(Bucket::of(kind));
        let label = rig.backup();
        let segment = rig.archived_segment();
        let backups = rig.pgbr.ok(["repo-ls", "backup/demo"]);
        assert_eq!(backups, format!("{label}\nbackup.info\nbackup.info.copy\nlatest\n"));
        let log = &segment[..16];
        let wal = rig.pgbr.ok(["repo-ls", "archive/demo/15-1", "--recurse", "--output=json"]);
        let wal: serde_json::Value = serde_json::from_str(&wal).expect("it is JSON");
        let entry = &wal[format!("{log}/{segment}.zst")];
        assert_eq!(entry["type"], "file", "{kind:?}: {wal}");
        let now =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("it is after 1970");
        let age = now.as_secs().abs_diff(entry["time"].as_u64().expect("it has a time"));
        assert!(age < 3600, "{kind:?}: the time of {entry} is {age} seconds away");
        let raw = rig.pgbr.scratch().path().join("raw");
        let mut get = rig.pgbr.command(["repo-get", "--raw", &format!("archive/demo/15-1/{log}/{segment}")]);
        let status = get.stdout(fs::File::create(&raw).expect("it can be made")).status().expect("it runs");
        assert!(status.success(), "{kind:?}: {status}");
        let object = rig.objects().get(&rig.key(&format!("archive/15-1/{log}/{segment}")));
        assert!(fs::read(&raw).expect("it is there") == object, "{kind:?}: the object is given as it is");
        rig.pgbr.fails(55, ["repo-get", "archive/demo/15-1/0000FFFF.history"]);

        let stray = rig.key("backup/20200101-000000F/pack/0123456789abcdef-00000000");
        rig.objects().put(&stray, b"x");
        rig.pgbr.fails(96, ["repo-rm", "--recurse", "pgbr/demo"]);
        rig.pgbr.ok(["repo-rm", "--recurse", "pgbr/demo/backup/20200101-000000F"]);
        assert!(!rig.objects().has(&stray));
        assert_eq!(rig.labels(), [label]);
    }
}
