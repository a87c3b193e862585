//! fsx: random operations on a file, each read compared with what must be there.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

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

/// Runs fsx with each seed on a mount, with `beside` at the same time, and checks the pool.
fn run(kind: Kind, operations: u64, beside: impl Fn(&Place, &AtomicBool) + Sync) {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    place.mkdir("mnt");
    std::fs::write(place.at("fsx.toml"), kind.configuration()).unwrap();
    place.amberfs(&["mount", "--create", "pool", "mnt"]).ok();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let beside = scope.spawn(|| beside(&place, &over));
        let each = operations.div_ceil(SEEDS.len() as u64);
        for seed in SEEDS {
            let mut done = 0;
            while done < each {
                let operations = MAX_OPERATIONS.min(each - done);
                let seed = seed + done;
                let script =
                    format!("fsx -f fsx.toml -S {seed} -N {operations} -P . mnt/file 2>&1");
                let outcome = place.shell(&script);
                if outcome.code != 0 || !outcome.out.contains("A-OK") {
                    over.store(true, Ordering::Relaxed);
                    panic!("`{script}`, {kind:?}:\n{}{}", outcome.out, outcome.err);
                }
                done += operations;
            }
            println!("fsx, {kind:?}, seed {seed}: {done} operations");
        }
        over.store(true, Ordering::Relaxed);
        beside.join().unwrap();
    });
    place.amberfs(&["umount", "mnt"]).ok();
    place.amberfs(&["-q", "check", "pool", "--data"]).ok();
}

fn nothing(_: &Place, _: &AtomicBool) {}

#[test]
fn on_a_small_file() {
    run(SMALL, operations() * (PART - 2) / PART, nothing);
}

#[test]
fn on_a_huge_file() {
    run(HUGE, operations() / PART, nothing);
}

/// The exerciser compares the snapshots themselves; here the live file must not notice them.
#[test]
fn while_snapshots_come_and_go() {
    run(SMALL, operations() / PART, |place, over| {
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
