//! One region in memory: the state of each of its blocks in two bits.
//!
//! | state | live | pending | allocatable | in the image |
//! |---|---|---|---|---|
//! | free | 0 | 0 | yes | free |
//! | in flight | 1 | 1 | no | free |
//! | used | 1 | 0 | no | used |
//! | held | 0 | 1 | no | free |
//!
//! The live bits take no memory while they are all equal, the pending bits none while no block is
//! in flight or held.

use super::search::{Piece, Taken};
use crate::format::{Bitmap, NODE_BLOCKS, REGION_BLOCKS, RegionClass, RegionImage};

/// The state of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Free,
    InFlight,
    Used,
    Held,
}

impl State {
    fn live(self) -> bool {
        matches!(self, State::InFlight | State::Used)
    }
    fn pending(self) -> bool {
        matches!(self, State::InFlight | State::Held)
    }
}

/// Counts of blocks by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counts {
    pub(super) free: u64,
    pub(super) in_flight: u64,
    pub(super) used: u64,
    pub(super) held: u64,
}

impl Counts {
    fn of(&mut self, state: State) -> &mut u64 {
        match state {
            State::Free => &mut self.free,
            State::InFlight => &mut self.in_flight,
            State::Used => &mut self.used,
            State::Held => &mut self.held,
        }
    }

    /// Books `blocks` that pass from one state to another.
    pub(super) fn pass(&mut self, from: State, to: State, blocks: u64) {
        *self.of(from) -= blocks;
        *self.of(to) += blocks;
    }
}

/// Blocks looked at on either side of freed ones to see how long a row they make: four words. A longer
/// row is estimated, and known when a search needs it.
const MAX_ROW_SCAN: u32 = 256;

/// Most bitmaps kept for the next region that needs one: 256 KiB.
const MAX_SPARE: usize = 64;

/// Bitmaps without a bit set, ready for use: allocating a zeroed one costs more than an allocation
/// of blocks may.
#[derive(Debug, Default)]
pub(super) struct Spare(Vec<Box<Bitmap>>);

impl Spare {
    fn take(&mut self) -> Box<Bitmap> {
        self.0.pop().unwrap_or_else(|| Box::new(Bitmap::EMPTY))
    }

    /// Takes back a bitmap that has no bit set.
    fn give(&mut self, bitmap: Box<Bitmap>) {
        if self.0.len() < MAX_SPARE {
            self.0.push(bitmap);
        }
    }
}

/// The live bits.
#[derive(Debug)]
enum Live {
    None,
    All,
    Some(Box<Bitmap>),
}

/// A region of at most [`REGION_BLOCKS`] blocks; only a pool's last one has fewer.
#[derive(Debug)]
pub(super) struct Region {
    blocks: u32,
    live: Live,
    /// Present while a block is in flight or held.
    pending: Option<Box<Bitmap>>,
    counts: Counts,
    /// No row of free blocks is longer; it may be too high, never too low.
    longest: u32,
    /// Room for nodes, aligned.
    slots: u32,
    /// The image differs, or may differ, from the last one taken.
    pub(super) dirty: bool,
    /// The last freeze is to have an image that was not made yet.
    pub(super) awaited: bool,
}

impl Region {
    /// Makes a region of `blocks` free blocks.
    pub(super) fn new(blocks: u32) -> Region {
        let counts = Counts { free: u64::from(blocks), ..Counts::default() };
        Region {
            blocks,
            live: Live::None,
            pending: None,
            counts,
            longest: blocks,
            slots: blocks / NODE_BLOCKS,
            dirty: false,
            awaited: false,
        }
    }

    /// Makes a region of `blocks` as `image` has it; nothing if the image uses blocks beyond.
    pub(super) fn load(blocks: u32, image: &RegionImage) -> Option<Region> {
        if !image.bitmap().all(blocks, REGION_BLOCKS - blocks, false) {
            return None;
        }
        let mut region = Region::new(blocks);
        region.live = match image.used_blocks() {
            0 => Live::None,
            REGION_BLOCKS => Live::All,
            _ => Live::Some(Box::new(image.bitmap().clone())),
        };
        region.counts.pass(State::Free, State::Used, u64::from(image.used_blocks()));
        region.longest = region.taken().longest();
        region.slots = region.taken().slots_around(0, blocks);
        Some(region)
    }

