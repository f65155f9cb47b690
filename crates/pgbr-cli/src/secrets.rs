//! Secrets that options do not hold themselves: they are in a file, or a command prints them.
//!
//! They are fetched once, when a command starts and its log is open. What goes wrong is an error of the one repository that the secret
//! belongs to.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use zeroize::Zeroizing;

use crate::config::reason;
use crate::exit::{CliError, ErrorCode, with_hints};
use crate::log::Logger;
use crate::options::{self, Group, OPTIONS, ValueFrom};
use crate::settings::{REDACTED, Settings, Value};

/// Longest secret in bytes.
const SECRET_MAX: usize = 64 * 1024;

/// How much of what a command says on stderr is kept, in bytes.
const SAID_MAX: u64 = 16 * 1024;

/// How often it is looked whether a command has ended.
const GLANCE: Duration = Duration::from_millis(5);

/// Fetches the secrets of the repositories that the command works on; for one on several stanzas those of each.
pub(crate) fn fetch(settings: &mut Settings, log: &Logger) {
    if !settings.stanzas.is_empty() {
        let each = settings.stanzas.iter_mut().filter_map(|(_, settings)| settings.as_mut().ok());
        return each.for_each(|settings| fetch(settings, log));
    }
    let keys = settings.repo_keys();
    let limit = settings.get_time("io-timeout").unwrap_or(Duration::from_secs(60));
    let elsewhere = |(place, setting): (&(usize, u16), &crate::settings::Setting)| match &setting.value {
        Some(Value::Elsewhere(text)) => Some((*place, setting.from, text.clone())),
        _ => None,
    };
    let asked: Vec<_> = settings.values.iter().filter_map(elsewhere).collect();
    for ((id, key), from, text) in asked {
        if OPTIONS[id].group == Some(Group::Repo) && !keys.contains(&key) {
            continue;
        }
        let name = options::key_name(&OPTIONS[id], key) + from.ending();
        let secret = match from {
            _ if OPTIONS[id].name == "repo-gcs-key" && is_service(settings, key) => {
                service_key(from, &name, text)
            }
            ValueFrom::Command => from_command(&text, &name, limit, log),
            _ => from_file(Path::new(&text), &name, log),
        };
        match (secret, settings.values.get_mut(&(id, key))) {
            (Ok(secret), Some(setting)) => setting.value = Some(Value::Secret(secret)),
            (Err(error), _) => {
                settings.unusable.entry(key).or_insert(error);
            }
            (Ok(_), None) => {}
        }
    }
}

fn is_service(settings: &Settings, key: u16) -> bool {
    settings.indexed("repo", key, "gcs-key-type").as_str() == Some("service")
}

/// The key of a service account is a file, whose path is the option's value.
fn service_key(from: ValueFrom, name: &str, text: String) -> Result<Zeroizing<String>, CliError> {
    if from == ValueFrom::File {
        return Ok(Zeroizing::new(text));
    }
    let message = format!("option '{name}' is not valid for the key of a service account");
    Err(CliError::new(ErrorCode::OptionInvalid, message)
        .hint("let the command print a token, and set the key type to token."))
}

fn from_file(path: &Path, name: &str, log: &Logger) -> Result<Zeroizing<String>, CliError> {
    let fail = |code, why: &str| {
        CliError::new(code, format!("unable to read '{}' of option '{name}': {why}", path.display()))
    };
    // A pipe without a writer must not hold up the command.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).map(File::from).map_err(|error| {
        let error = std::io::Error::from(error);
        let missing = error.kind() == ErrorKind::NotFound;
        fail(if missing { ErrorCode::FileMissing } else { ErrorCode::FileOpen }, &reason(&error))
    })?;
    let meta = file.metadata().map_err(|error| fail(ErrorCode::FileRead, &reason(&error)))?;
    if !meta.is_file() {
        return Err(fail(ErrorCode::FileInvalid, "it is not a regular file"));
    }
    let mut content = Zeroizing::new(Vec::with_capacity(SECRET_MAX + 2));
    let read = file.take(SECRET_MAX as u64 + 1).read_to_end(&mut content);
    read.map_err(|error| fail(ErrorCode::FileRead, &reason(&error)))?;
    if meta.permissions().mode() & 0o004 != 0 {
        let path = path.display();
        let message =
            format!("file '{path}' of option '{name}' holds a secret and can be read by every user");
        log.warn(&with_hints(&message, &[format!("chmod o-r '{path}'")]));
    }
    secret_of(&content).map_err(|why| fail(ErrorCode::FileInvalid, why))
}

