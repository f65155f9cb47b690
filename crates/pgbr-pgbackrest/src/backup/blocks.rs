//! A file that is put together from blocks of several backups.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::Arc;

use super::Backup;
use crate::block_map::{BlockMap, SuperBlock};
use crate::error::{Error, Result};
use crate::manifest::File;

/// How many bytes of super blocks are kept, the last ones at least: when a later backup replaced blocks in the midst of one, the map comes
/// back to it.
const KEPT: usize = 16 << 20;

/// Gives the blocks of a file one after the other.
pub(super) struct BlockReader {
    backup: Backup,
    file: File,
    map: BlockMap,
    /// The next run, and how many of its blocks were given.
    run: usize,
    in_run: u64,
    /// The number of the next block in the file.
    number: u64,
    /// The rest of a block that was not given yet.
    block: Vec<u8>,
    given: usize,
    /// Super blocks, the one used last at the end.
    kept: VecDeque<(SuperBlock, Arc<Vec<u8>>)>,
}

impl BlockReader {
    pub(super) fn new(backup: Backup, file: &File, map: BlockMap) -> Self {
        let (block, kept) = (Vec::new(), VecDeque::new());
        Self { backup, file: file.clone(), map, run: 0, in_run: 0, number: 0, block, given: 0, kept }
    }

    /// The next block; false at the end.
    fn next_block(&mut self) -> Result<bool> {
        let Some(run) = self.map.runs().get(self.run).copied() else { return Ok(false) };
        let super_block = self.super_block(&run.super_block)?;
        let size = self.map.shape().block_size;
        let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(super_block.len());
        let start = (run.first + self.in_run).saturating_mul(size);
        let content = super_block.get(place(start)..place(start.saturating_add(size))).unwrap_or_default();
        if !self.map.fits(self.number, content) {
            return Err(self.wrong_block(&run.super_block));
        }
        self.block.clear();
        self.block.extend_from_slice(content);
        self.given = 0;
        self.number += 1;
        self.in_run += 1;
        if self.in_run == run.count {
            (self.run, self.in_run) = (self.run + 1, 0);
        }
        Ok(true)
    }

    fn super_block(&mut self, wanted: &SuperBlock) -> Result<Arc<Vec<u8>>> {
        let found = match self.kept.iter().position(|(kept, _)| kept == wanted) {
            Some(at) => self.kept.remove(at),
            None => None,
        };
        let content = match found {
            Some((_, content)) => content,
            None => Arc::new(self.backup.super_block(&self.file, wanted)?),
        };
        self.kept.push_back((*wanted, Arc::clone(&content)));
        let mut bytes: usize = self.kept.iter().map(|(_, content)| content.len()).sum();
        while bytes > KEPT && self.kept.len() > 1 {
            bytes -= self.kept.pop_front().map_or(0, |(_, content)| content.len());
        }
        Ok(content)
    }

    fn wrong_block(&self, super_block: &SuperBlock) -> Error {
        let object = match self.backup.stored_super_block(&self.file, super_block) {
            Ok(stored) => stored.object,
            Err(error) => return error,
        };
        let reason = format!("block {} is another than the block map says", self.number);
        Error::ContentMismatch { file: self.file.path.to_string(), object, reason }
    }
}

impl Read for BlockReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.given == self.block.len() && !self.next_block()? {
            return Ok(0);
        }
        let rest = self.block.get(self.given..).unwrap_or_default();
        let amount = rest.len().min(into.len());
        into[..amount].copy_from_slice(&rest[..amount]);
        self.given += amount;
        Ok(amount)
    }
}
