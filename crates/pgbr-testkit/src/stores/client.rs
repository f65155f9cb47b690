//! Clients of `object_store` for the buckets of tests: another way to a repository than the program's own.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, S3ConditionalPut, S3CopyIfNotExists};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::client::{HttpClient, HttpConnector};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::list::PaginatedListStore;
use object_store::multipart::MultipartStore;
use object_store::{ClientOptions, ObjectStore, Result, RetryConfig};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};

use super::{AzureServer, Bucket, S3Server, StoreKind};

/// A client for a bucket, by what it can do.
#[derive(Clone)]
pub struct Client {
    /// All that every store can do.
    pub objects: Arc<dyn ObjectStore>,
    /// Uploads in parts whose names a caller keeps.
    pub parts: Arc<dyn MultipartStore>,
    /// Listing page by page.
    pub pages: Arc<dyn PaginatedListStore>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client").field(&self.objects).finish()
    }
}

impl Client {
    fn of<T: ObjectStore + MultipartStore + PaginatedListStore>(store: T) -> Self {
        let store = Arc::new(store);
        Self { objects: store.clone(), parts: store.clone(), pages: store }
    }
}

/// A client for a bucket. Credentials are static, so that it never looks for any.
pub(super) fn client(bucket: &Bucket) -> Client {
    let connector = Connector { tls: tls_config(bucket) };
    let options = ClientOptions::new().with_allow_http(true);
    let retry = RetryConfig { retry_timeout: Duration::from_secs(30), ..RetryConfig::default() };
    match bucket.kind() {
        StoreKind::Posix => panic!("a directory has no client"),
        StoreKind::S3 => Client::of(
            AmazonS3Builder::new()
                .with_bucket_name(bucket.name())
                .with_endpoint(bucket.endpoint())
                .with_region(S3Server::REGION)
                .with_access_key_id(S3Server::KEY)
                .with_secret_access_key(S3Server::SECRET)
                .with_conditional_put(S3ConditionalPut::ETagMatch)
                .with_copy_if_not_exists(S3CopyIfNotExists::Multipart)
                .with_client_options(options)
                .with_retry(retry)
                .with_http_connector(connector)
                .build()
                .expect("nothing is missing"),
        ),
        StoreKind::Azure => Client::of(
            MicrosoftAzureBuilder::new()
                .with_account(AzureServer::ACCOUNT)
                .with_access_key(AzureServer::KEY)
                .with_container_name(bucket.name())
                .with_endpoint(format!("{}/{}", bucket.endpoint(), AzureServer::ACCOUNT))
                .with_client_options(options)
                .with_retry(retry)
                .with_http_connector(connector)
                .build()
                .expect("nothing is missing"),
        ),
        StoreKind::Gcs => {
            let key = r#"{"private_key":"","private_key_id":"","client_email":"","disable_oauth":true}"#;
            Client::of(
                GoogleCloudStorageBuilder::new()
                    .with_bucket_name(bucket.name())
                    .with_base_url(bucket.endpoint())
                    .with_service_account_key(key)
                    .with_client_options(options)
                    .with_retry(retry)
                    .with_http_connector(connector)
                    .build()
                    .expect("nothing is missing"),
            )
        }
    }
}

/// Connects with ring's TLS, and trusts the authority of the tests alone.
#[derive(Debug)]
struct Connector {
    tls: ClientConfig,
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> Result<HttpClient> {
        let builder = reqwest::Client::builder().tls_backend_preconfigured(self.tls.clone()).no_proxy();
        Ok(HttpClient::new(builder.build().expect("the configuration is whole")))
    }
}

fn tls_config(bucket: &Bucket) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    if let Some(certificates) = bucket.certificates() {
        let authority = CertificateDer::from_pem_file(certificates.authority()).expect("openssl wrote it");
        roots.add(authority).expect("openssl's certificates are sound");
    }
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has the default ciphers")
        .with_root_certificates(roots)
        .with_no_client_auth()
}
