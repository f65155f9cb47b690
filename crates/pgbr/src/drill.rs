//! Drill: a restore that is proven by starting PostgreSQL on it, and thrown away.

mod checks;
mod place;
mod sandbox;
mod server;
mod settings;
mod statements;
mod tool;

use std::path::{Path, PathBuf};
use std::time::Duration;

use pgbr_manifest::{BackupLabel, Lsn, PgVersion};
use pgbr_pg::{RecoveryAction, RecoveryGoal};
use pgbr_repo::{CheckResult, DrillCheck, DrillFacts, Drills};

use crate::error::{Error, Result, with_causes};
use crate::host::Host;
use crate::observe::Event;
use crate::place::StanzaPlace;
use crate::restore::{
    Existing, Places, RestoreReport, RestoreRequest, RestoreSource, WalGap, restore_keeping,
    restore_source_of_ours,
};

use self::place::Directory;
use self::server::{Recovered, Server};
use self::settings::{ServerPlace, check_socket, plan_settings};

/// Said where the kernel has no means to keep the server in its directory.
const UNCONFINED: &str = "this kernel cannot keep the server of the drill from writing outside of its directory (Landlock): a tablespace that was created after the backup is made where it was, so do not drill beside the cluster";

/// What to prove, where, and how.
#[derive(Debug, Clone)]
pub struct DrillRequest {
    /// What to restore. Its places, its action and whether it archives are decided by the drill.
    pub restore: RestoreRequest,
    /// A directory that is not there yet, in one that is: all of the drill lies in it, and it is removed at the end. The name of the socket
    /// in it has to fit into 107 bytes.
    pub directory: PathBuf,
    /// Directories of PostgreSQL's programs; the first that has the backup's version is used.
    pub bins: Vec<PathBuf>,
    /// A superuser of the restored cluster.
    pub user: String,
    /// The database that statements are run in.
    pub database: String,
    /// Statements that have to succeed, and whose rows must not begin with false.
    pub sql: Vec<String>,
    /// More settings for the server; they win.
    pub options: Vec<(String, String)>,
    /// Where the server and the command that gets WAL may write besides: locks and logs of that command.
    pub writable: Vec<PathBuf>,
    /// How long recovery may take, and each of the checks.
    pub timeout: Duration,
    /// Whether the directory stays, for somebody to look into.
    pub keep: bool,
}

/// What became of a drill.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct DrillReport {
    /// The backup.
    pub label: BackupLabel,
    /// Whether it recovered, and all checks that ran passed.
    pub ok: bool,
    /// Why it did not recover.
    pub failure: Option<String>,
    /// What was recovered to, in words.
    pub goal: String,
    /// When it began and ended, in Unix seconds.
    pub timestamp: Span,
    /// The server's version; none where it did not recover.
    pub server_version: Option<String>,
    /// How far it has replayed.
    pub reached: Option<Lsn>,
    /// When the last transaction that was recovered had been committed.
    pub last_commit: Option<String>,
    /// How long the restore took.
    pub restore_ms: u64,
    /// How long it took from the server's start until it could be written to.
    pub recovery_ms: Option<u64>,
    /// How long all checks took.
    pub checks_ms: u64,
    /// The checks, in the order in which they were made.
    pub checks: Vec<DrillCheck>,
    /// Bytes of all files that were restored.
    pub bytes: u64,
    /// Files that were restored.
    pub files: u64,
    /// Databases that were not.
    pub left_out: Vec<String>,
    /// The directory, where it was kept.
    pub kept: Option<PathBuf>,
    /// The number of its record in the repository; none where it could not be written.
    pub record: Option<u64>,
}

/// From when to when, in Unix seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(clippy::exhaustive_structs, reason = "a span has two ends")]
pub struct Span {
    /// When it began.
    pub start: i64,
    /// When it ended.
    pub stop: i64,
}

/// Where a drill in `directory` has its data directory: what calls for WAL has to know it.
pub fn drill_data_dir(directory: &Path) -> PathBuf {
    directory.join("data")
}

/// The statements of a file of SQL.
pub fn split_statements(text: &str) -> Vec<String> {
    statements::split(text)
}

/// Restores, starts PostgreSQL on it, checks, and takes all of it away again; what became of it is kept in the repository.
///
/// # Errors
/// As [`drill_source`] and [`drill_from`].
pub async fn drill(host: &Host, request: DrillRequest) -> Result<DrillReport> {
    let source = drill_source(host, &request).await?;
    drill_from(host, request, source).await
}

