//! Which blocks of the data file are free.
//!
//! The file is divided into regions of [`REGION_BLOCKS`] blocks. Every block is in one of four
//! states:
//!
//! - *free*: may be allocated;
//! - *in flight*: given to a writer, not yet referenced by any journaled operation;
//! - *used*: referenced by the state that a crash now would come back to, or by a tree in memory;
//! - *held*: freed, but the last durable checkpoint may still refer to it.
//!
//! ```text
//!          allocate            commit_in_flight            free
//!   free ------------> in flight -------------> used ------------> held (by generation)
//!    ^  <------------                            ^                   |
//!    |  abandon_in_flight                        |                   |
//!    |------------- allocate_node, reserve ------|                   |
//!    |<----------------------- release --------------------------- -|
//! ```
//!
//! A *generation* is the time between two freezes. [`SpaceMap::freeze`] begins a checkpoint: it
//! returns an image of each region that changed, and raises the generation.
//! [`SpaceMap::release`] ends it, once the checkpoint is durable.
//!
//! Invariants:
//!
//! 1. A block is allocated only from the state free; every other passage names the state that it
//!    expects, and a block found in another one is a panic or an error, never a silent change.
//! 2. An image says *used*, and nothing else, of the blocks that are used when the freeze happens.
//!    Blocks in flight are left out: after a crash nobody knows them, and the operation that commits
//!    them is journaled after the freeze, so replay reserves them again. Held blocks are left out:
//!    the checkpoint that the image belongs to does not refer to them.
//! 3. A region that is not among a freeze's images has not changed since its last image. Hence
//!    commit, free, `reserve` and `allocate_node` mark it, `release` and `abandon` need not.
//! 4. What the checkpoint itself allocates and frees after the freeze goes into its images by the
//!    caller's hand, and so does not mark the region.
//! 5. A held block stays as it is on disk until its checkpoint is durable: it is neither allocated nor
//!    punched before.
//!
//! A crash at any point comes back to the images of the last durable checkpoint plus the
//! reservations of the journal's tail. Neither refers to a block that could have been given out
//! again since that checkpoint's freeze, by (5); none that is lost, by (2).
//!
//! The commit of a run and the journal record that refers to it must fall on the same side of a
//! freeze: the caller makes both under the lock that the freeze takes.
//!
//! Replay reserves every run that the journal's tail refers to before it allocates the first node:
//! the tail never refers to one block twice, by (5).
//!
//! Not here on purpose: how much is kept back so that deletes are possible on a full pool, and the
//! extra counts of shared extents, both of which are the pool's.

mod allocator;
mod checkpoint;
mod held;
mod index;
#[cfg(test)]
mod model;
mod region;
mod search;
#[cfg(test)]
mod tests;
mod trim;

pub use crate::format::{REGION_BLOCKS, RegionClass as Class, RegionImage, region_of};
pub use checkpoint::{Batch, Frozen};

use std::collections::BTreeMap;

use crate::format::{BlockNo, NODE_BLOCKS, Run};
use allocator::Cursor;
use held::Held;
use index::Index;
use region::{Counts, Region, Spare, State};
use search::Piece;

/// Largest data file: 2^38 blocks are 1 PiB, 8 Mi regions.
pub const MAX_TOTAL_BLOCKS: u64 = 1 << 38;

/// Says why the map was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Some block of the run is not free.
    #[error("blocks {}+{} are not free", run.start, run.len_blocks)]
    InUse {
        /// What was to be reserved.
        run: Run,
    },
    /// Some block of the run is not in use, for example because it was freed before.
    #[error("blocks {}+{} are not in use", run.start, run.len_blocks)]
    NotInUse {
        /// What was to be freed.
        run: Run,
    },
    /// The region's image uses blocks behind the end, or the region is not there, or not unused.
    #[error("the image of region {region} does not fit the pool")]
    BadImage {
        /// Number of the region.
        region: u32,
    },
}

/// The state of every block of the data file.
#[derive(Debug)]
pub struct SpaceMap {
    total_blocks: u64,
    regions: Vec<Region>,
    index: Index,
    data: Cursor,
    node: Cursor,
    totals: Counts,
    /// Room for nodes.
    slots: u64,
    /// How much of it data leaves alone.
    reserved_slots: u64,
    generation: u64,
    held: Held,
    /// The regions that are marked dirty.
    dirty: Vec<u32>,
    /// The regions of which the last freeze is to have an image, last first; of some it was made.
    awaited: Vec<u32>,
    /// The images of the last freeze that were made ahead, because their regions change again.
    made: Vec<(u32, RegionImage)>,
    spare: Spare,
    /// Regions in which blocks were released since they were trimmed, and where trimming goes on.
    untrimmed: BTreeMap<u32, u32>,
}

