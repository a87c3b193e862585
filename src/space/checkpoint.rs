//! What a checkpoint does with the map: freeze, its own nodes, punching, release.

use super::held::{CHUNK_BLOCKS, Piece, append, pieces};
use super::region::State;
use super::{Error, RegionImage, SpaceMap, block_at, region_of};
use crate::format::{BlockNo, REGION_BLOCKS, RegionClass, Run};

/// What [`SpaceMap::freeze`] returns.
#[derive(Debug)]
pub struct Frozen {
    /// The generation that ended with the freeze: to be given to [`SpaceMap::release`].
    pub generation: u64,
    /// The regions that changed since the freeze before, in order, as the checkpoint is to have them.
    pub images: Vec<(u32, RegionImage)>,
}

impl SpaceMap {
    /// Returns the present generation; the first is 1.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Ends the present generation and returns the images of the regions that changed in it: the
    /// blocks that are used, without those that are held or in flight.
    pub fn freeze(&mut self) -> Frozen {
        let generation = self.generation;
        self.generation += 1;
        self.index.imaged.clear();
        let mut dirty = std::mem::take(&mut self.dirty);
        dirty.sort_unstable();
        let images = dirty
            .into_iter()
            .map(|number| {
                let region = &mut self.regions[number as usize];
                region.dirty = false;
                self.index.imaged.insert(number);
                let nodes = self.index.nodes.contains(number);
                let class = if nodes { RegionClass::Node } else { RegionClass::Data };
                (number, region.image(Some(class)))
            })
            .collect();
        Frozen { generation, images }
    }

    /// Frees a used run on behalf of the checkpoint of `generation`, after its freeze: it is held
    /// until that checkpoint's release. The caller takes it out of the region's image.
    ///
    /// # Errors
    /// [`Error::NotInUse`] if part of it is not used or lies behind the end; nothing has changed
    /// then.
    pub fn free_in_checkpoint(&mut self, generation: u64, run: Run) -> Result<(), Error> {
        if !self.all(run, State::Used) {
            return Err(Error::NotInUse { run });
        }
        self.pass_run(run, State::Used, State::Held, false);
        self.held.push(generation, run);
        Ok(())
    }

    /// Returns the runs that the release of `generation` makes free, in order and coalesced.
    pub fn held(&mut self, generation: u64) -> Vec<Run> {
        self.held.upto(generation).to_vec()
    }

    /// Returns the chunks of 64 KiB that have a block held in `generation` or before, and are wholly
    /// free once that is released: in order, coalesced, and within the file. The caller punches them
    /// when the checkpoint is durable, and then releases the generation.
    ///
    /// The blocks of these chunks that are free already are held as well until then, because a block
    /// that is given out and written meanwhile would be punched. At most a quarter of the free blocks
    /// are withheld so: when space is short, chunks that would take more are left alone.
    pub fn punchable(&mut self, generation: u64) -> Vec<Run> {
        let mut budget = self.totals.free / 4;
        let mut chunks = Vec::new();
        for piece in pieces(self.held.upto(generation)) {
            match piece {
                Piece::Whole(start, end) => append(&mut chunks, start, end),
                Piece::Part(chunk, held) => {
                    let start = chunk * CHUNK_BLOCKS;
                    let end = (start + CHUNK_BLOCKS).min(self.total_blocks);
                    let (number, first) = region_of(BlockNo(start));
                    let free = self.regions[number as usize].taken().free_of_16(first);
                    let all = u16::MAX >> (CHUNK_BLOCKS - (end - start));
                    let withheld = u64::from(free.count_ones());
                    if held | free == all && withheld <= budget {
                        budget -= withheld;
                        self.withhold(generation, number, first, free);
                        append(&mut chunks, start, end);
                    }
                }
            }
        }
        chunks
    }

    /// Holds free blocks of one chunk, given as a mask from `first` on.
    fn withhold(&mut self, generation: u64, region: u32, first: u32, mut free: u16) {
        while free != 0 {
            let skip = free.trailing_zeros();
            let len = (free >> skip).trailing_ones();
            self.pass(region, (first + skip, len), State::Free, State::Held);
            self.held.push(generation, Run::new(block_at(region, first + skip), len));
            free &= !((((1u32 << len) - 1) << skip) as u16);
        }
    }

    /// Makes free what is held in `generation` and before: its checkpoint is durable.
    ///
    /// # Panics
    /// If the generation has not been frozen: the last durable state may refer to its blocks.
    pub fn release(&mut self, generation: u64) {
        assert!(generation < self.generation, "generation {generation} is not frozen");
        for run in self.held.take(generation) {
            self.pass_run(run, State::Held, State::Free, false);
        }
    }
}

const _: () = assert!((REGION_BLOCKS as u64).is_multiple_of(CHUNK_BLOCKS) && CHUNK_BLOCKS == 16);
