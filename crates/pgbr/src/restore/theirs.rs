//! The files of a backup that pgBackRest made, written back: each file as a whole, on all cores.
//!
//! Where a cluster is mended, a file that has its checksum is kept, and of one that is stored as blocks only those are read that differ.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use pgbr_manifest::index::{FileFlags, FileRecord, Meta};
use pgbr_manifest::manifest::{Database, Link, Tablespace};
use pgbr_manifest::{BackupLabel, Lsn, Nesting, RelPath, WalSegmentName, WalSegmentSize};
use pgbr_pg::{CONTROL_FILE_BYTES, ControlFile};
use pgbr_pgbackrest::{
    Backup, BlockMap, Checksum, DbVersion, File, Manifest, ManifestDirectory, Owner, PageCheck, Place,
    SuperBlock,
};

use super::fetch::{Fetched, Written};
use super::layout::Layout;
use super::reach::Needed;
use super::target::Outside;
use super::write::{Making, OpenFiles, Target};
use crate::error::{Error, Result};
use crate::host::{Host, Stop};
use crate::observe::Event;
use crate::pool::{Pool, Urgency};
use crate::theirs::outside;

/// How much of a file is read at once.
const CHUNK: usize = 1 << 20;
/// Files that are out for each worker.
const FILES_A_THREAD: usize = 4;
/// Written anew or not at all: what the tablespaces' links lead to is decided by this restore.
const TABLESPACE_MAP: &str = "pg_data/tablespace_map";
/// Settings of a recovery of servers before version 12.
pub(super) const RECOVERY_CONF: &str = "recovery.conf";

/// A backup of pgBackRest that is to be restored.
pub(crate) struct TheirBackup {
    backup: Arc<Backup>,
    tablespaces: Vec<Tablespace>,
    links: Vec<Link>,
    pub(crate) databases: Vec<Database>,
    /// Bytes in a segment of its WAL, by its control file where we know its form.
    segment_size: WalSegmentSize,
}

impl TheirBackup {
    /// From its manifest. May wait.
    ///
    /// # Errors
    /// As its control file cannot be read.
    pub(crate) fn new(backup: Backup) -> Result<Self> {
        let manifest = backup.manifest();
        let (tablespaces, links) = outside(manifest);
        let databases = databases(manifest);
        let segment_size = segment_size(&backup)?;
        Ok(Self { backup: Arc::new(backup), tablespaces, links, databases, segment_size })
    }

    fn manifest(&self) -> &Manifest {
        self.backup.manifest()
    }

    pub(crate) fn label(&self) -> BackupLabel {
        self.manifest().label
    }

    /// It and those that hold files of it, newest first.
    pub(crate) fn chain(&self) -> Vec<BackupLabel> {
        let mut chain = self.manifest().references.clone();
        chain.reverse();
        chain
    }

    pub(crate) fn version(&self) -> DbVersion {
        self.manifest().cluster.version
    }

    pub(crate) fn system_id(&self) -> pgbr_manifest::SystemId {
        self.manifest().cluster.system_id
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.manifest().files.iter().map(|file| file.size).fold(0, u64::saturating_add)
    }

    /// The pages that had a wrong checksum when it was made; a file of torn pages counts as one.
    pub(crate) fn bad_pages(&self) -> u64 {
        let of = |file: &File| match &file.pages {
            Some(PageCheck::Bad(runs)) => {
                runs.iter().fold(0, |sum: u64, (first, last)| sum.saturating_add(last - first + 1))
            }
            Some(PageCheck::Torn) => 1,
            Some(PageCheck::Good) | None => 0,
        };
        self.manifest().files.iter().map(of).fold(0, u64::saturating_add)
    }

    /// The name of the directory that its tablespaces have for its version.
    pub(crate) fn tablespace_directory(&self) -> String {
        format!("PG_{}_{}", self.version(), self.manifest().cluster.catalog_version)
    }

