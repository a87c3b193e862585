//! Figures for `df`.

use super::error::Error;
use super::types::StatFs;
use super::{Filesystem, NodeId, NodeKind};
use crate::format::{BLOCK_SIZE, MAX_NAME};

/// Bytes of the pool for each inode that is reported: a guess, as inodes have no limit of their own.
const INODE_SHARE: u64 = 512;

impl Filesystem {
    /// Fails with [`Error::NoSpace`] or [`Error::Quota`] unless so many bytes can still be written.
    pub fn check_room(&self, bytes: u64) -> Result<(), Error> {
        let space = self.volume.space();
        match (bytes <= space.free_bytes, space.limited_by_quota) {
            (true, _) => Ok(()),
            (false, true) => Err(Error::Quota),
            (false, false) => Err(Error::NoSpace),
        }
    }

    /// Returns the figures of the volume; of a snapshot its own: what it refers to, and nothing free.
    pub fn statfs(&self, node: NodeId) -> Result<StatFs, Error> {
        let figures = || {
            let pool = self.volume.pool();
            let frozen = match (node.kind(), &self.options.only_snapshot) {
                (NodeKind::View { snapshot, .. }, None) => {
                    Some(pool.snapshot_by_number(self.volume.id(), snapshot)?)
                }
                (_, Some(name)) => Some(pool.snapshot(self.volume.id(), name)?),
                _ => None,
            };
            let (total, free) = match frozen {
                Some(snapshot) => (snapshot.referenced_bytes, 0),
                None => {
                    let space = self.volume.space();
                    // What other volumes take is not part of this one.
                    (
                        space
                            .total_bytes
                            .min(space.referenced_bytes.saturating_add(space.free_bytes)),
                        space.free_bytes,
                    )
                }
            };
            let block = BLOCK_SIZE as u64;
            Ok(StatFs {
                block_size: BLOCK_SIZE as u32,
                blocks: total / block,
                blocks_free: free / block,
                blocks_available: free / block,
                files: total / INODE_SHARE,
                files_free: free / INODE_SHARE,
                name_max: MAX_NAME as u32,
            })
        };
        let result = figures();
        self.report(node, result)
    }
}
