//! A stanza of ours made from one of pgBackRest's, beside it: by the first command that writes to it, so that nothing fails when the binary is
//! swapped.
//!
//! The history of the stanza gets the numbers, identifiers and versions of theirs, so that archives are named alike (`15-1`). What pgBackRest has is
//! only read.

use std::path::PathBuf;
use std::time::Duration;

use pgbr_manifest::{PgVersion, StanzaName, SystemId};
use pgbr_pg::read_control_file;
use pgbr_pgbackrest::{ArchiveCluster, Cluster, DbVersion};
use pgbr_repo::{Error as RepoError, NewCluster, Repo, Stanza};

use super::create;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::place::{RepoAccess, StanzaPlace, is_absent};
use crate::theirs::{TheirWal, Theirs};

/// How often the repository is looked for again where several processes make it at the same time, and the first pause in between.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(50);

/// That a stanza which is not there is made from what pgBackRest has of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "filled in by the caller; a new field has to be decided on")]
pub struct TakeOver {
    /// Data directories of the stanza: a control file that can be read there must be of the cluster that theirs is of.
    pub pg_data: Vec<PathBuf>,
}

/// Makes a stanza from one of pgBackRest's, and opens it. Several processes may do so at once.
///
/// # Errors
/// `absent`, the error for that there is no stanza, where there is none of pgBackRest's either; as theirs cannot be read, or is of another cluster;
/// as the store failed.
pub(crate) async fn take_over(
    host: &Host,
    access: &RepoAccess,
    name: &StanzaName,
    asked: &TakeOver,
    absent: Error,
) -> Result<StanzaPlace> {
    let Some(theirs) = TheirHistory::find(host, access, name).await? else { return Err(absent) };
    let mut history = theirs.numbered()?;
    for pg_data in &asked.pg_data {
        // On another host there is none.
        if let Ok((control, _)) = read_control_file(pg_data.join("global/pg_control")) {
            history = theirs.check(name, control.system_id, control.version)?;
        }
    }
    let repo = repository(host, access).await?;
    match Stanza::create_numbered(&repo, name, &history, host.now_seconds()).await {
        Ok(_) => host.warn(theirs.told(name)),
        // Another process was faster.
        Err(RepoError::StanzaExists { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    access.open_made(host, name).await
}

/// The error for that a repository does not open, with a word about it where pgBackRest's side of the stanza does: there each stanza has a
/// passphrase of its own.
pub(crate) async fn explain_cipher(access: &RepoAccess, name: &StanzaName, error: RepoError) -> Error {
    let opens_theirs = async || match Theirs::unseen(access, None) {
        Ok(theirs) => matches!(theirs.find_wal(name).await, Ok(Some(_))),
        Err(_) => false,
    };
    // A passphrase of its own that theirs has says nothing about this one.
    let is_the_same = access.their_passphrase.is_none();
    let is_of_cipher = matches!(error, RepoError::WrongPassphrase | RepoError::PassphraseMissing);
    if is_of_cipher && is_the_same && opens_theirs().await {
        return Error::OtherCipher { stanza: name.clone(), source: error };
    }
    error.into()
}

/// Opens the repository, or makes it. Who makes it at the same time as others may fail in many ways, and finds it when it looks again.
async fn repository(host: &Host, access: &RepoAccess) -> Result<Repo> {
    let mut pause = PAUSE;
    for _ in 1..TRIES {
        match access.open(host).await {
            Err(Error::Repo(RepoError::NoRepository { .. })) => {}
            opened => return opened,
        }
        match create(host, access).await {
            Ok(repo) => return Ok(repo),
            Err(_) => host.clock.sleep(pause).await,
        }
        pause *= 2;
    }
    match access.open(host).await {
        Err(Error::Repo(RepoError::NoRepository { .. })) => create(host, access).await,
        opened => opened,
    }
}

/// Whether there is no such stanza of ours, without a word about what is wrong with one that is there.
pub(super) async fn is_missing(host: &Host, access: &RepoAccess, name: &StanzaName) -> bool {
    let quiet = Host { observer: std::sync::Arc::new(crate::observe::Silent), ..host.clone() };
    matches!(access.open_made(&quiet, name).await, Err(error) if is_absent(&error))
}

/// The clusters that a stanza of pgBackRest's has and had.
pub(super) struct TheirHistory {
    wal: TheirWal,
    /// The same as the list of backups has them, with more of each.
    listed: Vec<Cluster>,
}

impl TheirHistory {
    /// Looks for it: where there is none, one listing tells it.
    pub(super) async fn find(host: &Host, access: &RepoAccess, name: &StanzaName) -> Result<Option<Self>> {
        let theirs = match Theirs::unseen(access, None) {
            // The directory is yet to be made.
            Err(Error::Repo(RepoError::Unavailable { .. } | RepoError::NoRepository { .. })) => {
                return Ok(None);
            }
            // Its history decides about names alone, and is held against the control file.
            theirs => theirs?.or_plain(),
        };
        let Some(wal) = theirs.find_wal(name).await? else { return Ok(None) };
        if let Some(error) = wal.healed() {
            host.warn(format!("the copy of an archive.info of pgBackRest is used: {error}"));
        }
        // What only it has is known of every version of PostgreSQL, too.
        let listed = theirs.listed_clusters(name).await.unwrap_or_default();
        Ok(Some(Self { wal, listed }))
    }

    /// The history for a stanza of ours. What is of a version that is not supported is left out, and its number stays free.
    fn numbered(&self) -> Result<Vec<(u32, NewCluster)>> {
        let current = self.wal.current_cluster();
        let unsupported = |what: String| Err(Error::Unsupported { what });
        if self.wal.clusters().last() != Some(&current) {
            let (id, archive) = (current.id, current.archive_id());
            return unsupported(format!(
                "an archive.info of pgBackRest whose current cluster ({archive}) is not the last of its history, but number {id},"
            ));
        }
        if current.version.supported().is_none() {
            return unsupported(format!("PostgreSQL {}, which pgBackRest archives here,", current.version));
        }
        let supported = |cluster: &ArchiveCluster| Some((cluster.id.as_u32(), self.cluster(cluster)?));
        Ok(self.wal.clusters().iter().filter_map(supported).collect())
    }

    fn cluster(&self, cluster: &ArchiveCluster) -> Option<NewCluster> {
        let ArchiveCluster { id, system_id, version, .. } = *cluster;
        let same =
            |listed: &&Cluster| (listed.id, listed.system_id, listed.version) == (id, system_id, version);
        let listed = self.listed.iter().find(same);
        let version: PgVersion = version.supported()?;
        Some(NewCluster {
            system_id,
            version,
            catalog_version: listed.map_or(version.catalog_version(), |listed| listed.catalog_version),
            control_version: listed.map_or(version.control_version(), |listed| listed.control_version),
        })
    }

    /// The same for a cluster that must be the one of now.
    pub(super) fn check(
        &self,
        name: &StanzaName,
        system_id: SystemId,
        version: PgVersion,
    ) -> Result<Vec<(u32, NewCluster)>> {
        let current = self.wal.current_cluster();
        if (current.system_id, current.version) == (system_id, DbVersion::from(version)) {
            return self.numbered();
        }
        Err(Error::OtherCluster {
            stanza: name.to_string(),
            expected: current.system_id,
            expected_version: current.version.to_string(),
            found: system_id,
            found_version: version.to_string(),
        })
    }

    /// What the operator is told.
    pub(super) fn told(&self, name: &StanzaName) -> String {
        let archive = self.wal.current_cluster().archive_id();
        format!(
            "stanza '{name}' was made beside the one of pgBackRest: what is archived and backed up from now on is ours, its archive is \
             {archive} as there; what pgBackRest has stays, and can be restored"
        )
    }
}
