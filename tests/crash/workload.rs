//! Operations on a recorded pool, and what was promised when.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use amberfs::device::{DeviceName, Image, Recorder, Storage};
use amberfs::fs::{Error, Filesystem, Handle, NodeId, Timestamp};
use amberfs::pool::{Clock, CreateOptions, OpenOptions, Pool};

use crate::files;
use crate::ops::{Op, Random};
use crate::pauses::{Pauses, Place};
use crate::state::{Mounts, State, Tree, mount};

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

/// What a pool is like on which a history begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub size_bytes: u64,
    pub journal_bytes: u64,
}

impl Shape {
    pub(crate) const ROOMY: Shape = Shape { size_bytes: 32 << 20, journal_bytes: 1 << 20 };
    /// The journal's end is met every few operations, and an fsync's copies don't fit into it.
    pub(crate) const SHORT_JOURNAL: Shape = Shape { size_bytes: 32 << 20, journal_bytes: 40 << 10 };
    /// Operations fail for lack of space.
    pub(crate) const SMALL: Shape = Shape { size_bytes: 8 << 20, journal_bytes: 1 << 20 };
}

/// What a promise is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Durable {
    /// All metadata, and the data of this inode of this volume.
    File(String, u64),
    Everything,
}

/// That something was said to be durable.
#[derive(Debug, Clone)]
pub(crate) struct Promise {
    /// Length of the log when it was said.
    pub at: usize,
    /// Last step that it covers.
    pub step: usize,
    pub what: Durable,
}

/// A volume's live files after a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Moment {
    pub step: usize,
    pub volume: Arc<str>,
}

/// What became the state of a volume, or of a snapshot: the moments from the first on. Across a clone or a
/// restore it is the snapshot's past that goes on.
pub(crate) type Past = Vec<Moment>;

/// One operation that was acknowledged, and the pool after it.
pub(crate) struct Step {
    pub op: Op,
    /// Length of the log before it, and when it was acknowledged.
    pub begun: usize,
    pub done: usize,
    /// Bytes that it was to zero, the whole blocks of which are holes at once.
    pub zeroed: Option<(u64, u64)>,
    pub state: Arc<State>,
    /// Of each volume with a head.
    pub pasts: BTreeMap<String, Past>,
}

/// A snapshot as it was made: by its volume's name and its number.
pub(crate) struct Frozen {
    pub tree: Tree,
    pub past: Past,
}

/// A pool that is worked on, and its history; or those of its volumes whose names begin with `prefix`, which
/// then nobody else works on.
pub(crate) struct World {
    pub recorder: Arc<Recorder>,
    pub prefix: String,
    pub pool: Arc<Pool>,
    pauses: Arc<Pauses>,
    pub mounts: Mounts,
    pub random: Random,
    pub steps: Vec<Step>,
    pub promises: Vec<Promise>,
    pub frozen: HashMap<(String, u32), Frozen>,
    /// Files without a name.
    pub unlinked: Vec<(String, NodeId, Handle)>,
    pub zeroed: Option<(u64, u64)>,
    /// Length of the log up to which the order of the operations is known.
    pub known: usize,
    pasts: BTreeMap<String, Past>,
    names: u32,
}

impl Drop for World {
    /// A pool and its volumes hold each other until then, and with them all that was recorded.
    fn drop(&mut self) {
        self.pool.abandon();
    }
}

/// A pool with empty volumes, on which a recording begins; `plant` may put something between the two.
fn fresh(
    shape: Shape,
    volumes: &[&str],
    plant: impl FnOnce(Storage) -> Storage,
) -> (Arc<Recorder>, Arc<Pauses>, Arc<Pool>) {
    let (recorder, storage) = Recorder::new(Image::default());
    let pauses = Arc::new(Pauses::default());
    let storage = pauses.wrap(&plant(storage));
    let create = CreateOptions {
        size_bytes: Some(shape.size_bytes),
        journal_bytes: shape.journal_bytes,
        uuid: [1; 16],
        seed: [2; 32],
    };
    let pool = Pool::create(storage, &create, open_options()).expect("a pool is made");
    let root = Filesystem::format_root(Timestamp::default(), 0, 0, 0o755);
    for name in volumes {
        pool.create_volume(name, &root).expect("a volume is made");
    }
    pool.sync().expect("it is synced");
    (recorder, pauses, pool)
}

