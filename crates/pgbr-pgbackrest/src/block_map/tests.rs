//! Maps encoded by a writer of the tests' own, from the description of the format.

use proptest::prelude::*;

use super::*;

const BLOCK: u64 = 8192;
const WIDTH: u8 = 6;

/// A block as a writer knows it.
#[derive(Debug, Clone, PartialEq)]
struct Item {
    super_block: SuperBlock,
    number: u64,
    checksum: [u8; WIDTH as usize],
}

fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(u8::try_from(number & 0x7f).unwrap() | 0x80);
        number >>= 7;
    }
    out.push(u8::try_from(number).unwrap());
}

fn zigzag(n: i64) -> u64 {
    ((n << 1) ^ (n >> 63)).cast_unsigned()
}

/// Runs of items with equal keys.
fn runs<T>(items: &[T], same: impl Fn(&T, &T) -> bool) -> Vec<&[T]> {
    items.chunk_by(same).collect()
}

fn encode(items: &[Item]) -> Vec<u8> {
    let mut out = vec![0];
    let mut states: BTreeMap<usize, (SuperBlock, u64)> = BTreeMap::new();
    let mut last_size = 0_u64;
    let groups = runs(items, |a, b| a.super_block.reference == b.super_block.reference);
    for (at, group) in groups.iter().enumerate() {
        let first = group[0].super_block;
        let last_group = u64::from(at + 1 == groups.len());
        let supers = runs(group, |a, b| a.super_block == b.super_block);
        let known = states.get(&first.reference).copied();
        let goes_on = known.is_some_and(|(state, _)| state == first);
        let head = (first.reference as u64) << 3 | last_group;
        match known {
            None => {
                put(
                    &mut out,
                    head | u64::from(first.bundle.is_some()) << 1 | u64::from(first.offset > 0) << 2,
                );
                first.bundle.iter().for_each(|id| put(&mut out, *id));
                if first.offset > 0 {
                    put(&mut out, first.offset);
                }
            }
            Some(_) if goes_on => put(&mut out, head | 2 | u64::from(supers.len() == 1) << 2),
            Some((state, _)) => {
                let gap = first.offset - state.offset - state.stored_size;
                put(&mut out, head | u64::from(gap > 0) << 2);
                if gap > 0 {
                    put(&mut out, gap);
                }
            }
        }
        for (nth, blocks) in supers.iter().enumerate() {
            let block = blocks[0].super_block;
            let (mut size_before, mut next) =
                (states.get(&first.reference).map_or(BLOCK, |(s, _)| s.size), 0);
            if nth == 0 && goes_on {
                next = known.unwrap().1;
                put_total(&mut out, blocks, next);
            } else {
                if nth > 0 {
                    size_before = supers[nth - 1][0].super_block.size;
                }
                let whole = blocks.len() as u64 == block.size.div_ceil(BLOCK) && blocks[0].number == 0;
                let size = match last_size {
                    0 => block.stored_size,
                    last => zigzag(block.stored_size.cast_signed() - last.cast_signed()),
                };
                let changed = u64::from(block.size != size_before);
                put(
                    &mut out,
                    size << 3 | u64::from(nth + 1 == supers.len()) | changed << 1 | u64::from(!whole) << 2,
                );
                if changed == 1 {
                    let rest = block.size % BLOCK;
                    put(&mut out, ((block.size / BLOCK) << 1) | u64::from(rest > 0));
                    if rest > 0 {
                        put(&mut out, rest);
                    }
                }
                if !whole {
                    put_total(&mut out, blocks, 0);
                }
            }
            last_size = block.stored_size;
            next = next.max(blocks.last().unwrap().number + 1);
            blocks.iter().for_each(|item| out.extend_from_slice(&item.checksum));
            states.insert(first.reference, (block, next));
        }
    }
    out
}

fn put_total(out: &mut Vec<u8>, blocks: &[Item], next: u64) {
    let skipped = blocks[0].number - next;
    put(out, (blocks.len() as u64 - 1) << 1 | u64::from(skipped > 0));
    if skipped > 0 {
        put(out, skipped);
    }
}

