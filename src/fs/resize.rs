//! Changing a file's size.
//!
//! A cut is one commit: the size, the zeroed rest of the last block, and what is mapped behind it. Where that
//! is much, the record of kind truncate is committed with the size, and the rest follows in slices. Until
//! it is gone the content lock keeps the file from growing again, and after a crash the next mount ends it.

use std::ops::ControlFlow;

use super::error::Error;
use super::file::BLOCK;
use super::inode::apply_attributes;
use super::orphan::next_slice;
use super::records::{Records, inline_key};
use super::transaction::{Transaction, blocks_for};
use super::types::{Caller, SetAttr};
use super::write::leave_leaf;
use super::{Filesystem, SetTime};
use crate::format::{
    ExtentKind, Inode, InodeFlags, InodeNo, MAX_FILE_SIZE, MAX_INLINE, OrphanKind,
};
use crate::pool::{Fresh, Intent, ReadExtents};

/// What becomes of the block that the new end lies in.
enum Tail {
    /// Nothing: it is a hole, or wholly before or behind the end.
    Keep,
    /// It is written anew.
    Block(u64, Vec<Fresh>),
    /// The whole content goes to the leaf.
    Leaf(Vec<u8>),
}

impl Filesystem {
    /// Sets a file's size, and the other attributes of `set` with it.
    pub(super) fn resize(
        &self,
        caller: &Caller,
        ino: InodeNo,
        size: u64,
        set: &SetAttr,
    ) -> Result<(), Error> {
        if size > MAX_FILE_SIZE {
            return Err(Error::FileTooBig);
        }
        let _content = self.content.exclusive(ino);
        let before = self.regular(ino)?;
        let grows = size > before.size;
        // The little that growing takes it may take of what was promised to others: where room is short the request
        // can't wait until that has come, since the kernel holds the file's own pages back until it is answered.
        let intent = if grows { Intent::Promised } else { Intent::Shrink };
        let tail = self.tail(ino, &before, size, intent)?;
        let mut tx = self.begin(intent)?;
        let mut inode = tx.inode(ino)?;
        let rest = match tail {
            _ if grows => {
                grow(&mut tx, ino, &mut inode, size, tail)?;
                false
            }
            Tail::Leaf(content) => {
                inode.flags.set(InodeFlags::INLINE, true);
                tx.set(inline_key(ino), Some(content));
                cut(&mut tx, ino, 0)?
            }
            Tail::Block(block, fresh) => {
                tx.map(ino, block, fresh);
                cut(&mut tx, ino, blocks_for(size))?
            }
            Tail::Keep => cut(&mut tx, ino, blocks_for(size))?,
        };
        if size == 0 {
            leave_leaf(&mut tx, ino, &mut inode);
        }
        inode.size = size;
        let modified = set.mtime.or(Some(SetTime::Now));
        apply_attributes(&mut tx, caller, ino, &mut inode, &SetAttr { mtime: modified, ..*set })?;
        if !set.keep_privileges {
            super::xattr::drop_capability(&mut tx, ino, &mut inode)?;
        }
        tx.put_inode(ino, &inode);
        tx.complete(ino.0)?;
        if rest {
            self.finish_cut_quietly(ino);
        }
        Ok(())
    }

    /// Writes what the block at the new end needs. The content lock is held exclusively.
    fn tail(&self, ino: InodeNo, inode: &Inode, size: u64, intent: Intent) -> Result<Tail, Error> {
        if inode.flags.has(InodeFlags::INLINE) {
            let mut block = self.content_block(ino, 0)?;
            if size > MAX_INLINE as u64 {
                return Ok(Tail::Block(0, self.volume.write_blocks_journaled(&block, intent)?));
            }
            block.truncate(inode.size.min(size) as usize);
            block.resize(size as usize, 0);
            return Ok(if size == 0 { Tail::Keep } else { Tail::Leaf(block) });
        }
        let last = size / BLOCK;
        if size >= inode.size || size.is_multiple_of(BLOCK) || !self.is_written(ino, last)? {
            return Ok(Tail::Keep);
        }
        let mut block = self.content_block(ino, last)?;
        let len = (size % BLOCK) as usize;
        if size <= MAX_INLINE as u64 {
            block.truncate(len);
            return Ok(Tail::Leaf(block));
        }
        block[len..].fill(0);
        // Were it lost to a power cut and the size not, the old bytes would show when the file grows again.
        Ok(Tail::Block(last, self.volume.write_blocks_journaled(&block, intent)?))
    }

    /// Whether a block of a live file holds data.
    pub(super) fn is_written(&self, ino: InodeNo, block: u64) -> Result<bool, Error> {
        let guard = self.head.read()?;
        let mut written = false;
        guard.reader().extents(ino, block, block + 1, &mut |_, extent| {
            written = extent.kind == ExtentKind::Written;
            ControlFlow::Break(())
        })?;
        Ok(written)
    }
}

fn grow(
    tx: &mut Transaction<'_>,
    ino: InodeNo,
    inode: &mut Inode,
    size: u64,
    tail: Tail,
) -> Result<(), Error> {
    match tail {
        Tail::Leaf(content) => tx.set(inline_key(ino), Some(content)),
        Tail::Block(block, fresh) => {
            leave_leaf(tx, ino, inode);
            tx.map(ino, block, fresh);
        }
        Tail::Keep => {}
    }
    debug_assert!(size >= inode.size);
    Ok(())
}

/// Drops what is mapped from a block on; returns whether the most of it is left for later.
fn cut(tx: &mut Transaction<'_>, ino: InodeNo, first: u64) -> Result<bool, Error> {
    let slice = next_slice(&tx.reader(), ino, first)?;
    let Some(end) = slice else {
        tx.unmap(ino, first, u64::MAX);
        return Ok(false);
    };
    tx.unmap(ino, first, end - first);
    if tx.orphan(ino)?.is_none() {
        tx.put_orphan(ino, OrphanKind::Truncate);
    }
    Ok(true)
}
