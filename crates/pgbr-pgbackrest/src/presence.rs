//! What is there of an archive, told by names alone: for who asks often and mostly finds nothing.

use pgbr_manifest::WalFileName;

use crate::archive::Archive;
use crate::error::{Error, Result};
use crate::layout;
use crate::names::ArchiveId;
use crate::objects::Level;
use crate::repository::Stanza;

impl Stanza {
    /// The archive of the stanza; `None` where there is neither `archive.info` nor its copy, which one listing tells.
    ///
    /// # Errors
    /// As [`Stanza::archive`].
    pub fn find_archive(&self) -> Result<Option<Archive>> {
        let info = layout::archive_info(&self.name);
        let copy = layout::copy_of(&info);
        let is_info =
            |name: &str| [&info, &copy].iter().any(|object| object.rsplit('/').next() == Some(name));
        let level = self.level(&layout::archive(&self.name))?;
        match level.objects.iter().any(|(name, _)| is_info(name)) {
            true => self.archive().map(Some),
            false => Ok(None),
        }
    }

    /// Whether any archive of the stanza has an object for a file of this name. `archive.info` is not read, so this is known also where that is
    /// damaged, or its passphrase is not known.
    ///
    /// # Errors
    /// Where the repository could not be reached.
    pub fn has_wal(&self, file: &WalFileName) -> Result<bool> {
        let ids = self.level(&layout::archive(&self.name))?.directories;
        for id in ids.iter().filter_map(|name| name.parse::<ArchiveId>().ok()) {
            let level = self.level(&layout::wal_directory(&self.name, id, file))?;
            let is_of = |(name, _): &(String, u64)| {
                layout::parse_wal_object(name).is_some_and(|(found, ..)| found == *file)
            };
            if level.objects.iter().any(is_of) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn level(&self, directory: &str) -> Result<Level> {
        self.repository.objects.level(directory).map_err(|error| Error::from_source(directory, error))
    }
}
