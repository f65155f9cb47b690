//! The directories of a restore under way: made, mended, swept, and opened for the server at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pgbr_manifest::RelPath;
use pgbr_manifest::index::{FileRecord, Meta};
use pgbr_pg::OwnerIds;
use rustix::fs::{Gid, Uid};

use super::hand::{Hand, Removed};
use super::new_links::{WAL, nothing_there};
use super::sweep::Sweep;
use super::target::{CONTROL, Existing, MARKER, Plan, parent, words_of_link};
use super::write::{Making, OpenFiles, Target};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::observe::Event;

/// The most config files outside of the data directory that are told of.
const MAX_CONFIG_FILES: usize = 10_000;
/// The name under which the control file waits until everything else is safe.
const CONTROL_WAITING: &str = "global/pg_control.pgbr";

/// The directories of a restore under way.
pub(crate) struct Layout {
    plan: Plan,
    hand: Hand,
    /// What removes foreign files, where others are mended.
    sweep: Option<Sweep>,
    /// Files of the data directory that stay as they are, whatever the backup has.
    preserved: Vec<&'static str>,
    owners: Option<OwnerIds>,
    config_files: Vec<PathBuf>,
    /// Directories and files that become links, and have not come yet.
    new_links: BTreeSet<Vec<u8>>,
    /// Locations of tablespaces that hold what is not theirs: they stay as they are, but for their own directory.
    shared: BTreeSet<PathBuf>,
    /// Directories whose mode keeps their owner out: set at the end.
    closed: Vec<(PathBuf, u32)>,
    /// The file systems of the directories that were passed, with a directory in each.
    devices: BTreeMap<u64, PathBuf>,
}

impl Layout {
    /// Takes the old cluster away, or only its control file where it is to be mended, and makes the roots. With `dry` nothing is touched.
    pub(crate) fn prepare(host: &Host, plan: Plan, dry: bool) -> Result<Self> {
        let root = rustix::process::geteuid().is_root();
        // That of a data directory which is not there yet is that of the directory in which it will be.
        let nearest = plan.pg_data.ancestors().find(|path| path.is_dir()).unwrap_or(&plan.pg_data);
        let owners = if root { Some(OwnerIds::of_directory(nearest)?) } else { None };
        let delta = plan.existing == Existing::Delta;
        let (hand, config_files, closed) = (Hand::new(host, dry), Vec::new(), Vec::new());
        let (shared, devices) = (plan.shared_locations()?, BTreeMap::new());
        let (preserved, new_links) = (plan.preserved(), plan.new_links.clone());
        let mut layout = Self {
            plan,
            hand,
            sweep: None,
            preserved,
            owners,
            config_files,
            new_links,
            shared,
            closed,
            devices,
        };
        let owner = layout.owner(&Meta::default());
        layout.hand.make_all(&layout.plan.pg_data, owner)?;
        layout.begin()?;
        if layout.plan.existing != Existing::Refuse && !dry {
            let text = format!("remove invalid files/links/paths from '{}'", layout.plan.pg_data.display());
            host.tell(Event::Note { text });
        }
        if delta {
            layout.sweep = Some(Sweep::new(layout.kept()));
        } else {
            layout.clear()?;
        }
        for (_, location) in &layout.plan.tablespaces {
            layout.hand.make_all(location, owner)?;
        }
        Ok(layout)
    }

