//! Random operations on one file while snapshots of it are made and deleted, each compared with what
//! the file held at that moment.
//!
//! Between two operations that moment is one state, and the snapshot must be it. While operations run,
//! every byte must be what it was in some state from the last one that had been reached when the
//! `mkdir` began to the last one that was under way when it returned: a call that still runs may be in
//! it in part.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::fs::{FallocateFlags, copy_file_range, fallocate};

use crate::mapping::Mapping;
use crate::random::Random;
use crate::support::{Place, can_mount};

const SEEDS: [u64; 3] = [3, 20_261_126, 555_555];
/// Operations of a run; `AMBERFS_FSX_OPERATIONS` divided by the number of runs where it is given.
const OPERATIONS: u64 = 3000;
const RUNS: u64 = 6;
const MAX_BYTES: usize = 192 << 10;
const MAX_PART: usize = 40 << 10;
const KEPT_SNAPSHOTS: usize = 12;
const BLOCK: usize = 4096;

/// Contents that the file has had: `done` of them are reached, one more may be under way.
#[derive(Debug, Default)]
struct History {
    /// Number of the first one in `states`.
    first: usize,
    states: VecDeque<Vec<u8>>,
    done: usize,
    /// The oldest that a snapshot being made can show.
    pinned: Option<usize>,
}

impl History {
    fn push(&mut self, state: Vec<u8>) {
        self.states.push_back(state);
        let keep = self.pinned.unwrap_or(self.done).min(self.done);
        while self.first < keep {
            self.states.pop_front();
            self.first += 1;
        }
    }

    fn last(&self) -> usize {
        self.first + self.states.len() - 1
    }
}

/// What is done to the file; `at` and `len` are in bytes.
#[derive(Debug, Clone)]
enum Step {
    Write { at: usize, bytes: Vec<u8> },
    WriteDirect { at: usize, bytes: Vec<u8> },
    Store { at: usize, bytes: Vec<u8> },
    SetLen { len: usize },
    Allocate { at: usize, len: usize, flags: FallocateFlags },
    Copy { from: usize, to: usize, len: usize },
    Reopen,
    Sync,
    Read { at: usize, len: usize },
}

fn step(r: &mut Random, size: usize) -> Step {
    let at = r.below(MAX_BYTES - MAX_PART);
    let len = 1 + r.below(MAX_PART);
    let flags = [
        FallocateFlags::empty(),
        FallocateFlags::KEEP_SIZE,
        FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        FallocateFlags::ZERO_RANGE,
        FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
    ];
    match r.below(20) {
        0..=4 => Step::Write { at, bytes: r.bytes(len) },
        5 => {
            let at = at / BLOCK * BLOCK;
            Step::WriteDirect { at, bytes: r.bytes(len.next_multiple_of(BLOCK)) }
        }
        6..=8 if size > 0 => {
            let at = r.below(size);
            let len = len.min(size - at);
            Step::Store { at, bytes: r.bytes(len) }
        }
        9 => Step::SetLen { len: at },
        10..=12 => Step::Allocate { at, len, flags: *r.pick(&flags) },
        13..=14 if size > 2 * BLOCK => {
            let len = len.min(size / 2);
            let aligned = if r.below(2) == 0 { BLOCK } else { 1 };
            let from = r.below(size - len + 1) / aligned * aligned;
            Step::Copy { from, to: at / aligned * aligned, len }
        }
        15 => Step::Reopen,
        16 => Step::Sync,
        _ => Step::Read { at, len },
    }
}

/// The content after a step; none where the step does not happen.
fn after(content: &[u8], step: &Step) -> Option<Vec<u8>> {
    let mut next = content.to_vec();
    let mut put = |at: usize, bytes: &[u8]| {
        next.resize(next.len().max(at + bytes.len()), 0);
        next[at..at + bytes.len()].copy_from_slice(bytes);
    };
    match step {
        Step::Write { at, bytes } | Step::WriteDirect { at, bytes } | Step::Store { at, bytes } => {
            put(*at, bytes);
        }
        Step::SetLen { len } => next.resize(*len, 0),
        Step::Copy { from, to, len } => {
            let overlap = from < &(to + len) && to < &(from + len);
            if overlap {
                return None;
            }
            put(*to, &content[*from..from + len]);
        }
        Step::Allocate { at, len, flags } => {
            let keeps = flags.contains(FallocateFlags::KEEP_SIZE);
            let size = if keeps { next.len() } else { next.len().max(at + len) };
            next.resize(size, 0);
            let zeroes = flags.intersects(FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE);
            if zeroes {
                next[(*at).min(size)..(at + len).min(size)].fill(0);
            }
        }
        Step::Reopen | Step::Sync | Step::Read { .. } => {}
    }
    Some(next)
}

