//! A store that breaks some requests, loses answers, or ignores conditions: commands come to their end, and nothing is lost.
//!
//! On S3 unless `PGBR_TEST_STORE` names another store.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use pgbr_testkit::{Act, Bucket, Finished, Pgbr, Seen, StoreKind, own, program_name};

use crate::rig::{PASS, Rig, assert_one_error, restore_into, said};
use crate::world::assert_pgbench_whole;

/// The object store that tests of faults use.
pub(crate) fn kind() -> StoreKind {
    match StoreKind::chosen() {
        StoreKind::Posix => StoreKind::S3,
        kind => kind,
    }
}

/// Keeps a copy of every segment that the server hands over, and gives where.
pub(crate) fn keep_copies(rig: &Rig) -> PathBuf {
    let copies = rig.pgbr.scratch().dir("copies");
    let keep = format!("(test -e {0}/%f || cp %p {0}/%f)", copies.display());
    rig.cluster.set_conf("archive_command", &format!("{keep} && {}", rig.pgbr.archive_command()));
    rig.cluster.reload();
    copies
}

/// Every segment that the server handed over can be had from the archive as it was. Gives how many there are.
#[track_caller]
pub(crate) fn assert_no_segment_is_missing(rig: &Rig, copies: &Path) -> usize {
    let last = rig.archived_segment();
    let mut names: Vec<String> = fs::read_dir(copies)
        .expect("copies were kept")
        .map(|entry| entry.expect("it can be listed").file_name().to_string_lossy().into_owned())
        .filter(|name| *name <= last)
        .collect();
    names.sort();
    assert!(names.contains(&last), "{last} was not handed over: {names:?}");
    let got = rig.pgbr.scratch().path().join("spool/got");
    for name in &names {
        rig.pgbr.ok(["archive-get", name, &got.display().to_string()]);
        assert!(
            fs::read(&got).expect("it was given") == fs::read(copies.join(name)).expect("it was copied"),
            "{name} is another"
        );
        fs::remove_file(&got).expect("it was given");
    }
    names.len()
}

/// Every backup that is listed restores without a complaint; the newest to the end of the WAL, and opens.
#[track_caller]
pub(crate) fn assert_nothing_listed_is_damaged(rig: &Rig) {
    for label in rig.labels() {
        let target = rig.target();
        let set = format!("--set={label}");
        let options = [set.as_str(), "--type=immediate"];
        rig.pgbr.ok(restore_into(&target).iter().map(String::as_str).chain(options));
    }
    let target = rig.target();
    rig.pgbr.ok(restore_into(&target));
    target.start();
    target.wait_promoted();
    assert_pgbench_whole(&target);
    target.assert_clean();
}

#[test]
fn five_of_a_hundred_requests_break() {
    let rig = Rig::in_bucket(Bucket::of(kind()));
    let copies = keep_copies(&rig);
    rig.pgbr.set("global", "repo1-pack-size", "1MiB");
    let proxy = rig.pgbr.proxy();
    proxy.break_some(5, 20_261_122);
    rig.cluster.pgbench_init(3);
    let load = rig.cluster.pgbench_start(2, 120);
    let first = rig.backup();
    rig.pgbr.ok(["backup", "--type=incr"]);
    load.stop();
    rig.backup();
    rig.pgbr.ok(["backup", "--type=incr"]);
    let segments = assert_no_segment_is_missing(&rig, &copies);
    assert!(segments > 5, "{segments} segments are too few to tell");
    rig.pgbr.ok(["expire", "--repo1-retention-full=1"]);
    let labels = rig.labels();
    assert!(labels.len() == 2 && !labels.contains(&first), "{labels:?}");
    assert_nothing_listed_is_damaged(&rig);
    let seen = proxy.seen();
    assert!(seen.len() > 200, "{} requests are too few to tell", seen.len());
    // Broken runs would leave packs and pins.
    proxy.pass();
    assert_eq!(rig.names("pin").len(), 0, "{:?}", rig.names("pin"));
}

