//! What the kernel holds of the live volume: looked-up inodes and open files, and the locks on content.
//!
//! A mount that an earlier process served comes with lookups and opens that nobody counted: it is
//! *inherited*. Then every inode may be held, so an unlinked one stays an orphan until the kernel has been
//! asked ([`NodeTable::doubtful`]); and files that were open for writing stay so until the same.
//!
//! Lock order: a content lock, then the volume's head, then a shard of the table, which is last.
//! Counts rise only while the head is held (shared is enough), so that an unlink, which holds it
//! exclusively, sees them as they are.

use std::collections::HashMap;

use std::sync::OnceLock;

use super::node::NodeId;
use super::writers::Writers;
use crate::format::InodeNo;
use crate::threads::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

const SHARDS: usize = 64;
const CONTENT_LOCKS: usize = 1024;

/// What is held of one inode.
#[derive(Debug, Default, Clone, Copy)]
struct Held {
    lookups: u64,
    opens: u32,
    write_opens: u32,
    /// It was opened and not read since: the next read may set the access time.
    atime_due: bool,
    /// Its last name is gone: it ends when nothing is held.
    orphan: bool,
    /// It may be open for writing since before this process.
    inherited_writer: bool,
}

impl Held {
    fn is_idle(&self) -> bool {
        self.lookups == 0 && self.opens == 0 && !self.inherited_writer
    }

    fn is_written(&self) -> bool {
        self.write_opens > 0 || self.inherited_writer
    }
}

/// Counts of lookups and opens, by inode.
#[derive(Debug)]
pub(super) struct NodeTable {
    shards: Vec<Mutex<HashMap<u64, Held>>>,
    inherited: bool,
    writers: OnceLock<Writers>,
}

impl NodeTable {
    pub(super) fn new() -> NodeTable {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        NodeTable { shards, inherited: false, writers: OnceLock::new() }
    }

    /// The table of a mount that an earlier process has served, and what may be held of it.
    pub(super) fn inherit(orphans: &[InodeNo]) -> NodeTable {
        let table = NodeTable { inherited: true, ..NodeTable::new() };
        for ino in orphans {
            table.shard(*ino).lock().entry(ino.0).or_default().orphan = true;
        }
        table
    }

    /// Notes from now on what is open for writing; `before` is what was so before this process.
    pub(super) fn note_writers(&self, writers: Writers, before: &[InodeNo]) {
        for ino in before {
            self.shard(*ino).lock().entry(ino.0).or_default().inherited_writer = true;
        }
        let _ = self.writers.set(writers);
    }

    fn shard(&self, ino: InodeNo) -> &Mutex<HashMap<u64, Held>> {
        &self.shards[ino.0 as usize % SHARDS]
    }

    /// Counts a lookup. The head is held.
    pub(super) fn looked_up(&self, ino: InodeNo) {
        self.shard(ino).lock().entry(ino.0).or_default().lookups += 1;
    }

    /// Counts an open. The head is held.
    pub(super) fn opened(&self, ino: InodeNo, writes: bool, atime: bool) {
        let mut shard = self.shard(ino).lock();
        let held = shard.entry(ino.0).or_default();
        let first = writes && !held.is_written();
        held.opens += 1;
        held.write_opens += u32::from(writes);
        held.atime_due |= atime;
        if let (true, Some(writers)) = (first, self.writers.get()) {
            writers.add(ino);
        }
    }

    /// Whether this is the first read since an open.
    pub(super) fn take_atime_due(&self, ino: InodeNo) -> bool {
        let mut shard = self.shard(ino).lock();
        shard.get_mut(&ino.0).is_some_and(|held| std::mem::take(&mut held.atime_due))
    }

    /// Takes lookups back; returns whether an orphan is to be ended.
    pub(super) fn forgotten(&self, ino: InodeNo, count: u64) -> bool {
        self.lowered(ino, |held| held.lookups = held.lookups.saturating_sub(count))
    }

    /// Takes an open back; returns whether an orphan is to be ended.
    pub(super) fn released(&self, ino: InodeNo, writes: bool) -> bool {
        self.lowered(ino, |held| {
            held.opens = held.opens.saturating_sub(1);
            held.write_opens = held.write_opens.saturating_sub(u32::from(writes));
            held.atime_due &= held.opens > 0;
        })
    }

