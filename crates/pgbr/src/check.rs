//! check: does WAL go all the way from the server into the archive?

use std::time::Duration;

use pgbr_manifest::{StanzaName, WalSegmentName};

use crate::backup::{StandbyUse, find_servers};
use crate::cluster::{ClusterAccess, check_archiving, check_identity, end_segment, wait_for_wal};
use crate::error::Result;
use crate::host::Host;
use crate::observe::Event;
use crate::place::RepoAccess;

/// What to check.
#[derive(Debug, Clone)]
pub struct CheckRequest {
    /// The repository.
    pub repo: RepoAccess,
    /// The stanza.
    pub stanza: StanzaName,
    /// The cluster.
    pub cluster: ClusterAccess,
    /// Other clusters of the stanza: with them, the primary among all is checked.
    pub others: Vec<ClusterAccess>,
    /// Whether backups need a standby among them.
    pub standby: StandbyUse,
    /// Whether WAL has to arrive in the archive.
    pub archive_check: bool,
    /// Whether to refuse `archive_mode=always`.
    pub archive_mode_check: bool,
    /// How long to wait for it.
    pub archive_timeout: Duration,
    /// What `archive_command` must contain.
    pub archive_program: String,
}

/// What was found.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CheckReport {
    /// The segment that was seen to arrive; none on a standby, or where that was not wanted.
    pub segment: Option<WalSegmentName>,
    /// Whether the server is a standby.
    pub standby: bool,
}

/// Checks the way of the WAL: asks the server to end a segment and waits for it in the archive.
///
/// # Errors
/// When the repository does not open, when the server is another one than the stanza's, or when the segment does not arrive.
pub async fn check(host: &Host, request: CheckRequest) -> Result<CheckReport> {
    let connected = match (request.others.as_slice(), request.standby) {
        ([], StandbyUse::Never) => request.cluster.connect().await?,
        (others, wanted) => {
            let clusters: Vec<_> = [&request.cluster].into_iter().chain(others).collect();
            find_servers(host, &clusters, wanted).await?.primary
        }
    };
    host.tell(Event::CheckingCluster { standby: connected.facts.in_recovery });
    let place = request.repo.open_stanza(host, &request.stanza).await?;
    let pg_data = connected.facts.data_directory.clone();
    check_identity(&place.stanza, &connected.identity())?;
    if !request.archive_check {
        return Ok(CheckReport { segment: None, standby: connected.facts.in_recovery });
    }
    // How a standby archives is of no interest while it is one.
    if connected.facts.in_recovery {
        return Ok(CheckReport { segment: None, standby: true });
    }
    check_archiving(&connected.facts, &request.archive_program, request.archive_mode_check)?;
    let segment = end_segment(&connected.session, connected.facts.wal_segment_size).await?;
    host.tell(Event::CheckingArchive);
    wait_for_wal(host, &place, &pg_data, &[segment], request.archive_timeout).await?;
    Ok(CheckReport { segment: Some(segment), standby: false })
}
