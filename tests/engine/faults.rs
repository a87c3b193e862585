//! A device that fails: in one workload of every kind of operation, each read, write, sync, punch and grow in
//! turn fails with EIO, then with ENOSPC, once or from then on; a read and a write do a part before.
//!
//! Whatever failed: nothing panics, an operation that returned an error has changed nothing (unless the pool has
//! gone read-only in it, and says why), what was acknowledged can be read and is there after the process dies,
//! after a failed sync or write of the journal or of a checkpoint the pool is read-only, and what a sync promised
//! is there after a power cut that loses all that was not synced.
//!
//! The same for opening a pool whose journal has to be replayed.

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use amberfs::check;
use amberfs::device::{BlockDevice, Fault, FaultOp, Faults, Image, Recorder, Storage};
use amberfs::fs::{Caller, Error, Filesystem, Handle, NodeId, SetAttr, WriteFlags};
use amberfs::pool::{Clock, CreateOptions, OpenOptions, Pool};

use crate::model::overwrite;
use crate::mounting::mount;
use crate::world::{clock, pattern};

/// Larger than one step in which the data file grows.
const SIZE_BYTES: u64 = 1 << 30;

/// Contents of a volume's files.
type Files = BTreeMap<String, Vec<u8>>;

/// Contents of the volumes and of their snapshots, as `volume` and `volume@snapshot`.
type Model = BTreeMap<String, Files>;

