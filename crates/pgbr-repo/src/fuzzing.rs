//! Ways in for the fuzz targets, to parsers that are this crate's own business. They are there with `--cfg fuzzing` alone.

use crate::keys::Layout;

/// `repo.json`: what is read keeps the bounds, and is written and read again.
pub fn repo_json(text: &[u8]) {
    crate::repo_file::read_and_write(&Layout::new().repo_json(), text);
}

/// The content of a lock file, its name, and the system's list of locks.
pub fn locks(text: &[u8]) {
    crate::lock::read(text);
}

/// What the server of a store said of a request that failed: it stays in one line.
pub fn store_error(text: &str) {
    let told = crate::error::Told::parse(text);
    assert!(!told.text.contains('\n'), "{:?}", told.text);
    let _ = (told.is_missing_object(), told.meaning());
}

/// A listing of the versions of a bucket: it says where it goes on, or is the last.
#[cfg(feature = "s3")]
pub fn s3_versions(body: &[u8]) {
    crate::cloud::read_s3_versions(body);
}
