//! repo-ls, repo-get and repo-rm: the view that tools expect, and the real objects.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use pgbr_testkit::{Cluster, PgBackRest, Pgbr};
use serde_json::{Value, json};

use crate::info_theirs::{ours, try_ours};
use crate::rig::{MAJOR, PASS, Rig, said};

fn listed(pgbr: &Pgbr, args: &[&str]) -> Value {
    let words = ["repo-ls", "--output=json"];
    serde_json::from_str(&pgbr.ok(words.iter().chain(args))).expect("repo-ls prints JSON")
}

fn names(listing: &Value) -> Vec<&str> {
    listing.as_object().expect("a listing is an object").keys().map(String::as_str).collect()
}

/// What a command puts on stdout, byte for byte.
fn bytes(rig: &Rig, args: &[&str]) -> Vec<u8> {
    let path = rig.pgbr.scratch().path().join("stdout");
    let mut command = rig.pgbr.command(["repo-get", "--log-level-console=off"].iter().chain(args));
    let file = fs::File::create(&path).expect("the file can be made");
    let status = command.stdout(file).status().expect("the program runs");
    assert!(status.success(), "{args:?}: {status}");
    fs::read(path).expect("the file is there")
}

#[test]
fn tools_see_what_they_expect() {
    let rig = Rig::sealed();
    let full = rig.backup();
    rig.pgbr.ok(["backup", "--type=incr"]);
    let labels = rig.labels();
    let segment = rig.archived_segment();
    let history = b"1\t0/3000000\tno recovery target specified\n";
    let pushed = rig.cluster.data_dir().join("pg_wal/00000002.history");
    fs::write(&pushed, history).unwrap();
    fs::set_permissions(&pushed, PermissionsExt::from_mode(0o644)).unwrap();
    rig.pgbr.ok(["archive-push", &pushed.display().to_string()]);
    fs::remove_file(&pushed).unwrap();

    // As check_pgbackrest asks.
    let backups = listed(&rig.pgbr, &["backup/demo"]);
    for label in &labels {
        assert_eq!(backups[label], json!({"type": "path"}));
    }
    assert_eq!(backups["."], json!({"type": "path"}));
    assert_eq!(backups["latest"], json!({"type": "link", "destination": labels.last()}));
    assert_eq!(backups["backup.info"]["type"], "file");
    assert_eq!(names(&backups).len(), labels.len() + 4);
    let wal = listed(&rig.pgbr, &["archive/demo/15-1", "--recurse"]);
    let name = format!("{}/{segment}.zst", &segment[..16]);
    let object = fs::metadata(rig.wal_object(&segment)).unwrap();
    assert_eq!(wal[&name]["type"], "file");
    assert_eq!(wal[&name]["size"], object.len());
    let modified = object.modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert_eq!(wal[&name]["time"], modified);
    assert_eq!(wal["00000002.history"]["type"], "file");
    assert_eq!(wal[&segment[..16]], json!({"type": "path"}));
    assert_eq!(bytes(&rig, &["archive/demo/15-1/00000002.history"]), history);

    // Level by level it is the same.
    assert_eq!(rig.pgbr.ok(["repo-ls"]), "archive\nbackup\npgbr\n");
    assert_eq!(rig.pgbr.ok(["repo-ls", "archive"]), "demo\n");
    let info = "15-1\narchive.info\narchive.info.copy\n";
    assert_eq!(rig.pgbr.ok(["repo-ls", "archive/demo/"]), info);
    let repo = rig.pgbr.repo_dir().display().to_string();
    assert_eq!(rig.pgbr.ok(["repo-ls", &format!("{repo}/archive/demo")]), info);
    assert_eq!(rig.pgbr.ok(["repo-ls", &format!("backup/demo/{full}")]), "backup.manifest\n");
    let all: Vec<String> = rig.pgbr.ok(["repo-ls", "--recurse"]).lines().map(str::to_owned).collect();
    for path in [format!("archive/demo/15-1/{name}"), format!("backup/demo/{full}/backup.manifest")] {
        assert!(all.contains(&path), "{path} is not in {all:#?}");
    }
    assert!(all.contains(&format!("pgbr/demo/archive/15-1/{}/{segment}", &segment[..16])));
    let sorted = rig.pgbr.ok(["repo-ls", "--recurse", "--sort=desc"]);
    assert!(sorted.lines().eq(all.iter().rev()), "the other order is this one backwards");
    let filter = ["repo-ls", "archive/demo", "--recurse", "--filter=history$"];
    assert_eq!(rig.pgbr.ok(filter), "15-1/00000002.history\n");
    assert_eq!(rig.pgbr.ok(["repo-ls", "no/such/path", "--output=json"]), "{\".\":{\"type\":\"path\"}}\n");

    // Each form of a segment.
    let got = rig.pgbr.scratch().path().join("got");
    rig.pgbr.ok(["archive-get", &segment, &got.display().to_string()]);
    let content = fs::read(&got).unwrap();
    let at = format!("archive/demo/15-1/{}/{segment}", &segment[..16]);
    assert!(bytes(&rig, &[&at]) == content, "the name without an ending gives the segment");
    let packed = bytes(&rig, &[&format!("{at}.zst")]);
    assert!(
        zstd::decode_all(packed.as_slice()).unwrap() == content,
        "the other one gives a zstd stream of it"
    );
    let raw = fs::read(rig.wal_object(&segment)).unwrap();
    for path in [format!("{at}.zst"), format!("pgbr/demo/{}", at.replace("demo/", ""))] {
        assert!(bytes(&rig, &["--raw", &path]) == raw, "{path}");
    }
    assert!(bytes(&rig, &[&format!("pgbr/demo/{}", at.replace("demo/", ""))]) == content);
    // Records as JSON, info files as pgBackRest has them.
    let stanza: Value = serde_json::from_slice(&bytes(&rig, &["pgbr/demo/stanza.json"])).unwrap();
    assert_eq!(stanza["history"][0]["number"], 1);
    let manifest = bytes(&rig, &[&format!("backup/demo/{full}/backup.manifest")]);
    assert_eq!(serde_json::from_slice::<Value>(&manifest).unwrap()["label"], full);
    let id = stanza["history"][0]["system-id"].to_string();
    let text = String::from_utf8(bytes(&rig, &["archive/demo/archive.info"])).unwrap();
    assert!(text.contains(&format!("\n[db]\ndb-id=1\ndb-system-id={id}\ndb-version=\"15\"\n")), "{text}");
    let text = String::from_utf8(bytes(&rig, &["backup/demo/backup.info.copy"])).unwrap();
    for label in &labels {
        assert!(text.contains(&format!("\n{label}={{\"backrest-format\":5,")), "{text}");
    }
    assert!(!String::from_utf8_lossy(&manifest).contains(PASS) && !text.contains(PASS));
}

