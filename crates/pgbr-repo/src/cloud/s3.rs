//! S3, and servers that speak it.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use http::Method;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use object_store::ClientOptions;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential, Checksum};
use object_store::client::HttpClient;
use reqwest::Url;
use serde::Deserialize;

use super::as_of::AsOf;
use super::connect::{Connector, endpoint, retry};
use super::s3_versions::Bucket;
use super::token::{Fetched, NoCredentials, Renewed, Source, ask, read_json, until};
use super::{Clients, CloudConnect, S3Credentials, S3Options, UriStyle};

/// Amazon's metadata service.
const METADATA: &str = "http://169.254.169.254";
/// How long a command may take to give credentials.
const LONGEST_COMMAND: Duration = Duration::from_secs(60);
/// How much it may print.
const LONGEST_OUTPUT: u64 = 64 * 1024;

/// The clients of a bucket: one deletes object by object, which every server can, and one many at once. A put says of what kind its
/// checksum is: a bucket that locks objects may ask for that. With `as_of` it is read as it was then, and never written to.
pub(super) fn client(
    options: &S3Options,
    connect: &CloudConnect,
    as_of: Option<i64>,
) -> Result<Clients, String> {
    let host_style = options.uri_style == UriStyle::Host;
    let mut at = endpoint(&options.endpoint)?;
    if host_style {
        let host = format!("{}.{}", options.bucket, at.host_str().unwrap_or_default());
        at.set_host(Some(&host)).map_err(|e| format!("'{host}' is no host ({e})"))?;
    }
    let asks_by_tls =
        !matches!(options.credentials, S3Credentials::Shared { .. } | S3Credentials::Process { .. });
    let connector = Connector::new(connect, &at, HeaderMap::new(), asks_by_tls)?;
    let builder = AmazonS3Builder::new()
        .with_bucket_name(&options.bucket)
        .with_region(&options.region)
        .with_endpoint(at.as_str().trim_end_matches('/'))
        .with_virtual_hosted_style_request(host_style)
        .with_request_payer(options.requester_pays)
        // Buckets with object lock ask for one; it is the digest that is signed anyway.
        .with_checksum_algorithm(Checksum::SHA256)
        .with_allow_http(at.scheme() == "http")
        .with_retry(retry(connect))
        .with_http_connector(connector.clone());
    let builder = encrypted(builder, options)?;
    let builder = authorized(builder, &options.credentials, &connector)?;
    let made = |builder: AmazonS3Builder| builder.build().map_err(|e| e.to_string());
    let objects = made(builder.clone().with_disable_bulk_delete(true))?;
    if let Some(moment) = as_of {
        if !host_style {
            let path = format!("{}/{}", at.path().trim_end_matches('/'), options.bucket);
            at.set_path(&path);
        }
        let versions = Bucket {
            client: connector.client(),
            at,
            region: options.region.clone(),
            credentials: Arc::clone(objects.credentials()),
            requester_pays: options.requester_pays,
            retry: connect.retry,
        };
        let objects = AsOf::new(Arc::new(objects), Arc::new(versions), moment);
        return Ok(Clients { objects: Arc::new(objects), puts: None, bulk: None });
    }
    let builder = builder.with_credentials(Arc::clone(objects.credentials()));
    let bulk = made(builder.clone())?;
    let header =
        (HeaderName::from_static("x-amz-sdk-checksum-algorithm"), HeaderValue::from_static("SHA256"));
    let options = ClientOptions::new().with_default_headers(HeaderMap::from_iter([header]));
    let puts = made(builder.with_client_options(options.with_allow_http(at.scheme() == "http")))?;
    Ok(Clients { objects: Arc::new(objects), puts: Some(Arc::new(puts)), bulk: Some(Arc::new(bulk)) })
}

fn encrypted(builder: AmazonS3Builder, options: &S3Options) -> Result<AmazonS3Builder, String> {
    match (&options.kms_key_id, &options.sse_customer_key) {
        (None, None) => Ok(builder),
        (Some(key), None) => Ok(builder.with_sse_kms_encryption(key)),
        (None, Some(key)) => Ok(builder.with_ssec_encryption(key.expose())),
        (Some(_), Some(_)) => {
            Err("a key of the key service and a key of the customer's exclude each other".to_owned())
        }
    }
}

