//! archive-push and archive-get, as PostgreSQL calls them, and the workers that they start.

mod background;

use std::path::PathBuf;

use pgbr::{
    ArchiveGetRequest, ArchivePushRequest, Got, HandOverRequest, HandedOver, Host, PushOutcome, ReadAhead,
    archive_get, archive_get_ahead, archive_push, archive_queue_exceeded, hand_over,
};

use crate::exit::{CliError, EXIT_NOT_FOUND, ErrorCode};
use crate::options::Role;
use crate::progress::found_in_archive;
use crate::request;
use crate::run::{Context, Outcome};
use crate::size::format_size;

pub(super) async fn push(context: &Context, host: &Host) -> Outcome {
    if context.settings.role() == Role::Async {
        return background::push(context, host).await;
    }
    let settings = &context.settings;
    let [path] = settings.params() else {
        return Err(CliError::new(ErrorCode::ParamRequired, "WAL segment to push required"));
    };
    let (name, file) = (path.rsplit('/').next().unwrap_or(path), place(context, path)?);
    let queue_max = settings.get_size("archive-push-queue-max");
    if settings.get_bool("archive-async") {
        let request = HandOverRequest {
            spool: background::spool(settings),
            stanza: request::stanza(settings)?,
            scope: settings.scope(),
            file: file.clone(),
            lock: background::lock(settings),
            timeout: request::archive_timeout(settings),
            queue_max,
        };
        let start = background::starter(settings, file.parent());
        match hand_over(host, &request, &start).await.map_err(|e| context.failure(&e))? {
            HandedOver::Archived { warning } => {
                warning.lines().for_each(|line| context.log.warn(line));
                context.log.info(&format!("pushed WAL file '{name}' to the archive asynchronously"));
                return Ok(0);
            }
            HandedOver::Dropped { queue } => return Ok(dropped(context, name, queue)),
            HandedOver::NotQueued => {}
        }
    } else if let Some(max) = queue_max
        && let Some(queue) = archive_queue_exceeded(&file, max).map_err(|e| context.failure(&e))?
    {
        return Ok(dropped(context, name, queue));
    }
    push_here(context, host, name, file).await
}

/// Pushes a file in this process.
async fn push_here(context: &Context, host: &Host, name: &str, file: PathBuf) -> Outcome {
    let (settings, log) = (&context.settings, &context.log);
    let request = ArchivePushRequest {
        repos: request::repos(settings)?,
        stanza: request::stanza(settings)?,
        file,
        compression: request::compression(settings)?,
        threads: request::threads(settings),
        header_check: settings.get_bool("archive-header-check"),
        facts: request::facts(settings),
    };
    for (key, outcome) in archive_push(host, request).await.map_err(|e| context.failure(&e))? {
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

/// The server is told that a file is archived which is not, as the operator wants it rather than a full disk.
fn dropped(context: &Context, name: &str, queue: u64) -> u8 {
    let settings = &context.settings;
    let max = settings.get_size("archive-push-queue-max").unwrap_or_default();
    context.log.warn(&format!(
        "dropped WAL file '{name}' because archive queue exceeded {}\n\
         HINT: {} of WAL were waiting. The archive has a hole now: nothing can be restored to a moment behind it until another backup is made.",
        format_size(max),
        format_size(queue)
    ));
    0
}

pub(super) async fn get(context: &Context, host: &Host) -> Outcome {
    if context.settings.role() == Role::Async {
        return background::get(context, host).await;
    }
    let settings = &context.settings;
    let [file, destination] = settings.params() else {
        return Err(match settings.params().len() {
            0 => CliError::new(ErrorCode::ParamRequired, "WAL segment to get required"),
            1 => CliError::new(ErrorCode::ParamRequired, "path to copy WAL segment required"),
            _ => CliError::new(ErrorCode::ParamInvalid, "extra parameters found"),
        });
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
    let got = if settings.get_bool("archive-async") {
        let ahead = ReadAhead {
            spool: background::spool(settings),
            scope: settings.scope(),
            lock: background::lock(settings),
        };
        let pg_data = request.pg_data.clone();
        let start = background::starter(settings, pg_data.as_deref());
        archive_get_ahead(host, request, &ahead, &start).await.map(|(got, _)| got)
    } else {
        archive_get(host, request).await
    };
    match got.map_err(|e| context.failure(&e))? {
        Got::Found { repo, archive } => {
            context.log.info(&found_in_archive(file, repo, archive));
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
