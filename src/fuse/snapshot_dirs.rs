//! Which `.snapshots` directories the kernel knows, so that a deleted snapshot can be dropped from
//! under each of them.
//!
//! A snapshot is reached by a name in every directory's `.snapshots`. Those names are looked up
//! anew on every walk, but a process whose current directory is inside, or which has it open, goes
//! on with what is cached. So the attributes of the snapshot's top directories are dropped: the
//! next call on one of them asks, and gets ESTALE.
//!
//! Absent on purpose: FUSE_NOTIFY_INVAL_ENTRY for the names. It waits for the directory's lock,
//! which a caller may hold who waits for the thread that would send it.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::notify::Notifier;
use crate::fs::NodeId;

/// Bits of a node id that hold the inode number, in all three kinds of node.
const INODE_BITS: u64 = crate::format::MAX_INODE;

/// The `.snapshots` nodes with their lookup counts.
#[derive(Debug)]
pub(crate) struct SnapshotDirs {
    counts: Mutex<HashMap<u64, u64>>,
    notifier: Notifier,
}

impl SnapshotDirs {
    pub(crate) fn new(notifier: Notifier) -> Self {
        SnapshotDirs { counts: Mutex::default(), notifier }
    }

    /// The kernel was given the node once more.
    pub(crate) fn looked_up(&self, node: NodeId) {
        if node.is_snapshot_dir() {
            *self.counts.lock().entry(node.0).or_default() += 1;
        }
    }

    /// The kernel gave back `count` lookups of the node.
    pub(crate) fn forgotten(&self, node: NodeId, count: u64) {
        if !node.is_snapshot_dir() {
            return;
        }
        let mut counts = self.counts.lock();
        if let Some(left) = counts.get_mut(&node.0) {
            *left = left.saturating_sub(count);
            if *left == 0 {
                counts.remove(&node.0);
            }
        }
    }

    /// Makes the kernel ask again about a snapshot that is gone; `view` is any node inside it.
    pub(crate) fn drop_snapshot(&self, view: NodeId) {
        let dirs: Vec<u64> = self.counts.lock().keys().copied().collect();
        for dir in dirs {
            let top = (view.0 & !INODE_BITS) | (dir & INODE_BITS);
            if let Err(error) = self.notifier.inval_attributes(top) {
                tracing::debug!(dir, %error, "a deleted snapshot stays in the kernel's cache");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuse::device::Device;
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;

    #[test]
    fn counts_lookups_until_they_are_forgotten() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let dirs = SnapshotDirs::new(Notifier::new(Arc::new(Device::new(ours.into()))));
        let node = NodeId(1 << 62 | 5);
        dirs.looked_up(node);
        dirs.looked_up(node);
        dirs.looked_up(NodeId(5));
        dirs.forgotten(node, 1);
        assert_eq!(dirs.counts.lock().get(&node.0), Some(&1));
        dirs.forgotten(node, 7);
        assert!(dirs.counts.lock().is_empty());
    }
}
