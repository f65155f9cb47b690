//! The pgbr program: backup and restore for PostgreSQL with pgBackRest's commands, options and config files.
