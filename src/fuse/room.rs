//! Little room: a write(2) that there is no space for must say so itself.
//!
//! With the writeback cache a write ends in the kernel, and the daemon gets the pages later; an error then
//! shows at close or fsync, where few programs look. So while there is little room ([`SHORT_BYTES`]) the
//! attributes of files are not kept by the kernel, which then asks for the size of a file before each write
//! to it, with the handle that is written through. The answer to that question is where a write is
//! refused.
//!
//! What has been admitted and has not come yet is *promised*, and the pool keeps it from everybody else
//! ([`crate::pool::Volume::change_promised`]). When a promise would exceed what is free, the dirty pages are brought in
//! first, so that free is what is left then. Only the kernel's question is known, not what for: reads at a file's
//! end ask it, too. So the caller's system call is looked up ([`super::syscall`]), which says how much is to be
//! written; where it can't be, the write is admitted.
//!
//! Every other operation that takes room waits, too, until the dirty pages have come, if there is less left than
//! it may take beyond what is promised: what has come meanwhile may leave enough. Room is short, too, while an
//! operation is carried out that may make it so at once: a preallocation, a copy, a snapshot.
//!
//! While there is more room nobody is asked, and what the kernel holds is bounded so that it fits: by
//! [`super::backing`], or by the kernel's own limit, and then room is short that much earlier. It is brought in
//! before the first write that is asked for.
//!
//! The mounts of a pool take from the same space ([`Neighbours`]): what all of them have promised is added up, and
//! room is short for all of them at the same time.
//!
//! Absent on purpose: stores to shared mappings are not asked for, nor writes that were already going on when room
//! became short, beyond what they had written until then; nor does a clone look whether room is short after it. A size that is set to more does not wait, as the kernel
//! keeps the pages of that file back meanwhile; it takes a block at most, for what does not fit into the leaf.
//!
//! Before Linux 6.16 the kernel says that pages have been written back when their WRITEs may still be on the way: what
//! comes for a caller that holds an inode's lock settles no promise there.
//!
//! Lock order: [`Shared::promising`], [`Room::promised`] and the volume's locks. None is held while pages are brought
//! in, which waits for workers, so no worker does it. With [`How::Fsync`] it waits for inode locks, too: so only
//! [`super::lane::Lane::Room`] and those who make snapshots do that, where nobody comes who has such a lock.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::decode::Request;
use super::dispatch::Context;
use super::in_flight::SLOT_BYTES;
use super::sys;
use super::syscall::{self, WriteCall};
use super::write_back::How;
use crate::format::{BLOCK_SIZE, NODE_SIZE};
use crate::fs::{Error, NodeId};

/// With less than that free, each write is asked for.
const SHORT_BYTES: u64 = 64 << 20;
/// The same for each mount that is written to, where those are many.
const SHORT_BYTES_EACH: u64 = 8 << 20;
/// Bytes written between two looks at what is free, while there is plenty, and while room is short.
const LOOK_EVERY_BYTES: u64 = 16 << 20;
const LOOK_SHORT_EVERY_BYTES: u64 = 1 << 20;
/// What a write takes beyond its bytes: its first and last block may be new without being whole, and the nodes that
/// map them are copied, with a node more where one is split.
const OVERHEAD_BYTES: u64 = 2 * BLOCK_SIZE as u64 + 2 * NODE_SIZE as u64;
/// How long a write waits for others that go on, and how long between two looks at them.
const MAX_WAIT: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(5);

/// The mounts of a pool, as far as they are in one process.
#[derive(Debug, Clone, Default)]
pub struct Neighbours(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    mounts: Mutex<Vec<Weak<Context>>>,
    /// Held while promises are added up, made and ended.
    promising: Mutex<Promising>,
}

#[derive(Debug, Default)]
struct Promising {
    /// Promises so far.
    count: u64,
    /// What operations that go on may take.
    expected_bytes: u64,
}

impl Promising {
    /// Number of the next one.
    fn next(&mut self) -> u64 {
        self.count += 1;
        self.count
    }
}

/// While it lives, so much less is free, as far as room is short by that.
struct Expected<'a> {
    shared: &'a Shared,
    bytes: u64,
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        self.shared.promising.lock().expected_bytes -= self.bytes;
    }
}

impl PartialEq for Neighbours {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Neighbours {}

impl Neighbours {
    /// One more mount.
    pub(crate) fn add(&self, context: &Arc<Context>) {
        let mut mounts = self.0.mounts.lock();
        mounts.retain(|mount| mount.strong_count() > 0);
        mounts.push(Arc::downgrade(context));
    }

