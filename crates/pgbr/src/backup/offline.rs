//! Offline backup: the files of a cluster that is stopped, with the WAL in its `pg_wal`.
//!
//! Why that is sound. What a clean shutdown leaves is consistent by itself. What a crash leaves becomes consistent by the WAL behind its last
//! checkpoint, which lies in `pg_wal` and is copied, too. Both hold only while no server writes: that none was started is looked at again
//! and again, and the control file must be the same at the end as at the beginning.

use std::path::{Path, PathBuf};

use pgbr_manifest::manifest::{ClusterFacts, Span};
use pgbr_manifest::{Lsn, WalFileName, WalSegmentName};
use pgbr_pg::{ClusterState, ControlFile, ServerState, read_control_file, server_state};
use pgbr_repo::NewCluster;

use crate::error::{Error, Result};
use crate::host::Host;

/// A cluster without a server.
pub(super) struct Stopped {
    pg_data: PathBuf,
    control: ControlFile,
    /// What `postmaster.pid` told.
    state: ServerState,
    /// The last segment in `pg_wal` that may hold some of its log.
    last: WalSegmentName,
}

impl Stopped {
    /// Sees that no server runs on `pg_data`, and what was left there.
    ///
    /// # Errors
    /// When a server runs; when `postmaster.pid` is there, without `force`; when the directory is a copy that has not been started yet.
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
        if pg_data.join("backup_label").exists() {
            let reason = format!(
                "'{}' has a backup_label: it was restored and not started yet, and is no cluster that was stopped",
                pg_data.display()
            );
            return Err(Error::Unfit { reason });
        }
        let control = read_control(pg_data)?;
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

    /// Whether its files are consistent by themselves.
    fn is_clean(&self) -> bool {
        matches!(self.control.state, ClusterState::ShutDown | ClusterState::ShutDownInRecovery)
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
        let checkpoint = self.control.checkpoint_lsn.max(self.control.min_recovery_point);
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

    /// The segments that recovery begins and ends with.
    pub(super) fn wal(&self) -> Span<WalSegmentName> {
        let (control, lsn) = (&self.control, self.lsn());
        let name = |lsn| WalSegmentName::containing(control.timeline, lsn, control.wal_segment_size);
        Span { start: name(lsn.start), stop: name(lsn.stop.previous_byte().max(control.checkpoint_lsn)) }
    }

    /// When it ended: what it did last was not later. After a crash that is not known, and it was not later than now.
    pub(super) fn server_time(&self, host: &Host) -> Span<i64> {
        let seconds = if self.is_clean() { self.control.checkpoint_time } else { host.now_seconds() };
        let at = seconds.saturating_mul(1_000_000);
        Span { start: at, stop: at }
    }
}

fn read_control(pg_data: &Path) -> Result<ControlFile> {
    Ok(read_control_file(pg_data.join("global/pg_control"))?.0)
}

/// The last segment of the cluster's timeline that lies in `pg_wal`: that of the checkpoint at least. Later ones may be empty, made for later use.
fn last_segment(pg_data: &Path, control: &ControlFile) -> Result<WalSegmentName> {
    let own = WalSegmentName::containing(control.timeline, control.checkpoint_lsn, control.wal_segment_size);
    let directory = pg_data.join("pg_wal");
    let mut last = own;
    for entry in std::fs::read_dir(&directory).map_err(Error::io("list", &directory))? {
        let name = entry.map_err(Error::io("list", &directory))?.file_name();
        if let Some(Ok(WalFileName::Segment(segment))) = name.to_str().map(str::parse)
            && segment.timeline() == control.timeline
        {
            last = last.max(segment);
        }
    }
    Ok(last)
}
