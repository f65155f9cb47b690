//! A restore that is only tried: it says what the real one does then, and changes nothing at all.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use pgbr_testkit::{Cluster, own};
use serde_json::Value;

use crate::world::{World, restore_args};

/// Everything below a directory, with what any change to it would change.
fn tree(root: &Path) -> BTreeMap<PathBuf, (u64, u64, i64, i64)> {
    let mut found = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let meta = fs::symlink_metadata(&path).expect("it can be examined");
        if meta.is_dir() {
            todo.extend(
                fs::read_dir(&path).expect("it can be listed").map(|e| e.expect("it can be read").path()),
            );
        }
        found.insert(path, (meta.ino(), meta.len(), meta.ctime(), meta.ctime_nsec()));
    }
    found
}

/// Tries a restore and sees that neither target nor repository has changed. Gives what it printed.
#[track_caller]
fn tried(world: &World, target: &Cluster, code: i32, options: &[&str]) -> String {
    let mut args = restore_args(target, options);
    args.extend([
        "--dry-run".to_owned(),
        "--log-level-console=off".to_owned(),
        "--log-level-stderr=error".to_owned(),
    ]);
    let (places, repo) = (target.scratch().path().to_owned(), world.pgbr.repo_dir());
    let before = (tree(&places), tree(&repo));
    let finished = if code == 0 { world.pgbr.ok(args) } else { world.pgbr.fails(code, args).stdout };
    assert!((tree(&places), tree(&repo)) == before, "{options:?} has changed something: {finished}");
    finished
}

fn json(world: &World, target: &Cluster, code: i32, options: &[&str]) -> Value {
    let options: Vec<&str> = options.iter().copied().chain(["--output=json"]).collect();
    let printed = tried(world, target, code, &options);
    serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
}

fn number(json: &Value, pointer: &str) -> u64 {
    json.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("no {pointer}: {json}"))
}

#[test]
fn it_says_what_a_restore_does_then_and_changes_nothing() {
    let world = World::new();
    let space = world.cluster.scratch().dir("space");
    let sql = format!(
        "create tablespace space location '{}'; create table t tablespace space as select generate_series(1, 9000) n;
         create database other",
        space.display()
    );
    world.cluster.sql("postgres", &sql);
    let full = world.backup();
    world.cluster.sql("postgres", "update t set n = -n where n % 500 = 0");
    world.pgbr.ok(["backup", "--type=incr"]);
    let label = world.newest_backup();
    world.mark();
    world.archive_all();
    let target = Cluster::builder(world.cluster.major()).empty();
    let map = format!("--tablespace-map-all={}", target.scratch().path().join("spaces").display());

    let whole = json(&world, &target, 0, &[&map]);
    assert_eq!(whole["label"], Value::from(label.as_str()));
    assert_eq!(whole["chain"], Value::from(vec![label.as_str(), full.as_str()]));
    assert_eq!((whole["would-run"].as_bool(), &whole["refusal"]), (Some(true), &Value::Null));
    assert_eq!(whole["wal"]["target"], "yes");
    let frames = |n: usize| number(&whole, &format!("/work/fetched/{n}/frames"));
    assert!(frames(0) > 0 && frames(1) > frames(0), "{whole}");
    assert_eq!((number(&whole, "/work/kept"), number(&whole, "/work/removed-files")), (0, 0));
    let text = tried(&world, &target, 0, &[&map, "--db-exclude=other"]);
    for words in [
        label.as_str(),
        full.as_str(),
        "nothing is changed",
        "zeros: other",
        "can be reached",
        "would be done",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }

    // What it says of a damaged cluster is what happens then.
    world.restore_to(&target, &[&map]);
    let damaged =
        target.data_dir().join(world.cluster.sql("postgres", "select pg_relation_filepath('mark')"));
    fs::write(&damaged, vec![7; 8192]).expect("it can be written");
    own(&damaged);
    fs::write(target.data_dir().join("foreign"), "x").expect("it can be written");
    let said = json(&world, &target, 0, &[&map, "--delta"]);
    let log = world.restore_to(&target, &[&map, "--delta"]);
    let removed = number(&said, "/work/removed-files");
    assert!(log.contains(&format!("files removed = {removed}")) && removed >= 3, "{said}: {log}");
    let fetched = number(&said, "/work/fetched/0/bytes") + number(&said, "/work/fetched/1/bytes");
    assert!(fetched > 0 && fetched < number(&whole, "/work/fetched/1/bytes"), "{said}");
    assert!(number(&said, "/work/kept") > 10 << 20, "{said}");

    // All of it would go, where it is not to be mended.
    let force = json(&world, &target, 0, &[&map, "--force"]);
    assert!(number(&force, "/work/removed-bytes") > 10 << 20, "{force}");
    // And what the real one would refuse, is.
    let refused = json(&world, &target, 40, &[&map]);
    assert_eq!((refused["would-run"].as_bool(), number(&refused, "/refusal/code")), (Some(false), 40));
    assert_eq!(refused["work"], Value::Null);
    target.start();
    target.wait_promoted();
    target.sql("postgres", "checkpoint");
    let mut args = restore_args(&target, &[&map, "--delta", "--dry-run", "--log-level-console=off"]);
    let running = world.pgbr.fails(38, &args);
    assert!(
        running.stdout.contains("would be refused: [038]") && running.stdout.contains("kept:"),
        "{running:#?}"
    );
    assert_eq!(target.sql("postgres", "select count(*) from t"), "9000");
    args.push("--output=nonsense".to_owned());
    world.pgbr.fails(32, &args);
    world.pgbr.fails(31, restore_args(&target, &["--output=json"]));
}

