//! The WAL archive: the same file twice, other content, damage, lost answers, and what "missing" means.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::TryStreamExt;
use pgbr_codec::{Codec, Compression};
use pgbr_manifest::{ArchiveId, PgVersion, SystemId, TimelineId, WalFileName, WalSegmentName};
use pgbr_repo::{Error, PushOutcome, Repo, Result, WalContent, WalGet, WalPush, WalSource, WalStore};

use crate::fixture::*;
use pgbr_testkit::{Fault, failures};

pub(crate) const ARCHIVE: ArchiveId = ArchiveId::new(PgVersion::V15, 1);
pub(crate) const SEGMENT: &str = "000000010000000000000003";
pub(crate) const PARTIAL: &str = "000000010000000000000003.partial";
pub(crate) const HISTORY: &str = "00000002.history";

pub(crate) fn file(name: &str) -> WalFileName {
    name.parse().unwrap()
}

pub(crate) fn archive(repo: &Repo) -> WalStore {
    WalStore::new(repo, &stanza())
}

pub(crate) async fn push(repo: &Repo, name: &str, content: Bytes) -> Result<PushOutcome> {
    let zst = Compression::new(Codec::Zst, None).unwrap();
    let push = WalPush::new(ARCHIVE, file(name), WalSource::Bytes(content));
    archive(repo).push(push.with_compression(zst, 2)).await
}

/// What is archived under a name: content and warnings.
async fn get(repo: &Repo, name: &str) -> Result<Option<(Bytes, usize)>> {
    Ok(match archive(repo).get(ARCHIVE, &file(name)).await? {
        WalGet::Found(found) => Some((found.content.into(), found.warnings.len())),
        WalGet::Missing => None,
    })
}

pub(crate) fn object(directory: &Path, name: &str) -> PathBuf {
    let inside = match name.split_at_checked(16) {
        Some((log, _)) if !name.ends_with(".history") => format!("{log}/{name}"),
        _ => name.to_owned(),
    };
    directory.join("pgbr/main/archive/15-1").join(inside)
}

pub(crate) fn names(directory: &Path) -> Vec<String> {
    let listed = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = listed.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn files_of_all_sizes_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repo(dir.path()).await;
    let piece = 4 << 20;
    let source = dir.path().join("source");
    let sizes = [0, 1, 8192, piece - 1, piece, piece + 1, 3 * piece + 5];
    for (n, size) in sizes.into_iter().enumerate() {
        let name = format!("00000001000000000000000{n}");
        let content = content(n as u64, size);
        std::fs::write(&source, &content).unwrap();
        for workers in [1, 3] {
            let mut push = WalPush::new(ARCHIVE, file(&name), WalSource::Path(source.clone()));
            push = push
                .with_system_id(SystemId::new(42))
                .with_compression(Compression::new(Codec::Lz4, None).unwrap(), workers);
            let outcome = archive(&repo).push(push).await.unwrap();
            assert_eq!(outcome == PushOutcome::SameAlreadyThere, workers == 3, "{size}: {outcome:?}");
        }
        let WalGet::Found(found) = archive(&repo).get(ARCHIVE, &file(&name)).await.unwrap() else {
            panic!("{name} is missing")
        };
        assert!(found.content == content, "{size}");
        assert_eq!((found.trailer.system_id, found.trailer.size), (Some(42), size as u64));

        let target = dir.path().join("target");
        let saved = archive(&repo).get_to_path(ARCHIVE, &file(&name), &target).await.unwrap();
        assert!(matches!(saved, WalGet::Found(_)) && std::fs::read(&target).unwrap() == content);
    }
    assert_eq!(names(dir.path()), ["pgbr", "source", "target"], "nothing is left beside the target");
}

