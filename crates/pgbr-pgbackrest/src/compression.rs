//! The format's compression: one stream of a known type, decoded as it comes, that ends where its input does.

use std::fmt;
use std::io::{self, BufRead, Read};
use std::str::FromStr;

use flate2::FlushDecompress;

use crate::cipher::Framing;

/// How something is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "the format has these")]
pub enum Compression {
    /// Not at all.
    None,
    /// Deflate, in a gzip member or, raw, in a zlib wrapper.
    Gz,
    /// One LZ4 frame.
    Lz4,
    /// One Zstandard frame.
    Zst,
    /// One bzip2 stream.
    Bz2,
}

impl Compression {
    /// Every type.
    pub const ALL: [Self; 5] = [Self::None, Self::Gz, Self::Lz4, Self::Zst, Self::Bz2];

    /// What the names of objects of this type end in: `.gz`, or nothing.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Gz => ".gz",
            Self::Lz4 => ".lz4",
            Self::Zst => ".zst",
            Self::Bz2 => ".bz2",
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::None => "none",
            other => other.extension().trim_start_matches('.'),
        })
    }
}

/// A name that is no type's.
impl FromStr for Compression {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|compression| compression.to_string() == text);
        found.ok_or("is not a compression type that is known: none, gz, lz4, zst or bz2")
    }
}

/// Decompresses a stream. What comes out is not bounded: whoever reads knows how much it should be.
pub(crate) enum Decompress<R: BufRead> {
    None(R),
    Gz(flate2::bufread::GzDecoder<R>),
    Zlib(Zlib<R>),
    Lz4(Box<lz4_flex::frame::FrameDecoder<Watched<R>>>),
    Zst(zstd::stream::read::Decoder<'static, R>),
    Bz2(bzip2::bufread::BzDecoder<R>),
    /// It has ended, and so has its input.
    Ended,
}

/// The largest window of a Zstandard frame that is decoded, as a power of two: what the highest level of pgBackRest (22) uses.
const MAX_WINDOW_LOG: u32 = 27;

impl<R: BufRead> Decompress<R> {
    pub(crate) fn new(input: R, compression: Compression, framing: Framing) -> io::Result<Self> {
        Ok(match (compression, framing) {
            (Compression::None, _) => Self::None(input),
            (Compression::Gz, Framing::Normal) => Self::Gz(flate2::bufread::GzDecoder::new(input)),
            (Compression::Gz, Framing::Raw) => {
                Self::Zlib(Zlib { input, inflate: flate2::Decompress::new(true), ended: false })
            }
            (Compression::Lz4, _) => {
                let watched = Watched { input, at_end: false };
                Self::Lz4(Box::new(lz4_flex::frame::FrameDecoder::new(watched)))
            }
            (Compression::Zst, _) => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?.single_frame();
                decoder.window_log_max(MAX_WINDOW_LOG)?;
                Self::Zst(decoder)
            }
            (Compression::Bz2, _) => Self::Bz2(bzip2::bufread::BzDecoder::new(input)),
        })
    }

    fn decode(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::None(input) => input.read(into),
            Self::Gz(decoder) => decoder.read(into),
            Self::Zlib(decoder) => decoder.read(into),
            Self::Lz4(decoder) => decoder.read(into),
            Self::Zst(decoder) => decoder.read(into),
            Self::Bz2(decoder) => decoder.read(into),
            Self::Ended => Ok(0),
        }
    }

    /// The stream has ended: so must what it was read from. (This also makes a cipher look at its padding.)
    fn end(&mut self) -> io::Result<()> {
        let more = match self {
            Self::None(_) | Self::Ended => false,
            Self::Gz(decoder) => !decoder.get_mut().fill_buf()?.is_empty(),
            Self::Zlib(decoder) => !decoder.input.fill_buf()?.is_empty(),
            // This decoder takes an end between two blocks for the end of the frame.
            Self::Lz4(decoder) if decoder.get_ref().at_end => return Err(io::ErrorKind::UnexpectedEof.into()),
            Self::Lz4(decoder) => !decoder.get_mut().input.fill_buf()?.is_empty(),
            Self::Zst(decoder) => !decoder.get_mut().fill_buf()?.is_empty(),
            Self::Bz2(decoder) => !decoder.get_mut().fill_buf()?.is_empty(),
        };
        if more {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "there are bytes behind the compressed stream",
            ));
        }
        *self = Self::Ended;
        Ok(())
    }
}

impl<R: BufRead> Read for Decompress<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        let amount = self.decode(into)?;
        if amount == 0 {
            self.end()?;
        }
        Ok(amount)
    }
}

/// Deflate in a zlib wrapper. (The library's own reader takes a cut stream for one that has ended.)
pub(crate) struct Zlib<R> {
    input: R,
    inflate: flate2::Decompress,
    ended: bool,
}

