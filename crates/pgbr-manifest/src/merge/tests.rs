//! Chains of backups of a file system that changes at random, against what it was at each of them.

mod chain;
mod model;

use std::rc::Rc;

use proptest::prelude::*;

use self::chain::{Base, Chain, Layer, back_up, cost, merge, overlay, resolve};
use self::model::{Body, CHANGES, Change, Dice, Disk, View, hash, key, list_digest};
use crate::hash::{Digest, FileDigester, ZERO_GRAIN};
use crate::index::{Fields, FileFlags, FileRecord, IndexCursor, IndexWriter, Meta, Record};
use crate::merge::{Item, MergeReader};
use crate::{RelPath, Result};

/// A backup, whole.
#[derive(Debug, Clone)]
struct Backup {
    chain: Chain,
    view: View,
    entries: u64,
    digest: Digest,
    copy_start_ns: i64,
}

/// A file system and its backups.
#[derive(Debug)]
struct World {
    disk: Disk,
    backups: Vec<Backup>,
    /// What a broken run's successor builds on: the number of the parent, its chain with the broken layers, what that comes to.
    broken: Option<(Option<usize>, Chain, View)>,
    /// Whether every backup is checked.
    checked: bool,
}

/// What happens next: a change, or (second of the pair) a run.
type Step = (Change, Option<(u8, u32)>);

fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    let change = (0..CHANGES, any::<u32>(), any::<u32>());
    let run = proptest::option::weighted(0.3, (any::<u8>(), any::<u32>()));
    proptest::collection::vec((change, run), 3..most)
}

fn assert_alike(found: &View, expected: &View) {
    for path in found.keys().chain(expected.keys()) {
        assert_eq!(found.get(path), expected.get(path), "{path}");
    }
}

impl World {
    fn new(most_grains: u64, seed: u32, checked: bool) -> Self {
        Self { disk: Disk::new(most_grains, seed), backups: Vec::new(), broken: None, checked }
    }

    fn go(&mut self, steps: &[Step]) {
        for (change, run) in steps {
            self.disk.change(*change);
            if let Some((what, how)) = run {
                self.run(*what, Dice::new(u64::from(*how)));
            }
        }
        self.run(0, Dice::new(7));
    }

    /// A full, a backup on top of an earlier one, a broken run, or a run that goes on with a broken one.
    fn run(&mut self, what: u8, mut dice: Dice) {
        let (parent, chain, view) = match self.broken.take() {
            Some(broken) if !what.is_multiple_of(8) => broken,
            _ => {
                let back = dice.pick(3);
                let parent = self.backups.len().checked_sub(1 + back).filter(|_| what % 8 != 1);
                let of_parent = |n: usize| (self.backups[n].chain.clone(), self.backups[n].view.clone());
                let (chain, view) = parent.map_or_else(Default::default, of_parent);
                (parent, chain, view)
            }
        };
        let copy_start_ns = parent.map(|n| self.backups[n].copy_start_ns).filter(|_| what & 16 != 0);
        let through_links = what & 32 != 0;
        let broken = chain.len() - parent.map_or(0, |n| self.backups[n].chain.len());
        let base = Base { chain: &chain, broken, view: &view, copy_start_ns, through_links };
        let (layer, written) = back_up(&self.disk, &base, dice.clone()).unwrap();
        assert_eq!(layer.stream.len(), cost(&self.disk, &base), "it stores what the parent has");
        if what % 8 > 5 && layer.len > 0 {
            let cut = dice.roll(1 + layer.stream.len() as u64);
            self.break_off(parent, &chain, &view, &chain::broken(&layer, cut).unwrap());
            return;
        }
        let expected = self.disk.view();
        let chain: Chain = std::iter::once(Rc::new(layer)).chain(chain).collect();
        if self.checked {
            assert_alike(&resolve(&chain).unwrap(), &expected);
        }
        let (entries, digest) = (written.entries, written.digest);
        assert_eq!((entries, digest), list_digest(&expected));
        let copy_start_ns = self.disk.now;
        self.backups.push(Backup { chain, view: expected, entries, digest, copy_start_ns });
        if !self.disk.settle() && self.checked {
            self.again(through_links, dice);
        }
    }

