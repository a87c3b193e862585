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
//! Absent on purpose: what several mounts hold at the same time is not added up, and stores to shared mappings
//! are not asked for.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::backing::Backing;
use crate::format::{BLOCK_SIZE, NODE_SIZE};
use crate::fs::{Error, Filesystem};

/// With less than that free, each write is asked for.
const SHORT_BYTES: u64 = 64 << 20;
/// Bytes written between two looks at what is free, while there is plenty.
const LOOK_EVERY_BYTES: u64 = 16 << 20;
/// What a write takes beyond its bytes: its first and last block may be new without being whole, and the nodes that
/// map them are copied, with a node more where one is split.
const OVERHEAD_BYTES: u64 = 2 * BLOCK_SIZE as u64 + 2 * NODE_SIZE as u64;

/// What a mount knows of its volume's room.
#[derive(Debug, Default)]
pub(crate) struct Room {
    short: AtomicBool,
    /// Bytes that came since the last look.
    unseen: AtomicU64,
    /// Bytes of admitted writes, as far as they may not have come.
    promised: Mutex<u64>,
}

impl Room {
    /// Whether each write is to be asked for.
    pub(crate) fn is_short(&self) -> bool {
        self.short.load(Ordering::Acquire)
    }

    /// A file is opened for writing, or `bytes` of data have come; returns whether room has just become short.
    pub(crate) fn look(&self, fs: &Filesystem, backing: &Backing, bytes: u64) -> bool {
        let unseen = self.unseen.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if bytes > 0 && unseen < LOOK_EVERY_BYTES && !self.is_short() {
            return false;
        }
        self.unseen.store(0, Ordering::Relaxed);
        let free_bytes = fs.volume().space().free_bytes;
        backing.room_is(free_bytes);
        let short = free_bytes < SHORT_BYTES.max(2 * backing.imposed_limit());
        let begins = short && !self.is_short();
        if begins {
            // As much as there can be: the first write that is asked for brings in what was written before.
            *self.promised.lock() = u64::MAX;
        }
        self.short.store(short, Ordering::Release);
        begins
    }

    /// Admits a write of `bytes`, or refuses it. `bring_in` makes the kernel pass on what it holds.
    pub(crate) fn admit(
        &self,
        fs: &Filesystem,
        bytes: u64,
        bring_in: impl FnOnce(),
    ) -> Result<(), Error> {
        let wanted = bytes.saturating_add(OVERHEAD_BYTES);
        if self.promise(fs, wanted) {
            return Ok(());
        }
        *self.promised.lock() = 0;
        bring_in();
        if self.promise(fs, wanted) { Ok(()) } else { fs.check_room(wanted) }
    }

    fn promise(&self, fs: &Filesystem, wanted: u64) -> bool {
        let mut promised = self.promised.lock();
        let fits = promised.saturating_add(wanted) <= fs.volume().space().free_bytes;
        if fits {
            *promised += wanted;
        }
        fits
    }
}
