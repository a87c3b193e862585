//! Trying the crashes that a history could have met.

use std::sync::Arc;

use amberfs::device::{CrashStates, DeviceName, DeviceOp, Fate, Image, Recorder, Storage};
use amberfs::fs::{Caller, NodeId};

use crate::ops::Random;
use crate::verify::{Crash, Cut, Reopened, open_and_read, verify, verify_found};
use crate::workload::World;

/// How many crashes are tried at one point of a log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Depth {
    /// Every subset of what is not synced, if that is no more operations than this.
    pub enumerated: usize,
    /// Seeds of crashes that lose, tear and reorder.
    pub seeds: u64,
    /// After one crash in so many, the recovery is cut off as well.
    pub again: u64,
}

/// Tries every point of the log of a history from its step `from` on; returns how many states that was.
pub(crate) fn try_all(world: &World, from: usize, name: &str, depth: Depth) -> u64 {
    let mut states = world.recorder.states();
    let first = world.steps[from].done;
    states.step_to(first);
    let mut random = Random(first as u64);
    let mut tried = 0;
    loop {
        let at = states.at();
        if at >= world.known {
            return tried;
        }
        let what = format!("{name}, log {at}");
        let killed = Cut { at, crash: Crash::Kill, what: format!("{what}, killed") };
        let step = verify(world, &states.image().storage(), &killed);
        tried += 1;
        if random.below(depth.again) == 0 {
            let (recorder, storage) = replayed(world, at);
            tried += again(world, &killed, step, &recorder, storage);
        }
        if let Some(image) = states.killed_in_next(at as u64) {
            let what = format!("{what}, killed in a write");
            verify(world, &image.storage(), &Cut { at, crash: Crash::Kill, what });
            tried += 1;
        }
        crashes(&states, depth, &mut |image, how| {
            let cut = Cut { at, crash: Crash::Power, what: format!("{what}, {how}") };
            let step = verify(world, &image.storage(), &cut);
            tried += 1;
            if random.below(depth.again) == 0 {
                let (recorder, storage) = Recorder::wrap(&image.storage(), image);
                tried += again(world, &cut, step, &recorder, storage);
            }
        });
        if !states.step() {
            return tried;
        }
    }
}

/// All crashes at one point of the log that are to be tried.
fn crashes(states: &CrashStates, depth: Depth, f: &mut dyn FnMut(Image, String)) {
    let uncertain = states.uncertain();
    if uncertain.len() <= depth.enumerated {
        // All kept is what the death of the process leaves.
        for kept in 0..(1u32 << uncertain.len()).saturating_sub(1) {
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
        for seed in 0..depth.seeds {
            f(states.crash(seed), format!("crash seed {seed}"));
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

/// Opens a pool that was found at `step` after a crash, goes on with it, and cuts the power at every point of
/// that; some of the recoveries after it are cut off once more.
fn again(world: &World, cut: &Cut, step: usize, recorder: &Arc<Recorder>, storage: Storage) -> u64 {
    let begun = recorder.len();
    let reopened = Reopened::new(storage);
    let recovered = recorder.len();
    let fs = &reopened.mounts["main"];
    let made = fs.create(&Caller::root(), NodeId::ROOT, b"after", 0o644, libc::O_RDWR);
    let Ok((entry, _)) = made else {
        assert!(made.is_err_and(|error| error == amberfs::fs::Error::NoSpace), "{}", cut.what);
        return 0;
    };
    fs.fsync(entry.node, false).expect("a recovered pool can be synced");
    let synced = recorder.len();
    let after = reopened.state();
    reopened.pool.close().expect("and closed");
    drop(reopened);
    let mut states = recorder.states();
    states.step_to(begun);
    let mut random = Random(cut.at as u64);
    let mut tried = 0;
    loop {
        let now = states.at();
        let image = match random.below(4) {
            0 | 1 => states.crash_losing_all(),
            2 => states.image(),
            seed => states.crash(seed),
        };
        let what = format!("{}, then log {now}, opened at {recovered}", cut.what);
        let image =
            if random.below(4) == 0 { recovered_in_part(image, &mut random) } else { image };
        let found = open_and_read(&image.storage(), &what);
        tried += 1;
        if now >= synced || found.state.same_metadata(&after) {
            // What was opened and has been synced since is there, the data of others too.
            let same = found.state.same(&after);
            let state = &found.state;
            assert!(same, "{what}: some of what was opened is lost: {state:#?}\nof {after:#?}");
        } else {
            let then = Cut { at: cut.at, crash: Crash::Power, what };
            let found = verify_found(world, &found, &then);
            let what = &then.what;
            assert!(found == step || cut.crash == Crash::Kill, "{what}: another state");
        }
        if !states.step() {
            return tried;
        }
    }
}

/// What a power cut leaves somewhere in the recovery of a pool.
fn recovered_in_part(image: Image, random: &mut Random) -> Image {
    let (recorder, storage) = Recorder::wrap(&image.storage(), image);
    let pool = amberfs::pool::Pool::open(storage, crate::workload::open_options());
    pool.expect("the pool opens").abandon();
    let mut states = recorder.states();
    states.step_to(random.below(recorder.len() as u64 + 1) as usize);
    states.crash(random.below(100))
}
