//! The seam to storage: bounded reads, creates that never overwrite, durable local files, and errors sorted by meaning.
//!
//! What [`object_store`]'s local file system does by itself with fsync on (read in its source, 0.14): the staged file is synced, then linked
//! (create) or renamed (overwrite), then its directory is synced, and so are directories that it makes. What it does not do, and what this
//! file adds for local stores:
//!
//! - A deletion is not synced: [`Store::delete_durable`] does it.
//! - A directory made by *another* process may be there and not yet be synced: the first time that a process writes into a directory, the
//!   directories above it are synced as well.
//! - An object put by another process may be there and its directory not yet be synced: who relies on it calls [`Store::settle`].
//! - Missing directories are made: an unmounted repository would grow beneath its mount point. Once a repository is known to be
//!   here, each write first looks whether it still is.
//! - Reading an object as a stream goes by steps of 8 KiB: everything here reads in one piece.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::path::{Path as FsPath, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    Attributes, GetOptions, GetResult, GetResultPayload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode,
    PutOptions, PutPayload, TagSet,
};

use crate::error::{Cause, Error, Meaning, Result, Told};
use crate::guard::Guard;
use crate::keys::{Layout, PREFIX};

/// How long it counts that the repository was seen in a store of another host.
const REACHED: Duration = Duration::from_secs(10);

/// What became of a create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a create that did not fail has these two outcomes")]
pub enum Created {
    /// The object was not there, and is now.
    New,
    /// An object of this name was there and was left alone. It may be our own, put by a request that was repeated.
    AlreadyThere,
}

/// Whose object stands under a name after a create.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "an object with a name is ours or it is not")]
pub enum Resolved {
    /// Ours: byte for byte what was to be put.
    Ours,
    /// Another one, with this content (empty where it is larger than asked for).
    Others(Bytes),
}

/// An object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Listed {
    /// Its key.
    pub key: Path,
    /// Its size in bytes.
    pub size: u64,
    /// When it was put, in Unix seconds by the store's clock: for people to read.
    pub modified: i64,
}

impl From<ObjectMeta> for Listed {
    fn from(meta: ObjectMeta) -> Self {
        Self { key: meta.location, size: meta.size, modified: meta.last_modified.timestamp() }
    }
}

/// One level of a listing, both parts sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Level {
    /// Names of the directories.
    pub directories: Vec<String>,
    /// The objects.
    pub objects: Vec<Listed>,
}

/// An object that could not be taken away.
#[derive(Debug)]
#[non_exhaustive]
pub struct Undeleted {
    /// Its key.
    pub key: Path,
    /// Why.
    pub error: Error,
}

/// The client of a store that can delete many objects by one request.
struct Bulk {
    objects: Arc<dyn ObjectStore>,
    refused: AtomicBool,
}

/// How many objects one request deletes.
const BULK: usize = 1000;
/// How many deletions of single objects are under way at once.
const DELETIONS: usize = 16;

/// Why a read gave nothing.
enum Broken {
    /// The body broke off: it may be read again.
    Body(Error),
    /// Any other reason.
    No(Error),
}

/// How often an object is read whose body breaks off.
const BODIES: u8 = 3;

/// A file that an interrupted put has left in a local store, or one that is being put right now.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leftover {
    /// The file.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// When it was last written to: one that is being put changes or goes away within seconds.
    pub modified: std::time::SystemTime,
}

/// How many requests were made, and how many bytes they carried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Requests {
    /// Objects put, whether or not they were there.
    pub puts: u64,
    /// Objects or parts of objects read, and sizes asked for.
    pub gets: u64,
    /// Listings begun.
    pub lists: u64,
    /// Objects deleted.
    pub deletes: u64,
    /// Bytes read.
    pub bytes_in: u64,
    /// Bytes put.
    pub bytes_out: u64,
}

/// A place for objects. Cheap to clone; clones share their counters.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
    guard: Option<Arc<dyn Guard>>,
}

struct Inner {
    objects: Arc<dyn ObjectStore>,
    local: Option<Local>,
    place: String,
    create_honoured: AtomicBool,
    repository_expected: AtomicBool,
    /// When the repository was last seen in a store of another host.
    reached: Mutex<Option<Instant>>,
    counters: Counters,
    /// What new objects are labelled with.
    labels: (TagSet, Attributes),
    /// Where puts go that have to say more than other requests.
    puts: Option<Arc<dyn ObjectStore>>,
    bulk: Option<Bulk>,
}