/// Yields the parts of a run by region: its number, the first block in it, and their number.
fn parts(run: Run) -> impl Iterator<Item = (u32, (u32, u32))> {
    let (mut at, end) = (run.start.0, run.end());
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let (region, first) = region_of(BlockNo(at));
        let len = u64::from(REGION_BLOCKS - first).min(end - at) as u32;
        at += u64::from(len);
        Some((region, (first, len)))
    })
}

/// The block at `first` of `region`.
fn block_at(region: u32, first: u32) -> BlockNo {
    BlockNo(u64::from(region) * u64::from(REGION_BLOCKS) + u64::from(first))
}

impl SpaceMap {
    /// Makes the map of a data file of `total_blocks` free blocks.
    ///
    /// # Panics
    /// If `total_blocks` is above [`MAX_TOTAL_BLOCKS`].
    pub fn new(total_blocks: u64) -> Self {
        let mut map = SpaceMap {
            total_blocks: 0,
            regions: Vec::new(),
            index: Index::default(),
            data: Cursor::default(),
            node: Cursor::default(),
            totals: Counts::default(),
            slots: 0,
            reserved_slots: 0,
            generation: 1,
            held: Held::default(),
            dirty: Vec::new(),
            awaited: Vec::new(),
            made: Vec::new(),
            spare: Spare::default(),
            untrimmed: BTreeMap::new(),
        };
        map.grow(total_blocks);
        map
    }

    /// Raises the size to `total_blocks`; the new blocks are free. A smaller size has no effect.
    ///
    /// # Panics
    /// If `total_blocks` is above [`MAX_TOTAL_BLOCKS`].
    pub fn grow(&mut self, total_blocks: u64) {
        assert!(total_blocks <= MAX_TOTAL_BLOCKS, "{total_blocks} blocks are too many");
        if total_blocks <= self.total_blocks {
            return;
        }
        let region_blocks = u64::from(REGION_BLOCKS);
        let blocks_in = |region: u64| (total_blocks - region * region_blocks).min(region_blocks);
        let first = (self.regions.len() as u64).saturating_sub(1);
        let end = total_blocks.div_ceil(region_blocks);
        self.index.grow(end as usize);
        for number in first..end {
            let blocks = blocks_in(number) as u32;
            match self.regions.get_mut(number as usize) {
                Some(region) => {
                    self.slots -= u64::from(region.slots());
                    region.grow(blocks);
                }
                None => self.regions.push(Region::new(blocks)),
            }
            self.slots += u64::from(self.regions[number as usize].slots());
            self.reindex(number as u32);
        }
        self.totals.free += total_blocks - self.total_blocks;
        self.total_blocks = total_blocks;
    }

    /// Fills in a region as the last checkpoint has it, when the pool is opened.
    ///
    /// # Errors
    /// [`Error::BadImage`] if the region is not there, was used before, or is shorter than the image.
    pub fn load_region(&mut self, region: u32, image: &RegionImage) -> Result<(), Error> {
        let bad = Error::BadImage { region };
        let Some(old) = self.regions.get(region as usize) else { return Err(bad) };
        if !old.is_empty() || old.dirty {
            return Err(bad);
        }
        let loaded = Region::load(old.blocks(), image).ok_or(bad)?;
        self.totals.pass(State::Free, State::Used, loaded.counts().used);
        self.slots -= u64::from(old.slots() - loaded.slots());
        self.regions[region as usize] = loaded;
        if image.class() == Some(Class::Node) {
            self.index.set_holds_nodes(region, true);
        }
        self.reindex(region);
        Ok(())
    }

    /// Brings the index up to date with the free blocks of `region`.
    #[inline]
    fn reindex(&mut self, region: u32) {
        let state = &self.regions[region as usize];
        self.index.place(region, state.longest());
        for piece in [Piece::Slot, Piece::Scrap] {
            self.index.set_has(region, piece, state.has(piece));
        }
        if state.is_empty() {
            self.index.empty.insert(region);
            self.index.set_holds_nodes(region, false);
        } else {
            self.index.empty.remove(region);
        }
    }

    /// Takes a part of a region from one state to another, and the totals and the index with it.
    #[inline]
    fn pass(&mut self, region: u32, part: (u32, u32), from: State, to: State) {
        let state = &mut self.regions[region as usize];
        let slots = u64::from(state.slots());
        let was = (state.is_empty(), state.has(Piece::Slot), state.has(Piece::Scrap));
        state.pass(part, from, to, &mut self.spare);
        self.totals.pass(from, to, u64::from(part.1));
        if from == State::Free || to == State::Free {
            self.slots = self.slots - slots + u64::from(state.slots());
            if was == (state.is_empty(), state.has(Piece::Slot), state.has(Piece::Scrap)) {
                self.index.place(region, state.longest());
            } else {
                self.reindex(region);
            }
        }
    }

    /// Says whether all of `run` lies within the file and is in `state`.
    fn all(&self, run: Run, state: State) -> bool {
        run.end() <= self.total_blocks
            && parts(run)
                .all(|(region, (first, len))| self.regions[region as usize].all(first, len, state))
    }

