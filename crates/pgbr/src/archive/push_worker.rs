//! The worker of asynchronous pushes: brings what waits into every repository, many files at a time, and says of each when it is durable in all.
//!
//! - A file is said to be archived only when every repository has it; which ones have it is remembered, so that one that is away costs the
//!   others nothing.
//! - A repository that fails is left alone for a moment that grows to [`PAUSES`].1, while the others go on.
//! - It ends where going on would not help: when it has had nothing to do for a while, when other settings are wanted, when it is told to
//!   stop, and when all that it has left needs somebody to change something. A call that finds no worker starts one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use futures::future::{BoxFuture, FutureExt, join_all};
use futures::stream::{FuturesUnordered, StreamExt};
use pgbr_codec::Compression;
use pgbr_manifest::{StanzaName, WalFileName};
use pgbr_repo::{Error as RepoError, PushOutcome, WalContent, stop_file};
use tokio::sync::Semaphore;

use super::file::{FileId, WalFile};
use super::hand_over::push_scope;
use super::queue::{self, Place};
use super::source::Source;
use super::spool::{Failure, Outbox, Told};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::observe::Event;
use crate::place::{RepoAccess, StanzaPlace};

/// The first and the longest pause before a repository or a file that failed is tried again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// How many bytes of WAL are under way at most; a single segment may be larger.
const BYTES_UNDER_WAY: u64 = 256 << 20;
/// How many files are under way at least, and at most.
const UNDER_WAY: (usize, usize) = (8, 64);
/// How long what is under way may take when the worker is to end.
const LAST_WORDS: Duration = Duration::from_secs(20);
/// For how long nothing but failures is looked at before another worker is to try with settings that are read anew.
const HOPE: Duration = Duration::from_secs(600);
/// For how long a worker goes on without a call of the server. An archiver that has failed three times pauses for a minute (`PGARCH_AUTOWAKE_INTERVAL`);
/// one that does not come after that calls another program now, to which what is done here means nothing.
const FORGOTTEN: Duration = Duration::from_secs(75);
/// How often it is seen whether the worker is still wanted, and whether what it knows of the queue is right.
const CARE: Duration = Duration::from_millis(250);
/// How often the queue is looked at while there is work, or was a moment ago; and later.
const TICKS: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(25));

/// What the worker is to do.
pub struct PushWorkerRequest {
    /// The repositories, by their numbers in the options.
    pub repos: Vec<(u16, RepoAccess)>,
    /// The stanza.
    pub stanza: StanzaName,
    /// The server's `pg_wal`.
    pub wal_dir: PathBuf,
    /// The spool directory.
    pub spool: PathBuf,
    /// As in [`HandOverRequest`](crate::HandOverRequest).
    pub scope: String,
    /// The directory in which a stop file ends the worker.
    pub stop_files: Option<PathBuf>,
    /// How to compress.
    pub compression: Compression,
    /// Files that are compressed at once.
    pub threads: usize,
    /// Whether a segment's header must be of the stanza's cluster.
    pub header_check: bool,
    /// How many bytes of WAL to push before another worker is to take over.
    pub batch: u64,
    /// How long to wait for more to do.
    pub idle: Duration,
    /// Tells a failure as the caller's own exit code and text would.
    pub describe: Arc<dyn Fn(&Error) -> Failure + Send + Sync>,
}

/// What the worker did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PushWorkerReport {
    /// Files that are durable in every repository.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Works until there is no reason to go on. The caller holds the lock that makes it the only worker of the stanza.
///
/// # Errors
/// Where the spool or the server's directory cannot be used. What fails with a file is told to whoever hands it over.
pub async fn archive_push_worker(host: &Host, request: PushWorkerRequest) -> Result<PushWorkerReport> {
    let out = Outbox::new(&request.spool, &request.stanza, &push_scope(&request.scope, &request.wal_dir));
    out.prepare()?;
    out.sweep();
    let now = host.clock.monotonic();
    let repos = request.repos.iter().map(|(key, access)| {
        let source = Source::new(*key, access, &request.stanza, None).keeping();
        Target { source, rest: Mutex::default(), opening: tokio::sync::Mutex::default() }
    });
    let crew = Crew {
        host: host.clone(),
        repos: repos.collect(),
        cpu: Semaphore::new(request.threads.max(1)),
        wal_dir: request.wal_dir.clone(),
        compression: request.compression,
        header_check: request.header_check,
        describe: Arc::clone(&request.describe),
    };
    let mut worker = Worker {
        host,
        out,
        crew: Arc::new(crew),
        jobs: BTreeMap::new(),
        under_way: FuturesUnordered::new(),
        bytes_under_way: 0,
        report: PushWorkerReport::default(),
        active: now,
        success: now,
        cared: None,
        server: Heard { sign: None, at: now },
        seen: None,
        rested: now,
        request,
    };
    let worked = worker.work().await;
    if let Err(error) = &worked {
        let told = Told { failure: (worker.request.describe)(error), passing: false };
        worker.out.set_failure(None, &told)?;
    }
    worked.map(|()| worker.report)
}

