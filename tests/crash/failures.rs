//! A write or a sync that fails, and then a crash: what was promised before the failure is there, and after a
//! sync that has failed nothing is promised that is not.

use amberfs::device::{FaultOp, Faults};

use crate::crashes::{Depth, try_all};
use crate::ops::{OPS, Op, Random};
use crate::workload::{Shape, World};
use crate::{factor, prepare, run_all};

/// Operations until the fault is met at the latest.
const MAX_OPERATIONS: u64 = 20;

/// Works until something fails that leaves the pool read-only, or long enough.
fn until_failure(seed: u64) -> World {
    let faults = Faults::new();
    let shape = if seed.is_multiple_of(2) { Shape::ROOMY } else { Shape::SHORT_JOURNAL };
    let mut world = World::planted(seed, shape, |storage| faults.wrap(&storage));
    prepare(&mut world, &[]);
    let mut random = Random(seed);
    let fault = [FaultOp::Write, FaultOp::Sync, FaultOp::Sync, FaultOp::Punch];
    let errno = if random.below(4) == 0 { libc::ENOSPC } else { libc::EIO };
    faults.fail_nth(fault[random.below(4) as usize], 1 + random.below(8), errno);
    // What makes and ends volumes changes what is mounted, of which a failure tells nothing.
    let ops: Vec<Op> = OPS
        .into_iter()
        .filter(|op| !matches!(op, Op::Clone | Op::Restore | Op::DeleteVolume))
        .chain([Op::Checkpoint, Op::Fsync, Op::Fsync])
        .collect();
    for _ in 0..MAX_OPERATIONS {
        let op = ops[random.below(ops.len() as u64) as usize];
        if !world.step_or_fail(op) {
            world.sync_after_failure();
            break;
        }
    }
    world
}

#[test]
fn crashes_after_a_failure_lose_nothing_that_was_promised() {
    run_all("failures", 60 * factor(), |seed| {
        let world = until_failure(seed);
        let depth = Depth { enumerated: 3, seeds: 2, again: 64 };
        try_all(&world, 9, &format!("failure {seed}"), depth)
    });
}
