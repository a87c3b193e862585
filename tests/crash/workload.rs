//! Operations on a recorded pool, and what was promised when.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use amberfs::device::{Image, Recorder, Storage};
use amberfs::fs::{Caller, Error, FileKind, Filesystem, NodeId, SetAttr, Timestamp, WriteFlags};
use amberfs::pool::{Clock, CreateOptions, OpenOptions, Pool};

use crate::state::{State, Tree, mount};

/// A clock that never says the same twice, so that each state differs from all others.
struct Ticks;

static TICK: AtomicI64 = AtomicI64::new(1_000_000);
static NONCE: AtomicU64 = AtomicU64::new(1);

impl Clock for Ticks {
    fn now(&self) -> Timestamp {
        Timestamp { sec: TICK.fetch_add(1, Ordering::Relaxed), nsec: 0 }
    }
}

/// Options for opening without a thread of its own.
pub(crate) fn open_options() -> OpenOptions {
    OpenOptions {
        cache_bytes: 4 << 20,
        commit_interval: Duration::MAX,
        background: false,
        nonce: NONCE.fetch_add(1, Ordering::Relaxed),
        ..OpenOptions::new(Arc::new(Ticks))
    }
}

/// Numbers that are the same from the same seed (SplitMix64).
#[derive(Debug, Clone)]
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

/// What can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Create,
    Mkdir,
    Symlink,
    Link,
    Unlink,
    Rmdir,
    Rename,
    Exchange,
    Chmod,
    SetXattr,
    RemoveXattr,
    WriteSmall,
    WriteBlocks,
    Overwrite,
    Append,
    Truncate,
    Extend,
    Fallocate,
    Punch,
    ZeroRange,
    CopyRange,
    Fsync,
    Syncfs,
    Snapshot,
    SnapshotUnsynced,
    DeleteSnapshot,
    RenameSnapshot,
    Clone,
    Restore,
    DeleteVolume,
    Checkpoint,
    Reclaim,
}

pub(crate) const OPS: [Op; 32] = [
    Op::Create,
    Op::Mkdir,
    Op::Symlink,
    Op::Link,
    Op::Unlink,
    Op::Rmdir,
    Op::Rename,
    Op::Exchange,
    Op::Chmod,
    Op::SetXattr,
    Op::RemoveXattr,
    Op::WriteSmall,
    Op::WriteBlocks,
    Op::Overwrite,
    Op::Append,
    Op::Truncate,
    Op::Extend,
    Op::Fallocate,
    Op::Punch,
    Op::ZeroRange,
    Op::CopyRange,
    Op::Fsync,
    Op::Syncfs,
    Op::Snapshot,
    Op::SnapshotUnsynced,
    Op::DeleteSnapshot,
    Op::RenameSnapshot,
    Op::Clone,
    Op::Restore,
    Op::DeleteVolume,
    Op::Checkpoint,
    Op::Reclaim,
];

impl Op {
    /// Whether it is several journal records: a crash can come between them, as it can between two
    /// operations.
    pub(crate) fn has_parts(self) -> bool {
        self == Op::ZeroRange
    }
}

/// What a step made durable, by its promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Durable {
    Nothing,
    /// All metadata, and the data of this inode of this volume.
    File(String, u64),
    Everything,
}

/// One operation that was acknowledged, and the pool after it.
pub(crate) struct Step {
    pub op: Op,
    /// Length of the log before it, and when it was acknowledged.
    pub begun: usize,
    pub done: usize,
    pub durable: Durable,
    pub state: Arc<State>,
}

/// A snapshot as it was made: by its volume's name and its number.
pub(crate) struct Frozen {
    pub tree: Tree,
    /// Step that made it.
    pub step: usize,
}

/// A pool that is worked on, and its history.
pub(crate) struct World {
    pub recorder: Arc<Recorder>,
    pool: Arc<Pool>,
    mounts: BTreeMap<String, Filesystem>,
    random: Random,
    pub steps: Vec<Step>,
    pub frozen: HashMap<(String, u32), Frozen>,
    names: u32,
}

