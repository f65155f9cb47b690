//! The proxy does what it was told, and counts.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use pgbr_testkit::{Act, Bucket, GcsServer, Proxy, StoreKind};

/// Sends one request and gives all that came back, and whether the connection ended in order.
fn say(proxy: &Proxy, method: &str, key: &str, headers: &str, body: &str) -> (String, bool) {
    let address = proxy.endpoint().replace("http://", "");
    let Ok(mut stream) = TcpStream::connect(&address) else { return ("refused".to_owned(), false) };
    let length = body.len();
    let text = format!(
        "{method} {key} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(text.as_bytes()).expect("the proxy reads");
    let mut said = Vec::new();
    let orderly = stream.read_to_end(&mut said).is_ok();
    (String::from_utf8_lossy(&said).into_owned(), orderly)
}

fn setting() -> (Bucket, Proxy, String) {
    let bucket = GcsServer::shared().bucket();
    let proxy = Proxy::before(&bucket);
    let key = format!("/{}/a", bucket.name());
    let (said, _) = say(&proxy, "PUT", &key, "", "0123456789");
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    (bucket, proxy, key)
}

#[test]
fn every_act_is_seen_by_the_client() {
    let (_bucket, proxy, key) = setting();
    let get = |act: Act| {
        proxy.act(move |_| act.clone());
        say(&proxy, "GET", &key, "", "")
    };
    let (whole, orderly) = get(Act::Pass);
    assert!(whole.ends_with("0123456789") && orderly, "{whole}");
    assert_eq!(get(Act::Reset), (String::new(), false));
    assert_eq!(get(Act::Lose), (String::new(), false));
    assert_eq!(get(Act::Stall(Duration::from_millis(10))), (String::new(), false));
    let (cut, orderly) = get(Act::Cut);
    assert!(cut.contains("content-length: 10\r\n") && cut.ends_with("\r\n\r\n01234") && !orderly, "{cut}");
    let (other, _) = get(Act::busy(503, Some(7)));
    assert!(other.starts_with("HTTP/1.1 503") && other.contains("retry-after: 7"), "{other}");
    let (other, _) = get(Act::refuse(StoreKind::Azure, 403, "AuthorizationFailure"));
    assert!(
        other.starts_with("HTTP/1.1 403") && other.contains("x-ms-error-code: AuthorizationFailure"),
        "{other}"
    );
    let (corrupt, _) = get(Act::Corrupt);
    assert!(corrupt.ends_with("01234%6789"), "{corrupt}");
    let (wrong, _) = get(Act::WrongEtag);
    assert!(wrong.contains("etag: \"0123456789abcdef\"") && wrong.ends_with("0123456789"), "{wrong}");
    let start = Instant::now();
    assert!(get(Act::Slow(40)).0.ends_with("0123456789"));
    assert!(start.elapsed() > Duration::from_millis(240));
}

#[test]
fn creates_overwrite_where_the_condition_is_taken_away_and_happen_where_the_answer_is_lost() {
    let (_bucket, proxy, key) = setting();
    let create = "x-goog-if-generation-match: 0\r\n";
    assert!(say(&proxy, "PUT", &key, create, "new").0.starts_with("HTTP/1.1 412"));
    proxy.act(|_| Act::Without("x-goog-if-generation-match"));
    assert!(say(&proxy, "PUT", &key, create, "new").0.starts_with("HTTP/1.1 200"));
    proxy.act(|_| Act::Lose);
    assert_eq!(say(&proxy, "PUT", &key, "", "newer").0, "");
    proxy.pass();
    assert!(say(&proxy, "GET", &key, "", "").0.ends_with("newer"));

    let seen = proxy.seen();
    let told: Vec<_> = seen.iter().map(|one| (one.method.as_str(), one.create, one.status)).collect();
    assert_eq!(
        told,
        [
            ("PUT", false, Some(200)),
            ("PUT", true, Some(412)),
            ("PUT", true, Some(200)),
            ("PUT", false, Some(200)),
            ("GET", false, Some(200))
        ]
    );
    assert!(seen.iter().all(|one| one.path == key), "{seen:?}");
    assert_eq!(proxy.count()["PUT"], 4);
    proxy.forget();
    assert!(proxy.seen().is_empty());
}

#[test]
fn it_goes_away_and_comes_back_to_the_same_place() {
    let (_bucket, proxy, key) = setting();
    proxy.leave();
    assert_eq!(say(&proxy, "GET", &key, "", "").0, "refused");
    proxy.come_back();
    assert!(say(&proxy, "GET", &key, "", "").0.ends_with("0123456789"));
}

#[test]
fn as_many_requests_break_as_were_to() {
    let (_bucket, proxy, key) = setting();
    proxy.act(|_| Act::Pass);
    let broken = |seed: u64| {
        proxy.forget();
        proxy.break_some(30, seed);
        (0..40).map(|_| say(&proxy, "HEAD", &key, "", "").0.starts_with("HTTP/1.1 200")).collect::<Vec<_>>()
    };
    let first = broken(1);
    let good = first.iter().filter(|good| **good).count();
    assert!((20..40).contains(&good), "{good} of 40 were good");
    assert_eq!(first, broken(1));
}
