//! `info` over repositories that pgBackRest wrote, under its name and with its config file, beside what it says itself.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use pgbr_testkit::{Cluster, Finished, PgBackRest, as_operator, run, runnable};
use serde_json::Value;

use crate::monitoring::assert_fits;
use crate::rig::{LIMIT, MAJOR};

/// What our program says in the place of pgBackRest's, where it succeeds.
pub(crate) fn ours(theirs: &PgBackRest, args: &[&str]) -> String {
    let finished = try_ours(theirs, args);
    assert!(finished.success(), "{args:?}: {finished:#?}");
    finished.stdout
}

/// Runs our program in the place of pgBackRest's.
pub(crate) fn try_ours(theirs: &PgBackRest, args: &[&str]) -> Finished {
    let link = theirs.scratch().path().join("pgbackrest");
    if !link.exists() {
        symlink(runnable(Path::new(env!("CARGO_BIN_EXE_pgbr"))), &link).expect("it is ours");
    }
    let config = format!("--config={}", theirs.scratch().path().join("pgbackrest.conf").display());
    run(as_operator(&mut Command::new(link)).arg(config).arg("--stanza=main").args(args), "", LIMIT)
}

/// All that the first document says stands in the second, in the same order.
fn assert_in(path: &str, wanted: &Value, found: &Value) {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => {
            for (key, value) in wanted {
                let of_key = found.get(key).unwrap_or(&Value::Null);
                assert_in(&format!("{path}/{key}"), value, of_key);
            }
        }
        (Value::Array(wanted), Value::Array(found)) => {
            assert_eq!(wanted.len(), found.len(), "{path}: {wanted:#?} {found:#?}");
            wanted
                .iter()
                .zip(found)
                .enumerate()
                .for_each(|(n, (w, f))| assert_in(&format!("{path}/{n}"), w, f));
        }
        _ => assert_eq!(wanted, found, "{path}"),
    }
}