/// A pool with one empty volume, on which a recording begins.
fn fresh() -> (Arc<Recorder>, Storage, Arc<Pool>) {
    let (recorder, storage) = Recorder::new(Image::default());
    let create = CreateOptions {
        size_bytes: Some(32 << 20),
        journal_bytes: 1 << 20,
        uuid: [1; 16],
        seed: [2; 32],
    };
    let pool = Pool::create(storage.clone(), &create, open_options()).expect("a pool is made");
    let root = Filesystem::format_root(Timestamp::default(), 0, 0, 0o755);
    pool.create_volume("main", &root).expect("a volume is made");
    pool.sync().expect("it is synced");
    (recorder, storage, pool)
}

const ROOT: NodeId = NodeId::ROOT;

impl World {
    /// Begins a history; its first step is the pool with an empty volume, which is durable.
    pub(crate) fn new(seed: u64) -> World {
        let (recorder, _, pool) = fresh();
        let volume = pool.volume("main").expect("it has just been made");
        let mounts = BTreeMap::from([("main".to_owned(), mount(volume, None))]);
        let state = Arc::new(State::of(&pool, &mounts));
        let (begun, done) = (recorder.len(), recorder.len());
        let first = Step { op: Op::Syncfs, begun, done, durable: Durable::Everything, state };
        World {
            recorder,
            pool,
            mounts,
            random: Random(seed),
            steps: vec![first],
            frozen: HashMap::new(),
            names: 0,
        }
    }

    /// Does one operation, or nothing if it is not possible now, and notes what came of it.
    pub(crate) fn step(&mut self, op: Op) {
        let begun = self.recorder.len();
        let durable = self.carry_out(op);
        let done = self.recorder.len();
        let state = Arc::new(State::of(&self.pool, &self.mounts));
        self.note_frozen(&state);
        self.steps.push(Step { op, begun, done, durable, state });
        assert_eq!(self.pool.status().read_only, None, "after {op:?}");
    }

    fn note_frozen(&mut self, state: &State) {
        for (name, volume) in &state.volumes {
            for (snapshot, number) in &volume.snapshots {
                let key = (name.clone(), *number);
                if !self.frozen.contains_key(&key) {
                    let volume = Arc::clone(self.mounts[name].volume());
                    let tree = Tree::of(&mount(volume, Some(snapshot)));
                    self.frozen.insert(key, Frozen { tree, step: self.steps.len() });
                }
            }
        }
    }

