//! The crash sweep of the smaller commands: every request fails, does what it should and reports a failure, or is the last one of a process that
//! dies. After each: what was listed is whole, nothing half-done counts, and the same command made again comes to its end and leaves nothing
//! of the broken one. Backups, copies, pushes and expires are swept in files of their own.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use pgbr::{
    AnnotateRequest, BackupLabel, ClusterAccess, ConnectOptions, HoldRequest, Host, KeyChange, NewSlot,
    Passphrase, ReleaseHoldRequest, RepoAccess, StanzaCreateRequest, StanzaDeleteRequest,
    StanzaUpgradeRequest, Store, annotate, hold, key_change, key_list, release_hold, stanza_create,
    stanza_delete, stanza_upgrade,
};
use pgbr_codec::Cipher;
use pgbr_manifest::PgVersion;
use pgbr_repo::{CreateOptions, Holds, Notes, Repo, Stanza};
use pgbr_testkit::{Fault, FaultStore, failures};

use crate::expire::{BEGAN, Shop, host_at, stanza, tree};

/// A store in a directory with a fault, and what counts its requests.
fn broken(directory: &Path, fault: Fault) -> (Store, Arc<FaultStore>) {
    let mut wrapper = None;
    let store = Store::local_wrapped(directory, true, |inner| {
        let faults = FaultStore::new(inner, fault);
        wrapper = Some(Arc::clone(&faults));
        faults
    });
    (store.unwrap(), wrapper.unwrap())
}

/// Tries every way to fail at every request; `attempt` gives how many requests the broken run made. Gives the number of failures tried.
#[expect(clippy::print_stdout, reason = "how many there were belongs into the log of the tests")]
async fn sweep(command: &str, attempt: impl AsyncFn(Fault) -> usize) -> usize {
    const AT_ONCE: usize = 12;
    let mut tried = 0;
    for first in (0..).step_by(AT_ONCE) {
        let faults: Vec<Fault> = (first..first + AT_ONCE).flat_map(failures).collect();
        let made = join_all(faults.iter().map(|fault| attempt(*fault))).await;
        let reached = faults.iter().zip(&made).filter(|(fault, made)| {
            let (Fault::Fails(n) | Fault::ActsAndFails(n) | Fault::Dies(n)) = fault else { return false };
            *made > n
        });
        let reached = reached.count();
        tried += reached;
        if reached < faults.len() {
            break;
        }
    }
    println!("{command}: {tried} failures");
    tried
}

fn host() -> Host {
    host_at(BEGAN + 40 * 86_400, 70)
}

/// A data directory of which nothing but the control file is there.
fn cluster(major: u32) -> (tempfile::TempDir, ClusterAccess) {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("global")).unwrap();
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pgbr-pg/tests/vectors");
    fs::copy(vectors.join(format!("control-{major}.bin")), dir.path().join("global/pg_control")).unwrap();
    let access = ClusterAccess { connect: ConnectOptions::default(), pg_data: dir.path().to_owned() };
    (dir, access)
}

