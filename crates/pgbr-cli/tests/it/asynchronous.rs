//! Asynchronous archiving: what the server is told is durable, whatever happens to the worker.

#![expect(clippy::unwrap_used, reason = "what fails in a test ends it")]

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pgbr_testkit::{Cluster, Pgbr, StoreKind, own, program_name, wait_until};
use rustix::process::{Pid, Signal, kill_process};

use crate::rig::{LIMIT, PASS, Rig, STANZA, assert_one_error, said};
use crate::world::archiving;

/// A cluster with segments of 1 MiB that archives asynchronously, and keeps a witness of each file that it gives to the archive.
struct Async {
    rig: Rig,
    witness: PathBuf,
}

impl Async {
    /// With a repository in a directory.
    fn new(configure: impl FnOnce(&Pgbr)) -> Self {
        Self::on(StoreKind::Posix, configure)
    }

    /// With a repository in a store of this kind.
    fn on(kind: StoreKind, configure: impl FnOnce(&Pgbr)) -> Self {
        let builder = Cluster::builder(crate::rig::MAJOR).wal_segsize(1);
        let builder = builder.conf("min_wal_size", "2MB").conf("max_wal_size", "8MB");
        let cluster = archiving(builder).start();
        let pgbr = Pgbr::on(kind, env!("CARGO_BIN_EXE_pgbr"), STANZA, &cluster);
        pgbr.set("global", "archive-async", "y");
        pgbr.set("global", "process-max", "2");
        pgbr.set("global", "log-level-file", "detail");
        configure(&pgbr);
        pgbr.ok(["stanza-create"]);
        let witness = cluster.scratch().dir("witness");
        own(&witness);
        let command = pgbr.archive_command().replace("%p", "\"$1\"");
        let copy = format!("[ -e {0}/\"${{1##*/}}\" ] || cp \"$1\" {0}/", witness.display());
        let script = format!("#!/bin/sh\n{copy}\nexec {command}\n");
        let push = cluster.scratch().file(&format!("{}-push.sh", program_name()), script);
        fs::set_permissions(&push, Permissions::from_mode(0o755)).unwrap();
        cluster.set_conf("archive_command", &format!("{} %p", push.display()));
        cluster.reload();
        Self { rig: Rig { cluster, pgbr }, witness }
    }

    /// Makes the server write so many segments.
    fn write(&self, segments: u32) {
        let message = "select count(pg_logical_emit_message(false, 'test', repeat(md5(g::text), 32700)))";
        self.rig.cluster.sql("postgres", &format!("{message} from generate_series(1, {segments}) g"));
    }

    /// Waits until all that was written is archived, and gives the names in order.
    fn settle(&self) -> Vec<String> {
        let last = self.rig.cluster.switch_wal();
        self.rig.cluster.wait_archived(&last);
        let names = fs::read_dir(&self.witness).unwrap().flatten();
        let names: BTreeSet<String> =
            names.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        let segments: Vec<String> = names.into_iter().filter(|name| name.len() == 24).collect();
        assert_eq!(segments.last(), Some(&last));
        // None was left out.
        let numbers: Vec<u64> = segments.iter().map(|name| number(name)).collect();
        assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{numbers:?}");
        segments
    }

    /// What the archive gives is what the server had.
    fn assert_whole(&self, segments: &[String]) {
        let got = self.rig.cluster.scratch().dir("got");
        own(&got);
        let got = got.join("file");
        let destination = got.display().to_string();
        for name in segments {
            self.rig.pgbr.ok(["archive-get", "--no-archive-async", name, &destination]);
            assert!(fs::read(&got).unwrap() == fs::read(self.witness.join(name)).unwrap(), "{name}");
        }
    }

    fn spool(&self) -> PathBuf {
        self.rig.pgbr.scratch().path().join("spool/archive").join(STANZA)
    }

    /// The process that holds the lock of the worker.
    fn worker(&self) -> Option<u32> {
        worker_of(&self.rig, "archive-1")
    }

