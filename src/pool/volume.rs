//! The head of a volume: its lock, and operations on it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::extents::{Apply, bucket};
use super::source::{ReadGuard, Source};
use super::space::bytes_of;
use super::store::{CatalogStore, HeadStore};
use super::volumes::unknown;
use super::{Error, Intent, Pool, Result, answers};
use crate::btree::Reader;
use crate::format::{
    Answer, BLOCK_SIZE, DeadRef, Edit, Encoder, Epoch, Extent, ExtentKind, InodeNo,
    MAX_CONTENT_BYTES, MAX_EXTENT_BLOCKS, MAX_INODE, MAX_SUB, MemberId, NODE_BLOCKS, NODE_SIZE,
    Record, Run, Timestamp, VolumeId, encode_answers, encode_commit,
};
use crate::snapshot::{DeadBuffer, Lineage, Root};
use crate::threads::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Dead references that a head gathers before it hands them to the catalog.
const MAX_DEAD_BUFFER: usize = 4096;

/// A volume's live state; guarded by [`Volume::head`].
#[derive(Debug)]
pub(super) struct Head {
    pub(super) member: MemberId,
    pub(super) root: Root,
    pub(super) parent_epoch: Epoch,
    /// Epochs of its ancestors, rising.
    pub(super) ancestors: Vec<Epoch>,
    pub(super) deadlist: u64,
    pub(super) dead: DeadBuffer,
    pub(super) quota_bytes: Option<u64>,
    /// Set when the volume is deleted.
    pub(super) deleted: bool,
    record: Encoder,
}

impl Head {
    /// The head `member` of a volume, as the lineage has it, with its state.
    pub(super) fn grown(
        lineage: &Lineage,
        volume: VolumeId,
        member: MemberId,
        root: Root,
    ) -> Result<Self> {
        let ancestors = lineage.ancestor_epochs(member);
        let found = lineage.member(member).ok_or_else(|| unknown("member", member.0))?;
        Ok(Head {
            member,
            root,
            parent_epoch: ancestors.last().copied().unwrap_or_default(),
            ancestors,
            deadlist: found.record.deadlist,
            dead: DeadBuffer::default(),
            quota_bytes: lineage.volume(volume).and_then(|entry| entry.record.quota_bytes),
            deleted: false,
            record: Encoder::new(),
        })
    }
}

/// A volume of an open pool.
pub struct Volume {
    pub(super) pool: Arc<Pool>,
    pub(super) id: VolumeId,
    pub(super) head: RwLock<Head>,
    /// See [`Volume::change_promised`].
    promised_bytes: AtomicU64,
}

impl fmt::Debug for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the pool, which names its volumes.
        f.debug_struct("Volume")
            .field("id", &self.id)
            .field("head", &self.head)
            .finish_non_exhaustive()
    }
}

/// What `df` says of a volume.
#[derive(Debug, Clone, Copy)]
pub struct Space {
    /// Bytes that the volume could hold at most.
    pub total_bytes: u64,
    /// Bytes that can still be written.
    pub free_bytes: u64,
    /// Bytes that can still be written to all volumes together.
    pub pool_free_bytes: u64,
    /// Of the free bytes, those that have not been promised to writes that are still to come.
    pub unpromised_bytes: u64,
    /// It is the quota that lets no more be written, not the pool.
    pub limited_by_quota: bool,
    /// Bytes that its live state refers to.
    pub referenced_bytes: u64,
}

/// Blocks that were written (or set aside) and that nothing refers to yet; given back when dropped.
#[derive(Debug)]
pub struct Fresh {
    pool: Arc<Pool>,
    extent: Extent,
    /// What the operation's record carries of the data; empty unless asked for.
    content: Vec<u8>,
    armed: bool,
}

impl Fresh {
    /// Length in blocks, at most [`MAX_EXTENT_BLOCKS`].
    pub fn len_blocks(&self) -> u32 {
        self.extent.len_blocks
    }

    /// Splits it: the first `len_blocks`, fewer than there are, stay, and the others are returned.
    fn split_off(&mut self, len_blocks: u32) -> Fresh {
        let rest = self.extent.part(len_blocks, self.extent.len_blocks - len_blocks);
        self.extent = self.extent.part(0, len_blocks);
        let bytes = (len_blocks as usize * BLOCK_SIZE).min(self.content.len());
        let content = self.content.split_off(bytes);
        Fresh { pool: Arc::clone(&self.pool), extent: rest, content, armed: true }
    }

    fn commit(mut self) {
        self.armed = false;
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if self.armed {
            self.pool.space.lock().abandon_in_flight(self.extent.run());
        }
    }
}

