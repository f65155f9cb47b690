//! Expire on stanzas without a cluster: packs and WAL are made of nothing, manifests are real.
//!
//! What must hold after every run, whole or broken, by whatever fault: each backup that is listed has all that it builds on, all its packs
//! and the WAL that makes it consistent; and the next run leaves nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pgbr::{
    Asked, BackupLabel, BackupType, Body, Clock, Error, Event, ExpireReport, ExpireRequest, HoldRequest,
    Host, ManifestError, Observer, Periods, Policy, ReleaseHoldRequest, RepoAccess, StanzaName, StanzaPlace,
    Store, Summary, expire, hold, release_hold,
};
use pgbr_codec::{Cipher, manifest_digest, pad_summary, seal_manifest};
use pgbr_manifest::manifest::{ClusterFacts, DatabaseRef, Layer, Parent, Sizes, Span};
use pgbr_manifest::{
    BackupId, Digest, HashKey, Lsn, PgVersion, SystemId, TimelineId, WalFileName, WalSegmentName,
    WalSegmentSize,
};
use pgbr_repo::{
    CreateOptions, NewCluster, PinKind, PinRequest, Pins, Repo, RunFacts, Stanza, WalPush, WalSource,
};
use pgbr_testkit::{Fault, FaultStore};

pub(crate) const DAY: i64 = 86_400;
/// When the first backup ended.
pub(crate) const BEGAN: i64 = 1_790_000_000;

/// A clock that stands where it is put; its hours fly, so that what a dead run has left goes stale between two looks.
struct Set {
    now: AtomicI64,
    monotonic: AtomicU64,
    step: u64,
}

impl Clock for Set {
    fn now_ns(&self) -> i64 {
        self.now.load(Ordering::SeqCst) * 1_000_000_000
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(self.monotonic.fetch_add(self.step, Ordering::SeqCst))
    }
}

pub(crate) fn host_at(now: i64, step: u64) -> Host {
    let clock = Set { now: AtomicI64::new(now), monotonic: AtomicU64::new(0), step };
    Host { clock: Arc::new(clock), zone: jiff::tz::TimeZone::UTC, ..Host::system() }
}

pub(crate) fn stanza() -> StanzaName {
    "main".parse().unwrap()
}

pub(crate) fn segment(number: u32) -> WalSegmentName {
    format!("0000000100000000{number:08X}").parse().unwrap()
}

/// A stanza, and what was put into it.
pub(crate) struct Shop {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) place: StanzaPlace,
    made: BTreeMap<BackupLabel, Made>,
    next: u32,
    cluster: DatabaseRef,
}

#[derive(Clone)]
struct Made {
    summary: Summary,
    parent: Parent,
    attempts: Vec<u64>,
}

