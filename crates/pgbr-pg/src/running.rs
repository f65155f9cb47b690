//! Whether a server runs on a data directory.

use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use crate::error::{Error, Result};
use crate::reader::read_bounded;

/// More than the nine short lines that a server writes.
const MAX_PID_FILE_BYTES: usize = 64 << 10;

/// What `postmaster.pid` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "callers decide for each")]
pub enum ServerState {
    /// There is no such file: no server runs here.
    Stopped,
    /// The process named in it lives (and works in this directory, as far as that can be seen).
    Running(i32),
    /// The file is there, but no process that fits. In another container or on another host one may be: do not take it for
    /// proof that the directory is free.
    Stale,
}

/// Looks for a server on `pg_data`.
///
/// # Errors
/// When `postmaster.pid` is there but cannot be read.
pub fn server_state(pg_data: impl AsRef<Path>) -> Result<ServerState> {
    let pg_data = pg_data.as_ref();
    let file = match read_bounded(&pg_data.join("postmaster.pid"), MAX_PID_FILE_BYTES) {
        Err(error) if error.is_not_found() => return Ok(ServerState::Stopped),
        other => other?,
    };
    let Some(pid) = pid_of(&file) else { return Ok(ServerState::Stale) };
    match test_kill_process(pid) {
        Err(Errno::SRCH) => return Ok(ServerState::Stale),
        // It lives, though it is not ours.
        Ok(()) | Err(Errno::PERM) => {}
        Err(errno) => {
            return Err(Error::io("ask after the process in", pg_data.join("postmaster.pid"))(errno.into()));
        }
    }
    Ok(if works_elsewhere(pid, pg_data) {
        ServerState::Stale
    } else {
        ServerState::Running(pid.as_raw_nonzero().get())
    })
}

/// The first line; a server without a postmaster (single-user mode) writes its number with a minus.
fn pid_of(file: &[u8]) -> Option<Pid> {
    let line = file.split(|byte| *byte == b'\n').next()?;
    let number: i32 = std::str::from_utf8(line).ok()?.trim().parse().ok()?;
    Pid::from_raw(number.checked_abs()?)
}

/// Whether the process certainly is another one that got the number later: a server's working directory is its data directory.
fn works_elsewhere(pid: Pid, pg_data: &Path) -> bool {
    let cwd = std::fs::read_link(format!("/proc/{}/cwd", pid.as_raw_nonzero()));
    match (cwd, pg_data.canonicalize()) {
        (Ok(cwd), Ok(pg_data)) => cwd != pg_data,
        _ => false,
    }
}

/// Reads what may be the file: a process is named by a number above 0.
#[cfg(fuzzing)]
pub(crate) fn read(bytes: &[u8]) {
    assert!(pid_of(bytes).is_none_or(|pid| pid.as_raw_nonzero().get() > 0));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_without_a_server() {
        let directory = tempfile::tempdir().unwrap();
        let state = || server_state(directory.path()).unwrap();
        assert_eq!(state(), ServerState::Stopped);
        for stale in ["", "x\n", "0\n", "999999999\n", "-2147483648\n"] {
            std::fs::write(directory.path().join("postmaster.pid"), stale).unwrap();
            assert_eq!(state(), ServerState::Stale, "{stale:?}");
        }
        // This very process lives, but elsewhere.
        std::fs::write(directory.path().join("postmaster.pid"), format!("{}\n", std::process::id())).unwrap();
        assert_eq!(state(), ServerState::Stale);
    }

    #[test]
    fn a_process_in_the_directory_counts() {
        let directory = tempfile::tempdir().unwrap();
        let mut child =
            std::process::Command::new("sleep").arg("60").current_dir(directory.path()).spawn().unwrap();
        std::fs::write(directory.path().join("postmaster.pid"), format!("{}\n/x\n", child.id())).unwrap();
        let state = server_state(directory.path()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(state, ServerState::Running(i32::try_from(child.id()).unwrap()));
        assert_eq!(server_state(directory.path()).unwrap(), ServerState::Stale);
    }
}
