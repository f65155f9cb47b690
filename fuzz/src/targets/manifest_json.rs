//! Summary and body of a manifest: what is read is written and read again.

use pgbr_manifest::manifest::{Body, Summary};

pub(crate) fn run(data: &[u8]) {
    if let Ok(summary) = Summary::from_json(data)
        && let Ok(text) = summary.to_json()
    {
        assert_eq!(Summary::from_json(&text), Ok(summary));
    }
    if let Ok(body) = Body::from_json(data) {
        let text = body.to_json().expect("a body has a JSON form");
        assert_eq!(Body::from_json(&text), Ok(body));
    }
}
