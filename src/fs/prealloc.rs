//! `fallocate`: setting space aside, punching holes, zeroing ranges.
//!
//! Zeroing is one commit, with the size. Setting space aside takes as many as it needs: what was set aside
//! stays when it can't be finished, and nobody can see it in the content. A new size comes last.

use std::ops::ControlFlow;

use super::error::Error;
use super::file::BLOCK;
use super::records::{Records, inline_key};
use super::transaction::blocks_for;
use super::write::{Settle, leave_leaf};
use super::{Filesystem, NodeId};
use crate::format::{BLOCK_SIZE, Inode, InodeFlags, InodeNo, MAX_FILE_SIZE, MAX_INLINE};
use crate::pool::{Intent, ReadExtents};

const KEEP_SIZE: u32 = libc::FALLOC_FL_KEEP_SIZE as u32;
const PUNCH_HOLE: u32 = libc::FALLOC_FL_PUNCH_HOLE as u32;
const ZERO_RANGE: u32 = libc::FALLOC_FL_ZERO_RANGE as u32;

/// Holes that are filled in one commit.
const SLICE_HOLES: usize = 512;
/// Blocks that are set aside in one commit: 32 MiB, a few dozen edits of 50 bytes as a rule, and no more than
/// a journal record holds if every block is alone.
const SLICE_BLOCKS: u64 = 8192;

/// Bytes from `from` up to `to`.
#[derive(Debug, Clone, Copy)]
struct Bytes {
    from: u64,
    to: u64,
}

impl Filesystem {
    /// Sets space aside for a file, or makes a part of it read as zeros. `mode` is that of `fallocate`.
    ///
    /// [`Error::NotSupported`] for collapsing and inserting ranges.
    pub fn fallocate(&self, node: NodeId, offset: u64, len: u64, mode: u32) -> Result<(), Error> {
        let allocate = || {
            let ino = self.writable(node)?;
            if len == 0 {
                return Err(Error::Invalid);
            }
            let to = offset.checked_add(len).filter(|end| *end <= MAX_FILE_SIZE);
            let range = Bytes { from: offset, to: to.ok_or(Error::FileTooBig)? };
            let keep = mode & KEEP_SIZE != 0;
            let _content = self.content.exclusive(ino);
            let inode = self.regular(ino)?;
            let size = if keep { inode.size } else { inode.size.max(range.to) };
            match mode & !KEEP_SIZE {
                0 => {
                    self.set_aside(ino, &inode, range)?;
                    self.settle_size(ino, size)
                }
                PUNCH_HOLE if keep => self.zero(ino, &inode, range, size),
                ZERO_RANGE => self.zero_range(ino, &inode, range, size),
                _ => Err(Error::NotSupported),
            }
        };
        let result = allocate();
        self.report(node, result)
    }

    /// Zeroes a range and sets the size in one commit, and then sets space aside for it.
    fn zero_range(
        &self,
        ino: InodeNo,
        inode: &Inode,
        range: Bytes,
        size: u64,
    ) -> Result<(), Error> {
        let mut inode = *inode;
        if inode.flags.has(InodeFlags::INLINE) && range.to > MAX_INLINE as u64 {
            self.move_out(ino)?;
            inode = self.regular(ino)?;
        }
        self.must_fit(ino, range)?;
        self.zero(ino, &inode, range, size)?;
        let inode = self.regular(ino)?;
        self.set_aside(ino, &inode, range)
    }

    /// Fails with [`Error::NoSpace`] when a range's holes are more than is free: better nothing than all that
    /// is left, and an error.
    fn must_fit(&self, ino: InodeNo, range: Bytes) -> Result<(), Error> {
        let (first, end) = (range.from / BLOCK, blocks_for(range.to));
        let free = self.volume.space().unpromised_bytes / BLOCK;
        if end - first > free && self.missing(ino, first, end)? > free {
            return Err(Error::NoSpace);
        }
        Ok(())
    }

    /// Fills the holes of a range with preallocated space; the content and the size stay.
    fn set_aside(&self, ino: InodeNo, inode: &Inode, range: Bytes) -> Result<(), Error> {
        if inode.flags.has(InodeFlags::INLINE) {
            if range.to <= MAX_INLINE as u64 {
                // The leaf has the room.
                return Ok(());
            }
            self.must_fit(ino, range)?;
            self.move_out(ino)?;
        } else {
            self.must_fit(ino, range)?;
        }
        let (first, end) = (range.from / BLOCK, blocks_for(range.to));
        let mut at = first;
        while at < end {
            let (holes, next) = self.holes(ino, at, end)?;
            let mut fresh = Vec::with_capacity(holes.len());
            for (block, len) in holes {
                fresh.push((block, self.volume.preallocate(len)?));
            }
            if !fresh.is_empty() {
                let mut tx = self.begin(Intent::Grow)?;
                tx.inode(ino)?;
                for (block, fresh) in fresh {
                    tx.map(ino, block, fresh);
                }
                tx.commit()?;
            }
            at = next;
        }
        Ok(())
    }

