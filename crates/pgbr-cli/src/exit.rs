//! Error codes (which are the exit codes) and the one error type of the program.
//!
//! Names and numbers are pgBackRest's: scripts and monitoring read them. `too-old` is ours, with a number that pgBackRest has given up.

use std::fmt;

macro_rules! error_codes {
    ($($variant:ident = $number:literal, $name:literal;)*) => {
        /// Why a command failed; the number is what the process exits with.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[non_exhaustive]
        pub enum ErrorCode {
            $(#[doc = concat!("`", $name, "`, exit code ", $number)] $variant = $number,)*
        }

        impl ErrorCode {
            /// Every code, in ascending order of number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Name of the code, as pgBackRest spells it where it is its own.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

error_codes! {
    Assert = 25, "assert";
    Checksum = 26, "checksum";
    Config = 27, "config";
    FileInvalid = 28, "file-invalid";
    Format = 29, "format";
    CommandRequired = 30, "command-required";
    OptionInvalid = 31, "option-invalid";
    OptionInvalidValue = 32, "option-invalid-value";
    OptionRequired = 37, "option-required";
    PgRunning = 38, "pg-running";
    Protocol = 39, "protocol";
    PathNotEmpty = 40, "path-not-empty";
    FileOpen = 41, "file-open";
    FileRead = 42, "file-read";
    ParamRequired = 43, "param-required";
    ArchiveMismatch = 44, "archive-mismatch";
    ArchiveDuplicate = 45, "archive-duplicate";
    VersionNotSupported = 46, "version-not-supported";
    PathCreate = 47, "path-create";
    CommandInvalid = 48, "command-invalid";
    HostConnect = 49, "host-connect";
    LockAcquire = 50, "lock-acquire";
    BackupMismatch = 51, "backup-mismatch";
    FileSync = 52, "file-sync";
    PathOpen = 53, "path-open";
    PathSync = 54, "path-sync";
    FileMissing = 55, "file-missing";
    DbConnect = 56, "db-connect";
    DbQuery = 57, "db-query";
    DbMismatch = 58, "db-mismatch";
    FileRemove = 60, "file-remove";
    PathRemove = 61, "path-remove";
    Stop = 62, "stop";
    Term = 63, "term";
    FileWrite = 64, "file-write";
    FeatureNotSupported = 67, "feature-not-supported";
    ArchiveCommandInvalid = 68, "archive-command-invalid";
    LinkExpected = 69, "link-expected";
    LinkDestination = 70, "link-destination";
    HostInvalid = 72, "host-invalid";
    PathMissing = 73, "path-missing";
    FileMove = 74, "file-move";
    BackupSetInvalid = 75, "backup-set-invalid";
    TablespaceMap = 76, "tablespace-map";
    LinkMap = 78, "link-map";
    FileClose = 79, "file-close";
    DbMissing = 80, "db-missing";
    DbInvalid = 81, "db-invalid";
    ArchiveTimeout = 82, "archive-timeout";
    FileMode = 83, "file-mode";
    TooOld = 84, "too-old";
    ArchiveDisabled = 87, "archive-disabled";
    FileOwner = 88, "file-owner";
    UserMissing = 89, "user-missing";
    FileExists = 93, "file-exists";
    Memory = 94, "memory";
    Crypto = 95, "crypto";
    ParamInvalid = 96, "param-invalid";
    PathClose = 97, "path-close";
    FileInfo = 98, "file-info";
    JsonFormat = 99, "json-format";
    Kernel = 100, "kernel";
    Service = 101, "service";
    Execute = 102, "execute";
    RepoInvalid = 103, "repo-invalid";
    Command = 104, "command";
    Access = 105, "access";
    Clock = 106, "clock";
    Runtime = 122, "runtime";
    Unhandled = 124, "unhandled";
    Unknown = 125, "unknown";
}

impl ErrorCode {
    /// What pgBackRest calls it where it is told within something else: `CryptoError`.
    pub fn class(self) -> String {
        let words = self.name().split('-').map(|word| {
            let (first, rest) = word.split_at(word.len().min(1));
            first.to_uppercase() + rest
        });
        words.collect::<String>() + "Error"
    }

    /// The number, which is the exit code of the process.
    pub fn number(self) -> u8 {
        self as u8
    }
}

/// Exit code of `archive-get` when the segment is not in the archive, and of `repo-get` when the file is missing.
pub const EXIT_NOT_FOUND: u8 = 1;

/// Exit code of `archive-get` that makes a recovery stop (PostgreSQL takes 1 to 125 for the end of the WAL).
pub const EXIT_STOP_RECOVERY: u8 = 250;

/// What went wrong, for the operator: a code, one message and hints on what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CliError {
    /// Why; also the exit code.
    pub code: ErrorCode,
    /// What was found, naming the option, file, object or host.
    pub message: String,
    /// What to do about it, one a line, without the word `HINT`.
    pub hints: Vec<String>,
}

impl CliError {
    /// An error without hints.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hints: Vec::new() }
    }

    /// The same error with one more hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Message and `HINT: ` lines, separated by line feeds, without code: what the log takes.
    pub fn text(&self) -> String {
        with_hints(&self.message, &self.hints)
    }

    /// What stderr gets while no log is open: `ERROR: [NNN]: text`, further lines indented.
    pub fn render(&self) -> String {
        let text = format!("[{:03}]: {}", self.code.number(), self.text());
        format!("ERROR: {}", text.replace('\n', "\n       "))
    }
}

/// A message and its hints in one text, `HINT: ` before each hint.
pub fn with_hints(message: &str, hints: &[String]) -> String {
    hints.iter().fold(message.to_owned(), |text, hint| text + "\nHINT: " + hint)
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:03}", self.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_ascend_and_are_the_documented_ones() {
        let numbers: Vec<u8> = ErrorCode::ALL.iter().map(|code| code.number()).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b));
        assert_eq!(numbers.len(), 70 + 1);
        for (code, number, name) in [
            (ErrorCode::Config, 27, "config"),
            (ErrorCode::OptionRequired, 37, "option-required"),
            (ErrorCode::LockAcquire, 50, "lock-acquire"),
            (ErrorCode::Term, 63, "term"),
            (ErrorCode::ArchiveTimeout, 82, "archive-timeout"),
            (ErrorCode::RepoInvalid, 103, "repo-invalid"),
        ] {
            assert_eq!((code.number(), code.name()), (number, name));
        }
    }

    #[test]
    fn rendering_indents_hints_under_the_message() {
        let error = CliError::new(ErrorCode::OptionInvalid, "option 'x' is bad").hint("do y").hint("or z");
        assert_eq!(error.text(), "option 'x' is bad\nHINT: do y\nHINT: or z");
        assert_eq!(error.render(), "ERROR: [031]: option 'x' is bad\n       HINT: do y\n       HINT: or z");
        assert_eq!(error.to_string(), "option 'x' is bad");
    }
}
