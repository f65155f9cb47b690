//! Reading a copy back: every grain of its layers is compared with its hash.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use pgbr_codec::{Decompressor, FrameKind, ObjectKind, Opener};

use pgbr_manifest::index::{FrameCursor, FramePlace, IndexCursor, Record};
use pgbr_manifest::manifest::{Body, Layer};
use pgbr_manifest::{BackupLabel, Digest, GRAIN, HashKey};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::Copy;
use super::packs::packs_of;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::load::{LayerNodes, lane_opener};
use crate::place::StanzaPlace;

/// How many packs wait to be looked at.
const WAITING: usize = 2;

/// Reads all layers of a backup in the target. Its manifest need not be there yet.
pub(super) async fn check_layers(copy: &Copy<'_>, label: BackupLabel, body: &Body) -> Result<()> {
    for layer in &body.layers {
        let layer = Arc::new(layer.clone());
        check_layer(copy, label, &layer, &body.hash_key).await?;
    }
    Ok(())
}

async fn check_layer(
    copy: &Copy<'_>,
    label: BackupLabel,
    layer: &Arc<Layer>,
    hash_key: &HashKey,
) -> Result<()> {
    let packs = packs_of(copy.host, copy.to, label, layer).await?;
    let (to_thread, coming) = mpsc::channel::<Bytes>(WAITING);
    let (host, to, key, own) = (copy.host.clone(), copy.to.clone(), hash_key.clone(), Arc::clone(layer));
    let runtime = Handle::current();
    let thread =
        tokio::task::spawn_blocking(move || compare(&host, &to, label, &own, &key, coming, &runtime));
    let gets = packs.iter().map(|pack| {
        copy.to.backups.get_pack_range(&label, layer.attempt, pack.pack, false, 0..pack.pack_size)
    });
    let mut gets = stream::iter(gets).buffered(copy.request.threads.max(2));
    let mut failed = None;
    while let Some(pack) = gets.next().await {
        let sent = match pack {
            Ok(pack) => to_thread.send(pack).await.is_ok(),
            Err(error) => {
                failed = Some(error);
                false
            }
        };
        // The thread may have ended early: it says why.
        if !sent {
            break;
        }
    }
    drop(to_thread);
    let compared = thread.await.map_err(|_| Error::Internal { what: "comparing a copy panicked" })?;
    match failed {
        Some(error) => Err(error.into()),
        None => compared,
    }
}

fn compare(
    host: &Host,
    place: &StanzaPlace,
    label: BackupLabel,
    layer: &Arc<Layer>,
    key: &HashKey,
    packs: mpsc::Receiver<Bytes>,
    runtime: &Handle,
) -> Result<()> {
    let mut records = IndexCursor::new(layer.index);
    let mut index = LayerNodes::new(place, label, layer, runtime.clone());
    let lane = layer.data_lanes.first().copied().unwrap_or(Digest([0; 32]));
    let opener = lane_opener(place.repo.keyring(), layer, ObjectKind::DataPack, lane);
    let opener = opener.ok_or_else(|| Error::Damaged {
        label,
        reason: "the lane of its data cannot be opened".to_owned(),
    })?;
    let mut stream = Stream {
        label,
        table: FrameCursor::new(layer.frames),
        nodes: LayerNodes::new(place, label, layer, runtime.clone()),
        opener,
        decompressor: Decompressor::new(),
        packs,
        pack: None,
        raw: Vec::new(),
        at: 0,
    };
    let (mut path, mut size) = (String::new(), 0);
    while let Some(placed) = records.next_record(&mut index)? {
        host.stop.check()?;
        match placed.record {
            Record::File(file) => (path, size) = (file.path.to_string(), file.size),
            Record::Grains { hashes, .. } => {
                for (grain, hash) in (placed.grain..).zip(hashes) {
                    let length = size.saturating_sub(grain.saturating_mul(GRAIN as u64)).min(GRAIN as u64);
                    if key.grain(stream.next(usize::try_from(length).unwrap_or(0))?) != hash {
                        let reason = format!("'{path}' differs at {}", grain.saturating_mul(GRAIN as u64));
                        return Err(Error::Damaged { label, reason });
                    }
                }
            }
            _ => {}
        }
    }
    match stream.is_at_end()? {
        true => Ok(()),
        false => Err(stream.damaged("its frame table goes on behind its index")),
    }
}

/// The stream of a layer, out of packs that come in order.
struct Stream {
    label: BackupLabel,
    table: FrameCursor,
    nodes: LayerNodes,
    opener: Opener,
    decompressor: Decompressor,
    packs: mpsc::Receiver<Bytes>,
    /// The pack at hand and its number.
    pack: Option<(u32, Bytes)>,
    /// What was opened and not yet taken, from `at`.
    raw: Vec<u8>,
    at: usize,
}

impl Stream {
    /// The next bytes, so many.
    fn next(&mut self, length: usize) -> Result<&[u8]> {
        while self.raw.len() - self.at < length {
            let Some(frame) = self.table.next_frame(&mut self.nodes)? else {
                return Err(self.damaged("its frame table ends before its index"));
            };
            self.raw.drain(..self.at);
            self.at = 0;
            self.open(&frame)?;
        }
        let bytes = self.raw.get(self.at..self.at + length).unwrap_or_default();
        self.at += length;
        Ok(bytes)
    }

    fn is_at_end(&mut self) -> Result<bool> {
        Ok(self.at == self.raw.len() && self.table.next_frame(&mut self.nodes)?.is_none())
    }

    fn open(&mut self, place: &FramePlace) -> Result<()> {
        if self.pack.as_ref().is_none_or(|(number, _)| *number != place.pack) {
            let pack = self.packs.blocking_recv().ok_or_else(|| self.damaged("a pack could not be read"))?;
            self.pack = Some((place.pack, pack));
        }
        let bytes = self.pack.as_ref().map_or(&[][..], |(_, pack)| pack);
        let start = usize::try_from(place.offset).unwrap_or(usize::MAX);
        let frame = bytes.get(start..start.saturating_add(place.len as usize));
        let mut frame =
            frame.ok_or_else(|| self.damaged("a frame lies behind the end of its pack"))?.to_vec();
        let before = self.raw.len();
        let (kind, number) = (FrameKind::Data, place.number);
        self.opener.open(&mut self.decompressor, &mut frame, kind, number, &mut self.raw).map_err(
            |error| {
                let (label, pack) = (self.label, place.pack);
                Error::Damaged {
                    label,
                    reason: format!("pack {pack:08x}, frame at {}: {error}", place.offset),
                }
            },
        )?;
        match self.raw.len() - before == place.raw_len as usize {
            true => Ok(()),
            false => Err(self.damaged("a frame has another length than its frame table says")),
        }
    }

    fn damaged(&self, reason: &str) -> Error {
        Error::Damaged { label: self.label, reason: reason.to_owned() }
    }
}
