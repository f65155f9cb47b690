//! The workers of asynchronous archiving: how a call starts one, and what it then does.
//!
//! A worker is this program in the role `async`, on its own: in a session of its own, in the root directory, with nothing of the server's
//! open. Its command line repeats the options of the call that started it; secrets are never among them.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use pgbr::{
    Failure, GetWorkerRequest, Host, Lock, LockType, PushWorkerRequest, RepoError, WorkerLock,
    archive_get_worker, archive_push_worker,
};

use crate::exit::{CliError, ErrorCode};
use crate::failure::{Called, describe};
use crate::request;
use crate::run::{Context, Outcome};
use crate::settings::Settings;

/// How long a worker waits for something to do. While it does, it holds the archive lock, which a stanza is not made, upgraded or deleted under.
const IDLE: Duration = Duration::from_secs(10);

/// The spool directory.
pub(super) fn spool(settings: &Settings) -> PathBuf {
    settings.get_path("spool-path").unwrap_or(Path::new("/var/spool/pgbackrest")).to_owned()
}

/// Where a worker is found.
pub(super) fn lock(settings: &Settings) -> WorkerLock {
    let directory = settings.get_path("lock-path").unwrap_or(Path::new("/tmp/pgbr")).to_owned();
    WorkerLock { directory, repo: settings.repo_keys().first().copied().unwrap_or(1) }
}

/// What starts a worker of the same command with one parameter.
pub(super) fn starter<'a>(
    settings: &'a Settings,
    parameter: Option<&'a Path>,
) -> impl Fn() -> io::Result<()> + Sync + 'a {
    move || {
        // Before anything is started: the server's own files, which this process may have got from it, are none of a worker's business.
        close_fds::set_fds_cloexec(3, &[]);
        let mut command = Command::new(std::env::current_exe()?);
        std::os::unix::process::CommandExt::arg0(&mut command, settings.program());
        command.args(settings.repeated()).arg(format!("{}:async", settings.command().name()));
        command.args(parameter.map(|path| path.canonicalize().unwrap_or_else(|_| path.to_owned())));
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().map(drop)
    }
}

/// `archive-push:async`.
pub(super) async fn push(context: &Context, host: &Host) -> Outcome {
    let settings = &context.settings;
    let [wal_dir] = settings.params() else {
        return Err(CliError::new(ErrorCode::ParamRequired, "directory of WAL to push required"));
    };
    let Some(locks) = locks(context, LockType::Archive)? else { return Ok(0) };
    let called = Called::of(settings);
    let request = PushWorkerRequest {
        repos: request::repos(settings)?,
        stanza: request::stanza(settings)?,
        wal_dir: PathBuf::from(wal_dir),
        spool: spool(settings),
        scope: settings.scope(),
        stop_files: settings.get_path("lock-path").map(Path::to_owned),
        compression: request::compression(settings)?,
        threads: request::threads(settings),
        header_check: settings.get_bool("archive-header-check"),
        batch: settings.get_size("archive-push-batch-size").unwrap_or(u64::MAX),
        idle: IDLE,
        describe: Arc::new(move |error| {
            let described = describe(error, called);
            Failure { code: described.code.number(), text: described.text() }
        }),
    };
    let report = archive_push_worker(host, request).await.map_err(|e| context.failure(&e))?;
    drop(locks);
    context.log.detail(&format!("pushed {} WAL file(s) in all", report.files));
    Ok(0)
}

/// `archive-get:async`.
pub(super) async fn get(context: &Context, host: &Host) -> Outcome {
    let settings = &context.settings;
    let [pg_data] = settings.params() else {
        return Err(CliError::new(ErrorCode::ParamRequired, "data directory to get WAL for required"));
    };
    let Some(locks) = locks(context, LockType::ArchiveGet)? else { return Ok(0) };
    let request = GetWorkerRequest {
        repos: request::repos(settings)?,
        stanza: request::stanza(settings)?,
        pg_data: PathBuf::from(pg_data),
        spool: spool(settings),
        scope: settings.scope(),
        run: context.exec_id.clone(),
        queue_max: settings.get_size("archive-get-queue-max").unwrap_or(128 << 20),
        threads: request::threads(settings),
        idle: IDLE,
    };
    let fetched = archive_get_worker(host, request).await.map_err(|e| context.failure(&e))?;
    drop(locks);
    context.log.detail(&format!("got {fetched} WAL file(s) in all"));
    Ok(0)
}

/// The locks that make this the only worker; none where there is another one.
fn locks(context: &Context, kind: LockType) -> Result<Option<Vec<Lock>>, CliError> {
    let mut held = Vec::new();
    for request in request::locks(&context.settings, kind, &context.exec_id)? {
        match Lock::acquire(&request) {
            Ok(lock) => held.push(lock),
            Err(RepoError::Locked { .. }) => {
                context.log.detail("another process is at work");
                return Ok(None);
            }
            Err(error) => return Err(context.failure(&error.into())),
        }
    }
    Ok(Some(held))
}
