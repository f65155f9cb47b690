//! Backups as they stand in the repository: manifests opened and checked, index nodes fetched on demand.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use pgbr_codec::{Decompressor, KeyId, KeyMode, Keyring, LaneSalt, ObjectKind, Opener};
use pgbr_manifest::index::{FrameCursor, NodeKind, NodePlace, NodeSource, Root};
use pgbr_manifest::manifest::{Body, Layer, MAX_LAYERS, Parent, Summary};
use pgbr_manifest::merge::Merge;
use pgbr_manifest::{BackupLabel, Digest};
use pgbr_repo::BackupStore;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::error::{Error, Result};
use crate::host::Host;
use crate::packs::frame_kind;
use crate::place::StanzaPlace;

/// How many heads of manifests are asked for at once.
const HEADS: usize = 16;
/// And how many whole manifests, which may have 1 MiB each.
const MANIFESTS: usize = 16;
/// And how many first nodes of the layers of a chain.
const FIRST_NODES: usize = 16;
/// The most backups that a chain may have below its newest: more than two years of daily increments.
const MAX_CHAIN: usize = 1000;
/// The most layers that all backups of a chain may have together: each of them is read side by side with all others.
const MAX_CHAIN_LAYERS: usize = MAX_CHAIN + MAX_LAYERS;
/// Nodes stand one after the other, so one request fetches several: at least this many bytes.
const READ_AHEAD: u64 = 1 << 20;
/// The most stored bytes of a node: of any frame (`docs/format.md`, section 3).
const MAX_NODE: u32 = (16 << 20) + 40;
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
    Ok(summaries_of(backups, backups.list_labels().await?).await)
}

/// The same of these labels.
pub(crate) async fn summaries_of(
    backups: &BackupStore,
    labels: Vec<BackupLabel>,
) -> Vec<(BackupLabel, Result<Summary>)> {
    let read = labels.into_iter().map(|label| async move { (label, read_summary(backups, label).await) });
    // A label without a manifest is no backup: one that is being made, or what is left of one.
    let there = |(label, read): (BackupLabel, Result<Summary>)| async move {
        let missing = matches!(&read, Err(Error::Repo(error)) if error.is_not_found());
        (!missing).then_some((label, read))
    };
    futures::stream::iter(read).buffered(HEADS).filter_map(there).collect().await
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
    let (key_id, summary_json, body_json) = backups.read_sealed_manifest(&label).await?;
    let digest = Digest(pgbr_codec::manifest_digest(&summary_json, &body_json));
    let summary = Summary::from_json(summary_json.trim_ascii_end())?;
    of_label(label, &summary)?;
    let mut body = Body::from_json(&body_json)?;
    body.layers.iter_mut().for_each(|layer| layer.key_id = *key_id.as_bytes());
    if body.id != summary.id || body.parent.as_ref().map(|p| p.label) != summary.prior {
        return Err(Error::Damaged {
            label,
            reason: "the two parts of its manifest do not belong together".to_owned(),
        });
    }
    Ok(Backup { summary, body, digest })
}

/// What a backup builds on as far as `prior` knows, itself first.
pub(crate) fn expected(
    label: BackupLabel,
    prior: impl Fn(BackupLabel) -> Option<BackupLabel>,
) -> Vec<BackupLabel> {
    std::iter::successors(Some(label), |label| prior(*label)).take(MAX_CHAIN).collect()
}