/// A file of some blocks, backed up and then changed here and there some times: what pgBackRest would have in its map.
fn history(blocks: usize, rounds: &[(Vec<bool>, bool, u64)], last_bytes: u64) -> Vec<Item> {
    let mut items: Vec<Option<Item>> = vec![None; blocks];
    for (reference, (changed, bundled, step)) in rounds.iter().enumerate() {
        let bundle = bundled.then_some(*step % 7 + 1);
        let mut offset = if *bundled { step % 5000 } else { 0 };
        let target = (step % 5 + 1) * BLOCK;
        let mut open: Vec<usize> = Vec::new();
        let indexes: Vec<usize> =
            (0..blocks).filter(|at| reference == 0 || changed.get(*at).copied().unwrap_or(false)).collect();
        for (nth, at) in indexes.iter().enumerate() {
            open.push(*at);
            let length = |at: usize| if at + 1 == blocks { last_bytes } else { BLOCK };
            let size: u64 = open.iter().map(|at| length(*at)).sum();
            if size < target && nth + 1 < indexes.len() {
                continue;
            }
            let super_block =
                SuperBlock { reference, bundle, offset, stored_size: size / 3 + step % 11 + 1, size };
            for (number, at) in open.drain(..).enumerate() {
                let checksum =
                    [u8::try_from(at % 256).unwrap(), u8::try_from(reference).unwrap(), 1, 2, 3, 4];
                items[at] = Some(Item { super_block, number: number as u64, checksum });
            }
            offset += super_block.stored_size;
        }
    }
    items.into_iter().flatten().collect()
}

fn shape(blocks: usize, last_bytes: u64, references: usize) -> MapShape {
    let file_size = (blocks as u64 - 1) * BLOCK + last_bytes;
    MapShape { block_size: BLOCK, checksum_width: WIDTH, file_size, references }
}

proptest! {
    #[test]
    fn what_a_writer_says_is_read(
        blocks in 1_usize..40,
        rounds in proptest::collection::vec((proptest::collection::vec(any::<bool>(), 40), any::<bool>(), 0_u64..100_000), 1..6),
        last_bytes in 1..=BLOCK,
    ) {
        let items = history(blocks, &rounds, last_bytes);
        let bytes = encode(&items);
        let map = BlockMap::decode("map", &bytes, shape(blocks, last_bytes, rounds.len())).unwrap();
        let found: Vec<Item> = map.blocks().map(|block| Item {
            super_block: block.super_block,
            number: block.in_super_block,
            checksum: block.checksum.try_into().unwrap(),
        }).collect();
        prop_assert_eq!(found, items);
        for end in 0..bytes.len() {
            prop_assert!(BlockMap::decode("map", &bytes[..end], shape(blocks, last_bytes, rounds.len())).is_err());
        }
        prop_assert!(BlockMap::decode("map", &bytes, shape(blocks + 1, last_bytes, rounds.len())).is_err());
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300), size in 0_u64..100_000) {
        let shape = MapShape { block_size: BLOCK, checksum_width: 1, file_size: size, references: 3 };
        if let Ok(map) = BlockMap::decode("map", &bytes, shape) {
            prop_assert_eq!(map.blocks().count() as u64, shape.blocks());
        }
    }

    #[test]
    fn numbers_round_trip(number: u64) {
        let mut bytes = Vec::new();
        put(&mut bytes, number);
        prop_assert_eq!(read_number(&bytes), Ok((number, &[][..])));
    }
}

#[test]
fn numbers_that_do_not_fit_are_refused() {
    assert!(read_number(&[0xff; 11]).is_err());
    assert!(read_number(&[0x80]).is_err());
    assert!(read_number(&[]).is_err());
    let mut largest = vec![0xff; 9];
    largest.push(1);
    assert_eq!(read_number(&largest), Ok((u64::MAX, &[][..])));
    largest[9] = 2;
    assert!(read_number(&largest).is_err());
}

#[test]
fn the_wrong_block_does_not_fit() {
    let items = history(2, &[(Vec::new(), false, 0)], 100);
    let mut map = BlockMap::decode("map", &encode(&items), shape(2, 100, 1)).unwrap();
    // XXH3-128 of nothing but zeros, 8192 of them.
    let zeros = vec![0; 8192];
    let hash = XxHash3_128::oneshot(&zeros).to_be_bytes();
    map.checksums[..6].copy_from_slice(&hash[..6]);
    assert!(map.fits(0, &zeros));
    assert!(!map.fits(0, &zeros[1..]));
    assert!(!map.fits(1, &zeros[..100]));
    assert_eq!((map.block_length(0), map.block_length(1), map.block_length(2)), (8192, 100, 0));
}
