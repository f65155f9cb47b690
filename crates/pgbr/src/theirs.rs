//! What pgBackRest has in a repository, beside ours: read where it lies, never written.
//!
//! Its reader is synchronous, for plain threads; objects come from our store, which waits on the runtime. All of it runs off the runtime's own
//! threads.

mod lookup;
mod objects;
mod rest;
mod wal;

use std::collections::BTreeSet;
use std::sync::Arc;

use object_store::path::Path;
use pgbr_manifest::manifest::{Database, Link, Tablespace};
use pgbr_manifest::{BackupLabel, StanzaName, WalFileName, WalSegmentName};
use pgbr_pgbackrest::{
    Archive, ArchiveId, Backup, BackupEntry, Backups, Dropped, Error as TheirError, File, Manifest, Objects,
    PageCheck, Passphrase, Repository, Stanza, TargetKind,
};
use pgbr_repo::{Error as RepoError, Store};

use crate::error::{Error, Result};
use crate::host::Host;
use crate::place::RepoAccess;

pub(crate) use self::lookup::not_theirs;
pub(crate) use self::objects::StoreObjects;
pub use self::rest::{TheirRest, TheirsRemoveRequest, theirs_remove, theirs_rest};
pub(crate) use self::wal::TheirWal;

/// The directories of pgBackRest in a repository.
const ROOTS: [&str; 2] = ["archive", "backup"];

/// A stanza as pgBackRest has it.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct TheirStanza {
    /// Whether it is encrypted: by AES-256-CBC, without authentication.
    pub encrypted: bool,
    /// Its clusters, oldest first: number, system identifier, version.
    pub clusters: Vec<TheirCluster>,
    /// The archives that have a directory, and that of the current cluster.
    pub archives: Vec<TheirArchive>,
    /// Whether there is a list of backups; without it nobody knows whether there are any.
    pub listed: bool,
    /// The backups that can be used, oldest first.
    pub backups: Vec<BackupEntry>,
    /// Those that are listed and cannot.
    pub dropped: Vec<Dropped>,
    /// Info files that are damaged, where their copies served.
    pub healed: Vec<String>,
    /// The backup that was asked for, in full, or why it cannot be told of.
    pub set: Option<Result<TheirSet, Arc<Error>>>,
}

/// What a backup of pgBackRest's holds, beyond what its list says.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct TheirSet {
    /// Its databases but for those of the system, by name.
    pub databases: Vec<Database>,
    /// Links in its data directory.
    pub links: Vec<Link>,
    /// Its tablespaces.
    pub tablespaces: Vec<Tablespace>,
    /// Its files that had pages with a wrong checksum, by path.
    pub errors: Vec<String>,
}

/// A cluster that a stanza of pgBackRest has or had.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TheirCluster {
    /// Its number in the history.
    pub number: u32,
    /// Its system identifier.
    pub system_id: u64,
    /// Its version, as `15` or `9.6`.
    pub version: String,
}

/// An archive of pgBackRest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct TheirArchive {
    /// Its name.
    pub id: ArchiveId,
    /// Its first and its last segment by name, as pgBackRest tells them.
    pub bounds: Option<(WalSegmentName, WalSegmentName)>,
}

/// A repository of pgBackRest in the place of ours.
pub(crate) struct Theirs {
    store: Store,
    repository: Repository,
    /// The same without a passphrase, where what is not encrypted may be read though there is one: see [`Theirs::or_plain`].
    plain: Option<Repository>,
}

impl Theirs {
    /// Looks whether there is one: by one listing.
    ///
    /// # Errors
    /// Where the repository cannot be reached.
    pub(crate) async fn look(access: &RepoAccess) -> Result<Option<Self>> {
        let store = match access.place.store(false) {
            Err(Error::Repo(RepoError::NoRepository { .. })) => return Ok(None),
            store => store?,
        };
        Ok(Self::is_in(&store).await?.then(|| Self::at(store, access)))
    }

    /// Whether a store has the directories of one: by one listing.
    ///
    /// # Errors
    /// Where the repository cannot be reached.
    pub(crate) async fn is_in(store: &Store) -> Result<bool> {
        let level = store.level(&Path::default()).await?;
        Ok(level.directories.iter().any(|name| ROOTS.contains(&name.as_str())))
    }

