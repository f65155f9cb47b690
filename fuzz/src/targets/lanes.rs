//! Content in lanes of writers (key mode 2), with right tags on whatever it is: who has the repository's key opens all of it, who writes what ends it,
//! and both see the same there. And lanes that no writer began.

use std::sync::OnceLock;

use pgbr_codec::{
    Decompressor, FrameKind, KeyId, KeyMode, Keyring, LaneSeed, OBJECT_HEADER_LEN, ObjectHeader, ObjectKind, PackFooter,
    RepositoryId, RepositoryKey, Sealer, WriterKey, check_wal, open_wal,
};

struct Rings {
    owner: Keyring,
    writer: Keyring,
}

fn rings() -> &'static Rings {
    static RINGS: OnceLock<Rings> = OnceLock::new();
    RINGS.get_or_init(|| {
        let (id, key_id) = (RepositoryId::from_bytes([0x11; 16]), KeyId::from_bytes([0x22; 16]));
        let key = RepositoryKey::from_bytes([0x35; 32]);
        let owner = Keyring::sealed(id, key_id, &key).for_writers();
        Rings { owner, writer: Keyring::writer(id, key_id, &WriterKey::of(&key), []) }
    })
}

pub(crate) fn run(input: (bool, &[u8])) {
    let (is_pack, data) = input;
    foreign(data);
    let mut pieces = crate::plain::pieces(data);
    let Some(end) = pieces.pop() else { return };
    if is_pack { pack(&pieces, end) } else { wal(&pieces, end) }
}

/// Whatever it is, it was not made with these keys.
fn foreign(data: &[u8]) {
    let (Ok(header), Rings { owner, writer }) = (ObjectHeader::parse(data), rings()) else { return };
    let (repository, key_id) = (owner.repository(), owner.key_id());
    let header = ObjectHeader { mode: KeyMode::PublicKey, repository, key_id, ..header };
    let mut object = data.to_vec();
    object[..OBJECT_HEADER_LEN].copy_from_slice(&header.encode());
    for ring in [owner, writer] {
        assert!(open_wal(ring, &mut object.clone(), &mut |_| Ok(())).is_err());
        assert!(check_wal(ring, &object).is_err());
        assert!(PackFooter::read_object(ring, &object).is_err());
    }
}

fn sealer(kind: ObjectKind) -> Sealer {
    rings().writer.sealer(kind, LaneSeed::from_bytes([0x44; 32])).expect("the public key is one")
}

/// The content of a WAL file, and its trailer, with the digests where it asks for them.
fn wal(pieces: &[&[u8]], trailer: &[u8]) {
    let (sealer, Rings { owner, writer }) = (sealer(ObjectKind::Wal), rings());
    let mut object = sealer.header(0, 0).encode().to_vec();
    for (piece, number) in pieces.iter().zip(0..) {
        let Some(frame) = crate::plain::frame(&sealer, FrameKind::WalContent, number, piece) else { return };
        object.extend(frame);
    }
    let Ok(trailer) = std::str::from_utf8(trailer) else { return };
    let (content, stored) = (blake3::hash(&pieces.concat()).to_hex(), blake3::hash(&object).to_hex());
    let trailer = trailer.replace("CONTENT", &content).replace("STORED", &stored);
    let Some(frame) = crate::plain::frame(&sealer, FrameKind::WalTrailer, 0, trailer.as_bytes()) else { return };
    object.extend(frame);
    let mut found = Vec::new();
    let opened = open_wal(owner, &mut object.clone(), &mut |piece| {
        found.extend_from_slice(piece);
        Ok(())
    });
    if let Ok(opened) = opened {
        assert_eq!(found, pieces.concat());
        // What is stored is for writers to compare: who opens the content sees it by that.
        assert!(check_wal(writer, &object).is_ok_and(|seen| seen == opened) || !trailer.contains(stored.as_str()));
    }
    assert!(pieces.is_empty() || open_wal(writer, &mut object, &mut |_| Ok(())).is_err());
}

/// The frames of a data pack, and the content of its footer.
fn pack(pieces: &[&[u8]], footer: &[u8]) {
    let (sealer, Rings { owner, writer }) = (sealer(ObjectKind::DataPack), rings());
    let attempt = footer.first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
    let number = footer.get(8..).and_then(|c| c.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b));
    let mut object = sealer.header(attempt, number).encode().to_vec();
    for (piece, number) in pieces.iter().zip(0..) {
        let Some(frame) = crate::plain::frame(&sealer, FrameKind::Data, number, piece) else { return };
        object.extend(frame);
    }
    let Some(end) = crate::plain::frame(&sealer, FrameKind::PackFooter, number.into(), footer) else { return };
    object.extend(&end);
    object.extend(u32::try_from(end.len()).expect("a frame is small").to_le_bytes());
    object.extend(*b"\0\0\0\0PGBREND1");
    let (read, seen) = (PackFooter::read_object(owner, &object), PackFooter::read_object(writer, &object));
    assert_eq!(read.as_ref().ok(), seen.as_ref().ok());
    let Ok(footer) = read else { return };
    let openers = [owner, writer].map(|ring| ring.opener(&sealer.header(attempt, number)).expect("it is their lane"));
    let mut decompressor = Decompressor::new();
    for place in footer.places() {
        let start = usize::try_from(place.offset).expect("it lies in the object");
        let stored = &object[start..][..place.size.frame as usize];
        let opened = openers.each_ref().map(|opener| {
            let (mut frame, mut raw) = (stored.to_vec(), Vec::new());
            opener.open(&mut decompressor, &mut frame, place.kind, place.number, &mut raw).map(|()| raw)
        });
        if let Ok(raw) = &opened[0] {
            assert!(pieces.contains(&raw.as_slice()));
        }
        assert!(opened[1].is_err());
    }
}
