//! Several repositories: each command does what it can in all of them, says which one failed, and restore takes the first that serves.

use std::fs;
use std::path::{Path, PathBuf};

use pgbr_testkit::{Cluster, Finished};
use serde_json::{Value, json};

use crate::rig::{PASS, Rig, assert_one_error, restore_into, said};
use crate::world::set_mode;

/// Two repositories, the second one encrypted, in both of which the stanza was made.
fn two() -> Rig {
    Rig::with(|pgbr| {
        let second = pgbr.scratch().dir("second");
        pgbr.set("global", "repo2-path", &second.display().to_string());
        pgbr.encrypt(2, "aes-256-gcm", PASS);
    })
}

fn second(rig: &Rig) -> PathBuf {
    rig.pgbr.scratch().path().join("second")
}

fn info(rig: &Rig, options: &[&str]) -> Value {
    let text = rig.pgbr.ok(["info", "--output=json"].iter().chain(options));
    serde_json::from_str(&text).expect("info prints JSON")
}

/// Repository and label of each backup, in the order in which they are shown.
fn backups(rig: &Rig) -> Vec<(u64, String)> {
    let info = info(rig, &[]);
    let backups = info[0]["backup"].as_array().cloned().unwrap_or_default();
    let shown = |backup: &Value| {
        Some((backup["database"]["repo-key"].as_u64()?, backup["label"].as_str()?.to_owned()))
    };
    backups.iter().filter_map(shown).collect()
}

#[track_caller]
fn says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "'{word}' is missing: {text}");
    }
}

/// Restores into a fresh directory; the server is not started.
fn restored(rig: &Rig, options: &[&str]) -> (Cluster, Finished) {
    let target = rig.target();
    let finished =
        rig.pgbr.run(restore_into(&target).iter().map(String::as_str).chain(options.iter().copied()));
    (target, finished)
}

/// A file in the repository of a backup's first pack.
fn first_pack(repo: &Path, label: &str) -> PathBuf {
    let packs = fs::read_dir(repo.join("pgbr/demo/backup").join(label).join("pack"));
    let packs = packs.expect("a backup has packs").flatten().map(|entry| entry.path());
    packs.min().expect("a backup has packs")
}

#[test]
fn commands_work_on_all_repositories_and_a_backup_on_the_first() {
    let rig = two();
    says(&rig.pgbr.ok(["stanza-create"]), &["already exists on repo1", "already exists on repo2"]);
    says(&rig.pgbr.ok(["check"]), &["archived to", "on repo1", "on repo2"]);
    let text = rig.pgbr.ok(["backup", "--type=full"]);
    says(&text, &["repo option not specified, defaulting to repo1"]);
    next_second();
    rig.pgbr.ok(["backup", "--type=full", "--repo=2"]);
    let shown = backups(&rig);
    assert_eq!(shown.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [1, 2], "{shown:?}");

    let all = info(&rig, &[]);
    let ok = json!({"code": 0, "message": "ok"});
    assert_eq!(
        all[0]["repo"],
        json!([{"cipher": "none", "key": 1, "status": ok}, {"cipher": "aes-256-gcm", "key": 2, "status": ok}])
    );
    assert_eq!((all[0]["cipher"].as_str(), &all[0]["status"]["code"]), (Some("mixed"), &json!(0)));
    for list in ["db", "archive"] {
        let keys: Vec<_> = all[0][list]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item.get("repo-key").or_else(|| item.pointer("/database/repo-key")).cloned().unwrap())
            .collect();
        assert_eq!(keys, [json!(1), json!(2)], "{list}");
    }
    let text = rig.pgbr.ok(["info"]);
    says(
        &text,
        &["    status: ok\n", "    cipher: mixed\n        repo1: none\n        repo2: aes-256-gcm\n"],
    );
    says(&text, &["            repo1: backup set size", "            repo2: backup set size"]);
    assert_eq!(text.matches("db (current)").count(), 1, "{text}");
    let one = info(&rig, &["--repo=2"]);
    assert_eq!((one[0]["backup"].as_array().unwrap().len(), &one[0]["repo"][0]["key"]), (1, &json!(2)));

    // A note goes to where the backup is.
    let set = format!("--set={}", shown[1].1);
    let text = rig.pgbr.ok(["annotate", &set, "--annotation=k=v"]);
    says(&text, &["WARN: repo1: backup set", "to annotate not found", "to annotate found in repo2"]);
    let nowhere = rig.pgbr.fails(75, ["annotate", "--set=20200101-000000F", "--annotation=k=v"]);
    assert_one_error(&nowhere, 75, &["is not in the repository"]);
    // It is enough that one of them has it.
    let only = info(&rig, &[&set]);
    let codes = |told: &Value| {
        let of = |value: &Value| value["status"]["code"].as_u64().expect("a code");
        [of(&told[0]), of(&told[0]["repo"][0]), of(&told[0]["repo"][1])]
    };
    assert_eq!((codes(&only), only[0]["backup"].as_array().unwrap().len()), ([0, 0, 0], 1), "{only}");
    let none = info(&rig, &["--set=20200101-000000F"]);
    assert_eq!((codes(&none), &none[0]["db"], &none[0]["archive"]), ([6, 6, 6], &json!([]), &json!([])));

    // Each by its own rules; the expire after a backup leaves the other one alone.
    rig.pgbr.set("global", "repo1-retention-full", "1");
    rig.pgbr.set("global", "repo2-retention-full", "2");
    rig.pgbr.ok(["backup", "--type=full", "--repo=2", "--no-expire-auto"]);
    rig.pgbr.ok(["backup", "--type=full", "--repo=2", "--no-expire-auto"]);
    let text = rig.pgbr.ok(["backup", "--type=full"]);
    assert!(!text.contains("repo2: expire"), "{text}");
    assert_eq!(backups(&rig).iter().filter(|(key, _)| *key == 1).count(), 1);
    assert_eq!(backups(&rig).iter().filter(|(key, _)| *key == 2).count(), 3);
    says(&rig.pgbr.ok(["expire"]), &["repo2: expire full backup"]);
    assert_eq!(backups(&rig).iter().filter(|(key, _)| *key == 2).count(), 2);
}

