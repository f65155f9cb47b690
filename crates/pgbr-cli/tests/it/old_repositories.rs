//! Repositories that programs of earlier times have written open, are sound, give back what they hold, and go on.
//!
//! They lie in `tests/vectors/repositories`, where a README says of what time each is; `scripts/make-old-repository.sh` makes them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use pgbr_testkit::{Cluster, Pgbr, Scratch, StoreKind, as_operator, run};
use serde_json::Value;

use crate::rig::{LIMIT, MAJOR, STANZA, restore_into};

/// What opens `sealed/`, and what opens `copy/`.
const PASSPHRASE: &str = "Marmalade-59-tricycle-orbit";
const OTHER_PASSPHRASE: &str = "Teapot-17-avalanche-violin";
/// The vectors whose `sealed/` has several passphrases.
const KEYS: [&str; 3] = ["08-keys", "10-drills", WRITERS];
/// And where the last of them is for writing only.
const WRITERS: &str = "11-writers";
/// As in scripts/make-old-repository.sh.
const LIST_TREE: &str = r"find . ! -type f -printf '%y %m %P %l\n' | LC_ALL=C sort
find . -type f ! -name postgresql.auto.conf -print0 | LC_ALL=C sort -z | xargs -0 sha256sum";

/// The vector of one time, unpacked.
struct Vector {
    name: String,
    scratch: Scratch,
}

/// One of its repositories, with a config file for it.
struct Old<'a> {
    vector: &'a Vector,
    name: String,
    pgbr: Pgbr,
    target: Cluster,
}

/// The names of all vectors, oldest first.
fn names() -> Vec<String> {
    let entries = fs::read_dir(directory()).expect("the vectors are in the tree").flatten();
    let names = entries.filter_map(|e| Some(e.file_name().to_str()?.strip_suffix(".tar.gz")?.to_owned()));
    let mut names: Vec<String> = names.collect();
    names.sort_unstable();
    assert!(names.len() >= 11, "{names:?}");
    names
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/repositories")
}

impl Vector {
    fn unpack(name: &str) -> Self {
        let scratch = Scratch::new();
        let archive = File::open(directory().join(format!("{name}.tar.gz"))).expect("it is there");
        let mut tar = Command::new("tar");
        as_operator(&mut tar).args(["-xz", "--no-same-owner", "-C"]).arg(scratch.path()).stdin(archive);
        assert!(tar.status().expect("tar is installed").success());
        Self { name: name.to_owned(), scratch }
    }

    fn repositories(&self) -> Vec<String> {
        let entries = fs::read_dir(self.scratch.path().join("expected")).expect("it was unpacked").flatten();
        let mut names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
        names.sort_unstable();
        names
    }

    /// What opens `sealed/`, in the order in which they came.
    fn passphrases(&self) -> Vec<String> {
        let listed = fs::read_to_string(self.scratch.path().join("passphrases")).expect("it is there");
        listed.lines().map(str::to_owned).collect()
    }

    /// What opens `sealed/` for writing only.
    fn writer(&self) -> Option<String> {
        self.passphrases().pop().filter(|_| self.name == WRITERS)
    }

    fn open(&self, name: &str) -> Old<'_> {
        let target = Cluster::builder(MAJOR).empty();
        let pgbr = Pgbr::on(StoreKind::Posix, env!("CARGO_BIN_EXE_pgbr"), STANZA, &target);
        let repo = self.scratch.path().join(name);
        pgbr.set("global", "repo1-path", &repo.display().to_string());
        pgbr.set("global", "process-max", "2");
        pgbr.set("global", "archive-timeout", "60");
        pgbr.set("global", "repo1-retention-full", "9");
        match name {
            "sealed" => pgbr.encrypt(1, "aes-256-gcm", PASSPHRASE),
            "copy" => pgbr.encrypt(1, "aes-256-gcm", OTHER_PASSPHRASE),
            _ => {}
        }
        Old { vector: self, name: name.to_owned(), pgbr, target }
    }
}

