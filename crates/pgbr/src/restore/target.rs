//! Where a restore puts things: the directories it was given, checked before anything is touched, emptied, and filled.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use pgbr_manifest::RelPath;
use pgbr_manifest::index::{FileRecord, Meta};
use pgbr_manifest::manifest::{Body, Tablespace};
use pgbr_pg::{OwnerIds, ServerState, server_state};
use rustix::fs::{Gid, Uid};

use super::write::{OpenFiles, Target};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::observe::Event;

/// Says that a restore has begun and has not ended; the server does not start on such a directory, for it has no control file.
pub(crate) const MARKER: &str = "pgbr.restore";
/// More than the paths of many tablespaces.
const MAX_MARKER_BYTES: u64 = 1 << 20;
/// The name under which the control file waits until everything else is safe.
const CONTROL_WAITING: &str = "global/pg_control.pgbr";
const CONTROL: &str = "global/pg_control";

/// Where the operator wants things.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// The data directory.
    pub pg_data: PathBuf,
    /// New locations of tablespaces, by name or OID.
    pub tablespace_map: Vec<(String, PathBuf)>,
    /// A directory in which tablespaces that are not mapped get one each, by their name.
    pub tablespace_map_all: Option<PathBuf>,
    /// New destinations of links, by their path in the data directory.
    pub link_map: Vec<(String, PathBuf)>,
    /// Whether links that are not mapped are made again as they were. Without it what they led to takes their place.
    pub link_all: bool,
    /// Where config files go that lay outside of the data directory; without it they are named and not written.
    pub config: Option<PathBuf>,
    /// Whether directories that hold a cluster, or an unfinished restore, may be emptied.
    pub replace: bool,
}

/// What goes where, decided: nothing was touched yet.
#[derive(Debug)]
pub(crate) struct Plan {
    pg_data: PathBuf,
    tablespaces: Vec<(Tablespace, PathBuf)>,
    links: BTreeMap<Vec<u8>, PathBuf>,
    config: Option<PathBuf>,
    version_directory: String,
    replace: bool,
}

/// Decides what goes where.
pub(crate) fn plan_places(places: &Places, body: &Body, version_directory: String) -> Result<Plan> {
    let pg_data = places.pg_data.clone();
    let tablespaces = plan_tablespaces(places, body)?;
    let links = plan_links(places, body)?;
    let mut taken = vec![(real(&pg_data), "the data directory".to_owned())];
    let mut take = |what: String, path: &Path| {
        let place = real(path);
        let other = taken.iter().find(|(other, _)| place.starts_with(other) || other.starts_with(&place));
        if let Some((_, other)) = other {
            let reason = format!("its place '{}' overlaps with {other}", path.display());
            return Err(Error::Map { what, reason });
        }
        taken.push((place, what));
        Ok(())
    };
    for (tablespace, location) in &tablespaces {
        take(format!("tablespace '{}'", name_of(tablespace)), location)?;
    }
    for (name, destination) in &links {
        take(format!("link '{}'", String::from_utf8_lossy(name)), destination)?;
    }
    Ok(Plan {
        pg_data,
        tablespaces,
        links,
        config: places.config.clone(),
        version_directory,
        replace: places.replace,
    })
}

fn name_of(tablespace: &Tablespace) -> String {
    if tablespace.name.is_empty() { tablespace.oid.to_string() } else { tablespace.name.clone() }
}

fn plan_tablespaces(places: &Places, body: &Body) -> Result<Vec<(Tablespace, PathBuf)>> {
    let is = |t: &Tablespace, key: &str| t.name == key || t.oid.to_string() == key;
    for (key, _) in &places.tablespace_map {
        if !body.tablespaces.iter().any(|t| is(t, key)) {
            let reason = "the backup has no such tablespace".to_owned();
            return Err(Error::Map { what: format!("tablespace '{key}'"), reason });
        }
    }
    let place = |t: &Tablespace| {
        let mapped = places.tablespace_map.iter().find(|(key, _)| is(t, key)).map(|(_, path)| path.clone());
        let all = || places.tablespace_map_all.as_ref().map(|dir| dir.join(name_of(t)));
        mapped.or_else(all).unwrap_or_else(|| PathBuf::from(&t.location))
    };
    let planned = body.tablespaces.iter().map(|t| (t.clone(), place(t)));
    planned
        .map(|(t, path)| absolute(&format!("tablespace '{}'", name_of(&t)), &path).map(|path| (t, path)))
        .collect()
}

