//! WAL files: content in pieces, and a trailer that says what they make.

use std::fmt;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use crate::header::decode_hex;
use crate::sealed::open_object;
use crate::slot::{hex, optional_hex};
use crate::{
    Codec, Compression, Compressor, Decompressor, Error, FRAME_HEADER_LEN, FRAME_OVERHEAD, FrameHeader,
    FrameKind, KeyMode, Keyring, OBJECT_HEADER_LEN, ObjectHeader, ObjectKind, Opener, Result, Sealer,
};

/// How many bytes of content a writer puts in one frame.
pub const WAL_PIECE: usize = 2 << 20;

const TRAILER: &str = "WAL trailer";

/// What the end of a stored WAL file says about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct WalTrailer {
    /// The file's name as PostgreSQL gave it.
    pub name: String,
    /// Bytes of content.
    pub size: u64,
    /// BLAKE3 of the content.
    #[serde(with = "hex")]
    pub digest: [u8; 32],
    /// The cluster's system identifier, where the content says it.
    pub system_id: Option<u64>,
    /// Number of content frames.
    pub frames: u64,
    /// BLAKE3 of the object as it is stored, up to the trailer: in key mode 2, so that who cannot open the content sees that it is whole.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "optional_hex")]
    pub stored: Option<[u8; 32]>,
}

impl WalTrailer {
    /// The digest's first 16 hexadecimal digits: the suffix of a second object for the same file name.
    pub fn suffix(&self) -> String {
        HEXLOWER.encode(&self.digest[..8])
    }
}

/// A piece of a WAL file's content, compressed: the same for every repository that the file goes to.
pub struct PackedPiece {
    codec: Codec,
    raw_len: usize,
    payload: Vec<u8>,
}

impl PackedPiece {
    /// Compresses a piece: at most 16 MiB, usually [`WAL_PIECE`].
    ///
    /// # Errors
    ///
    /// As [`Compressor::compress`].
    pub fn new(compressor: &mut Compressor, raw: &[u8]) -> Result<Self> {
        let mut payload = Vec::new();
        let codec = compressor.compress(raw, &mut payload)?;
        payload.shrink_to_fit();
        Ok(Self { codec, raw_len: raw.len(), payload })
    }

    /// How many bytes its frame has.
    pub fn frame_len(&self) -> usize {
        self.payload.len() + FRAME_OVERHEAD
    }
}

impl fmt::Debug for PackedPiece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackedPiece")
            .field("codec", &self.codec)
            .field("raw_len", &self.raw_len)
            .finish_non_exhaustive()
    }
}

/// Seals one WAL file. The object is [`WalSealer::header`], then the pieces in order, then the trailer.
///
/// The frames of every file count from 0: each file needs a lane of its own, with a fresh random salt, also where one process
/// stores many files.
pub struct WalSealer {
    sealer: Sealer,
    digest: blake3::Hasher,
    /// Of the object so far, where the trailer tells it.
    stored: Option<blake3::Hasher>,
    size: u64,
    frames: u64,
}

impl WalSealer {
    /// Begins a file in the lane of this sealer.
    ///
    /// # Errors
    ///
    /// [`Error::OtherObject`] if the sealer is not one for WAL files.
    pub fn new(sealer: Sealer) -> Result<Self> {
        let header = sealer.header(0, 0);
        header.expect_kind(ObjectKind::Wal)?;
        let stored = (header.mode == KeyMode::PublicKey).then(|| {
            let mut stored = blake3::Hasher::new();
            stored.update(&header.encode());
            stored
        });
        Ok(Self { sealer, digest: blake3::Hasher::new(), stored, size: 0, frames: 0 })
    }

    /// The first bytes of the object.
    pub fn header(&self) -> [u8; OBJECT_HEADER_LEN] {
        self.sealer.header(0, 0).encode()
    }

    /// Seals the next piece of the content: at most 16 MiB, usually [`WAL_PIECE`].
    ///
    /// # Errors
    ///
    /// As [`Sealer::seal`].
    pub fn piece(&mut self, compressor: &mut Compressor, raw: &[u8]) -> Result<Vec<u8>> {
        let frame = self.seal_piece(compressor, self.frames, raw)?;
        self.digest.update(raw);
        if let Some(stored) = &mut self.stored {
            stored.update(&frame);
        }
        self.size = self.size.saturating_add(raw.len() as u64);
        self.frames = self.frames.saturating_add(1);
        Ok(frame)
    }

