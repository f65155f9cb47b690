//! Compression of one frame at a time, with an exact bound on what comes out again.

use std::fmt;
use std::io::Cursor;
use std::ops::RangeInclusive;
use std::str::FromStr;

use flate2::{FlushCompress, FlushDecompress};

use crate::{Error, MAX_RAW, Result};

/// How a payload is compressed. The numbers are those of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Codec {
    /// Not at all.
    None = 0,
    /// Deflate in a zlib wrapper (RFC 1950).
    Gz = 1,
    /// One bzip2 stream.
    Bz2 = 2,
    /// One LZ4 block.
    Lz4 = 3,
    /// One Zstandard frame.
    Zst = 4,
}

impl Codec {
    /// Every codec.
    pub const ALL: [Self; 5] = [Self::None, Self::Gz, Self::Bz2, Self::Lz4, Self::Zst];

    /// The codec with this number.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownKind`].
    pub fn from_byte(byte: u8) -> Result<Self> {
        Ok(match byte {
            0 => Self::None,
            1 => Self::Gz,
            2 => Self::Bz2,
            3 => Self::Lz4,
            4 => Self::Zst,
            found => return Err(Error::UnknownKind { what: "codec", found }),
        })
    }

    /// The levels that pgBackRest accepts for this codec.
    pub fn level_range(self) -> RangeInclusive<i32> {
        match self {
            Self::None => 0..=0,
            Self::Gz => -1..=9,
            Self::Bz2 => 1..=9,
            Self::Lz4 => -5..=12,
            Self::Zst => -7..=22,
        }
    }

    /// The level that pgBackRest uses when none is given.
    pub fn default_level(self) -> i32 {
        match self {
            Self::None => 0,
            Self::Gz => 6,
            Self::Bz2 => 9,
            Self::Lz4 => 1,
            Self::Zst => 3,
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::None => "none",
            Self::Gz => "gz",
            Self::Bz2 => "bz2",
            Self::Lz4 => "lz4",
            Self::Zst => "zst",
        })
    }
}

impl FromStr for Codec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|codec| codec.to_string() == text)
            .ok_or_else(|| Error::UnknownCodecName(text.chars().take(40).collect()))
    }
}

/// A codec and a level that it has.
///
/// Levels mean what they mean to the codec's own library, with two notes: gz level -1 is its default, 6; and lz4 takes its
/// whole range of levels, but all of them do the same work, as the block compressor has one speed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Compression {
    codec: Codec,
    level: i32,
}

impl Compression {
    /// Stores everything as it is.
    pub const NONE: Self = Self { codec: Codec::None, level: 0 };

    /// A codec at a level, or at its default level.
    ///
    /// # Errors
    ///
    /// [`Error::LevelOutOfRange`].
    pub fn new(codec: Codec, level: Option<i32>) -> Result<Self> {
        let level = level.unwrap_or_else(|| codec.default_level());
        let range = codec.level_range();
        if !range.contains(&level) {
            return Err(Error::LevelOutOfRange { codec, level, min: *range.start(), max: *range.end() });
        }
        Ok(Self { codec, level })
    }

    /// The codec.
    pub fn codec(self) -> Codec {
        self.codec
    }

    /// The level, in the codec's range.
    pub fn level(self) -> i32 {
        self.level
    }
}

/// A compressor of one thread: keeps its backend's tables from frame to frame.
pub struct Compressor {
    compression: Compression,
    backend: Packer,
}

enum Packer {
    None,
    Gz(flate2::Compress),
    Bz2(bzip2::Compression),
    Lz4,
    Zst(zstd::bulk::Compressor<'static>),
}

impl Compressor {
    /// A compressor that does this compression.
    ///
    /// # Errors
    ///
    /// [`Error::Compress`] if the backend cannot be set up.
    pub fn new(compression: Compression) -> Result<Self> {
        let level = compression.level;
        let backend = match compression.codec {
            Codec::None => Packer::None,
            Codec::Gz => {
                let level =
                    u32::try_from(level).map_or(flate2::Compression::default(), flate2::Compression::new);
                Packer::Gz(flate2::Compress::new(level, true))
            }
            Codec::Bz2 => Packer::Bz2(bzip2::Compression::new(level.unsigned_abs())),
            Codec::Lz4 => Packer::Lz4,
            Codec::Zst => Packer::Zst(
                zstd::bulk::Compressor::new(level).map_err(|source| compress_error(Codec::Zst, source))?,
            ),
        };
        Ok(Self { compression, backend })
    }