    fn lowered(&self, ino: InodeNo, lower: impl FnOnce(&mut Held)) -> bool {
        let mut shard = self.shard(ino).lock();
        let Some(held) = shard.get_mut(&ino.0) else { return false };
        let written = held.is_written();
        lower(held);
        if let (true, false, Some(writers)) = (written, held.is_written(), self.writers.get()) {
            writers.remove(ino);
        }
        // Of an inherited orphan more may be held than was counted.
        if !held.is_idle() || self.inherited && held.orphan {
            return false;
        }
        let orphan = held.orphan;
        shard.remove(&ino.0);
        orphan
    }

    /// Orphans, and files open for writing, that nobody holds by what this process has counted, and that an
    /// earlier one may have let the kernel hold.
    pub(super) fn doubtful(&self) -> Vec<NodeId> {
        if !self.inherited {
            return Vec::new();
        }
        let mut found = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            let doubtful = shard.iter().filter(|(_, held)| held.orphan || held.inherited_writer);
            found.extend(doubtful.map(|(ino, _)| NodeId(*ino)));
        }
        found
    }

    /// Notes that the kernel has nothing of an inode; returns whether an orphan is to be ended.
    pub(super) fn gone(&self, ino: InodeNo) -> bool {
        let mut shard = self.shard(ino).lock();
        let Some(held) = shard.get_mut(&ino.0) else { return false };
        let written = held.is_written();
        held.inherited_writer = false;
        if let (true, false, Some(writers)) = (written, held.is_written(), self.writers.get()) {
            writers.remove(ino);
        }
        // What this process has counted came after the kernel was asked.
        if !held.is_idle() {
            return false;
        }
        let orphan = held.orphan;
        shard.remove(&ino.0);
        orphan
    }

    /// Notes that an inode's last name goes; returns whether anybody holds it. The head is held exclusively.
    pub(super) fn orphaned(&self, ino: InodeNo) -> bool {
        let mut shard = self.shard(ino).lock();
        match shard.get_mut(&ino.0) {
            Some(held) => {
                held.orphan = true;
                true
            }
            None if self.inherited => {
                shard.entry(ino.0).or_default().orphan = true;
                true
            }
            None => false,
        }
    }

    /// Notes that an inode has a name after all.
    pub(super) fn adopted(&self, ino: InodeNo) {
        if let Some(held) = self.shard(ino).lock().get_mut(&ino.0) {
            held.orphan = false;
        }
    }

    /// Whether anybody holds an inode.
    pub(super) fn is_held(&self, ino: InodeNo) -> bool {
        self.shard(ino).lock().contains_key(&ino.0)
    }

    /// Forgets everything; returns the orphans.
    pub(super) fn clear(&self) -> Vec<InodeNo> {
        let all = self.shards.iter().flat_map(|shard| std::mem::take(&mut *shard.lock()));
        all.filter(|(_, held)| held.orphan).map(|(ino, _)| InodeNo(ino)).collect()
    }

    /// Inodes that are open for writing.
    pub(super) fn open_for_write(&self) -> Vec<NodeId> {
        let mut open = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            let writing = shard.iter().filter(|(_, held)| held.is_written());
            open.extend(writing.map(|(ino, _)| NodeId(*ino)));
        }
        open
    }
}

/// Locks on the content of files, shared by inodes of the same remainder.
///
/// Shared: reading, and writing whole blocks. Exclusive: whatever reads content to write it again, and
/// changes of size.
#[derive(Debug)]
pub(super) struct ContentLocks {
    locks: Vec<RwLock<()>>,
}

impl ContentLocks {
    pub(super) fn new() -> ContentLocks {
        ContentLocks { locks: (0..CONTENT_LOCKS).map(|_| RwLock::default()).collect() }
    }

    pub(super) fn shared(&self, ino: InodeNo) -> RwLockReadGuard<'_, ()> {
        self.locks[ino.0 as usize % CONTENT_LOCKS].read()
    }

    pub(super) fn exclusive(&self, ino: InodeNo) -> RwLockWriteGuard<'_, ()> {
        self.locks[ino.0 as usize % CONTENT_LOCKS].write()
    }
}
