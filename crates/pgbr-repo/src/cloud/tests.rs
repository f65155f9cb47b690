//! The clients in the tests that `object_store` has for its own, and their credentials.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::sync::Arc;
use std::time::Duration;

use object_store::ObjectStoreExt;
use object_store::integration;
use object_store::path::Path;
use pgbr_testkit::{AzureServer, Bucket, GcsServer, S3Server, StoreKind};

use super::*;

fn s3(bucket: &Bucket, credentials: S3Credentials) -> CloudOptions {
    place(CloudKind::S3(S3Options {
        bucket: bucket.name().to_owned(),
        endpoint: bucket.endpoint().to_owned(),
        region: S3Server::REGION.to_owned(),
        uri_style: UriStyle::Path,
        credentials,
        kms_key_id: None,
        sse_customer_key: None,
        requester_pays: false,
    }))
}

fn shared() -> S3Credentials {
    let [key, secret] = [S3Server::KEY, S3Server::SECRET].map(Secret::new);
    S3Credentials::Shared { key, secret, token: None }
}

fn azure(bucket: &Bucket, credentials: AzureCredentials) -> CloudOptions {
    place(CloudKind::Azure(AzureOptions {
        account: AzureServer::ACCOUNT.to_owned(),
        container: bucket.name().to_owned(),
        endpoint: bucket.endpoint().to_owned(),
        uri_style: UriStyle::Path,
        credentials,
    }))
}

fn gcs(bucket: &Bucket, credentials: GcsCredentials) -> CloudOptions {
    place(CloudKind::Gcs(GcsOptions {
        bucket: bucket.name().to_owned(),
        endpoint: bucket.endpoint().to_owned(),
        credentials,
        user_project: Some("project".to_owned()),
    }))
}

fn place(kind: CloudKind) -> CloudOptions {
    let connect = CloudConnect { retry: Duration::from_secs(5), ..CloudConnect::default() };
    CloudOptions { kind, prefix: String::new(), connect, tags: Vec::new(), as_of: None }
}

fn options(bucket: &Bucket) -> CloudOptions {
    match bucket.kind() {
        StoreKind::Posix => panic!("a directory is no cloud"),
        StoreKind::S3 => s3(bucket, shared()),
        StoreKind::Azure => azure(bucket, AzureCredentials::Shared(Secret::new(AzureServer::KEY))),
        StoreKind::Gcs => gcs(bucket, GcsCredentials::Token(Secret::new("test-token"))),
    }
}

#[tokio::test]
async fn each_client_passes_the_tests_of_object_store() {
    for kind in StoreKind::CLOUD {
        // An old version is asked for, which Google's clients take to be there.
        let bucket = match kind {
            StoreKind::Gcs => GcsServer::shared().versioned_bucket(),
            _ => Bucket::of(kind),
        };
        let clients = client(&options(&bucket)).unwrap();
        for store in [Some(clients.objects), clients.puts].into_iter().flatten() {
            integration::put_get_delete_list(&store).await;
            integration::get_opts(&store).await;
            integration::put_opts(&store, true).await;
            integration::list_uses_directories_correctly(&store).await;
            integration::list_with_delimiter(&store).await;
            integration::stream_get(&store).await;
            integration::list_with_offset_exclusivity(&store).await;
            integration::rename_and_copy(&store).await;
            integration::multipart_out_of_order(&store).await;
            integration::multipart_race_condition(&store, kind != StoreKind::Azure).await;
        }
    }
}

/// A store is put into and read with credentials of some kind.
async fn works(options: &CloudOptions) {
    let store = client(options).unwrap().objects;
    let key = Path::from("pgbr/credentials");
    store.put(&key, "content".into()).await.unwrap();
    assert_eq!(store.get(&key).await.unwrap().bytes().await.unwrap().as_ref(), b"content");
}

/// The error of a store with credentials that cannot be had.
async fn refused(options: &CloudOptions) -> String {
    let key = Path::from("pgbr/credentials");
    let error = client(options).unwrap().objects.get(&key).await.unwrap_err();
    let error = Error::from_store(&key, error);
    assert!(matches!(error, Error::Credentials { .. }), "{error:?}");
    std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default()
}