/// A backup and all that it builds on, newest first, down to its full. Those that are `expected` are read at once, whatever else turns out
/// to be needed one by one.
///
/// # Errors
/// When one is missing, damaged, needs a newer program, or is another one than its child was made from.
pub(crate) async fn chain(
    place: &StanzaPlace,
    label: BackupLabel,
    expected: &[BackupLabel],
) -> Result<Vec<Backup>> {
    let read = |label: BackupLabel| async move { (label, load(&place.backups, label).await) };
    let ahead = futures::stream::iter(expected.iter().copied().map(read)).buffer_unordered(MANIFESTS);
    let mut ahead: BTreeMap<_, _> = ahead.collect().await;
    let mut take = async |label: BackupLabel| match ahead.remove(&label) {
        Some(read) => read,
        None => load(&place.backups, label).await,
    };
    let mut newest = take(label).await?;
    let (mut chain, mut layers) = (Vec::new(), newest.body.layers.len());
    // A summary's prior is always older and of the same full, so this ends.
    while let Some(parent) = newest.body.parent.clone() {
        let label = newest.summary.label;
        let broken = |source| Error::Parent { label, parent: parent.label, source: Box::new(source) };
        let loaded = take(parent.label).await.map_err(broken)?;
        layers += loaded.body.layers.len();
        if let Some(reason) = too_long(chain.len() + 2, layers) {
            return Err(broken(Error::Damaged { label: parent.label, reason }));
        }
        if let Some(reason) = stranger(&newest, &parent, &loaded) {
            return Err(broken(Error::Damaged { label: parent.label, reason: reason.to_owned() }));
        }
        chain.push(std::mem::replace(&mut newest, loaded));
    }
    chain.push(newest);
    Ok(chain)
}

/// Why so many backups, with so many layers together, are not read as one chain.
pub(crate) fn too_long(backups: usize, layers: usize) -> Option<String> {
    if backups > MAX_CHAIN + 1 {
        return Some(format!("more than {MAX_CHAIN} backups build on it"));
    }
    let reason = || format!("it and what builds on it have more than {MAX_CHAIN_LAYERS} layers");
    (layers > MAX_CHAIN_LAYERS).then(reason)
}

/// Why nothing more is built on a chain: it could not be read, with as many layers as a backup may have.
pub(crate) fn full(chain: &[Backup]) -> Option<&'static str> {
    let layers: usize = chain.iter().map(|backup| backup.body.layers.len()).sum();
    too_long(chain.len() + 1, layers + MAX_LAYERS).map(|_| "its chain is as long as one may be")
}

/// Why `found` is not the backup that `child` names as its parent.
pub(crate) fn stranger(child: &Backup, named: &Parent, found: &Backup) -> Option<&'static str> {
    if found.summary.id != named.id || found.digest != named.digest {
        return Some("it is another backup than the one that had this label when its child was made");
    }
    if found.body.hash_key != child.body.hash_key {
        return Some("its hashes have another key than those of its child");
    }
    (found.summary.database != child.summary.database).then_some("it is of another cluster than its child")
}

/// Whether a manifest is there and does not tell what it should, as opposed to out of reach.
pub(crate) fn is_unreadable(error: &Error) -> bool {
    use pgbr_repo::Error as Repo;
    match error {
        Error::Repo(repo) => {
            matches!(repo, Repo::Corrupt { .. } | Repo::Foreign { .. } | Repo::Unsupported { .. })
        }
        Error::Manifest(_) | Error::Damaged { .. } => true,
        _ => false,
    }
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
pub(crate) fn layers<'a>(chain: impl IntoIterator<Item = &'a Backup>) -> Vec<ChainLayer> {
    let of = |backup: &Backup| {
        let label = backup.summary.label;
        let layers = backup.body.layers.iter().rev().cloned();
        layers.map(move |layer| ChainLayer { label, layer: Arc::new(layer) }).collect::<Vec<_>>()
    };
    chain.into_iter().flat_map(of).collect()
}

/// How far each of `readers` cursors that are open at once reads ahead, in bytes.
pub(crate) fn read_ahead(readers: usize) -> u64 {
    (CHAIN_READ_AHEAD / (readers.max(1) as u64)).clamp(MIN_READ_AHEAD, READ_AHEAD)
}

/// Opens the frames of a lane of a layer whose salt the manifest keeps; none where that is no lane that can be opened.
pub(crate) fn lane_opener(keys: &Keyring, layer: &Layer, kind: ObjectKind, salt: Digest) -> Option<Opener> {
    let mode = match layer.data_key_mode.filter(|_| kind == ObjectKind::DataPack) {
        Some(mode) => KeyMode::from_byte(mode).ok()?,
        None => keys.mode(ObjectKind::Manifest),
    };
    keys.lane_opener(KeyId::from_bytes(layer.key_id), mode, kind, LaneSalt::from_bytes(salt.0)).ok()
}

