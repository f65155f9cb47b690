//! Requests of our own to a store, for what its client cannot do: repeated and sorted as the client does it.

use std::time::Duration;

use async_trait::async_trait;
use http::StatusCode;
use object_store::Error;
use object_store::client::{HttpClient, HttpErrorKind, HttpRequest, HttpResponse};
use tokio::time::Instant;

/// The first pause between two tries; each is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What a server said of a request that failed, in the words of `object_store`, so that it is read in the same way.
#[derive(Debug, thiserror::Error)]
#[error("Server returned non-2xx status code: {status}: {body}")]
struct Refused {
    status: StatusCode,
    body: String,
}

/// A request that can be made again.
#[async_trait]
pub(super) trait Signed: Send + Sync {
    /// Makes it, signed now.
    async fn sign(&self) -> object_store::Result<HttpRequest>;
}

/// Sends a request, for as long as `retry` says.
pub(super) async fn send(
    client: &HttpClient,
    retry: Duration,
    path: &str,
    request: &dyn Signed,
) -> object_store::Result<HttpResponse> {
    let end = Instant::now() + retry;
    let mut pause = FIRST_PAUSE;
    loop {
        let (error, again) = match client.execute(request.sign().await?).await {
            Ok(response) if response.status().is_success() => return Ok(response),
            Ok(response) => {
                let status = response.status();
                let again = status.is_server_error()
                    || [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT].contains(&status);
                let body = response.into_body().bytes().await.unwrap_or_default();
                (sorted(path, Refused { status, body: String::from_utf8_lossy(&body).into_owned() }), again)
            }
            Err(error) => {
                let again = matches!(error.kind(), HttpErrorKind::Connect | HttpErrorKind::Request);
                (Error::Generic { store: "cloud", source: Box::new(Unsent(error)) }, again)
            }
        };
        if !again || Instant::now() + pause >= end {
            return Err(error);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// A request that got no answer.
#[derive(Debug, thiserror::Error)]
#[error("the request got no answer")]
struct Unsent(#[source] object_store::client::HttpError);

fn sorted(path: &str, refused: Refused) -> Error {
    let (path, status, source) = (path.to_owned(), refused.status, Box::new(refused));
    match status {
        StatusCode::NOT_FOUND => Error::NotFound { path, source },
        StatusCode::FORBIDDEN => Error::PermissionDenied { path, source },
        StatusCode::UNAUTHORIZED => Error::Unauthenticated { path, source },
        _ => Error::Generic { store: "cloud", source },
    }
}
