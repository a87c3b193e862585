//! A device that fails: in two workloads with every kind of operation, each read, write, sync, punch and grow in
//! turn fails with EIO, then with ENOSPC, once or from then on; a read and a write do a part before. In a third
//! each operation begins with nothing in memory, and each read fails once.
//!
//! Whatever failed: nothing panics, an operation that returned an error has changed nothing (unless the pool has
//! gone read-only in it, and says why), what was acknowledged can be read and is there after the process dies,
//! after a failed sync or write of the journal or of a checkpoint the pool is read-only, and what a sync promised
//! is there after a power cut that loses all that was not synced.
//!
//! The same for opening a pool whose journal has to be replayed.
//!
//! The judge is a model of all that can be read: names, kinds, modes, owners, link counts, attributes, contents,
//! also of what is open and has no name, quotas and labels. Times are not in it, nor what a change of volumes is
//! about that has stopped the pool midway: until the next open that is neither as before nor as after.

mod files;
mod found;
mod names;
mod tree;
mod volumes;
mod workload;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use amberfs::check;
use amberfs::device::{BlockDevice, Fault, FaultOp, Faults, Image, Recorder, Storage};
use amberfs::fs::{Error, Filesystem};
use amberfs::pool::{Clock, CreateOptions, OpenOptions, Pool};

use self::found::{Mounted, read_all};
use self::tree::{Model, Tree, difference};
use self::workload::{Do, contents};
use crate::world::clock;

/// Larger than one step in which the data file grows.
const SIZE_BYTES: u64 = 1 << 30;

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

/// A mistake of the pool's that the judge has to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plant {
    /// That operation says that it has failed, and its change is there.
    Stays(usize),
    /// That operation says that it is done, and nothing is.
    IsNotDone(usize),
}

/// A pool on a recorded storage, and what is known of it.
struct Run {
    recorder: Arc<Recorder>,
    faults: Arc<Faults>,
    pool: Arc<Pool>,
    mounted: Mounted,
    workload: Vec<Do>,
    plant: Option<Plant>,
    /// The state now, those that it may be after an operation that has failed, and the one of the last sync.
    now: Model,
    possible: Vec<Model>,
    synced: Model,
    /// Whether there was nothing after the last sync.
    is_synced: bool,
    /// Whether the pool has stopped in the midst of a change of its volumes.
    is_cut_off: bool,
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
    fn new(workload: Vec<Do>) -> Run {
        Run::over(workload, Storage::clone)
    }

    /// With something between the pool and the devices that fail.
    fn over(workload: Vec<Do>, plant: fn(&Storage) -> Storage) -> Run {
        let (recorder, storage) = Recorder::new(Image::default());
        let faults = Faults::new();
        let storage = plant(&faults.wrap(&storage));
        let pool = Pool::create(storage, &create_options(), open_options()).expect("a pool");
        let root = Filesystem::format_root(pool.now(), 0, 0, 0o755);
        pool.create_volume("main", &root).expect("a volume");
        pool.sync().expect("a sync");
        let mounted = Mounted::new(&pool);
        let now = Model::from([("main".to_owned(), Tree::new())]);
        let (possible, synced) = (vec![now.clone()], now.clone());
        let (plant, is_synced, is_cut_off) = (None, true, false);
        Run {
            recorder,
            faults,
            pool,
            mounted,
            workload,
            plant,
            now,
            possible,
            synced,
            is_synced,
            is_cut_off,
        }
    }

    /// Carries the workload out until the pool is read-only, or a mistake of the pool's is made; returns how
    /// many calls there were of a kind.
    fn work(&mut self, fault: Option<Fault>, what: &str) -> [u64; FaultOp::ALL.len()] {
        let before = FaultOp::ALL.map(|op| self.faults.calls(op));
        fault.into_iter().for_each(|fault| self.faults.arm(fault));
        for (nth, op) in self.workload.clone().iter().enumerate() {
            let what = format!("{what}, {op:?} ({nth})");
            let injected = self.faults.injected();
            let (is_planted, done) = self.carry_out(op, nth);
            let failed = is_planted || self.faults.injected() > injected;
            self.judge(op, nth, (done, failed), &what);
            if let Some(why) = self.pool.status().read_only {
                assert!(self.faults.injected() > 0 && !why.is_empty(), "{what}: {why}");
                self.is_cut_off = self.possible.len() > 1 && matches!(op, Do::Pool(_));
                break;
            }
            if self.possible.len() > 1 {
                self.settle(op, fault, &what);
            }
            if is_planted {
                break;
            }
        }
        let calls = FaultOp::ALL.map(|op| self.faults.calls(op) - before[op as usize]);
        self.faults.clear();
        calls
    }