    fn new_name(&mut self, prefix: &str) -> String {
        self.names += 1;
        format!("{prefix}{}", self.names)
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[self.random.below(from.len() as u64) as usize].clone())
    }

    fn carry_out(&mut self, op: Op) -> Durable {
        let names: Vec<_> = self.mounts.keys().cloned().collect();
        let volume = self.pick(&names).expect("there is always a volume");
        match op {
            Op::Snapshot
            | Op::SnapshotUnsynced
            | Op::DeleteSnapshot
            | Op::RenameSnapshot
            | Op::Clone
            | Op::Restore
            | Op::DeleteVolume
            | Op::Checkpoint
            | Op::Reclaim => self.lineage(op, &volume),
            _ => self.file(op, &volume),
        }
    }

    fn lineage(&mut self, op: Op, volume: &str) -> Durable {
        let id = self.mounts[volume].volume().id();
        let snapshots: Vec<_> = self.pool.snapshots(id);
        let chosen = self.pick(&snapshots);
        let name = self.new_name("s");
        match (op, chosen) {
            (Op::Snapshot, _) => {
                self.mounts[volume].create_snapshot(&name).expect("a snapshot is made");
                return Durable::Everything;
            }
            (Op::SnapshotUnsynced, _) => drop(self.pool.create_snapshot(id, &name).unwrap()),
            (Op::DeleteSnapshot, Some(chosen)) => {
                self.pool.delete_snapshot(id, &chosen.name).unwrap();
            }
            (Op::RenameSnapshot, Some(chosen)) => {
                self.pool.rename_snapshot(id, &chosen.name, &name).unwrap();
            }
            (Op::Clone, Some(chosen)) if self.mounts.len() < 3 => {
                let clone = self.pool.clone_volume(chosen.member, &name).unwrap();
                self.mounts.insert(name, mount(clone, None));
            }
            (Op::Restore, Some(chosen)) => {
                self.pool.restore(id, &chosen.name, &name).unwrap();
                let again = Arc::clone(self.mounts[volume].volume());
                self.mounts.insert(volume.to_owned(), mount(again, None));
            }
            (Op::DeleteVolume, None) if volume != "main" => {
                self.mounts.remove(volume);
                self.pool.delete_volume(volume).unwrap();
            }
            (Op::Checkpoint, _) => {
                self.pool.checkpoint().unwrap();
                return Durable::Everything;
            }
            (Op::Reclaim, _) => drop(self.pool.run_reclaim().unwrap()),
            _ => {}
        }
        Durable::Nothing
    }

    fn file(&mut self, op: Op, volume: &str) -> Durable {
        let state = &self.steps.last().expect("there is a first").state;
        let tree = state.volumes[volume].live.clone();
        let of_kind = |kind: FileKind| -> Vec<String> {
            let files = tree.files.iter().filter(|(_, meta)| meta.kind == kind);
            files.map(|(path, _)| path.clone()).collect()
        };
        let dirs = of_kind(FileKind::Directory);
        let files = of_kind(FileKind::Regular);
        let all: Vec<String> = tree.files.keys().filter(|path| *path != "/").cloned().collect();
        let dir = self.pick(&dirs).expect("there is a root");
        let fresh = format!("{dir}{}", self.new_name("f"));
        let file = self.pick(&files);
        let any = self.pick(&all);
        let other = self.pick(&all);
        let at = self.random.below(8);
        let byte = self.random.below(255) as u8 + 1;
        let fs = &self.mounts[volume];
        match (op, file, any) {
            (Op::Create, ..) => on_new(fs, &fresh, |fs, dir, name| {
                let made = fs.create(&Caller::root(), dir, name, 0o644, libc::O_RDWR)?;
                fs.release(made.0.node, made.1);
                Ok(Some(made.0.node))
            }),
            (Op::Mkdir, ..) if dirs.len() < 4 => on_new(fs, &fresh, |fs, dir, name| {
                Ok(Some(fs.mkdir(&Caller::root(), dir, name, 0o755)?.node))
            }),
            (Op::Symlink, ..) => on_new(fs, &fresh, |fs, dir, name| {
                Ok(Some(fs.symlink(&Caller::root(), dir, name, b"some/where")?.node))
            }),
            (Op::Link, Some(file), _) => on_new(fs, &fresh, |fs, dir, name| {
                with(fs, &file, |node| fs.link(node, dir, name)).map(|entry| Some(entry.node))
            }),
            (Op::Unlink, _, Some(any)) => on_new(fs, any.trim_end_matches('/'), |fs, dir, name| {
                fs.unlink(&Caller::root(), dir, name).map(|()| None)
            }),
            (Op::Rmdir, ..) => on_new(fs, dir.trim_end_matches('/'), |fs, parent, name| {
                fs.rmdir(&Caller::root(), parent, name).map(|()| None)
            }),
            (Op::Rename | Op::Exchange, _, Some(any)) => {
                let over = byte.is_multiple_of(2) || op == Op::Exchange;
                let to = other.filter(|_| over).unwrap_or(fresh);
                let flags = if op == Op::Exchange { 2 } else { 0 };
                on_new(fs, any.trim_end_matches('/'), |fs, from, name| {
                    let (parent, new) = split(to.trim_end_matches('/'));
                    with(fs, parent, |to| {
                        fs.rename(&Caller::root(), from, name, to, new.as_bytes(), flags)
                    })
                    .map(|()| None)
                });
            }
            (_, Some(file), Some(any)) => return self.content(op, volume, (&file, &any), at, byte),
            _ => {}
        }
        Durable::Nothing
    }

    /// An operation on a file that is there, mostly on its content, around its block `at`.
    fn content(
        &mut self,
        op: Op,
        volume: &str,
        (file, any): (&str, &str),
        at: u64,
        byte: u8,
    ) -> Durable {
        let short = self.random.below(4000);
        let len = 4096 * (1 + self.random.below(5)) as usize;
        let fs = &self.mounts[volume];
        let size = with(fs, file, |node| fs.getattr(node)).expect("it is there").size;
        let root = Caller::root();
        let user = format!("user.{}", byte % 4);
        let set = |size| SetAttr { size: Some(size), ..SetAttr::default() };
        let mode = SetAttr { mode: Some(0o600 | u32::from(byte % 8)), ..SetAttr::default() };
        let offset = at * 4096;
        let done: Result<(), Error> = match op {
            Op::Chmod => with(fs, any, |node| fs.setattr(&root, node, &mode)).map(drop),
            Op::SetXattr => with(fs, any, |node| {
                let value = vec![byte; if at == 0 { 9000 } else { 20 }];
                fs.setxattr(&root, node, user.as_bytes(), &value, 0, false)
            }),
            Op::RemoveXattr => with(fs, any, |node| fs.removexattr(&root, node, user.as_bytes())),
            Op::WriteSmall => write(fs, file, short / 4, &vec![byte; 300]),
            Op::WriteBlocks => write(fs, file, offset, &pattern(byte, len)),
            Op::Overwrite => write(fs, file, short, &pattern(byte, len + 777)),
            Op::Append => write(fs, file, size, &pattern(byte, short as usize + 1)),
            Op::Truncate => {
                with(fs, file, |node| fs.setattr(&root, node, &set(size / 3 + short % 5))).map(drop)
            }
            Op::Extend => {
                with(fs, file, |node| fs.setattr(&root, node, &set(size + short))).map(drop)
            }
            Op::Fallocate => {
                with(fs, file, |node| fs.fallocate(node, offset, len as u64, u32::from(byte % 2)))
            }
            Op::Punch => with(fs, file, |node| fs.fallocate(node, short, len as u64, 3)),
            Op::ZeroRange => with(fs, file, |node| fs.fallocate(node, short, len as u64, 0x10)),
            Op::CopyRange => with(fs, file, |from| {
                let to = if fs.getattr(from)?.size > 8192 { any } else { file };
                with(fs, to, |to| fs.copy_file_range(from, 0, to, offset, len as u64)).map(drop)
            }),
            Op::Fsync => {
                let ino = with(fs, file, |node| fs.fsync(node, false).map(|()| node.0));
                return Durable::File(volume.to_owned(), ino.expect("it can be synced"));
            }
            Op::Syncfs => {
                fs.syncfs().expect("it can be synced");
                return Durable::Everything;
            }
            _ => Ok(()),
        };
        // What is not possible (a directory where a file is needed) has changed nothing.
        drop(done);
        Durable::Nothing
    }
}