    /// Adds free blocks at the end, up to `blocks`.
    pub(super) fn grow(&mut self, blocks: u32) {
        let more = blocks - self.blocks;
        self.blocks = blocks;
        self.counts.free += u64::from(more);
        self.raise_longest(blocks - more, more);
        self.slots = self.taken().slots_around(0, blocks);
    }

    /// Raises the bound for the row that `len` blocks from `first` on, just freed, are part of.
    fn raise_longest(&mut self, first: u32, len: u32) {
        let taken = self.taken();
        let before = taken.len_before(first, MAX_ROW_SCAN);
        let behind = taken.len_at(first + len, MAX_ROW_SCAN);
        let row = if before < MAX_ROW_SCAN && behind < MAX_ROW_SCAN {
            before + len + behind
        } else {
            // At most the freed blocks with a row on either side.
            2 * self.longest + len
        };
        self.longest = self.longest.max(row).min(self.free());
    }

    pub(super) fn blocks(&self) -> u32 {
        self.blocks
    }
    pub(super) fn counts(&self) -> Counts {
        self.counts
    }
    pub(super) fn free(&self) -> u32 {
        self.counts.free as u32
    }
    pub(super) fn longest(&self) -> u32 {
        self.longest
    }
    /// Returns how many nodes there is room for.
    pub(super) fn slots(&self) -> u32 {
        self.slots
    }
    /// Says whether there is a piece of this kind.
    pub(super) fn has(&self, piece: Piece) -> bool {
        match piece {
            Piece::Slot => self.slots > 0,
            Piece::Scrap => self.free() > self.slots * NODE_BLOCKS,
        }
    }
    /// Says whether every block is free.
    pub(super) fn is_empty(&self) -> bool {
        self.free() == self.blocks
    }

    fn live_bits(&self) -> &Bitmap {
        match &self.live {
            Live::None => &Bitmap::EMPTY,
            Live::All => &Bitmap::FULL,
            Live::Some(bitmap) => bitmap,
        }
    }

    fn pending_bits(&self) -> &Bitmap {
        self.pending.as_deref().unwrap_or(&Bitmap::EMPTY)
    }

