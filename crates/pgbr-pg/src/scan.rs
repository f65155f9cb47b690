//! What a data directory holds, as a stream in the order of the index.
//!
//! Only the listings of the directories between the root and the current place are in memory. A live cluster changes meanwhile: what
//! vanishes is passed over, what comes later is left to the WAL.

use std::collections::{HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use pgbr_manifest::{PgVersion, RelPath};

use crate::error::{Error, Result};
use crate::exclude::{DirectoryRule, Exclusions};
use crate::owner::Owners;
use crate::reader::{nanoseconds, read_bounded};
use crate::relation::{Fork, RelationFile, holds_relations, is_oid};

mod links;

use links::Places;

/// Longer than the one line of `PG_VERSION`.
const MAX_VERSION_BYTES: usize = 64;
/// Files besides the control file without which there is no cluster.
const INDISPENSABLE: [&str; 3] = ["PG_VERSION", "global/pg_filenode.map", "global/pg_control"];

/// What to scan, and what not.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_structs, reason = "it is filled in by callers, field by field")]
pub struct ScanOptions {
    /// The data directory.
    pub pg_data: PathBuf,
    /// Its major version, which names the directories in tablespaces.
    pub version: PgVersion,
    /// What the operator does not want; see [`Exclusions::new`].
    pub exclude: Vec<String>,
    /// Configuration files outside of the data directory; see [`crate::external_config_files`].
    pub external_config: Vec<PathBuf>,
    /// Whether no server runs: what lies in `pg_wal` is wanted then, and unlogged relations, which nobody resets at the next start.
    pub stopped: bool,
    /// The data directory of a standby, to read what replication keeps the same from there; see [`is_replicated`].
    pub standby: Option<PathBuf>,
}

/// Mode and owner.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the index has these fields")]
pub struct FileMeta {
    /// The permission bits.
    pub mode: u32,
    /// The user's name; empty when the number has none.
    pub user: String,
    /// The group's name; empty when the number has none.
    pub group: String,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "callers decide for each")]
pub enum EntryKind {
    /// A regular file.
    File {
        /// Bytes.
        size: u64,
        /// Last change of content, in nanoseconds since 1970.
        mtime_ns: i64,
        /// Last change of anything, in nanoseconds since 1970.
        ctime_ns: i64,
        /// The inode.
        inode: u64,
        /// Which file of which relation it is, if it is one.
        relation: Option<RelationFile>,
        /// Whether its pages have checksums, in a cluster where pages do.
        page_checksums: bool,
    },
    /// A directory.
    Directory,
    /// A symbolic link, but for those of tablespaces. The next entry has the same path and is the file or directory that it leads to.
    Link {
        /// Where it leads, as it says.
        target: Vec<u8>,
    },
}

/// One file, directory or link.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the index has these fields")]
pub struct ScanEntry {
    /// Its place in the backup.
    pub path: RelPath,
    /// Where it lies now.
    pub source: PathBuf,
    /// Mode and owner; of a link, those of the link itself.
    pub meta: FileMeta,
    /// What it is.
    pub kind: EntryKind,
}

/// A tablespace that is linked from `pg_tblspc`. Its files have paths `pg_tblspc/<oid>/…`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TablespaceLink {
    /// Its OID.
    pub oid: u32,
    /// Where the link leads, as it says.
    pub target: PathBuf,
}

/// Something that is neither file, directory nor link, and is not copied.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Skipped {
    /// Where it lies.
    pub path: PathBuf,
    /// What it is, as `socket`.
    pub kind: &'static str,
}

/// The stream of entries; see [`Scan::open`].
#[derive(Debug)]
pub struct Scan {
    pg_data: PathBuf,
    standby: Option<PathBuf>,
    rules: Exclusions,
    places: Places,
    owners: Owners,
    tablespaces: Vec<TablespaceLink>,
    skipped: Vec<Skipped>,
    stopped: bool,
    roots: VecDeque<Root>,
    stack: Vec<Level>,
    /// Found with the last entry and due next.
    due: Option<ScanEntry>,
}

