//! One WAL file out of the first repository that has it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pgbr_manifest::{ArchiveId, StanzaName, WalFileName};
use pgbr_pg::read_control_file;
use pgbr_repo::{Error as RepoError, WalGet};

use super::source::{Opened, Source, several};
use crate::error::{Error, Result, with_causes};
use crate::host::Host;
use crate::place::{RepoAccess, StanzaPlace};

/// The first and the longest pause between two tries of a get.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A WAL file to get.
#[derive(Debug, Clone)]
pub struct ArchiveGetRequest {
    /// The repositories, by their numbers in the options, the one to be asked first at the front.
    pub repos: Vec<(u16, RepoAccess)>,
    /// The stanza.
    pub stanza: StanzaName,
    /// The name that the server asks for.
    pub file: String,
    /// Where it is to be written.
    pub destination: PathBuf,
    /// The data directory, whose control file says which archive is meant.
    pub pg_data: Option<PathBuf>,
    /// How long to try while the repository cannot be read.
    pub timeout: Duration,
    /// As in [`ArchivePushRequest`](crate::ArchivePushRequest).
    pub facts: Option<PathBuf>,
}

/// What became of a get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a file that could be looked for is there or it is not")]
pub enum Got {
    /// It was written.
    Found {
        /// The number of the repository that it came from.
        repo: u16,
    },
    /// Every repository was reached, and the file is in none of them.
    Missing,
}

/// Gets a WAL file: from the first repository that has it and can be read. Tries for the whole time-out while it is not found and some repository
/// could not be read: PostgreSQL takes almost every failure for the end of the WAL, so "missing" is said only where that is known.
///
/// What it writes is not synced: the server reads it at once, asks for it again after a crash, and syncs by itself what it keeps
/// (`durable_rename` in `KeepFileRestoredFromArchive`).
///
/// # Errors
/// When a repository cannot be read or what it holds does not verify, after the time-out, and no other has the file.
pub async fn archive_get(host: &Host, request: ArchiveGetRequest) -> Result<Got> {
    let Ok(file) = request.file.parse() else {
        return Err(Error::Wal { file: request.file, reason: "has no name that is archived".to_owned() });
    };
    let get = Get {
        sources: request
            .repos
            .iter()
            .map(|(key, access)| Source::new(*key, access, &request.stanza, request.facts.as_ref()))
            .collect(),
        pg_data: request.pg_data,
    };
    let begun = host.clock.monotonic();
    let mut pause = PAUSES.0;
    loop {
        host.stop.check()?;
        let error = match get.once(host, &file, &request.destination).await {
            Ok(got) => return Ok(got),
            Err(error) => error,
        };
        let waited = host.clock.monotonic().saturating_sub(begun);
        if !may_pass(&error) || waited + pause > request.timeout {
            return Err(error);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// Whether the failure may be over after a while, without anybody changing the configuration.
pub(super) fn may_pass(error: &Error) -> bool {
    match error {
        Error::Repo(
            RepoError::WrongPassphrase
            | RepoError::PassphraseMissing
            | RepoError::NotEncrypted
            | RepoError::WriteOnly { .. }
            | RepoError::WalAmbiguous { .. },
        )
        | Error::OtherCluster { .. }
        | Error::Stopped => false,
        Error::Repos { failed, .. } => failed.iter().any(|(_, error)| may_pass(error)),
        _ => true,
    }
}

/// Where WAL files are looked for.
pub(super) struct Get {
    pub(super) sources: Vec<Source>,
    pub(super) pg_data: Option<PathBuf>,
}

impl Get {
    /// Looks in one repository after the other.
    pub(super) async fn once(&self, host: &Host, file: &WalFileName, destination: &Path) -> Result<Got> {
        let mut failed: Vec<(u16, Error)> = Vec::new();
        for source in &self.sources {
            match self.from(host, source, file, destination).await {
                Ok(true) => {
                    for (key, error) in &failed {
                        host.warn(format!("repo{key}: passed over for {file}: {}", with_causes(error)));
                    }
                    return Ok(Got::Found { repo: source.key });
                }
                Ok(false) => {}
                // Another repository would not help.
                Err(error @ (Error::Stopped | Error::Repo(RepoError::Local { .. }))) => return Err(error),
                Err(error) => failed.push((source.key, error)),
            }
        }
        match failed.is_empty() {
            true => Ok(Got::Missing),
            false => Err(several(&format!("unable to get {file}"), self.sources.len(), failed)),
        }
    }

    /// Looks in one repository. What is kept of it on this host is good for finding a file and for nothing else: that a file is missing, or
    /// cannot be read, is said by one that was asked who it is.
    async fn from(&self, host: &Host, source: &Source, file: &WalFileName, to: &Path) -> Result<bool> {
        let opened = source.open(host).await?;
        let looked = self.look(host, &opened, file, to).await;
        match looked {
            Ok(true) => Ok(true),
            looked if !opened.kept => looked,
            looked => {
                source.forget();
                let fresh = source.open_fresh(host).await?;
                match looked {
                    Ok(missing) if fresh.is_same(&opened) => Ok(missing),
                    _ => self.look(host, &fresh, file, to).await,
                }
            }
        }
    }

    async fn look(&self, host: &Host, opened: &Opened, file: &WalFileName, to: &Path) -> Result<bool> {
        opened.place.repo.require_reader("get WAL out of the archive")?;
        for archive in archives_of(&opened.place, self.pg_data.as_deref())? {
            if let WalGet::Found(saved) = opened.place.wal.get_to_path(archive, file, to).await? {
                saved.warnings.iter().for_each(|warning| host.warn(warning.as_str()));
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The archives of the cluster that asks, newest first: it may be one from before an upgrade, or one that was gone back to after it.
fn archives_of(place: &StanzaPlace, pg_data: Option<&Path>) -> Result<Vec<ArchiveId>> {
    let current = place.stanza.current();
    let control = pg_data.and_then(|dir| read_control_file(dir.join("global/pg_control")).ok());
    let Some((control, _)) = control else { return Ok(vec![current.archive_id()]) };
    let history = place.stanza.history().iter().rev();
    let found: Vec<_> = history
        .filter(|cluster| cluster.system_id == control.system_id)
        .map(pgbr_repo::ClusterId::archive_id)
        .collect();
    if found.is_empty() {
        return Err(Error::OtherCluster {
            stanza: place.stanza.name().to_string(),
            expected: current.system_id,
            expected_version: current.version.to_string(),
            found: control.system_id,
            found_version: control.version.to_string(),
        });
    }
    Ok(found)
}
