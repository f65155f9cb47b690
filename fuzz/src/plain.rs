//! What targets share: a repository without encryption, and ways to get past its tags.
//!
//! A fuzzer does not find a right tag by chance, but whoever can write to a repository without encryption computes one. So
//! the targets put right tags on foreign content.

use std::future::Future;
use std::sync::Arc;

use pgbr_codec::{
    Cipher, Compression, Compressor, FRAME_HEADER_LEN, FrameKind, Keyring, LANE_HEADER_LEN, LaneSeed,
    OBJECT_HEADER_LEN, ObjectKind, RepositoryId, Sealer, TAG_LEN,
};

use pgbr_repo::{CreateOptions, Entropy};

/// The repository that the seeds of objects are of.
const REPOSITORY: [u8; 16] = [0x11; 16];

/// Its keys.
pub(crate) fn keyring() -> Keyring {
    Keyring::plain(RepositoryId::from_bytes(REPOSITORY))
}

/// A lane of it.
pub(crate) fn sealer(kind: ObjectKind) -> Sealer {
    keyring().sealer(kind, LaneSeed::from_bytes([0x44; 32])).expect("no public key is needed")
}

/// A frame with this content, not compressed, and a right tag.
pub(crate) fn frame(sealer: &Sealer, kind: FrameKind, number: u64, raw: &[u8]) -> Option<Vec<u8>> {
    let mut compressor = Compressor::new(Compression::NONE).ok()?;
    sealer.seal(&mut compressor, kind, number, raw).ok()
}

/// Puts the right tag on every frame of an object, as far as the frames' lengths lead.
pub(crate) fn retag(object: &mut [u8]) {
    let key = blake3::derive_key("pgbr 1 plain tag", &REPOSITORY);
    let Some((header, mut frames)) = object.split_at_mut_checked(OBJECT_HEADER_LEN) else { return };
    while let Some(&[a, b, c, d]) = frames.get(8..12) {
        let text = FRAME_HEADER_LEN.saturating_add(u32::from_le_bytes([a, b, c, d]) as usize);
        let Some((frame, rest)) = frames.split_at_mut_checked(text.saturating_add(TAG_LEN)) else { return };
        let (text, tag) = frame.split_at_mut(text);
        let mut hasher = blake3::Hasher::new_keyed(&key);
        hasher.update(&header[..LANE_HEADER_LEN]).update(text);
        tag.copy_from_slice(&hasher.finalize().as_bytes()[..TAG_LEN]);
        frames = rest;
    }
}

/// Cuts the input into pieces, each behind its length in two bytes; the last may be shorter than it says.
pub(crate) fn pieces(mut data: &[u8]) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    while let Some((&[low, high], rest)) = data.split_first_chunk() {
        let (piece, rest) = rest.split_at(rest.len().min(usize::from(u16::from_le_bytes([low, high]))));
        pieces.push(piece);
        data = rest;
    }
    pieces
}

/// Random bytes that are always the same.
#[derive(Debug)]
pub(crate) struct Fixed;

impl Entropy for Fixed {
    fn fill(&self, bytes: &mut [u8]) -> pgbr_repo::Result<()> {
        bytes.fill(0x44);
        Ok(())
    }
}

/// How a repository without encryption is made.
pub(crate) fn options() -> CreateOptions {
    CreateOptions { cipher: Cipher::None, passphrase: None, kdf: None, now: 0, entropy: Arc::new(Fixed) }
}

/// Runs what waits for nothing but memory.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    }
    RUNTIME.with(|runtime| runtime.block_on(work))
}
