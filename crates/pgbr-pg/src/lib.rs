//! A live or stopped PostgreSQL cluster: connection, backup start and stop, scan, control file, pages, WAL headers, recovery settings.
