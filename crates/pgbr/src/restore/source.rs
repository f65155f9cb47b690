//! One layer as a source of content: its frame table, the frame that pieces are collected for, and the frames that go by one request.

use std::sync::Arc;

use pgbr_codec::{ObjectKind, Opener};
use pgbr_manifest::BackupLabel;
use pgbr_manifest::index::{FrameCursor, FramePlace};
use tokio::runtime::Handle;

use super::write::Piece;
use crate::error::{Error, Result};
use crate::load::{ChainLayer, FirstNodes, LayerNodes, lane_opener};
use crate::place::StanzaPlace;

/// How much is fetched at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// One request fetches frames up to this many bytes.
    pub(crate) group_bytes: u64,
    /// And up to this many frames.
    pub(crate) group_frames: usize,
    /// The most stored bytes that are out at once.
    pub(crate) out_bytes: u64,
    /// The most frames that are out at once.
    pub(crate) out_frames: usize,
    /// The most frames that wait for others of the same request, over all sources.
    pub(crate) waiting_frames: usize,
}

impl Bounds {
    /// A disk gives what is asked of it at once.
    const LOCAL: Self = Self {
        group_bytes: 4 << 20,
        group_frames: 64,
        out_bytes: 24 << 20,
        out_frames: 256,
        waiting_frames: 512,
    };
    /// A store elsewhere takes its time for each request: one for a whole pack, where all of it is needed, and several on their way.
    const REMOTE: Self = Self {
        group_bytes: 16 << 20,
        group_frames: 1024,
        out_bytes: 80 << 20,
        out_frames: 2048,
        waiting_frames: 2048,
    };

    /// What fits a repository.
    pub(crate) const fn of(local: bool) -> Self {
        if local { Self::LOCAL } else { Self::REMOTE }
    }
}

/// What the workers have to know of a source.
#[derive(Debug, Clone)]
pub(crate) struct SourceKeys {
    /// The backup.
    pub(crate) label: BackupLabel,
    /// The run.
    pub(crate) attempt: u64,
    openers: Vec<Option<Opener>>,
}

impl SourceKeys {
    pub(crate) fn new(place: &StanzaPlace, layer: &ChainLayer) -> Self {
        let keys = place.repo.keyring();
        let opener =
            |salt: &pgbr_manifest::Digest| lane_opener(keys, &layer.layer, ObjectKind::DataPack, *salt);
        let openers = layer.layer.data_lanes.iter().map(opener).collect();
        Self { label: layer.label, attempt: layer.layer.attempt, openers }
    }

    /// What opens the frames of a lane; none for one that the manifest does not have, or that cannot be opened.
    pub(crate) fn opener(&self, lane: u32) -> Option<&Opener> {
        self.openers.get(lane as usize)?.as_ref()
    }

    pub(crate) fn damaged(&self, place: &FramePlace, reason: &str) -> Error {
        let (pack, offset) = (place.pack, place.offset);
        let reason = format!("pack {:016x}-{pack:08x}, frame at {offset}: {reason}", self.attempt);
        Error::Damaged { label: self.label, reason }
    }
}

/// A frame with what is to be done with it.
pub(crate) struct FrameWork {
    /// Which source it is of.
    pub(crate) source: usize,
    /// Where it lies.
    pub(crate) place: FramePlace,
    /// What is needed of it.
    pub(crate) pieces: Vec<Piece>,
}

/// Frames that one request fetches: they stand one after the other in one pack.
#[derive(Default)]
pub(crate) struct Group {
    pub(crate) frames: Vec<FrameWork>,
    pub(crate) bytes: u64,
}

impl Group {
    fn takes(&self, place: &FramePlace, bounds: &Bounds) -> bool {
        self.frames.last().is_none_or(|last| {
            last.place.pack == place.pack
                && last.place.offset + u64::from(last.place.len) == place.offset
                && self.bytes + u64::from(place.len) <= bounds.group_bytes
                && self.frames.len() < bounds.group_frames
        })
    }

    fn push(&mut self, work: FrameWork) {
        self.bytes += u64::from(work.place.len);
        self.frames.push(work);
    }
}

/// A layer under way. It is asked for its stream in ascending order.
pub(crate) struct Source {
    number: usize,
    label: BackupLabel,
    nodes: LayerNodes,
    table: FrameCursor,
    /// The frame that was asked for last.
    frame: Option<FrameWork>,
    group: Group,
    bounds: Bounds,
}

impl Source {
    pub(crate) fn new(
        number: usize,
        place: &StanzaPlace,
        layer: &ChainLayer,
        runtime: &Handle,
        read_ahead: u64,
        gate: &FirstNodes,
    ) -> Self {
        let nodes = LayerNodes::new(place, layer.label, &layer.layer, runtime.clone());
        let nodes = nodes.with_read_ahead(read_ahead).warmed(layer.layer.frames, gate);
        Self {
            number,
            label: layer.label,
            nodes,
            table: FrameCursor::new(layer.layer.frames),
            frame: None,
            group: Group::default(),
            bounds: Bounds::of(place.repo.store().is_local()),
        }
    }

    fn damaged(&self, reason: &str) -> Error {
        Error::Damaged { label: self.label, reason: reason.to_owned() }
    }

    /// How many frames wait for more that go by the same request.
    pub(crate) fn waiting(&self) -> usize {
        self.group.frames.len()
    }

    /// Goes to the frame that holds the byte at `stream`. Gives where it begins and ends, and a group that it closes.
    pub(crate) fn reach(&mut self, stream: u64) -> Result<(u64, u64, Option<Group>)> {
        let mut closed = None;
        loop {
            if let Some(FrameWork { place, .. }) = &self.frame {
                let end = place.stream + u64::from(place.raw_len);
                if stream < place.stream {
                    return Err(self.damaged("its frame table and its index do not agree"));
                }
                if stream < end {
                    return Ok((place.stream, end, closed));
                }
            }
            let next = self.table.next_frame(&mut self.nodes)?;
            let place = next.ok_or_else(|| self.damaged("its frame table ends before its index"))?;
            let last = self.frame.replace(FrameWork { source: self.number, place, pieces: Vec::new() });
            // Only the first frame passed can have pieces, so at most one group is closed.
            if let Some(work) = last.filter(|work| !work.pieces.is_empty()) {
                closed = self.add(work);
            }
        }
    }

    /// Adds a piece of the frame that was asked for last.
    pub(crate) fn need(&mut self, piece: Piece) {
        if let Some(frame) = &mut self.frame {
            frame.pieces.push(piece);
        }
    }

    fn add(&mut self, work: FrameWork) -> Option<Group> {
        let closed = (!self.group.takes(&work.place, &self.bounds)).then(|| std::mem::take(&mut self.group));
        self.group.push(work);
        closed
    }

    /// The frames that wait, which may be none.
    pub(crate) fn take_group(&mut self) -> Group {
        std::mem::take(&mut self.group)
    }

    /// All that waits: what was asked for of the frame that is at hand, too.
    pub(crate) fn flush(&mut self) -> impl Iterator<Item = Group> {
        let begun = self.frame.as_mut().filter(|work| !work.pieces.is_empty()).map(|work| {
            let pieces = std::mem::take(&mut work.pieces);
            FrameWork { source: work.source, place: work.place, pieces }
        });
        let closed = begun.and_then(|work| self.add(work));
        [closed, Some(self.take_group())].into_iter().flatten()
    }
}

/// The sources of a chain as the workers know them.
pub(crate) type AllKeys = Arc<Vec<SourceKeys>>;