fn plan_links(places: &Places, body: &Body) -> Result<BTreeMap<Vec<u8>, PathBuf>> {
    for (name, _) in &places.link_map {
        if !body.links.iter().any(|link| link.name == *name) {
            return Err(Error::Map {
                what: format!("link '{name}'"),
                reason: "the backup has no such link".to_owned(),
            });
        }
    }
    let mut planned = BTreeMap::new();
    for link in &body.links {
        let mapped =
            places.link_map.iter().find(|(name, _)| *name == link.name).map(|(_, path)| path.clone());
        let all = || {
            let parent = places.pg_data.join(&link.name);
            places.link_all.then(|| parent.parent().unwrap_or(&parent).join(&link.destination))
        };
        if let Some(path) = mapped.or_else(all) {
            planned
                .insert(link.name.clone().into_bytes(), absolute(&format!("link '{}'", link.name), &path)?);
        }
    }
    Ok(planned)
}

/// Paths from a backup or an operator are made plain, so that comparing them means something.
fn absolute(what: &str, path: &Path) -> Result<PathBuf> {
    if !path.is_absolute() {
        return Err(Error::Map {
            what: what.to_owned(),
            reason: format!("'{}' is not an absolute path", path.display()),
        });
    }
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    Ok(plain)
}

impl Plan {
    /// Looks at everything that will be written to, and touches nothing.
    pub(crate) fn check(&self) -> Result<()> {
        if !self.pg_data.is_dir() {
            return Err(Error::MissingPath { path: self.pg_data.clone() });
        }
        if server_state(&self.pg_data)? != ServerState::Stopped {
            return Err(Error::Running { path: self.pg_data.join("postmaster.pid") });
        }
        if !is_empty(&self.pg_data)? {
            if !self.replace {
                return Err(Error::NotEmpty { path: self.pg_data.clone() });
            }
            if !["PG_VERSION", MARKER, CONTROL].iter().any(|name| self.pg_data.join(name).exists()) {
                return Err(Error::NotACluster { path: self.pg_data.clone() });
            }
        }
        let own_places = self.own_places()?;
        let check = |place: &Path, path: &Path| match () {
            () if !self.replace => Err(Error::NotEmpty { path: path.to_owned() }),
            () if own_places.contains(&real(place)) => Ok(()),
            () => Err(Error::OtherData { path: path.to_owned(), pg_data: self.pg_data.clone() }),
        };
        for (_, location) in &self.tablespaces {
            let own = location.join(&self.version_directory);
            if own.is_dir() && !is_empty(&own)? {
                check(location, &own)?;
            }
        }
        for destination in self.links.values() {
            if destination.is_file() || (destination.is_dir() && !is_empty(destination)?) {
                check(destination, destination)?;
            }
        }
        Ok(())
    }