/// A secret as it was read: one line, whose end is not part of it.
fn secret_of(content: &[u8]) -> Result<Zeroizing<String>, &'static str> {
    if content.len() > SECRET_MAX {
        return Err("it is too large for a secret");
    }
    let text = std::str::from_utf8(content).map_err(|_| "it is not valid UTF-8")?;
    let line = text.strip_suffix('\n').unwrap_or(text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    match line {
        "" => Err("it is empty"),
        _ if line.contains(['\n', '\0']) => Err("it has more than one line"),
        _ => Ok(Zeroizing::new(line.to_owned())),
    }
}

fn from_command(
    text: &str,
    name: &str,
    limit: Duration,
    log: &Logger,
) -> Result<Zeroizing<String>, CliError> {
    let fail = |why: &str| CliError::new(ErrorCode::Execute, format!("command of option '{name}' {why}"));
    let words = words(text).ok_or_else(|| {
        let message = format!("'{text}' is not valid for '{name}' option");
        CliError::new(ErrorCode::OptionInvalidValue, message).hint("a quote is not closed.")
    })?;
    let (program, arguments) = words.split_first().ok_or_else(|| fail("is empty"))?;
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A group of its own, so that it can be ended with all that it has started.
        .process_group(0)
        .spawn()
        .map_err(|error| fail(&format!("cannot be run: '{program}': {}", reason(&error))))?;
    let ran = Running::new(child).wait(limit);
    let secret = secret_of(&ran.printed);
    tell(&ran, name, log);
    if let Some(why) = ran.failure {
        return Err(fail(&why).hint("what it said on stderr is logged at level detail."));
    }
    secret.map_err(|why| fail(&format!("printed no secret: {why}")))
}

/// What a command says on stderr is for the log, but not the secret, should it be in there.
fn tell(ran: &Ran, name: &str, log: &Logger) {
    let printed = String::from_utf8_lossy(&ran.printed);
    let said = String::from_utf8_lossy(&ran.said);
    let printed = Zeroizing::new(printed.trim().to_owned());
    let said = if printed.is_empty() { said.into_owned() } else { said.replace(printed.as_str(), REDACTED) };
    for line in said.lines().filter(|line| !line.trim().is_empty()) {
        let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        log.detail(&format!("command of option '{name}': {line}"));
    }
}

/// The words of a command: parted by blanks; what stands in single or double quotes is one word. No shell reads it, nothing is replaced.
fn words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    for c in text.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            Some(_) => word.get_or_insert_default().push(c),
            None if c == '\'' || c == '"' => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            None if c.is_whitespace() => words.extend(word.take()),
            None => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

/// A command under way, and what reads its output.
struct Running {
    child: Child,
    printed: Option<Receiver<Zeroizing<Vec<u8>>>>,
    said: Option<Receiver<Zeroizing<Vec<u8>>>>,
}

/// What became of a command.
struct Ran {
    printed: Zeroizing<Vec<u8>>,
    said: Zeroizing<Vec<u8>>,
    failure: Option<String>,
}

impl Running {
    fn new(mut child: Child) -> Self {
        let printed = child.stdout.take().map(|output| read_aside(output, SECRET_MAX as u64 + 1, false));
        let said = child.stderr.take().map(|output| read_aside(output, SAID_MAX, true));
        Self { child, printed, said }
    }

