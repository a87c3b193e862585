//! Reading a state: a volume's head, or a snapshot.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Weak};

use super::extents::for_each_extent;
use super::volume::{Head, Volume};
use super::{Error, Pool, Result};
use crate::btree::{Reader, Tree};
use crate::cache::NodeCache;
use crate::format::{BLOCK_SIZE, BlockNo, Extent, ExtentKind, InodeNo, MemberId};
use crate::threads::{MappedRwLockReadGuard, RwLock, RwLockReadGuard};

/// A snapshot that somebody looks at.
#[derive(Debug)]
pub struct SnapshotView {
    pool: Arc<Pool>,
    member: MemberId,
    /// None once the snapshot is deleted.
    tree: RwLock<Option<Tree>>,
}

/// Views that are in use, so that a deletion can end them.
pub(super) type Views = HashMap<MemberId, Weak<SnapshotView>>;

/// A state that can be read.
#[derive(Debug, Clone)]
pub enum Source {
    /// The live state of a volume.
    Head(Arc<Volume>),
    /// A snapshot.
    Snapshot(Arc<SnapshotView>),
}

#[derive(Debug)]
enum Guarded<'a> {
    Head(RwLockReadGuard<'a, Head>),
    Snapshot(MappedRwLockReadGuard<'a, Tree>),
}

/// Holds a state still while it is read: writers of that volume, or the snapshot's deletion, wait.
#[derive(Debug)]
pub struct ReadGuard<'a> {
    cache: &'a NodeCache,
    guarded: Guarded<'a>,
}

impl<'a> ReadGuard<'a> {
    pub(super) fn head(cache: &'a NodeCache, head: RwLockReadGuard<'a, Head>) -> Self {
        ReadGuard { cache, guarded: Guarded::Head(head) }
    }

    /// Reads the state.
    pub fn reader(&self) -> Reader<'_> {
        match &self.guarded {
            Guarded::Head(head) => Reader::new(&head.root.tree, self.cache),
            Guarded::Snapshot(tree) => Reader::new(tree, self.cache),
        }
    }
}

impl Source {
    /// The pool that it is in.
    pub fn pool(&self) -> &Arc<Pool> {
        match self {
            Source::Head(volume) => &volume.pool,
            Source::Snapshot(view) => &view.pool,
        }
    }

    /// Holds the state still for reading. The caller lets go before it takes an update of the volume.
    ///
    /// [`Error::Stale`] when the snapshot has been deleted.
    pub fn read(&self) -> Result<ReadGuard<'_>> {
        match self {
            Source::Head(volume) => volume.read(),
            Source::Snapshot(view) => {
                let tree = RwLockReadGuard::try_map(view.tree.read(), Option::as_ref);
                let guarded = Guarded::Snapshot(tree.map_err(|_| Error::Stale)?);
                Ok(ReadGuard { cache: &view.pool.cache, guarded })
            }
        }
    }

    /// Reads whole blocks of a file into `buf`, a multiple of [`BLOCK_SIZE`] long; holes and preallocated
    /// space read as zeros.
    ///
    /// Every block is verified: [`Error::Corrupt`] when one is not what was written.
    pub fn read_file(&self, ino: InodeNo, first_block: u64, buf: &mut [u8]) -> Result<()> {
        let pool = self.pool();
        // Blocks that are freed meanwhile are not given to anybody before this is let go.
        let _readers = pool.readers.read();
        let blocks = (buf.len() / BLOCK_SIZE) as u64;
        let parts = file_parts(&self.read()?.reader(), ino, first_block, blocks)?;
        pool.read_parts(ino, first_block, &parts, buf)
    }
}

/// Extents of `ino` that overlap `blocks` blocks from `first`, cut to that range.
pub(super) fn file_parts(
    reader: &Reader<'_>,
    ino: InodeNo,
    first: u64,
    blocks: u64,
) -> Result<Vec<(u64, Extent)>> {
    let mut parts = Vec::new();
    let end = first.saturating_add(blocks);
    reader.extents(ino, first, end, &mut |block, extent| {
        parts.push((block, extent));
        ControlFlow::Continue(())
    })?;
    Ok(parts)
}

