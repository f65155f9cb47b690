//! repo-copy: backups that go to another repository, are restored there and built upon.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use pgbr_testkit::{Bucket, Cluster, Finished, StoreKind};
use rustix::process::Signal;
use serde_json::Value;

use crate::rig::{Frozen, PASS, Rig, assert_one_error, restore_into, said};
use crate::world::{last_mark, set_mark};

/// The commands that know all repositories; archive-push knows the first alone.
const KNOWING: [&str; 8] =
    ["backup", "restore", "info", "expire", "archive-get", "annotate", "repo-copy", "key-add"];

/// Archives into the first repository alone, which is encrypted; the second is configured, and plain.
fn rig() -> Rig {
    let rig = Rig::sealed();
    let second = rig.pgbr.scratch().dir("second");
    configure(&rig, "repo2-path", &second.display().to_string());
    rig
}

fn configure(rig: &Rig, option: &str, value: &str) {
    for command in KNOWING {
        rig.pgbr.set(&format!("global:{command}"), option, value);
    }
}

fn second(rig: &Rig) -> PathBuf {
    rig.pgbr.scratch().path().join("second")
}

fn copy(rig: &Rig, options: &[&str]) -> Finished {
    rig.pgbr.run(["repo-copy", "--repo=1", "--to-repo=2"].iter().chain(options))
}

/// Labels of the backups in a repository.
fn labels(rig: &Rig, repo: &str) -> Vec<String> {
    let info = info(rig, repo);
    let backups = info[0]["backup"].as_array().cloned().unwrap_or_default();
    backups.iter().filter_map(|backup| Some(backup["label"].as_str()?.to_owned())).collect()
}

fn info(rig: &Rig, repo: &str) -> Value {
    serde_json::from_str(&rig.pgbr.ok(["info", "--output=json", repo])).expect("info prints JSON")
}

/// A cluster restored from one repository alone, up and whole.
fn restored(rig: &Rig, options: &[&str]) -> Cluster {
    let target = rig.target();
    let into = format!("--pg1-path={}", target.data_dir().display());
    rig.pgbr.ok(["restore", &into, "--type=immediate", "--target-action=promote"].iter().chain(options));
    target.start();
    target.wait_promoted();
    target
}

fn packs(repo: &Path, label: &str) -> usize {
    names(repo, label).len()
}

/// The runs that have packs of a backup.
fn attempts(repo: &Path, label: &str) -> BTreeSet<String> {
    names(repo, label).iter().filter_map(|name| Some(name.split_once('-')?.0.to_owned())).collect()
}

fn names(repo: &Path, label: &str) -> Vec<String> {
    let found = fs::read_dir(repo.join("pgbr/demo/backup").join(label).join("pack")).into_iter().flatten();
    let names = found.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| !name.contains('#')).collect()
}

