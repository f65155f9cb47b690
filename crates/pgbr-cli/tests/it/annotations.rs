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
        let bytes = fs::read(rig.pgbr.repo_dir().join(path)).unwrap();
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
    let note = rig.stanza_dir().join(format!("note/{first}.0000000000000002"));
    let mut bytes = fs::read(&note).unwrap();
    bytes[130] ^= 1;
    fs::write(&note, &bytes).unwrap();
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
