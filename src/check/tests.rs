//! Checks of sound pools, and of pools in which one thing has been made wrong.

mod planted;
mod surgery;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use super::*;
use crate::format::{BLOCK_SIZE, Edit, InodeNo, Key, KeyKind};
use crate::fs::{Caller, Filesystem, FsOptions, NodeId, WriteFlags};
use crate::pool::{CreateOptions, Intent, Volume};

/// A clock that ticks with every look at it.
struct Ticks(AtomicI64);

impl Clock for Ticks {
    fn now(&self) -> Timestamp {
        Timestamp { sec: self.0.fetch_add(1, Ordering::Relaxed), nsec: 0 }
    }
}

static NONCE: AtomicU64 = AtomicU64::new(1);

fn open_options() -> OpenOptions {
    let mut options = OpenOptions::new(Arc::new(Ticks(AtomicI64::new(1_000))));
    options.background = false;
    options.nonce = NONCE.fetch_add(1, Ordering::Relaxed);
    options
}

/// A pool in memory.
pub(super) struct World {
    pub(super) storage: Storage,
    pub(super) pool: Arc<Pool>,
}

/// A file system on one of its volumes.
pub(super) struct Mounted {
    pub(super) volume: Arc<Volume>,
    pub(super) fs: Filesystem,
}

impl World {
    pub(super) fn new() -> World {
        let storage = Storage::memory();
        let create = CreateOptions {
            size_bytes: Some(256 << 20),
            journal_bytes: 4 << 20,
            uuid: [1; 16],
            seed: [2; 32],
        };
        let pool = Pool::create(storage.clone(), &create, open_options()).unwrap();
        World { storage, pool }
    }

    pub(super) fn volume(&self, name: &str) -> Mounted {
        let root = Filesystem::format_root(Timestamp::default(), 0, 0, 0o755);
        let volume = self.pool.create_volume(name, &root).unwrap();
        Mounted::new(volume)
    }

    fn reclaim_all(&self) {
        self.pool.checkpoint().unwrap();
        while self.pool.run_reclaim().unwrap() {}
        self.pool.checkpoint().unwrap();
    }

    pub(super) fn report(&self) -> Report {
        report_of(&self.storage)
    }

    fn assert_clean(&self) -> Counts {
        let report = self.report();
        assert!(report.is_clean(), "{:#?}", report.problems);
        report.counts
    }
}

pub(super) fn report_of(storage: &Storage) -> Report {
    let options = Options { data: true, files: true };
    check(storage, &options, &mut |_| {}).unwrap()
}

impl Mounted {
    pub(super) fn new(volume: Arc<Volume>) -> Mounted {
        let fs = Filesystem::new(Arc::clone(&volume), FsOptions::default()).unwrap();
        Mounted { volume, fs }
    }

    fn lookup(&self, dir: NodeId, name: &str) -> Option<NodeId> {
        self.fs.lookup(&Caller::root(), dir, name.as_bytes()).ok().map(|entry| entry.node)
    }

    pub(super) fn dir(&self, parent: NodeId, name: &str) -> NodeId {
        self.fs.mkdir(&Caller::root(), parent, name.as_bytes(), 0o755).unwrap().node
    }

    pub(super) fn write(&self, dir: NodeId, name: &str, offset: u64, bytes: &[u8]) -> NodeId {
        let root = Caller::root();
        let node = self.lookup(dir, name).unwrap_or_else(|| {
            self.fs.create(&root, dir, name.as_bytes(), 0o644, libc::O_RDWR).unwrap().0.node
        });
        let handle = self.fs.open(node, libc::O_RDWR).unwrap();
        self.fs.write(node, handle, offset, bytes, WriteFlags::default()).unwrap();
        node
    }

    pub(super) fn read(&self, node: NodeId, len: usize) -> Vec<u8> {
        let handle = self.fs.open(node, libc::O_RDONLY).unwrap();
        let mut bytes = vec![0; len];
        let read = self.fs.read(node, handle, 0, &mut bytes).unwrap();
        bytes.truncate(read);
        bytes
    }

    pub(super) fn snapshot(&self, name: &str) {
        self.volume.pool().create_snapshot(self.volume.id(), name).unwrap();
    }
}

pub(super) const ROOT: NodeId = NodeId::ROOT;

pub(super) fn blocks(byte: u8, count: usize) -> Vec<u8> {
    (0..count * BLOCK_SIZE).map(|at| byte ^ (at / BLOCK_SIZE) as u8).collect()
}

#[test]
fn a_new_pool_is_sound() {
    let world = World::new();
    assert_eq!(world.assert_clean().superblock_slots, 2);
    world.volume("main");
    let counts = world.assert_clean();
    assert_eq!((counts.volumes, counts.members, counts.inodes), (1, 1, 1));
}

#[test]
fn no_pool_is_an_error() {
    let storage = Storage::memory();
    storage.superblock.grow(128 * 1024).unwrap();
    assert!(check(&storage, &Options::default(), &mut |_| {}).is_err());
}