    /// Notes that the used blocks of `region` are about to change.
    #[inline]
    fn mark(&mut self, region: u32) {
        if self.regions[region as usize].awaited {
            self.make_image(region);
        }
        let state = &mut self.regions[region as usize];
        if !state.dirty {
            state.dirty = true;
            self.dirty.push(region);
        }
    }

    /// Passes all of a run whose state was checked; `mark` says whether images change by it.
    fn pass_run(&mut self, run: Run, from: State, to: State, mark: bool) {
        assert!(run.end() <= self.total_blocks, "{run:?} lies behind the end");
        for (region, part) in parts(run) {
            if mark {
                self.mark(region);
            }
            self.pass(region, part, from, to);
        }
    }

    /// Turns a run in flight, or a part of one, into a used one: an operation that is journaled, in
    /// the present generation, refers to it.
    ///
    /// # Panics
    /// If part of it is not in flight.
    pub fn commit_in_flight(&mut self, run: Run) {
        self.pass_run(run, State::InFlight, State::Used, true);
    }

    /// Gives up a run in flight, or a part of one: it is free at once.
    ///
    /// # Panics
    /// If part of it is not in flight.
    pub fn abandon_in_flight(&mut self, run: Run) {
        self.pass_run(run, State::InFlight, State::Free, false);
    }

    /// Marks a free run as used, for replay.
    ///
    /// # Errors
    /// [`Error::InUse`] if part of it is not free or lies behind the end; nothing has changed then.
    pub fn reserve(&mut self, run: Run) -> Result<(), Error> {
        if !self.all(run, State::Free) {
            return Err(Error::InUse { run });
        }
        self.pass_run(run, State::Free, State::Used, true);
        Ok(())
    }

    /// Frees a used run, or a part of one: it is held in the present generation.
    ///
    /// # Errors
    /// [`Error::NotInUse`] if part of it is not used or lies behind the end; nothing has changed
    /// then.
    pub fn free(&mut self, run: Run) -> Result<(), Error> {
        if !self.all(run, State::Used) {
            return Err(Error::NotInUse { run });
        }
        self.pass_run(run, State::Used, State::Held, true);
        self.hold(self.generation, run);
        Ok(())
    }

    /// Says whether all of `run` is used.
    pub fn is_used(&self, run: Run) -> bool {
        self.all(run, State::Used)
    }

    /// Returns the size of the data file in blocks.
    pub fn total_blocks(&self) -> u64 {
        self.total_blocks
    }

    /// Returns how many blocks may be allocated now.
    pub fn free_blocks(&self) -> u64 {
        self.totals.free
    }

    /// Returns how many free blocks lie in slots, aligned fours, and so may be allocated as nodes.
    pub fn node_blocks(&self) -> u64 {
        self.slots * u64::from(NODE_BLOCKS)
    }

    /// Returns how many blocks are held: they become free with the checkpoints to come.
    pub fn held_blocks(&self) -> u64 {
        self.totals.held
    }

    /// Returns how many blocks are used; those in flight and held are not counted.
    pub fn used_blocks(&self) -> u64 {
        self.totals.used
    }

    /// Returns how many blocks are in flight.
    pub fn in_flight_blocks(&self) -> u64 {
        self.totals.in_flight
    }

    /// Returns the end of the last block that is not free: nothing behind it needs to be in the file.
    pub fn highest_used(&self) -> u64 {
        let last = self.regions.iter().enumerate().rfind(|(_, region)| !region.is_empty());
        last.map_or(0, |(number, region)| block_at(number as u32, region.highest_taken()).0)
    }

    /// Yields the used runs in order of address, cut at the regions' bounds.
    pub fn iter_used(&self) -> impl Iterator<Item = Run> {
        self.regions.iter().enumerate().flat_map(|(number, region)| {
            let runs = if region.counts().used == 0 { Vec::new() } else { region.used_runs() };
            runs.into_iter().map(move |(first, len)| Run::new(block_at(number as u32, first), len))
        })
    }

    /// Checks everything that is kept twice.
    #[cfg(test)]
    fn verify(&self) {
        let (mut totals, mut slots) = (Counts::default(), 0);
        for (number, region) in self.regions.iter().enumerate() {
            region.verify();
            let counts = region.counts();
            totals.free += counts.free;
            totals.in_flight += counts.in_flight;
            totals.used += counts.used;
            totals.held += counts.held;
            let number = number as u32;
            self.index.verify(number, region.longest());
            slots += u64::from(region.slots());
            for piece in [Piece::Slot, Piece::Scrap] {
                assert_eq!(self.index.has(number, piece), region.has(piece));
            }
            assert_eq!(self.index.empty.contains(number), region.is_empty());
            assert!(!(self.index.holds_nodes(number) && region.is_empty()));
            assert_eq!(self.dirty.contains(&number), region.dirty);
        }
        assert_eq!((totals, slots), (self.totals, self.slots));
    }
}
