//! A key that only writes: what is made with it opens for who has the repository's key, and for nobody else.

use std::collections::BTreeSet;

use pgbr_codec::{
    Codec, Decompressor, Error, FrameKind, KeyId, KeyMode, Keyring, LaneSalt, LaneSeed, ObjectHeader,
    ObjectKind, PackFooter, RepositoryKey, RetiredWriter, WriterKey, check_wal, open_wal,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::objects::{
    KEY, KEY_ID, REPOSITORY, WAL_NAME, all, compressed, data_pack, keyrings, read, sealer_of, wal,
};

fn writer_key() -> WriterKey {
    WriterKey::of(&RepositoryKey::from_bytes(KEY))
}

fn writer() -> Keyring {
    Keyring::writer(REPOSITORY, KEY_ID, &writer_key(), [])
}

fn owner() -> Keyring {
    keyrings()[1].1.clone()
}

fn is_write_only<T>(result: Result<T, Error>) -> bool {
    matches!(result, Err(Error::WriteOnly { .. }))
}

#[test]
fn what_a_writer_makes_is_what_who_reads_makes_for_writers() {
    let [_, _, (_, written)] = keyrings();
    assert!(written.reads() && !writer().reads());
    for (ours, theirs) in all(&writer()).into_iter().zip(all(&written)) {
        assert_eq!(ours, theirs);
    }
    for (name, object) in [all(&writer()), compressed(&writer())].concat() {
        let header = ObjectHeader::parse(&object).unwrap();
        let content = matches!(header.kind, ObjectKind::DataPack | ObjectKind::Wal);
        assert_eq!(header.mode, if content { KeyMode::PublicKey } else { KeyMode::RepositoryKey }, "{name}");
        // The seed, which would open the lane, is nowhere in it.
        assert_eq!(header.salt != LaneSalt::from_bytes([0x44; 32]), content, "{name}");
        assert!(read(&owner(), &object).is_ok(), "{name}");
        assert!(writer().check(&header).is_ok(), "{name}");
    }
}

#[test]
fn a_writer_opens_no_content_whoever_wrote_it() {
    for (mode, ring) in &keyrings()[1..] {
        for (name, object) in [all(ring), compressed(ring)].concat() {
            let kind = ObjectHeader::parse(&object).unwrap().kind;
            let content = matches!(kind, ObjectKind::DataPack | ObjectKind::Wal);
            // A file without content has nothing to hide but its name.
            let empty = *mode == "written" && name == "wal-empty";
            let opened = read(&writer(), &object);
            if content && !empty {
                assert!(is_write_only(opened), "{mode} {name}");
            } else {
                assert_eq!(opened.unwrap(), read(&owner(), &object).unwrap(), "{mode} {name}");
            }
        }
    }
}

/// What ends an object is there for who takes up a broken run, and for who archives a file that is archived already.
#[test]
fn a_writer_sees_what_an_object_of_its_like_holds_and_whether_it_is_whole() {
    let [_, (_, sealed), (_, written)] = keyrings();
    let pack = data_pack(&written, &[Codec::None, Codec::Zst]);
    assert_eq!(
        PackFooter::read_object(&writer(), &pack).unwrap(),
        PackFooter::read_object(&owner(), &pack).unwrap()
    );
    assert!(is_write_only(PackFooter::read_object(&writer(), &data_pack(&sealed, &[Codec::None]))));

    for pieces in [&[&b"first piece"[..], b"second"][..], &[]] {
        let object = wal(&written, Codec::None, pieces);
        let trailer = open_wal(&owner(), &mut object.clone(), &mut |_| Ok(())).unwrap();
        assert_eq!(trailer.name, WAL_NAME);
        for ring in [writer(), owner()] {
            assert_eq!(check_wal(&ring, &object).unwrap(), trailer);
            let mut bad = object.clone();
            for bit in 0..object.len() * 8 {
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(check_wal(&ring, &bad).is_err(), "bit {bit} of {}", object.len() * 8);
                bad[bit / 8] ^= 1 << (bit % 8);
            }
            for cut in 0..object.len() {
                assert!(check_wal(&ring, &object[..cut]).is_err(), "cut to {cut}");
            }
            assert!(check_wal(&ring, &[&object[..], b" "].concat()).is_err());
        }
    }
    assert!(is_write_only(check_wal(&writer(), &wal(&sealed, Codec::None, &[b"x"]))));
    assert!(check_wal(&writer(), &pack).is_err());
}

/// Everything that a writer has: four keys. None of them is one that opens content, nor is one in what it could derive as this program does.
#[test]
fn nothing_that_a_writer_has_opens_content() {
    let key = RepositoryKey::from_bytes(KEY);
    let next = RepositoryKey::from_bytes([0x77; 32]);
    // The payload of a slot, by way of an entry whose wrapping key is known here.
    let next_writer = WriterKey::of(&next);
    let next_id = KeyId::from_bytes([0x78; 16]);
    let entry = RetiredWriter::wrap((KEY_ID, &writer_key()), REPOSITORY, (next_id, &next_writer), [1; 12]);
    let wrapping = hkdf(&[], &class_key(&next, "write"), b"pgbr retired writer v1");
    let payload = unwrap(&entry.unwrap(), wrapping, next_id);
    let parts: Vec<[u8; 32]> = payload.chunks_exact(32).map(|part| part.try_into().unwrap()).collect();
    let [index, meta, write, public] = parts.try_into().unwrap();
    assert_eq!(index, class_key(&key, "index"));
    assert_eq!(meta, class_key(&key, "meta"));
    assert_eq!(write, class_key(&key, "write"));
    let private = x25519_dalek::StaticSecret::from(class_key(&key, "private"));
    assert_eq!(public, x25519_dalek::PublicKey::from(&private).to_bytes());

    // Whatever one of them is taken for: a class key, a lane's key, the private half of either pair.
    let have = [index, meta, write, public];
    for secret in ["data", "wal", "auth", "private"] {
        assert!(!have.contains(&class_key(&key, secret)), "{secret}");
    }
    assert!(!have.contains(&KEY));
    for (mode, ring) in &keyrings()[1..] {
        let sealer = sealer_of(ring, ObjectKind::DataPack);
        let header = sealer.header(0, 0);
        let mut none = crate::objects::compressor(Codec::None);
        let frame = sealer.seal(&mut none, FrameKind::Data, 7, b"a secret page").unwrap();
        let salt = *header.salt.as_bytes();
        let mut candidates = BTreeSet::from(have);
        for key in have {
            candidates.insert(hkdf(&salt, &key, b"pgbr lane v1\x01"));
            candidates.insert(hkdf(&salt, &key, b"pgbr end v2\x01"));
            for class in ["data", "wal", "private"] {
                candidates.insert(class_key(&RepositoryKey::from_bytes(key), class));
            }
            for scalar in have {
                let shared = x25519_dalek::x25519(scalar, salt);
                for input in [[shared, key].concat(), [shared, write].concat(), shared.to_vec()] {
                    candidates.insert(hkdf(&salt, &input, &[b"pgbr lane v2\x01", &public[..]].concat()));
                }
            }
        }
        let open = |key: [u8; 32]| {
            let opener = pgbr_codec::LaneKey::from_bytes(header, key).opener();
            let mut raw = Vec::new();
            opener
                .open(&mut Decompressor::new(), &mut frame.clone(), FrameKind::Data, 7, &mut raw)
                .map(|()| raw)
        };
        for candidate in candidates {
            assert!(open(candidate).is_err(), "{mode}");
        }
        // The same way with what the owner has opens it: the tries above are tries at the right thing.
        let right = match header.mode {
            KeyMode::PublicKey => {
                let shared = x25519_dalek::x25519(class_key(&key, "private"), salt);
                hkdf(&salt, &[shared, write].concat(), &[b"pgbr lane v2\x01", &public[..]].concat())
            }
            _ => hkdf(&salt, &class_key(&key, "data"), b"pgbr lane v1\x01"),
        };
        assert_eq!(open(right).unwrap(), b"a secret page", "{mode}");
    }
}

/// Who has no key at all knows the public one at most: what is made with that alone does not pass.
#[test]
fn the_public_key_alone_makes_nothing_that_opens() {
    let other = RepositoryKey::from_bytes([0x77; 32]);
    let theirs = Keyring::sealed(REPOSITORY, KEY_ID, &other).for_writers();
    for object in [wal(&theirs, Codec::None, &[b"forged"]), data_pack(&theirs, &[Codec::None])] {
        assert!(matches!(read(&owner(), &object), Err(Error::TagMismatch { .. })));
    }
    // As above, and with the public half of this repository in place of the other's: the key that all writers have is missing.
    let key = RepositoryKey::from_bytes(KEY);
    let private = x25519_dalek::StaticSecret::from(class_key(&key, "private"));
    let public = x25519_dalek::PublicKey::from(&private);
    let own = x25519_dalek::StaticSecret::from([5; 32]);
    let lane = x25519_dalek::PublicKey::from(&own).to_bytes();
    let shared = own.diffie_hellman(&public).to_bytes();
    let header =
        ObjectHeader { salt: LaneSalt::from_bytes(lane), ..sealer_of(&theirs, ObjectKind::Wal).header(0, 0) };
    let opener = owner().opener(&header).unwrap();
    for input in [shared.to_vec(), [shared, [0; 32]].concat(), [shared, public.to_bytes()].concat()] {
        let forged = hkdf(&lane, &input, &[b"pgbr lane v2\x04", &public.to_bytes()[..]].concat());
        let forger = pgbr_codec::LaneKey::from_bytes(header, forged).sealer();
        let mut none = crate::objects::compressor(Codec::None);
        let mut frame = forger.seal(&mut none, FrameKind::WalContent, 0, b"forged").unwrap();
        let opened =
            opener.open(&mut Decompressor::new(), &mut frame, FrameKind::WalContent, 0, &mut Vec::new());
        assert!(matches!(opened, Err(Error::TagMismatch { .. })));
    }
}

#[test]
fn points_of_low_order_are_no_public_keys() {
    let header = sealer_of(&writer(), ObjectKind::Wal).header(0, 0);
    let mut one = [0; 32];
    one[0] = 1;
    // Order 8 and p - 1, from the list of RFC 7748's implementers.
    let eight = "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800";
    let minus_one = "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f";
    let hex =
        |text: &str| <[u8; 32]>::try_from(data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap()).unwrap();
    for point in [[0; 32], one, hex(eight), hex(minus_one)] {
        let header = ObjectHeader { salt: LaneSalt::from_bytes(point), ..header };
        assert!(matches!(owner().opener(&header), Err(Error::CorruptObject { .. })));
    }
}

#[test]
fn writers_of_now_read_what_is_known_of_older_objects() {
    let (old_id, old) = (KEY_ID, RepositoryKey::from_bytes(KEY));
    let (now_id, now) = (KeyId::from_bytes([0x78; 16]), RepositoryKey::from_bytes([0x77; 32]));
    let (old_writer, now_writer) = (WriterKey::of(&old), WriterKey::of(&now));
    let entry =
        RetiredWriter::wrap((old_id, &old_writer), REPOSITORY, (now_id, &now_writer), [1; 12]).unwrap();
    let opened = entry.unwrap_with(REPOSITORY, (now_id, &now_writer)).unwrap();
    let ring = Keyring::writer(REPOSITORY, now_id, &now_writer, [(old_id, &opened)]);
    let [_, (_, sealed), (_, written)] = keyrings();
    for (name, object) in all(&sealed) {
        assert_eq!(read(&ring, &object).is_ok(), !name.contains("wal") && !name.contains("data"), "{name}");
    }
    assert!(check_wal(&ring, &wal(&written, Codec::None, &[b"old"])).is_ok());
    assert_eq!(sealer_of(&ring, ObjectKind::Wal).header(0, 0).key_id, now_id);
    let reader = Keyring::sealed_with(REPOSITORY, now_id, &now, [(old_id, &old)]);
    for object in [wal(&written, Codec::None, &[b"old"]), wal(&ring, Codec::None, &[b"new"])] {
        assert!(read(&reader, &object).is_ok());
    }

    let text = serde_json::to_string(&entry).unwrap();
    assert_eq!(serde_json::from_str::<RetiredWriter>(&text).unwrap(), entry);
    let refused = |entry: &RetiredWriter, id, key: &WriterKey| {
        matches!(entry.unwrap_with(REPOSITORY, (id, key)), Err(Error::RetiredKey { .. }))
    };
    assert!(refused(&entry, old_id, &now_writer));
    assert!(refused(&entry, now_id, &old_writer));
    for bit in 0..entry.wrapped.len() * 8 {
        let mut bad = entry.clone();
        bad.wrapped[bit / 8] ^= 1 << (bit % 8);
        assert!(refused(&bad, now_id, &now_writer));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn who_reads_opens_what_any_seed_made(
        bytes: [u8; 32],
        pieces in vec(vec(any::<u8>(), 0..3_000), 1..5),
        edits in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut writer_of = pgbr_codec::WalSealer::new(
            writer().sealer(ObjectKind::Wal, LaneSeed::from_bytes(bytes)).unwrap(),
        ).unwrap();
        let mut object = writer_of.header().to_vec();
        let mut none = crate::objects::compressor(Codec::None);
        for piece in &pieces {
            object.extend(writer_of.piece(&mut none, piece).unwrap());
        }
        object.extend(writer_of.finish(WAL_NAME, None).unwrap().0);
        let mut content = Vec::new();
        let trailer = open_wal(&owner(), &mut object.clone(), &mut |piece| { content.extend_from_slice(piece); Ok(()) }).unwrap();
        prop_assert_eq!(content, pieces.concat());
        prop_assert_eq!(check_wal(&writer(), &object).unwrap(), trailer);
        prop_assert!(is_write_only(open_wal(&writer(), &mut object.clone(), &mut |_| Ok(()))));
        prop_assert!(!object.windows(32).any(|window| window == bytes));

        let mut bad = object.clone();
        for (at, value) in edits {
            *at.get_mut(&mut bad) = value;
        }
        prop_assert!(bad == object || check_wal(&writer(), &bad).is_err());
        prop_assert!(bad == object || read(&owner(), &bad).is_err());
    }

    #[test]
    fn arbitrary_public_keys_in_headers_do_no_harm(salt: [u8; 32], raw in vec(any::<u8>(), 0..500)) {
        for kind in [ObjectKind::Wal, ObjectKind::DataPack] {
            let header = ObjectHeader { salt: LaneSalt::from_bytes(salt), ..sealer_of(&writer(), kind).header(0, 0) };
            let object = [&header.encode()[..], &raw].concat();
            for ring in [writer(), owner()] {
                prop_assert!(read(&ring, &object).is_err());
                prop_assert!(check_wal(&ring, &object).is_err());
            }
        }
    }
}

fn class_key(key: &RepositoryKey, class: &str) -> [u8; 32] {
    hkdf(&[], key.as_bytes(), &[b"pgbr class v1 ", class.as_bytes()].concat())
}

/// HKDF-SHA-256 to 32 bytes, on its own way.
fn hkdf(salt: &[u8], input: &[u8], info: &[u8]) -> [u8; 32] {
    use ring::hmac::{HMAC_SHA256, Key, sign};
    let extracted = sign(&Key::new(HMAC_SHA256, salt), input);
    let expanded = sign(&Key::new(HMAC_SHA256, extracted.as_ref()), &[info, &[1]].concat());
    expanded.as_ref().try_into().unwrap()
}

/// What is in an entry.
fn unwrap(entry: &RetiredWriter, wrapping: [u8; 32], now: KeyId) -> Vec<u8> {
    use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &wrapping).unwrap());
    let parts =
        [b"pgbr retired writer v1", &REPOSITORY.as_bytes()[..], entry.key_id.as_bytes(), now.as_bytes()];
    let mut wrapped = entry.wrapped;
    let nonce = Nonce::assume_unique_for_key(entry.nonce);
    key.open_in_place(nonce, Aad::from(parts.concat()), &mut wrapped).unwrap().to_vec()
}
