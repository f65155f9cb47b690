//! Packs and index of one layer on their way to another repository: sealed again, otherwise as they are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use pgbr_codec::{
    Codec, Compression, Compressor, FrameKind, Keyring, ObjectHeader, ObjectKind, PackBuilder, PackFooter,
    Sealer,
};
use pgbr_manifest::index::{
    FrameCursor, FramePlace, FrameTableWriter, IndexCursor, IndexWriter, PackFrames, Root,
};
use pgbr_manifest::manifest::Layer;
use pgbr_manifest::{BackupLabel, Digest};
use tokio::runtime::Handle;

use super::Copy;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::load::{self, LayerNodes};
use crate::observe::Event;
use crate::packs::{IndexPacks, Uploads};
use crate::place::StanzaPlace;

/// How large index packs become, in bytes.
const INDEX_PACK: usize = 16 << 20;

/// Copies a layer; gives it as it is in the target, and the bytes that were stored.
pub(super) async fn copy_layer(
    copy: &Copy<'_>,
    label: BackupLabel,
    layer: &Layer,
    attempt: u64,
) -> Result<(Layer, u64)> {
    let (host, to) = (copy.host, copy.to);
    let layer = Arc::new(layer.clone());
    let packs = packs_of(host, copy.from, label, &layer).await?;
    let sealer = to.repo.keyring().sealer(ObjectKind::DataPack, host.lane_seed()?)?;
    let lane = sealer.header(attempt, 0);
    let total: u64 = packs.iter().map(|pack| pack.pack_size).sum();
    let given_up = AtomicBool::new(false);
    let one = |pack| {
        let (given_up, layer, sealer) = (&given_up, &layer, sealer.clone());
        async move {
            match given_up.load(Ordering::Relaxed) {
                true => Err(Error::Stopped),
                false => copy_pack(copy, label, layer, pack, attempt, sealer).await,
            }
        }
    };
    let mut under_way = stream::iter(packs.iter().map(one)).buffered(copy.request.threads.max(2));
    let (mut done, mut sizes) = (0, BTreeMap::new());
    let copied: Result<()> = async {
        while let Some((number, before, now)) = under_way.try_next().await? {
            host.stop.check()?;
            done += before;
            host.tell(Event::Progress { done, total });
            sizes.insert(number, now);
        }
        Ok(())
    }
    .await;
    if copied.is_err() {
        given_up.store(true, Ordering::Relaxed);
        // What comes to the store late would be missed by who takes away what was stored.
        while under_way.next().await.is_some() {}
    }
    drop(under_way);
    copied?;
    let data: u64 = sizes.values().sum();
    let uploads = Uploads::new(to.backups.clone(), label, attempt, 2, Handle::current());
    let index = IndexPacks::new(uploads, to.repo.keyring(), host.lane_seed()?, INDEX_PACK)?;
    let (host, from, old) = (host.clone(), copy.from.clone(), Arc::clone(&layer));
    let runtime = Handle::current();
    let work = move || write_index(&host, &from, label, &old, index, &sizes, &runtime);
    let written = tokio::task::spawn_blocking(work).await;
    let (index, frames, packed) =
        written.map_err(|_| Error::Internal { what: "copying an index panicked" })??;
    let copied = Layer {
        attempt,
        data_lanes: vec![Digest(*lane.salt.as_bytes())],
        data_key_mode: load::data_key_mode(to.repo.keyring(), lane.mode),
        index_lane: packed.salt,
        index_packs: packed.sizes,
        data_packs: layer.data_packs,
        index,
        frames,
        stream: layer.stream,
        key_id: *copy.to.repo.keyring().key_id().as_bytes(),
    };
    Ok((copied, data + packed.stored))
}

/// The data packs of a layer with their frames, in the order of the stream. The numbers of their frames are those that they have in the new
/// lane: counted through, so that none occurs twice, whatever the packs say.
pub(super) async fn packs_of(
    host: &Host,
    place: &StanzaPlace,
    label: BackupLabel,
    layer: &Arc<Layer>,
) -> Result<Vec<PackFrames>> {
    let (host, place, layer, runtime) = (host.clone(), place.clone(), Arc::clone(layer), Handle::current());
    let read = move || {
        let mut nodes = LayerNodes::new(&place, label, &layer, runtime);
        let mut table = FrameCursor::new(layer.frames);
        let mut packs = Packs { label, all: BTreeMap::new(), order: Vec::new(), open: None };
        let mut number = 0;
        while let Some(frame) = table.next_frame(&mut nodes)? {
            host.stop.check()?;
            packs.add(&frame, number)?;
            number += 1;
        }
        packs.finish()
    };
    let read = tokio::task::spawn_blocking(read).await;
    read.map_err(|_| Error::Internal { what: "reading a frame table panicked" })?
}

/// Packs as their frames come in.
struct Packs {
    label: BackupLabel,
    /// Numbers of the packs seen so far.
    all: BTreeMap<u32, ()>,
    order: Vec<PackFrames>,
    open: Option<PackFrames>,
}

