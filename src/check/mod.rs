//! Verifies every invariant of a pool, offline and without changing it.
//!
//! [`check`] lays a scratch layer in memory over the pool's devices, opens the pool on it (which replays the
//! journal) and makes a checkpoint there. What it then verifies is that checkpoint, read from the devices
//! past the engine: the superblock, the checkpoint tree, the catalog, every lineage member, the space map,
//! and what is stored in the volumes. The engine's decoders are used, its logic is not.
//!
//! Members are taken parents first, and each is compared with its parent: what both have is skipped by whole
//! subtrees, so that a node is read once however many snapshots share it, and ten thousand snapshots with
//! small changes cost what the changes do. What holds for the parent and for the difference holds for the
//! member, so that sums (blocks, links, entries) are compared as differences.
//!
//! # Invariants
//! - T1-T6: [`crate::btree`]. L1-L6: [`crate::snapshot`]. P1-P3: [`crate::pool`]. E1-E3: extents.
//! - C1. Every record of the checkpoint tree and of the catalog decodes, under a key that the format knows.
//! - C2. There is a root for the catalog and for every member, and for nothing else; numbers that come next
//!   are larger than all in use.
//! - C3. A volume and its head name each other; a snapshot's volume exists, its number and name are its own.
//! - D1. Every block of a written extent has the checksum that the extent says (with [`Options::data`]).
//! - F0. Every record of a volume's tree decodes, under a key that the format knows, and belongs to an inode.
//! - F1-F8: [`crate::fs`] under the numbers 1 to 8 (F5, which reads data, with [`Options::data`]).
//!
//! Memory: a sorted list of the runs of blocks in use, about 50 bytes for each inode that a member has and
//! its parent has not, and the leaves that differ; never the content of the pool.
//!
//! Absent on purpose: repair.

mod catalog;
mod diff;
mod extents;
mod files;
mod inode;
mod members;
mod overlay;
mod report;
mod space;
mod tree;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use crate::cache::NodeCache;
use crate::device::{BlockDevice, Storage};
use crate::format::{SLOT_OFFSETS, SLOT_SIZE, Superblock, Timestamp};
use crate::pool::{self, Clock, OpenOptions, Pool};

pub use report::{Counts, Problem, Report};

use report::Reporter;
use space::RunCounts;

/// Nodes kept in memory: those of a parent are read again for each of its children.
const CACHE_BYTES: u64 = 64 << 20;

/// What to verify.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Reads every data block and verifies its checksum.
    pub data: bool,
    /// Verifies that volumes hold a filesystem (F0 to F8); without it, any keys.
    pub files: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { data: false, files: true }
    }
}

/// Time does not matter to what is only looked at.
struct NoClock;

impl Clock for NoClock {
    fn now(&self) -> Timestamp {
        Timestamp::default()
    }
}

/// Verifies the pool on `storage`, which nobody has open and which stays as it is.
///
/// `progress` is called now and then with the counts so far. What is wrong is in the report; an error says
/// that this is no pool, or none that this program can read.
pub fn check(
    storage: &Storage,
    options: &Options,
    progress: &mut dyn FnMut(&Counts),
) -> pool::Result<Report> {
    pool::read_superblock(&*storage.superblock)?;
    let mut report = Reporter::new(progress);
    check_slots(&*storage.superblock, &mut report);
    let scratch = overlay::over(storage);
    let scratch = match settle(&scratch) {
        Ok(()) => scratch,
        Err(error) => {
            report.problem("P1", format!("the pool can't be opened: {error}"));
            overlay::over(storage)
        }
    };
    let superblock = pool::read_superblock(&*scratch.superblock)?;
    let mut checker = Checker {
        cache: NodeCache::new(Arc::clone(&scratch.data), CACHE_BYTES),
        data: Arc::clone(&scratch.data),
        options: *options,
        superblock,
        report,
        nodes: RunCounts::default(),
        references: RunCounts::default(),
        incomplete: false,
    };
    checker.run();
    Ok(checker.report.finish())
}

/// Opens the pool and makes what its journal says part of its checkpoint.
fn settle(storage: &Storage) -> pool::Result<()> {
    let options = OpenOptions {
        cache_bytes: CACHE_BYTES,
        commit_interval: Duration::MAX,
        background: false,
        ..OpenOptions::new(Arc::new(NoClock))
    };
    let pool = Pool::open(storage.clone(), options)?;
    pool.close()
}

/// One damaged slot is no problem, because a power cut can tear the one being written, but it is counted.
fn check_slots(device: &dyn BlockDevice, report: &mut Reporter<'_>) {
    for offset in SLOT_OFFSETS {
        let mut slot = vec![0; SLOT_SIZE];
        let read = device.read_at(offset, &mut slot);
        if read.is_ok() && Superblock::decode(&slot).is_ok() {
            report.counts.superblock_slots += 1;
        }
    }
}

/// A check under way.
struct Checker<'a> {
    cache: NodeCache,
    data: Arc<dyn BlockDevice>,
    options: Options,
    superblock: Superblock,
    report: Reporter<'a>,
    /// Blocks of nodes.
    nodes: RunCounts,
    /// References to data blocks, and dead ones to any that reclaim has still to free.
    references: RunCounts,
    /// Some node could not be read: what lies below it is unknown, and space can't be compared.
    incomplete: bool,
}

impl Checker<'_> {
    fn run(&mut self) {
        let Some(roots) = self.check_checkpoint_tree() else { return };
        let Some(catalog) = self.check_catalog(&roots) else { return };
        self.check_lineage(&catalog, &roots);
        self.check_chains(&catalog);
        self.check_members(&catalog, &roots);
        self.check_space(&roots.used, &catalog.shared);
    }
}
