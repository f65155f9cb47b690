//! Objects of our store for the reader of pgBackRest's format, whose threads wait.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use object_store::path::Path;
use pgbr_pgbackrest::{Level, ObjectError, Objects};
use pgbr_repo::{Error as RepoError, Listed, Store};
use tokio::runtime::Handle;

/// Small reads of a bundle are served from pieces of it of this size.
const PIECE: u64 = 2 << 20;
/// How many pieces are kept: files are read bundle by bundle, in the order in which they lie, by some threads.
const KEPT: usize = 16;

/// Bytes of an `archive.info` that are fetched at once: one has some hundred.
const MAX_INFO: u64 = 1 << 20;

/// The objects of a store.
pub(crate) struct StoreObjects {
    store: Store,
    runtime: Handle,
    /// The `archive.info` whose size was asked for last: it is read next, and must not have been replaced in between.
    info: Mutex<Option<(String, Bytes)>>,
    /// Pieces of bundles, the one fetched last at the end.
    pieces: Mutex<VecDeque<(String, u64, Bytes)>>,
}

impl StoreObjects {
    /// Those of `store`; only inside of a runtime.
    pub(crate) fn new(store: Store) -> Self {
        Self { store, runtime: Handle::current(), info: Mutex::default(), pieces: Mutex::default() }
    }

    /// Fetches an `archive.info` or its copy whole; none where it is larger than any is.
    fn fetch_info(&self, object: &str) -> Result<Option<Bytes>, ObjectError> {
        match self.runtime.block_on(self.store.get(&key(object)?, MAX_INFO)) {
            Ok(content) => Ok(Some(content)),
            Err(RepoError::Corrupt { .. }) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    fn info(&self) -> MutexGuard<'_, Option<(String, Bytes)>> {
        self.info.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fetch(&self, object: &str, range: Range<u64>) -> Result<Bytes, ObjectError> {
        let key = key(object)?;
        let read = async {
            match self.store.get_range(&key, range.clone()).await {
                // It may end before the range does.
                Err(RepoError::Corrupt { .. }) => {
                    let size = self.store.head(&key).await?;
                    self.store.get_range(&key, range.start.min(size)..range.end.min(size)).await
                }
                read => read,
            }
        };
        self.runtime.block_on(read).map_err(failed)
    }

    /// A piece of a bundle. Two threads that want the same one at the same time may both fetch it.
    fn piece(&self, object: &str, number: u64) -> Result<Bytes, ObjectError> {
        let pieces = || self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        let is = |(of, at, _): &&(String, u64, Bytes)| of == object && *at == number;
        if let Some((_, _, piece)) = pieces().iter().find(is) {
            return Ok(piece.clone());
        }
        let piece = self.fetch(object, number * PIECE..(number + 1) * PIECE)?;
        let mut pieces = pieces();
        pieces.push_back((object.to_owned(), number, piece.clone()));
        if pieces.len() > KEPT {
            pieces.pop_front();
        }
        Ok(piece)
    }
}

impl Objects for StoreObjects {
    fn read(&self, object: &str, range: Range<u64>) -> Result<Bytes, ObjectError> {
        if let Some((_, content)) = self.info().as_ref().filter(|(of, _)| of == object) {
            let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(content.len());
            return Ok(content.slice(place(range.start)..place(range.end)));
        }
        let (first, last) = (range.start / PIECE, range.end.saturating_sub(1) / PIECE);
        let is_small = range.start < range.end && range.end - range.start < PIECE && first == last;
        if !is_small || !object.contains("/bundle/") {
            return self.fetch(object, range);
        }
        let piece = self.piece(object, first)?;
        let place = |at: u64| usize::try_from(at - first * PIECE).unwrap_or(usize::MAX).min(piece.len());
        Ok(piece.slice(place(range.start)..place(range.end)))
    }

    fn size(&self, object: &str) -> Result<u64, ObjectError> {
        if is_archive_info(object) {
            let content = self.fetch_info(object)?;
            let size = content.as_ref().map(|content| content.len() as u64);
            *self.info() = content.map(|content| (object.to_owned(), content));
            if let Some(size) = size {
                return Ok(size);
            }
        }
        self.runtime.block_on(self.store.head(&key(object)?)).map_err(failed)
    }

    fn level(&self, directory: &str) -> Result<Level, ObjectError> {
        let listed = self.runtime.block_on(self.store.level(&key(directory)?)).map_err(failed)?;
        let name = |object: Listed| Some((object.key.filename()?.to_owned(), object.size));
        Ok(Level {
            directories: listed.directories,
            objects: listed.objects.into_iter().filter_map(name).collect(),
        })
    }
}

fn is_archive_info(object: &str) -> bool {
    object.strip_suffix(".copy").unwrap_or(object).ends_with("/archive.info")
}

fn key(object: &str) -> Result<Path, ObjectError> {
    Path::parse(object).map_err(|error| ObjectError::Failed(error.into()))
}

fn failed(error: RepoError) -> ObjectError {
    if error.is_not_found() { ObjectError::NotFound } else { ObjectError::Failed(error.into()) }
}
