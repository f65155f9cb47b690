//! Packs: many frames in one object, and the footer that says what is in it.

use std::fmt;

use bytes::Bytes;

use crate::cursor::{Cursor, put_varint};
use crate::{
    Compressor, Decompressor, Error, FRAME_OVERHEAD, FrameHeader, FrameKind, Keyring, MAX_RAW,
    OBJECT_HEADER_LEN, ObjectHeader, ObjectKind, Result, Sealer,
};

/// Length of what stands behind the footer frame, at the very end of a pack.
pub const PACK_TRAILER_LEN: usize = 16;

const TRAILER_MAGIC: [u8; 8] = *b"PGBREND1";
const FOOTER: &str = "pack footer";

/// Builds one pack in memory.
pub struct PackBuilder {
    header: ObjectHeader,
    bytes: Vec<u8>,
    runs: Vec<FrameRun>,
    frames: usize,
}

impl PackBuilder {
    /// A pack of the sealer's lane, with room for `capacity` bytes of frames; it grows past that if it must.
    pub fn new(sealer: &Sealer, attempt: u64, number: u32, capacity: usize) -> Self {
        let header = sealer.header(attempt, number);
        // Room for the footer too, so that finishing does not move 16 MiB.
        let mut bytes = Vec::with_capacity(OBJECT_HEADER_LEN + capacity + capacity / 256 + 4096);
        bytes.extend_from_slice(&header.encode());
        Self { header, bytes, runs: Vec::new(), frames: 0 }
    }

    /// Appends a frame that the same lane's sealer made, and gives its offset in the pack.
    ///
    /// # Errors
    ///
    /// [`Error::Unwritable`] if these bytes are not exactly one frame of a kind that such a pack holds, or what
    /// [`FrameHeader::parse`] finds.
    pub fn push(&mut self, frame: &[u8]) -> Result<u64> {
        let header = FrameHeader::parse(frame)?;
        if header.frame_len() != frame.len() {
            return Err(Error::Unwritable { reason: "a frame has another length than its header says" });
        }
        if header.kind == FrameKind::PackFooter || !header.kind.belongs_in(self.header.kind) {
            return Err(Error::Unwritable { reason: "frames of this kind do not stand in such a pack" });
        }
        let size = FrameSize { raw: header.raw_len, frame: header.payload_len + OVERHEAD };
        match self.runs.last_mut() {
            Some(run) if run.kind == header.kind && run.next() == Some(header.number) => {
                run.frames.push(size);
            }
            _ => self.runs.push(FrameRun { kind: header.kind, first: header.number, frames: vec![size] }),
        }
        let offset = self.bytes.len() as u64;
        self.bytes.extend_from_slice(frame);
        self.frames += 1;
        Ok(offset)
    }

    /// Bytes so far, with the object header and without a footer.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether no frame was pushed.
    pub fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// Number of frames so far.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// The header that the pack begins with: attempt, number, lane.
    pub fn header(&self) -> &ObjectHeader {
        &self.header
    }

    /// Seals the footer and gives the whole object. `rows` are index records that cover its frames; none in an index pack.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`] if the footer is above a frame's bound, [`Error::Unwritable`] for rows in an index pack or a sealer
    /// of another lane, and whatever [`Sealer::seal`] gives.
    pub fn finish(self, sealer: &Sealer, compressor: &mut Compressor, rows: &[u8]) -> Result<Bytes> {
        let Self { header, mut bytes, runs, .. } = self;
        if header.kind == ObjectKind::IndexPack && !rows.is_empty() {
            return Err(Error::Unwritable { reason: "an index pack has no rows" });
        }
        if sealer.header(header.attempt, header.pack) != header {
            return Err(Error::Unwritable { reason: "the footer's sealer is of another lane than the pack" });
        }
        let raw = encode_footer(&header, &runs, rows);
        let start = bytes.len();
        sealer.seal_into(compressor, FrameKind::PackFooter, footer_number(&header), &raw, &mut bytes)?;
        let footer_len = bytes.len() - start;
        let footer_len = u32::try_from(footer_len).map_err(|_| too_large(FOOTER, footer_len as u64))?;
        bytes.extend_from_slice(&footer_len.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&TRAILER_MAGIC);
        Ok(bytes.into())
    }
}

impl fmt::Debug for PackBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackBuilder")
            .field("header", &self.header)
            .field("len", &self.bytes.len())
            .field("frames", &self.frames)
            .finish_non_exhaustive()
    }
}

/// Frames of one kind with consecutive numbers that stand one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameRun {
    /// The kind of all of them.
    pub kind: FrameKind,
    /// The number of the first.
    pub first: u64,
    /// Their sizes, at least one.
    pub frames: Vec<FrameSize>,
}