impl Shop {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::local(dir.path(), true).unwrap();
        let options = CreateOptions {
            cipher: Cipher::None,
            passphrase: None,
            now: BEGAN,
            kdf: None,
            entropy: Host::system().entropy,
        };
        let repo = Repo::create(store, options).await.unwrap();
        let cluster = NewCluster {
            system_id: SystemId::new(7),
            version: PgVersion::V15,
            catalog_version: 1,
            control_version: 1,
        };
        Stanza::create(&repo, &stanza(), cluster, BEGAN).await.unwrap();
        let place = RepoAccess::plain(dir.path()).open_stanza(&Host::system(), &stanza()).await.unwrap();
        let cluster = DatabaseRef { id: 1, system_id: SystemId::new(7), version: PgVersion::V15 };
        Self { dir, place, made: BTreeMap::new(), next: 1, cluster }
    }

    /// Backups a day apart: `F` a full, `D` and `I` on top of the last full and the last backup.
    pub(crate) async fn of(kinds: &str) -> Self {
        let mut shop = Self::new().await;
        for kind in kinds.chars() {
            shop.backup(kind).await;
        }
        shop
    }

    async fn backup(&mut self, kind: char) -> BackupLabel {
        let number = self.next;
        let label = self.label(kind);
        self.next += 1;
        self.wal(number * 4..number * 4 + 4).await;
        let attempt = u64::from(number);
        self.packs(label, attempt).await;
        self.commit(label, kind, vec![attempt], number).await;
        label
    }

    fn label(&self, kind: char) -> BackupLabel {
        let time = format!("202610{:02}-120000", self.next);
        let full = self.made.keys().filter(|label| **label == label.full()).max();
        let text = match kind {
            'F' => format!("{time}F"),
            kind => format!("{}_{time}{kind}", full.unwrap()),
        };
        text.parse().unwrap()
    }

    pub(crate) async fn wal(&self, numbers: std::ops::Range<u32>) {
        for number in numbers {
            let file = WalFileName::Segment(segment(number));
            let push =
                WalPush::new(self.place.stanza.archive_id(), file, WalSource::Bytes(vec![1; 64].into()));
            self.place.wal.push(push).await.unwrap();
        }
    }

    async fn packs(&self, label: BackupLabel, attempt: u64) {
        for (number, index) in [(0, false), (1, false), (0, true)] {
            self.place.backups.put_pack(&label, attempt, number, index, vec![2; 100].into()).await.unwrap();
        }
    }

    /// Puts a manifest on top of what was made before.
    async fn commit(&mut self, label: BackupLabel, kind: char, attempts: Vec<u64>, number: u32) {
        let prior = match kind {
            'F' => None,
            'D' => self.made.get(&label.full()),
            _ => self
                .made
                .iter()
                .filter(|(other, _)| other.full() == label.full())
                .max_by_key(|(l, _)| l.time())
                .map(|(_, m)| m),
        };
        let parent = prior.map(|prior| prior.parent.clone());
        let mut id = [0; 16];
        Host::system().entropy.fill(&mut id).unwrap();
        let summary = summary(label, BackupId(id), parent.as_ref().map(|p| p.label), number);
        let summary = Summary { database: self.cluster, ..summary };
        let body = body(&summary, parent, &attempts);
        let (summary_json, body_json) = (summary.to_json().unwrap(), body.to_json().unwrap());
        let digest = Digest(manifest_digest(&pad_summary(&summary_json).unwrap(), &body_json));
        let salt = self.place.repo.lane_seed().unwrap();
        let object = seal_manifest(self.place.repo.keyring(), salt, &summary_json, &body_json).unwrap();
        let attempt = attempts.last().copied().unwrap();
        self.place.backups.commit_manifest(&label, attempt, object.into()).await.unwrap();
        let parent = Parent { label, id: summary.id, digest };
        self.made.insert(label, Made { summary, parent, attempts });
    }

    /// Expires a day after the newest backup, with a sound store.
    async fn expire(&self, policy: Policy) -> pgbr::Result<ExpireReport> {
        expire(&self.host(), self.request(policy)).await
    }

    fn request(&self, policy: Policy) -> ExpireRequest {
        ExpireRequest {
            repo: RepoAccess::plain(self.dir.path()),
            stanza: stanza(),
            policy,
            asked: Asked::Policy,
            dry_run: false,
            witness: None,
            notes: None,
        }
    }

    fn host(&self) -> Host {
        host_at(BEGAN + i64::from(self.next) * DAY, 0)
    }

    pub(crate) async fn listed(&self) -> Vec<BackupLabel> {
        self.place.backups.list_backups().await.unwrap()
    }

    fn path(&self, label: BackupLabel) -> PathBuf {
        self.dir.path().join(format!("pgbr/main/backup/{label}"))
    }

    /// What must hold at every moment.
    pub(crate) async fn assert_sound(&self, why: &str) {
        let survey = self.place.backups.survey().await.unwrap();
        let listed: BTreeSet<BackupLabel> = self.listed().await.into_iter().collect();
        for label in &listed {
            let made = self.made.get(label).unwrap_or_else(|| panic!("{why}: {label} was never made"));
            assert!(
                made.summary.prior.is_none_or(|prior| listed.contains(&prior)),
                "{why}: {label} lost its parent"
            );
            for attempt in &made.attempts {
                let packs = survey[label].packs.iter().filter(|pack| pack.attempt == *attempt).count();
                assert_eq!(packs, 3, "{why}: {label} lost packs");
            }
            let wanted = [made.summary.wal.start, made.summary.wal.stop];
            let archive = self.place.stanza.archive_id();
            let there = self.place.wal.segments_present(archive, wanted).await.unwrap();
            assert_eq!(there.len(), 2, "{why}: {label} lost WAL");
        }
    }

    /// Nothing but what is listed: no packs, no directories, no notes.
    async fn assert_clean(&self, why: &str) {
        let survey = self.place.backups.survey().await.unwrap();
        for (label, objects) in &survey {
            assert!(objects.manifest && objects.runs.is_empty(), "{why}: {label} is rubbish");
            let attempts: BTreeSet<u64> = objects.packs.iter().map(|pack| pack.attempt).collect();
            assert_eq!(attempts.into_iter().collect::<Vec<_>>(), self.made[label].attempts, "{why}: {label}");
        }
        let directories = fs::read_dir(self.dir.path().join("pgbr/main/backup")).unwrap().count();
        assert_eq!(directories, survey.len(), "{why}");
    }
}

