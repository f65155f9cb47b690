//! Password files of the PostgreSQL client library.

#![no_main]

use pgbr_cli::libpq_env::{PassKey, Passfile};

libfuzzer_sys::fuzz_target!(|text: &str| {
    let key = PassKey { host: Some("db"), port: 5432, database: "app", user: "backup" };
    if let Some(password) = Passfile::parse(text).lookup(&key) {
        assert!(!password.is_empty());
    }
});
