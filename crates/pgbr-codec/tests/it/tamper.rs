//! Every change, cut, addition and swap is found.

use pgbr_codec::{
    Codec, Compressor, Decompressor, Error, FrameKind, Keyring, LaneKey, LaneSalt, LaneSeed, MAX_RAW,
    OBJECT_HEADER_LEN, ObjectHeader, ObjectKind, PackBuilder, PackFooter, RepositoryId, SUMMARY_END,
    open_summary,
};

use crate::objects::{
    ATTEMPT, all, compressed, compressor, data_pack, index_pack, keyrings, other_sealer_of, read, sealer_of,
    seed, wal,
};

fn every_object() -> impl Iterator<Item = (String, Keyring, Vec<u8>)> {
    keyrings().into_iter().flat_map(|(mode, ring)| {
        let objects = match mode {
            // What is not content is as it was in the mode before.
            "written" => all(&ring).into_iter().filter(|(_, object)| is_content(object)).collect(),
            _ => [all(&ring), compressed(&ring)].concat(),
        };
        objects.into_iter().map(move |(name, object)| (format!("{mode} {name}"), ring.clone(), object))
    })
}

fn is_content(object: &[u8]) -> bool {
    ObjectHeader::parse(object).unwrap().kind.is_content()
}

#[test]
fn every_flipped_bit_is_found() {
    for (name, ring, object) in every_object() {
        read(&ring, &object).unwrap();
        let mut bad = object.clone();
        for bit in 0..object.len() * 8 {
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&ring, &bad).is_err(), "{name}: bit {bit} of {}", object.len() * 8);
            bad[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(bad, object);
    }
}

