//! check.

use pgbr::{CheckRequest, Host, RepoAccess, check};

use super::each::each;
use crate::exit::CliError;
use crate::request;
use crate::run::{Context, Outcome};

pub(super) async fn run(context: &Context, host: &Host) -> Outcome {
    each(context, async |key, repo| check_one(context, host, key, repo).await).await
}

async fn check_one(context: &Context, host: &Host, key: u16, repo: RepoAccess) -> Result<(), CliError> {
    let settings = &context.settings;
    let place = repo.place.to_string();
    context.log.info(&format!("check repo{key} configuration (primary)"));
    let request = CheckRequest {
        repo,
        stanza: request::stanza(settings)?,
        cluster: request::cluster(settings, &context.env, &context.log)?,
        others: request::other_clusters(settings, &context.env, &context.log)?,
        standby: request::standby(settings),
        archive_check: settings.get_bool("archive-check"),
        archive_mode_check: settings.get_bool("archive-mode-check"),
        archive_timeout: request::archive_timeout(settings),
        archive_program: settings.flavor().program().to_owned(),
    };
    let host = context.host_of(host, key);
    let report = check(&host, request).await.map_err(|e| context.failure(&e))?;
    match report.segment {
        Some(segment) => {
            context
                .log
                .info(&format!("WAL segment {segment} successfully archived to '{place}' on repo{key}"));
        }
        None if report.standby => context.log.info("the server is a standby: switching WAL was not tried"),
        None => {}
    }
    Ok(())
}
