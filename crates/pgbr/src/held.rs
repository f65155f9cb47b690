//! Pins and leases of a running command: taken, kept alive in the background, checked, given back.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use pgbr_manifest::BackupLabel;
use pgbr_repo::{
    Error as RepoError, Guard, Lease, LeaseName, LeaseRequest, Leases, Pin, PinKind, PinRequest, PinState,
    Pins, Watch,
};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use crate::error::{Error, Result};
use crate::host::{Clock, Host};
use crate::observe::Event;
use crate::place::StanzaPlace;

/// How long a pin or lease counts without a sign of life.
const TTL: Duration = Duration::from_secs(60);
/// How often a sign of life is given.
const BEAT: Duration = Duration::from_secs(15);
/// So long after it gave a sign of life a lease is known to be this process's without asking: nobody takes it over before having seen it without
/// one for the time-to-live. Longer than from one sign to the next, and so much shorter than the time-to-live that a request which is sent now
/// arrives before anybody else can have it.
const FRESH: Duration = Duration::from_secs(20);
/// A sign of life that took longer than this to be given is too old to rely on.
const SURE: Duration = Duration::from_secs(40);
/// How many backups are looked for at once.
const LOOKS: usize = 16;
/// How often a lease is looked at that another process has.
const LOOK: Duration = Duration::from_secs(2);

/// A pin or a lease that is kept alive until it is released. Dropped without that, it goes stale by itself.
pub(crate) struct Held<T> {
    inner: Arc<Mutex<Option<Living<T>>>>,
    clock: Arc<dyn Clock>,
    task: JoinHandle<()>,
}

/// What is held, and when it was last seen to be so.
struct Living<T> {
    inner: T,
    /// When the last sign of life that arrived was sent.
    beat_at: Duration,
}

impl<T> Drop for Held<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<T: Send + 'static> Held<T> {
    /// `taken_at`: when it was asked for.
    fn new(host: &Host, inner: T, taken_at: Duration, what: &'static str, beat: impl AsyncBeat<T>) -> Self {
        let inner = Arc::new(Mutex::new(Some(Living { inner, beat_at: taken_at })));
        let (shared, clock, host) = (Arc::clone(&inner), Arc::clone(&host.clock), host.clone());
        let task = tokio::spawn(async move {
            loop {
                host.clock.sleep(BEAT).await;
                let mut slot = shared.lock().await;
                let Some(living) = slot.as_mut() else { return };
                let now = host.clock.monotonic();
                match beat.beat(&mut living.inner).await {
                    Ok(()) => living.beat_at = now,
                    // What it means is decided where the work is committed; until then the store may come back.
                    Err(error) => {
                        host.warn(format!("no sign of life could be given for the {what}: {error}"));
                    }
                }
            }
        });
        Self { inner, clock, task }
    }

    async fn take(&self) -> Result<Living<T>> {
        self.inner.lock().await.take().ok_or(Error::Internal { what: "a pin or lease is released twice" })
    }
}

trait AsyncBeat<T>: Send + Sync + 'static {
    fn beat<'a>(&'a self, inner: &'a mut T) -> BoxFuture<'a, Result<(), RepoError>>;
}

struct PinBeat;

impl AsyncBeat<Pin> for PinBeat {
    fn beat<'a>(&'a self, pin: &'a mut Pin) -> BoxFuture<'a, Result<(), RepoError>> {
        Box::pin(pin.beat())
    }
}

struct LeaseBeat;

impl AsyncBeat<Lease> for LeaseBeat {
    fn beat<'a>(&'a self, lease: &'a mut Lease) -> BoxFuture<'a, Result<(), RepoError>> {
        Box::pin(lease.renew())
    }
}

/// Leaves a pin behind for a manifest of which nobody knows whether it is there, or still comes: until it has been watched for its time-to-live
/// nothing that the manifest names is taken away, and no other run takes it up. It names no process that could be known to be dead.
pub(crate) async fn pin_in_doubt(
    host: &Host,
    place: &StanzaPlace,
    below: &[BackupLabel],
    own: (BackupLabel, u64),
) {
    let holder = format!("a manifest that may still come, of {}", host.owner.as_str());
    let labels = below.iter().copied().chain([own.0]).collect();
    let (attempt, now) = (Some(own.1), host.now_seconds());
    let request = PinRequest { kind: PinKind::Backup, labels, attempt, holder, now, ttl: TTL };
    // Nobody gives signs of life for it, and nobody releases it.
    if let Err(error) = Pins::new(&place.repo, place.stanza.name()).put(request).await {
        host.warn(format!("what backup {} stored could not be pinned: {error}", own.0));
    }
}

