//! A repository: its stanzas, and how its info files are found and opened.

use std::fmt;
use std::io::BufRead;
use std::sync::Arc;

use pgbr_manifest::{BackupLabel, StanzaName};

use crate::archive::Archive;
use crate::archive_info::{self, ArchiveInfo};
use crate::backup::{Backup, Backups};
use crate::backup_info::{self, BackupInfo};
use crate::cipher::{Decrypt, Framing, MAGIC, Passphrase};
use crate::error::{Error, Fault, Result};
use crate::info_file::FIRST_LINE;
use crate::layout;
use crate::manifest::{self, Manifest};
use crate::objects::{ObjectReader, Objects};

/// A repository of pgBackRest. Cheap to clone.
#[derive(Clone)]
pub struct Repository {
    pub(crate) objects: Arc<dyn Objects>,
    passphrase: Option<Passphrase>,
}

/// An info file that was read.
#[derive(Debug)]
#[non_exhaustive]
pub struct Loaded<T> {
    /// What it says.
    pub info: T,
    /// What was wrong with the file, where it is its copy that was read.
    pub from_copy: Option<Error>,
}

/// Whose passphrase opens an info file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lock {
    /// The operator's.
    Operator,
    /// That of another info file, which has been opened.
    Info,
}

impl Repository {
    /// The repository that has these objects; with the passphrase (`repo-cipher-pass`) if it is encrypted.
    pub fn new(objects: Arc<dyn Objects>, passphrase: Option<Passphrase>) -> Self {
        Self { objects, passphrase }
    }

    /// The stanzas that have an archive or backups, by name.
    ///
    /// # Errors
    /// Where the repository could not be reached.
    pub fn stanzas(&self) -> Result<Vec<StanzaName>> {
        let mut names = Vec::new();
        for root in [layout::archive_root(), layout::backup_root()] {
            let level = self.objects.level(root).map_err(|error| Error::from_source(root, error))?;
            // What is no name of a stanza is none.
            names.extend(level.directories.iter().filter_map(|name| name.parse::<StanzaName>().ok()));
        }
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    /// The stanza of this name, whether or not there is one.
    pub fn stanza(&self, name: StanzaName) -> Stanza {
        Stanza { repository: self.clone(), name }
    }

    /// Reads an info file, or its copy if it cannot be used.
    fn load<T>(
        &self,
        object: &str,
        (passphrase, lock): (Option<&Passphrase>, Lock),
        max: u64,
        read: impl Fn(&mut dyn BufRead) -> Result<T, Fault>,
    ) -> Result<Loaded<T>> {
        let main = match self.load_one(object, (passphrase, lock), max, &read) {
            Ok(info) => return Ok(Loaded { info, from_copy: None }),
            Err(error) => error,
        };
        match (self.load_one(&layout::copy_of(object), (passphrase, lock), max, &read), main) {
            (Ok(info), main) => Ok(Loaded { info, from_copy: Some(main) }),
            (Err(_), main) if is_about_all(&main) => Err(main),
            (Err(copy), _) if is_about_all(&copy) => Err(copy),
            (Err(Error::NotFound { .. }), main @ Error::NotFound { .. }) => Err(main),
            (Err(Error::Unavailable { .. }), main @ Error::Unavailable { .. }) => Err(main),
            (Err(copy), main) => {
                Err(Error::NoCopy { object: object.to_owned(), main: Box::new(main), copy: Box::new(copy) })
            }
        }
    }

    fn load_one<T>(
        &self,
        object: &str,
        (passphrase, lock): (Option<&Passphrase>, Lock),
        max: u64,
        read: impl Fn(&mut dyn BufRead) -> Result<T, Fault>,
    ) -> Result<T> {
        let name = || object.to_owned();
        let size = self.objects.size(object).map_err(|error| Error::from_source(object, error))?;
        if size > max {
            return Err(Error::TooLarge { object: name(), max });
        }
        let mut stored = ObjectReader::new(Arc::clone(&self.objects), object, 0..size);
        let head = stored.fill_buf().map_err(|error| Error::from_stream(object, error))?;
        let (encrypted, plain) = (head.starts_with(MAGIC), head.starts_with(FIRST_LINE));
        match passphrase {
            None if encrypted => Err(Error::Encrypted { object: name() }),
            Some(_) if plain => Err(Error::NotEncrypted { object: name() }),
            Some(_) if encrypted && (size < 32 || size % 16 != 0) => {
                Err(Error::damaged(object, "what is encrypted is not whole"))
            }
            Some(passphrase) if encrypted => {
                if lock == Lock::Operator && !passphrase.opens(head, FIRST_LINE) {
                    return Err(Error::WrongPassphrase { object: name() });
                }
                let mut plain = Decrypt::new(stored, passphrase, Framing::Normal);
                read(&mut plain).map_err(|fault| fault.at(object))
            }
            _ => read(&mut stored).map_err(|fault| fault.at(object)),
        }
    }
}

/// Whether an error tells about the whole repository, so that the state of a copy is of no interest.
fn is_about_all(error: &Error) -> bool {
    matches!(
        error,
        Error::Encrypted { .. }
            | Error::NotEncrypted { .. }
            | Error::WrongPassphrase { .. }
            | Error::UnsupportedFormat { .. }
    )
}

/// A stanza of a repository. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Stanza {
    pub(crate) repository: Repository,
    pub(crate) name: StanzaName,
}

