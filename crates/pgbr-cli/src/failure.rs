//! Errors of the engine as the operator sees them: code, message with its causes, and what to do.

use std::error::Error as StdError;

use pgbr::{Error, PgError, RepoError, TheirError};

use crate::exit::{CliError, ErrorCode};
use crate::flavor::Flavor;
use crate::options::Command;
use crate::settings::Settings;

/// What a failure is told by: what the operator has called, and for what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Called {
    flavor: Flavor,
    command: Command,
    /// Whether a repository that the command works on lies in a store, not in a directory.
    in_store: bool,
}

impl Called {
    pub(crate) fn of(settings: &Settings) -> Self {
        let keys = match settings.command() {
            Command::Backup => settings.backup_keys(),
            Command::RepoCopy => settings.keys("repo").to_vec(),
            _ => settings.repo_keys(),
        };
        let kind = |key: &u16| settings.indexed("repo", *key, "type").as_str();
        let in_store = keys.iter().any(|key| !matches!(kind(key), None | Some("posix" | "cifs")));
        Self { flavor: settings.flavor(), command: settings.command(), in_store }
    }
}

/// What the operator is told about a failure.
pub(crate) fn describe(error: &Error, called: Called) -> CliError {
    let mut text = error.to_string();
    let mut cause = StdError::source(error);
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    let described = CliError::new(code(error), text);
    of_command(error, called.command, hints(error, called).into_iter().fold(described, CliError::hint))
}

/// What an error means to one command, where pgBackRest ends that with another code than the rest: its words come first then.
fn of_command(error: &Error, command: Command, told: CliError) -> CliError {
    let (code, words) = match (command, error) {
        (
            Command::Check | Command::StanzaCreate,
            Error::OtherCluster { .. } | Error::Repo(RepoError::StanzaMismatch { .. }),
        ) => (ErrorCode::FileInvalid, "backup and archive info files exist but do not match the database"),
        (Command::Restore, Error::Repo(RepoError::StanzaMissing { .. } | RepoError::NoRepository { .. })) => {
            (ErrorCode::BackupSetInvalid, "no backup set found to restore")
        }
        _ => return told,
    };
    CliError { code, message: format!("{words}: {}", told.message), ..told }
}

/// The same of one repository among several: what to do is said of its own options.
pub(crate) fn of_repo(error: CliError, key: u16) -> CliError {
    let own = format!("repo{key}-");
    let hints = error.hints.iter().map(|hint| hint.replace("repo1-", &own)).collect();
    CliError { hints, ..error }
}

