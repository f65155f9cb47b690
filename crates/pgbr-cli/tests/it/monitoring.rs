//! What monitoring reads: `info --output=json` fits the schema of its contract in every state, and Debian's `check_pgbackrest` is content with a
//! good repository and not with a bad one.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use boon::{Compiler, SchemaIndex, Schemas};
use pgbr_testkit::{Cluster, Finished, Pgbr, StopMode, as_operator, own, run};
use serde_json::Value;

use crate::rig::{Frozen, LIMIT, MAJOR, Rig, STANZA, restore_into};
use crate::verify::promoted;

/// What `info --output=json` says fits `docs/info.schema.json`.
#[track_caller]
pub(crate) fn assert_fits(info: &Value) {
    static SCHEMA: OnceLock<(Schemas, SchemaIndex)> = OnceLock::new();
    let (schemas, index) = SCHEMA.get_or_init(|| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/info.schema.json");
        let text = fs::read_to_string(&path).expect("the schema is in the tree");
        let schema = serde_json::from_str(&text).expect("a schema is JSON");
        let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
        compiler.add_resource("info", schema).expect("it has a name");
        let index = compiler.compile("info", &mut schemas).unwrap_or_else(|error| panic!("{error:#}"));
        (schemas, index)
    });
    if let Err(error) = schemas.validate(info, *index) {
        panic!("{error:#}\n{info:#}");
    }
}

fn info(pgbr: &Pgbr, args: &[&str]) -> Value {
    let told = pgbr.ok([&["info", "--output=json", "--log-level-console=off"], args].concat());
    let told: Value = serde_json::from_str(&told).unwrap_or_else(|error| panic!("{error}: {told}"));
    assert_fits(&told);
    told
}

fn code(told: &Value) -> (u64, u64) {
    let of = |value: &Value| value["code"].as_u64().expect("a code");
    (of(&told[0]["status"]), of(&told[0]["repo"][0]["status"]))
}

#[test]
fn the_schema_refuses_what_is_not_the_contract() {
    let good = r#"[{"name":"a","cipher":"none","status":{"code":1,"message":"missing stanza path","lock":{"backup":{"held":false},
        "restore":{"held":false}}},"repo":[{"key":1,"cipher":"none","status":{"code":1,"message":"m"}}],"db":[],"archive":[],"backup":[]}]"#;
    let good: Value = serde_json::from_str(good).unwrap();
    assert_fits(&good);
    for (pointer, value) in [
        ("/0/name", Value::from(1)),
        ("/0/status/code", Value::from(7)),
        ("/0/status/lock/backup", serde_json::json!({"held": true, "size": 1})),
        ("/0/repo/0/key", Value::from("1")),
        ("/0/db", Value::Null),
        ("/0/backup", serde_json::json!([{"label": "20261122-120000F"}])),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).expect("it is there") = value;
        assert!(std::panic::catch_unwind(|| assert_fits(&bad)).is_err(), "{pointer}");
    }
}

