//! The control file, with a right checksum, and the map of filenodes.

use pgbr_pg::{ControlFile, filenode_map_is_whole};

pub(crate) fn run(data: &[u8]) {
    filenode_map_is_whole(data);
    let mut bytes = data.to_vec();
    for crc_at in [288, 292] {
        if let Some((covered, crc)) = bytes.split_at_mut_checked(crc_at)
            && let Some(crc) = crc.first_chunk_mut()
        {
            *crc = crc32c::crc32c(covered).to_le_bytes();
        }
        let _ = ControlFile::parse(&bytes);
    }
}
