//! stop, start and stanza-delete: what is kept from running, what is ended, and what is taken away.

use std::fs;
use std::path::PathBuf;

use pgbr_testkit::{Finished, StopMode, run};

use crate::rig::{LIMIT, Rig, STANZA, assert_one_error, restore_into, said};

/// The stop file of the rig's stanza, or of all.
fn stop_file(rig: &Rig, name: &str) -> PathBuf {
    rig.pgbr.scratch().path().join("lock").join(format!("{name}.stop"))
}

/// Runs a command for all stanzas.
#[track_caller]
fn for_all(rig: &Rig, args: &[&str]) -> Finished {
    let config = format!("--config={}", rig.pgbr.config_path().display());
    let words = std::iter::once(config.as_str()).chain(args.iter().copied());
    let finished = run(&mut rig.pgbr.bare_command(words), "", LIMIT);
    assert!(finished.success(), "{finished:#?}");
    finished
}

#[track_caller]
fn assert_warns(finished: &Finished, text: &str) {
    assert!(finished.success() && said(finished).contains(&format!("WARN: {text}")), "{finished:#?}");
}

#[test]
fn writers_stand_still_and_readers_do_not() {
    let rig = Rig::plain();
    let label = rig.backup();
    let segment = rig.archived_segment();
    let object = rig.wal_key(&segment);

    for (name, whom) in [(STANZA, "stanza demo"), ("all", "all stanzas")] {
        let stopping = |args: &[&str]| match name {
            "all" => for_all(&rig, args),
            _ => rig.pgbr.run(args),
        };
        assert!(!said(&stopping(&["stop"])).contains("WARN"), "{whom}");
        assert_eq!(fs::read(stop_file(&rig, name)).unwrap(), b"");
        assert_warns(&stopping(&["stop"]), &format!("stop file already exists for {whom}"));

        let reason = format!("stop file exists for {whom}");
        let wal = rig.cluster.data_dir().join("pg_wal").join(&segment).display().to_string();
        for args in [
            &["backup", "--type=full"][..],
            &["stanza-create"],
            &["stanza-upgrade"],
            &["expire"],
            &["archive-push", &wal],
        ] {
            rig.refused(62, &[&reason], args.iter().copied());
        }
        // A server that recovers, and people who look, go on.
        let got = rig.cluster.scratch().path().join("got").display().to_string();
        rig.pgbr.ok(["archive-get", &segment, &got]);
        assert_eq!(fs::read(&got).unwrap().len(), 16 << 20);
        assert_eq!(rig.labels(), [label.as_str()]);
        let target = rig.target();
        rig.pgbr.ok(restore_into(&target));
        rig.pgbr.ok(["annotate", &format!("--set={label}"), "--annotation=stopped=yes"]);

        if name == "all" {
            let kept = rig.pgbr.run(["start"]);
            assert_warns(&kept, "stop file does not exist for stanza demo");
            assert_warns(&kept, "stanza demo stays stopped");
            rig.refused(62, &[&reason], ["backup", "--type=full"]);
        }
        assert!(!said(&stopping(&["start"])).contains("WARN"), "{whom}");
        assert!(!stop_file(&rig, name).exists());
        let again = match name {
            "all" => "stop file does not exist",
            _ => "stop file does not exist for stanza demo",
        };
        assert_warns(&stopping(&["start"]), again);
        rig.still_archives();
    }
    // Another stanza's file concerns nobody here.
    fs::write(stop_file(&rig, "other"), b"").unwrap();
    rig.backup();
    assert!(rig.objects().has(&object));
}