    pub(crate) fn outside(&self) -> Outside<'_> {
        Outside { tablespaces: &self.tablespaces, links: &self.links }
    }

    /// Whether it has a directory or file of this path.
    pub(crate) fn has(&self, path: &RelPath) -> bool {
        let manifest = self.manifest();
        manifest.file(path).is_some() || manifest.directories.iter().any(|directory| directory.path == *path)
    }

    /// The WAL that it needs; none where the cluster was stopped.
    pub(crate) fn needed(&self) -> Option<Needed> {
        let wal = &self.manifest().wal;
        let (label, size): (_, WalSegmentSize) = (self.label(), self.segment_size);
        let (start, stop): (WalSegmentName, WalSegmentName) = (wal.start?, wal.stop?);
        let consistent: Lsn = wal.stop_lsn?;
        let inside = self.manifest().options.archive_copy;
        Some(Needed { label, start, stop, consistent, size, inside, begun: false })
    }

    /// Whether the WAL that it needs lies in its `pg_wal`.
    pub(crate) fn wal_inside(&self) -> bool {
        let options = &self.manifest().options;
        options.archive_copy || !options.online
    }

    /// When it began to need WAL, in Unix seconds; none of a cluster that was stopped.
    pub(crate) fn first_needed(&self) -> Option<i64> {
        let manifest = self.manifest();
        manifest.options.online.then_some(manifest.started)
    }

    /// The first segment that recovery needs of the archive.
    pub(crate) fn first_segment(&self) -> Option<WalSegmentName> {
        let brings_its_own = self.manifest().options.archive_copy;
        self.manifest().wal.start.filter(|_| !brings_its_own)
    }
}

/// Those that it lists; of a cluster that was stopped nobody knows the names, and its directories tell the OIDs.
fn databases(manifest: &Manifest) -> Vec<Database> {
    let mut databases: BTreeMap<u32, String> =
        manifest.databases.iter().map(|database| (database.oid, database.name.clone())).collect();
    for directory in &manifest.directories {
        let name = directory.path.strip("pg_data/base").and_then(|name| std::str::from_utf8(name).ok());
        if let Some(oid) = name.and_then(|name| name.parse().ok()) {
            databases.entry(oid).or_insert_with(|| oid.to_string());
        }
    }
    databases.into_iter().map(|(oid, name)| Database { oid, name, template: false }).collect()
}

fn segment_size(backup: &Backup) -> Result<WalSegmentSize> {
    let manifest = backup.manifest();
    let path = RelPath::new("pg_data/global/pg_control")?;
    let damaged = |reason: String| Error::Damaged { label: manifest.label, reason };
    let Some(file) = manifest.file(&path) else { return Err(damaged(format!("it has no '{path}'"))) };
    // The form of older ones is not known, and their segments had 16 MiB unless somebody had built the server otherwise.
    if manifest.cluster.version.supported().is_none() {
        return Ok(WalSegmentSize::DEFAULT);
    }
    let bytes = backup.open(file)?.into_bytes(CONTROL_FILE_BYTES)?;
    let control = ControlFile::parse(&bytes)?;
    if control.system_id != manifest.cluster.system_id {
        let (found, said) = (control.system_id, manifest.cluster.system_id);
        return Err(damaged(format!("its control file is of cluster {found}, its manifest of {said}")));
    }
    Ok(control.wal_segment_size)
}

/// A file that is to be written.
struct Job {
    file: usize,
    target: Arc<Target>,
}

/// What became of it.
struct Done {
    file: usize,
    made: Made,
}

/// What a file was made of.
#[derive(Default)]
struct Made {
    /// Bytes that were there.
    kept: u64,
    /// Stored bytes that were read, or would be, of which backups.
    fetched: BTreeMap<BackupLabel, u64>,
}

