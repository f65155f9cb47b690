//! Exported keys: what is in one, what it opens, and how `repo.json` is made again by it.

use std::path::Path;

use bytes::Bytes;
use pgbr_codec::Passphrase;
use pgbr_repo::{Error, Imported, NewSlot, Repo, Result, Stanza, WalGet};

use crate::fixture::*;
use crate::wal::{ARCHIVE, SEGMENT, archive, file, push};

fn pass(n: u8) -> Passphrase {
    Passphrase::generated(&[n; 32])
}

/// What opens the exported key, and what is for writing only.
const EXPORT: u8 = 50;
const WRITER: u8 = 51;
const NEW: u8 = 52;

async fn export(repo: &Repo) -> Bytes {
    repo.export(NewSlot::new(pass(EXPORT))).await.unwrap()
}

async fn open_exported(directory: &Path, exported: &[u8], with: u8) -> Result<Repo> {
    Repo::open_exported(local(directory), exported.to_vec().into(), &pass(with), entropy()).await
}

async fn open_with(directory: &Path, with: u8) -> Result<Repo> {
    Repo::open(local(directory), Some(&pass(with)), None, entropy()).await
}

/// A repository with a stanza, so that there is something to know it by.
async fn with_stanza(directory: &Path) -> Repo {
    let repo = repo(directory).await;
    Stanza::create(&repo, &stanza(), cluster(1), NOW).await.unwrap();
    repo
}

fn text(directory: &Path) -> String {
    std::fs::read_to_string(directory.join("pgbr/repo.json")).unwrap()
}

fn lose(directory: &Path) {
    for name in ["repo.json", "repo.json.copy"] {
        std::fs::remove_file(directory.join("pgbr").join(name)).unwrap();
    }
}

#[tokio::test]
async fn nothing_of_those_who_only_write_is_in_an_export() {
    let dir = tempfile::tempdir().unwrap();
    let made = with_stanza(dir.path()).await;
    let before = export(&made).await;
    assert!(before.starts_with(br#"{"format":1,"#));
    made.rotate_key(NewSlot::new(passphrase())).await.unwrap();
    let rotated = open(local(dir.path())).await.unwrap();
    let named = NewSlot { name: Some("database host".to_owned()), ..NewSlot::new(pass(WRITER)) };
    let owner = rotated.add_writer(named).await.unwrap();
    assert!(text(dir.path()).contains("database host") && text(dir.path()).contains("retired-writers"));
    let exported = String::from_utf8(export(&owner).await.to_vec()).unwrap();
    assert!(exported.starts_with(r#"{"format":2,"#) && exported.contains(r#""writers":[]"#), "{exported}");
    assert!(!exported.contains("database host") && !exported.contains("retired-writers"), "{exported}");

    let writer = open_with(dir.path(), WRITER).await.unwrap();
    let refused = writer.export(NewSlot::new(pass(EXPORT))).await;
    assert!(matches!(refused, Err(Error::WriteOnly { .. })));
    let refused = open_exported(dir.path(), exported.as_bytes(), WRITER).await;
    assert!(matches!(refused, Err(Error::WrongPassphrase)));
    let opened = open_exported(dir.path(), exported.as_bytes(), EXPORT).await.unwrap();
    assert!(opened.reads() && opened.retired_keys() == 1 && opened.id() == owner.id());

    for at in 0..exported.len() {
        let mut damaged = exported.clone().into_bytes();
        damaged[at] ^= 1;
        assert!(open_exported(dir.path(), &damaged, EXPORT).await.is_err(), "byte {at}");
        assert!(open_exported(dir.path(), &exported.as_bytes()[..at], EXPORT).await.is_err(), "cut at {at}");
    }
}

/// There may be writers since the export: what they sealed tells.
#[tokio::test]
async fn a_repository_that_came_to_have_writers_is_made_again_as_one() {
    for by in ["nobody", "who writes", "who reads"] {
        let dir = tempfile::tempdir().unwrap();
        let owner = with_stanza(dir.path()).await;
        let exported = export(&owner).await;
        // Sealed as before there were any: the first of the archive.
        push(&owner, "000000010000000000000002", content(2, 900)).await.unwrap();
        let owner = owner.add_writer(NewSlot::new(pass(WRITER))).await.unwrap();
        let since = match by {
            "who writes" => Some(open_with(dir.path(), WRITER).await.unwrap()),
            "who reads" => Some(owner),
            _ => None,
        };
        if let Some(since) = &since {
            push(since, SEGMENT, content(1, 9000)).await.unwrap();
        }
        lose(dir.path());
        let opened = open_exported(dir.path(), &exported, EXPORT).await.unwrap();
        assert!(opened.present().await.unwrap().is_none());
        let (made, imported) = opened.import(NewSlot::new(pass(NEW))).await.unwrap();
        let for_writers = since.is_some();
        assert_eq!(imported, Imported::Made { unknown: Vec::new(), for_writers });
        assert_eq!(made.slots().len(), 1);
        let begins = if for_writers { r#"{"format":2,"# } else { r#"{"format":1,"# };
        assert!(text(dir.path()).starts_with(begins), "{}", text(dir.path()));
        let reader = open_with(dir.path(), NEW).await.unwrap();
        assert_eq!(reader.text(), made.text());
        assert!(matches!(open_with(dir.path(), WRITER).await, Err(Error::WrongPassphrase)));
        if for_writers {
            let found = archive(&reader).get(ARCHIVE, &file(SEGMENT)).await.unwrap();
            assert!(matches!(found, WalGet::Found(found) if found.content == content(1, 9000)));
            made.add_writer(NewSlot::new(pass(WRITER))).await.unwrap();
            assert!(!open_with(dir.path(), WRITER).await.unwrap().reads());
        }
    }
}

#[tokio::test]
async fn a_repository_that_is_there_keeps_its_writers_as_writers() {
    let dir = tempfile::tempdir().unwrap();
    let made = with_stanza(dir.path()).await;
    let before = export(&made).await;
    let owner = made.add_writer(NewSlot::new(pass(WRITER))).await.unwrap();
    let after = export(&owner).await;
    for (n, exported) in [before, after].into_iter().enumerate() {
        let opened = open_exported(dir.path(), &exported, EXPORT).await.unwrap();
        let (made, imported) = opened.import(NewSlot::new(pass(NEW))).await.unwrap();
        assert_eq!(imported, Imported::Added);
        let writes_only: Vec<_> = made.slot_infos().iter().map(|slot| slot.write_only).collect();
        assert_eq!(writes_only.iter().filter(|only| **only).count(), 1);
        assert_eq!(writes_only.len(), n + 3);
        assert!(!open_with(dir.path(), WRITER).await.unwrap().reads());
        assert!(open_with(dir.path(), NEW).await.unwrap().reads());
        let error = opened.import(NewSlot::new(pass(WRITER))).await.unwrap_err();
        assert!(error.to_string().contains("for writing only already"), "{error}");
    }
}
