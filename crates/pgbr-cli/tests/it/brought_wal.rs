//! Backups that bring their WAL: of a stopped cluster (`--no-online`), and with what the archive had (`--archive-copy`).

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use pgbr_testkit::{Cluster, Finished, StopMode, wait_until};
use serde_json::{Value, json};

use crate::monitoring::assert_fits;
use crate::rig::{Frozen, Rig, assert_one_error, restore_into, said};
use crate::world::{World, last_mark, newest};

const LIMIT: Duration = Duration::from_secs(120);

/// All that `info` says of the newest backup.
fn newest_entry(world: &World) -> Value {
    let info = world.pgbr.ok(["info", "--output=json", "--log-level-console=off"]);
    let info: Value = serde_json::from_str(&info).expect("info prints JSON");
    assert_fits(&info);
    info[0]["backup"].as_array().and_then(|list| list.last()).cloned().expect("there is a backup")
}

/// The WAL segments in `pg_wal` of a restored cluster.
fn segments(cluster: &Cluster) -> Vec<String> {
    let entries = fs::read_dir(cluster.data_dir().join("pg_wal")).expect("there is a pg_wal").flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| name.len() == 24).collect();
    names.sort_unstable();
    names
}

/// The archive of the only cluster.
fn archive(world: &World) -> PathBuf {
    let archives = world.pgbr.repo_dir().join("pgbr/demo/archive");
    fs::read_dir(archives).expect("there is an archive").flatten().next().expect("of one cluster").path()
}

/// Takes the archive away, so that a recovery gets nothing of it.
fn lose_archive(world: &World) {
    fs::remove_dir_all(archive(world)).expect("it can be removed");
}

#[test]
fn a_stopped_cluster_is_backed_up_with_all_that_it_needs() {
    let world = World::of(newest().checksums(true));
    let space = world.cluster.scratch().dir("space");
    world.cluster.sql("postgres", &format!("create tablespace space location '{}'", space.display()));
    world
        .cluster
        .sql("postgres", "create table spaced tablespace space as select generate_series(1, 5000) n");
    let full = world.backup();
    world.cluster.sql("postgres", "create unlogged table fleeting as select generate_series(1, 100) n");
    let mark = world.mark();
    let digest = world.cluster.table_digest("postgres");
    world.cluster.stop(StopMode::Fast);

    let told = world.pgbr.ok(["backup", "--no-online", "--type=diff"]);
    assert!(!told.contains("not shut down cleanly"), "{told}");
    let entry = newest_entry(&world);
    assert_eq!((&entry["type"], &entry["prior"]), (&json!("diff"), &json!(full)));
    assert_eq!((&entry["archive"], entry.get("lsn")), (&json!({"start": null, "stop": null}), None));
    let text = world.pgbr.ok(["info"]);
    assert!(text.contains("wal start/stop: n/a"), "{text}");
    let list = world.pgbr.ok(["repo-get", "backup/demo/backup.info"]);
    let line = |label: &Value| {
        let begin = format!("{}={{", label.as_str().expect("a label"));
        list.lines().find(|line| line.starts_with(&begin)).unwrap_or_else(|| panic!("{begin}: {list}"))
    };
    assert!(
        line(&json!(full)).contains("\"option-archive-copy\":false")
            && line(&json!(full)).ends_with("\"option-online\":true}")
    );
    assert!(line(&entry["label"]).ends_with("\"option-online\":false}"), "{list}");
    let manifest = world.pgbr.ok(["manifest", "--output=json"]);
    assert!(manifest.contains("\"name\":\"pg_data/global/pg_control\""), "{manifest}");
    world.pgbr.ok(["verify"]);

    // As it was, and nothing is recovered.
    let map = |target: &Cluster| {
        format!("--tablespace-map-all={}", target.scratch().path().join("spaces").display())
    };
    let target = Cluster::builder(world.cluster.major()).empty();
    world.restore_to(&target, &[&map(&target), "--type=none"]);
    target.start();
    assert_eq!(target.sql("postgres", "select count(*) from fleeting"), "100", "it was shut down cleanly");
    assert_eq!(target.table_digest("postgres"), digest);
    assert_eq!(
        (last_mark(&target), target.sql("postgres", "select pg_is_in_recovery()")),
        (mark.id, "f".to_owned())
    );
    target.assert_clean();

    // What came later is recovered on top of it, by the archive.
    world.cluster.start();
    let later = world.mark();
    world.archive_all();
    let target = Cluster::builder(world.cluster.major()).empty();
    world.restore_to(&target, &[&map(&target)]);
    target.start();
    target.wait_promoted();
    assert_eq!(last_mark(&target), later.id);
    target.assert_clean();

    // It is built on like any other.
    world.backup_as(&["--type=incr"]);
    let entry = newest_entry(&world);
    assert_eq!(entry["type"], "incr");
    world.pgbr.ok(["verify"]);
    let target = Cluster::builder(world.cluster.major()).empty();
    world.restore_to(&target, &[&map(&target), "--type=immediate", "--target-action=promote"]);
    assert!(segments(&target).is_empty(), "what its prior backup brought is gone");
    target.start();
    target.wait_promoted();
    assert_eq!(last_mark(&target), later.id);
    target.assert_clean();
}

