//! Latencies: samples, their percentiles, and what imposed the stalls.
//!
//! A probe writes to the same disk all the time. What it meets is imposed from outside: a stall is the disk's
//! when a write of the probe that overlaps it took at least half as long, and otherwise the machine's when the
//! probe waited for a processor so long meanwhile.

use std::time::Duration;

/// What takes longer than this is a stall.
pub(crate) const STALL: Duration = Duration::from_millis(50);

/// When something began, since the beginning of the run, and how long it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sample {
    pub begun: Duration,
    pub took: Duration,
}

impl Sample {
    /// Says whether it is a stall.
    pub(crate) fn is_stall(self) -> bool {
        self.took > STALL
    }

    /// Says whether both went on at one time.
    pub(crate) fn overlaps(self, other: Sample) -> bool {
        self.begun < other.begun + other.took && other.begun < self.begun + self.took
    }

    /// Returns how long the longest of `others` took that overlap it.
    pub(crate) fn longest_beside(self, others: &[Sample]) -> Duration {
        let beside = others.iter().filter(|sample| self.overlaps(**sample));
        beside.map(|sample| sample.took).max().unwrap_or_default()
    }

    /// Says what imposed it.
    pub(crate) fn cause(self, probe: &Probe) -> Cause {
        let imposed_by = |others: &[Sample]| self.longest_beside(others) * 2 >= self.took;
        if imposed_by(&probe.writes) {
            Cause::Disk
        } else if imposed_by(&probe.waits) {
            Cause::Machine
        } else {
            Cause::None
        }
    }
}

/// What the probe met.
#[derive(Debug, Default)]
pub(crate) struct Probe {
    /// Small durable writes.
    pub writes: Vec<Sample>,
    /// From when each was due until it began.
    pub waits: Vec<Sample>,
}

/// What imposed a stall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    Disk,
    /// Processors that were busy, or a virtual machine that was stopped.
    Machine,
    /// Nothing that the probe met.
    None,
}

/// Returns the smallest of the times, which rise, that at least so many of a thousand do not exceed; none
/// if there are no times.
pub(crate) fn percentile(rising: &[Duration], per_mille: usize) -> Option<Duration> {
    let rank = (rising.len() * per_mille).div_ceil(1000);
    rising.get(rank.saturating_sub(1)).copied()
}

/// What is told of many samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Summary {
    pub count: usize,
    pub p50: Duration,
    pub p99: Duration,
    pub p999: Duration,
    pub max: Duration,
    pub stalls: usize,
    /// Stalls that the disk imposed, and that the machine did.
    pub by_disk: usize,
    pub by_machine: usize,
}

impl Summary {
    /// Summarizes the samples; none if there are none.
    pub(crate) fn of(samples: &[Sample], probe: &Probe) -> Option<Summary> {
        let mut times: Vec<Duration> = samples.iter().map(|sample| sample.took).collect();
        times.sort_unstable();
        let causes = samples.iter().filter(|sample| sample.is_stall()).map(|s| s.cause(probe));
        let causes: Vec<Cause> = causes.collect();
        let imposed_by = |cause| causes.iter().filter(|other| **other == cause).count();
        Some(Summary {
            count: times.len(),
            p50: percentile(&times, 500)?,
            p99: percentile(&times, 990)?,
            p999: percentile(&times, 999)?,
            max: *times.last()?,
            stalls: causes.len(),
            by_disk: imposed_by(Cause::Disk),
            by_machine: imposed_by(Cause::Machine),
        })
    }
}
