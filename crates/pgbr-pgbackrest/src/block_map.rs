//! Block maps: where each block of a file lies that is stored as blocks.
//!
//! A file is cut into blocks of one size. Runs of changed blocks were compressed together as super blocks; a map lists, for the whole file in
//! order, the backup, object, super block and place in it of every block, with a checksum. The encoding is described where it is read.

use std::collections::BTreeMap;

use twox_hash::XxHash3_128;

use crate::error::{Error, Result};

/// The largest super block that is read, uncompressed. pgBackRest closes one at 16 MiB at most, and one block may follow.
pub(crate) const MAX_SUPER_BLOCK: u64 = 64 << 20;
/// Offsets and stored sizes are below this, so that their sums do not overflow.
const MAX_OFFSET: u64 = 1 << 62;

/// What has to be known of a file to read its map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a map cannot be read with less or needs more")]
pub struct MapShape {
    /// Bytes in a block.
    pub block_size: u64,
    /// Bytes in the checksum of a block, 1 to 16.
    pub checksum_width: u8,
    /// Bytes in the file.
    pub file_size: u64,
    /// How many backups are referred to.
    pub references: usize,
}

impl MapShape {
    /// How many blocks the file has.
    pub fn blocks(&self) -> u64 {
        self.file_size.div_ceil(self.block_size.max(1))
    }
}

/// A super block: some blocks, compressed and encrypted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct SuperBlock {
    /// The backup that stores it: an index into the references of the manifest.
    pub reference: usize,
    /// In which object: a bundle, or the file's own.
    pub bundle: Option<u64>,
    /// Where in the object it begins.
    pub offset: u64,
    /// How many bytes are stored.
    pub stored_size: u64,
    /// How many bytes that makes.
    pub size: u64,
}

/// Blocks that follow each other both in the file and in one super block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Run {
    /// Where they lie.
    pub super_block: SuperBlock,
    /// The first of them, counted in the super block.
    pub first: u64,
    /// How many there are.
    pub count: u64,
}

/// One block of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Block<'a> {
    /// Its number in the file.
    pub number: u64,
    /// Where it lies.
    pub super_block: SuperBlock,
    /// Its number in the super block.
    pub in_super_block: u64,
    /// The first bytes of its checksum: see [`BlockMap::fits`].
    pub checksum: &'a [u8],
}

/// Where all blocks of a file lie, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockMap {
    shape: MapShape,
    runs: Vec<Run>,
    checksums: Vec<u8>,
}

impl BlockMap {
    /// Reads the decrypted bytes of a map; `object` is what errors call it. Memory is taken in proportion to them.
    ///
    /// # Errors
    /// [`Error::Damaged`] where they do not describe exactly the blocks of such a file.
    pub fn decode(object: &str, bytes: &[u8], shape: MapShape) -> Result<Self> {
        let damaged = |reason| Error::damaged(object, format!("block map: {reason}"));
        if shape.block_size == 0 || !(1..=16).contains(&shape.checksum_width) {
            return Err(damaged("no map has such blocks"));
        }
        let map = Self { shape, runs: Vec::new(), checksums: Vec::new() };
        Decoder { bytes, map, blocks: 0, states: BTreeMap::new(), last_size: 0 }.run().map_err(damaged)
    }

    /// What it was read with.
    pub fn shape(&self) -> MapShape {
        self.shape
    }

