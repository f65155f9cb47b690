//! What can be wrong with bytes, keys and requests.

use crate::{Codec, FrameKind, KeyId, KeyMode, ObjectKind, RepositoryId};

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why bytes were refused, or could not be made.
///
/// Everything up to [`Error::Decompress`] is about bytes that were read: damage, forgery, another repository or a newer
/// version. The rest is about keys and about what a caller asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes end before they should.
    #[error("{what} is cut short: {have} of {need} bytes")]
    Truncated {
        /// What was read.
        what: &'static str,
        /// Bytes needed, counted where `have` is counted.
        need: u64,
        /// Bytes there are.
        have: u64,
    },
    /// The end of a pack was given, but its footer begins before it: read at least so many bytes from the end.
    #[error("the footer of the pack needs its last {need} bytes, {have} were read")]
    TailTooShort {
        /// Bytes needed, counted from the end of the object.
        need: u64,
        /// Bytes that were given.
        have: u64,
    },
    /// Not one of our objects: the magic number is another.
    #[error("not a {what}: wrong magic number")]
    BadMagic {
        /// What was expected.
        what: &'static str,
    },
    /// The object is of a format version that this program does not know.
    #[error("format version {found} is not supported")]
    UnsupportedVersion {
        /// The version found.
        found: u16,
    },
    /// A kind, codec or mode that this program does not know.
    #[error("unknown {what} {found}")]
    UnknownKind {
        /// What has that kind, as `frame kind`.
        what: &'static str,
        /// The number found.
        found: u8,
    },
    /// The bytes contradict themselves or the format.
    #[error("damaged {what}: {reason}")]
    CorruptObject {
        /// What was read.
        what: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A length is above the format's bound.
    #[error("{what} of {len} bytes is above the bound of {max}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its length in bytes.
        len: u64,
        /// The bound in bytes.
        max: u64,
    },
    /// An object of another kind than was asked for.
    #[error("the object is a {found}, not a {expected}")]
    OtherObject {
        /// The kind asked for.
        expected: ObjectKind,
        /// The kind found.
        found: ObjectKind,
    },
    /// A frame of another kind or number than was asked for: it was moved or swapped.
    #[error("found {found} frame {found_number} where {expected} frame {expected_number} should be")]
    OtherFrame {
        /// The kind asked for.
        expected: FrameKind,
        /// The number asked for.
        expected_number: u64,
        /// The kind found.
        found: FrameKind,
        /// The number found.
        found_number: u64,
    },
    /// The tag does not fit: the frame is damaged, forged, moved from elsewhere or sealed under another key.
    #[error("{kind} frame {number} is not authentic: damaged, forged or from elsewhere")]
    TagMismatch {
        /// The frame's kind.
        kind: FrameKind,
        /// The frame's number.
        number: u64,
    },
    /// The object belongs to another repository.
    #[error("the object belongs to repository {found}, not {expected}")]
    OtherRepository {
        /// The repository that is open.
        expected: RepositoryId,
        /// The repository that the object names.
        found: RepositoryId,
    },
    /// The object is sealed under another repository key.
    #[error("the object is sealed under key {found}, not {expected}")]
    OtherKey {
        /// The key that is open.
        expected: KeyId,
        /// The key that the object names.
        found: KeyId,
    },
    /// The content of files, and the key that is open writes it without being able to read it.
    #[error("the key is for writing only and does not open the content of a {kind}")]
    WriteOnly {
        /// What the object is.
        kind: ObjectKind,
    },
    /// A retired key does not open with the repository's key of now.
    #[error("the retired key {key_id} does not open with the repository's key")]
    RetiredKey {
        /// Which one.
        key_id: KeyId,
    },
    /// A plain object in an encrypted repository, or the other way round.
    #[error("the object has key mode '{found}', the repository '{expected}'")]
    ModeMismatch {
        /// The repository's mode.
        expected: KeyMode,
        /// The object's mode.
        found: KeyMode,
    },
    /// The content of the object is not what its trailer says.
    #[error("the content does not fit its trailer: {reason}")]
    ContentMismatch {
        /// What differs.
        reason: &'static str,
    },
    /// A JSON text in an object does not have its form.
    #[error("{what} is not valid JSON of its form")]
    Json {
        /// What was read or written.
        what: &'static str,
        /// The parser's error.
        #[source]
        source: serde_json::Error,
    },
    /// The payload does not decompress to exactly its raw length.
    #[error("{codec} payload does not decompress to {raw_len} bytes: {reason}")]
    Decompress {
        /// The payload's codec.
        codec: Codec,
        /// The length that it should have.
        raw_len: usize,
        /// The backend's words.
        reason: String,
    },
    /// A compressor failed or could not be made.
    #[error("{codec} compressor failed")]
    Compress {
        /// The codec.
        codec: Codec,
        /// The backend's error.
        #[source]
        source: std::io::Error,
    },
    /// Not the name of a codec.
    #[error("'{0}' is not a compression type: none, gz, bz2, lz4 or zst")]
    UnknownCodecName(String),
    /// Not the name of a cipher.
    #[error("'{0}' is not a cipher: none or aes-256-gcm")]
    UnknownCipherName(String),
    /// The codec does not have this level.
    #[error("{codec} has no level {level}: {min} to {max}")]
    LevelOutOfRange {
        /// The codec.
        codec: Codec,
        /// The level asked for.
        level: i32,
        /// The lowest level.
        min: i32,
        /// The highest level.
        max: i32,
    },
    /// Text that should be hexadecimal digits of a known length.
    #[error("not a {what}: {digits} lower-case hexadecimal digits are needed")]
    BadHex {
        /// What was to be parsed.
        what: &'static str,
        /// How many digits it has.
        digits: usize,
    },
    /// No passphrase for this slot: the wrapped key does not open with it.
    #[error("the passphrase does not open this key slot")]
    WrongPassphrase,
    /// Key derivation parameters outside of what the format allows.
    #[error("key derivation parameter {parameter} = {value} is out of bounds: {min} to {max}")]
    KdfOutOfBounds {
        /// The parameter's name as in `repo.json`.
        parameter: &'static str,
        /// The value found.
        value: u32,
        /// The lowest value.
        min: u32,
        /// The highest value.
        max: u32,
    },
    /// A fast key derivation for a passphrase that a person made up, or no passphrase at all.
    #[error("the passphrase cannot be used: {reason}")]
    UnfitPassphrase {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The memory for the key derivation is not to be had.
    #[error("no memory for the key derivation: {kib} KiB are needed")]
    OutOfMemory {
        /// The memory that the slot asks for.
        kib: u32,
    },
    /// The summary of a manifest does not fit its fixed place.
    #[error("the manifest's summary of {len} bytes is longer than {max}")]
    SummaryTooLong {
        /// Its length in bytes.
        len: usize,
        /// The bound in bytes.
        max: usize,
    },
    /// What the caller wants to write would break the format.
    #[error("cannot be written: {reason}")]
    Unwritable {
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// A primitive failed in a way that it does not for lengths within the format's bounds.
    #[error("{primitive} failed")]
    Crypto {
        /// The primitive.
        primitive: &'static str,
    },
}

impl Error {
    /// An [`Error::CorruptObject`].
    pub(crate) fn corrupt(what: &'static str, reason: &'static str) -> Self {
        Self::CorruptObject { what, reason }
    }

    /// [`Error::TooLarge`] if `len` is above `max`.
    pub(crate) fn check_bound(what: &'static str, len: usize, max: usize) -> Result<()> {
        if len <= max { Ok(()) } else { Err(Self::TooLarge { what, len: len as u64, max: max as u64 }) }
    }
}