/// Writes all files of a backup into the directories that `layout` made or makes.
pub(crate) fn write_files(
    host: &Host,
    their: &TheirBackup,
    layout: &mut Layout,
    threads: usize,
    keeps_recovery_conf: bool,
) -> Result<Written> {
    let files = OpenFiles::new();
    let jobs = lay_out(host, their, layout, &files, keeps_recovery_conf)?;
    let fetched = their.chain().into_iter().map(|label| Fetched { label, frames: 0, bytes: 0 }).collect();
    let mut written = Written { fetched, ..Written::default() };
    let (total, making) = (their.bytes(), layout.making());
    let pool = start_workers(their, making, threads, &host.stop)?;
    let (mut out, limit) = (0, threads.max(1) * FILES_A_THREAD);
    let mut take = |pool: &Pool<Job, Result<Done>>| -> Result<()> {
        host.stop.check()?;
        let done = pool.next_result()??;
        let Some(file) = their.manifest().files.get(done.file) else {
            return Err(Error::Internal { what: "an unknown file" });
        };
        written.files += 1;
        written.bytes += file.size;
        written.kept += done.made.kept;
        for (label, bytes) in done.made.fetched {
            if let Some(fetched) = written.fetched.iter_mut().find(|fetched| fetched.label == label) {
                fetched.frames += 1;
                fetched.bytes = fetched.bytes.saturating_add(bytes);
            }
        }
        host.tell(Event::File { path: file.path.to_string(), size: file.size });
        host.tell(Event::Progress { done: written.bytes, total });
        Ok(())
    };
    for job in jobs {
        if out == limit {
            take(&pool)?;
            out -= 1;
        }
        pool.submit(Urgency::Begin, job);
        out += 1;
    }
    for _ in 0..out {
        take(&pool)?;
    }
    Ok(written)
}

/// An entry of the manifest.
enum Entry<'a> {
    Link(&'a pgbr_pgbackrest::Link),
    Directory(&'a ManifestDirectory),
    File(usize),
}

/// Makes directories and links, in order, and says which files are to be written: large ones first, then bundles from their beginning.
fn lay_out(
    host: &Host,
    their: &TheirBackup,
    layout: &mut Layout,
    open: &Arc<OpenFiles>,
    keeps_recovery_conf: bool,
) -> Result<Vec<Job>> {
    let manifest = their.manifest();
    let mut entries: Vec<(&RelPath, u8, Entry<'_>)> =
        Vec::with_capacity(manifest.links.len() + manifest.directories.len() + manifest.files.len());
    entries.extend(manifest.links.iter().map(|link| (&link.path, 0, Entry::Link(link))));
    entries.extend(manifest.directories.iter().map(|dir| (&dir.path, 1, Entry::Directory(dir))));
    entries.extend(manifest.files.iter().zip(0..).map(|(file, n)| (&file.path, 2, Entry::File(n))));
    entries.sort_unstable_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)));
    let mut nesting = Nesting::default();
    let mut jobs = Vec::with_capacity(manifest.files.len());
    for (path, _, entry) in entries {
        host.stop.check()?;
        let is_directory = matches!(entry, Entry::Directory(_));
        let damaged = |reason: String| Error::Damaged { label: manifest.label, reason };
        nesting.pass(path, is_directory).map_err(|error| damaged(error.to_string()))?;
        match entry {
            // Those of tablespaces are made at the end.
            Entry::Link(_) if is_tablespace_link(path) => {}
            Entry::Link(link) => layout.link(host, path, link.destination.as_bytes())?,
            Entry::Directory(dir) => layout.directory(path, &meta(dir.mode.bits(), &dir.user, &dir.group))?,
            Entry::File(_) if path.as_bytes() == TABLESPACE_MAP.as_bytes() => {}
            Entry::File(_) if !keeps_recovery_conf && is_recovery_conf(path) => {}
            Entry::File(number) => {
                let Some(file) = manifest.files.get(number) else { continue };
                let target = Arc::new(layout.file(&record(file), open)?);
                jobs.push(Job { file: number, target });
            }
        }
    }
    layout.finish_sweep()?;
    let place = |job: &Job| manifest.files.get(job.file).map(|file| order(manifest, file));
    jobs.sort_by_cached_key(place);
    Ok(jobs)
}

