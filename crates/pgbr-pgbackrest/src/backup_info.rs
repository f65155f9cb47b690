//! `backup.info`: which backups a stanza has, and of which clusters.

use std::collections::BTreeMap;
use std::io::BufRead;

use pgbr_manifest::{BackupLabel, BackupType, Lsn, SystemId, WalSegmentName};
use serde::Deserialize;

use crate::archive_info::{current_id, history_id};
use crate::cipher::Passphrase;
use crate::error::{Fault, Result};
use crate::info_file::{Facts, InfoReader, Pair, required};
use crate::names::{DbVersion, HistoryId};

/// More bytes than any such file has: a thousand backups that refer to a thousand others each take 40 MB.
pub(crate) const MAX_BYTES: u64 = 256 << 20;

/// A cluster that a stanza has or had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cluster {
    /// Its number in the history.
    pub id: HistoryId,
    /// Its system identifier.
    pub system_id: SystemId,
    /// Its version.
    pub version: DbVersion,
    /// `catalog_version_no` of its control file.
    pub catalog_version: u32,
    /// `pg_control_version` of its control file.
    pub control_version: u32,
}

/// From where to where a backup needs WAL. A part is missing where the backup was made of a stopped cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WalRange {
    /// The first segment.
    pub start: Option<WalSegmentName>,
    /// The last segment.
    pub stop: Option<WalSegmentName>,
    /// Where replay begins.
    pub start_lsn: Option<Lsn>,
    /// Where the cluster is consistent.
    pub stop_lsn: Option<Lsn>,
}

/// Sizes of a backup in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sizes {
    /// Of all files of the cluster.
    pub original: u64,
    /// Of those that this backup stores; a file of which it stores some blocks counts whole.
    pub original_delta: u64,
    /// What lies in the repository of all that a restore reads.
    pub stored: u64,
    /// What lies in the repository of this backup alone.
    pub stored_delta: u64,
    /// Of all block maps; only with block incremental backups.
    pub maps: Option<u64>,
    /// Of the block maps in this backup.
    pub maps_delta: Option<u64>,
}

/// A backup as the list tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupEntry {
    /// Its label.
    pub label: BackupLabel,
    /// What it holds.
    pub kind: BackupType,
    /// The backup that it was made against; none for a full.
    pub prior: Option<BackupLabel>,
    /// The other backups that hold files of it.
    pub references: Vec<BackupLabel>,
    /// The WAL that it needs.
    pub wal: WalRange,
    /// When it began, in Unix seconds.
    pub started: i64,
    /// When it ended, in Unix seconds.
    pub stopped: i64,
    /// Its sizes.
    pub sizes: Sizes,
    /// Whether page checksums were wrong; unknown where older versions made it.
    pub page_errors: Option<bool>,
    /// The cluster that it is of.
    pub cluster: HistoryId,
    /// What the operator noted on it.
    pub annotations: BTreeMap<String, String>,
    /// The version of pgBackRest that made it.
    pub written_by: String,
    /// How it was made.
    pub options: EntryOptions,
}

/// How a backup was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct EntryOptions {
    /// It was waited for its WAL to be archived.
    #[serde(rename = "option-archive-check")]
    pub archive_check: bool,
    /// Its WAL was copied into it.
    #[serde(rename = "option-archive-copy")]
    pub archive_copy: bool,
    /// Files came from a standby.
    #[serde(rename = "option-backup-standby")]
    pub backup_standby: bool,
    /// Page checksums were looked at.
    #[serde(rename = "option-checksum-page")]
    pub checksum_page: bool,
    /// It is compressed.
    #[serde(rename = "option-compress")]
    pub compress: bool,
    /// Referenced files are there by hard links.
    #[serde(rename = "option-hardlink")]
    pub hardlink: bool,
    /// The server was running.
    #[serde(rename = "option-online")]
    pub online: bool,
}

