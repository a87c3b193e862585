//! Room: what operations may take, what is kept back, and when they must wait for a checkpoint.

use std::sync::atomic::Ordering;

use super::{Error, Intent, Pool, Result};
use crate::format::{BLOCK_SIZE, NODE_SIZE, Run};
use crate::space::Class;

/// Most that is kept back for deletes and checkpoints.
const MAX_RESERVE_BLOCKS: u64 = (64 << 20) / BLOCK_SIZE as u64;
/// The data file grows in steps: it is sparse, and a longer file costs nothing.
const GROW_BLOCKS: u64 = (256 << 20) / BLOCK_SIZE as u64;
/// Dirty nodes that call for a checkpoint, and at which operations wait for one.
const DIRTY_NODES: u64 = (64 << 20) / NODE_SIZE as u64;
const MAX_DIRTY_NODES: u64 = 2 * DIRTY_NODES;

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

    /// Nodes that may be dirty before a checkpoint is due: fewer in a small pool, whose reserve must hold
    /// a copy of each.
    fn dirty_limits(&self, total: u64) -> (u64, u64) {
        let bound = self.reserve_blocks(total) / u64::from(crate::format::NODE_BLOCKS) / 2;
        (DIRTY_NODES.min(bound / 2).max(8), MAX_DIRTY_NODES.min(bound).max(16))
    }

    /// Waits until an operation may begin: room in the journal, not too many dirty nodes, space.
    pub(super) fn throttle(&self, intent: Intent) -> Result<()> {
        self.check_failed()?;
        let (used, capacity) = (self.journal.used_bytes(), self.journal.capacity_bytes());
        let (total, free, held) = {
            let space = self.space.lock();
            (space.total_blocks(), space.free_blocks(), space.held_blocks())
        };
        let dirty = self.dirty_nodes.load(Ordering::Relaxed);
        let (soon, now) = self.dirty_limits(total);
        let reserve = self.reserve_blocks(total);
        if used > capacity / 2 || dirty > soon {
            self.background.wake();
        }
        // What is freed comes back with a checkpoint: a delete on a full pool waits for it when even the
        // reserve runs out, a write when it would be refused.
        let short = match intent {
            Intent::Grow => free <= reserve && held > 0,
            Intent::Shrink => free <= reserve / 2 && held > 0,
        };
        if used > capacity / 4 * 3 || dirty > now || short {
            self.checkpoint()?;
        }
        if intent == Intent::Grow && self.space.lock().free_blocks() <= reserve {
            return Err(Error::NoSpace);
        }
        Ok(())
    }

    /// Allocates 1 to `want` consecutive blocks for data, in flight.
    pub(super) fn allocate_data(&self, want: u32) -> Result<Run> {
        self.check_failed()?;
        for again in [true, false] {
            let (run, held) = {
                let mut space = self.space.lock();
                let reserve = self.reserve_blocks(space.total_blocks());
                let room = space.free_blocks().saturating_sub(reserve).min(u64::from(want)) as u32;
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
        let unreserved = (free + held).saturating_sub(self.reserve_blocks(total)) * block;
        let free_bytes = unreserved.min(host);
        let used_bytes = total.saturating_sub(free + held) * block;
        Figures { total_bytes: (total * block).min(used_bytes.saturating_add(host)), free_bytes }
    }
}
