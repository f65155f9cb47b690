//! Running programs with a limit on their time, and waiting for things to come true.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::operator::missing_program;

/// How a program ended.
#[derive(Debug, Clone)]
pub struct Finished {
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Everything it wrote to standard output (bytes that are not UTF-8 replaced).
    pub stdout: String,
    /// The same for standard error.
    pub stderr: String,
    /// How long it ran.
    pub elapsed: Duration,
}

impl Finished {
    /// Whether it ended by itself with code 0.
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }
}

/// Runs a command to its end, with `input` on its standard input.
///
/// # Panics
/// When it cannot be started, or still runs after `limit` (it is killed then).
pub fn run(command: &mut Command, input: &str, limit: Duration) -> Finished {
    let shown = format!("{command:?}");
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("could not start {shown}: {error}"));
    let stdout = drain(child.stdout.take().expect("stdout was piped"));
    let stderr = drain(child.stderr.take().expect("stderr was piped"));
    let mut stdin = child.stdin.take().expect("stdin was piped");
    let bytes = input.as_bytes().to_vec();
    // A program that ends before it has read everything gives a broken pipe, which is its own business.
    let writer = thread::spawn(move || stdin.write_all(&bytes).is_ok());
    let code = wait_for(&mut child, start + limit);
    if code.is_none() {
        child.kill().unwrap_or_else(|error| panic!("could not kill {shown}: {error}"));
        child.wait().unwrap_or_else(|error| panic!("could not wait for {shown}: {error}"));
    }
    let finished = Finished {
        code: code.flatten(),
        stdout: collect(stdout),
        stderr: collect(stderr),
        elapsed: start.elapsed(),
    };
    writer.join().expect("writing to a pipe does not panic");
    assert!(code.is_some(), "{shown} still ran after {limit:?} and was killed; it wrote: {finished:#?}");
    if let Some(program) = missing_program(command, finished.code, &finished.stderr) {
        let program = program.display();
        panic!(
            "could not start {program}: it is missing; scripts/setup-tests.sh installs what the tests need"
        );
    }
    finished
}

/// Waits until `condition` is true, looking about 50 times a second.
///
/// # Panics
/// When it is still false after `limit`; `what` says what was waited for.
pub fn wait_until(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < limit, "waited {limit:?} in vain: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A TCP port on 127.0.0.1 that nothing listens on and that this process has not given out before.
///
/// # Panics
/// When no port is free.
pub fn free_port() -> u16 {
    static GIVEN: OnceLock<Mutex<HashSet<u16>>> = OnceLock::new();
    loop {
        let port = TcpListener::bind(("127.0.0.1", 0))
            .and_then(|listener| listener.local_addr())
            .unwrap_or_else(|error| panic!("no free port on 127.0.0.1: {error}"))
            .port();
        let given = GIVEN.get_or_init(Mutex::default);
        if given.lock().unwrap_or_else(PoisonError::into_inner).insert(port) {
            return port;
        }
    }
}

/// The exit code by the time `until`: outer `None` when it still runs then, inner when a signal ended it.
fn wait_for(child: &mut Child, until: Instant) -> Option<Option<i32>> {
    let mut pause = Duration::from_millis(1);
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status.code()),
            Ok(None) if Instant::now() >= until => return None,
            Ok(None) => thread::sleep(pause),
            Err(error) => panic!("could not wait for a child process: {error}"),
        }
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

fn drain(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        match pipe.read_to_end(&mut bytes) {
            Ok(_) => bytes,
            Err(error) => panic!("could not read what a program wrote: {error}"),
        }
    })
}

fn collect(reader: JoinHandle<Vec<u8>>) -> String {
    let bytes = reader.join().expect("the pipe of a child process can be read");
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::as_operator;

    const LIMIT: Duration = Duration::from_secs(20);

    #[test]
    fn a_program_gets_its_input_and_gives_both_outputs_and_its_code() {
        let finished = run(Command::new("sh").args(["-c", "cat; echo bad >&2; exit 3"]), "good\n", LIMIT);
        assert_eq!(
            (finished.code, finished.stdout.as_str(), finished.stderr.as_str()),
            (Some(3), "good\n", "bad\n")
        );
        assert!(!finished.success());
    }

    #[test]
    fn a_signal_is_no_exit_code() {
        assert_eq!(run(Command::new("sh").args(["-c", "kill -9 $$"]), "", LIMIT).code, None);
    }

    #[test]
    #[should_panic(expected = "still ran after")]
    fn a_program_that_hangs_is_killed() {
        run(Command::new("sleep").arg("60"), "", Duration::from_millis(50));
    }

    #[test]
    #[should_panic(expected = "could not start")]
    fn a_program_that_is_missing_is_no_exit_code() {
        run(as_operator(&mut Command::new("/nowhere/program")), "", LIMIT);
    }

    #[test]
    fn what_a_program_of_the_operator_says_of_another_is_its_own_business() {
        let words = "echo 'sh: x: not found' >&2; exit 127";
        let finished = run(as_operator(Command::new("sh").args(["-c", words])), "", LIMIT);
        assert_eq!(finished.code, Some(127), "{finished:#?}");
    }

    #[test]
    #[should_panic(expected = "waited 50ms in vain: pigs fly")]
    fn waiting_in_vain_says_for_what() {
        wait_until(Duration::from_millis(50), "pigs fly", || false);
    }

    #[test]
    fn ports_are_given_out_once_and_can_be_bound() {
        let ports: HashSet<u16> = (0..50).map(|_| free_port()).collect();
        assert_eq!(ports.len(), 50);
        for port in ports {
            drop(TcpListener::bind(("127.0.0.1", port)).expect("the port is free"));
        }
    }
}
