//! annotate, and what info makes of it.

use std::fs;

use serde_json::{Value, json};

use crate::rig::{Rig, said};

/// The backup as `info --output=json` shows it.
fn shown(rig: &Rig, label: &str) -> Value {
    let backups = rig.info().pointer("/0/backup").cloned().expect("info has a list of backups");
    let found = backups.as_array().into_iter().flatten().find(|backup| backup["label"] == label);
    found.unwrap_or_else(|| panic!("{label} is missing: {backups}")).clone()
}

/// Its annotations as `info --set` prints them.
fn printed(rig: &Rig, label: &str) -> Vec<String> {
    let text = rig.pgbr.ok(["info", &format!("--set={label}")]);
    let lines = text.lines().skip_while(|line| line.trim() != "annotation(s)").skip(1);
    lines.take_while(|line| line.starts_with("                ")).map(|line| line.trim().to_owned()).collect()
}

#[test]
fn annotations_are_added_changed_and_taken_away() {
    let rig = Rig::sealed();
    rig.pgbr.ok(["backup", "--type=full", "--annotation=who=me", "--annotation=why=test"]);
    let first = rig.labels().pop().unwrap();
    let second = rig.backup();
    let set = format!("--set={first}");
    assert_eq!(shown(&rig, &first)["annotation"], json!({"who": "me", "why": "test"}));
    let before = rig.snapshot_without_wal();

    rig.pgbr.ok(["annotate", &set, "--annotation=who=you", "--annotation=Schlüssel=a=b c"]);
    rig.pgbr.ok(["annotate", &set, "--annotation=why=", "--annotation=more=1"]);
    rig.pgbr.ok(["annotate", &set, "--annotation=more=2"]);
    let now = json!({"who": "you", "Schlüssel": "a=b c", "more": "2"});
    assert_eq!(shown(&rig, &first)["annotation"], now);
    assert_eq!(printed(&rig, &first), ["Schlüssel: a=b c", "more: 2", "who: you"]);
    assert!(shown(&rig, &second).get("annotation").is_none());

    // Three objects are new; none was touched, and none tells anything.
    let after = rig.snapshot_without_wal();
    assert!(before.iter().all(|(path, content)| after.get(path) == Some(content)));
    let new: Vec<_> = after.keys().filter(|path| !before.contains_key(*path)).collect();
    assert_eq!(new.len(), 3, "{new:?}");
    for path in new {
        assert!(path.starts_with("pgbr/demo/note"), "{path:?}");
        let bytes = rig.objects().get(path);
        assert!(!bytes.windows(3).any(|word| word == b"you" || word == b"who"), "{path:?}");
    }

    rig.refused(
        75,
        &["backup set '20200101-000000F' is not in the repository"],
        ["annotate", "--set=20200101-000000F", "--annotation=a=b"],
    );
    rig.refused(32, &["nonsense"], ["annotate", "--set=nonsense", "--annotation=a=b"]);
    rig.refused(37, &["annotation"], ["annotate", &set]);
    rig.refused(37, &["set"], ["annotate", "--annotation=a=b"]);
    let long = format!("--annotation=long={}", "x".repeat(9000));
    rig.refused(96, &["at most 8192 are allowed"], ["annotate", &set, &long]);

    // A note that cannot be read hides no other, and is told of.
    let note = rig.key(&format!("note/{first}.0000000000000002"));
    let mut bytes = rig.objects().get(&note);
    bytes[130] ^= 1;
    rig.objects().put(&note, &bytes);
    let finished = rig.pgbr.run(["info", "--output=json"]);
    let warning = format!("WARN: annotations of backup {first} may be missing or old");
    assert!(finished.success() && finished.stderr.contains(&warning), "{finished:#?}");
    let backup = shown(&rig, &first);
    assert_eq!(backup["annotation"], json!({"who": "you", "why": "test", "Schlüssel": "a=b c", "more": "2"}));
    let error = backup["annotation-error"][0].as_str().unwrap();
    assert!(error.contains(&format!("{first}.0000000000000002")), "{error}");
    assert_eq!(rig.info().pointer("/0/status/code"), Some(&json!(0)));
    let text = said(&rig.pgbr.run(["info", &set]));
    assert!(text.contains("annotation(s) that cannot be read: object"), "{text}");
    // The next note goes on.
    rig.pgbr.ok(["annotate", &set, "--annotation=why="]);
    assert_eq!(printed(&rig, &first), ["Schlüssel: a=b c", "more: 2", "who: you"]);
}

