//! Node ids: what the kernel calls a file by, a function of snapshot and inode number alone.
//!
//! | bits | live | `.snapshots` | in a snapshot |
//! |---|---|---|---|
//! | 63 | 0 | 0 | 1 |
//! | 62 | 0 | 1 | upper bit of the snapshot's number |
//! | 61-42 | 0 | 0 | rest of the snapshot's number |
//! | 41-0 | inode | inode of the live directory it is in | inode |
//!
//! They are also the `st_ino`: a file and what it was in a snapshot are different files.

use crate::format::{InodeNo, MAX_INODE};

const INODE_BITS: u32 = 42;
const VIEW: u64 = 1 << 63;
const SNAPSHOT_DIR: u64 = 1 << 62;
/// Largest number of a snapshot: 21 bits of a node id.
pub const MAX_SNAPSHOT_NUMBER: u32 = (1 << 21) - 1;

/// Names a file of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

/// What a node id names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NodeKind {
    /// A file of the live volume.
    Live(InodeNo),
    /// The virtual `.snapshots` of a live directory.
    SnapshotDir(InodeNo),
    /// A file as it is in a snapshot.
    View {
        /// Number of the snapshot in its volume.
        snapshot: u32,
        /// Inode in it.
        ino: InodeNo,
    },
}

impl NodeId {
    /// The root directory of a mount.
    pub const ROOT: NodeId = NodeId(1);

    /// The node of a live inode.
    pub fn live(ino: InodeNo) -> NodeId {
        debug_assert!(ino.0 <= MAX_INODE);
        NodeId(ino.0)
    }

    /// The `.snapshots` of a live directory.
    pub fn snapshot_dir(dir: InodeNo) -> NodeId {
        NodeId(SNAPSHOT_DIR | dir.0)
    }

    /// An inode in a snapshot.
    pub fn view(snapshot: u32, ino: InodeNo) -> NodeId {
        debug_assert!(snapshot <= MAX_SNAPSHOT_NUMBER);
        NodeId(VIEW | u64::from(snapshot) << INODE_BITS | ino.0)
    }

    /// Says what the id names.
    pub fn kind(self) -> NodeKind {
        let ino = InodeNo(self.0 & MAX_INODE);
        if self.0 & VIEW != 0 {
            let snapshot = (self.0 >> INODE_BITS) as u32 & MAX_SNAPSHOT_NUMBER;
            NodeKind::View { snapshot, ino }
        } else if self.0 & SNAPSHOT_DIR != 0 {
            NodeKind::SnapshotDir(ino)
        } else {
            NodeKind::Live(ino)
        }
    }

    /// Whether this is a file of the live volume.
    pub fn is_live(self) -> bool {
        matches!(self.kind(), NodeKind::Live(_))
    }

    /// Whether this is a file in a snapshot, which never changes.
    pub fn is_view(self) -> bool {
        matches!(self.kind(), NodeKind::View { .. })
    }

    /// Whether this is a `.snapshots`.
    pub fn is_snapshot_dir(self) -> bool {
        matches!(self.kind(), NodeKind::SnapshotDir(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_the_packing() {
        for ino in [1, 2, MAX_INODE].map(InodeNo) {
            assert_eq!(NodeId::live(ino).kind(), NodeKind::Live(ino));
            assert_eq!(NodeId::snapshot_dir(ino).kind(), NodeKind::SnapshotDir(ino));
            for snapshot in [0, 1, 1 << 20, MAX_SNAPSHOT_NUMBER] {
                let id = NodeId::view(snapshot, ino);
                assert_eq!(id.kind(), NodeKind::View { snapshot, ino });
                assert!(id.is_view() && !id.is_live() && !id.is_snapshot_dir());
            }
        }
        assert_eq!(NodeId::ROOT.kind(), NodeKind::Live(crate::format::ROOT_INODE));
    }
}
