//! The manifest: the root of a backup, in two parts. What `info` needs stands in the [`Summary`], the rest in the [`Body`].
//!
//! Both are JSON (`docs/format.md`, sections 7 and 10). Unknown fields are passed over within a version; another version is refused.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::hash::{BackupId, Digest, HashKey};
use crate::ids::SystemId;
use crate::index::Root;
use crate::label::{BackupLabel, BackupType};
use crate::lsn::Lsn;
use crate::version::PgVersion;
use crate::wal::{TimelineId, WalSegmentName, WalSegmentSize};

/// The version of the encoding that this program writes and reads.
pub const MANIFEST_FORMAT: u32 = 1;
/// The most bytes that the annotations of a backup may have, as JSON.
pub const MAX_ANNOTATION_BYTES: usize = 1536;

/// The most layers of a backup.
pub const MAX_LAYERS: usize = 1000;
/// The most index packs of all its layers.
const MAX_INDEX_PACKS: usize = 1 << 16;
/// The most lanes of its data packs.
const MAX_LANES: usize = 10_000;
/// The most data packs of a layer.
const MAX_DATA_PACKS: usize = 1 << 24;
/// The most tablespaces, links, and config files, each.
const MAX_PLACES: usize = 10_000;
/// The most options that it tells.
const MAX_OPTIONS: usize = 1000;

/// From and to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Span<T> {
    /// Where it starts.
    pub start: T,
    /// Where it stops.
    pub stop: T,
}

/// Bytes of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Sizes {
    /// All files of the cluster, as they are restored.
    pub database: u64,
    /// Files that were read for this backup because they are new or changed; all of them in a full.
    pub delta: u64,
    /// Bytes in the repository that a restore of this backup needs, its chain included.
    pub stored: u64,
    /// Bytes that this backup added to the repository.
    pub stored_delta: u64,
}

/// The stanza's cluster that a backup is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DatabaseRef {
    /// The number in the stanza's history, from 1.
    pub id: u32,
    /// System identifier.
    pub system_id: SystemId,
    /// Major version.
    pub version: PgVersion,
}

/// All that a list of backups shows. At most 3960 bytes of JSON.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Summary {
    /// [`MANIFEST_FORMAT`].
    pub format: u32,
    /// The backup's random identity.
    pub id: BackupId,
    /// Its name.
    pub label: BackupLabel,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: BackupType,
    /// The backup that it builds on.
    pub prior: Option<BackupLabel>,
    /// Version of the program that made it.
    pub program: String,
    /// Which cluster it is of.
    pub database: DatabaseRef,
    /// When it started and stopped, Unix seconds by the clock of the host that made it.
    pub time: Span<i64>,
    /// When PostgreSQL says it started and stopped, in microseconds since 1970 by the server's clock: targets are compared with these.
    pub server_time_us: Span<i64>,
    /// Redo position of its checkpoint, and the first position at which it is consistent.
    pub lsn: Span<Lsn>,
    /// First and last WAL segment that it needs to be consistent.
    pub wal: Span<WalSegmentName>,
    /// Whether these lie in its `pg_wal`, so that it becomes consistent without an archive.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub wal_inside: bool,
    /// Whether the server was stopped: its files were consistent by themselves or by what lies in `pg_wal`, and it has no `backup_label`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub offline: bool,
    /// Sizes in bytes.
    pub sizes: Sizes,
    /// Number of files, directories and links.
    pub entries: u64,
    /// Whether a page had a wrong checksum, or a file is known to be damaged.
    pub error: bool,
    /// The operator's notes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotation: BTreeMap<String, String>,
}

/// A backup that another one builds on, named so that no other can stand in for it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Parent {
    /// Its label.
    pub label: BackupLabel,
    /// Its identity.
    pub id: BackupId,
    /// Its root digest.
    pub digest: Digest,
}

/// What one run stored: a stream of grains in packs, with an index. A backup has one layer, and one more for each broken run that
/// it took up.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Layer {
    /// The run's random number, part of the names of its packs.
    #[serde(with = "attempt_hex")]
    pub attempt: u64,
    /// Salts of the lanes that sealed the data packs, by the number that the frame table gives.
    pub data_lanes: Vec<Digest>,
    /// The key mode of these lanes, as in the headers of the packs, where it is not that of all the rest: 2, sealed to a public key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_key_mode: Option<u8>,
    /// Salt of the lane that sealed the index packs.
    pub index_lane: Digest,
    /// Sizes of the index packs, by number.
    pub index_packs: Vec<u64>,
    /// How many data packs there are, from number 0 on.
    pub data_packs: u32,
    /// Top of the index; none where nothing was recorded.
    pub index: Option<Root>,
    /// Top of the frame table; none where nothing was stored.
    pub frames: Option<Root>,
    /// Length of the stream in bytes.
    pub stream: u64,
    /// Which key of the repository its lanes are of: that in the header of its manifest, which says it for all layers, so it is not written
    /// here. All zero without encryption.
    #[serde(skip)]
    pub key_id: [u8; 16],
}

