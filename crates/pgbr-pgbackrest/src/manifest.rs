//! `backup.manifest`: what a backup holds, and where each file of it lies.

mod file;
mod places;
mod read;

use std::collections::BTreeMap;
use std::fmt;
use std::io::BufRead;
use std::sync::Arc;

use pgbr_manifest::{BackupLabel, BackupType, RelPath};

use crate::backup_info::{Cluster, WalRange};
use crate::cipher::{Framing, Passphrase};
use crate::compression::Compression;
use crate::error::Result;
use crate::names::Checksum;

/// More bytes than any manifest has: some twenty million files.
pub(crate) const MAX_BYTES: u64 = 4 << 30;
/// The most memory that one takes.
const MAX_MEMORY: u64 = 8 << 30;

/// What a backup holds. One that exists is consistent: no path leads out, what lies in another backup is in one that is referred to, every
/// file lies in a directory of the list, and no sum of sizes overflows.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Manifest {
    /// The version of pgBackRest that wrote it.
    pub written_by: String,
    /// The backup's label.
    pub label: BackupLabel,
    /// What it holds.
    pub kind: BackupType,
    /// The backup that it was made against; none for a full.
    pub prior: Option<BackupLabel>,
    /// The backups that hold its files, in the order by which block maps name them; it itself is the last.
    pub references: Vec<BackupLabel>,
    /// The WAL that it needs.
    pub wal: WalRange,
    /// When it began, in Unix seconds.
    pub started: i64,
    /// When copying began, in Unix seconds.
    pub copy_started: i64,
    /// When it ended, in Unix seconds.
    pub stopped: i64,
    /// The cluster that it is of.
    pub cluster: Cluster,
    /// How it was made.
    pub options: Options,
    /// Where the data directory, its links and its tablespaces were.
    pub targets: Vec<Target>,
    /// The databases, by name.
    pub databases: Vec<Database>,
    /// What the operator noted on it when it was made.
    pub annotations: BTreeMap<String, String>,
    /// The files, by the bytes of their paths.
    pub files: Vec<File>,
    /// The symbolic links, by path. Those of tablespaces are `pg_data/pg_tblspc/OID`.
    pub links: Vec<Link>,
    /// The directories, by path. With tablespaces `pg_tblspc` and `pg_tblspc/OID` are among them, which stand for what the links lead to.
    pub directories: Vec<Directory>,
    /// What opens its files in an encrypted repository.
    pub passphrase: Option<Passphrase>,
}

/// How a backup was made and stored.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// How its files are compressed.
    pub compression: Compression,
    /// Small files share objects.
    pub bundle: bool,
    /// Files in bundles have raw framing.
    pub bundle_raw: bool,
    /// Files may be stored as blocks.
    pub block_incr: bool,
    /// It was waited for its WAL to be archived.
    pub archive_check: bool,
    /// Its WAL was copied into it.
    pub archive_copy: bool,
    /// Files came from a standby.
    pub backup_standby: bool,
    /// Page checksums were looked at.
    pub checksum_page: bool,
    /// Files were compared by checksum.
    pub delta: bool,
    /// Referenced files are there by hard links.
    pub hardlink: bool,
    /// The server was running.
    pub online: bool,
}

impl Options {
    /// The framing of files that are stored whole in a bundle.
    pub(crate) fn bundle_framing(&self) -> Framing {
        if self.bundle_raw { Framing::Raw } else { Framing::Normal }
    }
}

/// A place outside of the data directory, or the data directory itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Target {
    /// Its name in the manifest: `pg_data`, `pg_data/x` for a link, `pg_tblspc/OID` for a tablespace.
    pub name: RelPath,
    /// What it is.
    pub kind: TargetKind,
    /// The directory where it was; for a link as the link says, so it may be relative.
    pub path: String,
}

/// What a target is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the format has these")]
pub enum TargetKind {
    /// The data directory.
    DataDirectory,
    /// A directory that a link leads to.
    LinkedDirectory,
    /// A file of this name in the directory, that a link leads to.
    LinkedFile(String),
    /// A tablespace.
    Tablespace {
        /// Its OID.
        oid: u32,
        /// Its name.
        name: String,
    },
}

