//! Object and frame headers: fixed fields, parsed once and right from then on.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use zeroize::Zeroizing;

use crate::cursor::Cursor;
use crate::keys::Secret;
use crate::{Codec, Error, Result};

/// Length of the header that every object begins with.
pub const OBJECT_HEADER_LEN: usize = 96;
/// Length of the first part of the object header, which every frame is bound to.
pub const LANE_HEADER_LEN: usize = 72;
/// Length of the header that every frame begins with.
pub const FRAME_HEADER_LEN: usize = 24;
/// Length of the tag that every frame ends with.
pub const TAG_LEN: usize = 16;
/// What a frame takes besides its payload.
pub const FRAME_OVERHEAD: usize = FRAME_HEADER_LEN + TAG_LEN;
/// The most raw bytes that one frame holds, of whatever kind.
pub const MAX_RAW: usize = 16 << 20;

const MAGIC: [u8; 4] = *b"PGBR";
const VERSION: u16 = 1;

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum ObjectKind {
    /// A pack of data frames.
    DataPack = 1,
    /// A pack of index nodes.
    IndexPack = 2,
    /// The root of a backup.
    Manifest = 3,
    /// One archived WAL file.
    Wal = 4,
    /// A small JSON object: stanza, pin, lease.
    Record = 5,
}

impl ObjectKind {
    /// The kind with this number.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownKind`].
    pub fn from_byte(byte: u8) -> Result<Self> {
        Ok(match byte {
            1 => Self::DataPack,
            2 => Self::IndexPack,
            3 => Self::Manifest,
            4 => Self::Wal,
            5 => Self::Record,
            found => return Err(Error::UnknownKind { what: "object kind", found }),
        })
    }

    /// Whether it holds content of the cluster's files, and not what is known of them: what a key that only writes must not read.
    pub fn is_content(self) -> bool {
        matches!(self, Self::DataPack | Self::Wal)
    }

    /// Whether this is one of the two kinds of packs, which carry an attempt and a number.
    pub fn is_pack(self) -> bool {
        matches!(self, Self::DataPack | Self::IndexPack)
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::DataPack => "data pack",
            Self::IndexPack => "index pack",
            Self::Manifest => "manifest",
            Self::Wal => "WAL file",
            Self::Record => "record",
        })
    }
}

/// How the frames of an object are sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum KeyMode {
    /// Plain payload and a tag that finds damage and swaps, not a forger.
    None = 0,
    /// AES-256-GCM under a key derived from the repository key.
    RepositoryKey = 1,
    /// AES-256-GCM under a key that only the holder of the repository key can find again: for what a host writes that must not read it.
    PublicKey = 2,
}

impl KeyMode {
    /// The mode with this number.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownKind`].
    pub fn from_byte(byte: u8) -> Result<Self> {
        match byte {
            0 => Ok(Self::None),
            1 => Ok(Self::RepositoryKey),
            2 => Ok(Self::PublicKey),
            found => Err(Error::UnknownKind { what: "key mode", found }),
        }
    }
}

impl fmt::Display for KeyMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::None => "none",
            Self::RepositoryKey => "repository key",
            Self::PublicKey => "public key",
        })
    }
}

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum FrameKind {
    /// Grains of database files.
    Data = 1,
    /// Index records.
    IndexLeaf = 2,
    /// Places of index nodes.
    IndexFence = 3,
    /// Places of data frames.
    FrameTable = 4,
    /// Places of frame tables.
    TableFence = 5,
    /// The end of a pack: what is in it.
    PackFooter = 6,
    /// The first 4 KiB of a manifest.
    Summary = 7,
    /// The rest of a manifest.
    ManifestBody = 8,
    /// A piece of a WAL file.
    WalContent = 9,
    /// The end of a WAL file: name, size, digest.
    WalTrailer = 10,
    /// The one frame of a record.
    Record = 11,
}

impl FrameKind {
    /// The kind with this number.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownKind`].
    pub fn from_byte(byte: u8) -> Result<Self> {
        Ok(match byte {
            1 => Self::Data,
            2 => Self::IndexLeaf,
            3 => Self::IndexFence,
            4 => Self::FrameTable,
            5 => Self::TableFence,
            6 => Self::PackFooter,
            7 => Self::Summary,
            8 => Self::ManifestBody,
            9 => Self::WalContent,
            10 => Self::WalTrailer,
            11 => Self::Record,
            found => return Err(Error::UnknownKind { what: "frame kind", found }),
        })
    }

