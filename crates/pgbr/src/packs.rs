//! Packs on their way to the repository: frames and index nodes in, objects out, a bounded number of them under way.

use std::sync::Arc;

use bytes::Bytes;
use pgbr_codec::{
    Codec, Compression, Compressor, FrameKind, KeyMode, LaneSeed, ObjectKind, PackBuilder, Sealer,
};
use pgbr_manifest::index::{FrameTableWriter, LeafWriter, NodeKind, NodePlace, NodeSink, PackFrames, Record};
use pgbr_manifest::{BackupLabel, Digest};
use pgbr_repo::BackupStore;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::error::{Error, Result};
use crate::run::FrameRow;

/// How many packs may be under way to a directory at once: one is written while the next is synced.
const LOCAL_UPLOADS: usize = 2;
/// And to a store elsewhere, where each waits for answers: so many for each worker thread, within these bounds.
const UPLOADS_A_THREAD: usize = 2;
const REMOTE_UPLOADS: std::ops::RangeInclusive<usize> = 4..=16;
/// Whatever their size, packs under way to one repository have about this many bytes together.
const UPLOAD_BYTES: usize = 256 << 20;
/// A pack is closed when its rows have this many bytes, however well its frames compress: readers take up to 1 MiB.
const MAX_ROW_BYTES: usize = 512 << 10;

/// How many packs of `pack_size` bytes may be under way to a repository at once, for so many worker threads.
pub(crate) fn plan_uploads(local: bool, threads: usize, pack_size: usize) -> usize {
    if local {
        return LOCAL_UPLOADS;
    }
    let wanted = threads.saturating_mul(UPLOADS_A_THREAD);
    let wanted = wanted.clamp(*REMOTE_UPLOADS.start(), *REMOTE_UPLOADS.end());
    wanted.min(UPLOAD_BYTES / pack_size.max(1)).max(LOCAL_UPLOADS)
}

/// Puts packs, a few at a time. Lives on a plain thread and drives a tokio runtime elsewhere.
pub(crate) struct Uploads {
    backups: BackupStore,
    label: BackupLabel,
    attempt: u64,
    runtime: Handle,
    room: Arc<Semaphore>,
    under_way: JoinSet<Result<(), pgbr_repo::Error>>,
    bytes: u64,
}

impl Uploads {
    /// Packs of one run, at most `at_once` of them under way.
    pub(crate) fn new(
        backups: BackupStore,
        label: BackupLabel,
        attempt: u64,
        at_once: usize,
        runtime: Handle,
    ) -> Self {
        let room = Arc::new(Semaphore::new(at_once));
        Self { backups, label, attempt, runtime, room, under_way: JoinSet::new(), bytes: 0 }
    }

    /// Sends a pack off; waits while too many are under way.
    fn put(&mut self, number: u32, index: bool, object: Bytes) -> Result<()> {
        while let Some(done) = self.under_way.try_join_next() {
            finished(done)?;
        }
        self.bytes += object.len() as u64;
        let room = self.runtime.block_on(Arc::clone(&self.room).acquire_owned());
        let room = room.map_err(|_| Error::Internal { what: "the upload queue is closed" })?;
        let (backups, label, attempt) = (self.backups.clone(), self.label, self.attempt);
        let put = async move {
            let _room = room;
            backups.put_pack(&label, attempt, number, index, object).await
        };
        self.under_way.spawn_on(put, &self.runtime);
        Ok(())
    }

    /// Waits for all that is under way. Gives the bytes that were stored.
    pub(crate) fn finish(mut self) -> Result<u64> {
        while let Some(done) = self.runtime.clone().block_on(self.under_way.join_next()) {
            finished(done)?;
        }
        Ok(self.bytes)
    }
}

impl Drop for Uploads {
    /// Waits for all that is under way after a failure: what comes to the store late would be missed by the sweep.
    fn drop(&mut self) {
        while !self.under_way.is_empty() {
            // One failure has been reported, the others say no more.
            drop(self.runtime.block_on(self.under_way.join_next()));
        }
    }
}

fn finished(done: Result<Result<(), pgbr_repo::Error>, tokio::task::JoinError>) -> Result<()> {
    match done {
        Ok(result) => Ok(result?),
        Err(_) => Err(Error::Internal { what: "an upload task panicked" }),
    }
}