impl FrameRun {
    /// The number behind the last, if there is one.
    fn next(&self) -> Option<u64> {
        self.first.checked_add(self.frames.len() as u64)
    }
}

/// How long a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameSize {
    /// Bytes before compression.
    pub raw: u32,
    /// Bytes in the pack: header, payload and tag.
    pub frame: u32,
}

/// Where a frame stands in its pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FramePlace {
    /// The frame's kind.
    pub kind: FrameKind,
    /// Its number.
    pub number: u64,
    /// Its first byte in the pack.
    pub offset: u64,
    /// How long it is.
    pub size: FrameSize,
}

/// What a pack's footer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackFooter {
    /// The run that made the pack.
    pub attempt: u64,
    /// The pack's number in the run.
    pub number: u32,
    /// Its frames, in the order in which they stand, back to back from [`OBJECT_HEADER_LEN`].
    pub runs: Vec<FrameRun>,
    /// Index records that cover its frames; empty in an index pack.
    pub rows: Vec<u8>,
}

impl PackFooter {
    /// How many bytes at the end of a pack hold footer frame and trailer, from at least its last 16 bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`], [`Error::BadMagic`], [`Error::CorruptObject`] for a length that does not fit in an object of
    /// `total` bytes, [`Error::TooLarge`] for one above a frame's bound.
    pub fn tail_len(tail: &[u8], total: u64) -> Result<u64> {
        const WHAT: &str = "pack trailer";
        let Some(trailer) = tail.last_chunk::<PACK_TRAILER_LEN>() else {
            return Err(Error::Truncated {
                what: WHAT,
                need: PACK_TRAILER_LEN as u64,
                have: tail.len() as u64,
            });
        };
        let mut fields = Cursor::new(trailer, WHAT);
        let footer_len = u64::from(fields.u32()?);
        let reserved = fields.u32()?;
        if fields.array()? != TRAILER_MAGIC {
            return Err(Error::BadMagic { what: WHAT });
        }
        if reserved != 0 {
            return Err(Error::corrupt(WHAT, "reserved bytes are not zero"));
        }
        if footer_len > (MAX_RAW + FRAME_OVERHEAD) as u64 {
            return Err(too_large(FOOTER, footer_len));
        }
        let len = footer_len + PACK_TRAILER_LEN as u64;
        if footer_len < FRAME_OVERHEAD as u64 || len + OBJECT_HEADER_LEN as u64 > total {
            return Err(Error::corrupt(WHAT, "the footer does not fit in the pack"));
        }
        Ok(len)
    }

    /// Reads the footer from a pack's header and its last bytes; `total` is the length of the whole pack.
    ///
    /// # Errors
    ///
    /// [`Error::TailTooShort`] if `tail` does not reach back to the footer's begin: read again, so many bytes. Everything that
    /// [`Keyring::opener`], [`PackFooter::tail_len`] and [`crate::Opener::open`] give, and [`Error::CorruptObject`] for a footer
    /// that contradicts itself, the header or the length of the pack.
    pub fn read(keyring: &Keyring, header: &ObjectHeader, tail: &[u8], total: u64) -> Result<Self> {
        if !header.kind.is_pack() {
            return Err(Error::OtherObject { expected: ObjectKind::DataPack, found: header.kind });
        }
        let opener = keyring.opener(header)?;
        let need = Self::tail_len(tail, total)?;
        let have = tail.len() as u64;
        if have > total {
            return Err(Error::corrupt(FOOTER, "the tail is longer than the pack"));
        }
        let short = Error::TailTooShort { need, have };
        let (Ok(need), Some(frame_end)) = (usize::try_from(need), tail.len().checked_sub(PACK_TRAILER_LEN))
        else {
            return Err(short);
        };
        let Some(mut frame) =
            tail.len().checked_sub(need).and_then(|at| tail.get(at..frame_end)).map(<[u8]>::to_vec)
        else {
            return Err(short);
        };
        let mut raw = Vec::new();
        let mut decompressor = Decompressor::new();
        opener.open(&mut decompressor, &mut frame, FrameKind::PackFooter, footer_number(header), &mut raw)?;
        parse_footer(header, &raw, total - need as u64)
    }

    /// Reads the footer of a whole pack in memory.
    ///
    /// # Errors
    ///
    /// As [`ObjectHeader::parse`] and [`PackFooter::read`].
    pub fn read_object(keyring: &Keyring, object: &[u8]) -> Result<Self> {
        Self::read(keyring, &ObjectHeader::parse(object)?, object, object.len() as u64)
    }

    /// Every frame with its place, in order.
    pub fn places(&self) -> impl Iterator<Item = FramePlace> + '_ {
        let mut offset = OBJECT_HEADER_LEN as u64;
        let numbered = self.runs.iter().flat_map(|run| {
            (run.first..).zip(&run.frames).map(move |(number, &size)| (run.kind, number, size))
        });
        numbered.map(move |(kind, number, size)| {
            let place = FramePlace { kind, number, offset, size };
            offset += u64::from(size.frame);
            place
        })
    }
}

