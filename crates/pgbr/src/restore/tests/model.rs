//! A small file system that changes, and its backups.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::memory::InMemory;
use object_store::throttle::{ThrottleConfig, ThrottledStore};
use pgbr_codec::{Cipher, Codec, Compression, Compressor, FrameKind, seal_manifest};
use pgbr_manifest::diff::{EntryWriter, ParentFile};
use pgbr_manifest::index::{BadPages, Fields, FileFlags, FileRecord, Meta};
use pgbr_manifest::manifest::{
    Body, ClusterFacts, DatabaseRef, Layer, MANIFEST_FORMAT, Parent, Sizes, Span, Summary,
};
use pgbr_manifest::{
    BackupId, BackupLabel, BackupType, Digest, GRAIN, HashKey, Lsn, PgVersion, RelPath, SystemId, TimelineId,
    WalSegmentSize,
};
use pgbr_repo::{BackupStore, CreateOptions, NewCluster, Repo, Stanza, Store};
use tokio::runtime::Runtime;

use crate::host::Host;
use crate::load::load;
use crate::packs::{DataPacks, IndexPacks, Uploads};
use crate::place::RepoAccess;
use crate::run::{FrameRow, hash_grains};

/// Frames of the tests hold this many grains at most.
const FRAME_GRAINS: usize = 5;

