//! A pool that has some of everything, and what it holds.

// Several tests use this, each a part of it.
#![allow(dead_code)]

#[path = "mounting.rs"]
mod mounting;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use amberfs::device::{Image, MemoryDevice, Storage};
use amberfs::fs::{Caller, Error, FileKind, Filesystem, NodeId, SetAttr, Timestamp, WriteFlags};
use amberfs::pool::{Clock, CreateOptions, OpenOptions, Pool};

use crate::random::Random;
pub(crate) use mounting::mount;

struct Ticks;

static TICK: AtomicI64 = AtomicI64::new(1_000_000);
static NONCE: AtomicU64 = AtomicU64::new(1);

impl Clock for Ticks {
    fn now(&self) -> Timestamp {
        Timestamp { sec: TICK.fetch_add(1, Ordering::Relaxed), nsec: 0 }
    }
}

pub(crate) fn open_options() -> OpenOptions {
    OpenOptions {
        cache_bytes: 4 << 20,
        commit_interval: Duration::MAX,
        background: false,
        nonce: NONCE.fetch_add(1, Ordering::Relaxed),
        ..OpenOptions::new(Arc::new(Ticks))
    }
}

/// What a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    pub ino: u64,
    /// Directories that lead to it, the root first.
    pub above: Vec<u64>,
    pub kind: FileKind,
    pub mode: u32,
    pub nlink: u32,
    pub size: u64,
    pub mtime: Timestamp,
    pub content: Vec<u8>,
    pub target: Vec<u8>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub names: Vec<Vec<u8>>,
}

/// A head or a snapshot: number of the member, volume, snapshot, files by path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    pub member: u64,
    pub volume: String,
    pub snapshot: Option<String>,
    pub files: BTreeMap<String, File>,
}

/// All states of a pool.
pub(crate) type Model = Vec<State>;

/// Reads a pool in which everything can be read.
pub(crate) fn model_of(pool: &Arc<Pool>) -> Model {
    let mut model = Model::new();
    for info in pool.volumes() {
        let Some(head) = info.head else { continue };
        let mut names = vec![(head.0, None)];
        names.extend(pool.snapshots(info.id).into_iter().map(|s| (s.member.0, Some(s.name))));
        for (member, snapshot) in names {
            let fs = mount(pool, &info.name, snapshot.as_deref()).expect("it mounts");
            let mut files = BTreeMap::new();
            gather(&fs, "/", NodeId::ROOT, &[], &mut files);
            model.push(State { member, volume: info.name.clone(), snapshot, files });
        }
    }
    model
}

fn gather(
    fs: &Filesystem,
    path: &str,
    node: NodeId,
    above: &[u64],
    files: &mut BTreeMap<String, File>,
) {
    let attr = fs.getattr(node).expect("attributes");
    let mut below = Vec::new();
    let mut names = Vec::new();
    if attr.kind() == FileKind::Directory {
        names = list(fs, node).expect("a list");
        let above = [above, &[attr.ino]].concat();
        for name in &names {
            let entry = fs.lookup(&Caller::root(), node, name).expect("an entry");
            below.push((name.clone(), entry.node, above.clone()));
        }
    }
    let content = match attr.kind() {
        FileKind::Regular => content(fs, node, attr.size).expect("content"),
        _ => Vec::new(),
    };
    let target = match attr.kind() {
        FileKind::Symlink => fs.readlink(node).expect("a target"),
        _ => Vec::new(),
    };
    let file = File {
        ino: attr.ino,
        above: above.to_vec(),
        kind: attr.kind(),
        mode: attr.mode,
        nlink: attr.nlink,
        size: attr.size,
        mtime: attr.mtime,
        content,
        target,
        xattrs: xattrs(fs, node).expect("attributes"),
        names,
    };
    files.insert(path.to_owned(), file);
    for (name, node, above) in below {
        let name = String::from_utf8(name).expect("text");
        let path = if path == "/" { format!("/{name}") } else { format!("{path}/{name}") };
        gather(fs, &path, node, &above, files);
        fs.forget(node, 1);
    }
}

pub(crate) fn list(fs: &Filesystem, node: NodeId) -> Result<Vec<Vec<u8>>, Error> {
    let mut names = Vec::new();
    fs.readdir(&Caller::root(), node, 0, true, &mut |entry| {
        if entry.name != b"." && entry.name != b".." {
            names.push(entry.name.to_vec());
            fs.forget(entry.node, 1);
        }
        true
    })?;
    Ok(names)
}

