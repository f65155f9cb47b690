//! restore.

use std::path::{Path, PathBuf};

use pgbr::{
    Databases, Error, Existing, Host, Places, RecoveryAction, RecoveryGoal, RepoAccess, RestoreRequest,
    restore_from, restore_source, sweep_spool,
};

use super::restore_plan;
use crate::exit::{CliError, ErrorCode};
use crate::failure::of_repo;
use crate::options::Command;
use crate::request;
use crate::run::{Context, Outcome};
use crate::settings::{Settings, Source, shell_word};
use crate::size::format_size;

pub(super) async fn run(context: &Context, host: &Host) -> Outcome {
    if context.settings.get_bool("dry-run") {
        return restore_plan::run(context, host).await;
    }
    let log = &context.log;
    let choose = async |host: Host, request: RestoreRequest| {
        let source = restore_source(&host, &request).await?;
        Ok((host, request, source))
    };
    let (host, request, source) = with_first(context, host, choose).await?;
    let stanza = request.stanza.clone();
    let report = restore_from(&host, request, source).await.map_err(|e| context.failure(&e))?;
    if let (Some(spool), Some(locks)) =
        (context.settings.get_path("spool-path"), context.settings.get_path("lock-path"))
    {
        sweep_spool(spool, &stanza, locks);
    }
    if !report.config_files.is_empty() && !report.config_written {
        log.warn("configuration files of the backup that lie outside of the data directory were not written (set --restore-config=DIR to get them)");
    }
    if report.bad_pages > 0 {
        log.warn(&format!(
            "{} page(s) had a wrong checksum when the backup was made, and were restored as they were",
            report.bad_pages
        ));
    }
    if context.settings.get_bool("delta") {
        let fetched: u64 = report.fetched.iter().map(|fetched| fetched.bytes).sum();
        let (kept, fetched) = (format_size(report.kept), format_size(fetched));
        log.info(&format!("kept = {kept}, fetched = {fetched}, files removed = {}", report.removed));
    }
    log.info(&format!("restore size = {}, file total = {}", format_size(report.bytes), report.files));
    super::requests::tell(context, context.settings.repo_key(), &report.requests);
    Ok(0)
}

/// Takes a step with the first repository, in order of priority, that can serve the restore.
pub(super) async fn with_first<T>(
    context: &Context,
    host: &Host,
    step: impl AsyncFnMut(Host, RestoreRequest) -> Result<T, Error>,
) -> Result<T, CliError> {
    first_of(context, host, |repo| build(context, repo), step).await
}

/// The same with requests that are built in another way.
pub(super) async fn first_of<R, T>(
    context: &Context,
    host: &Host,
    build: impl Fn(RepoAccess) -> Result<R, CliError>,
    mut step: impl AsyncFnMut(Host, R) -> Result<T, Error>,
) -> Result<T, CliError> {
    let repos = request::repos(&context.settings)?;
    let several = repos.len() > 1;
    let mut failed = Vec::new();
    for (key, repo) in repos {
        let request = build(repo)?;
        match step(context.host_of(host, key), request).await {
            Err(error) if several && error.is_of_repository() => {
                let described = of_repo(context.failure(&error), key);
                let text = format!("repo{key} is passed over: {}", described.text());
                match error {
                    Error::NoBackup { .. } | Error::EarlierCluster { .. } => context.log.info(&text),
                    _ => context.log.warn(&text),
                }
                failed.push((key, described));
            }
            done => return done.map_err(|error| context.failure(&error)),
        }
    }
    Err(nowhere(&failed))
}

fn nowhere(failed: &[(u16, CliError)]) -> CliError {
    let first = failed.first().map(|(_, error)| error.code);
    let same = first.filter(|first| failed.iter().all(|(_, error)| error.code == *first));
    let keys: Vec<String> = failed.iter().map(|(key, _)| format!("repo{key}")).collect();
    let message = format!("no backup set to restore in {}", keys.join(", "));
    CliError::new(same.unwrap_or(ErrorCode::BackupSetInvalid), message)
}

fn build(context: &Context, repo: RepoAccess) -> Result<RestoreRequest, CliError> {
    let settings = &context.settings;
    let pg_data = request::pg_data(settings)
        .ok_or_else(|| CliError::new(ErrorCode::OptionRequired, "option 'pg1-path' is required"))?;
    let paths =
        |name| settings.get_hash(name).iter().map(|(key, path)| (key.clone(), PathBuf::from(path))).collect();
    let places = Places {
        pg_data,
        tablespace_map: paths("tablespace-map"),
        tablespace_map_all: settings.get_str("tablespace-map-all").map(PathBuf::from),
        link_map: paths("link-map"),
        link_all: settings.get_bool("link-all"),
        config: settings.get_path("restore-config").map(Path::to_owned),
        existing: match (settings.get_bool("delta"), settings.get_bool("force")) {
            (true, _) => Existing::Delta,
            (false, true) => Existing::Replace,
            (false, false) => Existing::Refuse,
        },
    };
    let restore_command = restore_command(context, &[])?;
    request_of(context, repo, places, restore_command)
}

