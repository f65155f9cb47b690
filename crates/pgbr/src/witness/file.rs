//! Where a record lies: a file on this host, or on what is mounted here.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgbr_pg::write_durable;
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;

use super::Record;
use crate::error::{Error, Result};
use crate::host::Host;

/// The largest record that is read, in bytes: some hundred thousand backups.
const MAX: u64 = 32 << 20;
/// For its owner, and for a group that may look.
const MODE: u32 = 0o640;
/// How long another process of this host may be at work on the record.
const PATIENCE: Duration = Duration::from_secs(30);
/// How soon it is looked again.
const LOOK: Duration = Duration::from_millis(50);

/// The file of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WitnessFile(PathBuf);

/// Keeps other processes of this host from changing a record, until it is dropped.
pub(super) struct Locked(#[expect(dead_code, reason = "open it is the lock")] File);

impl WitnessFile {
    /// The record of a stanza in the repository that the configuration calls `repo`, in this directory.
    pub fn of(directory: &Path, stanza: &str, repo: u16) -> Self {
        Self(directory.join(format!("{stanza}{}", end_of_name(repo))))
    }

    /// Any file.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The records of all stanzas in the repository that the configuration calls `repo`.
    ///
    /// # Errors
    /// Where the directory cannot be listed; there are none where it is missing.
    pub fn all_of(directory: &Path, repo: u16) -> Result<Vec<Self>> {
        let failed = |source| Error::Io { doing: "list", path: directory.to_owned(), source };
        let listed = match std::fs::read_dir(directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            listed => listed.map_err(failed)?,
        };
        let mut found = Vec::new();
        for entry in listed {
            let name = entry.map_err(failed)?.file_name();
            if name.to_str().is_some_and(|name| name.ends_with(&end_of_name(repo))) {
                found.push(Self(directory.join(name)));
            }
        }
        found.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(found)
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The record; none where there is no file.
    pub(super) fn read(&self) -> Result<Option<Record>> {
        let failed = |source| Error::Io { doing: "read", path: self.0.clone(), source };
        let file = match File::open(&self.0) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file.map_err(|source| Error::Io { doing: "open", path: self.0.clone(), source })?,
        };
        let mut bytes = Vec::new();
        file.take(MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
        let bad = |reason| Error::BadWitness { path: self.0.clone(), reason };
        if bytes.len() as u64 > MAX {
            return Err(bad(format!("it has more than {MAX} bytes")));
        }
        Record::parse(&bytes).map(Some).map_err(bad)
    }

    pub(super) fn write(&self, record: &Record) -> Result<()> {
        Ok(write_durable(&self.0, &record.render()?, MODE)?)
    }

    pub(super) fn remove(&self) -> Result<()> {
        match std::fs::remove_file(&self.0) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(Error::Io { doing: "remove", path: self.0.clone(), source: error })
            }
            _ => Ok(()),
        }
    }

    /// Makes the directory where it is missing, and waits until no other process of this host changes the record.
    pub(super) async fn lock(&self, host: &Host) -> Result<Locked> {
        let path = self.0.with_extension("json.lock");
        let failed = |doing, source| Error::Io { doing, path: path.clone(), source };
        if let Some(directory) = self.0.parent() {
            std::fs::create_dir_all(directory).map_err(|source| failed("make the directory of", source))?;
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR | Mode::RGRP);
        let file = File::from(file.map_err(|errno| failed("open", errno.into()))?);
        let begun = host.clock.monotonic();
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Locked(file)),
                Err(Errno::WOULDBLOCK | Errno::INTR) if host.clock.monotonic() < begun + PATIENCE => {
                    host.stop.check()?;
                    tokio::time::sleep(LOOK).await;
                }
                Err(errno) => return Err(failed("lock", errno.into())),
            }
        }
    }
}

fn end_of_name(repo: u16) -> String {
    format!("-repo{repo}.json")
}
