//! Finds the next region worth searching, without looking at those that are full.
//!
//! A region stands on level `k` while its longest row of free blocks may be `2^k` or longer, so a
//! search for `n` blocks looks only at regions of level `floor(log2 n)`, 64 regions a step. The
//! levels follow the regions' bounds, which may be too high and are lowered by the searches that
//! fail: each such search is paid for by a block that came free there.

use super::search::Piece;
use crate::format::REGION_BLOCKS;

/// Levels of row lengths: 1, 2, 4 up to [`REGION_BLOCKS`].
const LEVELS: usize = REGION_BLOCKS.ilog2() as usize + 1;

/// The level at which rows of `len` blocks, at least 1, stand.
pub(super) fn level_of(len: u32) -> u32 {
    len.ilog2()
}

/// A set of region numbers.
#[derive(Debug, Default, Clone)]
pub(super) struct RegionSet(Vec<u64>);

impl RegionSet {
    /// Makes room for `regions`.
    pub(super) fn grow(&mut self, regions: usize) {
        self.0.resize(regions.div_ceil(64), 0);
    }
    pub(super) fn contains(&self, region: u32) -> bool {
        self.0[region as usize / 64] >> (region % 64) & 1 == 1
    }
    pub(super) fn insert(&mut self, region: u32) {
        self.0[region as usize / 64] |= 1 << (region % 64);
    }
    pub(super) fn remove(&mut self, region: u32) {
        self.0[region as usize / 64] &= !(1 << (region % 64));
    }
    pub(super) fn clear(&mut self) {
        self.0.fill(0);
    }
}

/// Which regions a search may look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// Those that hold nodes.
    Nodes,
    /// Those that do not hold nodes.
    NotNodes,
    /// Those that hold nothing.
    Empty,
    /// Those of which the last freeze took an image, if they hold nodes.
    ImagedNodes,
    /// Those of which the last freeze took an image.
    Imaged,
    /// All.
    Any,
}

/// What is known of every region.
#[derive(Debug, Default)]
pub(super) struct Index {
    levels: [RegionSet; LEVELS],
    /// Regions on each level: those that do not hold nodes, and those that do.
    counts: [[u32; LEVELS]; 2],
    /// For each region, the number of levels that it stands on.
    heights: Vec<u8>,
    /// Regions that were empty when a node was allocated in them.
    nodes: RegionSet,
    /// Regions with room for a node.
    slots: RegionSet,
    /// Regions with scraps.
    scraps: RegionSet,
    /// Regions with every block free.
    pub(super) empty: RegionSet,
    /// Regions whose image the last freeze took, or that got a node of its checkpoint since.
    pub(super) imaged: RegionSet,
}

impl Index {
    /// Makes room for `regions`; the new ones stand on no level.
    pub(super) fn grow(&mut self, regions: usize) {
        for set in &mut self.levels {
            set.grow(regions);
        }
        let others = [&mut self.nodes, &mut self.empty, &mut self.imaged];
        for set in others.into_iter().chain([&mut self.slots, &mut self.scraps]) {
            set.grow(regions);
        }
        self.heights.resize(regions, 0);
    }

    /// Puts `region` on the levels for rows of up to `longest`.
    #[inline]
    pub(super) fn place(&mut self, region: u32, longest: u32) {
        let height = if longest == 0 { 0 } else { level_of(longest) as u8 + 1 };
        let old = std::mem::replace(&mut self.heights[region as usize], height);
        if old != height {
            self.change_levels(region, old.into(), height.into());
        }
    }

    #[cold]
    fn change_levels(&mut self, region: u32, old: usize, height: usize) {
        let class = usize::from(self.nodes.contains(region));
        for level in old.min(height)..old.max(height) {
            if height > old {
                self.levels[level].insert(region);
                self.counts[class][level] += 1;
            } else {
                self.levels[level].remove(region);
                self.counts[class][level] -= 1;
            }
        }
    }

    fn pieces(&self, piece: Piece) -> &RegionSet {
        match piece {
            Piece::Slot => &self.slots,
            Piece::Scrap => &self.scraps,
        }
    }

