//! A server program that ends with the test process, however that ends.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::Certificates;
use crate::http::{self, Message};
use crate::operator::as_operator;
use crate::run::free_port;
use crate::scratch::Scratch;

/// Runs a program with its output in the file `$1` until standard input ends, then ends it.
const GUARD: &str = r#"
log=$1; shift
"$@" </dev/null >"$log" 2>&1 &
read -r _
kill -KILL $!
"#;

/// It has listened by then, on the slowest machine.
const START: Duration = Duration::from_secs(120);

/// A running server on a port of its own.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) port: u16,
    pub(super) tls: Option<&'static Certificates>,
    guard: Child,
    leash: Option<ChildStdin>,
    _scratch: Scratch,
}

/// Where a server's program is.
///
/// # Panics
/// When it is nowhere, with the command that installs it.
pub(super) fn program(name: &str, installer: &str) -> PathBuf {
    let mut roots = Vec::new();
    if let Some(dir) = std::env::var_os("PGBR_TEST_STORES_DIR") {
        roots.push(PathBuf::from(dir));
    }
    roots.push(PathBuf::from("/var/cache/pgbr-test/stores"));
    if let Some(home) = std::env::var_os("HOME") {
        roots.push(PathBuf::from(home).join(".cache/pgbr-test/stores"));
    }
    let places: Vec<PathBuf> = roots.iter().map(|root| root.join(name)).collect();
    places.iter().find(|place| place.is_file()).cloned().unwrap_or_else(|| {
        let looked: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
        panic!(
            "a program of the tests is not installed (looked for {}); install it with: {installer}",
            looked.join(", ")
        )
    })
}

impl Server {
    /// Starts a program. `arguments` gets the port and a directory of the operator.
    ///
    /// # Panics
    /// When it does not come to listen, with what it wrote.
    pub(super) fn start(
        program: &Path,
        tls: Option<&'static Certificates>,
        env: &[(&str, &str)],
        arguments: impl FnOnce(u16, &Path) -> Vec<String>,
    ) -> Self {
        let scratch = Scratch::new();
        let (port, dir, log) = (free_port(), scratch.dir("data"), scratch.file("log", ""));
        let mut command = Command::new("sh");
        // A group of its own, so that Ctrl-C ends the tests and the guard sees to the server.
        as_operator(&mut command)
            .args(["-c", GUARD, "pgbr-guard"])
            .arg(&log)
            .arg(program)
            .args(arguments(port, &dir))
            .env("TMPDIR", &dir)
            .envs(env.iter().copied())
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut guard =
            command.spawn().unwrap_or_else(|error| panic!("could not start {}: {error}", program.display()));
        let leash = guard.stdin.take();
        let server = Self { port, tls, guard, leash, _scratch: scratch };
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(
                start.elapsed() < START,
                "{} does not listen: {}",
                program.display(),
                fs::read_to_string(&log).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    pub(super) fn endpoint(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// Sends a request of the test itself.
    ///
    /// # Panics
    /// When it is not answered by a status of 200 to 299.
    pub(super) fn call(&self, request: Message) -> Message {
        let request = request.with("host", format!("127.0.0.1:{}", self.port));
        let mut tries = 0;
        loop {
            let answer = self.ask(&request);
            // moto stumbles where two requests make or empty buckets at once.
            if answer.status() == 500 && tries < 10 {
                tries += 1;
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
            let said = String::from_utf8_lossy(&answer.body);
            assert!((200..300).contains(&answer.status()), "{}: {} {said}", request.start, answer.start);
            return answer;
        }
    }

    fn ask(&self, request: &Message) -> Message {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("the server listens");
        let answer = match self.tls {
            None => http::exchange(stream, request),
            Some(certificates) => http::exchange(encrypted(stream, certificates), request),
        };
        answer.unwrap_or_else(|error| panic!("{}: {error}", request.start))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.leash.take());
        drop(self.guard.wait());
    }
}

fn encrypted(stream: TcpStream, certificates: &Certificates) -> impl Read + Write {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(certificates.authority()).expect("openssl wrote it");
    roots.add(authority).expect("openssl's certificates are sound");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has the default ciphers")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("127.0.0.1").expect("an address is a name");
    let connection = ClientConnection::new(Arc::new(config), name).expect("the configuration is whole");
    StreamOwned::new(connection, stream)
}