#[tokio::test]
async fn other_content_is_an_error_and_the_old_stays() {
    for without_creates in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let repo =
            if without_creates { repo_without_creates(dir.path()).await } else { repo(dir.path()).await };
        for name in [SEGMENT, HISTORY, "000000010000000000000003.00000028.backup"] {
            assert!(matches!(push(&repo, name, content(1, 9000)).await.unwrap(), PushOutcome::Stored { .. }));
            assert_eq!(push(&repo, name, content(1, 9000)).await.unwrap(), PushOutcome::SameAlreadyThere);
            let error = push(&repo, name, content(2, 9000)).await.unwrap_err();
            assert!(matches!(&error, Error::WalConflict { file, .. } if file == name), "{error}");
            assert_eq!(get(&repo, name).await.unwrap(), Some((content(1, 9000), 0)));
        }
        assert!(matches!(push(&repo, PARTIAL, content(3, 50)).await.unwrap(), PushOutcome::Stored { .. }));
        let kept = push(&repo, PARTIAL, content(4, 50)).await.unwrap();
        assert!(without_creates || matches!(kept, PushOutcome::PartialKept { .. }), "{kept:?}");
        let again = push(&repo, PARTIAL, content(4, 50)).await.unwrap();
        assert!(without_creates == (again == PushOutcome::SameAlreadyThere), "{again:?}");
    }
}

#[tokio::test]
async fn a_damaged_object_is_left_and_the_file_stored_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repo(dir.path()).await;
    push(&repo, SEGMENT, content(1, 100_000)).await.unwrap();
    let stored = object(dir.path(), SEGMENT);
    let good = std::fs::read(&stored).unwrap();

    // In the header, in a frame's header, in a payload, in the trailer; cut; empty.
    let mut damaged: Vec<Vec<u8>> = [0, 5, 6, 10, 30, 50, 97, 100, 200, good.len() - 1]
        .map(|at| {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            bytes
        })
        .into();
    damaged.extend([good[..good.len() - 10].to_vec(), good[..96].to_vec(), Vec::new()]);
    for (n, bytes) in damaged.into_iter().enumerate() {
        std::fs::write(&stored, &bytes).unwrap();
        let error = get(&repo, SEGMENT).await.unwrap_err();
        assert!(!error.is_not_found() && !error.is_transient(), "{n}: {error}");
        for _ in 0..2 {
            let outcome = push(&repo, SEGMENT, content(1, 100_000)).await.unwrap();
            let PushOutcome::StoredBeside { object, .. } = outcome else { panic!("{n}: {outcome:?}") };
            assert!(object.contains(&format!("{SEGMENT}-")), "{object}");
        }
        assert_eq!(std::fs::read(&stored).unwrap(), bytes, "the damaged one is left: {n}");
        assert_eq!(get(&repo, SEGMENT).await.unwrap(), Some((content(1, 100_000), 1)));
        let error = push(&repo, SEGMENT, content(2, 100_000)).await.unwrap_err();
        assert!(matches!(error, Error::WalConflict { .. }), "the one beside counts: {error}");
        for name in names(stored.parent().unwrap()).iter().filter(|name| name.contains('-')) {
            std::fs::remove_file(stored.with_file_name(name)).unwrap();
        }
    }
}

#[tokio::test]
async fn an_object_in_anothers_place_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repo(dir.path()).await;
    let other = "000000010000000000000004";
    push(&repo, SEGMENT, content(1, 5000)).await.unwrap();
    std::fs::copy(object(dir.path(), SEGMENT), object(dir.path(), other)).unwrap();
    let error = get(&repo, other).await.unwrap_err();
    assert!(error.is_damage() && error.to_string().contains(SEGMENT), "{error}");

    // And so is one of another repository.
    let elsewhere = tempfile::tempdir().unwrap();
    let foreign = crate::fixture::repo(elsewhere.path()).await;
    push(&foreign, SEGMENT, content(1, 5000)).await.unwrap();
    std::fs::copy(object(elsewhere.path(), SEGMENT), object(dir.path(), other)).unwrap();
    let error = get(&repo, other).await.unwrap_err();
    assert!(matches!(error, Error::Foreign { .. }), "{error}");
    let outcome = push(&repo, other, content(1, 5000)).await.unwrap();
    assert!(matches!(outcome, PushOutcome::StoredBeside { .. }), "{outcome:?}");
}