#[test]
fn what_is_only_in_the_journal_is_verified_and_nothing_is_changed() {
    let world = World::new();
    let main = world.volume("main");
    main.write(ROOT, "file", 0, &blocks(7, 9));
    world.pool.sync().unwrap();
    let before: Vec<u8> = bytes_of(&*world.storage.superblock);
    let journal = bytes_of(&*world.storage.journal);
    let counts = world.assert_clean();
    assert_eq!(counts.inodes, 2);
    assert_eq!((counts.data_blocks, counts.verified_blocks), (9, 9));
    assert!(before == bytes_of(&*world.storage.superblock));
    assert!(journal == bytes_of(&*world.storage.journal));
}

fn bytes_of(device: &dyn BlockDevice) -> Vec<u8> {
    let mut bytes = vec![0; device.len_bytes().unwrap() as usize];
    device.read_at(0, &mut bytes).unwrap();
    bytes
}

/// Numbers that are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) % limit
    }
}

/// Does something to a volume.
fn change(random: &mut Random, mounted: &Mounted) {
    let fs = &mounted.fs;
    let root = Caller::root();
    let names: Vec<String> = (0..12).map(|n| format!("n{n}")).collect();
    let dirs: Vec<NodeId> = names
        .iter()
        .filter_map(|name| mounted.lookup(ROOT, name))
        .filter(|n| is_dir(fs, *n))
        .collect();
    let dir = match dirs.len() {
        0 => ROOT,
        count => *[ROOT, dirs[random.below(count as u64) as usize]]
            .get(random.below(2) as usize)
            .unwrap(),
    };
    let name = &names[random.below(12) as usize];
    let other = &names[random.below(12) as usize];
    let offset = random.below(20) * 2048;
    // Whatever is not possible just now is an error, and changes nothing.
    match random.below(14) {
        0 => drop(fs.mkdir(&root, ROOT, name.as_bytes(), 0o755)),
        1 => drop(fs.unlink(&root, dir, name.as_bytes())),
        2 => drop(fs.rmdir(&root, ROOT, name.as_bytes())),
        3 => drop(fs.rename(&root, dir, name.as_bytes(), ROOT, other.as_bytes(), 0)),
        4 => drop(fs.rename(&root, ROOT, name.as_bytes(), dir, other.as_bytes(), 2)),
        5 => drop(fs.symlink(&root, dir, name.as_bytes(), b"somewhere/else")),
        6 => {
            if let Some(node) = mounted.lookup(dir, name) {
                drop(fs.link(node, ROOT, other.as_bytes()));
            }
        }
        7 => {
            if let Some(node) = mounted.lookup(dir, name) {
                let len = 10 + random.below(4) as usize * 1500;
                drop(fs.setxattr(&root, node, other.as_bytes(), &vec![1; len], 0, false));
                let user = format!("user.{other}");
                drop(fs.setxattr(&root, node, user.as_bytes(), &vec![1; len], 0, false));
                drop(fs.removexattr(&root, node, format!("user.{name}").as_bytes()));
            }
        }
        8 => {
            if let Some(node) = mounted.lookup(dir, name) {
                drop(fs.fallocate(
                    node,
                    offset,
                    9000,
                    [0u32, 1, 3, 0x10][random.below(4) as usize],
                ));
            }
        }
        9 => {
            if let (Some(from), Some(to)) = (mounted.lookup(dir, name), mounted.lookup(dir, other))
            {
                drop(fs.copy_file_range(from, offset & !4095, to, offset & !4095, 16384));
            }
        }
        10 => {
            if let Some(node) = mounted.lookup(dir, name) {
                let set = crate::fs::SetAttr { size: Some(offset), ..Default::default() };
                drop(fs.setattr(&root, node, &set));
            }
        }
        _ => {
            if mounted.lookup(dir, name).is_none_or(|node| is_file(fs, node)) {
                let len = 1 + random.below(30_000) as usize;
                let byte = random.below(256) as u8;
                mounted.write(dir, name, offset, &vec![byte; len]);
            }
        }
    }
}

fn is_dir(fs: &Filesystem, node: NodeId) -> bool {
    fs.getattr(node).is_ok_and(|attr| attr.kind() == crate::fs::FileKind::Directory)
}

fn is_file(fs: &Filesystem, node: NodeId) -> bool {
    fs.getattr(node).is_ok_and(|attr| attr.kind() == crate::fs::FileKind::Regular)
}

/// Does something to the lineage.
fn change_lineage(random: &mut Random, world: &World, mounts: &mut Vec<Mounted>, step: u64) {
    let pool = &world.pool;
    let at = random.below(mounts.len() as u64) as usize;
    let volume = mounts[at].volume.id();
    let snapshots = pool.snapshots(volume);
    let chosen = (!snapshots.is_empty())
        .then(|| snapshots[random.below(snapshots.len() as u64) as usize].clone());
    match (random.below(9), chosen) {
        (0 | 1, _) => mounts[at].snapshot(&format!("s{step}")),
        (2, _) => {
            let all: Vec<_> = mounts.iter().map(|mounted| mounted.volume.id()).collect();
            pool.create_group(&all, &format!("g{step}")).unwrap();
        }
        (3 | 4, Some(snapshot)) => pool.delete_snapshot(volume, &snapshot.name).unwrap(),
        (5, Some(snapshot)) if mounts.len() < 4 => {
            let clone = pool.clone_volume(snapshot.member, &format!("c{step}")).unwrap();
            mounts.push(Mounted::new(clone));
        }
        (6, Some(snapshot)) => {
            pool.restore(volume, &snapshot.name, &format!("k{step}")).unwrap();
            let volume = Arc::clone(&mounts[at].volume);
            mounts[at] = Mounted::new(volume);
        }
        (7, _) if mounts.len() > 1 => {
            let name = mounts.remove(at).volume.name();
            pool.delete_volume(&name).unwrap();
        }
        (8, _) => drop(pool.run_reclaim().unwrap()),
        _ => pool.checkpoint().unwrap(),
    }
}

