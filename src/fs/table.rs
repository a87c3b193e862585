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

use super::lookups::{Lookups, PAGE};
use super::node::NodeId;
use super::writers::Writers;
use crate::format::InodeNo;
use crate::threads::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

const SHARDS: usize = 64;
const CONTENT_LOCKS: usize = 1024;

/// What is held of one inode beside lookups.
#[derive(Debug, Default, Clone, Copy)]
struct Held {
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
    fn is_written(&self) -> bool {
        self.write_opens > 0 || self.inherited_writer
    }
}

/// What is held of the inodes of one shard. Few of those that are looked up are open, or orphans.
#[derive(Debug, Default)]
struct Shard {
    lookups: Lookups,
    held: HashMap<u64, Held>,
}

impl Shard {
    fn is_held(&self, ino: InodeNo) -> bool {
        self.lookups.contains(ino.0) || self.held.contains_key(&ino.0)
    }

    /// Drops what says no more than that nothing is held; returns whether that was an orphan, which is to be
    /// ended.
    fn settle(&mut self, ino: InodeNo) -> bool {
        let Some(held) = self.held.get(&ino.0) else { return false };
        let orphan = held.orphan;
        if held.opens > 0 || held.inherited_writer || orphan && self.lookups.contains(ino.0) {
            return false;
        }
        self.held.remove(&ino.0);
        orphan
    }
}

/// Counts of lookups and opens, by inode.
#[derive(Debug)]
pub(super) struct NodeTable {
    shards: Vec<Mutex<Shard>>,
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
            table.shard(*ino).lock().held.entry(ino.0).or_default().orphan = true;
        }
        table
    }

    /// Notes from now on what is open for writing; `before` is what was so before this process.
    pub(super) fn note_writers(&self, writers: Writers, before: &[InodeNo]) {
        for ino in before {
            self.shard(*ino).lock().held.entry(ino.0).or_default().inherited_writer = true;
        }
        let _ = self.writers.set(writers);
    }

    fn shard(&self, ino: InodeNo) -> &Mutex<Shard> {
        &self.shards[(ino.0 / PAGE) as usize % SHARDS]
    }

    /// Counts a lookup. The head is held.
    pub(super) fn looked_up(&self, ino: InodeNo) {
        self.shard(ino).lock().lookups.add(ino.0);
    }

    /// Counts an open. The head is held.
    pub(super) fn opened(&self, ino: InodeNo, writes: bool, atime: bool) {
        let mut shard = self.shard(ino).lock();
        let held = shard.held.entry(ino.0).or_default();
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
        shard.held.get_mut(&ino.0).is_some_and(|held| std::mem::take(&mut held.atime_due))
    }

    /// Takes lookups back; returns whether an orphan is to be ended.
    pub(super) fn forgotten(&self, ino: InodeNo, count: u64) -> bool {
        let mut shard = self.shard(ino).lock();
        shard.lookups.take(ino.0, count);
        self.settle(&mut shard, ino)
    }

    /// Takes an open back; returns whether an orphan is to be ended.
    pub(super) fn released(&self, ino: InodeNo, writes: bool) -> bool {
        let mut shard = self.shard(ino).lock();
        self.lower(&mut shard, ino, |held| {
            held.opens = held.opens.saturating_sub(1);
            held.write_opens = held.write_opens.saturating_sub(u32::from(writes));
            held.atime_due &= held.opens > 0;
        });
        self.settle(&mut shard, ino)
    }

    /// Changes what is held of an inode, if anything is, and notes that it is open for writing no longer.
    fn lower(&self, shard: &mut Shard, ino: InodeNo, lower: impl FnOnce(&mut Held)) {
        let Some(held) = shard.held.get_mut(&ino.0) else { return };
        let written = held.is_written();
        lower(held);
        if let (true, false, Some(writers)) = (written, held.is_written(), self.writers.get()) {
            writers.remove(ino);
        }
    }

    fn settle(&self, shard: &mut Shard, ino: InodeNo) -> bool {
        // Of an inherited orphan more may be held than was counted.
        let inherited = self.inherited && shard.held.get(&ino.0).is_some_and(|held| held.orphan);
        !inherited && shard.settle(ino)
    }

    /// Orphans, and files open for writing, that nobody holds by what this process has counted, and that an
    /// earlier one may have let the kernel hold.
    pub(super) fn doubtful(&self) -> Vec<NodeId> {
        if !self.inherited {
            return Vec::new();
        }
        self.select(|held| held.orphan || held.inherited_writer)
    }

    /// Notes that the kernel has nothing of an inode; returns whether an orphan is to be ended.
    pub(super) fn gone(&self, ino: InodeNo) -> bool {
        let mut shard = self.shard(ino).lock();
        self.lower(&mut shard, ino, |held| held.inherited_writer = false);
        // What this process has counted came after the kernel was asked.
        shard.settle(ino)
    }

    /// Notes that an inode's last name goes; returns whether anybody holds it. The head is held exclusively.
    pub(super) fn orphaned(&self, ino: InodeNo) -> bool {
        let mut shard = self.shard(ino).lock();
        let held = self.inherited || shard.is_held(ino);
        if held {
            shard.held.entry(ino.0).or_default().orphan = true;
        }
        held
    }

    /// Notes that an inode has a name after all.
    pub(super) fn adopted(&self, ino: InodeNo) {
        let mut shard = self.shard(ino).lock();
        if let Some(held) = shard.held.get_mut(&ino.0) {
            held.orphan = false;
        }
        shard.settle(ino);
    }

    /// Whether anybody holds an inode.
    pub(super) fn is_held(&self, ino: InodeNo) -> bool {
        self.shard(ino).lock().is_held(ino)
    }

    /// Forgets everything; returns the orphans.
    pub(super) fn clear(&self) -> Vec<InodeNo> {
        let all = self.shards.iter().flat_map(|shard| std::mem::take(&mut *shard.lock()).held);
        all.filter(|(_, held)| held.orphan).map(|(ino, _)| InodeNo(ino)).collect()
    }

    /// Inodes that are open for writing.
    pub(super) fn open_for_write(&self) -> Vec<NodeId> {
        self.select(Held::is_written)
    }

    fn select(&self, what: impl Fn(&Held) -> bool) -> Vec<NodeId> {
        let mut found = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            found.extend(
                shard.held.iter().filter(|(_, held)| what(held)).map(|(ino, _)| NodeId(*ino)),
            );
        }
        found
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