    /// Whether frames of this kind stand in objects of that kind.
    pub fn belongs_in(self, object: ObjectKind) -> bool {
        match object {
            ObjectKind::DataPack => matches!(self, Self::Data | Self::PackFooter),
            ObjectKind::IndexPack => self == Self::PackFooter || self.is_index_node(),
            ObjectKind::Manifest => matches!(self, Self::Summary | Self::ManifestBody),
            ObjectKind::Wal => matches!(self, Self::WalContent | Self::WalTrailer),
            ObjectKind::Record => self == Self::Record,
        }
    }

    /// Whether it ends an object of content and says what is in it.
    pub(crate) fn is_end(self) -> bool {
        matches!(self, Self::PackFooter | Self::WalTrailer)
    }

    /// Whether this is one of the four kinds of index nodes.
    pub fn is_index_node(self) -> bool {
        matches!(self, Self::IndexLeaf | Self::IndexFence | Self::FrameTable | Self::TableFence)
    }
}

impl fmt::Display for FrameKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Data => "data",
            Self::IndexLeaf => "index leaf",
            Self::IndexFence => "index fence",
            Self::FrameTable => "frame table",
            Self::TableFence => "table fence",
            Self::PackFooter => "pack footer",
            Self::Summary => "summary",
            Self::ManifestBody => "manifest body",
            Self::WalContent => "WAL content",
            Self::WalTrailer => "WAL trailer",
            Self::Record => "record",
        })
    }
}

/// A 16-byte identity that is written as 32 lower-case hexadecimal digits.
macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; 16]);

        impl $name {
            /// The identity with these bytes; the caller draws them at random.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// Its bytes.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                decode_hex(text).map(Self).ok_or(Error::BadHex { what: $what, digits: 32 })
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

hex_id! {
    /// Which repository an object belongs to: drawn when the repository is made, the same for its life.
    RepositoryId, "repository id"
}

hex_id! {
    /// Which repository key an object is sealed under; all zero in a repository without encryption.
    KeyId, "key id"
}

impl KeyId {
    /// The key id of objects that are not encrypted.
    pub const NONE: Self = Self([0; 16]);
}

/// 32 bytes that tell a lane from all others: those it was made of ([`LaneSeed`]), or in key mode 2 the public half of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LaneSalt([u8; 32]);

impl LaneSalt {
    /// The salt with these bytes, as they stand in a header or a manifest.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// 32 fresh random bytes that a lane is made of: one for each sealing process and object kind. Wiped when dropped.
///
/// Two processes that seal under one seed would use nonces twice, which gives up both secrecy and authenticity. In key mode 2 it is the
/// secret that opens the lane, and whoever seals forgets it.
pub struct LaneSeed(Secret);

impl LaneSeed {
    /// The seed with these bytes; the caller draws them at random, anew in every process.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// A seed that is drawn in its place, so that no copy of it stays behind.
    ///
    /// # Errors
    ///
    /// What `draw` returns.
    pub fn draw<E>(draw: impl FnOnce(&mut [u8]) -> Result<(), E>) -> Result<Self, E> {
        let mut bytes = Zeroizing::new([0; 32]);
        draw(&mut bytes[..])?;
        Ok(Self(bytes))
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for LaneSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LaneSeed(..)")
    }
}

impl fmt::Debug for LaneSalt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LaneSalt({}..)", HEXLOWER.encode(&self.0[..4]))
    }
}

/// The first 96 bytes of every object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectHeader {
    /// What the object is.
    pub kind: ObjectKind,
    /// How its frames are sealed.
    pub mode: KeyMode,
    /// The repository it belongs to.
    pub repository: RepositoryId,
    /// The repository key it is sealed under.
    pub key_id: KeyId,
    /// The lane it is sealed in.
    pub salt: LaneSalt,
    /// The run that made it (packs), else 0.
    pub attempt: u64,
    /// Its number in the run (packs), else 0.
    pub pack: u32,
}

impl ObjectHeader {
    /// The bytes that the object begins with.
    pub fn encode(&self) -> [u8; OBJECT_HEADER_LEN] {
        let mut bytes = [0; OBJECT_HEADER_LEN];
        bytes[..LANE_HEADER_LEN].copy_from_slice(&self.lane_header());
        bytes[72..80].copy_from_slice(&self.attempt.to_le_bytes());
        bytes[80..84].copy_from_slice(&self.pack.to_le_bytes());
        bytes
    }