fn random_pool(seed: u64, steps: u64) {
    let world = World::new();
    let mut random = Random(seed);
    let mut mounts = vec![world.volume("main"), world.volume("other")];
    for step in 0..steps {
        for _ in 0..random.below(12) {
            let at = random.below(mounts.len() as u64) as usize;
            change(&mut random, &mounts[at]);
        }
        change_lineage(&mut random, &world, &mut mounts, step);
        if step % 8 == 7 {
            let report = world.report();
            assert!(report.is_clean(), "seed {seed}, step {step}: {:#?}", report.problems);
        }
    }
    world.reclaim_all();
    let counts = world.assert_clean();
    assert_eq!(world.pool.status().used_bytes, counts.used_blocks * BLOCK_SIZE as u64);
}

#[test]
fn pools_after_random_work_are_sound() {
    (100..140).for_each(|seed| random_pool(seed, 60));
}

/// Deleting a group's snapshot of one volume must not move the other's dead references to a bucket that a
/// later deletion frees.
#[test]
fn regression_epochs_that_two_volumes_share_are_forgotten_by_one() {
    let world = World::new();
    let (a, b) = (world.volume("a"), world.volume("b"));
    b.snapshot("first");
    let node = b.write(ROOT, "file", 0, &blocks(1, 4));
    let both = [a.volume.id(), b.volume.id()];
    world.pool.create_group(&both, "group").unwrap();
    b.snapshot("last");
    world.pool.delete_snapshot(a.volume.id(), "group").unwrap();
    b.write(ROOT, "file", 0, &blocks(2, 4));
    world.assert_clean();
    world.pool.delete_snapshot(b.volume.id(), "last").unwrap();
    world.reclaim_all();
    world.assert_clean();
    let view = b.lookup(ROOT, ".snapshots").and_then(|dir| b.lookup(dir, "group"));
    let old = view.and_then(|dir| b.lookup(dir, "file")).unwrap();
    assert!(b.read(old, 4 * BLOCK_SIZE) == blocks(1, 4));
    assert!(b.read(node, 4 * BLOCK_SIZE) == blocks(2, 4));
}

/// A deleted snapshot goes with the deletion of the second last volume that grew from it: the last one's
/// dead references, gathered and later ones, must find that out.
#[test]
fn regression_a_snapshot_goes_with_a_volume() {
    for late in [false, true] {
        let world = World::new();
        let main = world.volume("main");
        main.write(ROOT, "file", 0, &blocks(1, 9));
        main.snapshot("origin");
        let origin = world.pool.snapshot(main.volume.id(), "origin").unwrap();
        let clone = Mounted::new(world.pool.clone_volume(origin.member, "clone").unwrap());
        world.pool.delete_snapshot(main.volume.id(), "origin").unwrap();
        if !late {
            clone.write(ROOT, "file", 0, &blocks(2, 9));
        }
        world.pool.delete_volume("main").unwrap();
        if late {
            clone.write(ROOT, "file", 0, &blocks(2, 9));
        }
        world.assert_clean();
        world.reclaim_all();
        world.assert_clean();
    }
}

#[test]
fn many_snapshots_are_compared_by_what_differs() {
    let world = World::new();
    let main = world.volume("main");
    for n in 0..300 {
        main.write(ROOT, &format!("file {n}"), 0, &[n as u8; 100]);
    }
    for n in 0..400 {
        main.write(ROOT, "file 7", 0, &[n as u8; 100]);
        main.snapshot(&format!("s{n}"));
    }
    let counts = world.assert_clean();
    assert_eq!((counts.snapshots, counts.members), (400, 401));
    // A leaf, the way to it, and the root's inode; and the catalog.
    assert!(counts.nodes < 400 * 5 + 500, "{} nodes", counts.nodes);
}

/// A volume need not hold a filesystem.
#[test]
fn any_keys_are_sound_where_no_files_are_expected() {
    let world = World::new();
    let volume = world.pool.create_volume("raw", &[]).unwrap();
    let update = volume.update(Intent::Grow).unwrap();
    let key = Key::inode(InodeNo(9), KeyKind::Xattr, 0);
    update.commit(vec![Edit::Put { key, value: vec![1; 9] }]).unwrap();
    let raw = Options { data: true, files: false };
    assert!(check(&world.storage, &raw, &mut |_| {}).unwrap().is_clean());
    assert!(world.report().has("F0"));
}