#[test]
fn what_is_missing_or_no_path() {
    let rig = Rig::plain();
    let missing = "archive/demo/15-1/00000009.history";
    let finished = rig.pgbr.fails(55, ["repo-get", missing]);
    assert!(said(&finished).contains("unable to open missing file '"), "{finished:#?}");
    let finished = rig.pgbr.fails(1, ["repo-get", "--ignore-missing", missing]);
    assert_eq!(finished.stdout, "");
    for (code, words, args) in [
        (43, "source file required", &["repo-get"][..]),
        (96, "only one path may be specified", &["repo-ls", "a", "b"]),
        (96, "path 'a//b' cannot contain //", &["repo-ls", "a//b"]),
        (96, "absolute path '/etc' is not in base path", &["repo-ls", "/etc"]),
        (96, "path '../x' has a part '.' or '..'", &["repo-get", "../x"]),
        (
            96,
            "path 'pgbr/../../x' has a part '.' or '..'",
            &["repo-rm", "pgbr/../../x", "--recurse", "--force"],
        ),
        (29, "'(' is not valid for 'filter' option", &["repo-ls", "--filter=("]),
        (
            32,
            "stanza name 'demo' given in option doesn't match the given path",
            &["repo-get", "archive/other/archive.info"],
        ),
    ] {
        let finished = rig.pgbr.fails(code, args);
        assert!(said(&finished).contains(words), "{args:?}: {finished:#?}");
    }
}

