//! Scans of a region for free blocks, a word of 64 at a time.
//!
//! A block is taken when its bit is set in either of two bitmaps; `end` is the number of blocks that
//! the region really has.

use crate::format::{Bitmap, NODE_BLOCKS, REGION_WORDS};

const _: () = assert!(NODE_BLOCKS == 4);

/// What a search for free blocks other than by length looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece {
    /// Room for a node: [`NODE_BLOCKS`] free ones from a multiple of that on.
    Slot,
    /// A free block that is no part of a slot.
    Scrap,
}

/// Keeps the first bit of each aligned four that are all set.
#[inline]
fn slots(free: u64) -> u64 {
    let pairs = free & (free >> 1);
    pairs & (pairs >> 2) & 0x1111_1111_1111_1111
}

/// The two bitmaps whose union is what is taken, and where the region ends.
#[derive(Clone, Copy)]
pub(super) struct Taken<'a> {
    live: &'a [u64; REGION_WORDS],
    pending: &'a [u64; REGION_WORDS],
    end: u32,
}

/// Keeps the bits that begin a row of `len` set bits, 1 to 64, within the word.
#[inline]
fn rows(mut word: u64, len: u32) -> u64 {
    let mut done = 1;
    while done < len && word != 0 {
        let step = done.min(len - done);
        word &= word >> step;
        done += step;
    }
    word
}

impl<'a> Taken<'a> {
    pub(super) fn new(live: &'a Bitmap, pending: &'a Bitmap, end: u32) -> Self {
        Taken { live: live.words(), pending: pending.words(), end }
    }

    /// The free blocks of one word.
    #[inline]
    fn free(&self, word: u32) -> u64 {
        let free = !(self.live[word as usize] | self.pending[word as usize]);
        // Called for words that begin before `end` only.
        let within = self.end - word * 64;
        if within < 64 { free & ((1 << within) - 1) } else { free }
    }

    /// Returns the free ones of the 16 blocks from `first` on, a multiple of 16.
    pub(super) fn free_of_16(&self, first: u32) -> u16 {
        (self.free(first / 64) >> (first % 64)) as u16
    }

    /// Returns the first block at or after `from` that begins at least `want` free ones.
    pub(super) fn find(&self, from: u32, want: u32) -> Option<u32> {
        let mut row = 0; // free blocks at the end of the words before
        for word in from / 64..self.end.div_ceil(64) {
            let mut free = self.free(word);
            if word == from / 64 {
                free &= !0 << (from % 64);
            }
            let leading = free.trailing_ones();
            if row + leading >= want {
                return Some(word * 64 - row);
            }
            if leading == 64 {
                row += 64;
                continue;
            }
            if want < 64 && free != 0 {
                let starts = rows(free, want);
                if starts != 0 {
                    return Some(word * 64 + starts.trailing_zeros());
                }
            }
            row = free.leading_ones();
        }
        None
    }

    /// The first blocks of the slots in a word, or its scraps.
    #[inline]
    fn pieces(&self, piece: Piece, word: u32) -> u64 {
        let free = self.free(word);
        match piece {
            Piece::Slot => slots(free),
            Piece::Scrap => free & !(slots(free) * 0xf),
        }
    }

    /// Returns the first slot or scrap at or after `from`.
    pub(super) fn find_piece(&self, piece: Piece, from: u32) -> Option<u32> {
        (from / 64..self.end.div_ceil(64)).find_map(|word| {
            let mut found = self.pieces(piece, word);
            if word == from / 64 {
                found &= !0 << (from % 64);
            }
            (found != 0).then(|| word * 64 + found.trailing_zeros())
        })
    }

    /// Returns how many scraps follow on each other from `at` on, within a word, at most `max`.
    pub(super) fn scraps_at(&self, at: u32, max: u32) -> u32 {
        (self.pieces(Piece::Scrap, at / 64) >> (at % 64)).trailing_ones().min(max)
    }

