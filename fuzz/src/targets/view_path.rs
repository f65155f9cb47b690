//! Paths in the view of a repository that tools made for pgBackRest have.

pub(crate) fn run(text: &str) {
    pgbr::fuzzing::view_path(text);
}
