//! The record elsewhere (`witness-path`): kept by commands that write, compared with by verify.

use pgbr::{Host, KeyReport, VerifyWitness, WitnessFile, witness_forget, witness_keep, witness_keep_keys};

use crate::exit::{CliError, ErrorCode};
use crate::request;
use crate::run::Context;
use crate::settings::Settings;

/// Brings the record of a repository up to what the command has left there. What was done is done: that it cannot be noted is a warning.
pub(super) async fn keep(context: &Context, host: &Host, key: u16) {
    let Some(file) = request::witness(&context.settings, key) else { return };
    let kept = async {
        let (repo, stanza) = (request::repo_of(&context.settings, key)?, request::stanza(&context.settings)?);
        witness_keep(host, &repo, &stanza, &file).await.map_err(|e| context.failure(&e))
    };
    match kept.await {
        Ok(contradicted) => {
            for text in contradicted {
                context.log.warn(&format!(
                    "repo{key}: {text}\nHINT: the record in '{}' says otherwise; run verify --quick for what can be done.",
                    file.path().display()
                ));
            }
        }
        Err(error) => warn(context, key, &error),
    }
}

/// The same after a change of what opens the repository, in the records of all its stanzas.
pub(super) async fn keep_keys(context: &Context, host: &Host, key: u16, report: &KeyReport) {
    let Some(directory) = context.settings.get_path("witness-path") else { return };
    let kept = async {
        let files = WitnessFile::all_of(directory, key)?;
        witness_keep_keys(host, report, &files).await
    };
    if let Err(error) = kept.await {
        warn(context, key, &context.failure(&error));
    }
}

/// Takes the record of a stanza away that is deleted.
pub(super) async fn forget(context: &Context, host: &Host, key: u16) {
    let Some(file) = request::witness(&context.settings, key) else { return };
    if let Err(error) = witness_forget(host, &file).await {
        warn(context, key, &context.failure(&error));
    }
}

fn warn(context: &Context, key: u16, error: &CliError) {
    context.log.warn(&format!("repo{key}: the record of the repository is not up to date: {}", error.text()));
}

/// The record that verify compares with.
pub(super) fn to_compare(settings: &Settings, key: u16) -> Result<Option<VerifyWitness>, CliError> {
    let (named, accept) = (settings.get_path("witness"), settings.get_bool("witness-accept"));
    let invalid = |message: &str| Err(CliError::new(ErrorCode::OptionInvalid, message));
    if named.is_some() && settings.repo_keys().len() > 1 {
        return invalid("option 'witness' is valid for one repository: name it by the option 'repo'");
    }
    if accept && settings.get_str("set").is_some() {
        return invalid("option 'witness-accept' is not valid with option 'set'");
    }
    let file = named.map(WitnessFile::at).or_else(|| request::witness(settings, key));
    if accept && file.is_none() {
        return invalid("option 'witness-accept' is valid with option 'witness' or 'witness-path' only");
    }
    Ok(file.map(|file| VerifyWitness { file, required: named.is_some(), accept }))
}
