//! The crash sweep of the smaller commands: every request fails, does what it should and reports a failure, does what it should and answers when
//! another process has taken over and is done, or is the last one of a process that dies. After each: what was listed is whole, nothing
//! half-done counts, the same command made again comes to its end and leaves nothing of the broken one, and verify finds nothing wrong.
//! Backups, copies, pushes and expires are swept in files of their own.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use pgbr::{
    AnnotateRequest, BackupLabel, ClusterAccess, ConnectOptions, HoldRequest, Host, KeyChange, NewSlot,
    Passphrase, ReleaseHoldRequest, RepoAccess, StanzaCreateRequest, StanzaDeleteRequest,
    StanzaUpgradeRequest, annotate, hold, key_change, key_list, release_hold, stanza_create, stanza_delete,
    stanza_upgrade,
};
use pgbr_codec::Cipher;
use pgbr_manifest::PgVersion;
use pgbr_repo::{CreateOptions, Holds, Notes, Repo, Stanza};
use pgbr_testkit::Sweep;

use crate::server::Chain;
use crate::world::{BEGINNING, Ground, Objects, Site, Try, World, stanza};

/// A data directory of which nothing but the control file is there.
fn data_dir(control: &[u8]) -> (tempfile::TempDir, ClusterAccess) {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("global")).unwrap();
    fs::write(dir.path().join("global/pg_control"), control).unwrap();
    let access = ClusterAccess { connect: ConnectOptions::default(), pg_data: dir.path().to_owned() };
    (dir, access)
}

/// The control file of a cluster of this version.
fn control_file(major: u32) -> Bytes {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pgbr-pg/tests/vectors");
    fs::read(vectors.join(format!("control-{major}.bin"))).unwrap().into()
}

async fn version(host: &Host, repo: &RepoAccess) -> PgVersion {
    repo.open_stanza(host, &stanza()).await.unwrap().stanza.current().version
}

#[test]
fn a_stanza_is_made_whole_or_made_by_the_next_try() {
    let (_data, cluster) = data_dir(&control_file(15));
    let make = async |host: Host, repo: RepoAccess| {
        let (cluster, others) = (cluster.clone(), Vec::new());
        let request = StanzaCreateRequest { repo, stanza: stanza(), cluster, others, online: false };
        stanza_create(&host, request).await
    };
    for site in Site::ALL {
        Sweep::of(site.sweep_of("stanza-create"), 30).run(
            || (),
            async |(), case| {
                let t = Try::new(case, site, &Objects::new()).await;
                let broken = make(t.world.host(), t.broken.clone());
                let done = t.strike(broken, make(t.world.later(), t.sound())).await;
                if done.is_ok() {
                    assert_eq!(version(&t.world.later(), &t.sound()).await, PgVersion::V15, "{case}");
                }
                t.next(make(t.world.later(), t.sound()).await);
                assert_eq!(version(&t.world.later(), &t.sound()).await, PgVersion::V15, "{case}");
                let left = t.ground.keys().await;
                assert_eq!(left.len(), 4, "{case}: two copies of two records, and not {left:?}");
                t.assert_settled().await;
                t.faults.reached()
            },
        );
    }
}

#[test]
fn a_stanza_is_upgraded_or_stays_as_it_is() {
    let chain = Chain::get();
    let (_data, cluster) = data_dir(&control_file(16));
    let upgrade = async |host: Host, repo: RepoAccess| {
        let (cluster, others) = (cluster.clone(), Vec::new());
        let request = StanzaUpgradeRequest { repo, stanza: stanza(), cluster, others, online: false };
        stanza_upgrade(&host, request).await
    };
    for site in Site::ALL {
        Sweep::of(site.sweep_of("stanza-upgrade"), 8).run(
            || (),
            async |(), case| {
                let t = Try::new(case, site, &chain.objects).await;
                let broken = upgrade(t.world.host(), t.broken.clone());
                let done = t.strike(broken, upgrade(t.world.later(), t.sound())).await;
                t.assert_whole().await;
                let now = version(&t.world.later(), &t.sound()).await;
                assert!(now == PgVersion::V16 || now == PgVersion::V15 && done.is_err(), "{case}: {now}");
                t.next(upgrade(t.world.later(), t.sound()).await);
                assert_eq!(version(&t.world.later(), &t.sound()).await, PgVersion::V16, "{case}");
                assert_eq!(t.listed().await, chain.labels(), "{case}");
                assert_eq!(t.ground.keys().await, chain.keys, "{case}");
                t.assert_settled().await;
                t.faults.reached()
            },
        );
    }
}

