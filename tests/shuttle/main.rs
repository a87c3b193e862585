//! Schedules of threads on the engine's real code: with `--cfg shuttle` its locks, atomics and threads are
//! shuttle's, which runs one thread at a time and chooses at every call of theirs which one goes on.
//!
//!     make schedules
//!
//! `AMBERFS_SCHEDULES` multiplies the number of schedules, `AMBERFS_SEED` chooses others. What fails prints its
//! schedule, which `shuttle::replay` repeats. Without the cfg there is nothing here.
#![cfg(shuttle)]

mod cache;
mod devices;
#[path = "../support/mounting.rs"]
mod mounting;
mod pool;

use std::panic::{AssertUnwindSafe, catch_unwind};

use amberfs::threads::{Planted, plant};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, FailurePersistence, Runner};

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Schedules with this many changes of the thread that comes first.
const DEPTH: usize = 4;
/// The decoders and the tree have pages in their frames.
const STACK_BYTES: usize = 1 << 20;

fn config(persistence: FailurePersistence) -> Config {
    let mut config = Config::new();
    config.stack_size = STACK_BYTES;
    config.silence_warnings = true;
    config.failure_persistence = persistence;
    config
}

/// Half of the schedules choose a thread at random at every step, half have priorities that change rarely.
fn schedulers(seed: u64, count: u64) -> [Box<dyn Scheduler + Send>; 2] {
    let half = count as usize / 2;
    [
        Box::new(RandomScheduler::new_from_seed(seed, half)),
        Box::new(PctScheduler::new_from_seed(seed, DEPTH, half)),
    ]
}

/// Tries `count` schedules of `test`, in which no thread may panic and all must end.
fn try_schedules(name: &str, count: u64, test: fn()) {
    let (seed, count) = (setting("AMBERFS_SEED", 1), count * setting("AMBERFS_SCHEDULES", 1));
    println!("{name}: {count} schedules from AMBERFS_SEED={seed}");
    for scheduler in schedulers(seed, count) {
        Runner::new(scheduler, config(FailurePersistence::Print)).run(test);
    }
}

/// Whether one of `count` schedules of `test` fails with a fault planted.
fn is_found(fault: Planted, count: u64, test: fn()) -> bool {
    plant(Some(fault));
    let found = schedulers(1, count).into_iter().any(|scheduler| {
        let run = || Runner::new(scheduler, config(FailurePersistence::None)).run(test);
        catch_unwind(AssertUnwindSafe(run)).is_err()
    });
    plant(None);
    found
}
