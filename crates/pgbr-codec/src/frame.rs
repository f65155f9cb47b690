//! Frames: compress, then seal; check, then decompress.

use std::fmt;
use std::sync::Arc;

use ring::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::keys::{KEY_LEN, Secret};
use crate::{
    Codec, Compressor, Decompressor, Error, FRAME_HEADER_LEN, FRAME_OVERHEAD, FrameHeader, FrameKind,
    KeyMode, LANE_HEADER_LEN, MAX_RAW, ObjectHeader, Result, TAG_LEN,
};

/// The key of one lane and object kind: enough to seal and open its frames, and nothing else of the repository.
///
/// This is what a worker on another host gets instead of the [`crate::Keyring`]: it cannot read older objects with it. Without
/// encryption it is the key of the tags, which follows from the repository id and is no secret.
#[derive(Clone)]
pub struct LaneKey {
    header: ObjectHeader,
    key: Key,
}

/// What seals the frames of a lane.
#[derive(Clone)]
pub(crate) enum Key {
    /// All of them.
    One(Secret),
    /// Key mode 2: those of content, and the one that ends an object and says what is in it. Which of them are here says what its holder
    /// may open.
    Apart { content: Option<Secret>, end: Option<Secret> },
}

impl LaneKey {
    pub(crate) fn new(header: ObjectHeader, key: Key) -> Self {
        Self { header: ObjectHeader { attempt: 0, pack: 0, ..header }, key }
    }

    /// The key that came from elsewhere, of the lane with this header. In key mode 2 it seals and opens content, and does not end an object.
    pub fn from_bytes(header: ObjectHeader, bytes: [u8; KEY_LEN]) -> Self {
        let bytes = Zeroizing::new(bytes);
        let key = match header.mode {
            KeyMode::PublicKey => Key::Apart { content: Some(bytes), end: None },
            KeyMode::None | KeyMode::RepositoryKey => Key::One(bytes),
        };
        Self::new(header, key)
    }

    /// Its bytes, to be handed to a worker over a connection that keeps them secret; none where it does not open content.
    pub fn as_bytes(&self) -> Option<&[u8; KEY_LEN]> {
        match &self.key {
            Key::One(key) => Some(key),
            Key::Apart { content, .. } => content.as_deref(),
        }
    }

    /// The header of an object in this lane, with attempt and number 0.
    pub fn header(&self) -> &ObjectHeader {
        &self.header
    }

    /// A sealer of this lane. Whoever shares a lane shares out the frame numbers, so that none is used twice.
    pub fn sealer(&self) -> Sealer {
        Sealer(Arc::new(Lane::new(self)))
    }

    /// An opener of this lane.
    pub fn opener(&self) -> Opener {
        Opener(Arc::new(Lane::new(self)))
    }
}

impl fmt::Debug for LaneKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LaneKey").field("header", &self.header).finish_non_exhaustive()
    }
}

/// A lane's key, ready for use, and what its frames are bound to.
struct Lane {
    header: ObjectHeader,
    lane_header: [u8; LANE_HEADER_LEN],
    content: Option<Primitive>,
    /// Where it is not that of the content.
    end: Option<Primitive>,
}

enum Primitive {
    /// Keyed BLAKE3 tags over plain payloads.
    Plain(Secret),
    Aes(Box<LessSafeKey>),
}

impl Lane {
    fn new(LaneKey { header, key }: &LaneKey) -> Self {
        let primitive = |key: &Secret| match header.mode {
            KeyMode::None => Primitive::Plain(key.clone()),
            KeyMode::RepositoryKey | KeyMode::PublicKey => {
                let key = UnboundKey::new(&aead::AES_256_GCM, &key[..]);
                Primitive::Aes(Box::new(LessSafeKey::new(key.expect("a key of 32 bytes is one for AES-256"))))
            }
        };
        let (content, end) = match key {
            Key::One(key) => (Some(primitive(key)), None),
            Key::Apart { content, end } => (content.as_ref().map(primitive), end.as_ref().map(primitive)),
        };
        Self { header: *header, lane_header: header.lane_header(), content, end }
    }

    /// What seals and opens frames of this kind, if it is here.
    fn primitive(&self, kind: FrameKind) -> Option<&Primitive> {
        let apart = self.header.mode == KeyMode::PublicKey && kind.is_end();
        if apart { self.end.as_ref() } else { self.content.as_ref() }
    }

