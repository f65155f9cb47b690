//! What options change that the other tests leave open, on a real cluster. `every_option` names the test of each option.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pgbr_testkit::{
    Cluster, Finished, Pgbr, StoreKind, as_operator, own, run, variable, wait_until, words_of,
};
use serde_json::Value;

use crate::flavor;
use crate::rig::{Frozen, LIMIT, MAJOR, Rig, STANZA, assert_one_error, restore_into, said};

/// A file of the data directory that no server knows.
const STRAY: &str = "stray.txt";

/// What is told of a backup.
struct Made {
    label: String,
    stored: u64,
    files: u64,
    packs: usize,
    said: String,
}

fn backup(rig: &Rig, options: &[&str]) -> Made {
    let finished = rig.pgbr.run(["backup"].iter().chain(options));
    assert!(finished.success(), "{options:?}: {finished:#?}");
    made(rig, &finished)
}

fn made(rig: &Rig, finished: &Finished) -> Made {
    let info = rig.info();
    let newest = info[0]["backup"].as_array().and_then(|list| list.last()).expect("it is listed");
    let label = newest["label"].as_str().expect("it has a label").to_owned();
    let stored = newest["info"]["repository"]["delta"].as_u64().expect("it has a size");
    let said = said(finished);
    let files = said.split("file total = ").nth(1).and_then(|rest| rest.lines().next());
    let files = files.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no total: {said}"));
    let packs = rig.names(&format!("backup/{label}/pack")).len();
    Made { label, stored, files, packs, said }
}

#[test]
fn what_a_backup_stores_and_what_expire_keeps() {
    let rig = Rig::with(|pgbr| pgbr.set("global", "repo1-retention-full", "99"));
    let before = [rig.archived_segment(), rig.archived_segment()];
    let database =
        rig.cluster.sql("postgres", "select oid from pg_database where datname = current_database()");
    // A relation by its name, with a page that no server wrote.
    let damaged = format!("base/{database}/999999");
    for (name, content) in [(damaged.as_str(), vec![0x55; 8192]), (STRAY, b"x".to_vec())] {
        let path = rig.cluster.data_dir().join(name);
        fs::write(&path, content).expect("it can be written");
        own(&path);
    }
    let warning = format!("invalid page checksums in 'pg_data/{damaged}' at page 0");

    let usual = backup(&rig, &["--type=full"]);
    assert!(usual.said.contains(&warning), "{}", usual.said);
    assert!(rig.cluster.log().contains("checkpoint starting: immediate force wait"));
    assert!(!rig.cluster.log().contains("checkpoint starting: force wait"));
    let between = rig.archived_segment();

    let plain = backup(
        &rig,
        &[
            "--type=full",
            "--compress-type=none",
            "--repo1-pack-size=1MiB",
            &format!("--exclude={STRAY}"),
            "--no-checksum-page",
            "--no-start-fast",
        ],
    );
    assert!(plain.stored > 3 * usual.stored, "{} is not much more than {}", plain.stored, usual.stored);
    assert!(plain.packs as u64 >= plain.stored >> 20 && usual.packs < 5, "{} packs", plain.packs);
    assert_eq!(plain.files, usual.files - 1);
    assert!(!plain.said.contains("invalid page checksums"), "{}", plain.said);
    assert!(rig.cluster.log().contains("checkpoint starting: force wait"), "{}", rig.cluster.log());

    let quick = backup(&rig, &["--type=full", "--compress-level=-7"]);
    assert!(quick.stored > usual.stored + usual.stored / 10, "{} and {}", quick.stored, usual.stored);
    let diff = backup(&rig, &["--type=diff"]);
    let late = rig.archived_segment();
    let other_diff = backup(&rig, &["--type=diff"]);
    fates(&rig, [&usual, &quick, &diff, &other_diff], &before, &between, &late);

    // The command that the server runs in its recovery is the one that was named.
    let target = rig.target();
    rig.pgbr.ok(restore_into(&target).iter().map(String::as_str).chain(["--cmd=/opt/other/program"]));
    let settings = fs::read_to_string(target.data_dir().join("postgresql.auto.conf")).expect("it is there");
    assert!(settings.contains("restore_command = '/opt/other/program "), "{settings}");
}