/// The exit code, by pgBackRest's table.
fn code(error: &Error) -> ErrorCode {
    match error {
        Error::Repo(repo) => repo_code(repo),
        Error::Pg(pg) => pg_code(pg),
        Error::PgBackRest(theirs) => their_code(theirs),
        Error::Manifest(pgbr::ManifestError::Invalid { .. }) => ErrorCode::ParamInvalid,
        Error::Manifest(pgbr::ManifestError::Clock { .. }) => ErrorCode::Clock,
        Error::Manifest(pgbr::ManifestError::Protected { .. }) => ErrorCode::BackupSetInvalid,
        Error::Manifest(_) => ErrorCode::Format,
        Error::Codec(_) => ErrorCode::Crypto,
        Error::Io { doing, source, .. } => io_code(doing, source),
        Error::ExportPassphrase => ErrorCode::OptionRequired,
        Error::OpensAlready => ErrorCode::OptionInvalid,
        Error::Stopped => ErrorCode::Term,
        Error::Internal { .. } => ErrorCode::Assert,
        Error::OtherCluster { .. } => ErrorCode::BackupMismatch,
        Error::OtherCipher { .. } => ErrorCode::Crypto,
        Error::OtherDirectory { .. } | Error::Unfit { .. } => ErrorCode::DbMismatch,
        Error::ArchiveDisabled => ErrorCode::ArchiveDisabled,
        Error::ArchiveAlways => ErrorCode::FeatureNotSupported,
        Error::ArchiveCommand { .. } => ErrorCode::ArchiveCommandInvalid,
        Error::Standby => ErrorCode::DbInvalid,
        Error::NoServer { .. } | Error::TwoPrimaries { .. } | Error::StandbyLost { .. } => {
            ErrorCode::DbConnect
        }
        Error::StandbyChanged { .. } => ErrorCode::DbMismatch,
        Error::ArchiveTimeout { .. } | Error::StandbyBehind { .. } | Error::Timeout { .. } => {
            ErrorCode::ArchiveTimeout
        }
        Error::NoBackup { .. }
        | Error::EarlierCluster { .. }
        | Error::UnknownBackup { .. }
        | Error::TheirBackup { .. }
        | Error::TheirsNeeded { .. } => ErrorCode::BackupSetInvalid,
        Error::TheirsInUse { .. } => ErrorCode::LockAcquire,
        Error::Target { .. } => ErrorCode::OptionInvalidValue,
        Error::Running { .. }
        | Error::ServerRunning { .. }
        | Error::NotStopped { .. }
        | Error::StillRunning { .. }
        | Error::Started { .. }
        | Error::Changed { .. } => ErrorCode::PgRunning,
        Error::NotEmpty { .. } | Error::NotACluster { .. } | Error::OtherData { .. } => {
            ErrorCode::PathNotEmpty
        }
        Error::MissingPath { .. } => ErrorCode::PathMissing,
        Error::Map { what, .. } if what.starts_with("link") => ErrorCode::LinkMap,
        Error::Map { .. } => ErrorCode::TablespaceMap,
        Error::HistoryMissing { .. } | Error::UnknownFile { .. } => ErrorCode::FileMissing,
        Error::NoDatabase { .. } => ErrorCode::DbMissing,
        Error::Database { .. } => ErrorCode::DbInvalid,
        Error::Damaged { .. }
        | Error::FirstSegment { .. }
        | Error::BadWitness { .. }
        | Error::BadExport { .. } => ErrorCode::FileInvalid,
        Error::Parent { source, .. } => code(source),
        Error::Unsupported { .. } => ErrorCode::FeatureNotSupported,
        Error::Wal { .. } | Error::Path { .. } | Error::Kept { .. } => ErrorCode::ParamInvalid,
        Error::Recurse => ErrorCode::OptionInvalid,
        Error::Unusable { .. } => ErrorCode::RepoInvalid,
        Error::SameRepository | Error::Setting { .. } | Error::DrillUser { .. } => {
            ErrorCode::OptionInvalidValue
        }
        Error::DrillAsRoot => ErrorCode::OptionInvalid,
        Error::DrillDirectory { .. } => ErrorCode::PathCreate,
        Error::NoServerProgram { .. } => ErrorCode::FileMissing,
        Error::ForeignWal { .. } => ErrorCode::ArchiveMismatch,
        // The code of the failure, where all have the same.
        Error::Repos { failed, .. } => {
            let mut codes = failed.iter().map(|(_, error)| code(error));
            let first = codes.next().unwrap_or(ErrorCode::Unknown);
            if codes.all(|code| code == first) { first } else { ErrorCode::Command }
        }
        Error::HandOver { .. } => ErrorCode::ArchiveTimeout,
        Error::Reported { code, .. } => {
            let known = ErrorCode::ALL.iter().find(|known| known.number() == *code);
            known.copied().unwrap_or(ErrorCode::Unknown)
        }
        _ => ErrorCode::Unknown,
    }
}