    fn associated(&self, header: &[u8; FRAME_HEADER_LEN]) -> [u8; LANE_HEADER_LEN + FRAME_HEADER_LEN] {
        let mut bytes = [0; LANE_HEADER_LEN + FRAME_HEADER_LEN];
        bytes[..LANE_HEADER_LEN].copy_from_slice(&self.lane_header);
        bytes[LANE_HEADER_LEN..].copy_from_slice(header);
        bytes
    }

    /// Encrypts the payload in place where the repository is encrypted, and gives the tag.
    fn seal(&self, header: &FrameHeader, payload: &mut [u8]) -> Result<[u8; TAG_LEN]> {
        let associated = self.associated(&header.encode());
        let missing = Error::Unwritable { reason: "the key of the lane does not seal such frames" };
        match self.primitive(header.kind).ok_or(missing)? {
            Primitive::Plain(key) => Ok(plain_tag(key, &associated, payload)),
            Primitive::Aes(key) => {
                let tag = key
                    .seal_in_place_separate_tag(nonce(header), Aad::from(associated), payload)
                    .map_err(|_| Error::Crypto { primitive: "AES-256-GCM" })?;
                tag.as_ref().try_into().map_err(|_| Error::Crypto { primitive: "AES-256-GCM" })
            }
        }
    }

    /// Checks the tag at the end of `sealed` and decrypts the payload before it in place.
    fn open<'a>(&self, header: &FrameHeader, sealed: &'a mut [u8]) -> Result<&'a [u8]> {
        let associated = self.associated(&header.encode());
        let mismatch = Error::TagMismatch { kind: header.kind, number: header.number };
        match self.primitive(header.kind).ok_or(Error::WriteOnly { kind: self.header.kind })? {
            Primitive::Plain(key) => match sealed.split_last_chunk::<TAG_LEN>() {
                Some((payload, tag)) if plain_tag(key, &associated, payload) == *tag => Ok(payload),
                _ => Err(mismatch),
            },
            Primitive::Aes(key) => match key.open_in_place(nonce(header), Aad::from(associated), sealed) {
                Ok(payload) => Ok(payload),
                Err(_) => Err(mismatch),
            },
        }
    }
}

/// Seals the frames of one lane and object kind. Cheap to clone, and to share between threads.
///
/// The caller numbers the frames: no number of a frame kind may be sealed twice in a lane, with whatever content. A retry of
/// a write sends the bytes that were sealed the first time.
#[derive(Clone)]
pub struct Sealer(Arc<Lane>);

impl Sealer {
    /// The header of an object in this lane; attempt and number are those of a pack, else 0.
    pub fn header(&self, attempt: u64, pack: u32) -> ObjectHeader {
        ObjectHeader { attempt, pack, ..self.0.header }
    }

    /// Makes a whole frame: header, payload, tag.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`] above [`MAX_RAW`], [`Error::Compress`], and [`Error::Unwritable`] for a kind of frame that does not
    /// belong in this kind of object.
    pub fn seal(
        &self,
        compressor: &mut Compressor,
        kind: FrameKind,
        number: u64,
        raw: &[u8],
    ) -> Result<Vec<u8>> {
        Error::check_bound("frame", raw.len(), MAX_RAW)?;
        let mut frame = Vec::with_capacity(FRAME_OVERHEAD + compressor.room(raw.len()));
        self.seal_into(compressor, kind, number, raw, &mut frame)?;
        Ok(frame)
    }

    /// Makes a whole frame of what [`Compressor::compress`] made of `raw_len` bytes: for content that goes into several lanes.
    ///
    /// # Errors
    ///
    /// As [`Sealer::seal`].
    pub fn seal_compressed(
        &self,
        kind: FrameKind,
        number: u64,
        raw_len: usize,
        codec: Codec,
        payload: &[u8],
    ) -> Result<Vec<u8>> {
        Error::check_bound("frame", raw_len, MAX_RAW)?;
        let mut frame = Vec::with_capacity(FRAME_OVERHEAD + payload.len());
        self.seal_packed(kind, number, (codec, raw_len), payload, &mut frame)?;
        Ok(frame)
    }

