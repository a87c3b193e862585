//! The open journal: appending, writing out in batches, and group commit.

use std::fmt;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use super::scan::{self, scan};
use super::{Error, FRAME_ALIGN, LENGTH_STEP, MAX_RECORD, Position, Records, check_length, place};
use crate::device::BlockDevice;
use crate::format::{FRAME_HEADER, FrameHeader, Seq, frame_bytes, frame_salt};
use crate::threads::{AtomicU64, Condvar, Mutex};

/// Buffers grow with the largest batch; one above this is given back after use.
const MAX_SPARE_BYTES: usize = 4 << 20;

/// The open journal of a pool; all methods may be called from any thread.
pub struct Journal {
    device: Arc<dyn BlockDevice>,
    len_bytes: u64,
    salt: u32,
    nonce: u64,
    max_payload_bytes: usize,
    log: Mutex<Log>,
    writer: Mutex<Writer>,
    commits: Mutex<Commits>,
    committed: Condvar,
    /// All records up to this one are in the device.
    written: AtomicU64,
    /// All records up to this one are durable.
    synced: AtomicU64,
    failure: OnceLock<(&'static str, Arc<io::Error>)>,
}

/// What appending changes.
struct Log {
    next: Position,
    tail: Position,
    /// Bytes from the tail to the next record's place.
    used_bytes: u64,
    batch: Batch,
}

/// Frames that were appended, and that no writer has taken yet.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    /// Where in the device `bytes` go.
    offset: u64,
    /// From this index of `bytes` on, they go to the device's beginning instead.
    wrap: Option<usize>,
}

/// Held by the one thread that writes to the device.
struct Writer {
    /// Empty between writes; keeps its buffer for the next.
    batch: Batch,
}

struct Commits {
    /// A thread is syncing the device; the others wait for it.
    syncing: bool,
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let log = self.log.lock();
        f.debug_struct("Journal")
            .field("next", &log.next)
            .field("tail", &log.tail)
            .field("used_bytes", &log.used_bytes)
            .field("len_bytes", &self.len_bytes)
            .field("failure", &self.failure.get())
            .finish_non_exhaustive()
    }
}

impl Journal {
    /// Makes an empty journal of `len_bytes`: writes zeros through all of it, and syncs.
    ///
    /// Returns the position of its first record. The length is a multiple of
    /// [`LENGTH_STEP`], at least [`super::MIN_LENGTH`]; the device may not be longer.
    pub fn format(device: &dyn BlockDevice, len_bytes: u64) -> Result<Position, Error> {
        scan::format(device, len_bytes)
    }

    /// Opens the journal that fills `device`, and returns the records from `tail` on, in order.
    ///
    /// `salt` belongs to the pool, so that another pool's records never match. `nonce` is a number
    /// that no earlier opening of this pool had: the module head says what it keeps out. A random
    /// one will do, or the time in nanoseconds.
    ///
    /// None of the records returned counts as synced: after the death of the process alone they may
    /// be in the host's page cache only.
    pub fn open(
        device: Arc<dyn BlockDevice>,
        salt: [u8; 16],
        nonce: u64,
        tail: Position,
    ) -> Result<(Journal, Records), Error> {
        let len_bytes = check_length(device.len_bytes().map_err(Error::io("measure"))?)?;
        let salt = frame_salt(&salt);
        let found = scan(&*device, len_bytes, salt, tail)?;
        let (next, used_bytes) = (found.next, found.used_bytes);
        scan::bury(&*device, len_bytes, next).map_err(Error::io("repair"))?;
        let journal = Journal {
            device,
            len_bytes,
            salt,
            nonce,
            // A frame of at most half the length fits into an empty journal wherever its end is.
            max_payload_bytes: MAX_RECORD.min(len_bytes as usize / 2 - FRAME_HEADER),
            log: Mutex::new(Log { next, tail, used_bytes, batch: Batch::default() }),
            writer: Mutex::new(Writer { batch: Batch::default() }),
            commits: Mutex::new(Commits { syncing: false }),
            committed: Condvar::new(),
            written: AtomicU64::new(next.seq.0 - 1),
            synced: AtomicU64::new(tail.seq.0 - 1),
            failure: OnceLock::new(),
        };
        Ok((journal, found.records))
    }

    /// Appends a record to the batch in memory, without I/O, and returns its number.
    ///
    /// It is not acknowledgeable before [`Journal::write_out`] returned, nor durable before
    /// [`Journal::sync`] did. Fails with Full, TooLarge or Failed, and then nothing is appended.
    pub fn append(&self, payload: &[u8]) -> Result<Seq, Error> {
        self.append_parts(&[payload])
    }

