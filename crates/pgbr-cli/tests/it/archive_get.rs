//! archive-get and the end of recovery: PostgreSQL takes every exit code from 1 to 125 for the end of the WAL.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use pgbr_testkit::{Act, Cluster, StopMode, own, wait_until};

use crate::rig::{LIMIT, PASS, Rig, assert_one_error, restore_into};

/// A stanza with a backup, and four rows after it, each in a segment of its own.
fn with_rows() -> (Rig, Vec<String>) {
    let rig = Rig::sealed();
    rig.pgbr.set("global", "archive-timeout", "1");
    rig.cluster.sql("postgres", "create table t (x int)");
    rig.pgbr.ok(["backup", "--type=full", "--archive-timeout=60"]);
    let segments = (1..=4).map(|row| {
        rig.cluster.sql("postgres", &format!("insert into t values ({row})"));
        rig.archived_segment()
    });
    let segments = segments.collect();
    (rig, segments)
}

fn rows(cluster: &Cluster) -> String {
    cluster.sql("postgres", "select count(*) from t")
}

/// Makes a file of the operator's that the server runs before each get.
fn before_each_get(rig: &Rig, target: &Cluster, script: &str) -> String {
    let path = target.scratch().file("get.sh", format!("#!/bin/sh\n{script}\nshift\nexec \"$@\"\n"));
    fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("its owner's");
    let get = rig.pgbr.restore_command();
    let pg1 = target.data_dir().display();
    format!(
        "{} %f {}",
        path.display(),
        get.replace(" archive-get ", &format!(" --pg1-path={pg1} archive-get "))
    )
}

/// The server comes up for reading perhaps, and ends by itself.
#[track_caller]
fn stops(target: &Cluster) -> String {
    let log = target.log().len();
    if target.try_start().is_ok() {
        wait_until(LIMIT, "the server to give up", || !target.is_running());
    }
    let said = target.log()[log..].to_owned();
    assert!(said.contains("FATAL:  could not restore file"), "{said}");
    assert!(said.contains("child process exited with exit code 250"), "{said}");
    assert!(!said.contains("selected new timeline ID"), "{said}");
    assert!(target.data_dir().join("recovery.signal").exists());
    said
}

#[test]
fn a_repository_that_goes_away_in_a_recovery_stops_the_server() {
    let (rig, segments) = with_rows();
    let mut target = rig.target();
    rig.pgbr.ok(restore_into(&target));
    // It goes away after the second row.
    let bring_back: Box<dyn Fn()> = if rig.pgbr.bucket().is_some() {
        let (third, gone) = (segments[2].clone(), AtomicBool::new(false));
        rig.pgbr.proxy().act(move |request| {
            let asked = request.path.contains(&third);
            if gone.fetch_or(asked, Ordering::SeqCst) || asked { Act::Reset } else { Act::Pass }
        });
        Box::new(|| rig.pgbr.proxy().pass())
    } else {
        let (repo, kept) = (rig.pgbr.repo_dir(), rig.pgbr.scratch().path().join("kept"));
        let move_it = format!(
            "if [ \"$1\" = {0} ] && [ -d {1} ]; then mv {1} {2}; fi",
            segments[2],
            repo.display(),
            kept.display()
        );
        let command = before_each_get(&rig, &target, &move_it);
        target.set_override("restore_command", &command);
        let script = target.scratch().path().join("get.sh");
        Box::new(move || {
            assert!(!repo.exists(), "it went away, and nothing grew in its place");
            fs::rename(&kept, &repo).unwrap();
            fs::write(&script, "#!/bin/sh\nshift\nexec \"$@\"\n").unwrap();
        })
    };
    let log = stops(&target);
    assert!(log.contains(&format!("restored log file \"{}\"", segments[1])), "{log}");
    // Started again without it, it comes no further.
    stops(&target);
    bring_back();
    target.start();
    target.wait_promoted();
    assert_eq!(rows(&target), "4");
    target.assert_clean();
}

#[test]
fn a_wrong_passphrase_stops_a_recovery() {
    let (rig, _) = with_rows();
    let target = rig.target();
    rig.pgbr.ok(restore_into(&target));
    rig.pgbr.set("global", "repo1-cipher-pass", "Not-the-passphrase");
    let log = stops(&target);
    assert!(log.contains("passphrase"), "{log}");
    rig.pgbr.set("global", "repo1-cipher-pass", PASS);
    target.start();
    target.wait_promoted();
    assert_eq!(rows(&target), "4");
}

#[test]
fn a_standby_waits_for_its_repository() {
    let (rig, _) = with_rows();
    let mut target = rig.target();
    let mut args = restore_into(&target).to_vec();
    args.push("--type=standby".to_owned());
    rig.pgbr.ok(&args);
    target.set_override("wal_retrieve_retry_interval", "200ms");
    target.start();
    wait_until(LIMIT, "the standby to catch up", || rows(&target) == "4");
    let away = rig.take_away();
    rig.cluster.sql("postgres", "insert into t values (5)");
    let segment = rig.cluster.switch_wal();
    let log = target.log().len();
    wait_until(LIMIT, "the standby to have tried in vain", || {
        target.log()[log..].matches("archive-get command end: aborted").count() > 2
    });
    assert!(target.is_running());
    assert_eq!(
        (rows(&target).as_str(), target.sql("postgres", "select pg_is_in_recovery()")),
        ("4", "t".into())
    );
    away.bring_back();
    rig.wait_archived(&segment);
    wait_until(LIMIT, "the standby to catch up", || rows(&target) == "5");
    target.stop(StopMode::Fast);
}

