//! `verify` of what pgBackRest wrote: what is sound passes, and every kind of damage is found.

use std::fs;
use std::path::{Path, PathBuf};

use pgbr_testkit::{Cluster, Finished, PgBackRest, StopMode};
use serde_json::Value;

use crate::info_theirs::try_ours;
use crate::rig::MAJOR;

/// What verify exits with where it finds an error.
const DAMAGE: i32 = 28;

/// A full and an incr in two repositories, made while the server ran.
struct Made {
    theirs: PgBackRest,
    labels: [String; 2],
}

impl Made {
    fn new() -> Self {
        let cluster = Cluster::builder(MAJOR).conf("archive_mode", "on").start();
        let sealed = vec![
            ("cipher-type", "aes-256-cbc".to_owned()),
            ("cipher-pass", "a passphrase".to_owned()),
            ("bundle", "y".to_owned()),
        ];
        let theirs = PgBackRest::new("main", &cluster, &[vec![], sealed], &[]);
        let command = theirs.archive_command("");
        cluster.sql("postgres", &format!("alter system set archive_command = '{command}'"));
        cluster.sql("postgres", "select pg_reload_conf()");
        theirs.ok(["stanza-create"]);
        cluster.sql("postgres", "create table t as select generate_series(1, 30000) as n");
        for number in ["1", "2"] {
            theirs.ok(["backup", "--type=full", &format!("--repo={number}")]);
        }
        cluster.sql("postgres", "create table u as select generate_series(1, 1000) as n");
        for number in ["1", "2"] {
            theirs.ok(["backup", "--type=incr", &format!("--repo={number}")]);
        }
        let last = cluster.switch_wal();
        cluster.wait_archived(&last);
        cluster.stop(StopMode::Fast);
        let told: Value =
            serde_json::from_str(&theirs.ok(["info", "--output=json", "--repo=1"]).stdout).expect("JSON");
        let label = |at: usize| told[0]["backup"][at]["label"].as_str().expect("a label").to_owned();
        let labels = [label(0), label(1)];
        Self { theirs, labels }
    }

    fn verify(&self, number: u32, args: &[&str]) -> Finished {
        let repo = format!("--repo={number}");
        try_ours(&self.theirs, &[&["verify", &repo], args].concat())
    }

    fn json(&self, number: u32, args: &[&str]) -> (i32, Value) {
        let finished = self.verify(number, &[&["--output=json"], args].concat());
        let told =
            serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished:#?}"));
        (finished.code.expect("it ended by itself"), told)
    }

    /// Changes a byte in the middle of a file, does something and changes it back.
    fn with_damage<T>(&self, path: &Path, act: impl FnOnce() -> T) -> T {
        let sound = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut damaged = sound.clone();
        damaged[sound.len() / 2] ^= 0x10;
        fs::write(path, damaged).expect("it can be written");
        let result = act();
        fs::write(path, sound).expect("it can be written");
        result
    }

    fn without<T>(&self, path: &Path, act: impl FnOnce() -> T) -> T {
        let aside = path.with_extension("aside");
        fs::rename(path, &aside).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let result = act();
        fs::rename(aside, path).expect("it can be moved back");
        result
    }

    /// The objects of WAL segments, in order.
    fn wal(&self, number: usize) -> Vec<PathBuf> {
        let root = self.theirs.repository(number).join(format!("archive/main/{MAJOR}-1/0000000100000000"));
        let listed = fs::read_dir(root).expect("there is WAL");
        let mut found: Vec<_> = listed.map(|entry| entry.expect("an entry").path()).collect();
        found.retain(|path| !path.to_string_lossy().contains(".backup"));
        found.sort();
        found
    }
}

fn statuses(told: &Value) -> Vec<(String, String, u64)> {
    let backups = told[0]["theirs"]["backups"].as_array().unwrap_or_else(|| panic!("no list: {told:#}"));
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let valid = |backup: &Value| backup["files"]["valid"].as_u64().unwrap_or(0);
    backups.iter().map(|b| (text(&b["label"]), text(&b["status"]), valid(b))).collect()
}

fn statuses_alone(told: &Value) -> Vec<String> {
    statuses(told).into_iter().map(|(_, status, _)| status).collect()
}

fn findings(told: &Value) -> Vec<(&str, &str)> {
    let list = told[0]["findings"].as_array().expect("a list");
    list.iter()
        .map(|f| (f["kind"].as_str().expect("a kind"), f["object"].as_str().expect("an object")))
        .collect()
}

