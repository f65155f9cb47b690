use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use proptest::prelude::*;

use super::*;

/// A directory that looks enough like a data directory, and things around it.
struct Fixture {
    root: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let fixture = Self { root: tempfile::tempdir().unwrap() };
        fixture.file("data/PG_VERSION", "15\n");
        fixture.file("data/global/pg_control", "c");
        fixture.file("data/global/pg_filenode.map", "m");
        fixture.directory("data/pg_tblspc");
        fixture
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.path().canonicalize().unwrap().join(path)
    }

    fn directory(&self, path: &str) {
        fs::create_dir_all(self.at(path)).unwrap();
    }

    fn file(&self, path: &str, content: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn link(&self, path: &str, target: impl AsRef<Path>) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
    }

    fn options(&self) -> ScanOptions {
        ScanOptions {
            pg_data: self.at("data"),
            version: PgVersion::V15,
            exclude: Vec::new(),
            external_config: Vec::new(),
            stopped: false,
            standby: None,
        }
    }

    fn scan(&self) -> Scan {
        Scan::open(self.options()).unwrap()
    }

    /// The entries in words: `path`, `path/` for directories, `path -> target` for links.
    fn list(&self) -> Vec<String> {
        words(self.scan())
    }

    fn error(&self) -> Error {
        match Scan::open(self.options()) {
            Err(error) => error,
            Ok(scan) => scan.filter_map(Result::err).next().unwrap(),
        }
    }
}

fn words(scan: Scan) -> Vec<String> {
    scan.map(|entry| {
        let entry = entry.unwrap();
        match entry.kind {
            EntryKind::File { .. } => entry.path.to_string(),
            EntryKind::Directory => format!("{}/", entry.path),
            EntryKind::Link { target } => format!("{} -> {}", entry.path, String::from_utf8_lossy(&target)),
        }
    })
    .collect()
}

const FRAME: [&str; 6] = [
    "pg_data/",
    "pg_data/PG_VERSION",
    "pg_data/global/",
    "pg_data/global/pg_filenode.map",
    "pg_data/pg_tblspc/",
    "pg_data/global/pg_control",
];

/// What [`FRAME`] has, with `more` before the control file.
fn with(more: &[&str]) -> Vec<String> {
    let mut all: Vec<String> = FRAME[..5].iter().chain(more).map(|path| (*path).to_owned()).collect();
    all.push(FRAME[5].to_owned());
    all
}

#[test]
fn the_control_file_comes_last() {
    let fixture = Fixture::new();
    assert_eq!(fixture.list(), FRAME);
    fixture.file("data/zzz", "");
    assert_eq!(fixture.list(), with(&["pg_data/zzz"]));
}

#[test]
fn entries_tell_mode_owner_size_and_relation() {
    let fixture = Fixture::new();
    fixture.file("data/base/5/16384.1", "abc");
    fs::set_permissions(fixture.at("data/base/5/16384.1"), fs::Permissions::from_mode(0o640)).unwrap();
    let found =
        |path: &str| fixture.scan().map(Result::unwrap).find(|entry| entry.path.to_string() == path).unwrap();
    let entry = found("pg_data/base/5/16384.1");
    let meta = fs::metadata(fixture.at("data/base/5/16384.1")).unwrap();
    assert_eq!(entry.source, fixture.at("data/base/5/16384.1"));
    assert_eq!(entry.meta.mode, 0o640);
    assert_eq!(entry.meta.user, Owners::default().user(meta.uid()));
    let relation = Some(RelationFile { relnum: 16384, fork: Fork::Main, segno: 1 });
    let wanted = EntryKind::File {
        size: 3,
        mtime_ns: meta.mtime() * 1_000_000_000 + meta.mtime_nsec(),
        ctime_ns: meta.ctime() * 1_000_000_000 + meta.ctime_nsec(),
        inode: meta.ino(),
        relation,
        page_checksums: true,
    };
    assert_eq!(entry.kind, wanted);
    for plain in ["pg_data/PG_VERSION", "pg_data/global/pg_control", "pg_data/global/pg_filenode.map"] {
        assert!(
            matches!(found(plain).kind, EntryKind::File { relation: None, page_checksums: false, .. }),
            "{plain}"
        );
    }
}

