//! Who may make, delete and rename snapshots: whoever may write to the volume's root directory.

use super::acl;
use super::error::Error;
use super::records::Records;
use super::types::Caller;
use super::{Filesystem, xattr};
use crate::format::{InodeFlags, ROOT_INODE};

const WRITE: u32 = 2;

impl Filesystem {
    /// Fails with [`Error::AccessDenied`] unless the caller may write to the volume's root directory.
    /// Of an unknown caller the kernel has made sure: a root's `.snapshots` has the root's permissions.
    pub(super) fn may_snapshot(&self, caller: &Caller) -> Result<(), Error> {
        if caller.uid == 0 || caller.is_unknown() {
            return Ok(());
        }
        let guard = self.head.read()?;
        let reader = guard.reader();
        let root = reader.inode(ROOT_INODE)?;
        let list = if root.flags.has(InodeFlags::ACCESS_ACL) {
            xattr::load(&reader, &reader, ROOT_INODE, acl::ACCESS)?
        } else {
            None
        };
        let allowed = match list.map(|value| acl::stored(&value)).transpose()?.flatten() {
            Some(list) => list.allows(caller, root.uid, root.gid, WRITE),
            None => {
                let shift = match (caller.uid == root.uid, caller.in_group(root.gid)) {
                    (true, _) => 6,
                    (false, true) => 3,
                    (false, false) => 0,
                };
                root.mode >> shift & WRITE != 0
            }
        };
        if allowed { Ok(()) } else { Err(Error::AccessDenied) }
    }
}
