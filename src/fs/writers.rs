//! Which files are open for writing, noted where it outlives this process.
//!
//! The kernel may hold dirty pages of such a file, which belong into the next snapshot. A process that goes
//! on with the mount after this one has died can't ask the kernel for them, so it reads the note.
//!
//! The note is a file of eight bytes a slot: an inode's number, or 0. Its content has to outlive the process
//! and nothing more. A slot is written when a file's first open for writing is about to be acknowledged,
//! and cleared when the last one has ended, each with one write: a process that dies in between leaves a
//! file too many, never one too few.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::format::InodeNo;
use crate::threads::Mutex;

const SLOT_BYTES: u64 = 8;
/// Slots of a note that can be read: more files than a machine can have open.
const MAX_SLOTS: u64 = 64 << 20;

#[derive(Debug, Default)]
struct Slots {
    of_inode: HashMap<u64, u64>,
    free: Vec<u64>,
    len: u64,
}

/// The note of one mount.
#[derive(Debug)]
pub(super) struct Writers {
    file: File,
    slots: Mutex<Slots>,
}

impl Writers {
    /// Reads a note that an earlier process has left, or an empty one; returns the files in it.
    pub(super) fn open(file: File) -> io::Result<(Writers, Vec<InodeNo>)> {
        let len_bytes = file.metadata()?.len().min(MAX_SLOTS * SLOT_BYTES);
        let mut bytes = vec![0; (len_bytes / SLOT_BYTES * SLOT_BYTES) as usize];
        file.read_exact_at(&mut bytes, 0)?;
        let mut slots = Slots::default();
        let mut found = Vec::new();
        for (slot, inode) in bytes.as_chunks::<8>().0.iter().enumerate() {
            match u64::from_le_bytes(*inode) {
                0 => slots.free.push(slot as u64),
                inode => {
                    // The later of two slots of one inode would never be cleared: take it as a free one.
                    match slots.of_inode.insert(inode, slot as u64) {
                        None => found.push(InodeNo(inode)),
                        Some(earlier) => slots.free.push(earlier),
                    }
                }
            }
        }
        slots.len = len_bytes / SLOT_BYTES;
        Ok((Writers { file, slots: Mutex::new(slots) }, found))
    }

    /// Notes a file.
    pub(super) fn add(&self, ino: InodeNo) {
        let mut slots = self.slots.lock();
        if slots.of_inode.contains_key(&ino.0) {
            return;
        }
        let slot = slots.free.pop().unwrap_or_else(|| {
            slots.len += 1;
            slots.len - 1
        });
        slots.of_inode.insert(ino.0, slot);
        self.put(slot, ino.0);
    }

    /// Takes a file out.
    pub(super) fn remove(&self, ino: InodeNo) {
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.of_inode.remove(&ino.0) {
            self.put(slot, 0);
            slots.free.push(slot);
        }
    }

    fn put(&self, slot: u64, value: u64) {
        if let Err(error) = self.file.write_all_at(&value.to_le_bytes(), slot * SLOT_BYTES) {
            // Costs something only if this process dies: unsynced data in the first snapshot after that.
            tracing::warn!(%error, "a file that is open for writing can't be noted");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reopened(file: &File) -> Vec<u64> {
        let mut found: Vec<u64> =
            Writers::open(file.try_clone().unwrap()).unwrap().1.iter().map(|ino| ino.0).collect();
        found.sort_unstable();
        found
    }

    #[test]
    fn the_next_process_finds_what_was_open() {
        let file = tempfile::tempfile().unwrap();
        let (writers, found) = Writers::open(file.try_clone().unwrap()).unwrap();
        assert!(found.is_empty());
        for ino in [5, 6, 7] {
            writers.add(InodeNo(ino));
        }
        writers.add(InodeNo(6));
        writers.remove(InodeNo(5));
        writers.remove(InodeNo(99));
        assert_eq!(reopened(&file), [6, 7]);
        let (writers, _) = Writers::open(file.try_clone().unwrap()).unwrap();
        writers.add(InodeNo(8));
        writers.remove(InodeNo(7));
        assert_eq!(reopened(&file), [6, 8]);
        assert_eq!(file.metadata().unwrap().len(), 24, "free slots are used again");
    }
}
