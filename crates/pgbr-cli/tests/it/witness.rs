//! A record that is kept elsewhere shows what who can write to the repository has taken away or put back, and nothing else.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use pgbr_testkit::{as_operator, own};
use serde_json::Value;

use crate::rig::{PASS, Rig, STANZA, assert_one_error};

const SECOND: &str = "Quixotic-lantern-57-harbour";

/// A sealed repository whose record is kept in a directory of its own.
fn rig() -> Rig {
    Rig::with(|pgbr| {
        pgbr.encrypt(1, "aes-256-gcm", PASS);
        let elsewhere = pgbr.scratch().dir("elsewhere");
        pgbr.set("global", "witness-path", &elsewhere.display().to_string());
    })
}

fn record(rig: &Rig) -> PathBuf {
    rig.pgbr.scratch().path().join(format!("elsewhere/{STANZA}-repo1.json"))
}

/// What verify says of the record: the levels of its findings, and their objects; and how it ended.
fn verify(rig: &Rig, options: &[&str]) -> (i32, Vec<(String, String, String)>) {
    let args = ["verify", "--quick", "--output=json", "--log-level-console=off"];
    let finished = rig.pgbr.run(args.iter().chain(options));
    let json: Value = serde_json::from_str(&finished.stdout).unwrap_or_else(|_| panic!("{finished:#?}"));
    let findings = json.pointer("/0/findings").and_then(Value::as_array).expect("findings are listed");
    let text = |finding: &Value, field: &str| finding[field].as_str().unwrap_or_default().to_owned();
    let witness = findings.iter().filter(|finding| text(finding, "kind").starts_with("witness"));
    let found = witness.map(|f| (text(f, "level"), text(f, "object"), text(f, "text")));
    (finished.code.expect("it ends by itself"), found.collect())
}

fn copy(from: &Path, to: &Path) {
    let mut cp = Command::new("cp");
    let status = as_operator(&mut cp).arg("-a").arg(from).arg(to).status().expect("cp runs");
    assert!(status.success(), "{} {}", from.display(), to.display());
}

/// Puts a directory in the place of another one.
fn put_back(old: &Path, place: &Path) {
    fs::remove_dir_all(place).expect("it is ours");
    copy(old, place);
}

