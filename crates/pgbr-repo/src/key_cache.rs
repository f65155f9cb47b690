//! Keeps the costly result of a key derivation on this host, for its owner only.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Where wrapping keys may be kept between runs, so that `archive-push` does not pay for Argon2id each time.
///
/// What is kept opens with the same passphrase and for the same slot only; still it must not leave the host.
pub trait KeyCache: Send + Sync {
    /// What was kept for a slot. Anything that cannot be used is as good as nothing.
    fn load(&self, slot: &[u8; 8]) -> Option<Vec<u8>>;

    /// Keeps something for a slot.
    ///
    /// # Errors
    /// Where it cannot be kept; the repository opens all the same, with a warning.
    fn store(&self, slot: &[u8; 8], sealed: &[u8]) -> Result<()>;
}

/// A cache in a directory of mode 0700 that belongs to this user, in files of mode 0600.
#[derive(Debug, Clone)]
pub struct FileKeyCache {
    directory: PathBuf,
    max: u64,
}

/// The largest file that is read, in bytes, where nothing else is said.
const MAX_FILE: u64 = 4096;

impl FileKeyCache {
    /// A cache in this directory, which is made when something is to be kept.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), max: MAX_FILE }
    }

    /// One for other things than keys, of at most `max` bytes each.
    #[must_use]
    pub const fn with_max(mut self, max: u64) -> Self {
        self.max = max;
        self
    }

    /// Takes away what was kept for a slot, if anything was.
    pub fn forget(&self, slot: &[u8; 8]) {
        // What cannot be removed is found out of date where it is used.
        std::fs::remove_file(self.path(slot)).ok();
    }

    fn path(&self, slot: &[u8; 8]) -> PathBuf {
        self.directory.join(data_encoding::HEXLOWER.encode(slot))
    }

    fn read(&self, slot: &[u8; 8]) -> Result<Vec<u8>> {
        self.check_directory()?;
        let path = self.path(slot);
        let failed = |e| Error::local("read", &path, e);
        let mut file = no_follow().read(true).open(&path).map_err(failed)?;
        check_private(&path, &file.metadata().map_err(failed)?, "it is not a file")?;
        let mut content = Vec::new();
        Read::by_ref(&mut file).take(self.max).read_to_end(&mut content).map_err(failed)?;
        Ok(content)
    }

    /// Refuses a directory through which somebody else could read or plant keys.
    fn check_directory(&self) -> Result<()> {
        let found = self.directory.symlink_metadata();
        let found = found.map_err(|e| Error::local("look at", &self.directory, e))?;
        if !found.is_dir() {
            return Err(Error::Unsafe { path: self.directory.clone(), reason: "it is not a directory" });
        }
        check_owner_and_mode(&self.directory, &found)
    }
}

impl KeyCache for FileKeyCache {
    fn load(&self, slot: &[u8; 8]) -> Option<Vec<u8>> {
        self.read(slot).ok()
    }

    fn store(&self, slot: &[u8; 8], sealed: &[u8]) -> Result<()> {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory);
        made.map_err(|e| Error::local("create directory", &self.directory, e))?;
        self.check_directory()?;
        let path = self.path(slot);
        let staged = path.with_extension("tmp");
        let failed = |e| Error::local("write", &staged, e);
        let mut file = create_new(&staged).map_err(failed)?;
        file.write_all(sealed).map_err(failed)?;
        drop(file);
        std::fs::rename(&staged, &path).map_err(|e| Error::local("rename", &staged, e))
    }
}

fn no_follow() -> std::fs::OpenOptions {
    let mut options = std::fs::OpenOptions::new();
    options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
    options
}

/// Makes a new file for its owner alone; one left by a crash makes room.
fn create_new(path: &Path) -> io::Result<File> {
    let open = || no_follow().write(true).create_new(true).mode(0o600).open(path);
    match open() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            std::fs::remove_file(path)?;
            open()
        }
        other => other,
    }
}

fn check_private(path: &Path, found: &std::fs::Metadata, kind: &'static str) -> Result<()> {
    if !found.is_file() {
        return Err(Error::Unsafe { path: path.to_owned(), reason: kind });
    }
    check_owner_and_mode(path, found)
}

fn check_owner_and_mode(path: &Path, found: &std::fs::Metadata) -> Result<()> {
    let reason = if found.uid() != rustix::process::geteuid().as_raw() {
        "it belongs to another user"
    } else if found.mode() & 0o077 != 0 {
        "others have access to it"
    } else {
        return Ok(());
    };
    Err(Error::Unsafe { path: path.to_owned(), reason })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn keeps_keys_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let cache = FileKeyCache::new(dir.path().join("deep/cache"));
        let slot = [0xAB; 8];
        assert_eq!(cache.load(&slot), None);
        cache.store(&slot, b"first").unwrap();
        cache.store(&slot, b"second").unwrap();
        assert_eq!(cache.load(&slot).unwrap(), b"second");
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&cache.directory), 0o700);
        assert_eq!(mode(&cache.path(&slot)), 0o600);
        assert_eq!(cache.load(&[1; 8]), None);
    }

    #[test]
    fn refuses_what_others_could_have_touched() {
        let dir = tempfile::tempdir().unwrap();
        let cache = FileKeyCache::new(dir.path().join("cache"));
        let slot = [1; 8];
        cache.store(&slot, b"key").unwrap();
        let chmod = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };

        chmod(&cache.path(&slot), 0o640);
        assert_eq!(cache.load(&slot), None, "a file that a group can read");
        chmod(&cache.path(&slot), 0o600);
        chmod(&cache.directory, 0o755);
        assert_eq!(cache.load(&slot), None, "a directory that others can enter");
        assert!(matches!(cache.store(&slot, b"key"), Err(Error::Unsafe { .. })));
        chmod(&cache.directory, 0o700);
        assert!(cache.load(&slot).is_some());

        let elsewhere = dir.path().join("elsewhere");
        std::fs::rename(cache.path(&slot), &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, cache.path(&slot)).unwrap();
        assert_eq!(cache.load(&slot), None, "a symbolic link");
        let linked = FileKeyCache::new(dir.path().join("link"));
        std::os::unix::fs::symlink(&cache.directory, &linked.directory).unwrap();
        assert!(matches!(linked.store(&slot, b"key"), Err(Error::Unsafe { .. })));
    }
}
