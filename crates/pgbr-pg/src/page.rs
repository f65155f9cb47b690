//! Pages of relations: checksum, position and what to think of one (src/include/storage/checksum_impl.h, bufpage.h).

use pgbr_manifest::{Lsn, is_zero};

/// Lanes that the checksum is computed in.
const LANES: usize = 32;
/// Bytes of a row: one word a lane.
const ROW: usize = LANES * 4;
/// The prime of the FNV-1a hash.
const PRIME: u32 = 16_777_619;
/// Where each lane starts (`checksumBaseOffsets`).
const OFFSETS: [u32; LANES] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];
/// The smallest page that a build can have; anything shorter, or no multiple of it, is no page.
const MIN_PAGE: usize = 1024;

/// What a page looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "callers decide for each")]
pub enum PageVerdict {
    /// The checksum is right.
    Good,
    /// All bytes are zero: a page that was added and not used yet.
    Empty,
    /// The checksum is wrong, but the page was changed after the backup began: replay writes it anew.
    NewerThan(Lsn),
    /// The checksum is wrong.
    Bad {
        /// The checksum that the content should have.
        expected: u16,
        /// The checksum in the page.
        found: u16,
        /// The position in the page, which may be as wrong.
        lsn: Lsn,
    },
}

/// The checksum of a page whose number in its relation (over all segments) is `block`. Never 0.
///
/// The field for the checksum counts as zero. What does not fill a row of 128 bytes is left out; pages have powers of two.
pub fn page_checksum(page: &[u8], block: u32) -> u16 {
    let mut lanes = OFFSETS;
    let mut rows = page.chunks_exact(ROW);
    if let Some(first) = rows.next().and_then(|row| <&[u8; ROW]>::try_from(row).ok()) {
        let mut first = *first;
        first[8] = 0;
        first[9] = 0;
        mix(&mut lanes, &first);
    }
    for row in rows {
        if let Ok(row) = row.try_into() {
            mix(&mut lanes, row);
        }
    }
    for _ in 0..2 {
        mix(&mut lanes, &[0; ROW]);
    }
    let folded = lanes.iter().fold(block, |all, lane| all ^ lane);
    u16::try_from(folded % 65_535 + 1).unwrap_or(u16::MAX)
}

/// One round: a word into each lane.
#[inline(always)]
fn mix(lanes: &mut [u32; LANES], row: &[u8; ROW]) {
    let (words, _) = row.as_chunks::<4>();
    for (lane, word) in lanes.iter_mut().zip(words) {
        let mixed = *lane ^ u32::from_le_bytes(*word);
        *lane = mixed.wrapping_mul(PRIME) ^ (mixed >> 17);
    }
}

/// The position of the last change that a page carries; 0/0 when it is shorter than that.
pub fn page_lsn(page: &[u8]) -> Lsn {
    let Some(head) = page.first_chunk::<8>() else { return Lsn::ZERO };
    // Two words, the higher one first.
    Lsn::new(u64::from_le_bytes(*head).rotate_left(32))
}

/// What to think of a page whose number in its relation is `block`.
///
/// A wrong checksum is excused if the page's position lies between the start of the backup and `upper`, the furthest that the
/// log can have come: such a page is in the WAL in full. A position of garbage bits is above `upper` and no excuse.
pub fn check_page(page: &[u8], block: u32, start_lsn: Lsn, upper: Lsn) -> PageVerdict {
    let field = |at: usize| {
        page.get(at..).and_then(|rest| rest.first_chunk::<2>()).map_or(0, |two| u16::from_le_bytes(*two))
    };
    if field(14) == 0 && is_zero(page) {
        return PageVerdict::Empty;
    }
    let expected = page_checksum(page, block);
    let found = field(8);
    let whole = page.len() >= MIN_PAGE && page.len().is_multiple_of(MIN_PAGE);
    // pd_upper is 0 in new pages only, and those are all zero.
    if whole && found == expected && field(14) != 0 {
        return PageVerdict::Good;
    }
    let lsn = page_lsn(page);
    if (start_lsn..=upper).contains(&lsn) {
        PageVerdict::NewerThan(lsn)
    } else {
        PageVerdict::Bad { expected, found, lsn }
    }
}

#[cfg(test)]
mod tests;
