//! SIGKILL at random moments of every command that writes, on a cluster under load: what was promised is still there.
//!
//! `PGBR_TEST_KILLS` and `PGBR_TEST_KILLS_SEED` give more kills, or others.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use pgbr_testkit::Cluster;
use rustix::process::{Pid, Signal, kill_process};

use crate::model::{Rng, number};
use crate::rig::{MAJOR, PASS};
use crate::state::{check_pages, open_backup, state};
use crate::world::World;

/// Kills of the test run; the night has time for hundreds.
const KILLS: u64 = 8;
const SEED: u64 = 5;

/// What is killed, and how often.
const ACTS: [(u64, &str); 12] = [
    (16, "full"),
    (16, "diff"),
    (24, "incr"),
    (24, "push"),
    (10, "expire"),
    (14, "restore"),
    (12, "copy"),
    (8, "annotate"),
    (8, "key-rotate"),
    (6, "verify"),
    (4, "stanza-upgrade"),
    (4, "check"),
];

/// The sum over both tables stays the same.
const TRANSFER: &str = "begin; update here set n = n - 7 where id = (select 1 + floor(random() * 200)::int);
    update there set n = n + 7 where id = (select 1 + floor(random() * 200)::int); commit";
const SUM: &str = "select (select sum(n) from here) + (select sum(n) from there)";

#[test]
fn nothing_is_lost_to_kills_at_random_moments() {
    let (kills, seed) = (number("PGBR_TEST_KILLS", KILLS), number("PGBR_TEST_KILLS_SEED", SEED));
    tell(&format!("{kills} kills, seed {seed}"));
    let (world, calm) = (world(), AtomicBool::new(false));
    let mut trial = Trial::new(&world, seed);
    thread::scope(|scope| {
        let _calm = Calm(&calm);
        scope.spawn(|| blow(&world.cluster, &calm));
        while trial.killed < kills {
            trial.act();
            if trial.acts.is_multiple_of(10) {
                trial.look_closely();
            }
        }
    });
    trial.end();
    tell(&format!("{} kills in {} acts: {:?}", trial.killed, trial.acts, trial.done));
}

#[expect(clippy::print_stderr, reason = "the history is what a failure is understood by")]
fn tell(text: &str) {
    eprintln!("kills: {text}");
}

/// Archives into two repositories, of which the first is encrypted and gets the backups.
fn world() -> World {
    let world = World::with(Cluster::builder(MAJOR), |pgbr| {
        pgbr.set("global", "repo1-pack-size", "1MiB");
        pgbr.encrypt(1, "aes-256-gcm", PASS);
        pgbr.set("global", "repo2-path", &pgbr.scratch().dir("second").display().to_string());
        pgbr.set("global", "repo1-retention-full", "2");
        pgbr.set("global", "repo2-retention-full", "2");
        pgbr.set("global", "archive-timeout", "60");
    });
    world.cluster.sql(
        "postgres",
        "create table here (id int primary key, n bigint); create table there (id int primary key, n bigint);
         insert into here select g, 1000 from generate_series(1, 200) g;
         insert into there select g, -1000 from generate_series(1, 200) g;
         create table filler as select g, repeat(md5(g::text), 20) v from generate_series(1, 20000) g",
    );
    world
}

/// Transfers until the end.
fn blow(cluster: &Cluster, calm: &AtomicBool) {
    while !calm.load(Ordering::SeqCst) {
        cluster.sql("postgres", TRANSFER);
        thread::sleep(Duration::from_millis(50));
    }
}

/// Ends the load, whatever way.
struct Calm<'a>(&'a AtomicBool);

impl Drop for Calm<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

struct Trial<'a> {
    world: &'a World,
    rng: Rng,
    /// Every backup that was ever listed in the first repository, with how many marks there were when it began.
    known: BTreeMap<String, u64>,
    marks: u64,
    /// How long each command takes that nobody kills.
    typical: BTreeMap<&'static str, Duration>,
    acts: u64,
    killed: u64,
    done: BTreeMap<String, u32>,
}

