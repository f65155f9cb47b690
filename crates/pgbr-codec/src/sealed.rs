//! Small objects that are made and read as a whole: records and manifests.

use crate::{
    Codec, Compression, Compressor, Decompressor, Error, FRAME_OVERHEAD, FrameHeader, FrameKind, Keyring,
    LaneSeed, MAX_RAW, OBJECT_HEADER_LEN, ObjectHeader, ObjectKind, Opener, Result,
};

/// The most bytes that a record's JSON has.
pub const RECORD_MAX: usize = 1 << 20;
/// The most bytes that a manifest has, as an object.
pub const MANIFEST_MAX: usize = 1 << 20;
/// The largest body of a manifest, in bytes of JSON: all manifests of a stanza may be in memory at once.
const BODY_MAX: usize = 4 << 20;
/// Bytes at a manifest's begin that hold its header and summary frame.
pub const SUMMARY_END: usize = 4096;
/// Bytes of a summary's JSON, padded with spaces.
pub const SUMMARY_LEN: usize = SUMMARY_END - OBJECT_HEADER_LEN - FRAME_OVERHEAD;

/// Makes a record from its JSON; not compressed, so that equal content under an equal seed is equal bytes.
///
/// Every record has frame number 0, and so needs a seed of its own: fresh random bytes for each call, except that a retry of
/// one write sends the bytes that the first call gave.
///
/// # Errors
///
/// [`Error::TooLarge`] above [`RECORD_MAX`].
pub fn seal_record(keyring: &Keyring, seed: LaneSeed, json: &[u8]) -> Result<Vec<u8>> {
    Error::check_bound("record", json.len(), RECORD_MAX)?;
    let sealer = keyring.sealer(ObjectKind::Record, seed)?;
    let mut object = Vec::with_capacity(OBJECT_HEADER_LEN + FRAME_OVERHEAD + json.len());
    object.extend_from_slice(&sealer.header(0, 0).encode());
    sealer.seal_into(&mut Compressor::new(Compression::NONE)?, FrameKind::Record, 0, json, &mut object)?;
    Ok(object)
}

/// Opens a record and gives its JSON.
///
/// # Errors
///
/// Everything that [`ObjectHeader::parse`], [`Keyring::opener`] and [`Opener::open`] give, [`Error::OtherObject`], and
/// [`Error::TooLarge`] above [`RECORD_MAX`].
pub fn open_record(keyring: &Keyring, object: &[u8]) -> Result<Vec<u8>> {
    Error::check_bound("record", object.len(), OBJECT_HEADER_LEN + FRAME_OVERHEAD + RECORD_MAX)?;
    let (opener, frames) = open_object(keyring, object, ObjectKind::Record)?;
    // Many are read at once: what they take follows from what is stored.
    if FrameHeader::parse(frames)?.codec != Codec::None {
        return Err(Error::corrupt("record", "it is compressed"));
    }
    open_frame(&opener, frames, FrameKind::Record, 0)
}

/// Makes a manifest from the JSON of its summary, which it pads, and of its body.
///
/// Every manifest has the same frame numbers, and so needs a seed of its own, as [`seal_record`].
///
/// # Errors
///
/// [`Error::SummaryTooLong`] above [`SUMMARY_LEN`]; [`Error::TooLarge`] if the body is above 4 MiB or the object above [`MANIFEST_MAX`].
pub fn seal_manifest(keyring: &Keyring, seed: LaneSeed, summary: &[u8], body: &[u8]) -> Result<Vec<u8>> {
    let summary = pad_summary(summary)?;
    Error::check_bound("manifest body", body.len(), BODY_MAX)?;
    let sealer = keyring.sealer(ObjectKind::Manifest, seed)?;
    let mut object = Vec::with_capacity(SUMMARY_END + FRAME_OVERHEAD + body.len() / 2);
    object.extend_from_slice(&sealer.header(0, 0).encode());
    sealer.seal_into(
        &mut Compressor::new(Compression::NONE)?,
        FrameKind::Summary,
        0,
        &summary,
        &mut object,
    )?;
    let mut compressor = Compressor::new(Compression::new(Codec::Zst, None)?)?;
    sealer.seal_into(&mut compressor, FrameKind::ManifestBody, 1, body, &mut object)?;
    Error::check_bound("manifest", object.len(), MANIFEST_MAX)?;
    Ok(object)
}

