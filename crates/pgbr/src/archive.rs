//! archive-push and archive-get: WAL files into the archives of all repositories, and out of the first that has them.

mod ahead;
mod beside;
mod facts;
mod file;
mod get;
mod get_worker;
mod hand_over;
mod push;
mod push_worker;
mod queue;
mod source;
mod spool;

use std::path::Path;

pub use ahead::{ReadAhead, archive_get_ahead};
pub use get::{ArchiveGetRequest, Got, archive_get};
pub use get_worker::{GetWorkerRequest, archive_get_worker};
pub use hand_over::{HandOverRequest, HandedOver, WorkerLock, archive_queue_exceeded, hand_over};
pub use push::{ArchivePushRequest, archive_push};
pub use push_worker::{PushWorkerReport, PushWorkerRequest, archive_push_worker};
#[cfg(fuzzing)]
pub(crate) use spool::read_failure;
pub use spool::{Failure, sweep_spool};

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
