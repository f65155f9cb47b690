//! pgbench: data, and load while a backup runs.

use std::process::{Child, Stdio};

use crate::cluster::{Cluster, succeed};

impl Cluster {
    /// Fills the database `postgres` with pgbench's tables: 100,000 rows (about 15 MiB) per `scale`.
    ///
    /// # Panics
    /// When pgbench fails.
    pub fn pgbench_init(&self, scale: u32) {
        let mut command = self.client("pgbench");
        succeed(command.args(["-i", "-q", "-s", &scale.to_string(), "postgres"]), "");
    }

    /// Starts `clients` sessions that write to pgbench's tables for `seconds`.
    ///
    /// # Panics
    /// When pgbench cannot be started.
    pub fn pgbench_start(&self, clients: u32, seconds: u32) -> Pgbench {
        let mut command = self.client("pgbench");
        command.args(["-n", "-c", &clients.to_string(), "-T", &seconds.to_string(), "postgres"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Pgbench(command.spawn().unwrap_or_else(|error| panic!("could not start pgbench: {error}")))
    }
}

/// A running pgbench, ended when this is dropped.
#[derive(Debug)]
pub struct Pgbench(Child);

impl Pgbench {
    /// Whether it still runs.
    ///
    /// # Panics
    /// When its state cannot be asked for.
    pub fn is_running(&mut self) -> bool {
        self.0.try_wait().expect("a child can be asked for its state").is_none()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it failed, as it does if the server ends under it.
    pub fn wait(mut self) {
        let status = self.0.wait().expect("a child can be waited for");
        assert!(status.success(), "pgbench failed: {status}");
    }

    /// Ends it now.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Pgbench {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
