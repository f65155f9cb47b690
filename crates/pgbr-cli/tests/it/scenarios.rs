//! What goes wrong with increments: changes that a look at sizes and times does not show, clocks that step, parents that do not fit.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pgbr_testkit::{
    Cluster, ClusterBuilder, Finished, PgInstall, StopMode, as_operator, program_name, run, words_of,
};
use rustix::process::Signal;

use crate::rig::{Frozen, LIMIT, MAJOR, assert_one_error, said};
use crate::state::{open_backup, state};
use crate::world::{World, restore_args};

/// A cluster, and the state that each of its backups was made in.
struct History {
    world: World,
    made: Vec<(String, String)>,
}

impl History {
    fn of(builder: ClusterBuilder) -> Self {
        Self { world: World::of(builder), made: Vec::new() }
    }

    fn cluster(&self) -> &Cluster {
        &self.world.cluster
    }

    fn sql(&self, query: &str) -> String {
        self.cluster().sql("postgres", query)
    }

    /// Makes a backup with these options; what it wrote.
    fn backup(&mut self, options: &[&str]) -> String {
        let finished = self.world.pgbr.run(["backup"].iter().chain(options));
        assert!(finished.success(), "{options:?}: {finished:#?}");
        self.learn();
        said(&finished)
    }

    /// Takes down the newest backup with the state that the cluster is in.
    fn learn(&mut self) {
        let label = self.world.newest_backup();
        let older = self.made.iter().all(|(known, _)| own_time(known) < own_time(&label));
        assert!(older, "{label} is not the newest");
        self.made.push((label, state(self.cluster())));
    }

    fn newest(&self) -> &str {
        &self.made.last().expect("there is a backup").0
    }

    /// What the newest builds on.
    fn prior(&self) -> Option<String> {
        let text = self.world.pgbr.ok(["info", "--output=json", "--log-level-console=off"]);
        let info: serde_json::Value = serde_json::from_str(&text).expect("info prints JSON");
        let backups = info[0]["backup"].as_array().expect("a list of backups");
        backups.last().and_then(|backup| Some(backup["prior"].as_str()?.to_owned()))
    }

    /// Each backup restores to its state, and is clean.
    #[track_caller]
    fn all_restore(&self) {
        for (label, then) in &self.made {
            self.restores(label, then, |_| ());
        }
    }

    #[track_caller]
    fn restores(&self, label: &str, then: &str, look: impl FnOnce(&Cluster)) {
        let target = Cluster::builder(self.cluster().major()).empty();
        let spaces = target.scratch().dir("ts");
        open_backup(
            &self.world.pgbr,
            &target,
            label,
            &[&format!("--tablespace-map-all={}", spaces.display())],
        );
        assert_eq!(state(&target), then, "{label} is not what it was");
        look(&target);
        target.assert_clean();
    }

    fn file(&self, table: &str) -> PathBuf {
        self.cluster().data_dir().join(self.sql(&format!("select pg_relation_filepath('{table}')")))
    }

    /// Does something to a table, after which its file looks as old as before; its size must be what it was.
    fn unseen(&self, table: &str, change: impl FnOnce(&Path)) {
        self.sql("checkpoint");
        let file = self.file(table);
        let before = file.metadata().expect("a table has a file");
        change(&file);
        self.sql("checkpoint");
        assert_eq!(self.file(table), file);
        let after = file.metadata().expect("a table has a file");
        assert_eq!(after.len(), before.len(), "{table} has another size now");
        set_mtime(&file, before.modified().expect("files have a time"));
    }
}

/// The time in a label that is its own, not that of the full before it.
fn own_time(label: &str) -> &str {
    label.rsplit('_').next().and_then(|own| own.get(..15)).expect("a label has a time")
}

fn set_mtime(file: &Path, to: SystemTime) {
    let file = File::options().write(true).open(file).expect("the file of a table can be opened");
    file.set_modified(to).expect("its time can be set");
}

#[test]
fn changes_that_size_and_time_do_not_show() {
    changes(Cluster::builder(MAJOR));
}

#[test]
fn changes_that_size_and_time_do_not_show_without_checksums() {
    changes(Cluster::builder(PgInstall::newest().major()).checksums(false));
}

