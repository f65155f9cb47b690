//! One pack in memory: every frame, every grain, and what its footer says of them.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use pgbr_codec::{Decompressor, FrameKind, Keyring, ObjectHeader, ObjectKind, Opener, PackFooter};
use pgbr_manifest::index::{LeafReader, PackFrames, Record};
use pgbr_manifest::manifest::Layer;
use pgbr_manifest::{Digest, GRAIN, HashKey, RelPath};

use super::report::Cause;
use crate::load::lane_opener;

/// The most faults of a pack that are told apart.
const MAX_FAULTS: usize = 1000;

/// Grains of one file that stand one after the other, as the index has them.
#[derive(Debug, Clone)]
pub(super) struct Span {
    pub(super) path: Arc<RelPath>,
    /// The size of the file, which tells how long its last grain is.
    pub(super) size: u64,
    /// The first of them, counted in the file.
    pub(super) grain: u64,
    pub(super) hashes: Vec<u64>,
}

impl Span {
    fn grains(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        (self.grain..).zip(self.hashes.iter().copied())
    }

    /// How many bytes a grain of the file has.
    pub(super) fn len_of(&self, grain: u64) -> u64 {
        grain_len(self.size, grain)
    }
}

/// How many bytes grain `grain` of a file of `size` bytes has.
pub(super) fn grain_len(size: u64, grain: u64) -> u64 {
    size.saturating_sub(grain.saturating_mul(GRAIN as u64)).min(GRAIN as u64)
}

/// What a data pack must hold.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// As the frame table has it.
    pub(super) frames: PackFrames,
    /// Where its first frame begins in the stream.
    pub(super) stream: u64,
    /// As the index has it; none where that cannot be read.
    pub(super) spans: Option<Vec<Span>>,
}

impl Wanted {
    /// Its part of the stream.
    pub(super) fn range(&self) -> Range<u64> {
        let len: u64 = self.frames.frames.iter().map(|(raw, _)| u64::from(*raw)).sum();
        self.stream..self.stream.saturating_add(len)
    }
}

/// What is wrong with a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) cause: Cause,
    /// What cannot be restored, as a part of the stream; none where a restore does not need it.
    pub(super) range: Option<Range<u64>>,
    pub(super) text: String,
}

impl Fault {
    pub(super) fn harmless(text: impl Into<String>) -> Self {
        Self { cause: Cause::Checksum, range: None, text: text.into() }
    }
}

/// What is known of the layer of a pack.
#[derive(Debug, Clone)]
pub(super) struct LayerKeys {
    keys: Keyring,
    layer: Arc<Layer>,
    key: HashKey,
    openers: Vec<Option<Opener>>,
}

impl LayerKeys {
    pub(super) fn new(keys: &Keyring, layer: &Arc<Layer>, key: &HashKey) -> Self {
        let opener = |salt: &Digest| lane_opener(keys, layer, ObjectKind::DataPack, *salt);
        let openers = layer.data_lanes.iter().map(opener).collect();
        Self { keys: keys.clone(), layer: Arc::clone(layer), key: key.clone(), openers }
    }

    /// The run.
    pub(super) fn attempt(&self) -> u64 {
        self.layer.attempt
    }

    /// Looks at a data pack that was read.
    pub(super) fn check_data(&self, wanted: &Wanted, object: &Bytes) -> Vec<Fault> {
        let whole = |cause, text: String| vec![Fault { cause, range: Some(wanted.range()), text }];
        let size = wanted.frames.pack_size;
        if object.len() as u64 != size {
            return whole(Cause::Size, format!("it has {} bytes, not {size}", object.len()));
        }
        let lane = wanted.frames.lane as usize;
        let (Some(opener), Some(salt)) = (self.openers.get(lane), self.layer.data_lanes.get(lane)) else {
            return whole(Cause::Other, "it is of a lane that the manifest does not have".to_owned());
        };
        let Some(opener) = opener else {
            return whole(Cause::Other, "it is of a lane that cannot be opened".to_owned());
        };
        let name = (ObjectKind::DataPack, self.layer.attempt, wanted.frames.pack, *salt);
        let mut faults: Vec<Fault> = match self.footer(name, object) {
            Ok(footer) => footer_fault(&footer, wanted).into_iter().map(Fault::harmless).collect(),
            Err(text) => vec![Fault::harmless(text)],
        };
        faults.extend(self.frames(wanted, object, opener));
        faults
    }

