//! Google's cloud storage, as much of its XML interface as a client of pgbr uses, in the memory of the test process.
//!
//! Written from Google's documentation of that interface: it shows that the way of the client works, not that Google behaves so.
//! There is no such server to be had; those for its JSON interface do not serve the XML one. Anybody may do anything here: tokens are
//! not looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufReader, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::{Bucket, Certificates, StoreKind, fresh_name};
use crate::http::{Message, decode};
use crate::listen::Listening;

/// A listing has no more entries than this.
const PAGE: usize = 1000;

/// A server of Google's XML interface.
#[derive(Debug)]
pub struct GcsServer {
    listening: Listening,
    tls: Option<&'static Certificates>,
    buckets: Arc<Buckets>,
}

/// All that is stored.
#[derive(Debug, Default)]
struct Buckets(Mutex<BTreeMap<String, Stored>>);

/// One bucket.
#[derive(Debug, Default)]
struct Stored {
    versioned: bool,
    /// The versions of each object, oldest first. The last one is current unless it was deleted.
    objects: BTreeMap<String, Vec<Version>>,
    /// Uploads that are not complete: what began them, and their parts.
    uploads: BTreeMap<String, (Message, BTreeMap<usize, Vec<u8>>)>,
    /// The last number that was given out, to versions and uploads.
    last: u64,
}

#[derive(Debug, Clone)]
struct Version {
    generation: u64,
    content: Arc<Vec<u8>>,
    /// What the client wants to get back with it.
    headers: Vec<(String, String)>,
    created: Timestamp,
    deleted: Option<Timestamp>,
}

impl GcsServer {
    /// The one that the tests of this process share.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<GcsServer> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(None))
    }

    /// One with a certificate, shared as well.
    pub fn tls() -> &'static Self {
        static SHARED: OnceLock<GcsServer> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(Some(Certificates::get())))
    }

    /// A fresh bucket.
    pub fn bucket(&self) -> Bucket {
        self.made(false)
    }

    /// A fresh bucket that keeps what is overwritten and deleted.
    pub fn versioned_bucket(&self) -> Bucket {
        self.made(true)
    }

    fn made(&self, versioned: bool) -> Bucket {
        let name = fresh_name();
        self.buckets.lock().insert(name.clone(), Stored { versioned, ..Stored::default() });
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let endpoint = format!("{scheme}://127.0.0.1:{}", self.listening.port());
        let buckets = Arc::clone(&self.buckets);
        Bucket::new(StoreKind::Gcs, name, endpoint, self.tls, move |name| drop(buckets.lock().remove(name)))
    }

    fn start(tls: Option<&'static Certificates>) -> Self {
        let buckets = Arc::new(Buckets::default());
        let (served, config) = (Arc::clone(&buckets), tls.map(server_config));
        let listening = Listening::on(0, move |stream| match &config {
            None => serve(&served, stream),
            Some(config) => {
                let connection =
                    ServerConnection::new(Arc::clone(config)).expect("the configuration is whole");
                serve(&served, StreamOwned::new(connection, stream));
            }
        });
        Self { listening, tls, buckets }
    }
}

fn server_config(certificates: &Certificates) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = CertificateDer::from_pem_file(certificates.certificate()).expect("openssl wrote it");
    let key = PrivateKeyDer::from_pem_file(certificates.key()).expect("openssl wrote it");
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has the default ciphers")
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .expect("key and certificate belong together");
    Arc::new(config)
}

/// Answers the requests of one connection until it ends.
fn serve(buckets: &Buckets, stream: impl Read + Write) {
    let mut stream = BufReader::new(stream);
    while let Ok(Some(request)) = Message::read_request(&mut stream) {
        let mut answer = buckets.answer(&request);
        if request.method() == "HEAD" {
            answer.body.clear();
        }
        if answer.write(stream.get_mut()).is_err() {
            return;
        }
    }
}

/// The parts of a request's target.
struct Target {
    bucket: String,
    /// Empty for the bucket itself.
    key: String,
    query: BTreeMap<String, String>,
}

