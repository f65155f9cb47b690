//! A certificate authority of the tests and a certificate of it for servers on loopback.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use crate::operator::as_operator;
use crate::run::run;
use crate::scratch::Scratch;

/// Made once a process. Both kinds of verification work with them: by the address 127.0.0.1 and by the name localhost.
#[derive(Debug)]
pub struct Certificates {
    scratch: Scratch,
}

impl Certificates {
    /// Those of this process.
    ///
    /// # Panics
    /// When the program `openssl` is missing or fails.
    pub fn get() -> &'static Self {
        static MADE: OnceLock<Certificates> = OnceLock::new();
        MADE.get_or_init(Self::make)
    }

    /// The authority's certificate: what a client has to trust, PEM.
    pub fn authority(&self) -> PathBuf {
        self.scratch.path().join("ca.pem")
    }

    /// A directory that holds the authority's certificate alone.
    pub fn authority_dir(&self) -> PathBuf {
        self.scratch.path().join("ca")
    }

    /// An authority that has signed nothing.
    pub fn stranger(&self) -> PathBuf {
        self.scratch.path().join("stranger.pem")
    }

    /// The server's certificate, PEM.
    pub fn certificate(&self) -> PathBuf {
        self.scratch.path().join("server.pem")
    }

    /// The server's key, PEM.
    pub fn key(&self) -> PathBuf {
        self.scratch.path().join("server.key")
    }

    fn make() -> Self {
        let scratch = Scratch::new();
        let dir = scratch.path();
        for name in ["ca", "stranger"] {
            let (key, certificate) = (dir.join(format!("{name}.key")), dir.join(format!("{name}.pem")));
            openssl(dir, &["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30"], |command| {
                command.args(["-subj", &format!("/CN=pgbr test {name}"), "-keyout"]).arg(key);
                command.arg("-out").arg(certificate);
            });
        }
        openssl(dir, &["req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"], |command| {
            command.args(["-keyout", "server.key", "-out", "server.csr"]);
        });
        scratch.file(
            "extensions",
            "subjectAltName=IP:127.0.0.1,DNS:localhost\nbasicConstraints=critical,CA:FALSE\n",
        );
        openssl(dir, &["x509", "-req", "-days", "30", "-in", "server.csr", "-CA", "ca.pem"], |command| {
            command.args(["-CAkey", "ca.key", "-CAcreateserial", "-extfile", "extensions"]);
            command.args(["-out", "server.pem"]);
        });
        let authority = scratch.dir("ca");
        std::fs::copy(dir.join("ca.pem"), authority.join("ca.pem")).expect("a certificate can be copied");
        crate::operator::own(&authority.join("ca.pem"));
        Self { scratch }
    }
}

fn openssl(dir: &Path, words: &[&str], more: impl FnOnce(&mut Command)) {
    let mut command = Command::new("openssl");
    as_operator(&mut command).current_dir(dir).args(words);
    more(&mut command);
    let finished = run(&mut command, "", Duration::from_secs(60));
    assert!(finished.success(), "{command:?}: {finished:#?}");
}
