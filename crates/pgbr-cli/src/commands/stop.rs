//! stop and start.

use std::path::Path;

use pgbr::{HeldLock, StanzaName};
use rustix::process::{Pid, Signal, kill_process};

use crate::log::Logger;
use crate::request;
use crate::run::{Context, Outcome};

/// Where nothing is configured otherwise.
const LOCK_PATH: &str = "/tmp/pgbr";

pub(super) fn stop(context: &Context) -> Outcome {
    let (directory, stanza) = place(context)?;
    let made = pgbr::create_stop_file(directory, stanza.as_ref()).map_err(|e| context.failure(&e.into()))?;
    if !made {
        context.log.warn(&format!("stop file already exists for {}", whom(stanza.as_ref())));
    }
    // After the file: whoever takes a lock later finds it.
    if context.settings.get_bool("force") {
        let held = pgbr::held_locks(directory, stanza.as_ref()).map_err(|e| context.failure(&e.into()))?;
        held.iter().for_each(|lock| end(&context.log, lock));
    }
    Ok(0)
}

pub(super) fn start(context: &Context) -> Outcome {
    let (directory, stanza) = place(context)?;
    let removed =
        pgbr::remove_stop_file(directory, stanza.as_ref()).map_err(|e| context.failure(&e.into()))?;
    if !removed {
        let whose = stanza.as_ref().map_or_else(String::new, |stanza| format!(" for stanza {stanza}"));
        context.log.warn(&format!("stop file does not exist{whose}"));
    }
    if let Some(stanza) = &stanza
        && pgbr::stop_file(directory, None).map_err(|e| context.failure(&e.into()))?.is_some()
    {
        let program = context.settings.flavor().program();
        context.log.warn(&format!(
            "stanza {stanza} stays stopped: a stop file exists for all stanzas\nHINT: use '{program} start' without the stanza option."
        ));
    }
    Ok(0)
}

fn place(context: &Context) -> Result<(&Path, Option<StanzaName>), crate::exit::CliError> {
    let settings = &context.settings;
    let stanza = settings.stanza().map(|_| request::stanza(settings)).transpose()?;
    Ok((settings.get_path("lock-path").unwrap_or(Path::new(LOCK_PATH)), stanza))
}

fn whom(stanza: Option<&StanzaName>) -> String {
    stanza.map_or_else(|| "all stanzas".to_owned(), |stanza| format!("stanza {stanza}"))
}

/// Asks the process that holds a lock to end. It must be the one that the lock file names: numbers of another container mean another process.
fn end(log: &Logger, lock: &HeldLock) {
    let path = lock.path.display();
    let Some(number) = lock.holder.pid else {
        log.warn(&format!("unable to send term signal: lock file '{path}' does not say who holds it"));
        return;
    };
    let pid = i32::try_from(number).ok().and_then(Pid::from_raw).filter(|_| lock.confirmed);
    let Some(pid) = pid else {
        log.warn(&format!(
            "unable to send term signal to process {number}: it is not a process of this machine or container that holds '{path}'"
        ));
        return;
    };
    match kill_process(pid, Signal::TERM) {
        Ok(()) => log.info(&format!("sent term signal to process {number}")),
        Err(error) => log.warn(&format!("unable to send term signal to process {number}: {error}")),
    }
}