#[test]
fn force_ends_who_holds_a_lock_and_nobody_else() {
    let rig = Rig::plain();
    rig.slow_down();
    // What a broken run has stored is else kept for the next.
    rig.pgbr.set("global", "resume", "n");
    let before = rig.snapshot_without_wal();
    // Left over from a crash, with the number of a process that lives: this test's.
    let locks = rig.pgbr.scratch().path().join("lock");
    let stale = locks.join("demo-restore-1.lock");
    fs::write(&stale, format!("{{\"execId\":\"1-00000000\",\"pid\":{}}}", std::process::id())).unwrap();

    let frozen = rig.frozen_backup();
    let stopped = rig.pgbr.run(["stop", "--force"]);
    assert!(
        said(&stopped).contains(&format!("sent term signal to process {}", frozen.pid())),
        "{stopped:#?}"
    );
    assert_eq!(said(&stopped).matches("term signal").count(), 1, "{stopped:#?}");
    let finished = frozen.thaw();
    assert_one_error(&finished, 63, &["stopped"]);
    assert_eq!(rig.snapshot_without_wal(), before, "packs and pin are gone");
    rig.assert_no_backup_mode();
    rig.refused(62, &["stop file exists for stanza demo"], ["backup", "--type=full"]);
    rig.pgbr.ok(["start"]);

    // A lock file that names somebody else than its holder, as one written in another container does.
    let innocent = locks.join("demo-backup-1.lock");
    let frozen = rig.frozen_backup();
    fs::write(&innocent, format!("{{\"execId\":\"1-00000000\",\"pid\":{}}}", std::process::id())).unwrap();
    let stopped = for_all(&rig, &["stop", "--force"]);
    assert_warns(&stopped, &format!("unable to send term signal to process {}", std::process::id()));
    for_all(&rig, &["start"]);
    let finished = frozen.thaw();
    assert!(finished.success(), "{finished:#?}");
    assert_eq!(rig.labels().len(), 1);
}

/// Whether anything of the stanza is left: nothing, where it is a directory not even that.
fn is_gone(rig: &Rig) -> bool {
    rig.names("").is_empty() && (rig.pgbr.bucket().is_some() || !rig.stanza_dir().exists())
}

#[test]
fn a_stanza_is_removed_when_nothing_uses_it() {
    let rig = Rig::sealed();
    let label = rig.backup();
    rig.pgbr.ok(["annotate", &format!("--set={label}"), "--annotation=who=me"]);
    // A second stanza in the same repository.
    let other = |args: &[&str]| {
        let config = format!("--config={}", rig.pgbr.config_path().display());
        let socket = format!("--pg1-socket-path={}", rig.cluster.socket_dir().display());
        let path = format!("--pg1-path={}", rig.cluster.data_dir().display());
        let (port, user) = (format!("--pg1-port={}", rig.cluster.port()), "--pg1-user=postgres");
        let words = ["--stanza=other", &config, &socket, &path, &port, user];
        run(&mut rig.pgbr.bare_command(words.into_iter().chain(args.iter().copied())), "", LIMIT)
    };
    assert!(other(&["stanza-create"]).success());
    let files = |stanza: &str| rig.snapshot_of(&format!("pgbr/{stanza}")).len();
    let (kept, before) = (files("other"), files(STANZA));

    rig.refused(55, &["stop file does not exist for stanza 'demo'", "stop command"], ["stanza-delete"]);
    // One for all stanzas is not meant for this one.
    for_all(&rig, &["stop"]);
    rig.refused(55, &["stop file does not exist for stanza 'demo'"], ["stanza-delete"]);
    for_all(&rig, &["start"]);
    rig.pgbr.ok(["stop"]);
    rig.refused(38, &["while PostgreSQL is running", "--force"], ["stanza-delete"]);
    assert_eq!(files(STANZA), before);

    rig.cluster.stop(StopMode::Fast);
    rig.pgbr.ok(["stanza-delete"]);
    assert!(is_gone(&rig));
    assert!(!stop_file(&rig, STANZA).exists());
    assert_eq!(files("other"), kept);
    let info = rig.info();
    assert_eq!(info.pointer("/0/status/message").unwrap(), "missing stanza path");

    // Where there is none, that is said; and a new one can be made.
    rig.pgbr.ok(["stop"]);
    assert_warns(&rig.pgbr.run(["stanza-delete"]), "stanza 'demo' does not exist on repo1");
    assert!(!stop_file(&rig, STANZA).exists());
    rig.cluster.start();
    rig.pgbr.ok(["stanza-create"]);
    rig.backup();
    rig.pgbr.ok(["stop"]);
    rig.pgbr.ok(["stanza-delete", "--force"]);
    assert!(is_gone(&rig));
    assert_eq!(files("other"), kept);
}

#[test]
fn a_backup_under_way_keeps_its_stanza() {
    let rig = Rig::plain();
    rig.slow_down();
    let frozen = rig.frozen_backup();
    rig.pgbr.ok(["stop"]);
    assert_one_error(&rig.pgbr.fails(50, ["stanza-delete", "--force"]), 50, &["lock", "demo-backup"]);
    // It is not disturbed; that its WAL arrives takes a start.
    rig.pgbr.ok(["start"]);
    let finished = frozen.thaw();
    assert!(finished.success(), "{finished:#?}");
    rig.pgbr.ok(["stop"]);
    rig.pgbr.ok(["stanza-delete", "--force"]);
    assert!(is_gone(&rig));
}