fn changes(builder: ClusterBuilder) {
    let mut history = History::of(builder);
    let space = history.cluster().scratch().dir("space");
    history.sql(&format!("create tablespace there location '{}'", space.display()));
    history.sql(
        "create table one (id int, v text); insert into one values (1, 'before');
         create table tail (id int, v text); insert into tail select g, md5(g::text) from generate_series(1, 3000) g; vacuum tail;
         create table zeros (id int, v text); insert into zeros select g, md5(g::text) from generate_series(1, 3000) g; vacuum zeros;
         create table vm (id int primary key, v text); insert into vm select g, md5(g::text) from generate_series(1, 20000) g; vacuum vm;
         create table moved (id int primary key, v text); insert into moved select g, md5(g::text) from generate_series(1, 2000) g;
         create table was_logged (id serial primary key, v text); insert into was_logged (v) select md5(g::text) from generate_series(1, 2000) g;
         create unlogged table was_unlogged (id serial primary key, v text); insert into was_unlogged (v) select md5(g::text) from generate_series(1, 2000) g;
         create database x oid 50001; create database y; create database other",
    );
    for (db, rows) in [("x", 10), ("y", 1000), ("other", 500)] {
        history.cluster().sql(db, &format!("create table inside as select generate_series(1, {rows}) g"));
    }
    // Loaded and read by nobody yet: to read it changes hint bits and nothing else.
    history.sql("create table hints (id int, v text); insert into hints select g, md5(g::text) from generate_series(1, 9000) g; checkpoint");
    history.backup(&["--type=full"]);
    first_changes(&mut history);
    history.backup(&["--type=incr"]);
    assert_eq!(history.prior().as_deref(), Some(history.made[0].0.as_str()));
    second_changes(&mut history);
    history.backup(&["--type=incr"]);
    history.backup(&["--type=diff", "--delta"]);

    assert_eq!(history.made[0].1.matches("500|").count(), 1, "the states tell databases apart");
    history.all_restore();
    let (label, then) = history.made.last().expect("there are backups");
    history.restores(label, then, |target| {
        assert_eq!(target.sql("postgres", "select v from one"), "third");
        assert_eq!(target.sql("x", "select count(*) from inside"), "500");
        // What is unlogged is empty and can be used; what was is all there.
        assert_eq!(target.sql("postgres", "select count(*) from was_logged"), "0");
        target.sql("postgres", "insert into was_logged (v) values ('again')");
        assert_eq!(target.sql("postgres", "select count(*) from was_unlogged"), "2001");
        target.sql("postgres", "insert into was_unlogged (v) values ('again')");
    });
}

fn first_changes(history: &mut History) {
    history.unseen("one", |_| drop(history.sql("update one set v = 'second'")));
    // Cut off, and grown again to the size it had, with other rows.
    history.unseen("tail", |_| {
        history.sql(
            "delete from tail where id > 1000; vacuum tail; insert into tail select g, md5((-g)::text) from generate_series(1001, 3000) g",
        );
    });
    // Cut off, and grown again by pages that nothing was written to.
    history.unseen("zeros", |file| {
        let size = file.metadata().expect("it is there").len();
        history.sql("delete from zeros where id > 1000; vacuum zeros");
        assert!(file.metadata().expect("it is there").len() < size);
        history.cluster().stop(StopMode::Fast);
        let grown = File::options().write(true).open(file).and_then(|file| file.set_len(size));
        grown.expect("a file can be grown");
        history.cluster().start();
    });
    history.sql("delete from vm where id % 10 <> 0; select count(*) from hints");
    history.sql("drop database x");
    history.sql("create database x oid 50001 template other strategy file_copy");
    history.sql("alter table moved set tablespace there; alter table was_logged set unlogged; alter table was_unlogged set logged");
    history.sql("alter database y set tablespace there");
}

fn second_changes(history: &mut History) {
    // Twice within a second, with a checkpoint and a backup in between.
    history.unseen("one", |_| drop(history.sql("update one set v = 'third'")));
    history.sql("insert into was_unlogged (v) values ('more'); vacuum vm; update moved set v = 'there' where id % 7 = 0");
    history.sql("alter table moved set tablespace pg_default");
    history.sql("alter database y set tablespace pg_default");
}

#[test]
fn a_second_segment_comes_and_goes_between_backups() {
    let mut history = History::of(Cluster::builder(MAJOR));
    history.sql("create table wide (id int, v text); insert into wide values (0, 'first')");
    let second = |history: &History| PathBuf::from(format!("{}.1", history.file("wide").display()));
    let grow = |history: &mut History, rows: u32| {
        history.sql("checkpoint");
        let file = history.file("wide");
        // A gigabyte of pages that nothing was written to: the server goes on behind them.
        history.cluster().stop(StopMode::Fast);
        let grown = File::options().write(true).open(&file).and_then(|file| file.set_len(1 << 30));
        grown.expect("a file can be grown");
        history.cluster().start();
        history.sql(&format!(
            "insert into wide select g, md5(g::text) from generate_series(1, {rows}) g; checkpoint"
        ));
        assert!(second(history).metadata().expect("it was made").len() > 0);
    };
    grow(&mut history, 20_000);
    history.backup(&["--type=full"]);
    history.sql("delete from wide where id > 0; vacuum wide; checkpoint");
    assert_eq!(second(&history).metadata().map_or(0, |meta| meta.len()), 0);
    history.backup(&["--type=incr"]);
    grow(&mut history, 5_000);
    history.backup(&["--type=incr"]);
    history.all_restore();
}

