//! The file system on a pool in memory.

mod attributes;
mod content;
mod copies;
mod damage;
mod directories;
mod inherit;
mod lifetime;
mod links;
mod renames;
mod snapshots;
mod threads;
mod xattrs;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use super::records::Records;
use super::transaction::Transaction;
use super::*;
use crate::device::Storage;
use crate::format::RequestId;
use crate::pool::{Clock, CreateOptions, OpenOptions, Pool};

/// A clock that ticks a microsecond with every look at it.
pub(super) struct TestClock(AtomicI64);

impl TestClock {
    pub(super) fn advance(&self, seconds: i64) {
        self.0.fetch_add(seconds * 1_000_000_000, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        let ns = self.0.fetch_add(1000, Ordering::SeqCst);
        let (sec, nsec) = (ns.div_euclid(1_000_000_000), ns.rem_euclid(1_000_000_000));
        Timestamp { sec, nsec: nsec as u32 }
    }
}

static NONCE: AtomicU64 = AtomicU64::new(1);

/// A mounted volume, without a mount.
pub(super) struct World {
    pub(super) storage: Storage,
    pub(super) clock: Arc<TestClock>,
    pub(super) pool: Arc<Pool>,
    pub(super) fs: Filesystem,
    pub(super) root: Caller,
}

pub(super) const ROOT: NodeId = NodeId::ROOT;

impl World {
    pub(super) fn new() -> World {
        World::sized(256 << 20, FsOptions::default())
    }

    pub(super) fn sized(size_bytes: u64, options: FsOptions) -> World {
        let storage = Storage::memory();
        let clock = Arc::new(TestClock(AtomicI64::new(1_795_169_100_000_000_000)));
        let create = CreateOptions {
            size_bytes: Some(size_bytes),
            journal_bytes: 8 << 20,
            uuid: [1; 16],
            seed: [2; 32],
        };
        let pool = Pool::create(storage.clone(), &create, open_options(&clock)).unwrap();
        let root = Filesystem::format_root(clock.now(), 0, 0, 0o755);
        let volume = pool.create_volume("main", &root).unwrap();
        let fs = Filesystem::new(volume, options).unwrap();
        World { storage, clock, pool, fs, root: Caller::root() }
    }

    /// The same pool after a clean end and a new mount.
    pub(super) fn remount(self) -> World {
        self.fs.forget_all();
        self.pool.close().unwrap();
        self.reopen()
    }

    /// The same pool after the process has died.
    pub(super) fn crash(self) -> World {
        self.reopen()
    }

    fn reopen(self) -> World {
        let World { storage, clock, pool, fs, root } = self;
        let options = fs.options().clone();
        pool.abandon();
        let pool = Pool::open(storage.clone(), open_options(&clock)).unwrap();
        let fs = Filesystem::new(pool.volume("main").unwrap(), options).unwrap();
        World { storage, clock, pool, fs, root }
    }

    /// Finds a path from the root, `/` between names.
    pub(super) fn find(&self, path: &str) -> Result<Entry, Error> {
        let mut entry = self.fs.lookup(&self.root, ROOT, b".")?;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let next = self.fs.lookup(&self.root, entry.node, name.as_bytes());
            self.fs.forget(entry.node, 1);
            entry = next?;
        }
        Ok(entry)
    }

    pub(super) fn at(&self, path: &str) -> Entry {
        self.find(path).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn split<'a>(&self, path: &'a str) -> (NodeId, &'a [u8]) {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        (self.at(dir).node, name.as_bytes())
    }

    pub(super) fn mkdir(&self, path: &str) -> Result<Entry, Error> {
        let (dir, name) = self.split(path);
        self.fs.mkdir(&self.root, dir, name, 0o755)
    }

    /// Makes a file with that content, or changes it to that.
    pub(super) fn put(&self, path: &str, content: &[u8]) -> Entry {
        let (dir, name) = self.split(path);
        let flags = libc::O_RDWR | libc::O_TRUNC;
        let (entry, handle) = self.fs.create(&self.root, dir, name, 0o644, flags).unwrap();
        self.write(entry.node, 0, content);
        self.fs.release(entry.node, handle);
        entry
    }

    pub(super) fn write(&self, node: NodeId, offset: u64, content: &[u8]) {
        let handle = Handle::from_flags(libc::O_RDWR);
        for (n, part) in content.chunks(1 << 20).enumerate() {
            let at = offset + (n << 20) as u64;
            let done = self.fs.write(node, handle, at, part, WriteFlags::default());
            assert_eq!(done, Ok(part.len()));
        }
    }

    pub(super) fn content(&self, node: NodeId) -> Vec<u8> {
        let size = self.fs.getattr(node).unwrap().size as usize;
        let mut content = vec![0xee; size + 10];
        let len = self.fs.read(node, Handle(0), 0, &mut content).unwrap();
        assert_eq!(len, size);
        content.truncate(len);
        content
    }

    pub(super) fn read(&self, path: &str) -> Vec<u8> {
        self.content(self.at(path).node)
    }

    pub(super) fn unlink(&self, path: &str) -> Result<(), Error> {
        let (dir, name) = self.split(path);
        self.fs.unlink(&self.root, dir, name)
    }

    pub(super) fn rmdir(&self, path: &str) -> Result<(), Error> {
        let (dir, name) = self.split(path);
        self.fs.rmdir(&self.root, dir, name)
    }

    pub(super) fn rename(&self, from: &str, to: &str, flags: u32) -> Result<(), Error> {
        let ((dir, name), (to_dir, to_name)) = (self.split(from), self.split(to));
        self.fs.rename(&self.root, dir, name, to_dir, to_name, flags)
    }

    pub(super) fn set(&self, node: NodeId, set: SetAttr) -> Result<Attr, Error> {
        self.fs.setattr(&self.root, node, &set)
    }

    pub(super) fn resize(&self, node: NodeId, size: u64) {
        let attr = self.set(node, SetAttr { size: Some(size), ..SetAttr::default() }).unwrap();
        assert_eq!(attr.size, size);
    }

    /// Names in a directory, without "." and "..", sorted.
    pub(super) fn names(&self, path: &str) -> Vec<String> {
        let mut names = Vec::new();
        let node = self.at(path).node;
        self.fs
            .readdir(&self.root, node, 0, false, &mut |entry| {
                names.push(String::from_utf8_lossy(entry.name).into_owned());
                true
            })
            .unwrap();
        assert_eq!(&names[..2], [".", ".."]);
        names.drain(..2);
        names.sort();
        names
    }
}

fn open_options(clock: &Arc<TestClock>) -> OpenOptions {
    let mut options = OpenOptions::new(Arc::clone(clock) as Arc<dyn Clock>);
    options.background = false;
    options.nonce = NONCE.fetch_add(1, Ordering::Relaxed);
    options
}

/// Bytes that look different everywhere.
pub(super) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
