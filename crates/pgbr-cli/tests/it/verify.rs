//! verify on a real server's repository: what is sound passes, every kind of damage is found, and what it says of backups is so.

use std::collections::BTreeSet;

use pgbr_testkit::{Cluster, Finished, StopMode};
use serde_json::Value;

use crate::rig::{Frozen, LIMIT, MAJOR, Rig, STANZA, restore_into, said, snapshot};
use crate::world::archive_all;

/// What verify exits with where it finds an error.
const DAMAGE: i32 = 28;

/// A stanza with a chain, WAL on two timelines, and the cluster that writes the second.
struct Grown {
    rig: Rig,
    full: String,
    diff: String,
    incr: String,
    _later: Cluster,
}

impl Grown {
    fn new(rig: Rig) -> Self {
        rig.pgbr.set("global", "repo1-pack-size", "1MiB");
        rig.pgbr.set("global", "repo1-retention-full", "9");
        rig.cluster.sql(
            "postgres",
            "create table big as select x, md5(x::text) || md5((-x)::text) t from generate_series(1, 30000) x;
             create table kept as select x, md5((7 * x)::text) t from generate_series(1, 30000) x",
        );
        let full = backup(&rig, "full");
        rig.archived_segment();
        rig.archived_segment();
        rig.cluster.sql("postgres", "update big set t = md5(t) where x % 1000 = 0");
        let diff = backup(&rig, "diff");
        rig.cluster.sql("postgres", "vacuum full big");
        let incr = backup(&rig, "incr");
        rig.archived_segment();
        rig.archived_segment();
        rig.cluster.stop(StopMode::Fast);
        let later = promoted(&rig);
        archive_all(&later);
        archive_all(&later);
        Self { rig, full, diff, incr, _later: later }
    }

    fn info(&self, label: &str) -> Value {
        let info = self.rig.info();
        let backups = info.pointer("/0/backup").and_then(Value::as_array).expect("there are backups");
        backups.iter().find(|b| b["label"] == label).expect("it is listed").clone()
    }

    /// First and last segment of a backup.
    fn wal(&self, label: &str) -> (String, String) {
        let info = self.info(label);
        let text = |name: &str| info["archive"][name].as_str().expect("a segment").to_owned();
        (text("start"), text("stop"))
    }
}

fn backup(rig: &Rig, kind: &str) -> String {
    rig.pgbr.ok(["backup", &format!("--type={kind}")]);
    rig.labels().pop().expect("the new backup is listed")
}

/// A cluster that was restored from the newest backup and promoted, and archives its new timeline into the same stanza.
fn promoted(rig: &Rig) -> Cluster {
    let mut next = Cluster::builder(MAJOR).conf("archive_mode", "on").empty();
    next.set_override("archive_command", &rig.pgbr.archive_command());
    rig.pgbr.ok(restore_into(&next)
        .iter()
        .map(String::as_str)
        .chain(["--target-action=promote", "--type=immediate"]));
    rig.pgbr.set_cluster(1, &next);
    next.start();
    next.wait_promoted();
    next
}

/// What verify says, as JSON, and how it ended.
fn verify(rig: &Rig, options: &[&str]) -> (Value, Finished) {
    let finished = rig.pgbr.run(
        ["verify", "--output=json", "--log-level-console=off", "--log-level-stderr=warn"]
            .iter()
            .chain(options),
    );
    assert!(!said(&finished).contains("panicked"), "{finished:#?}");
    let json: Value = serde_json::from_str(&finished.stdout).unwrap_or_else(|e| panic!("{e}: {finished:#?}"));
    let first = json[0].clone();
    assert_eq!(finished.code, Some(if first["clean"] == true { 0 } else { DAMAGE }), "{finished:#?}");
    (first, finished)
}

/// Findings of a level, each as its kind and its object.
fn found(report: &Value, level: &str) -> Vec<(String, String)> {
    let findings = report["findings"].as_array().expect("a list of findings");
    let of = findings.iter().filter(|finding| finding["level"] == level);
    let text = |finding: &Value, name: &str| finding[name].as_str().expect("a text").to_owned();
    of.map(|finding| (text(finding, "kind"), text(finding, "object"))).collect()
}

