//! What can go wrong with a repository, sorted by what the caller has to do about it.

mod told;

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::PathBuf;

use object_store::path::Path;

pub(crate) use told::{Meaning, Told};

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation on a repository failed.
///
/// The line that matters most runs between [`Error::NotFound`] (the repository was reached, and the object is not in it) and
/// [`Error::Unavailable`] (nobody could look): `archive-get` may tell PostgreSQL that the WAL has ended in the first case only.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The repository was reached, and this object is not in it.
    #[error("object '{object}' is not in the repository")]
    NotFound {
        /// The object's key.
        object: String,
    },
    /// The store could not be asked, or gave no answer: try again later.
    #[error("unable to reach '{object}' in the repository")]
    Unavailable {
        /// The object's key, or the place of the repository.
        object: String,
        /// What the store said.
        source: Cause,
    },
    /// The store has no room left, or a quota is used up.
    #[error("no space left to store '{object}'")]
    NoSpace {
        /// The object's key.
        object: String,
        /// What the store said.
        source: Cause,
    },
    /// The store refused access.
    #[error("access to '{object}' was denied")]
    Permission {
        /// The object's key.
        object: String,
        /// What the store said.
        source: Cause,
    },
    /// The bucket or the container is not there: nothing is known of what is in it.
    #[error("the bucket or container of '{object}' does not exist")]
    StoreMissing {
        /// The object's key, or the place of the repository.
        object: String,
        /// What the store said.
        source: Cause,
    },
    /// The store does not know who is asking, or the credentials have expired or cannot be had.
    #[error("the store does not accept the credentials used for '{object}'")]
    Credentials {
        /// The object's key.
        object: String,
        /// What the store said.
        source: Cause,
    },
    /// The clock of this host and the store's differ by too much for a signature to be believed.
    #[error("the clocks of this host and the store differ too much to access '{object}'")]
    Clock {
        /// The object's key.
        object: String,
        /// What the store said.
        source: Cause,
    },
    /// The certificate of the store's server is not to be trusted.
    #[error("the certificate of the store that holds '{object}' was not accepted")]
    Certificate {
        /// The object's key.
        object: String,
        /// What is wrong with it.
        source: Cause,
    },
    /// An object is there and does not hold what it must.
    #[error("object '{object}' is damaged: {reason}")]
    Corrupt {
        /// The object's key.
        object: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An object of another format version, or one that asks for something this program does not know.
    #[error("object '{object}' needs a newer program: {reason}")]
    Unsupported {
        /// The object's key.
        object: String,
        /// What is not known.
        reason: String,
    },
    /// An object of another repository, or sealed under a key that is not open.
    #[error("object '{object}' does not belong here")]
    Foreign {
        /// The object's key.
        object: String,
        /// What the codec said.
        source: pgbr_codec::Error,
    },
    /// There is no repository at this place (its store was reached).
    #[error("there is no repository in '{place}'")]
    NoRepository {
        /// Where it was looked for.
        place: String,
    },
    /// A repository, or sealed objects of one, are there already.
    #[error("a repository exists in '{place}' already: found '{object}'")]
    RepositoryExists {
        /// Where it was to be made.
        place: String,
        /// The object in the way.
        object: String,
    },
    /// The store lacks something that no repository can do without.
    #[error("'{place}' cannot hold a repository: {reason}")]
    UnfitStore {
        /// Where the repository was to be made.
        place: String,
        /// What the probe found.
        reason: &'static str,
    },
    /// What is said of a store does not describe one, or this program has no client for it.
    #[error("unable to use the store '{place}': {reason}")]
    StoreOptions {
        /// The store.
        place: String,
        /// What is wrong.
        reason: String,
    },
    /// No slot of the repository opens with this passphrase.
    #[error("the passphrase opens none of the repository's key slots")]
    WrongPassphrase,
    /// The repository is encrypted, and no passphrase was given.
    #[error("the repository is encrypted, and no passphrase is set")]
    PassphraseMissing,
    /// A passphrase was given, and the repository is not encrypted.
    #[error("a passphrase is set, and the repository is not encrypted")]
    NotEncrypted,
    /// The repository was opened by a passphrase that is for writing only, and this would need the content of backups or of WAL.
    #[error("the passphrase is for writing only: unable to {doing}")]
    WriteOnly {
        /// What was to be done.
        doing: String,
    },
    /// Sealing, opening or wrapping failed for a reason other than damage in the repository.
    #[error("unable to seal or open '{object}'")]
    Codec {
        /// The object's key, or what was worked on.
        object: String,
        /// What the codec said.
        source: pgbr_codec::Error,
    },
    /// No random bytes could be had.
    #[error("unable to draw random bytes")]
    Entropy {
        /// What the source of randomness said.
        source: Cause,
    },
    /// The stanza was never created in this repository.
    #[error("stanza '{stanza}' does not exist in the repository")]
    StanzaMissing {
        /// Its name.
        stanza: String,
    },
    /// The stanza exists, and its current cluster is the one given.
    #[error("stanza '{stanza}' exists already")]
    StanzaExists {
        /// Its name.
        stanza: String,
    },
    /// The stanza exists, and its current cluster is another one.
    #[error("stanza '{stanza}' is of cluster {found}, not {expected}")]
    StanzaMismatch {
        /// Its name.
        stanza: String,
        /// Version and system identifier in the repository.
        found: String,
        /// Version and system identifier asked for.
        expected: String,
    },
    /// A WAL file is in the archive with other content; what was archived first stays.
    #[error("WAL file '{file}' is in the archive with different content (stored {stored}, given {given})")]
    WalConflict {
        /// The file's name.
        file: String,
        /// The first digits of the stored content's digest.
        stored: String,
        /// The first digits of the given content's digest.
        given: String,
    },
    /// Two objects of one WAL file verify and differ, and nothing tells which is right.
    #[error("WAL file '{file}' is in the archive with two contents ({first} and {second})")]
    WalAmbiguous {
        /// The file's name.
        file: String,
        /// The first object's key.
        first: String,
        /// The other object's key.
        second: String,
    },
    /// The manifest of a label is there and is another run's.
    #[error("backup '{label}' was committed by another run")]
    BackupExists {
        /// The label.
        label: String,
    },
    /// It is not known whether a commit succeeded: the store failed, and then could not be asked. Nothing may be cleaned up.
    #[error("it is unknown whether '{object}' was stored")]
    Undecided {
        /// The object's key.
        object: String,
        /// Why the store could not be asked.
        source: Box<Self>,
    },
    /// A pin was taken away while its owner was at work: it was not seen alive for its time-to-live.
    #[error("pin '{pin}' was taken away while it was in use")]
    PinLost {
        /// The pin's id.
        pin: String,
    },
    /// Another process holds the lease.
    #[error("lease '{lease}' is held by {holder}")]
    LeaseHeld {
        /// The lease's name.
        lease: String,
        /// Host and process of the holder, in its own words.
        holder: String,
    },
    /// The lease was taken over by another process.
    #[error("lease '{lease}' was taken over by {holder}")]
    LeaseLost {
        /// The lease's name.
        lease: String,
        /// Host and process of the holder, in its own words.
        holder: String,
    },
    /// Another process holds a local lock.
    #[error("unable to acquire lock on file '{}'{}", path.display(), holder.map(|pid| format!(", held by process {pid}")).unwrap_or_default())]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// The holder's process id, if it could be read.
        holder: Option<u32>,
    },
    /// A local file could not be read or written.
    #[error("unable to {action} '{}'", path.display())]
    Local {
        /// What was to be done, as `read`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A local file or directory is not as it must be for its secrets or its purpose.
    #[error("'{}' cannot be used: {reason}", path.display())]
    Unsafe {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A value given by the caller is out of bounds.
    #[error("{what} {reason}")]
    Invalid {
        /// The value's name.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

impl Error {
    /// Whether the repository was reached and the thing asked for is not in it.
    pub const fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether the object is there and damaged, as opposed to missing or out of reach.
    pub const fn is_damage(&self) -> bool {
        matches!(self, Self::Corrupt { .. })
    }

    /// Whether the object is there and cannot be trusted to hold what its name says: damaged, foreign or too new.
    pub const fn is_unverified(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::Foreign { .. } | Self::Unsupported { .. })
    }

    /// Whether trying again later may help although nothing is changed.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::NoSpace { .. } | Self::Undecided { .. })
    }

    pub(crate) fn corrupt(object: &Path, reason: impl fmt::Display) -> Self {
        Self::Corrupt { object: object.to_string(), reason: reason.to_string() }
    }

    pub(crate) fn not_found(object: &Path) -> Self {
        Self::NotFound { object: object.to_string() }
    }

    pub(crate) fn local(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Local { action, path: path.into(), source }
    }

    /// Sorts what the codec said about the bytes of `object`, which were read.
    pub(crate) fn from_codec(object: &Path, error: pgbr_codec::Error) -> Self {
        use pgbr_codec::Error as Codec;
        let name = object.to_string();
        match error {
            Codec::OtherRepository { .. } | Codec::OtherKey { .. } | Codec::ModeMismatch { .. } => {
                Self::Foreign { object: name, source: error }
            }
            Codec::UnsupportedVersion { .. } => Self::Unsupported { object: name, reason: error.to_string() },
            Codec::WriteOnly { .. } => Self::WriteOnly { doing: format!("read '{name}'") },
            Codec::OutOfMemory { .. } | Codec::Crypto { .. } | Codec::Unwritable { .. } => {
                Self::Codec { object: name, source: error }
            }
            Codec::Json { what, source } => {
                Self::Corrupt { object: name, reason: format!("{what}: {source}") }
            }
            damage => Self::Corrupt { object: name, reason: damage.to_string() },
        }
    }

    /// Sorts what a store said about `object`; "not found" and "exists" have been dealt with by the caller.
    pub(crate) fn from_store(object: &Path, error: object_store::Error) -> Self {
        Self::sorted(object.to_string(), &error)
    }

    /// As [`Error::from_store`], of an object or a place.
    pub(crate) fn sorted(object: String, error: &object_store::Error) -> Self {
        let source = Cause::from_store(error);
        match Told::of(error).map(|told| told.meaning()) {
            Some(Meaning::StoreMissing) => return Self::StoreMissing { object, source },
            Some(Meaning::Credentials) => return Self::Credentials { object, source },
            Some(Meaning::Clock) => return Self::Clock { object, source },
            Some(Meaning::Denied) => return Self::Permission { object, source },
            Some(Meaning::NoSpace) => return Self::NoSpace { object, source },
            Some(Meaning::Other) | None => {}
        }
        if source.0.contains(BAD_CERTIFICATE) {
            return Self::Certificate { object, source };
        }
        match (error, io_kind(error)) {
            (
                _,
                Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge),
            ) => Self::NoSpace { object, source },
            (_, Some(io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem))
            | (object_store::Error::PermissionDenied { .. }, _) => Self::Permission { object, source },
            (object_store::Error::Unauthenticated { .. }, _) => Self::Credentials { object, source },
            _ => Self::Unavailable { object, source },
        }
    }
}