/// Waits until a pin either gives a sign of life, or is old enough to be broken, or is gone: then it is broken. True where it is not
/// there any more.
pub(crate) async fn outlived(host: &Host, pins: &Pins, pin: &PinState) -> Result<bool> {
    let mut watch = Watch::new();
    let holder = pin.record.as_ref().map(|record| record.holder.clone()).unwrap_or_default();
    host.tell(Event::Note { text: format!("waiting to see whether {holder} lives") });
    loop {
        host.stop.check()?;
        let Some(now) = pins.list().await?.into_iter().find(|now| now.id == pin.id) else { return Ok(true) };
        if now.beat != pin.beat {
            return Ok(false);
        }
        if now.is_stale(&mut watch, host.clock.monotonic()) {
            pins.break_stale(&pin.id).await?;
            return Ok(true);
        }
        host.clock.sleep(LOOK).await;
    }
}

impl Held<Pin> {
    /// Puts a pin on backups without looking whether they are there: whoever opens their manifests next sees that.
    pub(crate) async fn pin_blindly(
        host: &Host,
        place: &StanzaPlace,
        kind: PinKind,
        labels: Vec<BackupLabel>,
    ) -> Result<Self> {
        let (holder, now) = (host.owner.as_str().to_owned(), host.now_seconds());
        let request = PinRequest { kind, labels, attempt: None, holder, now, ttl: TTL };
        let asked_at = host.clock.monotonic();
        let pin = Pins::new(&place.repo, place.stanza.name()).put(request).await?;
        Ok(Self::new(host, pin, asked_at, "pin", PinBeat))
    }

    /// Puts a pin, and then sees that what it names is there: in this order nothing can be taken away unnoticed. `own` is the backup that
    /// is being made, with the number of its run.
    pub(crate) async fn pin(
        host: &Host,
        place: &StanzaPlace,
        kind: PinKind,
        labels: Vec<BackupLabel>,
        own: Option<(BackupLabel, u64)>,
    ) -> Result<Self> {
        let holder = host.owner.as_str().to_owned();
        let pinned = labels.iter().copied().chain(own.map(|(label, _)| label)).collect();
        let attempt = own.map(|(_, attempt)| attempt);
        let request = PinRequest { kind, labels: pinned, attempt, holder, now: host.now_seconds(), ttl: TTL };
        let asked_at = host.clock.monotonic();
        let pin = Pins::new(&place.repo, place.stanza.name()).put(request).await?;
        let held = Self::new(host, pin, asked_at, "pin", PinBeat);
        let looks =
            labels.into_iter().map(|label| async move { Ok((label, place.backups.exists(&label).await?)) });
        let found: Result<Vec<_>> = futures::stream::iter(looks).buffered(LOOKS).try_collect().await;
        match found?.into_iter().find(|(_, exists)| !exists) {
            None => Ok(held),
            Some((label, _)) => {
                held.release(host).await;
                Err(Error::Damaged { label, reason: "it was removed a moment ago".to_owned() })
            }
        }
    }

    /// Sees that nobody broke the pin.
    pub(crate) async fn check(&self) -> Result<()> {
        match self.inner.lock().await.as_ref() {
            Some(pin) => Ok(pin.inner.check().await?),
            None => Err(Error::Internal { what: "a pin is checked after its release" }),
        }
    }

    /// Gives it back. Where that fails it goes stale by itself, and the work that it was for has ended either way.
    pub(crate) async fn release(self, host: &Host) {
        let released = match self.take().await {
            Ok(pin) => pin.inner.release().await.map_err(Error::from),
            Err(error) => Err(error),
        };
        if let Err(error) = released {
            host.warn(format!("a pin could not be given back, and goes stale by itself: {error}"));
        }
    }
}

impl Held<Lease> {
    /// Takes the lease of the stanza's writers. Waits where its holder may be dead and cannot be asked.
    pub(crate) async fn lease(host: &Host, place: &StanzaPlace) -> Result<Self> {
        let leases = Leases::new(&place.repo, Some(place.stanza.name()), LeaseName::backup());
        Self::lease_of(host, leases).await
    }

    /// The same of any lease.
    pub(crate) async fn lease_of(host: &Host, leases: Leases) -> Result<Self> {
        let request = LeaseRequest { holder: host.owner.as_str().to_owned(), ttl: TTL };
        let mut watch = Watch::new();
        let begun = host.clock.monotonic();
        let mut told = false;
        loop {
            host.stop.check()?;
            let now = host.clock.monotonic();
            let waited = now.saturating_sub(begun);
            let error = match leases.try_acquire(&request, &mut watch, waited).await {
                Ok(lease) => return Ok(Self::new(host, lease, now, "lease", LeaseBeat)),
                Err(error) => error,
            };
            let pgbr_repo::Error::LeaseHeld { holder, .. } = &error else { return Err(error.into()) };
            if host.owner.knows_dead(holder) {
                // Nobody has to be waited for: the notes say that it was seen dead for long enough.
                if let Ok(lease) = leases.try_acquire(&request, &mut watch, waited + TTL).await {
                    return Ok(Self::new(host, lease, now, "lease", LeaseBeat));
                }
            }
            // A holder that lives gives a sign of life well before this.
            if waited > TTL + BEAT {
                return Err(error.into());
            }
            if !told {
                let text =
                    format!("another process holds the lease ({holder}); waiting to see whether it lives");
                host.tell(Event::Note { text });
                told = true;
            }
            let changed = leases.state().await?;
            let before = changed.as_ref().map(|state| (state.owner.clone(), state.beat));
            host.clock.sleep(LOOK).await;
            let after = leases.state().await?.map(|state| (state.owner, state.beat));
            if after != before {
                // It moved: its owner lives.
                return Err(error.into());
            }
        }
    }

