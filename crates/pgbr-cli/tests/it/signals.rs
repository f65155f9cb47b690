//! Signals, and commands that meet each other: nothing half-done is listed, and nobody waits for the dead.

use std::time::Duration;

use pgbr_testkit::{Finished, StopMode, program_name, run, wait_until};
use rustix::process::Signal;

use crate::flavor;
use crate::rig::{Frozen, LIMIT, Rig, assert_one_error, assert_unusable, restore_into, said};

const BACKUP: [&str; 2] = ["backup", "--type=full"];

/// A backup begins at once and succeeds.
#[track_caller]
fn next_backup_works(rig: &Rig) {
    rig.assert_no_backup_mode();
    let listed = rig.labels().len();
    let finished = rig.pgbr.run(BACKUP);
    assert!(finished.success() && finished.elapsed < Duration::from_secs(45), "{finished:#?}");
    assert!(!said(&finished).contains("another process holds"), "{finished:#?}");
    assert_eq!(rig.labels().len(), listed + 1);
    rig.still_archives();
}

#[track_caller]
fn assert_stopped(finished: &Finished) {
    assert_eq!(finished.code, Some(63), "{finished:#?}");
    assert_one_error(finished, 63, &["stopped"]);
    assert!(finished.elapsed < Duration::from_secs(15), "{finished:#?}");
}

#[test]
fn a_backup_that_is_asked_to_end_takes_away_what_it_stored() {
    let rig = Rig::sealed();
    rig.slow_down();
    let before = rig.snapshot_without_wal();
    // While it copies.
    let frozen = rig.frozen_backup_with(&["--no-resume"]);
    frozen.send(Signal::TERM);
    assert_stopped(&frozen.thaw());
    assert_eq!(rig.snapshot_without_wal(), before, "packs and pin are gone");
    assert_eq!(rig.labels(), [""; 0]);
    rig.assert_no_backup_mode();

    // While it waits for a checkpoint that takes its time.
    rig.cluster.set_conf("checkpoint_timeout", "1h");
    rig.cluster.set_conf("checkpoint_completion_target", "1.0");
    rig.cluster.reload();
    rig.cluster.sql("postgres", "update pgbench_accounts set abalance = 1");
    let waits =
        "select count(*) from pg_stat_activity where query ~* '^select.*pg_backup_start' and state = 'active'
                   and application_name like '% [%]'";
    let frozen = Frozen::at(rig.pgbr.command(["backup", "--type=full", "--no-start-fast"]), || {
        rig.cluster.sql("postgres", waits) == "1"
    });
    frozen.send(Signal::INT);
    assert_stopped(&frozen.thaw());
    assert_eq!(rig.snapshot_without_wal(), before);

    // While it waits for WAL.
    rig.cluster.set_conf("archive_command", &format!("true {}", program_name()));
    rig.cluster.reload();
    let frozen = Frozen::at(rig.pgbr.command(BACKUP), || {
        rig.cluster
            .sql("postgres", "select count(*) from pg_stat_activity where application_name like '% [%]'")
            == "1"
            && !rig.names("pin").is_empty()
    });
    frozen.send(Signal::HUP);
    assert_stopped(&frozen.thaw());
    assert_eq!(rig.snapshot_without_wal(), before);
    rig.pgbr.archive_from(&rig.cluster);
    next_backup_works(&rig);
}

#[test]
fn a_backup_that_is_asked_to_end_is_resumed_by_the_next() {
    let rig = Rig::sealed();
    rig.slow_down();
    let frozen = rig.frozen_backup();
    frozen.send(Signal::TERM);
    let stopped = frozen.thaw();
    assert_stopped(&stopped);
    assert!(said(&stopped).contains("are kept: the next full backup resumes it"), "{stopped:#?}");
    assert_eq!(rig.labels(), [""; 0]);
    let kept = rig.packs();
    assert!(kept > 0);
    let finished = rig.pgbr.run(BACKUP);
    assert!(finished.success() && said(&finished).contains("resume backup "), "{finished:#?}");
    assert_eq!(rig.labels().len(), 1);
    let target = rig.target();
    rig.pgbr.ok(restore_into(&target));
    target.start();
    target.wait_promoted();
    target.assert_clean();
}

