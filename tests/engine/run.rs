//! Carries operations out on both sides and compares.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use amberfs::format::RequestId;
use amberfs::fs::{
    Caller, Error, FileKind, Filesystem, Handle, NodeId, Part, SetAttr, SetTime, Timestamp, Whence,
    WriteFlags,
};

use crate::compare;
use crate::model::{Id, Node, Outcome, ROOT, State, Touched, overwrite};
use crate::operations::Operation;
use crate::world::{World, pattern};

const BLOCK: usize = 4096;

/// Files beyond which none are made.
const MAX_NODES: usize = 40;
/// Snapshots beyond which none are made.
const MAX_SNAPSHOTS: usize = 4;

/// Both sides of a comparison.
pub(crate) struct Run {
    world: World,
    root: Caller,
    live: State,
    snapshots: BTreeMap<String, State>,
    /// Lookups that the kernel would count.
    lookups: BTreeMap<Id, u64>,
    open: Vec<(Id, Handle)>,
    /// Every inode number there was.
    used: BTreeSet<Id>,
    steps: u64,
}

impl Run {
    pub(crate) fn new() -> Run {
        // A small cache, so that nodes are read back.
        let world = World::new(64 << 20, 4 << 20, 1 << 20);
        let mut live = State::default();
        live.nodes.insert(ROOT, Arc::new(Node::new(FileKind::Directory, 0o755, ROOT)));
        let attr = world.fs.getattr(NodeId::ROOT).unwrap();
        let root = live.node_mut(ROOT);
        (root.mtime, root.ctime, root.btime) = (attr.mtime, attr.ctime, attr.btime);
        Run {
            world,
            root: Caller::root(),
            live,
            snapshots: BTreeMap::new(),
            lookups: BTreeMap::new(),
            open: Vec::new(),
            used: BTreeSet::from([ROOT]),
            steps: 0,
        }
    }

    /// Carries out one operation, and compares everything.
    pub(crate) fn step(&mut self, operation: &Operation) {
        self.steps += 1;
        let what = format!("step {} {operation:?}", self.steps);
        let (got, want) = self.apply(operation);
        match (got, want) {
            (Ok(()), Ok(touched)) => self.take_times(&touched, &what),
            (Err(got), Err(want)) => assert_eq!(got, want, "{what}"),
            (got, want) => panic!("{what}: {got:?} where {want:?} was expected"),
        }
        self.drop_unheld();
        self.compare(&what);
    }

    /// Ends: everything goes, and the space comes back.
    pub(crate) fn finish(&mut self) {
        self.world.remount();
        self.after_remount();
        self.compare("after the last remount");
        let volume = self.world.fs.volume().id();
        for name in std::mem::take(&mut self.snapshots).into_keys() {
            self.world.pool.delete_snapshot(volume, &name).unwrap();
        }
        self.reclaim();
        compare::tree(&self.world.fs, NodeId::ROOT, &self.live, "without snapshots");
        self.remove_all(ROOT);
        self.reclaim();
        self.world.remount();
        let used = self.world.pool.status().used_bytes;
        assert!(used < 1 << 20, "{used} bytes are left in use");
        self.world.pool.close().unwrap();
        self.world.check();
    }

    fn remove_all(&mut self, dir: Id) {
        let entries = self.live.node(dir).entries.clone();
        for (name, id) in entries {
            if self.live.node(id).is_dir() {
                self.remove_all(id);
                self.world.fs.rmdir(&self.root, NodeId(dir), &name).unwrap();
            } else {
                self.world.fs.unlink(&self.root, NodeId(dir), &name).unwrap();
            }
        }
    }

    fn reclaim(&self) {
        while self.world.pool.run_reclaim().unwrap() {}
        self.world.pool.checkpoint().unwrap();
        self.world.pool.checkpoint().unwrap();
    }

    fn compare(&self, what: &str) {
        compare::tree(&self.world.fs, NodeId::ROOT, &self.live, what);
        for (id, node) in &self.live.nodes {
            if node.nlink == 0 {
                compare::one(&self.world.fs, NodeId(*id), node, what);
            }
        }
        let infos = self.world.pool.snapshots(self.world.fs.volume().id());
        let names: BTreeSet<_> = infos.iter().map(|info| info.name.clone()).collect();
        assert!(names.iter().eq(self.snapshots.keys()), "{what}: snapshots {names:?}");
        for (name, state) in &self.snapshots {
            let dir = NodeId::snapshot_dir(amberfs::format::ROOT_INODE);
            let root = self.world.fs.lookup(&self.root, dir, name.as_bytes()).unwrap();
            compare::tree(&self.world.fs, root.node, state, &format!("{what}: snapshot {name}"));
        }
    }

