//! Drills: what is sound is proven, what is not is refuted with words, and nothing of either is left over.

use std::fs;
use std::path::{Path, PathBuf};

use pgbr_testkit::{Finished, StopMode, wait_until};
use rustix::process::Signal;
use serde_json::Value;

use crate::rig::{Frozen, LIMIT, Rig, assert_one_error, said};
use crate::world::{World, set_mark};

/// The directory that drills are made in.
fn place(rig: &Rig) -> PathBuf {
    let path = rig.pgbr.scratch().path().join("drill");
    if path.exists() { path } else { rig.pgbr.scratch().dir("drill") }
}

/// The words of a drill.
fn words(rig: &Rig, options: &[&str]) -> Vec<String> {
    let path = format!("--drill-path={}", place(rig).display());
    ["drill".to_owned(), path].into_iter().chain(options.iter().map(|option| (*option).to_owned())).collect()
}

/// A drill that has left nothing behind.
#[track_caller]
fn drill(rig: &Rig, options: &[&str]) -> Finished {
    let finished = rig.pgbr.run(words(rig, options));
    assert_gone(&place(rig), &finished);
    finished
}

/// What a drill tells as JSON.
fn json(finished: &Finished) -> Value {
    let line = finished.stdout.lines().find(|line| line.starts_with('{'));
    serde_json::from_str(line.unwrap_or_else(|| panic!("no JSON: {finished:#?}"))).expect("it is JSON")
}

/// Result and words of the first check of a name.
fn check<'a>(json: &'a Value, name: &str) -> (&'a str, &'a str) {
    let checks = json["checks"].as_array().expect("checks are listed");
    let check = checks.iter().find(|check| check["name"] == name);
    let check = check.unwrap_or_else(|| panic!("no check {name}: {json}"));
    (check["result"].as_str().expect("it has a result"), check["detail"].as_str().unwrap_or_default())
}

/// Neither a directory nor a process of a drill is left.
#[track_caller]
fn assert_gone(place: &Path, finished: &Finished) {
    let left: Vec<_> = fs::read_dir(place).expect("it is there").flatten().collect();
    assert!(left.is_empty(), "{left:?}: {finished:#?}");
    assert_eq!(servers_in(place), [""; 0]);
}

/// The command lines of processes that work below a directory.
fn servers_in(place: &Path) -> Vec<String> {
    let words = place.display().to_string() + "/drill-";
    let all = fs::read_dir("/proc").expect("this is Linux").flatten();
    let lines = all.filter_map(|entry| {
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " "))
    });
    lines.filter(|line| line.contains(&words)).collect()
}

