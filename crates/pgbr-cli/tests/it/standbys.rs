//! Backups whose data files are read from a standby: where they come from, that they are whole, and what ends them.

use std::fs;
use std::path::PathBuf;

use pgbr_testkit::{Cluster, StopMode, wait_until};

use crate::rig::{LIMIT, Rig, assert_one_error, said};
use crate::world::{World, assert_pgbench_whole, last_mark, newest};

const FROM_STANDBY: [&str; 3] = ["backup", "--type=full", "--backup-standby"];

/// Another byte in the middle of the first page of a relation's file, and back again when it is called twice.
fn flip(cluster: &Cluster, file: &str) {
    let path: PathBuf = cluster.data_dir().join(file);
    let mut bytes = fs::read(&path).expect("the relation has a file");
    bytes[6000] ^= 0x40;
    fs::write(&path, bytes).expect("it can be written");
}

/// Brings everything into the files of both.
fn settle(primary: &Cluster, standby: &Cluster) {
    primary.sql("postgres", "checkpoint");
    primary.wait_replayed(standby);
    standby.sql("postgres", "checkpoint");
}

#[test]
fn data_files_are_read_from_the_standby_and_come_back_whole() {
    let world = World::of(newest());
    let (primary, pgbr) = (&world.cluster, &world.pgbr);
    primary.pgbench_init(2);
    let space = primary.scratch().dir("space");
    primary.sql("postgres", &format!("create tablespace space location '{}'", space.display()));
    primary.sql("postgres", "create table cold tablespace space as select n from generate_series(1, 1000) n");
    let standby = primary.standby_with(&[(space.as_path(), &primary.scratch().dir("space-of-standby"))]);
    standby.start();
    pgbr.set_cluster(2, &standby);
    pgbr.set("global", "backup-standby", "y");
    assert!(pgbr.ok(["check"]).contains("successfully archived"));

    // The server logs full pages while a backup runs, whatever its setting; what it wrote before, the standby has replayed.
    primary.set_conf("full_page_writes", "off");
    primary.reload();
    let load = primary.pgbench_start(2, 600);
    let full = said(&pgbr.run(["backup", "--type=full"]));
    assert!(full.contains("replay on the standby reached"), "{full}");
    primary.sql("postgres", "vacuum full pgbench_branches; create database more; drop table if exists later");
    let incr = said(&pgbr.run(["backup", "--type=incr"]));
    assert!(incr.contains("replay on the standby reached"), "{incr}");
    load.stop();
    let mark = world.mark();
    world.archive_all();
    let spaces = |target: &Cluster| {
        format!("--tablespace-map-all={}", target.scratch().path().join("spaces").display())
    };
    for set in backups(&world) {
        let target = Cluster::builder(primary.major()).empty();
        world.restore_to(&target, &[&format!("--set={set}"), &spaces(&target)]);
        target.start();
        target.wait_promoted();
        assert_eq!(last_mark(&target), mark.id, "{set}");
        assert_pgbench_whole(&target);
        assert_eq!(target.table_digest("postgres"), primary.table_digest("postgres"), "{set}");
        target.assert_clean();
    }

    // Which of the two it reads, its complaints tell.
    settle(primary, &standby);
    let file = primary.sql("postgres", "select pg_relation_filepath('cold')");
    let told = || {
        let finished = pgbr.run(["backup", "--type=full"]);
        assert!(finished.success(), "{finished:#?}");
        said(&finished).contains("invalid page checksums")
    };
    flip(&standby, &file);
    assert!(told());
    flip(&standby, &file);
    flip(primary, &file);
    assert!(!told());
    flip(primary, &file);

    // Nothing happens between these: each begins anew on the primary, and builds on the one before.
    let (first, second) = (pgbr.run(["backup", "--type=incr"]), pgbr.run(["backup", "--type=incr"]));
    assert!(first.success() && second.success(), "{first:#?} {second:#?}");
    let info: serde_json::Value = serde_json::from_str(&pgbr.ok(["info", "--output=json"])).unwrap();
    let [.., one, two] = info[0]["backup"].as_array().unwrap().as_slice() else { panic!("{info}") };
    assert_eq!(two["prior"], one["label"]);
    assert_ne!(two["lsn"]["start"], one["lsn"]["start"]);
    assert_eq!(two["reference"].as_array().map(Vec::len), Some(2), "{two}");
    assert!(two["info"]["delta"].as_u64() < Some(1 << 20), "{two}");
    let target = Cluster::builder(primary.major()).empty();
    world.restore_to(&target, &[&spaces(&target)]);
    target.start();
    target.wait_promoted();
    target.assert_clean();
}