#[test]
fn what_a_crash_left_is_backed_up_with_the_wal_that_mends_it() {
    let world = World::of(newest().checksums(true));
    world.backup();
    world.cluster.sql(
        "postgres",
        "create table wide as select n, repeat('x', 500) v from generate_series(1, 3000) n; checkpoint",
    );
    world.cluster.sql("postgres", "update wide set v = 'y' where n % 2 = 0");
    let mark = world.mark();
    let digest = world.cluster.table_digest("postgres");
    world.cluster.kill9();
    assert!(world.cluster.data_dir().join("postmaster.pid").exists(), "nobody has taken it away");

    let refused = world.pgbr.fails(38, ["backup", "--no-online", "--type=full"]);
    assert_one_error(&refused, 38, &["--no-online passed but postmaster.pid exists", "use --force"]);
    let told = world.pgbr.ok(["backup", "--no-online", "--force", "--type=full"]);
    assert!(told.contains("--force was passed") && told.contains("not shut down cleanly"), "{told}");
    world.pgbr.ok(["verify"]);

    // Without any archive.
    lose_archive(&world);
    let target = world.restored(&["--type=none"]);
    assert!(!segments(&target).is_empty());
    target.start();
    assert_eq!((last_mark(&target), target.table_digest("postgres")), (mark.id, digest));
    target.assert_clean();
}

#[test]
fn what_is_not_stopped_is_no_cluster_to_copy() {
    let rig = Rig::plain();
    for force in [&[][..], &["--force"]] {
        let args = ["backup", "--no-online", "--type=full"].iter().chain(force).copied();
        rig.refused(38, &["PostgreSQL is running on", "leave out --no-online"], args);
    }
    // One that is started meanwhile.
    rig.slow_down();
    rig.cluster.stop(StopMode::Fast);
    let backup = rig.frozen_backup_with(&["--no-online", "--no-resume"]);
    rig.cluster.start();
    assert_one_error(&backup.thaw(), 38, &["PostgreSQL was started on"]);
    // And one that was started and stopped again.
    rig.cluster.stop(StopMode::Fast);
    let backup = rig.frozen_backup_with(&["--no-online", "--no-resume"]);
    rig.cluster.start();
    rig.cluster.sql("postgres", "create table t ()");
    rig.cluster.stop(StopMode::Fast);
    assert_one_error(&backup.thaw(), 38, &["PostgreSQL was started on"]);
    assert!(rig.labels().is_empty());

    // Or one that works where nobody sees its process.
    let backup = rig.frozen_backup_with(&["--no-online", "--no-resume"]);
    let changed = rig.cluster.data_dir().join("global/pg_filenode.map");
    fs::write(&changed, fs::read(&changed).expect("it can be read")).expect("it can be written");
    assert_one_error(&backup.thaw(), 38, &["pg_filenode.map", "was changed"]);
    assert!(rig.labels().is_empty());
}

