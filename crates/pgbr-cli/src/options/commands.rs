//! The table of commands.

use super::Support;
use crate::log::Level;

/// A set of commands, one bit each.
pub type CommandSet = u32;

macro_rules! commands {
    ($($variant:ident, $set:ident;)*) => {
        /// A command of the program.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        #[expect(missing_docs, reason = "COMMANDS says what each one does")]
        pub enum Command {
            $($variant,)*
        }

        $(pub(super) const $set: CommandSet = 1 << Command::$variant as u8;)*

        /// Every command but `help` and `version`: the ones that read the environment and config files.
        pub const ALL: CommandSet = ($($set |)* 0) & !(HELP | VERSION);
    };
}

commands! {
    Annotate, ANNOTATE;
    ArchiveGet, ARCHIVE_GET;
    ArchivePush, ARCHIVE_PUSH;
    Backup, BACKUP;
    Check, CHECK;
    Drill, DRILL;
    Expire, EXPIRE;
    Help, HELP;
    Info, INFO;
    KeyAdd, KEY_ADD;
    KeyChange, KEY_CHANGE;
    KeyExport, KEY_EXPORT;
    KeyImport, KEY_IMPORT;
    KeyList, KEY_LIST;
    KeyRemove, KEY_REMOVE;
    KeyRotate, KEY_ROTATE;
    Manifest, MANIFEST;
    RepoCopy, REPO_COPY;
    RepoGet, REPO_GET;
    RepoLs, REPO_LS;
    RepoRm, REPO_RM;
    Restore, RESTORE;
    Server, SERVER;
    ServerPing, SERVER_PING;
    StanzaCreate, STANZA_CREATE;
    StanzaDelete, STANZA_DELETE;
    StanzaUpgrade, STANZA_UPGRADE;
    Start, START;
    Stop, STOP;
    Verify, VERIFY;
    Version, VERSION;
}

pub(super) const ROLES_ONLY: CommandSet = 0;
pub(super) const WITH_IO: CommandSet = ALL & !(START | STOP);
pub(super) const WITH_PROTOCOL: CommandSet = WITH_IO & !SERVER_PING;
pub(super) const WITH_REPO: CommandSet = WITH_IO & !(SERVER | SERVER_PING);
pub(super) const WITH_UMASK: CommandSet = ALL & !(INFO | MANIFEST | SERVER | SERVER_PING);
pub(super) const WITH_JOBS: CommandSet = ARCHIVE_GET | ARCHIVE_PUSH | BACKUP | DRILL | RESTORE | VERIFY;
pub(super) const WITH_DB: CommandSet = BACKUP | CHECK | STANZA_CREATE | STANZA_DELETE | STANZA_UPGRADE;
pub(super) const WITH_PG_HOST: CommandSet = WITH_DB | MANIFEST;

/// In which process of a command this one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The one that the user started.
    Main,
    /// `archive-push:async`, `archive-get:async`: goes on in the background.
    Async,
    /// `COMMAND:local`: a helper process of pgBackRest's on the same host.
    Local,
    /// `COMMAND:remote`: a helper process of pgBackRest's on another host.
    Remote,
}

impl Role {
    /// The word after the colon; `None` for the main role.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::Main => None,
            Self::Async => Some("async"),
            Self::Local => Some("local"),
            Self::Remote => Some("remote"),
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        [Self::Async, Self::Local, Self::Remote].into_iter().find(|role| role.name() == Some(name))
    }
}

/// The lock file that a command takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockKind {
    /// None.
    None,
    /// `STANZA-archive-N.lock`, taken when needed, not at the start.
    Archive,
    /// `STANZA-backup-N.lock`.
    Backup,
    /// `STANZA-restore-N.lock`.
    Restore,
    /// Archive, backup and restore.
    All,
}

/// All that is known of one command.
#[derive(Debug, Clone, Copy)]
pub struct CommandRule {
    /// Which one.
    pub command: Command,
    /// Its name.
    pub name: &'static str,
    /// One sentence for help.
    pub help: &'static str,
    /// A paragraph for help.
    pub description: &'static str,
    /// The lock it takes.
    pub lock: LockKind,
    /// Left out of help.
    pub internal: bool,
    /// Takes words after its name.
    pub parameters: bool,
    /// Writes a log file (the async role always does).
    pub log_file: bool,
    /// Level of its "command begin" and "command end" log lines.
    pub begin_level: Level,
    /// Has a background role.
    pub has_async: bool,
    /// Whether we have it.
    pub support: Support,
    /// pgBackRest has no such command.
    pub ours: bool,
}