fn backups(world: &World) -> Vec<String> {
    let info: serde_json::Value =
        serde_json::from_str(&world.pgbr.ok(["info", "--output=json"])).expect("info prints JSON");
    let all = info[0]["backup"].as_array().cloned().unwrap_or_default();
    all.iter().filter_map(|backup| Some(backup["label"].as_str()?.to_owned())).collect()
}

/// A rig with a standby, configured as `pg2`.
fn with_standby() -> (Rig, Cluster) {
    let rig = Rig::plain();
    rig.slow_down();
    let standby = rig.cluster.standby();
    standby.start();
    rig.pgbr.set_cluster(2, &standby);
    (rig, standby)
}

#[test]
fn check_says_whether_it_has_seen_a_primary_or_a_standby() {
    let (rig, standby) = with_standby();
    let primary = said(&rig.pgbr.run(["check"]));
    let lines = ["check repo1 configuration (primary)", "check repo1 archive for WAL (primary)"];
    assert!(lines.iter().all(|line| primary.contains(line)), "{primary}");
    assert!(!primary.contains("standby)") && !primary.contains("for segment"), "{primary}");

    for option in ["path", "socket-path", "port", "user"] {
        rig.pgbr.unset("demo", &format!("pg2-{option}"));
    }
    rig.pgbr.set_cluster(1, &standby);
    let alone = said(&rig.pgbr.run(["check"]));
    let lines = ["check repo1 (standby)", "switch wal not performed because this is a standby"];
    assert!(lines.iter().all(|line| alone.contains(line)) && !alone.contains("(primary)"), "{alone}");
}

#[test]
fn a_standby_that_is_promoted_in_the_middle_fails_the_backup() {
    let (rig, standby) = with_standby();
    rig.pgbr.set("global", "backup-standby", "y");
    let frozen = rig.frozen_backup();
    standby.promote();
    let finished = frozen.thaw();
    assert_one_error(&finished, 58, &["can no longer be copied from: it was promoted"]);
    assert_eq!(rig.labels(), [""; 0]);
    rig.assert_no_backup_mode();
    // Two that take writes: neither is believed. One alone is enough where no standby is wanted.
    assert_one_error(&rig.pgbr.fails(56, FROM_STANDBY), 56, &["more than one primary cluster found"]);
    rig.pgbr.ok(["backup", "--type=full", "--no-backup-standby"]);
}

#[test]
fn a_standby_that_goes_away_fails_the_backup() {
    let (rig, standby) = with_standby();
    rig.pgbr.set("global", "backup-standby", "y");
    let frozen = rig.frozen_backup();
    standby.stop(StopMode::Immediate);
    let finished = frozen.thaw();
    assert_one_error(&finished, 56, &["the standby went away during the backup"]);
    assert_eq!(rig.labels(), [""; 0]);
    rig.assert_no_backup_mode();
    assert_one_error(&rig.pgbr.fails(56, FROM_STANDBY), 56, &["unable to find standby cluster"]);

    rig.pgbr.set("global", "backup-standby", "prefer");
    let fallen_back = rig.pgbr.run(["backup", "--type=full"]);
    let words = said(&fallen_back);
    assert!(fallen_back.success(), "{fallen_back:#?}");
    assert!(
        words.contains("unable to find a standby to perform the backup - using primary instead"),
        "{words}"
    );
    assert!(words.contains(&format!("unable to check '{}'", standby.data_dir().display())), "{words}");

    // It comes back and follows too slowly.
    standby.start();
    standby.sql("postgres", "select pg_wal_replay_pause()");
    let slow = rig.pgbr.fails(82, ["backup", "--type=full", "--archive-timeout=4"]);
    assert_one_error(&slow, 82, &["the standby has reached", "within 4 s"]);
    standby.sql("postgres", "select pg_wal_replay_resume()");
    assert!(said(&rig.pgbr.run(["backup", "--type=full"])).contains("replay on the standby reached"));

    // Without a primary there is nothing to begin on.
    rig.cluster.stop(StopMode::Fast);
    assert_one_error(&rig.pgbr.fails(56, FROM_STANDBY), 56, &["unable to find primary cluster"]);
    rig.pgbr.set_cluster(1, &standby);
    for option in ["path", "port", "socket-path", "user"] {
        rig.pgbr.unset("demo", &format!("pg2-{option}"));
    }
    let alone = rig.pgbr.fails(81, ["backup", "--type=full", "--no-backup-standby"]);
    assert_one_error(&alone, 81, &["the server is in recovery"]);
}

