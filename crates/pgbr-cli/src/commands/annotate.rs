//! annotate: notes on a backup, and holds.

use pgbr::{AnnotateRequest, BackupLabel, Error, Host, NoteChanges, RepoAccess, StanzaName, annotate};

use super::each::each;
use crate::exit::{CliError, ErrorCode};
use crate::request;
use crate::run::{Context, Outcome};

/// Annotates the backup wherever it is.
pub(super) async fn run(context: &Context, host: &Host) -> Outcome {
    let settings = &context.settings;
    let (stanza, set) = (request::stanza(settings)?, set(context)?);
    let value = |value: &String| (!value.is_empty()).then(|| value.clone());
    let changes: NoteChanges =
        settings.get_hash("annotation").iter().map(|(key, v)| (key.clone(), value(v))).collect();
    let several = settings.repo_keys().len() > 1;
    let mut found = false;
    let step = async |key, repo| {
        let host = context.host_of(host, key);
        match annotate_one(context, &host, (key, repo), &stanza, set, &changes).await {
            Err(Error::UnknownBackup { .. }) if several => {
                context.log.warn(&format!("repo{key}: backup set '{set}' to annotate not found"));
                Ok(())
            }
            done => {
                found = true;
                done.map_err(|e| context.failure(&e))
            }
        }
    };
    let done = each(context, step).await?;
    if found { Ok(done) } else { Err(context.failure(&Error::UnknownBackup { label: set })) }
}

fn set(context: &Context) -> Result<BackupLabel, CliError> {
    let set = context.settings.get_str("set").unwrap_or_default().parse::<BackupLabel>();
    set.map_err(|e| CliError::new(ErrorCode::OptionInvalidValue, e.to_string()))
}

async fn annotate_one(
    context: &Context,
    host: &Host,
    (key, repo): (u16, RepoAccess),
    stanza: &StanzaName,
    set: BackupLabel,
    changes: &NoteChanges,
) -> Result<(), Error> {
    if !changes.is_empty() {
        let (repo, stanza, changes) = (repo.clone(), stanza.clone(), changes.clone());
        let report = annotate(host, AnnotateRequest { repo, stanza, set, changes }).await?;
        context.log.info(&format!("backup set '{set}' to annotate found in repo{key}"));
        context.log.detail(&format!("the annotations are note {} of the backup", report.number));
    }
    super::hold::apply(context, host, (key, repo), stanza.clone(), set).await
}