fn held(rig: &Rig, passphrase: &str) -> String {
    let file = rig.pgbr.scratch().file("second", format!("{passphrase}\n"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("it is ours");
    own(&file);
    format!("--new-cipher-pass-file={}", file.display())
}

fn slots(rig: &Rig) -> Vec<String> {
    let json: Value =
        serde_json::from_str(&rig.pgbr.ok(["key-list", "--output=json", "--log-level-console=off"]))
            .expect("JSON");
    let slots = json["slots"].as_array().expect("slots are listed");
    slots.iter().map(|slot| slot["id"].as_str().expect("it has an id").to_owned()).collect()
}

#[test]
fn what_commands_do_raises_no_alarm() {
    let rig = rig();
    let clean = |when: &str| assert_eq!(verify(&rig, &[]), (0, Vec::new()), "{when}");
    clean("after stanza-create");
    assert_eq!(fs::metadata(record(&rig)).expect("it is there").permissions().mode() & 0o777, 0o640);
    let first = rig.backup();
    clean("after a backup");
    let known = fs::read_to_string(record(&rig)).expect("it is text");
    assert!(known.contains(&first) && !known.contains(PASS), "{known}");
    rig.pgbr.ok(["backup", "--type=incr"]);
    rig.archived_segment();

    // Passphrases and keys come and go.
    let second = held(&rig, SECOND);
    rig.pgbr.ok(["key-add", &second]);
    clean("after key-add");
    rig.pgbr.ok(["key-remove", &format!("--slot={}", slots(&rig)[1])]);
    clean("after key-remove");
    rig.pgbr.ok(["key-rotate"]);
    clean("after key-rotate");
    rig.pgbr.ok(["key-change", &second]);
    rig.pgbr.set("global", "repo1-cipher-pass", SECOND);
    clean("after key-change");

    // A host that only writes keeps it as well, for one that reads.
    let add = ["key-add", "--write-only", "--generate", "--log-level-console=off"];
    let writer = rig.pgbr.ok(add).trim().to_owned();
    clean("after key-add --write-only");
    rig.pgbr.set("global", "repo1-cipher-pass", &writer);
    rig.pgbr.ok(["backup", "--type=incr"]);
    let last = rig.labels().pop().expect("it is listed");
    let known = fs::read_to_string(record(&rig)).expect("it is text");
    assert!(known.contains(&last) && !known.contains(&writer), "{known}");
    rig.pgbr.set("global", "repo1-cipher-pass", SECOND);
    clean("after a backup by who only writes");

    // Backups expire by rule, by name, and behind another one; the last of all as well.
    rig.pgbr.ok(["backup", "--type=full", "--repo1-retention-full=1"]);
    assert_eq!(rig.labels().len(), 1);
    clean("after an expire");
    assert!(!fs::read_to_string(record(&rig)).expect("it is text").contains(&first));
    let newest = rig.backup();
    rig.pgbr.ok(["expire", &format!("--set={newest}")]);
    clean("after the newest was expired");

    // Elsewhere somebody changes passphrases, or makes a backup: nothing is missing.
    rig.pgbr.unset("global", "witness-path");
    rig.pgbr.ok(["key-add", "--generate"]);
    rig.backup();
    rig.pgbr.set(
        "global",
        "witness-path",
        &record(&rig).parent().expect("a directory").display().to_string(),
    );
    let (code, found) = verify(&rig, &[]);
    assert_eq!((code, found.len()), (0, 1), "{found:?}");
    assert!(found[0].0 == "info" && found[0].2.contains("does not keep this record"), "{found:?}");
    rig.backup();
    clean("once a backup has taken note");

    rig.pgbr.ok(["stop"]);
    rig.pgbr.ok(["stanza-delete", "--force"]);
    assert!(!record(&rig).exists());
}

#[test]
fn what_was_taken_away_or_put_back_is_found() {
    let rig = rig();
    let (repo, old) = (rig.pgbr.repo_dir(), rig.pgbr.scratch().path().join("old"));
    let first = rig.backup();
    let second = held(&rig, SECOND);
    rig.pgbr.ok(["key-add", &second]);
    copy(&repo, &old);
    let (kept, slot) = (record(&rig).with_extension("kept"), slots(&rig)[1].clone());
    rig.pgbr.ok(["key-remove", &format!("--slot={slot}")]);
    let newest = rig.backup();
    rig.archived_segment();
    rig.pgbr.ok(["expire"]);
    copy(&record(&rig), &kept);
    let new = rig.pgbr.scratch().path().join("new");
    copy(&repo, &new);

    // All of it as it was before: right in itself, and every passphrase of then opens it.
    put_back(&old, &repo);
    let (code, found) = verify(&rig, &[]);
    assert_eq!(code, 28, "{found:?}");
    let says = |object: &str, text: &str| {
        let hit = |(level, of, said): &(String, String, String)| {
            level == "error" && of.contains(object) && said.contains(text)
        };
        assert!(found.iter().any(hit), "'{object}' '{text}' is missing: {found:?}");
    };
    says(&format!("backup/{newest}/manifest"), "it is gone");
    says("repo.json", "was replaced before");
    says("repo.json", &format!("slot {slot}"));
    says("archive/15-1", "it ends with");
    assert!(!found.iter().any(|(_, object, _)| object.contains(&format!("{first}/"))), "{found:?}");
    // The record of another host, by hand; and without one nothing is seen.
    let by_hand = format!("--witness={}", kept.display());
    assert_eq!(verify(&rig, &[&by_hand]).0, 28);
    rig.pgbr.unset("global", "witness-path");
    assert_eq!(verify(&rig, &[]), (0, Vec::new()));
    rig.pgbr.set("global", "witness-path", &kept.parent().expect("a directory").display().to_string());

    // What goes on on top of it does not make the record forget.
    let warned = rig.pgbr.run(["backup", "--type=full"]);
    assert_eq!(warned.code, Some(0), "{warned:#?}");
    assert!(warned.stdout.contains(&format!("backup/{newest}/manifest: it is gone")), "{warned:#?}");
    let (code, found) = verify(&rig, &[]);
    assert!(code == 28 && found.iter().any(|(_, object, _)| object.contains(&newest)), "{found:?}");
    // Until somebody says that it is right as it is. (The WAL has a gap now, which is no matter of the record.)
    let (_, found) = verify(&rig, &["--witness-accept"]);
    assert!(found.iter().all(|(level, ..)| level == "warning") && found.len() == 3, "{found:?}");
    assert_eq!(verify(&rig, &[]).1, []);

    // The newest backup alone is taken away, as somebody would who does not know what belongs to it.
    put_back(&new, &repo);
    copy(&kept, &record(&rig));
    assert_eq!(verify(&rig, &[]), (0, Vec::new()));
    fs::remove_dir_all(rig.stanza_dir().join(format!("backup/{newest}"))).expect("it is ours");
    let (code, found) = verify(&rig, &[]);
    assert!(code == 28 && found.len() == 1 && found[0].1.contains(&newest), "{found:?}");

    // An older repo.json alone, with a slot that was removed.
    put_back(&new, &repo);
    for name in ["pgbr/repo.json", "pgbr/repo.json.copy"] {
        copy(&old.join(name), &repo.join(name));
    }
    let (code, found) = verify(&rig, &[]);
    assert!(code == 28 && found.len() == 2 && found.iter().all(|f| f.1 == "pgbr/repo.json"), "{found:?}");

    // Another backup than the one of that name; the record has the other one here, for who has the key alone could make it there.
    put_back(&new, &repo);
    let mut known: Value =
        serde_json::from_slice(&fs::read(record(&rig)).expect("it is there")).expect("JSON");
    known["backups"][&first]["id"] = "00112233445566778899aabbccddeeff".into();
    fs::write(record(&rig), known.to_string()).expect("it is ours");
    let (code, found) = verify(&rig, &[]);
    assert!(code == 28 && found.len() == 1 && found[0].2.contains("it is not the backup"), "{found:?}");

    // Another repository in its place.
    known["repository-id"] = "00112233445566778899aabbccddeeff".into();
    fs::write(record(&rig), known.to_string()).expect("it is ours");
    let (code, found) = verify(&rig, &[]);
    assert!(
        code == 28 && found.len() == 1 && found[0].2.contains("is not the one of the record"),
        "{found:?}"
    );
}

#[test]
fn a_record_that_cannot_be_used_is_refused() {
    let rig = rig();
    let place = rig.pgbr.scratch().file("bad.json", "{}");
    let by_hand = format!("--witness={}", place.display());
    assert_one_error(
        &rig.pgbr.run(["verify", "--quick", &by_hand]),
        28,
        &["is not a record to compare with"],
    );
    for (text, why) in [
        (r#"{"format":2}"#.to_owned(), "version 2"),
        (format!("{{\"later\":{}", "[".repeat(10_000)), "EOF"),
        (fs::read_to_string(record(&rig)).expect("text").replace("\"demo\"", "\"other\""), "stanza 'other'"),
    ] {
        fs::write(&place, text).expect("it is ours");
        assert_one_error(&rig.pgbr.run(["verify", "--quick", &by_hand]), 28, &[why]);
    }
    assert_one_error(&rig.pgbr.run(["verify", "--quick", "--witness=/nowhere"]), 55, &["/nowhere"]);
    rig.pgbr.unset("global", "witness-path");
    assert_one_error(&rig.pgbr.run(["verify", "--quick", "--witness-accept"]), 31, &["witness-accept"]);
    rig.pgbr.set("global", "witness-path", "/proc/nowhere");
    // A backup that is made is made.
    let finished = rig.pgbr.run(["backup", "--type=full"]);
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    assert!(
        finished.stdout.contains("WARN: repo1: the record of the repository is not up to date"),
        "{finished:#?}"
    );
}
