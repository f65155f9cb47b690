//! Writes that survive a crash: contents synced before their name appears, the directory after.

use std::ffi::OsString;
use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::error::{Error, Result};

/// What the names of unfinished files end with.
pub const TEMPORARY_SUFFIX: &str = ".pgbr.tmp";

/// Puts `bytes` at `path` with exactly the permissions `mode`, whatever the umask; what was there before is replaced in one step.
///
/// When this returns, the file is on disk. A crash leaves the old file or the new one, and perhaps a `.pgbr.tmp` beside it.
///
/// # Errors
/// When any step fails; the temporary file is removed then if that can be done.
pub fn write_durable(path: impl AsRef<Path>, bytes: &[u8], mode: u32) -> Result<()> {
    let path = path.as_ref();
    let temporary = temporary_name(path)?;
    let written = write_synced(&temporary, bytes, mode).and_then(|()| rename_durable(&temporary, path));
    if written.is_err() {
        // The first error is the one to tell.
        let _gone = std::fs::remove_file(&temporary);
    }
    written
}

/// Renames within a file system and syncs the directories of both names.
///
/// # Errors
/// When the rename or a sync fails.
pub fn rename_durable(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
    let (from, to) = (from.as_ref(), to.as_ref());
    std::fs::rename(from, to).map_err(Error::io("rename", from))?;
    sync_dir(parent(to))?;
    if parent(from) == parent(to) { Ok(()) } else { sync_dir(parent(from)) }
}

/// Makes the names in a directory durable.
///
/// # Errors
/// When it cannot be opened or synced.
pub fn sync_dir(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let directory = File::open(path).map_err(Error::io("open directory", path))?;
    directory.sync_all().map_err(Error::io("sync directory", path))
}

/// Writes out everything of the file system that `path` lies on, other programs' files too.
///
/// # Errors
/// When it cannot be opened, or when a write failed since the last such call.
pub fn syncfs(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let file = File::open(path).map_err(Error::io("open", path))?;
    rustix::fs::syncfs(&file).map_err(|errno| Error::io("sync the file system of", path)(errno.into()))
}

fn write_synced(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    // A left-over is replaced, but a link that somebody put there is not followed.
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR);
    let mut file = File::from(file.map_err(|errno| Error::io("create", path)(errno.into()))?);
    file.write_all(bytes).map_err(Error::io("write", path))?;
    file.set_permissions(Permissions::from_mode(mode & 0o7777))
        .map_err(Error::io("set the mode of", path))?;
    file.sync_all().map_err(Error::io("sync", path))
}

fn temporary_name(path: &Path) -> Result<PathBuf> {
    let name =
        path.file_name().ok_or_else(|| Error::NotA { path: path.to_owned(), expected: "file name" })?;
    let mut temporary = OsString::from(name);
    temporary.push(TEMPORARY_SUFFIX);
    Ok(path.with_file_name(temporary))
}

/// The directory of a path; that of a bare name is the current one.
fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_replaced_whole_and_with_their_mode() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        for (bytes, mode) in [(&b"old and longer"[..], 0o640), (b"new", 0o600)] {
            write_durable(&path, bytes, mode).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, mode);
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        sync_dir(directory.path()).unwrap();
        syncfs(directory.path()).unwrap();
    }

    #[test]
    fn a_planted_link_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let victim = directory.path().join("victim");
        std::fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, directory.path().join("file.pgbr.tmp")).unwrap();
        assert!(write_durable(directory.path().join("file"), b"new", 0o600).is_err());
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
    }

    #[test]
    fn errors_name_the_path() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("missing/file");
        let error = write_durable(&path, b"x", 0o600).unwrap_err();
        assert!(error.to_string().contains("missing/file"), "{error}");
        assert!(error.is_not_found());
        assert!(write_durable("/", b"x", 0o600).is_err());
        assert!(sync_dir(&path).is_err());
    }
}