pub(crate) fn content(fs: &Filesystem, node: NodeId, size: u64) -> Result<Vec<u8>, Error> {
    let handle = fs.open(node, libc::O_RDONLY)?;
    let mut bytes = vec![0; size as usize];
    let read = fs.read(node, handle, 0, &mut bytes);
    fs.release(node, handle);
    bytes.truncate(read?);
    Ok(bytes)
}

pub(crate) fn xattrs(fs: &Filesystem, node: NodeId) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Error> {
    let names = fs.listxattr(&Caller::root(), node)?;
    let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names.map(|name| Ok((name.to_vec(), fs.getxattr(node, name)?))).collect()
}

/// A pool in memory that is being worked on.
pub(crate) struct Patient {
    devices: [Arc<MemoryDevice>; 3],
    pub pool: Arc<Pool>,
    random: Random,
}

const ROOT: NodeId = NodeId::ROOT;

impl Patient {
    pub(crate) fn new(size_bytes: u64, journal_bytes: u64) -> Patient {
        let devices: [Arc<MemoryDevice>; 3] = Default::default();
        let storage = storage_of(&devices);
        let create = CreateOptions {
            size_bytes: Some(size_bytes),
            journal_bytes,
            uuid: [1; 16],
            seed: [2; 32],
        };
        let pool = Pool::create(storage, &create, open_options()).expect("a pool is made");
        Patient { devices, pool, random: Random::new(7) }
    }

    pub(crate) fn image(&self) -> Image {
        let [superblock, journal, data] = &self.devices;
        Image {
            superblock: superblock.contents(),
            journal: journal.contents(),
            data: data.contents(),
        }
    }

    /// Closes the pool and opens it again: its journal is empty then.
    pub(crate) fn reopen(&mut self) {
        self.pool.close().expect("it closes");
        self.pool = Pool::open(storage_of(&self.devices), open_options()).expect("it opens");
    }

    pub(crate) fn volume(&self, name: &str) -> Filesystem {
        let root = Filesystem::format_root(Timestamp::default(), 0, 0, 0o755);
        self.pool.create_volume(name, &root).expect("a volume is made");
        self.mount(name)
    }

    pub(crate) fn mount(&self, name: &str) -> Filesystem {
        mount(&self.pool, name, None).expect("it mounts")
    }

    pub(crate) fn snapshot(&self, fs: &Filesystem, name: &str) {
        self.pool.create_snapshot(fs.volume().id(), name).expect("a snapshot is made");
    }

    /// Bytes that occur nowhere else.
    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        self.random.bytes(len)
    }
}

fn storage_of(devices: &[Arc<MemoryDevice>; 3]) -> Storage {
    let [superblock, journal, data] = devices.clone();
    Storage { superblock, journal, data }
}

pub(crate) fn write(fs: &Filesystem, dir: NodeId, name: &str, offset: u64, bytes: &[u8]) -> NodeId {
    let root = Caller::root();
    let node = match fs.lookup(&root, dir, name.as_bytes()) {
        Ok(entry) => entry.node,
        Err(_) => fs.create(&root, dir, name.as_bytes(), 0o644, libc::O_RDWR).expect("made").0.node,
    };
    let handle = fs.open(node, libc::O_RDWR).expect("opened");
    fs.write(node, handle, offset, bytes, WriteFlags::default()).expect("written");
    fs.release(node, handle);
    node
}

