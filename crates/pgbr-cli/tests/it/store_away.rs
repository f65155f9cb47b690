//! A store that goes away in the middle of each command and comes back: the command goes on, and nothing is lost.
//!
//! It stays away for `PGBR_TEST_AWAY_SECONDS` (by default few; 60 in `scripts/test-stores.sh`). On S3 unless `PGBR_TEST_STORE` names
//! another store.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use pgbr_testkit::{Act, Bucket, Seen};

use crate::flaky_store::{assert_no_segment_is_missing, assert_nothing_listed_is_damaged, keep_copies, kind};
use crate::rig::{Rig, restore_into};

/// How long a store stays away.
fn away() -> Duration {
    let seconds = std::env::var("PGBR_TEST_AWAY_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(5))
}

/// Runs something while the store goes away at the first request that `when` is true of, which is lost.
#[track_caller]
fn while_it_is_away(rig: &Rig, when: impl Fn(&Seen) -> bool + Send + Sync + 'static, run: impl FnOnce()) {
    let proxy = rig.pgbr.proxy();
    let (gone, wait) = mpsc::channel();
    proxy.act(move |request| {
        if !when(request) {
            return Act::Pass;
        }
        // Nobody listens any more when it has come back.
        match gone.send(()) {
            Ok(()) => Act::Reset,
            Err(_) => Act::Pass,
        }
    });
    thread::scope(|scope| {
        let keeper = scope.spawn(move || {
            let went = wait.recv_timeout(crate::rig::LIMIT).is_ok();
            if went {
                proxy.leave();
                thread::sleep(away());
            }
            drop(wait);
            proxy.come_back();
            went
        });
        run();
        assert!(keeper.join().expect("it does not panic"), "the moment did not come");
    });
    proxy.pass();
}

/// True of each put of a pack after the first so many.
fn later_pack(first: usize) -> impl Fn(&Seen) -> bool + Send + Sync + 'static {
    let seen = AtomicUsize::new(0);
    move |request| {
        request.method == "PUT"
            && request.path.contains("/pack/")
            && seen.fetch_add(1, Ordering::SeqCst) >= first
    }
}

#[test]
fn every_command_outlasts_it() {
    let rig = Rig::in_bucket(Bucket::of(kind()));
    let copies = keep_copies(&rig);
    rig.pgbr.set("global", "repo1-pack-size", "1MiB");
    rig.pgbr.proxy();
    rig.pgbr.set("global", "io-timeout", "60");
    rig.cluster.pgbench_init(3);
    let load = rig.cluster.pgbench_start(2, 600);

    // While packs are put, and while the manifest is.
    while_it_is_away(&rig, later_pack(3), || drop(rig.backup()));
    let manifest = |request: &Seen| request.method == "PUT" && request.path.contains("/manifest");
    while_it_is_away(&rig, manifest, || drop(rig.pgbr.ok(["backup", "--type=incr"])));
    load.stop();
    // While WAL is put, by a server that waits for it.
    let wal = |request: &Seen| request.method == "PUT" && request.path.contains("/archive/");
    while_it_is_away(&rig, wal, || {
        let segment = rig.cluster.switch_wal();
        rig.cluster.wait_archived(&segment);
    });
    assert_no_segment_is_missing(&rig, &copies);
    let get = |request: &Seen| request.method == "GET" && request.path.contains("/pack/");
    while_it_is_away(&rig, get, || drop(rig.pgbr.ok(restore_into(&rig.target()))));

    rig.backup();
    let removal = |request: &Seen| request.method == "DELETE" || request.method == "POST";
    while_it_is_away(&rig, removal, || drop(rig.pgbr.ok(["expire", "--repo1-retention-full=1"])));
    assert_eq!(rig.labels().len(), 1);
    assert_nothing_listed_is_damaged(&rig);
}

/// Longer than any command waits: it says so, nothing half-done is listed, and the next goes on.
#[test]
fn a_store_that_stays_away_ends_a_command_and_the_next_goes_on() {
    let rig = Rig::in_bucket(Bucket::of(kind()));
    rig.pgbr.set("global", "repo1-pack-size", "1MiB");
    rig.cluster.pgbench_init(2);
    rig.backup();
    rig.pgbr.proxy();
    rig.pgbr.set("global", "io-timeout", "1");
    let late = later_pack(2);
    rig.pgbr.proxy().act(move |request| if late(request) { Act::Reset } else { Act::Pass });
    let finished = rig.pgbr.fails(42, ["backup", "--type=full"]);
    crate::rig::assert_one_error(&finished, 42, &["unable to reach", "pack/", "uri-style"]);
    rig.pgbr.proxy().pass();
    assert_eq!(rig.labels().len(), 1);
    rig.assert_no_backup_mode();
    rig.backup();
    assert_eq!(rig.labels().len(), 2);

    // A server whose archive is away keeps its WAL.
    let away = rig.take_away();
    let segment = rig.cluster.switch_wal();
    pgbr_testkit::wait_until(crate::rig::LIMIT, "the server to have tried in vain", || {
        rig.cluster.sql("postgres", "select failed_count > 0 from pg_stat_archiver") == "t"
    });
    assert!(rig.cluster.data_dir().join("pg_wal").join(&segment).exists());
    away.bring_back();
    rig.wait_archived(&segment);
}
