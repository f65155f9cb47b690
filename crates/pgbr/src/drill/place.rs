//! The directory of a drill: made for it alone, and removed with all that is in it.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::settings::own_config;
use crate::error::{Error, Result};
use crate::host::Host;

/// The control file, in a data directory.
pub(super) const CONTROL: &str = "global/pg_control";
/// How often removing is tried: processes of a server that was killed may still be writing.
const TRIES: usize = 20;
/// How long is waited in between.
const PAUSE: Duration = Duration::from_millis(100);

/// A directory that goes when it is dropped, unless it is to stay.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    keep: bool,
    /// Whether its end was seen to.
    closed: bool,
}

impl Directory {
    /// Makes it, with what a restore and a server need in it.
    pub(super) fn make(path: &Path, keep: bool) -> Result<Self> {
        let make = |path: &Path| fs::DirBuilder::new().mode(0o700).create(path);
        make(path)
            .map_err(|error| Error::DrillDirectory { path: path.to_owned(), reason: error.to_string() })?;
        let directory = Self { path: path.to_owned(), keep, closed: false };
        for name in ["config", "data", "tablespaces"] {
            let path = path.join(name);
            make(&path).map_err(Error::io("create", &path))?;
        }
        Ok(directory)
    }

    /// Removes it. Gives its path where it is to stay.
    pub(super) async fn close(mut self, host: &Host) -> Option<PathBuf> {
        self.closed = true;
        let path = std::mem::take(&mut self.path);
        if self.keep {
            return Some(path);
        }
        let shown = path.display().to_string();
        let removed = tokio::task::spawn_blocking(move || remove(&path)).await;
        let failed = match removed {
            Ok(Ok(())) => return None,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "removing it panicked".to_owned(),
        };
        host.warn(format!(
            "the directory of the drill '{shown}' cannot be removed, remove it by hand: {failed}"
        ));
        None
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if !self.closed && !self.keep {
            // Nobody is left who could be told.
            remove(&self.path).ok();
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    let mut tries = 0;
    loop {
        match fs::remove_dir_all(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !path.exists() => return Ok(()),
            Err(error) if tries == TRIES => return Err(error),
            Err(_) => std::thread::sleep(PAUSE),
        }
        tries += 1;
    }
}

/// Writes who may connect, and a config file where the restored data directory has none; gives the path of that.
pub(super) fn write_config(directory: &Path, pg_data: &Path) -> Result<Option<PathBuf>> {
    let write = |name: &str, text: &str| {
        let path = directory.join(name);
        fs::write(&path, text).map_err(Error::io("write", &path))?;
        Ok(path)
    };
    // Nobody else gets into the directory of the socket.
    write("pg_hba.conf", "local all all trust\n")?;
    write("pg_ident.conf", "")?;
    if pg_data.join("postgresql.conf").is_file() {
        return Ok(None);
    }
    let (control, _) = pgbr_pg::read_control_file(pg_data.join(CONTROL))?;
    write("postgresql.conf", &own_config(control.max_prepared_transactions)).map(Some)
}

/// Warns where the file system seems too small: it may compress, so that is no reason to give up.
pub(super) fn warn_of_space(host: &Host, directory: &Path, needed: u64) {
    let Some(parent) = directory.parent() else { return };
    let Ok(found) = rustix::fs::statvfs(parent) else { return };
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    if free < needed {
        let (path, free, needed) = (parent.display(), free >> 20, needed >> 20);
        host.warn(format!("'{path}' has {free} MiB free, and the backup takes {needed} MiB and its WAL"));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_directory_is_private_and_goes_with_its_value() {
        let above = tempfile::tempdir().unwrap();
        let path = above.path().join("d");
        let directory = Directory::make(&path, false).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(matches!(Directory::make(&path, false), Err(Error::DrillDirectory { .. })));
        assert!(path.exists(), "what is there already is not touched");
        drop(directory);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn it_stays_where_it_is_wanted() {
        let above = tempfile::tempdir().unwrap();
        let path = above.path().join("d");
        let directory = Directory::make(&path, true).unwrap();
        assert_eq!(directory.close(&Host::system()).await, Some(path.clone()));
        assert!(path.exists());
    }
}
