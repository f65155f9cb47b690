//! Restores over what is there: what is right stays untouched, everything else becomes what the backup says.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use pgbr_testkit::{Cluster, own, words_of};

use crate::world::{World, control, last_mark, newest, set_mode};

/// Written by each restore, whatever was there.
const OWN_FILES: [&str; 5] =
    ["global/pg_control", "postgresql.auto.conf", "backup_label", "tablespace_map", "recovery.signal"];

/// What must be the same after two restores: kind, mode, owner, time and content.
fn tree(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    walk(root, &mut |path, meta| {
        let (mode, owner) = (meta.mode(), (meta.uid(), meta.gid()));
        let what = if meta.is_dir() {
            "directory".to_owned()
        } else if meta.is_symlink() {
            format!("link to {}", fs::read_link(path).expect("a link").display())
        } else if OWN_FILES.iter().any(|own| path.ends_with(own)) {
            "file of the restore".to_owned()
        } else {
            let mut hasher = DefaultHasher::new();
            fs::read(path).expect("it can be read").hash(&mut hasher);
            format!("{} bytes, {:x}, at {}.{}", meta.len(), hasher.finish(), meta.mtime(), meta.mtime_nsec())
        };
        let name = path.strip_prefix(root).expect("it was found below").to_owned();
        found.insert(name, format!("{mode:o} {owner:?} {what}"));
    });
    found
}

/// Inode and times of files, to see that nobody touched them.
fn stamps(root: &Path) -> BTreeMap<PathBuf, (u64, i64, i64, i64, i64)> {
    let mut found = BTreeMap::new();
    walk(root, &mut |path, meta| {
        if meta.is_file() && !OWN_FILES.iter().any(|own| path.ends_with(own)) {
            let stamp = (meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec());
            found.insert(path.to_owned(), stamp);
        }
    });
    found
}

fn walk(root: &Path, visit: &mut impl FnMut(&Path, &fs::Metadata)) {
    for entry in fs::read_dir(root).expect("it can be listed") {
        let path = entry.expect("it can be read").path();
        let meta = fs::symlink_metadata(&path).expect("it can be examined");
        visit(&path, &meta);
        if meta.is_dir() {
            walk(&path, visit);
        }
    }
}

/// What a restore says that it kept, fetched and removed, in this order.
fn said(log: &str) -> [String; 3] {
    let line =
        log.lines().find(|line| line.contains("kept = ")).unwrap_or_else(|| panic!("no figures: {log}"));
    let part = |name: &str| {
        let rest = line.split(name).nth(1).unwrap_or_else(|| panic!("no {name}: {line}"));
        rest.split(',').next().unwrap_or_default().to_owned()
    };
    [part("kept = "), part("fetched = "), part("files removed = ")]
}

/// A cluster with a tablespace and links, a full backup and an increment of it.
struct Layout {
    world: World,
    digest: String,
    mark: u32,
}

impl Layout {
    fn new() -> Self {
        let cluster = crate::world::archiving(newest()).init();
        let logs = cluster.scratch().dir("logs");
        cluster.scratch().file("logs/server.log", "a line\n");
        symlink(&logs, cluster.data_dir().join("log")).expect("a link can be made");
        cluster.start();
        let world = World::around(cluster, |_| {});
        let space = world.cluster.scratch().dir("space");
        let sql = format!(
            "create tablespace space location '{}'; create table t (id int primary key, v text) tablespace space;
             insert into t select n, repeat('t', n % 99) from generate_series(1, 20000) n;
             create table u as select n id, repeat('u', n % 77) v from generate_series(1, 20000) n",
            space.display()
        );
        world.cluster.sql("postgres", &sql);
        world.backup();
        world
            .cluster
            .sql("postgres", "update t set v = 'new' where id % 700 = 1; update u set v = '' where id = 9");
        let mark = world.mark().id;
        world.pgbr.ok(["backup", "--type=incr"]);
        let digest = world.cluster.table_digest("postgres");
        world.archive_all();
        Self { world, digest, mark }
    }

    /// The options by which a restore goes into the places of `target`.
    fn options(target: &Cluster) -> [String; 2] {
        let scratch = target.scratch().path();
        [
            format!("--tablespace-map-all={}", scratch.join("spaces").display()),
            format!("--link-map=log={}", scratch.join("logs").display()),
        ]
    }

