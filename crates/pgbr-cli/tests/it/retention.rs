//! Retention and expire on a real server: what stays restores, what goes is gone, and nothing is touched where nothing may be.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use pgbr_testkit::{Act, Bucket, Cluster, Finished};

use crate::rig::{Frozen, LIMIT, Rig, restore_into, said};

/// A cluster with a table that says which backup it is of.
struct Kept {
    rig: Rig,
    /// Labels with what the table holds in them, oldest first.
    made: Vec<(String, String)>,
}

impl Kept {
    fn new() -> Self {
        let rig = Rig::with(|pgbr| pgbr.set("global", "repo1-retention-full", "9"));
        rig.cluster.sql("postgres", "create table mark (id int)");
        Self { rig, made: Vec::new() }
    }

    /// Changes the table and makes a backup.
    fn backup(&mut self, args: &[&str]) -> String {
        let id = self.made.len();
        self.rig.cluster.sql("postgres", &format!("insert into mark values ({id})"));
        let finished = self.rig.pgbr.run(["backup"].iter().chain(args));
        assert!(finished.success(), "{finished:#?}");
        let label = self.rig.labels().pop().expect("the new backup is listed");
        self.made.push((label.clone(), (id + 1).to_string()));
        label
    }

    fn expire(&self, args: &[&str]) -> Finished {
        let finished = self.rig.pgbr.run(["expire", "--log-level-console=detail"].iter().chain(args));
        assert!(finished.success(), "{finished:#?}");
        finished
    }

    /// Every backup that is listed restores, to a moment at which it is consistent, to what it was made of.
    fn assert_all_restore(&self) {
        for label in self.rig.labels() {
            let rows = &self.made.iter().find(|(made, _)| *made == label).expect("it was made here").1;
            let target = self.rig.target();
            let set = format!("--set={label}");
            self.rig.pgbr.ok(restore_into(&target).iter().map(String::as_str).chain([
                set.as_str(),
                "--type=immediate",
                "--target-action=promote",
                "--archive-mode=off",
            ]));
            start(&target);
            assert_eq!(target.sql("postgres", "select count(*) from mark"), *rows, "{label}");
        }
    }

    fn segments(&self) -> BTreeSet<String> {
        let names = self.rig.names("archive/15-1");
        let segments = names.iter().filter_map(|name| name.split('/').nth(1));
        segments.filter(|name| name.len() == 24).map(str::to_owned).collect()
    }

    /// First and last segment of a backup.
    fn wal(&self, label: &str) -> (String, String) {
        let info = self.rig.info();
        let backups = info.pointer("/0/backup").and_then(|list| list.as_array()).expect("there are backups");
        let found = backups.iter().find(|b| b["label"] == label).expect("it is listed");
        let text = |name| found["archive"][name].as_str().expect("a segment").to_owned();
        (text("start"), text("stop"))
    }

    /// The labels under which anything is stored.
    fn stored(&self) -> BTreeSet<String> {
        self.rig.names("backup").iter().filter_map(|name| name.split('/').next()).map(str::to_owned).collect()
    }

    /// A file as a run that was killed leaves one, in a repository that is a directory.
    fn leave_staging_file(&self, label: &str) -> Option<PathBuf> {
        if self.rig.pgbr.bucket().is_some() {
            return None;
        }
        let name = format!("backup/{label}/pack/0000000000000001-00000000#7");
        let path = self.rig.stanza_dir().join(name);
        fs::write(&path, "half").expect("the directory is there");
        Some(path)
    }
}

fn start(target: &Cluster) {
    target.start();
    let query = "select pg_is_in_recovery()";
    pgbr_testkit::wait_until(LIMIT, "the end of recovery", || target.sql("postgres", query) == "f");
}