/// Extents of a file, for callers above the pool.
pub trait ReadExtents {
    /// Calls `f` with every extent of `ino` that overlaps the blocks from `first` up to `end`, cut to that
    /// range, in order.
    fn extents(
        &self,
        ino: InodeNo,
        first: u64,
        end: u64,
        f: &mut dyn FnMut(u64, Extent) -> ControlFlow<()>,
    ) -> Result<()>;
}

impl ReadExtents for Reader<'_> {
    fn extents(
        &self,
        ino: InodeNo,
        first: u64,
        end: u64,
        f: &mut dyn FnMut(u64, Extent) -> ControlFlow<()>,
    ) -> Result<()> {
        for_each_extent(self, ino, first, end, &mut |at, extent| {
            let from = first.max(at);
            let to = end.min(at + u64::from(extent.len_blocks));
            f(from, extent.part((from - at) as u32, (to - from) as u32))
        })?;
        Ok(())
    }
}

impl Pool {
    /// Reads and verifies extents of a file into the buffer that begins at its block `first`.
    pub(super) fn read_parts(
        &self,
        ino: InodeNo,
        first: u64,
        parts: &[(u64, Extent)],
        buf: &mut [u8],
    ) -> Result<()> {
        let mut done = 0;
        for (block, extent) in parts {
            let start = (block - first) as usize * BLOCK_SIZE;
            let end = start + extent.len_blocks as usize * BLOCK_SIZE;
            if start < done {
                let why = format!("extents of inode {ino} overlap at its block {block}");
                return Err(Error::Corrupt(why));
            }
            buf[done..start].fill(0);
            done = end;
            match extent.kind {
                ExtentKind::Preallocated => buf[start..end].fill(0),
                ExtentKind::Written => {
                    self.read_extent(ino, *block, extent, &mut buf[start..end])?;
                }
            }
        }
        buf[done..].fill(0);
        Ok(())
    }

    fn read_extent(&self, ino: InodeNo, block: u64, extent: &Extent, buf: &mut [u8]) -> Result<()> {
        let at = extent.addr.offset_bytes();
        self.storage.data.read_at(at, buf).map_err(Error::io("reading data"))?;
        for (index, (bytes, sum)) in buf.chunks(BLOCK_SIZE).zip(&extent.checksums).enumerate() {
            if crc32c::crc32c(bytes) != *sum {
                let on_disk = BlockNo(extent.addr.0 + index as u64);
                let in_file = block + index as u64;
                return Err(Error::Corrupt(format!(
                    "block {in_file} of inode {ino}, at block {on_disk} of the pool: its checksum does not match"
                )));
            }
        }
        Ok(())
    }

    /// Looks at a snapshot.
    pub fn view(self: &Arc<Self>, member: MemberId) -> Result<Source> {
        let lineage = self.lineage.lock();
        let found = lineage.member(member).filter(|member| member.is_snapshot());
        let tree = found.and_then(|member| member.root.as_ref()).map(|root| root.tree.clone());
        let tree = tree.ok_or(Error::Stale)?;
        let mut views = self.views.lock();
        if let Some(view) = views.get(&member).and_then(Weak::upgrade) {
            return Ok(Source::Snapshot(view));
        }
        views.retain(|_, view| view.strong_count() > 0);
        let tree = RwLock::new(Some(tree));
        let view = Arc::new(SnapshotView { pool: Arc::clone(self), member, tree });
        views.insert(member, Arc::downgrade(&view));
        Ok(Source::Snapshot(view))
    }
}

impl SnapshotView {
    /// The snapshot's number in the pool.
    pub fn member(&self) -> MemberId {
        self.member
    }

    /// Ends the view: the snapshot is gone. Waits for readers.
    pub(super) fn end(&self) {
        *self.tree.write() = None;
    }

    /// Shows the same tree with its nodes swept, so that the view does not keep them in memory.
    pub(super) fn refresh_tree(&self, swept: Tree) {
        if let Some(tree) = &mut *self.tree.write() {
            *tree = swept;
        }
    }
}
