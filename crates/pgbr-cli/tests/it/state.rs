//! The state of a whole cluster, written down when a backup was made, and whether a restore gives it back.

use std::fmt::Write;

use pgbr_testkit::{Cluster, Pgbr, StopMode};

use crate::world::restore_args;

/// Databases, tablespaces by name, and all that a restore must bring back and that stands still in a quiet cluster.
const CLUSTER: &str = "select 'database', d.datname, t.spcname from pg_database d join pg_tablespace t on t.oid = d.dattablespace order by 2;
    select 'tablespace', spcname from pg_tablespace order by 2;
    select 'role', rolname from pg_roles order by 2";

/// The relations of users in a database, with kind, persistence and place.
const RELATIONS: &str = "select c.oid::regclass, c.relkind, c.relpersistence, coalesce(t.spcname, '') from pg_class c
    join pg_namespace n on n.oid = c.relnamespace left join pg_tablespace t on t.oid = c.reltablespace
    where n.nspname not in ('pg_catalog', 'information_schema') and n.nspname !~ '^pg_(toast|temp)' order by 1, 2";

/// A text that is the same for clusters with the same content: what there is, and a digest of each table's rows.
pub(crate) fn state(cluster: &Cluster) -> String {
    let mut text = cluster.sql("postgres", CLUSTER);
    for db in databases(cluster) {
        let (relations, digest) = (cluster.sql(&db, RELATIONS), cluster.table_digest(&db));
        write!(text, "\n-- {db}\n{relations}\n{digest}").expect("writing to a string does not fail");
    }
    text
}

/// The databases that take connections.
pub(crate) fn databases(cluster: &Cluster) -> Vec<String> {
    let names = cluster.sql("postgres", "select datname from pg_database where datallowconn order by 1");
    names.lines().map(str::to_owned).collect()
}

/// Restores a backup to its own end into the directory of `target`, and starts it.
pub(crate) fn open_backup(pgbr: &Pgbr, target: &Cluster, label: &str, options: &[&str]) {
    let set = format!("--set={label}");
    let options = [&[set.as_str(), "--type=immediate", "--target-action=promote"], options].concat();
    pgbr.ok(restore_args(target, &options));
    target.start();
    target.wait_promoted();
}

/// Page checksums are right. Leaves the server stopped.
pub(crate) fn check_pages(cluster: &Cluster) {
    cluster.stop(StopMode::Fast);
    cluster.data_program("pg_checksums", &["--check"]);
}