#[test]
fn a_chain_goes_from_a_sealed_repository_to_a_plain_one_and_back() {
    let rig = rig();
    rig.cluster.pgbench_init(1);
    let full = rig.pgbr.ok(["backup", "--type=full", "--repo=1", "--annotation=who=me"]);
    assert!(full.contains("full backup size"), "{full}");
    rig.cluster.sql("postgres", "update pgbench_accounts set abalance = abalance + 1 where aid % 7 = 0");
    rig.pgbr.ok(["backup", "--type=incr", "--repo=1"]);
    let chain = labels(&rig, "--repo=1");
    assert_eq!(chain.len(), 2, "{chain:?}");
    rig.pgbr.ok(["annotate", &format!("--set={}", chain[1]), "--annotation=late=note", "--repo=1"]);

    // What would be done, and nothing is.
    let dry = said(&copy(&rig, &["--dry-run"]));
    assert!(dry.contains(&format!("copy: incr backup {}", chain[1])), "{dry}");
    assert!(dry.contains("the stanza would be made"), "{dry}");
    assert_eq!(fs::read_dir(second(&rig)).unwrap().count(), 0);

    let text = said(&copy(&rig, &[]));
    assert!(text.contains("2 backup(s)"), "{text}");
    assert!(text.contains("copied from repo1 to repo2"), "{text}");
    assert_eq!(labels(&rig, "--repo=2"), chain);
    let info = info(&rig, "--repo=2");
    assert_eq!(info[0]["backup"][0]["annotation"]["who"], "me");
    assert_eq!(info[0]["backup"][1]["annotation"]["late"], "note");
    assert_eq!(info[0]["cipher"], "none");

    // Again: everything is there.
    let before = crate::rig::snapshot(&second(&rig));
    let again = copy(&rig, &["--output=json", "--log-level-console=off"]);
    let again: Value = serde_json::from_str(&again.stdout).unwrap();
    assert_eq!(again["backups"][0]["copied"], false);
    assert_eq!(
        (again["wal"]["copied"].as_u64(), again["backups"][1]["copied"].as_bool()),
        (Some(0), Some(false))
    );
    assert_eq!(crate::rig::snapshot(&second(&rig)), before);

    // Restored from either, it is the same cluster.
    let digest = rig.cluster.table_digest("postgres");
    for repo in ["--repo=1", "--repo=2"] {
        let target = restored(&rig, &[repo]);
        assert_eq!(target.table_digest("postgres"), digest, "{repo}");
        target.assert_index_counts("postgres");
        target.assert_clean();
    }

    // And back into a third one, sealed with another passphrase.
    let third = rig.pgbr.scratch().dir("third");
    configure(&rig, "repo3-path", &third.display().to_string());
    configure(&rig, "repo3-cipher-type", "aes-256-gcm");
    configure(&rig, "repo3-cipher-pass", &PASS.replace('X', "Y"));
    rig.pgbr.ok(["repo-copy", "--repo=2", "--to-repo=3"]);
    let target = restored(&rig, &["--repo=3"]);
    assert_eq!(target.table_digest("postgres"), digest);
    target.assert_clean();

    // What comes when there is a passphrase for writing only in there is sealed so that it does not open it; and goes on to others.
    let writer =
        rig.pgbr.ok(["key-add", "--repo=3", "--write-only", "--generate", "--log-level-console=off"]);
    rig.cluster.sql("postgres", "update pgbench_accounts set abalance = 3 where aid % 9 = 0");
    rig.pgbr.ok(["backup", "--type=incr", "--repo=1"]);
    let digest = rig.cluster.table_digest("postgres");
    configure(&rig, "repo3-cipher-pass", writer.trim());
    assert_one_error(
        &rig.pgbr.run(["repo-copy", "--repo=1", "--to-repo=3"]),
        95,
        &["read back what is copied"],
    );
    assert_one_error(&rig.pgbr.run(["repo-copy", "--repo=3", "--to-repo=2"]), 95, &["copy backups from it"]);
    configure(&rig, "repo3-cipher-pass", &PASS.replace('X', "Y"));
    rig.pgbr.ok(["repo-copy", "--repo=1", "--to-repo=3"]);
    let newest = labels(&rig, "--repo=3").pop().unwrap();
    for name in names(&third, &newest) {
        let pack = fs::read(third.join("pgbr/demo/backup").join(&newest).join("pack").join(&name)).unwrap();
        assert_eq!(pack[5], if name.contains("-i") { 1 } else { 2 }, "{name}");
    }
    rig.pgbr.ok(["repo-copy", "--repo=3", "--to-repo=2"]);
    let target = restored(&rig, &["--repo=2"]);
    assert_eq!(target.table_digest("postgres"), digest);
    target.assert_clean();
}

#[test]
fn the_next_increment_is_made_on_top_of_a_copy() {
    let rig = rig();
    rig.cluster.pgbench_init(1);
    rig.backup();
    let text = said(&copy(&rig, &["--wal=newest"]));
    assert!(text.contains("1 backup(s)"), "{text}");
    // From now on the server archives into both.
    rig.pgbr.set("global", "repo2-path", &second(&rig).display().to_string());
    rig.cluster.sql("postgres", "update pgbench_accounts set abalance = abalance + 1 where aid % 100 = 0");
    rig.pgbr.ok(["backup", "--type=incr", "--repo=2"]);
    let info = info(&rig, "--repo=2");
    let backups = info[0]["backup"].as_array().unwrap();
    assert_eq!(backups.len(), 2, "{info}");
    assert_eq!((backups[1]["type"].as_str(), &backups[1]["prior"]), (Some("incr"), &backups[0]["label"]));
    let (whole, own) =
        (&backups[0]["info"]["repository"]["delta"], &backups[1]["info"]["repository"]["delta"]);
    assert!(own.as_u64() < whole.as_u64().map(|whole| whole / 2), "{whole} {own}");
    let digest = rig.cluster.table_digest("postgres");
    let target = restored(&rig, &["--repo=2"]);
    assert_eq!(target.table_digest("postgres"), digest);
    target.assert_clean();

    // What was made there comes back to the first repository on top of the original.
    rig.pgbr.ok(["repo-copy", "--repo=2", "--to-repo=1"]);
    assert_eq!(labels(&rig, "--repo=1"), labels(&rig, "--repo=2"));
    let target = restored(&rig, &["--repo=1"]);
    assert_eq!(target.table_digest("postgres"), digest);
}

