//! What a verify tells: backups, archives, what was found wrong with them, and what can be done.

use std::collections::{BTreeMap, BTreeSet};

use pgbr_manifest::{ArchiveId, BackupLabel, BackupType, TimelineId, WalSegmentName};
use serde::Serialize;

use super::theirs::VerifiedTheirs;

/// The most findings that are told one by one, and the most damaged files of a backup that are named.
const MAX_TOLD: usize = 1000;

/// The result of a verify.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct VerifyReport {
    /// The stanza.
    pub stanza: String,
    /// The backup that was asked for; none: all of them.
    pub set: Option<BackupLabel>,
    /// Whether nothing but existence and sizes was looked at.
    pub quick: bool,
    /// Whether nothing of level error was found.
    pub clean: bool,
    /// Backups, oldest first.
    pub backups: Vec<VerifiedBackup>,
    /// Archives.
    pub archives: Vec<VerifiedArchive>,
    /// What was found, errors first.
    pub findings: Vec<Finding>,
    /// How many more findings there are, too many to be told one by one.
    pub findings_left_out: u64,
    /// Objects that nothing needs; expire removes most of them.
    pub unneeded: Vec<Unneeded>,
    /// What was looked at.
    pub counts: VerifyCounts,
    /// What a budget has left unread; none without a budget.
    pub coverage: Option<VerifyCoverage>,
    /// When the record elsewhere was written that the repository was compared with, in Unix seconds; none where there is none.
    pub witness: Option<i64>,
    /// What pgBackRest has of the stanza; none where that is nothing.
    pub theirs: Option<VerifiedTheirs>,
    /// Requests to the repository.
    pub requests: BTreeMap<&'static str, u64>,
}

/// How a backup was found.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct VerifiedBackup {
    /// The backup.
    pub label: BackupLabel,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: BackupType,
    /// In short.
    pub status: BackupStatus,
    /// Its files, with all that they take from older backups. None where its list of files was not read.
    pub files: Option<FileCounts>,
    /// The files that cannot be restored, by path; the first thousand.
    pub damaged_files: Vec<String>,
    /// Places in the report's list of findings.
    pub findings: Vec<usize>,
    /// How far recovery from it can go, on each timeline that it leads to.
    pub recovery: Vec<Recovery>,
}

/// A backup in short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum BackupStatus {
    /// It can be restored, as far as was looked at.
    Valid,
    /// It cannot be restored, or not all of it, or cannot be made consistent.
    Invalid,
    /// Others build on it, and its manifest is gone.
    ManifestMissing,
    /// It is being made.
    InProgress,
}

/// Files of a backup, or of an archive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct FileCounts {
    /// How many were looked at.
    pub checked: u64,
    /// How many of them are right.
    pub valid: u64,
    /// How many lack something.
    pub missing: u64,
    /// How many hold something else than they should.
    pub checksum_invalid: u64,
    /// How many lie in an object of a wrong size.
    pub size_invalid: u64,
    /// How many are wrong in another way.
    pub other: u64,
}

impl FileCounts {
    /// One more, which is right where there is no cause.
    pub(super) const fn add(&mut self, cause: Option<Cause>) {
        self.checked += 1;
        let count = match cause {
            None => &mut self.valid,
            Some(Cause::Missing) => &mut self.missing,
            Some(Cause::Checksum) => &mut self.checksum_invalid,
            Some(Cause::Size) => &mut self.size_invalid,
            Some(Cause::Other) => &mut self.other,
        };
        *count += 1;
    }
}

/// What is wrong, as pgBackRest counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cause {
    Missing,
    Size,
    Checksum,
    Other,
}

/// How far a recovery goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Recovery {
    /// The timeline that it is to reach.
    pub timeline: TimelineId,
    /// The last segment of the unbroken row; none where the backup cannot be made consistent.
    pub last: Option<WalSegmentName>,
    /// Why not further.
    pub end: RecoveryEnd,
}

/// Why a recovery goes no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RecoveryEnd {
    /// The archive has no more.
    ArchiveEnds,
    /// Retention has removed what follows: the backup is kept for what it holds itself.
    Expired,
    /// Segments are missing, and later ones are there.
    Gap,
    /// The next segment is damaged.
    Damaged,
}

/// How an archive was found.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct VerifiedArchive {
    /// The archive.
    pub id: ArchiveId,
    /// Unbroken rows of segments that are there, and sound as far as they were read.
    pub ranges: Vec<SegmentRange>,
    /// Its files.
    pub files: FileCounts,
}

/// An unbroken row of segments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SegmentRange {
    /// The first.
    pub start: WalSegmentName,
    /// The last.
    pub stop: WalSegmentName,
    /// How many.
    pub segments: u64,
}