/// What expire would do, by each of the rules alone.
fn fates(rig: &Rig, made: [&Made; 4], before: &[String; 2], between: &str, late: &str) {
    let dry = |options: &[&str]| rig.pgbr.ok(["expire", "--dry-run"].iter().chain(options));
    let [first, _, diff, _] = made;
    let goes = |text: &str, made: &Made| {
        text.lines()
            .any(|line| line.starts_with("remove ") && line.contains(&format!(" backup {}: ", made.label)))
    };
    let wal_goes = |text: &str, segment: &str| {
        let range = |line: &str| {
            let (first, last) = line.strip_prefix("remove 15-1 WAL ")?.split_once(" to ")?;
            Some(first <= segment && segment <= last.split(' ').next()?)
        };
        text.lines().any(|line| range(line) == Some(true))
    };
    let all = dry(&[]);
    assert!(!made.iter().any(|made| goes(&all, made)), "{all}");
    assert!(![&before[0], between, late].iter().any(|segment| wal_goes(&all, segment)), "{all}");

    let one = dry(&["--repo1-retention-full=1"]);
    assert!(goes(&one, first) && !goes(&one, diff), "{one}");
    let young = dry(&["--repo1-retention-full=1", "--repo1-retention-full-type=time"]);
    assert!(!goes(&young, first), "{young}");
    let one_diff = dry(&["--repo1-retention-diff=1"]);
    assert!(goes(&one_diff, diff) && !goes(&one_diff, first), "{one_diff}");

    let full = dry(&["--repo1-retention-archive=1"]);
    assert!(wal_goes(&full, between) && !wal_goes(&full, late) && !goes(&full, first), "{full}");
    let by_diff = dry(&["--repo1-retention-archive=1", "--repo1-retention-archive-type=diff"]);
    assert!(wal_goes(&by_diff, late), "{by_diff}");
    let named = dry(&[&format!("--archive-expire-before={}", before[1])]);
    assert!(wal_goes(&named, &before[0]) && !wal_goes(&named, &before[1]), "{named}");

    rig.pgbr.unset("global", "repo1-retention-full");
    assert!(!goes(&dry(&[]), first));
    for period in ["daily", "weekly", "monthly", "yearly"] {
        let text = dry(&[&format!("--repo1-retention-{period}=1")]);
        assert!(goes(&text, first), "{period}: {text}");
    }
    rig.pgbr.set("global", "repo1-retention-full", "99");
}