    /// The blocks, as runs.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The blocks, one by one.
    pub fn blocks(&self) -> impl Iterator<Item = Block<'_>> {
        let width = usize::from(self.shape.checksum_width);
        let places =
            self.runs.iter().flat_map(|run| (run.first..run.first + run.count).map(|n| (run.super_block, n)));
        let blocks = places.zip(self.checksums.chunks(width)).zip(0..);
        blocks.map(|(((super_block, in_super_block), checksum), number)| Block {
            number,
            super_block,
            in_super_block,
            checksum,
        })
    }

    /// The checksum of a block of this number.
    pub fn checksum(&self, number: u64) -> Option<&[u8]> {
        let width = usize::from(self.shape.checksum_width);
        let at = usize::try_from(number).ok()?.checked_mul(width)?;
        self.checksums.get(at..at.checked_add(width)?)
    }

    /// How many bytes the block of this number has: the last may be shorter than the others.
    pub fn block_length(&self, number: u64) -> u64 {
        let start = number.saturating_mul(self.shape.block_size);
        self.shape.file_size.saturating_sub(start).min(self.shape.block_size)
    }

    /// Whether `content` is that of the block of this number, as far as its checksum tells: XXH3 of 128 bits, of which some bytes are kept.
    pub fn fits(&self, number: u64, content: &[u8]) -> bool {
        let hash = XxHash3_128::oneshot(content).to_be_bytes();
        let right = self.checksum(number).is_some_and(|checksum| hash.starts_with(checksum));
        right && content.len() as u64 == self.block_length(number)
    }
}

/// Where a backup was left when the map last spoke of it.
struct State {
    super_block: SuperBlock,
    /// The next block of the super block.
    next: u64,
}

struct Decoder<'a> {
    bytes: &'a [u8],
    map: BlockMap,
    /// How many blocks the map has so far.
    blocks: u64,
    states: BTreeMap<usize, State>,
    /// The stored size of the super block spoken of last; later sizes are told as differences.
    last_size: u64,
}