#[test]
fn every_state_fits_the_schema() {
    // No repository, no stanza, no backup, and a stanza that is not there.
    let cluster = Cluster::builder(MAJOR).conf("archive_mode", "on").start();
    let pgbr = Pgbr::new(env!("CARGO_BIN_EXE_pgbr"), STANZA, &cluster);
    assert_eq!(code(&info(&pgbr, &[])), (1, 1));
    pgbr.set("global", "process-max", "1");
    pgbr.ok(["stanza-create"]);
    pgbr.archive_from(&cluster);
    assert_eq!(code(&info(&pgbr, &[])), (2, 2));
    let other = run(
        &mut pgbr.bare_command([config(&pgbr).as_str(), "info", "--output=json", "--stanza=other"]),
        "",
        LIMIT,
    );
    let other: Value =
        serde_json::from_str(&other.stdout).unwrap_or_else(|error| panic!("{error}: {other:#?}"));
    assert_fits(&other);
    assert_eq!(code(&other), (1, 1));

    // A backup under way, a restore under way.
    cluster
        .sql("postgres", "create table t as select n, md5(n::text) as m from generate_series(1, 200000) n");
    let space = cluster.scratch().dir("space");
    cluster.sql("postgres", &format!("create tablespace side location '{}'", space.display()));
    let backup = pgbr.command(["backup", "--type=full", "--annotation=who=somebody", "--compress-type=bz2"]);
    let lock = |told: &Value, what: &str| told[0]["status"]["lock"][what].clone();
    let frozen = Frozen::at(backup, || lock(&info(&pgbr, &[]), "backup")["size-cplt"].as_u64() > Some(0));
    let held = lock(&info(&pgbr, &["--detail-level=full"]), "backup");
    assert_eq!((&held["held"], &held["repo"][0]["key"]), (&Value::from(true), &Value::from(1)), "{held}");
    assert!(frozen.thaw().success());
    let copy = Cluster::builder(MAJOR).empty();
    let spaces = format!("--tablespace-map-all={}", copy.scratch().path().join("spaces").display());
    let args = restore_into(&copy);
    let restore = pgbr.command(args.iter().map(String::as_str).chain([spaces.as_str()]));
    let frozen = Frozen::at(restore, || lock(&info(&pgbr, &[]), "restore")["held"] == true);
    assert!(frozen.thaw().success());

    // Chains, one type, one set, two repositories, two stanzas.
    pgbr.ok(["backup", "--type=diff"]);
    pgbr.ok(["backup", "--type=incr"]);
    let told = info(&pgbr, &[]);
    assert_eq!((code(&told), told[0]["backup"].as_array().map(Vec::len)), ((0, 0), Some(3)));
    assert_eq!(told[0]["backup"][0]["annotation"]["who"], "somebody");
    assert_eq!(info(&pgbr, &["--type=diff"])[0]["backup"].as_array().map(Vec::len), Some(1));
    let set = format!("--set={}", told[0]["backup"][2]["label"].as_str().expect("a label"));
    let in_full = info(&pgbr, &[&set]);
    assert_eq!(in_full[0]["backup"][0]["tablespace"][0]["name"], "side");
    for set in ["20200101-000000F", "no label", "../backup"] {
        assert_eq!(code(&info(&pgbr, &[&format!("--set={set}")])), (6, 6), "{set}");
        let text = pgbr.ok(["info", &format!("--set={set}")]);
        assert!(text.contains("    status: error (requested backup not found)\n"), "{text}");
    }
    let second = pgbr.scratch().dir("second");
    pgbr.set("global", "repo2-path", &second.display().to_string());
    let told = info(&pgbr, &[]);
    assert_eq!((code(&told), told[0]["repo"][1]["status"]["code"].as_u64()), ((4, 0), Some(1)));
    pgbr.ok(["stanza-create"]);
    assert_eq!(code(&info(&pgbr, &["--repo=2"])), (2, 2));
    pgbr.set("another", "pg1-path", &cluster.data_dir().display().to_string());
    let another =
        [config(&pgbr).as_str(), "stanza-create", "--stanza=another", "--no-online"].map(str::to_owned);
    let another = run(&mut pgbr.bare_command(another), "", LIMIT);
    assert!(another.success(), "{another:#?}");
    let all =
        run(pgbr.bare_command([config(&pgbr).as_str(), "info", "--output=json"]).env("TZ", "UTC"), "", LIMIT);
    let all: Value = serde_json::from_str(&all.stdout).unwrap_or_else(|error| panic!("{error}: {all:#?}"));
    assert_fits(&all);
    let names: Vec<_> = all.as_array().expect("a list").iter().map(|stanza| &stanza["name"]).collect();
    assert_eq!(names, ["another", STANZA]);

    // Block increments, as pgBackRest has them.
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pgbr-pgbackrest/tests/vectors/2.59-gz");
    let place = pgbr.scratch().dir("theirs");
    let copied = Command::new("cp")
        .arg("-R")
        .arg(vectors.join("archive"))
        .arg(vectors.join("backup"))
        .arg(&place)
        .status();
    assert!(copied.expect("cp runs").success());
    own_all(&place);
    let path = format!("--repo1-path={}", place.display());
    let told =
        run(pgbr.bare_command(["info", "--output=json", "--stanza=main", &path]).env("TZ", "UTC"), "", LIMIT);
    let told: Value = serde_json::from_str(&told.stdout).unwrap_or_else(|error| panic!("{error}: {told:#?}"));
    assert_fits(&told);
    let sizes = &told[0]["backup"][1]["info"]["repository"];
    assert!(sizes["delta-map"].is_u64() && sizes["size"].is_null(), "{told:#}");
}

