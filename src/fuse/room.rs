//! Little room: a write(2) that there is no space for must say so itself.
//!
//! With the writeback cache a write ends in the kernel, and the daemon gets the pages later; an error then
//! shows at close or fsync, where few programs look. So while there is little room ([`SHORT_BYTES`]) the
//! attributes of files are not kept by the kernel, which then asks for the size of a file before each write
//! to it, with the handle that is written through. The answer to that question is where a write is
//! refused.
//!
//! What has been admitted and has not come yet is *promised*. When a promise would exceed what is free, the
//! dirty pages are brought in first, so that free is what is left then. Only the kernel's question is
//! known, not what for: reads at a file's end ask it, too. So the caller's system call is looked up
//! (`/proc/PID/syscall`), which says how much is to be written; where it can't be, the write is admitted.
//!
//! While there is more room nobody is asked, and what the kernel holds is bounded so that it fits: by
//! [`super::backing`], or by the kernel's own limit, and then room is short that much earlier. It is brought in
//! before the first write that is asked for.
//!
//! The mounts of a pool take from the same space ([`Neighbours`]): what all of them have promised is added up, and
//! room is short for all of them at the same time.
//!
//! Absent on purpose: stores to shared mappings are not asked for.
//!
//! Lock order: [`Room::bringing_in`], [`Shared::promising`], the volume's locks. The first is held while the kernel
//! passes data on, which waits for workers: so a worker never takes it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::dispatch::Context;
use super::syscall::may_write;
use crate::format::{BLOCK_SIZE, NODE_SIZE};
use crate::fs::Error;

/// With less than that free, each write is asked for.
const SHORT_BYTES: u64 = 64 << 20;
/// The same for each mount that is written to, where those are many.
const SHORT_BYTES_EACH: u64 = 8 << 20;
/// Bytes written between two looks at what is free, while there is plenty.
const LOOK_EVERY_BYTES: u64 = 16 << 20;
/// What a write takes beyond its bytes: its first and last block may be new without being whole, and the nodes that
/// map them are copied, with a node more where one is split.
const OVERHEAD_BYTES: u64 = 2 * BLOCK_SIZE as u64 + 2 * NODE_SIZE as u64;

/// How often a write waits for what others were promised, when each time others are promised more.
const MAX_ROUNDS: usize = 16;

/// The mounts of a pool, as far as they are in one process.
#[derive(Debug, Clone, Default)]
pub struct Neighbours(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    mounts: Mutex<Vec<Weak<Context>>>,
    /// Held while promises are added up and made.
    promising: Mutex<()>,
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

    /// Those beside `this` that data may come from.
    fn of(&self, this: &Context) -> Vec<Arc<Context>> {
        let mounts: Vec<_> = self.0.mounts.lock().iter().filter_map(Weak::upgrade).collect();
        let others = mounts.into_iter().filter(|other| !std::ptr::eq(&**other, this));
        others.filter(|other| !other.fs.open_for_write().is_empty()).collect()
    }
}

/// Bytes of admitted writes, as far as they may not have come.
#[derive(Debug, Default)]
struct Promised {
    /// Of those that the kernel holds.
    held: u64,
    /// Of each thread's last one, which may not have got so far.
    begun: HashMap<u32, u64>,
}

impl Promised {
    fn total(&self) -> u64 {
        self.begun.values().fold(self.held, |sum, bytes| sum.saturating_add(*bytes))
    }

    /// What was admitted for the thread last is held now.
    fn ended(&mut self, thread: u32) {
        let bytes = self.begun.remove(&thread).unwrap_or_default();
        self.held = self.held.saturating_add(bytes);
    }
}

/// What a mount knows of its volume's room.
#[derive(Debug, Default)]
pub(crate) struct Room {
    short: AtomicBool,
    /// Bytes that came since the last look.
    unseen: AtomicU64,
    /// Changed under [`Shared::promising`].
    promised: Mutex<Promised>,
    /// Held while what is promised is brought in.
    bringing_in: Mutex<()>,
}

