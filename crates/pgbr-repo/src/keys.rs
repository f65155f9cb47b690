//! Every key of every object, built and parsed in this one place (`docs/format.md`, section 1).

use std::fmt;

use object_store::path::Path;
use pgbr_manifest::{ArchiveId, BackupLabel, StanzaName, TimelineId, WalFileName, WalSegmentName};

use crate::ledger::LedgerOf;

/// The directory that everything lies in: beside pgBackRest's `archive/` and `backup/`, never inside them.
pub const PREFIX: &str = "pgbr";

/// Builds the keys of objects. It has no state: the form of a key follows from the format version alone.
///
/// ```
/// use pgbr_repo::{Layout, ParsedKey};
/// let stanza = "main".parse()?;
/// let key = Layout::new().pack(&stanza, &"20261122-120000F".parse()?, 0x1234, 7, true);
/// assert_eq!(key.as_ref(), "pgbr/main/backup/20261122-120000F/pack/0000000000001234-i00000007");
/// assert!(matches!(ParsedKey::parse(&key), Some(ParsedKey::Pack { attempt: 0x1234, number: 7, index: true, .. })));
/// # Ok::<(), pgbr_manifest::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Layout;

impl Layout {
    /// The layout of format version 1.
    pub const fn new() -> Self {
        Self
    }

    /// The directory that everything lies in.
    pub fn root(self) -> Path {
        Path::from(PREFIX)
    }

    /// The root of the repository: version, cipher, key slots.
    pub fn repo_json(self) -> Path {
        Path::from(format!("{PREFIX}/repo.json"))
    }

    /// The second copy of [`Layout::repo_json`].
    pub fn repo_json_copy(self) -> Path {
        Path::from(format!("{PREFIX}/repo.json.copy"))
    }

    /// What trying out stores leaves nothing below.
    pub fn probe_root(self) -> Path {
        Path::from(format!("{PREFIX}/repo.json.probe"))
    }

    /// Where a store is tried out before a repository is made in it.
    pub fn probe_dir(self, id: &str) -> Path {
        self.probes_dir().join(id)
    }

    /// Where all such tries are.
    pub(crate) fn probes_dir(self) -> Path {
        Path::from(format!("{PREFIX}/repo.json.probe"))
    }

    /// Everything that belongs to a stanza.
    pub fn stanza_dir(self, stanza: &StanzaName) -> Path {
        Path::from(format!("{PREFIX}/{stanza}"))
    }

    /// The history of a stanza's clusters.
    pub fn stanza(self, stanza: &StanzaName) -> Path {
        Path::from(format!("{PREFIX}/{stanza}/stanza.json"))
    }

    /// The second copy of [`Layout::stanza`].
    pub fn stanza_copy(self, stanza: &StanzaName) -> Path {
        Path::from(format!("{PREFIX}/{stanza}/stanza.json.copy"))
    }

    /// All backups of a stanza.
    pub fn backup_dir(self, stanza: &StanzaName) -> Path {
        Path::from(format!("{PREFIX}/{stanza}/backup"))
    }

    /// One backup: its manifest and its packs.
    pub fn label_dir(self, stanza: &StanzaName, label: &BackupLabel) -> Path {
        Path::from(format!("{PREFIX}/{stanza}/backup/{label}"))
    }

    /// The root of a backup, where the store honours a conditional create.
    pub fn manifest(self, stanza: &StanzaName, label: &BackupLabel) -> Path {
        Path::from(format!("{PREFIX}/{stanza}/backup/{label}/manifest"))
    }

    /// The root of a backup, where the store does not honour a conditional create.
    pub fn manifest_variant(self, stanza: &StanzaName, label: &BackupLabel, attempt: u64) -> Path {
        Path::from(format!("{PREFIX}/{stanza}/backup/{label}/manifest-{attempt:016x}"))
    }

    /// What a run says of itself before it stores anything, for another run that may take it up.
    pub fn run(self, stanza: &StanzaName, label: &BackupLabel, attempt: u64) -> Path {
        Path::from(format!("{PREFIX}/{stanza}/backup/{label}/run-{attempt:016x}"))
    }

