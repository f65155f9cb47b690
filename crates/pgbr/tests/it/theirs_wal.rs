//! WAL that pgBackRest has beside ours: what archive-get makes of it, what a look costs, and how a stanza of ours is made from it.

use std::fmt::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use pgbr::{
    ArchiveGetRequest, ArchivePushRequest, Compression, Error, FindingKind, Got, Host, Passphrase, PgVersion,
    RepoAccess, RepoError, StanzaName, Store, SystemId, TakeOver, TheirError, TheirsRemoveRequest,
    VerifyRequest, archive_get, archive_push, theirs_remove, theirs_rest, verify,
};
use pgbr_pgbackrest::Checksum;
use pgbr_repo::{NewCluster, Requests};
use pgbr_testkit::{Fault, FaultStore};

use crate::archiving::{name, segment};
use crate::world::World;

const SYSTEM: u64 = 77;

/// A place in a store: pgBackRest's side is written here by hand, ours by the program.
struct Place {
    objects: Arc<InMemory>,
    store: Store,
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let objects = Arc::new(InMemory::new());
        let store = Store::remote(objects.clone(), "memory");
        Self { objects, store, dir: tempfile::tempdir().unwrap() }
    }

    async fn put(&self, key: &str, content: impl Into<Vec<u8>>) {
        self.objects.put(&key.into(), content.into().into()).await.unwrap();
    }

    /// An archive of pgBackRest for these clusters, the last of which is the one of now.
    async fn with_info(clusters: &[(u32, u64, &str)]) -> Self {
        let place = Self::new();
        let info = info(clusters);
        place.put("archive/demo/archive.info", info.clone()).await;
        place.put("archive/demo/archive.info.copy", info).await;
        place
    }

    /// Archives a file as pgBackRest does.
    async fn put_wal(&self, id: &str, file: &str, content: &[u8]) {
        let checksum = Checksum::of(content, &mut [0; 4096]).unwrap();
        let directory = &file[..16];
        self.put(&format!("archive/demo/{id}/{directory}/{file}-{checksum}"), content).await;
    }

    fn access(&self) -> RepoAccess {
        RepoAccess::store(self.store.clone())
    }

    fn to(&self) -> PathBuf {
        self.dir.path().join("RECOVERYXLOG")
    }

    async fn get_by(&self, access: RepoAccess, file: &str) -> pgbr::Result<Got> {
        std::fs::remove_file(self.to()).ok();
        let request = ArchiveGetRequest {
            repos: vec![(1, access)],
            stanza: stanza(),
            file: file.to_owned(),
            destination: self.to(),
            pg_data: None,
            timeout: Duration::ZERO,
            facts: None,
        };
        let got = archive_get(&Host::system(), request).await;
        assert_eq!(matches!(got, Ok(Got::Found { .. })), self.to().exists());
        assert!(!self.dir.path().join("RECOVERYXLOG.pgbr.tmp").exists());
        got
    }

    async fn get(&self, file: &str) -> pgbr::Result<Got> {
        self.get_by(self.access(), file).await
    }

    #[track_caller]
    fn assert_got(&self, got: pgbr::Result<Got>, content: &[u8]) {
        assert!(matches!(got.unwrap(), Got::Found { repo: 1, .. }));
        assert!(std::fs::read(self.to()).unwrap() == content);
        assert_eq!(self.to().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    async fn push_by(&self, access: RepoAccess, file: PathBuf) -> pgbr::Result<()> {
        let request = ArchivePushRequest {
            repos: vec![(1, access)],
            stanza: stanza(),
            file,
            compression: Compression::NONE,
            threads: 1,
            header_check: true,
            facts: None,
        };
        archive_push(&Host::system(), request).await.map(drop)
    }

    /// Gets and lists that `work` costs.
    async fn cost<T>(&self, work: impl Future<Output = T>) -> (T, [u64; 2]) {
        let both = |r: Requests| [r.gets, r.lists];
        let before = both(self.store.requests());
        let done = work.await;
        let after = both(self.store.requests());
        (done, [after[0] - before[0], after[1] - before[1]])
    }
}

/// With the right to take over, as the program has it in the place of pgBackRest.
fn taking_over(access: RepoAccess) -> RepoAccess {
    RepoAccess { take_over: Some(TakeOver::default()), ..access }
}

fn stanza() -> StanzaName {
    "demo".parse().unwrap()
}

fn info(clusters: &[(u32, u64, &str)]) -> String {
    let (id, system, version) = clusters.last().unwrap();
    let mut history: Vec<_> = clusters.to_vec();
    history.sort_unstable();
    let line = |(id, system, version): &(u32, u64, &str)| {
        (id.to_string(), format!("{{\"db-id\":{system},\"db-version\":\"{version}\"}}"))
    };
    let sections = [
        (
            "backrest",
            vec![("backrest-format".into(), "5".into()), ("backrest-version".into(), "\"2.59.1\"".into())],
        ),
        (
            "db",
            vec![
                ("db-id".to_owned(), id.to_string()),
                ("db-system-id".to_owned(), system.to_string()),
                ("db-version".to_owned(), format!("\"{version}\"")),
            ],
        ),
        ("db:history", history.iter().map(line).collect::<Vec<(String, String)>>()),
    ];
    let (mut text, mut hashed) = (String::new(), String::new());
    for (name, pairs) in &sections {
        writeln!(text, "[{name}]").unwrap();
        for (key, value) in pairs {
            writeln!(text, "{key}={value}").unwrap();
        }
        text.push('\n');
        let pairs: Vec<String> = pairs.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
        hashed += &format!("\"{name}\":{{{}}},", pairs.join(","));
    }
    let hashed = format!("{{{}}}", hashed.trim_end_matches(','));
    let checksum = Checksum::of(hashed.as_bytes(), &mut [0; 4096]).unwrap();
    text + &format!("[backrest]\nbackrest-checksum=\"{checksum}\"\n")
}

/// What is listed and cannot be had is missing, and what an expire removes meanwhile is of no account: neither is valid.
#[tokio::test]
async fn wal_that_goes_while_it_is_verified_is_not_valid() {
    let place = Place::with_info(&[(1, SYSTEM, "15")]).await;
    let keys: Vec<String> = {
        for number in 1..=4 {
            let content = std::fs::read(segment(place.dir.path(), number, SYSTEM)).unwrap();
            place.put_wal("15-1", &name(number), &content).await;
        }
        let of = |number: u32| format!("archive/demo/15-1/{}/{}", &name(number)[..16], name(number));
        [2, 3].map(of).into()
    };
    let (gone, torn) = (keys[0].clone(), keys[1].clone());
    let (objects, aside) = (place.objects.clone(), Mutex::new(None));
    let store = FaultStore::watched(place.objects.clone(), move |request| {
        let mut aside = aside.lock().unwrap();
        match request.split_once(' ').unwrap() {
            // It expires.
            ("get", key) if key.starts_with(&gone) => {
                objects.delete(&key.into()).now_or_never().unwrap().ok();
            }
            // It cannot be had, and is there in the next listing as in the first.
            ("get", key) if key.starts_with(&torn) => {
                *aside = Some(key.to_owned());
                objects.delete(&key.into()).now_or_never().unwrap().ok();
            }
            ("level", _) => {
                if let Some(key) = aside.take() {
                    objects.put(&key.into(), "anything".into()).now_or_never().unwrap().unwrap();
                }
            }
            _ => {}
        }
    });
    let request = VerifyRequest {
        repo: RepoAccess::store(Store::remote(store, "memory")),
        stanza: stanza(),
        set: None,
        quick: false,
        budget: None,
        witness: None,
        threads: 2,
    };
    let report = verify(&Host::system(), request).await.unwrap();
    let archive = &report.theirs.unwrap().archives[0];
    assert_eq!((archive.files.checked, archive.files.valid, archive.files.missing), (3, 2, 1), "{archive:?}");
    let ranges: Vec<String> = archive.ranges.iter().map(|range| range.start.to_string()).collect();
    assert_eq!(ranges, [name(1), name(4)]);
    let found: Vec<_> = report.findings.iter().map(|f| (f.kind, f.object.starts_with(&keys[1]))).collect();
    assert_eq!(found, [(FindingKind::TheirWal, true)], "{:#?}", report.findings);
}

#[tokio::test]
async fn every_kind_of_file_comes_from_theirs_where_ours_is_not_there() {
    let place = Place::with_info(&[(1, SYSTEM, "15")]).await;
    let content = vec![7; 3 << 20];
    place.put_wal("15-1", &name(3), &content).await;
    let partial = format!("{}.partial", name(4));
    place.put_wal("15-1", &partial, b"a part").await;
    let label = format!("{}.00000028.backup", name(3));
    place.put(&format!("archive/demo/15-1/0000000100000000/{label}"), "START").await;
    place.put("archive/demo/15-1/00000002.history", "1\t0/3000000\tno reason\n").await;

    place.assert_got(place.get(&name(3)).await, &content);
    place.assert_got(place.get(&partial).await, b"a part");
    place.assert_got(place.get(&label).await, b"START");
    place.assert_got(place.get("00000002.history").await, b"1\t0/3000000\tno reason\n");
    for missing in [name(4), name(5), "00000003.history".to_owned(), format!("{}.partial", name(3))] {
        assert_eq!(place.get(&missing).await.unwrap(), Got::Missing, "{missing}");
    }
    // It is a matter of the other stanza.
    place.put("archive/other/archive.info", "").await;
    let nothing = Place::new();
    let absent = nothing.get(&name(3)).await.unwrap_err();
    assert!(matches!(absent, Error::Repo(RepoError::NoRepository { .. })), "{absent}");
}

#[tokio::test]
async fn ours_comes_first_and_what_is_in_neither_is_missing() {
    let place = Place::with_info(&[(1, SYSTEM, "15")]).await;
    let file = segment(place.dir.path(), 2, SYSTEM);
    let ours = std::fs::read(&file).unwrap();
    place.push_by(taking_over(place.access()), file).await.unwrap();
    place.put_wal("15-1", &name(1), b"theirs").await;
    place.put_wal("15-1", &name(2), b"other content").await;
    place.assert_got(place.get(&name(1)).await, b"theirs");
    place.assert_got(place.get(&name(2)).await, &ours);
    assert_eq!(place.get(&name(3)).await.unwrap(), Got::Missing);
    // What is damaged in ours is an error, whatever theirs has.
    let key = format!("pgbr/demo/archive/15-1/0000000100000000/{}", name(2));
    place.put(&key, "damaged").await;
    place.get(&name(2)).await.unwrap_err();
}

/// Whoever can write to a repository can put an archive there that is not encrypted, with WAL behind ours.
#[tokio::test]
async fn wal_of_anybody_is_not_given_where_there_is_a_passphrase() {
    let place = Place::with_info(&[(1, SYSTEM, "15")]).await;
    place.put_wal("15-1", &name(5), b"somebody's").await;
    let sealed = || place.access().with_passphrase(Passphrase::new("ours"));
    // Where there is a stanza of ours, and where there is none yet.
    for _ in 0..2 {
        let error = place.get_by(sealed(), &name(5)).await.unwrap_err();
        let text = format!("{error:?}");
        assert!(matches!(error, Error::PgBackRest(TheirError::NotEncrypted { .. })), "{text}");
        place.push_by(taking_over(sealed()), segment(place.dir.path(), 3, SYSTEM)).await.unwrap();
    }
    assert!(matches!(place.get_by(sealed(), &name(3)).await, Ok(Got::Found { .. })));
    // What is in neither is missing all the same: recovery ends there.
    assert_eq!(place.get_by(sealed(), &name(6)).await.unwrap(), Got::Missing);
}

#[tokio::test]
async fn a_look_costs_one_listing_where_theirs_is_not_there_and_two_and_the_info_where_it_is() {
    let place = Place::with_info(&[(1, SYSTEM, "15")]).await;
    place.push_by(taking_over(place.access()), segment(place.dir.path(), 2, SYSTEM)).await.unwrap();
    let (found, least) = place.cost(place.get(&name(2))).await;
    place.assert_got(found, &std::fs::read(place.dir.path().join(name(2))).unwrap());
    assert_eq!(least, [3, 0], "repo.json, the record and the segment: theirs was not asked");
    let (missing, both) = place.cost(place.get(&name(9))).await;
    assert_eq!(missing.unwrap(), Got::Missing);
    for object in ["archive.info", "archive.info.copy"] {
        place.objects.delete(&format!("archive/demo/{object}").into()).await.unwrap();
    }
    let (missing, ours) = place.cost(place.get(&name(9))).await;
    assert_eq!(missing.unwrap(), Got::Missing);
    assert_eq!([both[0] - ours[0], both[1] - ours[1]], [1, 1], "archive.info and its segments");
    // The other listing of ours is that for what a damaged object is stored beside as.
    assert_eq!(ours, [3, 2]);
}

#[tokio::test]
async fn damage_is_an_error_and_what_cannot_hold_the_file_is_none() {
    let place = Place::with_info(&[(1, SYSTEM, "15")]).await;
    place.put_wal("15-1", &name(1), b"right").await;
    let checksum = Checksum::of(&b"right"[..], &mut [0; 64]).unwrap();
    let key = format!("archive/demo/15-1/0000000100000000/{}-{checksum}", name(1));
    place.put(&key, "wrong").await;
    let damaged = place.get(&name(1)).await.unwrap_err();
    assert!(matches!(damaged, Error::PgBackRest(TheirError::ContentMismatch { .. })), "{damaged}");
    place.put(&format!("{key}.gz"), "no gz").await;
    place.get(&name(1)).await.unwrap_err();
    place.put_wal("15-1", &name(2), b"one").await;
    place.put_wal("15-1", &name(2), b"two").await;
    let two = place.get(&name(2)).await.unwrap_err();
    assert!(matches!(two, Error::PgBackRest(TheirError::DuplicateWal { .. })), "{two}");

    // The copy serves; without one nothing in the archive can be told, but for what is not there by name.
    place.put("archive/demo/archive.info", "damaged").await;
    place.put_wal("15-1", &name(3), b"three").await;
    place.assert_got(place.get(&name(3)).await, b"three");
    place.put("archive/demo/archive.info.copy", "damaged").await;
    let unreadable = place.get(&name(3)).await.unwrap_err();
    assert!(matches!(unreadable, Error::PgBackRest(TheirError::NoCopy { .. })), "{unreadable}");
    assert_eq!(place.get(&name(4)).await.unwrap(), Got::Missing);
    // It is not asked for a passphrase either.
    let place = Place::with_info(&[(1, SYSTEM, "15")]).await;
    place.put("archive/demo/archive.info", "Salted__ and what else is needed.").await;
    place.put("archive/demo/archive.info.copy", "Salted__ and what else is needed.").await;
    place.put_wal("15-1", &name(1), b"sealed").await;
    let sealed = place.get(&name(1)).await.unwrap_err();
    assert!(matches!(sealed, Error::PgBackRest(TheirError::Encrypted { .. })), "{sealed}");
    assert_eq!(place.get(&name(2)).await.unwrap(), Got::Missing);
    let access = place.access().with_passphrase(Passphrase::new("another"));
    assert_eq!(place.get_by(access, &name(2)).await.unwrap(), Got::Missing);
}

#[tokio::test]
async fn a_stanza_gets_the_numbers_of_theirs() {
    let place = Place::with_info(&[(1, 5, "9.6"), (2, 6, "13"), (4, SYSTEM, "15")]).await;
    let access = taking_over(place.access());
    // Without the right to, nothing is made.
    let file = segment(place.dir.path(), 2, SYSTEM);
    let refused = place.push_by(place.access(), file.clone()).await.unwrap_err();
    assert!(matches!(refused, Error::Repo(RepoError::NoRepository { .. })), "{refused}");
    place.push_by(access.clone(), file).await.unwrap();
    let opened = place.access().open_stanza(&Host::system(), &stanza()).await.unwrap();
    let history: Vec<_> =
        opened.stanza.history().iter().map(|c| (c.archive_id().to_string(), c.system_id.as_u64())).collect();
    assert_eq!(history, [("13-2".to_owned(), 6), ("15-4".to_owned(), SYSTEM)]);
    assert_eq!(opened.stanza.current().catalog_version, PgVersion::V15.catalog_version());
    // An upgrade goes on behind them.
    let next = NewCluster {
        system_id: SystemId::new(99),
        version: PgVersion::V17,
        catalog_version: PgVersion::V17.catalog_version(),
        control_version: 1700,
    };
    assert_eq!(opened.stanza.upgrade(next, 0).await.unwrap().archive_id().to_string(), "17-5");
}

#[tokio::test]
async fn what_cannot_be_taken_over_is_refused_before_anything_is_made() {
    let nothing_made = async |place: &Place| {
        let made = place.objects.list_with_delimiter(Some(&"pgbr".into())).await.unwrap();
        assert!(made.objects.is_empty() && made.common_prefixes.is_empty());
    };
    for (clusters, said) in [
        (&[(1, SYSTEM, "9.6")][..], "PostgreSQL 9.6"),
        (&[(2, 6, "13"), (1, SYSTEM, "15")], "is not the last of its history"),
    ] {
        let place = Place::with_info(clusters).await;
        let file = segment(place.dir.path(), 2, SYSTEM);
        let refused = place.push_by(taking_over(place.access()), file).await.unwrap_err();
        assert!(matches!(refused, Error::Unsupported { .. }), "{refused}");
        assert!(refused.to_string().contains(said), "{refused}");
        nothing_made(&place).await;
    }
    let place = Place::with_info(&[(1, SYSTEM, "15")]).await;
    for object in ["archive.info", "archive.info.copy"] {
        place.put(&format!("archive/demo/{object}"), "damaged").await;
    }
    let file = segment(place.dir.path(), 2, SYSTEM);
    let refused = place.push_by(taking_over(place.access()), file).await.unwrap_err();
    assert!(matches!(refused, Error::PgBackRest(TheirError::NoCopy { .. })), "{refused}");
    nothing_made(&place).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_make_one_stanza() {
    for sealed in [false, true] {
        let place = Place::with_info(&[(1, SYSTEM, "15")]).await;
        let files: Vec<_> = (1..=8).map(|number| segment(place.dir.path(), number, SYSTEM)).collect();
        let access = match sealed {
            // Theirs need not be encrypted where ours is to be.
            true => place.access().with_passphrase(Passphrase::generated(&[7; 32])),
            false => place.access(),
        };
        let pushes = files.iter().map(|file| place.push_by(taking_over(access.clone()), file.clone()));
        for pushed in futures::future::join_all(pushes).await {
            pushed.unwrap();
        }
        for (number, file) in (1..).zip(&files) {
            place
                .assert_got(place.get_by(access.clone(), &name(number)).await, &std::fs::read(file).unwrap());
        }
    }
}

/// A stanza of theirs with a backup and WAL, beside ours with a newer segment, and a neighbour whose name begins like it.
async fn with_both_sides() -> Place {
    let place = Place::with_info(&[(1, SYSTEM, "15")]).await;
    for number in 1..=3 {
        place.put_wal("15-1", &name(number), b"wal").await;
    }
    for name in
        ["backup.info", "backup.info.copy", "20261122-120000F/backup.manifest", "20261122-120000F/bundle/1"]
    {
        place.put(&format!("backup/demo/{name}"), "content").await;
    }
    place.put("backup/demo-2/backup.info", "another stanza's").await;
    place.put("archive/demo-2/archive.info", "another stanza's").await;
    let file = segment(place.dir.path(), 4, SYSTEM);
    place.push_by(taking_over(place.access()), file).await.unwrap();
    place
}

impl Place {
    async fn remove(&self, host: &Host, store: &Store, dry_run: bool) -> pgbr::Result<u64> {
        let request = TheirsRemoveRequest {
            repo: RepoAccess::store(store.clone()),
            stanza: stanza(),
            lock_paths: vec![self.dir.path().join("locks")],
            exec_id: "1-00000000".to_owned(),
            dry_run,
        };
        theirs_remove(host, request).await.map(|rest| rest.objects)
    }

    /// The objects of pgBackRest.
    async fn theirs(&self) -> Vec<String> {
        let mut found = Vec::new();
        for root in ["archive", "backup"] {
            let mut level = vec![object_store::path::Path::from(root)];
            while let Some(directory) = level.pop() {
                let listed = self.objects.list_with_delimiter(Some(&directory)).await.unwrap();
                level.extend(listed.common_prefixes);
                found.extend(listed.objects.into_iter().map(|object| object.location.to_string()));
            }
        }
        found.sort_unstable();
        found
    }
}

#[tokio::test]
async fn theirs_is_removed_by_name_and_only_where_nobody_needs_it() {
    let (place, host) = (with_both_sides().await, Host::system());
    let all = place.theirs().await;
    let rest = theirs_rest(&place.access(), &stanza()).await.unwrap();
    assert_eq!((rest.objects, rest.more), (9, false));
    assert_eq!(all.len(), 11, "{all:?}");
    let refused = place.remove(&host, &place.store, false).await.unwrap_err();
    assert!(matches!(refused, Error::TheirsNeeded { .. }), "{refused}");
    place.put("pgbr/demo/backup/20261123-120000F/manifest", "ours").await;
    place.put_wal("15-1", &name(5), b"wal").await;
    let refused = place.remove(&host, &place.store, false).await.unwrap_err();
    assert!(matches!(refused, Error::TheirsInUse { .. }), "{refused}");
    assert!(refused.to_string().contains(&name(5)), "{refused}");
    let file = segment(place.dir.path(), 6, SYSTEM);
    place.push_by(place.access(), file).await.unwrap();
    assert_eq!(place.remove(&host, &place.store, true).await.unwrap(), 10);
    assert_eq!(place.theirs().await.len(), 12, "a dry run touches nothing");
    assert_eq!(place.remove(&host, &place.store, false).await.unwrap(), 10);
    assert_eq!(place.theirs().await, ["archive/demo-2/archive.info", "backup/demo-2/backup.info"]);
    assert_eq!(place.remove(&host, &place.store, false).await.unwrap(), 0);
}

/// Wherever a removal ends, nobody takes a backup or an archive for whole that is not, and the next run goes on.
#[tokio::test]
async fn a_removal_that_dies_is_gone_on_with() {
    let mut failures = 0;
    for n in 0.. {
        let place = with_both_sides().await;
        place.put("pgbr/demo/backup/20261123-120000F/manifest", "ours").await;
        let all = place.theirs().await;
        let faults = FaultStore::new(place.objects.clone(), Fault::Dies(n));
        let world = World::new(7, 0);
        let removed = place.remove(&world.host(), &Store::remote(faults, "memory"), false).await;
        let left = place.theirs().await;
        let gone: Vec<&String> = all.iter().filter(|object| !left.contains(object)).collect();
        let has = |name: &str| left.iter().any(|object| object.contains(name));
        if gone.iter().any(|object| object.contains("20261122-120000F")) {
            assert!(!has("backup/demo/backup.info"), "{n}: {left:?}");
        }
        if gone.iter().any(|object| object.contains("archive/demo/15-1")) {
            assert!(!has("backup/demo/") && !has("archive/demo/archive.info"), "{n}: {left:?}");
        }
        let ended = removed.is_ok();
        failures += u32::from(!ended);
        place.remove(&world.later(), &place.store, false).await.unwrap();
        assert_eq!(place.theirs().await.len(), 2, "{n}");
        if ended {
            break;
        }
    }
    assert!(failures > 10, "{failures}");
}
