//! Runs: stretches of up to 1 MiB of one file, read and hashed by one worker.

use std::sync::Arc;

use pgbr_manifest::index::FileRecord;
use pgbr_manifest::{GRAIN, HashKey, ZERO_GRAIN, is_zero};

/// How much one worker reads at a time, in bytes: a whole frame of a full backup.
pub(crate) const RUN: usize = 1 << 20;

/// Grains of one file that a frame holds.
#[derive(Debug, Clone)]
pub(crate) struct FrameRow {
    /// The file.
    pub(crate) file: Arc<FileRecord>,
    /// The first of them, counted in the file.
    pub(crate) first: u64,
    /// Their hashes.
    pub(crate) hashes: Vec<u64>,
}

/// The hash of each grain of `bytes`, [`ZERO_GRAIN`] where it is all zeros.
pub(crate) fn hash_grains(key: &HashKey, bytes: &[u8]) -> Vec<u64> {
    bytes.chunks(GRAIN).map(|grain| if is_zero(grain) { ZERO_GRAIN } else { key.grain(grain) }).collect()
}