#[test]
fn a_sound_backup_is_proven_and_nothing_is_left() {
    let rig = Rig::sealed();
    rig.cluster.sql("postgres", "create table mark (id int primary key); create database other");
    rig.cluster.sql(
        "other",
        "create table t as select x, x::text y from generate_series(1, 5000) x; create index on t (y)",
    );
    set_mark(&rig.cluster);
    let label = rig.backup();
    set_mark(&rig.cluster);
    rig.archived_segment();
    assert!(!rig.pgbr.ok(["info"]).contains("drill"));

    // Neither the cluster nor its paths are needed.
    for option in ["path", "socket-path", "port", "user"] {
        rig.pgbr.unset("demo", &format!("pg1-{option}"));
    }
    let before = rig.snapshot();
    let finished = drill(
        &rig,
        &[
            "--output=json",
            "--drill-sql=select count(*) = 2 from mark",
            "--drill-option=work_mem=8MB",
            "--drill-sql=select current_setting('work_mem') = '8MB' and not pg_is_in_recovery()",
        ],
    );
    assert!(finished.success(), "{finished:#?}");
    let json = json(&finished);
    assert_eq!((&json["ok"], &json["label"]), (&true.into(), &label.as_str().into()), "{json}");
    for name in ["wal", "amcheck", "sql", "checksums"] {
        assert_eq!(check(&json, name).0, "passed", "{json}");
    }
    assert_eq!(json["checks"].as_array().map(Vec::len), Some(5), "{json}");
    assert!(json["server-version"].as_str().is_some_and(|v| v.starts_with("15.")), "{json}");
    assert!(json["bytes"].as_u64() > Some(1 << 20) && json["recovery-ms"].is_u64(), "{json}");
    let text = said(&finished);
    assert!(text.contains(&format!("backup {label} is proven")), "{text}");

    // Its record is all that came, and no WAL did.
    let mut after = rig.snapshot();
    let record = rig.key(&format!("drill/{label}.0000000000000001"));
    assert!(after.remove(&record).is_some(), "{after:?}");
    assert_eq!(after, before);
    let info = rig.info();
    let shown = info.pointer("/0/backup/0/drill").expect("info has it");
    assert_eq!((&shown["ok"], &shown["restore-ms"]), (&true.into(), &json["restore-ms"]), "{shown}");
    let text = rig.pgbr.ok(["info"]);
    assert!(text.contains("            drill: proven 20") && text.contains(", recovered in "), "{text}");
    // The last of all stands at the stanza, with what it took.
    let last = info.pointer("/0/drill").expect("info has it");
    assert_eq!(
        (&last["label"], &last["repo-key"], &last["ok"]),
        (&label.as_str().into(), &1.into(), &true.into())
    );
    assert_eq!((&last["restore-ms"], &last["timestamp"]), (&json["restore-ms"], &shown["timestamp"]));
    assert!(last["age"].as_u64().is_some_and(|age| age < 3600), "{last}");
    assert!(text.contains(&format!("\n    last drill: {label}, proven 20")), "{text}");
    assert_eq!(rig.cluster.sql("postgres", "select count(*) from mark"), "2", "the cluster is not touched");

    // The newest five are kept, and they go with their backup.
    for _ in 0..5 {
        assert!(drill(&rig, &["--type=immediate"]).success());
    }
    let numbers: Vec<String> = (2..=6).map(|n| format!("{label}.{n:016x}")).collect();
    assert_eq!(rig.names("drill"), numbers);
    rig.pgbr.set_cluster(1, &rig.cluster);
    rig.pgbr.ok(["check", "--drill-age-max=1h"]);
    rig.backup();
    rig.pgbr.ok(["expire", &format!("--set={label}")]);
    assert_eq!(rig.names("drill"), [""; 0]);
}

#[test]
fn statements_that_fail_or_give_false_refute_a_backup() {
    let rig = Rig::plain();
    let label = rig.backup();
    let file = rig.pgbr.scratch().file("checks.sql", "-- two;\nselect true;\nselect 1 = 2 as wrong;\n");
    let finished = drill(
        &rig,
        &[
            "--output=json",
            "--drill-sql=select * from missing",
            &format!("--drill-sql-file={}", file.display()),
        ],
    );
    assert_eq!(finished.code, Some(81), "{finished:#?}");
    assert_one_error(
        &finished,
        81,
        &[
            &label,
            "2 of 6 check(s) failed",
            "\"missing\" does not exist",
            "select 1 = 2 as wrong",
            "begins with false",
            "HINT",
        ],
    );
    let json = json(&finished);
    assert_eq!((&json["ok"], &json["failure"]), (&false.into(), &Value::Null), "{json}");
    let results: Vec<&str> =
        json["checks"].as_array().unwrap().iter().filter_map(|check| check["result"].as_str()).collect();
    assert_eq!(results, ["passed", "passed", "failed", "passed", "failed", "passed"], "{json}");
    assert_eq!(rig.info().pointer("/0/backup/0/drill/ok"), Some(&false.into()));
    assert!(rig.pgbr.ok(["info"]).contains("drill: FAILED 20"));
    assert!(rig.pgbr.ok(["info"]).contains("failed checks: sql, sql"));
}