/// Where the walk goes next.
#[derive(Debug)]
enum Root {
    Config(RelPath, PathBuf),
    Directory {
        path: RelPath,
        source: PathBuf,
        only: Option<OsString>,
    },
    Control,
    /// A WAL segment, met on the way and due behind the control file.
    Segment(RelPath, PathBuf),
}

/// A directory that the walk is in.
#[derive(Debug)]
struct Level {
    path: RelPath,
    source: PathBuf,
    names: std::vec::IntoIter<OsString>,
    /// Whether files here are relations.
    relations: bool,
    /// Relations with an init fork: nothing else of them is copied.
    unlogged: HashSet<u32>,
}

impl Scan {
    /// Begins a scan. Entries come in the order of [`RelPath`]: `config/…`, `pg_data` and what is in it, each linked tablespace
    /// `pg_tblspc/<oid>` with its directory of this version and catalog; the control file; the segments in `pg_wal`, where these are wanted.
    /// Only a link and what it leads to have the same path.
    ///
    /// # Errors
    /// When `pg_data` is no data directory of this version, when a tablespace's link leads nowhere.
    pub fn open(options: ScanOptions) -> Result<Self> {
        let pg_data = options.pg_data.canonicalize().map_err(Error::io("find", &options.pg_data))?;
        check_version(&pg_data, options.version)?;
        let tablespaces = linked_tablespaces(&pg_data)?;
        let mut places = Places::new(pg_data.clone());
        let mut roots: Vec<(RelPath, Root)> = Vec::new();
        for file in options.external_config {
            let path = config_path(&file)?;
            roots.push((path.clone(), Root::Config(path, file)));
        }
        let top = RelPath::new("pg_data")?;
        roots.push((top.clone(), Root::Directory { path: top, source: pg_data.clone(), only: None }));
        for tablespace in &tablespaces {
            let path = RelPath::new(format!("pg_tblspc/{}", tablespace.oid))?;
            let Some(source) = places.add_tablespace(&pg_data, tablespace)? else { continue };
            let only = Some(options.version.tablespace_directory().into());
            roots.push((path.clone(), Root::Directory { path, source, only }));
        }
        roots.sort_by(|(a, _), (b, _)| a.cmp(b));
        roots.dedup_by(|(a, _), (b, _)| a == b);
        let mut roots: VecDeque<Root> = roots.into_iter().map(|(_, root)| root).collect();
        roots.push_back(Root::Control);
        let standby = options.standby.map(|dir| dir.canonicalize().map_err(Error::io("find", &dir)));
        Ok(Self {
            pg_data,
            standby: standby.transpose()?,
            rules: Exclusions::new(&options.exclude, options.stopped),
            places,
            owners: Owners::default(),
            tablespaces,
            skipped: Vec::new(),
            stopped: options.stopped,
            roots,
            stack: Vec::new(),
            due: None,
        })
    }

    /// The linked tablespaces, by OID as a number. Those created later come by the WAL.
    pub fn tablespaces(&self) -> &[TablespaceLink] {
        &self.tablespaces
    }

    /// What was passed over so far because it is neither file, directory nor link.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// The next entry, `None` at the end.
    fn advance(&mut self) -> Result<Option<ScanEntry>> {
        loop {
            if let Some(entry) = self.due.take() {
                return Ok(Some(entry));
            }
            let found = match self.stack.last_mut() {
                None => match self.roots.pop_front() {
                    None => return Ok(None),
                    Some(root) => self.root(root)?,
                },
                Some(level) => match level.names.next() {
                    None => {
                        self.stack.pop();
                        None
                    }
                    Some(name) => {
                        let path = level.path.join(name.as_bytes())?;
                        let source = level.source.join(&name);
                        match path.is_wal_segment() {
                            true => {
                                self.roots.push_back(Root::Segment(path, source));
                                None
                            }
                            false => self.visit(path, source)?,
                        }
                    }
                },
            };
            if found.is_some() {
                return Ok(found);
            }
        }
    }

