//! Repositories made by somebody who can write to them: every tag is right, and what it covers may lie.
//!
//! The tags of a repository without encryption follow from its id alone, so that the format's own writers make them.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use pgbr_codec::{
    Cipher, Codec, Compression, Compressor, FrameKind, Keyring, LaneSeed, ObjectKind, PackBuilder, Sealer,
    WalSealer, seal_manifest, seal_record,
};
use pgbr_manifest::index::{
    Fields, FileFlags, FileRecord, FrameTableWriter, IndexWriter, LeafWriter, Meta, NodeKind, NodePlace,
    NodeSink, PackFrames, Record, Root,
};
use pgbr_manifest::manifest::{
    Body, ClusterFacts, DatabaseRef, Layer, MANIFEST_FORMAT, Sizes, Span, Summary,
};
use pgbr_manifest::{
    BackupId, BackupLabel, Digest, Error, FileDigest, FileDigester, GRAIN, HashKey, ListDigester, Lsn,
    PgVersion, RelPath, StanzaName, SystemId, TimelineId, WalFileName, WalSegmentSize, ZERO_GRAIN,
};
use pgbr_repo::{CreateOptions, Entropy, Layout, NewCluster, Repo, Stanza, Store};
use pgbr_testkit::{Finished, Scratch, as_operator, own, run, runnable};

/// The one backup.
pub(crate) const LABEL: &str = "20261122-120000F";
/// The directory of its version in tablespaces.
pub(crate) const VERSION_DIRECTORY: &str = "PG_15_202209061";
/// The segment that it begins with and ends in.
pub(crate) const SEGMENT: &str = "000000010000000000000002";
/// The run that made it.
pub(crate) const ATTEMPT: u64 = 7;

/// No command takes longer.
const LIMIT: Duration = Duration::from_secs(60);
/// As much address space as a command gets, in KiB: threads reserve most of it and use little.
const SPACE: u32 = 1_500_000;
/// The raw bytes of a frame.
const FRAME: usize = 1 << 20;

/// Numbers that nobody has to guess.
#[derive(Debug)]
struct Known;

impl Entropy for Known {
    fn fill(&self, bytes: &mut [u8]) -> pgbr_repo::Result<()> {
        bytes.fill(0x44);
        Ok(())
    }
}

pub(crate) fn rel(path: &str) -> RelPath {
    RelPath::new(path).expect("it is a path")
}

pub(crate) fn zst() -> Compressor {
    Compressor::new(Compression::new(Codec::Zst, Some(1)).expect("it has that level"))
        .expect("there is memory")
}

/// A repository with one stanza and no encryption, and a place to restore to.
pub(crate) struct Forge {
    pub(crate) scratch: Scratch,
    keys: Keyring,
}

impl Forge {
    pub(crate) fn new() -> Self {
        let scratch = Scratch::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let store = Store::local(&scratch.dir("repo"), true).expect("a store in a directory");
        let options = CreateOptions {
            cipher: Cipher::None,
            passphrase: None,
            kdf: None,
            now: 1_790_000_000,
            entropy: Arc::new(Known),
        };
        let keys = runtime.block_on(async {
            let repo = Repo::create(store, options).await.expect("a new repository");
            let cluster = NewCluster {
                system_id: SystemId::new(7),
                version: PgVersion::V15,
                catalog_version: 202_209_061,
                control_version: 1300,
            };
            Stanza::create(&repo, &stanza(), cluster, 1_790_000_000).await.expect("a new stanza");
            repo.keyring().clone()
        });
        for dir in ["target", "outside", "lock", "spool"] {
            scratch.dir(dir);
        }
        let at = |name: &str| scratch.path().join(name).display().to_string();
        let config = format!(
            "[global]\nrepo1-path={}\nlock-path={}\nspool-path={}\nlog-level-file=off\nlog-level-console=warn\n\
             [demo]\npg1-path={}\n",
            at("repo"),
            at("lock"),
            at("spool"),
            at("target")
        );
        scratch.file("pgbr.conf", config);
        fs::set_permissions(scratch.path().join("outside"), fs::Permissions::from_mode(0o751))
            .expect("it is ours");
        scratch.file("outside/theirs", "theirs");
        Self { scratch, keys }
    }

    pub(crate) fn target(&self) -> PathBuf {
        self.scratch.path().join("target")
    }