#[test]
fn chains_errors_and_details_are_shown() {
    let rig = Rig::plain();
    // The server must not write its own copy of the page over the damage: autovacuum would, some minute.
    rig.cluster.sql(
        "postgres",
        "create table cold with (autovacuum_enabled = off) as select n from generate_series(1, 1000) n; checkpoint",
    );
    let file = rig.cluster.sql("postgres", "select pg_relation_filepath('cold')");
    let mut labels: Vec<String> = Vec::new();
    for kind in ["full", "incr", "diff", "incr", "incr"] {
        if labels.len() == 3 {
            // A page that nobody reads goes bad.
            let path = rig.cluster.data_dir().join(&file);
            let mut bytes = fs::read(&path).unwrap();
            bytes[6000] ^= 1;
            fs::write(&path, bytes).unwrap();
        }
        rig.pgbr.ok(["backup", &format!("--type={kind}"), "--no-expire-auto"]);
        labels.push(rig.labels().pop().unwrap());
    }
    let [full, incr, diff, third, last] = labels.as_slice() else { unreachable!("five were made") };
    for (label, prior, references) in [
        (full, Value::Null, Value::Null),
        (incr, json!(full), json!([full])),
        (diff, json!(full), json!([full])),
        (third, json!(diff), json!([full, diff])),
        (last, json!(third), json!([full, diff, third])),
    ] {
        let backup = shown(&rig, label);
        assert_eq!((&backup["prior"], &backup["reference"]), (&prior, &references), "{label}");
        assert_eq!(backup["error"], json!(label == third || label == last), "{label}");
        let sizes = &backup["info"]["repository"];
        assert!(sizes["delta"].as_u64() <= sizes["size"].as_u64(), "{backup}");
        assert!(backup.get("error-list").is_none() && backup.get("database-ref").is_none(), "{backup}");
    }
    let text = rig.pgbr.ok(["info"]);
    for total in ["backup reference total: 1 full, 1 diff, 1 incr\n", "backup reference total: 1 full\n"] {
        assert!(text.contains(total), "{text}");
    }

    let set = format!("--set={last}");
    let text = rig.pgbr.ok(["info", &set]);
    for line in [
        format!("backup reference list: {full}, {diff}, {third}\n"),
        format!("error list: {file}\n"),
        "database list: postgres (5)\n".to_owned(),
    ] {
        assert!(text.contains(&line), "{line}: {text}");
    }
    let json: Value = serde_json::from_str(&rig.pgbr.ok(["info", &set, "--output=json"])).unwrap();
    let backup = json.pointer("/0/backup/0").unwrap();
    assert_eq!(backup["error-list"], json!([file]));
    assert_eq!(backup["database-ref"], json!([{"name": "postgres", "oid": 5}]));
    assert_eq!((&backup["link"], &backup["tablespace"]), (&Value::Null, &Value::Null));
    assert_eq!(json.pointer("/0/backup/1"), None, "only the one that was asked for");

    for (kind, wanted) in [("full", vec![full]), ("diff", vec![diff]), ("incr", vec![incr, third, last])] {
        let of_kind: Value =
            serde_json::from_str(&rig.pgbr.ok(["info", "--output=json", &format!("--type={kind}")])).unwrap();
        let found: Vec<_> =
            of_kind[0]["backup"].as_array().unwrap().iter().map(|b| b["label"].as_str().unwrap()).collect();
        assert_eq!(found, wanted);
        // What is not shown still counts as what others build on.
        let references = of_kind.pointer("/0/backup/0/reference").unwrap();
        assert_eq!(references.is_null(), kind == "full");
    }

    // Holds: of one backup, with a reason and without, and their end.
    rig.pgbr.ok(["annotate", &format!("--set={full}"), "--hold", "--hold-reason=year's end"]);
    rig.pgbr.ok(["annotate", &format!("--set={full}"), "--hold", "--annotation=who=me"]);
    let held = shown(&rig, full);
    let reasons = held["hold"].as_array().unwrap().iter().map(|hold| hold["reason"].as_str().unwrap());
    let mut reasons: Vec<_> = reasons.collect();
    reasons.sort_unstable();
    assert_eq!((reasons, &held["annotation"]), (vec!["", "year's end"], &json!({"who": "me"})));
    assert!(held["hold"][0]["created"].is_i64() && held["hold"][0]["id"].is_string(), "{held}");
    assert!(shown(&rig, incr).get("hold").is_none());
    let text = rig.pgbr.ok(["info"]);
    assert_eq!(text.matches("            hold since 2").count(), 2, "{text}");
    assert!(text.contains(": year's end\n"), "{text}");
    rig.pgbr.ok(["annotate", &format!("--set={full}"), "--no-hold"]);
    assert!(shown(&rig, full).get("hold").is_none());

    // Notes go with their backup.
    rig.pgbr.ok(["annotate", &set, "--annotation=who=me"]);
    let notes = || rig.names("note").len();
    assert_eq!(notes(), 2);
    rig.backup();
    rig.pgbr.ok(["expire", &set]);
    assert_eq!(notes(), 1);
    assert!(!rig.labels().contains(last));

    // A link of the chain that cannot be read does not hide the full that all build on.
    let manifest = rig.key(&format!("backup/{diff}/manifest"));
    let mut bytes = rig.objects().get(&manifest);
    bytes[500] ^= 1;
    rig.objects().put(&manifest, &bytes);
    assert_eq!(shown(&rig, third)["reference"], json!([full, diff]));
}