    fn expect(&self, bytes: u64) -> Expected<'_> {
        let mut promising = self.0.promising.lock();
        let bytes = bytes.min(u64::MAX - promising.expected_bytes);
        promising.expected_bytes += bytes;
        drop(promising);
        Expected { shared: &self.0, bytes }
    }

    /// Those beside `this` that data may come from, or that have promises to settle.
    fn of(&self, this: &Context) -> Vec<Arc<Context>> {
        let mounts: Vec<_> = self.0.mounts.lock().iter().filter_map(Weak::upgrade).collect();
        let others = mounts.into_iter().filter(|other| !std::ptr::eq(&**other, this));
        let concerned = |other: &Arc<Context>| {
            !other.fs.open_for_write().is_empty() || other.room.promised() > 0
        };
        others.filter(concerned).collect()
    }
}

/// A thread's last admitted write, which may not have made all its pages dirty.
#[derive(Debug)]
struct Begun {
    bytes: u64,
    /// Tells it from the thread's later ones.
    number: u64,
    call: WriteCall,
}

/// Bytes of admitted writes, as far as they may not have come.
#[derive(Debug, Default)]
struct Promised {
    /// All that the kernel ever held, and how much of it has come.
    held: u64,
    came: u64,
    /// The kernel holds more since that promise, probably no more than so many bytes.
    unknown: Option<(u64, u64)>,
    begun: HashMap<u32, Begun>,
    /// What the pool keeps back for this mount.
    kept_back: u64,
    /// Nothing comes any more.
    over: bool,
}

impl Promised {
    fn total(&self) -> u64 {
        if self.unknown.is_some() { u64::MAX } else { self.known() }
    }

    fn known(&self) -> u64 {
        let held = self.held.saturating_sub(self.came);
        self.begun.values().fold(held, |sum, begun| sum.saturating_add(begun.bytes))
    }

    /// All has come, or need not be known.
    fn settle_all(&mut self) {
        self.came = self.held;
        self.unknown = None;
        self.begun.clear();
    }

    /// What was admitted for the thread last is held now; with a number, that one only.
    fn ended(&mut self, thread: u32, number: Option<u64>) {
        if number.is_none_or(|it| self.begun.get(&thread).is_some_and(|begun| begun.number == it))
            && let Some(begun) = self.begun.remove(&thread)
        {
            self.held = self.held.saturating_add(begun.bytes);
        }
    }
}

/// What a mount knows of its volume's room.
#[derive(Debug, Default)]
pub(crate) struct Room {
    short: AtomicBool,
    /// Bytes that came since the last look.
    unseen: AtomicU64,
    /// Other mounts that were written to at the last look.
    others: AtomicU64,
    /// Changed under [`Shared::promising`].
    promised: Mutex<Promised>,
}

impl Room {
    /// Whether each write is to be asked for.
    pub(crate) fn is_short(&self) -> bool {
        self.short.load(Ordering::Acquire)
    }

    /// Whether to look after so many bytes; none for a file that is opened.
    fn is_due(&self, bytes: u64) -> bool {
        let unseen = self.unseen.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let every = if self.is_short() { LOOK_SHORT_EVERY_BYTES } else { LOOK_EVERY_BYTES };
        let due = bytes == 0 || unseen >= every;
        if due {
            self.unseen.store(0, Ordering::Relaxed);
        }
        due
    }

    fn promised(&self) -> u64 {
        self.promised.lock().total()
    }
}

impl Context {
    /// Data has come, or (none) a file is opened for writing: the room may have become short.
    pub(crate) fn look_at_room(&self, bytes: u64) {
        if !self.room.is_due(bytes) {
            return;
        }
        let free_bytes = self.fs.volume().space().free_bytes;
        if bytes == 0 || self.backing.is_plenty(free_bytes) {
            return self.room_is(free_bytes, self.room.others.load(Ordering::Relaxed));
        }
        self.look();
    }

    /// Finds out whether room is short, for all mounts of the pool.
    fn look(&self) {
        let others = self.neighbours.of(self);
        let count = others.len() as u64;
        self.room_is(self.fs.volume().space().free_bytes, count);
        for other in others {
            other.room_is(other.fs.volume().space().free_bytes, count);
        }
    }

