//! Where a command works: a repository that is open, and a stanza in it.

use std::path::PathBuf;

use pgbr_codec::{Cipher, Passphrase};
use pgbr_manifest::StanzaName;
use pgbr_repo::{BackupStore, FileKeyCache, KeyCache, Repo, Stanza, Store, WalStore};

use crate::error::Result;
use crate::host::Host;

/// How to reach a repository.
#[derive(Debug, Clone)]
pub struct RepoAccess {
    /// Directory that holds `pgbr/`.
    pub path: PathBuf,
    /// What opens it, where it is encrypted.
    pub passphrase: Option<Passphrase>,
    /// Directory for keys derived from passphrases, mode 0600; none: they are derived each time.
    pub key_cache: Option<PathBuf>,
}

impl RepoAccess {
    /// A directory without encryption.
    pub fn plain(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), passphrase: None, key_cache: None }
    }

    /// Opens the repository. Its warnings go to the observer.
    ///
    /// # Errors
    /// As [`Repo::open`].
    pub async fn open(&self, host: &Host) -> Result<Repo> {
        let store = Store::local(&self.path, false)?;
        let cache = self.key_cache.as_ref().map(|dir| FileKeyCache::new(dir.clone()));
        let cache = cache.as_ref().map(|cache| cache as &dyn KeyCache);
        let repo = Repo::open(store, self.passphrase.as_ref(), cache, host.entropy.clone()).await?;
        repo.warnings().iter().for_each(|warning| host.warn(warning.as_str()));
        Ok(repo)
    }

    /// Opens a stanza.
    ///
    /// # Errors
    /// As [`Repo::open`] and [`Stanza::open`].
    pub async fn open_stanza(&self, host: &Host, name: &StanzaName) -> Result<StanzaPlace> {
        let repo = self.open(host).await?;
        let stanza = Stanza::open(&repo, name).await?;
        stanza.warnings().iter().for_each(|warning| host.warn(warning.as_str()));
        Ok(StanzaPlace::new(repo, stanza))
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
    pub(crate) fn new(repo: Repo, stanza: Stanza) -> Self {
        let backups = BackupStore::new(&repo, stanza.name());
        let wal = WalStore::new(&repo, stanza.name());
        Self { repo, stanza, backups, wal }
    }
}