#[test]
fn what_is_sound_passes_and_all_damage_is_found() {
    let made = Made::new();
    let [full, incr] = &made.labels;
    for number in [1, 2] {
        let (code, told) = made.json(number, &[]);
        assert_eq!((code, findings(&told).len()), (0, 0), "{told:#}");
        let found = statuses(&told);
        assert!(found.iter().all(|(_, status, valid)| status == "valid" && *valid > 900), "{found:?}");
        // Line by line as pgBackRest's own, as far as that knows them.
        let text = made.verify(number, &["--output=text", "--verbose"]).stdout;
        let theirs =
            made.theirs.ok(["verify", "--output=text", "--verbose", &format!("--repo={number}")]).stdout;
        assert!(theirs.contains("backup:"), "{theirs}");
        for line in theirs.lines() {
            assert!(text.lines().any(|found| found == line), "'{line}' is missing: {text}");
        }
        let (code, told) = made.json(number, &["--quick"]);
        assert_eq!((code, findings(&told).len()), (0, 0), "{told:#}");
    }

    // A file that both backups have, in an object of its own.
    let repository = made.theirs.repository(1);
    let file = repository.join(format!("backup/main/{full}/pg_data/global/1262.gz"));
    let (code, told) = made.with_damage(&file, || made.json(1, &[]));
    assert_eq!(
        (code, statuses_alone(&told)),
        (DAMAGE, vec!["invalid".to_owned(), "invalid".to_owned()]),
        "{told:#}"
    );
    assert_eq!(
        findings(&told),
        [("their-file", format!("backup/main/{full}/pg_data/global/1262.gz").as_str())]
    );
    assert_eq!(told[0]["theirs"]["backups"][1]["damaged-files"][0], "pg_data/global/1262");
    assert_eq!(told[0]["theirs"]["backups"][1]["files"]["checksum-invalid"], 1);
    assert_eq!(told[0]["findings"][0]["backups"], serde_json::json!([full, incr]));
    let (code, told) = made.with_damage(&file, || made.json(1, &["--quick"]));
    assert_eq!(code, 0, "that is not seen by sizes: {told:#}");
    for how in [&[][..], &["--quick"]] {
        let (code, told) = made.without(&file, || made.json(1, how));
        assert_eq!(
            (code, &told[0]["theirs"]["backups"][0]["files"]["missing"]),
            (DAMAGE, &Value::from(1)),
            "{told:#}"
        );
    }
    // One of the two alone, and one that was never made.
    let set = format!("--set={incr}");
    let (code, told) = made.with_damage(&file, || made.json(1, &[&set]));
    assert_eq!((code, statuses(&told).len()), (DAMAGE, 1), "{told:#}");
    assert_eq!(made.verify(1, &["--set=20200101-000000F"]).code, Some(75));

    // In a bundle, where the file is named all the same.
    let sealed = made.json(2, &[]).1;
    let first = statuses(&sealed)[0].0.clone();
    let bundle = made.theirs.repository(2).join(format!("backup/main/{first}/bundle/1"));
    let (code, told) = made.with_damage(&bundle, || made.json(2, &[]));
    assert_eq!((code, findings(&told).len()), (DAMAGE, 1), "{told:#}");
    let name = told[0]["theirs"]["backups"][0]["damaged-files"][0].as_str().expect("a path").to_owned();
    assert!(name.starts_with("pg_data/"), "{name}");

    // WAL that a backup needs, and WAL behind all of them.
    let wal = made.wal(1);
    let (code, told) = made.without(&wal[1], || made.json(1, &[]));
    assert_eq!(code, DAMAGE);
    assert_eq!(findings(&told)[0].0, "their-wal-needed", "{told:#}");
    let (code, told) = made.with_damage(wal.last().expect("some"), || made.json(1, &[]));
    assert_eq!((code, findings(&told)[0].0), (DAMAGE, "their-wal"), "{told:#}");
    assert_eq!(statuses_alone(&told), ["valid", "valid"]);
    assert_eq!(told[0]["theirs"]["archives"][0]["files"]["checksum-invalid"], 1);

    // A list that has a copy is a warning; a manifest without one is an error.
    let list = repository.join("backup/main/backup.info");
    let (code, told) = made.with_damage(&list, || made.json(1, &[]));
    assert_eq!((code, findings(&told)[0].0), (0, "their-copy"), "{told:#}");
    let manifest = repository.join(format!("backup/main/{incr}/backup.manifest"));
    let copy = repository.join(format!("backup/main/{incr}/backup.manifest.copy"));
    let (code, told) = made.with_damage(&manifest, || made.with_damage(&copy, || made.json(1, &[])));
    assert_eq!((code, findings(&told)[0].0), (DAMAGE, "their-manifest"), "{told:#}");
    assert_eq!(statuses_alone(&told), ["valid", "invalid"]);

    // A passphrase that is wrong is told in one line.
    let refused = made.verify(2, &["--repo2-cipher-pass=other"]);
    assert_eq!(refused.code, Some(31), "secrets are not taken from the command line");
    let config = made.theirs.scratch().path().join("pgbackrest.conf");
    let text = fs::read_to_string(&config).expect("it is there");
    fs::write(&config, text.replace("cipher-pass=a passphrase", "cipher-pass=other"))
        .expect("it can be written");
    let refused = made.verify(2, &[]);
    assert_eq!(refused.code, Some(95), "{refused:#?}");
    assert!(refused.stdout.contains("the passphrase does not open"), "{refused:#?}");
    assert!(refused.stdout.is_ascii(), "{refused:#?}");
}
