//! What lies in the directories of a cluster and is not in the backup: found by listing each directory beside the stream of entries.
//!
//! Only the listings of the directories between the root and the current place are in memory.

use std::ffi::{OsStr, OsString};
use std::iter::Peekable;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use pgbr_manifest::RelPath;

use super::hand::{Hand, LOST_AND_FOUND, list};
use crate::error::Result;

/// Removes what is foreign. It is told of every entry of the backup, in order.
pub(crate) struct Sweep {
    levels: Vec<Level>,
    /// Paths that stay wherever they are found.
    kept: Vec<PathBuf>,
}

/// A directory that the stream of entries is in.
struct Level {
    path: RelPath,
    real: PathBuf,
    names: Peekable<std::vec::IntoIter<OsString>>,
}

impl Sweep {
    /// `kept` stay wherever they are found.
    pub(crate) const fn new(kept: Vec<PathBuf>) -> Self {
        Self { levels: Vec::new(), kept }
    }

    /// The next entry is at `path`: what the directories hold before it is not in the backup.
    pub(crate) fn pass(&mut self, path: &RelPath, hand: &mut Hand) -> Result<()> {
        while self.levels.last().is_some_and(|level| !path.is_within(&level.path) || *path == level.path) {
            self.leave(hand)?;
        }
        let Some(level) = self.levels.last_mut() else { return Ok(()) };
        if path.parent().as_ref() != Some(&level.path) {
            return Ok(());
        }
        let name = OsStr::from_bytes(path.file_name());
        while let Some(foreign) = level.names.next_if(|found| found.as_os_str() < name) {
            remove(&self.kept, &level.real, &foreign, hand)?;
        }
        level.names.next_if(|found| found == name);
        Ok(())
    }

    /// A directory of the backup that was there.
    pub(crate) fn enter(&mut self, path: &RelPath, real: &Path) -> Result<()> {
        let listed = list(real)?.into_iter();
        let mut names: Vec<_> =
            listed.filter_map(|(path, _)| path.file_name().map(OsStr::to_owned)).collect();
        names.sort_unstable();
        let names = names.into_iter().peekable();
        self.levels.push(Level { path: path.clone(), real: real.to_owned(), names });
        Ok(())
    }

    fn leave(&mut self, hand: &mut Hand) -> Result<()> {
        let Some(level) = self.levels.pop() else { return Ok(()) };
        level.names.into_iter().try_for_each(|name| remove(&self.kept, &level.real, &name, hand))
    }

    /// No entry comes any more.
    pub(crate) fn finish(&mut self, hand: &mut Hand) -> Result<()> {
        while !self.levels.is_empty() {
            self.leave(hand)?;
        }
        Ok(())
    }
}

fn remove(kept: &[PathBuf], dir: &Path, name: &OsStr, hand: &mut Hand) -> Result<()> {
    let path = dir.join(name);
    // What holds something that stays, stays.
    if name == LOST_AND_FOUND || kept.iter().any(|kept| kept.starts_with(&path)) {
        return Ok(());
    }
    hand.remove(&path)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::host::Host;

    #[test]
    fn what_is_foreign_goes_and_what_stays_is_not_taken_along() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        for name in ["foreign/a", "settings/deep/etc/a.conf", "settings/b", "own/c"] {
            fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            fs::write(at(name), "").unwrap();
        }
        let mut hand = Hand::new(&Host::system(), false);
        let mut sweep = Sweep::new(vec![at("settings/deep")]);
        let path = |text: &str| RelPath::new(text).unwrap();
        sweep.enter(&path("pg_data"), place.path()).unwrap();
        sweep.pass(&path("pg_data/own"), &mut hand).unwrap();
        sweep.finish(&mut hand).unwrap();
        assert!(at("settings/deep/etc/a.conf").exists() && at("own/c").exists());
        assert!(!at("foreign").exists());
    }
}