    /// Checks that the expected times changed and no others, and notes them.
    fn take_times(&mut self, touched: &Touched, what: &str) {
        let ids: Vec<Id> = self.live.nodes.keys().copied().collect();
        for id in ids {
            if self.live.node(id).nlink == 0 && !self.is_held(id) {
                continue;
            }
            let attr = self.world.fs.getattr(NodeId(id)).unwrap_or_else(|error| {
                panic!("{what}: inode {id}: {error}");
            });
            let made = touched.made.contains(&id);
            let node = self.live.node_mut(id);
            if made {
                (node.mtime, node.btime) = (attr.mtime, attr.btime);
                assert!(attr.mtime == attr.ctime && attr.ctime == attr.btime, "{what}: {id}");
            } else if touched.mtime.contains(&id) {
                assert_ne!(attr.mtime, node.mtime, "{what}: mtime of {id} stays");
                node.mtime = attr.mtime;
            }
            if made || touched.ctime.contains(&id) {
                assert!(attr.ctime > node.ctime, "{what}: ctime of {id} stays");
                node.ctime = attr.ctime;
            }
        }
    }

    fn is_held(&self, id: Id) -> bool {
        self.lookups.contains_key(&id) || self.open.iter().any(|(open, _)| *open == id)
    }

    fn drop_unheld(&mut self) {
        let gone: Vec<Id> = self.live.nodes.keys().copied().collect();
        for id in gone {
            if self.live.node(id).nlink == 0 && !self.is_held(id) {
                self.live.nodes.remove(&id);
                assert_eq!(self.world.fs.getattr(NodeId(id)), Err(Error::Stale), "inode {id}");
            }
        }
    }

    fn after_remount(&mut self) {
        self.lookups.clear();
        self.open.clear();
        self.live.drop_unnamed();
    }

    /// Any file.
    fn any(&self, which: u8) -> Id {
        let at = usize::from(which) % self.live.nodes.len();
        *self.live.nodes.keys().nth(at).expect("there is a root")
    }

    /// A directory as a rule.
    fn dir(&self, which: u8) -> Id {
        if which >= 245 {
            return self.any(which);
        }
        let dirs: Vec<Id> =
            self.live.nodes.iter().filter(|(_, node)| node.is_dir()).map(|(id, _)| *id).collect();
        dirs[usize::from(which) % dirs.len()]
    }

    /// A regular file as a rule.
    fn file(&self, which: u8) -> Id {
        let regular = |node: &Node| node.kind == FileKind::Regular;
        let files: Vec<Id> =
            self.live.nodes.iter().filter(|(_, node)| regular(node)).map(|(id, _)| *id).collect();
        if which >= 245 || files.is_empty() {
            return self.any(which);
        }
        files[usize::from(which) % files.len()]
    }

    fn snapshot(&self, which: u8) -> Option<String> {
        let count = self.snapshots.len();
        let at = usize::from(which).checked_rem(count)?;
        self.snapshots.keys().nth(at).cloned()
    }

    /// Takes in a node that was made; its number must be new.
    fn made(&mut self, node: NodeId) -> Id {
        assert!(self.used.insert(node.0), "inode {} was used before", node.0);
        *self.lookups.entry(node.0).or_default() += 1;
        node.0
    }

    fn apply(&mut self, operation: &Operation) -> (Result<(), Error>, Outcome) {
        use Operation::*;
        match operation {
            Create { .. } | Mkdir { .. } | Symlink { .. } | Mknod { .. } | Tmpfile { .. } => {
                self.make(operation)
            }
            Link { .. } | Unlink { .. } | Rmdir { .. } | Rename { .. } => self.names(operation),
            Write { .. } | Resize { .. } | Fallocate { .. } | Copy { .. } | CopyBack { .. } => {
                self.contents(operation)
            }
            Read { .. } | Seek { .. } | Fsync { .. } => self.looks(operation),
            Chmod { .. } | Chown { .. } | Times { .. } | SetXattr { .. } | RemoveXattr { .. } => {
                self.attributes(operation)
            }
            Open { .. } | Release { .. } | Forget { .. } => self.holds(operation),
            Snapshot { .. } | DeleteSnapshot { .. } | RenameSnapshot { .. } => {
                self.snapshots(operation)
            }
            Clone { .. } | Restore { .. } | Checkpoint | Reclaim | Remount | Crash => {
                self.engine(operation);
                (Ok(()), Ok(Touched::default()))
            }
        }
    }

