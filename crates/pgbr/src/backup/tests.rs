//! Directories that change while they are copied, runs that break, and what becomes of both: the next quiet backup has to be exact.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use object_store::ObjectStore;
use object_store::memory::InMemory;
use pgbr_codec::{Cipher, Compression, Compressor};
use pgbr_manifest::manifest::Layer;
use pgbr_manifest::merge::{Item, Merge};
use pgbr_manifest::{
    BackupLabel, BackupType, Digest, FileDigester, HashKey, ListDigester, PgVersion, RelPath, SystemId,
    TimelineId, ZERO_GRAIN,
};
use pgbr_pg::{EntryKind, Scan, ScanEntry, ScanOptions};
use pgbr_repo::{CreateOptions, NewCluster, Pins, Repo, RunFacts, Stanza, Store};
use pgbr_testkit::{Fault, FaultStore};
use tokio::runtime::Runtime;

use super::copy::{Branch, Copied, CopyOptions, Parent, copy_cluster};
use super::resume::{self, Adopted, Broken};
use super::target::{self, Target};
use crate::error::Error;
use crate::held::Held;
use crate::host::Host;
use crate::packs::{DataPacks, IndexPacks, Uploads};
use crate::place::{RepoAccess, StanzaPlace};
use crate::run::hash_grains;

const PACK: usize = 256 << 10;
const TABLESPACE: &str = "data/pg_tblspc/16400";

/// Numbers that are the same in each run.
struct Rng(u64);