    fn root(&mut self, root: Root) -> Result<Option<ScanEntry>> {
        match root {
            // Outside of the data directory a link is as good as the file; who opens it follows none.
            Root::Config(path, source) => {
                let Some(source) = existing(source.canonicalize(), &source)? else { return Ok(None) };
                match existing(std::fs::metadata(&source), &source)? {
                    Some(meta) if meta.is_file() => Ok(Some(self.file(path, source, &meta))),
                    Some(_) => Err(Error::NotA { path: source, expected: "regular file" }),
                    None => Ok(None),
                }
            }
            Root::Directory { path, source, only } => {
                let Some(meta) = existing(std::fs::metadata(&source), &source)? else {
                    // A tablespace may be dropped and its place removed; the data directory may not.
                    return if only.is_some() { Ok(None) } else { Err(Error::Missing { path: source }) };
                };
                if !self.enter(path.clone(), &source)? {
                    return Ok(None);
                }
                if let (Some(only), Some(level)) = (only, self.stack.last_mut()) {
                    let names: Vec<OsString> = level.names.by_ref().filter(|name| *name == only).collect();
                    // Nobody drops it meanwhile: what it is mounted on is not what was meant.
                    if self.stopped && names.is_empty() {
                        return Err(Error::Missing { path: source.join(only) });
                    }
                    level.names = names.into_iter();
                }
                Ok(Some(self.directory(path, source, &meta)))
            }
            Root::Control => {
                for name in INDISPENSABLE {
                    let path = self.pg_data.join(name);
                    existing(std::fs::symlink_metadata(&path), &path)?.ok_or(Error::Missing { path })?;
                }
                let source = self.pg_data.join("global/pg_control");
                let meta = std::fs::metadata(&source).map_err(Error::io("examine", &source))?;
                Ok(Some(self.file(RelPath::new(RelPath::PG_CONTROL)?, source, &meta)))
            }
            Root::Segment(path, source) => self.segment(path, source),
        }
    }

    /// A file with the name of a WAL segment, if it is one that is wanted.
    fn segment(&mut self, path: RelPath, source: PathBuf) -> Result<Option<ScanEntry>> {
        if self.rules.skips_file(&path) {
            return Ok(None);
        }
        let is_directory = existing(std::fs::metadata(&source), &source)?.is_some_and(|meta| meta.is_dir());
        if is_directory { Ok(None) } else { self.visit(path, source) }
    }

    /// What there is to say about a name in a directory.
    fn visit(&mut self, path: RelPath, source: PathBuf) -> Result<Option<ScanEntry>> {
        if path.is_pg_control() {
            return Ok(None);
        }
        let Some(meta) = existing(std::fs::symlink_metadata(&source), &source)? else { return Ok(None) };
        if !meta.is_symlink() {
            return self.visit_plain(path, source, &meta);
        }
        if path.strip("pg_data/pg_tblspc").is_some_and(is_oid) {
            return Ok(None);
        }
        // Whether rules for files or for directories hold depends on what is behind it; a link that is left out leads anywhere.
        if self.rules.directory(&path) == DirectoryRule::Skip || self.rules.skips_file(&path) {
            return Ok(None);
        }
        let Some((target, place)) = self.places.follow(&source)? else { return Ok(None) };
        let Some(behind) = existing(std::fs::symlink_metadata(&place), &place)? else { return Ok(None) };
        let link = ScanEntry {
            path: path.clone(),
            source,
            meta: self.meta(&meta),
            kind: EntryKind::Link { target },
        };
        let entry = self.visit_plain(path, place, &behind)?;
        Ok(entry.map(|entry| {
            self.due = Some(entry);
            link
        }))
    }