    /// Notes whether `region` has such pieces.
    #[inline]
    pub(super) fn set_has(&mut self, region: u32, piece: Piece, value: bool) {
        let set = match piece {
            Piece::Slot => &mut self.slots,
            Piece::Scrap => &mut self.scraps,
        };
        if value { set.insert(region) } else { set.remove(region) }
    }

    /// Says whether `region` has such pieces.
    pub(super) fn has(&self, region: u32, piece: Piece) -> bool {
        self.pieces(piece).contains(region)
    }

    /// Says whether `region` holds nodes.
    pub(super) fn holds_nodes(&self, region: u32) -> bool {
        self.nodes.contains(region)
    }

    /// Notes whether `region` holds nodes.
    pub(super) fn set_holds_nodes(&mut self, region: u32, value: bool) {
        if self.nodes.contains(region) == value {
            return;
        }
        for level in 0..usize::from(self.heights[region as usize]) {
            self.counts[usize::from(!value)][level] -= 1;
            self.counts[usize::from(value)][level] += 1;
        }
        if value { self.nodes.insert(region) } else { self.nodes.remove(region) }
    }

    /// Says whether a region on `level` may be in `scope`, at a glance.
    #[inline]
    pub(super) fn any(&self, scope: Scope, level: u32) -> bool {
        let [data, nodes] = [0, 1].map(|class| self.counts[class][level as usize] != 0);
        match scope {
            Scope::Nodes | Scope::ImagedNodes => nodes,
            Scope::NotNodes | Scope::Empty => data,
            Scope::Imaged | Scope::Any => data || nodes,
        }
    }

    #[inline]
    fn scope_word(&self, scope: Scope, word: usize) -> u64 {
        match scope {
            Scope::Nodes => self.nodes.0[word],
            Scope::NotNodes => !self.nodes.0[word],
            Scope::Empty => self.empty.0[word],
            Scope::ImagedNodes => self.imaged.0[word] & self.nodes.0[word],
            Scope::Imaged => self.imaged.0[word],
            Scope::Any => !0,
        }
    }

    /// Says whether `region` is in `scope`.
    pub(super) fn admits(&self, scope: Scope, region: u32) -> bool {
        self.scope_word(scope, region as usize / 64) >> (region % 64) & 1 == 1
    }

    /// Returns the first region from `from` on, below `end`, that is in `scope` and on `level`.
    pub(super) fn next(&self, scope: Scope, level: u32, from: u32, end: u32) -> Option<u32> {
        self.first(&self.levels[level as usize], scope, from, end)
    }

    /// Returns the first region from `from` on, below `end`, that is in `scope` and has such a piece.
    pub(super) fn next_with(&self, scope: Scope, piece: Piece, from: u32, end: u32) -> Option<u32> {
        self.first(self.pieces(piece), scope, from, end)
    }

    fn first(&self, set: &RegionSet, scope: Scope, from: u32, end: u32) -> Option<u32> {
        for word in from / 64..end.div_ceil(64) {
            let mut bits = set.0[word as usize] & self.scope_word(scope, word as usize);
            if word == from / 64 {
                bits &= !0 << (from % 64);
            }
            if bits != 0 {
                return Some(word * 64 + bits.trailing_zeros()).filter(|region| *region < end);
            }
        }
        None
    }

    /// Checks that `region` stands where its bound says.
    #[cfg(test)]
    pub(super) fn verify(&self, region: u32, longest: u32) {
        for level in 0..LEVELS {
            assert_eq!(self.levels[level].contains(region), longest >= 1 << level);
        }
        for (level, set) in self.levels.iter().enumerate() {
            let count = |bits: fn((&u64, &u64)) -> u64| -> u32 {
                set.0.iter().zip(&self.nodes.0).map(bits).map(u64::count_ones).sum()
            };
            assert_eq!(self.counts[0][level], count(|(set, nodes)| set & !nodes));
            assert_eq!(self.counts[1][level], count(|(set, nodes)| set & nodes));
        }
    }
}
