//! The thread that makes checkpoints and reclaims space.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::store::CatalogStore;
use super::{Error, Pool, Result};
use crate::format::NODE_BLOCKS;
use crate::snapshot::Progress;
use crate::threads::{Condvar, Mutex, thread};

/// Chunks of references or nodes that one step of reclaim handles: a step holds the catalog for about a
/// millisecond.
const RECLAIM_STEP: usize = 32;
/// Freed blocks that wait for a checkpoint before reclaim asks for one: 256 MiB.
const RECLAIM_HELD_BLOCKS: u64 = 65536;

/// Longest time that closing a pool spends on giving space back to the host.
const MAX_CLOSING_TRIM: Duration = Duration::from_secs(1);

/// What the thread is told.
#[derive(Debug, Default)]
struct Signal {
    wake: bool,
    stop: bool,
}

/// Handle of the thread.
#[derive(Debug, Default)]
pub(super) struct Background {
    signal: Mutex<Signal>,
    woken: Condvar,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
}

impl Background {
    /// Asks for a checkpoint soon.
    pub(super) fn wake(&self) {
        let mut signal = self.signal.lock();
        if !signal.wake {
            signal.wake = true;
            self.woken.notify_one();
        }
    }

    /// Ends the thread and waits for it; does nothing when called on the thread itself.
    pub(super) fn stop(&self) {
        self.signal.lock().stop = true;
        self.woken.notify_one();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread
            && thread.thread().id() != thread::current().id()
        {
            // A panic of the thread has been reported by the panic hook; there is nothing to add.
            let _ = thread.join();
        }
    }

    /// Waits until woken or until `interval` is over; false when the thread is to end.
    fn wait(&self, interval: Duration) -> bool {
        let mut signal = self.signal.lock();
        if !signal.wake && !signal.stop {
            self.woken.wait_for(&mut signal, interval);
        }
        signal.wake = false;
        !signal.stop
    }
}

impl Pool {
    /// Starts the thread, if the options ask for one.
    pub(super) fn start_background(self: &Arc<Self>) -> Result<()> {
        if !self.options.background {
            return Ok(());
        }
        let interval = self.options.commit_interval;
        let background = Arc::clone(&self.background);
        // The thread holds the pool only while it works, or nobody could ever drop it.
        let pool = Arc::downgrade(self);
        let run = move || {
            while background.wait(interval)
                && let Some(pool) = Weak::upgrade(&pool)
            {
                pool.background_round();
            }
        };
        let thread = thread::Builder::new().name("amberfs-pool".into()).spawn(run);
        let thread = thread.map_err(Error::io("starting the pool's thread"))?;
        *self.background.thread.lock() = Some(thread);
        Ok(())
    }

    /// One checkpoint, and reclaim until there is nothing left or a further checkpoint is due. An error has
    /// made the pool read-only and is in the log: the thread has nobody to tell.
    fn background_round(&self) {
        let idle = !self.changed.load(Ordering::Relaxed);
        let _ = self.checkpoint();
        let mut steps = 0;
        while matches!(self.run_reclaim(), Ok(true)) {
            steps += 1;
            let held = self.space.lock().held_blocks();
            if held > RECLAIM_HELD_BLOCKS || steps % 64 == 0 {
                let _ = self.checkpoint();
            }
            if self.background.signal.lock().stop {
                return;
            }
        }
        if steps > 0 {
            let _ = self.checkpoint();
        } else if idle {
            self.trim();
        }
    }

    /// Gives the host back what releases left in small pieces, until something else is to be done.
    fn trim(&self) {
        while self.trim_some() {
            if self.changed.load(Ordering::Relaxed) || self.background.signal.lock().stop {
                return;
            }
        }
    }

    /// Does one bounded step of background reclaim; false when there was nothing to do.
    pub fn run_reclaim(&self) -> Result<bool> {
        self.check_failed()?;
        // Nodes that reclaim reads are dirtied in the catalog: keep within the limits of operations.
        self.throttle(super::Intent::Shrink)?;
        let _gate = self.gate.read();
        let mut lineage = self.lineage.lock();
        let _changing = self.changing();
        // A step must not run out of nodes half way: each chunk dirties a few of the catalog's.
        let room = self.space.lock().node_blocks() / u64::from(NODE_BLOCKS) / 8;
        let budget = (room as usize).clamp(1, RECLAIM_STEP);
        let progress = lineage.reclaim(budget, &mut CatalogStore { pool: self });
        let progress = progress.map_err(|e| self.fail("reclaiming space", e.into()))?;
        let Some(Progress { data, nodes, unreadable, .. }) = progress else { return Ok(false) };
        self.changed.store(true, Ordering::Relaxed);
        for what in unreadable {
            tracing::error!("space of a deleted snapshot is lost until a repair: {what}");
        }
        let mut free = nodes;
        for run in data {
            let parts = lineage.unshare(run, &mut CatalogStore { pool: self });
            free.extend(parts.map_err(|e| self.fail("lowering a shared count", e.into()))?);
        }
        drop(lineage);
        self.free_runs(&free);
        Ok(true)
    }

    /// The same at the end, when nothing else is to be done but somebody waits.
    fn trim_at_close(&self) {
        let begun = std::time::Instant::now();
        while begun.elapsed() < MAX_CLOSING_TRIM && self.trim_some() {}
    }

    /// Ends background work, makes a last checkpoint and lets go of the volumes.
    ///
    /// Whoever still has a volume can read it, and gets errors for changes.
    pub fn close(&self) -> Result<()> {
        self.scrub.stop();
        self.background.stop();
        let done = self.checkpoint();
        if done.is_ok() {
            self.trim_at_close();
        }
        self.abandon();
        done
    }

    /// Lets go of the pool as a crash would: nothing is written any more.
    pub fn abandon(&self) {
        self.scrub.stop();
        self.background.stop();
        self.failure.lock().get_or_insert_with(|| "it has been closed".into());
        self.volumes.write().clear();
    }
}
