//! `pgbr-pg` against real servers, old and new.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod backup;
mod cycle;
mod pages;
mod scan;
mod session;
mod support;