/// Something wrong, or something to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Finding {
    /// How bad it is.
    pub level: FindingLevel,
    /// Of which kind.
    pub kind: FindingKind,
    /// The object that it is about; for missing WAL the name of its first segment.
    pub object: String,
    /// What was found.
    pub text: String,
    /// What it means.
    pub meaning: String,
    /// What can be done about it; empty where nothing has to be.
    pub advice: String,
    /// Backups that cannot be restored because of it, or not all of them, or cannot be made consistent.
    pub backups: Vec<BackupLabel>,
    /// Backups from which recovery cannot go as far as it could.
    pub limits: Vec<BackupLabel>,
    /// How many more of the same kind were found that are not told.
    pub more: u64,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(clippy::exhaustive_enums, reason = "an error, a warning, or neither")]
pub enum FindingLevel {
    /// Something is lost or damaged.
    Error,
    /// Nothing is lost yet.
    Warning,
    /// As it should be, and good to know.
    Info,
}

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum FindingKind {
    /// One of two copies of `repo.json` or of the stanza's record is damaged or missing.
    Copy,
    /// A manifest is damaged.
    Manifest,
    /// A backup builds on one that is not there, or is another one.
    Chain,
    /// The stanza does not know the cluster of a backup.
    Cluster,
    /// A pack is missing.
    PackMissing,
    /// A pack, or all packs of a backup together, have another size than they should.
    PackSize,
    /// A pack holds something else than it should.
    PackDamaged,
    /// What says where the data lies is damaged.
    IndexDamaged,
    /// The list of files that a backup and all it builds on give is not what its manifest says.
    List,
    /// An object could not be read, although the repository answers.
    Unreadable,
    /// WAL that a backup needs to become consistent is missing.
    WalNeeded,
    /// WAL is missing in the middle.
    WalGap,
    /// WAL is missing in the middle while another command is at work, which may be removing it.
    WalDoubt,
    /// WAL behind a backup was removed by the rules of retention.
    WalExpired,
    /// A WAL file is damaged.
    WalDamaged,
    /// An object of a WAL file is damaged, and another one of the same file is sound.
    WalSpare,
    /// Two sound objects of a WAL file hold different things.
    WalAmbiguous,
    /// The history file of a timeline is missing.
    HistoryMissing,
    /// A record elsewhere knows of something that is gone, or of something newer.
    Witness,
    /// The same, and it was accepted.
    WitnessAccepted,
    /// A record elsewhere does not know of a change that takes nothing away.
    WitnessBehind,
    /// Of pgBackRest: an info file or a manifest is damaged, and its copy serves.
    TheirCopy,
    /// Of pgBackRest: an info file and its copy are damaged.
    TheirList,
    /// Of pgBackRest: it cannot be opened with the passphrase that there is, or is of another format.
    TheirSealed,
    /// Of pgBackRest: a manifest is damaged or missing.
    TheirManifest,
    /// Of pgBackRest: a stored file of a backup is damaged or missing.
    TheirFile,
    /// Of pgBackRest: a WAL file is damaged, or there with different content.
    TheirWal,
    /// Of pgBackRest: WAL that a backup needs to become consistent is missing or damaged.
    TheirWalNeeded,
}

impl FindingKind {
    const fn level(self) -> FindingLevel {
        match self {
            Self::Copy | Self::TheirCopy | Self::WalSpare | Self::WalDoubt | Self::WitnessAccepted => {
                FindingLevel::Warning
            }
            Self::WalExpired | Self::WitnessBehind => FindingLevel::Info,
            _ => FindingLevel::Error,
        }
    }
}

/// Objects that nothing needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Unneeded {
    /// What they are.
    pub what: &'static str,
    /// The object, or how the names of all of them begin.
    pub object: String,
    /// How many.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Who takes them away.
    pub advice: &'static str,
}

/// What was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct VerifyCounts {
    /// Manifests that were opened.
    pub manifests: u64,
    /// Packs that were read as a whole.
    pub packs: u64,
    /// Objects of WAL files that were read as a whole.
    pub wal: u64,
    /// Lists of files that were put together over a whole chain.
    pub lists: u64,
    /// Bytes of packs and WAL that were read, as stored.
    pub bytes: u64,
    /// Backups that expired meanwhile.
    pub gone: u64,
}

/// What a budget has left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct VerifyCoverage {
    /// Packs, lists of files and WAL segments that were read in this run.
    pub read: u64,
    /// Those that were not.
    pub left: u64,
    /// How many of those that were not have never been.
    pub never: u64,
    /// When the oldest of those that were not was read last, in Unix seconds; none where that is not known of any.
    pub oldest: Option<i64>,
}

