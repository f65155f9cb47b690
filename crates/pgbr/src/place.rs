//! Where a command works: a repository that is open, and a stanza in it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use pgbr_codec::{Cipher, Passphrase};
use pgbr_manifest::StanzaName;
use pgbr_repo::{
    BackupStore, CloudOptions, Error as RepoError, FileKeyCache, KeyCache, Lease, LeaseName, Leases, Repo,
    Stanza, Store, WalStore,
};

use crate::error::{Error, Result};
use crate::held::Held;
use crate::host::Host;
use crate::stanza::{TakeOver, explain_cipher, take_over};

/// Where a repository lies.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum RepoPlace {
    /// A directory of this host, which holds `pgbr/`.
    Directory(PathBuf),
    /// A place in a cloud store.
    Cloud(Arc<CloudOptions>),
    /// Any other store, or a directory whose store the caller has wrapped.
    Store(Store),
    /// None: the caller has found a reason why this repository cannot be used. Whoever tries gets an error of this text, while the other
    /// repositories have their turn.
    Unusable(String),
}

impl fmt::Display for RepoPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => path.display().fmt(f),
            Self::Cloud(options) => options.fmt(f),
            Self::Store(store) => store.fmt(f),
            Self::Unusable(_) => f.write_str("(unusable)"),
        }
    }
}

impl RepoPlace {
    /// Whether it is a directory that is not there: not made yet, or of a disk that is not mounted. Whoever only looks, and whoever makes a
    /// repository, takes it for an empty one, as pgBackRest does; all others are told that it cannot be reached.
    pub(crate) fn is_not_there(&self) -> bool {
        let missing = |path: &PathBuf| match std::fs::symlink_metadata(path) {
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
            Ok(_) => false,
        };
        matches!(self, Self::Directory(path) if missing(path))
    }

    /// The store; with `create` a directory is made where it is missing.
    pub(crate) fn store(&self, create: bool) -> Result<Store> {
        match self {
            Self::Directory(path) => Ok(Store::local(path, create)?),
            Self::Cloud(options) => Ok(Store::cloud(options)?),
            Self::Store(store) => Ok(store.clone()),
            Self::Unusable(reason) => Err(Error::Unusable { reason: reason.clone() }),
        }
    }
}

/// How to reach a repository.
#[derive(Debug, Clone)]
pub struct RepoAccess {
    /// Where it lies.
    pub place: RepoPlace,
    /// What opens it, where it is encrypted.
    pub passphrase: Option<Passphrase>,
    /// What opens pgBackRest's backups and WAL beside it; none: the same.
    pub their_passphrase: Option<Passphrase>,
    /// Directory for keys derived from passphrases, mode 0600; none: they are derived each time.
    pub key_cache: Option<PathBuf>,
    /// Whether a stanza that is not there is made from what pgBackRest has of it, by whoever opens it.
    pub take_over: Option<TakeOver>,
}

impl RepoAccess {
    /// A directory without encryption.
    pub fn plain(path: impl Into<PathBuf>) -> Self {
        Self::new(RepoPlace::Directory(path.into()))
    }

    /// A place in a cloud store, without encryption.
    pub fn cloud(options: CloudOptions) -> Self {
        Self::new(RepoPlace::Cloud(Arc::new(options)))
    }

    /// A store that the caller has made, without encryption.
    pub const fn store(store: Store) -> Self {
        Self::new(RepoPlace::Store(store))
    }

    /// A place, without encryption.
    pub const fn new(place: RepoPlace) -> Self {
        Self { place, passphrase: None, their_passphrase: None, key_cache: None, take_over: None }
    }

    /// The same with what opens it, or what is to open it once it is made.
    #[must_use]
    pub fn with_passphrase(self, passphrase: Passphrase) -> Self {
        Self { passphrase: Some(passphrase), ..self }
    }

