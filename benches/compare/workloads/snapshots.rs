//! Snapshots: made with nothing dirty and with much, beside many files and many others; listed, deleted,
//! copied, restored; and what they cost the writes after them.

use std::time::Instant;

use super::{Rounds, Workload, small};
use crate::drivers::{BLOCK, Durable, random_blocks, write_blocks, write_whole};
use crate::failure::{Failure, Result};
use crate::ground::Ground;
use crate::programs::going;
use crate::statistics::median;

/// Times that each operation is measured; the median counts.
const TIMES: usize = 15;
/// The same for what is slow to prepare.
const FEW: usize = 3;

/// From making the first to making one beside thousands.
pub(super) const SNAPSHOTS: Workload = Workload {
    name: "snapshots",
    rounds: Rounds::AtMostTwo,
    needs_snapshots: true,
    steps: &[
        |ground| {
            small::create(&ground.path("few"), 1000, ground.scale.small_bytes)?;
            write_whole(&ground.path("large"), ground.scale.dirty_bytes)
        },
        |ground| create(ground, "snap-create"),
        create_dirty,
        |ground| {
            let count = ground.scale.snapshot_files;
            small::create(&ground.path("many"), count, 64)?;
            create(ground, "snap-create-files")
        },
        |ground| operation(ground, "snap-list", |ground, _| ground.snapshots()?.names().map(drop)),
        overwrite_after,
        |ground| {
            operation(ground, "snap-delete", |ground, number| {
                ground.snapshots()?.delete(&format!("snap-create-{number}"))
            })
        },
        copy,
        restore,
        |ground| {
            let count = ground.scale.many_snapshots;
            create_beside(ground, "snap-create-many", count)
        },
        |ground| {
            let count = ground.scale.most_snapshots;
            create_beside(ground, "snap-create-most", count)
        },
    ],
};

/// Measures `work`, which is told how often it was called, and notes its median as a rate.
fn operation(
    ground: &mut Ground<'_>,
    name: &'static str,
    mut work: impl FnMut(&mut Ground<'_>, usize) -> Result<()>,
) -> Result<()> {
    ground.settle();
    let mut times = Vec::new();
    for number in 0..TIMES {
        going()?;
        times.push(ground.time(|ground| work(ground, number))?);
    }
    ground.record_rate(name, 1, median(times));
    Ok(())
}

/// Makes snapshots that are called as their row, with a number.
fn create(ground: &mut Ground<'_>, name: &'static str) -> Result<()> {
    operation(ground, name, |ground, number| {
        ground.snapshots()?.create(&format!("{name}-{number}"))
    })
}

fn create_dirty(ground: &mut Ground<'_>) -> Result<()> {
    let (path, bytes) = (ground.path("dirty"), ground.scale.dirty_bytes);
    let mut times = Vec::new();
    for number in 0..FEW {
        going()?;
        ground.settle();
        std::fs::write(&path, vec![number as u8 + 1; bytes as usize])
            .map_err(Failure::io("write", &path))?;
        times.push(ground.time(|ground| ground.snapshots()?.create(&format!("dirty-{number}")))?);
    }
    ground.record_rate("snap-create-dirty", 1, median(times));
    Ok(())
}

/// Overwrites in random order just after a snapshot, for overwriting just before it.
fn overwrite_after(ground: &mut Ground<'_>) -> Result<()> {
    let (path, bytes) = (ground.path("large"), ground.scale.dirty_bytes);
    let count = bytes / BLOCK as u64;
    // Since the last snapshot every block has been written, most of them at random places.
    write_whole(&path, bytes)?;
    write_blocks(&path, random_blocks(1, count, bytes), Durable::AtEnd)?;
    let mut shares = Vec::new();
    for number in 0..FEW as u64 {
        let pass = |ground: &mut Ground<'_>, seed| {
            ground.settle();
            ground.time(|_| write_blocks(&path, random_blocks(seed, count, bytes), Durable::AtEnd))
        };
        let before = pass(ground, 2 * number)?;
        ground.snapshots()?.create(&format!("between-{number}"))?;
        shares.push(before / pass(ground, 2 * number + 1)?);
    }
    ground.figures.push(("overwrite-after-snap", median(shares)));
    Ok(())
}

fn copy(ground: &mut Ground<'_>) -> Result<()> {
    ground.snapshots()?.create("origin")?;
    operation(ground, "snap-clone", |ground, number| {
        ground.snapshots()?.copy("origin", &format!("copy-{number}"))
    })?;
    (0..TIMES).try_for_each(|number| ground.snapshots()?.discard(&format!("copy-{number}")))
}

fn restore(ground: &mut Ground<'_>) -> Result<()> {
    ground.snapshots()?.create("wanted")?;
    let mut times = Vec::new();
    for _ in 0..FEW {
        going()?;
        let path = ground.path("few/000/file-0");
        std::fs::write(&path, "unwanted").map_err(Failure::io("write", &path))?;
        ground.settle();
        times.push(ground.time(|ground| ground.snapshots()?.restore("wanted"))?);
        let found = std::fs::metadata(&path).map_err(Failure::io("look at", &path))?;
        assert_eq!(found.len(), ground.scale.small_bytes, "what was restored is not what was");
    }
    ground.record_rate("snap-restore", 1, median(times));
    Ok(())
}

/// Makes snapshots until there are `count` of them, then measures making more.
fn create_beside(ground: &mut Ground<'_>, name: &'static str, count: u64) -> Result<()> {
    if count == 0 {
        return Ok(());
    }
    let there = ground.snapshots()?.names()?.len() as u64;
    let begun = Instant::now();
    for number in there..count {
        going()?;
        if begun.elapsed() > ground.scale.patience {
            return Err(Failure::Absent(format!("{number} snapshots took all the time there is")));
        }
        let path = ground.path("few/000/file-1");
        std::fs::write(&path, number.to_string()).map_err(Failure::io("write", &path))?;
        ground.snapshots()?.create(&format!("beside-{number}"))?;
    }
    create(ground, name)
}
