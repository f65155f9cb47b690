//! The objects of a repository by key, whatever it lies in: how tests look at them and harm them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use futures::TryStreamExt;
use object_store::path::Path as Key;
use object_store::{Error, ObjectStore, ObjectStoreExt};
use tokio::runtime::Runtime;

use crate::operator::own;

/// The objects of one repository. Keys are relative to its path and have no slash at their ends. Every call panics when the store
/// does not do what it is asked, and must not come from asynchronous code.
#[derive(Debug, Clone)]
pub struct Objects(Place);

#[derive(Debug, Clone)]
enum Place {
    Directory(PathBuf),
    Bucket { store: Arc<dyn ObjectStore>, prefix: String },
}

impl Objects {
    /// Those below a directory.
    pub fn in_directory(root: PathBuf) -> Self {
        Self(Place::Directory(root))
    }

    /// Those below a prefix of a bucket.
    pub(crate) fn in_bucket(store: Arc<dyn ObjectStore>, prefix: &str) -> Self {
        Self(Place::Bucket { store, prefix: prefix.to_owned() })
    }

    /// The keys below a prefix (a whole part of the path), sorted. Files that are only being put are left out.
    pub fn list(&self, prefix: &str) -> Vec<String> {
        self.sizes(prefix).into_keys().collect()
    }

    /// The same with the lengths of the objects.
    pub fn sizes(&self, prefix: &str) -> BTreeMap<String, u64> {
        match &self.0 {
            Place::Directory(root) => files(root, &root.join(prefix)),
            Place::Bucket { store, prefix: of_all } => {
                let below = Key::from(format!("{of_all}/{prefix}"));
                let found: Vec<_> = wait(store.list(Some(&below)).try_collect()).expect("it can be listed");
                let cut = of_all.len() + 1;
                found.iter().map(|meta| (meta.location.as_ref()[cut..].to_owned(), meta.size)).collect()
            }
        }
    }

    /// The content of an object; nothing when there is none.
    pub fn find(&self, key: &str) -> Option<Vec<u8>> {
        match &self.0 {
            Place::Directory(root) => match fs::read(root.join(key)) {
                Ok(content) => Some(content),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                Err(error) => panic!("{key}: {error}"),
            },
            Place::Bucket { store, prefix } => wait(async {
                match store.get(&Key::from(format!("{prefix}/{key}"))).await {
                    Ok(got) => Some(got.bytes().await.unwrap_or_else(|e| panic!("{key}: {e}")).to_vec()),
                    Err(Error::NotFound { .. }) => None,
                    Err(error) => panic!("{key}: {error}"),
                }
            }),
        }
    }

    /// The content of an object that is there.
    pub fn get(&self, key: &str) -> Vec<u8> {
        self.find(key).unwrap_or_else(|| panic!("there is no object {key}"))
    }

    /// Whether there is such an object.
    pub fn has(&self, key: &str) -> bool {
        match &self.0 {
            Place::Directory(root) => root.join(key).is_file(),
            Place::Bucket { store, prefix } => {
                match wait(store.head(&Key::from(format!("{prefix}/{key}")))) {
                    Ok(_) => true,
                    Err(Error::NotFound { .. }) => false,
                    Err(error) => panic!("{key}: {error}"),
                }
            }
        }
    }

    /// Puts an object, or another content in its place. A file gets a new inode: links to the old one do not follow.
    pub fn put(&self, key: &str, content: &[u8]) {
        match &self.0 {
            Place::Directory(root) => {
                let path = root.join(key);
                make_directories(root, &path);
                fs::remove_file(&path).ok();
                fs::write(&path, content).unwrap_or_else(|error| panic!("{key}: {error}"));
                own(&path);
            }
            Place::Bucket { store, prefix } => {
                let whole = Key::from(format!("{prefix}/{key}"));
                let put = wait(store.put(&whole, content.to_vec().into()));
                drop(put.unwrap_or_else(|error| panic!("{key}: {error}")));
            }
        }
    }

    /// Takes an object away.
    pub fn remove(&self, key: &str) {
        match &self.0 {
            Place::Directory(root) => {
                fs::remove_file(root.join(key)).unwrap_or_else(|error| panic!("{key}: {error}"));
            }
            Place::Bucket { store, prefix } => {
                wait(store.delete(&Key::from(format!("{prefix}/{key}"))))
                    .unwrap_or_else(|error| panic!("{key}: {error}"));
            }
        }
    }
}

fn make_directories(root: &Path, path: &Path) {
    let missing: Vec<&Path> =
        path.ancestors().skip(1).take_while(|dir| dir.starts_with(root) && !dir.exists()).collect();
    for dir in missing.into_iter().rev() {
        fs::create_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        own(dir);
    }
}

fn files(root: &Path, dir: &Path) -> BTreeMap<String, u64> {
    let (mut found, mut todo) = (BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                todo.push(path);
            } else if !entry.file_name().to_string_lossy().contains('#') {
                let key = path.strip_prefix(root).expect("it was found below");
                // A file may be removed in between.
                let size = entry.metadata().map(|meta| meta.len());
                found.extend(size.map(|size| (key.to_str().expect("keys are text").to_owned(), size)));
            }
        }
    }
    found
}

/// Waits for a request in a runtime of its own.
fn wait<T>(request: impl Future<Output = T>) -> T {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).enable_all().build().expect("a runtime can be made")
    });
    runtime.block_on(request)
}
