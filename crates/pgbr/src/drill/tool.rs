//! Programs that a drill runs: asked for their version, or run with their output in a file, and ended when nobody waits for them any more.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::error::{Error, Result};
use crate::host::Host;

/// How often a process is looked at.
pub(super) const PAUSE: Duration = Duration::from_millis(50);
/// How long a program may take to tell its version.
const VERSION_LIMIT: Duration = Duration::from_secs(30);
/// The most bytes that are read of what a program has written.
const MAX_OUTPUT: u64 = 64 << 10;

/// What libpq would take from the surroundings, and lead a client to another server.
const LIBPQ: [&str; 15] = [
    "PGAPPNAME",
    "PGCHANNELBINDING",
    "PGCONNECT_TIMEOUT",
    "PGDATABASE",
    "PGHOST",
    "PGHOSTADDR",
    "PGPASSWORD",
    "PGPORT",
    "PGREQUIREAUTH",
    "PGSERVICE",
    "PGSERVICEFILE",
    "PGSSLMODE",
    "PGSYSCONFDIR",
    "PGTARGETSESSIONATTRS",
    "PGUSER",
];

/// A running program. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Tool {
    child: Child,
    output: PathBuf,
}

/// How a program ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// By itself, having written this.
    By(ExitStatus, String),
    /// It took too long.
    Late,
}

/// A client of the drill's server, or another program of PostgreSQL's, in plain surroundings.
pub(super) fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    for name in LIBPQ {
        command.env_remove(name);
    }
    command.env("LC_ALL", "C").env("PGCLIENTENCODING", "UTF8").process_group(0);
    // Beats what a database or a role is set to.
    command.env(
        "PGOPTIONS",
        "-c statement_timeout=0 -c lock_timeout=0 -c default_transaction_read_only=off -c local_preload_libraries= -c session_preload_libraries=",
    );
    command
}

impl Tool {
    /// Starts a program that writes into the file `output`.
    pub(super) fn start(mut command: Command, output: &Path) -> Result<Self> {
        let program = PathBuf::from(command.get_program());
        let file = File::create(output).map_err(Error::io("create", output))?;
        let errors = file.try_clone().map_err(Error::io("open", output))?;
        let child = command.stdin(Stdio::null()).stdout(file).stderr(errors).spawn();
        let child = child.map_err(Error::io("run", &program))?;
        Ok(Self { child, output: output.to_owned() })
    }

    /// Waits for its end.
    pub(super) async fn wait(mut self, limit: Duration) -> Result<Ended> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().map_err(Error::io("wait for", &self.output))? {
                return Ok(Ended::By(status, first_bytes(&self.output)));
            }
            if begun.elapsed() >= limit {
                return Ok(Ended::Late);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            kill_group(&self.child);
            self.child.wait().ok();
        }
    }
}

/// Ends a child that leads a group of its own, and all that is in that.
pub(super) fn kill_group(child: &Child) {
    if let Some(pid) = pid_of(child) {
        kill_process_group(pid, Signal::KILL).ok();
    }
}

pub(super) fn pid_of(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}

/// What a program says of its version, as `postgres (PostgreSQL) 15.20`; none where it cannot be asked.
pub(super) async fn version_of(host: &Host, program: &Path) -> Result<Option<String>> {
    let mut asked = command(program);
    asked.arg("--version").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let Ok(mut child) = asked.spawn() else { return Ok(None) };
    let begun = Instant::now();
    while matches!(child.try_wait(), Ok(None)) && begun.elapsed() < VERSION_LIMIT && host.stop.check().is_ok()
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    if !matches!(child.try_wait(), Ok(Some(_))) {
        kill_group(&child);
        child.wait().ok();
        host.stop.check()?;
        return Ok(None);
    }
    let mut text = Vec::new();
    let out = child.stdout.take();
    let read = out.map(|out| out.take(1024).read_to_end(&mut text));
    Ok(matches!(read, Some(Ok(_))).then(|| String::from_utf8_lossy(&text).trim().to_owned()))
}

/// The first that a program has written.
fn first_bytes(path: &Path) -> String {
    let mut bytes = Vec::new();
    // What cannot be read is not there: how the program ended tells enough.
    if let Ok(file) = File::open(path) {
        file.take(MAX_OUTPUT).read_to_end(&mut bytes).ok();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The last that a program has written.
pub(super) fn last_bytes(path: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(mut file) = File::open(path) {
        let size = file.metadata().map_or(0, |meta| meta.len());
        if file.seek(SeekFrom::Start(size.saturating_sub(MAX_OUTPUT))).is_ok() {
            file.take(MAX_OUTPUT).read_to_end(&mut bytes).ok();
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
