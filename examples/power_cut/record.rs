//! What the machine outside is told: how far each thread has come. Kept on a device of its own, which outlives
//! the power cut.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// A record has a page to itself, so that a write of it never touches another.
const PAGE: u64 = 4096;
const BYTES: usize = 48;
/// Rounds of which records are kept; a round ends with a power cut.
pub(crate) const ROUNDS: u32 = 4;
pub(crate) const THREADS: u32 = 3;

/// How far a thread has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// From 1 on.
    pub round: u32,
    pub thread: u32,
    pub run: u64,
    /// Whether snapshots are among the operations.
    pub snapshots: bool,
    /// Operations that have returned. One more may have begun.
    pub done: u32,
    /// Operations that were found after the power cut that ended the round.
    pub settled: Option<u32>,
}

impl Record {
    /// What the thread's operations are chosen by.
    pub(crate) fn seed(&self) -> u64 {
        self.run ^ (u64::from(self.round) << 32) ^ (u64::from(self.thread) << 24)
    }

    fn encode(&self) -> [u8; BYTES] {
        let settled = self.settled.map_or(0, |settled| u64::from(settled) + 1);
        let words = [
            u64::from(self.round),
            u64::from(self.thread),
            self.run,
            u64::from(self.snapshots),
            u64::from(self.done) << 32 | settled,
        ];
        let mut bytes = [0; BYTES];
        for (place, word) in bytes.chunks_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        let sum = crc32c::crc32c(&bytes[..BYTES - 8]);
        bytes[BYTES - 8..BYTES - 4].copy_from_slice(&sum.to_le_bytes());
        bytes[BYTES - 4..].copy_from_slice(b"cuts");
        bytes
    }

    fn decode(bytes: &[u8; BYTES]) -> Option<Record> {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at * 8..at * 8 + 8]);
            u64::from_le_bytes(word)
        };
        let settled = word(4) as u32;
        let record = Record {
            round: word(0) as u32,
            thread: word(1) as u32,
            run: word(2),
            snapshots: word(3) != 0,
            done: (word(4) >> 32) as u32,
            settled: settled.checked_sub(1),
        };
        (record.encode() == *bytes).then_some(record)
    }
}

/// The records of the last rounds.
#[derive(Debug)]
pub(crate) struct Records {
    file: File,
}

impl Records {
    /// Opens the device, or a file of at least 64 KiB.
    pub(crate) fn open(path: &Path) -> io::Result<Records> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).custom_flags(libc::O_DSYNC).open(path)?;
        Ok(Records { file })
    }

    fn place(round: u32, thread: u32) -> u64 {
        u64::from(round % ROUNDS * THREADS + thread) * PAGE
    }

    /// Writes a record; it is on the device when this returns.
    pub(crate) fn put(&self, record: &Record) -> io::Result<()> {
        self.file.write_all_at(&record.encode(), Records::place(record.round, record.thread))
    }

    /// Takes a round's records away.
    pub(crate) fn remove(&self, round: u32) -> io::Result<()> {
        (0..THREADS).try_for_each(|thread| {
            self.file.write_all_at(&[0; BYTES], Records::place(round, thread))
        })
    }

    /// Returns all records, by round and thread.
    pub(crate) fn all(&self) -> io::Result<Vec<Record>> {
        let mut all = Vec::new();
        for place in 0..u64::from(ROUNDS * THREADS) {
            let mut bytes = [0; BYTES];
            self.file.read_exact_at(&mut bytes, place * PAGE)?;
            if bytes != [0; BYTES] {
                let record = Record::decode(&bytes);
                let torn = || io::Error::other("a record of the test itself is torn");
                all.push(record.ok_or_else(torn)?);
            }
        }
        all.sort_by_key(|record| (record.round, record.thread));
        Ok(all)
    }
}
