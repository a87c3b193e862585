//! What a crash could have left of a recorded storage.
//!
//! The model: at some point of the log the machine loses power. Of each device, everything before
//! its last good sync is there. Each later write and punch is there, or not, or torn: some of its
//! 512-byte sectors are there. A later extension is there or not. All this in any combination, also
//! in some that no disk would leave (a later write to a sector without an earlier one to the same),
//! since none of the code may depend on the difference. What a failed sync covered stays uncertain
//! for ever, whatever later syncs said.
//!
//! When the process alone dies, all that its calls did is there; of the call that was under way, a
//! first part.

use std::sync::Arc;

use super::recording::DeviceOp;
use super::{BlockDevice, Contents, DeviceName, MemoryDevice, Storage};

/// What a disk writes whole or not at all.
pub const SECTOR_BYTES: u64 = 512;
/// A write under way when the process dies is cut at one of these: the kernel copies page by page.
const PAGE_BYTES: u64 = 4096;
/// Ranges of more sectors than this are torn in few pieces, so that a huge punch stays cheap.
const MAX_SCATTERED_SECTORS: u64 = 4096;

/// The bytes of a pool's three devices at one instant; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Image {
    /// Of [`Storage::superblock`].
    pub superblock: Contents,
    /// Of [`Storage::journal`].
    pub journal: Contents,
    /// Of [`Storage::data`].
    pub data: Contents,
}

impl Image {
    /// Makes devices in memory that begin with these bytes; the image itself does not change.
    pub fn storage(&self) -> Storage {
        let device = |contents: &Contents| -> Arc<dyn BlockDevice> {
            Arc::new(MemoryDevice::with_contents(contents.clone()))
        };
        Storage {
            superblock: device(&self.superblock),
            journal: device(&self.journal),
            data: device(&self.data),
        }
    }

    /// Returns the bytes of one device.
    pub fn device(&self, name: DeviceName) -> &Contents {
        match name {
            DeviceName::Superblock => &self.superblock,
            DeviceName::Journal => &self.journal,
            DeviceName::Data => &self.data,
        }
    }

    fn device_mut(&mut self, name: DeviceName) -> &mut Contents {
        match name {
            DeviceName::Superblock => &mut self.superblock,
            DeviceName::Journal => &mut self.journal,
            DeviceName::Data => &mut self.data,
        }
    }

    /// Does what a logged operation did.
    ///
    /// # Panics
    /// If the range is none that a device takes; the log holds only what one has taken.
    fn apply(&mut self, op: &DeviceOp) {
        let contents = self.device_mut(op.device());
        match op {
            DeviceOp::Write { offset, bytes, .. } => contents.write(*offset, bytes),
            DeviceOp::Punch { offset, len_bytes, .. } => contents.punch(*offset, *len_bytes),
            DeviceOp::Grow { len_bytes, .. } => contents.grow(*len_bytes),
            DeviceOp::Sync { .. } | DeviceOp::FailedSync { .. } => Ok(()),
        }
        .expect("a logged range was valid once");
    }

    /// Does a part of a logged operation: what lies in `from..to` of its range.
    fn apply_part(&mut self, op: &DeviceOp, from: u64, to: u64) {
        let contents = self.device_mut(op.device());
        match op {
            DeviceOp::Write { offset, bytes, .. } => {
                contents.write(from, &bytes[(from - offset) as usize..(to - offset) as usize])
            }
            DeviceOp::Punch { .. } => contents.punch(from, to - from),
            other => unreachable!("{other:?} has no parts"),
        }
        .expect("a logged range was valid once");
    }
}

/// What becomes of an operation that was not durable when the power went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is there.
    Kept,
    /// It is not.
    Dropped,
    /// Some of its sectors are there, chosen by the seed; an extension is kept.
    Torn(u64),
}

/// An operation that is not durable.
#[derive(Debug, Clone, Copy)]
struct Pending {
    op: usize,
    /// A failed sync came after it.
    doomed: bool,
    /// A good sync came after it, but what precedes it in the list is not durable.
    synced: bool,
}

/// The states that a crash could have left, at one point of the log after the other.
///
/// It stands behind some number of operations, at first none. An image costs a clone of the maps of
/// what was touched, and the operations since the last syncs.
#[derive(Debug, Clone)]
pub struct CrashStates {
    ops: Arc<[DeviceOp]>,
    at: usize,
    /// All operations before `at` done.
    current: Image,
    /// Those done that are durable; `pending` comes on top.
    durable: Image,
    /// In the order of the log.
    pending: Vec<Pending>,
}

impl CrashStates {
    /// Begins with `base`, before the first of `ops`.
    pub(super) fn new(base: Image, ops: Vec<DeviceOp>) -> CrashStates {
        let (current, durable) = (base.clone(), base);
        CrashStates { ops: ops.into(), at: 0, current, durable, pending: Vec::new() }
    }

    /// Returns how many operations lie behind.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Returns the length of the log.
    pub fn log_len(&self) -> usize {
        self.ops.len()
    }

    /// Returns the next operation.
    pub fn next_op(&self) -> Option<&DeviceOp> {
        self.ops.get(self.at)
    }

    /// Goes on by one operation; false at the end.
    pub fn step(&mut self) -> bool {
        let ops = self.ops.clone();
        let Some(op) = ops.get(self.at) else { return false };
        match op {
            DeviceOp::Sync { device } => self.sync(*device),
            DeviceOp::FailedSync { device } => {
                for pending in &mut self.pending {
                    pending.doomed |= !pending.synced && ops[pending.op].device() == *device;
                }
            }
            change => {
                self.current.apply(change);
                self.pending.push(Pending { op: self.at, doomed: false, synced: false });
            }
        }
        self.at += 1;
        true
    }

