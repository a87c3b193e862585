//! A pool with writers, a reader, somebody who makes and deletes snapshots, and checkpoints, all at once; and
//! the process dies at some moment. Everything is judged by numbers: a writer says which one it is about to
//! write, and which one it has written, so that whoever looks must see one from between.

use std::cell::Cell;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use amberfs::check::{self, check};
use amberfs::device::Storage;
use amberfs::fs::{Caller, Filesystem, Handle, NodeId, Timestamp, WriteFlags};
use amberfs::pool::{Clock, CreateOptions, OpenOptions, Pool};
use amberfs::threads::Planted;
use shuttle::rand::Rng;
use shuttle::thread;

use crate::devices::{Disk, Image, storage_of};
use crate::mounting::mount;
use crate::{is_found, try_schedules};

/// Numbers that are written to each file, in order.
const NUMBERS: u64 = 6;
/// Rounds of the others.
const ROUNDS: u64 = 2;
/// Changes of the devices among which the one is chosen before which the process dies: about as many as there are.
const CHANGES: u64 = 44;
/// So many that there is a piece among them that is punched out when they are given back.
const BLOCKS: usize = 32;
const SNAPSHOTS: [&str; 2] = ["s0", "s1"];

struct Ticks(AtomicI64);

impl Clock for Ticks {
    fn now(&self) -> Timestamp {
        Timestamp { sec: self.0.fetch_add(1, Ordering::Relaxed), nsec: 0 }
    }
}

fn options(nonce: u64, background: bool) -> OpenOptions {
    OpenOptions {
        // The smallest share of a shard holds one node: what is clean is read again all the time.
        cache_bytes: 256 << 10,
        commit_interval: Duration::MAX,
        background,
        nonce,
        ..OpenOptions::new(Arc::new(Ticks(AtomicI64::new(1))))
    }
}

/// The files: two that one writer writes in turn, in two volumes, a byte each in effect; and one of blocks.
#[derive(Debug, Clone, Copy)]
enum File {
    First,
    Second,
    Blocks,
}

const FILES: [File; 3] = [File::First, File::Second, File::Blocks];

impl File {
    fn volume(self) -> &'static str {
        ["a", "b", "a"][self as usize]
    }

    fn name(self) -> &'static [u8] {
        [&b"first"[..], b"second", b"blocks"][self as usize]
    }

    fn len(self) -> usize {
        [10, 10, BLOCKS * 4096][self as usize]
    }
}

thread_local! {
    /// In how many of the schedules of this test the process died.
    static DEATHS: Cell<u64> = const { Cell::new(0) };
}

/// A number for each file.
type Numbers = [u64; 3];

/// What writers are about to write, and what they have written.
#[derive(Default)]
struct Progress {
    begun: [AtomicU64; 3],
    done: [AtomicU64; 3],
}

fn read_all(numbers: &[AtomicU64; 3]) -> Numbers {
    [0, 1, 2].map(|file: usize| numbers[file].load(Ordering::Relaxed))
}

/// What a state must show that was frozen between two moments.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    least: Numbers,
    most: Numbers,
}

impl Bounds {
    fn verify(&self, found: Numbers, what: &str) {
        for file in FILES {
            let (nth, is) = (file as usize, found[file as usize]);
            let (least, most) = (self.least[nth], self.most[nth]);
            assert!(
                (least..=most).contains(&is),
                "{what}: {file:?} has {is}, not {least} to {most}"
            );
        }
        let [first, second, _] = found;
        assert!(
            first == second || first == second + 1,
            "{what}: {first} came before {second}, which is there"
        );
    }
}

/// What is known of the snapshots: the numbers in those that were acknowledged.
#[derive(Default, Clone)]
struct Made {
    frozen: [Option<Numbers>; 2],
    /// Their deletion has begun.
    deleting: [bool; 2],
}

/// The pool's storage at the moment of a death, and what must be in it.
struct Death {
    image: Image,
    bounds: Bounds,
    made: Made,
}

struct World {
    disk: Arc<Disk>,
    pool: Arc<Pool>,
    mounts: [Arc<Filesystem>; 2],
    nodes: [NodeId; 3],
    progress: Progress,
    made: Mutex<Made>,
    death: Mutex<Option<Death>>,
}

fn mounted(pool: &Arc<Pool>, volume: &str, snapshot: Option<&str>) -> Arc<Filesystem> {
    Arc::new(mount(pool, volume, snapshot).expect("it can be mounted"))
}

/// Reads a file; all of its bytes are the same number, or they are of two writes.
fn number(fs: &Filesystem, node: NodeId, file: File) -> u64 {
    let mut bytes = vec![0; file.len()];
    let read = fs.read(node, Handle(0), 0, &mut bytes).expect("what is there can be read");
    assert_eq!(read, file.len(), "{file:?}");
    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "{file:?} is of two writes");
    u64::from(bytes[0])
}

