//! Block maps of pgBackRest: every block of the file is in the map, within its super block.

use pgbr_pgbackrest::{BlockMap, MapShape};

pub(crate) fn run(data: &[u8]) {
    let Some((&[blocks, last, width, references], bytes)) = data.split_first_chunk() else { return };
    let shape = MapShape {
        block_size: 8192,
        checksum_width: width % 16 + 1,
        file_size: u64::from(blocks) * 8192 + u64::from(last),
        references: usize::from(references),
    };
    let Ok(map) = BlockMap::decode("map", bytes, shape) else { return };
    assert_eq!(map.blocks().count() as u64, shape.blocks());
    for (number, block) in (0..).zip(map.blocks()) {
        assert_eq!(block.number, number);
        assert_eq!(block.checksum, map.checksum(number).expect("each block has one"));
        assert!(block.super_block.reference < shape.references);
        assert!(block.in_super_block * shape.block_size < block.super_block.size);
        assert!(block.super_block.offset.checked_add(block.super_block.stored_size).is_some());
    }
}
