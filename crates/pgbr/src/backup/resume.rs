//! Resume: what broken runs at a backup have stored becomes the first layers of the run that takes them up.
//!
//! A pack's footer says which grains of which files it holds, so what a run stored is known from its packs alone. Their rows become an
//! index and a frame table of a layer; whether a grain is still right is decided where all content is compared: by its hash.

use futures::StreamExt;
use pgbr_codec::{FrameKind, KeyMode, Keyring, OBJECT_HEADER_LEN, ObjectHeader, PackFooter};
use pgbr_manifest::index::{
    BadPages, Fields, FileRecord, FrameTableWriter, IndexWriter, LeafReader, PackFrames, Record,
};
use pgbr_manifest::manifest::Layer;
use pgbr_manifest::{BackupLabel, BackupType, Digest, GRAIN};
use pgbr_repo::{PackObject, Pins, RunFacts};
use tokio::runtime::Handle;

use super::copy::UNKNOWN_DIGEST;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::load;
use crate::packs::{IndexPacks, Uploads};
use crate::place::StanzaPlace;

/// How many footers are asked for at once.
const FOOTERS: usize = 8;
/// The end of a pack is read in one go up to this many bytes, which holds most footers.
const TAIL: u64 = 64 << 10;
/// The most runs that one backup takes up; older ones are left behind.
const MAX_RUNS: usize = 100;

/// Runs at a backup that was not finished, with what they agree on.
#[derive(Debug, Clone)]
pub(crate) struct Broken {
    /// The backup.
    pub(crate) label: BackupLabel,
    /// What they said of themselves: of the newest.
    pub(crate) facts: RunFacts,
    /// Their numbers and data packs, oldest run first.
    pub(crate) runs: Vec<(u64, Vec<PackObject>)>,
    /// Index packs that the runs left: of a whole that never came to be.
    pub(crate) rubbish: Vec<PackObject>,
}

/// What was taken up.
#[derive(Debug, Default)]
pub(crate) struct Adopted {
    /// The layers, oldest first.
    pub(crate) layers: Vec<Layer>,
    /// Bytes in the repository.
    pub(crate) stored: u64,
    /// Bytes of files.
    pub(crate) raw: u64,
}

/// Looks for a backup that was not finished and that a run of type `kind` can take up. `newest` is the newest label there is, `wanted` what
/// that run would say of itself.
pub(crate) async fn find(
    host: &Host,
    place: &StanzaPlace,
    kind: BackupType,
    newest: Option<BackupLabel>,
    wanted: &RunFacts,
) -> Result<Option<Broken>> {
    let Some(label) = unfinished(place, kind, newest, wanted).await? else { return Ok(None) };
    let mut runs = place.backups.list_runs(&label).await?;
    let Some(newest) = runs.iter().rev().find_map(|run| run.facts.clone()) else { return Ok(None) };
    if let Some(reason) = stranger(&newest, wanted) {
        host.warn(format!("unfinished backup {label} is not resumed: {reason}"));
        return Ok(None);
    }
    let agrees = |facts: &RunFacts| stranger(facts, &newest).is_none() && facts.hash_key == newest.hash_key;
    runs.retain(|run| run.facts.as_ref().is_some_and(agrees));
    runs.drain(..runs.len().saturating_sub(MAX_RUNS));
    let packs = place.backups.list_packs(&label).await?;
    let mut broken = Broken { label, facts: newest, runs: Vec::new(), rubbish: Vec::new() };
    let attempts: Vec<u64> = runs.iter().map(|run| run.attempt).collect();
    for run in runs {
        if is_alive(host, place, run.attempt).await? {
            host.warn(format!("a run at unfinished backup {label} may still be at work: it is not resumed"));
            return Ok(None);
        }
        let of =
            |index: bool| packs.iter().filter(move |p| p.attempt == run.attempt && p.index == index).copied();
        let data: Vec<PackObject> = of(false).collect();
        if !data.is_empty() {
            broken.runs.push((run.attempt, data));
            broken.rubbish.extend(of(true));
        }
    }
    if broken.runs.is_empty() {
        // They ended before anything was stored.
        for attempt in attempts {
            place.backups.delete_run(&label, attempt).await?;
        }
        place.backups.tidy(&label).await?;
        return Ok(None);
    }
    Ok(Some(broken))
}

/// The newest label, if it is without a manifest, of this type and of the same full.
async fn unfinished(
    place: &StanzaPlace,
    kind: BackupType,
    newest: Option<BackupLabel>,
    wanted: &RunFacts,
) -> Result<Option<BackupLabel>> {
    let Some(newest) = newest else { return Ok(None) };
    let full = wanted.parent.as_ref().map(|parent| parent.label.full());
    let fits = newest.backup_type() == kind && full.is_none_or(|full| full == newest.full());
    Ok((fits && !place.backups.exists(&newest).await?).then_some(newest))
}

