//! Events of the engine as log lines, and as a line of progress on a terminal.

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use pgbr::{AnyArchiveId, Event, Lock, LockProgress, Observer};

use crate::log::{Level, Logger};
use crate::size::format_size;

/// How often the line on the terminal and the lock file are renewed.
const REFRESH: Duration = Duration::from_millis(500);
/// A command that is done sooner shows no progress.
const DELAY: Duration = Duration::from_millis(500);

/// What is shown of a command: its log, the line on the terminal, the lock file.
pub(crate) struct Progress {
    log: Arc<Logger>,
    state: Mutex<State>,
    terminal: bool,
}

struct State {
    /// Not held: the lock goes when the command ends, whoever still listens then.
    locks: Vec<Weak<Lock>>,
    begun: Instant,
    shown: Instant,
    line: bool,
}

/// Listens to the engine at work on one repository.
pub(crate) struct RepoProgress {
    shown: Arc<Progress>,
    /// The number of the repository in the options.
    repo: u16,
    /// Whether the command works on others as well: then all that is said of this one names it.
    several: bool,
}

impl Progress {
    pub(crate) fn new(log: Arc<Logger>) -> Self {
        let now = Instant::now();
        let terminal = std::io::stderr().is_terminal();
        Self {
            log,
            state: Mutex::new(State { locks: Vec::new(), begun: now, shown: now, line: false }),
            terminal,
        }
    }

    /// A command begins, and holds these locks of the repositories that it works on.
    pub(crate) fn begin(&self, locks: &[Arc<Lock>]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let locks = locks.iter().map(Arc::downgrade).collect();
        *state = State { locks, begun: now, shown: now, line: state.line };
    }

    /// A listener to work on the repository with this key, which may be one of several.
    pub(crate) fn of_repo(self: &Arc<Self>, repo: u16, several: bool) -> RepoProgress {
        RepoProgress { shown: Arc::clone(self), repo, several }
    }

    /// Takes the line off the terminal.
    pub(crate) fn clear(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.line {
            write!(std::io::stderr(), "\r\x1b[K").ok();
            state.line = false;
        }
    }

    fn progress(&self, done: u64, total: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, elapsed) = (Instant::now(), state.begun.elapsed());
        if elapsed < DELAY || now.duration_since(state.shown) < REFRESH {
            return;
        }
        state.shown = now;
        for lock in state.locks.iter().filter_map(Weak::upgrade) {
            let percent = done.saturating_mul(10_000).checked_div(total).and_then(|p| u32::try_from(p).ok());
            let progress = LockProgress { percent, size: Some(total), size_complete: Some(done) };
            // Others would like to see how far we are; that they cannot is no reason to stop.
            lock.report(progress).ok();
        }
        if self.terminal {
            write!(std::io::stderr(), "\r\x1b[K{}", progress_line(done, total, elapsed)).ok();
            state.line = true;
        }
    }
}

fn progress_line(done: u64, total: u64, elapsed: Duration) -> String {
    let rate = (u128::from(done) * 1000)
        .checked_div(elapsed.as_millis())
        .and_then(|r| u64::try_from(r).ok())
        .unwrap_or(0);
    let left = total.saturating_sub(done).checked_div(rate);
    let percent = done.saturating_mul(100).checked_div(total.max(1)).unwrap_or(0).min(100);
    let left = left.map_or(String::new(), |s| format!(", {}:{:02} left", s / 60, s % 60));
    format!("{} of {} ({percent}%), {}/s{left}", format_size(done), format_size(total), format_size(rate))
}

impl Observer for RepoProgress {
    fn event(&self, event: &Event) {
        if let Event::Progress { done, total } = event {
            return self.shown.progress(*done, *total);
        }
        let (level, mut text) = describe(event, self.repo);
        if self.several && is_of_repository(event) {
            text = format!("repo{}: {text}", self.repo);
        }
        if self.shown.log.enabled(level) {
            self.shown.clear();
            self.shown.log.log(level, 0, &text);
        }
    }
}

/// Whether an event that does not name its repository by itself has to, where there are several.
const fn is_of_repository(event: &Event) -> bool {
    matches!(
        event,
        Event::Warning { .. }
            | Event::Note { .. }
            | Event::BackupCommitted { .. }
            | Event::WaitingForWal { .. }
    )
}

