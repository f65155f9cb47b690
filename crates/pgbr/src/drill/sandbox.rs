//! A process that can write in few places only (Landlock). Recovery makes a tablespace that was created after the backup where it was then:
//! beside the cluster itself that would be its own files.

use std::io;
use std::path::Path;
use std::process::{Child, Command};

use landlock::{
    ABI, AccessFs, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, path_beneath_rules,
};

/// The oldest version of the interface that knows all ways to change a file; older kernels do what they can.
const VERSION: ABI = ABI::V3;

/// Starts a process that, with all that it starts, can write below `writable` only; true where the kernel sees to that. Reading is free.
pub(super) fn spawn(mut command: Command, writable: &[&Path]) -> io::Result<(Child, bool)> {
    // What confines a thread confines what it starts, and the thread ends here.
    let confined = || {
        let confined = confine(writable).unwrap_or(false);
        Ok((command.spawn()?, confined))
    };
    std::thread::scope(|scope| scope.spawn(confined).join())
        .unwrap_or_else(|_| Err(io::Error::other("the thread that starts it panicked")))
}

/// Takes the right to write anywhere else from the calling thread.
fn confine(writable: &[&Path]) -> Result<bool, RulesetError> {
    let write = AccessFs::from_write(VERSION);
    let rules = path_beneath_rules(writable, write);
    let status = Ruleset::default().handle_access(write)?.create()?.add_rules(rules)?.restrict_self()?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_writes_where_it_may_and_nowhere_else() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let kept = outside.path().join("kept");
        std::fs::write(&kept, "kept").unwrap();
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "echo x > \"$1\"/new; echo x > \"$2\"/kept; echo x > \"$2\"/new; rm \"$2\"/kept; true",
            "sh",
        ]);
        command.arg(inside.path()).arg(outside.path()).stderr(std::process::Stdio::null());
        let (mut child, confined) = spawn(command, &[inside.path(), Path::new("/dev")]).unwrap();
        assert!(child.wait().unwrap().success());
        assert!(inside.path().join("new").exists());
        if confined {
            assert_eq!(std::fs::read_to_string(&kept).unwrap(), "kept");
            assert!(!outside.path().join("new").exists());
        }
        // This process still may.
        std::fs::write(outside.path().join("new"), "x").unwrap();
    }
}