    fn wait_worker(&self) -> u32 {
        wait_until(LIMIT, "a worker", || self.worker().is_some());
        self.worker().unwrap()
    }

    /// Puts a stop file in place and waits for the worker to obey.
    fn end_worker(&self) {
        let worker = self.wait_worker();
        self.rig.pgbr.ok(["stop"]);
        wait_until(LIMIT, "the worker to end", || {
            !Path::new(&format!("/proc/{worker}/cmdline")).exists() || self.worker().is_none()
        });
    }

    fn object(&self, segment: &str) -> PathBuf {
        self.rig.wal_object(segment)
    }

    fn wal(&self, segment: &str) -> PathBuf {
        self.rig.cluster.data_dir().join("pg_wal").join(segment)
    }

    fn log(&self) -> String {
        let path = self.rig.pgbr.log_dir().join(format!("{STANZA}-archive-push-async.log"));
        fs::read_to_string(path).unwrap_or_default()
    }
}

/// The number of a segment of 1 MiB in its log.
fn number(segment: &str) -> u64 {
    let part = |from: usize| u64::from_str_radix(&segment[from..from + 8], 16).unwrap();
    part(8) * 4096 + part(16)
}

/// The process that holds a lock and lives.
fn worker_of(rig: &Rig, lock: &str) -> Option<u32> {
    let path = rig.pgbr.scratch().path().join("lock").join(format!("{STANZA}-{lock}.lock"));
    let holder: serde_json::Value = serde_json::from_str(&fs::read_to_string(path).ok()?).ok()?;
    let pid = u32::try_from(holder.get("pid")?.as_u64()?).ok()?;
    let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
    command.contains(":async").then_some(pid)
}

fn kill(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).unwrap();
    // It may have ended by itself.
    kill_process(pid, Signal::KILL).ok();
}

#[test]
fn all_wal_arrives_and_nothing_is_called_archived_that_is_not() {
    let rig = Async::new(|pgbr| {
        let second = pgbr.scratch().dir("second");
        pgbr.set("global", "repo2-path", &second.display().to_string());
        pgbr.encrypt(2, "aes-256-gcm", PASS);
    });
    let begun = Instant::now();
    rig.write(120);
    // Whatever the worker calls archived is in both repositories at that moment.
    let second = rig.rig.pgbr.scratch().path().join("second/pgbr/demo/archive/15-1");
    let mut seen = 0;
    while seen < 40 && begun.elapsed() < LIMIT {
        for entry in fs::read_dir(rig.spool().join("out")).into_iter().flatten().flatten() {
            let name = entry.file_name().into_string().unwrap();
            let Some(segment) = name.strip_suffix(".done").filter(|segment| segment.len() == 24) else {
                continue;
            };
            assert!(rig.object(segment).exists(), "{segment} is not in the first repository");
            assert!(second.join(&segment[..16]).join(segment).exists(), "{segment} is not in the second");
            seen += 1;
        }
        let waiting =
            fs::read_dir(rig.rig.cluster.data_dir().join("pg_wal/archive_status")).unwrap().flatten();
        if !waiting.into_iter().any(|entry| entry.path().extension().is_some_and(|e| e == "ready")) {
            break;
        }
    }
    let segments = rig.settle();
    println!(
        "{} segments of 1 MiB in {} ms, {seen} looks at '.done'",
        segments.len(),
        begun.elapsed().as_millis()
    );
    assert!(segments.len() > 120, "{}", segments.len());
    rig.assert_whole(&segments);
    let log = rig.rig.cluster.log();
    assert!(
        log.contains(&format!("pushed WAL file '{}' to the archive asynchronously", segments[100])),
        "{log}"
    );
    let worker = rig.log();
    assert!(worker.contains("P00   INFO: archive-push:async command begin"), "{worker}");
    assert!(worker.contains("WAL file(s) to archive: 0000"), "{worker}");
    assert!(worker.contains(&format!("pushed WAL file '{}' to the archive\n", segments[50])), "{worker}");
    // What the server has taken note of needs no word any more.
    wait_until(LIMIT, "the spool to be empty", || {
        let left = fs::read_dir(rig.spool().join("out")).unwrap().flatten();
        !left.into_iter().any(|entry| entry.path().extension().is_some_and(|e| e == "ok"))
    });
    // A file that the server does not have waiting is pushed there and then.
    let last = segments.last().unwrap();
    let again = rig.rig.pgbr.ok(["archive-push", &rig.wal(last).display().to_string()]);
    assert!(again.contains("already exists in the repo1 archive"), "{again}");
}

