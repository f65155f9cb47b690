//! Listings of the versions of a bucket.

pub(crate) fn run(body: &[u8]) {
    pgbr_repo::fuzzing::s3_versions(body);
}