/// What all files under way have in common.
struct Crew {
    host: Host,
    repos: Vec<Target>,
    cpu: Semaphore,
    wal_dir: PathBuf,
    compression: Compression,
    header_check: bool,
    describe: Arc<dyn Fn(&Error) -> Failure + Send + Sync>,
}

/// A repository, and how it is doing.
struct Target {
    source: Source,
    rest: Mutex<Rest>,
    /// Held while it is opened: where that fails, whoever waited for it need not find out again.
    opening: tokio::sync::Mutex<()>,
}

/// What a repository that failed is given before it is tried again.
#[derive(Default)]
struct Rest {
    until: Duration,
    pause: Duration,
    last: Option<Told>,
}

/// A file that waits.
struct Job {
    size: u64,
    /// What the file was when repositories got it.
    id: Option<FileId>,
    /// Repositories that have it.
    done: BTreeSet<u16>,
    warnings: Vec<String>,
    archived: bool,
    under_way: bool,
    retry_at: Duration,
    pause: Duration,
    last: Option<Told>,
}

/// What became of a file that was under way.
struct Landed {
    place: Place,
    size: u64,
    result: Result<(FileId, Vec<(u16, Flight)>), Told>,
}

enum Flight {
    Done(PushOutcome),
    /// With whether it is the file that is at fault, rather than the repository.
    Failed(Told, bool),
}

struct Worker<'a> {
    host: &'a Host,
    request: PushWorkerRequest,
    out: Outbox,
    crew: Arc<Crew>,
    jobs: BTreeMap<Place, Job>,
    under_way: FuturesUnordered<BoxFuture<'static, Landed>>,
    bytes_under_way: u64,
    report: PushWorkerReport,
    /// When there last was something to do.
    active: Duration,
    /// When something last succeeded, or nothing was left to do.
    success: Duration,
    cared: Option<Duration>,
    server: Heard,
    /// When the server last changed its list, and until when that time may be the time of another change.
    seen: Option<(SystemTime, Duration)>,
    /// When the queue may be looked at again.
    rested: Duration,
}

/// The last sign of life of the server, and when it was seen.
struct Heard {
    sign: Option<SystemTime>,
    at: Duration,
}

impl Heard {
    /// Whether the server has not called for so long that it calls somebody else. Any change of the sign is one: clocks may step.
    fn is_gone(&mut self, sign: Option<SystemTime>, now: Duration) -> bool {
        if sign != self.sign {
            (self.sign, self.at) = (sign, now);
        }
        now.saturating_sub(self.at) >= FORGOTTEN
    }
}

