//! Attributes of inodes: reading and setting them.

use super::acl;
use super::error::Error;
use super::records::Records;
use super::transaction::Transaction;
use super::types::{Attr, Caller, SetAttr, SetTime};
use super::{Filesystem, NodeId, NodeKind};
use crate::format::{FileKind, Inode, InodeFlags, InodeNo};
use crate::pool::Intent;

/// Setuid bit.
pub(super) const SETUID: u32 = 0o4000;
/// Setgid bit.
pub(super) const SETGID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o010;
const ALL_PERMISSIONS: u32 = 0o7777;

impl Filesystem {
    /// Returns a node's attributes.
    pub fn getattr(&self, node: NodeId) -> Result<Attr, Error> {
        let result = match node.kind() {
            NodeKind::SnapshotDir(dir) => self.snapshot_dir_attr(dir),
            _ => self.read_inode(node).map(|inode| Attr::of(node, &inode)),
        };
        self.report(node, result)
    }

    /// Reads the inode of a node.
    pub(super) fn read_inode(&self, node: NodeId) -> Result<Inode, Error> {
        let (source, ino) = self.source_of(node)?;
        let inode = match source.read() {
            Ok(guard) => guard.reader().inode(ino),
            Err(error) => Err(error.into()),
        };
        if inode == Err(Error::Stale) {
            self.stale(node);
        }
        inode
    }

    /// Sets attributes; all of it happens at once.
    ///
    /// The change time becomes the time of the operation unless it is given. A new owner or group
    /// clears setuid and setgid bits and file capabilities of what is not a directory; permissions
    /// of a file with an ACL go into the ACL.
    pub fn setattr(&self, caller: &Caller, node: NodeId, set: &SetAttr) -> Result<Attr, Error> {
        let result = self.writable(node).and_then(|ino| {
            let inode = match set.size {
                Some(size) => {
                    self.resize(caller, ino, size, set)?;
                    // As it is now: what was cut off is counted when the change is made.
                    self.read_inode(node)?
                }
                None => {
                    let mut tx = self.begin(Intent::Shrink)?;
                    let mut inode = tx.inode(ino)?;
                    apply_attributes(&mut tx, caller, ino, &mut inode, set)?;
                    tx.put_inode(ino, &inode);
                    tx.complete(ino.0)?;
                    inode
                }
            };
            Ok(Attr::of(node, &inode))
        });
        self.report(node, result)
    }
}

/// Puts what `set` says, but for the size, into an inode record.
pub(super) fn apply_attributes(
    tx: &mut Transaction<'_>,
    caller: &Caller,
    ino: InodeNo,
    inode: &mut Inode,
    set: &SetAttr,
) -> Result<(), Error> {
    let now = tx.now();
    if set.uid.is_some() || set.gid.is_some() {
        let clear = !inode.is_dir() && !set.keep_privileges;
        // Without group execution the bit means mandatory locking, and only strangers lose it.
        let stranger = caller.uid != 0 && !caller.is_unknown() && !caller.in_group(inode.gid);
        inode.uid = set.uid.unwrap_or(inode.uid);
        inode.gid = set.gid.unwrap_or(inode.gid);
        if clear {
            clear_privileges(tx, ino, inode)?;
            if stranger {
                inode.mode &= !SETGID;
            }
        }
    }
    if let Some(mode) = set.mode {
        inode.mode = inode.mode & FileKind::MODE_MASK | mode & ALL_PERMISSIONS;
        if inode.flags.has(InodeFlags::ACCESS_ACL) {
            acl::change_mode(tx, ino, inode)?;
        }
    }
    if set.kill_suidgid && !set.keep_privileges && !inode.is_dir() {
        clear_privileges(tx, ino, inode)?;
    }
    if set.kill_setgid && !inode.is_dir() {
        inode.mode &= !SETGID;
    }
    let pick = |time: SetTime| match time {
        SetTime::Now => now,
        SetTime::At(time) => time,
    };
    inode.atime = set.atime.map_or(inode.atime, pick);
    inode.mtime = set.mtime.map_or(inode.mtime, pick);
    inode.ctime = set.ctime.unwrap_or(now);
    Ok(())
}

/// Clears setuid, setgid where the group may execute, and file capabilities.
pub(super) fn clear_privileges(
    tx: &mut Transaction<'_>,
    ino: InodeNo,
    inode: &mut Inode,
) -> Result<(), Error> {
    inode.mode &= !SETUID;
    if inode.mode & GROUP_EXECUTE != 0 {
        inode.mode &= !SETGID;
    }
    super::xattr::drop_capability(tx, ino, inode)
}
