//! Leases: one holder, taken over only from who gives no sign of life, never by clocks.

use std::time::Duration;

use pgbr_repo::{Error, LeaseName, LeaseRequest, Leases, Repo, Watch};

use crate::fixture::*;
use pgbr_testkit::failures;

fn request(holder: &str) -> LeaseRequest {
    LeaseRequest { holder: holder.to_owned(), ttl: Duration::from_secs(60) }
}

fn leases(repo: &Repo) -> Leases {
    Leases::new(repo, Some(&stanza()), LeaseName::backup())
}

const fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test]
async fn a_lease_has_one_holder_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repo(dir.path()).await;
    let (mut mine, mut theirs) = (Watch::new(), Watch::new());
    let mut lease = leases(&repo).try_acquire(&request("a"), &mut mine, at(0)).await.unwrap();
    let held = leases(&repo).try_acquire(&request("b"), &mut theirs, at(5)).await.unwrap_err();
    assert!(matches!(&held, Error::LeaseHeld { holder, .. } if holder == "a"), "{held}");
    // Another lease, and another's, are free.
    let record = Leases::new(&repo, None, LeaseName::record());
    record.try_acquire(&request("b"), &mut theirs, at(5)).await.unwrap();

    lease.renew().await.unwrap();
    lease.check().await.unwrap();
    lease.release().await.unwrap();
    let next = leases(&repo).try_acquire(&request("b"), &mut theirs, at(6)).await.unwrap();
    let state = leases(&repo).state().await.unwrap().unwrap();
    assert_eq!((state.number, state.holder.as_str(), state.released), (2, "b", false), "numbers grow");
    next.release().await.unwrap();
    let terms = || std::fs::read_dir(dir.path().join("pgbr/main/lease")).unwrap().count();
    let mut most = terms();
    for term in 3..30 {
        let lease = leases(&repo).try_acquire(&request("c"), &mut theirs, at(6 + term)).await.unwrap();
        lease.release().await.unwrap();
        most = most.max(terms());
    }
    assert_eq!(
        (most, leases(&repo).state().await.unwrap().unwrap().number),
        (8, 29),
        "old terms go, some at a time"
    );
}

#[tokio::test]
async fn a_lease_is_taken_over_after_its_time_without_a_sign_of_life() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repo(dir.path()).await;
    let (mut mine, mut theirs) = (Watch::new(), Watch::new());
    let mut lease = leases(&repo).try_acquire(&request("a"), &mut mine, at(0)).await.unwrap();
    let mut attempt = async |now| leases(&repo).try_acquire(&request("b"), &mut theirs, at(now)).await;
    assert!(attempt(1000).await.is_err(), "seen for the first time");
    assert!(attempt(1059).await.is_err());
    lease.renew().await.unwrap();
    assert!(attempt(1060).await.is_err(), "it lives");
    assert!(attempt(1119).await.is_err());
    let taken = attempt(1120).await.unwrap();

    let lost = lease.renew().await.unwrap_err();
    assert!(matches!(&lost, Error::LeaseLost { holder, .. } if holder == "b"), "{lost}");
    lease.release().await.unwrap();
    taken.check().await.unwrap();
}

#[tokio::test]
async fn a_slow_observer_cannot_take_what_another_has_taken_since() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repo(dir.path()).await;
    let mut watches = [Watch::new(), Watch::new(), Watch::new()];
    let [mine, second, third] = &mut watches;
    let _dead = leases(&repo).try_acquire(&request("a"), mine, at(0)).await.unwrap();
    for watch in [&mut *second, &mut *third] {
        leases(&repo).try_acquire(&request("x"), watch, at(0)).await.unwrap_err();
    }
    leases(&repo).try_acquire(&request("b"), second, at(60)).await.unwrap();
    let held = leases(&repo).try_acquire(&request("c"), third, at(61)).await.unwrap_err();
    assert!(matches!(&held, Error::LeaseHeld { holder, .. } if holder == "b"), "{held}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_of_several_takes_a_free_lease() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repo(dir.path()).await;
    for _ in 0..10 {
        let take = |n: u64| {
            let repo = repo.clone();
            tokio::spawn(async move {
                leases(&repo).try_acquire(&request(&n.to_string()), &mut Watch::new(), at(0)).await
            })
        };
        let tasks: Vec<_> = (0..4).map(take).collect();
        let mut held = Vec::new();
        for task in tasks {
            held.extend(task.await.unwrap().ok());
        }
        assert_eq!(held.len(), 1);
        held.remove(0).release().await.unwrap();
    }
}

#[tokio::test]
async fn a_damaged_term_is_waited_out() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repo(dir.path()).await;
    let mut watch = Watch::new();
    let _held = leases(&repo).try_acquire(&request("a"), &mut watch, at(0)).await.unwrap();
    damage(&dir.path().join("pgbr/main/lease/backup.0000000000000001"), 120);
    assert!(leases(&repo).try_acquire(&request("b"), &mut watch, at(0)).await.is_err());
    assert!(leases(&repo).try_acquire(&request("b"), &mut watch, at(3599)).await.is_err());
    leases(&repo).try_acquire(&request("b"), &mut watch, at(3600)).await.unwrap();
}

#[tokio::test]
async fn a_failure_at_any_request_never_gives_two_holders() {
    let mut n = 0;
    loop {
        let mut requests = 0;
        for fault in failures(n) {
            let dir = tempfile::tempdir().unwrap();
            let healthy = repo(dir.path()).await;
            let (faulty, wrapper) = faulty_repo(dir.path(), fault).await;
            let first = leases(&faulty).try_acquire(&request("a"), &mut Watch::new(), at(0)).await;
            requests = wrapper.requests();
            let mut watch = Watch::new();
            let second = leases(&healthy).try_acquire(&request("b"), &mut watch, at(0)).await;
            assert!(first.is_err() || second.is_err(), "{fault:?}");
            if second.is_err() {
                leases(&healthy).try_acquire(&request("b"), &mut watch, at(60)).await.unwrap();
            }
        }
        n += 1;
        if n > requests {
            return;
        }
    }
}
