//! E1, and what two lists of a file's extents have in common.

use std::ops::ControlFlow;

use super::Checker;
use super::tree::Place;
use crate::btree::{Reader, Tree};
use crate::cache::{Body, Node};
use crate::format::{
    BLOCK_SIZE, BlockNo, Extent, ExtentKind, InodeNo, Key, KeyKind, MAX_EXTENT_BLOCKS, MAX_SUB, Run,
};

/// A part of a file: where it lies, and since when. All numbers are blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) block: u64,
    pub(super) addr: u64,
    pub(super) len: u64,
    pub(super) birth: u64,
    pub(super) kind: ExtentKind,
}

impl Piece {
    pub(super) fn new(block: u64, extent: &Extent) -> Piece {
        Piece {
            block,
            addr: extent.addr.0,
            len: u64::from(extent.len_blocks),
            birth: extent.birth.0,
            kind: extent.kind,
        }
    }

    pub(super) fn run(&self) -> Run {
        Run::new(BlockNo(self.addr), self.len as u32)
    }

    /// Cuts the first `len` blocks off.
    fn cut(&mut self, len: u64) -> Piece {
        let first = Piece { len, ..*self };
        self.block += len;
        self.addr += len;
        self.len -= len;
        first
    }

    /// Whether both, which begin at one block of the file, are the same reference.
    fn same(&self, other: &Piece) -> bool {
        (self.addr, self.birth, self.kind) == (other.addr, other.birth, other.kind)
    }
}

/// Calls `gone` with what only `old` has and `fresh` with what only `new` has; both are sorted.
pub(super) fn difference(
    old: &[Piece],
    new: &[Piece],
    gone: &mut dyn FnMut(Piece),
    fresh: &mut dyn FnMut(Piece),
) {
    let (mut olds, mut news) = (old.iter().copied(), new.iter().copied());
    let (mut a, mut b) = (olds.next(), news.next());
    while let (Some(old), Some(new)) = (&mut a, &mut b) {
        if old.block < new.block {
            gone(old.cut(old.len.min(new.block - old.block)));
        } else if new.block < old.block {
            fresh(new.cut(new.len.min(old.block - new.block)));
        } else {
            let len = old.len.min(new.len);
            let same = old.same(new);
            let (old, new) = (old.cut(len), new.cut(len));
            if !same {
                gone(old);
                fresh(new);
            }
        }
        if a.is_some_and(|piece| piece.len == 0) {
            a = olds.next();
        }
        if b.is_some_and(|piece| piece.len == 0) {
            b = news.next();
        }
    }
    a.into_iter().chain(olds).for_each(gone);
    b.into_iter().chain(news).for_each(fresh);
}

/// The end of the extent that a new leaf ends with, and the place of the leaf behind it.
#[derive(Debug, Default)]
pub(super) struct Carried {
    /// Inode and end of its last extent so far.
    last: Option<(u64, u64)>,
    /// Upper bound of the leaf.
    high: Option<Key>,
}

