//! Stage benchmarks of pgbr.
