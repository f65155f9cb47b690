//! The crash sweep of backups: full and incr, with and without something to take up, to one repository and to two.
//!
//! The cluster is a real one, and files are read and packs are put on threads of their own: which of two requests that are under way together
//! comes first is up to them. Everything else follows from the seed.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use pgbr::{BackupLabel, BackupType};
use pgbr_testkit::{Case, Fault, Sweep};

use crate::server::{Lent, restored};
use crate::world::{Ground, Objects, Site, Try, World, assert_settled, assert_whole, keep_all, listed};

/// A server that no other thread backs up, and what lies in the repository when each try begins.
struct Rig {
    server: Lent,
    objects: Objects,
    /// The backups in it, and what they hold.
    before: Vec<(BackupLabel, Objects)>,
    changes: AtomicU64,
}

impl Rig {
    /// With what an incr builds on, and where `broken` says so, with what a run has left that died.
    async fn new(kind: BackupType, broken: bool) -> Self {
        let (server, world) = (Lent::get(), World::new(0, 0));
        let ground = Ground::with(Site::Memory, &Objects::new()).await;
        server.make_stanza(&world.host(), ground.sound()).await;
        let mut before = Vec::new();
        if kind != BackupType::Full {
            server.change(1000);
            let label = server.backup(&world.host(), BackupType::Full, ground.sound()).await.unwrap().label;
            server.archive(&world.host(), ground.sound()).await;
            before.push((label, server.files()));
        }
        let mut rig = Self { server, objects: Objects::new(), before, changes: AtomicU64::new(2000) };
        rig.objects = ground.objects().await;
        if broken {
            rig.break_off(kind, &world).await;
        }
        rig
    }

    /// A run that died right before its commit. All its data was there, and an index that nobody will use; a pack was lost since.
    async fn break_off(&mut self, kind: BackupType, world: &World) {
        self.change();
        let before = self.objects.clone();
        let mut dies_at = Fault::None;
        for run in 0..2 {
            let ground = Ground::with(Site::Memory, &before).await;
            let (repo, faults) = ground.faulty(Case { seed: 0, fault: dies_at });
            let made = self.server.backup(&world.host(), kind, repo).await;
            assert_eq!(made.is_ok(), run == 0, "{made:?}");
            let put =
                faults.log().iter().position(|what| what.starts_with("put ") && what.ends_with("/manifest"));
            dies_at = Fault::Dies(put.unwrap());
            self.objects = ground.objects().await;
        }
        let packs: Vec<_> =
            self.objects.keys().filter(|key| key.contains("/pack/") && !before.contains_key(*key)).collect();
        let (index, data): (Vec<_>, Vec<_>) = packs.into_iter().partition(|key| key.contains("-i"));
        assert!(!index.is_empty() && data.len() > 1, "{index:?} {data:?}");
        let lost = data.last().unwrap().to_string();
        // It was seen dead since.
        self.objects.retain(|key, _| *key != lost && !key.contains("/pin/") && !key.contains("/lease/"));
    }

    /// Changes a file that no backup was made of as it is then.
    fn change(&self) {
        self.server.change(self.changes.fetch_add(1, Ordering::SeqCst));
    }
}

/// A backup with a fault, what it leaves, and a backup after it.
async fn broken_backup(rig: &Rig, kind: BackupType, broken: bool, site: Site, case: Case) -> bool {
    let t = Try::new(case, site, &rig.objects).await;
    let (server, later) = (&rig.server, t.world.later());
    if !broken {
        rig.change();
    }
    let known: Vec<BackupLabel> = rig.before.iter().map(|(label, _)| *label).collect();
    let host = t.world.host();
    let made = server.backup(&host, kind, t.broken.clone());
    let over = Cell::new(None);
    let meanwhile = async {
        over.set(Some(server.backup(&later, kind, t.sound()).await?.label));
        keep_all(&t.world, t.sound()).await;
        Ok(())
    };
    let made = t.strike(made, meanwhile).await;
    let why = format!("{case}, {}: {:?}", t.struck(), made.as_ref().map(|made| made.label));
    let there = listed(&later, t.sound()).await;
    assert!(there.starts_with(&known), "{why}: {there:?}");
    let own = made.as_ref().ok().map(|made| made.label);
    for label in own.into_iter().chain(over.get()) {
        assert!(there.contains(&label), "{why}: {label} was made, and {there:?} is there");
    }
    assert!(there.len() <= known.len() + 1 + usize::from(over.get().is_some()), "{why}: {there:?}");
    server.archive(&later, t.sound()).await;
    assert_whole(&later, t.sound(), &why).await;
    let files = server.files();
    for label in &there[known.len()..] {
        assert!(restored(&later, t.sound(), *label).await == files, "{why}: {label}");
    }
    let next = t.next(server.backup(&later, kind, t.sound()).await);
    keep_all(&t.world, t.sound()).await;
    server.archive(&later, t.sound()).await;
    let after = listed(&later, t.sound()).await;
    assert_eq!((after.len(), after.last()), (there.len() + 1, Some(&next.label)), "{why}");
    assert_settled(&later, &t.ground, t.sound(), &why).await;
    for (label, files) in &rig.before {
        assert!(restored(&later, t.sound(), *label).await == *files, "{why}: {label}");
    }
    assert!(restored(&later, t.sound(), next.label).await == files, "{why}: {}", next.label);
    t.faults.reached()
}