#[test]
fn a_stanza_is_deleted_or_what_is_listed_is_whole() {
    let chain = Chain::get();
    let delete = async |host: Host, repo: RepoAccess| {
        stanza_delete(&host, StanzaDeleteRequest { repo, stanza: stanza(), pg_data: Vec::new() }).await
    };
    for site in Site::ALL {
        Sweep::of(site.sweep_of("stanza-delete"), 40).run(
            || (),
            async |(), case| {
                let t = Try::new(case, site, &chain.objects).await;
                let broken = delete(t.world.host(), t.broken.clone());
                let done = t.strike(broken, delete(t.world.later(), t.sound())).await;
                let record = t.ground.objects().await.contains_key("pgbr/main/stanza.json");
                assert!(done.is_err() || !record, "{case}: success, and it is there");
                if record {
                    let left = t.listed().await;
                    assert_eq!(left, chain.labels()[..left.len()], "{case}");
                    t.assert_whole().await;
                }
                t.next(delete(t.world.later(), t.sound()).await);
                let left = t.ground.objects().await.into_keys();
                let left: Vec<_> = left.filter(|key| !key.starts_with("pgbr/repo.json")).collect();
                assert!(left.is_empty(), "{case}: {left:?}");
                t.faults.reached()
            },
        );
    }
}

/// A stanza that was made again, with backups in it, while a removal stood still is none of that one's business.
#[test]
fn a_removal_that_was_taken_over_removes_nothing_more() {
    let chain = Chain::get();
    let delete = async |host: Host, repo: RepoAccess| {
        stanza_delete(&host, StanzaDeleteRequest { repo, stanza: stanza(), pg_data: Vec::new() }).await
    };
    for site in Site::ALL {
        Sweep::of(site.sweep_of("stanza-delete that is taken over"), 40).of_delays().run(
            || (),
            async |(), case| {
                let t = Try::new(case, site, &chain.objects).await;
                let meanwhile = async {
                    let deleted = delete(t.world.later(), t.sound()).await;
                    t.ground.put(&chain.objects).await;
                    deleted
                };
                let done = t.strike(delete(t.world.host(), t.broken.clone()), meanwhile).await;
                // Where it had not begun, it goes on as if it had come just now.
                if done.is_err() || t.ground.objects().await.contains_key("pgbr/main/stanza.json") {
                    assert_eq!(t.listed().await, chain.labels(), "{case}, {}: {done:?}", t.struck());
                    assert_eq!(t.ground.keys().await, chain.keys, "{case}, {}: {done:?}", t.struck());
                    t.assert_settled().await;
                }
                t.faults.reached()
            },
        );
    }
}

#[test]
fn notes_are_there_or_not() {
    let chain = Chain::get();
    let label: BackupLabel = chain.labels()[1];
    let changes = || [("who".to_owned(), Some("me".to_owned()))].into_iter().collect();
    let note = async |host: Host, repo: RepoAccess| {
        annotate(&host, AnnotateRequest { repo, stanza: stanza(), set: label, changes: changes() }).await
    };
    for site in Site::ALL {
        Sweep::of(site.sweep_of("annotate"), 5).run(
            || (),
            async |(), case| {
                let t = Try::new(case, site, &chain.objects).await;
                let notes = async || {
                    let repo = t.sound().open(&t.world.later()).await.unwrap();
                    Notes::new(&repo, &stanza()).list(Some(&label)).await.unwrap()
                };
                let done =
                    t.strike(note(t.world.host(), t.broken.clone()), note(t.world.later(), t.sound())).await;
                let count = notes().await.len();
                assert!(count > 0 || done.is_err(), "{case}: no note");
                t.assert_whole().await;
                t.next(note(t.world.later(), t.sound()).await);
                let notes = notes().await;
                assert!(notes.iter().all(|note| *note.changes.as_ref().unwrap() == changes()), "{case}");
                assert_eq!(t.ground.keys().await.len(), chain.keys.len() + notes.len(), "{case}");
                t.assert_settled().await;
                t.faults.reached()
            },
        );
    }
}

