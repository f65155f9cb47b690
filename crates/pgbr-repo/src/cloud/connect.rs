//! How a store is connected to: own TLS, another host than the endpoint's, limits of time, and which failures may be repeated.

use std::error::Error as StdError;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderValue, RETRY_AFTER};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Response, StatusCode};
use http_body::Body;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
    HttpService,
};
use object_store::{BackoffConfig, ClientOptions, RetryConfig};
use reqwest::Url;

use super::body::{Progress, Received, Sent};
use super::{CloudConnect, tls};

/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The longest that a store's own wish for a pause is heeded.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(30);
/// How much is read of an answer that tells an error.
const LONGEST_ERROR: usize = 64 * 1024;

/// What S3 says of a request that met another one.
const CONFLICTS: [&str; 2] = ["<Code>ConditionalRequestConflict</Code>", "<Code>OperationAborted</Code>"];

/// Reads an endpoint: a host, a host and port, or a URL. Without TLS only where it says `http://`.
pub(super) fn endpoint(given: &str) -> Result<Url, String> {
    let text = given.trim();
    let text = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let wrong = |why: &str| format!("the endpoint '{given}' {why}");
    let url = Url::parse(&text).map_err(|e| wrong(&format!("is no host and no URL ({e})")))?;
    match url.scheme() {
        "https" | "http" if !url.has_host() => Err(wrong("names no host")),
        "https" | "http" if !url.username().is_empty() || url.password().is_some() => {
            Err("an endpoint holds no user and no password".to_owned())
        }
        "https" | "http" => Ok(url),
        _ => Err(wrong("is neither http nor https")),
    }
}

/// How often and how long requests are repeated.
pub(super) fn retry(connect: &CloudConnect) -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: LONGEST_PAUSE,
            base: 2.0,
        },
        max_retries: if connect.retry.is_zero() { 0 } else { usize::MAX },
        retry_timeout: connect.retry,
    }
}

/// Makes the connections of one store; cheap to clone, clones share them.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    transport: Arc<Transport>,
}

#[derive(Debug)]
struct Transport {
    client: reqwest::Client,
    elsewhere: Option<Elsewhere>,
    headers: HeaderMap,
    idle: Duration,
    retry: Duration,
}

/// Where requests to the endpoint really go. Its own name stays in the `Host` header, which is what is signed; TLS is with the host that is
/// connected to, as in pgBackRest.
#[derive(Debug)]
struct Elsewhere {
    from: Authority,
    scheme: Scheme,
    to: Authority,
}

impl Connector {
    /// For the store at `endpoint` (as requests name it); `headers` go with each request to it. With `tls` it is an error that there are
    /// no certificates to trust.
    pub(super) fn new(
        connect: &CloudConnect,
        endpoint: &Url,
        headers: HeaderMap,
        tls: bool,
    ) -> Result<Self, String> {
        let elsewhere = Elsewhere::new(connect, endpoint)?;
        let https = |scheme: &Scheme| *scheme == Scheme::HTTPS;
        let needed = tls || elsewhere.as_ref().map_or(endpoint.scheme() == "https", |e| https(&e.scheme));
        let idle = connect.io_timeout;
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::config(connect, needed)?)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(idle)
            .tcp_nodelay(true)
            .tcp_user_timeout(idle)
            .tcp_keepalive(Duration::from_secs(30))
            .build()
            .map_err(|e| format!("the HTTP client cannot be set up: {}", innermost(&e)))?;
        let transport = Transport { client, elsewhere, headers, idle, retry: connect.retry };
        Ok(Self { transport: Arc::new(transport) })
    }

    /// A client for requests of our own.
    pub(super) fn client(&self) -> HttpClient {
        HttpClient::new(Service(Arc::clone(&self.transport)))
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(self.client())
    }
}