/// What a layer says of the key mode of its data packs, which are sealed in this one.
pub(crate) fn data_key_mode(keys: &Keyring, mode: KeyMode) -> Option<u8> {
    (mode != keys.mode(ObjectKind::Manifest)).then_some(mode as u8)
}

/// Gives the index nodes of one layer. Lives on a plain thread and drives a tokio runtime elsewhere.
pub(crate) struct LayerNodes {
    backups: BackupStore,
    label: BackupLabel,
    layer: Arc<Layer>,
    runtime: Handle,
    opener: Option<Opener>,
    decompressor: Decompressor,
    read_ahead: u64,
    /// Whether requests take so long that the next ones are made before they are needed.
    far: bool,
    window: Option<Window>,
    /// On their way.
    coming: Vec<Coming>,
}

/// A part of an index pack.
struct Window {
    pack: u32,
    start: u64,
    bytes: Bytes,
}

impl Window {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    fn get(&self, place: &NodePlace) -> Option<Bytes> {
        let at = usize::try_from(place.offset.checked_sub(self.start)?).ok()?;
        let end = at.checked_add(place.len as usize)?;
        (self.pack == place.pack && end <= self.bytes.len()).then(|| self.bytes.slice(at..end))
    }
}

/// A part of an index pack that was asked for.
struct Coming {
    pack: u32,
    range: Range<u64>,
    task: JoinHandle<Result<Bytes, pgbr_repo::Error>>,
}

impl Drop for Coming {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl std::fmt::Debug for LayerNodes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LayerNodes({}, {:016x})", self.label, self.layer.attempt)
    }
}

impl LayerNodes {
    pub(crate) fn new(place: &StanzaPlace, label: BackupLabel, layer: &Arc<Layer>, runtime: Handle) -> Self {
        let opener = lane_opener(place.repo.keyring(), layer, ObjectKind::IndexPack, layer.index_lane);
        let (backups, layer) = (place.backups.clone(), Arc::clone(layer));
        let (decompressor, far) = (Decompressor::new(), !place.repo.store().is_local());
        let (read_ahead, window, coming) = (READ_AHEAD, None, Vec::new());
        Self { backups, label, layer, runtime, opener, decompressor, read_ahead, far, window, coming }
    }

    /// The same with another read-ahead, in bytes: see [`read_ahead`].
    #[must_use]
    pub(crate) fn with_read_ahead(self, read_ahead: u64) -> Self {
        Self { read_ahead, ..self }
    }

    /// Asks for what is read first, where that takes long: the root, and what stands at the beginning. All layers of a chain share `gate`.
    #[must_use]
    pub(crate) fn warmed(mut self, root: Option<Root>, gate: &FirstNodes) -> Self {
        let Some(root) = root.map(|root| root.place).filter(|_| self.far) else { return self };
        let size = |pack: u32| self.layer.index_packs.get(pack as usize).copied().unwrap_or(0);
        let whole = size(0).min(self.read_ahead);
        let end = root.offset.saturating_add(u64::from(root.len));
        if root.pack != 0 || end > whole {
            if end > size(root.pack) {
                return self;
            }
            self.ask(root.pack, root.offset..end, Some(gate));
        }
        self.ask(0, 0..whole, Some(gate));
        self
    }

    fn ask(&mut self, pack: u32, range: Range<u64>, gate: Option<&FirstNodes>) {
        let (backups, label, attempt) = (self.backups.clone(), self.label, self.layer.attempt);
        let (gate, wanted) = (gate.map(|gate| Arc::clone(&gate.0)), range.clone());
        let task = self.runtime.spawn(async move {
            // A gate that is closed keeps nobody.
            let _pass = match gate {
                Some(gate) => gate.acquire_owned().await.ok(),
                None => None,
            };
            backups.get_pack_range(&label, attempt, pack, true, wanted).await
        });
        self.coming.push(Coming { pack, range, task });
    }