struct Exerciser {
    path: PathBuf,
    file: File,
    direct: File,
}

fn open(path: &Path, flags: i32) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).custom_flags(flags);
    options.open(path).unwrap()
}

impl Exerciser {
    fn new(path: PathBuf) -> Self {
        let (file, direct) = (open(&path, 0), open(&path, libc::O_DIRECT));
        Exerciser { path, file, direct }
    }

    fn run(&mut self, step: &Step, content: &[u8]) {
        match step {
            Step::Write { at, bytes } => self.file.write_all_at(bytes, *at as u64).unwrap(),
            Step::WriteDirect { at, bytes } => self.direct.write_all_at(bytes, *at as u64).unwrap(),
            Step::Store { at, bytes } => Mapping::new(&self.file, content.len()).store(*at, bytes),
            Step::SetLen { len } => self.file.set_len(*len as u64).unwrap(),
            Step::Allocate { at, len, flags } => {
                fallocate(&self.file, *flags, *at as u64, *len as u64).unwrap();
            }
            Step::Copy { from, to, len } => {
                let (mut from, mut to, mut left) = (*from as u64, *to as u64, *len);
                while left > 0 {
                    let (source, target) = (Some(&mut from), Some(&mut to));
                    left -= copy_file_range(&self.file, source, &self.file, target, left).unwrap();
                }
            }
            Step::Reopen => *self = Exerciser::new(self.path.clone()),
            Step::Sync => self.file.sync_all().unwrap(),
            Step::Read { at, len } => {
                let mut bytes = vec![0; *len];
                let got = self.file.read_at(&mut bytes, *at as u64).unwrap();
                let from = (*at).min(content.len());
                let to = (at + len).min(content.len());
                assert!(bytes[..got] == content[from..to], "read {at}, {len}");
            }
        }
    }
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap()
}

/// Makes snapshots while operations run, until `over`; returns how many.
fn snapshots_beside(mnt: &Path, history: &Mutex<History>, over: &AtomicBool) -> usize {
    let mut made = 0;
    while !over.load(Ordering::Relaxed) {
        let from = {
            let mut history = history.lock().unwrap();
            history.pinned = Some(history.done);
            history.done
        };
        let dir = mnt.join(format!(".snapshots/beside-{made}"));
        fs::create_dir(&dir).unwrap();
        let states = {
            let mut history = history.lock().unwrap();
            history.pinned = None;
            history.states.range(from - history.first..).cloned().collect::<Vec<_>>()
        };
        let frozen = read(&dir.join("file"));
        // A call that makes the file longer and still runs may have come half way.
        let passes = |pair: &[Vec<u8>]| {
            let (a, b) = (pair[0].len(), pair[1].len());
            (a.min(b)..=a.max(b)).contains(&frozen.len())
        };
        let sized = states[0].len() == frozen.len() || states.windows(2).any(passes);
        assert!(sized, "snapshot {made}: {} bytes are in no state", frozen.len());
        let known =
            |at: usize| states.iter().any(|s| s.get(at).copied().unwrap_or(0) == frozen[at]);
        let wrong = (0..frozen.len()).find(|at| !known(*at));
        assert_eq!(wrong, None, "snapshot {made}: a byte that no state from {from} on has");
        fs::remove_dir(&dir).unwrap();
        made += 1;
    }
    made
}

/// Snapshots that are kept, with what the file held.
struct Kept {
    mnt: PathBuf,
    snapshots: Vec<(u64, Vec<u8>)>,
}

impl Kept {
    fn dir(&self, number: u64) -> PathBuf {
        self.mnt.join(format!(".snapshots/{number}"))
    }

    /// Makes one, and compares and deletes any of the kept ones if they are many.
    fn make(&mut self, number: u64, content: &[u8], random: &mut Random) {
        fs::create_dir(self.dir(number)).unwrap();
        self.snapshots.push((number, content.to_vec()));
        if self.snapshots.len() > KEPT_SNAPSHOTS {
            let chosen = random.below(self.snapshots.len());
            self.compare(chosen);
            let (number, _) = self.snapshots.remove(chosen);
            fs::remove_dir(self.dir(number)).unwrap();
        }
    }

