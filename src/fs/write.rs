//! Writing content: whole blocks in parallel, parts of blocks one after the other, small files in the leaf.
//!
//! Data goes to new blocks with no lock on the head held; the operation's record then maps them. Whole
//! blocks need no more than the content lock shared. A part of a block is read, changed and written
//! whole, under the content lock exclusively: else one of two writers to a block would be lost.
//!
//! A file of up to [`MAX_INLINE`] bytes that has no blocks is kept in the leaf, and moves out when it grows.

use super::error::Error;
use super::file::{BLOCK, read_at};
use super::inode::clear_privileges;
use super::records::{Records, inline_key};
use super::transaction::Transaction;
use super::types::{Handle, WriteFlags};
use super::{Filesystem, NodeId};
use crate::format::{
    Answer, BLOCK_SIZE, FileKind, Inode, InodeFlags, InodeNo, MAX_FILE_SIZE, MAX_INLINE, RequestId,
};
use crate::pool::{Fresh, Intent};

/// One of several writes.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// The request that it carries out.
    pub request: RequestId,
    /// Where in the file.
    pub offset: u64,
    /// What is written.
    pub data: &'a [u8],
}

impl Filesystem {
    /// Writes `data` at an offset: all of it, or nothing with an error.
    ///
    /// [`Error::FileTooBig`] beyond [`MAX_FILE_SIZE`]. When the write comes from the kernel's page cache, times and
    /// permissions stay: the kernel has dealt with them and sends them by itself.
    pub fn write(
        &self,
        node: NodeId,
        handle: Handle,
        offset: u64,
        data: &[u8],
        flags: WriteFlags,
    ) -> Result<usize, Error> {
        let _ = handle;
        let result = self.writable(node).and_then(|ino| {
            let len = data.len() as u64;
            let end = offset.checked_add(len).filter(|end| *end <= MAX_FILE_SIZE);
            let end = end.ok_or(Error::FileTooBig)?;
            if data.is_empty() {
                return Ok(());
            }
            if offset.is_multiple_of(BLOCK) && end.is_multiple_of(BLOCK) {
                let _content = self.content.shared(ino);
                if !self.regular(ino)?.flags.has(InodeFlags::INLINE) {
                    let fresh = self.volume.write_blocks(data, Settle::of(flags).intent())?;
                    let blocks = vec![(offset / BLOCK, fresh)];
                    return self.map_written(ino, blocks, end, len, Settle::of(flags));
                }
            }
            let _content = self.content.exclusive(ino);
            self.write_parts(ino, offset, data, Settle::of(flags))
        });
        self.report(node, result).map(|()| data.len())
    }

    /// Carries out writes of whole blocks of one file that come from the kernel's page cache, all in one commit that
    /// completes their requests; false, and nothing is done, where they can't be made so.
    ///
    /// Errors are those of [`Filesystem::write`], and are not reported: the caller tries each by itself.
    pub fn write_together(&self, node: NodeId, writes: &[Part<'_>]) -> Result<bool, Error> {
        let ino = self.writable(node)?;
        let blocks = |write: &Part<'_>| {
            let end = write.offset.checked_add(write.data.len() as u64)?;
            let whole = write.offset.is_multiple_of(BLOCK) && end.is_multiple_of(BLOCK);
            (whole && end <= MAX_FILE_SIZE && !write.data.is_empty()).then_some(end)
        };
        let ends: Option<Vec<u64>> = writes.iter().map(blocks).collect();
        let Some(ends) = ends else { return Ok(false) };
        // A commit may map a block once only.
        let mut ranges: Vec<_> = writes.iter().map(|it| it.offset).zip(ends).collect();
        ranges.sort_unstable();
        if ranges.windows(2).any(|two| matches!(two, [(_, end), (next, _)] if end > next)) {
            return Ok(false);
        }
        let end = ranges.last().map_or(0, |(_, end)| *end);
        let _content = self.content.shared(ino);
        if self.regular(ino)?.flags.has(InodeFlags::INLINE) {
            return Ok(false);
        }
        let all = writes.iter().map(|write| write.data).collect::<Vec<_>>().concat();
        let lengths = writes.iter().map(|write| write.data.len() as u64 / BLOCK);
        let fresh = self.volume.write_pieces(&all, lengths, Intent::Promised)?;
        let mut tx = self.begin(Intent::Promised)?;
        let mut inode = tx.inode(ino)?;
        if inode.flags.has(InodeFlags::INLINE) {
            return Ok(false);
        }
        inode.size = inode.size.max(end);
        tx.put_inode(ino, &inode);
        for (write, fresh) in writes.iter().zip(fresh) {
            tx.map(ino, write.offset / BLOCK, fresh);
        }
        let answer =
            |write: &Part<'_>| Answer { request: write.request, result: write.data.len() as u64 };
        tx.complete_together(&writes.iter().map(answer).collect::<Vec<_>>())?;
        Ok(true)
    }

    /// Reads the inode of a live regular file whose content is to be changed. The content lock is held.
    pub(super) fn regular(&self, ino: InodeNo) -> Result<Inode, Error> {
        self.finish_earlier_cut(ino)?;
        let guard = self.head.read()?;
        let inode = guard.reader().inode(ino)?;
        match inode.kind() {
            FileKind::Regular => Ok(inode),
            FileKind::Directory => Err(Error::IsDirectory),
            _ => Err(Error::Invalid),
        }
    }

