//! Room: what operations may take, what is kept back, and when they must wait for a checkpoint.

use std::sync::atomic::Ordering;

use super::{Error, Intent, Pool, Result};
use crate::format::{BLOCK_SIZE, Edit, NODE_BLOCKS, NODE_SIZE, Run};
use crate::space::Class;

/// Most that is kept back for deletes and checkpoints.
const MAX_RESERVE_BLOCKS: u64 = (64 << 20) / BLOCK_SIZE as u64;
/// Most that is kept back for copies of nodes that snapshots share: one part in so many of the pool.
const COPIES_PART: u64 = 4;
/// Most of the host's space that is kept for checkpoints on a full host: half of what the dirty nodes may
/// take under the default memory limit, and what a checkpoint writes as a rule.
const MAX_HOST_RESERVE_BYTES: u64 = 32 << 20;
/// The data file grows in steps: it is sparse, and a longer file costs nothing.
const GROW_BLOCKS: u64 = (256 << 20) / BLOCK_SIZE as u64;
/// Shares of the memory limit, in eighths: clean nodes; new dirty nodes that call for a checkpoint; new
/// dirty nodes at which operations wait for one. Those that a checkpoint is writing come on top of the new
/// ones, and are no more than called for it: five, two and one are eight.
const CLEAN_EIGHTHS: u64 = 5;
const SOON_EIGHTHS: u64 = 1;
const NOW_EIGHTHS: u64 = 2;

/// How much a checkpoint is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    None,
    Soon,
    Now,
}

/// Bytes of so many blocks, as far as the number holds them: blocks that are shared count each time.
pub(super) fn bytes_of(blocks: u64) -> u64 {
    blocks.saturating_mul(BLOCK_SIZE as u64)
}

/// Bytes of clean nodes to cache under a memory limit.
pub(super) fn clean_bytes(cache_bytes: u64) -> u64 {
    cache_bytes / 8 * CLEAN_EIGHTHS
}

/// What `df` can say of a pool.
pub(super) struct Figures {
    pub(super) total_bytes: u64,
    pub(super) free_bytes: u64,
}

impl Pool {
    /// Blocks that only deletes and checkpoints may take.
    fn reserve_blocks(&self, total: u64) -> u64 {
        (total / 16).min(MAX_RESERVE_BLOCKS)
    }

    /// Blocks that copies of so many nodes take: to delete a file that a snapshot has, its nodes are copied, and
    /// nothing is freed. Each is copied once.
    fn blocks_of_copies(nodes: u64, total: u64) -> u64 {
        nodes.saturating_mul(u64::from(NODE_BLOCKS)).min(total / COPIES_PART)
    }

    /// Blocks that what takes space leaves alone: the reserve, and room for copies of all nodes that heads share
    /// with snapshots, at most [`COPIES_PART`].
    fn kept_from_growth(&self, total: u64) -> u64 {
        let copies = Self::blocks_of_copies(self.shared_nodes.load(Ordering::Relaxed), total);
        self.reserve_blocks(total) + copies
    }

    /// Blocks that data leaves alone. What was promised, and what belongs to an operation that removes, may take a
    /// part of the reserve: nodes of others may have taken room between the promise and the write.
    fn kept_from_data(&self, intent: Intent, total: u64) -> u64 {
        let kept = self.kept_from_growth(total);
        match intent {
            Intent::Grow => {
                let promised = self.promised_bytes.load(Ordering::Relaxed);
                kept.saturating_add(promised.div_ceil(BLOCK_SIZE as u64))
            }
            Intent::Promised | Intent::Shrink => kept - self.reserve_blocks(total) / 8,
        }
    }

    /// Fails unless there is room to delete everything once heads share so many more nodes with snapshots.
    pub(super) fn check_room_for_copies(&self, more_nodes: u64) -> Result<()> {
        let space = self.space.lock();
        let total = space.total_blocks();
        let nodes = self.shared_nodes.load(Ordering::Relaxed) + more_nodes;
        let kept = self.reserve_blocks(total) + Self::blocks_of_copies(nodes, total);
        let promised = self.promised_bytes.load(Ordering::Relaxed).div_ceil(BLOCK_SIZE as u64);
        let kept = kept.saturating_add(promised);
        if space.free_blocks() + space.held_blocks() <= kept { Err(Error::NoSpace) } else { Ok(()) }
    }

    /// Returns the least room for nodes with which an operation of this kind may begin.
    ///
    /// Data leaves all that is kept back to nodes. Of the reserve, what only takes space may use one half, so that
    /// deletes have the other.
    fn node_floor(&self, intent: Intent, total: u64) -> u64 {
        let reserve = self.reserve_blocks(total);
        match intent {
            Intent::Grow => self.kept_from_growth(total) - reserve / 2,
            Intent::Promised => self.kept_from_growth(total) - reserve / 8 * 5,
            Intent::Shrink => reserve / 8 * 3,
        }
    }

    /// Returns the room for nodes that no operation on a head may take: a copy of a large tree, one delete
    /// after the other, would leave none for checkpoints, for reclaim, and for the deletion of the snapshot
    /// that the tree is copied from.
    pub(super) fn kept_blocks(&self, total: u64) -> u64 {
        self.reserve_blocks(total) / 4
    }

    /// Fails unless there is room for the nodes that `edits` can add to a tree of `level` once the way to
    /// their keys is dirty. An operation that is in the journal must not run out of it.
    pub(super) fn check_room_for_splits(&self, edits: &[Edit], level: u8) -> Result<()> {
        let adding =
            |edit: &&Edit| matches!(edit, Edit::Put { .. } | Edit::Map { .. } | Edit::Unmap { .. });
        let nodes = edits.iter().filter(adding).count() as u64 + u64::from(level) + 1;
        let room = self.space.lock().node_blocks();
        if nodes * u64::from(NODE_BLOCKS) > room { Err(Error::NoSpace) } else { Ok(()) }
    }

