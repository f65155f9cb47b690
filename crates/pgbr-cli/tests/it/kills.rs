//! SIGKILL in the middle of a large backup, again and again, and of its restore: the next run goes on where the last one was.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pgbr_testkit::Cluster;

use crate::rig::{MAJOR, assert_unusable};
use crate::state::{check_pages, open_backup, state};
use crate::world::{World, archiving, restore_args};

const MIB: u64 = 1 << 20;

/// One big table whose rows no compression would shrink much; that they are stored as they are makes bytes comparable.
fn world() -> World {
    let cluster = archiving(Cluster::builder(MAJOR)).start();
    grow(&cluster, "big", 370_000);
    World::around(cluster, |pgbr| {
        pgbr.set("global", "repo1-pack-size", "1MiB");
        pgbr.set("global", "compress-type", "none");
    })
}

/// Some 1300 bytes a row, 6 rows a page.
fn grow(cluster: &Cluster, table: &str, rows: u32) {
    let make = format!(
        "create table {table} as select g, repeat(md5(g::text), 40) v from generate_series(1, {rows}) g; checkpoint"
    );
    cluster.sql("postgres", &make);
}

/// The packs of all backups, by path, with their sizes.
fn packs(world: &World) -> BTreeMap<String, u64> {
    let objects = world.pgbr.objects().sizes("pgbr/demo/backup");
    objects.into_iter().filter(|(key, _)| key.contains("/pack/")).collect()
}

fn bytes(packs: &BTreeMap<String, u64>) -> u64 {
    packs.values().sum()
}

/// Starts a command and kills it as soon as `seen` is true; what it had written to standard output.
#[track_caller]
fn kill_when(mut command: Command, mut seen: impl FnMut() -> bool) -> String {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = child.expect("the program can be started");
    let start = Instant::now();
    while !seen() {
        let ended = child.try_wait().expect("a child can be asked for its state");
        assert!(ended.is_none(), "it ended before the moment that was waited for: {ended:?}");
        assert!(start.elapsed() < Duration::from_secs(120), "the moment does not come");
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().expect("a child that was not waited for can be killed");
    let output = child.wait_with_output().expect("a child can be waited for");
    assert_eq!(output.status.code(), None, "it was killed");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// How many bytes a run says that broken runs had stored.
fn taken_up(log: &str) -> u64 {
    let Some(line) = log.lines().find(|line| line.contains("resume backup ")) else { return 0 };
    let after = line.split(": ").last().and_then(|rest| rest.split(' ').next());
    after.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no number of bytes: {line}"))
}

/// Kills backups when each of `marks` more bytes are stored, lets one come to its end, and gives what all of them have sent.
/// Each must take up what was there when it began.
fn backup_with_kills(world: &World, kind: &str, marks: &[u64]) -> u64 {
    let before = packs(world);
    let stored = |now: &BTreeMap<String, u64>| -> u64 {
        now.iter().filter(|(path, _)| !before.contains_key(*path)).map(|(_, size)| size).sum()
    };
    let args = ["backup", kind];
    for mark in marks {
        let durable = stored(&packs(world));
        let log = kill_when(world.pgbr.command(args), || stored(&packs(world)) >= durable + mark);
        assert_all_taken_up(&log, durable);
    }
    let durable = stored(&packs(world));
    let log = world.pgbr.ok(args);
    assert_all_taken_up(&log, durable);
    assert!(log.contains("new backup label"), "{log}");
    // Nothing of what was there has gone, so this is what all runs have sent.
    stored(&packs(world))
}

#[track_caller]
fn assert_all_taken_up(log: &str, durable: u64) {
    let taken = taken_up(log);
    assert!(taken * 5 >= durable * 4, "{taken} of {durable} bytes were taken up: {log}");
}

#[test]
fn backups_that_are_killed_go_on_where_they_were() {
    let world = world();
    let full = backup_with_kills(&world, "--type=full", &[30 * MIB, 120 * MIB, 7 * MIB, 90 * MIB]);
    let first = (world.newest_backup(), state(&world.cluster));
    // What a full needs, sent at once.
    let before = bytes(&packs(&world));
    world.backup();
    let needed = bytes(&packs(&world)) - before;
    let durable = 247 * MIB;
    assert!(full <= needed + durable / 5, "sent {full} where {needed} were needed");

    grow(&world.cluster, "more", 110_000);
    let size = world.cluster.sql("postgres", "select pg_table_size('more')");
    let needed: u64 = size.parse().expect("a size");
    let incr = backup_with_kills(&world, "--type=incr", &[20 * MIB, 50 * MIB, 30 * MIB]);
    // The catalogs have changed as well.
    assert!(incr <= needed + 100 * MIB / 5 + 4 * MIB, "sent {incr} where {needed} were needed");
    let second = (world.newest_backup(), state(&world.cluster));
    assert_ne!(first.1, second.1);

    restores_with_kills(&world, &second);
    let target = Cluster::builder(MAJOR).empty();
    open_backup(&world.pgbr, &target, &first.0, &[]);
    assert_eq!(state(&target), first.1);
    check_pages(&target);
}

/// A restore that is killed leaves nothing that starts; the one that ends sets everything right.
fn restores_with_kills(world: &World, (label, then): &(String, String)) {
    let target = Cluster::builder(MAJOR).empty();
    let set = format!("--set={label}");
    let base = target.data_dir().join("base");
    for (mark, delta) in [(60 * MIB, None), (200 * MIB, Some("--delta")), (350 * MIB, Some("--delta"))] {
        let options: Vec<&str> = [set.as_str()].into_iter().chain(delta).collect();
        // With --delta, what is right is left alone: the files that it writes are seen by their growth.
        kill_when(world.pgbr.command(restore_args(&target, &options)), || allocated(&base) >= mark);
        assert_unusable(&target);
    }
    fs::write(base.join("1/99999"), "of no backup").expect("a file can be written");
    open_backup(&world.pgbr, &target, label, &["--delta"]);
    assert!(!base.join("1/99999").exists(), "what is not in the backup goes");
    assert_eq!(state(&target), *then);
    check_pages(&target);
}

/// Bytes on disk below a directory, holes left out.
fn allocated(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => allocated(&entry.path()),
        Ok(meta) => meta.blocks() * 512,
        Err(_) => 0,
    };
    entries.map(size).sum()
}