#[tokio::test]
async fn two_sound_contents_are_not_guessed_between() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repo(dir.path()).await;
    let stored = object(dir.path(), SEGMENT);
    for (seed, suffix) in [(1, "0000000000000001"), (2, "0000000000000002")] {
        push(&repo, SEGMENT, content(seed, 5000)).await.unwrap();
        std::fs::rename(&stored, stored.with_file_name(format!("{SEGMENT}-{suffix}"))).unwrap();
    }
    let error = get(&repo, SEGMENT).await.unwrap_err();
    assert!(matches!(error, Error::WalAmbiguous { .. }), "{error}");
    for entry in archive(&repo).files(ARCHIVE, &archive(&repo).logs(ARCHIVE).await.unwrap()[0]).await.unwrap()
    {
        assert!(
            archive(&repo).verify(&entry).await.unwrap_err().is_damage(),
            "the digest in the name is wrong"
        );
    }
    let target = dir.path().join("target");
    archive(&repo).get_to_path(ARCHIVE, &file(SEGMENT), &target).await.unwrap_err();
    assert_eq!(names(dir.path()), ["pgbr"], "neither target nor leftover");
}

#[tokio::test]
async fn missing_is_said_only_by_a_repository_that_was_reached() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repo(dir.path()).await;
    for name in [SEGMENT, HISTORY, PARTIAL] {
        assert_eq!(get(&repo, name).await.unwrap(), None);
    }
    let target = dir.path().join("target");
    let saved = archive(&repo).get_to_path(ARCHIVE, &file(SEGMENT), &target).await.unwrap();
    assert!(matches!(saved, WalGet::Missing) && !target.exists());

    push(&repo, SEGMENT, content(1, 100)).await.unwrap();
    for n in 0..2 {
        let (faulty, _) = faulty_repo(dir.path(), Fault::Dies(n)).await;
        let error = get(&faulty, HISTORY).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    }
    std::fs::rename(dir.path().join("pgbr"), dir.path().join("unmounted")).unwrap();
    for name in [SEGMENT, HISTORY] {
        assert!(matches!(get(&repo, name).await, Err(Error::Unavailable { .. })));
        assert!(matches!(push(&repo, name, content(1, 9)).await, Err(Error::Unavailable { .. })));
    }
    assert!(!dir.path().join("pgbr").exists());
}

#[tokio::test]
async fn a_target_that_cannot_be_written_is_not_the_repositorys_fault() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repo(dir.path()).await;
    push(&repo, SEGMENT, content(1, 100)).await.unwrap();
    let error = archive(&repo).get_to_path(ARCHIVE, &file(SEGMENT), &dir.path().join("no/dir")).await;
    assert!(matches!(error, Err(Error::Local { .. })), "{error:?}");
    let missing = WalSource::Path(dir.path().join("none"));
    let error = archive(&repo).push(WalPush::new(ARCHIVE, file(SEGMENT), missing)).await;
    assert!(matches!(error, Err(Error::Local { .. })), "{error:?}");
    let directory = WalSource::Path(dir.path().to_owned());
    let error = archive(&repo).push(WalPush::new(ARCHIVE, file(SEGMENT), directory)).await;
    assert!(matches!(error, Err(Error::Unsafe { .. })), "{error:?}");
}

/// Fails each request of a push in each way, in a state of the archive made by `prepare`.
async fn sweep(prepare: impl AsyncFn(&Repo, &Path), without_creates: bool) {
    let mut n = 0;
    loop {
        let mut requests = 0;
        for fault in failures(n) {
            let dir = tempfile::tempdir().unwrap();
            let repo =
                if without_creates { repo_without_creates(dir.path()).await } else { repo(dir.path()).await };
            prepare(&repo, dir.path()).await;
            let (faulty, wrapper) = faulty_repo(dir.path(), fault).await;
            let pushed = push(&faulty, SEGMENT, content(1, 9000)).await;
            requests = wrapper.requests();
            let healthy = open(local(dir.path())).await.unwrap();
            if pushed.is_ok() {
                let found = get(&healthy, SEGMENT).await.unwrap().expect("it was reported as archived");
                assert_eq!(found.0, content(1, 9000), "{fault:?}");
            }
            push(&healthy, SEGMENT, content(1, 9000)).await.unwrap_or_else(|e| panic!("{fault:?}: {e}"));
            assert_eq!(get(&healthy, SEGMENT).await.unwrap().unwrap().0, content(1, 9000), "{fault:?}");
        }
        n += 1;
        if n > requests {
            return;
        }
    }
}

#[tokio::test]
async fn a_failure_at_any_request_of_a_push_is_healed_by_the_next() {
    sweep(async |_, _| {}, false).await;
    sweep(async |_, _| {}, true).await;
}