    /// What it does.
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// Appends `raw`, compressed, to `out` and tells how: with [`Codec::None`] when compression does not make it smaller.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`] above [`MAX_RAW`], [`Error::Compress`] if the backend fails; `out` is as before then.
    pub fn compress(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Result<Codec> {
        Error::check_bound("frame", raw.len(), MAX_RAW)?;
        let start = out.len();
        let shrunk = match self.shrink(raw, out) {
            Ok(shrunk) => shrunk && out.len() - start < raw.len(),
            Err(error) => {
                out.truncate(start);
                return Err(error);
            }
        };
        if shrunk {
            return Ok(self.compression.codec);
        }
        out.truncate(start);
        out.extend_from_slice(raw);
        Ok(Codec::None)
    }

    /// The room in `out` that [`Compressor::compress`] may use for so many raw bytes.
    pub(crate) fn room(&self, raw_len: usize) -> usize {
        match self.backend {
            Packer::None | Packer::Gz(_) | Packer::Bz2(_) => raw_len,
            Packer::Lz4 => lz4_flex::block::get_maximum_output_size(raw_len),
            Packer::Zst(_) => zstd::zstd_safe::compress_bound(raw_len),
        }
    }

    /// Appends what the backend makes of it; whatever stands there is void if this gives false.
    fn shrink(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Result<bool> {
        let (start, room) = (out.len(), self.room(raw.len()));
        match &mut self.backend {
            Packer::None => Ok(false),
            _ if raw.len() < 2 => Ok(false),
            Packer::Gz(compress) => {
                // Room for one byte less than raw: what does not fit in it is not worth it.
                out.resize(start + raw.len() - 1, 0);
                compress.reset();
                let status = compress
                    .compress(raw, &mut out[start..], FlushCompress::Finish)
                    .map_err(|error| compress_error(Codec::Gz, std::io::Error::other(error)))?;
                Ok(shorten(out, start, compress.total_out(), status == flate2::Status::StreamEnd))
            }
            Packer::Bz2(level) => {
                out.resize(start + raw.len() - 1, 0);
                let mut compress = bzip2::Compress::new(*level, 0);
                let status = compress
                    .compress(raw, &mut out[start..], bzip2::Action::Finish)
                    .map_err(|error| compress_error(Codec::Bz2, std::io::Error::other(error)))?;
                Ok(shorten(out, start, compress.total_out(), status == bzip2::Status::StreamEnd))
            }
            Packer::Lz4 => {
                out.resize(start + room, 0);
                let len = lz4_flex::block::compress_into(raw, &mut out[start..])
                    .map_err(|error| compress_error(Codec::Lz4, std::io::Error::other(error)))?;
                out.truncate(start + len);
                Ok(true)
            }
            Packer::Zst(compress) => {
                out.reserve(room);
                let mut place = Cursor::new(&mut *out);
                place.set_position(start as u64);
                compress
                    .compress_to_buffer(raw, &mut place)
                    .map_err(|source| compress_error(Codec::Zst, source))?;
                Ok(true)
            }
        }
    }
}

impl fmt::Debug for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Compressor").field(&self.compression).finish()
    }
}

/// A decompressor of one thread, for all codecs.
#[derive(Default)]
pub struct Decompressor {
    gz: Option<flate2::Decompress>,
    zst: Option<zstd::bulk::Decompressor<'static>>,
}

impl Decompressor {
    /// A decompressor; it allocates a backend's tables when it first meets its codec.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends what `payload` decompresses to, which must be exactly `raw_len` bytes from exactly these bytes.
    ///
    /// Reserves no more than `raw_len` bytes in `out`, whatever the payload says.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`] if `raw_len` is above [`MAX_RAW`], [`Error::Decompress`] for anything but a sound payload of that
    /// length; `out` is as before then.
    pub fn decompress(
        &mut self,
        codec: Codec,
        payload: &[u8],
        raw_len: usize,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        Error::check_bound("frame", raw_len, MAX_RAW)?;
        let start = out.len();
        out.reserve_exact(raw_len);
        let result = match codec {
            Codec::None => store(payload, raw_len, out),
            Codec::Gz => self.inflate(payload, raw_len, out),
            Codec::Bz2 => bunzip2(payload, raw_len, out),
            Codec::Lz4 => unlz4(payload, raw_len, out),
            Codec::Zst => self.unzstd(payload, raw_len, out),
        };
        result.map_err(|reason| {
            out.truncate(start);
            Error::Decompress { codec, raw_len, reason }
        })
    }

    fn inflate(&mut self, payload: &[u8], raw_len: usize, out: &mut Vec<u8>) -> Result<(), String> {
        let inflate = self.gz.get_or_insert_with(|| flate2::Decompress::new(true));
        inflate.reset(true);
        run_stream(payload, raw_len, out, |input, output| {
            let before = (inflate.total_in(), inflate.total_out());
            let status =
                inflate.decompress(input, output, FlushDecompress::Finish).map_err(|e| e.to_string())?;
            let (read, written) = (inflate.total_in() - before.0, inflate.total_out() - before.1);
            Ok((read, written, status == flate2::Status::StreamEnd))
        })
    }

