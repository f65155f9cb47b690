//! Stanzas: which clusters' backups and WAL lie under a name.

use futures::stream::{StreamExt, TryStreamExt};
use object_store::path::Path;
use pgbr_manifest::{ArchiveId, PgVersion, StanzaName, SystemId};
use serde::{Deserialize, Serialize};

use crate::backup_objects::BackupStore;
use crate::error::{Error, Result};
use crate::keys::{self, Layout, ParsedKey};
use crate::record::{self, MAX_OBJECT, Record};
use crate::repo_file::Repo;
use crate::store::Resolved;

/// What identifies a cluster, from its control file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "filled in by the caller; a new field has to be decided on")]
pub struct NewCluster {
    /// The number that `initdb` gave it.
    pub system_id: SystemId,
    /// Its major version.
    pub version: PgVersion,
    /// `catalog_version_no`.
    pub catalog_version: u32,
    /// `pg_control_version`.
    pub control_version: u32,
}

/// An entry in a stanza's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub struct ClusterId {
    /// Its number, from 1, as in the name of its archive.
    pub number: u32,
    /// The number that `initdb` gave the cluster.
    pub system_id: SystemId,
    /// Its major version.
    pub version: PgVersion,
    /// `catalog_version_no`.
    pub catalog_version: u32,
    /// `pg_control_version`.
    pub control_version: u32,
    /// When the entry was made, in Unix seconds.
    pub added: i64,
}

impl ClusterId {
    fn new(number: u32, cluster: NewCluster, added: i64) -> Self {
        let NewCluster { system_id, version, catalog_version, control_version } = cluster;
        Self { number, system_id, version, catalog_version, control_version, added }
    }

    /// The archive of this entry.
    pub const fn archive_id(&self) -> ArchiveId {
        ArchiveId::new(self.version, self.number)
    }

    /// Whether this is that cluster: its system identifier and version; the rest follows from the version.
    pub fn is(&self, cluster: &NewCluster) -> bool {
        self.system_id == cluster.system_id && self.version == cluster.version
    }
}

/// An open stanza.
#[derive(Debug, Clone)]
pub struct Stanza {
    repo: Repo,
    name: StanzaName,
    history: Vec<ClusterId>,
    warnings: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StanzaRecord {
    record: String,
    name: String,
    history: Vec<ClusterId>,
}

impl Record for StanzaRecord {
    const KIND: &'static str = "stanza";

    fn identity(&self) -> (&str, &str) {
        (&self.record, &self.name)
    }
}

/// How many entries a stanza's history has at most.
const MAX_HISTORY: usize = 1000;
/// How many objects are taken away at a time.
const DELETIONS: usize = 1000;

impl Stanza {
    /// Makes a stanza for a cluster.
    ///
    /// # Errors
    /// [`Error::StanzaExists`] where it is there for this cluster (a missing or damaged copy of its record is made whole),
    /// [`Error::StanzaMismatch`] where it is there for another; as the store failed.
    pub async fn create(repo: &Repo, name: &StanzaName, cluster: NewCluster, now: i64) -> Result<Self> {
        Self::create_with_history(repo, name, &[cluster], now).await
    }

    /// Makes a stanza for the last of these clusters, which has succeeded the others, oldest first.
    ///
    /// # Errors
    /// As [`Stanza::create`]; [`Error::Invalid`] for no cluster or too many.
    pub async fn create_with_history(
        repo: &Repo,
        name: &StanzaName,
        clusters: &[NewCluster],
        now: i64,
    ) -> Result<Self> {
        let history: Vec<_> = (1..).zip(clusters.iter().copied()).collect();
        Self::create_numbered(repo, name, &history, now).await
    }

    /// The same for clusters that have their numbers already, as elsewhere; numbers may be left out.
    ///
    /// # Errors
    /// As [`Stanza::create_with_history`]; [`Error::Invalid`] for numbers that do not grow from 1 or more.
    pub async fn create_numbered(
        repo: &Repo,
        name: &StanzaName,
        clusters: &[(u32, NewCluster)],
        now: i64,
    ) -> Result<Self> {
        let invalid = |reason| Error::Invalid { what: "stanza history", reason };
        let (_, cluster) = *clusters
            .last()
            .filter(|_| clusters.len() <= MAX_HISTORY)
            .ok_or_else(|| invalid(format!("has 1 to {MAX_HISTORY} entries")))?;
        let numbers = [0].into_iter().chain(clusters.iter().map(|(number, _)| *number));
        if !numbers.is_sorted_by(|a, b| a < b) {
            return Err(invalid("is not in the order of its numbers, which begin at 1".to_owned()));
        }
        if keys::parse_stanza(name.as_str()).is_none() {
            let reason = format!("'{name}' is taken by the repository itself");
            return Err(Error::Invalid { what: "stanza name", reason });
        }
        match Self::open(repo, name).await {
            Err(Error::StanzaMissing { .. }) => {}
            Err(error) => return Err(error),
            Ok(found) => return Err(found.exists_for(&cluster).await),
        }
        let stanza = Self {
            repo: repo.clone(),
            name: name.clone(),
            history: clusters
                .iter()
                .map(|(number, cluster)| ClusterId::new(*number, *cluster, now))
                .collect(),
            warnings: Vec::new(),
        };
        let (keys, object) = (Layout::new(), stanza.seal()?);
        match repo.store().create_resolved(&keys.stanza(name), object.clone(), MAX_OBJECT).await? {
            Resolved::Ours => {}
            // Another process was faster.
            Resolved::Others(_) => return Err(Self::open(repo, name).await?.exists_for(&cluster).await),
        }
        repo.store().overwrite(&keys.stanza_copy(name), object.clone()).await?;
        // Without conditional creates another process may have overwritten ours: whoever is there last has won.
        if !repo.store().create_honoured()
            && repo.store().get(&keys.stanza(name), MAX_OBJECT).await? != object
        {
            return Err(Self::open(repo, name).await?.exists_for(&cluster).await);
        }
        Ok(stanza)
    }

