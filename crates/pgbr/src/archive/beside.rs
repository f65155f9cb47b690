//! What pgBackRest has of WAL that is not in our archive, in the same place.
//!
//! It is asked last, and mostly for nothing: at the end of the WAL, or where pgBackRest never was. That it has no archive one request tells; a
//! process that goes on remembers for a minute what it found.

use std::path::Path;
use std::time::Duration;

use pgbr_manifest::{StanzaName, SystemId, WalFileName};
use pgbr_pg::ControlFile;
use pgbr_pgbackrest::{ArchiveId, DbVersion};
use pgbr_repo::Store;
use tokio::sync::Mutex;

use super::facts::YOUNG;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::place::RepoAccess;
use crate::theirs::{TheirWal, Theirs};

/// The server that asks for WAL, as its control file tells of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asker {
    pub(super) system_id: SystemId,
    pub(super) version: DbVersion,
    /// How large a segment of it is; none where that is not known.
    pub(super) segment: Option<u64>,
}

impl From<&ControlFile> for Asker {
    fn from(control: &ControlFile) -> Self {
        let segment = Some(u64::from(control.wal_segment_size.bytes()));
        Self { system_id: control.system_id, version: control.version.into(), segment }
    }
}

/// What became of a look.
pub(super) enum Beside {
    /// It was written, from this archive.
    Found(ArchiveId),
    /// There is an archive, and the file is not in it.
    Missing,
    /// There is no archive of the stanza.
    NoArchive,
    /// There is an archive, and not of the cluster that asks.
    OtherCluster(Error),
}

/// The archive of a stanza in one repository that pgBackRest may have.
pub(super) struct TheirArchive {
    access: RepoAccess,
    stanza: StanzaName,
    /// In a process that goes on.
    kept: Option<Mutex<Option<Found>>>,
}

/// What was found, if anything, and when.
type Found = (Option<TheirWal>, Duration);

impl TheirArchive {
    pub(super) fn new(access: &RepoAccess, stanza: &StanzaName) -> Self {
        Self { access: access.clone(), stanza: stanza.clone(), kept: None }
    }

    /// The same for a process that goes on.
    pub(super) fn keeping(self) -> Self {
        Self { kept: Some(Mutex::default()), ..self }
    }

    /// Looks for a file, by the connections of ours if it is `open`. Where it is not known who asks, the cluster that is archived now is taken
    /// for that.
    pub(super) async fn get(
        &self,
        host: &Host,
        (asker, open): (Option<Asker>, Option<&Store>),
        file: &WalFileName,
        to: &Path,
    ) -> Result<Beside> {
        let wal = match self.open(host, open).await {
            Ok(Some(wal)) => wal,
            Ok(None) => return Ok(Beside::NoArchive),
            Err(error) => return self.by_name(open, file, error).await,
        };
        let (system_id, version) =
            asker.map_or_else(|| wal.current(), |asker| (asker.system_id, asker.version));
        let archives = wal.archives_of(system_id, version);
        if archives.is_empty() {
            let current = wal.current();
            return Ok(Beside::OtherCluster(Error::OtherCluster {
                stanza: self.stanza.to_string(),
                expected: current.0,
                expected_version: current.1.to_string(),
                found: system_id,
                found_version: version.to_string(),
            }));
        }
        for archive in archives {
            if wal.get_to_path(archive, *file, asker.and_then(|asker| asker.segment), to).await? {
                return Ok(Beside::Found(archive));
            }
        }
        Ok(Beside::Missing)
    }

    async fn open(&self, host: &Host, open: Option<&Store>) -> Result<Option<TheirWal>> {
        let Some(kept) = &self.kept else { return self.find(host, open).await };
        // Who comes while it is being looked for waits for that.
        let mut kept = kept.lock().await;
        let now = host.clock.monotonic();
        if let Some((found, _)) = kept.as_ref().filter(|(_, at)| now.saturating_sub(*at) < YOUNG) {
            return Ok(found.clone());
        }
        let found = self.find(host, open).await?;
        *kept = Some((found.clone(), now));
        Ok(found)
    }

    async fn find(&self, host: &Host, open: Option<&Store>) -> Result<Option<TheirWal>> {
        let found = Theirs::unseen(&self.access, open)?.find_wal(&self.stanza).await?;
        if let Some(error) = found.as_ref().and_then(TheirWal::healed) {
            host.warn(format!("the copy of an archive.info of pgBackRest is used: {error}"));
        }
        Ok(found)
    }

    /// What cannot be read is no reason to stop at the end of the WAL: where no archive has an object of that name, the file is missing.
    async fn by_name(&self, open: Option<&Store>, file: &WalFileName, error: Error) -> Result<Beside> {
        match Theirs::unseen(&self.access, open)?.has_wal(&self.stanza, *file).await {
            Ok(false) => Ok(Beside::Missing),
            _ => Err(error),
        }
    }
}
