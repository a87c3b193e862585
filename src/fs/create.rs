//! Making files of every kind, and links to them.

use super::acl;
use super::directory::check_name;
use super::error::Error;
use super::inode::SETGID;
use super::records::{Records, inline_key, orphan_key};
use super::transaction::Transaction;
use super::types::{Caller, Entry, Handle};
use super::{Filesystem, NodeId, NodeKind};
use crate::format::{FileKind, Inode, InodeFlags, InodeNo, MAX_TARGET, OrphanKind};
use crate::pool::Intent;

/// Most names of a file, as on ext4. Directories may have any number of subdirectories.
pub(super) const MAX_LINKS: u32 = 65000;

/// What is to be made.
#[derive(Debug, Clone, Copy)]
struct New<'a> {
    kind: FileKind,
    /// Permissions, before the umask or a default ACL.
    mode: u32,
    rdev: u32,
    /// Target of a symbolic link.
    target: &'a [u8],
    /// Names that it begins with: 0 for an unnamed file.
    links: u32,
}

impl New<'_> {
    fn plain(kind: FileKind, mode: u32) -> New<'static> {
        let links = if kind == FileKind::Directory { 2 } else { 1 };
        New { kind, mode, rdev: 0, target: &[], links }
    }
}

impl Filesystem {
    /// Makes a file, without opening it: regular, pipe, socket or device.
    pub fn mknod(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &[u8],
        mode: u32,
        rdev: u32,
    ) -> Result<Entry, Error> {
        let kind = match FileKind::from_mode(mode) {
            // POSIX leaves a mode without a type open; Linux makes a regular file.
            None if mode & FileKind::MODE_MASK == 0 => FileKind::Regular,
            None | Some(FileKind::Directory | FileKind::Symlink) => return Err(Error::Invalid),
            Some(kind) => kind,
        };
        let device = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice);
        let rdev = if device { rdev } else { 0 };
        self.make(caller, parent, name, New { rdev, ..New::plain(kind, mode) })
    }

    /// Makes a directory; in the root's `.snapshots` a snapshot, which is durable when this returns.
    ///
    /// For a snapshot the flush hook is called, which may wait for the kernel to write.
    pub fn mkdir(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &[u8],
        mode: u32,
    ) -> Result<Entry, Error> {
        if let NodeKind::SnapshotDir(dir) = parent.kind() {
            let made = check_name(name).and_then(|()| self.make_snapshot(caller, dir, name));
            return self.report(parent, made);
        }
        self.make(caller, parent, name, New::plain(FileKind::Directory, mode))
    }

    /// Makes a symbolic link.
    pub fn symlink(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &[u8],
        target: &[u8],
    ) -> Result<Entry, Error> {
        if target.is_empty() {
            return Err(Error::NotFound);
        }
        if target.len() > MAX_TARGET {
            return Err(Error::NameTooLong);
        }
        self.make(caller, parent, name, New { target, ..New::plain(FileKind::Symlink, 0o777) })
    }

    /// Makes a regular file and opens it; opens the one that is there unless `flags` has `O_EXCL`.
    pub fn create(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &[u8],
        mode: u32,
        flags: i32,
    ) -> Result<(Entry, Handle), Error> {
        match self.make(caller, parent, name, New::plain(FileKind::Regular, mode)) {
            Ok(entry) => self.open_new(entry, flags),
            Err(Error::Exists) if flags & libc::O_EXCL == 0 => {
                let entry = self.lookup(caller, parent, name)?;
                let (entry, handle) = self.open_new(entry, flags)?;
                // Opening it may have cut it.
                let attr = self.getattr(entry.node).unwrap_or(entry.attr);
                Ok((Entry { attr, ..entry }, handle))
            }
            Err(error) => Err(error),
        }
    }

    fn open_new(&self, entry: Entry, flags: i32) -> Result<(Entry, Handle), Error> {
        match self.open(entry.node, flags) {
            Ok(handle) => Ok((entry, handle)),
            Err(error) => {
                self.forget(entry.node, 1);
                Err(error)
            }
        }
    }

    /// Makes a regular file without a name and opens it; [`Filesystem::link`] may give it one.
    pub fn tmpfile(
        &self,
        caller: &Caller,
        parent: NodeId,
        mode: u32,
        flags: i32,
    ) -> Result<(Entry, Handle), Error> {
        let result = self.writable(parent).and_then(|dir| {
            let mut tx = self.begin(Intent::Grow)?;
            let inode = tx.directory(dir)?;
            let new = New { links: 0, ..New::plain(FileKind::Regular, mode) };
            let (ino, inode) = new_inode(&mut tx, caller, dir, &inode, new)?;
            tx.put_orphan(ino, OrphanKind::Delete);
            tx.put_inode(ino, &inode);
            let entry = self.entry(ino, &inode);
            self.nodes.orphaned(ino);
            tx.complete(ino.0).inspect_err(|_| self.unlooked(ino))?;
            self.open_new(entry, flags & !libc::O_TRUNC)
        });
        self.report(parent, result)
    }

    /// Gives a file another name; one without any too.
    pub fn link(&self, node: NodeId, parent: NodeId, name: &[u8]) -> Result<Entry, Error> {
        let result = self.name_is_free(parent, name).and_then(|dir| {
            let ino = self.writable(node)?;
            let mut tx = self.begin(Intent::Grow)?;
            let mut inode = tx.inode(ino)?;
            if inode.is_dir() {
                return Err(Error::NotPermitted);
            }
            if inode.nlink >= MAX_LINKS {
                return Err(Error::TooManyLinks);
            }
            self.parent_of_new(&tx, dir, name)?;
            tx.add_name(&self.seed, dir, name, ino, inode.kind())?;
            if inode.nlink == 0 {
                tx.set(orphan_key(ino), None);
                inode.parent = dir;
                self.nodes.adopted(ino);
            }
            let unnamed = inode.nlink == 0;
            inode.nlink += 1;
            inode.ctime = tx.now();
            tx.put_inode(ino, &inode);
            let entry = self.entry(ino, &inode);
            tx.complete(ino.0).inspect_err(|_| {
                if unnamed {
                    self.nodes.orphaned(ino);
                }
                self.unlooked(ino);
            })?;
            Ok(entry)
        });
        self.report(parent, result)
    }

    fn make(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &[u8],
        new: New<'_>,
    ) -> Result<Entry, Error> {
        let result = self.name_is_free(parent, name).and_then(|dir| {
            let mut tx = self.begin(Intent::Grow)?;
            let above = self.parent_of_new(&tx, dir, name)?;
            let (ino, inode) = new_inode(&mut tx, caller, dir, &above, new)?;
            tx.put_inode(ino, &inode);
            tx.add_name(&self.seed, dir, name, ino, new.kind)?;
            // Counted while the head is held: an unlink must not find it free before the kernel knows it.
            let entry = self.entry(ino, &inode);
            tx.complete(ino.0).inspect_err(|_| self.unlooked(ino))?;
            Ok(entry)
        });
        self.report(parent, result)
    }

    /// Takes back the lookup that was counted for an operation that failed.
    fn unlooked(&self, ino: InodeNo) {
        self.nodes.forgotten(ino, 1);
    }

    /// Checks what can be checked of a new name before the volume is taken.
    pub(super) fn name_is_free(&self, parent: NodeId, name: &[u8]) -> Result<InodeNo, Error> {
        check_name(name)?;
        let dir = self.writable(parent)?;
        if matches!(name, b"." | b"..") {
            return Err(Error::Exists);
        }
        if self.is_snapshots_name(name) {
            // Where it is not shown the name stays reserved all the same, for mounts that show it.
            let shown = self.has_snapshot_dirs();
            return Err(if shown { Error::Exists } else { Error::NotPermitted });
        }
        Ok(dir)
    }

    /// Returns the directory that a new name goes into, if it may.
    pub(super) fn parent_of_new(
        &self,
        tx: &Transaction<'_>,
        dir: InodeNo,
        name: &[u8],
    ) -> Result<Inode, Error> {
        let inode = tx.directory(dir)?;
        if inode.nlink == 0 {
            return Err(Error::NotFound);
        }
        match tx.find(&self.seed, dir, name)? {
            Some(_) => Err(Error::Exists),
            None => Ok(inode),
        }
    }

    /// Makes the character device that stands for a renamed file in an overlay's upper layer.
    pub(super) fn new_whiteout(
        &self,
        tx: &mut Transaction<'_>,
        caller: &Caller,
        dir: InodeNo,
        above: &Inode,
    ) -> Result<InodeNo, Error> {
        let caller = Caller { umask: 0o777, ..caller.clone() };
        let new = New::plain(FileKind::CharDevice, 0);
        let (ino, inode) = new_inode(tx, &caller, dir, above, new)?;
        tx.put_inode(ino, &inode);
        Ok(ino)
    }
}