#[test]
fn unlogged_and_temporary_relations_stay_out() {
    let fixture = Fixture::new();
    for name in
        ["100", "100.1", "100_fsm", "100_init", "100_vm", "101", "t3_102", "t3_102_fsm", "pg_internal.init"]
    {
        fixture.file(&format!("data/base/5/{name}"), "");
    }
    // An init fork counts in its own directory alone.
    fixture.file("data/base/6/100", "");
    fixture.directory("data/base/pgsql_tmp");
    let found = fixture.list();
    let relations: Vec<_> = found.iter().filter_map(|path| path.strip_prefix("pg_data/base/")).collect();
    assert_eq!(relations, ["", "5/", "5/100_init", "5/101", "6/", "6/100"]);
}

#[test]
fn linked_directories_and_files_are_read_at_their_place() {
    let fixture = Fixture::new();
    fixture.file("wal/000000010000000000000001", "");
    fixture.file("wal/archive_status/x.ready", "");
    fixture.file("wal/lost+found/x", "");
    fixture.link("data/pg_wal", fixture.at("wal"));
    fixture.file("logs/sub/a", "");
    fixture.link("data/log", "../logs");
    fixture.file("etc/postgresql.conf", "");
    fixture.link("data/postgresql.conf", fixture.at("etc/postgresql.conf"));
    let (wal, conf) = (fixture.at("wal"), fixture.at("etc/postgresql.conf"));
    let mut wanted: Vec<String> = FRAME[..4].iter().map(|path| (*path).to_owned()).collect();
    wanted.extend(
        ["log -> ../logs", "log/", "log/sub/", "log/sub/a", "pg_tblspc/"]
            .map(|path| format!("pg_data/{path}")),
    );
    wanted.push(format!("pg_data/pg_wal -> {}", wal.display()));
    wanted.extend(["pg_wal/", "pg_wal/archive_status/"].map(|path| format!("pg_data/{path}")));
    wanted.push(format!("pg_data/postgresql.conf -> {}", conf.display()));
    wanted.extend(["pg_data/postgresql.conf", "pg_data/global/pg_control"].map(str::to_owned));
    assert_eq!(fixture.list(), wanted);
}

#[test]
fn wal_can_be_part_of_it() {
    let fixture = Fixture::new();
    fixture.file("data/pg_wal/000000010000000000000001", "");
    fixture.file("data/pg_wal/archive_status/x.done", "");
    // An odd directory of such a name is none.
    fixture.file("data/pg_wal/000000010000000000000002/x", "");
    // Nobody resets what is unlogged when a cluster is started that was shut down.
    fixture.file("data/base/5/70001", "u");
    fixture.file("data/base/5/70001_init", "");
    let scan = Scan::open(ScanOptions { stopped: true, ..fixture.options() }).unwrap();
    let wanted = [
        "pg_data/",
        "pg_data/PG_VERSION",
        "pg_data/base/",
        "pg_data/base/5/",
        "pg_data/base/5/70001",
        "pg_data/base/5/70001_init",
        "pg_data/global/",
        "pg_data/global/pg_filenode.map",
        "pg_data/pg_tblspc/",
        "pg_data/pg_wal/",
        "pg_data/pg_wal/archive_status/",
        "pg_data/global/pg_control",
        "pg_data/pg_wal/000000010000000000000001",
    ];
    assert_eq!(words(scan), wanted);
}

#[test]
fn links_that_lead_nowhere_good_are_errors() {
    for (target, reason) in [
        ("missing", "does not exist"),
        ("global", "is in the data directory"),
        (".", "is in the data directory"),
        ("..", "holds the data directory"),
        ("a", "is a link itself"),
        ("../chain", "is a link itself"),
    ] {
        let fixture = Fixture::new();
        fixture.directory("elsewhere");
        fixture.link("chain", "elsewhere");
        fixture.link("data/a", target);
        let error = fixture.error();
        assert!(matches!(error, Error::LinkDestination { .. }), "{error}");
        assert!(error.to_string().ends_with(reason), "{error}");
    }
}