/// A tablespace outside of the data directory.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Tablespace {
    /// Its OID, the name of its link in `pg_tblspc`.
    pub oid: u32,
    /// Its name in SQL, empty when not known.
    pub name: String,
    /// Where it lay, an absolute path.
    pub location: String,
}

/// A symbolic link in the data directory, other than those of tablespaces.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Link {
    /// Its path in the data directory.
    pub name: String,
    /// Where it led.
    pub destination: String,
}

/// A database of the cluster when the backup began.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Database {
    /// Its OID.
    pub oid: u32,
    /// Its name.
    pub name: String,
    /// Whether it is a template.
    pub template: bool,
}

/// Facts of the cluster that restore and later backups depend on.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ClusterFacts {
    /// `catalog_version_no`.
    pub catalog_version: u32,
    /// `pg_control_version`.
    pub control_version: u32,
    /// Size of a page in bytes.
    pub block_size: u32,
    /// Size of a segment of a relation, in pages.
    pub segment_pages: u32,
    /// Size of a WAL segment in bytes.
    pub wal_segment_size: WalSegmentSize,
    /// Whether pages carry checksums.
    pub data_checksums: bool,
    /// Timeline at the start.
    pub timeline: TimelineId,
    /// Where the data directory lay.
    pub data_directory: String,
}

/// What a restore needs beyond the summary.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Body {
    /// [`MANIFEST_FORMAT`].
    pub format: u32,
    /// As in the summary.
    pub id: BackupId,
    /// The parent, for a diff or incr.
    pub parent: Option<Parent>,
    /// The key of the chain's hashes.
    pub hash_key: HashKey,
    /// When copying began, Unix nanoseconds by the host's clock: files younger than that are never taken for unchanged.
    pub copy_start_ns: i64,
    /// What was stored, oldest run first.
    pub layers: Vec<Layer>,
    /// Count and digest of the resolved list of entries.
    pub resolved_entries: u64,
    /// See [`Body::resolved_entries`].
    pub resolved_digest: Digest,
    /// Facts of the cluster.
    pub cluster: ClusterFacts,
    /// Tablespaces outside of the data directory.
    pub tablespaces: Vec<Tablespace>,
    /// Links in the data directory; the index has them, too.
    pub links: Vec<Link>,
    /// Databases, for selective restore.
    pub databases: Vec<Database>,
    /// The text of `backup_label`; none for a backup of a stopped cluster.
    pub backup_label: Option<String>,
    /// The text of `tablespace_map`.
    pub tablespace_map: Option<String>,
    /// Config files outside of the data directory that are stored under `config/`.
    pub config_files: Vec<String>,
    /// Number of pages with a wrong checksum.
    pub bad_pages: u64,
    /// Options that were in force, for whoever reads the manifest later.
    pub options: BTreeMap<String, String>,
}

impl Summary {
    /// As JSON.
    ///
    /// # Errors
    /// When the annotations are too large.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let annotations = serde_json::to_vec(&self.annotation).map_or(usize::MAX, |json| json.len());
        if annotations > MAX_ANNOTATION_BYTES {
            let reason = format!(
                "the annotations take {annotations} bytes, at most {MAX_ANNOTATION_BYTES} are allowed"
            );
            return Err(Error::Inconsistent { reason });
        }
        to_json(self)
    }

    /// From JSON.
    ///
    /// # Errors
    /// When it is not a summary of this version, or contradicts itself.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        let summary: Self = from_json("manifest summary", json)?;
        let consistent = summary.kind == summary.label.backup_type()
            && summary.prior.is_some() == (summary.kind != BackupType::Full)
            && summary.prior.is_none_or(|p| p.full() == summary.label.full() && p < summary.label)
            && summary.lsn.start <= summary.lsn.stop
            && summary.wal.start <= summary.wal.stop
            && (summary.wal_inside || !summary.offline);
        if !consistent {
            return Err(Error::Inconsistent {
                reason: format!("the summary of {} contradicts itself", summary.label),
            });
        }
        Ok(summary)
    }
}

impl Body {
    /// As JSON.
    ///
    /// # Errors
    /// Never in practice: all fields have a JSON form.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        to_json(self)
    }

    /// From JSON.
    ///
    /// # Errors
    /// When it is not a body of this version, or has no layer.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        let body: Self = from_json("manifest body", json)?;
        if body.layers.is_empty() {
            return Err(Error::Inconsistent { reason: "a backup without layers".to_owned() });
        }
        let (mut index_packs, mut lanes, mut packs) = (0, 0, 0);
        for layer in &body.layers {
            index_packs += layer.index_packs.len();
            lanes += layer.data_lanes.len();
            packs = packs.max(layer.data_packs as usize);
        }
        for (what, count, max) in [
            ("layers", body.layers.len(), MAX_LAYERS),
            ("index packs", index_packs, MAX_INDEX_PACKS),
            ("lanes", lanes, MAX_LANES),
            ("data packs", packs, MAX_DATA_PACKS),
            ("tablespaces", body.tablespaces.len(), MAX_PLACES),
            ("links", body.links.len(), MAX_PLACES),
            ("config files", body.config_files.len(), MAX_PLACES),
            ("options", body.options.len(), MAX_OPTIONS),
        ] {
            if count > max {
                return Err(Error::Inconsistent {
                    reason: format!("a backup with {count} {what}, at most {max} are possible"),
                });
            }
        }
        Ok(body)
    }
}

