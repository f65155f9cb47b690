//! Hashes of grains and files: what content is called, and how a wrong merge or a wrong byte is seen.

use std::fmt;

/// The size of a grain, the unit in which content is compared and stored, in bytes. PostgreSQL's page by default.
pub const GRAIN: usize = 8192;

/// The key of all hashes of a chain: made by the full, carried by its dependants, so that hashes tell an attacker who sees them
/// nothing about known content, and a change of the repository's keys leaves them comparable.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct HashKey(#[serde(with = "hex_bytes")] [u8; 32]);

impl HashKey {
    /// A key from 32 random bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The hash of one grain that is not all zeros: the first 8 bytes of keyed BLAKE3, never 0.
    pub fn grain(&self, bytes: &[u8]) -> u64 {
        let hash = blake3::keyed_hash(&self.0, bytes);
        let mut first = [0; 8];
        first.copy_from_slice(&hash.as_bytes()[..8]);
        u64::from_le_bytes(first).max(1)
    }
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey(..)")
    }
}

/// The hash that a grain of zeros counts as; it is never stored.
pub const ZERO_GRAIN: u64 = 0;

/// Whether `bytes` are all zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<64>();
    // Blocks are folded without a branch inside, which the compiler turns into vector code; the outer `all` stops early.
    chunks.iter().all(|chunk| chunk.iter().fold(0, |all, b| all | b) == 0) && rest.iter().all(|b| *b == 0)
}

/// The 16-byte witness of a whole file: keyed BLAKE3 over its size and the hashes of all its grains, resolved over the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FileDigest(pub [u8; 16]);

/// Computes a [`FileDigest`] from a file's size and its grain hashes in order.
#[derive(Debug, Clone)]
pub struct FileDigester(blake3::Hasher);

impl FileDigester {
    /// Begins with a file of `size` bytes.
    pub fn new(key: &HashKey, size: u64) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(&key.0);
        hasher.update(&size.to_le_bytes());
        Self(hasher)
    }

    /// Adds the hash of the next grain ([`ZERO_GRAIN`] for zeros).
    pub fn push(&mut self, grain: u64) {
        self.0.update(&grain.to_le_bytes());
    }

    /// The digest.
    pub fn finish(&self) -> FileDigest {
        let mut digest = [0; 16];
        digest.copy_from_slice(&self.0.finalize().as_bytes()[..16]);
        FileDigest(digest)
    }
}

/// A digest of 32 bytes, printed in hex.
#[derive(Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Digest(#[serde(with = "hex_bytes")] pub [u8; 32]);

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

/// The random identity of a backup, 128 bits: a child names its parent by it, and a create that was answered with "exists" is
/// resolved by it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct BackupId(#[serde(with = "hex_bytes")] pub [u8; 16]);

impl fmt::Debug for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

/// Counts and digests the resolved list of a backup: what its index says, whatever layers it was merged from.
#[derive(Debug, Clone)]
pub struct ListDigester {
    hasher: blake3::Hasher,
    entries: u64,
}

impl ListDigester {
    /// Begins an empty list.
    pub fn new(key: &HashKey) -> Self {
        Self { hasher: blake3::Hasher::new_keyed(&key.0), entries: 0 }
    }

    /// Adds a file.
    pub fn file(&mut self, path: &[u8], size: u64, digest: FileDigest) {
        self.entry(b'f', path);
        self.hasher.update(&size.to_le_bytes()).update(&digest.0);
    }

    /// Adds a directory.
    pub fn directory(&mut self, path: &[u8]) {
        self.entry(b'd', path);
    }

    /// Adds a link.
    pub fn link(&mut self, path: &[u8], target: &[u8]) {
        self.entry(b'l', path);
        self.hasher.update(&(target.len() as u64).to_le_bytes()).update(target);
    }

    fn entry(&mut self, kind: u8, path: &[u8]) {
        self.entries += 1;
        self.hasher.update(&[kind]).update(&(path.len() as u64).to_le_bytes()).update(path);
    }

    /// The number of entries so far.
    pub const fn entries(&self) -> u64 {
        self.entries
    }

    /// The number of entries and their digest.
    pub fn finish(&self) -> (u64, Digest) {
        (self.entries, Digest(*self.hasher.finalize().as_bytes()))
    }
}

/// Serialises byte arrays as lower-case hex.
pub(crate) mod hex_bytes {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer, const N: usize>(
        bytes: &[u8; N],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&data_encoding::HEXLOWER.encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>, const N: usize>(
        deserializer: D,
    ) -> Result<[u8; N], D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).map_err(D::Error::custom)?;
        bytes.try_into().map_err(|_| D::Error::custom("wrong number of hex digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_seen_at_every_length_and_place() {
        for len in [0, 1, 63, 64, 65, 8192] {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes));
            for at in 0..len {
                bytes[at] = 1;
                assert!(!is_zero(&bytes));
                bytes[at] = 0;
            }
        }
    }

    #[test]
    fn digests_depend_on_key_size_and_order() {
        let key = HashKey::from_bytes([1; 32]);
        let digest = |key: &HashKey, size, grains: &[u64]| {
            let mut d = FileDigester::new(key, size);
            grains.iter().for_each(|g| d.push(*g));
            d.finish()
        };
        let base = digest(&key, 16384, &[1, 2]);
        assert_ne!(base, digest(&key, 16384, &[2, 1]));
        assert_ne!(base, digest(&key, 16383, &[1, 2]));
        assert_ne!(base, digest(&HashKey::from_bytes([2; 32]), 16384, &[1, 2]));
        assert_eq!(base, digest(&key, 16384, &[1, 2]));
    }
}
