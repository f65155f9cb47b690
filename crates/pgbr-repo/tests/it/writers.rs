//! Passphrases for writing only: what opens with them, what does not, and what they cannot change.

use std::path::Path;

use pgbr_codec::{Kdf, KeyId, Keyring, ObjectHeader, Passphrase, RepositoryId, WriterKey};
use pgbr_manifest::WalSegmentName;
use pgbr_repo::{Error, FileKeyCache, NewSlot, PushOutcome, Repo, Result, Stanza, WalGet};

use crate::fixture::*;
use crate::wal::{ARCHIVE, HISTORY, PARTIAL, SEGMENT, archive, file, names, object, push};

fn writer_pass() -> Passphrase {
    Passphrase::generated(&[77; 32])
}

async fn open_with(directory: &Path, passphrase: &Passphrase) -> Result<Repo> {
    Repo::open(local(directory), Some(passphrase), None, entropy()).await
}

/// A repository with a passphrase for writing only, opened by who reads and by who writes.
async fn repos(directory: &Path) -> (Repo, Repo) {
    let owner = repo(directory).await.add_writer(NewSlot::new(writer_pass())).await.unwrap();
    (owner, open_with(directory, &writer_pass()).await.unwrap())
}

fn text(directory: &Path) -> String {
    std::fs::read_to_string(directory.join("pgbr/repo.json")).unwrap()
}

fn both_copies(directory: &Path, text: &str) {
    for name in ["repo.json", "repo.json.copy"] {
        std::fs::write(directory.join("pgbr").join(name), text).unwrap();
    }
}

fn is_write_only<T>(result: Result<T>) -> bool {
    matches!(result, Err(Error::WriteOnly { .. }))
}