    /// Also returns whether it was the one that is planted.
    fn carry_out(&mut self, op: &Do, nth: usize) -> (bool, Result<(), Error>) {
        match self.plant {
            Some(Plant::IsNotDone(planted)) if planted == nth => (true, Ok(())),
            plant => {
                let done = op.carry_out(&mut self.mounted, nth);
                let is_planted = plant == Some(Plant::Stays(nth));
                let error = || Error::Io("planted".into());
                (is_planted, if is_planted { done.and_then(|()| Err(error())) } else { done })
            }
        }
    }

    /// Notes what there may be after an operation.
    fn judge(&mut self, op: &Do, nth: usize, outcome: (Result<(), Error>, bool), what: &str) {
        let mut after = self.now.clone();
        let possible = op.model(&mut after, nth);
        match outcome {
            (Ok(()), _) => {
                assert!(possible, "{what}: done to what is not there");
                self.is_synced = op.is_sync() || self.is_synced && after == self.now;
                self.now = after;
                self.possible = vec![self.now.clone()];
                if op.is_sync() {
                    self.synced = self.now.clone();
                }
            }
            (Err(error), failed) => {
                assert!(failed || !possible, "{what}: {error}, and no call had failed");
                self.is_synced = false;
                if possible {
                    self.possible = vec![self.now.clone(), after];
                }
            }
        }
    }

    /// Looks what an operation that has failed left, in a pool that goes on: as a rule nothing.
    fn settle(&mut self, op: &Do, fault: Option<Fault>, what: &str) {
        self.faults.clear();
        let found = read_all(&self.pool, Some(&self.mounted));
        if op.may_stay() && found == self.possible[1] {
            self.now = self.possible[1].clone();
        }
        assert_same(&found, &self.now, what);
        self.possible = vec![self.now.clone()];
        if let Some(fault) = fault.filter(|fault| fault.lasting) {
            self.faults.arm(Fault { nth: 1, ..fault });
        }
    }

    /// What can be read in this process, after its death, and after a power cut.
    fn verify(mut self, what: &str) {
        self.verify_living(what);
        self.pool.abandon();
        for model in self.possible.iter_mut().chain([&mut self.synced]) {
            model.values_mut().for_each(|tree| *tree = tree.released());
        }
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
            assert_same(&found, &self.synced, &what);
        }
        self.verify_snapshots(&found, &what);
    }

    /// What this process shows. Until the pool is opened again, what a change of volumes is about that was cut
    /// off is neither as before nor as after it.
    fn verify_living(&self, what: &str) {
        let mut found = read_all(&self.pool, Some(&self.mounted));
        if !self.is_cut_off {
            return self.verify_one_of(&found, what);
        }
        let (mut before, after) = (self.possible[0].clone(), &self.possible[1]);
        before.retain(|name, tree| after.get(name) == Some(tree));
        found.retain(|name, _| before.contains_key(name));
        assert_same(&found, &before, what);
    }

    /// Those that were made durable and not deleted since are as they were.
    fn verify_snapshots(&self, found: &Model, what: &str) {
        let kept = |name: &&String| {
            name.contains('@') && self.possible.iter().all(|model| model.contains_key(*name))
        };
        let only = |model: &Model, name: &String| -> Model {
            model.get_key_value(name).into_iter().map(|(k, v)| (k.clone(), v.clone())).collect()
        };
        for name in self.synced.keys().filter(kept) {
            assert_same(&only(found, name), &only(&self.synced, name), what);
        }
    }

    fn verify_one_of(&self, found: &Model, what: &str) {
        let differences = self.possible.iter().map(|possible| difference(found, possible));
        let is = self.possible.contains(found);
        assert!(is, "{what}: {:?}", differences.collect::<Vec<_>>());
    }
}

