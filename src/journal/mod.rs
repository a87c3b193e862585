//! The intent log: a fixed-size circular record of the operations since the last checkpoint.
//!
//! Payloads are opaque here. Each stands in a frame (`format::frame`) at a multiple of 8 bytes.
//! Frames follow each other; one that does not fit before the physical end stands at offset 0, and
//! the rest before the end is skipped, whatever its bytes.
//!
//! ```text
//!   0            next                 tail                          length
//!   | r7  r8  r9  |   free             | r3  r4   r5     r6   | skipped |
//! ```
//!
//! # Invariants
//!
//! 1. Sequence numbers rise by one from record to record; none is given twice, but for those of
//!    records that a power cut took back.
//! 2. Bytes from the tail to the next record's place are never overwritten. At least
//!    [`FRAME_ALIGN`] bytes stay free, so that equal offsets of tail and end mean "empty".
//! 3. A record goes to the device after all before it, and counts as synced only if all before it
//!    are.
//! 4. After a write or a sync failed, no record is appended, written or called durable any more.
//!
//! # Why a crash at any point is safe
//!
//! Opening reads records from the tail that the superblock names, and stops at the first frame that
//! is not the next record: a torn one, a hole, an old one. So it finds a prefix of what was
//! appended, with all that `sync` had confirmed; after the death of the process alone, all that
//! `write_out` had.
//!
//! What comes behind such a hole must not come back to life later: a record that survived behind a
//! lost one belongs to a history that did not happen, and after the next opening has filled the gap
//! with a record of the same length, it would stand in the right place with the right number.
//! Therefore each frame's checksum covers the checksum of the frame before (the chain, of which the
//! superblock keeps the link at the tail), and a nonce that each opening gets anew, so that no
//! record of one opening has the checksum of one from another, even with the same payload. And before
//! anything is appended, opening durably takes away the header of a torn record that stands where the
//! next one goes: bytes written there later could be the very ones that it lacks.
//!
//! Space is reused only when the pool calls `release`, after a superblock with that tail is durable.
//!
//! # Locks
//!
//! `writer` -> `log`, both for a moment but for `writer`, which is held across the write to the
//! device; `commits` is never held together with another. The pool may hold its own locks in
//! `append`, which does no I/O.
//!
//! # Absent on purpose
//!
//! A record damaged on the medium looks like the end of the log: nothing here tells the two apart.

mod append;
mod scan;

use std::io;
use std::sync::Arc;

pub use append::Journal;

use crate::format::Seq;
pub use crate::format::{FRAME_ALIGN, MAX_RECORD};

/// The length of a journal is a multiple of this.
pub const LENGTH_STEP: u64 = 4096;
/// Shortest journal: a frame may take half of it.
pub const MIN_LENGTH: u64 = 2 * LENGTH_STEP;

/// Where a record goes, and what makes it the next one; the superblock keeps the tail's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Byte offset in the journal device, a multiple of [`FRAME_ALIGN`]. The record stands at 0
    /// instead if it does not fit here.
    pub offset: u64,
    /// Sequence number of the record.
    pub seq: Seq,
    /// Checksum of the record before it; 0 for the very first.
    pub chain: u32,
}

impl Position {
    /// Where the first record of a new journal goes.
    pub const START: Position = Position { offset: 0, seq: Seq(1), chain: 0 };
}

/// Records as they are read back: number and payload, in order.
pub type Records = Vec<(Seq, Vec<u8>)>;

/// Why the journal refused.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// There is no room until a checkpoint releases some; nothing was appended.
    #[error("the journal is full: a record needs {needed_bytes} bytes, {free_bytes} are free")]
    Full {
        /// Bytes that the record takes, with what it skips at the end.
        needed_bytes: u64,
        /// Bytes that are free.
        free_bytes: u64,
    },
    /// The payload is longer than a record may be; nothing was appended.
    #[error("a journal record of {payload_bytes} bytes is longer than {max_bytes}")]
    TooLarge {
        /// Length of the payload.
        payload_bytes: usize,
        /// Longest payload that this journal takes.
        max_bytes: usize,
    },
    /// Writing or syncing failed, now or earlier; the journal takes nothing more until it is opened
    /// again.
    #[error("the journal failed to {op}: {cause}")]
    Failed {
        /// What failed: `write` or `sync`.
        op: &'static str,
        /// The first failure.
        cause: Arc<io::Error>,
    },
    /// The device failed while the journal was formatted or opened.
    #[error("cannot {op} the journal: {cause}")]
    Io {
        /// What was attempted, as a verb.
        op: &'static str,
        /// The failure.
        cause: Arc<io::Error>,
    },
    /// The device is too short, or its length is no multiple of [`LENGTH_STEP`].
    #[error("a journal cannot have {0} bytes")]
    Length(u64),
    /// The tail that was given can't be one.
    #[error("a journal of {len_bytes} bytes cannot begin with record {seq} at byte {offset}")]
    Tail {
        /// Offset of the tail.
        offset: u64,
        /// Sequence number of the tail.
        seq: Seq,
        /// Length of the journal.
        len_bytes: u64,
    },
}

impl Error {
    fn io(op: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |cause| Error::Io { op, cause: Arc::new(cause) }
    }
}

/// Returns where a frame of `frame_bytes` goes that follows `offset`, and how many bytes it skips.
fn place(offset: u64, frame_bytes: u64, len_bytes: u64) -> (u64, u64) {
    if offset + frame_bytes <= len_bytes { (offset, 0) } else { (0, len_bytes - offset) }
}

fn check_length(len_bytes: u64) -> Result<u64, Error> {
    let good = len_bytes >= MIN_LENGTH && len_bytes.is_multiple_of(LENGTH_STEP);
    if good { Ok(len_bytes) } else { Err(Error::Length(len_bytes)) }
}

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod tests;
