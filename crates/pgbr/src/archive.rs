//! archive-push and archive-get: one WAL file into the archive, or out of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pgbr_codec::Compression;
use pgbr_manifest::{ArchiveId, StanzaName, SystemId, WalFileName};
use pgbr_pg::{WAL_HEADER_BYTES, WalHeader, check_segment, read_control_file};
use pgbr_repo::{PushOutcome, Stanza, WalGet, WalPush, WalSource};

use crate::error::{Error, Result};
use crate::host::Host;
use crate::place::{RepoAccess, StanzaPlace};

/// The first and the longest pause between two tries of a get.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A WAL file to archive.
#[derive(Debug, Clone)]
pub struct ArchivePushRequest {
    /// The repository.
    pub repo: RepoAccess,
    /// The stanza.
    pub stanza: StanzaName,
    /// The file; its last component is its name in the archive.
    pub file: PathBuf,
    /// How to compress.
    pub compression: Compression,
    /// Threads that compress.
    pub threads: usize,
    /// Whether the segment's header must be of the stanza's cluster.
    pub header_check: bool,
}

/// Archives a WAL file. When this returns, it is durable; repeating it is always safe.
///
/// # Errors
/// When the segment is of another cluster, when other content is archived under its name, or as the store failed.
pub async fn archive_push(host: &Host, request: ArchivePushRequest) -> Result<PushOutcome> {
    let name = request.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let file: WalFileName = name.parse()?;
    let place = request.repo.open_stanza(host, &request.stanza).await?;
    let current = *place.stanza.current();
    let mut push = WalPush::new(current.archive_id(), file, WalSource::Path(request.file.clone()))
        .with_compression(request.compression, request.threads.max(1));
    if let WalFileName::Segment(segment) | WalFileName::Partial(segment) = file
        && request.header_check
    {
        let system = check_header(&request.file, segment, &place.stanza).map_err(|error| match error {
            Error::Pg(source) => Error::ForeignWal { file: name, source },
            other => other,
        })?;
        push = push.with_system_id(system);
    }
    let outcome = place.wal.push(push).await?;
    if let PushOutcome::StoredBeside { object, damage } = &outcome {
        host.warn(format!("the archived {file} is damaged ({damage}); it was stored again as '{object}'"));
    }
    Ok(outcome)
}

/// Sees that a segment is of the stanza's cluster and has the place in the log that its name says.
fn check_header(path: &Path, segment: pgbr_manifest::WalSegmentName, stanza: &Stanza) -> Result<SystemId> {
    use std::io::Read;
    let file = std::fs::File::open(path).map_err(Error::io("open", path))?;
    let len = file.metadata().map_err(Error::io("examine", path))?.len();
    let mut page = Vec::with_capacity(WAL_HEADER_BYTES);
    file.take(WAL_HEADER_BYTES as u64).read_to_end(&mut page).map_err(Error::io("read", path))?;
    let header = WalHeader::parse(&page)?;
    let current = stanza.current();
    check_segment(segment, len, &header, current.system_id, current.version)?;
    Ok(current.system_id)
}

/// A WAL file to get.
#[derive(Debug, Clone)]
pub struct ArchiveGetRequest {
    /// The repository.
    pub repo: RepoAccess,
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
}

/// What became of a get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a file that could be looked for is there or it is not")]
pub enum Got {
    /// It was written.
    Found,
    /// The repository was reached, and the file is not in it.
    Missing,
}

/// Gets a WAL file. Tries for the whole time-out while the repository cannot be read: PostgreSQL takes almost every failure for the end
/// of the WAL, so "missing" is said only where that is known.
///
/// # Errors
/// When the repository cannot be read or what it holds does not verify, after the time-out.
pub async fn archive_get(host: &Host, request: ArchiveGetRequest) -> Result<Got> {
    let file: WalFileName = match request.file.parse() {
        Ok(file) => file,
        Err(_) => {
            return Err(Error::Wal { file: request.file, reason: "has no name that is archived".to_owned() });
        }
    };
    let begun = host.clock.monotonic();
    let mut pause = PAUSES.0;
    loop {
        host.stop.check()?;
        let error = match try_get(host, &request, &file).await {
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
fn may_pass(error: &Error) -> bool {
    use pgbr_repo::Error as Repo;
    !matches!(
        error,
        Error::Repo(
            Repo::WrongPassphrase | Repo::PassphraseMissing | Repo::NotEncrypted | Repo::WalAmbiguous { .. }
        ) | Error::OtherCluster { .. }
            | Error::Stopped
    )
}

async fn try_get(host: &Host, request: &ArchiveGetRequest, file: &WalFileName) -> Result<Got> {
    let place = request.repo.open_stanza(host, &request.stanza).await?;
    for archive in archives_of(&place, request.pg_data.as_deref())? {
        if let WalGet::Found(saved) = place.wal.get_to_path(archive, file, &request.destination).await? {
            saved.warnings.iter().for_each(|warning| host.warn(warning.as_str()));
            return Ok(Got::Found);
        }
    }
    Ok(Got::Missing)
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

/// What a server does with the exit code of its `restore_command`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "PostgreSQL has these modes")]
pub enum RecoveryMode {
    /// It promotes at the end of the WAL: a failure must stop it.
    Promotes,
    /// It follows: a failure makes it wait and try again.
    Follows,
    /// It is not in recovery, as far as its files tell.
    None,
}

/// The mode of the server on a data directory, by its signal files. A standby's wins, as in PostgreSQL.
pub fn recovery_mode(pg_data: &Path) -> RecoveryMode {
    if pg_data.join("standby.signal").exists() {
        RecoveryMode::Follows
    } else if pg_data.join("recovery.signal").exists() {
        RecoveryMode::Promotes
    } else {
        RecoveryMode::None
    }
}
