//! Real PostgreSQL clusters and other helpers for the tests of pgbr.
//!
//! Nothing here is ever published or linked into the program. What fails here panics, with a text that says what was
//! run and what came back, since the caller is a test. A PostgreSQL that is missing panics too, and names the command
//! that installs it: no test passes because its server was not there.
//!
//! ```no_run
//! use pgbr_testkit::{Cluster, PgInstall, Pgbr, StopMode};
//!
//! for install in PgInstall::all() {
//!     let cluster = Cluster::builder(install.major()).conf("archive_mode", "on").start();
//!     let pgbr = Pgbr::new("target/debug/pgbr", "demo", &cluster);
//!     pgbr.ok(["stanza-create"]);
//!     cluster.set_conf("archive_command", &pgbr.archive_command());
//!     cluster.reload();
//!     cluster.pgbench_init(1);
//!     pgbr.ok(["backup", "--type=full"]);
//!     let before = cluster.table_digest("postgres");
//!     cluster.switch_wal();
//!
//!     // A cluster with an empty data directory, to restore into.
//!     let target = Cluster::builder(install.major()).empty();
//!     pgbr.ok(["restore", &format!("--pg1-path={}", target.data_dir().display())]);
//!     target.start();
//!     target.wait_promoted();
//!     assert_eq!(target.table_digest("postgres"), before);
//!     target.assert_clean();
//! }
//! ```
//!
//! # Who runs what
//!
//! PostgreSQL refuses to run as root. Where the tests run as root, servers, client programs and pgbr run as the user
//! `postgres` (the *operator*, [`as_operator`]), and the directories that they work in belong to it. Where an ordinary
//! user runs the tests, everything runs as that user.
//!
//! # What is left behind
//!
//! Nothing: each [`Scratch`] directory lies under `/tmp` (or `PGBR_TEST_TMP`) and has a watchdog, a small shell that
//! waits for the test process to end, however it ends, and then stops the servers below the directory and removes it.
//! With `PGBR_TEST_KEEP=1` the directories stay (and their paths are printed); the servers are stopped all the same.

mod bench;
mod cluster;
mod faults;
mod http;
mod install;
mod listen;
mod name;
mod objects;
mod operator;
mod oracle;
mod pgbackrest;
mod pgbr;
mod proxy;
mod run;
mod scratch;
mod seed;
mod stores;
mod sweep;
mod template;
mod turns;

pub use bench::Pgbench;
pub use cluster::{Cluster, ClusterBuilder, StopMode};
pub use faults::{Fault, FaultStore, failures};
pub use install::PgInstall;
pub use name::{program_name, variable};
pub use objects::Objects;
pub use operator::{as_operator, operator_name, own, words_of};
pub use pgbackrest::PgBackRest;
pub use pgbr::{Pgbr, runnable};
pub use proxy::{Act, Proxy, Seen};
pub use run::{Finished, free_port, run, wait_until};
pub use scratch::Scratch;
pub use seed::Numbers;
pub use stores::{AzureServer, Bucket, Certificates, Client, GcsServer, S3Server, StoreKind, patroni};
pub use sweep::{Case, Sweep, is_dense};
