//! Leases: one writer a stanza, on stores that know no conditional update.
//!
//! A lease is a row of numbered terms, each a record. A term is taken by creating the next number, which one process alone can do; its holder
//! rewrites the term with a growing counter to show that it is alive, and marks it released in the end. The highest number counts. Numbers
//! are never used again, so a slow process cannot take what another has taken since. A term is taken over only by an observer that has seen
//! it unchanged for its time-to-live ([`Watch`]).
//!
//! Nothing relies on a lease alone: it keeps two backups from working for nothing, and the create of the manifest decides.

use std::time::Duration;

use data_encoding::HEXLOWER;
use futures::stream::TryStreamExt;
use pgbr_manifest::StanzaName;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::keys::{Layout, LeaseName, ParsedKey};
use crate::record::{self, MAX_OBJECT, Record};
use crate::repo_file::Repo;
use crate::store::Resolved;
use crate::watch::Watch;

/// A lease of a stanza, or of the repository's own record.
#[derive(Debug, Clone)]
pub struct Leases {
    repo: Repo,
    stanza: Option<StanzaName>,
    name: LeaseName,
}

/// For whom a lease is to be taken.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_structs, reason = "filled in by the caller; a new field has to be decided on")]
pub struct LeaseRequest {
    /// Host and process, for people to read.
    pub holder: String,
    /// How long the holder may go without a sign of life, 1 second to 1 day. A sign should come several times as often.
    pub ttl: Duration,
}

/// The highest term of a lease, as an observer finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaseState {
    /// The term.
    pub number: u64,
    /// The random id of who took it; empty where the record cannot be read.
    pub owner: String,
    /// Host and process, in the holder's words.
    pub holder: String,
    /// The last sign of life.
    pub beat: u64,
    /// How long it may go without one.
    pub ttl: Duration,
    /// Whether the holder has given it back.
    pub released: bool,
}

/// What an observer may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a lease can be taken or it cannot")]
pub enum LeaseStep {
    /// Take the lease by creating this term.
    Take(u64),
    /// Leave it.
    Leave,
}

impl LeaseState {
    /// What to do about a lease that has been seen unchanged for so long; `None` where it has no term yet.
    pub fn step(current: Option<&Self>, unchanged: Duration) -> LeaseStep {
        match current {
            None => LeaseStep::Take(1),
            Some(state) if state.released || unchanged >= state.ttl => {
                state.number.checked_add(1).map_or(LeaseStep::Leave, LeaseStep::Take)
            }
            Some(_) => LeaseStep::Leave,
        }
    }
}

/// A lease that this process holds. Dropping it leaves it to go stale.
#[derive(Debug)]
pub struct Lease {
    leases: Leases,
    number: u64,
    term: Term,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Term {
    record: String,
    name: String,
    owner: String,
    holder: String,
    beat: u64,
    ttl_seconds: u64,
    released: bool,
}

impl Record for Term {
    const KIND: &'static str = "lease";

    fn identity(&self) -> (&str, &str) {
        (&self.record, &self.name)
    }
}

/// The bounds of a time-to-live, in seconds.
const TTL: std::ops::RangeInclusive<u64> = 1..=86_400;
/// The time-to-live of a term that cannot be read.
const TTL_UNREADABLE: Duration = Duration::from_secs(3600);
/// So many old terms are taken away together.
const CLEAR_AT: usize = 8;

impl Leases {
    /// A lease of `stanza`, or with `None` of the repository's own record.
    pub fn new(repo: &Repo, stanza: Option<&StanzaName>, name: LeaseName) -> Self {
        Self { repo: repo.unguarded(), stanza: stanza.cloned(), name }
    }

    /// The highest term; `None` where there is none.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn state(&self) -> Result<Option<LeaseState>> {
        self.state_of(self.numbers().await?.pop()).await
    }

    async fn state_of(&self, number: Option<u64>) -> Result<Option<LeaseState>> {
        let Some(number) = number else { return Ok(None) };
        let key = Layout::new().lease(self.stanza.as_ref(), &self.name, number);
        let unreadable = || LeaseState {
            number,
            owner: String::new(),
            holder: "nobody knows whom: its record cannot be read".to_owned(),
            beat: 0,
            ttl: TTL_UNREADABLE,
            released: false,
        };
        match record::read::<Term>(&self.repo, &key).await {
            Ok(term) => Ok(Some(LeaseState {
                number,
                owner: term.owner,
                holder: term.holder,
                beat: term.beat,
                ttl: Duration::from_secs(term.ttl_seconds.clamp(*TTL.start(), *TTL.end())),
                released: term.released,
            })),
            // It was taken away between the two requests: by who took a higher one.
            Err(error) if error.is_not_found() || error.is_unverified() => Ok(Some(unreadable())),
            Err(error) => Err(error),
        }
    }

