//! Names, labels, positions and paths: what is read is printed in a form that is read as the same.

use std::fmt::Display;
use std::str::FromStr;

use pgbr_manifest::{
    ArchiveId, BackupLabel, LabelTime, Lsn, PgVersion, RelPath, StanzaName, WalFileName, WalSegmentName,
    WalSegmentSize,
};
use pgbr_pg::{RelationFile, holds_relations, is_temporary};

fn round_trip<T: FromStr + Display + PartialEq>(text: &str) -> Option<T> {
    let value: T = text.parse().ok()?;
    assert!(value.to_string().parse::<T>().is_ok_and(|again| again == value), "{text}");
    Some(value)
}

pub(crate) fn run(data: &[u8]) {
    let _ = (RelationFile::parse(data), is_temporary(data));
    if let Ok(path) = RelPath::new(data) {
        assert!(path.components().all(|c| !c.is_empty() && c != b"." && c != b".."));
        // The control file sorts after everything, but nothing lies below it.
        let after = |parent: RelPath| path.is_within(&parent) && (parent < path || parent.is_pg_control());
        assert!(path.parent().is_none_or(after));
        holds_relations(&path);
    }
    let Ok(text) = str::from_utf8(data) else { return };
    let _ = (round_trip::<Lsn>(text), round_trip::<LabelTime>(text).map(LabelTime::next));
    let _ = (round_trip::<StanzaName>(text), round_trip::<ArchiveId>(text), round_trip::<PgVersion>(text));
    let _ = (round_trip::<BackupLabel>(text), round_trip::<WalFileName>(text));
    if let Some(segment) = round_trip::<WalSegmentName>(text)
        && let Some(start) = segment.start(WalSegmentSize::DEFAULT)
    {
        let again = WalSegmentName::containing(segment.timeline(), start, WalSegmentSize::DEFAULT);
        assert_eq!(again, segment);
        segment.next(WalSegmentSize::DEFAULT);
    }
}
