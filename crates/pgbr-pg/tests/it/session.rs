//! Questions to a server.

use std::time::Duration;

use pgbr_manifest::{Lsn, TimelineId};
use pgbr_pg::{
    ConnectOptions, Error, Password, ServerState, Session, read_control_file, read_pg_version, server_state,
};
use pgbr_pg::{WAL_HEADER_BYTES, WalHeader, check_segment, external_config_files};
use pgbr_testkit::{Cluster, PgInstall, StopMode};

use crate::support::{connect, options, version};

/// An error and its causes, as a reporter prints them.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn facts_agree_with_the_files() {
    for install in PgInstall::all() {
        let cluster = Cluster::builder(install.major())
            .conf("archive_mode", "on")
            .conf("archive_command", "cp '%p' /dev/null")
            .conf("checkpoint_timeout", "7min")
            .wal_segsize(1)
            .start();
        let session = connect(&cluster).await;
        let facts = session.facts().await.unwrap();
        assert_eq!(facts.version, version(&cluster));
        assert_eq!(facts.version_num / 10_000, cluster.major());
        assert_eq!(facts.data_directory, cluster.data_dir());
        assert_eq!(facts.config_file, Some(cluster.data_dir().join("postgresql.conf")));
        assert_eq!(facts.archive_mode, "on");
        assert_eq!(facts.archive_command, "cp '%p' /dev/null");
        assert_eq!(facts.archive_library, "");
        assert_eq!(facts.wal_level, "replica");
        assert_eq!(facts.timezone, "UTC");
        assert_eq!(facts.checkpoint_timeout, Duration::from_secs(420));
        assert!(facts.data_checksums && facts.full_page_writes && !facts.in_recovery);
        assert!(external_config_files(&facts).is_empty());

        let (control, _) = read_control_file(cluster.data_dir().join("global/pg_control")).unwrap();
        assert_eq!(control.version, facts.version);
        assert_eq!(control.system_id, facts.system_id);
        assert_eq!(control.wal_segment_size, facts.wal_segment_size);
        assert_eq!(control.block_size, facts.block_size);
        assert_eq!(read_pg_version(cluster.data_dir()).unwrap(), facts.version);
        assert_eq!(session.timeline_id().await.unwrap(), TimelineId::new(1));
        assert_eq!(session.checkpoint_redo_lsn().await.unwrap(), control.redo_lsn);
        assert_eq!(session.replay_lsn().await.unwrap(), None);
        assert!(session.insert_lsn().await.unwrap() >= control.checkpoint_lsn);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn archiving_can_be_off() {
    let cluster = Cluster::builder(PgInstall::newest().major()).checksums(false).start();
    let facts = connect(&cluster).await.facts().await.unwrap();
    assert_eq!((facts.archive_mode.as_str(), facts.archive_command.as_str()), ("off", ""));
    assert!(!facts.data_checksums);
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_and_tablespaces() {
    for install in PgInstall::all() {
        let cluster = Cluster::builder(install.major()).start();
        let place = cluster.scratch().dir("ts");
        cluster.sql("postgres", &format!("create tablespace \"ts 1\" location '{}'", place.display()));
        // The first minor releases of 13 and 14 do not have the setting: no tablespace can be in place there.
        let known = "select count(*) from pg_settings where name = 'allow_in_place_tablespaces'";
        let in_place = install.major() >= 15 || cluster.sql("postgres", known) == "1";
        if in_place {
            cluster.sql(
                "postgres",
                "set allow_in_place_tablespaces = on; create tablespace inplace location ''",
            );
        }
        cluster.sql("postgres", "create database \"o'dd\"");
        let session = connect(&cluster).await;
        let databases = session.databases().await.unwrap();
        let mut names: Vec<_> = databases.iter().map(|db| (db.name.as_str(), db.is_template)).collect();
        names.sort_unstable();
        assert_eq!(names, [("o'dd", false), ("postgres", false), ("template0", true), ("template1", true)]);
        let template0 = databases.iter().find(|db| db.name == "template0").unwrap();
        assert!(databases.iter().all(|db| db.last_system_oid == template0.oid));
        assert!(databases.iter().all(|db| cluster.data_dir().join("base").join(db.oid.to_string()).is_dir()));

        let tablespaces = session.tablespaces().await.unwrap();
        assert_eq!(tablespaces.len(), 1 + usize::from(in_place));
        assert_eq!((tablespaces[0].name.as_str(), &tablespaces[0].location), ("ts 1", &place));
        if let Some(second) = tablespaces.get(1) {
            assert_eq!(second.location, std::path::Path::new(&format!("pg_tblspc/{}", second.oid)));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_switched_and_its_segments_are_what_they_say() {
    for install in PgInstall::all() {
        let cluster = Cluster::builder(install.major()).wal_segsize(2).start();
        let session = connect(&cluster).await;
        let facts = session.facts().await.unwrap();
        let point = session.create_restore_point("it's a point").await.unwrap();
        let end = session.switch_wal().await.unwrap();
        assert!(end >= point && point > Lsn::ZERO);
        let name =
            pgbr_manifest::WalSegmentName::containing(TimelineId::new(1), point, facts.wal_segment_size);
        let bytes = std::fs::read(cluster.data_dir().join("pg_wal").join(name.to_string())).unwrap();
        let header = WalHeader::parse(&bytes[..WAL_HEADER_BYTES]).unwrap();
        check_segment(name, bytes.len() as u64, &header, facts.system_id, facts.version).unwrap();
        let next = name.next(facts.wal_segment_size).unwrap();
        let wrong = check_segment(next, bytes.len() as u64, &header, facts.system_id, facts.version);
        assert!(matches!(wrong, Err(Error::WalPosition { .. })));

        // The server's clock and ours are the same one here.
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros();
        let there = u128::try_from(session.clock().await.unwrap()).unwrap();
        assert!(there.abs_diff(now) < 60_000_000);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_refuses_is_told_once() {
    let cluster = Cluster::builder(PgInstall::newest().major()).start();
    let nobody = ConnectOptions { user: Some("nobody".to_owned()), ..options(&cluster) };
    let error = Session::connect(&nobody).await.unwrap_err();
    assert_eq!(error.sql_state(), Some("28000"));
    let text = chain(&error);
    assert_eq!(text.matches("does not exist").count(), 1, "{text}");
    assert!(text.contains("user 'nobody'") && text.contains("FATAL: "), "{text}");

    cluster.sql("postgres", "create role plain login");
    let session = Session::connect(&ConnectOptions { user: Some("plain".to_owned()), ..options(&cluster) })
        .await
        .unwrap();
    let text = chain(&session.facts().await.unwrap_err());
    assert!(text.contains("grant the role pg_read_all_settings"), "{text}");
    let text = chain(&session.start_backup("x", true).await.unwrap_err());
    assert!(text.starts_with("PostgreSQL could not start the backup: ERROR: permission denied"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_over_tcp() {
    let cluster = Cluster::builder(PgInstall::newest().major()).tcp().start();
    cluster.sql("postgres", "create role secret login password 'open sesame'");
    std::fs::write(
        cluster.data_dir().join("pg_hba.conf"),
        "host all secret 127.0.0.1/32 scram-sha-256\nlocal all all trust\n",
    )
    .unwrap();
    cluster.reload();
    let with = |password: &str| ConnectOptions {
        host: Some("127.0.0.1".to_owned()),
        port: cluster.port(),
        user: Some("secret".to_owned()),
        password: Some(Password::new(password)),
        ..ConnectOptions::default()
    };
    pgbr_testkit::wait_until(Duration::from_secs(20), "the server to read pg_hba.conf", || {
        cluster.sql("postgres", "select count(*) from pg_hba_file_rules") == "2"
    });
    Session::connect(&with("open sesame")).await.unwrap();
    let error = Session::connect(&with("wrong")).await.unwrap_err();
    assert_eq!(error.sql_state(), Some("28P01"), "{}", chain(&error));
    assert!(!chain(&error).contains("wrong"));
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_a_role_do_not_get_in_the_way() {
    let cluster = Cluster::builder(PgInstall::newest().major()).start();
    for setting in
        ["statement_timeout = '1ms'", "search_path = 'x'", "datestyle = 'German'", "lock_timeout = '1ms'"]
    {
        cluster.sql("postgres", &format!("alter role postgres set {setting}"));
    }
    cluster.sql("postgres", "alter role postgres set idle_session_timeout = '200ms'");
    let session = connect(&cluster).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    let running = session.start_backup("x", true).await.unwrap();
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn included_files_outside_are_found() {
    for install in PgInstall::all() {
        let cluster = Cluster::builder(install.major()).start();
        let inner = cluster.scratch().file("inner.conf", "work_mem = '5MB'\n");
        let outer = cluster.scratch().file("outer.conf", "include 'inner.conf'\n");
        cluster.set_conf("include", outer.to_str().unwrap());
        cluster.restart();
        assert_eq!(cluster.sql("postgres", "show work_mem"), "5MB");
        let facts = connect(&cluster).await.facts().await.unwrap();
        assert_eq!(external_config_files(&facts), [inner, outer]);
    }
}

#[test]
fn servers_are_seen_to_run() {
    let cluster = Cluster::builder(PgInstall::newest().major()).init();
    let state = || server_state(cluster.data_dir()).unwrap();
    assert_eq!(state(), ServerState::Stopped);
    cluster.start();
    let pid = i32::try_from(cluster.pid().unwrap()).unwrap();
    assert_eq!(state(), ServerState::Running(pid));
    cluster.kill9();
    assert_eq!(state(), ServerState::Stale);
    cluster.start();
    cluster.stop(StopMode::Fast);
    assert_eq!(state(), ServerState::Stopped);
}
