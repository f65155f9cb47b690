//! A backup made under load, and recovery to every kind of target: exactly the rows of that moment.

use std::fs;

use pgbr_testkit::{Cluster, StopMode, program_name};

use crate::world::{
    World, archiving, assert_pgbench_whole, control, last_mark, newest, set_mark, wait_ended, wait_for,
};

#[test]
fn a_backup_under_load_comes_back_at_every_moment() {
    let world = World::of(newest());
    let cluster = &world.cluster;
    cluster.pgbench_init(2);
    let load = cluster.pgbench_start(2, 600);
    let mut marks = vec![world.mark()];
    let label = world.backup();
    marks.extend((0..4).map(|_| world.mark()));
    load.stop();
    wait_for(cluster, "select count(*) from pg_stat_activity where application_name = 'pgbench'", "0");
    marks.extend((0..3).map(|_| world.mark()));
    let digest = cluster.table_digest("postgres");
    world.archive_all();
    let last = marks.len();

    let mark = |id: usize| &marks[id - 1];
    let cases = [
        (vec!["--type=default".to_owned()], last),
        (vec!["--type=immediate".to_owned()], 1),
        (target("time", &mark(3).after), 3),
        (target("xid", &mark(3).xid), 3),
        (exclusive("xid", &mark(4).xid), 3),
        (target("name", &mark(4).name), 4),
        (target("lsn", &mark(5).commit_lsn), 5),
        (exclusive("lsn", &mark(5).commit_lsn), 4),
        // Nothing else commits by then, so this very moment is between two others.
        (target("time", &mark(7).committed), 7),
        (exclusive("time", &mark(7).committed), 6),
    ];
    for (options, wanted) in cases {
        let mut words: Vec<&str> = options.iter().map(String::as_str).collect();
        if wanted != last {
            words.push("--target-action=promote");
        }
        let copy = world.opened(&words);
        assert_eq!(last_mark(&copy) as usize, wanted, "{words:?}");
        assert_pgbench_whole(&copy);
        if wanted == last {
            assert_eq!(copy.table_digest("postgres"), digest);
            let old = fs::read_to_string(copy.data_dir().join("backup_label.old"));
            assert!(old.expect("the server has used backup_label").contains("START WAL LOCATION"));
        }
        copy.assert_clean();
    }
    assert!(world.pgbr.ok(["info"]).contains(&label));
}

fn target(kind: &str, value: &str) -> Vec<String> {
    vec![format!("--type={kind}"), format!("--target={value}")]
}

fn exclusive(kind: &str, value: &str) -> Vec<String> {
    [target(kind, value), vec!["--target-exclusive".to_owned()]].concat()
}

#[test]
fn a_server_pauses_promotes_or_stops_at_its_target() {
    let world = World::new();
    world.backup();
    let first = world.mark();
    let second = world.mark();
    world.archive_all();
    let name = format!("--target={}", first.name);

    let paused = world.restored(&["--type=name", &name]);
    paused.start();
    wait_for(&paused, "select pg_is_wal_replay_paused()", "t");
    assert_eq!(last_mark(&paused), 1);
    assert!(paused.sql_err("postgres", "insert into mark values (9)").contains("read-only"));
    paused.sql("postgres", "select pg_wal_replay_resume()");
    paused.wait_promoted();
    assert_eq!((last_mark(&paused), paused.data_dir().join("recovery.signal").exists()), (1, false));

    let stopped = world.restored(&["--type=name", &name, "--target-action=shutdown"]);
    // It may have stopped before it was seen to be ready.
    drop(stopped.try_start());
    wait_ended(&stopped);
    assert_eq!(control(&stopped, "Database cluster state"), "shut down in recovery");
    assert!(stopped.data_dir().join("recovery.signal").exists());

    // Another end than the one before, in the same directory: what the first restore wrote is gone.
    let later = format!("--target={}", second.xid);
    world.restore_to(&stopped, &["--delta", "--type=xid", &later, "--target-action=promote"]);
    stopped.start();
    stopped.wait_promoted();
    assert_eq!(last_mark(&stopped), 2);
    stopped.assert_clean();
}

