//! The encodings as they were written by the first version.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test that calls them")]

mod vectors;
