//! Small objects of every kind from fixed keys and salts, and one way to read them all.

use pgbr_codec::{
    Codec, Compression, Compressor, Decompressor, FrameKind, KeyId, Keyring, LaneSeed, ObjectHeader,
    ObjectKind, PackBuilder, PackFooter, RepositoryId, RepositoryKey, Result, Sealer, WalSealer,
    manifest_digest, open_manifest, open_record, open_summary, open_wal, seal_manifest, seal_record,
};
use serde_json::{Value, json};

pub(crate) const REPOSITORY: RepositoryId = RepositoryId::from_bytes([0x11; 16]);
pub(crate) const KEY_ID: KeyId = KeyId::from_bytes([0x22; 16]);
pub(crate) const KEY: [u8; 32] = [0x33; 32];
pub(crate) const SEED: [u8; 32] = [0x44; 32];
pub(crate) const ATTEMPT: u64 = 0x0123_4567_89ab_cdef;
pub(crate) const WAL_NAME: &str = "000000010000000000000001";

/// An object and its name.
pub(crate) type Named = (&'static str, Vec<u8>);

/// A keyring of each mode, with its name.
pub(crate) fn keyrings() -> [(&'static str, Keyring); 3] {
    let sealed = Keyring::sealed(REPOSITORY, KEY_ID, &RepositoryKey::from_bytes(KEY));
    let written = sealed.clone().for_writers();
    [("plain", Keyring::plain(REPOSITORY)), ("sealed", sealed), ("written", written)]
}

/// The seed of every lane here.
pub(crate) fn seed() -> LaneSeed {
    LaneSeed::from_bytes(SEED)
}

/// A sealer of that lane.
pub(crate) fn sealer_of(keyring: &Keyring, kind: ObjectKind) -> Sealer {
    keyring.sealer(kind, seed()).unwrap()
}

/// A sealer of another lane.
pub(crate) fn other_sealer_of(keyring: &Keyring, kind: ObjectKind) -> Sealer {
    keyring.sealer(kind, LaneSeed::from_bytes([9; 32])).unwrap()
}

pub(crate) fn compressor(codec: Codec) -> Compressor {
    Compressor::new(Compression::new(codec, None).unwrap()).unwrap()
}

/// A few hundred bytes that compress, different for each number.
pub(crate) fn grain(number: u8) -> Vec<u8> {
    (0..400u16).map(|i| number.wrapping_add(u8::try_from(i % 7).unwrap())).collect()
}

/// A data pack of two runs, one frame for each given codec in the second.
pub(crate) fn data_pack(keyring: &Keyring, codecs: &[Codec]) -> Vec<u8> {
    let sealer = sealer_of(keyring, ObjectKind::DataPack);
    let mut none = compressor(Codec::None);
    let mut pack = PackBuilder::new(&sealer, ATTEMPT, 5, 4096);
    pack.push(&sealer.seal(&mut none, FrameKind::Data, 3, b"first").unwrap()).unwrap();
    for (number, &codec) in (40..).zip(codecs) {
        let frame =
            sealer.seal(&mut compressor(codec), FrameKind::Data, number.into(), &grain(number)).unwrap();
        pack.push(&frame).unwrap();
    }
    pack.finish(&sealer, &mut none, b"index rows").unwrap().to_vec()
}

/// An index pack with a node of every kind.
pub(crate) fn index_pack(keyring: &Keyring) -> Vec<u8> {
    let sealer = sealer_of(keyring, ObjectKind::IndexPack);
    let mut none = compressor(Codec::None);
    let mut pack = PackBuilder::new(&sealer, ATTEMPT, 1, 4096);
    for (kind, raw) in [
        (FrameKind::IndexLeaf, "leaf"),
        (FrameKind::IndexFence, "fence"),
        (FrameKind::FrameTable, "frame table"),
        (FrameKind::TableFence, "table fence"),
    ] {
        pack.push(&sealer.seal(&mut none, kind, 0, raw.as_bytes()).unwrap()).unwrap();
    }
    pack.finish(&sealer, &mut none, b"").unwrap().to_vec()
}

/// A WAL file of the given pieces.
pub(crate) fn wal(keyring: &Keyring, codec: Codec, pieces: &[&[u8]]) -> Vec<u8> {
    let mut writer = WalSealer::new(sealer_of(keyring, ObjectKind::Wal)).unwrap();
    let mut object = writer.header().to_vec();
    for piece in pieces {
        object.extend(writer.piece(&mut compressor(codec), piece).unwrap());
    }
    object.extend(writer.finish(WAL_NAME, Some(7_123_456_789_012_345_678)).unwrap().0);
    object
}

/// Every kind of object that is made without compression, with its name.
pub(crate) fn all(keyring: &Keyring) -> Vec<Named> {
    let record = br#"{"record":"pin","name":"00"}"#;
    let summary = br#"{"label":"20261122-120000F"}"#;
    vec![
        ("record", seal_record(keyring, seed(), record).unwrap()),
        // The body is too short to shrink.
        ("manifest", seal_manifest(keyring, seed(), summary, b"{}").unwrap()),
        ("wal", wal(keyring, Codec::None, &[b"WAL content", b", the second piece"])),
        ("wal-empty", wal(keyring, Codec::None, &[])),
        ("data-pack", data_pack(keyring, &[Codec::None, Codec::None])),
        ("index-pack", index_pack(keyring)),
    ]
}

/// Objects with compressed payloads, with their names.
pub(crate) fn compressed(keyring: &Keyring) -> Vec<Named> {
    let body = [br#"{"body":""#.to_vec(), grain(b'0'), br#""}"#.to_vec()].concat();
    vec![
        ("manifest-zst", seal_manifest(keyring, seed(), b"{}", &body).unwrap()),
        ("wal-lz4", wal(keyring, Codec::Lz4, &[&grain(1), &grain(2)])),
        ("data-pack-codecs", data_pack(keyring, &Codec::ALL)),
    ]
}

/// Reads everything that an object holds, whatever its kind.
pub(crate) fn read(keyring: &Keyring, object: &[u8]) -> Result<Value> {
    let header = ObjectHeader::parse(object)?;
    match header.kind {
        ObjectKind::Record => Ok(json!({"record": text(&open_record(keyring, object)?)})),
        ObjectKind::Manifest => {
            let (summary, body) = open_manifest(keyring, object)?;
            Ok(json!({
                "summary": text(&open_summary(keyring, object)?),
                "body": text(&body),
                "root-digest": hex(&manifest_digest(&summary, &body)),
            }))
        }
        ObjectKind::Wal => {
            let mut content = Vec::new();
            let trailer = open_wal(keyring, &mut object.to_vec(), &mut |piece| {
                content.extend_from_slice(piece);
                Ok(())
            })?;
            Ok(json!({"content": hex(&content), "trailer": trailer}))
        }
        ObjectKind::DataPack | ObjectKind::IndexPack => read_pack(keyring, &header, object),
    }
}

fn read_pack(keyring: &Keyring, header: &ObjectHeader, object: &[u8]) -> Result<Value> {
    let footer = PackFooter::read_object(keyring, object)?;
    let opener = keyring.opener(header)?;
    let mut decompressor = Decompressor::new();
    let mut frames = Vec::new();
    for place in footer.places() {
        let start = usize::try_from(place.offset).unwrap();
        let mut frame = object[start..][..place.size.frame as usize].to_vec();
        let mut raw = Vec::new();
        opener.open(&mut decompressor, &mut frame, place.kind, place.number, &mut raw)?;
        frames.push(json!({"kind": place.kind.to_string(), "number": place.number, "raw": hex(&raw)}));
    }
    Ok(json!({
        "attempt": format!("{:016x}", footer.attempt),
        "pack": footer.number,
        "frames": frames,
        "rows": text(&footer.rows),
    }))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap_or_else(|_| hex(bytes))
}
