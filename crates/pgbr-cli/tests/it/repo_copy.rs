//! repo-copy: backups that go to another repository, are restored there and built upon.

use std::fs;
use std::path::{Path, PathBuf};

use pgbr_testkit::{Cluster, Finished};
use serde_json::Value;

use crate::rig::{PASS, Rig, assert_one_error, said};

/// Archives into the first repository alone, which is encrypted; the second is configured, and plain.
fn rig() -> Rig {
    let rig = Rig::sealed();
    let second = rig.pgbr.scratch().dir("second");
    rig.pgbr.set("global:repo-copy", "repo2-path", &second.display().to_string());
    for command in ["backup", "restore", "info", "expire", "archive-get", "stanza-create"] {
        rig.pgbr.set(&format!("global:{command}"), "repo2-path", &second.display().to_string());
    }
    rig
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
    fs::read_dir(repo.join("pgbr/demo/backup").join(label).join("pack")).into_iter().flatten().count()
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
    for command in ["repo-copy", "restore", "info", "archive-get"] {
        let section = format!("global:{command}");
        rig.pgbr.set(&section, "repo3-path", &third.display().to_string());
        rig.pgbr.set(&section, "repo3-cipher-type", "aes-256-gcm");
        rig.pgbr.set(&section, "repo3-cipher-pass", &PASS.replace('X', "Y"));
    }
    rig.pgbr.ok(["repo-copy", "--repo=2", "--to-repo=3"]);
    let target = restored(&rig, &["--repo=3"]);
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
    assert_eq!(labels(&rig, "--repo=2"), [full]);
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
