//! Backups while tables and databases come, go and are rewritten all the time: each of them restores clean.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use pgbr_testkit::{Cluster, StopMode};

use crate::rig::MAJOR;
use crate::state::open_backup;
use crate::world::World;

/// Type and more options of each backup, one after the other.
const BACKUPS: [&[&str]; 8] = [
    &["--type=full"],
    &["--type=incr"],
    &["--type=diff"],
    &["--type=incr", "--delta"],
    &["--type=full", "--compress-type=none"],
    &["--type=incr", "--process-max=1"],
    &["--type=incr"],
    &["--type=diff", "--compress-type=lz4"],
];

/// Tables that are made, filled, emptied, rewritten and dropped.
const TABLES: [&str; 9] = [
    "drop table if exists a, b; create table a (id int primary key, v text);
     insert into a select g, md5(g::text) from generate_series(1, 3000) g",
    "create index on a (v)",
    "delete from a where id % 3 = 0; vacuum a",
    "truncate a; insert into a select g, md5((-g)::text) from generate_series(1, 5000) g",
    "vacuum full a",
    "cluster a using a_pkey",
    "delete from a where id > 2000; vacuum a; insert into a select g, 'again' from generate_series(10001, 13000) g",
    "alter table a rename to b; reindex table b",
    "alter table b set unlogged; alter table b set logged; vacuum freeze b",
];

/// Databases that are made with something in them, changed, and dropped.
const DATABASES: [&str; 4] = [
    "drop database if exists d1",
    "create database d1 template filled strategy file_copy",
    "drop database if exists d2; create database d2 template filled strategy wal_log",
    "drop database if exists d3; alter database d1 rename to d3",
];

/// The sum over both tables stays the same.
const TRANSFER: &str = "begin; update here set n = n - 7 where id = (select 1 + floor(random() * 500)::int);
    update there set n = n + 7 where id = (select 1 + floor(random() * 500)::int); commit";

/// Statements that go round and round in sessions of their own.
struct Storm {
    stop: AtomicBool,
    rounds: [AtomicU32; 3],
}

impl Storm {
    /// Runs the statements of one kind until the end; a failure ends the test.
    fn blow(&self, cluster: &Cluster, kind: usize, statements: &[&str]) {
        while !self.stop.load(Ordering::SeqCst) {
            for statement in statements {
                cluster.sql("postgres", &format!("set client_min_messages = warning; {statement}"));
            }
            self.rounds[kind].fetch_add(1, Ordering::SeqCst);
        }
    }

    fn seen(&self) -> [u32; 3] {
        [0, 1, 2].map(|kind| self.rounds[kind].load(Ordering::SeqCst))
    }
}

/// Ends the storm when the backups have ended, whatever way.
struct Calm<'a>(&'a Storm);

impl Drop for Calm<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::SeqCst);
    }
}

#[test]
fn every_backup_under_a_storm_of_ddl_restores_clean() {
    let world = World::of(Cluster::builder(MAJOR).conf("max_wal_size", "256MB"));
    prepare(&world.cluster);
    let storm = Storm { stop: AtomicBool::new(false), rounds: Default::default() };
    let transfers = [TRANSFER; 20].join(";");
    let labels = thread::scope(|scope| {
        let calm = Calm(&storm);
        scope.spawn(|| storm.blow(&world.cluster, 0, &TABLES));
        scope.spawn(|| storm.blow(&world.cluster, 1, &DATABASES));
        scope.spawn(|| storm.blow(&world.cluster, 2, &[&transfers]));
        let mut labels = Vec::new();
        for options in BACKUPS {
            let before = storm.seen();
            labels.push(world.backup_as(options));
            let (_, rounds) = (before, storm.seen());
            assert!(
                rounds[2] > before[2],
                "the storm did not blow during a backup: {before:?} to {rounds:?}"
            );
        }
        drop(calm);
        labels
    });
    assert!(storm.seen().iter().all(|rounds| *rounds >= 2), "{:?}", storm.seen());
    world.cluster.stop(StopMode::Fast);
    assert_types(&labels);
    for label in labels {
        let target = Cluster::builder(MAJOR).empty();
        open_backup(&world.pgbr, &target, &label, &[]);
        let sum = "select (select sum(n) from here) + (select sum(n) from there)";
        assert_eq!(target.sql("postgres", sum), "0", "{label}");
        assert_databases_open(&target, &label);
        target.assert_clean();
    }
}

fn prepare(cluster: &Cluster) {
    cluster.sql(
        "postgres",
        "create table here (id int primary key, n bigint); create table there (id int primary key, n bigint);
         insert into here select g, 1000 from generate_series(1, 500) g;
         insert into there select g, -1000 from generate_series(1, 500) g;
         create database filled",
    );
    cluster.sql(
        "filled",
        "create table t as select g, md5(g::text) from generate_series(1, 4000) g; create index on t (g)",
    );
    for statement in TABLES {
        cluster.sql("postgres", statement);
    }
}

/// None of them became a full for want of a parent.
fn assert_types(labels: &[String]) {
    let kinds: String = labels.iter().filter_map(|label| label.chars().last()).collect();
    assert_eq!(kinds, "FIDIFIID");
}

/// Those that were made from the template hold what it does. One that was about to be dropped can be, and nothing else.
fn assert_databases_open(cluster: &Cluster, label: &str) {
    for db in cluster.sql("postgres", "select datname from pg_database where datconnlimit = -2").lines() {
        cluster.sql("postgres", &format!("drop database {db}"));
    }
    let names =
        cluster.sql("postgres", "select datname from pg_database where datname ~ '^(d[0-9]|filled)$'");
    for db in names.lines() {
        assert_eq!(cluster.sql(db, "select count(*) from t"), "4000", "{label}: {db}");
    }
}