/// Large files take longest; of a bundle what lies together is read together.
fn order(manifest: &Manifest, file: &File) -> (Option<BackupLabel>, std::cmp::Reverse<u64>, u64, u64) {
    match file.place {
        Place::Own => (None, std::cmp::Reverse(file.size), 0, 0),
        Place::Bundle { id, offset } => (Some(manifest.owner(file)), std::cmp::Reverse(0), id, offset),
    }
}

fn is_tablespace_link(path: &RelPath) -> bool {
    path.strip("pg_data/pg_tblspc").is_some_and(|oid| !oid.is_empty())
}

fn is_recovery_conf(path: &RelPath) -> bool {
    path.strip("pg_data") == Some(RECOVERY_CONF.as_bytes())
}

fn meta(mode: u32, user: &Owner, group: &Owner) -> Meta {
    let name = |owner: &Owner| owner.name().unwrap_or_default().to_owned();
    Meta { mode, user: name(user), group: name(group) }
}

fn record(file: &File) -> FileRecord {
    FileRecord {
        path: file.path.clone(),
        meta: meta(file.mode.bits(), &file.user, &file.group),
        size: file.size,
        mtime_ns: file.modified.saturating_mul(1_000_000_000),
        ctime_ns: 0,
        inode: 0,
        flags: FileFlags::default(),
    }
}

fn start_workers(
    their: &TheirBackup,
    making: Making,
    threads: usize,
    stop: &Stop,
) -> Result<Pool<Job, Result<Done>>> {
    let make = || {
        let (backup, stop, mut buffer) = (Arc::clone(&their.backup), stop.clone(), vec![0; CHUNK]);
        move |job: Job| restore_file(&backup, &job, making, &stop, &mut buffer)
    };
    Pool::start(threads, make).map_err(Error::io("start a thread for", "workers"))
}

fn restore_file(backup: &Backup, job: &Job, making: Making, stop: &Stop, buffer: &mut [u8]) -> Result<Done> {
    let Job { file: number, target } = job;
    let Some(file) = backup.manifest().files.get(*number) else {
        return Err(Error::Internal { what: "an unknown file" });
    };
    let mut made = Made::default();
    if target.wants_content() {
        let mut worker = Worker { backup, file, target, making, stop, buffer };
        made = match target.existing()? {
            Some(found) if worker.is_right(&found) => Made { kept: file.size, ..Made::default() },
            found => worker.make(found.as_deref())?,
        };
    }
    target.end(file.size);
    target.finish()?;
    Ok(Done { file: *number, made })
}

/// One file that has to be made or mended.
struct Worker<'a> {
    backup: &'a Backup,
    file: &'a File,
    target: &'a Target,
    making: Making,
    stop: &'a Stop,
    buffer: &'a mut [u8],
}