    /// Goes on until `at` operations lie behind, or the log ends.
    ///
    /// # Panics
    /// If more do already: states are visited in order.
    pub fn step_to(&mut self, at: usize) {
        assert!(at >= self.at, "cannot go back from {} to {at}", self.at);
        while self.at < at && self.step() {}
    }

    fn sync(&mut self, device: DeviceName) {
        let ops = &self.ops;
        let of_device = |pending: &Pending| ops[pending.op].device() == device;
        if self.pending.iter().any(|pending| of_device(pending) && pending.doomed) {
            // Later operations are durable on top of ones that may be lost: the order is kept.
            for pending in self.pending.iter_mut().filter(|pending| of_device(pending)) {
                pending.synced |= !pending.doomed;
            }
        } else {
            self.pending.retain(|pending| !of_device(pending));
            *self.durable.device_mut(device) = self.current.device(device).clone();
        }
    }

    /// Returns what is there if the process dies now: the effect of all operations so far.
    pub fn image(&self) -> Image {
        self.current.clone()
    }

    /// Returns what is there if the process dies within the next operation, if that is a write.
    pub fn killed_in_next(&self, seed: u64) -> Option<Image> {
        let op @ DeviceOp::Write { offset, bytes, .. } = self.next_op()? else { return None };
        let first = offset - offset % PAGE_BYTES;
        let end = offset + bytes.len() as u64;
        let pages = (end - first).div_ceil(PAGE_BYTES).max(1);
        let cut = first + Random::new(seed, self.at as u64).below(pages) * PAGE_BYTES;
        let mut image = self.image();
        if cut > *offset {
            image.apply_part(op, *offset, cut);
        }
        Some(image)
    }

    /// Returns the indices of the operations that a power cut now could undo.
    pub fn uncertain(&self) -> Vec<usize> {
        self.pending.iter().filter(|pending| !pending.synced).map(|pending| pending.op).collect()
    }

    /// Returns what is there after a power cut now, if all that is uncertain is lost.
    pub fn crash_losing_all(&self) -> Image {
        self.crash_with(|_, _| Fate::Dropped)
    }

    /// Returns what is there after a power cut now, one of the possible states chosen by `seed`.
    ///
    /// Some seeds lose nearly all, some nearly nothing, some tear much, so that few seeds reach
    /// states far apart.
    pub fn crash(&self, seed: u64) -> Image {
        let mut random = Random::new(seed, self.at as u64);
        // Out of 16, how many operations are dropped, and how many of the others are torn.
        let dropped = [0, 1, 4, 8, 12, 15][random.below(6) as usize];
        let torn = [0, 1, 8, 16][random.below(4) as usize];
        self.crash_with(|_, _| {
            if random.below(16) < dropped {
                Fate::Dropped
            } else if random.below(16) < torn {
                Fate::Torn(random.next())
            } else {
                Fate::Kept
            }
        })
    }

    /// Returns what is there after a power cut now, if `choose` decides about each uncertain
    /// operation, given its index and itself.
    pub fn crash_with(&self, mut choose: impl FnMut(usize, &DeviceOp) -> Fate) -> Image {
        let mut image = self.durable.clone();
        for pending in &self.pending {
            let op = &self.ops[pending.op];
            let fate = if pending.synced { Fate::Kept } else { choose(pending.op, op) };
            match fate {
                Fate::Kept => image.apply(op),
                Fate::Dropped => {}
                Fate::Torn(seed) => tear(&mut image, op, seed),
            }
        }
        image
    }
}

/// Does some sectors of an operation.
fn tear(image: &mut Image, op: &DeviceOp, seed: u64) {
    let (offset, len_bytes) = match op {
        DeviceOp::Write { offset, bytes, .. } => (*offset, bytes.len() as u64),
        DeviceOp::Punch { offset, len_bytes, device } => {
            let end = image.device(*device).len_bytes().min(offset + len_bytes);
            (*offset, end.saturating_sub(*offset))
        }
        _ => return image.apply(op),
    };
    let first = offset / SECTOR_BYTES;
    let sectors = (offset + len_bytes).div_ceil(SECTOR_BYTES) - first;
    // Sectors first + from to first + to of the operation are there.
    let mut keep = |from: u64, to: u64| {
        let from = ((first + from) * SECTOR_BYTES).max(offset);
        let to = ((first + to) * SECTOR_BYTES).min(offset + len_bytes);
        if from < to {
            image.apply_part(op, from, to);
        }
    };
    let mut random = Random::new(seed, offset);
    let cut = random.below(sectors + 1);
    match random.below(4) {
        0 => keep(0, cut),
        1 => keep(cut, sectors),
        2 => {
            let end = cut + random.below(sectors - cut + 1);
            keep(0, cut);
            keep(end, sectors);
        }
        _ if sectors > MAX_SCATTERED_SECTORS => keep(cut / 2, cut),
        _ => (0..sectors).filter(|_| random.below(2) == 0).for_each(|i| keep(i, i + 1)),
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): the same numbers from the same seeds for ever.
struct Random(u64);

impl Random {
    fn new(seed: u64, salt: u64) -> Random {
        let mut random = Random(seed);
        random.0 ^= Random(salt).next();
        random
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `bound`, which is small enough for the bias not to matter.
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

#[cfg(test)]
mod tests;
