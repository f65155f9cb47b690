//! Power loss: no success is told before everything is on disk, and nothing goes before what made it rubbish is on disk.
//!
//! The real program runs under strace; the order of its calls is laid on a [`Disk`] that forgets whatever was not synced. The rules are
//! tried on made-up traces as well, in which the order is wrong.

use std::path::{Path, PathBuf};
use std::process::Command;

use pgbr_testkit::{Cluster, Pgbr, Scratch, StopMode, as_operator};

use crate::disk::{Disk, Lost};
use crate::strace::{Call, Event, parse, traced};

const CONTROL: &str = "global/pg_control";
const MARKER: &str = "pgbr.restore";

/// A file of an unfinished put: nobody was told of it.
fn is_staging(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().contains('#'))
}

/// What would be lost of the objects below a directory. An object whose removal is lost is there again: no loss.
fn lost_objects(disk: &Disk, root: &Path) -> Vec<Lost> {
    let lost = disk.lost(root).into_iter();
    lost.filter(|lost| !matches!(lost, Lost::Removal(_)) && !is_staging(lost.path())).collect()
}

/// The line on which the program tells of its success: in words, else by its exit code.
fn success(events: &[Event]) -> usize {
    let says = |event: &&Event| match &event.call {
        Call::Say(text) => text.contains("completed successfully") || text.contains("pushed WAL file"),
        _ => false,
    };
    let ends = |event: &&Event| event.call == Call::Exit(0);
    let told = events.iter().find(says).or_else(|| events.iter().rev().find(ends));
    told.expect("the program told of success").begin
}

/// What is not durable at the moment of success.
fn lost_at_success(events: &[Event], roots: &[&Path]) -> Vec<Lost> {
    let disk = Disk::before(events, success(events));
    roots.iter().flat_map(|root| lost_objects(&disk, root)).collect()
}

/// The call that gives a path its name.
fn naming<'a>(events: &'a [Event], path: &Path) -> &'a Event {
    let names = |event: &&Event| match &event.call {
        Call::Link { to, .. } | Call::Rename { to, .. } => to == path,
        _ => false,
    };
    events.iter().find(names).unwrap_or_else(|| panic!("{} got its name", path.display()))
}

/// What is not durable when the manifest gets its name: the packs above all.
fn lost_at_manifest(events: &[Event], label_dir: &Path) -> Vec<Lost> {
    let disk = Disk::before(events, naming(events, &label_dir.join("manifest")).begin);
    lost_objects(&disk, label_dir)
}

/// Files of other processes that a backup relies on and that it did not sync, with their directories, before its manifest.
fn unsettled(events: &[Event], label_dir: &Path, files: &[PathBuf], root: &Path) -> Vec<PathBuf> {
    let line = naming(events, &label_dir.join("manifest")).begin;
    let synced = |path: &Path| {
        events.iter().any(|event| event.end < line && event.call == Call::Sync(path.to_owned()))
    };
    let needed = files.iter().flat_map(|file| file.ancestors().take_while(|path| path.starts_with(root)));
    needed.filter(|path| !synced(path)).map(Path::to_owned).collect()
}

/// Removals of pins and leases before the manifest that they wait for is durable.
fn early_releases(events: &[Event], stanza_dir: &Path, label_dir: &Path) -> Vec<PathBuf> {
    let held = |path: &Path| ["pin", "lease"].iter().any(|dir| path.starts_with(stanza_dir.join(dir)));
    let removed = events.iter().filter_map(|event| match &event.call {
        Call::Remove(path) if held(path) && !is_staging(path) => Some((event, path)),
        _ => None,
    });
    let early = removed.filter(|(event, _)| {
        let disk = Disk::before(events, event.begin);
        !disk.has(&label_dir.join("manifest")) || !lost_objects(&disk, label_dir).is_empty()
    });
    early.map(|(_, path)| path.clone()).collect()
}