#[tokio::test]
async fn a_command_gives_credentials() {
    let bucket = Bucket::of(StoreKind::S3);
    let process = |script: &str| {
        let command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        s3(&bucket, S3Credentials::Process { command })
    };
    let dir = tempfile::tempdir().unwrap();
    let ran = dir.path().join("ran");
    let given = r#"{"Version":1,"AccessKeyId":"k","SecretAccessKey":"s","SessionToken":"t""#;
    let lasting = r#""Expiration":"2100-01-01T00:00:00Z"}"#;
    works(&process(&format!("echo '{given},{lasting}'; echo x >> {}", ran.display()))).await;
    assert_eq!(std::fs::read_to_string(&ran).unwrap(), "x\n", "it is run once");
    works(&process(&format!("echo '{given}}}'"))).await;
    for (script, why) in [
        ("exit 3".to_owned(), "failed"),
        ("echo Tr0mbone".to_owned(), "not as expected"),
        (format!("echo '{given},\"Expiration\":\"2001-01-01T00:00:00Z\"}}'"), "expired"),
        (r#"echo '{"Version":2}'"#.to_owned(), "version"),
        ("yes Tr0mbone".to_owned(), "command"),
    ] {
        let said = refused(&process(&script)).await;
        assert!(said.contains(why) && !said.contains("Tr0mbone"), "{script}: {said}");
    }
    let missing = S3Credentials::Process { command: vec!["/no/such/program".to_owned()] };
    assert!(refused(&s3(&bucket, missing)).await.contains("cannot be run"));
}

/// A server of metadata: answers each path with a text, and notes what it was asked.
async fn metadata(
    answers: &'static [(&'static str, &'static str)],
) -> (String, Arc<std::sync::Mutex<Vec<String>>>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
    let noted = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 8192];
            let length = stream.read(&mut request).await.unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            let target = request.split(' ').nth(1).unwrap_or_default().to_owned();
            noted.lock().unwrap().push(request);
            let answer = answers.iter().find(|(path, _)| target.starts_with(path));
            let (status, body) = answer.map_or(("404 Not Found", ""), |(_, body)| ("200 OK", *body));
            let length = body.len();
            let answer =
                format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).await.ok();
        }
    });
    (at, asked)
}

const GIVEN: &str =
    r#"{"AccessKeyId":"k","SecretAccessKey":"s","Token":"t","Expiration":"2100-01-01T00:00:00Z"}"#;

#[tokio::test]
async fn an_instance_gives_credentials() {
    let bucket = Bucket::of(StoreKind::S3);
    let roles = "/latest/meta-data/iam/security-credentials/";
    let (at, asked) = metadata(&[
        ("/latest/api/token", "session"),
        ("/latest/meta-data/iam/security-credentials/backup", GIVEN),
        ("/latest/meta-data/iam/security-credentials/", "backup"),
    ])
    .await;
    let instance = |role: Option<&str>, at: &str| {
        let role = role.map(str::to_owned);
        s3(&bucket, S3Credentials::Instance { role, metadata: Some(at.to_owned()) })
    };
    works(&instance(None, &at)).await;
    let requests = std::mem::take(&mut *asked.lock().unwrap());
    let begin = ["PUT /latest/api/token".to_owned(), format!("GET {roles} "), format!("GET {roles}backup ")];
    assert_eq!(requests.len(), 3, "they are kept: {requests:?}");
    assert!(requests.iter().zip(&begin).all(|(request, begin)| request.starts_with(begin)), "{requests:?}");
    assert!(requests[2].contains("x-aws-ec2-metadata-token: session"), "{requests:?}");
    works(&instance(Some("backup"), &at)).await;
    assert_eq!(asked.lock().unwrap().len(), 2);
    assert!(refused(&instance(Some("../other"), &format!("{at}/none"))).await.contains("404"));
}

#[tokio::test]
async fn a_pod_gives_credentials() {
    let bucket = Bucket::of(StoreKind::S3);
    let (at, asked) = metadata(&[("/v1/credentials", GIVEN)]).await;
    let dir = tempfile::tempdir().unwrap();
    let token_file = dir.path().join("token");
    std::fs::write(&token_file, "pod-token").unwrap();
    works(&s3(&bucket, S3Credentials::PodId { url: format!("{at}/v1/credentials"), token_file })).await;
    let requests = asked.lock().unwrap();
    assert!(requests.len() == 1 && requests[0].contains("authorization: pod-token"), "{requests:?}");
}

