//! One large file: sequential and random, cold and warm, fresh and after snapshots and overwriting.

use super::{Rounds, Workload};
use crate::drivers::{
    BLOCK, Durable, Random, append, random_blocks, read_random, read_random_by, read_whole,
    write_blocks, write_whole,
};
use crate::failure::{Failure, Result};
use crate::ground::Ground;

/// Writing and reading from beginning to end, and the space that it takes.
pub(super) const SEQUENTIAL: Workload = Workload {
    name: "sequential",
    rounds: Rounds::All,
    needs_snapshots: false,
    steps: &[
        |ground| {
            ground.weigh()?;
            let bytes = ground.scale.file_bytes;
            let path = ground.path("large");
            ground.rate("seqwrite", bytes, |_| write_whole(&path, bytes))
        },
        |ground| {
            ground.cool()?;
            read_sequentially(ground, "seqread-cold")
        },
        |ground| {
            read_whole(&ground.path("large"))?;
            read_sequentially(ground, "seqread-warm")
        },
        |ground| {
            let bytes = ground.scale.file_bytes;
            ground.space("space-large", bytes)
        },
    ],
};

/// Blocks of 4 KiB in random order.
pub(super) const RANDOM: Workload = Workload {
    name: "random",
    rounds: Rounds::All,
    needs_snapshots: false,
    steps: &[
        |ground| write_whole(&ground.path("large"), ground.scale.file_bytes),
        |ground| read_cold(ground, "randread-cold-1", 1),
        |ground| read_cold(ground, "randread-cold-4", 4),
        |ground| read_warm(ground, "randread-warm"),
        |ground| {
            let writes = ground.scale.writes;
            overwrite(ground, "randwrite-fsync-end", writes, Durable::AtEnd)
        },
        |ground| {
            let writes = ground.scale.direct_writes;
            let outcome = overwrite(ground, "randwrite-direct", writes, Durable::Direct);
            match outcome {
                Err(Failure::Io { what: "open" | "write", source, .. })
                    if source.raw_os_error() == Some(libc::EINVAL) =>
                {
                    Err(Failure::Absent("there is no O_DIRECT".into()))
                }
                other => other,
            }
        },
    ],
};

/// Writes that are each durable before the next.
pub(super) const SYNCED: Workload = Workload {
    name: "synced",
    rounds: Rounds::ThreeForOne,
    needs_snapshots: false,
    steps: &[
        |ground| write_whole(&ground.path("large"), ground.scale.dirty_bytes),
        |ground| {
            let writes = ground.scale.synced_writes;
            let (path, bytes) = (ground.path("large"), ground.scale.dirty_bytes);
            ground.rate("randwrite-fsync-each", writes, |_| {
                write_blocks(&path, random_blocks(1, writes, bytes), Durable::Each)
            })
        },
        |ground| {
            let writes = ground.scale.synced_writes;
            let path = ground.path("log");
            ground.rate("append-fsync", writes, |_| append(&path, writes))
        },
    ],
};

/// The reads again, when ten snapshots have been made and every block has been overwritten, in random
/// order, since the first.
pub(super) const AGED: Workload = Workload {
    name: "aged",
    rounds: Rounds::All,
    needs_snapshots: false,
    steps: &[
        |ground| write_whole(&ground.path("large"), ground.scale.file_bytes),
        age,
        |ground| {
            ground.cool()?;
            read_sequentially(ground, "aged-seqread-cold")
        },
        |ground| read_cold(ground, "aged-randread-cold-1", 1),
        |ground| read_cold(ground, "aged-randread-cold-4", 4),
        |ground| read_warm(ground, "aged-randread-warm"),
    ],
};

const AGES: usize = 10;

fn age(ground: &mut Ground<'_>) -> Result<()> {
    let blocks = Random::new(11).shuffled(ground.scale.file_bytes / BLOCK as u64);
    for (at, share) in blocks.chunks(blocks.len().div_ceil(AGES)).enumerate() {
        if let Ok(snapshots) = ground.snapshots() {
            snapshots.create(&format!("age-{at}"))?;
        }
        write_blocks(&ground.path("large"), share.iter().copied(), Durable::AtEnd)?;
    }
    Ok(())
}

fn read_sequentially(ground: &mut Ground<'_>, name: &'static str) -> Result<()> {
    let path = ground.path("large");
    ground.rate(name, ground.scale.file_bytes, |_| read_whole(&path).map(drop))
}

fn read_cold(ground: &mut Ground<'_>, name: &'static str, jobs: u64) -> Result<()> {
    ground.cool()?;
    let (path, bytes, count) =
        (ground.path("large"), ground.scale.file_bytes, ground.scale.cold_reads);
    ground.rate(name, count, |_| read_random_by(jobs, &path, bytes, count))
}

fn read_warm(ground: &mut Ground<'_>, name: &'static str) -> Result<()> {
    let (path, bytes, count) =
        (ground.path("large"), ground.scale.file_bytes, ground.scale.warm_reads);
    read_whole(&path)?;
    ground.rate(name, count, |_| read_random(&path, bytes, count, 5))
}

fn overwrite(
    ground: &mut Ground<'_>,
    name: &'static str,
    count: u64,
    durable: Durable,
) -> Result<()> {
    let (path, bytes) = (ground.path("large"), ground.scale.file_bytes);
    ground.rate(name, count, |_| write_blocks(&path, random_blocks(count, count, bytes), durable))
}