impl World {
    /// Begins a history of a pool; its first step is the pool with an empty volume, which is durable.
    pub(crate) fn new(seed: u64, shape: Shape) -> World {
        World::planted(seed, shape, |storage| storage)
    }

    /// The same, with something between the pool and the recording.
    pub(crate) fn planted(
        seed: u64,
        shape: Shape,
        plant: impl FnOnce(Storage) -> Storage,
    ) -> World {
        let (recorder, pauses, pool) = fresh(shape, &["main"], plant);
        World::begin(seed, recorder, pauses, pool, "main", "")
    }

    /// Begins as many histories as there are names on one pool, each with a volume of its own, for threads
    /// that work at once.
    pub(crate) fn several(seed: u64, shape: Shape, names: &[&str]) -> Vec<World> {
        let (recorder, pauses, pool) = fresh(shape, names, |storage| storage);
        pauses.slow.store(true, Ordering::Relaxed);
        let world = |(at, name): (usize, &&str)| {
            let (recorder, pauses) = (Arc::clone(&recorder), Arc::clone(&pauses));
            World::begin(seed + at as u64, recorder, pauses, Arc::clone(&pool), name, name)
        };
        names.iter().enumerate().map(world).collect()
    }

    fn begin(
        seed: u64,
        recorder: Arc<Recorder>,
        pauses: Arc<Pauses>,
        pool: Arc<Pool>,
        volume: &str,
        prefix: &str,
    ) -> World {
        let head = pool.volume(volume).expect("it has just been made");
        let mut world = World {
            mounts: BTreeMap::from([(volume.to_owned(), mount(head, None))]),
            pasts: BTreeMap::from([(volume.to_owned(), Past::new())]),
            recorder,
            prefix: prefix.to_owned(),
            pool,
            pauses,
            random: Random(seed),
            steps: Vec::new(),
            promises: Vec::new(),
            frozen: HashMap::new(),
            unlinked: Vec::new(),
            zeroed: None,
            known: usize::MAX,
            names: 0,
        };
        world.note(Op::Syncfs, world.recorder.len());
        world.promise(Durable::Everything);
        world
    }

    /// Does one operation, or nothing if it is not possible now, and notes what came of it.
    pub(crate) fn step(&mut self, op: Op) {
        let begun = self.recorder.len();
        let durable = self.carry_out(op);
        self.note(op, begun);
        assert_eq!(self.pool.status().read_only, None, "after {op:?}");
        durable.into_iter().for_each(|what| self.promise(what));
    }

    /// Does one operation on a storage that may fail; false if the pool is read-only after it. Then it was not
    /// acknowledged, and may be there or not.
    pub(crate) fn step_or_fail(&mut self, op: Op) -> bool {
        let begun = self.recorder.len();
        // What ends in an error that is not expected above has not been acknowledged, and that is all.
        let done = catch_unwind(AssertUnwindSafe(|| self.carry_out(op)));
        let works = self.pool.status().read_only.is_none();
        self.note(op, begun);
        if !works && let Some(step) = self.steps.last_mut() {
            step.done = usize::MAX;
        }
        if works && let Ok(Some(what)) = done {
            self.promise(what);
        }
        works
    }

    /// Asks a pool that has failed to sync; if it says that it has, it must have.
    pub(crate) fn sync_after_failure(&mut self) {
        let (at, step) = (self.recorder.len(), self.steps.len() - 2);
        if self.pool.sync().is_ok() {
            self.promises.push(Promise { at, step, what: Durable::Everything });
        }
    }

    /// Does something of the kind of `op` to the first volume, and notes what came of it.
    pub(crate) fn act(
        &mut self,
        op: Op,
        act: impl FnOnce(&Filesystem) -> Result<Option<Durable>, Error>,
    ) {
        let begun = self.recorder.len();
        let fs = self.mounts.values().next().expect("there is always a volume");
        let durable = act(fs).expect("what a test does can be done");
        self.note(op, begun);
        durable.into_iter().for_each(|what| self.promise(what));
    }

