//! `repo.json`: made once, opened with the right passphrase, from either copy, and never by mistake.

use std::path::Path;
use std::sync::Mutex;

use pgbr_codec::{Cipher, Kdf, Passphrase};
use pgbr_repo::{Error, FileKeyCache, KeyCache, Layout, NewSlot, Repo, Result, Stanza, Store};

use crate::fixture::*;
use pgbr_testkit::failures;

fn files(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut todo = vec![directory.to_owned()];
    while let Some(next) = todo.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let entry = entry.unwrap();
            match entry.file_type().unwrap().is_dir() {
                true => todo.push(entry.path()),
                false => found.push(entry.path().strip_prefix(directory).unwrap().display().to_string()),
            }
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn is_made_and_opened_again() {
    for options in [sealed(), plain()] {
        let dir = tempfile::tempdir().unwrap();
        let (cipher, passphrase) = (options.cipher, options.passphrase.clone());
        let made = Repo::create(local(&dir.path().join("new/place")), options).await.unwrap();
        let root = dir.path().join("new/place");
        assert_eq!(files(&root), ["pgbr/repo.json", "pgbr/repo.json.copy"]);
        let text = std::fs::read_to_string(root.join("pgbr/repo.json")).unwrap();
        assert_eq!(text, std::fs::read_to_string(root.join("pgbr/repo.json.copy")).unwrap());
        let begin =
            format!(r#"{{"format":1,"repository-id":"{}","created":{NOW},"cipher":"{cipher}","#, made.id());
        assert!(text.starts_with(&begin), "{text}");
        assert!(text.contains(r#""store":{"create":true},"#), "{text}");

        let opened = Repo::open(local(&root), passphrase.as_ref(), None, entropy()).await.unwrap();
        assert_eq!((opened.id(), opened.cipher(), opened.created()), (made.id(), cipher, NOW));
        assert_eq!(opened.keyring().auth_tag(b"x"), made.keyring().auth_tag(b"x"), "the same keys");
        assert!(opened.traits().create && opened.warnings().is_empty());
        assert!(opened.stanzas().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn the_passphrase_must_fit() {
    let dir = tempfile::tempdir().unwrap();
    repo(dir.path()).await;
    let open = async |passphrase: Option<Passphrase>| {
        Repo::open(local(dir.path()), passphrase.as_ref(), None, entropy()).await.map(|_| ())
    };
    assert!(matches!(open(None).await, Err(Error::PassphraseMissing)));
    for wrong in [Passphrase::generated(&[8; 32]), Passphrase::new("wrong".to_owned())] {
        let error = open(Some(wrong)).await.unwrap_err();
        assert!(matches!(error, Error::WrongPassphrase), "{error}");
    }

    let unencrypted = tempfile::tempdir().unwrap();
    Repo::create(local(unencrypted.path()), plain()).await.unwrap();
    let error = open_at(unencrypted.path(), Some(passphrase())).await.unwrap_err();
    assert!(matches!(error, Error::NotEncrypted), "{error}");
}

async fn open_at(directory: &Path, passphrase: Option<Passphrase>) -> Result<Repo> {
    Repo::open(local(directory), passphrase.as_ref(), None, entropy()).await
}

#[tokio::test]
async fn cipher_and_passphrase_must_agree_when_it_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = sealed();
    options.passphrase = None;
    assert!(matches!(Repo::create(local(dir.path()), options).await, Err(Error::PassphraseMissing)));
    let mut options = sealed();
    options.cipher = Cipher::None;
    assert!(matches!(Repo::create(local(dir.path()), options).await, Err(Error::NotEncrypted)));
    assert!(files(dir.path()).is_empty());
}

#[tokio::test]
async fn nothing_is_made_over_what_is_there() {
    for left in
        ["repo.json", "repo.json.copy", "main/stanza.json", "main/archive/15-1/00000002.history", "x/y"]
    {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pgbr").join(left);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, b"left").unwrap();
        let error = Repo::create(local(dir.path()), sealed()).await.unwrap_err();
        assert!(
            matches!(&error, Error::RepositoryExists { object, .. } if object.ends_with(left)),
            "{error}"
        );
        assert_eq!(std::fs::read(&file).unwrap(), b"left");
    }
    // What pgBackRest has there is in nobody's way.
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("archive/main")).unwrap();
    std::fs::write(dir.path().join("archive/main/archive.info"), b"[backrest]").unwrap();
    repo(dir.path()).await;
}

#[tokio::test]
async fn every_damaged_byte_is_found_and_the_copy_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let id = repo(dir.path()).await.id();
    let file = dir.path().join("pgbr/repo.json");
    let good = std::fs::read(&file).unwrap();
    let version = good.windows(9).position(|w| w == b"\"format\":").unwrap() + 9;
    for at in 0..good.len() {
        damage(&file, at);
        match open(local(dir.path())).await {
            Ok(opened) => {
                assert_eq!(opened.id(), id);
                assert_eq!(opened.warnings().len(), 1, "byte {at}: {:?}", opened.warnings());
            }
            Err(Error::Unsupported { .. }) if at == version => {}
            Err(error) => panic!("byte {at}: {error}"),
        }
        std::fs::write(&file, &good).unwrap();
    }
    assert!(open(local(dir.path())).await.unwrap().warnings().is_empty());
}

#[tokio::test]
async fn an_edited_file_is_not_believed_without_encryption_either() {
    let dir = tempfile::tempdir().unwrap();
    Repo::create(local(dir.path()), plain()).await.unwrap();
    for name in ["repo.json", "repo.json.copy"] {
        let file = dir.path().join("pgbr").join(name);
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace(r#""create":true"#, r#""create":false"#)).unwrap();
    }
    let error = open_at(dir.path(), None).await.unwrap_err();
    assert!(error.is_damage() && error.to_string().contains("not authentic"), "{error}");
}

#[tokio::test]
async fn two_damaged_copies_are_an_error_and_one_is_healed() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join("pgbr").join(name);
    repo(dir.path()).await;
    for broken in
        [&b""[..], b"{", b"{}", b"[1]", b"\xFF\xFE", br#"{"format":1}"#, br#"{"format":1,"auth":"00"}"#]
    {
        let good = std::fs::read(file("repo.json")).unwrap();
        std::fs::write(file("repo.json"), broken).unwrap();
        let opened = open(local(dir.path())).await.unwrap();
        std::fs::write(file("repo.json.copy"), broken).unwrap();
        let error = open(local(dir.path())).await.unwrap_err();
        assert!(error.is_damage(), "{error}");
        assert!(opened.heal().await.unwrap());
        assert!(!opened.heal().await.unwrap());
        assert_eq!(std::fs::read(file("repo.json")).unwrap(), good);
        assert_eq!(std::fs::read(file("repo.json.copy")).unwrap(), good);
    }
    std::fs::remove_file(file("repo.json")).unwrap();
    assert_eq!(open(local(dir.path())).await.unwrap().warnings().len(), 1);
}

#[tokio::test]
async fn another_format_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    repo(dir.path()).await;
    for name in ["repo.json", "repo.json.copy"] {
        let file = dir.path().join("pgbr").join(name);
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace(r#""format":1"#, r#""format":3,"new":[1]"#)).unwrap();
    }
    let error = open(local(dir.path())).await.unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
}

#[tokio::test]
async fn a_failure_at_any_request_leaves_a_repository_or_none() {
    let mut n = 0;
    loop {
        let mut requests = 0;
        for fault in failures(n) {
            let dir = tempfile::tempdir().unwrap();
            let (store, wrapper) = faulty(dir.path(), fault);
            let made = Repo::create(store, sealed()).await;
            requests = wrapper.requests();
            match (open(local(dir.path())).await, made) {
                (Ok(opened), Ok(made)) => assert_eq!(opened.id(), made.id(), "{fault:?}"),
                // It was made, and its maker did not live to hear it.
                (Ok(opened), Err(_)) => drop(opened.heal().await.unwrap()),
                (Err(Error::NoRepository { .. }), Err(_)) => drop(repo(dir.path()).await),
                (Err(error), made) => panic!("{fault:?}: {made:?}, then {error}"),
            }
            let opened = open(local(dir.path())).await.unwrap();
            assert!(opened.traits().create, "a failure is taken for a lack: {fault:?}");
        }
        n += 1;
        if n > requests {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_of_two_makers_wins() {
    for _ in 0..5 {
        let dir = tempfile::tempdir().unwrap();
        let make = || tokio::spawn(Repo::create(local(dir.path()), sealed()));
        let (a, b) = (make(), make());
        let made: Vec<Repo> = [a.await.unwrap(), b.await.unwrap()].into_iter().flatten().collect();
        assert_eq!(made.len(), 1, "one repository in one place");
        assert_eq!(open(local(dir.path())).await.unwrap().id(), made[0].id());
    }
}

#[tokio::test]
async fn a_missing_disk_is_never_a_missing_object() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repo(dir.path()).await;
    let (store, key) = (repo.store(), Layout::new().stanza(&stanza()));
    assert!(store.get(&key, 100).await.unwrap_err().is_not_found());

    let unmounted = dir.path().join("pgbr");
    std::fs::rename(&unmounted, dir.path().join("elsewhere")).unwrap();
    let unavailable = |error: Error| assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    unavailable(store.get(&key, 100).await.unwrap_err());
    unavailable(store.head(&key).await.unwrap_err());
    unavailable(store.exists(&key).await.unwrap_err());
    unavailable(store.level(&Layout::new().root()).await.unwrap_err());
    unavailable(store.delete(&key).await.unwrap_err());
    unavailable(store.create(&key, content(1, 10)).await.unwrap_err());
    unavailable(repo.stanzas().await.unwrap_err());
    let listed: Vec<_> = futures::StreamExt::collect(store.list(&Layout::new().root())).await;
    assert!(matches!(&listed[..], [Err(Error::Unavailable { .. })]), "{listed:?}");
    assert!(!unmounted.exists(), "nothing was made beneath the mount point");

    let error = open(local(dir.path())).await.unwrap_err();
    assert!(matches!(error, Error::NoRepository { .. }), "{error}");
    unavailable(Store::local(&dir.path().join("no/such/place"), false).unwrap_err());
    std::fs::write(dir.path().join("file"), b"").unwrap();
    unavailable(Store::local(&dir.path().join("file"), false).unwrap_err());
}

#[derive(Default)]
struct CountingCache(Mutex<Vec<(u64, Vec<u8>)>>);

impl KeyCache for CountingCache {
    fn load(&self, slot: &[u8; 8]) -> Option<Vec<u8>> {
        let kept = self.0.lock().unwrap();
        kept.iter().find(|(id, _)| *id == u64::from_be_bytes(*slot)).map(|(_, key)| key.clone())
    }

    fn store(&self, slot: &[u8; 8], sealed: &[u8]) -> Result<()> {
        self.0.lock().unwrap().push((u64::from_be_bytes(*slot), sealed.to_vec()));
        Ok(())
    }
}

fn cheap_argon2() -> Kdf {
    Kdf::Argon2id { memory_kib: 64, passes: 1, lanes: 1, salt: [9; 16] }
}

#[tokio::test]
async fn passphrases_are_added_and_removed_and_their_keys_kept() {
    let dir = tempfile::tempdir().unwrap();
    let made = repo(dir.path()).await;
    let second = Passphrase::new("made up by a person".to_owned());
    let cheap =
        |passphrase: &Passphrase| NewSlot { kdf: Some(cheap_argon2()), ..NewSlot::new(passphrase.clone()) };
    let both = made.add_slot(cheap(&second)).await.unwrap();
    assert_eq!(both.slots().len(), 2);
    assert!(
        matches!(made.add_slot(NewSlot::new(second.clone())).await, Err(Error::Invalid { .. })),
        "it was opened before the change"
    );

    let cache = CountingCache::default();
    for _ in 0..2 {
        let opened = Repo::open(local(dir.path()), Some(&second), Some(&cache), entropy()).await.unwrap();
        assert_eq!(opened.id(), made.id());
        assert_eq!(cache.0.lock().unwrap().len(), 1, "the second time nothing is derived");
    }
    let wrong = Passphrase::new("another".to_owned());
    let error = Repo::open(local(dir.path()), Some(&wrong), Some(&cache), entropy()).await.unwrap_err();
    assert!(matches!(error, Error::WrongPassphrase), "what is kept needs the passphrase too: {error}");
    cache.0.lock().unwrap()[0].1[20] ^= 1;
    Repo::open(local(dir.path()), Some(&second), Some(&cache), entropy()).await.unwrap();

    let alone = both.remove_slot(both.slots()[0]).await.unwrap();
    assert!(matches!(open(local(dir.path())).await, Err(Error::WrongPassphrase)));
    assert!(matches!(alone.remove_slot(alone.slots()[0]).await, Err(Error::Invalid { .. })), "the last one");
    assert!(matches!(alone.remove_slot([0; 8]).await, Err(Error::Invalid { .. })), "an unknown one");
    Repo::open(local(dir.path()), Some(&second), None, entropy()).await.unwrap();
}

#[tokio::test]
async fn a_cache_that_cannot_be_used_is_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = sealed();
    let passphrase = Passphrase::new("made up by a person".to_owned());
    (options.passphrase, options.kdf) = (Some(passphrase.clone()), Some(cheap_argon2()));
    Repo::create(local(dir.path()), options).await.unwrap();

    let good = FileKeyCache::new(dir.path().join("keys"));
    let opened = Repo::open(local(dir.path()), Some(&passphrase), Some(&good), entropy()).await.unwrap();
    assert!(opened.warnings().is_empty());
    assert!(good.load(&opened.slots()[0]).is_some());

    let bad = FileKeyCache::new("/dev/null/keys");
    let opened = Repo::open(local(dir.path()), Some(&passphrase), Some(&bad), entropy()).await.unwrap();
    assert_eq!(opened.warnings().len(), 1);
}

async fn opens_with(directory: &Path, passphrase: &Passphrase) -> Result<Repo> {
    Repo::open(local(directory), Some(passphrase), None, entropy()).await
}

#[tokio::test]
async fn a_passphrase_is_changed_in_one_step_and_slots_have_names() {
    let dir = tempfile::tempdir().unwrap();
    let made = repo(dir.path()).await;
    let (safe, second) = (Passphrase::generated(&[8; 32]), Passphrase::generated(&[9; 32]));
    let named = |passphrase: &Passphrase, name: &str| NewSlot {
        name: Some(name.to_owned()),
        ..NewSlot::new(passphrase.clone())
    };
    made.add_slot(named(&safe, "in the safe")).await.unwrap();
    let opened = open(local(dir.path())).await.unwrap();
    let changed = opened.change_slot(named(&second, "autumn")).await.unwrap();
    let slots = |repo: &Repo| -> Vec<(Option<String>, bool, bool)> {
        repo.slot_infos().into_iter().map(|slot| (slot.name, slot.generated, slot.in_use)).collect()
    };
    let listed = [("in the safe", false), ("autumn", true)];
    let listed = listed.map(|(name, in_use)| (Some(name.to_owned()), true, in_use));
    assert_eq!(slots(&changed), listed);
    assert_eq!(slots(&opens_with(dir.path(), &second).await.unwrap()), listed);
    opens_with(dir.path(), &safe).await.unwrap();
    assert!(matches!(open(local(dir.path())).await, Err(Error::WrongPassphrase)));
    let long = named(&passphrase(), &"x".repeat(101));
    assert!(matches!(changed.add_slot(long).await, Err(Error::Invalid { .. })));
}

#[tokio::test]
async fn a_new_key_seals_what_comes_and_what_was_there_stays_readable() {
    let dir = tempfile::tempdir().unwrap();
    let made = repo(dir.path()).await;
    let other = Passphrase::generated(&[8; 32]);
    let made = made.add_slot(NewSlot::new(other.clone())).await.unwrap();
    let name = |n: u32| format!("s{n}").parse().unwrap();
    let (mut now, mut ids) = (made, Vec::new());
    for n in 0..4 {
        Stanza::create(&now, &name(n), cluster(7), NOW).await.unwrap();
        ids.push(now.keyring().key_id());
        now = now.rotate_key(NewSlot::new(passphrase())).await.unwrap();
        assert_eq!((now.slots().len(), now.retired_keys()), (1, ids.len()));
    }
    assert!(matches!(opens_with(dir.path(), &other).await, Err(Error::WrongPassphrase)));
    ids.push(now.keyring().key_id());
    ids.dedup();
    assert_eq!(ids.len(), 5, "each generation has a key of its own");
    let opened = open(local(dir.path())).await.unwrap();
    assert_eq!(opened.id(), now.id());
    for n in 0..4 {
        assert_eq!(Stanza::open(&opened, &name(n)).await.unwrap().current().system_id, cluster(7).system_id);
    }
    // Passphrases come and go as before.
    opened.add_slot(NewSlot::new(other.clone())).await.unwrap();
    let opened = opens_with(dir.path(), &other).await.unwrap();
    Stanza::open(&opened, &name(0)).await.unwrap();
    let plain_dir = tempfile::tempdir().unwrap();
    let plain = Repo::create(local(plain_dir.path()), plain()).await.unwrap();
    assert!(matches!(plain.rotate_key(NewSlot::new(other)).await, Err(Error::NotEncrypted)));
}

/// Every request of every change of keys fails, lies or is the last one: what was readable is, by the passphrase of before or by the new one,
/// and the same change made again succeeds.
#[tokio::test]
async fn a_failed_change_of_keys_locks_nobody_out() {
    let (second, third) = (Passphrase::generated(&[8; 32]), Passphrase::generated(&[9; 32]));
    let mut swept = 0;
    for change in ["add", "change", "remove", "rotate"] {
        let apply = async |repo: Repo| match change {
            "add" => repo.add_slot(NewSlot::new(third.clone())).await,
            "change" => repo.change_slot(NewSlot::new(third.clone())).await,
            "remove" => repo.remove_slot(repo.slots()[0]).await,
            _ => repo.rotate_key(NewSlot::new(third.clone())).await,
        };
        // A process of its own, after whatever became of the one before.
        let open_any = async |dir: &Path| {
            let mut opened = Vec::new();
            for phrase in [&passphrase(), &second, &third] {
                opened.extend(opens_with(dir, phrase).await.ok());
            }
            opened
        };
        for n in 0.. {
            let mut requests = 0;
            for fault in failures(n) {
                swept += 1;
                let dir = tempfile::tempdir().unwrap();
                let made = repo(dir.path()).await.add_slot(NewSlot::new(second.clone())).await.unwrap();
                Stanza::create(&made, &stanza(), cluster(7), NOW).await.unwrap();
                let (faulty, wrapper) = faulty_repo(dir.path(), fault).await;
                let changed = apply(faulty).await;
                requests = wrapper.requests();
                let opened = open_any(dir.path()).await;
                assert!(!opened.is_empty(), "{change}, {fault:?}");
                for repo in &opened {
                    Stanza::open(repo, &stanza()).await.unwrap();
                }
                if changed.is_ok() {
                    let old = opens_with(dir.path(), &passphrase()).await.is_ok();
                    let new = opens_with(dir.path(), &third).await.is_ok();
                    let expected = match change {
                        "add" => (true, true),
                        "change" | "rotate" => (false, true),
                        _ => (false, false),
                    };
                    assert_eq!((old, new), expected, "{change}, {fault:?}");
                    continue;
                }
                // Once more, by whatever opens its first copy.
                let Ok(repo) = opens_with(dir.path(), &passphrase()).await else { continue };
                let again = apply(repo).await.unwrap();
                Stanza::open(&again, &stanza()).await.unwrap();
            }
            if n > requests {
                break;
            }
        }
    }
    println!("{swept} failures");
    assert!(swept > 60, "{swept} are too few to tell");
}