#[test]
fn a_backup_after_a_change_of_timeline_builds_on_what_is_on_its_way() {
    let mut history = History::of(Cluster::builder(MAJOR));
    history.sql("create table t (id int primary key, v text); insert into t select g, md5(g::text) from generate_series(1, 5000) g");
    history.backup(&["--type=full"]);
    history.sql("update t set v = 'left behind' where id % 3 = 0");
    history.backup(&["--type=incr"]);
    history.sql("update t set v = 'left behind as well' where id % 5 = 0");
    history.backup(&["--type=full"]);

    // Back to the first: the two later ones are of a way that was not taken.
    history.cluster().stop(StopMode::Fast);
    let first = history.made[0].clone();
    open_backup(&history.world.pgbr, history.cluster(), &first.0, &["--delta"]);
    history.sql("update t set v = 'on the way' where id % 7 = 0");
    let log = history.backup(&["--type=incr"]);
    for (label, _) in &history.made[1..3] {
        assert!(log.contains(&format!("backup {label} cannot be built on")), "{log}");
    }
    assert!(log.contains("all files are read (option --delta)"), "{log}");
    assert_eq!(history.prior(), Some(first.0));

    // A standby takes over: its files were copied, and its timeline is a new one.
    let mut standby = history.cluster().standby();
    // It got the settings of the restore as well.
    standby.set_override("recovery_target", "");
    standby.set_override("archive_mode", "on");
    standby.start();
    history.cluster().wait_replayed(&standby);
    history.cluster().stop(StopMode::Fast);
    history.world.pgbr.set_cluster(1, &standby);
    standby.promote();
    let old = std::mem::replace(&mut history.world.cluster, standby);
    history.sql("update t set v = 'by the standby' where id % 11 = 0");
    let before = history.newest().to_owned();
    let log = history.backup(&["--type=incr"]);
    assert_eq!(history.prior(), Some(before), "{log}");
    history.all_restore();
    drop(old);
}