impl Elsewhere {
    fn new(connect: &CloudConnect, named: &Url) -> Result<Option<Self>, String> {
        if connect.host.is_none() && connect.port.is_none() {
            return Ok(None);
        }
        let to = match connect.host.as_deref() {
            Some(host) if host.contains("://") => endpoint(host)?,
            // It is spoken to as the endpoint would be.
            Some(host) => match host.parse::<Ipv6Addr>() {
                Ok(address) => endpoint(&format!("{}://[{address}]", named.scheme()))?,
                Err(_) => endpoint(&format!("{}://{host}", named.scheme()))?,
            },
            None => named.clone(),
        };
        let wrong = |_| format!("'{named}' is no endpoint that could be replaced");
        let scheme = Scheme::try_from(to.scheme()).map_err(wrong)?;
        let host = to.host_str().unwrap_or_default();
        let to = match connect.port.or(to.port()) {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let (from, to) = (authority(named)?, to.parse().map_err(|_| format!("'{to}' is no host"))?);
        Ok(Some(Self { from, scheme, to }))
    }
}

fn authority(url: &Url) -> Result<Authority, String> {
    let host = url.host_str().unwrap_or_default();
    let text = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    text.parse().map_err(|_| format!("'{text}' is no host"))
}

#[derive(Debug)]
struct Service(Arc<Transport>);

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let response = self.0.send(request).await?;
        let status = response.status();
        if status.is_success() || status == StatusCode::NOT_MODIFIED {
            return Ok(response);
        }
        let pause = pause(&response, self.0.retry);
        let response = told(response).await?;
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
        }
        Ok(response)
    }
}

impl Transport {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (mut parts, body) = request.into_parts();
        self.direct(&mut parts.uri, &mut parts.headers)?;
        let url: Url =
            parts.uri.to_string().parse().map_err(|e| HttpError::new(HttpErrorKind::Unknown, e))?;
        let at = parts.uri.authority().map(ToString::to_string).unwrap_or_default();
        let length = body.content_length() as u64;
        let progress = Progress::new(length);
        let mut request = reqwest::Request::new(parts.method, url);
        *request.headers_mut() = parts.headers;
        if length > 0 {
            *request.body_mut() = Some(reqwest::Body::wrap(Sent::new(body, Arc::clone(&progress))));
        }
        let response = tokio::select! {
            response = self.client.execute(request) => response.map_err(|e| sorted(&e, &at))?,
            () = progress.stalled(self.idle) => return Err(timed_out(&at)),
        };
        let (parts, body) = Response::<reqwest::Body>::from(response).into_parts();
        let body = HttpResponseBody::new(Received::new(body, self.idle, at));
        Ok(HttpResponse::from_parts(parts, body))
    }

    /// Adds what goes with each request to the endpoint, and sends it to another place where that is asked for.
    fn direct(&self, uri: &mut Uri, headers: &mut HeaderMap) -> Result<(), HttpError> {
        headers.extend(self.headers.iter().map(|(name, value)| (name.clone(), value.clone())));
        let Some(elsewhere) = &self.elsewhere else { return Ok(()) };
        if uri.authority() != Some(&elsewhere.from) {
            return Ok(());
        }
        let unknown = |e: http::Error| HttpError::new(HttpErrorKind::Unknown, e);
        if !headers.contains_key(HOST) {
            let named = HeaderValue::from_str(elsewhere.from.as_str()).map_err(|e| unknown(e.into()))?;
            headers.insert(HOST, named);
        }
        let path = uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        let builder = Uri::builder().scheme(elsewhere.scheme.clone()).authority(elsewhere.to.clone());
        *uri = builder.path_and_query(path).build().map_err(unknown)?;
        Ok(())
    }
}

/// How long a store that is too busy wants to be left alone.
fn pause(response: &HttpResponse, retry: Duration) -> Option<Duration> {
    let busy = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE].contains(&response.status());
    let wish = response.headers().get(RETRY_AFTER).filter(|_| busy)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(wish).min(LONGEST_RETRY_AFTER).min(retry))
}