    /// Reads the header from the first bytes of an object; what follows it is not looked at.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`], [`Error::BadMagic`], [`Error::UnsupportedVersion`], [`Error::UnknownKind`], and
    /// [`Error::CorruptObject`] where fields that must be zero are not, or the mode is not one of this kind of objects.
    pub fn parse(object: &[u8]) -> Result<Self> {
        const WHAT: &str = "object header";
        let Some(bytes) = object.first_chunk::<OBJECT_HEADER_LEN>() else {
            return Err(Error::Truncated {
                what: WHAT,
                need: OBJECT_HEADER_LEN as u64,
                have: object.len() as u64,
            });
        };
        let mut fields = Cursor::new(bytes, WHAT);
        if fields.array()? != MAGIC {
            return Err(Error::BadMagic { what: "pgbr object" });
        }
        let (kind, mode, version) = (fields.u8()?, fields.u8()?, fields.u16()?);
        if version != VERSION {
            return Err(Error::UnsupportedVersion { found: version });
        }
        let header = Self {
            kind: ObjectKind::from_byte(kind)?,
            mode: KeyMode::from_byte(mode)?,
            repository: RepositoryId(fields.array()?),
            key_id: KeyId(fields.array()?),
            salt: LaneSalt(fields.array()?),
            attempt: fields.u64()?,
            pack: fields.u32()?,
        };
        fields.zeros::<12>()?;
        if header.mode == KeyMode::None && header.key_id != KeyId::NONE {
            return Err(Error::corrupt(WHAT, "a key id without a key"));
        }
        if header.mode == KeyMode::PublicKey && !header.kind.is_content() {
            return Err(Error::corrupt(WHAT, "a public key where there is no content"));
        }
        if !header.kind.is_pack() && (header.attempt != 0 || header.pack != 0) {
            return Err(Error::corrupt(WHAT, "attempt and number outside of a pack"));
        }
        Ok(header)
    }

    /// The part that is the same for all objects of a lane and kind: associated data of every frame.
    pub fn lane_header(&self) -> [u8; LANE_HEADER_LEN] {
        let mut bytes = [0; LANE_HEADER_LEN];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = self.kind as u8;
        bytes[5] = self.mode as u8;
        bytes[6..8].copy_from_slice(&VERSION.to_le_bytes());
        bytes[8..24].copy_from_slice(self.repository.as_bytes());
        bytes[24..40].copy_from_slice(self.key_id.as_bytes());
        bytes[40..].copy_from_slice(self.salt.as_bytes());
        bytes
    }

    /// [`Error::OtherObject`] if the object is not of this kind.
    pub(crate) fn expect_kind(&self, expected: ObjectKind) -> Result<()> {
        if self.kind == expected { Ok(()) } else { Err(Error::OtherObject { expected, found: self.kind }) }
    }
}

/// The first 24 bytes of every frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the frame holds.
    pub kind: FrameKind,
    /// How its payload is compressed.
    pub codec: Codec,
    /// Bytes before compression, at most [`MAX_RAW`].
    pub raw_len: u32,
    /// Bytes of the payload: less than `raw_len`, or equal to it with [`Codec::None`].
    pub payload_len: u32,
    /// Its number among the frames of its kind in its lane.
    pub number: u64,
}

impl FrameHeader {
    /// The bytes that the frame begins with.
    pub fn encode(&self) -> [u8; FRAME_HEADER_LEN] {
        let mut bytes = [0; FRAME_HEADER_LEN];
        bytes[0] = self.kind as u8;
        bytes[1] = self.codec as u8;
        bytes[4..8].copy_from_slice(&self.raw_len.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.payload_len.to_le_bytes());
        bytes[16..].copy_from_slice(&self.number.to_le_bytes());
        bytes
    }

