//! A store that fails, lies, dawdles or ignores conditions, on top of a real one.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::watch;

use crate::turns::{Turn, Turns};

/// What is wrong with the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// The request of this number (from 0) fails and does nothing.
    Fails(usize),
    /// The request of this number does what it should and reports a failure.
    ActsAndFails(usize),
    /// The request of this number does what it should, and its answer comes when all else is over: see [`FaultStore::beside`].
    ActsAndDelays(usize),
    /// Every request from this number on fails: the process has died, or the store is gone.
    Dies(usize),
    /// Creates overwrite and say nothing.
    IgnoresCreate,
    /// Creates look first and put then, with time in between.
    RacyCreate,
}

/// What happens when a request begins.
struct Watch(Box<dyn Fn(&str) + Send + Sync>);

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

impl Fault {
    /// The request from which on something is wrong, where it is a certain one.
    pub const fn request(self) -> Option<usize> {
        match self {
            Self::Fails(n) | Self::ActsAndFails(n) | Self::ActsAndDelays(n) | Self::Dies(n) => Some(n),
            Self::None | Self::IgnoresCreate | Self::RacyCreate => None,
        }
    }

    /// The same so many requests later.
    #[must_use]
    pub const fn later(self, by: usize) -> Self {
        match self {
            Self::Fails(n) => Self::Fails(n + by),
            Self::ActsAndFails(n) => Self::ActsAndFails(n + by),
            Self::ActsAndDelays(n) => Self::ActsAndDelays(n + by),
            Self::Dies(n) => Self::Dies(n + by),
            other => other,
        }
    }
}

/// Every way to fail at request `n`.
pub const fn failures(n: usize) -> [Fault; 4] {
    [Fault::Fails(n), Fault::ActsAndFails(n), Fault::ActsAndDelays(n), Fault::Dies(n)]
}

/// How long a delayed answer takes where nobody says what is to happen meanwhile.
const DELAY: Duration = Duration::from_millis(20);

/// A store with something wrong. Multipart uploads and copies panic: pgbr uses neither.
#[derive(Debug)]
pub struct FaultStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    inner: Arc<dyn ObjectStore>,
    fault: Fault,
    /// What was asked for, in order, failed requests included.
    log: Mutex<Vec<String>>,
    turns: Option<Turns>,
    watch: Option<Watch>,
    /// Whether a delayed answer waits for [`FaultStore::beside`].
    attended: AtomicBool,
    delay: watch::Sender<Delay>,
}

/// How far a delayed request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delay {
    NotYet,
    /// It has acted, and waits.
    Waits,
    /// It may answer, or will never come.
    Over,
}

/// What becomes of a request.
enum Verdict {
    Acts,
    ActsAndFails,
    ActsAndDelays,
}

impl FaultStore {
    /// Puts a fault on a store.
    pub fn new(inner: Arc<dyn ObjectStore>, fault: Fault) -> Arc<Self> {
        Self::build(inner, fault, None, None)
    }

    /// The same, with requests let through one at a time; where several wait, the seed says which is next.
    pub fn ordered(inner: Arc<dyn ObjectStore>, fault: Fault, seed: u64) -> Arc<Self> {
        Self::build(inner, fault, Some(Turns::new(seed)), None)
    }

    /// A sound store that calls `watch` with each request that it is about to do, as the log has it: for what comes or goes at that moment.
    pub fn watched(inner: Arc<dyn ObjectStore>, watch: impl Fn(&str) + Send + Sync + 'static) -> Arc<Self> {
        Self::build(inner, Fault::None, None, Some(Watch(Box::new(watch))))
    }

    fn build(
        inner: Arc<dyn ObjectStore>,
        fault: Fault,
        turns: Option<Turns>,
        watch: Option<Watch>,
    ) -> Arc<Self> {
        let (log, attended) = (Mutex::default(), AtomicBool::new(false));
        let delay = watch::Sender::new(Delay::NotYet);
        let shared = Shared { inner, fault, log, turns, watch, attended, delay };
        Arc::new(Self { shared: Arc::new(shared) })
    }

    /// What is wrong.
    pub fn fault(&self) -> Fault {
        self.shared.fault
    }

    /// The requests that came so far, failed ones included.
    pub fn requests(&self) -> usize {
        self.shared.log().len()
    }

    /// What they asked for.
    pub fn log(&self) -> Vec<String> {
        self.shared.log().clone()
    }

    /// Whether a run came as far as the request that goes wrong.
    pub fn reached(&self) -> bool {
        self.shared.fault.request().is_none_or(|n| self.requests() > n)
    }

    /// Does some work over this store. Where the fault is a delayed answer, `meanwhile` is done between act and answer, while the work waits;
    /// gives what came of both.
    pub async fn beside<T, U>(
        &self,
        work: impl Future<Output = T>,
        meanwhile: impl Future<Output = U>,
    ) -> (T, Option<U>) {
        self.shared.attended.store(true, Ordering::SeqCst);
        let mut seen = self.shared.delay.subscribe();
        let over = || self.shared.delay.send_modify(|delay| *delay = Delay::Over);
        let work = work.inspect(|_| over());
        let meanwhile = async {
            let waits =
                seen.wait_for(|delay| *delay != Delay::NotYet).await.is_ok_and(|d| *d == Delay::Waits);
            if !waits {
                return None;
            }
            let done = meanwhile.await;
            over();
            Some(done)
        };
        futures::future::join(work, meanwhile).await
    }
}

