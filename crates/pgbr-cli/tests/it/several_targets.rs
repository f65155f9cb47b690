//! A backup to several repositories at once: the cluster is read once, each repository gets a whole backup on top of what it has, and one
//! that fails takes no other with it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pgbr_testkit::{Pgbr, as_operator, run, words_of};
use serde_json::Value;

use crate::rig::{Frozen, PASS, Rig, STANZA, said};
use crate::world::{World, newest, set_mode};

/// Adds a plain repository with this number beside the first.
fn add(pgbr: &Pgbr, number: u32) {
    let directory = pgbr.scratch().dir(&format!("repo{number}"));
    pgbr.set("global", &format!("repo{number}-path"), &directory.display().to_string());
}

/// A sealed repository and a plain one.
fn two(pgbr: &Pgbr) {
    pgbr.encrypt(1, "aes-256-gcm", PASS);
    add(pgbr, 2);
}

/// The backups of one repository, oldest first: label and what it builds on.
fn backups(pgbr: &Pgbr, number: u32) -> Vec<(String, Option<String>)> {
    let text = pgbr.ok(["info", "--output=json", "--log-level-console=off", &format!("--repo={number}")]);
    let json: Value = serde_json::from_str(&text).expect("info prints JSON");
    let list = json.pointer("/0/backup").and_then(Value::as_array).cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    list.iter().map(|b| (text(&b["label"]).expect("a label"), text(&b["prior"]))).collect()
}

/// Restores the newest backup of each of these repositories and sees that it is the cluster as it is now.
#[track_caller]
fn assert_restorable(world: &World, repositories: &[u32]) {
    world.archive_all();
    let wanted = world.cluster.table_digest("postgres");
    for number in repositories {
        let copy = world.opened(&[&format!("--repo={number}")]);
        assert_eq!(copy.table_digest("postgres"), wanted, "repo{number}");
        copy.assert_clean();
    }
}

#[test]
fn each_repository_gets_a_backup_of_its_own_kind_and_all_are_the_same_cluster() {
    let world = World::with(newest(), two);
    let pgbr = &world.pgbr;
    world.cluster.pgbench_init(2);
    let log = pgbr.ok(["backup", "--type=full", "--repo=all", "--log-level-console=detail"]);
    let (first, second) = (backups(pgbr, 1), backups(pgbr, 2));
    assert_eq!(first.len(), 1, "{log}");
    assert_eq!(first, second, "full backups of one run have one name: {log}");
    for words in
        ["repo1: requests: ", "repo2: requests: ", "repo1: full backup size", "repo2: full backup size"]
    {
        assert!(log.contains(words), "no '{words}' in {log}");
    }
    let label = &first[0].0;
    assert!(log.contains(&format!("repo2: new backup label = {label}")), "{log}");
    // Retention looks at both.
    assert!(log.contains("repo1: ") && log.contains("expire command end: completed successfully"), "{log}");
    assert_restorable(&world, &[1, 2]);

    // The two have different parents now, and a third repository has none.
    world.cluster.sql("postgres", "update pgbench_accounts set abalance = 1 where aid % 1000 = 7");
    let grown = pgbr.ok(["backup", "--type=incr", "--repo=1"]);
    // What changed, not what there is: reports are made of these lines.
    let size = |log: &str| {
        log.split("backup size = ").nth(1).and_then(|rest| rest.split(',').next().map(str::to_owned))
    };
    assert!(size(&grown).is_some() && size(&grown) != size(&log), "{grown}");
    world.cluster.sql("postgres", "update pgbench_accounts set abalance = 2 where aid % 1000 = 9");
    world.cluster.sql("postgres", "delete from pgbench_history; create table later as select 1 as a");
    add(pgbr, 3);
    pgbr.ok(["stanza-create"]);
    let log = pgbr.ok(["backup", "--type=incr", "--repo=3,1,2"]);
    assert!(log.contains("repo3: no prior backup exists, incr backup has been changed to full"), "{log}");
    let (first, second, third) = (backups(pgbr, 1), backups(pgbr, 2), backups(pgbr, 3));
    assert_eq!((first.len(), second.len(), third.len()), (3, 2, 1), "{log}");
    assert_eq!(first[2].1.as_ref(), Some(&first[1].0));
    assert_eq!(second[1].1.as_ref(), Some(label));
    assert_eq!(first[2].0, second[1].0, "{log}");
    assert!(third[0].0.ends_with('F') && third[0].1.is_none(), "{third:?}");
    assert_eq!(third[0].0[..15], first[2].0[17..32], "one time in all names");
    assert_restorable(&world, &[1, 2, 3]);
}

