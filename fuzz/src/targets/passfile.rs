//! Password files of the PostgreSQL client library.

use pgbr_cli::libpq_env::{PassKey, Passfile};

pub(crate) fn run(text: &str) {
    let key = PassKey { host: Some("db"), port: 5432, database: "app", user: "backup" };
    if let Some(password) = Passfile::parse(text).lookup(&key) {
        assert!(!password.is_empty());
    }
}
