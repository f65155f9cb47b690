//! Restore: a cluster as it was, from one backup and the archive, that recovers to the moment asked for.

mod check;
mod choose;
mod dry;
mod fetch;
mod goal;
mod hand;
mod layout;
mod look;
mod reach;
mod select;
mod source;
mod sweep;
mod target;
mod write;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;

use pgbr_manifest::{BackupLabel, Lsn, PgVersion, StanzaName, WalSegmentName};
use pgbr_pg::{
    RecoveryAction, RecoveryGoal, RecoveryPlan, SignalFile, TablespaceMapEntry, render_tablespace_map,
};
use pgbr_repo::{Error as RepoError, Pin, PinKind};
use tokio::runtime::Handle;

use crate::error::{Error, Result};
use crate::held::Held;
use crate::host::Host;
use crate::load::{self, Backup};
use crate::observe::Event;
use crate::place::{RepoAccess, StanzaPlace};

pub(crate) use check::check_packs;
use check::{check_repository, warn_of_another_cluster};
use choose::{Chosen, choose};
pub use dry::{RestoreDryRun, Work, restore_dry_run};
pub use fetch::Fetched;
pub use goal::parse_time;
use layout::Layout;
use reach::{Aim, look as look_at_wal};
pub use reach::{Reach, WalReach};
pub use select::Databases;
use select::plan_databases;
#[cfg(fuzzing)]
pub(crate) use target::compare_places;
pub use target::{Existing, Places};
use target::{Plan, plan_places};

/// The largest settings file of `ALTER SYSTEM`, in bytes.
const MAX_AUTO_CONF: u64 = 16 << 20;

/// What to restore, where, and how far it recovers.
#[derive(Debug, Clone)]
pub struct RestoreRequest {
    /// The repository.
    pub repo: RepoAccess,
    /// The stanza.
    pub stanza: StanzaName,
    /// Only this backup; without it the newest that can reach the goal.
    pub set: Option<BackupLabel>,
    /// Where things go.
    pub places: Places,
    /// Which databases.
    pub databases: Databases,
    /// Where recovery ends.
    pub goal: RecoveryGoal,
    /// Whether it ends just before the goal.
    pub exclusive: bool,
    /// What the server does then.
    pub action: RecoveryAction,
    /// The timeline to follow: `current`, `latest` or a number.
    pub timeline: Option<String>,
    /// The command by which the server gets WAL.
    pub restore_command: String,
    /// More settings for the recovery.
    pub recovery_options: Vec<(String, String)>,
    /// Whether the restored server shall not archive.
    pub archive_off: bool,
    /// Worker threads.
    pub threads: usize,
}

/// What was restored.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RestoreReport {
    /// The backup.
    pub label: BackupLabel,
    /// Bytes of all files.
    pub bytes: u64,
    /// Regular files.
    pub files: u64,
    /// Bytes that were there already, where the target was mended.
    pub kept: u64,
    /// What was read of each backup of the chain, newest first.
    pub fetched: Vec<Fetched>,
    /// Files and links that the backup does not have, or that stood in the way, and were removed.
    pub removed: u64,
    /// Config files that lay outside of the data directory and are in the backup.
    pub config_files: Vec<PathBuf>,
    /// Whether they were written.
    pub config_written: bool,
    /// Pages that had a wrong checksum when the backup was made, and have it again.
    pub bad_pages: u64,
    /// Requests to the repository.
    pub requests: BTreeMap<&'static str, u64>,
}

/// A backup that can serve a restore, in a repository that holds all that it is made of. While there is one, nobody takes the backup away;
/// it has to be given to [`restore_from`], or goes stale by itself.
pub struct RestoreSource {
    place: StanzaPlace,
    pin: Option<Held<Pin>>,
    chosen: Chosen,
    decided: Decided,
}

/// A segment that recovery would miss, while later ones are in the archive.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WalGap {
    pub(crate) segment: WalSegmentName,
    /// Where it begins.
    pub(crate) start: Lsn,
}