impl Old<'_> {
    fn expected(&self, what: &str) -> String {
        let path = self.vector.scratch.path().join("expected").join(&self.name).join(what);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    fn backups(info: &str) -> BTreeMap<String, Value> {
        let info: Value = serde_json::from_str(info).expect("info is JSON");
        let backups = info.pointer("/0/backup").and_then(Value::as_array).cloned().unwrap_or_default();
        backups
            .into_iter()
            .map(|backup| (backup["label"].as_str().expect("a label").to_owned(), backup))
            .collect()
    }

    /// All that info said then it says now, of each backup.
    fn assert_info(&self) -> Vec<String> {
        let (then, now) = (
            Self::backups(&self.expected("info.json")),
            Self::backups(&self.pgbr.ok(["info", "--output=json"])),
        );
        assert_eq!(then.keys().collect::<Vec<_>>(), now.keys().collect::<Vec<_>>(), "{}", self.about());
        for (label, then) in &then {
            for field in ["type", "prior", "annotation", "lsn", "archive", "timestamp", "hold", "error"] {
                assert_eq!(then.get(field), now[label].get(field), "{} {label} {field}", self.about());
            }
        }
        now.into_keys().collect()
    }

    /// A backup is restored as the program of its time restored it, file by file.
    fn assert_restores(&self, label: &str) {
        let target = self.pgbr.scratch().dir(label);
        let path = format!("--pg1-path={}", target.display());
        self.pgbr.ok(["restore", "--type=none", &format!("--set={label}"), &path]);
        let mut list = Command::new("sh");
        as_operator(&mut list).args(["-c", LIST_TREE]).current_dir(&target).stdin(Stdio::null());
        let listed = run(&mut list, "", LIMIT);
        assert!(listed.success(), "{listed:#?}");
        let (then, now) = (self.expected(label), listed.stdout);
        let differing = then.lines().filter(|line| !now.contains(line)).collect::<Vec<_>>();
        assert!(then == now, "{} {label}: not as it was: {differing:#?}", self.about());
        fs::remove_dir_all(target).expect("it is a scratch directory");
    }

    /// Each passphrase of then opens it.
    fn assert_passphrases(&self) {
        let passphrases = self.vector.passphrases();
        assert_eq!(passphrases[0], PASSPHRASE);
        let readers = if KEYS.contains(&self.vector.name.as_str()) { 3 } else { 1 };
        let writer = self.vector.writer();
        assert_eq!(passphrases.len(), readers + usize::from(writer.is_some()));
        for passphrase in &passphrases[1..] {
            self.use_pass(passphrase);
            assert!(!Self::backups(&self.pgbr.ok(["info", "--output=json"])).is_empty(), "{}", self.about());
            let read = self.pgbr.run(["verify", "--quick"]);
            let writes_only = writer.as_ref() == Some(passphrase);
            assert_eq!(read.success(), !writes_only, "{}: {read:#?}", self.about());
        }
        self.use_pass(PASSPHRASE);
    }

    fn use_pass(&self, passphrase: &str) {
        self.pgbr.set("global", "repo1-cipher-pass", passphrase);
    }

    /// Notes, holds, and what expire does: what broken runs have left goes, and nothing else.
    fn assert_takes_changes(&self, label: &str) {
        let set = format!("--set={label}");
        self.pgbr.ok(["annotate", &set, "--annotation=now=added", "--annotation=purpose=", "--hold"]);
        self.pgbr.ok(["expire"]);
        let now = Self::backups(&self.pgbr.ok(["info", "--output=json"]));
        assert_eq!(now[label]["annotation"]["now"], "added", "{}", self.about());
        assert_eq!(now[label]["annotation"].get("purpose"), None, "{}", self.about());
        assert!(!now[label]["hold"].is_null(), "{} {now:#?}", self.about());
        self.pgbr.ok(["verify", "--quick"]);
    }

    fn about(&self) -> String {
        format!("{} {}", self.vector.name, self.name)
    }
}

/// Works through all vectors on two threads.
fn each(work: impl Fn(&Vector) + Sync) {
    let left = Mutex::new(names());
    let next = || left.lock().expect("nobody panics with it").pop();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(name) = next() {
                    work(&Vector::unpack(&name));
                }
            });
        }
    });
}

#[test]
fn they_open_give_back_what_they_hold_and_are_written_to() {
    each(|vector| {
        for name in vector.repositories() {
            let old = vector.open(&name);
            old.pgbr.ok(["verify"]);
            let labels = old.assert_info();
            assert!(!labels.is_empty(), "{}", old.about());
            labels.iter().for_each(|label| old.assert_restores(label));
            if name == "sealed" {
                old.assert_passphrases();
            }
            old.assert_takes_changes(&labels[0]);
        }
    });
}

/// What lay in a safe since then brings it back.
#[test]
fn an_exported_key_opens_it_when_its_own_record_is_lost() {
    let vector = Vector::unpack(WRITERS);
    let old = vector.open("sealed");
    for name in ["repo.json", "repo.json.copy"] {
        fs::remove_file(vector.scratch.path().join("sealed/pgbr").join(name)).expect("it was there");
    }
    old.use_pass(OTHER_PASSPHRASE);
    let exported = vector.scratch.path().join("exported");
    old.pgbr.ok(["key-import", &format!("--export-file={}", exported.display())]);
    old.pgbr.ok(["verify"]);
    let labels = old.assert_info();
    old.assert_restores(labels.last().expect("there are backups"));
}

/// From a full alone, from increments that were taken up, under keys that were replaced, with a passphrase that only writes: PostgreSQL comes up
/// on it, and its backups go on.
#[test]
fn recovery_goes_to_the_end_and_backups_go_on() {
    for name in ["01-first", "06-holds", "08-keys", WRITERS] {
        let vector = Vector::unpack(name);
        let mut old = vector.open("sealed");
        old.pgbr.ok(restore_into(&old.target));
        old.target.set_override("archive_mode", "on");
        old.target.set_override("archive_command", &old.pgbr.archive_command());
        old.target.start();
        old.target.wait_promoted();
        let marks = |cluster: &Cluster| cluster.sql("postgres", "select max(id), count(*) from mark");
        let last = old.expected("mark").trim().to_owned();
        assert_eq!(marks(&old.target), format!("{last}|{last}"), "{name}");
        let before = Old::backups(&old.expected("info.json")).len();
        old.target.sql("postgres", "insert into mark values (1000, 'of now')");
        old.use_pass(&vector.writer().unwrap_or_else(|| PASSPHRASE.to_owned()));
        old.pgbr.ok(["backup", "--type=incr"]);
        old.use_pass(PASSPHRASE);
        let now = Old::backups(&old.pgbr.ok(["info", "--output=json"]));
        assert_eq!(now.len(), before + 1, "{name}");
        assert!(now.values().last().is_some_and(|backup| backup["type"] == "incr"), "{name}: {now:#?}");
        old.pgbr.ok(["verify"]);
        let grown = Cluster::builder(MAJOR).empty();
        old.pgbr.ok(restore_into(&grown));
        grown.start();
        grown.wait_promoted();
        assert_eq!(marks(&grown), marks(&old.target), "{name}");
        grown.assert_clean();
    }
}
