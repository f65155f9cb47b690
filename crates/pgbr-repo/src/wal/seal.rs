//! Seals the content of a WAL file, piece by piece, on one thread or several.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path as FsPath;
use std::sync::mpsc::{Receiver, Sender};

use bytes::Bytes;
use pgbr_codec::{Compression, Compressor, ObjectKind, WAL_PIECE, WalSealer};

use super::{MAX_CONTENT, WalPush, WalSource};
use crate::error::{Error, Result};
use crate::repo_file::Repo;

/// How many threads seal one file at most.
const MAX_WORKERS: usize = 64;

/// The sealed object and the digest of its content.
///
/// Memory: the object, and two pieces of 2 MiB (raw and sealed) a thread.
pub(super) async fn seal(repo: &Repo, push: WalPush) -> Result<(Bytes, [u8; 32])> {
    let sealer = repo.keyring().sealer(ObjectKind::Wal, repo.lane_salt()?);
    let name = push.file.to_string();
    let failed = |source| Error::Codec { object: name.clone(), source };
    let sealer = WalSealer::new(sealer).map_err(failed)?;
    let work = tokio::task::spawn_blocking(move || seal_blocking(&sealer, &push));
    work.await.unwrap_or_else(|e| {
        Err(Error::Local { action: "seal", path: name.clone().into(), source: io::Error::other(e) })
    })
}

fn seal_blocking(sealer: &WalSealer, push: &WalPush) -> Result<(Bytes, [u8; 32])> {
    let name = push.file.to_string();
    let failed = |source| Error::Codec { object: name.clone(), source };
    let mut source = Source::open(&push.source)?;
    let pieces = usize::try_from(source.size.div_ceil(WAL_PIECE as u64)).unwrap_or(usize::MAX);
    let workers = push.workers.clamp(1, MAX_WORKERS).min(pieces.max(1));
    let mut object = Vec::with_capacity(expected_size(push.compression, source.size));
    object.extend_from_slice(&sealer.header());
    let mut sealing =
        Sealing { sealer, compression: push.compression, name: &name, digest: blake3::Hasher::new(), object };
    let frames =
        if workers == 1 { sealing.alone(&mut source)? } else { sealing.together(&mut source, workers)? };

    let digest = *sealing.digest.finalize().as_bytes();
    let system_id = push.system_id.map(|id| id.as_u64());
    let mut object = sealing.object;
    object.extend_from_slice(&sealer.trailer(&name, source.size, digest, system_id, frames).map_err(failed)?);
    Ok((object.into(), digest))
}

/// A piece with its number, on its way to a worker.
type Raw = (u64, Vec<u8>);
/// A frame with its number, and the piece's buffer to be used again.
type Done = (u64, pgbr_codec::Result<Vec<u8>>, Vec<u8>);

/// An object under construction.
struct Sealing<'a> {
    sealer: &'a WalSealer,
    compression: Compression,
    name: &'a str,
    digest: blake3::Hasher,
    object: Vec<u8>,
}

impl Sealing<'_> {
    fn failed(&self, source: pgbr_codec::Error) -> Error {
        Error::Codec { object: self.name.to_owned(), source }
    }

    /// Piece after piece on this thread. Gives the number of frames.
    fn alone(&mut self, source: &mut Source<'_>) -> Result<u64> {
        let mut compressor = Compressor::new(self.compression).map_err(|e| self.failed(e))?;
        let (mut number, mut piece) = (0, Vec::new());
        while source.next(&mut piece)? {
            self.digest.update(&piece);
            let frame =
                self.sealer.seal_piece(&mut compressor, number, &piece).map_err(|e| self.failed(e))?;
            self.object.extend_from_slice(&frame);
            number += 1;
        }
        Ok(number)
    }

    /// This thread reads and digests, the others compress and seal. Gives the number of frames.
    fn together(&mut self, source: &mut Source<'_>, workers: usize) -> Result<u64> {
        let compressors: pgbr_codec::Result<Vec<_>> =
            (0..workers).map(|_| Compressor::new(self.compression)).collect();
        let compressors = compressors.map_err(|e| self.failed(e))?;
        let sealer = self.sealer;
        std::thread::scope(|scope| {
            let (to_main, results) = std::sync::mpsc::channel::<Done>();
            let mut queues = Vec::with_capacity(workers);
            for mut compressor in compressors {
                let (queue, jobs) = std::sync::mpsc::channel::<Raw>();
                let to_main = to_main.clone();
                queues.push(queue);
                scope.spawn(move || {
                    for (number, piece) in jobs {
                        let frame = sealer.seal_piece(&mut compressor, number, &piece);
                        if to_main.send((number, frame, piece)).is_err() {
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
    ) -> Result<u64> {
        let crashed = || pgbr_codec::Error::Crypto { primitive: "a sealing thread" };
        let (mut next, mut taken) = (0u64, 0u64);
        let mut ready = BTreeMap::new();
        let mut spare: Vec<Vec<u8>> = (0..queues.len() * 2).map(|_| Vec::new()).collect();
        let mut more = true;
        while more || taken < next {
            while let Some(mut piece) = if more { spare.pop() } else { None } {
                more = source.next(&mut piece)?;
                if !more {
                    break;
                }
                self.digest.update(&piece);
                let queue = queues.iter().cycle().nth(usize::try_from(next).unwrap_or(0) % queues.len());
                let sent = queue.is_some_and(|queue| queue.send((next, piece)).is_ok());
                next += 1;
                if !sent {
                    return Err(self.failed(crashed()));
                }
            }
            if taken == next {
                continue;
            }
            let (number, frame, piece) = results.recv().map_err(|_| self.failed(crashed()))?;
            ready.insert(number, frame.map_err(|e| self.failed(e))?);
            spare.push(piece);
            while let Some(frame) = ready.remove(&taken) {
                self.object.extend_from_slice(&frame);
                taken += 1;
            }
        }
        Ok(next)
    }
}

/// How much room to set aside for the object.
fn expected_size(compression: Compression, content: u64) -> usize {
    let content = usize::try_from(content).unwrap_or(0);
    let rough = if compression == Compression::NONE { content } else { content / 2 };
    rough.saturating_add(4096)
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
