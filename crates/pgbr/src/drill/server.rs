//! The server of a drill: a child in a group of its own, which ends however the drill does.

use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};

use super::sandbox;
use super::settings::PORT;
use super::tool::{PAUSE, kill_group, last_bytes, pid_of};
use crate::error::{Error, Result};
use pgbr_pg::{ConnectOptions, Session};

/// How long an orderly end may take.
const FAST: Duration = Duration::from_secs(120);
/// How long giving up may take; the server itself kills its processes after five seconds.
const IMMEDIATE: Duration = Duration::from_secs(15);
/// How long a connection may take, once the server says that it is ready.
const CONNECT: Duration = Duration::from_secs(60);
/// The longest words of a log that are told, in characters.
const MAX_WORDS: usize = 2000;
/// The most lines of a log that are told.
const MAX_LINES: usize = 10;

/// A running server. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Server {
    /// None once it has ended.
    child: Option<Child>,
    directory: PathBuf,
    pg_data: PathBuf,
    log: PathBuf,
}

/// What became of a recovery.
#[derive(Debug)]
pub(super) enum Recovered {
    /// The server takes writes.
    Writable,
    /// It did not come so far; the words say why.
    Failed(String),
}

impl Server {
    /// Starts it on `pg_data`; socket and log lie in `directory`. It can write below `writable` only, where that can be had: true then.
    pub(super) fn start(
        program: &Path,
        directory: &Path,
        pg_data: &Path,
        settings: &[(String, String)],
        writable: &[&Path],
    ) -> Result<(Self, bool)> {
        let log = directory.join("server.log");
        let file = OpenOptions::new().create_new(true).append(true).open(&log);
        let file = file.map_err(Error::io("create", &log))?;
        let errors = file.try_clone().map_err(Error::io("open", &log))?;
        let mut command = Command::new(program);
        command.arg("-D").arg(pg_data);
        for (name, value) in settings {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        // A group of its own: what ends this process by a key does not end the server before its files are seen to.
        command.process_group(0).current_dir(directory).stdin(Stdio::null()).stdout(file).stderr(errors);
        let (child, confined) = sandbox::spawn(command, writable).map_err(Error::io("run", program))?;
        let server =
            Self { child: Some(child), directory: directory.to_owned(), pg_data: pg_data.to_owned(), log };
        Ok((server, confined))
    }

    /// Waits until recovery has ended and the server takes writes, or that is not to be expected any more.
    pub(super) async fn recovered(&mut self, limit: Duration, user: &str) -> Result<Recovered> {
        let begun = Instant::now();
        while !self.says_ready() {
            if let Some(status) = self.has_ended()? {
                let words = words_of(&last_bytes(&self.log));
                return Ok(Recovered::Failed(format!(
                    "the server ended before it had recovered ({status}): {words}"
                )));
            }
            if begun.elapsed() >= limit {
                let words = words_of(&last_bytes(&self.log));
                let limit = limit.as_secs();
                return Ok(Recovered::Failed(format!("recovery did not end within {limit} s: {words}")));
            }
            tokio::time::sleep(PAUSE).await;
        }
        // Its word is good for the socket; a session tells whether it can be worked with.
        Ok(match self.session("template1", user, CONNECT).await {
            Ok(session) => match session.is_in_recovery().await {
                Ok(false) => Recovered::Writable,
                Ok(true) => Recovered::Failed("the server is ready, and still in recovery".to_owned()),
                Err(error) => Recovered::Failed(crate::error::with_causes(&error)),
            },
            // That says nothing about the backup.
            Err(source) if refuses_user(&source) => {
                return Err(Error::DrillUser { user: user.to_owned(), source });
            }
            Err(error) => Recovered::Failed(crate::error::with_causes(&error)),
        })
    }

    /// A session as the superuser of the restored cluster.
    pub(super) async fn session(
        &self,
        database: &str,
        user: &str,
        limit: Duration,
    ) -> Result<Session, pgbr_pg::Error> {
        let options = ConnectOptions {
            socket_path: Some(self.directory.clone()),
            port: PORT,
            user: Some(user.to_owned()),
            database: database.to_owned(),
            application_name: "pgbr [drill]".to_owned(),
            connect_timeout: CONNECT,
            query_timeout: limit,
            ..ConnectOptions::default()
        };
        Session::connect(&options).await
    }

    /// Ends it, in order if it can: true where it shut down cleanly.
    pub(super) async fn stop(mut self) -> bool {
        let Some(mut child) = self.child.take() else { return false };
        for (signal, limit) in [(Signal::INT, FAST), (Signal::QUIT, IMMEDIATE)] {
            send(&child, signal);
            let begun = Instant::now();
            while begun.elapsed() < limit {
                match child.try_wait() {
                    Ok(None) => tokio::time::sleep(PAUSE).await,
                    Ok(Some(status)) => return signal == Signal::INT && status.success(),
                    Err(_) => break,
                }
            }
        }
        kill_group(&child);
        child.wait().ok();
        false
    }

    /// Ends it at once: its files are of no use any more.
    pub(super) async fn give_up(mut self) {
        let Some(mut child) = self.child.take() else { return };
        send(&child, Signal::QUIT);
        let begun = Instant::now();
        while begun.elapsed() < IMMEDIATE && matches!(child.try_wait(), Ok(None)) {
            tokio::time::sleep(PAUSE).await;
        }
        end(&mut child);
    }

    fn has_ended(&mut self) -> Result<Option<ExitStatus>> {
        let Some(child) = &mut self.child else { return Ok(None) };
        let status = child.try_wait().map_err(Error::io("wait for", &self.log))?;
        if status.is_some() {
            self.child = None;
        }
        Ok(status)
    }

    /// Whether it has written into its pid file that it takes connections and writes, as `pg_ctl -w` looks for it.
    fn says_ready(&self) -> bool {
        let text = last_bytes(&self.pg_data.join("postmaster.pid"));
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let ours = self.child.as_ref().map(|child| child.id().to_string());
        lines.first().copied() == ours.as_deref() && lines.get(7) == Some(&"ready")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            send(child, Signal::QUIT);
            let begun = Instant::now();
            while begun.elapsed() < IMMEDIATE && matches!(child.try_wait(), Ok(None)) {
                std::thread::sleep(PAUSE);
            }
            end(child);
        }
    }
}