#[test]
fn what_would_not_start_is_not_backed_up_without_its_server() {
    let rig = Rig::plain();
    let space = rig.cluster.scratch().dir("space");
    rig.cluster.sql("postgres", &format!("create tablespace space location '{}'", space.display()));
    rig.cluster.sql("postgres", "create table spaced tablespace space as select 1 n");
    let standby = rig.cluster.standby_with(&[(&space, &rig.cluster.scratch().dir("copied"))]);
    let offline = ["backup", "--no-online", "--type=full"];
    let refused = |cluster: &Cluster, code, words: &[&str], options: &[&str]| {
        let path = format!("--pg1-path={}", cluster.data_dir().display());
        rig.refused(code, words, offline.into_iter().chain([path.as_str()]).chain(options.iter().copied()));
    };
    standby.start();
    rig.cluster.wait_replayed(&standby);
    standby.stop(StopMode::Fast);
    refused(&standby, 58, &["is a standby"], &[]);
    fs::remove_file(standby.data_dir().join("standby.signal")).expect("it was there");
    refused(&standby, 58, &["in the middle of a recovery"], &[]);

    // A copy that was never started is not consistent by itself.
    rig.backup();
    let target = rig.target();
    let map = format!("--tablespace-map-all={}", target.scratch().path().join("spaces").display());
    rig.pgbr.ok(restore_into(&target).iter().map(String::as_str).chain([map.as_str(), "--type=none"]));
    refused(&target, 58, &["has a backup_label"], &[]);

    rig.cluster.stop(StopMode::Fast);
    refused(&rig.cluster, 67, &["--exclude of 'pg_data/pg_wal'"], &["--exclude=pg_wal/"]);
    // As where something is not mounted.
    let hidden = space.with_extension("hidden");
    fs::rename(&space, &hidden).expect("it can be renamed");
    fs::create_dir(&space).expect("a directory");
    refused(&rig.cluster, 55, &["PG_15_", "is missing"], &[]);
    fs::remove_dir(&space).expect("it is empty");
    fs::rename(&hidden, &space).expect("it can be renamed");
    let segments = segments(&rig.cluster);
    let wal = rig.cluster.data_dir().join("pg_wal");
    let kept = rig.cluster.scratch().dir("kept");
    for segment in &segments {
        fs::rename(wal.join(segment), kept.join(segment)).expect("it can be renamed");
    }
    refused(&rig.cluster, 58, &["has no whole segment", &segments[0][..16]], &[]);
    for segment in &segments {
        fs::rename(kept.join(segment), wal.join(segment)).expect("it can be renamed");
    }
    rig.pgbr.ok(offline);
}

/// A backup whose WAL does not come at its end any more, or that is asked to end while it waits for it.
fn fails_at_its_end(rig: &Rig, repos: &str, signal: bool) -> Finished {
    let backup = rig.frozen_backup_with(&[repos, "--archive-copy", "--no-resume"]);
    rig.cluster.set_conf("archive_command", "false");
    rig.cluster.reload();
    backup.send(rustix::process::Signal::CONT);
    if signal {
        let status = format!("/proc/{}/stat", backup.pid());
        let failed = "select failed_count > 0 from pg_stat_archiver";
        wait_until(LIMIT, "the backup to wait for WAL, or to end", || {
            rig.cluster.sql("postgres", failed) == "t"
                || fs::read_to_string(&status).is_ok_and(|status| status.contains(") Z "))
        });
        backup.send(rustix::process::Signal::TERM);
    }
    let finished = backup.thaw();
    rig.cluster.sql("postgres", "select pg_stat_reset_shared('archiver')");
    rig.pgbr.archive_from(&rig.cluster);
    rig.archived_segment();
    finished
}

/// Uploads are under way when these fail.
#[test]
fn a_backup_whose_wal_does_not_come_at_its_end_fails_and_leaves_nothing_held() {
    let rig = Rig::with(|pgbr| {
        let second = pgbr.scratch().dir("second");
        pgbr.set("global", "repo2-path", &second.display().to_string());
    });
    rig.slow_down();
    rig.pgbr.set("global", "archive-timeout", "20");
    for (repos, signal) in [("--repo=1", false), ("--repo=1,2", false), ("--repo=1,2", true)] {
        let before = (rig.labels(), rig.packs());
        let code = (0..20).find_map(|_| {
            let finished = fails_at_its_end(&rig, repos, signal);
            // On a busy machine it may have been met too late, and made a backup; that goes when the next is there.
            let code = finished.code.filter(|code| *code != 0)?;
            assert_eq!(rig.names("pin"), Vec::<String>::new(), "{finished:#?}");
            Some(code)
        });
        assert_eq!(code, Some(if signal { 63 } else { 82 }));
        if rig.labels() == before.0 {
            assert_eq!(rig.packs(), before.1, "what was stored is gone");
        }
    }
    rig.pgbr.ok(["backup", "--type=full", "--repo=1,2", "--archive-copy"]);
    rig.pgbr.ok(["verify"]);
}