/// Every third answer to a write is lost after the store has done it.
#[test]
fn answers_to_writes_are_lost() {
    let bucket = Bucket::of(kind());
    let rig = Rig::in_bucket_with(bucket, |pgbr| {
        pgbr.set("global", "repo1-pack-size", "1MiB");
        pgbr.proxy().act(|request| match request.method.as_str() {
            "PUT" | "POST" | "DELETE" if request.number % 3 == 0 => Act::Lose,
            _ => Act::Pass,
        });
    });
    let copies = keep_copies(&rig);
    rig.cluster.pgbench_init(2);
    rig.backup();
    rig.pgbr.ok(["backup", "--type=incr"]);
    rig.backup();
    assert_no_segment_is_missing(&rig, &copies);
    rig.pgbr.ok(["expire", "--repo1-retention-full=1"]);
    assert_eq!(rig.labels().len(), 1);
    assert_nothing_listed_is_damaged(&rig);
    let warned = rig.pgbr.run(["backup", "--type=incr", "--repo1-retention-full=9"]);
    assert!(
        warned.success() && !said(&warned).contains("WARN"),
        "our own object is no surprise: {warned:#?}"
    );
}

/// The header by which a store is told to create and not to overwrite.
fn condition(kind: StoreKind) -> &'static str {
    match kind {
        StoreKind::Gcs => "x-goog-if-generation-match",
        _ => "if-none-match",
    }
}

/// A rig on a store that overwrites where it was to create. Azure heeds conditions, and nobody in between can take one away: its signatures
/// cover them.
fn on_a_careless_store() -> Rig {
    let kind = match kind() {
        StoreKind::Azure => StoreKind::S3,
        kind => kind,
    };
    Rig::in_bucket_with(Bucket::of(kind), move |pgbr| {
        let condition = condition(kind);
        pgbr.proxy().act(move |_| Act::Without(condition));
        pgbr.set("global", "repo1-pack-size", "1MiB");
    })
}

/// Two WAL files of one name and different content, in directories of two hosts.
fn two_contents(rig: &Rig, segment: &str, number: usize) -> [PathBuf; 2] {
    let content = fs::read(rig.cluster.data_dir().join("pg_wal").join(segment)).expect("it is still there");
    [0_u8, 1].map(|host| {
        let dir = rig.pgbr.scratch().dir(&format!("host{host}-{number}"));
        let (mut content, path) = (content.clone(), dir.join(segment));
        content[5 << 20] ^= host + 1;
        fs::write(&path, &content).expect("it can be written");
        own(&path);
        path
    })
}

fn push(pgbr: &Pgbr, path: &Path) -> Finished {
    pgbr.run(["archive-push", &path.display().to_string()])
}

#[test]
fn two_hosts_push_one_name_where_creates_overwrite() {
    let rig = on_a_careless_store();
    rig.cluster.set_conf("archive_command", &format!("false {}", program_name()));
    rig.cluster.reload();
    let got = rig.pgbr.scratch().path().join("spool/got");
    let stored = |segment: &str| {
        let keys = rig.objects().list(&rig.key("archive"));
        keys.iter().filter(|key| key.contains(segment)).count()
    };
    for round in 0..4 {
        let segment = rig.cluster.switch_wal();
        let [one, other] = two_contents(&rig, &segment, round);
        let finished = if round == 0 {
            // One after the other: the second is told.
            let first = push(&rig.pgbr, &one);
            assert!(first.success(), "{first:#?}");
            let second = push(&rig.pgbr, &other);
            assert_one_error(&second, 45, &[&segment]);
            assert!(push(&rig.pgbr, &one).success(), "the same again is no harm");
            [first, second]
        } else {
            thread::scope(|scope| {
                let other = scope.spawn(|| push(&rig.pgbr, &other));
                [push(&rig.pgbr, &one), other.join().expect("a push does not panic")]
            })
        };
        // Who was told that it is archived finds it archived.
        let told: Vec<&PathBuf> = [&one, &other]
            .into_iter()
            .zip(&finished)
            .filter(|(_, f)| f.success())
            .map(|(path, _)| path)
            .collect();
        assert!(stored(&segment) >= told.len().max(1), "{segment}: {finished:#?}");
        let get = rig.pgbr.run(["archive-get", &segment, &got.display().to_string()]);
        match told.as_slice() {
            [only] if stored(&segment) == 1 => {
                assert!(get.success(), "{get:#?}");
                assert!(fs::read(&got).expect("it was given") == fs::read(only).expect("it is there"));
                fs::remove_file(&got).expect("it was given");
            }
            // Both lie there, and which is right nobody can say: that is what it says.
            _ => {
                assert!(!get.success() && get.code != Some(1), "{get:#?}");
                assert!(said(&get).contains("two contents"), "{get:#?}");
                assert_eq!(stored(&segment), 2);
            }
        }
    }
}