/// Chooses the backup, as [`restore_source`](crate::restore_source) does, among our own.
///
/// # Errors
/// As there.
pub async fn drill_source(host: &Host, request: &DrillRequest) -> Result<RestoreSource> {
    let start = host.now_seconds();
    let source = restore_source_of_ours(host, &plan_restore(request)).await;
    if let Err(Error::Damaged { label, .. } | Error::FirstSegment { label, .. }) = &source {
        // It was chosen, and its repository lacks a part of it: the answer that a drill is to give, before there is anything to start.
        let place = request.restore.repo.open_stanza(host, &request.restore.stanza).await?;
        record(host, &place, *label, &facts(host, request, start, &source.as_ref().map(|_| None))).await;
    }
    source
}

/// Makes the drill of a backup that was chosen for the same request. That it failed is no error but in the report, as long as it came to a
/// server.
///
/// # Errors
/// When this is root, when the directory cannot be made, when PostgreSQL is not there in the backup's version, when a setting is refused;
/// when the restore fails; when the host asks for the end.
pub async fn drill_from(host: &Host, request: DrillRequest, source: RestoreSource) -> Result<DrillReport> {
    let start = host.now_seconds();
    let (Some(place), Some(label)) = (source.place(), source.label()) else {
        return Err(Error::Internal { what: "a source without a backup" });
    };
    let drill = match Drill::prepare(host, &request, &source).await {
        Ok(drill) => drill,
        Err(error) => {
            source.release(host).await;
            return Err(error);
        }
    };
    let directory = match Directory::make(&request.directory, request.keep) {
        Ok(directory) => directory,
        Err(error) => {
            source.release(host).await;
            return Err(error);
        }
    };
    let proven = drill.prove(source).await;
    let kept = directory.close(host).await;
    let mut facts = facts(host, &request, start, &proven.as_ref().map(Some));
    // What was wrong with this host says nothing about the backup.
    let judged = proven.as_ref().map_or_else(is_damage, |_| true);
    let record = if judged { record(host, &place, label, &facts).await } else { None };
    let Proven { restored, restore_ms, run } = proven?;
    let Run { failure, recovery_ms, server_version, reached, last_commit, checks } = run;
    Ok(DrillReport {
        label,
        ok: facts.ok,
        failure,
        goal: std::mem::take(&mut facts.goal),
        timestamp: Span { start, stop: facts.stop },
        server_version,
        reached,
        last_commit,
        restore_ms,
        recovery_ms,
        checks_ms: facts.checks_ms,
        checks,
        bytes: restored.bytes,
        files: restored.files,
        left_out: drill.left_out,
        kept,
        record,
    })
}

/// What is restored: to where the drill is, and so that it ends in a server that takes writes.
fn plan_restore(request: &DrillRequest) -> RestoreRequest {
    let directory = &request.directory;
    let places = Places {
        pg_data: drill_data_dir(directory),
        tablespace_map: Vec::new(),
        tablespace_map_all: Some(directory.join("tablespaces")),
        link_map: Vec::new(),
        link_all: false,
        config: Some(directory.join("config")),
        existing: Existing::Refuse,
    };
    RestoreRequest { places, action: RecoveryAction::Promote, archive_off: true, ..request.restore.clone() }
}

/// A drill whose parts are there.
struct Drill<'a> {
    host: &'a Host,
    request: &'a DrillRequest,
    /// The programs of PostgreSQL.
    bin: PathBuf,
    version: PgVersion,
    pg_data: PathBuf,
    left_out: Vec<String>,
    /// Only where it is to be noticed that recovery ends before the end of the archive.
    gap: Option<WalGap>,
}

/// How far a drill came, once it had restored.
struct Proven {
    restored: RestoreReport,
    restore_ms: u64,
    run: Run,
}

/// What its server came to.
#[derive(Debug, Default)]
struct Run {
    /// Why it did not recover.
    failure: Option<String>,
    recovery_ms: Option<u64>,
    server_version: Option<String>,
    /// How far it has replayed.
    reached: Option<Lsn>,
    last_commit: Option<String>,
    checks: Vec<DrillCheck>,
}

impl<'a> Drill<'a> {
    /// Sees that all is there, before hours of restoring.
    async fn prepare(host: &'a Host, request: &'a DrillRequest, source: &RestoreSource) -> Result<Self> {
        refuse_root(rustix::process::geteuid().is_root())?;
        check_goal(&request.restore.goal)?;
        check_socket(&request.directory)?;
        source.check_inside(&request.directory)?;
        let version = source.version()?;
        let pg_data = drill_data_dir(&request.directory);
        let place = ServerPlace { directory: &request.directory, pg_data: &pg_data, config_file: None };
        plan_settings(version, place, &request.options)?;
        let bin = find_bin(host, version, &request.bins).await?;
        // A recovery to a target ends with an error where it does not come there.
        let gap = match request.restore.goal {
            RecoveryGoal::Default => source.wal_gap(host, &request.restore).await?,
            _ => None,
        };
        place::warn_of_space(host, &request.directory, source.bytes());
        Ok(Self { host, request, bin, version, pg_data, left_out: source.left_out().to_vec(), gap })
    }

