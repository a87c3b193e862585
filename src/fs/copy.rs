//! `copy_file_range`: whole blocks are shared, from snapshots too; everything else is copied.
//!
//! Lock order: while the head is held a snapshot's view is read, never the other way round.

use std::ops::ControlFlow;

use super::error::Error;
use super::file::{BLOCK, read_at};
use super::records::Records;
use super::write::Settle;
use super::{Filesystem, NodeId};
use crate::format::{Edit, Extent, ExtentKind, FileKind, InodeFlags, InodeNo, MAX_FILE_SIZE};
use crate::pool::{Intent, ReadExtents, Reader, Source};

/// Blocks that one call shares at most: 256 MiB, whose checksums take a quarter of a journal record.
const MAX_SHARED_BLOCKS: u64 = 65536;
/// Extents that one call shares at most, and holes between them: an edit each, with room for it in the tree.
const MAX_PIECES: usize = 2048;
/// Bytes that one call copies at most.
pub const MAX_COPY: u64 = 1 << 20;

impl Filesystem {
    /// Copies bytes from one file into another, or within one; returns how many, possibly fewer than asked
    /// for: the caller goes on behind them. 0 at the source's end.
    ///
    /// Whole blocks at block offsets are shared, not copied.
    pub fn copy_file_range(
        &self,
        src: NodeId,
        src_offset: u64,
        dst: NodeId,
        dst_offset: u64,
        len: u64,
    ) -> Result<u64, Error> {
        let copy = || {
            let to = self.writable(dst)?;
            let (source, from) = self.source_of(src)?;
            let inode = {
                let guard = source.read()?;
                guard.reader().inode(from)?
            };
            self.regular(to)?;
            match inode.kind() {
                FileKind::Regular => {}
                FileKind::Directory => return Err(Error::IsDirectory),
                _ => return Err(Error::Invalid),
            }
            let len = len.min(inode.size.saturating_sub(src_offset));
            if len == 0 {
                return Ok(0);
            }
            let end = dst_offset.checked_add(len).filter(|end| *end <= MAX_FILE_SIZE);
            end.ok_or(Error::FileTooBig)?;
            if src == dst && src_offset < dst_offset + len && dst_offset < src_offset + len {
                return Err(Error::Invalid);
            }
            let aligned = src_offset.is_multiple_of(BLOCK)
                && dst_offset.is_multiple_of(BLOCK)
                && len >= BLOCK;
            if aligned && !inode.flags.has(InodeFlags::INLINE) {
                let blocks = (len / BLOCK).min(MAX_SHARED_BLOCKS);
                let part = Part { source: &source, ino: from, block: src_offset / BLOCK, blocks };
                return self.share(part, to, dst_offset / BLOCK);
            }
            let mut buf = vec![0; len.min(MAX_COPY) as usize];
            let done = if self.is_mutable(src) {
                let _content = self.content.shared(from);
                read_at(&source, from, src_offset, &mut buf)?
            } else {
                read_at(&source, from, src_offset, &mut buf)?
            };
            if done > 0 {
                let _content = self.content.exclusive(to);
                self.write_parts(to, dst_offset, &buf[..done], Settle::CHANGED)?;
            }
            Ok(done as u64)
        };
        let result = copy();
        self.report(dst, result)
    }

    /// Lets a range of a live file refer to the blocks of another file; returns the bytes that it does for.
    fn share(&self, part: Part<'_>, to: InodeNo, dst_block: u64) -> Result<u64, Error> {
        let _content = self.content.exclusive(to);
        if self.regular(to)?.flags.has(InodeFlags::INLINE) {
            self.move_out(to)?;
        }
        let mut tx = self.begin(Intent::Grow)?;
        let (blocks, pieces) = match part.source {
            Source::Head(_) => part.pieces(&tx.reader())?,
            Source::Snapshot(_) => part.pieces(&part.source.read()?.reader())?,
        };
        if blocks == 0 {
            return Ok(0);
        }
        let mut inode = tx.inode(to)?;
        inode.size = inode.size.max((dst_block + blocks) * BLOCK);
        Settle::CHANGED.apply(&mut tx, to, &mut inode)?;
        tx.put_inode(to, &inode);
        for piece in pieces {
            match piece {
                Piece::Hole { block, len } => tx.unmap(to, dst_block + (block - part.block), len),
                // In place of what is there: were that unmapped, and the data here lost to a power cut, then
                // neither would be left.
                Piece::Shared { block, extent } => {
                    let block = dst_block + (block - part.block);
                    tx.push(Edit::Map { ino: to, block, extent, shared: true });
                }
            }
        }
        tx.complete(blocks * BLOCK)?;
        Ok(blocks * BLOCK)
    }
}

/// What a part of a file is made of, by its block there.
enum Piece {
    Shared {
        block: u64,
        extent: Extent,
    },
    /// Nothing is mapped, or nothing was written to what is.
    Hole {
        block: u64,
        len: u64,
    },
}

/// Whole blocks of a file that are to be shared.
#[derive(Clone, Copy)]
struct Part<'a> {
    source: &'a Source,
    ino: InodeNo,
    block: u64,
    blocks: u64,
}

impl Part<'_> {
    /// Returns for how many blocks sharing goes, and what these are made of, without a gap.
    fn pieces(&self, reader: &Reader<'_>) -> Result<(u64, Vec<Piece>), Error> {
        let inode = reader.inode(self.ino)?;
        // It may have been cut, or have gone to the leaf, since it was looked at.
        let blocks = self.blocks.min((inode.size / BLOCK).saturating_sub(self.block));
        if inode.flags.has(InodeFlags::INLINE) || blocks == 0 {
            return Ok((0, Vec::new()));
        }
        let mut pieces = Vec::new();
        let mut end = self.block + blocks;
        // Up to here the pieces go.
        let mut at = self.block;
        reader.extents(self.ino, self.block, end, &mut |block, extent| {
            if pieces.len() + 2 > MAX_PIECES {
                end = at;
                return ControlFlow::Break(());
            }
            if extent.kind == ExtentKind::Written {
                if at < block {
                    pieces.push(Piece::Hole { block: at, len: block - at });
                }
                at = block + u64::from(extent.len_blocks);
                pieces.push(Piece::Shared { block, extent });
            }
            ControlFlow::Continue(())
        })?;
        if at < end {
            pieces.push(Piece::Hole { block: at, len: end - at });
        }
        Ok((end - self.block, pieces))
    }
}