#[test]
fn a_repository_that_fails_takes_no_other_with_it() {
    let rig = Rig::with(|pgbr| {
        two(pgbr);
        pgbr.set("global", "repo2-pack-size", "1MiB");
    });
    let pgbr = &rig.pgbr;
    rig.slow_down();
    let command = pgbr.command(["backup", "--type=full", "--repo=all"]);
    let second = pgbr.scratch().path().join("repo2");
    let lock = pgbr.scratch().path().join("lock").join(format!("{STANZA}-backup-2.lock"));
    let tells = || fs::read_to_string(&lock).is_ok_and(|text| text.contains("\"szCplt\""));
    let frozen = Frozen::at(command, || has_pack(&second) && tells());
    // From now on nothing more can be put there.
    let broken = packs_of(&second).expect("it is there");
    set_mode(&broken, 0o555);
    // Both are at it, for who looks on.
    let running: Value = serde_json::from_str(&pgbr.ok(["info", "--output=json", "--log-level-console=off"]))
        .expect("info prints JSON");
    let shown = running.pointer("/0/status/lock/backup/repo").and_then(Value::as_array).cloned();
    let keys: Vec<Value> = shown.unwrap_or_default().iter().map(|repo| repo["key"].clone()).collect();
    assert_eq!(keys, [1, 2], "{running}");
    let finished = frozen.thaw();
    set_mode(&broken, 0o750);
    let log = said(&finished);
    assert!(finished.code.is_some_and(|code| code != 0), "{finished:#?}");
    assert!(log.contains("repo2: there is no backup in this repository"), "{log}");
    assert!(log.contains("backup command failed on repo2"), "{log}");
    assert_eq!((backups(pgbr, 1).len(), backups(pgbr, 2).len()), (1, 0), "{log}");
    rig.assert_no_backup_mode();
    // What has a new backup is expired, and nothing else.
    assert!(log.contains("expire command end: completed successfully"), "{log}");

    // What was stored there is taken up; the other begins anew.
    let log = pgbr.ok(["backup", "--type=full", "--repo=all"]);
    assert!(log.contains("repo2: resume backup"), "{log}");
    let (first, second) = (backups(pgbr, 1), backups(pgbr, 2));
    assert_eq!((first.len(), second.len()), (2, 1), "{log}");
    assert_eq!(second[0].0, first[0].0, "{log}");
    let wanted = rig.cluster.table_digest("postgres");
    for number in ["--repo=1", "--repo=2"] {
        let target = rig.target();
        pgbr.ok(["restore", number, &format!("--pg1-path={}", target.data_dir().display())]);
        target.start();
        target.wait_promoted();
        assert_eq!(target.table_digest("postgres"), wanted, "{number}");
        target.assert_clean();
    }
}