/// Runs a command while its clock is some seconds off, in a time zone.
fn shifted(world: &World, seconds: i64, zone: &str, args: &[&str]) -> Finished {
    let library =
        ["x86_64", "aarch64"].map(|arch| format!("/usr/lib/{arch}-linux-gnu/faketime/libfaketime.so.1"));
    let library = library.iter().find(|path| Path::new(path).exists());
    let library = library.expect("libfaketime is not installed: run scripts/setup-tests.sh");
    // Loaded into the program alone: what changes the user before it would make the library's semaphore as another one.
    let mut command = Command::new("env");
    as_operator(&mut command).arg(format!("LD_PRELOAD={library}")).args(words_of(&world.pgbr.command(args)));
    command.env("FAKETIME", format!("{seconds:+}")).env("TZ", zone);
    command.env("NO_FAKE_STAT", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1");
    run(&mut command, "", LIMIT)
}

#[test]
fn clocks_that_step_back_neither_hide_changes_nor_mix_up_labels() {
    let mut history = History::of(Cluster::builder(MAJOR));
    history.sql("create table t (id int primary key, v text); insert into t select g, md5(g::text) from generate_series(1, 5000) g; create table future as select * from t; checkpoint");
    // A file from the future, whatever it holds.
    let tomorrow = SystemTime::now() + Duration::from_secs(86_400);
    set_mtime(&history.file("future"), tomorrow);
    let ahead = shifted(&history.world, 3600, "UTC", &["backup", "--type=full"]);
    assert!(ahead.success(), "{ahead:#?}");
    history.learn();

    // An hour earlier, as this one sees it.
    history.unseen("t", |_| drop(history.sql("update t set v = md5(v) where id % 9 = 0 and id < 100")));
    history.sql("update future set v = md5(v) where id < 30; checkpoint");
    set_mtime(&history.file("future"), tomorrow);
    let log = history.backup(&["--type=incr"]);
    assert!(log.contains("clock") && log.contains("all files are read (option --delta)"), "{log}");
    history.backup(&["--type=incr"]);
    history.all_restore();
}

#[test]
fn labels_grow_through_the_end_of_summer_time() {
    let mut history = History::of(Cluster::builder(MAJOR));
    history.sql("create table t as select generate_series(1, 1000) g");
    // 2026-10-25 00:59:10 UTC, in Berlin 02:59:10 with fifty seconds of summer time to go; and a minute and more later, 02:00:25.
    let ending = 1_792_889_950;
    for (at, kind) in [(ending, "--type=full"), (ending + 75, "--type=incr"), (ending + 75, "--type=incr")] {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs();
        let finished = shifted(&history.world, at - now.cast_signed(), "Europe/Berlin", &["backup", kind]);
        assert!(finished.success(), "{finished:#?}");
        let prior = history.made.last().map(|(label, _)| label.clone());
        history.learn();
        assert_eq!(history.prior(), prior);
        history.sql("insert into t values (1)");
    }
    assert!(history.made[0].0.starts_with("20261025-0259"), "{}", history.made[0].0);
    history.all_restore();
}

#[test]
fn switched_checksums_force_a_full_and_unlogged_loads_are_found() {
    let mut history = History::of(Cluster::builder(MAJOR).checksums(false));
    history.sql("create table t as select g, md5(g::text) v from generate_series(1, 5000) g");
    history.backup(&["--type=full"]);
    // Nothing of this is in the WAL.
    history.cluster().stop(StopMode::Fast);
    for (name, value) in [("wal_level", "minimal"), ("max_wal_senders", "0"), ("archive_mode", "off")] {
        history.cluster().set_conf(name, value);
    }
    history.cluster().start();
    history.sql("begin; create table loaded (id int, v text); insert into loaded select g, md5(g::text) from generate_series(1, 5000) g; commit;
                 begin; truncate t; insert into t select g, 'again' from generate_series(1, 4000) g; commit");
    history.cluster().stop(StopMode::Fast);
    for (name, value) in [("wal_level", "replica"), ("archive_mode", "on")] {
        history.cluster().set_conf(name, value);
    }
    history.cluster().start();
    history.backup(&["--type=incr"]);
    assert_eq!(history.prior().as_deref(), Some(history.made[0].0.as_str()));

    history.cluster().stop(StopMode::Fast);
    history.cluster().data_program("pg_checksums", &["--enable"]);
    history.cluster().start();
    let log = history.backup(&["--type=incr"]);
    assert!(log.contains("page checksums were switched on or off since"), "{log}");
    assert!(log.contains("incr backup has been changed to full"), "{log}");
    assert_eq!(history.prior(), None);
    history.all_restore();
}

/// The key of the manifest of a backup.
fn manifest(label: &str) -> String {
    format!("pgbr/demo/backup/{label}/manifest")
}

#[test]
fn a_parent_that_is_damaged_or_gone_is_not_built_on() {
    let mut history = History::of(Cluster::builder(MAJOR));
    history.sql("create table t (id int primary key, v text); insert into t select g, md5(g::text) from generate_series(1, 5000) g");
    for kind in ["full", "incr", "incr"] {
        history.sql("update t set v = md5(v) where id % 10 = 3");
        history.backup(&[&format!("--type={kind}")]);
    }
    let labels: Vec<String> = history.made.iter().map(|(label, _)| label.clone()).collect();

    // By a later version of the program; damaged in its middle.
    for (at, bits, words, fits) in [(6, 3, "version", 1), (5000, 1, "damaged", 2)] {
        let newest = history.newest().to_owned();
        let harmed = manifest(&newest);
        let content = history.world.pgbr.objects().get(&harmed);
        let mut bytes = content.clone();
        bytes[at] ^= bits;
        history.world.pgbr.objects().put(&harmed, &bytes);
        let log = history.backup(&["--type=incr"]);
        assert!(log.contains(&format!("backup {newest} cannot be built on")) && log.contains(words), "{log}");
        history.world.pgbr.objects().put(&harmed, &content);
        assert_eq!(history.prior().as_deref(), Some(labels[fits].as_str()), "the one before");
    }

    // A hole in the chain: what builds on it is refused by name, what does not is as it was.
    let middle = manifest(&labels[1]);
    let content = history.world.pgbr.objects().get(&middle);
    history.world.pgbr.objects().remove(&middle);
    let target = Cluster::builder(MAJOR).empty();
    let into = format!("--pg1-path={}", target.data_dir().display());
    let finished = history.world.pgbr.run(["restore", &into, &format!("--set={}", labels[2])]);
    assert!(!finished.success() && said(&finished).contains(&labels[1]), "{finished:#?}");
    crate::rig::assert_untouched(&target);
    let log = history.backup(&["--type=incr"]);
    assert!(log.contains(&format!("backup {} cannot be built on", labels[2])), "{log}");
    history.world.pgbr.objects().put(&middle, &content);
    assert_eq!(history.prior().as_deref(), Some(labels[0].as_str()));
    history.all_restore();
}

#[test]
fn one_backup_at_a_time_on_one_host_and_on_two() {
    let mut history = History::of(Cluster::builder(MAJOR));
    history.sql("create table t as select g, md5(g::text) from generate_series(1, 1000) g");
    history.backup(&["--type=full"]);
    // One that is alive for as long as its WAL does not arrive.
    history.cluster().set_conf("archive_command", &format!("false {}", program_name()));
    history.cluster().reload();
    let begun = |history: &History| {
        history.sql("select count(*) from pg_stat_activity where application_name like '% [%]'") == "1"
    };
    let frozen =
        Frozen::at(history.world.pgbr.command(["backup", "--type=incr", "--archive-timeout=120"]), || {
            begun(&history)
        });
    frozen.send(Signal::CONT);

    let elsewhere = history.world.pgbr.scratch().dir("lock-of-another-host");
    let other_host = format!("--lock-path={}", elsewhere.display());
    for (args, words) in [
        (&["backup", "--type=incr"][..], "demo-backup"),
        (&["backup", "--type=incr", &other_host], "another process holds"),
    ] {
        let finished = history.world.pgbr.fails(50, args);
        assert_one_error(&finished, 50, &[words]);
    }
    history.world.pgbr.archive_from(history.cluster());
    let finished = frozen.thaw();
    assert!(finished.success(), "{finished:#?}");
    history.learn();
    history.backup(&["--type=incr", &other_host]);
    history.all_restore();
}

#[test]
fn expire_waits_for_a_backup_and_leaves_a_restore_what_it_reads() {
    let mut history = History::of(Cluster::builder(MAJOR));
    for (option, value) in [("repo1-pack-size", "1MiB"), ("compress-type", "bz2"), ("process-max", "1")] {
        history.world.pgbr.set("global", option, value);
    }
    history.cluster().pgbench_init(2);
    history.backup(&["--type=full"]);
    history.sql("update pgbench_tellers set tbalance = 1");
    history.backup(&["--type=incr"]);
    history.backup(&["--type=full"]);
    let [(full, _), (incr, then), (other, _)] = [0, 1, 2].map(|n: usize| history.made[n].clone());

    // A backup that builds on what is to go.
    history.cluster().set_conf("archive_command", &format!("false {}", program_name()));
    history.cluster().reload();
    let backup = history.world.pgbr.command(["backup", "--type=incr", "--archive-timeout=120"]);
    let sessions = "select count(*) from pg_stat_activity where application_name like '% [%]'";
    let frozen = Frozen::at(backup, || history.sql(sessions) == "1");
    frozen.send(Signal::CONT);
    let set = format!("--set={other}");
    let elsewhere = history.world.pgbr.scratch().dir("lock-of-another-host");
    let other_host = format!("--lock-path={}", elsewhere.display());
    for (args, words) in
        [(&["expire", &set][..], "demo-backup"), (&["expire", &set, &other_host], "another process holds")]
    {
        assert_one_error(&history.world.pgbr.fails(50, args), 50, &[words]);
    }
    history.world.pgbr.archive_from(history.cluster());
    let finished = frozen.thaw();
    assert!(finished.success(), "{finished:#?}");
    history.learn();

    // A restore that reads what goes: it comes to its end, and only then does anything go.
    let target = Cluster::builder(MAJOR).empty();
    let options = [&format!("--set={incr}"), "--type=immediate", "--target-action=promote"];
    let begun = target.data_dir().join("base/1");
    let packs = || history.world.pgbr.objects().list(&format!("pgbr/demo/backup/{full}/pack")).len();
    let frozen = Frozen::at(history.world.pgbr.command(restore_args(&target, &options)), || begun.exists());
    let named = history.world.pgbr.fails(75, ["expire", &format!("--set={full}")]);
    assert_one_error(&named, 75, &["used by a running command"]);
    history.world.pgbr.ok(["expire", "--repo1-retention-full=1"]);
    assert!(packs() > 0, "what is being read is still there");
    let finished = frozen.thaw();
    assert!(finished.success(), "{finished:#?}");
    target.start();
    target.wait_promoted();
    assert_eq!(state(&target), then);
    target.assert_clean();
    history.world.pgbr.ok(["expire", "--repo1-retention-full=1"]);
    assert_eq!(packs(), 0, "what nobody reads any more is gone");
    history.made.drain(..2);
    history.all_restore();
}