#[track_caller]
fn assert_same(found: &Model, expected: &Model, what: &str) {
    if let Some(difference) = difference(found, expected) {
        panic!("{what}: {difference}");
    }
}

/// Checks and opens what is left, and reads all of it.
fn reopened(storage: &Storage, what: &str) -> Model {
    let options = check::Options { data: true, ..check::Options::default() };
    let report = check::check(storage, &options, &mut |_| ()).expect("it is a pool");
    assert!(report.is_clean(), "{what}: {:#?}", report.problems);
    let pool = Pool::open(storage.clone(), open_options()).expect("a sound pool opens");
    let found = read_all(&pool, None);
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
                let mut run = Run::over(contents(), silent);
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

/// Whether the judge finds a mistake.
fn is_found(workload: &[Do], plant: Plant) -> bool {
    let run = || {
        let mut run = Run::new(workload.to_vec());
        run.plant = Some(plant);
        run.work(None, "planted");
        run.verify("planted");
    };
    catch_unwind(AssertUnwindSafe(run)).is_err()
}

/// Each operation that changes something, in turn, lies about it.
#[test]
fn what_stays_of_a_failure_and_what_is_not_done_is_found() {
    let mut planted = 0;
    for workload in [contents(), workload::names()] {
        let mut before = Model::from([("main".to_owned(), Tree::new())]);
        for (nth, op) in workload.iter().enumerate() {
            let mut after = before.clone();
            assert!(op.model(&mut after, nth), "{op:?} ({nth}) is done to what is not there");
            if after != before {
                planted += 1;
                assert!(is_found(&workload, Plant::IsNotDone(nth)), "{op:?} ({nth}) is not done");
                let stays = is_found(&workload, Plant::Stays(nth));
                assert!(stays || op.may_stay(), "{op:?} ({nth}) stays");
            }
            before = after;
        }
    }
    println!("{planted} operations planted, twice");
}

fn every_call_may_fail(workload: fn() -> Vec<Do>, is_tried: impl Fn(&Fault) -> bool) {
    let mut run = Run::new(workload());
    let calls = run.work(None, "without a fault");
    run.verify("without a fault");
    let mut faults = all_faults(calls);
    faults.retain(is_tried);
    println!("{} faults in a workload; calls: {calls:?} of {:?}", faults.len(), FaultOp::ALL);
    for_each_fault(&faults, |fault| {
        let what = format!("{fault:?}");
        let mut run = Run::new(workload());
        run.work(Some(fault), &what);
        assert!(run.faults.injected() > 0, "{what}: there was no such call");
        let read_only = run.pool.status().read_only.is_some();
        assert!(read_only || fault.op != FaultOp::Sync, "{what}: the pool goes on");
        run.verify(&what);
    });
}

#[test]
fn every_call_of_the_device_may_fail_while_contents_change() {
    every_call_may_fail(contents, |_| true);
}

#[test]
fn every_call_of_the_device_may_fail_while_names_change() {
    every_call_may_fail(workload::names, |_| true);
}

#[test]
fn every_read_may_fail_in_the_midst_of_an_operation() {
    let is_tried =
        |fault: &Fault| fault.op == FaultOp::Read && fault.errno == libc::EIO && !fault.lasting;
    every_call_may_fail(workload::cold_names, is_tried);
}

#[test]
fn every_call_of_the_device_may_fail_while_contents_are_replayed() {
    every_call_may_fail_in_replay(contents());
}

#[test]
fn every_call_of_the_device_may_fail_while_names_are_replayed() {
    every_call_may_fail_in_replay(workload::names());
}

fn every_call_may_fail_in_replay(workload: Vec<Do>) {
    let mut run = Run::new(workload);
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
                    assert_same(&read_all(&pool, None), &expected, &what);
                }
                pool.abandon();
            }
            assert_same(&reopened(&storage, &what), &expected, &format!("{what}, again"));
        });
    }
    println!("{tried} faults while a pool was opened");
}
