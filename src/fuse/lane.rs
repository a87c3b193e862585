//! Lanes: threads for requests that a worker must not wait for.
//!
//! - [`Lane::Sync`]: waits for the disk (fsync, syncfs, large copies) or for the write-back of pages
//!   (SEEK_HOLE, what takes room where there is little), and for no inode lock. As many threads as there are
//!   waiting requests, up to [`MAX_SYNC_THREADS`].
//! - [`Lane::Snapshot`]: changes of `.snapshots`, one at a time. Making a snapshot waits for the
//!   flush of files whose inode locks may be held by callers whose FSYNC is in the other lane: so
//!   the other lane must never be filled with them.
//! - [`Lane::Room`]: writes that must wait until the kernel has passed on what it holds ([`super::room`]). That
//!   waits for inode locks, too; a write is asked for before it takes any.
//!
//! Lock order: the queue's lock is held for no call out of this module.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::dispatch::{Context, Scratch};
use super::reply::Reply;
use super::worker::run_job;

/// Enough callers to share one flush of the disk; each thread costs a stack and a reply buffer.
const MAX_SYNC_THREADS: usize = 16;
/// How long a thread waits for more work before it ends.
const IDLE: Duration = Duration::from_secs(10);
/// Longer than any job lasts once the kernel has ended the session.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(60);

/// Where a request is carried out, if not by the worker that read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    Sync,
    Snapshot,
    Room,
}

/// A request that was put off: its bytes, and where the reply goes.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) bytes: Vec<u8>,
    pub(crate) reply: Reply,
    /// An earlier process may have carried it out.
    pub(crate) again: bool,
}

#[derive(Debug, Default)]
struct Queue {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    closing: bool,
}

#[derive(Debug)]
struct Shared {
    lane: Lane,
    queue: Mutex<Queue>,
    work: Condvar,
    thread_ended: Condvar,
    name: &'static str,
    max_threads: usize,
}

/// The lanes of one mount.
#[derive(Debug, Clone)]
pub(crate) struct Lanes {
    context: Arc<Context>,
    sync: Arc<Shared>,
    snapshot: Arc<Shared>,
    room: Arc<Shared>,
}

impl Lanes {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        let shared = |lane, name, max_threads| {
            let (work, thread_ended) = (Condvar::new(), Condvar::new());
            let queue = Mutex::default();
            Arc::new(Shared { lane, queue, work, thread_ended, name, max_threads })
        };
        let sync = shared(Lane::Sync, "fuse-sync", MAX_SYNC_THREADS);
        let snapshot = shared(Lane::Snapshot, "fuse-snapshot", 1);
        let room = shared(Lane::Room, "fuse-room", MAX_SYNC_THREADS);
        Lanes { context, sync, snapshot, room }
    }

    /// Queues a job and sees to it that a thread takes it.
    pub(crate) fn submit(&self, lane: Lane, job: Job) {
        let shared = match lane {
            Lane::Sync => &self.sync,
            Lane::Snapshot => &self.snapshot,
            Lane::Room => &self.room,
        };
        let mut queue = shared.queue.lock();
        queue.jobs.push_back(job);
        if queue.idle >= queue.jobs.len() || queue.threads == shared.max_threads {
            shared.work.notify_one();
            return;
        }
        queue.threads += 1;
        drop(queue);
        self.spawn(shared);
    }

    /// Carries out what is queued and ends the threads. No job may be submitted any more.
    pub(crate) fn close(&self) {
        // The first puts jobs into the last.
        for shared in [&self.sync, &self.snapshot, &self.room] {
            let mut queue = shared.queue.lock();
            queue.closing = true;
            shared.work.notify_all();
            let deadline = Instant::now() + CLOSE_TIMEOUT;
            while queue.threads > 0 {
                if shared.thread_ended.wait_until(&mut queue, deadline).timed_out() {
                    tracing::error!("a {} job does not end", shared.name);
                    break;
                }
            }
        }
    }

    fn spawn(&self, shared: &Arc<Shared>) {
        let (lanes, lane) = (self.clone(), Arc::clone(shared));
        let spawned =
            thread::Builder::new().name(shared.name.into()).spawn(move || run(lanes, &lane));
        if let Err(error) = spawned {
            tracing::error!(%error, "no thread for a {} job", shared.name);
            let mut queue = shared.queue.lock();
            queue.threads -= 1;
            // Without another thread nobody would take them: the dropped replies answer EIO.
            let given_up =
                if queue.threads == 0 { std::mem::take(&mut queue.jobs) } else { VecDeque::new() };
            drop(queue);
            drop(given_up);
        }
    }
}

/// Takes jobs until none has come for a while.
fn run(lanes: Lanes, lane: &Shared) {
    let mut scratch = Scratch::new();
    let mut queue = lane.queue.lock();
    loop {
        while let Some(job) = queue.jobs.pop_front() {
            drop(queue);
            if let Some(job) = run_job(&lanes.context, lane.lane, job, &mut scratch) {
                lanes.submit(Lane::Room, job);
            }
            queue = lane.queue.lock();
        }
        queue.idle += 1;
        let timed_out = queue.closing || lane.work.wait_for(&mut queue, IDLE).timed_out();
        queue.idle -= 1;
        if (timed_out || queue.closing) && queue.jobs.is_empty() {
            break;
        }
    }
    // Not the last reference, so nothing is torn down under the lock.
    drop(lanes);
    queue.threads -= 1;
    lane.thread_ended.notify_all();
}
