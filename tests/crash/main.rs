//! The crash matrix: short histories of operations on a recorded pool; after every point of the log, and with
//! what was not synced there dropped, reordered or torn, the pool opens, is sound, and holds what was promised.
//!
//! A failure names the history, the point of the log, and what became of what was not synced; a history is
//! the same each time. `AMBERFS_CRASH_RUNS` multiplies the number of histories, and from 20 on every triple
//! of operations is tried, with more crashes of each (`make soak`).

mod crashes;
mod failures;
mod files;
mod ops;
mod pauses;
mod planted;
mod regressions;
mod state;
mod threads;
mod verify;
mod workload;

use std::sync::atomic::{AtomicU64, Ordering};

use crashes::{Depth, try_all};
use ops::{OPS, Op, Random};
use pauses::Place;
use workload::{Shape, World};

/// How many times more than usual is tried.
pub(crate) fn factor() -> u64 {
    std::env::var("AMBERFS_CRASH_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(1)
}

/// From this factor on, everything is tried that can be counted.
const WHOLE: u64 = 20;

/// Runs histories 0 to `count`, on all processors, and prints how many crashes that was.
fn run_all(name: &str, count: u64, one: impl Fn(u64) -> u64 + Sync) {
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get());
    let (next, tried) = (AtomicU64::new(0), AtomicU64::new(0));
    let work = || {
        loop {
            let nth = next.fetch_add(1, Ordering::Relaxed);
            if nth >= count {
                return;
            }
            tried.fetch_add(one(nth), Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    println!("{name}: {count} histories, {} crashes", tried.into_inner());
}

/// Numbers below `all`, each at most once: all of them if `count` is as large, else a sample.
fn sample(count: u64, all: u64, nth: u64) -> u64 {
    if count >= all { nth } else { nth * (all / count) + Random(nth).below(all / count) }
}

/// Files and directories of all sorts, some of them empty, so that every operation has something to work on.
fn prepared(seed: u64, shape: Shape, ops: &[Op]) -> World {
    let mut world = World::new(seed, shape);
    prepare(&mut world, ops);
    world
}

fn prepare(world: &mut World, ops: &[Op]) {
    for op in [Op::Mkdir, Op::Create, Op::WriteBlocks, Op::Create, Op::WriteBlocks, Op::WriteBlocks]
    {
        world.step(op);
    }
    for op in [Op::Create, Op::WriteSmall, Op::Mkdir] {
        world.step(op);
    }
    if ops.contains(&Op::RemoveXattr) {
        world.step(Op::SetXattr);
    }
    if ops.contains(&Op::CloseUnlinked) {
        world.step(Op::UnlinkOpen);
        world.step(Op::Create);
    }
    world.step(Op::Syncfs);
    if ops.iter().any(|op| op.needs_snapshot() || *op == Op::DeleteVolume || *op == Op::Reclaim) {
        world.step(Op::Snapshot);
    }
    if ops.contains(&Op::DeleteVolume) {
        world.step(Op::Clone);
    }
    if ops.contains(&Op::Reclaim) {
        world.step(Op::DeleteSnapshot);
    }
    // Not synced, so that there is data to lose.
    world.step(Op::Append);
}

/// The operations of the `nth` of all sequences of a length.
fn sequence(nth: u64, len: u32) -> Vec<Op> {
    let count = OPS.len() as u64;
    (0..len).map(|at| OPS[(nth / count.pow(at) % count) as usize]).collect()
}

/// Operations that change no metadata, so that others may come in their midst.
const STOPPED: [Op; 3] = [Op::Checkpoint, Op::Fsync, Op::Syncfs];

fn history(seed: u64, len: u64, shape: Shape) -> World {
    let mut world = prepared(seed, shape, &[]);
    let mut random = Random(seed);
    let one = |random: &mut Random| OPS[random.below(OPS.len() as u64) as usize];
    for _ in 0..len {
        match random.below(8) {
            0 => {
                let outer = STOPPED[random.below(3) as usize];
                let inner = [one(&mut random), one(&mut random)];
                world.around(outer, Place::Nth(random.below(8)), &inner);
            }
            1 => world.around_write(&[one(&mut random)]),
            _ => world.step(one(&mut random)),
        }
    }
    world
}

/// Long ones: what was freed is used again, the journal's end is met, space runs out.
#[test]
fn random_histories_survive_crashes_at_every_point() {
    let shapes = [Shape::ROOMY, Shape::SHORT_JOURNAL, Shape::SMALL];
    run_all("random", 12 * factor(), |seed| {
        let shape = shapes[seed as usize % shapes.len()];
        let world = history(seed, 30, shape);
        let depth = Depth { enumerated: 4, seeds: 3, again: 24 };
        try_all(&world, 0, &format!("history {seed} of {shape:?}"), depth)
    });
}

#[test]
fn pairs_of_operations_survive_crashes_at_every_point() {
    let whole = factor() >= WHOLE;
    run_all("pairs", (OPS.len() as u64).pow(2), |nth| {
        let ops = sequence(nth, 2);
        let mut world = prepared(nth, Shape::ROOMY, &ops);
        let from = world.steps.len() - 1;
        ops.iter().for_each(|op| world.step(*op));
        let depth = if whole {
            Depth { enumerated: 6, seeds: 8, again: 24 }
        } else {
            Depth { enumerated: 2, seeds: 2, again: 64 }
        };
        try_all(&world, from, &format!("pair {ops:?} ({nth})"), depth)
    });
}

#[test]
fn triples_of_operations_survive_crashes_at_every_point() {
    let all = (OPS.len() as u64).pow(3);
    let count = if factor() >= WHOLE { all } else { all / 200 * factor() };
    run_all("triples", count, |nth| {
        let nth = sample(count, all, nth);
        let ops = sequence(nth, 3);
        let mut world = prepared(nth, Shape::ROOMY, &ops);
        let (pair, last) = ops.split_at(2);
        pair.iter().for_each(|op| world.step(*op));
        // Crashes before are those of the pair.
        let from = world.steps.len() - 1;
        last.iter().for_each(|op| world.step(*op));
        let depth = Depth { enumerated: 3, seeds: 3, again: 32 };
        try_all(&world, from, &format!("triple {ops:?} ({nth})"), depth)
    });
}

/// A checkpoint, an fsync and a syncfs that are stopped before each of their writes and syncs, with a pair of
/// operations in between; and a write that is stopped when it has its blocks and not yet its record.
#[test]
fn operations_in_the_midst_of_others_survive_crashes_at_every_point() {
    let pairs = (OPS.len() as u64).pow(2);
    // Eight places are about as many as a small checkpoint has.
    let places = 8;
    let all = pairs * places * (STOPPED.len() as u64 + 1);
    let count = if factor() >= WHOLE { all } else { all / 300 * factor() };
    run_all("midst", count, |nth| {
        let nth = sample(count, all, nth);
        let ops = sequence(nth % pairs, 2);
        let (place, outer) = (nth / pairs % places, (nth / pairs / places) as usize);
        let mut world = prepared(nth, Shape::ROOMY, &ops);
        let from = world.steps.len() - 1;
        if outer < STOPPED.len() {
            world.around(STOPPED[outer], Place::Nth(place), &ops);
        } else {
            world.around_write(&ops);
        }
        // What a checkpoint has freed too early is used again, and what an fsync forgets is missed.
        if place % 2 == 0 {
            world.step(Op::WriteBlocks);
            world.step(Op::Fsync);
        } else {
            world.step(Op::Checkpoint);
        }
        let outer = STOPPED.get(outer).copied().unwrap_or(Op::WriteBlocks);
        let depth = Depth { enumerated: 3, seeds: 3, again: 32 };
        try_all(&world, from, &format!("{ops:?} in {outer:?} at {place} ({nth})"), depth)
    });
}
