//! The frame table: which part of the stream each data frame holds and where the frame lies.

use super::bytes::{Reader, put_varint};
use super::tree::{FenceKey, Fences, NodeKind, NodeSink, NodeSource, Root, TARGET_NODE_BYTES, Walk};
use crate::error::Result;

/// The most frames that one pack has: a reader's bound.
const MAX_FRAMES_A_PACK: usize = 1 << 20;
/// The most raw bytes of a data frame (`docs/format.md`, section 3).
const MAX_RAW_BYTES: u32 = 1 << 20;
/// Header and tag of a frame.
const FRAME_OVERHEAD: u32 = 40;
/// Tables may grow over the target by the frames of one pack.
const MAX_TABLE_BYTES: usize = 16 << 20;

/// The frames of one pack, in the order of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackFrames {
    /// Number of the pack in its layer.
    pub pack: u32,
    /// Size of the whole object in bytes.
    pub pack_size: u64,
    /// Which of the layer's lanes sealed it.
    pub lane: u32,
    /// Offset of the first frame in the pack; the others follow without a gap.
    pub offset: u64,
    /// Number of the first frame; the others count up.
    pub first: u64,
    /// Raw length and stored length (header and tag included) of each frame.
    pub frames: Vec<(u32, u32)>,
}

/// Where one frame lies and what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FramePlace {
    /// First byte of the stream that it holds.
    pub stream: u64,
    /// How many bytes of the stream.
    pub raw_len: u32,
    /// Number of the pack in its layer.
    pub pack: u32,
    /// Size of the whole pack in bytes.
    pub pack_size: u64,
    /// Which of the layer's lanes sealed it.
    pub lane: u32,
    /// Offset in the pack.
    pub offset: u64,
    /// Length there, header and tag included.
    pub len: u32,
    /// Number of the frame in its lane.
    pub number: u64,
}

/// A table's fence needs no key beside the stream offset.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ByStream;

impl FenceKey for ByStream {
    const LEAF: NodeKind = NodeKind::FrameTable;
    const FENCE: NodeKind = NodeKind::TableFence;

    fn put(&self, _: &mut Vec<u8>, _: &mut Vec<u8>) {}

    fn get(_: &mut Reader<'_>, _: &mut Vec<u8>) -> Result<Self> {
        Ok(Self)
    }
}

/// Writes the frame table, a pack at a time.
#[derive(Debug, Clone, Default)]
pub struct FrameTableWriter {
    fences: Fences<ByStream>,
    bytes: Vec<u8>,
    start: u64,
    stream: u64,
}

impl FrameTableWriter {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next pack.
    ///
    /// # Errors
    /// When the sink fails.
    pub fn push<S: NodeSink>(&mut self, sink: &mut S, pack: &PackFrames) -> Result<(), S::Error> {
        if self.bytes.is_empty() {
            self.start = self.stream;
            put_varint(&mut self.bytes, self.stream);
        }
        let count = pack.frames.len() as u64;
        for field in
            [u64::from(pack.pack), pack.pack_size, u64::from(pack.lane), pack.offset, pack.first, count]
        {
            put_varint(&mut self.bytes, field);
        }
        for (raw, stored) in &pack.frames {
            put_varint(&mut self.bytes, u64::from(*raw));
            put_varint(&mut self.bytes, u64::from(*stored));
            self.stream += u64::from(*raw);
        }
        if self.bytes.len() >= TARGET_NODE_BYTES { self.close(sink) } else { Ok(()) }
    }

    fn close<S: NodeSink>(&mut self, sink: &mut S) -> Result<(), S::Error> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        let raw = std::mem::take(&mut self.bytes);
        self.fences.add_leaf(sink, ByStream, self.start, &raw)
    }

    /// Closes all nodes. Gives the root (`None` for a table without packs) and the length of the stream in bytes.
    ///
    /// # Errors
    /// When the sink fails.
    pub fn finish<S: NodeSink>(mut self, sink: &mut S) -> Result<(Option<Root>, u64), S::Error> {
        self.close(sink)?;
        Ok((self.fences.finish(sink)?, self.stream))
    }
}

