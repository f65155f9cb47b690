//! Where backups live: repository layout, durable object storage, WAL archive, leases and pins.
//!
//! A repository is a tree of immutable objects below `pgbr/` in a directory or a bucket. What this crate holds to:
//!
//! - **A backup exists when its manifest does**, and the manifest is put last by one atomic create ([`BackupStore::commit_manifest`]).
//! - **Nothing that a backup depends on is overwritten.** Only `repo.json`, stanza records and signs of life are rewritten.
//! - **"Exists" and "failed" are questions, not answers**: a create that reports either is resolved by reading the object back.
//! - **"Missing" is said only by a repository that was reached** ([`Error::NotFound`]); everything else is [`Error::Unavailable`] or worse.
//! - **Success means durable**, on a file system too ([`Store`]).
//!
//! What a backup holds is not its concern: packs, manifests and WAL come as bytes, sealed by `pgbr-codec`. It reads no clock and draws
//! no random numbers by itself: times are arguments, and [`Entropy`] is given once, when a repository is made or opened.
//!
//! ```
//! # struct Os;
//! # impl pgbr_repo::Entropy for Os {
//! #     fn fill(&self, bytes: &mut [u8]) -> pgbr_repo::Result<()> {
//! #         use std::io::Read;
//! #         std::fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(bytes)).map_err(|e| {
//! #             pgbr_repo::Error::Entropy { source: e.into() }
//! #         })
//! #     }
//! # }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use pgbr_repo::*;
//! use std::sync::Arc;
//!
//! let dir = tempfile::tempdir()?;
//! let store = Store::local(dir.path(), true)?;
//! let passphrase = pgbr_codec::Passphrase::generated(&[7; 32]);
//! let entropy: Arc<dyn Entropy> = Arc::new(Os);
//! let options = CreateOptions { cipher: pgbr_codec::Cipher::Aes256Gcm, passphrase: Some(passphrase.clone()), now: 1_790_000_000, kdf: None, entropy: Arc::clone(&entropy) };
//! Repo::create(store.clone(), options).await?;
//!
//! let repo = Repo::open(store, Some(&passphrase), None, entropy).await?;
//! let cluster = NewCluster {
//!     system_id: pgbr_manifest::SystemId::new(42),
//!     version: pgbr_manifest::PgVersion::V17,
//!     catalog_version: 202406281,
//!     control_version: 1700,
//! };
//! let stanza = Stanza::create(&repo, &"main".parse()?, cluster, 1_790_000_000).await?;
//!
//! let wal = WalStore::new(&repo, stanza.name());
//! let file = "000000010000000000000001".parse()?;
//! let push = WalPush::new(stanza.archive_id(), file, WalSource::Bytes(vec![1; 1 << 20].into()));
//! wal.push(push).await?;
//! let WalGet::Found(found) = wal.get(stanza.archive_id(), &file).await? else { panic!("it was just pushed") };
//! assert_eq!(found.content, vec![1; 1 << 20]);
//! # Ok(()) }
//! ```

mod backup_objects;
mod cloud;
mod drill;
mod error;
#[cfg(fuzzing)]
pub mod fuzzing;
mod guard;
mod hold;
mod key_cache;
mod keys;
mod lease;
mod ledger;
mod lock;
mod note;
mod numbered;
mod pin;
mod probe;
mod record;
mod repo_file;
mod run_record;
mod stanza;
mod store;
mod wal;
mod watch;

pub use backup_objects::{BackupStore, LabelObjects, PackObject, RemovedManifest};
pub use cloud::{
    AzureCredentials, AzureOptions, CloudConnect, CloudKind, CloudOptions, GcsCredentials, GcsOptions,
    S3Credentials, S3Options, Secret, UriStyle,
};
pub use drill::{CheckResult, Drill, DrillCheck, DrillFacts, Drills};
pub use error::{Cause, Error, Result};
pub use guard::Guard;
pub use hold::{HoldRecord, HoldRequest, HoldState, Holds};
pub use key_cache::{FileKeyCache, KeyCache};
pub use keys::{HoldId, Layout, LeaseName, PREFIX, ParsedKey, PinId, WalDigest, WalLog};
pub use lease::{Lease, LeaseRequest, LeaseState, LeaseStep, Leases};
pub use ledger::{LedgerOf, LedgerParts, Ledgers};
pub use lock::{
    HeldLock, Lock, LockHolder, LockProgress, LockRequest, LockType, StopFile, create_stop_file, held_locks,
    held_locks_of_any_version, lock_holder, lock_path, remove_stop_file, stop_file,
};
pub use note::{Note, NoteChanges, Notes};
pub use pin::{Pin, PinKind, PinRecord, PinRequest, PinState, Pins};
pub use probe::StoreTraits;
pub use repo_file::{CreateOptions, Entropy, Imported, NewSlot, Repo, SlotInfo};
pub use run_record::{RunFacts, RunFound};
pub use stanza::{ClusterId, NewCluster, Stanza};
pub use store::{Created, Leftover, Level, Listed, Requests, Resolved, Store, Undeleted};
pub use wal::{
    PushOutcome, WalBounds, WalContent, WalEntry, WalFound, WalGet, WalPush, WalSaved, WalSource, WalStore,
};
pub use watch::Watch;