impl Decoder<'_> {
    /// A map is a number of flags, then groups of super blocks of one backup each, until bit 0 of a group's number says that it is the last.
    fn run(mut self) -> Result<BlockMap, &'static str> {
        if self.number()? & 1 != 0 {
            return Err("of another version");
        }
        while !self.group()? {}
        if !self.bytes.is_empty() {
            return Err("bytes are behind its end");
        }
        if self.blocks != self.map.shape.blocks() {
            return Err("it has fewer blocks than the file");
        }
        Ok(self.map)
    }

    /// A group: its backup, where that is met again or begins, then super blocks until bit 0 says that one is the last. Gives whether the group
    /// is the last.
    fn group(&mut self) -> Result<bool, &'static str> {
        let head = self.number()?;
        let reference = usize::try_from(head >> 3).ok().filter(|at| *at < self.map.shape.references);
        let reference = reference.ok_or("it refers to a backup that the manifest does not")?;
        let (bit1, bit2) = (head & 2 != 0, head & 4 != 0);
        let mut state = match self.states.remove(&reference) {
            None => self.first_state(reference, bit1, bit2)?,
            Some(mut state) if bit1 => {
                // The super block where the backup was left goes on. It is not told again.
                self.blocks_of(&mut state, true)?;
                self.last_size = state.super_block.stored_size;
                if bit2 {
                    self.states.insert(reference, state);
                    return Ok(head & 1 != 0);
                }
                state.step()?;
                state
            }
            Some(mut state) => {
                state.step()?;
                if bit2 {
                    state.super_block.offset = add(state.super_block.offset, self.number()?)?;
                }
                state
            }
        };
        while !self.super_block(&mut state)? {
            state.step()?;
        }
        self.states.insert(reference, state);
        Ok(head & 1 != 0)
    }

    fn first_state(&mut self, reference: usize, bundled: bool, moved: bool) -> Result<State, &'static str> {
        let bundle = if bundled { Some(self.number()?).filter(|id| *id > 0) } else { None };
        let offset = if moved { self.number()? } else { 0 };
        let size = self.map.shape.block_size;
        let super_block = SuperBlock { reference, bundle, offset: add(offset, 0)?, stored_size: 0, size };
        Ok(State { super_block, next: 0 })
    }

    /// A super block: its stored size, its size if that is another than before, its blocks. Gives whether it is the last of its group.
    fn super_block(&mut self, state: &mut State) -> Result<bool, &'static str> {
        let head = self.number()?;
        state.super_block.stored_size = self.stored_size(head >> 3)?;
        state.next = 0;
        if head & 2 != 0 {
            let size = self.number()?;
            let whole =
                (size >> 1).checked_mul(self.map.shape.block_size).ok_or("a super block is too large")?;
            let rest = if size & 1 != 0 { self.number()? } else { 0 };
            state.super_block.size = whole.checked_add(rest).ok_or("a super block is too large")?;
        }
        if !(1..=MAX_SUPER_BLOCK).contains(&state.super_block.size) {
            return Err("a super block is too large or empty");
        }
        add(state.super_block.offset, state.super_block.stored_size)?;
        self.blocks_of(state, head & 4 != 0)?;
        self.last_size = state.super_block.stored_size;
        Ok(head & 1 != 0)
    }

    /// The first size of a map is told as it is, all others by how they differ (zigzag) from the last.
    fn stored_size(&self, told: u64) -> Result<u64, &'static str> {
        let size = match self.last_size {
            0 => Some(told),
            last => {
                let difference = (told >> 1).cast_signed() ^ -(told & 1).cast_signed();
                last.checked_add_signed(difference)
            }
        };
        size.filter(|size| (1..MAX_OFFSET).contains(size)).ok_or("a super block has no bytes or too many")
    }

    /// Blocks of a super block: how many and how many are left out before them, if that is `told`, then their checksums.
    fn blocks_of(&mut self, state: &mut State, told: bool) -> Result<(), &'static str> {
        let in_super_block = state.super_block.size.div_ceil(self.map.shape.block_size);
        let mut count = in_super_block;
        if told {
            let total = self.number()?;
            count = (total >> 1) + 1;
            if total & 1 != 0 {
                let skipped = self.number()?;
                state.next =
                    state.next.checked_add(skipped).ok_or("a block is outside of its super block")?;
            }
        }
        let end = state.next.checked_add(count).filter(|end| *end <= in_super_block);
        let end = end.ok_or("a block is outside of its super block")?;
        self.blocks += count;
        if self.blocks > self.map.shape.blocks() {
            return Err("it has more blocks than the file");
        }
        let length =
            usize::try_from(count).ok().and_then(|n| n.checked_mul(self.map.shape.checksum_width.into()));
        let (checksums, rest) =
            length.and_then(|n| self.bytes.split_at_checked(n)).ok_or("it is cut short")?;
        self.map.checksums.extend_from_slice(checksums);
        self.map.runs.push(Run { super_block: state.super_block, first: state.next, count });
        (self.bytes, state.next) = (rest, end);
        Ok(())
    }

    /// A number in seven bits a byte, low ones first; the highest bit says that more follow.
    fn number(&mut self) -> Result<u64, &'static str> {
        let (number, rest) = read_number(self.bytes)?;
        self.bytes = rest;
        Ok(number)
    }
}

impl State {
    /// To where the next super block begins, unless that is told otherwise.
    fn step(&mut self) -> Result<(), &'static str> {
        self.super_block.offset = add(self.super_block.offset, self.super_block.stored_size)?;
        Ok(())
    }
}

fn read_number(bytes: &[u8]) -> Result<(u64, &[u8]), &'static str> {
    let mut number = 0;
    for (at, byte) in bytes.iter().enumerate().take(10) {
        let bits = u64::from(byte & 0x7f);
        if at == 9 && bits > 1 {
            break;
        }
        number |= bits << (7 * at);
        if byte & 0x80 == 0 {
            return Ok((number, &bytes[at + 1..]));
        }
    }
    Err(if bytes.len() < 10 { "it is cut short" } else { "a number is too large" })
}

fn add(offset: u64, more: u64) -> Result<u64, &'static str> {
    offset.checked_add(more).filter(|sum| *sum < MAX_OFFSET).ok_or("an offset is too large")
}

#[cfg(test)]
mod tests;
