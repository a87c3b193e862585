//! Applying edits to a head's tree: the same code when an operation runs and when it is replayed.
//!
//! Invariants, verified by [`crate::check`]:
//! - E1. Extents of a file don't overlap, and none is longer than [`MAX_EXTENT_BLOCKS`].
//! - E2. An inode's block count is the sum of its extents' lengths.
//! - E3. A state's data block count is the sum over all its inodes.

use std::ops::ControlFlow;

use crate::btree::{Error, Reader, Store};
use crate::format::{
    BLOCK_SIZE, DeadRef, Edit, Epoch, Extent, ExtentKind, InodeNo, Key, KeyKind, MAX_EXTENT_BLOCKS,
    MAX_SUB, Run,
};
use crate::snapshot::Root;

/// Bytes of an inode record that hold its block count.
const BLOCKS_FIELD: usize = 8;

/// Changes a state by edits and gathers the references that it drops.
pub(super) struct Apply<'a> {
    pub(super) root: &'a mut Root,
    pub(super) store: &'a mut dyn Store,
    pub(super) dropped: Vec<DeadRef>,
}

impl Apply<'_> {
    /// Makes all the nodes that `edit` touches dirty, without a change: I/O errors and damage show here.
    pub(super) fn prepare(&mut self, edit: &Edit) -> Result<(), Error> {
        match edit {
            Edit::Put { key, .. } | Edit::Delete { key } => self.prepare_key(*key),
            Edit::Map { ino, block, extent, .. } => {
                self.prepare_key(Key::inode(*ino, KeyKind::Inode, 0))?;
                if let Some((start, before)) = self.predecessor(*ino, *block)?
                    && continues(&before, start, extent, *block)
                {
                    // It may stand in another leaf than the key of the block does.
                    self.prepare_key(extent_key(*ino, start))?;
                }
                self.prepare_range(*ino, *block, block + u64::from(extent.len_blocks))
            }
            Edit::Unmap { ino, block, len_blocks } => {
                self.prepare_key(Key::inode(*ino, KeyKind::Inode, 0))?;
                self.prepare_range(*ino, *block, block.saturating_add(*len_blocks))
            }
            Edit::DeleteInode { ino } => {
                self.overlapping(*ino, 0, u64::MAX)?;
                for key in self.keys_of(*ino)? {
                    self.prepare_key(key)?;
                }
                Ok(())
            }
            Edit::Content { .. } => Ok(()),
        }
    }

    fn prepare_key(&mut self, key: Key) -> Result<(), Error> {
        self.root.tree.prepare(self.store, key)
    }

    fn prepare_range(&mut self, ino: InodeNo, from: u64, to: u64) -> Result<(), Error> {
        self.prepare_key(extent_key(ino, from))?;
        // Where the rest of an extent that reaches beyond the range goes.
        self.prepare_key(extent_key(ino, to))?;
        for (block, _) in self.overlapping(ino, from, to)? {
            self.prepare_key(extent_key(ino, block))?;
        }
        Ok(())
    }

    /// Makes the change.
    pub(super) fn apply(&mut self, edit: &Edit) -> Result<(), Error> {
        match edit {
            Edit::Put { key, value } if key.is(KeyKind::Inode) && value.len() >= BLOCKS_FIELD => {
                self.put_inode(*key, value)
            }
            Edit::Put { key, value } => self.root.tree.insert(self.store, *key, value),
            Edit::Delete { key } => self.root.tree.remove(self.store, *key).map(|_| ()),
            Edit::Map { ino, block, extent, .. } => self.map(*ino, *block, extent),
            Edit::Unmap { ino, block, len_blocks } => {
                let removed = self.unmap(*ino, *block, block.saturating_add(*len_blocks))?;
                self.count_blocks(*ino, 0, removed)
            }
            Edit::DeleteInode { ino } => self.delete_inode(*ino),
            // It is in the data file already; replay has its own pass for it.
            Edit::Content { .. } => Ok(()),
        }
    }

    fn put_inode(&mut self, key: Key, value: &[u8]) -> Result<(), Error> {
        let field = |old: &[u8]| old.get(..BLOCKS_FIELD).map(<[u8]>::to_vec);
        let old = Reader::new(&self.root.tree, self.store).get(key, field)?.flatten();
        let mut value = value.to_vec();
        value[..BLOCKS_FIELD].copy_from_slice(&old.unwrap_or_else(|| vec![0; BLOCKS_FIELD]));
        self.root.tree.insert(self.store, key, &value)
    }

    /// Maps `extent` at `block`, joined to the extent before it where it continues that on disk.
    pub(super) fn map(&mut self, ino: InodeNo, block: u64, extent: &Extent) -> Result<(), Error> {
        let end = block + u64::from(extent.len_blocks);
        let removed = self.unmap(ino, block, end)?;
        match self.predecessor(ino, block)? {
            Some((start, mut before)) if continues(&before, start, extent, block) => {
                before.len_blocks += extent.len_blocks;
                before.checksums.extend_from_slice(&extent.checksums);
                self.put_extent(ino, start, &before)?;
            }
            _ => self.put_extent(ino, block, extent)?,
        }
        self.count_blocks(ino, u64::from(extent.len_blocks), removed)
    }

    fn put_extent(&mut self, ino: InodeNo, block: u64, extent: &Extent) -> Result<(), Error> {
        self.root.tree.insert(self.store, extent_key(ino, block), &extent.to_bytes())
    }

    /// Removes what is mapped from `from` up to `to` and returns how many blocks that was.
    fn unmap(&mut self, ino: InodeNo, from: u64, to: u64) -> Result<u64, Error> {
        let mut removed = 0;
        for (block, extent) in self.overlapping(ino, from, to)? {
            let end = block + u64::from(extent.len_blocks);
            let (cut_from, cut_to) = (from.max(block), to.min(end));
            let (skip, len) = ((cut_from - block) as u32, (cut_to - cut_from) as u32);
            let run = Run::new(extent.part(skip, len).addr, len);
            self.dropped.push(DeadRef { run, birth: extent.birth });
            removed += u64::from(len);
            if skip > 0 {
                self.put_extent(ino, block, &extent.part(0, skip))?;
            } else {
                self.root.tree.remove(self.store, extent_key(ino, block))?;
            }
            if cut_to < end {
                let rest = extent.part(skip + len, (end - cut_to) as u32);
                self.put_extent(ino, cut_to, &rest)?;
            }
        }
        Ok(removed)
    }

    fn count_blocks(&mut self, ino: InodeNo, added: u64, removed: u64) -> Result<(), Error> {
        let root = &mut *self.root;
        root.data_blocks = root.data_blocks.saturating_add(added).saturating_sub(removed);
        if added == removed {
            return Ok(());
        }
        let key = Key::inode(ino, KeyKind::Inode, 0);
        let count = |record: &mut [u8]| {
            if let Some(field) = record.first_chunk_mut::<BLOCKS_FIELD>() {
                let blocks = u64::from_le_bytes(*field).saturating_add(added);
                *field = blocks.saturating_sub(removed).to_le_bytes();
            }
        };
        self.root.tree.modify(self.store, key, count).map(|_| ())
    }

    fn delete_inode(&mut self, ino: InodeNo) -> Result<(), Error> {
        let removed = self.unmap(ino, 0, u64::MAX)?;
        self.root.data_blocks = self.root.data_blocks.saturating_sub(removed);
        for key in self.keys_of(ino)? {
            self.root.tree.remove(self.store, key)?;
        }
        Ok(())
    }

    fn keys_of(&self, ino: InodeNo) -> Result<Vec<Key>, Error> {
        let mut keys = Vec::new();
        let reader = Reader::new(&self.root.tree, self.store);
        reader.range(Key::first_of(ino.0), Key::last_of(ino.0), &mut |key, _| {
            keys.push(key);
            ControlFlow::Continue(())
        })?;
        Ok(keys)
    }

    fn predecessor(&self, ino: InodeNo, block: u64) -> Result<Option<(u64, Extent)>, Error> {
        let Some(before) = block.checked_sub(1) else { return Ok(None) };
        let reader = Reader::new(&self.root.tree, self.store);
        let found = reader.with_last(extent_key(ino, before), &mut |key, value| {
            let extent = is_extent_of(key, ino).then(|| Extent::decode(value).ok()).flatten();
            extent.map(|extent| (key.sub(), extent))
        })?;
        Ok(found.flatten())
    }

    fn overlapping(&self, ino: InodeNo, from: u64, to: u64) -> Result<Vec<(u64, Extent)>, Error> {
        let mut found = Vec::new();
        for_each_extent(
            &Reader::new(&self.root.tree, self.store),
            ino,
            from,
            to,
            &mut |at, extent| {
                found.push((at, extent));
                ControlFlow::Continue(())
            },
        )?;
        Ok(found)
    }
}

