//! Damaged objects in the repository: a restore says which and leaves no cluster that looks good, or uses the copy.

use std::fs;
use std::path::{Path, PathBuf};

use pgbr_testkit::{Cluster, StopMode};

use crate::rig::{Rig, assert_one_error, assert_untouched, assert_unusable, restore_into, said};

/// What can happen to an object.
#[derive(Debug, Clone)]
enum Harm {
    /// One byte, at this fraction of its length, is another.
    Flip(f64),
    /// It ends in the middle.
    Cut,
    /// It is empty.
    Empty,
    /// It is gone.
    Delete,
    /// It and another have each other's names.
    Swap(PathBuf),
}

/// An object that was harmed, put right again when this is dropped.
struct Harmed(Vec<(PathBuf, Vec<u8>)>);

impl Harmed {
    fn new(path: &Path, harm: &Harm) -> Self {
        let content = fs::read(path).expect("the object is there");
        let mut saved = vec![(path.to_owned(), content.clone())];
        match harm {
            Harm::Flip(place) => {
                let mut bytes = content;
                let last = bytes.len() - 1;
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    clippy::cast_precision_loss,
                    reason = "a place somewhere in an object of a few megabytes"
                )]
                let at = (last as f64 * place) as usize;
                bytes[at] ^= 0x10;
                rewrite(path, &bytes);
            }
            Harm::Cut => rewrite(path, &content[..content.len() / 2]),
            Harm::Empty => rewrite(path, b""),
            Harm::Delete => fs::remove_file(path).expect("the object is there"),
            Harm::Swap(other) => {
                let theirs = fs::read(other).expect("the other object is there");
                rewrite(path, &theirs);
                rewrite(other, &content);
                saved.push((other.clone(), theirs));
            }
        }
        Self(saved)
    }
}

impl Drop for Harmed {
    fn drop(&mut self) {
        for (path, content) in &self.0 {
            rewrite(path, content);
        }
    }
}

/// Objects are never written to in place, so a link to one is not followed by what happens to it here.
fn rewrite(path: &Path, content: &[u8]) {
    fs::remove_file(path).ok();
    fs::write(path, content).expect("the repository can be written to");
    pgbr_testkit::own(path);
}

/// A stanza with two backups, some rows, and WAL to recover.
struct Objects {
    rig: Rig,
    older: String,
    newer: String,
}

impl Objects {
    fn make(rig: Rig) -> Self {
        rig.pgbr.set("global", "repo1-pack-size", "1MiB");
        rig.cluster.sql("postgres", "create table t as select generate_series(1, 1000) x");
        let older = rig.backup();
        let newer = rig.backup();
        rig.cluster.sql("postgres", "insert into t select generate_series(1001, 1500)");
        rig.archived_segment();
        rig.cluster.sql("postgres", "insert into t select generate_series(1501, 2000)");
        rig.archived_segment();
        Self { rig, older, newer }
    }

    fn manifest(&self, label: &str) -> PathBuf {
        self.rig.stanza_dir().join("backup").join(label).join("manifest")
    }

    /// The packs of a backup, of data or of its index, sorted.
    fn packs(&self, label: &str, index: bool) -> Vec<PathBuf> {
        let dir = self.rig.stanza_dir().join("backup").join(label).join("pack");
        let entries = fs::read_dir(dir).expect("a backup has packs").map(|e| e.expect("readable").path());
        let mut found: Vec<PathBuf> = entries.filter(|p| name(p).contains("-i") == index).collect();
        found.sort();
        found
    }

    /// The segment that recovery of the newer backup begins with.
    fn first_segment(&self) -> String {
        let json = self.rig.info();
        json.pointer("/0/backup/1/archive/start").and_then(|v| v.as_str()).expect("info says so").to_owned()
    }

    /// Restores the newer backup, which must fail with a message that holds all of `words`, and must not leave a cluster.
    #[track_caller]
    fn restore_fails(&self, what: &str, codes: &[i32], words: &[&str]) {
        let target = self.rig.target();
        let mut args = restore_into(&target).to_vec();
        args.push(format!("--set={}", self.newer));
        let before = self.rig.snapshot();
        let finished = self.rig.pgbr.run(&args);
        let code = finished.code.expect("it ends by itself");
        assert!(codes.contains(&code), "{what}: {finished:#?}");
        assert_one_error(&finished, code, &[]);
        let text = said(&finished);
        assert!(words.iter().all(|word| text.contains(word)), "{what}: {words:?} is missing: {text}");
        assert_eq!(self.rig.snapshot(), before, "{what}");
        if fs::read_dir(target.data_dir()).expect("it is there").next().is_some() {
            assert_unusable(&target);
        }
    }

