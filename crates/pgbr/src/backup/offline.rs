//! Offline backup: the files of a cluster that is stopped, with the WAL in its `pg_wal`.
//!
//! Why that is sound. What a clean shutdown leaves is consistent by itself. What a crash leaves becomes consistent by the WAL behind its last
//! checkpoint, which lies in `pg_wal` and is copied, too. Both hold only while no server writes: that none was started is looked at again
//! and again, the control file must be the same at the end as at the beginning, and no file that a server keeps may have changed since.
//! A cluster that was stopped in the middle of a recovery is refused: it needs more than lies there, and says itself what it is.

use std::path::{Path, PathBuf};

use pgbr_manifest::manifest::{ClusterFacts, Span};
use pgbr_manifest::{Lsn, WalSegmentName};
use pgbr_pg::{
    ClusterState, ControlFile, EntryKind, Scan, ScanOptions, ServerState, is_replicated, read_control_file,
    server_state,
};
use pgbr_repo::NewCluster;

use crate::error::{Error, Result};
use crate::host::Host;

/// A cluster without a server.
pub(super) struct Stopped {
    pg_data: PathBuf,
    control: ControlFile,
    /// What `postmaster.pid` told.
    state: ServerState,
    /// The last segment in the row of those in `pg_wal` that begins with the last checkpoint.
    last: WalSegmentName,
}

impl Stopped {
    /// Sees that no server runs on `pg_data`, and what was left there.
    ///
    /// # Errors
    /// When a server runs; when `postmaster.pid` is there, without `force`; when what lies there would not start by itself.
    pub(super) fn find(host: &Host, pg_data: &Path, force: bool) -> Result<Self> {
        let state = server_state(pg_data)?;
        match state {
            ServerState::Stopped => {}
            ServerState::Stale if force => host.warn(
                "--no-online passed and postmaster.pid exists but --force was passed so backup will continue though it looks like \
                 PostgreSQL is running and the backup will probably not be consistent",
            ),
            ServerState::Stale => return Err(Error::NotStopped { path: pg_data.to_owned() }),
            ServerState::Running(pid) => return Err(Error::StillRunning { path: pg_data.to_owned(), pid }),
        }
        let control = read_control(pg_data)?;
        if let Some(reason) = unfit(pg_data, &control) {
            return Err(Error::Unfit { reason: format!("'{}' {reason}", pg_data.display()) });
        }
        let last = last_segment(pg_data, &control)?;
        let stopped = Self { pg_data: pg_data.to_owned(), control, state, last };
        if !stopped.is_clean() {
            host.warn(
                "PostgreSQL was not shut down cleanly: a restore of this backup begins with crash recovery",
            );
        }
        Ok(stopped)
    }

    /// Sees that nobody has started it.
    pub(super) fn check(&self) -> Result<()> {
        let state = server_state(&self.pg_data)?;
        if state != self.state || read_control(&self.pg_data)? != self.control {
            return Err(Error::Started { path: self.pg_data.clone() });
        }
        Ok(())
    }

    /// Sees that nobody has started it, and that no file that a server keeps was changed since `began_ns`, Unix nanoseconds: one that works
    /// where its process cannot be seen, in another container or on another host, changes files. What a clock that was ahead has left says
    /// nothing.
    pub(super) async fn check_unchanged(&self, host: &Host, scan: ScanOptions, began_ns: i64) -> Result<()> {
        self.check()?;
        let meanwhile = began_ns..=host.clock.now_ns();
        let look = move || -> Result<Option<PathBuf>> {
            for entry in Scan::open(scan)? {
                let entry = entry?;
                let EntryKind::File { ctime_ns, .. } = entry.kind else { continue };
                let servers =
                    is_replicated(&entry.path) || entry.path.is_pg_control() || entry.path.is_wal_segment();
                if servers && meanwhile.contains(&ctime_ns) {
                    return Ok(Some(entry.source));
                }
            }
            Ok(None)
        };
        let looked = tokio::task::spawn_blocking(look);
        match looked
            .await
            .map_err(|_| Error::Internal { what: "looking at a stopped cluster panicked" })??
        {
            None => Ok(()),
            Some(file) => Err(Error::Changed { path: file }),
        }
    }

    /// Whether its files are consistent by themselves.
    fn is_clean(&self) -> bool {
        self.control.state == ClusterState::ShutDown
    }

    pub(super) fn identity(&self) -> NewCluster {
        let control = &self.control;
        NewCluster {
            system_id: control.system_id,
            version: control.version,
            catalog_version: control.catalog_version,
            control_version: control.control_version,
        }
    }

