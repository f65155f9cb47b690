//! What the manifest of one repository says, and what is told of it.

use std::collections::BTreeMap;

use pgbr_manifest::manifest::{
    Body, ClusterFacts, Database, DatabaseRef, Layer, MANIFEST_FORMAT, Sizes, Span, Summary, Tablespace,
};
use pgbr_manifest::{BackupId, Lsn, WalSegmentName};
use pgbr_repo::NewCluster;

use super::copy::Copied;
use super::target::Target;
use super::{BackupReport, BackupRequest, Resumed};
use crate::error::Result;
use crate::load;

/// Everything that the manifest needs.
pub(super) struct Complete {
    pub(super) summary: Summary,
    pub(super) body: Body,
    pub(super) report: BackupReport,
}

/// When a backup was made.
pub(super) struct Times {
    /// By the clock of this host, in seconds since 1970.
    pub(super) host: Span<i64>,
    /// By the server's, in microseconds since 1970.
    pub(super) server: Span<i64>,
}

/// What the server gives at the end of a backup.
pub(super) struct Labels {
    pub(super) backup_label: String,
    pub(super) tablespace_map: String,
}

/// What is known when the backup has stopped.
pub(super) struct Parts {
    pub(super) cluster: ClusterFacts,
    /// Whether data files came from a standby.
    pub(super) standby: bool,
    pub(super) skipped: Vec<String>,
    pub(super) tablespaces: Vec<Tablespace>,
    pub(super) databases: Vec<Database>,
    pub(super) config_files: Vec<String>,
    pub(super) copy_start_ns: i64,
    pub(super) lsn: Span<Lsn>,
    pub(super) wal: Span<WalSegmentName>,
    /// The segments that are copied from the archive into the backup.
    pub(super) copied_wal: Vec<WalSegmentName>,
    pub(super) times: Times,
    /// None for a cluster that was stopped.
    pub(super) labels: Option<Labels>,
}

/// What the manifest of one repository says.
pub(super) fn complete(
    target: &Target,
    copied: Copied,
    run: &Parts,
    cluster: NewCluster,
    request: &BackupRequest,
) -> Result<Complete> {
    let Copied { gathered, bad_files, data, index } = copied;
    let (written, adopted) = (gathered.written, &target.adopted);
    let id = BackupId(target.host.random()?);
    let totals = gathered.totals;
    let stored_delta = index.stored + adopted.stored;
    let before = target.chain.first().map_or(0, |prior| prior.summary.sizes.stored);
    let sizes =
        Sizes { database: totals.bytes, delta: totals.changed, stored: before + stored_delta, stored_delta };
    let number = target.place.stanza.current().number;
    let summary = Summary {
        format: MANIFEST_FORMAT,
        id,
        label: target.label,
        kind: target.kind,
        prior: target.chain.first().map(|prior| prior.summary.label),
        program: target.host.program.clone(),
        database: DatabaseRef { id: number, system_id: cluster.system_id, version: cluster.version },
        time: run.times.host,
        server_time_us: run.times.server,
        lsn: run.lsn,
        wal: run.wal,
        wal_inside: run.labels.is_none() || !run.copied_wal.is_empty(),
        offline: run.labels.is_none(),
        sizes,
        entries: totals.entries,
        error: totals.bad_pages > 0,
        annotation: request.annotation.clone(),
    };
    let layer = Layer {
        attempt: target.attempt,
        data_lanes: vec![data.salt],
        data_key_mode: load::data_key_mode(target.place.repo.keyring(), data.mode),
        index_lane: index.salt,
        index_packs: index.sizes,
        data_packs: data.packs,
        index: written.index,
        frames: data.frames,
        stream: data.stream,
        key_id: *target.place.repo.keyring().key_id().as_bytes(),
    };
    let map = run.labels.as_ref().map(|labels| &labels.tablespace_map).filter(|map| !map.is_empty());
    let body = Body {
        format: MANIFEST_FORMAT,
        id,
        parent: target.facts.parent.clone(),
        hash_key: target.facts.hash_key.clone(),
        copy_start_ns: run.copy_start_ns,
        layers: adopted.layers.iter().cloned().chain([layer]).collect(),
        resolved_entries: written.entries,
        resolved_digest: written.digest,
        cluster: run.cluster.clone(),
        tablespaces: run.tablespaces.clone(),
        links: gathered.links,
        databases: run.databases.clone(),
        tablespace_map: map.cloned(),
        backup_label: run.labels.as_ref().map(|labels| labels.backup_label.clone()),
        config_files: run.config_files.clone(),
        bad_pages: totals.bad_pages,
        options: options(request, run),
    };
    let report = BackupReport {
        repo: target.number,
        label: target.label,
        kind: target.kind,
        prior: summary.prior,
        sizes,
        files: totals.files,
        changed_files: totals.changed_files,
        unread_files: totals.unread,
        resumed: (adopted.raw > 0).then(|| Resumed {
            stored: adopted.stored,
            raw: adopted.raw,
            again: adopted.raw.saturating_sub(totals.reused),
        }),
        bad_pages: totals.bad_pages,
        bad_files,
        skipped: run.skipped.clone(),
        wal: run.wal,
        requests: BTreeMap::new(),
    };
    Ok(Complete { summary, body, report })
}

/// The options that were in force, for whoever reads the manifest later.
fn options(request: &BackupRequest, run: &Parts) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("archive-check".to_owned(), (request.archive_check && request.online).to_string()),
        ("archive-copy".to_owned(), (!run.copied_wal.is_empty()).to_string()),
        ("backup-standby".to_owned(), run.standby.to_string()),
        (
            "checksum-page".to_owned(),
            request.checksum_page.map_or_else(|| "auto".to_owned(), |c| c.to_string()),
        ),
        ("compress-level".to_owned(), request.compression.level().to_string()),
        ("compress-type".to_owned(), request.compression.codec().to_string()),
        ("online".to_owned(), request.online.to_string()),
    ])
}
