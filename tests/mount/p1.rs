//! Promise P1: a snapshot holds every call that had returned before its `mkdir`, on every file,
//! synced or not, stores to shared mappings included; and a file's frozen content never moves.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::mapping::Mapping;
use crate::random::Random;
use crate::support::TestMount;

const FILES: usize = 24;
const FILE_BYTES: usize = 256 << 10;
const ROUNDS: usize = 25;
const NOISE_FILES: usize = 4;
const NOISE_SLOTS: u64 = 64;
const SLOT_BYTES: u64 = 3000;

/// A file that stays open, and what it holds.
struct Watched {
    file: File,
    mapping: Option<Mapping>,
    content: Vec<u8>,
}

impl Watched {
    fn new(m: &TestMount, number: usize) -> Self {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        let file = options.open(m.path(&format!("watched-{number}"))).unwrap();
        file.set_len(FILE_BYTES as u64).unwrap();
        let mapping = (number % 2 == 1).then(|| Mapping::new(&file, FILE_BYTES));
        Watched { file, mapping, content: vec![0; FILE_BYTES] }
    }

    /// Changes some ranges, by call or by store, and syncs nothing.
    fn scribble(&mut self, random: &mut Random) {
        for _ in 0..1 + random.below(6) {
            let len = 1 + random.below(20_000);
            let at = random.below(FILE_BYTES - len);
            let bytes = random.bytes(len);
            match &mut self.mapping {
                Some(mapping) => mapping.store(at, &bytes),
                None => self.file.write_all_at(&bytes, at as u64).unwrap(),
            }
            self.content[at..at + len].copy_from_slice(&bytes);
        }
    }
}

/// Writes ever larger numbers into the slots of a file; `done` is the last that was written.
fn make_noise(file: &File, done: &AtomicU64, stop: &AtomicBool) {
    for number in 1u64.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let slot = vec![number.to_ne_bytes(); SLOT_BYTES as usize / 8];
        let at = number % NOISE_SLOTS * SLOT_BYTES;
        file.write_all_at(slot.as_flattened(), at).unwrap();
        done.store(number, Ordering::Release);
    }
}

/// The number in each slot; every slot must have been written as a whole up to `done`.
fn check_noise(frozen: &[u8], done: u64) {
    for slot in 0..NOISE_SLOTS {
        // The last number up to `done` that went there.
        let expected = (done.saturating_sub(NOISE_SLOTS - 1)..=done)
            .rev()
            .find(|number| number % NOISE_SLOTS == slot);
        let at = (slot * SLOT_BYTES) as usize;
        let Some(bytes) = frozen.get(at..at + 8) else {
            assert!(expected.is_none_or(|number| number == 0), "slot {slot} of {done} is missing");
            continue;
        };
        let found = u64::from_ne_bytes(bytes.try_into().unwrap());
        assert!(
            found >= expected.unwrap_or(0),
            "slot {slot} holds {found}, but {expected:?} had returned before"
        );
    }
}

#[test]
fn a_snapshot_holds_every_call_that_had_returned() {
    hold_what_had_returned(TestMount::with_helper(), 20_261_120);
}

#[test]
fn and_so_without_a_helper_process() {
    hold_what_had_returned(TestMount::new(), 20_261_121);
}

fn hold_what_had_returned(m: TestMount, seed: u64) {
    let mut random = Random::new(seed);
    let mut watched: Vec<_> = (0..FILES).map(|number| Watched::new(&m, number)).collect();
    let noise: Vec<_> =
        (0..NOISE_FILES).map(|n| File::create(m.path(&format!("noise-{n}"))).unwrap()).collect();
    let done: Vec<_> = (0..NOISE_FILES).map(|_| AtomicU64::new(0)).collect();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (file, done) in noise.iter().zip(&done) {
            scope.spawn(|| make_noise(file, done, &stop));
        }
        let _stopped = StopOnDrop(&stop);
        for round in 0..ROUNDS {
            watched.iter_mut().for_each(|file| file.scribble(&mut random));
            let times: Vec<_> = watched.iter().map(|w| w.file.metadata().unwrap()).collect();
            let then: Vec<_> = watched.iter().map(|file| file.content.clone()).collect();
            let returned: Vec<_> = done.iter().map(|done| done.load(Ordering::Acquire)).collect();
            let name = format!(".snapshots/round-{round}");
            fs::create_dir(m.path(&name)).unwrap();
            watched.iter_mut().for_each(|file| file.scribble(&mut random));
            for (number, (content, live)) in then.iter().zip(&times).enumerate() {
                let path = m.path(&format!("{name}/watched-{number}"));
                let frozen = fs::read(&path).unwrap();
                let at = frozen.iter().zip(content).position(|(a, b)| a != b);
                assert!(frozen == *content, "round {round}, file {number}, seed {seed}: {at:?}");
                // A store to a mapping moves the mtime when the page is first dirtied; the call
                // above has asked for it after that.
                let stat = fs::metadata(&path).unwrap();
                assert!((stat.mtime(), stat.mtime_nsec()) >= (live.mtime(), live.mtime_nsec()));
            }
            for (number, returned) in returned.iter().enumerate() {
                let frozen = fs::read(m.path(&format!("{name}/noise-{number}"))).unwrap();
                check_noise(&frozen, *returned);
                let again = fs::read(m.path(&format!("{name}/noise-{number}"))).unwrap();
                assert!(frozen == again, "a snapshot has changed");
            }
        }
    });
    // All of them once more, from the disk.
    let mut m = m;
    drop((watched, noise));
    m.remount();
    assert_eq!(fs::read_dir(m.path(".snapshots")).unwrap().count(), ROUNDS);
}

/// Ends the writers also when an assertion fails, so that the scope does not wait for ever.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