/// The backups that a report calls invalid.
fn invalid(report: &Value) -> BTreeSet<String> {
    let backups = report["backups"].as_array().expect("a list of backups");
    let of = backups.iter().filter(|backup| backup["status"] != "valid");
    of.map(|backup| backup["label"].as_str().expect("a label").to_owned()).collect()
}

#[track_caller]
fn assert_clean(rig: &Rig, options: &[&str]) -> Value {
    let (report, finished) = verify(rig, options);
    let findings = [found(&report, "error"), found(&report, "warning")].concat();
    assert!(report["clean"] == true && findings.is_empty(), "{findings:?}: {finished:#?}");
    assert!(invalid(&report).is_empty(), "{report:#}");
    report
}

#[test]
fn a_sound_repository_is_clean_plain() {
    sound(&Grown::new(Rig::plain()));
}

#[test]
fn a_sound_repository_is_clean_sealed() {
    sound(&Grown::new(Rig::sealed()));
}

fn sound(grown: &Grown) {
    let report = assert_clean(&grown.rig, &[]);
    let labels: Vec<_> = report["backups"].as_array().expect("backups").iter().map(|b| &b["label"]).collect();
    assert_eq!(labels, [&grown.full, &grown.diff, &grown.incr]);
    assert_eq!(report["unneeded"].as_array().map(Vec::len), Some(0), "{report:#}");
    for backup in report["backups"].as_array().expect("backups") {
        let files = &backup["files"];
        assert!(files["checked"].as_u64() > Some(900) && files["checked"] == files["valid"], "{backup:#}");
        let ways: Vec<_> =
            backup["recovery"].as_array().expect("ways").iter().map(|w| &w["timeline"]).collect();
        assert_eq!(ways, [1, 2], "{backup:#}");
    }
    let stored = grown.rig.names("archive/15-1").len() as u64;
    assert_eq!(report["archives"][0]["files"]["valid"], stored, "{report:#}");
    assert_eq!(report["counts"]["wal"], stored);
    assert_eq!(report["counts"]["packs"], grown.rig.packs() as u64);
    let only = assert_clean(&grown.rig, &[&format!("--set={}", grown.diff)]);
    let labels: Vec<_> = only["backups"].as_array().expect("backups").iter().map(|b| &b["label"]).collect();
    assert_eq!(labels, [&grown.full, &grown.diff]);
    assert_clean(&grown.rig, &["--quick"]);
    let text = grown.rig.pgbr.ok(["verify", "--output=text", "--verbose", "--log-level-console=off"]);
    assert!(text.starts_with(&format!("stanza: {STANZA}\nstatus: ok\n  archiveId: 15-1, total WAL checked: {stored}, total valid WAL: {stored}\n    missing: 0, checksum invalid: 0, size invalid: 0, other: 0\n")), "{text}");
    assert!(
        text.contains(&format!("\n  backup: {}, status: valid, total files checked: ", grown.full)),
        "{text}"
    );
    assert_eq!(grown.rig.pgbr.ok(["verify", "--log-level-console=off"]), "");
    assert_eq!(
        grown.rig.pgbr.ok(["verify", "--output=text", "--log-level-console=off"]),
        format!("stanza: {STANZA}\nstatus: ok\n")
    );
    grown.rig.pgbr.fails(75, ["verify", "--set=20200101-000000F"]);
    grown.rig.pgbr.fails(32, ["verify", "--set=nonsense"]);
    assert!(grown.rig.names("pin").is_empty(), "the pin was given back");
}

/// Places in an object of so many bytes at which a byte is changed: its beginning, its end, and some in between that depend on its length
/// alone.
fn places(len: usize) -> BTreeSet<usize> {
    let some = [0, 5, 45, 75, 90, len / 3, len / 2, len - len / 7, len.saturating_sub(40), len - 1];
    some.into_iter().filter(|at| *at < len).collect()
}

/// What became of changed bytes.
#[derive(Default)]
struct Tally {
    tried: usize,
    errors: usize,
    warnings: usize,
    /// Restores of backups that were hurt, and of backups that were not.
    refused: usize,
    right: usize,
}

#[test]
fn one_changed_byte_is_found_plain() {
    one_changed_byte(&Grown::new(Rig::plain()));
}

#[test]
fn one_changed_byte_is_found_sealed() {
    one_changed_byte(&Grown::new(Rig::sealed()));
}