fn to_json<T: serde::Serialize>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::Inconsistent { reason: e.to_string() })
}

#[derive(serde::Deserialize)]
struct Versioned {
    format: u32,
}

fn from_json<T: serde::de::DeserializeOwned>(what: &'static str, json: &[u8]) -> Result<T> {
    let damaged = |e: serde_json::Error| Error::Damaged {
        what,
        at: e.column(),
        reason: "it is not the JSON that it should be",
    };
    let version: Versioned = serde_json::from_slice(json).map_err(damaged)?;
    if version.format != MANIFEST_FORMAT {
        return Err(Error::Unsupported { what, found: version.format.to_string() });
    }
    serde_json::from_slice(json).map_err(damaged)
}

mod attempt_hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(crate) fn serialize<S: Serializer>(attempt: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{attempt:016x}"))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        let form = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        form.then(|| u64::from_str_radix(&text, 16).ok())
            .flatten()
            .ok_or_else(|| D::Error::custom("not 16 hex digits"))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn summary(label: &str) -> Summary {
        let label: BackupLabel = label.parse().unwrap();
        Summary {
            format: 1,
            id: BackupId([1; 16]),
            label,
            kind: label.backup_type(),
            prior: (label.backup_type() != BackupType::Full).then(|| label.full()),
            program: "0.1.0".into(),
            database: DatabaseRef { id: 1, system_id: SystemId::new(7), version: PgVersion::V15 },
            time: Span { start: 100, stop: 200 },
            server_time_us: Span { start: 100, stop: 200 },
            lsn: Span { start: Lsn::new(0x200_0028), stop: Lsn::new(0x200_0100) },
            wal: Span {
                start: "000000010000000000000002".parse().unwrap(),
                stop: "000000010000000000000002".parse().unwrap(),
            },
            wal_inside: false,
            offline: false,
            sizes: Sizes::default(),
            entries: 1,
            error: false,
            annotation: BTreeMap::new(),
        }
    }

    #[test]
    fn summaries_round_trip_and_fit() {
        let mut made = summary("20261122-120000F_20261122-130000I");
        assert_eq!(Summary::from_json(&made.to_json().unwrap()).unwrap(), made);
        made.annotation.insert("k".into(), "v".repeat(1500));
        assert!(made.to_json().unwrap().len() <= 3960);
        made.annotation.insert("l".into(), "v".repeat(500));
        assert!(made.to_json().is_err());
    }

    #[test]
    fn lists_of_a_body_are_bounded() {
        let whole = include_bytes!("../tests/vectors/body-full.json");
        let changed = |pointer: &str, value: serde_json::Value| {
            let mut body: serde_json::Value = serde_json::from_slice(whole).unwrap();
            *body.pointer_mut(pointer).unwrap() = value;
            Body::from_json(&serde_json::to_vec(&body).unwrap()).map(|_| ()).map_err(|e| e.to_string())
        };
        let texts = |count: usize| serde_json::Value::from(vec![""; count]);
        assert_eq!(changed("/config-files", texts(MAX_PLACES)), Ok(()));
        assert_eq!(changed("/layers/0/data-packs", MAX_DATA_PACKS.into()), Ok(()));
        let options: serde_json::Map<_, _> = (0..=MAX_OPTIONS).map(|n| (n.to_string(), "".into())).collect();
        for (what, pointer, value) in [
            ("a backup without layers", "/layers", serde_json::Value::Array(Vec::new())),
            ("10001 config files", "/config-files", texts(MAX_PLACES + 1)),
            ("65537 index packs", "/layers/0/index-packs", vec![0; MAX_INDEX_PACKS + 1].into()),
            ("10001 lanes", "/layers/0/data-lanes", vec!["00".repeat(32); MAX_LANES + 1].into()),
            ("16777217 data packs", "/layers/0/data-packs", (MAX_DATA_PACKS + 1).into()),
            ("4294967295 data packs", "/layers/0/data-packs", u32::MAX.into()),
            ("1001 options", "/options", options.into()),
        ] {
            let error = changed(pointer, value).unwrap_err();
            assert!(error.contains(what), "{error}");
        }
    }

    #[test]
    fn other_versions_and_contradictions_are_refused() {
        let mut made = summary("20261122-120000F");
        made.format = 2;
        assert!(matches!(Summary::from_json(&made.to_json().unwrap()), Err(Error::Unsupported { .. })));
        made = summary("20261122-120000F");
        made.kind = BackupType::Incr;
        assert!(Summary::from_json(&made.to_json().unwrap()).is_err());
        made = summary("20261122-120000F_20261122-130000I");
        made.prior = None;
        assert!(Summary::from_json(&made.to_json().unwrap()).is_err());
        assert!(Summary::from_json(b"{").is_err());
    }
}
