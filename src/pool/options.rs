//! How a pool is made and opened, and what it says of itself.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::format::{Epoch, Hash, MemberId, Timestamp, VolumeId};

/// Tells the time; passed in, so that tests decide it.
pub trait Clock: Send + Sync {
    /// The time now.
    fn now(&self) -> Timestamp;
}

/// How to make a pool.
#[derive(Debug, Clone)]
pub struct CreateOptions {
    /// Size of the data file's address space; none for what the host has to give.
    pub size_bytes: Option<u64>,
    /// Length of the journal.
    pub journal_bytes: u64,
    /// Names the pool: random.
    pub uuid: [u8; 16],
    /// Keys name hashes and the journal's salt: random.
    pub seed: [u8; 32],
}

impl CreateOptions {
    /// Journal length unless told otherwise: more than one checkpoint interval of the busiest workload.
    pub const JOURNAL_BYTES: u64 = 64 << 20;
}

/// How to open a pool.
#[derive(Clone)]
pub struct OpenOptions {
    /// Most bytes of nodes kept in memory, clean and dirty.
    pub cache_bytes: u64,
    /// Longest time between checkpoints while there are changes.
    pub commit_interval: Duration,
    /// Whether checkpoints and reclaim run on a thread of their own; without it they run when called for, or
    /// when an operation can't go on without.
    pub background: bool,
    /// A number that no earlier opening of the pool had: it keeps their journal records apart.
    pub nonce: u64,
    /// Keeps what the journal says of requests that were carried out: mounts go on that an earlier process
    /// served.
    pub keep_answers: bool,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
}

impl OpenOptions {
    /// The defaults: 256 MiB of cache, a checkpoint every 5 seconds, in the background. The nonce is the
    /// time.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let commit_interval = Duration::from_secs(5);
        let now = clock.now();
        let nonce = (now.sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.nsec.into());
        OpenOptions {
            cache_bytes: 256 << 20,
            commit_interval,
            background: true,
            nonce,
            keep_answers: false,
            clock,
        }
    }
}

impl fmt::Debug for OpenOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenOptions")
            .field("cache_bytes", &self.cache_bytes)
            .field("commit_interval", &self.commit_interval)
            .field("background", &self.background)
            .finish_non_exhaustive()
    }
}

/// Whether an operation needs room, or gives it back and may use the reserve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// It adds: refused when only the reserve is left, and what was promised ([`super::Volume::change_promised`]).
    Grow,
    /// It takes what was promised: refused when only the reserve is left.
    Promised,
    /// It removes: allowed on a full pool.
    Shrink,
}

/// Figures of a pool.
#[derive(Debug, Clone)]
pub struct PoolStatus {
    /// Names the pool.
    pub uuid: [u8; 16],
    /// When it was made.
    pub created: Timestamp,
    /// Size of its address space.
    pub total_bytes: u64,
    /// In use by trees and data, now.
    pub used_bytes: u64,
    /// Allocatable now.
    pub free_bytes: u64,
    /// Freed, and allocatable after the next checkpoint.
    pub held_bytes: u64,
    /// What the host could still give.
    pub host_available_bytes: u64,
    /// Items of background reclaim that are left.
    pub reclaim_pending: u64,
    /// Journal bytes since the last checkpoint.
    pub journal_used_bytes: u64,
    /// Length of the journal.
    pub journal_capacity_bytes: u64,
    /// Dirty nodes, in bytes.
    pub dirty_bytes: u64,
    /// Clean nodes in memory.
    pub cache_bytes: u64,
    /// Their limit.
    pub cache_limit_bytes: u64,
    /// Current epoch.
    pub epoch: Epoch,
    /// Number of the last checkpoint.
    pub checkpoint_generation: u64,
    /// Why the pool is read-only, if it is.
    pub read_only: Option<String>,
}

/// A volume, as listed.
#[derive(Debug, Clone)]
pub struct VolumeInfo {
    /// Its number.
    pub id: VolumeId,
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// Its live state; none when it was deleted and only snapshots are left.
    pub head: Option<MemberId>,
    /// What its live state refers to, shared with snapshots or not.
    pub referenced_bytes: u64,
    /// What of that no snapshot has.
    pub exclusive_bytes: u64,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Limit of what it refers to.
    pub quota_bytes: Option<u64>,
    /// Number of its snapshots.
    pub snapshots: usize,
}

/// A snapshot, as listed.
#[derive(Debug, Clone)]
pub struct SnapshotInfo {
    /// Its number in the pool.
    pub member: MemberId,
    /// Volume that it is of.
    pub volume: VolumeId,
    /// Its number in the volume; never reused.
    pub number: u32,
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// Epoch that it froze.
    pub epoch: Epoch,
    /// Snapshot that it grew from.
    pub parent: Option<MemberId>,
    /// What it refers to, shared or not.
    pub referenced_bytes: u64,
    /// BLAKE3 of its root node, which authenticates the whole; none before its first checkpoint.
    pub root: Option<Hash>,
}
