//! Frames, packs, compression, authenticated sealing and keys for backup repositories, without any I/O.
//!
//! Bytes in, bytes out: this crate opens no file or connection, starts no thread, asks no clock and draws no random numbers.
//! Seeds, nonces and ids are arguments. The bytes that it makes are described in `docs/format.md`.
//!
//! - [`Codec`], [`Compressor`], [`Decompressor`]: one frame's bytes at a time, with an exact bound on what comes out.
//! - [`Keyring`]: the keys of one repository; gives a [`Sealer`] for a lane and an [`Opener`] for an object, and
//!   a [`LaneKey`] for a worker elsewhere.
//! - [`PackBuilder`], [`PackFooter`]: many frames in one object.
//! - [`seal_record`], [`seal_manifest`], [`WalSealer`], [`open_wal`]: the other kinds of objects.
//! - [`Slot`], [`Passphrase`]: how the repository key is kept.
//! - [`WriterKey`]: the part of it for who writes and does not read.
//!
//! **What it guarantees.** Whatever bytes it reads, it gives exactly what was sealed, or an error: it does not panic, and it
//! allocates nothing from a length that it did not check against the format's bounds. With encryption every change, swap and
//! cut is found, whoever made it; an object of another repository, key, kind, lane or number does not pass. Without
//! encryption the same holds for accidents, not for somebody who can compute a hash.
//!
//! **What the caller guarantees.** A lane's seed is 32 fresh random bytes of one process, and a lane never seals one number of a
//! frame kind twice: a retry sends the same bytes again. Records, manifests and WAL files number their frames from 0, so each of
//! them takes a seed of its own.
//!
//! ```
//! use pgbr_codec::*;
//!
//! // Drawn at random when the repository is made; its key lies in slots, wrapped for each passphrase.
//! let (repository, key_id) = (RepositoryId::from_bytes([1; 16]), KeyId::from_bytes([2; 16]));
//! let passphrase = Passphrase::generated(&[3; 32]);
//! let kdf = Kdf::for_passphrase(&passphrase, [4; 16]);
//! let lock = NewLock { repository, key_id, passphrase: &passphrase, slot_id: [6; 8], kdf, nonce: [7; 12] };
//! let slot = Slot::wrap(&RepositoryKey::from_bytes([5; 32]), lock)?;
//!
//! // A backup's process: unwrap the key, open a lane, seal frames, pack them.
//! let key = slot.unwrap_with(&slot.wrapping_key(&passphrase)?, repository, key_id)?;
//! let keyring = Keyring::sealed(repository, key_id, &key);
//! let sealer = keyring.sealer(ObjectKind::DataPack, LaneSeed::from_bytes([8; 32]))?;
//! let mut compressor = Compressor::new(Compression::new(Codec::Zst, None)?)?;
//! let mut pack = PackBuilder::new(&sealer, 0x1234, 0, 16 << 20);
//! pack.push(&sealer.seal(&mut compressor, FrameKind::Data, 0, &[b'x'; 8192])?)?;
//! let object = pack.finish(&sealer, &mut compressor, b"rows")?;
//!
//! // A restore's process: the footer tells where each frame is.
//! let header = ObjectHeader::parse(&object)?;
//! let footer = PackFooter::read(&keyring, &header, &object, object.len() as u64)?;
//! assert_eq!(footer.rows, b"rows");
//! let (opener, mut decompressor) = (keyring.opener(&header)?, Decompressor::new());
//! for place in footer.places() {
//!     let start = place.offset as usize;
//!     let mut frame = object[start..start + place.size.frame as usize].to_vec();
//!     let mut raw = Vec::new();
//!     opener.open(&mut decompressor, &mut frame, place.kind, place.number, &mut raw)?;
//!     assert_eq!(raw, [b'x'; 8192]);
//! }
//! # Ok::<(), Error>(())
//! ```

mod codec;
mod cursor;
mod error;
mod frame;
mod header;
mod keys;
mod pack;
mod retired;
mod sealed;
mod slot;
mod wal;
mod writer;

pub use codec::{Codec, Compression, Compressor, Decompressor};
pub use error::{Error, Result};
pub use frame::{LaneKey, Opener, Sealer};
pub use header::{
    FRAME_HEADER_LEN, FRAME_OVERHEAD, FrameHeader, FrameKind, KeyId, KeyMode, LANE_HEADER_LEN, LaneSalt,
    LaneSeed, MAX_RAW, OBJECT_HEADER_LEN, ObjectHeader, ObjectKind, RepositoryId, TAG_LEN,
};
pub use keys::{Cipher, KEY_LEN, Keyring, RepositoryKey};
pub use pack::{FramePlace, FrameRun, FrameSize, PACK_TRAILER_LEN, PackBuilder, PackFooter};
pub use retired::RetiredKey;
pub use sealed::{
    MANIFEST_MAX, RECORD_MAX, SUMMARY_END, SUMMARY_LEN, manifest_digest, open_manifest, open_record,
    open_summary, pad_summary, seal_manifest, seal_record,
};
pub use slot::{Kdf, NewLock, Passphrase, SLOT_NAME_MAX, Slot, WrappingKey, WriterSlot};
pub use wal::{PackedPiece, WAL_PIECE, WalOpener, WalSealer, WalTrailer, check_wal, open_wal, parse_digest};
pub use writer::{RetiredWriter, WriterKey};