    fn make(&mut self, operation: &Operation) -> (Result<(), Error>, Outcome) {
        if self.live.nodes.len() >= MAX_NODES {
            return nothing();
        }
        let (fs, root) = (&self.world.fs, &self.root);
        let flags = libc::O_RDWR | libc::O_EXCL;
        let (dir, name, node, got) = match *operation {
            Operation::Create { dir, name, mode } => {
                let (dir, name) = (self.dir(dir), name_of(name));
                let made =
                    fs.create(root, NodeId(dir), &name, mode, flags).map(|(entry, handle)| {
                        fs.release(entry.node, handle);
                        entry
                    });
                (dir, name, Node::new(FileKind::Regular, mode, dir), made)
            }
            Operation::Mkdir { dir, name, mode } => {
                let (dir, name) = (self.dir(dir), name_of(name));
                let made = fs.mkdir(root, NodeId(dir), &name, mode);
                (dir, name, Node::new(FileKind::Directory, mode, dir), made)
            }
            Operation::Symlink { dir, name, len } => {
                let (dir, name) = (self.dir(dir), name_of(name));
                let target = vec![b't'; len];
                let made = fs.symlink(root, NodeId(dir), &name, &target);
                let node = Node::new(FileKind::Symlink, 0o777, dir);
                (dir, name, Node { content: target, ..node }, made)
            }
            Operation::Mknod { dir, name } => {
                let (dir, name) = (self.dir(dir), name_of(name));
                let made = fs.mknod(root, NodeId(dir), &name, libc::S_IFIFO | 0o600, 0);
                (dir, name, Node::new(FileKind::Fifo, 0o600, dir), made)
            }
            Operation::Tmpfile { dir } => return self.tmpfile(dir),
            _ => return nothing(),
        };
        let mut node = node;
        if self.live.node(dir).perm & crate::model::SETGID != 0 {
            node.gid = self.live.node(dir).gid;
            if node.is_dir() {
                node.perm |= crate::model::SETGID;
            }
        }
        let want = self.live.name_is_free(dir, &name);
        match got {
            Ok(entry) => {
                let id = self.made(entry.node);
                (Ok(()), want.map(|()| self.live.enter(dir, &name, id, node)))
            }
            Err(error) => (Err(error), want.map(|()| Touched::default())),
        }
    }

    fn tmpfile(&mut self, dir: u8) -> (Result<(), Error>, Outcome) {
        let dir = self.dir(dir);
        let made = self.world.fs.tmpfile(&self.root, NodeId(dir), 0o640, libc::O_RDWR);
        if !self.live.node(dir).is_dir() {
            return (made.map(|_| ()), Err(Error::NotDirectory));
        }
        match made {
            Ok((entry, handle)) => {
                let id = self.made(entry.node);
                self.open.push((id, handle));
                let above = self.live.node(dir);
                let gid = if above.perm & crate::model::SETGID != 0 { above.gid } else { 0 };
                let node = Node { nlink: 0, gid, ..Node::new(FileKind::Regular, 0o640, dir) };
                self.live.nodes.insert(id, Arc::new(node));
                let mut touched = Touched::default();
                touched.made.insert(id);
                (Ok(()), Ok(touched))
            }
            Err(error) => (Err(error), Ok(Touched::default())),
        }
    }

