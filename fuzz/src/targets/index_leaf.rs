//! Records of an index leaf: what is read is written and read again.

use pgbr_manifest::index::{LeafReader, LeafWriter, Record};

fn records(leaf: &[u8]) -> Option<Vec<Record>> {
    let mut reader = LeafReader::new(leaf).ok()?;
    std::iter::from_fn(|| reader.next_record().transpose()).collect::<Result<_, _>>().ok()
}

pub(crate) fn run(data: &[u8]) {
    let Some(found) = records(data) else { return };
    let mut writer = LeafWriter::default();
    found.iter().for_each(|record| writer.push(record));
    assert_eq!(records(&writer.take()), Some(found));
}
