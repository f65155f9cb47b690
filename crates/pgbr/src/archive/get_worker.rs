//! The worker that fetches WAL segments before the server asks for them.
//!
//! It knows what was asked for last and fetches what follows, some segments at a time, up to a number of bytes. What it has fetched lies on a
//! shelf of its own, which is gone when it ends: nothing that an earlier run has left is ever given to a server.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
use pgbr_manifest::{StanzaName, WalFileName, WalSegmentName, WalSegmentSize};
use pgbr_pg::read_control_file;

use super::ahead::scope_of;
use super::get::{Get, Got};
use super::source::Source;
use super::spool::{Inbox, Shelf};
use crate::error::{Error, Result, with_causes};
use crate::host::Host;
use crate::observe::Event;
use crate::place::RepoAccess;

/// How many bytes of WAL are fetched at once at most; a single segment may be larger.
const BYTES_UNDER_WAY: u64 = 256 << 20;
/// How many segments are fetched at once at most.
const UNDER_WAY: usize = 32;
/// How many segments are ahead of the server at most, however small they are.
const MOST_AHEAD: u64 = 4096;
/// How long a segment that could not be fetched is left alone.
const REST: Duration = Duration::from_secs(1);
/// How often it is looked what is wanted: after a moment without, and before.
const TICKS: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(20));

/// What the worker is to do.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_structs, reason = "filled in by the caller; a new field has to be decided on")]
pub struct GetWorkerRequest {
    /// The repositories, by their numbers in the options, the one to be asked first at the front.
    pub repos: Vec<(u16, RepoAccess)>,
    /// The stanza.
    pub stanza: StanzaName,
    /// The data directory of the server that is fetched for.
    pub pg_data: PathBuf,
    /// The spool directory.
    pub spool: PathBuf,
    /// As in [`ReadAhead`](crate::ReadAhead).
    pub scope: String,
    /// The name of this run, as its lock has it.
    pub run: String,
    /// How many bytes to be ahead of the server.
    pub queue_max: u64,
    /// Segments that are fetched at once.
    pub threads: usize,
    /// How long to wait for the server to ask.
    pub idle: Duration,
}

/// Fetches until the server has not asked for a while; gives the number of segments. The caller holds the lock that makes it the only worker
/// of the stanza.
///
/// # Errors
/// Where the spool or the data directory cannot be used. What cannot be fetched is left to whoever asks for it.
pub async fn archive_get_worker(host: &Host, request: GetWorkerRequest) -> Result<u64> {
    let (control, _) = read_control_file(request.pg_data.join("global/pg_control"))?;
    let scope = scope_of(&request.scope, &control, &request.pg_data);
    let inbox = Inbox::new(&request.spool, &request.stanza, &scope);
    inbox.prepare()?;
    let shelf = inbox.new_shelf(&request.run)?;
    let sources = request.repos.iter();
    let sources = sources.map(|(key, access)| Source::new(*key, access, &request.stanza, None).keeping());
    let get = Get { sources: sources.collect(), pg_data: Some(request.pg_data.clone()) };
    let size = control.wal_segment_size;
    let bytes = u64::from(size.bytes());
    let under_way = usize::try_from(BYTES_UNDER_WAY / bytes).unwrap_or(1);
    let mut worker = Worker {
        host,
        get: &get,
        inbox,
        shelf,
        size,
        ahead: usize::try_from((request.queue_max / bytes).clamp(1, MOST_AHEAD)).unwrap_or(1),
        most: (request.threads * 2).clamp(1, UNDER_WAY).min(under_way.max(1)),
        idle: request.idle,
        wanted: None,
        active: host.clock.monotonic(),
        under_way: FuturesUnordered::new(),
        fetching: BTreeSet::new(),
        had: BTreeSet::new(),
        resting: BTreeMap::new(),
        end: None,
        fetched: 0,
    };
    let worked = worker.work().await;
    worker.shelf.clear();
    worked.map(|()| worker.fetched)
}

type Landed = (WalSegmentName, Result<Got>);