    /// The stored bytes of a node, from what is here, from what is on its way, or by a request.
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
        if place.len > MAX_NODE {
            return Err(damaged("its index points to something that is larger than any node"));
        }
        let short = damaged("an index pack is shorter than its manifest says");
        let node = match self.window.as_ref().and_then(|window| window.get(place)) {
            Some(node) => node,
            None => match self.arrived(place, end)? {
                Some(node) => node,
                None => {
                    let until = end.max(place.offset.saturating_add(self.read_ahead)).min(size);
                    self.ask(place.pack, place.offset..until, None);
                    self.arrived(place, end)?.ok_or(short)?
                }
            },
        };
        self.look_ahead(place, size);
        Ok(node)
    }

    /// Waits for what was asked for and holds a node, and goes on with it.
    fn arrived(&mut self, place: &NodePlace, end: u64) -> Result<Option<Bytes>> {
        let joins = |coming: &Coming| {
            // A node may begin in the window and end in what follows it.
            let begun = self.window.as_ref().filter(|window| {
                (window.pack, window.end()) == (coming.pack, coming.range.start)
                    && window.start <= place.offset
            });
            let start = begun.map_or(coming.range.start, |window| window.start);
            coming.pack == place.pack
                && (start..coming.range.end).contains(&place.offset)
                && end <= coming.range.end
        };
        let Some(at) = self.coming.iter().position(joins) else { return Ok(None) };
        let mut coming = self.coming.swap_remove(at);
        let got = self.runtime.block_on(&mut coming.task);
        let bytes = got.map_err(|_| Error::Internal { what: "reading an index panicked" })??;
        let (pack, mut start, mut all) = (coming.pack, coming.range.start, bytes);
        if place.offset < start
            && let Some(window) = &self.window
        {
            let kept = usize::try_from(place.offset.saturating_sub(window.start)).unwrap_or(usize::MAX);
            let kept = window.bytes.get(kept..).unwrap_or_default();
            all = [kept, all.as_ref()].concat().into();
            start = place.offset;
        }
        let window = Window { pack, start, bytes: all };
        let node = window.get(place);
        self.window = Some(window);
        Ok(node)
    }

    /// Asks for what follows the window when half of it is used up, and requests take long.
    fn look_ahead(&mut self, place: &NodePlace, size: u64) {
        let Some(window) = self.window.as_ref().filter(|window| self.far && window.pack == place.pack) else {
            return;
        };
        let (pack, end) = (window.pack, window.end());
        let half = window.start + (window.bytes.len() / 2) as u64;
        let asked = self.coming.iter().any(|coming| (coming.pack, coming.range.start) == (pack, end));
        if place.offset >= half && end < size && !asked && window.bytes.len() as u64 >= self.read_ahead / 2 {
            self.ask(pack, end..end.saturating_add(self.read_ahead).min(size), None);
        }
    }
}

/// How many first nodes of a chain's layers are asked for at once.
pub(crate) struct FirstNodes(Arc<Semaphore>);

impl FirstNodes {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(FIRST_NODES)))
    }
}

/// The files of a chain as the newest of its backups has them, of all its layers, newest first.
pub(crate) fn merged(place: &StanzaPlace, layers: &[ChainLayer], runtime: &Handle) -> Merge<LayerNodes> {
    let (ahead, gate) = (read_ahead(layers.len()), FirstNodes::new());
    Merge::new(layers.iter().map(|of| {
        let nodes = LayerNodes::new(place, of.label, &of.layer, runtime.clone());
        (of.layer.index, nodes.with_read_ahead(ahead).warmed(of.layer.index, &gate))
    }))
}

impl NodeSource for LayerNodes {
    type Error = Error;

    fn get(&mut self, kind: NodeKind, place: &NodePlace) -> Result<Vec<u8>> {
        let mut frame = self.stored(place)?.to_vec();
        let Some(opener) = &self.opener else {
            let reason = "the lane of its index cannot be opened".to_owned();
            return Err(Error::Damaged { label: self.label, reason });
        };
        let mut raw = Vec::new();
        let opened =
            opener.open(&mut self.decompressor, &mut frame, frame_kind(kind), place.number, &mut raw);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_has_an_end() {
        assert_eq!(too_long(MAX_CHAIN + 1, MAX_CHAIN_LAYERS), None);
        assert_eq!(too_long(MAX_CHAIN + 2, 1).unwrap(), "more than 1000 backups build on it");
        assert!(too_long(1, MAX_CHAIN_LAYERS + 1).is_some_and(|reason| reason.contains("2000 layers")));
    }
}