    /// Opens a stanza; from the copy of its record where the first is missing or damaged, with a warning.
    ///
    /// # Errors
    /// [`Error::StanzaMissing`]; [`Error::Corrupt`] where both copies are damaged; as the store failed.
    pub async fn open(repo: &Repo, name: &StanzaName) -> Result<Self> {
        let keys = Layout::new();
        let (first, copy) = (keys.stanza(name), keys.stanza_copy(name));
        let stanza = |history, warnings| Self { repo: repo.clone(), name: name.clone(), history, warnings };
        let error = match read(repo, &first, &first).await {
            Ok(history) => return Ok(stanza(history, Vec::new())),
            Err(error) => error,
        };
        match read(repo, &copy, &first).await {
            Ok(history) => {
                Ok(stanza(history, vec![format!("using the copy of the stanza's record: {error}")]))
            }
            Err(second) if error.is_not_found() && second.is_not_found() => {
                Err(Error::StanzaMissing { stanza: name.to_string() })
            }
            Err(second) if error.is_not_found() => Err(second),
            Err(_) => Err(error),
        }
    }

    /// What is wrong with the stanza's record and with its copy, each by its key; nothing where both say what was opened.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn check_copies(&self) -> Result<Vec<(Path, Error)>> {
        let keys = Layout::new();
        let first = keys.stanza(&self.name);
        let mut wrong = Vec::new();
        for key in [first.clone(), keys.stanza_copy(&self.name)] {
            match read(&self.repo, &key, &first).await {
                Ok(history) if history == self.history => {}
                Ok(_) => {
                    let error = Error::corrupt(&key, "it has another history than its copy");
                    wrong.push((key, error));
                }
                Err(error) if error.is_not_found() || error.is_unverified() => wrong.push((key, error)),
                Err(error) => return Err(error),
            }
        }
        Ok(wrong)
    }