impl Packs {
    fn add(&mut self, frame: &FramePlace, number: u64) -> Result<()> {
        if self.open.as_ref().is_none_or(|open| open.pack != frame.pack) {
            self.order.extend(self.open.take());
            if self.all.insert(frame.pack, ()).is_some() {
                return Err(self.damaged("its frame table comes back to a pack"));
            }
        }
        let open = self.open.get_or_insert_with(|| PackFrames {
            pack: frame.pack,
            pack_size: frame.pack_size,
            lane: 0,
            offset: frame.offset,
            first: number,
            frames: Vec::new(),
        });
        open.frames.push((frame.raw_len, frame.len));
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<PackFrames>> {
        self.order.extend(self.open.take());
        Ok(self.order)
    }

    fn damaged(&self, reason: &str) -> Error {
        Error::Damaged { label: self.label, reason: reason.to_owned() }
    }
}

/// Copies a pack: its number, its size and its size in the target.
async fn copy_pack(
    copy: &Copy<'_>,
    label: BackupLabel,
    layer: &Layer,
    pack: &PackFrames,
    attempt: u64,
    sealer: Sealer,
) -> Result<(u32, u64, u64)> {
    copy.host.stop.check()?;
    let (number, size) = (pack.pack, pack.pack_size);
    let object = copy.from.backups.get_pack_range(&label, layer.attempt, number, false, 0..size).await?;
    let (keys, old, pack) = (copy.from.repo.keyring().clone(), layer.attempt, pack.clone());
    let seal = move || reseal(&keys, old, &pack, &object, attempt, &sealer);
    let sealed = tokio::task::spawn_blocking(seal).await;
    let sealed = sealed.map_err(|_| Error::Internal { what: "sealing a pack panicked" })?;
    let sealed = sealed.map_err(|error| match error {
        Error::Codec(error) => {
            Error::Damaged { label, reason: format!("pack {:016x}-{number:08x}: {error}", layer.attempt) }
        }
        Error::Damaged { reason, .. } => Error::Damaged { label, reason },
        other => other,
    })?;
    let now = sealed.len() as u64;
    copy.to.backups.put_pack(&label, attempt, number, false, sealed).await?;
    Ok((number, size, now))
}

/// The same pack in another lane. Every frame's tag is checked on the way.
fn reseal(
    keys: &Keyring,
    old_attempt: u64,
    pack: &PackFrames,
    object: &Bytes,
    attempt: u64,
    sealer: &Sealer,
) -> Result<Bytes> {
    let other = || pgbr_codec::Error::CorruptObject {
        what: "pack",
        reason: "it is not the one that its name and the frame table say",
    };
    let header = ObjectHeader::parse(object)?;
    if (header.kind, header.attempt, header.pack) != (ObjectKind::DataPack, old_attempt, pack.pack) {
        return Err(other().into());
    }
    let footer = PackFooter::read(keys, &header, object, object.len() as u64)?;
    let sizes = footer.places().map(|place| (place.size.raw, place.size.frame));
    if !sizes.eq(pack.frames.iter().copied()) || footer.places().next().map(|p| p.offset) != Some(pack.offset)
    {
        return Err(other().into());
    }
    let opener = keys.opener(&header)?;
    let mut bytes = object.to_vec();
    let mut copy = PackBuilder::new(sealer, attempt, pack.pack, bytes.len());
    let mut out = Vec::new();
    for (place, number) in footer.places().zip(pack.first..) {
        let start = usize::try_from(place.offset).map_err(|_| other())?;
        let frame =
            bytes.get_mut(start..start.saturating_add(place.size.frame as usize)).ok_or_else(other)?;
        out.clear();
        opener.reseal(frame, (FrameKind::Data, place.number), sealer, number, &mut out)?;
        copy.push(&out)?;
    }
    let mut compressor = Compressor::new(Compression::new(Codec::Zst, Some(1))?)?;
    Ok(copy.finish(sealer, &mut compressor, &footer.rows)?)
}

/// Writes the index again, and the frame table for packs of these sizes. Gives the tops of both.
fn write_index(
    host: &Host,
    from: &StanzaPlace,
    label: BackupLabel,
    layer: &Arc<Layer>,
    mut index: IndexPacks,
    sizes: &BTreeMap<u32, u64>,
    runtime: &Handle,
) -> Result<(Option<Root>, Option<Root>, crate::packs::IndexPacked)> {
    let disagree = || Error::Damaged {
        label,
        reason: "its index and its frame table do not agree on the length of the stream".to_owned(),
    };
    let mut nodes = LayerNodes::new(from, label, layer, runtime.clone());
    let (mut records, mut leaves) = (IndexCursor::new(layer.index), IndexWriter::new());
    while let Some(placed) = records.next_record(&mut nodes)? {
        host.stop.check()?;
        leaves.push(&mut index, placed.record)?;
    }
    let (root, length) = leaves.finish(&mut index)?;
    let (mut frames, mut table) = (FrameCursor::new(layer.frames), FrameTableWriter::new());
    let mut packs = Packs { label, all: BTreeMap::new(), order: Vec::new(), open: None };
    let mut number = 0;
    let mut write = |pack: PackFrames, index: &mut IndexPacks| {
        let pack_size = sizes.get(&pack.pack).copied().ok_or_else(disagree)?;
        table.push(index, &PackFrames { pack_size, ..pack })
    };
    while let Some(frame) = frames.next_frame(&mut nodes)? {
        packs.add(&frame, number)?;
        number += 1;
        for pack in packs.order.drain(..) {
            write(pack, &mut index)?;
        }
    }
    for pack in packs.finish()? {
        write(pack, &mut index)?;
    }
    let (top, stream) = table.finish(&mut index)?;
    if (length, stream) != (layer.stream, layer.stream) {
        return Err(disagree());
    }
    Ok((root, top, index.finish()?))
}