impl Volume {
    pub(super) fn new(pool: Arc<Pool>, id: VolumeId, head: Head) -> Self {
        Volume { pool, id, head: RwLock::new(head), promised_bytes: AtomicU64::new(0) }
    }

    /// Its number.
    pub fn id(&self) -> VolumeId {
        self.id
    }

    /// Its name.
    pub fn name(&self) -> String {
        let lineage = self.pool.lineage.lock();
        lineage.volume(self.id).map(|entry| entry.record.name.clone()).unwrap_or_default()
    }

    /// The pool that it is in.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// The live state, to read from.
    pub fn source(self: &Arc<Self>) -> Source {
        Source::Head(Arc::clone(self))
    }

    /// Takes the volume for one operation: no other changes it, or reads it, until the update ends.
    ///
    /// The caller holds no [`ReadGuard`] of this volume. Fails with [`Error::NoSpace`] or [`Error::Quota`]
    /// when the operation needs room and only the reserve is left, and when the pool is read-only.
    pub fn update(&self, intent: Intent) -> Result<Update<'_>> {
        self.pool.throttle(intent)?;
        let gate = self.pool.gate.read();
        let head = self.head.write();
        if head.deleted {
            return Err(Error::Stale);
        }
        if let Some(quota) = head.quota_bytes {
            let referenced = bytes_of(head.root.referenced_blocks());
            let full = match intent {
                Intent::Grow => {
                    let promised = self.promised_bytes.load(Ordering::Relaxed);
                    referenced.saturating_add(promised) >= quota
                }
                Intent::Promised => referenced >= quota,
                Intent::Shrink => false,
            };
            if full {
                return Err(Error::Quota);
            }
        }
        Ok(Update {
            volume: self,
            head,
            _gate: gate,
            fresh: Vec::new(),
            contents: Vec::new(),
            result: None,
            together: Vec::new(),
        })
    }

    /// Writes file data to newly allocated blocks; `bytes` is a multiple of [`BLOCK_SIZE`] long.
    ///
    /// The data is in the host's page cache when this returns, and durable after
    /// [`Volume::sync_inode`] once it is mapped. No lock is held meanwhile.
    pub fn write_blocks(&self, bytes: &[u8], intent: Intent) -> Result<Vec<Fresh>> {
        assert!(bytes.len().is_multiple_of(BLOCK_SIZE), "whole blocks");
        let mut fresh = Vec::with_capacity(1);
        let mut rest = bytes;
        while !rest.is_empty() {
            let part =
                self.allocate((rest.len() / BLOCK_SIZE) as u64, ExtentKind::Written, intent)?;
            let (now, later) = rest.split_at(part.len_blocks() as usize * BLOCK_SIZE);
            let mut part = part;
            part.extent.checksums = now.chunks(BLOCK_SIZE).map(crc32c::crc32c).collect();
            let at = part.extent.addr.offset_bytes();
            self.pool.storage.data.write_at(at, now).map_err(Error::io("writing data"))?;
            fresh.push(part);
            rest = later;
        }
        Ok(fresh)
    }

    /// As [`Volume::write_blocks`], and returns the blocks in pieces of these lengths, which add up to the whole.
    pub fn write_pieces(
        &self,
        bytes: &[u8],
        pieces: impl Iterator<Item = u64>,
        intent: Intent,
    ) -> Result<Vec<Vec<Fresh>>> {
        let mut rest: VecDeque<Fresh> = self.write_blocks(bytes, intent)?.into();
        let take = |mut left: u64| {
            let mut piece = Vec::with_capacity(1);
            while left > 0 {
                let Some(mut fresh) = rest.pop_front() else { break };
                if u64::from(fresh.len_blocks()) > left {
                    rest.push_front(fresh.split_off(left as u32));
                }
                left -= u64::from(fresh.len_blocks());
                piece.push(fresh);
            }
            piece
        };
        Ok(pieces.map(take).collect())
    }

    /// As [`Volume::write_blocks`], for at most [`MAX_CONTENT_BYTES`] that the operation's record carries as
    /// well: a power cut that keeps the operation keeps them, fsynced or not.
    ///
    /// For blocks that take the place of something that was durable elsewhere, such as content in a leaf.
    pub fn write_blocks_journaled(&self, bytes: &[u8], intent: Intent) -> Result<Vec<Fresh>> {
        assert!(bytes.len() <= MAX_CONTENT_BYTES, "{} bytes for the journal", bytes.len());
        let mut fresh = self.write_blocks(bytes, intent)?;
        let mut rest = bytes;
        for part in &mut fresh {
            let (now, later) = rest.split_at(part.len_blocks() as usize * BLOCK_SIZE);
            part.content = now.to_vec();
            rest = later;
        }
        Ok(fresh)
    }

    /// Sets space aside for `blocks` blocks, which read as zeros.
    pub fn preallocate(&self, blocks: u64) -> Result<Vec<Fresh>> {
        let mut fresh = Vec::new();
        let mut left = blocks;
        while left > 0 {
            let part = self.allocate(left, ExtentKind::Preallocated, Intent::Grow)?;
            left -= u64::from(part.len_blocks());
            fresh.push(part);
        }
        Ok(fresh)
    }

    fn allocate(&self, want: u64, kind: ExtentKind, intent: Intent) -> Result<Fresh> {
        let run = self.pool.allocate_data(want.min(u64::from(MAX_EXTENT_BLOCKS)) as u32, intent)?;
        let extent = Extent {
            addr: run.start,
            birth: Epoch(0),
            len_blocks: run.len_blocks,
            kind,
            checksums: Vec::new(),
        };
        Ok(Fresh { pool: Arc::clone(&self.pool), extent, content: Vec::new(), armed: true })
    }

    /// Makes durable what was written to an inode, and every operation acknowledged so far.
    pub fn sync_inode(&self, ino: InodeNo) -> Result<()> {
        self.pool.sync_some(Some((self.id, ino)))
    }

    /// Says how many bytes somebody has promised to writes that are still to come ([`Intent::Promised`]), and had
    /// before: nothing else takes them, in this volume or another one of the pool, nor does a snapshot that would
    /// need them for copies.
    pub fn change_promised(&self, from_bytes: u64, to_bytes: u64) {
        let more = to_bytes.wrapping_sub(from_bytes);
        self.promised_bytes.fetch_add(more, Ordering::Relaxed);
        self.pool.promised_bytes.fetch_add(more, Ordering::Relaxed);
    }

    /// Bytes of the nodes of its live state: what a snapshot of it may lower what is free by.
    pub fn metadata_bytes(&self) -> u64 {
        self.head.read().root.tree.nodes.saturating_mul(NODE_SIZE as u64)
    }

    /// Whether anything is promised, to whichever volume of the pool.
    pub fn is_any_promised(&self) -> bool {
        self.pool.promised_bytes.load(Ordering::Relaxed) > 0
    }

    /// What `df` says.
    pub fn space(&self) -> Space {
        let (referenced, quota) = {
            let head = self.head.read();
            (bytes_of(head.root.referenced_blocks()), head.quota_bytes)
        };
        let status = self.pool.space_figures();
        let left = quota.map(|quota| quota.saturating_sub(referenced));
        let free_bytes = left.map_or(status.free_bytes, |left| left.min(status.free_bytes));
        let limited_by_quota = left.is_some_and(|left| left < status.free_bytes);
        let total_bytes = quota.unwrap_or(status.total_bytes).min(status.total_bytes);
        let promised = self.pool.promised_bytes.load(Ordering::Relaxed);
        let unpromised = status.free_bytes.saturating_sub(promised);
        let promised = self.promised_bytes.load(Ordering::Relaxed);
        let unpromised_bytes = unpromised.min(free_bytes.saturating_sub(promised));
        Space {
            total_bytes,
            free_bytes,
            pool_free_bytes: status.free_bytes,
            unpromised_bytes,
            limited_by_quota,
            referenced_bytes: referenced,
        }
    }

    pub(super) fn read(&self) -> Result<ReadGuard<'_>> {
        let head = self.head.read();
        if head.deleted { Err(Error::Stale) } else { Ok(ReadGuard::head(&self.pool.cache, head)) }
    }
}