    /// Writes the stanza's record and its copy again where one is missing or says something else; tells whether anything was done.
    ///
    /// Only for who holds the stanza's lease.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn heal(&self) -> Result<bool> {
        let wrong = !self.check_copies().await?.is_empty();
        if wrong {
            self.write().await?;
        }
        Ok(wrong)
    }

    /// Opens a stanza by its record that was kept on this host ([`Stanza::record`]), without asking the store. It is checked as one that was
    /// read; whether it is still the store's is for the caller to bound.
    ///
    /// # Errors
    /// [`Error::Corrupt`] and its like where it does not open under the repository's keys as the record of this stanza.
    pub fn open_kept(repo: &Repo, name: &StanzaName, object: &[u8]) -> Result<Self> {
        let key = Layout::new().stanza(name);
        let history = open(repo, &key, &key, object)?;
        Ok(Self { repo: repo.clone(), name: name.clone(), history, warnings: Vec::new() })
    }

    /// The stanza's record, sealed, for [`Stanza::open_kept`].
    ///
    /// # Errors
    /// Where there is no randomness.
    pub fn record(&self) -> Result<bytes::Bytes> {
        self.seal()
    }

    /// Adds a cluster to the history: the stanza's after an upgrade.
    ///
    /// The copy is written first: a crash in between leaves the old history in force. Only for who holds the stanza's lease.
    ///
    /// # Errors
    /// [`Error::StanzaExists`] where it is this cluster's already; as the store failed.
    pub async fn upgrade(&self, cluster: NewCluster, now: i64) -> Result<Self> {
        if self.current().is(&cluster) {
            return Err(Error::StanzaExists { stanza: self.name.to_string() });
        }
        let number = self.current().number.checked_add(1).filter(|_| self.history.len() < MAX_HISTORY);
        let number = number.ok_or_else(|| Error::Invalid {
            what: "stanza history",
            reason: format!("has {MAX_HISTORY} entries at most"),
        })?;
        let mut upgraded = Self { warnings: Vec::new(), ..self.clone() };
        upgraded.history.push(ClusterId::new(number, cluster, now));
        upgraded.write().await?;
        Ok(upgraded)
    }

    /// Takes away what is in a stanza, its backups first; its record and its leases stay, so that what was begun can be done again under a lease.
    ///
    /// Only for who holds its lease, with nobody at work in it.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn clear(repo: &Repo, name: &StanzaName) -> Result<()> {
        let (keys, store) = (Layout::new(), repo.store());
        let backups = BackupStore::new(repo, name);
        // Newest dependant first: no listing ever shows a backup whose parent is gone.
        for label in backups.list_backups().await?.iter().rev() {
            backups.delete_manifest(label).await?;
        }
        let others = store.list(&keys.stanza_dir(name)).try_filter(|object| {
            let key = ParsedKey::parse(&object.key);
            let stays = matches!(key, Some(ParsedKey::Stanza { .. } | ParsedKey::Lease { .. }));
            async move { !stays }
        });
        // By parts, so that what is listed is not all held in memory.
        let mut others = others.try_chunks(DELETIONS).map_err(|broken| broken.1).boxed();
        while let Some(objects) = others.try_next().await? {
            let keys = objects.into_iter().map(|object| object.key).collect();
            if let Some(first) = store.delete_all(keys).await?.into_iter().next() {
                return Err(first.error);
            }
        }
        for leftover in store.leftovers(&keys.stanza_dir(name)).await? {
            store.remove_leftover(leftover).await?;
        }
        Ok(())
    }

    /// Takes a stanza away with everything in it: its record last, so that what was begun can be done again.
    ///
    /// Only for who holds its lease and gives no more signs of life for it, with nobody at work in it. A stanza that is not there is no error.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn delete(repo: &Repo, name: &StanzaName) -> Result<()> {
        Self::clear(repo, name).await?;
        let (keys, store) = (Layout::new(), repo.store());
        let mut leases = store.list(&keys.lease_dir(Some(name)));
        while let Some(lease) = leases.try_next().await? {
            store.delete(&lease.key).await?;
        }
        for record in [keys.stanza_copy(name), keys.stanza(name)] {
            store.delete_durable(&record).await?;
        }
        store.remove_empty_directories(&keys.stanza_dir(name)).await
    }

    /// The stanza's name.
    pub const fn name(&self) -> &StanzaName {
        &self.name
    }

    /// The repository it is in.
    pub const fn repo(&self) -> &Repo {
        &self.repo
    }

    /// Its clusters, oldest first; never empty.
    pub fn history(&self) -> &[ClusterId] {
        &self.history
    }

    /// The cluster that it is for now.
    pub fn current(&self) -> &ClusterId {
        self.history.last().expect("a history is never empty: it is checked where it is read")
    }

    /// The archive of its cluster.
    pub fn archive_id(&self) -> ArchiveId {
        self.current().archive_id()
    }

    /// What the operator should know about how it was opened.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn seal(&self) -> Result<bytes::Bytes> {
        let record = StanzaRecord {
            record: StanzaRecord::KIND.to_owned(),
            name: Layout::new().stanza(&self.name).to_string(),
            history: self.history.clone(),
        };
        record::seal(&self.repo, &record)
    }

    async fn write(&self) -> Result<()> {
        let (keys, object) = (Layout::new(), self.seal()?);
        self.repo.store().overwrite(&keys.stanza_copy(&self.name), object.clone()).await?;
        self.repo.store().overwrite(&keys.stanza(&self.name), object).await
    }

    /// What to say where a stanza to be made is there. One that is right is made whole where a copy was lost.
    async fn exists_for(&self, cluster: &NewCluster) -> Error {
        let current = self.current();
        if !current.is(cluster) {
            return Error::StanzaMismatch {
                stanza: self.name.to_string(),
                found: format!("{} {}", current.version, current.system_id),
                expected: format!("{} {}", cluster.version, cluster.system_id),
            };
        }
        let (keys, main) = (Layout::new(), Layout::new().stanza(&self.name));
        let copy = keys.stanza_copy(&self.name);
        let whole = self.warnings.is_empty()
            && matches!(read(&self.repo, &copy, &main).await, Ok(history) if history == self.history);
        if !whole && let Err(error) = self.write().await {
            return error;
        }
        Error::StanzaExists { stanza: self.name.to_string() }
    }
}

async fn read(repo: &Repo, key: &Path, name: &Path) -> Result<Vec<ClusterId>> {
    let object = repo.store().get(key, MAX_OBJECT).await?;
    open(repo, key, name, &object)
}

fn open(repo: &Repo, key: &Path, name: &Path, object: &[u8]) -> Result<Vec<ClusterId>> {
    let history = record::open::<StanzaRecord>(repo, key, name, object)?.history;
    let numbers = history.iter().map(|cluster| cluster.number);
    match !history.is_empty() && history.len() <= MAX_HISTORY && numbers.is_sorted_by(|a, b| a < b) {
        true => Ok(history),
        false => Err(Error::corrupt(key, "its history is empty or out of order")),
    }
}
