//! The engine by its public functions, on real clusters and on stores that fail.

#![expect(clippy::unwrap_used, reason = "what fails in a test ends it")]

mod archiving;
mod example;
mod expire;
mod faulty_copy;
mod faulty_store;
mod sweep;
mod window;