/// The worker is killed at moments that a seed gives, while 300 segments are written.
#[test]
fn a_worker_that_is_killed_loses_nothing() {
    let rig = Async::new(|_| ());
    let mut state = 0x5EED_u64;
    let mut kills = 0;
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for _ in 0..10 {
                rig.write(30);
                rig.rig.cluster.sql("postgres", "checkpoint");
            }
        });
        let begun = Instant::now();
        let waits = || {
            let status = rig.rig.cluster.data_dir().join("pg_wal/archive_status");
            fs::read_dir(status)
                .unwrap()
                .flatten()
                .any(|e| e.path().extension().is_some_and(|e| e == "ready"))
        };
        while (!writer.is_finished() || waits()) && begun.elapsed() < Duration::from_secs(20) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            std::thread::sleep(Duration::from_millis(30 + (state >> 33) % 250));
            if let Some(pid) = rig.worker() {
                kill(pid);
                kills += 1;
            }
        }
    });
    let segments = rig.settle();
    println!("{} segments, {kills} kills", segments.len());
    assert!(segments.len() > 300 && kills > 5, "{} segments, {kills} kills", segments.len());
    rig.assert_whole(&segments);
    // None of the files that a kill has left keeps anything from being found.
    rig.rig.pgbr.ok(["check"]);
}

#[test]
fn a_store_that_is_away_delays_and_nothing_more() {
    let rig = Async::new(|pgbr| pgbr.set("global", "archive-timeout", "3"));
    rig.write(3);
    rig.settle();
    let away = rig.rig.take_away();
    let segment = rig.rig.cluster.switch_wal();
    let worker = rig.wait_worker();
    // The call waits as long as it may, and says why it gives up.
    let begun = Instant::now();
    let failed = rig.rig.pgbr.run(["archive-push", &rig.wal(&segment).display().to_string()]);
    assert!(begun.elapsed() >= Duration::from_secs(3), "{failed:#?}");
    assert_one_error(&failed, 42, &["unable to reach"]);
    assert!(!rig.spool().join("out").join(format!("{segment}.done")).exists());
    assert_eq!(rig.worker(), Some(worker), "it goes on trying");
    away.bring_back();
    rig.rig.wait_archived(&segment);
    rig.assert_whole(&rig.settle());
}

/// One of two repositories is away: the other gets its WAL, and the server keeps its own until both have it.
#[test]
fn a_repository_that_is_away_keeps_the_server_from_removing_its_wal() {
    let rig = Async::new(|pgbr| {
        let second = pgbr.scratch().dir("second");
        pgbr.set("global", "repo2-path", &second.display().to_string());
        pgbr.set("global", "archive-timeout", "2");
    });
    rig.write(2);
    let before = rig.settle();
    let (place, kept) =
        (rig.rig.pgbr.scratch().path().join("second"), rig.rig.pgbr.scratch().path().join("kept"));
    fs::rename(&place, &kept).unwrap();
    rig.write(20);
    let last = rig.rig.cluster.switch_wal();
    wait_until(LIMIT, "the first repository to have it all", || rig.object(&last).exists());
    rig.rig.cluster.sql("postgres", "checkpoint");
    let out = rig.spool().join("out");
    for n in number(before.last().unwrap()) + 1..=number(&last) {
        let name = format!("00000001{:08X}{:08X}", n / 4096, n % 4096);
        assert!(rig.wal(&name).exists(), "{name} was removed");
        assert!(!out.join(format!("{name}.done")).exists(), "{name} is called archived");
    }
    wait_until(LIMIT, "the server to be told why", || {
        rig.rig.cluster.log().contains("repo2: unable to reach")
    });
    fs::rename(&kept, &place).unwrap();
    rig.rig.wait_archived(&last);
    for segment in rig.settle() {
        assert!(
            place.join("pgbr/demo/archive/15-1").join(&segment[..16]).join(&segment).exists(),
            "{segment}"
        );
    }
}

