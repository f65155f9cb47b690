//! The whole way: a cluster under load is copied by what this crate gives, and a server recovers from the copy.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use pgbr_manifest::RelPath;
use pgbr_pg::{
    EntryKind, PageContext, RecoveryAction, RecoveryGoal, RecoveryPlan, TablespaceMapEntry, UpperLsn,
    filenode_map_is_whole, read_control_file, render_tablespace_map, sync_dir, write_durable,
};
use pgbr_testkit::{Cluster, PgInstall, own};

use crate::support::{connect, place, read, scan, version};

fn plan(source: &Cluster, goal: RecoveryGoal) -> RecoveryPlan {
    RecoveryPlan {
        goal,
        exclusive: false,
        action: RecoveryAction::Promote,
        timeline: None,
        restore_command: format!("cp '{}/%f' '%p'", source.data_dir().join("pg_wal").display()),
        archive_off: true,
        options: Vec::new(),
        before_12: false,
        wal_inside: false,
        program: "pgbr".to_owned(),
        when: "2026-11-22 13:27:29".to_owned(),
    }
}

/// Copies everything but the control file; gives that.
fn copy(source: &Cluster, target: &Cluster, context: &PageContext) -> Vec<u8> {
    let spaces = target.scratch().dir("spaces");
    for entry in scan(source) {
        let entry = entry.unwrap();
        if entry.path.is_pg_control() {
            break;
        }
        let to = place(&entry.path, target.data_dir(), &spaces);
        match entry.kind {
            EntryKind::Link { .. } => continue,
            EntryKind::Directory => fs::create_dir_all(&to).unwrap(),
            EntryKind::File { .. } => {
                let mut file = File::create(&to).unwrap();
                let bad = read(&entry, context, |run| file.write_all(run).unwrap());
                assert_eq!(bad, Vec::<u32>::new(), "{}", entry.path);
            }
        }
        fs::set_permissions(&to, Permissions::from_mode(entry.meta.mode)).unwrap();
        own(&to);
        if entry.path.file_name() == b"pg_filenode.map" {
            assert!(filenode_map_is_whole(&fs::read(&to).unwrap()), "{}", entry.path);
        }
    }
    read_control_file(source.data_dir().join("global/pg_control")).unwrap().1
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_recovers_to_its_goal() {
    for install in PgInstall::all() {
        let source = Cluster::builder(install.major()).conf("wal_keep_size", "2GB").start();
        let ts = source.scratch().dir("ts");
        source.sql("postgres", &format!("create tablespace ts location '{}'", ts.display()));
        source.sql(
            "postgres",
            "create table t (n int) tablespace ts; create unlogged table u as select 1 as one",
        );
        source.sql("postgres", "create table early as select g from generate_series(1, 5000) g; vacuum early; delete from early where g > 10");
        source.pgbench_init(2);
        let load = source.pgbench_start(2, 300);

        let running = connect(&source).await.start_backup("cycle", true).await.unwrap();
        let upper_lsn = UpperLsn::new(running.insert_lsn().await.unwrap());
        let context =
            PageContext { start_lsn: running.start_lsn(), upper_lsn, block_size: 8192, segment_start: 0 };
        let target = Cluster::builder(install.major()).empty();
        let control = copy(&source, &target, &context);
        source.sql("postgres", "insert into t select generate_series(1, 100)");
        let finished = running.stop().await.unwrap();
        load.stop();
        source.sql("postgres", "insert into t select generate_series(1, 11)");
        finished.session.create_restore_point("here").await.unwrap();
        let wanted = source.table_digest("postgres");
        source.sql("postgres", "insert into t values (-1); update pgbench_accounts set abalance = 0");
        finished.session.switch_wal().await.unwrap();

        let data = target.data_dir();
        let write = |name: &str, bytes: &[u8]| {
            write_durable(data.join(name), bytes, 0o600).unwrap();
            own(&data.join(name));
        };
        let spaces = target.scratch().path().join("spaces");
        let map: Vec<_> = scan(&source)
            .tablespaces()
            .iter()
            .map(|space| TablespaceMapEntry { oid: space.oid, path: spaces.join(space.oid.to_string()) })
            .collect();
        write("backup_label", finished.label_file.as_bytes());
        write("tablespace_map", render_tablespace_map(version(&source), &map).unwrap().as_bytes());
        let plan = plan(&source, RecoveryGoal::Name("here".to_owned()));
        let auto = fs::read(data.join("postgresql.auto.conf")).unwrap();
        write("postgresql.auto.conf", &plan.auto_conf(&auto).unwrap());
        write(plan.signal_file().unwrap().file_name(), b"");
        assert!(RelPath::PG_CONTROL.ends_with("global/pg_control"));
        write("global/pg_control", &control);
        sync_dir(data).unwrap();

        target.start();
        target.wait_promoted();
        assert_eq!(target.table_digest("postgres"), wanted);
        assert_eq!(target.sql("postgres", "select count(*) from t"), "111");
        assert_eq!(target.sql("postgres", "select count(*) from u"), "0");
        target.assert_clean();
    }
}