    /// So much is free, for this mount and so many others: limits what the kernel may hold, and finds out whether
    /// room is short.
    fn room_is(&self, free_bytes: u64, others: u64) {
        let open = self.fs.open_for_write();
        let mut promising = self.neighbours.0.promising.lock();
        let free_bytes = free_bytes.saturating_sub(promising.expected_bytes);
        self.room.others.store(others, Ordering::Relaxed);
        let mounts = others.saturating_add(1);
        // What may be dirty by the limit that there was until now.
        let dirty_bytes = if open.is_empty() { 0 } else { self.backing.limit() };
        self.backing.room_is(free_bytes, mounts);
        let short_bytes = SHORT_BYTES.max(SHORT_BYTES_EACH.saturating_mul(mounts));
        let imposed = self.backing.imposed_limit().saturating_mul(mounts.saturating_mul(2));
        let short = free_bytes < short_bytes.max(imposed).max(dirty_bytes);
        let was_short = self.room.short.swap(short, Ordering::AcqRel);
        if short == was_short {
            return;
        }
        let mut promised = self.room.promised.lock();
        if !short {
            // What is still to come finds room, as before room was short.
            promised.settle_all();
        } else if !open.is_empty() {
            // The first write that is asked for brings in what was written before. It may be more than the limit:
            // that has been larger.
            promised.unknown = Some((promising.next(), dirty_bytes.saturating_mul(2)));
        }
        self.keep_back(&mut promised);
        drop(promised);
        drop(promising);
        if short {
            self.flusher.forget_attributes(&open);
        }
    }

    /// Admits a thread's write at once; false if what the kernel holds has to be brought in first.
    pub(crate) fn admits_at_once(&self, thread: u32) -> bool {
        let Some(call) = syscall::write_call(thread) else {
            // Whatever it does now, what it was promised before is none of that.
            let _promising = self.neighbours.0.promising.lock();
            self.room.promised.lock().ended(thread, None);
            return true;
        };
        self.promise(thread, &call)
    }

    /// Admits a thread's write, or refuses it. Waits for others, also of other mounts.
    pub(crate) fn admit(&self, thread: u32) -> Result<(), Error> {
        let Some(call) = syscall::write_call(thread) else { return Ok(()) };
        let wanted = wanted(&call);
        let begun = Instant::now();
        loop {
            if self.promise(thread, &call) {
                return Ok(());
            }
            self.bring_in(How::Fsync);
            if self.promise(thread, &call) {
                return Ok(());
            }
            if !self.bring_in_neighbours(How::Fsync) && self.room.promised() == 0 {
                self.fs.check_room(wanted)?;
            }
            if begun.elapsed() > MAX_WAIT {
                self.fs.check_room(wanted)?;
                let limited_by_quota = self.fs.volume().space().limited_by_quota;
                return Err(if limited_by_quota { Error::Quota } else { Error::NoSpace });
            }
            // Writes that go on may leave more than was promised to them.
            thread::sleep(PAUSE);
        }
    }

    /// Whether an operation must wait, in a lane, until the kernel has passed on what it holds. What could not be kept
    /// there for a next process does not wait.
    pub(crate) fn waits_for_room(&self, request: &Request<'_>) -> bool {
        self.fs.volume().is_any_promised()
            && !NodeId(request.header.node).is_snapshot_dir()
            && (self.in_flight.is_none() || request.header.len_bytes as usize <= SLOT_BYTES)
            && !(request.operation.is_write() && self.is_promised_to(request.header.pid))
            && request.operation.most_bytes_taken().is_some_and(|bytes| self.is_tight_for(bytes))
    }

    /// Whether so much can't be taken without what was promised, as far as that has not come.
    fn is_tight_for(&self, bytes: u64) -> bool {
        let volume = self.fs.volume();
        volume.is_any_promised()
            && bytes.saturating_add(OVERHEAD_BYTES) > volume.space().unpromised_bytes
    }

    /// Runs what may take so much at once. Room is short already if it will be then; and where only what was promised
    /// is left, what the kernel holds comes first: that may leave enough. The caller may hold an inode's lock.
    pub(crate) fn with_room<T>(
        &self,
        bytes: u64,
        run: impl Fn() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let _expected = self.neighbours.expect(bytes);
        self.look();
        if self.is_tight_for(bytes) {
            self.make_room();
        }
        let done = run();
        let full = matches!(done, Err(Error::NoSpace | Error::Quota));
        if !(full && self.fs.volume().is_any_promised()) {
            return done;
        }
        self.make_room();
        run()
    }

