//! AmberFS: a copy-on-write filesystem in user space whose snapshots are made with `mkdir`.
//!
//! The layers, lowest first; each imports only what stands above it in this list.

pub mod threads;

pub mod format;

pub mod device;

pub mod cache;

pub mod space;

pub mod btree;

pub mod journal;

pub mod snapshot;

pub mod pool;

pub mod fs;

pub mod check;

pub mod fuse;

pub mod daemon;

pub mod cli;
