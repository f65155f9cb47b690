//! A PostgreSQL cluster, live or stopped: what it is, what is in it, how a backup of it begins and ends, and what a restored one is told.
//!
//! - [`Session`] talks to a server: [`ClusterFacts`], and a backup from [`RunningBackup`] to [`FinishedBackup`].
//! - [`Scan`] lists a data directory in the order of the index; [`FileReader`] reads its files and judges their pages.
//! - [`ControlFile`], [`BackupLabelFile`], [`WalHeader`], [`RelationFile`] and the functions about pages turn bytes into values. They trust nothing.
//! - [`RecoveryPlan`] says what goes into `postgresql.auto.conf`; [`write_durable`] and its like put files on disk so that they stay.
//!
//! A live data directory is only read, never written to. Nothing here knows of repositories, compression or encryption. A 13 to 18
//! server on a 64-bit little-endian machine is taken for granted; everything else is refused.
//!
//! ```
//! use pgbr_pg::{PageVerdict, RecoveryGoal, RelationFile, check_page, page_checksum};
//! use pgbr_manifest::Lsn;
//!
//! // The third page of the second segment of relation 16384, a page of garbage:
//! let file = RelationFile::parse(b"16384.1").expect("it is the name of a relation");
//! let block = file.first_block(131_072) + 2;
//! let page = [0x42; 8192];
//! let verdict = check_page(&page, block, Lsn::ZERO, "0/2000028".parse()?);
//! assert!(matches!(verdict, PageVerdict::Bad { expected, .. } if expected == page_checksum(&page, block)));
//! # Ok::<(), pgbr_manifest::Error>(())
//! ```
//!
//! A backup, but for the copying:
//!
//! ```no_run
//! use pgbr_pg::{ConnectOptions, Scan, ScanOptions, Session};
//!
//! # async fn backup() -> Result<(), pgbr_pg::Error> {
//! let session = Session::connect(&ConnectOptions::default()).await?;
//! let facts = session.facts().await?;
//! let running = session.start_backup("nightly", true).await?;
//! let scan = Scan::open(ScanOptions {
//!     pg_data: facts.data_directory.clone(),
//!     version: facts.version,
//!     exclude: Vec::new(),
//!     external_config: pgbr_pg::external_config_files(&facts),
//!     stopped: false,
//!     standby: None,
//! })?;
//! for entry in scan {
//!     let _copy = entry?;
//! }
//! let finished = running.stop().await?;
//! assert!(finished.label_file.starts_with("START WAL LOCATION"));
//! # Ok(())
//! # }
//! ```

mod config_files;
mod connect;
mod control;
mod durable;
mod error;
mod exclude;
#[cfg(fuzzing)]
pub mod fuzzing;
mod label_file;
mod owner;
mod owner_ids;
mod page;
mod reader;
mod recovery;
mod relation;
mod running;
mod scan;
mod session;
mod wal;

pub use config_files::external_config_files;
pub use connect::{ConnectOptions, Password};
pub use control::{CONTROL_FILE_BYTES, ClusterState, ControlFile, filenode_map_is_whole, read_control_file};
pub use durable::{TEMPORARY_SUFFIX, rename_durable, sync_dir, syncfs, write_durable};
pub use error::{Error, Result, ServerError};
pub use exclude::{DirectoryRule, Exclusions};
pub use label_file::{BackupLabelFile, TablespaceMapEntry, parse_tablespace_map, render_tablespace_map};
pub use owner_ids::OwnerIds;
pub use page::{PageVerdict, check_page, page_checksum, page_lsn};
pub use reader::{FileReader, PageContext, UpperLsn};
pub use recovery::{RecoveryAction, RecoveryGoal, RecoveryPlan, SignalFile};
pub use relation::{Fork, RelationFile, holds_relations, is_temporary};
pub use running::{ServerState, server_state};
pub use scan::{
    EntryKind, FileMeta, Scan, ScanEntry, ScanOptions, Skipped, TablespaceLink, is_replicated,
    read_pg_version,
};
pub use session::{
    Canceller, ClusterFacts, Database, FinishedBackup, Judged, RunningBackup, Session, Tablespace,
};
pub use wal::{WAL_HEADER_BYTES, WalHeader, check_segment};