/// Findings as they come, each once.
#[derive(Debug, Default)]
pub(super) struct Findings {
    list: Vec<Finding>,
    known: BTreeMap<(FindingKind, String, String), usize>,
    /// Where those go that are too many, by kind.
    last: BTreeMap<FindingKind, usize>,
    left_out: u64,
}

impl Findings {
    /// Adds a finding, or finds the one that says the same. Gives its number.
    pub(super) fn add(
        &mut self,
        kind: FindingKind,
        object: impl Into<String>,
        text: impl Into<String>,
    ) -> usize {
        let (object, text) = (object.into(), text.into());
        let key = (kind, object.clone(), text.clone());
        if let Some(number) = self.known.get(&key) {
            return *number;
        }
        if let Some(number) = self.last.get(&kind).filter(|_| self.list.len() >= MAX_TOLD).copied() {
            self.left_out += 1;
            if let Some(finding) = self.list.get_mut(number) {
                finding.more += 1;
            }
            return number;
        }
        let (level, number) = (kind.level(), self.list.len());
        let (backups, limits, more) = (Vec::new(), Vec::new(), 0);
        let (meaning, advice) = (String::new(), String::new());
        self.list.push(Finding { level, kind, object, text, meaning, advice, backups, limits, more });
        self.known.insert(key, number);
        self.last.insert(kind, number);
        number
    }

    /// Takes what was found elsewhere.
    pub(super) fn take(&mut self, other: Self) {
        self.left_out += other.left_out;
        for found in other.list {
            let number = self.add(found.kind, found.object, found.text);
            found.backups.into_iter().for_each(|label| self.hurts(number, label));
            found.limits.into_iter().for_each(|label| self.limits(number, label));
            if let Some(finding) = self.list.get_mut(number) {
                finding.more += found.more;
            }
        }
    }

    /// Says what a finding means, where its kind alone does not tell.
    pub(super) fn explain(&mut self, number: usize, meaning: &str, advice: &str) {
        if let Some(finding) = self.list.get_mut(number) {
            (finding.meaning, finding.advice) = (meaning.to_owned(), advice.to_owned());
        }
    }

    /// Says that a backup cannot be restored because of a finding, or not all of it.
    pub(super) fn hurts(&mut self, number: usize, label: BackupLabel) {
        if let Some(finding) = self.list.get_mut(number)
            && !finding.backups.contains(&label)
        {
            finding.backups.push(label);
        }
    }

    /// Says that recovery from a backup goes less far because of a finding.
    pub(super) fn limits(&mut self, number: usize, label: BackupLabel) {
        if let Some(finding) = self.list.get_mut(number)
            && !finding.limits.contains(&label)
        {
            finding.limits.push(label);
        }
    }

    /// Whether anything was found of a backup.
    pub(super) fn names(&self, label: &BackupLabel) -> bool {
        self.list.iter().any(|finding| finding.backups.contains(label) || finding.limits.contains(label))
    }

    /// All of them with what they mean, errors first, and how many were left out. Backups that are `gone` count for nothing: what was
    /// found of them alone is dropped.
    pub(super) fn finish(self, gone: &BTreeSet<BackupLabel>) -> (Vec<Finding>, u64) {
        let mut list = self.list;
        list.retain_mut(|finding| {
            let before = finding.backups.len() + finding.limits.len();
            finding.backups.retain(|label| !gone.contains(label));
            finding.limits.retain(|label| !gone.contains(label));
            let now = finding.backups.len() + finding.limits.len();
            now == before || now > 0
        });
        for finding in &mut list {
            finding.backups.sort_unstable_by_key(|label| (label.time(), *label));
            finding.limits.sort_unstable_by_key(|label| (label.time(), *label));
            if finding.meaning.is_empty() {
                (finding.meaning, finding.advice) = explain(finding);
            }
        }
        list.sort_by_key(|finding| finding.level);
        (list, self.left_out)
    }
}

