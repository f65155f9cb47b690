//! What pgBackRest still holds beside ours: told by expire once ours is enough, and removed by `expire --pgbackrest-remove` alone.

use std::path::{Path, PathBuf};

use pgbr::{Host, RepoAccess, TheirRest, TheirsRemoveRequest, theirs_remove, theirs_rest};

use super::each::each;
use crate::exit::{CliError, ErrorCode};
use crate::request;
use crate::run::{Context, Outcome};
use crate::settings::Source;
use crate::size::format_size;

/// Where pgBackRest has its locks unless it is told otherwise.
const THEIR_LOCKS: &str = "/tmp/pgbackrest";

/// Says how much pgBackRest holds of the stanza, and how that goes. That it cannot be found out is no failure of an expire.
pub(super) async fn tell_rest(context: &Context, key: u16) {
    let settings = &context.settings;
    let found = async {
        let (repo, stanza) = (request::repo_of(settings, key)?, request::stanza(settings)?);
        let rest = theirs_rest(&repo, &stanza).await.map_err(|e| context.failure(&e))?;
        Ok::<_, CliError>((rest, stanza))
    };
    match found.await {
        Ok((rest, _)) if rest.objects == 0 => {}
        Ok((rest, stanza)) => {
            let repo = if settings.keys("repo").len() > 1 { format!(" --repo={key}") } else { String::new() };
            let program = settings.flavor().program();
            context.log.info(&format!(
                "repo{key}: pgBackRest still holds {} of stanza '{stanza}', and retention is satisfied without it\n\
                 HINT: remove it with '{program} --stanza={stanza}{repo} expire --pgbackrest-remove'.",
                size(&rest)
            ));
        }
        Err(error) => context
            .log
            .warn(&format!("repo{key}: what pgBackRest still holds cannot be found out: {}", error.text())),
    }
}

/// `expire --pgbackrest-remove`.
pub(super) async fn remove(context: &Context, host: &Host) -> Outcome {
    let settings = &context.settings;
    for other in ["set", "oldest", "archive-expire-before"] {
        if settings.source(other) != Source::Default {
            let message = format!("option '{other}' is not valid with option 'pgbackrest-remove'");
            return Err(CliError::new(ErrorCode::OptionInvalid, message)
                .hint("what pgBackRest has of a stanza is removed as a whole: its list of backups is never written anew."));
        }
    }
    each(context, async |key, repo| remove_one(context, host, key, repo).await).await
}

async fn remove_one(context: &Context, host: &Host, key: u16, repo: RepoAccess) -> Result<(), CliError> {
    let (settings, stanza) = (&context.settings, request::stanza(&context.settings)?);
    let mut lock_paths: Vec<PathBuf> = vec![PathBuf::from(THEIR_LOCKS)];
    lock_paths.extend(settings.get_path("lock-path").filter(|path| *path != THEIR_LOCKS).map(Path::to_owned));
    let dry_run = settings.get_bool("dry-run");
    let request = TheirsRemoveRequest {
        repo,
        stanza: stanza.clone(),
        lock_paths,
        exec_id: context.exec_id.clone(),
        dry_run,
    };
    let host = context.host_of(host, key);
    let rest = theirs_remove(&host, request).await.map_err(|e| context.failure(&e))?;
    let done = if dry_run { "would be removed" } else { "is removed" };
    context.log.info(&match rest.objects {
        0 => format!("repo{key}: pgBackRest has nothing of stanza '{stanza}'"),
        _ => format!(
            "repo{key}: what pgBackRest had of stanza '{stanza}' {done}, {} of backups and WAL",
            size(&rest)
        ),
    });
    Ok(())
}

fn size(rest: &TheirRest) -> String {
    let size = format_size(rest.bytes);
    if rest.more { format!("more than {size}") } else { size }
}
