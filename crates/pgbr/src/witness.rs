//! A record of a repository that is kept elsewhere, where who can write to the repository cannot reach it.
//!
//! Whoever can write to a repository can take backups away, or put back an older state of all of it: that state is right in itself, and nothing
//! in the repository tells that it is not the newest. The record tells: it says which key, which passphrases, which backups and which WAL there
//! were, and what has been replaced or removed since then by commands that keep the record.
//!
//! 1. Commands that write [keep](witness_keep) it after they have succeeded; expire strikes out what it takes away *before* it does.
//! 2. What a command finds that the record contradicts stays in the record: nothing but a removal that the record was told of, or
//!    [accepting](VerifyWitness::accept) what is there, makes it forget.
//! 3. Verify compares. What has been added by others is fine; what is gone, or older, is an error.

mod file;
mod look;
mod tell;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use data_encoding::HEXLOWER;
use pgbr_codec::{KeyId, RepositoryId};
use pgbr_manifest::{ArchiveId, BackupId, BackupLabel, Digest, StanzaName, WalSegmentName};
use serde::{Deserialize, Serialize};

pub use self::file::WitnessFile;
pub use self::look::{VerifyWitness, witness_forget, witness_keep, witness_keep_keys};
pub(crate) use self::look::{compare, leave};
use crate::error::{Error, Result};

/// The version of the record.
const FORMAT: u32 = 1;
/// So many texts of `repo.json` that were replaced are remembered, the newest ones.
const MAX_FORMER: usize = 256;
/// And so many passphrases that were removed.
const MAX_REMOVED: usize = 1024;

/// What a host remembers of a stanza and its repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Record {
    format: u32,
    repository_id: RepositoryId,
    stanza: StanzaName,
    /// When it was written, in Unix seconds; for people, not to compute with.
    written: i64,
    /// By whom: host and process.
    writer: String,
    repo_json: RepoJson,
    /// Texts of `repo.json` that were there before, oldest first.
    #[serde(default)]
    former: Vec<Former>,
    /// Passphrases that were removed, oldest first.
    #[serde(default)]
    removed_slots: Vec<SlotId>,
    backups: BTreeMap<BackupLabel, BackupMark>,
    /// The newest segment of each archive.
    wal: BTreeMap<ArchiveId, WalSegmentName>,
}

/// What `repo.json` says, as far as it is nobody's secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct RepoJson {
    /// BLAKE3 of its text.
    digest: Digest,
    /// The key that new objects are sealed under; all zero without encryption.
    key_id: KeyId,
    /// Those before it.
    retired: Vec<KeyId>,
    /// Passphrases that open it.
    slots: Vec<SlotId>,
}

/// A text of `repo.json` that was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Former {
    digest: Digest,
    /// When the record learned that another one is in its place.
    until: i64,
}

/// A backup, by what no other has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct BackupMark {
    /// The identity in its manifest.
    pub(crate) id: BackupId,
    /// The root digest of its manifest, which stands for all of it.
    pub(crate) digest: Digest,
    /// When the record learned of it.
    pub(crate) since: i64,
}

/// The id of a key slot, in hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SlotId([u8; 8]);

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl Serialize for SlotId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SlotId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let id = HEXLOWER.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        id.map(Self).ok_or_else(|| serde::de::Error::custom("a slot has 16 lower-case hex digits"))
    }
}

/// What is in a repository now.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) repository_id: RepositoryId,
    pub(crate) repo_json: RepoJson,
    /// The backups that there are; none where one was not looked into.
    pub(crate) backups: BTreeMap<BackupLabel, Option<BackupMark>>,
    /// The newest segment of the archives that were looked at.
    pub(crate) wal: BTreeMap<ArchiveId, Option<WalSegmentName>>,
}

/// What a record and a repository disagree about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deviation {
    /// It is another repository.
    OtherRepository { recorded: RepositoryId },
    /// `repo.json` has a text that was replaced.
    OldRepoJson { until: i64 },
    /// A passphrase that was removed opens it again.
    SlotIsBack { slot: SlotId },
    /// A key seals new objects that was replaced.
    KeyIsBack { found: KeyId, recorded: KeyId },
    /// Nothing opens any more what this key has sealed.
    KeyMissing { key: KeyId },
    /// `repo.json` was changed by somebody who does not keep this record.
    RepoJsonChanged,
    /// A backup is gone.
    BackupMissing { label: BackupLabel, mark: BackupMark },
    /// A backup is another one.
    BackupOther { label: BackupLabel, since: i64 },
    /// The archive does not go as far as it did.
    WalMissing { archive: ArchiveId, recorded: WalSegmentName, found: Option<WalSegmentName> },
}

impl Deviation {
    /// Whether somebody has taken something away, or put something back.
    pub(crate) const fn is_error(self) -> bool {
        !matches!(self, Self::RepoJsonChanged)
    }

    /// Whether it is about what opens the repository.
    const fn is_of_keys(self) -> bool {
        matches!(
            self,
            Self::OldRepoJson { .. }
                | Self::SlotIsBack { .. }
                | Self::KeyIsBack { .. }
                | Self::KeyMissing { .. }
        )
    }
}

impl Record {
    /// A record of what is there.
    fn new(stanza: &StanzaName, seen: &Seen, now: i64, writer: &str) -> Self {
        let mut record = Self {
            format: FORMAT,
            repository_id: seen.repository_id,
            stanza: stanza.clone(),
            written: now,
            writer: writer.to_owned(),
            repo_json: seen.repo_json.clone(),
            former: Vec::new(),
            removed_slots: Vec::new(),
            backups: BTreeMap::new(),
            wal: BTreeMap::new(),
        };
        record.take_backups(seen);
        record.take_wal(seen);
        record
    }