fn repo_code(error: &RepoError) -> ErrorCode {
    match error {
        RepoError::NotFound { .. } => ErrorCode::FileMissing,
        RepoError::Unavailable { .. } | RepoError::Undecided { .. } => ErrorCode::FileRead,
        // What a store answers is an error of the protocol to pgBackRest, whatever it means.
        RepoError::StoreMissing { .. } | RepoError::Credentials { .. } => ErrorCode::Protocol,
        RepoError::Clock { .. } => ErrorCode::Clock,
        RepoError::Certificate { .. } => ErrorCode::Crypto,
        RepoError::StoreOptions { .. } => ErrorCode::OptionInvalidValue,
        RepoError::NoSpace { .. } => ErrorCode::FileWrite,
        RepoError::Permission { .. } => ErrorCode::FileOpen,
        RepoError::Corrupt { .. } | RepoError::Foreign { .. } => ErrorCode::FileInvalid,
        RepoError::Unsupported { .. } => ErrorCode::Format,
        RepoError::NoRepository { .. } => ErrorCode::FileMissing,
        RepoError::RepositoryExists { .. }
        | RepoError::StanzaExists { .. }
        | RepoError::BackupExists { .. } => ErrorCode::FileExists,
        RepoError::UnfitStore { .. } => ErrorCode::RepoInvalid,
        RepoError::WrongPassphrase
        | RepoError::PassphraseMissing
        | RepoError::NotEncrypted
        | RepoError::WriteOnly { .. }
        | RepoError::Codec { .. } => ErrorCode::Crypto,
        RepoError::StanzaMissing { .. } => ErrorCode::FileMissing,
        RepoError::StanzaMismatch { .. } => ErrorCode::BackupMismatch,
        RepoError::WalConflict { .. } | RepoError::WalAmbiguous { .. } => ErrorCode::ArchiveDuplicate,
        RepoError::PinLost { .. } | RepoError::LeaseLost { .. } => ErrorCode::BackupSetInvalid,
        RepoError::LeaseHeld { .. } | RepoError::Locked { .. } => ErrorCode::LockAcquire,
        RepoError::Local { action, source, .. } => io_code(action, source),
        RepoError::Unsafe { .. } => ErrorCode::FileMode,
        RepoError::Invalid { .. } => ErrorCode::ParamInvalid,
        _ => ErrorCode::Unknown,
    }
}

fn their_code(error: &TheirError) -> ErrorCode {
    match error {
        TheirError::NotFound { .. } => ErrorCode::FileMissing,
        TheirError::Unavailable { .. } => ErrorCode::FileRead,
        TheirError::Encrypted { .. }
        | TheirError::NotEncrypted { .. }
        | TheirError::WrongPassphrase { .. } => ErrorCode::Crypto,
        TheirError::UnsupportedFormat { .. } | TheirError::Invalid { .. } | TheirError::TooLarge { .. } => {
            ErrorCode::Format
        }
        TheirError::Unsupported { .. } => ErrorCode::FeatureNotSupported,
        TheirError::InfoChecksum { .. } | TheirError::ContentMismatch { .. } => ErrorCode::Checksum,
        TheirError::NoBackup { .. } => ErrorCode::BackupSetInvalid,
        TheirError::DuplicateWal { .. } => ErrorCode::ArchiveDuplicate,
        TheirError::NoCopy { main, .. } => their_code(main),
        _ => ErrorCode::FileInvalid,
    }
}

fn pg_code(error: &PgError) -> ErrorCode {
    match error {
        PgError::Io { doing, source, .. } => io_code(doing, source),
        PgError::Connect { .. } => ErrorCode::DbConnect,
        PgError::Timeout { .. }
        | PgError::Query { .. }
        | PgError::Answer { .. }
        | PgError::SessionLost { .. } => ErrorCode::DbQuery,
        PgError::UnsupportedVersion { .. } => ErrorCode::VersionNotSupported,
        PgError::OtherVersion { .. } => ErrorCode::DbMismatch,
        PgError::ControlFile { .. } => ErrorCode::Checksum,
        PgError::LinkDestination { .. } => ErrorCode::LinkDestination,
        PgError::Missing { .. } => ErrorCode::FileMissing,
        PgError::WalHeader { .. }
        | PgError::WalSystem { .. }
        | PgError::WalVersion { .. }
        | PgError::WalSize { .. }
        | PgError::WalPosition { .. }
        | PgError::WalTimeline { .. } => ErrorCode::ArchiveMismatch,
        PgError::RecoverySetting { .. } => ErrorCode::OptionInvalidValue,
        PgError::LabelFile { .. } => ErrorCode::Format,
        _ => ErrorCode::FileInvalid,
    }
}