fn extent_key(ino: InodeNo, block: u64) -> Key {
    Key::inode(ino, KeyKind::Extent, block.min(MAX_SUB))
}

fn is_extent_of(key: Key, ino: InodeNo) -> bool {
    key.id() == ino.0 && key.is(KeyKind::Extent)
}

fn continues(before: &Extent, start: u64, extent: &Extent, block: u64) -> bool {
    start + u64::from(before.len_blocks) == block
        && before.run().end() == extent.addr.0
        && before.birth == extent.birth
        && before.kind == extent.kind
        && before.len_blocks + extent.len_blocks <= MAX_EXTENT_BLOCKS
}

/// Calls `f` with every extent of `ino` that overlaps the blocks from `from` up to `to`, whole, in order.
///
/// Fails at a record that does not decode, and at one that overlaps the one before: to leave it out would
/// show a hole where there is data.
pub(super) fn for_each_extent(
    reader: &Reader<'_>,
    ino: InodeNo,
    from: u64,
    to: u64,
    f: &mut dyn FnMut(u64, Extent) -> ControlFlow<()>,
) -> Result<(), Error> {
    if from >= to {
        return Ok(());
    }
    // Extents don't overlap (E1), so of those that begin before `from` the last one alone may reach it.
    let before = reader.with_last(extent_key(ino, from), &mut |key, _| key)?;
    let first = before.filter(|key| is_extent_of(*key, ino)).unwrap_or(extent_key(ino, from));
    let mut behind = 0;
    let mut bad = None;
    reader.range(
        first,
        extent_key(ino, to - 1),
        &mut |key, value| match Extent::decode(value) {
            Ok(_) if key.sub() < behind => {
                bad = Some(format!("extents of inode {ino} overlap at its block {}", key.sub()));
                ControlFlow::Break(())
            }
            Ok(extent) => {
                behind = key.sub() + u64::from(extent.len_blocks);
                if behind > from { f(key.sub(), extent) } else { ControlFlow::Continue(()) }
            }
            Err(error) => {
                bad = Some(format!("inode {ino}, block {}: {error}", key.sub()));
                ControlFlow::Break(())
            }
        },
    )?;
    bad.map_or(Ok(()), |why| Err(Error::Malformed(why)))
}

