//! An exported key as text, with slips of the pen.

use data_encoding::BASE32_NOPAD;

/// A text, and bytes that get the digest which they must have: without it nothing behind it would be reached.
pub(crate) fn run(input: (&[u8], &[u8])) {
    let (exported, text) = input;
    pgbr::fuzzing::key_block(text);
    let digest = blake3::hash(exported);
    let check = BASE32_NOPAD.encode(&digest.as_bytes()[..5]);
    let digits = BASE32_NOPAD.encode(exported);
    let whole = format!("-----BEGIN PGBR KEY-----\n{digits}\n={check}\n-----END PGBR KEY-----\n");
    pgbr::fuzzing::key_block(whole.as_bytes());
    pgbr::fuzzing::key_block(&[text, b"\n", whole.as_bytes()].concat());
}