fn io_code(doing: &str, source: &std::io::Error) -> ErrorCode {
    let missing = source.kind() == std::io::ErrorKind::NotFound;
    match doing {
        "open" if missing => ErrorCode::FileMissing,
        "list" if missing => ErrorCode::PathMissing,
        "open" | "lock" => ErrorCode::FileOpen,
        "read" => ErrorCode::FileRead,
        "list" => ErrorCode::PathOpen,
        "remove" => ErrorCode::FileRemove,
        "rename" => ErrorCode::FileMove,
        "sync" => ErrorCode::FileSync,
        "set the owner of" => ErrorCode::FileOwner,
        "set the mode of" => ErrorCode::FileMode,
        "look at" | "examine" | "look for" => ErrorCode::FileInfo,
        _ => ErrorCode::FileWrite,
    }
}

fn hints(error: &Error, called: Called) -> Vec<String> {
    let program = called.flavor.program();
    let one = |text: String| vec![text];
    match error {
        Error::Repo(RepoError::NoRepository { .. }) => vec![
            "is the repository mounted? has a stanza-create been performed?".to_owned(),
            format!("use '{program} stanza-create' to make a repository where there is none."),
            format!("where repo.json and its copy were lost, '{program} key-import' brings them back by an exported key."),
        ],
        Error::Repo(RepoError::RepositoryExists { .. }) => one(format!("were repo.json and its copy lost? '{program} key-import' brings them back by an exported key.")),
        Error::Repo(RepoError::StanzaMissing { .. }) => one(format!("has a stanza-create been performed? use '{program} stanza-create'.")),
        Error::TheirsNeeded { .. } => one(format!("make a backup first: '{program} --type=full backup'.")),
        Error::TheirBackup { .. } => one(format!("what pgBackRest has of a stanza goes as a whole: '{program} expire --pgbackrest-remove' removes it once it is not needed.")),
        Error::TheirsInUse { .. } => one("nothing was changed: try again when it has ended.".to_owned()),
        Error::Repo(RepoError::WrongPassphrase) => one("check the option repo1-cipher-pass: nothing was read or changed.".to_owned()),
        Error::Repo(RepoError::WriteOnly { doing }) => match doing.starts_with("compare") {
            // A push of what is archived already.
            true => vec![
                "it was archived before there were passphrases for writing only.".to_owned(),
                format!("run this archive-push once with a passphrase that reads ('{program} key-list' shows which they are)."),
            ],
            false => one(format!("use a passphrase that reads, on a host that may have it: '{program} key-list' shows which they are.")),
        },
        Error::Repo(RepoError::PassphraseMissing) => one("set repo1-cipher-type and repo1-cipher-pass as they were at stanza-create.".to_owned()),
        Error::Repo(RepoError::NotEncrypted) => vec![
            "an existing repository is not encrypted by setting a cipher: nothing was changed.".to_owned(),
            "remove repo1-cipher-type, or choose another repo1-path and run stanza-create.".to_owned(),
        ],
        Error::PgBackRest(TheirError::NotEncrypted { .. }) => vec![
            "what is not encrypted may be of anybody who can write to the repository: where there is a passphrase nothing is restored from it.".to_owned(),
            "to restore it, name its repository without repo1-cipher-type, and ours, if it is encrypted, as another one (repo2).".to_owned(),
        ],
        Error::PgBackRest(TheirError::WrongPassphrase { .. } | TheirError::Encrypted { .. }) => vec![
            "what pgBackRest has in the repository opens with the passphrase that it was made with.".to_owned(),
            "set repo1-cipher-type and repo1-cipher-pass as they were for pgBackRest, or its passphrase as repo1-pgbackrest-cipher-pass.".to_owned(),
        ],
        Error::Repo(RepoError::WalConflict { .. }) => vec![
            "do two clusters archive into the same stanza? what was archived first is kept.".to_owned(),
            "this can happen after a restore to a moment: give the restored cluster a stanza of its own, or archive_mode=off.".to_owned(),
        ],
        Error::Repo(RepoError::Locked { .. }) => one(format!("is another {} process running?", called.flavor.product())),
        Error::Repo(RepoError::LeaseHeld { .. }) => one("is another backup of this stanza running, perhaps on another host?".to_owned()),
        Error::Repo(RepoError::NoSpace { .. }) => one("free space in the repository; what was stored before is not affected.".to_owned()),
        Error::Repo(RepoError::Unavailable { .. } | RepoError::Undecided { .. }) if !called.in_store => {
            one("is the repository mounted and reachable?".to_owned())
        }
        Error::Repo(RepoError::Unavailable { .. } | RepoError::Undecided { .. }) => vec![
            "is the repository mounted and reachable?".to_owned(),
            "for a repository in a store: do its endpoint, storage-host and storage-port lead to the server, and is uri-style right?".to_owned(),
        ],
        Error::Repo(RepoError::StoreMissing { .. }) => vec![
            "is the name of the bucket or container right, and the endpoint that of its region?".to_owned(),
            format!("'{program}' does not make buckets or containers: make it with the tools of the store. Nothing is said about what was in it."),
        ],
        Error::Repo(RepoError::Credentials { .. }) => vec![
            "are the key and its secret those of this store, and still valid? a token (s3-token, sas, gcs token) expires.".to_owned(),
            "for credentials that are fetched (auto, web-id, pod-id, process): does this host get them, run by this user?".to_owned(),
        ],
        Error::Repo(RepoError::Clock { .. }) => one("set the clock of this host (is NTP running?): stores refuse requests that are signed more than minutes off.".to_owned()),
        Error::Repo(RepoError::Certificate { .. }) => vec![
            "name the authority that signed it with the option storage-ca-file (PEM), and check the host in the endpoint.".to_owned(),
            "storage-verify-tls=n accepts any certificate: for tests only, whoever is in between can read and change the repository then.".to_owned(),
        ],
        Error::Repo(RepoError::Permission { .. }) => one("may this user, or this key, read, write, list and delete there? the guide lists the rights that a key needs.".to_owned()),
        Error::Kept { .. } => one("with --force what backups or the repository need is removed, too.".to_owned()),
        Error::OtherCluster { .. } => vec![
            "is this the correct stanza? is pg1-path right?".to_owned(),
            format!("after pg_upgrade, use '{program} stanza-upgrade'."),
        ],
        Error::Repo(RepoError::StanzaMismatch { .. }) => one(format!("is this an error? after pg_upgrade, use '{program} stanza-upgrade'.")),
        Error::ForeignWal { .. } => vec![
            "are you archiving to the correct stanza?".to_owned(),
            format!("after pg_upgrade, use '{program} stanza-upgrade'; the segment is archived then."),
        ],
        Error::OtherDirectory { .. } => one("the pg1-path and pg1-port settings likely reference different clusters.".to_owned()),
        Error::ArchiveDisabled => one("archive_mode must be set to on, and the server restarted.".to_owned()),
        Error::ArchiveAlways => one("set archive_mode to on and restart the server, or allow it by --no-archive-mode-check: a segment that is archived twice is then seen to be the same.".to_owned()),
        Error::ArchiveCommand { expected, .. } => one(format!("set archive_command = '{expected} --stanza=STANZA archive-push %p'.")),
        Error::ArchiveTimeout { .. } => vec![
            "check the archive_command to ensure that all options are correct (especially --stanza).".to_owned(),
            "check the PostgreSQL server log for errors.".to_owned(),
            "a stop file (STANZA.stop or all.stop) in lock-path stops archiving: use the start command.".to_owned(),
        ],
        Error::NoServer { role: "primary" } => one("are all available clusters in recovery? is the primary one of pg1, pg2, ...?".to_owned()),
        Error::NoServer { .. } => one("is a standby configured as pg2, and does it run? --backup-standby=prefer falls back to the primary.".to_owned()),
        Error::TwoPrimaries { .. } => one("are two clusters of one stanza open for writes? then their WAL must not share an archive.".to_owned()),
        Error::StandbyBehind { .. } => vec![
            "does the standby follow this primary, and does it keep up?".to_owned(),
            "a standby that only gets archived segments waits for the next one: raise archive-timeout.".to_owned(),
        ],
        Error::StandbyChanged { .. } | Error::StandbyLost { .. } => one("nothing of this backup is listed: run it again.".to_owned()),
        Error::ServerRunning { .. } => one("shut down PostgreSQL and try again, or use --force.".to_owned()),
        Error::UnknownBackup { .. } => one(format!("'{program} info' lists the backup sets.")),
        Error::UnknownFile { .. } => one("files are named as manifest names them without a filter, as pg_data/PG_VERSION.".to_owned()),
        Error::Manifest(pgbr::ManifestError::Clock { .. }) => vec![
            "nothing was removed: set the clock right and run expire again.".to_owned(),
            format!("a backup made by a clock that was ahead can be removed with '{program} expire --set=LABEL'."),
        ],
        Error::NoBackup { .. } => one(format!("'{program} info' lists the backup sets and when each was complete.")),
        Error::OtherCipher { source: RepoError::PassphraseMissing, .. } => one(
            "the stanzas of one repository share its cipher, and pgBackRest's may have different ones: give the stanza a repo1-path of its own.".to_owned(),
        ),
        Error::OtherCipher { .. } => vec![
            "the stanzas of one repository share its cipher and its passphrases; pgBackRest's may have different ones.".to_owned(),
            format!("with a passphrase that opens it, '{program} key-add' lets this one open it, too; or give the stanza a repo1-path of its own."),
        ],
        Error::EarlierCluster { .. } => vec![
            "was a backup created after the stanza-upgrade?".to_owned(),
            "specify --set to restore from a prior version of PostgreSQL.".to_owned(),
        ],
        Error::FirstSegment { .. } => vec![
            "the files of the backup were not looked at: another backup set may be one that recovery can begin with.".to_owned(),
            "where WAL comes from elsewhere: --recovery-option=restore_command=COMMAND, or --type=standby or none.".to_owned(),
        ],
        Error::HistoryMissing { missing, .. } => vec![
            format!("put it into the archive: '{program} archive-push PATH/{}' on a host that has it.", missing.history_file()),
            "or choose where recovery ends: --target-timeline=current, or the number of a timeline.".to_owned(),
        ],
        Error::Running { .. } => vec![
            "presence of postmaster.pid indicates that PostgreSQL is running.".to_owned(),
            "remove postmaster.pid only if PostgreSQL is not running.".to_owned(),
        ],
        Error::NotStopped { .. } => one("--force is for a file that a crash or another host has left: no process of this host uses it.".to_owned()),
        Error::StillRunning { .. } => one("leave out --no-online: a running server is backed up without being stopped.".to_owned()),
        Error::Changed { .. } => one("does a server work on this directory from another container or host, or somebody else? nothing of this backup is listed.".to_owned()),
        Error::Started { .. } => one("nothing of this backup is listed: leave out --no-online, or run it again when the server is stopped.".to_owned()),
        Error::NotEmpty { .. } => one("try using --delta (or --force) to replace what is there.".to_owned()),
        Error::NotACluster { .. } => one("if this is the right directory, empty it and run the restore again.".to_owned()),
        Error::OtherData { .. } => vec![
            "does a running cluster use them? then map the tablespace or link to another place.".to_owned(),
            "else remove them and run the restore again.".to_owned(),
        ],
        Error::MissingPath { .. } => one("create the directory, or mount its file system, and run the restore again.".to_owned()),
        Error::NoDatabase { .. } => one(format!("'{program} info --set=LABEL' lists the databases of a backup set.")),
        Error::BadExport { .. } => one("what key-export printed is needed as a whole, from the line of BEGIN to the line of END.".to_owned()),
        Error::ExportPassphrase => one("use --export-pass-file=PATH or --export-pass-command.".to_owned()),
        Error::OpensAlready => one("an exported key is for a repository whose repo.json and copy are lost, or whose passphrase nobody knows.".to_owned()),
        Error::BadWitness { .. } => one("is it a record of this stanza, as commands write it below witness-path? a damaged one can be removed: the next backup writes it anew.".to_owned()),
        Error::Damaged { .. } | Error::Parent { .. } => one(format!("try another backup set ('{program} info' lists them).")),
        Error::Pg(PgError::Connect { .. }) => one("is PostgreSQL running? check pg1-socket-path, pg1-port, pg1-user and pg1-database.".to_owned()),
        Error::Repos { failed, .. } => {
            let mut all: Vec<String> = Vec::new();
            for hint in failed.iter().flat_map(|(_, error)| hints(error, called)) {
                if !all.contains(&hint) {
                    all.push(hint);
                }
            }
            all
        }
        Error::DrillAsRoot => one("run it as the user that PostgreSQL runs as, as in 'sudo -u postgres'.".to_owned()),
        Error::DrillUser { .. } => one("name a superuser of the cluster by the option drill-user.".to_owned()),
        Error::DrillDirectory { .. } => one("is drill-path there, writable for this user, and short enough for a socket in it (about 70 bytes)?".to_owned()),
        Error::NoServerProgram { version, .. } => vec![
            format!("install PostgreSQL {version}: a drill needs its server, and pg_amcheck and pg_checksums to check with."),
            "if it is installed in another place, name that by the option pg-bin-path.".to_owned(),
        ],
        Error::SameRepository => one("do two options lead to one place, or is one repository a plain copy of the other's files?".to_owned()),
        Error::HandOver { .. } => one("see the log file of archive-push-async in log-path: does a worker come up, and what is it doing?".to_owned()),
        Error::Internal { .. } => one("this is a defect of the program: please report it with the log.".to_owned()),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use pgbr::ManifestError;

    use super::*;

    const BACKUP: Called = Called { flavor: Flavor::Pgbr, command: Command::Backup, in_store: true };

    #[test]
    fn endpoints_are_spoken_of_where_there_is_a_store() {
        let error = || RepoError::Unavailable {
            object: "pgbr".to_owned(),
            source: pgbr::Cause::new("Is a directory"),
        };
        let text = |called| describe(&error().into(), called).text();
        assert!(text(BACKUP).contains("uri-style"));
        let local = text(Called { in_store: false, ..BACKUP });
        assert!(local.contains("is the repository mounted") && !local.contains("uri-style"), "{local}");

        let called = |config: &str| {
            let args = ["pgbr", "backup", "--stanza=a", "--pg1-path=/pg"];
            Called::of(&crate::parse::settings_of(&args, &[], config, Flavor::Pgbr).unwrap())
        };
        let store = "repo2-type=gcs\nrepo2-gcs-bucket=b\nrepo2-gcs-key-type=auto\nrepo2-path=/b\n";
        let both = format!("[global]\nrepo1-path=/a\n{store}");
        assert!(!called("[global]\nrepo1-path=/a\n").in_store);
        assert!(!called(&both).in_store, "a backup goes to the first");
        assert!(called(&format!("[global]\n{store}")).in_store);
    }

    #[test]
    fn what_a_store_says_has_a_code_and_a_way_out() {
        let object = || "pgbr/repo.json".to_owned();
        let source = || pgbr::Cause::new("NoSuchBucket: said so");
        for (error, code, hint) in [
            (RepoError::StoreMissing { object: object(), source: source() }, 39, "name of the bucket"),
            (RepoError::Credentials { object: object(), source: source() }, 39, "key and its secret"),
            (RepoError::Clock { object: object(), source: source() }, 106, "NTP"),
            (RepoError::Certificate { object: object(), source: source() }, 95, "storage-ca-file"),
            (RepoError::Permission { object: object(), source: source() }, 41, "rights that a key needs"),
            (RepoError::Unavailable { object: object(), source: source() }, 42, "uri-style"),
        ] {
            let told = describe(&error.into(), BACKUP);
            assert_eq!(told.code.number(), code, "{}", told.text());
            assert!(told.message.ends_with(": NoSuchBucket: said so"), "{}", told.message);
            assert!(told.hints.iter().any(|text| text.contains(hint)), "{}", told.text());
        }
    }

    #[test]
    fn expire_says_what_was_wrong_with_clocks_and_names() {
        let reason = "why".to_owned();
        let clock = describe(&Error::Manifest(ManifestError::Clock { reason: reason.clone() }), BACKUP);
        assert_eq!(clock.code.number(), 106);
        assert!(clock.text().starts_with("why\nHINT: nothing was removed"), "{}", clock.text());
        let named = describe(&Error::Manifest(ManifestError::Protected { reason }), BACKUP);
        assert_eq!((named.code.number(), named.text()), (75, "why".to_owned()));
    }
}
