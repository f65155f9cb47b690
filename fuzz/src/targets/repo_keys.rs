//! Keys of a repository's objects, as a store lists them.

use object_store::path::Path;
use pgbr_repo::ParsedKey;

pub(crate) fn run(text: &str) {
    if let Ok(path) = Path::parse(text) {
        ParsedKey::parse(&path);
    }
}