#[test]
fn a_standby_of_another_cluster_or_timeline_is_not_copied_from() {
    let (rig, middle) = with_standby();
    rig.pgbr.set("global", "backup-standby", "y");
    let foreign = crate::rig::cluster();
    let other = foreign.standby();
    other.start();
    rig.pgbr.set_cluster(2, &other);
    assert_one_error(&rig.pgbr.fails(58, FROM_STANDBY), 58, &["not a standby of the primary's"]);

    // A standby of a standby, which is promoted: it goes with it, and is a standby still.
    let last = middle.standby();
    last.start();
    rig.pgbr.set_cluster(2, &last);
    let frozen = rig.frozen_backup();
    middle.promote();
    middle.sql("postgres", "create table fork as select 1; checkpoint");
    wait_until(LIMIT, "the last standby to follow to the new timeline", || {
        last.sql("postgres", "checkpoint; select timeline_id from pg_control_checkpoint()") == "2"
    });
    assert_eq!(last.sql("postgres", "select pg_is_in_recovery()"), "t");
    let finished = frozen.thaw();
    assert_one_error(&finished, 58, &["it is on timeline 2, the backup on 1"]);
    assert_eq!(rig.labels(), [""; 0]);
    // At the start it is seen as well.
    let refused = rig.pgbr.run(["backup", "--type=full", "--archive-timeout=4"]);
    assert!(refused.code.is_some_and(|code| [58, 82].contains(&code)), "{refused:#?}");
    assert_eq!(rig.labels(), [""; 0]);
}

#[test]
fn after_a_failover_the_backup_follows_the_primary() {
    let world = World::of(newest());
    let pgbr = &world.pgbr;
    let mut standby = world.cluster.standby();
    // Both archive: the same segment twice is no harm.
    standby.set_override("archive_mode", "always");
    standby.start();
    pgbr.set_cluster(2, &standby);
    pgbr.set("global", "archive-mode-check", "n");
    pgbr.set("global", "backup-standby", "prefer");
    world.backup();
    world.mark();
    world.archive_all();
    world.cluster.wait_replayed(&standby);
    world.cluster.stop(StopMode::Fast);
    standby.promote();
    let history = format!("pgbr/demo/archive/{}-1/00000002.history", standby.major());
    wait_until(LIMIT, "the history of the new timeline to be archived", || pgbr.objects().has(&history));
    // By now the control file may still be of the old one.
    let after = said(&pgbr.run(["backup", "--type=incr"]));
    assert!(after.contains("unable to check") && after.contains("using primary instead"), "{after}");
    assert!(after.contains("on another timeline than its prior backup: all files are read"), "{after}");
    assert!(after.contains("new backup label"), "{after}");
    let mark = crate::world::set_mark(&standby);
    crate::world::archive_all(&standby);
    assert!(pgbr.ok(["stanza-create"]).contains("already exists on repo1 and is valid"));
    assert!(pgbr.ok(["stanza-upgrade"]).contains("is already up to date"));
    // The one of the two that runs keeps the stanza.
    pgbr.ok(["stop"]);
    let running = pgbr.fails(38, ["stanza-delete"]);
    assert_one_error(&running, 38, &[&standby.data_dir().join("postmaster.pid").display().to_string()]);
    pgbr.ok(["start"]);
    let target = world.opened(&[]);
    assert_eq!(last_mark(&target), mark.id);
    target.assert_clean();
}