/// What `backup.info` says.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BackupInfo {
    /// The version of pgBackRest that wrote it.
    pub written_by: String,
    /// The cluster that is backed up now; the same stands in the history.
    pub current: Cluster,
    /// All clusters that the stanza had, oldest first.
    pub history: Vec<Cluster>,
    /// The backups, by label.
    pub backups: Vec<BackupEntry>,
    /// What opens the manifests in an encrypted repository.
    pub passphrase: Option<Passphrase>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct HistoryLine {
    db_catalog_version: u32,
    db_control_version: u32,
    db_system_id: u64,
    db_version: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct EntryLine {
    #[serde(default)]
    backrest_version: String,
    #[serde(default)]
    backup_annotation: BTreeMap<String, String>,
    backup_archive_start: Option<String>,
    backup_archive_stop: Option<String>,
    backup_lsn_start: Option<String>,
    backup_lsn_stop: Option<String>,
    backup_error: Option<bool>,
    backup_info_repo_size: u64,
    backup_info_repo_size_delta: u64,
    backup_info_repo_size_map: Option<u64>,
    backup_info_repo_size_map_delta: Option<u64>,
    backup_info_size: u64,
    backup_info_size_delta: u64,
    backup_prior: Option<String>,
    #[serde(default)]
    backup_reference: Option<Vec<String>>,
    backup_timestamp_start: i64,
    backup_timestamp_stop: i64,
    backup_type: String,
    db_id: u32,
}

impl BackupInfo {
    /// Reads the decrypted text of the file; `object` is what errors call it.
    ///
    /// # Errors
    /// Where it is not whole, in another format, or contradicts itself.
    pub fn parse(object: &str, input: impl BufRead) -> Result<Self> {
        Self::read(input).map_err(|fault| fault.at(object))
    }

    /// The backup of this label, if the list has it.
    pub fn backup(&self, label: BackupLabel) -> Option<&BackupEntry> {
        self.backups.iter().find(|entry| entry.label == label)
    }

    /// The cluster of this number.
    pub fn cluster(&self, id: HistoryId) -> Option<&Cluster> {
        self.history.iter().find(|cluster| cluster.id == id)
    }

    pub(crate) fn read(input: impl BufRead) -> Result<Self, Fault> {
        let mut reader = InfoReader::new(input, MAX_BYTES);
        let mut facts = Facts::default();
        let (mut history, mut backups) = (BTreeMap::new(), BTreeMap::new());
        while let Some(pair) = reader.next()? {
            match pair.section {
                "db:history" => {
                    let cluster = read_history(&pair)?;
                    history.insert(cluster.id, cluster);
                }
                "backup:current" => {
                    let entry = read_entry(&pair)?;
                    backups.insert(entry.label, entry);
                }
                _ => facts.add(&pair)?,
            }
        }
        let current = read_cluster(&facts, "db", current_id(&facts)?)?;
        if history.get(&current.id) != Some(&current) {
            return Err(Fault::invalid("[db]", "is not the cluster of that number in [db:history]"));
        }
        if let Some(entry) = backups.values().find(|entry| !history.contains_key(&entry.cluster)) {
            let what = format!("[backup:current] {}", entry.label);
            return Err(Fault::invalid(what, "is of a cluster that [db:history] does not have"));
        }
        Ok(Self {
            written_by: reader.version().to_owned(),
            current,
            history: history.into_values().collect(),
            backups: backups.into_values().collect(),
            passphrase: facts.take_passphrase(),
        })
    }
}

fn read_history(pair: &Pair<'_>) -> Result<Cluster, Fault> {
    let line: HistoryLine = pair.parse()?;
    Ok(Cluster {
        id: history_id(pair)?,
        system_id: SystemId::new(line.db_system_id),
        version: line.db_version.parse().map_err(|reason: &str| pair.invalid(reason))?,
        catalog_version: line.db_catalog_version,
        control_version: line.db_control_version,
    })
}

/// A cluster from the keys of a section; manifests have them as well.
pub(crate) fn read_cluster(facts: &Facts, section: &str, id: HistoryId) -> Result<Cluster, Fault> {
    let number = |key: &str| required(facts.number(section, key)?, section, key);
    let small = |key: &str| {
        let fault = |_| Fault::invalid(format!("[{section}] {key}"), "is not a version number");
        u32::try_from(number(key)?).map_err(fault)
    };
    Ok(Cluster {
        id,
        system_id: SystemId::new(number("db-system-id")?),
        version: required(facts.word(section, "db-version")?, section, "db-version")?,
        catalog_version: small("db-catalog-version")?,
        control_version: small("db-control-version")?,
    })
}

fn read_entry(pair: &Pair<'_>) -> Result<BackupEntry, Fault> {
    let line: EntryLine = pair.parse()?;
    let invalid = |error: pgbr_manifest::Error| pair.invalid(format!("is wrong: {error}"));
    let label: BackupLabel = pair.key_text()?.parse().map_err(invalid)?;
    let parse = |text: &String| text.parse::<BackupLabel>().map_err(invalid);
    let segment = |text: Option<String>| text.map(|text| text.parse().map_err(invalid)).transpose();
    let lsn = |text: Option<String>| text.map(|text| text.parse().map_err(invalid)).transpose();
    let entry = BackupEntry {
        label,
        kind: line.backup_type.parse().map_err(invalid)?,
        prior: line.backup_prior.as_ref().map(parse).transpose()?,
        references: line.backup_reference.iter().flatten().map(parse).collect::<Result<_, _>>()?,
        wal: WalRange {
            start: segment(line.backup_archive_start)?,
            stop: segment(line.backup_archive_stop)?,
            start_lsn: lsn(line.backup_lsn_start)?,
            stop_lsn: lsn(line.backup_lsn_stop)?,
        },
        started: line.backup_timestamp_start,
        stopped: line.backup_timestamp_stop,
        sizes: Sizes {
            original: line.backup_info_size,
            original_delta: line.backup_info_size_delta,
            stored: line.backup_info_repo_size,
            stored_delta: line.backup_info_repo_size_delta,
            maps: line.backup_info_repo_size_map,
            maps_delta: line.backup_info_repo_size_map_delta,
        },
        page_errors: line.backup_error,
        cluster: HistoryId::new(line.db_id).ok_or_else(|| pair.invalid("has db-id 0"))?,
        annotations: line.backup_annotation,
        written_by: line.backrest_version,
        options: pair.parse()?,
    };
    match check_entry(&entry) {
        None => Ok(entry),
        Some(reason) => Err(pair.invalid(reason)),
    }
}

/// What a backup says of itself must fit its label.
fn check_entry(entry: &BackupEntry) -> Option<&'static str> {
    let of_set = |label: &BackupLabel| label.full() == entry.label.full() && *label != entry.label;
    match (entry.kind, entry.prior) {
        _ if entry.kind != entry.label.backup_type() => Some("is of another type than its label says"),
        (BackupType::Full, Some(_)) => Some("is a full backup with a prior one"),
        (BackupType::Diff | BackupType::Incr, None) => Some("has no prior backup"),
        (_, Some(prior)) if !of_set(&prior) => Some("has a prior backup that is not of its set"),
        _ if !entry.references.iter().all(of_set) => Some("refers to a backup that is not of its set"),
        _ => None,
    }
}
