//! Restore: a cluster as it was, from one backup and the archive, that recovers to the moment asked for.

mod archives;
mod check;
mod choose;
mod dry;
mod fetch;
mod goal;
mod hand;
mod layout;
mod look;
mod new_links;
mod origin;
mod reach;
mod select;
mod source;
mod sweep;
mod target;
mod theirs;
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
use pgbr_repo::{Error as RepoError, Pin, PinKind, Requests};
use tokio::runtime::Handle;

use crate::error::{Error, Result};
use crate::held::Held;
use crate::host::Host;
use crate::load::{self, Backup};
use crate::observe::Event;
use crate::place::{RepoAccess, StanzaPlace};

pub(crate) use check::check_packs;
use check::{check_chain, check_first_segment, warn_of_another_cluster};
use choose::{Chosen, Side, Sides, choose};
pub use dry::{RestoreDryRun, Work, restore_dry_run};
pub use fetch::Fetched;
use fetch::Written;
pub use goal::parse_time;
use layout::Layout;
use new_links::check_new_links;
use origin::{Origin, OurBackup};
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
    /// The program that the comments in the settings name.
    pub program: String,
}

impl RestoreRequest {
    /// A restore of the newest backup to the end of the WAL, by one thread. What else is wanted is set in its fields.
    pub fn new(repo: RepoAccess, stanza: StanzaName, places: Places, restore_command: String) -> Self {
        Self {
            repo,
            stanza,
            set: None,
            places,
            databases: Databases::default(),
            goal: RecoveryGoal::Default,
            exclusive: false,
            action: RecoveryAction::Pause,
            timeline: None,
            restore_command,
            recovery_options: Vec::new(),
            archive_off: false,
            threads: 1,
            program: "pgbr".to_owned(),
        }
    }
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
        Some(self.decided.origin.label())
    }

    /// Where it is, if it is one of ours.
    pub(crate) fn place(&self) -> Option<StanzaPlace> {
        match &self.decided.origin {
            Origin::Ours(ours) => Some(ours.place.clone()),
            Origin::Theirs(..) => None,
        }
    }

    /// The major version of its cluster.
    pub(crate) fn version(&self) -> Result<PgVersion> {
        let version = self.decided.origin.version();
        let what = "a version of PostgreSQL that nothing but a restore knows";
        version.supported().ok_or(Error::Internal { what })
    }

    /// What its cluster had, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.decided.origin.bytes()
    }

    /// The first segment that is missing on the way of the recovery, where later ones are there.
    pub(crate) async fn wal_gap(&self, host: &Host, request: &RestoreRequest) -> Result<Option<WalGap>> {
        let Chosen { goal, history, backups, archives, .. } = &self.chosen;
        let Some(needed) = self.decided.origin.needed() else { return Ok(None) };
        let aim = Aim { recovery: &request.goal, goal: *goal, history: history.as_ref(), backups };
        let Some(segment) = look_at_wal(host, archives, &needed, &aim).await?.gap else { return Ok(None) };
        let size = needed.size;
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
    source(host, request, false).await
}

/// The same among our own backups alone.
pub(crate) async fn restore_source_of_ours(host: &Host, request: &RestoreRequest) -> Result<RestoreSource> {
    source(host, request, true).await
}

async fn source(host: &Host, request: &RestoreRequest, ours_alone: bool) -> Result<RestoreSource> {
    let sides = Sides::open(host, request, ours_alone).await?;
    let chosen = choose(host, &sides, request).await?;
    let pin = match (&sides.ours, &chosen.of) {
        (Some(place), Side::Ours(needed)) => pin(host, place, needed).await?,
        // pgBackRest knows no pins: what its expire takes away meanwhile is noticed.
        _ => None,
    };
    let decided = async {
        let decided = decide(host, sides, request, &chosen).await?;
        check_repository(host, request, &decided.origin, &chosen).await?;
        Ok(decided)
    };
    match decided.await {
        Ok(decided) => Ok(RestoreSource { pin, chosen, decided }),
        Err(error) => {
            release(host, pin).await;
            Err(error)
        }
    }
}