    fn names(&mut self, operation: &Operation) -> (Result<(), Error>, Outcome) {
        let (fs, root) = (&self.world.fs, &self.root);
        match *operation {
            Operation::Link { node, dir, name } => {
                let (id, dir, name) = (self.any(node), self.dir(dir), name_of(name));
                let got = fs.link(NodeId(id), NodeId(dir), &name);
                if got.is_ok() {
                    *self.lookups.entry(id).or_default() += 1;
                }
                (got.map(|_| ()), self.live.link(id, dir, &name))
            }
            Operation::Unlink { dir, name } => {
                let (dir, name) = (self.dir(dir), name_of(name));
                let got = fs.unlink(root, NodeId(dir), &name);
                (got, self.live.unlink(dir, &name))
            }
            Operation::Rmdir { dir, name } => {
                let (dir, name) = (self.dir(dir), name_of(name));
                let got = fs.rmdir(root, NodeId(dir), &name);
                (got, self.live.rmdir(dir, &name))
            }
            Operation::Rename { dir, name, to, new, flags } => {
                let (dir, name) = (self.dir(dir), name_of(name));
                let (to, new) = (self.dir(to), name_of(new));
                let got = fs.rename(root, NodeId(dir), &name, NodeId(to), &new, flags);
                let mut whiteout = None;
                if got.is_ok() && flags == libc::RENAME_WHITEOUT {
                    let left = fs.lookup(root, NodeId(dir), &name).unwrap();
                    if left.attr.kind() == FileKind::CharDevice && !self.used.contains(&left.node.0)
                    {
                        whiteout = Some(self.made(left.node));
                    } else {
                        fs.forget(left.node, 1);
                    }
                }
                let want = self.live.rename((dir, &name), (to, &new), flags, whiteout);
                if let Some(whiteout) = whiteout {
                    let above = self.live.node(dir);
                    if above.perm & crate::model::SETGID != 0 {
                        let gid = above.gid;
                        self.live.node_mut(whiteout).gid = gid;
                    }
                }
                (got, want)
            }
            _ => nothing(),
        }
    }

    fn contents(&mut self, operation: &Operation) -> (Result<(), Error>, Outcome) {
        let fs = &self.world.fs;
        let steps = self.steps;
        match *operation {
            Operation::Write { node, offset, len, cached, kill } => {
                let id = self.file(node);
                let data = pattern(steps, len);
                let flags = WriteFlags { cached, kill_suidgid: kill, ..WriteFlags::default() };
                if cached && len >= BLOCK {
                    let (offset, len) = (offset / BLOCK * BLOCK, len / BLOCK * BLOCK);
                    let got = write_together(fs, NodeId(id), offset as u64, &data[..len]);
                    let change = |content: &mut Vec<u8>| overwrite(content, offset, &data[..len]);
                    return (got, self.change(id, false, false, change));
                }
                let got = fs.write(NodeId(id), Handle(1), offset as u64, &data, flags);
                if len == 0 {
                    return (got.map(|_| ()), Ok(Touched::default()));
                }
                let want = self.change(id, !cached, kill && !cached, |content| {
                    overwrite(content, offset, &data);
                });
                (got.map(|_| ()), want)
            }
            Operation::Resize { node, size } => {
                let id = self.file(node);
                let set = SetAttr { size: Some(size as u64), ..SetAttr::default() };
                let got = fs.setattr(&self.root, NodeId(id), &set).map(|_| ());
                (got, self.change(id, true, false, |content| content.resize(size, 0)))
            }
            Operation::Fallocate { node, offset, len, mode } => {
                let id = self.file(node);
                let got = fs.fallocate(NodeId(id), offset as u64, len as u64, mode);
                (got, self.fallocate(id, offset, len, mode))
            }
            Operation::Copy { src, from, dst, to, len } => {
                let (src, dst) = (self.file(src), self.file(dst));
                let got = fs.copy_file_range(
                    NodeId(src),
                    from as u64,
                    NodeId(dst),
                    to as u64,
                    len as u64,
                );
                let source = self.live.node(src).clone();
                self.copied(&source, (src == dst).then_some(from), from, dst, to, len, got)
            }
            Operation::CopyBack { snapshot, node, len } => {
                let Some(name) = self.snapshot(snapshot) else { return nothing() };
                let dst = self.file(node);
                let Some(source) = self.snapshots[&name].nodes.get(&dst).cloned() else {
                    return nothing();
                };
                if source.nlink == 0 {
                    return nothing();
                }
                let dir = NodeId::snapshot_dir(amberfs::format::ROOT_INODE);
                let root = fs.lookup(&self.root, dir, name.as_bytes()).unwrap().node;
                let amberfs::fs::NodeKind::View { snapshot, .. } = root.kind() else {
                    panic!("a snapshot's root is in it");
                };
                let src = NodeId::view(snapshot, amberfs::format::InodeNo(dst));
                let got = fs.copy_file_range(src, 0, NodeId(dst), 0, len as u64);
                self.copied(&source, None, 0, dst, 0, len, got)
            }
            _ => nothing(),
        }
    }

