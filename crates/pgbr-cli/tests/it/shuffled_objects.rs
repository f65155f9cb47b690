//! Objects that are whole but in another's place, or cut: every such object that a restore or archive-get needs stops it, by name.

use std::fs;
use std::path::PathBuf;

use pgbr_testkit::{Finished, own};

use crate::rig::{PASS, Rig, said};

/// Where frames begin in an object, and how a frame is built (`docs/format.md`, sections 2 and 3).
const OBJECT_HEADER: usize = 96;
const FRAME_HEADER: usize = 24;
const TAG: usize = 16;
const DATA_FRAME: u8 = 1;

/// A sealed repository with two backups of several packs each.
struct Shelf {
    rig: Rig,
    labels: [String; 2],
}

/// An object with its right content.
#[derive(Clone)]
struct Object {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Object {
    fn read(path: PathBuf) -> Self {
        let bytes = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Self { path, bytes }
    }

    fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    fn put(&self, bytes: &[u8]) {
        fs::write(&self.path, bytes).unwrap_or_else(|e| panic!("{}: {e}", self.path.display()));
    }

    fn heal(&self) {
        self.put(&self.bytes);
    }

    /// Another content, and the same made as long as this one: what only compares lengths is not enough.
    fn disguises(&self, other: &[u8]) -> [Vec<u8>; 2] {
        let mut fitted = other.to_vec();
        fitted.resize(self.bytes.len(), 0);
        [other.to_vec(), fitted]
    }
}

impl Shelf {
    fn new() -> Self {
        let rig = Rig::with(|pgbr| {
            pgbr.encrypt(1, "aes-256-gcm", PASS);
            pgbr.set("global", "repo1-pack-size", "3MiB");
            pgbr.set("global", "log-level-console", "warn");
        });
        // Bytes that no codec makes smaller: their frames are equal in length, so that a swap leaves every other frame in its place.
        let noise = rig.cluster.data_dir().join("noise");
        fs::write(&noise, noise_bytes(5 << 20)).expect("a file in the data directory can be written");
        own(&noise);
        let labels = [rig.backup(), rig.backup()];
        Self { rig, labels }
    }

    fn label_dir(&self, backup: usize) -> PathBuf {
        self.rig.stanza_dir().join("backup").join(&self.labels[backup])
    }

    fn manifest(&self, backup: usize) -> Object {
        Object::read(self.label_dir(backup).join("manifest"))
    }

    /// The packs of a backup: data packs first, each kind by its number.
    fn packs(&self, backup: usize) -> Vec<Object> {
        let dir = fs::read_dir(self.label_dir(backup).join("pack")).expect("a backup has packs");
        let mut packs: Vec<Object> = dir.map(|e| Object::read(e.expect("it can be listed").path())).collect();
        packs.sort_by_key(|pack| (pack.name().contains("-i"), pack.name()));
        packs
    }

    /// The first segment that a backup needs, and the segments in the archive.
    fn wal(&self) -> (String, Vec<String>) {
        let first =
            self.rig.info().pointer("/0/backup/0/archive/start").cloned().expect("a backup needs WAL");
        let log = self.rig.stanza_dir().join("archive/15-1/0000000100000000");
        let entries = fs::read_dir(log).expect("there is an archive");
        let names = entries.map(|e| e.expect("it can be listed").file_name().to_string_lossy().into_owned());
        let mut segments: Vec<String> = names.filter(|name| name.len() == 24).collect();
        segments.sort();
        (first.as_str().expect("segments have names").to_owned(), segments)
    }

    fn restore(&self, label: &str) -> (Finished, bool) {
        let target = self.rig.cluster.scratch().dir("target");
        let path = format!("--pg1-path={}", target.display());
        let finished = self.rig.pgbr.run(["restore", &path, &format!("--set={label}"), "--type=immediate"]);
        let startable = target.join("global/pg_control").exists();
        fs::remove_dir_all(&target).expect("the target can be removed");
        (finished, startable)
    }

    /// A restore that must fail and name one of these.
    #[track_caller]
    fn restore_names(&self, label: &str, names: &[&str]) {
        let (finished, startable) = self.restore(label);
        let said = said(&finished);
        assert!(!finished.success() && !startable, "it was restored: {names:?} {said}");
        assert!(names.iter().any(|name| said.contains(name)), "none of {names:?} is named: {said}");
        assert!(!said.contains("panicked") && !said.contains("internal error"), "{said}");
    }