#[test]
fn it_says_how_far_the_archive_leads() {
    let world = World::new();
    world.backup();
    let first = world.mark();
    world.archive_all();
    let second = world.mark();
    world.archive_all();
    let target = Cluster::builder(world.cluster.major()).empty();
    let lsn = |lsn: &str, options: &[&str]| {
        let target_lsn = format!("--target={lsn}");
        let all: Vec<&str> = options.iter().copied().chain(["--type=lsn", &target_lsn]).collect();
        json(&world, &target, 0, &all)["wal"].clone()
    };
    assert_eq!(lsn(&second.commit_lsn, &[])["target"], "yes");
    let beyond = lsn("F/0", &[]);
    assert_eq!(beyond["target"], "no");
    assert!(
        beyond["reason"].as_str().is_some_and(|reason| reason.contains("the archive ends with")),
        "{beyond}"
    );
    let name = format!("--target={}", second.name);
    assert_eq!(json(&world, &target, 0, &["--type=name", &name])["wal"]["target"], "unknown");
    // A moment is known to be reached when a later backup is.
    let time = format!("--target={}", first.after);
    assert_eq!(json(&world, &target, 0, &["--type=time", &time])["wal"]["target"], "unknown");
    world.backup();
    world.archive_all();
    assert_eq!(json(&world, &target, 0, &["--type=time", &time])["wal"]["target"], "yes");

    // A segment between the two marks is lost.
    let segment = second_segment(&world, &second.commit_lsn);
    fs::remove_file(&segment).expect("it is there");
    let set = format!("--set={}", first_label(&world));
    let cut = lsn(&second.commit_lsn, &[&set]);
    assert_eq!(cut["target"], "no");
    let name = segment.file_name().expect("it has one").to_string_lossy().into_owned();
    assert_eq!(cut["gap"], Value::from(name.as_str()));
    assert_eq!(lsn(&first.commit_lsn, &[&set])["target"], "yes");
}

fn first_label(world: &World) -> String {
    let info: Value =
        serde_json::from_str(&world.pgbr.ok(["info", "--output=json", "--log-level-console=off"]))
            .expect("JSON");
    info[0]["backup"][0]["label"].as_str().expect("a backup with a label").to_owned()
}

/// Where the segment that holds a position lies in the archive.
fn second_segment(world: &World, lsn: &str) -> PathBuf {
    let name = world.cluster.sql("postgres", &format!("select pg_walfile_name('{lsn}')"));
    let archive = world.pgbr.repo_dir().join("pgbr/demo/archive");
    let id =
        fs::read_dir(&archive).expect("it is there").next().expect("an archive").expect("it can be read");
    id.path().join(&name[..16]).join(&name)
}