#[tokio::test]
async fn a_web_identity_gives_credentials() {
    let bucket = Bucket::of(StoreKind::S3);
    let answer = "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>\
                  <SessionToken>t</SessionToken><SecretAccessKey>s</SecretAccessKey>\
                  <Expiration>2100-01-01T00:00:00Z</Expiration><AccessKeyId>k</AccessKeyId></Credentials>\
                  </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>";
    let (sts, asked) = metadata(Box::leak(Box::new([("/", answer)]))).await;
    let dir = tempfile::tempdir().unwrap();
    let token_file = dir.path().join("token");
    std::fs::write(&token_file, "web-token").unwrap();
    let role = "arn:aws:iam::1:role/backup".to_owned();
    works(&s3(&bucket, S3Credentials::WebId { role, token_file, sts })).await;
    let requests = asked.lock().unwrap();
    assert!(requests.len() == 1 && requests[0].contains("AssumeRoleWithWebIdentity"), "{requests:?}");
    assert!(requests[0].contains("web-token"), "{requests:?}");
}

#[tokio::test]
async fn the_other_clouds_machines_give_tokens() {
    let bucket = Bucket::of(StoreKind::Gcs);
    let answer = r#"{"access_token":"test-token","expires_in":3599,"token_type":"Bearer"}"#;
    let (at, asked) = metadata(Box::leak(Box::new([("/computeMetadata/v1/", answer)]))).await;
    works(&gcs(&bucket, GcsCredentials::Instance { metadata: Some(at) })).await;
    assert!(asked.lock().unwrap()[0].contains("metadata-flavor: Google"));

    // azurite takes a token only over TLS: what counts is what was asked, and that the token is sent.
    let answer = r#"{"access_token":"test-token","expires_in":"3599"}"#;
    let (at, asked) = metadata(Box::leak(Box::new([("/metadata/identity/oauth2/token", answer)]))).await;
    let bucket = Bucket::of(StoreKind::Azure);
    let mut options = azure(&bucket, AzureCredentials::Managed { metadata: Some(at) });
    let (server, sent) = metadata(&[]).await;
    let CloudKind::Azure(kind) = &mut options.kind else { panic!("it is Azure") };
    kind.endpoint = server;
    let store = client(&options).unwrap().objects;
    assert!(store.get(&Path::from("x")).await.is_err());
    let asked = asked.lock().unwrap();
    assert!(asked[0].contains("metadata: true") && asked[0].contains("storage.azure.com"), "{asked:?}");
    assert!(sent.lock().unwrap()[0].contains("authorization: Bearer test-token"));
}

#[tokio::test]
async fn a_service_accounts_file_is_read() {
    let bucket = Bucket::of(StoreKind::Gcs);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key.json");
    std::fs::write(&file, r#"{"private_key":"","private_key_id":"","client_email":"","disable_oauth":true}"#)
        .unwrap();
    works(&gcs(&bucket, GcsCredentials::Service(file.clone()))).await;
    std::fs::write(&file, "Tr0mbone").unwrap();
    let Err(said) = client(&gcs(&bucket, GcsCredentials::Service(file.clone()))) else { panic!("no key") };
    assert!(said.contains("key.json") && !said.contains("Tr0mbone"), "{said}");
    std::fs::remove_file(&file).unwrap();
    assert!(client(&gcs(&bucket, GcsCredentials::Service(file))).is_err());
}

#[tokio::test]
async fn a_customers_key_goes_with_each_request() {
    let bucket = Bucket::of(StoreKind::S3);
    let mut options = s3(&bucket, shared());
    let CloudKind::S3(kind) = &mut options.kind else { panic!("it is S3") };
    kind.sse_customer_key = Some(Secret::new(data_encoding::BASE64.encode(&[7; 32])));
    works(&options).await;
    let CloudKind::S3(kind) = &mut options.kind else { panic!("it is S3") };
    kind.kms_key_id = Some("key".to_owned());
    assert!(client(&options).is_err(), "one excludes the other");
    let CloudKind::S3(kind) = &mut options.kind else { panic!("it is S3") };
    kind.sse_customer_key = None;
    works(&options).await;
}