    fn break_off(&mut self, parent: Option<usize>, chain: &[Rc<Layer>], view: &View, layer: &Layer) {
        let view = overlay(view, layer).unwrap();
        let chain: Chain = std::iter::once(Rc::new(layer.clone())).chain(chain.iter().cloned()).collect();
        if self.checked {
            assert_alike(&resolve(&chain).unwrap(), &view);
        }
        self.disk.settle();
        self.broken = Some((parent, chain, view));
    }

    /// A backup of what has not changed since the last.
    fn again(&self, through_links: bool, mut dice: Dice) {
        let last = self.backups.last().unwrap();
        let copy_start_ns = [None, Some(last.copy_start_ns), Some(i64::MAX)][dice.pick(3)];
        let base = Base { chain: &last.chain, broken: 0, view: &last.view, copy_start_ns, through_links };
        let (layer, written) = back_up(&self.disk, &base, dice).unwrap();
        assert_eq!((written.entries, written.digest), (last.entries, last.digest));
        assert_eq!(layer.len, 0);
        let mut cursor = IndexCursor::new(layer.root);
        while let Some(placed) = cursor.next_record(&mut &layer.shelf).unwrap() {
            let path = placed.record.path().expect("a file that is as it was is written");
            assert!(last.view[path].link.is_some(), "{path} is as it was and is written");
        }
    }
}

fn path(path: &str) -> RelPath {
    RelPath::new(path).unwrap()
}

fn directory(at: &str) -> Record {
    Record::Directory { path: path(at), meta: Meta::default() }
}

fn removed(at: &str) -> Record {
    Record::Removed { path: path(at) }
}

fn link(at: &str) -> Record {
    Record::Link { path: path(at), meta: Meta::default(), target: b"/x".to_vec() }
}

/// A file of one grain of zeros.
fn file(at: &str, whole: bool) -> [Record; 3] {
    let flags = FileFlags { whole, ..FileFlags::default() };
    let (path, meta) = (path(at), Meta::default());
    let record = FileRecord { path, meta, size: 1, mtime_ns: 0, ctime_ns: 0, inode: 1, flags };
    let end = Fields { size: 1, ..Fields::default() };
    [Record::File(record), Record::Zeros { gap: 0, count: 1 }, Record::End(end)]
}

/// The entries that come of sources, newest first.
fn entries(sources: &[&[Record]]) -> Result<Vec<String>> {
    let mut chain = Chain::new();
    for records in sources {
        let (mut layer, mut writer) = (Layer::default(), IndexWriter::new());
        for record in *records {
            writer.push(&mut layer.shelf, record.clone())?;
        }
        (layer.root, _) = writer.finish(&mut layer.shelf)?;
        chain.push(Rc::new(layer));
    }
    let (mut merge, mut found) = (merge(&chain), Vec::new());
    while let Some(item) = merge.next_item()? {
        match item {
            Item::Directory { path, .. } => found.push(format!("{path}/")),
            Item::Link { path, .. } => found.push(format!("{path}@")),
            Item::File(record) => found.push(record.path.to_string()),
            _ => {}
        }
    }
    Ok(found)
}

#[test]
fn the_control_file_is_gone_with_its_directory_whatever_is_gone_after_that() {
    let control = file(RelPath::PG_CONTROL, true);
    let old = [&[directory("pg_data/global"), directory("pg_data/z")], control.as_slice()].concat();
    for gone in ["pg_data", "pg_data/global"] {
        let new = [removed(gone), removed("pg_data/z")];
        assert_eq!(entries(&[&new, &old]).unwrap(), Vec::<String>::new(), "{gone}");
        // And it can come back.
        let new = [new.as_slice(), &control].concat();
        assert_eq!(entries(&[&new, &old]).unwrap(), [RelPath::PG_CONTROL]);
    }
    let new = [removed("pg_data/glob"), removed("pg_data/global/pg_control.x"), removed("pg_data/z")];
    assert_eq!(entries(&[&new, &old]).unwrap(), ["pg_data/global/", RelPath::PG_CONTROL]);
}