/// Opens the summary of a manifest from its first [`SUMMARY_END`] bytes, or more of it, and gives it without the padding.
///
/// # Errors
///
/// Everything that [`ObjectHeader::parse`], [`Keyring::opener`] and [`Opener::open`] give, [`Error::OtherObject`],
/// [`Error::Truncated`] below that length, and [`Error::CorruptObject`] for a summary of another length.
pub fn open_summary(keyring: &Keyring, begin: &[u8]) -> Result<Vec<u8>> {
    let mut summary = open_padded_summary(keyring, begin)?.1;
    summary.truncate(summary.trim_ascii_end().len());
    Ok(summary)
}

/// Opens a whole manifest and gives its summary, as padded, and its body.
///
/// # Errors
///
/// As [`open_summary`], and [`Error::TooLarge`] above [`MANIFEST_MAX`].
pub fn open_manifest(keyring: &Keyring, object: &[u8]) -> Result<(Vec<u8>, Vec<u8>)> {
    Error::check_bound("manifest", object.len(), MANIFEST_MAX)?;
    let (opener, summary) = open_padded_summary(keyring, object)?;
    let body = object.get(SUMMARY_END..).unwrap_or_default();
    Error::check_bound("manifest body", FrameHeader::parse(body)?.raw_len as usize, BODY_MAX)?;
    let body = open_frame(&opener, body, FrameKind::ManifestBody, 1)?;
    Ok((summary, body))
}

/// The root digest of a manifest: what a child names as its parent. Depends on the content alone, not on the sealing.
///
/// `summary` is as [`open_manifest`] gives it, or [`pad_summary`].
pub fn manifest_digest(summary: &[u8], body: &[u8]) -> [u8; 32] {
    *blake3::Hasher::new().update(summary).update(body).finalize().as_bytes()
}

/// The summary with spaces behind it, as it stands in a manifest.
///
/// # Errors
///
/// [`Error::SummaryTooLong`] above [`SUMMARY_LEN`].
pub fn pad_summary(summary: &[u8]) -> Result<Vec<u8>> {
    if summary.len() > SUMMARY_LEN {
        return Err(Error::SummaryTooLong { len: summary.len(), max: SUMMARY_LEN });
    }
    let mut padded = vec![b' '; SUMMARY_LEN];
    padded[..summary.len()].copy_from_slice(summary);
    Ok(padded)
}

const _: () = assert!(MANIFEST_MAX < MAX_RAW && RECORD_MAX < MAX_RAW, "each fits in a frame");

/// The opener of an object of this kind, and its frames.
pub(crate) fn open_object<'a>(
    keyring: &Keyring,
    object: &'a [u8],
    kind: ObjectKind,
) -> Result<(Opener, &'a [u8])> {
    let header = ObjectHeader::parse(object)?;
    header.expect_kind(kind)?;
    Ok((keyring.opener(&header)?, object.get(OBJECT_HEADER_LEN..).unwrap_or_default()))
}

fn open_padded_summary(keyring: &Keyring, begin: &[u8]) -> Result<(Opener, Vec<u8>)> {
    let Some(begin) = begin.get(..SUMMARY_END) else {
        return Err(Error::Truncated {
            what: "manifest summary",
            need: SUMMARY_END as u64,
            have: begin.len() as u64,
        });
    };
    let (opener, frame) = open_object(keyring, begin, ObjectKind::Manifest)?;
    if FrameHeader::parse(frame)?.codec != Codec::None {
        return Err(Error::corrupt("manifest summary", "it is compressed"));
    }
    let summary = open_frame(&opener, frame, FrameKind::Summary, 0)?;
    Ok((opener, summary))
}