/// One operation on a volume: reads see the state, [`Update::commit`] changes it.
///
/// Locks held: the pool's gate, shared, and the head, exclusively.
#[derive(Debug)]
pub struct Update<'a> {
    volume: &'a Volume,
    head: RwLockWriteGuard<'a, Head>,
    _gate: RwLockReadGuard<'a, ()>,
    fresh: Vec<Fresh>,
    contents: Vec<Edit>,
    /// Of the request that the commit completes.
    result: Option<u64>,
    /// Of requests that it completes together.
    together: Vec<Answer>,
}

impl Update<'_> {
    /// Reads the state as it is before the operation.
    pub fn reader(&self) -> Reader<'_> {
        Reader::new(&self.head.root.tree, &self.volume.pool.cache)
    }

    /// Reads a file's blocks as they are before the operation; as [`Source::read_file`].
    pub fn read_file(&self, ino: InodeNo, first_block: u64, buf: &mut [u8]) -> Result<()> {
        let blocks = (buf.len() / BLOCK_SIZE) as u64;
        let parts = super::source::file_parts(&self.reader(), ino, first_block, blocks)?;
        self.volume.pool.read_parts(ino, first_block, &parts, buf)
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        self.volume.pool.options.clock.now()
    }

    /// Returns an inode number that was never used in this volume.
    pub fn allocate_inode(&mut self) -> Result<InodeNo> {
        let next = self.head.root.next_inode;
        if next > MAX_INODE {
            return Err(Error::Limit("all inode numbers of the volume are used up".into()));
        }
        self.head.root.next_inode = next + 1;
        Ok(InodeNo(next))
    }

    /// Returns the edit that maps freshly written blocks; they are given back if the update is not committed.
    pub fn map(&mut self, ino: InodeNo, block: u64, fresh: Fresh) -> Edit {
        let mut fresh = fresh;
        let extent = fresh.extent.clone();
        if !fresh.content.is_empty() {
            let bytes = std::mem::take(&mut fresh.content);
            self.contents.push(Edit::Content { addr: extent.addr, bytes });
        }
        self.fresh.push(fresh);
        Edit::Map { ino, block, extent, shared: false }
    }

    /// Says that the commit completes the request that this thread carries out, if any, and what its reply
    /// is made of: see [`Answer::result`].
    pub fn completes(&mut self, result: u64) {
        self.result = Some(result);
    }

    /// Says that the commit completes all of these requests: see [`Pool::carry_out_together`].
    pub fn completes_together(&mut self, answers: &[Answer]) {
        self.together.extend_from_slice(answers);
    }

    /// Makes the changes: atomic, and acknowledged when this returns, so that they survive this process.
    ///
    /// On an error nothing has changed, unless the pool has gone read-only.
    pub fn commit(mut self, mut edits: Vec<Edit>) -> Result<()> {
        let pool = &self.volume.pool;
        let changing = pool.changing();
        let epoch = pool.epoch();
        set_births(&mut edits, epoch)?;
        edits.append(&mut self.contents);
        let head = &mut *self.head;
        let mut store = HeadStore { refusable: true, ..HeadStore::new(pool, epoch) };
        let mut apply = Apply { root: &mut head.root, store: &mut store, dropped: Vec::new() };
        let prepared = edits.iter().try_for_each(|edit| apply.prepare(edit));
        let prepared = prepared.map_err(Error::from).and_then(|()| {
            store.refusable = false;
            pool.check_room_for_splits(&edits, head.root.tree.level)?;
            head.record.0.clear();
            let completed = self.result.zip(answers::current());
            let completed = completed.map(|(result, request)| Answer { request, result });
            let together = std::mem::take(&mut self.together);
            let answers = if together.is_empty() { completed.as_slice() } else { &together };
            encode_answers(answers, &mut head.record);
            encode_commit(self.volume.id, &edits, &mut head.record);
            let seq = pool.journal.append(&head.record.0)?;
            completed.into_iter().for_each(|answer| pool.answers.completed(answer));
            pool.answers.completed_together(&together);
            Ok(seq)
        });
        let applied = prepared.as_ref().is_ok().then(|| {
            let mut dropped = Vec::new();
            let applied = pool.apply_edits(&edits, &mut head.root, &mut store, &mut dropped);
            pool.drop_references(head.parent_epoch, &head.ancestors, &dropped, &mut head.dead);
            applied
        });
        let retired = std::mem::take(&mut store.retired);
        // Even an operation that fails may have moved nodes: the next checkpoint gives the old ones back.
        pool.changed.store(true, Ordering::Relaxed);
        pool.drop_nodes(head.parent_epoch, &head.ancestors, &retired, &mut head.dead);
        let seq = prepared?;
        if let Some(Err(error)) = applied {
            return Err(pool.fail("applying an operation that is in the journal", error));
        }
        self.finish(&edits);
        drop(changing);
        let pool = Arc::clone(&self.volume.pool);
        drop(self);
        pool.journal.write_out(seq).map_err(|error| pool.fail("writing the journal", error.into()))
    }

    /// After the changes are made: the new blocks are referenced, and gathered dead references handed on.
    fn finish(&mut self, edits: &[Edit]) {
        let pool = &self.volume.pool;
        for edit in edits {
            match edit {
                Edit::Map { ino, shared: true, .. } => {
                    pool.unsynced.add_shared((self.volume.id, *ino));
                }
                Edit::Map { ino, extent, .. } if extent.kind == ExtentKind::Written => {
                    pool.unsynced.add((self.volume.id, *ino), extent.run());
                }
                _ => {}
            }
        }
        if !self.fresh.is_empty() {
            let mut space = pool.space.lock();
            for fresh in &self.fresh {
                space.commit_in_flight(fresh.extent.run());
            }
            drop(space);
            self.fresh.drain(..).for_each(Fresh::commit);
        }
        if self.head.dead.len() >= MAX_DEAD_BUFFER {
            let dead = std::mem::take(&mut self.head.dead);
            let mut lineage = pool.lineage.lock();
            lineage.buffer_dead(self.head.deadlist, dead);
            if let Err(error) = lineage.flush_dead(&mut CatalogStore { pool }) {
                drop(lineage);
                pool.fail("recording dead references", error.into());
            }
        }
    }
}

