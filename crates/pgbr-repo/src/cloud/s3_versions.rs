//! The versions of the objects of an S3 bucket: `ListObjectVersions`, which the client does not know.

use std::time::Duration;

use async_trait::async_trait;
use http::{Method, Request};
use object_store::aws::{AwsAuthorizer, AwsCredentialProvider};
use object_store::client::{HttpClient, HttpRequest, HttpRequestBody};
use object_store::{Error, Result};
use reqwest::Url;
use serde::Deserialize;

use super::as_of::{Page, Version, Versions};
use super::body::whole;
use super::request::{Signed, send};

/// The longest part of a listing, in bytes: a server gives 1000 versions at once.
const LONGEST_LISTING: usize = 32 << 20;

/// A bucket whose versions can be listed.
#[derive(Debug)]
pub(super) struct Bucket {
    pub(super) client: HttpClient,
    /// The bucket's own URL.
    pub(super) at: Url,
    pub(super) region: String,
    pub(super) credentials: AwsCredentialProvider,
    pub(super) requester_pays: bool,
    pub(super) retry: Duration,
}

#[async_trait]
impl Versions for Bucket {
    async fn page(&self, prefix: &str, one_level: bool, from: Option<(String, String)>) -> Result<Page> {
        let mut url = self.at.clone();
        {
            let mut query = url.query_pairs_mut();
            query.append_pair("versions", "").append_pair("prefix", prefix);
            if one_level {
                query.append_pair("delimiter", "/");
            }
            if let Some((key, version)) = &from {
                query.append_pair("key-marker", key);
                if !version.is_empty() {
                    query.append_pair("version-id-marker", version);
                }
            }
        }
        let response = send(&self.client, self.retry, prefix, &Listing { bucket: self, url }).await?;
        let body = whole(response.into_body(), LONGEST_LISTING).await.map_err(|e| unusable(Box::new(e)))?;
        let page = parse(&body.ok_or_else(|| unusable("a listing is too long".into()))?)?;
        // A server that gives the same part again and again would be asked for ever.
        if page.next.is_some() && page.next == from {
            return Err(unusable("a listing does not go on".into()));
        }
        Ok(page)
    }
}

/// Reads a part of a listing.
fn parse(body: &[u8]) -> Result<Page> {
    let listed: Listed = quick_xml::de::from_reader(body).map_err(|e| unusable(Box::new(e)))?;
    listed.page()
}

/// Reads what may be a part of a listing.
#[cfg(fuzzing)]
pub(crate) fn read(body: &[u8]) {
    if let Ok(page) = parse(body) {
        // Each takes more bytes than this.
        assert!(page.versions.len() + page.directories.len() <= body.len() / 8);
    }
}

fn unusable(source: Box<dyn std::error::Error + Send + Sync>) -> Error {
    Error::Generic { store: "S3", source }
}

struct Listing<'a> {
    bucket: &'a Bucket,
    url: Url,
}

#[async_trait]
impl Signed for Listing<'_> {
    async fn sign(&self) -> Result<HttpRequest> {
        let request = Request::builder().method(Method::GET).uri(self.url.as_str());
        let mut request = request.body(HttpRequestBody::empty()).map_err(|e| unusable(Box::new(e)))?;
        let credential = self.bucket.credentials.get_credential().await?;
        AwsAuthorizer::new(&credential, "s3", &self.bucket.region)
            .with_request_payer(self.bucket.requester_pays)
            .try_authorize(&mut request, None)?;
        Ok(request)
    }
}

/// The answer, in the order of the document: versions and marks of deletion are mixed.
#[derive(Deserialize)]
struct Listed {
    #[serde(rename = "$value", default)]
    items: Vec<Item>,
}

#[derive(Deserialize)]
enum Item {
    Version(Entry),
    DeleteMarker(Entry),
    CommonPrefixes(Common),
    IsTruncated(bool),
    NextKeyMarker(String),
    NextVersionIdMarker(String),
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    key: String,
    version_id: String,
    is_latest: bool,
    last_modified: String,
    size: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Common {
    prefix: String,
}

impl Listed {
    fn page(self) -> Result<Page> {
        let mut page = Page::default();
        let (mut truncated, mut key, mut version) = (false, None, String::new());
        for item in self.items {
            match item {
                Item::Version(entry) => page.versions.push(entry.version(false)?),
                Item::DeleteMarker(entry) => page.versions.push(entry.version(true)?),
                Item::CommonPrefixes(common) => {
                    page.directories.push(common.prefix.trim_end_matches('/').to_owned());
                }
                Item::IsTruncated(is) => truncated = is,
                Item::NextKeyMarker(marker) => key = Some(marker),
                Item::NextVersionIdMarker(marker) => version = marker,
                Item::Other => {}
            }
        }
        page.next = match (truncated, key) {
            (true, None) => return Err(unusable("a listing is cut and does not say where".into())),
            (true, Some(key)) => Some((key, version)),
            (false, _) => None,
        };
        Ok(page)
    }
}

impl Entry {
    fn version(self, deleted: bool) -> Result<Version> {
        let modified = self.last_modified.parse().map_err(|e: jiff::Error| unusable(Box::new(e)))?;
        let size = if deleted { None } else { Some(self.size.unwrap_or_default()) };
        Ok(Version { key: self.key, id: self.version_id, modified, latest: self.is_latest, size })
    }
}