    /// The packs of all attempts at one backup.
    pub fn pack_dir(self, stanza: &StanzaName, label: &BackupLabel) -> Path {
        Path::from(format!("{PREFIX}/{stanza}/backup/{label}/pack"))
    }

    /// A data pack, or an index pack.
    pub fn pack(
        self,
        stanza: &StanzaName,
        label: &BackupLabel,
        attempt: u64,
        number: u32,
        index: bool,
    ) -> Path {
        let kind = if index { "i" } else { "" };
        Path::from(format!("{PREFIX}/{stanza}/backup/{label}/pack/{attempt:016x}-{kind}{number:08x}"))
    }

    /// The archives of all clusters that a stanza has had.
    pub fn archives_dir(self, stanza: &StanzaName) -> Path {
        Path::from(format!("{PREFIX}/{stanza}/archive"))
    }

    /// The archive of one cluster: history files, and a directory for each log.
    pub fn archive_dir(self, stanza: &StanzaName, id: ArchiveId) -> Path {
        Path::from(format!("{PREFIX}/{stanza}/archive/{id}"))
    }

    /// The directory of the WAL files whose names begin with these 16 digits.
    pub fn wal_dir(self, stanza: &StanzaName, id: ArchiveId, log: &WalLog) -> Path {
        Path::from(format!("{PREFIX}/{stanza}/archive/{id}/{log}"))
    }

    /// A WAL file.
    pub fn wal(self, stanza: &StanzaName, id: ArchiveId, file: &WalFileName) -> Path {
        match file.segment() {
            Some(segment) => {
                Path::from(format!("{PREFIX}/{stanza}/archive/{id}/{}/{file}", segment.directory()))
            }
            None => Path::from(format!("{PREFIX}/{stanza}/archive/{id}/{file}")),
        }
    }

    /// A WAL file whose first place is taken, or one in a store that does not honour a conditional create.
    pub fn wal_variant(
        self,
        stanza: &StanzaName,
        id: ArchiveId,
        file: &WalFileName,
        digest: WalDigest,
    ) -> Path {
        Path::from(format!("{}-{digest}", self.wal(stanza, id, file)))
    }

    /// All pins of a stanza.
    pub fn pin_dir(self, stanza: &StanzaName) -> Path {
        Path::from(format!("{PREFIX}/{stanza}/pin"))
    }

    /// A pin: created once, never rewritten.
    pub fn pin(self, stanza: &StanzaName, id: &PinId) -> Path {
        Path::from(format!("{PREFIX}/{stanza}/pin/{id}"))
    }

    /// The sign of life of a pin: rewritten by the pin's owner.
    pub fn pin_beat(self, stanza: &StanzaName, id: &PinId) -> Path {
        Path::from(format!("{PREFIX}/{stanza}/pin/{id}.beat"))
    }

    /// All holds of a stanza.
    pub fn hold_dir(self, stanza: &StanzaName) -> Path {
        Path::from(format!("{PREFIX}/{stanza}/hold"))
    }

    /// A hold of a backup: created once, never rewritten.
    pub fn hold(self, stanza: &StanzaName, label: &BackupLabel, id: &HoldId) -> Path {
        Path::from(format!("{PREFIX}/{stanza}/hold/{label}.{id}"))
    }

    /// All notes of a stanza's backups.
    pub fn note_dir(self, stanza: &StanzaName) -> Path {
        Path::from(format!("{PREFIX}/{stanza}/note"))
    }

    /// A note on a backup; with an attempt in its name where the store does not honour a conditional create.
    pub fn note(self, stanza: &StanzaName, label: &BackupLabel, number: u64, attempt: Option<u64>) -> Path {
        let attempt = attempt.map_or_else(String::new, |attempt| format!("-{attempt:016x}"));
        Path::from(format!("{PREFIX}/{stanza}/note/{label}.{number:016x}{attempt}"))
    }

    /// All ledgers of a stanza.
    pub fn ledger_dir(self, stanza: &StanzaName) -> Path {
        Path::from(format!("{PREFIX}/{stanza}/verify"))
    }