    /// Gets a segment, which must succeed with a warning that holds `words` where there are any. A whole restore where `deep`.
    #[track_caller]
    fn works(&self, what: &str, words: Option<&str>, deep: bool) {
        let target = self.rig.target();
        let finished = if deep {
            self.rig.pgbr.run(restore_into(&target))
        } else {
            let got = target.scratch().path().join("got").display().to_string();
            self.rig.pgbr.run(["archive-get", &self.first_segment(), &got])
        };
        assert!(finished.success(), "{what}: {finished:#?}");
        let text = said(&finished);
        let warned = text.lines().any(|l| l.contains("WARN: ") && words.is_none_or(|word| l.contains(word)));
        assert_eq!(warned, words.is_some(), "{what}: {words:?}: {text}");
        assert_eq!(target.data_dir().join("global/pg_control").exists(), deep);
    }
}

fn name(path: &Path) -> String {
    path.file_name().expect("an object has a name").to_string_lossy().into_owned()
}

fn harms(swap: &Path) -> Vec<Harm> {
    vec![
        Harm::Flip(0.0),
        Harm::Flip(0.1),
        Harm::Flip(0.6),
        Harm::Flip(1.0),
        Harm::Cut,
        Harm::Empty,
        Harm::Delete,
        Harm::Swap(swap.to_owned()),
    ]
}

#[test]
fn every_kind_of_object_plain() {
    every_kind_of_object(&Objects::make(Rig::plain()));
}

#[test]
fn every_kind_of_object_sealed() {
    every_kind_of_object(&Objects::make(Rig::sealed()));
}

fn every_kind_of_object(objects: &Objects) {
    manifests_and_packs(objects);
    first_wal_segment(objects);
    records(objects);
    // Nothing that was done to the repository has stayed.
    let target = objects.rig.target();
    objects.rig.pgbr.ok(restore_into(&target));
    target.start();
    target.wait_promoted();
    assert_eq!(target.sql("postgres", "select count(*) from t"), "2000");
    objects.rig.still_archives();
}

fn manifests_and_packs(objects: &Objects) {
    let Objects { older, newer, .. } = objects;
    let manifest = objects.manifest(newer);
    for harm in harms(&objects.manifest(older)) {
        let _harmed = Harmed::new(&manifest, &harm);
        let codes: &[i32] = if matches!(harm, Harm::Delete) { &[75] } else { &[28, 29] };
        objects.restore_fails(&format!("manifest {harm:?}"), codes, &[newer]);
    }
    let data = objects.packs(newer, false);
    assert!(data.len() > 1, "there is more than one pack: {data:?}");
    let index = objects.packs(newer, true);
    for (path, other) in [(&data[0], &data[1]), (&index[0], &objects.packs(older, true)[0])] {
        for harm in harms(other) {
            // Readers never ask for a pack's own header and trailer: the manifest says what is in it.
            if matches!(harm, Harm::Flip(place) if place == 0.0 || place == 1.0) {
                continue;
            }
            let _harmed = Harmed::new(path, &harm);
            objects.restore_fails(&format!("{} {harm:?}", name(path)), &[28], &[newer, &name(path)]);
        }
    }
}

fn first_wal_segment(objects: &Objects) {
    let segment = objects.first_segment();
    let path = objects.rig.wal_object(&segment);
    let next = fs::read_dir(path.parent().expect("it lies in a directory")).expect("it can be listed");
    let mut others: Vec<PathBuf> = next.map(|e| e.expect("readable").path()).collect();
    others.sort();
    let other = others.iter().find(|p| name(p).len() == 24 && **p > path).expect("there is a later one");
    for harm in harms(other) {
        let _harmed = Harmed::new(&path, &harm);
        objects.restore_fails(&format!("WAL {harm:?}"), &[28], &[&segment]);
    }
}

/// `repo.json` and `stanza.json`: the copy serves where it is good.
fn records(objects: &Objects) {
    let repo = objects.rig.pgbr.repo_dir().join("pgbr/repo.json");
    let stanza = objects.rig.stanza_dir().join("stanza.json");
    let copy = |path: &Path| PathBuf::from(format!("{}.copy", path.display()));
    for (path, other) in [(&repo, &stanza), (&stanza, &repo)] {
        for harm in harms(other) {
            // What is left of a text after a cut or a swap, and any flipped byte, is never taken for a good record.
            let what = format!("{} {harm:?}", name(path));
            let deep = matches!(harm, Harm::Cut | Harm::Swap(_));
            {
                let _harmed = Harmed::new(path, &harm);
                objects.works(&what, Some(&name(path)), deep);
            }
            {
                let _copy = Harmed::new(&copy(path), &harm);
                objects.rig.pgbr.ok(["info"]);
            }
            if matches!(harm, Harm::Swap(_)) {
                continue;
            }
            let _harmed = Harmed::new(path, &harm);
            let _copy = Harmed::new(&copy(path), &harm);
            let codes: &[i32] = if matches!(harm, Harm::Delete) { &[75] } else { &[28, 29, 95] };
            let word = if matches!(harm, Harm::Delete) { "stanza-create" } else { &name(path) };
            objects.restore_fails(&format!("{what}, and its copy"), codes, &[word]);
        }
    }
}