async fn version(repo: &RepoAccess) -> PgVersion {
    let place = repo.open_stanza(&Host::system(), &stanza()).await.unwrap();
    place.stanza.current().version
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stanza_is_made_whole_or_made_by_the_next_try() {
    let (_data, cluster) = cluster(15);
    let request = |repo| StanzaCreateRequest {
        repo,
        stanza: stanza(),
        cluster: cluster.clone(),
        others: Vec::new(),
        online: false,
    };
    let tried = sweep("stanza-create", async |fault| {
        let dir = tempfile::tempdir().unwrap();
        let (store, wrapper) = broken(dir.path(), fault);
        let done = stanza_create(&host(), request(RepoAccess::store(store))).await;
        let requests = wrapper.requests();
        let repo = RepoAccess::plain(dir.path());
        if done.is_ok() {
            assert_eq!(version(&repo).await, PgVersion::V15, "{fault:?}");
        }
        // The probe puts several objects at once: what was on its way when one of them failed still lands, as it does where a process dies.
        tokio::time::sleep(Duration::from_millis(100)).await;
        stanza_create(&host(), request(repo.clone())).await.unwrap_or_else(|e| panic!("{fault:?}: {e}"));
        assert_eq!(version(&repo).await, PgVersion::V15, "{fault:?}");
        // The lease of who wrote a copy again stays, as every lease does: numbers are never used twice.
        let left = tree(&dir.path().join("pgbr")).into_keys();
        let left: Vec<_> =
            left.filter(|path| !path.display().to_string().contains("/repo.json.lease/")).collect();
        assert_eq!(left.len(), 4, "{fault:?}: two copies of two records, and not {left:?}");
        requests
    });
    assert!(tried.await > 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stanza_is_upgraded_or_stays_as_it_is() {
    let shop = Shop::of("FI").await;
    let (_data, cluster) = cluster(16);
    let request = |repo| StanzaUpgradeRequest {
        repo,
        stanza: stanza(),
        cluster: cluster.clone(),
        others: Vec::new(),
        online: false,
    };
    let tried = sweep("stanza-upgrade", async |fault| {
        let shop = shop.copy().await;
        let (store, wrapper) = broken(shop.dir.path(), fault);
        let done = stanza_upgrade(&host(), request(RepoAccess::store(store))).await;
        let requests = wrapper.requests();
        shop.assert_sound(&format!("{fault:?}")).await;
        let repo = RepoAccess::plain(shop.dir.path());
        let now = version(&repo).await;
        assert!(now == PgVersion::V16 || now == PgVersion::V15 && done.is_err(), "{fault:?}: {now}");
        stanza_upgrade(&host(), request(repo.clone())).await.unwrap_or_else(|e| panic!("{fault:?}: {e}"));
        assert_eq!(version(&repo).await, PgVersion::V16, "{fault:?}");
        assert_eq!(shop.listed().await.len(), 2, "{fault:?}");
        requests
    });
    assert!(tried.await > 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stanza_is_deleted_or_what_is_listed_is_whole() {
    let shop = Shop::of("FIF").await;
    let request = |repo| StanzaDeleteRequest { repo, stanza: stanza(), pg_data: Vec::new() };
    let tried = sweep("stanza-delete", async |fault| {
        let shop = shop.copy().await;
        let (store, wrapper) = broken(shop.dir.path(), fault);
        let done = stanza_delete(&host(), request(RepoAccess::store(store))).await;
        let requests = wrapper.requests();
        if done.is_err() {
            shop.assert_sound(&format!("{fault:?}")).await;
        }
        let repo = RepoAccess::plain(shop.dir.path());
        stanza_delete(&host(), request(repo)).await.unwrap_or_else(|e| panic!("{fault:?}: {e}"));
        let left = tree(&shop.dir.path().join("pgbr")).into_keys();
        let left: Vec<_> = left
            .filter(|path| !path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("repo.json")))
            .collect();
        assert!(left.is_empty(), "{fault:?}: {left:?}");
        requests
    });
    assert!(tried.await > 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn notes_and_holds_are_there_or_not() {
    let shop = Shop::of("FI").await;
    let label: BackupLabel = shop.listed().await[1];
    let changes = || [("who".to_owned(), Some("me".to_owned()))].into_iter().collect();
    let noted = |repo| AnnotateRequest { repo, stanza: stanza(), set: label, changes: changes() };
    let tried = sweep("annotate", async |fault| {
        let shop = shop.copy().await;
        let (store, wrapper) = broken(shop.dir.path(), fault);
        let done = annotate(&host(), noted(RepoAccess::store(store))).await;
        let requests = wrapper.requests();
        let notes = Notes::new(&shop.place.repo, &stanza());
        let count = notes.list(Some(&label)).await.unwrap().len();
        assert!(count == 1 || count == 0 && done.is_err(), "{fault:?}: {count} notes");
        annotate(&host(), noted(RepoAccess::plain(shop.dir.path()))).await.unwrap();
        let notes = notes.list(Some(&label)).await.unwrap();
        assert!(notes.iter().all(|note| *note.changes.as_ref().unwrap() == changes()), "{fault:?}");
        shop.assert_sound(&format!("{fault:?}")).await;
        requests
    });
    assert!(tried.await > 10);

    let (reason, held) = ("an audit".to_owned(), |repo| (repo, stanza(), label));
    let tried = sweep("hold and release", async |fault| {
        let shop = shop.copy().await;
        let (store, wrapper) = broken(shop.dir.path(), fault);
        let (repo, stanza, label) = held(RepoAccess::store(store));
        let request =
            HoldRequest { repo: repo.clone(), stanza: stanza.clone(), label, reason: reason.clone() };
        let put = hold(&host(), request).await;
        let holds = Holds::new(&shop.place.repo, &stanza);
        let count = holds.list().await.unwrap().len();
        assert!(count == 1 || count == 0 && put.is_err(), "{fault:?}: {count} holds");
        let request = ReleaseHoldRequest { repo, stanza: stanza.clone(), label, id: None };
        let released = release_hold(&host(), request).await;
        let requests = wrapper.requests();
        assert!(holds.list().await.unwrap().is_empty() || released.is_err(), "{fault:?}");
        let (repo, stanza, label) = held(RepoAccess::plain(shop.dir.path()));
        let request =
            HoldRequest { repo: repo.clone(), stanza: stanza.clone(), label, reason: reason.clone() };
        hold(&host(), request).await.unwrap_or_else(|e| panic!("{fault:?}: {e}"));
        release_hold(&host(), ReleaseHoldRequest { repo, stanza, label, id: None }).await.unwrap();
        assert!(holds.list().await.unwrap().is_empty(), "{fault:?}");
        requests
    });
    assert!(tried.await > 20);
}

/// With all leases, as the command does it.
#[tokio::test(flavor = "multi_thread")]
async fn keys_are_changed_or_as_before() {
    let phrase = |seed| Passphrase::generated(&[seed; 32]);
    let (_data, cluster) = cluster(15);
    let slot = || NewSlot::new(phrase(3));
    type Make = fn([u8; 8], NewSlot) -> KeyChange;
    let changes: [(&str, Make); 4] = [
        ("key-add", |_, slot| KeyChange::Add(slot)),
        ("key-change", |_, slot| KeyChange::Change(slot)),
        ("key-remove", |id, _| KeyChange::Remove(id)),
        ("key-rotate", |_, slot| KeyChange::Rotate(slot)),
    ];
    for (name, change) in changes {
        let tried = sweep(name, async |fault| {
            let dir = tempfile::tempdir().unwrap();
            let options = CreateOptions {
                cipher: Cipher::Aes256Gcm,
                passphrase: Some(phrase(1)),
                kdf: None,
                now: BEGAN,
                entropy: Host::system().entropy,
            };
            let repo = Repo::create(Store::local(dir.path(), true).unwrap(), options).await.unwrap();
            let repo = repo.add_slot(NewSlot::new(phrase(2))).await.unwrap();
            let identity = pgbr_pg::read_control_file(cluster.pg_data.join("global/pg_control")).unwrap().0;
            let identity = pgbr_repo::NewCluster {
                system_id: identity.system_id,
                version: identity.version,
                catalog_version: identity.catalog_version,
                control_version: identity.control_version,
            };
            Stanza::create(&repo, &stanza(), identity, BEGAN).await.unwrap();
            let second = repo.slots()[1];

            let (store, wrapper) = broken(dir.path(), fault);
            let access = RepoAccess::store(store).with_passphrase(phrase(1));
            let done = key_change(&host(), &access, change(second, slot())).await;
            let requests = wrapper.requests();
            let access = |seed| RepoAccess::plain(dir.path()).with_passphrase(phrase(seed));
            let mut opens = Vec::new();
            for seed in [1, 2, 3] {
                match access(seed).open_stanza(&Host::system(), &stanza()).await {
                    Ok(_) => opens.push(seed),
                    Err(error) => {
                        assert!(error.to_string().contains("passphrase"), "{name}, {fault:?}: {error}");
                    }
                }
            }
            let (before, after) = match name {
                "key-add" => ([1, 2].as_slice(), [1, 2, 3].as_slice()),
                "key-change" => (&[1, 2][..], &[2, 3][..]),
                "key-remove" => (&[1, 2][..], &[1][..]),
                _ => (&[1, 2][..], &[3][..]),
            };
            assert!(opens == after || done.is_err(), "{name}, {fault:?}: {opens:?}");
            assert!(
                before.iter().chain(after).any(|seed| opens.contains(seed)),
                "{name}, {fault:?}: {opens:?}"
            );
            // Made again by whoever can still open it, it comes to its end.
            let again = if opens.contains(&1) { 1 } else { 3 };
            if opens != after {
                let made = key_change(&host(), &access(again), change(second, slot())).await;
                made.unwrap_or_else(|e| panic!("{name}, {fault:?}: {e}"));
            }
            assert!(!key_list(&host(), &access(after[0])).await.unwrap().slots.is_empty());
            assert_eq!(version(&access(after[0])).await, PgVersion::V15, "{name}, {fault:?}");
            requests
        });
        assert!(tried.await > 20, "{name}");
    }
}
