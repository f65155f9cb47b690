//! annotate: notes on a backup, and holds.

use pgbr::{AnnotateRequest, Host, annotate};

use crate::exit::{CliError, ErrorCode};
use crate::request;
use crate::run::{Context, Outcome};

pub(super) async fn run(context: &Context, host: &Host) -> Outcome {
    let settings = &context.settings;
    let set = settings.get_str("set").unwrap_or_default();
    let value = |value: &String| (!value.is_empty()).then(|| value.clone());
    let request = AnnotateRequest {
        repo: request::repo(settings)?,
        stanza: request::stanza(settings)?,
        set: set
            .parse()
            .map_err(|e: pgbr::ManifestError| CliError::new(ErrorCode::OptionInvalidValue, e.to_string()))?,
        changes: settings.get_hash("annotation").iter().map(|(key, v)| (key.clone(), value(v))).collect(),
    };
    let (set, key) = (request.set, settings.repo_key());
    if !request.changes.is_empty() {
        let report = annotate(host, request).await.map_err(|e| context.failure(&e))?;
        context.log.info(&format!("backup set '{set}' to annotate found in repo{key}"));
        context.log.detail(&format!("the annotations are note {} of the backup", report.number));
    }
    super::hold::apply(context, host, set).await?;
    Ok(0)
}