#[test]
fn how_a_process_runs_and_where_it_tells() {
    let rig = Rig::plain();
    // Something to be at work on.
    rig.cluster.pgbench_init(1);
    let lock = rig.pgbr.scratch().path().join("lock").join(format!("{STANZA}-backup-1.lock"));
    let holder = || -> Option<Value> { serde_json::from_str(&fs::read_to_string(&lock).ok()?).ok() };
    let pid = || holder()?.get("pid")?.as_u64();
    let command = rig.pgbr.command([
        "backup",
        "--type=full",
        "--process-max=5",
        "--priority=7",
        "--exec-id=77-0123abcd",
    ]);
    let frozen = Frozen::at(command, || pid().is_some_and(|pid| workers(pid) == 5));
    let shown = rig.pgbr.ok(["info", "--detail-level=progress"]);
    let (begin, end) = ("stanza: demo\n    status: error (no valid backups, backup/expire running", ")\n");
    assert!(shown.starts_with(begin) && shown.ends_with(end) && shown.lines().count() == 2, "{shown}");
    assert_eq!(holder().expect("it holds the lock")["execId"], "77-0123abcd");
    assert_eq!(niceness(u64::from(frozen.pid())), 7);
    let finished = frozen.thaw();
    assert!(finished.success(), "{finished:#?}");
    let whole = rig.pgbr.ok(["info", "--output=json"]);
    let progress = rig.pgbr.ok(["info", "--output=json", "--detail-level=progress"]);
    assert!(whole.contains("\"backup\":[") && !progress.contains("\"backup\":["), "{progress}");
    let shown = rig.pgbr.ok(["info", "--detail-level=progress"]);
    assert_eq!(shown, "stanza: demo\n    status: ok\n");
    let label = format!("--set={}", rig.labels().pop().expect("a backup"));
    let both = rig.pgbr.fails(31, ["info", "--detail-level=progress", &label]);
    assert_one_error(&both, 31, &["option 'set' cannot be used with option 'detail-level' = 'progress'"]);

    let create = |options: &[&str]| {
        let finished = rig.pgbr.run(["stanza-create"].iter().chain(options));
        assert!(finished.success(), "{finished:#?}");
        finished
    };
    let begin = &format!("INFO: stanza-create command begin {}: --", flavor().version());
    let usual = create(&[]);
    assert!(
        usual.stdout.contains(&format!(" P00   {begin}")) && !usual.stdout.starts_with("P00"),
        "{usual:#?}"
    );
    assert_eq!(usual.stderr, "");
    let off = create(&["--log-level-console=off"]);
    assert_eq!((off.stdout.as_str(), off.stderr.as_str()), ("", ""));
    // The environment, under the prefix of the name, wins over the file.
    let mut quiet = rig.pgbr.command(["stanza-create"]);
    let quiet = run(quiet.env(variable("log-level-console"), "off"), "", LIMIT);
    assert!(quiet.success() && quiet.stdout.is_empty(), "{quiet:#?}");
    let elsewhere = create(&["--log-level-stderr=info"]);
    assert!(elsewhere.stderr.starts_with(begin), "{elsewhere:#?}");
    assert_eq!(elsewhere.stdout, "");
    let bare = create(&["--no-log-timestamp"]);
    assert!(bare.stdout.lines().all(|line| line.starts_with("P00 ") || line.starts_with(' ')), "{bare:#?}");

    let log = |name: &str| rig.pgbr.scratch().path().join(name).join(format!("{STANZA}-stanza-create.log"));
    let into = |name: &str, options: &[&str]| -> (PathBuf, String) {
        let path = rig.pgbr.scratch().dir(name);
        let option = format!("--log-path={}", path.display());
        let command = rig.pgbr.command([&["stanza-create", &option], options].concat());
        // Whoever starts it lets nobody else read anything.
        let mut strict = Command::new("sh");
        as_operator(&mut strict).args(["-c", "umask 077; exec \"$@\"", "sh"]);
        strict.args(words_of(&command));
        let finished = run(&mut strict, "", LIMIT);
        assert!(finished.success(), "{finished:#?}");
        (log(name), fs::read_to_string(log(name)).unwrap_or_default())
    };
    let (usual, text) = into("usual", &[]);
    assert!(text.contains(begin), "{text}");
    assert_eq!(mode(&usual), 0o640);
    assert_eq!(mode(&into("strict", &["--no-neutral-umask"]).0), 0o600);
    let (none, _) = into("none", &["--log-level-file=off"]);
    assert!(!none.exists());
    let (_, detail) = into("detail", &["--log-level-file=error"]);
    assert!(!detail.contains(begin), "{detail}");
}

fn workers(pid: u64) -> usize {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let names = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|name| name.starts_with("worker-")).count()
}

/// How nice a process is to others.
fn niceness(pid: u64) -> i32 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let (_, fields) = text.rsplit_once(") ").expect("its name stands in parentheses");
    fields.split(' ').nth(16).and_then(|field| field.parse().ok()).expect("a number")
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