impl Room {
    /// Whether each write is to be asked for.
    pub(crate) fn is_short(&self) -> bool {
        self.short.load(Ordering::Acquire)
    }

    /// Whether to look after so many bytes; none for a file that is opened.
    fn is_due(&self, bytes: u64) -> bool {
        let unseen = self.unseen.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let due = bytes == 0 || unseen >= LOOK_EVERY_BYTES || self.is_short();
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
        let plenty = self.backing.is_plenty(self.fs.volume().space().free_bytes);
        let others = if plenty { Vec::new() } else { self.neighbours.of(self) };
        let mounts = others.len() as u64 + 1;
        self.room_is(mounts);
        others.iter().for_each(|other| other.room_is(mounts));
    }

    /// So many mounts are written to: limits what the kernel may hold, and finds out whether room is short.
    fn room_is(&self, mounts: u64) {
        let free_bytes = self.fs.volume().space().free_bytes;
        self.backing.room_is(free_bytes, mounts);
        let short_bytes = SHORT_BYTES.max(SHORT_BYTES_EACH.saturating_mul(mounts));
        let imposed = self.backing.imposed_limit().saturating_mul(2 * mounts);
        let short = free_bytes < short_bytes.max(imposed);
        if short && !self.room.is_short() {
            // As much as there can be: the first write that is asked for brings in what was written before.
            let promising = self.neighbours.0.promising.lock();
            self.room.promised.lock().held = u64::MAX;
            drop(promising);
            self.room.short.store(true, Ordering::Release);
            self.flusher.forget_attributes(&self.fs.open_for_write());
        } else {
            self.room.short.store(short, Ordering::Release);
        }
    }

    /// Admits a write of `bytes` by a thread, or refuses it.
    pub(crate) fn admit(&self, thread: u32, bytes: u64) -> Result<(), Error> {
        let wanted = bytes.saturating_add(OVERHEAD_BYTES);
        for _ in 0..MAX_ROUNDS {
            let others = self.neighbours.of(self);
            if self.promise(&others, thread, wanted) {
                return Ok(());
            }
            self.bring_in();
            if self.promise(&others, thread, wanted) {
                return Ok(());
            }
            let owing = others.iter().filter(|other| other.room.promised() > 0);
            let none_owes = owing.map(|other| other.bring_in()).count() == 0;
            if none_owes && self.room.promised() == 0 {
                self.fs.check_room(wanted)?;
            }
        }
        self.fs.check_room(wanted).and(Err(Error::NoSpace))
    }

    /// Makes the kernel pass on what it holds: what was promised before has come then.
    fn bring_in(&self) {
        let _one = self.room.bringing_in.lock();
        let begun: Vec<u32> = self.room.promised.lock().begun.keys().copied().collect();
        let ended: Vec<u32> = begun.into_iter().filter(|thread| !may_write(*thread)).collect();
        let held = {
            let _promising = self.neighbours.0.promising.lock();
            let mut promised = self.room.promised.lock();
            ended.into_iter().for_each(|thread| promised.ended(thread));
            promised.held
        };
        self.fs.flush_dirty();
        let _promising = self.neighbours.0.promising.lock();
        let mut promised = self.room.promised.lock();
        promised.held = if held == u64::MAX { 0 } else { promised.held.saturating_sub(held) };
    }

    fn promise(&self, others: &[Arc<Context>], thread: u32, wanted: u64) -> bool {
        let _promising = self.neighbours.0.promising.lock();
        let space = self.fs.volume().space();
        let mut promised = self.room.promised.lock();
        // It asks again, so it has ended what it asked for before.
        promised.ended(thread);
        let own = promised.total().saturating_add(wanted);
        let all = others.iter().fold(own, |sum, other| sum.saturating_add(other.room.promised()));
        let fits = own <= space.free_bytes && all <= space.pool_free_bytes;
        if fits {
            promised.begun.insert(thread, wanted);
        }
        fits
    }
}
