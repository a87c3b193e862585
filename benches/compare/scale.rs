//! How large the workloads are: whole, or `--quick`.

use std::time::Duration;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The sizes of all workloads.
#[derive(Debug)]
pub(crate) struct Scale {
    /// Times that every target runs a workload, unless the workload is a long one.
    pub rounds: usize,
    /// Rounds after the first are left out when they would not end within this time.
    pub budget: Duration,
    /// The file systems on loop devices get images of this size.
    pub image_bytes: u64,
    /// The large file, a multiple of a MiB.
    pub file_bytes: u64,
    /// Random writes of 4 KiB that are made durable together.
    pub writes: u64,
    /// Random writes with O_DIRECT.
    pub direct_writes: u64,
    /// Writes that are each made durable.
    pub synced_writes: u64,
    /// Random reads from the disk, and from memory.
    pub cold_reads: u64,
    pub warm_reads: u64,
    /// Small files, and the size of each.
    pub small_files: u64,
    pub small_bytes: u64,
    /// Files of the generated tree, which is also the git repository.
    pub tree_files: u64,
    /// The tree to unpack is that of Linux, if it is installed.
    pub linux: bool,
    /// Transactions of SQLite.
    pub transactions: u64,
    /// Scale and time of pgbench.
    pub pgbench_scale: u64,
    pub pgbench_seconds: u64,
    /// Bytes that are dirty when a snapshot is made.
    pub dirty_bytes: u64,
    /// Files there when a snapshot is made, in the row about many files.
    pub snapshot_files: u64,
    /// Snapshots there when another is made, in the row about many, and in that about most.
    pub many_snapshots: u64,
    pub most_snapshots: u64,
    /// A target that needs longer than this for many or most snapshots has no figure.
    pub patience: Duration,
}

impl Scale {
    /// The sizes that the targets are about. All of it takes less than half an hour.
    pub(crate) fn full() -> Scale {
        Scale {
            rounds: 3,
            budget: Duration::from_secs(26 * 60),
            image_bytes: 10 * GIB,
            file_bytes: 512 * MIB,
            writes: 32_768,
            direct_writes: 4096,
            synced_writes: 200,
            cold_reads: 4096,
            warm_reads: 200_000,
            small_files: 50_000,
            small_bytes: KIB,
            tree_files: 10_000,
            linux: true,
            transactions: 300,
            pgbench_scale: 20,
            pgbench_seconds: 10,
            dirty_bytes: 100 * MIB,
            snapshot_files: 100_000,
            many_snapshots: 1000,
            most_snapshots: 10_000,
            patience: Duration::from_secs(60),
        }
    }

    /// Sizes that show that all is well, in less than three minutes.
    pub(crate) fn quick() -> Scale {
        Scale {
            rounds: 1,
            budget: Duration::from_secs(130),
            image_bytes: 3 * GIB,
            file_bytes: 128 * MIB,
            writes: 8192,
            direct_writes: 512,
            synced_writes: 50,
            cold_reads: 1024,
            warm_reads: 50_000,
            small_files: 5000,
            tree_files: 3000,
            linux: false,
            transactions: 50,
            pgbench_scale: 1,
            pgbench_seconds: 2,
            dirty_bytes: 32 * MIB,
            snapshot_files: 5000,
            many_snapshots: 200,
            most_snapshots: 0,
            patience: Duration::from_secs(4),
            ..Scale::full()
        }
    }
}
