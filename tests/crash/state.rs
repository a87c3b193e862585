//! What a pool holds, as a user sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use amberfs::fs::{
    Atime, Attr, Caller, FileKind, Filesystem, FsOptions, NodeId, SnapDir, Timestamp,
};
use amberfs::pool::{Pool, Volume};

/// Everything about a file but its content and what may depend on lost data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meta {
    pub ino: u64,
    pub kind: FileKind,
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub size: u64,
    pub times: [Timestamp; 3],
    pub target: Vec<u8>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Files by path, and their contents by inode.
#[derive(Clone, Default)]
pub(crate) struct Tree {
    pub files: BTreeMap<String, Meta>,
    pub content: BTreeMap<u64, Arc<Vec<u8>>>,
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files = self.files.iter().map(|(path, meta)| {
            let content = self.content.get(&meta.ino);
            (path, (meta, content.map(|bytes| crc32c::crc32c(bytes))))
        });
        f.debug_map().entries(files.map(|(path, shown)| (path, format!("{shown:?}")))).finish()
    }
}

/// A volume: its live files, and its snapshots' names and numbers.
#[derive(Debug, Clone, Default)]
pub(crate) struct VolumeState {
    /// Nothing, not even a root, if only snapshots are left.
    pub live: Tree,
    pub snapshots: BTreeMap<String, u32>,
}

/// A pool: volumes by name.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    pub volumes: BTreeMap<String, VolumeState>,
}

impl State {
    /// Whether both have the same names and attributes; contents are left out.
    pub(crate) fn same_metadata(&self, other: &State) -> bool {
        self.volumes.len() == other.volumes.len()
            && self.volumes.iter().zip(&other.volumes).all(|((name, a), (other, b))| {
                name == other && a.snapshots == b.snapshots && a.live.files == b.live.files
            })
    }

    /// Whether both are the same, contents included.
    pub(crate) fn same(&self, other: &State) -> bool {
        let contents = |state: &State| -> Vec<BTreeMap<u64, Arc<Vec<u8>>>> {
            state.volumes.values().map(|volume| volume.live.content.clone()).collect()
        };
        self.same_metadata(other) && contents(self) == contents(other)
    }

    /// Whether both differ in the size and times of one file at most.
    pub(crate) fn same_but_for_a_file(&self, other: &State) -> bool {
        let mut differing = BTreeSet::new();
        let same = self.volumes.len() == other.volumes.len()
            && self.volumes.iter().zip(&other.volumes).all(|((name, a), (other, b))| {
                let (ours, theirs) = (&a.live.files, &b.live.files);
                name == other
                    && a.snapshots == b.snapshots
                    && ours.len() == theirs.len()
                    && ours.iter().zip(theirs).all(|((path, a), (other, b))| {
                        if a != b {
                            differing.insert((name, a.ino));
                        }
                        let like = Meta { size: a.size, times: a.times, ..b.clone() };
                        path == other && like == *a
                    })
            });
        same && differing.len() <= 1
    }

    /// Reads the volumes of a pool whose names begin with `prefix`; those with a head are in `mounts`.
    pub(crate) fn of(pool: &Pool, mounts: &Mounts, prefix: &str) -> State {
        let volumes = pool.volumes().into_iter().filter(|info| info.name.starts_with(prefix));
        let volumes = volumes.map(|info| {
            let snapshots = pool.snapshots(info.id);
            let snapshots = snapshots.into_iter().map(|info| (info.name, info.number)).collect();
            let live = info.head.map(|_| Tree::of(&mounts[&info.name])).unwrap_or_default();
            (info.name, VolumeState { live, snapshots })
        });
        State { volumes: volumes.collect() }
    }
}

/// File systems of volumes, by the volumes' names.
pub(crate) type Mounts = BTreeMap<String, Arc<Filesystem>>;

/// Mounts a volume, or one of its snapshots.
pub(crate) fn mount(volume: Arc<Volume>, snapshot: Option<&str>) -> Arc<Filesystem> {
    let options = FsOptions {
        only_snapshot: snapshot.map(str::to_owned),
        atime: Atime::Noatime,
        snapdir: SnapDir::Hidden,
        ..FsOptions::default()
    };
    Arc::new(Filesystem::new(volume, options).expect("a volume that is there can be mounted"))
}

impl Tree {
    /// Reads a whole file system.
    pub(crate) fn of(fs: &Filesystem) -> Tree {
        let mut tree = Tree::default();
        let root = fs.getattr(NodeId::ROOT).expect("the root has attributes");
        tree.add(fs, String::from("/"), NodeId::ROOT, root);
        tree
    }

    fn add(&mut self, fs: &Filesystem, path: String, node: NodeId, attr: Attr) {
        let kind = attr.kind();
        if kind == FileKind::Regular {
            self.content.insert(attr.ino, Arc::new(read(fs, node, attr.size)));
        }
        if kind == FileKind::Directory {
            for (name, ino) in list(fs, node) {
                let entry = fs.lookup(&Caller::root(), node, name.as_bytes());
                let entry = entry.expect("a name that is listed can be looked up");
                assert_eq!(entry.node.0, ino, "{path}{name}");
                let slash = if entry.attr.kind() == FileKind::Directory { "/" } else { "" };
                self.add(fs, format!("{path}{name}{slash}"), entry.node, entry.attr);
                fs.forget(entry.node, 1);
            }
        }
        let target = match kind {
            FileKind::Symlink => fs.readlink(node).expect("a symlink has a target"),
            _ => Vec::new(),
        };
        let names = fs.listxattr(&Caller::root(), node).expect("attributes are listed");
        let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
        let xattrs =
            names.map(|name| (name.to_vec(), fs.getxattr(node, name).expect("it is listed")));
        let meta = Meta {
            ino: attr.ino,
            kind,
            mode: attr.mode,
            nlink: attr.nlink,
            uid: attr.uid,
            size: attr.size,
            times: [attr.mtime, attr.ctime, attr.btime],
            target,
            xattrs: xattrs.collect(),
        };
        self.files.insert(path, meta);
    }
}

fn list(fs: &Filesystem, node: NodeId) -> Vec<(String, u64)> {
    let mut names = Vec::new();
    fs.readdir(&Caller::root(), node, 0, false, &mut |entry| {
        let name = String::from_utf8(entry.name.to_vec()).expect("names here are text");
        if name != "." && name != ".." {
            names.push((name, entry.node.0));
        }
        true
    })
    .expect("a directory can be listed");
    names
}

fn read(fs: &Filesystem, node: NodeId, size: u64) -> Vec<u8> {
    let handle = fs.open(node, libc::O_RDONLY).expect("a file can be opened");
    let mut bytes = vec![0; size as usize];
    let mut at = 0;
    while at < bytes.len() {
        let read = fs.read(node, handle, at as u64, &mut bytes[at..]);
        match read.expect("what is there can be read") {
            0 => panic!("a file of {size} bytes ends at {at}"),
            count => at += count,
        }
    }
    fs.release(node, handle);
    bytes
}
