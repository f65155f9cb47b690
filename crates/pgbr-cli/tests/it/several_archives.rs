//! WAL in several repositories: each gets its own, and any of them serves.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use pgbr_testkit::{Pgbr, StoreKind, own, program_name};

use crate::rig::{PASS, Rig, STANZA, assert_one_error, cluster, said};

/// Two repositories, the second one encrypted.
fn two() -> Rig {
    let cluster = cluster();
    let pgbr = Pgbr::on(StoreKind::Posix, env!("CARGO_BIN_EXE_pgbr"), STANZA, &cluster);
    Rig::around(cluster, pgbr, |pgbr| {
        let second = pgbr.scratch().dir("second");
        pgbr.set("global", "repo2-path", &second.display().to_string());
        pgbr.encrypt(2, "aes-256-gcm", PASS);
        pgbr.set("global", "archive-timeout", "1");
    })
}

fn second(rig: &Rig) -> PathBuf {
    rig.pgbr.scratch().path().join("second")
}

fn object_in(repo: &Path, segment: &str) -> PathBuf {
    repo.join("pgbr/demo/archive/15-1").join(&segment[..16]).join(segment)
}

#[test]
fn a_repository_that_is_away_gets_its_wal_later_and_the_other_at_once() {
    let rig = two();
    let segment = rig.archived_segment();
    assert!(object_in(&rig.pgbr.repo_dir(), &segment).exists());
    assert!(object_in(&second(&rig), &segment).exists());

    let (place, kept) = (second(&rig), rig.pgbr.scratch().path().join("kept"));
    fs::rename(&place, &kept).unwrap();
    let log = rig.cluster.log().len();
    let late = rig.cluster.switch_wal();
    let path = rig.cluster.data_dir().join("pg_wal").join(&late);
    let failed = rig.pgbr.run(["archive-push", &path.display().to_string()]);
    assert_one_error(
        &failed,
        42,
        &["archive-push command encountered error(s)", "\n", "repo2: unable to reach"],
    );
    assert!(!said(&failed).contains("repo1: "), "{failed:#?}");
    assert!(object_in(&rig.pgbr.repo_dir(), &late).exists(), "the first repository has it");
    assert!(!place.exists(), "nothing grew where the second one was");
    let ready = rig.cluster.data_dir().join("pg_wal/archive_status").join(format!("{late}.ready"));
    assert!(ready.exists(), "the server was not told that it is archived");

    fs::rename(&kept, &place).unwrap();
    rig.wait_archived(&late);
    assert!(object_in(&place, &late).exists());
    let log = rig.cluster.log()[log..].to_owned();
    assert!(log.contains("repo2: unable to reach"), "{log}");
    let again = rig.pgbr.ok(["archive-push", &path.display().to_string()]);
    for key in [1, 2] {
        let words = format!("already exists in the repo{key} archive with the same content");
        assert!(again.contains(&words), "{again}");
    }
}

#[test]
fn wal_comes_from_the_first_repository_that_has_it_whole() {
    let rig = two();
    let segment = rig.archived_segment();
    let directory = rig.pgbr.scratch().dir("got");
    own(&directory);
    let got = directory.join("RECOVERYXLOG");
    let content = fs::read(rig.cluster.data_dir().join("pg_wal").join(&segment)).unwrap();
    let get = |file: &str, options: &[&str]| {
        let destination = got.display().to_string();
        fs::remove_file(&got).ok();
        rig.pgbr.run(["archive-get", file, &destination].iter().chain(options))
    };
    let archive = format!("{}-1", rig.cluster.major());
    let found = |options: &[&str], repo: u32, words: &[&str]| {
        let finished = get(&segment, options);
        assert!(finished.success(), "{finished:#?}");
        let text = said(&finished);
        assert!(text.contains(&format!("found {segment} in the repo{repo}: {archive} archive")), "{text}");
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
        assert_eq!(text.contains("WARN"), !words.is_empty(), "{text}");
        assert!(fs::read(&got).unwrap() == content);
    };
    found(&[], 1, &[]);
    found(&["--repo=2"], 2, &[]);

    // Damaged, missing, or out of reach in the first one.
    let object = object_in(&rig.pgbr.repo_dir(), &segment);
    let whole = fs::read(&object).unwrap();
    fs::write(&object, &whole[..whole.len() / 2]).unwrap();
    found(&[], 2, &["WARN: repo1: passed over for", "is damaged"]);
    assert_one_error(&get(&segment, &["--repo=1"]), 28, &["is damaged"]);
    fs::remove_file(&object).unwrap();
    found(&[], 2, &[]);
    assert_eq!(get(&segment, &["--repo=1"]).code, Some(1));
    fs::write(&object, &whole).unwrap();
    own(&object);
    let away = rig.take_away();
    found(&[], 2, &["WARN: repo1: passed over for", "unable to reach"]);

    // Missing is what every repository says, and nothing less.
    let missing = "0000000100000000000000FF";
    let unknown = get(missing, &[]);
    assert_one_error(&unknown, 42, &["unable to get", "repo1: unable to reach"]);
    assert_eq!(get(missing, &["--repo=2"]).code, Some(1));
    away.bring_back();
    let unfound = get(missing, &[]);
    assert_eq!(unfound.code, Some(1), "{unfound:#?}");
    assert!(!got.exists());
}

/// A push that still knows a repository which was here before seals for keys that are gone. A backup finds that out before it is listed.
#[test]
fn a_backup_refuses_wal_that_was_sealed_for_another_repository() {
    let cluster = cluster();
    let pgbr = Pgbr::on(StoreKind::Posix, env!("CARGO_BIN_EXE_pgbr"), STANZA, &cluster);
    let rig = Rig::around(cluster, pgbr, |pgbr| pgbr.encrypt(1, "aes-256-gcm", PASS));
    // One with the same passphrase and other keys, whose objects come into the first.
    let before = Pgbr::on(StoreKind::Posix, env!("CARGO_BIN_EXE_pgbr"), STANZA, &rig.cluster);
    before.encrypt(1, "aes-256-gcm", PASS);
    before.ok(["stanza-create"]);
    let archive = |pgbr: &Pgbr| pgbr.repo_dir().join("pgbr/demo/archive");
    let (from, to) = (archive(&before), archive(&rig.pgbr));
    let push = before.archive_command().replace("%p", "\"$1\"");
    let copy = format!("mkdir -p {1} && cp -r {0}/. {1}/", from.display(), to.display());
    let script = rig
        .pgbr
        .scratch()
        .file(&format!("{}-push.sh", program_name()), format!("#!/bin/sh\n{push} && {copy}\n"));
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    rig.cluster.set_conf("archive_command", &format!("{} %p", script.display()));
    rig.cluster.reload();
    let failed = rig.pgbr.run(["backup", "--type=full", "--no-expire-auto"]);
    assert_one_error(&failed, 28, &["archive/15-1/", "does not belong here"]);
    assert!(rig.labels().is_empty(), "a backup is listed whose WAL nobody can read");
    rig.pgbr.archive_from(&rig.cluster);
    rig.backup();
}