/// Numbers that are the same in each run.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 11) % limit.max(1) as u64).unwrap()
    }

    fn byte(&mut self, limit: u8) -> u8 {
        u8::try_from(self.below(usize::from(limit))).unwrap()
    }

    fn grain(&mut self) -> Vec<u8> {
        let byte = self.byte(255);
        let mut grain = vec![byte.wrapping_add(1); GRAIN];
        let at = self.below(GRAIN);
        grain[at] = grain[at].wrapping_add(1 + self.byte(200));
        if self.below(4) == 0 { vec![0; GRAIN] } else { grain }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct File {
    content: Vec<u8>,
    mode: u32,
    mtime_ns: i64,
}

/// What a cluster's directory holds; `None` is a directory.
#[derive(Clone)]
pub(crate) struct Model(BTreeMap<RelPath, Option<File>>);

fn rel(path: &str) -> RelPath {
    RelPath::new(path).unwrap()
}

impl Model {
    pub(crate) fn new(rng: &mut Rng) -> Self {
        let mut model = Self(BTreeMap::new());
        for dir in [
            "pg_data",
            "pg_data/base",
            "pg_data/base/1",
            "pg_data/base/2",
            "pg_data/global",
            "pg_data/pg_tblspc",
        ] {
            model.0.insert(rel(dir), None);
        }
        model.put("pg_data/PG_VERSION", b"15\n".to_vec(), 1);
        model.put(RelPath::PG_CONTROL, vec![7; GRAIN], 1);
        for n in 0..12 {
            let content = content(rng, 40);
            model.put(&format!("pg_data/base/{}/{}", n % 2 + 1, 1000 + n), content, 1);
        }
        model
    }

    pub(crate) fn put(&mut self, path: &str, content: Vec<u8>, mtime: i64) {
        let mtime_ns = mtime * 1_000_000_000;
        self.0.insert(rel(path), Some(File { content, mode: 0o600, mtime_ns }));
    }

    /// The paths of all files but the control file.
    pub(crate) fn files(&self) -> Vec<RelPath> {
        self.0
            .iter()
            .filter(|(path, node)| node.is_some() && !path.is_pg_control())
            .map(|(path, _)| path.clone())
            .collect()
    }

    /// Some files change, grow, shrink, go, come, become directories.
    pub(crate) fn change(&mut self, rng: &mut Rng) {
        let files = self.files();
        for _ in 0..4 {
            let path = files[rng.below(files.len())].clone();
            if path == rel("pg_data/PG_VERSION") {
                continue;
            }
            let Some(Some(file)) = self.0.get_mut(&path) else { continue };
            file.mtime_ns += 1_000_000_007;
            match rng.below(9) {
                0..=2 => {
                    let grain = rng.grain();
                    let at = rng.below(file.content.len() / GRAIN + 1) * GRAIN;
                    let end = (at + GRAIN).min(file.content.len());
                    file.content[at..end].copy_from_slice(&grain[..end - at]);
                }
                3 => file.content.extend(content(rng, 20)),
                4 => file.content.truncate(rng.below(file.content.len() + 1)),
                5 => file.mode = 0o640,
                6 => drop(self.0.remove(&path)),
                7 => {
                    self.0.insert(path.clone(), None);
                    let below = path.join("x").unwrap();
                    self.0.insert(below, Some(File { content: content(rng, 3), mode: 0o600, mtime_ns: 5 }));
                }
                _ => self.put(&format!("pg_data/base/1/new{}", rng.below(9)), content(rng, 9), 3),
            }
        }
        let dirs: Vec<_> =
            self.0.keys().filter(|p| p.file_name() == b"x").filter_map(RelPath::parent).collect();
        if let (Some(dir), 0) = (dirs.first(), rng.below(2)) {
            self.0.retain(|path, _| !path.is_within(dir));
            self.0.insert(dir.clone(), Some(File { content: content(rng, 7), mode: 0o600, mtime_ns: 9 }));
        }
    }

    /// Sees that `pg_data` holds just this, apart from what a restore adds.
    pub(crate) fn compare(&self, pg_data: &Path) {
        let mut found = BTreeSet::new();
        walk(pg_data, &mut found);
        let added = ["postgresql.auto.conf", "recovery.signal", "standby.signal"];
        found.retain(|path| !added.iter().any(|name| pg_data.join(name) == *path));
        let real =
            |path: &RelPath| pg_data.join(std::str::from_utf8(path.strip("pg_data").unwrap()).unwrap());
        let wanted: BTreeSet<_> = self.0.keys().filter(|path| **path != rel("pg_data")).map(real).collect();
        assert_eq!(found, wanted);
        for (path, node) in &self.0 {
            let meta = std::fs::symlink_metadata(real(path)).unwrap();
            let Some(file) = node else {
                assert!(meta.is_dir(), "{path}");
                continue;
            };
            assert!(std::fs::read(real(path)).unwrap() == file.content, "{path} differs");
            assert_eq!(meta.permissions().mode() & 0o7777, file.mode, "{path}");
            assert_eq!(meta.mtime() * 1_000_000_000 + meta.mtime_nsec(), file.mtime_ns, "{path}");
        }
    }
}

impl Model {
    fn real(path: &RelPath, pg_data: &Path) -> PathBuf {
        pg_data.join(std::str::from_utf8(path.strip("pg_data").unwrap()).unwrap())
    }

    /// Inode and time of the last change of anything, of all files but the control file, which is always made anew.
    pub(crate) fn stamps(&self, pg_data: &Path) -> Vec<(RelPath, u64, i64, i64)> {
        let stamp = |path: RelPath| {
            let meta = std::fs::symlink_metadata(Self::real(&path, pg_data)).unwrap();
            (path, meta.ino(), meta.ctime(), meta.ctime_nsec())
        };
        self.files().into_iter().map(stamp).collect()
    }

    /// Does to a restored cluster what should not happen to one.
    pub(crate) fn damage(&self, pg_data: &Path, outside: &Path, rng: &mut Rng) {
        use std::fs;
        fs::write(pg_data.join("base/foreign"), "x").unwrap();
        fs::create_dir_all(pg_data.join("base/0/deep/er")).unwrap();
        fs::write(pg_data.join("base/0/deep/file"), "x").unwrap();
        symlink(outside, pg_data.join("a link")).unwrap();
        fs::set_permissions(pg_data.join("base"), fs::Permissions::from_mode(0o500)).unwrap();
        let files = self.files();
        for n in 0..9 {
            let path = Self::real(&files[rng.below(files.len())], pg_data);
            let Ok(meta) = fs::symlink_metadata(&path) else { continue };
            if !meta.is_file() || meta.nlink() > 1 {
                continue;
            }
            match n {
                0 => fs::remove_file(&path).unwrap(),
                1 => {
                    fs::remove_file(&path).unwrap();
                    fs::create_dir(&path).unwrap();
                    fs::write(path.join("below"), "x").unwrap();
                }
                2 => {
                    fs::remove_file(&path).unwrap();
                    symlink(outside.join("file"), &path).unwrap();
                }
                3 => fs::File::options().write(true).open(&path).unwrap().set_len(meta.len() / 2).unwrap(),
                4 => fs::File::options().append(true).open(&path).unwrap().write_all(&[1; 20_000]).unwrap(),
                5 => fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap(),
                6 => {
                    // Another name for a file that is written to outside must not be written through.
                    fs::remove_file(&path).unwrap();
                    fs::hard_link(outside.join("file"), &path).unwrap();
                }
                _ => flip_a_byte(&path, &meta, rng),
            }
        }
        fs::set_permissions(pg_data.join("base"), fs::Permissions::from_mode(0o500)).unwrap();
    }
}

/// Changes a byte and sets the times back.
fn flip_a_byte(path: &Path, meta: &std::fs::Metadata, rng: &mut Rng) {
    let mut content = std::fs::read(path).unwrap();
    if content.is_empty() {
        return;
    }
    let at = rng.below(content.len());
    content[at] ^= 1;
    std::fs::write(path, content).unwrap();
    let times = std::fs::FileTimes::new().set_modified(meta.modified().unwrap());
    std::fs::File::options().write(true).open(path).unwrap().set_times(times).unwrap();
}

fn content(rng: &mut Rng, grains: usize) -> Vec<u8> {
    let grains = rng.below(grains);
    let mut content: Vec<u8> = (0..grains).flat_map(|_| rng.grain()).collect();
    content.truncate(content.len().saturating_sub(rng.below(3) * 1000));
    content
}

fn walk(dir: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.symlink_metadata().unwrap().is_dir() {
            walk(&path, found);
        }
        found.insert(path);
    }
}