    fn compare(&self, index: usize) {
        let (number, content) = &self.snapshots[index];
        let frozen = read(&self.dir(*number).join("file"));
        let differs = frozen.iter().zip(content).position(|(a, b)| a != b);
        assert!(frozen == *content, "snapshot {number}: differs at {differs:?}");
    }
}

/// What the test does to the file without noting it, at one of its operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// A byte changes, as if a write had been lost or another one had come.
    Byte,
    /// A snapshot holds what the file had an operation later.
    LateSnapshot,
}

/// The operation at which the file differs from what is noted; it comes after some of every kind.
const FAULTY: u64 = 200;

fn exercise(seed: u64, beside: bool, fault: Fault) {
    if !can_mount() {
        return;
    }
    println!("seed {seed}");
    let given = std::env::var("AMBERFS_FSX_OPERATIONS").ok();
    let operations = given.map_or(OPERATIONS, |text| text.parse::<u64>().unwrap() / RUNS);
    let place = Place::new();
    let mnt = place.mkdir("mnt");
    place.amberfs(&["mount", "--create", "pool", "mnt"]).ok();
    let mut random = Random::new(seed);
    let mut exerciser = Exerciser::new(mnt.join("file"));
    let mut kept = Kept { mnt: mnt.clone(), snapshots: Vec::new() };
    let history =
        Mutex::new(History { states: VecDeque::from([Vec::new()]), ..History::default() });
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let making = beside.then(|| scope.spawn(|| snapshots_beside(&mnt, &history, &over)));
        let _over = SetOnDrop(&over);
        let mut content = Vec::new();
        for number in 0..operations {
            let step = step(&mut random, content.len());
            let Some(next) = after(&content, &step) else { continue };
            history.lock().unwrap().push(next.clone());
            exerciser.run(&step, &content);
            content = next;
            let mut history = history.lock().unwrap();
            history.done = history.last();
            drop(history);
            if number == FAULTY && fault != Fault::None {
                if fault == Fault::LateSnapshot {
                    kept.snapshots.push((number, content.clone()));
                }
                content = vec![1; MAX_PART];
                fs::write(&exerciser.path, &content).unwrap();
                match fault {
                    Fault::Byte => exerciser.file.write_all_at(&[2], MAX_PART as u64 / 2).unwrap(),
                    _ => fs::create_dir(kept.dir(number)).unwrap(),
                }
                break;
            }
            if random.below(20) == 0 {
                kept.make(number, &content, &mut random);
            }
            if random.below(50) == 0 {
                assert!(read(&exerciser.path) == content, "seed {seed}: after step {number}");
            }
        }
        assert!(read(&exerciser.path) == content, "seed {seed}: at the end");
        over.store(true, Ordering::Relaxed);
        let made = making.map_or(1, |thread| thread.join().unwrap());
        assert!(made > 0, "no snapshot was made beside the operations");
    });
    (0..kept.snapshots.len()).for_each(|index| kept.compare(index));
    drop(exerciser);
    place.amberfs(&["umount", "mnt"]).ok();
    place.amberfs(&["-q", "check", "pool", "--data"]).ok();
    place.amberfs(&["mount", "pool", "mnt"]).ok();
    (0..kept.snapshots.len()).for_each(|index| kept.compare(index));
    place.amberfs(&["umount", "mnt"]).ok();
}

/// Ends the other thread, too, when this one has failed.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn snapshots_between_operations_are_exact() {
    SEEDS.into_iter().for_each(|seed| exercise(seed, false, Fault::None));
}

#[test]
fn planted_changes_that_nobody_noted_are_found() {
    if !can_mount() {
        return;
    }
    for (fault, said) in [(Fault::Byte, "at the end"), (Fault::LateSnapshot, "differs at")] {
        let seen = std::panic::catch_unwind(|| exercise(SEEDS[0], false, fault));
        let seen = seen.expect_err("nobody saw it");
        let text = seen.downcast_ref::<String>().expect("it says what it saw");
        assert!(text.contains(said), "{fault:?}: {text}");
    }
}

#[test]
fn snapshots_beside_operations_hold_what_there_was() {
    SEEDS.into_iter().for_each(|seed| exercise(seed, true, Fault::None));
}