async fn pin(host: &Host, place: &StanzaPlace, needed: &[BackupLabel]) -> Result<Option<Held<Pin>>> {
    match Held::pin(host, place, PinKind::Restore, needed.to_vec(), None).await {
        Ok(pin) => Ok(Some(pin)),
        // A repository on read-only media can be restored from: what another host takes away meanwhile is noticed.
        Err(Error::Repo(RepoError::Permission { .. })) => {
            host.warn("the repository cannot be written to: nothing keeps others from removing the backup meanwhile");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Sees that the repository holds what the backup is made of, as far as that can be seen beforehand, and the WAL that recovery begins with.
async fn check_repository(
    host: &Host,
    request: &RestoreRequest,
    origin: &Origin,
    chosen: &Chosen,
) -> Result<()> {
    if let Origin::Ours(ours) = origin {
        check_chain(host, &ours.place, &ours.chain).await?;
    }
    match origin.first_segment() {
        Some(segment) => check_first_segment(host, &chosen.archives, request, origin.label(), segment).await,
        None => Ok(()),
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
    let RestoreSource { pin, decided, .. } = source;
    (run(host, &request, decided).await, Kept(pin))
}

async fn release(host: &Host, pin: Option<Held<Pin>>) {
    if let Some(pin) = pin {
        pin.release(host).await;
    }
}

async fn run(host: &Host, request: &RestoreRequest, decided: Decided) -> Result<RestoreReport> {
    let Decided { origin, plan, recovery, left_out } = decided;
    let from = origin.first_needed().and_then(|from| local_time(host, from));
    host.tell(Event::RestoreStarting { label: origin.label(), from });
    if !left_out.is_empty() {
        let text = format!("databases restored as zeros, to be dropped afterwards: {}", left_out.join(", "));
        host.tell(Event::Note { text });
    }
    plan.check()?;
    warn_of_another_cluster(host, &request.places, origin.system_id());

    let (host, threads) = (host.clone(), request.threads);
    let config_written = request.places.config.is_some();
    let runtime = Handle::current();
    let work = move || {
        let written = write_cluster(&host, &origin, plan, &recovery, threads, &runtime)?;
        Ok(RestoreReport { config_written, ..written })
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Error::Internal { what: "the restore thread panicked" })?
}

/// What is restored, from what, and where.
struct Decided {
    origin: Origin,
    plan: Plan,
    recovery: RecoveryPlan,
    /// Databases that come back as zeros.
    left_out: Vec<String>,
}

/// Decides everything that can be decided from manifests and options.
async fn decide(host: &Host, sides: Sides, request: &RestoreRequest, chosen: &Chosen) -> Result<Decided> {
    let origin = match (&chosen.of, sides) {
        (Side::Ours(needed), Sides { ours: Some(place), .. }) => {
            let chain = load::chain(&place, chosen.label, needed).await?;
            Origin::Ours(Box::new(OurBackup::new(place, chain)?))
        }
        (Side::Theirs, Sides { theirs: Some(side), .. }) => {
            let (their, store) = side.load(host, chosen.label).await?;
            Origin::Theirs(Box::new(their), store)
        }
        _ => return Err(Error::Internal { what: "a backup of neither side" }),
    };
    let selection = plan_databases(&request.databases, origin.databases())?;
    let left_out = selection.left_out(origin.databases());
    let directory = origin.tablespace_directory();
    let plan = plan_places(&request.places, origin.outside(), directory, selection)?;
    let plan = Plan { preserve: request.goal == RecoveryGoal::Preserve, ..plan };
    check_new_links(host, &origin, &plan.new_links).await?;
    let recovery = plan_recovery(host, request, &origin)?;
    recovery.settings()?;
    if recovery.goal == RecoveryGoal::None && recovery.wal_inside && !recovery.archive_off {
        host.warn(
            "the server will start on the timeline of the backup: what it archives may have names that are taken; set --archive-mode=off, or \
             give it a stanza of its own",
        );
    }
    Ok(Decided { origin, plan, recovery, left_out })
}

/// From here on the target changes. The order matters: nothing starts before the last line.
fn write_cluster(
    host: &Host,
    origin: &Origin,
    plan: Plan,
    recovery: &RecoveryPlan,
    threads: usize,
    runtime: &Handle,
) -> Result<RestoreReport> {
    let begun = Instant::now();
    let mut layout = Layout::prepare(host, plan, false)?;
    let written = write_files(host, origin, &mut layout, recovery, threads, runtime)?;
    layout.finish_new_links()?;
    host.tell(Event::Step { name: "copy", took: begun.elapsed() });
    let begun = Instant::now();
    layout.link_tablespaces()?;
    if let Origin::Ours(ours) = origin {
        write_labels(&mut layout, &ours.newest)?;
    }
    write_recovery(host, &mut layout, origin.label(), recovery)?;
    layout.close_directories()?;
    for root in layout.roots() {
        pgbr_pg::syncfs(root)?;
    }
    layout.open_cluster(host)?;
    host.tell(Event::Step { name: "sync", took: begun.elapsed() });
    let config_files = layout.config_files().to_vec();
    config_files.iter().for_each(|path| host.tell(Event::ConfigFile { path: path.clone() }));
    let requests = match origin {
        Origin::Ours(ours) => crate::report::requests(&ours.place.repo),
        Origin::Theirs(_, store) => crate::report::of_store(store, Requests::default()),
    };
    Ok(RestoreReport {
        label: origin.label(),
        bytes: written.bytes,
        files: written.files,
        kept: written.kept,
        fetched: written.fetched,
        removed: layout.removed().files,
        config_files,
        config_written: false,
        bad_pages: origin.bad_pages(),
        requests,
    })
}

/// Writes the files of the backup.
fn write_files(
    host: &Host,
    origin: &Origin,
    layout: &mut Layout,
    recovery: &RecoveryPlan,
    threads: usize,
    runtime: &Handle,
) -> Result<Written> {
    match origin {
        Origin::Ours(ours) => fetch::write_files(host, &ours.place, &ours.chain, layout, threads, runtime),
        Origin::Theirs(their, _) => {
            let keeps = recovery.goal == RecoveryGoal::Preserve;
            theirs::write_files(host, their, layout, threads, keeps)
        }
    }
}

/// Unix seconds as local time.
fn local_time(host: &Host, seconds: i64) -> Option<String> {
    let time = jiff::Timestamp::from_second(seconds).ok()?.to_zoned(host.zone.clone());
    Some(time.strftime("%Y-%m-%d %H:%M:%S").to_string())
}

fn plan_recovery(host: &Host, request: &RestoreRequest, origin: &Origin) -> Result<RecoveryPlan> {
    let when = local_time(host, host.now_seconds()).unwrap_or_default();
    Ok(RecoveryPlan {
        goal: request.goal.clone(),
        exclusive: request.exclusive,
        action: request.action,
        timeline: request.timeline.clone(),
        restore_command: request.restore_command.clone(),
        archive_off: request.archive_off,
        options: request.recovery_options.clone(),
        before_12: origin.version().is_before(12),
        wal_inside: origin.wal_inside(),
        program: request.program.clone(),
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

fn write_recovery(
    host: &Host,
    layout: &mut Layout,
    label: BackupLabel,
    recovery: &RecoveryPlan,
) -> Result<()> {
    if let Some(text) = recovery.recovery_conf()? {
        return layout.write(theirs::RECOVERY_CONF, &text);
    }
    if recovery.before_12 {
        return Ok(());
    }
    let current = read_auto_conf(layout, label)?;
    let text = recovery.auto_conf(&current)?;
    if text != current {
        let path = layout.pg_data().join("postgresql.auto.conf");
        host.tell(Event::Note { text: format!("write updated {}", path.display()) });
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
fn read_auto_conf(layout: &Layout, label: BackupLabel) -> Result<Vec<u8>> {
    let path = layout.pg_data().join("postgresql.auto.conf");
    let mut bytes = Vec::new();
    match File::open(&path) {
        Ok(file) => file.take(MAX_AUTO_CONF + 1).read_to_end(&mut bytes).map_err(Error::io("read", &path))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
        Err(error) => return Err(Error::io("open", &path)(error)),
    };
    if bytes.len() as u64 > MAX_AUTO_CONF {
        let reason = format!("its postgresql.auto.conf has more than {MAX_AUTO_CONF} bytes");
        return Err(Error::Damaged { label, reason });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