#[test]
fn what_cannot_be_archived_is_told_at_once() {
    let rig = Async::new(|_| ());
    rig.write(2);
    rig.settle();
    // Neither the worker nor the server gets to the next segment before it has been changed.
    rig.end_worker();
    rig.rig.cluster.set_conf("archive_command", "false");
    rig.rig.cluster.reload();
    // Another cluster's segment under the next name.
    let segment = rig.rig.cluster.switch_wal();
    let (path, kept) = (rig.wal(&segment), rig.witness.join("kept"));
    fs::copy(&path, &kept).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[24] ^= 1;
    fs::write(&path, &bytes).unwrap();
    rig.rig.pgbr.ok(["start"]);
    let begun = Instant::now();
    let failed = rig.rig.pgbr.run(["archive-push", &path.display().to_string()]);
    assert_one_error(
        &failed,
        44,
        &["is not of this stanza", "HINT: are you archiving to the correct stanza?"],
    );
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    fs::copy(&kept, &path).unwrap();
    let pushed = rig.rig.pgbr.ok(["archive-push", &path.display().to_string()]);
    assert!(pushed.contains("asynchronously"), "{pushed}");
    // A stop file ends the worker, and the call that comes then does not begin.
    rig.end_worker();
    let stopped = rig.rig.pgbr.run(["archive-push", &path.display().to_string()]);
    assert_one_error(&stopped, 62, &["stop file exists"]);
    rig.rig.pgbr.ok(["start"]);
    // A worker's failure is in its log; its exit code would tell a server that is the first process of a container of a crash.
    rig.rig.pgbr.fails(1, ["archive-push:async", "/nowhere"]);
    assert!(rig.log().contains("archive-push:async command end: aborted with exception"), "{}", rig.log());
    // Nothing of it stands in the way of what needs the archive's lock.
    rig.rig.pgbr.ok(["stanza-upgrade"]);
}

#[test]
fn a_worker_is_on_its_own_and_one_with_other_settings_takes_over() {
    let rig = Async::new(|pgbr| pgbr.encrypt(1, "aes-256-gcm", PASS));
    rig.write(1);
    rig.settle();
    let worker = rig.wait_worker();
    let proc = PathBuf::from(format!("/proc/{worker}"));
    let command = fs::read_to_string(proc.join("cmdline")).unwrap();
    assert!(command.contains("archive-push:async") && !command.contains(PASS), "{command}");
    let stat = fs::read_to_string(proc.join("stat")).unwrap();
    let session: u32 = stat.rsplit(") ").next().unwrap().split(' ').nth(3).unwrap().parse().unwrap();
    assert_eq!(session, worker, "it leads a session");
    assert_eq!(fs::read_link(proc.join("cwd")).ok().unwrap_or_else(|| "/".into()), Path::new("/"));
    for fd in fs::read_dir(proc.join("fd")).into_iter().flatten().flatten() {
        let Ok(target) = fs::read_link(fd.path()) else { continue };
        let number: u32 = fd.file_name().to_string_lossy().parse().unwrap();
        let data = rig.rig.cluster.data_dir();
        assert!(number > 2 || target == Path::new("/dev/null"), "{number}: {}", target.display());
        assert!(!target.starts_with(data), "{number}: {}", target.display());
    }
    // A second repository: what the old worker would call archived is not enough.
    let second = rig.rig.pgbr.scratch().dir("second");
    rig.rig.pgbr.set("global", "repo2-path", &second.display().to_string());
    rig.rig.cluster.set_conf("archive_command", "false");
    rig.rig.cluster.reload();
    wait_until(LIMIT, "the second repository", || rig.rig.pgbr.run(["stanza-create"]).success());
    rig.rig.pgbr.archive_from(&rig.rig.cluster);
    let segment = rig.rig.cluster.switch_wal();
    rig.rig.cluster.wait_archived(&segment);
    assert!(second.join("pgbr/demo/archive/15-1").join(&segment[..16]).join(&segment).exists());
}