/// A request with all that does not depend on where things go.
pub(super) fn request_of(
    context: &Context,
    repo: RepoAccess,
    places: Places,
    restore_command: String,
) -> Result<RestoreRequest, CliError> {
    let settings = &context.settings;
    let set = match settings.get_str("set") {
        None | Some("latest") => None,
        Some(label) => Some(label.parse().map_err(|e: pgbr::ManifestError| invalid(&e))?),
    };
    let action = match settings.get_str("target-action") {
        Some("promote") => RecoveryAction::Promote,
        Some("shutdown") => RecoveryAction::Shutdown,
        _ => RecoveryAction::Pause,
    };
    Ok(RestoreRequest {
        repo,
        stanza: request::stanza(settings)?,
        set,
        places,
        databases: Databases {
            include: settings.get_list("db-include").to_vec(),
            exclude: settings.get_list("db-exclude").to_vec(),
        },
        goal: goal(settings)?,
        exclusive: settings.get_bool("target-exclusive"),
        action,
        timeline: settings.get_str("target-timeline").map(str::to_owned),
        restore_command,
        recovery_options: settings.get_hash("recovery-option").to_vec(),
        archive_off: settings.get_str("archive-mode") == Some("off"),
        threads: request::threads(settings),
        program: settings.flavor().product().to_owned(),
    })
}

fn invalid(error: &pgbr::ManifestError) -> CliError {
    CliError::new(ErrorCode::OptionInvalidValue, error.to_string())
}

fn goal(settings: &Settings) -> Result<RecoveryGoal, CliError> {
    let target = settings.get_str("target").unwrap_or_default().to_owned();
    Ok(match settings.get_str("type").unwrap_or("default") {
        "immediate" => RecoveryGoal::Immediate,
        "time" => RecoveryGoal::Time(target),
        "xid" => RecoveryGoal::Xid(target),
        "name" => RecoveryGoal::Name(target),
        "lsn" => RecoveryGoal::Lsn(target.parse().map_err(|e: pgbr::ManifestError| invalid(&e))?),
        "standby" => RecoveryGoal::Standby,
        "preserve" => RecoveryGoal::Preserve,
        "none" => RecoveryGoal::None,
        _ => RecoveryGoal::Default,
    })
}

/// The command by which the server gets WAL: this program, with the options that this run was given and a config file cannot know, and `more`.
pub(super) fn restore_command(context: &Context, more: &[String]) -> Result<String, CliError> {
    let settings = &context.settings;
    let program = program(settings)?;
    let mut words = vec![program];
    words.extend(settings.forwarded(Command::ArchiveGet));
    words.push(format!("--stanza={}", request::stanza(settings)?));
    words.extend(more.iter().cloned());
    let source = |key| settings.indexed("repo", key, "cipher-pass").source();
    // The server of a drill has the environment of this process.
    let elsewhere = settings.command() != Command::Drill;
    if elsewhere && settings.repo_keys().into_iter().any(|key| source(key) == Source::Environment) {
        context
            .log
            .warn("the passphrase comes from the environment: the server needs it there as well, to get WAL");
    }
    // The server replaces what follows a percent sign.
    Ok(format!("{} archive-get %f \"%p\"", words.join(" ").replace('%', "%%")))
}

/// This program as the server can call it: links are kept, for the name decides how it behaves.
fn program(settings: &Settings) -> Result<String, CliError> {
    let named = settings.get_str("cmd").map(PathBuf::from).filter(|path| path.is_absolute());
    let called = PathBuf::from(settings.program());
    let found = match named {
        Some(path) => Some(path),
        None if called.components().count() > 1 => std::path::absolute(&called).ok(),
        None => std::env::var_os("PATH").and_then(|path| {
            let mut places = std::env::split_paths(&path).map(|dir| dir.join(&called));
            places.find(|place| place.is_file()).and_then(|place| std::path::absolute(place).ok())
        }),
    };
    let found = found.or_else(|| std::env::current_exe().ok());
    let found = found
        .ok_or_else(|| CliError::new(ErrorCode::FileMissing, "unable to find the path of this program"))?;
    Ok(shell_word(&found.to_string_lossy()).into_owned())
}