    /// The one in a store, whether or not there is one.
    fn at(store: Store, access: &RepoAccess) -> Self {
        let objects: Arc<dyn Objects> = Arc::new(StoreObjects::new(store.clone()));
        let passphrase = access.their_passphrase.as_ref().or(access.passphrase.as_ref());
        let passphrase = passphrase.map(|passphrase| Passphrase::new(passphrase.expose()));
        Self { store, repository: Repository::new(objects, passphrase), plain: None }
    }

    /// The same for who only looks. Whoever can write to a repository can put something there that is not encrypted, with a label newer than all of
    /// ours and WAL behind ours: where there is a passphrase, nothing is restored from that.
    pub(crate) fn or_plain(self) -> Self {
        let objects: Arc<dyn Objects> = Arc::new(StoreObjects::new(self.store.clone()));
        Self { plain: Some(Repository::new(objects, None)), ..self }
    }

    /// The store that it is read from.
    pub(crate) const fn store(&self) -> &Store {
        &self.store
    }

    /// The stanzas that it has, by name.
    ///
    /// # Errors
    /// Where the repository cannot be reached.
    pub(crate) async fn stanzas(&self) -> Result<Vec<StanzaName>> {
        let repository = self.repository.clone();
        off_thread(move || Ok(repository.stanzas()?)).await
    }

    /// What it has of a stanza; none where there is neither an archive nor backups of it.
    ///
    /// # Errors
    /// [`Error::PgBackRest`] where it cannot be read, here and below.
    pub(crate) async fn stanza(&self, host: &Host, name: &StanzaName) -> Result<Option<TheirStanza>> {
        host.stop.check()?;
        self.of_stanza(name, stanza).await
    }

    /// A backup in full.
    pub(crate) async fn set(&self, name: &StanzaName, label: BackupLabel) -> Result<TheirSet> {
        let backup = self.backup(name, label).await?;
        off_thread(move || Ok(TheirSet::of(backup.manifest()))).await
    }

    /// The list of the backups of a stanza, held against what is there; none where there is no list.
    pub(crate) async fn backups(&self, name: &StanzaName) -> Result<Option<Backups>> {
        self.of_stanza(name, |stanza| there(stanza.backups())).await
    }

    /// A stanza as it can be read: with the passphrase, or without where it is not encrypted.
    pub(crate) async fn readable(&self, name: &StanzaName) -> Result<Stanza> {
        let look = |stanza: &Stanza| match (stanza.archive_info(), stanza.backup_info()) {
            (Err(error @ TheirError::NotEncrypted { .. }), _)
            | (_, Err(error @ TheirError::NotEncrypted { .. })) => Err(error.into()),
            _ => Ok(stanza.clone()),
        };
        self.of_stanza(name, look).await
    }

    /// One backup.
    pub(crate) async fn backup(&self, name: &StanzaName, label: BackupLabel) -> Result<Backup> {
        let open = move |stanza: &Stanza| Ok(stanza.backup(&stanza.backup_info()?.info, label)?);
        self.of_stanza(name, open).await
    }

    /// Asks about a stanza in a thread that may wait: with the passphrase, and without where it is not encrypted and may be read so.
    async fn of_stanza<T: Send + 'static>(
        &self,
        name: &StanzaName,
        ask: impl Fn(&Stanza) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let of = |repository: &Repository| repository.stanza(name.clone());
        let (sealed, plain) = (of(&self.repository), self.plain.as_ref().map(of));
        off_thread(move || match (ask(&sealed), &plain) {
            (Err(Error::PgBackRest(TheirError::NotEncrypted { .. })), Some(plain)) => ask(plain),
            (found, _) => found,
        })
        .await
    }
}

fn stanza(stanza: &Stanza) -> Result<Option<TheirStanza>> {
    let (backups, archive) = (there(stanza.backups())?, there(stanza.archive())?);
    if backups.is_none() && archive.is_none() {
        return Ok(None);
    }
    let mut found = TheirStanza::default();
    if let Some(archive) = archive {
        found.take_archive(&archive)?;
    }
    if let Some(backups) = backups {
        found.listed = true;
        let info = backups.info.info;
        found.encrypted |= info.passphrase.is_some();
        found.healed.extend(backups.info.from_copy.map(|error| error.to_string()));
        found.clusters =
            info.history.iter().map(|c| cluster(c.id.as_u32(), c.system_id.as_u64(), c.version)).collect();
        found.backups = backups.usable;
        found.backups.sort_by_key(|backup| (backup.label.time(), backup.label));
        found.dropped = backups.dropped;
    }
    Ok(Some(found))
}

