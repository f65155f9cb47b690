//! Repositories in S3, Azure and Google stores: what is to be known of one, and how its client is made.
//!
//! All clients are [`object_store`]'s. What is added here is how they connect (TLS by rustls with ring, certificate files, another host
//! and port than the endpoint says, limits of time) and where their credentials come from. Nothing is read from the environment, and
//! no client looks for credentials by itself: which kind is meant, the caller says.

#[cfg(feature = "s3")]
mod as_of;
#[cfg(feature = "azure")]
mod azure;
#[cfg(feature = "cloud")]
mod body;
#[cfg(feature = "cloud")]
mod connect;
#[cfg(feature = "gcs")]
mod gcs;
#[cfg(any(feature = "s3", feature = "azure"))]
mod request;
#[cfg(feature = "s3")]
mod s3;
#[cfg(feature = "s3")]
mod s3_versions;
#[cfg(all(fuzzing, feature = "s3"))]
pub(crate) use s3_versions::read as read_s3_versions;
#[cfg(all(test, feature = "s3", feature = "azure", feature = "gcs"))]
mod tests;
#[cfg(feature = "cloud")]
mod tls;
#[cfg(feature = "cloud")]
mod token;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{Attribute, Attributes, ObjectStore, TagSet};
use zeroize::Zeroizing;

use crate::error::{Error, Result};
use crate::store::Store;

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
    /// Connect to this host, or the host of this URL, instead of the one that the endpoint names.
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

impl fmt::Display for CloudOptions {
    /// The place as messages call it: an address without the account, which is nobody's business.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            CloudKind::S3(options) => write!(f, "s3://{}", options.bucket)?,
            CloudKind::Azure(options) => write!(f, "azure://{}", options.container)?,
            CloudKind::Gcs(options) => write!(f, "gs://{}", options.bucket)?,
        }
        match self.prefix.trim_matches('/') {
            "" => Ok(()),
            prefix => write!(f, "/{prefix}"),
        }
    }
}

impl Store {
    /// A store in a cloud. Nothing is asked of it yet.
    ///
    /// # Errors
    /// [`Error::StoreOptions`] where the options say nothing that could be asked, or this program was built without the client.
    pub fn cloud(options: &CloudOptions) -> Result<Self> {
        let wrong = |reason: String| Error::StoreOptions { place: options.to_string(), reason };
        if options.as_of.is_some() && !matches!(options.kind, CloudKind::S3(_)) {
            return Err(wrong("only S3 can be read as it was at a moment".to_owned()));
        }
        let clients = client(options).map_err(wrong)?;
        let prefix = options.prefix.trim_matches('/');
        let parsed = Path::parse(prefix).map_err(|_| wrong(format!("'{prefix}' is no prefix of keys")))?;
        let within = |objects: Arc<dyn ObjectStore>| -> Arc<dyn ObjectStore> {
            if prefix.is_empty() { objects } else { Arc::new(PrefixStore::new(objects, parsed.clone())) }
        };
        let store = Self::remote(within(clients.objects), options.to_string());
        let (puts, bulk) = (clients.puts.map(within), clients.bulk.map(within));
        Ok(store.with_labels(options.labels()).with_clients(puts, bulk))
    }
}

impl CloudOptions {
    /// What new objects are labelled with: Google has no tags, there they are metadata.
    fn labels(&self) -> (TagSet, Attributes) {
        let (mut tags, mut attributes) = (TagSet::default(), Attributes::new());
        for (key, value) in &self.tags {
            match &self.kind {
                CloudKind::S3(_) | CloudKind::Azure(_) => tags.push(key, value),
                CloudKind::Gcs(_) => {
                    attributes.insert(Attribute::Metadata(key.clone().into()), value.clone().into());
                }
            }
        }
        (tags, attributes)
    }
}

/// The clients of a store.
struct Clients {
    objects: Arc<dyn ObjectStore>,
    /// For puts, where they have to say more than other requests.
    puts: Option<Arc<dyn ObjectStore>>,
    /// For the deletion of many objects at once, where the store can.
    bulk: Option<Arc<dyn ObjectStore>>,
}

fn client(options: &CloudOptions) -> Result<Clients, String> {
    match &options.kind {
        #[cfg(feature = "s3")]
        CloudKind::S3(s3) => s3::client(s3, &options.connect, options.as_of),
        #[cfg(not(feature = "s3"))]
        CloudKind::S3(_) => Err("this program was built without S3".to_owned()),
        #[cfg(feature = "azure")]
        CloudKind::Azure(azure) => azure::client(azure, &options.connect),
        #[cfg(not(feature = "azure"))]
        CloudKind::Azure(_) => Err("this program was built without Azure".to_owned()),
        #[cfg(feature = "gcs")]
        CloudKind::Gcs(gcs) => gcs::client(gcs, &options.connect),
        #[cfg(not(feature = "gcs"))]
        CloudKind::Gcs(_) => Err("this program was built without Google's storage".to_owned()),
    }
}
