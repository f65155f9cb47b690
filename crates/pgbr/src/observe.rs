//! What the engine tells while it works. Lines, bars and JSON are made of these by whoever listens.

use std::path::PathBuf;
use std::time::Duration;

use pgbr_manifest::{ArchiveId, BackupLabel, Lsn, WalSegmentName};
use pgbr_pgbackrest::ArchiveId as AnyArchiveId;

use crate::expire::{ExpiredBackups, RunFate};

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// PostgreSQL was asked to begin a backup (which waits for a checkpoint).
    BackupStarting {
        /// Whether the checkpoint is done at once.
        fast: bool,
    },
    /// The backup has begun.
    BackupStarted {
        /// Redo position of the checkpoint.
        lsn: Lsn,
        /// The segment that holds it.
        segment: WalSegmentName,
    },
    /// Copying begins.
    CopyStarted {
        /// Bytes of the cluster, as PostgreSQL counts them; an estimate for progress.
        estimate: u64,
    },
    /// Bytes read, or written back, so far.
    Progress {
        /// Bytes done.
        done: u64,
        /// Bytes in all, an estimate while a backup runs.
        total: u64,
    },
    /// A file was taken or written.
    File {
        /// Its path in the backup.
        path: String,
        /// Its size in bytes.
        size: u64,
    },
    /// PostgreSQL was asked to end the backup.
    BackupStopping,
    /// The backup has ended; its WAL is waited for.
    BackupStopped {
        /// The first position at which it is consistent.
        lsn: Lsn,
        /// The last segment that it needs.
        segment: WalSegmentName,
    },
    /// A server was found, and it is seen whether the stanza is its own.
    CheckingCluster {
        /// Whether it is a standby.
        standby: bool,
    },
    /// It is seen whether a segment that the server was asked to end arrives in the archive.
    CheckingArchive,
    /// WAL is waited for.
    WaitingForWal {
        /// Whether it is the segment before the backup's first: that archiving works is seen before anything is copied.
        prior: bool,
        /// From this segment.
        first: WalSegmentName,
        /// To this one.
        last: WalSegmentName,
    },
    /// A backup can be restored from now on.
    BackupCommitted {
        /// Its name.
        label: BackupLabel,
    },
    /// Backups are about to be removed by a rule, or would be.
    Expiring {
        /// Which ones, and what for.
        expired: ExpiredBackups,
    },
    /// All of a backup is gone.
    BackupExpired {
        /// Its name.
        label: BackupLabel,
    },
    /// What runs have left that never finished their backup stays or goes.
    UnfinishedRun {
        /// What becomes of it.
        fate: RunFate,
    },
    /// WAL is gone.
    WalExpired {
        /// From which archive.
        archive: ArchiveId,
        /// The first segment of it.
        start: WalSegmentName,
        /// The last.
        stop: WalSegmentName,
    },
    /// No WAL of an archive goes.
    NoWalExpired {
        /// The archive.
        archive: ArchiveId,
    },
    /// A WAL file is durable in every repository.
    WalPushed {
        /// Its name.
        file: String,
    },
    /// A WAL segment was fetched before the server asked for it.
    WalFetched {
        /// Its name.
        segment: WalSegmentName,
        /// The number of the repository that it came from.
        repo: u16,
        /// The archive there.
        archive: Option<AnyArchiveId>,
    },
    /// A restore begins.
    RestoreStarting {
        /// The backup it begins with.
        label: BackupLabel,
        /// The local time from which on recovery goes; none of a cluster that was stopped.
        from: Option<String>,
    },
    /// Something in the target that the backup does not have is removed, or would be in a dry run.
    Removing {
        /// Where it is.
        path: PathBuf,
    },
    /// A step that takes time is done.
    Step {
        /// What it was, a few words.
        name: &'static str,
        /// How long it took.
        took: Duration,
    },
    /// Something the operator should know; it is in the report, too, where it concerns the result.
    Warning {
        /// One sentence or more.
        text: String,
    },
    /// How something was decided.
    Detail {
        /// One sentence.
        text: String,
    },
    /// Something an operator may like to know.
    Note {
        /// One sentence.
        text: String,
    },
    /// A file that restore does not write by itself.
    ConfigFile {
        /// Where it lay.
        path: PathBuf,
    },
}

/// Listens. It is called from several threads and must be quick.
pub trait Observer: Send + Sync {
    /// Takes note of `event`.
    fn event(&self, event: &Event);
}

/// Listens to nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _: &Event) {}
}