#[test]
fn a_backup_that_cannot_recover_is_refuted() {
    let rig = Rig::plain();
    rig.cluster.sql("postgres", "create table t as select generate_series(1, 10) x");
    // One whose WAL is of several segments.
    rig.slow_down();
    let frozen = rig.frozen_backup();
    rig.archived_segment();
    assert!(frozen.thaw().success());
    let label = rig.labels().pop().expect("it is listed");
    let stop = rig.info().pointer("/0/backup/0/archive/stop").and_then(Value::as_str).map(str::to_owned);
    rig.archived_segment();
    // The goal is not there.
    let finished = drill(&rig, &["--type=name", "--target=nowhere"]);
    assert_one_error(
        &finished,
        81,
        &[&label, "restore point nowhere", "recovery ended before configured recovery target"],
    );
    // The WAL that makes it consistent is not there.
    rig.objects().remove(&rig.wal_key(&stop.expect("info tells it")));
    let finished = drill(&rig, &["--output=json"]);
    assert_one_error(&finished, 81, &[&label, "WAL ends before end of online backup"]);
    let json = json(&finished);
    assert_eq!((&json["checks"], &json["recovery-ms"]), (&Value::Array(Vec::new()), &Value::Null), "{json}");
    assert_eq!(rig.info().pointer("/0/backup/0/drill/ok"), Some(&false.into()));
    // A data object is not there: that is found before a server is started, and kept as well.
    let pack = rig.names("backup").into_iter().find(|name| name.contains("/pack/")).expect("there is a pack");
    let key = rig.key(&format!("backup/{pack}"));
    let pack = rig.objects().find(&key).expect("it is there");
    let mut broken = pack.clone();
    let middle = broken.len() / 2;
    broken[middle] ^= 1;
    rig.objects().put(&key, &broken);
    let finished = drill(&rig, &[]);
    assert!(!finished.success(), "{finished:#?}");
    let text = rig.pgbr.ok(["info"]);
    assert!(text.contains("drill: FAILED") && text.contains("the restore failed: "), "{text}");
}

#[test]
fn damage_that_a_restore_does_not_see_is_found() {
    let rig = Rig::plain();
    rig.cluster.sql(
        "postgres",
        "create table t (id int, word text); create index t_word on t (word);
         insert into t select x, 'w' || x from generate_series(1, 3000) x;
         create table p as select generate_series(1, 5000) x; checkpoint",
    );
    let index =
        rig.cluster.data_dir().join(rig.cluster.sql("postgres", "select pg_relation_filepath('t_word')"));
    // An index that lacks what came later.
    rig.cluster.stop(StopMode::Fast);
    let old = fs::read(&index).expect("the file of a stopped server");
    rig.cluster.start();
    rig.cluster.sql("postgres", "update t set word = 'changed' where id = 7; checkpoint");
    rig.cluster.stop(StopMode::Fast);
    assert_eq!(fs::metadata(&index).expect("it is there").len(), old.len() as u64);
    fs::write(&index, &old).expect("the file of a stopped server");
    rig.cluster.start();
    let label = rig.backup();
    let finished = drill(&rig, &["--output=json"]);
    assert_one_error(&finished, 81, &[&label, "amcheck", "t_word", "lacks matching index tuple"]);
    let found = json(&finished);
    assert_eq!((check(&found, "amcheck").0, check(&found, "checksums").0), ("failed", "passed"), "{found}");

    // A page whose checksum is wrong.
    let path = rig.cluster.sql("postgres", "reindex table t; select pg_relation_filepath('p')");
    rig.cluster.stop(StopMode::Fast);
    let file = rig.cluster.data_dir().join(&path);
    let mut pages = fs::read(&file).expect("the file of a stopped server");
    pages[8192 + 4000] ^= 1;
    fs::write(&file, &pages).expect("the file of a stopped server");
    rig.cluster.start();
    rig.backup();
    let finished = drill(&rig, &["--output=json"]);
    assert_one_error(&finished, 81, &["checksums", path.rsplit('/').next().unwrap()]);
    assert_eq!(check(&json(&finished), "checksums").0, "failed", "{finished:#?}");
}

