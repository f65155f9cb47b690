//! verify on a real server's repository: what is sound passes, every kind of damage is found, and what it says of backups is so.

use std::collections::BTreeSet;

use pgbr_testkit::{Cluster, Finished, StopMode};
use rustix::process::Signal;
use serde_json::Value;

use crate::rig::{Frozen, MAJOR, PASS, Rig, STANZA, restore_into, said, snapshot};
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
pub(crate) fn promoted(rig: &Rig) -> Cluster {
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
    let of = backups.iter().filter(|backup| backup["status"] != "valid" && backup["status"] != "in-progress");
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
    // Listings, manifests, a history, the copies of two records, pins.
    let quick = assert_clean(&grown.rig, &["--quick"]);
    let asked = |name: &str| quick["requests"][name].as_u64().expect("a number");
    assert!(asked("gets") <= 16 && asked("lists") <= 20 && asked("bytes-read") < 64 << 10, "{quick:#}");
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
#[expect(clippy::print_stdout, reason = "how many were found, for whoever wants to know")]
fn one_changed_byte(grown: &Grown) {
    let objects = grown.rig.objects();
    let mut tally = Tally::default();
    let right = grown.tree(&grown.incr).expect("it can be restored");
    let mut keys = objects.list("pgbr");
    keys.retain(|key| !key.contains("/lease/") && !key.contains("/verify/"));
    let kinds: BTreeSet<_> = keys.iter().map(|key| kind_of(key)).collect();
    assert_eq!(kinds.len(), 9, "{kinds:?}");
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for (turn, key) in keys.iter().enumerate() {
        let content = objects.get(key);
        let first = seen.insert(kind_of(key));
        for (place, at) in places(content.len()).into_iter().enumerate() {
            if place % every(first) != turn % every(first) {
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
    assert!(refused > 0 && right > 3);
    assert_clean(&grown.rig, &[]);
}

/// Objects of a kind are alike: more places are tried of the first than of the others, and which ones differs from object to object. All of the
/// first and three of each other one with `PGBR_TEST_DENSE`, which takes minutes.
fn every(first: bool) -> usize {
    match (std::env::var_os("PGBR_TEST_DENSE").is_some(), first) {
        (true, true) => 1,
        (true, false) | (false, true) => 3,
        (false, false) => 10,
    }
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
        if !sample || !tally.tried.is_multiple_of(3) {
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
                assert!(
                    !hurt || kind_of(key) == "segment",
                    "{what}: a restore gives all, and verify calls it invalid"
                );
                tally.right += 1;
            }
        }
    }
}

#[test]
fn a_damaged_frame_hurts_who_still_needs_it() {
    let grown = Grown::new(Rig::sealed());
    let Grown { full, diff, incr, .. } = &grown;
    let objects = grown.rig.objects();
    let of_full = grown.rig.key(&format!("backup/{full}/pack"));
    let packs: Vec<_> = objects.list(&of_full).into_iter().filter(|key| !key.contains("-i")).collect();
    let right = grown.tree(incr).expect("it can be restored");
    let (mut all, mut replaced) = (0, 0);
    'packs: for key in &packs {
        let content = objects.get(key);
        for at in (200..content.len() - 300).step_by(content.len() / 12) {
            let mut changed = content.clone();
            changed[at] ^= 0x10;
            objects.put(key, &changed);
            let (report, _) = verify(&grown.rig, &[&format!("--set={incr}")]);
            let hurt = invalid(&report);
            assert!(hurt.contains(full), "{key} at {at}: {report:#}");
            // Restores take their time: some of those that fail have to do.
            if all < 3 || !hurt.contains(incr) {
                let tree = grown.tree(incr);
                assert_eq!(hurt.contains(incr), tree.is_none(), "{key} at {at}: {report:#}");
                assert!(tree.is_none_or(|tree| tree == right), "{key} at {at}");
            }
            let backups = report["backups"].as_array().expect("backups");
            let named = |label: &str| {
                let of = backups.iter().find(|backup| backup["label"] == label).expect("it is told");
                (
                    of["files"]["checksum-invalid"].as_u64(),
                    of["damaged-files"].as_array().map_or(0, Vec::len) as u64,
                )
            };
            assert_eq!(named(full).0, Some(named(full).1), "{report:#}");
            assert!(named(full).1 > 0, "{report:#}");
            if hurt.contains(incr) {
                all += 1;
            } else {
                replaced += 1;
            }
            // What a newer layer has replaced hurts the one in between, which has it from the full.
            assert!(hurt.contains(diff) || !hurt.contains(incr), "{report:#}");
            objects.put(key, &content);
            if all >= 3 && replaced >= 2 {
                break 'packs;
            }
        }
        objects.put(key, &content);
    }
    println!("frames damaged: {all} hurt the newest backup, {replaced} did not");
    assert!(all > 0 && replaced > 0);
}

#[test]
fn what_is_missing_is_named_with_whom_it_hurts() {
    let grown = Grown::new(Rig::plain());
    let Grown { rig, full, diff, incr, .. } = &grown;
    let objects = rig.objects();
    let all = BTreeSet::from([full.clone(), diff.clone(), incr.clone()]);
    let first = |label: &str, index: bool| {
        let packs = objects.list(&rig.key(&format!("backup/{label}/pack")));
        packs.into_iter().find(|key| key.contains("-i") == index).expect("a backup has packs")
    };
    let manifest = |label: &str| rig.key(&format!("backup/{label}/manifest"));
    let half = |content: &[u8]| Some(content[..content.len() / 2].to_vec());
    type Harm<'a> = &'a dyn Fn(&[u8]) -> Option<Vec<u8>>;
    let (gone, cut): (Harm<'_>, Harm<'_>) = (&|_| None, &half);
    let after = |labels: &[&String]| labels.iter().map(|label| (*label).clone()).collect::<BTreeSet<_>>();
    for (key, harm, kind, hurt) in [
        (first(full, false), gone, "pack-missing", all.clone()),
        (first(full, false), cut, "pack-size", all.clone()),
        (first(full, true), gone, "pack-missing", all.clone()),
        (first(diff, true), cut, "pack-size", after(&[diff, incr])),
        (first(incr, false), gone, "pack-missing", after(&[incr])),
        (manifest(full), gone, "chain", all.clone()),
        (manifest(diff), cut, "manifest", after(&[diff, incr])),
    ] {
        let content = objects.get(&key);
        match harm(&content) {
            Some(changed) => objects.put(&key, &changed),
            None => objects.remove(&key),
        }
        for options in [&[][..], &["--quick"]] {
            let what = format!("{key} {kind} {options:?}");
            let (report, _) = verify(rig, options);
            let errors = found(&report, "error");
            assert!(errors.iter().any(|(found, _)| found == kind), "{what}: {errors:?}");
            assert_eq!(invalid(&report), hurt, "{what}: {report:#}");
            if !options.is_empty() {
                let counts = &report["counts"];
                assert_eq!(
                    (&counts["packs"], &counts["wal"], &counts["lists"]),
                    (&0.into(), &1.into(), &0.into()),
                    "{what}"
                );
            }
        }
        for label in [full, diff, incr] {
            assert_eq!(grown.tree(label).is_none(), hurt.contains(label), "{key}: {label}");
        }
        objects.put(&key, &content);
    }
    assert_clean(rig, &[]);
    assert_clean(rig, &["--quick"]);
}

/// The backups in one list of all findings about an object.
fn about(report: &Value, name: &str, list: &str) -> BTreeSet<String> {
    let findings = report["findings"].as_array().expect("findings").iter();
    let of = findings.filter(|finding| finding["object"] == name);
    let labels = of.flat_map(|finding| finding[list].as_array().expect("labels"));
    labels.map(|label| label.as_str().expect("a label").to_owned()).collect()
}

/// A segment so many after another one.
fn behind(segment: &str, count: u32) -> String {
    let number = u32::from_str_radix(&segment[16..], 16).expect("hex digits") + count;
    format!("{}{number:08X}", &segment[..16])
}

#[test]
fn lost_wal_is_named_with_whom_it_limits() {
    let grown = Grown::new(Rig::plain());
    let Grown { rig, full, diff, incr, .. } = &grown;
    let objects = rig.objects();
    let (first, last) = grown.wal(full);
    let of_diff = grown.wal(diff);
    let of_incr = grown.wal(incr);
    let history = rig.key("archive/15-1/00000002.history");
    let timeline_2 = rig.names("archive/15-1/0000000200000000").into_iter().next().expect("it was archived");
    let second = rig.key(&format!("archive/15-1/0000000200000000/{timeline_2}"));
    let labels = |labels: &[&String]| labels.iter().map(|label| (*label).clone()).collect::<BTreeSet<_>>();
    let (none, all) = (labels(&[]), labels(&[full, diff, incr]));
    for (turn, (lost, kind, hurt, limited)) in [
        (vec![rig.wal_key(&first)], "wal-needed", labels(&[full]), none.clone()),
        (vec![rig.wal_key(&behind(&last, 1))], "wal-gap", none.clone(), labels(&[full])),
        (vec![rig.wal_key(&of_diff.0)], "wal-needed", labels(&[diff]), labels(&[full])),
        (vec![rig.wal_key(&behind(&of_incr.1, 1))], "wal-gap", none.clone(), all.clone()),
        (vec![history.clone()], "history-missing", none.clone(), all.clone()),
        (vec![second], "wal-gap", none.clone(), all),
    ]
    .into_iter()
    .enumerate()
    {
        let kept: Vec<_> = lost.iter().map(|key| (key, objects.get(key))).collect();
        lost.iter().for_each(|key| objects.remove(key));
        // What seems to be missing is looked for again for some seconds: one way a case has to do.
        let options: &[&str] = if turn % 2 == 0 { &[] } else { &["--quick"] };
        let what = format!("{lost:?} {options:?}");
        let (report, finished) = verify(rig, options);
        let name = lost[0].rsplit('/').next().expect("a key has a name");
        assert!(
            found(&report, "error").contains(&(kind.to_owned(), name.to_owned())),
            "{what}: {finished:#?}"
        );
        let told = (about(&report, name, "backups"), about(&report, name, "limits"));
        assert_eq!(told, (hurt.clone(), limited), "{what}: {report:#}");
        assert_eq!(invalid(&report), hurt, "{what}");
        assert!(finished.stderr.contains(name), "{what}: {finished:#?}");
        kept.into_iter().for_each(|(key, content)| objects.put(key, &content));
    }
    // What expire would leave of it, were the diff the first backup that WAL is kept for.
    let mut between = Vec::new();
    let mut next = behind(&last, 1);
    while next < of_diff.0 {
        between.push(rig.wal_key(&next));
        next = behind(&next, 1);
    }
    assert!(between.len() >= 2, "{between:?}");
    between.iter().for_each(|key| objects.remove(key));
    let report = assert_clean(rig, &[]);
    assert_eq!(found(&report, "info").len(), 1, "{report:#}");
    assert_eq!(report["backups"][0]["recovery"][0]["end"], "expired", "{report:#}");
}

#[test]
fn what_retention_leaves_is_sound() {
    let rig = Rig::plain();
    rig.pgbr.set("global", "repo1-retention-full", "9");
    let labels: Vec<_> = (0..3)
        .map(|_| {
            let label = backup(&rig, "full");
            rig.archived_segment();
            rig.archived_segment();
            label
        })
        .collect();
    rig.pgbr.ok(["expire", "--repo1-retention-archive=1"]);
    let report = assert_clean(&rig, &[]);
    let ends: Vec<_> =
        report["backups"].as_array().expect("backups").iter().map(|b| &b["recovery"][0]["end"]).collect();
    assert_eq!(ends, ["expired", "expired", "archive-ends"], "{report:#}");
    rig.pgbr.ok(["expire", &format!("--set={}", labels[1])]);
    assert_clean(&rig, &[]);
    let ledgers: BTreeSet<_> = rig.names("verify").into_iter().filter(|name| name.ends_with('F')).collect();
    assert_eq!(
        ledgers,
        [&labels[0], &labels[2]].into_iter().cloned().collect(),
        "the ledger of a backup that is gone went, too"
    );
}

#[test]
fn what_nothing_needs_is_told() {
    let rig = Rig::plain();
    rig.archived_segment();
    let empty = assert_clean(&rig, &[]);
    assert_eq!(empty["backups"].as_array().map(Vec::len), Some(0), "{empty:#}");
    let label = rig.backup();
    let objects = rig.objects();
    for key in [
        format!("backup/{label}/pack/0123456789abcdef-00000000"),
        "archive/15-1/notes.txt".to_owned(),
        "other/x".to_owned(),
    ] {
        objects.put(&rig.key(&key), b"12345");
    }
    let report = assert_clean(&rig, &[]);
    let unneeded: Vec<_> = report["unneeded"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|u| (u["object"].as_str().expect("a key"), u["bytes"].as_u64()))
        .collect();
    for word in ["0123456789abcdef", "notes.txt", "other/x"] {
        assert!(
            unneeded.iter().any(|(object, bytes)| object.contains(word) && *bytes == Some(5)),
            "{word}: {unneeded:?}"
        );
    }
    assert_eq!(unneeded.len(), 3);
    let text = rig.pgbr.ok(["verify", "--output=text", "--verbose", "--log-level-console=info"]);
    assert!(text.contains("not needed: ") && text.contains("3 object(s) of 15B are not needed"), "{text}");
}

#[test]
fn commands_at_work_are_no_damage() {
    let rig = Rig::plain();
    rig.backup();
    rig.slow_down();
    let running = rig.frozen_backup();
    let report = assert_clean(&rig, &[]);
    let states: Vec<_> =
        report["backups"].as_array().expect("backups").iter().map(|b| &b["status"]).collect();
    assert_eq!((states.len(), states[1].as_str()), (2, Some("in-progress")), "{report:#}");
    assert_eq!(report["unneeded"].as_array().map(Vec::len), Some(0), "{report:#}");
    assert_clean(&rig, &["--quick"]);
    assert!(running.thaw().success());
    // A verify that is at work keeps its backups.
    let labels = rig.labels();
    let pinned = || !rig.names("pin").is_empty();
    let verifying = Frozen::at(rig.pgbr.command(["verify"]), pinned);
    let kept = said(&rig.pgbr.run(["expire", &format!("--set={}", labels[0])]));
    assert_eq!(rig.labels(), labels, "{kept}");
    let ended = verifying.thaw();
    assert!(ended.success(), "{ended:#?}");
}

#[test]
fn a_budget_covers_everything_in_the_end() {
    let grown = Grown::new(Rig::sealed());
    let rig = &grown.rig;
    let size: u64 = rig.objects().sizes("pgbr").values().sum();
    let half = format!("--budget={}", size.div_ceil(2) + (1 << 20));
    let half = format!("{half}B");
    let read = |report: &Value, name: &str| report["coverage"][name].as_u64().expect("a number");
    let (first, _) = verify(rig, &[&half]);
    let all = read(&first, "read") + read(&first, "left");
    assert!(read(&first, "left") > 0 && read(&first, "never") == read(&first, "left"), "{first:#}");
    let (second, _) = verify(rig, &[&half]);
    // All that the first has left, and then what that has read, from the beginning.
    assert_eq!((read(&second, "never"), second["clean"].as_bool()), (0, Some(true)), "{second:#}");
    assert!(
        read(&second, "read") >= read(&first, "left") && read(&second, "read") + read(&second, "left") == all,
        "{second:#}"
    );
    // What is damaged is read again in each run, whatever is left of the budget.
    let segment = rig.names("archive/15-1/0000000100000000").pop().expect("there is WAL");
    let key = rig.wal_key(&segment);
    let content = rig.objects().get(&key);
    let mut changed = content.clone();
    changed[content.len() / 2] ^= 1;
    rig.objects().put(&key, &changed);
    let (found_it, _) = verify(rig, &[]);
    assert_eq!(found_it["clean"], false);
    for _ in 0..2 {
        let (again, _) = verify(rig, &["--budget=1B"]);
        assert_eq!((again["clean"].as_bool(), read(&again, "read")), (Some(false), 0), "{again:#}");
        assert_eq!(again["counts"]["packs"], 0, "{again:#}");
    }
    rig.objects().put(&key, &content);
    let (mended, _) = verify(rig, &["--budget=1h"]);
    assert_eq!((read(&mended, "left"), mended["clean"].as_bool()), (0, Some(true)), "{mended:#}");
    for (options, code) in
        [(vec!["--budget=12"], 32), (vec!["--budget=soon"], 32), (vec!["--budget=1h", "--quick"], 31)]
    {
        rig.pgbr.fails(code, ["verify"].iter().chain(&options));
    }
}

#[test]
fn one_repository_of_several_is_told_apart() {
    let rig = Rig::with(|pgbr| {
        let second = pgbr.scratch().dir("second");
        pgbr.set("global", "repo2-path", &second.display().to_string());
    });
    rig.backup();
    rig.pgbr.ok(["backup", "--type=full", "--repo=2"]);
    let key = rig.names("backup").into_iter().find(|name| name.contains("/pack/")).expect("there are packs");
    rig.objects().remove(&rig.key(&format!("backup/{key}")));
    let finished = rig
        .pgbr
        .fails(DAMAGE, ["verify", "--output=json", "--log-level-console=off", "--log-level-stderr=error"]);
    let json: Value = serde_json::from_str(&finished.stdout).expect("it is JSON");
    let clean: Vec<_> = json
        .as_array()
        .expect("a list")
        .iter()
        .map(|r| (r["repo-key"].as_u64(), r["clean"].as_bool()))
        .collect();
    assert_eq!(clean, [(Some(1), Some(false)), (Some(2), Some(true))]);
    assert!(finished.stderr.contains("repo1: pgbr/demo/backup/"), "{finished:#?}");
    rig.pgbr.ok(["verify", "--repo=2"]);
}

#[test]
fn what_is_resumed_or_copied_is_sound() {
    let rig = Rig::with(|pgbr| {
        let second = pgbr.scratch().dir("second");
        pgbr.set("global", "repo2-path", &second.display().to_string());
        pgbr.encrypt(2, "aes-256-gcm", PASS);
    });
    rig.slow_down();
    let running = rig.frozen_backup_with(&["--repo=1"]);
    running.send(Signal::KILL);
    drop(running);
    let left = verify(&rig, &["--repo=1"]).0;
    assert!(
        left["clean"] == true && left["unneeded"].as_array().is_some_and(|list| !list.is_empty()),
        "{left:#}"
    );
    let resumed = rig.pgbr.ok(["backup", "--type=full", "--repo=1"]);
    assert!(resumed.contains("resume backup"), "{resumed}");
    rig.pgbr.ok(["backup", "--type=incr", "--repo=1"]);
    rig.pgbr.ok(["repo-copy", "--repo=1", "--to-repo=2"]);
    for options in [
        ["--repo=1", "--quick"],
        ["--repo=1", "--verbose"],
        ["--repo=2", "--quick"],
        ["--repo=2", "--verbose"],
    ] {
        let report = assert_clean(&rig, &options);
        assert_eq!(report["backups"].as_array().map(Vec::len), Some(2), "{report:#}");
    }
    // A pack of what was taken up is missed by a look at names and sizes, too.
    let label = &rig.labels()[0];
    let packs = rig.names(&format!("backup/{label}/pack"));
    let first = packs.iter().find(|name| !name.contains("-i")).expect("there are data packs");
    let key = rig.key(&format!("backup/{label}/pack/{first}"));
    let content = rig.objects().get(&key);
    rig.objects().put(&key, &content[..content.len() - 1]);
    let (report, _) = verify(&rig, &["--repo=1", "--quick"]);
    assert_eq!(found(&report, "error")[0].0, "pack-size", "{report:#}");
}