    pub(super) fn facts(&self) -> ClusterFacts {
        let control = &self.control;
        let directory = self.pg_data.canonicalize().unwrap_or_else(|_| self.pg_data.clone());
        ClusterFacts {
            catalog_version: control.catalog_version,
            control_version: control.control_version,
            block_size: control.block_size,
            segment_pages: control.relseg_size,
            wal_segment_size: control.wal_segment_size,
            data_checksums: control.has_page_checksums(),
            timeline: control.timeline,
            data_directory: directory.to_string_lossy().into_owned(),
        }
    }

    /// From where on replay makes up for torn pages: after a clean shutdown there are none.
    pub(super) fn replayed_from(&self) -> Lsn {
        if self.is_clean() { Lsn::new(u64::MAX) } else { self.control.redo_lsn }
    }

    /// Where it is consistent: at its last checkpoint, or after a crash nobody knows where in the log that is there.
    pub(super) fn end(&self) -> Lsn {
        let checkpoint = self.control.checkpoint_lsn;
        if self.is_clean() {
            return checkpoint;
        }
        let size = self.control.wal_segment_size;
        let behind =
            self.last.number(size).and_then(|number| number.checked_add(1)?.checked_mul(size.bytes().into()));
        behind.map_or(checkpoint, |end| checkpoint.max(Lsn::new(end)))
    }

    pub(super) fn lsn(&self) -> Span<Lsn> {
        Span { start: self.control.redo_lsn, stop: self.end().max(self.control.redo_lsn) }
    }

    /// The segments that recovery begins with, up to that of the last checkpoint: after a crash those behind it may be empty.
    pub(super) fn wal(&self) -> Span<WalSegmentName> {
        let control = &self.control;
        let name = |lsn| WalSegmentName::containing(control.timeline, lsn, control.wal_segment_size);
        Span { start: name(control.redo_lsn), stop: name(control.checkpoint_lsn) }
    }

    /// When it ended: what it did last was not later. The control file was written at the end, and says it in whole seconds. After a crash
    /// that is not known, and it was not later than now.
    pub(super) fn server_time(&self, host: &Host) -> Span<i64> {
        let ended = self.control.checkpoint_time.max(self.control.time);
        let seconds = if self.is_clean() { ended } else { host.now_seconds() };
        let at = seconds.saturating_add(1).saturating_mul(1_000_000);
        Span { start: at, stop: at }
    }
}

fn read_control(pg_data: &Path) -> Result<ControlFile> {
    Ok(read_control_file(pg_data.join("global/pg_control"))?.0)
}

/// Why what lies there is no cluster that can be backed up without its server.
fn unfit(pg_data: &Path, control: &ControlFile) -> Option<&'static str> {
    let signals = ["backup_label", "recovery.signal", "standby.signal"];
    if let Some(found) = signals.into_iter().find(|name| pg_data.join(name).exists()) {
        return Some(match found {
            "backup_label" => "has a backup_label: it was restored and not started yet",
            _ => "is a standby, or a restore that has not ended: back up its primary, or let it end",
        });
    }
    let recovers =
        matches!(control.state, ClusterState::ShutDownInRecovery | ClusterState::InArchiveRecovery);
    if recovers || control.backup_end_required || control.backup_start_point != Lsn::new(0) {
        return Some("was stopped in the middle of a recovery: start it, and stop it when that has ended");
    }
    (control.min_recovery_timeline > control.timeline)
        .then_some("crashed right after a promotion: start it, and stop it cleanly")
}

/// The last segment of the row in `pg_wal` that recovery reads.
fn last_segment(pg_data: &Path, control: &ControlFile) -> Result<WalSegmentName> {
    let size = control.wal_segment_size;
    let name = |lsn| WalSegmentName::containing(control.timeline, lsn, size);
    let (redo, checkpoint) = (name(control.redo_lsn), name(control.checkpoint_lsn));
    let is_whole = |segment: WalSegmentName| {
        let path = pg_data.join("pg_wal").join(segment.to_string());
        std::fs::metadata(&path).is_ok_and(|meta| meta.is_file() && meta.len() == u64::from(size.bytes()))
    };
    let (mut last, mut next) = (None, Some(redo));
    while let Some(segment) = next.filter(|segment| is_whole(*segment)) {
        (last, next) = (Some(segment), segment.next(size));
    }
    match last {
        Some(last) if last >= checkpoint => Ok(last),
        _ => {
            let missing = next.unwrap_or(redo);
            let directory = pg_data.join("pg_wal");
            let reason = format!(
                "'{}' has no whole segment {missing}, without which it does not start",
                directory.display()
            );
            Err(Error::Unfit { reason })
        }
    }
}
