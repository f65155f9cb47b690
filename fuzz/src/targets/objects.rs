//! Whole objects of every kind, with right tags on whatever frames they have.

use pgbr_codec::{
    Decompressor, ObjectHeader, PackFooter, open_manifest, open_record, open_summary, open_wal,
};

pub(crate) fn run(data: &[u8]) {
    let (keyring, mut object) = (crate::plain::keyring(), data.to_vec());
    crate::plain::retag(&mut object);
    let _ =
        (open_record(&keyring, &object), open_summary(&keyring, &object), open_manifest(&keyring, &object));
    let _ = open_wal(&keyring, &mut object.clone(), &mut |_| Ok(()));
    let Ok(footer) = PackFooter::read_object(&keyring, &object) else { return };
    let opener =
        ObjectHeader::parse(&object).and_then(|header| keyring.opener(&header)).expect("it was read");
    let mut decompressor = Decompressor::new();
    for place in footer.places() {
        let start = usize::try_from(place.offset).expect("it lies in the object");
        let mut frame = object[start..][..place.size.frame as usize].to_vec();
        let mut raw = Vec::new();
        let _ = opener.open(&mut decompressor, &mut frame, place.kind, place.number, &mut raw);
    }
}
