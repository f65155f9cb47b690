//! A store that fails, lies or ignores conditions, on top of a real one.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// What is wrong with the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// The request of this number (from 0) fails and does nothing.
    Fails(usize),
    /// The request of this number does what it should and reports a failure.
    ActsAndFails(usize),
    /// Every request from this number on fails: the process has died, or the store is gone.
    Dies(usize),
    /// Creates overwrite and say nothing.
    IgnoresCreate,
    /// Creates look first and put then, with time in between.
    RacyCreate,
}

/// What happens when somebody begins to list what is below a prefix.
type Listened = Box<dyn Fn(&Path) + Send + Sync>;

/// A store with something wrong. Multipart uploads and copies panic: pgbr uses neither.
pub struct FaultStore {
    inner: Arc<dyn ObjectStore>,
    fault: Fault,
    requests: AtomicUsize,
    listened: Option<Listened>,
}

impl FaultStore {
    /// Puts a fault on a store.
    pub fn new(inner: Arc<dyn ObjectStore>, fault: Fault) -> Arc<Self> {
        Arc::new(Self { inner, fault, requests: AtomicUsize::new(0), listened: None })
    }

    /// A sound store that calls `listened` whenever all below a prefix is about to be listed: for what comes or goes at that moment.
    pub fn listening(
        inner: Arc<dyn ObjectStore>,
        listened: impl Fn(&Path) + Send + Sync + 'static,
    ) -> Arc<Self> {
        let listened: Option<Listened> = Some(Box::new(listened));
        Arc::new(Self { inner, fault: Fault::None, requests: AtomicUsize::new(0), listened })
    }

    /// The requests that came so far, failed ones included.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// Counts a request: an error where it fails without acting, and whether it fails after acting.
    fn begin(&self) -> Result<bool> {
        let number = self.requests.fetch_add(1, Ordering::SeqCst);
        match self.fault {
            Fault::Fails(n) if n == number => Err(fault()),
            Fault::Dies(n) if number >= n => Err(fault()),
            Fault::ActsAndFails(n) => Ok(n == number),
            _ => Ok(false),
        }
    }
}

fn fault() -> Error {
    Error::Generic { store: "FaultStore", source: "the connection was reset".into() }
}

impl fmt::Debug for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultStore").field("fault", &self.fault).finish_non_exhaustive()
    }
}

impl fmt::Display for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultStore({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for FaultStore {
    async fn put_opts(&self, key: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        let lies = self.begin()?;
        if options.mode == PutMode::Create {
            match self.fault {
                Fault::IgnoresCreate => options.mode = PutMode::Overwrite,
                Fault::RacyCreate => {
                    if self.inner.head(key).await.is_ok() {
                        let (path, source) = (key.to_string(), "it is there".into());
                        return Err(Error::AlreadyExists { path, source });
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    options.mode = PutMode::Overwrite;
                }
                _ => {}
            }
        }
        let result = self.inner.put_opts(key, payload, options).await?;
        if lies { Err(fault()) } else { Ok(result) }
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        unreachable!("multipart uploads are not used: they leave halves behind")
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> Result<GetResult> {
        let lies = self.begin()?;
        let result = self.inner.get_opts(key, options).await?;
        if lies { Err(fault()) } else { Ok(result) }
    }

    fn delete_stream(&self, keys: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        match self.begin() {
            Err(error) => futures::stream::once(async { Err(error) }).boxed(),
            Ok(false) => self.inner.delete_stream(keys),
            Ok(true) => self.inner.delete_stream(keys).map(|_| Err(fault())).boxed(),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        if let (Some(listened), Some(prefix)) = (&self.listened, prefix) {
            listened(prefix);
        }
        match self.begin() {
            Ok(false) => self.inner.list(prefix),
            _ => futures::stream::once(async { Err(fault()) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        match self.begin()? {
            true => Err(fault()),
            false => self.inner.list_with_delimiter(prefix).await,
        }
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        unreachable!("objects are not copied")
    }
}

/// Every way to fail at request `n`.
pub const fn failures(n: usize) -> [Fault; 3] {
    [Fault::Fails(n), Fault::ActsAndFails(n), Fault::Dies(n)]
}
