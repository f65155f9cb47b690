//! Where the objects come from: the seam to storage.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, BufRead, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Result};

/// How much is asked for at once.
const CHUNK: u64 = 2 << 20;

/// Why an object could not be had.
#[derive(Debug, thiserror::Error)]
#[expect(
    clippy::exhaustive_enums,
    reason = "that an object is missing is all that a reader must tell from other failures"
)]
pub enum ObjectError {
    /// The repository was reached, and has no such object.
    #[error("not there")]
    NotFound,
    /// Anything else.
    #[error(transparent)]
    Failed(Box<dyn std::error::Error + Send + Sync>),
}

/// One level of a listing, in any order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "made by those who implement Objects")]
pub struct Level {
    /// Names of the directories, without what they lie in.
    pub directories: Vec<String>,
    /// Names and sizes of the objects, without what they lie in.
    pub objects: Vec<(String, u64)>,
}

/// The objects of a repository. Keys are relative to the repository's path and have no `/` at either end.
///
/// It is called from plain threads and may block; over an asynchronous store an implementation waits for its runtime.
pub trait Objects: Send + Sync {
    /// The bytes `range` of an object, fewer only where the object ends before the range does.
    ///
    /// # Errors
    /// [`ObjectError::NotFound`] only where the repository was reached.
    fn read(&self, object: &str, range: Range<u64>) -> Result<Bytes, ObjectError>;

    /// The size of an object in bytes.
    ///
    /// # Errors
    /// As [`Objects::read`].
    fn size(&self, object: &str) -> Result<u64, ObjectError>;

    /// What lies directly in a directory; one that is not there is empty.
    ///
    /// # Errors
    /// Where the repository could not be reached.
    fn level(&self, directory: &str) -> Result<Level, ObjectError>;
}

/// Objects held in memory: for examples and tests.
impl Objects for BTreeMap<String, Vec<u8>> {
    fn read(&self, object: &str, range: Range<u64>) -> Result<Bytes, ObjectError> {
        let content = self.get(object).ok_or(ObjectError::NotFound)?;
        let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(content.len());
        let bytes = content.get(place(range.start)..place(range.end)).unwrap_or_default();
        Ok(Bytes::copy_from_slice(bytes))
    }

    fn size(&self, object: &str) -> Result<u64, ObjectError> {
        self.get(object).map(|content| content.len() as u64).ok_or(ObjectError::NotFound)
    }

    fn level(&self, directory: &str) -> Result<Level, ObjectError> {
        let mut level = Level::default();
        let mut directories = BTreeSet::new();
        for (key, content) in self {
            let Some(name) = key.strip_prefix(directory).and_then(|rest| rest.strip_prefix('/')) else {
                continue;
            };
            match name.split_once('/') {
                Some((below, _)) => drop(directories.insert(below.to_owned())),
                None => level.objects.push((name.to_owned(), content.len() as u64)),
            }
        }
        level.directories.extend(directories);
        Ok(level)
    }
}

/// The objects below a directory of this host.
#[derive(Debug, Clone)]
pub struct Directory {
    root: PathBuf,
}

impl Directory {
    /// Those below `root`, the repository's path.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// An object's file. Keys are made by this crate, of parts that were checked.
    fn file(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    /// "Not found" says something only where the repository itself is found: a disk may not be mounted.
    fn failed(&self, error: io::Error) -> ObjectError {
        let missing = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
        if missing && self.root.is_dir() { ObjectError::NotFound } else { ObjectError::Failed(error.into()) }
    }
}

impl Objects for Directory {
    fn read(&self, object: &str, range: Range<u64>) -> Result<Bytes, ObjectError> {
        let read = || {
            let mut file = fs::File::open(self.file(object))?;
            file.seek(SeekFrom::Start(range.start))?;
            let length = range.end.saturating_sub(range.start);
            let known = file.metadata()?.len().saturating_sub(range.start).min(length);
            let mut content = Vec::with_capacity(usize::try_from(known).unwrap_or(0));
            file.take(length).read_to_end(&mut content)?;
            Ok(content.into())
        };
        read().map_err(|error| self.failed(error))
    }

    fn size(&self, object: &str) -> Result<u64, ObjectError> {
        match fs::metadata(self.file(object)) {
            Ok(about) if about.is_file() => Ok(about.len()),
            Ok(_) => Err(ObjectError::NotFound),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn level(&self, directory: &str) -> Result<Level, ObjectError> {
        let list = || {
            let mut level = Level::default();
            for entry in fs::read_dir(self.file(directory))? {
                let entry = entry?;
                // Links are followed; one that leads nowhere is no object, and neither is a name that is not text.
                let (Ok(about), Ok(name)) = (fs::metadata(entry.path()), entry.file_name().into_string())
                else {
                    continue;
                };
                match about.is_dir() {
                    true => level.directories.push(name),
                    false => level.objects.push((name, about.len())),
                }
            }
            Ok(level)
        };
        match list().map_err(|error| self.failed(error)) {
            Err(ObjectError::NotFound) => Ok(Level::default()),
            other => other,
        }
    }
}

/// A range of an object as a stream.
pub(crate) struct ObjectReader {
    objects: Arc<dyn Objects>,
    object: String,
    /// What is still to be asked for.
    rest: Range<u64>,
    chunk: Bytes,
}

impl ObjectReader {
    pub(crate) fn new(objects: Arc<dyn Objects>, object: impl Into<String>, range: Range<u64>) -> Self {
        Self { objects, object: object.into(), rest: range, chunk: Bytes::new() }
    }

    fn next_chunk(&mut self) -> Result<Bytes> {
        let end = self.rest.start.saturating_add(CHUNK).min(self.rest.end);
        let range = self.rest.start..end;
        let length = range.end - range.start;
        let chunk = self.objects.read(&self.object, range);
        let chunk = chunk.map_err(|error| Error::from_source(&self.object, error))?;
        if chunk.len() as u64 != length {
            let reason = format!(
                "it ends at byte {}, {} are needed",
                self.rest.start + chunk.len() as u64,
                self.rest.end
            );
            return Err(Error::damaged(&self.object, reason));
        }
        self.rest.start = end;
        Ok(chunk)
    }
}

impl BufRead for ObjectReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.chunk.is_empty() && self.rest.start < self.rest.end {
            self.chunk = self.next_chunk()?;
        }
        Ok(&self.chunk)
    }

    fn consume(&mut self, amount: usize) {
        drop(self.chunk.split_to(amount.min(self.chunk.len())));
    }
}

impl Read for ObjectReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let amount = self.fill_buf()?.read(into)?;
        self.consume(amount);
        Ok(amount)
    }
}
