//! Recovery windows and ages on stanzas without a cluster: what is asked of a store for them, and what comes or goes meanwhile.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pgbr::{
    AgeLimits, Aged, AgesRequest, DrillFacts, GapReason, Host, InfoRequest, RecoveryWindows, RepoAccess,
    StanzaInfo, Store, info, too_old,
};
use pgbr_manifest::WalFileName;
use pgbr_repo::{Drills, LeaseName, LeaseRequest, Leases, Requests, Watch};
use pgbr_testkit::FaultStore;

use crate::expire::{BEGAN, DAY, Shop, host_at, segment, stanza};

/// Long after everything here was put: no gap is young.
fn later() -> Host {
    host_at(Host::system().clock.now_ns() / 1_000_000_000 + 7200, 70)
}

async fn look(host: &Host, repo: RepoAccess, recovery_windows: bool) -> StanzaInfo {
    let request = InfoRequest { repo, stanza: Some(stanza()), set: None, recovery_windows };
    info(host, request).await.unwrap().stanzas.remove(0)
}

async fn windows(host: &Host, repo: RepoAccess) -> RecoveryWindows {
    look(host, repo, true).await.archives.remove(0).recovery.unwrap()
}

impl Shop {
    fn object(&self, number: u32) -> PathBuf {
        let archive = self.dir.path().join("pgbr/main/archive/15-1");
        let name = segment(number);
        archive.join(name.directory()).join(name.to_string())
    }

    /// The repository by a store that calls `listened` with the number of each listing of the archive.
    fn listening(&self, listened: impl Fn(usize) + Send + Sync + 'static) -> RepoAccess {
        let count = AtomicUsize::new(0);
        let of_archive = move |request: &str| {
            if request.starts_with("list ") && request.contains("archive") {
                listened(count.fetch_add(1, Ordering::SeqCst));
            }
        };
        let store =
            Store::local_wrapped(self.dir.path(), false, |inner| FaultStore::watched(inner, of_archive));
        RepoAccess::store(store.unwrap())
    }
}

/// When a segment was put, in Unix seconds.
fn put(path: PathBuf) -> i64 {
    let modified = std::fs::metadata(path).unwrap().modified().unwrap();
    modified.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs().try_into().unwrap()
}

#[tokio::test]
async fn one_listing_tells_the_windows() {
    let shop = Shop::of("FIF").await;
    let store = Store::local(shop.dir.path(), false).unwrap();
    let mut asked: Vec<Requests> = vec![store.requests()];
    for recovery_windows in [false, true] {
        let found = look(&later(), RepoAccess::store(store.clone()), recovery_windows).await;
        assert_eq!(found.archives[0].recovery.is_some(), recovery_windows);
        asked.push(store.requests());
    }
    let [before, without, with] = asked.as_slice() else { unreachable!("three were counted") };
    assert_eq!(with.lists - without.lists, without.lists - before.lists + 1);
    assert_eq!(with.gets - without.gets, without.gets - before.gets, "no object is read for them");

    let found = look(&later(), RepoAccess::store(store), true).await;
    let bounds = found.archives[0].bounds.unwrap();
    assert_eq!((bounds.first, bounds.last, bounds.modified), (segment(4), segment(15), put(shop.object(15))));
    let windows = found.archives[0].recovery.clone().unwrap();
    let [window] = windows.windows.as_slice() else { panic!("{windows:#?}") };
    assert_eq!((window.first, window.last), (segment(5), segment(15)));
    assert_eq!((window.from, window.to), (BEGAN + DAY, put(shop.object(15))));
    assert_eq!((window.backups.len(), window.timeline.as_u32()), (3, 1));
    assert!(windows.gaps.is_empty() && windows.unusable.is_empty(), "{windows:#?}");
}

