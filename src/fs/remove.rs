//! Removing names.

use super::directory::check_name;
use super::error::Error;
use super::records::{Found, Records};
use super::transaction::Transaction;
use super::types::Caller;
use super::{Filesystem, NodeId, NodeKind};
use crate::format::{FileKind, InodeNo, OrphanKind};
use crate::pool::Intent;

/// What a removal leaves to be done after its commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dropped {
    /// Other names are left, or everything is done.
    Nothing,
    /// The kernel holds the inode: it ends when that is over.
    Held(InodeNo),
    /// Nobody holds it, but it is too large to end in one commit.
    Large(InodeNo),
}

impl Filesystem {
    /// Removes a name of what is not a directory.
    pub fn unlink(&self, _caller: &Caller, parent: NodeId, name: &[u8]) -> Result<(), Error> {
        let result = self.removable(parent, name).and_then(|dir| {
            let mut tx = self.begin(Intent::Shrink)?;
            tx.directory(dir)?;
            let found = tx.need(&self.seed, dir, name)?;
            if found.kind == FileKind::Directory {
                return Err(Error::IsDirectory);
            }
            tx.remove_name(&self.seed, dir, name)?;
            let dropped = self.drop_link(&mut tx, found)?;
            self.commit_dropping(tx, dropped)
        });
        self.report(parent, result)
    }

    /// Removes an empty directory; in the root's `.snapshots` a snapshot, whatever is in it.
    pub fn rmdir(&self, caller: &Caller, parent: NodeId, name: &[u8]) -> Result<(), Error> {
        if let NodeKind::SnapshotDir(dir) = parent.kind() {
            let removed = check_name(name).and_then(|()| self.remove_snapshot(caller, dir, name));
            return self.report(parent, removed);
        }
        let result = self.removable(parent, name).and_then(|dir| {
            match name {
                b"." => return Err(Error::Invalid),
                b".." => return Err(Error::NotEmpty),
                _ => {}
            }
            let mut tx = self.begin(Intent::Shrink)?;
            tx.directory(dir)?;
            let found = tx.need(&self.seed, dir, name)?;
            if found.kind != FileKind::Directory {
                return Err(Error::NotDirectory);
            }
            must_be_empty(&tx, found.ino)?;
            tx.remove_name(&self.seed, dir, name)?;
            let dropped = self.drop_link(&mut tx, found)?;
            self.commit_dropping(tx, dropped)
        });
        self.report(parent, result)
    }

    /// Checks what can be checked of a name that goes, before the volume is taken.
    pub(super) fn removable(&self, parent: NodeId, name: &[u8]) -> Result<InodeNo, Error> {
        check_name(name)?;
        let dir = self.writable(parent)?;
        if self.has_snapshot_dirs() && self.is_snapshots_name(name) {
            return Err(Error::NotPermitted);
        }
        Ok(dir)
    }

    /// Counts one name less of an inode whose entry was removed or replaced.
    ///
    /// After the last one it is deleted in the same commit, or becomes an orphan if it is held, or large.
    pub(super) fn drop_link(
        &self,
        tx: &mut Transaction<'_>,
        found: Found,
    ) -> Result<Dropped, Error> {
        let ino = found.ino;
        let mut inode = tx.inode(ino)?;
        let links = if inode.is_dir() { inode.nlink } else { 1 };
        let damaged = || Error::Io(format!("inode {ino} has a name that it does not count"));
        inode.nlink = inode.nlink.checked_sub(links).ok_or_else(damaged)?;
        inode.ctime = tx.now();
        tx.put_inode(ino, &inode);
        if inode.nlink > 0 {
            return Ok(Dropped::Nothing);
        }
        if self.nodes.orphaned(ino) {
            tx.put_orphan(ino, OrphanKind::Delete);
            return Ok(Dropped::Held(ino));
        }
        if super::orphan::next_slice(&tx.reader(), ino, 0)?.is_some() {
            tx.put_orphan(ino, OrphanKind::Delete);
            return Ok(Dropped::Large(ino));
        }
        tx.delete_inode(ino);
        Ok(Dropped::Nothing)
    }

    /// Commits, and does what the removal left.
    pub(super) fn commit_dropping(
        &self,
        tx: Transaction<'_>,
        dropped: Dropped,
    ) -> Result<(), Error> {
        let done = tx.complete(0);
        match (dropped, &done) {
            (Dropped::Held(ino), Err(_)) => self.nodes.adopted(ino),
            (Dropped::Large(ino), Ok(())) => self.end_orphan_quietly(ino),
            _ => {}
        }
        done
    }
}

/// Fails with [`Error::NotEmpty`] if a directory has entries.
pub(super) fn must_be_empty(tx: &Transaction<'_>, dir: InodeNo) -> Result<(), Error> {
    if tx.directory(dir)?.size == 0 { Ok(()) } else { Err(Error::NotEmpty) }
}