    /// Reads the header from the first bytes of a frame; what follows it is not looked at.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`], [`Error::UnknownKind`], [`Error::TooLarge`], and [`Error::CorruptObject`] for reserved bytes
    /// that are not zero and lengths that contradict each other.
    pub fn parse(frame: &[u8]) -> Result<Self> {
        const WHAT: &str = "frame header";
        let Some(bytes) = frame.first_chunk::<FRAME_HEADER_LEN>() else {
            return Err(Error::Truncated {
                what: WHAT,
                need: FRAME_HEADER_LEN as u64,
                have: frame.len() as u64,
            });
        };
        let mut fields = Cursor::new(bytes, WHAT);
        let kind = FrameKind::from_byte(fields.u8()?)?;
        let codec = Codec::from_byte(fields.u8()?)?;
        fields.zeros::<2>()?;
        let (raw_len, payload_len) = (fields.u32()?, fields.u32()?);
        fields.zeros::<4>()?;
        let number = fields.u64()?;
        if raw_len as usize > MAX_RAW {
            return Err(Error::TooLarge { what: "frame", len: raw_len.into(), max: MAX_RAW as u64 });
        }
        let sound = if codec == Codec::None { payload_len == raw_len } else { payload_len < raw_len };
        if !sound {
            return Err(Error::corrupt(WHAT, "payload length and raw length do not fit"));
        }
        Ok(Self { kind, codec, raw_len, payload_len, number })
    }

    /// Length of the whole frame: header, payload and tag.
    pub fn frame_len(&self) -> usize {
        self.payload_len as usize + FRAME_OVERHEAD
    }
}

/// Exactly `N` bytes from lower-case hexadecimal digits.
pub(crate) fn decode_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N {
        return None;
    }
    HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> ObjectHeader {
        ObjectHeader {
            kind: ObjectKind::IndexPack,
            mode: KeyMode::RepositoryKey,
            repository: RepositoryId::from_bytes([1; 16]),
            key_id: KeyId::from_bytes([2; 16]),
            salt: LaneSalt::from_bytes([3; 32]),
            attempt: 0x0102_0304_0506_0708,
            pack: 9,
        }
    }

    #[test]
    fn object_headers_round_trip_and_bound_what_they_take() {
        let bytes = header().encode();
        assert_eq!(ObjectHeader::parse(&bytes).unwrap(), header());
        for cut in 0..bytes.len() {
            assert!(matches!(ObjectHeader::parse(&bytes[..cut]), Err(Error::Truncated { .. })));
        }
        let with = |at: usize, value: u8| {
            let mut bytes = bytes;
            bytes[at] = value;
            ObjectHeader::parse(&bytes)
        };
        assert!(matches!(with(0, b'p'), Err(Error::BadMagic { .. })));
        assert!(matches!(with(4, 6), Err(Error::UnknownKind { found: 6, .. })));
        assert!(
            matches!(with(5, 2), Err(Error::CorruptObject { .. })),
            "an index is not sealed to a public key"
        );
        assert!(matches!(with(5, 3), Err(Error::UnknownKind { found: 3, .. })));
        assert!(matches!(with(5, 0), Err(Error::CorruptObject { .. })), "a key id without a key");
        assert!(matches!(with(6, 2), Err(Error::UnsupportedVersion { found: 2 })));
        assert!(matches!(with(95, 1), Err(Error::CorruptObject { .. })));
        assert!(matches!(with(4, 5), Err(Error::CorruptObject { .. })), "a record has no attempt");
    }

    #[test]
    fn frame_headers_refuse_lengths_that_do_not_fit() {
        let good = FrameHeader {
            kind: FrameKind::Data,
            codec: Codec::Zst,
            raw_len: 100,
            payload_len: 99,
            number: u64::MAX,
        };
        assert_eq!(FrameHeader::parse(&good.encode()).unwrap(), good);
        assert_eq!(good.frame_len(), 139);
        for (codec, raw_len, payload_len) in [
            (Codec::Zst, 100, 100),
            (Codec::Zst, 0, 0),
            (Codec::None, 5, 4),
            (Codec::None, 4, 5),
            (Codec::Gz, 1, u32::MAX),
        ] {
            let bad = FrameHeader { codec, raw_len, payload_len, ..good };
            assert!(FrameHeader::parse(&bad.encode()).is_err(), "{bad:?}");
        }
        let big = FrameHeader { raw_len: (16 << 20) + 1, ..good };
        assert!(matches!(FrameHeader::parse(&big.encode()), Err(Error::TooLarge { .. })));
    }

    #[test]
    fn ids_have_one_text_form() {
        let id: RepositoryId = "000102030405060708090a0b0c0d0e0f".parse().unwrap();
        assert_eq!(id.to_string(), "000102030405060708090a0b0c0d0e0f");
        for bad in ["", "00", "000102030405060708090A0B0C0D0E0F", "000102030405060708090a0b0c0d0e0f00", "é"]
        {
            assert!(bad.parse::<KeyId>().is_err(), "{bad}");
        }
    }
}