    /// Nodes made since the last freeze that call for a checkpoint, and at which operations wait for one.
    ///
    /// Each may be a copy whose original is not given back before: when the pool is nearly full there may be
    /// no more of them than the reserve has room for twice.
    fn dirty_limits(&self, for_nodes: u64, reserve: u64) -> (u64, u64) {
        let eighth = self.options.cache_bytes / 8 / NODE_SIZE as u64;
        let room = for_nodes.max(reserve / 2) / u64::from(NODE_BLOCKS) / 2;
        ((SOON_EIGHTHS * eighth).min(room / 2).max(8), (NOW_EIGHTHS * eighth).min(room).max(16))
    }

    /// Waits until an operation may begin: room in the journal, not too many dirty nodes, space.
    pub(super) fn throttle(&self, intent: Intent) -> Result<()> {
        self.check_failed()?;
        let need = self.need(intent);
        if need >= Need::Soon {
            self.background.wake();
        }
        if need == Need::Now {
            self.checkpoint_if(&|| self.need(intent) == Need::Now)?;
        }
        if intent != Intent::Shrink {
            let total = self.space.lock().total_blocks();
            // On a full host what is left is for deletes and checkpoints, as on a full pool.
            if !self.keep_host_reserve(total) {
                return Err(Error::NoSpace);
            }
            let space = self.space.lock();
            let floor = self.node_floor(intent, total);
            let kept = self.kept_from_data(intent, total);
            if space.free_blocks() <= kept || space.node_blocks() <= floor {
                return Err(Error::NoSpace);
            }
        }
        Ok(())
    }

    /// Keeps space of the host for checkpoints; false when the host has none.
    fn keep_host_reserve(&self, total: u64) -> bool {
        let bytes = self.reserve_blocks(total) * BLOCK_SIZE as u64;
        self.storage.data.keep_reserve(bytes.min(MAX_HOST_RESERVE_BYTES))
    }

    /// How much an operation that is about to begin needs a checkpoint.
    fn need(&self, intent: Intent) -> Need {
        let (used, capacity) = (self.journal.used_bytes(), self.journal.capacity_bytes());
        let (total, free, for_nodes, held) = {
            let space = self.space.lock();
            let (total, free) = (space.total_blocks(), space.free_blocks());
            (total, free, space.node_blocks(), space.held_blocks())
        };
        let dirty = self.dirty_nodes.load(Ordering::Relaxed);
        let reserve = self.reserve_blocks(total);
        let (soon, now) = self.dirty_limits(for_nodes, reserve);
        // What is freed comes back with a checkpoint: a delete on a full pool waits for it when even the
        // reserve runs out, a write when it would be refused.
        let floor = match intent {
            Intent::Grow | Intent::Promised => self.kept_from_data(intent, total),
            Intent::Shrink => reserve / 2,
        };
        let short = free <= floor || for_nodes <= self.node_floor(intent, total);
        if used > capacity / 4 * 3 || dirty > now || (short && held > 0) {
            Need::Now
        } else if used > capacity / 2 || dirty > soon {
            Need::Soon
        } else {
            Need::None
        }
    }

    /// Allocates 1 to `want` consecutive blocks for data, in flight.
    pub(super) fn allocate_data(&self, want: u32, intent: Intent) -> Result<Run> {
        self.check_failed()?;
        for again in [true, false] {
            let (run, held) = {
                let mut space = self.space.lock();
                let total = space.total_blocks();
                let kept = self.kept_from_data(intent, total);
                space.set_node_reserve(kept.min(self.kept_from_growth(total)));
                let room = space.free_blocks().saturating_sub(kept).min(u64::from(want)) as u32;
                let run = if room > 0 { space.allocate(Class::Data, room) } else { None };
                (run, space.held_blocks())
            };
            match run {
                Some(run) => {
                    let grown = self.grow_to(run.end());
                    if grown.is_err() {
                        self.space.lock().abandon_in_flight(run);
                    }
                    return grown.map(|()| run);
                }
                None if again && held > 0 => self.checkpoint()?,
                None => break,
            }
        }
        Err(Error::NoSpace)
    }

    /// Makes the data file long enough for the blocks before `end`.
    pub(super) fn grow_to(&self, end: u64) -> Result<()> {
        let mut grown = self.grown_blocks.lock();
        if end > *grown {
            let blocks = end.next_multiple_of(GROW_BLOCKS);
            let bytes = blocks * BLOCK_SIZE as u64;
            self.storage.data.grow(bytes).map_err(Error::io("growing the data file"))?;
            *grown = blocks;
        }
        Ok(())
    }

    /// What can still be written, and how much the pool could hold on this host.
    pub(super) fn space_figures(&self) -> Figures {
        let (total, free, held) = {
            let space = self.space.lock();
            (space.total_blocks(), space.free_blocks(), space.held_blocks())
        };
        let block = BLOCK_SIZE as u64;
        let host = self.storage.data.available_bytes().unwrap_or(u64::MAX);
        // What is held comes back by itself; what the host no longer has does not.
        let unreserved = (free + held).saturating_sub(self.kept_from_growth(total)) * block;
        let free_bytes = unreserved.min(host);
        let used_bytes = total.saturating_sub(free + held) * block;
        Figures { total_bytes: (total * block).min(used_bytes.saturating_add(host)), free_bytes }
    }
}