/// Returns the blocks of a written extent that do not have the checksums that it says, read by `read`.
///
/// A block that can't be read is not among them: whether it was written nobody knows, and reading the file
/// says so.
pub(super) fn invalid_parts(
    extent: &Extent,
    read: &mut dyn FnMut(u64, &mut [u8]) -> std::io::Result<()>,
) -> Vec<Run> {
    if extent.kind == ExtentKind::Preallocated {
        return Vec::new();
    }
    let mut bytes = vec![0; extent.len_blocks as usize * BLOCK_SIZE];
    let whole = read(extent.addr.offset_bytes(), &mut bytes).is_ok();
    let mut at = extent.addr.offset_bytes();
    let mut same = |(block, sum): (&mut [u8], &u32)| {
        let readable = whole || read(at, block).is_ok();
        at += BLOCK_SIZE as u64;
        !readable || crc32c::crc32c(block) == *sum
    };
    let blocks = bytes.chunks_mut(BLOCK_SIZE).zip(&extent.checksums);
    let valid: Vec<bool> = blocks.map(&mut same).collect();
    let mut invalid = Vec::new();
    let mut at = 0;
    for same in valid.chunk_by(|a, b| a == b) {
        let len = same.len() as u32;
        if !same[0] {
            invalid.push(extent.sub_run(at, len));
        }
        at += len;
    }
    invalid
}

/// Bucket of a head's deadlist for a reference of that birth: the oldest ancestor that has it.
pub(super) fn bucket(ancestors: &[Epoch], birth: Epoch) -> Epoch {
    let at = ancestors.partition_point(|epoch| *epoch < birth);
    ancestors.get(at).copied().unwrap_or(birth)
}
