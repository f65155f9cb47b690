//! stanza-create, stanza-upgrade and stanza-delete: a stanza from its beginning to its end.

mod delete;
mod take_over;
mod upgrade;

use pgbr_manifest::StanzaName;
use pgbr_pg::read_control_file;
use pgbr_repo::{CreateOptions, Error as RepoError, LeaseName, Leases, NewCluster, Repo, Stanza};

use crate::backup::{StandbyUse, find_servers};
use crate::cluster::ClusterAccess;
use crate::error::{Error, Result};
use crate::held::Held;
use crate::host::Host;
use crate::observe::Event;
use crate::place::RepoAccess;

pub use self::delete::{StanzaDeleteRequest, StanzaDeleted, stanza_delete};
pub use self::take_over::TakeOver;
use self::take_over::{TheirHistory, is_missing};
pub(crate) use self::take_over::{explain_cipher, take_over};
pub use self::upgrade::{StanzaUpgradeRequest, StanzaUpgraded, stanza_upgrade};

/// A stanza to make.
#[derive(Debug, Clone)]
pub struct StanzaCreateRequest {
    /// The repository; it is made where there is none, its directory as well.
    pub repo: RepoAccess,
    /// The stanza.
    pub stanza: StanzaName,
    /// The cluster.
    pub cluster: ClusterAccess,
    /// Other clusters of the stanza: the primary may be one of them.
    pub others: Vec<ClusterAccess>,
    /// Whether the server is asked; else the control file is enough.
    pub online: bool,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a stanza is made or it was there")]
pub enum StanzaCreated {
    /// It was made.
    New,
    /// It was there, for this cluster.
    AlreadyThere,
}

/// Makes a stanza. Repeating it does no harm. Beside one of pgBackRest's it gets the same history, so that both name their archives alike.
///
/// # Errors
/// When the stanza is there for another cluster, ours or pgBackRest's; when what pgBackRest has of it cannot be read; when the repository is
/// sealed with another passphrase; or as the store failed.
pub async fn stanza_create(host: &Host, request: StanzaCreateRequest) -> Result<StanzaCreated> {
    let cluster = identify(host, &request.cluster, &request.others, request.online).await?;
    // Before anything is made.
    let theirs = match is_missing(host, &request.repo, &request.stanza).await {
        true => TheirHistory::find(host, &request.repo, &request.stanza).await?,
        false => None,
    };
    let history = match &theirs {
        Some(theirs) => theirs.check(&request.stanza, cluster.system_id, cluster.version)?,
        None => vec![(1, cluster)],
    };
    let repo = match request.repo.place.is_not_there() {
        true => create(host, &request.repo).await?,
        false => match open_or_create(host, &request.repo).await {
            Err(Error::Repo(error)) => {
                return Err(explain_cipher(&request.repo, &request.stanza, error).await);
            }
            opened => opened?,
        },
    };
    match Stanza::create_numbered(&repo, &request.stanza, &history, host.now_seconds()).await {
        Ok(_) => {
            if let Some(theirs) = theirs {
                host.tell(Event::Note { text: theirs.told(&request.stanza) });
            }
            Ok(StanzaCreated::New)
        }
        Err(RepoError::StanzaExists { .. }) => Ok(StanzaCreated::AlreadyThere),
        Err(error) => Err(error.into()),
    }
}

/// Which cluster it is: by its server and its control file, or by the control file alone.
async fn identify(
    host: &Host,
    access: &ClusterAccess,
    others: &[ClusterAccess],
    online: bool,
) -> Result<NewCluster> {
    if online {
        let clusters: Vec<_> = [access].into_iter().chain(others).collect();
        return Ok(find_servers(host, &clusters, StandbyUse::Never).await?.primary.identity());
    }
    let (control, _) = read_control_file(access.pg_data.join("global/pg_control"))?;
    Ok(NewCluster {
        system_id: control.system_id,
        version: control.version,
        catalog_version: control.catalog_version,
        control_version: control.control_version,
    })
}

/// Writes a copy of the repository's record again that is missing or damaged: whoever made the repository may not have lived to do it.
async fn make_whole(host: &Host, access: &RepoAccess, repo: Repo) -> Result<Repo> {
    if repo.check_copies().await?.is_empty() {
        return Ok(repo);
    }
    if !repo.reads() {
        // One that this host takes for authentic may not be so for who reads.
        host.warn("a copy of repo.json is missing or damaged: a passphrase that reads has to mend it");
        return Ok(repo);
    }
    let lease = Held::lease_of(host, Leases::new(&repo, None, LeaseName::record())).await?;
    let healed = async {
        // As it is now that nobody else changes it.
        let repo = access.open(host).await?;
        if repo.guarded(lease.guard()).heal().await? {
            host.tell(Event::Note {
                text: "wrote a copy of repo.json that was missing or damaged".to_owned(),
            });
        }
        Ok(repo)
    };
    let healed = healed.await;
    lease.release(host).await;
    healed
}

pub(crate) async fn open_or_create(host: &Host, access: &RepoAccess) -> Result<Repo> {
    match access.open(host).await {
        Err(Error::Repo(RepoError::NoRepository { .. })) => {}
        opened => return make_whole(host, access, opened?).await,
    }
    create(host, access).await
}

/// Makes a repository where there is none.
async fn create(host: &Host, access: &RepoAccess) -> Result<Repo> {
    let store = access.place.store(true)?;
    let options = CreateOptions {
        cipher: access.cipher(),
        passphrase: access.passphrase.clone(),
        kdf: None,
        now: host.now_seconds(),
        entropy: host.entropy.clone(),
    };
    let repo = Repo::create(store, options).await?;
    let cipher = repo.cipher();
    host.tell(Event::Note { text: format!("made a repository in '{}' (cipher: {cipher})", access.place) });
    Ok(repo)
}