/// A small pool: two volumes, a clone, snapshots with and without names, all kinds of files.
pub(crate) fn small() -> Patient {
    let mut patient = Patient::new(8 << 20, 64 << 10);
    let main = patient.volume("main");
    let other = patient.volume("other");
    let root = Caller::root();
    let dir = main.mkdir(&root, ROOT, b"dir", 0o755).expect("made").node;
    let deep = main.mkdir(&root, dir, b"deep", 0o700).expect("made").node;
    for n in 0..24 {
        let bytes = patient.bytes(700 + 40 * n);
        write(&main, dir, &format!("file-{n}"), 0, &bytes);
    }
    let bytes = patient.bytes(9 * 4096 + 123);
    let big = write(&main, ROOT, "big", 0, &bytes);
    let bytes = patient.bytes(3 * 4096);
    write(&main, deep, "sparse", 40 * 4096, &bytes);
    main.fallocate(big, 1 << 20, 8192, 1).expect("preallocated");
    write(&main, ROOT, "small", 0, b"some text");
    main.symlink(&root, ROOT, b"link", b"small").expect("made");
    main.link(big, dir, b"hard").expect("linked");
    main.setxattr(&root, big, b"user.note", b"value", 0, false).expect("set");
    let bytes = patient.bytes(9000);
    main.setxattr(&root, big, b"user.long", &bytes, 0, false).expect("set");
    let bytes = patient.bytes(5 * 4096);
    write(&other, ROOT, "file", 0, &bytes);
    for name in ["one", "two", "gone", "three"] {
        patient.snapshot(&main, name);
        let bytes = patient.bytes(2 * 4096 + 5);
        write(&main, ROOT, "big", 4096 * name.len() as u64 / 2 * 2, &bytes);
        write(&main, dir, "file-7", 0, name.as_bytes());
        patient.pool.checkpoint().expect("a checkpoint");
    }
    patient.pool.delete_snapshot(main.volume().id(), "gone").expect("deleted");
    let one = patient.pool.snapshot(main.volume().id(), "one").expect("it is there");
    drop(patient.pool.clone_volume(one.member, "clone").expect("cloned"));
    let copy = write(&main, ROOT, "copy", 0, b"");
    main.copy_file_range(big, 0, copy, 0, 6 * 4096).expect("copied");
    drop((main, other));
    patient.reopen();
    patient
}

/// A further operation on a [`small`] pool, one after the other; false when there are no more.
pub(crate) fn go_on(patient: &mut Patient, step: usize) -> bool {
    let main = patient.mount("main");
    let root = Caller::root();
    let find = |name: &str| main.lookup(&root, ROOT, name.as_bytes()).expect("there").node;
    match step {
        0 => drop(main.mkdir(&root, ROOT, b"late", 0o755).expect("made")),
        1 => drop(main.create(&root, find("late"), b"synced", 0o644, libc::O_RDWR).expect("made")),
        10 => {
            let bytes = patient.bytes(2 * 4096);
            let node = write(&main, find("late"), "synced", 0, &bytes);
            main.fsync(node, false).expect("synced");
        }
        2 => {
            write(&main, ROOT, "small", 0, b"another text");
        }
        3 => main.rename(&root, ROOT, b"link", find("late"), b"moved", 0).expect("renamed"),
        4 => {
            let bytes = patient.bytes(4096);
            write(&main, ROOT, "big", 8192, &bytes);
        }
        5 => patient.snapshot(&main, "late"),
        6 => main.unlink(&root, ROOT, b"copy").expect("unlinked"),
        7 => {
            let set = SetAttr { size: Some(5000), ..SetAttr::default() };
            main.setattr(&root, find("big"), &set).expect("cut");
        }
        8 => main.setxattr(&root, find("small"), b"user.a", b"b", 0, false).expect("set"),
        9 => main.syncfs().expect("synced"),
        _ => return false,
    }
    true
}

/// A larger pool, as it was once and as it is now: blocks were overwritten, freed and given out again.
pub(crate) fn large(seed: u64) -> (Image, Image, Model) {
    let mut patient = Patient::new(64 << 20, 256 << 10);
    patient.random = Random::new(seed);
    drop(patient.volume("main"));
    let mut before = None;
    for round in 0..8 {
        let main = patient.mount("main");
        let root = Caller::root();
        for n in 0..40usize {
            let dir = format!("d{}", n % 5);
            let dir = match main.lookup(&root, ROOT, dir.as_bytes()) {
                Ok(entry) => entry.node,
                Err(_) => main.mkdir(&root, ROOT, dir.as_bytes(), 0o755).expect("made").node,
            };
            let len = 1 + patient.random.below(60_000);
            let bytes = patient.bytes(len);
            let at = patient.random.below(20_000) as u64;
            write(&main, dir, &format!("f{n}"), at, &bytes);
        }
        patient.snapshot(&main, &format!("s{round}"));
        if round > 2 {
            let old = format!("s{}", round - 2);
            patient.pool.delete_snapshot(main.volume().id(), &old).expect("deleted");
        }
        drop(main);
        patient.pool.checkpoint().expect("a checkpoint");
        while patient.pool.run_reclaim().expect("reclaimed") {}
        patient.reopen();
        if round == 4 {
            before = Some(patient.image());
        }
    }
    let model = model_of(&patient.pool);
    patient.pool.close().expect("it closes");
    (before.expect("it was taken"), patient.image(), model)
}