#[test]
fn a_drill_that_is_asked_to_end_leaves_no_server() {
    let rig = Rig::plain();
    let label = rig.backup();
    let options = words(&rig, &["--drill-sql=select pg_sleep(600)"]);
    let mut running = None;
    // Once the server has recovered: everything it has is there.
    let frozen = Frozen::at(rig.pgbr.command(options), || {
        running = servers_in(&place(&rig)).into_iter().find(|line| line.contains("postgres -D"));
        let log = fs::read_dir(place(&rig)).expect("it is there").flatten().next();
        let log = log.and_then(|dir| fs::read_to_string(dir.path().join("server.log")).ok());
        running.is_some() && log.is_some_and(|log| log.contains("ready to accept connections"))
    });
    assert_eq!(rig.names("pin").iter().filter(|name| !name.ends_with(".beat")).count(), 1, "its WAL is kept");
    frozen.send(Signal::TERM);
    let finished = frozen.thaw();
    assert_eq!(finished.code, Some(63), "{finished:#?}");
    assert_one_error(&finished, 63, &["stopped"]);
    wait_until(LIMIT, "the server to be gone", || servers_in(&place(&rig)).is_empty());
    assert_gone(&place(&rig), &finished);
    // It says nothing about the backup.
    assert_eq!(rig.names("drill"), [""; 0]);
    assert_eq!(rig.names("pin"), [""; 0]);
    assert!(!rig.pgbr.ok(["info"]).contains("drill"), "{label}");
}

#[test]
fn what_a_drill_needs_is_told_before_it_restores() {
    let rig = Rig::plain();
    rig.backup();
    let before = rig.snapshot();
    let fails = |code, options: &[&str], words: &[&str]| {
        assert_one_error(&drill(&rig, options), code, words);
        assert_eq!(rig.snapshot(), before);
    };
    for other in
        pgbr_testkit::PgInstall::all().iter().filter(|install| install.major() != rig.cluster.major())
    {
        let bin = format!("--pg-bin-path={}", other.bin_dir().display());
        let says = format!("(PostgreSQL) {}", other.major());
        fails(55, &[&bin], &["the backup is of PostgreSQL 15", &says, "HINT: install PostgreSQL 15"]);
    }
    fails(55, &["--pg-bin-path=/nowhere"], &["no program 'postgres' was found", "pg-bin-path"]);
    fails(32, &["--drill-option=port=5"], &["setting 'port' cannot be given to a drill"]);
    fails(32, &["--drill-user=stranger"], &["user 'stranger' cannot connect", "HINT: name a superuser"]);
    fails(32, &["--type=standby"], &["'standby' is not allowed"]);
    fails(75, &["--set=20010101-000000F"], &["20010101-000000F"]);
    let missing = rig.pgbr.run(["drill"]);
    assert_one_error(&missing, 37, &["drill-path"]);
    let nowhere = rig.pgbr.run(["drill", "--drill-path=/nowhere"]);
    assert_one_error(
        &nowhere,
        47,
        &["a drill cannot be made in '/nowhere/drill-", "HINT: is drill-path there"],
    );
    let deep = format!("--drill-path=/{}", "d".repeat(90));
    assert_one_error(&rig.pgbr.run(["drill", &deep]), 47, &["107 are allowed"]);
    if rustix::process::geteuid().is_root() {
        let mut command = std::process::Command::new(rig.pgbr.binary());
        let config = format!("--config={}", rig.pgbr.config_path().display());
        command
            .args([&config, "--stanza=demo", "--allow-root", "--log-level-file=off"])
            .args(words(&rig, &[]));
        let refused = pgbr_testkit::run(&mut command, "", LIMIT);
        assert_one_error(&refused, 31, &["does not run as root", "sudo -u postgres"]);
        assert_gone(&place(&rig), &refused);
    }
}

