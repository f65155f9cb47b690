//! stanza-upgrade: a stanza goes on with the cluster that pg_upgrade has made.

use pgbr_manifest::{ArchiveId, StanzaName};
use pgbr_repo::{NewCluster, Stanza};

use super::identify;
use crate::cluster::ClusterAccess;
use crate::error::Result;
use crate::held::Held;
use crate::host::Host;
use crate::place::{RepoAccess, StanzaPlace};

/// A stanza to upgrade.
#[derive(Debug, Clone)]
pub struct StanzaUpgradeRequest {
    /// The repository.
    pub repo: RepoAccess,
    /// The stanza.
    pub stanza: StanzaName,
    /// The cluster that it is for from now on.
    pub cluster: ClusterAccess,
    /// Other clusters of the stanza: the primary may be one of them.
    pub others: Vec<ClusterAccess>,
    /// Whether the server is asked; else the control file is enough.
    pub online: bool,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a stanza is upgraded or it needs no upgrade")]
pub enum StanzaUpgraded {
    /// WAL goes to this archive from now on, and the next backup is a full.
    To(ArchiveId),
    /// It was for this cluster already.
    UpToDate,
}

/// Adds a cluster to a stanza's history. Backups and WAL of those before it stay as they are.
///
/// # Errors
/// When the stanza does not exist, when a backup of it is being made, or as the store failed.
pub async fn stanza_upgrade(host: &Host, request: StanzaUpgradeRequest) -> Result<StanzaUpgraded> {
    let cluster = identify(host, &request.cluster, &request.others, request.online).await?;
    let place = request.repo.open_stanza(host, &request.stanza).await?;
    if place.stanza.current().is(&cluster) {
        return Ok(StanzaUpgraded::UpToDate);
    }
    let lease = Held::lease(host, &place).await?;
    let upgraded = under_lease(host, &place, &cluster, &lease).await;
    lease.release(host).await;
    upgraded
}

async fn under_lease(
    host: &Host,
    place: &StanzaPlace,
    cluster: &NewCluster,
    lease: &Held<pgbr_repo::Lease>,
) -> Result<StanzaUpgraded> {
    // It may have been upgraded from another host a moment ago.
    let stanza = Stanza::open(&place.repo.guarded(lease.guard()), place.stanza.name()).await?;
    if stanza.current().is(cluster) {
        return Ok(StanzaUpgraded::UpToDate);
    }
    lease.check().await?;
    Ok(StanzaUpgraded::To(stanza.upgrade(*cluster, host.now_seconds()).await?.archive_id()))
}