    /// The places outside of the data directory that are its own: its links lead there, or a restore that did not end was filling them.
    /// What lies anywhere else may be of a cluster that runs.
    fn own_places(&self) -> Result<BTreeSet<PathBuf>> {
        let spaces = self.pg_data.join("pg_tblspc");
        let spaces = match fs::read_dir(&spaces) {
            Ok(entries) => entries.map(|e| e.map(|e| e.path())).collect::<io::Result<Vec<_>>>(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
        .map_err(Error::io("list", &spaces))?;
        let links = self.links.keys().map(|name| self.pg_data.join(OsStr::from_bytes(name)));
        let led = spaces.into_iter().chain(links).filter_map(|link| {
            let destination = fs::read_link(&link).ok()?;
            Some(real(&parent(&link).join(destination)))
        });
        let mut places: BTreeSet<_> = led.collect();
        places.extend(self.marked_places()?);
        Ok(places)
    }

    /// The places that a restore that did not end was filling.
    fn marked_places(&self) -> Result<Vec<PathBuf>> {
        let path = self.pg_data.join(MARKER);
        let file = match fs::File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(Error::io("open", &path))?,
        };
        let mut text = Vec::new();
        file.take(MAX_MARKER_BYTES).read_to_end(&mut text).map_err(Error::io("read", &path))?;
        let mut parts = text.split(|byte| *byte == 0);
        // A last one without its end was cut.
        parts.next_back();
        Ok(parts.skip(1).map(|place| PathBuf::from(OsStr::from_bytes(place))).collect())
    }

    /// Says that a restore has begun, and which places outside of the data directory it fills.
    fn mark(&self) -> Result<()> {
        let mut places = self.own_places()?;
        places.extend(self.tablespaces.iter().map(|(_, path)| real(path)));
        places.extend(self.links.values().map(|path| real(path)));
        let mut text = b"a restore has begun here and has not ended\n\0".to_vec();
        for place in places {
            text.extend(place.as_os_str().as_bytes());
            text.push(0);
        }
        pgbr_pg::write_durable(self.pg_data.join(MARKER), &text, 0o600)?;
        Ok(())
    }

    /// Takes the old cluster away, its control file first, and makes the roots.
    pub(crate) fn prepare(self) -> Result<Layout> {
        let root = rustix::process::geteuid().is_root();
        let mut owners = if root { Some(OwnerIds::of_directory(&self.pg_data)?) } else { None };
        let owner = owners.as_mut().map(|owners| owners.ids("", ""));
        let control = self.pg_data.join(CONTROL);
        if remove_file(&control)? {
            pgbr_pg::sync_dir(self.pg_data.join("global"))?;
        }
        self.mark()?;
        clear(&self.pg_data, Some(MARKER))?;
        for (_, location) in &self.tablespaces {
            let own = location.join(&self.version_directory);
            if own.is_dir() {
                clear(&own, None)?;
                fs::remove_dir(&own).map_err(Error::io("remove", &own))?;
            }
            make_all(location, owner)?;
        }
        for destination in self.links.values() {
            if destination.is_dir() {
                clear(destination, None)?;
            }
            remove_file(destination)?;
        }
        Ok(Layout { plan: self, owners, config_files: Vec::new(), closed: Vec::new() })
    }
}

/// Removes a file or link; false where there is none, or a directory.
fn remove_file(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => Ok(false),
        Ok(_) => fs::remove_file(path).map(|()| true).map_err(Error::io("remove", path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io("look at", path)(error)),
    }
}

fn is_empty(dir: &Path) -> Result<bool> {
    // `lost+found` belongs to a file system, not to what lies in it.
    let entries = fs::read_dir(dir).map_err(Error::io("list", dir))?;
    for entry in entries {
        if entry.map_err(Error::io("list", dir))?.file_name() != "lost+found" {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Empties a directory; links in it are removed, not followed.
fn clear(dir: &Path, keep: Option<&str>) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let entry = entry.map_err(Error::io("list", dir))?;
        let name = entry.file_name();
        if keep.is_some_and(|keep| name == keep) || name == "lost+found" {
            continue;
        }
        let path = entry.path();
        let is_dir = entry.file_type().map_err(Error::io("look at", &path))?.is_dir();
        let removed = if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(Error::io("remove", &path))?;
    }
    Ok(())
}

/// Makes a directory and those above it that are missing; they belong to `owner`, so that the server gets through them.
fn make_all(dir: &Path, owner: Option<(Uid, Gid)>) -> Result<()> {
    let missing: Vec<_> = dir.ancestors().take_while(|path| !path.exists()).collect();
    for path in missing.into_iter().rev() {
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.map_err(Error::io("create", path))?,
        }
        if let Some((user, group)) = owner {
            let changed = rustix::fs::chown(path, Some(user), Some(group));
            changed.map_err(|e| Error::io("set the owner of", path)(e.into()))?;
        }
    }
    Ok(())
}

/// A path as comparing needs it: without links as far as it exists.
fn real(path: &Path) -> PathBuf {
    let existing = path.ancestors().find_map(|above| Some((above, above.canonicalize().ok()?)));
    match existing {
        Some((above, found)) => found.join(path.strip_prefix(above).unwrap_or(Path::new(""))),
        None => path.to_owned(),
    }
}

/// The directories of a restore under way.
#[derive(Debug)]
pub(crate) struct Layout {
    plan: Plan,
    owners: Option<OwnerIds>,
    config_files: Vec<PathBuf>,
    /// Directories whose mode keeps their owner out: set at the end.
    closed: Vec<(PathBuf, u32)>,
}

impl Layout {
    pub(crate) fn pg_data(&self) -> &Path {
        &self.plan.pg_data
    }