    /// Appends one record whose payload is all `parts` in a row; otherwise as [`Journal::append`].
    pub fn append_parts(&self, parts: &[&[u8]]) -> Result<Seq, Error> {
        let payload_bytes = parts.iter().map(|part| part.len()).sum();
        if payload_bytes > self.max_payload_bytes {
            let max_bytes = self.max_payload_bytes;
            return Err(Error::TooLarge { payload_bytes, max_bytes });
        }
        let frame = frame_bytes(payload_bytes);
        let mut log = self.log.lock();
        self.check_failure()?;
        let (offset, skipped) = place(log.next.offset, frame as u64, self.len_bytes);
        let needed_bytes = skipped + frame as u64;
        let free_bytes = self.len_bytes - FRAME_ALIGN as u64 - log.used_bytes;
        if needed_bytes > free_bytes {
            return Err(Error::Full { needed_bytes, free_bytes });
        }

        let Position { seq, chain, .. } = log.next;
        let start = log.batch.begin(offset);
        let bytes = &mut log.batch.bytes;
        bytes.reserve(frame);
        bytes.extend_from_slice(&[0; FRAME_HEADER]);
        parts.iter().for_each(|part| bytes.extend_from_slice(part));
        let header = FrameHeader {
            // At most MAX_RECORD.
            payload_bytes: payload_bytes as u32,
            seq,
            nonce: self.nonce,
            chain,
        };
        let (sealed, checksum) = header.seal(self.salt, &bytes[start + FRAME_HEADER..]);
        bytes[start..start + FRAME_HEADER].copy_from_slice(&sealed);
        bytes.resize(start + frame, 0);

        log.used_bytes += needed_bytes;
        log.next = Position {
            offset: (offset + frame as u64) % self.len_bytes,
            seq: Seq(seq.0 + 1),
            chain: checksum,
        };
        Ok(seq)
    }

    /// Returns once all records up to `upto` are in the device, where they survive this process.
    ///
    /// Writes everything that is appended, so that of several callers at once one does the work.
    pub fn write_out(&self, upto: Seq) -> Result<(), Error> {
        if self.written.load(Ordering::Acquire) >= upto.0 {
            return Ok(());
        }
        let mut writer = self.writer.lock();
        if self.written.load(Ordering::Acquire) >= upto.0 {
            return Ok(());
        }
        self.check_failure()?;
        let last = self.take_batch(&mut writer.batch, upto);
        let result = self.write_batch(&writer.batch);
        writer.batch.clear();
        result.map_err(|cause| self.fail("write", cause))?;
        self.written.store(last, Ordering::Release);
        Ok(())
    }

    /// Returns once all records up to `upto` are durable.
    ///
    /// One caller writes everything out and syncs the device; whoever comes meanwhile waits, and
    /// shares the next sync. After a failure only what was durable before counts, for ever.
    pub fn sync(&self, upto: Seq) -> Result<(), Error> {
        loop {
            let mut commits = self.commits.lock();
            if self.synced.load(Ordering::Acquire) >= upto.0 {
                return Ok(());
            }
            self.check_failure()?;
            if commits.syncing {
                self.committed.wait(&mut commits);
                continue;
            }
            commits.syncing = true;
            drop(commits);
            let turn = SyncTurn { journal: self };
            self.sync_everything()?;
            drop(turn);
            assert!(self.synced_seq() >= upto, "record {upto} was never appended");
        }
    }

    /// Returns the position of the next record: the tail, once all before it are checkpointed.
    pub fn position(&self) -> Position {
        self.log.lock().next
    }

    /// Returns the number of the last record appended or found.
    pub fn last_seq(&self) -> Seq {
        Seq(self.position().seq.0 - 1)
    }

    /// Returns the number of the last record that is in the device, with all before it.
    pub fn written_seq(&self) -> Seq {
        Seq(self.written.load(Ordering::Acquire))
    }

    /// Returns the number of the last record that is durable, with all before it.
    pub fn synced_seq(&self) -> Seq {
        Seq(self.synced.load(Ordering::Acquire))
    }

    /// Gives the space of all records before `tail` free to be overwritten.
    ///
    /// Only after a superblock that names `tail` is durable. `tail` is what [`Journal::position`]
    /// returned; one from before the present tail changes nothing.
    ///
    /// # Panics
    /// If `tail` lies past the last record that is in the device.
    pub fn release(&self, tail: Position) {
        let mut log = self.log.lock();
        if tail.seq <= log.tail.seq {
            return;
        }
        // A tail past what was written would let a crash find no record where one was acknowledged.
        assert!(
            tail.seq.0 <= self.written.load(Ordering::Acquire) + 1,
            "released unwritten records"
        );
        assert!(tail.offset < self.len_bytes && tail.offset.is_multiple_of(FRAME_ALIGN as u64));
        let used = (log.next.offset + self.len_bytes - tail.offset) % self.len_bytes;
        assert!(used <= log.used_bytes, "the tail went backwards");
        log.used_bytes = used;
        log.tail = tail;
    }

