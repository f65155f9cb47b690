//! What it means where a record and a repository disagree, in words.

use std::fmt;

use jiff::tz::TimeZone;
use pgbr_repo::Layout;

use super::Deviation;
use crate::place::StanzaPlace;

/// A deviation for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    /// The object that it is about.
    pub(crate) object: String,
    /// What was found.
    pub(crate) text: String,
    /// What it means.
    pub(crate) meaning: &'static str,
    /// What can be done.
    pub(crate) advice: &'static str,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.object, self.text, self.meaning)
    }
}

const TAKEN: &str = "no command that keeps the record has removed it: who can write to the repository has, or a command on a host that does not keep it";
const OLDER: &str = "somebody has put back an older state of the repository, or has changed it by hand";
const LOOK: &str = "find out who did it, and whether the storage still has it (versions, snapshots, another repository); where it was \
                    an expire on another host or an operator, and all is as it should be, verify with --witness-accept";
const KEYS: &str = "find out who did it; change what opens the repository again (key-remove, key-rotate), then verify with --witness-accept";

impl Deviation {
    pub(crate) fn tell(&self, place: &StanzaPlace, zone: &TimeZone) -> Told {
        let keys = Layout::new();
        let name = place.stanza.name();
        let at = |seconds: i64| moment(seconds, zone);
        let repo_json =
            |text, meaning, advice| Told { object: keys.repo_json().to_string(), text, meaning, advice };
        match self {
            Self::OtherRepository { recorded } => repo_json(
                format!("repository {} is not the one of the record, {recorded}", place.repo.id()),
                "another repository lies in its place: backups and WAL of the one before are not here",
                "where it was replaced on purpose, verify with --witness-accept",
            ),
            Self::OldRepoJson { until } => {
                repo_json(format!("it is the one that was replaced before {}", at(*until)), OLDER, KEYS)
            }
            Self::SlotIsBack { slot } => repo_json(
                format!("the passphrase in slot {slot}, which was removed, opens the repository again"),
                OLDER,
                KEYS,
            ),
            Self::KeyIsBack { found, recorded } => repo_json(
                format!("key {found} seals new objects, which key {recorded} has replaced"),
                OLDER,
                KEYS,
            ),
            Self::KeyMissing { key } => repo_json(
                format!("key {key} is not among its keys"),
                "what was sealed under it does not open any more",
                "put the right repo.json back, or import an exported key (key-import)",
            ),
            Self::RepoJsonChanged => repo_json(
                "it was changed by a host that does not keep this record".to_owned(),
                "nothing that the record knows of is missing in it",
                "",
            ),
            Self::BackupMissing { label, mark } => Told {
                object: keys.manifest(name, label).to_string(),
                text: format!("it is gone, and was there at {}", at(mark.since)),
                meaning: TAKEN,
                advice: LOOK,
            },
            Self::BackupOther { label, since } => Told {
                object: keys.manifest(name, label).to_string(),
                text: format!("it is not the backup that was there at {}", at(*since)),
                meaning: "another one lies in its place",
                advice: LOOK,
            },
            Self::WalMissing { archive, recorded, found } => Told {
                object: keys.archive_dir(name, *archive).to_string(),
                text: match found {
                    Some(found) => format!("it ends with {found}, and had {recorded}"),
                    None => format!("it is empty, and had {recorded}"),
                },
                meaning: TAKEN,
                advice: LOOK,
            },
        }
    }
}

/// A moment for people.
fn moment(seconds: i64, zone: &TimeZone) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(
        |_| format!("{seconds} s of Unix time"),
        |time| time.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S%:z").to_string(),
    )
}
