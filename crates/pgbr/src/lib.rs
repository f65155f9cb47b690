//! Backup, restore and WAL archiving for PostgreSQL as plain functions: the engine of pgbr.
//!
//! One function a command: [`stanza_create`], [`stanza_upgrade`], [`stanza_delete`], [`check`], [`backup()`], [`annotate()`], [`archive_push`],
//! [`archive_get`], [`restore()`], [`drill()`], [`expire()`], [`info`], [`manifest()`], [`repo_copy`], [`verify()`]. Most work on one repository: with several, call them for each ([`combine_info`] puts
//! what [`info`] says of them together, [`restore_source`] finds out whether one can serve a restore). Each takes a [`Host`] (clock, randomness, a listener) and a request of plain data, and gives a report. Nothing here reads a config file or an
//! environment variable, or prints. They run in a tokio runtime; what costs CPU runs on threads of its own.
//!
//! ```
//! use std::sync::Arc;
//!
//! use pgbr::{Host, InfoRequest, RepoAccess, Store, info};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! // Any store of the crate object_store; `RepoAccess::plain` takes a directory.
//! let memory = Arc::new(object_store::memory::InMemory::new());
//! let repo = RepoAccess::store(Store::remote(memory, "memory"));
//! let error = info(&Host::system(), InfoRequest { repo, stanza: None, set: None, recovery_windows: true }).await.unwrap_err();
//! assert!(matches!(error, pgbr::Error::Repo(pgbr::RepoError::NoRepository { .. })));
//! # });
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! `examples/backup_and_restore.rs` makes a backup of a running cluster and restores it.

mod ages;
mod annotate;
mod archive;
mod backup;
mod browse;
mod check;
mod cluster;
mod copy;
mod drill;
mod error;
mod expire;
#[cfg(fuzzing)]
pub mod fuzzing;
mod held;
mod host;
mod info;
mod keys;
mod load;
mod manifest;
mod observe;
mod packs;
mod place;
mod pool;
mod reach;
mod report;
mod restore;
mod run;
mod standing;
mod stanza;
mod theirs;
mod verify;
mod witness;
mod writer;

pub use ages::{AgeLimits, Aged, AgesRequest, TooOld, too_old};
pub use annotate::{AnnotateReport, AnnotateRequest, annotate};
pub use archive::{
    ArchiveGetRequest, ArchivePushRequest, Failure, GetWorkerRequest, Got, HandOverRequest, HandedOver,
    PushWorkerReport, PushWorkerRequest, ReadAhead, RecoveryMode, WorkerLock, archive_get, archive_get_ahead,
    archive_get_worker, archive_push, archive_push_worker, archive_queue_exceeded, hand_over, recovery_mode,
    sweep_spool,
};
pub use backup::{
    BackupRepo, BackupReport, BackupRequest, Backups, BadFile, FailedBackup, Resumed, StandbyUse, backup,
};
pub use browse::{
    RepoEntries, RepoEntry, RepoFile, RepoGetRequest, RepoListing, RepoLsRequest, RepoPath, RepoRmReport,
    RepoRmRequest, repo_get, repo_ls, repo_rm,
};
pub use check::{CheckReport, CheckRequest, check};
pub use cluster::ClusterAccess;
pub use copy::{CopiedBackup, CopiedWal, CopyReport, CopyRequest, CopyWal, repo_copy};
pub use drill::{
    DrillReport, DrillRequest, Span, drill, drill_data_dir, drill_from, drill_source, split_statements,
};
pub use error::{Error, Result};
pub use expire::{
    ArchiveFate, BackupFate, ExpireReport, ExpireRequest, ExpiredBackups, HoldRequest, ReleaseHoldRequest,
    Rubbish, RunFate, WalRange, expire, expire_as, hold, release_hold,
};
pub use host::{Clock, Entropy, Host, OsEntropy, Owner, Stop, SystemClock};
pub use info::{
    ArchiveInfo, AskedSet, GapReason, InfoReport, InfoRequest, RecoveryGap, RecoveryWindow, RecoveryWindows,
    RepoAnswer, RepoView, StanzaInfo, StanzaState, StanzaView, combine_info, info,
};
pub use keys::{
    ExportedKey, ImportReport, KeyChange, KeyReport, KeySlot, key_change, key_export, key_import, key_list,
};
pub use load::{Backup, load, summaries};
pub use manifest::{
    BackupManifest, BlockAmount, BlockCount, Blocking, BlocksOf, Bundling, FileBlocks, FileBytes, FileMap,
    FilesAsked, InBundle, ManifestFile, ManifestRequest, ManifestTime, manifest,
};
pub use observe::{Event, Observer, Silent};
pub use pgbr_pgbackrest::{ArchiveId as AnyArchiveId, BackupEntry as TheirBackup, Error as TheirError};
pub use place::{RepoAccess, RepoPlace, StanzaPlace};
pub use restore::{
    Databases, Existing, Fetched, Places, Reach, RestoreDryRun, RestoreReport, RestoreRequest, RestoreSource,
    WalReach, Work, parse_time, restore, restore_dry_run, restore_from, restore_source,
};
pub use stanza::{
    StanzaCreateRequest, StanzaCreated, StanzaDeleteRequest, StanzaDeleted, StanzaUpgradeRequest,
    StanzaUpgraded, TakeOver, stanza_create, stanza_delete, stanza_upgrade,
};
pub use theirs::{
    TheirArchive, TheirCluster, TheirRest, TheirSet, TheirStanza, TheirsRemoveRequest, theirs_remove,
    theirs_rest,
};
pub use verify::{
    BackupStatus, FileCounts, Finding, FindingKind, FindingLevel, Recovery, RecoveryEnd, SegmentRange,
    Unneeded, VerifiedArchive, VerifiedBackup, VerifiedTheirArchive, VerifiedTheirs, VerifyBudget,
    VerifyCounts, VerifyCoverage, VerifyReport, VerifyRequest, verify,
};
pub use witness::{VerifyWitness, WitnessFile, witness_forget, witness_keep, witness_keep_keys};
pub use writer::Writer;

// The words that requests and reports are made of, so that an embedder needs one dependency.
pub use pgbr_codec::{Cipher, Codec, Compression, Error as CodecError, Passphrase};
pub use pgbr_manifest::manifest::{Body, Database, Link, Summary, Tablespace};
pub use pgbr_manifest::retention::{Asked, FullRetention, Periods, Policy};
pub use pgbr_manifest::{
    ArchiveId, BackupLabel, BackupType, Error as ManifestError, Lsn, PgVersion, StanzaName, SystemId,
    TimelineId, WalFileName, WalSegmentName,
};
pub use pgbr_pg::{ConnectOptions, Error as PgError, Password, RecoveryAction, RecoveryGoal};
pub use pgbr_repo::{
    AzureCredentials, AzureOptions, Cause, CheckResult, CloudConnect, CloudKind, CloudOptions, ClusterId,
    Drill, DrillCheck, DrillFacts, Error as RepoError, GcsCredentials, GcsOptions, HeldLock, HoldRecord,
    HoldState, Lock, LockHolder, LockProgress, LockRequest, LockType, NewSlot, NoteChanges, PushOutcome,
    S3Credentials, S3Options, Secret, StopFile, Store, UriStyle, WalBounds, create_stop_file, held_locks,
    lock_holder, lock_path, remove_stop_file, stop_file,
};