#[test]
fn the_backup_is_the_one_asked_for_or_the_newest_that_can_reach_the_target() {
    let world = World::new();
    let before = world.mark();
    let one = world.backup();
    let between = world.mark();
    let two = world.backup();
    let last = world.mark();
    world.archive_all();
    let used = |options: &[&str]| {
        let target = Cluster::builder(world.cluster.major()).empty();
        let log = world.restore_to(&target, options);
        let line = log.lines().find_map(|line| line.split("restore backup set ").nth(1));
        let line = line.unwrap_or_else(|| panic!("the log names no backup: {log}"));
        let (label, from) =
            line.split_once(", recovery will start at 20").unwrap_or_else(|| panic!("{line}"));
        assert_eq!(from.len(), "26-11-22 13:27:29".len());
        let label = label.to_owned();
        (target, label)
    };
    let time = |mark: &crate::world::Mark| format!("--target={}", mark.after);
    let lsn = |mark: &crate::world::Mark| format!("--target={}", mark.commit_lsn);
    for (options, wanted) in [
        (vec![], &two),
        (vec!["--set=latest".to_owned()], &two),
        (vec!["--type=time".to_owned(), time(&last)], &two),
        (vec!["--type=time".to_owned(), time(&between)], &one),
        (vec!["--type=lsn".to_owned(), lsn(&between)], &one),
        (vec![format!("--set={one}")], &one),
        (vec!["--type=xid".to_owned(), format!("--target={}", last.xid)], &two),
    ] {
        let words: Vec<&str> = options.iter().map(String::as_str).collect();
        assert_eq!(used(&words).1, *wanted, "{options:?}");
    }

    // The end of the log can be reached from the old one as well.
    let (copy, _) = used(&[&format!("--set={one}")]);
    copy.start();
    copy.wait_promoted();
    assert_eq!(last_mark(&copy), last.id);
    let (copy, _) = used(&["--type=time", &time(&between), "--target-action=promote"]);
    copy.start();
    copy.wait_promoted();
    assert_eq!(last_mark(&copy), between.id);

    let nowhere = Cluster::builder(world.cluster.major()).empty();
    for (options, why) in [
        (vec!["--type=time".to_owned(), time(&before)], "was not complete before the target time"),
        (vec!["--type=lsn".to_owned(), lsn(&before)], "is consistent from"),
        (vec![format!("--set={two}"), "--type=time".to_owned(), time(&between)], "cannot be used"),
        (vec!["--set=20010101-000000F".to_owned()], "there is no backup set 20010101-000000F"),
    ] {
        let words: Vec<&str> = options.iter().map(String::as_str).collect();
        let failed = world.pgbr.fails(75, crate::world::restore_args(&nowhere, &words));
        assert!(format!("{}{}", failed.stdout, failed.stderr).contains(why), "{options:?}: {failed:#?}");
    }
    let left = fs::read_dir(nowhere.data_dir()).expect("the directory is there").count();
    assert_eq!(left, 0, "a refused restore has written something");
}

#[test]
fn a_target_that_never_comes_stops_the_server() {
    let world = World::new();
    world.backup();
    let mark = world.mark();
    world.archive_all();
    let copy = world.restored(&["--type=name", "--target=never", "--target-action=promote"]);
    let log = match copy.try_start() {
        Err(log) => log,
        Ok(()) => {
            wait_ended(&copy);
            copy.log()
        }
    };
    assert!(log.contains("recovery ended before configured recovery target was reached"), "{log}");
    // The same directory still recovers to where it should.
    world.restore_to(&copy, &["--delta"]);
    copy.start();
    copy.wait_promoted();
    assert_eq!(last_mark(&copy), mark.id);
}

#[test]
fn a_standby_follows_the_archive_until_it_is_promoted() {
    let world = World::new();
    world.backup();
    world.mark();
    world.archive_all();
    let standby = world.restored(&["--type=standby"]);
    assert!(standby.data_dir().join("standby.signal").exists());
    assert!(!standby.data_dir().join("recovery.signal").exists());
    standby.start();
    wait_for(&standby, "select max(id) from mark", "1");
    for wanted in ["2", "3"] {
        world.mark();
        world.archive_all();
        wait_for(&standby, "select max(id) from mark", wanted);
    }
    assert_eq!(standby.sql("postgres", "select pg_is_in_recovery()"), "t");
    standby.promote();
    set_mark(&standby);
    assert_eq!((last_mark(&standby), last_mark(&world.cluster)), (4, 3));
    standby.assert_clean();

    // With a connection it follows what was never archived, too.
    let conninfo = format!(
        "--recovery-option=primary-conninfo=host={} port={} user=postgres",
        world.cluster.socket_dir().display(),
        world.cluster.port()
    );
    let standby = world.restored(&["--type=standby", &conninfo]);
    standby.start();
    wait_for(&standby, "select count(*) from pg_stat_wal_receiver where status = 'streaming'", "1");
    world.mark();
    world.cluster.wait_replayed(&standby);
    assert_eq!(last_mark(&standby), 4);
}