impl RestoreSource {
    /// The backup.
    pub fn label(&self) -> Option<BackupLabel> {
        self.decided.chain.first().map(|backup| backup.summary.label)
    }

    /// Where it is.
    pub(crate) fn place(&self) -> StanzaPlace {
        self.place.clone()
    }

    /// The major version of its cluster.
    pub(crate) fn version(&self) -> Result<PgVersion> {
        Ok(newest(&self.decided.chain)?.summary.database.version)
    }

    /// What its cluster had, in bytes.
    pub(crate) fn bytes(&self) -> Result<u64> {
        Ok(newest(&self.decided.chain)?.summary.sizes.database)
    }

    /// The first segment that is missing on the way of the recovery, where later ones are there.
    pub(crate) async fn wal_gap(&self, host: &Host, request: &RestoreRequest) -> Result<Option<WalGap>> {
        let Chosen { goal, history, backups, .. } = &self.chosen;
        let backup = newest(&self.decided.chain)?;
        let aim = Aim { recovery: &request.goal, goal: *goal, history: history.as_ref(), backups };
        let Some(segment) = look_at_wal(host, &self.place, backup, &aim).await?.gap else { return Ok(None) };
        let size = backup.body.cluster.wal_segment_size;
        let number = segment.number(size).unwrap_or_default();
        Ok(Some(WalGap { segment, start: Lsn::new(number.saturating_mul(size.bytes().into())) }))
    }

    /// Databases that would come back as zeros.
    pub(crate) fn left_out(&self) -> &[String] {
        &self.decided.left_out
    }

    /// Sees that nothing would be written outside of a directory, whatever names the backup has for its tablespaces.
    pub(crate) fn check_inside(&self, directory: &Path) -> Result<()> {
        match self.decided.plan.outside(directory) {
            None => Ok(()),
            Some((what, path)) => {
                let reason = format!("its place '{}' is not below '{}'", path.display(), directory.display());
                Err(Error::Map { what, reason })
            }
        }
    }

    /// Gives it back without a restore.
    pub(crate) async fn release(self, host: &Host) {
        release(host, self.pin).await;
    }
}

impl fmt::Debug for RestoreSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RestoreSource").field("label", &self.label()).finish_non_exhaustive()
    }
}

/// Restores.
///
/// # Errors
/// As [`restore_source`] and [`restore_from`].
pub async fn restore(host: &Host, request: RestoreRequest) -> Result<RestoreReport> {
    let source = restore_source(host, &request).await?;
    restore_from(host, request, source).await
}

/// Chooses the backup and sees that the repository can serve the restore. The target is not touched and not looked at: with several
/// repositories, the next one can be tried where this one fails with an error of the repository ([`Error::is_of_repository`]).
///
/// # Errors
/// When no backup can reach the goal, when the repository does not hold what the backup is made of, when the request contradicts the backup.
pub async fn restore_source(host: &Host, request: &RestoreRequest) -> Result<RestoreSource> {
    let place = request.repo.open_to_read(host, &request.stanza, "restore").await?;
    let chosen = choose(host, &place, request).await?;
    let (label, needed) = (chosen.label, &chosen.needed);
    let pin = match Held::pin(host, &place, PinKind::Restore, needed.clone(), None).await {
        Ok(pin) => Some(pin),
        // A repository on read-only media can be restored from: what another host takes away meanwhile is noticed.
        Err(Error::Repo(RepoError::Permission { .. })) => {
            host.warn("the repository cannot be written to: nothing keeps others from removing the backup meanwhile");
            None
        }
        Err(error) => return Err(error),
    };
    let decided = async {
        let decided = decide(host, &place, request, label, needed).await?;
        check_repository(host, &place, &decided.chain).await?;
        Ok(decided)
    };
    match decided.await {
        Ok(decided) => Ok(RestoreSource { place, pin, chosen, decided }),
        Err(error) => {
            release(host, pin).await;
            Err(error)
        }
    }
}