    /// A directory that nobody gave to the program, and what is in it.
    pub(crate) fn outside(&self) -> PathBuf {
        self.scratch.path().join("outside")
    }

    /// That directory is as it was.
    #[track_caller]
    pub(crate) fn assert_outside_is_untouched(&self) {
        let names = fs::read_dir(self.outside())
            .expect("it is there")
            .map(|e| e.expect("it can be listed").file_name());
        assert_eq!(names.collect::<Vec<_>>(), ["theirs"], "something was written outside");
        assert_eq!(fs::read(self.outside().join("theirs")).expect("it is there"), b"theirs");
        let mode = fs::metadata(self.outside()).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o7777, 0o751, "its mode was changed");
    }

    pub(crate) fn sealer(&self, kind: ObjectKind, lane: u8) -> Sealer {
        self.keys.sealer(kind, LaneSeed::from_bytes([lane; 32])).expect("no public key is needed")
    }

    /// Puts an object under a key.
    pub(crate) fn put(&self, key: impl AsRef<str>, object: &[u8]) {
        let path = self.scratch.path().join("repo").join(key.as_ref());
        fs::create_dir_all(path.parent().expect("it lies in a directory")).expect("it is ours");
        fs::write(path, object).expect("it is ours");
    }

    /// Puts a record under its key, with that in its JSON where it says `NAME`.
    pub(crate) fn put_record(&self, key: impl AsRef<str>, json: &str) {
        let json = json.replace("NAME", key.as_ref());
        let object = seal_record(&self.keys, LaneSeed::from_bytes([9; 32]), json.as_bytes());
        self.put(key, &object.expect("it is small"));
    }

    /// Puts the segment that the backup needs: verify waits for one that is missing.
    fn put_segment(&self) {
        self.put_wal(SEGMENT, std::iter::repeat_n(vec![0; 2 << 20], 8));
    }

    /// Puts a WAL file of these pieces.
    pub(crate) fn put_wal(&self, name: &str, pieces: impl Iterator<Item = Vec<u8>>) {
        let mut sealer = WalSealer::new(self.sealer(ObjectKind::Wal, 5)).expect("a lane of WAL");
        let (mut object, mut zst) = (sealer.header().to_vec(), zst());
        for piece in pieces {
            object.extend(sealer.piece(&mut zst, &piece).expect("a small piece"));
        }
        object.extend(sealer.finish(name, Some(7)).expect("a small trailer").0);
        let file: WalFileName = name.parse().expect("it is the name of a WAL file");
        self.put(Layout::new().wal(&stanza(), "15-1".parse().expect("an archive"), &file), &object);
    }

    /// The index and data of some content as a run would have stored it.
    pub(crate) fn store(&self, content: Content) -> Parts {
        let (records, stream, list) = content.made();
        let frames = self.put_data(&stream, &rows_of(&records));
        self.close_with(&records, &frames, list)
    }

    /// Puts an index of these records, and a table of these frames.
    pub(crate) fn close_with(&self, records: &[Record], frames: &PackFrames, list: (u64, Digest)) -> Parts {
        let (mut index, mut writer, mut table) = (self.index(), IndexWriter::new(), FrameTableWriter::new());
        for record in records {
            writer.push(&mut index, record.clone()).expect("it keeps the rules");
        }
        let (root, stream) = writer.finish(&mut index).expect("it keeps the rules");
        if !frames.frames.is_empty() {
            table.push(&mut index, frames).expect("it keeps the rules");
        }
        let (table, _) = table.finish(&mut index).expect("it keeps the rules");
        self.close(index, root, table, stream, list)
    }

    pub(crate) fn index(&self) -> IndexPack {
        let sealer = self.sealer(ObjectKind::IndexPack, 2);
        let pack = PackBuilder::new(&sealer, ATTEMPT, 0, 0);
        IndexPack { sealer, pack, numbers: HashMap::new() }
    }

    /// Puts the index pack, and says what a manifest says of it.
    pub(crate) fn close(
        &self,
        index: IndexPack,
        root: Option<Root>,
        frames: Option<Root>,
        stream: u64,
        (entries, digest): (u64, Digest),
    ) -> Parts {
        let IndexPack { sealer, pack, .. } = index;
        let object = pack.finish(&sealer, &mut zst(), b"").expect("a small footer");
        self.put(Layout::new().pack(&stanza(), &label(), ATTEMPT, 0, true), &object);
        let layer = Layer {
            attempt: ATTEMPT,
            data_lanes: vec![Digest([1; 32])],
            data_key_mode: None,
            index_lane: Digest([2; 32]),
            index_packs: vec![object.len() as u64],
            data_packs: u32::from(frames.is_some()),
            index: root,
            frames,
            stream,
            key_id: [0; 16],
        };
        Parts { layer, entries, digest }
    }

    /// Puts the data pack with this stream.
    fn put_data(&self, stream: &[u8], rows: &[u8]) -> PackFrames {
        let (sealer, mut zst) = (self.sealer(ObjectKind::DataPack, 1), zst());
        let frames = stream.chunks(FRAME).zip(0..).map(|(raw, number)| {
            let frame = sealer.seal(&mut zst, FrameKind::Data, number, raw).expect("a small frame");
            (u32::try_from(raw.len()).expect("a small frame"), frame)
        });
        let frames: Vec<_> = frames.collect();
        self.put_frames(&frames, rows)
    }

    /// Puts the data pack of these frames, with the raw lengths that the table is to tell, and these rows.
    pub(crate) fn put_frames(&self, frames: &[(u32, Vec<u8>)], rows: &[u8]) -> PackFrames {
        let sealer = self.sealer(ObjectKind::DataPack, 1);
        let mut pack = PackBuilder::new(&sealer, ATTEMPT, 0, 0);
        for (_, frame) in frames {
            pack.push(frame).expect("it is a frame");
        }
        let object = pack.finish(&sealer, &mut zst(), rows).expect("a small footer");
        if !frames.is_empty() {
            self.put(Layout::new().pack(&stanza(), &label(), ATTEMPT, 0, false), &object);
        }
        let lengths =
            frames.iter().map(|(raw, frame)| (*raw, u32::try_from(frame.len()).expect("a small frame")));
        let (pack_size, frames) = (object.len() as u64, lengths.collect());
        PackFrames { pack: 0, pack_size, lane: 0, offset: 96, first: 0, frames }
    }

    /// Puts the manifest.
    pub(crate) fn commit(&self, parts: Parts, change: impl FnOnce(&mut Summary, &mut Body)) {
        let (mut summary, mut body) = manifest(parts);
        change(&mut summary, &mut body);
        let (summary, body) =
            (summary.to_json().expect("it is small"), body.to_json().expect("it has a form"));
        self.commit_json(&summary, &body);
    }

    pub(crate) fn commit_json(&self, summary: &[u8], body: &[u8]) {
        let object = seal_manifest(&self.keys, LaneSeed::from_bytes([3; 32]), summary, body);
        self.put(Layout::new().manifest(&stanza(), &label()), &object.expect("it is small"));
        self.put_segment();
    }

    /// Runs a command with a bound on its memory.
    pub(crate) fn run(&self, args: &[&str]) -> Finished {
        let mut command = Command::new("sh");
        let program = runnable(Path::new(env!("CARGO_BIN_EXE_pgbr")));
        as_operator(&mut command)
            .args(["-c", "ulimit -v \"$0\" && exec \"$@\"", &SPACE.to_string()])
            .arg(program);
        let config = self.scratch.path().join("pgbr.conf");
        command.args(args).arg("--stanza=demo").arg(format!("--config={}", config.display()));
        own_all(self.scratch.path());
        command.env("MALLOC_ARENA_MAX", "2");
        run(&mut command, "", LIMIT)
    }
}

