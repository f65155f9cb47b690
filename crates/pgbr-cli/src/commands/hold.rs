//! The options hold and hold-reason, of the commands that make or annotate a backup.

use pgbr::{
    BackupLabel, Error, HoldRequest, Host, ReleaseHoldRequest, RepoAccess, StanzaName, hold, release_hold,
};

use crate::run::Context;

/// Puts a backup of a repository on hold where the options ask for it, or releases its holds where they ask for that.
pub(super) async fn apply(
    context: &Context,
    host: &Host,
    (key, repo): (u16, RepoAccess),
    stanza: StanzaName,
    label: BackupLabel,
) -> Result<(), Error> {
    let settings = &context.settings;
    let Some(wanted) = settings.entry("hold").as_bool() else { return Ok(()) };
    let place = if settings.repo_keys().len() > 1 { format!(" in repo{key}") } else { String::new() };
    if wanted {
        let reason = settings.get_str("hold-reason").unwrap_or_default().to_owned();
        hold(host, HoldRequest { repo, stanza, label, reason }).await?;
        context.log.info(&format!("backup {label}{place} is on hold"));
    } else {
        let released = release_hold(host, ReleaseHoldRequest { repo, stanza, label, id: None }).await?;
        context.log.info(&format!("{released} hold(s) of backup {label}{place} released"));
    }
    Ok(())
}
