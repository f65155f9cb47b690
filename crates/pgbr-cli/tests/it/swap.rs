//! The way over by the binary alone: a cluster that Debian's pgBackRest archives and backs up, and then our program in its place, with the same
//! config file, archive_command and cron jobs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use pgbr_testkit::{Cluster, Finished, PgBackRest, as_operator, own, run, runnable, wait_until};
use serde_json::Value;

use crate::rig::{LIMIT, MAJOR};

/// A passphrase that nobody has.
const PASS: &str = "the same for both";

/// A cluster whose `archive_command` calls a path named `pgbackrest`, behind which pgBackRest is.
pub(crate) struct Swap {
    pub(crate) cluster: Cluster,
    pub(crate) theirs: PgBackRest,
}

impl Swap {
    pub(crate) fn new(repository: Vec<(&'static str, String)>, options: &[(&str, String)]) -> Self {
        let cluster = Cluster::builder(MAJOR).conf("archive_mode", "on").conf("autovacuum", "off").init();
        let theirs = PgBackRest::new("main", &cluster, &[repository], options);
        let swap = Self { cluster, theirs };
        swap.theirs.scratch().dir("bin");
        swap.put_behind(Path::new("/usr/bin/pgbackrest"));
        swap.cluster.set_conf("archive_command", &format!("{} archive-push %p", swap.words().join(" ")));
        swap.theirs.ok(["--no-online", "stanza-create"]);
        swap
    }

    fn encrypted() -> Vec<(&'static str, String)> {
        vec![("cipher-type", "aes-256-cbc".to_owned()), ("cipher-pass", PASS.to_owned())]
    }

    fn link(&self) -> PathBuf {
        self.theirs.scratch().path().join("bin/pgbackrest")
    }

    fn put_behind(&self, program: &Path) {
        let new = self.theirs.scratch().path().join("bin/new");
        symlink(program, &new).expect("it is ours");
        fs::rename(&new, self.link()).expect("in one step");
    }

    /// The swap.
    pub(crate) fn swap(&self) {
        self.put_behind(&runnable(Path::new(env!("CARGO_BIN_EXE_pgbr"))));
    }

    fn words(&self) -> [String; 3] {
        let config = self.theirs.scratch().path().join("pgbackrest.conf");
        [
            self.link().display().to_string(),
            format!("--config={}", config.display()),
            "--stanza=main".to_owned(),
        ]
    }

    fn command(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        as_operator(&mut command).args(&self.words()[1..]).args(args);
        command
    }

    /// Runs whatever is behind the path, with the options that every call has.
    fn run(&self, args: &[&str]) -> Finished {
        run(&mut self.command(&self.link(), args), "", LIMIT)
    }

    pub(crate) fn ok(&self, args: &[&str]) -> Finished {
        let finished = self.run(args);
        assert!(finished.success(), "{args:?}: {finished:#?}");
        finished
    }

    #[track_caller]
    pub(crate) fn fails(&self, args: &[&str], code: i32, said: &str) -> String {
        let finished = self.run(args);
        let all = finished.stdout.clone() + &finished.stderr;
        assert_eq!(finished.code, Some(code), "{args:?}: {finished:#?}");
        assert!(all.contains(said), "{args:?}: {all}");
        all
    }

    /// A row in a segment of its own. That the segment is archived is not waited for.
    fn row(&self, name: &str) -> String {
        self.cluster.sql("postgres", &format!("insert into rows values ('{name}')"));
        self.cluster.switch_wal()
    }

    /// A row, and a moment after which no other is committed before the next call.
    pub(crate) fn moment(&self, name: &str) -> String {
        let segment = self.row(name);
        let now = self.cluster.sql("postgres", "select clock_timestamp()");
        self.cluster.sql("postgres", "select pg_sleep(0.05)");
        self.cluster.wait_archived(&segment);
        now
    }

    /// The files of our side.
    fn made(&self) -> PathBuf {
        self.theirs.repository(1).join("pgbr")
    }

    /// The segments in either archive.
    fn segments(&self, theirs: bool) -> Vec<String> {
        let repository = self.theirs.repository(1);
        let root = repository.join(if theirs { "archive/main/15-1" } else { "pgbr/main/archive/15-1" });
        let mut found = Vec::new();
        let directories =
            fs::read_dir(root).expect("the archive").map(|entry| entry.expect("an entry").path());
        for directory in directories.filter(|path| path.is_dir()) {
            for entry in fs::read_dir(directory).expect("it can be listed") {
                let name = entry.expect("an entry").file_name().into_string().expect("text");
                let segment = &name[..24];
                let rest = &name[24..];
                if rest.is_empty() || rest.starts_with('-') {
                    found.push(segment.to_owned());
                }
            }
        }
        found.sort_unstable();
        found
    }

    /// Restores to a moment by what is behind the path, and gives the rows that are there then.
    pub(crate) fn rows_at(&self, moment: &str) -> String {
        let copy = Cluster::builder(MAJOR).empty();
        let (target, pg1) =
            (format!("--target={moment}"), format!("--pg1-path={}", copy.data_dir().display()));
        self.ok(&[&pg1, "--type=time", &target, "--target-action=promote", "restore"]);
        copy.start();
        copy.wait_promoted();
        let rows = copy.sql("postgres", "select string_agg(name, ' ' order by name) from rows");
        copy.assert_clean();
        rows
    }
}

pub(crate) fn everything(finished: &Finished) -> String {
    finished.stdout.clone() + &finished.stderr
}

/// Everything below a directory with its content.
pub(crate) fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut left) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).expect("it can be listed").map(|entry| entry.expect("an entry"))
        {
            match entry.file_type().expect("a type").is_dir() {
                true => left.push(entry.path()),
                false => drop(found.insert(entry.path(), fs::read(entry.path()).unwrap_or_default())),
            }
        }
    }
    found
}

