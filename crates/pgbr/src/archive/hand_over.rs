//! How a call of the server hands a WAL file over to the worker, and learns that it is archived.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgbr_manifest::StanzaName;
use pgbr_repo::{LockType, lock_holder};

use super::file::{FileId, name_of};
use super::queue;
use super::spool::{Outbox, Told};
use crate::error::{Error, Result};
use crate::host::Host;

/// The first and the longest pause between two looks for an answer.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(10));
/// How often it is seen that a worker is there.
const LOOK: Duration = Duration::from_millis(100);
/// How long a worker that was started has to come up before another is started.
const START: Duration = Duration::from_secs(1);

/// Where a worker of a stanza is found: by the lock that it holds.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_structs, reason = "filled in by the caller; a new field has to be decided on")]
pub struct WorkerLock {
    /// The directory of the locks.
    pub directory: PathBuf,
    /// The number of the first repository in the options.
    pub repo: u16,
}

/// A WAL file for the worker.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_structs, reason = "filled in by the caller; a new field has to be decided on")]
pub struct HandOverRequest {
    /// The spool directory.
    pub spool: PathBuf,
    /// The stanza.
    pub stanza: StanzaName,
    /// What tells these settings from others: a worker with others is not believed, and replaced.
    pub scope: String,
    /// The file.
    pub file: PathBuf,
    /// Where the worker is found.
    pub lock: WorkerLock,
    /// How long to wait for the worker.
    pub timeout: Duration,
    /// How many bytes of WAL may wait for the archive before files are dropped.
    pub queue_max: Option<u64>,
}

/// What became of a file that was handed over.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a caller has to know all of them")]
pub enum HandedOver {
    /// It is durable in every repository.
    Archived {
        /// What the operator is to be told; often empty.
        warning: String,
    },
    /// It is not archived, and never will be: too much is waiting.
    Dropped {
        /// How many bytes.
        queue: u64,
    },
    /// The server does not say that it waits, so no worker will find it.
    NotQueued,
}

/// Hands a WAL file over, and waits until it is archived. `start` starts a worker of this stanza, which ends at once where there is one.
///
/// # Errors
/// What the worker reports, as [`Error::Reported`]; [`Error::HandOver`] where it reports nothing in time. Trying again is always safe.
pub async fn hand_over(
    host: &Host,
    request: &HandOverRequest,
    start: &(dyn Fn() -> io::Result<()> + Sync),
) -> Result<HandedOver> {
    let (name, wal_dir) = (name_of(&request.file), request.file.parent().unwrap_or(Path::new(".")));
    let out = Outbox::new(&request.spool, &request.stanza, &push_scope(&request.scope, wal_dir));
    let id = FileId::of(&request.file)?;
    if let Some(warning) = out.archived(&name, &id) {
        out.sign();
        return Ok(HandedOver::Archived { warning });
    }
    if !queue::ready_file(wal_dir, &name).exists() {
        return Ok(HandedOver::NotQueued);
    }
    out.prepare()?;
    out.want_scope()?;
    // One of another file or of other settings would keep the worker from seeing that there is something to do.
    if out.has_done(&name) && out.archived(&name, &id).is_none() {
        out.forget(&name);
    }
    out.clear_failures(&name);
    let begun = host.clock.monotonic();
    let (mut pause, mut looked, mut started) = (PAUSES.0, None::<Duration>, None::<Duration>);
    let mut last: Option<Told> = None;
    loop {
        host.stop.check()?;
        if let Some(warning) = out.archived(&name, &id) {
            return Ok(HandedOver::Archived { warning });
        }
        match out.failure(&name) {
            Some(told) if !told.passing => return Err(told.into_error()),
            told => last = told.or(last),
        }
        let waited = host.clock.monotonic().saturating_sub(begun);
        if waited >= request.timeout {
            return Err(last.map_or_else(
                || Error::HandOver { file: name, seconds: request.timeout.as_secs() },
                Told::into_error,
            ));
        }
        if looked.is_none_or(|at| waited.saturating_sub(at) >= LOOK) {
            looked = Some(waited);
            out.sign();
            if let Some(queue) = exceeded(wal_dir, request.queue_max, |name| out.has_done(name))? {
                return Ok(HandedOver::Dropped { queue });
            }
            let due = started.is_none_or(|at| waited.saturating_sub(at) >= START);
            if due && worker(&request.lock, &request.stanza, LockType::Archive)?.is_none() {
                started = Some(waited);
                start().map_err(Error::io("start", "the archive worker"))?;
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(PAUSES.1);
    }
}

/// What tells the pushes of a server from those of another one on this host, and of other settings.
pub(super) fn push_scope(scope: &str, wal_dir: &Path) -> String {
    let wal_dir = wal_dir.canonicalize().unwrap_or_else(|_| wal_dir.to_owned());
    format!("{}\n{scope}", wal_dir.display())
}

/// The run of the worker that is at work; empty where it does not say.
pub(super) fn worker(lock: &WorkerLock, stanza: &StanzaName, kind: LockType) -> Result<Option<String>> {
    let holder = lock_holder(&lock.directory, stanza, kind, u32::from(lock.repo))?;
    Ok(holder.map(|holder| holder.exec_id.unwrap_or_default()))
}

/// How many bytes of WAL the server has waiting for the archive beside this file, where that is more than `max`: the file is then to be
/// dropped, so that the server does not run out of room.
///
/// # Errors
/// Where its directory cannot be read.
pub fn archive_queue_exceeded(file: &Path, max: u64) -> Result<Option<u64>> {
    exceeded(file.parent().unwrap_or(Path::new(".")), Some(max), |_| false)
}

fn exceeded(wal_dir: &Path, max: Option<u64>, is_archived: impl Fn(&str) -> bool) -> Result<Option<u64>> {
    let Some(max) = max else { return Ok(None) };
    let size = queue::size(wal_dir, is_archived)?;
    Ok((size > max).then_some(size))
}
