//! What a record says of every way in which a repository can differ from it.

use super::*;

fn label(text: &str) -> BackupLabel {
    text.parse().unwrap()
}

fn key(n: u8) -> KeyId {
    KeyId::from_bytes([n; 16])
}

fn slot(n: u8) -> SlotId {
    SlotId([n; 8])
}

fn repo_json(digest: u8, key_id: u8, retired: &[u8], slots: &[u8]) -> RepoJson {
    RepoJson {
        digest: Digest([digest; 32]),
        key_id: key(key_id),
        retired: retired.iter().copied().map(key).collect(),
        slots: slots.iter().copied().map(slot).collect(),
    }
}

fn mark(n: u8) -> BackupMark {
    BackupMark { id: BackupId([n; 16]), digest: Digest([n; 32]), since: 100 }
}

fn archive() -> ArchiveId {
    "15-1".parse().unwrap()
}

fn segment(n: u32) -> WalSegmentName {
    format!("0000000100000000{n:08X}").parse().unwrap()
}

const FIRST: &str = "20261122-120000F";
const SECOND: &str = "20261123-120000F";

/// Key 1 with slot 1; two backups; WAL up to 9.
fn seen() -> Seen {
    Seen {
        repository_id: RepositoryId::from_bytes([7; 16]),
        repo_json: repo_json(1, 1, &[], &[1]),
        backups: BTreeMap::from([(label(FIRST), Some(mark(1))), (label(SECOND), Some(mark(2)))]),
        wal: BTreeMap::from([(archive(), Some(segment(9)))]),
    }
}

fn record() -> Record {
    Record::new(&"demo".parse().unwrap(), &seen(), 100, "host")
}

#[test]
fn what_is_as_it_was_or_has_grown_is_fine() {
    assert_eq!(record().compare(&seen()), []);
    let mut grown = seen();
    grown.backups.insert(label("20261124-120000F"), Some(mark(3)));
    grown.wal.insert(archive(), Some(segment(10)));
    assert_eq!(record().compare(&grown), []);
    // Not looked into.
    grown.backups.insert(label(FIRST), None);
    grown.wal.clear();
    assert_eq!(record().compare(&grown), []);
}

#[test]
fn what_is_gone_or_another_is_told_and_stays_in_the_record() {
    let mut record = record();
    let mut less = seen();
    less.backups.remove(&label(SECOND));
    less.backups.insert(label(FIRST), Some(mark(9)));
    less.wal.insert(archive(), Some(segment(8)));
    let expected = [
        Deviation::BackupOther { label: label(FIRST), since: 100 },
        Deviation::BackupMissing { label: label(SECOND), mark: mark(2) },
        Deviation::WalMissing { archive: archive(), recorded: segment(9), found: Some(segment(8)) },
    ];
    assert_eq!(record.compare(&less), expected);
    assert_eq!(record.take(&less, 200, "host"), expected);
    assert_eq!(record.compare(&less), expected);
    less.wal.insert(archive(), None);
    assert!(record.compare(&less).contains(&Deviation::WalMissing {
        archive: archive(),
        recorded: segment(9),
        found: None
    }));
    assert_eq!(record.compare(&seen()), []);
}

#[test]
fn what_was_struck_out_is_not_missed() {
    let mut record = record();
    assert!(record.leave(&[label(FIRST)]));
    assert!(!record.leave(&[label(FIRST)]));
    let mut less = seen();
    less.backups.remove(&label(FIRST));
    assert_eq!(record.compare(&less), []);
    // It was not removed after all, and is known again.
    assert_eq!(record.take(&seen(), 200, "host"), []);
    assert_eq!(record.compare(&less).len(), 1);
    // With the last of all its WAL may go.
    record.leave(&[label(FIRST), label(SECOND)]);
    assert_eq!(
        record.compare(&Seen { backups: BTreeMap::new(), wal: [(archive(), None)].into(), ..seen() }),
        []
    );
}

