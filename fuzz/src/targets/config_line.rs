//! Lines of PostgreSQL's configuration files.

pub(crate) fn run(line: &str) {
    pgbr_pg::fuzzing::config_line(line);
}