#[test]
fn what_a_spool_holds_of_other_times_is_not_believed() {
    let rig = Async::new(|_| ());
    rig.write(1);
    rig.settle();
    rig.rig.cluster.set_conf("archive_command", "false");
    rig.rig.cluster.reload();
    let segment = rig.rig.cluster.switch_wal();
    if let Some(pid) = rig.worker() {
        kill(pid);
    }
    let out = rig.spool().join("out");
    for text in ["", "0\n", "0\nwarning", "0\npgbr 1 0 0\n", "pgbr 1 0 0\n"] {
        fs::remove_file(rig.object(&segment)).ok();
        for ending in ["ok", "done"] {
            let left = out.join(format!("{segment}.{ending}"));
            fs::write(&left, text).unwrap();
            own(&left);
        }
        let pushed = rig.rig.pgbr.ok(["archive-push", &rig.wal(&segment).display().to_string()]);
        assert!(pushed.contains("asynchronously"), "{pushed}");
        assert!(rig.object(&segment).exists(), "{text:?} was believed");
        rig.worker().into_iter().for_each(kill);
    }
    // An old error is not told either.
    for name in [segment.as_str(), "global"] {
        fs::write(out.join(format!("{name}.error")), "45\nof another time").unwrap();
        own(&out.join(format!("{name}.error")));
    }
    fs::remove_file(out.join(format!("{segment}.done"))).ok();
    let pushed = rig.rig.pgbr.ok(["archive-push", &rig.wal(&segment).display().to_string()]);
    assert!(!pushed.contains("of another time"), "{pushed}");
}

#[test]
fn a_queue_that_is_too_long_is_cut_and_says_so() {
    for mode in ["y", "n"] {
        let rig = Async::new(|pgbr| {
            pgbr.set("global", "archive-async", mode);
            pgbr.set("global", "archive-timeout", "1");
        });
        rig.write(1);
        rig.settle();
        let away = rig.rig.take_away();
        rig.write(8);
        rig.rig.pgbr.set("global", "archive-push-queue-max", "4MiB");
        let first = rig.rig.cluster.switch_wal();
        let log = || rig.rig.cluster.log();
        wait_until(LIMIT, "files to be dropped", || log().contains("dropped WAL file"));
        wait_until(LIMIT, "the queue to be short", || {
            rig.rig.cluster.sql("postgres", "select pg_logical_emit_message(true, 'x', 'y')");
            let status = rig.rig.cluster.data_dir().join("pg_wal/archive_status");
            let ready = fs::read_dir(status).unwrap().flatten();
            ready.into_iter().filter(|e| e.path().extension().is_some_and(|e| e == "ready")).count() <= 4
        });
        let text = log();
        let dropped = text.matches("WARN: dropped WAL file '").count();
        assert!(dropped >= 4, "{dropped}: {text}");
        assert!(text.contains("because archive queue exceeded 4MB"), "{text}");
        assert!(text.contains("HINT: ") && text.contains("until another backup is made"), "{text}");
        away.bring_back();
        rig.rig.wait_archived(&first);
    }
}