    /// Looks at an index pack that was read.
    pub(super) fn check_index(&self, number: u32, size: u64, object: &Bytes) -> Vec<Fault> {
        if object.len() as u64 != size {
            let text = format!("it has {} bytes, not {size}", object.len());
            return vec![Fault { cause: Cause::Size, range: None, text }];
        }
        let name = (ObjectKind::IndexPack, self.layer.attempt, number, self.layer.index_lane);
        let footer = match self.footer(name, object) {
            Ok(footer) => footer,
            Err(text) => return vec![Fault::harmless(text)],
        };
        let index_lane = self.layer.index_lane;
        let Some(opener) = lane_opener(&self.keys, &self.layer, ObjectKind::IndexPack, index_lane) else {
            return vec![Fault::harmless("it is of a lane that cannot be opened")];
        };
        let (mut decompressor, mut frame, mut raw) = (Decompressor::new(), Vec::new(), Vec::new());
        let mut faults = Vec::new();
        for place in footer.places() {
            raw.clear();
            let opened = cut(object, place.offset, place.size.frame).ok_or_else(behind).and_then(|stored| {
                frame.clear();
                frame.extend_from_slice(stored);
                let opened = opener.open(&mut decompressor, &mut frame, place.kind, place.number, &mut raw);
                opened.map_err(|error| error.to_string())
            });
            if let Err(text) = opened {
                faults.push(Fault::harmless(format!("frame at {}: {text}", place.offset)));
            }
        }
        faults
    }

    /// The footer of a pack that must have this name.
    fn footer(&self, name: (ObjectKind, u64, u32, Digest), object: &Bytes) -> Result<PackFooter, String> {
        let header = ObjectHeader::parse(object).map_err(|error| error.to_string())?;
        if (header.kind, header.attempt, header.pack, Digest(*header.salt.as_bytes())) != name {
            return Err("its header is that of another pack".to_owned());
        }
        PackFooter::read(&self.keys, &header, object, object.len() as u64).map_err(|error| error.to_string())
    }

    /// Opens every frame and hashes every grain.
    fn frames(&self, wanted: &Wanted, object: &Bytes, opener: &Opener) -> Vec<Fault> {
        let mut grains = wanted.spans.as_ref().map(|spans| {
            spans.iter().flat_map(|span| {
                span.grains().map(|(grain, hash)| (&span.path, grain, span.len_of(grain), hash))
            })
        });
        let (mut decompressor, mut frame, mut raw) = (Decompressor::new(), Vec::new(), Vec::new());
        let (mut faults, mut at, mut stream) = (Faults::default(), wanted.frames.offset, wanted.stream);
        for (number, (raw_len, len)) in (wanted.frames.first..).zip(&wanted.frames.frames) {
            let range = stream..stream + u64::from(*raw_len);
            raw.clear();
            let opened = cut(object, at, *len).ok_or_else(behind).and_then(|stored| {
                frame.clear();
                frame.extend_from_slice(stored);
                let opened = opener.open(&mut decompressor, &mut frame, FrameKind::Data, number, &mut raw);
                opened.map_err(|error| error.to_string())
            });
            let right = opened.and_then(|()| match raw.len() == *raw_len as usize {
                true => Ok(()),
                false => Err("it has another length than the frame table says".to_owned()),
            });
            if let Err(text) = &right {
                let text = format!("frame at {at}: {text}");
                faults.push(Fault { cause: Cause::Checksum, range: Some(range.clone()), text });
            }
            // Grains of a frame that does not open are passed over.
            let mut from = range.start;
            while from < range.end
                && let Some(grains) = &mut grains
            {
                let Some((path, grain, len, hash)) = grains.next() else {
                    faults.push(other(from..range.end, "the index has fewer grains than the frame"));
                    break;
                };
                if len == 0 || from + len > range.end {
                    faults.push(other(from..range.end, "a frame ends inside a grain"));
                    break;
                }
                let begin = usize::try_from(from - range.start).unwrap_or(usize::MAX);
                let bytes = raw.get(begin..begin.saturating_add(usize::try_from(len).unwrap_or(0)));
                if right.is_ok() && bytes.is_none_or(|bytes| self.key.grain(bytes) != hash) {
                    let text = format!(
                        "frame at {at}: grain {grain} of '{path}' has another hash than the index says"
                    );
                    faults.push(Fault { cause: Cause::Checksum, range: Some(from..from + len), text });
                }
                from += len;
            }
            (at, stream) = (at + u64::from(*len), range.end);
        }
        faults.0
    }
}