    /// Writes bytes at any offset. The content lock is held exclusively.
    pub(super) fn write_parts(
        &self,
        ino: InodeNo,
        offset: u64,
        data: &[u8],
        settle: Settle,
    ) -> Result<(), Error> {
        let inode = self.regular(ino)?;
        let end = offset + data.len() as u64;
        let in_leaf = inode.flags.has(InodeFlags::INLINE);
        if (in_leaf || inode.blocks == 0) && inode.size.max(end) <= MAX_INLINE as u64 {
            return self.write_inline(ino, offset, data, settle);
        }
        let mut blocks = Vec::with_capacity(2);
        if in_leaf && offset >= BLOCK {
            let leaf = self.content_block(ino, 0)?;
            blocks.push((0, self.volume.write_blocks_journaled(&leaf, settle.intent())?));
        }
        let first = offset / BLOCK;
        let skip = (offset % BLOCK) as usize;
        let padded = (skip + data.len()).next_multiple_of(BLOCK_SIZE);
        let mut whole = Vec::new();
        let written = if padded == data.len() {
            data
        } else {
            whole.resize(padded, 0);
            let last = first + (padded / BLOCK_SIZE) as u64 - 1;
            let edges = if first == last { &[first][..] } else { &[first, last] };
            for edge in edges.iter().copied() {
                // Bytes behind the end of the file are zero, so a block behind it need not be read.
                if edge * BLOCK < inode.size {
                    let at = ((edge - first) * BLOCK) as usize;
                    whole[at..at + BLOCK_SIZE].copy_from_slice(&self.content_block(ino, edge)?);
                }
            }
            whole[skip..skip + data.len()].copy_from_slice(data);
            &whole
        };
        // What was durable in the leaf must be so in its block.
        let leaf = if in_leaf && first == 0 { BLOCK_SIZE } else { 0 };
        let (journaled, plain) = written.split_at(leaf);
        let mut fresh = self.volume.write_blocks_journaled(journaled, settle.intent())?;
        fresh.extend(self.volume.write_blocks(plain, settle.intent())?);
        blocks.push((first, fresh));
        self.map_written(ino, blocks, end, data.len() as u64, settle)
    }

    /// Returns a block of a file as it is, zeros behind its end. The content lock is held.
    pub(super) fn content_block(&self, ino: InodeNo, block: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; BLOCK_SIZE];
        let len = read_at(&self.head, ino, block * BLOCK, &mut bytes)?;
        bytes[len..].fill(0);
        Ok(bytes)
    }

    fn write_inline(
        &self,
        ino: InodeNo,
        offset: u64,
        data: &[u8],
        settle: Settle,
    ) -> Result<(), Error> {
        let mut tx = self.begin(settle.intent())?;
        let mut inode = tx.inode(ino)?;
        let (from, to) = (offset as usize, offset as usize + data.len());
        let mut content = tx.get_vec(inline_key(ino))?.unwrap_or_default();
        content.resize((inode.size as usize).max(to), 0);
        content[from..to].copy_from_slice(data);
        inode.size = content.len() as u64;
        inode.flags.set(InodeFlags::INLINE, true);
        tx.set(inline_key(ino), Some(content));
        settle.apply(&mut tx, ino, &mut inode)?;
        tx.put_inode(ino, &inode);
        tx.complete(data.len() as u64)
    }

    /// Maps written blocks, in one record, and lets the file reach up to `end`. That completes a request
    /// to write or copy `len` bytes.
    ///
    /// The content lock is held; exclusively if the file was in the leaf, and then its content is in `blocks`.
    pub(super) fn map_written(
        &self,
        ino: InodeNo,
        blocks: Vec<(u64, Vec<Fresh>)>,
        end: u64,
        len: u64,
        settle: Settle,
    ) -> Result<(), Error> {
        let mut tx = self.begin(settle.intent())?;
        let mut inode = tx.inode(ino)?;
        leave_leaf(&mut tx, ino, &mut inode);
        inode.size = inode.size.max(end);
        settle.apply(&mut tx, ino, &mut inode)?;
        tx.put_inode(ino, &inode);
        for (block, fresh) in blocks {
            tx.map(ino, block, fresh);
        }
        tx.complete(len)
    }
}

/// Takes a file's content out of the leaf; the caller maps it.
pub(super) fn leave_leaf(tx: &mut Transaction<'_>, ino: InodeNo, inode: &mut Inode) {
    if inode.flags.has(InodeFlags::INLINE) {
        inode.flags.set(InodeFlags::INLINE, false);
        tx.set(inline_key(ino), None);
    }
}

/// What a change of content does to the rest of the inode.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settle {
    /// It comes from the kernel's page cache, which sends the times by itself.
    cached: bool,
    promised: bool,
    clear_privileges: bool,
}

impl Settle {
    /// A change by somebody who may not keep setuid and setgid bits.
    pub(super) const CHANGED: Settle =
        Settle { cached: false, promised: false, clear_privileges: false };

    fn of(flags: WriteFlags) -> Settle {
        Settle {
            cached: flags.cached,
            promised: flags.promised || flags.cached,
            clear_privileges: flags.kill_suidgid && !flags.cached,
        }
    }

    fn intent(self) -> Intent {
        if self.promised { Intent::Promised } else { Intent::Grow }
    }

    pub(super) fn apply(
        self,
        tx: &mut Transaction<'_>,
        ino: InodeNo,
        inode: &mut Inode,
    ) -> Result<(), Error> {
        if !self.cached {
            inode.mtime = tx.now();
            inode.ctime = tx.now();
            super::xattr::drop_capability(tx, ino, inode)?;
        }
        if self.clear_privileges {
            clear_privileges(tx, ino, inode)?;
        }
        Ok(())
    }
}