fn own_all(directory: &Path) {
    own(directory);
    for entry in fs::read_dir(directory).expect("it can be listed").map(|entry| entry.expect("an entry")) {
        match entry.file_type().expect("it has one").is_dir() {
            true => own_all(&entry.path()),
            false => own(&entry.path()),
        }
    }
}

fn config(pgbr: &Pgbr) -> String {
    format!("--config={}", pgbr.config_path().display())
}

/// Runs Debian's plugin against our program under pgBackRest's name.
fn check(rig: &Rig, program: &Path, args: &[&str]) -> Finished {
    let mut command = Command::new("check_pgbackrest");
    let config = rig.pgbr.config_path();
    as_operator(&mut command).arg("--command").arg(program).arg("--config").arg(config);
    run(command.arg("--stanza").arg(STANZA).args(args), "", LIMIT)
}

#[track_caller]
fn assert_check(finished: &Finished, wanted: i32, word: &str) {
    assert_eq!(finished.code, Some(wanted), "{finished:#?}");
    assert!(finished.stdout.contains(word), "{finished:#?}");
}

#[test]
fn check_pgbackrest_is_content_with_what_is_good_alone() {
    assert!(
        Path::new("/usr/bin/check_pgbackrest").exists(),
        "check_pgbackrest is missing: run scripts/setup-tests.sh"
    );
    let mut rig = Rig::plain();
    let program = rig.pgbr.link_as("pgbackrest");
    assert_check(&check(&rig, &program, &["--service=retention"]), 2, "no valid backups");
    // WAL that is older than the oldest backup would be told of: expire takes it away with the first of the two.
    rig.pgbr.set("global", "repo1-retention-full", "1");
    rig.backup();
    rig.backup();
    rig.archived_segment();
    let missing = rig.archived_segment();
    rig.pgbr.ok(["backup", "--type=incr"]);
    rig.archived_segment();
    rig.cluster.stop(StopMode::Fast);
    rig.cluster = promoted(&rig);
    rig.archived_segment();
    rig.archived_segment();

    let retention = |args: &[&str]| check(&rig, &program, &[&["--service=retention"], args].concat());
    assert_check(&retention(&["--retention-full=1", "--retention-incr=1", "--retention-age=1h"]), 0, "OK");
    assert_check(&retention(&["--retention-full=2"]), 2, "not enough full backups");
    assert_check(&retention(&["--retention-age-to-oldest=1d"]), 2, "backups are too young");
    let archives = |args: &[&str]| check(&rig, &program, &[&["--service=archives"], args].concat());
    // Two timelines: the plugin reads the history file to see where one goes over into the other.
    assert_check(&archives(&["--debug"]), 0, "1 timeline switch(es)");
    assert_check(&archives(&["--repo=1", "--extended-check"]), 0, "OK");
    assert_check(&archives(&["--latest-archive-age-alert=1h", "--output=json"]), 0, "num_unique_archives");

    rig.objects().remove(&rig.wal_key(&missing));
    assert_check(&archives(&[]), 1, &format!("1 missing file(s) ({missing} / {missing})"));
    let label = rig.labels().pop().expect("a backup");
    let wal =
        info(&rig.pgbr, &[])[0]["backup"][0]["archive"]["start"].as_str().expect("a segment").to_owned();
    rig.objects().remove(&rig.wal_key(&wal));
    assert_check(&archives(&[]), 2, "missing file(s)");
    rig.objects().remove(&rig.key(&format!("backup/{label}/manifest")));
    assert_check(&retention(&["--retention-incr=1"]), 2, "not enough incremental backups");
}