impl<R: BufRead> Read for Zlib<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while !self.ended {
            let input = self.input.fill_buf()?;
            let before = (self.inflate.total_in(), self.inflate.total_out());
            let status = self.inflate.decompress(input, into, FlushDecompress::None)?;
            let gone = |total: u64, before: u64| usize::try_from(total - before).unwrap_or(usize::MAX);
            let (read, written) =
                (gone(self.inflate.total_in(), before.0), gone(self.inflate.total_out(), before.1));
            self.input.consume(read);
            self.ended = status == flate2::Status::StreamEnd;
            if written > 0 {
                return Ok(written);
            }
            if read == 0 && !self.ended {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(0)
    }
}

/// Notes whether a decoder has met the end of its input.
pub(crate) struct Watched<R> {
    input: R,
    at_end: bool,
}

impl<R: BufRead> Read for Watched<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let amount = self.input.read(into)?;
        self.at_end |= amount == 0 && !into.is_empty();
        Ok(amount)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn compress(content: &[u8], compression: Compression, framing: Framing) -> Vec<u8> {
        let mut out = Vec::new();
        match (compression, framing) {
            (Compression::None, _) => out.extend_from_slice(content),
            (Compression::Gz, Framing::Normal) => {
                let mut encoder = flate2::write::GzEncoder::new(&mut out, flate2::Compression::new(6));
                encoder.write_all(content).unwrap();
                encoder.finish().unwrap();
            }
            (Compression::Gz, Framing::Raw) => {
                let mut encoder = flate2::write::ZlibEncoder::new(&mut out, flate2::Compression::new(6));
                encoder.write_all(content).unwrap();
                encoder.finish().unwrap();
            }
            (Compression::Lz4, _) => {
                let mut info = lz4_flex::frame::FrameInfo::new();
                info.content_checksum = framing == Framing::Normal;
                info.block_mode = lz4_flex::frame::BlockMode::Linked;
                info.block_size = lz4_flex::frame::BlockSize::Max64KB;
                let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, &mut out);
                encoder.write_all(content).unwrap();
                encoder.finish().unwrap();
            }
            (Compression::Zst, _) => out = zstd::stream::encode_all(content, 3).unwrap(),
            (Compression::Bz2, _) => {
                let mut encoder = bzip2::write::BzEncoder::new(&mut out, bzip2::Compression::new(9));
                encoder.write_all(content).unwrap();
                encoder.finish().unwrap();
            }
        }
        out
    }

    fn decompress(bytes: &[u8], compression: Compression, framing: Framing) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        // A small buffer, so that streams are met in pieces.
        let input = io::BufReader::with_capacity(1000, bytes);
        Decompress::new(input, compression, framing)?.read_to_end(&mut out)?;
        Ok(out)
    }

    fn each(mut test: impl FnMut(Compression, Framing)) {
        for compression in Compression::ALL {
            for framing in [Framing::Normal, Framing::Raw] {
                test(compression, framing);
            }
        }
    }

    fn content() -> Vec<u8> {
        (0..200_000_u32).flat_map(|n| (n / 7).wrapping_mul(2_654_435_761).to_be_bytes()).collect()
    }

    #[test]
    fn what_was_compressed_comes_out_again() {
        each(|compression, framing| {
            for content in [content(), Vec::new(), b"x".to_vec()] {
                let bytes = compress(&content, compression, framing);
                assert!(
                    decompress(&bytes, compression, framing).unwrap() == content,
                    "{compression} {framing:?}"
                );
            }
        });
    }

    #[test]
    fn a_stream_that_is_cut_is_refused() {
        each(|compression, framing| {
            let bytes = compress(&content(), compression, framing);
            let ends = [0, 1, 7, 8, 15, bytes.len() / 2, bytes.len() - 4, bytes.len() - 1];
            // Of what is not compressed only the checksum tells.
            for end in ends.into_iter().filter(|_| compression != Compression::None) {
                let cut = decompress(&bytes[..end], compression, framing);
                assert!(cut.is_err(), "{compression} {framing:?} cut to {end}");
            }
        });
    }

    #[test]
    fn an_lz4_frame_that_is_cut_between_blocks_is_refused() {
        let bytes = compress(&content(), Compression::Lz4, Framing::Raw);
        // The end mark.
        let cut = &bytes[..bytes.len() - 4];
        assert_eq!(
            decompress(cut, Compression::Lz4, Framing::Raw).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
    }

    #[test]
    fn bytes_behind_a_stream_are_refused() {
        each(|compression, framing| {
            let mut bytes = compress(&content(), compression, framing);
            bytes.extend_from_slice(&bytes.clone());
            assert!(compression == Compression::None || decompress(&bytes, compression, framing).is_err());
        });
    }
}
