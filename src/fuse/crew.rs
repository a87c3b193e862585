//! Whose turn it is to read requests.
//!
//! The kernel gives a request to the reader that has waited longest. Were all workers to read, they would take
//! turns, most of them on another processor than the caller, and a round trip between two processors takes several
//! times as long as one on the same. So one worker reads, the *receiver*; the others are parked. After a
//! request it reads the next one itself, unless somebody else is called:
//!
//! - when another request waits already, and this one is large;
//! - before it reads from the disk or syncs it, if another request waits already, came meanwhile of late, or if that
//!   took long of late;
//! - when a parked worker, which looks every [`TICK`], finds that no request was taken since its last look,
//!   and that nobody reads.
//!
//! Parked workers look while requests come, and for a while after the last one; then they sleep until the next.
//!
//! Invariant 1: whenever a worker is parked, another one reads, or is called, or is looked after.
//!
//! Lock order: the lock is held for no call out of this module.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// How long a request may keep the receiver from reading before another worker takes its place.
const TICK: Duration = Duration::from_millis(5);
/// A wait that is as short as this holds others up no longer than it takes to wake another worker and to be
/// woken in turn.
const SHORT: Duration = Duration::from_micros(300);
/// Looks without a request after which a parked worker sleeps.
const IDLE_TICKS: u32 = 50;

#[derive(Debug, Default)]
struct State {
    receiving: bool,
    /// A parked worker is to take the turn.
    called: bool,
    parked: usize,
    asleep: usize,
    /// Requests that were received.
    taken: u64,
    ended: bool,
}

/// The workers of one mount.
#[derive(Debug, Default)]
pub(crate) struct Crew {
    state: Mutex<State>,
    changed: Condvar,
    /// Reads from the disk.
    pub(crate) reads: Lasting,
    pub(crate) fsyncs: Lasting,
}

/// How long something keeps others waiting that a worker waits for: a moving average, in nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct Lasting(AtomicU64);

impl Lasting {
    /// It took so long; `missed` says that a request came meanwhile, so that somebody else was missed.
    pub(crate) fn took(&self, time: Duration, missed: bool) {
        let counted = if missed { TICK } else { time.min(TICK) };
        let counted = u64::try_from(counted.as_nanos()).unwrap_or(u64::MAX);
        let average = self.0.load(Ordering::Relaxed);
        self.0.store((average * 7 + counted) / 8, Ordering::Relaxed);
    }

    /// Whether nobody will have to wait for the next one, or not for longer than waking another worker takes.
    pub(crate) fn is_short(&self) -> bool {
        Duration::from_nanos(self.0.load(Ordering::Relaxed)) < SHORT
    }
}

impl Crew {
    /// Waits for the turn to receive.
    pub(crate) fn wait_for_turn(&self) {
        let mut state = self.state.lock();
        let (mut stuck, mut idle_ticks) = (true, 0);
        while !state.ended && (state.receiving || !(state.called || stuck)) {
            let taken = state.taken;
            state.parked += 1;
            if idle_ticks < IDLE_TICKS {
                let timed_out = self.changed.wait_for(&mut state, TICK).timed_out();
                stuck = timed_out && state.taken == taken;
                idle_ticks += 1;
            } else {
                state.asleep += 1;
                self.changed.wait(&mut state);
                state.asleep -= 1;
                stuck = false;
            }
            state.parked -= 1;
            if state.taken != taken {
                idle_ticks = 0;
            }
        }
        state.called = false;
        state.receiving = true;
    }

    /// The receiver has a request now.
    pub(crate) fn received(&self) {
        let mut state = self.state.lock();
        state.receiving = false;
        state.taken += 1;
        if state.asleep > 0 {
            self.changed.notify_all();
        }
    }

    /// Calls another worker to receive, if nobody does; false if there is none to call.
    pub(crate) fn call(&self) -> bool {
        let mut state = self.state.lock();
        if !state.receiving && state.parked > 0 && !state.called {
            state.called = true;
            self.changed.notify_one();
        }
        state.receiving || state.called
    }

