//! Several threads at once, each with a volume of its own, and one that makes checkpoints: what was promised
//! to each is there after a crash, and no operation without those that were acknowledged before it began.

use std::sync::atomic::{AtomicBool, Ordering};

use amberfs::device::Recorder;

use crate::ops::{OPS, Op, Random};
use crate::planted::is_caught;
use crate::verify::{Crash, Cut, open_and_read, verify_found};
use crate::workload::{Shape, World};
use crate::{factor, run_all};

const NAMES: [&str; 3] = ["a", "b", "c"];

/// Works on a volume for `len` operations; every fourth is one that waits for the disk, so that several wait.
fn work(world: &mut World, seed: u64, len: u64) {
    let mut random = Random(seed);
    for _ in 0..len {
        let op = match random.below(4) {
            0 => [Op::Fsync, Op::Fsync, Op::Syncfs, Op::Snapshot][random.below(4) as usize],
            _ => OPS[random.below(OPS.len() as u64) as usize],
        };
        world.step(op);
    }
}

fn at_once(seed: u64, shape: Shape) -> Vec<World> {
    let mut worlds = World::several(seed * 100, shape, &NAMES);
    let pool = worlds[0].pool.clone();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                pool.checkpoint().expect("a checkpoint can be made");
                while pool.run_reclaim().expect("space can be reclaimed") {}
                std::thread::yield_now();
            }
        });
        let workers: Vec<_> = worlds
            .iter_mut()
            .enumerate()
            .map(|(nth, world)| scope.spawn(move || work(world, seed * 10 + nth as u64, 25)))
            .collect();
        let ended: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        done.store(true, Ordering::Relaxed);
        ended.into_iter().for_each(|ended| ended.expect("a worker ends well"));
    });
    worlds
}

/// Fails if something is there without what had been acknowledged before it began.
fn verify_order(worlds: &[World], steps: &[usize], what: &str) {
    for (world, found) in worlds.iter().zip(steps) {
        // What changed nothing can't be told from what was not done, nor what was undone.
        let state = &world.steps[*found].state;
        let same = |step: &usize| world.steps[*step].state.same_metadata(state);
        let first = (0..*found).find(same).unwrap_or(*found);
        let begun = world.steps[first].begun;
        for (other, found) in worlds.iter().zip(steps) {
            let before = other.steps.iter().rposition(|step| step.done <= begun).unwrap_or(0);
            assert!(
                before <= *found,
                "{what}: step {first} of '{}' is there, and step {before} of '{}' is not",
                world.prefix,
                other.prefix,
            );
        }
    }
}

fn verify_all(worlds: &[World], storage: &amberfs::device::Storage, cut: &Cut) {
    let found = open_and_read(storage, &cut.what);
    let steps: Vec<_> = worlds
        .iter()
        .map(|world| {
            let mut own = found.clone();
            own.state.volumes.retain(|name, _| name.starts_with(&world.prefix));
            own.snapshots.retain(|(name, _), _| name.starts_with(&world.prefix));
            verify_found(
                world,
                &own,
                &Cut { what: format!("{}, '{}'", cut.what, world.prefix), ..cut.clone() },
            )
        })
        .collect();
    verify_order(worlds, &steps, &cut.what);
}

fn try_some(worlds: &[World], recorder: &Recorder, name: &str, seeds: u64) -> u64 {
    let mut states = recorder.states();
    states.step_to(worlds[0].steps[0].done);
    let mut tried = 0;
    loop {
        let at = states.at();
        let what = format!("{name}, log {at}");
        let cut = Cut { at, crash: Crash::Kill, what: format!("{what}, killed") };
        verify_all(worlds, &states.image().storage(), &cut);
        let what = format!("{what}, all lost");
        let lost = Cut { at, crash: Crash::Power, what };
        verify_all(worlds, &states.crash_losing_all().storage(), &lost);
        for seed in 0..seeds {
            let what = format!("{}, crash seed {seed}", lost.what);
            verify_all(worlds, &states.crash(seed).storage(), &Cut { what, ..lost.clone() });
        }
        tried += 2 + seeds;
        if !states.step() {
            return tried;
        }
    }
}

#[test]
fn threads_survive_crashes_at_every_point() {
    run_all("threads", 24 * factor(), |seed| {
        let shape = if seed % 2 == 0 { Shape::ROOMY } else { Shape::SHORT_JOURNAL };
        let worlds = at_once(seed, shape);
        let recorder = worlds[0].recorder.clone();
        try_some(&worlds, &recorder, &format!("threads {seed}"), 1)
    });
}

#[test]
fn something_there_without_what_was_acknowledged_before_it_is_caught() {
    let mut worlds = World::several(1, Shape::ROOMY, &NAMES);
    for op in [Op::Create, Op::Mkdir, Op::Create] {
        worlds.iter_mut().for_each(|world| world.step(op));
    }
    verify_order(&worlds, &[3, 3, 3], "all there");
    verify_order(&worlds, &[3, 2, 2], "a prefix");
    let caught = is_caught(|| verify_order(&worlds, &[1, 2, 1], "one missing"));
    assert!(caught, "an operation that is missing in the midst is not caught");
}