    /// A change of a file's content.
    fn change(
        &mut self,
        id: Id,
        times: bool,
        kill: bool,
        change: impl FnOnce(&mut Vec<u8>),
    ) -> Outcome {
        self.live.regular(id)?;
        let node = self.live.node_mut(id);
        change(&mut node.content);
        if kill {
            node.clear_privileges();
        }
        let mut touched = Touched::default();
        if times {
            touched.both(id);
        }
        Ok(touched)
    }

    fn fallocate(&mut self, id: Id, offset: usize, len: usize, mode: u32) -> Outcome {
        if len == 0 {
            return Err(Error::Invalid);
        }
        self.live.regular(id)?;
        if mode == libc::FALLOC_FL_COLLAPSE_RANGE as u32 {
            return Err(Error::NotSupported);
        }
        let keep = mode & libc::FALLOC_FL_KEEP_SIZE as u32 != 0;
        let zero = mode & (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE) as u32 != 0;
        self.change(id, true, false, |content| {
            if !keep && content.len() < offset + len {
                content.resize(offset + len, 0);
            }
            if zero {
                let end = content.len().min(offset + len);
                content[offset.min(end)..end].fill(0);
            }
        })
    }

    /// What a copy does; how much it copied is the real one's choice, but not nothing.
    #[allow(clippy::too_many_arguments)]
    fn copied(
        &mut self,
        source: &Node,
        same: Option<usize>,
        from: usize,
        dst: Id,
        to: usize,
        len: usize,
        got: Result<u64, Error>,
    ) -> (Result<(), Error>, Outcome) {
        let want = || {
            self.live.regular(dst)?;
            match source.kind {
                FileKind::Regular => {}
                FileKind::Directory => return Err(Error::IsDirectory),
                _ => return Err(Error::Invalid),
            }
            let len = len.min(source.content.len().saturating_sub(from));
            let overlaps = same.is_some() && from < to + len && to < from + len;
            if len > 0 && overlaps { Err(Error::Invalid) } else { Ok(len) }
        };
        match (want(), got) {
            (Ok(len), Ok(done)) => {
                let done = done as usize;
                assert!(done <= len && (done > 0) == (len > 0), "{done} of {len} copied");
                let part = source.content[from.min(source.content.len())..][..done].to_vec();
                let touched = if done == 0 {
                    Ok(Touched::default())
                } else {
                    self.change(dst, true, false, |content| overwrite(content, to, &part))
                };
                (Ok(()), touched)
            }
            (want, got) => (got.map(|_| ()), want.map(|_| Touched::default())),
        }
    }

    fn looks(&mut self, operation: &Operation) -> (Result<(), Error>, Outcome) {
        let fs = &self.world.fs;
        match *operation {
            Operation::Read { node, offset, len } => {
                let id = self.file(node);
                let model = self.live.node(id);
                if model.kind != FileKind::Regular {
                    return nothing();
                }
                let mut buf = vec![0xee; len];
                let got = fs.read(NodeId(id), Handle(0), offset as u64, &mut buf).unwrap();
                let from = offset.min(model.content.len());
                let want = &model.content
                    [from..model.content.len().min(offset.saturating_add(len)).max(from)];
                assert!(buf[..got] == *want, "a read at {offset} of {len}");
            }
            Operation::Seek { node, offset } => {
                let id = self.file(node);
                if self.live.node(id).kind == FileKind::Regular {
                    self.seek(id, offset);
                }
            }
            Operation::Fsync { node } => {
                let id = self.any(node);
                fs.fsync(NodeId(id), false).unwrap();
            }
            _ => {}
        }
        nothing()
    }

    /// What is not data between two answers is zero.
    fn seek(&self, id: Id, offset: usize) {
        let content = &self.live.node(id).content;
        let seek = |whence| self.world.fs.lseek(NodeId(id), offset as u64, whence);
        if offset >= content.len() {
            assert_eq!(seek(Whence::Data), Err(Error::NoSuchAddress));
            assert_eq!(seek(Whence::Hole), Err(Error::NoSuchAddress));
            return;
        }
        let hole = seek(Whence::Hole).unwrap() as usize;
        assert!(hole >= offset && hole <= content.len());
        let data = match seek(Whence::Data) {
            Ok(data) => data as usize,
            Err(error) => {
                assert_eq!(error, Error::NoSuchAddress);
                content.len()
            }
        };
        assert!(data >= offset && data <= content.len());
        assert!(content[offset..data].iter().all(|byte| *byte == 0), "data in a hole");
        assert!((data == offset) != (hole == offset), "both or neither at {offset}");
    }