/// How rustls begins what is wrong with a certificate.
const BAD_CERTIFICATE: &str = "invalid peer certificate";

/// What a lower layer said, in one line that does not repeat itself.
///
/// `object_store` prints its sources and returns them as well, so its errors are reduced to their innermost text here.
#[derive(Debug)]
pub struct Cause(String);

impl Cause {
    /// A cause in words.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(crate) fn from_store(error: &object_store::Error) -> Self {
        if let Some(told) = Told::of(error) {
            return Self(told.text);
        }
        #[cfg(feature = "cloud")]
        if let Some(failed) = connection(error) {
            return Self(failed);
        }
        match error {
            object_store::Error::Generic { source, .. }
            | object_store::Error::NotFound { source, .. }
            | object_store::Error::AlreadyExists { source, .. }
            | object_store::Error::Precondition { source, .. }
            | object_store::Error::NotSupported { source }
            | object_store::Error::PermissionDenied { source, .. }
            | object_store::Error::Unauthenticated { source, .. } => Self(source.to_string()),
            other => Self(other.to_string()),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Cause {}

impl From<io::Error> for Cause {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

/// Why a connection failed: what is about the innermost words repeats them and names the URL.
#[cfg(feature = "cloud")]
fn connection(error: &object_store::Error) -> Option<String> {
    let mut next: Option<&(dyn StdError + 'static)> = error.source();
    while let Some(cause) = next {
        if let Some(found) = cause.downcast_ref::<object_store::client::HttpError>() {
            return found.source().map(ToString::to_string);
        }
        next = cause.source();
    }
    None
}

/// The kind of the first system error in the chain of causes.
pub(crate) fn io_kind(error: &object_store::Error) -> Option<io::ErrorKind> {
    let mut next: Option<&(dyn StdError + 'static)> = error.source();
    while let Some(cause) = next {
        if let Some(found) = cause.downcast_ref::<io::Error>() {
            return Some(found.kind());
        }
        next = cause.source();
    }
    None
}
