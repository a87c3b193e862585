//! Opening, closing and reading files; finding data and holes; making them durable.

use std::ops::ControlFlow;

use super::error::Error;
use super::records::{Records, inline_key};
use super::types::{Caller, Handle, SetAttr, SetTime, Whence};
use super::{Filesystem, NodeId, NodeKind};
use crate::format::{BLOCK_SIZE, ExtentKind, FileKind, Inode, InodeFlags, InodeNo};
use crate::pool::{ReadExtents, Source};

/// A block's length as a file offset.
pub(super) const BLOCK: u64 = BLOCK_SIZE as u64;

impl Filesystem {
    /// Opens a file. `flags` are those of `open`; `O_TRUNC` cuts it.
    pub fn open(&self, node: NodeId, flags: i32) -> Result<Handle, Error> {
        let result = self.open_node(node, flags);
        self.report(node, result)
    }

    fn open_node(&self, node: NodeId, flags: i32) -> Result<Handle, Error> {
        let handle = Handle::from_flags(flags);
        let cuts = flags & libc::O_TRUNC != 0;
        if handle.writes() || cuts {
            match node.kind() {
                NodeKind::SnapshotDir(_) => return Err(Error::IsDirectory),
                _ => self.writable(node)?,
            };
        }
        if node.is_snapshot_dir() {
            return Ok(handle);
        }
        {
            let (source, ino) = self.source_of(node)?;
            let guard = source.read()?;
            let inode = guard.reader().inode(ino)?;
            if inode.is_dir() && handle.writes() {
                return Err(Error::IsDirectory);
            }
            if self.is_mutable(node) {
                let atime = self.keeps_atime() && handle.touches();
                self.nodes.opened(ino, handle.writes(), atime);
            }
        }
        if cuts {
            let now = Some(SetTime::Now);
            let cut = SetAttr { size: Some(0), mtime: now, ..SetAttr::default() };
            self.setattr(&Caller::root(), node, &cut).inspect_err(|_| {
                self.release(node, handle);
            })?;
        }
        Ok(handle)
    }

    /// Closes a file; one without a name that nobody holds any more ends. Returns whether this has changed
    /// the access time.
    ///
    /// What the kernel reads from its cache is not seen here: an open for reading alone, from which nothing
    /// was read by [`Filesystem::read`], counts as one that was read from.
    pub fn release(&self, node: NodeId, handle: Handle) -> bool {
        let NodeKind::Live(ino) = node.kind() else { return false };
        if self.only.is_some() {
            return false;
        }
        let touched = handle.only_touches() && self.touch_atime(ino);
        if self.nodes.released(ino, handle.writes()) {
            self.end_orphan_quietly(ino);
        }
        touched
    }

    /// Returns a symbolic link's target.
    pub fn readlink(&self, node: NodeId) -> Result<Vec<u8>, Error> {
        let read = || {
            let (source, ino) = self.source_of(node)?;
            let guard = source.read()?;
            let reader = guard.reader();
            if reader.inode(ino)?.kind() != FileKind::Symlink {
                return Err(Error::Invalid);
            }
            let missing = || Error::Io(format!("symbolic link {ino} has no target"));
            Records::get_vec(&reader, inline_key(ino))?.ok_or_else(missing)
        };
        let result = read();
        self.report(node, result)
    }