impl Rng {
    const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 11) % limit.max(1) as u64).unwrap()
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// A data directory, and a place beside it that links lead to.
struct World {
    root: tempfile::TempDir,
    rng: Rng,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self { root: tempfile::tempdir().unwrap(), rng: Rng::new(seed) };
        for dir in ["data/global", "data/pg_tblspc", "data/base/1", "out"] {
            fs::create_dir_all(world.at(dir)).unwrap();
        }
        for file in ["data/PG_VERSION", "data/global/pg_control", "data/global/pg_filenode.map"] {
            fs::write(world.at(file), "15\n").unwrap();
        }
        for _ in 0..30 {
            let path = world.any_place();
            world.act(&path);
        }
        world
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.path().canonicalize().unwrap().join(path)
    }

    /// A path in the data directory that may hold anything.
    fn any_place(&mut self) -> PathBuf {
        let space = format!("{TABLESPACE}/{}/5", PgVersion::V15.tablespace_directory());
        let top = ["data", "data/base/1", "data/d", space.as_str()][self.rng.below(4)];
        let mut path = self.at(top);
        if top == space && !path.is_dir() {
            path = self.at("data");
        }
        for _ in 0..=self.rng.below(2) {
            let names: [&[u8]; 6] = [b"1", b"2", b"2_fsm", b"a", b"a.b", b"z"];
            let name = names[self.rng.below(names.len())];
            path.push(String::from_utf8_lossy(name).into_owned());
        }
        path
    }

    fn content(&mut self) -> Vec<u8> {
        let sizes = [0, 1, 100, 8192, 20_000, 300_000, 1 << 20, (1 << 20) + 5, 2_500_000];
        let size = sizes[self.rng.below(sizes.len())];
        let mut content = vec![0; size];
        for grain in content.chunks_mut(8192) {
            let (fill, zero) = (self.rng.below(256), self.rng.one_in(5));
            grain.fill(if zero { 0 } else { u8::try_from(fill).unwrap() });
            if let (Some(first), false) = (grain.first_chunk_mut::<8>(), zero) {
                *first = self.rng.0.to_le_bytes();
            }
        }
        content
    }

    fn clear(path: &Path) {
        match fs::symlink_metadata(path) {
            Ok(meta) if meta.is_dir() => fs::remove_dir_all(path).unwrap(),
            Ok(_) => fs::remove_file(path).unwrap(),
            Err(_) => {}
        }
    }

    /// Writes, changes, cuts, extends or removes the file at `path`: it stays a file, or is gone.
    fn act_on_file(&mut self, path: &Path) {
        let Ok(file) = fs::OpenOptions::new().read(true).write(true).open(path) else { return };
        let size = file.metadata().unwrap().len();
        let at = self.rng.below(usize::try_from(size).unwrap_or(0)) as u64;
        match self.rng.below(6) {
            0 | 1 => fs::remove_file(path).unwrap(),
            2 => file.set_len(at).unwrap(),
            3 => file.set_len(size + [1, 8192, 3_000_000][self.rng.below(3)]).unwrap(),
            4 => file.write_all_at(&self.content(), at).unwrap(),
            _ => file.write_all_at(b"changed", at).unwrap(),
        }
    }

    /// Anything: `path` is a file, directory or link afterwards, or is gone.
    fn act(&mut self, path: &Path) {
        let parent = path.parent().unwrap();
        if fs::symlink_metadata(parent).is_ok_and(|meta| !meta.is_dir()) {
            Self::clear(parent);
        }
        if fs::create_dir_all(parent).is_err() {
            return;
        }
        match self.rng.below(10) {
            0..=3 => {
                Self::clear(path);
                fs::write(path, self.content()).unwrap();
            }
            4 => Self::clear(path),
            5 => {
                Self::clear(path);
                fs::create_dir(path).unwrap();
                fs::write(path.join("1"), self.content()).unwrap();
            }
            6 => {
                // What it leads to is of this link alone.
                Self::clear(path);
                let target = self.at(&format!("out/{}", self.rng.0));
                if self.rng.one_in(2) {
                    fs::write(&target, self.content()).unwrap();
                } else {
                    fs::create_dir(&target).unwrap();
                    fs::write(target.join("1"), self.content()).unwrap();
                }
                symlink(target, path).unwrap();
            }
            _ if fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file()) => self.act_on_file(path),
            _ => {}
        }
    }

    /// The tablespace goes, comes, moves, or is in place.
    fn act_on_tablespace(&mut self) {
        let place = self.at(TABLESPACE);
        if place.is_symlink() && self.rng.one_in(2) {
            fs::remove_dir_all(place.canonicalize().unwrap()).unwrap();
        }
        Self::clear(&place);
        let target = ["out/ts", "out/ts2"][self.rng.below(2)];
        let target = self.at(target);
        let directory = PathBuf::from(PgVersion::V15.tablespace_directory()).join("5");
        match self.rng.below(4) {
            0 => {}
            1 => fs::create_dir_all(place.join(directory)).unwrap(),
            _ => {
                fs::create_dir_all(target.join(directory)).unwrap();
                symlink(target, place).unwrap();
            }
        }
    }

    fn scan(&self) -> Scan {
        Scan::open(ScanOptions {
            pg_data: self.at("data"),
            version: PgVersion::V15,
            exclude: Vec::new(),
            external_config: Vec::new(),
            stopped: false,
            standby: None,
        })
        .unwrap()
    }

    fn rel(&self, path: &Path) -> RelPath {
        let rest = path.strip_prefix(self.at("data")).unwrap();
        if self.at(TABLESPACE).is_symlink() && path.starts_with(self.at(TABLESPACE)) {
            return RelPath::new(rest.to_str().unwrap()).unwrap();
        }
        RelPath::new(format!("pg_data/{}", rest.display())).unwrap()
    }

    /// Links whose other end is gone cannot be backed up.
    fn mend(&mut self) {
        let links: Vec<_> =
            walk(&self.at("data")).into_iter().filter(|path| path.is_symlink() && !path.exists()).collect();
        links.iter().for_each(|link| fs::remove_file(link).unwrap());
    }
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(walk(&path));
        }
        found.push(path);
    }
    found
}

/// What these tests can do without: it would have to be sound.
fn is_special(entry: &pgbr_pg::Result<ScanEntry>) -> bool {
    entry.as_ref().is_ok_and(|entry| {
        entry.path.is_pg_control() || entry.path.as_bytes() == b"pg_data/global/pg_filenode.map"
    })
}

/// A scan during which things happen: to the entry that was just found, and to those that come later.
struct Restless<'a> {
    scan: Scan,
    world: &'a mut World,
    touched: &'a mut BTreeSet<RelPath>,
}