/// What is wrong in parts of a pack, from its beginning to its end. Where it is too much, the last covers all from its own part on.
#[derive(Default)]
struct Faults(Vec<Fault>);

impl Faults {
    fn push(&mut self, fault: Fault) {
        let full = self.0.len() >= MAX_FAULTS;
        match self.0.last_mut() {
            Some(Fault { range: Some(last), .. }) if full => {
                last.end = last.end.max(fault.range.map_or(0, |range| range.end));
            }
            _ => self.0.push(fault),
        }
    }
}

fn other(range: Range<u64>, text: &str) -> Fault {
    Fault { cause: Cause::Other, range: Some(range), text: text.to_owned() }
}

fn behind() -> String {
    "it lies behind the end of the pack".to_owned()
}

fn cut(object: &Bytes, offset: u64, len: u32) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    object.get(start..start.checked_add(len as usize)?)
}

/// In what a footer differs from frame table and index.
fn footer_fault(footer: &PackFooter, wanted: &Wanted) -> Option<String> {
    let frames = &wanted.frames;
    let table = (frames.first..).zip(&frames.frames).map(|(number, (raw, len))| (number, *raw, *len));
    let own = footer.places().map(|place| (place.number, place.size.raw, place.size.frame));
    let begins = footer.places().next().is_none_or(|place| place.offset == frames.offset);
    if !begins || !own.eq(table) {
        return Some("its footer and the frame table do not agree".to_owned());
    }
    let spans = wanted.spans.as_ref()?;
    let indexed = spans.iter().flat_map(|span| span.grains().map(|(grain, hash)| (&*span.path, grain, hash)));
    match rows_agree(&footer.rows, indexed) {
        Ok(true) => None,
        Ok(false) => Some("its rows and the index do not agree".to_owned()),
        Err(error) => Some(format!("its rows: {error}")),
    }
}

/// Whether the rows of a footer name just these grains.
fn rows_agree<'a>(
    rows: &[u8],
    mut grains: impl Iterator<Item = (&'a RelPath, u64, u64)>,
) -> pgbr_manifest::Result<bool> {
    let mut reader = LeafReader::new(rows)?;
    let (mut path, mut at) = (None, 0_u64);
    while let Some(record) = reader.next_record()? {
        match record {
            Record::File(file) => (path, at) = (Some(file.path), 0),
            Record::Grains { gap, hashes } => {
                at = at.saturating_add(gap);
                for hash in hashes {
                    let Some((wanted, grain, wanted_hash)) = grains.next() else { return Ok(false) };
                    if (path.as_ref(), at, hash) != (Some(wanted), grain, wanted_hash) {
                        return Ok(false);
                    }
                    at = at.saturating_add(1);
                }
            }
            _ => return Ok(false),
        }
    }
    Ok(grains.next().is_none())
}
