//! Copies over stores that fail at each request: what is listed in the target is whole, and the next copy completes it.

use std::fs;

use futures::future::join_all;
use pgbr::{
    BackupLabel, BackupType, Compression, CopyReport, CopyRequest, CopyWal, Host, RepoAccess, repo_copy,
};
use pgbr_testkit::{Cluster, Fault, failures};

use crate::faulty_store::{Rig, assert_restores, faulty, hasty, listed, reached, stanza};

/// How many copies run side by side, each to a repository of its own.
const AT_ONCE: usize = 4;

/// A full and an increment, with their WAL.
async fn chain(rig: &Rig<'_>, cluster: &Cluster) -> [BackupLabel; 2] {
    let full = rig.backup(&Host::system(), BackupType::Full, rig.sound()).await.unwrap().label;
    fs::write(cluster.data_dir().join("global/changed"), "changed".repeat(50_000)).unwrap();
    let incr = rig.backup(&Host::system(), BackupType::Incr, rig.sound()).await.unwrap().label;
    rig.assert_whole(full).await;
    rig.assert_whole(incr).await;
    [full, incr]
}

async fn copy(host: &Host, from: RepoAccess, to: RepoAccess) -> pgbr::Result<CopyReport> {
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
    repo_copy(host, request).await
}

struct Done {
    reached: bool,
    copied: bool,
    partly: bool,
}

/// A copy with a fault in the target, or else in the source, what it leaves, and a copy after it.
async fn broken_copy(rig: &Rig<'_>, chain: [BackupLabel; 2], in_target: bool, fault: Fault) -> Done {
    let directory = tempfile::tempdir().unwrap();
    let target = || RepoAccess::plain(directory.path());
    let (from, to, store) = if in_target {
        let (to, store) = faulty(directory.path(), fault);
        (rig.sound(), to, store)
    } else {
        let (from, store) = faulty(rig.path(), fault);
        (from, target(), store)
    };
    let copied = copy(&Host::system(), from, to).await;
    let there = if directory.path().join("pgbr/main/stanza.json").exists() {
        listed(target()).await
    } else {
        Vec::new()
    };
    assert!(there.iter().zip(chain).all(|(there, wanted)| *there == wanted), "{fault:?}: {there:?}");
    assert!(copied.is_err() || there.len() == 2, "{fault:?}: success, and {there:?} is all there is");
    for label in &there {
        assert_restores(target(), *label).await;
    }
    let next = copy(&hasty(), rig.sound(), target()).await;
    let next = next.unwrap_or_else(|error| panic!("{fault:?}: the next copy failed: {error}"));
    assert_eq!(next.backups.iter().filter(|backup| !backup.copied).count(), there.len(), "{fault:?}");
    assert_eq!(listed(target()).await, chain, "{fault:?}");
    for label in chain {
        assert_restores(target(), label).await;
    }
    Done { reached: reached(fault, &store), copied: copied.is_ok(), partly: there.len() == 1 }
}

/// Only each `every`th request goes wrong, for the sake of time.
async fn broken_copies(in_target: bool, every: usize) {
    let cluster = Cluster::builder(15).conf("wal_keep_size", "8GB").start();
    let rig = Rig::new(&cluster).await;
    let chain = chain(&rig, &cluster).await;
    let (mut copied, mut failed, mut partly) = (0, 0, 0);
    for n in (0..).step_by(AT_ONCE * every) {
        // What a dead run leaves has to go stale first, which takes two seconds.
        let faults = (n..n + AT_ONCE * every).step_by(every).flat_map(failures);
        let faults = faults.filter(|fault| !matches!(fault, Fault::Dies(n) if n % 4 != 3));
        let done = join_all(faults.map(|fault| broken_copy(&rig, chain, in_target, fault))).await;
        copied += done.iter().filter(|done| done.reached && done.copied).count();
        failed += done.iter().filter(|done| !done.copied).count();
        partly += done.iter().filter(|done| done.partly).count();
        if !done.iter().any(|done| done.reached) {
            assert!(n > 10 && failed > 10, "{n} requests, {copied} copied, {failed} failed");
            assert!(partly > 0, "of no chain the full alone was copied ({copied} copied, {failed} failed)");
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_to_a_failing_store_is_whole_or_absent() {
    broken_copies(true, 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_from_a_failing_store_is_whole_or_absent() {
    broken_copies(false, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_go_to_and_from_a_store_that_overwrites() {
    let cluster = Cluster::builder(15).conf("wal_keep_size", "8GB").start();
    let rig = Rig::new(&cluster).await;
    let chain = chain(&rig, &cluster).await;
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let loose = || faulty(directories[0].path(), Fault::IgnoresCreate).0;
    let strict = || RepoAccess::plain(directories[1].path());
    copy(&Host::system(), rig.sound(), loose()).await.unwrap();
    assert_eq!(listed(loose()).await, chain);
    let again = copy(&Host::system(), rig.sound(), loose()).await.unwrap();
    assert_eq!((again.wal.copied, again.backups.iter().any(|backup| backup.copied)), (0, false));
    copy(&Host::system(), loose(), strict()).await.unwrap();
    assert_eq!(listed(strict()).await, chain);
    for label in chain {
        assert_restores(loose(), label).await;
        assert_restores(strict(), label).await;
    }
}