#[test]
fn every_version_is_drilled() {
    for install in pgbr_testkit::PgInstall::all() {
        let world = World::of(pgbr_testkit::Cluster::builder(install.major()));
        world.mark();
        world.backup();
        world.mark();
        world.archive_all();
        let path = world.pgbr.scratch().dir("drill");
        let finished = world.pgbr.run([
            "drill",
            "--output=json",
            &format!("--drill-path={}", path.display()),
            &format!("--pg-bin-path={}", install.bin_dir().display()),
            "--drill-sql=select count(*) = 2 from mark",
        ]);
        assert!(finished.success(), "{finished:#?}");
        let amcheck = if install.has("pg_amcheck") { "passed" } else { "skipped" };
        assert_eq!(check(&json(&finished), "amcheck").0, amcheck, "{finished:#?}");
        assert_gone(&path, &finished);
    }
}

#[test]
fn what_a_restored_cluster_is_set_to_leads_nowhere() {
    let rig = Rig::plain();
    let outside = rig.pgbr.scratch().dir("outside");
    // It has read its settings anew, and does so no more.
    rig.archived_segment();
    let touch = format!("touch {}/touched", outside.display());
    let marked = |name: &str| outside.join(name).display().to_string();
    for (name, value) in [
        ("data_directory", rig.cluster.data_dir().display().to_string().as_str()),
        ("external_pid_file", &marked("pid")),
        ("log_directory", &marked("log")),
        ("logging_collector", "on"),
        ("recovery_end_command", &touch),
        ("archive_cleanup_command", &touch),
        ("archive_command", &touch),
        ("hba_file", &marked("hba")),
        ("unix_socket_directories", &marked("")),
        ("listen_addresses", "*"),
        ("shared_preload_libraries", "no_such_library"),
        ("session_preload_libraries", "no_such_library"),
        ("synchronous_standby_names", "nobody"),
        ("primary_conninfo", "host=192.0.2.1"),
        ("default_transaction_read_only", "on"),
        ("max_connections", "7"),
    ] {
        // The running server does not read it again.
        rig.cluster.set_conf(name, value);
    }
    rig.backup();
    let wal = rig.snapshot();
    let sql = "--drill-sql=create table t (x int)";
    let finished = drill(&rig, &[sql]);
    assert!(finished.success(), "{finished:#?}");
    let left: Vec<_> = fs::read_dir(&outside).expect("it is there").flatten().collect();
    assert!(left.is_empty(), "{left:?}");
    let mut after = rig.snapshot();
    after.retain(|key, _| !key.contains("/drill/"));
    assert_eq!(after, wal, "nothing was archived");

    // A data directory without a config file, as Debian has it.
    fs::rename(rig.cluster.data_dir().join("postgresql.conf"), outside.join("postgresql.conf"))
        .expect("it is there");
    rig.backup();
    let finished = drill(&rig, &[sql]);
    assert!(finished.success(), "{finished:#?}");
}

