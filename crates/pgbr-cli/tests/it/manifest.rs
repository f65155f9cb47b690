//! `manifest`: what backups hold, in the form of pgBackRest's own command.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use pgbr_testkit::{Cluster, PgBackRest, StopMode, program_name};
use serde_json::Value;

use crate::info_theirs::ours;
use crate::rig::{MAJOR, Rig, said};

/// The newest backup of the repository with blocks.
const NEWEST: &str = "20261126-165450F_20261126-165456I";

/// What is asked for, and the file that has what pgBackRest 2.59.1 said to it (with `TZ=UTC`).
const SAID: [(&[&str], &str); 6] = [
    (&[], "all.txt"),
    (&["--output=json"], "all.json"),
    (&["--filter=pg_data/base/5/104"], "one.txt"),
    (&["--filter=pg_data/base/5/104", "--output=json"], "one.json"),
    (&["--reference=latest", "--output=json"], "latest.json"),
    (&["--reference=20261126-165450F", "--output=json"], "full.json"),
];

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn names(manifest: &Value) -> BTreeSet<String> {
    let files = manifest["fileList"].as_array().unwrap_or_else(|| panic!("no list: {manifest:#}"));
    files.iter().map(|file| file["name"].as_str().expect("a name").to_owned()).collect()
}

#[test]
fn blocks_are_told_as_pgbackrest_tells_them() {
    let rig = Rig::plain();
    let place = rig.pgbr.scratch().dir("theirs");
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let vectors = here.join("../pgbr-pgbackrest/tests/vectors/2.59-gz");
    let copied = Command::new("cp").arg("-R").arg(vectors.join("backup")).arg(&place).status();
    assert!(copied.expect("cp runs").success());
    let path = format!("--repo1-path={}", place.display());
    let asked = |args: &[&str]| {
        let args = [&["manifest", "--stanza=main", path.as_str(), "--set", NEWEST], args].concat();
        pgbr_testkit::run(rig.pgbr.bare_command(args).env("TZ", "UTC"), "", crate::rig::LIMIT)
    };
    for (args, name) in SAID {
        let expected =
            fs::read_to_string(here.join("tests/vectors/manifest").join(name)).expect("it is there");
        let finished = asked(args);
        assert!(finished.success(), "{args:?}: {finished:#?}");
        assert_eq!(finished.stdout, expected, "{args:?}");
    }
    // Each list is one that has files, and another than the others.
    let lists = ["all.json", "latest.json", "full.json"].map(|name| {
        names(&json(
            &fs::read_to_string(here.join("tests/vectors/manifest").join(name)).expect("it is there"),
        ))
    });
    assert!(lists[0].is_superset(&lists[1]) && lists[0].is_superset(&lists[2]));
    assert!(lists[1].is_disjoint(&lists[2]) && lists.iter().all(|list| !list.is_empty()));
    let finished = asked(&["--filter=pg_data/nothing"]);
    assert_eq!(finished.code, Some(55), "{finished:#?}");
    assert!(said(&finished).contains("'pg_data/nothing'"), "{finished:#?}");
}

/// What pgBackRest told before it told which backup a file is in.
fn without_references(mut manifest: Value) -> Value {
    for file in manifest["fileList"].as_array_mut().expect("a list") {
        file.as_object_mut().expect("a file").remove("reference");
    }
    manifest
}

#[test]
fn backups_of_pgbackrest_are_told_as_it_tells_them() {
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
    for kind in ["full", "incr"] {
        for number in ["1", "2"] {
            theirs.ok(["backup", &format!("--type={kind}"), &format!("--repo={number}")]);
        }
        cluster.sql("postgres", &format!("create table t_{kind} as select generate_series(1, 30000) as n"));
    }
    cluster.stop(StopMode::Fast);
    for number in ["1", "2"] {
        let repo = format!("--repo={number}");
        let args = ["manifest", repo.as_str(), "--output=json"];
        let found = json(&ours(&theirs, &args));
        let labels = found["reference"].as_array().expect("a list").clone();
        assert_eq!((labels.len(), &found["label"]), (2, &labels[1]), "the newest is an incr");
        let of_full = |file: &&Value| file["reference"] == labels[0];
        assert!(found["fileList"].as_array().expect("a list").iter().filter(of_full).count() > 500);
        if PgBackRest::version() < (2, 47) {
            let wanted = without_references(json(&theirs.ok(args).stdout));
            assert_eq!(without_references(found), wanted);
        } else {
            assert_eq!(found, json(&theirs.ok(args).stdout));
        }
        let wanted = theirs.ok(&args[..2]).stdout;
        let found = ours(&theirs, &args[..2]);
        let told = |text: &str| -> Vec<String> {
            let lines = text.lines().filter(|line| !line.starts_with("      reference: "));
            // Sizes are rounded since 2.46.
            lines.filter(|line| !line.starts_with("      size: ")).map(str::to_owned).collect()
        };
        assert_eq!(told(&found), told(&wanted));
    }
}