impl Worker<'_> {
    /// Whether what is there is what is to be there. What cannot be read is not.
    fn is_right(&mut self, found: &std::fs::File) -> bool {
        if !found.metadata().is_ok_and(|about| about.len() == self.file.size) {
            return false;
        }
        let from_start = Stretch { file: found, at: 0, left: self.file.size, stop: self.stop };
        Checksum::of(from_start, self.buffer).is_ok_and(|checksum| checksum == self.file.checksum)
    }

    /// Makes it of the backup, and of what is `found` where it is stored as blocks.
    fn make(&mut self, found: Option<&std::fs::File>) -> Result<Made> {
        let map = self.backup.block_map(self.file)?;
        if let Some(map) = map.as_ref().filter(|_| found.is_some() || self.is_dry()) {
            let made = self.make_of_blocks(found, map)?;
            // A block that has the beginning of a checksum can still be another one.
            if self.is_dry() || found.is_some_and(|found| self.is_right_after(found)) {
                return Ok(made);
            }
        }
        let fetched = if self.file.size > 0 { self.fetch_of_file(map.as_ref())? } else { BTreeMap::new() };
        let kept = if self.is_dry() { 0 } else { self.copy()? };
        Ok(Made { kept, fetched })
    }

    const fn is_dry(&self) -> bool {
        matches!(self.making, Making::Dry)
    }

    fn is_right_after(&mut self, found: &std::fs::File) -> bool {
        found.set_len(self.file.size).is_ok() && self.is_right(found)
    }

    /// Counts what is read of a file that is made anew.
    fn fetch_of_file(&self, map: Option<&BlockMap>) -> Result<BTreeMap<BackupLabel, u64>> {
        let mut fetched = BTreeMap::new();
        let Some(map) = map else {
            fetched.insert(self.backup.manifest().owner(self.file), self.file.stored_size);
            return Ok(fetched);
        };
        let distinct: BTreeSet<SuperBlock> = map.runs().iter().map(|run| run.super_block).collect();
        distinct.iter().try_for_each(|block| self.count(&mut fetched, block))?;
        Ok(fetched)
    }

    fn count(&self, fetched: &mut BTreeMap<BackupLabel, u64>, block: &SuperBlock) -> Result<()> {
        let manifest = self.backup.manifest();
        let reason = || "a block map names a backup that its manifest does not".to_owned();
        let label = manifest.references.get(block.reference).copied();
        let label = label.ok_or_else(|| Error::Damaged { label: manifest.label, reason: reason() })?;
        let bytes = fetched.entry(label).or_default();
        *bytes = bytes.saturating_add(block.stored_size);
        Ok(())
    }

    /// Writes the blocks that are not there.
    fn make_of_blocks(&mut self, found: Option<&std::fs::File>, map: &BlockMap) -> Result<Made> {
        let (mut made, size) = (Made::default(), map.shape().block_size);
        let mut wanted: BTreeMap<SuperBlock, Vec<(u64, u64)>> = BTreeMap::new();
        let mut there = Vec::new();
        for block in map.blocks() {
            self.stop.check()?;
            let length = map.block_length(block.number);
            there.resize(usize::try_from(length).unwrap_or(0), 0);
            let is_there = found.is_some_and(|found| {
                let read = std::os::unix::fs::FileExt::read_exact_at(found, &mut there, block.number * size);
                read.is_ok() && map.fits(block.number, &there)
            });
            match is_there {
                true => made.kept += length,
                false => {
                    wanted.entry(block.super_block).or_default().push((block.number, block.in_super_block));
                }
            }
        }
        for (super_block, blocks) in wanted {
            self.stop.check()?;
            self.count(&mut made.fetched, &super_block)?;
            if self.is_dry() {
                continue;
            }
            let content = self.backup.super_block(self.file, &super_block)?;
            for (number, in_super_block) in blocks {
                let (start, length) = (in_super_block.saturating_mul(size), map.block_length(number));
                let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(content.len());
                let bytes =
                    content.get(place(start)..place(start.saturating_add(length))).unwrap_or_default();
                if !map.fits(number, bytes) {
                    let (path, label) = (&self.file.path, self.backup.manifest().label);
                    let reason = format!("block {number} of '{path}' is another than its block map says");
                    return Err(Error::Damaged { label, reason });
                }
                self.target.write_content(number * size, bytes)?;
            }
        }
        Ok(made)
    }

    /// Writes all of it; gives how many bytes were there.
    fn copy(&mut self) -> Result<u64> {
        let mut content = self.backup.open(self.file)?;
        let (mut at, mut kept) = (0, 0);
        loop {
            self.stop.check()?;
            let amount = content.next(self.buffer)?;
            let Some(bytes) = self.buffer.get(..amount).filter(|bytes| !bytes.is_empty()) else {
                return Ok(kept);
            };
            if !self.target.write_content(at, bytes)? {
                kept += amount as u64;
            }
            at += amount as u64;
        }
    }
}

/// A file from its beginning, whatever others do with its position.
struct Stretch<'a> {
    file: &'a std::fs::File,
    at: u64,
    left: u64,
    stop: &'a Stop,
}

impl io::Read for Stretch<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.stop.check().is_err() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(into.len());
        let amount = std::os::unix::fs::FileExt::read_at(self.file, &mut into[..most], self.at)?;
        self.at += amount as u64;
        self.left -= amount as u64;
        Ok(amount)
    }
}
