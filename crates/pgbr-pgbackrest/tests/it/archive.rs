//! WAL of the archives, and what happens to it.

use pgbr_manifest::{SystemId, TimelineHistory, TimelineId, WalFileName};
use pgbr_pgbackrest::{Archive, ArchiveId, Compression, Error};

use crate::written::{STANZA, Storage, Written, all};

const MIB: u64 = 1 << 20;

fn archive(written: &Written) -> (Archive, ArchiveId) {
    let archive = written.stanza().archive().unwrap();
    let ids = archive.ids().unwrap();
    assert_eq!(ids.iter().map(ToString::to_string).collect::<Vec<_>>(), ["15-1"]);
    (archive, ids[0])
}

#[test]
fn segments_are_found_and_read() {
    let all = all();
    assert_eq!(all.segments.len(), Compression::ALL.len());
    for written in &all.repositories {
        let (archive, id) = archive(written);
        for ((name, content), compression) in all.segments.iter().zip(Compression::ALL) {
            let found = archive.find(id, &name.parse().unwrap()).unwrap();
            let [object] = &found[..] else { panic!("{name} is there once, not {found:?}") };
            assert_eq!(object.compression, compression);
            for size in [None, Some(MIB)] {
                let read = archive.open(object, size).unwrap().into_bytes(1 << 24).unwrap();
                assert!(read == *content, "{}: {name}", written.kind);
            }
            let error = archive.open(object, Some(MIB * 16)).unwrap().into_bytes(1 << 30).unwrap_err();
            assert!(matches!(error, Error::ContentMismatch { .. }), "{error:?}");
        }
        assert!(archive.find(id, &"0000000100000000000000FE".parse().unwrap()).unwrap().is_empty());
        assert!(archive.find(id, &"00000009.history".parse().unwrap()).unwrap().is_empty());
    }
}

#[test]
fn everything_in_an_archive_is_listed_and_read() {
    for written in &all().repositories {
        let (archive, id) = archive(written);
        let directories = archive.directories(id).unwrap();
        assert_eq!(directories, ["0000000100000000", "0000000200000000"]);
        let mut kinds = [0; 3];
        for directory in &directories {
            let files = archive.files(id, directory).unwrap();
            assert!(files.is_sorted_by_key(|object| object.file));
            for object in &files {
                archive.open(object, None).unwrap().into_bytes(1 << 24).unwrap();
                match object.file {
                    WalFileName::Segment(_) => kinds[0] += 1,
                    WalFileName::Partial(_) => kinds[1] += 1,
                    WalFileName::BackupHistory(..) => kinds[2] += 1,
                    WalFileName::History(_) => panic!("a history lies elsewhere"),
                }
            }
        }
        assert!(kinds[0] > 5 && kinds[1] == 1, "{}: {kinds:?}", written.kind);
        let [history] = &archive.histories(id).unwrap()[..] else { panic!("one timeline was left") };
        assert_eq!(archive.find(id, &history.file).unwrap(), std::slice::from_ref(history));
        let text = archive.open(history, None).unwrap().into_bytes(1 << 16).unwrap();
        let parsed = TimelineHistory::parse(TimelineId::new(2), &text).unwrap();
        assert!(parsed.contains(TimelineId::new(1), "0/1".parse().unwrap()));
    }
}

#[test]
fn the_history_knows_the_cluster() {
    let all = all();
    let control = all.cluster.data_program("pg_controldata", &[]);
    let line = control.lines().find_map(|line| line.strip_prefix("Database system identifier:")).unwrap();
    let system_id = SystemId::new(line.trim().parse().unwrap());
    for written in &all.repositories {
        let (archive, id) = archive(written);
        let found: Vec<_> = archive.clusters(system_id, id.version()).collect();
        assert_eq!(found.iter().map(|cluster| cluster.archive_id()).collect::<Vec<_>>(), [id]);
        assert_eq!(archive.clusters(SystemId::new(1), id.version()).count(), 0);
        assert_eq!(archive.clusters(system_id, "14".parse().unwrap()).count(), 0);
    }
}

#[test]
fn copies_of_a_segment_must_be_the_same() {
    let all = all();
    let written = all.one(false, Storage::Own);
    let (name, _) = &all.segments[0];
    let file: WalFileName = name.parse().unwrap();
    let mut objects = written.objects();
    let (archive, id) = archive(written);
    let object = archive.find(id, &file).unwrap().remove(0).object;
    let content = objects.get(&object).unwrap().clone();
    // Pushed again with another compression: the same content, so either will do.
    let same = written.stanza_of({
        objects.insert(format!("{object}.lz4"), content.clone());
        objects.clone()
    });
    assert_eq!(same.archive().unwrap().find(id, &file).unwrap().len(), 2);
    // Another content.
    let other = format!("archive/{STANZA}/{id}/{}/{name}-{}", &name[..16], "0".repeat(40));
    objects.insert(other.clone(), content);
    let error = written.stanza_of(objects).archive().unwrap().find(id, &file).unwrap_err();
    assert!(matches!(&error, Error::DuplicateWal { objects, .. } if objects.contains(&other)), "{error:?}");
}

#[test]
fn damaged_segments_are_refused() {
    let all = all();
    for written in [all.one(false, Storage::Own), all.one(true, Storage::Bundles)] {
        let (archive, id) = archive(written);
        for (name, _) in &all.segments {
            let object = archive.find(id, &name.parse().unwrap()).unwrap().remove(0);
            let whole = written.objects().get(&object.object).unwrap().clone();
            let mut changed = whole.clone();
            let middle = whole.len() / 2;
            changed[middle] ^= 1;
            let cut = whole[..whole.len() - 17].to_vec();
            for bytes in [changed, cut, Vec::new(), [whole.clone(), vec![0; 32]].concat()] {
                let mut object = object.clone();
                object.stored_size = bytes.len() as u64;
                let mut objects = written.objects();
                objects.insert(object.object.clone(), bytes);
                let damaged = written.stanza_of(objects).archive().unwrap();
                let read = damaged.open(&object, Some(MIB)).and_then(|content| content.into_bytes(1 << 24));
                let error = read.expect_err("what is damaged is not given");
                assert!(matches!(error, Error::Damaged { .. } | Error::ContentMismatch { .. }), "{error:?}");
            }
        }
    }
}