    /// Takes the lease if nobody has it, or if who has it was seen without a sign of life for the time-to-live. `now` is the time
    /// of the monotonic clock that `watch` goes by.
    ///
    /// # Errors
    /// [`Error::LeaseHeld`] where another process has it, or was faster; as the store failed.
    pub async fn try_acquire(
        &self,
        request: &LeaseRequest,
        watch: &mut Watch,
        now: Duration,
    ) -> Result<Lease> {
        let ttl_seconds = request.ttl.as_secs();
        if !TTL.contains(&ttl_seconds) {
            let reason = format!("of {ttl_seconds} s is out of bounds");
            return Err(Error::Invalid { what: "lease's time-to-live", reason });
        }
        let numbers = self.numbers().await?;
        let current = self.state_of(numbers.last().copied()).await?;
        let unchanged = current.as_ref().map_or(Duration::ZERO, |state| {
            let seen = format!("{} {} {}", state.number, state.owner, state.beat);
            watch.observe(&self.watched_as(), &seen, now)
        });
        let held = |state: Option<LeaseState>| Error::LeaseHeld {
            lease: self.name.to_string(),
            holder: state.map_or_else(|| "another process".to_owned(), |state| state.holder),
        };
        let LeaseStep::Take(number) = LeaseState::step(current.as_ref(), unchanged) else {
            return Err(held(current));
        };
        let term = Term {
            record: Term::KIND.to_owned(),
            name: Layout::new().lease(self.stanza.as_ref(), &self.name, number).to_string(),
            owner: HEXLOWER.encode(&self.repo.random::<16>()?),
            holder: request.holder.chars().take(200).collect(),
            beat: 0,
            ttl_seconds,
            released: false,
        };
        let key = Layout::new().lease(self.stanza.as_ref(), &self.name, number);
        let object = record::seal(&self.repo, &term)?;
        match self.repo.store().create_resolved(&key, object, MAX_OBJECT).await? {
            Resolved::Ours => {}
            Resolved::Others(_) => return Err(held(self.state().await?)),
        }
        let lease = Lease { leases: self.clone(), number, term };
        // Where creates are not honoured another process may have overwritten the term; where they are, this number may have been free
        // because others took it, gave it back and cleared it away since the listing: then a higher term is there.
        match self.repo.store().create_honoured() {
            true if self.numbers().await?.last() == Some(&number) => {}
            _ => lease.check().await?,
        }
        self.clear(numbers).await;
        Ok(lease)
    }

    /// Takes old terms away, at which nobody looks any more: some at a time, which in a store elsewhere is a request. What cannot be removed
    /// (no right to, or not now) is the next holder's to remove.
    async fn clear(&self, old: Vec<u64>) {
        if old.len() < CLEAR_AT {
            return;
        }
        let key = |number| Layout::new().lease(self.stanza.as_ref(), &self.name, number);
        self.repo.store().delete_all(old.into_iter().map(key).collect()).await.ok();
    }

    fn watched_as(&self) -> String {
        format!("lease {}/{}", Layout::new().lease_dir(self.stanza.as_ref()), self.name)
    }

    /// The numbers of the terms there are, sorted.
    async fn numbers(&self) -> Result<Vec<u64>> {
        let mut numbers = Vec::new();
        let mut listed = self.repo.store().list(&Layout::new().lease_dir(self.stanza.as_ref()));
        while let Some(object) = listed.try_next().await? {
            match ParsedKey::parse(&object.key) {
                Some(ParsedKey::Lease { name, number, .. }) if name == self.name => numbers.push(number),
                _ => {}
            }
        }
        numbers.sort_unstable();
        Ok(numbers)
    }
}

impl Lease {
    /// Gives a sign of life, and finds out whether the lease is still this process's.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] where it was taken over; as the store failed.
    pub async fn renew(&mut self) -> Result<()> {
        self.check().await?;
        self.term.beat = self.term.beat.saturating_add(1);
        self.write().await
    }

    /// Makes sure that the lease is still this process's.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] where it was taken over; as the store failed.
    pub async fn check(&self) -> Result<()> {
        let lost = |holder: String| Error::LeaseLost { lease: self.leases.name.to_string(), holder };
        match self.leases.state().await? {
            Some(state) if state.owner == self.term.owner => Ok(()),
            Some(state) => Err(lost(state.holder)),
            None => Err(lost("nobody".to_owned())),
        }
    }

    /// Its name.
    pub const fn name(&self) -> &LeaseName {
        &self.leases.name
    }

    /// Whether it lies in a directory of this host.
    pub fn is_local(&self) -> bool {
        self.leases.repo.store().is_local()
    }

    /// Gives the lease back. Its last term stays, marked as released: numbers are never used again.
    ///
    /// # Errors
    /// As the store failed; the lease then goes stale by itself.
    pub async fn release(self) -> Result<()> {
        // A higher term is another's, whatever this one says; a term of this number may be another's where the stanza was made anew.
        match self.leases.state_of(Some(self.number)).await? {
            Some(state) if state.owner == self.term.owner => {}
            _ => return Ok(()),
        }
        self.release_seen().await
    }

    /// As [`Lease::release`], without a look at whose it is: for a lease that gave a sign of life so lately that nobody can have taken it over.
    ///
    /// # Errors
    /// As the store failed; the lease then goes stale by itself.
    pub async fn release_seen(mut self) -> Result<()> {
        self.term.released = true;
        self.write().await
    }

    async fn write(&self) -> Result<()> {
        let object = record::seal(&self.leases.repo, &self.term)?;
        let key = object_store::path::Path::from(self.term.name.as_str());
        self.leases.repo.store().overwrite(&key, object).await
    }
}