#[test]
fn a_place_is_not_reached_twice() {
    for (first, second) in [("x", "x"), ("x", "x/sub"), ("x/sub", "x"), ("x/f", "x/f")] {
        let fixture = Fixture::new();
        fixture.file("x/sub/a", "");
        fixture.file("x/f", "");
        fixture.link("data/one", fixture.at(first));
        fixture.link("data/two", fixture.at(second));
        assert!(matches!(fixture.error(), Error::LinkDestination { .. }), "{first} {second}");
    }
    let fixture = Fixture::new();
    fixture.directory("x/sub");
    fixture.link("data/one", fixture.at("x"));
    fixture.link("x/sub/back", fixture.at("x"));
    assert!(matches!(fixture.error(), Error::LinkDestination { .. }));
}

#[test]
fn tablespaces_are_scanned_below_their_own_version() {
    let fixture = Fixture::new();
    for path in ["ts/PG_15_202209061/5/16400", "ts/PG_14_202107181/5/1", "ts/stray", "t2/PG_15_202209061/5/7"]
    {
        fixture.file(path, "");
    }
    fixture.link("data/pg_tblspc/16400", fixture.at("ts"));
    fixture.link("data/pg_tblspc/9", fixture.at("t2"));
    fixture.file("data/pg_tblspc/16500/PG_15_202209061/5/3", "");
    let more = [
        "pg_data/pg_tblspc/16500/",
        "pg_data/pg_tblspc/16500/PG_15_202209061/",
        "pg_data/pg_tblspc/16500/PG_15_202209061/5/",
        "pg_data/pg_tblspc/16500/PG_15_202209061/5/3",
        "pg_tblspc/16400/",
        "pg_tblspc/16400/PG_15_202209061/",
        "pg_tblspc/16400/PG_15_202209061/5/",
        "pg_tblspc/16400/PG_15_202209061/5/16400",
        "pg_tblspc/9/",
        "pg_tblspc/9/PG_15_202209061/",
        "pg_tblspc/9/PG_15_202209061/5/",
        "pg_tblspc/9/PG_15_202209061/5/7",
    ];
    assert_eq!(fixture.list(), with(&more));
    let scan = fixture.scan();
    let spaces: Vec<_> = scan.tablespaces().iter().map(|space| (space.oid, space.target.clone())).collect();
    assert_eq!(spaces, [(9, fixture.at("t2")), (16400, fixture.at("ts"))]);
}

#[test]
fn a_tablespace_inside_is_copied_once() {
    let fixture = Fixture::new();
    fixture.file("data/ts/PG_15_202209061/5/16400", "");
    fixture.link("data/pg_tblspc/16400", fixture.at("data/ts"));
    let more = [
        "pg_data/ts/",
        "pg_tblspc/16400/",
        "pg_tblspc/16400/PG_15_202209061/",
        "pg_tblspc/16400/PG_15_202209061/5/",
        "pg_tblspc/16400/PG_15_202209061/5/16400",
    ];
    assert_eq!(fixture.list(), with(&more));
}

#[test]
fn tablespaces_that_lead_nowhere_are_errors() {
    for (target, reason) in
        [("missing", "does not exist"), ("file", "is not a directory"), ("", "holds the data directory")]
    {
        let fixture = Fixture::new();
        fixture.file("file", "");
        fixture.link("data/pg_tblspc/16400", fixture.at(target));
        assert!(fixture.error().to_string().ends_with(reason), "{reason}");
    }
}

#[test]
fn a_tablespace_may_be_dropped_meanwhile() {
    let fixture = Fixture::new();
    fixture.file("ts/PG_15_202209061/5/16400", "");
    fixture.link("data/pg_tblspc/16400", fixture.at("ts"));
    let scan = fixture.scan();
    fs::remove_file(fixture.at("data/pg_tblspc/16400")).unwrap();
    fs::remove_dir_all(fixture.at("ts")).unwrap();
    assert_eq!(words(scan), FRAME);
    // Gone between the listing and the first look.
    let dropped = TablespaceLink { oid: 16400, target: fixture.at("ts") };
    assert_eq!(Places::new(fixture.at("data")).add_tablespace(&fixture.at("data"), &dropped).unwrap(), None);
}