impl Command {
    /// Its entry in the table.
    pub fn rule(self) -> &'static CommandRule {
        // The table has one entry a variant, in their order; a test holds it to that.
        &COMMANDS[self as usize]
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        self.rule().name
    }

    /// The command of that name (`create-instance` is another name of `stanza-create`).
    pub fn from_name(name: &str) -> Option<Self> {
        let name = if name == "create-instance" { "stanza-create" } else { name };
        COMMANDS.iter().find(|rule| rule.name == name).map(|rule| rule.command)
    }

    pub(crate) fn is_in(self, set: CommandSet) -> bool {
        set & (1 << self as u8) != 0
    }
}

const fn cmd(
    command: Command,
    name: &'static str,
    help: &'static str,
    description: &'static str,
) -> CommandRule {
    CommandRule {
        command,
        name,
        help,
        description,
        lock: LockKind::None,
        internal: false,
        parameters: false,
        log_file: false,
        begin_level: Level::Info,
        has_async: false,
        support: Support::Works,
        ours: false,
    }
}

impl CommandRule {
    const fn lock(mut self, lock: LockKind) -> Self {
        self.lock = lock;
        self
    }
    const fn internal(mut self) -> Self {
        self.internal = true;
        self
    }
    const fn parameters(mut self) -> Self {
        self.parameters = true;
        self
    }
    const fn log_file(mut self) -> Self {
        self.log_file = true;
        self
    }
    const fn quiet(mut self) -> Self {
        self.begin_level = Level::Debug;
        self
    }
    const fn has_async(mut self) -> Self {
        self.has_async = true;
        self
    }
    const fn not_yet(mut self) -> Self {
        self.support = Support::NotYet;
        self
    }
    const fn ours(mut self) -> Self {
        self.ours = true;
        self
    }
}

