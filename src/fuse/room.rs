//! Little room: a write(2) that there is no space for must say so itself.
//!
//! With the writeback cache a write ends in the kernel, and the daemon gets the pages later; an error then
//! shows at close or fsync, where few programs look. So while there is little room ([`SHORT_BYTES`]) the
//! attributes of files are not kept by the kernel, which then asks for the size of a file before each write
//! to it, with the handle that is written through. The answer to that question is where a write is
//! refused.
//!
//! What has been admitted and has not come yet is *promised*, and the pool keeps it from everybody else
//! ([`crate::pool::Volume::set_promised`]). When a promise would exceed what is free, the dirty pages are brought in
//! first, so that free is what is left then. Only the kernel's question is known, not what for: reads at a file's
//! end ask it, too. So the caller's system call is looked up ([`super::syscall`]), which says how much is to be
//! written; where it can't be, the write is admitted.
//!
//! Every other operation that takes room waits, too, until the dirty pages have come, if there is less left than
//! it may take beyond what is promised: what has come meanwhile may leave enough.
//!
//! While there is more room nobody is asked, and what the kernel holds is bounded so that it fits: by
//! [`super::backing`], or by the kernel's own limit, and then room is short that much earlier. It is brought in
//! before the first write that is asked for.
//!
//! The mounts of a pool take from the same space ([`Neighbours`]): what all of them have promised is added up, and
//! room is short for all of them at the same time.
//!
//! Absent on purpose: stores to shared mappings are not asked for, nor writes that were already going on when room
//! became short, beyond what they had written until then. A size that is set to more does not wait, as the kernel
//! keeps the pages of that file back meanwhile; it takes a block at most, for what does not fit into the leaf.
//!
//! Lock order: [`Shared::promising`], [`Room::promised`] and the volume's locks. None is held while pages are brought
//! in, which waits for workers, so no worker does it; it takes no inode's lock, which callers may have.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::decode::Request;
use super::dispatch::Context;
use super::syscall::{self, WriteCall};
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
    /// Held while promises are added up, made and ended. Counts them.
    promising: Mutex<u64>,
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
    /// The kernel holds more, nobody knows how much, since that promise.
    unknown: Option<u64>,
    begun: HashMap<u32, Begun>,
}

impl Promised {
    fn total(&self) -> u64 {
        if self.unknown.is_some() { u64::MAX } else { self.known() }
    }

    fn known(&self) -> u64 {
        let held = self.held.saturating_sub(self.came);
        self.begun.values().fold(held, |sum, begun| sum.saturating_add(begun.bytes))
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
        let others = self.neighbours.of(self);
        let count = others.len() as u64;
        self.room_is(free_bytes, count);
        for other in others {
            other.room_is(other.fs.volume().space().free_bytes, count);
        }
    }

    /// So much is free, for this mount and so many others: limits what the kernel may hold, and finds out whether
    /// room is short.
    fn room_is(&self, free_bytes: u64, others: u64) {
        self.room.others.store(others, Ordering::Relaxed);
        let mounts = others.saturating_add(1);
        self.backing.room_is(free_bytes, mounts);
        let short_bytes = SHORT_BYTES.max(SHORT_BYTES_EACH.saturating_mul(mounts));
        let imposed = self.backing.imposed_limit().saturating_mul(mounts.saturating_mul(2));
        let short = free_bytes < short_bytes.max(imposed);
        let open = self.fs.open_for_write();
        if short && !self.room.is_short() && !open.is_empty() {
            let mut promising = self.neighbours.0.promising.lock();
            *promising += 1;
            // The first write that is asked for brings in what was written before.
            let mut promised = self.room.promised.lock();
            promised.unknown = Some(*promising);
            self.keep_back(&promised);
            drop(promised);
            drop(promising);
            self.room.short.store(true, Ordering::Release);
            self.flusher.forget_attributes(&open);
        } else if self.room.short.swap(short, Ordering::AcqRel) && !short {
            self.promises_end();
        }
    }