/// An operation: what it does to the pool, and to the model.
#[derive(Debug, Clone)]
enum Do {
    Create(&'static str),
    Write(&'static str, usize, usize),
    Truncate(&'static str, usize),
    Punch(&'static str, usize, usize),
    /// Sets space aside behind the end, so much that the data file has to grow.
    Reserve(&'static str, u64),
    Copy(&'static str, &'static str),
    Rename(&'static str, &'static str),
    Unlink(&'static str),
    Xattr(&'static str, usize),
    Read(&'static str),
    Fsync(&'static str),
    Syncfs,
    Snapshot(&'static str),
    DeleteSnapshot(&'static str),
    Clone(&'static str, &'static str),
    Restore(&'static str, &'static str),
    DeleteVolume(&'static str),
    Reclaim,
    Checkpoint,
}

use Do::*;

fn workload() -> Vec<Do> {
    vec![
        Create("a"),
        Write("a", 0, 12288),
        Create("b"),
        Write("b", 0, 100),
        Fsync("a"),
        Write("a", 5000, 3000),
        Snapshot("s0"),
        Write("a", 12288, 9000),
        Truncate("a", 15000),
        Truncate("a", 16384),
        Checkpoint,
        Read("a"),
        Xattr("b", 9000),
        Copy("a", "b"),
        Write("a", 0, 4096),
        Write("b", 0, 4096),
        Snapshot("s1"),
        Rename("b", "c"),
        DeleteSnapshot("s0"),
        Reclaim,
        Checkpoint,
        Create("e"),
        Write("e", 0, 70 * 4096),
        Fsync("e"),
        Punch("e", 6000, 20000),
        Reserve("e", 300 << 20),
        Unlink("a"),
        Syncfs,
        Clone("s1", "copy"),
        Read("c"),
        Restore("s1", "kept"),
        Write("b", 300, 5000),
        Read("b"),
        DeleteSnapshot("kept"),
        DeleteVolume("copy"),
        Reclaim,
        Checkpoint,
        Write("a", 100, 8192),
        Fsync("a"),
        Create("f"),
        Checkpoint,
        Unlink("f"),
    ]
}

fn with<T>(
    fs: &Filesystem,
    name: &str,
    f: impl FnOnce(NodeId) -> Result<T, Error>,
) -> Result<T, Error> {
    let node = fs.lookup(&Caller::root(), NodeId::ROOT, name.as_bytes())?.node;
    let done = f(node);
    fs.forget(node, 1);
    done
}

fn read(fs: &Filesystem, name: &str) -> Result<Vec<u8>, Error> {
    with(fs, name, |node| {
        let mut bytes = vec![0; fs.getattr(node)?.size as usize];
        fs.read(node, Handle(0), 0, &mut bytes)?;
        Ok(bytes)
    })
}

fn read_files(fs: &Filesystem) -> Result<Files, Error> {
    let mut names = Vec::new();
    fs.readdir(&Caller::root(), NodeId::ROOT, 0, false, &mut |entry| {
        names.push(String::from_utf8(entry.name.to_vec()).expect("names here are text"));
        true
    })?;
    let files = names.into_iter().filter(|name| !name.starts_with('.'));
    files.map(|name| read(fs, &name).map(|bytes| (name, bytes))).collect()
}

/// Everything that a pool holds.
fn read_all(pool: &Arc<Pool>) -> Model {
    let mut found = Model::new();
    for info in pool.volumes() {
        let snapshots = pool.snapshots(info.id).into_iter();
        let mut names: Vec<_> = snapshots.map(|one| Some(one.name)).collect();
        names.extend(info.head.map(|_| None));
        for snapshot in names {
            let volume = &info.name;
            let fs =
                mount(pool, volume, snapshot.as_deref()).expect("what is there can be mounted");
            let name = snapshot.map_or(volume.clone(), |snapshot| format!("{volume}@{snapshot}"));
            found.insert(name, read_files(&fs).expect("what is there can be read"));
        }
    }
    found
}

impl Do {
    fn is_sync(&self) -> bool {
        matches!(self, Syncfs | Snapshot(_) | Checkpoint)
    }

    /// Whether it makes a change and then waits for the disk: the change stays if that fails.
    fn may_stay(&self) -> bool {
        matches!(self, Snapshot(_))
    }

    fn carry_out(&self, pool: &Arc<Pool>, fs: &Filesystem, nth: usize) -> Result<(), Error> {
        let root = Caller::root();
        match self {
            Create(name) => {
                let made = fs.mknod(&root, NodeId::ROOT, name.as_bytes(), 0o100_644, 0)?;
                fs.forget(made.node, 1);
                Ok(())
            }
            Write(name, offset, len) => with(fs, name, |node| {
                let bytes = pattern(nth as u64, *len);
                let flags = WriteFlags::default();
                fs.write(node, Handle(0), *offset as u64, &bytes, flags).map(drop)
            }),
            Truncate(name, size) => with(fs, name, |node| {
                let set = SetAttr { size: Some(*size as u64), ..SetAttr::default() };
                fs.setattr(&root, node, &set).map(drop)
            }),
            Punch(name, offset, len) => {
                with(fs, name, |node| fs.fallocate(node, *offset as u64, *len as u64, 3))
            }
            Reserve(name, len) => with(fs, name, |node| fs.fallocate(node, 1 << 20, *len, 1)),
            Copy(from, to) => with(fs, from, |from| {
                let len = fs.getattr(from)?.size;
                with(fs, to, |to| fs.copy_file_range(from, 0, to, 0, len)).map(drop)
            }),
            Rename(from, to) => {
                let (from, to) = (from.as_bytes(), to.as_bytes());
                fs.rename(&root, NodeId::ROOT, from, NodeId::ROOT, to, 0)
            }
            Unlink(name) => fs.unlink(&root, NodeId::ROOT, name.as_bytes()),
            Xattr(name, len) => with(fs, name, |node| {
                fs.setxattr(&root, node, b"user.x", &pattern(nth as u64, *len), 0, false)
            }),
            Read(name) => read(fs, name).map(drop),
            Fsync(name) => with(fs, name, |node| fs.fsync(node, false)),
            Syncfs => fs.syncfs(),
            Snapshot(name) => fs.create_snapshot(name).map(drop),
            DeleteSnapshot(name) => Ok(pool.delete_snapshot(fs.volume().id(), name)?),
            Clone(snapshot, name) => {
                let origin = pool.snapshot(fs.volume().id(), snapshot)?;
                Ok(pool.clone_volume(origin.member, name).map(drop)?)
            }
            Restore(snapshot, kept) => Ok(pool.restore(fs.volume().id(), snapshot, kept)?),
            DeleteVolume(name) => Ok(pool.delete_volume(name)?),
            Reclaim => {
                while pool.run_reclaim()? {}
                Ok(())
            }
            Checkpoint => Ok(pool.checkpoint()?),
        }
    }

    /// The same on the model; false if there is nothing to do it to.
    fn model(&self, model: &mut Model, nth: usize) -> bool {
        self.try_model(model, nth).is_some()
    }

    fn try_model(&self, model: &mut Model, nth: usize) -> Option<()> {
        let snapshot = |name: &str| format!("main@{name}");
        let live = model.get_mut("main")?;
        match self {
            Create(name) => drop(live.insert((*name).into(), Vec::new())),
            Write(name, offset, len) => {
                overwrite(live.get_mut(*name)?, *offset, &pattern(nth as u64, *len));
            }
            Truncate(name, size) => live.get_mut(*name)?.resize(*size, 0),
            Punch(name, offset, len) => {
                let behind = live.get_mut(*name)?.iter_mut().skip(*offset);
                behind.take(*len).for_each(|byte| *byte = 0);
            }
            Copy(from, to) => {
                let bytes = live.get(*from)?.clone();
                overwrite(live.get_mut(*to)?, 0, &bytes);
            }
            Rename(from, to) => {
                let bytes = live.remove(*from)?;
                live.insert((*to).into(), bytes);
            }
            Unlink(name) => drop(live.remove(*name)?),
            Xattr(name, _) | Read(name) | Fsync(name) | Reserve(name, _) => drop(live.get(*name)?),
            Snapshot(name) => {
                let frozen = live.clone();
                model.insert(snapshot(name), frozen);
            }
            DeleteSnapshot(name) => drop(model.remove(&snapshot(name))?),
            Clone(from, name) => {
                let files = model.get(&snapshot(from))?.clone();
                model.insert((*name).into(), files);
            }
            Restore(from, kept) => {
                let files = model.get(&snapshot(from))?.clone();
                let before = model.insert("main".into(), files)?;
                model.insert(snapshot(kept), before);
            }
            DeleteVolume(name) => drop(model.remove(*name)?),
            Syncfs | Reclaim | Checkpoint => {}
        }
        Some(())
    }
}

static NONCE: AtomicU64 = AtomicU64::new(1 << 40);

fn open_options() -> OpenOptions {
    OpenOptions {
        // Nodes are read back all the time.
        cache_bytes: 128 << 10,
        background: false,
        nonce: NONCE.fetch_add(1, Ordering::Relaxed),
        ..OpenOptions::new(clock() as Arc<dyn Clock>)
    }
}

/// A pool on a recorded storage, and what is known of it.
struct Run {
    recorder: Arc<Recorder>,
    faults: Arc<Faults>,
    pool: Arc<Pool>,
    /// The state now, those that it may be after an operation that has failed, and the one of the last sync.
    now: Model,
    possible: Vec<Model>,
    synced: Model,
    /// Whether there was nothing after the last sync.
    is_synced: bool,
}

fn create_options() -> CreateOptions {
    CreateOptions {
        size_bytes: Some(SIZE_BYTES),
        journal_bytes: 256 << 10,
        uuid: [1; 16],
        seed: [2; 32],
    }
}

impl Run {
    fn new() -> Run {
        Run::planted(Storage::clone)
    }

    /// With something between the pool and the devices that fail.
    fn planted(plant: fn(&Storage) -> Storage) -> Run {
        let (recorder, storage) = Recorder::new(Image::default());
        let faults = Faults::new();
        let storage = plant(&faults.wrap(&storage));
        let pool = Pool::create(storage, &create_options(), open_options()).expect("a pool");
        let root = Filesystem::format_root(pool.now(), 0, 0, 0o755);
        pool.create_volume("main", &root).expect("a volume");
        pool.sync().expect("a sync");
        let now = Model::from([("main".to_owned(), Files::new())]);
        let (possible, synced) = (vec![now.clone()], now.clone());
        Run { recorder, faults, pool, now, possible, synced, is_synced: true }
    }

    /// Carries the workload out until the pool is read-only; returns how many calls there were of a kind.
    fn work(&mut self, fault: Option<Fault>, what: &str) -> [u64; FaultOp::ALL.len()] {
        let pool = Arc::clone(&self.pool);
        let fs = mount(&pool, "main", None).expect("nothing fails yet");
        let before = FaultOp::ALL.map(|op| self.faults.calls(op));
        fault.into_iter().for_each(|fault| self.faults.arm(fault));
        for (nth, op) in workload().iter().enumerate() {
            let what = format!("{what}, {op:?} ({nth})");
            let mut after = self.now.clone();
            let possible = op.model(&mut after, nth);
            let injected = self.faults.injected();
            let done = op.carry_out(&pool, &fs, nth);
            let failed = self.faults.injected() > injected;
            let read_only = pool.status().read_only;
            match done {
                Ok(()) => {
                    assert!(possible, "{what}: done to what is not there");
                    self.is_synced = op.is_sync() || self.is_synced && after == self.now;
                    self.now = after;
                    self.possible = vec![self.now.clone()];
                    if op.is_sync() {
                        self.synced = self.now.clone();
                    }
                }
                Err(error) => {
                    assert!(failed || !possible, "{what}: {error}, and no call had failed");
                    self.is_synced = false;
                    if possible {
                        self.possible = vec![self.now.clone(), after];
                    }
                }
            }
            if let Some(why) = read_only {
                assert!(self.faults.injected() > 0 && !why.is_empty(), "{what}: {why}");
                break;
            }
            if self.possible.len() > 1 {
                self.settle(op, fault, &what);
            }
        }
        let calls = FaultOp::ALL.map(|op| self.faults.calls(op) - before[op as usize]);
        self.faults.clear();
        calls
    }

    /// Looks what an operation that has failed left, in a pool that goes on: as a rule nothing.
    fn settle(&mut self, op: &Do, fault: Option<Fault>, what: &str) {
        self.faults.clear();
        let found = read_all(&self.pool);
        let stays = op.may_stay() && found == self.possible[1];
        assert!(stays || found == self.now, "{what}: {}", difference(&found, &self.now));
        self.now = found;
        self.possible = vec![self.now.clone()];
        if let Some(fault) = fault.filter(|fault| fault.lasting) {
            self.faults.arm(Fault { nth: 1, ..fault });
        }
    }

    /// What can be read in this process, after its death, and after a power cut.
    fn verify(self, what: &str) {
        self.verify_one_of(&read_all(&self.pool), what);
        self.pool.abandon();
        let mut states = self.recorder.states();
        states.step_to(self.recorder.len());
        let found = reopened(&states.image().storage(), &format!("{what}, killed"));
        self.verify_one_of(&found, what);
        for seed in 0..2 {
            let what = format!("{what}, power cut, seed {seed}");
            self.verify_snapshots(&reopened(&states.crash(seed).storage(), &what), &what);
        }
        let what = format!("{what}, power cut");
        let found = reopened(&states.crash_losing_all().storage(), &what);
        if self.is_synced {
            assert!(found == self.synced, "{what}: {}", difference(&found, &self.synced));
        }
        self.verify_snapshots(&found, &what);
    }

    /// Those that were made durable and not deleted since are as they were.
    fn verify_snapshots(&self, found: &Model, what: &str) {
        let kept = |name: &&String| {
            name.contains('@') && self.possible.iter().all(|model| model.contains_key(*name))
        };
        for name in self.synced.keys().filter(kept) {
            assert!(found.get(name) == self.synced.get(name), "{what}: {name}");
        }
    }

    fn verify_one_of(&self, found: &Model, what: &str) {
        let differences = self.possible.iter().map(|possible| difference(found, possible));
        let is = self.possible.contains(found);
        assert!(is, "{what}: {:?}", differences.collect::<Vec<_>>());
    }
}

/// Where two models differ first.
fn difference(found: &Model, expected: &Model) -> String {
    let names: (Vec<_>, Vec<_>) = (found.keys().collect(), expected.keys().collect());
    if names.0 != names.1 {
        return format!("found {:?}, expected {:?}", names.0, names.1);
    }
    for ((volume, files), other) in found.iter().zip(expected.values()) {
        let names: (Vec<_>, Vec<_>) = (files.keys().collect(), other.keys().collect());
        if names.0 != names.1 {
            return format!("{volume}: found {:?}, expected {:?}", names.0, names.1);
        }
        for ((name, bytes), other) in files.iter().zip(other.values()) {
            if bytes != other {
                let at = bytes.iter().zip(other).position(|(a, b)| a != b);
                let lens = (bytes.len(), other.len());
                return format!("{volume}: {name} has length {lens:?}, differs at {at:?}");
            }
        }
    }
    String::from("nothing")
}

/// Checks and opens what is left, and reads all of it.
fn reopened(storage: &Storage, what: &str) -> Model {
    let options = check::Options { data: true, ..check::Options::default() };
    let report = check::check(storage, &options, &mut |_| ()).expect("it is a pool");
    assert!(report.is_clean(), "{what}: {:#?}", report.problems);
    let pool = Pool::open(storage.clone(), open_options()).expect("a sound pool opens");
    let found = read_all(&pool);
    assert_eq!(pool.status().read_only, None, "{what}");
    pool.abandon();
    found
}

/// All ways in which the `calls` of each kind can fail, the `nth` of each.
fn all_faults(calls: [u64; FaultOp::ALL.len()]) -> Vec<Fault> {
    let mut all = Vec::new();
    for op in FaultOp::ALL {
        for nth in 1..=calls[op as usize] {
            for errno in [libc::EIO, libc::ENOSPC] {
                for lasting in [false, true] {
                    all.push(Fault { op, device: None, nth, lasting, errno });
                }
            }
        }
    }
    all
}

/// Tries each, on all processors.
fn for_each_fault(faults: &[Fault], one: impl Fn(Fault) + Sync) {
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(fault) = faults.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    one(*fault);
                }
            });
        }
    });
}

/// A device that keeps to itself what has failed: a plant.
#[derive(Debug)]
struct Silent(Arc<dyn BlockDevice>);

impl BlockDevice for Silent {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, buf).or(Ok(()))
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, bytes).or(Ok(()))
    }
    fn sync(&self) -> io::Result<()> {
        self.0.sync().or(Ok(()))
    }
    fn punch(&self, offset: u64, len_bytes: u64) -> io::Result<()> {
        self.0.punch(offset, len_bytes)
    }
    fn len_bytes(&self) -> io::Result<u64> {
        self.0.len_bytes()
    }
    fn grow(&self, len_bytes: u64) -> io::Result<()> {
        self.0.grow(len_bytes)
    }
    fn available_bytes(&self) -> io::Result<u64> {
        self.0.available_bytes()
    }
}

fn silent(storage: &Storage) -> Storage {
    storage.map(|_, device| Arc::new(Silent(device)))
}

#[test]
fn failures_that_nobody_is_told_of_are_caught() {
    // What a read should have returned is known by its checksum.
    for op in [FaultOp::Write, FaultOp::Sync] {
        let caught = (1..=20).any(|nth| {
            let fault = Fault { op, device: None, nth, lasting: false, errno: libc::EIO };
            let run = || {
                let mut run = Run::planted(silent);
                run.work(Some(fault), "planted");
                // Nobody fails any more whom the pool believes.
                run.verify("planted");
            };
            catch_unwind(AssertUnwindSafe(run)).is_err()
        });
        assert!(caught, "{op:?} may fail in silence");
    }
}

#[test]
fn every_call_of_the_device_may_fail_while_a_pool_is_made() {
    let faults = Faults::new();
    let made = Pool::create(faults.wrap(&Storage::memory()), &create_options(), open_options());
    made.expect("a pool").abandon();
    let all = all_faults(FaultOp::ALL.map(|op| faults.calls(op)));
    println!("{} faults while a pool was made", all.len());
    for fault in all {
        let (storage, faults) = (Storage::memory(), Faults::new());
        faults.arm(fault);
        let made = Pool::create(faults.wrap(&storage), &create_options(), open_options());
        assert!(faults.injected() > 0, "{fault:?}: there was no such call");
        // What was made in spite of it is whole.
        if let Ok(pool) = made {
            pool.abandon();
            assert_eq!(reopened(&storage, &format!("made with {fault:?}")), Model::new());
        }
    }
}

#[test]
fn every_call_of_the_device_may_fail() {
    let mut run = Run::new();
    let calls = run.work(None, "without a fault");
    run.verify("without a fault");
    let faults = all_faults(calls);
    println!("{} faults in a workload; calls: {calls:?} of {:?}", faults.len(), FaultOp::ALL);
    for_each_fault(&faults, |fault| {
        let what = format!("{fault:?}");
        let mut run = Run::new();
        run.work(Some(fault), &what);
        assert!(run.faults.injected() > 0, "{what}: there was no such call");
        let read_only = run.pool.status().read_only.is_some();
        assert!(read_only || fault.op != FaultOp::Sync, "{what}: the pool goes on");
        run.verify(&what);
    });
}

#[test]
fn every_call_of_the_device_may_fail_while_a_pool_is_opened() {
    let mut run = Run::new();
    run.work(None, "without a fault");
    run.pool.abandon();
    let mut states = run.recorder.states();
    // Before the checkpoints at the end there is most to replay.
    let len = run.recorder.len();
    let mut tried = 0;
    for part in [3, 4, 6, 8] {
        states.step_to(len * part / 8);
        let image = states.image();
        let expected = reopened(&image.storage(), "as it is");
        let faults = Faults::new();
        Pool::open(faults.wrap(&image.storage()), open_options()).expect("it opens").abandon();
        let all = all_faults(FaultOp::ALL.map(|op| faults.calls(op)));
        tried += all.len();
        for_each_fault(&all, |fault| {
            let what = format!("opening with {fault:?}");
            let storage = image.storage();
            let faults = Faults::new();
            faults.arm(fault);
            if let Ok(pool) = Pool::open(faults.wrap(&storage), open_options()) {
                faults.clear();
                // What could not be replayed is missing here, and there the next time.
                if pool.status().read_only.is_none() {
                    let found = read_all(&pool);
                    assert!(found == expected, "{what}: {}", difference(&found, &expected));
                }
                pool.abandon();
            }
            let found = reopened(&storage, &what);
            assert!(found == expected, "{what}, again: {}", difference(&found, &expected));
        });
    }
    println!("{tried} faults while a pool was opened");
}