    /// Appends a whole frame to `out`, as [`Sealer::seal`] makes it.
    ///
    /// # Errors
    ///
    /// As [`Sealer::seal`]; `out` is as before then.
    pub fn seal_into(
        &self,
        compressor: &mut Compressor,
        kind: FrameKind,
        number: u64,
        raw: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<()> {
        if !kind.belongs_in(self.0.header.kind) {
            return Err(Error::Unwritable { reason: "frames of this kind do not stand in such an object" });
        }
        let start = out.len();
        out.extend_from_slice(&[0; FRAME_HEADER_LEN]);
        self.fill(compressor, kind, number, raw, out, start).inspect_err(|_| out.truncate(start))
    }

    /// Puts payload and tag behind the place for the header at `start`, and then the header.
    fn fill(
        &self,
        compressor: &mut Compressor,
        kind: FrameKind,
        number: u64,
        raw: &[u8],
        out: &mut Vec<u8>,
        start: usize,
    ) -> Result<()> {
        let codec = compressor.compress(raw, out)?;
        self.close(kind, number, codec, raw.len(), out, start)
    }

    /// Appends a whole frame to `out` whose payload was compressed before: it may be sealed for several lanes.
    ///
    /// # Errors
    ///
    /// As [`Sealer::seal`]; `out` is as before then.
    pub(crate) fn seal_packed(
        &self,
        kind: FrameKind,
        number: u64,
        (codec, raw_len): (Codec, usize),
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<()> {
        if !kind.belongs_in(self.0.header.kind) {
            return Err(Error::Unwritable { reason: "frames of this kind do not stand in such an object" });
        }
        let start = out.len();
        out.extend_from_slice(&[0; FRAME_HEADER_LEN]);
        out.extend_from_slice(payload);
        self.close(kind, number, codec, raw_len, out, start).inspect_err(|_| out.truncate(start))
    }

    /// Seals the payload behind the place for the header at `start`, and puts the header there.
    fn close(
        &self,
        kind: FrameKind,
        number: u64,
        codec: Codec,
        raw_len: usize,
        out: &mut Vec<u8>,
        start: usize,
    ) -> Result<()> {
        let payload = start + FRAME_HEADER_LEN;
        let header = FrameHeader {
            kind,
            codec,
            raw_len: length(raw_len)?,
            payload_len: length(out.len() - payload)?,
            number,
        };
        out[start..payload].copy_from_slice(&header.encode());
        let tag = self.0.seal(&header, &mut out[payload..])?;
        out.extend_from_slice(&tag);
        Ok(())
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sealer").field(&self.0.header).finish()
    }
}

/// Opens the frames of one lane and object kind. Cheap to clone, and to share between threads.
#[derive(Clone)]
pub struct Opener(Arc<Lane>);

impl Opener {
    /// Checks a whole frame that should be of this kind and number, and appends its raw bytes to `out`.
    ///
    /// `frame` is decrypted in place: it holds no frame afterwards, whether this succeeds or not. Nothing is decompressed or
    /// allocated before the tag was found right.
    ///
    /// # Errors
    ///
    /// Whatever [`FrameHeader::parse`] finds; [`Error::OtherFrame`], [`Error::Truncated`] and [`Error::CorruptObject`] where
    /// kind, number or length are not as they should; [`Error::WriteOnly`] for content where the key does not open it;
    /// [`Error::TagMismatch`]; [`Error::Decompress`]. `out` is as before then.
    pub fn open(
        &self,
        decompressor: &mut Decompressor,
        frame: &mut [u8],
        kind: FrameKind,
        number: u64,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let header = self.check(frame, kind, number)?;
        let payload = self.0.open(&header, &mut frame[FRAME_HEADER_LEN..])?;
        match header.codec {
            Codec::None => out.extend_from_slice(payload),
            codec => decompressor.decompress(codec, payload, header.raw_len as usize, out)?,
        }
        Ok(())
    }

    /// Checks a whole frame as [`Opener::open`] does, and appends it to `out` as a frame of another lane, under another number: of the same
    /// length, for the payload stays compressed as it is. What the payload decompresses to is not looked at.
    ///
    /// The number must be one that the other lane has not sealed. `frame` is decrypted in place.
    ///
    /// # Errors
    ///
    /// As [`Opener::open`], without [`Error::Decompress`]; [`Error::Unwritable`] where the other lane is of objects that have no such frames.
    pub fn reseal(
        &self,
        frame: &mut [u8],
        (kind, number): (FrameKind, u64),
        sealer: &Sealer,
        new_number: u64,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        if !kind.belongs_in(sealer.0.header.kind) {
            return Err(Error::Unwritable { reason: "frames of this kind do not stand in such an object" });
        }
        let header = self.check(frame, kind, number)?;
        let payload = self.0.open(&header, &mut frame[FRAME_HEADER_LEN..])?;
        let header = FrameHeader { number: new_number, ..header };
        out.extend_from_slice(&header.encode());
        let start = out.len();
        out.extend_from_slice(payload);
        let tag = sealer.0.seal(&header, &mut out[start..])?;
        out.extend_from_slice(&tag);
        Ok(())
    }

    /// The header of a frame that is whole, and of this kind and number.
    fn check(&self, frame: &[u8], kind: FrameKind, number: u64) -> Result<FrameHeader> {
        let header = FrameHeader::parse(frame)?;
        if (header.kind, header.number) != (kind, number) || !kind.belongs_in(self.0.header.kind) {
            return Err(Error::OtherFrame {
                expected: kind,
                expected_number: number,
                found: header.kind,
                found_number: header.number,
            });
        }
        let (need, have) = (header.frame_len(), frame.len());
        if have < need {
            return Err(Error::Truncated { what: "frame", need: need as u64, have: have as u64 });
        }
        if have > need {
            return Err(Error::corrupt("frame", "bytes behind the end"));
        }
        Ok(header)
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Opener").field(&self.0.header).finish()
    }
}

fn nonce(header: &FrameHeader) -> Nonce {
    let mut bytes = [0; aead::NONCE_LEN];
    bytes[0] = header.kind as u8;
    bytes[4..].copy_from_slice(&header.number.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

fn plain_tag(key: &Secret, associated: &[u8], payload: &[u8]) -> [u8; TAG_LEN] {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(associated).update(payload);
    let mut tag = [0; TAG_LEN];
    tag.copy_from_slice(&hasher.finalize().as_bytes()[..TAG_LEN]);
    tag
}

fn length(len: usize) -> Result<u32> {
    u32::try_from(len).map_err(|_| Error::TooLarge { what: "frame", len: len as u64, max: MAX_RAW as u64 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Compression, KeyId, Keyring, LaneSeed, ObjectKind, RepositoryId, RepositoryKey};

    #[test]
    fn frames_go_from_lane_to_lane_as_they_are() {
        let plain = Keyring::plain(RepositoryId::from_bytes([1; 16]));
        let (id, key) = (RepositoryId::from_bytes([2; 16]), RepositoryKey::from_bytes([3; 32]));
        let sealed = Keyring::sealed(id, KeyId::from_bytes([4; 16]), &key);
        let raw = b"grain".repeat(2000);
        let number = (FrameKind::Data, 7);
        let written = sealed.clone().for_writers();
        let both = [
            (&plain, &sealed),
            (&sealed, &plain),
            (&sealed, &sealed),
            (&sealed, &written),
            (&written, &plain),
        ];
        for (from, to) in both {
            for codec in [Codec::None, Codec::Zst] {
                let seed = |byte| LaneSeed::from_bytes([byte; 32]);
                let (source, target) = (
                    from.lane_key(ObjectKind::DataPack, seed(5)).unwrap(),
                    to.lane_key(ObjectKind::DataPack, seed(6)).unwrap(),
                );
                let mut compressor = Compressor::new(Compression::new(codec, None).unwrap()).unwrap();
                let frame = source.sealer().seal(&mut compressor, FrameKind::Data, 7, &raw).unwrap();
                let mut copy = Vec::new();
                source.opener().reseal(&mut frame.clone(), number, &target.sealer(), 9, &mut copy).unwrap();
                assert_eq!(copy.len(), frame.len());
                let (mut back, mut decompressor) = (Vec::new(), Decompressor::new());
                target.opener().open(&mut decompressor, &mut copy, FrameKind::Data, 9, &mut back).unwrap();
                assert_eq!(back, raw);

                let mut damaged = frame.clone();
                damaged[30] ^= 1;
                let mut out = Vec::new();
                let refused = source.opener().reseal(&mut damaged, number, &target.sealer(), 9, &mut out);
                assert!(matches!(refused, Err(Error::TagMismatch { .. })) && out.is_empty());
                let index = to.sealer(ObjectKind::IndexPack, seed(6)).unwrap();
                let refused = source.opener().reseal(&mut frame.clone(), number, &index, 9, &mut out);
                assert!(matches!(refused, Err(Error::Unwritable { .. })));
            }
        }
    }
}