#[test]
fn what_is_below_a_removed_directory_is_gone_even_if_a_part_of_it_is_named_again() {
    let old = ["a", "a/b", "a/c", "a/c/d", "a-b"].map(directory);
    let new = [removed("a"), removed("a/b")];
    assert_eq!(entries(&[&new, &old]).unwrap(), ["a-b/"]);
}

#[test]
fn what_follows_a_link_to_nothing_is_not_what_it_leads_to() {
    let whole = file("b", true);
    let old = [&[link("a")], whole.as_slice()].concat();
    assert_eq!(entries(&[&old]).unwrap(), ["a@", "b"]);
    assert_eq!(entries(&[&file("a", true), &old]).unwrap(), ["a", "b"]);
    assert_eq!(entries(&[&file("a", false), &old]).unwrap(), ["a", "b"]);
    assert_eq!(entries(&[&[link("a")], &file("a", true)]).unwrap(), ["a@"]);
}

#[test]
fn a_grain_that_a_change_of_size_went_through_is_not_the_older_files() {
    let of_size = |size, whole, run| {
        let [Record::File(mut record), _, Record::End(mut end)] = file("a", whole) else { unreachable!() };
        (record.size, end.size) = (size, size);
        let (mut layer, mut writer) = (Layer::default(), IndexWriter::new());
        for record in [Record::File(record), run, Record::End(end)] {
            writer.push(&mut layer.shelf, record).unwrap();
        }
        (layer.root, _) = writer.finish(&mut layer.shelf).unwrap();
        Rc::new(layer)
    };
    // As a broken run leaves it: zeros of which nothing is stored in the first grain.
    let new = of_size(2 * 8192, false, Record::Grains { gap: 1, hashes: vec![7] });
    let old = of_size(100, true, Record::Grains { gap: 0, hashes: vec![8] });
    let chain = [new, old];
    let mut merge = merge(&chain);
    assert!(matches!(merge.next_item().unwrap(), Some(Item::File(_))));
    assert_eq!(merge.next_item().unwrap(), Some(Item::Absent { grain: 0, count: 1 }));
    let stored = Item::Grains { source: 0, grain: 1, stream: 0, hashes: vec![7] };
    assert_eq!(merge.next_item().unwrap(), Some(stored));
    assert!(matches!(merge.next_item().unwrap(), Some(Item::End(_))));
}

/// What a chain says, if it can be believed: entries, digest, and the hashes of every file. None where damage shows.
type Told = (u64, Digest, Vec<(RelPath, Vec<u64>)>);

fn told(chain: &[Rc<Layer>]) -> Result<Option<Told>> {
    let mut merge = merge(chain);
    let mut list = crate::ListDigester::new(&key());
    let (mut path, mut files) = (None, Vec::new());
    let mut digester = FileDigester::new(&key(), 0);
    while let Some(item) = merge.next_item()? {
        match item {
            Item::Directory { path, .. } => list.directory(path.as_bytes()),
            Item::Link { path, target, .. } => list.link(path.as_bytes(), &target),
            Item::File(record) => {
                digester = FileDigester::new(&key(), record.size);
                path = Some(record.path.clone());
                files.push((record.path, Vec::new()));
            }
            Item::Grains { hashes, .. } => {
                hashes.iter().for_each(|hash| digester.push(*hash));
                files.last_mut().expect("a file is open").1.extend(hashes);
            }
            Item::Zeros { count, .. } if count < 1 << 20 => {
                let of = &mut files.last_mut().expect("a file is open").1;
                (0..count).for_each(|_| digester.push(ZERO_GRAIN));
                of.extend((0..count).map(|_| ZERO_GRAIN));
            }
            Item::Zeros { .. } | Item::Absent { .. } => return Ok(None),
            Item::End(end) => {
                if end.digest != digester.finish() {
                    return Ok(None);
                }
                list.file(path.take().expect("a file is open").as_bytes(), end.size, end.digest);
            }
        }
    }
    let (entries, digest) = list.finish();
    Ok(Some((entries, digest, files)))
}

