//! The crash sweep of an expire, on a chain of real backups: nothing that is listed lacks anything at any moment, and the next run leaves exactly
//! what an undisturbed one leaves.

use std::cell::Cell;
use std::collections::BTreeSet;

use pgbr::{Asked, ExpireRequest, HoldRequest, Host, Policy, RepoAccess, expire, hold};
use pgbr_testkit::{Case, Fault, Sweep};

use crate::server::Chain;
use crate::world::{Site, Try, stanza};

/// Keeps one full, and all that builds on it.
async fn keep_one(host: Host, repo: RepoAccess) -> pgbr::Result<()> {
    let policy = Policy { full: Some(1), ..Policy::default() };
    let (asked, notes) = (Asked::Policy, None);
    let request =
        ExpireRequest { repo, stanza: stanza(), policy, asked, dry_run: false, notes, witness: None };
    expire(&host, request).await.map(drop)
}

#[test]
fn an_expire_that_breaks_off_anywhere_harms_nothing_and_the_next_one_goes_on() {
    let chain = Chain::get();
    let kept = &chain.labels()[2..];
    for site in Site::ALL {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let undisturbed: BTreeSet<String> = runtime.block_on(async {
            let t = Try::new(Case { seed: 0, fault: Fault::None }, site, &chain.objects).await;
            keep_one(t.world.later(), t.sound()).await.unwrap();
            t.assert_settled().await;
            t.ground.keys().await
        });
        assert!(undisturbed.len() < chain.keys.len() / 2 + 4);
        Sweep::of(site.sweep_of("expire"), 40).run(
            || (),
            async |(), case| {
                let t = Try::new(case, site, &chain.objects).await;
                let broken = keep_one(t.world.host(), t.broken.clone());
                let done = t.strike(broken, keep_one(t.world.later(), t.sound())).await;
                let listed = t.listed().await;
                assert!(listed.ends_with(kept), "{case}: {listed:?}");
                assert!(listed == kept || done.is_err(), "{case}: success, and {listed:?}");
                t.assert_whole().await;
                t.next(keep_one(t.world.later(), t.sound()).await);
                assert_eq!(t.listed().await, kept, "{case}");
                assert_eq!(t.ground.keys().await, undisturbed, "{case}, {}", t.struck());
                t.assert_settled().await;
                t.faults.reached()
            },
        );
    }
}

/// Who puts a backup on hold, having taken an expire for dead, can rely on it.
#[test]
fn an_expire_that_was_taken_over_removes_nothing_more() {
    let chain = Chain::get();
    let (first, kept) = (chain.labels()[0], &chain.labels()[2..]);
    for site in Site::ALL {
        Sweep::of(site.sweep_of("expire that is taken over"), 40).of_delays().run(
            || (),
            async |(), case| {
                let t = Try::new(case, site, &chain.objects).await;
                let later = t.world.later();
                let held = Cell::new(false);
                let meanwhile = async {
                    let reason = "an audit".to_owned();
                    let request = HoldRequest { repo: t.sound(), stanza: stanza(), label: first, reason };
                    // It may be gone by now.
                    held.set(hold(&later, request).await.is_ok());
                    Ok(())
                };
                let done = t.strike(keep_one(t.world.host(), t.broken.clone()), meanwhile).await;
                let why = format!("{case}, {}: {done:?}", t.struck());
                let there = || async { t.listed().await.contains(&first) };
                assert!(there().await || !held.get(), "{why}");
                t.assert_whole().await;
                t.next(keep_one(t.world.later(), t.sound()).await);
                assert_eq!(there().await, held.get(), "{why}");
                assert!(t.listed().await.ends_with(kept), "{why}");
                t.assert_settled().await;
                t.faults.reached()
            },
        );
    }
}

/// What a seed stands for: the same requests in the same order, and the same objects in the end; of another seed the order is another.
#[test]
fn all_of_a_try_follows_from_its_seed() {
    let chain = Chain::get();
    let tried = |seed| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let case = Case { seed, fault: Fault::ActsAndFails(30) };
            let t = Try::new(case, Site::Memory, &chain.objects).await;
            let done = keep_one(t.world.host(), t.broken.clone()).await.map_err(|error| error.to_string());
            (done, t.faults.log(), t.ground.objects().await)
        })
    };
    let (one, other) = (tried(1), tried(2));
    assert_eq!(one.1.len(), other.1.len());
    assert!(one == tried(1) && other == tried(2));
    assert_ne!(one.1, other.1);
}
