//! The workloads. Each is a list of steps; every target takes a step before any takes the next, so that
//! what is compared was measured within seconds.

mod databases;
mod large;
mod small;
mod snapshots;
mod tree;

pub(crate) use tree::git;

use crate::failure::Result;
use crate::ground::Ground;

/// A step of a workload on one target.
pub(crate) type Step = fn(&mut Ground<'_>) -> Result<()>;

/// A workload: it finds an empty filesystem, and leaves what it made there.
pub(crate) struct Workload {
    /// What `--only` calls it.
    pub name: &'static str,
    /// Most rounds, for what takes long.
    pub most_rounds: usize,
    /// Filesystems without snapshots have no part in it.
    pub needs_snapshots: bool,
    /// Its steps, in order. When one fails the rest are left out on that target.
    pub steps: &'static [Step],
}

/// All workloads, in the order of their rows.
pub(crate) const WORKLOADS: [Workload; 9] = [
    large::SEQUENTIAL,
    large::RANDOM,
    large::AGED,
    small::SMALL,
    tree::TREE,
    tree::GIT,
    databases::SQLITE,
    databases::POSTGRES,
    snapshots::SNAPSHOTS,
];