#[test]
fn backups_beyond_the_count_go_with_their_dependants_and_their_wal() {
    let mut kept = Kept::new();
    let first = kept.backup(&["--type=full"]);
    let dependant = kept.backup(&["--type=incr"]);
    let second = kept.backup(&["--type=full"]);
    let third = kept.backup(&["--type=full"]);
    let fourth = kept.backup(&["--type=incr", "--hold", "--hold-reason=audit"]);
    let last = kept.backup(&["--type=full"]);
    let wal: Vec<(String, String)> = [&first, &second, &third].map(|label| kept.wal(label)).to_vec();

    // A dry run touches nothing and tells all.
    let before = (kept.rig.snapshot(), kept.rig.labels());
    let dry = kept.expire(&["--dry-run", "--repo1-retention-full=1"]);
    for line in [
        format!("INFO: [DRY-RUN] repo1: expire full backup set {first}, {dependant}"),
        format!("INFO: [DRY-RUN] repo1: expire full backup {second}"),
        format!("\nremove full backup {first}: it is not the newest of the full backups"),
        format!("\nremove incr backup {dependant}: {first}, which it builds on, goes"),
        format!("\nkeep   full backup {third}: {fourth}, which stays, builds on it"),
        format!("\nkeep   incr backup {fourth}: it is on hold"),
        format!("\nkeep   full backup {last}: it is the newest of the full backups; it is the newest backup"),
        format!("{third} needs it to become consistent"),
        format!("recovery from {last} can go on through it"),
        "no backup that stays needs it".to_owned(),
    ] {
        assert!(dry.stdout.contains(&line), "'{line}' is missing: {dry:#?}");
    }
    assert_eq!((kept.rig.snapshot(), kept.rig.labels()), before);
    let json = kept.rig.pgbr.ok(["expire", "--dry-run", "--output=json", "--log-level-console=off"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("it is JSON");
    assert_eq!(json["backups"].as_array().map(Vec::len), Some(6));
    assert!(json["backups"][0]["keep"] == true && json["archives"][0]["archive"] == "15-1");

    let done = said(&kept.expire(&["--repo1-retention-full=1"]));
    for line in [
        format!("INFO: repo1: expire full backup set {first}, {dependant}\n"),
        format!("INFO: repo1: remove expired backup {first}\n"),
        "INFO: repo1: 15-1 remove archive, start = 0000000100000000".to_owned(),
        format!(
            "DETAIL: repo1: 15-1 archive retention on backup {third}, start = {}, stop = {}\n",
            wal[2].0, wal[2].1
        ),
    ] {
        assert!(done.contains(&line), "'{line}' is missing: {done}");
    }
    assert_eq!(kept.rig.labels(), [third.clone(), fourth, last.clone()]);
    assert!(!kept.stored().contains(&first) && !kept.stored().contains(&second));
    let segments = kept.segments();
    assert!(!segments.contains(&wal[0].0) && !segments.contains(&wal[1].1) && segments.contains(&wal[2].1));
    kept.assert_all_restore();

    // Nothing more to do, and the next backup does it by itself.
    let again = said(&kept.expire(&["--repo1-retention-full=1"]));
    assert!(again.contains("15-1 no archive to remove") && !again.contains("remove expired"), "{again}");
    kept.rig.pgbr.ok(["annotate", &format!("--set={}", kept.rig.labels()[1]), "--no-hold"]);
    kept.rig.pgbr.set("global", "repo1-retention-full", "1");
    let newest = kept.backup(&["--type=full"]);
    assert_eq!(kept.rig.labels(), [newest]);
    kept.assert_all_restore();
}

#[test]
fn a_backup_goes_by_name_and_the_last_one_does_not() {
    let mut kept = Kept::new();
    let first = kept.backup(&["--type=full"]);
    let expired = kept.backup(&["--type=incr"]);
    let words = ["cannot be expired until another full backup has been created on this repo"];
    kept.rig.refused(75, &words, ["expire", &format!("--set={first}")]);
    let latest = said(&kept.expire(&[&format!("--set={expired}")]));
    assert!(latest.contains(&format!("repo1: expire adhoc backup {expired}\n")), "{latest}");
    assert!(latest.contains("WARN: expiring latest backup"), "{latest}");
    assert_eq!(kept.rig.labels(), std::slice::from_ref(&first));
    let missing = said(&kept.expire(&["--set=20200101-000000F"]));
    assert!(missing.contains("WARN: backup 20200101-000000F does not exist\n"), "{missing}");
    for (args, code, word) in [
        (["expire", "--set=bogus", ""], 32, "'bogus' is not a valid backup label format"),
        (["expire", "--set=20200101-000000F", "--oldest"], 31, "'oldest' is not valid with option 'set'"),
    ] {
        kept.rig.refused(code, &[word], args.into_iter().filter(|arg| !arg.is_empty()));
    }
    // On hold, it does not go even by name; once released, it does.
    let second = kept.backup(&["--type=full"]);
    kept.rig.pgbr.ok(["annotate", &format!("--set={first}"), "--hold"]);
    kept.rig.refused(75, &["is on hold"], ["expire", &format!("--set={first}")]);
    kept.rig.refused(75, &["no full backup that could be expired"], ["expire", "--oldest"]);
    let released = kept.rig.pgbr.ok(["annotate", &format!("--set={first}"), "--no-hold"]);
    assert!(released.contains("1 hold(s)") || released.is_empty(), "{released}");
    let (start, _) = kept.wal(&first);
    assert!(kept.segments().contains(&start));
    kept.expire(&["--oldest"]);
    assert_eq!(kept.rig.labels(), std::slice::from_ref(&second));
    assert!(!kept.segments().contains(&start) && kept.segments().contains(&kept.wal(&second).0));
    kept.assert_all_restore();
}

#[test]
fn what_a_running_restore_uses_stays() {
    let mut kept = Kept::new();
    kept.rig.slow_down();
    let first = kept.backup(&["--type=full"]);
    kept.backup(&["--type=full"]);
    let target = kept.rig.target();
    let mut args = restore_into(&target).to_vec();
    args.extend([format!("--set={first}"), "--type=immediate".to_owned(), "--archive-mode=off".to_owned()]);
    let begun = target.data_dir().join("base/1");
    let restore = Frozen::at(kept.rig.pgbr.command(&args), || begun.exists());
    let told = said(&kept.expire(&["--repo1-retention-full=1", "--dry-run"]));
    assert!(told.contains(&format!("keep   full backup {first}: a running command uses it")), "{told}");
    kept.expire(&["--repo1-retention-full=1"]);
    assert_eq!(kept.rig.labels().len(), 2);
    let finished = restore.thaw();
    assert!(finished.success(), "{finished:#?}");
    kept.expire(&["--repo1-retention-full=1"]);
    assert_eq!(kept.rig.labels().len(), 1);
    // The pin of one that was killed is known to be dead at once.
    let second = kept.rig.labels().remove(0);
    kept.rig.pgbr.ok(["backup", "--type=full"]);
    let target = kept.rig.target();
    let begun = target.data_dir().join("base/1");
    let mut args = restore_into(&target).to_vec();
    args.push(format!("--set={second}"));
    drop(Frozen::at(kept.rig.pgbr.command(&args), || begun.exists()));
    kept.expire(&["--repo1-retention-full=1"]);
    assert!(!kept.rig.labels().contains(&second));
    assert_eq!(kept.rig.names("pin").len(), 0);
}

#[test]
fn what_broken_runs_have_left_goes_once_nobody_can_resume_it() {
    let mut kept = Kept::new();
    kept.rig.slow_down();
    let first = kept.backup(&["--type=full"]);
    drop(kept.rig.frozen_backup());
    let labels = || kept.stored();
    let broken = labels().into_iter().find(|label| *label != first).expect("it has stored a pack");
    let staging = kept.leave_staging_file(&broken);
    let told = said(&kept.expire(&[]));
    assert!(
        told.contains(&format!("unfinished backup {broken} stay: the next backup may resume it")),
        "{told}"
    );
    assert!(labels().contains(&broken) && staging.is_none_or(|file| !file.exists()));
    // Named, it goes.
    let told = said(&kept.expire(&[&format!("--set={broken}")]));
    assert!(
        told.contains(&format!("of unfinished backup {broken}")) && !told.contains("does not exist"),
        "{told}"
    );
    assert_eq!(labels(), BTreeSet::from([first.clone()]));
    // With a newer backup that did not resume it, it goes by itself, with what it was about to put.
    let before = labels();
    drop(kept.rig.frozen_backup());
    let broken = labels().into_iter().find(|label| !before.contains(label)).expect("it has stored a pack");
    kept.leave_staging_file(&broken);
    kept.rig.pgbr.ok(["backup", "--type=full", "--no-resume"]);
    assert_eq!(labels().into_iter().collect::<Vec<_>>(), kept.rig.labels());
}

#[test]
fn expire_after_a_backup_is_a_command_of_its_own() {
    let mut kept = Kept::new();
    kept.rig.pgbr.set("global", "repo1-retention-full", "1");
    kept.backup(&["--type=full"]);
    let finished = kept.rig.pgbr.run(["backup", "--type=full"]);
    let lines: Vec<&str> = finished.stdout.lines().collect();
    let place = |text: &str| {
        lines
            .iter()
            .position(|line| line.contains(text))
            .unwrap_or_else(|| panic!("'{text}' is missing: {lines:#?}"))
    };
    let order = [
        "backup command end: completed",
        "expire command begin",
        "expire full backup",
        "remove expired backup",
        "expire command end: completed",
    ];
    assert!(order.map(place).is_sorted(), "{lines:#?}");
    assert_eq!(kept.rig.labels().len(), 1);
    let log =
        fs::read_to_string(kept.rig.pgbr.log_dir().join("demo-expire.log")).expect("expire writes a log");
    assert!(log.contains("expire command begin") && !log.contains("backup command"), "{log}");
    // Not when it is not wanted,
    kept.rig.pgbr.ok(["backup", "--type=full", "--no-expire-auto"]);
    assert_eq!(kept.rig.labels().len(), 2);
    // and where it fails, the command has failed and the backup stays.
    let oldest = kept.rig.key(&format!("backup/{}/manifest", kept.rig.labels()[0]));
    let finished = match kept.rig.pgbr.bucket().map(Bucket::kind) {
        None => {
            let manifest = kept.rig.pgbr.repo_dir().join(&oldest);
            let mode =
                |mode| fs::set_permissions(&manifest, fs::Permissions::from_mode(mode)).expect("it is ours");
            mode(0o000);
            let finished = kept.rig.pgbr.run(["backup", "--type=full"]);
            mode(0o640);
            finished
        }
        Some(kind) => {
            kept.rig.pgbr.proxy().act(move |request| match request.path.ends_with(&oldest) {
                true => Act::refuse(kind, 403, "AccessDenied"),
                false => Act::Pass,
            });
            let finished = kept.rig.pgbr.run(["backup", "--type=full"]);
            kept.rig.pgbr.proxy().pass();
            finished
        }
    };
    assert_eq!(finished.code, Some(41), "{finished:#?}");
    for line in ["backup command end: completed", "expire command end: aborted with exception [041]"] {
        assert!(said(&finished).contains(line), "{finished:#?}");
    }
    assert_eq!(kept.rig.labels().len(), 3);
    // A stop file stops it.
    kept.rig.pgbr.ok(["stop"]);
    kept.rig.refused(62, &["stop file exists"], ["expire"]);
    kept.rig.pgbr.ok(["start"]);
    kept.expire(&[]);
    assert_eq!(kept.rig.labels().len(), 1);
}

#[test]
fn expire_waits_for_nobody_who_makes_a_backup() {
    let mut kept = Kept::new();
    kept.rig.slow_down();
    kept.backup(&["--type=full"]);
    let backup = kept.rig.frozen_backup();
    kept.rig.refused(50, &["unable to acquire lock"], ["expire", "--repo1-retention-full=1"]);
    // A dry run looks, and takes nothing for rubbish that is being made.
    let packs = kept.rig.packs();
    let elsewhere = kept.rig.pgbr.scratch().dir("elsewhere");
    let told = said(&kept.expire(&["--dry-run", &format!("--lock-path={}", elsewhere.display())]));
    assert!(
        told.contains("\nkeep   unfinished backup ") && told.contains("): a running command uses it"),
        "{told}"
    );
    assert_eq!(kept.rig.packs(), packs);
    let finished = backup.thaw();
    assert!(finished.success(), "{finished:#?}");
    assert_eq!(kept.rig.labels().len(), 2);
}
