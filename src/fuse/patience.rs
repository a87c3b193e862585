//! How long a worker looks for the next request before it sleeps.
//!
//! To wake a thread on another processor takes longer than most requests do, and longer still in a virtual
//! machine. Where requests come one soon after the other, as from a program that makes many small files, the
//! worker that has replied looks for the next one for a moment. It does so only while that is worth it: the
//! waits of late tell how long the next one will be.

use std::time::{Duration, Instant};

/// Waits that are longer are not worth looking through.
const LONGEST: Duration = Duration::from_micros(40);
/// A long wait counts as that much, so that a few short ones after it are enough.
const CAP: Duration = Duration::from_micros(120);
/// The weight of the last wait: one in so many.
const WEIGHT: u32 = 8;

/// The waits of a worker for requests.
#[derive(Debug)]
pub(crate) struct Patience {
    /// Moving average.
    average: Duration,
    since: Instant,
    /// Another thread can run at the same time.
    processors: bool,
}

impl Patience {
    /// For the calling thread.
    pub(crate) fn new() -> Self {
        let processors = std::thread::available_parallelism().is_ok_and(|number| number.get() > 1);
        Patience { average: CAP, since: Instant::now(), processors }
    }

    /// A wait begins: looks with `is_there` until it says yes, or for as long as it is worth it.
    pub(crate) fn look(&mut self, is_there: impl Fn() -> bool) {
        self.since = Instant::now();
        if !self.processors || self.average > LONGEST {
            return;
        }
        while !is_there() && self.since.elapsed() < LONGEST {
            std::hint::spin_loop();
        }
    }

    /// The wait is over.
    pub(crate) fn ends(&mut self) {
        self.learn(self.since.elapsed());
    }

    fn learn(&mut self, wait: Duration) {
        self.average = (self.average * (WEIGHT - 1) + wait.min(CAP)) / WEIGHT;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn looks(patience: &mut Patience) -> bool {
        let looked = Cell::new(false);
        patience.look(|| {
            looked.set(true);
            true
        });
        looked.get()
    }

    #[test]
    fn it_looks_while_requests_come_soon_and_not_when_they_do_not() {
        let mut patience = Patience { processors: true, ..Patience::new() };
        assert!(!looks(&mut patience), "nothing is known yet");
        (0..20).for_each(|_| patience.learn(Duration::from_micros(5)));
        assert!(looks(&mut patience));
        // A pause, as long as it may be, is forgotten after a few short waits.
        patience.learn(Duration::from_secs(3600));
        (0..8).for_each(|_| patience.learn(Duration::from_micros(5)));
        assert!(looks(&mut patience));
        (0..20).for_each(|_| patience.learn(Duration::from_millis(1)));
        assert!(!looks(&mut patience));
    }

    #[test]
    fn it_does_not_look_for_ever() {
        let mut patience =
            Patience { processors: true, average: Duration::ZERO, ..Patience::new() };
        let begun = Instant::now();
        patience.look(|| false);
        assert!(begun.elapsed() >= LONGEST);
    }

    #[test]
    fn on_one_processor_looking_would_keep_the_caller_from_running() {
        let mut patience =
            Patience { processors: false, average: Duration::ZERO, ..Patience::new() };
        assert!(!looks(&mut patience));
    }
}
