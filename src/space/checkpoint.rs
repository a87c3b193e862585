//! What a checkpoint does with the map: freeze, its own nodes, punching, release.
//!
//! Each step comes in two forms: at once, and in parts for a pool whose map is large, so that
//! the map's lock is never held for long. The images are cut off at one instant all the same: a region
//! whose image was not taken yet gets it made just before it changes again.

use super::held::{CHUNK_BLOCKS, Piece, append, pieces};
use super::region::State;
use super::{Error, RegionImage, SpaceMap, block_at, parts, region_of};
use crate::format::{BlockNo, NODE_BLOCKS, REGION_BLOCKS, RegionClass, Run};

/// What [`SpaceMap::freeze`] returns.
#[derive(Debug)]
pub struct Frozen {
    /// The generation that ended with the freeze: to be given to [`SpaceMap::release`].
    pub generation: u64,
    /// The regions that changed since the freeze before, in order, as the checkpoint is to have them.
    pub images: Vec<(u32, RegionImage)>,
}

/// A part of a generation on its way to release: [`SpaceMap::next_batch`].
#[derive(Debug)]
#[must_use = "its blocks are never free again unless it is given to release_batch"]
pub struct Batch {
    /// What to punch before the batch is released, as in [`SpaceMap::punchable`].
    pub chunks: Vec<Run>,
    pub(super) held: Vec<Run>,
}

impl SpaceMap {
    /// Returns the present generation; the first is 1.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Ends the present generation and returns the images of the regions that changed in it: the
    /// blocks that are used, without those that are held or in flight.
    ///
    /// # Panics
    /// If images of the freeze before were not taken.
    pub fn freeze(&mut self) -> Frozen {
        let generation = self.begin_freeze();
        Frozen { generation, images: self.take_images(usize::MAX) }
    }

    /// Ends the present generation and returns its number; its images are to be taken with
    /// [`SpaceMap::take_images`]. Time in proportion to the number of images, some nanoseconds each.
    ///
    /// # Panics
    /// If images of the freeze before were not taken.
    pub fn begin_freeze(&mut self) -> u64 {
        self.assert_images_taken();
        let generation = self.generation;
        self.generation += 1;
        self.index.imaged.clear();
        self.awaited = std::mem::take(&mut self.dirty);
        self.awaited.sort_unstable_by_key(|number| std::cmp::Reverse(*number));
        for number in &self.awaited {
            let region = &mut self.regions[*number as usize];
            region.dirty = false;
            region.awaited = true;
            self.index.imaged.insert(*number);
        }
        generation
    }

    /// Returns up to `max` more images of the last freeze, as its instant had them; none when all
    /// were taken. Some microseconds for each.
    pub fn take_images(&mut self, max: usize) -> Vec<(u32, RegionImage)> {
        while self.made.len() < max
            && let Some(number) = self.awaited.pop()
        {
            if self.regions[number as usize].awaited {
                self.make_image(number);
            }
        }
        let mut images = self.made.split_off(self.made.len().saturating_sub(max));
        images.sort_unstable_by_key(|(number, _)| *number);
        images
    }

    /// Makes the image of a region that the last freeze is to have.
    pub(super) fn make_image(&mut self, number: u32) {
        let region = &mut self.regions[number as usize];
        region.awaited = false;
        let nodes = self.index.holds_nodes(number);
        let class = if nodes { RegionClass::Node } else { RegionClass::Data };
        self.made.push((number, region.image(Some(class))));
    }

    pub(super) fn assert_images_taken(&self) {
        assert!(
            self.awaited.is_empty() && self.made.is_empty(),
            "a freeze's images were not taken"
        );
    }

    /// Frees a used run on behalf of the checkpoint of `generation`, after its freeze: it is held
    /// until that checkpoint's release. The caller takes it out of the region's image.
    ///
    /// # Errors
    /// [`Error::NotInUse`] if part of it is not used or lies behind the end; nothing has changed
    /// then.
    ///
    /// # Panics
    /// If images of the freeze were not taken yet.
    pub fn free_in_checkpoint(&mut self, generation: u64, run: Run) -> Result<(), Error> {
        self.assert_images_taken();
        if !self.all(run, State::Used) {
            return Err(Error::NotInUse { run });
        }
        self.pass_run(run, State::Used, State::Held, false);
        self.hold(generation, run);
        Ok(())
    }

    /// Lists a run, which is held by now, under its generation.
    pub(super) fn hold(&mut self, generation: u64, run: Run) {
        for (region, (first, len)) in parts(run) {
            self.held.push(generation, region, Run::new(block_at(region, first), len));
        }
    }

    /// Returns the runs that the release of `generation` makes free, in order and coalesced.
    pub fn held(&mut self, generation: u64) -> Vec<Run> {
        let mut all = Vec::new();
        for region in self.held.regions(generation) {
            for run in self.held.settled(generation, region) {
                append(&mut all, run.start.0, run.end());
            }
        }
        all
    }