/// The exit codes, asked for one by one.
#[test]
fn exit_codes() {
    let (rig, segments) = with_rows();
    let data = rig.cluster.scratch().dir("copy");
    let wal = data.join("pg_wal");
    fs::create_dir(&wal).unwrap();
    own(&wal);
    let got = wal.join("RECOVERYXLOG");
    let pg1 = format!("--pg1-path={}", data.display());
    let get = |file: &str, codes: [i32; 3], words: &[&str]| {
        for (signals, code) in
            [(&[][..], codes[0]), (&["recovery.signal"], codes[1]), (&["standby.signal"], codes[2])]
        {
            signals.iter().for_each(|signal| fs::write(data.join(signal), "").unwrap());
            let finished = rig.pgbr.run([&pg1, "archive-get", file, "pg_wal/RECOVERYXLOG"]);
            signals.iter().for_each(|signal| fs::remove_file(data.join(signal)).unwrap());
            assert_eq!(finished.code, Some(code), "{file} with {signals:?}: {finished:#?}");
            let left: Vec<_> = fs::read_dir(&wal).unwrap().flatten().collect();
            if code == 0 {
                assert_eq!((left.len(), fs::metadata(&got).unwrap().len()), (1, 16 << 20));
                fs::remove_file(&got).unwrap();
            } else {
                assert!(left.is_empty(), "{left:?}");
            }
            if code > 1 {
                assert_one_error(&finished, codes[0], words);
            } else if code == 1 {
                assert!(
                    finished.stdout.contains(&format!("unable to find {file} in the archive")),
                    "{finished:#?}"
                );
            }
        }
    };
    let present = segments[3].as_str();
    let missing = "0000000100000000000000FF";
    get(present, [0; 3], &[]);
    // Known not to be there: that and nothing else is 1.
    for file in [missing, "00000002.history", "000000020000000000000001"] {
        get(file, [1; 3], &[]);
    }

    let away = rig.take_away();
    get(present, [42, 250, 42], &["unable to reach", "repo"]);
    get(missing, [42, 250, 42], &["unable to reach", "repo"]);
    away.bring_back();

    let object = rig.wal_key(present);
    let content = rig.objects().get(&object);
    let other = rig.objects().get(&rig.wal_key(&segments[2]));
    for bytes in [&content[..content.len() / 2], b"", &other] {
        rig.objects().put(&object, bytes);
        get(present, [28, 250, 28], &[present]);
    }
    rig.objects().put(&object, &content);
    if rig.pgbr.bucket().is_none() {
        exit_codes_of_a_directory(&rig, present, missing, get);
    }

    rig.pgbr.set("global", "repo1-cipher-pass", "Not-the-passphrase");
    get(present, [95, 250, 95], &["passphrase"]);
    get(missing, [95, 250, 95], &["passphrase"]);
    rig.pgbr.set("global", "repo1-cipher-pass", PASS);

    // Found, and nowhere to put it.
    fs::set_permissions(&wal, Permissions::from_mode(0o550)).unwrap();
    get(present, [64, 250, 64], &["pg_wal/RECOVERYXLOG", "Permission denied"]);
    fs::set_permissions(&wal, Permissions::from_mode(0o750)).unwrap();
    get(present, [0; 3], &[]);
}

/// What only files and directories can be.
fn exit_codes_of_a_directory(rig: &Rig, present: &str, missing: &str, get: impl Fn(&str, [i32; 3], &[&str])) {
    let away = rig.take_away();
    // An empty directory where the disk should be mounted is no repository.
    fs::create_dir(rig.pgbr.repo_dir()).expect("the repository is ours");
    own(&rig.pgbr.repo_dir());
    get(missing, [55, 250, 55], &["stanza-create"]);
    fs::remove_dir(rig.pgbr.repo_dir()).expect("the repository is ours");
    away.bring_back();

    let stanza = rig.stanza_dir();
    let kept = stanza.with_extension("kept");
    fs::rename(&stanza, &kept).expect("the repository is ours");
    get(missing, [55, 250, 55], &["stanza 'demo'"]);
    fs::rename(&kept, &stanza).expect("the repository is ours");

    let object = rig.wal_object(present);
    fs::set_permissions(&object, Permissions::from_mode(0o000)).expect("the repository is ours");
    get(present, [41, 250, 41], &[present, "Permission denied"]);
    fs::set_permissions(&object, Permissions::from_mode(0o640)).expect("the repository is ours");
    let dir = object.parent().map(Path::to_owned).expect("the repository is ours");
    fs::set_permissions(&dir, Permissions::from_mode(0o000)).expect("the repository is ours");
    get(present, [41, 250, 41], &[present, "Permission denied"]);
    get(missing, [41, 250, 41], &[missing, "Permission denied"]);
    fs::set_permissions(&dir, Permissions::from_mode(0o750)).expect("the repository is ours");
}