    /// Returns how many bytes records can take at most, with their frames.
    pub fn capacity_bytes(&self) -> u64 {
        self.len_bytes - FRAME_ALIGN as u64
    }

    /// Returns how many bytes are taken from the tail to the next record's place.
    pub fn used_bytes(&self) -> u64 {
        self.log.lock().used_bytes
    }

    /// Returns the longest payload that this journal takes: [`MAX_RECORD`], or less if it is short.
    pub fn max_payload_bytes(&self) -> usize {
        self.max_payload_bytes
    }

    /// Swaps the appended batch for the empty one in `taken`; returns the last record's number.
    fn take_batch(&self, taken: &mut Batch, upto: Seq) -> u64 {
        let mut log = self.log.lock();
        assert!(upto < log.next.seq, "record {upto} was never appended");
        // Not empty only if a write panicked: then nothing may be written behind what is missing.
        assert!(taken.bytes.is_empty(), "a batch was left unwritten");
        std::mem::swap(&mut log.batch, taken);
        let free_bytes = self.len_bytes - FRAME_ALIGN as u64 - log.used_bytes;
        taken.pad_page(self.len_bytes, free_bytes);
        log.next.seq.0 - 1
    }

    fn write_batch(&self, batch: &Batch) -> io::Result<()> {
        let (first, wrapped) = batch.bytes.split_at(batch.wrap.unwrap_or(batch.bytes.len()));
        assert!(
            batch.offset + first.len() as u64 <= self.len_bytes,
            "write past the journal's end"
        );
        if !first.is_empty() {
            self.device.write_at(batch.offset, first)?;
        }
        if !wrapped.is_empty() {
            self.device.write_at(0, wrapped)?;
        }
        Ok(())
    }

    /// Writes everything out and syncs; the caller holds the role of the syncing thread.
    fn sync_everything(&self) -> Result<(), Error> {
        self.write_out(self.last_seq())?;
        // Read before the sync begins: what others write meanwhile may or may not be covered.
        let written = self.written.load(Ordering::Acquire);
        self.device.sync().map_err(|cause| self.fail("sync", cause))?;
        // A write that failed during the sync says nothing about the records before it.
        self.synced.store(written, Ordering::Release);
        Ok(())
    }

    fn check_failure(&self) -> Result<(), Error> {
        match self.failure.get() {
            None => Ok(()),
            Some((op, cause)) => Err(Error::Failed { op, cause: cause.clone() }),
        }
    }

    /// Remembers the first failure, which ends all writing; returns it.
    fn fail(&self, op: &'static str, cause: io::Error) -> Error {
        let (op, cause) = self.failure.get_or_init(|| (op, Arc::new(cause)));
        Error::Failed { op, cause: cause.clone() }
    }
}

/// The role of the thread that syncs for all; its end wakes the others.
struct SyncTurn<'a> {
    journal: &'a Journal,
}

impl Drop for SyncTurn<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.journal.fail("sync", io::Error::other("a thread panicked"));
        }
        self.journal.commits.lock().syncing = false;
        self.journal.committed.notify_all();
    }
}

impl Batch {
    /// Prepares for a frame that goes to `offset` in the device; returns its index in `bytes`.
    fn begin(&mut self, offset: u64) -> usize {
        let start = self.bytes.len();
        if start == 0 {
            self.offset = offset;
        } else if self.wrap.is_none() && self.offset + start as u64 != offset {
            assert!(offset == 0, "a frame neither follows the one before nor begins the device");
            self.wrap = Some(start);
        }
        start
    }

    /// Fills the last page up with zeros if the batch is the first to touch it in this round.
    ///
    /// The host then need not read a page that has left its cache before it can change a part of
    /// it. Only free bytes are overwritten (invariant 2).
    fn pad_page(&mut self, len_bytes: u64, free_bytes: u64) {
        let wrap = self.wrap.unwrap_or(0);
        let start = if self.wrap.is_some() { 0 } else { self.offset };
        let end = start + (self.bytes.len() - wrap) as u64;
        let page_end = end.next_multiple_of(LENGTH_STEP);
        let first_touch = start <= end - end % LENGTH_STEP;
        if first_touch && page_end <= len_bytes && page_end - end <= free_bytes {
            self.bytes.resize(self.bytes.len() + (page_end - end) as usize, 0);
        }
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(MAX_SPARE_BYTES);
        self.wrap = None;
    }
}