#[test]
fn a_repository_that_is_not_there_is_told_at_once_and_passed_over() {
    let rig = Rig::with(two);
    let pgbr = &rig.pgbr;
    let (there, away) = (pgbr.scratch().path().join("repo2"), pgbr.scratch().path().join("repo2.away"));
    fs::rename(&there, &away).expect("the repository can be renamed");
    let finished = pgbr.run(["backup", "--type=full", "--repo=1,2", "--no-archive-check"]);
    let log = said(&finished);
    assert!(finished.code.is_some_and(|code| code != 0), "{finished:#?}");
    let (told, label) =
        (log.find("repo2: there is no backup in this repository"), log.find("new backup label"));
    assert!(told.is_some() && told < label, "{log}");
    fs::rename(&away, &there).expect("the repository can be renamed");
    assert_eq!((backups(pgbr, 1).len(), backups(pgbr, 2).len()), (1, 0), "{log}");

    // A list names what there is; and where none is left, nothing is begun.
    let unknown = said(&pgbr.run(["backup", "--repo=1,5"]));
    assert!(unknown.contains("key '5' is not valid for 'repo' option"), "{unknown}");
    let wrong = said(&pgbr.run(["backup", "--repo=1;2"]));
    assert!(wrong.contains("'1;2' is not valid for 'repo' option"), "{wrong}");
    let other = said(&pgbr.run(["expire", "--repo=1,2"]));
    assert!(other.contains("'1,2' is not valid for 'repo' option"), "{other}");
}

#[test]
fn the_files_are_read_once() {
    let rig = Rig::with(two);
    rig.cluster.pgbench_init(3);
    rig.cluster.sql("postgres", "checkpoint");
    let file = rig.cluster.sql("postgres", "select pg_relation_filepath('pgbench_accounts')");
    let file = rig.cluster.data_dir().join(file);
    let size = fs::metadata(&file).expect("the relation has a file").len();
    for repositories in ["--repo=1", "--repo=all"] {
        let read = bytes_read(&rig, &["backup", "--type=full", repositories]);
        assert_eq!(read.get(&file), Some(&size), "{repositories}");
    }
    assert_eq!((backups(&rig.pgbr, 1).len(), backups(&rig.pgbr, 2).len()), (2, 1));
}

/// How many bytes a command reads of each file.
fn bytes_read(rig: &Rig, args: &[&str]) -> BTreeMap<PathBuf, u64> {
    let command = rig.pgbr.command(args);
    let trace = rig.pgbr.scratch().dir(&args.concat()).join("trace");
    let mut strace = Command::new("strace");
    as_operator(&mut strace).args(["--seccomp-bpf", "-f", "-y", "-s", "0"]);
    strace.args(["-e", "trace=read,pread64,readv,preadv,preadv2,prctl"]);
    // The program hides its memory from other processes of its user, strace among them: that call is left out.
    strace.args(["-e", "inject=prctl:retval=0"]).arg("-o").arg(&trace);
    let finished = run(strace.args(words_of(&command)), "", Duration::from_secs(300));
    assert!(finished.success(), "{finished:#?}");
    let mut read: BTreeMap<PathBuf, u64> = BTreeMap::new();
    let mut begun: BTreeMap<String, PathBuf> = BTreeMap::new();
    for line in fs::read_to_string(&trace).expect("strace writes its trace").lines() {
        let Some((thread, call)) = line.split_once(' ') else { continue };
        let call = call.trim_start();
        let path = call.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
        if let Some((path, _)) = path.filter(|_| !call.starts_with("<...")) {
            begun.insert(thread.to_owned(), PathBuf::from(path));
        }
        let Some(got) = call.rsplit_once(" = ").and_then(|(_, got)| got.trim().parse::<u64>().ok()) else {
            continue;
        };
        if let Some(path) = begun.get(thread) {
            *read.entry(path.clone()).or_default() += got;
        }
    }
    read
}

/// Whether the first pack is there, as a whole.
fn has_pack(repository: &Path) -> bool {
    let packs = packs_of(repository).and_then(|packs| fs::read_dir(packs).ok());
    packs.into_iter().flatten().flatten().any(|file| !file.file_name().to_string_lossy().contains('#'))
}

/// The directory of packs of the only backup in a repository, once that has begun.
fn packs_of(repository: &Path) -> Option<PathBuf> {
    let backups = repository.join("pgbr").join(STANZA).join("backup");
    let backup = fs::read_dir(backups).ok()?.flatten().next()?;
    Some(backup.path().join("pack"))
}
