//! What can go wrong in a command, and what kind of thing that is for whoever has to react.

use std::io;
use std::path::{Path, PathBuf};

use pgbr_manifest::{BackupLabel, Lsn, PgVersion, StanzaName, SystemId, TimelineId, WalSegmentName};

/// Why a command did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The repository.
    #[error(transparent)]
    Repo(#[from] pgbr_repo::Error),
    /// The cluster.
    #[error(transparent)]
    Pg(#[from] pgbr_pg::Error),
    /// The contents of an index or manifest.
    #[error(transparent)]
    Manifest(#[from] pgbr_manifest::Error),
    /// What pgBackRest has in a repository.
    #[error(transparent)]
    PgBackRest(#[from] pgbr_pgbackrest::Error),
    /// There is nothing of ours that could take the place of what pgBackRest has.
    #[error("what pgBackRest has of stanza '{stanza}' is not removed: there is no backup of ours")]
    TheirsNeeded {
        /// The stanza.
        stanza: StanzaName,
    },
    /// A backup that was to be changed is one of pgBackRest's.
    #[error("backup set '{label}' is one of pgBackRest's, which are not changed")]
    TheirBackup {
        /// Its name.
        label: BackupLabel,
    },
    /// Somebody works with what pgBackRest has, or may.
    #[error("what pgBackRest has of stanza '{stanza}' is not removed: {reason}")]
    TheirsInUse {
        /// The stanza.
        stanza: StanzaName,
        /// Who.
        reason: String,
    },
    /// Compressing or sealing.
    #[error(transparent)]
    Codec(#[from] pgbr_codec::Error),
    /// A file or directory of this machine.
    #[error("cannot {doing} '{}'", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A record of a repository that is kept elsewhere cannot be used.
    #[error("'{}' is not a record to compare with: {reason}", path.display())]
    BadWitness {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// An exported key cannot be read.
    #[error("this is not an exported key: {reason}")]
    BadExport {
        /// Why not.
        reason: String,
    },
    /// An exported key does not hold its passphrase.
    #[error("the exported key needs the passphrase that it was exported for")]
    ExportPassphrase,
    /// There is no need for an exported key.
    #[error("the repository opens with the passphrase in the configuration: nothing was changed")]
    OpensAlready,
    /// The command was asked to end.
    #[error("stopped on request")]
    Stopped,
    /// A defect of this program.
    #[error("internal error: {what}")]
    Internal {
        /// What should have held.
        what: &'static str,
    },
    /// The cluster is another one than the stanza's.
    #[error(
        "stanza '{stanza}' is of cluster {expected} (PostgreSQL {expected_version}), this is {found} (PostgreSQL {found_version})"
    )]
    OtherCluster {
        /// The stanza.
        stanza: String,
        /// Its system identifier.
        expected: SystemId,
        /// Its major version.
        expected_version: String,
        /// That of the cluster at hand.
        found: SystemId,
        /// The major version of the cluster at hand.
        found_version: String,
    },
    /// `pg1-path` and the server's `data_directory` differ.
    #[error("the server's data directory is '{}', not '{}'", found.display(), expected.display())]
    OtherDirectory {
        /// What the server says.
        found: PathBuf,
        /// What was given.
        expected: PathBuf,
    },
    /// The server does not archive.
    #[error("archive_mode must be enabled")]
    ArchiveDisabled,
    /// The server archives as a standby, too, and nobody said that this is meant.
    #[error("archive_mode=always not supported")]
    ArchiveAlways,
    /// The server's `archive_command` does not call this program.
    #[error("archive_command '{command}' must contain '{expected}'")]
    ArchiveCommand {
        /// As the server has it.
        command: String,
        /// The name looked for.
        expected: String,
    },
    /// The server is a standby where a primary is needed.
    #[error("the server is in recovery; a backup needs the primary")]
    Standby,
    /// Among the clusters of a stanza there is none of this kind.
    #[error("unable to find {role} cluster - cannot proceed")]
    NoServer {
        /// `primary` or `standby`.
        role: &'static str,
    },
    /// Two servers of a stanza take writes.
    #[error("more than one primary cluster found: '{}' and '{}'", first.display(), second.display())]
    TwoPrimaries {
        /// The data directory of one.
        first: PathBuf,
        /// The data directory of the other.
        second: PathBuf,
    },
    /// A standby did not come to the start of a backup in time.
    #[error("the standby has reached {reached} instead of {goal} within {seconds} s")]
    StandbyBehind {
        /// Where it was to come.
        goal: Lsn,
        /// Where it is.
        reached: Lsn,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The standby that files were read from is not what it was when the backup began.
    #[error("the standby can no longer be copied from: {reason}")]
    StandbyChanged {
        /// What has changed.
        reason: String,
    },
    /// The standby that files were read from cannot be asked any more.
    #[error("the standby went away during the backup")]
    StandbyLost {
        /// What it said, or did not say.
        source: pgbr_pg::Error,
    },
    /// WAL did not come in time.
    #[error("WAL segment {segment} did not arrive in the archive within {seconds} s")]
    ArchiveTimeout {
        /// The first that is missing.
        segment: WalSegmentName,
        /// How long it was waited for.
        seconds: u64,
    },
    /// Settings of the backup are not as they must be.
    #[error("the cluster cannot be backed up: {reason}")]
    Unfit {
        /// Why.
        reason: String,
    },
    /// No backup can serve the restore.
    #[error("no backup set to restore")]
    NoBackup {
        /// Why.
        source: pgbr_manifest::Error,
    },
    /// What opens pgBackRest's side of a stanza does not open the repository: its stanzas share its passphrases.
    #[error("what opens pgBackRest's side of stanza '{stanza}' does not open ours")]
    OtherCipher {
        /// The stanza.
        stanza: StanzaName,
        /// Why not.
        source: pgbr_repo::Error,
    },
    /// All backups are of a cluster that the stanza had before.
    #[error("the latest backup set found '{newest}' is from a prior version of PostgreSQL")]
    EarlierCluster {
        /// The newest of them.
        newest: BackupLabel,
    },
    /// A target cannot be understood.
    #[error("'{value}' is not a valid {what} target")]
    Target {
        /// Its kind.
        what: &'static str,
        /// As given.
        value: String,
    },
    /// A backup that was named does not exist.
    #[error("backup set '{label}' is not in the repository")]
    UnknownBackup {
        /// Its name.
        label: BackupLabel,
    },
    /// A file that was named is not in the backup.
    #[error("unable to find '{name}' in the manifest of backup set '{label}'")]
    UnknownFile {
        /// The backup.
        label: BackupLabel,
        /// The file.
        name: String,
    },
    /// A server runs on the data directory of a stanza that is to be removed.
    #[error("unable to delete stanza '{stanza}' while PostgreSQL is running ('{}' exists)", path.display())]
    ServerRunning {
        /// The stanza.
        stanza: StanzaName,
        /// The server's lock file.
        path: PathBuf,
    },
    /// The way to the newest timeline cannot be found.
    #[error("the archive has WAL of timeline {newest}, and history file '{}' is not in it: recovery would end before, on an older timeline", missing.history_file())]
    HistoryMissing {
        /// The first timeline without a history file.
        missing: TimelineId,
        /// The newest timeline.
        newest: TimelineId,
    },
    /// A backup of a stopped cluster was asked for, and a `postmaster.pid` is there that no process uses.
    #[error(
        "--no-online passed but postmaster.pid exists - looks like PostgreSQL is running. Shut down PostgreSQL and try again, or use \
         --force. ('{}')",
        path.display()
    )]
    NotStopped {
        /// The data directory.
        path: PathBuf,
    },
    /// A backup of a stopped cluster was asked for, and a server runs.
    #[error(
        "--no-online passed but PostgreSQL is running on '{}' (process {pid}): files that it writes while they are copied make no backup",
        path.display()
    )]
    StillRunning {
        /// The data directory.
        path: PathBuf,
        /// Its process.
        pid: i32,
    },
    /// A server was started while the files of a stopped cluster were copied.
    #[error("PostgreSQL was started on '{}' while it was backed up with --no-online", path.display())]
    Started {
        /// The data directory.
        path: PathBuf,
    },
    /// A file of a stopped cluster was changed while it was copied.
    #[error("file '{}' was changed while its cluster was backed up with --no-online", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// A server runs on the directory to restore to.
    #[error("unable to restore while PostgreSQL is running ('{}' exists)", path.display())]
    Running {
        /// The server's lock file.
        path: PathBuf,
    },
    /// The directory to restore to holds something.
    #[error("unable to restore to path '{}' because it contains files", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// The directory to restore to does not look like a cluster, and files would be removed from it.
    #[error("'{}' does not look like a data directory: neither PG_VERSION nor a restore in progress was found", path.display())]
    NotACluster {
        /// The directory.
        path: PathBuf,
    },
    /// A tablespace or link would go where something lies that is not known to be of the data directory that is replaced.
    #[error("'{}' contains files that are not known to be of '{}'", path.display(), pg_data.display())]
    OtherData {
        /// The place.
        path: PathBuf,
        /// The data directory.
        pg_data: PathBuf,
    },
    /// The directory to restore to is missing.
    #[error("unable to restore to missing path '{}'", path.display())]
    MissingPath {
        /// The directory.
        path: PathBuf,
    },
    /// A mapping of a tablespace or link cannot be followed.
    #[error("{what} cannot be mapped: {reason}")]
    Map {
        /// The tablespace or link.
        what: String,
        /// Why.
        reason: String,
    },
    /// The backup has no such database.
    #[error("database to {doing} '{name}' does not exist")]
    NoDatabase {
        /// What was to be done with it.
        doing: &'static str,
        /// As given.
        name: String,
    },
    /// A database cannot be chosen.
    #[error("database to include '{name}' cannot be chosen: {reason}")]
    Database {
        /// As given.
        name: String,
        /// Why.
        reason: &'static str,
    },
    /// The repository does not hold what a backup is made of.
    #[error("backup {label} is damaged: {reason}")]
    Damaged {
        /// The backup.
        label: BackupLabel,
        /// What is missing or wrong, with the object's name.
        reason: String,
    },
    /// Recovery from a backup could not begin: its first segment of WAL is missing.
    #[error("WAL segment {segment}, which recovery of backup {label} begins with, is not in the archive")]
    FirstSegment {
        /// The backup, whose files may all be there.
        label: BackupLabel,
        /// The segment.
        segment: WalSegmentName,
    },
    /// A backup that another one builds on cannot be used.
    #[error("backup {label} builds on {parent}, which cannot be used")]
    Parent {
        /// The one that builds on the other.
        label: BackupLabel,
        /// The other.
        parent: BackupLabel,
        /// What is wrong with it.
        source: Box<Self>,
    },
    /// The times of files cannot be trusted: found out in the middle of a backup, which then begins anew and reads everything.
    #[error("the times of '{path}' cannot be trusted: {why}")]
    Distrust {
        /// The file.
        path: String,
        /// What is wrong with them.
        why: &'static str,
    },
    /// A thing that this version cannot do.
    #[error("{what} is not supported")]
    Unsupported {
        /// The thing.
        what: String,
    },
    /// A repository cannot be used, for a reason that the caller had found before.
    #[error("{reason}")]
    Unusable {
        /// The reason.
        reason: String,
    },
    /// A path that is none in a repository.
    #[error("path '{path}' {reason}")]
    Path {
        /// The path.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Something in a repository is not removed.
    #[error("'{path}' is not removed: {reason}")]
    Kept {
        /// Its path.
        path: String,
        /// Why.
        reason: String,
    },
    /// A directory of a repository is to be removed, and is not empty.
    #[error("recurse option must be used to delete non-empty path")]
    Recurse,
    /// A WAL file cannot be taken or given.
    #[error("WAL file '{file}' {reason}")]
    Wal {
        /// Its name, or what was given as one.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// A WAL file is of another cluster or version.
    #[error("WAL file '{file}' is not of this stanza")]
    ForeignWal {
        /// Its name.
        file: String,
        /// In what it differs.
        source: pgbr_pg::Error,
    },
    /// Several repositories were asked, and some of them failed.
    #[error("{doing}:{}", each_repo(failed))]
    Repos {
        /// What was to be done with all of them.
        doing: String,
        /// The number of each that failed in the options, and why.
        failed: Vec<(u16, Self)>,
    },
    /// The archive worker did not say in time what became of a WAL file.
    #[error("unable to push WAL file '{file}' to the archive asynchronously after {seconds} second(s)")]
    HandOver {
        /// Its name.
        file: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// What another process of this program reported, which worked for this one.
    #[error("{text}")]
    Reported {
        /// Its exit code.
        code: u8,
        /// What it said, hints included.
        text: String,
    },
    /// A drill was asked for by root.
    #[error("a drill starts PostgreSQL, which does not run as root")]
    DrillAsRoot,
    /// A drill cannot be made in a directory.
    #[error("a drill cannot be made in '{}': {reason}", path.display())]
    DrillDirectory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The user of a drill cannot connect to the restored cluster.
    #[error("user '{user}' cannot connect to the restored cluster")]
    DrillUser {
        /// The user.
        user: String,
        /// The server's words.
        source: pgbr_pg::Error,
    },
    /// There is no server of the version that a backup needs.
    #[error("the backup is of PostgreSQL {version}, and no server of that version is known: {looked}")]
    NoServerProgram {
        /// The version.
        version: PgVersion,
        /// What was found instead.
        looked: String,
    },
    /// A setting for the server of a drill is refused.
    #[error("setting '{name}' cannot be given to a drill: {reason}")]
    Setting {
        /// Its name.
        name: String,
        /// Why not.
        reason: &'static str,
    },
    /// A backup is to be copied to where it is.
    #[error("the repositories to copy from and to are the same")]
    SameRepository,
    /// Something did not happen in time.
    #[error("timed out after {seconds} s waiting for {what}")]
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// How long.
        seconds: u64,
    },
}

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error and its causes, in one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// The errors of several repositories, one a line.
fn each_repo(failed: &[(u16, Error)]) -> String {
    failed.iter().map(|(key, error)| format!("\nrepo{key}: {}", with_causes(error))).collect()
}

impl Error {
    /// Whether it is the repository that cannot do what is asked of it: where there are several, another one may.
    pub const fn is_of_repository(&self) -> bool {
        match self {
            Self::Repo(_)
            | Self::Manifest(_)
            | Self::Codec(_)
            | Self::PgBackRest(_)
            | Self::NoBackup { .. }
            | Self::EarlierCluster { .. }
            | Self::UnknownBackup { .. }
            | Self::HistoryMissing { .. }
            | Self::Damaged { .. }
            | Self::FirstSegment { .. }
            | Self::Parent { .. }
            | Self::Unusable { .. }
            // A timeline of which one archive has the history and another has not.
            | Self::Target { .. } => true,
            _ => false,
        }
    }

    /// Whether nobody knows what became of a request: what it was to store may be there, or still come.
    pub(crate) const fn is_undecided(&self) -> bool {
        matches!(self, Self::Repo(pgbr_repo::Error::Undecided { .. }))
    }

    /// Attaches what was done with which path to an [`io::Error`].
    pub(crate) fn io(doing: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, path: path.as_ref().to_owned(), source }
    }
}

impl From<crate::pool::WorkerLost> for Error {
    fn from(_: crate::pool::WorkerLost) -> Self {
        Self::Internal { what: "a worker thread panicked" }
    }
}
