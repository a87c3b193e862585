//! The reference: a file system as maps and vectors. A snapshot of it is a clone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use amberfs::fs::{Error, FileKind, Timestamp};

/// Inode number, taken from what the real one gave.
pub(crate) type Id = u64;
/// The root directory.
pub(crate) const ROOT: Id = 1;

pub(crate) const SETUID: u32 = 0o4000;
pub(crate) const SETGID: u32 = 0o2000;

/// One file.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) kind: FileKind,
    pub(crate) perm: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) nlink: u32,
    pub(crate) content: Vec<u8>,
    pub(crate) entries: BTreeMap<Vec<u8>, Id>,
    pub(crate) parent: Id,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) mtime: Timestamp,
    pub(crate) ctime: Timestamp,
    pub(crate) btime: Timestamp,
}

impl Node {
    pub(crate) fn new(kind: FileKind, perm: u32, parent: Id) -> Node {
        let zero = Timestamp::default();
        Node {
            kind,
            perm,
            uid: 0,
            gid: 0,
            nlink: if kind == FileKind::Directory { 2 } else { 1 },
            content: Vec::new(),
            entries: BTreeMap::new(),
            parent,
            xattrs: BTreeMap::new(),
            mtime: zero,
            ctime: zero,
            btime: zero,
        }
    }

    pub(crate) fn is_dir(&self) -> bool {
        self.kind == FileKind::Directory
    }

    /// What a change by somebody who may not keep them does to setuid and setgid.
    pub(crate) fn clear_privileges(&mut self) {
        self.perm &= !SETUID;
        if self.perm & 0o010 != 0 {
            self.perm &= !SETGID;
        }
    }
}

/// Which times an operation changes.
#[derive(Debug, Default, Clone)]
pub(crate) struct Touched {
    pub(crate) mtime: BTreeSet<Id>,
    pub(crate) ctime: BTreeSet<Id>,
    /// Made by the operation: all times are new.
    pub(crate) made: BTreeSet<Id>,
}

impl Touched {
    pub(crate) fn both(&mut self, id: Id) {
        self.mtime.insert(id);
        self.ctime.insert(id);
    }
}

/// All files of a volume at one time.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    pub(crate) nodes: BTreeMap<Id, Arc<Node>>,
}

/// What an operation comes to.
pub(crate) type Outcome = Result<Touched, Error>;

impl State {
    pub(crate) fn node(&self, id: Id) -> &Node {
        &self.nodes[&id]
    }

    pub(crate) fn node_mut(&mut self, id: Id) -> &mut Node {
        Arc::make_mut(self.nodes.get_mut(&id).expect("the node is there"))
    }

    fn dir(&self, id: Id) -> Result<&Node, Error> {
        let node = self.node(id);
        if node.is_dir() { Ok(node) } else { Err(Error::NotDirectory) }
    }

    pub(crate) fn regular(&self, id: Id) -> Result<(), Error> {
        match self.node(id).kind {
            FileKind::Regular => Ok(()),
            FileKind::Directory => Err(Error::IsDirectory),
            _ => Err(Error::Invalid),
        }
    }

    fn find(&self, dir: Id, name: &[u8]) -> Result<Id, Error> {
        self.dir(dir)?.entries.get(name).copied().ok_or(Error::NotFound)
    }

    /// Fails unless a name can be made in a directory.
    pub(crate) fn name_is_free(&self, dir: Id, name: &[u8]) -> Result<(), Error> {
        let node = self.dir(dir)?;
        if node.nlink == 0 {
            return Err(Error::NotFound);
        }
        if node.entries.contains_key(name) { Err(Error::Exists) } else { Ok(()) }
    }

    fn count(&mut self, dir: Id, id: Id, up: bool) {
        if self.node(id).is_dir() {
            let node = self.node_mut(dir);
            node.nlink = if up { node.nlink + 1 } else { node.nlink - 1 };
        }
    }

    /// Enters a file that was made as `id`.
    pub(crate) fn enter(&mut self, dir: Id, name: &[u8], id: Id, node: Node) -> Touched {
        self.nodes.insert(id, Arc::new(node));
        self.node_mut(dir).entries.insert(name.to_vec(), id);
        self.count(dir, id, true);
        let mut touched = Touched::default();
        touched.made.insert(id);
        touched.both(dir);
        touched
    }