#[test]
fn external_configuration_comes_first() {
    let fixture = Fixture::new();
    fixture.file("etc/b.conf", "");
    fixture.file("etc/a.conf", "");
    fixture.link("etc/l.conf", "a.conf");
    let names = ["etc/b.conf", "etc/l.conf", "etc/a.conf", "etc/./a.conf", "etc/gone.conf"];
    let external_config = names.map(|name| fixture.at(name)).to_vec();
    let options = ScanOptions { external_config, ..fixture.options() };
    for file in Scan::open(options.clone()).unwrap().map(Result::unwrap).take(3) {
        // What a link leads to can be read.
        assert!(crate::FileReader::open(&file.source).unwrap().is_some(), "{}", file.path);
    }
    let found = words(Scan::open(options).unwrap());
    let wanted = ["etc/a.conf", "etc/b.conf", "etc/l.conf"]
        .map(|name| format!("config{}", fixture.at(name).display()));
    assert_eq!(found[..3], wanted);
    assert_eq!(found[3], "pg_data/");
}

#[test]
fn pipes_and_sockets_are_reported() {
    let fixture = Fixture::new();
    assert!(Command::new("mkfifo").arg(fixture.at("data/pipe")).status().unwrap().success());
    let _socket = std::os::unix::net::UnixListener::bind(fixture.at("data/socket")).unwrap();
    let mut scan = fixture.scan();
    assert_eq!(scan.by_ref().map(Result::unwrap).count(), FRAME.len());
    let skipped: Vec<_> = scan.skipped().iter().map(|skipped| (skipped.path.clone(), skipped.kind)).collect();
    assert_eq!(skipped, [(fixture.at("data/pipe"), "named pipe"), (fixture.at("data/socket"), "socket")]);
}

#[test]
fn what_vanishes_is_passed_over() {
    let fixture = Fixture::new();
    for path in ["data/base/5/1", "data/base/6/1", "data/base/7/1", "data/base/7/2"] {
        fixture.file(path, "");
    }
    let mut scan = fixture.scan();
    let found: Vec<String> = std::iter::from_fn(|| {
        let path = scan.next()?.unwrap().path.to_string();
        match path.as_str() {
            "pg_data/base/5" => fs::remove_dir_all(fixture.at("data/base/5")).unwrap(),
            "pg_data/base" => fs::remove_dir_all(fixture.at("data/base/6")).unwrap(),
            "pg_data/base/7/1" => fs::remove_file(fixture.at("data/base/7/2")).unwrap(),
            _ => {}
        }
        Some(path)
    })
    .collect();
    let base: Vec<_> = found.iter().filter_map(|path| path.strip_prefix("pg_data/base/")).collect();
    assert_eq!(base, ["5", "7", "7/1"]);
}

#[test]
fn a_cluster_without_its_heart_is_an_error() {
    for missing in ["PG_VERSION", "global/pg_filenode.map", "global/pg_control"] {
        let fixture = Fixture::new();
        fs::remove_file(fixture.at("data").join(missing)).unwrap();
        let error = fixture.error();
        assert!(matches!(&error, Error::Missing { path } if path.ends_with(missing)), "{error}");
    }
    let fixture = Fixture::new();
    fixture.file("data/PG_VERSION", "16\n");
    assert!(matches!(fixture.error(), Error::OtherVersion { .. }));
    fixture.file("data/PG_VERSION", "12\n");
    assert!(matches!(fixture.error(), Error::UnsupportedVersion { .. }));
}

