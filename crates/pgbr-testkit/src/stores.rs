//! Object stores for tests: real servers on loopback, shared by the tests of a process, and a bucket for each test.

mod azure;
mod certificates;
mod client;
mod gcs;
mod s3;
mod server;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use object_store::ObjectStore;

pub use azure::AzureServer;
pub use certificates::Certificates;
pub use client::Client;
pub use gcs::GcsServer;
pub use s3::S3Server;
use server::{Server, program};

/// What brings the object stores.
const INSTALLER: &str = "scripts/install-stores.sh";

/// Where a program of Patroni is.
///
/// # Panics
/// When it is nowhere, with the command that installs it.
pub fn patroni(name: &str) -> std::path::PathBuf {
    program(&format!("patroni/bin/{name}"), "scripts/install-patroni.sh")
}

/// What kind of store a repository lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a new kind of store has to be handled everywhere")]
pub enum StoreKind {
    /// A directory.
    Posix,
    /// S3, by moto.
    S3,
    /// Azure, by azurite.
    Azure,
    /// Google, by a server of the testkit.
    Gcs,
}

impl StoreKind {
    /// Those that are no directory.
    pub const CLOUD: [Self; 3] = [Self::S3, Self::Azure, Self::Gcs];

    /// The kind that `PGBR_TEST_STORE` names, for the tests that are the same on each; by default a directory.
    ///
    /// # Panics
    /// When the variable names none.
    pub fn chosen() -> Self {
        match std::env::var("PGBR_TEST_STORE").as_deref() {
            Err(_) | Ok("" | "posix") => Self::Posix,
            Ok("s3") => Self::S3,
            Ok("azure") => Self::Azure,
            Ok("gcs") => Self::Gcs,
            Ok(other) => panic!("PGBR_TEST_STORE: \"{other}\" is not one of posix, s3, azure, gcs"),
        }
    }

    /// The word for it in `repo1-type`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Posix => "posix",
            Self::S3 => "s3",
            Self::Azure => "azure",
            Self::Gcs => "gcs",
        }
    }
}

/// A bucket or container of one test, gone with its value.
pub struct Bucket {
    kind: StoreKind,
    name: String,
    endpoint: String,
    tls: Option<&'static Certificates>,
    remove: Box<dyn Fn(&str) + Send + Sync>,
}

impl Bucket {
    /// A fresh one on the shared server of a kind.
    ///
    /// # Panics
    /// For a directory, and when the server is missing or does not start.
    pub fn of(kind: StoreKind) -> Self {
        match kind {
            StoreKind::Posix => panic!("a directory has no buckets"),
            StoreKind::S3 => S3Server::shared().bucket(),
            StoreKind::Azure => AzureServer::shared().bucket(),
            StoreKind::Gcs => GcsServer::shared().bucket(),
        }
    }

    /// Which kind.
    pub fn kind(&self) -> StoreKind {
        self.kind
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The server's URL: scheme, address and port.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The port of the server.
    ///
    /// # Panics
    /// Never: the endpoint was made here.
    pub fn port(&self) -> u16 {
        self.endpoint
            .rsplit(':')
            .next()
            .and_then(|port| port.parse().ok())
            .expect("an endpoint ends with a port")
    }

    /// What the server's certificate can be checked with, where it has one.
    pub fn certificates(&self) -> Option<&'static Certificates> {
        self.tls
    }

    /// The options of a repository here, without `repo1-`. `repo-path` is left to the caller.
    pub fn options(&self) -> Vec<(&'static str, String)> {
        self.options_at(&self.endpoint)
    }

    /// The same with something else in place of the server: a proxy.
    pub fn options_at(&self, endpoint: &str) -> Vec<(&'static str, String)> {
        let mut options = vec![("type", self.kind.name().to_owned())];
        let mut set = |name, value: &str| options.push((name, value.to_owned()));
        match self.kind {
            StoreKind::Posix => {}
            StoreKind::S3 => {
                set("s3-bucket", &self.name);
                set("s3-endpoint", endpoint);
                set("s3-region", S3Server::REGION);
                set("s3-key", S3Server::KEY);
                set("s3-key-secret", S3Server::SECRET);
                set("s3-uri-style", "path");
            }
            StoreKind::Azure => {
                set("azure-account", AzureServer::ACCOUNT);
                set("azure-container", &self.name);
                set("azure-endpoint", endpoint);
                set("azure-key", AzureServer::KEY);
                set("azure-uri-style", "path");
            }
            StoreKind::Gcs => {
                set("gcs-bucket", &self.name);
                set("gcs-endpoint", endpoint);
                set("gcs-key-type", "token");
                set("gcs-key", "test-token");
            }
        }
        if let Some(certificates) = self.tls {
            set("storage-ca-file", &certificates.authority().display().to_string());
        }
        options
    }

    /// A client that is not the program's.
    pub fn client(&self) -> Arc<dyn ObjectStore> {
        self.whole_client().objects
    }

    /// The same, with all that it can do.
    pub fn whole_client(&self) -> Client {
        client::client(self)
    }

    fn new(
        kind: StoreKind,
        name: String,
        endpoint: String,
        tls: Option<&'static Certificates>,
        remove: impl Fn(&str) + Send + Sync + 'static,
    ) -> Self {
        Self { kind, name, endpoint, tls, remove: Box::new(remove) }
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bucket {} at {}", self.kind.name(), self.name, self.endpoint)
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            (self.remove)(&self.name);
        }
    }
}

/// A name for a bucket that this process has not used.
fn fresh_name() -> String {
    static LAST: AtomicUsize = AtomicUsize::new(0);
    format!("pgbr-{}", LAST.fetch_add(1, Ordering::Relaxed) + 1)
}
