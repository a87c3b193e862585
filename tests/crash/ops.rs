//! What can be done to a pool.

/// An operation; on what, is chosen at random where it is possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Create,
    Mkdir,
    Symlink,
    Link,
    Unlink,
    /// The file stays open, and is written to.
    UnlinkOpen,
    /// Closes what has no name any more.
    CloseUnlinked,
    Rmdir,
    Rename,
    RenameOver,
    Exchange,
    Chmod,
    SetXattr,
    RemoveXattr,
    WriteSmall,
    WriteBlocks,
    Overwrite,
    Append,
    Truncate,
    Extend,
    Fallocate,
    Punch,
    ZeroRange,
    CopyRange,
    /// A file gets the blocks of another, from its beginning.
    Reflink,
    Fsync,
    Syncfs,
    Snapshot,
    SnapshotUnsynced,
    /// One snapshot of all volumes.
    SnapshotGroup,
    DeleteSnapshot,
    RenameSnapshot,
    Clone,
    Restore,
    DeleteVolume,
    Checkpoint,
    Reclaim,
}

pub(crate) const OPS: [Op; 37] = [
    Op::Create,
    Op::Mkdir,
    Op::Symlink,
    Op::Link,
    Op::Unlink,
    Op::UnlinkOpen,
    Op::CloseUnlinked,
    Op::Rmdir,
    Op::Rename,
    Op::RenameOver,
    Op::Exchange,
    Op::Chmod,
    Op::SetXattr,
    Op::RemoveXattr,
    Op::WriteSmall,
    Op::WriteBlocks,
    Op::Overwrite,
    Op::Append,
    Op::Truncate,
    Op::Extend,
    Op::Fallocate,
    Op::Punch,
    Op::ZeroRange,
    Op::CopyRange,
    Op::Reflink,
    Op::Fsync,
    Op::Syncfs,
    Op::Snapshot,
    Op::SnapshotUnsynced,
    Op::SnapshotGroup,
    Op::DeleteSnapshot,
    Op::RenameSnapshot,
    Op::Clone,
    Op::Restore,
    Op::DeleteVolume,
    Op::Checkpoint,
    Op::Reclaim,
];

impl Op {
    /// Whether it is several journal records: a crash can come between them, as it can between two
    /// operations.
    pub(crate) fn has_parts(self) -> bool {
        self == Op::ZeroRange
    }

    /// Whether it puts data into a file: that may be missing after a power cut, when the rest is there.
    pub(crate) fn writes_data(self) -> bool {
        matches!(
            self,
            Op::WriteSmall
                | Op::WriteBlocks
                | Op::Overwrite
                | Op::Append
                | Op::CopyRange
                | Op::Reflink
        )
    }

    /// Whether it needs a snapshot that is there.
    pub(crate) fn needs_snapshot(self) -> bool {
        matches!(self, Op::DeleteSnapshot | Op::RenameSnapshot | Op::Clone | Op::Restore)
    }

    /// Whether it is one of those that change volumes and snapshots, or work on the pool as a whole.
    pub(crate) fn is_of_the_pool(self) -> bool {
        self.needs_snapshot()
            || matches!(
                self,
                Op::Snapshot
                    | Op::SnapshotUnsynced
                    | Op::SnapshotGroup
                    | Op::DeleteVolume
                    | Op::Checkpoint
                    | Op::Reclaim
            )
    }
}

/// Numbers that are the same from the same seed (SplitMix64).
#[derive(Debug, Clone)]
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }

    pub(crate) fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[self.below(from.len() as u64) as usize].clone())
    }
}
