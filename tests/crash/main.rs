//! The crash matrix: short random histories on a recorded pool; after every point of the log, and with what
//! was not synced there, dropped, reordered or torn, the pool opens, is sound, and holds what was promised.
//!
//! A failure names the history, the point of the log, and what became of what was not synced; a history is
//! the same each time. `AMBERFS_CRASH_RUNS` multiplies the number of histories (`make soak`).

mod state;
mod verify;
mod workload;

use std::sync::Arc;

use amberfs::device::{CrashStates, DeviceName, DeviceOp, Fate, Image, Recorder, Storage};
use amberfs::fs::{Caller, NodeId};

use verify::{Crash, Reopened, verify};
use workload::{OPS, Op, Random, World};

/// Crashes of more uncertain operations are sampled, not enumerated.
const MAX_ENUMERATED: usize = 4;

fn runs(few: u64) -> u64 {
    let factor = std::env::var("AMBERFS_CRASH_RUNS").ok().and_then(|runs| runs.parse().ok());
    few * factor.unwrap_or(1)
}

/// Files with content, so that every operation has something to work on.
fn prepared(seed: u64) -> World {
    let mut world = World::new(seed);
    for op in [Op::Mkdir, Op::Create, Op::WriteBlocks, Op::Create, Op::WriteSmall, Op::Syncfs] {
        world.step(op);
    }
    world
}

/// All crashes at one point of the log that are to be tried.
fn crashes(states: &CrashStates, seeds: u64, f: &mut dyn FnMut(Image, String)) {
    let uncertain = states.uncertain();
    if uncertain.len() <= MAX_ENUMERATED {
        for kept in 0..1u32 << uncertain.len() {
            let fate = |op: usize| {
                let at = uncertain.iter().position(|other| *other == op);
                if at.is_some_and(|at| kept >> at & 1 == 1) { Fate::Kept } else { Fate::Dropped }
            };
            f(states.crash_with(|op, _| fate(op)), format!("kept {kept:b} of {uncertain:?}"));
        }
    } else {
        f(states.crash_losing_all(), "all lost".into());
    }
    if !uncertain.is_empty() {
        for seed in 0..seeds {
            f(states.crash(seed), format!("crash seed {seed}"));
        }
    }
}

/// Tries every point of a history's log.
fn try_all(world: &World, name: &str, seeds: u64) -> u64 {
    let mut states = world.recorder.states();
    let first = world.steps[0].done;
    states.step_to(first);
    let mut random = Random(first as u64);
    let mut tried = 0;
    loop {
        let at = states.at();
        let what = format!("{name}, log {at}");
        let killed = format!("{what}, killed");
        let step = verify(world, &states.image().storage(), at, Crash::Kill, &killed);
        if random.below(8) == 0 {
            let (recorder, storage) = replayed(world, at);
            let second = Second { world, at, crash: Crash::Kill, step, what: killed };
            again(&second, &recorder, storage);
        }
        if let Some(image) = states.killed_in_next(at as u64) {
            verify(world, &image.storage(), at, Crash::Kill, &format!("{what}, killed in a write"));
        }
        crashes(&states, seeds, &mut |image, how| {
            let what = format!("{what}, {how}");
            let step = verify(world, &image.storage(), at, Crash::Power, &what);
            tried += 1;
            if random.below(24) == 0 {
                let (recorder, storage) = Recorder::wrap(&image.storage(), image);
                let second = Second { world, at, crash: Crash::Power, step, what };
                again(&second, &recorder, storage);
            }
        });
        if !states.step() {
            return tried;
        }
    }
}

/// A storage on which a history's operations up to a point were done, those not synced still unsynced.
fn replayed(world: &World, at: usize) -> (Arc<Recorder>, Storage) {
    let (recorder, storage) = Recorder::new(Image::default());
    for op in world.recorder.ops().into_iter().take(at) {
        let device = match op.device() {
            DeviceName::Superblock => &storage.superblock,
            DeviceName::Journal => &storage.journal,
            DeviceName::Data => &storage.data,
        };
        match op {
            DeviceOp::Write { offset, bytes, .. } => device.write_at(offset, &bytes),
            DeviceOp::Punch { offset, len_bytes, .. } => device.punch(offset, len_bytes),
            DeviceOp::Grow { len_bytes, .. } => device.grow(len_bytes),
            DeviceOp::Sync { .. } | DeviceOp::FailedSync { .. } => device.sync(),
        }
        .expect("memory does what it did before");
    }
    (recorder, storage)
}

/// Where a pool is opened again, and what is known of it.
struct Second<'a> {
    world: &'a World,
    /// Point of the history's log at which it crashed, and how.
    at: usize,
    crash: Crash,
    /// Step that it was found at.
    step: usize,
    what: String,
}

/// Opens a pool after a crash, goes on with it, and cuts the power at every point of that.
fn again(second: &Second<'_>, recorder: &Recorder, storage: Storage) {
    let Second { world, at, crash, step, what } = second;
    let begun = recorder.len();
    let reopened = Reopened::new(storage);
    let recovered = recorder.len();
    let fs = &reopened.mounts["main"];
    let made = fs.create(&Caller::root(), NodeId::ROOT, b"after", 0o644, libc::O_RDWR);
    let (entry, _) = made.expect("a recovered pool can be written to");
    fs.fsync(entry.node, false).expect("and synced");
    let synced = recorder.len();
    let after = reopened.state();
    reopened.pool.close().expect("and closed");
    drop(reopened);
    let mut states = recorder.states();
    states.step_to(begun);
    let mut random = Random(*at as u64);
    loop {
        let now = states.at();
        let what = format!("{what}, then log {now}, opened at {recovered}");
        let image = match random.below(4) {
            0 | 1 => states.crash_losing_all(),
            2 => states.image(),
            seed => states.crash(seed),
        };
        let state = Reopened::new(image.storage()).state();
        if now >= synced || state.same_metadata(&after) {
            // What was opened and has been synced since is there, the data of others too.
            let same = state.same(&after);
            assert!(same, "{what}: some of what was opened is lost: {state:#?}\nof {after:#?}");
        } else {
            let found = verify(world, &image.storage(), *at, Crash::Power, &what);
            assert!(found == *step || *crash == Crash::Kill, "{what}: another state");
        }
        if !states.step() {
            return;
        }
    }
}

fn history(seed: u64, len: u64) -> World {
    let mut world = prepared(seed);
    let mut random = Random(seed);
    for _ in 0..len {
        world.step(OPS[random.below(OPS.len() as u64) as usize]);
    }
    world
}

#[test]
fn random_histories_survive_crashes_at_every_point() {
    for seed in 0..runs(10) {
        let world = history(seed, 30);
        try_all(&world, &format!("history {seed}"), 3);
    }
}

/// Every pair of operations, some of them in each run.
#[test]
fn pairs_of_operations_survive_crashes_at_every_point() {
    let all = OPS.len() as u64 * OPS.len() as u64;
    let mut random = Random(5);
    let count = runs(60).min(all);
    for nth in 0..count {
        let pair = if count == all { nth } else { random.below(all) };
        let ops = [OPS[(pair / 32) as usize], OPS[(pair % 32) as usize]];
        let mut world = prepared(pair);
        if ops.iter().any(|op| matches!(op, Op::Clone | Op::Restore | Op::DeleteSnapshot)) {
            world.step(Op::Snapshot);
        }
        ops.into_iter().for_each(|op| world.step(op));
        try_all(&world, &format!("pair {ops:?} ({pair})"), 4);
    }
}
