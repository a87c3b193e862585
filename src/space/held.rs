//! Runs that were freed and wait, by generation, for the checkpoint that makes their end durable.

use std::collections::BTreeMap;

use crate::format::{BlockNo, Run};

/// The runs freed in one generation.
#[derive(Debug, Default)]
struct Freed {
    runs: Vec<Run>,
    /// In order and coalesced.
    settled: bool,
}

/// All runs that are held.
#[derive(Debug, Default)]
pub(super) struct Held(BTreeMap<u64, Freed>);

/// Joins neighbours in a list that is in order of address.
fn coalesce(runs: &mut Vec<Run>) {
    runs.dedup_by(|next, last| {
        let len = last.len_blocks.checked_add(next.len_blocks);
        match len {
            Some(len) if last.end() == next.start.0 => {
                last.len_blocks = len;
                true
            }
            _ => false,
        }
    });
}

impl Held {
    /// Adds a run freed in `generation`.
    pub(super) fn push(&mut self, generation: u64, run: Run) {
        let freed = self.0.entry(generation).or_default();
        match freed.runs.last_mut() {
            // Files are mostly freed in order of address.
            Some(last) if last.end() == run.start.0 => {
                match last.len_blocks.checked_add(run.len_blocks) {
                    Some(len) => last.len_blocks = len,
                    None => freed.runs.push(run),
                }
            }
            _ => {
                freed.settled = false;
                freed.runs.push(run);
            }
        }
    }

    /// Returns the runs of all generations up to `generation`, in order and coalesced.
    pub(super) fn upto(&mut self, generation: u64) -> &[Run] {
        let later = self.0.split_off(&(generation + 1));
        let mut earlier = std::mem::replace(&mut self.0, later);
        let mut all = earlier.remove(&generation).unwrap_or_default();
        for freed in earlier.into_values() {
            all.runs.extend(freed.runs);
            all.settled = false;
        }
        if !all.settled {
            // A stable sort is faster here than an unstable one: the list is mostly made of rows
            // that are in order.
            all.runs.sort_by_key(|run| run.start);
            coalesce(&mut all.runs);
            all.settled = true;
        }
        &self.0.entry(generation).or_insert(all).runs
    }

    /// Takes out the runs of all generations up to `generation`.
    pub(super) fn take(&mut self, generation: u64) -> Vec<Run> {
        self.upto(generation);
        self.0.remove(&generation).map(|freed| freed.runs).unwrap_or_default()
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