    /// Does `op`, which changes no metadata, and while it is stopped at `place` all of `meanwhile`.
    pub(crate) fn around(&mut self, op: Op, place: Place, meanwhile: &[Op]) {
        let step = self.steps.len() - 1;
        let volume = self.a_volume();
        let fs = Arc::clone(&self.mounts[&volume]);
        let (call, what): (Box<dyn FnOnce() + Send>, _) = match op {
            Op::Checkpoint => {
                let pool = Arc::clone(&self.pool);
                (Box::new(move || pool.checkpoint().expect("a checkpoint")), Durable::Everything)
            }
            Op::Syncfs => (Box::new(move || fs.syncfs().expect("a sync")), Durable::Everything),
            Op::Fsync => {
                let files = files::of_kind(&self.last().volumes[&volume].live, files::REGULAR);
                let Some(file) = self.random.pick(&files) else { return };
                let ino = self.last().volumes[&volume].live.files[&file].ino;
                (
                    Box::new(move || {
                        files::with(&fs, &file, |node| fs.fsync(node, false)).expect("an fsync");
                    }),
                    Durable::File(volume, ino),
                )
            }
            other => panic!("{other:?} is not one to stop"),
        };
        let pauses = Arc::clone(&self.pauses);
        pauses.around(place, call, || meanwhile.iter().for_each(|op| self.step(*op)));
        self.promises.push(Promise { at: self.recorder.len(), step, what });
    }

    /// Writes to a file, and does all of `meanwhile` when the data is about to be written.
    ///
    /// What of that waits for the write comes after it instead: then the history ends before.
    pub(crate) fn around_write(&mut self, meanwhile: &[Op]) {
        let volume = self.a_volume();
        let files = files::of_kind(&self.last().volumes[&volume].live, files::REGULAR);
        let Some(file) = self.random.pick(&files) else { return };
        let fs = Arc::clone(&self.mounts[&volume]);
        let offset = self.random.below(8) * 4096;
        let bytes = files::pattern(self.random.below(255) as u8 + 1, 12288);
        let ino = self.last().volumes[&volume].live.files[&file].ino;
        let write = move || {
            // Whoever has the file open has it under every name.
            let written = files::write_to(&fs, NodeId(ino), offset, &bytes);
            assert!(matches!(written, Ok(()) | Err(Error::Stale | Error::NoSpace)), "{written:?}");
        };
        let begun = self.recorder.len();
        let pauses = Arc::clone(&self.pauses);
        let place = Place::First(DeviceName::Data);
        let waited = pauses.around(place, write, || meanwhile.iter().for_each(|op| self.step(*op)));
        if waited {
            self.known = self.known.min(begun);
        }
        self.note(Op::WriteBlocks, begun);
    }

    pub(crate) fn last(&self) -> &Arc<State> {
        &self.steps.last().expect("there is a first").state
    }

    pub(crate) fn a_volume(&mut self) -> String {
        let names: Vec<_> = self.mounts.keys().cloned().collect();
        self.random.pick(&names).expect("there is always a volume")
    }

    pub(crate) fn new_name(&mut self, kind: &str) -> String {
        self.names += 1;
        format!("{}{kind}{}", self.prefix, self.names)
    }

    fn promise(&mut self, what: Durable) {
        let (at, step) = (self.recorder.len(), self.steps.len() - 1);
        self.promises.push(Promise { at, step, what });
    }

    fn note(&mut self, op: Op, begun: usize) {
        let done = self.recorder.len();
        let state = Arc::new(State::of(&self.pool, &self.mounts, &self.prefix));
        for (name, volume) in &state.volumes {
            for (snapshot, number) in &volume.snapshots {
                let key = (name.clone(), *number);
                if !self.frozen.contains_key(&key) {
                    let head = Arc::clone(self.mounts[name].volume());
                    let tree = Tree::of(&mount(head, Some(snapshot)));
                    // Of a volume that a restore has just replaced, that of before.
                    let past = self.steps.last().map(|step| step.pasts[name].clone());
                    let past = past.unwrap_or_default();
                    self.frozen.insert(key, Frozen { tree, past });
                }
            }
        }
        let step = self.steps.len();
        for (name, past) in &mut self.pasts {
            past.push(Moment { step, volume: name.as_str().into() });
        }
        let (zeroed, pasts) = (self.zeroed.take(), self.pasts.clone());
        self.steps.push(Step { op, begun, done, zeroed, state, pasts });
    }