#[test]
fn exclusions_hold_for_links_too() {
    let fixture = Fixture::new();
    fixture.link("data/dangling", "nowhere");
    fixture.directory("stat");
    fixture.file("stat/a", "");
    fixture.link("data/pg_stat_tmp", fixture.at("stat"));
    fixture.file("data/log/a", "");
    let scan = Scan::open(ScanOptions {
        exclude: vec!["dangling".to_owned(), "log/".to_owned()],
        ..fixture.options()
    })
    .unwrap();
    let found = words(scan);
    let stat = format!("pg_data/pg_stat_tmp -> {}", fixture.at("stat").display());
    let mut wanted: Vec<&str> = FRAME[..4].to_vec();
    wanted.extend([
        "pg_data/log/",
        &stat,
        "pg_data/pg_stat_tmp/",
        "pg_data/pg_tblspc/",
        "pg_data/global/pg_control",
    ]);
    assert_eq!(found, wanted);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_order_is_that_of_the_index(
        files in prop::collection::btree_map("([a-c.~-]{1,3}/){0,3}[a-c.~-]{1,3}", any::<bool>(), 0..20),
    ) {
        let fixture = Fixture::new();
        let mut made = BTreeMap::new();
        for (path, is_file) in files {
            let Ok(rel) = RelPath::new(format!("pg_data/x/{path}")) else { continue };
            let place = fixture.at("data/x").join(&path);
            // A file in the way of a directory, or the other way round, is left as it is.
            let parent_made = fs::create_dir_all(place.parent().unwrap()).is_ok();
            if parent_made && !place.exists() && is_file {
                fs::write(place, "").unwrap();
                made.insert(rel.to_string(), ());
            } else if parent_made && !place.exists() {
                fs::create_dir(place).unwrap();
            }
        }
        let found: Vec<ScanEntry> = fixture.scan().map(Result::unwrap).collect();
        prop_assert!(found.windows(2).all(|pair| pair[0].path < pair[1].path));
        let names: Vec<String> = found
            .iter()
            .filter(|entry| matches!(entry.kind, EntryKind::File { .. }))
            .map(|entry| entry.path.to_string())
            .filter(|path| path.starts_with("pg_data/x/"))
            .collect();
        let mut names_sorted = names.clone();
        names_sorted.sort();
        let made: Vec<String> = made.into_keys().collect();
        prop_assert_eq!(names_sorted, made);
        // Every directory comes before what is in it.
        for (at, entry) in found.iter().enumerate() {
            if let Some(parent) = entry.path.parent() {
                prop_assert!(found[..at].iter().any(|earlier| earlier.path == parent));
            }
        }
    }
}

#[test]
fn replicated_files_are_read_from_a_standby_and_others_are_not() {
    let fixture = Fixture::new();
    let space = |root: &str| format!("{root}/{}", PgVersion::V15.tablespace_directory());
    for (data, spaces) in [("data", "space"), ("standby", "standby-space")] {
        fixture.file(&format!("{data}/base/5/100"), data);
        fixture.file(&format!("{data}/pg_xact/0000"), data);
        fixture.file(&format!("{data}/pg_multixact/offsets/0000"), data);
        fixture.file(&format!("{data}/pg_commit_ts/0000"), data);
        fixture.file(&format!("{data}/global/pg_control"), data);
        fixture.file(&format!("{data}/postgresql.conf"), data);
        fixture.file(&format!("{data}/global/pg_filenode.map"), data);
        fixture.file(&format!("{}/5/200", space(spaces)), data);
        fixture.link(&format!("{data}/pg_tblspc/16384"), fixture.at(spaces));
    }
    // Newer than the standby, and gone from the primary.
    fixture.file("data/base/5/101", "");
    fixture.file("standby/base/5/102", "");
    fixture.file("standby/base/5/100.1", "");
    fs::set_permissions(fixture.at("data/base/5/100"), fs::Permissions::from_mode(0o640)).unwrap();
    let options = ScanOptions { standby: Some(fixture.at("standby")), ..fixture.options() };
    let mut found = BTreeMap::new();
    for entry in Scan::open(options).unwrap() {
        let entry = entry.unwrap();
        let EntryKind::File { size, inode, .. } = entry.kind else { continue };
        assert_eq!(fs::metadata(&entry.source).unwrap().ino(), inode);
        let content = fs::read_to_string(&entry.source).unwrap();
        assert_eq!(content.len() as u64, size);
        found.insert(entry.path.to_string(), (content, entry.meta.mode));
    }
    let from = |path: &str| found.get(path).map(|(content, _)| content.as_str());
    for path in [
        "pg_data/base/5/100",
        "pg_data/pg_xact/0000",
        "pg_data/pg_multixact/offsets/0000",
        "pg_data/global/pg_filenode.map",
        &format!("pg_tblspc/16384/{}/5/200", PgVersion::V15.tablespace_directory()),
    ] {
        assert_eq!(from(path), Some("standby"), "{path}");
    }
    for path in ["pg_data/global/pg_control", "pg_data/postgresql.conf", "pg_data/pg_commit_ts/0000"] {
        assert_eq!(from(path), Some("data"), "{path}");
    }
    for path in ["pg_data/base/5/101", "pg_data/base/5/102", "pg_data/base/5/100.1"] {
        assert_eq!(from(path), None, "{path}");
    }
    assert_eq!(found["pg_data/base/5/100"].1, 0o640, "modes are the primary's");
}
