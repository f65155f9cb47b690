//! check.

use pgbr::{CheckRequest, Host, check};

use crate::request;
use crate::run::{Context, Outcome};

pub(super) async fn run(context: &Context, host: &Host) -> Outcome {
    let settings = &context.settings;
    let key = settings.repo_key();
    let repo = request::repo(settings)?;
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
    let report = check(host, request).await.map_err(|e| context.failure(&e))?;
    match report.segment {
        Some(segment) => {
            context
                .log
                .info(&format!("WAL segment {segment} successfully archived to '{place}' on repo{key}"));
        }
        None if report.standby => context.log.info("the server is a standby: switching WAL was not tried"),
        None => {}
    }
    Ok(0)
}
