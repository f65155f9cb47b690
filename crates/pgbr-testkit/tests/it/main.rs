//! The testkit against every major version that the tests are to run with.

mod proxy;
mod stores;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::Duration;

use pgbr_testkit::{Cluster, PgInstall, Pgbr, Scratch, StopMode, as_operator, run};

#[test]
fn a_cluster_starts_answers_and_goes() {
    for install in PgInstall::all() {
        let cluster = Cluster::builder(install.major()).wal_segsize(1).conf("work_mem", "5MB").start();
        let version: u32 = cluster.sql("postgres", "show server_version_num").parse().expect("a number");
        assert_eq!(version / 10_000, install.major());
        assert_eq!(
            cluster.sql("postgres", "show wal_segment_size; show work_mem; show data_checksums"),
            "1MB\n5MB\non"
        );
        assert!(cluster.sql_err("postgres", "select 1/0").contains("division by zero"));
        assert!(cluster.data_program("pg_controldata", &[]).contains("in production"));

        cluster.stop(StopMode::Fast);
        assert!(!cluster.is_running());
        assert!(cluster.try_sql("postgres", "select 1").is_err());
        let root = cluster.scratch().path().to_owned();
        cluster.start();
        drop(cluster);
        assert!(!root.exists());
    }
}

/// They are copies of what `initdb` made once.
#[test]
fn clusters_of_one_kind_are_told_apart_by_their_identifiers_and_are_sound() {
    for install in PgInstall::all() {
        let made = [(); 3].map(|()| Cluster::builder(install.major()).init());
        let about = made.each_ref().map(|cluster| cluster.data_program("pg_controldata", &[]));
        let parts = about.each_ref().map(|text| {
            let (ours, others) =
                text.lines().partition::<Vec<_>, _>(|line| line.contains("system identifier"));
            assert_eq!(ours.len(), 1, "{text}");
            (ours[0], others)
        });
        assert!(parts[0].1 == parts[1].1 && parts[1].1 == parts[2].1, "{about:#?}");
        let identifiers = BTreeSet::from(parts.each_ref().map(|(identifier, _)| *identifier));
        assert_eq!(identifiers.len(), 3, "{about:#?}");
        // A server refuses a control file whose checksum is wrong, and WAL of another cluster.
        made[0].start();
        made[0].assert_clean();
        let segment = |cluster: &Cluster| cluster.data_dir().join("pg_wal/000000010000000000000001");
        fs::copy(segment(&made[1]), segment(&made[2])).expect("both are there");
        let log = made[2].try_start().expect_err("the WAL is of another cluster");
        assert!(log.contains("WAL file is from different database system"), "{log}");
    }
}

#[test]
fn checksums_can_be_left_out_and_odd_values_survive_the_config_file() {
    let major = PgInstall::newest().major();
    let odd = r"it's a \ 'test'";
    let cluster = Cluster::builder(major).checksums(false).conf("cluster_name", odd).tcp().start();
    assert_eq!(cluster.sql("postgres", "show data_checksums; show cluster_name"), format!("off\n{odd}"));
    let mut psql = cluster.program("psql");
    psql.args([
        "-XAt",
        "-h",
        "127.0.0.1",
        "-U",
        "postgres",
        "-p",
        &cluster.port().to_string(),
        "-c",
        "select 42",
    ]);
    assert_eq!(run(&mut psql, "", Duration::from_secs(30)).stdout, "42\n");
}

#[test]
fn a_killed_server_recovers() {
    for install in PgInstall::all() {
        let cluster = Cluster::builder(install.major()).start();
        cluster.sql("postgres", "create table t as select generate_series(1, 1000) id");
        cluster.kill9();
        assert!(!cluster.is_running());
        cluster.start();
        assert_eq!(cluster.sql("postgres", "select count(*) from t"), "1000");
        cluster.stop(StopMode::Immediate);
    }
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let cluster = Cluster::builder(PgInstall::newest().major()).conf("shared_buffers", "1").init();
    let log = cluster.try_start().expect_err("the setting is invalid");
    assert!(log.contains("outside the valid range"), "{log}");
}

#[test]
fn a_digest_tells_contents_apart_and_nothing_else() {
    let cluster = Cluster::builder(PgInstall::newest().major()).start();
    cluster.sql(
        "postgres",
        "create table \"odd 'name'\" (id int primary key, v text); create unlogged table u (id int)",
    );
    cluster.sql("postgres", "insert into \"odd 'name'\" values (1, 'a'), (2, null)");
    let first = cluster.table_digest("postgres");
    cluster.sql("postgres", "update \"odd 'name'\" set id = id; insert into u values (1)");
    assert_eq!(cluster.table_digest("postgres"), first);
    cluster.sql("postgres", "update \"odd 'name'\" set v = 'b' where id = 2");
    let second = cluster.table_digest("postgres");
    assert_ne!(second, first);
    cluster.sql("postgres", "select lo_from_bytea(0, 'large')");
    assert_ne!(cluster.table_digest("postgres"), second);
}