#[test]
fn tablespaces_lie_in_the_directory_of_the_drill_or_nowhere() {
    let rig = Rig::plain();
    let [early, late] = ["early", "late"].map(|name| {
        let path = rig.pgbr.scratch().dir(name);
        rig.cluster.sql("postgres", &format!("create tablespace {name} location '{}'", path.display()));
        path
    });
    rig.cluster.sql(
        "postgres",
        "drop tablespace late; create table e tablespace early as select generate_series(1, 1000) x",
    );
    rig.backup();
    rig.cluster.sql("postgres", &format!("create tablespace late location '{}'", late.display()));
    rig.cluster.sql("postgres", "create table l tablespace late as select generate_series(1, 1000) x");
    rig.archived_segment();
    rig.cluster.stop(StopMode::Fast);
    let before = [&early, &late].map(|path| crate::rig::snapshot(path));
    assert!(before.iter().all(|files| !files.is_empty()));
    let same = || assert_eq!([&early, &late].map(|path| crate::rig::snapshot(path)), before);

    let finished = drill(&rig, &["--type=immediate", "--drill-sql=select count(*) = 1000 from e"]);
    assert!(finished.success(), "{finished:#?}");
    same();
    // Recovery would make the other one where it is.
    let finished = drill(&rig, &[]);
    assert_one_error(
        &finished,
        81,
        &[
            "the server ended before it had recovered",
            "FATAL",
            "pg_tblspc",
            "HINT: a tablespace that was created after the backup",
        ],
    );
    same();
    rig.cluster.start();
    assert_eq!(rig.cluster.sql("postgres", "select count(*) from l"), "1000");
}

#[test]
fn a_hole_in_the_archive_is_not_taken_for_its_end() {
    let rig = Rig::plain();
    rig.cluster.sql("postgres", "create table mark (id int primary key)");
    let label = rig.backup();
    let segments: Vec<String> = (0..3)
        .map(|_| {
            set_mark(&rig.cluster);
            rig.archived_segment()
        })
        .collect();
    let whole = drill(&rig, &["--output=json", "--drill-sql=select count(*) = 3 from mark"]);
    assert!(whole.success(), "{whole:#?}");
    let (found, said) = (json(&whole), said(&whole));
    assert!(found["last-commit"].is_string() && found["reached"].is_string(), "{found}");
    assert!(said.contains("the last transaction that was recovered was committed at 20"), "{said}");

    rig.objects().remove(&rig.wal_key(&segments[1]));
    let finished = drill(&rig, &["--output=json"]);
    let missing = format!("WAL segment {} is missing", segments[1]);
    assert_one_error(&finished, 81, &[&label, "1 of 3 check(s) failed: wal", &missing]);
    // Who does not go there does not miss it.
    assert!(drill(&rig, &["--type=immediate"]).success());
}

#[test]
fn databases_that_are_left_out_are_not_checked() {
    let rig = Rig::sealed();
    for name in ["other", "we\"\"ird.*"] {
        rig.cluster.sql("postgres", &format!("create database \"{name}\""));
    }
    rig.cluster.sql("other", "create table t as select generate_series(1, 100) x");
    rig.backup();
    let options = [
        "--output=json",
        "--db-include=other",
        "--drill-db=other",
        "--drill-sql=select count(*) = 100 from t",
        "--drill-keep",
    ];
    let finished = rig.pgbr.run(words(&rig, &options));
    assert!(finished.success(), "{finished:#?}");
    // Who wants to look into it finds it, without a server.
    let kept = fs::read_dir(place(&rig)).expect("it is there").flatten().next().expect("it was kept");
    assert!(kept.path().join("server.log").exists(), "{kept:?}");
    assert_eq!(servers_in(&place(&rig)), [""; 0]);
    let json = json(&finished);
    assert_eq!(json["left-out"], serde_json::json!(["we\"ird.*"]), "{json}");
    assert_eq!(check(&json, "amcheck").0, "passed", "{json}");
}

#[test]
fn what_takes_too_long_is_given_up() {
    let rig = Rig::plain();
    rig.backup();
    let stuck = drill(&rig, &["--drill-timeout=3s", "--recovery-option=restore_command=sleep 600"]);
    assert_one_error(&stuck, 81, &["recovery did not end within 3 s"]);
    let stuck = drill(&rig, &["--drill-timeout=10s", "--drill-sql=select pg_sleep(600)"]);
    assert_one_error(&stuck, 81, &["1 of 4 check(s) failed: sql", "did not run the statement within 10 s"]);
    assert!(stuck.elapsed < LIMIT, "{stuck:#?}");
}
