//! Where the next run comes from.
//!
//! Next fit, with a cursor for each class. Data goes anywhere but into regions that hold nodes, and
//! nodes into regions of their own, opened one at a time, so that neither cuts up the other's space;
//! only when its own regions are full does a class go into the other's.
//!
//! Data takes the first row at or behind its cursor that is as long as wanted. When there is none in
//! any of its regions it wants the next smaller power of two, down to single blocks.
//!
//! A node takes an aligned *slot* of [`NODE_BLOCKS`], so that nodes that come and go leave slots. Free
//! blocks that are no part of a slot are *scraps*, which only data can use. Deletes need nodes before
//! they give blocks back; what is kept back for them must be slots. Data therefore leaves a number of
//! slots alone, however many scraps there are, and takes scraps when only these slots are left.

use super::index::{Scope, level_of};
use super::region::State;
use super::search::Piece;
use super::{Class, SpaceMap, block_at};
use crate::format::{BlockNo, NODE_BLOCKS, REGION_BLOCKS, Run};

/// Most regions that a search looks at in vain before it takes a shorter run, at some microseconds each.
const MAX_LOOKS: u32 = 64;

/// Where a class's next search begins.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cursor {
    region: u32,
    at: u32,
}

impl SpaceMap {
    /// Sets how many blocks data leaves free in slots for nodes: see [`SpaceMap::node_blocks`].
    pub fn set_node_reserve(&mut self, blocks: u64) {
        self.reserved_slots = blocks.div_ceil(u64::from(NODE_BLOCKS));
    }

    /// Allocates 1 to `want_blocks` consecutive blocks, as many as the space allows; nothing when
    /// every block is taken, or for data when none is left but the reserve for nodes. A run lies
    /// within one region.
    ///
    /// Data is in flight until it is committed or abandoned, nodes are used at once.
    pub fn allocate(&mut self, class: Class, want_blocks: u32) -> Option<Run> {
        let mut want = want_blocks.clamp(1, REGION_BLOCKS);
        if class == Class::Data && self.reserved_slots > 0 {
            let slots = self.slots.saturating_sub(self.reserved_slots);
            if slots == 0 {
                return self.allocate_scraps(want);
            }
            // A run of 4 n - 3 blocks touches at most n slots.
            let most = (slots * u64::from(NODE_BLOCKS)).min(u64::from(REGION_BLOCKS)) as u32;
            want = want.min(most - 3);
        }
        let (scopes, state): (&[Scope], _) = match class {
            Class::Data => (&[Scope::NotNodes, Scope::Any], State::InFlight),
            Class::Node => (&[Scope::Nodes, Scope::Empty, Scope::Any], State::Used),
        };
        let (region, at) = scopes.iter().find_map(|s| self.find_up_to(class, *s, want))?;
        let len = self.regions[region as usize].taken().len_at(at, want);
        if state == State::Used {
            self.mark(region);
        }
        Some(self.take(class, region, (at, len), state))
    }

    /// Allocates scraps for data, which follow on each other.
    fn allocate_scraps(&mut self, want: u32) -> Option<Run> {
        let scopes = [Scope::NotNodes, Scope::Any];
        let (region, at) =
            scopes.iter().find_map(|s| self.find_piece(Class::Data, *s, Piece::Scrap))?;
        let len = self.regions[region as usize].taken().scraps_at(at, want);
        Some(self.take(Class::Data, region, (at, len), State::InFlight))
    }

    /// Allocates the blocks of a node, used at once; nothing when no slot is free.
    pub fn allocate_node(&mut self) -> Option<BlockNo> {
        let (region, at) = self.find_node(&[Scope::Nodes, Scope::Empty, Scope::Any])?;
        self.mark(region);
        Some(self.take(Class::Node, region, (at, NODE_BLOCKS), State::Used).start)
    }