#[tokio::test]
async fn a_failure_while_a_stored_object_is_examined_is_healed_by_the_next() {
    let same = async |repo: &Repo, _: &Path| drop(push(repo, SEGMENT, content(1, 9000)).await.unwrap());
    sweep(same, false).await;
    sweep(same, true).await;
    let damaged = async |repo: &Repo, directory: &Path| {
        push(repo, SEGMENT, content(1, 9000)).await.unwrap();
        damage(&object(directory, SEGMENT), 200);
    };
    sweep(damaged, false).await;
}

#[tokio::test]
async fn a_push_whose_answer_was_lost_succeeds() {
    let dir = tempfile::tempdir().unwrap();
    repo(dir.path()).await;
    let (faulty, _) = faulty_repo(dir.path(), Fault::ActsAndFails(0)).await;
    let outcome = push(&faulty, SEGMENT, content(1, 9000)).await.unwrap();
    assert_eq!(outcome, PushOutcome::SameAlreadyThere);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_pushers_of_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repo(dir.path()).await;
    for round in 0..10 {
        let name = format!("0000000100000001000000{round:02X}");
        let push = |seed: u64| {
            let (repo, name) = (repo.clone(), name.clone());
            tokio::spawn(async move { push(&repo, &name, content(seed, 50_000)).await })
        };
        let (a, b) = (push(1), push(1));
        let outcomes = [a.await.unwrap().unwrap(), b.await.unwrap().unwrap()];
        let stored = outcomes.iter().filter(|o| matches!(o, PushOutcome::Stored { .. })).count();
        assert!(stored == 1 && outcomes.contains(&PushOutcome::SameAlreadyThere), "{outcomes:?}");

        let name = format!("0000000100000002000000{round:02X}");
        let push = |seed: u64| {
            let (repo, name) = (repo.clone(), name.clone());
            tokio::spawn(async move { super::wal::push(&repo, &name, content(seed, 50_000)).await })
        };
        let (a, b) = (push(1), push(2));
        let (a, b) = (a.await.unwrap(), b.await.unwrap());
        assert!(a.is_ok() != b.is_ok(), "one wins: {a:?} {b:?}");
        let winner = if a.is_ok() { 1 } else { 2 };
        let loser = if a.is_ok() { b } else { a };
        assert!(matches!(loser, Err(Error::WalConflict { .. })));
        assert_eq!(get(&repo, &name).await.unwrap().unwrap().0, content(winner, 50_000));
    }
}

#[tokio::test]
async fn the_archive_tells_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repo(dir.path()).await;
    let wal = archive(&repo);
    assert_eq!(wal.bounds(ARCHIVE).await.unwrap(), None);
    let segment = |name: &str| name.parse::<WalSegmentName>().unwrap();
    let pushed = [
        "000000010000000000000001.partial",
        "0000000100000000000000FE",
        "0000000100000000000000FF",
        "000000010000000100000000",
        "000000020000000100000001",
        "000000030000000100000002.partial",
        "00000002.history",
        "00000003.history",
    ];
    for name in pushed {
        push(&repo, name, content(1, 100)).await.unwrap();
    }
    for entry in wal.histories(ARCHIVE).await.unwrap() {
        assert_eq!(wal.verify(&entry).await.unwrap().name, entry.file.to_string());
    }
    let bounds = wal.bounds(ARCHIVE).await.unwrap().unwrap();
    let wanted = (segment("0000000100000000000000FE"), segment("000000020000000100000001"));
    assert_eq!((bounds.first, bounds.last), wanted);
    let put = std::fs::metadata(object(dir.path(), "000000020000000100000001")).unwrap().modified().unwrap();
    let put = put.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert_eq!(u64::try_from(bounds.modified).unwrap(), put);
    // By their keys a history stands before the segments of its timeline.
    let by_key = [1, 2, 3, 6, 4, 7, 5].map(|at| pushed[at]);
    for (first, count) in [
        ("0000000100000000000000FE", 7),
        ("0000000100000000000000FF", 6),
        ("000000010000000100000000", 5),
        ("0000000100000001000000A0", 4),
        ("000000020000000100000002", 2),
        ("000000030000000000000000", 1),
    ] {
        let found: Vec<_> = wal.files_from(ARCHIVE, segment(first)).try_collect().await.unwrap();
        let found: BTreeSet<String> = found.iter().map(|entry| entry.file.to_string()).collect();
        let wanted = by_key.iter().rev().take(count).map(|name| (*name).to_owned());
        assert_eq!(found, wanted.collect(), "{first}");
    }
    assert_eq!(wal.archives().await.unwrap(), [ARCHIVE]);
    assert_eq!(wal.history_timelines(ARCHIVE).await.unwrap(), [TimelineId::new(2), TimelineId::new(3)]);
    let wanted = [
        "0000000100000000000000FD",
        "0000000100000000000000FE",
        "000000010000000100000000",
        "000000090000000100000000",
    ];
    let present = wal.segments_present(ARCHIVE, wanted.map(segment)).await.unwrap();
    let present: Vec<String> = present.iter().map(ToString::to_string).collect();
    assert_eq!(present, wanted[1..3]);
    assert!(wal.exists(ARCHIVE, &file(PARTIAL)).await.is_ok_and(|there| !there));
    assert!(wal.exists(ARCHIVE, &file("00000003.history")).await.unwrap());

    let logs = wal.logs(ARCHIVE).await.unwrap();
    assert_eq!(logs.len(), 4);
    for entry in wal.files(ARCHIVE, &logs[0]).await.unwrap() {
        wal.delete(&entry).await.unwrap();
    }
    wal.tidy(ARCHIVE, &logs[0]).await.unwrap();
    assert_eq!(wal.logs(ARCHIVE).await.unwrap(), logs[1..]);
    assert_eq!(wal.bounds(ARCHIVE).await.unwrap().unwrap().first, segment("000000010000000100000000"));
}