impl Stanza {
    /// Its name.
    pub fn name(&self) -> &StanzaName {
        &self.name
    }

    /// Reads `archive.info` or its copy.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is neither, and as neither of them can be used.
    pub fn archive_info(&self) -> Result<Loaded<ArchiveInfo>> {
        let lock = (self.repository.passphrase.as_ref(), Lock::Operator);
        let object = layout::archive_info(&self.name);
        let loaded =
            self.repository.load(&object, lock, archive_info::MAX_BYTES, |text| ArchiveInfo::read(text))?;
        self.check_passphrase(&object, loaded.info.passphrase.is_some())?;
        Ok(loaded)
    }

    /// Reads `backup.info` or its copy. Not every backup in it can be used: see [`Stanza::backups`].
    ///
    /// # Errors
    /// As [`Stanza::archive_info`].
    pub fn backup_info(&self) -> Result<Loaded<BackupInfo>> {
        let lock = (self.repository.passphrase.as_ref(), Lock::Operator);
        let object = layout::backup_info(&self.name);
        let loaded =
            self.repository.load(&object, lock, backup_info::MAX_BYTES, |text| BackupInfo::read(text))?;
        self.check_passphrase(&object, loaded.info.passphrase.is_some())?;
        Ok(loaded)
    }

    /// The archive of the stanza.
    ///
    /// # Errors
    /// As [`Stanza::archive_info`].
    pub fn archive(&self) -> Result<Archive> {
        Ok(Archive { stanza: self.clone(), info: self.archive_info()? })
    }

    /// The backups of the stanza: what `backup.info` lists, held against what is there.
    ///
    /// # Errors
    /// As [`Stanza::backup_info`].
    pub fn backups(&self) -> Result<Backups> {
        Backups::find(self.clone(), self.backup_info()?)
    }

    /// A backup, to be read with what `backup.info` says. Whether the list has it does not matter.
    ///
    /// # Errors
    /// [`Error::NotFound`] where it has no manifest, only a copy of one: it is not finished. Otherwise as its manifest cannot be used.
    pub fn backup(&self, info: &BackupInfo, label: BackupLabel) -> Result<Backup> {
        let object = layout::manifest(&self.name, label);
        // A copy alone is what an unfinished backup has.
        self.repository.objects.size(&object).map_err(|error| Error::from_source(&object, error))?;
        let lock = (info.passphrase.as_ref(), Lock::Info);
        let loaded = self.repository.load(&object, lock, manifest::MAX_BYTES, |text| Manifest::read(text))?;
        self.check_passphrase(&object, loaded.info.passphrase.is_some())?;
        if loaded.info.label != label {
            let (what, reason) =
                ("[backup] backup-label".to_owned(), format!("is that of {}", loaded.info.label));
            return Err(Error::Invalid { object, what, reason });
        }
        Ok(Backup { stanza: self.clone(), manifest: Arc::new(loaded.info), from_copy: loaded.from_copy })
    }

    /// An encrypted repository is so through and through.
    fn check_passphrase(&self, object: &str, has: bool) -> Result<()> {
        if has == self.repository.passphrase.is_some() {
            return Ok(());
        }
        let reason = if has { "is there in a repository without encryption" } else { "is missing" };
        let (object, what) = (object.to_owned(), "[cipher] cipher-pass".to_owned());
        Err(Error::Invalid { object, what, reason: reason.to_owned() })
    }
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Repository").field("encrypted", &self.passphrase.is_some()).finish_non_exhaustive()
    }
}