    /// Ends the content that went through [`WalSealer::piece`]: the trailer's frame, and what it says.
    ///
    /// # Errors
    ///
    /// As [`WalSealer::trailer`].
    pub fn finish(self, name: &str, system_id: Option<u64>) -> Result<(Vec<u8>, WalTrailer)> {
        let digest = *self.digest.finalize().as_bytes();
        let stored = self.stored.as_ref().map(|stored| *stored.finalize().as_bytes());
        let (name, size, frames) = (name.to_owned(), self.size, self.frames);
        let trailer = WalTrailer { name, size, digest, system_id, frames, stored };
        Ok((self.seal_trailer(&trailer)?, trailer))
    }

    /// Seals piece `number` for a caller that seals pieces in parallel, and counts and digests the content itself.
    ///
    /// # Errors
    ///
    /// As [`Sealer::seal`].
    pub fn seal_piece(&self, compressor: &mut Compressor, number: u64, raw: &[u8]) -> Result<Vec<u8>> {
        self.sealer.seal(compressor, FrameKind::WalContent, number, raw)
    }

    /// Appends piece `number`, compressed before, to an object: the same frame as [`WalSealer::seal_piece`] makes.
    ///
    /// # Errors
    ///
    /// As [`Sealer::seal`].
    pub fn seal_packed(&self, number: u64, piece: &PackedPiece, object: &mut Vec<u8>) -> Result<()> {
        let of = (piece.codec, piece.raw_len);
        self.sealer.seal_packed(FrameKind::WalContent, number, of, &piece.payload, object)
    }

    /// Seals the trailer for a caller that used [`WalSealer::seal_piece`] or [`WalSealer::seal_packed`]: `object` is what was made so far,
    /// header and frames in order, `digest` is BLAKE3 of the content of `size` bytes in `frames` pieces.
    ///
    /// # Errors
    ///
    /// As [`Sealer::seal`].
    pub fn trailer(
        &self,
        object: &[u8],
        name: &str,
        size: u64,
        digest: [u8; 32],
        system_id: Option<u64>,
        frames: u64,
    ) -> Result<Vec<u8>> {
        let stored = self.stored.as_ref().map(|_| *blake3::hash(object).as_bytes());
        self.seal_trailer(&WalTrailer { name: name.to_owned(), size, digest, system_id, frames, stored })
    }

    fn seal_trailer(&self, trailer: &WalTrailer) -> Result<Vec<u8>> {
        let json = serde_json::to_vec(trailer).map_err(|source| Error::Json { what: TRAILER, source })?;
        self.sealer.seal(&mut Compressor::new(Compression::NONE)?, FrameKind::WalTrailer, 0, &json)
    }
}

impl fmt::Debug for WalSealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WalSealer")
            .field("sealer", &self.sealer)
            .field("size", &self.size)
            .field("frames", &self.frames)
            .finish_non_exhaustive()
    }
}

/// Opens one WAL file frame by frame, as its bytes come, and checks it against its trailer.
///
/// The content is proven complete and right only when a trailer was returned: keep what came before under another name.
pub struct WalOpener {
    opener: Opener,
    decompressor: Decompressor,
    digest: blake3::Hasher,
    size: u64,
    frames: u64,
    ended: bool,
}

impl WalOpener {
    /// Begins with the object's header.
    ///
    /// # Errors
    ///
    /// [`Error::OtherObject`], and as [`Keyring::opener`].
    pub fn new(keyring: &Keyring, header: &ObjectHeader) -> Result<Self> {
        header.expect_kind(ObjectKind::Wal)?;
        Ok(Self::with(keyring.opener(header)?))
    }

    fn with(opener: Opener) -> Self {
        let digest = blake3::Hasher::new();
        Self { opener, decompressor: Decompressor::new(), digest, size: 0, frames: 0, ended: false }
    }

    /// Opens the next frame, in place. A content frame's bytes are appended to `out`; the trailer is checked against all that
    /// came before and returned. Behind it the object must end: the caller checks that there is nothing more.
    ///
    /// # Errors
    ///
    /// As [`Opener::open`]; [`Error::ContentMismatch`] and [`Error::Json`] for a trailer that does not fit.
    pub fn frame(&mut self, frame: &mut [u8], out: &mut Vec<u8>) -> Result<Option<WalTrailer>> {
        if self.ended {
            return Err(Error::corrupt("WAL file", "a frame behind the trailer"));
        }
        if FrameHeader::parse(frame)?.kind == FrameKind::WalTrailer {
            return self.trailer(frame).map(Some);
        }
        let start = out.len();
        self.opener.open(&mut self.decompressor, frame, FrameKind::WalContent, self.frames, out)?;
        let raw = out.get(start..).unwrap_or_default();
        self.digest.update(raw);
        self.size = self.size.saturating_add(raw.len() as u64);
        self.frames = self.frames.saturating_add(1);
        Ok(None)
    }