/// A repository with a chain that grows.
pub(crate) struct Chain {
    pub(crate) runtime: Runtime,
    pub(crate) objects: Arc<InMemory>,
    pub(crate) repo: RepoAccess,
    pub(crate) parent: Option<Made>,
    pub(crate) seconds: i64,
}

pub(crate) struct Made {
    label: BackupLabel,
    id: BackupId,
    digest: Digest,
    key: HashKey,
    known: Known,
}

/// What a backup says: records, ends and hashes of files, and the directories.
type Known = BTreeMap<RelPath, Option<(FileRecord, Fields, Vec<u64>)>>;

impl Chain {
    pub(crate) fn new() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let objects = Arc::new(InMemory::new());
        let store = Store::remote(Arc::<InMemory>::clone(&objects), "memory");
        let host = Host::system();
        runtime.block_on(async {
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
            Stanza::create(&repo, &"demo".parse().unwrap(), cluster, 0).await.unwrap();
        });
        Self { runtime, objects, repo: RepoAccess::store(store), parent: None, seconds: 0 }
    }

    /// The same repository, where each request takes `wait` longer.
    pub(crate) fn far(&self, wait: Duration) -> RepoAccess {
        let config = ThrottleConfig {
            wait_get_per_call: wait,
            wait_put_per_call: wait,
            wait_delete_per_call: wait,
            wait_list_per_call: wait,
            wait_list_with_delimiter_per_call: wait,
            ..ThrottleConfig::default()
        };
        let slow = ThrottledStore::new(Arc::clone(&self.objects), config);
        RepoAccess::store(Store::remote(Arc::new(slow), "memory"))
    }

    /// Stores the next backup of the chain, now and then in two layers.
    pub(crate) fn backup(&mut self, model: &Model, rng: &mut Rng) -> BackupLabel {
        self.seconds += 1;
        let stamp = format!("20261122-12{:02}{:02}", self.seconds / 60, self.seconds % 60);
        let label = match &self.parent {
            None => format!("{stamp}F"),
            Some(parent) => format!("{}_{stamp}I", parent.label.full()),
        };
        let label = label.parse().unwrap();
        self.backup_as(label, model, rng);
        label
    }

    pub(crate) fn backup_as(&mut self, label: BackupLabel, model: &Model, rng: &mut Rng) {
        let host = Host::system();
        let place = self.runtime.block_on(self.repo.open_stanza(&host, &"demo".parse().unwrap())).unwrap();
        let key = self
            .parent
            .as_ref()
            .map_or_else(|| HashKey::from_bytes(host.random().unwrap()), |p| p.key.clone());
        let mut known = self.parent.as_ref().map(|p| p.known.clone()).unwrap_or_default();
        let mut layers = Vec::new();
        let run = |model: &Model, known: &mut Known, layers: &mut Vec<Layer>| {
            let (layer, entries, digest) = self.layer(&host, &place, label, &key, model, known);
            layers.push(layer);
            (entries, digest)
        };
        if rng.below(3) == 0 {
            // What a broken run saw: some of it changes until the next one comes.
            let mut earlier = model.clone();
            earlier.change(rng);
            run(&earlier, &mut known, &mut layers);
        }
        let (resolved_entries, resolved_digest) = run(model, &mut known, &mut layers);
        let id = BackupId(host.random().unwrap());
        let parent = self.parent.as_ref().map(|p| Parent { label: p.label, id: p.id, digest: p.digest });
        let segment = "000000010000000000000002".parse().unwrap();
        let summary = Summary {
            format: MANIFEST_FORMAT,
            id,
            label,
            kind: label.backup_type(),
            prior: parent.as_ref().map(|p| p.label),
            program: "test".to_owned(),
            database: DatabaseRef { id: 1, system_id: SystemId::new(7), version: PgVersion::V15 },
            time: Span { start: 1, stop: 2 },
            server_time_us: Span { start: 1, stop: 2 },
            lsn: Span { start: Lsn::new(0x200_0028), stop: Lsn::new(0x200_0100) },
            wal: Span { start: segment, stop: segment },
            wal_inside: false,
            offline: false,
            sizes: Sizes::default(),
            entries: resolved_entries,
            error: false,
            annotation: BTreeMap::new(),
        };
        assert_eq!(summary.kind == BackupType::Full, parent.is_none());
        let body = Body {
            format: MANIFEST_FORMAT,
            id,
            parent,
            hash_key: key.clone(),
            copy_start_ns: 0,
            layers,
            resolved_entries,
            resolved_digest,
            cluster: cluster_facts(),
            tablespaces: Vec::new(),
            links: Vec::new(),
            databases: Vec::new(),
            backup_label: None,
            tablespace_map: None,
            config_files: Vec::new(),
            bad_pages: 0,
            options: BTreeMap::new(),
        };
        let (keys, seed) = (place.repo.keyring(), host.lane_seed().unwrap());
        let object = seal_manifest(keys, seed, &summary.to_json().unwrap(), &body.to_json().unwrap());
        let commit = place.backups.commit_manifest(&label, 1, Bytes::from(object.unwrap()));
        self.runtime.block_on(commit).unwrap();
        let digest = self.runtime.block_on(load(&place.backups, label)).unwrap().digest;
        self.parent = Some(Made { label, id, digest, key, known });
    }

    /// Writes what differs from `known`, which becomes what the model says.
    fn layer(
        &self,
        host: &Host,
        place: &crate::place::StanzaPlace,
        label: BackupLabel,
        key: &HashKey,
        model: &Model,
        known: &mut Known,
    ) -> (Layer, u64, Digest) {
        let keys = place.repo.keyring();
        let attempt = u64::from_le_bytes(host.random().unwrap());
        let seed = || host.lane_seed().unwrap();
        let uploads = Uploads::new(place.backups.clone(), label, attempt, 2, self.runtime.handle().clone());
        let mut index = IndexPacks::new(uploads, keys, seed(), 100_000).unwrap();
        let mut data = Stream {
            packs: DataPacks::new(keys, attempt, seed(), 200_000).unwrap(),
            number: 0,
            raw: Vec::new(),
            rows: Vec::new(),
        };
        let mut entries = EntryWriter::new(key.clone());
        let paths: BTreeSet<_> = known.keys().chain(model.0.keys()).cloned().collect();
        let mut next = Known::new();
        let mut gone: Option<RelPath> = None;
        for path in paths {
            let hidden = gone.as_ref().is_some_and(|gone| path.is_within(gone));
            let mut old = if hidden { None } else { known.get(&path).cloned() };
            let node = model.0.get(&path);
            if node.is_none() && old.is_some() {
                entries.removed(&mut index, path.clone()).unwrap();
                gone = Some(path.clone());
            }
            // What has another kind now is new; what lay below a directory goes one by one.
            old = old.filter(|old| node.is_some_and(|node| node.is_some() == old.is_some()));
            match node {
                None => {}
                Some(None) => {
                    let meta = Meta { mode: 0o700, ..Meta::default() };
                    entries.directory(&mut index, path.clone(), meta, old.is_some()).unwrap();
                    next.insert(path, None);
                }
                Some(Some(file)) => {
                    let told =
                        write_file(&mut entries, &mut index, &mut data, key, &path, file, old.flatten());
                    next.insert(path, Some(told));
                }
            }
        }
        data.flush(&mut index);
        let packed = data.packs.finish(&mut index).unwrap();
        let written = entries.finish(&mut index).unwrap();
        assert_eq!(written.stream, packed.stream);
        let indexed = index.finish().unwrap();
        *known = next;
        let layer = Layer {
            attempt,
            data_lanes: vec![packed.salt],
            data_key_mode: None,
            index_lane: indexed.salt,
            index_packs: indexed.sizes,
            data_packs: packed.packs,
            index: written.index,
            frames: packed.frames,
            stream: packed.stream,
            key_id: [0; 16],
        };
        (layer, written.entries, written.digest)
    }

    fn store(&self) -> BackupStore {
        let (host, stanza) = (Host::system(), "demo".parse().unwrap());
        self.runtime.block_on(self.repo.open_stanza(&host, &stanza)).unwrap().backups
    }

    /// Takes a backup's manifest away.
    pub(crate) fn remove(&self, label: BackupLabel) {
        let store = self.store();
        self.runtime.block_on(store.delete_manifest(&label)).unwrap();
    }

    /// Takes a data pack of a backup away.
    pub(crate) fn remove_a_pack(&self, label: BackupLabel) {
        let store = self.store();
        let packs = self.runtime.block_on(store.list_packs(&label)).unwrap();
        let pack = packs.iter().find(|pack| !pack.index).unwrap();
        self.runtime.block_on(store.delete_pack(&label, pack)).unwrap();
    }
}

