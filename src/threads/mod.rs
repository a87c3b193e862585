//! Locks, condition variables, atomic numbers and threads of the engine.
//!
//! In every ordinary build these are those of parking_lot and of std, under other names. With `--cfg shuttle`
//! they are shuttle's, whose scheduler runs one thread at a time and decides at each of their calls which one:
//! `tests/shuttle` tries schedules of the engine as it is, not of a model of it.
//!
//! Device's locks are not among them, nor those of the fuse adapter and of the daemon: the former are held
//! for a copy of bytes, the latter never meet a shuttle test.

#[cfg(shuttle)]
mod shuttle;

#[cfg(not(shuttle))]
pub(crate) use parking_lot::{
    Condvar, MappedRwLockReadGuard, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard,
};
#[cfg(not(shuttle))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64};
#[cfg(not(shuttle))]
pub(crate) use std::thread;

#[cfg(shuttle)]
pub(crate) use self::shuttle::{
    Condvar, MappedRwLockReadGuard, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard,
};
#[cfg(shuttle)]
pub use self::shuttle::{plant, planted};
#[cfg(shuttle)]
pub(crate) use ::shuttle::sync::atomic::{AtomicBool, AtomicU64};
#[cfg(shuttle)]
pub(crate) use ::shuttle::thread;

/// A fault in what threads owe each other. A shuttle test plants it, to see that it would be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// A freeze lets operations in between the roots that it takes and the journal's position.
    FreezeInTwoSteps,
    /// Blocks freed before a freeze are given back before the superblock is written that no longer needs them.
    ReleaseBeforeSuperblock,
    /// Blocks are given back that somebody may still be reading.
    ReadersNotAwaited,
    /// The lineage is changed while operations go on.
    GateLeftOpen,
    /// The cache keeps the node of an address that is handed out again.
    NothingForgotten,
}

/// Whether a fault is planted: never, and known when compiling.
#[cfg(not(shuttle))]
pub(crate) const fn planted(_: Planted) -> bool {
    false
}