    fn attributes(&mut self, operation: &Operation) -> (Result<(), Error>, Outcome) {
        let (fs, root) = (&self.world.fs, &self.root);
        let set = |id, set: SetAttr| fs.setattr(root, NodeId(id), &set).map(|_| ());
        let mut touched = Touched::default();
        let got = match *operation {
            Operation::Chmod { node, mode } => {
                let id = self.any(node);
                let got = set(id, SetAttr { mode: Some(mode), ..SetAttr::default() });
                self.live.node_mut(id).perm = mode;
                touched.ctime.insert(id);
                got
            }
            Operation::Chown { node, uid, gid } => {
                let id = self.any(node);
                let own = SetAttr { uid: Some(uid), gid: Some(gid), ..SetAttr::default() };
                let got = set(id, own);
                let node = self.live.node_mut(id);
                (node.uid, node.gid) = (uid, gid);
                if !node.is_dir() {
                    node.clear_privileges();
                }
                touched.ctime.insert(id);
                got
            }
            Operation::Times { node, sec, nsec } => {
                let id = self.any(node);
                let time = Timestamp { sec, nsec };
                let at = Some(SetTime::At(time));
                let got = set(id, SetAttr { mtime: at, ..SetAttr::default() });
                self.live.node_mut(id).mtime = time;
                touched.ctime.insert(id);
                got
            }
            _ => return self.xattrs(operation),
        };
        (got, Ok(touched))
    }

    fn xattrs(&mut self, operation: &Operation) -> (Result<(), Error>, Outcome) {
        let (fs, root) = (&self.world.fs, &self.root);
        let name_of = |name: u8| format!("{}.{name}", ["user", "trusted"][usize::from(name % 2)]);
        let mut touched = Touched::default();
        let (got, want) = match *operation {
            Operation::SetXattr { node, name, len, flags } => {
                let (id, name) = (self.any(node), name_of(name).into_bytes());
                let value = pattern(self.steps, len);
                let got = fs.setxattr(root, NodeId(id), &name, &value, flags, false);
                touched.ctime.insert(id);
                let exists = self.live.node(id).xattrs.contains_key(&name);
                let want = match (flags, exists) {
                    (1, true) => Err(Error::Exists),
                    (2, false) => Err(Error::NoData),
                    _ => Ok(()),
                };
                if want.is_ok() {
                    self.live.node_mut(id).xattrs.insert(name, value);
                }
                (got, want)
            }
            Operation::RemoveXattr { node, name } => {
                let (id, name) = (self.any(node), name_of(name).into_bytes());
                let got = fs.removexattr(root, NodeId(id), &name);
                touched.ctime.insert(id);
                let removed = self.live.node_mut(id).xattrs.remove(&name);
                (got, removed.map(|_| ()).ok_or(Error::NoData))
            }
            _ => return nothing(),
        };
        (got, want.map(|()| touched))
    }

    fn holds(&mut self, operation: &Operation) -> (Result<(), Error>, Outcome) {
        match *operation {
            Operation::Open { node, write } => {
                let id = self.file(node);
                let model = self.live.node(id);
                // The kernel opens pipes by itself, and nothing that it does not know.
                if model.kind != FileKind::Regular || self.open.len() > 20 {
                    return nothing();
                }
                let flags = if write { libc::O_RDWR } else { libc::O_RDONLY };
                let got = self.world.fs.open(NodeId(id), flags | libc::O_NOATIME);
                if let Ok(handle) = got {
                    self.open.push((id, handle));
                }
                (got.map(|_| ()), Ok(Touched::default()))
            }
            Operation::Release { which } => {
                if !self.open.is_empty() {
                    let (id, handle) = self.open.remove(usize::from(which) % self.open.len());
                    self.world.fs.release(NodeId(id), handle);
                }
                nothing()
            }
            Operation::Forget { node } => {
                let id = self.any(node);
                if let Some(count) = self.lookups.remove(&id) {
                    self.world.fs.forget(NodeId(id), count);
                }
                nothing()
            }
            _ => nothing(),
        }
    }