impl Iterator for Restless<'_> {
    type Item = pgbr_pg::Result<ScanEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        let found = self.scan.find(|entry| !is_special(entry))?;
        let Ok(entry) = found else { return Some(found) };
        if self.world.rng.one_in(3) {
            match &entry.kind {
                EntryKind::File { .. } if !entry.path.as_bytes().ends_with(b"PG_VERSION") => {
                    self.world.act_on_file(&entry.source);
                    self.touched.insert(entry.path.clone());
                }
                _ => {}
            }
        }
        if self.world.rng.one_in(6) && !matches!(entry.kind, EntryKind::Link { .. }) {
            let later = self.world.any_place();
            let rel = self.world.rel(&later);
            let on_the_way = |path: &RelPath| entry.path.is_within(path);
            if rel > entry.path
                && !on_the_way(&rel)
                && rel.parent().is_none_or(|dir| dir > entry.path || on_the_way(&dir))
            {
                // The directory is made, a file or link in the way replaced by it.
                let parent = later.parent().unwrap();
                let made = !fs::symlink_metadata(parent).is_ok_and(|meta| meta.is_dir());
                self.world.act(&later);
                self.touched.extend(rel.parent().filter(|_| made));
                self.touched.insert(rel);
            }
        }
        if self.world.rng.one_in(40) && entry.path < RelPath::new("pg_data/pg_tblspc").unwrap() {
            self.world.act_on_tablespace();
            for path in ["pg_data/pg_tblspc/16400", "pg_tblspc/16400"] {
                self.touched.insert(RelPath::new(path).unwrap());
            }
        }
        Some(Ok(entry))
    }
}

/// A repository and the layers in it, oldest first.
struct Chain {
    runtime: Runtime,
    host: Host,
    place: StanzaPlace,
    label: BackupLabel,
    key: HashKey,
    layers: Vec<Layer>,
    /// Those of broken runs that were not followed by a whole one.
    broken: Vec<(u64, Vec<pgbr_repo::PackObject>)>,
}

/// A run under way.
struct Begun {
    attempt: u64,
    adopted: Adopted,
}

fn options() -> CopyOptions {
    CopyOptions {
        threads: 2,
        compression: Compression::NONE,
        pages: None,
        segment_pages: 131_072,
        estimate: Arc::new(AtomicU64::new(0)),
    }
}

/// What a path holds.
#[derive(Debug, PartialEq, Eq, Clone)]
enum Node {
    Directory,
    Link(Vec<u8>),
    File { size: u64, hashes: Vec<u64> },
}

type Tree = BTreeMap<RelPath, Vec<Node>>;

impl Chain {
    fn new() -> Self {
        Self::over(Arc::new(InMemory::new()))
    }