#[tokio::test]
async fn a_writer_opens_the_repository_and_changes_nothing_of_what_opens_it() {
    let dir = tempfile::tempdir().unwrap();
    let made = repo(dir.path()).await;
    let before = text(dir.path());
    assert!(before.starts_with(r#"{"format":1,"#) && !before.contains("writer"), "{before}");
    let named = NewSlot { name: Some("db1".to_owned()), ..NewSlot::new(writer_pass()) };
    let owner = made.add_writer(named).await.unwrap();
    let with_writer = text(dir.path());
    assert!(with_writer.starts_with(r#"{"format":2,"#) && with_writer.contains(r#""writers":[{"#));

    let writer = open_with(dir.path(), &writer_pass()).await.unwrap();
    assert_eq!((writer.id(), writer.cipher()), (owner.id(), owner.cipher()));
    assert!(owner.reads() && !writer.reads() && writer.key().is_none());
    let infos = writer.slot_infos();
    let seen: Vec<_> =
        infos.iter().map(|slot| (slot.name.as_deref(), slot.write_only, slot.in_use)).collect();
    assert_eq!(seen, [(None, false, false), (Some("db1"), true, true)]);
    assert!(owner.slot_infos()[0].in_use);

    let new = || NewSlot::new(Passphrase::generated(&[78; 32]));
    assert!(is_write_only(writer.add_slot(new()).await));
    assert!(is_write_only(writer.add_writer(new()).await));
    assert!(is_write_only(writer.change_slot(new()).await));
    assert!(is_write_only(writer.rotate_key(new()).await));
    for id in writer.slots() {
        assert!(is_write_only(writer.remove_slot(id).await));
    }
    assert!(is_write_only(writer.require_reader("restore")) && owner.require_reader("restore").is_ok());
    assert_eq!(text(dir.path()), with_writer);

    // Without the last one the format stays: there may be objects in it.
    let without = owner.remove_slot(infos[1].id).await.unwrap();
    assert!(matches!(open_with(dir.path(), &writer_pass()).await, Err(Error::WrongPassphrase)));
    assert!(text(dir.path()).starts_with(r#"{"format":2,"#) && text(dir.path()).contains(r#""writers":[]"#));
    let reader = open(local(dir.path())).await.unwrap();
    assert!(reader.reads() && without.slots().len() == 1);
    assert!(matches!(reader.remove_slot(reader.slots()[0]).await, Err(Error::Invalid { .. })), "the last");
}

#[tokio::test]
async fn one_passphrase_is_not_for_both() {
    let dir = tempfile::tempdir().unwrap();
    let (owner, _) = repos(dir.path()).await;
    let taken = |result: Result<Repo>| {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }) && error.to_string().contains("already"), "{error}");
    };
    taken(owner.add_writer(NewSlot::new(passphrase())).await);
    taken(owner.add_slot(NewSlot::new(writer_pass())).await);
    taken(owner.change_slot(NewSlot::new(writer_pass())).await);
    // Two hosts may have the same.
    owner.add_writer(NewSlot::new(writer_pass())).await.unwrap();
    let open = tempfile::tempdir().unwrap();
    let plain = Repo::create(local(open.path()), plain()).await.unwrap();
    assert!(matches!(plain.add_writer(NewSlot::new(writer_pass())).await, Err(Error::NotEncrypted)));
}

#[tokio::test]
async fn what_is_derived_is_kept_for_a_writer_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let made_up = Passphrase::new("made up by a person".to_owned());
    let kdf = Kdf::Argon2id { memory_kib: 64, passes: 1, lanes: 1, salt: [9; 16] };
    let slot = NewSlot { kdf: Some(kdf), ..NewSlot::new(made_up.clone()) };
    let owner = repo(dir.path()).await.add_writer(slot).await.unwrap();
    let cache = FileKeyCache::new(dir.path().join("keys"));
    for n in 0..2 {
        let opened = Repo::open(local(dir.path()), Some(&made_up), Some(&cache), entropy()).await.unwrap();
        assert!(!opened.reads() && opened.warnings().is_empty());
        assert_eq!(names(&dir.path().join("keys")).len(), 1, "{n}");
    }
    // It opens this slot, with this passphrase, and nothing else.
    assert!(pgbr_repo::KeyCache::load(&cache, &owner.slots()[1]).is_some());
    let wrong = Passphrase::new("another".to_owned());
    let opened = Repo::open(local(dir.path()), Some(&wrong), Some(&cache), entropy()).await;
    assert!(matches!(opened, Err(Error::WrongPassphrase)));
}

#[tokio::test]
async fn every_damaged_byte_of_repo_json_is_found_by_a_writer() {
    let dir = tempfile::tempdir().unwrap();
    let (owner, _) = repos(dir.path()).await;
    let good = text(dir.path());
    // `auth` is not for writers: they do not have its key.
    let auth = good.len() - 64 - 2..good.len() - 2;
    for at in (0..good.len()).filter(|at| !auth.contains(at)) {
        let file = dir.path().join("pgbr/repo.json");
        damage(&file, at);
        match open_with(dir.path(), &writer_pass()).await {
            Ok(opened) => assert_eq!(opened.warnings().len(), 1, "byte {at}: {:?}", opened.warnings()),
            Err(Error::Unsupported { .. }) if at == r#"{"format":"#.len() => {}
            Err(error) => panic!("byte {at}: {error}"),
        }
        std::fs::write(&file, &good).unwrap();
    }
    assert_eq!(open_with(dir.path(), &writer_pass()).await.unwrap().id(), owner.id());
}

/// What a writer could forge of `repo.json` passes with writers, and with nobody who reads; who has no key forges nothing for either.
#[tokio::test]
async fn nobody_makes_a_repo_json_for_those_who_have_more() {
    let dir = tempfile::tempdir().unwrap();
    let (owner, _) = repos(dir.path()).await;
    let good = text(dir.path());
    let forged = good.replace(r#""create":true"#, r#""create":false"#);
    both_copies(dir.path(), &forged);
    for passphrase in [passphrase(), writer_pass()] {
        assert!(matches!(open_with(dir.path(), &passphrase).await, Err(Error::Corrupt { .. })));
    }

    let (fields, tags) = forged.split_once(r#","writer-auth":""#).unwrap();
    let (_, auth) = tags.split_once('"').unwrap();
    let json: serde_json::Value = serde_json::from_str(&good).unwrap();
    let id: RepositoryId = json["repository-id"].as_str().unwrap().parse().unwrap();
    let key_id: KeyId = json["key-id"].as_str().unwrap().parse().unwrap();
    let ring = Keyring::writer(id, key_id, &WriterKey::of(owner.key().unwrap()), []);
    assert!(ring.auth_tag(b"{}").is_none());
    let tag = ring.writer_auth_tag(format!("{fields}}}").as_bytes()).unwrap();
    let tag = data_encoding::HEXLOWER.encode(&tag);
    both_copies(dir.path(), &format!(r#"{fields},"writer-auth":"{tag}"{auth}"#));
    assert!(matches!(open_with(dir.path(), &passphrase()).await, Err(Error::Corrupt { .. })));
    let fooled = open_with(dir.path(), &writer_pass()).await.unwrap();
    assert!(!fooled.traits().create);
}

#[tokio::test]
async fn writers_archive_what_they_cannot_read() {
    for without_creates in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let owner = match without_creates {
            true => repo_without_creates(dir.path()).await,
            false => repo(dir.path()).await,
        };
        let owner = owner.add_writer(NewSlot::new(writer_pass())).await.unwrap();
        let store = if without_creates {
            faulty(dir.path(), pgbr_testkit::Fault::IgnoresCreate).0
        } else {
            local(dir.path())
        };
        let writer = Repo::open(store, Some(&writer_pass()), None, entropy()).await.unwrap();
        for (first, second) in [(&writer, &owner), (&owner, &writer), (&writer, &writer)] {
            for (name, old) in [(SEGMENT, SEGMENT), (HISTORY, HISTORY)] {
                let stored = push(first, name, content(1, 9000)).await.unwrap();
                assert!(matches!(stored, PushOutcome::Stored { .. }));
                let again = push(second, name, content(1, 9000)).await.unwrap();
                assert_eq!(again, PushOutcome::SameAlreadyThere);
                let error = push(second, name, content(2, 9000)).await.unwrap_err();
                assert!(matches!(&error, Error::WalConflict { file, .. } if file == old), "{error}");
                assert!(is_write_only(archive(&writer).get(ARCHIVE, &file(name)).await));
                let WalGet::Found(found) = archive(&owner).get(ARCHIVE, &file(name)).await.unwrap() else {
                    panic!("{name} is missing")
                };
                assert_eq!(found.content, content(1, 9000));
                assert!(
                    archive(&writer).holds(ARCHIVE, &file(name), &content(1, 9000)).await.unwrap().unwrap()
                );
                assert!(!archive(&writer).holds(ARCHIVE, &file(name), b"another").await.unwrap().unwrap());
            }
            assert_eq!(archive(&writer).holds(ARCHIVE, &file(PARTIAL), b"").await.unwrap(), None);
            let segment: WalSegmentName = SEGMENT.parse().unwrap();
            archive(&writer).belongs(ARCHIVE, &[segment]).await.unwrap();
            std::fs::remove_dir_all(dir.path().join("pgbr/main/archive")).unwrap();
        }
        push(&writer, PARTIAL, content(3, 50)).await.unwrap();
        let kept = push(&writer, PARTIAL, content(4, 50)).await.unwrap();
        assert!(without_creates || matches!(kept, PushOutcome::PartialKept { .. }), "{kept:?}");
    }
}

#[tokio::test]
async fn a_writer_finds_every_damage_of_what_it_cannot_read() {
    let dir = tempfile::tempdir().unwrap();
    let (owner, writer) = repos(dir.path()).await;
    push(&writer, SEGMENT, content(1, 100_000)).await.unwrap();
    let stored = object(dir.path(), SEGMENT);
    let good = std::fs::read(&stored).unwrap();
    assert_eq!(ObjectHeader::parse(&good).unwrap().mode as u8, 2);
    let mut damaged: Vec<Vec<u8>> = [0, 5, 6, 10, 30, 50, 97, 100, 200, good.len() / 2, good.len() - 1]
        .map(|at| {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            bytes
        })
        .into();
    damaged.extend([good[..good.len() - 10].to_vec(), good[..96].to_vec(), Vec::new()]);
    for (n, bytes) in damaged.into_iter().enumerate() {
        std::fs::write(&stored, &bytes).unwrap();
        let outcome = push(&writer, SEGMENT, content(1, 100_000)).await.unwrap();
        assert!(matches!(outcome, PushOutcome::StoredBeside { .. }), "{n}: {outcome:?}");
        assert_eq!(std::fs::read(&stored).unwrap(), bytes, "the damaged one is left: {n}");
        let error = push(&writer, SEGMENT, content(2, 100_000)).await.unwrap_err();
        assert!(matches!(error, Error::WalConflict { .. }), "the one beside counts: {error}");
        let WalGet::Found(found) = archive(&owner).get(ARCHIVE, &file(SEGMENT)).await.unwrap() else {
            panic!("{n}: it is missing")
        };
        assert_eq!((found.content, found.warnings.len()), (content(1, 100_000).to_vec(), 1));
        for name in names(stored.parent().unwrap()).iter().filter(|name| name.contains('-')) {
            std::fs::remove_file(stored.with_file_name(name)).unwrap();
        }
    }
    // One of another file of the repository.
    let other = "000000010000000000000004";
    std::fs::write(object(dir.path(), other), &good).unwrap();
    let outcome = push(&writer, other, content(1, 100_000)).await.unwrap();
    assert!(matches!(outcome, PushOutcome::StoredBeside { .. }), "{outcome:?}");
}

/// What was archived before there were writers tells them nothing: neither that it is the same, nor that it is another or damaged.
#[tokio::test]
async fn what_is_older_than_the_first_writer_is_not_guessed() {
    let dir = tempfile::tempdir().unwrap();
    let made = repo(dir.path()).await;
    push(&made, SEGMENT, content(1, 9000)).await.unwrap();
    let before = std::fs::read(object(dir.path(), SEGMENT)).unwrap();
    let owner = made.add_writer(NewSlot::new(writer_pass())).await.unwrap();
    let writer = open_with(dir.path(), &writer_pass()).await.unwrap();
    for seed in [1, 2] {
        let error = push(&writer, SEGMENT, content(seed, 9000)).await.unwrap_err();
        assert!(matches!(&error, Error::WriteOnly { doing } if doing.starts_with("compare")), "{error}");
    }
    assert!(is_write_only(archive(&writer).holds(ARCHIVE, &file(SEGMENT), b"x").await));
    archive(&writer).belongs(ARCHIVE, &[SEGMENT.parse().unwrap()]).await.unwrap();
    assert_eq!(push(&owner, SEGMENT, content(1, 9000)).await.unwrap(), PushOutcome::SameAlreadyThere);
    assert_eq!(names(object(dir.path(), SEGMENT).parent().unwrap()).len(), 1);
    assert_eq!(std::fs::read(object(dir.path(), SEGMENT)).unwrap(), before);
}

#[tokio::test]
async fn a_new_key_takes_writers_away_and_new_ones_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let (owner, writer) = repos(dir.path()).await;
    Stanza::create(&owner, &stanza(), cluster(42), NOW).await.unwrap();
    push(&writer, SEGMENT, content(1, 9000)).await.unwrap();
    let rotated = owner.rotate_key(NewSlot::new(passphrase())).await.unwrap();
    assert!(matches!(open_with(dir.path(), &writer_pass()).await, Err(Error::WrongPassphrase)));
    // Who had it open before goes on until then: what it seals can be read.
    let late = "000000010000000000000004";
    push(&writer, late, content(2, 9000)).await.unwrap();
    let WalGet::Found(found) = archive(&rotated).get(ARCHIVE, &file(late)).await.unwrap() else {
        panic!("{late} is missing")
    };
    assert_eq!(found.content, content(2, 9000));

    // Twice, so that there is more than one earlier key.
    let rotated = rotated.rotate_key(NewSlot::new(passphrase())).await.unwrap();
    let owner = rotated.add_writer(NewSlot::new(writer_pass())).await.unwrap();
    let writer = open_with(dir.path(), &writer_pass()).await.unwrap();
    assert_eq!(owner.retired_keys(), 2);
    // The stanza's record is under the first key, and so is the segment.
    let opened = Stanza::open(&writer, &stanza()).await.unwrap();
    assert_eq!(opened.current().system_id.as_u64(), 42);
    assert_eq!(push(&writer, SEGMENT, content(1, 9000)).await.unwrap(), PushOutcome::SameAlreadyThere);
    let next = "000000010000000000000005";
    push(&writer, next, content(3, 9000)).await.unwrap();
    for (name, seed) in [(SEGMENT, 1), (late, 2), (next, 3)] {
        let WalGet::Found(found) = archive(&owner).get(ARCHIVE, &file(name)).await.unwrap() else {
            panic!("{name} is missing")
        };
        assert_eq!(found.content, content(seed, 9000));
        assert!(is_write_only(archive(&writer).get(ARCHIVE, &file(name)).await));
    }
    let header = |name| ObjectHeader::parse(&std::fs::read(object(dir.path(), name)).unwrap()).unwrap();
    assert_eq!(header(next).key_id, owner.keyring().key_id());
    assert!(header(SEGMENT).key_id != header(next).key_id && header(late).key_id == header(SEGMENT).key_id);

    // The last writer goes: the repository still opens for who reads.
    let id = owner.slot_infos().into_iter().find(|slot| slot.write_only).unwrap().id;
    owner.remove_slot(id).await.unwrap();
    assert_eq!(open(local(dir.path())).await.unwrap().slots().len(), 1);
}
