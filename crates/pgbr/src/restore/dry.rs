//! A restore that is only tried: what it would do, and whether it would. Nothing is written, not even a pin in the repository.

use std::path::PathBuf;

use pgbr_manifest::{BackupLabel, BackupType};
use pgbr_pg::RecoveryPlan;
use tokio::runtime::Handle;

use super::choose::{Chosen, Sides, choose};
use super::fetch::Fetched;
use super::layout::Layout;
use super::origin::Origin;
use super::reach::{Aim, WalReach, look};
use super::target::{Existing, Plan};
use super::{Decided, RestoreRequest, check_repository, decide, warn_of_another_cluster, write_files};
use crate::error::{Error, Result};
use crate::host::Host;

/// What a restore would do.
#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RestoreDryRun {
    /// The backup.
    pub label: BackupLabel,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: BackupType,
    /// It and all that it builds on, newest first.
    pub chain: Vec<BackupLabel>,
    /// The data directory.
    pub pg_data: PathBuf,
    /// Where each tablespace would go, by OID.
    pub tablespaces: Vec<(u32, PathBuf)>,
    /// Bytes of all files of the cluster.
    pub bytes: u64,
    /// Databases that would come back as zeros.
    pub hollow_databases: Vec<String>,
    /// What would be done; none where the target cannot be looked at.
    pub work: Option<Work>,
    /// The WAL that recovery would find; none where the backup needs none.
    pub wal: Option<WalReach>,
    /// Why the restore would be refused.
    #[serde(skip)]
    pub refusal: Option<Error>,
}

/// Files and bytes.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Work {
    /// Regular files.
    pub files: u64,
    /// Bytes that are there already.
    pub kept: u64,
    /// What would be read of each backup, newest first.
    pub fetched: Vec<Fetched>,
    /// Files and links that would be removed.
    pub removed_files: u64,
    /// Their bytes.
    pub removed_bytes: u64,
}

/// Finds out what [`super::restore`] would do with the same request. A server may run on the target: then it says that it would refuse.
///
/// # Errors
/// When there is nothing to tell: no backup can reach the goal, a manifest or index is damaged, options contradict each other. What
/// would stop the restore later is in the result.
pub async fn restore_dry_run(host: &Host, request: RestoreRequest) -> Result<RestoreDryRun> {
    let sides = Sides::open(host, &request, false).await?;
    let chosen = choose(host, &sides, &request).await?;
    let Decided { origin, plan, recovery, left_out } = decide(host, sides, &request, &chosen).await?;
    let Chosen { goal, history, backups, archives, .. } = &chosen;
    let aim = Aim { recovery: &request.goal, goal: *goal, history: history.as_ref(), backups };
    let wal = match origin.needed() {
        Some(needed) => Some(look(host, archives, &needed, &aim).await?),
        None => None,
    };
    let incomplete = check_repository(host, &request, &origin, &chosen).await.err();
    let unfit = plan.check().err();
    warn_of_another_cluster(host, &request.places, origin.system_id());
    let mut report = RestoreDryRun {
        label: origin.label(),
        kind: origin.kind(),
        chain: origin.chain(),
        pg_data: plan.pg_data.clone(),
        tablespaces: plan.tablespaces.iter().map(|(space, path)| (space.oid, path.clone())).collect(),
        bytes: origin.bytes(),
        hollow_databases: left_out,
        work: None,
        wal,
        refusal: None,
    };
    let is_running = |error: &Error| matches!(error, Error::Running { .. });
    let would_replace = plan.existing != Existing::Refuse;
    if incomplete.is_none() && unfit.as_ref().is_none_or(|error| is_running(error) && would_replace) {
        report.work = Some(count(host, origin, plan, recovery, request.threads).await?);
    }
    report.refusal = incomplete.or(unfit);
    Ok(report)
}

/// Goes the way of a restore without doing anything.
async fn count(
    host: &Host,
    origin: Origin,
    plan: Plan,
    recovery: RecoveryPlan,
    threads: usize,
) -> Result<Work> {
    let (host, runtime) = (host.clone(), Handle::current());
    let work = move || {
        let mut layout = Layout::prepare(&host, plan, true)?;
        let written = write_files(&host, &origin, &mut layout, &recovery, threads, &runtime)?;
        let removed = layout.removed();
        Ok(Work {
            files: written.files,
            kept: written.kept,
            fetched: written.fetched,
            removed_files: removed.files,
            removed_bytes: removed.bytes,
        })
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Internal { what: "the dry run panicked" })?
}