#[test]
fn where_a_server_is_and_how_long_it_may_take() {
    let rig = Rig::plain();
    rig.pgbr.ok(["check"]);
    for (option, word) in [
        ("--pg1-port=1", ".s.PGSQL.1"),
        ("--pg1-socket-path=/nowhere", "/nowhere"),
        ("--pg1-user=nobody", "\"nobody\""),
        ("--pg1-database=none", "\"none\""),
    ] {
        rig.refused(56, &[word], ["check", option]);
    }
    rig.refused(55, &["/nowhere/global/pg_control"], ["check", "--pg1-path=/nowhere"]);

    // A catalog that a backup reads, and that nobody gets at for a while.
    let mut busy = rig.cluster.client("psql");
    let lock = "begin; lock table pg_tablespace in access exclusive mode; select pg_sleep(6); commit";
    busy.args(["-XAtq", "-d", "postgres", "-c", lock]).stdin(Stdio::null()).stdout(Stdio::null());
    let mut busy = busy.spawn().expect("psql runs");
    let held =
        "select count(*) from pg_locks where relation = 1213 and mode = 'AccessExclusiveLock' and granted";
    wait_until(LIMIT, "the lock", || rig.cluster.sql("postgres", held) == "1");
    let finished = rig.pgbr.run(["backup", "--type=full", "--db-timeout=1s"]);
    assert!(finished.elapsed < Duration::from_secs(5), "{finished:#?}");
    assert_one_error(&finished, 57, &["1 s"]);
    assert!(busy.wait().expect("it ends").success());

    // What is no WAL of this cluster.
    let dir = rig.cluster.scratch().dir("wal");
    let push = |number: u32, options: &[&str]| -> Finished {
        let path = dir.join(format!("0000000100000000000000{number:X}"));
        fs::write(&path, vec![0; 16 << 20]).expect("it can be written");
        own(&path);
        rig.pgbr.run([&["archive-push", &path.display().to_string()], options].concat())
    };
    let stored =
        |number: u32| rig.objects().get(&rig.wal_key(&format!("0000000100000000000000{number:X}"))).len();
    assert!(!push(0xA0, &[]).success());
    assert!(push(0xA0, &["--no-archive-header-check"]).success());
    assert!(push(0xA1, &["--no-archive-header-check", "--no-compress"]).success());
    assert!(stored(0xA0) < 1 << 20 && stored(0xA1) >= 16 << 20, "{} and {}", stored(0xA0), stored(0xA1));
}

/// A server that takes down what it is asked, and has nothing.
struct Recorder {
    port: u16,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Recorder {
    fn new() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let taken = Arc::clone(&heads);
        // It ends with the process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if let Some(head) = answer(stream) {
                    taken.lock().expect("nobody panics with it").push(head);
                }
            }
        });
        Self { port, heads }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What was asked for since the last call, a request a line, in small letters.
    fn taken(&self) -> String {
        std::mem::take(&mut *self.heads.lock().expect("nobody panics with it")).join("\n")
    }
}

fn answer(stream: TcpStream) -> Option<String> {
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let head = head.trim_end().replace("\r\n", " | ").to_lowercase();
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    let (status, found) = match head.starts_with("get ") {
        true if head.contains("list-type=2") => ("200 OK", "<ListBucketResult></ListBucketResult>"),
        true => ("404 Not Found", ""),
        false if head.contains("/latest/api/token") => ("200 OK", "session"),
        false => ("403 Forbidden", ""),
    };
    let length = found.len();
    let mut stream = stream;
    write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{found}")
        .ok()?;
    Some(format!("{head} | {}", String::from_utf8_lossy(&body).to_lowercase()))
}

