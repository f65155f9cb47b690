//! A database host whose passphrase is for writing only: it does its work, and reads nothing of what it or anybody stored.

use std::fs;

use pgbr_testkit::{Cluster, own};
use rustix::process::Signal;

use crate::rig::{MAJOR, PASS, Rig, assert_one_error, assert_untouched, restore_into, said};
use crate::world::{archive_all, last_mark, set_mark};

/// A cluster and its repository with a passphrase for writing only, by which its host archives and makes backups; the other one is at hand for
/// what another host does.
struct Hosts {
    rig: Rig,
    writer: String,
}

impl Hosts {
    fn new() -> Self {
        let rig = Rig::sealed();
        rig.pgbr.set("global", "repo1-retention-full", "9");
        rig.cluster.sql("postgres", "create table mark (id int primary key)");
        Self { rig, writer: PASS.to_owned() }
    }

    /// Gives the database host a passphrase for writing only.
    fn part(&mut self) {
        self.writer = self.as_owner(add_writer);
        self.rig.pgbr.set("global", "repo1-cipher-pass", &self.writer);
    }

    /// On a host with a passphrase that reads.
    fn as_owner<T>(&self, work: impl FnOnce(&Rig) -> T) -> T {
        self.rig.pgbr.set("global", "repo1-cipher-pass", PASS);
        let done = work(&self.rig);
        self.rig.pgbr.set("global", "repo1-cipher-pass", &self.writer);
        done
    }

    fn backup(&self, kind: &str) -> String {
        self.rig.pgbr.ok(["backup", &format!("--type={kind}")]);
        self.rig.labels().pop().expect("the backup that was just made is listed")
    }

    /// The key modes of the objects below a prefix.
    fn modes(&self, below: &str) -> Vec<u8> {
        let objects = self.rig.objects();
        let mut modes: Vec<u8> =
            objects.list(&self.rig.key(below)).iter().map(|key| objects.get(key)[5]).collect();
        modes.dedup();
        modes
    }

    /// A restore by who reads, started and promoted.
    fn restored(&self, options: &[&str]) -> Cluster {
        let target = self.rig.target();
        self.as_owner(|rig| {
            rig.pgbr.ok(restore_into(&target).iter().map(String::as_str).chain(options.iter().copied()));
            target.start();
            target.wait_promoted();
        });
        target
    }
}

fn add_writer(rig: &Rig) -> String {
    let options = ["key-add", "--write-only", "--generate", "--slot-name=db1", "--log-level-console=off"];
    rig.pgbr.ok(options).trim().to_owned()
}