/// Why what one run stored is of no use to another.
fn stranger(found: &RunFacts, wanted: &RunFacts) -> Option<&'static str> {
    if found.system_id != wanted.system_id {
        return Some("it is of another cluster");
    }
    if found.timeline != wanted.timeline {
        return Some("the cluster is on another timeline now");
    }
    if found.data_checksums != wanted.data_checksums {
        return Some("page checksums were switched on or off since");
    }
    if found.parent != wanted.parent {
        return Some("it builds on another backup");
    }
    (wanted.parent.is_some() && found.hash_key != wanted.hash_key).then_some("its hashes have another key")
}

/// Whether a run's owner may still be there. The lease is ours, so only one that has lost it can be.
async fn is_alive(host: &Host, place: &StanzaPlace, attempt: u64) -> Result<bool> {
    let pins = Pins::new(&place.repo, place.stanza.name());
    for pin in pins.list().await? {
        let Some(record) = pin.record.as_ref().filter(|record| record.attempt == Some(attempt)) else {
            continue;
        };
        if host.owner.knows_dead(&record.holder) {
            pins.break_stale(&pin.id).await?;
            continue;
        }
        return Ok(!crate::held::outlived(host, &pins, &pin).await?);
    }
    Ok(false)
}

/// Makes layers of what broken runs have stored. Runs on a plain thread.
pub(crate) fn adopt(
    host: &Host,
    place: &StanzaPlace,
    broken: &Broken,
    pack_size: usize,
    runtime: &Handle,
) -> Result<Adopted> {
    let mut adopted = Adopted::default();
    let left = runtime.block_on(place.backups.delete_packs(&broken.label, &broken.rubbish))?;
    if let Some(first) = left.first() {
        let (count, error) = (left.len(), &first.error);
        host.warn(format!("{count} packs of a broken backup could not be removed, the first: {error}"));
    }
    for (attempt, packs) in &broken.runs {
        host.stop.check()?;
        match adopt_run(host, place, broken.label, *attempt, packs, pack_size, runtime) {
            Ok((layer, raw)) => {
                let index: u64 = layer.index_packs.iter().sum();
                adopted.stored += index + packs.iter().map(|pack| pack.size).sum::<u64>();
                adopted.raw += raw;
                adopted.layers.push(layer);
            }
            // Nothing is lost: what cannot be taken up is read and sent again.
            Err(error) if !matches!(error, Error::Stopped) => {
                let label = broken.label;
                host.warn(format!(
                    "run {attempt:016x} at unfinished backup {label} cannot be taken up: {error}"
                ));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(adopted)
}

fn adopt_run(
    host: &Host,
    place: &StanzaPlace,
    label: BackupLabel,
    attempt: u64,
    packs: &[PackObject],
    pack_size: usize,
    runtime: &Handle,
) -> Result<(Layer, u64)> {
    let keys = place.repo.keyring().clone();
    let uploads = Uploads::new(place.backups.clone(), label, attempt, 2, runtime.clone());
    let mut index = IndexPacks::new(uploads, &keys, host.lane_seed()?, pack_size)?;
    let mut layer = Rebuilt::default();
    let footers = futures::stream::iter(packs.iter().copied());
    let mut footers = footers.map(|pack| read_footer(place, label, pack)).buffered(FOOTERS);
    while let Some(footer) = runtime.block_on(footers.next()) {
        host.stop.check()?;
        let (pack, header, footer) = footer?;
        layer.add(&mut index, pack, &header, footer)?;
    }
    layer.finish(index, attempt, &keys)
}

async fn read_footer(
    place: &StanzaPlace,
    label: BackupLabel,
    pack: PackObject,
) -> Result<(PackObject, ObjectHeader, PackFooter)> {
    let get = |range| place.backups.get_pack_range(&label, pack.attempt, pack.number, false, range);
    let header = ObjectHeader::parse(&get(0..(OBJECT_HEADER_LEN as u64).min(pack.size)).await?)?;
    if (header.attempt, header.pack) != (pack.attempt, pack.number) {
        return Err(damaged("a pack has the name of another one"));
    }
    let keys = place.repo.keyring();
    let tail = get(pack.size.saturating_sub(TAIL)..pack.size).await?;
    let footer = match PackFooter::read(keys, &header, &tail, pack.size) {
        Err(pgbr_codec::Error::TailTooShort { need, .. }) => {
            let tail = get(pack.size.saturating_sub(need)..pack.size).await?;
            PackFooter::read(keys, &header, &tail, pack.size)?
        }
        other => other?,
    };
    Ok((pack, header, footer))
}

/// The layer of one run, as its footers come in.
#[derive(Default)]
struct Rebuilt {
    index: IndexWriter,
    table: FrameTableWriter,
    lanes: Vec<Digest>,
    mode: Option<KeyMode>,
    open: Option<FileRecord>,
    /// The grain behind the last of the open file.
    at: u64,
    raw: u64,
    packs: u32,
}

impl Rebuilt {
    fn add(
        &mut self,
        index: &mut IndexPacks,
        pack: PackObject,
        header: &ObjectHeader,
        footer: PackFooter,
    ) -> Result<()> {
        let [run] = footer.runs.as_slice() else {
            return Err(damaged("a data pack has frames out of order"));
        };
        if run.kind != FrameKind::Data {
            return Err(damaged("a data pack has frames of another kind"));
        }
        let raw: u64 = run.frames.iter().map(|frame| u64::from(frame.raw)).sum();
        if self.rows(index, &footer.rows)? != raw {
            return Err(damaged("a pack's rows and its frames do not agree"));
        }
        if *self.mode.get_or_insert(header.mode) != header.mode {
            return Err(damaged("the packs of a run are sealed in several ways"));
        }
        let salt = Digest(*header.salt.as_bytes());
        let lane = self.lanes.iter().position(|lane| *lane == salt).unwrap_or_else(|| {
            self.lanes.push(salt);
            self.lanes.len() - 1
        });
        let frames = PackFrames {
            pack: pack.number,
            pack_size: pack.size,
            lane: u32::try_from(lane).unwrap_or(u32::MAX),
            offset: OBJECT_HEADER_LEN as u64,
            first: run.first,
            frames: run.frames.iter().map(|frame| (frame.raw, frame.frame)).collect(),
        };
        self.packs = self.packs.max(pack.number.saturating_add(1));
        self.raw += raw;
        self.table.push(index, &frames)
    }

    /// Takes the rows of a pack; gives how many bytes of grains they name.
    fn rows(&mut self, index: &mut IndexPacks, rows: &[u8]) -> Result<u64> {
        let mut reader = LeafReader::new(rows)?;
        let mut bytes = 0;
        // Gaps in a pack's rows count from the file's beginning, in the index from the last grain.
        let mut behind: u64 = 0;
        while let Some(record) = reader.next_record()? {
            match record {
                Record::File(file) => {
                    behind = 0;
                    if self.open.as_ref().is_none_or(|open| open.path != file.path) {
                        self.close(index)?;
                        // No one may take it for unchanged by its times: not all of it is here.
                        let file = FileRecord { ctime_ns: 0, inode: 0, ..file };
                        self.index.push(index, Record::File(file.clone()))?;
                        (self.open, self.at) = (Some(file), 0);
                    }
                }
                Record::Grains { gap, hashes } => {
                    let Some(open) = &self.open else {
                        return Err(damaged("grains without a file in a pack"));
                    };
                    let count = hashes.len() as u64;
                    let (first, grain) = (behind.saturating_add(gap), GRAIN as u64);
                    behind = first.saturating_add(count);
                    let gap = first.checked_sub(self.at).ok_or_else(|| damaged("a pack's rows go back"))?;
                    bytes += behind
                        .saturating_mul(grain)
                        .min(open.size)
                        .saturating_sub(first.saturating_mul(grain));
                    self.at = behind;
                    self.index.push(index, Record::Grains { gap, hashes })?;
                }
                _ => return Err(damaged("a pack has rows of another kind")),
            }
        }
        Ok(bytes)
    }

    fn close(&mut self, index: &mut IndexPacks) -> Result<()> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let end = Fields { size: open.size, digest: UNKNOWN_DIGEST, bad_pages: BadPages::default() };
        self.index.push(index, Record::End(end))
    }

    fn finish(mut self, mut index: IndexPacks, attempt: u64, keys: &Keyring) -> Result<(Layer, u64)> {
        self.close(&mut index)?;
        let (frames, stream) = self.table.finish(&mut index)?;
        let (root, length) = self.index.finish(&mut index)?;
        if stream != length {
            return Err(damaged("its rows and its frames do not agree"));
        }
        let index = index.finish()?;
        let layer = Layer {
            attempt,
            data_lanes: self.lanes,
            data_key_mode: self.mode.and_then(|mode| load::data_key_mode(keys, mode)),
            index_lane: index.salt,
            index_packs: index.sizes,
            data_packs: self.packs,
            index: root,
            frames,
            stream,
            key_id: *keys.key_id().as_bytes(),
        };
        Ok((layer, self.raw))
    }
}

fn damaged(reason: &str) -> Error {
    Error::Manifest(pgbr_manifest::Error::Inconsistent { reason: reason.to_owned() })
}

/// Sees that every pack that was taken up is still there.
pub(crate) async fn check(place: &StanzaPlace, broken: &Broken) -> Result<()> {
    let listed = place.backups.list_packs(&broken.label).await?;
    let there = |pack: &PackObject| listed.binary_search(pack).is_ok();
    match broken.runs.iter().flat_map(|(_, packs)| packs).all(there) {
        true => Ok(()),
        false => Err(Error::Damaged {
            label: broken.label,
            reason: "a pack that an earlier run had stored is gone".to_owned(),
        }),
    }
}

/// The sources of a merge for layers of one backup: newest first.
pub(crate) fn layer_sources(
    place: &StanzaPlace,
    label: BackupLabel,
    layers: &[Layer],
    runtime: &Handle,
) -> Vec<(Option<pgbr_manifest::index::Root>, load::LayerNodes)> {
    let source = |layer: &Layer| {
        let layer = std::sync::Arc::new(layer.clone());
        (layer.index, load::LayerNodes::new(place, label, &layer, runtime.clone()))
    };
    layers.iter().rev().map(source).collect()
}
