//! WAL archives: what is in them, and the content of their files.

use std::collections::BTreeSet;
use std::sync::Arc;

use pgbr_manifest::{MAX_HISTORY_BYTES, StanzaName, SystemId, WalFileName};

use crate::archive_info::{ArchiveCluster, ArchiveInfo};
use crate::backup::decompress;
use crate::cipher::{Decrypt, Framing};
use crate::compression::Compression;
use crate::content::{Content, Expected, Size};
use crate::error::{Error, Result};
use crate::layout;
use crate::names::{ArchiveId, Checksum, DbVersion};
use crate::objects::{Level, ObjectReader};
use crate::repository::{Loaded, Stanza};

/// The largest WAL segment that PostgreSQL can be made to have.
const MAX_SEGMENT: u64 = 1 << 30;

/// The archive of a stanza, whose `archive.info` has been read.
#[derive(Debug)]
#[non_exhaustive]
pub struct Archive {
    pub(crate) stanza: Stanza,
    /// What `archive.info` says.
    pub info: Loaded<ArchiveInfo>,
}

/// An object of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WalObject {
    /// The file that it holds.
    pub file: WalFileName,
    /// SHA-1 of its content; that of a history or backup file is not known.
    pub checksum: Option<Checksum>,
    /// How it is compressed.
    pub compression: Compression,
    /// Its key.
    pub object: String,
    /// How many bytes are stored.
    pub stored_size: u64,
}

impl Archive {
    /// The clusters of the history with this identifier and version: whose WAL a server of that kind may be given. The newest comes first.
    pub fn clusters(&self, system_id: SystemId, version: DbVersion) -> impl Iterator<Item = &ArchiveCluster> {
        let same =
            move |cluster: &&ArchiveCluster| (cluster.system_id, cluster.version) == (system_id, version);
        self.info.info.history.iter().rev().filter(same)
    }

    /// The archives that there are, one for each cluster that has archived something, by number.
    ///
    /// # Errors
    /// Where the repository could not be reached, here and below.
    pub fn ids(&self) -> Result<Vec<ArchiveId>> {
        let level = self.level(&layout::archive(self.name()))?;
        let mut ids: Vec<ArchiveId> = level.directories.iter().filter_map(|name| name.parse().ok()).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// The directories of segments in an archive, in order: the first 16 digits of what is in each.
    ///
    /// # Errors
    /// As [`Archive::ids`].
    pub fn directories(&self, id: ArchiveId) -> Result<Vec<String>> {
        let level = self.level(&layout::wal_root(self.name(), id))?;
        let mut names: Vec<String> =
            level.directories.into_iter().filter(|name| layout::is_wal_directory(name)).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// What is in one of [`Archive::directories`], by file. What no archived file is called is left out.
    ///
    /// # Errors
    /// As [`Archive::ids`].
    pub fn files(&self, id: ArchiveId, directory: &str) -> Result<Vec<WalObject>> {
        if !layout::is_wal_directory(directory) {
            return Ok(Vec::new());
        }
        let root = format!("{}/{directory}", layout::wal_root(self.name(), id));
        let of_directory = |file: &WalFileName| file.segment().is_some_and(|s| s.directory() == directory);
        self.objects_in(&root, of_directory)
    }

    /// The history files of an archive.
    ///
    /// # Errors
    /// As [`Archive::ids`].
    pub fn histories(&self, id: ArchiveId) -> Result<Vec<WalObject>> {
        self.objects_in(&layout::wal_root(self.name(), id), |file| matches!(file, WalFileName::History(_)))
    }

    /// The objects that hold a file: none, one, or several with the same content, of which any will do.
    ///
    /// # Errors
    /// [`Error::DuplicateWal`] where their content differs; as [`Archive::ids`].
    pub fn find(&self, id: ArchiveId, file: &WalFileName) -> Result<Vec<WalObject>> {
        let directory = layout::wal_directory(self.name(), id, file);
        let found = match file {
            WalFileName::Segment(_) | WalFileName::Partial(_) => {
                self.objects_in(&directory, |found| found == file)?
            }
            // Their names say all, so nothing need be listed.
            WalFileName::History(_) | WalFileName::BackupHistory(..) => {
                self.plain_object(format!("{directory}/{file}"), *file)?.into_iter().collect()
            }
        };
        let contents: BTreeSet<_> = found.iter().map(|object| object.checksum).collect();
        if contents.len() > 1 {
            let objects = found.into_iter().map(|object| object.object).collect();
            return Err(Error::DuplicateWal { file: *file, objects });
        }
        Ok(found)
    }

    /// The content of a file. That of a segment is held against its checksum, and against `size` if the segment size of the cluster is known.
    ///
    /// # Errors
    /// Where that cannot even begin. All else comes from the content.
    pub fn open(&self, object: &WalObject, size: Option<u64>) -> Result<Content> {
        let objects = Arc::clone(&self.stanza.repository.objects);
        let key = &object.object;
        let reader = ObjectReader::new(objects, key.clone(), 0..object.stored_size);
        let size = match (object.file, size) {
            (WalFileName::Segment(_) | WalFileName::Partial(_), Some(size)) => Size::Exactly(size),
            (WalFileName::Segment(_) | WalFileName::Partial(_), None) => Size::AtMost(MAX_SEGMENT),
            (WalFileName::History(_) | WalFileName::BackupHistory(..), _) => {
                Size::AtMost(MAX_HISTORY_BYTES as u64)
            }
        };
        let expected =
            Expected { file: object.file.to_string(), object: key.clone(), size, checksum: object.checksum };
        let framing = Framing::Normal;
        Ok(match &self.info.info.passphrase {
            None => Content::new(decompress(key, reader, object.compression, framing)?, expected),
            Some(passphrase) => {
                let plain = Decrypt::new(reader, passphrase, framing);
                Content::new(decompress(key, plain, object.compression, framing)?, expected)
            }
        })
    }

    fn name(&self) -> &StanzaName {
        &self.stanza.name
    }

    fn level(&self, directory: &str) -> Result<Level> {
        self.stanza.repository.objects.level(directory).map_err(|error| Error::from_source(directory, error))
    }

    fn objects_in(&self, directory: &str, wanted: impl Fn(&WalFileName) -> bool) -> Result<Vec<WalObject>> {
        let mut found = Vec::new();
        for (name, stored_size) in self.level(directory)?.objects {
            let Some((file, checksum, compression)) = layout::parse_wal_object(&name) else { continue };
            if wanted(&file) {
                let object = format!("{directory}/{name}");
                found.push(WalObject { file, checksum, compression, object, stored_size });
            }
        }
        found.sort_unstable_by(|a, b| (a.file, &a.object).cmp(&(b.file, &b.object)));
        Ok(found)
    }

    fn plain_object(&self, object: String, file: WalFileName) -> Result<Option<WalObject>> {
        match self.stanza.repository.objects.size(&object).map_err(|error| Error::from_source(&object, error))
        {
            Ok(stored_size) => {
                let compression = Compression::None;
                Ok(Some(WalObject { file, checksum: None, compression, object, stored_size }))
            }
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}