#[test]
fn a_backup_that_is_killed_leaves_nothing_that_is_listed() {
    let rig = Rig::sealed();
    rig.slow_down();
    let frozen = rig.frozen_backup();
    frozen.send(Signal::KILL);
    assert_eq!(frozen.thaw().code, None);
    assert_eq!(rig.labels(), [""; 0]);
    assert!(rig.pgbr.ok(["info"]).contains("error (no valid backups)"));
    next_backup_works(&rig);
    // The server died in the middle of a backup: that fails, and the next one works.
    let frozen = rig.frozen_backup();
    rig.cluster.kill9();
    let finished = frozen.thaw();
    assert_one_error(&finished, 57, &["PostgreSQL", "connection closed"]);
    rig.cluster.start();
    next_backup_works(&rig);
}

#[test]
fn two_at_once_on_one_host() {
    let rig = Rig::plain();
    rig.slow_down();
    let first = rig.frozen_backup();
    for args in [&BACKUP[..], &["stanza-create"]] {
        let hint = format!("HINT: is another {} process running?", flavor().product());
        assert_one_error(&rig.pgbr.fails(50, args), 50, &["lock", "demo-backup", &hint]);
    }
    // Those that do not write backups are not kept waiting.
    rig.pgbr.ok(["info"]);
    rig.still_archives();
    let finished = first.thaw();
    assert!(finished.success(), "{finished:#?}");
    assert_eq!(rig.labels().len(), 1);

    let target = rig.target();
    let first = rig.frozen_restore(&target);
    assert_one_error(&rig.pgbr.fails(50, restore_into(&target)), 50, &["lock", "demo-restore"]);
    let finished = first.thaw();
    assert!(finished.success(), "{finished:#?}");
    target.start();
    target.wait_promoted();
    target.stop(StopMode::Fast);
}

#[test]
fn a_restore_that_is_asked_to_end_leaves_no_control_file() {
    let rig = Rig::sealed();
    rig.slow_down();
    rig.backup();
    // The server may still be archiving what the backup has left in its queue.
    let before = rig.names("backup");
    let target = rig.target();
    let frozen = rig.frozen_restore(&target);
    frozen.send(Signal::INT);
    assert_stopped(&frozen.thaw());
    assert_eq!((rig.names("backup"), rig.names("pin")), (before, Vec::new()), "its pin is gone");
    assert_unusable(&target);
    // Killed, it leaves no more than that.
    let [restore, into] = restore_into(&target);
    let mut again = rig.pgbr.command([&restore, &into, "--delta"]);
    let (base, started) = (target.data_dir().join("base"), target.data_dir().join("base/1"));
    let open = target.data_dir().join("global/pg_control");
    let met = (0..20).find_map(|_| {
        // With all the work before it.
        std::fs::remove_dir_all(&base).unwrap();
        match Frozen::met(rig.pgbr.command([&restore, &into, "--delta"]), || started.exists()) {
            Some(frozen) if !open.exists() => Some(frozen),
            // On a busy machine it was met too late.
            late => {
                drop(late.map(Frozen::thaw));
                None
            }
        }
    });
    let frozen = met.expect("a restore in the middle of its work");
    frozen.send(Signal::KILL);
    assert_eq!(frozen.thaw().code, None);
    assert_unusable(&target);
    let finished = run(&mut again, "", LIMIT);
    assert!(finished.success(), "{finished:#?}");
    target.start();
    target.wait_promoted();
    wait_until(LIMIT, "rows to be there", || {
        target.sql("postgres", "select count(*) from pgbench_accounts") == "200000"
    });
}