/// Damage shows: by an error, by a digest, or because the content is right all the same.
fn damage_shows(chain: &[Rc<Layer>], backup: &Backup) {
    // What walks beside a scan meets the same nodes.
    let mut reader = MergeReader::new(merge(chain));
    for path in backup.view.keys() {
        let beside = reader.pass_before(Some(path)).and_then(|_| reader.take(path));
        if !matches!(beside, Ok(Some(crate::merge::Entry::File(_)))) {
            if beside.is_err() { break } else { continue }
        }
        if reader.grains(70).and_then(|_| reader.end()).is_err() {
            break;
        }
    }
    if let Ok(Some((entries, digest, files))) = told(chain)
        && (entries, digest) == (backup.entries, backup.digest)
    {
        let hashes = |body: &Body| match body {
            Body::File { grains, .. } => Some(grains.iter().map(|grain| hash(grain.unwrap())).collect()),
            Body::Directory(_) | Body::Nothing => None,
        };
        let expected: Vec<(RelPath, Vec<u64>)> = (backup.view.iter())
            .filter_map(|(path, shown)| Some((path.clone(), hashes(&shown.body)?)))
            .collect();
        assert_eq!(files, expected);
    }
}

/// A file in whose place there is something else now is taken, and nobody asks for its end.
#[test]
fn a_file_that_is_left_in_the_middle_ends_nothing() {
    let mut world = World::new(40, 7, false);
    world.go(&[((0, 3, 5), Some((0, 0))), ((0, 9, 1), None), ((0, 77, 2), Some((1, 0)))]);
    let backup = world.backups.last().unwrap();
    let files = backup.view.values().filter(|shown| matches!(shown.body, Body::File { .. })).count();
    assert!(files > 2, "{files}");
    for grains in [0, 1] {
        let mut reader = MergeReader::new(merge(&backup.chain));
        let mut met = Vec::new();
        for path in backup.view.keys() {
            met.extend(reader.pass_before(Some(path)).unwrap());
            // Of a link, what it leads to comes next.
            while let Some(entry) = reader.take(path).unwrap() {
                met.push(path.clone());
                // A link may be in its place now, and what that leads to comes next: of the same path.
                assert_eq!(reader.pass_before(Some(path)).unwrap(), None);
                if let crate::merge::Entry::File(file) = entry {
                    let known = reader.grains(grains).unwrap();
                    assert!(known.len() == grains || file.size == 0, "{path}");
                }
            }
        }
        met.dedup();
        assert!(met.iter().eq(backup.view.keys()), "{met:?}");
        assert_eq!(reader.pass_before(None).unwrap(), None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 800, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_backup_of_a_chain_gives_what_was_there(seed in any::<u32>(), steps in steps(40)) {
        World::new(40, seed, true).go(&steps);
    }

    #[test]
    fn a_damaged_chain_is_an_error_or_another_digest(
        seed in any::<u32>(), steps in steps(25), layers in any::<(u8, u8)>(), flips in proptest::collection::vec(any::<(u16, u16, u8)>(), 1..4)
    ) {
        let mut world = World::new(20, seed, false);
        world.go(&steps);
        let backup = world.backups.last().unwrap();
        let (a, b) = (usize::from(layers.0) % backup.chain.len(), usize::from(layers.1) % backup.chain.len());
        let mut without = backup.chain.clone();
        without.remove(a);
        damage_shows(&without, backup);
        let mut swapped = backup.chain.clone();
        swapped.swap(a, b);
        damage_shows(&swapped, backup);
        let mut flipped = backup.chain.clone();
        for (layer, at, bit) in flips {
            let which = usize::from(layer) % flipped.len();
            let shelf = &mut Rc::make_mut(&mut flipped[which]).shelf;
            if let Some((_, raw)) = shelf.0.iter_mut().min_by_key(|(key, _)| key.1) {
                let at = usize::from(at) % raw.len();
                raw[at] ^= 1 << (bit % 8);
            }
            damage_shows(&flipped, backup);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn files_of_many_leaves_are_merged(seed in any::<u32>(), steps in steps(20)) {
        World::new(20_000, seed, true).go(&steps);
    }
}