/// One byte of each object after the other is changed.
fn one_changed_byte(grown: &Grown) {
    let objects = grown.rig.objects();
    let mut tally = Tally::default();
    let right = grown.tree(&grown.incr).expect("it can be restored");
    let mut keys = objects.list("pgbr");
    keys.retain(|key| !key.contains("/lease/") && !key.contains("/verify/"));
    let kinds: BTreeSet<_> = keys.iter().map(|key| kind_of(key)).collect();
    assert_eq!(kinds.len(), 9, "{kinds:?}");
    let mut segments = 0;
    for key in &keys {
        let content = objects.get(key);
        if kind_of(key) == "segment" {
            segments += 1;
        }
        for (turn, at) in places(content.len()).into_iter().enumerate() {
            // Many segments are alike: of most of them one place has to do.
            if kind_of(key) == "segment" && segments > 2 && turn != segments % 10 {
                continue;
            }
            let mut changed = content.clone();
            changed[at] ^= 0x10;
            objects.put(key, &changed);
            grown.found_as_it_is(key, at, &right, &mut tally);
        }
        objects.put(key, &content);
    }
    let Tally { tried, errors, warnings, refused, right } = tally;
    println!(
        "bytes changed: {tried}, found as errors: {errors}, as warnings: {warnings}; of restores {refused} were refused and {right} gave the right bytes"
    );
    assert_eq!(tried, errors + warnings);
    assert!(refused > 20 && right > 5);
    assert_clean(&grown.rig, &[]);
}

fn kind_of(key: &str) -> &'static str {
    let name = key.rsplit('/').next().unwrap_or_default();
    match name {
        "repo.json" => "repo",
        "repo.json.copy" => "copy of repo",
        "stanza.json" => "stanza",
        "stanza.json.copy" => "copy of stanza",
        "manifest" => "manifest",
        _ if key.contains("/pack/") && name.contains("-i") => "index pack",
        _ if key.contains("/pack/") => "data pack",
        _ if name.ends_with(".history") => "history",
        _ if key.contains("/archive/") => "segment",
        other => panic!("an object of an unknown kind: {other}"),
    }
}

impl Grown {
    /// What a restore of a backup gives; nothing where it is refused.
    fn tree(&self, label: &str) -> Option<crate::rig::Snapshot> {
        let target = self.rig.target();
        let set = format!("--set={label}");
        let words = restore_into(&target);
        let options = [set.as_str(), "--type=immediate"];
        let finished = self.rig.pgbr.run(words.iter().map(String::as_str).chain(options));
        assert!(!said(&finished).contains("panicked"), "{finished:#?}");
        let mut tree = snapshot(target.data_dir());
        // It names the directory.
        tree.remove("postgresql.auto.conf");
        finished.success().then_some(tree)
    }

    /// A changed byte of an object is found, and named, and a restore of the newest backup gives the right bytes or none.
    fn found_as_it_is(&self, key: &str, at: usize, right: &crate::rig::Snapshot, tally: &mut Tally) {
        let what = format!("{key} at {at}");
        let (report, finished) = verify(&self.rig, &[]);
        tally.tried += 1;
        let (errors, warnings) = (found(&report, "error"), found(&report, "warning"));
        let name = key.rsplit('/').next().unwrap_or_default();
        let named = |found: &[(String, String)]| found.iter().any(|(_, object)| object.ends_with(name));
        if kind_of(key).contains("repo") || kind_of(key).contains("stanza") {
            assert!(errors.is_empty() && named(&warnings), "{what}: {finished:#?}");
            tally.warnings += 1;
            return;
        }
        assert!(named(&errors), "{what}: {errors:?}");
        tally.errors += 1;
        let hurt = invalid(&report).contains(&self.incr);
        let sample = kind_of(key) == "manifest" || kind_of(key).contains("pack") || kind_of(key) == "segment";
        if !sample || (at != 45 && at % 3 != 0) {
            return;
        }
        match self.tree(&self.incr) {
            // Of the WAL only the first segment is looked at by a restore.
            None => {
                assert!(hurt, "{what}: a restore fails, and verify calls the backup valid");
                tally.refused += 1;
            }
            Some(tree) => {
                assert!(&tree == right, "{what}: a restore gives wrong bytes and says nothing");
                assert!(!hurt || kind_of(key) == "segment", "{what}: a restore gives all, and verify calls it invalid");
                tally.right += 1;
            }
        }
    }
}