fn describe(event: &Event, repo: u16) -> (Level, String) {
    match event {
        Event::Expiring { expired } => {
            let labels: Vec<String> = expired.labels.iter().map(ToString::to_string).collect();
            let set = if labels.len() > 1 { "set " } else { "" };
            let (rule, labels) = (expired.rule, labels.join(", "));
            (Level::Info, format!("repo{repo}: expire {rule} backup {set}{labels}"))
        }
        Event::BackupExpired { label } => (Level::Info, format!("repo{repo}: remove expired backup {label}")),
        Event::UnfinishedRun { fate } => {
            let (label, packs, size) = (fate.label, fate.packs, format_size(fate.bytes));
            let text = match fate.keep {
                true => {
                    format!("{packs} pack(s) of {size} of unfinished backup {label} stay: {}", fate.reason)
                }
                false => format!("remove {packs} pack(s) of {size} of unfinished backup {label}"),
            };
            (Level::Info, format!("repo{repo}: {text}"))
        }
        Event::WalExpired { archive, start, stop } => {
            (Level::Info, format!("repo{repo}: {archive} remove archive, start = {start}, stop = {stop}"))
        }
        Event::NoWalExpired { archive } => {
            (Level::Info, format!("repo{repo}: {archive} no archive to remove"))
        }
        Event::WalPushed { file } => (Level::Detail, format!("pushed WAL file '{file}' to the archive")),
        Event::WalFetched { segment, repo, archive } => {
            (Level::Detail, found_in_archive(&segment.to_string(), *repo, *archive))
        }
        Event::Detail { text } => (Level::Detail, format!("repo{repo}: {text}")),
        Event::BackupStarting { fast: true } => (
            Level::Info,
            "execute backup start: backup begins after the requested immediate checkpoint completes"
                .to_owned(),
        ),
        Event::BackupStarting { .. } => (
            Level::Info,
            "execute backup start: backup begins after the next regular checkpoint completes".to_owned(),
        ),
        Event::BackupStarted { lsn, segment } => {
            (Level::Info, format!("backup start archive = {segment}, lsn = {lsn}"))
        }
        Event::CopyStarted { estimate } => (Level::Detail, format!("copy about {}", format_size(*estimate))),
        Event::File { path, size } => (Level::Detail, format!("file {path} ({})", format_size(*size))),
        Event::BackupStopping => {
            (Level::Info, "execute backup stop and wait for all WAL segments to archive".to_owned())
        }
        Event::BackupStopped { lsn, segment } => {
            (Level::Info, format!("backup stop archive = {segment}, lsn = {lsn}"))
        }
        Event::CheckingCluster { standby: true } => (Level::Info, format!("check repo{repo} (standby)")),
        Event::CheckingCluster { standby: false } => {
            (Level::Info, format!("check repo{repo} configuration (primary)"))
        }
        Event::CheckingArchive => (Level::Info, format!("check repo{repo} archive for WAL (primary)")),
        Event::WaitingForWal { prior: true, last, .. } => {
            (Level::Info, format!("check archive for prior segment {last}"))
        }
        Event::WaitingForWal { first, last, .. } => {
            (Level::Info, format!("check archive for segment(s) {first}:{last}"))
        }
        Event::BackupCommitted { label } => (Level::Info, format!("new backup label = {label}")),
        Event::RestoreStarting { label, from } => {
            let from = from.as_ref().map_or(String::new(), |from| format!(", recovery will start at {from}"));
            (Level::Info, format!("repo{repo}: restore backup set {label}{from}"))
        }
        Event::Removing { path } => (Level::Detail, format!("remove '{}'", path.display())),
        Event::Step { name, took } => (Level::Detail, format!("step {name} took {}ms", took.as_millis())),
        Event::Warning { text } => (Level::Warn, text.clone()),
        Event::Note { text } => (Level::Info, text.clone()),
        Event::ConfigFile { path } => (
            Level::Info,
            format!(
                "the backup holds configuration file '{}', which lies outside of the data directory",
                path.display()
            ),
        ),
        other => (Level::Debug, format!("{other:?}")),
    }
}

/// That a WAL file was found, and where.
pub(crate) fn found_in_archive(file: &str, repo: u16, archive: Option<AnyArchiveId>) -> String {
    match archive {
        Some(archive) => format!("found {file} in the repo{repo}: {archive} archive"),
        None => format!("found {file} in the archive asynchronously"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_tells_bytes_rate_and_time_left() {
        let line = progress_line(100 << 20, 1 << 30, Duration::from_secs(10));
        assert_eq!(line, "100MB of 1GB (9%), 10MB/s, 1:32 left");
        assert_eq!(progress_line(0, 0, Duration::from_secs(1)), "0B of 0B (0%), 0B/s");
    }
}