    pub(crate) fn link(&mut self, id: Id, dir: Id, name: &[u8]) -> Outcome {
        if self.node(id).is_dir() {
            return Err(Error::NotPermitted);
        }
        self.name_is_free(dir, name)?;
        self.node_mut(dir).entries.insert(name.to_vec(), id);
        self.node_mut(id).nlink += 1;
        let mut touched = Touched::default();
        touched.both(dir);
        touched.ctime.insert(id);
        Ok(touched)
    }

    pub(crate) fn unlink(&mut self, dir: Id, name: &[u8]) -> Outcome {
        let id = self.find(dir, name)?;
        if self.node(id).is_dir() {
            return Err(Error::IsDirectory);
        }
        Ok(self.remove(dir, name, id))
    }

    pub(crate) fn rmdir(&mut self, dir: Id, name: &[u8]) -> Outcome {
        let id = self.find(dir, name)?;
        if !self.dir(id)?.entries.is_empty() {
            return Err(Error::NotEmpty);
        }
        Ok(self.remove(dir, name, id))
    }

    fn remove(&mut self, dir: Id, name: &[u8], id: Id) -> Touched {
        self.count(dir, id, false);
        self.node_mut(dir).entries.remove(name);
        let mut touched = Touched::default();
        touched.both(dir);
        self.unname(id, &mut touched);
        touched
    }

    fn unname(&mut self, id: Id, touched: &mut Touched) {
        let node = self.node_mut(id);
        node.nlink = if node.is_dir() { 0 } else { node.nlink - 1 };
        touched.ctime.insert(id);
    }

    fn contains(&self, above: Id, mut below: Id) -> bool {
        loop {
            if above == below {
                return true;
            }
            if below == ROOT {
                return false;
            }
            below = self.node(below).parent;
        }
    }

    /// Renames; `whiteout` is the inode that a whiteout got, if it was asked for.
    pub(crate) fn rename(
        &mut self,
        (dir, name): (Id, &[u8]),
        (to, new): (Id, &[u8]),
        flags: u32,
        whiteout: Option<Id>,
    ) -> Outcome {
        self.dir(dir)?;
        if self.dir(to)?.nlink == 0 {
            return Err(Error::NotFound);
        }
        let moved = self.find(dir, name)?;
        let target = self.find(to, new).ok();
        if flags & libc::RENAME_NOREPLACE != 0 && target.is_some() {
            return Err(Error::Exists);
        }
        if self.node(moved).is_dir() && self.contains(moved, to) {
            return Err(Error::Invalid);
        }
        let mut touched = Touched::default();
        if flags & libc::RENAME_EXCHANGE != 0 {
            let target = target.ok_or(Error::NotFound)?;
            if self.node(target).is_dir() && self.contains(target, dir) {
                return Err(Error::Invalid);
            }
            if moved != target {
                self.place(dir, name, Some(moved), target, &mut touched);
                self.place(to, new, Some(target), moved, &mut touched);
            }
            return Ok(touched);
        }
        if target == Some(moved) {
            return Ok(touched);
        }
        if let Some(target) = target {
            match (self.node(moved).is_dir(), self.node(target).is_dir()) {
                (true, false) => return Err(Error::NotDirectory),
                (false, true) => return Err(Error::IsDirectory),
                (true, true) if !self.node(target).entries.is_empty() => {
                    return Err(Error::NotEmpty);
                }
                _ => {}
            }
        }
        self.place(to, new, target, moved, &mut touched);
        if let Some(target) = target {
            self.unname(target, &mut touched);
        }
        self.count(dir, moved, false);
        self.node_mut(dir).entries.remove(name);
        touched.both(dir);
        if let Some(whiteout) = whiteout {
            let node = Node::new(FileKind::CharDevice, 0, dir);
            self.nodes.insert(whiteout, Arc::new(node));
            self.node_mut(dir).entries.insert(name.to_vec(), whiteout);
            touched.made.insert(whiteout);
        }
        Ok(touched)
    }

    /// Lets a name mean `id` in place of `before`.
    fn place(&mut self, dir: Id, name: &[u8], before: Option<Id>, id: Id, touched: &mut Touched) {
        if let Some(before) = before {
            self.count(dir, before, false);
        }
        self.node_mut(dir).entries.insert(name.to_vec(), id);
        self.count(dir, id, true);
        self.node_mut(id).parent = dir;
        touched.both(dir);
        touched.ctime.insert(id);
    }

    /// Drops what has no name.
    pub(crate) fn drop_unnamed(&mut self) {
        self.nodes.retain(|_, node| node.nlink > 0);
    }
}

/// Copies into content that grows with zeros.
pub(crate) fn overwrite(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}
