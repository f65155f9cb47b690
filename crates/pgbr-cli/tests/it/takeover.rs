//! A cluster that archived elsewhere before: what matters is where its WAL goes from now on.

use pgbr_testkit::{Cluster, Pgbr};

/// The segment before the backup's first was archived by another command; the server is idle, so no later one comes by itself.
#[test]
fn a_backup_begins_where_earlier_wal_went_elsewhere() {
    let cluster = Cluster::builder(15).conf("archive_mode", "on").conf("archive_command", "true").start();
    let pgbr = Pgbr::new(env!("CARGO_BIN_EXE_pgbr"), "demo", &cluster);
    pgbr.set("global", "archive-timeout", "20");
    pgbr.ok(["stanza-create"]);
    cluster.sql("postgres", "create table before_us (x int)");
    let segment = cluster.switch_wal();
    cluster.wait_archived(&segment);

    pgbr.archive_from(&cluster);
    pgbr.ok(["backup", "--type=full"]);
    let info = pgbr.ok(["info"]);
    assert!(info.contains("full backup: "), "{info}");
}