#[test]
fn every_flipped_bit_of_a_summary_is_found_without_the_body() {
    for (mode, ring) in keyrings() {
        let mut bad = all(&ring).into_iter().find(|(name, _)| *name == "manifest").unwrap().1;
        bad.truncate(SUMMARY_END);
        assert_eq!(open_summary(&ring, &bad).unwrap(), br#"{"label":"20261122-120000F"}"#);
        for bit in 0..bad.len() * 8 {
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(open_summary(&ring, &bad).is_err(), "{mode}: bit {bit}");
            bad[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[test]
fn every_cut_and_every_addition_is_found() {
    for (name, ring, object) in every_object() {
        for cut in 0..object.len() {
            assert!(read(&ring, &object[..cut]).is_err(), "{name}: cut to {cut} of {}", object.len());
        }
        for more in [&[0][..], b" ", b"PGBREND1", &[0; 16], &object] {
            assert!(read(&ring, &[&object[..], more].concat()).is_err(), "{name} and {more:?}");
        }
    }
}

#[test]
fn a_frame_passes_only_as_what_it_was_sealed_as() {
    for (mode, ring) in keyrings() {
        let sealer = sealer_of(&ring, ObjectKind::IndexPack);
        let frame = sealer.seal(&mut compressor(Codec::Zst), FrameKind::IndexLeaf, 7, b"leaf").unwrap();
        let opener = ring.opener(&sealer.header(1, 1)).unwrap();
        let open = |opener: &pgbr_codec::Opener, frame: &[u8], kind, number| {
            let mut out = b"before".to_vec();
            let result = opener.open(&mut Decompressor::new(), &mut frame.to_vec(), kind, number, &mut out);
            assert!(result.is_ok() || out == b"before");
            result.map(|()| out.split_off(6))
        };
        assert_eq!(open(&opener, &frame, FrameKind::IndexLeaf, 7).unwrap(), b"leaf");

        // Another place.
        let other = open(&opener, &frame, FrameKind::IndexLeaf, 8);
        assert!(matches!(other, Err(Error::OtherFrame { .. })), "{mode}");
        let other = open(&opener, &frame, FrameKind::IndexFence, 7);
        assert!(matches!(other, Err(Error::OtherFrame { .. })), "{mode}");

        // The header changed to fit the place.
        let mut renumbered = frame.clone();
        renumbered[16] = 8;
        let other = open(&opener, &renumbered, FrameKind::IndexLeaf, 8);
        assert!(matches!(other, Err(Error::TagMismatch { .. })), "{mode}");
        let mut renamed = frame.clone();
        renamed[0] = FrameKind::IndexFence as u8;
        let other = open(&opener, &renamed, FrameKind::IndexFence, 7);
        assert!(matches!(other, Err(Error::TagMismatch { .. })), "{mode}");

        // Another lane, and the same lane's other kind of object.
        let lane = other_sealer_of(&ring, ObjectKind::IndexPack).header(1, 1);
        let other = open(&ring.opener(&lane).unwrap(), &frame, FrameKind::IndexLeaf, 7);
        assert!(matches!(other, Err(Error::TagMismatch { .. })), "{mode}");
        let data = ring.opener(&ObjectHeader { kind: ObjectKind::DataPack, ..sealer.header(1, 1) }).unwrap();
        assert!(open(&data, &frame, FrameKind::IndexLeaf, 7).is_err(), "{mode}");

        // Lengths that are not the header's.
        assert!(matches!(
            open(&opener, &frame[..frame.len() - 1], FrameKind::IndexLeaf, 7),
            Err(Error::Truncated { .. })
        ));
        assert!(matches!(
            open(&opener, &[&frame[..], &[0]].concat(), FrameKind::IndexLeaf, 7),
            Err(Error::CorruptObject { .. })
        ));
    }
}

#[test]
fn objects_of_another_repository_do_not_pass_with_a_changed_header() {
    let other = Keyring::plain(RepositoryId::from_bytes([0x99; 16]));
    let (_, ours) = &keyrings()[0];
    for (name, mut object) in all(&other) {
        assert!(matches!(read(ours, &object), Err(Error::OtherRepository { .. })), "{name}");
        object[8..24].copy_from_slice(ours.repository().as_bytes());
        assert!(matches!(read(ours, &object), Err(Error::TagMismatch { .. })), "{name}");
    }
}

#[test]
fn sealed_objects_do_not_pass_in_another_mode_or_under_another_key() {
    let [(_, plain), (_, sealed), (_, written)] = &keyrings();
    for (name, mut object) in all(plain) {
        assert!(matches!(read(sealed, &object), Err(Error::ModeMismatch { .. })), "{name}");
        object[5] = 1;
        assert!(matches!(read(sealed, &object), Err(Error::OtherKey { .. })), "{name}");
        object[24..40].copy_from_slice(sealed.key_id().as_bytes());
        assert!(matches!(read(sealed, &object), Err(Error::TagMismatch { .. })), "{name}");
    }
    for (name, object) in [all(sealed), all(written)].concat() {
        assert!(matches!(read(plain, &object), Err(Error::ModeMismatch { .. })), "{name}");
        let mut other = object.clone();
        other[5] = 3 - object[5];
        let refused = read(sealed, &other);
        match is_content(&object) {
            true => assert!(matches!(refused, Err(Error::TagMismatch { .. })), "{name}"),
            false => assert!(matches!(refused, Err(Error::CorruptObject { .. })), "{name}"),
        }
    }
}

#[test]
fn a_pack_passes_only_as_the_attempt_and_number_that_it_is() {
    for (mode, ring) in keyrings() {
        for object in [data_pack(&ring, &[Codec::Zst]), index_pack(&ring)] {
            let header = ObjectHeader::parse(&object).unwrap();
            let as_other = |header: ObjectHeader| {
                let mut object = object.clone();
                object[..OBJECT_HEADER_LEN].copy_from_slice(&header.encode());
                PackFooter::read_object(&ring, &object)
            };
            assert_eq!(as_other(header).unwrap().attempt, ATTEMPT, "{mode}");
            let other = as_other(ObjectHeader { attempt: ATTEMPT + 1, ..header });
            assert!(matches!(other, Err(Error::CorruptObject { .. })), "{mode}");
            let other = as_other(ObjectHeader { pack: 9, ..header });
            assert!(matches!(other, Err(Error::OtherFrame { .. })), "{mode}");
            let other = as_other(ObjectHeader { salt: LaneSalt::from_bytes([9; 32]), ..header });
            assert!(matches!(other, Err(Error::TagMismatch { .. })), "{mode}");
        }
    }
}

#[test]
fn two_frames_of_a_pack_cannot_change_places() {
    for (mode, ring) in keyrings() {
        let sealer = sealer_of(&ring, ObjectKind::DataPack);
        let mut none = compressor(Codec::None);
        let mut pack = PackBuilder::new(&sealer, ATTEMPT, 0, 4096);
        let first = pack.push(&sealer.seal(&mut none, FrameKind::Data, 0, b"aaaa").unwrap()).unwrap();
        let second = pack.push(&sealer.seal(&mut none, FrameKind::Data, 1, b"bbbb").unwrap()).unwrap();
        let object = pack.finish(&sealer, &mut none, b"").unwrap().to_vec();
        assert_eq!((first, second), (96, 140));
        let swapped = [&object[..96], &object[140..184], &object[96..140], &object[184..]].concat();
        assert!(matches!(read(&ring, &swapped), Err(Error::OtherFrame { .. })), "{mode}");
    }
}

#[test]
fn pieces_of_two_wal_files_do_not_mix() {
    for (mode, ring) in keyrings() {
        // The same lane twice, which a writer never does: the digest still tells.
        let (a, b) =
            (wal(&ring, Codec::None, &[b"aaaa", b"bbbb"]), wal(&ring, Codec::None, &[b"cccc", b"dddd"]));
        let mixed = [&a[..140], &b[140..184], &a[184..]].concat();
        assert!(matches!(read(&ring, &mixed), Err(Error::ContentMismatch { .. })), "{mode}");
        let shorter = [&a[..140], &a[184..]].concat();
        assert!(matches!(read(&ring, &shorter), Err(Error::ContentMismatch { .. })), "{mode}");
    }
}

#[test]
fn a_short_tail_says_how_much_it_needs() {
    for (mode, ring) in keyrings() {
        let object = data_pack(&ring, &[Codec::Zst]);
        let (header, total) = (ObjectHeader::parse(&object).unwrap(), object.len() as u64);
        let need = PackFooter::tail_len(&object[object.len() - 16..], total).unwrap();
        let whole = PackFooter::read(&ring, &header, &object, total).unwrap();
        for len in 0..=object.len() {
            match PackFooter::read(&ring, &header, &object[object.len() - len..], total) {
                Ok(footer) => assert!(len as u64 >= need && footer == whole, "{mode} {len}"),
                Err(Error::TailTooShort { need: said, have }) => {
                    assert_eq!((said, have), (need, len as u64), "{mode}");
                    assert!((16..need).contains(&have));
                }
                Err(Error::Truncated { .. }) => assert!(len < 16, "{mode} {len}"),
                Err(other) => panic!("{mode} {len}: {other}"),
            }
        }
        // A total that is not the object's does not add up.
        for total in [total - 1, total + 1, u64::MAX, 0] {
            assert!(PackFooter::read(&ring, &header, &object, total).is_err(), "{mode} {total}");
        }
    }
}

#[test]
fn a_bomb_in_an_authentic_frame_stays_within_its_raw_length() {
    for (mode, ring) in keyrings() {
        let sealer = sealer_of(&ring, ObjectKind::DataPack);
        let opener = ring.opener(&sealer.header(0, 0)).unwrap();
        for codec in [Codec::Gz, Codec::Bz2, Codec::Lz4, Codec::Zst] {
            let mut compressor: Compressor = compressor(codec);
            let mut frame = sealer.seal(&mut compressor, FrameKind::Data, 0, &vec![0; MAX_RAW]).unwrap();
            assert!(frame.len() < MAX_RAW / 200);
            let mut raw = Vec::new();
            opener.open(&mut Decompressor::new(), &mut frame, FrameKind::Data, 0, &mut raw).unwrap();
            assert_eq!(raw.len(), MAX_RAW, "{mode} {codec}");
            assert_eq!(raw.capacity(), MAX_RAW, "{mode} {codec}");
        }
    }
}

#[test]
fn a_lane_key_opens_its_lane_and_no_other() {
    for (mode, ring) in keyrings() {
        let here = ring.lane_key(ObjectKind::DataPack, seed()).unwrap();
        let elsewhere = LaneKey::from_bytes(*here.header(), *here.as_bytes().unwrap());
        let mut none = compressor(Codec::None);
        let mut frame = elsewhere.sealer().seal(&mut none, FrameKind::Data, 1, b"grain").unwrap();
        assert_eq!(
            frame,
            sealer_of(&ring, ObjectKind::DataPack).seal(&mut none, FrameKind::Data, 1, b"grain").unwrap()
        );
        let mut raw = Vec::new();
        here.opener().open(&mut Decompressor::new(), &mut frame, FrameKind::Data, 1, &mut raw).unwrap();
        assert_eq!(raw, b"grain", "{mode}");

        let other = other_sealer_of(&ring, ObjectKind::DataPack);
        let mut frame = other.seal(&mut none, FrameKind::Data, 1, b"old").unwrap();
        let opened = here.opener().open(&mut Decompressor::new(), &mut frame, FrameKind::Data, 1, &mut raw);
        assert!(matches!(opened, Err(Error::TagMismatch { .. })), "{mode}");
    }
    // With encryption the key itself is another, and not only the header that frames are bound to.
    for (mode, ring) in &keyrings()[1..] {
        let key = |kind, seed| {
            let key = ring.lane_key(kind, LaneSeed::from_bytes([seed; 32])).unwrap();
            *key.as_bytes().unwrap()
        };
        let keys = [
            key(ObjectKind::DataPack, 4),
            key(ObjectKind::IndexPack, 4),
            key(ObjectKind::Wal, 4),
            key(ObjectKind::DataPack, 9),
        ];
        for (number, key) in keys.iter().enumerate() {
            assert!(!keys[..number].contains(key), "{mode} {number}");
        }
    }
}
