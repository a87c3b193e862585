//! Requests that have been read and not replied to, in memory that outlives the process: for kernels that can't
//! send them again (before Linux 6.9).
//!
//! The memory is a file without a name that the supervisor holds too. Each worker reads its requests into a part
//! of it, so that it is the kernel that puts them there; one that a worker hands to a [`super::lane`] is copied to
//! a *slot* first. Each part and each slot has a state, which says whether a request may be in it. Who takes the
//! mount over carries those out ([`super::worker`]), as it does with what other kernels send again
//! ([`super::resent`]).
//!
//! Shape: the head (magic, numbers of parts and slots, states), the parts, the slots. A request lies there as the
//! kernel wrote it, with its length in the first four bytes; a length of 0 is none.
//!
//! Invariants:
//! 1. A part's state is set before a request can be in it, a slot's when one is, before the part that it came in is
//!    given free; both are cleared after the reply has been sent, before the answer to it may be forgotten
//!    ([`crate::pool::Pool::carry_out`]). So a request without a reply is always found, for a moment in two places.
//!    Whether one that is found has its reply, the kernel knows ([`super::device::Device::waits_for`]).
//! 2. A process that is killed while the kernel copies a request to it has it whole: the memory is there and
//!    locked, so that the copy does not stop.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use rustix::fs::{MemfdFlags, SealFlags};

use super::decode::Header;
use super::sys::SharedMemory;
use super::worker::{PAGE, PageBuffer, REQUEST_BYTES, WRITE_PAYLOAD_AT};

/// Changes with the layout.
const MAGIC: u64 = u64::from_le_bytes(*b"AMBRQST1");
/// Magic, number of parts, number of slots; then the states, four bytes each.
const HEAD_BYTES: usize = 16 << 10;
const STATES_AT: usize = 64;
const MAX_STATES: usize = (HEAD_BYTES - STATES_AT) / 4;
/// A request with the page that it is aligned in.
const PART_BYTES: usize = REQUEST_BYTES + PAGE;
/// Room for what goes to a lane: at most two names of 1,024 bytes, and headers.
pub(crate) const SLOT_BYTES: usize = 4096;
/// Callers that wait in lanes at once, beyond which one gets ENOMEM.
const SLOTS: usize = 2048;

/// The requests of a mount that have no reply yet.
#[derive(Debug)]
pub(crate) struct InFlight {
    file: File,
    head: SharedMemory,
    parts: usize,
    slots: usize,
    /// Slots that are free.
    free: Mutex<Vec<usize>>,
}

/// A request's place, which is empty once this is dropped.
#[derive(Debug)]
pub(crate) struct Noted {
    all: Arc<InFlight>,
    place: usize,
}

impl Drop for Noted {
    fn drop(&mut self) {
        self.all.set(self.place, false);
        if self.place >= self.all.parts {
            self.all.free.lock().push(self.place - self.all.parts);
        }
    }
}

/// A request that an earlier process has left in a slot.
#[derive(Debug)]
pub(crate) struct Left {
    pub(crate) bytes: Vec<u8>,
    pub(crate) noted: Noted,
}

