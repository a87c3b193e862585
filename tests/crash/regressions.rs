//! What crashes have shown, each in as few operations as do.

use amberfs::fs::{Caller, Filesystem, NodeId};

use crate::crashes::{Depth, try_all};
use crate::files::{pattern, with, write_to};
use crate::ops::Op;
use crate::prepared;
use crate::workload::{Shape, World};

const EVERY: Depth = Depth { enumerated: 10, seeds: 8, again: 8 };

fn node(fs: &Filesystem, name: &str) -> NodeId {
    with(fs, name, Ok).expect("the file is there")
}

/// A world with a file of three blocks that are durable.
fn with_file(name: &str) -> World {
    let mut world = World::new(1, Shape::ROOMY);
    create(&mut world, name);
    world.act(Op::WriteBlocks, |fs| {
        write_to(fs, node(fs, name), 0, &pattern(7, 12288)).map(|()| None)
    });
    world.step(Op::Syncfs);
    world
}

fn create(world: &mut World, name: &str) {
    world.act(Op::Create, |fs| {
        let made = fs.create(&Caller::root(), NodeId::ROOT, name.as_bytes(), 0o644, libc::O_RDWR);
        made.map(|(entry, handle)| {
            fs.release(entry.node, handle);
            None
        })
    });
}

/// Content that is shared with a file whose data was not synced is as good as not written: what was there
/// before stays.
#[test]
fn regression_a_lost_copy_leaves_what_was_there_before() {
    let mut world = with_file("to");
    create(&mut world, "from");
    let from = world.steps.len();
    world.act(Op::WriteBlocks, |fs| {
        write_to(fs, node(fs, "from"), 0, &pattern(9, 8192)).map(|()| None)
    });
    world.act(Op::Reflink, |fs| {
        let (from, to) = (node(fs, "from"), node(fs, "to"));
        fs.copy_file_range(from, 0, to, 0, 8192).map(|_| None)
    });
    try_all(&world, from - 1, "a lost copy", EVERY);
}

/// A clone of a snapshot that was made without a sync: an fsync of a file in it found nothing to sync there.
#[test]
fn regression_a_file_of_a_clone_is_synced_with_what_it_began_with() {
    let ops = [Op::SnapshotUnsynced, Op::Clone];
    let mut world = prepared(34068, Shape::ROOMY, &ops);
    let from = world.steps.len() - 1;
    world.around_write(&ops);
    world.step(Op::WriteBlocks);
    world.step(Op::Fsync);
    let depth = Depth { enumerated: 3, seeds: 3, again: 32 };
    try_all(&world, from, "an unsynced snapshot, and a clone, in the midst of a write", depth);
}
