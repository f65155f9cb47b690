//! One WAL file out of the first repository that has it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pgbr_manifest::{ArchiveId, StanzaName, WalFileName};
use pgbr_pg::read_control_file;
use pgbr_pgbackrest::{ArchiveId as AnyArchiveId, Error as TheirError, HistoryId};
use pgbr_repo::{Error as RepoError, Store, WalGet};

use super::beside::{Asker, Beside};
use super::source::{Opened, Source, several};
use crate::error::{Error, Result, with_causes};
use crate::host::Host;
use crate::place::{RepoAccess, StanzaPlace, is_absent};

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
        /// The archive there, ours or pgBackRest's; none where it was fetched ahead.
        archive: Option<AnyArchiveId>,
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
        | Error::PgBackRest(
            TheirError::WrongPassphrase { .. }
            | TheirError::Encrypted { .. }
            | TheirError::NotEncrypted { .. }
            | TheirError::UnsupportedFormat { .. }
            | TheirError::DuplicateWal { .. },
        )
        | Error::OtherCipher { .. }
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
                Ok(Some(archive)) => {
                    for (key, error) in &failed {
                        host.warn(format!("repo{key}: passed over for {file}: {}", with_causes(error)));
                    }
                    return Ok(Got::Found { repo: source.key, archive: Some(archive) });
                }
                Ok(None) => {}
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

    /// Looks in one repository: in our archive, and where that does not have the file, or is not there, in what pgBackRest has beside it.
    async fn from(
        &self,
        host: &Host,
        source: &Source,
        file: &WalFileName,
        to: &Path,
    ) -> Result<Option<AnyArchiveId>> {
        let asker = self.asker();
        let ours = self.ours(host, source, asker, file, to).await;
        let beside = match &ours {
            Ok(Looked { found: Some(archive), .. }) => return Ok(Some(*archive)),
            Ok(Looked { current, store, .. }) => {
                source.theirs.get(host, (asker.or(Some(*current)), Some(store)), file, to).await
            }
            Err(error) if has_nothing(error) => source.theirs.get(host, (asker, None), file, to).await,
            Err(_) => return ours.map(|looked| looked.found),
        };
        match (beside?, ours) {
            (Beside::Found(archive), _) => Ok(Some(archive)),
            (Beside::Missing, _) | (_, Ok(_)) => Ok(None),
            (Beside::OtherCluster(error), Err(ours)) if is_absent(&ours) => Err(error),
            (Beside::NoArchive | Beside::OtherCluster(_), Err(ours)) => Err(ours),
        }
    }

    /// The server that asks, if its control file can be read.
    fn asker(&self) -> Option<Asker> {
        let control = read_control_file(self.pg_data.as_ref()?.join("global/pg_control")).ok();
        control.map(|(control, _)| Asker::from(&control))
    }

    /// Looks in our archive. What is kept of it on this host is good for finding a file and for nothing else: that a file is missing, or
    /// cannot be read, is said by one that was asked who it is.
    async fn ours(
        &self,
        host: &Host,
        source: &Source,
        asker: Option<Asker>,
        file: &WalFileName,
        to: &Path,
    ) -> Result<Looked> {
        let opened = source.open(host).await?;
        let looked = look(host, &opened, asker, file, to).await;
        match looked {
            Ok(looked) if looked.found.is_some() => Ok(looked),
            looked if !opened.kept => looked,
            looked => {
                source.forget();
                let fresh = source.open_fresh(host).await?;
                match looked {
                    Ok(missing) if fresh.is_same(&opened) => Ok(missing),
                    _ => look(host, &fresh, asker, file, to).await,
                }
            }
        }
    }
}

/// What came of a look in our archive.
struct Looked {
    /// The archive that had it.
    found: Option<AnyArchiveId>,
    /// The cluster that the stanza is of now.
    current: Asker,
    store: Store,
}

async fn look(
    host: &Host,
    opened: &Opened,
    asker: Option<Asker>,
    file: &WalFileName,
    to: &Path,
) -> Result<Looked> {
    let place = &opened.place;
    place.repo.require_reader("get WAL out of the archive")?;
    let now = place.stanza.current();
    let current = Asker { system_id: now.system_id, version: now.version.into(), segment: None };
    let looked = |found| Looked { found, current, store: place.repo.store().clone() };
    for archive in archives_of(place, asker)? {
        if let WalGet::Found(saved) = place.wal.get_to_path(archive, file, to).await? {
            saved.warnings.iter().for_each(|warning| host.warn(warning.as_str()));
            let number = HistoryId::new(archive.number());
            let number = number.ok_or(Error::Internal { what: "an archive without a number" })?;
            return Ok(looked(Some(AnyArchiveId::new(archive.version().into(), number))));
        }
    }
    Ok(looked(None))
}

/// Whether an error says that there is nothing of ours that the file could be in.
fn has_nothing(error: &Error) -> bool {
    is_absent(error) || matches!(error, Error::OtherCluster { .. })
}

/// The archives of the cluster that asks, newest first: it may be one from before an upgrade, or one that was gone back to after it.
fn archives_of(place: &StanzaPlace, asker: Option<Asker>) -> Result<Vec<ArchiveId>> {
    let current = place.stanza.current();
    let Some(asker) = asker else { return Ok(vec![current.archive_id()]) };
    let history = place.stanza.history().iter().rev();
    let found: Vec<_> = history
        .filter(|cluster| cluster.system_id == asker.system_id)
        .map(pgbr_repo::ClusterId::archive_id)
        .collect();
    if found.is_empty() {
        return Err(Error::OtherCluster {
            stanza: place.stanza.name().to_string(),
            expected: current.system_id,
            expected_version: current.version.to_string(),
            found: asker.system_id,
            found_version: asker.version.to_string(),
        });
    }
    Ok(found)
}