struct Worker<'a> {
    host: &'a Host,
    get: &'a Get,
    inbox: Inbox,
    shelf: Shelf,
    size: WalSegmentSize,
    /// Segments to be ahead.
    ahead: usize,
    /// Segments to fetch at once.
    most: usize,
    idle: Duration,
    wanted: Option<WalSegmentName>,
    /// When something else was last wanted.
    active: Duration,
    under_way: FuturesUnordered<BoxFuture<'a, Landed>>,
    fetching: BTreeSet<WalSegmentName>,
    /// Segments that were fetched for what is wanted now: one that is gone was taken.
    had: BTreeSet<WalSegmentName>,
    /// Segments that could not be fetched, and until when they are left alone.
    resting: BTreeMap<WalSegmentName, Duration>,
    /// The first segment that is missing.
    end: Option<WalSegmentName>,
    fetched: u64,
}

impl Worker<'_> {
    async fn work(&mut self) -> Result<()> {
        loop {
            let now = self.host.clock.monotonic();
            // Other settings, or another cluster: another worker is to do that.
            let Ok(wanted) = self.inbox.wanted() else { return Ok(()) };
            let idle = now.saturating_sub(self.active);
            if self.host.stop.check().is_err() || idle >= self.idle {
                return Ok(());
            }
            if wanted != self.wanted {
                (self.wanted, self.active, self.end) = (wanted, now, None);
                self.resting.clear();
                self.had = self.shelf.segments().into_iter().map(|(segment, _)| segment).collect();
            }
            self.fetch(now)?;
            let tick = if idle < Duration::from_secs(2) { TICKS.0 } else { TICKS.1 };
            let landed = tokio::select! {
                Some(landed) = self.under_way.next(), if !self.under_way.is_empty() => Some(landed),
                () = tokio::time::sleep(tick) => None,
            };
            if let Some((segment, got)) = landed {
                self.settle(segment, got)?;
            }
        }
    }

    /// Begins to fetch what is wanted and not there, and takes away what is not wanted any more.
    fn fetch(&mut self, now: Duration) -> Result<()> {
        let Some(first) = self.wanted else { return Ok(()) };
        let size = self.size;
        let window: BTreeSet<WalSegmentName> =
            std::iter::successors(Some(first), |segment| segment.next(size)).take(self.ahead).collect();
        for (segment, repo) in self.shelf.segments().iter().filter(|(segment, _)| !window.contains(segment)) {
            std::fs::remove_file(self.shelf.segment(*segment, *repo)).ok();
        }
        for segment in window {
            let rests = self.resting.get(&segment).is_some_and(|until| *until > now);
            if self.fetching.len() >= self.most || rests || self.end.is_some_and(|end| end <= segment) {
                break;
            }
            if self.had.contains(&segment) || self.fetching.contains(&segment) {
                continue;
            }
            self.shelf.begin(segment)?;
            self.fetching.insert(segment);
            let (get, host, to) = (self.get, self.host, self.shelf.part(segment));
            let fetch = async move { (segment, get.once(host, &WalFileName::Segment(segment), &to).await) };
            self.under_way.push(fetch.boxed());
        }
        Ok(())
    }

    fn settle(&mut self, segment: WalSegmentName, got: Result<Got>) -> Result<()> {
        self.fetching.remove(&segment);
        match got {
            Ok(Got::Found { repo, archive }) => {
                let part = self.shelf.part(segment);
                std::fs::rename(&part, self.shelf.segment(segment, repo))
                    .map_err(Error::io("rename", &part))?;
                self.fetched += 1;
                self.had.insert(segment);
                self.host.tell(Event::WalFetched { segment, repo, archive });
            }
            Ok(Got::Missing) => self.end = Some(self.end.map_or(segment, |end| end.min(segment))),
            Err(error) => {
                // Whoever asks for it tries by itself, and says what is wrong.
                let text = format!("{segment} could not be fetched ahead: {}", with_causes(&error));
                self.host.tell(Event::Note { text });
                self.resting.insert(segment, self.host.clock.monotonic() + REST);
            }
        }
        self.shelf.end(segment);
        Ok(())
    }
}