/// A recovery that takes its WAL from what was fetched ahead, and a standby that follows.
#[test]
fn recovery_reads_ahead() {
    let rig = Async::new(|_| ());
    rig.rig.cluster.sql("postgres", "create table t (id int primary key)");
    rig.rig.pgbr.ok(["backup", "--type=full"]);
    for row in 1..=4 {
        rig.rig.cluster.sql("postgres", &format!("insert into t values ({row})"));
        rig.write(15);
    }
    rig.settle();
    // What is planted in the spool is not what a server gets.
    let planted = rig.spool().join("ahead");
    fs::create_dir_all(planted.join("17-0a0b0c0d")).unwrap();
    for name in ["000000010000000000000010", "17-0a0b0c0d/000000010000000000000010.1"] {
        fs::write(planted.join(name), vec![7; 1 << 20]).unwrap();
    }
    let mut todo = vec![planted.clone()];
    while let Some(path) = todo.pop() {
        own(&path);
        todo.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
    }

    let target = rig.rig.target();
    rig.rig.pgbr.ok(crate::rig::restore_into(&target));
    let begun = Instant::now();
    target.start();
    target.wait_promoted();
    println!("recovery of some 60 segments took {} ms", begun.elapsed().as_millis());
    assert_eq!(target.sql("postgres", "select count(*) from t"), "4");
    let log = target.log();
    let ahead = log.matches("in the archive asynchronously").count();
    println!("{ahead} of {} segments were there", log.matches(" archive").count());
    assert!(ahead > 20, "{log}");
    target.assert_clean();

    let mut standby = rig.rig.target();
    let mut args = crate::rig::restore_into(&standby).to_vec();
    args.push("--type=standby".to_owned());
    rig.rig.pgbr.ok(&args);
    standby.set_override("wal_retrieve_retry_interval", "200ms");
    standby.start();
    wait_until(LIMIT, "the standby to catch up", || standby.sql("postgres", "select count(*) from t") == "4");
    rig.rig.cluster.sql("postgres", "insert into t values (5)");
    rig.write(3);
    rig.settle();
    wait_until(LIMIT, "the standby to follow", || standby.sql("postgres", "select count(*) from t") == "5");
    let reader = worker_of(&rig.rig, "get-1");
    println!("the worker that reads ahead: {reader:?}");
    let text = said(&rig.rig.pgbr.run(["archive-get", "0000000100000000000000FF", "pg_wal/RECOVERYXLOG"]));
    assert!(text.contains("unable to find 0000000100000000000000FF in the archive"), "{text}");
}

/// What a worker pushes until it makes room for the next one, and how far another one is ahead of the server.
#[test]
fn how_much_is_done_at_a_time() {
    let rig = Async::new(|pgbr| pgbr.set("global", "archive-push-batch-size", "4MiB"));
    rig.write(30);
    let segments = rig.settle();
    let workers = || rig.log().matches("archive-push:async command begin").count();
    let pushed = || -> Vec<usize> {
        let log = rig.log();
        let told =
            log.split(" DETAIL: pushed ").skip(1).filter_map(|rest| rest.split_once(" WAL file(s) in all"));
        told.filter_map(|(number, _)| number.parse().ok()).collect()
    };
    // The last one waits for more.
    wait_until(LIMIT, "the workers to end", || pushed().len() + 1 >= workers());
    assert!(workers() >= 3, "{}", rig.log());
    // What was under way when the limit was reached is finished.
    assert!(pushed().iter().all(|files| *files <= 12), "{:?}", pushed());

    let got = rig.rig.cluster.scratch().dir("got");
    own(&got);
    let destination = got.join("file").display().to_string();
    let ahead = || {
        let shelves = fs::read_dir(rig.spool().join("ahead")).into_iter().flatten().flatten();
        let files = shelves.flat_map(|shelf| fs::read_dir(shelf.path()).into_iter().flatten().flatten());
        files.filter(|file| file.file_name().to_string_lossy().starts_with("0000")).count()
    };
    let most = |options: &[&str], least: usize| {
        // A worker with other settings may have to end first.
        wait_until(LIMIT, "the reader to be ahead", || {
            rig.rig.pgbr.ok([&["archive-get", segments[0].as_str(), &destination], options].concat());
            ahead() >= least
        });
        std::thread::sleep(Duration::from_millis(300));
        ahead()
    };
    let few = most(&["--archive-get-queue-max=4MiB"], 3);
    assert!(few <= 5, "{few}");
    let many = most(&[], 10);
    assert!(many >= 10, "{many}");
}