    /// A ledger: when parts of a backup, or WAL of one directory, were verified last.
    pub fn ledger(self, stanza: &StanzaName, of: &LedgerOf) -> Path {
        Path::from(format!("{PREFIX}/{stanza}/verify/{of}"))
    }

    /// All drills of a stanza's backups.
    pub fn drill_dir(self, stanza: &StanzaName) -> Path {
        Path::from(format!("{PREFIX}/{stanza}/drill"))
    }

    /// What became of a drill; with an attempt in its name where the store does not honour a conditional create.
    pub fn drill(self, stanza: &StanzaName, label: &BackupLabel, number: u64, attempt: Option<u64>) -> Path {
        let attempt = attempt.map_or_else(String::new, |attempt| format!("-{attempt:016x}"));
        Path::from(format!("{PREFIX}/{stanza}/drill/{label}.{number:016x}{attempt}"))
    }

    /// All leases of a stanza, or with `None` of the repository's own record.
    pub fn lease_dir(self, stanza: Option<&StanzaName>) -> Path {
        match stanza {
            Some(stanza) => Path::from(format!("{PREFIX}/{stanza}/lease")),
            None => Path::from(format!("{PREFIX}/repo.json.lease")),
        }
    }

    /// One term of a lease, with its number.
    pub fn lease(self, stanza: Option<&StanzaName>, name: &LeaseName, number: u64) -> Path {
        Path::from(format!("{}/{name}.{number:016x}", self.lease_dir(stanza)))
    }
}

/// The first 16 digits of a segment's name: a timeline and a log, and the directory that its files lie in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WalLog(String);

impl WalLog {
    /// The directory that `file` lies in; history files lie above all of them.
    pub fn of(file: &WalFileName) -> Option<Self> {
        file.segment().map(|segment| Self(segment.directory()))
    }

    /// From the name of a directory.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.len() == 16 && text.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
        hex.then(|| Self(text.to_owned()))
    }

    /// The first and the last segment whose names begin with it, if there were logs of any size.
    pub fn span(&self) -> Option<(WalSegmentName, WalSegmentName)> {
        let segment = |last: u32| format!("{self}{last:08X}").parse().ok();
        Some((segment(0)?, segment(u32::MAX)?))
    }

    /// The timeline in the name.
    pub fn timeline(&self) -> TimelineId {
        let digits = self.0.get(..8).unwrap_or_default();
        TimelineId::new(u32::from_str_radix(digits, 16).unwrap_or(u32::MAX))
    }
}

impl fmt::Display for WalLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The first eight bytes of a WAL file's content digest, as they stand in the name of a variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WalDigest([u8; 8]);

impl WalDigest {
    /// The beginning of a whole digest.
    pub fn of(digest: &[u8; 32]) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = *digest;
        Self([a, b, c, d, e, f, g, h])
    }
}

impl fmt::Display for WalDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The random name of a pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PinId(pub [u8; 16]);

impl fmt::Display for PinId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The random end of a hold's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HoldId(pub [u8; 8]);

impl fmt::Display for HoldId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The name of a lease: 1 to 32 lower-case letters and `-`, as `backup`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseName(String);

