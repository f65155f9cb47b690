//! What can be wrong with the words of a backup.

/// Why a value, an index node or a manifest was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A word (label, LSN, path, file name, ...) does not have its form.
    #[error("'{value}' is not a valid {what}: {reason}")]
    Invalid {
        /// What was to be parsed, as `LSN`.
        what: &'static str,
        /// The text as found, lossy where it was not UTF-8, cut to a bounded length.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Bytes of an index node, a manifest or another encoding do not decode.
    #[error("damaged {what} at byte {at}: {reason}")]
    Damaged {
        /// The kind of the encoding, as `index leaf`.
        what: &'static str,
        /// Offset in the decoded bytes.
        at: usize,
        /// What is wrong there.
        reason: &'static str,
    },
    /// The encoding is of a version or kind that this program does not know.
    #[error("{what} version {found} is not supported")]
    Unsupported {
        /// The kind of thing.
        what: &'static str,
        /// The version or kind found.
        found: String,
    },
    /// A rule that holds for every backup does not hold for this one.
    #[error("inconsistent backup: {reason}")]
    Inconsistent {
        /// The rule.
        reason: String,
    },
    /// No backup is fit for what is asked.
    #[error("{reason}")]
    Unfit {
        /// Which one was looked at, and why it is not.
        reason: String,
    },
    /// The clock, or the end of the newest backup, cannot be right: nothing is expired by it.
    #[error("{reason}")]
    Clock {
        /// How they differ.
        reason: String,
    },
    /// A backup that was to be removed must stay.
    #[error("{reason}")]
    Protected {
        /// Which one, and why.
        reason: String,
    },
    /// What feeds a cursor with index nodes failed; the feeder keeps the cause.
    #[error("index cannot be read: {reason}")]
    Source {
        /// The feeder's words.
        reason: String,
    },
}

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An [`Error::Invalid`] for a piece of text.
    pub(crate) fn invalid(what: &'static str, value: impl AsRef<[u8]>, reason: &'static str) -> Self {
        let value: String = String::from_utf8_lossy(value.as_ref()).chars().take(200).collect();
        Self::Invalid { what, value, reason }
    }
}
