//! Looking up and listing names.

use std::ops::ControlFlow;

use super::error::Error;
use super::records::Records;
use super::types::{Attr, Caller, DirEntry, Entry, Handle};
use super::{Filesystem, NodeId, NodeKind, SnapDir};
use crate::format::{
    Dirent, FileKind, Inode, InodeNo, Key, KeyKind, MAX_NAME, MAX_SUB, ROOT_INODE, dirent_chain,
};
use crate::pool::Intent;
use crate::pool::Reader;

/// Position behind ".".
const BEHIND_SELF: u64 = 1;
/// Position behind "..".
const BEHIND_PARENT: u64 = 2;
/// Position behind `.snapshots`, or where it would be.
const BEHIND_SNAPSHOTS: u64 = 3;
/// Position behind the entry with hash 0 in slot 0; the largest is 2^63 - 125, a positive `off_t`.
const FIRST_ENTRY: u64 = 4;
const SLOT_BITS: u32 = 7;

/// Position behind an entry.
fn behind(hash: u64, slot: u8) -> u64 {
    (hash << SLOT_BITS | u64::from(slot)) + FIRST_ENTRY
}

/// Checks the length and the bytes of a name that is to be looked up.
pub(super) fn check_name(name: &[u8]) -> Result<(), Error> {
    if name.len() > MAX_NAME {
        return Err(Error::NameTooLong);
    }
    if name.is_empty() || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
        return Err(Error::Invalid);
    }
    Ok(())
}

impl Filesystem {
    /// Finds a name in a directory; "." and ".." too. "." finds a node that is no directory, as well:
    /// that is how the kernel finds what it has a handle of.
    ///
    /// In a `.snapshots` names that begin with `@` are queries: `@latest`, `@oldest`, `@2h-ago`.
    pub fn lookup(&self, _caller: &Caller, parent: NodeId, name: &[u8]) -> Result<Entry, Error> {
        let result = check_name(name).and_then(|()| match parent.kind() {
            NodeKind::SnapshotDir(dir) => self.lookup_snapshot(dir, name),
            NodeKind::Live(dir) if self.has_snapshot_dirs() && self.is_snapshots_name(name) => {
                self.snapshot_dir_entry(dir)
            }
            NodeKind::Live(dir) if self.only.is_none() => self.lookup_live(dir, name),
            _ => self.lookup_frozen(parent, name),
        });
        if result == Err(Error::Stale) {
            self.stale(parent);
        }
        let hurt = match &result {
            Err(Error::Io(_)) => self.named_node(parent, name).unwrap_or(parent),
            _ => parent,
        };
        self.report(hurt, result)
    }

    /// The node that a name of a directory leads to, whether or not it can be read; none where the name itself
    /// can't be.
    #[cold]
    fn named_node(&self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        let (source, dir) = self.source_of(parent).ok()?;
        let guard = source.read().ok()?;
        let ino = self.find_in(&guard.reader(), dir, name).ok()?;
        Some(sibling(parent, ino))
    }

    fn lookup_live(&self, dir: InodeNo, name: &[u8]) -> Result<Entry, Error> {
        let guard = self.head.read()?;
        let reader = guard.reader();
        let ino = self.find_in(&reader, dir, name)?;
        let inode = reader.inode(ino)?;
        // An inode without a name that nobody holds is about to end: it must not be held any more.
        if inode.nlink == 0 && !self.nodes.is_held(ino) {
            return Err(Error::Stale);
        }
        Ok(self.entry(ino, &inode))
    }

    fn lookup_frozen(&self, parent: NodeId, name: &[u8]) -> Result<Entry, Error> {
        let (source, dir) = self.source_of(parent)?;
        if name == b".." && dir == ROOT_INODE && parent.is_view() {
            return self.snapshot_dir_entry(ROOT_INODE);
        }
        let guard = source.read()?;
        let reader = guard.reader();
        let ino = self.find_in(&reader, dir, name)?;
        let node = sibling(parent, ino);
        Ok(Entry { node, attr: Attr::of(node, &reader.inode(ino)?), cacheable: true })
    }

