//! Restores of some databases: the others come back as zeros, do not stop recovery, and can be dropped.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use pgbr_testkit::Cluster;

use crate::world::{World, last_mark, restore_args};

const DATABASES: [&str; 3] = ["app", "logs", "other db"];

/// Three databases, one of them with a table in a tablespace, and WAL that touches all of them.
fn world() -> World {
    let world = World::new();
    let space = world.cluster.scratch().dir("space");
    world.cluster.sql("postgres", &format!("create tablespace space location '{}'", space.display()));
    for name in DATABASES {
        world.cluster.sql("postgres", &format!("create database \"{name}\""));
        world.cluster.sql(name, "create table t as select n, repeat('x', 200) v from generate_series(1, 5000) n; create index on t (n)");
    }
    world.cluster.sql("logs", "create table s tablespace space as select generate_series(1, 5000) n");
    world.cluster.sql("postgres", "checkpoint");
    world.backup();
    for name in DATABASES {
        world.cluster.sql(name, "update t set v = 'y' where n % 3 = 0; insert into t values (0, 'z'); create table u as table t; vacuum t");
    }
    world.cluster.sql("logs", "insert into s values (0); truncate s; insert into s values (7)");
    world.cluster.sql("postgres", "checkpoint");
    world
}

fn oid(world: &World, name: &str) -> String {
    world.cluster.sql("postgres", &format!("select oid from pg_database where datname = '{name}'"))
}

/// Bytes on disk and as sizes say of a directory's files, `PG_VERSION` aside.
fn sizes(dir: &Path) -> (u64, u64) {
    let files = fs::read_dir(dir).expect("it is there").map(|entry| entry.expect("it can be read"));
    let metas =
        files.filter(|file| file.file_name() != "PG_VERSION").map(|file| file.metadata().expect("a file"));
    metas.fold((0, 0), |(blocks, bytes), meta| (blocks + meta.blocks() * 512, bytes + meta.len()))
}

#[test]
fn databases_that_are_not_wanted_are_hollow_and_can_be_dropped() {
    let world = world();
    let mark = world.mark();
    world.archive_all();
    let digest = world.cluster.table_digest("app");
    let target = Cluster::builder(world.cluster.major()).empty();
    let map = format!("--tablespace-map-all={}", target.scratch().path().join("spaces").display());
    let log = world.restore_to(&target, &[&map, "--db-include=app"]);
    assert!(log.contains("logs, other db"), "{log}");
    check(&world, &target, &digest, mark.id);

    // The other way round, by number, over a whole cluster.
    let numbers = [format!("--db-exclude={}", oid(&world, "logs")), "--db-exclude=other db".to_owned()];
    world.restore_to(&target, &[&map, "--delta"]);
    let (filled, _) = sizes(&target.data_dir().join("base").join(oid(&world, "logs")));
    assert!(filled > 1 << 20);
    world.restore_to(&target, &[&map, "--delta", &numbers[0], &numbers[1]]);
    check(&world, &target, &digest, mark.id);

    // And back to all of it.
    world.restore_to(&target, &[&map, "--delta"]);
    target.start();
    target.wait_promoted();
    for name in DATABASES {
        assert_eq!(target.table_digest(name), world.cluster.table_digest(name), "{name}");
    }
    target.assert_clean();
}

fn check(world: &World, target: &Cluster, digest: &str, mark: u32) {
    for name in ["logs", "other db"] {
        let dir = target.data_dir().join("base").join(oid(world, name));
        let (blocks, bytes) = sizes(&dir);
        assert!(blocks == 0 && bytes > 7 << 20, "{name}: {blocks} of {bytes}");
        assert!(fs::read(dir.join("PG_VERSION")).is_ok_and(|version| !version.is_empty()));
    }
    target.start();
    target.wait_promoted();
    assert_eq!(target.table_digest("app"), digest);
    assert_eq!(last_mark(target), mark);
    for name in ["logs", "other db"] {
        assert!(target.try_sql(name, "select count(*) from t").is_err());
        target.sql("postgres", &format!("drop database \"{name}\""));
    }
    target.sql("postgres", "checkpoint; create database fresh");
    target.assert_clean();
}

#[test]
fn databases_that_cannot_be_chosen_are_refused() {
    let world = World::new();
    world.cluster.sql("postgres", "create database app");
    world.backup();
    world.archive_all();
    let target = Cluster::builder(world.cluster.major()).empty();
    for (options, code, words) in [
        (&["--db-include=nowhere"][..], 80, "database to include 'nowhere' does not exist"),
        (&["--db-exclude=4711"], 80, "database to exclude '4711' does not exist"),
        (
            &["--db-include=postgres"],
            81,
            "system databases (template0, postgres, etc.) are included by default",
        ),
        (&["--db-include=1"], 81, "system databases (template0, postgres, etc.) are included by default"),
        (&["--db-include=app", "--db-exclude=app"], 81, "exclude list"),
    ] {
        let failed = world.pgbr.fails(code, restore_args(&target, options));
        assert!(failed.stdout.contains(words), "{options:?}: {failed:#?}");
    }
    assert!(fs::read_dir(target.data_dir()).expect("it is there").next().is_none());
}
