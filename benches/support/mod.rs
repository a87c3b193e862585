//! What the benchmarks share.

// Each of them uses a part of it.
#![allow(dead_code)]

pub(crate) mod amber;
pub(crate) mod drivers;
pub(crate) mod failure;
pub(crate) mod mount_point;
pub(crate) mod programs;
mod signals;
