//! A bucket that keeps versions, read as it was at a moment.
//!
//! Of each object the newest version counts that is not younger than the moment; where that is a delete marker, there was none. Versions are
//! listed once for each directory, when something in it is first asked for.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::Mutex;

/// How many directories are looked into at once.
const LOOKS: usize = 16;

/// One version of an object, or the mark that it was deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version {
    /// The object's whole key.
    pub(super) key: String,
    /// What the store calls this version.
    pub(super) id: String,
    /// When it was made.
    pub(super) modified: jiff::Timestamp,
    /// Whether it is the last one.
    pub(super) latest: bool,
    /// Its size; none where it marks a deletion.
    pub(super) size: Option<u64>,
}

/// A part of a listing.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// Versions, the newest of each object first.
    pub(super) versions: Vec<Version>,
    /// Directories, where one level was asked for.
    pub(super) directories: Vec<String>,
    /// Where the next part begins; none where this was the last.
    pub(super) next: Option<(String, String)>,
}

/// A store that tells versions.
#[async_trait]
pub(super) trait Versions: fmt::Debug + Send + Sync + 'static {
    /// A part of a listing below `prefix`, which ends in a slash or is empty.
    async fn page(&self, prefix: &str, one_level: bool, from: Option<(String, String)>) -> Result<Page>;
}

/// What was in a directory.
#[derive(Debug, Default)]
struct Level {
    objects: BTreeMap<Path, Version>,
    directories: BTreeSet<String>,
}

/// A store at a moment. It is never written to.
#[derive(Debug, Clone)]
pub(super) struct AsOf(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Arc<dyn ObjectStore>,
    versions: Arc<dyn Versions>,
    moment: i64,
    levels: Mutex<HashMap<Path, Arc<Level>>>,
}

impl AsOf {
    /// `moment` in Unix seconds.
    pub(super) fn new(store: Arc<dyn ObjectStore>, versions: Arc<dyn Versions>, moment: i64) -> Self {
        Self(Arc::new(Inner { store, versions, moment, levels: Mutex::default() }))
    }

    async fn level(&self, directory: &Path) -> Result<Arc<Level>> {
        // Held while it is listed, so that many who ask at once list once.
        let mut levels = self.0.levels.lock().await;
        if let Some(level) = levels.get(directory) {
            return Ok(Arc::clone(level));
        }
        let level = Arc::new(self.listing(directory, true).await?);
        levels.insert(directory.clone(), Arc::clone(&level));
        Ok(level)
    }

    async fn listing(&self, directory: &Path, one_level: bool) -> Result<Level> {
        let prefix = prefix(directory);
        let (mut versions, mut directories, mut from) = (Vec::new(), BTreeSet::new(), None);
        loop {
            let page = self.0.versions.page(&prefix, one_level, from).await?;
            versions.extend(page.versions);
            directories.extend(page.directories);
            from = page.next;
            if from.is_none() {
                break;
            }
        }
        let mut objects = BTreeMap::new();
        for version in at(versions, self.0.moment) {
            let key = Path::parse(&version.key).map_err(|e| Error::InvalidPath { source: e })?;
            objects.insert(key, version);
        }
        Ok(Level { objects, directories })
    }

    /// Whether anything was in a directory: it may be named for what came later or was deleted before.
    async fn had_objects(&self, directory: &Path) -> Result<bool> {
        let (prefix, mut from, mut rest) = (prefix(directory), None, Vec::new());
        loop {
            let page = self.0.versions.page(&prefix, false, from).await?;
            rest.extend(page.versions);
            // Of the last object more versions may follow.
            let last = rest.last().map(|version: &Version| version.key.clone());
            let open = page.next.is_some();
            let (whole, begun): (Vec<_>, Vec<_>) =
                rest.into_iter().partition(|version| !open || Some(&version.key) != last.as_ref());
            if at(whole, self.0.moment).next().is_some() {
                return Ok(true);
            }
            (rest, from) = (begun, page.next);
            if from.is_none() {
                return Ok(false);
            }
        }
    }