/// Makes an inode under `dir`, with what it inherits; the caller puts the record.
fn new_inode(
    tx: &mut Transaction<'_>,
    caller: &Caller,
    dir: InodeNo,
    above: &Inode,
    new: New<'_>,
) -> Result<(InodeNo, Inode), Error> {
    let ino = tx.allocate_inode()?;
    let now = tx.now();
    let is_dir = new.kind == FileKind::Directory;
    let inherits_group = above.mode & SETGID != 0;
    let mut inode = Inode {
        blocks: 0,
        size: new.target.len() as u64,
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
        mode: new.kind.to_mode() | new.mode & 0o7777,
        nlink: new.links,
        uid: caller.uid,
        gid: if inherits_group { above.gid } else { caller.gid },
        rdev: new.rdev,
        flags: InodeFlags::default(),
        parent: dir,
    };
    if inherits_group && is_dir {
        inode.mode |= SETGID;
    }
    match new.kind {
        FileKind::Symlink => {
            inode.flags.set(InodeFlags::INLINE, true);
            tx.set(inline_key(ino), Some(new.target.to_vec()));
        }
        _ if above.flags.has(InodeFlags::DEFAULT_ACL) => {
            acl::inherit(tx, dir, ino, &mut inode)?;
        }
        _ => inode.mode &= !(caller.umask & 0o777),
    }
    Ok((ino, inode))
}