    fn unzstd(&mut self, payload: &[u8], raw_len: usize, out: &mut Vec<u8>) -> Result<(), String> {
        // One frame, which says its length: what is allocated and what comes out are known before any of it is decoded.
        let said = zstd::zstd_safe::get_frame_content_size(payload).ok().flatten();
        if said != Some(raw_len as u64) {
            return Err("the frame's content size is another".to_owned());
        }
        if zstd::zstd_safe::find_frame_compressed_size(payload) != Ok(payload.len()) {
            return Err("not exactly one frame".to_owned());
        }
        if self.zst.is_none() {
            self.zst = Some(zstd::bulk::Decompressor::new().map_err(|error| error.to_string())?);
        }
        let Some(zst) = &mut self.zst else { return Err("no context".to_owned()) };
        let mut place = Cursor::new(&mut *out);
        place.set_position(place.get_ref().len() as u64);
        let len = zst.decompress_to_buffer(payload, &mut place).map_err(|error| error.to_string())?;
        if len == raw_len { Ok(()) } else { Err(format!("{len} bytes came out")) }
    }
}

impl fmt::Debug for Decompressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Decompressor")
    }
}

fn store(payload: &[u8], raw_len: usize, out: &mut Vec<u8>) -> Result<(), String> {
    if payload.len() != raw_len {
        return Err(format!("{} bytes are stored", payload.len()));
    }
    out.extend_from_slice(payload);
    Ok(())
}

fn bunzip2(payload: &[u8], raw_len: usize, out: &mut Vec<u8>) -> Result<(), String> {
    let mut stream = bzip2::Decompress::new(false);
    run_stream(payload, raw_len, out, |input, output| {
        let before = (stream.total_in(), stream.total_out());
        let status = stream.decompress(input, output).map_err(|error| error.to_string())?;
        let (read, written) = (stream.total_in() - before.0, stream.total_out() - before.1);
        Ok((read, written, status == bzip2::Status::StreamEnd))
    })
}

fn unlz4(payload: &[u8], raw_len: usize, out: &mut Vec<u8>) -> Result<(), String> {
    let start = out.len();
    out.resize(start + raw_len, 0);
    let len =
        lz4_flex::block::decompress_into(payload, &mut out[start..]).map_err(|error| error.to_string())?;
    if len == raw_len { Ok(()) } else { Err(format!("{len} bytes came out")) }
}

/// Runs a stream decoder over the payload into exactly `raw_len` bytes; it must come to its end there.
///
/// `step` decodes from its first to its second argument and tells bytes read, bytes written, and whether the stream ended.
fn run_stream(
    payload: &[u8],
    raw_len: usize,
    out: &mut Vec<u8>,
    mut step: impl FnMut(&[u8], &mut [u8]) -> Result<(u64, u64, bool), String>,
) -> Result<(), String> {
    let start = out.len();
    out.resize(start + raw_len, 0);
    let (mut input, mut output) = (payload, &mut out[start..]);
    let mut spare = [0];
    loop {
        // A decoder may need room for one byte to find that its stream has ended; a byte there is one too many.
        let probing = output.is_empty();
        let (read, written, ended) = step(input, if probing { &mut spare } else { &mut *output })?;
        let (read, written) = (usize::try_from(read).unwrap_or(0), usize::try_from(written).unwrap_or(0));
        if probing && written > 0 {
            return Err("more bytes come out".to_owned());
        }
        input = input.get(read..).unwrap_or_default();
        output = std::mem::take(&mut output).get_mut(written..).unwrap_or_default();
        match ended {
            true if !output.is_empty() => return Err("fewer bytes come out".to_owned()),
            true if !input.is_empty() => return Err("bytes behind the end of the stream".to_owned()),
            true => return Ok(()),
            false if probing || (read == 0 && written == 0) => {
                return Err("the stream does not end".to_owned());
            }
            false => {}
        }
    }
}

/// Cuts `out` to what a backend wrote, and passes on whether the stream ended.
fn shorten(out: &mut Vec<u8>, start: usize, written: u64, ended: bool) -> bool {
    out.truncate(start.saturating_add(usize::try_from(written).unwrap_or(usize::MAX)));
    ended
}