#[test]
fn nothing_that_is_needed_is_removed() {
    let rig = Rig::plain();
    let label = rig.backup();
    let segment = rig.archived_segment();
    let before = rig.snapshot();
    let pack = rig.stanza_dir().join("backup").join(&label).join("pack");
    let pack = fs::read_dir(pack).unwrap().next().unwrap().unwrap().file_name().into_string().unwrap();
    let wal = format!("pgbr/demo/archive/15-1/{}/{segment}", &segment[..16]);
    for (code, words, path) in [
        (96, "it is the repository itself", ""),
        (96, "without it the repository cannot be opened", "pgbr/repo.json"),
        (96, "without it the stanza cannot be opened", "pgbr/demo/stanza.json.copy"),
        (96, "which expire --set removes", &format!("pgbr/demo/backup/{label}/manifest")),
        (96, "may need it", &format!("pgbr/demo/backup/{label}/pack/{pack}")),
        (96, "may need it", &wal),
        (96, "it is another form of 'pgbr/", "archive/demo/archive.info"),
        (96, "what it shows is in 'pgbr/'", "archive/demo"),
        (31, "recurse option must be used to delete non-empty path", "pgbr/demo/backup"),
    ] {
        let finished = rig.pgbr.fails(code, ["repo-rm", path]);
        assert!(said(&finished).contains(words), "{path}: {finished:#?}");
    }
    rig.pgbr.fails(96, ["repo-rm", "pgbr/demo", "--recurse"]);
    assert_eq!(rig.snapshot(), before);

    // Rubbish goes: a file of nobody's, and what is left of a backup that is not listed.
    let stray = rig.stanza_dir().join("backup/20200101-000000F/pack/0123456789abcdef-00000000");
    fs::create_dir_all(stray.parent().unwrap()).unwrap();
    fs::write(&stray, "x").unwrap();
    fs::write(rig.pgbr.repo_dir().join("note"), "x").unwrap();
    give(&rig, &rig.stanza_dir().join("backup/20200101-000000F"));
    rig.pgbr.ok(["repo-rm", "note"]);
    rig.pgbr.ok(["repo-rm", "--recurse", "pgbr/demo/backup/20200101-000000F"]);
    assert_eq!(rig.snapshot(), before);
    assert!(!rig.stanza_dir().join("backup/20200101-000000F").exists());
    // What is not there is no failure, as with pgBackRest.
    rig.pgbr.ok(["repo-rm", "note"]);

    // A link does not lead out.
    let outside = rig.pgbr.scratch().dir("outside");
    rig.pgbr.scratch().file("outside/kept", "x");
    std::os::unix::fs::symlink(&outside, rig.pgbr.repo_dir().join("link")).unwrap();
    rig.pgbr.run(["repo-rm", "--recurse", "--force", "link"]);
    rig.pgbr.run(["repo-rm", "--force", "link/kept"]);
    assert!(outside.join("kept").exists());
    fs::remove_file(rig.pgbr.repo_dir().join("link")).unwrap();

    // With force it goes nevertheless.
    rig.pgbr.ok(["repo-rm", "--force", &wal]);
    assert!(!rig.wal_object(&segment).exists());
    rig.pgbr.ok(["repo-rm", "--force", "--recurse", &format!("pgbr/demo/backup/{label}")]);
    assert_eq!(rig.labels(), [""; 0]);
}

/// Makes a directory and what is in it the operator's own.
fn give(rig: &Rig, path: &Path) {
    let owner = fs::metadata(rig.pgbr.repo_dir().join("pgbr")).expect("it is there");
    use std::os::unix::fs::MetadataExt;
    let mut todo = vec![path.to_owned()];
    while let Some(path) = todo.pop() {
        std::os::unix::fs::chown(&path, Some(owner.uid()), Some(owner.gid())).expect("it is there");
        if path.is_dir() {
            todo.extend(
                fs::read_dir(&path)
                    .expect("it is there")
                    .map(|entry| entry.expect("it can be listed").path()),
            );
        }
    }
}