#[tokio::test]
async fn content_that_was_read_once_goes_to_several_repositories() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let repos = [repo(one.path()).await, repo(two.path()).await];
    let raw = content(3, 5 << 20);
    let zst = Compression::new(Codec::Zst, None).unwrap();
    let read = WalContent::read(WalSource::Bytes(raw.clone()), zst, 2).await.unwrap();
    assert_eq!(read.size(), 5 << 20);
    for repo in &repos {
        let pushed = archive(repo).push_content(ARCHIVE, file(SEGMENT), None, &read).await.unwrap();
        assert!(matches!(pushed, PushOutcome::Stored { .. }), "{pushed:?}");
        assert_eq!(get(repo, SEGMENT).await.unwrap(), Some((raw.clone(), 0)));
    }
    let objects = [one, two].map(|dir| std::fs::read(object(dir.path(), SEGMENT)).unwrap());
    assert_ne!(objects[0], objects[1], "each repository has keys of its own");
}

#[tokio::test]
async fn segments_of_a_repository_that_was_here_before_are_found() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (here, before) = (repo(dir.path()).await, repo(other.path()).await);
    let (ours, theirs) = ("000000010000000000000003", "000000010000000000000004");
    push(&here, ours, content(1, 1 << 20)).await.unwrap();
    push(&before, theirs, content(2, 1 << 20)).await.unwrap();
    let place = object(dir.path(), theirs);
    std::fs::copy(object(other.path(), theirs), &place).unwrap();

    let segments = [ours, theirs, "000000010000000000000005"].map(|name| name.parse().unwrap());
    let wal = archive(&here);
    wal.belongs(ARCHIVE, &segments[..1]).await.unwrap();
    let found = wal.belongs(ARCHIVE, &segments[..2]).await.unwrap_err();
    assert!(matches!(&found, Error::Foreign { object, .. } if object.ends_with(theirs)), "{found}");
    assert!(wal.belongs(ARCHIVE, &segments[2..]).await.unwrap_err().is_not_found());
    let named = wal.segments_here(ARCHIVE, &segments).await.unwrap();
    assert_eq!(
        named.into_iter().collect::<Vec<_>>(),
        segments[..1],
        "neither the other's nor the missing one"
    );
    // The segment itself, which was stored beside it, is enough.
    push(&here, theirs, content(2, 1 << 20)).await.unwrap();
    wal.belongs(ARCHIVE, &segments[..2]).await.unwrap();
    std::fs::write(&place, "cut").unwrap();
    wal.belongs(ARCHIVE, &segments[..2]).await.unwrap();
}