    /// Config files outside of the data directory that the backup holds, as far as they were passed.
    pub(crate) fn config_files(&self) -> &[PathBuf] {
        &self.config_files
    }

    /// Where each tablespace is now.
    pub(crate) fn tablespaces(&self) -> impl Iterator<Item = (u32, &Path)> {
        self.plan.tablespaces.iter().map(|(t, path)| (t.oid, path.as_path()))
    }

    /// The directories that have to be synced: one in each file system that was written to.
    pub(crate) fn roots(&self) -> Vec<PathBuf> {
        let places = self.plan.tablespaces.iter().map(|(_, path)| path.clone());
        let links =
            self.plan.links.values().map(|path| if path.is_dir() { path.clone() } else { parent(path) });
        let config = self.plan.config.iter().cloned();
        [self.plan.pg_data.clone()].into_iter().chain(places).chain(links).chain(config).collect()
    }

    fn path_of(&self, path: &RelPath) -> Result<Option<PathBuf>> {
        if let Some(rest) = path.strip("pg_data") {
            if rest.is_empty() {
                return Ok(Some(self.plan.pg_data.clone()));
            }
            if path.is_pg_control() {
                return Ok(Some(self.plan.pg_data.join(CONTROL_WAITING)));
            }
            return Ok(Some(self.plan.pg_data.join(OsStr::from_bytes(rest))));
        }
        if let Some(rest) = path.strip("config") {
            return Ok(self.plan.config.as_ref().map(|dir| dir.join(OsStr::from_bytes(rest))));
        }
        let mut parts = path.components();
        let (root, oid) = (parts.next(), parts.next());
        if root != Some(b"pg_tblspc") {
            return Err(Error::Map {
                what: format!("'{path}'"),
                reason: "it has no place in a cluster".to_owned(),
            });
        }
        let Some(oid) = oid else { return Ok(None) };
        let known = self.plan.tablespaces.iter().find(|(t, _)| t.oid.to_string().as_bytes() == oid);
        let Some((_, location)) = known else {
            return Err(Error::Map {
                what: format!("'{path}'"),
                reason: "the backup has no such tablespace".to_owned(),
            });
        };
        Ok(Some(parts.fold(location.clone(), |at, part| at.join(OsStr::from_bytes(part)))))
    }

    /// Where a link that is made again leads.
    fn destination(&self, path: &RelPath) -> Option<&PathBuf> {
        self.plan.links.get(path.strip("pg_data")?)
    }

    pub(crate) fn directory(&mut self, path: &RelPath, meta: &Meta) -> Result<()> {
        let owner = self.owner(&Meta::default());
        let real = match self.destination(path) {
            Some(destination) => {
                make_all(destination, owner)?;
                destination.clone()
            }
            None => match self.path_of(path)? {
                None => return Ok(()),
                Some(real) if path.strip("config").is_some() => {
                    make_all(&real, owner)?;
                    real
                }
                Some(real) => {
                    match DirBuilder::new().mode(0o700).create(&real) {
                        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_root(path) => {}
                        made => made.map_err(Error::io("create", &real))?,
                    }
                    real
                }
            },
        };
        self.set_owner(&real, meta)?;
        if meta.mode & 0o700 == 0o700 {
            fs::set_permissions(&real, Permissions::from_mode(meta.mode))
                .map_err(Error::io("set the mode of", &real))
        } else {
            self.closed.push((real, meta.mode));
            Ok(())
        }
    }