#[test]
fn a_database_host_does_its_work_and_reads_nothing() {
    let mut hosts = Hosts::new();
    let full = hosts.backup("full");
    assert_eq!(hosts.modes(&format!("backup/{full}/pack")), [1]);
    hosts.part();
    let Hosts { rig, writer, .. } = &hosts;
    assert!(writer.starts_with("pgbr-key-") && writer.len() == 61, "{writer}");
    let listed = rig.pgbr.ok(["key-list"]);
    assert!(listed.contains("\"db1\": generated, for writing only, in use here"), "{listed}");

    // On top of what was stored before there were writers: an increment, by names and hashes alone.
    rig.pgbr.ok(["check"]);
    rig.cluster.pgbench_init(1);
    let incr = hosts.backup("incr");
    assert!(incr.starts_with(&full), "an increment on top of {full}: {incr}");
    let data = |label: &str| {
        let packs = rig.names(&format!("backup/{label}/pack"));
        let (index, data): (Vec<_>, Vec<_>) = packs.into_iter().partition(|name| name.contains("-i"));
        let mode = |name: &String| rig.objects().get(&rig.key(&format!("backup/{label}/pack/{name}")))[5];
        assert!(index.iter().map(mode).all(|mode| mode == 1), "the index is not content");
        data.iter().map(mode).collect::<Vec<_>>()
    };
    assert!(data(&incr).iter().all(|mode| *mode == 2));
    let early = set_mark(&rig.cluster);
    let segment = rig.archived_segment();
    assert_eq!(rig.objects().get(&rig.wal_key(&segment))[5], 2);

    // A segment that is archived already: the same is a success, another an error.
    let path = rig.cluster.data_dir().join("pg_wal").join(&segment);
    let copy = rig.pgbr.scratch().path().join(&segment);
    fs::copy(&path, &copy).expect("the server still has it");
    own(&copy);
    let push = || rig.pgbr.run(["archive-push", &copy.display().to_string()]);
    let again = push();
    assert_eq!(again.code, Some(0), "{again:#?}");
    let mut other = fs::read(&copy).expect("it is there");
    *other.last_mut().expect("it has bytes") ^= 1;
    fs::write(&copy, other).expect("it can be written");
    assert_one_error(&push(), 45, &[&segment, "different content"]);

    // A broken run is taken up by what its packs say of themselves.
    rig.slow_down();
    let broken = rig.frozen_backup();
    broken.send(Signal::KILL);
    assert_eq!(broken.thaw().code, None);
    let resumed = rig.pgbr.run(["backup", "--type=full", "--log-level-console=info"]);
    assert_eq!(resumed.code, Some(0), "{resumed:#?}");
    assert!(said(&resumed).contains("resume backup"), "{resumed:#?}");
    assert!(!said(&resumed).contains("cannot be taken up"), "{resumed:#?}");
    rig.pgbr.unset("global", "compress-type");
    let second = rig.labels().pop().expect("it is listed");
    rig.cluster.sql("postgres", "update pgbench_accounts set abalance = 7 where aid % 50 = 0");
    let diff = hosts.backup("diff");
    assert!(diff.starts_with(&second), "{diff}");

    nothing_is_read(&hosts, &segment);

    // Who reads restores both chains, the one of two modes and the resumed one.
    let moment = format!("--target={}", early.after);
    let set = format!("--set={incr}");
    let target =
        hosts.restored(&[&set, "--type=time", &moment, "--target-action=promote", "--archive-mode=off"]);
    assert_eq!(last_mark(&target), early.id);
    target.assert_clean();
    drop(target);
    let late = set_mark(&rig.cluster);
    rig.archived_segment();
    let target = hosts.restored(&["--archive-mode=off"]);
    assert_eq!(last_mark(&target), late.id);
    assert_eq!(target.table_digest("postgres"), rig.cluster.table_digest("postgres"));
    target.assert_clean();
    drop(target);
    damage_is_found(&hosts, &second, &segment);

    // What retention does not keep goes, without being read.
    rig.pgbr.ok(["expire", "--repo1-retention-full=1"]);
    assert_eq!(rig.labels(), [second, diff]);
    hosts.as_owner(|rig| rig.pgbr.ok(["verify"]));
}

/// Every command that would need content says so, and does nothing.
fn nothing_is_read(hosts: &Hosts, segment: &str) {
    const ONLY: &str = "the passphrase is for writing only";
    let rig = &hosts.rig;
    let target = rig.target();
    let restore = restore_into(&target);
    rig.refused(95, &[ONLY, "unable to restore", "key-list"], restore.iter().map(String::as_str));
    rig.refused(95, &[ONLY], restore.iter().map(String::as_str).chain(["--dry-run"]));
    assert_untouched(&target);
    let destination = rig.pgbr.scratch().path().join("got");
    let got = rig.pgbr.run(["archive-get", segment, &destination.display().to_string()]);
    assert_one_error(&got, 95, &[ONLY, "get WAL"]);
    assert!(!destination.exists());
    rig.refused(95, &[ONLY, "verify"], ["verify"]);
    let drills = format!("--drill-path={}", rig.pgbr.scratch().path().display());
    rig.refused(95, &[ONLY], ["drill", &drills]);
    let object = rig.wal_key(segment);
    rig.refused(95, &[ONLY, segment], ["repo-get", &object]);
    let slot =
        rig.pgbr.ok(["key-list"]).split_whitespace().nth(1).map(|id| id.trim_end_matches(':').to_owned());
    let slot = format!("--slot={}", slot.expect("a slot is listed"));
    for change in [
        &["key-add", "--generate"][..],
        &["key-add", "--write-only", "--generate"],
        &["key-change", "--generate"],
        &["key-rotate", "--generate"],
        &["key-remove", &slot],
    ] {
        rig.refused(95, &[ONLY, "change what opens"], change.iter().copied());
    }
}

