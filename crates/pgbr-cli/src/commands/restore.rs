//! restore.

use std::path::{Path, PathBuf};

use pgbr::{Databases, Existing, Host, Places, RecoveryAction, RecoveryGoal, RestoreRequest, restore};

use super::restore_plan;
use crate::exit::{CliError, ErrorCode};
use crate::options::Command;
use crate::request;
use crate::run::{Context, Outcome};
use crate::settings::{Settings, shell_word};
use crate::size::format_size;

pub(super) async fn run(context: &Context, host: &Host) -> Outcome {
    let request = build(context)?;
    if context.settings.get_bool("dry-run") {
        return restore_plan::run(context, host, request).await;
    }
    let log = &context.log;
    let report = restore(host, request).await.map_err(|e| context.failure(&e))?;
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
    Ok(0)
}

fn build(context: &Context) -> Result<RestoreRequest, CliError> {
    let settings = &context.settings;
    let set = match settings.get_str("set") {
        None | Some("latest") => None,
        Some(label) => Some(label.parse().map_err(|e: pgbr::ManifestError| invalid(&e))?),
    };
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
    let action = match settings.get_str("target-action") {
        Some("promote") => RecoveryAction::Promote,
        Some("shutdown") => RecoveryAction::Shutdown,
        _ => RecoveryAction::Pause,
    };
    Ok(RestoreRequest {
        repo: request::repo(settings)?,
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
        restore_command: restore_command(context)?,
        recovery_options: settings.get_hash("recovery-option").to_vec(),
        archive_off: settings.get_str("archive-mode") == Some("off"),
        threads: request::threads(settings),
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

/// The command by which the server gets WAL: this program, with the options that this run was given and a config file cannot know.
fn restore_command(context: &Context) -> Result<String, CliError> {
    let settings = &context.settings;
    let program = program(settings)?;
    let mut words = vec![program];
    words.extend(settings.forwarded(Command::ArchiveGet));
    words.push(format!("--stanza={}", request::stanza(settings)?));
    if settings.indexed("repo", settings.repo_key(), "cipher-pass").source()
        == crate::settings::Source::Environment
    {
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