    /// The blocks that are not free, for scanning.
    pub(super) fn taken(&self) -> Taken<'_> {
        Taken::new(self.live_bits(), self.pending_bits(), self.blocks)
    }

    /// Returns the used runs: first block in the region, and length.
    pub(super) fn used_runs(&self) -> Vec<(u32, u32)> {
        let used = self.live_bits().without(self.pending_bits());
        let mut runs: Vec<(u32, u32)> = Vec::new();
        for (at, word) in used.words().iter().enumerate() {
            let (mut word, start) = (*word, at as u32 * 64);
            while word != 0 {
                let skip = word.trailing_zeros();
                let len = (word >> skip).trailing_ones();
                match runs.last_mut() {
                    Some((first, last)) if *first + *last == start + skip => *last += len,
                    _ => runs.push((start + skip, len)),
                }
                word &= !(!0 >> (64 - len) << skip);
            }
        }
        runs
    }

    /// Finds the first row of `want` free blocks at or after `from`.
    ///
    /// When a search of the whole region finds none, the region learns its longest row.
    pub(super) fn find(&mut self, from: u32, want: u32) -> Option<u32> {
        if self.longest < want {
            return None;
        }
        let found = self.taken().find(from, want);
        if found.is_none() && from == 0 {
            self.longest = self.taken().longest();
            debug_assert!(self.longest < want);
        }
        found
    }

    /// Says whether the `len` blocks from `first` are all in `state`.
    #[inline]
    pub(super) fn all(&self, first: u32, len: u32, state: State) -> bool {
        first + len <= self.blocks
            && self.live_bits().all(first, len, state.live())
            && self.pending_bits().all(first, len, state.pending())
    }

    /// Takes the `len` blocks from `first` from one state to another.
    ///
    /// # Panics
    /// If one of them is in another state: a block would be given out twice or be lost.
    pub(super) fn pass(
        &mut self,
        (first, len): (u32, u32),
        from: State,
        to: State,
        spare: &mut Spare,
    ) {
        assert!(self.all(first, len, from), "blocks {first}+{len} of a region are not {from:?}");
        let frees = from == State::Free || to == State::Free;
        let slots = if frees { self.taken().slots_around(first, len) } else { 0 };
        self.counts.pass(from, to, u64::from(len));
        if from.live() != to.live() {
            self.write_live(first, len, to.live(), spare);
        }
        if from.pending() != to.pending() {
            self.write_pending(first, len, to.pending(), spare);
        }
        if frees {
            self.slots = self.slots - slots + self.taken().slots_around(first, len);
        }
        if to == State::Free {
            self.raise_longest(first, len);
        }
        self.longest = self.longest.min(self.free());
    }

    fn write_live(&mut self, first: u32, len: u32, value: bool, spare: &mut Spare) {
        let mut bitmap = match std::mem::replace(&mut self.live, Live::None) {
            Live::None => spare.take(),
            Live::All => {
                let mut bitmap = spare.take();
                bitmap.fill(true);
                bitmap
            }
            Live::Some(bitmap) => bitmap,
        };
        bitmap.write(first, len, value);
        let live = self.counts.used + self.counts.in_flight;
        if live == 0 {
            spare.give(bitmap);
        } else if live == u64::from(REGION_BLOCKS) {
            bitmap.fill(false);
            spare.give(bitmap);
            self.live = Live::All;
        } else {
            self.live = Live::Some(bitmap);
        }
    }

    fn write_pending(&mut self, first: u32, len: u32, value: bool, spare: &mut Spare) {
        let mut bitmap = self.pending.take().unwrap_or_else(|| spare.take());
        bitmap.write(first, len, value);
        if self.counts.held + self.counts.in_flight == 0 {
            spare.give(bitmap);
        } else {
            self.pending = Some(bitmap);
        }
    }

    /// Returns the region as a checkpoint is to keep it: the used blocks.
    pub(super) fn image(&self, class: Option<RegionClass>) -> RegionImage {
        match self.counts.used {
            0 => RegionImage::ALL_FREE,
            used if used == u64::from(REGION_BLOCKS) => RegionImage::all_used(class),
            _ => {
                let used = self.live_bits().without(self.pending_bits());
                RegionImage::from_bitmap(class, Box::new(used))
            }
        }
    }

    /// Returns the end of the last block that is not free, counted from the region's start.
    pub(super) fn highest_taken(&self) -> u32 {
        let words = self.live_bits().words().iter().zip(self.pending_bits().words());
        let last = words.enumerate().rfind(|(_, (live, pending))| **live | **pending != 0);
        last.map_or(0, |(at, (live, pending))| {
            (at as u32 + 1) * 64 - (live | pending).leading_zeros()
        })
    }

    /// Checks counts and bounds against the bits.
    #[cfg(test)]
    pub(super) fn verify(&self) {
        let (live, pending) = (self.live_bits(), self.pending_bits());
        let mut counts = Counts::default();
        for (live, pending) in live.words().iter().zip(pending.words()) {
            counts.used += u64::from((live & !pending).count_ones());
            counts.in_flight += u64::from((live & pending).count_ones());
            counts.held += u64::from((!live & pending).count_ones());
        }
        counts.free = u64::from(self.blocks) - counts.used - counts.in_flight - counts.held;
        assert_eq!(counts, self.counts);
        assert!(live.all(self.blocks, REGION_BLOCKS - self.blocks, false));
        assert!(pending.all(self.blocks, REGION_BLOCKS - self.blocks, false));
        assert!(self.longest >= self.taken().longest(), "a bound is too low");
        assert!(self.longest <= self.free());
        assert_eq!(self.slots, self.taken().slots_around(0, self.blocks));
        assert_eq!(self.pending.is_none(), counts.held + counts.in_flight == 0);
        assert_eq!(matches!(self.live, Live::None), counts.used + counts.in_flight == 0);
    }
}
