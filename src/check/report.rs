//! What a check has found.

use std::fmt;

/// Most problems that a report lists; further ones are counted.
const MAX_PROBLEMS: usize = 1000;
/// Nodes between two calls of the progress function.
const PROGRESS_NODES: u64 = 1024;

/// Something that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Number of the invariant, for example `T2`; the module says which there are.
    pub invariant: &'static str,
    /// What is wrong, and where.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.message)
    }
}

/// What was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Superblock slots that are valid: two, or one after a power cut.
    pub superblock_slots: u64,
    /// Volumes, those with nothing but snapshots left included.
    pub volumes: u64,
    /// Snapshots.
    pub snapshots: u64,
    /// Lineage members done: heads, snapshots, and deleted ones that are not freed yet.
    pub members: u64,
    /// Lineage members in all.
    pub members_total: u64,
    /// Nodes read, each once.
    pub nodes: u64,
    /// Inodes, each once for each state in which it differs from the state before.
    pub inodes: u64,
    /// References to data blocks, each once.
    pub data_blocks: u64,
    /// Data blocks read and verified.
    pub verified_blocks: u64,
    /// Dead references in deadlists and reclaim work, in blocks.
    pub dead_blocks: u64,
    /// Blocks that the space map says are in use.
    pub used_blocks: u64,
}

/// Result of a check.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The first thousand problems.
    pub problems: Vec<Problem>,
    /// How many more there are.
    pub more_problems: u64,
    /// What was looked at.
    pub counts: Counts,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }

    /// Whether some problem is of that invariant.
    pub fn has(&self, invariant: &str) -> bool {
        self.problems.iter().any(|problem| problem.invariant == invariant)
    }
}

/// Gathers a report.
pub(super) struct Reporter<'a> {
    report: Report,
    pub(super) counts: Counts,
    progress: &'a mut dyn FnMut(&Counts),
    /// What is being looked at, for messages.
    pub(super) place: String,
}

impl<'a> Reporter<'a> {
    pub(super) fn new(progress: &'a mut dyn FnMut(&Counts)) -> Self {
        Reporter {
            report: Report::default(),
            counts: Counts::default(),
            progress,
            place: String::new(),
        }
    }

    pub(super) fn problem(&mut self, invariant: &'static str, message: impl fmt::Display) {
        if self.report.problems.len() == MAX_PROBLEMS {
            self.report.more_problems += 1;
            return;
        }
        let place = if self.place.is_empty() { String::new() } else { format!("{}: ", self.place) };
        self.report.problems.push(Problem { invariant, message: format!("{place}{message}") });
    }

    /// Adds a problem unless `right`.
    pub(super) fn expect(
        &mut self,
        right: bool,
        invariant: &'static str,
        message: impl FnOnce() -> String,
    ) {
        if !right {
            self.problem(invariant, message());
        }
    }

    pub(super) fn count_node(&mut self) {
        self.counts.nodes += 1;
        if self.counts.nodes.is_multiple_of(PROGRESS_NODES) {
            (self.progress)(&self.counts);
        }
    }

    pub(super) fn finish(self) -> Report {
        (self.progress)(&self.counts);
        Report { counts: self.counts, ..self.report }
    }
}