impl TheirSet {
    fn of(manifest: &Manifest) -> Self {
        let (tablespaces, links) = outside(manifest);
        let people = manifest.databases.iter().filter(|database| database.oid > database.last_system_oid);
        let database = |database: &pgbr_pgbackrest::Database| Database {
            oid: database.oid,
            name: database.name.clone(),
            template: false,
        };
        let is_wrong = |file: &&File| matches!(file.pages, Some(PageCheck::Bad(_) | PageCheck::Torn));
        let errors = manifest.files.iter().filter(is_wrong).map(|file| file.path.to_string());
        Self { databases: people.map(database).collect(), links, tablespaces, errors: errors.collect() }
    }
}

/// The tablespaces and links of a backup, in our words.
pub(crate) fn outside(manifest: &Manifest) -> (Vec<Tablespace>, Vec<Link>) {
    let (mut tablespaces, mut links) = (Vec::new(), Vec::new());
    for target in &manifest.targets {
        let name = || String::from_utf8_lossy(target.name.strip("pg_data").unwrap_or_default()).into_owned();
        match &target.kind {
            TargetKind::DataDirectory => {}
            TargetKind::LinkedDirectory => {
                links.push(Link { name: name(), destination: target.path.clone() });
            }
            TargetKind::LinkedFile(file) => {
                links.push(Link { name: name(), destination: format!("{}/{file}", target.path) });
            }
            TargetKind::Tablespace { oid, name } => {
                let (oid, name) = (*oid, name.clone());
                tablespaces.push(Tablespace { oid, name, location: target.path.clone() });
            }
        }
    }
    (tablespaces, links)
}

impl TheirStanza {
    fn take_archive(&mut self, archive: &Archive) -> Result<()> {
        let info = &archive.info.info;
        self.encrypted |= info.passphrase.is_some();
        self.healed.extend(archive.info.from_copy.as_ref().map(ToString::to_string));
        self.clusters =
            info.history.iter().map(|c| cluster(c.id.as_u32(), c.system_id.as_u64(), c.version)).collect();
        // The current one is told even where nothing is in it.
        let mut ids = BTreeSet::from([info.current.archive_id()]);
        ids.extend(archive.ids()?);
        for id in ids {
            self.archives.push(TheirArchive { id, bounds: bounds(archive, id)? });
        }
        Ok(())
    }
}

fn cluster(number: u32, system_id: u64, version: impl ToString) -> TheirCluster {
    TheirCluster { number, system_id, version: version.to_string() }
}

/// The first and the last segment of an archive: only its first and last directories are listed, but for those without a segment.
fn bounds(archive: &Archive, id: ArchiveId) -> Result<Option<(WalSegmentName, WalSegmentName)>> {
    let segments = |directory: &str| -> Result<Vec<WalSegmentName>> {
        let files = archive.files(id, directory)?.into_iter();
        Ok(files
            .filter_map(|object| match object.file {
                WalFileName::Segment(segment) => Some(segment),
                _ => None,
            })
            .collect())
    };
    let directories = archive.directories(id)?;
    let mut first = None;
    for directory in &directories {
        first = segments(directory)?.into_iter().min();
        if first.is_some() {
            break;
        }
    }
    let Some(first) = first else { return Ok(None) };
    for directory in directories.iter().rev() {
        if let Some(last) = segments(directory)?.into_iter().max() {
            return Ok(Some((first, last)));
        }
    }
    Ok(Some((first, first)))
}

/// None where an info file is not there.
pub(crate) fn there<T>(found: Result<T, TheirError>) -> Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether an error is about what pgBackRest has written or how it is sealed, in a repository that could be read.
pub(crate) fn is_of_content(error: &Error) -> bool {
    fn was_read(error: &TheirError) -> bool {
        match error {
            TheirError::Unavailable { .. } => false,
            TheirError::NoCopy { main, copy, .. } => was_read(main) && was_read(copy),
            _ => true,
        }
    }
    matches!(error, Error::PgBackRest(error) if was_read(error))
}

/// Does something in a thread that may wait.
pub(crate) async fn off_thread<T: Send + 'static>(
    act: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(act)
        .await
        .map_err(|_| Error::Internal { what: "reading a repository of pgBackRest panicked" })?
}