impl Target {
    fn of(request: &Message) -> Self {
        let (path, query) = request.target().split_once('?').unwrap_or((request.target(), ""));
        let (bucket, key) = path.trim_start_matches('/').split_once('/').unwrap_or((&path[1..], ""));
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        });
        Self { bucket: decode(bucket), key: decode(key), query: pairs.collect() }
    }

    fn query(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }
}

impl Buckets {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Stored>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, request: &Message) -> Message {
        let target = Target::of(request);
        let mut buckets = self.lock();
        if let Some(source) = request.header("x-goog-copy-source") {
            return copy(&mut buckets, request, &target, &decode(source));
        }
        let Some(bucket) = buckets.get_mut(&target.bucket) else {
            return error(404, "NoSuchBucket", "The specified bucket does not exist.");
        };
        match (request.method(), target.key.is_empty()) {
            ("GET", true) => bucket.list(&target),
            ("GET" | "HEAD", false) => bucket.get(request, &target),
            ("PUT", false) if target.query("uploadId").is_some() => bucket.put_part(request, &target),
            ("PUT", false) => bucket.put(request, &target.key, request.body.clone()),
            ("POST", false) if target.query("uploads").is_some() => bucket.begin_upload(request),
            ("POST", false) if target.query("uploadId").is_some() => bucket.end_upload(&target),
            ("DELETE", false) => bucket.delete(&target),
            _ => error(400, "InvalidArgument", "This server does not know the request."),
        }
    }
}

impl Stored {
    fn current(&self, key: &str) -> Option<&Version> {
        self.objects.get(key)?.last().filter(|version| version.deleted.is_none())
    }

    fn next(&mut self) -> u64 {
        // Generations are times in microseconds, and grow.
        let now = u64::try_from(Timestamp::now().as_microsecond()).unwrap_or_default();
        self.last = now.max(self.last + 1);
        self.last
    }

    fn put(&mut self, request: &Message, key: &str, content: Vec<u8>) -> Message {
        let there = self.current(key).map(|version| version.generation);
        if let Some(wanted) = request.header("x-goog-if-generation-match")
            && wanted != there.unwrap_or(0).to_string()
        {
            return error(412, "PreconditionFailed", "At least one of the pre-conditions did not hold.");
        }
        let kept = |name: &str| {
            let name = name.to_ascii_lowercase();
            name.starts_with("x-goog-meta-")
                || [
                    "content-type",
                    "cache-control",
                    "content-disposition",
                    "content-encoding",
                    "content-language",
                ]
                .contains(&name.as_str())
        };
        let headers = request.headers.iter().filter(|(name, _)| kept(name)).cloned().collect();
        let (generation, created) = (self.next(), Timestamp::now());
        let version = Version { generation, content: Arc::new(content), headers, created, deleted: None };
        let answer = version.described(Message::answer(200, ""));
        let versions = self.objects.entry(key.to_owned()).or_default();
        if self.versioned {
            versions.iter_mut().for_each(|old| old.deleted = old.deleted.or(Some(created)));
        } else {
            versions.clear();
        }
        versions.push(version);
        answer
    }

    fn get(&self, request: &Message, target: &Target) -> Message {
        let wanted = target.query("generation");
        let version = match wanted {
            None => self.current(&target.key),
            Some(wanted) => self.objects.get(&target.key).and_then(|versions| {
                versions.iter().find(|version| version.generation.to_string() == wanted)
            }),
        };
        let Some(version) = version else {
            return error(404, "NoSuchKey", "The specified key does not exist.");
        };
        let matches = |tags: &str| tags == "*" || tags.split(',').any(|tag| tag.trim() == version.etag());
        if request.header("if-match").is_some_and(|tags| !matches(tags))
            || request.header("if-unmodified-since").is_some_and(|time| version.is_newer_than(time))
        {
            return error(412, "PreconditionFailed", "At least one of the pre-conditions did not hold.");
        }
        let none_match = request.header("if-none-match");
        if none_match.is_some_and(matches)
            || none_match.is_none()
                && request.header("if-modified-since").is_some_and(|time| !version.is_newer_than(time))
        {
            return version.described(Message::answer(304, ""));
        }
        version.content_for(request.header("range"))
    }

