//! A directory for one test, removed however the test process ends, with the servers that run in it.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::operator::{as_operator, own};

/// Stops every server whose data directory lies (at most two levels) below `$1`, then removes `$1` unless `$2` is `keep`.
/// It starts when standard input ends without a line, that is when the test process has ended.
const WATCHDOG: &str = r#"
if read -r _; then exit 0; fi
for file in "$1"/postmaster.pid "$1"/*/postmaster.pid "$1"/*/*/postmaster.pid; do
    if [ -f "$file" ] && read -r pid <"$file" && grep -qF "$1" "/proc/$pid/cmdline"; then kill -QUIT "$pid"; fi
done
if [ "$2" != keep ]; then
    for try in 1 2 3 4 5 6 7 8 9 10; do rm -rf -- "$1" && break; sleep 0.3; done
fi
"#;

/// A directory of the operator under `/tmp` (or `PGBR_TEST_TMP`), with a short name so that socket paths below it stay
/// within their limit of 107 bytes. It is readable for everybody.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    watchdog: Child,
    /// Held open for as long as this process lives; a line on it tells the watchdog that there is nothing to do.
    leash: Option<ChildStdin>,
}

impl Scratch {
    /// Makes a fresh directory.
    ///
    /// # Panics
    /// When that fails.
    pub fn new() -> Self {
        let base = std::env::var_os("PGBR_TEST_TMP").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
        let path = tempfile::Builder::new()
            .prefix("pgbr-")
            .tempdir_in(&base)
            .unwrap_or_else(|error| panic!("could not make a directory in {}: {error}", base.display()))
            .keep();
        set_mode(&path, 0o755);
        own(&path);
        let mut command = Command::new("sh");
        // A group of its own, so that Ctrl-C ends the tests and leaves the watchdog to its work.
        let mut watchdog = as_operator(&mut command)
            .args(["-c", WATCHDOG, "pgbr-watchdog"])
            .arg(&path)
            .arg(if keep() { "keep" } else { "remove" })
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("could not start a watchdog: {error}"));
        let leash = watchdog.stdin.take();
        Self { path, watchdog, leash }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a directory of the operator below it, with mode 0750, and returns its path.
    ///
    /// # Panics
    /// When that fails.
    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        fs::create_dir(&path).unwrap_or_else(|error| panic!("could not make {}: {error}", path.display()));
        set_mode(&path, 0o750);
        own(&path);
        path
    }

    /// Writes a file of the operator below it, with mode 0640, and returns its path.
    ///
    /// # Panics
    /// When that fails.
    pub fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path.join(name);
        fs::write(&path, contents)
            .unwrap_or_else(|error| panic!("could not write {}: {error}", path.display()));
        set_mode(&path, 0o640);
        own(&path);
        path
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Scratch {
    /// Removes the directory. Whatever runs in it has to be stopped before.
    fn drop(&mut self) {
        let removed = if keep() { Ok(()) } else { remove(&self.path) };
        if let Some(mut leash) = self.leash.take() {
            // Where that fails the watchdog has gone already, and the directory with it.
            drop(leash.write_all(b"done\n"));
        }
        drop(self.watchdog.wait());
        match removed {
            Err(error) if !std::thread::panicking() => {
                panic!("could not remove {}: {error}", self.path.display())
            }
            _ if keep() => show_kept(&self.path),
            _ => {}
        }
    }
}

#[expect(clippy::print_stderr, reason = "whoever asked to keep the directories wants to know where they are")]
fn show_kept(path: &Path) {
    eprintln!("kept {}", path.display());
}

fn keep() -> bool {
    std::env::var_os("PGBR_TEST_KEEP").is_some_and(|value| value == "1")
}

/// Tries a few times: a server that was killed may still be removing files of its own.
fn remove(path: &Path) -> std::io::Result<()> {
    let mut tries = 0;
    loop {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !path.exists() => return Ok(()),
            Err(error) if tries == 20 => return Err(error),
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(50)),
            Ok(()) => return Ok(()),
        }
        tries += 1;
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode))
        .unwrap_or_else(|error| panic!("could not set the mode of {}: {error}", path.display()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operator_can_use_it_and_it_goes_with_its_value() {
        let scratch = Scratch::new();
        let file = scratch.file("hello", "world");
        let dir = scratch.dir("sub");
        let status = as_operator(&mut Command::new("cp")).arg(&file).arg(&dir).status().expect("cp runs");
        assert!(status.success());
        assert_eq!(fs::read_to_string(dir.join("hello")).expect("was copied"), "world");
        let path = scratch.path().to_owned();
        drop(scratch);
        assert_eq!(path.exists(), keep());
    }

    #[test]
    fn the_watchdog_removes_it_when_the_owner_is_gone() {
        let mut scratch = Scratch::new();
        // What the kernel does for a process that ends.
        drop(scratch.leash.take());
        drop(scratch.watchdog.wait());
        assert_eq!(scratch.path.exists(), keep());
    }
}