/// What ours says: an older version of pgBackRest, as Debian has it, says less.
fn our_json(theirs: &PgBackRest, args: &[&str]) -> Value {
    let told = json(&ours(theirs, args));
    assert_fits(&told);
    told
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn both_say_the_same_of_a_repository() {
    for repository in [
        vec![("cipher-type", "aes-256-cbc".to_owned()), ("cipher-pass", "a passphrase".to_owned())],
        vec![("bundle", "y".to_owned())],
    ] {
        let cluster = Cluster::builder(MAJOR).conf("archive_mode", "on").init();
        let outside = cluster.scratch().dir("outside");
        let link = cluster.data_dir().join("pg_ident.conf");
        fs::rename(&link, outside.join("pg_ident.conf")).expect("it can be moved");
        symlink(outside.join("pg_ident.conf"), &link).expect("a link");
        cluster.start();
        let space = cluster.scratch().dir("space");
        cluster.sql("postgres", &format!("create tablespace side location '{}'", space.display()));
        let theirs = PgBackRest::new("main", &cluster, std::slice::from_ref(&repository), &[]);
        cluster
            .sql("postgres", &format!("alter system set archive_command = '{}'", theirs.archive_command("")));
        cluster.sql("postgres", "select pg_reload_conf()");
        theirs.ok(["stanza-create"]);
        let args = ["info", "--output=json"];
        assert_in("", &json(&theirs.ok(args).stdout), &our_json(&theirs, &args));
        theirs.ok(["backup", "--type=full", "--annotation=who=somebody"]);
        cluster.sql("postgres", "create table t as select generate_series(1, 1000)");
        theirs.ok(["backup", "--type=diff"]);
        theirs.ok(["backup", "--type=incr"]);
        for args in [&["info", "--output=json"][..], &["info", "--output=json", "--type=full"]] {
            assert_in("", &json(&theirs.ok(args).stdout), &our_json(&theirs, args));
        }
        let backups = json(&theirs.ok(["info", "--output=json"]).stdout);
        let label = backups[0]["backup"][1]["label"].as_str().expect("a label").to_owned();
        let args = ["info", "--output=json", &format!("--set={label}")];
        let (told, found) = (json(&theirs.ok(args).stdout), our_json(&theirs, &args));
        assert_in("", &told, &found);
        assert_eq!(found[0]["backup"][0]["database-ref"][0]["name"], "postgres");
        let args = ["info", &format!("--set={label}")];
        let (text, expected) = (ours(&theirs, &args), theirs.ok(args).stdout);
        for line in ["database list:", "symlinks", "tablespaces", "side (", "reference list"] {
            let line = expected.lines().find(|found| found.contains(line));
            let line = line.unwrap_or_else(|| panic!("{expected}"));
            assert!(text.lines().any(|found| found == line), "'{line}' is missing: {text}");
        }
        let (text, expected) = (ours(&theirs, &["info"]), theirs.ok(["info"]).stdout);
        // Zones, sums of references and the rounding of sizes came with later versions.
        let other = ["timestamp", "reference", "size"];
        for line in expected.lines().filter(|line| !other.iter().any(|word| line.contains(word))) {
            assert!(text.lines().any(|found| found == line), "'{line}' is missing: {text}");
        }
        // Nothing is shown behind the link to the newest backup.
        for args in [&["repo-ls", "backup/main", "--output=json"][..], &["repo-ls", "backup", "--recurse"]] {
            let config = theirs.scratch().path().join("pgbackrest.conf");
            let mut command = Command::new("/usr/bin/pgbackrest");
            as_operator(&mut command).arg(format!("--config={}", config.display())).args(args);
            let expected = run(&mut command, "", LIMIT).stdout;
            // Of empty directories our list, which is that of objects, has none.
            let of_latest = |text: &str| -> Vec<String> {
                text.split([',', '\n']).filter(|line| line.contains("latest")).map(str::to_owned).collect()
            };
            assert_eq!(of_latest(&ours(&theirs, args)), of_latest(&expected));
            assert_eq!(of_latest(&expected).len(), 1, "{expected}");
        }
        // Without the list nobody knows what backups there are, and it is not said that there are none.
        let list = theirs.repository(1).join("backup/main/backup.info");
        for path in [list.with_extension("info.copy"), list] {
            fs::remove_file(path).expect("it is there");
        }
        let args = ["info", "--output=json"];
        let (told, found) = (json(&theirs.ok(args).stdout), our_json(&theirs, &args));
        assert_eq!((&told[0]["status"]["code"], &found[0]["status"]["code"]), (&3.into(), &3.into()));
        assert_in("", &told, &found);
    }
}

/// Tools take the last archive for the one of the current cluster.
#[test]
fn the_current_archive_is_the_last() {
    let (first, second) = (Cluster::builder(MAJOR).init(), Cluster::builder(MAJOR).init());
    let theirs = PgBackRest::new("main", &first, &[Vec::new()], &[]);
    let segment =
        |cluster: &Cluster| cluster.data_dir().join("pg_wal/000000010000000000000001").display().to_string();
    theirs.ok(["--no-online", "stanza-create"]);
    theirs.ok(["archive-push", &segment(&first)]);
    let config = theirs.scratch().path().join("pgbackrest.conf");
    let text = fs::read_to_string(&config).expect("it is there");
    let (here, there) = (first.data_dir().display().to_string(), second.data_dir().display().to_string());
    fs::write(&config, text.replace(&here, &there)).expect("it is ours");
    theirs.ok(["--no-online", "stanza-upgrade"]);
    ours(&theirs, &["--no-online", "stanza-create"]);
    ours(&theirs, &["archive-push", &segment(&second)]);
    let found = our_json(&theirs, &["info", "--output=json"]);
    let ids: Vec<_> = (0..2).map(|n| found[0]["archive"][n]["id"].as_str()).collect();
    assert_eq!(ids, [Some("15-1"), Some("15-2")], "{found}");
}