#[tokio::test]
async fn gaps_have_a_reason() {
    let shop = Shop::of("FFF").await;
    let repo = || RepoAccess::plain(shop.dir.path());
    let lost = |number: u32| std::fs::remove_file(shop.object(number)).unwrap();
    // Behind the second, not up to the third.
    lost(11);
    let found = windows(&later(), repo()).await;
    let [first, second] = found.windows.as_slice() else { panic!("{found:#?}") };
    // The last segment is the second backup's own: no later moment is in it.
    assert_eq!((first.last, first.to), (segment(10), BEGAN + 2 * DAY));
    assert_eq!((second.first, second.from), (segment(13), BEGAN + 3 * DAY));
    let [gap] = found.gaps.as_slice() else { panic!("{found:#?}") };
    assert_eq!(
        (gap.reason, gap.first, gap.last, gap.segments),
        (GapReason::Missing, segment(11), segment(11), 1)
    );
    assert_eq!((gap.from, gap.to), (BEGAN + 2 * DAY, Some(BEGAN + 3 * DAY)));
    assert_eq!(gap.backups, first.backups);

    // While somebody writes it may be an expire.
    let leases = Leases::new(&shop.place.repo, Some(&stanza()), LeaseName::backup());
    let request = LeaseRequest { holder: "another host".to_owned(), ttl: Duration::from_secs(60) };
    let lease = leases.try_acquire(&request, &mut Watch::default(), Duration::ZERO).await.unwrap();
    assert_eq!(windows(&later(), repo()).await.gaps[0].reason, GapReason::Unsure);
    lease.release().await.unwrap();
    assert_eq!(windows(&later(), repo()).await.gaps[0].reason, GapReason::Missing);
    lost(12);
    assert_eq!(windows(&later(), repo()).await.gaps[0].reason, GapReason::Retention);

    // What a backup lacks itself.
    lost(9);
    let found = windows(&later(), repo()).await;
    let labels = shop.listed().await;
    assert_eq!(found.unusable, [(labels[1], segment(9))]);
    assert_eq!(found.windows.len(), 2);
    assert_eq!((found.windows[0].last, found.windows[0].backups.as_slice()), (segment(8), &labels[..1]));
    // An object that was cut is none.
    std::fs::write(shop.object(8), "cut").unwrap();
    assert_eq!(windows(&later(), repo()).await.windows[0].last, segment(7));
}

#[tokio::test]
async fn what_comes_late_is_no_gap_and_what_expires_is_not_damaged() {
    let shop = Shop::of("FF").await;
    let (object, away) = (shop.object(7), shop.dir.path().join("away"));
    std::fs::rename(&object, &away).unwrap();
    let late = shop.listening(move |count| {
        if count == 1 {
            std::fs::rename(&away, &object).unwrap();
        }
    });
    let found = windows(&Host::system(), late).await;
    assert_eq!((found.windows.len(), found.gaps.len()), (1, 0), "{found:#?}");

    // The first is removed, its manifest before its WAL, after it was read.
    let labels = shop.listed().await;
    let manifest = shop.dir.path().join(format!("pgbr/main/backup/{}/manifest", labels[0]));
    let wal = [4, 5, 6, 7].map(|number| shop.object(number));
    let expiring = shop.listening(move |_| {
        std::fs::remove_file(&manifest).unwrap();
        wal.iter().for_each(|path| std::fs::remove_file(path).unwrap());
    });
    let found = windows(&later(), expiring).await;
    assert!(found.unusable.is_empty() && found.gaps.is_empty(), "{found:#?}");
    assert_eq!((found.windows.len(), found.windows[0].backups.as_slice()), (1, &labels[1..]));
}

#[tokio::test]
async fn without_its_history_the_way_to_a_timeline_is_not_known() {
    let shop = Shop::of("F").await;
    let push = async |name: &str, content: &str| {
        let file: WalFileName = name.parse().unwrap();
        let source = pgbr_repo::WalSource::Bytes(content.to_owned().into());
        let push = pgbr_repo::WalPush::new(shop.place.stanza.archive_id(), file, source);
        shop.place.wal.push(push).await.unwrap();
    };
    // Timeline 2 left 1 in segment 7, which goes on on both.
    for number in 7..=9 {
        push(&segment(number).on_timeline(pgbr::TimelineId::new(2)).to_string(), "wal").await;
    }
    shop.wal(8..9).await;
    let found = windows(&later(), RepoAccess::plain(shop.dir.path())).await;
    assert_eq!(found.windows.iter().map(|w| w.timeline.as_u32()).collect::<Vec<_>>(), [1], "{found:#?}");
    push("00000002.history", "1\t0/7000100\twhy\n").await;
    let found = windows(&later(), RepoAccess::plain(shop.dir.path())).await;
    let told: Vec<_> = found.windows.iter().map(|w| (w.timeline.as_u32(), w.last.to_string())).collect();
    let wanted = [(1, "000000010000000000000008"), (2, "000000020000000000000009")];
    assert_eq!(told, wanted.map(|(timeline, last)| (timeline, last.to_owned())));
    let history = shop.dir.path().join("pgbr/main/archive/15-1/00000002.history");
    std::fs::write(history, "damaged").unwrap();
    let warned = Arc::new(std::sync::Mutex::new(Vec::new()));
    let host = Host { observer: Arc::new(Listens(Arc::clone(&warned))), ..later() };
    let found = windows(&host, RepoAccess::plain(shop.dir.path())).await;
    assert_eq!(found.windows.len(), 1);
    let warned = warned.lock().unwrap();
    assert!(warned.len() == 1 && warned[0].contains("the way to timeline 2"), "{warned:?}");
}