/// Whatever a restore does in the wrong order.
fn restore_faults(events: &[Event], roots: &[&Path]) -> Vec<String> {
    let pg_data = roots[0];
    let (control, marker) = (pg_data.join(CONTROL), pg_data.join(MARKER));
    let mut faults = Vec::new();
    let opening = naming(events, &control);
    let disk = Disk::before(events, opening.begin);
    for lost in roots.iter().flat_map(|root| disk.lost(root)) {
        faults.push(format!("pg_control gets its name before this is durable: {lost:?}"));
    }
    for event in events {
        let Call::Remove(path) = &event.call else { continue };
        if !roots.iter().any(|root| path.starts_with(root)) || *path == control {
            continue;
        }
        let disk = Disk::before(events, event.begin);
        if *path == marker {
            let lost = roots.iter().flat_map(|root| disk.lost(root));
            faults.extend(lost.map(|lost| format!("the marker goes before this is durable: {lost:?}")));
        } else if disk.has(&control)
            || disk.lost(&control).contains(&Lost::Removal(control.clone()))
            || !disk.has(&marker)
            || !disk.lost(&marker).is_empty()
        {
            faults.push(format!("{} goes while a server could start on what is left", path.display()));
        }
    }
    for lost in lost_at_success(events, roots) {
        faults.push(format!("success is told before this is durable: {lost:?}"));
    }
    faults
}

/// The same trace of a program that forgets to sync.
fn without_syncs(events: &[Event]) -> Vec<Event> {
    let syncs = |event: &&Event| matches!(event.call, Call::Sync(_) | Call::SyncFs(_) | Call::SyncAll);
    events.iter().filter(|event| !syncs(event)).cloned().collect()
}

fn none<T: std::fmt::Debug>() -> [T; 0] {
    []
}

#[test]
fn the_program_tells_of_success_when_everything_is_on_disk() {
    // Its WAL lies elsewhere, and so do a tablespace and what a restore makes of both.
    let elsewhere = Scratch::new();
    let wal = format!("--waldir={}", elsewhere.path().join("wal").display());
    let cluster = Cluster::builder(15).initdb_args([wal]).conf("archive_mode", "on").start();
    let pgbr = Pgbr::new(env!("CARGO_BIN_EXE_pgbr"), "demo", &cluster);
    pgbr.set("global", "process-max", "2");
    pgbr.set("global", "repo1-pack-size", "1MiB");
    stanza_create_is_durable(&pgbr);
    push_is_durable(&pgbr, &cluster);

    pgbr.archive_from(&cluster);
    let space = cluster.scratch().dir("space");
    cluster.sql("postgres", &format!("create tablespace space location '{}'", space.display()));
    let table = "create table t tablespace space as select g, md5(g::text) from generate_series(1, 20000) g";
    cluster.sql("postgres", table);
    backup_is_durable(&pgbr);
    expire_is_durable(&pgbr);
    cluster.stop(StopMode::Fast);
    let target = Cluster::builder(15).empty();
    restores_are_durable(&pgbr, &target, &elsewhere.path().join("restored/wal"));
    target.start();
    assert_eq!(target.sql("postgres", "select count(*) from t"), "20000");
}

/// What a command did that must succeed.
fn trace(pgbr: &Pgbr, args: &[&str]) -> Vec<Event> {
    let (finished, events) = traced(&pgbr.command(args), &pgbr.scratch().path().join("trace"));
    assert!(finished.success(), "{args:?}: {finished:#?}");
    events
}

fn stanza_create_is_durable(pgbr: &Pgbr) {
    let events = trace(pgbr, &["stanza-create"]);
    let repo = pgbr.repo_dir();
    assert_eq!(lost_at_success(&events, &[&repo]), none());
    assert!(!lost_at_success(&without_syncs(&events), &[&repo]).is_empty());
    let made = Disk::before(&events, success(&events));
    for object in ["repo.json", "repo.json.copy", "demo/stanza.json", "demo/stanza.json.copy"] {
        assert!(made.has(&repo.join("pgbr").join(object)), "the trace shows how {object} was made");
    }
}

/// Archives a segment by hand, and the same once more: what is found there is made durable as well.
fn push_is_durable(pgbr: &Pgbr, cluster: &Cluster) {
    let segment = cluster.switch_wal();
    let file = cluster.data_dir().join("pg_wal").join(&segment).display().to_string();
    let events = trace(pgbr, &["archive-push", &file]);
    let object = pgbr.repo_dir().join("pgbr/demo/archive/15-1").join(&segment[..16]).join(&segment);
    assert_eq!(lost_at_success(&events, &[&pgbr.repo_dir()]), none());
    assert!(Disk::before(&events, success(&events)).has(&object), "the trace shows how the object was made");

    let events = trace(pgbr, &["archive-push", &file]);
    let line = success(&events);
    for path in object.ancestors().take_while(|path| path.starts_with(pgbr.repo_dir())) {
        let synced = |e: &Event| e.end < line && e.call == Call::Sync(path.to_owned());
        assert!(events.iter().any(synced), "'the same is there' is told before {} is synced", path.display());
    }
}