    fn snapshots(&mut self, operation: &Operation) -> (Result<(), Error>, Outcome) {
        let dir = NodeId::snapshot_dir(amberfs::format::ROOT_INODE);
        let done = || Ok(Touched::default());
        let (fs, root) = (&self.world.fs, &self.root);
        match *operation {
            Operation::Snapshot { name } => {
                let name = snapshot_name(name);
                let exists = self.snapshots.contains_key(&name);
                if !exists && self.snapshots.len() >= MAX_SNAPSHOTS {
                    return nothing();
                }
                let got = fs.mkdir(root, dir, name.as_bytes(), 0o755).map(|_| ());
                if exists {
                    return (got, Err(Error::Exists));
                }
                self.snapshots.insert(name, self.live.clone());
                (got, done())
            }
            Operation::DeleteSnapshot { which } => {
                let Some(name) = self.snapshot(which) else { return nothing() };
                let got = fs.rmdir(root, dir, name.as_bytes());
                self.snapshots.remove(&name);
                (got, done())
            }
            Operation::RenameSnapshot { which, name } => {
                let Some(from) = self.snapshot(which) else { return nothing() };
                let to = snapshot_name(name);
                let got = fs.rename(root, dir, from.as_bytes(), dir, to.as_bytes(), 0);
                if from != to && self.snapshots.contains_key(&to) {
                    return (got, Err(Error::Exists));
                }
                if let Some(state) = self.snapshots.remove(&from) {
                    self.snapshots.insert(to, state);
                }
                (got, done())
            }
            _ => nothing(),
        }
    }

    fn engine(&mut self, operation: &Operation) {
        match *operation {
            Operation::Checkpoint => self.world.pool.checkpoint().unwrap(),
            Operation::Reclaim => while self.world.pool.run_reclaim().unwrap() {},
            Operation::Remount => {
                self.world.remount();
                self.after_remount();
            }
            Operation::Crash => {
                self.world.reopen();
                self.after_remount();
            }
            Operation::Clone { which } => {
                let Some(name) = self.snapshot(which) else { return };
                let volume = self.world.fs.volume().id();
                let member = self.world.pool.snapshot(volume, &name).unwrap().member;
                self.world.pool.clone_volume(member, "clone").unwrap();
                let fs = self.world.mount("clone");
                compare::tree(&fs, NodeId::ROOT, &self.snapshots[&name], "the clone");
                drop(fs);
                self.world.pool.delete_volume("clone").unwrap();
            }
            Operation::Restore { which } => {
                let Some(name) = self.snapshot(which) else { return };
                if self.snapshots.len() >= MAX_SNAPSHOTS {
                    return;
                }
                self.world.fs.forget_all();
                self.after_remount();
                let volume = self.world.fs.volume().id();
                let kept = format!("before {}", self.steps);
                self.world.pool.restore(volume, &name, &kept).unwrap();
                let mut restored = self.snapshots[&name].clone();
                restored.drop_unnamed();
                self.snapshots.insert(kept, std::mem::replace(&mut self.live, restored));
                self.world.mount_again();
            }
            _ => {}
        }
    }
}

fn nothing() -> (Result<(), Error>, Outcome) {
    (Ok(()), Ok(Touched::default()))
}

fn name_of(name: u8) -> Vec<u8> {
    format!("{}", (b'a' + name) as char).into_bytes()
}

fn snapshot_name(name: u8) -> String {
    format!("snapshot {name}")
}

/// As the kernel's page cache writes what has changed here and there: the blocks one by one, the last one first.
fn write_together(fs: &Filesystem, node: NodeId, offset: u64, bytes: &[u8]) -> Result<(), Error> {
    let request = RequestId { session: 0, unique: 2 };
    let blocks = bytes.chunks(BLOCK).zip((offset..).step_by(BLOCK));
    let mut parts: Vec<_> = blocks.map(|(data, offset)| Part { request, offset, data }).collect();
    parts.reverse();
    if fs.write_together(node, &parts)? {
        return Ok(());
    }
    let flags = WriteFlags { cached: true, ..WriteFlags::default() };
    fs.write(node, Handle(1), offset, bytes, flags).map(drop)
}
