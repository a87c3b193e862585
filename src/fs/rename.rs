//! Renaming: within and across directories, replacing, exchanging, and leaving a whiteout.

use super::directory::check_name;
use super::error::Error;
use super::records::{Found, Records};
use super::remove::{Dropped, must_be_empty};
use super::transaction::Transaction;
use super::types::Caller;
use super::{Filesystem, NodeId, NodeKind};
use crate::format::{FileKind, InodeNo, ROOT_INODE};
use crate::pool::Intent;

/// Fails if the new name is there.
const NOREPLACE: u32 = libc::RENAME_NOREPLACE;
/// Swaps two names that are there.
const EXCHANGE: u32 = libc::RENAME_EXCHANGE;
/// Leaves a whiteout at the old name.
const WHITEOUT: u32 = libc::RENAME_WHITEOUT;

/// Levels that are climbed before a loop of damaged parents is suspected: a second's work.
const MAX_DEPTH: usize = 1 << 21;

/// A name in a directory.
#[derive(Debug, Clone, Copy)]
struct At<'a> {
    dir: InodeNo,
    name: &'a [u8],
}

impl Filesystem {
    /// Renames a file; atomic, in any combination of directories. `flags` are those of `renameat2`.
    ///
    /// In the root's `.snapshots` it renames a snapshot.
    pub fn rename(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &[u8],
        new_parent: NodeId,
        new_name: &[u8],
        flags: u32,
    ) -> Result<(), Error> {
        let valid =
            matches!(flags, 0 | NOREPLACE | EXCHANGE | WHITEOUT) || flags == NOREPLACE | WHITEOUT;
        if !valid {
            return Err(Error::Invalid);
        }
        check_name(name)?;
        check_name(new_name)?;
        let result = match (parent.kind(), new_parent.kind()) {
            (NodeKind::SnapshotDir(from), NodeKind::SnapshotDir(to)) => {
                let plain = flags & !NOREPLACE == 0;
                let renamed = self.rename_snapshot(caller, (from, to), name, new_name);
                if plain { renamed } else { Err(Error::Invalid) }
            }
            _ => self.rename_live(caller, (parent, name), (new_parent, new_name), flags),
        };
        self.report(parent, result)
    }

    fn rename_live(
        &self,
        caller: &Caller,
        (parent, name): (NodeId, &[u8]),
        (new_parent, new_name): (NodeId, &[u8]),
        flags: u32,
    ) -> Result<(), Error> {
        let from = At { dir: self.removable(parent, name)?, name };
        let to = At { dir: self.writable(new_parent)?, name: new_name };
        let special = |name: &[u8]| matches!(name, b"." | b"..");
        if special(name) || special(new_name) {
            return Err(Error::Busy);
        }
        if self.is_snapshots_name(new_name) {
            return Err(if flags & EXCHANGE != 0 { Error::NotPermitted } else { Error::Exists });
        }
        let mut tx = self.begin(Intent::Grow)?;
        tx.directory(from.dir)?;
        if tx.directory(to.dir)?.nlink == 0 {
            return Err(Error::NotFound);
        }
        let moved = tx.need(&self.seed, from.dir, from.name)?;
        let target = tx.find(&self.seed, to.dir, to.name)?;
        if flags & NOREPLACE != 0 && target.is_some() {
            return Err(Error::Exists);
        }
        self.must_not_contain(&tx, moved, to.dir)?;
        if flags & EXCHANGE != 0 {
            let target = target.ok_or(Error::NotFound)?;
            self.must_not_contain(&tx, target, from.dir)?;
            self.exchange(&mut tx, (from, moved), (to, target))?;
            return tx.complete(0);
        }
        if target.is_some_and(|target| target.ino == moved.ino) {
            // Two names of one file: POSIX wants nothing done.
            return Ok(());
        }
        let dropped = self.put_in_place(&mut tx, moved, to, target)?;
        if flags & WHITEOUT != 0 {
            let above = tx.directory(from.dir)?;
            let ino = self.new_whiteout(&mut tx, caller, from.dir, &above)?;
            tx.replace_name(&self.seed, from.dir, from.name, ino, FileKind::CharDevice)?;
        } else {
            tx.remove_name(&self.seed, from.dir, from.name)?;
        }
        moved_to(&mut tx, moved, to.dir)?;
        self.commit_dropping(tx, dropped)
    }

    /// Enters a moved file under its new name, in place of what is there.
    fn put_in_place(
        &self,
        tx: &mut Transaction<'_>,
        moved: Found,
        to: At<'_>,
        target: Option<Found>,
    ) -> Result<Dropped, Error> {
        let Some(target) = target else {
            tx.add_name(&self.seed, to.dir, to.name, moved.ino, moved.kind)?;
            return Ok(Dropped::Nothing);
        };
        match (moved.kind == FileKind::Directory, target.kind == FileKind::Directory) {
            (true, false) => return Err(Error::NotDirectory),
            (false, true) => return Err(Error::IsDirectory),
            (true, true) => must_be_empty(tx, target.ino)?,
            (false, false) => {}
        }
        tx.replace_name(&self.seed, to.dir, to.name, moved.ino, moved.kind)?;
        self.drop_link(tx, target)
    }

    fn exchange(
        &self,
        tx: &mut Transaction<'_>,
        (from, moved): (At<'_>, Found),
        (to, target): (At<'_>, Found),
    ) -> Result<(), Error> {
        if moved.ino == target.ino {
            return Ok(());
        }
        tx.replace_name(&self.seed, from.dir, from.name, target.ino, target.kind)?;
        tx.replace_name(&self.seed, to.dir, to.name, moved.ino, moved.kind)?;
        moved_to(tx, moved, to.dir)?;
        moved_to(tx, target, from.dir)
    }

    /// Fails with [`Error::Invalid`] if a directory would go into itself or below.
    fn must_not_contain(
        &self,
        tx: &Transaction<'_>,
        moved: Found,
        dir: InodeNo,
    ) -> Result<(), Error> {
        if moved.kind != FileKind::Directory {
            return Ok(());
        }
        let mut at = dir;
        for _ in 0..MAX_DEPTH {
            if at == moved.ino {
                return Err(Error::Invalid);
            }
            if at == ROOT_INODE {
                return Ok(());
            }
            at = tx.directory(at)?.parent;
        }
        Err(Error::Io(format!("directory {dir} is below itself, or absurdly deep")))
    }
}

/// Notes in a file's inode that it was moved, and where to.
fn moved_to(tx: &mut Transaction<'_>, moved: Found, dir: InodeNo) -> Result<(), Error> {
    let mut inode = tx.inode(moved.ino)?;
    inode.parent = dir;
    inode.ctime = tx.now();
    tx.put_inode(moved.ino, &inode);
    Ok(())
}
