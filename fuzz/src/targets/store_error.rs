//! What the server of a store says of a request that failed.

pub(crate) fn run(text: &str) {
    pgbr_repo::fuzzing::store_error(text);
}