/// The store answers one request of five wrongly or not at all, and then goes away for a while.
#[test]
fn a_store_that_fails_gets_everything_in_the_end() {
    let rig = Async::on(StoreKind::S3, |pgbr| pgbr.encrypt(1, "aes-256-gcm", PASS));
    let proxy = rig.rig.pgbr.proxy();
    proxy.break_some(20, 0x5EED);
    rig.write(60);
    proxy.leave();
    rig.write(5);
    std::thread::sleep(Duration::from_secs(3));
    proxy.come_back();
    let segments = rig.settle();
    proxy.pass();
    println!("{} segments, {} requests", segments.len(), proxy.seen().len());
    assert!(proxy.seen().len() > segments.len() + 5, "nothing was tried again");
    rig.assert_whole(&segments);
}

/// What a file costs a repository in a cloud store, and what a minute saves.
#[test]
fn requests_of_single_calls() {
    let rig = Async::on(StoreKind::S3, |pgbr| {
        pgbr.encrypt(1, "aes-256-gcm", PASS);
        pgbr.set("global", "archive-async", "n");
    });
    rig.write(3);
    let archived = rig.settle();
    rig.rig.cluster.set_conf("archive_command", "false");
    rig.rig.cluster.reload();
    let proxy = rig.rig.pgbr.proxy();
    let facts = rig.rig.pgbr.scratch().path().join("lock/facts");
    let count = |args: &[&str]| {
        proxy.forget();
        rig.rig.pgbr.ok(args);
        proxy.count()
    };
    let puts_gets = |(puts, gets): (usize, usize)| {
        let pairs = [("PUT", puts), ("GET", gets)].into_iter().filter(|(_, n)| *n > 0);
        pairs.map(|(method, n)| (method.to_owned(), n)).collect::<std::collections::BTreeMap<_, _>>()
    };
    let push = |segment: &str| count(&["archive-push", &rig.wal(segment).display().to_string()]);
    fs::remove_dir_all(&facts).ok();
    let (one, two) = (rig.rig.cluster.switch_wal(), rig.rig.cluster.switch_wal());
    assert_eq!(push(&one), puts_gets((1, 2)), "cold");
    assert_eq!(push(&two), puts_gets((1, 0)), "warm");
    let got = rig.rig.cluster.scratch().dir("got");
    own(&got);
    let destination = got.join("file").display().to_string();
    let get = || count(&["archive-get", &archived[1], &destination]);
    assert_eq!(get(), puts_gets((0, 1)), "warm");
    fs::remove_dir_all(&facts).unwrap();
    assert_eq!(get(), puts_gets((0, 3)), "cold");
}

/// What the server waits for while the worker is ahead of it. Printed, for a machine may be busy.
#[test]
fn handing_over_what_is_archived_already() {
    let rig = Async::new(|pgbr| pgbr.set("global", "log-level-console", "off"));
    rig.write(1);
    rig.settle();
    rig.rig.cluster.set_conf("archive_command", "false");
    rig.rig.cluster.reload();
    rig.write(40);
    let status = rig.rig.cluster.data_dir().join("pg_wal/archive_status");
    let ready = fs::read_dir(status).unwrap().flatten();
    let names =
        ready.filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".ready")?.to_owned()));
    let names: BTreeSet<String> = names.collect();
    let push = |name: &String| {
        let begun = Instant::now();
        rig.rig.pgbr.ok(["archive-push", &rig.wal(name).display().to_string()]);
        begun.elapsed()
    };
    println!("the first of {} files: {:?}", names.len(), names.iter().next().map(push));
    let out = rig.spool().join("out");
    wait_until(LIMIT, "the worker to be done", || {
        names.iter().all(|n| out.join(format!("{n}.done")).exists())
    });
    let mut times: Vec<Duration> = names.iter().map(push).collect();
    times.sort_unstable();
    println!(
        "the others: {:?} at least, {:?} in the middle, {:?} at most",
        times[0],
        times[times.len() / 2],
        times[times.len() - 1]
    );
    let version = Instant::now();
    rig.rig.pgbr.ok(["start"]);
    println!("a command that does nothing: {:?}", version.elapsed());
}
