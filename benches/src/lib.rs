//! Data for the stage benchmarks: reproducible, and as compressible as pages of a real table.

use pgbr_manifest::GRAIN;

/// Numbers that look random and are the same in every run (SplitMix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A row of numbers for each seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

/// So many pages of a heap like that of pgbench: header, line pointers, free space, rows of numbers and padded text.
pub fn table_pages(count: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut pages = Vec::with_capacity(count * GRAIN);
    for number in 0..count as u64 {
        pages.extend_from_slice(&page(number, &mut random));
    }
    pages
}

/// One page: 60 rows of 120 bytes from its end down.
fn page(number: u64, random: &mut Random) -> [u8; GRAIN] {
    const ROWS: u16 = 60;
    const ROW: u16 = 120;
    const WORDS: [&[u8]; 4] = [b"pending", b"shipped", b"returned", b"paid"];
    let end = u16::try_from(GRAIN).unwrap_or(u16::MAX);
    let mut page = [0; GRAIN];
    let mut put = |at: u16, bytes: &[u8]| {
        let at = usize::from(at);
        page[at..at + bytes.len()].copy_from_slice(bytes);
    };
    put(0, &(0x1_0000_0000 * (number * 977 + random.next() % 64)).to_le_bytes());
    for (at, value) in [(12, 24 + 4 * ROWS), (14, end - ROWS * ROW), (16, end), (18, end | 4)] {
        put(at, &value.to_le_bytes());
    }
    for row in 0..ROWS {
        let at = end - (row + 1) * ROW;
        put(24 + 4 * row, &(u32::from(at) | 1 << 15 | u32::from(ROW) << 17).to_le_bytes());
        put(at, &(700 + random.next() % 100).to_le_bytes());
        put(at + 12, &number.to_le_bytes());
        put(at + 20, &[row.to_le_bytes()[0] + 1, 0, 4, 0, 2, 9, 24, 0]);
        put(at + 28, &(number * u64::from(ROWS) + u64::from(row)).to_le_bytes());
        put(at + 36, &(random.next() % 1_000_000).to_le_bytes());
        put(at + 44, &random.next().to_le_bytes());
        put(at + 52, WORDS[usize::from(random.next().to_le_bytes()[0] % 4)]);
        put(at + 64, &[b' '; 56]);
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_the_same_in_every_run_and_not_of_zeros() {
        let pages = table_pages(3, 1);
        assert_eq!(pages, table_pages(3, 1));
        assert_ne!(pages, table_pages(3, 2));
        assert!(pages.chunks(GRAIN).all(|page| !pgbr_manifest::is_zero(page)));
    }
}
