//! A pool: its volumes, their heads, and what makes all of them durable together.
//!
//! An operation takes an [`Update`] of its volume, reads the state, and commits a list of edits: one journal
//! record, applied to the tree in memory, and in the host's page cache before the operation is answered.
//! [`checkpoint`] makes everything durable in place now and then; [`recovery`] opens the last checkpoint and
//! repeats the journal.
//!
//! Invariants, verified by [`crate::check`] under these numbers:
//! - P1. At least one superblock slot is valid, and it leads to a whole checkpoint.
//! - P2. A block is in use in the space map exactly if a tree of the pool refers to it: a node of the
//!   checkpoint tree, of the catalog, of a member; an extent of a member; or a reference that reclaim has
//!   still to free.
//! - P3. Nodes are referred to by one lineage only; a data block has one reference and as many more as the
//!   shared table says, counted as reclaim will drop them.
//!
//! # Locks, in the order in which they are taken
//!
//! 1. `checkpointing`: one checkpoint at a time; held across its I/O.
//! 2. `readers`: shared by whoever reads data blocks after looking up where they lie; a checkpoint takes it
//!    alone for a moment before it gives freed blocks back.
//! 3. `gate`: shared by every change of the pool's state; alone for a freeze and for changes of the lineage.
//! 4. `volumes`, then a [`Volume`]'s head, in the order of the volumes' numbers.
//! 5. A snapshot view's tree.
//! 6. `lineage`, 7. `space`, `views`, `unsynced`, `answers`, the journal's and the cache's own: leaves.
//!
//! # Failure
//!
//! When something fails that leaves memory and disk at odds (a checkpoint's write or sync, an operation that
//! is in the journal and can't be applied, a panic half way), the pool is read-only until it is opened again: nothing is
//! acknowledged any more that might not be there. What was acknowledged before is in the journal.

mod answers;
mod background;
mod checkpoint;
mod error;
mod extents;
mod options;
mod recovery;
mod scrub;
mod snapshots;
mod source;
mod space;
mod store;
mod sync;
mod volume;
mod volumes;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::cache::NodeCache;
use crate::device::Storage;
use crate::format::{BLOCK_SIZE, Epoch, NODE_SIZE, Timestamp, VolumeId};
use crate::journal::Journal;
use crate::snapshot::Lineage;
use crate::space::SpaceMap;
use crate::threads::{AtomicBool, AtomicU64, Mutex, RwLock};

pub use crate::btree::Reader;
pub use answers::EarlierAnswers;
pub use error::Error;
pub use options::{
    Clock, CreateOptions, Intent, OpenOptions, PoolStatus, SnapshotInfo, VolumeInfo,
};
pub(crate) use recovery::read_superblock;
pub use scrub::{PathOfDamage, ScrubDamage, ScrubHooks, ScrubPhase, ScrubPosition, ScrubState};
pub use snapshots::check_snapshot_name;
pub use source::{ReadExtents, ReadGuard, SnapshotView, Source};
pub use volume::{Fresh, Space, Update, Volume};
pub use volumes::check_volume_name;

/// Result of an operation on a pool.
pub type Result<T> = std::result::Result<T, Error>;

/// An open pool.
#[derive(Debug)]
pub struct Pool {
    pub(crate) storage: Storage,
    pub(crate) cache: NodeCache,
    options: OpenOptions,
    uuid: [u8; 16],
    seed: [u8; 32],
    created: Timestamp,
    journal: Journal,
    gate: RwLock<()>,
    readers: RwLock<()>,
    volumes: RwLock<BTreeMap<VolumeId, Arc<Volume>>>,
    lineage: Mutex<Lineage>,
    space: Mutex<SpaceMap>,
    views: Mutex<source::Views>,
    unsynced: sync::Unsynced,
    answers: answers::Answers,
    checkpointing: Mutex<checkpoint::CheckpointState>,
    epoch: AtomicU64,
    generation: AtomicU64,
    /// Whether anything changed since the last freeze.
    changed: AtomicBool,
    has_shared: AtomicBool,
    /// Nodes made since the last freeze.
    dirty_nodes: AtomicU64,
    /// Nodes that heads share with the snapshots that they grew from, at most.
    shared_nodes: AtomicU64,
    /// Bytes promised to writes that are still to come, of all volumes.
    promised_bytes: AtomicU64,
    /// Blocks that the data file's length covers.
    grown_blocks: Mutex<u64>,
    failure: Mutex<Option<String>>,
    background: Arc<background::Background>,
    scrub: scrub::Scrub,
}

/// A change under way; see [`Pool::changing`]. It ends before the locks are let go.
struct Changing<'a> {
    pool: &'a Pool,
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let error = Error::Corrupt("a thread panicked".into());
            self.pool.fail("changing the pool's state", error);
        }
    }
}

impl Pool {
    /// Current epoch.
    fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Acquire))
    }

    /// The time now, by the pool's clock.
    pub fn now(&self) -> Timestamp {
        self.options.clock.now()
    }

    /// Key of the hashes of names.
    pub fn hash_seed(&self) -> [u8; 32] {
        self.seed
    }

    /// Makes the pool read-only because of `error`, and returns it.
    fn fail(&self, what: &str, error: Error) -> Error {
        let mut failure = self.failure.lock();
        if failure.is_none() {
            tracing::error!("the pool is read-only from now on: {what}: {error}");
            *failure = Some(format!("{what}: {error}"));
        }
        error
    }

    /// Begins a change of several parts that belong together: if a panic cuts it off, the pool is read-only
    /// from then on, so that no checkpoint makes a half of it durable. The journal has what is needed.
    fn changing(&self) -> Changing<'_> {
        Changing { pool: self }
    }

    fn check_failed(&self) -> Result<()> {
        match &*self.failure.lock() {
            Some(why) => Err(Error::ReadOnly(why.clone())),
            None => Ok(()),
        }
    }

    /// Drops every clean node from memory: for tests of cold reads.
    pub fn drop_cache(&self) {
        self.cache.clear();
    }

    /// Figures of the pool.
    pub fn status(&self) -> PoolStatus {
        let block = BLOCK_SIZE as u64;
        let space = self.space.lock();
        let (total, used) = (space.total_blocks(), space.used_blocks() + space.in_flight_blocks());
        let (free, held) = (space.free_blocks(), space.held_blocks());
        drop(space);
        let cache = self.cache.status();
        PoolStatus {
            uuid: self.uuid,
            created: self.created,
            total_bytes: total * block,
            used_bytes: used * block,
            free_bytes: free * block,
            held_bytes: held * block,
            host_available_bytes: self.storage.data.available_bytes().unwrap_or(0),
            reclaim_pending: self.lineage.lock().work_left(),
            journal_used_bytes: self.journal.used_bytes(),
            journal_capacity_bytes: self.journal.capacity_bytes(),
            dirty_bytes: self.dirty_nodes.load(Ordering::Relaxed) * NODE_SIZE as u64,
            cache_bytes: cache.bytes,
            cache_limit_bytes: cache.limit_bytes,
            epoch: self.epoch(),
            checkpoint_generation: self.generation.load(Ordering::Relaxed),
            read_only: self.failure.lock().clone(),
        }
    }
}
