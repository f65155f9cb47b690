//! Single WAL files out of what pgBackRest archived, and whose archive it is: without a look at all that there is, as commands of the server
//! have to be quick.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pgbr_manifest::{BackupLabel, StanzaName, WalFileName};
use pgbr_pgbackrest::{Archive, ArchiveCluster, ArchiveId, BackupInfo, Cluster, Stanza, WalObject};
use pgbr_repo::{Error as RepoError, Store};

use super::{TheirWal, Theirs, there};
use crate::error::{Error, Result};
use crate::place::RepoAccess;

/// How much of a file is decoded at once.
const PIECE: usize = 256 << 10;

/// Sees that a backup that is not among ours is not one of pgBackRest's either, where its list can be read.
///
/// # Errors
/// [`Error::TheirBackup`]
pub(crate) async fn not_theirs(access: &RepoAccess, stanza: &StanzaName, label: BackupLabel) -> Result<()> {
    // Who does not find it there is told that it is nowhere, as by info.
    let Ok(Some(theirs)) = Theirs::look(access).await else { return Ok(()) };
    let Ok(Some(list)) = theirs.or_plain().list(stanza).await else { return Ok(()) };
    match list.backups.iter().any(|backup| backup.label == label) {
        true => Err(Error::TheirBackup { label }),
        false => Ok(()),
    }
}

impl Theirs {
    /// What pgBackRest may have in a repository, which nobody has looked for yet; by connections that are there, if there are any.
    ///
    /// # Errors
    /// Where the repository cannot be reached.
    pub(crate) fn unseen(access: &RepoAccess, open: Option<&Store>) -> Result<Self> {
        let store = open.map_or_else(|| access.place.store(false), |store| Ok(store.clone()))?;
        Ok(Self::at(store, access))
    }

    /// The archive of a stanza; where there is none, one listing tells it.
    ///
    /// # Errors
    /// As [`TheirWal::open`].
    pub(crate) async fn find_wal(&self, stanza: &StanzaName) -> Result<Option<TheirWal>> {
        let archive = self.of_stanza(stanza, |stanza| Ok(stanza.find_archive()?)).await?;
        Ok(archive.map(|archive| TheirWal { archive: Arc::new(archive) }))
    }

    /// Whether any archive of a stanza has a file of this name, which is known also where nothing in it can be read.
    ///
    /// # Errors
    /// Where the repository cannot be reached.
    pub(crate) async fn has_wal(&self, stanza: &StanzaName, file: WalFileName) -> Result<bool> {
        self.of_stanza(stanza, move |stanza| Ok(stanza.has_wal(&file)?)).await
    }

    /// The clusters of a stanza as the list of its backups has them; none where there is no list.
    ///
    /// # Errors
    /// As [`Theirs::backups`].
    pub(crate) async fn listed_clusters(&self, stanza: &StanzaName) -> Result<Vec<Cluster>> {
        Ok(self.list(stanza).await?.map(|list| list.history).unwrap_or_default())
    }

    /// The list of the backups of a stanza as it stands there; none where there is no list.
    ///
    /// # Errors
    /// As [`Theirs::backups`].
    pub(crate) async fn list(&self, stanza: &StanzaName) -> Result<Option<BackupInfo>> {
        let listed = self.of_stanza(stanza, |stanza: &Stanza| there(stanza.backup_info())).await?;
        Ok(listed.map(|list| list.info))
    }
}

impl TheirWal {
    /// All clusters that the archive has or had, oldest first; the last is not by force the one of now.
    pub(crate) fn clusters(&self) -> &[ArchiveCluster] {
        &self.archive.info.info.history
    }

    /// The cluster that is archived now, by its number too.
    pub(crate) fn current_cluster(&self) -> ArchiveCluster {
        self.archive.info.info.current
    }

    /// What was wrong with `archive.info`, where its copy served.
    pub(crate) fn healed(&self) -> Option<String> {
        self.archive.info.from_copy.as_ref().map(ToString::to_string)
    }

    /// Writes a file to a path, which has it as a whole or not at all: it is written beside, held against its checksum and, for a segment, its
    /// size if that is known, and renamed. False where it is not in the archive.
    ///
    /// # Errors
    /// As nothing of it is sound; [`RepoError::Local`] where it cannot be written.
    pub(crate) async fn get_to_path(
        &self,
        id: ArchiveId,
        file: WalFileName,
        size: Option<u64>,
        path: &Path,
    ) -> Result<bool> {
        let path = path.to_owned();
        self.ask(move |archive| {
            let mut failed = None;
            for object in archive.find(id, &file)? {
                match save(archive, &object, size, &path) {
                    Ok(()) => return Ok(true),
                    Err(error @ Error::Repo(_)) => return Err(error),
                    Err(error) => failed = failed.or(Some(error)),
                }
            }
            failed.map_or(Ok(false), Err)
        })
        .await
    }
}

fn save(archive: &Archive, object: &WalObject, size: Option<u64>, path: &Path) -> Result<()> {
    let mut staged = path.as_os_str().to_owned();
    staged.push(".pgbr.tmp");
    let staged = PathBuf::from(staged);
    let local = |action| {
        let path = staged.clone();
        move |source| Error::Repo(RepoError::Local { action, path, source })
    };
    let saved = write(archive, object, size, &staged)
        .and_then(|()| fs::rename(&staged, path).map_err(local("rename")));
    if saved.is_err() {
        // There may be none; and one that stays is overwritten by the next try.
        fs::remove_file(&staged).ok();
    }
    saved
}

fn write(archive: &Archive, object: &WalObject, size: Option<u64>, staged: &Path) -> Result<()> {
    let local =
        |action| move |source| Error::Repo(RepoError::Local { action, path: staged.to_owned(), source });
    let mut content = archive.open(object, size)?;
    // The mode that PostgreSQL gives its own WAL files.
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut out = options.open(staged).map_err(local("create"))?;
    let mut piece = vec![0; PIECE];
    loop {
        let amount = content.next(&mut piece)?;
        match piece.get(..amount).filter(|read| !read.is_empty()) {
            Some(read) => out.write_all(read).map_err(local("write"))?,
            None => return Ok(()),
        }
    }
}
