//! archive-push and archive-get: WAL files into the archives of all repositories, and out of the first that has them.

mod facts;
mod file;
mod get;
mod push;
mod source;

use std::path::Path;

pub use get::{ArchiveGetRequest, Got, archive_get};
pub use push::{ArchivePushRequest, archive_push};

/// What a server does with the exit code of its `restore_command`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "PostgreSQL has these modes")]
pub enum RecoveryMode {
    /// It promotes at the end of the WAL: a failure must stop it.
    Promotes,
    /// It follows: a failure makes it wait and try again.
    Follows,
    /// It is not in recovery, as far as its files tell.
    None,
}

/// The mode of the server on a data directory, by its signal files. A standby's wins, as in PostgreSQL.
pub fn recovery_mode(pg_data: &Path) -> RecoveryMode {
    if pg_data.join("standby.signal").exists() {
        RecoveryMode::Follows
    } else if pg_data.join("recovery.signal").exists() {
        RecoveryMode::Promotes
    } else {
        RecoveryMode::None
    }
}
