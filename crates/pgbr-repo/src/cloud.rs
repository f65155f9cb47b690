//! Repositories in S3, Azure and Google stores: what is to be known of one, and how its client is made.
//!
//! All clients are [`object_store`]'s. What is added here is how they connect (TLS by rustls with ring, certificate files, another host
//! and port than the endpoint says, limits of time) and where their credentials come from. Nothing is read from the environment, and
//! no client looks for credentials by itself: which kind is meant, the caller says.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use zeroize::Zeroizing;

/// A secret of a store: shown nowhere, wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes a secret.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(Zeroizing::new(secret.into()))
    }

    /// The secret itself: for requests to the store alone.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A cloud store, and a place in it.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_structs, reason = "filled in by the caller; a new field has to be decided on")]
pub struct CloudOptions {
    /// Which store.
    pub kind: CloudKind,
    /// The prefix of all keys in the bucket or container, without slashes at its ends; may be empty.
    pub prefix: String,
    /// How to connect.
    pub connect: CloudConnect,
    /// Tags that new objects get.
    pub tags: Vec<(String, String)>,
    /// Read everything as it was at this moment, in Unix seconds: for buckets that keep versions. Such a store is never written to.
    pub as_of: Option<i64>,
}

/// Which cloud store, and who is asking.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_enums, reason = "a new kind of store has to be handled everywhere")]
pub enum CloudKind {
    /// S3, or a server that speaks it.
    S3(S3Options),
    /// Azure's blob storage.
    Azure(AzureOptions),
    /// Google's cloud storage, by its XML interface.
    Gcs(GcsOptions),
}

/// How to connect to a store.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "filled in by the caller; a new field has to be decided on")]
pub struct CloudConnect {
    /// Connect to this host instead of the one that the endpoint names.
    pub host: Option<String>,
    /// Connect to this port.
    pub port: Option<u16>,
    /// A file of certificates to trust, PEM, instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// A directory of certificates to trust, PEM, instead of the system's.
    pub ca_path: Option<PathBuf>,
    /// Whether the server's certificate must be right.
    pub verify_tls: bool,
    /// How long to wait for a connection, and for the next byte of one.
    pub io_timeout: Duration,
    /// How long to repeat a request that fails for a reason that may pass.
    pub retry: Duration,
}

impl Default for CloudConnect {
    fn default() -> Self {
        Self {
            host: None,
            port: None,
            ca_file: None,
            ca_path: None,
            verify_tls: true,
            io_timeout: Duration::from_secs(60),
            retry: Duration::from_secs(120),
        }
    }
}

/// How the bucket, the account or the container is named in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a URL has these two parts")]
pub enum UriStyle {
    /// As part of the host's name.
    Host,
    /// As the first part of the path.
    Path,
}

/// An S3 bucket.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_structs, reason = "filled in by the caller; a new field has to be decided on")]
pub struct S3Options {
    /// The bucket.
    pub bucket: String,
    /// The endpoint: a host, a host and port, or a URL.
    pub endpoint: String,
    /// The region that requests are signed for.
    pub region: String,
    /// Where the bucket's name goes.
    pub uri_style: UriStyle,
    /// Who is asking.
    pub credentials: S3Credentials,
    /// Encrypt new objects with this key of the store's key service.
    pub kms_key_id: Option<String>,
    /// Encrypt objects with this key of the customer's, base64.
    pub sse_customer_key: Option<Secret>,
    /// Whether the requester pays.
    pub requester_pays: bool,
}

/// Credentials for S3.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_enums, reason = "a new kind of credentials has to be handled everywhere")]
pub enum S3Credentials {
    /// A key.
    Shared {
        /// Its id.
        key: Secret,
        /// Its secret.
        secret: Secret,
        /// The token of a session.
        token: Option<Secret>,
    },
    /// Of the instance's role, from its metadata service.
    Instance {
        /// The role; by default the one that the service names.
        role: Option<String>,
        /// The service; by default Amazon's address for it.
        metadata: Option<String>,
    },
    /// A role that a web identity token gives.
    WebId {
        /// The role's ARN.
        role: String,
        /// The file that holds the token.
        token_file: PathBuf,
        /// The service that gives credentials for it, a host or URL.
        sts: String,
    },
    /// Of the pod's identity.
    PodId {
        /// The URL that gives credentials.
        url: String,
        /// The file that holds the token to ask with.
        token_file: PathBuf,
    },
    /// What a command prints, in the form of `credential_process` of Amazon's own tools.
    Process {
        /// The program and its arguments.
        command: Vec<String>,
    },
}

/// An Azure container.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_structs, reason = "filled in by the caller; a new field has to be decided on")]
pub struct AzureOptions {
    /// The account.
    pub account: String,
    /// The container.
    pub container: String,
    /// The endpoint: a host, a host and port, or a URL.
    pub endpoint: String,
    /// Where the account's name goes.
    pub uri_style: UriStyle,
    /// Who is asking.
    pub credentials: AzureCredentials,
}

/// Credentials for Azure.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_enums, reason = "a new kind of credentials has to be handled everywhere")]
pub enum AzureCredentials {
    /// The account's key, base64.
    Shared(Secret),
    /// A shared access signature.
    Sas(Secret),
    /// The managed identity of the machine.
    Managed {
        /// The service that gives credentials; by default Azure's address for it.
        metadata: Option<String>,
    },
}

/// A bucket of Google's.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_structs, reason = "filled in by the caller; a new field has to be decided on")]
pub struct GcsOptions {
    /// The bucket.
    pub bucket: String,
    /// The endpoint: a host, a host and port, or a URL.
    pub endpoint: String,
    /// Who is asking.
    pub credentials: GcsCredentials,
    /// The project that pays.
    pub user_project: Option<String>,
}

/// Credentials for Google's storage.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_enums, reason = "a new kind of credentials has to be handled everywhere")]
pub enum GcsCredentials {
    /// The file with a service account's key, JSON.
    Service(PathBuf),
    /// A bearer token.
    Token(Secret),
    /// The service account of the machine.
    Instance {
        /// The metadata service; by default Google's address for it.
        metadata: Option<String>,
    },
}