    /// Restores, recovers, checks. However it ends, no server runs afterwards.
    async fn prove(&self, source: RestoreSource) -> Result<Proven> {
        let begun = self.host.clock.monotonic();
        let (restored, kept) = restore_keeping(self.host, plan_restore(self.request), source).await;
        let restore_ms = self.since(begun);
        let run = match restored {
            Ok(restored) => self.recover(restored, restore_ms).await,
            Err(error) => Err(error),
        };
        // Nobody took the backup or its WAL away while it recovered.
        kept.release(self.host).await;
        run
    }

    async fn recover(&self, restored: RestoreReport, restore_ms: u64) -> Result<Proven> {
        let mut server = self.start()?;
        let begun = self.host.clock.monotonic();
        let run = self.run(&mut server, begun);
        let run = tokio::select! {
            run = run => run,
            stopped = self.host.stop.requested() => Err(stopped),
        };
        let mut run = match run {
            Ok(run) => run,
            Err(error) => {
                server.give_up().await;
                return Err(error);
            }
        };
        if run.failure.is_some() {
            server.give_up().await;
        } else {
            let clean = server.stop().await;
            let check = self.check_stopped(clean);
            run.checks.push(tokio::select! {
                check = check => check?,
                stopped = self.host.stop.requested() => return Err(stopped),
            });
        }
        Ok(Proven { restored, restore_ms, run })
    }

    fn start(&self) -> Result<Server> {
        let directory = &self.request.directory;
        let own = place::write_config(directory, &self.pg_data)?;
        let place = ServerPlace { directory, pg_data: &self.pg_data, config_file: own.as_deref() };
        let settings = plan_settings(self.version, place, &self.request.options)?;
        note(self.host, format!("start PostgreSQL {} on what was restored", self.version.major()));
        let writable: Vec<&Path> = [directory.as_path(), Path::new("/dev")]
            .into_iter()
            .chain(self.request.writable.iter().map(PathBuf::as_path))
            .collect();
        let (server, confined) =
            Server::start(&self.bin.join("postgres"), directory, &self.pg_data, &settings, &writable)?;
        if !confined {
            self.host.warn(UNCONFINED);
        }
        Ok(server)
    }

    /// Recovers and checks, while the server runs.
    async fn run(&self, server: &mut Server, begun: Duration) -> Result<Run> {
        let request = self.request;
        if let Recovered::Failed(words) = server.recovered(request.timeout, &request.user).await? {
            return Ok(Run { failure: Some(words), ..Run::default() });
        }
        let recovery_ms = self.since(begun);
        let session = server.session("template1", &request.user, request.timeout).await?;
        let version = session.version_text().await?;
        let (reached, last_commit) = (session.replay_lsn().await?, session.last_replayed_commit().await?);
        drop(session);
        let took = seconds(recovery_ms);
        note(self.host, format!("PostgreSQL {version} has recovered in {took} and takes writes"));
        if let Some(last) = &last_commit {
            note(self.host, format!("the last transaction that was recovered was committed at {last}"));
        }
        let mut checks = vec![self.check_wal(reached).await?];
        checks.extend(self.check_running(server).await?);
        Ok(Run {
            failure: None,
            recovery_ms: Some(recovery_ms),
            server_version: Some(version),
            reached,
            last_commit,
            checks,
        })
    }

    fn since(&self, begun: Duration) -> u64 {
        let took = self.host.clock.monotonic().saturating_sub(begun);
        u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
    }
}

/// What is kept of a drill: how far it came, or why it could not be made.
fn facts(
    host: &Host,
    request: &DrillRequest,
    start: i64,
    proven: &Result<Option<&Proven>, &Error>,
) -> DrillFacts {
    let came = proven.as_ref().ok().copied().flatten();
    let checks = came.map_or_else(Vec::new, |proven| proven.run.checks.clone());
    let failure = match proven {
        Ok(_) => came.and_then(|proven| proven.run.failure.clone()),
        Err(error) => Some(format!("the restore failed: {}", with_causes(*error))),
    };
    DrillFacts {
        start,
        stop: host.now_seconds(),
        ok: failure.is_none() && checks.iter().all(|check| check.result != CheckResult::Failed),
        failure,
        goal: words_of_goal(&request.restore.goal, request.restore.exclusive),
        host: host.owner.as_str().to_owned(),
        server_version: came.and_then(|proven| proven.run.server_version.clone()),
        last_commit: came.and_then(|proven| proven.run.last_commit.clone()),
        restore_ms: came.map(|proven| proven.restore_ms),
        recovery_ms: came.and_then(|proven| proven.run.recovery_ms),
        checks_ms: checks.iter().map(|check| check.ms).fold(0, u64::saturating_add),
        checks,
    }
}