    /// Reads from a file into `buf`; returns how many bytes there were, fewer only at its end.
    ///
    /// Whole blocks at block offsets are read in place.
    pub fn read(
        &self,
        node: NodeId,
        handle: Handle,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<usize, Error> {
        let result = self.source_of(node).and_then(|(source, ino)| {
            if !self.is_mutable(node) {
                return read_at(&source, ino, offset, buf);
            }
            let done = {
                let _content = self.content.shared(ino);
                read_at(&source, ino, offset, buf)?
            };
            if handle.touches() {
                self.touch_atime(ino);
            }
            Ok(done)
        });
        if result == Err(Error::Stale) {
            self.stale(node);
        }
        self.report(node, result)
    }

    /// Finds the next data or hole at or behind an offset; [`Error::NoSuchAddress`] if there is none.
    ///
    /// Preallocated space that was not written is a hole.
    pub fn lseek(&self, node: NodeId, offset: u64, whence: Whence) -> Result<u64, Error> {
        let seek = || {
            let (source, ino) = self.source_of(node)?;
            let guard = source.read()?;
            let reader = guard.reader();
            let inode = reader.inode(ino)?;
            if offset >= inode.size {
                return Err(Error::NoSuchAddress);
            }
            if inode.flags.has(InodeFlags::INLINE) {
                return Ok(if whence == Whence::Data { offset } else { inode.size });
            }
            // The hole that is being looked for begins here at the earliest.
            let mut at = offset;
            let mut data = None;
            let (first, end) = (offset / BLOCK, inode.size.div_ceil(BLOCK));
            reader.extents(ino, first, end, &mut |block, extent| {
                if extent.kind != ExtentKind::Written {
                    return ControlFlow::Continue(());
                }
                let start = (block * BLOCK).max(offset);
                data = data.or(Some(start));
                if whence == Whence::Data || start > at {
                    return ControlFlow::Break(());
                }
                at = (block + u64::from(extent.len_blocks)) * BLOCK;
                ControlFlow::Continue(())
            })?;
            match whence {
                Whence::Data => data.ok_or(Error::NoSuchAddress),
                Whence::Hole => Ok(at.min(inode.size)),
            }
        };
        let result = seek();
        self.report(node, result)
    }

    /// Makes a file's content and everything acknowledged so far durable.
    pub fn fsync(&self, node: NodeId, datasync: bool) -> Result<(), Error> {
        let _ = datasync;
        let result = match node.kind() {
            NodeKind::Live(ino) if self.only.is_none() => {
                self.volume.sync_inode(ino).map_err(Error::from)
            }
            _ => Ok(()),
        };
        self.report(node, result)
    }

    /// Makes a directory's entries and everything acknowledged so far durable.
    pub fn fsyncdir(&self, node: NodeId, datasync: bool) -> Result<(), Error> {
        self.fsync(node, datasync)
    }

    /// Makes everything durable.
    pub fn syncfs(&self) -> Result<(), Error> {
        let result = self.volume.pool().sync().map_err(Error::from);
        self.report(NodeId::ROOT, result)
    }
}

/// Reads a file's bytes. For a live file the content lock is held.
pub(super) fn read_at(
    source: &Source,
    ino: InodeNo,
    offset: u64,
    buf: &mut [u8],
) -> Result<usize, Error> {
    let inode = {
        let guard = source.read()?;
        let reader = guard.reader();
        let inode = reader.inode(ino)?;
        if inode.is_dir() {
            return Err(Error::IsDirectory);
        }
        if inode.flags.has(InodeFlags::INLINE) {
            let copy = |content: &[u8]| {
                let whole = content.len() as u64 == inode.size;
                whole.then(|| copy_from(content, offset, buf))
            };
            let read = Records::get(&reader, inline_key(ino), copy)?.flatten();
            return read.ok_or_else(|| inline_damaged(ino));
        }
        inode
    };
    read_blocks(source, ino, &inode, offset, buf)
}

/// The content in the leaf is not there, or not as long as the inode says.
fn inline_damaged(ino: InodeNo) -> Error {
    Error::Io(format!("the content of inode {ino} is not as long as its size"))
}

/// Copies what there is of `content` from an offset on.
fn copy_from(content: &[u8], offset: u64, buf: &mut [u8]) -> usize {
    let from = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
    let len = buf.len().min(content.len() - from);
    buf[..len].copy_from_slice(&content[from..from + len]);
    len
}

fn read_blocks(
    source: &Source,
    ino: InodeNo,
    inode: &Inode,
    offset: u64,
    buf: &mut [u8],
) -> Result<usize, Error> {
    if offset >= inode.size {
        return Ok(0);
    }
    let len = buf.len().min(usize::try_from(inode.size - offset).unwrap_or(usize::MAX));
    let skip = (offset % BLOCK) as usize;
    let whole = (skip + len).next_multiple_of(BLOCK_SIZE);
    if skip == 0 && whole <= buf.len() {
        source.read_file(ino, offset / BLOCK, &mut buf[..whole])?;
    } else {
        let mut blocks = vec![0; whole];
        source.read_file(ino, offset / BLOCK, &mut blocks)?;
        buf[..len].copy_from_slice(&blocks[skip..skip + len]);
    }
    Ok(len)
}