#[test]
fn one_that_fails_does_not_keep_the_others_from_their_work() {
    let rig = two();
    rig.pgbr.ok(["backup", "--type=full", "--repo=2"]);
    next_second();
    rig.pgbr.ok(["backup", "--type=full", "--repo=1"]);
    let (place, kept) = (rig.pgbr.repo_dir(), rig.pgbr.scratch().path().join("kept"));
    // The first one is sealed otherwise than the options say; then it is away.
    for away in [false, true] {
        if away {
            fs::rename(&place, &kept).unwrap();
        } else {
            rig.pgbr.encrypt(1, "aes-256-gcm", PASS);
        }
        let code = if away { 42 } else { 95 };
        for (command, words) in
            [(&["check", "--no-archive-check"][..], &["check repo2 configuration"][..]), (&["expire"], &[])]
        {
            let text = said(&rig.pgbr.fails(code, command));
            let last = format!("ERROR: [{code:03}]: {} command failed on repo1", command[0]);
            says(&text, &["ERROR: [0", "repo1: ", &last]);
            says(&text, words);
        }
        if !away {
            let text = said(&rig.pgbr.fails(95, ["stanza-create"]));
            says(&text, &["already exists on repo2", "stanza-create command failed on repo1"]);
        }
        let all = info(&rig, &[]);
        let (status, repos) = (&all[0]["status"]["code"], all[0]["repo"].as_array().unwrap());
        // A directory that is not there is one without a stanza, as in pgBackRest.
        let (code, state) = if away { (1, "missing stanza path") } else { (99, "other") };
        assert_eq!((status, &repos[0]["status"]["code"]), (&json!(4), &json!(code)), "{all}");
        assert_eq!((&repos[1]["status"]["code"], backups(&rig).len()), (&json!(0), 1));
        let text = rig.pgbr.ok(["info"]);
        says(
            &text,
            &[&format!("    status: mixed\n        repo1: error ({state})\n"), "        repo2: ok\n"],
        );

        let (target, finished) = restored(&rig, &[]);
        assert!(finished.success(), "{finished:#?}");
        says(&said(&finished), &["WARN: repo1 is passed over: ", "INFO: repo2: restore backup set "]);
        assert!(target.data_dir().join("global/pg_control").exists());
        if !away {
            rig.pgbr.unset("global", "repo1-cipher-type");
            rig.pgbr.unset("global", "repo1-cipher-pass");
        }
    }
    assert!(!place.exists(), "nothing grew where the first one was");
    fs::rename(&kept, &place).unwrap();
    assert_eq!(info(&rig, &[])[0]["status"]["code"], 0);
}