    /// Moves a small file's content from the leaf to a block. The content lock is held exclusively.
    pub(super) fn move_out(&self, ino: InodeNo) -> Result<(), Error> {
        let fresh =
            self.volume.write_blocks_journaled(&self.content_block(ino, 0)?, Intent::Grow)?;
        let mut tx = self.begin(Intent::Grow)?;
        let mut inode = tx.inode(ino)?;
        leave_leaf(&mut tx, ino, &mut inode);
        tx.put_inode(ino, &inode);
        tx.map(ino, 0, fresh);
        tx.commit()
    }

    /// Number of unmapped blocks of a range.
    fn missing(&self, ino: InodeNo, first: u64, end: u64) -> Result<u64, Error> {
        let mut missing = end - first;
        let guard = self.head.read()?;
        guard.reader().extents(ino, first, end, &mut |_, extent| {
            missing = missing.saturating_sub(u64::from(extent.len_blocks));
            ControlFlow::Continue(())
        })?;
        Ok(missing)
    }

    /// Some holes of a range, and where to go on behind them.
    fn holes(&self, ino: InodeNo, first: u64, end: u64) -> Result<(Vec<(u64, u64)>, u64), Error> {
        let mut holes = Vec::new();
        let (mut at, mut blocks) = (first, 0);
        let end = end.min(first.saturating_add(SLICE_BLOCKS * 1024));
        let mut add = |holes: &mut Vec<(u64, u64)>, at: &mut u64, until: u64| {
            let len = (until - *at).min(SLICE_BLOCKS - blocks);
            if len > 0 {
                holes.push((*at, len));
                blocks += len;
            }
            *at += len;
            *at == until && holes.len() < SLICE_HOLES && blocks < SLICE_BLOCKS
        };
        let mut whole = true;
        let guard = self.head.read()?;
        guard.reader().extents(ino, first, end, &mut |block, extent| {
            whole = add(&mut holes, &mut at, block);
            if !whole {
                return ControlFlow::Break(());
            }
            at = block + u64::from(extent.len_blocks);
            ControlFlow::Continue(())
        })?;
        if whole {
            add(&mut holes, &mut at, end);
        }
        Ok((holes, at))
    }

    /// Sets the size and the times after a change that was made already.
    fn settle_size(&self, ino: InodeNo, size: u64) -> Result<(), Error> {
        let mut tx = self.begin(Intent::Grow)?;
        let mut inode = tx.inode(ino)?;
        if inode.flags.has(InodeFlags::INLINE) {
            if size > MAX_INLINE as u64 {
                return Err(Error::Io(format!("inode {ino} has too much inline content")));
            }
            let mut content = tx.get_vec(inline_key(ino))?.unwrap_or_default();
            content.resize(size as usize, 0);
            tx.set(inline_key(ino), Some(content));
        }
        inode.size = size;
        Settle::CHANGED.apply(&mut tx, ino, &mut inode)?;
        tx.put_inode(ino, &inode);
        tx.complete(0)
    }

    /// Makes a range read as zeros and sets the size: whole blocks become holes.
    fn zero(&self, ino: InodeNo, inode: &Inode, range: Bytes, size: u64) -> Result<(), Error> {
        if inode.flags.has(InodeFlags::INLINE) {
            return self.zero_inline(ino, range, size);
        }
        // What is behind the end is zero: a last block that is zeroed up to the end is a hole.
        let to = if range.to >= inode.size { range.to.next_multiple_of(BLOCK) } else { range.to };
        let (first, end) = (blocks_for(range.from), to / BLOCK);
        let mut edges = Vec::with_capacity(2);
        for edge in [range.from / BLOCK, to / BLOCK] {
            let start = edge * BLOCK;
            let partial = start < range.from || to < start + BLOCK;
            let known = edges.iter().any(|(block, _)| *block == edge);
            if !partial
                || known
                || start >= to
                || start >= inode.size
                || !self.is_written(ino, edge)?
            {
                continue;
            }
            let mut block = self.content_block(ino, edge)?;
            let zero_from = range.from.saturating_sub(start).min(BLOCK) as usize;
            let zero_to = (to - start).min(BLOCK_SIZE as u64) as usize;
            block[zero_from..zero_to].fill(0);
            edges.push((edge, self.volume.write_blocks(&block, Intent::Shrink)?));
        }
        let mut tx = self.begin(Intent::Shrink)?;
        let mut inode = tx.inode(ino)?;
        inode.size = size;
        Settle::CHANGED.apply(&mut tx, ino, &mut inode)?;
        tx.put_inode(ino, &inode);
        if first < end {
            tx.unmap(ino, first, end - first);
        }
        for (block, fresh) in edges {
            tx.map(ino, block, fresh);
        }
        tx.complete(0)
    }

    fn zero_inline(&self, ino: InodeNo, range: Bytes, size: u64) -> Result<(), Error> {
        let mut tx = self.begin(Intent::Shrink)?;
        let mut inode = tx.inode(ino)?;
        let mut content = tx.get_vec(inline_key(ino))?.unwrap_or_default();
        let len = content.len() as u64;
        content[range.from.min(len) as usize..range.to.min(len) as usize].fill(0);
        content.resize(size as usize, 0);
        inode.size = size;
        tx.set(inline_key(ino), Some(content));
        Settle::CHANGED.apply(&mut tx, ino, &mut inode)?;
        tx.put_inode(ino, &inode);
        tx.complete(0)
    }
}
