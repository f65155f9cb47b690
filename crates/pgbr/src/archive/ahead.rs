//! A get that looks first at what a worker has fetched ahead of the server.
//!
//! The worker saves time and decides nothing: a segment that it has not fetched is looked for as ever, in the repositories, and only that
//! says whether it is missing.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgbr_manifest::{StanzaName, WalSegmentName};
use pgbr_pg::{ControlFile, WalHeader, check_segment, read_control_file};
use pgbr_repo::LockType;

use super::file::read_header;
use super::get::{ArchiveGetRequest, Got, archive_get};
use super::hand_over::{WorkerLock, worker};
use super::spool::{Inbox, Shelf};
use crate::error::{Error, Result, with_causes};
use crate::host::Host;

/// The first and the longest pause between two looks for a segment that is being fetched.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(10));

/// Where a worker fetches ahead.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_structs, reason = "filled in by the caller; a new field has to be decided on")]
pub struct ReadAhead {
    /// The spool directory.
    pub spool: PathBuf,
    /// What tells these settings from others: what a worker with others has fetched is not taken.
    pub scope: String,
    /// Where the worker is found.
    pub lock: WorkerLock,
}

/// Gets a WAL file as [`archive_get`], from what was fetched ahead where it is there, and sees that a worker goes on fetching. Tells
/// whether it was there. `start` starts a worker, which ends at once where there is one.
///
/// # Errors
/// As [`archive_get`]; what is wrong with the spool is a warning.
pub async fn archive_get_ahead(
    host: &Host,
    request: ArchiveGetRequest,
    ahead: &ReadAhead,
    start: &(dyn Fn() -> io::Result<()> + Sync),
) -> Result<(Got, bool)> {
    let Some(queue) = Queue::of(&request, ahead) else {
        return Ok((archive_get(host, request).await?, false));
    };
    let broken = |error: &Error| {
        host.warn(format!("WAL is not fetched ahead of the server: {}", with_causes(error)));
    };
    let (fetched, sound) = match queue.take(host, &request).await {
        Ok(fetched) => (fetched, true),
        Err(error @ Error::Stopped) => return Err(error),
        Err(error) => {
            broken(&error);
            (None, false)
        }
    };
    let got = match fetched {
        Some(repo) => (Got::Found { repo, archive: None }, true),
        None => (archive_get(host, request).await?, false),
    };
    // Beyond the end of the WAL there is nothing to fetch.
    if sound
        && got.0 != Got::Missing
        && let Err(error) = queue.go_on(start)
    {
        broken(&error);
    }
    Ok(got)
}

/// What tells the queue of a cluster from those of others, and of other settings.
pub(super) fn scope_of(scope: &str, control: &ControlFile, pg_data: &Path) -> String {
    format!("{} {} {}\n{scope}", control.system_id, control.version, pg_data.display())
}

/// What is fetched ahead for the cluster that asks.
struct Queue {
    inbox: Inbox,
    lock: WorkerLock,
    stanza: StanzaName,
    segment: WalSegmentName,
    control: ControlFile,
}

impl Queue {
    /// Only segments are fetched ahead, and only of a cluster that is known.
    fn of(request: &ArchiveGetRequest, ahead: &ReadAhead) -> Option<Self> {
        let segment = request.file.parse().ok()?;
        let pg_data = request.pg_data.as_deref()?;
        let (control, _) = read_control_file(pg_data.join("global/pg_control")).ok()?;
        let scope = scope_of(&ahead.scope, &control, pg_data);
        let inbox = Inbox::new(&ahead.spool, &request.stanza, &scope);
        Some(Self { inbox, lock: ahead.lock.clone(), stanza: request.stanza.clone(), segment, control })
    }

    /// Moves the segment to where the server wants it, if it was fetched; waits for it while it is being fetched.
    async fn take(&self, host: &Host, request: &ArchiveGetRequest) -> Result<Option<u16>> {
        self.inbox.prepare()?;
        let begun = host.clock.monotonic();
        let mut pause = PAUSES.0;
        loop {
            host.stop.check()?;
            let Some(shelf) = self.shelf()? else { return Ok(None) };
            // In this order: what was being fetched a moment ago may lie there by now.
            let fetching = shelf.is_fetching(self.segment);
            for (repo, _) in &request.repos {
                if self.take_from(host, &shelf, *repo, &request.destination)? {
                    return Ok(Some(*repo));
                }
            }
            if !fetching || host.clock.monotonic().saturating_sub(begun) >= request.timeout {
                return Ok(None);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 3 / 2).min(PAUSES.1);
        }
    }

    /// What the worker that is at work has fetched, if it is one for this cluster with these settings.
    fn shelf(&self) -> Result<Option<Shelf>> {
        let run = worker(&self.lock, &self.stanza, LockType::ArchiveGet)?;
        Ok(run.and_then(|run| self.inbox.shelf(&run)))
    }

    fn take_from(&self, host: &Host, shelf: &Shelf, repo: u16, to: &Path) -> Result<bool> {
        let path = shelf.segment(self.segment, repo);
        let Ok(found) = path.metadata() else { return Ok(false) };
        let checked = read_header(&path).and_then(|head| {
            let header = WalHeader::parse(&head)?;
            let ControlFile { system_id, version, .. } = self.control;
            Ok(check_segment(self.segment, found.len(), &header, system_id, version)?)
        });
        if let Err(error) = checked {
            std::fs::remove_file(&path).ok();
            host.warn(format!("{} was fetched and is not used: {}", self.segment, with_causes(&error)));
            return Ok(false);
        }
        move_file(&path, to)?;
        Ok(true)
    }

    /// Tells the worker what will be asked for next, and starts one where there is none.
    fn go_on(&self, start: &(dyn Fn() -> io::Result<()> + Sync)) -> Result<()> {
        let Some(next) = self.segment.next(self.control.wal_segment_size) else { return Ok(()) };
        self.inbox.want(next)?;
        if worker(&self.lock, &self.stanza, LockType::ArchiveGet)?.is_none() {
            start().map_err(Error::io("start", "the worker that fetches ahead"))?;
        }
        Ok(())
    }
}

/// Moves a file, which is at its place as a whole or not at all.
fn move_file(from: &Path, to: &Path) -> Result<()> {
    match std::fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {}
        other => return other.map_err(Error::io("rename", from)),
    }
    let mut staged = to.as_os_str().to_owned();
    staged.push(".pgbr.tmp");
    let staged = PathBuf::from(staged);
    let copied = std::fs::copy(from, &staged).map_err(Error::io("write", &staged));
    let moved = copied.and_then(|_| std::fs::rename(&staged, to).map_err(Error::io("rename", &staged)));
    if moved.is_err() {
        std::fs::remove_file(&staged).ok();
    }
    std::fs::remove_file(from).ok();
    moved
}
