//! Seals the content of a WAL file, a round of pieces at a time, on several threads.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path as FsPath;

use bytes::Bytes;
use pgbr_codec::{Compression, Compressor, ObjectKind, WAL_PIECE, WalSealer};

use super::{MAX_CONTENT, WalPush, WalSource};
use crate::error::{Error, Result};
use crate::repo_file::Repo;

/// How many threads seal one file at most.
const MAX_WORKERS: usize = 64;

/// The sealed object and the digest of its content.
///
/// Memory: the object, and one piece of 4 MiB (raw and sealed) a thread.
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
    let mut compressors = Vec::with_capacity(workers);
    for _ in 0..workers {
        compressors.push(Compressor::new(push.compression).map_err(failed)?);
    }

    let mut object = Vec::with_capacity(expected_size(push.compression, source.size));
    object.extend_from_slice(&sealer.header());
    let mut digest = blake3::Hasher::new();
    let mut frames = 0;
    loop {
        let round = source.round(workers)?;
        if round.is_empty() {
            break;
        }
        let sealed = seal_round(sealer, &mut compressors, &mut digest, frames, &round).map_err(failed)?;
        frames += round.len() as u64;
        sealed.iter().for_each(|frame| object.extend_from_slice(frame));
    }
    let digest = *digest.finalize().as_bytes();
    let system_id = push.system_id.map(|id| id.as_u64());
    object.extend_from_slice(&sealer.trailer(&name, source.size, digest, system_id, frames).map_err(failed)?);
    Ok((object.into(), digest))
}

/// Seals the pieces of a round, each on a thread of its own but the first, while this thread digests them.
fn seal_round(
    sealer: &WalSealer,
    compressors: &mut [Compressor],
    digest: &mut blake3::Hasher,
    first: u64,
    round: &[Bytes],
) -> pgbr_codec::Result<Vec<Vec<u8>>> {
    if let ([compressor], [piece]) = (&mut *compressors, round) {
        digest.update(piece);
        return Ok(vec![sealer.seal_piece(compressor, first, piece)?]);
    }
    std::thread::scope(|scope| {
        let work = (first..).zip(compressors.iter_mut().zip(round));
        let threads: Vec<_> = work
            .map(|(number, (compressor, piece))| {
                scope.spawn(move || sealer.seal_piece(compressor, number, piece))
            })
            .collect();
        round.iter().for_each(|piece| {
            digest.update(piece);
        });
        let crashed = || Err(pgbr_codec::Error::Crypto { primitive: "a sealing thread" });
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| crashed())).collect()
    })
}

/// How much room to set aside for the object.
fn expected_size(compression: Compression, content: u64) -> usize {
    let content = usize::try_from(content).unwrap_or(0);
    let rough = if compression == Compression::NONE { content } else { content / 4 };
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

    /// The next pieces, at most so many; none at the end.
    fn round(&mut self, pieces: usize) -> Result<Vec<Bytes>> {
        let mut round = Vec::with_capacity(pieces);
        while round.len() < pieces && self.left > 0 {
            let length = usize::try_from(self.left).unwrap_or(WAL_PIECE).min(WAL_PIECE);
            self.left -= length as u64;
            round.push(match &mut self.reader {
                Reader::Bytes(bytes) => bytes.split_to(length),
                Reader::File(file, path) => {
                    let mut piece = vec![0; length];
                    file.read_exact(&mut piece).map_err(|e| Error::local("read", *path, e))?;
                    piece.into()
                }
            });
        }
        Ok(round)
    }
}