/// Keeps warnings.
struct Listens(Arc<std::sync::Mutex<Vec<String>>>);

impl pgbr::Observer for Listens {
    fn event(&self, event: &pgbr::Event) {
        if let pgbr::Event::Warning { text } = event {
            self.0.lock().unwrap().push(text.clone());
        }
    }
}

#[tokio::test]
async fn ages_are_those_of_the_newest() {
    let shop = Shop::of("FFF").await;
    let old = async |host: &Host, limits: AgeLimits| {
        let request = AgesRequest { repo: RepoAccess::plain(shop.dir.path()), stanza: stanza(), limits };
        let found = too_old(host, request).await.unwrap();
        found.into_iter().map(|old| (old.what, old.newest)).collect::<Vec<_>>()
    };
    let (days, labels) = (|days: u64| Duration::from_secs(days * 86_400), shop.listed().await);
    // Two days after the newest.
    let host = host_at(BEGAN + 5 * DAY, 70);
    let limit = |count: u64| AgeLimits { backup: Some(days(count)), ..AgeLimits::default() };
    assert_eq!(old(&host, AgeLimits::default()).await, []);
    assert_eq!(old(&host, limit(2)).await, []);
    assert_eq!(old(&host, limit(1)).await, [(Aged::Backup, Some((labels[2].to_string(), days(2))))]);
    // One that cannot be read is none, and neither is a label without a manifest.
    let manifest = |at: usize| shop.dir.path().join(format!("pgbr/main/backup/{}/manifest", labels[at]));
    std::fs::write(manifest(2), "damaged").unwrap();
    std::fs::remove_file(manifest(1)).unwrap();
    assert_eq!(old(&host, limit(1)).await, [(Aged::Backup, Some((labels[0].to_string(), days(4))))]);

    let host = later();
    let wal = |seconds| AgeLimits { wal: Some(Duration::from_secs(seconds)), ..AgeLimits::default() };
    assert_eq!(old(&host, wal(90_000)).await, []);
    let found = old(&host, wal(7000)).await;
    let [(Aged::Wal, Some((name, age)))] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(name, &segment(15).to_string());
    assert!(age.as_secs() >= 7200 && age.as_secs() < 9000, "{age:?}");

    // A drill counts where it has proved the backup, and was not taken back.
    let drills = Drills::new(&shop.place.repo, &stanza());
    let limits = AgeLimits { drill: Some(days(1)), ..AgeLimits::default() };
    let host = host_at(BEGAN + 9 * DAY, 70);
    let facts = |day: i64, ok: bool| DrillFacts {
        start: BEGAN + day * DAY - 60,
        stop: BEGAN + day * DAY,
        ok,
        failure: None,
        goal: String::new(),
        host: String::new(),
        server_version: None,
        last_commit: None,
        restore_ms: None,
        recovery_ms: None,
        checks_ms: 0,
        checks: Vec::new(),
    };
    assert_eq!(old(&host, limits).await, [(Aged::Drill, None)]);
    drills.add(&labels[0], facts(6, true)).await.unwrap();
    drills.add(&labels[2], facts(8, true)).await.unwrap();
    assert_eq!(old(&host, limits).await, []);
    drills.add(&labels[2], facts(9, false)).await.unwrap();
    assert_eq!(old(&host, limits).await, [(Aged::Drill, Some((labels[0].to_string(), days(3))))]);
}
