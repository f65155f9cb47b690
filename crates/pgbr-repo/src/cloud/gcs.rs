//! Google's cloud storage.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::Method;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use object_store::client::{HttpClient, StaticCredentialProvider};
use object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder};
use reqwest::Url;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::connect::{Connector, endpoint, retry};
use super::token::{Fetched, NoCredentials, Renewed, Source, ask, read_json};
use super::{Clients, CloudConnect, GcsCredentials, GcsOptions};

/// Google's metadata service.
const METADATA: &str = "http://metadata.google.internal";
/// How large a service account's file may be.
const LONGEST_KEY_FILE: u64 = 64 * 1024;

/// The client of a bucket.
pub(super) fn client(options: &GcsOptions, connect: &CloudConnect) -> Result<Clients, String> {
    let at = endpoint(&options.endpoint)?;
    let mut headers = HeaderMap::new();
    if let Some(project) = &options.user_project {
        let project = HeaderValue::from_str(project).map_err(|_| "the user project is no name".to_owned())?;
        headers.insert(HeaderName::from_static("x-goog-user-project"), project);
    }
    // A service account's key is exchanged for a token at an address that its file names.
    let asks_by_tls = matches!(options.credentials, GcsCredentials::Service(_)) && at.scheme() == "https";
    let connector = Connector::new(connect, &at, headers, asks_by_tls)?;
    let builder = GoogleCloudStorageBuilder::new()
        .with_bucket_name(&options.bucket)
        .with_base_url(at.as_str().trim_end_matches('/'))
        .with_retry(retry(connect))
        .with_http_connector(connector.clone());
    let builder = match &options.credentials {
        GcsCredentials::Service(file) => builder.with_service_account_key(key_file(file)?.as_str()),
        GcsCredentials::Token(token) => {
            let bearer = token.expose().to_owned();
            builder.with_credentials(Arc::new(StaticCredentialProvider::new(GcpCredential { bearer })))
        }
        GcsCredentials::Instance { metadata } => {
            let at = metadata.as_deref().map(endpoint).transpose()?;
            let at = at.as_ref().map_or(METADATA, Url::as_str).trim_end_matches('/').to_owned();
            builder.with_credentials(Arc::new(Renewed::new(Instance { client: connector.client(), at })))
        }
    };
    let store = builder.build().map_err(|error| match &options.credentials {
        GcsCredentials::Service(file) => format!("file '{}' is no service account's key", file.display()),
        GcsCredentials::Token(_) | GcsCredentials::Instance { .. } => error.to_string(),
    })?;
    Ok(Clients { objects: Arc::new(store), puts: None, bulk: None })
}

fn key_file(path: &Path) -> Result<Zeroizing<String>, String> {
    let failed = |e: std::io::Error| format!("unable to read service account file '{}': {e}", path.display());
    let mut text = Zeroizing::new(String::new());
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(LONGEST_KEY_FILE).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// The service account of the machine.
#[derive(Debug)]
struct Instance {
    client: HttpClient,
    at: String,
}

#[derive(Deserialize)]
struct Given {
    access_token: String,
    expires_in: u64,
}

#[async_trait]
impl Source for Instance {
    type Credential = GcpCredential;

    async fn fetch(&self) -> Result<Fetched<GcpCredential>, NoCredentials> {
        let url = format!("{}/computeMetadata/v1/instance/service-accounts/default/token", self.at);
        let answer = ask(&self.client, Method::GET, &url, ("metadata-flavor", "Google")).await?;
        let given: Given = read_json(&answer, &self.at)?;
        let credential = GcpCredential { bearer: given.access_token };
        Ok((credential, Some(Duration::from_secs(given.expires_in))))
    }
}
