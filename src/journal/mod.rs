//! The record of operations since the last checkpoint.
