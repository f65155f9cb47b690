//! archive-push and archive-get, as PostgreSQL calls them.

use std::path::PathBuf;

use pgbr::{ArchiveGetRequest, ArchivePushRequest, Got, Host, PushOutcome, archive_get, archive_push};

use crate::exit::{CliError, EXIT_NOT_FOUND, ErrorCode};
use crate::request;
use crate::run::{Context, Outcome};

pub(super) async fn push(context: &Context, host: &Host) -> Outcome {
    let settings = &context.settings;
    let [path] = settings.params() else {
        return Err(CliError::new(ErrorCode::ParamRequired, "WAL segment to push required"));
    };
    let request = ArchivePushRequest {
        repos: request::repos(settings)?,
        stanza: request::stanza(settings)?,
        file: place(context, path)?,
        compression: request::compression(settings)?,
        threads: request::threads(settings),
        header_check: settings.get_bool("archive-header-check"),
        facts: request::facts(settings),
    };
    let outcomes = archive_push(host, request).await.map_err(|e| context.failure(&e))?;
    let name = path.rsplit('/').next().unwrap_or(path);
    let log = &context.log;
    for (key, outcome) in outcomes {
        match outcome {
            PushOutcome::SameAlreadyThere => {
                log.warn(&format!(
                    "WAL file '{name}' already exists in the repo{key} archive with the same content"
                ));
            }
            PushOutcome::PartialKept { object } => {
                log.warn(&format!("'{name}' exists with other content, this one is kept as '{object}'"));
            }
            _ => {}
        }
    }
    log.info(&format!("pushed WAL file '{name}' to the archive"));
    Ok(0)
}

pub(super) async fn get(context: &Context, host: &Host) -> Outcome {
    let settings = &context.settings;
    let [file, destination] = settings.params() else {
        let missing = if settings.params().is_empty() {
            "WAL segment to get required"
        } else {
            "path to copy WAL segment required"
        };
        return Err(CliError::new(ErrorCode::ParamRequired, missing));
    };
    let request = ArchiveGetRequest {
        repos: request::repos(settings)?,
        stanza: request::stanza(settings)?,
        file: file.clone(),
        destination: place(context, destination)?,
        pg_data: request::pg_data_here(settings),
        timeout: request::archive_timeout(settings),
        facts: request::facts(settings),
    };
    match archive_get(host, request).await.map_err(|e| context.failure(&e))? {
        Got::Found { repo } => {
            context.log.info(&format!("found {file} in the repo{repo}: archive"));
            Ok(0)
        }
        Got::Missing => {
            context.log.info(&format!("unable to find {file} in the archive"));
            Ok(EXIT_NOT_FOUND)
        }
    }
}

/// PostgreSQL gives paths relative to its data directory, which is where it runs its commands. Where that is another one than the
/// options say (a copy that was restored elsewhere and kept the configuration), files of another cluster would be taken or written.
fn place(context: &Context, path: &str) -> Result<PathBuf, CliError> {
    let path = PathBuf::from(path);
    let Some(pg_data) = request::pg_data_here(&context.settings).filter(|_| path.is_relative()) else {
        return Ok(path);
    };
    let here = std::env::current_dir().unwrap_or_default();
    let same = request::is_same(&here, &pg_data);
    if !same && here.join("PG_VERSION").is_file() {
        let message =
            format!("pg1-path '{}' does not match working directory '{}'", pg_data.display(), here.display());
        return Err(CliError::new(ErrorCode::OptionInvalidValue, message)
            .hint("does the PostgreSQL data_directory match the configured pg1-path?"));
    }
    Ok(pg_data.join(path))
}