/// Reads the frame table from first to last: the bytes of one node in memory.
#[derive(Debug)]
pub struct FrameCursor {
    walk: Walk<ByStream>,
    /// Where in the stream this table begins.
    begun: Option<u64>,
    table: Vec<u8>,
    at: usize,
    /// The pack that was come to last.
    pack: Option<u32>,
    /// How many frames of this pack are left.
    left: usize,
    /// The next one, but for its lengths.
    next: FramePlace,
}

impl FrameCursor {
    /// Begins at the first frame below `root`.
    pub fn new(root: Option<Root>) -> Self {
        let next = FramePlace {
            stream: 0,
            raw_len: 0,
            pack: 0,
            pack_size: 0,
            lane: 0,
            offset: 0,
            len: 0,
            number: 0,
        };
        Self { walk: Walk::new(root), begun: None, table: Vec::new(), at: 0, pack: None, left: 0, next }
    }

    /// The next frame; `None` at the end.
    ///
    /// # Errors
    /// When the table is damaged, or the source fails. There is no going on after that.
    pub fn next_frame<S: NodeSource>(&mut self, source: &mut S) -> Result<Option<FramePlace>, S::Error> {
        loop {
            if self.left > 0 {
                return Ok(Some(self.read_frame()?));
            }
            if self.at < self.table.len() {
                self.read_pack()?;
            } else if !self.next_table(source)? {
                return Ok(None);
            }
        }
    }

    fn next_table<S: NodeSource>(&mut self, source: &mut S) -> Result<bool, S::Error> {
        let Some((raw, claim)) = self.walk.next_leaf(source)? else { return Ok(false) };
        let mut reader = Reader::new("frame table", &raw);
        if raw.len() > MAX_TABLE_BYTES {
            return Err(reader.damaged("it is too large").into());
        }
        let stream = self.next.stream;
        if claim.is_some_and(|(_, said)| said != stream) {
            return Err(reader.damaged("it begins elsewhere than its fence says").into());
        }
        if reader.varint()? != stream {
            return Err(reader.damaged("it begins elsewhere in the stream").into());
        }
        // No table can be given twice, so every walk ends.
        if self.begun.replace(stream) == Some(stream) {
            return Err(reader.damaged("the table before it has no frames").into());
        }
        self.at = reader.position();
        self.table = raw;
        Ok(true)
    }

    fn read_pack(&mut self) -> Result<()> {
        let mut reader = Reader::resume("frame table", &self.table, self.at);
        let (pack, pack_size, lane) = (reader.u32()?, reader.varint()?, reader.u32()?);
        let (offset, number) = (reader.varint()?, reader.varint()?);
        self.left = reader.count(MAX_FRAMES_A_PACK)?;
        if self.pack.replace(pack).is_some_and(|last| last >= pack) {
            return Err(reader.damaged("its packs are not in order"));
        }
        self.next = FramePlace { pack, pack_size, lane, offset, number, ..self.next };
        self.at = reader.position();
        Ok(())
    }

    fn read_frame(&mut self) -> Result<FramePlace> {
        let mut reader = Reader::resume("frame table", &self.table, self.at);
        let (raw_len, len) = (reader.u32()?, reader.u32()?);
        let payload = len.checked_sub(FRAME_OVERHEAD);
        if !(1..=MAX_RAW_BYTES).contains(&raw_len) || payload.is_none_or(|payload| payload > raw_len) {
            return Err(reader.damaged("a frame is empty or too large"));
        }
        let frame = FramePlace { raw_len, len, ..self.next };
        let next = (
            frame.offset.checked_add(u64::from(len)),
            frame.number.checked_add(1),
            frame.stream.checked_add(u64::from(raw_len)),
        );
        let (Some(offset), Some(number), Some(stream)) = next else {
            return Err(reader.damaged("a number is too large"));
        };
        if offset > frame.pack_size {
            return Err(reader.damaged("a frame lies behind the end of its pack"));
        }
        self.next = FramePlace { offset, number, stream, ..self.next };
        self.left -= 1;
        self.at = reader.position();
        Ok(frame)
    }
}