/// Where packs of one kind get their numbers and seals.
struct Lane {
    sealer: Sealer,
    attempt: u64,
    capacity: usize,
}

impl Lane {
    /// What tells it from other lanes.
    fn salt(&self) -> Digest {
        Digest(*self.sealer.header(0, 0).salt.as_bytes())
    }

    fn builder(&self, number: u32) -> PackBuilder {
        PackBuilder::new(&self.sealer, self.attempt, number, self.capacity)
    }
}

/// Index nodes in, index packs out.
pub(crate) struct IndexPacks {
    lane: Lane,
    pack: Option<PackBuilder>,
    sizes: Vec<u64>,
    compressor: Compressor,
    uploads: Uploads,
}

impl IndexPacks {
    pub(crate) fn new(
        uploads: Uploads,
        keys: &pgbr_codec::Keyring,
        seed: LaneSeed,
        pack_size: usize,
    ) -> Result<Self> {
        let sealer = keys.sealer(ObjectKind::IndexPack, seed)?;
        let lane = Lane { sealer, attempt: uploads.attempt, capacity: pack_size };
        // Nodes are mostly hashes, which nothing compresses; the rest (paths, fences) compresses well at any level.
        let compressor = Compressor::new(Compression::new(Codec::Zst, Some(1))?)?;
        Ok(Self { lane, pack: None, sizes: Vec::new(), compressor, uploads })
    }

    fn close(&mut self) -> Result<()> {
        let Some(pack) = self.pack.take() else { return Ok(()) };
        let object = pack.finish(&self.lane.sealer, &mut self.compressor, &[])?;
        let number = count(self.sizes.len())?;
        self.sizes.push(object.len() as u64);
        self.uploads.put(number, true, object)
    }

    /// Sends the last pack off and waits for all packs, those of data too.
    pub(crate) fn finish(mut self) -> Result<IndexPacked> {
        self.close()?;
        let stored = self.uploads.finish()?;
        Ok(IndexPacked { salt: self.lane.salt(), sizes: self.sizes, stored })
    }
}

/// What became of the index.
pub(crate) struct IndexPacked {
    /// Salt of the lane.
    pub(crate) salt: Digest,
    /// Size of each pack.
    pub(crate) sizes: Vec<u64>,
    /// Bytes stored in all, data packs included.
    pub(crate) stored: u64,
}

impl NodeSink for IndexPacks {
    type Error = Error;

    fn put(&mut self, kind: NodeKind, number: u64, raw: &[u8]) -> Result<NodePlace> {
        let frame = self.lane.sealer.seal(&mut self.compressor, frame_kind(kind), number, raw)?;
        if self.pack.as_ref().is_some_and(|pack| pack.len() + frame.len() > self.lane.capacity) {
            self.close()?;
        }
        let pack = count(self.sizes.len())?;
        let builder = self.pack.get_or_insert_with(|| self.lane.builder(pack));
        let offset = builder.push(&frame)?;
        Ok(NodePlace { number, pack, offset, len: count(frame.len())? })
    }
}

/// Sealed frames in, in the order of the stream; data packs and their entries in the frame table out.
pub(crate) struct DataPacks {
    lane: Lane,
    pack: Option<PackBuilder>,
    frames: PackFrames,
    rows: LeafWriter,
    at: Option<(Arc<pgbr_manifest::index::FileRecord>, u64)>,
    table: FrameTableWriter,
    compressor: Compressor,
    packs: u32,
}

impl DataPacks {
    pub(crate) fn new(
        keys: &pgbr_codec::Keyring,
        attempt: u64,
        seed: LaneSeed,
        pack_size: usize,
    ) -> Result<Self> {
        let sealer = keys.sealer(ObjectKind::DataPack, seed)?;
        let compressor = Compressor::new(Compression::new(Codec::Zst, Some(1))?)?;
        let lane = Lane { sealer, attempt, capacity: pack_size };
        let (rows, table) = (LeafWriter::default(), FrameTableWriter::new());
        Ok(Self { lane, pack: None, frames: empty(0, 0), rows, at: None, table, compressor, packs: 0 })
    }

