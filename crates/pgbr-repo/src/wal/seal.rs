//! Reads and compresses the content of a WAL file once, piece by piece, on one thread or several, and seals it for each repository.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path as FsPath;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};

use bytes::Bytes;
use pgbr_codec::{Compression, Compressor, OBJECT_HEADER_LEN, ObjectKind, PackedPiece, WAL_PIECE, WalSealer};
use pgbr_manifest::{SystemId, WalFileName};

use super::{MAX_CONTENT, WalSource};
use crate::error::{Error, Result};
use crate::repo_file::Repo;

/// How many threads compress one file at most.
const MAX_WORKERS: usize = 64;
/// Room for a trailer.
const TRAILER_ROOM: usize = 512;

/// The content of a WAL file, read, digested and compressed: what every repository that it goes to gets. Cheap to clone.
#[derive(Clone)]
pub struct WalContent {
    inner: Arc<Content>,
}

struct Content {
    pieces: Vec<PackedPiece>,
    size: u64,
    digest: [u8; 32],
}

impl fmt::Debug for WalContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WalContent").field("size", &self.inner.size).finish_non_exhaustive()
    }
}

impl WalContent {
    /// Reads a file and compresses it on so many threads (1 to 64).
    ///
    /// Memory: the compressed content, and two pieces of 2 MiB (raw and compressed) a thread.
    ///
    /// # Errors
    /// [`Error::Local`] where it cannot be read, [`Error::Invalid`] where it is larger than any WAL file.
    pub async fn read(source: WalSource, compression: Compression, workers: usize) -> Result<Self> {
        let work = tokio::task::spawn_blocking(move || read_blocking(&source, compression, workers));
        work.await.unwrap_or_else(|e| Err(crashed(e)))
    }

    /// Bytes of content.
    pub fn size(&self) -> u64 {
        self.inner.size
    }

    /// BLAKE3 of the content.
    pub(super) fn digest(&self) -> [u8; 32] {
        self.inner.digest
    }

    /// The object of this content for a repository, in a lane of its own.
    pub(super) async fn seal(
        &self,
        repo: &Repo,
        file: WalFileName,
        system_id: Option<SystemId>,
    ) -> Result<Bytes> {
        let (keyring, seed) = (repo.keyring().clone(), repo.lane_seed()?);
        let content = Arc::clone(&self.inner);
        let work = tokio::task::spawn_blocking(move || {
            let name = file.to_string();
            let sealer = keyring.sealer(ObjectKind::Wal, seed);
            sealer
                .and_then(|sealer| content.seal(sealer, &name, system_id))
                .map_err(|source| Error::Codec { object: name.clone(), source })
        });
        work.await.unwrap_or_else(|e| Err(crashed(e)))
    }
}

impl Content {
    fn seal(
        &self,
        sealer: pgbr_codec::Sealer,
        name: &str,
        system_id: Option<SystemId>,
    ) -> pgbr_codec::Result<Bytes> {
        let sealer = WalSealer::new(sealer)?;
        let frames: usize = self.pieces.iter().map(PackedPiece::frame_len).sum();
        let mut object = Vec::with_capacity(OBJECT_HEADER_LEN + frames + TRAILER_ROOM);
        object.extend_from_slice(&sealer.header());
        let mut number = 0;
        for piece in &self.pieces {
            sealer.seal_packed(number, piece, &mut object)?;
            number += 1;
        }
        let system_id = system_id.map(|id| id.as_u64());
        let trailer = sealer.trailer(&object, name, self.size, self.digest, system_id, number)?;
        object.extend_from_slice(&trailer);
        Ok(object.into())
    }
}

fn crashed(error: tokio::task::JoinError) -> Error {
    Error::local("seal", "a WAL file", io::Error::other(error))
}

fn read_blocking(source: &WalSource, compression: Compression, workers: usize) -> Result<WalContent> {
    let mut source = Source::open(source)?;
    let pieces = usize::try_from(source.size.div_ceil(WAL_PIECE as u64)).unwrap_or(usize::MAX);
    let workers = workers.clamp(1, MAX_WORKERS).min(pieces.max(1));
    let mut packing =
        Packing { compression, digest: blake3::Hasher::new(), pieces: Vec::with_capacity(pieces) };
    if workers == 1 {
        packing.alone(&mut source)?;
    } else {
        packing.together(&mut source, workers)?;
    };
    let digest = *packing.digest.finalize().as_bytes();
    let content = Content { pieces: packing.pieces, size: source.size, digest };
    Ok(WalContent { inner: Arc::new(content) })
}

/// A piece with its number, on its way to a worker.
type Raw = (u64, Vec<u8>);
/// A compressed piece with its number, and the buffer to be used again.
type Done = (u64, pgbr_codec::Result<PackedPiece>, Vec<u8>);