impl Checker<'_> {
    /// E1 within a leaf that is new, and against the entries before and behind it.
    pub(super) fn check_overlaps(
        &mut self,
        tree: &Tree,
        carried: &mut Carried,
        place: &Place,
        node: &Node,
        behind: Option<&Place>,
    ) {
        let Body::Leaf(leaf) = &node.body else { return };
        if leaf.is_empty() {
            return;
        }
        if carried.high != Some(place.low) {
            carried.last = self.extent_before(tree, leaf.key(0));
        }
        for at in 0..leaf.len() {
            let key = leaf.key(at);
            if !key.is(KeyKind::Extent) {
                continue;
            }
            let Ok(extent) = Extent::decode(leaf.value(at)) else { continue };
            self.expect_behind(carried.last, key);
            carried.last = Some((key.id(), key.sub() + u64::from(extent.len_blocks)));
        }
        carried.high = place.high;
        let last = leaf.key(leaf.len() - 1);
        if last.is(KeyKind::Extent) && place.high.is_some() && behind.map(|b| b.low) != place.high {
            let next = self.next_extent(tree, last);
            next.into_iter().for_each(|key| self.expect_behind(carried.last, key));
        }
    }

    fn expect_behind(&mut self, last: Option<(u64, u64)>, key: Key) {
        let overlaps = last.is_some_and(|(ino, end)| ino == key.id() && end > key.sub());
        self.report.expect(!overlaps, "E1", || {
            format!("inode {}: extents overlap at block {}", key.id(), key.sub())
        });
    }

    fn extent_before(&self, tree: &Tree, key: Key) -> Option<(u64, u64)> {
        let before = Key(key.0.checked_sub(1)?);
        let found = Reader::new(tree, &self.cache).last_at_or_before(before).ok()??;
        let extent = Extent::decode(&found.1).ok().filter(|_| found.0.is(KeyKind::Extent))?;
        Some((found.0.id(), found.0.sub() + u64::from(extent.len_blocks)))
    }

    fn next_extent(&self, tree: &Tree, key: Key) -> Option<Key> {
        let mut found = None;
        let to = Key::inode(InodeNo(key.id()), KeyKind::Extent, MAX_SUB);
        let read = Reader::new(tree, &self.cache).range(key.successor(), to, &mut |key, _| {
            found = Some(key);
            ControlFlow::Break(())
        });
        read.ok().and(found)
    }

    /// Decodes an extent that is new; E1, and D1 if data is to be read.
    pub(super) fn new_extent(&mut self, key: Key, value: &[u8]) -> Option<Extent> {
        let extent = self.decoded("E1", key, Extent::decode(value))?;
        let fits = extent.len_blocks <= MAX_EXTENT_BLOCKS
            && key.sub() <= MAX_SUB - u64::from(extent.len_blocks);
        self.report.expect(fits, "E1", || format!("key {key:?}: the extent is too long"));
        if self.options.data && extent.kind == ExtentKind::Written {
            self.verify_data(key, &extent);
        }
        Some(extent)
    }

    fn verify_data(&mut self, key: Key, extent: &Extent) {
        let mut bytes = vec![0; extent.len_blocks as usize * BLOCK_SIZE];
        let (ino, first) = (key.id(), key.sub());
        if let Err(error) = self.data.read_at(extent.addr.offset_bytes(), &mut bytes) {
            let at = extent.addr;
            self.report.problem(
                "D1",
                format!("inode {ino}: blocks from {first} on, at block {at}: {error}"),
            );
            return;
        }
        for (at, (block, sum)) in bytes.chunks(BLOCK_SIZE).zip(&extent.checksums).enumerate() {
            self.report.counts.verified_blocks += 1;
            self.report.expect(crc32c::crc32c(block) == *sum, "D1", || {
                let (block, addr) = (first + at as u64, extent.addr.0 + at as u64);
                format!("inode {ino}: block {block}, at block {addr}: its checksum does not match")
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn pieces() -> impl Strategy<Value = Vec<Piece>> {
        prop::collection::vec((0u64..5, 1u64..6, 0u64..4, 1u64..3), 0..12).prop_map(|parts| {
            let mut block = 0;
            let mut pieces = Vec::new();
            for (gap, len, at, birth) in parts {
                block += gap;
                // Addresses that often continue those of another list.
                let (addr, kind) = (100 * at + block, ExtentKind::Written);
                pieces.push(Piece { block, addr, len, birth, kind });
                block += len;
            }
            pieces
        })
    }

    fn blocks(pieces: &[Piece]) -> BTreeSet<(u64, u64, u64)> {
        let each = |p: &Piece| {
            let p = *p;
            (0..p.len).map(move |at| (p.block + at, p.addr + at, p.birth))
        };
        pieces.iter().flat_map(each).collect()
    }

    proptest! {
        #[test]
        fn differences_are_those_of_single_blocks(old in pieces(), new in pieces()) {
            let (mut gone, mut fresh) = (Vec::new(), Vec::new());
            difference(&old, &new, &mut |piece| gone.push(piece), &mut |piece| fresh.push(piece));
            let (old, new) = (blocks(&old), blocks(&new));
            prop_assert_eq!(blocks(&gone), old.difference(&new).copied().collect());
            prop_assert_eq!(blocks(&fresh), new.difference(&old).copied().collect());
        }
    }
}
