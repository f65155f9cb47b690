//! Azure's blob storage.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt};
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderValue};
use http::{Method, Request};
use object_store::azure::{
    AzureAuthorizer, AzureConfigKey, AzureCredential, MicrosoftAzure, MicrosoftAzureBuilder,
};
use object_store::client::{HttpClient, HttpRequest, HttpRequestBody};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use reqwest::Url;
use serde::Deserialize;

use super::connect::{Connector, endpoint, retry};
use super::request::{Signed, send};
use super::token::{Fetched, NoCredentials, Renewed, Source, ask, read_json};
use super::{AzureCredentials, AzureOptions, Clients, CloudConnect, UriStyle};

/// Azure's metadata service.
const METADATA: &str = "http://169.254.169.254";

/// The client of a container.
pub(super) fn client(options: &AzureOptions, connect: &CloudConnect) -> Result<Clients, String> {
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
    let client = connector.client();
    let objects = Blobs { store, client, at, options: options.clone(), retry: connect.retry };
    Ok(Clients { objects: Arc::new(objects), puts: None, bulk: None })
}

/// The blobs of a container. They are deleted one by one: the client would do it by batches, which break off where they are large.
#[derive(Debug, Clone)]
struct Blobs {
    store: MicrosoftAzure,
    client: HttpClient,
    at: Url,
    options: AzureOptions,
    retry: Duration,
}

impl Blobs {
    async fn delete(&self, key: &Path) -> object_store::Result<()> {
        let mut url = self.at.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push(&self.options.container).extend(key.parts());
        }
        let request = Deletion { url, blobs: self };
        send(&self.client, self.retry, key.as_ref(), &request).await.map(drop)
    }
}

/// The deletion of a blob.
struct Deletion<'a> {
    url: Url,
    blobs: &'a Blobs,
}

#[async_trait]
impl Signed for Deletion<'_> {
    async fn sign(&self) -> object_store::Result<HttpRequest> {
        let unusable = |e: http::Error| object_store::Error::Generic { store: "cloud", source: Box::new(e) };
        let request = Request::builder().method(Method::DELETE).uri(self.url.as_str());
        let mut request = request.body(HttpRequestBody::empty()).map_err(unusable)?;
        request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        // Without asking for snapshots to be deleted as well: a blob of which somebody has made one stays, and that is told.
        let credential = self.blobs.store.credentials().get_credential().await?;
        AzureAuthorizer::new(&credential, &self.blobs.options.account).try_authorize(&mut request)?;
        Ok(request)
    }
}

impl fmt::Display for Blobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Blobs {
    async fn put_opts(
        &self,
        key: &Path,
        content: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.store.put_opts(key, content, options).await
    }

    async fn put_multipart_opts(
        &self,
        key: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(key, options).await
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.store.get_opts(key, options).await
    }

    fn delete_stream(
        &self,
        keys: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        let blobs = self.clone();
        let deleted = keys.map(move |key| {
            let blobs = blobs.clone();
            async move {
                let key = key?;
                blobs.delete(&key).await.map(|()| key)
            }
        });
        deleted.buffered(10).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.store.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.store.copy_opts(from, to, options).await
    }
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
