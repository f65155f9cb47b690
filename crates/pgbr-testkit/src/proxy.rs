//! A proxy between a client and an object store, that does to requests and answers what networks and stores do on bad days.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_linger;

use crate::http::{Message, decode, exchange};
use crate::listen::Listening;
use crate::stores::{Bucket, StoreKind};

/// What happens to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a list for tests")]
pub enum Act {
    /// Nothing: it is answered by the store.
    Pass,
    /// The connection is reset before the store gets it.
    Reset,
    /// The store does it, and the connection is reset instead of the answer.
    Lose,
    /// Nothing comes back for so long, and then the connection is reset. The store does not get it.
    Stall(Duration),
    /// The store does it, and the answer ends in the middle of its body; an answer without a body is lost.
    Cut,
    /// The answer of somebody else: status, headers, body. The store does not get the request.
    Answer(u16, Vec<(String, String)>, String),
    /// The store's answer has another ETag.
    WrongEtag,
    /// One byte in the middle of the answer's body is another.
    Corrupt,
    /// The store gets the request without this header.
    Without(&'static str),
    /// The body of the answer comes with so many bytes a second.
    Slow(usize),
}

impl Act {
    /// The store is too busy: 500, 503 or 429, to be asked again in so many seconds.
    pub fn busy(status: u16, retry_after: Option<u32>) -> Self {
        let headers = retry_after.map(|seconds| ("retry-after".to_owned(), seconds.to_string()));
        Self::Answer(status, headers.into_iter().collect(), String::new())
    }

    /// The store says no, in its own words: `code` is its name for the reason.
    pub fn refuse(kind: StoreKind, status: u16, code: &str) -> Self {
        let mut headers = vec![("content-type".to_owned(), "application/xml".to_owned())];
        if kind == StoreKind::Azure {
            headers.push(("x-ms-error-code".to_owned(), code.to_owned()));
        }
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>refused by the test</Message></Error>"
        );
        Self::Answer(status, headers, body)
    }
}

/// A request that came.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "read by tests")]
pub struct Seen {
    /// Counted from 0.
    pub number: u64,
    /// `GET`, `PUT`, …
    pub method: String,
    /// The path, decoded.
    pub path: String,
    /// The query, as it came.
    pub query: String,
    /// The range that was asked for.
    pub range: Option<String>,
    /// Whether it was a create that must not overwrite.
    pub create: bool,
    /// The status of the answer that the client got or would have got; none before, and when the store did not get it.
    pub status: Option<u16>,
}

/// A proxy in front of one server; it ends with its value.
pub struct Proxy {
    port: u16,
    listening: Mutex<Option<Listening>>,
    shared: Arc<Shared>,
}

type Decide = dyn Fn(&Seen) -> Act + Send + Sync;

struct Shared {
    upstream: u16,
    decide: Mutex<Arc<Decide>>,
    seen: Mutex<Vec<Seen>>,
    over: AtomicBool,
}

impl Proxy {
    /// In front of a bucket's server, which has to be one without TLS. Everything passes.
    ///
    /// # Panics
    /// When the server has TLS.
    pub fn before(bucket: &Bucket) -> Self {
        assert!(bucket.certificates().is_none(), "the proxy cannot look into TLS");
        let shared = Arc::new(Shared {
            upstream: bucket.port(),
            decide: Mutex::new(Arc::new(|_: &Seen| Act::Pass)),
            seen: Mutex::default(),
            over: AtomicBool::new(false),
        });
        let listening = listen(0, &shared);
        Self { port: listening.port(), listening: Mutex::new(Some(listening)), shared }
    }

    /// Its URL, in place of the server's.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Everything passes from now on.
    pub fn pass(&self) {
        self.act(|_| Act::Pass);
    }

    /// Asks `decide` about every request from now on.
    pub fn act(&self, decide: impl Fn(&Seen) -> Act + Send + Sync + 'static) {
        *lock(&self.shared.decide) = Arc::new(decide);
    }

    /// Breaks so many of a hundred requests from now on, in a manner and order that follow from `seed`: resets before and after the
    /// store has acted, stalls, answers that are cut, slow ones, wrong ETags, and 500, 503 and 429 with and without a time to wait.
    pub fn break_some(&self, percent: u64, seed: u64) {
        self.act(move |request| {
            let random = scrambled(seed ^ scrambled(request.number));
            if random % 100 >= percent {
                return Act::Pass;
            }
            match (random / 100) % 10 {
                0 => Act::Reset,
                1 | 2 => Act::Lose,
                3 => Act::Stall(Duration::from_millis(500)),
                4 => Act::Cut,
                5 => Act::busy(500, None),
                6 => Act::busy(503, Some(1)),
                7 => Act::busy(429, Some(1)),
                8 => Act::WrongEtag,
                _ => Act::Slow(4 << 20),
            }
        });
    }

