//! The crash sweep of archive-push: of a new file, of one that is there, and of one whose object is damaged.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use pgbr::{ArchiveGetRequest, Got, Host, RepoAccess, archive_get};
use pgbr_testkit::Sweep;

use crate::server::{Chain, push};
use crate::world::{Objects, Site, Try, quick_dir, stanza};

/// The segment behind the last one of the chain.
fn next_segment(objects: &Objects) -> String {
    let segments = objects.keys().filter(|key| key.contains("/archive/"));
    let last = segments.filter_map(|key| key.rsplit('/').next()).max().unwrap();
    format!("{}{:08X}", &last[..16], u32::from_str_radix(&last[16..], 16).unwrap() + 1)
}

async fn get(host: &Host, repo: RepoAccess, file: &str, directory: &Path) -> pgbr::Result<Option<Vec<u8>>> {
    let destination = directory.join("got");
    let request = ArchiveGetRequest {
        repos: vec![(1, repo)],
        stanza: stanza(),
        file: file.to_owned(),
        destination: destination.clone(),
        pg_data: None,
        timeout: Duration::ZERO,
        facts: None,
    };
    Ok(match archive_get(host, request).await? {
        Got::Found { .. } => Some(std::fs::read(destination).unwrap()),
        Got::Missing => None,
    })
}

/// Sweeps a push into an archive as `prepare` has left it.
fn sweep(command: &str, at_least: usize, prepare: impl AsyncFn(&Try, &Path) + Sync) {
    let chain = Chain::get();
    let name = next_segment(&chain.objects);
    let content = name.repeat((1 << 20) / name.len() + 1).into_bytes()[..1 << 20].to_vec();
    for site in Site::ALL {
        Sweep::of(site.sweep_of(command), at_least).run(quick_dir, async |dir, case| {
            let file = dir.path().join(&name);
            std::fs::write(&file, &content).unwrap();
            let before = Try::new(case, site, &chain.objects).await;
            prepare(&before, &file).await;
            let t = Try::new(case, site, &before.ground.objects().await).await;
            let host = t.world.host();
            let broken = push(&host, t.broken.clone(), file.clone());
            let later = t.world.later();
            let done = t.strike(broken, push(&later, t.sound(), file.clone())).await;
            // No error: what is there is sound, or it says that it is not.
            match get(&later, t.sound(), &name, dir.path()).await {
                Ok(Some(got)) => assert!(got == content, "{case}"),
                Ok(None) => assert!(done.is_err(), "{case}: success, and nothing is there"),
                Err(error) => assert!(done.is_err(), "{case}: success, and {error}"),
            }
            t.next(push(&later, t.sound(), file.clone()).await);
            assert!(get(&later, t.sound(), &name, dir.path()).await.unwrap().unwrap() == content, "{case}");
            t.assert_whole().await;
            t.faults.reached()
        });
    }
}

#[test]
fn a_push_over_a_failing_store_is_whole_or_absent() {
    sweep("archive-push", 3, async |_, _| {});
}

#[test]
fn a_push_of_what_is_there_is_whole() {
    sweep("archive-push again", 4, async |t, file| {
        push(&t.world.host(), t.sound(), file.to_owned()).await.unwrap();
    });
}

#[test]
fn a_push_beside_a_damaged_object_is_whole() {
    sweep("archive-push beside a damaged object", 5, async |t, file| {
        push(&t.world.host(), t.sound(), file.to_owned()).await.unwrap();
        let name = file.file_name().unwrap().to_str().unwrap();
        t.ground
            .change(name, |content| {
                let mut bytes = content.to_vec();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                Bytes::from(bytes)
            })
            .await;
    });
}
