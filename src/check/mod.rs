//! Verifies every invariant of a pool.