#[test]
fn ours_are_told_in_the_same_form() {
    let rig = Rig::sealed();
    rig.cluster.sql(
        "postgres",
        "create table t as select n, repeat('x', 100) as x from generate_series(1, 20000) n",
    );
    // So that no page of it changes by being looked at.
    rig.cluster.sql("postgres", "vacuum freeze t");
    let full = rig.backup();
    rig.cluster.sql("postgres", "update t set x = 'y' where n = 10000");
    rig.pgbr.ok(["backup", "--type=incr"]);
    let incr = rig.labels().pop().expect("an incr");
    let manifest = |args: &[&str]| json(&rig.pgbr.ok([&["manifest", "--output=json"], args].concat()));

    let told = manifest(&[]);
    assert_eq!((&told["label"], &told["type"]), (&Value::from(incr.as_str()), &Value::from("incr")));
    assert_eq!(told["reference"], serde_json::json!([full, incr]));
    assert!(told["time"]["start"].as_i64() <= told["time"]["copy"].as_i64(), "{}", told["time"]);
    let all = names(&told);
    assert!(all.len() > 900 && all.contains("pg_data/global/pg_control"), "{}", all.len());
    let of_full = manifest(&["--set", &full]);
    assert!(of_full["fileList"].as_array().expect("a list").iter().all(|file| file["reference"].is_null()));
    let (own, old) = (names(&manifest(&["--reference=latest"])), names(&manifest(&["--reference", &full])));
    assert!(own.is_disjoint(&old) && own.len() + old.len() == all.len(), "{} {}", own.len(), old.len());
    assert!(own.contains("pg_data/global/pg_control"));
    assert!(old.contains("pg_data/PG_VERSION"), "it never changes");

    // A table of which two pages have changed.
    let path = format!("pg_data/{}", rig.cluster.sql("postgres", "select pg_relation_filepath('t')"));
    let one = manifest(&["--filter", &path]);
    let file = &one["fileList"][0];
    assert_eq!(
        (&file["name"], one["fileList"].as_array().map(Vec::len)),
        (&Value::from(path.as_str()), Some(1))
    );
    assert!(file["reference"].is_null(), "this backup has some of it: {file:#}");
    let delta = file["block"]["map"]["delta"].as_array().unwrap_or_else(|| panic!("no delta: {file:#}"));
    let blocks: Vec<u64> = delta.iter().filter_map(|of| of["block"]["total"].as_u64()).collect();
    let size = file["size"].as_u64().expect("a size");
    assert_eq!((blocks.len(), blocks.iter().sum::<u64>()), (2, size / 8192), "{delta:#?}");
    assert!((1..=3).contains(&blocks[1]) && delta[1]["reference"] == 1, "{delta:#?}");

    let text = rig.pgbr.ok(["manifest", "--filter", &path]);
    for line in [
        format!("label: {incr}"),
        format!("reference: {full}, {incr}"),
        format!("  - {path}"),
        format!("        reference: {full}, block: {}/", blocks[0]),
        format!("        total block: {}/", blocks[0] + blocks[1]),
    ] {
        assert!(text.lines().any(|found| found.starts_with(&line)), "'{line}' is missing: {text}");
    }
    let refused = rig.pgbr.fails(75, ["manifest", "--set=20200101-000000F"]);
    assert!(said(&refused).contains(&format!("'{} info' lists", program_name())), "{refused:#?}");
}

/// Before there is any backup, and what cannot be one.
#[test]
fn where_there_is_nothing_to_tell() {
    let rig = Rig::plain();
    let refused = rig.pgbr.fails(75, ["manifest"]);
    assert!(said(&refused).contains("there are no backup sets"), "{refused:#?}");
    rig.pgbr.fails(32, ["manifest", "--set=nothing"]);
    rig.pgbr.fails(32, ["manifest", "--reference=nothing"]);
}
