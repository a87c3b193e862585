//! The kernel adapter.