/// The list of backups that tools get has those of both, in a form that pgBackRest itself reads.
#[test]
fn the_list_has_backups_of_both() {
    let cluster = Cluster::builder(MAJOR).conf("archive_mode", "on").start();
    let sealed = vec![("cipher-type", "aes-256-cbc".to_owned()), ("cipher-pass", "a passphrase".to_owned())];
    let theirs = PgBackRest::new("main", &cluster, &[vec![], sealed], &[]);
    let archive = |command: &str| {
        cluster.sql("postgres", &format!("alter system set archive_command = '{command}'"));
        cluster.sql("postgres", "select pg_reload_conf()");
    };
    archive(&theirs.archive_command(""));
    theirs.ok(["stanza-create"]);
    for number in ["1", "2"] {
        theirs.ok(["backup", "--type=full", "--annotation=who=they", &format!("--repo={number}")]);
        theirs.ok(["backup", "--type=incr", &format!("--repo={number}")]);
    }
    let real = fs::read_to_string(theirs.repository(1).join("backup/main/backup.info")).expect("it is there");
    assert_eq!(ours(&theirs, &["repo-get", "--repo=1", "backup/main/backup.info"]), real, "theirs alone");

    let link = theirs.scratch().path().join("pgbackrest");
    let config = theirs.scratch().path().join("pgbackrest.conf");
    archive(&format!("{} --config={} --stanza=main archive-push %p", link.display(), config.display()));
    for number in ["1", "2"] {
        let made = try_ours(&theirs, &["backup", "--type=full", &format!("--repo={number}")]);
        assert!(made.success(), "{made:#?}");
    }
    for (number, name) in [(1, "backup.info"), (1, "backup.info.copy"), (2, "backup.info")] {
        let repo = format!("--repo={number}");
        let list = ours(&theirs, &["repo-get", &repo, &format!("backup/main/{name}")]);
        let told = parsed(&ours(&theirs, &["info", "--output=json", &repo]));
        let labels: Vec<_> = told[0]["backup"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|backup| backup["label"].as_str().expect("a label").to_owned())
            .collect();
        assert_eq!(labels.len(), 3, "{told:#}");
        assert!(!list.contains("cipher-pass"), "that would be the key to all that is encrypted");
        if number == 1 {
            for line in real.lines().filter(|line| !line.starts_with("backrest-")) {
                assert!(list.lines().any(|found| found == line), "'{line}' is missing: {list}");
            }
        }
        // In the place of its own list pgBackRest takes it: checksum, clusters and entries are right.
        let elsewhere = theirs.scratch().dir(&format!("read-{name}-{number}"));
        let copied =
            Command::new("cp").arg("-Rp").arg(theirs.repository(1).join(".")).arg(&elsewhere).status();
        assert!(copied.expect("cp runs").success());
        for file in ["backup.info", "backup.info.copy"] {
            fs::write(elsewhere.join("backup/main").join(file), &list).expect("it can be written");
        }
        let path = format!("--repo1-path={}", elsewhere.display());
        let read = parsed(&theirs.ok(["info", "--output=json", "--repo=1", &path]).stdout);
        let read: Vec<_> =
            read[0]["backup"].as_array().expect("a list").iter().map(|b| &b["label"]).collect();
        assert_eq!(read, labels.iter().collect::<Vec<_>>());
    }
    // What the storage does not give does not seem gone.
    let lists =
        ["backup.info", "backup.info.copy"].map(|file| theirs.repository(1).join("backup/main").join(file));
    let allow = |mode: u32| {
        lists
            .iter()
            .for_each(|list| fs::set_permissions(list, Permissions::from_mode(mode)).expect("it is there"));
    };
    allow(0);
    let refused = try_ours(&theirs, &["repo-get", "--repo=1", "backup/main/backup.info"]);
    assert!(!refused.success() && !refused.stdout.contains("backup-type"), "{refused:#?}");
    assert!(said(&refused).contains("'backup/main/backup.info' cannot be read"), "{refused:#?}");
    allow(0o600);
    // What of theirs is damaged hides none of ours.
    lists.iter().for_each(|list| fs::write(list, "damaged").expect("it can be written"));
    let alone = try_ours(&theirs, &["repo-get", "--repo=1", "backup/main/backup.info"]);
    assert!(
        alone.success() && said(&alone).contains("the backups of pgBackRest are left out: "),
        "{alone:#?}"
    );
    assert_eq!(alone.stdout.matches("\"backup-type\":").count(), 1, "{alone:#?}");
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}
