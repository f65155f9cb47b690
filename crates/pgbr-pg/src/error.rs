//! What can go wrong between pgbr and a PostgreSQL cluster.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgbr_manifest::{Lsn, PgVersion, SystemId};

/// Why something about a cluster could not be learned or done.
///
/// The text of an error never repeats that of its source; print the whole chain.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or directory could not be read, written or asked about.
    #[error("cannot {doing} '{}'", path.display())]
    Io {
        /// The verb, as `open`.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// No session could be opened.
    #[error("cannot connect to PostgreSQL at {target}")]
    Connect {
        /// Socket or host, port, user and database.
        target: String,
        /// The reason, as the server or the operating system gave it.
        source: ServerError,
    },
    /// The server did not answer in time.
    #[error("PostgreSQL did not {what} within {} s", after.as_secs_f64())]
    Timeout {
        /// What it was asked to do, as `stop the backup`.
        what: &'static str,
        /// How long it was waited for.
        after: Duration,
    },
    /// The server refused or failed a statement.
    #[error("PostgreSQL could not {what}")]
    Query {
        /// What it was asked to do, as `start the backup`.
        what: &'static str,
        /// The server's words.
        source: ServerError,
    },
    /// The server answered something that cannot be.
    #[error("PostgreSQL's answer about {what} cannot be used: {reason}")]
    Answer {
        /// What was asked for.
        what: &'static str,
        /// What is wrong with the answer.
        reason: String,
    },
    /// Neither this program nor its author knows this version.
    #[error("PostgreSQL version {found} is not supported, 13 to 18 are")]
    UnsupportedVersion {
        /// As the cluster calls it.
        found: String,
    },
    /// The data directory is of another version than it should be.
    #[error("'{}' is of PostgreSQL {found}, not of {expected}", path.display())]
    OtherVersion {
        /// The file that says so.
        path: PathBuf,
        /// What it says.
        found: String,
        /// What was expected.
        expected: PgVersion,
    },
    /// The server process that began the backup is not the one that answers now, so the backup cannot be stopped.
    #[error(
        "the server session {began} that began the backup is gone, session {answers} answers (is a connection pooler between?)"
    )]
    SessionLost {
        /// Process id of the session that began the backup.
        began: i32,
        /// Process id of the session that answers.
        answers: i32,
    },
    /// The control file is damaged or of an unknown build.
    #[error("control file{} cannot be used: {reason}", Place(path.as_deref()))]
    ControlFile {
        /// The file, if it was read from one.
        path: Option<PathBuf>,
        /// What is wrong.
        reason: String,
    },
    /// A link in the data directory leads to a place that cannot be backed up.
    #[error("link '{}' leads to '{}', which {reason}", link.display(), target.display())]
    LinkDestination {
        /// The link.
        link: PathBuf,
        /// Where it leads.
        target: PathBuf,
        /// Why that cannot be.
        reason: String,
    },
    /// A file without which there is no cluster is not there.
    #[error("'{}' is missing", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// Something is not the kind of file that it must be.
    #[error("'{}' is not a {expected}", path.display())]
    NotA {
        /// The file.
        path: PathBuf,
        /// What it must be, as `regular file`.
        expected: &'static str,
    },
    /// The head of a WAL segment does not decode.
    #[error("damaged WAL segment header: {reason}")]
    WalHeader {
        /// What is wrong with it.
        reason: String,
    },
    /// A WAL segment is of another cluster.
    #[error("WAL segment is of system {found}, not of {expected}")]
    WalSystem {
        /// The system identifier in the segment.
        found: SystemId,
        /// The one of the stanza.
        expected: SystemId,
    },
    /// A WAL segment is of another version of PostgreSQL.
    #[error("WAL segment is of PostgreSQL {found}, not of {expected}")]
    WalVersion {
        /// The version in the segment, a magic number where it is unknown.
        found: String,
        /// The one of the stanza.
        expected: PgVersion,
    },
    /// A WAL segment is cut or too long.
    #[error("WAL segment has {found} bytes, not {expected}")]
    WalSize {
        /// The bytes that it has.
        found: u64,
        /// The segment size in its header.
        expected: u64,
    },
    /// A WAL segment holds another part of the log than its name says.
    #[error("WAL segment begins at {found}, its name says {expected}")]
    WalPosition {
        /// The position in the segment.
        found: Lsn,
        /// The position of the name.
        expected: Lsn,
    },
    /// A WAL segment is of a later timeline than its name says.
    #[error("WAL segment is of timeline {found}, its name says {expected}")]
    WalTimeline {
        /// The timeline in the segment.
        found: u32,
        /// The timeline of the name.
        expected: u32,
    },
    /// A setting for the recovery cannot be written.
    #[error("recovery setting '{name}' cannot be used: {reason}")]
    RecoverySetting {
        /// Its name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// `backup_label` or `tablespace_map` does not have its form.
    #[error("damaged {what}: {reason}")]
    LabelFile {
        /// Which of them.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A word (LSN, path, segment size, ...) does not have its form.
    #[error(transparent)]
    Word(#[from] pgbr_manifest::Error),
}

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A function that puts the path to an error of the operating system.
    pub(crate) fn io(doing: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, path: path.as_ref().to_owned(), source }
    }

    /// Whether PostgreSQL or the operating system said that something is not there.
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
            Self::Missing { .. } => true,
            _ => false,
        }
    }

    /// The SQLSTATE that the server gave, as `28P01`.
    pub fn sql_state(&self) -> Option<&str> {
        match self {
            Self::Connect { source, .. } | Self::Query { source, .. } => source.sql_state(),
            _ => None,
        }
    }
}

/// The words of the server, or of the way to it, on one line and each once.
///
/// tokio-postgres says "db error" and leaves the rest to its source; so this holds the whole story and has no source itself.
pub struct ServerError(Inner);

enum Inner {
    Postgres(tokio_postgres::Error),
    Other(String),
}

impl ServerError {
    /// From words of our own, where the server said nothing.
    pub(crate) fn other(text: impl Into<String>) -> Self {
        Self(Inner::Other(text.into()))
    }

    /// The SQLSTATE that the server gave, as `28P01`.
    pub fn sql_state(&self) -> Option<&str> {
        match &self.0 {
            Inner::Postgres(error) => error.code().map(tokio_postgres::error::SqlState::code),
            Inner::Other(_) => None,
        }
    }
}

impl From<tokio_postgres::Error> for ServerError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self(Inner::Postgres(error))
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = match &self.0 {
            Inner::Other(text) => return f.write_str(text),
            Inner::Postgres(error) => error,
        };
        if let Some(db) = error.as_db_error() {
            write!(f, "{}: {}", db.severity(), db.message())?;
            for more in [db.detail(), db.hint()].into_iter().flatten() {
                write!(f, "; {more}")?;
            }
            return Ok(());
        }
        let mut said = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(next) = cause {
            let text = next.to_string();
            if !said.contains(&text) {
                said = format!("{said}: {text}");
            }
            cause = next.source();
        }
        f.write_str(&said)
    }
}

impl fmt::Debug for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerError({self})")
    }
}

impl std::error::Error for ServerError {}

/// ` '<path>'`, or nothing.
struct Place<'a>(Option<&'a Path>);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |path| write!(f, " '{}'", path.display()))
    }
}
