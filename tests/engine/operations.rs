//! Random operations. They name files by position among those there are, so that any sequence means
//! something, and shrinking one keeps its meaning.

use proptest::collection::vec;
use proptest::prelude::*;

/// One operation.
#[derive(Debug, Clone)]
pub(crate) enum Operation {
    Create { dir: u8, name: u8, mode: u32 },
    Mkdir { dir: u8, name: u8, mode: u32 },
    Symlink { dir: u8, name: u8, len: usize },
    Mknod { dir: u8, name: u8 },
    Tmpfile { dir: u8 },
    Link { node: u8, dir: u8, name: u8 },
    Unlink { dir: u8, name: u8 },
    Rmdir { dir: u8, name: u8 },
    Rename { dir: u8, name: u8, to: u8, new: u8, flags: u32 },
    Write { node: u8, offset: usize, len: usize, cached: bool, kill: bool },
    Resize { node: u8, size: usize },
    Fallocate { node: u8, offset: usize, len: usize, mode: u32 },
    Copy { src: u8, from: usize, dst: u8, to: usize, len: usize },
    CopyBack { snapshot: u8, node: u8, len: usize },
    Read { node: u8, offset: usize, len: usize },
    Seek { node: u8, offset: usize },
    Chmod { node: u8, mode: u32 },
    Chown { node: u8, uid: u32, gid: u32 },
    Times { node: u8, sec: i64, nsec: u32 },
    SetXattr { node: u8, name: u8, len: usize, flags: u32 },
    RemoveXattr { node: u8, name: u8 },
    Open { node: u8, write: bool },
    Release { which: u8 },
    Forget { node: u8 },
    Snapshot { name: u8 },
    DeleteSnapshot { which: u8 },
    RenameSnapshot { which: u8, name: u8 },
    Clone { which: u8 },
    Restore { which: u8 },
    Checkpoint,
    Reclaim,
    Fsync { node: u8 },
    Remount,
    Crash,
}

use Operation::*;

/// Lengths and offsets around what matters: the leaf's limit, block edges, and anything.
fn offset() -> impl Strategy<Value = usize> {
    prop_oneof![
        3 => 0usize..3000,
        3 => (0usize..14).prop_map(|n| n * 4096),
        2 => (1usize..14, 0usize..7).prop_map(|(n, d)| n * 4096 + d - 3),
        2 => 0usize..60_000,
    ]
}

fn names() -> impl Strategy<Value = Operation> {
    let (dir, name, mode) = (any::<u8>(), 0u8..6, 0u32..0o10_000);
    let at = (dir, name);
    let flags = prop_oneof![
        5 => Just(0u32),
        1 => Just(libc::RENAME_NOREPLACE),
        2 => Just(libc::RENAME_EXCHANGE),
        1 => Just(libc::RENAME_WHITEOUT),
    ];
    prop_oneof![
        6 => (at.clone(), mode.clone()).prop_map(|((dir, name), mode)| Create { dir, name, mode }),
        4 => (at.clone(), mode).prop_map(|((dir, name), mode)| Mkdir { dir, name, mode }),
        1 => (at.clone(), 1usize..4000).prop_map(|((dir, name), len)| Symlink { dir, name, len }),
        1 => at.clone().prop_map(|(dir, name)| Mknod { dir, name }),
        1 => any::<u8>().prop_map(|dir| Tmpfile { dir }),
        3 => (any::<u8>(), at.clone()).prop_map(|(node, (dir, name))| Link { node, dir, name }),
        4 => at.clone().prop_map(|(dir, name)| Unlink { dir, name }),
        3 => at.clone().prop_map(|(dir, name)| Rmdir { dir, name }),
        6 => (at.clone(), at, flags).prop_map(|((dir, name), (to, new), flags)| {
            Rename { dir, name, to, new, flags }
        }),
    ]
}

fn contents() -> impl Strategy<Value = Operation> {
    let keep = libc::FALLOC_FL_KEEP_SIZE as u32;
    let punch = libc::FALLOC_FL_PUNCH_HOLE as u32 | keep;
    let zero = libc::FALLOC_FL_ZERO_RANGE as u32;
    let mode = prop::sample::select(vec![0, keep, punch, punch, zero, zero | keep, 8]);
    let node = any::<u8>();
    prop_oneof![
        10 => (node, offset(), offset(), any::<bool>(), any::<bool>()).prop_map(
            |(node, offset, len, cached, kill)| Write { node, offset, len, cached, kill }
        ),
        4 => (node, offset()).prop_map(|(node, size)| Resize { node, size }),
        4 => (node, offset(), offset(), mode)
            .prop_map(|(node, offset, len, mode)| Fallocate { node, offset, len, mode }),
        3 => (node, offset(), node, offset(), offset())
            .prop_map(|(src, from, dst, to, len)| Copy { src, from, dst, to, len }),
        2 => (node, node, offset())
            .prop_map(|(snapshot, node, len)| CopyBack { snapshot, node, len }),
        1 => (node, offset(), offset()).prop_map(|(node, offset, len)| Read { node, offset, len }),
        1 => (node, offset()).prop_map(|(node, offset)| Seek { node, offset }),
    ]
}

fn attributes() -> impl Strategy<Value = Operation> {
    let (node, name) = (any::<u8>(), 0u8..4);
    let len = prop_oneof![0usize..1100, Just(1024), Just(1025), 0usize..65_537];
    prop_oneof![
        (node, 0u32..0o10_000).prop_map(|(node, mode)| Chmod { node, mode }),
        (node, 0u32..3, 0u32..3).prop_map(|(node, uid, gid)| Chown { node, uid, gid }),
        (node, any::<i64>(), 0u32..1_000_000_000).prop_map(|(node, sec, nsec)| Times {
            node,
            sec,
            nsec
        }),
        (node, name.clone(), len, 0u32..3).prop_map(|(node, name, len, flags)| SetXattr {
            node,
            name,
            len,
            flags
        }),
        (node, name).prop_map(|(node, name)| RemoveXattr { node, name }),
    ]
}

fn life() -> impl Strategy<Value = Operation> {
    let which = any::<u8>();
    prop_oneof![
        6 => (which, any::<bool>()).prop_map(|(node, write)| Open { node, write }),
        4 => which.prop_map(|which| Release { which }),
        4 => which.prop_map(|node| Forget { node }),
        6 => (0u8..8).prop_map(|name| Snapshot { name }),
        4 => which.prop_map(|which| DeleteSnapshot { which }),
        1 => (which, 0u8..8).prop_map(|(which, name)| RenameSnapshot { which, name }),
        1 => which.prop_map(|which| Clone { which }),
        1 => which.prop_map(|which| Restore { which }),
        4 => Just(Checkpoint),
        3 => Just(Reclaim),
        3 => which.prop_map(|node| Fsync { node }),
        2 => Just(Remount),
        2 => Just(Crash),
    ]
}

/// Sequences of up to `length` operations.
pub(crate) fn sequences(length: usize) -> impl Strategy<Value = Vec<Operation>> {
    let one = prop_oneof![5 => names(), 5 => contents(), 2 => attributes(), 3 => life()];
    vec(one, 1..=length)
}