/// Gives everything to the operator, links aside.
fn own_all(path: &Path) {
    own(path);
    for entry in fs::read_dir(path).expect("it can be listed").flatten() {
        match entry.file_type().expect("it is there") {
            kind if kind.is_dir() => own_all(&entry.path()),
            kind if kind.is_file() => own(&entry.path()),
            _ => {}
        }
    }
}

pub(crate) fn stanza() -> StanzaName {
    "demo".parse().expect("a name")
}

pub(crate) fn label() -> BackupLabel {
    LABEL.parse().expect("a label")
}

/// What a run stored.
pub(crate) struct Parts {
    pub(crate) layer: Layer,
    pub(crate) entries: u64,
    pub(crate) digest: Digest,
}

/// An index pack in the making.
pub(crate) struct IndexPack {
    sealer: Sealer,
    pack: PackBuilder,
    numbers: HashMap<NodeKind, u64>,
}

impl IndexPack {
    /// Adds a node; its number is the next of its kind.
    pub(crate) fn node(&mut self, kind: NodeKind, raw: &[u8]) -> NodePlace {
        let number = self.numbers.entry(kind).or_default();
        *number += 1;
        let frame_kind = match kind {
            NodeKind::Leaf => FrameKind::IndexLeaf,
            NodeKind::Fence => FrameKind::IndexFence,
            NodeKind::FrameTable => FrameKind::FrameTable,
            NodeKind::TableFence => FrameKind::TableFence,
        };
        let number = *number - 1;
        let frame = self.sealer.seal(&mut zst(), frame_kind, number, raw).expect("a small node");
        let offset = self.pack.push(&frame).expect("it is a frame");
        NodePlace { number, pack: 0, offset, len: u32::try_from(frame.len()).expect("a small node") }
    }
}

