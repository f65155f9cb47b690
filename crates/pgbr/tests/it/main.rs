//! The engine by its public functions, on real clusters and on stores that fail.

#![expect(clippy::unwrap_used, reason = "what fails in a test ends it")]

mod archive_sweep;
mod archiving;
mod backup_sweep;
mod copy_sweep;
mod example;
mod expire;
mod expire_sweep;
mod restore_sweep;
mod server;
mod sweep;
mod theirs;
mod theirs_wal;
mod window;
mod world;