/// Content on its way.
struct Packing {
    compression: Compression,
    digest: blake3::Hasher,
    pieces: Vec<PackedPiece>,
}

fn failed(source: pgbr_codec::Error) -> Error {
    Error::Codec { object: "a WAL file".to_owned(), source }
}

impl Packing {
    /// Piece after piece on this thread.
    fn alone(&mut self, source: &mut Source<'_>) -> Result<()> {
        let mut compressor = Compressor::new(self.compression).map_err(failed)?;
        let mut piece = Vec::new();
        while source.next(&mut piece)? {
            self.digest.update(&piece);
            self.pieces.push(PackedPiece::new(&mut compressor, &piece).map_err(failed)?);
        }
        Ok(())
    }

    /// This thread reads and digests, the others compress.
    fn together(&mut self, source: &mut Source<'_>, workers: usize) -> Result<()> {
        let compressors: pgbr_codec::Result<Vec<_>> =
            (0..workers).map(|_| Compressor::new(self.compression)).collect();
        let compressors = compressors.map_err(failed)?;
        std::thread::scope(|scope| {
            let (to_main, results) = std::sync::mpsc::channel::<Done>();
            let mut queues = Vec::with_capacity(workers);
            for mut compressor in compressors {
                let (queue, jobs) = std::sync::mpsc::channel::<Raw>();
                let to_main = to_main.clone();
                queues.push(queue);
                scope.spawn(move || {
                    for (number, raw) in jobs {
                        let piece = PackedPiece::new(&mut compressor, &raw);
                        if to_main.send((number, piece, raw)).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(to_main);
            self.feed(source, &queues, &results)
        })
    }

    fn feed(
        &mut self,
        source: &mut Source<'_>,
        queues: &[Sender<Raw>],
        results: &Receiver<Done>,
    ) -> Result<()> {
        let crashed = || failed(pgbr_codec::Error::Crypto { primitive: "a compressing thread" });
        let (mut next, mut taken) = (0u64, 0u64);
        let mut ready = BTreeMap::new();
        let mut spare: Vec<Vec<u8>> = (0..queues.len() * 2).map(|_| Vec::new()).collect();
        let mut more = true;
        while more || taken < next {
            while let Some(mut raw) = if more { spare.pop() } else { None } {
                more = source.next(&mut raw)?;
                if !more {
                    break;
                }
                self.digest.update(&raw);
                let queue = queues.iter().cycle().nth(usize::try_from(next).unwrap_or(0) % queues.len());
                let sent = queue.is_some_and(|queue| queue.send((next, raw)).is_ok());
                next += 1;
                if !sent {
                    return Err(crashed());
                }
            }
            if taken == next {
                continue;
            }
            let (number, piece, raw) = results.recv().map_err(|_| crashed())?;
            ready.insert(number, piece.map_err(failed)?);
            spare.push(raw);
            while let Some(piece) = ready.remove(&taken) {
                self.pieces.push(piece);
                taken += 1;
            }
        }
        Ok(())
    }
}

/// Content that is read piece by piece.
struct Source<'a> {
    reader: Reader<'a>,
    size: u64,
    left: u64,
}

enum Reader<'a> {
    File(File, &'a FsPath),
    Bytes(Bytes),
}

impl<'a> Source<'a> {
    fn open(source: &'a WalSource) -> Result<Self> {
        let (reader, size) = match source {
            WalSource::Bytes(bytes) => (Reader::Bytes(bytes.clone()), bytes.len() as u64),
            WalSource::Path(path) => {
                let failed = |e| Error::local("read", path, e);
                let file = File::open(path).map_err(failed)?;
                let found = file.metadata().map_err(failed)?;
                if !found.is_file() {
                    return Err(Error::Unsafe { path: path.clone(), reason: "it is not a file" });
                }
                (Reader::File(file, path), found.len())
            }
        };
        if size > MAX_CONTENT {
            let reason = format!("of {size} bytes is larger than {MAX_CONTENT}");
            return Err(Error::Invalid { what: "WAL file", reason });
        }
        Ok(Self { reader, size, left: size })
    }

    /// Puts the next piece into `piece`; false at the end.
    fn next(&mut self, piece: &mut Vec<u8>) -> Result<bool> {
        let length = usize::try_from(self.left).unwrap_or(WAL_PIECE).min(WAL_PIECE);
        self.left -= length as u64;
        match &mut self.reader {
            Reader::Bytes(bytes) => {
                piece.clear();
                piece.extend_from_slice(&bytes.split_to(length));
            }
            Reader::File(file, path) => {
                piece.resize(length, 0);
                file.read_exact(piece).map_err(|e| Error::local("read", *path, e))?;
            }
        }
        Ok(length > 0)
    }
}