    /// Opens the repository. Its warnings go to the observer.
    ///
    /// # Errors
    /// As [`Repo::open`].
    pub async fn open(&self, host: &Host) -> Result<Repo> {
        let store = self.place.store(false)?;
        let cache = self.key_cache.as_ref().map(|dir| FileKeyCache::new(dir.clone()));
        let cache = cache.as_ref().map(|cache| cache as &dyn KeyCache);
        let repo = Repo::open(store, self.passphrase.as_ref(), cache, host.entropy.clone()).await?;
        repo.warnings().iter().for_each(|warning| host.warn(warning.as_str()));
        Ok(repo)
    }

    /// Opens a stanza; where it is not there, with [`RepoAccess::take_over`], makes it from what pgBackRest has of it.
    ///
    /// # Errors
    /// As [`Repo::open`] and [`Stanza::open`]; where what pgBackRest has cannot be taken over.
    pub async fn open_stanza(&self, host: &Host, name: &StanzaName) -> Result<StanzaPlace> {
        match (self.open_made(host, name).await, &self.take_over) {
            (Err(error), Some(asked)) if is_absent(&error) => take_over(host, self, name, asked, error).await,
            (Err(Error::Repo(error)), Some(_)) => Err(explain_cipher(self, name, error).await),
            (opened, _) => opened,
        }
    }

    /// Opens a stanza that is there.
    pub(crate) async fn open_made(&self, host: &Host, name: &StanzaName) -> Result<StanzaPlace> {
        let repo = self.open(host).await?;
        let stanza = Stanza::open(&repo, name).await?;
        stanza.warnings().iter().for_each(|warning| host.warn(warning.as_str()));
        Ok(StanzaPlace::new(repo, stanza))
    }

    /// Opens a stanza in a repository whose content is to be read; `doing` is what for, as `restore`.
    ///
    /// # Errors
    /// As [`RepoAccess::open_stanza`]; [`RepoError::WriteOnly`].
    pub(crate) async fn open_to_read(
        &self,
        host: &Host,
        name: &StanzaName,
        doing: &str,
    ) -> Result<StanzaPlace> {
        let place = self.open_stanza(host, name).await?;
        place.repo.require_reader(doing)?;
        Ok(place)
    }

    /// What a new repository is sealed with.
    pub(crate) const fn cipher(&self) -> Cipher {
        if self.passphrase.is_some() { Cipher::Aes256Gcm } else { Cipher::None }
    }
}

/// An open stanza in an open repository. Cheap to clone.
#[derive(Debug, Clone)]
pub struct StanzaPlace {
    /// The repository.
    pub repo: Repo,
    /// The stanza.
    pub stanza: Stanza,
    /// Its backups.
    pub backups: BackupStore,
    /// Its WAL archive.
    pub wal: WalStore,
}

impl StanzaPlace {
    /// The same for who holds the lease of its writers: nothing is overwritten or taken away through it once that may be another's.
    pub(crate) fn guarded(&self, lease: &Held<Lease>) -> Self {
        Self::new(self.repo.guarded(lease.guard()), self.stanza.clone())
    }

    pub(crate) fn new(repo: Repo, stanza: Stanza) -> Self {
        let backups = BackupStore::new(&repo, stanza.name());
        let wal = WalStore::new(&repo, stanza.name());
        Self { repo, stanza, backups, wal }
    }

    /// Whether another command writes to the stanza, which may be an expire.
    pub(crate) async fn is_busy(&self, host: &Host) -> Result<bool> {
        let leases = Leases::new(&self.repo, Some(self.stanza.name()), LeaseName::backup());
        let state = leases.state().await?;
        Ok(state.is_some_and(|state| !state.released && !host.owner.knows_dead(&state.holder)))
    }
}

/// Whether an error says that there is no repository of ours, or no such stanza in it.
pub(crate) const fn is_absent(error: &Error) -> bool {
    matches!(error, Error::Repo(RepoError::NoRepository { .. } | RepoError::StanzaMissing { .. }))
}