impl NodeSink for IndexPack {
    type Error = Error;

    fn put(&mut self, kind: NodeKind, number: u64, raw: &[u8]) -> Result<NodePlace, Error> {
        let place = self.node(kind, raw);
        assert_eq!(place.number, number);
        Ok(place)
    }
}

/// The chain's key.
pub(crate) fn key() -> HashKey {
    HashKey::from_bytes([6; 32])
}

/// The rows of a pack that holds all that these records store: each file with its grains.
pub(crate) fn rows_of(records: &[Record]) -> Vec<u8> {
    let (mut rows, mut file) = (LeafWriter::default(), None);
    for record in records {
        match record {
            Record::File(_) => file = Some(record),
            Record::Grains { .. } => {
                file.take().into_iter().chain([record]).for_each(|record| rows.push(record));
            }
            _ => {}
        }
    }
    rows.take()
}

/// Entries of a cluster, in whatever order they were added.
pub(crate) struct Content(Vec<Entry>);

struct Entry {
    path: RelPath,
    records: Vec<Record>,
    /// What of it stands in the stream.
    bytes: Vec<u8>,
    told: Told,
}

/// An entry as the digest of the list has it.
enum Told {
    Directory,
    Link(Vec<u8>),
    File(u64, FileDigest),
}

impl Content {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    /// The least that a restore makes something of.
    pub(crate) fn cluster() -> Self {
        let mut content = Self::new();
        for directory in ["pg_data", "pg_data/global", "pg_data/pg_tblspc"] {
            content.directory(directory, 0o700);
        }
        content.file("pg_data/PG_VERSION", b"15\n");
        content.file(RelPath::PG_CONTROL, &[7; 8192]);
        content
    }

    pub(crate) fn with(mut self, add: impl FnOnce(&mut Self)) -> Self {
        add(&mut self);
        self
    }

    pub(crate) fn directory(&mut self, path: &str, mode: u32) {
        let record = Record::Directory { path: rel(path), meta: Meta { mode, ..Meta::default() } };
        self.add(path, vec![record], &[], Told::Directory);
    }

    pub(crate) fn link(&mut self, path: &str, target: &[u8]) {
        let record = Record::Link { path: rel(path), meta: Meta::default(), target: target.to_vec() };
        self.add(path, vec![record], &[], Told::Link(target.to_vec()));
    }

    pub(crate) fn file(&mut self, path: &str, bytes: &[u8]) {
        self.mode_file(path, bytes, 0o600);
    }

    pub(crate) fn mode_file(&mut self, path: &str, bytes: &[u8], mode: u32) {
        let hashes: Vec<u64> = bytes.chunks(GRAIN).map(|grain| key().grain(grain)).collect();
        let (size, digest) = (bytes.len() as u64, digest_of(bytes.len() as u64, hashes.iter().copied()));
        let records =
            vec![file_record(path, size, mode), Record::Grains { gap: 0, hashes }, end_record(size, digest)];
        self.add(path, records, bytes, Told::File(size, digest));
    }

    /// A file that has this size and no content.
    pub(crate) fn zeros(&mut self, path: &str, size: u64) {
        let count = size.div_ceil(GRAIN as u64);
        let digest = digest_of(size, (0..count).map(|_| ZERO_GRAIN));
        let records =
            vec![file_record(path, size, 0o600), Record::Zeros { gap: 0, count }, end_record(size, digest)];
        self.add(path, records, &[], Told::File(size, digest));
    }

    fn add(&mut self, path: &str, records: Vec<Record>, bytes: &[u8], told: Told) {
        self.0.push(Entry { path: rel(path), records, bytes: bytes.to_vec(), told });
    }