#[test]
fn the_wal_of_the_archive_becomes_part_of_the_backup() {
    let world = World::of(newest().checksums(true));
    world.cluster.sql("postgres", "create table t as select generate_series(1, 20000) n");
    let told = world.pgbr.ok(["backup", "--type=full", "--archive-copy", "--log-level-console=detail"]);
    let full = newest_entry(&world);
    let of = |entry: &Value, end: &str| entry["archive"][end].as_str().expect("a segment").to_owned();
    assert!(told.contains(&format!("pg_wal/{}", of(&full, "start"))), "{told}");
    world.mark();
    world.archive_all();
    world.backup_as(&["--type=incr", "--archive-copy"]);
    let (incr, mark) = (newest_entry(&world), last_mark(&world.cluster));
    let plain = world.backup_as(&["--type=incr"]);
    lose_archive(&world);

    // Those with WAL of their own are whole; the one without is not.
    let damaged = world.pgbr.run(["verify", "--output=text"]);
    assert_ne!(damaged.code, Some(0), "{damaged:#?}");
    assert!(said(&damaged).contains(&plain), "{damaged:#?}");
    let label = |entry: &Value| entry["label"].as_str().expect("a label").to_owned();
    for (entry, marks) in [(&full, 0), (&incr, mark)] {
        let set = format!("--set={}", label(entry));
        world.pgbr.ok(["verify", &set]);
        let target = world.restored(&[&set, "--type=immediate", "--target-action=promote"]);
        let (first, last) = (of(entry, "start"), of(entry, "stop"));
        let brought = segments(&target);
        assert_eq!((brought.first(), brought.last()), (Some(&first), Some(&last)), "{brought:?}");
        let mode =
            |path: &str| fs::metadata(target.data_dir().join(path)).expect("it is there").permissions();
        assert_eq!(mode(&format!("pg_wal/{first}")), mode("PG_VERSION"));
        target.start();
        target.wait_promoted();
        assert_eq!(last_mark(&target), marks);
        target.assert_clean();
    }
    let failed = world.pgbr.run([
        "restore",
        &format!("--set={plain}"),
        &format!("--pg1-path={}", newest().empty().data_dir().display()),
    ]);
    assert_ne!(failed.code, Some(0), "{failed:#?}");
}

#[test]
fn a_backup_that_was_killed_while_it_waited_for_wal_brings_it_when_it_goes_on() {
    let rig = Rig::sealed();
    rig.slow_down();
    let command = rig.pgbr.command(["backup", "--type=full", "--archive-copy"]);
    let backup = Frozen::at(command, || rig.packs() > 0);
    // The server does not archive what the backup will ask for, so it waits; then it is killed there.
    rig.cluster.set_conf("archive_command", "false");
    rig.cluster.reload();
    backup.send(rustix::process::Signal::CONT);
    wait_until(LIMIT, "the backup waits for WAL", || {
        rig.cluster.sql("postgres", "select failed_count > 0 from pg_stat_archiver") == "t"
    });
    backup.send(rustix::process::Signal::KILL);
    let killed = backup.thaw();
    assert_eq!(killed.code, None, "{killed:#?}");
    rig.pgbr.archive_from(&rig.cluster);
    let told = rig.pgbr.ok(["backup", "--type=full", "--archive-copy"]);
    assert!(told.contains("resume"), "{told}");
    rig.pgbr.ok(["verify"]);
    let target = rig.target();
    rig.pgbr.ok(restore_into(&target)
        .iter()
        .map(String::as_str)
        .chain(["--type=immediate", "--target-action=promote"]));
    assert!(!segments(&target).is_empty());
    target.start();
    target.wait_promoted();
    target.assert_clean();
}
