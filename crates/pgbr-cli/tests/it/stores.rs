//! Each kind of object store by the real program, from the stanza to the last expire: what every change has to keep working. The whole
//! suite runs over each of them by `scripts/test-stores.sh`.

use std::thread::sleep;
use std::time::Duration;

use pgbr_testkit::{Act, AzureServer, Bucket, GcsServer, S3Server, Seen, StoreKind};

use crate::rig::{Rig, restore_into, said};
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

/// Somebody with the right to delete has emptied the bucket, which keeps versions.
#[test]
fn what_was_deleted_is_restored_as_it_was() {
    let rig = Rig::in_bucket(S3Server::shared().versioned_bucket());
    rig.cluster.sql("postgres", "create table mark (id int primary key)");
    rig.backup();
    let mark = set_mark(&rig.cluster);
    rig.archived_segment();
    // S3 tells times by seconds.
    sleep(Duration::from_millis(1100));
    let query = "select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') || '+00'";
    let moment = rig.cluster.sql("postgres", query).trim().to_owned();
    sleep(Duration::from_millis(1100));
    rig.cluster.stop(pgbr_testkit::StopMode::Immediate);
    rig.objects().list("").iter().for_each(|key| rig.objects().remove(key));
    assert!(rig.objects().list("").is_empty());

    let target = rig.target();
    let then = format!("--repo-target-time={moment}");
    let one = "--repo=1".to_owned();
    rig.pgbr.fails(75, restore_into(&target));
    rig.pgbr.ok(restore_into(&target).into_iter().chain([one, then]));
    target.start();
    target.wait_promoted();
    assert_eq!(last_mark(&target), mark.id);
    target.assert_clean();
}

/// A pack that the store will not let go of is told, and the rest goes; the next expire tries again.
#[test]
fn expire_tells_what_it_could_not_remove() {
    for kind in StoreKind::CLOUD {
        let rig = Rig::in_bucket(Bucket::of(kind));
        let (old, new) = (rig.backup(), rig.backup());
        let packs = format!("backup/{old}/pack/");
        let kept = rig.objects().list(&rig.key(&packs));
        let [first, ..] = kept.as_slice() else { panic!("{old} has packs") };
        let locked = first.clone();
        rig.pgbr.proxy().act(move |request| match request.method.as_str() {
            "POST" => Act::refuse(kind, 501, "NotImplemented"),
            "DELETE" if request.path.ends_with(&locked) => Act::refuse(kind, 403, "AccessDenied"),
            _ => Act::Pass,
        });
        let finished = rig.pgbr.run(["expire", "--repo1-retention-full=1"]);
        assert_eq!(finished.code, Some(0), "{finished:#?}");
        let told = said(&finished);
        assert!(told.contains("unable to remove 1 of the packs") && told.contains("AccessDenied"), "{told}");
        assert_eq!(rig.labels(), [new.as_str()]);
        assert_eq!(rig.objects().list(&rig.key(&packs)), [first.as_str()]);
        rig.pgbr.proxy().pass();
        rig.pgbr.ok(["expire", "--repo1-retention-full=1"]);
        assert!(rig.objects().list(&rig.key(&packs)).is_empty());
    }
}

/// What a store elsewhere is asked by a backup, its WAL and the expire behind it is bounded whatever the size of the cluster, but for packs and
/// segments; and the expire works under the lease of the backup.
#[test]
fn a_backup_asks_little_of_a_store() {
    let rig = Rig::in_bucket(Bucket::of(StoreKind::S3));
    rig.cluster.pgbench_init(2);
    rig.backup();
    rig.backup();
    rig.pgbr.set("global", "repo1-retention-full", "3");
    for (expired, most) in [(false, 38), (true, 50)] {
        rig.pgbr.proxy().forget();
        rig.pgbr.ok(["backup", "--type=full"]);
        let seen = rig.pgbr.proxy().seen();
        let told = || seen.iter().map(|r| format!("{} {} {:?} {}\n", r.method, r.path, r.range, r.query));
        let count = |method: &str, part: &str| {
            let wanted = |r: &&Seen| r.method == method && r.path.contains(part) && r.query.is_empty();
            seen.iter().filter(wanted).count()
        };
        assert_eq!(
            (count("PUT", "/pack/"), count("PUT", "/manifest")),
            (2, 1),
            "{}",
            told().collect::<String>()
        );
        assert_eq!(count("PUT", "/lease/"), 2, "taken and given back once: {}", told().collect::<String>());
        assert_eq!(count("DELETE", "/manifest"), usize::from(expired), "{}", told().collect::<String>());
        assert!(seen.len() <= most, "{} are more than {most}:\n{}", seen.len(), told().collect::<String>());
        println!("{} requests", seen.len());
    }
}