#[test]
fn an_older_repo_json_is_told_by_its_text_its_slots_and_its_keys() {
    let of = |repo_json| Seen { repo_json, ..seen() };
    let mut record = record();
    // A passphrase comes, the first one goes, the key is replaced.
    let two = repo_json(2, 1, &[], &[1, 2]);
    let second = repo_json(3, 1, &[], &[2]);
    let rotated = repo_json(4, 2, &[1], &[3]);
    for (time, next) in [(200, &two), (300, &second), (400, &rotated)] {
        assert_eq!(record.take(&of(next.clone()), time, "host"), [Deviation::RepoJsonChanged]);
        assert_eq!(record.compare(&of(next.clone())), []);
    }
    let found = record.compare(&of(two.clone()));
    let back = Deviation::KeyIsBack { found: key(1), recorded: key(2) };
    assert_eq!(
        found,
        [
            Deviation::OldRepoJson { until: 300 },
            Deviation::SlotIsBack { slot: slot(1) },
            Deviation::SlotIsBack { slot: slot(2) },
            back
        ]
    );
    // A text that the record never saw, with the key and the slot of then.
    assert_eq!(
        record.compare(&of(repo_json(9, 1, &[], &[1]))),
        [Deviation::SlotIsBack { slot: slot(1) }, back]
    );
    assert_eq!(
        record.compare(&of(repo_json(9, 3, &[1], &[9]))),
        [Deviation::KeyMissing { key: key(2) }],
        "the newest key that is known is not among the retired ones"
    );
    // What somebody else has changed since takes nothing away.
    for fine in [repo_json(9, 2, &[1], &[3, 4]), repo_json(9, 3, &[1, 2], &[5])] {
        assert_eq!(record.compare(&of(fine)), [Deviation::RepoJsonChanged]);
    }
    // A command that goes on on top of the older one does not make it the right one.
    let before = record.clone();
    record.take(&of(two), 500, "host");
    assert_eq!((&record.repo_json, &record.former), (&before.repo_json, &before.former));
}

#[test]
fn another_repository_is_told_alone_and_changes_nothing() {
    let mut record = record();
    let other = Seen {
        repository_id: RepositoryId::from_bytes([8; 16]),
        backups: BTreeMap::new(),
        repo_json: repo_json(5, 5, &[], &[5]),
        ..seen()
    };
    let before = record.clone();
    let told = [Deviation::OtherRepository { recorded: RepositoryId::from_bytes([7; 16]) }];
    assert_eq!(record.take(&other, 200, "host"), told);
    assert_eq!(record, before);
}

#[test]
fn a_record_is_read_as_it_was_written_and_nothing_else_is() {
    let mut record = record();
    record.take(&Seen { repo_json: repo_json(2, 1, &[], &[2]), ..seen() }, 200, "host");
    let text = record.render().unwrap();
    assert_eq!(Record::parse(&text).unwrap(), record);
    for cut in 0..text.len() - 2 {
        assert!(Record::parse(&text[..cut]).is_err(), "{cut}");
    }
    let text = String::from_utf8(text).unwrap();
    // A field of a later program is passed over.
    assert_eq!(Record::parse(text.replacen('{', "{\"later\":[1],", 1).as_bytes()).unwrap(), record);
    for (from, to) in [
        ("\"format\": 1", "\"format\": 2"),
        (FIRST, "20261322-120000F"),
        ("0101010101010101\"", "01\""),
        ("\"15-1\"", "\"15-0\""),
        ("demo", ".."),
    ] {
        assert!(text.contains(from), "{from}");
        assert!(Record::parse(text.replace(from, to).as_bytes()).is_err(), "{from}");
    }
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut record = record();
    for n in 0..MAX_FORMER + MAX_REMOVED + 10 {
        let mut next = repo_json(0, 1, &[], &[]);
        next.digest.0[..8].copy_from_slice(&(n as u64).to_le_bytes());
        next.slots = vec![SlotId((n as u64).to_le_bytes())];
        record.take(&Seen { repo_json: next, ..seen() }, 1, "host");
    }
    assert_eq!((record.former.len(), record.removed_slots.len()), (MAX_FORMER, MAX_REMOVED));
}