    /// Returns the chunks of 64 KiB that have a block held in `generation` or before, and are wholly
    /// free once that is released: in order, coalesced, and within the file. The caller punches them
    /// when the checkpoint is durable, and then releases the generation.
    ///
    /// The blocks of these chunks that are free already are held as well until then, because a block
    /// that is given out and written meanwhile would be punched. At most a quarter of the free blocks
    /// are withheld so: when space is short, chunks that would take more are left alone.
    pub fn punchable(&mut self, generation: u64) -> Vec<Run> {
        let mut budget = self.withholdable();
        let mut chunks = Vec::new();
        for region in self.held.regions(generation) {
            self.find_chunks(generation, region, &mut budget, &mut chunks);
        }
        chunks
    }

    /// Returns how many free blocks may be held for a while.
    pub(super) fn withholdable(&self) -> u64 {
        let slots = self.slots.saturating_sub(self.reserved_slots);
        (self.totals.free / 4).min(slots * u64::from(NODE_BLOCKS))
    }

    /// Appends the chunks to punch in one region, and withholds their free blocks.
    fn find_chunks(
        &mut self,
        generation: u64,
        region: u32,
        budget: &mut u64,
        chunks: &mut Vec<Run>,
    ) {
        for piece in pieces(self.held.settled(generation, region)) {
            match piece {
                Piece::Whole(start, end) => append(chunks, start, end),
                Piece::Part(chunk, held) => {
                    let start = chunk * CHUNK_BLOCKS;
                    let end = (start + CHUNK_BLOCKS).min(self.total_blocks);
                    let first = region_of(BlockNo(start)).1;
                    let free = self.regions[region as usize].taken().free_of_16(first);
                    let all = u16::MAX >> (CHUNK_BLOCKS - (end - start));
                    let withheld = u64::from(free.count_ones());
                    if held | free == all && withheld <= *budget {
                        *budget -= withheld;
                        self.withhold(generation, region, first, free);
                        append(chunks, start, end);
                    }
                }
            }
        }
    }

    /// Holds free blocks of one chunk, given as a mask from `first` on.
    fn withhold(&mut self, generation: u64, region: u32, first: u32, mut free: u16) {
        while free != 0 {
            let skip = free.trailing_zeros();
            let len = (free >> skip).trailing_ones();
            self.pass(region, (first + skip, len), State::Free, State::Held);
            self.hold(generation, Run::new(block_at(region, first + skip), len));
            free &= !((((1u32 << len) - 1) << skip) as u16);
        }
    }

    /// Makes free what is held in `generation` and before: its checkpoint is durable.
    ///
    /// # Panics
    /// If the generation has not been frozen: the last durable state may refer to its blocks.
    pub fn release(&mut self, generation: u64) {
        self.assert_frozen(generation);
        for region in self.held.regions(generation) {
            self.note_untrimmed(region);
            for run in self.held.take(generation, region) {
                self.pass_run(run, State::Held, State::Free, false);
            }
        }
        self.held.close(generation);
    }

    /// Takes the next regions out of what is held in `generation` and before, whose checkpoint is
    /// durable: `max_runs` runs or a little more. Nothing when all were taken.
    ///
    /// The caller punches the batch's chunks, without the map's lock, and then gives it to
    /// [`SpaceMap::release_batch`]. Together with that it does what [`SpaceMap::punchable`] and
    /// [`SpaceMap::release`] do at once.
    ///
    /// # Panics
    /// If the generation has not been frozen: the last durable state may refer to its blocks.
    pub fn next_batch(&mut self, generation: u64, max_runs: usize) -> Option<Batch> {
        self.assert_frozen(generation);
        let mut budget = self.withholdable();
        let mut batch = Batch { chunks: Vec::new(), held: Vec::new() };
        while batch.held.len() < max_runs
            && let Some(region) = self.held.pop_region(generation)
        {
            self.find_chunks(generation, region, &mut budget, &mut batch.chunks);
            self.note_untrimmed(region);
            batch.held.extend(self.held.take(generation, region));
        }
        if batch.held.is_empty() {
            self.held.close(generation);
            return None;
        }
        Some(batch)
    }

    /// Makes the blocks of a batch free.
    pub fn release_batch(&mut self, batch: Batch) {
        for run in batch.held {
            self.pass_run(run, State::Held, State::Free, false);
        }
    }

    fn assert_frozen(&self, generation: u64) {
        assert!(generation < self.generation, "generation {generation} is not frozen");
    }
}

const _: () = assert!((REGION_BLOCKS as u64).is_multiple_of(CHUNK_BLOCKS) && CHUNK_BLOCKS == 16);