impl Worker<'_> {
    async fn work(&mut self) -> Result<()> {
        let mut ending: Option<Duration> = None;
        loop {
            let now = self.host.clock.monotonic();
            if ending.is_none() {
                self.scan(now)?;
                self.launch(now);
                ending = self.is_over(now)?.then_some(now);
            }
            let given_up = ending.is_some_and(|since| now.saturating_sub(since) >= LAST_WORDS);
            if ending.is_some() && (self.under_way.is_empty() || given_up) {
                return Ok(());
            }
            let recent = now.saturating_sub(self.active) < Duration::from_secs(2);
            let tick = if recent { TICKS.0 } else { TICKS.1 };
            let landed = tokio::select! {
                Some(landed) = self.under_way.next(), if !self.under_way.is_empty() => Some(landed),
                () = tokio::time::sleep(tick) => None,
            };
            if let Some(landed) = landed {
                self.settle(landed);
            }
        }
    }

    /// Whether there is no reason to go on.
    fn is_over(&mut self, now: Duration) -> Result<bool> {
        let care = self.cared.is_none_or(|at| now.saturating_sub(at) >= CARE);
        if care {
            self.cared = Some(now);
        }
        let stopped = match &self.request.stop_files {
            Some(directory) if care => stop_file(directory, Some(&self.request.stanza))?.is_some(),
            _ => false,
        };
        let replaced = care && (!self.out.scope_wanted() || self.server.is_gone(self.out.signed(), now));
        let batch = self.report.bytes >= self.request.batch;
        if self.host.stop.check().is_err() || stopped || replaced || batch {
            return Ok(true);
        }
        if !self.under_way.is_empty() {
            return Ok(false);
        }
        let mut left = self.jobs.values().filter(|job| !job.archived).peekable();
        if left.peek().is_none() {
            self.success = now;
            return Ok(now.saturating_sub(self.active) >= self.request.idle);
        }
        let hopeless = left.all(|job| self.crew.is_hopeless(job));
        Ok(hopeless || now.saturating_sub(self.success) >= HOPE)
    }

    /// Looks at what waits, where that may have changed.
    fn scan(&mut self, now: Duration) -> Result<()> {
        let status = self.request.wal_dir.join("archive_status");
        let changed =
            status.metadata().and_then(|found| found.modified()).map_err(Error::io("list", &status))?;
        let known = self.seen.is_some_and(|(at, until)| at == changed && now > until);
        let care = self.cared.is_none_or(|at| now.saturating_sub(at) >= CARE);
        if (known && !care) || now < self.rested {
            return Ok(());
        }
        if self.seen.is_none_or(|(at, _)| at != changed) {
            // The clock of file systems has steps; another change may have the same time.
            self.seen = Some((changed, now + Duration::from_millis(50)));
        }
        let first = self.jobs.is_empty() && self.report.files == 0;
        let ready = queue::ready(&self.request.wal_dir)?;
        let waits: BTreeSet<&Place> = ready.iter().map(|(place, _)| place).collect();
        let out = &self.out;
        self.jobs.retain(|place, job| {
            let stays = job.under_way || waits.contains(place);
            if !stays {
                out.forget(place.name());
            }
            stays
        });
        if first {
            for file in out.files() {
                let waits = file.parse().is_ok_and(|file| waits.contains(&Place::of(&file)));
                if !waits {
                    out.forget(&file);
                }
            }
        }
        if care {
            // A call that found a `.done` of another file under the name took it away.
            for (place, job) in self.jobs.iter_mut().filter(|(_, job)| job.archived) {
                if !out.has_done(place.name()) {
                    (job.archived, job.retry_at) = (false, Duration::ZERO);
                    job.done.clear();
                }
            }
        }
        self.add(ready, now);
        // A long queue is not looked at all the time.
        let done = self.host.clock.monotonic();
        self.rested = done + done.saturating_sub(now) * 4;
        Ok(())
    }

    fn add(&mut self, ready: Vec<(Place, WalFileName)>, now: Duration) {
        let mut new = Vec::new();
        for (place, _) in ready {
            if self.jobs.contains_key(&place) {
                continue;
            }
            let id = FileId::of(&self.request.wal_dir.join(place.name()));
            let archived = id.as_ref().is_ok_and(|id| self.out.archived(place.name(), id).is_some());
            if !archived {
                new.push(place.name().to_owned());
            }
            let size = id.map_or(0, |id| id.size);
            self.jobs.insert(place, Job::new(size, archived));
        }
        if let (Some(first), Some(last)) = (new.first(), new.last()) {
            self.active = now;
            let range = if first == last { first.clone() } else { format!("{first}...{last}") };
            let text = format!("push {} WAL file(s) to archive: {range}", new.len());
            self.host.tell(Event::Note { text });
        }
    }

    /// Sends on their way as many files as there is room for.
    fn launch(&mut self, now: Duration) {
        let most = (self.request.threads * 4).clamp(UNDER_WAY.0, UNDER_WAY.1);
        for (place, job) in &mut self.jobs {
            if self.under_way.len() >= most {
                break;
            }
            if job.archived || job.under_way {
                continue;
            }
            // Whoever took the failure away asks anew.
            if job.retry_at > now && self.out.has_failure(place.name()) {
                continue;
            }
            let to: Vec<usize> = self.crew.open_to(job, now);
            if to.is_empty() {
                continue;
            }
            if !self.under_way.is_empty() && self.bytes_under_way + job.size > BYTES_UNDER_WAY {
                break;
            }
            (job.under_way, job.last) = (true, None);
            self.bytes_under_way += job.size;
            self.active = now;
            let flight = Arc::clone(&self.crew).fly(place.clone(), job.size, to);
            self.under_way.push(flight.boxed());
        }
    }

    fn settle(&mut self, landed: Landed) {
        let now = self.host.clock.monotonic();
        let Landed { place, size, result } = landed;
        self.bytes_under_way = self.bytes_under_way.saturating_sub(size);
        self.active = now;
        let Some(job) = self.jobs.get_mut(&place) else { return };
        job.under_way = false;
        let (id, flights) = match result {
            Ok(landed) => landed,
            Err(told) => {
                job.rest(now, told.clone());
                return self.fail(&place, told);
            }
        };
        if job.id.replace(id).is_some_and(|before| before != id) {
            // Who has the file that was there before does not have this one.
            job.done.clear();
            job.warnings.clear();
        }
        for (key, flight) in flights {
            match flight {
                Flight::Done(outcome) => {
                    job.done.insert(key);
                    job.warnings.extend(warning(place.name(), key, outcome));
                    self.success = now;
                }
                Flight::Failed(told, true) => job.rest(now, told),
                Flight::Failed(_, false) => {}
            }
        }
        let missing: Vec<&Target> =
            self.crew.repos.iter().filter(|target| !job.done.contains(&target.source.key)).collect();
        if missing.is_empty() {
            match self.out.set_archived(place.name(), &id, &job.warnings.join("\n")) {
                Ok(()) => {
                    job.archived = true;
                    self.report.files += 1;
                    self.report.bytes += size;
                    self.host.tell(Event::WalPushed { file: place.name().to_owned() });
                }
                // It is tried again, and found to be there.
                Err(error) => {
                    let told = Told { failure: (self.request.describe)(&error), passing: true };
                    job.rest(now, told.clone());
                    self.fail(&place, told);
                }
            }
            return;
        }
        let told = missing.iter().filter_map(|target| {
            let of_repo = target.rest().last.clone();
            Some((target.source.key, job.last.clone().or(of_repo)?))
        });
        if let Some(told) = together(told.collect(), self.crew.repos.len()) {
            self.fail(&place, told);
        }
    }

    /// Tells of a failure, whoever waits for the file.
    fn fail(&self, place: &Place, told: Told) {
        if self.out.failure(place.name()).as_ref() != Some(&told) {
            let Failure { code, text } = &told.failure;
            let name = place.name();
            self.host.warn(format!(
                "could not push WAL file '{name}' to the archive (will be retried): [{code}] {text}"
            ));
        }
        // A caller that cannot read it waits for its time-out.
        self.out.set_failure(Some(place.name()), &told).ok();
    }
}