/// Reads the live files of a pool, or those of a snapshot.
fn numbers(pool: &Arc<Pool>, snapshot: Option<&str>) -> Numbers {
    let mounts = ["a", "b"].map(|volume| mounted(pool, volume, snapshot));
    FILES.map(|file| {
        let fs = &mounts[usize::from(file.volume() == "b")];
        let entry = fs.lookup(&Caller::root(), NodeId::ROOT, file.name());
        number(fs, entry.expect("the file is there").node, file)
    })
}

impl World {
    fn new(background: bool) -> World {
        let disk = Disk::new();
        let create = CreateOptions {
            size_bytes: Some(8 << 20),
            // The shortest there is: half of it full, operations wake the background thread.
            journal_bytes: 8 << 10,
            uuid: [1; 16],
            seed: [2; 32],
        };
        let pool = Pool::create(disk.storage(), &create, options(1, background)).expect("a pool");
        let root = Filesystem::format_root(Timestamp::default(), 0, 0, 0o755);
        let mounts = ["a", "b"].map(|name| {
            pool.create_volume(name, &root).expect("a volume");
            mounted(&pool, name, None)
        });
        let nodes = FILES.map(|file| {
            let fs = &mounts[usize::from(file.volume() == "b")];
            let made = fs.mknod(&Caller::root(), NodeId::ROOT, file.name(), 0o100_644, 0);
            made.expect("a file").node
        });
        let world = World {
            disk,
            pool,
            mounts,
            nodes,
            progress: Progress::default(),
            made: Mutex::default(),
            death: Mutex::default(),
        };
        FILES.into_iter().for_each(|file| world.write(file, 0));
        world.pool.checkpoint().expect("a checkpoint");
        world
    }

    fn fs(&self, file: File) -> &Filesystem {
        &self.mounts[usize::from(file.volume() == "b")]
    }

    fn write(&self, file: File, number: u64) {
        self.progress.begun[file as usize].store(number, Ordering::Relaxed);
        let (node, bytes) = (self.nodes[file as usize], vec![number as u8; file.len()]);
        let written = self.fs(file).write(node, Handle(0), 0, &bytes, WriteFlags::default());
        written.expect("there is room");
        self.progress.done[file as usize].store(number, Ordering::Relaxed);
    }

    /// Writes rising numbers to two files of two volumes, to the second only after the first.
    fn write_in_turn(&self) {
        for number in 1..=NUMBERS {
            self.write(File::First, number);
            self.write(File::Second, number);
        }
    }

    fn write_blocks(&self) {
        for number in 1..=NUMBERS {
            self.write(File::Blocks, number);
            if number == 2 {
                let node = self.nodes[File::Blocks as usize];
                self.fs(File::Blocks).fsync(node, false).expect("an fsync");
            }
        }
    }

    /// Does something, and returns its answer with what a state from meanwhile must show.
    fn between<T>(&self, act: impl FnOnce() -> T) -> (T, Bounds) {
        let least = read_all(&self.progress.done);
        let answer = act();
        (answer, Bounds { least, most: read_all(&self.progress.begun) })
    }

    fn read(&self) {
        for _ in 0..2 * ROUNDS {
            let file = File::Blocks;
            let look = || number(self.fs(file), self.nodes[file as usize], file);
            let (found, bounds) = self.between(look);
            let (least, most) = (bounds.least[file as usize], bounds.most[file as usize]);
            assert!((least..=most).contains(&found), "read {found}, not {least} to {most}");
        }
    }

    /// Freezes both volumes at one instant, twice, and deletes the older snapshots.
    fn freeze(&self) {
        let volumes = [0, 1].map(|nth: usize| self.mounts[nth].volume().id());
        for (nth, name) in SNAPSHOTS.into_iter().enumerate() {
            let (made, bounds) = self.between(|| self.pool.create_group(&volumes, name));
            made.expect("snapshots");
            let found = numbers(&self.pool, Some(name));
            bounds.verify(found, name);
            self.made.lock().expect("nobody panicked").frozen[nth] = Some(found);
        }
        self.made.lock().expect("nobody panicked").deleting[0] = true;
        for volume in volumes {
            self.pool.delete_snapshot(volume, SNAPSHOTS[0]).expect("it was there");
        }
        while self.pool.run_reclaim().expect("space is reclaimed") {}
        self.verify_frozen(&self.pool, "while others work");
    }