    fn assert_restorable(&self) {
        for label in &self.labels {
            let (finished, startable) = self.restore(label);
            assert!(finished.success() && startable, "{finished:#?}");
        }
    }
}

/// Noise that is the same in every run.
fn noise_bytes(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes: Vec<u8> = std::iter::repeat_with(&mut next).take(length / 8).flatten().collect();
    bytes.truncate(length);
    bytes
}

/// Where the data frames of a pack stand: begin and end.
fn data_frames(pack: &[u8]) -> Vec<(usize, usize)> {
    let (mut frames, mut at) = (Vec::new(), OBJECT_HEADER);
    while pack.get(at) == Some(&DATA_FRAME) {
        let length = u32::from_le_bytes(pack[at + 8..at + 12].try_into().expect("four bytes"));
        let end = at + FRAME_HEADER + length as usize + TAG;
        frames.push((at, end));
        at = end;
    }
    frames
}

/// Cuts of an object: one byte, the half, everything.
fn cuts(object: &Object) -> [&[u8]; 3] {
    let bytes = object.bytes.as_slice();
    [&bytes[..bytes.len() - 1], &bytes[..bytes.len() / 2], &[]]
}

#[test]
fn objects_in_the_wrong_place_stop_a_restore() {
    let shelf = Shelf::new();
    let (packs, others) = (shelf.packs(0), shelf.packs(1));
    let label = shelf.labels[0].as_str();
    let index_packs = packs.iter().filter(|pack| pack.name().contains("-i")).count();
    assert!(
        packs.len() - index_packs > 2 && index_packs > 0,
        "{} packs, {index_packs} of them index",
        packs.len()
    );
    shelf.assert_restorable();

    for (at, one) in packs.iter().enumerate() {
        for other in &packs[at + 1..] {
            let names = [one.name(), other.name()];
            for (left, right) in one.disguises(&other.bytes).iter().zip(other.disguises(&one.bytes)) {
                one.put(left);
                other.put(&right);
                shelf.restore_names(label, &[&names[0], &names[1]]);
            }
            one.heal();
            other.heal();
        }
    }
    for (own, foreign) in packs.iter().zip(&others) {
        for disguise in own.disguises(&foreign.bytes) {
            own.put(&disguise);
            shelf.restore_names(label, &[&own.name()]);
        }
        own.heal();
    }
    swap_frames(&shelf, label, &packs);

    let (first, second) = (shelf.manifest(0), shelf.manifest(1));
    first.put(&second.bytes);
    shelf.restore_names(label, &[label]);
    first.heal();
    // A whole backup under another label.
    let copy = shelf.label_dir(0).with_file_name("20370101-000000F");
    fs::create_dir(&copy).expect("a directory can be made");
    fs::copy(&first.path, copy.join("manifest")).expect("a manifest can be copied");
    shelf.restore_names("20370101-000000F", &["20370101-000000F"]);
    fs::remove_dir_all(&copy).expect("a copy can be removed");
    shelf.assert_restorable();
}

/// Of each pack the first two data frames, and all neighbours that are equal in length: those leave every other frame in its place.
fn swap_frames(shelf: &Shelf, label: &str, packs: &[Object]) {
    let mut equal = 0;
    for pack in packs {
        let bytes = &pack.bytes;
        for (at, pair) in data_frames(bytes).windows(2).enumerate() {
            let ((begin, middle), (_, end)) = (pair[0], pair[1]);
            let alike = middle - begin == end - middle;
            if at > 0 && !alike {
                continue;
            }
            equal += usize::from(alike);
            pack.put(&[&bytes[..begin], &bytes[middle..end], &bytes[begin..middle], &bytes[end..]].concat());
            shelf.restore_names(label, &[&pack.name()]);
        }
        pack.heal();
    }
    assert!(equal > 0, "no two frames of equal length stand side by side");
}

#[test]
fn objects_that_are_cut_stop_a_restore() {
    let shelf = Shelf::new();
    let label = shelf.labels[0].as_str();
    let (first, _) = shelf.wal();
    let segment = Object::read(shelf.rig.wal_object(&first));
    for object in shelf.packs(0).into_iter().chain([segment]) {
        for cut in cuts(&object) {
            object.put(cut);
            shelf.restore_names(label, &[&object.name()]);
        }
        object.heal();
    }
    let manifest = shelf.manifest(0);
    for cut in cuts(&manifest) {
        manifest.put(cut);
        shelf.restore_names(label, &[label]);
    }
    manifest.heal();
    shelf.assert_restorable();
}

#[test]
fn wal_in_the_wrong_place_or_cut_is_not_given() {
    let shelf = Shelf::new();
    let (first, segments) = shelf.wal();
    assert!(segments.len() > 2, "{segments:?}");
    let objects: Vec<Object> = segments.iter().map(|name| Object::read(shelf.rig.wal_object(name))).collect();
    let destination = shelf.rig.pgbr.scratch().path().join("spool/got");
    let refused = |object: &Object| {
        let get =
            ["archive-get", &object.name(), &destination.display().to_string(), "--archive-timeout=100ms"];
        let finished = shelf.rig.pgbr.run(get);
        let said = said(&finished);
        assert!(finished.code.is_some_and(|code| code > 1), "{said}");
        assert!(said.contains(&object.name()), "it is not named: {said}");
        assert!(!destination.exists(), "something was given: {said}");
    };
    for (at, object) in objects.iter().enumerate() {
        for other in objects.iter().skip(at + 1) {
            object.put(&other.bytes);
            refused(object);
            other.put(&object.bytes);
            refused(other);
            if object.name() == first || other.name() == first {
                shelf.restore_names(&shelf.labels[0], &[&first]);
            }
            object.heal();
            other.heal();
        }
        for cut in cuts(object) {
            object.put(cut);
            refused(object);
        }
        object.heal();
        let get = ["archive-get", &object.name(), &destination.display().to_string()];
        shelf.rig.pgbr.ok(get);
        fs::remove_file(&destination).expect("it was given");
    }
}