impl Job {
    const fn new(size: u64, archived: bool) -> Self {
        Self {
            size,
            id: None,
            archived,
            done: BTreeSet::new(),
            warnings: Vec::new(),
            under_way: false,
            retry_at: Duration::ZERO,
            pause: PAUSES.0,
            last: None,
        }
    }

    /// Leaves a file alone that is at fault itself.
    fn rest(&mut self, now: Duration, told: Told) {
        self.retry_at = now + self.pause;
        self.pause = (self.pause * 2).min(PAUSES.1);
        self.last = Some(told);
    }
}

impl Crew {
    /// The repositories that miss a file and may be asked now.
    fn open_to(&self, job: &Job, now: Duration) -> Vec<usize> {
        let open = |(_, target): &(usize, &Target)| {
            !job.done.contains(&target.source.key) && target.rest().until <= now
        };
        self.repos.iter().enumerate().filter(open).map(|(at, _)| at).collect()
    }

    /// Whether a file waits for nothing but somebody to change something.
    fn is_hopeless(&self, job: &Job) -> bool {
        let lasting = |told: Option<&Told>| told.is_some_and(|told| !told.passing);
        let missing = |target: &&Target| !job.done.contains(&target.source.key);
        lasting(job.last.as_ref())
            || self.repos.iter().filter(missing).all(|target| lasting(target.rest().last.as_ref()))
    }

    async fn fly(self: Arc<Self>, place: Place, size: u64, to: Vec<usize>) -> Landed {
        let result = match self.read(place.name()).await {
            Ok((file, content)) => {
                let flights = to
                    .iter()
                    .filter_map(|at| self.repos.get(*at))
                    .map(|target| async { (target.source.key, self.push(target, &file, &content).await) });
                Ok((file.id, join_all(flights).await))
            }
            Err(error) => Err(self.tell(&error)),
        };
        Landed { place, size, result }
    }

    async fn read(&self, name: &str) -> Result<(WalFile, WalContent)> {
        let file = WalFile::open(&self.wal_dir.join(name), self.header_check)?;
        let permit = self.cpu.acquire().await;
        let content = file.content(self.compression, 1).await?;
        drop(permit);
        Ok((file, content))
    }

    async fn push(&self, target: &Target, file: &WalFile, content: &WalContent) -> Flight {
        let place = match self.open(target, file).await {
            Ok(place) => place,
            Err(told) => return Flight::Failed(told, false),
        };
        match file.push(&self.host, &place, content).await {
            Ok(outcome) => {
                *target.rest() = Rest::default();
                Flight::Done(outcome)
            }
            Err(error) if is_of_the_file(&error) => Flight::Failed(self.tell(&error), true),
            Err(error) => {
                target.source.close().await;
                Flight::Failed(self.let_rest(target, &error), false)
            }
        }
    }

