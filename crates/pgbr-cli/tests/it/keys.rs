//! Passphrases of a repository come and go, and its key is replaced, while backups and archiving go on.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use pgbr_testkit::own;

use crate::rig::{PASS, Rig, assert_one_error, restore_into, said};
use crate::world::{last_mark, set_mark};

const SECOND: &str = "Quixotic-lantern-57-harbour";
const THIRD: &str = "Umbrella-83-sundial-kestrel";

/// A file that holds a passphrase, and the option that names it.
fn held(rig: &Rig, name: &str, passphrase: &str) -> String {
    let file: PathBuf = rig.pgbr.scratch().path().join(name);
    fs::write(&file, format!("{passphrase}\n")).expect("it can be written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("it is ours");
    own(&file);
    format!("--new-cipher-pass-file={}", file.display())
}

fn use_pass(rig: &Rig, passphrase: &str) {
    rig.pgbr.set("global", "repo1-cipher-pass", passphrase);
}

/// The slots as the JSON tells them: id, name, whether it is in use.
fn slots(rig: &Rig) -> Vec<(String, Option<String>, bool)> {
    let json: serde_json::Value =
        serde_json::from_str(&rig.pgbr.ok(["key-list", "--output=json", "--log-level-console=off"]))
            .expect("it is JSON");
    let slots = json["slots"].as_array().expect("slots are listed");
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let of = |slot: &serde_json::Value| {
        (text(&slot["id"]).expect("it has an id"), text(&slot["name"]), slot["in-use"] == true)
    };
    slots.iter().map(of).collect()
}

#[test]
fn passphrases_come_and_go_without_data_being_written_again() {
    let rig = Rig::sealed();
    rig.cluster.sql("postgres", "create table mark (id int primary key)");
    rig.backup();
    let before = rig.snapshot_of(&rig.key("backup"));

    // A second one, by name; both open it.
    let second = held(&rig, "second", SECOND);
    rig.pgbr.ok(["key-add", &second, "--slot-name=night shift"]);
    let listed = slots(&rig);
    let names: Vec<_> = listed.iter().map(|(_, name, used)| (name.as_deref(), *used)).collect();
    assert_eq!(names, [(None, true), (Some("night shift"), false)]);
    let text = rig.pgbr.ok(["key-list"]);
    assert!(text.contains("\"night shift\"") && !text.contains(PASS) && !text.contains(SECOND), "{text}");
    rig.still_archives();
    use_pass(&rig, SECOND);
    assert!(slots(&rig)[1].2);
    rig.pgbr.ok(["backup", "--type=incr"]);

    // The first one goes, and opens nothing any more.
    let (first, _, _) = &listed[0];
    rig.pgbr.ok(["key-remove", &format!("--slot={first}")]);
    use_pass(&rig, PASS);
    let refused = rig.pgbr.run(["backup", "--type=incr"]);
    assert_one_error(&refused, 95, &["passphrase"]);
    use_pass(&rig, SECOND);
    let last = slots(&rig);
    assert_one_error(
        &rig.pgbr.run(["key-remove", &format!("--slot={}", last[0].0)]),
        96,
        &["cannot be removed"],
    );
    assert_one_error(&rig.pgbr.run(["key-remove", "--slot=0123456789abcdef"]), 96, &["is not one of"]);
    assert_one_error(
        &rig.pgbr.run(["key-remove", "--slot=night"]),
        32,
        &["'night' is not valid", "key-list"],
    );

    // Changed in one step, to one that is made and shown once.
    let changed = rig.pgbr.ok(["key-change", "--generate", "--log-level-console=off"]);
    let generated = changed.trim().to_owned();
    assert!(generated.starts_with("pgbr-key-") && generated.len() == 61, "{changed:#?}");
    assert_one_error(&rig.pgbr.run(["check"]), 95, &["passphrase"]);
    use_pass(&rig, &generated);
    rig.pgbr.ok(["check"]);
    assert_eq!(slots(&rig).len(), 1);
    let after = rig.snapshot_of(&rig.key("backup"));
    assert!(before.iter().all(|(key, seen)| after.get(key) == Some(seen)), "an object was written again");
    let logs = fs::read_dir(rig.pgbr.log_dir()).expect("there are logs").flatten();
    let logs: String = logs.map(|log| fs::read_to_string(log.path()).expect("it is text")).collect();
    assert!(logs.contains("key-change command begin"), "{logs}");
    assert!([PASS, SECOND, &generated].iter().all(|secret| !logs.contains(*secret)), "{logs}");
}

#[test]
fn a_new_key_seals_what_comes_and_opens_what_was_there() {
    let rig = Rig::sealed();
    rig.cluster.sql("postgres", "create table mark (id int primary key)");
    rig.cluster.pgbench_init(1);
    rig.backup();
    let early = set_mark(&rig.cluster);
    rig.archived_segment();
    let second = held(&rig, "second", SECOND);
    rig.pgbr.ok(["key-add", &second]);
    let sealed_under = |rig: &Rig, key: &str| rig.objects().get(key)[24..40].to_vec();
    let manifest = |rig: &Rig, label: &str| rig.key(&format!("backup/{label}/manifest"));
    let full = rig.labels().pop().expect("it is listed");
    let old = sealed_under(&rig, &manifest(&rig, &full));

    // A broken run of before is not taken up by one under the new key: all that a manifest names has one.
    rig.pgbr.ok(["key-rotate"]);
    assert_eq!(slots(&rig).len(), 1, "the passphrases that nobody gave are gone");
    use_pass(&rig, SECOND);
    assert_one_error(&rig.pgbr.run(["check"]), 95, &["passphrase"]);
    use_pass(&rig, PASS);

    rig.cluster.sql("postgres", "update pgbench_accounts set abalance = 7 where aid % 50 = 0");
    rig.pgbr.ok(["backup", "--type=incr"]);
    let labels = rig.labels();
    assert!(
        labels.len() == 2 && labels[1].starts_with(&full),
        "an increment on top of the old full: {labels:?}"
    );
    let new = sealed_under(&rig, &manifest(&rig, &labels[1]));
    assert_ne!(old, new);
    let incr_packs = rig.objects().list(&rig.key(&format!("backup/{}/pack", labels[1])));
    assert!(incr_packs.iter().all(|pack| sealed_under(&rig, pack) == new));
    let segment = rig.archived_segment();
    assert_eq!(sealed_under(&rig, &rig.wal_key(&segment)), new);

    // Twice more, to a passphrase of its own.
    rig.pgbr.ok(["key-rotate", &second]);
    use_pass(&rig, SECOND);
    rig.pgbr.ok(["key-rotate"]);
    let late = set_mark(&rig.cluster);
    rig.archived_segment();

    rig.pgbr.ok(["verify"]);
    // The chain of two keys, to its end; and the full with WAL of all of them, to a moment in between.
    let target = rig.target();
    rig.pgbr.ok(restore_into(&target));
    target.start();
    target.wait_promoted();
    assert_eq!(last_mark(&target), late.id);
    assert_eq!(target.table_digest("postgres"), rig.cluster.table_digest("postgres"));
    target.assert_clean();
    let target = rig.target();
    let (set, moment) = (format!("--set={full}"), format!("--target={}", early.after));
    let options = [set.as_str(), "--type=time", &moment, "--target-action=promote", "--archive-mode=off"];
    rig.pgbr.ok(restore_into(&target).iter().map(String::as_str).chain(options));
    target.start();
    target.wait_promoted();
    assert_eq!(last_mark(&target), early.id);
    target.assert_clean();
}

/// Who writes with the old key does not know the new one: nobody does while it is replaced. A passphrase is added beside it.
#[test]
fn a_key_is_not_replaced_under_a_backup() {
    let rig = Rig::sealed();
    rig.slow_down();
    let backup = rig.frozen_backup();
    rig.pgbr.ok(["key-add", &held(&rig, "second", SECOND)]);
    std::thread::scope(|scope| {
        let rotated = scope.spawn(|| rig.pgbr.run(["key-rotate"]));
        std::thread::sleep(Duration::from_secs(3));
        assert!(!rotated.is_finished(), "it waits for the backup");
        assert_eq!(backup.thaw().code, Some(0));
        let rotated = rotated.join().expect("it runs");
        match rotated.code {
            Some(0) => {}
            // It saw a sign of life before the end.
            _ => {
                assert_one_error(&rotated, 50, &["lease"]);
                rig.pgbr.ok(["key-rotate"]);
            }
        }
    });
    rig.pgbr.ok(["backup", "--type=incr"]);
    let target = rig.target();
    rig.pgbr.ok(restore_into(&target));
    target.start();
    target.wait_promoted();
    target.assert_clean();
}

#[test]
fn what_a_broken_run_stored_under_another_key_is_not_taken_up() {
    let rig = Rig::sealed();
    rig.slow_down();
    let broken = rig.frozen_backup();
    broken.send(rustix::process::Signal::KILL);
    assert_eq!(broken.thaw().code, None);
    rig.pgbr.ok(["key-rotate"]);
    let finished = rig.pgbr.run(["backup", "--type=full"]);
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    assert!(!said(&finished).contains("resume backup"), "{finished:#?}");
    let target = rig.target();
    rig.pgbr.ok(restore_into(&target));
    target.start();
    target.wait_promoted();
    target.assert_clean();
}

/// Exports the key into a file of the operator, and gives the option that names it.
fn export(rig: &Rig, name: &str, options: &[&str]) -> String {
    let text = rig.pgbr.ok(["key-export"].iter().chain(options));
    assert!(text.contains("-----BEGIN PGBR KEY-----") && !text.contains(PASS), "{text}");
    let file = rig.pgbr.scratch().file(name, text);
    format!("--export-file={}", file.display())
}

fn lose_repo_json(rig: &Rig) {
    for name in ["repo.json", "repo.json.copy"] {
        rig.objects().remove(&format!("pgbr/{name}"));
    }
}

#[test]
fn a_repository_comes_back_by_its_exported_key() {
    let rig = Rig::sealed();
    rig.backup();
    rig.pgbr.ok(["key-rotate"]);
    rig.pgbr.ok(["backup", "--type=incr"]);
    rig.archived_segment();
    let second = held(&rig, "second", SECOND);
    let exported = export(&rig, "exported", &[&second]);
    let export_pass = second.replace("new-cipher-pass", "export-pass");

    // There is no need for it yet.
    let import = ["key-import", &exported, &export_pass];
    assert_one_error(&rig.pgbr.run(import), 31, &["opens with the passphrase in the configuration"]);

    lose_repo_json(&rig);
    assert_one_error(&rig.pgbr.run(["verify"]), 55, &["no repository"]);
    let refused = rig.pgbr.run(["stanza-create"]);
    assert!(refused.code != Some(0) && said(&refused).contains("key-import"), "{refused:#?}");
    use_pass(&rig, THIRD);
    assert_one_error(&rig.pgbr.run(["key-import", &exported]), 37, &["passphrase", "export-pass-file"]);
    let wrong = held(&rig, "wrong", "not it").replace("new-cipher-pass", "export-pass");
    assert_one_error(&rig.pgbr.run(["key-import", &exported, &wrong]), 95, &["passphrase"]);
    let other = Rig::sealed();
    let foreign = export(&other, "foreign", &[&second]).replace("--export-file=", "");
    let here = rig.pgbr.scratch().file("foreign", fs::read(foreign).expect("it was exported"));
    let foreign = format!("--export-file={}", here.display());
    assert_one_error(
        &rig.pgbr.run(["key-import", &foreign, &export_pass]),
        96,
        &["is of another repository"],
    );
    drop(other);
    let text = fs::read_to_string(exported.replace("--export-file=", "")).expect("it was exported");
    let torn = rig.pgbr.scratch().file("torn", text.replacen("\n=", "a\n=", 1));
    let torn = format!("--export-file={}", torn.display());
    assert_one_error(&rig.pgbr.run(["key-import", &torn, &export_pass]), 28, &["not an exported key"]);

    rig.pgbr.ok(import);
    let keys: serde_json::Value =
        serde_json::from_str(&rig.pgbr.ok(["key-list", "--output=json", "--log-level-console=off"]))
            .expect("JSON");
    assert_eq!((keys["slots"].as_array().map(Vec::len), &keys["retired"]), (Some(1), &1.into()));
    assert!(rig.objects().get("pgbr/repo.json") == rig.objects().get("pgbr/repo.json.copy"));
    rig.pgbr.ok(["verify"]);
    rig.still_archives();
    rig.pgbr.ok(["backup", "--type=incr"]);
    let target = rig.target();
    rig.pgbr.ok(restore_into(&target));
    target.start();
    target.wait_promoted();
    target.assert_clean();

    // Nobody knows the passphrase any more, and repo.json is there: one is added. The export holds its passphrase itself.
    let open = export(&rig, "open", &["--generate"]);
    let text = fs::read_to_string(open.replace("--export-file=", "")).expect("it was exported");
    let generated = text.lines().find_map(|line| line.strip_prefix("passphrase: ")).expect("it stands there");
    use_pass(&rig, SECOND);
    rig.pgbr.ok(["key-import", &open]);
    assert_eq!(slots(&rig).len(), 2);
    use_pass(&rig, THIRD);
    assert_eq!(slots(&rig).len(), 2);

    let logs = fs::read_dir(rig.pgbr.log_dir()).expect("there are logs").flatten();
    let logs: String = logs.map(|log| fs::read_to_string(log.path()).expect("it is text")).collect();
    assert!(logs.contains("key-import command begin") && logs.contains("key-export command end"), "{logs}");
    let block = text.lines().skip_while(|line| !line.starts_with("-----BEGIN")).nth(1).expect("a line of it");
    assert!([PASS, SECOND, THIRD, generated, block].iter().all(|secret| !logs.contains(*secret)), "{logs}");
}

#[test]
fn an_exported_key_that_was_replaced_opens_what_came_before() {
    let rig = Rig::sealed();
    let full = rig.backup();
    // So that a recovery that reads ahead stays with what the old key has sealed.
    rig.archived_segment();
    rig.archived_segment();
    let old = export(&rig, "old", &["--generate"]);
    rig.pgbr.ok(["key-rotate"]);
    rig.pgbr.ok(["backup", "--type=incr"]);
    use_pass(&rig, SECOND);
    // The key of now is there: it would be lost by one of before.
    assert_one_error(&rig.pgbr.run(["key-import", &old]), 96, &["was replaced by key"]);
    lose_repo_json(&rig);
    let said = rig.pgbr.ok(["key-import", &old]);
    assert!(said.contains("came after the export"), "{said}");
    let target = rig.target();
    let options = [format!("--set={full}"), "--type=immediate".to_owned(), "--archive-mode=off".to_owned()];
    rig.pgbr.ok(restore_into(&target).iter().chain(&options));
    target.set_conf("recovery_prefetch", "off");
    target.start();
}

/// Whether the export is of before the first passphrase for writing only or of after it: who reads has all of it back, and the database host goes on
/// once its passphrase was added again.
#[test]
fn with_passphrases_that_only_write_an_exported_key_brings_back_who_reads() {
    let rig = Rig::sealed();
    rig.backup();
    rig.pgbr.ok(["key-rotate"]);
    let early = export(&rig, "early", &["--generate"]);
    let add = ["key-add", "--write-only", "--generate", "--log-level-console=off"];
    let writer = rig.pgbr.ok(add).trim().to_owned();
    use_pass(&rig, &writer);
    rig.pgbr.ok(["backup", "--type=incr"]);
    rig.archived_segment();
    assert_one_error(&rig.pgbr.run(["key-export", "--generate"]), 95, &["for writing only"]);
    use_pass(&rig, PASS);
    let late = export(&rig, "late", &["--generate"]);
    let add_again = ["key-add".to_owned(), "--write-only".to_owned(), held(&rig, "writer", &writer)];

    for exported in [&early, &late] {
        lose_repo_json(&rig);
        use_pass(&rig, THIRD);
        let said = rig.pgbr.ok(["key-import", exported]);
        assert!(said.contains("key-add --write-only") && !said.contains("came after"), "{said}");
        assert_eq!(slots(&rig).len(), 1);
        let text = rig.objects().get("pgbr/repo.json");
        assert!(text.starts_with(b"{\"format\":2,"), "older programs must not write to it");
        rig.pgbr.ok(["verify"]);
        use_pass(&rig, &writer);
        assert_one_error(&rig.pgbr.run(["check"]), 95, &["passphrase"]);
        use_pass(&rig, THIRD);
        rig.pgbr.ok(&add_again);
        use_pass(&rig, &writer);
        rig.still_archives();
        rig.pgbr.ok(["backup", "--type=incr"]);
    }
    use_pass(&rig, THIRD);
    rig.pgbr.ok(["verify"]);
    let target = rig.target();
    rig.pgbr.ok(restore_into(&target));
    target.start();
    target.wait_promoted();
    target.assert_clean();

    // Where repo.json is there, those who write stay, and none of them comes to read.
    use_pass(&rig, &writer);
    assert_one_error(&rig.pgbr.run(["key-import", &early]), 96, &["opens the repository for writing only"]);
    use_pass(&rig, SECOND);
    rig.pgbr.ok(["key-import", &early]);
    assert_eq!(slots(&rig).len(), 3);
    use_pass(&rig, &writer);
    rig.still_archives();
    assert_one_error(&rig.pgbr.run(["verify", "--quick"]), 95, &["for writing only"]);
}

#[test]
fn what_is_missing_is_said() {
    let rig = Rig::sealed();
    assert_one_error(&rig.pgbr.run(["key-add"]), 37, &["requires option: new-cipher-pass", "--generate"]);
    assert_one_error(&rig.pgbr.run(["key-remove"]), 37, &["slot"]);
    assert_one_error(
        &rig.pgbr.run(["key-add", "--new-cipher-pass-file=/nowhere"]),
        55,
        &["unable to read '/nowhere' of option 'new-cipher-pass-file'"],
    );
    let both = rig.pgbr.run(["key-add", "--generate", &held(&rig, "second", SECOND)]);
    assert_one_error(&both, 31, &["'generate' is not valid"]);
    let open = Rig::plain();
    assert_one_error(&open.pgbr.run(["key-list"]), 95, &["not encrypted"]);
    assert_one_error(&open.pgbr.run(["key-export", "--generate"]), 95, &["not encrypted"]);
    assert_one_error(&rig.pgbr.run(["key-export"]), 37, &["requires option: new-cipher-pass"]);
    assert_one_error(&rig.pgbr.run(["key-import"]), 37, &["export-file"]);
    assert_one_error(
        &rig.pgbr.run(["key-import", "--export-file=/nowhere"]),
        55,
        &["unable to read '/nowhere'"],
    );
}