const OVERHEAD: u32 = 40;
const _: () = assert!(OVERHEAD as usize == FRAME_OVERHEAD, "the same number in another type");

/// The footer frame's number: those of index packs are apart from those of data packs.
fn footer_number(header: &ObjectHeader) -> u64 {
    let base = if header.kind == ObjectKind::IndexPack { 1 << 63 } else { 0 };
    base + u64::from(header.pack)
}

fn encode_footer(header: &ObjectHeader, runs: &[FrameRun], rows: &[u8]) -> Vec<u8> {
    let frames: usize = runs.iter().map(|run| run.frames.len()).sum();
    let mut raw = Vec::with_capacity(64 + 24 * runs.len() + 8 * frames + rows.len());
    raw.extend_from_slice(&header.attempt.to_le_bytes());
    raw.extend_from_slice(&header.pack.to_le_bytes());
    raw.extend_from_slice(&[0; 4]);
    put_varint(&mut raw, runs.len() as u64);
    for run in runs {
        raw.push(run.kind as u8);
        put_varint(&mut raw, run.first);
        put_varint(&mut raw, run.frames.len() as u64);
        for size in &run.frames {
            put_varint(&mut raw, size.raw.into());
            put_varint(&mut raw, size.frame.into());
        }
    }
    put_varint(&mut raw, rows.len() as u64);
    raw.extend_from_slice(rows);
    raw
}

/// Reads the footer's raw bytes; `frames_end` is where the footer frame begins.
fn parse_footer(header: &ObjectHeader, raw: &[u8], frames_end: u64) -> Result<PackFooter> {
    let mut fields = Cursor::new(raw, FOOTER);
    let (attempt, number) = (fields.u64()?, fields.u32()?);
    fields.zeros::<4>()?;
    if (attempt, number) != (header.attempt, header.pack) {
        return Err(Error::corrupt(FOOTER, "attempt or number is not that of the header"));
    }
    let count = fields.varint()?;
    let mut runs = Vec::new();
    // Bytes of the pack that no frame was found for: what is allocated follows from the size of the pack.
    let mut left = frames_end.saturating_sub(OBJECT_HEADER_LEN as u64);
    for _ in 0..count {
        runs.push(parse_run(&mut fields, header.kind, &mut left)?);
    }
    if left != 0 {
        return Err(Error::corrupt(FOOTER, "the frames' lengths do not add up to its place"));
    }
    let rows_len = fields.varint()?;
    let rows = fields.bytes(rows_len)?.to_vec();
    fields.end()?;
    if header.kind == ObjectKind::IndexPack && !rows.is_empty() {
        return Err(Error::corrupt(FOOTER, "rows in an index pack"));
    }
    Ok(PackFooter { attempt, number, runs, rows })
}

/// Reads one run, and takes its frames' lengths off `left`.
fn parse_run(fields: &mut Cursor<'_>, object: ObjectKind, left: &mut u64) -> Result<FrameRun> {
    let kind = FrameKind::from_byte(fields.u8()?)?;
    if kind == FrameKind::PackFooter || !kind.belongs_in(object) {
        return Err(Error::corrupt(FOOTER, "frames that do not stand in such a pack"));
    }
    let (first, count) = (fields.varint()?, fields.varint()?);
    let most = (fields.left() / 2).min(usize::try_from(*left / FRAME_OVERHEAD as u64).unwrap_or(usize::MAX));
    let Some(room) = usize::try_from(count).ok().filter(|count| (1..=most).contains(count)) else {
        return Err(Error::corrupt(FOOTER, "no frames in a run, or more than there is room for"));
    };
    if first.checked_add(count - 1).is_none() {
        return Err(Error::corrupt(FOOTER, "frame numbers above 64 bits"));
    }
    let mut frames = Vec::with_capacity(room);
    for _ in 0..count {
        let size = parse_size(fields)?;
        let Some(rest) = left.checked_sub(size.frame.into()) else {
            return Err(Error::corrupt(FOOTER, "more frames than there is room for"));
        };
        *left = rest;
        frames.push(size);
    }
    Ok(FrameRun { kind, first, frames })
}

fn parse_size(fields: &mut Cursor<'_>) -> Result<FrameSize> {
    let (raw, frame) = (fields.varint()?, fields.varint()?);
    if raw > MAX_RAW as u64 {
        return Err(too_large("frame", raw));
    }
    let (Ok(raw), Ok(frame)) = (u32::try_from(raw), u32::try_from(frame)) else {
        return Err(too_large("frame", frame));
    };
    if frame < OVERHEAD || frame - OVERHEAD > raw {
        return Err(Error::corrupt(FOOTER, "frame length and raw length do not fit"));
    }
    Ok(FrameSize { raw, frame })
}