    fn verify_frozen(&self, pool: &Arc<Pool>, what: &str) {
        let made = self.made.lock().expect("nobody panicked").clone();
        verify_made(pool, &made, what);
    }

    fn checkpoint(&self) {
        for _ in 0..ROUNDS {
            self.pool.checkpoint().expect("a checkpoint");
            self.pool.sync().expect("a sync");
        }
    }

    /// What is in the image, if the process dies now.
    fn dies(&self, image: Image) {
        let bounds =
            Bounds { least: read_all(&self.progress.done), most: read_all(&self.progress.begun) };
        let made = self.made.lock().expect("nobody panicked").clone();
        *self.death.lock().expect("nobody panicked") = Some(Death { image, bounds, made });
    }
}

fn verify_made(pool: &Arc<Pool>, made: &Made, what: &str) {
    for (nth, name) in SNAPSHOTS.into_iter().enumerate() {
        if let Some(frozen) = made.frozen[nth]
            && !made.deleting[nth]
        {
            assert_eq!(numbers(pool, Some(name)), frozen, "{what}: {name}");
        }
    }
}

/// Opens what a dead process left, after looking whether it is sound.
fn reopened(storage: Storage, what: &str) -> Arc<Pool> {
    let options_of_check = check::Options { data: true, ..check::Options::default() };
    let report = check(&storage, &options_of_check, &mut |_| ()).expect("it is a pool");
    assert!(report.is_clean(), "{what}: {:#?}", report.problems);
    Pool::open(storage, options(2, false)).expect("a pool that is sound opens")
}

fn everything_at_once() {
    let world = Arc::new(World::new(true));
    let before = shuttle::rand::thread_rng().gen_range(1..CHANGES);
    let dying = Arc::downgrade(&world);
    world.disk.copy_before(before, move |image| {
        dying.upgrade().expect("it is still there").dies(image);
    });
    let tasks: [fn(&World); 5] =
        [World::write_in_turn, World::write_blocks, World::read, World::freeze, World::checkpoint];
    let threads = tasks.map(|task| {
        let world = Arc::clone(&world);
        thread::spawn(move || task(&world))
    });
    threads.into_iter().for_each(|thread| thread.join().expect("a thread ends well"));
    assert_eq!(world.pool.status().read_only, None);

    // As it is at the end, in this process and in the next.
    let all = Bounds { least: [NUMBERS; 3], most: [NUMBERS; 3] };
    all.verify(numbers(&world.pool, None), "at the end");
    world.verify_frozen(&world.pool, "at the end");
    world.pool.abandon();
    let pool = reopened(storage_of(&world.disk.image()), "after the end");
    all.verify(numbers(&pool, None), "after the end");
    world.verify_frozen(&pool, "after the end");
    pool.abandon();

    if let Some(death) = world.death.lock().expect("nobody panicked").take() {
        DEATHS.set(DEATHS.get() + 1);
        let what = format!("died before change {before}");
        let pool = reopened(storage_of(&death.image), &what);
        death.bounds.verify(numbers(&pool, None), &what);
        verify_made(&pool, &death.made, &what);
        pool.abandon();
    }
}

/// The same with nobody but a reader between a writer and checkpoints, which is as short as it can be.
fn reading_what_is_given_back() {
    let world = Arc::new(World::new(false));
    let tasks: [fn(&World); 3] = [World::read, World::write_blocks, World::checkpoint];
    let threads = tasks.map(|task| {
        let world = Arc::clone(&world);
        thread::spawn(move || task(&world))
    });
    threads.into_iter().for_each(|thread| thread.join().expect("a thread ends well"));
    world.pool.abandon();
}

#[test]
fn every_state_that_is_seen_is_one_that_was() {
    try_schedules("pool", 300, everything_at_once);
    let deaths = DEATHS.get();
    println!("pool: {deaths} deaths");
    assert!(
        deaths >= 100,
        "{deaths} deaths: there are fewer changes of the devices than was thought"
    );
}

#[test]
fn what_is_read_is_not_given_back() {
    try_schedules("readers", 1000, reading_what_is_given_back);
}

#[test]
fn a_freeze_in_two_steps_is_found() {
    assert!(is_found(Planted::FreezeInTwoSteps, 400, everything_at_once));
}

#[test]
fn space_given_back_before_the_superblock_is_written_is_found() {
    assert!(is_found(Planted::ReleaseBeforeSuperblock, 400, everything_at_once));
}

#[test]
fn space_given_back_while_it_is_read_is_found() {
    assert!(is_found(Planted::ReadersNotAwaited, 8000, reading_what_is_given_back));
}

#[test]
fn a_snapshot_in_the_midst_of_operations_is_found() {
    assert!(is_found(Planted::GateLeftOpen, 400, everything_at_once));
}
