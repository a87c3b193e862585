//! Durability: which data is not yet synced, and fsync.
//!
//! File data goes to the data file and its operation to the journal, both into the host's page cache. An
//! fsync of little data copies the data into the journal, so that one sequential write and one flush make all
//! of it durable; replay puts the copies in their places. Much data is synced where it lies.
//!
//! A copy may only be made of blocks that were allocated since the last freeze: blocks from before it can
//! have been freed before it too, and belong to another file by the time the copy is replayed. What is
//! older is synced in place.

use std::collections::HashMap;

use super::{Error, Intent, Pool, Result};
use crate::format::{BLOCK_SIZE, Encoder, InodeNo, MAX_COPY_BYTES, Record, Run, Seq, VolumeId};
use crate::threads::Mutex;

/// Most blocks that an fsync copies into the journal: the time of one flush still outweighs writing them.
const MAX_COPY_BLOCKS: u64 = 64;

type File = (VolumeId, InodeNo);

#[derive(Debug, Default)]
struct Entry {
    /// Blocks written since the last freeze.
    runs: Vec<Run>,
    blocks: u64,
    /// Whether there is more that is unsynced, which may not be copied: blocks from before the last freeze,
    /// too many, or those of another file.
    older: bool,
    /// Time of the last addition, in [`State::stamp`].
    stamp: u64,
}

#[derive(Debug, Default)]
struct State {
    files: HashMap<File, Entry>,
    stamp: u64,
}

/// Data written and not yet known to be durable.
#[derive(Debug, Default)]
pub(super) struct Unsynced {
    state: Mutex<State>,
}

impl State {
    /// The entry of a file to which something is added now.
    fn adding(&mut self, file: File) -> &mut Entry {
        self.stamp += 1;
        let entry = self.files.entry(file).or_default();
        entry.stamp = self.stamp;
        entry
    }
}

impl Unsynced {
    /// Notes that `run` has been written and mapped in `file`.
    pub(super) fn add(&self, file: File, run: Run) {
        let mut state = self.state.lock();
        let entry = state.adding(file);
        entry.blocks += u64::from(run.len_blocks);
        match entry.runs.last_mut() {
            Some(last) if last.end() == run.start.0 => last.len_blocks += run.len_blocks,
            _ if entry.blocks <= MAX_COPY_BLOCKS => entry.runs.push(run),
            // Too much to copy: where it lies does not matter any more.
            _ => entry.older = true,
        }
    }

    /// Notes that `file` now refers to blocks of other files, which may be unsynced.
    pub(super) fn add_shared(&self, file: File) {
        self.state.lock().adding(file).older = true;
    }

    /// Notes that the files of volume `to` begin with the data of those of `from`, which may be unsynced.
    pub(super) fn inherit(&self, from: VolumeId, to: VolumeId) {
        let mut state = self.state.lock();
        let theirs: Vec<File> = state.files.keys().filter(|file| file.0 == from).copied().collect();
        theirs.into_iter().for_each(|(_, ino)| state.adding((to, ino)).older = true);
    }

    /// Begins a checkpoint: what is noted so far must not be copied any more. Returns the time of it.
    pub(super) fn freeze(&self) -> u64 {
        let state = &mut *self.state.lock();
        for entry in state.files.values_mut() {
            entry.older = true;
            entry.runs.clear();
        }
        state.stamp
    }

    fn now(&self) -> u64 {
        self.state.lock().stamp
    }

    /// All data noted until then is durable.
    pub(super) fn synced(&self, until: u64) {
        self.state.lock().files.retain(|_, entry| entry.stamp > until);
    }

    /// What there is to sync of one file, or of all: `None` when it must be synced in place.
    fn to_copy(&self, file: Option<File>) -> Option<(u64, Vec<Run>)> {
        let state = self.state.lock();
        let mut runs = Vec::new();
        let mut blocks = 0;
        let one = file.map(|file| state.files.get(&file).into_iter().collect::<Vec<_>>());
        for entry in one.unwrap_or_else(|| state.files.values().collect()) {
            blocks += entry.blocks;
            if entry.older || blocks > MAX_COPY_BLOCKS {
                return None;
            }
            runs.extend_from_slice(&entry.runs);
        }
        Some((state.stamp, runs))
    }

    /// Data of one file, or of all, noted until then is durable.
    fn copied(&self, file: Option<File>, until: u64) {
        match file {
            None => self.synced(until),
            Some(file) => {
                let mut state = self.state.lock();
                if state.files.get(&file).is_some_and(|entry| entry.stamp <= until) {
                    state.files.remove(&file);
                }
            }
        }
    }
}

impl Pool {
    /// Makes every acknowledged operation durable, with its data.
    pub fn sync(&self) -> Result<()> {
        self.sync_some(None)
    }

    /// Makes durable the data of one file, or of all, and the journal up to now.
    pub(super) fn sync_some(&self, file: Option<File>) -> Result<()> {
        self.throttle(Intent::Shrink)?;
        let copied = {
            // No freeze comes between the choice to copy and the record of the copy.
            let _gate = self.gate.read();
            match self.unsynced.to_copy(file) {
                Some((until, runs)) => match self.copy_runs(&runs) {
                    Ok(last) => Some((until, last)),
                    // No room for copies in the journal: it is synced in place.
                    Err(Error::NoSpace | Error::Limit(_)) => None,
                    Err(error) => return Err(error),
                },
                None => None,
            }
        };
        match copied {
            Some((until, last)) => {
                self.sync_journal(last)?;
                self.unsynced.copied(file, until);
            }
            None => {
                let until = self.unsynced.now();
                let synced = self.storage.data.sync();
                synced.map_err(|e| self.fail("syncing data", Error::io("syncing data")(e)))?;
                self.unsynced.synced(until);
                self.sync_journal(self.journal.last_seq())?;
            }
        }
        Ok(())
    }

    fn sync_journal(&self, upto: Seq) -> Result<()> {
        self.journal.sync(upto).map_err(|error| self.fail("syncing the journal", error.into()))
    }

    /// Copies blocks into the journal; returns the last record's number.
    fn copy_runs(&self, runs: &[Run]) -> Result<Seq> {
        for run in runs {
            let mut bytes = vec![0; run.len_blocks as usize * BLOCK_SIZE];
            let at = run.start.offset_bytes();
            self.storage.data.read_at(at, &mut bytes).map_err(Error::io("reading data"))?;
            let mut addr = run.start;
            for part in bytes.chunks(MAX_COPY_BYTES) {
                let mut out = Encoder::new();
                Record::Copy { addr, bytes: part.to_vec() }.encode(&mut out);
                self.journal.append(&out.0)?;
                addr.0 += (part.len() / BLOCK_SIZE) as u64;
            }
        }
        Ok(self.journal.last_seq())
    }
}