/// A time as people read it: `0.4s`, `72.0s`.
fn seconds(ms: u64) -> String {
    format!("{}.{}s", ms / 1000, ms % 1000 / 100)
}

fn note(host: &Host, text: String) {
    host.tell(Event::Note { text });
}

/// Keeps what became of a drill beside its backup. A repository that cannot be written to does not make a drill fail.
async fn record(host: &Host, place: &StanzaPlace, label: BackupLabel, facts: &DrillFacts) -> Option<u64> {
    let drills = Drills::new(&place.repo, place.stanza.name());
    let added = async {
        let number = drills.add(&label, facts.clone()).await?;
        // Who removes a backup removes its manifest and then its drills: in this order none is left over.
        if !place.backups.exists(&label).await? {
            drills.remove_all(&label).await?;
        }
        Ok::<_, pgbr_repo::Error>(number)
    };
    match added.await {
        Ok(number) => Some(number),
        Err(error) => {
            host.warn(format!(
                "what became of the drill cannot be kept in the repository: {}",
                with_causes(&error)
            ));
            None
        }
    }
}

/// Whether an error of a restore says that the backup is damaged, not that it could not be read now.
fn is_damage(error: &Error) -> bool {
    match error {
        Error::Damaged { .. }
        | Error::FirstSegment { .. }
        | Error::Parent { .. }
        | Error::Codec(_)
        | Error::Manifest(_) => true,
        Error::Repo(error) => error.is_damage() || error.is_not_found(),
        _ => false,
    }
}

/// PostgreSQL does not run as root, and what it is to prove is owned by another user.
fn refuse_root(is_root: bool) -> Result<()> {
    if is_root { Err(Error::DrillAsRoot) } else { Ok(()) }
}

/// A drill ends where a server takes writes.
fn check_goal(goal: &RecoveryGoal) -> Result<()> {
    match goal {
        RecoveryGoal::Standby | RecoveryGoal::Preserve | RecoveryGoal::None => {
            Err(Error::Unsupported { what: "a drill of a recovery that does not end by itself".to_owned() })
        }
        _ => Ok(()),
    }
}

fn words_of_goal(goal: &RecoveryGoal, exclusive: bool) -> String {
    let before = if exclusive { "before " } else { "" };
    match goal {
        RecoveryGoal::Immediate => "the end of the backup".to_owned(),
        RecoveryGoal::Time(time) => format!("{before}time {time}"),
        RecoveryGoal::Xid(xid) => format!("{before}transaction {xid}"),
        RecoveryGoal::Name(name) => format!("restore point {name}"),
        RecoveryGoal::Lsn(lsn) => format!("{before}position {lsn}"),
        _ => "the end of the archive".to_owned(),
    }
}

/// The first directory whose server has the version that the backup needs.
async fn find_bin(host: &Host, version: PgVersion, bins: &[PathBuf]) -> Result<PathBuf> {
    let mut found = Vec::new();
    for bin in bins {
        let program = bin.join("postgres");
        if !program.is_file() {
            continue;
        }
        let said = tool::version_of(host, &program).await?.unwrap_or_default();
        if major_of(&said) == Some(version.major()) {
            return Ok(bin.clone());
        }
        let said: String = said.replace(char::is_control, " ").chars().take(100).collect();
        found.push(format!("'{}' says '{said}'", program.display()));
    }
    let looked = match found.is_empty() {
        true => "no program 'postgres' was found".to_owned(),
        false => found.join(", "),
    };
    Err(Error::NoServerProgram { version, looked })
}

/// The major version in what a server says of itself, as `postgres (PostgreSQL) 15.20 (Debian 15.20-1)` or `... 18beta1`.
fn major_of(said: &str) -> Option<u32> {
    let number = said.split("(PostgreSQL)").nth(1)?.trim_start();
    let end = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
    number.get(..end)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_refused_with_words() {
        assert!(refuse_root(false).is_ok());
        let error = refuse_root(true).unwrap_err().to_string();
        assert!(error.contains("root"), "{error}");
    }

    #[test]
    fn versions_are_read_from_what_servers_say() {
        for (said, wanted) in [
            ("postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)", Some(15)),
            ("postgres (PostgreSQL) 18beta1", Some(18)),
            ("postgres (PostgreSQL) 13", Some(13)),
            ("postgres (PostgreSQL) devel", None),
            ("", None),
            ("bash 5.2", None),
        ] {
            assert_eq!(major_of(said), wanted, "{said}");
        }
    }

    #[test]
    fn goals_have_words() {
        assert_eq!(words_of_goal(&RecoveryGoal::Default, false), "the end of the archive");
        assert_eq!(words_of_goal(&RecoveryGoal::Xid("7".to_owned()), true), "before transaction 7");
        assert!(check_goal(&RecoveryGoal::Standby).is_err() && check_goal(&RecoveryGoal::Immediate).is_ok());
    }
}
