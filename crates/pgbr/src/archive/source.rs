//! The archive of a stanza in one repository: opened by what is kept of it on this host, or by asking the store.

use std::path::PathBuf;
use std::time::Duration;

use pgbr_manifest::StanzaName;
use pgbr_repo::{FileKeyCache, KeyCache, Repo, Stanza};
use tokio::sync::Mutex;

use super::beside::TheirArchive;
use super::facts::{Facts, Kept, YOUNG};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::place::{RepoAccess, RepoPlace, StanzaPlace};

/// One repository of several, with the stanza that is meant.
pub(super) struct Source {
    /// Its number in the options: the lowest comes first.
    pub(super) key: u16,
    access: RepoAccess,
    stanza: StanzaName,
    facts: Option<Facts>,
    /// In a process that goes on: what is open, with its connections, and since when.
    open: Option<Mutex<Option<(StanzaPlace, Duration)>>>,
    /// What pgBackRest may have beside it.
    pub(super) theirs: TheirArchive,
}

/// A stanza that is open.
pub(super) struct Opened {
    pub(super) place: StanzaPlace,
    /// Whether the store was not asked: what this is may be up to a minute old.
    pub(super) kept: bool,
}

impl Source {
    pub(super) fn new(key: u16, access: &RepoAccess, stanza: &StanzaName, facts: Option<&PathBuf>) -> Self {
        // In a directory of this host the look is as cheap as the file that would spare it.
        let remote = !matches!(access.place, RepoPlace::Directory(_));
        let facts = facts.filter(|_| remote);
        // As it shows itself to developers: with its endpoint and all that tells it from another, without secrets.
        let facts =
            facts.map(|dir| Facts::new(dir.clone(), &format!("repo{key} {:?}", access.place), stanza));
        let theirs = TheirArchive::new(access, stanza);
        Self { key, access: access.clone(), stanza: stanza.clone(), facts, open: None, theirs }
    }

    /// The same for a process that goes on: what was opened stays open for a minute.
    pub(super) fn keeping(self) -> Self {
        Self { open: Some(Mutex::new(None)), theirs: self.theirs.keeping(), ..self }
    }

    /// Opens it without a request where that was done within the last minute.
    pub(super) async fn open(&self, host: &Host) -> Result<Opened> {
        if let Some(open) = &self.open {
            // Who comes while it is being opened waits for that.
            let mut open = open.lock().await;
            let now = host.clock.monotonic();
            if let Some((place, _)) = open.as_ref().filter(|(_, at)| now.saturating_sub(*at) < YOUNG) {
                return Ok(Opened { place: place.clone(), kept: true });
            }
            *open = None;
            let place = self.access.open_stanza(host, &self.stanza).await?;
            *open = Some((place.clone(), now));
            return Ok(Opened { place, kept: false });
        }
        if let Some(kept) = self.facts.as_ref().and_then(|facts| facts.load(host)) {
            match self.open_kept(host, kept).await {
                Ok(place) => return Ok(Opened { place, kept: true }),
                // Whatever is wrong with it, the store knows better.
                Err(_) => self.forget(),
            }
        }
        self.open_fresh(host).await
    }

    /// Opens it by asking the store.
    pub(super) async fn open_fresh(&self, host: &Host) -> Result<Opened> {
        let seen = host.clock.monotonic();
        let place = self.access.open_stanza(host, &self.stanza).await?;
        // What came from a copy is told each time, until somebody mends it.
        let whole = place.repo.warnings().is_empty() && place.stanza.warnings().is_empty();
        if let Some(facts) = self.facts.as_ref().filter(|_| whole) {
            facts.store(seen, place.repo.text(), &place.stanza.record()?);
        }
        if let Some(open) = &self.open {
            *open.lock().await = Some((place.clone(), seen));
        }
        Ok(Opened { place, kept: false })
    }

    /// Opens it anew the next time: something did not go as it should.
    pub(super) async fn close(&self) {
        if let Some(open) = &self.open {
            *open.lock().await = None;
        }
        self.forget();
    }

    /// Takes away what is kept: something did not go as it says.
    pub(super) fn forget(&self) {
        if let Some(facts) = &self.facts {
            facts.forget();
        }
    }

    async fn open_kept(&self, host: &Host, kept: Kept) -> Result<StanzaPlace> {
        let store = self.access.place.store(false)?;
        let cache = self.access.key_cache.as_ref().map(|dir| FileKeyCache::new(dir.clone()));
        let cache = cache.as_ref().map(|cache| cache as &dyn KeyCache);
        let passphrase = self.access.passphrase.as_ref();
        let repo = Repo::open_kept(store, kept.repo, passphrase, cache, host.entropy.clone()).await?;
        let stanza = Stanza::open_kept(&repo, &self.stanza, &kept.stanza)?;
        Ok(StanzaPlace::new(repo, stanza))
    }
}

impl Opened {
    /// Whether two looks at a repository saw the same one, with the same history of the stanza.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let (one, other) = (&self.place, &other.place);
        one.repo.id() == other.repo.id()
            && one.repo.keyring().key_id() == other.repo.keyring().key_id()
            && one.stanza.history() == other.stanza.history()
    }
}

/// One error of several repositories: that of a repository alone where no other was asked.
pub(super) fn several(doing: &str, asked: usize, mut failed: Vec<(u16, Error)>) -> Error {
    match (asked, failed.pop()) {
        (1, Some((_, alone))) => alone,
        (_, last) => {
            failed.extend(last);
            Error::Repos { doing: doing.to_owned(), failed }
        }
    }
}