/// Frames on their way into packs.
struct Stream {
    packs: DataPacks,
    number: u64,
    raw: Vec<u8>,
    rows: Vec<FrameRow>,
}

impl Stream {
    fn flush(&mut self, index: &mut IndexPacks) {
        if self.raw.is_empty() {
            return;
        }
        let mut compressor = Compressor::new(Compression::new(Codec::Zst, Some(1)).unwrap()).unwrap();
        let frame =
            self.packs.sealer().seal(&mut compressor, FrameKind::Data, self.number, &self.raw).unwrap();
        let raw_len = u32::try_from(self.raw.len()).unwrap();
        let rows = std::mem::take(&mut self.rows);
        self.packs.push(index, self.number, raw_len, &frame, rows).unwrap();
        self.number += 1;
        self.raw.clear();
    }

    fn store(
        &mut self,
        index: &mut IndexPacks,
        file: &Arc<FileRecord>,
        first: u64,
        bytes: &[u8],
        hashes: &[u64],
    ) {
        for (n, (grain, hash)) in (0..).zip(bytes.chunks(GRAIN).zip(hashes)) {
            self.raw.extend_from_slice(grain);
            self.rows.push(FrameRow { file: Arc::clone(file), first: first + n, hashes: vec![*hash] });
            if self.rows.len() == FRAME_GRAINS {
                self.flush(index);
            }
        }
    }
}