/// A database of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Database {
    /// Its name.
    pub name: String,
    /// Its OID.
    pub oid: u32,
    /// The highest OID that the server made for itself: databases of higher ones are people's.
    pub last_system_oid: u32,
}

/// A user or group; none where the host that was backed up had no name for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner(Option<Arc<str>>);

impl Owner {
    /// The name.
    pub fn name(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

/// Permission bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mode(u16);

impl Mode {
    /// The bits, at most `0o7777`.
    pub const fn bits(self) -> u32 {
        self.0 as u32
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl fmt::Debug for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mode({self})")
    }
}

/// A directory.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Directory {
    /// Its path.
    pub path: RelPath,
    /// Its permissions.
    pub mode: Mode,
    /// Its user.
    pub user: Owner,
    /// Its group.
    pub group: Owner,
}

/// A symbolic link.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Link {
    /// Its path.
    pub path: RelPath,
    /// Where it leads, absolute or relative to where it is.
    pub destination: String,
    /// Its user.
    pub user: Owner,
    /// Its group.
    pub group: Owner,
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct File {
    /// Its path.
    pub path: RelPath,
    /// Its size in bytes.
    pub size: u64,
    /// Its size when the backup began: it may have grown or been cut while it was read.
    pub size_at_start: u64,
    /// When it was changed last, in Unix seconds.
    pub modified: i64,
    /// SHA-1 of its content.
    pub checksum: Checksum,
    /// SHA-1 of the bytes stored, where it is known and these are not the content itself.
    pub stored_checksum: Option<Checksum>,
    /// How many bytes are stored.
    pub stored_size: u64,
    /// In which object.
    pub place: Place,
    /// The backup that holds it; none where it is this one.
    pub reference: Option<BackupLabel>,
    /// How it is cut into blocks, if it is stored so.
    pub blocks: Option<Blocks>,
    /// What came of its page checksums, if they were looked at.
    pub pages: Option<PageCheck>,
    /// Its permissions.
    pub mode: Mode,
    /// Its user.
    pub user: Owner,
    /// Its group.
    pub group: Owner,
}

/// Where the bytes of a file lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the format has these two")]
pub enum Place {
    /// In an object of its own.
    Own,
    /// In a bundle.
    Bundle {
        /// The bundle's number, from 1.
        id: u64,
        /// Where in it the file begins.
        offset: u64,
    },
}

/// How a file is stored as blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Blocks {
    /// Bytes in a block.
    pub size: u64,
    /// Bytes in the checksum of a block.
    pub checksum_width: u8,
    /// Bytes of the block map, the last of those stored.
    pub map_size: u64,
}

/// What came of looking at page checksums.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the format has these")]
pub enum PageCheck {
    /// All were right.
    Good,
    /// These were not: first and last page of each run, counted over the whole relation.
    Bad(Vec<(u64, u64)>),
    /// The file does not consist of whole pages.
    Torn,
}

impl Manifest {
    /// Reads the decrypted text of the file; `object` is what errors call it.
    ///
    /// The text is not held, only what is made of it: for each file, link and directory less than 400 bytes, its path and the pages that
    /// were wrong, as lines come. A list that takes more than 8 GiB (twenty million files) is refused.
    ///
    /// # Errors
    /// Where it is not whole, in another format, or breaks a rule of [`Manifest`].
    pub fn parse(object: &str, input: impl BufRead) -> Result<Self> {
        Self::read(input).map_err(|fault| fault.at(object))
    }

    /// The file of this path.
    pub fn file(&self, path: &RelPath) -> Option<&File> {
        let found = self.files.binary_search_by(|file| file.path.as_bytes().cmp(path.as_bytes()));
        found.ok().and_then(|at| self.files.get(at))
    }

    /// The backup that holds a file.
    pub fn owner(&self, file: &File) -> BackupLabel {
        file.reference.unwrap_or(self.label)
    }
}
