//! Whatever is sealed comes back; whatever is not sealed is refused without a panic.

use pgbr_codec::{
    Codec, Compression, Compressor, Decompressor, FrameHeader, FrameKind, Keyring, ObjectHeader, ObjectKind,
    PackBuilder, PackFooter, WalSealer, open_manifest, open_record, open_summary, open_wal, seal_manifest,
    seal_record,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::objects::{all, compressed, compressor, keyrings, read, sealer_of, seed};

fn keyring() -> impl Strategy<Value = Keyring> {
    prop::sample::select(keyrings().map(|(_, ring)| ring).to_vec())
}

fn codec() -> impl Strategy<Value = Codec> {
    prop::sample::select(Codec::ALL.to_vec())
}

fn compression() -> impl Strategy<Value = Compression> {
    // The highest levels of zst take seconds for their tables: left to the unit tests.
    let cheap = |codec: Codec| *codec.level_range().start()..=(*codec.level_range().end()).min(9);
    codec().prop_flat_map(move |codec| cheap(codec).prop_map(move |level| (codec, level))).prop_map(
        |(codec, level)| Compression::new(codec, Some(level)).expect("the level is in the codec's range"),
    )
}

/// Bytes that compress to a varying degree, or not at all.
fn content(max: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(any::<u8>(), 0..max),
        vec(0..3u8, 0..max),
        (vec(any::<u8>(), 1..64), 0..max / 64).prop_map(|(piece, times)| piece.repeat(times)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn frames(ring in keyring(), how in compression(), number: u64, raw in content(70_000), more in content(5_000)) {
        let sealer = sealer_of(&ring, ObjectKind::DataPack);
        let opener = ring.opener(&sealer.header(1, 2)).unwrap();
        let (mut compressor, mut decompressor) = (Compressor::new(how).unwrap(), Decompressor::new());
        for (number, raw) in [(number, &raw), (!number, &more)] {
            let mut frame = sealer.seal(&mut compressor, FrameKind::Data, number, raw).unwrap();
            prop_assert!(frame.len() <= raw.len() + 40);
            prop_assert_eq!(FrameHeader::parse(&frame).unwrap().frame_len(), frame.len());
            let mut payload = Vec::new();
            let codec = compressor.compress(raw, &mut payload).unwrap();
            let twin = sealer.seal_compressed(FrameKind::Data, number, raw.len(), codec, &payload).unwrap();
            prop_assert_eq!(&twin, &frame);
            let mut out = Vec::new();
            opener.open(&mut decompressor, &mut frame, FrameKind::Data, number, &mut out).unwrap();
            prop_assert_eq!(&out, raw);
        }
    }

    #[test]
    fn packs(
        ring in keyring(),
        codec in codec(),
        attempt: u64,
        pack: u32,
        frames in vec((prop_oneof![0..8u64, any::<u64>()], content(2_000)), 0..20),
        rows in content(2_000),
    ) {
        let sealer = sealer_of(&ring, ObjectKind::DataPack);
        let mut compressor = compressor(codec);
        let mut builder = PackBuilder::new(&sealer, attempt, pack, 1000);
        let mut offsets = Vec::new();
        for (number, raw) in &frames {
            offsets.push(builder.push(&sealer.seal(&mut compressor, FrameKind::Data, *number, raw).unwrap()).unwrap());
        }
        let object = builder.finish(&sealer, &mut compressor, &rows).unwrap();
        let footer = PackFooter::read_object(&ring, &object).unwrap();
        prop_assert_eq!((footer.attempt, footer.number, &footer.rows), (attempt, pack, &rows));
        prop_assert_eq!(footer.places().count(), frames.len());
        for ((place, offset), (number, raw)) in footer.places().zip(offsets).zip(&frames) {
            prop_assert_eq!((place.offset, place.number, place.size.raw as usize), (offset, *number, raw.len()));
        }
        prop_assert!(read(&ring, &object).is_ok());
    }

    #[test]
    fn small_objects(ring in keyring(), json in content(3_000), body in content(30_000)) {
        prop_assert_eq!(&open_record(&ring, &seal_record(&ring, seed(), &json).unwrap()).unwrap(), &json);
        let object = seal_manifest(&ring, seed(), &json, &body).unwrap();
        prop_assert_eq!(open_summary(&ring, &object).unwrap(), json.trim_ascii_end());
        prop_assert_eq!(open_manifest(&ring, &object).unwrap().1, body);
    }

    #[test]
    fn wal_files(ring in keyring(), codec in codec(), pieces in vec(content(9_000), 0..6), system_id: Option<u64>) {
        let mut compressor = compressor(codec);
        let mut writer = WalSealer::new(sealer_of(&ring, ObjectKind::Wal)).unwrap();
        let mut object = writer.header().to_vec();
        for piece in &pieces {
            object.extend(writer.piece(&mut compressor, piece).unwrap());
        }
        let (frame, trailer) = writer.finish("00000001.history", system_id).unwrap();
        object.extend(frame);
        let mut content = Vec::new();
        let back = open_wal(&ring, &mut object, &mut |piece| { content.extend_from_slice(piece); Ok(()) }).unwrap();
        prop_assert_eq!((content, back), (pieces.concat(), trailer));
    }

    #[test]
    fn changed_objects_give_what_they_were_or_nothing(
        ring in keyring(),
        which in any::<prop::sample::Index>(),
        edits in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        splice in any::<(prop::sample::Index, prop::sample::Index, prop::sample::Index)>(),
    ) {
        let objects = [all(&ring), compressed(&ring)].concat();
        let (_, object) = which.get(&objects);
        let good = read(&ring, object).unwrap();
        let mut bad = object.clone();
        for (at, value) in &edits {
            *at.get_mut(&mut bad) = *value;
        }
        prop_assert!(bad == *object || read(&ring, &bad).is_err());

        // A piece of it moved elsewhere.
        let (from, to, at) = (splice.0.index(object.len()), splice.1.index(object.len()), splice.2.index(object.len()));
        let piece = &object[from.min(to)..from.max(to)];
        let end = (at + piece.len()).min(object.len());
        let moved = [&object[..at], piece, &object[end..]].concat();
        prop_assert!(moved == *object || read(&ring, &moved).is_err());
        prop_assert_eq!(read(&ring, object).unwrap(), good);
    }

    #[test]
    fn arbitrary_bytes_are_refused(ring in keyring(), kind in 1..6u8, bytes in vec(any::<u8>(), 0..5_000), total: u64) {
        let mut object = bytes;
        prop_assert!(ObjectHeader::parse(&object).is_err());
        prop_assert!(FrameHeader::parse(&object).is_err() || object.len() >= 24);
        let kind = ObjectKind::from_byte(kind).unwrap();
        let header = sealer_of(&ring, kind).header(0, 0);
        if object.len() >= 96 {
            // As far as a reader comes: a right header before it.
            object[..96].copy_from_slice(&header.encode());
        }
        if object.len() >= 112 {
            let len = object.len();
            object[len - 12..].copy_from_slice(b"\0\0\0\0PGBREND1");
        }
        prop_assert!(read(&ring, &object).is_err());
        prop_assert!(PackFooter::read(&ring, &header, &object, total).is_err());
    }

    #[test]
    fn authentic_footers_and_trailers_of_arbitrary_bytes_do_no_harm(
        ring in keyring(),
        raw in prop_oneof![vec(any::<u8>(), 0..300), vec(0..9u8, 0..300)],
        right_begin: bool,
    ) {
        // What a forger can do where nothing is encrypted: a tag that fits, and anything inside.
        let sealer = sealer_of(&ring, ObjectKind::DataPack);
        let mut raw = raw;
        if right_begin && raw.len() >= 16 {
            raw[..16].fill(0);
        }
        let mut none = compressor(Codec::None);
        let footer = sealer.seal(&mut none, FrameKind::PackFooter, 0, &raw).unwrap();
        let length = u32::try_from(footer.len()).unwrap().to_le_bytes();
        let object = [&sealer.header(0, 0).encode()[..], &footer, &length, &[0; 4], b"PGBREND1"].concat();
        if let Ok(footer) = PackFooter::read_object(&ring, &object) {
            prop_assert_eq!(footer.places().count(), 0, "there is no room for a frame");
        }

        let sealer = sealer_of(&ring, ObjectKind::Wal);
        let trailer = sealer.seal(&mut none, FrameKind::WalTrailer, 0, &raw).unwrap();
        let mut object = [&sealer.header(0, 0).encode()[..], &trailer].concat();
        prop_assert!(open_wal(&ring, &mut object, &mut |_| Ok(())).is_err());
    }

    #[test]
    fn decompressors_take_anything(codec in codec(), payload in vec(any::<u8>(), 0..2_000), raw_len in 0..100_000usize) {
        let mut out = Vec::new();
        let result = Decompressor::new().decompress(codec, &payload, raw_len, &mut out);
        prop_assert_eq!(out.len(), if result.is_ok() { raw_len } else { 0 });
        prop_assert!(out.capacity() <= raw_len.max(8));
    }

    #[test]
    fn decompressors_take_damaged_payloads(
        codec in codec(),
        raw in content(20_000),
        at in any::<prop::sample::Index>(),
        value: u8,
    ) {
        let mut payload = Vec::new();
        let used = compressor(codec).compress(&raw, &mut payload).unwrap();
        prop_assume!(!payload.is_empty());
        *at.get_mut(&mut payload) = value;
        let mut out = Vec::new();
        let result = Decompressor::new().decompress(used, &payload, raw.len(), &mut out);
        prop_assert_eq!(out.len(), if result.is_ok() { raw.len() } else { 0 });
    }
}
