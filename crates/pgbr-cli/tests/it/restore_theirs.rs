//! `restore` of backups that pgBackRest made, beside what it restores itself, file by file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use pgbr_testkit::{Cluster, PgBackRest, StopMode, own};

use crate::info_theirs::ours;
use crate::rig::MAJOR;

/// How a repository is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kind {
    cipher: bool,
    compression: &'static str,
    bundle: bool,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

fn dense() -> bool {
    std::env::var_os("PGBR_TEST_DENSE").is_some_and(|value| value == "1")
}

/// All that Debian's version can write, or some that have each part of it.
fn kinds() -> Vec<Kind> {
    let kind = |cipher, compression, bundle| Kind { cipher, compression, bundle };
    if !dense() {
        return vec![kind(false, "gz", false), kind(true, "zst", true), kind(false, "none", true)];
    }
    let compressions = ["none", "gz", "bz2", "lz4", "zst"];
    let all = compressions.iter().flat_map(|compression| {
        [false, true].map(|cipher| [false, true].map(|bundle| kind(cipher, compression, bundle)))
    });
    all.flatten().collect()
}

fn options(kind: Kind) -> Vec<(&'static str, String)> {
    let mut options = Vec::new();
    if kind.cipher {
        options.push(("cipher-type", "aes-256-cbc".to_owned()));
        options.push(("cipher-pass", "a passphrase".to_owned()));
    }
    if kind.bundle {
        options.push(("bundle", "y".to_owned()));
        options.push(("bundle-limit", "64KiB".to_owned()));
    }
    options
}

/// What is at a path: kind, mode, owner, time of change of a file, content or where a link leads.
type Tree = BTreeMap<PathBuf, (char, u32, u32, i64, Vec<u8>)>;

fn tree(root: &Path) -> Tree {
    let mut found = Tree::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).expect("it can be listed").map(|entry| entry.expect("an entry"))
        {
            let (path, about) = (entry.path(), entry.metadata().expect("it is there"));
            let (mode, owner) = (about.mode() & 0o7777, about.uid());
            let place = path.strip_prefix(root).expect("it lies there").to_owned();
            let what = if about.is_dir() {
                left.push(path);
                ('d', mode, owner, 0, Vec::new())
            } else if about.is_symlink() {
                ('l', 0, owner, 0, Vec::new())
            } else {
                ('f', mode, owner, about.mtime(), fs::read(&path).expect("it can be read"))
            };
            found.insert(place, what);
        }
    }
    found
}

fn assert_same(kind: Kind, label: &str, wanted: &Path, found: &Path) {
    let (wanted, mut found) = (tree(wanted), tree(found));
    // pgBackRest leaves a cluster without it; ours has what was backed up, where nothing is there that could be preserved.
    assert!(found.remove(Path::new("data/postgresql.auto.conf")).is_some(), "{kind}, {label}");
    let names = |tree: &Tree| tree.keys().cloned().collect::<BTreeSet<_>>();
    let differ: Vec<_> = names(&wanted).symmetric_difference(&names(&found)).cloned().collect();
    assert!(differ.is_empty(), "{kind}, {label}: {differ:?}");
    for (path, what) in wanted {
        assert!(found[&path] == what, "{kind}, {label}: {} differs", path.display());
    }
}

struct Source {
    theirs: PgBackRest,
    cluster: Cluster,
}

impl Source {
    /// A cluster with a tablespace, a directory and a file that links lead to, and its repositories.
    fn new() -> Self {
        let cluster = Cluster::builder(MAJOR).conf("autovacuum", "off").init();
        let outside = cluster.scratch().dir("outside");
        for name in ["pg_stat", "pg_ident.conf"] {
            fs::rename(cluster.data_dir().join(name), outside.join(name)).expect("it can be moved");
            symlink(outside.join(name), cluster.data_dir().join(name)).expect("a link");
        }
        let repositories: Vec<_> = kinds().into_iter().map(options).collect();
        let theirs = PgBackRest::new("main", &cluster, &repositories, &[("archive-check", "n".to_owned())]);
        theirs.ok(["--no-online", "stanza-create"]);
        let source = Self { theirs, cluster };
        source.with_server(|cluster| {
            let space = cluster.scratch().dir("space");
            cluster.sql("postgres", &format!("create tablespace side location '{}'", space.display()));
            cluster.sql("postgres", "create database other");
            cluster.sql("other", "create table o as select generate_series(1, 1000) as n");
            cluster.sql(
                "postgres",
                "create table large (n int primary key, t text);
                 insert into large select n, md5(n::text) from generate_series(1, 20000) n;
                 create table aside tablespace side as select n, md5(n::text) as t from generate_series(1, 3000) n;
                 create table empty (n int)",
            );
        });
        source.back_up("full");
        source
    }

    fn with_server(&self, act: impl FnOnce(&Cluster)) {
        self.cluster.start();
        act(&self.cluster);
        self.cluster.stop(StopMode::Fast);
    }