#[test]
fn one_that_cannot_be_written_to_can_be_restored_from() {
    let rig = two();
    let label =
        |text: &str| text.lines().find_map(|line| Some(line.split_once("new backup label = ")?.1.to_owned()));
    let made = label(&rig.pgbr.ok(["backup", "--type=full", "--repo=2"])).expect("a backup has a label");
    for (path, mode) in [("lease", 0o500), ("pin", 0o500), ("", 0o500)] {
        let dir = second(&rig).join("pgbr/demo").join(path);
        if dir.exists() {
            set_mode(&dir, mode);
        }
    }
    let text = said(&rig.pgbr.fails(41, ["expire"]));
    says(&text, &["ERROR: [041]: repo2: ", "expire command failed on repo2"]);
    let (target, finished) = restored(&rig, &[]);
    assert!(finished.success(), "{finished:#?}");
    says(
        &said(&finished),
        &[
            "repo1 is passed over: no backup set to restore",
            "WARN: repo2: the repository cannot be written to",
        ],
    );
    says(&said(&finished), &[&format!("repo2: restore backup set {made}")]);
    assert!(target.data_dir().join("global/pg_control").exists());
    for path in ["", "lease", "pin"] {
        let dir = second(&rig).join("pgbr/demo").join(path);
        if dir.exists() {
            set_mode(&dir, 0o700);
        }
    }
}

/// The shape of the document, with what differs from run to run left out.
#[test]
fn the_document_of_two_repositories() {
    let rig = two();
    rig.pgbr.ok(["backup", "--type=full", "--repo=2"]);
    next_second();
    rig.pgbr.ok(["backup", "--type=full", "--repo=1"]);
    let mut shown = info(&rig, &[]);
    forget(&mut shown);
    // Ours stands beside what pgBackRest has.
    for archive in shown[0]["archive"].as_array_mut().expect("a list") {
        let fields = archive.as_object_mut().expect("an archive has fields");
        let (newest, recovery) = (fields.remove("newest"), fields.remove("recovery"));
        let names =
            |of: Option<Value>| of.and_then(|v| Some(v.as_object()?.keys().cloned().collect::<Vec<_>>()));
        assert_eq!(names(newest).as_deref(), Some(&["age".to_owned(), "archived".to_owned()][..]));
        let ours = ["gap", "unusable", "window"].map(str::to_owned);
        assert_eq!(names(recovery).as_deref(), Some(&ours[..]));
    }
    let backup = |key: u64| {
        json!({
            "archive": {"start": "", "stop": ""}, "backrest": {"format": 5, "version": ""},
            "database": {"id": 1, "repo-key": key}, "error": false,
            "info": {"delta": 0, "repository": {"delta": 0, "size": 0}, "size": 0}, "label": "",
            "lsn": {"start": "", "stop": ""}, "prior": null, "reference": null,
            "timestamp": {"start": 0, "stop": 0}, "type": "full",
        })
    };
    let archive =
        |key: u64| json!({"database": {"id": 1, "repo-key": key}, "id": "15-1", "max": "", "min": ""});
    let db = |key: u64| json!({"id": 1, "repo-key": key, "system-id": 0, "version": ""});
    let status = json!({"code": 0, "message": "ok"});
    let wanted = json!([{
        "archive": [archive(1), archive(2)],
        "backup": [backup(2), backup(1)],
        "cipher": "mixed",
        "db": [db(1), db(2)],
        "name": "demo",
        "repo": [
            {"cipher": "none", "key": 1, "status": status},
            {"cipher": "aes-256-gcm", "key": 2, "status": status},
        ],
        "status": {"code": 0, "lock": {"backup": {"held": false}, "restore": {"held": false}}, "message": "ok"},
    }]);
    assert_eq!(shown, wanted);
}

/// A label tells the second, and knows nothing of those in another repository.
fn next_second() {
    std::thread::sleep(std::time::Duration::from_millis(1100));
}

