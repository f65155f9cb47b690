//! Backups as they stand in the repository: manifests opened and checked, index nodes fetched on demand.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use pgbr_codec::{Decompressor, Keyring, LaneSalt, ObjectKind, Opener};
use pgbr_manifest::index::{FrameCursor, NodeKind, NodePlace, NodeSource};
use pgbr_manifest::manifest::{Body, Layer, Parent, Summary};
use pgbr_manifest::{BackupLabel, Digest};
use pgbr_repo::BackupStore;
use tokio::runtime::Handle;

use crate::error::{Error, Result};
use crate::host::Host;
use crate::packs::frame_kind;
use crate::place::StanzaPlace;

/// How many heads of manifests are asked for at once.
const HEADS: usize = 16;
/// The most backups that a chain may have below its newest: more than two years of daily increments.
const MAX_CHAIN: usize = 1000;
/// Nodes stand one after the other, so one request fetches several: at least this many bytes.
const READ_AHEAD: u64 = 1 << 20;
/// The windows of a whole chain have this many bytes together.
const CHAIN_READ_AHEAD: u64 = 8 << 20;
/// And each of them at least this many.
const MIN_READ_AHEAD: u64 = 64 << 10;

/// A backup that can be restored, as far as its manifest tells.
#[derive(Debug, Clone)]
pub struct Backup {
    /// What `info` shows.
    pub summary: Summary,
    /// The rest.
    pub body: Body,
    /// What a child names it by.
    pub digest: Digest,
}

/// The summaries of all backups of a stanza, oldest first. One that cannot be read is an item of its own, so that it never hides the others.
///
/// # Errors
/// When the repository cannot be listed.
pub async fn summaries(backups: &BackupStore) -> Result<Vec<(BackupLabel, Result<Summary>)>> {
    let mut labels = backups.list_backups().await?;
    labels.sort_unstable();
    let read = labels.into_iter().map(|label| async move { (label, read_summary(backups, label).await) });
    Ok(futures::stream::iter(read).buffered(HEADS).collect().await)
}

async fn read_summary(backups: &BackupStore, label: BackupLabel) -> Result<Summary> {
    let summary = Summary::from_json(&backups.read_summary(&label).await?)?;
    of_label(label, &summary)?;
    Ok(summary)
}

/// Reads the manifest of a backup and checks that it is what its name says.
///
/// # Errors
/// When it is missing, damaged, or another backup's.
pub async fn load(backups: &BackupStore, label: BackupLabel) -> Result<Backup> {
    let (summary_json, body_json) = backups.read_manifest(&label).await?;
    let digest = Digest(pgbr_codec::manifest_digest(&summary_json, &body_json));
    let summary = Summary::from_json(summary_json.trim_ascii_end())?;
    of_label(label, &summary)?;
    let body = Body::from_json(&body_json)?;
    if body.id != summary.id || body.parent.as_ref().map(|p| p.label) != summary.prior {
        return Err(Error::Damaged {
            label,
            reason: "the two parts of its manifest do not belong together".to_owned(),
        });
    }
    Ok(Backup { summary, body, digest })
}

/// A backup and all that it builds on, newest first, down to its full.
///
/// # Errors
/// When one is missing, damaged, needs a newer program, or is another one than its child was made from.
pub(crate) async fn chain(place: &StanzaPlace, label: BackupLabel) -> Result<Vec<Backup>> {
    let mut newest = load(&place.backups, label).await?;
    let mut chain = Vec::new();
    // A summary's prior is always older and of the same full, so this ends.
    while let Some(parent) = newest.body.parent.clone() {
        let label = newest.summary.label;
        let broken = |source| Error::Parent { label, parent: parent.label, source: Box::new(source) };
        if chain.len() >= MAX_CHAIN {
            let reason = format!("more than {MAX_CHAIN} backups build on it");
            return Err(broken(Error::Damaged { label: parent.label, reason }));
        }
        let loaded = load(&place.backups, parent.label).await.map_err(broken)?;
        if let Some(reason) = stranger(&newest, &parent, &loaded) {
            return Err(broken(Error::Damaged { label: parent.label, reason: reason.to_owned() }));
        }
        chain.push(std::mem::replace(&mut newest, loaded));
    }
    chain.push(newest);
    Ok(chain)
}

/// Why `found` is not the backup that `child` names as its parent.
fn stranger(child: &Backup, named: &Parent, found: &Backup) -> Option<&'static str> {
    if found.summary.id != named.id || found.digest != named.digest {
        return Some("it is another backup than the one that had this label when its child was made");
    }
    if found.body.hash_key != child.body.hash_key {
        return Some("its hashes have another key than those of its child");
    }
    (found.summary.database != child.summary.database).then_some("it is of another cluster than its child")
}

fn of_label(label: BackupLabel, summary: &Summary) -> Result<()> {
    if summary.label == label {
        return Ok(());
    }
    Err(Error::Damaged { label, reason: format!("its manifest is that of {}", summary.label) })
}

/// A layer of a chain, with the backup that it is of.
#[derive(Debug, Clone)]
pub(crate) struct ChainLayer {
    /// The backup.
    pub(crate) label: BackupLabel,
    /// The layer.
    pub(crate) layer: Arc<Layer>,
}

