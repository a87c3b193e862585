//! fsx: random operations on a file, each read compared with what must be there.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::random::Random;
use crate::support::{Place, can_mount};

/// Operations of all runs together; `AMBERFS_FSX_OPERATIONS` gives another number.
const OPERATIONS: u64 = 100_000;
const SEEDS: [u64; 3] = [1, 20_261_126, 987_654_321];
/// One operation in so many is on a huge file, where it takes about ten times as long, and as many are beside
/// snapshots.
const PART: u64 = 20;
/// Operations of one process: fsx 0.3.2 keeps the mapping of every mapped read, so that the kernel has more and
/// more to look through, and in the end refuses another.
const MAX_OPERATIONS: u64 = 10_000;

#[derive(Debug, Clone, Copy)]
struct Kind {
    file_bytes: u64,
    operation_bytes: u64,
}

const SMALL: Kind = Kind { file_bytes: 256 << 10, operation_bytes: 64 << 10 };
const HUGE: Kind = Kind { file_bytes: 1 << 30, operation_bytes: 256 << 10 };

impl Kind {
    /// No operation of no bytes: POSIX has fallocate refuse that, which fsx takes for a missing feature.
    fn configuration(self) -> String {
        let Kind { file_bytes, operation_bytes } = self;
        format!(
            "flen = {file_bytes}\n[opsize]\nmin = 1\nmax = {operation_bytes}\n[weights]\n\
             close_open = 1\nread = 10\nwrite = 10\nmapread = 10\nmapwrite = 10\ninvalidate = 1\n\
             truncate = 5\nfsync = 0.2\nfdatasync = 0.2\nposix_fallocate = 2\npunch_hole = 4\n\
             sendfile = 2\nposix_fadvise = 1\ncopy_file_range = 4\n"
        )
    }
}

fn operations() -> u64 {
    let given = std::env::var("AMBERFS_FSX_OPERATIONS").ok();
    given.map_or(OPERATIONS, |text| text.parse().unwrap())
}

/// Runs fsx with each seed on a mount, with `beside` at the same time, and checks the pool; an error is what fsx
/// said when it found something.
fn run(
    kind: Kind,
    operations: u64,
    beside: impl Fn(&Place, &AtomicBool) + Sync,
) -> Result<(), String> {
    let place = Place::new();
    place.mkdir("mnt");
    std::fs::write(place.at("fsx.toml"), kind.configuration()).unwrap();
    place.amberfs(&["mount", "--create", "pool", "mnt"]).ok();
    let over = AtomicBool::new(false);
    let outcome = thread::scope(|scope| {
        let beside = scope.spawn(|| beside(&place, &over));
        let each = operations.div_ceil(SEEDS.len() as u64);
        let outcome = SEEDS.into_iter().try_for_each(|seed| run_seed(&place, kind, seed, each));
        over.store(true, Ordering::Relaxed);
        beside.join().unwrap();
        outcome
    });
    place.amberfs(&["umount", "mnt"]).ok();
    place.amberfs(&["-q", "check", "pool", "--data"]).ok();
    outcome
}

fn run_seed(place: &Place, kind: Kind, seed: u64, operations: u64) -> Result<(), String> {
    let mut done = 0;
    while done < operations {
        let part = MAX_OPERATIONS.min(operations - done);
        let seed = seed + done;
        let script = format!("fsx -f fsx.toml -S {seed} -N {part} -P . mnt/file 2>&1");
        let outcome = place.shell(&script);
        if outcome.code != 0 || !outcome.out.contains("A-OK") {
            return Err(format!("`{script}`, {kind:?}:\n{}{}", outcome.out, outcome.err));
        }
        done += part;
    }
    println!("fsx, {kind:?}, seed {seed}: {done} operations");
    Ok(())
}

/// As [`run`], where there must be nothing to find.
fn run_well(kind: Kind, operations: u64, beside: impl Fn(&Place, &AtomicBool) + Sync) {
    if !can_mount() {
        return;
    }
    run(kind, operations, beside).unwrap_or_else(|found| panic!("{found}"));
}

fn nothing(_: &Place, _: &AtomicBool) {}

#[test]
fn on_a_small_file() {
    run_well(SMALL, operations() * (PART - 2) / PART, nothing);
}

#[test]
fn on_a_huge_file() {
    run_well(HUGE, operations() / PART, nothing);
}

/// What another one writes into the file is to fsx what a lost write would be.
#[test]
fn planted_bytes_that_fsx_did_not_write_are_found() {
    const CHANGES: u64 = 2000;
    if !can_mount() {
        return;
    }
    let found = run(SMALL, 30_000, |place, over| {
        let mut random = Random::new(3);
        for _ in 0..CHANGES {
            if over.load(Ordering::Relaxed) {
                return;
            }
            thread::sleep(Duration::from_millis(5));
            let Ok(file) = File::options().write(true).open(place.at("mnt/file")) else { continue };
            // Within the file, which fsx makes longer and shorter.
            let len = file.metadata().map_or(0, |metadata| metadata.len());
            let at = random.below(len.max(1) as usize) as u64;
            drop(file.write_all_at(&random.bytes(64), at));
        }
    });
    let found = found.expect_err("fsx saw nothing");
    assert!(found.contains("miscompare") || found.contains("Size error"), "{found}");
}

/// The exerciser compares the snapshots themselves; here the live file must not notice them.
#[test]
fn while_snapshots_come_and_go() {
    run_well(SMALL, operations() / PART, |place, over| {
        const KEPT: usize = 5;
        let dir = |number: usize| place.at(format!("mnt/.snapshots/{number}"));
        let mut made = 0;
        while !over.load(Ordering::Relaxed) {
            std::fs::create_dir(dir(made)).unwrap();
            if made >= KEPT {
                std::fs::remove_dir(dir(made - KEPT)).unwrap();
            }
            made += 1;
            thread::sleep(Duration::from_millis(5));
        }
        assert!(made > KEPT, "only {made} snapshots were made");
    });
}
