//! Backup, restore and WAL archiving for PostgreSQL as plain functions: the engine of pgbr.
