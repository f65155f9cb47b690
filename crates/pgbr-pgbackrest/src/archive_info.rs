//! `archive.info`: whose WAL an archive holds.

use std::collections::BTreeMap;
use std::io::BufRead;

use pgbr_manifest::SystemId;
use serde::Deserialize;

use crate::cipher::Passphrase;
use crate::error::{Fault, Result};
use crate::info_file::{Facts, InfoReader, Pair, parse_word, required};
use crate::names::{ArchiveId, DbVersion, HistoryId};

/// More bytes than any such file has.
pub(crate) const MAX_BYTES: u64 = 16 << 20;

/// A cluster in the history of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ArchiveCluster {
    /// Its number in the history.
    pub id: HistoryId,
    /// Its system identifier.
    pub system_id: SystemId,
    /// Its version.
    pub version: DbVersion,
}

impl ArchiveCluster {
    /// The directory of its WAL.
    pub fn archive_id(&self) -> ArchiveId {
        ArchiveId::new(self.version, self.id)
    }
}

/// What `archive.info` says.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ArchiveInfo {
    /// The version of pgBackRest that wrote it.
    pub written_by: String,
    /// The cluster whose WAL goes into the archive now; the same stands in the history.
    pub current: ArchiveCluster,
    /// All clusters that the stanza had, oldest first.
    pub history: Vec<ArchiveCluster>,
    /// What opens the archive's files in an encrypted repository.
    pub passphrase: Option<Passphrase>,
}

/// `db-id` holds the system identifier here: a slip that became the format.
#[derive(Deserialize)]
struct HistoryLine {
    #[serde(rename = "db-id")]
    system_id: u64,
    #[serde(rename = "db-version")]
    version: String,
}

impl ArchiveInfo {
    /// Reads the decrypted text of the file; `object` is what errors call it.
    ///
    /// # Errors
    /// Where it is not whole, in another format, or contradicts itself.
    pub fn parse(object: &str, input: impl BufRead) -> Result<Self> {
        Self::read(input).map_err(|fault| fault.at(object))
    }

    pub(crate) fn read(input: impl BufRead) -> Result<Self, Fault> {
        let mut reader = InfoReader::new(input, MAX_BYTES);
        let (mut facts, mut history) = (Facts::default(), BTreeMap::new());
        while let Some(pair) = reader.next()? {
            if pair.section != "db:history" {
                facts.add(&pair)?;
                continue;
            }
            let (id, line) = (history_id(&pair)?, pair.parse::<HistoryLine>()?);
            let version = line.version.parse().map_err(|reason: &str| pair.invalid(reason))?;
            history.insert(id, ArchiveCluster { id, system_id: SystemId::new(line.system_id), version });
        }
        let current = ArchiveCluster {
            id: current_id(&facts)?,
            system_id: SystemId::new(required(facts.number("db", "db-system-id")?, "db", "db-system-id")?),
            version: required(facts.word("db", "db-version")?, "db", "db-version")?,
        };
        if history.get(&current.id) != Some(&current) {
            return Err(Fault::invalid("[db]", "is not the cluster of that number in [db:history]"));
        }
        Ok(Self {
            written_by: reader.version().to_owned(),
            current,
            history: history.into_values().collect(),
            passphrase: facts.take_passphrase(),
        })
    }
}

/// The number of a cluster that is the key of a line of history.
pub(crate) fn history_id(pair: &Pair<'_>) -> Result<HistoryId, Fault> {
    let number: u32 = parse_word(&format!("[{}]", pair.section), pair.key_text()?)?;
    HistoryId::new(number).ok_or_else(|| pair.invalid("is not a number above 0"))
}

/// The number of the stanza's cluster of now, or of a backup's cluster.
pub(crate) fn current_id(facts: &Facts) -> Result<HistoryId, Fault> {
    current_id_in(facts, "db")
}

/// The same from another section.
pub(crate) fn current_id_in(facts: &Facts, section: &str) -> Result<HistoryId, Fault> {
    let number = required(facts.number(section, "db-id")?, section, "db-id")?;
    let id = u32::try_from(number).ok().and_then(HistoryId::new);
    id.ok_or_else(|| Fault::invalid(format!("[{section}] db-id"), "is not a number of a cluster"))
}
