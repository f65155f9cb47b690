//! The repository going away while a command works on it, and coming back.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgbr_testkit::{StopMode, wait_until};

use crate::rig::{LIMIT, Rig, assert_one_error, assert_unusable, restore_into, said};

#[test]
fn during_archiving_nothing_is_lost() {
    let rig = Rig::plain();
    rig.cluster.sql("postgres", "create table t (x int)");
    rig.backup();
    let away = rig.take_away();
    let log = rig.cluster.log().len();
    let segments: Vec<String> = (1..=3)
        .map(|row| {
            rig.cluster.sql("postgres", &format!("insert into t values ({row})"));
            rig.cluster.switch_wal()
        })
        .collect();
    wait_until(LIMIT, "the archiver to have tried in vain", || {
        rig.cluster.log()[log..].contains("archive command failed with exit code 42")
    });
    let status = rig.cluster.data_dir().join("pg_wal/archive_status");
    assert!(segments.iter().all(|segment| status.join(format!("{segment}.ready")).exists()));
    away.bring_back();
    segments.iter().for_each(|segment| rig.wait_archived(segment));
    let target = rig.target();
    rig.pgbr.ok(restore_into(&target));
    target.start();
    target.wait_promoted();
    assert_eq!(target.sql("postgres", "select count(*) from t"), "3");
}

#[test]
fn during_a_backup_it_fails_and_the_next_one_works() {
    let rig = Rig::sealed();
    rig.slow_down();
    let frozen = rig.frozen_backup();
    let away = rig.take_away();
    let finished = frozen.thaw();
    assert_one_error(&finished, 42, &["unable to reach", "is the repository mounted"]);
    assert_eq!(said(&finished).contains("uri-style"), rig.pgbr.bucket().is_some(), "{finished:#?}");
    away.bring_back();
    rig.assert_no_backup_mode();
    assert_eq!(rig.labels(), [""; 0]);
    // Whoever held the lease is known to be dead: nobody waits for it.
    let finished = rig.pgbr.run(["backup", "--type=full"]);
    assert!(finished.success() && finished.elapsed < Duration::from_secs(45), "{finished:#?}");
    assert_eq!(rig.labels().len(), 1);
    rig.still_archives();
}

#[test]
fn during_a_restore_no_cluster_is_left_that_starts() {
    let rig = Rig::sealed();
    rig.slow_down();
    rig.backup();
    let before = rig.cluster.table_digest("postgres");
    rig.archived_segment();
    let target = rig.target();
    let frozen = rig.frozen_restore(&target);
    let away = rig.take_away();
    let finished = frozen.thaw();
    assert_one_error(&finished, 42, &["unable to reach", "is the repository mounted"]);
    assert_unusable(&target);
    away.bring_back();
    // Without a word about replacing what is there it is left alone.
    let finished = rig.pgbr.fails(40, restore_into(&target));
    assert_one_error(&finished, 40, &["contains files", "--delta"]);
    let [restore, into] = restore_into(&target);
    rig.pgbr.ok([restore, into, "--delta".to_owned()]);
    target.start();
    target.wait_promoted();
    assert_eq!(target.table_digest("postgres"), before);
    target.assert_clean();
}

/// Media that can only be read: nothing can be pinned there, and nobody can take anything away either.
#[test]
fn a_repository_that_cannot_be_written_to_is_restored_from() {
    let rig = Rig::plain();
    rig.backup();
    let before = rig.cluster.table_digest("postgres");
    rig.archived_segment();
    rig.cluster.stop(StopMode::Fast);
    let closed = Closed::below(&rig.pgbr.repo_dir());
    let target = rig.target();
    let finished = rig.pgbr.run(restore_into(&target));
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert!(said(&finished).contains("WARN: the repository cannot be written to"), "{finished:?}");
    target.start();
    target.wait_promoted();
    assert_eq!(target.table_digest("postgres"), before);
    drop(closed);
}

/// Directories that their owner may not write to, until this is dropped.
struct Closed(Vec<PathBuf>);

impl Closed {
    fn below(root: &Path) -> Self {
        let mut found = vec![root.to_owned()];
        let mut at = 0;
        while let Some(dir) = found.get(at).cloned() {
            at += 1;
            let entries = fs::read_dir(dir).expect("a repository can be listed").flatten();
            found.extend(entries.map(|entry| entry.path()).filter(|path| path.is_dir()));
        }
        found.iter().for_each(|dir| set_mode(dir, 0o555));
        Self(found)
    }
}

impl Drop for Closed {
    fn drop(&mut self) {
        self.0.iter().for_each(|dir| set_mode(dir, 0o750));
    }
}

fn set_mode(dir: &Path, mode: u32) {
    fs::set_permissions(dir, fs::Permissions::from_mode(mode)).expect("a mode can be set");
}