    pub(crate) fn sealer(&self) -> Sealer {
        self.lane.sealer.clone()
    }

    /// Takes the next frame of the stream with what it holds.
    pub(crate) fn push(
        &mut self,
        index: &mut IndexPacks,
        number: u64,
        raw_len: u32,
        frame: &[u8],
        rows: Vec<FrameRow>,
    ) -> Result<()> {
        let full = |pack: &PackBuilder| {
            pack.len() + frame.len() > self.lane.capacity || self.rows.len() >= MAX_ROW_BYTES
        };
        if self.pack.as_ref().is_some_and(full) {
            self.close(index)?;
        }
        if self.pack.is_none() {
            self.frames = empty(self.packs, number);
        }
        let offset = self.pack.get_or_insert_with(|| self.lane.builder(self.packs)).push(frame)?;
        if self.frames.frames.is_empty() {
            self.frames.offset = offset;
        }
        self.frames.frames.push((raw_len, count(frame.len())?));
        rows.into_iter().for_each(|row| self.row(row));
        Ok(())
    }

    fn row(&mut self, row: FrameRow) {
        let at = match &self.at {
            Some((file, at)) if Arc::ptr_eq(file, &row.file) => *at,
            _ => {
                self.rows.push(&Record::File(row.file.as_ref().clone()));
                0
            }
        };
        let end = row.first + row.hashes.len() as u64;
        self.rows.push(&Record::Grains { gap: row.first.saturating_sub(at), hashes: row.hashes });
        self.at = Some((row.file, end));
    }

    fn close(&mut self, index: &mut IndexPacks) -> Result<()> {
        let Some(pack) = self.pack.take() else { return Ok(()) };
        let object = pack.finish(&self.lane.sealer, &mut self.compressor, &self.rows.take())?;
        self.at = None;
        self.frames.pack_size = object.len() as u64;
        self.table.push(index, &self.frames)?;
        index.uploads.put(self.packs, false, object)?;
        self.packs += 1;
        Ok(())
    }

    /// Sends the last pack off and closes the frame table.
    pub(crate) fn finish(mut self, index: &mut IndexPacks) -> Result<DataPacked> {
        self.close(index)?;
        let (frames, stream) = self.table.finish(index)?;
        let mode = self.lane.sealer.header(0, 0).mode;
        Ok(DataPacked { salt: self.lane.salt(), mode, packs: self.packs, frames, stream })
    }
}

/// What became of the data.
pub(crate) struct DataPacked {
    /// Salt of the lane.
    pub(crate) salt: Digest,
    /// And its key mode.
    pub(crate) mode: KeyMode,
    /// How many packs.
    pub(crate) packs: u32,
    /// Top of the frame table.
    pub(crate) frames: Option<pgbr_manifest::index::Root>,
    /// Length of the stream in bytes.
    pub(crate) stream: u64,
}

const fn empty(pack: u32, first: u64) -> PackFrames {
    PackFrames { pack, pack_size: 0, lane: 0, offset: 0, first, frames: Vec::new() }
}

pub(crate) const fn frame_kind(kind: NodeKind) -> FrameKind {
    match kind {
        NodeKind::Leaf => FrameKind::IndexLeaf,
        NodeKind::Fence => FrameKind::IndexFence,
        NodeKind::FrameTable => FrameKind::FrameTable,
        NodeKind::TableFence => FrameKind::TableFence,
    }
}

fn count(value: usize) -> Result<u32> {
    u32::try_from(value).map_err(|_| Error::Internal { what: "a pack or frame is larger than 4 GiB" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uploads_are_bounded_by_count_and_by_memory() {
        let mib = |n: usize| n << 20;
        assert_eq!(plan_uploads(true, 64, mib(16)), 2);
        assert_eq!(plan_uploads(false, 1, mib(16)), 4);
        assert_eq!(plan_uploads(false, 4, mib(16)), 8);
        assert_eq!(plan_uploads(false, 64, mib(16)), 16);
        assert_eq!(plan_uploads(false, 64, mib(64)), 4);
        assert_eq!(plan_uploads(false, 64, mib(1024)), 2);
    }
}
