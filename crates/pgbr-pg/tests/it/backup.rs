//! Backups begun, stopped and lost.

use std::time::Duration;

use pgbr_manifest::TimelineId;
use pgbr_pg::{BackupLabelFile, ConnectOptions, Error, Session, parse_tablespace_map};
use pgbr_testkit::{Cluster, PgInstall};

use crate::support::{connect, options, version};

#[tokio::test(flavor = "multi_thread")]
async fn start_and_stop() {
    for install in PgInstall::all() {
        let cluster = Cluster::builder(install.major()).start();
        let place = cluster.scratch().dir("a b");
        cluster.sql("postgres", &format!("create tablespace ts location '{}'", place.display()));
        let session = connect(&cluster).await;
        let before = session.clock().await.unwrap();
        let running = session.start_backup("it's\na label", true).await.unwrap();
        assert!(!running.from_standby());
        running.check().await.unwrap();
        assert!(running.insert_lsn().await.unwrap() >= running.start_lsn());
        assert!(running.start_time() >= before);
        let (start, timeline) = (running.start_lsn(), running.timeline());
        let finished = running.stop().await.unwrap();
        assert!(finished.stop_lsn > start && finished.stop_time >= before);
        assert_eq!(finished.timeline, timeline);

        let label = BackupLabelFile::parse(&finished.label_file).unwrap();
        assert_eq!(label.start_lsn, start);
        assert_eq!(label.label.as_deref(), Some("it's a label"));
        assert_eq!(label.method.as_deref(), Some("streamed"));
        assert!(!label.from_standby);
        let map = parse_tablespace_map(version(&cluster), &finished.tablespace_map).unwrap();
        assert_eq!(map.iter().map(|entry| entry.path.clone()).collect::<Vec<_>>(), [place]);

        // The session can do another one.
        let again = finished.session.start_backup("again", true).await.unwrap();
        assert!(again.start_lsn() > start);
        again.stop().await.unwrap();
        assert!(!cluster.data_dir().join("backup_label").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_backup_is_given_up_by_the_server() {
    for install in PgInstall::all() {
        let cluster = Cluster::builder(install.major()).start();
        let running = connect(&cluster).await.start_backup("x", true).await.unwrap();
        drop(running);
        pgbr_testkit::wait_until(Duration::from_secs(20), "the session to end", || {
            cluster.sql(
                "postgres",
                "select count(*) from pg_stat_activity where application_name = 'pgbr [test]'",
            ) == "0"
        });
        assert!(cluster.log().contains("aborting backup due to backend exiting"), "{}", cluster.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_ended_loses_the_backup() {
    let cluster = Cluster::builder(PgInstall::newest().major()).start();
    let running = connect(&cluster).await.start_backup("x", true).await.unwrap();
    cluster.sql(
        "postgres",
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'pgbr [test]'",
    );
    assert!(matches!(running.stop().await, Err(Error::Query { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_takes_too_long_is_cancelled() {
    let cluster =
        Cluster::builder(PgInstall::newest().major()).conf("checkpoint_completion_target", "0.9").start();
    cluster.sql("postgres", "create table t as select g from generate_series(1, 200000) g");
    let hasty = ConnectOptions { query_timeout: Duration::from_millis(1500), ..options(&cluster) };
    let session = Session::connect(&hasty).await.unwrap();
    // A spread checkpoint takes minutes.
    let error = session.start_backup("x", false).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { what: "start the backup", .. }), "{error}");
    pgbr_testkit::wait_until(Duration::from_secs(20), "the statement to end", || {
        cluster
            .sql("postgres", "select count(*) from pg_stat_activity where application_name = 'pgbr [test]'")
            == "0"
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn standbys_are_backed_up_until_promoted() {
    for install in PgInstall::all() {
        let primary = Cluster::builder(install.major()).start();
        let standby = primary.standby();
        standby.start();
        primary.wait_replayed(&standby);

        let session = connect(&standby).await;
        assert!(session.facts().await.unwrap().in_recovery);
        assert!(session.replay_lsn().await.unwrap().is_some());
        assert!(matches!(session.switch_wal().await, Err(Error::Query { .. })));
        session.checkpoint().await.unwrap();
        assert_eq!(session.timeline_id().await.unwrap(), TimelineId::new(1));
        assert_eq!(session.replica_timeline().await.unwrap(), TimelineId::new(1));
        let running = session.start_backup("x", true).await.unwrap();
        assert!(running.from_standby());
        assert!(running.insert_lsn().await.unwrap() >= running.start_lsn());
        let finished = running.stop().await.unwrap();
        assert!(BackupLabelFile::parse(&finished.label_file).unwrap().from_standby);

        let running = finished.session.start_backup("x", true).await.unwrap();
        running.check().await.unwrap();
        standby.promote();
        standby.wait_promoted();
        // Whether or not there was a checkpoint since.
        assert_eq!(connect(&standby).await.timeline_id().await.unwrap(), TimelineId::new(2));
        assert!(running.check().await.unwrap_err().to_string().contains("promoted"));
        assert!(matches!(running.stop().await, Err(Error::Query { .. })));
    }
}
