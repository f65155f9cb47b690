//! Keys of a repository's objects, as a store lists them.

#![no_main]

use object_store::path::Path;
use pgbr_repo::ParsedKey;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(path) = Path::parse(text) {
        ParsedKey::parse(&path);
    }
});