fn compress_error(codec: Codec, source: std::io::Error) -> Error {
    Error::Compress { codec, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of the given length that compress somewhat.
    fn text(len: usize) -> Vec<u8> {
        (0..len).map(|i| b"pgbr"[i % 4] ^ (u8::try_from((i / 97) % 13).unwrap())).collect()
    }

    /// Bytes that do not compress.
    fn noise(len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut out);
        out
    }

    fn packed(codec: Codec, raw: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let used =
            Compressor::new(Compression::new(codec, None).unwrap()).unwrap().compress(raw, &mut out).unwrap();
        assert_eq!(used, codec);
        out
    }

    fn refused(codec: Codec, payload: &[u8], raw_len: usize) -> Error {
        let mut out = b"kept".to_vec();
        let error = Decompressor::new().decompress(codec, payload, raw_len, &mut out).unwrap_err();
        assert_eq!(out, b"kept");
        assert!(out.capacity() <= raw_len + 64, "{codec}: {} bytes reserved for {raw_len}", out.capacity());
        error
    }

    #[test]
    fn every_codec_and_level_gives_the_bytes_back_and_is_reusable() {
        let mut decompressor = Decompressor::new();
        for codec in Codec::ALL {
            let range = codec.level_range();
            for level in [*range.start(), codec.default_level(), 0, 1, *range.end()] {
                let Ok(compression) = Compression::new(codec, Some(level)) else {
                    assert!(!range.contains(&level));
                    continue;
                };
                let mut compressor = Compressor::new(compression).unwrap();
                for raw in
                    [vec![], text(1), text(2), text(8192), noise(8192), text(300_000), vec![0; 1 << 20]]
                {
                    let mut payload = b"before".to_vec();
                    let used = compressor.compress(&raw, &mut payload).unwrap();
                    assert!(used == Codec::None || payload.len() - 6 < raw.len());
                    assert!(payload.len() - 6 <= raw.len());
                    let mut back = b"x".to_vec();
                    decompressor.decompress(used, &payload[6..], raw.len(), &mut back).unwrap();
                    assert_eq!(back[1..], raw, "{codec} {level}");
                }
            }
        }
    }

    #[test]
    fn noise_is_stored_as_it_is() {
        for codec in Codec::ALL {
            let mut out = Vec::new();
            let mut compressor = Compressor::new(Compression::new(codec, None).unwrap()).unwrap();
            assert_eq!(compressor.compress(&noise(5000), &mut out).unwrap(), Codec::None);
            assert_eq!(out, noise(5000));
        }
    }

    #[test]
    fn only_the_exact_length_is_accepted() {
        let raw = text(20_000);
        for codec in Codec::ALL {
            let payload = packed(codec, &raw);
            for len in [0, 1, raw.len() - 1, raw.len() + 1, raw.len() * 2, MAX_RAW] {
                assert!(matches!(refused(codec, &payload, len), Error::Decompress { .. }), "{codec} {len}");
            }
            let trailing = [&payload[..], &[0]].concat();
            refused(codec, &trailing, raw.len());
            for cut in 0..payload.len().min(200) {
                refused(codec, &payload[..cut], raw.len());
                refused(codec, &payload[..payload.len() - 1 - cut], raw.len());
            }
        }
    }

    #[test]
    fn two_streams_are_not_one() {
        let raw = text(20_000);
        for codec in [Codec::Gz, Codec::Bz2, Codec::Zst] {
            let payload = packed(codec, &raw).repeat(2);
            refused(codec, &payload, raw.len() * 2);
            refused(codec, &payload, raw.len());
        }
    }

    #[test]
    fn bombs_do_not_grow_past_the_raw_length() {
        let bomb = vec![0; MAX_RAW];
        for codec in [Codec::Gz, Codec::Bz2, Codec::Lz4, Codec::Zst] {
            let payload = packed(codec, &bomb);
            assert!(payload.len() < MAX_RAW / 200, "{codec}");
            assert!(matches!(refused(codec, &payload, 4096), Error::Decompress { .. }));
        }
        assert!(matches!(refused(Codec::None, &[], MAX_RAW + 1), Error::TooLarge { .. }));
    }

    #[test]
    fn raw_above_the_bound_is_refused() {
        let mut compressor = Compressor::new(Compression::NONE).unwrap();
        assert!(matches!(
            compressor.compress(&vec![0; MAX_RAW + 1], &mut Vec::new()),
            Err(Error::TooLarge { .. })
        ));
    }

    #[test]
    fn names_and_numbers_go_both_ways() {
        for codec in Codec::ALL {
            assert_eq!(codec.to_string().parse::<Codec>().unwrap(), codec);
            assert_eq!(Codec::from_byte(codec as u8).unwrap(), codec);
        }
        assert!("zstd".parse::<Codec>().is_err());
        assert!(Codec::from_byte(5).is_err());
        assert!(matches!(Compression::new(Codec::Bz2, Some(0)), Err(Error::LevelOutOfRange { .. })));
    }
}