fn summary(label: BackupLabel, id: BackupId, prior: Option<BackupLabel>, number: u32) -> Summary {
    let stop = BEGAN + i64::from(number) * DAY;
    Summary {
        format: 1,
        id,
        label,
        kind: label.backup_type(),
        prior,
        program: "test".to_owned(),
        database: DatabaseRef { id: 1, system_id: SystemId::new(7), version: PgVersion::V15 },
        time: Span { start: stop - 60, stop },
        server_time_us: Span { start: (stop - 60) * 1_000_000, stop: stop * 1_000_000 },
        lsn: Span {
            start: Lsn::new((u64::from(number * 4 + 1) << 24) + 0x28),
            stop: Lsn::new((u64::from(number * 4 + 2) << 24) + 0x100),
        },
        wal: Span { start: segment(number * 4 + 1), stop: segment(number * 4 + 2) },
        wal_inside: false,
        offline: false,
        sizes: Sizes::default(),
        entries: 1,
        error: false,
        annotation: BTreeMap::new(),
    }
}

fn body(summary: &Summary, parent: Option<Parent>, attempts: &[u64]) -> Body {
    let layer = |attempt: &u64| Layer {
        data_key_mode: None,
        attempt: *attempt,
        data_lanes: vec![Digest([1; 32])],
        index_lane: Digest([2; 32]),
        index_packs: vec![100],
        data_packs: 2,
        index: None,
        frames: None,
        stream: 0,
        key_id: [0; 16],
    };
    Body {
        format: 1,
        id: summary.id,
        parent,
        hash_key: HashKey::from_bytes([5; 32]),
        copy_start_ns: 0,
        layers: attempts.iter().map(layer).collect(),
        resolved_entries: 1,
        resolved_digest: Digest([6; 32]),
        cluster: cluster_facts(),
        tablespaces: Vec::new(),
        links: Vec::new(),
        databases: Vec::new(),
        backup_label: None,
        tablespace_map: None,
        config_files: Vec::new(),
        bad_pages: 0,
        options: BTreeMap::new(),
    }
}

fn cluster_facts() -> ClusterFacts {
    ClusterFacts {
        catalog_version: 1,
        control_version: 1,
        block_size: 8192,
        segment_pages: 131_072,
        wal_segment_size: WalSegmentSize::DEFAULT,
        data_checksums: true,
        timeline: TimelineId::new(1),
        data_directory: "/data".to_owned(),
    }
}

fn full(count: u32) -> Policy {
    Policy { full: Some(count), ..Policy::default() }
}

/// All files below a directory with their contents.
pub(crate) fn tree(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).unwrap().flatten() {
            match entry.path() {
                path if path.is_dir() => todo.push(path),
                path => drop(found.insert(path.clone(), fs::read(path).unwrap())),
            }
        }
    }
    found
}

