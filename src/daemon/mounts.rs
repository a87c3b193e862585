//! The table of a daemon's mounts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::format::ROOT_INODE;
use crate::fs::{Filesystem, NodeId};
use crate::fuse::Mount;

use super::protocol::MountRow;

/// One mount.
#[derive(Debug, Clone)]
pub(super) struct Mounted {
    /// Names it in this process.
    pub(super) id: u64,
    /// Names the kernel's connection in the journal.
    pub(super) session: u64,
    /// The mount point.
    pub(super) dir: PathBuf,
    /// The volume.
    pub(super) volume: String,
    /// The snapshot, if it is mounted by itself.
    pub(super) snapshot: Option<String>,
    /// Takes no writes.
    pub(super) read_only: bool,
    /// Since when, RFC 3339.
    pub(super) since: String,
    /// What it shows.
    pub(super) fs: Arc<Filesystem>,
    /// The kernel's end of it.
    pub(super) mount: Arc<Mount>,
}

impl Mounted {
    /// Returns the row for listings.
    pub(super) fn row(&self) -> MountRow {
        MountRow {
            dir: self.dir.clone().into(),
            volume: self.volume.clone(),
            snapshot: self.snapshot.clone(),
            read_only: self.read_only || self.snapshot.is_some(),
            since: self.since.clone(),
        }
    }
}

/// The mounts of a pool; empty for one that no daemon has open.
#[derive(Debug, Default)]
pub(super) struct Mounts(Mutex<Vec<Mounted>>);

impl Mounts {
    /// Adds a mount.
    pub(super) fn add(&self, mounted: Mounted) {
        self.0.lock().push(mounted);
    }

    /// Takes a mount out; false when it was out already.
    pub(super) fn remove(&self, id: u64) -> bool {
        let mut table = self.0.lock();
        let before = table.len();
        let gone: Vec<Mounted> = table.extract_if(.., |mounted| mounted.id == id).collect();
        let removed = table.len() < before;
        drop(table);
        // Dropping the last hold of a mount unmounts it, which must not happen under the lock.
        drop(gone);
        removed
    }

    /// Returns whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// Returns all, the newest last.
    pub(super) fn all(&self) -> Vec<Mounted> {
        self.0.lock().clone()
    }

    /// Returns the mount on a directory.
    pub(super) fn on(&self, dir: &Path) -> Option<Mounted> {
        self.0.lock().iter().rfind(|mounted| mounted.dir == dir).cloned()
    }

    /// Returns the live mount of a volume.
    pub(super) fn live(&self, volume: &str) -> Option<Mounted> {
        let live = |mounted: &&Mounted| mounted.volume == volume && mounted.snapshot.is_none();
        self.0.lock().iter().find(live).cloned()
    }

    /// Returns a mount of a volume or of one of its snapshots.
    pub(super) fn any_of(&self, volume: &str) -> Option<Mounted> {
        self.0.lock().iter().find(|mounted| mounted.volume == volume).cloned()
    }

    /// Returns the mount of a snapshot by itself.
    pub(super) fn of_snapshot(&self, volume: &str, name: &str) -> Option<Mounted> {
        let is = |mounted: &&Mounted| {
            mounted.volume == volume && mounted.snapshot.as_deref() == Some(name)
        };
        self.0.lock().iter().find(is).cloned()
    }

    /// Tells the kernel that a snapshot of a volume is gone.
    pub(super) fn snapshot_deleted(&self, volume: &str, number: u32) {
        if let Some(mounted) = self.live(volume) {
            mounted.mount.snapshot_deleted(NodeId::view(number, ROOT_INODE));
        }
    }
}
