//! What a restore does to directories and links; in a dry run it is only counted.

use std::fs::{self, DirBuilder, FileType, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use pgbr_pg::TEMPORARY_SUFFIX;
use rustix::fs::{Gid, Uid};

use crate::error::{Error, Result};
use crate::host::Host;
use crate::observe::Event;

/// It belongs to a file system, not to what lies in it.
pub(crate) const LOST_AND_FOUND: &str = "lost+found";
/// Deeper than any cluster.
const MAX_DEPTH: usize = 64;

/// Files and links that were, or would be, removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Removed {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

/// Does it, or only counts.
pub(crate) struct Hand {
    host: Host,
    dry: bool,
    pub(crate) removed: Removed,
}

impl Hand {
    pub(crate) fn new(host: &Host, dry: bool) -> Self {
        Self { host: host.clone(), dry, removed: Removed::default() }
    }

    pub(crate) const fn is_dry(&self) -> bool {
        self.dry
    }

    /// Removes whatever is at `path`; links are not followed.
    pub(crate) fn remove(&mut self, path: &Path) -> Result<()> {
        let Some(kind) = kind_of(path)? else { return Ok(()) };
        self.count(path, kind, 0)?;
        self.host.tell(Event::Removing { path: path.to_owned() });
        if self.dry {
            return Ok(());
        }
        let removed = if kind.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        removed.map_err(Error::io("remove", path))
    }

    fn count(&mut self, path: &Path, kind: FileType, depth: usize) -> Result<()> {
        if !kind.is_dir() {
            let meta = match fs::symlink_metadata(path) {
                // A dry run may look at a cluster that runs.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                other => other.map_err(Error::io("look at", path))?,
            };
            self.removed.files += 1;
            self.removed.bytes += if kind.is_file() { meta.len() } else { 0 };
            return Ok(());
        }
        self.host.stop.check()?;
        if depth > MAX_DEPTH {
            return Ok(());
        }
        for (path, kind) in list(path)? {
            self.count(&path, kind, depth + 1)?;
        }
        Ok(())
    }

    /// Removes a file or link, and leaves a directory.
    pub(crate) fn remove_file(&mut self, path: &Path) -> Result<bool> {
        match kind_of(path)? {
            Some(kind) if !kind.is_dir() => self.remove(path).map(|()| true),
            _ => Ok(false),
        }
    }

    /// Removes a file that stands where a directory belongs; a link that leads to one is as good.
    pub(crate) fn make_room_for_directory(&mut self, path: &Path) -> Result<()> {
        if path.is_dir() { Ok(()) } else { self.remove(path) }
    }

    /// Empties a directory; links in it are removed, not followed.
    pub(crate) fn clear(&mut self, dir: &Path, keep: &[&str]) -> Result<()> {
        for (path, _) in list(dir)? {
            let name = path.file_name().unwrap_or_default();
            if keep.iter().all(|keep| name != *keep) && name != LOST_AND_FOUND {
                self.remove(&path)?;
            }
        }
        Ok(())
    }

    /// Sees that a directory is at `path` itself; true where it was there.
    pub(crate) fn make(&mut self, path: &Path) -> Result<bool> {
        match fs::symlink_metadata(path) {
            Ok(meta) if meta.is_dir() => return self.open_to_owner(path, meta.mode()).map(|()| true),
            Ok(_) => self.remove(path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("look at", path)(error)),
        }
        if !self.dry {
            DirBuilder::new().mode(0o700).create(path).map_err(Error::io("create", path))?;
        }
        Ok(false)
    }

    /// A directory whose owner cannot get in is opened until the end.
    fn open_to_owner(&self, path: &Path, mode: u32) -> Result<()> {
        if mode & 0o700 == 0o700 {
            return Ok(());
        }
        self.set_mode(path, mode | 0o700)
    }

    /// Makes a directory and those above it that are missing; they belong to `owner`, so that the server gets through them.
    pub(crate) fn make_all(&self, dir: &Path, owner: Option<(Uid, Gid)>) -> Result<()> {
        let missing: Vec<_> = dir.ancestors().take_while(|path| !path.exists()).collect();
        missing.into_iter().rev().filter(|_| !self.dry).try_for_each(|path| self.make_owned(path, owner))
    }

    /// Makes a directory that has its owner when it gets its name: one that is there is not given to anybody by the next restore.
    fn make_owned(&self, path: &Path, owner: Option<(Uid, Gid)>) -> Result<()> {
        let create = |path: &Path| match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made.map_err(Error::io("create", path)),
        };
        let (Some(_), Some(name)) = (owner, path.file_name()) else { return create(path) };
        let mut unfinished = name.to_owned();
        unfinished.push(TEMPORARY_SUFFIX);
        let unfinished = path.with_file_name(unfinished);
        // Left by a restore that was cut right here. Anything else of this name is not touched.
        match fs::remove_dir(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("remove", &unfinished)(error));
            }
            _ => {}
        }
        create(&unfinished)?;
        self.set_owner(&unfinished, owner)?;
        fs::rename(&unfinished, path).map_err(Error::io("rename", &unfinished))
    }

    /// Sees that a link to `destination` is at `path`.
    pub(crate) fn link(&mut self, destination: &Path, path: &Path) -> Result<()> {
        if fs::read_link(path).is_ok_and(|found| found == destination) {
            return Ok(());
        }
        self.remove(path)?;
        if self.dry {
            return Ok(());
        }
        symlink(destination, path).map_err(Error::io("create link", path))
    }

    /// Sets the mode of a directory where it differs.
    pub(crate) fn set_mode(&self, path: &Path, mode: u32) -> Result<()> {
        if self.dry || fs::metadata(path).is_ok_and(|found| found.mode() & 0o7777 == mode) {
            return Ok(());
        }
        fs::set_permissions(path, Permissions::from_mode(mode)).map_err(Error::io("set the mode of", path))
    }

    /// Sets the owner of a directory where it differs.
    pub(crate) fn set_owner(&self, path: &Path, owner: Option<(Uid, Gid)>) -> Result<()> {
        let Some((user, group)) = owner.filter(|_| !self.dry) else { return Ok(()) };
        let same = |found: fs::Metadata| (found.uid(), found.gid()) == (user.as_raw(), group.as_raw());
        if fs::metadata(path).is_ok_and(same) {
            return Ok(());
        }
        let changed = rustix::fs::chown(path, Some(user), Some(group));
        changed.map_err(|e| Error::io("set the owner of", path)(e.into()))
    }
}

/// What a directory holds; nothing where it is gone.
pub(crate) fn list(dir: &Path) -> Result<Vec<(PathBuf, FileType)>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(Error::io("list", dir))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io("list", dir))?;
        match entry.file_type() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            kind => found.push((entry.path(), kind.map_err(Error::io("look at", entry.path()))?)),
        }
    }
    Ok(found)
}

fn kind_of(path: &Path) -> Result<Option<FileType>> {
    match fs::symlink_metadata(path) {
        Ok(meta) => Ok(Some(meta.file_type())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("look at", path)(error)),
    }
}