    /// Opens a repository for a file, or gives why that could not be done a moment ago.
    async fn open(&self, target: &Target, file: &WalFile) -> Result<StanzaPlace, Told> {
        let opening = target.opening.lock().await;
        if let Some(told) = target.resting(self.host.clock.monotonic()) {
            return Err(told);
        }
        let opened = match file.tells_its_cluster() {
            true => target.source.open(&self.host).await,
            false => target.source.open_fresh(&self.host).await,
        };
        let opened = match opened {
            Ok(opened) if opened.kept && file.check(&opened.place.stanza).is_err() => {
                target.source.open_fresh(&self.host).await
            }
            other => other,
        };
        let place = opened.map(|opened| opened.place).map_err(|error| self.let_rest(target, &error));
        drop(opening);
        place
    }

    fn let_rest(&self, target: &Target, error: &Error) -> Told {
        let (told, now) = (self.tell(error), self.host.clock.monotonic());
        let mut rest = target.rest();
        rest.last = Some(told.clone());
        // Many files may fail for one reason at the same time.
        if rest.until <= now {
            rest.pause = (rest.pause * 2).clamp(PAUSES.0, PAUSES.1);
            rest.until = now + rest.pause;
        }
        told
    }

    fn tell(&self, error: &Error) -> Told {
        let passing = matches!(error, Error::Repo(error) if error.is_transient());
        Told { failure: (self.describe)(error), passing }
    }
}

impl Target {
    /// Why it is left alone now, if it is.
    fn resting(&self, now: Duration) -> Option<Told> {
        let rest = self.rest();
        rest.last.clone().filter(|_| rest.until > now)
    }

    fn rest(&self) -> std::sync::MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether another file may fare better.
const fn is_of_the_file(error: &Error) -> bool {
    matches!(
        error,
        Error::ForeignWal { .. }
            | Error::Wal { .. }
            | Error::Io { .. }
            | Error::Manifest(_)
            | Error::Repo(
                RepoError::WalConflict { .. }
                    | RepoError::Local { .. }
                    | RepoError::Invalid { .. }
                    | RepoError::NotFound { .. }
            )
    )
}

/// What the operator is told about a success.
fn warning(name: &str, key: u16, outcome: PushOutcome) -> Option<String> {
    match outcome {
        PushOutcome::SameAlreadyThere => {
            Some(format!("WAL file '{name}' already exists in the repo{key} archive with the same content"))
        }
        PushOutcome::PartialKept { object } => {
            Some(format!("'{name}' exists with other content, this one is kept as '{object}'"))
        }
        PushOutcome::StoredBeside { object, damage } => {
            Some(format!("the archived {name} is damaged ({damage}); it was stored again as '{object}'"))
        }
        _ => None,
    }
}

/// One failure of those of several repositories.
fn together(told: Vec<(u16, Told)>, asked: usize) -> Option<Told> {
    let (_, first) = told.first()?;
    if asked == 1 {
        return Some(first.clone());
    }
    let code = first.failure.code;
    // 104: several commands failed for several reasons.
    let code = if told.iter().all(|(_, told)| told.failure.code == code) { code } else { 104 };
    let lines = told.iter().map(|(key, told)| format!("\nrepo{key}: {}", told.failure.text));
    let text = format!("archive-push command encountered error(s):{}", lines.collect::<String>());
    Some(Told { failure: Failure { code, text }, passing: told.iter().all(|(_, told)| told.passing) })
}

impl std::fmt::Debug for PushWorkerRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let wal_dir: &Path = &self.wal_dir;
        f.debug_struct("PushWorkerRequest").field("wal_dir", &wal_dir).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_does_not_call_any_more_is_gone() {
        let seconds = Duration::from_secs;
        let sign = |at: u64| Some(SystemTime::UNIX_EPOCH + seconds(at));
        let mut server = Heard { sign: None, at: seconds(1000) };
        assert!(!server.is_gone(sign(5), seconds(1001)));
        // Its archiver pauses for a minute after it has failed.
        assert!(!server.is_gone(sign(5), seconds(1075)));
        assert!(server.is_gone(sign(5), seconds(1076)));
        // The clock of the files may have stepped back.
        assert!(!server.is_gone(sign(4), seconds(1077)));
        assert!(!server.is_gone(sign(4), seconds(1151)));
        assert!(server.is_gone(sign(4), seconds(1152)));
    }
}