/// Restores from a backup that was chosen for the same request.
///
/// # Errors
/// Before anything in the target is touched: when a server runs, when a directory is not empty. Afterwards: when an object turns out to be
/// damaged, or on any failure of disk or store; the target has no control file then, so that no server starts on it, and the restore can be
/// run again.
pub async fn restore_from(
    host: &Host,
    request: RestoreRequest,
    source: RestoreSource,
) -> Result<RestoreReport> {
    let (restored, kept) = restore_keeping(host, request, source).await;
    kept.release(host).await;
    restored
}

/// Keeps a backup, and the WAL that it needs, from being taken away.
pub(crate) struct Kept(Option<Held<Pin>>);

impl Kept {
    pub(crate) async fn release(self, host: &Host) {
        release(host, self.0).await;
    }
}

/// Restores, and keeps what was restored from until it is given back: recovery goes on needing it.
pub(crate) async fn restore_keeping(
    host: &Host,
    request: RestoreRequest,
    source: RestoreSource,
) -> (Result<RestoreReport>, Kept) {
    let RestoreSource { place, pin, decided, .. } = source;
    (run(host, &place, &request, decided).await, Kept(pin))
}

async fn release(host: &Host, pin: Option<Held<Pin>>) {
    if let Some(pin) = pin {
        pin.release(host).await;
    }
}

async fn run(
    host: &Host,
    place: &StanzaPlace,
    request: &RestoreRequest,
    decided: Decided,
) -> Result<RestoreReport> {
    let Decided { chain, plan, recovery, left_out } = decided;
    host.tell(Event::RestoreStarting { label: newest(&chain)?.summary.label });
    if !left_out.is_empty() {
        let text = format!("databases restored as zeros, to be dropped afterwards: {}", left_out.join(", "));
        host.tell(Event::Note { text });
    }
    plan.check()?;
    warn_of_another_cluster(host, &request.places, &newest(&chain)?.summary);

    let (host, place) = (host.clone(), place.clone());
    let (threads, config_written) = (request.threads, request.places.config.is_some());
    let runtime = Handle::current();
    let work =
        move || write_cluster(&host, &place, &chain, plan, &recovery, threads, &runtime, config_written);
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Error::Internal { what: "the restore thread panicked" })?
}

/// What is restored, from what, and where.
struct Decided {
    chain: Vec<Backup>,
    plan: Plan,
    recovery: RecoveryPlan,
    /// Databases that come back as zeros.
    left_out: Vec<String>,
}

/// Decides everything that can be decided from manifests and options.
async fn decide(
    host: &Host,
    place: &StanzaPlace,
    request: &RestoreRequest,
    label: BackupLabel,
    needed: &[BackupLabel],
) -> Result<Decided> {
    let chain = load::chain(place, label, needed).await?;
    let backup = newest(&chain)?;
    let selection = plan_databases(&request.databases, &backup.body.databases)?;
    let left_out = selection.left_out(&backup.body.databases);
    let directory = backup.summary.database.version.tablespace_directory();
    let plan = plan_places(&request.places, &backup.body, directory, selection)?;
    let recovery = plan_recovery(host, request)?;
    recovery.settings()?;
    Ok(Decided { chain, plan, recovery, left_out })
}

fn newest(chain: &[Backup]) -> Result<&Backup> {
    chain.first().ok_or(Error::Internal { what: "a chain without a backup" })
}