#[test]
fn holds_are_there_or_not() {
    let chain = Chain::get();
    let label: BackupLabel = chain.labels()[1];
    let put = async |host: Host, repo: RepoAccess| {
        let reason = "an audit".to_owned();
        hold(&host, HoldRequest { repo, stanza: stanza(), label, reason }).await.map(drop)
    };
    let release = async |host: Host, repo: RepoAccess| {
        release_hold(&host, ReleaseHoldRequest { repo, stanza: stanza(), label, id: None }).await.map(drop)
    };
    let both = async |host: Host, repo: RepoAccess| {
        put(host.clone(), repo.clone()).await?;
        release(host, repo).await
    };
    for site in Site::ALL {
        Sweep::of(site.sweep_of("hold and release"), 12).run(
            || (),
            async |(), case| {
                let t = Try::new(case, site, &chain.objects).await;
                let holds = async || {
                    let repo = t.sound().open(&t.world.later()).await.unwrap();
                    Holds::new(&repo, &stanza()).list().await.unwrap().len()
                };
                let done =
                    t.strike(both(t.world.host(), t.broken.clone()), both(t.world.later(), t.sound())).await;
                assert!(holds().await == 0 || done.is_err(), "{case}: it was released");
                t.next(put(t.world.later(), t.sound()).await);
                assert!(holds().await > 0, "{case}: it was held");
                t.next(release(t.world.later(), t.sound()).await);
                assert_eq!(holds().await, 0, "{case}");
                assert_eq!(t.listed().await, chain.labels(), "{case}");
                assert_eq!(t.ground.keys().await, chain.keys, "{case}");
                t.assert_settled().await;
                t.faults.reached()
            },
        );
    }
}

fn phrase(seed: u8) -> Passphrase {
    Passphrase::generated(&[seed; 32])
}

/// A sealed repository with two passphrases, and a stanza.
async fn sealed() -> Objects {
    let (world, ground) = (World::new(0, 0), Ground::with(Site::Memory, &Objects::new()).await);
    let pgbr::RepoPlace::Store(store) = ground.sound().place else { panic!("it lies in memory") };
    let options = CreateOptions {
        cipher: Cipher::Aes256Gcm,
        passphrase: Some(phrase(1)),
        kdf: None,
        now: BEGINNING,
        entropy: world.host().entropy,
    };
    let repo = Repo::create(store, options).await.unwrap();
    let repo = repo.add_slot(NewSlot::new(phrase(2))).await.unwrap();
    let identity = pgbr_pg::ControlFile::parse(&control_file(15)).unwrap();
    let identity = pgbr_repo::NewCluster {
        system_id: identity.system_id,
        version: identity.version,
        catalog_version: identity.catalog_version,
        control_version: identity.control_version,
    };
    Stanza::create(&repo, &stanza(), identity, BEGINNING).await.unwrap();
    ground.objects().await
}

/// A command, what it changes, given the second of two passphrases, and the passphrases that open the repository then.
type Change = (&'static str, fn([u8; 8]) -> KeyChange, &'static [u8]);

fn changes() -> [Change; 4] {
    [
        ("key-add", |_| KeyChange::Add(NewSlot::new(phrase(3))), &[1, 2, 3]),
        ("key-change", |_| KeyChange::Change(NewSlot::new(phrase(3))), &[2, 3]),
        ("key-remove", KeyChange::Remove, &[1]),
        ("key-rotate", |_| KeyChange::Rotate(NewSlot::new(phrase(3))), &[3]),
    ]
}