/// Does something when backups are about to be removed: after the decision, before the first removal.
struct Meanwhile(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Observer for Meanwhile {
    fn event(&self, event: &Event) {
        if matches!(event, Event::Expiring { .. })
            && let Some(action) = self.0.lock().unwrap().take()
        {
            action();
        }
    }
}

fn meanwhile(host: Host, action: impl FnOnce() + Send + 'static) -> Host {
    Host { observer: Arc::new(Meanwhile(Mutex::new(Some(Box::new(action))))), ..host }
}

#[tokio::test]
async fn a_dry_run_touches_nothing_and_tells_what_a_run_does() {
    let mut shop = Shop::of("FIFDIF").await;
    let broken = shop.label('I');
    shop.next += 1;
    shop.packs(broken, 77).await;
    let before = tree(shop.dir.path());
    let request = ExpireRequest { dry_run: true, ..shop.request(full(2)) };
    let told = expire(&shop.host(), request).await.unwrap();
    assert_eq!(tree(shop.dir.path()), before);
    let done = shop.expire(full(2)).await.unwrap();
    let going: Vec<BackupLabel> = told.backups.iter().filter(|b| !b.keep).map(|b| b.label).collect();
    assert_eq!(going, shop.made.keys().copied().take(2).collect::<Vec<_>>());
    assert_eq!((&told.backups, &told.unfinished, told.packs), (&done.backups, &done.unfinished, done.packs));
    let gone = |report: &ExpireReport| -> Vec<_> {
        report.archives[0].ranges.iter().filter(|range| !range.keep).cloned().collect()
    };
    assert_eq!(gone(&told), gone(&done));
    assert_eq!((gone(&done)[0].start, gone(&done)[0].stop), (segment(4), segment(12)));
    assert_eq!((done.packs.count, done.unfinished.len()), (9, 1));
    shop.assert_sound("done").await;
    shop.assert_clean("done").await;
    // Done again, there is nothing to do.
    let again = shop.expire(full(2)).await.unwrap();
    assert!(again.packs.count == 0 && gone(&again).is_empty() && again.backups.iter().all(|b| b.keep));
}

#[tokio::test]
async fn a_parent_comes_back_for_a_child_that_was_made_meanwhile() {
    let mut shop = Shop::of("FIF").await;
    let parents: Vec<BackupLabel> = shop.made.keys().copied().take(2).collect();
    // A child of the incr, made aside and moved into place while expire is at work.
    let child: BackupLabel = format!("{}_20261002-130000I", parents[0]).parse().unwrap();
    shop.packs(child, 99).await;
    let newest = shop.made.keys().copied().last().unwrap();
    let kept = shop.made.remove(&newest).unwrap();
    shop.commit(child, 'I', vec![99], 2).await;
    shop.made.insert(newest, kept);
    let aside = shop.dir.path().join("aside");
    let place = shop.path(child);
    fs::rename(&place, &aside).unwrap();
    let host = meanwhile(shop.host(), move || fs::rename(&aside, &place).unwrap());
    let report = expire(&host, shop.request(full(1))).await.unwrap();
    assert_eq!(report.backups.iter().filter(|b| b.keep).count(), 1);
    assert_eq!(shop.listed().await, shop.made.keys().copied().collect::<Vec<_>>());
    shop.assert_sound("put back").await;
    // WAL was left alone.
    assert!(report.archives.is_empty());
    // The next run decides with all of them before its eyes.
    shop.expire(full(1)).await.unwrap();
    assert_eq!(shop.listed().await, [newest]);
    shop.assert_clean("the next run").await;
}

fn pin(labels: Vec<BackupLabel>, attempt: Option<u64>, holder: &str) -> PinRequest {
    let ttl = Duration::from_secs(60);
    PinRequest { kind: PinKind::Restore, labels, attempt, holder: holder.to_owned(), now: 0, ttl }
}

#[tokio::test]
async fn packs_and_wal_of_a_pin_stay_although_its_backup_is_gone() {
    let shop = Shop::of("FF").await;
    let first = *shop.made.keys().next().unwrap();
    let pins = Pins::new(&shop.place.repo, &stanza());
    // A reader that comes between the decision and the removal: it has pinned, and sees that the manifest is there still.
    let live = pins.put(pin(vec![first], None, "elsewhere process 1 boot x")).await.unwrap();
    let file = shop.dir.path().join(format!("pgbr/main/pin/{}", live.id()));
    let aside = shop.dir.path().join("aside");
    fs::rename(&file, &aside).unwrap();
    let host = meanwhile(host_at(BEGAN + 3 * DAY, 0), move || fs::rename(&aside, &file).unwrap());
    expire(&host, shop.request(full(1))).await.unwrap();
    assert!(!shop.place.backups.exists(&first).await.unwrap());
    assert_eq!(shop.place.backups.list_packs(&first).await.unwrap().len(), 3);
    let archive = shop.place.stanza.archive_id();
    let first_segment = async || shop.place.wal.bounds(archive).await.unwrap().unwrap().first;
    assert_eq!(first_segment().await, segment(4));
    // When it has gone, so do they.
    live.release().await.unwrap();
    shop.expire(full(1)).await.unwrap();
    assert_eq!(first_segment().await, segment(9));
    shop.assert_clean("released").await;
}

#[tokio::test]
async fn a_pin_of_another_host_is_broken_when_two_runs_have_seen_it_dead() {
    let shop = Shop::of("FF").await;
    let first = *shop.made.keys().next().unwrap();
    let pins = Pins::new(&shop.place.repo, &stanza());
    pins.put(pin(vec![first], None, "elsewhere process 1 boot x")).await.unwrap();
    let notes = Some(shop.dir.path().join("notes"));
    let request = || ExpireRequest { notes: notes.clone(), ..shop.request(full(1)) };
    let at = |monotonic: u64| {
        let clock =
            Set { now: AtomicI64::new(BEGAN + 3 * DAY), monotonic: AtomicU64::new(monotonic), step: 0 };
        Host { clock: Arc::new(clock), ..shop.host() }
    };
    for monotonic in [1000, 1059] {
        let report = expire(&at(monotonic), request()).await.unwrap();
        assert!(report.backups[0].reasons.contains(&"a running command uses it".to_owned()), "{report:?}");
    }
    expire(&at(1060), request()).await.unwrap();
    assert_eq!(shop.listed().await.len(), 1);
    assert!(pins.list().await.unwrap().is_empty());
    shop.assert_clean("broken").await;
}

#[tokio::test]
async fn the_pin_of_a_process_that_has_ended_is_broken_at_once() {
    let shop = Shop::of("FF").await;
    let first = *shop.made.keys().next().unwrap();
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let pid = child.id();
    child.wait().unwrap();
    let own = Host::system().owner.as_str().to_owned();
    let dead = own.replacen(&format!("process {}", std::process::id()), &format!("process {pid}"), 1);
    let pins = Pins::new(&shop.place.repo, &stanza());
    let alive = pins.put(pin(vec![first], None, &own)).await.unwrap();
    let host = host_at(BEGAN + 3 * DAY, 0);
    expire(&host, shop.request(full(1))).await.unwrap();
    assert_eq!(shop.listed().await.len(), 2);
    alive.release().await.unwrap();
    pins.put(pin(vec![first], None, &dead)).await.unwrap();
    expire(&host, shop.request(full(1))).await.unwrap();
    assert_eq!(shop.listed().await.len(), 1);
}

#[tokio::test]
async fn what_cannot_be_read_stays_with_all_wal_and_is_told() {
    let shop = Shop::of("FFFF").await;
    let second = *shop.made.keys().nth(1).unwrap();
    let manifest = shop.path(second).join("manifest");
    let mut bytes = fs::read(&manifest).unwrap();
    bytes[200] ^= 1;
    fs::write(&manifest, bytes).unwrap();
    let report = shop.expire(full(1)).await.unwrap();
    assert_eq!(shop.listed().await.len(), 2);
    let [warning] = report.warnings.as_slice() else { panic!("{:?}", report.warnings) };
    assert!(
        warning.contains(&format!("backup {second} cannot be read and stays, with all WAL")),
        "{warning}"
    );
    let archive = shop.place.stanza.archive_id();
    assert_eq!(shop.place.wal.bounds(archive).await.unwrap().unwrap().first, segment(4));
    assert_eq!(shop.place.backups.list_packs(&second).await.unwrap().len(), 3);
    // By name it goes, and then WAL does.
    let request = ExpireRequest { asked: Asked::Set(second), ..shop.request(full(1)) };
    expire(&shop.host(), request).await.unwrap();
    assert_eq!(shop.place.wal.bounds(archive).await.unwrap().unwrap().first, segment(17));
    shop.assert_clean("by name").await;
}

#[tokio::test]
async fn a_repository_that_cannot_be_asked_is_no_reason_to_remove_anything() {
    let shop = Shop::of("FF").await;
    let before = tree(&shop.dir.path().join("pgbr/main/backup"));
    for n in 0..12 {
        let store =
            Store::local_wrapped(shop.dir.path(), false, |inner| FaultStore::new(inner, Fault::Fails(n)));
        let request =
            ExpireRequest { repo: RepoAccess::store(store.unwrap()), dry_run: true, ..shop.request(full(1)) };
        // A dry run reads what a run reads: a summary that cannot be fetched is not one that cannot be read.
        if let Ok(report) = expire(&shop.host(), request).await {
            assert!(report.warnings.is_empty(), "{n}: {report:?}");
        }
    }
    assert_eq!(tree(&shop.dir.path().join("pgbr/main/backup")), before);
}

#[tokio::test]
async fn holds_keep_backups_until_they_are_released() {
    let shop = Shop::of("FIFF").await;
    let labels: Vec<BackupLabel> = shop.made.keys().copied().collect();
    let (repo, host) = (RepoAccess::plain(shop.dir.path()), shop.host());
    let on = |label| HoldRequest { repo: repo.clone(), stanza: stanza(), label, reason: "audit".to_owned() };
    let off = |label, id| ReleaseHoldRequest { repo: repo.clone(), stanza: stanza(), label, id };
    let unknown = hold(&host, on("20200101-000000F".parse().unwrap())).await;
    assert!(matches!(unknown, Err(Error::UnknownBackup { .. })));
    let first = hold(&host, on(labels[1])).await.unwrap();
    hold(&host, on(labels[1])).await.unwrap();
    shop.expire(full(1)).await.unwrap();
    assert_eq!(shop.listed().await, [labels[0], labels[1], labels[3]]);
    shop.assert_sound("held").await;
    assert_eq!(release_hold(&host, off(labels[1], Some(first))).await.unwrap(), 1);
    shop.expire(full(1)).await.unwrap();
    assert_eq!(shop.listed().await.len(), 3);
    assert_eq!(release_hold(&host, off(labels[1], None)).await.unwrap(), 1);
    shop.expire(full(1)).await.unwrap();
    assert_eq!(shop.listed().await, [labels[3]]);
}

#[tokio::test]
async fn a_clock_that_is_wrong_expires_nothing() {
    let shop = Shop::of("FF").await;
    let before = tree(&shop.dir.path().join("pgbr/main/backup"));
    let newest = BEGAN + 2 * DAY;
    for now in [newest - DAY - 1, newest + 3661 * DAY] {
        let error = expire(&host_at(now, 0), shop.request(full(1))).await.unwrap_err();
        assert!(matches!(error, Error::Manifest(ManifestError::Clock { .. })), "{error}");
    }
    assert_eq!(tree(&shop.dir.path().join("pgbr/main/backup")), before);
    expire(&host_at(newest - DAY, 0), shop.request(full(1))).await.unwrap();
    assert_eq!(shop.listed().await.len(), 1);
}

#[tokio::test]
async fn days_are_those_of_the_zone() {
    // The backups end at 14:13 UTC, a day apart; where it is twelve hours later, that is the next day.
    let shop = Shop::of("FFF").await;
    let policy = Policy { periods: Periods { daily: Some(2), ..Periods::default() }, ..Policy::default() };
    shop.expire(policy).await.unwrap();
    assert_eq!(shop.listed().await.len(), 2);
}

#[tokio::test]
async fn runs_that_were_never_finished() {
    let mut shop = Shop::of("FF").await;
    let newest = *shop.made.keys().last().unwrap();
    let facts = |parent| RunFacts {
        hash_key: HashKey::from_bytes([5; 32]),
        parent,
        system_id: SystemId::new(7),
        timeline: TimelineId::new(1),
        data_checksums: true,
        started_ns: 1,
    };
    // Under a backup that is there: of a run that it did not take up, and what the run that made it said of itself.
    let made = u64::from(shop.next - 1);
    shop.packs(newest, 50).await;
    shop.place.backups.put_run(&newest, 50, facts(None)).await.unwrap();
    shop.place.backups.put_run(&newest, made, facts(None)).await.unwrap();
    // Under labels of their own: one that can be taken up, and one that nobody knows how.
    let parent = shop.made[&newest].parent.clone();
    let unfinished = shop.label('I');
    shop.next += 1;
    shop.packs(unfinished, 51).await;
    shop.place.backups.put_run(&unfinished, 51, facts(Some(parent))).await.unwrap();
    let unknown: BackupLabel = "20260930-120000F".parse().unwrap();
    shop.packs(unknown, 52).await;

    let report = shop.expire(full(9)).await.unwrap();
    let fates: Vec<(BackupLabel, bool)> =
        report.unfinished.iter().map(|fate| (fate.label, fate.keep)).collect();
    assert_eq!(fates, [(unknown, false), (newest, false), (unfinished, true)]);
    let survey = shop.place.backups.survey().await.unwrap();
    assert_eq!(survey.keys().copied().collect::<Vec<_>>().len(), 3);
    assert_eq!((survey[&newest].packs.len(), survey[&newest].runs.len()), (3, 0));
    assert_eq!((survey[&unfinished].packs.len(), survey[&unfinished].runs.len()), (3, 1));
    shop.assert_sound("swept").await;
    // Not when what it builds on has gone.
    let asked = Asked::Set(newest);
    expire(&shop.host(), ExpireRequest { asked, ..shop.request(full(9)) }).await.unwrap();
    shop.made.remove(&newest);
    shop.assert_clean("without its parent").await;
}

#[tokio::test]
async fn backups_of_both_kinds_are_counted() {
    let shop = Shop::of("FDIDF").await;
    let kinds = |report: &ExpireReport| -> Vec<(BackupType, bool)> {
        report.backups.iter().map(|backup| (backup.kind, backup.keep)).collect()
    };
    let policy = Policy { diff: Some(2), ..full(2) };
    let report = shop.expire(policy).await.unwrap();
    assert_eq!(
        kinds(&report),
        [
            (BackupType::Full, true),
            (BackupType::Diff, false),
            (BackupType::Incr, false),
            (BackupType::Diff, true),
            (BackupType::Full, true)
        ]
    );
    shop.assert_sound("diffs").await;
    shop.assert_clean("diffs").await;
}

#[tokio::test]
async fn the_archive_of_a_replaced_cluster_goes_with_its_last_backup() {
    let mut shop = Shop::of("F").await;
    let old = shop.place.stanza.archive_id();
    let history =
        WalPush::new(old, "00000002.history".parse().unwrap(), WalSource::Bytes("1\t0/1\tx\n".into()));
    shop.place.wal.push(history).await.unwrap();
    let cluster = NewCluster {
        system_id: SystemId::new(8),
        version: PgVersion::V16,
        catalog_version: 2,
        control_version: 1,
    };
    let upgraded = shop.place.stanza.upgrade(cluster, BEGAN).await.unwrap();
    shop.expire(full(1)).await.unwrap();
    assert_eq!(shop.listed().await.len(), 1, "the only backup stays");
    shop.place = RepoAccess::plain(shop.dir.path()).open_stanza(&Host::system(), &stanza()).await.unwrap();
    shop.cluster = DatabaseRef { id: 2, system_id: SystemId::new(8), version: PgVersion::V16 };
    let new = shop.backup('F').await;
    shop.expire(full(1)).await.unwrap();
    assert_eq!(shop.listed().await, [new]);
    assert_eq!(shop.place.wal.archives().await.unwrap(), [upgraded.archive_id()]);
    assert!(!shop.dir.path().join(format!("pgbr/main/archive/{old}")).exists());
    shop.assert_sound("upgraded").await;
}