#[test]
fn what_a_store_is_asked() {
    let cluster = Cluster::builder(MAJOR).init();
    let server = Recorder::new();
    let token = cluster.scratch().file("token", "web-token");
    let customer = data_encoding::BASE64.encode(&[7; 32]);
    let asked = |store: &str, options: &[(&'static str, &str)], words: &[&str]| {
        let pgbr = Pgbr::on(StoreKind::Posix, env!("CARGO_BIN_EXE_pgbr"), STANZA, &cluster);
        let url = server.url();
        let common: &[(&'static str, &str)] = match store {
            "s3" => &[
                ("s3-bucket", "box"),
                ("s3-endpoint", "s3.example.com"),
                ("s3-region", "north-9"),
                ("s3-uri-style", "path"),
                ("storage-host", &url),
            ],
            "azure" => &[("azure-account", "acc"), ("azure-container", "box"), ("azure-key", "aHVzaA==")],
            _ => &[
                ("gcs-bucket", "box"),
                ("gcs-endpoint", &url),
                ("gcs-key-type", "token"),
                ("gcs-key", "tok"),
            ],
        };
        let mut all = vec![("type", store.to_owned()), ("path", "/deep".to_owned())];
        all.extend(common.iter().chain(options).map(|(name, value)| (*name, (*value).to_owned())));
        if store == "s3" && !options.iter().any(|(name, _)| *name == "s3-key-type") {
            all.extend([("s3-key", "AKIAKEY".to_owned()), ("s3-key-secret", "hush".to_owned())]);
        }
        pgbr.set_repo(1, &all);
        let mut command = pgbr.command(["stanza-create", "--no-online", "--io-timeout=2s"]);
        command.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &url).env("AZURE_POD_IDENTITY_AUTHORITY_HOST", &url);
        command.env("AWS_ROLE_ARN", "arn:role").env("AWS_WEB_IDENTITY_TOKEN_FILE", &token);
        let finished = run(&mut command, "", LIMIT);
        let heads = server.taken();
        assert!(!finished.success(), "{finished:#?}");
        for word in words {
            assert!(heads.contains(word), "{store} {options:?}: '{word}' is not in {heads}\n{finished:#?}");
        }
    };
    let url = server.url();
    asked("s3", &[], &["/box/deep/pgbr/", "credential=akiakey/", "/north-9/s3/", "host: s3.example.com | "]);
    asked("s3", &[("s3-uri-style", "host")], &["host: box.s3.example.com | "]);
    asked("s3", &[("s3-token", "one-time")], &["x-amz-security-token: one-time | "]);
    asked("s3", &[("s3-requester-pays", "y")], &["x-amz-request-payer: requester | "]);
    asked("s3", &[("s3-kms-key-id", "kms-7")], &["x-amz-server-side-encryption-aws-kms-key-id: kms-7 | "]);
    asked(
        "s3",
        &[("s3-sse-customer-key", &customer)],
        &[&format!("x-amz-server-side-encryption-customer-key: {} | ", customer.to_lowercase())],
    );
    asked("s3", &[("storage-tag", "team=night")], &["x-amz-tagging: team=night | "]);
    let auto = [("s3-key-type", "auto"), ("s3-role", "keeper")];
    asked("s3", &auto, &["/security-credentials/keeper "]);
    let web = [("s3-key-type", "web-id"), ("s3-sts-host", url.as_str())];
    asked("s3", &web, &["assumerolewithwebidentity", "web-token"]);
    let host = ("storage-host", url.as_str());
    asked("azure", &[host], &["/acc/box/deep/pgbr/", "authorization: sharedkey acc:"]);
    let endpoint = [("azure-endpoint", url.as_str()), ("azure-uri-style", "path")];
    asked("azure", &endpoint, &["/acc/box/deep/pgbr/"]);
    let sas = [host, ("azure-key-type", "sas"), ("azure-key", "?sv=1&sig=signed")];
    asked("azure", &sas, &["sig=signed"]);
    asked(
        "gcs",
        &[("gcs-user-project", "payer")],
        &["/box/", "authorization: bearer tok | ", "x-goog-user-project: payer | "],
    );
}
