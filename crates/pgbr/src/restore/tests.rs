//! Chains made by the crate's own writers from a model of a cluster, restored and compared with it.

mod model;

use std::path::Path;
use std::time::{Duration, Instant};

use model::{Chain, Model, Rng};
use pgbr_manifest::BackupLabel;
use pgbr_pg::RecoveryGoal;

use super::{Existing, Places, RestoreReport, RestoreRequest, restore};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::place::RepoAccess;

fn request(repo: &RepoAccess, label: BackupLabel, pg_data: &Path) -> RestoreRequest {
    let places = Places { pg_data: pg_data.to_owned(), ..Places::default() };
    let request = RestoreRequest::new(repo.clone(), "demo".parse().unwrap(), places, "false".to_owned());
    RestoreRequest { set: Some(label), goal: RecoveryGoal::None, threads: 2, ..request }
}

fn restored(chain: &Chain, label: BackupLabel, pg_data: &Path) -> Result<RestoreReport> {
    chain.runtime.block_on(restore(&Host::system(), request(&chain.repo, label, pg_data)))
}

#[test]
fn every_backup_of_a_chain_comes_back_as_it_was() {
    for seed in 1..=3 {
        let mut rng = Rng::new(seed);
        let mut chain = Chain::new();
        let mut model = Model::new(&mut rng);
        let mut made = vec![(chain.backup(&model, &mut rng), model.clone())];
        for _ in 0..6 {
            model.change(&mut rng);
            made.push((chain.backup(&model, &mut rng), model.clone()));
        }
        for (label, model) in made {
            let place = tempfile::tempdir().unwrap();
            restored(&chain, label, place.path()).unwrap();
            model.compare(place.path());
        }
    }
}

#[test]
fn a_long_chain_in_a_store_far_away_is_asked_for_side_by_side() {
    const WAIT: Duration = Duration::from_millis(100);
    let mut rng = Rng::new(5);
    let mut chain = Chain::new();
    let mut model = Model::new(&mut rng);
    chain.backup(&model, &mut rng);
    let mut newest = None;
    for _ in 0..30 {
        model.change(&mut rng);
        newest = Some(chain.backup(&model, &mut rng));
    }
    let place = tempfile::tempdir().unwrap();
    let request = request(&chain.far(WAIT), newest.unwrap(), place.path());
    let begun = Instant::now();
    let report = chain.runtime.block_on(restore(&Host::system(), request)).unwrap();
    let took = begun.elapsed();
    model.compare(place.path());
    let requests: u64 = ["gets", "lists", "puts"].iter().map(|kind| report.requests[kind]).sum();
    let alone = WAIT * u32::try_from(requests).unwrap();
    assert!(took < alone / 3, "{took:?} for {requests} requests, which one after the other take {alone:?}");
}

#[test]
fn a_chain_of_another_parent_is_refused() {
    let mut rng = Rng::new(7);
    let mut chain = Chain::new();
    let mut model = Model::new(&mut rng);
    let full = chain.backup(&model, &mut rng);
    model.change(&mut rng);
    let child = chain.backup(&model, &mut rng);
    // Another full under the same label: as good as the first, and not what the child was made from.
    chain.remove(full);
    let mut other = Chain { parent: None, ..chain };
    other.backup_as(full, &model, &mut rng);
    let place = tempfile::tempdir().unwrap();
    let error = restored(&other, child, place.path()).unwrap_err();
    let Error::Parent { label, parent, source } = &error else { panic!("{error:?}") };
    assert_eq!((*label, *parent), (child, full));
    assert!(source.to_string().contains("another backup"), "{source}");
    other.remove(full);
    let error = restored(&other, child, place.path()).unwrap_err();
    let Error::Parent { source, .. } = &error else { panic!("{error:?}") };
    assert!(matches!(**source, Error::Repo(pgbr_repo::Error::NotFound { .. })), "{source:?}");
    assert!(std::fs::read_dir(place.path()).unwrap().next().is_none(), "the target was touched");
}

#[test]
fn a_missing_pack_of_an_older_backup_is_seen_before_the_target_is_touched() {
    let mut rng = Rng::new(8);
    let mut chain = Chain::new();
    let mut model = Model::new(&mut rng);
    let full = chain.backup(&model, &mut rng);
    model.change(&mut rng);
    let child = chain.backup(&model, &mut rng);
    chain.remove_a_pack(full);
    let place = tempfile::tempdir().unwrap();
    let error = restored(&chain, child, place.path()).unwrap_err();
    assert!(
        matches!(&error, Error::Damaged { label, reason } if *label == full && reason.contains("is missing")),
        "{error}"
    );
    assert!(std::fs::read_dir(place.path()).unwrap().next().is_none(), "the target was touched");
}

#[test]
fn a_target_is_mended_whatever_it_held() {
    for seed in 11..=13 {
        let mut rng = Rng::new(seed);
        let mut chain = Chain::new();
        let mut model = Model::new(&mut rng);
        let mut made = vec![(chain.backup(&model, &mut rng), model.clone())];
        for _ in 0..4 {
            model.change(&mut rng);
            made.push((chain.backup(&model, &mut rng), model.clone()));
        }
        let place = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("file"), "not ours").unwrap();
        for _ in 0..8 {
            let (label, model) = &made[rng.below(made.len())];
            let report = mended(&chain, *label, place.path());
            model.compare(place.path());
            // Once more: nothing is fetched but the control file, and nothing is written.
            let before = model.stamps(place.path());
            let again = mended(&chain, *label, place.path());
            assert!(again.fetched.iter().map(|f| f.frames).sum::<u64>() <= 2, "{again:?}");
            assert!(again.kept + 2 * 8192 >= report.bytes, "{again:?}");
            assert_eq!(model.stamps(place.path()), before);
            model.damage(place.path(), outside.path(), &mut rng);
            let report = mended(&chain, *label, place.path());
            assert!(report.removed >= 3, "{report:?}");
            model.compare(place.path());
        }
        assert_eq!(std::fs::read(outside.path().join("file")).unwrap(), b"not ours");
    }
}

fn mended(chain: &Chain, label: BackupLabel, pg_data: &Path) -> RestoreReport {
    let mut request = request(&chain.repo, label, pg_data);
    request.places.existing = Existing::Delta;
    chain.runtime.block_on(restore(&Host::system(), request)).unwrap()
}