fn sweep(name: &str, kind: BackupType, broken: bool, at_least: usize) {
    let rig = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(Rig::new(kind, broken))
    };
    for site in Site::ALL {
        let attempt = async |rig: &Rig, case| broken_backup(rig, kind, broken, site, case).await;
        Sweep::of(site.sweep_of(name), at_least)
            .in_turn(2 * usize::from(site == Site::Directory))
            .run(rig, attempt);
    }
}

#[test]
fn a_full_over_a_failing_store_is_whole_or_absent() {
    sweep("full", BackupType::Full, false, 15);
}

#[test]
fn a_full_that_takes_up_a_broken_one_is_whole_or_absent() {
    sweep("full with resume", BackupType::Full, true, 15);
}

#[test]
fn an_incr_over_a_failing_store_is_whole_or_absent() {
    sweep("incr", BackupType::Incr, false, 15);
}

#[test]
fn an_incr_that_takes_up_a_broken_one_is_whole_or_absent() {
    sweep("incr with resume", BackupType::Incr, true, 15);
}

/// A backup to two repositories, one of which has a fault: what is made in the other is none the worse.
async fn half_broken_backup(rig: &Rig, site: Site, case: Case) -> bool {
    let t = Try::new(case, site, &rig.objects).await;
    let sound = Ground::with(Site::Memory, &rig.objects).await;
    let later = t.world.later();
    rig.change();
    let first = case.seed.is_multiple_of(2);
    let repos =
        if first { vec![t.broken.clone(), sound.sound()] } else { vec![sound.sound(), t.broken.clone()] };
    let number = if first { 2 } else { 1 };
    let host = t.world.host();
    let made = rig.server.backup_to(&host, BackupType::Full, repos);
    let made = t.strike(made, async { Ok(()) }).await;
    let why = format!("{case}, {}", t.struck());
    let backups = made.unwrap_or_else(|error| panic!("{why}: no backup in either: {error}"));
    let report = backups.made.iter().find(|report| report.repo == number);
    let report = report.unwrap_or_else(|| panic!("{why}: none in the sound one: {backups:?}"));
    assert_eq!(backups.made.len() + backups.failed.len(), 2, "{why}");
    let files = rig.server.files();
    for (ground, made) in [(&sound, true), (&t.ground, backups.made.len() == 2)] {
        rig.server.archive(&later, ground.sound()).await;
        let there = listed(&later, ground.sound()).await;
        assert!(there == [report.label] || !made && there.is_empty(), "{why}: {there:?}");
        assert_whole(&later, ground.sound(), &why).await;
        for label in there {
            assert!(restored(&later, ground.sound(), label).await == files, "{why}: {label}");
        }
    }
    let next = t.next(rig.server.backup(&later, BackupType::Full, t.sound()).await);
    keep_all(&t.world, t.sound()).await;
    rig.server.archive(&later, t.sound()).await;
    assert_eq!(listed(&later, t.sound()).await.last(), Some(&next.label), "{why}");
    assert_settled(&later, &t.ground, t.sound(), &why).await;
    assert_settled(&later, &sound, sound.sound(), &why).await;
    t.faults.reached()
}

#[test]
fn a_failing_store_spoils_no_backup_in_another() {
    let rig = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(Rig::new(BackupType::Full, false))
    };
    for site in Site::ALL {
        let attempt = async |rig: &Rig, case| half_broken_backup(rig, site, case).await;
        Sweep::of(site.sweep_of("full to two repositories"), 15)
            .in_turn(2 * usize::from(site == Site::Directory))
            .run(rig, attempt);
    }
}

/// However the threads of a backup run, it asks for the same.
#[test]
fn a_backup_of_a_seed_makes_the_same_requests() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let rig = runtime.block_on(Rig::new(BackupType::Incr, true));
    let tried = |_| {
        runtime.block_on(async {
            let t = Try::new(Case { seed: 1, fault: Fault::None }, Site::Memory, &rig.objects).await;
            rig.server.backup(&t.world.host(), BackupType::Incr, t.broken.clone()).await.unwrap();
            t.faults.log()
        })
    };
    let runs: Vec<Vec<String>> = (0..6).map(tried).collect();
    let alike = runs.iter().filter(|log| **log == runs[0]).count();
    println!("{alike} of {} runs made their requests in the same order", runs.len());
    let sorted = runs.into_iter().map(|mut log| {
        log.sort();
        log
    });
    assert_eq!(sorted.collect::<BTreeSet<_>>().len(), 1);
}