    /// From the bytes of a file.
    fn parse(bytes: &[u8]) -> std::result::Result<Self, String> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let version: Version = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        if version.format != FORMAT {
            return Err(format!("it is of version {}, and {FORMAT} is known", version.format));
        }
        serde_json::from_slice(bytes).map_err(|e| e.to_string())
    }

    fn render(&self) -> Result<Vec<u8>> {
        let mut text = serde_json::to_vec_pretty(self)
            .map_err(|_| Error::Internal { what: "a record does not become JSON" })?;
        text.push(b'\n');
        Ok(text)
    }

    /// What it contradicts of what is there.
    pub(crate) fn compare(&self, seen: &Seen) -> Vec<Deviation> {
        if self.repository_id != seen.repository_id {
            return vec![Deviation::OtherRepository { recorded: self.repository_id }];
        }
        let mut found = self.compare_keys(&seen.repo_json);
        for (label, recorded) in &self.backups {
            match seen.backups.get(label) {
                None => found.push(Deviation::BackupMissing { label: *label, mark: *recorded }),
                Some(Some(mark)) if (mark.id, mark.digest) != (recorded.id, recorded.digest) => {
                    found.push(Deviation::BackupOther { label: *label, since: recorded.since });
                }
                Some(_) => {}
            }
        }
        for (archive, last) in &seen.wal {
            if let Some(recorded) = self.wal.get(archive)
                && last.is_none_or(|last| last < *recorded)
            {
                found.push(Deviation::WalMissing { archive: *archive, recorded: *recorded, found: *last });
            }
        }
        found
    }

    fn compare_keys(&self, seen: &RepoJson) -> Vec<Deviation> {
        let recorded = &self.repo_json;
        if seen.digest == recorded.digest {
            return Vec::new();
        }
        let mut found = Vec::new();
        if let Some(former) = self.former.iter().find(|former| former.digest == seen.digest) {
            found.push(Deviation::OldRepoJson { until: former.until });
        }
        let back = seen.slots.iter().filter(|slot| self.removed_slots.contains(slot));
        found.extend(back.map(|slot| Deviation::SlotIsBack { slot: *slot }));
        let known: BTreeSet<_> = seen.retired.iter().chain([&seen.key_id]).collect();
        if seen.key_id != recorded.key_id && recorded.retired.contains(&seen.key_id) {
            found.push(Deviation::KeyIsBack { found: seen.key_id, recorded: recorded.key_id });
        } else if let Some(key) =
            recorded.retired.iter().chain([&recorded.key_id]).find(|k| !known.contains(k))
        {
            found.push(Deviation::KeyMissing { key: *key });
        }
        if found.is_empty() {
            found.push(Deviation::RepoJsonChanged);
        }
        found
    }

    /// Takes in what a command that has succeeded left. What the record contradicts stays as it was; that is given.
    fn take(&mut self, seen: &Seen, now: i64, writer: &str) -> Vec<Deviation> {
        let found = self.compare(seen);
        if found.iter().any(|deviation| matches!(deviation, Deviation::OtherRepository { .. })) {
            return found;
        }
        (self.written, self.writer) = (now, writer.to_owned());
        if !found.iter().any(|deviation| deviation.is_of_keys()) {
            self.take_keys(&seen.repo_json, now);
        }
        self.take_backups(seen);
        self.take_wal(seen);
        found
    }

    fn take_keys(&mut self, seen: &RepoJson, now: i64) {
        let before = std::mem::replace(&mut self.repo_json, seen.clone());
        if before.digest == seen.digest {
            return;
        }
        self.former.push(Former { digest: before.digest, until: now });
        self.removed_slots.extend(before.slots.iter().filter(|slot| !seen.slots.contains(slot)));
        keep_last(&mut self.former, MAX_FORMER);
        keep_last(&mut self.removed_slots, MAX_REMOVED);
    }

    fn take_backups(&mut self, seen: &Seen) {
        for (label, mark) in &seen.backups {
            if let Some(mark) = mark {
                self.backups.entry(*label).or_insert(*mark);
            }
        }
    }

    fn take_wal(&mut self, seen: &Seen) {
        // Of an archive that is not written to any more, nobody would say here when it goes.
        self.wal.retain(|archive, _| seen.wal.contains_key(archive));
        for (archive, last) in &seen.wal {
            if let Some(last) = last {
                let newest = self.wal.entry(*archive).or_insert(*last);
                *newest = (*newest).max(*last);
            }
        }
    }

    /// Forgets backups that are about to be taken away. With the last of them nothing says any more which WAL has to stay.
    fn leave(&mut self, labels: &[BackupLabel]) -> bool {
        let before = self.backups.len();
        self.backups.retain(|label, _| !labels.contains(label));
        if self.backups.is_empty() {
            self.wal.clear();
        }
        self.backups.len() != before
    }
}

/// Drops the first ones of those that are too many.
fn keep_last<T>(list: &mut Vec<T>, most: usize) {
    list.drain(..list.len().saturating_sub(most));
}

/// A record, from a file that others may have written: what is read is written and read again.
#[cfg(fuzzing)]
pub(crate) fn read_record(bytes: &[u8]) {
    let Ok(record) = Record::parse(bytes) else { return };
    let written = record.render().expect("it becomes JSON");
    let again = Record::parse(&written).expect("it was written");
    assert_eq!(again.render().expect("it becomes JSON"), written);
}

#[cfg(test)]
mod tests;