fn open_frame(opener: &Opener, frame: &[u8], kind: FrameKind, number: u64) -> Result<Vec<u8>> {
    let mut raw = Vec::new();
    opener.open(&mut Decompressor::new(), &mut frame.to_vec(), kind, number, &mut raw)?;
    Ok(raw)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RepositoryId;

    fn ring() -> Keyring {
        Keyring::plain(RepositoryId::from_bytes([1; 16]))
    }

    fn seed() -> LaneSeed {
        LaneSeed::from_bytes([2; 32])
    }

    #[test]
    fn records_are_bounded() {
        let json = vec![b' '; RECORD_MAX];
        let object = seal_record(&ring(), seed(), &json).unwrap();
        assert_eq!(open_record(&ring(), &object).unwrap(), json);
        assert!(matches!(seal_record(&ring(), seed(), &[b' '; RECORD_MAX + 1]), Err(Error::TooLarge { .. })));

        // A small frame that would be a big record is refused before it is unpacked.
        let sealer = ring().sealer(ObjectKind::Record, seed()).unwrap();
        let mut zst = Compressor::new(Compression::new(Codec::Zst, None).unwrap()).unwrap();
        for raw_len in [1000, RECORD_MAX, MAX_RAW] {
            let mut bomb = sealer.header(0, 0).encode().to_vec();
            sealer.seal_into(&mut zst, FrameKind::Record, 0, &vec![0; raw_len], &mut bomb).unwrap();
            assert!(matches!(open_record(&ring(), &bomb), Err(Error::CorruptObject { .. })), "{raw_len}");
        }
    }

    #[test]
    fn manifests_have_a_fixed_begin_and_a_bound() {
        let body = br#"{"pack":1}"#.repeat(5000);
        let object = seal_manifest(&ring(), seed(), b"{}", &body).unwrap();
        assert_eq!(open_summary(&ring(), &object[..SUMMARY_END]).unwrap(), b"{}");
        let (summary, back) = open_manifest(&ring(), &object).unwrap();
        assert_eq!((summary.len(), &back), (3960, &body));
        assert_eq!(manifest_digest(&summary, &back), manifest_digest(&pad_summary(b"{}").unwrap(), &body));

        let full = vec![b'x'; SUMMARY_LEN];
        let object = seal_manifest(&ring(), seed(), &full, b"{}").unwrap();
        assert_eq!(open_summary(&ring(), &object).unwrap(), full);
        let long = vec![b'x'; SUMMARY_LEN + 1];
        assert!(matches!(
            seal_manifest(&ring(), seed(), &long, b"{}"),
            Err(Error::SummaryTooLong { len: 3961, .. })
        ));

        let long = vec![b' '; BODY_MAX + 1];
        assert!(matches!(seal_manifest(&ring(), seed(), b"{}", &long), Err(Error::TooLarge { .. })));
        let mut bomb = seal_manifest(&ring(), seed(), b"{}", b"{}").unwrap()[..SUMMARY_END].to_vec();
        let sealer = ring().sealer(ObjectKind::Manifest, seed()).unwrap();
        let mut zst = Compressor::new(Compression::new(Codec::Zst, None).unwrap()).unwrap();
        sealer.seal_into(&mut zst, FrameKind::ManifestBody, 1, &long, &mut bomb).unwrap();
        assert!(bomb.len() < 10_000);
        assert!(matches!(open_manifest(&ring(), &bomb), Err(Error::TooLarge { .. })));

        let mut noise = vec![0; MANIFEST_MAX];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        assert!(matches!(seal_manifest(&ring(), seed(), b"{}", &noise), Err(Error::TooLarge { .. })));
    }

    #[test]
    fn objects_do_not_pass_for_others() {
        let record = seal_record(&ring(), seed(), &[b' '; 5000]).unwrap();
        assert!(matches!(open_summary(&ring(), &record), Err(Error::OtherObject { .. })));
        let manifest = seal_manifest(&ring(), seed(), b"{}", b"{}").unwrap();
        assert!(matches!(open_record(&ring(), &manifest), Err(Error::OtherObject { .. })));
    }
}