    fn change(&self, round: u32) {
        self.with_server(|cluster| {
            cluster.sql(
                "postgres",
                &format!(
                    "update large set t = 'changed in {round}' where n % 4000 between {round} and {round} + 40;
                     insert into aside select n, 'more' from generate_series(1, 900) n;
                     create table new_{round} as select n from generate_series(1, 500) n;
                     drop table if exists new_1;"
                ),
            );
        });
    }

    /// The server is stopped, as pgBackRest waits for seconds when it runs.
    fn back_up(&self, how: &str) {
        for (number, kind) in (1..).zip(kinds()) {
            let (repo, how) = (format!("--repo={number}"), format!("--type={how}"));
            let compression = format!("--compress-type={}", kind.compression);
            self.theirs.ok(["--no-online", &repo, &how, &compression, "backup"]);
        }
    }

    fn labels(&self, number: usize) -> Vec<String> {
        let told = self.theirs.ok(["info", "--output=json", &format!("--repo={number}")]).stdout;
        let told: serde_json::Value = serde_json::from_str(&told).expect("it is JSON");
        let backups = told[0]["backup"].as_array().expect("a list");
        backups.iter().map(|backup| backup["label"].as_str().expect("a label").to_owned()).collect()
    }
}

/// A place for a restore: a data directory, its tablespaces, and where its links lead.
fn place(cluster: &Cluster, name: &str) -> (PathBuf, Vec<String>) {
    let root = cluster.scratch().dir(name);
    for part in ["data", "links"] {
        fs::create_dir(root.join(part)).expect("it can be made");
        own(&root.join(part));
    }
    let args = vec![
        format!("--pg1-path={}", root.join("data").display()),
        format!("--tablespace-map-all={}", root.join("spaces").display()),
        format!("--link-map=pg_stat={}", root.join("links/pg_stat").display()),
        format!("--link-map=pg_ident.conf={}", root.join("links/pg_ident.conf").display()),
        // No links in the backup.
        format!("--link-map=pg_wal={}", root.join("links/wal").display()),
        format!("--link-map=pg_hba.conf={}", root.join("links/pg_hba.conf").display()),
    ];
    (root, args)
}