    fn carry_out(&mut self, op: Op) -> Option<Durable> {
        if op.is_of_the_pool() {
            self.pool_op(op)
        } else {
            let volume = self.a_volume();
            self.file_op(op, &volume)
        }
    }

    fn pool_op(&mut self, op: Op) -> Option<Durable> {
        let infos = self.pool.volumes();
        let infos: Vec<_> =
            infos.into_iter().filter(|info| info.name.starts_with(&self.prefix)).collect();
        let deleted = |name: &String| !self.mounts.contains_key(name);
        let chosen: Vec<_> = infos
            .iter()
            .flat_map(|info| self.pool.snapshots(info.id).into_iter().map(|one| (&info.name, one)))
            .filter(|(volume, _)| op != Op::Restore || !deleted(volume))
            .map(|(volume, info)| (volume.clone(), info))
            .collect();
        let chosen = self.random.pick(&chosen);
        let volume = self.a_volume();
        let id = self.mounts[&volume].volume().id();
        let name = self.new_name("s");
        match (op, chosen) {
            (Op::Snapshot, _) => {
                let made = self.mounts[&volume].create_snapshot(&name);
                return files::unless_full(made).map(|_| Durable::Everything);
            }
            (Op::SnapshotUnsynced, _) => {
                unless_full(self.pool.create_snapshot(id, &name));
            }
            (Op::SnapshotGroup, _) => {
                let all: Vec<_> = self.mounts.values().map(|fs| fs.volume().id()).collect();
                unless_full(self.pool.create_group(&all, &name));
            }
            (Op::DeleteSnapshot, Some((_, info))) => {
                self.pool.delete_snapshot(info.volume, &info.name).expect("it can be deleted");
            }
            (Op::RenameSnapshot, Some((_, info))) => {
                self.pool.rename_snapshot(info.volume, &info.name, &name).expect("and renamed");
            }
            (Op::Clone, Some((of, info))) if self.mounts.len() < 3 => {
                let clone = unless_full(self.pool.clone_volume(info.member, &name))?;
                let past = self.frozen[&(of, info.number)].past.clone();
                self.pasts.insert(name.clone(), past);
                self.mounts.insert(name, mount(clone, None));
            }
            (Op::Restore, Some((of, info))) => {
                unless_full(self.pool.restore(info.volume, &info.name, &name))?;
                self.unlinked.retain(|(volume, ..)| *volume != of);
                let past = self.frozen[&(of.clone(), info.number)].past.clone();
                self.pasts.insert(of.clone(), past);
                let again = Arc::clone(self.mounts[&of].volume());
                self.mounts.insert(of, mount(again, None));
            }
            (Op::DeleteVolume, _) if self.mounts.len() > 1 && Some(&volume) != self.first() => {
                self.unlinked.retain(|(of, ..)| *of != volume);
                self.mounts.remove(&volume);
                self.pasts.remove(&volume);
                self.pool.delete_volume(&volume).expect("a volume can be deleted");
            }
            (Op::Checkpoint, _) => {
                self.pool.checkpoint().expect("a checkpoint can be made");
                return Some(Durable::Everything);
            }
            (Op::Reclaim, _) => {
                self.pool.run_reclaim().expect("space can be reclaimed");
            }
            _ => {}
        }
        None
    }

    /// The volume that the history began with.
    fn first(&self) -> Option<&String> {
        self.steps.first().and_then(|step| step.state.volumes.keys().next())
    }
}

/// What came of a call, or nothing if there was no space for it.
fn unless_full<T>(done: amberfs::pool::Result<T>) -> Option<T> {
    match done {
        Ok(done) => Some(done),
        Err(amberfs::pool::Error::NoSpace) => None,
        Err(error) => panic!("{error}"),
    }
}
