//! What a PostgreSQL backup is: labels, LSNs, index, manifest and plans, without any I/O.
