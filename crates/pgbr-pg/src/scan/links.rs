//! Where links lead, and which places must not be reached twice.

use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::TablespaceLink;
use crate::error::{Error, Result};

/// The data directory, the tablespaces, and what links have led to so far.
#[derive(Debug)]
pub(super) struct Places {
    pg_data: PathBuf,
    /// Device and inode of each tablespace's directory.
    tablespaces: Vec<(u64, u64)>,
    /// Canonical places of tablespaces and of links, with the link.
    taken: Vec<(PathBuf, PathBuf)>,
}

impl Places {
    pub(super) const fn new(pg_data: PathBuf) -> Self {
        Self { pg_data, tablespaces: Vec::new(), taken: Vec::new() }
    }

    /// Notes a tablespace and gives its canonical directory. `None` if it has been dropped since it was listed.
    pub(super) fn add_tablespace(
        &mut self,
        pg_data: &Path,
        tablespace: &TablespaceLink,
    ) -> Result<Option<PathBuf>> {
        let link = pg_data.join("pg_tblspc").join(tablespace.oid.to_string());
        let refuse = |reason: &str| Error::LinkDestination {
            link: link.clone(),
            target: tablespace.target.clone(),
            reason: reason.to_owned(),
        };
        let place = match link.canonicalize() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let dropped = std::fs::symlink_metadata(&link).is_err();
                return if dropped { Ok(None) } else { Err(refuse("does not exist")) };
            }
            other => other.map_err(Error::io("follow link", &link))?,
        };
        let meta = std::fs::metadata(&place).map_err(Error::io("examine", &place))?;
        if !meta.is_dir() {
            return Err(refuse("is not a directory"));
        }
        if pg_data.starts_with(&place) {
            return Err(refuse("holds the data directory"));
        }
        self.tablespaces.push((meta.dev(), meta.ino()));
        self.taken.push((place.clone(), link));
        Ok(Some(place))
    }

    /// Whether this is the directory of a tablespace.
    pub(super) fn is_tablespace(&self, meta: &Metadata) -> bool {
        self.tablespaces.contains(&(meta.dev(), meta.ino()))
    }

    /// Follows a link: what it says, and the canonical place. `None` if the link has vanished.
    ///
    /// A link must lead, in one step, to something that exists and that the backup does not reach on another way.
    pub(super) fn follow(&mut self, link: &Path) -> Result<Option<(Vec<u8>, PathBuf)>> {
        let target = match std::fs::read_link(link) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(Error::io("read link", link))?,
        };
        let refuse =
            |reason: String| Error::LinkDestination { link: link.to_owned(), target: target.clone(), reason };
        let next = link.parent().unwrap_or_else(|| Path::new("/")).join(&target);
        match std::fs::symlink_metadata(&next) {
            Ok(meta) if meta.is_symlink() => return Err(refuse("is a link itself".to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(refuse("does not exist".to_owned()));
            }
            other => other.map_err(Error::io("examine", &next))?,
        };
        let place = next.canonicalize().map_err(Error::io("follow link", link))?;
        if place.starts_with(&self.pg_data) {
            return Err(refuse("is in the data directory".to_owned()));
        }
        if self.pg_data.starts_with(&place) {
            return Err(refuse("holds the data directory".to_owned()));
        }
        for (other, by) in &self.taken {
            if place == *other {
                return Err(refuse(format!("is where '{}' leads, too", by.display())));
            }
            if place.starts_with(other) || other.starts_with(&place) {
                return Err(refuse(format!(
                    "overlaps with '{}', where '{}' leads",
                    other.display(),
                    by.display()
                )));
            }
        }
        self.taken.push((place.clone(), link.to_owned()));
        Ok(Some((target.into_os_string().into_vec(), place)))
    }
}