/// WAL goes through the archiver, a standby follows by stream and is promoted, and both are sound.
#[test]
fn archive_standby_and_promotion() {
    for install in PgInstall::all() {
        let archive = Scratch::new();
        let dir = archive.dir("wal");
        let cluster = Cluster::builder(install.major())
            .conf("archive_mode", "on")
            .conf("archive_command", &format!("cp %p {}/%f", dir.display()))
            .start();
        cluster.pgbench_init(1);
        let mut bench = cluster.pgbench_start(2, 60);
        let standby = cluster.standby();
        standby.start();
        assert!(bench.is_running());
        bench.stop();
        let segment = cluster.switch_wal();
        cluster.wait_archived(&segment);
        assert_eq!(fs::metadata(dir.join(&segment)).expect("was archived").len(), 16 << 20);

        cluster.wait_replayed(&standby);
        let digest = cluster.table_digest("postgres");
        assert_eq!(standby.table_digest("postgres"), digest);
        standby.promote();
        standby.wait_promoted();
        assert_eq!(standby.table_digest("postgres"), digest);
        cluster.assert_clean();
        standby.assert_clean();
    }
}

/// The oracle has to see the damage that it is there for: rows changed behind an index, and a changed page.
#[test]
fn a_damaged_cluster_is_not_clean() {
    let install = PgInstall::newest();
    let cluster = Cluster::builder(install.major()).start();
    cluster.sql(
        "postgres",
        "create table t as select generate_series(1, 1000) id; create index on t (id); checkpoint",
    );
    let path = cluster.data_dir().join(cluster.sql("postgres", "select pg_relation_filepath('t')"));
    cluster.assert_clean();
    let mut bytes = fs::read(&path).expect("the table's file");
    bytes[8191] ^= 1;
    fs::write(&path, bytes).expect("the file can be changed");
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        cluster.data_program("pg_checksums", &["--check"])
    }));
    assert!(outcome.is_err(), "pg_checksums was happy with a changed page");
    cluster.start();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| cluster.assert_clean()));
    assert!(outcome.is_err(), "a changed page was not seen");
}

/// A backup of pg_basebackup stands in for a restore: its settings must not lead the server to the other one's socket.
#[test]
fn an_empty_cluster_runs_what_was_put_into_it() {
    let major = PgInstall::newest().major();
    let cluster = Cluster::builder(major).conf("archive_mode", "on").conf("archive_command", "false").start();
    cluster.sql("postgres", "create table t as select 7 as id");
    let target = Cluster::builder(major).empty();
    let mut backup = cluster.client("pg_basebackup");
    backup.args(["-X", "fetch", "-c", "fast", "-D"]).arg(target.data_dir());
    let finished = run(&mut backup, "", Duration::from_secs(120));
    assert!(finished.success(), "{finished:#?}");
    target.start();
    assert_eq!(target.sql("postgres", "select id from t; show archive_mode"), "7\noff");
    assert_eq!(cluster.sql("postgres", "show archive_mode"), "on");
}

/// A shell script that prints what it was given stands in for the program.
#[test]
fn the_program_runs_as_the_operator_with_its_config() {
    let cluster = Cluster::builder(PgInstall::newest().major()).init();
    let dir = Scratch::new();
    let binary =
        dir.file("pgbr", "#!/bin/sh\nid -u\nfor a; do echo \"$a\"; done\n[ \"$3\" != bad ] || exit 37\n");
    let status = Command::new("chmod").arg("0700").arg(&binary).status().expect("chmod runs");
    assert!(status.success());
    let pgbr = Pgbr::new(&binary, "demo", &cluster);
    pgbr.set("global:backup", "compress-type", "zst");
    pgbr.add("demo", "recovery-option", "a=1");
    pgbr.add("demo", "recovery-option", "b=2");
    pgbr.set("global", "start-fast", "n");
    pgbr.unset("global", "log-level-console");

    let owner = fs::metadata(pgbr.repo_dir()).expect("the repository's directory").uid();
    let config = pgbr.config_path();
    assert_eq!(
        pgbr.ok(["info", "--output=json"]),
        format!("{owner}\n--config={}\n--stanza=demo\ninfo\n--output=json\n", config.display())
    );
    assert_eq!(pgbr.fails(37, ["bad"]).code, Some(37));
    let text = fs::read_to_string(&config).expect("the config file");
    let socket = cluster.socket_dir().display();
    let data = cluster.data_dir().display();
    assert!(text.contains(&format!(
        "[demo]\npg1-path={data}\npg1-port=5432\npg1-socket-path={socket}\npg1-user=postgres\nrecovery-option=a=1\nrecovery-option=b=2\n"
    )));
    assert!(text.contains("start-fast=n\n") && !text.contains("log-level-console"), "{text}");
    let readable = as_operator(&mut Command::new("cat")).arg(&config).output().expect("cat runs");
    assert_eq!(String::from_utf8_lossy(&readable.stdout), text);
}

#[test]
#[should_panic(expected = "install it with: scripts/install-postgres.sh 9")]
fn a_missing_major_names_the_command_that_installs_it() {
    PgInstall::find(9);
}
