//! Bodies of requests and answers that are watched: how far one has come, and how long nothing came.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use object_store::client::{HttpError, HttpRequestBody, HttpResponseBody};
use tokio::time::{Instant, Sleep};

use super::connect::{sorted, timed_out};

/// How much of a body is handed to the connection at a time: small enough that a link which crawls is seen to move.
const SLICE: usize = 64 * 1024;
/// The slowest link that is not taken for one that stands still.
const SLOWEST: u64 = 64 * 1024;
/// What the connection and the system hold of a body after its last slice was taken: time is allowed for as much.
const BUFFERED: u64 = 1024 * 1024;

/// How far the body of a request has come.
#[derive(Debug)]
pub(super) struct Progress {
    moved: Mutex<Instant>,
    ended: AtomicBool,
    length: AtomicU64,
}

impl Progress {
    pub(super) fn new(length: u64) -> Arc<Self> {
        let ended = AtomicBool::new(length == 0);
        Arc::new(Self { moved: Mutex::new(Instant::now()), ended, length: AtomicU64::new(length) })
    }

    fn moved(&self) {
        *self.moved.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Ends when the request has stood still for `idle`, or has taken longer than any link that is of use.
    pub(super) async fn stalled(&self, idle: Duration) {
        let length = self.length.load(Ordering::Relaxed);
        let last = Instant::now() + idle + at_slowest(length);
        loop {
            let moved = *self.moved.lock().unwrap_or_else(PoisonError::into_inner);
            let ended = self.ended.load(Ordering::Relaxed);
            let held = if ended { at_slowest(length.min(BUFFERED)) } else { Duration::ZERO };
            let due = (moved + idle + held).min(last);
            if due <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(due).await;
        }
    }
}

fn at_slowest(bytes: u64) -> Duration {
    Duration::from_secs(bytes / SLOWEST)
}

/// The body of a request, by slices.
#[derive(Debug)]
pub(super) struct Sent {
    body: HttpRequestBody,
    rest: Bytes,
    progress: Arc<Progress>,
}

impl Sent {
    pub(super) const fn new(body: HttpRequestBody, progress: Arc<Progress>) -> Self {
        Self { body, rest: Bytes::new(), progress }
    }
}

impl Body for Sent {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        self.progress.moved();
        while self.rest.is_empty() {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                other => return other,
            }
        }
        let length = self.rest.len().min(SLICE);
        let slice = self.rest.split_to(length);
        if self.is_end_stream() {
            self.progress.ended.store(true, Ordering::Relaxed);
        }
        Poll::Ready(Some(Ok(Frame::data(slice))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        match self.body.size_hint().exact() {
            Some(exact) => SizeHint::with_exact(exact.saturating_add(rest)),
            None => SizeHint::default(),
        }
    }
}

/// The whole body of an answer; none where it has more than `max` bytes, of which no more are taken.
pub(super) async fn whole(mut body: HttpResponseBody, max: usize) -> Result<Option<Bytes>, HttpError> {
    let mut text = BytesMut::new();
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let Ok(data) = frame?.into_data() else { continue };
        if text.len() + data.len() > max {
            return Ok(None);
        }
        text.extend_from_slice(&data);
    }
    Ok(Some(text.freeze()))
}

/// The body of an answer: an error where nothing comes for a while.
pub(super) struct Received {
    body: reqwest::Body,
    idle: Duration,
    at: String,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Received {
    /// `at` is the host that it comes from.
    pub(super) const fn new(body: reqwest::Body, idle: Duration, at: String) -> Self {
        Self { body, idle, at, waiting: None }
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.waiting = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(|e| sorted(&e, &self.at))));
        }
        let idle = self.idle;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(idle)));
        match waiting.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Some(Err(timed_out(&self.at)))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A body without an end.
    struct Endless;

    impl Body for Endless {
        type Data = Bytes;
        type Error = HttpError;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b' '; 1000])))))
        }
    }

    #[tokio::test]
    async fn a_body_without_end_is_not_read_to_its_end() {
        assert_eq!(whole(HttpResponseBody::new(Endless), 10_000).await.unwrap(), None);
        let text = || HttpResponseBody::from("text".to_owned());
        assert_eq!(whole(text(), 4).await.unwrap().unwrap(), "text");
        assert_eq!(whole(text(), 3).await.unwrap(), None);
    }
}