    fn find_in(&self, reader: &Reader<'_>, dir: InodeNo, name: &[u8]) -> Result<InodeNo, Error> {
        // The kernel asks for "." of anything that it has a handle of, whatever that is.
        if name == b"." {
            return reader.inode(dir).map(|_| dir);
        }
        let inode = reader.directory(dir)?;
        match name {
            b".." => Ok(inode.parent),
            _ => Ok(reader.need(&self.seed, dir, name)?.ino),
        }
    }

    /// Opens a directory.
    pub fn opendir(&self, node: NodeId) -> Result<Handle, Error> {
        if node.is_snapshot_dir() {
            return Ok(Handle::from_flags(libc::O_RDONLY));
        }
        let (source, ino) = self.source_of(node)?;
        let guard = source.read()?;
        let result = guard.reader().directory(ino).map(|_| {
            if self.is_mutable(node) {
                self.nodes.opened(ino, false, self.keeps_atime());
            }
            Handle::from_flags(libc::O_RDONLY)
        });
        drop(guard);
        self.report(node, result)
    }

    /// Closes a directory; as [`Filesystem::release`].
    pub fn releasedir(&self, node: NodeId, handle: Handle) -> bool {
        self.release(node, handle)
    }

    /// Lists a directory from a position on, 0 for the beginning, until `each` returns false: that entry
    /// then counts as not taken.
    ///
    /// An entry that is there throughout is listed once, whatever is added and removed meanwhile.
    pub fn readdir(
        &self,
        _caller: &Caller,
        node: NodeId,
        cookie: u64,
        plus: bool,
        each: &mut dyn FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<(), Error> {
        let result = match node.kind() {
            NodeKind::SnapshotDir(dir) => self.list_snapshots(dir, cookie, plus, each),
            _ => self.list(node, cookie, plus, each),
        };
        if result.is_ok() && self.is_mutable(node) {
            self.touch_atime(InodeNo(node.0));
        }
        self.report(node, result)
    }

    fn list(
        &self,
        node: NodeId,
        cookie: u64,
        plus: bool,
        each: &mut dyn FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<(), Error> {
        let (source, dir) = self.source_of(node)?;
        let guard = source.read()?;
        let reader = guard.reader();
        let parent = match (node.kind(), reader.directory(dir)?.parent) {
            (NodeKind::View { .. }, ROOT_INODE) if dir == ROOT_INODE => {
                NodeId::snapshot_dir(ROOT_INODE)
            }
            (_, parent) => sibling(node, parent),
        };
        let kind = FileKind::Directory;
        let dots = [(&b"."[..], node, BEHIND_SELF), (b"..", parent, BEHIND_PARENT)];
        for (name, node, behind) in dots {
            if cookie < behind && !each(&DirEntry { name, node, kind, cookie: behind, entry: None })
            {
                return Ok(());
            }
        }
        let shows = self.options.snapdir == SnapDir::Visible && self.has_snapshot_dirs();
        if cookie < BEHIND_SNAPSHOTS && shows && node.is_live() {
            let name = self.options.snapdir_name.as_bytes();
            let entry = if plus { Some(self.snapshot_dir_entry_in(&reader, dir)?) } else { None };
            let node = NodeId::snapshot_dir(dir);
            if !each(&DirEntry { name, node, kind, cookie: BEHIND_SNAPSHOTS, entry }) {
                return Ok(());
            }
        }
        self.list_entries(&reader, node, dir, cookie, plus, each)
    }

    fn list_entries(
        &self,
        reader: &Reader<'_>,
        node: NodeId,
        dir: InodeNo,
        cookie: u64,
        plus: bool,
        each: &mut dyn FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<(), Error> {
        let hash = cookie.saturating_sub(FIRST_ENTRY) >> SLOT_BITS;
        let first = Key::inode(dir, KeyKind::Dirent, hash.min(MAX_SUB));
        let last = Key::inode(dir, KeyKind::Dirent, MAX_SUB);
        let mut outcome = Ok(());
        let mut visit = |entry: Dirent<'_>, behind: u64| -> Result<bool, Error> {
            let child = sibling(node, entry.ino);
            let hidden = node.is_live() && self.hides(entry.name);
            if behind <= cookie || hidden {
                return Ok(true);
            }
            let attr = match plus.then(|| reader.inode(entry.ino)) {
                // The name is good; who looks it up is told, and the log names it then.
                None | Some(Err(Error::Io(_))) => None,
                Some(inode) => Some(Attr::of(child, &inode?)),
            };
            let counts = attr.is_some() && self.is_mutable(node);
            let full = attr.map(|attr| Entry { node: child, attr, cacheable: true });
            let (name, kind) = (entry.name, entry.kind);
            let taken = each(&DirEntry { name, node: child, kind, cookie: behind, entry: full });
            if taken && counts {
                self.nodes.looked_up(entry.ino);
            }
            Ok(taken)
        };
        reader.range(first, last, &mut |key, chain| {
            for entry in dirent_chain(chain) {
                let step = entry.map_err(Error::from);
                let step = step.and_then(|entry| visit(entry, behind(key.sub(), entry.slot)));
                match step {
                    Ok(true) => {}
                    Ok(false) => return ControlFlow::Break(()),
                    Err(error) => {
                        outcome = Err(error);
                        return ControlFlow::Break(());
                    }
                }
            }
            ControlFlow::Continue(())
        })?;
        outcome
    }

    /// Whether an entry of a live directory can't be reached because the virtual directory has its name.
    fn hides(&self, name: &[u8]) -> bool {
        self.has_snapshot_dirs() && self.is_snapshots_name(name)
    }

    /// Sets the access time if the file was opened and this is the first time that it is read, and the
    /// time is behind the others or a day old. Returns whether it did.
    pub(super) fn touch_atime(&self, ino: InodeNo) -> bool {
        const DAY: i64 = 86400;
        if !self.nodes.take_atime_due(ino) {
            return false;
        }
        let now = self.volume.pool().now();
        let is_behind = |inode: &Inode| {
            let newest = inode.mtime.max(inode.ctime);
            inode.atime <= newest || now.sec.saturating_sub(inode.atime.sec) >= DAY
        };
        let touch = || -> Result<bool, Error> {
            // As a rule there is nothing to do, and others need not be kept waiting for that.
            let found = self.head.read()?.reader().find_inode(ino)?;
            if !found.is_some_and(|inode| is_behind(&inode)) {
                return Ok(false);
            }
            let mut tx = self.begin(Intent::Shrink)?;
            let Some(mut inode) = tx.find_inode(ino)? else { return Ok(false) };
            if !is_behind(&inode) {
                return Ok(false);
            }
            inode.atime = tx.now();
            tx.put_inode(ino, &inode);
            tx.commit().map(|()| true)
        };
        // Reading works on a pool that can't be written to.
        touch().unwrap_or_else(|error| {
            tracing::debug!(inode = ino.0, "access time not kept: {error}");
            false
        })
    }

    /// Whether access times are kept at all.
    pub(super) fn keeps_atime(&self) -> bool {
        self.options.atime == super::Atime::Relatime && !self.options.read_only
    }
}

/// The node of another inode in the same state as `node`.
pub(super) fn sibling(node: NodeId, ino: InodeNo) -> NodeId {
    match node.kind() {
        NodeKind::View { snapshot, .. } => NodeId::view(snapshot, ino),
        NodeKind::Live(_) | NodeKind::SnapshotDir(_) => NodeId::live(ino),
    }
}
