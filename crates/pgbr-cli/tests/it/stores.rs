//! Each kind of object store by the real program, from the stanza to the last expire: what every change has to keep working. The whole
//! suite runs over each of them by `scripts/test-stores.sh`.

use pgbr_testkit::{AzureServer, Bucket, GcsServer, S3Server, StoreKind};

use crate::rig::{Rig, restore_into};
use crate::world::{assert_pgbench_whole, last_mark, set_mark};

/// A full and an increment under load, a restore to a moment between them and one to the end, and the full expired.
fn whole_life(bucket: Bucket) {
    let rig = Rig::in_bucket(bucket);
    rig.pgbr.ok(["check"]);
    rig.cluster.sql("postgres", "create table mark (id int primary key)");
    rig.cluster.pgbench_init(2);
    let full = rig.backup();
    let load = rig.cluster.pgbench_start(2, 120);
    rig.pgbr.ok(["backup", "--type=incr"]);
    set_mark(&rig.cluster);
    let mark = set_mark(&rig.cluster);
    load.stop();
    let kind = rig.info().pointer("/0/backup/1/type").cloned().expect("two are listed");
    assert_eq!(kind, "incr");
    set_mark(&rig.cluster);
    rig.archived_segment();

    let then = rig.target();
    let target = format!("--target={}", mark.after);
    let moment = ["--type=time", &target, "--target-action=promote", "--archive-mode=off"];
    rig.pgbr.ok(restore_into(&then).iter().map(String::as_str).chain(moment));
    then.start();
    then.wait_promoted();
    assert_eq!(last_mark(&then), mark.id);
    assert_pgbench_whole(&then);
    then.assert_clean();

    let second = rig.backup();
    rig.pgbr.ok(["expire", "--repo1-retention-full=1"]);
    assert_eq!(rig.labels(), [second.as_str()]);
    assert!(rig.objects().list(&rig.key(&format!("backup/{full}"))).is_empty());
    rig.archived_segment();
    let now = rig.target();
    rig.pgbr.ok(restore_into(&now));
    now.start();
    now.wait_promoted();
    assert_eq!(now.table_digest("postgres"), rig.cluster.table_digest("postgres"));
    now.assert_clean();
}

#[test]
fn s3() {
    whole_life(Bucket::of(StoreKind::S3));
}

#[test]
fn azure() {
    whole_life(Bucket::of(StoreKind::Azure));
}

#[test]
fn gcs() {
    whole_life(Bucket::of(StoreKind::Gcs));
}

/// With certificates that the test has made: trusted by file and by directory, and not trusted.
#[test]
fn over_tls() {
    for bucket in [S3Server::tls().bucket(), AzureServer::tls().bucket(), GcsServer::tls().bucket()] {
        let certificates = bucket.certificates().expect("it has TLS");
        let rig = Rig::in_bucket(bucket);
        rig.backup();
        rig.pgbr.unset("global", "repo1-storage-ca-file");
        let dir = certificates.authority_dir().display().to_string();
        rig.pgbr.set("global", "repo1-storage-ca-path", &dir);
        rig.still_archives();
        assert_eq!(rig.labels().len(), 1);
    }
}
