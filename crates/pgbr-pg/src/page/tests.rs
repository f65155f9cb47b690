use proptest::prelude::*;

use super::*;

/// Block 3 of `pg_class` in a fresh cluster of version 15.
const PAGE: &[u8; 8192] = include_bytes!("../../tests/vectors/page-15-1259-block-3.bin");
const LSN: Lsn = Lsn::new(0x68_9FA0);

fn far() -> Lsn {
    Lsn::new(u64::MAX)
}

/// The algorithm word by word, as the description in checksum_impl.h has it.
fn slow_checksum(page: &[u8], block: u32) -> u16 {
    let mut page = page.to_owned();
    page[8..10].fill(0);
    let mut lanes = OFFSETS;
    let mut mix = |lane: usize, word: u32| {
        let mixed = lanes[lane] ^ word;
        lanes[lane] = mixed.wrapping_mul(PRIME) ^ (mixed >> 17);
    };
    for (at, word) in page.chunks(4).enumerate() {
        mix(at % LANES, u32::from_le_bytes(word.try_into().unwrap()));
    }
    for lane in (0..LANES).chain(0..LANES) {
        mix(lane, 0);
    }
    let folded = lanes.iter().fold(0, |all, lane| all ^ lane) ^ block;
    u16::try_from(folded % 65_535 + 1).unwrap()
}

#[test]
fn a_page_of_postgresql_is_good() {
    assert_eq!(page_checksum(PAGE, 3), 0x785D);
    assert_eq!(page_lsn(PAGE), LSN);
    assert_eq!(check_page(PAGE, 3, Lsn::ZERO, Lsn::ZERO), PageVerdict::Good);
}

#[test]
fn the_block_number_counts() {
    assert!(matches!(check_page(PAGE, 4, far(), far()), PageVerdict::Bad { found: 0x785D, lsn: LSN, .. }));
}

#[test]
fn every_changed_byte_is_seen() {
    for at in (0..PAGE.len()).filter(|at| !(12..16).contains(at)) {
        let mut page = *PAGE;
        page[at] ^= 0x20;
        assert!(matches!(check_page(&page, 3, far(), far()), PageVerdict::Bad { .. }), "byte {at}");
    }
}

#[test]
fn a_wrong_page_is_excused_by_its_position_within_bounds() {
    let mut page = *PAGE;
    page[5000] ^= 1;
    assert_eq!(check_page(&page, 3, LSN, LSN), PageVerdict::NewerThan(LSN));
    assert!(matches!(check_page(&page, 3, Lsn::new(LSN.as_u64() + 1), far()), PageVerdict::Bad { .. }));
    let before = Lsn::new(LSN.as_u64() - 1);
    assert!(matches!(check_page(&page, 3, Lsn::ZERO, before), PageVerdict::Bad { .. }));
    page[..8].fill(0xFF);
    assert!(matches!(check_page(&page, 3, Lsn::ZERO, Lsn::new(1 << 60)), PageVerdict::Bad { .. }));
}

#[test]
fn only_a_page_of_zeros_is_empty() {
    assert_eq!(check_page(&[0; 8192], 9, far(), far()), PageVerdict::Empty);
    for at in [0, 8, 127, 128, 8191] {
        let mut page = [0; 8192];
        page[at] = 1;
        assert!(matches!(check_page(&page, 9, far(), far()), PageVerdict::Bad { .. }), "byte {at}");
    }
    // A checksum that fits does not help a page that says it is new.
    let mut page = [0; 8192];
    page[4000] = 1;
    let sum = page_checksum(&page, 9).to_le_bytes();
    page[8..10].copy_from_slice(&sum);
    assert!(matches!(check_page(&page, 9, far(), far()), PageVerdict::Bad { .. }));
}

#[test]
fn what_is_too_short_is_no_page() {
    for len in [7, 8, 15, 100, 1023, 1025] {
        assert!(matches!(check_page(&PAGE[..len], 3, far(), far()), PageVerdict::Bad { .. }), "{len}");
    }
    assert_eq!(page_lsn(&PAGE[..7]), Lsn::ZERO);
    assert_eq!(check_page(&[], 3, far(), far()), PageVerdict::Empty);
}

proptest! {
    #[test]
    fn lanes_and_words_agree(seed in any::<u64>(), block in any::<u32>(), kib in prop::sample::select(vec![1_usize, 2, 4, 8, 16, 32])) {
        let mut state = seed | 1;
        let page: Vec<u8> = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .take(kib << 10)
        .collect();
        prop_assert_eq!(page_checksum(&page, block), slow_checksum(&page, block));
    }
}
