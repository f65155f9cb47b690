//! Real PostgreSQL clusters and other helpers for the tests of pgbr.