#[derive(Default)]
struct Counters {
    puts: AtomicU64,
    gets: AtomicU64,
    lists: AtomicU64,
    deletes: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

/// The directory of a local store.
struct Local {
    root: PathBuf,
    /// Directories whose ancestors this process has synced.
    settled: Mutex<HashSet<PathBuf>>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("place", &self.inner.place).finish_non_exhaustive()
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.place)
    }
}

impl Store {
    /// A directory of this host. With `create` it is made where it is missing, and is durable when this returns.
    ///
    /// Files get the mode 0666 less the process's umask, which the program has to set.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where the directory is missing (an unmounted disk, more often than not) or is none.
    pub fn local(root: &FsPath, create: bool) -> Result<Self> {
        Self::local_wrapped(root, create, |objects| objects)
    }

    /// As [`Store::local`], with a wrapper about the file system: for limits, measurements and faults.
    ///
    /// # Errors
    /// As [`Store::local`].
    pub fn local_wrapped(
        root: &FsPath,
        create: bool,
        wrap: impl FnOnce(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore>,
    ) -> Result<Self> {
        let place = root.display().to_string();
        if create {
            create_dir_durable(root)?;
        }
        let unavailable = |cause: Cause| Error::Unavailable { object: place.clone(), source: cause };
        let root = root.canonicalize().map_err(|e| unavailable(e.into()))?;
        if !root.is_dir() {
            return Err(unavailable(Cause::new("it is not a directory")));
        }
        let files =
            LocalFileSystem::new_with_prefix(&root).map_err(|e| unavailable(Cause::from_store(&e)))?;
        let local = Local { root, settled: Mutex::default() };
        Ok(Self::from_parts(wrap(Arc::new(files.with_fsync(true))), Some(local), place))
    }

    /// Any other store; `place` is what messages call it.
    pub fn remote(objects: Arc<dyn ObjectStore>, place: impl Into<String>) -> Self {
        Self::from_parts(objects, None, place.into())
    }

    /// The same with tags and metadata for what is put into it: for a store that has no clones yet.
    #[must_use]
    pub(crate) fn with_labels(mut self, labels: (TagSet, Attributes)) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            inner.labels = labels;
        }
        self
    }

    fn from_parts(objects: Arc<dyn ObjectStore>, local: Option<Local>, place: String) -> Self {
        Self {
            guard: None,
            inner: Arc::new(Inner {
                objects,
                local,
                place,
                create_honoured: AtomicBool::new(true),
                repository_expected: AtomicBool::new(false),
                reached: Mutex::default(),
                counters: Counters::default(),
                labels: (TagSet::default(), Attributes::new()),
                puts: None,
                bulk: None,
            }),
        }
    }

    /// The same with clients for what goes otherwise: puts, and the deletion of many objects at once. For a store that has no clones yet.
    #[must_use]
    pub(crate) fn with_clients(
        mut self,
        puts: Option<Arc<dyn ObjectStore>>,
        bulk: Option<Arc<dyn ObjectStore>>,
    ) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            inner.puts = puts;
            inner.bulk = bulk.map(|objects| Bulk { objects, refused: AtomicBool::new(false) });
        }
        self
    }

    /// The same for who holds a lease: nothing is overwritten or taken away through it once that may be another's.
    #[must_use]
    pub fn guarded(&self, guard: Arc<dyn Guard>) -> Self {
        Self { inner: Arc::clone(&self.inner), guard: Some(guard) }
    }

    /// The same without a guard: for what is nobody else's whatever happens, because its name is random.
    #[must_use]
    pub(crate) fn unguarded(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), guard: None }
    }

    async fn check_guard(&self) -> Result<()> {
        match &self.guard {
            Some(guard) => guard.check().await,
            None => Ok(()),
        }
    }

    /// What messages call this store: a directory or an address.
    pub fn place(&self) -> &str {
        &self.inner.place
    }

    /// Whether it is a directory, where what another process has put may not be durable yet.
    pub fn is_local(&self) -> bool {
        self.inner.local.is_some()
    }

    /// Whether the store honours a conditional create, as the repository's probe found. Where it does not, names carry an
    /// attempt or a digest, so that no overwrite can lose other content.
    pub fn create_honoured(&self) -> bool {
        self.inner.create_honoured.load(Ordering::Relaxed)
    }

    pub(crate) fn set_create_honoured(&self, honoured: bool) {
        self.inner.create_honoured.store(honoured, Ordering::Relaxed);
    }

    /// From now on a missing `repo.json` means that the store is out of reach, not that it is empty.
    pub(crate) fn expect_repository(&self) {
        self.inner.repository_expected.store(true, Ordering::Relaxed);
        self.note_reached();
    }

    fn note_reached(&self) {
        *self.inner.reached.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether the repository was seen so lately that it need not be looked for again. A disk may be unmounted at any moment; a store that
    /// answers is not another one than some seconds before.
    fn reached_lately(&self) -> bool {
        let reached = *self.inner.reached.lock().unwrap_or_else(PoisonError::into_inner);
        self.inner.local.is_none() && reached.is_some_and(|at| at.elapsed() < REACHED)
    }

    /// The requests made so far by all clones of this store.
    pub fn requests(&self) -> Requests {
        let c = &self.inner.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Requests {
            puts: read(&c.puts),
            gets: read(&c.gets),
            lists: read(&c.lists),
            deletes: read(&c.deletes),
            bytes_in: read(&c.bytes_in),
            bytes_out: read(&c.bytes_out),
        }
    }

    /// A whole object of at most `max` bytes.
    ///
    /// # Errors
    /// [`Error::NotFound`] only where the repository was reached; [`Error::Corrupt`] where the object is larger.
    pub async fn get(&self, key: &Path, max: u64) -> Result<Bytes> {
        self.whole(|| self.get_once(key, max)).await
    }

    async fn get_once(&self, key: &Path, max: u64) -> Result<Bytes, Broken> {
        let result = match self.get_opts(key, GetOptions::default()).await {
            Err(error @ object_store::Error::NotFound { .. }) => {
                return Err(Broken::No(self.missing(key, &error, false).await));
            }
            other => other.map_err(|e| Broken::No(Error::from_store(key, e)))?,
        };
        let size = result.meta.size;
        if size > max {
            let reason = format_args!("it has {size} bytes, more than {max}");
            return Err(Broken::No(Error::corrupt(key, reason)));
        }
        self.collect(key, result, size).await
    }

    /// The bytes `range` of an object, all of them.
    ///
    /// # Errors
    /// As [`Store::get`]; [`Error::Corrupt`] where the object ends before the range does.
    pub async fn get_range(&self, key: &Path, range: Range<u64>) -> Result<Bytes> {
        let Some(length) = range.end.checked_sub(range.start).filter(|&n| n > 0) else {
            return Ok(Bytes::new());
        };
        self.whole(|| self.get_range_once(key, &range, length)).await
    }

    async fn get_range_once(&self, key: &Path, range: &Range<u64>, length: u64) -> Result<Bytes, Broken> {
        let options = GetOptions::new().with_range(Some(range.clone()));
        let result = match self.get_opts(key, options).await {
            Ok(result) => result,
            Err(error @ object_store::Error::NotFound { .. }) => {
                return Err(Broken::No(self.missing(key, &error, false).await));
            }
            Err(error) => return Err(Broken::No(self.range_error(key, range, error).await)),
        };
        if result.range != *range {
            return Err(Broken::No(short(key, range, result.meta.size)));
        }
        self.collect(key, result, length).await
    }

    /// Reads again what broke off on its way. `object_store` goes on by itself where a body breaks off whose entity tag is still the same;
    /// here it is begun anew where there is no tag or it has changed, so that no two objects are mixed.
    async fn whole<R: Future<Output = Result<Bytes, Broken>>>(&self, read: impl Fn() -> R) -> Result<Bytes> {
        let mut tried = 1;
        loop {
            match read().await {
                Ok(content) => return Ok(content),
                Err(Broken::Body(_)) if tried < BODIES && !self.is_local() => tried += 1,
                Err(Broken::Body(error) | Broken::No(error)) => return Err(error),
            }
        }
    }

    /// The size of an object.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub async fn head(&self, key: &Path) -> Result<u64> {
        let options = GetOptions::new().with_head(true);
        match self.get_opts(key, options).await {
            Ok(result) => Ok(result.meta.size),
            Err(error @ object_store::Error::NotFound { .. }) => Err(self.missing(key, &error, true).await),
            Err(error) => Err(Error::from_store(key, error)),
        }
    }

    /// Whether there is an object of this name.
    ///
    /// # Errors
    /// Where the repository could not be reached.
    pub async fn exists(&self, key: &Path) -> Result<bool> {
        match self.head(key).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Everything below a directory, in no order, as it comes.
    ///
    /// An empty listing of a repository that is out of reach is an error, at the end of the stream.
    pub fn list(&self, directory: &Path) -> BoxStream<'static, Result<Listed>> {
        self.listed(directory, self.inner.objects.list(Some(directory)))
    }

    /// As [`Store::list`], of keys that come after `offset` alone; a store that knows no such listing goes through all of them.
    pub fn list_from(&self, directory: &Path, offset: &Path) -> BoxStream<'static, Result<Listed>> {
        self.listed(directory, self.inner.objects.list_with_offset(Some(directory), offset))
    }

    fn listed(
        &self,
        directory: &Path,
        objects: BoxStream<'static, object_store::Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<Listed>> {
        bump(&self.inner.counters.lists, 1);
        let name = self.name_of(directory);
        let listed = objects.map(move |entry| match entry {
            Ok(meta) => Ok(meta.into()),
            Err(error) => Err(Error::sorted(name.clone(), &error)),
        });
        let state = (self.clone(), listed, false);
        futures::stream::try_unfold(state, |(store, mut listed, mut some)| async move {
            match listed.next().await {
                Some(entry) => {
                    some = true;
                    Ok(Some((entry?, (store, listed, some))))
                }
                None if some => Ok(None),
                None => store.check_reached().await.map(|()| None),
            }
        })
        .boxed()
    }

    /// What messages call a directory: the root has no name of its own.
    fn name_of(&self, directory: &Path) -> String {
        if directory.as_ref().is_empty() { self.inner.place.clone() } else { directory.to_string() }
    }

    /// One level below a directory, sorted.
    ///
    /// # Errors
    /// Where the repository could not be reached. A directory that is not there is empty.
    pub async fn level(&self, directory: &Path) -> Result<Level> {
        bump(&self.inner.counters.lists, 1);
        let listed = self.inner.objects.list_with_delimiter(Some(directory)).await;
        let listed = listed.map_err(|e| Error::sorted(self.name_of(directory), &e))?;
        if listed.common_prefixes.is_empty() && listed.objects.is_empty() {
            self.check_reached().await?;
        }
        let mut directories: Vec<String> =
            listed.common_prefixes.iter().filter_map(|p| p.filename().map(str::to_owned)).collect();
        let objects = listed.objects.into_iter();
        let mut objects: Vec<Listed> = objects.map(Listed::from).collect();
        directories.sort_unstable();
        objects.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(Level { directories, objects })
    }

    /// Puts an object that must not be there yet; when this returns [`Created::New`] it is durable.
    ///
    /// Where the store does not honour conditional creates this overwrites: the caller then has chosen a name that carries an
    /// attempt or a digest. After [`Created::AlreadyThere`] and after any error the object may still be ours: read it back.
    ///
    /// # Errors
    /// As the store failed; it is then unknown whether the object was stored.
    pub async fn create(&self, key: &Path, content: Bytes) -> Result<Created> {
        let mode = if self.create_honoured() { PutMode::Create } else { PutMode::Overwrite };
        self.put(key, content, mode).await
    }

    /// As [`Store::create`], and settles every doubt: "exists" may be our own request, repeated; a request that failed or timed out
    /// may have stored the object. What is there is read back, at most `max` bytes of it, and compared.
    ///
    /// # Errors
    /// [`Error::Undecided`] where it is not known whether the object is or will be there: nothing that depends on it may be cleaned
    /// up. Any other error says that it is not there.
    pub async fn create_resolved(&self, key: &Path, content: Bytes, max: u64) -> Result<Resolved> {
        let failed = match self.create(key, content.clone()).await {
            Ok(Created::New) => return Ok(Resolved::Ours),
            Ok(Created::AlreadyThere) => None,
            Err(error) => Some(error),
        };
        match (self.get(key, max).await, failed) {
            (Ok(found), _) if found == content => self.settle(key).await.map(|()| Resolved::Ours),
            (Ok(found), _) => Ok(Resolved::Others(found)),
            // It is larger than anything of its kind: somebody else's.
            (Err(Error::Corrupt { .. }), _) => Ok(Resolved::Others(Bytes::new())),
            // A request that timed out on its way to another host may still arrive.
            (Err(error), Some(failed)) if error.is_not_found() => match self.inner.local {
                None if matches!(failed, Error::Unavailable { .. }) => {
                    Err(Error::Undecided { object: key.to_string(), source: Box::new(failed) })
                }
                _ => Err(failed),
            },
            (Err(error @ Error::StoreMissing { .. }), _) => Err(error),
            (Err(error), _) => Err(Error::Undecided { object: key.to_string(), source: Box::new(error) }),
        }
    }

    /// Puts an object, in the place of another if there is one: only for the few small records that may be rewritten.
    ///
    /// # Errors
    /// As the store failed; it is then unknown which of the two is there.
    pub async fn overwrite(&self, key: &Path, content: Bytes) -> Result<()> {
        self.put(key, content, PutMode::Overwrite).await.map(|_| ())
    }

    /// Asks for a conditional create whatever the probe has found: the probe's own request. `None` where the store knows no such thing.
    pub(crate) async fn create_asked(&self, key: &Path, content: Bytes) -> Result<Option<Created>> {
        use object_store::Error::{NotImplemented, NotSupported};
        match self.request_put(key, content, PutMode::Create).await {
            Err(NotImplemented { .. } | NotSupported { .. }) => Ok(None),
            // A directory creates by a hard link, which some file systems do not have (shares of Windows, above all).
            Err(error) if self.is_local() && has_no_links(&error) => Ok(None),
            other => other.map(Some).map_err(|e| Error::from_store(key, e)),
        }
    }

    /// Takes an object away; one that is not there is no error. A crash may bring it back: see [`Store::delete_durable`].
    ///
    /// # Errors
    /// Where the store failed or could not be reached.
    pub async fn delete(&self, key: &Path) -> Result<()> {
        self.check_before_change().await?;
        self.check_guard().await?;
        bump(&self.inner.counters.deletes, 1);
        match self.inner.objects.delete(key).await {
            Ok(()) => Ok(()),
            Err(error @ object_store::Error::NotFound { .. }) => match self.missing(key, &error, false).await
            {
                Error::NotFound { .. } => Ok(()),
                error => Err(error),
            },
            Err(error) => Err(Error::from_store(key, error)),
        }
    }

    /// Takes many objects away, with few requests where the store can; those that are not there count as taken away.
    ///
    /// What the store will not let go of (by a lock or for lack of rights) stops nothing: it is returned, and the rest goes. As with
    /// [`Store::delete`] a crash may bring some back.
    ///
    /// # Errors
    /// Where the store failed or could not be reached: it is then unknown which of them are gone.
    pub async fn delete_all(&self, keys: Vec<Path>) -> Result<Vec<Undeleted>> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        self.check_before_change().await?;
        let left = match &self.inner.bulk {
            Some(bulk) => self.delete_bulk(bulk, keys).await?,
            None => keys,
        };
        let singles = left.into_iter().map(|key| async move {
            match self.delete(&key).await {
                Ok(()) => Ok(None),
                Err(error @ Error::Permission { .. }) => Ok(Some(Undeleted { key, error })),
                Err(error) => Err(error),
            }
        });
        let singles = futures::stream::iter(singles).buffer_unordered(DELETIONS);
        singles.try_filter_map(|left| async { Ok(left) }).try_collect().await
    }

    /// Deletes by requests for many objects each. Returns those that are not known to be gone: each is then tried alone, which tells why.
    async fn delete_bulk(&self, bulk: &Bulk, keys: Vec<Path>) -> Result<Vec<Path>> {
        let mut left = Vec::new();
        let mut chunks = keys.chunks(BULK);
        for chunk in &mut chunks {
            if bulk.refused.load(Ordering::Relaxed) {
                left.extend_from_slice(chunk);
                continue;
            }
            self.check_guard().await?;
            let asked = futures::stream::iter(chunk.to_vec()).map(Ok).boxed();
            let answers = bulk.objects.delete_stream(asked).collect::<Vec<_>>();
            // In a task of its own: the client panics where the answer names an object that was not asked for.
            let answers = tokio::task::spawn(answers).await.unwrap_or_default();
            let gone: HashSet<&Path> = answers.iter().filter_map(|answer| answer.as_ref().ok()).collect();
            bump(&self.inner.counters.deletes, gone.len() as u64);
            // Nothing at all went: the store does not know such requests, or does not allow them.
            bulk.refused.store(gone.is_empty(), Ordering::Relaxed);
            left.extend(chunk.iter().filter(|key| !gone.contains(key)).cloned());
        }
        Ok(left)
    }

    /// Takes an object away for good, before this returns: where what comes next relies on it.
    ///
    /// # Errors
    /// As [`Store::delete`].
    pub async fn delete_durable(&self, key: &Path) -> Result<()> {
        self.delete(key).await?;
        let Some(local) = &self.inner.local else { return Ok(()) };
        let directory = local.file(key).parent().map(FsPath::to_owned);
        let Some(directory) = directory else { return Ok(()) };
        let synced = blocking(move || {
            // A directory that is gone as well was removed from the one above.
            let there = directory.ancestors().find(|d| d.is_dir()).unwrap_or(&directory);
            sync_dir(there)
        });
        synced.await.map_err(|e| Error::Unavailable { object: key.to_string(), source: e.into() })
    }

    /// Makes sure that an object which somebody else put outlives a crash: its writer may have died before it synced.
    ///
    /// # Errors
    /// Where the object is gone or the system could not sync it.
    pub async fn settle(&self, key: &Path) -> Result<()> {
        self.settle_all(std::slice::from_ref(key)).await
    }

    /// As [`Store::settle`] for many objects; each directory is synced once.
    ///
    /// # Errors
    /// As [`Store::settle`].
    pub async fn settle_all(&self, keys: &[Path]) -> Result<()> {
        let (Some(local), Some(first)) = (&self.inner.local, keys.first()) else { return Ok(()) };
        let files: Vec<PathBuf> = keys.iter().map(|key| local.file(key)).collect();
        let root = local.root.clone();
        let synced = blocking(move || {
            let mut directories = HashSet::new();
            for file in &files {
                std::fs::File::open(file)?.sync_all()?;
                let above = file.ancestors().skip(1).take_while(|d| d.starts_with(&root));
                directories.extend(above);
            }
            directories.into_iter().try_for_each(sync_dir)
        });
        synced.await.map_err(|e| Error::Unavailable { object: first.to_string(), source: e.into() })
    }

    /// Removes the empty directories in and below a directory of a local store, and it itself: what is left of an expired backup.
    ///
    /// # Errors
    /// As the system failed; a directory that is not empty is none.
    pub async fn remove_empty_directories(&self, directory: &Path) -> Result<()> {
        let Some(local) = &self.inner.local else { return Ok(()) };
        let path = local.file(directory);
        local.settled.lock().unwrap_or_else(PoisonError::into_inner).retain(|d| !d.starts_with(&path));
        let failed =
            |e: std::io::Error| Error::Unavailable { object: directory.to_string(), source: e.into() };
        blocking(move || remove_empty(&path)).await.map_err(failed)
    }

    /// Files that interrupted puts have left below a directory of a local store. No listing shows them, and no object is ever one of them.
    ///
    /// # Errors
    /// As the system failed.
    pub async fn leftovers(&self, directory: &Path) -> Result<Vec<Leftover>> {
        let Some(local) = &self.inner.local else { return Ok(Vec::new()) };
        let path = local.file(directory);
        let failed =
            |e: std::io::Error| Error::Unavailable { object: directory.to_string(), source: e.into() };
        blocking(move || {
            let mut found = Vec::new();
            find_leftovers(&path, &mut found)?;
            Ok(found)
        })
        .await
        .map_err(failed)
    }

    /// Removes a file that an interrupted put has left. Removed under a put that is still at work, it makes that put fail.
    ///
    /// # Errors
    /// As the system failed; a file that is gone is none.
    pub async fn remove_leftover(&self, leftover: Leftover) -> Result<()> {
        let object = leftover.path.display().to_string();
        let removed = blocking(move || match std::fs::remove_file(&leftover.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other,
        });
        removed.await.map_err(|e| Error::Unavailable { object, source: e.into() })
    }

    /// Finds out whether the repository is still where it was.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where neither `repo.json` nor its copy can be seen.
    pub async fn check_reached(&self) -> Result<()> {
        if !self.inner.repository_expected.load(Ordering::Relaxed) || self.reached_lately() {
            return Ok(());
        }
        self.look_for_repository().await
    }

    /// As [`Store::check_reached`], whatever was seen before.
    async fn look_for_repository(&self) -> Result<()> {
        let keys = Layout::new();
        let mut failed = None;
        for key in [keys.repo_json(), keys.repo_json_copy()] {
            match self.is_there(&key).await {
                Ok(true) => {
                    self.note_reached();
                    return Ok(());
                }
                Ok(false) => {}
                Err(found) => failed = Some(found),
            }
        }
        if failed.is_none() {
            self.check_store().await?;
        }
        let source = Cause::new("there is no repo.json: is the disk mounted, is the address right?");
        Err(failed.unwrap_or_else(|| Error::Unavailable { object: self.inner.place.clone(), source }))
    }

    /// Finds out whether a remote store has the bucket: a bare "not found" may be said of that, or by something in between.
    async fn check_store(&self) -> Result<()> {
        if self.is_local() {
            return Ok(());
        }
        bump(&self.inner.counters.lists, 1);
        match self.inner.objects.list(Some(&Path::from(PREFIX))).next().await {
            Some(Err(error)) => Err(Error::sorted(self.inner.place.clone(), &error)),
            Some(Ok(_)) | None => Ok(()),
        }
    }

    /// Whether an object can be seen; in a local store by a look past the store, which is nothing to be counted.
    async fn is_there(&self, key: &Path) -> Result<bool> {
        let place = || self.inner.place.clone();
        if let Some(local) = &self.inner.local {
            let file = local.file(key);
            let looked = blocking(move || file.try_exists()).await;
            return looked.map_err(|e| Error::Unavailable { object: place(), source: e.into() });
        }
        match self.get_opts(key, GetOptions::new().with_head(true)).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(Error::sorted(place(), &error)),
        }
    }

    async fn put(&self, key: &Path, content: Bytes, mode: PutMode) -> Result<Created> {
        self.check_before_change().await?;
        if mode == PutMode::Overwrite {
            self.check_guard().await?;
        }
        let created = self.request_put(key, content, mode).await.map_err(|e| Error::from_store(key, e))?;
        if created == Created::New {
            self.settle_ancestors(key).await?;
        }
        Ok(created)
    }

    async fn request_put(&self, key: &Path, content: Bytes, mode: PutMode) -> object_store::Result<Created> {
        use object_store::Error::{AlreadyExists, Precondition};
        let creates = mode == PutMode::Create;
        bump(&self.inner.counters.puts, 1);
        bump(&self.inner.counters.bytes_out, content.len() as u64);
        let (tags, attributes) = self.inner.labels.clone();
        let options = PutOptions { mode, tags, attributes, ..PutOptions::default() };
        let objects = self.inner.puts.as_ref().unwrap_or(&self.inner.objects);
        match objects.put_opts(key, PutPayload::from_bytes(content), options).await {
            Ok(_) => Ok(Created::New),
            Err(error @ (AlreadyExists { .. } | Precondition { .. })) if creates => {
                match Told::of(&error).is_none_or(|told| told.meaning() == Meaning::Other) {
                    true => Ok(Created::AlreadyThere),
                    false => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Syncs the directories above a new object's own, once a process and directory.
    async fn settle_ancestors(&self, key: &Path) -> Result<()> {
        let Some(local) = &self.inner.local else { return Ok(()) };
        let file = local.file(key);
        let Some(directory) = file.parent().map(FsPath::to_owned) else { return Ok(()) };
        if local.settled.lock().unwrap_or_else(PoisonError::into_inner).contains(&directory) {
            return Ok(());
        }
        let (above, root) = (directory.parent().map(FsPath::to_owned), local.root.clone());
        let synced = blocking(move || above.map_or(Ok(()), |above| sync_up_to(&above, &root)));
        synced.await.map_err(|e| Error::Unavailable { object: key.to_string(), source: e.into() })?;
        local.settled.lock().unwrap_or_else(PoisonError::into_inner).insert(directory);
        Ok(())
    }

    /// A local store would make the directories of a repository whose disk is not mounted any more.
    async fn check_before_change(&self) -> Result<()> {
        match &self.inner.local {
            Some(_) => self.check_reached().await,
            None => Ok(()),
        }
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        bump(&self.inner.counters.gets, 1);
        self.inner.objects.get_opts(key, options).await
    }

    /// The body of an answer, which must have `length` bytes.
    async fn collect(&self, key: &Path, result: GetResult, length: u64) -> Result<Bytes, Broken> {
        let cut = || {
            let reason = format!("fewer or more than {length} bytes arrived");
            match self.is_local() {
                true => Error::corrupt(key, reason),
                false => Error::Unavailable { object: key.to_string(), source: Cause::new(reason) },
            }
        };
        let failed = |e| Broken::Body(Error::from_store(key, e));
        let content = match result.payload {
            GetResultPayload::File(..) => result.bytes().await.map_err(failed)?,
            GetResultPayload::Stream(mut parts) => {
                let length = usize::try_from(length).map_err(|_| Broken::No(cut()))?;
                let mut content = BytesMut::with_capacity(length);
                while let Some(part) = parts.next().await {
                    let part = part.map_err(failed)?;
                    if content.len().saturating_add(part.len()) > length {
                        return Err(Broken::Body(cut()));
                    }
                    content.extend_from_slice(&part);
                }
                content.freeze()
            }
        };
        if content.len() as u64 != length {
            return Err(Broken::Body(cut()));
        }
        bump(&self.inner.counters.bytes_in, length);
        Ok(content)
    }

    /// "Not found" says something only if the repository itself is found. `bare`: the answer to such a request has no body that could say
    /// what is missing.
    async fn missing(&self, key: &Path, said: &object_store::Error, bare: bool) -> Error {
        let told = Told::of(said);
        if told.as_ref().is_some_and(|told| told.meaning() != Meaning::Other) {
            return Error::sorted(key.to_string(), said);
        }
        let expected = self.inner.repository_expected.load(Ordering::Relaxed);
        let named = told.as_ref().is_some_and(Told::is_missing_object);
        let reached = match (named, expected) {
            (false, false) => self.check_store().await,
            // Not the store's own words: it may be somebody between, whatever the store answered a moment ago.
            (false, true) if told.is_some() && !bare => self.look_for_repository().await,
            _ => self.check_reached().await,
        };
        reached.err().unwrap_or_else(|| Error::not_found(key))
    }

    /// A range that is not there tells that the object is cut; other errors are the store's.
    async fn range_error(&self, key: &Path, range: &Range<u64>, error: object_store::Error) -> Error {
        match self.head(key).await {
            Ok(size) if size < range.end => short(key, range, size),
            _ => Error::from_store(key, error),
        }
    }
}

impl Local {
    fn file(&self, key: &Path) -> PathBuf {
        key.parts().fold(self.root.clone(), |path, part| path.join(part.as_ref()))
    }
}

fn short(key: &Path, range: &Range<u64>, size: u64) -> Error {
    Error::corrupt(
        key,
        format_args!("bytes {} to {} were asked for and it has {size}", range.start, range.end),
    )
}

fn bump(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

/// Runs file system work where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(std::io::Error::other(e)))
}

fn sync_dir(directory: &FsPath) -> std::io::Result<()> {
    std::fs::File::open(directory)?.sync_all()
}

/// Syncs `directory` and those above it, up to and with `root`.
fn sync_up_to(directory: &FsPath, root: &FsPath) -> std::io::Result<()> {
    for directory in directory.ancestors().take_while(|d| d.starts_with(root)) {
        sync_dir(directory)?;
    }
    Ok(())
}

/// Removes a directory if nothing but empty directories is in it.
fn remove_empty(directory: &FsPath) -> std::io::Result<()> {
    use std::io::ErrorKind::{DirectoryNotEmpty, NotFound};
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_empty(&entry.path())?;
        }
    }
    match std::fs::remove_dir(directory) {
        Err(error) if matches!(error.kind(), DirectoryNotEmpty | NotFound) => Ok(()),
        other => other,
    }
}

/// Collects the staging files below a directory: their names end in `#` and digits.
fn find_leftovers(directory: &FsPath, found: &mut Vec<Leftover>) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            find_leftovers(&entry.path(), found)?;
            continue;
        }
        let name = entry.file_name();
        let digits = name.to_str().and_then(|name| name.rsplit_once('#')).map(|(_, digits)| digits);
        if digits.is_some_and(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit())) {
            let about = entry.metadata()?;
            found.push(Leftover { path: entry.path(), size: about.len(), modified: about.modified()? });
        }
    }
    Ok(())
}

/// Whether an operation failed because the file system does not know it.
fn has_no_links(error: &object_store::Error) -> bool {
    matches!(
        crate::error::io_kind(error),
        Some(std::io::ErrorKind::Unsupported | std::io::ErrorKind::PermissionDenied)
    )
}

/// Makes a directory and those above it, and syncs what has changed.
fn create_dir_durable(path: &FsPath) -> Result<()> {
    let existing = path.ancestors().find(|d| d.as_os_str().is_empty() || d.exists());
    std::fs::create_dir_all(path).map_err(|e| Error::local("create directory", path, e))?;
    let changed = path.ancestors().skip(1).take_while(|d| existing.is_none_or(|e| d.starts_with(e)));
    for directory in changed.filter(|_| existing != Some(path)) {
        let directory = if directory.as_os_str().is_empty() { FsPath::new(".") } else { directory };
        sync_dir(directory).map_err(|e| Error::local("sync directory", directory, e))?;
    }
    Ok(())
}
