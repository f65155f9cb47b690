//! Where backups live: repository layout, durable object storage, WAL archive, leases and pins.
