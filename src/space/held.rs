//! Runs that were freed and wait, by generation, for the checkpoint that makes their end durable.
//!
//! They are listed by region, so that no list is long to sort and a release can be cut in parts.

use std::collections::BTreeMap;

use crate::format::{BlockNo, Run};

/// The runs of one region.
#[derive(Debug, Default)]
struct Freed {
    runs: Vec<Run>,
    /// Not known to be in order and coalesced.
    unsettled: bool,
}

impl Freed {
    fn push(&mut self, run: Run) {
        match self.runs.last_mut() {
            // Files are mostly freed in order of address. A region's runs never add up to 2^32.
            Some(last) if last.end() == run.start.0 => last.len_blocks += run.len_blocks,
            _ => {
                self.unsettled = true;
                self.runs.push(run);
            }
        }
    }

    fn settle(&mut self) {
        if std::mem::take(&mut self.unsettled) {
            self.runs.sort_unstable_by_key(|run| run.start);
            self.runs.dedup_by(|next, last| {
                let joined = last.end() == next.start.0;
                if joined {
                    last.len_blocks += next.len_blocks;
                }
                joined
            });
        }
    }
}

/// The runs freed in one generation.
#[derive(Debug, Default)]
struct Generation {
    /// By region number, up to the last one with a run.
    regions: Vec<Freed>,
    /// The regions that have a run; each once.
    touched: Vec<u32>,
    /// These are in falling order.
    falling: bool,
}

impl Generation {
    fn region(&mut self, region: u32) -> &mut Freed {
        let at = region as usize;
        if self.regions.len() <= at {
            self.regions.resize_with(at + 1, Freed::default);
        }
        &mut self.regions[at]
    }

    fn push(&mut self, region: u32, run: Run) {
        let freed = self.region(region);
        let first = freed.runs.is_empty();
        freed.push(run);
        if first {
            self.touched.push(region);
            self.falling = false;
        }
    }
}

/// All runs that are held.
#[derive(Debug, Default)]
pub(super) struct Held(BTreeMap<u64, Generation>);

impl Held {
    /// Adds a run of `region`, freed in `generation`.
    pub(super) fn push(&mut self, generation: u64, region: u32, run: Run) {
        self.0.entry(generation).or_default().push(region, run);
    }

    /// Lists what earlier generations hold under `generation`, and returns that.
    fn upto(&mut self, generation: u64) -> &mut Generation {
        while let Some(earlier) = self.0.first_entry().filter(|first| *first.key() < generation) {
            let earlier = earlier.remove();
            let joined = self.0.entry(generation).or_default();
            for region in earlier.touched {
                for run in &earlier.regions[region as usize].runs {
                    joined.push(region, *run);
                }
            }
        }
        self.0.entry(generation).or_default()
    }

    /// Returns the regions that have runs held in `generation` or before, in order.
    pub(super) fn regions(&mut self, generation: u64) -> Vec<u32> {
        let held = self.upto(generation);
        let mut regions = held.touched.clone();
        regions.sort_unstable();
        regions
    }

    /// Takes one region off the list of [`Held::regions`], the first one of those not taken.
    pub(super) fn pop_region(&mut self, generation: u64) -> Option<u32> {
        let held = self.upto(generation);
        if !std::mem::replace(&mut held.falling, true) {
            held.touched.sort_unstable_by_key(|region| std::cmp::Reverse(*region));
        }
        held.touched.pop()
    }

    /// Returns the runs of a region that are held in `generation`, in order and coalesced.
    pub(super) fn settled(&mut self, generation: u64, region: u32) -> &[Run] {
        let freed = self.upto(generation).region(region);
        freed.settle();
        &freed.runs
    }

    /// Takes out the runs of a region that are held in `generation`.
    pub(super) fn take(&mut self, generation: u64, region: u32) -> Vec<Run> {
        let freed = self.upto(generation).region(region);
        freed.settle();
        std::mem::take(&mut freed.runs)
    }

    /// Forgets `generation`, of which everything was taken.
    pub(super) fn close(&mut self, generation: u64) {
        let held = self.0.remove(&generation);
        debug_assert!(
            held.is_none_or(|held| held.regions.iter().all(|freed| freed.runs.is_empty()))
        );
    }
}

/// Blocks in a chunk, the unit in which space goes back to the host: 64 KiB, a multiple of every
/// common host's block size, and few enough calls.
pub(super) const CHUNK_BLOCKS: u64 = 16;

/// A part of the data file that held runs touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece {
    /// Chunks that are held whole: the first block and the end.
    Whole(u64, u64),
    /// The number of one chunk, and which of its blocks are held.
    Part(u64, u16),
}

/// Cuts settled runs into pieces, in order of address.
pub(super) fn pieces(runs: &[Run]) -> Vec<Piece> {
    let mut pieces = Vec::with_capacity(runs.len());
    let mut open: Option<(u64, u16)> = None; // the chunk that more runs may touch
    for run in runs {
        let (mut at, end) = (run.start.0, run.end());
        while at < end {
            let chunk = at / CHUNK_BLOCKS;
            let whole = end / CHUNK_BLOCKS * CHUNK_BLOCKS;
            let next = if at.is_multiple_of(CHUNK_BLOCKS) && whole > at {
                pieces.extend(open.take().map(|(chunk, held)| Piece::Part(chunk, held)));
                pieces.push(Piece::Whole(at, whole));
                whole
            } else {
                let stop = end.min((chunk + 1) * CHUNK_BLOCKS);
                let mask = (((1u32 << (stop - at)) - 1) << (at % CHUNK_BLOCKS)) as u16;
                match &mut open {
                    Some((last, held)) if *last == chunk => *held |= mask,
                    _ => {
                        let last = open.replace((chunk, mask));
                        pieces.extend(last.map(|(chunk, held)| Piece::Part(chunk, held)));
                    }
                }
                stop
            };
            at = next;
        }
    }
    pieces.extend(open.map(|(chunk, held)| Piece::Part(chunk, held)));
    pieces
}

/// Appends `start..end` to a list in order of address.
pub(super) fn append(runs: &mut Vec<Run>, start: u64, end: u64) {
    if let Some(last) = runs.last_mut()
        && last.end() == start
        && let Ok(len) = u32::try_from(end - last.start.0)
    {
        last.len_blocks = len;
        return;
    }
    runs.push(Run::new(BlockNo(start), (end - start) as u32));
}