    fn restore(&self, target: &Cluster, more: &[&str]) -> String {
        let options = Self::options(target);
        let options: Vec<&str> = options.iter().map(String::as_str).chain(more.iter().copied()).collect();
        self.world.restore_to(target, &options)
    }

    fn restored(&self) -> Cluster {
        let target = Cluster::builder(self.world.cluster.major()).empty();
        self.restore(&target, &[]);
        target
    }

    #[track_caller]
    fn check(&self, target: &Cluster) {
        target.start();
        target.wait_promoted();
        assert_eq!(target.table_digest("postgres"), self.digest);
        assert_eq!(last_mark(target), self.mark);
        target.assert_clean();
    }
}

#[test]
fn what_is_right_is_not_touched_and_what_is_wrong_is_mended() {
    let layout = Layout::new();
    let target = layout.restored();
    let root = target.scratch().path();
    let wanted = tree(root);
    let relation = |name: &str| {
        let query = format!("select pg_relation_filepath('{name}')");
        layout.world.cluster.sql("postgres", &query)
    };

    // Undamaged: all files keep their inodes and times, and but for what a restore writes itself nothing is fetched.
    let before = stamps(root);
    let log = layout.restore(&target, &["--delta"]);
    assert_eq!(stamps(root), before);
    assert_eq!(tree(root), wanted);
    let [kept, fetched, removed] = said(&log);
    assert!(kept.ends_with("MB"), "{kept}");
    assert!(fetched.ends_with('B') && !fetched.ends_with("MB"), "{fetched}");
    // The two files by which recovery begins, and the one that says how far.
    assert_eq!(removed, if root.join("data/tablespace_map").exists() { "3" } else { "2" }, "{log}");

    // Damaged in every way.
    let data = target.data_dir().to_owned();
    let flipped = data.join(relation("u"));
    flip(&flipped);
    fs::remove_file(data.join("PG_VERSION")).expect("it is there");
    let long = fs::File::options().append(true).open(data.join("global/pg_filenode.map"));
    long.and_then(|mut file| file.write_all(&[7; 9000])).expect("it can be written");
    fs::File::options()
        .write(true)
        .open(data.join(relation("mark")))
        .and_then(|file| file.set_len(100))
        .expect("it can be cut");
    set_mode(&data.join("pg_hba.conf"), 0o644);
    set_mode(&data.join("base"), 0o755);
    fs::remove_dir_all(data.join("pg_xact")).expect("it is there");
    symlink("/nowhere", data.join("pg_xact")).expect("a link can be made");
    fs::remove_file(data.join("pg_ident.conf")).expect("it is there");
    fs::create_dir(data.join("pg_ident.conf")).expect("it can be made");
    own(&data.join("pg_ident.conf"));
    fs::write(data.join("pg_ident.conf/below"), "x").expect("it can be written");
    let outside = target.scratch().file("outside", "not of the cluster");
    fs::remove_file(data.join("postgresql.conf")).expect("it is there");
    fs::hard_link(&outside, data.join("postgresql.conf")).expect("a link can be made");
    symlink(target.scratch().path(), data.join("base/link")).expect("a link can be made");
    for foreign in ["base/1/77777", "pg_wal/0000000100000000000000FF", "foreign", "pg_tblspc/99999"] {
        fs::write(data.join(foreign), "x").expect("it can be written");
    }
    for dir in ["base/99999", "base/99999/deep"] {
        fs::create_dir(data.join(dir)).expect("it can be made");
        own(&data.join(dir));
    }
    fs::write(data.join("base/99999/deep/file"), "x").expect("it can be written");
    fs::create_dir(data.join("lost+found")).expect("it can be made");
    let space = fs::read_dir(root.join("spaces/space")).expect("it is there").next().expect("one directory");
    let space = space.expect("it can be read").path();
    fs::write(space.join("foreign"), "x").expect("it can be written");
    fs::write(root.join("spaces/space/beside"), "not of this version").expect("it can be written");
    fs::write(root.join("logs/foreign.log"), "x").expect("it can be written");
    fs::write(root.join("logs/server.log"), "b line\n").expect("it can be written");

    let log = layout.restore(&target, &["--delta"]);
    let mut mended = tree(root);
    for stays in ["outside", "spaces/space/beside"] {
        assert!(mended.remove(Path::new(stays)).is_some(), "{stays} is gone");
    }
    assert!(mended.remove(&data.strip_prefix(root).expect("it lies there").join("lost+found")).is_some());
    assert_eq!(mended, wanted, "{log}");
    assert_eq!(fs::read(&outside).expect("it is there"), b"not of the cluster");
    assert!(fs::metadata(&outside).expect("it is there").nlink() == 1);
    let after = stamps(root);
    let touched = |path: &Path| before.get(path) != after.get(path);
    assert!(touched(&flipped) && !touched(&data.join(relation("pg_proc"))));
    // A page was mended in its place.
    assert_eq!(before.get(&flipped).map(|s| s.0), after.get(&flipped).map(|s| s.0));
    layout.check(&target);

    // It has run since, and is brought back again; an older backup is as good.
    layout.restore(&target, &["--delta"]);
    layout.check(&target);
    let full = layout.world.newest_backup().split('_').next().expect("a label").to_owned();
    layout.restore(&target, &["--delta", &format!("--set={full}"), "--type=immediate"]);
    target.start();
    target.wait_ready();
    assert_eq!(target.sql("postgres", "select count(*) from u where v = ''"), "259");
}