fn forget(value: &mut Value) {
    const DIFFER: [&str; 10] =
        ["start", "stop", "min", "max", "label", "version", "system-id", "size", "delta", "time"];
    match value {
        Value::Array(items) => items.iter_mut().for_each(forget),
        Value::Object(fields) => {
            for (name, field) in fields {
                match field {
                    Value::String(text) if DIFFER.contains(&name.as_str()) => text.clear(),
                    Value::Number(number) if DIFFER.contains(&name.as_str()) => *number = 0.into(),
                    other => forget(other),
                }
            }
        }
        _ => {}
    }
}

#[test]
fn what_to_do_is_said_of_the_repository_that_failed() {
    let rig = two();
    rig.pgbr.set("global", "repo2-cipher-pass", "Not-the-passphrase");
    let text = said(&rig.pgbr.fails(95, ["stanza-create"]));
    says(&text, &["already exists on repo1", "repo2: ", "HINT: check the option repo2-cipher-pass"]);
    let text = rig.pgbr.ok(["info"]);
    says(&text, &["        repo2: error (other)\n", "check the option repo2-cipher-pass"]);
    assert!(!text.contains("repo1-cipher-pass"), "{text}");
}

#[test]
fn restore_takes_the_first_repository_that_can_serve_it() {
    let rig = two();
    rig.pgbr.ok(["backup", "--type=full", "--repo=2"]);
    next_second();
    rig.pgbr.ok(["backup", "--type=full", "--repo=1"]);
    let shown = backups(&rig);
    let in_second = shown.iter().find(|(key, _)| *key == 2).unwrap().1.clone();
    let in_first = shown.iter().find(|(key, _)| *key == 1).unwrap().1.clone();
    let (_, finished) = restored(&rig, &[]);
    says(&said(&finished), &[&format!("repo1: restore backup set {in_first}")]);
    assert!(finished.success() && !said(&finished).contains("passed over"), "{finished:#?}");
    let set = format!("--set={in_second}");
    let (target, finished) = restored(&rig, &[&set, "--type=immediate", "--target-action=promote"]);
    says(&said(&finished), &[&format!("repo2: restore backup set {in_second}")]);
    target.start();
    target.wait_promoted();

    // A pack is missing in the first: that is seen before anything is touched, and the second one serves.
    let pack = first_pack(&rig.pgbr.repo_dir(), &in_first);
    let kept = rig.pgbr.scratch().path().join("pack");
    fs::rename(&pack, &kept).unwrap();
    let (_, finished) = restored(&rig, &[]);
    assert!(finished.success(), "{finished:#?}");
    says(&said(&finished), &["repo1 is passed over", "is missing", "repo2: restore backup set"]);
    let (_, finished) = restored(&rig, &["--dry-run"]);
    says(&said(&finished), &[&format!("restore of full backup {in_second}"), "would be done"]);
    let pack = first_pack(&second(&rig), &in_second);
    fs::remove_file(pack).unwrap();
    let (target, finished) = restored(&rig, &[]);
    assert_one_error(&finished, 28, &["no backup set to restore in repo1, repo2"]);
    crate::rig::assert_untouched(&target);
}

#[test]
fn locks_are_those_of_all_repositories_and_a_stanza_is_deleted_from_one() {
    let rig = two();
    rig.slow_down();
    let frozen = rig.frozen_backup();
    for repo in ["--repo=1", "--repo=2"] {
        let failed = rig.pgbr.fails(50, ["expire", repo]);
        says(&said(&failed), &["unable to acquire lock"]);
    }
    let all = info(&rig, &[]);
    assert_eq!(all[0]["status"]["lock"]["backup"]["held"], true);
    assert!(frozen.thaw().success());

    rig.pgbr.ok(["stop"]);
    let failed = rig.pgbr.fails(37, ["stanza-delete", "--force"]);
    assert_one_error(&failed, 37, &["requires option: repo"]);
    rig.pgbr.ok(["stanza-delete", "--force", "--repo=2"]);
    let text = rig.pgbr.ok(["info"]);
    says(&text, &["    status: mixed\n        repo1: ok\n        repo2: error (missing stanza path)\n"]);
}