impl LeaseName {
    /// Checks a name.
    pub fn parse(text: &str) -> Option<Self> {
        let form =
            (1..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
        form.then(|| Self(text.to_owned()))
    }

    /// The lease of those who write backups of a stanza, or take them away.
    pub fn backup() -> Self {
        Self("backup".to_owned())
    }

    /// The lease of those who change a record: the repository's own, or a stanza's.
    pub fn record() -> Self {
        Self("record".to_owned())
    }
}

impl fmt::Display for LeaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a key names. What has none of these forms is not ours, and is left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParsedKey {
    /// `repo.json` or its copy.
    Repo {
        /// Whether this is the copy.
        copy: bool,
    },
    /// A stanza's history.
    Stanza {
        /// The stanza.
        stanza: StanzaName,
        /// Whether this is the copy.
        copy: bool,
    },
    /// A manifest.
    Manifest {
        /// The stanza.
        stanza: StanzaName,
        /// The backup.
        label: BackupLabel,
        /// The attempt in the name, where the store does not honour a conditional create.
        attempt: Option<u64>,
    },
    /// What a run says of itself.
    Run {
        /// The stanza.
        stanza: StanzaName,
        /// The backup.
        label: BackupLabel,
        /// The run.
        attempt: u64,
    },
    /// A pack.
    Pack {
        /// The stanza.
        stanza: StanzaName,
        /// The backup.
        label: BackupLabel,
        /// The run that wrote it.
        attempt: u64,
        /// Its number, counted apart for data and index.
        number: u32,
        /// Whether it is an index pack.
        index: bool,
    },
    /// A WAL file.
    Wal {
        /// The stanza.
        stanza: StanzaName,
        /// The cluster's archive.
        id: ArchiveId,
        /// The file.
        file: WalFileName,
        /// The digest in the name of a variant.
        digest: Option<WalDigest>,
    },
    /// A pin.
    Pin {
        /// The stanza.
        stanza: StanzaName,
        /// Its id.
        id: PinId,
        /// Whether this is the pin's sign of life.
        beat: bool,
    },
    /// A hold.
    Hold {
        /// The stanza.
        stanza: StanzaName,
        /// The backup that it holds.
        label: BackupLabel,
        /// Its id.
        id: HoldId,
    },
    /// A note on a backup.
    Note {
        /// The stanza.
        stanza: StanzaName,
        /// The backup.
        label: BackupLabel,
        /// Its number: what a later note says counts.
        number: u64,
        /// The attempt in the name, where the store does not honour a conditional create.
        attempt: Option<u64>,
    },
    /// When something was verified last.
    Ledger {
        /// The stanza.
        stanza: StanzaName,
        /// What it is about.
        of: LedgerOf,
    },
    /// What became of a drill.
    Drill {
        /// The stanza.
        stanza: StanzaName,
        /// The backup.
        label: BackupLabel,
        /// Its number.
        number: u64,
        /// The attempt in the name, where the store does not honour a conditional create.
        attempt: Option<u64>,
    },
    /// A term of a lease.
    Lease {
        /// The stanza; `None` for the repository's own record.
        stanza: Option<StanzaName>,
        /// The lease.
        name: LeaseName,
        /// The term.
        number: u64,
    },
}

impl ParsedKey {
    /// Takes a key apart; `None` where it has no form of format version 1.
    pub fn parse(key: &Path) -> Option<Self> {
        let parts: Vec<&str> = key.as_ref().split('/').collect();
        let Some((&PREFIX, rest)) = parts.split_first() else { return None };
        match *rest {
            ["repo.json"] => Some(Self::Repo { copy: false }),
            ["repo.json.copy"] => Some(Self::Repo { copy: true }),
            ["repo.json.lease", name] => {
                parse_lease(name).map(|(name, number)| Self::Lease { stanza: None, name, number })
            }
            [stanza, ref inside @ ..] => parse_in_stanza(parse_stanza(stanza)?, inside),
            [] => None,
        }
    }
}

/// A stanza's name as it stands in a key; the names of the repository's own objects are none.
pub(crate) fn parse_stanza(text: &str) -> Option<StanzaName> {
    text.parse().ok().filter(|_| !text.starts_with("repo.json"))
}

fn parse_in_stanza(stanza: StanzaName, inside: &[&str]) -> Option<ParsedKey> {
    match *inside {
        ["stanza.json"] => Some(ParsedKey::Stanza { stanza, copy: false }),
        ["stanza.json.copy"] => Some(ParsedKey::Stanza { stanza, copy: true }),
        ["backup", label, run] if run.starts_with("run-") => {
            let attempt = u64::from_be_bytes(hex(run.strip_prefix("run-")?)?);
            Some(ParsedKey::Run { stanza, label: label.parse().ok()?, attempt })
        }
        ["backup", label, manifest] => {
            let attempt = match manifest.strip_prefix("manifest")? {
                "" => None,
                rest => Some(u64::from_be_bytes(hex(rest.strip_prefix('-')?)?)),
            };
            Some(ParsedKey::Manifest { stanza, label: label.parse().ok()?, attempt })
        }
        ["backup", label, "pack", pack] => {
            let (attempt, number, index) = parse_pack(pack)?;
            Some(ParsedKey::Pack { stanza, label: label.parse().ok()?, attempt, number, index })
        }
        ["archive", id, file] => parse_wal(stanza, id, None, file),
        ["archive", id, log, file] => parse_wal(stanza, id, Some(log), file),
        ["pin", name] => {
            let (id, beat) = match name.strip_suffix(".beat") {
                Some(id) => (id, true),
                None => (name, false),
            };
            Some(ParsedKey::Pin { stanza, id: PinId(hex(id)?), beat })
        }
        ["hold", name] => {
            let (label, id) = name.split_once('.')?;
            Some(ParsedKey::Hold { stanza, label: label.parse().ok()?, id: HoldId(hex(id)?) })
        }
        ["note", name] => {
            let (label, number, attempt) = parse_numbered(name)?;
            Some(ParsedKey::Note { stanza, label, number, attempt })
        }
        ["verify", name] => {
            let of = match name.split_once('.') {
                Some((archive, log)) => LedgerOf::Log(archive.parse().ok()?, WalLog::parse(log)?),
                None => LedgerOf::Backup(name.parse().ok()?),
            };
            Some(ParsedKey::Ledger { stanza, of })
        }
        ["drill", name] => {
            let (label, number, attempt) = parse_numbered(name)?;
            Some(ParsedKey::Drill { stanza, label, number, attempt })
        }
        ["lease", name] => {
            parse_lease(name).map(|(name, number)| ParsedKey::Lease { stanza: Some(stanza), name, number })
        }
        _ => None,
    }
}

/// The last part of a pack's key: attempt, number, whether it is an index pack.
pub(crate) fn parse_pack(name: &str) -> Option<(u64, u32, bool)> {
    let (attempt, number) = name.split_once('-')?;
    let (number, index) = match number.strip_prefix('i') {
        Some(number) => (number, true),
        None => (number, false),
    };
    Some((u64::from_be_bytes(hex(attempt)?), u32::from_be_bytes(hex(number)?), index))
}

/// The last part of a WAL file's key: the file, and the digest of a variant.
pub(crate) fn parse_wal_name(name: &str) -> Option<(WalFileName, Option<WalDigest>)> {
    match name.split_once('-') {
        None => Some((name.parse().ok()?, None)),
        Some((file, digest)) => Some((file.parse().ok()?, Some(WalDigest(hex(digest)?)))),
    }
}

fn parse_wal(stanza: StanzaName, id: &str, log: Option<&str>, name: &str) -> Option<ParsedKey> {
    let (file, digest) = parse_wal_name(name)?;
    let place = file.segment().map(|segment| segment.directory());
    (place.as_deref() == log).then_some(())?;
    Some(ParsedKey::Wal { stanza, id: id.parse().ok()?, file, digest })
}

/// The last part of a note's or a drill's key: the backup, the number, the attempt.
fn parse_numbered(name: &str) -> Option<(BackupLabel, u64, Option<u64>)> {
    let (label, number) = name.split_once('.')?;
    let (number, attempt) = match number.split_once('-') {
        Some((number, attempt)) => (number, Some(u64::from_be_bytes(hex(attempt)?))),
        None => (number, None),
    };
    Some((label.parse().ok()?, u64::from_be_bytes(hex(number)?), attempt))
}

/// The last part of a lease's key: its name and its term.
pub(crate) fn parse_lease(name: &str) -> Option<(LeaseName, u64)> {
    let (name, number) = name.split_once('.')?;
    Some((LeaseName::parse(name)?, u64::from_be_bytes(hex(number)?)))
}

/// Exactly `N` bytes in lower-case hex digits.
pub(crate) fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).ok()?;
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_key() -> Vec<(Path, &'static str)> {
        let keys = Layout::new();
        let stanza: StanzaName = "main".parse().unwrap();
        let label: BackupLabel = "20261122-120000F_20261123-120000I".parse().unwrap();
        let id: ArchiveId = "15-1".parse().unwrap();
        let segment: WalFileName = "000000010000000A000000FF".parse().unwrap();
        let history: WalFileName = "00000002.history".parse().unwrap();
        let digest = WalDigest::of(&[0xAB; 32]);
        let pin = PinId([7; 16]);
        vec![
            (keys.repo_json(), "pgbr/repo.json"),
            (keys.repo_json_copy(), "pgbr/repo.json.copy"),
            (keys.stanza(&stanza), "pgbr/main/stanza.json"),
            (keys.stanza_copy(&stanza), "pgbr/main/stanza.json.copy"),
            (keys.manifest(&stanza, &label), "pgbr/main/backup/20261122-120000F_20261123-120000I/manifest"),
            (
                keys.manifest_variant(&stanza, &label, 255),
                "pgbr/main/backup/20261122-120000F_20261123-120000I/manifest-00000000000000ff",
            ),
            (
                keys.run(&stanza, &label, 255),
                "pgbr/main/backup/20261122-120000F_20261123-120000I/run-00000000000000ff",
            ),
            (
                keys.pack(&stanza, &label, u64::MAX, 16, false),
                "pgbr/main/backup/20261122-120000F_20261123-120000I/pack/ffffffffffffffff-00000010",
            ),
            (
                keys.pack(&stanza, &label, 1, 16, true),
                "pgbr/main/backup/20261122-120000F_20261123-120000I/pack/0000000000000001-i00000010",
            ),
            (
                keys.wal(&stanza, id, &segment),
                "pgbr/main/archive/15-1/000000010000000A/000000010000000A000000FF",
            ),
            (
                keys.wal_variant(&stanza, id, &segment, digest),
                "pgbr/main/archive/15-1/000000010000000A/000000010000000A000000FF-abababababababab",
            ),
            (keys.wal(&stanza, id, &history), "pgbr/main/archive/15-1/00000002.history"),
            (keys.pin(&stanza, &pin), "pgbr/main/pin/07070707070707070707070707070707"),
            (keys.pin_beat(&stanza, &pin), "pgbr/main/pin/07070707070707070707070707070707.beat"),
            (
                keys.hold(&stanza, &label, &HoldId([9; 8])),
                "pgbr/main/hold/20261122-120000F_20261123-120000I.0909090909090909",
            ),
            (
                keys.note(&stanza, &label, 10, None),
                "pgbr/main/note/20261122-120000F_20261123-120000I.000000000000000a",
            ),
            (
                keys.note(&stanza, &label, 10, Some(255)),
                "pgbr/main/note/20261122-120000F_20261123-120000I.000000000000000a-00000000000000ff",
            ),
            (
                keys.ledger(&stanza, &LedgerOf::Backup(label)),
                "pgbr/main/verify/20261122-120000F_20261123-120000I",
            ),
            (
                keys.ledger(&stanza, &LedgerOf::Log(id, WalLog::parse("000000010000000A").unwrap())),
                "pgbr/main/verify/15-1.000000010000000A",
            ),
            (
                keys.drill(&stanza, &label, 10, None),
                "pgbr/main/drill/20261122-120000F_20261123-120000I.000000000000000a",
            ),
            (
                keys.drill(&stanza, &label, 10, Some(255)),
                "pgbr/main/drill/20261122-120000F_20261123-120000I.000000000000000a-00000000000000ff",
            ),
            (keys.lease(Some(&stanza), &LeaseName::backup(), 3), "pgbr/main/lease/backup.0000000000000003"),
            (keys.lease(None, &LeaseName::record(), 3), "pgbr/repo.json.lease/record.0000000000000003"),
        ]
    }

    #[test]
    fn keys_are_spelled_as_the_format_says() {
        for (key, text) in every_key() {
            assert_eq!(key.as_ref(), text);
        }
    }

    #[test]
    fn every_key_is_parsed_back() {
        for (key, _) in every_key() {
            let parsed = ParsedKey::parse(&key).unwrap_or_else(|| panic!("{key} was not parsed"));
            assert_eq!(rebuild(&parsed), key);
        }
    }

    fn rebuild(key: &ParsedKey) -> Path {
        let keys = Layout::new();
        match key {
            ParsedKey::Repo { copy: false } => keys.repo_json(),
            ParsedKey::Repo { copy: true } => keys.repo_json_copy(),
            ParsedKey::Stanza { stanza, copy: false } => keys.stanza(stanza),
            ParsedKey::Stanza { stanza, copy: true } => keys.stanza_copy(stanza),
            ParsedKey::Manifest { stanza, label, attempt: None } => keys.manifest(stanza, label),
            ParsedKey::Manifest { stanza, label, attempt: Some(attempt) } => {
                keys.manifest_variant(stanza, label, *attempt)
            }
            ParsedKey::Pack { stanza, label, attempt, number, index } => {
                keys.pack(stanza, label, *attempt, *number, *index)
            }
            ParsedKey::Run { stanza, label, attempt } => keys.run(stanza, label, *attempt),
            ParsedKey::Note { stanza, label, number, attempt } => keys.note(stanza, label, *number, *attempt),
            ParsedKey::Wal { stanza, id, file, digest: None } => keys.wal(stanza, *id, file),
            ParsedKey::Wal { stanza, id, file, digest: Some(digest) } => {
                keys.wal_variant(stanza, *id, file, *digest)
            }
            ParsedKey::Drill { stanza, label, number, attempt } => {
                keys.drill(stanza, label, *number, *attempt)
            }
            ParsedKey::Pin { stanza, id, beat: false } => keys.pin(stanza, id),
            ParsedKey::Pin { stanza, id, beat: true } => keys.pin_beat(stanza, id),
            ParsedKey::Hold { stanza, label, id } => keys.hold(stanza, label, id),
            ParsedKey::Ledger { stanza, of } => keys.ledger(stanza, of),
            ParsedKey::Lease { stanza, name, number } => keys.lease(stanza.as_ref(), name, *number),
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_parsed_has_one_spelling(
            at in 0..every_key().len(),
            cut in 5..90_usize,
            other in "[0-9a-fA-FIi./_#-]{0,3}",
        ) {
            let (key, _) = every_key().swap_remove(at);
            let text = key.as_ref();
            let cut = cut.min(text.len());
            for changed in [
                format!("{}{other}{}", &text[..cut], &text[cut..]),
                format!("{}{other}", &text[..cut]),
                format!("{}{other}{}", &text[..cut], text.get(cut + other.len()..).unwrap_or_default()),
            ] {
                // What an object store would not take as a key cannot come from one.
                if let Ok(key) = Path::parse(&changed) && let Some(parsed) = ParsedKey::parse(&key) {
                    proptest::prop_assert_eq!(rebuild(&parsed), key);
                }
            }
        }
    }

    #[test]
    fn other_names_are_not_ours() {
        for text in [
            "pgbr",
            "archive/main/archive.info",
            "pgbr/repo.json.probe/x",
            "pgbr/repo.json.x/stanza.json",
            "pgbr/main/other",
            "pgbr/main/backup/20261122-120000F/manifestx",
            "pgbr/main/backup/20261122-120000F/manifest-FF",
            "pgbr/main/backup/20261122-120000F/pack/1-2",
            "pgbr/main/backup/20261122-120000F/pack/00000000000000AA-00000000",
            "pgbr/main/backup/latest/manifest",
            "pgbr/main/archive/15-1/000000010000000A000000FF",
            "pgbr/main/archive/15-1/000000010000000B/000000010000000A000000FF",
            "pgbr/main/archive/15-1/000000010000000A/000000010000000A000000FF-xyz",
            "pgbr/main/pin/07",
            "pgbr/main/hold/20261122-120000F",
            "pgbr/main/hold/20261122-120000F.07",
            "pgbr/main/lease/backup",
            "pgbr/main/lease/Backup.0000000000000003",
        ] {
            assert_eq!(ParsedKey::parse(&Path::from(text)), None, "{text}");
        }
    }
}