    /// The records in index order, the stream, and what the list comes to.
    pub(crate) fn made(mut self) -> (Vec<Record>, Vec<u8>, (u64, Digest)) {
        self.0.sort_by(|a, b| a.path.cmp(&b.path));
        let (mut records, mut stream, mut list) = (Vec::new(), Vec::new(), ListDigester::new(&key()));
        for entry in self.0 {
            let path = entry.path.as_bytes();
            match entry.told {
                Told::Directory => list.directory(path),
                Told::Link(target) => list.link(path, &target),
                Told::File(size, digest) => list.file(path, size, digest),
            }
            records.extend(entry.records);
            stream.extend(entry.bytes);
        }
        (records, stream, list.finish())
    }
}

pub(crate) fn digest_of(size: u64, hashes: impl Iterator<Item = u64>) -> FileDigest {
    let mut digester = FileDigester::new(&key(), size);
    hashes.for_each(|hash| digester.push(hash));
    digester.finish()
}

pub(crate) fn file_record(path: &str, size: u64, mode: u32) -> Record {
    let meta = Meta { mode, ..Meta::default() };
    let flags = FileFlags { whole: true, ..FileFlags::default() };
    Record::File(FileRecord { path: rel(path), meta, size, mtime_ns: 1, ctime_ns: 1, inode: 1, flags })
}

pub(crate) fn end_record(size: u64, digest: FileDigest) -> Record {
    Record::End(Fields { size, digest, bad_pages: Default::default() })
}

/// Both parts of the manifest.
pub(crate) fn manifest(parts: Parts) -> (Summary, Body) {
    let Parts { layer, entries, digest } = parts;
    let (id, segment) = (BackupId([8; 16]), SEGMENT.parse().expect("a segment"));
    let summary = Summary {
        format: MANIFEST_FORMAT,
        id,
        label: label(),
        kind: label().backup_type(),
        prior: None,
        program: "test".to_owned(),
        database: DatabaseRef { id: 1, system_id: SystemId::new(7), version: PgVersion::V15 },
        time: Span { start: 1_790_000_000, stop: 1_790_000_100 },
        server_time_us: Span { start: 1, stop: 2 },
        lsn: Span { start: Lsn::new(0x200_0028), stop: Lsn::new(0x200_0100) },
        wal: Span { start: segment, stop: segment },
        wal_inside: false,
        offline: false,
        sizes: Sizes::default(),
        entries,
        error: false,
        annotation: BTreeMap::new(),
    };
    let body = Body {
        format: MANIFEST_FORMAT,
        id,
        parent: None,
        hash_key: key(),
        copy_start_ns: 0,
        layers: vec![layer],
        resolved_entries: entries,
        resolved_digest: digest,
        cluster: ClusterFacts {
            catalog_version: 202_209_061,
            control_version: 1300,
            block_size: 8192,
            segment_pages: 131_072,
            wal_segment_size: WalSegmentSize::new(16 << 20).expect("a size"),
            data_checksums: false,
            timeline: TimelineId::new(1),
            data_directory: "/data".to_owned(),
        },
        tablespaces: Vec::new(),
        links: Vec::new(),
        databases: Vec::new(),
        backup_label: None,
        tablespace_map: None,
        config_files: Vec::new(),
        bad_pages: 0,
        options: BTreeMap::new(),
    };
    (summary, body)
}

/// What a command wrote.
pub(crate) fn told(finished: &Finished) -> String {
    format!("{}{}", finished.stdout, finished.stderr)
}

/// It ended by itself with a code for errors, and with one of these words.
#[track_caller]
pub(crate) fn assert_refused(what: &str, finished: &Finished, words: &str) {
    let said = told(finished);
    assert!(finished.code.is_some_and(|code| code > 1), "{what}: {finished:#?}");
    assert!(said.contains(words), "{what}: '{words}' is missing: {said}");
    assert_no_crash(what, finished);
}

/// Whatever it found, it ended by itself and did not crash.
#[track_caller]
pub(crate) fn assert_no_crash(what: &str, finished: &Finished) {
    let said = told(finished);
    let crashed = ["panicked", "internal error", "memory allocation"].iter().any(|word| said.contains(word));
    assert!(finished.code.is_some() && !crashed, "{what}: {finished:#?}");
}

/// Whether there is anything of a path, links that lead nowhere included.
pub(crate) fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