#[test]
fn a_restore_over_an_existing_cluster_leaves_nothing_that_starts() {
    let objects = Objects::make(Rig::sealed());
    let target = objects.rig.target();
    objects.rig.pgbr.ok(restore_into(&target));
    let data = objects.packs(&objects.newer, false);
    let mut args = restore_into(&target).to_vec();
    args.push("--force".to_owned());
    {
        let _harmed = Harmed::new(&data[1], &Harm::Flip(0.5));
        // Nothing of it is needed to mend what is whole.
        objects.rig.pgbr.ok(restore_into(&target).iter().map(String::as_str).chain(["--delta"]));
        let finished = objects.rig.pgbr.fails(28, &args);
        assert_one_error(&finished, 28, &[&name(&data[1])]);
        assert_unusable(&target);
    }
    // What cannot be seen from a list is seen while it is read; what can be seen, before anything is touched.
    objects.rig.pgbr.ok(&args);
    {
        let _harmed = Harmed::new(&data[1], &Harm::Cut);
        assert_one_error(&objects.rig.pgbr.fails(28, &args), 28, &[&name(&data[1])]);
    }
    target.start();
    target.wait_promoted();
    assert_eq!(target.sql("postgres", "select count(*) from t"), "2000");
}

#[test]
fn a_damaged_backup_is_passed_over_and_named() {
    let objects = Objects::make(Rig::plain());
    let manifest = objects.manifest(&objects.newer);
    let _harmed = Harmed::new(&manifest, &Harm::Flip(0.02));
    objects.works("the newer manifest", Some(&objects.newer), true);
    let _other = Harmed::new(&objects.manifest(&objects.older), &Harm::Flip(0.02));
    let target = objects.rig.target();
    let finished = objects.rig.pgbr.fails(75, restore_into(&target));
    assert!(
        said(&finished).contains(&objects.newer) && said(&finished).contains(&objects.older),
        "{finished:#?}"
    );
    assert_untouched(&target);
}

#[test]
fn damaged_wal_stops_a_recovery_and_a_missing_segment_ends_it() {
    let objects = Objects::make(Rig::sealed());
    objects.rig.pgbr.set("global", "archive-timeout", "1");
    let segments = recovered(&objects);
    let path = objects.rig.wal_object(&segments[0]);
    let target = objects.rig.target();
    objects.rig.pgbr.ok(restore_into(&target));
    for harm in [Harm::Flip(0.5), Harm::Cut, Harm::Swap(objects.rig.wal_object(&segments[1]))] {
        let _harmed = Harmed::new(&path, &harm);
        let log = target.log().len();
        starts_in_vain(&target);
        let said = &target.log()[log..];
        assert!(said.contains("FATAL:  could not restore file") && said.contains(&segments[0]), "{said}");
        assert!(!said.contains("archive recovery complete"), "{said}");
        assert!(target.data_dir().join("recovery.signal").exists());
    }
    target.start();
    target.wait_promoted();
    assert_eq!(target.sql("postgres", "select count(*) from t"), "2000");
    target.stop(StopMode::Fast);
}

/// The segments after the newer backup, which hold the last rows.
fn recovered(objects: &Objects) -> [String; 2] {
    let json = objects.rig.info();
    let text =
        |pointer: &str| json.pointer(pointer).and_then(|v| v.as_str()).expect("info says so").to_owned();
    let (stop, max) = (text("/0/backup/1/archive/stop"), text("/0/archive/0/max"));
    let next = u64::from_str_radix(&stop[16..], 16).expect("a segment name") + 1;
    let first = format!("{}{next:08X}", &stop[..16]);
    assert!(first < max);
    [first, max]
}

/// The server starts, comes up for reading perhaps, and ends by itself.
fn starts_in_vain(target: &Cluster) {
    if target.try_start().is_ok() {
        pgbr_testkit::wait_until(crate::rig::LIMIT, "the server to give up", || !target.is_running());
    }
}