fn backup_is_durable(pgbr: &Pgbr) {
    let (repo, stanza) = (pgbr.repo_dir(), pgbr.repo_dir().join("pgbr/demo"));
    let events = trace(pgbr, &["backup", "--type=full"]);
    let label_dir = only_entry(&stanza.join("backup"));
    assert_eq!(lost_at_success(&events, &[&repo]), none());
    assert_eq!(lost_at_manifest(&events, &label_dir), none());
    assert!(!lost_at_manifest(&without_syncs(&events), &label_dir).is_empty());
    assert_eq!(early_releases(&events, &stanza, &label_dir), none::<PathBuf>());
    assert_eq!(unsettled(&events, &label_dir, &wal_of(pgbr, &stanza), &repo), none::<PathBuf>());

    let disk = Disk::before(&events, success(&events));
    let packs = entries(&label_dir.join("pack"));
    assert!(packs.len() > 3 && packs.iter().all(|pack| disk.has(pack)), "the trace shows every pack");
    let pins = stanza.join("pin");
    let released = |event: &Event| matches!(&event.call, Call::Remove(path) if path.starts_with(&pins));
    assert!(events.iter().any(released), "the trace shows how the pin was released");
}

/// Packs go when the removal of what names them is on disk, and WAL after them.
fn expire_is_durable(pgbr: &Pgbr) {
    let stanza = pgbr.repo_dir().join("pgbr/demo");
    let label_dir = only_entry(&stanza.join("backup"));
    pgbr.ok(["backup", "--type=full", "--no-expire-auto"]);
    let events = trace(pgbr, &["expire", "--repo1-retention-full=1"]);
    let removed = |dir: &Path| -> Vec<&Event> {
        events
            .iter()
            .filter(|event| matches!(&event.call, Call::Remove(path) if path.starts_with(dir)))
            .collect()
    };
    let (packs, wal) = (removed(&label_dir.join("pack")), removed(&stanza.join("archive")));
    assert!(packs.len() > 3 && !wal.is_empty(), "the trace shows how packs and WAL were removed");
    let early = |events: &[Event]| {
        let manifest = label_dir.join("manifest");
        let goes_early = |event: &&&Event| {
            let disk = Disk::before(events, event.begin);
            disk.has(&manifest) || disk.lost(&label_dir).contains(&Lost::Removal(manifest.clone()))
        };
        packs.iter().chain(&wal).filter(goes_early).count()
    };
    assert_eq!(early(&events), 0);
    assert!(early(&without_syncs(&events)) > 0);
    let last_pack = packs.iter().map(|event| event.end).max();
    assert!(wal.iter().all(|event| Some(event.begin) > last_pack), "WAL goes last");
}

/// Into empty directories, over the cluster that was there, and into one that lacks a file.
fn restores_are_durable(pgbr: &Pgbr, target: &Cluster, wal: &Path) {
    let space = target.scratch().path().join("space");
    let roots = [target.data_dir(), &space, wal];
    let path = format!("--pg1-path={}", target.data_dir().display());
    let map = format!("--tablespace-map=space={}", space.display());
    let link = format!("--link-map=pg_wal={}", wal.display());
    let catalog = target.data_dir().join("base/1/1259");
    for more in
        [&["--type=immediate"][..], &["--type=immediate", "--force"], &["--type=immediate", "--delta"]]
    {
        let mends = more.contains(&"--delta");
        if mends {
            std::fs::remove_file(&catalog).expect("it was restored");
        }
        let events = trace(pgbr, &[&["restore", &path, &map, &link][..], more].concat());
        assert_eq!(restore_faults(&events, &roots), none::<String>());
        assert!(!restore_faults(&without_syncs(&events), &roots).is_empty());
        let disk = Disk::before(&events, success(&events));
        assert!(disk.has(&catalog), "the trace shows the files");
        assert!(disk.has(&target.data_dir().join("recovery.signal")));
        if mends {
            assert!(!disk.has(&target.data_dir().join("base/1/2619")), "a file that is right is made anew");
            continue;
        }
        assert!(disk.has(&wal.join("archive_status")), "the trace shows what is below a link");
        assert!(disk.has(&only_entry(&space)), "the trace shows the tablespace");
    }
}

