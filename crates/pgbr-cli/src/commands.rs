//! One file a command: request in, engine call, result out.

mod annotate;
mod archive;
mod backup;
mod check;
mod drill;
mod each;
mod expire;
mod hold;
mod info;
mod info_json;
mod info_text;
mod keys;
mod manifest;
mod repo;
mod repo_copy;
mod requests;
mod restore;
mod restore_plan;
mod stanza;
mod stop;
mod theirs;
mod verify;
mod verify_text;
mod witness;

use std::path::PathBuf;

use pgbr::{Host, RecoveryMode};

use crate::exit::{CliError, EXIT_STOP_RECOVERY, ErrorCode};
use crate::options::Command;
use crate::request;
use crate::run::{Context, Outcome};
use crate::settings::Settings;

/// Runs the command.
pub(crate) async fn run(context: &Context, host: &Host) -> Outcome {
    match context.settings.command() {
        Command::Annotate => annotate::run(context, host).await,
        Command::ArchiveGet => archive::get(context, host).await,
        Command::ArchivePush => archive::push(context, host).await,
        Command::Backup => backup::run(context, host).await,
        Command::Check => check::run(context, host).await,
        Command::Drill => drill::run(context, host).await,
        Command::Expire => expire::run(context, host).await,
        Command::Info => info::run(context, host).await,
        Command::KeyAdd | Command::KeyChange | Command::KeyRemove | Command::KeyRotate => {
            keys::change(context, host).await
        }
        Command::KeyExport => keys::export(context, host).await,
        Command::KeyImport => keys::import(context, host).await,
        Command::KeyList => keys::list(context, host).await,
        Command::Manifest => manifest::run(context, host).await,
        Command::RepoCopy => repo_copy::run(context, host).await,
        Command::RepoGet => repo::get(context, host).await,
        Command::RepoLs => repo::ls(context).await,
        Command::RepoRm => repo::rm(context, host).await,
        Command::Restore => restore::run(context, host).await,
        Command::StanzaCreate => stanza::create(context, host).await,
        Command::StanzaDelete => stanza::delete(context, host).await,
        Command::StanzaUpgrade => stanza::upgrade(context, host).await,
        Command::Start => stop::start(context),
        Command::Stop => stop::stop(context),
        Command::Verify => verify::run(context, host).await,
        command => {
            let message = format!("command '{}' is not supported yet", command.name());
            Err(CliError::new(ErrorCode::FeatureNotSupported, message))
        }
    }
}

/// The exit code of a command that failed. For `archive-get` it is a message to the server, which takes almost every failure for the
/// end of the WAL: one that would promote is stopped, one that follows tries again.
pub(crate) fn failure_exit(settings: &Settings, code: ErrorCode) -> u8 {
    if settings.command() != Command::ArchiveGet {
        return code.number();
    }
    archive_get_exit(request::pg_data(settings), code.number())
}

/// The exit code of an `archive-get` that failed with `number`. The server runs it in its data directory, so that is where to look
/// first; `pg_data` is where the options say it is.
pub(crate) fn archive_get_exit(pg_data: Option<PathBuf>, number: u8) -> u8 {
    let places = [Some(PathBuf::from(".")), pg_data];
    let mut modes = places.into_iter().flatten().map(|place| pgbr::recovery_mode(&place));
    match modes.find(|mode| *mode != RecoveryMode::None) {
        Some(RecoveryMode::Promotes) => EXIT_STOP_RECOVERY,
        _ => number,
    }
}