impl Shared {
    fn log(&self) -> MutexGuard<'_, Vec<String>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn turn(&self, what: &str) -> Option<Turn> {
        match &self.turns {
            Some(turns) => Some(turns.turn(what).await),
            None => None,
        }
    }

    /// Counts a request: an error where it fails without acting.
    fn begin(&self, what: String) -> Result<Verdict> {
        let mut log = self.log();
        let number = log.len();
        log.push(what);
        match self.fault {
            Fault::Fails(n) if n == number => Err(fault()),
            Fault::Dies(n) if number >= n => Err(fault()),
            Fault::ActsAndFails(n) if n == number => Ok(Verdict::ActsAndFails),
            Fault::ActsAndDelays(n) if n == number => Ok(Verdict::ActsAndDelays),
            _ => Ok(Verdict::Acts),
        }
    }

    /// One request, in a task of its own: whoever has the turn goes on, whether or not somebody asks for the answer just now.
    async fn request<T: Send + 'static>(
        self: &Arc<Self>,
        what: String,
        act: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let shared = Arc::clone(self);
        let request = async move {
            let turn = shared.turn(&what).await;
            if let Some(Watch(watch)) = &shared.watch {
                watch(&what);
            }
            let verdict = shared.begin(what)?;
            let result = act.await;
            drop(turn);
            match verdict {
                Verdict::Acts => result,
                Verdict::ActsAndFails => result.and_then(|_| Err(fault())),
                Verdict::ActsAndDelays => {
                    shared.wait().await;
                    result
                }
            }
        };
        let task = tokio::spawn(request);
        // Who gives up an answer gives up the request, where it has not been sent.
        let _abort = AbortOnDrop(task.abort_handle());
        task.await.unwrap_or_else(|_| Err(fault()))
    }

    async fn wait(&self) {
        if !self.attended.load(Ordering::SeqCst) {
            return tokio::time::sleep(DELAY).await;
        }
        // What was sent together with it arrives first.
        if let Some(turns) = &self.turns {
            turns.idle().await;
        }
        let mut seen = self.delay.subscribe();
        self.delay.send_if_modified(|delay| {
            let waits = *delay == Delay::NotYet;
            if waits {
                *delay = Delay::Waits;
            }
            waits
        });
        seen.wait_for(|delay| *delay == Delay::Over).await.ok();
    }

    async fn put(
        self: Arc<Self>,
        key: Path,
        payload: PutPayload,
        mut options: PutOptions,
    ) -> Result<PutResult> {
        if options.mode == PutMode::Create {
            match self.fault {
                Fault::IgnoresCreate => options.mode = PutMode::Overwrite,
                Fault::RacyCreate => {
                    if self.inner.head(&key).await.is_ok() {
                        let (path, source) = (key.to_string(), "it is there".into());
                        return Err(Error::AlreadyExists { path, source });
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    options.mode = PutMode::Overwrite;
                }
                _ => {}
            }
        }
        self.inner.put_opts(&key, payload, options).await
    }
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn fault() -> Error {
    Error::Generic { store: "FaultStore", source: "the connection was reset".into() }
}

/// What a request asks for.
fn told(what: &str, key: Option<&Path>) -> String {
    format!("{what} {}", key.map_or("", AsRef::as_ref))
}

impl fmt::Display for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultStore({})", self.shared.inner)
    }
}

#[async_trait]
impl ObjectStore for FaultStore {
    async fn put_opts(&self, key: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let put = Arc::clone(&self.shared).put(key.clone(), payload, options);
        self.shared.request(told("put", Some(key)), put).await
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        unreachable!("multipart uploads are not used: they leave halves behind")
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> Result<GetResult> {
        let what = told(if options.head { "head" } else { "get" }, Some(key));
        let (inner, key) = (Arc::clone(&self.shared.inner), key.clone());
        self.shared.request(what, async move { inner.get_opts(&key, options).await }).await
    }

    fn delete_stream(&self, keys: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let shared = Arc::clone(&self.shared);
        let answers = async move {
            let keys: Vec<Result<Path>> = keys.collect().await;
            let what = told("delete", keys.iter().flatten().next());
            let inner = Arc::clone(&shared.inner);
            let act = async move {
                let keys = futures::stream::iter(keys).boxed();
                Ok(inner.delete_stream(keys).collect::<Vec<_>>().await)
            };
            shared.request(what, act).await.unwrap_or_else(|error| vec![Err(error)])
        };
        futures::stream::once(answers).map(futures::stream::iter).flatten().boxed()
    }

    /// All of a listing at once, in the order of its keys.
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (shared, prefix) = (Arc::clone(&self.shared), prefix.cloned());
        let listed = async move {
            let (what, inner) = (told("list", prefix.as_ref()), Arc::clone(&shared.inner));
            let act = async move {
                let mut listed: Vec<Result<ObjectMeta>> = inner.list(prefix.as_ref()).collect().await;
                listed.sort_by_key(|entry| entry.as_ref().ok().map(|meta| meta.location.clone()));
                Ok(listed)
            };
            shared.request(what, act).await.unwrap_or_else(|error| vec![Err(error)])
        };
        futures::stream::once(listed).map(futures::stream::iter).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let (inner, prefix) = (Arc::clone(&self.shared.inner), prefix.cloned());
        let what = told("level", prefix.as_ref());
        self.shared.request(what, async move { inner.list_with_delimiter(prefix.as_ref()).await }).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        unreachable!("objects are not copied")
    }
}