    fn over(objects: Arc<dyn ObjectStore>) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let store = Store::remote(objects, "memory");
        let host = Host::system();
        let place = runtime.block_on(async {
            let options = CreateOptions {
                cipher: Cipher::None,
                passphrase: None,
                kdf: None,
                now: 0,
                entropy: host.entropy.clone(),
            };
            let repo = Repo::create(store.clone(), options).await.unwrap();
            let cluster = NewCluster {
                system_id: SystemId::new(7),
                version: PgVersion::V15,
                catalog_version: 1,
                control_version: 1300,
            };
            let name = "demo".parse().unwrap();
            Stanza::create(&repo, &name, cluster, 0).await.unwrap();
            RepoAccess::store(store).open_stanza(&host, &name).await.unwrap()
        });
        let (label, key) = ("20261122-120000F".parse().unwrap(), HashKey::from_bytes([7; 32]));
        Self { runtime, host, place, label, key, layers: Vec::new(), broken: Vec::new() }
    }

    fn facts(&self) -> RunFacts {
        RunFacts {
            hash_key: self.key.clone(),
            parent: None,
            system_id: SystemId::new(7),
            timeline: TimelineId::new(1),
            data_checksums: false,
            started_ns: 0,
        }
    }

    /// Copies. What was stored is a whole layer, or a broken run that leaves some of its packs.
    fn run(
        &mut self,
        scan: &mut impl super::copy::Entries,
        rng: &mut Rng,
        trust: bool,
        breaks: bool,
    ) -> (u64, Digest) {
        let (branch, begun) = self.begin(trust);
        let copied = copy_cluster(&self.host, scan, &options(), vec![branch]).unwrap().remove(0).unwrap();
        self.end(begun, copied, rng, breaks)
    }

    /// What a run stores into, on top of what there is.
    fn begin(&self, trust: bool) -> (Branch, Begun) {
        let handle = self.runtime.handle().clone();
        let attempt = u64::from_le_bytes(self.host.random().unwrap());
        let facts = self.facts();
        let packs = self.runtime.block_on(self.place.backups.list_packs(&self.label)).unwrap();
        let of_broken = |attempt: u64| self.broken.iter().any(|(broken, _)| *broken == attempt);
        let rubbish = packs.into_iter().filter(|pack| pack.index && of_broken(pack.attempt)).collect();
        let broken = Broken { label: self.label, facts, runs: self.broken.clone(), rubbish };
        let adopted = resume::adopt(&self.host, &self.place, &broken, PACK, &handle).unwrap();
        assert_eq!(adopted.layers.len(), self.broken.len(), "a broken run could not be taken up");
        let mut sources = resume::layer_sources(&self.place, self.label, &adopted.layers, &handle);
        let taken = sources.len();
        sources.extend(resume::layer_sources(&self.place, self.label, &self.layers, &handle));
        // All times are old enough; a file whose times are those from before is not read.
        let parent = (!sources.is_empty()).then(|| Parent::new(Merge::new(sources), taken, i64::MAX, trust));
        let frame = if self.layers.is_empty() { 1 << 20 } else { 256 << 10 };
        let keys = self.place.repo.keyring();
        let seed = || self.host.lane_seed().unwrap();
        let uploads = Uploads::new(self.place.backups.clone(), self.label, attempt, 2, handle);
        let data = DataPacks::new(keys, attempt, seed(), PACK).unwrap();
        let index = IndexPacks::new(uploads, keys, seed(), PACK).unwrap();
        let branch = Branch::new(self.host.clone(), self.key.clone(), frame, parent, data, index);
        (branch, Begun { attempt, adopted })
    }

    /// What was stored becomes a layer, or what a broken run has left.
    fn end(&mut self, begun: Begun, copied: Branch, rng: &mut Rng, breaks: bool) -> (u64, Digest) {
        self.end_with(begun, copied, &BTreeMap::new(), rng, breaks)
    }

    /// The same with WAL segments added.
    fn end_with(
        &mut self,
        begun: Begun,
        mut copied: Branch,
        segments: &BTreeMap<RelPath, Vec<u8>>,
        rng: &mut Rng,
        breaks: bool,
    ) -> (u64, Digest) {
        let Begun { attempt, adopted } = begun;
        let mut compressor = Compressor::new(options().compression).unwrap();
        for (path, content) in segments {
            copied.add_segment(path.clone(), content, 1, &mut compressor).unwrap();
        }
        let Copied { gathered, data, index, .. } = copied.finish(&mut compressor).unwrap();
        let written = gathered.written;
        if breaks {
            self.break_off(attempt, rng);
        } else {
            self.broken.clear();
            self.layers.extend(adopted.layers);
            self.layers.push(Layer {
                attempt,
                data_lanes: vec![data.salt],
                data_key_mode: None,
                index_lane: index.salt,
                index_packs: index.sizes,
                data_packs: data.packs,
                index: written.index,
                frames: data.frames,
                stream: data.stream,
                key_id: [0; 16],
            });
        }
        (written.entries, written.digest)
    }

    /// The run ended in the middle: not all of its packs are there.
    fn break_off(&mut self, attempt: u64, rng: &mut Rng) {
        let listed = self.runtime.block_on(self.place.backups.list_packs(&self.label)).unwrap();
        let mut left = Vec::new();
        for pack in listed.into_iter().filter(|pack| pack.attempt == attempt && !pack.index) {
            if rng.one_in(3) {
                self.runtime.block_on(self.place.backups.delete_pack(&self.label, &pack)).unwrap();
            } else {
                left.push(pack);
            }
        }
        if !left.is_empty() {
            self.broken.push((attempt, left));
        }
    }

    /// What all layers say together, as a restore reads it.
    fn resolved(&self, said: (u64, Digest)) -> Tree {
        let handle = self.runtime.handle();
        let mut merge = Merge::new(resume::layer_sources(&self.place, self.label, &self.layers, handle));
        let (mut tree, mut list, mut open) = (Tree::new(), ListDigester::new(&self.key), None);
        let mut put = |path: RelPath, node| tree.entry(path).or_default().push(node);
        while let Some(item) = merge.next_item().unwrap() {
            match item {
                Item::Directory { path, .. } => {
                    list.directory(path.as_bytes());
                    put(path, Node::Directory);
                }
                Item::Link { path, target, .. } => {
                    list.link(path.as_bytes(), &target);
                    put(path, Node::Link(target));
                }
                Item::File(record) => open = Some((record, Vec::new())),
                Item::Grains { hashes, .. } => open.as_mut().unwrap().1.extend(hashes),
                Item::Zeros { count, .. } => {
                    open.as_mut().unwrap().1.extend((0..count).map(|_| ZERO_GRAIN));
                }
                Item::Absent { grain, .. } => panic!("grain {grain} of {open:?} is nowhere"),
                Item::End(end) => {
                    let (record, hashes) = open.take().unwrap();
                    let mut digester = FileDigester::new(&self.key, record.size);
                    hashes.iter().for_each(|hash| digester.push(*hash));
                    assert_eq!(digester.finish(), end.digest, "{}", record.path);
                    list.file(record.path.as_bytes(), end.size, end.digest);
                    put(record.path, Node::File { size: end.size, hashes });
                }
            }
        }
        assert_eq!(list.finish(), said);
        tree
    }

    fn actual(&self, world: &World) -> Tree {
        let mut tree = Tree::new();
        for entry in world.scan().filter(|entry| !is_special(entry)) {
            let entry = entry.unwrap();
            let node = match entry.kind {
                EntryKind::Directory => Node::Directory,
                EntryKind::Link { target } => Node::Link(target),
                EntryKind::File { .. } => {
                    let content = fs::read(&entry.source).unwrap();
                    let hashes = hash_grains(&self.key, &content);
                    Node::File { size: content.len() as u64, hashes }
                }
            };
            tree.entry(entry.path).or_default().push(node);
        }
        tree
    }
}

