//! Whole objects of every kind: given back, changed, cut, swapped, and as they were written by the first version.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test that calls them")]

mod objects;
mod round_trip;
mod tamper;
mod vectors;
mod writers;