fn authorized(
    builder: AmazonS3Builder,
    credentials: &S3Credentials,
    connector: &Connector,
) -> Result<AmazonS3Builder, String> {
    let text = |path: &std::path::Path| match path.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(format!("the name of file '{}' is not UTF-8", path.display())),
    };
    Ok(match credentials {
        S3Credentials::Shared { key, secret, token } => {
            let builder = builder.with_access_key_id(key.expose()).with_secret_access_key(secret.expose());
            token.iter().fold(builder, |builder, token| builder.with_token(token.expose()))
        }
        S3Credentials::Instance { role, metadata } => {
            let at = metadata.as_deref().map(endpoint).transpose()?;
            let at = at.as_ref().map_or(METADATA, Url::as_str).trim_end_matches('/').to_owned();
            let source = Instance { client: connector.client(), at, role: role.clone() };
            builder.with_credentials(Arc::new(Renewed::new(source)))
        }
        S3Credentials::WebId { role, token_file, sts } => {
            let sts = endpoint(sts)?;
            builder
                .with_config(AmazonS3ConfigKey::RoleArn, role)
                .with_config(AmazonS3ConfigKey::RoleSessionName, "pgbr")
                .with_config(AmazonS3ConfigKey::WebIdentityTokenFile, text(token_file)?)
                .with_config(AmazonS3ConfigKey::StsEndpoint, sts.as_str().trim_end_matches('/'))
        }
        S3Credentials::PodId { url, token_file } => builder
            .with_config(AmazonS3ConfigKey::ContainerCredentialsFullUri, url)
            .with_config(AmazonS3ConfigKey::ContainerAuthorizationTokenFile, text(token_file)?),
        S3Credentials::Process { command } => {
            let source = Process { command: command.clone() };
            builder.with_credentials(Arc::new(Renewed::new(source)))
        }
    })
}

/// The credentials of an instance's role.
#[derive(Debug)]
struct Instance {
    client: HttpClient,
    at: String,
    role: Option<String>,
}

/// What the metadata service and `credential_process` give; the latter calls the token otherwise.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Given {
    access_key_id: String,
    secret_access_key: String,
    #[serde(alias = "SessionToken")]
    token: Option<String>,
    expiration: Option<String>,
}

impl Given {
    fn fetched(self) -> Result<Fetched<AwsCredential>, NoCredentials> {
        let good_for = self.expiration.as_deref().map(until).transpose()?;
        if good_for.is_some_and(|time| time.is_zero()) {
            return Err(NoCredentials("those that are given have expired".to_owned()));
        }
        let Self { access_key_id: key_id, secret_access_key: secret_key, token, .. } = self;
        Ok((AwsCredential { key_id, secret_key, token }, good_for))
    }
}

#[async_trait]
impl Source for Instance {
    type Credential = AwsCredential;

    async fn fetch(&self) -> Result<Fetched<AwsCredential>, NoCredentials> {
        const TTL: (&str, &str) = ("x-aws-ec2-metadata-token-ttl-seconds", "600");
        let text = |bytes: bytes::Bytes| {
            let text = String::from_utf8(bytes.into()).ok().map(|text| text.trim().to_owned());
            text.ok_or_else(|| NoCredentials(format!("the answer of '{}' is no text", self.at)))
        };
        let token = format!("{}/latest/api/token", self.at);
        let token = text(ask(&self.client, Method::PUT, &token, TTL).await?)?;
        let header = ("x-aws-ec2-metadata-token", token.as_str());
        let roles = format!("{}/latest/meta-data/iam/security-credentials/", self.at);
        let role = match &self.role {
            Some(role) => role.clone(),
            None => text(ask(&self.client, Method::GET, &roles, header).await?)?,
        };
        let answer = ask(&self.client, Method::GET, &format!("{roles}{role}"), header).await?;
        read_json::<Given>(&answer, &self.at)?.fetched()
    }
}

/// What a command prints.
#[derive(Debug)]
struct Process {
    command: Vec<String>,
}

#[async_trait]
impl Source for Process {
    type Credential = AwsCredential;

    async fn fetch(&self) -> Result<Fetched<AwsCredential>, NoCredentials> {
        let command = self.command.clone();
        let ran = tokio::task::spawn_blocking(move || run(&command)).await;
        ran.map_err(|e| NoCredentials(e.to_string()))??.fetched()
    }
}

/// Runs a command that prints credentials.
fn run(command: &[String]) -> Result<Given, NoCredentials> {
    use std::io::Read;
    let Some((program, arguments)) = command.split_first() else {
        return Err(NoCredentials("no command is given".to_owned()));
    };
    let failed = |why: String| NoCredentials(format!("command '{program}' {why}"));
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| failed(format!("cannot be run: {e}")))?;
    let output = child.stdout.take();
    let reader = std::thread::spawn(move || {
        let mut printed = Vec::new();
        let read = output.map(|output| output.take(LONGEST_OUTPUT).read_to_end(&mut printed));
        read.transpose().map(|_| printed)
    });
    let end = Instant::now() + LONGEST_COMMAND;
    let status = loop {
        match child.try_wait().map_err(|e| failed(e.to_string()))? {
            Some(status) => break status,
            None if Instant::now() < end => std::thread::sleep(Duration::from_millis(20)),
            None => {
                // It has ended by itself where it cannot be killed; either way it is waited for.
                child.kill().and_then(|()| child.wait()).map_err(|e| failed(e.to_string()))?;
                return Err(failed(format!("took longer than {} seconds", LONGEST_COMMAND.as_secs())));
            }
        }
    };
    if !status.success() {
        return Err(failed(format!("failed: {status}")));
    }
    let printed = reader.join().map_err(|_| failed("printed nothing".to_owned()))?;
    let printed = printed.map_err(|e| failed(e.to_string()))?;
    if serde_json::from_slice::<Version>(&printed).is_ok_and(|v| v.version != 1) {
        return Err(failed("prints a version that is not 1".to_owned()));
    }
    read_json(&printed, program)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Version {
    version: u64,
}