    /// Before a wait for the disk: sees to it that somebody receives meanwhile, unless nobody will be missed.
    /// `more` asks whether a request waits already. False if somebody will be missed, and nobody is there.
    pub(crate) fn may_wait(&self, waits: &Lasting, more: impl FnOnce() -> bool) -> bool {
        waits.is_short() && !more() || self.call()
    }

    /// Nothing more will come: everybody is to find out by receiving.
    pub(crate) fn end(&self) {
        self.state.lock().ended = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, mpsc};
    use std::thread;

    /// A second worker that says when it has the turn, and keeps it.
    fn second(crew: &Arc<Crew>) -> mpsc::Receiver<()> {
        let (turn, has_turn) = mpsc::channel();
        let crew = Arc::clone(crew);
        thread::spawn(move || {
            crew.wait_for_turn();
            turn.send(()).unwrap();
        });
        has_turn
    }

    const LONG: Duration = Duration::from_secs(20);
    const SHORT: Duration = Duration::from_millis(50);

    #[test]
    fn a_worker_that_does_not_come_back_is_replaced() {
        let crew = Arc::new(Crew::default());
        crew.wait_for_turn();
        let has_turn = second(&crew);
        assert!(has_turn.recv_timeout(SHORT).is_err(), "somebody receives already");
        crew.received();
        has_turn.recv_timeout(LONG).expect("the first one lasts");
    }

    #[test]
    fn a_worker_that_sleeps_is_replaced_for_too() {
        let crew = Arc::new(Crew::default());
        crew.wait_for_turn();
        let has_turn = second(&crew);
        while crew.state.lock().asleep == 0 {
            thread::sleep(TICK);
        }
        crew.received();
        has_turn.recv_timeout(LONG).expect("the first one lasts");
    }

    #[test]
    fn whoever_is_called_takes_the_turn() {
        let crew = Arc::new(Crew::default());
        crew.wait_for_turn();
        assert!(!crew.call() || crew.state.lock().receiving, "there is nobody to call");
        let has_turn = second(&crew);
        while crew.state.lock().parked == 0 {
            thread::yield_now();
        }
        crew.received();
        assert!(crew.call());
        has_turn.recv_timeout(LONG).expect("it was called");
        assert!(crew.call(), "somebody receives");
    }

    #[test]
    fn a_worker_that_comes_back_keeps_the_turn() {
        let crew = Arc::new(Crew::default());
        crew.wait_for_turn();
        // Who had the turn last; and how often another took it from this thread, not from each other.
        let last = Arc::new(AtomicUsize::new(0));
        let taken = Arc::new(AtomicUsize::new(0));
        for other in 1..=2 {
            let (crew, last, taken) = (Arc::clone(&crew), Arc::clone(&last), Arc::clone(&taken));
            thread::spawn(move || {
                while !crew.state.lock().ended {
                    crew.wait_for_turn();
                    if last.swap(other, Ordering::Relaxed) == 0 {
                        taken.fetch_add(1, Ordering::Relaxed);
                    }
                    crew.received();
                }
            });
        }
        let until = std::time::Instant::now() + SHORT;
        let mut turns = 0;
        while std::time::Instant::now() < until {
            crew.received();
            crew.wait_for_turn();
            last.store(0, Ordering::Relaxed);
            turns += 1;
        }
        // Only where this thread was kept from running for a whole tick.
        let taken = taken.load(Ordering::Relaxed);
        assert!(taken < turns / 4, "{taken} taken of {turns}");
        crew.end();
    }

    #[test]
    fn what_takes_long_is_known_after_once_and_forgotten_after_a_while() {
        let reads = Lasting::default();
        assert!(reads.is_short());
        for (time, missed) in [(Duration::from_secs(1), false), (Duration::from_micros(9), true)] {
            reads.took(time, missed);
            assert!(!reads.is_short());
            (0..40).for_each(|_| reads.took(Duration::from_micros(100), false));
            assert!(reads.is_short());
        }
    }

    #[test]
    fn at_the_end_nobody_waits() {
        let crew = Arc::new(Crew::default());
        crew.wait_for_turn();
        let (first, other) = (second(&crew), second(&crew));
        crew.end();
        first.recv_timeout(LONG).expect("it is told");
        other.recv_timeout(LONG).expect("it is told");
    }
}
