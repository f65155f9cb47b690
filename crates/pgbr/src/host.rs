//! What the engine needs of the machine it runs on: time, randomness, a listener, a way to be stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use pgbr_codec::LaneSeed;

use crate::error::{Error, Result};
use crate::observe::{Event, Observer, Silent};
pub use pgbr_repo::Entropy;

/// Tells the time, and lets it pass.
pub trait Clock: Send + Sync {
    /// Nanoseconds since 1970, UTC.
    fn now_ns(&self) -> i64;

    /// Time since some moment that stays the same until the next boot; it never steps back and counts while the host sleeps.
    fn monotonic(&self) -> Duration;

    /// Waits for what other processes do or do not do in so long.
    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        tokio::time::sleep(time).boxed()
    }
}

/// The clock of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ns(&self) -> i64 {
        i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
    }

    fn monotonic(&self) -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
    }
}

/// The operating system's random bytes (getrandom(2)).
#[derive(Debug, Clone, Copy, Default)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    fn fill(&self, mut bytes: &mut [u8]) -> pgbr_repo::Result<()> {
        while !bytes.is_empty() {
            match rustix::rand::getrandom(&mut *bytes, rustix::rand::GetRandomFlags::empty()) {
                Ok(got) => bytes = bytes.get_mut(got..).unwrap_or_default(),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    return Err(pgbr_repo::Error::Entropy {
                        source: pgbr_repo::Cause::new(error.to_string()),
                    });
                }
            }
        }
        Ok(())
    }
}

/// Asks a running command to end early. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    own: Arc<AtomicBool>,
    outer: Option<Arc<AtomicBool>>,
}

impl Stop {
    /// Asks for the end; it comes at the next step, with [`Error::Stopped`].
    pub fn stop(&self) {
        self.own.store(true, Ordering::Relaxed);
    }

    /// # Errors
    /// [`Error::Stopped`] when the end was asked for.
    pub(crate) fn check(&self) -> Result<()> {
        let set = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        if set(&self.own) || self.outer.as_deref().is_some_and(set) { Err(Error::Stopped) } else { Ok(()) }
    }

    /// Waits until the end is asked for, and gives the error to end with.
    pub(crate) async fn requested(&self) -> Error {
        loop {
            if let Err(stopped) = self.check() {
                return stopped;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// One that ends with this one, and can end alone.
    pub(crate) fn child(&self) -> Self {
        Self { own: Arc::default(), outer: Some(Arc::clone(&self.own)) }
    }
}

/// A process of a host, as pins and leases name it: `HOST process PID boot ID`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner(String);

impl Owner {
    /// This process.
    pub fn this_process() -> Self {
        Self(format!("{} process {} boot {}", host_name(), std::process::id(), boot_id()))
    }

    /// The words that pins and leases keep.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `other`, as found in a lease, certainly is a process of this host and boot that has ended.
    pub(crate) fn knows_dead(&self, other: &str) -> bool {
        let parts = |text: &str| -> Option<(String, i32, String)> {
            let (host, rest) = text.split_once(" process ")?;
            let (pid, boot) = rest.split_once(" boot ")?;
            Some((host.to_owned(), pid.parse().ok()?, boot.to_owned()))
        };
        let (Some(own), Some(other)) = (parts(&self.0), parts(other)) else { return false };
        if (&own.0, &own.2) != (&other.0, &other.2) || own.2.is_empty() {
            return false;
        }
        let Some(pid) = rustix::process::Pid::from_raw(other.1) else { return false };
        rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH)
    }
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Tells boots, and containers with process numbers of their own, apart; empty where the system does not say.
pub(crate) fn boot_id() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let space = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    if boot.is_empty() { String::new() } else { format!("{} {}", boot.trim(), space.display()) }
}

/// The surroundings of every command: nothing below looks at a clock, at randomness or at the terminal by itself.
#[derive(Clone)]
pub struct Host {
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// The zone of labels.
    pub zone: jiff::tz::TimeZone,
    /// Gives random bytes for keys, salts and names.
    pub entropy: Arc<dyn Entropy>,
    /// Listens to events.
    pub observer: Arc<dyn Observer>,
    /// Ends the command early.
    pub stop: Stop,
    /// Who runs this, for pins and leases.
    pub owner: Owner,
    /// Version of the program, kept in manifests.
    pub program: String,
}

impl Host {
    /// The machine as it is: its clock, its zone, the operating system's randomness, and nobody listening.
    pub fn system() -> Self {
        Self::in_zone(jiff::tz::TimeZone::system())
    }

    /// As [`Host::system`], with another zone for labels and targets.
    pub fn in_zone(zone: jiff::tz::TimeZone) -> Self {
        Self {
            clock: Arc::new(SystemClock),
            zone,
            entropy: Arc::new(OsEntropy),
            observer: Arc::new(Silent),
            stop: Stop::default(),
            owner: Owner::this_process(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    pub(crate) fn tell(&self, event: Event) {
        self.observer.event(&event);
    }

    pub(crate) fn warn(&self, text: impl Into<String>) {
        self.tell(Event::Warning { text: text.into() });
    }

    pub(crate) fn random<const N: usize>(&self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.entropy.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// What a new lane is made of.
    pub(crate) fn lane_seed(&self) -> Result<LaneSeed> {
        Ok(LaneSeed::draw(|bytes| self.entropy.fill(bytes))?)
    }

    pub(crate) fn now_seconds(&self) -> i64 {
        self.clock.now_ns().div_euclid(1_000_000_000)
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("owner", &self.owner.as_str()).finish_non_exhaustive()
    }
}