fn with<'a>(args: &'a [String], more: &[&'a str]) -> Vec<&'a str> {
    args.iter().map(String::as_str).chain(more.iter().copied()).collect()
}

#[test]
fn files_are_those_that_pgbackrest_restores() {
    let source = Source::new();
    source.change(1);
    source.back_up("diff");
    source.change(2);
    source.back_up("incr");
    for (number, kind) in (1..).zip(kinds()) {
        let repo = format!("--repo={number}");
        let labels = source.labels(number);
        assert_eq!(labels.len(), 3);
        // Each after the one before: a cluster that is mended by what differs.
        let (mended, mended_args) = place(&source.cluster, &format!("mended-{number}"));
        for label in &labels {
            let set = format!("--set={label}");
            let common = [repo.as_str(), &set, "--type=preserve", "restore"];
            let (wanted, args) = place(&source.cluster, &format!("wanted-{number}-{label}"));
            source.theirs.ok(with(&args, &common));
            let newest = Some(label) == labels.last();
            if dense() || newest {
                let (found, args) = place(&source.cluster, &format!("found-{number}-{label}"));
                ours(&source.theirs, &with(&args, &common));
                assert_same(kind, label, &wanted, &found);
                ours(&source.theirs, &with(&args, &[&common[..], &["--force"]].concat()));
                assert_same(kind, label, &wanted, &found);
            }
            ours(&source.theirs, &with(&mended_args, &[&common[..], &["--delta"]].concat()));
            assert_same(kind, label, &wanted, &mended);
            fs::remove_dir_all(wanted).expect("it can be removed");
        }
    }
}

#[test]
fn what_is_restored_is_sound() {
    let source = Source::new();
    source.change(1);
    source.back_up("incr");
    let (first, last) = (1, kinds().len());
    let chosen = if dense() { (first..=last).collect() } else { vec![first, last - 1] };
    for number in chosen {
        let copy = Cluster::builder(MAJOR).empty();
        let spaces = copy.scratch().path().join("spaces");
        let args = [
            format!("--repo={number}"),
            format!("--pg1-path={}", copy.data_dir().display()),
            format!("--tablespace-map-all={}", spaces.display()),
        ];
        // Nobody asked for links: what they led to takes their place.
        ours(&source.theirs, &with(&args, &["--type=preserve", "--process-max=3", "restore"]));
        assert!(copy.data_dir().join("pg_stat").is_dir() && !copy.data_dir().join("pg_stat").is_symlink());
        copy.start();
        assert_eq!(copy.sql("postgres", "select count(*), max(n) from large"), "20000|20000");
        assert_eq!(copy.sql("postgres", "select count(*) from aside"), "3900");
        let other = copy.sql("postgres", "select oid from pg_database where datname = 'other'");
        copy.assert_clean();

        // One database alone: the others are zeros of the same size.
        let exclude = format!("--db-exclude={other}");
        ours(&source.theirs, &with(&args, &["--type=preserve", "--delta", &exclude, "restore"]));
        copy.start();
        assert_eq!(copy.sql("postgres", "select count(*) from large"), "20000");
        assert!(copy.try_sql("other", "select 1").is_err());
        copy.stop(StopMode::Fast);
    }
}

#[test]
fn nothing_is_touched_where_theirs_is_damaged_and_a_dry_run_tells_what_would_be() {
    let source = Source::new();
    let (root, args) = place(&source.cluster, "target");
    let common = with(&args, &["--repo=1", "--type=preserve"]);
    let told = ours(&source.theirs, &[&common[..], &["--dry-run", "--output=json", "restore"]].concat());
    let told: serde_json::Value = serde_json::from_str(&told).expect("it is JSON");
    assert_eq!(told["would-run"], true, "{told:#}");
    assert_eq!(told["wal"], serde_json::Value::Null);
    assert!(told["work"]["files"].as_u64() > Some(900), "{told:#}");
    assert!(tree(&root.join("data")).is_empty());

    let label = &source.labels(1)[0];
    let manifest = source.theirs.repository(1).join(format!("backup/main/{label}/backup.manifest"));
    for path in [manifest.clone(), manifest.with_extension("manifest.copy")] {
        let mut text = fs::read(&path).expect("it is there");
        let middle = text.len() / 2;
        text[middle] ^= 1;
        fs::write(&path, text).expect("it can be written");
    }
    let refused = crate::info_theirs::try_ours(&source.theirs, &[&common[..], &["restore"]].concat());
    assert!(!refused.success(), "{refused:#?}");
    assert!(refused.stdout.contains("backup.manifest"), "{refused:#?}");
    assert!(tree(&root.join("data")).is_empty());
}

#[test]
fn recovery_follows_their_archive_over_a_switch_of_timeline() {
    let cluster = Cluster::builder(MAJOR).conf("archive_mode", "on").start();
    let sealed = vec![("cipher-type", "aes-256-cbc".to_owned()), ("cipher-pass", "a passphrase".to_owned())];
    let theirs = PgBackRest::new("main", &cluster, &[sealed], &[]);
    cluster.set_conf("archive_command", &theirs.archive_command(""));
    cluster.reload();
    theirs.ok(["stanza-create"]);
    cluster.sql("postgres", "create table t as select 1 as timeline");
    theirs.ok(["backup", "--type=full"]);
    cluster.sql("postgres", "insert into t values (1)");
    let last = cluster.switch_wal();
    cluster.wait_archived(&last);
    cluster.stop(StopMode::Fast);
    let signal = cluster.data_dir().join("standby.signal");
    fs::write(&signal, "").expect("it can be written");
    own(&signal);
    cluster.start();
    cluster.promote();
    cluster.wait_promoted();
    cluster.sql("postgres", "insert into t values (2), (2)");
    let last = cluster.switch_wal();
    cluster.wait_archived(&last);
    cluster.stop(StopMode::Fast);

    for (args, rows) in [(&[][..], "1,1,2,2"), (&["--type=standby", "--target-timeline=1"], "1,1")] {
        let copy = Cluster::builder(MAJOR).empty();
        let path = format!("--pg1-path={}", copy.data_dir().display());
        ours(&theirs, &[&[path.as_str(), "--archive-mode=off", "restore"], args].concat());
        copy.start();
        if !args.is_empty() {
            copy.promote();
        }
        copy.wait_promoted();
        let query = "select string_agg(timeline::text, ',' order by timeline) from t";
        assert_eq!(copy.sql("postgres", query), rows, "{args:?}");
        if args.is_empty() {
            copy.assert_clean();
        }
    }
    the_files_come_back_without_the_wal(&theirs);
}

/// Its WAL may be with somebody else.
fn the_files_come_back_without_the_wal(theirs: &PgBackRest) {
    fs::remove_dir_all(theirs.repository(1).join("archive/main/15-1")).expect("it can be removed");
    let copy = Cluster::builder(MAJOR).empty();
    let path = format!("--pg1-path={}", copy.data_dir().display());
    let restore = [path.as_str(), "--archive-mode=off", "restore"];
    let refused = crate::info_theirs::try_ours(theirs, &restore);
    assert!(
        !refused.success()
            && refused.stdout.contains("recovery of backup")
            && refused.stdout.contains("--type="),
        "{refused:#?}"
    );
    assert!(!copy.data_dir().join("PG_VERSION").exists());
    for how in ["--type=none", "--type=standby", "--recovery-option=restore-command=cp /wal/%f %p"] {
        let told = ours(theirs, &[&restore[..], &[how, "--delta", "--log-level-console=warn"]].concat());
        assert!(told.contains("recovery needs it from elsewhere"), "{how}: {told}");
        assert!(copy.data_dir().join("PG_VERSION").exists());
    }
}