fn assert_same(found: &Tree, wanted: &Tree, but: &BTreeSet<RelPath>, what: &str) {
    let counts = |path: &RelPath| !but.iter().any(|touched| path.is_within(touched));
    for path in found.keys().chain(wanted.keys()).filter(|path| counts(path)) {
        let short = |node: &Node| match node {
            Node::File { size, hashes } => format!("file of {size}, {} grains", hashes.len()),
            other => format!("{other:?}"),
        };
        let short = |tree: &Tree| tree.get(path).map(|nodes| nodes.iter().map(short).collect::<Vec<_>>());
        assert!(
            found.get(path) == wanted.get(path),
            "{what}: {path}: {:?}, not {:?}",
            short(found),
            short(wanted)
        );
    }
}

#[test]
fn whatever_changes_under_a_backup_the_next_quiet_one_is_exact() {
    for seed in 1..=SEEDS {
        let (mut world, mut store) = (World::new(seed), Chain::new());
        let mut rng = Rng::new(seed + 1000);
        for round in 0..8 {
            let what = format!("seed {seed}, round {round}");
            let (trust, restless) = (rng.one_in(2), !rng.one_in(3));
            let breaks = restless && rng.one_in(2);
            let mut touched = BTreeSet::new();
            // The clock of a file system ticks in milliseconds; two changes in one tick look like one.
            std::thread::sleep(Duration::from_millis(20));
            if restless {
                let scan = world.scan();
                let mut scan = Restless { scan, world: &mut world, touched: &mut touched };
                let said = store.run(&mut scan, &mut rng, trust, breaks);
                world.mend();
                if !breaks {
                    assert_same(&store.resolved(said), &store.actual(&world), &touched, &what);
                }
            } else {
                let said =
                    store.run(&mut world.scan().filter(|entry| !is_special(entry)), &mut rng, trust, false);
                assert_same(&store.resolved(said), &store.actual(&world), &BTreeSet::new(), &what);
            }
            std::thread::sleep(Duration::from_millis(20));
            for _ in 0..rng.below(6) {
                let path = world.any_place();
                world.act(&path);
            }
            if rng.one_in(3) {
                world.act_on_tablespace();
            }
            world.mend();
        }
        let mut scan = world.scan().filter(|entry| !is_special(entry));
        let said = store.run(&mut scan, &mut rng, true, false);
        assert_same(&store.resolved(said), &store.actual(&world), &BTreeSet::new(), "at the end");
    }
}

