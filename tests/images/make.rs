//! Makes the pool of an image: some of every kind of record, in the trees and in the journal.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use amberfs::device::Storage;
use amberfs::format::Timestamp;
use amberfs::fs::{Caller, Filesystem, FsOptions, Handle, NodeId, WriteFlags};
use amberfs::pool::{Clock, CreateOptions, OpenOptions, Pool};

/// A clock that goes on by a second and some whenever it is read.
#[derive(Default)]
pub(crate) struct Ticks(AtomicI64);

impl Clock for Ticks {
    fn now(&self) -> Timestamp {
        let tick = self.0.fetch_add(1, Ordering::Relaxed);
        Timestamp { sec: 1_700_000_000 + tick, nsec: (tick * 1_001) as u32 }
    }
}

pub(crate) fn open_options(nonce: u64) -> OpenOptions {
    OpenOptions { background: false, nonce, ..OpenOptions::new(Arc::new(Ticks::default())) }
}

/// Bytes that say where they stand, so that a mix-up shows.
fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| if i % 512 < 6 { (i / 512) as u8 ^ seed } else { 0 }).collect()
}

struct Maker {
    fs: Filesystem,
    caller: Caller,
}

impl Maker {
    fn new(pool: &Arc<Pool>, volume: &str) -> Maker {
        let fs = Filesystem::new(pool.volume(volume).unwrap(), FsOptions::default()).unwrap();
        Maker { fs, caller: Caller { uid: 1000, gid: 100, ..Caller::root() } }
    }

    fn file(&self, dir: NodeId, name: &[u8], content: &[u8]) -> (NodeId, Handle) {
        let made = self.fs.create(&self.caller, dir, name, 0o640, libc::O_RDWR).unwrap();
        self.write(made.0.node, made.1, 0, content);
        (made.0.node, made.1)
    }

    fn write(&self, node: NodeId, handle: Handle, at: u64, content: &[u8]) {
        self.fs.write(node, handle, at, content, WriteFlags::default()).unwrap();
    }

    fn set_xattr(&self, node: NodeId, name: &[u8], value: &[u8]) {
        self.fs.setxattr(&self.caller, node, name, value, 0, false).unwrap();
    }
}

/// Makes a pool, and stops with a journal that is still to be replayed. Returns it open.
pub(crate) fn make(storage: &Storage) -> Arc<Pool> {
    let create = CreateOptions {
        size_bytes: Some(64 << 20),
        journal_bytes: 256 << 10,
        uuid: *b"golden image, v1",
        seed: [0x5e; 32],
    };
    let pool = Pool::create(storage.clone(), &create, open_options(1)).unwrap();
    let clock = Ticks::default();
    for (name, mode) in [("main", 0o755), ("other", 0o1777)] {
        let root = Filesystem::format_root(clock.now(), 1000, 100, mode);
        pool.create_volume(name, &root).unwrap();
    }
    let label = ("app".to_owned(), Some("db".to_owned()));
    pool.set_volume("other", Some(Some(16 << 20)), &[label]).unwrap();
    checkpointed(&pool);
    pool.checkpoint().unwrap();
    journaled(&pool);
    pool
}

