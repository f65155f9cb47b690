//! The crash sweep of a copy, in its target and in its source: what is listed in the target is whole, and the next copy completes it.

use pgbr::{Compression, CopyReport, CopyRequest, CopyWal, Host, PgVersion, RepoAccess, SystemId, repo_copy};
use pgbr_repo::NewCluster;
use pgbr_testkit::{Case, Fault, Sweep};

use crate::server::{Chain, restored};
use crate::world::{
    BEGINNING, Ground, Objects, Site, Try, World, assert_settled, assert_whole, keep_all, listed, stanza,
};

async fn copy(host: Host, from: RepoAccess, to: RepoAccess) -> pgbr::Result<CopyReport> {
    let request = CopyRequest {
        from,
        to,
        stanza: stanza(),
        set: None,
        wal: CopyWal::Needed,
        check: true,
        compression: Compression::NONE,
        threads: 1,
        dry_run: false,
    };
    repo_copy(&host, request).await
}

/// What is in the target now, and what is there once the copy was made again.
async fn completed(t: &Try, source: &Ground, target: &Ground, done: pgbr::Result<CopyReport>) {
    let (chain, why) = (Chain::get(), format!("{}, {}", t.why, t.struck()));
    let wanted = &chain.labels()[2..];
    let there = match target.objects().await.contains_key("pgbr/main/stanza.json") {
        true => listed(&t.world.later(), target.sound()).await,
        false => Vec::new(),
    };
    assert_eq!(there, wanted[..there.len()], "{why}");
    assert!(done.is_err() || there.len() == 2, "{why}: success, and {there:?} is all there is");
    if !there.is_empty() {
        assert_whole(&t.world.later(), target.sound(), &why).await;
    }
    let next = t.next(copy(t.world.later(), source.sound(), target.sound()).await);
    assert_eq!(next.backups.iter().filter(|backup| !backup.copied).count(), there.len(), "{why}");
    assert_eq!(listed(&t.world.later(), target.sound()).await, wanted, "{why}");
    let clusters = async |repo: RepoAccess| {
        let place = repo.open_stanza(&t.world.later(), &stanza()).await.unwrap();
        place.stanza.history().iter().map(|entry| (entry.number, entry.version)).collect::<Vec<_>>()
    };
    assert_eq!(clusters(target.sound()).await, clusters(source.sound()).await, "{why}");
    keep_all(&t.world, target.sound()).await;
    assert_settled(&t.world.later(), target, target.sound(), &why).await;
    for (label, files) in &chain.backups[2..] {
        assert_eq!(restored(&t.world.later(), target.sound(), *label).await, *files, "{why}");
    }
    // Nothing in the source has changed, but for the pin of who died.
    keep_all(&t.world, source.sound()).await;
    assert_eq!(source.keys().await, chain.keys, "{why}");
}

/// The chain in a stanza that has gone on with another cluster since.
async fn upgraded() -> Objects {
    let ground = Ground::with(Site::Memory, &Chain::get().objects).await;
    let place = ground.sound().open_stanza(&World::new(1, 20).host(), &stanza()).await.unwrap();
    let (system_id, version) = (SystemId::new(7), PgVersion::V16);
    let next = NewCluster { system_id, version, catalog_version: 2, control_version: 1 };
    place.stanza.upgrade(next, BEGINNING).await.unwrap();
    ground.objects().await
}

#[test]
fn a_copy_to_a_failing_store_is_whole_or_absent() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let objects = runtime.block_on(upgraded());
    for site in Site::ALL {
        Sweep::of(site.sweep_of("repo-copy to a repository"), 60).run(
            || (),
            async |(), case| {
                let t = Try::new(case, site, &Objects::new()).await;
                let source = Ground::with(Site::Memory, &objects).await;
                let broken = copy(t.world.host(), source.sound(), t.broken.clone());
                let done = t.strike(broken, copy(t.world.later(), source.sound(), t.sound())).await;
                completed(&t, &source, &t.ground, done).await;
                t.faults.reached()
            },
        );
    }
}

#[test]
fn a_copy_from_a_failing_store_is_whole_or_absent() {
    let chain = Chain::get();
    for site in Site::ALL {
        Sweep::of(site.sweep_of("repo-copy from a repository"), 30).run(
            || (),
            async |(), case| {
                let t = Try::new(case, site, &chain.objects).await;
                let target = Ground::with(Site::Memory, &Objects::new()).await;
                let broken = copy(t.world.host(), t.broken.clone(), target.sound());
                let done = t.strike(broken, copy(t.world.later(), t.sound(), target.sound())).await;
                completed(&t, &t.ground, &target, done).await;
                t.faults.reached()
            },
        );
    }
}

#[tokio::test]
async fn copies_go_to_and_from_a_store_that_overwrites() {
    let (chain, world) = (Chain::get(), World::new(1, 30));
    let wanted = &chain.labels()[2..];
    let source = Ground::with(Site::Memory, &chain.objects).await;
    let (first, second) =
        (Ground::with(Site::Directory, &Objects::new()).await, tempfile::tempdir().unwrap());
    let case = Case { seed: 1, fault: Fault::IgnoresCreate };
    let loose = || first.faulty(case).0;
    let strict = || RepoAccess::plain(second.path());
    copy(world.host(), source.sound(), loose()).await.unwrap();
    assert_eq!(listed(&world.host(), loose()).await, wanted);
    let again = copy(world.host(), source.sound(), loose()).await.unwrap();
    assert_eq!((again.wal.copied, again.backups.iter().any(|backup| backup.copied)), (0, false));
    copy(world.host(), loose(), strict()).await.unwrap();
    assert_eq!(listed(&world.host(), strict()).await, wanted);
    for (label, files) in &chain.backups[2..] {
        assert_eq!(restored(&world.host(), loose(), *label).await, *files);
        assert_eq!(restored(&world.host(), strict(), *label).await, *files);
    }
}