#[test]
fn settings_of_the_backup_can_be_kept() {
    let cluster = archiving(newest()).start();
    let world = World::around(cluster, |_| {});
    let command = world.pgbr.restore_command().replace('\'', "''");
    world.cluster.sql("postgres", &format!("alter system set restore_command = '{command}'"));
    world.cluster.sql("postgres", "alter system set recovery_target_name = 'mark-1'");
    world.cluster.sql("postgres", "alter system set recovery_target_action = 'promote'");
    world.backup();
    world.mark();
    world.mark();
    world.archive_all();
    let auto_conf = |cluster: &Cluster| {
        fs::read_to_string(cluster.data_dir().join("postgresql.auto.conf")).expect("it can be read")
    };

    // preserve: not a byte is changed, and what starts the recovery is up to the operator.
    let kept = world.restored(&["--type=preserve"]);
    assert_eq!(auto_conf(&kept), auto_conf(&world.cluster));
    for signal in ["recovery.signal", "standby.signal"] {
        assert!(!kept.data_dir().join(signal).exists());
    }
    // What somebody has set in the directory since then stays, too.
    let path = kept.data_dir().join("postgresql.auto.conf");
    let changed = format!("{}# changed since\n", auto_conf(&kept));
    let signal = kept.data_dir().join("standby.signal");
    for how in ["--delta", "--force"] {
        fs::write(&path, &changed).expect("it can be written");
        fs::write(&signal, "").expect("it can be written");
        world.restore_to(&kept, &["--type=preserve", how]);
        assert_eq!(auto_conf(&kept), changed, "{how}");
        assert!(signal.exists(), "a standby that is mended stays one: {how}");
    }
    world.restore_to(&kept, &["--type=none", "--delta"]);
    assert!(!auto_conf(&kept).contains("changed since") && !signal.exists());
    fs::remove_file(kept.data_dir().join("recovery.signal")).expect("it was written");
    world.restore_to(&kept, &["--type=preserve", "--delta"]);
    fs::write(&path, auto_conf(&world.cluster)).expect("it can be written");
    fs::write(kept.data_dir().join("recovery.signal"), "").expect("it can be written");
    pgbr_testkit::own(&kept.data_dir().join("recovery.signal"));
    // The command is the source's: it would fetch into that one's directory, where a server runs.
    let log = kept.try_start().expect_err("a command for another directory must not pass");
    assert!(log.contains("does not match working directory"), "{log}");
    world.pgbr.set_cluster(1, &kept);
    kept.start();
    kept.wait_promoted();
    assert_eq!(last_mark(&kept), 1);

    // none: no settings are written, but targets of an earlier recovery do not decide this one.
    let none = world.restored(&["--type=none"]);
    let text = auto_conf(&none);
    assert!(!text.contains("Recovery settings generated"), "{text}");
    assert!(text.lines().all(|line| !line.starts_with("recovery_target")), "{text}");
    world.pgbr.set_cluster(1, &none);
    none.start();
    none.wait_promoted();
    assert_eq!(last_mark(&none), 2);

    // default: the same, with our own command.
    let default = world.opened(&[]);
    assert_eq!(last_mark(&default), 2);
    let product = if program_name() == "pgbackrest" { "pgBackRest" } else { "pgbr" };
    assert!(auto_conf(&default).contains(&format!("# Recovery settings generated by {product} restore on ")));
    default.stop(StopMode::Fast);
}

/// pgBackRest, put back later, would take them for the segments of the cluster that is restored here.
#[test]
fn acknowledgements_of_another_time_do_not_outlive_a_restore() {
    let world = World::new();
    world.backup();
    world.archive_all();
    let spool = world.pgbr.scratch().path().join("old-spool");
    let left = ["out/000000010000000000000009.ok", "in/000000010000000000000009"];
    for name in left {
        let path = spool.join("archive/demo").join(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("it can be made");
        fs::write(&path, "").expect("it can be written");
        path.ancestors().take_while(|above| above.starts_with(&spool)).for_each(pgbr_testkit::own);
    }
    world.restored(&["--type=immediate", &format!("--spool-path={}", spool.display())]);
    assert!(left.iter().all(|name| !spool.join("archive/demo").join(name).exists()));
}

#[test]
fn settings_of_the_recovery_are_as_given() {
    let world = World::new();
    world.backup();
    world.mark();
    world.archive_all();
    let mut target = Cluster::builder(world.cluster.major()).empty();
    target.set_override("archive_mode", "off");
    world.restore_to(
        &target,
        &[
            "--archive-mode=off",
            "--recovery-option=recovery-end-command=touch ended.by-option",
            "--recovery-option=archive_cleanup_command=true",
        ],
    );
    let text = fs::read_to_string(target.data_dir().join("postgresql.auto.conf")).expect("it can be read");
    for line in ["archive_mode = 'off'", "recovery_end_command = 'touch ended.by-option'"] {
        assert!(text.lines().any(|found| found == line), "{line} is missing: {text}");
    }
    target.start();
    target.wait_promoted();
    // What the restore has written, not what the test has put on the command line.
    let setting =
        "select setting from pg_file_settings where name = 'archive_mode' order by seqno desc limit 1";
    assert_eq!(target.sql("postgres", setting), "off");
    assert!(target.data_dir().join("ended.by-option").exists());
    assert_eq!(last_mark(&target), 1);
}
