//! The workloads. Each is a list of steps; every target takes a step before any takes the next, so that
//! what is compared was measured within seconds.

mod databases;
mod large;
mod small;
mod snapshots;
mod tree;

use std::ops::Range;

pub(crate) use tree::git;

use crate::failure::Result;
use crate::ground::Ground;

/// A step of a workload on one target.
pub(crate) type Step = fn(&mut Ground<'_>) -> Result<()>;

/// How often a workload is run, in terms of the rounds that are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rounds {
    /// As often as is asked for.
    All,
    /// What takes long.
    AtMostTwo,
    /// What is bound by flushes of the disk, whose time changes from one second to the next.
    ThreeForOne,
}

impl Rounds {
    /// Returns the numbers of the rounds that stand for the one `asked` for.
    pub(crate) fn of(self, asked: usize) -> Range<usize> {
        match self {
            Rounds::AtMostTwo if asked >= 2 => asked..asked,
            Rounds::All | Rounds::AtMostTwo => asked..asked + 1,
            Rounds::ThreeForOne => 3 * asked..3 * asked + 3,
        }
    }
}

/// A workload: it finds an empty filesystem, and leaves what it made there.
pub(crate) struct Workload {
    /// What `--only` calls it.
    pub name: &'static str,
    /// How often it is run.
    pub rounds: Rounds,
    /// Filesystems without snapshots have no part in it.
    pub needs_snapshots: bool,
    /// Its steps, in order. When one fails the rest are left out on that target.
    pub steps: &'static [Step],
}

/// All workloads, in the order of their rows.
pub(crate) const WORKLOADS: [Workload; 10] = [
    large::SEQUENTIAL,
    large::RANDOM,
    large::SYNCED,
    large::AGED,
    small::SMALL,
    tree::TREE,
    tree::GIT,
    databases::SQLITE,
    databases::POSTGRES,
    snapshots::SNAPSHOTS,
];