    /// Makes a link again where the operator wants it; else says that what it led to takes its place.
    pub(crate) fn link(&mut self, host: &Host, path: &RelPath, target: &[u8]) -> Result<()> {
        let Some(real) = self.path_of(path)? else { return Ok(()) };
        match self.destination(path) {
            Some(destination) => symlink(destination, &real).map_err(Error::io("create link", &real)),
            None => {
                let target = String::from_utf8_lossy(target);
                host.warn(format!("what link '{path}' led to ('{target}') is restored in the link's place"));
                Ok(())
            }
        }
    }

    /// Where a file's content goes.
    pub(crate) fn file(&mut self, record: &FileRecord, files: &Arc<OpenFiles>) -> Result<Target> {
        let owner = self.owner(&record.meta);
        let above = self.owner(&Meta::default());
        if let Some(rest) = record.path.strip("config") {
            self.config_files.push(Path::new("/").join(OsStr::from_bytes(rest)));
        }
        let real = match self.destination(&record.path) {
            Some(destination) => {
                make_all(&parent(destination), above)?;
                Some(destination.clone())
            }
            None => self.path_of(&record.path)?,
        };
        if let Some(real) = real.as_ref().filter(|_| record.path.strip("config").is_some()) {
            make_all(&parent(real), above)?;
            remove_file(real)?;
        }
        Ok(Target::new(real, record, owner, files))
    }

    fn owner(&mut self, meta: &Meta) -> Option<(Uid, Gid)> {
        let owners = self.owners.as_mut()?;
        Some(owners.ids(&meta.user, &meta.group))
    }

    fn set_owner(&mut self, path: &Path, meta: &Meta) -> Result<()> {
        let Some((user, group)) = self.owner(meta) else { return Ok(()) };
        let changed = rustix::fs::chown(path, Some(user), Some(group));
        changed.map_err(|e| Error::io("set the owner of", path)(e.into()))
    }

    /// A small file of the restore itself, owned as the data directory is, and readable for the group where that is.
    pub(crate) fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.plan.pg_data.join(name);
        let directory = fs::metadata(&self.plan.pg_data).map_err(Error::io("look at", &self.plan.pg_data))?;
        let mode = if directory.permissions().mode() & 0o040 == 0 { 0o600 } else { 0o640 };
        pgbr_pg::write_durable(&path, bytes, mode)?;
        self.set_owner(&path, &Meta::default())
    }

    /// The links to the tablespaces.
    pub(crate) fn link_tablespaces(&self) -> Result<()> {
        for (oid, location) in self.tablespaces() {
            let link = self.plan.pg_data.join("pg_tblspc").join(oid.to_string());
            symlink(location, &link).map_err(Error::io("create link", &link))?;
        }
        Ok(())
    }

    /// Sets the modes that had to wait.
    pub(crate) fn close_directories(&mut self) -> Result<()> {
        for (path, mode) in self.closed.drain(..).rev() {
            fs::set_permissions(&path, Permissions::from_mode(mode))
                .map_err(Error::io("set the mode of", &path))?;
        }
        Ok(())
    }

    /// The last act: the marker goes, and the control file, which everything waits for, gets its name.
    pub(crate) fn open_cluster(&self, host: &Host) -> Result<()> {
        let (waiting, control) = (self.plan.pg_data.join(CONTROL_WAITING), self.plan.pg_data.join(CONTROL));
        let marker = self.plan.pg_data.join(MARKER);
        fs::remove_file(&marker).map_err(Error::io("remove", &marker))?;
        pgbr_pg::sync_dir(&self.plan.pg_data)?;
        pgbr_pg::rename_durable(&waiting, &control)?;
        host.tell(Event::Note { text: format!("restored '{}', last of all", control.display()) });
        Ok(())
    }
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(path).to_owned()
}

/// The data directory itself, or the location of a tablespace: they are there before anything is restored.
fn is_root(path: &RelPath) -> bool {
    path.strip("pg_data").is_some_and(<[u8]>::is_empty)
        || (path.strip("pg_tblspc").is_some() && path.components().count() == 2)
}
