//! Ways in for the fuzz targets, to parsers that are this crate's own business. They are there with `--cfg fuzzing` alone.

/// The host of a store: what is read is printed and read again.
pub fn endpoint(text: &str) {
    crate::request::read_endpoint(text);
}

/// A command that gives a secret, and what it printed.
pub fn secret(text: &str) {
    crate::secrets::read(text);
}