    /// Sees that nobody took the lease over.
    pub(crate) async fn check(&self) -> Result<()> {
        match self.inner.lock().await.as_ref() {
            Some(lease) if self.is_fresh(lease) => Ok(()),
            Some(lease) => Ok(lease.inner.check().await?),
            None => Err(Error::Internal { what: "a lease is checked after its release" }),
        }
    }

    /// Whether nobody can have taken it over. Where asking costs nothing, it is asked.
    fn is_fresh(&self, lease: &Living<Lease>) -> bool {
        !lease.inner.is_local() && is_fresh(&self.clock, lease.beat_at)
    }

    /// What keeps its holder from changing anything once it may be another's: by the clock of this process, which has gone on where the process
    /// stood still.
    pub(crate) fn guard(&self) -> Arc<dyn Guard> {
        Arc::new(WhileHeld { inner: Arc::clone(&self.inner), clock: Arc::clone(&self.clock) })
    }

    /// Gives a last sign of life: nothing of it is written from now on. What it guards can be changed for as long as nobody else takes it over.
    pub(crate) async fn fall_silent(self) -> Result<Arc<dyn Guard>> {
        let mut living = self.take().await?;
        let since = self.clock.monotonic();
        living.inner.renew().await?;
        let lease = living.inner.name().to_string();
        Ok(Arc::new(WhileFresh { lease, since, clock: Arc::clone(&self.clock) }))
    }

    /// Gives it back. Where that fails it goes stale by itself, and the work that it was for has ended either way.
    pub(crate) async fn release(self, host: &Host) {
        let released = match self.take().await {
            Ok(lease) if self.is_fresh(&lease) => lease.inner.release_seen().await.map_err(Error::from),
            Ok(lease) => lease.inner.release().await.map_err(Error::from),
            Err(error) => Err(error),
        };
        if let Err(error) = released {
            host.warn(format!("a lease could not be given back, and goes stale by itself: {error}"));
        }
    }
}

/// Lets what a lease covers be changed while it is held. Gives a sign of life first where the last one is not fresh any more.
struct WhileHeld {
    inner: Arc<Mutex<Option<Living<Lease>>>>,
    clock: Arc<dyn Clock>,
}

impl Guard for WhileHeld {
    fn check(&self) -> BoxFuture<'_, Result<(), RepoError>> {
        async {
            let mut slot = self.inner.lock().await;
            let Some(living) = slot.as_mut() else { return Err(lost("given back")) };
            if is_fresh(&self.clock, living.beat_at) {
                return Ok(());
            }
            let now = self.clock.monotonic();
            living.inner.renew().await?;
            // Another may have taken it over before that was written.
            living.inner.check().await?;
            living.beat_at = now;
            if age(&self.clock, now) < SURE { Ok(()) } else { Err(lost(living.inner.name())) }
        }
        .boxed()
    }
}

/// The same of one that gives no more signs of life.
struct WhileFresh {
    lease: String,
    since: Duration,
    clock: Arc<dyn Clock>,
}

impl Guard for WhileFresh {
    fn check(&self) -> BoxFuture<'_, Result<(), RepoError>> {
        let fresh = is_fresh(&self.clock, self.since);
        async move { if fresh { Ok(()) } else { Err(lost(&self.lease)) } }.boxed()
    }
}

/// Whether so long after a sign of life, or a look, nobody else can have taken over since.
pub(crate) fn is_fresh(clock: &Arc<dyn Clock>, beat_at: Duration) -> bool {
    age(clock, beat_at) < FRESH
}

fn age(clock: &Arc<dyn Clock>, beat_at: Duration) -> Duration {
    clock.monotonic().saturating_sub(beat_at)
}

fn lost(lease: impl ToString) -> RepoError {
    let holder = "another process, or may have been: this one stood still for too long".to_owned();
    RepoError::LeaseLost { lease: lease.to_string(), holder }
}

impl std::fmt::Debug for WhileHeld {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WhileHeld").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for WhileFresh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WhileFresh").field("since", &self.since).finish_non_exhaustive()
    }
}