/// Three repositories by one pass, each on top of what it has: one is there each time, the others now and then, and what they are to trust
/// and whether they break off differs.
#[test]
fn whatever_changes_under_a_backup_to_several_repositories_each_is_exact() {
    for seed in 1..=SEEDS / 2 {
        let mut world = World::new(seed);
        let mut stores = [7, 8, 9].map(|key| Chain { key: HashKey::from_bytes([key; 32]), ..Chain::new() });
        let mut rng = Rng::new(seed + 2000);
        for round in 0..8 {
            let what = format!("seed {seed}, round {round}");
            let last = round == 7;
            let restless = !last && rng.one_in(2);
            let mut touched = BTreeSet::new();
            std::thread::sleep(Duration::from_millis(20));
            let (mut branches, mut under_way) = (Vec::new(), Vec::new());
            for (number, store) in stores.iter_mut().enumerate() {
                if number == 0 || last || rng.one_in(2) {
                    let (branch, begun) = store.begin(rng.one_in(2));
                    branches.push(branch);
                    under_way.push((store, begun));
                }
            }
            let host = Host::system();
            let copied = if restless {
                let mut scan = Restless { scan: world.scan(), world: &mut world, touched: &mut touched };
                copy_cluster(&host, &mut scan, &options(), branches).unwrap()
            } else {
                let mut scan = world.scan().filter(|entry| !is_special(entry));
                copy_cluster(&host, &mut scan, &options(), branches).unwrap()
            };
            world.mend();
            for ((store, begun), copied) in under_way.into_iter().zip(copied) {
                let breaks = restless && rng.one_in(3);
                let said = store.end(begun, copied.unwrap(), &mut rng, breaks);
                if !breaks {
                    assert_same(&store.resolved(said), &store.actual(&world), &touched, &what);
                }
            }
            std::thread::sleep(Duration::from_millis(20));
            for _ in 0..rng.below(6) {
                let path = world.any_place();
                world.act(&path);
            }
            if rng.one_in(3) {
                world.act_on_tablespace();
            }
            world.mend();
        }
    }
}

#[test]
fn a_broken_run_over_many_tiny_files_is_taken_up() {
    let (world, mut store) = (World::new(1), Chain::new());
    fs::create_dir(world.at("data/tiny")).unwrap();
    for n in 0..5000 {
        // Names that have little in common.
        fs::write(world.at("data/tiny").join(format!("{n:0200}").chars().rev().collect::<String>()), "x")
            .unwrap();
    }
    let scan = || world.scan().filter(|entry| !is_special(entry));
    // No pack is lost.
    store.run(&mut scan(), &mut Rng(u64::MAX), false, true);
    let stored = |store: &Chain| -> u64 {
        let packs = store.runtime.block_on(store.place.backups.list_packs(&store.label)).unwrap();
        packs.iter().filter(|pack| !pack.index).map(|pack| pack.size).sum()
    };
    let before = stored(&store);
    let said = store.run(&mut scan(), &mut Rng::new(1), false, false);
    assert_same(&store.resolved(said), &store.actual(&world), &BTreeSet::new(), "tiny files");
    assert_eq!(stored(&store), before, "what had been stored was stored again");
}

#[test]
fn what_a_pass_sent_never_takes_the_place_of_what_the_next_one_stores() {
    for (fault, honoured) in [(Fault::None, true), (Fault::IgnoresCreate, false)] {
        let store = Chain::over(FaultStore::new(Arc::new(InMemory::new()), fault));
        assert_eq!(store.place.repo.store().create_honoured(), honoured);
        store.runtime.block_on(passes(&store));
    }
}

