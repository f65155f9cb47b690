//! Clusters that do not lie in one directory, and files with ways of their own: tablespaces, links, config files elsewhere, modes,
//! segment sizes, relations that are not logged.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pgbr_testkit::{Cluster, StopMode, own, run};

use crate::world::{World, archiving, last_mark, newest, restore_args, set_mode, wait_for};

/// Two tablespaces, each with a table and an index of the other's.
fn with_tablespaces() -> (World, PathBuf, PathBuf) {
    let world = World::of(newest());
    let scratch = world.cluster.scratch();
    let (one, two) = (scratch.dir("space one"), scratch.dir("two"));
    let sql = format!(
        "create tablespace \"Space one\" location '{}';
         create tablespace two location '{}';
         create table a (id int primary key using index tablespace two, v text) tablespace \"Space one\";
         create table b (id int primary key using index tablespace \"Space one\") tablespace two;
         insert into a select n, repeat('a', n % 50) from generate_series(1, 5000) n;
         insert into b select generate_series(1, 3000);",
        one.display(),
        two.display()
    );
    world.cluster.sql("postgres", &sql);
    (world, one, two)
}

fn locations(cluster: &Cluster) -> String {
    let query = "select spcname || '=' || pg_tablespace_location(oid) from pg_tablespace where oid > 16383 order by spcname";
    cluster.sql("postgres", query)
}

#[test]
fn tablespaces_come_back_in_place_or_where_they_are_wanted() {
    let (world, one, two) = with_tablespaces();
    // Of a cluster of another version, which may share the location.
    let foreign = world.cluster.scratch().dir("space one/PG_12_201909212").join("file");
    fs::write(&foreign, "not ours").expect("it can be written");
    world.backup();
    world.cluster.sql(
        "postgres",
        "create table late (id int primary key) tablespace two; insert into late values (1)",
    );
    let digest = world.cluster.table_digest("postgres");
    let oid = world.cluster.sql("postgres", "select oid from pg_tablespace where spcname = 'two'");
    world.archive_all();
    let check = |copy: &Cluster, wanted: [&Path; 2]| {
        let wanted = format!("Space one={}\ntwo={}", wanted[0].display(), wanted[1].display());
        assert_eq!(locations(copy), wanted);
        assert_eq!(copy.table_digest("postgres"), digest);
        copy.assert_clean();
    };

    // Moved, by name and by number, while the server still runs on the old ones.
    let target = Cluster::builder(world.cluster.major()).empty();
    let places = [target.scratch().dir("moved"), target.scratch().path().join("made/for/it")];
    let maps = [
        format!("--tablespace-map=Space one={}", places[0].display()),
        format!("--tablespace-map={oid}={}", places[1].display()),
    ];
    world.restore_to(&target, &[&maps[0], &maps[1]]);
    target.start();
    target.wait_promoted();
    check(&target, [&places[0], &places[1]]);
    assert_eq!(fs::read_dir(&places[0]).expect("it is there").count(), 1);

    // All below one directory, and again over what is there.
    let target = Cluster::builder(world.cluster.major()).empty();
    let all = target.scratch().dir("all");
    let map_all = format!("--tablespace-map-all={}", all.display());
    world.restore_to(&target, &[&map_all]);
    let stale = fs::read_dir(all.join("two")).expect("it was made").next().expect("one directory");
    let stale = stale.expect("it can be read").path().join("stale");
    fs::write(&stale, "x").expect("it can be written");
    world.restore_to(&target, &[&map_all, "--delta"]);
    assert!(!stale.exists());
    target.start();
    target.wait_promoted();
    check(&target, [&all.join("Space one"), &all.join("two")]);
    assert_eq!(locations(&world.cluster), format!("Space one={}\ntwo={}", one.display(), two.display()));

    refuse_bad_maps(&world, &oid);

    // In place: refused while the old files lie there, whose server runs, whatever was asked for.
    let copy = world.restored(&[&format!("--tablespace-map-all={}", all.join("another").display())]);
    let fresh = Cluster::builder(world.cluster.major()).empty();
    for (target, options) in
        [(&fresh, &[][..]), (&fresh, &["--delta"]), (&fresh, &["--force"]), (&copy, &["--delta"])]
    {
        let failed = world.pgbr.fails(40, restore_args(target, options));
        assert!(failed.stdout.contains(&one.display().to_string()), "{options:?}: {failed:#?}");
    }
    assert_eq!(world.cluster.table_digest("postgres"), digest);
    world.cluster.restart();
    assert_eq!(world.cluster.table_digest("postgres"), digest);
    // Then as it was; what the links of the data directory lead to may be replaced, and else has to be gone.
    world.cluster.stop(StopMode::Fast);
    world.pgbr.ok(["restore", "--delta"]);
    assert_eq!(fs::read(&foreign).expect("it is left alone"), b"not ours");
    world.cluster.start();
    world.cluster.wait_promoted();
    world.destroy();
    fs::rename(&one, one.with_extension("old")).expect("it can be moved away");
    fs::remove_dir_all(&two).expect("it can be removed");
    world.pgbr.ok(["restore"]);
    world.cluster.start();
    world.cluster.wait_promoted();
    check(&world.cluster, [&one, &two]);
}

fn refuse_bad_maps(world: &World, oid: &str) {
    let nowhere = Cluster::builder(world.cluster.major()).empty();
    let into = |path: PathBuf| format!("--tablespace-map=two={}", path.display());
    let same = nowhere.scratch().path().join("same");
    let way = nowhere.scratch().path().join("way");
    link(nowhere.data_dir(), &way);
    for (options, why) in [
        (vec!["--tablespace-map=three=/x".to_owned()], "no such tablespace"),
        (vec![into(nowhere.data_dir().join("inside"))], "overlaps"),
        (vec![into(way.join("inside"))], "overlaps with the data directory"),
        (vec![into(same.clone()), format!("--tablespace-map=Space one={}", same.display())], "overlaps"),
        (vec![format!("--tablespace-map={oid}=relative")], "absolute"),
    ] {
        let words: Vec<&str> = options.iter().map(String::as_str).collect();
        let failed = world.pgbr.run(restore_args(&nowhere, &words));
        let said = format!("{}{}", failed.stdout, failed.stderr);
        assert!(failed.code.is_some_and(|code| code == 76 || code == 32), "{options:?}: {failed:#?}");
        assert!(said.contains(why), "{options:?}: {failed:#?}");
    }
    assert_eq!(fs::read_dir(nowhere.data_dir()).expect("it is there").count(), 0);
    assert!(!same.exists());
}

#[test]
fn tablespaces_within_the_data_directory_come_back() {
    // Not only for making it: at the end of a recovery the server does not put up with it otherwise.
    let world = World::of(newest().conf("allow_in_place_tablespaces", "on"));
    let sql = "create tablespace inside location '';
        create table t (id int primary key) tablespace inside; insert into t select generate_series(1, 1000);";
    world.cluster.sql("postgres", sql);
    world.backup();
    let digest = world.cluster.table_digest("postgres");
    world.archive_all();
    let copy = world.opened(&[]);
    assert_eq!(copy.table_digest("postgres"), digest);
    let oid = copy.sql("postgres", "select oid from pg_tablespace where spcname = 'inside'");
    let place = copy.data_dir().join("pg_tblspc").join(&oid);
    assert!(fs::symlink_metadata(place).expect("it is there").is_dir());
    copy.assert_clean();

    // One by a link, which the server only warns of, is copied once, and comes back to where there is room for it.
    let within = world.cluster.scratch().dir("data/within");
    let sql = format!(
        "create tablespace within location '{}'; create table w tablespace within as select 7 n",
        within.display()
    );
    world.cluster.sql("postgres", &sql);
    world.backup();
    world.archive_all();
    let copy = Cluster::builder(world.cluster.major()).empty();
    let place = copy.scratch().path().join("outside");
    world.restore_to(&copy, &[&format!("--tablespace-map=within={}", place.display())]);
    assert_eq!(fs::read_dir(copy.data_dir().join("within")).expect("it is there").count(), 0);
    copy.start();
    copy.wait_promoted();
    assert_eq!(copy.sql("postgres", "select n from w"), "7");
    assert_eq!(locations(&copy), format!("inside=pg_tblspc/{oid}\nwithin={}", place.display()));
    copy.assert_clean();
    world.destroy();
    let failed = world.pgbr.fails(76, ["restore"]);
    assert!(
        failed.stdout.contains("tablespace 'within'") && failed.stdout.contains("overlaps"),
        "{failed:#?}"
    );
}

/// A cluster with its WAL, a directory of logs and `postgresql.conf` elsewhere, by links.
fn with_links() -> (World, PathBuf) {
    let outside = pgbr_testkit::Scratch::new();
    let wal = outside.path().join("wal");
    let waldir = format!("--waldir={}", wal.display());
    let cluster = archiving(newest()).initdb_args([waldir]).init();
    let root = cluster.scratch().path().to_owned();
    // The WAL goes into the cluster's own directory, which is made by now.
    fs::rename(&wal, root.join("wal")).expect("it can be moved");
    let data = cluster.data_dir();
    fs::remove_file(data.join("pg_wal")).expect("it is a link");
    link(&root.join("wal"), &data.join("pg_wal"));
    cluster.scratch().dir("logs");
    cluster.scratch().file("logs/server.log", "a line\n");
    link(Path::new("../logs"), &data.join("log"));
    fs::rename(data.join("postgresql.conf"), root.join("main.conf")).expect("it can be moved");
    link(&root.join("main.conf"), &data.join("postgresql.conf"));
    cluster.start();
    (World::around(cluster, |_| {}), root)
}

fn link(to: &Path, at: &Path) {
    symlink(to, at).unwrap_or_else(|error| panic!("could not link {}: {error}", at.display()));
}

#[test]
fn what_links_lead_to_comes_back_in_their_place_or_behind_links() {
    let (world, root) = with_links();
    world.backup();
    let mark = world.mark();
    world.archive_all();
    let kind = |cluster: &Cluster, name: &str| fs::read_link(cluster.data_dir().join(name)).ok();
    let check = |copy: &Cluster| {
        let log = fs::read_to_string(copy.data_dir().join("log/server.log"));
        assert_eq!(log.expect("it is restored"), "a line\n");
        assert_eq!(
            fs::read(copy.data_dir().join("postgresql.conf")).expect("it is restored"),
            fs::read(root.join("main.conf")).expect("it is there")
        );
        copy.start();
        copy.wait_promoted();
        assert_eq!(last_mark(copy), mark.id);
        copy.assert_clean();
    };

    let plain = Cluster::builder(world.cluster.major()).empty();
    let log = world.restore_to(&plain, &[]);
    for name in ["pg_wal", "log", "postgresql.conf"] {
        assert_eq!(kind(&plain, name), None);
        assert!(log.lines().any(|line| line.contains("WARN") && line.contains(name)), "{name}: {log}");
    }
    check(&plain);

    let mapped = Cluster::builder(world.cluster.major()).empty();
    let (wal, conf) = (mapped.scratch().path().join("a/wal"), mapped.scratch().path().join("b/main.conf"));
    let maps = [
        format!("--link-map=pg_wal={}", wal.display()),
        format!("--link-map=postgresql.conf={}", conf.display()),
    ];
    world.restore_to(&mapped, &[&maps[0], &maps[1]]);
    assert_eq!(kind(&mapped, "pg_wal").as_deref(), Some(wal.as_path()));
    assert_eq!(kind(&mapped, "postgresql.conf").as_deref(), Some(conf.as_path()));
    assert_eq!(kind(&mapped, "log"), None);
    check(&mapped);
    world.restore_to(&mapped, &[&maps[0], &maps[1], "--delta"]);
    check(&mapped);

    let nowhere = Cluster::builder(world.cluster.major()).empty();
    for (option, code, why) in [
        ("--link-all", 40, root.display().to_string()),
        ("--link-all --delta", 40, root.display().to_string()),
        ("--link-map=pg_xlog=/x", 78, "no such link".to_owned()),
        ("--link-map=../pg_wal=/x", 78, "cannot become a link".to_owned()),
        ("--link-map=global=/x", 78, "cannot become a link".to_owned()),
        ("--link-map=pg_tblspc/1=/x", 78, "cannot become a link".to_owned()),
        ("--link-map=postgresql.auto.conf=/x", 78, "cannot become a link".to_owned()),
        (&format!("--link-map=pg_wal={}", nowhere.data_dir().join("x").display()), 78, "overlaps".to_owned()),
        ("--link-map=pg_wal=/nowhere/x --link-map=log=/nowhere/x/log", 78, "overlaps with link".to_owned()),
    ] {
        let failed = world.pgbr.fails(code, restore_args(&nowhere, &option.split(' ').collect::<Vec<_>>()));
        assert!(failed.stdout.contains(&why), "{option}: {failed:#?}");
    }

    // What is a directory or a file in the backup becomes a link; what was there makes room for it.
    let new = Cluster::builder(world.cluster.major()).empty();
    let elsewhere = new.scratch().path().join("elsewhere");
    let place = |name: &str| elsewhere.join(name);
    let new_links = ["pg_xact", "pg_subtrans", "pg_hba.conf"];
    let maps = new_links.map(|name| format!("--link-map={name}={}", place(name).display()));
    world.restore_to(&new, &[]);
    let maps: Vec<&str> = maps.iter().map(String::as_str).chain(["--delta"]).collect();
    let told = |args: &[&str]| {
        let args = [args, &["--dry-run", "--output=json"]].concat();
        let told = world.pgbr.ok(restore_args(&new, &args));
        let told: serde_json::Value = serde_json::from_str(&told).expect("it is JSON");
        let of = |name: &str| told["work"][name].as_u64().expect("a number");
        [of("files"), of("kept"), of("removed-files")]
    };
    // What is in the way of the links is removed, and fetched anew.
    let (with_links, without) = (told(&maps), told(&["--delta"]));
    assert!(with_links[1] < without[1] && with_links[2] == without[2] + 2, "{with_links:?} {without:?}");
    let forced: Vec<&str> =
        maps.iter().copied().map(|arg| if arg == "--delta" { "--force" } else { arg }).collect();
    assert_eq!(told(&forced), told(&["--force"]));
    for _ in 0..2 {
        world.restore_to(&new, &maps);
        for name in new_links {
            assert_eq!(kind(&new, name), Some(place(name)));
        }
        assert!(place("pg_xact/0000").is_file() && place("pg_hba.conf").is_file());
    }
    check(&new);

    // All of them as they were, once the old things are gone.
    world.destroy();
    let kept = fs::read(root.join("main.conf")).expect("it is there");
    for dir in ["wal", "logs"] {
        fs::remove_dir_all(root.join(dir)).expect("it can be removed");
    }
    fs::remove_file(root.join("main.conf")).expect("it can be removed");
    world.pgbr.ok(["restore", "--link-all"]);
    assert_eq!(kind(&world.cluster, "pg_wal"), Some(root.join("wal")));
    // With such a link the tree can be moved.
    assert_eq!(kind(&world.cluster, "log").as_deref(), Some(Path::new("../logs")));
    assert_eq!(fs::read(root.join("main.conf")).expect("it is restored"), kept);
    assert!(root.join("logs/server.log").exists());
    check(&world.cluster);
}

/// The directory was left out of the backup as a whole, and the server needs one.
#[test]
fn a_directory_for_wal_that_was_left_out_is_made_behind_a_new_link() {
    let world = World::new();
    world.pgbr.ok(["backup", "--type=full", "--exclude=pg_wal"]);
    let mark = world.mark();
    world.archive_all();
    let copy = Cluster::builder(world.cluster.major()).empty();
    let wal = copy.scratch().path().join("wal");
    for _ in 0..2 {
        world.restore_to(&copy, &[&format!("--link-map=pg_wal={}", wal.display()), "--delta"]);
        assert_eq!(fs::read_link(copy.data_dir().join("pg_wal")).ok().as_deref(), Some(wal.as_path()));
        assert_eq!(fs::read_dir(&wal).expect("a directory").count(), 0);
        copy.start();
        copy.wait_promoted();
        assert_eq!(last_mark(&copy), mark.id);
        copy.stop(StopMode::Fast);
    }
}

#[test]
fn config_files_elsewhere_are_stored_and_written_only_when_asked() {
    let mut world = World::of(newest());
    world.cluster.stop(StopMode::Fast);
    let etc = world.cluster.scratch().dir("etc");
    world.cluster.scratch().dir("etc/conf.d");
    world.cluster.scratch().file("etc/conf.d/more.conf", "work_mem = '3MB'\n");
    let data = world.cluster.data_dir().to_owned();
    let text = |path: &Path| fs::read_to_string(path).expect("it can be read");
    let main = format!(
        "{}\nhba_file = '{}'\ninclude_dir = 'conf.d'\n",
        text(&data.join("postgresql.conf")),
        etc.join("pg_hba.conf").display()
    );
    let main = world.cluster.scratch().file("etc/postgresql.conf", main);
    world.cluster.scratch().file("etc/pg_hba.conf", text(&data.join("pg_hba.conf")));
    for name in ["postgresql.conf", "pg_hba.conf"] {
        fs::remove_file(data.join(name)).expect("it can be removed");
    }
    world.cluster.set_override("config_file", &main.display().to_string());
    world.cluster.start();
    assert_eq!(world.cluster.sql("postgres", "show work_mem"), "3MB");
    world.backup();
    let mark = world.mark();
    world.archive_all();

    let files = ["postgresql.conf", "pg_hba.conf", "conf.d/more.conf"].map(|name| etc.join(name));
    let before: Vec<_> =
        files.iter().map(|file| (text(file), fs::metadata(file).expect("it is there").mtime())).collect();
    let mut copy = Cluster::builder(world.cluster.major()).empty();
    let log = world.restore_to(&copy, &[]);
    for file in &files {
        assert!(log.contains(&file.display().to_string()), "{} is not named: {log}", file.display());
    }
    assert!(log.contains("--restore-config="), "{log}");
    let after: Vec<_> =
        files.iter().map(|file| (text(file), fs::metadata(file).expect("it is there").mtime())).collect();
    assert_eq!(before, after);
    assert!(!copy.data_dir().join("postgresql.conf").exists());

    let there = copy.scratch().dir("config");
    world.restore_to(&copy, &["--delta", &format!("--restore-config={}", there.display())]);
    let written = |file: &Path| there.join(file.strip_prefix("/").expect("an absolute path"));
    for file in &files {
        assert_eq!(text(&written(file)), text(file));
    }
    copy.set_override("config_file", &written(&main).display().to_string());
    copy.start();
    copy.wait_promoted();
    assert_eq!((last_mark(&copy), copy.sql("postgres", "show work_mem").as_str()), (mark.id, "3MB"));
    copy.assert_clean();
}

/// A session that has made a temporary table and keeps it.
struct TempTable(Child);

impl TempTable {
    fn make(cluster: &Cluster) -> Self {
        let mut command = cluster.client("psql");
        command.args([
            "-Xqd",
            "postgres",
            "-c",
            "create temp table temporary as select generate_series(1, 10000) n",
        ]);
        let child =
            command.args(["-c", "select pg_sleep(600)"]).stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let session = Self(child.expect("psql can be started"));
        wait_for(
            cluster,
            "select count(*) from pg_stat_activity where query like '%pg_sleep(600)%' and pid <> pg_backend_pid()",
            "1",
        );
        session
    }
}

impl Drop for TempTable {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn relations_of_every_kind_come_back_as_they_must() {
    let world = World::of(newest().conf("max_prepared_transactions", "5"));
    let cluster = &world.cluster;
    cluster.sql(
        "postgres",
        "create table empty (); create sequence counter; select count(nextval('counter')) from generate_series(1, 5);
         create unlogged table fast (id serial primary key, v text); insert into fast (v) select 'x' from generate_series(1, 1000);
         create table later (id int primary key); insert into later values (1), (2), (3);
         create table prepared (id int primary key);
         begin; insert into prepared values (1); prepare transaction 'stays';
         begin; insert into prepared values (2); prepare transaction 'goes';
         select lo_from_bytea(4242, 'a large object'); checkpoint;",
    );
    cluster.sql("postgres", "create database \"other db\"");
    cluster.sql("other db", "create table o as select generate_series(1, 100) n");
    let odd = OsStr::from_bytes(b"odd \\name\n\xff\xfe '$'");
    let place = cluster.data_dir().join(odd);
    fs::write(&place, "odd").expect("it can be written");
    own(&place);
    let temporary = TempTable::make(cluster);
    let label = world.backup_with(&["--annotation=why=before the change", "--annotation=who=me"]);
    let path = |name: &str| {
        cluster.sql(
            "postgres",
            &format!("select pg_relation_filepath(oid) from pg_class where relname = '{name}'"),
        )
    };
    let (temp, unlogged, empty) = (path("temporary"), path("fast"), path("empty"));
    drop(temporary);
    cluster.sql(
        "postgres",
        "commit prepared 'goes'; alter table later set unlogged; alter table later set logged",
    );
    world.archive_all();

    let info = world.pgbr.ok(["info", &format!("--set={label}")]);
    assert!(info.contains("why: before the change") && info.contains("who: me"), "{info}");

    let copy = world.restored(&[]);
    let size = |name: &str| fs::metadata(copy.data_dir().join(name)).ok().map(|meta| meta.len());
    assert_eq!((size(&temp), size(&unlogged), size(&empty)), (None, None, Some(0)));
    assert_eq!(size(&format!("{unlogged}_init")), Some(0));
    assert_eq!(fs::read(copy.data_dir().join(odd)).expect("it is restored"), b"odd");
    copy.start();
    copy.wait_promoted();
    assert_eq!(copy.sql("postgres", "select count(*) from fast; select count(*) from empty"), "0\n0");
    assert_eq!(copy.sql("postgres", "insert into fast (v) values ('y') returning v"), "y");
    assert_eq!(copy.sql("postgres", "select nextval('counter') between 6 and 38"), "t");
    assert_eq!(copy.sql("postgres", "select string_agg(gid, ',') from pg_prepared_xacts"), "stays");
    assert_eq!(copy.sql("postgres", "select id from prepared"), "2");
    assert_eq!(copy.sql("postgres", "commit prepared 'stays'; select id from prepared order by id"), "1\n2");
    assert_eq!(copy.sql("postgres", "select count(*) from later"), "3");
    assert_eq!(copy.sql("postgres", "select convert_from(lo_get(4242), 'utf8')"), "a large object");
    assert_eq!(copy.sql("other db", "select sum(n) from o"), "5050");
    copy.assert_clean();
}

#[test]
fn clusters_for_a_group_and_with_other_segment_sizes_come_back() {
    for (mib, group) in [(1, true), (64, false)] {
        let arguments: &[&str] = if group { &["-g"] } else { &[] };
        let size = if mib == 1 { "8MB" } else { "256MB" };
        let builder = newest().wal_segsize(mib).initdb_args(arguments.iter().copied());
        let world = World::of(builder.conf("min_wal_size", size).conf("max_wal_size", "512MB"));
        world.cluster.sql(
            "postgres",
            "create table wide as select n, repeat(md5(n::text), 20) from generate_series(1, 2000) n",
        );
        world.backup();
        // More than one small segment.
        world.cluster.sql("postgres", "insert into wide select * from wide");
        let mark = world.mark();
        world.mark();
        world.archive_all();
        let copy =
            world.restored(&["--type=xid", &format!("--target={}", mark.xid), "--target-action=promote"]);
        let (dir, file) = if group { (0o750, 0o640) } else { (0o700, 0o600) };
        assert_modes(copy.data_dir(), dir, file);
        copy.start();
        copy.wait_promoted();
        assert_eq!(copy.sql("postgres", "show wal_segment_size"), format!("{mib}MB"));
        assert_eq!(last_mark(&copy), mark.id);
        assert_eq!(copy.sql("postgres", "select count(*) from wide"), "4000");
        copy.assert_clean();
    }
}

#[track_caller]
fn assert_modes(dir: &Path, of_dir: u32, of_file: u32) {
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o7777;
    assert_eq!(mode(dir), of_dir, "{}", dir.display());
    for entry in fs::read_dir(dir).expect("it can be listed") {
        let path = entry.expect("it can be read").path();
        if path.is_dir() {
            assert_modes(&path, of_dir, of_file);
        } else {
            assert_eq!(mode(&path), of_file, "{}", path.display());
        }
    }
}

#[test]
fn a_directory_that_others_may_read_gets_the_mode_of_the_backup() {
    let world = World::of(newest());
    world.backup();
    let target = Cluster::builder(world.cluster.major()).empty();
    set_mode(target.data_dir(), 0o755);
    world.restore_to(&target, &[]);
    assert_modes(target.data_dir(), 0o700, 0o600);
}

#[test]
fn what_root_restores_belongs_to_the_owner_of_the_directory() {
    let (world, _) = with_links();
    let space = world.cluster.scratch().dir("space");
    let sql = format!(
        "create tablespace space location '{}'; create table t (id int primary key) tablespace space",
        space.display()
    );
    world.cluster.sql("postgres", &sql);
    world.backup();
    let mark = world.mark();
    world.archive_all();
    let target = Cluster::builder(world.cluster.major()).empty();
    let made = target.scratch().path().join("made");
    let options = [
        format!("--tablespace-map-all={}", made.join("for/spaces").display()),
        format!("--link-map=pg_wal={}", made.join("for/wal").display()),
        format!("--link-map=postgresql.conf={}", made.join("etc/main.conf").display()),
    ];
    // As whoever runs the tests: where that is root, the server is another user's.
    let mut command = Command::new(world.pgbr.binary());
    command.arg(format!("--config={}", world.pgbr.config_path().display())).arg("--stanza=demo");
    command.args(restore_args(&target, &options.each_ref().map(String::as_str)));
    let finished = run(&mut command, "", Duration::from_secs(120));
    assert!(finished.success(), "{finished:#?}");
    let owner = |path: &Path| {
        let meta = fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        (meta.uid(), meta.gid(), meta.is_dir())
    };
    let (user, group, _) = owner(world.cluster.data_dir());
    let mut dirs = vec![target.data_dir().to_owned(), made];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).expect("it can be listed") {
            let path = entry.expect("it can be read").path();
            if path.is_symlink() {
                continue;
            }
            let (found_user, found_group, is_dir) = owner(&path);
            assert_eq!((found_user, found_group), (user, group), "{}", path.display());
            if is_dir {
                dirs.push(path);
            }
        }
    }
    target.start();
    target.wait_promoted();
    assert_eq!(last_mark(&target), mark.id);
}