impl<'a> Trial<'a> {
    fn new(world: &'a World, seed: u64) -> Self {
        let mut trial = Self {
            world,
            rng: Rng(seed),
            known: BTreeMap::new(),
            marks: 0,
            typical: BTreeMap::new(),
            acts: 0,
            killed: 0,
            done: BTreeMap::new(),
        };
        world.backup();
        trial.learn();
        trial
    }

    /// One command, killed or not, and a first look at what is left.
    fn act(&mut self) {
        self.acts += 1;
        self.mark();
        let act = self.rng.weighted(&ACTS);
        match act {
            "push" => self.push(),
            "restore" => self.restore(),
            act => drop(self.kill(act, &self.words(act))),
        }
        self.learn();
    }

    fn words(&self, act: &str) -> Vec<String> {
        let words: &[&str] = match act {
            "full" | "diff" | "incr" => &["backup", "--repo=1", &format!("--type={act}")],
            "copy" => &["repo-copy", "--repo=1", "--to-repo=2"],
            "annotate" => {
                let newest = self.known.keys().next_back().expect("there was a backup at the beginning");
                &[
                    "annotate",
                    "--repo=1",
                    &format!("--set={newest}"),
                    &format!("--annotation=n={}", self.acts),
                ]
            }
            "key-rotate" | "verify" => &[act, "--repo=1"],
            act => &[act],
        };
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn mark(&mut self) {
        self.marks += 1;
        self.world.cluster.sql("postgres", &format!("insert into mark values ({})", self.marks));
    }

    /// Runs a command and kills it at some moment of the time that it takes, or a little later; whether it was killed. One that was not has
    /// to have succeeded.
    fn kill(&mut self, act: &'static str, words: &[String]) -> bool {
        let typical = self.typical.get(act).copied().unwrap_or(Duration::from_secs(1));
        let moment = typical * u32::try_from(self.rng.below(110)).expect("small") / 100;
        let mut command = self.world.pgbr.command(words);
        let log = fs::File::create(self.world.pgbr.scratch().path().join("killed.log")).expect("a file");
        let output = log.try_clone().expect("a file");
        let child = command.stdin(Stdio::null()).stdout(log).stderr(output).spawn();
        let (mut child, begun) = (child.expect("the program can be started"), Instant::now());
        while begun.elapsed() < moment {
            if child.try_wait().expect("a child has a state").is_some() {
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
        child.kill().ok();
        let status = child.wait().expect("a child can be waited for");
        let killed = status.code().is_none();
        if !killed {
            self.typical.insert(act, begun.elapsed());
            let path = self.world.pgbr.scratch().path().join("killed.log");
            assert!(
                status.success(),
                "{words:?}: {status}: {}",
                fs::read_to_string(path).unwrap_or_default()
            );
        }
        self.count(act, killed);
        killed
    }

    fn count(&mut self, act: &str, killed: bool) {
        tell(&format!("{act}{}", if killed { " killed" } else { "" }));
        self.killed += u64::from(killed);
        *self.done.entry(format!("{act}{}", if killed { " killed" } else { "" })).or_default() += 1;
    }

    /// The server hands a segment over, and the archive-push that it started for that is killed.
    fn push(&mut self) {
        let segment = self.world.cluster.switch_wal();
        let (begun, moment) = (Instant::now(), Duration::from_millis(self.rng.below(60)));
        let mut killed = false;
        while !killed && begun.elapsed() < Duration::from_secs(2) {
            let found = pushing(&self.world.pgbr.config_path().display().to_string());
            if let (Some(pid), true) = (found, begun.elapsed() >= moment) {
                killed = kill_process(pid, Signal::KILL).is_ok();
            }
            thread::sleep(Duration::from_millis(1));
        }
        self.count("push", killed);
        self.world.cluster.wait_archived(&segment);
    }

    /// A restore that was killed is made again over what it left.
    fn restore(&mut self) {
        let label = self.one_listed();
        let target = Cluster::builder(MAJOR).empty();
        let into = format!("--pg1-path={}", target.data_dir().display());
        let words = ["restore", "--repo=1", &into, &format!("--set={label}"), "--type=immediate"];
        let killed = self.kill("restore", &words.map(str::to_owned));
        let delta: &[&str] =
            if killed { &["--repo=1", "--delta"] } else { &["--repo=1", "--delta", "--force"] };
        self.check_restored(&target, &label, delta);
    }

    fn one_listed(&mut self) -> String {
        let listed: Vec<String> = self.listed("--repo=1").into_iter().collect();
        let at = self.rng.below(listed.len().try_into().expect("few"));
        listed[usize::try_from(at).expect("few")].clone()
    }

    fn check_restored(&self, target: &Cluster, label: &str, options: &[&str]) {
        open_backup(&self.world.pgbr, target, label, options);
        assert_eq!(target.sql("postgres", SUM), "0", "{label}");
        let marks: u64 = target.sql("postgres", "select count(*) from mark").parse().expect("a number");
        let least = self.known.get(label).copied().unwrap_or_default();
        assert!(marks >= least && marks <= self.marks, "{label}: {marks} marks, not {least} or more");
        check_pages(target);
    }

    fn listed(&self, repo: &str) -> BTreeSet<String> {
        let text = self.world.pgbr.ok(["info", "--output=json", repo, "--log-level-console=off"]);
        let info: serde_json::Value = serde_json::from_str(&text).expect("info prints JSON");
        let backups = info[0]["backup"].as_array().cloned().unwrap_or_default();
        backups.iter().filter_map(|backup| Some(backup["label"].as_str()?.to_owned())).collect()
    }

    /// The two newest fulls and all that builds on them are what retention has promised to keep. The newest may be of a backup that was killed
    /// in its expire.
    fn learn(&mut self) {
        let listed = self.listed("--repo=1");
        let fulls: BTreeSet<&String> =
            self.known.keys().chain(&listed).filter(|label| label.ends_with('F')).collect();
        let oldest =
            fulls.iter().nth_back(1).or(fulls.first()).map(|label| label.as_str()).unwrap_or_default();
        for label in self.known.keys().filter(|label| label.as_str() >= oldest) {
            assert!(listed.contains(label), "{label} is gone: {listed:?}");
        }
        for label in listed {
            self.known.entry(label).or_insert(self.marks);
        }
    }

    /// All that is stored is whole, and what is listed can be restored.
    fn look_closely(&mut self) {
        for repo in ["--repo=1", "--repo=2"] {
            self.world.pgbr.ok(["verify", repo]);
        }
        let label = self.one_listed();
        self.check_restored(&Cluster::builder(MAJOR).empty(), &label, &["--repo=1"]);
    }

    /// Each command comes to its end, everything listed is restored, and so is the last transaction.
    fn end(&mut self) {
        for act in ["full", "incr", "copy", "expire", "stanza-upgrade", "check"] {
            self.world.pgbr.ok(self.words(act));
            self.learn();
        }
        self.mark();
        self.world.archive_all();
        self.look_closely();
        for label in self.listed("--repo=1") {
            self.check_restored(&Cluster::builder(MAJOR).empty(), &label, &["--repo=1"]);
        }
        let now = state(&self.world.cluster);
        for repo in ["--repo=1", "--repo=2"] {
            let target = self.world.opened(&[repo]);
            assert_eq!(state(&target), now, "{repo}: something is missing");
        }
    }
}

/// An archive-push with this config file that runs now.
fn pushing(config: &str) -> Option<Pid> {
    let processes = fs::read_dir("/proc").expect("it is there").flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find_map(|pid: i32| {
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        let found =
            command.contains(config) && command.contains("archive-push") && !command.starts_with("postgres");
        found.then(|| Pid::from_raw(pid)).flatten()
    })
}
