//! The record of a repository that is kept elsewhere, and that others may have changed.

pub(crate) fn run(bytes: &[u8]) {
    pgbr::fuzzing::witness(bytes);
}