    fn delete(&mut self, target: &Target) -> Message {
        if let Some(upload) = target.query("uploadId") {
            self.uploads.remove(upload);
            return Message::answer(204, "");
        }
        if let Some(generation) = target.query("generation") {
            let versions = self.objects.entry(target.key.clone()).or_default();
            versions.retain(|version| version.generation.to_string() != generation);
            return Message::answer(204, "");
        }
        if self.current(&target.key).is_none() {
            return error(404, "NoSuchKey", "The specified key does not exist.");
        }
        if self.versioned {
            let current = self.objects.get_mut(&target.key).and_then(|versions| versions.last_mut());
            if let Some(version) = current {
                version.deleted = Some(Timestamp::now());
            }
        } else {
            self.objects.remove(&target.key);
        }
        Message::answer(204, "")
    }

    /// Both forms of listing: the first goes on after a name, the second by a token, which is a name here.
    fn list(&self, target: &Target) -> Message {
        let versions = target.query.contains_key("versions");
        let prefix = target.query("prefix").unwrap_or_default();
        let delimiter = target.query("delimiter").filter(|delimiter| !delimiter.is_empty());
        let after = ["continuation-token", "start-after", "marker", "key-marker"];
        let after = after.iter().find_map(|name| target.query(name)).unwrap_or_default();
        let limit = target.query("max-keys").and_then(|n| n.parse().ok()).unwrap_or(PAGE).min(PAGE);
        let (mut entries, mut prefixes, mut last, mut cut) = (String::new(), BTreeSet::new(), "", false);
        let mut count = 0;
        for (key, all) in self.objects.iter().filter(|(key, _)| key.starts_with(prefix)) {
            let common = delimiter.and_then(|delimiter| {
                let end = key[prefix.len()..].find(delimiter)? + prefix.len() + delimiter.len();
                Some(&key[..end])
            });
            let name = common.unwrap_or(key);
            let shown: Vec<&Version> =
                if versions { all.iter().collect() } else { self.current(key).into_iter().collect() };
            if name <= after || shown.is_empty() || common.is_some_and(|common| prefixes.contains(common)) {
                continue;
            }
            if count == limit {
                cut = true;
                break;
            }
            count += 1;
            last = name;
            if let Some(common) = common {
                prefixes.insert(common);
                continue;
            }
            for version in shown {
                entries.push_str(&version.listed(key, versions));
            }
        }
        let prefixes: String = prefixes
            .iter()
            .map(|prefix| format!("<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>", escaped(prefix)))
            .collect();
        let next = match target.query("list-type") {
            _ if !cut => String::new(),
            Some("2") => format!("<NextContinuationToken>{}</NextContinuationToken>", escaped(last)),
            _ if versions => format!("<NextKeyMarker>{}</NextKeyMarker>", escaped(last)),
            _ => format!("<NextMarker>{}</NextMarker>", escaped(last)),
        };
        xml(format!(
            "<ListBucketResult xmlns=\"http://doc.s3.amazonaws.com/2006-03-01\"><Name>{}</Name><Prefix>{}</Prefix>\
             <IsTruncated>{cut}</IsTruncated>{next}{entries}{prefixes}</ListBucketResult>",
            escaped(&target.bucket),
            escaped(prefix)
        ))
    }

    fn begin_upload(&mut self, request: &Message) -> Message {
        let id = self.next().to_string();
        self.uploads.insert(id.clone(), (request.clone(), BTreeMap::new()));
        xml(format!(
            "<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
        ))
    }

    fn put_part(&mut self, request: &Message, target: &Target) -> Message {
        let parts = target.query("uploadId").and_then(|id| self.uploads.get_mut(id));
        let number = target.query("partNumber").and_then(|number| number.parse().ok());
        let (Some((_, parts)), Some(number)) = (parts, number) else {
            return error(404, "NoSuchUpload", "The requested upload was not found.");
        };
        parts.insert(number, request.body.clone());
        Message::answer(200, "").with("etag", format!("\"part-{number}\""))
    }