    /// Before a snapshot: brings in what is dirty, and sees to it that what comes then has room, too.
    pub(crate) fn flush(&self) {
        self.bring_in(How::Fsync);
        let _expected = self.neighbours.expect(self.fs.volume().metadata_bytes());
        self.look();
        self.make_room();
    }

    /// Makes the kernel pass on what it holds of all mounts of the pool, if it holds anything that was promised. The
    /// caller may hold an inode's lock.
    pub(crate) fn make_room(&self) {
        if self.room.promised() > 0 {
            self.bring_in(How::Pages);
        }
        self.bring_in_neighbours(How::Pages);
    }

    /// Whether another mount of the pool owed something.
    fn bring_in_neighbours(&self, how: How) -> bool {
        let owing = self.neighbours.of(self);
        let owing = owing.iter().filter(|other| other.room.promised() > 0);
        owing.map(|other| other.bring_in(how)).count() > 0
    }

    /// Makes the kernel pass on what it holds: what was promised before has come then.
    fn bring_in(&self, how: How) {
        let begun: Vec<_> = {
            let promised = self.room.promised.lock();
            promised.begun.iter().map(|(thread, it)| (*thread, it.number, it.call)).collect()
        };
        let ended: Vec<_> = begun.into_iter().filter(|(.., call)| !call.goes_on()).collect();
        let (held, unknown) = {
            let _promising = self.neighbours.0.promising.lock();
            let mut promised = self.room.promised.lock();
            ended.iter().for_each(|(thread, number, _)| promised.ended(*thread, Some(*number)));
            (promised.held, promised.unknown)
        };
        // Not before: what is opened later may be written to later.
        let open = self.fs.open_for_write();
        if how == How::Fsync {
            self.flusher.flush(&open, |node| self.fs.path(node));
        } else {
            self.flusher.write_back(&open);
            if !sys::awaits_pages() {
                return;
            }
        }
        let _promising = self.neighbours.0.promising.lock();
        let mut promised = self.room.promised.lock();
        promised.came = promised.came.max(held);
        if promised.unknown == unknown {
            promised.unknown = None;
        }
        self.keep_back(&mut promised);
    }

    fn promise(&self, thread: u32, call: &WriteCall) -> bool {
        let bytes = wanted(call);
        let mut promising = self.neighbours.0.promising.lock();
        let others = self.neighbours.of(self);
        let mut promised = self.room.promised.lock();
        // It asks again, so it has ended what it asked for before.
        promised.ended(thread, None);
        let own = promised.total().saturating_add(bytes);
        let all = others.iter().fold(own, |sum, other| sum.saturating_add(other.room.promised()));
        let fits = || {
            let space = self.fs.volume().space();
            own <= space.free_bytes && all <= space.pool_free_bytes
        };
        if !fits() {
            return false;
        }
        promised.begun.insert(thread, Begun { bytes, number: promising.next(), call: *call });
        self.keep_back(&mut promised);
        // Now that nobody else takes it: somebody may have meanwhile.
        let still = fits();
        if !still {
            promised.begun.remove(&thread);
            self.keep_back(&mut promised);
        }
        still
    }

    /// Whether the thread has been admitted to write, and has not gone on to something else.
    pub(crate) fn is_promised_to(&self, thread: u32) -> bool {
        self.room.is_short() && self.room.promised.lock().begun.contains_key(&thread)
    }

    /// So much of what the thread was promised has come by itself: it does not go through the kernel's cache.
    pub(crate) fn redeem(&self, thread: u32, bytes: u64) {
        let _promising = self.neighbours.0.promising.lock();
        let mut promised = self.room.promised.lock();
        if let Some(begun) = promised.begun.get_mut(&thread) {
            begun.bytes = begun.bytes.saturating_sub(bytes);
        }
        self.keep_back(&mut promised);
    }

    /// Has the pool keep back what is promised.
    fn keep_back(&self, promised: &mut Promised) {
        let unknown = promised.unknown.map_or(0, |(_, bytes)| bytes);
        let bytes = if promised.over { 0 } else { promised.known().saturating_add(unknown) };
        self.fs.volume().change_promised(promised.kept_back, bytes);
        promised.kept_back = bytes;
    }

    /// The session has ended: no write is still to come.
    pub(crate) fn promises_end(&self) {
        let _promising = self.neighbours.0.promising.lock();
        let mut promised = self.room.promised.lock();
        promised.over = true;
        self.keep_back(&mut promised);
    }
}

fn wanted(call: &WriteCall) -> u64 {
    call.len_bytes.saturating_add(OVERHEAD_BYTES)
}