    fn wait(mut self, limit: Duration) -> Ran {
        let end = Instant::now().checked_add(limit);
        let left = || end.map_or(limit, |end| end.saturating_duration_since(Instant::now()));
        // All of its output is read before it is waited for, so that nothing it has started can hold it open for longer.
        let printed = self.printed.take().and_then(|output| output.recv_timeout(left()).ok());
        let said = self.said.take().and_then(|output| output.recv_timeout(left()).ok());
        let status = loop {
            match self.child.try_wait() {
                Ok(None) if !left().is_zero() => std::thread::sleep(GLANCE),
                status => break status,
            }
        };
        let failure = match status {
            _ if printed.as_ref().is_some_and(|bytes| bytes.len() > SECRET_MAX) => {
                self.end();
                Some(format!("printed more than {SECRET_MAX} bytes"))
            }
            Ok(Some(status)) if status.success() && printed.is_some() => None,
            Ok(Some(status)) if !status.success() => Some(format!("failed: {status}")),
            Ok(_) => {
                self.end();
                Some(format!("took longer than {} seconds (io-timeout)", limit.as_secs_f64()))
            }
            Err(error) => {
                self.end();
                Some(format!("failed: {}", reason(&error)))
            }
        };
        Ran { printed: printed.unwrap_or_default(), said: said.unwrap_or_default(), failure }
    }

    /// Ends the command and all of its group. One that has ended by itself meanwhile is no failure.
    fn end(&mut self) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            rustix::process::kill_process_group(group, rustix::process::Signal::KILL).ok();
        }
        self.child.wait().ok();
    }
}

/// Reads the first `max` bytes of an output on a thread of its own; the rest is thrown away, or there is no reader for it any more.
fn read_aside(
    mut output: impl Read + Send + 'static,
    max: u64,
    to_the_end: bool,
) -> Receiver<Zeroizing<Vec<u8>>> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let capacity = usize::try_from(max).unwrap_or(SECRET_MAX);
        let mut bytes = Zeroizing::new(Vec::with_capacity(capacity + 1));
        // What cannot be read counts as said.
        output.by_ref().take(max).read_to_end(&mut bytes).ok();
        if to_the_end {
            std::io::copy(&mut output, &mut std::io::sink()).ok();
        }
        sender.send(bytes).ok();
    });
    receiver
}

/// Takes a command apart, and reads what may be its output: a secret is one line.
#[cfg(fuzzing)]
pub(crate) fn read(text: &str) {
    if let Some(words) = words(text) {
        assert!(words.iter().map(String::len).sum::<usize>() <= text.len());
    }
    if let Ok(secret) = secret_of(text.as_bytes()) {
        assert!(!secret.is_empty() && !secret.contains(['\n', '\0']));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_parted_without_a_shell() {
        for (text, expected) in [
            (
                "vault kv get -field=pass secret/pgbr",
                &["vault", "kv", "get", "-field=pass", "secret/pgbr"][..],
            ),
            ("  a\t b ", &["a", "b"]),
            ("sh -c 'echo \"$X\" | cut -c1'", &["sh", "-c", "echo \"$X\" | cut -c1"]),
            ("a\"b c\"d ''", &["ab cd", ""]),
            ("a;b $HOME `c` \\n", &["a;b", "$HOME", "`c`", "\\n"]),
            ("", &[]),
        ] {
            assert_eq!(words(text).unwrap(), expected, "{text}");
        }
        assert_eq!(words("a 'b"), None);
        assert_eq!(words("a \"b'"), None);
    }

    #[test]
    fn a_secret_is_one_line() {
        for (content, expected) in [
            ("hush", Ok("hush")),
            ("hush\n", Ok("hush")),
            ("hush\r\n", Ok("hush")),
            (" hush ", Ok(" hush ")),
            ("", Err("it is empty")),
            ("\n", Err("it is empty")),
            ("a\nb", Err("it has more than one line")),
            ("a\n\n", Err("it has more than one line")),
            ("a\0b", Err("it has more than one line")),
        ] {
            let secret = secret_of(content.as_bytes());
            assert_eq!(secret.as_ref().map(|s| s.as_str()).map_err(|e| *e), expected, "{content:?}");
        }
        assert_eq!(secret_of(&[0xff]), Err("it is not valid UTF-8"));
        assert_eq!(secret_of(&vec![b'x'; SECRET_MAX + 1]), Err("it is too large for a secret"));
    }
}