fn write_file(
    entries: &mut EntryWriter,
    index: &mut IndexPacks,
    data: &mut Stream,
    key: &HashKey,
    path: &RelPath,
    file: &File,
    old: Option<(FileRecord, Fields, Vec<u64>)>,
) -> (FileRecord, Fields, Vec<u64>) {
    let size = file.content.len() as u64;
    let flags = FileFlags { whole: true, ..FileFlags::default() };
    let meta = Meta { mode: file.mode, ..Meta::default() };
    let record =
        FileRecord { path: path.clone(), meta, size, mtime_ns: file.mtime_ns, ctime_ns: 1, inode: 1, flags };
    let hashes = hash_grains(key, &file.content);
    let shared = Arc::new(record.clone());
    let parent =
        old.as_ref().map(|(record, end, _)| ParentFile { record: record.clone(), end: Some(end.clone()) });
    let whole = |n: usize, old: u64| old == size || ((n + 1) * GRAIN) as u64 <= old.min(size);
    entries.begin(index, Arc::clone(&shared), parent).unwrap();
    let known: Vec<Option<u64>> = match &old {
        Some((record, _, old)) => {
            (0..hashes.len()).map(|n| old.get(n).copied().filter(|_| whole(n, record.size))).collect()
        }
        None => Vec::new(),
    };
    let (first, stretches) = entries.run(index, &hashes, &known).unwrap();
    for stretch in stretches {
        let bytes = &file.content[stretch.start * GRAIN..(stretch.end * GRAIN).min(file.content.len())];
        data.store(index, &shared, first + stretch.start as u64, bytes, &hashes[stretch]);
    }
    entries.end(index, size, BadPages::default(), false).unwrap();
    let digest = {
        let mut digester = pgbr_manifest::FileDigester::new(key, size);
        hashes.iter().for_each(|hash| digester.push(*hash));
        digester.finish()
    };
    (record, Fields { size, digest, bad_pages: BadPages::default() }, hashes)
}

fn cluster_facts() -> ClusterFacts {
    ClusterFacts {
        catalog_version: 1,
        control_version: 1300,
        block_size: 8192,
        segment_pages: 131_072,
        wal_segment_size: WalSegmentSize::new(16 << 20).unwrap(),
        data_checksums: false,
        timeline: TimelineId::new(1),
        data_directory: "/data".to_owned(),
    }
}