    fn end_upload(&mut self, target: &Target) -> Message {
        let Some((begun, parts)) = target.query("uploadId").and_then(|id| self.uploads.remove(id)) else {
            return error(404, "NoSuchUpload", "The requested upload was not found.");
        };
        let put = self.put(&begun, &target.key, parts.into_values().flatten().collect());
        let etag = put.header("etag").unwrap_or_default().to_owned();
        let generation = put.header("x-goog-generation").unwrap_or_default().to_owned();
        xml(format!(
            "<CompleteMultipartUploadResult><Key>{}</Key><ETag>{}</ETag></CompleteMultipartUploadResult>",
            escaped(&target.key),
            escaped(&etag)
        ))
        .with("x-goog-generation", generation)
    }
}

impl Version {
    fn etag(&self) -> String {
        format!("\"{:x}\"", self.generation)
    }

    /// Times in requests count whole seconds.
    fn is_newer_than(&self, time: &str) -> bool {
        let time = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(time);
        time.is_ok_and(|time| self.created.as_second() > time.as_second())
    }

    fn described(&self, answer: Message) -> Message {
        let modified = DateTimePrinter::new().timestamp_to_rfc9110_string(&self.created);
        let answer = answer
            .with("etag", self.etag())
            .with("x-goog-generation", self.generation)
            .with("x-goog-metageneration", 1)
            .with("last-modified", modified.expect("it is a year of four digits"));
        self.headers.iter().fold(answer, |answer, (name, value)| answer.with(name, value))
    }

    /// The content or the range of it that was asked for: `bytes=a-b`, `bytes=a-` or `bytes=-n`.
    fn content_for(&self, range: Option<&str>) -> Message {
        let length = self.content.len();
        let Some(range) = range.and_then(|range| range.strip_prefix("bytes=")) else {
            return self.described(Message::answer(200, self.content.as_slice()));
        };
        let bounds = match range.split_once('-').map(|(from, to)| (from.parse().ok(), to.parse().ok())) {
            Some((None, Some(last))) => (length.saturating_sub(last), length),
            Some((Some(from), to)) => (from, to.map_or(length, |to: usize| length.min(to.saturating_add(1)))),
            _ => (length, 0),
        };
        match self.content.get(bounds.0..bounds.1) {
            Some(part) if !part.is_empty() => self
                .described(Message::answer(206, part))
                .with("content-range", format!("bytes {}-{}/{length}", bounds.0, bounds.1 - 1)),
            _ => error(416, "InvalidRange", "The requested range cannot be satisfied.")
                .with("content-range", format!("bytes */{length}")),
        }
    }

    fn listed(&self, key: &str, as_version: bool) -> String {
        let element = if as_version { "Version" } else { "Contents" };
        let deleted =
            self.deleted.map(|time| format!("<DeletedTime>{time:.3}</DeletedTime>")).unwrap_or_default();
        format!(
            "<{element}><Key>{}</Key><Generation>{}</Generation><MetaGeneration>1</MetaGeneration>\
             <IsLatest>{}</IsLatest><LastModified>{:.3}</LastModified>{deleted}<ETag>{}</ETag><Size>{}</Size></{element}>",
            escaped(key),
            self.generation,
            self.deleted.is_none(),
            self.created,
            escaped(&self.etag()),
            self.content.len()
        )
    }
}

fn copy(buckets: &mut BTreeMap<String, Stored>, request: &Message, target: &Target, source: &str) -> Message {
    let (from, key) = source.trim_start_matches('/').split_once('/').unwrap_or((source, ""));
    let content =
        buckets.get(from).and_then(|bucket| bucket.current(key)).map(|version| version.content.to_vec());
    match (content, buckets.get_mut(&target.bucket)) {
        (Some(content), Some(bucket)) => {
            let put = bucket.put(request, &target.key, content);
            if put.status() != 200 {
                return put;
            }
            xml("<CopyObjectResult></CopyObjectResult>".to_owned())
        }
        _ => error(404, "NoSuchKey", "The specified key does not exist."),
    }
}

fn xml(body: String) -> Message {
    Message::answer(200, format!("<?xml version='1.0' encoding='UTF-8'?>{body}"))
        .with("content-type", "application/xml")
}

fn error(status: u16, code: &str, message: &str) -> Message {
    let body = format!(
        "<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    );
    Message::answer(status, body).with("content-type", "application/xml")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