    /// Refuses connections from now on and cuts those that are there, until [`Proxy::come_back`].
    pub fn leave(&self) {
        drop(lock(&self.listening).take());
    }

    /// Is there again.
    pub fn come_back(&self) {
        let mut listening = lock(&self.listening);
        if listening.is_none() {
            *listening = Some(listen(self.port, &self.shared));
        }
    }

    /// The requests that came so far.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.shared.seen).clone()
    }

    /// How many of them there were by method.
    pub fn count(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for request in lock(&self.shared.seen).iter() {
            *counts.entry(request.method.clone()).or_default() += 1;
        }
        counts
    }

    /// Begins to count anew.
    pub fn forget(&self) {
        lock(&self.shared.seen).clear();
    }
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "proxy at {} before port {}", self.port, self.shared.upstream)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        self.leave();
    }
}

fn listen(port: u16, shared: &Arc<Shared>) -> Listening {
    let shared = Arc::clone(shared);
    Listening::on(port, move |stream| shared.serve(stream))
}

impl Shared {
    /// Treats the requests of one connection until it ends.
    fn serve(&self, stream: &TcpStream) {
        let mut reader = BufReader::new(stream);
        while let Ok(Some(request)) = Message::read_request(&mut reader) {
            let number = self.note(&request);
            let last = request.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
            let act = {
                let seen = lock(&self.seen).get(number).cloned();
                // It was forgotten at this very moment: then nobody asks for it either.
                let Some(seen) = seen else { return };
                let decide = Arc::clone(&lock(&self.decide));
                decide(&seen)
            };
            if !matches!(self.treat(stream, request, number, &act), Ok(true)) {
                // What follows the last handle's end is a reset, not an orderly end.
                set_socket_linger(stream, Some(Duration::ZERO)).ok();
                return;
            }
            if last {
                return;
            }
        }
    }

    /// Gives the request's place in the list.
    fn note(&self, request: &Message) -> usize {
        let (path, query) = request.target().split_once('?').unwrap_or((request.target(), ""));
        let mut seen = lock(&self.seen);
        let number = seen.len();
        seen.push(Seen {
            number: number as u64,
            method: request.method().to_owned(),
            path: decode(path),
            query: query.to_owned(),
            range: ["range", "x-ms-range"].iter().find_map(|name| request.header(name)).map(str::to_owned),
            create: request.header("if-none-match") == Some("*")
                || request.header("x-goog-if-generation-match") == Some("0"),
            status: None,
        });
        number
    }

    /// Whether the connection goes on.
    fn treat(
        &self,
        mut stream: &TcpStream,
        mut request: Message,
        number: usize,
        act: &Act,
    ) -> io::Result<bool> {
        match act {
            Act::Reset => return Ok(false),
            Act::Stall(time) => {
                let start = Instant::now();
                while start.elapsed() < *time && !self.over.load(Ordering::SeqCst) {
                    thread::sleep(Duration::from_millis(20));
                }
                return Ok(false);
            }
            Act::Answer(status, headers, body) => {
                let body = if request.method() == "HEAD" { "" } else { body.as_str() };
                let answer = Message::answer(*status, body);
                let answer = headers.iter().fold(answer, |answer, (name, value)| answer.with(name, value));
                answer.write(&mut stream)?;
                return Ok(true);
            }
            Act::Without(header) => request.remove(header),
            _ => {}
        }
        let mut answer = exchange(TcpStream::connect(("127.0.0.1", self.upstream))?, &request)?;
        if let Some(seen) = lock(&self.seen).get_mut(number) {
            seen.status = Some(answer.status());
        }
        answer.remove("connection");
        answer.start = answer.start.replacen("HTTP/1.0", "HTTP/1.1", 1);
        match act {
            Act::Lose => return Ok(false),
            Act::Cut => {
                if !answer.body.is_empty() {
                    stream.write_all(&answer.head())?;
                    stream.write_all(&answer.body[..answer.body.len() / 2])?;
                    stream.flush()?;
                    // A reset at once would take away what was sent.
                    thread::sleep(Duration::from_millis(50));
                }
                return Ok(false);
            }
            Act::WrongEtag if answer.header("etag").is_some() => answer.set("etag", "\"0123456789abcdef\""),
            Act::Corrupt => {
                let middle = answer.body.len() / 2;
                answer.body.get_mut(middle).into_iter().for_each(|byte| *byte ^= 0x10);
            }
            Act::Slow(rate) => {
                stream.write_all(&answer.head())?;
                for part in answer.body.chunks((rate / 20).max(1)) {
                    stream.write_all(part)?;
                    stream.flush()?;
                    thread::sleep(Duration::from_millis(50));
                }
                return Ok(true);
            }
            _ => {}
        }
        answer.write(&mut stream)?;
        Ok(true)
    }
}

/// One number of a sequence that looks random (splitmix64).
fn scrambled(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