#[test]
fn two_hosts_back_up_where_creates_overwrite() {
    let rig = on_a_careless_store();
    rig.cluster.pgbench_init(2);
    rig.backup();
    let elsewhere = rig.pgbr.scratch().dir("lock-of-another-host");
    let other_host = format!("--lock-path={}", elsewhere.display());
    for _ in 0..2 {
        let (one, other) = thread::scope(|scope| {
            let other = scope.spawn(|| rig.pgbr.run(["backup", "--type=incr", &other_host]));
            (rig.pgbr.run(["backup", "--type=incr"]), other.join().expect("a backup does not panic"))
        });
        assert!(one.success() || other.success(), "{one:#?} {other:#?}");
        for finished in [&one, &other] {
            assert!(!said(finished).contains("panicked"), "{finished:#?}");
        }
    }
    let labels = rig.labels();
    assert!(labels.len() >= 3, "{labels:?}");
    assert_nothing_listed_is_damaged(&rig);
    rig.backup();
    rig.pgbr.ok(["expire", "--repo1-retention-full=1"]);
    assert_nothing_listed_is_damaged(&rig);
}

/// A byte that the network changed is no damage: what is whole in the store is read again, or the command says what is wrong.
#[test]
fn bytes_change_on_their_way() {
    let rig = Rig::in_bucket(Bucket::of(kind()));
    rig.backup();
    let segment = rig.archived_segment();
    let before = rig.snapshot();
    let got = rig.pgbr.scratch().path().join("spool/got").display().to_string();
    rig.pgbr.proxy().act(|request| match request.path.contains("/archive/") {
        true => Act::Corrupt,
        false => Act::Pass,
    });
    let finished = rig.pgbr.fails(28, ["archive-get", &segment, &got, "--archive-timeout=1"]);
    assert_one_error(&finished, 28, &[&segment]);
    assert!(!said(&finished).contains(PASS));
    rig.pgbr.proxy().pass();
    rig.pgbr.ok(["archive-get", &segment, &got]);
    assert_eq!(rig.snapshot(), before);
}

/// The put of a manifest failed, and nobody can look whether it is there. What it names stays until it cannot come any more.
#[test]
fn what_a_manifest_in_doubt_names_is_left_alone() {
    let rig = Rig::in_bucket(Bucket::of(kind()));
    rig.pgbr.set("global", "resume", "n");
    let old = rig.backup();
    let proxy = rig.pgbr.proxy();
    let newer = move |request: &Seen| request.path.ends_with("/manifest") && !request.path.contains(&old);
    let refused = || Act::refuse(kind(), 403, "AccessDenied");
    proxy.act(move |request| if newer(request) { refused() } else { Act::Pass });
    let finished = rig.pgbr.fails(42, ["backup", "--type=full"]);
    assert!(said(&finished).contains("it is unknown whether"), "{finished:#?}");
    proxy.pass();
    let pins = rig.names("pin");
    assert_eq!(pins.len(), 1, "{pins:?}");
    let packs = rig.packs();
    rig.pgbr.ok(["expire", "--repo1-retention-full=1"]);
    assert_eq!((rig.packs(), rig.names("pin")), (packs, pins), "nothing of it was taken away");
    assert_eq!(rig.labels().len(), 1);
}