/// What the last checkpoint of the image holds.
fn checkpointed(pool: &Arc<Pool>) {
    let main = Maker::new(pool, "main");
    let dir = main.fs.mkdir(&main.caller, NodeId::ROOT, b"dir", 0o750).unwrap().node;
    main.file(dir, b"small", b"kept in the leaf\n");
    let (large, large_handle) = main.file(dir, b"large", &pattern(40_000, 1));
    main.write(large, large_handle, 400_000, b"behind a hole");
    main.fs.link(large, NodeId::ROOT, b"second name of large").unwrap();
    main.fs.symlink(&main.caller, NodeId::ROOT, b"link", b"dir/small").unwrap();
    main.fs.mknod(&main.caller, dir, b"pipe", libc::S_IFIFO | 0o600, 0).unwrap();
    main.fs.mknod(&main.caller, dir, b"null", libc::S_IFCHR | 0o666, 0x103).unwrap();
    main.set_xattr(large, b"user.short", b"value");
    main.set_xattr(large, b"user.long", &pattern(9_000, 2));
    let (aside, _) = main.file(NodeId::ROOT, b"set aside", b"");
    main.fs.fallocate(aside, 0, 100_000, 0).unwrap();
    for number in 0..40 {
        main.file(dir, format!("file {number}").as_bytes(), b"one of many\n");
    }
    main.fs.create_snapshot("monday").unwrap();
    main.write(large, large_handle, 4096, &pattern(8192, 3));
    main.fs.unlink(&main.caller, dir, b"small").unwrap();
    let (copy, _) = main.file(NodeId::ROOT, b"copy", b"");
    assert_eq!(main.fs.copy_file_range(large, 0, copy, 0, 32768).unwrap(), 32768);
    main.fs.create_snapshot("gone with a clone").unwrap();
    main.write(large, large_handle, 16384, &pattern(4096, 4));
    main.fs.create_snapshot("tuesday").unwrap();
    let volume = pool.volume("main").unwrap().id();
    for (origin, name) in [("monday", "clone"), ("gone with a clone", "clone of what is gone")] {
        pool.clone_volume(pool.snapshot(volume, origin).unwrap().member, name).unwrap();
    }
    pool.delete_snapshot(volume, "gone with a clone").unwrap();
    let clone = Maker::new(pool, "clone");
    clone.file(NodeId::ROOT, b"only in the clone", &pattern(5_000, 5));
    let other = Maker::new(pool, "other");
    other.file(NodeId::ROOT, b"file", &pattern(3_000, 6));
    other.fs.create_snapshot("of other").unwrap();
    // A deleted snapshot whose blocks reclaim has still to free, and a deleted volume.
    let (passing, handle) = other.file(NodeId::ROOT, b"passing", &pattern(9_000, 11));
    other.fs.create_snapshot("to be deleted").unwrap();
    other.write(passing, handle, 0, &pattern(9_000, 12));
    other.fs.create_snapshot("behind it").unwrap();
    pool.delete_snapshot(pool.volume("other").unwrap().id(), "to be deleted").unwrap();
    let root = Filesystem::format_root(Ticks::default().now(), 0, 0, 0o700);
    pool.create_volume("short-lived", &root).unwrap();
    pool.delete_volume("short-lived").unwrap();
    // Unlinked and still open: an orphan in the image.
    other.file(NodeId::ROOT, b"orphan", &pattern(5_000, 7));
    other.fs.unlink(&other.caller, NodeId::ROOT, b"orphan").unwrap();
}

/// What the journal of the image holds: records of every kind.
fn journaled(pool: &Arc<Pool>) {
    let main = Maker::new(pool, "main");
    let id = |name: &str| pool.volume(name).unwrap().id();
    let (synced, synced_handle) = main.file(NodeId::ROOT, b"synced", &pattern(6_000, 8));
    main.fs.fsync(synced, false).unwrap();
    main.write(synced, synced_handle, 0, &pattern(3_000, 9));
    let dir = main.fs.lookup(&main.caller, NodeId::ROOT, b"dir").unwrap().node;
    let (grown, grown_handle) = main.file(dir, b"leaves the leaf", b"at first in the leaf");
    main.write(grown, grown_handle, 2_000, &pattern(1_000, 10));
    main.fs.rename(&main.caller, dir, b"file 7", NodeId::ROOT, b"renamed", 0).unwrap();
    main.fs.unlink(&main.caller, dir, b"file 8").unwrap();
    pool.create_group(&[id("main"), id("other")], "group").unwrap();
    pool.rename_snapshot(id("other"), "group", "of the group").unwrap();
    pool.delete_snapshot(id("other"), "of other").unwrap();
    pool.create_snapshot(id("clone"), "before").unwrap();
    let clone = Maker::new(pool, "clone");
    clone.fs.unlink(&clone.caller, NodeId::ROOT, b"only in the clone").unwrap();
    pool.restore(id("clone"), "before", "kept").unwrap();
    let root = Filesystem::format_root(Ticks::default().now(), 0, 0, 0o700);
    pool.create_volume("made in the journal", &root).unwrap();
    pool.set_volume("made in the journal", None, &[("a".into(), Some("b".into()))]).unwrap();
    let member = pool.snapshot(id("main"), "group").unwrap().member;
    pool.clone_volume(member, "deleted").unwrap();
    pool.delete_volume("deleted").unwrap();
}