/// An answer that tells an error: its body is read here, up to a limit, and made text.
///
/// - S3 tells a body that came too slowly as a bad request: it may be repeated like any other that timed out.
/// - Nor is a create that met another one at the same moment decided: it is repeated, and then finds what won.
/// - Of a redirection `object_store` would drop what is said: S3 has one for buckets of another region. None is followed, since a request is
///   signed for the host that it was made for.
/// - Where there is no body, Azure says the code in a header.
async fn told(response: HttpResponse) -> Result<HttpResponse, HttpError> {
    let (mut parts, body) = response.into_parts();
    let mut text = String::from_utf8_lossy(&read(body).await).into_owned();
    if parts.status == StatusCode::BAD_REQUEST && text.contains("<Code>RequestTimeout</Code>") {
        parts.status = StatusCode::REQUEST_TIMEOUT;
    }
    if parts.status == StatusCode::CONFLICT && CONFLICTS.iter().any(|code| text.contains(code)) {
        parts.status = StatusCode::SERVICE_UNAVAILABLE;
    }
    if parts.status.is_redirection() {
        parts.status = StatusCode::MISDIRECTED_REQUEST;
    }
    if let (true, Some(Ok(code))) =
        (text.is_empty(), parts.headers.get("x-ms-error-code").map(|c| c.to_str()))
    {
        text = format!("<Error><Code>{code}</Code></Error>");
    }
    parts.headers.remove(CONTENT_LENGTH);
    Ok(HttpResponse::from_parts(parts, HttpResponseBody::from(text)))
}

/// The beginning of a body; what cannot be read of it is left out, since the status says enough.
async fn read(mut body: HttpResponseBody) -> Bytes {
    let mut text = BytesMut::new();
    while let Some(Ok(frame)) = std::future::poll_fn(|cx| std::pin::Pin::new(&mut body).poll_frame(cx)).await
    {
        let Ok(data) = frame.into_data() else { continue };
        let room = LONGEST_ERROR.saturating_sub(text.len());
        text.extend_from_slice(data.get(..room).unwrap_or(&data));
        if text.len() >= LONGEST_ERROR {
            break;
        }
    }
    text.freeze()
}

/// Sorts a failed request by whether it may be repeated. All may, since every create is resolved by reading it back, but for those that
/// would fail in the same way again.
pub(super) fn sorted(error: &reqwest::Error, at: &str) -> HttpError {
    let kind = if is_lasting_failure_of_tls(error) || error.is_builder() {
        HttpErrorKind::Unknown
    } else if error.is_connect() {
        HttpErrorKind::Connect
    } else {
        HttpErrorKind::Request
    };
    HttpError::new(kind, Failed(format!("{at}: {}", innermost(error))))
}

/// A request that stood still. Its kind says that it may be repeated, a create as well: whose object stands there then is found out by
/// reading it.
pub(super) fn timed_out(at: &str) -> HttpError {
    HttpError::new(HttpErrorKind::Request, Failed(format!("{at}: no answer within the time limit")))
}

/// Why a request failed, in the innermost words: what is about them repeats itself and names the URL.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Failed(String);

fn innermost(error: &(dyn StdError + 'static)) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}

/// Whether TLS failed for a reason that stays: a certificate that is not to be trusted, a server that does not speak it, or none of its
/// versions that are known here.
fn is_lasting_failure_of_tls(error: &(dyn StdError + 'static)) -> bool {
    use rustls::Error::{InvalidCertificate, InvalidMessage, PeerIncompatible};
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(InvalidCertificate(_) | InvalidMessage(_) | PeerIncompatible(_)) = error.downcast_ref() {
            return true;
        }
        // An I/O error that holds another error does not name it as its source, but that one's.
        let within = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = within.map(|within| within as &(dyn StdError + 'static)).or_else(|| error.source());
    }
    false
}