    /// The same for what is no link.
    fn visit_plain(&mut self, path: RelPath, source: PathBuf, meta: &Metadata) -> Result<Option<ScanEntry>> {
        let kind = meta.file_type();
        if kind.is_dir() {
            let rule = self.rules.directory(&path);
            if rule == DirectoryRule::Skip {
                return Ok(None);
            }
            // A tablespace inside the data directory is copied as a tablespace.
            if rule == DirectoryRule::Keep
                && !self.places.is_tablespace(meta)
                && !self.enter(path.clone(), &source)?
            {
                return Ok(None);
            }
            return Ok(Some(self.directory(path, source, meta)));
        }
        if self.rules.skips_file(&path) || self.is_unlogged(&path) {
            return Ok(None);
        }
        if kind.is_file() {
            return self.plain_file(path, source, meta);
        }
        let kind = match () {
            () if kind.is_fifo() => "named pipe",
            () if kind.is_socket() => "socket",
            () => "device",
        };
        self.skipped.push(Skipped { path: source, kind });
        Ok(None)
    }

    /// A file of this data directory, or the standby's file of the same path. One that the standby does not have came after the backup began: the
    /// WAL brings it.
    fn plain_file(&mut self, path: RelPath, source: PathBuf, meta: &Metadata) -> Result<Option<ScanEntry>> {
        let Some(place) = self.standby.as_ref().and_then(|standby| replica_of(standby, &path)) else {
            return Ok(Some(self.file(path, source, meta)));
        };
        let Some(found) = existing(std::fs::metadata(&place), &place)?.filter(Metadata::is_file) else {
            return Ok(None);
        };
        let entry = self.file(path, place, &found);
        Ok(Some(ScanEntry { meta: self.meta(meta), ..entry }))
    }

    /// Goes into a directory; `false` if it has vanished.
    fn enter(&mut self, path: RelPath, source: &Path) -> Result<bool> {
        let Some(listing) = existing(std::fs::read_dir(source), source)? else { return Ok(false) };
        let mut names = Vec::new();
        for entry in listing {
            // A directory that is removed while it is listed ends early or fails; either way there is nothing left.
            match existing(entry, source)? {
                Some(entry) => names.push(entry.file_name()),
                None => break,
            }
        }
        names.sort_unstable();
        let relations = holds_relations(&path);
        let unlogged = if relations && !self.stopped { unlogged_relations(&names) } else { HashSet::new() };
        self.stack.push(Level {
            path,
            source: source.to_owned(),
            names: names.into_iter(),
            relations,
            unlogged,
        });
        Ok(true)
    }

    /// Whether a file in the current directory is of an unlogged relation and not its init fork.
    fn is_unlogged(&self, path: &RelPath) -> bool {
        let Some(level) = self.stack.last() else { return false };
        RelationFile::parse(path.file_name())
            .is_some_and(|file| file.fork != Fork::Init && level.unlogged.contains(&file.relnum))
    }

    fn file(&mut self, path: RelPath, source: PathBuf, meta: &Metadata) -> ScanEntry {
        let here = self.stack.last().is_some_and(|level| level.relations);
        let relation = if here { RelationFile::parse(path.file_name()) } else { None };
        let kind = EntryKind::File {
            size: meta.size(),
            mtime_ns: nanoseconds(meta.mtime(), meta.mtime_nsec()),
            ctime_ns: nanoseconds(meta.ctime(), meta.ctime_nsec()),
            inode: meta.ino(),
            relation,
            page_checksums: relation.is_some(),
        };
        ScanEntry { path, source, meta: self.meta(meta), kind }
    }

    fn directory(&mut self, path: RelPath, source: PathBuf, meta: &Metadata) -> ScanEntry {
        ScanEntry { path, source, meta: self.meta(meta), kind: EntryKind::Directory }
    }

    fn meta(&mut self, meta: &Metadata) -> FileMeta {
        let (user, group) = (self.owners.user(meta.uid()), self.owners.group(meta.gid()));
        FileMeta { mode: meta.mode() & 0o7777, user, group }
    }
}

impl Iterator for Scan {
    type Item = Result<ScanEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}

