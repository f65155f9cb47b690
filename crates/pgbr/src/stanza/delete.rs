//! stanza-delete: everything of a stanza is taken away for good.

use std::path::PathBuf;

use pgbr_manifest::StanzaName;
use pgbr_repo::{Error as RepoError, Stanza};

use crate::error::{Error, Result};
use crate::held::Held;
use crate::host::Host;
use crate::place::RepoAccess;

/// A stanza to remove. That its commands were told to stop is for the caller to see.
#[derive(Debug, Clone)]
pub struct StanzaDeleteRequest {
    /// The repository.
    pub repo: RepoAccess,
    /// The stanza.
    pub stanza: StanzaName,
    /// The data directories on which no server may run; none where that does not matter.
    pub pg_data: Vec<PathBuf>,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a stanza was there or it was not")]
pub enum StanzaDeleted {
    /// It is gone.
    Gone,
    /// There was none; what an earlier run may have left of it is gone.
    NotThere,
}

/// Removes a stanza: manifests first, its record last. What a run that died has begun, the next one completes.
///
/// # Errors
/// When a server runs on the data directory, when a backup of the stanza is being made, or as the store failed.
pub async fn stanza_delete(host: &Host, request: StanzaDeleteRequest) -> Result<StanzaDeleted> {
    for path in request.pg_data.iter().map(|dir| dir.join("postmaster.pid")) {
        if path.try_exists().map_err(Error::io("look for", &path))? {
            return Err(Error::ServerRunning { stanza: request.stanza, path });
        }
    }
    let place = match request.repo.open_stanza(host, &request.stanza).await {
        Ok(place) => place,
        Err(Error::Repo(RepoError::StanzaMissing { .. })) => {
            let repo = request.repo.open(host).await?;
            Stanza::delete(&repo, &request.stanza).await?;
            return Ok(StanzaDeleted::NotThere);
        }
        Err(error) => return Err(error),
    };
    let lease = Held::lease(host, &place).await?;
    let cleared = Stanza::clear(&place.repo.guarded(lease.guard()), &request.stanza).await;
    if let Err(error) = cleared {
        lease.release(host).await;
        return Err(error.into());
    }
    // A later sign of life would bring the lease back.
    let guard = lease.fall_silent().await?;
    Stanza::delete(&place.repo.guarded(guard), &request.stanza).await?;
    Ok(StanzaDeleted::Gone)
}
