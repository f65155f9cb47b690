//! A cluster that pg_upgrade has carried to the next version, in the stanza of the old one.

use std::process::Command;

use pgbr_testkit::{Cluster, PgInstall, Pgbr, StopMode, as_operator, run, words_of};

use crate::rig::{LIMIT, assert_one_error, said};
use crate::world::{World, archiving, last_mark, set_mark};

/// Runs the real pg_upgrade from one stopped cluster into another.
fn pg_upgrade(old: &Cluster, new: &Cluster) {
    let mut command: Command = new.program("pg_upgrade");
    let work = new.scratch().dir("upgrade");
    command.current_dir(&work).arg("-s").arg(&work);
    command.arg("-b").arg(old.install().bin_dir()).arg("-B").arg(new.install().bin_dir());
    command.arg("-d").arg(old.data_dir()).arg("-D").arg(new.data_dir()).args(["-U", "postgres", "--no-sync"]);
    // An option of newer versions; the others are not asked to sync anyway.
    if new.major() < 18 {
        command = without_sync(&command, &work);
    }
    let finished = run(&mut command, "", LIMIT);
    assert!(finished.success(), "{finished:#?}");
}

fn without_sync(command: &Command, work: &std::path::Path) -> Command {
    let words = words_of(command);
    let mut plain = Command::new(&words[0]);
    as_operator(&mut plain);
    plain.args(words[1..].iter().filter(|arg| *arg != "--no-sync")).current_dir(work);
    plain
}

/// A WAL segment that the server has written to.
fn current_segment(cluster: &Cluster) -> String {
    let name = cluster.sql("postgres", "select pg_walfile_name(pg_current_wal_lsn())");
    cluster.data_dir().join("pg_wal").join(name).display().to_string()
}

fn points_to(pgbr: &Pgbr, cluster: &Cluster) {
    pgbr.set_cluster(1, cluster);
    pgbr.archive_from(cluster);
}

#[test]
fn a_stanza_goes_on_with_the_upgraded_cluster_and_keeps_the_old_backups() {
    let (from, to) = PgInstall::upgrade_pair();
    let (from, to) = (from.major(), to.major());
    let world = World::of(Cluster::builder(from));
    let (old, pgbr) = (&world.cluster, &world.pgbr);
    let old_backup = world.backup();
    let mark = world.mark();
    world.archive_all();
    assert!(pgbr.ok(["stanza-upgrade"]).contains("stanza 'demo' on repo1 is already up to date"));
    old.stop(StopMode::Fast);

    let new = archiving(Cluster::builder(to)).init();
    pg_upgrade(old, &new);
    new.start();
    assert_eq!(last_mark(&new), mark.id);
    points_to(pgbr, &new);

    // Nothing of the new cluster goes under the old one's name.
    let refusal = &["stanza-upgrade"];
    assert_one_error(&pgbr.fails(51, ["backup", "--type=full"]), 51, refusal);
    assert_one_error(&pgbr.fails(28, ["stanza-create"]), 28, refusal);
    assert_one_error(&pgbr.fails(28, ["check"]), 28, refusal);
    assert_one_error(&pgbr.fails(44, ["archive-push", &current_segment(&new)]), 44, refusal);
    assert_eq!(world.newest_backup(), old_backup);

    let (old_archive, new_archive) = (format!("{from}-1"), format!("{to}-2"));
    let upgraded = pgbr.ok(["stanza-upgrade"]);
    assert!(upgraded.contains(&format!("goes to archive {new_archive}")), "{upgraded}");
    assert!(pgbr.ok(["stanza-upgrade"]).contains("is already up to date"));
    let none_yet = pgbr.fails(75, ["restore"]);
    assert_one_error(&none_yet, 75, &[&old_backup, "prior version of PostgreSQL", "--set"]);
    // What was refused is archived now, and an increment has nothing to build on.
    let backup = said(&pgbr.run(["backup", "--type=incr"]));
    assert!(backup.contains("incr backup has been changed to full"), "{backup}");
    let new_backup = world.newest_backup();
    assert!(new_backup.ends_with('F') && new_backup != old_backup);
    let new_mark = set_mark(&new);
    crate::world::archive_all(&new);

    let info: serde_json::Value = serde_json::from_str(&pgbr.ok(["info", "--output=json"])).unwrap();
    let of = |pointer: &str| info.pointer(pointer).cloned().unwrap_or_default();
    assert_eq!((of("/0/db/0/version"), of("/0/db/0/id")), (from.to_string().into(), 1.into()));
    assert_eq!((of("/0/db/1/version"), of("/0/db/1/id")), (to.to_string().into(), 2.into()));
    assert_eq!((of("/0/archive/0/id"), of("/0/archive/1/id")), (old_archive.into(), new_archive.into()));
    assert_eq!(
        (of("/0/backup/0/label"), of("/0/backup/0/database/id")),
        (old_backup.as_str().into(), 1.into())
    );
    assert_eq!((of("/0/backup/1/label"), of("/0/backup/1/database/id")), (new_backup.into(), 2.into()));
    let (text, prior) = (pgbr.ok(["info"]), format!("({from}): "));
    let places =
        ["db (prior)", prior.as_str(), old_backup.as_str(), "db (current)"].map(|word| text.find(word));
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{text}");

    // The old backup comes back with the old version's programs, the new one with the new.
    for (major, set, mark) in
        [(from, format!("--set={old_backup}"), mark), (to, "--set=latest".to_owned(), new_mark)]
    {
        let target = Cluster::builder(major).empty();
        world.restore_to(&target, &[&set]);
        target.start();
        target.wait_promoted();
        assert_eq!(last_mark(&target), mark.id, "{major}");
        target.assert_clean();
    }
}

#[test]
fn a_stanza_goes_back_to_the_cluster_before_and_finds_its_wal() {
    let world = World::of(Cluster::builder(15));
    let (old, pgbr) = (&world.cluster, &world.pgbr);
    let backup = world.backup();
    world.mark();
    world.archive_all();
    // Another cluster takes its place for a while.
    let other = archiving(Cluster::builder(PgInstall::newest().major())).start();
    pgbr.set_cluster(1, &other);
    pgbr.ok(["stanza-upgrade"]);
    // The control file alone says as much.
    pgbr.set_cluster(1, old);
    assert!(pgbr.ok(["stanza-upgrade", "--no-online"]).contains("goes to archive 15-3"));
    let mark = world.mark();
    world.archive_all();
    assert!(!pgbr.objects().list("pgbr/demo/archive/15-3").is_empty());
    // The WAL that its backup needs begins in one archive and ends in another.
    let target = world.opened(&[&format!("--set={backup}")]);
    assert_eq!(last_mark(&target), mark.id);
}