    async fn found(&self, key: &Path) -> Result<Version> {
        let mut directory: Vec<_> = key.parts().collect();
        directory.pop();
        let level = self.level(&directory.into_iter().collect()).await?;
        level.objects.get(key).cloned().ok_or_else(|| Error::NotFound {
            path: key.to_string(),
            source: "it was not there at the moment that is asked for".into(),
        })
    }
}

/// The prefix of what is in a directory.
fn prefix(directory: &Path) -> String {
    match directory.as_ref() {
        "" => String::new(),
        directory => format!("{directory}/"),
    }
}

/// The versions that counted at a moment, one an object.
fn at(versions: Vec<Version>, moment: i64) -> impl Iterator<Item = Version> {
    let mut newest: BTreeMap<String, Version> = BTreeMap::new();
    let age = |version: &Version| (version.modified, version.latest);
    for version in versions.into_iter().filter(|version| version.modified.as_second() <= moment) {
        match newest.get(&version.key) {
            // What was listed first is the newer one.
            Some(other) if age(other) >= age(&version) => {}
            _ => {
                newest.insert(version.key.clone(), version);
            }
        }
    }
    newest.into_values().filter(|version| version.size.is_some())
}

fn meta(key: &Path, version: &Version) -> ObjectMeta {
    let modified = std::time::SystemTime::from(version.modified);
    ObjectMeta {
        location: key.clone(),
        last_modified: modified.into(),
        size: version.size.unwrap_or_default(),
        e_tag: None,
        version: Some(version.id.clone()),
    }
}

fn read_only(key: &Path) -> Error {
    let source = "a repository that is read as it was at a moment is not written to".into();
    Error::PermissionDenied { path: key.to_string(), source }
}

impl fmt::Display for AsOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} as of {}", self.0.store, self.0.moment)
    }
}

#[async_trait]
impl ObjectStore for AsOf {
    async fn put_opts(&self, key: &Path, _content: PutPayload, _options: PutOptions) -> Result<PutResult> {
        Err(read_only(key))
    }

    async fn put_multipart_opts(
        &self,
        key: &Path,
        _options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Err(read_only(key))
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> Result<GetResult> {
        let version = Some(self.found(key).await?.id);
        self.0.store.get_opts(key, GetOptions { version, ..options }).await
    }

    fn delete_stream(&self, keys: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        keys.map(|key| key.and_then(|key| Err(read_only(&key)))).boxed()
    }

    fn list(&self, directory: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (this, directory) = (self.clone(), directory.cloned().unwrap_or_default());
        let listed = async move {
            let level = this.listing(&directory, false).await?;
            let metas: Vec<_> = level.objects.iter().map(|(key, version)| Ok(meta(key, version))).collect();
            Ok::<_, Error>(futures::stream::iter(metas))
        };
        futures::stream::once(listed).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, directory: Option<&Path>) -> Result<ListResult> {
        let level = self.level(&directory.cloned().unwrap_or_default()).await?;
        let mut directories = Vec::new();
        for name in &level.directories {
            directories.push(Path::parse(name).map_err(|e| Error::InvalidPath { source: e })?);
        }
        let looks = directories.into_iter().map(|directory| async move {
            Ok::<_, Error>(self.had_objects(&directory).await?.then_some(directory))
        });
        let had: Vec<Option<Path>> = futures::stream::iter(looks).buffered(LOOKS).try_collect().await?;
        let objects = level.objects.iter().map(|(key, version)| meta(key, version)).collect();
        Ok(ListResult {
            common_prefixes: had.into_iter().flatten().collect(),
            objects,
            extensions: Default::default(),
        })
    }

    async fn copy_opts(&self, _from: &Path, to: &Path, _options: CopyOptions) -> Result<()> {
        Err(read_only(to))
    }
}