/// New references are born now; an edit that the format can't hold is refused here.
fn set_births(edits: &mut [Edit], epoch: Epoch) -> Result<()> {
    for edit in edits {
        if let Edit::Map { block, extent, .. } = edit {
            if *block > MAX_SUB - u64::from(MAX_EXTENT_BLOCKS) {
                return Err(Error::Limit("the file would be too large".into()));
            }
            extent.birth = epoch;
        }
    }
    Ok(())
}

impl Pool {
    /// Applies edits to a state, and raises the number of the next inode above those that they put.
    pub(super) fn apply_edits(
        &self,
        edits: &[Edit],
        root: &mut Root,
        store: &mut HeadStore<'_>,
        dropped: &mut Vec<DeadRef>,
    ) -> Result<()> {
        root.next_inode = root.next_inode.max(Record::max_inode(edits).0 + 1);
        let mut apply = Apply { root, store, dropped: Vec::new() };
        for edit in edits {
            if let Edit::Map { extent, shared: true, .. } = edit {
                self.lineage.lock().share(extent.run(), &mut CatalogStore { pool: self })?;
                self.has_shared.store(true, Ordering::Relaxed);
            }
            apply.apply(edit)?;
        }
        *dropped = apply.dropped;
        Ok(())
    }

    /// Frees dropped references that were the head's alone; the others go on its deadlist.
    pub(super) fn drop_references(
        &self,
        parent_epoch: Epoch,
        ancestors: &[Epoch],
        dropped: &[DeadRef],
        dead: &mut DeadBuffer,
    ) {
        let (alone, kept): (Vec<DeadRef>, Vec<DeadRef>) =
            dropped.iter().partition(|dropped| dropped.birth > parent_epoch);
        for dropped in kept {
            dead.push(bucket(ancestors, dropped.birth), dropped);
        }
        if !alone.is_empty() {
            let runs: Vec<Run> = alone.iter().map(|dropped| dropped.run).collect();
            self.free_data(&runs);
        }
    }