#[test]
fn all_wal_since_the_backup_comes_along_where_that_is_wanted() {
    let rig = rig();
    rig.cluster.sql("postgres", "create table mark (id int primary key)");
    rig.backup();
    set_mark(&rig.cluster);
    let mark = set_mark(&rig.cluster);
    let last = rig.archived_segment();
    // Nothing of it is read back where nobody wants that.
    let report: Value = serde_json::from_str(
        &copy(&rig, &["--no-verify", "--output=json", "--log-level-console=off"]).stdout,
    )
    .expect("a report is JSON");
    let (copied, read) = (&report["backups"][0]["bytes"], &report["requests-to"]["bytes-read"]);
    assert!(copied.as_u64() > Some(1 << 20) && read.as_u64() < Some(1 << 20), "{report:#}");
    let archived = |segment: &str| {
        second(&rig).join("pgbr/demo/archive/15-1").join(&segment[..16]).join(segment).exists()
    };
    assert!(!archived(&last), "only what the backup needs");
    let report: Value = serde_json::from_str(
        &copy(&rig, &["--wal=newest", "--output=json", "--log-level-console=off"]).stdout,
    )
    .expect("a report is JSON");
    assert_eq!(
        (report["backups"][0]["copied"].as_bool(), report["wal"]["last"].as_str()),
        (Some(false), Some(&*last))
    );
    assert!(archived(&last));
    // The copy does without the original.
    let away = rig.pgbr.scratch().path().join("away");
    fs::rename(rig.pgbr.repo_dir(), away).unwrap();
    let target = rig.target();
    rig.pgbr.ok(restore_into(&target).iter().map(String::as_str).chain(["--repo=2", "--archive-mode=off"]));
    target.start();
    target.wait_promoted();
    assert_eq!(last_mark(&target), mark.id);
    target.assert_clean();
}

#[test]
fn copies_go_through_every_kind_of_store() {
    let rig = rig();
    rig.cluster.pgbench_init(1);
    rig.backup();
    rig.cluster.sql("postgres", "update pgbench_accounts set abalance = abalance + 1 where aid % 50 = 0");
    rig.pgbr.ok(["backup", "--type=incr", "--repo=1"]);
    let chain = labels(&rig, "--repo=1");
    let buckets: Vec<Bucket> = StoreKind::CLOUD.into_iter().map(Bucket::of).collect();
    let mut from = 1;
    for (to, bucket) in (3..).zip(&buckets) {
        configure(&rig, &format!("repo{to}-path"), "/copies");
        for (option, value) in bucket.options() {
            configure(&rig, &format!("repo{to}-{option}"), &value);
        }
        if to == 4 {
            configure(&rig, "repo4-cipher-type", "aes-256-gcm");
            configure(&rig, "repo4-cipher-pass", "Another-passphrase-4711");
        }
        rig.pgbr.ok(["repo-copy", &format!("--repo={from}"), &format!("--to-repo={to}"), "--process-max=2"]);
        assert_eq!(labels(&rig, &format!("--repo={to}")), chain, "{:?}", bucket.kind());
        from = to;
    }
    let target = restored(&rig, &[&format!("--repo={from}")]);
    assert_eq!(target.table_digest("postgres"), rig.cluster.table_digest("postgres"));
    target.assert_clean();
}

#[test]
fn a_backup_of_several_runs_is_copied_with_all_its_layers() {
    let rig = rig();
    rig.slow_down();
    drop(rig.frozen_backup());
    let text = rig.pgbr.ok(["backup", "--type=full"]);
    assert!(text.contains("resume backup"), "{text}");
    assert!(copy(&rig, &["--process-max=2"]).success());
    let label = labels(&rig, "--repo=2").pop().unwrap();
    assert!(attempts(&second(&rig), &label).len() > 1, "it has the layers of two runs");
    let target = restored(&rig, &["--repo=2"]);
    assert_eq!(target.table_digest("postgres"), rig.cluster.table_digest("postgres"));
    target.assert_clean();
}