    /// Returns the number of slots in the words of the `len` blocks from `first` on.
    #[inline]
    pub(super) fn slots_around(&self, first: u32, len: u32) -> u32 {
        let words = first / 64..(first + len).min(self.end).div_ceil(64);
        words.map(|word| slots(self.free(word)).count_ones()).sum()
    }

    /// Returns how many blocks from `from` on are free, at most `max`.
    pub(super) fn len_at(&self, from: u32, max: u32) -> u32 {
        let mut len = 0;
        for word in from / 64..self.end.div_ceil(64) {
            let skip = if word == from / 64 { from % 64 } else { 0 };
            let free = (self.free(word) >> skip).trailing_ones();
            len += free;
            if free + skip < 64 || len >= max {
                break;
            }
        }
        len.min(max)
    }

    /// Returns how many blocks before `at` are free in a row, at most `max` and a word's rest.
    pub(super) fn len_before(&self, mut at: u32, max: u32) -> u32 {
        let mut len = 0;
        while at > 0 && len < max {
            let word = (at - 1) / 64;
            let here = at - word * 64;
            let free = (self.free(word) << (64 - here)).leading_ones();
            len += free;
            if free < here {
                break;
            }
            at = word * 64;
        }
        len
    }

    /// Returns the length of the longest row of free blocks.
    pub(super) fn longest(&self) -> u32 {
        let (mut row, mut best) = (0, 0);
        for word in 0..self.end.div_ceil(64) {
            let free = self.free(word);
            row += free.trailing_ones();
            best = best.max(row);
            if free != !0 {
                row = free.leading_ones();
                best = best.max(row);
                while best < 64 && free.count_ones() > best && rows(free, best + 1) != 0 {
                    best += 1;
                }
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bits(runs: &[(u32, u32)]) -> Bitmap {
        let mut bitmap = Bitmap::EMPTY;
        for (first, len) in runs {
            bitmap.write(*first % 700, *len, true);
        }
        bitmap
    }

    proptest! {
        #[test]
        fn scans_agree_with_a_plain_array(
            live in prop::collection::vec((0u32..700, 0u32..90), 0..20),
            pending in prop::collection::vec((0u32..700, 0u32..5), 0..60),
            end in 1u32..700, from in 0u32..700, want in 1u32..200,
        ) {
            let (live, pending) = (bits(&live), bits(&pending));
            let taken = Taken::new(&live, &pending, end);
            let free: Vec<bool> = (0..end)
                .map(|at| live.all(at, 1, false) && pending.all(at, 1, false))
                .collect();
            let len_at = |at: u32| free[at as usize..].iter().take_while(|f| **f).count() as u32;
            let found = (from..end).find(|at| len_at(*at) >= want);
            prop_assert_eq!(taken.find(from, want), found);
            let slot = |at: u32| {
                let at = (at / 4 * 4) as usize;
                free.get(at..at + 4).is_some_and(|four| four.iter().all(|f| *f))
            };
            let slot_at = (from..end).find(|at| at % 4 == 0 && slot(*at));
            prop_assert_eq!(taken.find_piece(Piece::Slot, from), slot_at);
            let scrap = |at: u32| free[at as usize] && !slot(at);
            let scrap_at = (from..end).find(|at| scrap(*at));
            prop_assert_eq!(taken.find_piece(Piece::Scrap, from), scrap_at);
            if let Some(at) = scrap_at {
                let len = taken.scraps_at(at, want);
                prop_assert!(len > 0 && len <= want && (at..at + len).all(scrap));
            }
            let all = (0..end).step_by(4).filter(|at| slot(*at)).count();
            prop_assert_eq!(taken.slots_around(0, end) as usize, all);
            prop_assert_eq!(taken.longest(), (0..end).map(len_at).max().unwrap_or(0));
            if from < end {
                prop_assert_eq!(taken.len_at(from, want), len_at(from).min(want));
                let before = (0..from).rev().take_while(|at| free[*at as usize]).count() as u32;
                let len = taken.len_before(from, want);
                prop_assert!(len == before || (want..=before).contains(&len));
            }
        }
    }
}