/// Whether replication keeps this file the same on a standby, so that a backup may read it there: relations, the transaction and multixact logs.
/// The control file, settings and whatever else a server keeps for itself are its own.
pub fn is_replicated(path: &RelPath) -> bool {
    const REPLICATED: [&str; 6] = [
        "pg_data/base",
        "pg_data/global",
        "pg_data/pg_multixact",
        "pg_data/pg_tblspc",
        "pg_data/pg_xact",
        "pg_tblspc",
    ];
    !path.is_pg_control() && REPLICATED.iter().any(|directory| path.strip(directory).is_some())
}

/// Where a standby has a file that replication keeps the same.
fn replica_of(standby: &Path, path: &RelPath) -> Option<PathBuf> {
    if !is_replicated(path) {
        return None;
    }
    let inside = path.strip("pg_data").unwrap_or_else(|| path.as_bytes());
    Some(standby.join(OsStr::from_bytes(inside)))
}

/// The version that a data directory is of, as its file `PG_VERSION` says.
///
/// # Errors
/// When it cannot be read or the version is not supported.
pub fn read_pg_version(pg_data: impl AsRef<Path>) -> Result<PgVersion> {
    let path = pg_data.as_ref().join("PG_VERSION");
    let text = match read_bounded(&path, MAX_VERSION_BYTES) {
        Err(error) if error.is_not_found() => return Err(Error::Missing { path }),
        other => String::from_utf8_lossy(&other?).trim().to_owned(),
    };
    text.parse().map_err(|_| Error::UnsupportedVersion { found: text })
}

fn check_version(pg_data: &Path, expected: PgVersion) -> Result<()> {
    let found = read_pg_version(pg_data)?;
    if found == expected {
        return Ok(());
    }
    Err(Error::OtherVersion { path: pg_data.join("PG_VERSION"), found: found.to_string(), expected })
}

/// The links in `pg_tblspc`. In place there are directories, which are walked as any other.
fn linked_tablespaces(pg_data: &Path) -> Result<Vec<TablespaceLink>> {
    let directory = pg_data.join("pg_tblspc");
    let mut found = Vec::new();
    let Some(listing) = existing(std::fs::read_dir(&directory), &directory)? else { return Ok(found) };
    for entry in listing {
        let entry = entry.map_err(Error::io("list", &directory))?;
        let name = entry.file_name();
        let Some(oid) =
            name.to_str().filter(|name| is_oid(name.as_bytes())).and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let Some(meta) = existing(std::fs::symlink_metadata(entry.path()), &entry.path())? else { continue };
        if meta.is_symlink()
            && let Some(target) = existing(std::fs::read_link(entry.path()), &entry.path())?
        {
            found.push(TablespaceLink { oid, target });
        }
    }
    found.sort_by_key(|tablespace| tablespace.oid);
    Ok(found)
}

/// `config/<absolute path>`.
fn config_path(file: &Path) -> Result<RelPath> {
    let name = |file: &Path| {
        let bytes = file.to_owned().into_os_string().into_vec();
        let absolute = bytes.strip_prefix(b"/")?;
        RelPath::new([b"config/", absolute].concat()).ok()
    };
    // Dots and double slashes are rare here; the canonical path has none.
    if let Some(path) = name(file) {
        return Ok(path);
    }
    let canonical = file.canonicalize().map_err(Error::io("find", file))?;
    name(&canonical).ok_or_else(|| Error::NotA { path: canonical, expected: "path that can be stored" })
}

fn unlogged_relations(names: &[OsString]) -> HashSet<u32> {
    let files = names.iter().filter_map(|name| RelationFile::parse(name.as_bytes()));
    files.filter(|file| file.fork == Fork::Init).map(|file| file.relnum).collect()
}

/// `None` where a thing has vanished.
fn existing<T>(found: io::Result<T>, path: &Path) -> Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(Error::io("examine", path)(error)),
    }
}

#[cfg(test)]
mod tests;