    /// The control file goes, so that nothing starts on what is left, and a marker comes.
    fn begin(&mut self) -> Result<()> {
        if self.hand.is_dry() {
            return Ok(());
        }
        let control = self.plan.pg_data.join(CONTROL);
        match fs::remove_file(&control) {
            Ok(()) => pgbr_pg::sync_dir(self.plan.pg_data.join("global"))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("remove", &control)(error)),
        }
        self.plan.mark()
    }

    fn clear(&mut self) -> Result<()> {
        let keep: Vec<&str> = self.preserved.iter().copied().chain([MARKER]).collect();
        self.hand.clear(&self.plan.pg_data, &keep)?;
        for (_, location) in &self.plan.tablespaces {
            self.hand.remove(&location.join(&self.plan.version_directory))?;
        }
        for destination in self.plan.links.values() {
            if destination.is_dir() {
                self.hand.clear(destination, &[])?;
            }
            self.hand.remove_file(destination)?;
        }
        Ok(())
    }

    /// What no sweep removes.
    fn kept(&self) -> Vec<PathBuf> {
        let pg_data = &self.plan.pg_data;
        let links = self.tablespaces().map(|(oid, _)| pg_data.join("pg_tblspc").join(oid.to_string()));
        let preserved = self.preserved.iter().map(|name| pg_data.join(name));
        let own = [pg_data.join(MARKER), pg_data.join(CONTROL)];
        links.chain(own).chain(preserved).chain(self.plan.config.clone()).collect()
    }

    /// How files come to be.
    pub(crate) const fn making(&self) -> Making {
        match &self.sweep {
            _ if self.hand.is_dry() => Making::Dry,
            Some(_) => Making::Mended,
            None => Making::New,
        }
    }

    /// Whether what is there is looked at and kept where it is right.
    pub(crate) const fn mends(&self) -> bool {
        self.sweep.is_some()
    }

    /// What was removed so far.
    pub(crate) const fn removed(&self) -> Removed {
        self.hand.removed
    }

    fn pass(&mut self, path: &RelPath) -> Result<()> {
        match &mut self.sweep {
            Some(sweep) => sweep.pass(path, &mut self.hand),
            None => Ok(()),
        }
    }

    /// No entry comes any more.
    pub(crate) fn finish_sweep(&mut self) -> Result<()> {
        match &mut self.sweep {
            Some(sweep) => sweep.finish(&mut self.hand),
            None => Ok(()),
        }
    }

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
        // Where a mended directory is a place that something is mounted on.
        let mounts = self.devices.values().cloned();
        [self.plan.pg_data.clone()]
            .into_iter()
            .chain(places)
            .chain(links)
            .chain(config)
            .chain(mounts)
            .collect()
    }

    fn path_of(&self, path: &RelPath) -> Result<Option<PathBuf>> {
        if let Some(rest) = path.strip("pg_data") {
            if rest.is_empty() {
                return Ok(Some(self.plan.pg_data.clone()));
            }
            if path.is_pg_control() {
                return Ok(Some(self.plan.pg_data.join(CONTROL_WAITING)));
            }
            return Ok(Some(self.behind_links(rest)));
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
        // Whoever names a location must not thereby write to whatever lies there.
        let own = self.plan.version_directory.as_bytes();
        if path.components().nth(2).is_some_and(|directory| directory != own) {
            let reason = format!("in a tablespace nothing but '{}' is restored", self.plan.version_directory);
            return Err(Error::Map { what: format!("'{path}'"), reason });
        }
        Ok(Some(parts.fold(location.clone(), |at, part| at.join(OsStr::from_bytes(part)))))
    }

    /// The place of what has this path in the data directory. Links that are still to be made are followed by their names: in a dry run what
    /// stands in their place would be taken for what is behind them.
    fn behind_links(&self, rest: &[u8]) -> PathBuf {
        let path = Path::new(OsStr::from_bytes(rest));
        let link = path.ancestors().skip(1).find_map(|above| {
            let destination = self.plan.links.get(above.as_os_str().as_bytes())?;
            Some(destination.join(path.strip_prefix(above).ok()?))
        });
        link.filter(|_| self.hand.is_dry()).unwrap_or_else(|| self.plan.pg_data.join(path))
    }

    /// Where a link that is made again leads.
    fn destination(&self, path: &RelPath) -> Option<&PathBuf> {
        self.plan.links.get(path.strip("pg_data")?)
    }

    pub(crate) fn directory(&mut self, path: &RelPath, meta: &Meta) -> Result<()> {
        self.pass(path)?;
        let Some(real) =
            self.destination(path).cloned().map_or_else(|| self.path_of(path), |d| Ok(Some(d)))?
        else {
            return Ok(());
        };
        let is_config = path.strip("config").is_some();
        let was_there = if is_config || self.destination(path).is_some() {
            self.hand.make_room_for_directory(&real)?;
            let was_there = real.is_dir();
            let above = self.above();
            self.hand.make_all(&real, above)?;
            self.new_link(path, &real)?;
            was_there
        } else if is_root(path) {
            real.is_dir()
        } else {
            self.hand.make(&real)?
        };
        if let Some(sweep) = self.sweep.as_mut().filter(|_| was_there && !is_config && !is_location(path)) {
            sweep.enter(path, &real)?;
        }
        if let Ok(found) = fs::metadata(&real) {
            self.devices.entry(found.dev()).or_insert_with(|| real.clone());
        }
        if is_location(path) && self.shared.contains(&real) {
            return Ok(());
        }
        let owner = self.owner(meta);
        self.hand.set_owner(&real, owner)?;
        if meta.mode & 0o700 == 0o700 {
            return self.hand.set_mode(&real, meta.mode);
        }
        self.closed.push((real, meta.mode));
        Ok(())
    }

    /// Makes a link again where the operator wants it; else says that what it led to takes its place.
    pub(crate) fn link(&mut self, host: &Host, path: &RelPath, target: &[u8]) -> Result<()> {
        self.pass(path)?;
        let Some(real) = self.path_of(path)? else { return Ok(()) };
        match self.destination(path).cloned() {
            Some(destination) => {
                let words = words_of_link(&real, target, &destination);
                self.hand.link(&words, &real)
            }
            None => {
                let target = String::from_utf8_lossy(target);
                host.warn(format!("what link '{path}' led to ('{target}') is restored in the link's place"));
                Ok(())
            }
        }
    }

    /// Makes a link of what is none in the backup, if that is asked for.
    fn new_link(&mut self, path: &RelPath, destination: &Path) -> Result<()> {
        let Some(name) = path.strip("pg_data").filter(|name| self.new_links.contains(*name)) else {
            return Ok(());
        };
        self.new_links.remove(name);
        // What stands in the place was counted when all was.
        if self.hand.is_dry() && self.sweep.is_none() {
            return Ok(());
        }
        self.hand.link(destination, &self.plan.pg_data.join(OsStr::from_bytes(name)))
    }

    /// Sees that everything was there that was to become a link; a directory for WAL that was left out of the backup is made.
    pub(crate) fn finish_new_links(&mut self) -> Result<()> {
        if self.new_links.contains(WAL)
            && let Some(destination) = self.plan.links.get(WAL).cloned()
        {
            let path = RelPath::new([b"pg_data/", WAL].concat())?;
            let owner = self.above();
            self.hand.make_room_for_directory(&destination)?;
            self.hand.make_all(&destination, owner)?;
            self.hand.clear(&destination, &[])?;
            self.hand.set_owner(&destination, owner)?;
            self.hand.set_mode(&destination, 0o700)?;
            self.new_link(&path, &destination)?;
        }
        self.new_links.first().map_or(Ok(()), |name| Err(nothing_there(name)))
    }

    /// Where a file's content goes.
    pub(crate) fn file(&mut self, record: &FileRecord, files: &Arc<OpenFiles>) -> Result<Target> {
        self.pass(&record.path)?;
        let owner = self.owner(&record.meta);
        let above = self.above();
        if let Some(rest) = record.path.strip("config") {
            if self.config_files.len() >= MAX_CONFIG_FILES {
                let reason = format!("there are more than {MAX_CONFIG_FILES} config files");
                return Err(Error::Map { what: format!("'{}'", record.path), reason });
            }
            self.config_files.push(Path::new("/").join(OsStr::from_bytes(rest)));
        }
        let real = match self.destination(&record.path).cloned() {
            Some(destination) => {
                self.hand.make_all(&parent(&destination), above)?;
                self.new_link(&record.path, &destination)?;
                Some(destination)
            }
            None => self.path_of(&record.path)?,
        };
        if let Some(real) = real.as_ref().filter(|_| record.path.strip("config").is_some()) {
            self.hand.make_all(&parent(real), above)?;
            if self.making() == Making::New {
                self.hand.remove_file(real)?;
            }
        }
        let is_preserved =
            |path: &Path| self.preserved.iter().any(|name| path == self.plan.pg_data.join(name));
        let real = real.filter(|real| !is_preserved(real));
        let target = Target::new(real, record, owner, self.making(), files);
        Ok(if self.plan.selection.wants(&record.path) { target } else { target.hollow() })
    }

    fn owner(&mut self, meta: &Meta) -> Option<(Uid, Gid)> {
        let owners = self.owners.as_mut()?;
        Some(owners.ids(&meta.user, &meta.group))
    }

    /// The owner of directories that are made on the way.
    fn above(&mut self) -> Option<(Uid, Gid)> {
        self.owner(&Meta::default())
    }

    /// A small file of the restore itself, owned as the data directory is, and readable for the group where that is.
    pub(crate) fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.plan.pg_data.join(name);
        let directory = fs::metadata(&self.plan.pg_data).map_err(Error::io("look at", &self.plan.pg_data))?;
        let mode = if directory.permissions().mode() & 0o040 == 0 { 0o600 } else { 0o640 };
        pgbr_pg::write_durable(&path, bytes, mode)?;
        let owner = self.above();
        self.hand.set_owner(&path, owner)
    }

    /// The links to the tablespaces.
    pub(crate) fn link_tablespaces(&mut self) -> Result<()> {
        for (tablespace, location) in &self.plan.tablespaces {
            let link = self.plan.pg_data.join("pg_tblspc").join(tablespace.oid.to_string());
            self.hand.link(location, &link)?;
        }
        Ok(())
    }

    /// Sets the modes that had to wait.
    pub(crate) fn close_directories(&mut self) -> Result<()> {
        std::mem::take(&mut self.closed)
            .iter()
            .rev()
            .try_for_each(|(path, mode)| self.hand.set_mode(path, *mode))
    }

    /// The last act: the marker goes, and the control file, which everything waits for, gets its name.
    pub(crate) fn open_cluster(&self, host: &Host) -> Result<()> {
        let (waiting, control) = (self.plan.pg_data.join(CONTROL_WAITING), self.plan.pg_data.join(CONTROL));
        let marker = self.plan.pg_data.join(MARKER);
        fs::remove_file(&marker).map_err(Error::io("remove", &marker))?;
        pgbr_pg::sync_dir(&self.plan.pg_data)?;
        pgbr_pg::rename_durable(&waiting, &control)?;
        let text = format!(
            "restore {} (performed last to ensure aborted restores cannot be started)",
            control.display()
        );
        host.tell(Event::Note { text });
        Ok(())
    }
}

/// The data directory itself, or the location of a tablespace: they are there before anything is restored.
fn is_root(path: &RelPath) -> bool {
    path.strip("pg_data").is_some_and(<[u8]>::is_empty) || is_location(path)
}

/// The location of a tablespace, of which only the directory of its own version is looked at.
fn is_location(path: &RelPath) -> bool {
    path.strip("pg_tblspc").is_some() && path.components().count() == 2
}