/// Who reads finds a flipped bit in what a writer stored.
fn damage_is_found(hosts: &Hosts, label: &str, segment: &str) {
    let rig = &hosts.rig;
    let packs = rig.names(&format!("backup/{label}/pack"));
    let pack = packs.iter().find(|name| !name.contains("-i")).expect("it has data");
    for key in [rig.key(&format!("backup/{label}/pack/{pack}")), rig.wal_key(segment)] {
        let good = rig.objects().get(&key);
        let mut bad = good.clone();
        bad[good.len() / 2] ^= 4;
        rig.objects().put(&key, &bad);
        let found = hosts.as_owner(|rig| rig.pgbr.run(["verify"]));
        assert_eq!(found.code, Some(28), "{key}: {found:#?}");
        let name = key.rsplit('/').next().expect("it has a name");
        assert!(said(&found).contains(name), "{name}: {found:#?}");
        rig.objects().put(&key, &good);
    }
}

#[test]
fn keys_and_timelines_change_under_a_database_host() {
    let mut hosts = Hosts::new();
    hosts.part();
    let full = hosts.backup("full");
    hosts.rig.archived_segment();
    // With another key the host has to be given a new passphrase; until then it archives nothing, and nothing is lost.
    hosts.as_owner(|rig| rig.pgbr.ok(["key-rotate"]));
    assert_one_error(&hosts.rig.pgbr.run(["check"]), 95, &["opens none"]);
    hosts.part();
    let Hosts { rig, .. } = &hosts;
    rig.pgbr.set("global", "archive-async", "y");
    rig.still_archives();
    rig.cluster.sql("postgres", "create table t as select generate_series(1, 5000) x");
    let incr = hosts.backup("incr");
    assert!(incr.starts_with(&full), "on top of a backup under the key of before: {incr}");
    set_mark(&rig.cluster);
    archive_all(&rig.cluster);

    // Another server takes over, and goes on with the same passphrase: what it builds on is told by a history file that it cannot read.
    rig.cluster.stop(pgbr_testkit::StopMode::Fast);
    let mut next = Cluster::builder(MAJOR).conf("archive_mode", "on").empty();
    next.set_override("archive_command", &rig.pgbr.archive_command());
    hosts.as_owner(|rig| {
        rig.pgbr.ok(restore_into(&next));
        rig.pgbr.set_cluster(1, &next);
        next.start();
        next.wait_promoted();
    });
    archive_all(&next);
    assert_eq!(rig.objects().get(&rig.key("archive/15-1/00000002.history"))[5], 2);
    let over = rig.pgbr.run(["backup", "--type=incr", "--log-level-console=detail"]);
    assert_eq!(over.code, Some(0), "{over:#?}");
    let label = rig.labels().pop().expect("it is listed");
    assert!(label.starts_with(&full), "an increment over the change of timelines: {label}, {over:#?}");
    assert!(!said(&over).contains("history file"), "{over:#?}");
    let late = set_mark(&next);
    archive_all(&next);

    let target = hosts.restored(&["--archive-mode=off"]);
    assert_eq!(last_mark(&target), late.id);
    target.assert_clean();
    // Taken away, the passphrase opens nothing any more.
    let slots = hosts.as_owner(|rig| rig.pgbr.ok(["key-list"]));
    let line = slots.lines().find(|line| line.contains("for writing only")).expect("it is listed");
    let slot = line.split_whitespace().nth(1).expect("it has an id").trim_end_matches(':');
    hosts.as_owner(|rig| rig.pgbr.ok(["key-remove", &format!("--slot={slot}")]));
    assert_one_error(&rig.pgbr.run(["check"]), 95, &["opens none"]);
    hosts.as_owner(|rig| rig.pgbr.ok(["verify"]));
}

/// What was archived before there were writers cannot be compared: that is said, and nothing is put in its place or beside it.
#[test]
fn an_older_segment_is_left_to_who_reads() {
    let mut hosts = Hosts::new();
    let segment = hosts.rig.archived_segment();
    let copy = hosts.rig.pgbr.scratch().path().join(&segment);
    fs::copy(hosts.rig.cluster.data_dir().join("pg_wal").join(&segment), &copy)
        .expect("the server still has it");
    own(&copy);
    hosts.part();
    let push = |rig: &Rig| rig.pgbr.run(["archive-push", &copy.display().to_string()]);
    let before = hosts.rig.names("archive");
    assert_one_error(&push(&hosts.rig), 95, &["for writing only", &segment, "with a passphrase that reads"]);
    assert_eq!(hosts.as_owner(push).code, Some(0));
    let after = hosts.rig.names("archive");
    assert!(after.iter().filter(|name| name.contains(&segment)).count() == 1, "{before:?} {after:?}");
}