fn pattern(byte: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| byte ^ (at / 1000) as u8).collect()
}

fn split(path: &str) -> (&str, &str) {
    let at = path.rfind('/').map_or(0, |at| at + 1);
    path.split_at(at)
}

/// Calls `f` with the node at a path, which is looked up and forgotten again.
fn with<T>(
    fs: &Filesystem,
    path: &str,
    f: impl FnOnce(NodeId) -> Result<T, Error>,
) -> Result<T, Error> {
    let mut held = vec![ROOT];
    for name in path.split('/').filter(|name| !name.is_empty()) {
        let parent = held.last().copied().unwrap_or(ROOT);
        match fs.lookup(&Caller::root(), parent, name.as_bytes()) {
            Ok(entry) => held.push(entry.node),
            Err(error) => {
                held.iter().skip(1).for_each(|node| fs.forget(*node, 1));
                return Err(error);
            }
        }
    }
    let done = f(held.last().copied().unwrap_or(ROOT));
    held.iter().skip(1).for_each(|node| fs.forget(*node, 1));
    done
}

/// Calls `f` with the directory and the name of a path; what it returns is forgotten.
fn on_new(
    fs: &Filesystem,
    path: &str,
    f: impl FnOnce(&Filesystem, NodeId, &[u8]) -> Result<Option<NodeId>, Error>,
) {
    let (parent, name) = split(path);
    let made = with(fs, parent, |dir| f(fs, dir, name.as_bytes()));
    if let Ok(Some(node)) = made {
        fs.forget(node, 1);
    }
}

fn write(fs: &Filesystem, path: &str, offset: u64, bytes: &[u8]) -> Result<(), Error> {
    with(fs, path, |node| {
        let handle = fs.open(node, libc::O_RDWR)?;
        let written = fs.write(node, handle, offset, bytes, WriteFlags::default());
        fs.release(node, handle);
        written.map(drop)
    })
}
