//! What a restore does not touch, and what one that was killed leaves behind.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use pgbr_testkit::{Cluster, StopMode, own};

use crate::world::{World, last_mark, restore_args};

/// Names and sizes of everything below a directory.
fn listing(dir: &Path) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(&next).expect("it can be listed") {
            let entry = entry.expect("it can be read");
            let meta = entry.metadata().expect("it can be examined");
            found.push((entry.path().display().to_string(), meta.len()));
            if meta.is_dir() {
                dirs.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

/// Runs a restore into the cluster's directory, which must refuse and leave everything as it is.
#[track_caller]
fn refused(world: &World, target: &Cluster, options: &[&str], code: i32, why: &str) {
    let before = listing(target.data_dir());
    let failed = world.pgbr.fails(code, restore_args(target, options));
    assert!(failed.stdout.contains(why), "{options:?}: {failed:#?}");
    assert_eq!(listing(target.data_dir()), before, "{options:?} has changed something");
}

#[test]
fn a_directory_in_use_or_of_something_else_is_left_alone() {
    let world = World::new();
    world.backup();
    let mark = world.mark();
    world.archive_all();

    // A running server, asked in every way; it does not even notice.
    let running = world.opened(&["--archive-mode=off"]);
    running.sql("postgres", "checkpoint");
    for options in [&[][..], &["--delta"], &["--force"], &["--delta", "--force"]] {
        let failed = world.pgbr.fails(38, restore_args(&running, options));
        assert!(failed.stdout.contains("while PostgreSQL is running"), "{failed:#?}");
        assert!(failed.stdout.contains("postmaster.pid"), "{failed:#?}");
    }
    assert_eq!(last_mark(&running), mark.id);

    // Killed: its pid file may be of a server that this machine cannot see.
    running.kill9();
    refused(&world, &running, &["--delta"], 38, "remove postmaster.pid only if");
    fs::remove_file(running.data_dir().join("postmaster.pid")).expect("it is there");
    refused(&world, &running, &[], 40, "contains files");

    // Replaced: nothing of the old one is left.
    for option in ["--delta", "--force"] {
        for name in ["stale", "base/1/99999", "pg_wal/0000000100000000000000FF", "standby.signal"] {
            fs::write(running.data_dir().join(name), "old").expect("it can be written");
            own(&running.data_dir().join(name));
        }
        world.restore_to(&running, &[option]);
        let left: Vec<_> = listing(running.data_dir())
            .into_iter()
            .filter(|(name, _)| {
                ["stale", "99999", "00FF", "standby.signal", "postmaster.pid"]
                    .iter()
                    .any(|old| name.ends_with(old))
            })
            .collect();
        assert_eq!(left, []);
        running.start();
        running.wait_promoted();
        assert_eq!(last_mark(&running), mark.id);
        running.stop(StopMode::Fast);
    }

    // Something else than a cluster.
    let other = Cluster::builder(world.cluster.major()).empty();
    let papers = other.data_dir().join("papers");
    fs::create_dir(&papers).expect("it can be made");
    fs::write(papers.join("thesis"), "years of work").expect("it can be written");
    refused(&world, &other, &[], 40, "contains files");
    for option in ["--delta", "--force"] {
        refused(&world, &other, &[option], 40, "does not look like a data directory");
    }
    fs::remove_dir_all(other.data_dir()).expect("it can be removed");
    // A link that leads nowhere may stand for a file system that is not mounted.
    symlink(other.scratch().path().join("unmounted"), other.data_dir()).expect("a link");
    let failed = world.pgbr.fails(73, restore_args(&other, &[]));
    assert!(failed.stdout.contains("missing path"), "{failed:#?}");
    assert!(!other.data_dir().exists());
    fs::remove_file(other.data_dir()).expect("it can be removed");

    // A directory that is not there is made, as a replica's is by Patroni.
    for how in [&[][..], &["--delta"], &["--dry-run"]] {
        world.pgbr.ok(restore_args(&other, how));
        assert_eq!(other.data_dir().exists(), how != ["--dry-run"]);
        if other.data_dir().exists() {
            let mode = fs::metadata(other.data_dir()).expect("it is there").permissions().mode();
            assert_eq!(mode & 0o777, 0o700);
            fs::remove_dir_all(other.data_dir()).expect("it can be removed");
        }
    }
}

/// Starts a restore and kills it as soon as `seen` is there; false where it had done all its work by then.
fn kill_restore(world: &World, target: &Cluster, options: &[&str], seen: &Path) -> bool {
    let mut command = world.pgbr.command(restore_args(target, options));
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut child: Child = child.expect("the program can be started");
    let begun = Instant::now();
    while !seen.exists() && child.try_wait().expect("a child can be asked").is_none() {
        assert!(begun.elapsed() < Duration::from_secs(120), "{} does not come", seen.display());
        std::thread::sleep(Duration::from_micros(200));
    }
    drop(child.kill());
    let killed = child.wait().expect("a child can be waited for").code().is_none();
    killed && !target.data_dir().join("global/pg_control").exists()
}

#[test]
fn a_restore_that_was_killed_leaves_nothing_that_starts_and_can_be_run_again() {
    let world = World::new();
    world.cluster.pgbench_init(3);
    let space = world.cluster.scratch().dir("space");
    let sql = format!(
        "create tablespace space location '{}'; create table t tablespace space as select generate_series(1, 9) n",
        space.display()
    );
    world.cluster.sql("postgres", &sql);
    world.backup();
    world.mark();
    world.archive_all();
    let digest = world.cluster.table_digest("postgres");
    let target = Cluster::builder(world.cluster.major()).empty();
    let data = target.data_dir();
    let spaces = target.scratch().path().join("spaces");
    let map = format!("--tablespace-map-all={}", spaces.display());
    let version = fs::read_dir(&space).expect("it is there").next().expect("one directory");
    let filled =
        spaces.join("space").join(version.expect("it can be read").file_name()).display().to_string();
    let biggest = world.cluster.sql("postgres", "select pg_relation_filepath('pgbench_accounts')");
    for place in ["pgbr.restore", "base/1", biggest.as_str(), filled.as_str(), "backup_label"] {
        // On a machine that is busy enough the restore may win.
        let killed = (0..20).any(|_| {
            if let Ok(old) = fs::symlink_metadata(data.join(place)) {
                // Of the run before: it must be seen to come.
                let remove = if old.is_dir() { fs::remove_dir_all } else { fs::remove_file };
                remove(&data.join(place)).expect("it can be removed");
            }
            kill_restore(&world, &target, &["--delta", &map], &data.join(place))
        });
        assert!(killed, "no restore could be killed when it had made {place}");
        let log = target.try_start().expect_err("half a cluster must not start");
        // That one comes when all files are there, but for one.
        assert!(place != "backup_label" || log.contains("global/pg_control"), "{log}");
        let failed = world.pgbr.fails(40, restore_args(&target, &[]));
        assert!(failed.stdout.contains("contains files"), "{failed:#?}");
    }
    world.restore_to(&target, &["--delta", &map]);
    assert!(!data.join("pgbr.restore").exists());
    target.start();
    target.wait_promoted();
    assert_eq!(target.table_digest("postgres"), digest);
    target.assert_clean();

    // Killed when it had not even said that it was there, it leaves a directory that is as good as empty.
    for options in [vec![map.as_str()], vec!["--delta", &map]] {
        for directory in [data, &spaces] {
            fs::remove_dir_all(directory).expect("it can be removed");
        }
        fs::create_dir(data).expect("it can be made");
        fs::write(data.join("pgbr.restore.pgbr.tmp"), "a rest").expect("it can be written");
        own(data);
        own(&data.join("pgbr.restore.pgbr.tmp"));
        world.restore_to(&target, &options);
        assert!(!data.join("pgbr.restore.pgbr.tmp").exists());
        target.start();
        target.wait_promoted();
        assert_eq!(target.table_digest("postgres"), digest);
        target.stop(StopMode::Fast);
    }

    // The other way round: a cluster that was whole before does not start any more, once its restore was killed.
    let killed = (0..20).any(|_| {
        world.restore_to(&target, &["--delta", &map]);
        kill_restore(&world, &target, &["--delta", &map], &data.join("pgbr.restore"))
    });
    assert!(killed && target.try_start().is_err());
    world.restore_to(&target, &["--force", &map]);
    target.start();
    target.wait_promoted();
    assert_eq!(target.table_digest("postgres"), digest);
}

#[test]
fn relations_of_several_segments_come_back_page_by_page() {
    // Loaded before anything is archived: one gigabyte of WAL is of no interest here.
    let cluster = crate::world::archiving(crate::world::newest()).conf("max_wal_size", "4GB").start();
    cluster.sql(
        "postgres",
        "create table wide (id int, filler text); alter table wide alter filler set storage plain;
         insert into wide select n, repeat(md5(n::text), 240) from generate_series(1, 140000) n;
         vacuum (freeze) wide; checkpoint;",
    );
    let file = cluster.sql("postgres", "select pg_relation_filepath('wide')");
    let world = World::around(cluster, |_| {});
    world.backup();
    let mark = world.mark();
    world.cluster.sql("postgres", "update wide set id = -id where id in (1, 70000, 140000)");
    world.archive_all();

    let copy = world.restored(&[]);
    for name in [file.clone(), format!("{file}.1")] {
        let size =
            |cluster: &Cluster| fs::metadata(cluster.data_dir().join(&name)).expect("it is there").len();
        assert_eq!(size(&copy), if name == file { 1 << 30 } else { 140_000 * 8192 - (1 << 30) }, "{name}");
    }
    copy.start();
    copy.wait_promoted();
    assert_eq!(last_mark(&copy), mark.id);
    let whole =
        "select count(*), sum(id), min(id), bool_and(filler = repeat(md5(abs(id)::text), 240)) from wide";
    assert_eq!(copy.sql("postgres", whole), world.cluster.sql("postgres", whole));
    assert!(copy.sql("postgres", whole).ends_with("|-140000|t"));
    // Checksums are over block numbers of the relation, not of the file.
    copy.assert_clean();
}