/// Changes a byte and sets the times back.
fn flip(path: &Path) {
    let meta = fs::metadata(path).expect("it is there");
    let mut content = fs::read(path).expect("it can be read");
    content[20_000] ^= 1;
    fs::write(path, content).expect("it can be written");
    let times = fs::FileTimes::new().set_modified(meta.modified().expect("a time"));
    let file = fs::File::options().write(true).open(path).expect("it can be opened");
    file.set_times(times).expect("the time can be set");
}

#[test]
fn a_directory_of_another_cluster_is_taken_and_named() {
    let world = World::new();
    world.backup();
    let mark = world.mark();
    world.archive_all();
    // As tools do it: initdb first.
    let fresh = newest().init();
    let other = control(&fresh, "Database system identifier");
    let target = Cluster::builder(world.cluster.major()).empty();
    let copied = Command::new("cp").arg("-a").arg(fresh.data_dir().join(".")).arg(target.data_dir()).status();
    assert!(copied.expect("cp can be started").success());
    let own_id = control(&world.cluster, "Database system identifier");
    let log = world.restore_to(&target, &["--delta"]);
    let warned =
        log.lines().any(|line| line.contains("WARN") && line.contains(&other) && line.contains(&own_id));
    assert!(warned, "{log}");
    target.start();
    target.wait_promoted();
    assert_eq!(last_mark(&target), mark.id);
    target.assert_clean();
    let log = world.restore_to(&target, &["--delta"]);
    assert!(!log.contains("system identifier"), "{log}");
}

#[test]
fn more_files_than_a_process_may_open_are_mended() {
    let world = World::new();
    // Tables of two pages each, whose pages come from different backups.
    let tables = "do $$ begin for n in 1..700 loop
         execute format('create table many_%s (v text); alter table many_%s alter v set storage plain;
                         insert into many_%s select repeat(''x'', 5000) from generate_series(1, 3)', n, n, n); end loop; end $$";
    world.cluster.sql("postgres", tables);
    world.backup();
    for page in 0..3 {
        let touch = format!(
            "do $$ begin for n in 1..700 loop
               execute format('update many_%s set v = v where ctid = ''({page},1)''', n); end loop; end $$"
        );
        world.cluster.sql("postgres", &touch);
        world.pgbr.ok(["backup", "--type=incr"]);
    }
    let digest = world.cluster.table_digest("postgres");
    world.archive_all();
    let target = Cluster::builder(world.cluster.major()).empty();
    for option in ["--force", "--delta"] {
        if option == "--delta" {
            let file = world.cluster.sql("postgres", "select pg_relation_filepath('many_9')");
            fs::write(target.data_dir().join(&file), "wrong").expect("it can be written");
            own(&target.data_dir().join(&file));
        }
        let mut command = Command::new("prlimit");
        command.arg("--nofile=256:256");
        let inner = world.pgbr.command(crate::world::restore_args(&target, &[option]));
        command.args(words_of(&inner));
        inner.get_envs().for_each(|(name, value)| {
            if let Some(value) = value {
                command.env(name, value);
            }
        });
        let ended = command.output().expect("it can be started");
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stdout));
    }
    target.start();
    target.wait_promoted();
    assert_eq!(target.table_digest("postgres"), digest);
    target.assert_clean();
}