fn too_large(what: &'static str, len: u64) -> Error {
    Error::TooLarge { what, len, max: MAX_RAW as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Codec, Compression, LaneSeed, RepositoryId};

    fn header(kind: ObjectKind) -> ObjectHeader {
        let ring = Keyring::plain(RepositoryId::from_bytes([1; 16]));
        ring.sealer(kind, LaneSeed::from_bytes([2; 32])).unwrap().header(7, 3)
    }

    fn one_run(kind: u8, first: u64, count: u64, sizes: &[(u64, u64)]) -> Vec<u8> {
        let mut raw = vec![7, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 1, kind];
        put_varint(&mut raw, first);
        put_varint(&mut raw, count);
        for &(raw_len, frame_len) in sizes {
            put_varint(&mut raw, raw_len);
            put_varint(&mut raw, frame_len);
        }
        raw.push(0);
        raw
    }

    #[test]
    fn footers_that_contradict_themselves_are_refused() {
        let data = header(ObjectKind::DataPack);
        assert!(parse_footer(&data, &one_run(1, 5, 2, &[(10, 50), (20, 41)]), 96 + 91).is_ok());
        assert!(parse_footer(&data, &one_run(1, u64::MAX - 1, 2, &[(10, 50), (20, 41)]), 96 + 91).is_ok());
        for (why, raw, end) in [
            ("sum", one_run(1, 5, 2, &[(10, 50), (20, 41)]), 96 + 90),
            ("kind", one_run(2, 5, 2, &[(10, 50), (20, 41)]), 96 + 91),
            ("footer in footer", one_run(6, 5, 1, &[(10, 50)]), 96 + 50),
            ("numbers", one_run(1, u64::MAX, 2, &[(10, 50), (20, 41)]), 96 + 91),
            ("no frames", one_run(1, 5, 0, &[]), 96),
            ("huge count", one_run(1, 5, u64::MAX, &[(10, 50)]), 96 + 50),
            ("frame above raw", one_run(1, 5, 1, &[(10, 51)]), 96 + 51),
            ("frame below overhead", one_run(1, 5, 1, &[(10, 39)]), 96 + 39),
            ("raw above bound", one_run(1, 5, 1, &[(MAX_RAW as u64 + 1, 50)]), 96 + 50),
            ("trailing", [one_run(1, 5, 1, &[(10, 50)]), vec![0]].concat(), 96 + 50),
        ] {
            assert!(parse_footer(&data, &raw, end).is_err(), "{why}");
        }
        let other = ObjectHeader { attempt: 8, ..data };
        assert!(parse_footer(&other, &one_run(1, 5, 1, &[(10, 50)]), 96 + 50).is_err());
        let mut rows = one_run(2, 5, 1, &[(10, 50)]);
        rows.pop();
        rows.extend([1, 0]);
        assert!(
            parse_footer(&header(ObjectKind::IndexPack), &rows, 96 + 50).is_err(),
            "rows in an index pack"
        );
    }

    #[test]
    fn builders_refuse_what_does_not_belong() {
        let ring = Keyring::plain(RepositoryId::from_bytes([1; 16]));
        let sealer = |kind, seed| ring.sealer(kind, LaneSeed::from_bytes([seed; 32])).unwrap();
        let (data, index) = (sealer(ObjectKind::DataPack, 2), sealer(ObjectKind::IndexPack, 2));
        let mut none = Compressor::new(Compression::new(Codec::None, None).unwrap()).unwrap();
        assert!(matches!(data.seal(&mut none, FrameKind::IndexLeaf, 0, b"x"), Err(Error::Unwritable { .. })));

        let leaf = index.seal(&mut none, FrameKind::IndexLeaf, 0, b"x").unwrap();
        let mut pack = PackBuilder::new(&data, 1, 1, 0);
        assert!(matches!(pack.push(&leaf), Err(Error::Unwritable { .. })));
        let frame = data.seal(&mut none, FrameKind::Data, 0, b"x").unwrap();
        assert!(matches!(pack.push(&frame[..frame.len() - 1]), Err(Error::Unwritable { .. })));
        assert!(pack.is_empty());
        assert_eq!(pack.push(&frame).unwrap(), 96);
        assert_eq!((pack.len(), pack.frames()), (96 + 41, 1));
        let other = sealer(ObjectKind::DataPack, 9);
        assert!(matches!(pack.finish(&other, &mut none, b""), Err(Error::Unwritable { .. })));

        let pack = PackBuilder::new(&index, 1, 1, 0);
        assert!(matches!(pack.finish(&index, &mut none, b"rows"), Err(Error::Unwritable { .. })));
    }
}