impl InFlight {
    /// Makes the memory, for so many workers.
    pub(crate) fn new(workers: usize) -> io::Result<Arc<Self>> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file: File = rustix::fs::memfd_create(c"amberfs-requests", flags)?.into();
        let (parts, slots) = (workers.min(MAX_STATES - SLOTS), SLOTS);
        file.set_len((HEAD_BYTES + parts * PART_BYTES + slots * SLOT_BYTES) as u64)?;
        // A mapping of what has been cut off would be deadly to touch.
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK)?;
        let mut head = MAGIC.to_ne_bytes().to_vec();
        head.extend((parts as u64).to_ne_bytes());
        head.extend((slots as u64).to_ne_bytes());
        file.write_all_at(&head, 0)?;
        Self::open(file.into())
    }

    /// Takes over the memory of an earlier process.
    ///
    /// # Errors
    /// InvalidData for what this program does not know.
    pub(crate) fn open(file: OwnedFd) -> io::Result<Arc<Self>> {
        let file = File::from(file);
        let mut head = [0; 24];
        file.read_exact_at(&mut head, 0)?;
        let word = |at: usize| {
            let bytes = head.get(at..).and_then(|rest| rest.first_chunk());
            bytes.map_or(0, |bytes| u64::from_ne_bytes(*bytes))
        };
        let count = |at: usize| usize::try_from(word(at)).unwrap_or(usize::MAX);
        let (parts, slots) = (count(8), count(16));
        if word(0) != MAGIC || parts == 0 || parts.saturating_add(slots) > MAX_STATES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "requests of another program"));
        }
        let head = SharedMemory::map(file.as_fd(), 0, HEAD_BYTES)?;
        let all = InFlight { file, head, parts, slots, free: Mutex::default() };
        let free = (0..slots).filter(|slot| !all.is_set(parts + slot)).collect();
        *all.free.lock() = free;
        Ok(Arc::new(all))
    }

    /// Workers that there are parts for; each must be there.
    pub(crate) fn workers(&self) -> usize {
        self.parts
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn set(&self, place: usize, there: bool) {
        self.head.word(STATES_AT + 4 * place).store(u32::from(there), Ordering::SeqCst);
    }

    fn is_set(&self, place: usize) -> bool {
        self.head.word(STATES_AT + 4 * place).load(Ordering::SeqCst) != 0
    }

    fn slot_at(&self, slot: usize) -> u64 {
        (HEAD_BYTES + self.parts * PART_BYTES + slot * SLOT_BYTES) as u64
    }

    /// Copies a request to a slot; none if it is too long or no slot is free.
    pub(crate) fn note(self: &Arc<Self>, bytes: &[u8]) -> Option<Noted> {
        if bytes.len() > SLOT_BYTES {
            return None;
        }
        let slot = self.free.lock().pop()?;
        let noted = Noted { all: Arc::clone(self), place: self.parts + slot };
        self.file.write_all_at(bytes, self.slot_at(slot)).ok()?;
        self.set(noted.place, true);
        Some(noted)
    }

    /// What an earlier process has left in the slots.
    pub(crate) fn left(self: &Arc<Self>) -> Vec<Left> {
        let mut left = Vec::new();
        for slot in (0..self.slots).filter(|slot| self.is_set(self.parts + slot)) {
            let noted = Noted { all: Arc::clone(self), place: self.parts + slot };
            let mut bytes = vec![0; SLOT_BYTES];
            let read = self.file.read_exact_at(&mut bytes, self.slot_at(slot));
            if let (Ok(()), Some(len)) = (read, len_of(&bytes)) {
                bytes.truncate(len);
                left.push(Left { bytes, noted });
            }
        }
        left
    }
}

/// Length of the request at the beginning of these bytes, if there is one.
fn len_of(bytes: &[u8]) -> Option<usize> {
    let len = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    (len > 0 && len <= bytes.len()).then_some(len)
}

/// Number of a request that wants a reply.
fn wanting(bytes: &[u8]) -> Option<u64> {
    let (header, ..) = Header::decode(bytes).ok()?;
    header.wants_reply().then_some(header.unique)
}

/// What a worker reads its requests into.
#[derive(Debug)]
pub(crate) struct Inbox {
    buffer: PageBuffer,
    /// The part of the memory that the buffer is, if it outlives the process.
    part: Option<(Arc<InFlight>, usize)>,
}

impl Inbox {
    /// One that ends with the process.
    pub(crate) fn own() -> Self {
        Inbox { buffer: PageBuffer::new(REQUEST_BYTES, WRITE_PAYLOAD_AT), part: None }
    }

    /// That of a worker, by its number.
    ///
    /// # Errors
    /// Those of mapping.
    pub(crate) fn shared(all: &Arc<InFlight>, worker: usize) -> io::Result<Self> {
        let offset = (HEAD_BYTES + worker * PART_BYTES) as u64;
        let memory = SharedMemory::map(all.file.as_fd(), offset, PART_BYTES)?;
        let buffer = PageBuffer::shared(memory, REQUEST_BYTES, WRITE_PAYLOAD_AT);
        Ok(Inbox { buffer, part: Some((Arc::clone(all), worker)) })
    }

    /// The request that an earlier process has left here.
    pub(crate) fn left(&mut self) -> Option<&[u8]> {
        let (all, place) = self.part.as_ref()?;
        if !all.is_set(*place) {
            return None;
        }
        let bytes: &[u8] = self.buffer.bytes();
        bytes.get(..len_of(bytes)?)
    }

    /// The buffer, for a request to be read into.
    pub(crate) fn open(&mut self) -> &mut [u8] {
        let bytes = self.buffer.bytes();
        if let Some((all, place)) = &self.part {
            if let Some(len) = bytes.first_chunk_mut::<4>() {
                *len = [0; 4];
            }
            all.set(*place, true);
        }
        bytes
    }

    /// The first bytes of the buffer, which hold a request.
    pub(crate) fn request(&mut self, len: usize) -> Option<&[u8]> {
        self.buffer.bytes().get(..len)
    }

    /// Forgets what an earlier process has left here, if that is in a slot, too.
    pub(crate) fn forget(&mut self, slots: &[Left]) {
        let unique = self.left().and_then(wanting);
        if unique.is_some() && slots.iter().any(|left| wanting(&left.bytes) == unique) {
            drop(self.noted());
        }
    }

    /// For the reply to the request that is here.
    pub(crate) fn noted(&self) -> Option<Noted> {
        let (all, place) = self.part.as_ref()?;
        Some(Noted { all: Arc::clone(all), place: *place })
    }
}

#[cfg(test)]
mod tests;