/// What a finding means and what can be done.
fn explain(finding: &Finding) -> (String, String) {
    use FindingKind as K;
    let hurt = || match finding.backups.as_slice() {
        [] => "no backup is hurt: a restore does not need what is damaged".to_owned(),
        labels => format!("cannot be restored whole: {}", names(labels)),
    };
    let limited = || match finding.limits.as_slice() {
        [] => "no recovery from a backup that is here leads through it".to_owned(),
        labels => format!("recovery cannot go beyond it from: {}", names(labels)),
    };
    let replace = || match finding.backups.as_slice() {
        [] => "make a new full backup in time: what is damaged may be the storage's first".to_owned(),
        labels => {
            let full = labels.first().map(|label| label.full().to_string()).unwrap_or_default();
            format!(
                "make a new full backup now; where another repository has these backups, copy them from there (repo-copy) \
                 after 'expire --set={full}' has removed the damaged ones here"
            )
        }
    };
    match finding.kind {
        K::TheirList | K::TheirManifest | K::TheirFile => {
            let advice = "make a new full backup now: what pgBackRest has stored cannot be mended, but by what another copy of the repository has";
            (hurt(), advice.to_owned())
        }
        K::TheirSealed => (
            "nothing that pgBackRest has was verified, and nothing of it can be restored".to_owned(),
            "set the passphrase that it has, as repo1-pgbackrest-cipher-pass where ours is another one"
                .to_owned(),
        ),
        K::TheirWalNeeded => {
            (format!("cannot be made consistent: {}", names(&finding.backups)), wal_advice())
        }
        K::TheirWal => ("a recovery that comes to it ends there".to_owned(), wal_advice()),
        K::Copy | K::TheirCopy => (
            "nothing is lost: the other copy serves".to_owned(),
            "copy the sound one over it before that is damaged, too".to_owned(),
        ),
        K::Manifest | K::Chain | K::PackMissing | K::PackSize | K::IndexDamaged | K::List | K::Unreadable => {
            (hurt(), replace())
        }
        K::PackDamaged => (hurt(), replace()),
        K::Cluster => (hurt(), "look whether the stanza's record was put back from an old copy".to_owned()),
        K::WalNeeded | K::WalDamaged | K::WalAmbiguous if !finding.backups.is_empty() => {
            let mut meaning = format!("cannot be made consistent: {}", names(&finding.backups));
            if !finding.limits.is_empty() {
                meaning.push_str("; ");
                meaning.push_str(&limited());
            }
            (meaning, wal_advice())
        }
        K::WalNeeded | K::WalDamaged | K::WalAmbiguous | K::WalGap | K::HistoryMissing => {
            (limited(), wal_advice())
        }
        K::Witness | K::WitnessAccepted | K::WitnessBehind => (hurt(), String::new()),
        K::WalDoubt => (limited(), "verify again when no other command is at work".to_owned()),
        K::WalExpired => (
            format!("kept for what they hold, recovery beyond is not possible: {}", names(&finding.limits)),
            String::new(),
        ),
        K::WalSpare => (
            "nothing is lost: a sound object of the same file serves".to_owned(),
            "nothing has to be done".to_owned(),
        ),
    }
}

fn wal_advice() -> String {
    "make a new backup now: recovery from it does not need this WAL; where the server or another repository still has the file, push it \
     again"
        .to_owned()
}

/// Labels in a row; of many the first and the last ones.
fn names(labels: &[BackupLabel]) -> String {
    const SHOWN: usize = 10;
    let text = |labels: &[BackupLabel]| labels.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match labels.split_at_checked(SHOWN) {
        Some((first, rest)) if !rest.is_empty() => format!("{} and {} more", text(first), rest.len()),
        _ => text(labels),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(text: &str) -> BackupLabel {
        text.parse().unwrap()
    }

    #[test]
    fn the_same_is_found_once_and_many_are_counted() {
        let mut findings = Findings::default();
        let first = findings.add(FindingKind::PackMissing, "a", "gone");
        assert_eq!(findings.add(FindingKind::PackMissing, "a", "gone"), first);
        for number in 0..MAX_TOLD * 2 {
            findings.add(FindingKind::PackMissing, format!("{number}"), "gone");
        }
        let (list, left_out) = findings.finish(&BTreeSet::new());
        assert_eq!((list.len(), left_out), (MAX_TOLD, MAX_TOLD as u64 + 1));
        assert_eq!(list.last().map(|finding| finding.more), Some(MAX_TOLD as u64 + 1));
    }

    #[test]
    fn what_was_found_of_backups_that_are_gone_is_dropped() {
        let mut findings = Findings::default();
        let (here, gone) = (label("20261122-120000F"), label("20261123-120000F"));
        let both = findings.add(FindingKind::PackMissing, "a", "gone");
        findings.hurts(both, here);
        findings.hurts(both, gone);
        let alone = findings.add(FindingKind::PackMissing, "b", "gone");
        findings.hurts(alone, gone);
        let nobody = findings.add(FindingKind::PackDamaged, "c", "its footer");
        let copy = findings.add(FindingKind::Copy, "d", "differs");
        assert_eq!((nobody, copy), (2, 3));
        let (list, _) = findings.finish(&BTreeSet::from([gone]));
        let objects: Vec<_> = list.iter().map(|finding| finding.object.as_str()).collect();
        assert_eq!(objects, ["a", "c", "d"]);
        assert_eq!(list[0].backups, [here]);
        assert!(
            list[0].meaning.contains("20261122-120000F") && list[1].meaning.contains("no backup is hurt")
        );
    }
}
