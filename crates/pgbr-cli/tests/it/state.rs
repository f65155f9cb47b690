//! Backups restored to their own end.

use pgbr_testkit::{Cluster, Pgbr};

use crate::world::restore_args;

/// Restores a backup to its own end into the directory of `target`, and starts it.
pub(crate) fn open_backup(pgbr: &Pgbr, target: &Cluster, label: &str, options: &[&str]) {
    let set = format!("--set={label}");
    let options = [&[set.as_str(), "--type=immediate", "--target-action=promote"], options].concat();
    pgbr.ok(restore_args(target, &options));
    target.start();
    target.wait_promoted();
}