/// The passphrases that open a repository.
async fn opening(t: &Try) -> Vec<u8> {
    let mut opens = Vec::new();
    for seed in [1, 2, 3, 4] {
        match t.sound().with_passphrase(phrase(seed)).open_stanza(&t.world.later(), &stanza()).await {
            Ok(_) => opens.push(seed),
            Err(error) => assert!(error.to_string().contains("passphrase"), "{}: {error}", t.why),
        }
    }
    opens
}

/// With all leases, as the command does it.
#[test]
fn keys_are_changed_or_as_before() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let objects = runtime.block_on(sealed());
    for (site, (name, change, after)) in Site::ALL.into_iter().flat_map(|site| changes().map(|c| (site, c))) {
        Sweep::of(site.sweep_of(name), 10).run(
            || (),
            async |(), case| {
                let t = Try::new(case, site, &objects).await;
                let second =
                    t.sound().with_passphrase(phrase(1)).open(&t.world.later()).await.unwrap().slots()[1];
                let apply = async |host: Host, repo: RepoAccess, seed| {
                    key_change(&host, &repo.with_passphrase(phrase(seed)), change(second)).await
                };
                let access = |seed| t.sound().with_passphrase(phrase(seed));
                let slots = async |seed| key_list(&t.world.later(), &access(seed)).await.unwrap().slots.len();
                // Whoever takes over does it with what opens it then, and finds it done where it is.
                let over = async {
                    let opens = opening(&t).await;
                    let is_done = opens == after && slots(after[0]).await >= after.len();
                    if is_done { Ok(()) } else { apply(t.world.later(), t.sound(), 1).await.map(drop) }
                };
                let done = t.strike(apply(t.world.host(), t.broken.clone(), 1), over).await;
                let opens = opening(&t).await;
                assert!(opens == after || done.is_err(), "{case}: {opens:?}");
                // One of the two copies may be new and the other old: then what opens either opens it.
                let all = |those: &[u8]| those.iter().all(|one| opens.contains(one));
                assert!(all(&[1, 2]) || all(after), "{case}: {opens:?}");
                if opens != after || slots(after[0]).await < after.len() {
                    t.next(apply(t.world.later(), t.sound(), 1).await);
                }
                assert_eq!(opening(&t).await, after, "{case}");
                // Who adds one and is not told so adds it once more.
                assert!(slots(after[0]).await >= after.len(), "{case}");
                let access = access(after[0]);
                assert_eq!(version(&t.world.later(), &access).await, PgVersion::V15, "{case}");
                let why = format!("{case}, {}", t.struck());
                crate::world::assert_settled(&t.world.later(), &t.ground, access, &why).await;
                t.faults.reached()
            },
        );
    }
}

/// A key that came while another change stood still stays: without it nothing that was sealed since could be read.
#[test]
fn a_change_of_keys_that_was_taken_over_undoes_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let objects = runtime.block_on(sealed());
    for (site, (name, change, _)) in Site::ALL.into_iter().flat_map(|site| changes().map(|c| (site, c))) {
        Sweep::of(site.sweep_of(&format!("{name} that is taken over")), 10).of_delays().run(
            || (),
            async |(), case| {
                let t = Try::new(case, site, &objects).await;
                let access = |seed| t.sound().with_passphrase(phrase(seed));
                let second = access(1).open(&t.world.later()).await.unwrap().slots()[1];
                let meanwhile = async {
                    let opens = opening(&t).await;
                    let rotate = KeyChange::Rotate(NewSlot::new(phrase(4)));
                    key_change(&t.world.later(), &access(*opens.last().unwrap()), rotate).await
                };
                let host = t.world.host();
                let broken = t.broken.clone().with_passphrase(phrase(1));
                let done = t.strike(key_change(&host, &broken, change(second)), meanwhile).await;
                if t.faults.reached() {
                    let why = format!("{case}, {}: {done:?}", t.struck());
                    assert_eq!(opening(&t).await, [4], "{why}");
                    let (host, access) = (t.world.later(), access(4));
                    assert_eq!(version(&host, &access).await, PgVersion::V15, "{why}");
                    crate::world::assert_settled(&host, &t.ground, access, &why).await;
                }
                t.faults.reached()
            },
        );
    }
}