/// Whether the server does not know the user, or does not let it in (`invalid_authorization_specification`).
fn refuses_user(error: &pgbr_pg::Error) -> bool {
    matches!(error, pgbr_pg::Error::Connect { source, .. } if source.sql_state() == Some("28000"))
}

fn send(child: &Child, signal: Signal) {
    if let Some(pid) = pid_of(child) {
        kill_process(pid, signal).ok();
    }
}

fn end(child: &mut Child) {
    if matches!(child.try_wait(), Ok(None)) {
        kill_group(child);
        child.wait().ok();
    }
}

/// What a log says about why a server ended: the last fatal line with what explains it, else the last lines.
fn words_of(log: &str) -> String {
    let lines: Vec<&str> = log.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let is_fatal = |line: &&str| line.contains("FATAL:") || line.contains("PANIC:");
    let explains = |line: &str| ["DETAIL:", "HINT:", "CONTEXT:"].iter().any(|word| line.contains(word));
    let told: Vec<&str> = match lines.iter().rposition(is_fatal) {
        Some(at) => {
            let more = lines.iter().skip(at + 1).take_while(|line| explains(line));
            lines.get(at).into_iter().chain(more).copied().collect()
        }
        None => lines.iter().skip(lines.len().saturating_sub(MAX_LINES)).copied().collect(),
    };
    let words: Vec<&str> = told.into_iter().take(MAX_LINES).map(without_prefix).collect();
    let words = if words.is_empty() { "its log is empty".to_owned() } else { words.join("; ") };
    words.chars().take(MAX_WORDS).collect()
}

/// A line of a log without its time and process.
fn without_prefix(line: &str) -> &str {
    let levels = ["FATAL:", "PANIC:", "ERROR:", "WARNING:", "LOG:", "DETAIL:", "HINT:", "CONTEXT:"];
    let begins = levels.iter().filter_map(|level| line.find(level)).min();
    begins.and_then(|at| line.get(at..)).unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fatal_line_is_told_with_its_hint() {
        let log = "2026-01-01 UTC [1] LOG:  starting\n\
                   2026-01-01 UTC [2] FATAL:  WAL ends before end of online backup\n\
                   2026-01-01 UTC [2] HINT:  All WAL must be available.\n\
                   2026-01-01 UTC [1] LOG:  startup process exited\n";
        assert_eq!(
            words_of(log),
            "FATAL:  WAL ends before end of online backup; HINT:  All WAL must be available."
        );
        assert_eq!(words_of("a\n\nb LOG:  c\n"), "a; LOG:  c");
        assert_eq!(words_of(""), "its log is empty");
        let long = format!("x FATAL: {}", "y".repeat(9000));
        assert_eq!(words_of(&long).chars().count(), MAX_WORDS);
    }
}