/// The objects of the WAL that the only backup needs.
fn wal_of(pgbr: &Pgbr, stanza: &Path) -> Vec<PathBuf> {
    let info = pgbr.ok(["info", "--output=json"]);
    let bound = |name: &str| {
        let from = info.find(&format!("\"{name}\":\"0000")).expect("info tells the WAL of a backup");
        info[from + name.len() + 4..][..24].to_owned()
    };
    // The archive's own bounds stand before or after; the backup's are within them.
    let all = entries(&stanza.join("archive/15-1")).into_iter().flat_map(|log| entries(&log));
    let (start, stop) = (bound("start"), bound("stop"));
    let name =
        |path: &PathBuf| path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let needed: Vec<PathBuf> =
        all.filter(|path| (start.as_str()..=stop.as_str()).contains(&name(path).as_str())).collect();
    assert!(!needed.is_empty(), "a backup needs WAL: {info}");
    needed
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    entries.map(|entry| entry.expect("a directory can be listed").path()).collect()
}

fn only_entry(dir: &Path) -> PathBuf {
    let mut found = entries(dir);
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

/// The parser and the disk against a program whose habits are known.
#[test]
fn a_program_that_syncs_nothing_is_found_out() {
    let scratch = Scratch::new();
    let dir = scratch.dir("repo");
    let script = format!("echo x > {0}/a; mkdir {0}/d; {1} echo completed successfully", dir.display(), "");
    let synced =
        format!("echo x > {0}/a; mkdir {0}/d; sync -f {0}; echo completed successfully", dir.display());
    for (script, expected) in [(script, 4), (synced, 0)] {
        let mut shell = Command::new("sh");
        as_operator(&mut shell).args(["-c", &script]);
        let (finished, events) = traced(&shell, &scratch.path().join("trace"));
        assert!(finished.success(), "{finished:?}");
        assert_eq!(lost_at_success(&events, &[&dir]).len(), expected, "{events:?}");
        std::fs::remove_dir(dir.join("d")).expect("it was made");
        std::fs::remove_file(dir.join("a")).expect("it was made");
    }
}

/// An object put as it should be: `#1` is its staging file.
fn put(path: &str) -> String {
    let directory = Path::new(path).parent().expect("it has one").display();
    format!(
        "1 openat(AT_FDCWD</>, \"{path}#1\", O_WRONLY|O_CREAT|O_EXCL, 0666) = 5<{path}#1>\n\
         1 write(5<{path}#1>, \"...\", 3) = 3\n\
         1 fsync(5<{path}#1>) = 0\n\
         1 linkat(AT_FDCWD</>, \"{path}#1\", AT_FDCWD</>, \"{path}\", 0) = 0\n\
         1 fsync(6<{directory}>) = 0\n\
         1 unlink(\"{path}#1\") = 0\n"
    )
}

/// The same without the line that has this in it.
fn without(text: &str, line: &str) -> String {
    assert!(text.contains(line));
    text.lines().filter(|l| !l.contains(line)).map(|l| format!("{l}\n")).collect()
}

const DONE: &str = "1 write(1<pipe:[1]>, \"completed successfully\\n\", 23) = 23\n1 exit_group(0) = ?\n";

#[test]
fn an_object_that_is_not_synced_is_found() {
    let repo = Path::new("/repo");
    let judge = |trace: String| lost_at_success(&parse(&(trace + DONE)), &[repo]);
    let good = put("/repo/d/object");
    assert_eq!(judge(good.clone()), none());
    let object = PathBuf::from("/repo/d/object");
    assert_eq!(judge(without(&good, "fsync(5")), [Lost::Content(object.clone())]);
    assert_eq!(judge(without(&good, "fsync(6")), [Lost::Name(object.clone())]);

    let made = "1 mkdir(\"/repo/d\", 0777) = 0\n".to_owned();
    assert_eq!(
        judge(made.clone() + &good),
        [Lost::Content("/repo/d".into()), Lost::Name("/repo/d".into())][1..]
    );
    assert_eq!(judge(made + &good + "1 fsync(7</repo>) = 0\n"), none());

    // Told too early, written to after the sync, and synced while it was still written to.
    let told = format!("{DONE}{good}");
    assert_eq!(lost_at_success(&parse(&told), &[repo]), none(), "nothing was made before");
    let late = good.clone() + "1 write(5</repo/d/object>, \"...\", 3) = 3\n";
    assert_eq!(judge(late), [Lost::Content(object.clone())]);
    let meanwhile = good.replace(
        "1 write(5</repo/d/object#1>, \"...\", 3) = 3\n1 fsync(5</repo/d/object#1>) = 0\n",
        "1 write(5</repo/d/object#1>, \"...\", 3 <unfinished ...>\n2 fsync(5</repo/d/object#1> <unfinished ...>\n\
         1 <... write resumed>) = 3\n2 <... fsync resumed>) = 0\n",
    );
    assert_ne!(meanwhile, good);
    assert_eq!(judge(meanwhile), [Lost::Content(object)]);
}

#[test]
fn a_manifest_before_its_packs_is_found() {
    let (stanza, label) = (Path::new("/repo/s"), Path::new("/repo/s/backup/L"));
    let (pack, manifest) = (put("/repo/s/backup/L/pack/1-0"), put("/repo/s/backup/L/manifest"));
    let unpin = "1 unlink(\"/repo/s/pin/x\") = 0\n";
    let judge = |trace: &str| {
        let events = parse(trace);
        (lost_at_manifest(&events, label).len(), early_releases(&events, stanza, label).len())
    };
    assert_eq!(judge(&[&pack, &manifest, unpin].concat()), (0, 0));
    assert_eq!(judge(&[without(&pack, "fsync(5").as_str(), &manifest, unpin].concat()), (1, 1));
    assert_eq!(judge(&[without(&pack, "fsync(6").as_str(), &manifest, unpin].concat()), (1, 1));
    assert_eq!(judge(&[&pack, unpin, &manifest].concat()), (0, 1));
    assert_eq!(judge(&[&pack, &without(&manifest, "fsync(6"), unpin].concat()), (0, 1));
    let wal = PathBuf::from("/repo/s/archive/w");
    let late = [&pack, &manifest, "1 fsync(5</repo/s/archive/w>) = 0\n"].concat();
    assert_eq!(unsettled(&parse(&late), label, std::slice::from_ref(&wal), &wal), vec![wal.clone()]);
    let first = ["1 fsync(5</repo/s/archive/w>) = 0\n", &pack, &manifest].concat();
    assert_eq!(unsettled(&parse(&first), label, std::slice::from_ref(&wal), &wal), none::<PathBuf>());
}

#[test]
fn a_restore_in_the_wrong_order_is_found() {
    let steps = [
        "1 unlink(\"/pg/global/pg_control\") = 0\n",
        "1 fsync(4</pg/global>) = 0\n",
        "1 openat(AT_FDCWD</>, \"/pg/pgbr.restore\", O_WRONLY|O_CREAT, 0600) = 5</pg/pgbr.restore>\n1 fsync(5</pg/pgbr.restore>) = 0\n1 fsync(4</pg>) = 0\n",
        "1 unlink(\"/pg/old\") = 0\n",
        "1 openat(AT_FDCWD</>, \"/pg/new\", O_WRONLY|O_CREAT|O_EXCL, 0600) = 5</pg/new>\n1 pwrite64(5</pg/new>, \"\", 9, 0) = 9\n",
        "1 openat(AT_FDCWD</>, \"/pg/global/pg_control.pgbr\", O_WRONLY|O_CREAT|O_EXCL, 0600) = 5</pg/global/pg_control.pgbr>\n",
        "1 syncfs(5</pg>) = 0\n",
        "1 unlink(\"/pg/pgbr.restore\") = 0\n",
        "1 fsync(4</pg>) = 0\n",
        "1 rename(\"/pg/global/pg_control.pgbr\", \"/pg/global/pg_control\") = 0\n",
        "1 fsync(4</pg/global>) = 0\n",
    ];
    let judge = |order: &[usize]| {
        let trace: String = order.iter().map(|n| steps[*n]).collect();
        restore_faults(&parse(&(trace + DONE)), &[Path::new("/pg")]).len()
    };
    let right: Vec<usize> = (0..steps.len()).collect();
    assert_eq!(judge(&right), 0);
    // Each of the syncs is needed, and each of these pairs has an order.
    for missing in [1, 6, 8, 10] {
        let order: Vec<usize> = right.iter().copied().filter(|n| *n != missing).collect();
        assert!(judge(&order) > 0, "without step {missing}");
    }
    let linked = "1 symlink(\"/wal\", \"/pg/w\") = 0\n1 mkdir(\"/pg/w/d\", 0700) = 0\n".to_owned()
        + &steps.concat()
        + DONE;
    assert!(!restore_faults(&parse(&linked), &[Path::new("/pg"), Path::new("/wal")]).is_empty());
    // To sync one directory says nothing of another.
    let elsewhere = steps.concat().replace("syncfs(5</pg>)", "syncfs(5</other>)") + DONE;
    assert!(!restore_faults(&parse(&elsewhere), &[Path::new("/pg")]).is_empty());
    for (one, other) in [(0, 3), (2, 3), (4, 6), (5, 6), (6, 7), (6, 9), (7, 9)] {
        let mut order = right.clone();
        order.swap(one, other);
        assert!(judge(&order) > 0, "with steps {one} and {other} swapped");
    }
}
