//! Azure's blob storage.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::Method;
use http::header::HeaderMap;
use object_store::ObjectStore;
use object_store::azure::{AzureConfigKey, AzureCredential, MicrosoftAzureBuilder};
use object_store::client::HttpClient;
use reqwest::Url;
use serde::Deserialize;

use super::connect::{Connector, endpoint, retry};
use super::token::{Fetched, NoCredentials, Renewed, Source, ask, read_json};
use super::{AzureCredentials, AzureOptions, CloudConnect, UriStyle};

/// Azure's metadata service.
const METADATA: &str = "http://169.254.169.254";

/// The client of a container.
pub(super) fn client(options: &AzureOptions, connect: &CloudConnect) -> Result<Arc<dyn ObjectStore>, String> {
    let mut at = endpoint(&options.endpoint)?;
    match options.uri_style {
        UriStyle::Host => {
            let host = format!("{}.{}", options.account, at.host_str().unwrap_or_default());
            at.set_host(Some(&host)).map_err(|e| format!("'{host}' is no host ({e})"))?;
        }
        UriStyle::Path => {
            let path = format!("{}/{}", at.path().trim_end_matches('/'), options.account);
            at.set_path(&path);
        }
    }
    let connector = Connector::new(connect, &at, HeaderMap::new(), false)?;
    let builder = MicrosoftAzureBuilder::new()
        .with_account(&options.account)
        .with_container_name(&options.container)
        .with_endpoint(at.as_str().trim_end_matches('/').to_owned())
        .with_allow_http(at.scheme() == "http")
        .with_retry(retry(connect))
        .with_http_connector(connector.clone());
    let builder = match &options.credentials {
        AzureCredentials::Shared(key) => {
            builder.with_access_key(key.expose()).with_credential_type("access_key")
        }
        AzureCredentials::Sas(sas) => {
            builder.with_config(AzureConfigKey::SasKey, sas.expose()).with_credential_type("sas_token")
        }
        AzureCredentials::Managed { metadata } => {
            let at = metadata.as_deref().map(endpoint).transpose()?;
            let at = at.as_ref().map_or(METADATA, Url::as_str).trim_end_matches('/').to_owned();
            builder.with_credentials(Arc::new(Renewed::new(Managed { client: connector.client(), at })))
        }
    };
    let store = builder.build().map_err(|e| said(&e, &options.credentials))?;
    Ok(Arc::new(store))
}

/// Why the client cannot be made. Of a key that is wrong nothing is shown.
fn said(error: &object_store::Error, credentials: &AzureCredentials) -> String {
    match credentials {
        AzureCredentials::Shared(_) => "the account's key is not base64, or an option is wrong".to_owned(),
        AzureCredentials::Sas(_) => "the shared access signature is no list of values".to_owned(),
        AzureCredentials::Managed { .. } => error.to_string(),
    }
}

/// The identity of the machine.
#[derive(Debug)]
struct Managed {
    client: HttpClient,
    at: String,
}

#[derive(Deserialize)]
struct Given {
    access_token: String,
    #[serde(default)]
    expires_in: serde_json::Value,
}

#[async_trait]
impl Source for Managed {
    type Credential = AzureCredential;

    async fn fetch(&self) -> Result<Fetched<AzureCredential>, NoCredentials> {
        const QUERY: &str = "api-version=2018-02-01&resource=https%3A%2F%2Fstorage.azure.com%2F";
        let url = format!("{}/metadata/identity/oauth2/token?{QUERY}", self.at);
        let answer = ask(&self.client, Method::GET, &url, ("metadata", "true")).await?;
        let given: Given = read_json(&answer, &self.at)?;
        // Azure gives the number as text.
        let seconds = given.expires_in.as_u64();
        let seconds = seconds.or_else(|| given.expires_in.as_str().and_then(|text| text.parse().ok()));
        let credential = AzureCredential::BearerToken(given.access_token);
        Ok((credential, Some(Duration::from_secs(seconds.unwrap_or(600)))))
    }
}
