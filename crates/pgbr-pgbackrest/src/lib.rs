//! Reads repositories in pgBackRest's format 5, as its versions 2.45 to 2.59 write it.
//!
//! - [`Repository`] and [`Stanza`]: what there is. [`ArchiveInfo`], [`BackupInfo`] and [`Manifest`] are what the info files say, each fact parsed
//!   once; a file that is damaged is replaced by its copy.
//! - [`Backups`] and [`Backup`]: which backups can be used, and the content of each of their files, whether it has an object of its own, lies in a
//!   bundle or is put together from blocks of several backups.
//! - [`Archive`]: WAL segments and history files.
//!
//! It only reads. What it reads was written by others and may be damaged or forged: sizes are bounded before memory is taken, paths cannot lead
//! out, and content is right when its reader has ended ([`Content`]). It does no I/O of its own but for [`Directory`]: objects come through
//! [`Objects`]. The format's encryption does not tell forged bytes from right ones; only its checksums do, and those can be forged by whoever
//! has the passphrase.
//!
//! ```
//! use std::collections::BTreeMap;
//! use std::sync::Arc;
//! use pgbr_pgbackrest::{Objects, Repository};
//!
//! # let info = "[backrest]\nbackrest-format=5\nbackrest-version=\"2.59\"\n\n[db]\ndb-catalog-version=202209061\ndb-control-version=1300\ndb-id=1\n\
//! #     db-system-id=7300000000000000001\ndb-version=\"15\"\n\n[db:history]\n1={\"db-catalog-version\":202209061,\"db-control-version\":1300,\
//! #     \"db-system-id\":7300000000000000001,\"db-version\":\"15\"}\n\n[backrest]\nbackrest-checksum=\"e7740227ebed76fa4f3029bcce7a2a231646dcb8\"\n";
//! // Most programs have their objects in a pgbr_pgbackrest::Directory or a store of their own.
//! let objects = BTreeMap::from([("backup/main/backup.info".to_owned(), info.as_bytes().to_vec())]);
//! let repository = Repository::new(Arc::new(objects), None);
//!
//! for name in repository.stanzas()? {
//!     let backups = repository.stanza(name).backups()?;
//!     println!("PostgreSQL {}", backups.info.info.current.version);
//!     for entry in &backups.usable {
//!         let backup = backups.open(entry.label)?;
//!         for file in &backup.manifest().files {
//!             // Fails unless size and SHA-1 are those that the manifest has.
//!             std::io::copy(&mut backup.open(file)?, &mut std::io::sink())?;
//!         }
//!     }
//! }
//! # assert_eq!(repository.stanzas()?.len(), 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod archive;
mod archive_info;
mod backup;
mod backup_info;
mod block_map;
mod cipher;
mod compression;
mod content;
mod error;
mod info_file;
mod layout;
mod manifest;
mod names;
mod objects;
mod presence;
mod repository;

pub use archive::{Archive, WalObject};
pub use archive_info::{ArchiveCluster, ArchiveInfo};
pub use backup::{Backup, Backups, Dropped, Stored};
pub use backup_info::{BackupEntry, BackupInfo, Cluster, EntryOptions, Sizes, WalRange};
pub use block_map::{Block, BlockMap, MapShape, Run, SuperBlock};
pub use cipher::{Framing, Passphrase};
pub use compression::Compression;
pub use content::Content;
pub use error::{Error, Result};
pub use manifest::{
    Blocks, Database, Directory as ManifestDirectory, File, Link, Manifest, Mode, Options, Owner, PageCheck,
    Place, Target, TargetKind,
};
pub use names::{ArchiveId, Checksum, DbVersion, HistoryId};
pub use objects::{Directory, Level, ObjectError, Objects};
pub use repository::{Loaded, Repository, Stanza};