async fn passes(store: &Chain) {
    let (host, place, label) = (&store.host, &store.place, store.label);
    let mut run = Target {
        number: 1,
        host: host.clone(),
        place: place.clone(),
        pack_size: PACK,
        resume: true,
        label,
        kind: BackupType::Full,
        attempt: 1,
        lease: Held::lease(host, place).await.unwrap(),
        pin: target::pin(host, place, &[], label, 1).await.unwrap(),
        chain: Vec::new(),
        broken: None,
        facts: store.facts(),
        adopted: Arc::default(),
        copied: None,
        complete: None,
    };
    run.announce().await.unwrap();
    let put = async |attempt, content: &'static [u8]| {
        place.backups.put_pack(&label, attempt, 0, false, content.into()).await.unwrap();
    };
    put(1, b"of the first pass").await;
    let (first, pins) = (run.attempt, Pins::new(&place.repo, place.stanza.name()));
    run.begin_anew().await.unwrap();
    let second = run.attempt;
    assert_ne!(first, second);
    assert_eq!(place.backups.list_packs(&label).await.unwrap(), []);
    // Others see the new pass, and the old one no more.
    let runs: Vec<u64> =
        place.backups.list_runs(&label).await.unwrap().iter().map(|run| run.attempt).collect();
    assert_eq!(runs, [second]);
    let pinned = pins.list().await.unwrap();
    let [pinned] = pinned.as_slice() else { panic!("{pinned:?}") };
    assert!(pinned.covers_attempt(second) && pinned.covers_label(&label) && !pinned.covers_attempt(first));
    run.ready().await.unwrap();

    put(second, b"of the second pass").await;
    // It was on its way all the time.
    put(first, b"of the first pass").await;
    let get = place.backups.get_pack_range(&label, second, 0, false, 0..18).await.unwrap();
    assert_eq!(get, b"of the second pass".as_slice());
    run.give_up(&Error::Internal { what: "a test" }).await;
    let left = place.backups.list_packs(&label).await.unwrap();
    assert_eq!(left.iter().map(|pack| pack.attempt).collect::<Vec<_>>(), [first], "rubbish for expire");
    run.release().await;
    assert_eq!(pins.list().await.unwrap(), []);
}

/// How many worlds are looked at. 150 were, once.
const SEEDS: u64 = 8;

#[test]
fn segments_come_and_go_with_resumes_and_increments() {
    for seed in 0..12 {
        let mut rng = Rng::new(seed);
        let (world, mut chain) = (World::new(seed), Chain::new());
        fs::create_dir_all(world.at("data/pg_wal")).unwrap();
        let name = |number: usize| {
            RelPath::new(format!("{}/00000001000000000000000{number}", RelPath::PG_WAL)).unwrap()
        };
        let mut seen: BTreeMap<RelPath, Vec<u8>> = BTreeMap::new();
        for round in 0..8 {
            let mut segments = BTreeMap::new();
            for number in 0..5 {
                if rng.one_in(2) {
                    continue;
                }
                let path = name(number);
                // One that was there before, or another of the same name; as long as several runs, one grain, or nothing.
                let old = seen.get(&path).filter(|_| rng.one_in(2)).cloned();
                let size: usize = [0, 100, 8192, (3 << 20) + 5][rng.below(4)];
                let byte = u8::try_from(rng.below(3)).unwrap();
                let content = old.unwrap_or_else(|| {
                    (0..size).map(|n| byte.wrapping_mul((n / 8192 % 251).try_into().unwrap())).collect()
                });
                seen.insert(path.clone(), content.clone());
                segments.insert(path, content);
            }
            let (branch, begun) = chain.begin(true);
            let mut scan = world.scan().filter(|entry| !is_special(entry));
            let copied =
                copy_cluster(&chain.host, &mut scan, &options(), vec![branch]).unwrap().remove(0).unwrap();
            let breaks = round < 7 && rng.one_in(3);
            let said = chain.end_with(begun, copied, &segments, &mut rng, breaks);
            if breaks {
                continue;
            }
            let mut wanted = chain.actual(&world);
            for (path, content) in &segments {
                let (size, hashes) = (content.len() as u64, hash_grains(&chain.key, content));
                wanted.insert(path.clone(), vec![Node::File { size, hashes }]);
            }
            let found = chain.resolved(said);
            assert_same(&found, &wanted, &BTreeSet::new(), &format!("seed {seed}, round {round}"));
            assert_eq!(found.keys().filter(|path| path.is_wal_segment()).count(), segments.len());
        }
    }
}
