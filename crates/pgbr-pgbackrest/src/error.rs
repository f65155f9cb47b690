//! What can be wrong with a repository.

use std::io;

use pgbr_manifest::{BackupLabel, StanzaName, WalFileName};

use crate::objects::ObjectError;

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something of a repository could not be read.
///
/// Objects are named by their keys, as `backup/main/backup.info`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such object, in a repository that was reached.
    #[error("'{object}' is not there")]
    NotFound {
        /// Its key.
        object: String,
    },
    /// Whoever brings the objects failed; whether there is such an object is not known.
    #[error("'{object}' cannot be read")]
    Unavailable {
        /// Its key.
        object: String,
        /// What went wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Neither an info file nor its copy can be used.
    #[error("neither '{object}' nor its copy can be used: {main}; the copy: {copy}", main = chain(main), copy = chain(copy))]
    NoCopy {
        /// The key of the file.
        object: String,
        /// What is wrong with the file.
        main: Box<Self>,
        /// What is wrong with its copy.
        copy: Box<Self>,
    },
    /// The repository is encrypted and there is no passphrase.
    #[error("'{object}' is encrypted, and there is no passphrase for the repository")]
    Encrypted {
        /// The object that shows it.
        object: String,
    },
    /// There is a passphrase and the repository is not encrypted.
    #[error("'{object}' is not encrypted, but a passphrase is given for the repository")]
    NotEncrypted {
        /// The object that shows it.
        object: String,
    },
    /// The repository's passphrase does not open its info files.
    #[error("the passphrase does not open '{object}'")]
    WrongPassphrase {
        /// The object that shows it.
        object: String,
    },
    /// The repository is of another format than 5.
    #[error("'{object}' is in format {found}, and only format 5 is known")]
    UnsupportedFormat {
        /// The object that says so.
        object: String,
        /// The format that it names.
        found: u64,
    },
    /// Something that no released version of the format has.
    #[error("'{object}' cannot be read: {what}")]
    Unsupported {
        /// Its key.
        object: String,
        /// What it is.
        what: String,
    },
    /// An info file is not what its own checksum says.
    #[error("'{object}' has the checksum {found}, and says {expected}")]
    InfoChecksum {
        /// Its key.
        object: String,
        /// What it says.
        expected: String,
        /// What was computed.
        found: String,
    },
    /// Text in an info file does not have its form, or contradicts other text in it.
    #[error("'{object}': {what} {reason}")]
    Invalid {
        /// Its key.
        object: String,
        /// The section, key or value.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Stored bytes do not decrypt, decompress or decode.
    #[error("'{object}' is damaged: {reason}")]
    Damaged {
        /// Its key.
        object: String,
        /// What is wrong.
        reason: String,
    },
    /// The bytes of a file are not those that were backed up or archived.
    #[error("the content of '{file}', read from '{object}', is not what was stored: {reason}")]
    ContentMismatch {
        /// The file, as the manifest or PostgreSQL names it.
        file: String,
        /// The object that it was read from.
        object: String,
        /// How it differs.
        reason: String,
    },
    /// The reader of this content has failed before and gives nothing any more.
    #[error("reading '{file}' has failed before")]
    Failed {
        /// The file, as the manifest or PostgreSQL names it.
        file: String,
    },
    /// More than is ever read of its kind.
    #[error("'{object}' has more than {max} bytes")]
    TooLarge {
        /// Its key.
        object: String,
        /// The bound in bytes.
        max: u64,
    },
    /// There is no such backup among those that can be used.
    #[error("stanza '{stanza}' has no backup '{label}' that can be used{reason}")]
    NoBackup {
        /// The stanza.
        stanza: StanzaName,
        /// The backup asked for.
        label: BackupLabel,
        /// What is there instead, as text behind a colon; empty where there is nothing.
        reason: String,
    },
    /// A WAL file is in the archive several times with different content.
    #[error("'{file}' is in the archive with different content: {}", objects.join(", "))]
    DuplicateWal {
        /// The file.
        file: WalFileName,
        /// The objects.
        objects: Vec<String>,
    },
}

impl Error {
    /// Whether the object is missing, in a repository that was reached.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    pub(crate) fn from_source(object: &str, error: ObjectError) -> Self {
        let object = object.to_owned();
        match error {
            ObjectError::NotFound => Self::NotFound { object },
            ObjectError::Failed(source) => Self::Unavailable { object, source },
        }
    }

    pub(crate) fn damaged(object: &str, reason: impl Into<String>) -> Self {
        Self::Damaged { object: object.to_owned(), reason: reason.into() }
    }

    /// What a stream over an object failed with: an error of this crate that passed through a decoder, or a decoder's own.
    pub(crate) fn from_stream(object: &str, error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(own) => own,
            Err(error) => Self::damaged(object, error.to_string()),
        }
    }
}

/// An error of this crate on its way through a stream.
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::other(error)
    }
}

/// What is wrong with an info file, before it is said which one it is.
#[derive(Debug)]
pub(crate) enum Fault {
    Stream(io::Error),
    /// Its first line is not that of an info file.
    NotInfo,
    Format(u64),
    Checksum {
        expected: String,
        found: String,
    },
    Invalid {
        what: String,
        reason: String,
    },
    TooLarge(u64),
}

impl Fault {
    pub(crate) fn invalid(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { what: what.into(), reason: reason.into() }
    }

    pub(crate) fn at(self, object: &str) -> Error {
        let name = object.to_owned();
        match self {
            Self::Stream(error) => Error::from_stream(object, error),
            Self::NotInfo => Error::damaged(object, "it does not begin as an info file does"),
            Self::Format(found) => Error::UnsupportedFormat { object: name, found },
            Self::Checksum { expected, found } => Error::InfoChecksum { object: name, expected, found },
            Self::Invalid { what, reason } => Error::Invalid { object: name, what, reason },
            Self::TooLarge(max) => Error::TooLarge { object: name, max },
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Stream(error)
    }
}

/// An error with its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