    /// Admits a thread's write at once; false if what the kernel holds has to be brought in first.
    pub(crate) fn admits_at_once(&self, thread: u32) -> bool {
        syscall::write_call(thread).is_none_or(|call| self.promise(thread, &call))
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
            self.bring_in();
            if self.promise(thread, &call) {
                return Ok(());
            }
            if !self.bring_in_neighbours() && self.room.promised() == 0 {
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

    /// Whether an operation must wait, in [`super::lane::Lane::Room`], until the kernel has passed on what it holds.
    pub(crate) fn waits_for_room(&self, request: &Request<'_>) -> bool {
        let volume = self.fs.volume();
        volume.is_any_promised()
            && !NodeId(request.header.node).is_snapshot_dir()
            && request.operation.most_bytes_taken().is_some_and(|bytes| {
                bytes.saturating_add(OVERHEAD_BYTES) > volume.space().unpromised_bytes
            })
    }

    /// Makes the kernel pass on what it holds of all mounts of the pool, if it holds anything.
    pub(crate) fn make_room(&self) {
        if self.room.promised() > 0 {
            self.bring_in();
        }
        self.bring_in_neighbours();
    }

    /// Whether another mount of the pool owed something.
    fn bring_in_neighbours(&self) -> bool {
        let owing = self.neighbours.of(self);
        let owing = owing.iter().filter(|other| other.room.promised() > 0);
        owing.map(|other| other.bring_in()).count() > 0
    }

    /// Makes the kernel pass on what it holds: what was promised before has come then.
    fn bring_in(&self) {
        self.settle_promises(|| self.flusher.write_back(&self.fs.open_for_write()));
    }

    /// What was promised before has come once `bring_in` has brought all that is dirty in.
    pub(crate) fn settle_promises(&self, bring_in: impl FnOnce()) {
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
        bring_in();
        let _promising = self.neighbours.0.promising.lock();
        let mut promised = self.room.promised.lock();
        promised.came = promised.came.max(held);
        if promised.unknown == unknown {
            promised.unknown = None;
        }
        self.keep_back(&promised);
    }

    fn promise(&self, thread: u32, call: &WriteCall) -> bool {
        let bytes = wanted(call);
        let mut promising = self.neighbours.0.promising.lock();
        let others = self.neighbours.of(self);
        let mut promised = self.room.promised.lock();
        // It asks again, so it has ended what it asked for before.
        promised.ended(thread, None);
        *promising += 1;
        promised.begun.insert(thread, Begun { bytes, number: *promising, call: *call });
        // Before it is seen whether it fits: what is free then is not taken by anybody else.
        self.keep_back(&promised);
        let space = self.fs.volume().space();
        let own = promised.total();
        let all = others.iter().fold(own, |sum, other| sum.saturating_add(other.room.promised()));
        let fits = own <= space.free_bytes && all <= space.pool_free_bytes;
        if !fits {
            promised.begun.remove(&thread);
            self.keep_back(&promised);
        }
        fits
    }

    /// Has the pool keep back what is promised.
    fn keep_back(&self, promised: &Promised) {
        // What was dirty when the limit was made smaller may be more than that.
        let unknown = promised.unknown.map_or(0, |_| self.backing.limit().saturating_mul(2));
        self.fs.volume().set_promised(promised.known().saturating_add(unknown));
    }

    /// What is still to come needs no promise: there is plenty of room, or nobody who would write.
    pub(crate) fn promises_end(&self) {
        let _promising = self.neighbours.0.promising.lock();
        let mut promised = self.room.promised.lock();
        promised.came = promised.held;
        promised.unknown = None;
        promised.begun.clear();
        self.keep_back(&promised);
    }
}

fn wanted(call: &WriteCall) -> u64 {
    call.len_bytes.saturating_add(OVERHEAD_BYTES)
}