    fn trailer(&mut self, frame: &mut [u8]) -> Result<WalTrailer> {
        let trailer = open_trailer(&self.opener, &mut self.decompressor, frame)?;
        let reason = if trailer.frames != self.frames {
            "number of frames"
        } else if trailer.size != self.size {
            "size"
        } else if blake3::Hash::from_bytes(trailer.digest) != self.digest.finalize() {
            "digest"
        } else {
            self.ended = true;
            return Ok(trailer);
        };
        Err(Error::ContentMismatch { reason })
    }
}

impl fmt::Debug for WalOpener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WalOpener")
            .field("opener", &self.opener)
            .field("size", &self.size)
            .field("frames", &self.frames)
            .finish_non_exhaustive()
    }
}

fn open_trailer(opener: &Opener, decompressor: &mut Decompressor, frame: &mut [u8]) -> Result<WalTrailer> {
    let mut json = Vec::new();
    opener.open(decompressor, frame, FrameKind::WalTrailer, 0, &mut json)?;
    serde_json::from_slice(&json).map_err(|source| Error::Json { what: TRAILER, source })
}

/// Opens a whole WAL object in memory, in place, and gives its content to `sink`, piece by piece.
///
/// What `sink` got is proven right only when this succeeds. The caller compares the trailer's name with the one it asked for.
///
/// # Errors
///
/// As [`ObjectHeader::parse`], [`WalOpener::new`] and [`WalOpener::frame`]; [`Error::Truncated`] and
/// [`Error::CorruptObject`] where the object does not end with its trailer; and whatever `sink` returns.
pub fn open_wal(
    keyring: &Keyring,
    object: &mut [u8],
    sink: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<WalTrailer> {
    let (opener, _) = open_object(keyring, object, ObjectKind::Wal)?;
    let mut opener = WalOpener::with(opener);
    let mut rest = object.get_mut(OBJECT_HEADER_LEN..).unwrap_or_default();
    let mut raw = Vec::new();
    loop {
        let have = rest.len() as u64;
        let need = FrameHeader::parse(rest)?.frame_len();
        let Some((frame, behind)) = rest.split_at_mut_checked(need) else {
            return Err(Error::Truncated { what: "WAL file", need: need as u64, have });
        };
        raw.clear();
        match opener.frame(frame, &mut raw)? {
            None => sink(&raw)?,
            Some(_) if !behind.is_empty() => {
                return Err(Error::corrupt("WAL file", "bytes behind the trailer"));
            }
            Some(trailer) => return Ok(trailer),
        }
        rest = behind;
    }
}

/// Checks a whole WAL object of key mode 2 without opening its content: that it is, byte for byte, what was sealed, and what that was.
///
/// # Errors
///
/// [`Error::WriteOnly`] for an object of another key mode: what it holds is told by nothing but its content. Else as [`open_wal`].
pub fn check_wal(keyring: &Keyring, object: &[u8]) -> Result<WalTrailer> {
    let header = ObjectHeader::parse(object)?;
    header.expect_kind(ObjectKind::Wal)?;
    keyring.check(&header)?;
    if header.mode != KeyMode::PublicKey {
        return Err(Error::WriteOnly { kind: ObjectKind::Wal });
    }
    let opener = keyring.opener(&header)?;
    let (mut at, mut size, mut frames) = (OBJECT_HEADER_LEN, 0u64, 0u64);
    loop {
        let rest = object.get(at..).unwrap_or_default();
        let frame_header = FrameHeader::parse(rest)?;
        let (need, have) = (frame_header.frame_len(), rest.len() as u64);
        let Some(frame) = rest.get(..need) else {
            return Err(Error::Truncated { what: "WAL file", need: need as u64, have });
        };
        if frame_header.kind == FrameKind::WalTrailer {
            if rest.len() > need {
                return Err(Error::corrupt("WAL file", "bytes behind the trailer"));
            }
            let trailer = open_trailer(&opener, &mut Decompressor::new(), &mut frame.to_vec())?;
            let stored = blake3::hash(object.get(..at).unwrap_or_default());
            let reason = if trailer.stored.map(blake3::Hash::from_bytes) != Some(stored) {
                "digest of what is stored"
            } else if (trailer.size, trailer.frames) != (size, frames) {
                "size or number of frames"
            } else {
                return Ok(trailer);
            };
            return Err(Error::ContentMismatch { reason });
        }
        at += need;
        size = size.saturating_add(frame_header.raw_len.into());
        frames = frames.saturating_add(1);
    }
}

const _: () = assert!(FRAME_HEADER_LEN == 24 && WAL_PIECE <= crate::MAX_RAW, "a piece fits in a frame");

/// Reads a digest as [`WalTrailer`] writes it.
///
/// # Errors
///
/// [`Error::BadHex`].
pub fn parse_digest(text: &str) -> Result<[u8; 32]> {
    decode_hex(text).ok_or(Error::BadHex { what: "digest", digits: 64 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LaneSeed, RepositoryId};

    fn ring() -> Keyring {
        Keyring::plain(RepositoryId::from_bytes([1; 16]))
    }

    fn sealer() -> WalSealer {
        WalSealer::new(ring().sealer(ObjectKind::Wal, LaneSeed::from_bytes([2; 32])).unwrap()).unwrap()
    }

    fn none() -> Compressor {
        Compressor::new(Compression::NONE).unwrap()
    }

    fn read(mut object: Vec<u8>) -> Result<(Vec<u8>, WalTrailer)> {
        let mut content = Vec::new();
        let trailer = open_wal(&ring(), &mut object, &mut |piece| {
            content.extend_from_slice(piece);
            Ok(())
        })?;
        Ok((content, trailer))
    }

    #[test]
    fn parallel_and_streaming_writers_give_the_same_object() {
        let mut streaming = sealer();
        let mut object = streaming.header().to_vec();
        object.extend(streaming.piece(&mut none(), b"first").unwrap());
        object.extend(streaming.piece(&mut none(), b"second").unwrap());
        let (frame, trailer) = streaming.finish("000000010000000000000001", Some(7)).unwrap();
        object.extend(frame);

        let parallel = sealer();
        let second = parallel.seal_piece(&mut none(), 1, b"second").unwrap();
        let first = parallel.seal_piece(&mut none(), 0, b"first").unwrap();
        let digest = *blake3::hash(b"firstsecond").as_bytes();
        let so_far = [&parallel.header()[..], &first, &second].concat();
        let end = parallel.trailer(&so_far, "000000010000000000000001", 11, digest, Some(7), 2).unwrap();
        assert_eq!([so_far, end.clone()].concat(), object);

        let mut packed = parallel.header().to_vec();
        for (number, raw) in [(0, &b"first"[..]), (1, b"second")] {
            let piece = PackedPiece::new(&mut none(), raw).unwrap();
            let (before, wanted) = (packed.len(), piece.frame_len());
            parallel.seal_packed(number, &piece, &mut packed).unwrap();
            assert_eq!(packed.len() - before, wanted);
        }
        packed.extend(&end);
        assert_eq!(packed, object);

        let (content, back) = read(object).unwrap();
        assert_eq!((content.as_slice(), &back), (&b"firstsecond"[..], &trailer));
        assert_eq!(parse_digest(&HEXLOWER.encode(&back.digest)).unwrap(), digest);
        assert!(HEXLOWER.encode(&digest).starts_with(&back.suffix()));
    }

    #[test]
    fn an_empty_file_has_no_content_frames() {
        let writer = sealer();
        let header = writer.header();
        let (frame, trailer) = writer.finish("00000002.history", None).unwrap();
        assert_eq!((trailer.frames, trailer.size), (0, 0));
        assert_eq!(read([&header[..], &frame].concat()).unwrap(), (Vec::new(), trailer));
    }

    #[test]
    fn trailers_that_lie_are_found() {
        let writer = sealer();
        let piece = writer.seal_piece(&mut none(), 0, b"content").unwrap();
        let digest = *blake3::hash(b"content").as_bytes();
        let object = |size, digest, frames| {
            let so_far = [&writer.header()[..], &piece].concat();
            let end = writer.trailer(&so_far, "x", size, digest, None, frames).unwrap();
            [so_far, end].concat()
        };
        assert!(read(object(7, digest, 1)).is_ok());
        for bad in [object(8, digest, 1), object(7, [0; 32], 1), object(7, digest, 2), object(7, digest, 0)] {
            assert!(matches!(read(bad), Err(Error::ContentMismatch { .. })));
        }
        let behind = [object(7, digest, 1), piece].concat();
        assert!(matches!(read(behind), Err(Error::CorruptObject { .. })));
    }

    #[test]
    fn frames_out_of_order_are_found() {
        let writer = sealer();
        let (a, b) = (
            writer.seal_piece(&mut none(), 0, b"a").unwrap(),
            writer.seal_piece(&mut none(), 1, b"b").unwrap(),
        );
        let so_far = [&writer.header()[..], &b, &a].concat();
        let end = writer.trailer(&so_far, "x", 2, *blake3::hash(b"ba").as_bytes(), None, 2).unwrap();
        let object = [so_far, end].concat();
        assert!(matches!(read(object), Err(Error::OtherFrame { .. })));
    }

    #[test]
    fn errors_of_the_sink_pass() {
        let mut writer = sealer();
        let mut object = writer.header().to_vec();
        object.extend(writer.piece(&mut none(), b"x").unwrap());
        object.extend(writer.finish("x", None).unwrap().0);
        let stop = || Error::Unwritable { reason: "stop" };
        assert!(matches!(
            open_wal(&ring(), &mut object, &mut |_| Err(stop())),
            Err(Error::Unwritable { .. })
        ));
    }
}