/// From here on the target changes. The order matters: nothing starts before the last line.
#[expect(clippy::too_many_arguments, reason = "the parts of a restore, handed to another thread")]
fn write_cluster(
    host: &Host,
    place: &StanzaPlace,
    chain: &[Backup],
    plan: Plan,
    recovery: &RecoveryPlan,
    threads: usize,
    runtime: &Handle,
    config_written: bool,
) -> Result<RestoreReport> {
    let begun = Instant::now();
    let backup = newest(chain)?;
    let mut layout = Layout::prepare(host, plan, false)?;
    let written = fetch::write_files(host, place, chain, &mut layout, threads, runtime)?;
    host.tell(Event::Step { name: "copy", took: begun.elapsed() });
    let begun = Instant::now();
    layout.link_tablespaces()?;
    write_labels(&mut layout, backup)?;
    write_recovery(&mut layout, backup, recovery)?;
    layout.close_directories()?;
    for root in layout.roots() {
        pgbr_pg::syncfs(root)?;
    }
    layout.open_cluster(host)?;
    host.tell(Event::Step { name: "sync", took: begun.elapsed() });
    let config_files = layout.config_files().to_vec();
    config_files.iter().for_each(|path| host.tell(Event::ConfigFile { path: path.clone() }));
    let requests = crate::report::requests(&place.repo);
    let (label, bad_pages) = (backup.summary.label, backup.body.bad_pages);
    Ok(RestoreReport {
        label,
        bytes: written.bytes,
        files: written.files,
        kept: written.kept,
        fetched: written.fetched,
        removed: layout.removed().files,
        config_files,
        config_written,
        bad_pages,
        requests,
    })
}

fn plan_recovery(host: &Host, request: &RestoreRequest) -> Result<RecoveryPlan> {
    let now = jiff::Timestamp::from_nanosecond(i128::from(host.clock.now_ns())).unwrap_or_default();
    let when = now.to_zoned(host.zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string();
    Ok(RecoveryPlan {
        goal: request.goal.clone(),
        exclusive: request.exclusive,
        action: request.action,
        timeline: request.timeline.clone(),
        restore_command: request.restore_command.clone(),
        archive_off: request.archive_off,
        options: request.recovery_options.clone(),
        program: "pgbr".to_owned(),
        when,
    })
}

/// `backup_label` as PostgreSQL gave it, and `tablespace_map` as the tablespaces lie now.
fn write_labels(layout: &mut Layout, backup: &Backup) -> Result<()> {
    if let Some(text) = &backup.body.backup_label {
        layout.write("backup_label", text.as_bytes())?;
    }
    if backup.body.tablespace_map.is_some() {
        let map = |(oid, path): (u32, &Path)| TablespaceMapEntry { oid, path: path.to_owned() };
        let entries: Vec<_> = layout.tablespaces().map(map).collect();
        if !entries.is_empty() {
            let text = render_tablespace_map(backup.summary.database.version, &entries)?;
            layout.write("tablespace_map", text.as_bytes())?;
        }
    }
    Ok(())
}

fn write_recovery(layout: &mut Layout, backup: &Backup, recovery: &RecoveryPlan) -> Result<()> {
    let current = read_auto_conf(layout, backup)?;
    let text = recovery.auto_conf(&current)?;
    if text != current {
        layout.write("postgresql.auto.conf", &text)?;
    }
    if recovery.goal == RecoveryGoal::Preserve {
        return Ok(());
    }
    for stale in SignalFile::ALL {
        match std::fs::remove_file(layout.pg_data().join(stale.file_name())) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("remove", layout.pg_data().join(stale.file_name()))(error));
            }
            _ => {}
        }
    }
    match recovery.signal_file() {
        Some(signal) => layout.write(signal.file_name(), b""),
        None => Ok(()),
    }
}

/// The settings file of `ALTER SYSTEM` as it was restored.
fn read_auto_conf(layout: &Layout, backup: &Backup) -> Result<Vec<u8>> {
    let path = layout.pg_data().join("postgresql.auto.conf");
    let mut bytes = Vec::new();
    match File::open(&path) {
        Ok(file) => file.take(MAX_AUTO_CONF + 1).read_to_end(&mut bytes).map_err(Error::io("read", &path))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
        Err(error) => return Err(Error::io("open", &path)(error)),
    };
    if bytes.len() as u64 > MAX_AUTO_CONF {
        let reason = format!("its postgresql.auto.conf has more than {MAX_AUTO_CONF} bytes");
        return Err(Error::Damaged { label: backup.summary.label, reason });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