#[test]
fn a_copy_that_was_broken_off_is_made_by_the_next_and_its_rest_expires() {
    let rig = rig();
    rig.slow_down();
    // What is copied is not compressed again: many packs, each of them made durable, are what takes time.
    rig.pgbr.set("global", "compress-type", "none");
    let sized = ["repo1-pack-size", "repo2-pack-size"];
    sized.iter().for_each(|option| rig.pgbr.set("global", option, "1MiB"));
    let full = rig.backup();
    let words = ["repo-copy", "--repo=1", "--to-repo=2"];
    let begun = || packs(&second(&rig), &full) > 0;
    // Killed: its packs stay, and nothing is listed.
    drop(Frozen::at(rig.pgbr.command(words), begun));
    assert_eq!(labels(&rig, "--repo=2"), [""; 0]);
    assert!(packs(&second(&rig), &full) > 0);
    assert!(copy(&rig, &[]).success());
    assert_eq!(labels(&rig, "--repo=2"), [full.as_str()]);
    assert_eq!(attempts(&second(&rig), &full).len(), 2);
    rig.pgbr.ok(["expire", "--repo=2"]);
    assert_eq!(attempts(&second(&rig), &full).len(), 1, "what the broken one left is gone");
    let target = restored(&rig, &["--repo=2"]);
    assert_eq!(target.table_digest("postgres"), rig.cluster.table_digest("postgres"));

    // Asked to end: it takes away what it stored.
    fs::remove_dir_all(second(&rig).join("pgbr")).unwrap();
    let frozen = Frozen::at(rig.pgbr.command(words), begun);
    frozen.send(Signal::TERM);
    let ended = frozen.thaw();
    assert_eq!(ended.code, Some(63), "{ended:#?}");
    assert_eq!((labels(&rig, "--repo=2").len(), packs(&second(&rig), &full)), (0, 0));
}

#[test]
fn what_is_damaged_is_not_copied_and_a_broken_copy_is_not_listed() {
    let rig = rig();
    let full = rig.backup();
    let pack = rig.stanza_dir().join("backup").join(&full).join("pack");
    let mut named: Vec<_> = fs::read_dir(&pack).unwrap().map(|entry| entry.unwrap().path()).collect();
    named.sort();
    let victim = named.first().unwrap();
    let sound = fs::read(victim).unwrap();
    let mut bad = sound.clone();
    bad[5000] ^= 1;
    fs::write(victim, &bad).unwrap();
    let failed = copy(&rig, &[]);
    assert_one_error(&failed, 28, &["is damaged", "pack"]);
    assert_eq!(labels(&rig, "--repo=2"), [""; 0]);
    assert_eq!(packs(&second(&rig), &full), 0, "what was stored of it is gone");
    fs::write(victim, &sound).unwrap();
    assert!(copy(&rig, &[]).success());
    assert_eq!(labels(&rig, "--repo=2"), [full.as_str()]);

    // One that has lost a pack is listed, and is no copy that is there already.
    let lost = second(&rig).join("pgbr/demo/backup").join(&full).join("pack");
    let data = names(&second(&rig), &full).into_iter().find(|name| !name.contains("-i")).unwrap();
    fs::remove_file(lost.join(data)).unwrap();
    assert_one_error(&copy(&rig, &[]), 28, &["of the copy that the target has: pack"]);
}

#[test]
fn a_repository_takes_no_backup_of_another_cluster_and_no_copy_of_itself() {
    let rig = rig();
    let full = rig.backup();
    for (options, code, words) in [
        (&["repo-copy", "--repo=1", "--to-repo=1"][..], 32, "must name another repository"),
        (&["repo-copy", "--repo=1", "--to-repo=7"], 32, "key '7' is not valid for 'to-repo' option"),
        (&["repo-copy", "--repo=1"], 37, "requires option: to-repo"),
        (&["repo-copy", "--repo=1", "--to-repo=2", "--set=20200101-000000F"], 75, "is not in the repository"),
    ] {
        assert_one_error(&rig.pgbr.fails(code, options), code, &[words]);
    }
    // The second repository has a stanza of this name, of another cluster.
    let other = crate::rig::cluster();
    let theirs = pgbr_testkit::Pgbr::new(env!("CARGO_BIN_EXE_pgbr"), "demo", &other);
    theirs.set("global", "repo1-path", &second(&rig).display().to_string());
    theirs.ok(["stanza-create"]);
    let failed = copy(&rig, &[]);
    assert_one_error(&failed, 51, &["stanza 'demo' is of cluster"]);
    assert_eq!(packs(&second(&rig), &full), 0);
}