/// All layers of a chain, newest first: the sources of a merge.
pub(crate) fn layers(chain: &[Backup]) -> Vec<ChainLayer> {
    let of = |backup: &Backup| {
        let label = backup.summary.label;
        let layers = backup.body.layers.iter().rev().cloned();
        layers.map(move |layer| ChainLayer { label, layer: Arc::new(layer) }).collect::<Vec<_>>()
    };
    chain.iter().flat_map(of).collect()
}

/// How far each of `readers` cursors that are open at once reads ahead, in bytes.
pub(crate) fn read_ahead(readers: usize) -> u64 {
    (CHAIN_READ_AHEAD / (readers.max(1) as u64)).clamp(MIN_READ_AHEAD, READ_AHEAD)
}

/// Opens the frames of a lane whose salt the manifest keeps.
pub(crate) fn lane_opener(keys: &Keyring, kind: ObjectKind, salt: Digest) -> Opener {
    keys.lane_key(kind, LaneSalt::from_bytes(salt.0)).opener()
}

/// Gives the index nodes of one layer. Lives on a plain thread and drives a tokio runtime elsewhere.
pub(crate) struct LayerNodes {
    backups: BackupStore,
    label: BackupLabel,
    layer: Arc<Layer>,
    runtime: Handle,
    opener: Opener,
    decompressor: Decompressor,
    read_ahead: u64,
    window: Option<(u32, u64, Bytes)>,
}

impl std::fmt::Debug for LayerNodes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LayerNodes({}, {:016x})", self.label, self.layer.attempt)
    }
}

impl LayerNodes {
    pub(crate) fn new(place: &StanzaPlace, label: BackupLabel, layer: &Arc<Layer>, runtime: Handle) -> Self {
        let opener = lane_opener(place.repo.keyring(), ObjectKind::IndexPack, layer.index_lane);
        let (backups, layer) = (place.backups.clone(), Arc::clone(layer));
        let decompressor = Decompressor::new();
        Self { backups, label, layer, runtime, opener, decompressor, read_ahead: READ_AHEAD, window: None }
    }

    /// The same with another read-ahead, in bytes: see [`read_ahead`].
    #[must_use]
    pub(crate) fn with_read_ahead(self, read_ahead: u64) -> Self {
        Self { read_ahead, ..self }
    }

    /// The stored bytes of a node, from the window or by a request.
    fn stored(&mut self, place: &NodePlace) -> Result<Bytes> {
        let damaged = |reason: &str| Error::Damaged { label: self.label, reason: reason.to_owned() };
        let size = self.layer.index_packs.get(place.pack as usize).copied();
        let end = place.offset.checked_add(u64::from(place.len));
        let (Some(size), Some(end)) = (size, end) else {
            return Err(damaged("its index points to a pack that it does not have"));
        };
        if end > size {
            return Err(damaged("its index points behind the end of a pack"));
        }
        if let Some((pack, start, bytes)) = &self.window
            && *pack == place.pack
            && *start <= place.offset
            && end <= start + bytes.len() as u64
        {
            let at = usize::try_from(place.offset - start).unwrap_or(usize::MAX);
            return Ok(bytes.slice(at..at + place.len as usize));
        }
        let until = end.max(place.offset.saturating_add(self.read_ahead)).min(size);
        let (label, attempt) = (self.label, self.layer.attempt);
        let get = self.backups.get_pack_range(&label, attempt, place.pack, true, place.offset..until);
        let bytes = self.runtime.block_on(get)?;
        if (bytes.len() as u64) < u64::from(place.len) {
            return Err(damaged("an index pack is shorter than its manifest says"));
        }
        let node = bytes.slice(..place.len as usize);
        self.window = Some((place.pack, place.offset, bytes));
        Ok(node)
    }
}

impl NodeSource for LayerNodes {
    type Error = Error;

    fn get(&mut self, kind: NodeKind, place: &NodePlace) -> Result<Vec<u8>> {
        let mut frame = self.stored(place)?.to_vec();
        let mut raw = Vec::new();
        let opened =
            self.opener.open(&mut self.decompressor, &mut frame, frame_kind(kind), place.number, &mut raw);
        opened.map_err(|error| {
            let pack = place.pack;
            let attempt = self.layer.attempt;
            Error::Damaged {
                label: self.label,
                reason: format!("index pack {attempt:016x}-i{pack:08x} at {}: {error}", place.offset),
            }
        })?;
        Ok(raw)
    }
}

/// The data packs of a layer and their sizes, from its frame table.
pub(crate) async fn pack_sizes(
    host: &Host,
    place: &StanzaPlace,
    label: BackupLabel,
    layer: &Layer,
) -> Result<Vec<(u32, u64)>> {
    let (host, place, layer) = (host.clone(), place.clone(), Arc::new(layer.clone()));
    let runtime = Handle::current();
    let read = move || {
        let mut nodes = LayerNodes::new(&place, label, &layer, runtime);
        let mut frames = FrameCursor::new(layer.frames);
        let mut sizes: Vec<(u32, u64)> = Vec::new();
        while let Some(frame) = frames.next_frame(&mut nodes)? {
            host.stop.check()?;
            match sizes.last() {
                Some((pack, _)) if *pack == frame.pack => {}
                _ => sizes.push((frame.pack, frame.pack_size)),
            }
        }
        Ok(sizes)
    };
    tokio::task::spawn_blocking(read)
        .await
        .map_err(|_| Error::Internal { what: "reading a frame table panicked" })?
}
