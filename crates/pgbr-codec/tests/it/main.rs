//! Whole objects of every kind: given back, changed, cut, swapped, and as they were written by the first version.

mod objects;
mod round_trip;
mod tamper;
mod vectors;
