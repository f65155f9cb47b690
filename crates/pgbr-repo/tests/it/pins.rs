//! Pins: seen by others, broken for good, stale only before one observer's eyes.

use std::time::Duration;

use pgbr_repo::{Error, PinKind, PinRequest, Pins, Repo, Watch};

use crate::fixture::*;

const TTL: Duration = Duration::from_secs(600);

fn request() -> PinRequest {
    PinRequest {
        kind: PinKind::Backup,
        labels: vec![label("20261122-120000F")],
        attempt: Some(u64::MAX),
        holder: "db1 4711".to_owned(),
        now: NOW,
        ttl: TTL,
    }
}

fn pins(repo: &Repo) -> Pins {
    Pins::new(repo, &stanza())
}

#[tokio::test]
async fn a_pin_says_what_it_covers_until_it_is_released() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repo(dir.path()).await;
    assert!(pins(&repo).list().await.unwrap().is_empty());
    let mut pin = pins(&repo).put(request()).await.unwrap();
    let second = pins(&repo).put(PinRequest { attempt: None, labels: vec![], ..request() }).await.unwrap();
    pin.beat().await.unwrap();
    pin.beat().await.unwrap();

    let listed = pins(&repo).list().await.unwrap();
    let of = |id| listed.iter().find(|p| p.id == id).unwrap();
    let (first, other) = (of(pin.id()), of(second.id()));
    assert_eq!((first.beat, other.beat), (2, 0));
    assert!(first.covers_label(&label("20261122-120000F")) && first.covers_attempt(u64::MAX));
    assert!(!first.covers_label(&label("20261122-120001F")) && !first.covers_attempt(1));
    assert!(!other.covers_attempt(u64::MAX) && !other.covers_label(&label("20261122-120000F")));
    let record = first.record.as_ref().unwrap();
    assert_eq!((record.kind, record.holder.as_str(), record.created), (PinKind::Backup, "db1 4711", NOW));

    pin.release().await.unwrap();
    second.release().await.unwrap();
    assert!(pins(&repo).list().await.unwrap().is_empty());
    assert_eq!(std::fs::read_dir(dir.path().join("pgbr/main/pin")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_pin_without_signs_of_life_goes_stale_and_is_broken_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repo(dir.path()).await;
    let mut pin = pins(&repo).put(request()).await.unwrap();
    let mut watch = Watch::new();
    let mut stale_at = async |seconds| {
        let state = pins(&repo).list().await.unwrap().remove(0);
        state.is_stale(&mut watch, Duration::from_secs(seconds))
    };
    assert!(!stale_at(10_000).await, "seen for the first time");
    assert!(!stale_at(10_599).await);
    pin.beat().await.unwrap();
    assert!(!stale_at(10_700).await, "it lives");
    assert!(!stale_at(11_299).await);
    assert!(stale_at(11_300).await);

    pins(&repo).break_stale(&pin.id()).await.unwrap();
    assert!(matches!(pin.check().await, Err(Error::PinLost { .. })));
    assert!(matches!(pin.beat().await, Err(Error::PinLost { .. })));
    assert!(pins(&repo).list().await.unwrap().is_empty(), "no sign of life brings it back");
}

#[tokio::test]
async fn a_sign_of_life_alone_is_no_pin() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repo(dir.path()).await;
    let mut pin = pins(&repo).put(request()).await.unwrap();
    pin.beat().await.unwrap();
    std::fs::remove_file(dir.path().join(format!("pgbr/main/pin/{}", pin.id()))).unwrap();
    assert!(pins(&repo).list().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_pin_that_cannot_be_read_covers_everything() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repo(dir.path()).await;
    let pin = pins(&repo).put(request()).await.unwrap();
    damage(&dir.path().join(format!("pgbr/main/pin/{}", pin.id())), 120);
    let state = pins(&repo).list().await.unwrap().remove(0);
    assert!(state.record.is_none());
    assert!(state.covers_attempt(1) && state.covers_label(&label("20990101-000000F")));
    let mut watch = Watch::new();
    assert!(!state.is_stale(&mut watch, Duration::ZERO));
    assert!(state.is_stale(&mut watch, Duration::from_secs(86_400)));
}

#[tokio::test]
async fn a_pin_is_not_put_without_an_end() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repo(dir.path()).await;
    for ttl in [0, 31 * 86_400] {
        let put = pins(&repo).put(PinRequest { ttl: Duration::from_secs(ttl), ..request() }).await;
        assert!(matches!(put, Err(Error::Invalid { .. })));
    }
}