/// Every command, in the order of [`Command`], which is that of their names.
#[rustfmt::skip]
pub static COMMANDS: [CommandRule; 31] = [
    cmd(Command::Annotate, "annotate", "Add or modify backup annotation.", "Annotations are set, changed or (with an empty value) removed on the backup that the set option names. With hold it is put on hold, so that expire keeps it; with --no-hold its holds are released.").lock(LockKind::Backup),
    cmd(Command::ArchiveGet, "archive-get", "Get a WAL segment from the archive.", "PostgreSQL runs this command as its restore_command. Parameters are the name of the WAL segment and where to put it. The exit code is 1 only when the repository was reached and does not have the segment; when it could not be read, a recovery that would end by promoting is stopped with exit code 250.").lock(LockKind::Archive).parameters().has_async(),
    cmd(Command::ArchivePush, "archive-push", "Push a WAL segment to the archive.", "PostgreSQL runs this command as its archive_command. The parameter is the path of the WAL segment. A segment that is already there with the same content is a success; with other content it is an error.").lock(LockKind::Archive).parameters().has_async(),
    cmd(Command::Backup, "backup", "Backup a database cluster.", "The cluster is copied while it runs. A diff stores what has changed since the last full, an incr what has changed since the last backup, page by page. A backup that was broken off is resumed. After a successful backup expire runs by itself (see expire-auto). When several repositories are configured, the first one is used unless the repo option names another.").lock(LockKind::Backup).log_file(),
    cmd(Command::Check, "check", "Check the configuration.", "Checks that pgBackRest and PostgreSQL are configured for archiving and backup, and that a WAL segment reaches the archive. With backup-age-max, wal-age-max and drill-age-max what is older than that, or was never there, is warned of, and where all else is well the exit code is 84."),
    cmd(Command::Drill, "drill", "Prove that a backup can be restored.", "Restores the backup that the set option names, by default the newest one, into a directory of its own below drill-path, starts PostgreSQL on it, waits until it has recovered, looks through its tables, indexes and checksums, runs the statements that are asked for, and removes all of it again. What came out is kept in the repository, and info shows it. The server that is started listens on a socket in its own directory only, does not archive and connects to nobody. It exits with 0 only when everything that ran passed.").log_file().ours(),
    cmd(Command::Expire, "expire", "Expire backups that exceed retention.", "Removes backups that the retention options do not keep, what interrupted runs have left, and WAL that no remaining backup needs. It runs by itself after each backup (see expire-auto). With dry-run it says for each backup and for each range of WAL why it would stay or go. The newest backup stays, and so do backups on hold, backups that a running command uses and backups that cannot be read, with all that they build on. When several repositories are configured, each is expired by its own rules unless the repo option names one; the expire that follows a backup keeps to the repository of that backup.").lock(LockKind::Backup).log_file(),
    cmd(Command::Help, "help", "Get help.", "Three levels of help are provided. If no command is given then general help is displayed. If a command is given then its options are listed. If an option is given as well then it is described in detail.").parameters().quiet(),
    cmd(Command::Info, "info", "Retrieve information about backups.", "Shows stanzas, their archives and their backups, for one stanza or for all of them, as text or as JSON; to which moments one can go back, how old the newest WAL is, and how long the last drill took. With --no-recovery-window the WAL is not listed, which takes a request for each thousand segments.").quiet(),
    cmd(Command::KeyAdd, "key-add", "Add a passphrase to an encrypted repository.", "One more passphrase opens the repository: nothing is encrypted again, and the others go on working. The new one comes from new-cipher-pass-file, new-cipher-pass-command or the environment, or is generated and printed. With write-only it is one for a database host: backups are made and expired and WAL is archived with it, but neither can be read. The repository is opened with the passphrase in the configuration. The repo option says which repository is meant where there are several.").log_file().ours(),
    cmd(Command::KeyChange, "key-change", "Change the passphrase of an encrypted repository.", "A new passphrase takes the place of the one in the configuration, in one step: nothing is encrypted again. From then on the configuration of every host needs the new one. Where hosts have to be changed one after the other, use key-add, then key-remove.").log_file().ours(),
    cmd(Command::KeyExport, "key-export", "Print the key of an encrypted repository, for the safe.", "Prints the keys of the repository, wrapped for a passphrase of its own: what key-import brings the repository back with when repo.json and its copy are lost, or nobody knows a passphrase any more. The passphrase comes from new-cipher-pass-file, new-cipher-pass-command or the environment; with generate one is made and stands in what is printed, which opens the repository by itself then. Nothing in the repository is changed. Keep it where the repository is not, and export anew after each key-rotate.").log_file().ours(),
    cmd(Command::KeyImport, "key-import", "Bring an encrypted repository back by an exported key.", "Lets the passphrase in the configuration open the repository again, by what key-export printed (export-file). Where repo.json and its copy are lost or damaged they are made anew; where they are there, the passphrase is added. The exported key is opened by export-pass, unless it holds its passphrase itself.").log_file().ours(),
    cmd(Command::KeyList, "key-list", "List the passphrases of an encrypted repository.", "Shows what opens the repository: the id and the name of each passphrase and whether it is for writing only, never the passphrase itself.").quiet().ours(),
    cmd(Command::KeyRemove, "key-remove", "Remove a passphrase from an encrypted repository.", "The passphrase in the slot that the slot option names (see key-list) opens the repository no more. The last one that reads stays.").log_file().ours(),
    cmd(Command::KeyRotate, "key-rotate", "Replace the key of an encrypted repository.", "Everything that is stored from now on is sealed under a new key; what is there stays readable and is not encrypted again. One passphrase opens the repository afterwards: the one in the configuration, or a new one. All others are gone, and can be added again by key-add. No backup and no expire may run meanwhile; archiving goes on.").log_file().ours(),
    cmd(Command::Manifest, "manifest", "Query manifest.", "Shows the files of the backup that the set option names, by default the newest one, and which backup stores each of them. With reference only those are shown that the named backup stores, with reference=latest those that the backup itself stores; with filter one file, and from which backups its blocks come.").internal().quiet(),
    cmd(Command::RepoCopy, "repo-copy", "Copy a backup to another repository.", "Copies the backup that the set option names, by default the newest one, from one repository to another (to-repo), with all that it builds on and the WAL that it needs. What the other repository has already is not copied again; repository and stanza are made where they are missing. Everything is read back and compared with its hashes before the copy is listed. A copy is a backup like any other: it can be restored, and a diff or incr can be made on top of it in its repository.").lock(LockKind::Backup).log_file().ours(),
    cmd(Command::RepoGet, "repo-get", "Get a file from a repository.", "Writes a file of the repository to stdout, decrypted unless the raw option is given. The parameter is the path within the repository, as repo-ls shows it. WAL whose name ends in .zst is given as a zstd stream, and without that ending as it is. Where the file is missing the command fails, or with ignore-missing exits with code 1.").parameters().quiet(),
    cmd(Command::RepoLs, "repo-ls", "List files in a repository.", "Lists files and paths of the repository. The parameter is a path within the repository. Backups and WAL are listed below backup/ and archive/ as tools expect them; what they really are lies below pgbr/.").parameters().quiet(),
    cmd(Command::RepoRm, "repo-rm", "Remove paths/files in the repository.", "Removes files and paths of the repository, by their real paths below pgbr/. What backups or the repository need is removed with the force option only.").internal().parameters().quiet(),
    cmd(Command::Restore, "restore", "Restore a database cluster.", "Restores the backup that the set option names, by default the newest one, or the newest one that the recovery target allows, and writes the recovery settings.").lock(LockKind::Restore).log_file(),
    cmd(Command::Server, "server", "pgBackRest server.", "Serves other hosts over TLS.").log_file().not_yet(),
    cmd(Command::ServerPing, "server-ping", "Ping pgBackRest server.", "Checks that a server accepts connections.").parameters().not_yet(),
    cmd(Command::StanzaCreate, "stanza-create", "Create the required stanza data.", "Must be run once for a stanza before its first backup, after the stanza has been configured.").lock(LockKind::All).log_file(),
    cmd(Command::StanzaDelete, "stanza-delete", "Delete a stanza.", "Removes all backups and WAL of a stanza for good. The stanza must have been stopped with the stop command, and PostgreSQL must not be running unless the force option is given.").lock(LockKind::All).log_file(),
    cmd(Command::StanzaUpgrade, "stanza-upgrade", "Upgrade a stanza.", "Must be run after PostgreSQL was upgraded to a new major version.").lock(LockKind::All).log_file(),
    cmd(Command::Start, "start", "Allow pgBackRest processes to run.", "Takes back what the stop command did, for one stanza or for all of them.").log_file(),
    cmd(Command::Stop, "stop", "Stop pgBackRest processes from running.", "No new process will run until the start command is given, for one stanza or for all of them. Running ones are ended with the force option.").log_file(),
    cmd(Command::Verify, "verify", "Verify contents of a repository.", "Reads backups and WAL of the repository and says what is damaged or missing, which backups that hurts, and what can be done. Every pack and every WAL file is read once and compared with its hashes; how far recovery can go is followed from each backup. Nothing is changed, and other commands may run meanwhile. With set one backup is verified, with all that it builds on and the WAL since; with quick only existence and sizes are looked at. The exit code is 0 only where no error was found, else 28. When several repositories are configured, each is verified unless the repo option names one.").log_file(),
    cmd(Command::Version, "version", "Get version.", "Displays the installed version.").quiet(),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_enum_and_of_names() {
        for (place, rule) in COMMANDS.iter().enumerate() {
            assert_eq!(rule.command as usize, place);
            assert_eq!(Command::from_name(rule.name), Some(rule.command));
        }
        assert!(
            COMMANDS.is_sorted_by(|a, b| a.name < b.name || (a.name, b.name) == ("stanza-upgrade", "start"))
        );
        assert_eq!(Command::from_name("create-instance"), Some(Command::StanzaCreate));
        assert_eq!(Command::from_name("back"), None);
    }

    #[test]
    fn locks_parameters_and_files_are_pgbackrests() {
        let names = |wanted: fn(&CommandRule) -> bool| -> Vec<&str> {
            COMMANDS.iter().filter(|rule| wanted(rule)).map(|rule| rule.name).collect()
        };
        assert_eq!(names(|r| r.lock == LockKind::All), ["stanza-create", "stanza-delete", "stanza-upgrade"]);
        assert_eq!(names(|r| r.lock == LockKind::Backup), ["annotate", "backup", "expire", "repo-copy"]);
        assert_eq!(names(|r| r.internal), ["manifest", "repo-rm"]);
        assert_eq!(
            names(|r| r.parameters),
            ["archive-get", "archive-push", "help", "repo-get", "repo-ls", "repo-rm", "server-ping"]
        );
        assert_eq!(
            names(|r| r.log_file),
            [
                "backup",
                "drill",
                "expire",
                "key-add",
                "key-change",
                "key-export",
                "key-import",
                "key-remove",
                "key-rotate",
                "repo-copy",
                "restore",
                "server",
                "stanza-create",
                "stanza-delete",
                "stanza-upgrade",
                "start",
                "stop",
                "verify"
            ]
        );
    }
}
