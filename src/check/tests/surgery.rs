//! Changes bytes of a pool at rest and makes every hash above them right again.

use std::collections::HashMap;

use super::*;
use crate::format::{
    BlockNo, Hash, INTERNAL_ENTRY, LEAF_ENTRY, MemberId, NODE_HEADER, NODE_SIZE, RootRecord,
    page_level,
};

/// Which tree a page is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum In {
    Checkpoint,
    Catalog,
    Member(MemberId),
}

/// A page under the knife.
pub(super) struct Cut<'a> {
    pub(super) tree: In,
    pub(super) is_root: bool,
    pub(super) page: &'a mut [u8; NODE_SIZE],
}

impl Cut<'_> {
    pub(super) fn level(&self) -> u8 {
        page_level(self.page)
    }

    fn count(&self) -> usize {
        usize::from(u16::from_le_bytes(self.page[6..8].try_into().unwrap()))
    }

    /// Entries of a leaf: key, offset of the entry, and the value's bytes.
    pub(super) fn entries(&self) -> Vec<(Key, usize, std::ops::Range<usize>)> {
        if self.level() > 0 {
            return Vec::new();
        }
        let field =
            |at: usize| usize::from(u16::from_le_bytes(self.page[at..at + 2].try_into().unwrap()));
        (0..self.count())
            .map(|index| {
                let at = NODE_HEADER + index * LEAF_ENTRY;
                let key = u128::from_le_bytes(self.page[at..at + 16].try_into().unwrap());
                let value = field(at + 16);
                (Key(key), at, value..value + field(at + 18))
            })
            .collect()
    }

    /// The first value whose key is of a kind.
    pub(super) fn value(&mut self, wanted: impl Fn(Key) -> bool) -> Option<&mut [u8]> {
        let (_, _, range) = self.entries().into_iter().find(|(key, ..)| wanted(*key))?;
        Some(&mut self.page[range])
    }

    pub(super) fn set_key(&mut self, at: usize, key: Key) {
        self.page[at..at + 16].copy_from_slice(&key.0.to_le_bytes());
    }
}

type Knife<'f> = &'f mut dyn FnMut(&mut Cut<'_>) -> bool;

struct Surgeon<'a> {
    data: &'a dyn BlockDevice,
    knife: Knife<'a>,
    cut: bool,
    /// Hashes of the pages that are done: snapshots share them.
    done: HashMap<BlockNo, Hash>,
}

/// Shows `knife` every page of a pool, children first, until it says that it has cut one. What it does to
/// others is undone.
///
/// # Panics
/// If it cuts none: the pool has not what it looks for.
pub(super) fn operate(storage: &Storage, knife: Knife<'_>) {
    let mut superblock = pool::read_superblock(&*storage.superblock).unwrap();
    let data = &*storage.data;
    let mut surgeon = Surgeon { data, knife, cut: false, done: HashMap::new() };
    superblock.root.ptr.hash = surgeon.patch(In::Checkpoint, superblock.root.ptr.addr, true);
    assert!(surgeon.cut, "nothing to cut");
    write_superblock(storage, &superblock);
}

pub(super) fn write_superblock(storage: &Storage, superblock: &Superblock) {
    for offset in SLOT_OFFSETS {
        storage.superblock.write_at(offset, &superblock.to_bytes()).unwrap();
    }
}

impl Surgeon<'_> {
    fn patch(&mut self, tree: In, addr: BlockNo, is_root: bool) -> Hash {
        if let Some(hash) = self.done.get(&addr) {
            return *hash;
        }
        let mut page = Box::new([0; NODE_SIZE]);
        self.data.read_at(addr.offset_bytes(), page.as_mut_slice()).unwrap();
        let mut cut = Cut { tree, is_root, page: &mut page };
        if cut.level() > 0 {
            for index in 0..cut.count() {
                let at = NODE_HEADER + index * INTERNAL_ENTRY;
                let below = u64::from_le_bytes(cut.page[at + 16..at + 24].try_into().unwrap());
                let hash = self.patch(tree, BlockNo(below), false);
                cut.page[at + 32..at + 64].copy_from_slice(&hash.0);
            }
        } else if tree == In::Checkpoint {
            for (key, _, value) in cut.entries() {
                if key.is(KeyKind::Root) {
                    let root = RootRecord::decode(&cut.page[value.clone()]).unwrap();
                    let member = MemberId(key.sub());
                    let below = if member.0 == 0 { In::Catalog } else { In::Member(member) };
                    let hash = self.patch(below, root.ptr.addr, true);
                    cut.page[value.start + 16..value.start + 48].copy_from_slice(&hash.0);
                }
            }
        }
        if !self.cut {
            let before = cut.page.to_vec();
            self.cut = (self.knife)(&mut cut);
            if !self.cut {
                cut.page.copy_from_slice(&before);
            }
        }
        self.data.write_at(addr.offset_bytes(), page.as_slice()).unwrap();
        let hash = Hash(*blake3::hash(page.as_slice()).as_bytes());
        self.done.insert(addr, hash);
        hash
    }
}
