//! Credentials that are fetched and expire: from metadata services and from a command.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Request};
use object_store::CredentialProvider;
use object_store::client::{HttpClient, HttpRequestBody};
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::body::whole;

/// How long before their end credentials are renewed.
const MARGIN: Duration = Duration::from_secs(300);
/// How often a metadata service is asked before it is given up.
const TRIES: u32 = 4;
/// How much such a service may answer.
const LONGEST_ANSWER: usize = 64 * 1024;

/// Why there are no credentials; holds none.
#[derive(Debug, thiserror::Error)]
#[error("unable to get credentials: {0}")]
pub(super) struct NoCredentials(pub(super) String);

/// Credentials, and how long they are good for; for ever where it does not say.
pub(super) type Fetched<C> = (C, Option<Duration>);

/// A place where credentials are had.
#[async_trait]
pub(super) trait Source: Debug + Send + Sync + 'static {
    /// What it gives.
    type Credential: Debug + Send + Sync;

    /// Gets new ones.
    async fn fetch(&self) -> Result<Fetched<Self::Credential>, NoCredentials>;
}

/// Credentials, and until when they are used.
type Kept<C> = (Arc<C>, Option<Instant>);

/// Credentials that are kept until shortly before they expire.
#[derive(Debug)]
pub(super) struct Renewed<S: Source> {
    source: S,
    kept: Mutex<Option<Kept<S::Credential>>>,
}

impl<S: Source> Renewed<S> {
    pub(super) fn new(source: S) -> Self {
        Self { source, kept: Mutex::new(None) }
    }
}

#[async_trait]
impl<S: Source> CredentialProvider for Renewed<S> {
    type Credential = S::Credential;

    async fn get_credential(&self) -> object_store::Result<Arc<S::Credential>> {
        let mut kept = self.kept.lock().await;
        if let Some((credential, until)) = &*kept
            && until.is_none_or(|until| Instant::now() < until)
        {
            return Ok(Arc::clone(credential));
        }
        let (credential, good_for) = self.source.fetch().await.map_err(|e| {
            let path = "credentials".to_owned();
            object_store::Error::Unauthenticated { path, source: Box::new(e) }
        })?;
        let credential = Arc::new(credential);
        // A service may say any number of seconds: one that no clock comes to means for ever.
        let until =
            good_for.and_then(|time| Instant::now().checked_add(time.saturating_sub(MARGIN.min(time / 4))));
        *kept = Some((Arc::clone(&credential), until));
        Ok(credential)
    }
}

/// How long it is until a moment in RFC 3339.
pub(super) fn until(moment: &str) -> Result<Duration, NoCredentials> {
    let moment: jiff::Timestamp =
        moment.parse().map_err(|_| NoCredentials("their expiry is no time".to_owned()))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let end = Duration::from_secs(u64::try_from(moment.as_second()).unwrap_or(0));
    Ok(end.saturating_sub(now))
}

/// Asks a metadata service, a few times if need be.
pub(super) async fn ask(
    client: &HttpClient,
    method: Method,
    url: &str,
    header: (&'static str, &str),
) -> Result<Bytes, NoCredentials> {
    let mut pause = Duration::from_millis(200);
    let mut tried = 1;
    loop {
        match ask_once(client, method.clone(), url, header).await {
            Err((_, true)) if tried < TRIES => {
                tokio::time::sleep(pause).await;
                pause *= 2;
                tried += 1;
            }
            other => return other.map_err(|(why, _)| NoCredentials(why)),
        }
    }
}

/// As [`ask`], once; an error says whether another try may help.
async fn ask_once(
    client: &HttpClient,
    method: Method,
    url: &str,
    (name, value): (&'static str, &str),
) -> Result<Bytes, (String, bool)> {
    let request = Request::builder().method(method).uri(url).header(name, value);
    let request = request.body(HttpRequestBody::empty()).map_err(|e| (format!("'{url}': {e}"), false))?;
    let response = client.execute(request).await.map_err(|e| (format!("'{url}': {e}"), true))?;
    let status = response.status();
    if !status.is_success() {
        return Err((format!("'{url}' answers {status}"), status.is_server_error()));
    }
    match whole(response.into_body(), LONGEST_ANSWER).await {
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => Err((format!("'{url}' answers too much"), false)),
        Err(e) => Err((format!("'{url}': {e}"), true)),
    }
}

/// Reads an answer; what it holds is in no error.
pub(super) fn read_json<T: DeserializeOwned>(answer: &[u8], from: &str) -> Result<T, NoCredentials> {
    serde_json::from_slice(answer)
        .map_err(|e| NoCredentials(format!("the answer of '{from}' is not as expected in line {}", e.line())))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// Gives credentials that are good for so long, and counts.
    #[derive(Debug)]
    struct GoodFor(Duration, AtomicU64);

    #[async_trait]
    impl Source for GoodFor {
        type Credential = u64;

        async fn fetch(&self) -> Result<Fetched<u64>, NoCredentials> {
            Ok((self.1.fetch_add(1, Ordering::Relaxed), Some(self.0)))
        }
    }

    #[tokio::test]
    async fn credentials_are_kept_however_long_they_are_said_to_be_good() {
        for (seconds, second) in [(0, 1), (3600, 0), (u64::MAX, 0)] {
            let kept = Renewed::new(GoodFor(Duration::from_secs(seconds), AtomicU64::new(0)));
            assert_eq!(*kept.get_credential().await.unwrap(), 0);
            assert_eq!(*kept.get_credential().await.unwrap(), second, "{seconds}");
        }
    }
}