    /// Allocates the blocks of a node that belongs to the checkpoint being written, after its freeze.
    ///
    /// The caller puts the node into the region's image: the one that the freeze returned or, if the
    /// freeze returned none, the one that the previous checkpoint has. Regions of which the freeze
    /// returned an image are preferred. When the file has grown since the freeze the node may lie behind
    /// its former end, so the checkpoint's superblock must have the size as it is by then.
    ///
    /// # Panics
    /// If images of the freeze were not taken yet.
    pub fn allocate_node_in_checkpoint(&mut self) -> Option<BlockNo> {
        self.assert_images_taken();
        let scopes = [Scope::ImagedNodes, Scope::Imaged, Scope::Nodes, Scope::Empty, Scope::Any];
        let (region, at) = self.find_node(&scopes)?;
        self.index.imaged.insert(region);
        Some(self.take(Class::Node, region, (at, NODE_BLOCKS), State::Used).start)
    }

    fn cursor(&mut self, class: Class) -> &mut Cursor {
        match class {
            Class::Data => &mut self.data,
            Class::Node => &mut self.node,
        }
    }

    /// Takes a free part of a region and moves the cursor behind it.
    fn take(&mut self, class: Class, region: u32, part: (u32, u32), state: State) -> Run {
        if class == Class::Node && self.index.empty.contains(region) {
            self.index.set_holds_nodes(region, true);
        }
        self.pass(region, part, State::Free, state);
        *self.cursor(class) = Cursor { region, at: part.0 + part.1 };
        Run::new(block_at(region, part.0), part.1)
    }

    fn find_node(&mut self, scopes: &[Scope]) -> Option<(u32, u32)> {
        if self.slots == 0 {
            return None;
        }
        scopes.iter().find_map(|s| self.find_piece(Class::Node, *s, Piece::Slot))
    }

    /// Finds the next slot or scrap in a region of `scope`: from the cursor to the end of its region,
    /// then through the other regions and around. Every region that it searches in whole has one.
    fn find_piece(&mut self, class: Class, scope: Scope, piece: Piece) -> Option<(u32, u32)> {
        let Cursor { region: home, at } = *self.cursor(class);
        if let Some(region) = self.regions.get(home as usize)
            && at < region.blocks()
            && self.index.admits(scope, home)
            && self.index.has(home, piece)
            && let Some(found) = region.taken().find_piece(piece, at)
        {
            return Some((home, found));
        }
        let end = self.regions.len() as u32;
        let behind = (home + 1).min(end);
        let next = self.index.next_with(scope, piece, behind, end);
        let number = next.or_else(|| self.index.next_with(scope, piece, 0, behind))?;
        let found = self.regions[number as usize].taken().find_piece(piece, 0);
        debug_assert!(found.is_some());
        Some((number, found?))
    }

    /// Finds a row of `want` blocks or, failing that, of the longest power of two that is found soon.
    ///
    /// Single blocks are always found: a region that has a free one stands on the lowest level, and
    /// one that has none does not.
    fn find_up_to(&mut self, class: Class, scope: Scope, want: u32) -> Option<(u32, u32)> {
        let mut looks = MAX_LOOKS;
        let mut target = want;
        loop {
            if let Some(found) = self.find(class, scope, target, &mut looks) {
                return Some(found);
            }
            if target == 1 {
                return None;
            }
            target = 1 << level_of(target - 1);
        }
    }

    /// Finds the next row of `want` blocks in a region of `scope`: from the cursor to the end of its
    /// region, then through the other regions and around, then in the whole of the cursor's region.
    /// Gives up when `looks` regions were searched in vain.
    fn find(
        &mut self,
        class: Class,
        scope: Scope,
        want: u32,
        looks: &mut u32,
    ) -> Option<(u32, u32)> {
        let level = level_of(want);
        if !self.index.any(scope, level) {
            return None;
        }
        let Cursor { region: home, at } = *self.cursor(class);
        // Only a search from a region's start may fail for good, so a cursor that stands there is left
        // to the loop below.
        if at != 0
            && let Some(region) = self.regions.get_mut(home as usize)
            && at < region.blocks()
            && self.index.admits(scope, home)
            && let Some(found) = region.find(at, want)
        {
            return Some((home, found));
        }
        let behind = if at == 0 { home } else { home + 1 };
        for (mut from, end) in [(behind, self.regions.len() as u32), (0, behind)] {
            while let Some(number) = self.index.next(scope, level, from, end) {
                let region = &mut self.regions[number as usize];
                if let Some(found) = region.find(0, want) {
                    return Some((number, found));
                }
                self.index.place(number, region.longest());
                *looks = looks.checked_sub(1)?;
                from = number + 1;
            }
        }
        None
    }
}
