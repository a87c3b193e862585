//! The run's clock, and spans of it in which several threads do something.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::programs;
use crate::samples::Sample;

/// Time since the beginning of the run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    /// Begins the run.
    pub(crate) fn start() -> Clock {
        Clock(Instant::now())
    }

    /// Returns the time since the beginning.
    pub(crate) fn now(self) -> Duration {
        self.0.elapsed()
    }

    /// Does `work` and says when, and what came of it.
    pub(crate) fn time<T>(self, work: impl FnOnce() -> T) -> (Sample, T) {
        let begun = self.now();
        let outcome = work();
        (Sample { begun, took: self.now() - begun }, outcome)
    }
}

/// A part of the run that ends for all its threads when its time is over, when one of them has ended, or
/// when a signal asks for it.
#[derive(Debug)]
pub(crate) struct Span {
    pub clock: Clock,
    until: Duration,
    ended: AtomicBool,
}

/// Ends a span when it is dropped.
struct Ends<'a>(&'a Span);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Relaxed);
    }
}

impl Span {
    /// Begins a span of so long.
    pub(crate) fn begin(clock: Clock, length: Duration) -> Span {
        Span { clock, until: clock.now().saturating_add(length), ended: AtomicBool::new(false) }
    }

    /// Does a thread's `work`, and ends the span however the work ends, with a panic too.
    pub(crate) fn hold<T>(&self, work: impl FnOnce(&Span) -> T) -> T {
        let _ends = Ends(self);
        work(self)
    }

    /// Says whether it still goes on.
    pub(crate) fn lasts(&self) -> bool {
        let ended = self.ended.load(Ordering::Relaxed);
        !ended && self.clock.now() < self.until && programs::going().is_ok()
    }

    /// Sleeps until `due`, if that is not over yet, and says whether the span still goes on.
    pub(crate) fn sleep_until(&self, due: Duration) -> bool {
        thread::sleep(due.saturating_sub(self.clock.now()));
        self.lasts()
    }
}
