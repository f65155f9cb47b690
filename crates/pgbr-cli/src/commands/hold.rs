//! The options hold and hold-reason, of the commands that make or annotate a backup.

use pgbr::{BackupLabel, HoldRequest, Host, ReleaseHoldRequest, hold, release_hold};

use crate::exit::CliError;
use crate::request;
use crate::run::Context;

/// Puts a backup on hold where the options ask for it, or releases its holds where they ask for that.
pub(super) async fn apply(context: &Context, host: &Host, label: BackupLabel) -> Result<(), CliError> {
    let settings = &context.settings;
    let Some(wanted) = settings.entry("hold").as_bool() else { return Ok(()) };
    let (repo, stanza) = (request::repo(settings)?, request::stanza(settings)?);
    if wanted {
        let reason = settings.get_str("hold-reason").unwrap_or_default().to_owned();
        let held = hold(host, HoldRequest { repo, stanza, label, reason }).await;
        held.map_err(|e| context.failure(&e))?;
        context.log.info(&format!("backup {label} is on hold"));
    } else {
        let released = release_hold(host, ReleaseHoldRequest { repo, stanza, label, id: None }).await;
        let released = released.map_err(|e| context.failure(&e))?;
        context.log.info(&format!("{released} hold(s) of backup {label} released"));
    }
    Ok(())
}
