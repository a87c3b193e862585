//! Ending inodes that have no name left, and finishing cuts of large files.
//!
//! What a large file maps goes in slices, a commit each, so that no operation waits long. The orphan
//! record goes with the last one: a crash in between leaves it, and the next mount goes on.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use super::error::Error;
use super::records::{Records, orphan_key, orphans};
use super::transaction::blocks_for;
use super::{Filesystem, NodeId, NodeKind};
use crate::format::{InodeNo, OrphanKind};
use crate::pool::Reader;
use crate::pool::{Intent, ReadExtents};
use crate::threads::{AtomicBool, Mutex};

/// Extents that one commit drops at most: a few milliseconds of work.
const SLICE_EXTENTS: usize = 2048;

/// Files whose cut could not be finished; empty as a rule, and then asking costs one load.
#[derive(Debug, Default)]
pub(super) struct Unfinished {
    any: AtomicBool,
    cuts: Mutex<Vec<InodeNo>>,
}

impl Unfinished {
    pub(super) fn add(&self, ino: InodeNo) {
        self.cuts.lock().push(ino);
        self.any.store(true, Ordering::Release);
    }

    fn has(&self, ino: InodeNo) -> bool {
        self.any.load(Ordering::Acquire) && self.cuts.lock().contains(&ino)
    }

    fn remove(&self, ino: InodeNo) {
        let mut cuts = self.cuts.lock();
        cuts.retain(|other| *other != ino);
        self.any.store(!cuts.is_empty(), Ordering::Release);
    }
}

/// Returns where a first slice of what is mapped from a block on ends; none when all of it is one slice.
pub(super) fn next_slice(
    reader: &Reader<'_>,
    ino: InodeNo,
    from_block: u64,
) -> Result<Option<u64>, Error> {
    let mut count = 0;
    let mut end = None;
    reader.extents(ino, from_block, u64::MAX, &mut |block, extent| {
        count += 1;
        if count > SLICE_EXTENTS {
            return ControlFlow::Break(());
        }
        end = Some(block + u64::from(extent.len_blocks));
        ControlFlow::Continue(())
    })?;
    Ok(end.filter(|_| count > SLICE_EXTENTS))
}

impl Filesystem {
    /// Takes back `count` lookups of a node; a file without a name that nobody holds any more ends.
    pub fn forget(&self, node: NodeId, count: u64) {
        self.forget_many(&[(node, count)]);
    }

    /// Takes back lookups of many nodes.
    pub fn forget_many(&self, nodes: &[(NodeId, u64)]) {
        for (node, count) in nodes {
            if let NodeKind::Live(ino) = node.kind()
                && self.only.is_none()
                && self.nodes.forgotten(ino, *count)
            {
                self.end_orphan_quietly(ino);
            }
        }
    }

    /// Returns what ended if only this process's counts were to be believed: the caller asks the kernel, and
    /// tells with [`Filesystem::gone`]. Nothing but on an inherited mount.
    pub fn doubtful(&self) -> Vec<NodeId> {
        self.nodes.doubtful()
    }

    /// The kernel has nothing of this node any more.
    pub fn gone(&self, node: NodeId) {
        if let NodeKind::Live(ino) = node.kind()
            && self.nodes.gone(ino)
        {
            self.end_orphan_quietly(ino);
        }
    }

    /// Forgets everything and counts every file as closed: the mount is gone.
    pub fn forget_all(&self) {
        for ino in self.nodes.clear() {
            self.end_orphan_quietly(ino);
        }
    }

    /// Ends what was unlinked or being cut when the volume was last in use. What can't be ended, in a damaged
    /// pool, does not keep the rest from being used.
    pub(super) fn end_all_orphans(&self) -> Result<(), Error> {
        let found = {
            let guard = self.head.read()?;
            orphans(&guard.reader())?
        };
        for (ino, kind) in found {
            match kind {
                OrphanKind::Delete => self.end_orphan_quietly(ino),
                OrphanKind::Truncate => self.finish_cut_quietly(ino),
            }
        }
        Ok(())
    }

    /// Finishes a cut; where that fails the space stays taken, and the file does not grow before it is done:
    /// else what was cut off would come back.
    pub(super) fn finish_cut_quietly(&self, ino: InodeNo) {
        if let Err(error) = self.finish_cut(ino) {
            tracing::warn!(inode = ino.0, "the space of a cut file stays for now: {error}");
            self.unfinished.add(ino);
        }
    }

    /// Finishes a cut that failed before. Called before any change of a file's content.
    pub(super) fn finish_earlier_cut(&self, ino: InodeNo) -> Result<(), Error> {
        if self.unfinished.has(ino) {
            self.finish_cut(ino)?;
            self.unfinished.remove(ino);
        }
        Ok(())
    }

    /// Ends an orphan; where that fails it stays for the next mount.
    pub(super) fn end_orphan_quietly(&self, ino: InodeNo) {
        if let Err(error) = self.end_orphan(ino) {
            tracing::warn!(inode = ino.0, "an unlinked file stays until the next mount: {error}");
        }
    }

    fn end_orphan(&self, ino: InodeNo) -> Result<(), Error> {
        loop {
            let mut tx = self.begin(Intent::Shrink)?;
            if self.nodes.is_held(ino) || tx.orphan(ino)? != Some(OrphanKind::Delete) {
                return Ok(());
            }
            match next_slice(&tx.reader(), ino, 0)? {
                Some(end) => {
                    tx.unmap(ino, 0, end);
                    tx.commit()?;
                }
                None => {
                    tx.set(orphan_key(ino), None);
                    tx.delete_inode(ino);
                    return tx.commit();
                }
            }
        }
    }

    /// Drops what is mapped behind a file's size, and the record that says that this is to be done.
    ///
    /// The caller holds the content lock exclusively, or is alone.
    pub(super) fn finish_cut(&self, ino: InodeNo) -> Result<(), Error> {
        loop {
            let mut tx = self.begin(Intent::Shrink)?;
            let Some(inode) = tx.find_inode(ino)? else { return Ok(()) };
            let first = blocks_for(inode.size);
            let slice = next_slice(&tx.reader(), ino, first)?;
            match slice {
                Some(end) => tx.unmap(ino, first, end - first),
                None => {
                    tx.unmap(ino, first, u64::MAX);
                    // An unlinked file's record of kind delete stays.
                    if tx.orphan(ino)? == Some(OrphanKind::Truncate) {
                        tx.set(orphan_key(ino), None);
                    }
                }
            }
            tx.commit()?;
            if slice.is_none() {
                return Ok(());
            }
        }
    }
}