fn taken_over(repository: Vec<(&'static str, String)>, options: &[(&str, String)]) {
    let encrypted = !repository.is_empty();
    let swap = Swap::new(repository, options);
    swap.cluster.start();
    swap.cluster.sql("postgres", "create table rows (name text)");
    swap.ok(&["--type=full", "backup"]);
    // The end of a backup of theirs is known to the second.
    swap.cluster.sql("postgres", "select pg_sleep(1.1)");
    let before = swap.moment("a1");
    let theirs = ["archive", "backup"].map(|part| swap.theirs.repository(1).join(part));

    // Segments wait and come while the binary is swapped.
    for row in ["a2", "a3", "a4"] {
        swap.row(row);
    }
    swap.swap();
    for row in ["b1", "b2", "b3"] {
        swap.row(row);
    }
    let between = swap.moment("b4");
    let archived = theirs.each_ref().map(|part| files(part));

    // The cron job of before.
    let told = everything(&swap.ok(&["--type=diff", "backup"]));
    assert!(told.contains("no prior backup exists, diff backup has been changed to full"), "{told}");
    let after = swap.moment("c1");
    swap.row("c2");
    let last = swap.row("c3");
    swap.cluster.wait_archived(&last);

    let failed = swap.cluster.sql("postgres", "select failed_count from pg_stat_archiver");
    assert_eq!(failed, "0", "{}", swap.cluster.log());
    // Every segment is in one of the two archives, theirs first. Those that pgBackRest had archived in the background, and not yet told the
    // server of, are in both: its word is not taken.
    let (of_theirs, of_ours) = (swap.segments(true), swap.segments(false));
    assert!(of_theirs.len() > 2 && of_ours.len() > 4, "{of_theirs:?} {of_ours:?}");
    let both: BTreeSet<String> = of_theirs.iter().chain(&of_ours).cloned().collect();
    let both = Vec::from_iter(both);
    let first = u64::from_str_radix(&both[0][16..], 16).expect("a number");
    let all: Vec<String> = (first..).take(both.len()).map(|n| format!("0000000100000000{n:08X}")).collect();
    assert_eq!(both, all, "{of_theirs:?} {of_ours:?}");
    assert_eq!(both.last(), Some(&last));

    assert_eq!(swap.rows_at(&before), "a1");
    assert_eq!(swap.rows_at(&between), "a1 a2 a3 a4 b1 b2 b3 b4");
    assert_eq!(swap.rows_at(&after), "a1 a2 a3 a4 b1 b2 b3 b4 c1");
    // Theirs is what it was.
    not_to_be_changed(&swap);
    for (part, before) in theirs.iter().zip(archived) {
        assert!(files(part) == before, "{}", part.display());
    }
    let info = everything(&swap.ok(&["info"]));
    assert_eq!(info.matches("full backup: ").count(), 2, "{info}");
    if encrypted {
        another_passphrase(&swap, &between);
    }
}

/// Commands that change a backup say of one of pgBackRest's whose it is.
fn not_to_be_changed(swap: &Swap) {
    let info: Value = serde_json::from_str(&swap.ok(&["--output=json", "info"]).stdout).expect("JSON");
    let label = info[0]["backup"][0]["label"].as_str().expect("theirs is the oldest");
    let (set, words) = (format!("--set={label}"), format!("backup set '{label}' is one of pgBackRest's"));
    for command in [
        &["annotate", "--annotation=who=somebody"][..],
        &["annotate", "--hold"],
        &["expire"],
        &["expire", "--dry-run"],
    ] {
        let told = swap.fails(&[command, &[&set]].concat(), 75, &words);
        assert!(told.contains("expire --pgbackrest-remove") && !told.contains("WARN"), "{told}");
    }
    let nobody = everything(&swap.ok(&["--log-level-console=warn", "expire", "--set=20200101-000000F"]));
    assert!(nobody.contains("backup 20200101-000000F does not exist"), "{nobody}");
}

/// Ours gets another passphrase; what pgBackRest made keeps its own.
fn another_passphrase(swap: &Swap, between: &str) {
    let [config, file] = ["pgbackrest.conf", "new"].map(|name| swap.theirs.scratch().path().join(name));
    fs::write(&file, "a new one\n").expect("it is ours");
    own(&file);
    swap.ok(&[&format!("--new-cipher-pass-file={}", file.display()), "key-change"]);
    let old = format!("repo1-cipher-pass={PASS}");
    let text = fs::read_to_string(&config).expect("it is there");
    assert!(text.contains(&old), "{text}");
    let text = text.replace(&old, "repo1-cipher-pass=a new one");
    fs::write(&config, &text).expect("it is ours");
    let copy = Cluster::builder(MAJOR).empty();
    let path = format!("--pg1-path={}", copy.data_dir().display());
    let target = format!("--target={between}");
    let restore = [path.as_str(), "--type=time", &target, "restore"];
    swap.fails(&restore, 75, "the passphrase does not open");
    ours_alone(swap);
    let both = format!("repo1-cipher-pass=a new one\nrepo1-pgbackrest-cipher-pass={PASS}");
    fs::write(&config, text.replace("repo1-cipher-pass=a new one", &both)).expect("it is ours");
    assert_eq!(swap.rows_at(between), "a1 a2 a3 a4 b1 b2 b3 b4");
}

/// Ours is verified and told of while nothing opens what pgBackRest made.
fn ours_alone(swap: &Swap) {
    const SEALED: &str = "the passphrase does not open";
    let listed = fs::read_dir(swap.made().join("main/backup")).expect("ours");
    let names = listed.map(|entry| entry.expect("an entry").file_name().into_string().expect("text"));
    let [ours] = names.filter(|name| name.ends_with('F')).collect::<Vec<_>>().try_into().expect("one full");
    let set = format!("--set={ours}");

    let told = swap.fails(&["--output=json", "verify"], 28, SEALED);
    let json = told.lines().find(|line| line.starts_with('[')).expect("JSON");
    let told: Value = serde_json::from_str(json).expect("JSON");
    let backups = &told[0]["backups"];
    assert_eq!((&backups[0]["label"], &backups[0]["status"]), (&Value::from(ours), &Value::from("valid")));
    assert_eq!(told[0]["findings"][0]["kind"], "their-sealed", "{told:#}");
    assert_eq!(told[0]["findings"].as_array().map(Vec::len), Some(1), "{told:#}");
    let alone = everything(&swap.ok(&[&set, "verify"]));
    assert!(!alone.contains(SEALED), "{alone}");

    let chosen = everything(&swap.ok(&[&set, "manifest"]));
    assert!(!chosen.contains(SEALED) && chosen.contains("pg_data/PG_VERSION"), "{chosen}");
    let newest = everything(&swap.ok(&["manifest"]));
    assert!(newest.contains("are left out: ") && newest.contains(SEALED), "{newest}");
    assert!(newest.contains("pg_data/PG_VERSION"), "{newest}");
}

#[test]
fn archiving_goes_on_and_moments_before_and_after_the_swap_are_restored() {
    taken_over(Vec::new(), &[]);
}

#[test]
fn the_same_encrypted_and_asynchronously() {
    taken_over(Swap::encrypted(), &[("archive-async", "y".to_owned()), ("archive-timeout", "30".to_owned())]);
}

fn start(swap: &Swap, args: &[&str]) -> Child {
    let mut command = swap.command(&swap.link(), args);
    let piped = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    piped.spawn().expect("it can be started")
}

/// What ours leaves in the spool is in nobody's way, and nothing that only we have is taken for archived.
#[test]
fn pgbackrest_goes_on_where_it_is_put_back() {
    let swap = Swap::new(vec![("bundle", "y".to_owned())], &[("archive-async", "y".to_owned())]);
    let config = swap.theirs.scratch().path().join("pgbackrest.conf");
    let text = fs::read_to_string(&config).expect("it is there");
    fs::write(&config, text + "\n[global:archive-push]\narchive-timeout=3\n").expect("it is ours");
    swap.cluster.start();
    swap.cluster.sql("postgres", "create table rows (name text)");
    swap.swap();
    swap.moment("ours");
    // The repository is away just then: the worker of ours has told why it cannot go on.
    let spool = swap.theirs.scratch().path().join("spool/archive/main");
    let (place, kept) = (swap.theirs.repository(1), swap.theirs.scratch().path().join("kept"));
    fs::rename(&place, &kept).expect("it is ours");
    let segment = swap.row("late");
    let error = spool.join("out").join(format!("{segment}.error"));
    wait_until(LIMIT, "the failure to be told", || error.exists());
    swap.put_behind(Path::new("/usr/bin/pgbackrest"));
    // A call of ours that still waits would archive it on our side, and rightly say so.
    // Versions that name the repository in their locks wait for the end of our process.
    wait_until(2 * LIMIT, "pgBackRest to be called", || {
        swap.cluster.log().contains("unable to load info file")
    });
    fs::rename(&kept, &place).expect("it is ours");
    swap.cluster.wait_archived(&segment);
    assert!(swap.segments(true).contains(&segment), "it is where pgBackRest looks");
    swap.ok(&["--type=full", "backup"]);
    swap.moment("theirs");

    // Its read-ahead fills a place in which nothing of ours lies, though a reader of ours was killed there.
    fs::create_dir_all(spool.join("ahead/17-0a0b0c0d")).expect("it is ours");
    own(&spool.join("ahead"));
    own(&spool.join("ahead/17-0a0b0c0d"));
    let to = swap.theirs.scratch().path().join("got");
    let got = swap.run(&["archive-get", &segment, &to.display().to_string()]);
    assert!(got.success() && to.exists(), "{got:#?}");
    swap.ok(&["check"]);
}

#[test]
fn many_pushes_at_once_make_one_stanza() {
    for repository in [Vec::new(), Swap::encrypted()] {
        let swap = Swap::new(repository, &[]);
        swap.cluster.set_conf("archive_command", "false");
        swap.cluster.start();
        swap.cluster.sql("postgres", "create table rows (name text)");
        let segments: Vec<String> = (0..4).map(|row| swap.row(&row.to_string())).collect();
        swap.swap();
        let pushes: Vec<Child> = segments
            .iter()
            .chain(&segments)
            .map(|segment| {
                let path = swap.cluster.data_dir().join("pg_wal").join(segment).display().to_string();
                start(&swap, &["archive-push", &path])
            })
            .collect();
        let mut told = String::new();
        for push in pushes {
            let ended = push.wait_with_output().expect("it ends");
            let said =
                String::from_utf8_lossy(&ended.stdout).into_owned() + &String::from_utf8_lossy(&ended.stderr);
            assert!(ended.status.success(), "{said}");
            told += &said;
        }
        assert_eq!(swap.segments(false), segments);
        // One of them made it, and says so.
        assert_eq!(told.matches("was made beside the one of pgBackRest").count(), 1, "{told}");
        assert!(told.contains("WARN"), "{told}");
        swap.cluster.set_conf("archive_command", &format!("{} archive-push %p", swap.words().join(" ")));
        swap.cluster.reload();
        swap.ok(&["check"]);
    }
}

/// pgBackRest has a passphrase a stanza, ours those of the repository.
#[test]
fn a_stanza_with_another_passphrase_is_told_how_to_get_in() {
    let swap = Swap::new(Swap::encrypted(), &[]);
    let config = swap.theirs.scratch().path().join("pgbackrest.conf");
    let other = Cluster::builder(MAJOR).conf("archive_mode", "on").init();
    let section = format!(
        "\n[other]\npg1-path={}\nrepo1-cipher-pass=of its own\n[plain]\npg1-path={}\nrepo1-cipher-type=none\n",
        other.data_dir().display(),
        other.data_dir().display()
    );
    let text = fs::read_to_string(&config).expect("it is there");
    fs::write(&config, text + &section).expect("it is ours");
    let call = |stanza: &str, args: &[&str]| {
        let mut command = Command::new(swap.link());
        let stanza = format!("--stanza={stanza}");
        as_operator(&mut command).args([&swap.words()[1], &stanza]).args(args);
        run(&mut command, "", LIMIT)
    };
    for stanza in ["other", "plain"] {
        assert!(call(stanza, &["--no-online", "stanza-create"]).success());
    }
    let name = "000000010000000000000001";
    let push = ["archive-push", &other.data_dir().join("pg_wal").join(name).display().to_string()];
    swap.swap();
    swap.ok(&["--no-online", "stanza-create"]);
    for stanza in ["other", "plain"] {
        for args in [&push[..], &["--no-online", "stanza-create"]] {
            let refused = call(stanza, args);
            let said = everything(&refused);
            assert_eq!(refused.code, Some(95), "{refused:#?}");
            assert!(said.contains(&format!("pgBackRest's side of stanza '{stanza}'")), "{said}");
            assert!(said.contains("repo1-path of its own"), "{said}");
            assert_eq!(said.contains("pgbackrest key-add"), stanza == "other", "{said}");
        }
    }
    let pass = swap.theirs.scratch().file("pass", "of its own\n");
    swap.ok(&[&format!("--new-cipher-pass-file={}", pass.display()), "key-add"]);
    let pushed = call("other", &push);
    assert!(pushed.success() && everything(&pushed).contains("was made beside"), "{pushed:#?}");
    assert!(swap.made().join("other/archive/15-1/0000000100000000").join(name).exists());
}

#[test]
fn what_cannot_be_taken_over_is_refused_and_nothing_is_made() {
    let swap = Swap::new(Swap::encrypted(), &[]);
    swap.cluster.start();
    swap.cluster.sql("postgres", "create table rows (name text)");
    let segment = swap.row("a");
    swap.cluster.wait_archived(&segment);
    let path = swap.cluster.data_dir().join("pg_wal").join(&segment).display().to_string();
    let push = ["archive-push", path.as_str()];
    swap.swap();

    // Under its own name the program makes nothing by itself.
    let own_name = swap.theirs.scratch().path().join("bin/pgbr");
    symlink(runnable(Path::new(env!("CARGO_BIN_EXE_pgbr"))), &own_name).expect("it is ours");
    let own_name = swap.command(&own_name, &push);
    let refused = run(&mut { own_name }, "", LIMIT);
    assert_eq!(refused.code, Some(55), "{refused:#?}");
    assert!(everything(&refused).contains("pgbr stanza-create"), "{refused:#?}");
    assert!(!swap.made().exists());

    let config = swap.theirs.scratch().path().join("pgbackrest.conf");
    let text = fs::read_to_string(&config).expect("it is there");
    for (old, new, code, said) in [
        (PASS, "another passphrase", 95, "the passphrase does not open 'archive/main/archive.info'"),
        ("cipher-type=aes-256-cbc", "cipher-type=none", 95, "is encrypted, and there is no passphrase"),
    ] {
        fs::write(&config, text.replace(old, new)).expect("it is ours");
        swap.fails(&push, code, said);
        swap.fails(&["backup"], code, said);
        swap.fails(&["stanza-create"], code, said);
        assert!(!swap.made().exists(), "{said}");
    }
    // A data directory of another cluster.
    let other = Cluster::builder(MAJOR).init();
    let (here, there) =
        (swap.cluster.data_dir().display().to_string(), other.data_dir().display().to_string());
    fs::write(&config, text.replace(&here, &there)).expect("it is ours");
    swap.fails(&push, 51, "stanza 'main' is of cluster");
    swap.fails(&["--no-online", "stanza-create"], 28, "stanza-upgrade");
    assert!(!swap.made().exists());
    fs::write(&config, &text).expect("it is ours");

    // The copy of a damaged one serves; without it nothing is known.
    let info = swap.theirs.repository(1).join("archive/main/archive.info");
    let copy = info.with_extension("info.copy");
    let whole = fs::read(&copy).expect("the copy");
    fs::write(&copy, "damaged").expect("it can be written");
    fs::write(&info, "damaged").expect("it can be written");
    swap.fails(&push, 28, "archive.info");
    assert!(!swap.made().exists());
    fs::write(&copy, whole).expect("it can be written");
    let told = everything(&swap.ok(&push));
    assert!(told.contains("the copy of an archive.info of pgBackRest is used"), "{told}");
    assert_eq!(swap.segments(false).len(), 1);

    // Where pgBackRest has no such stanza either, it is as ever.
    let mut command = Command::new(swap.link());
    as_operator(&mut command).arg(&swap.words()[1]).args(["--stanza=other", "archive-push", &path]);
    let refused = run(&mut command, "", LIMIT);
    assert_eq!(refused.code, Some(55), "{refused:#?}");
    assert!(everything(&refused).contains("stanza-create"), "{refused:#?}");
}

/// What says that something exists in the words of pgBackRest is told by both.
#[test]
fn stanza_create_takes_the_numbers_of_theirs_under_either_name() {
    let first = Cluster::builder(13).init();
    let swap = Swap::new(Vec::new(), &[]);
    // The stanza was of another cluster before: only its control file is looked at.
    let (repository, config) =
        (swap.theirs.repository(1), swap.theirs.scratch().path().join("pgbackrest.conf"));
    for part in ["archive", "backup"] {
        fs::remove_dir_all(repository.join(part)).expect("it can be removed");
    }
    let text = fs::read_to_string(&config).expect("it is there");
    let (here, there) =
        (swap.cluster.data_dir().display().to_string(), first.data_dir().display().to_string());
    fs::write(&config, text.replace(&here, &there)).expect("it is ours");
    swap.ok(&["--no-online", "stanza-create"]);
    fs::write(&config, &text).expect("it is ours");
    swap.ok(&["--no-online", "stanza-upgrade"]);
    let before = files(&repository);
    let exists = "stanza 'main' already exists on repo1 and is valid";
    let args = ["--no-online", "--log-level-console=info", "stanza-create"];
    let told = everything(&swap.ok(&args));
    assert!(told.contains(exists), "{told}");

    swap.swap();
    for program in [swap.link(), runnable(Path::new(env!("CARGO_BIN_EXE_pgbr")))] {
        let run = |args: &[&str]| {
            let finished = run(&mut swap.command(&program, args), "", LIMIT);
            assert!(finished.success(), "{finished:#?}");
            everything(&finished)
        };
        let told = run(&args);
        assert!(told.contains("was made beside the one of pgBackRest") && told.contains("15-2"), "{told}");
        let told = run(&args);
        assert!(told.contains(exists) && !told.contains("was made beside"), "{told}");
        let record = serde_json::from_str::<Value>(&run(&["info", "--output=json"])).expect("JSON");
        let ids = |key: &str| -> Vec<String> {
            let found = record[0][key].as_array().expect("a list").iter();
            found.map(|entry| entry["id"].to_string().replace('"', "")).collect()
        };
        assert!(ids("archive").contains(&"15-2".to_owned()), "{record:#}");
        assert_eq!(ids("db"), ["1", "2"], "{record:#}");
        // Theirs is as it was.
        for (path, content) in &before {
            assert!(fs::read(path).is_ok_and(|found| found == *content), "{}", path.display());
        }
        fs::remove_dir_all(swap.made()).expect("it can be removed");
    }

    // An upgrade right after the swap goes on from theirs.
    fs::write(&config, text.replace(&here, &there)).expect("it is ours");
    swap.fails(&["--no-online", "stanza-create"], 28, "stanza-upgrade");
    let told = everything(&swap.ok(&["--no-online", "--log-level-console=info", "stanza-upgrade"]));
    assert!(told.contains("13-3"), "{told}");
}