    pub(super) fn drop_nodes(
        &self,
        parent_epoch: Epoch,
        ancestors: &[Epoch],
        retired: &[(crate::format::BlockNo, Epoch)],
        dead: &mut DeadBuffer,
    ) {
        let mut alone = Vec::new();
        for (addr, birth) in retired {
            let run = Run::new(*addr, NODE_BLOCKS);
            if *birth > parent_epoch {
                alone.push(run);
            } else {
                dead.push(bucket(ancestors, *birth), DeadRef { run, birth: *birth });
            }
        }
        if !alone.is_empty() {
            self.free_runs(&alone);
        }
    }

    /// Takes one reference from data blocks, and frees those that had no other.
    pub(super) fn free_data(&self, runs: &[Run]) {
        if !self.has_shared.load(Ordering::Relaxed) {
            return self.free_runs(runs);
        }
        let mut free = Vec::new();
        let mut lineage = self.lineage.lock();
        for run in runs {
            match lineage.unshare(*run, &mut CatalogStore { pool: self }) {
                Ok(parts) => free.extend(parts),
                Err(error) => {
                    drop(lineage);
                    self.fail("lowering a shared count", error.into());
                    return;
                }
            }
        }
        drop(lineage);
        self.free_runs(&free);
    }

    /// Frees blocks: they can be allocated again after the next checkpoint.
    pub(super) fn free_runs(&self, runs: &[Run]) {
        let mut space = self.space.lock();
        for run in runs {
            if let Err(error) = space.free(*run) {
                drop(space);
                let why = format!("freeing {} blocks at {}: {error}", run.len_blocks, run.start);
                self.fail("freeing blocks", Error::Corrupt(why));
                return;
            }
        }
    }
}
