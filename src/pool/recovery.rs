//! Making a pool, and opening one: the last checkpoint, then the journal.
//!
//! Opening reads a superblock slot and makes it durable, reads the roots and the space map of its checkpoint,
//! and the catalog's tables; then it replays the journal in two passes. The first puts copies of file data that an fsync left in the
//! journal back in their places, and reserves the blocks of every extent that a record maps, so that no node
//! made by the replay takes one. The second carries the records out in order.
//!
//! A block of a mapped extent that does not have its checksum was written shortly before a power cut and never
//! fsynced: it counts as not written, and what was there before stays. Everything else is carried out as it
//! was acknowledged. Nothing is written over what the checkpoint refers to, so a crash during replay leads to
//! the same replay.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::checkpoint::{CATALOG, CheckpointState, write_superblock};
use super::extents::{Apply, invalid_parts};
use super::space::clean_bytes;
use super::store::{HeadStore, NO_EPOCH};
use super::volume::Head;
use super::volumes::unknown;
use super::{CreateOptions, Error, OpenOptions, Pool, Result};
use crate::btree::{self, Load, Reader, Store, Tree};
use crate::cache::{self, Child, Node, NodeCache};
use crate::device::{BlockDevice, Storage};
use crate::format::{
    BLOCK_SIZE, BlockNo, Edit, Entry, Epoch, Extent, FIRST_OBJECT, Hash, Key, MAX_BLOCKS, MemberId,
    MemberKind, NodePtr, Record, RegionImage, RootRecord, SLOT_OFFSETS, SLOT_SIZE,
    SUPERBLOCK_BYTES, Seq, SlotError, Superblock, VolumeId,
};
use crate::journal::{Journal, Position};
use crate::snapshot::{self, Lineage, Root};
use crate::space::{MAX_TOTAL_BLOCKS, SpaceMap};
use crate::threads::{AtomicBool, AtomicU64, Mutex, RwLock};

/// Smallest pool: the reserve and a few trees.
const MIN_BLOCKS: u64 = (8 << 20) / BLOCK_SIZE as u64;
/// Largest size that is taken from the host unasked: 64 TiB.
const MAX_DEFAULT_BLOCKS: u64 = (64 << 40) / BLOCK_SIZE as u64;

impl Pool {
    /// Makes a pool on empty devices, and opens it. There is no volume in it yet.
    pub fn create(
        storage: Storage,
        create: &CreateOptions,
        open: OpenOptions,
    ) -> Result<Arc<Pool>> {
        let total_blocks = match create.size_bytes {
            Some(bytes) => bytes / BLOCK_SIZE as u64,
            None => {
                let host = storage.data.available_bytes().map_err(Error::io("asking for space"))?;
                (host / BLOCK_SIZE as u64).min(MAX_DEFAULT_BLOCKS)
            }
        };
        if !(MIN_BLOCKS..=MAX_TOTAL_BLOCKS).contains(&total_blocks) {
            let bytes = total_blocks.saturating_mul(BLOCK_SIZE as u64);
            return Err(Error::Limit(format!("a pool can't have {bytes} bytes")));
        }
        storage.superblock.grow(SUPERBLOCK_BYTES).map_err(Error::io("making the superblock"))?;
        let tail = Journal::format(&*storage.journal, create.journal_bytes)?;
        let superblock = Superblock {
            uuid: create.uuid,
            seed: create.seed,
            generation: 0,
            total_blocks,
            journal_bytes: create.journal_bytes,
            tail_offset: tail.offset,
            tail_seq: tail.seq.0,
            tail_chain: tail.chain,
            epoch: Epoch(1),
            next_member: 1,
            next_volume: 1,
            next_object: FIRST_OBJECT,
            created: open.clock.now(),
            root: RootRecord {
                ptr: NodePtr { addr: BlockNo(0), birth: NO_EPOCH, hash: Hash::default() },
                level: 0,
                nodes: 0,
                data_blocks: 0,
                next_inode: 0,
            },
        };
        let space = SpaceMap::new(total_blocks);
        let mut first = FirstNodes { space };
        let tree = Tree::new(&mut first)?;
        let lineage = Lineage::new(Tree::new(&mut first)?);
        let pool = Pool::assemble(storage, open, superblock, first.space, tree, lineage)?.0;
        pool.changed.store(true, Ordering::Relaxed);
        pool.grow_to(1)?;
        pool.checkpoint()?;
        pool.start_background()?;
        Ok(pool)
    }

    /// Opens a pool: its last checkpoint, and what the journal says happened since.
    pub fn open(storage: Storage, open: OpenOptions) -> Result<Arc<Pool>> {
        let superblock = read_superblock(&*storage.superblock)?;
        let cache = NodeCache::new(Arc::clone(&storage.data), open.cache_bytes);
        let tree = stored_tree(&superblock.root);
        let space = load_space(&tree, &cache, superblock.total_blocks);
        let space = space.map_err(within("checkpoint tree"))?;
        let lineage = load_lineage(&tree, &cache, &superblock)?;
        drop(cache);
        check_journal_length(&*storage.journal, &superblock)?;
        // A process that died may have left this slot in the host's page cache only. It must be on disk before
        // anything is written over what the older one refers to.
        write_superblock(&*storage.superblock, &superblock)?;
        let (pool, records) = Pool::assemble(storage, open, superblock, space, tree, lineage)?;
        pool.open_heads()?;
        match pool.replay(records) {
            Err(error @ (Error::Corrupt(_) | Error::NoSpace)) => {
                // Everything up to the record that can't be carried out is there to be read, and the journal
                // stays as it is.
                pool.fail("replaying the journal", error);
            }
            other => other?,
        }
        pool.count_shared_nodes();
        pool.start_background()?;
        Ok(pool)
    }

    fn assemble(
        storage: Storage,
        options: OpenOptions,
        superblock: Superblock,
        space: SpaceMap,
        tree: Tree,
        lineage: Lineage,
    ) -> Result<(Arc<Pool>, crate::journal::Records)> {
        let tail = Position {
            offset: superblock.tail_offset,
            seq: Seq(superblock.tail_seq),
            chain: superblock.tail_chain,
        };
        let mut salt = [0; 16];
        salt.copy_from_slice(&superblock.seed[..16]);
        let device = Arc::clone(&storage.journal);
        let (journal, records) = Journal::open(device, salt, options.nonce, tail)?;
        let grown = storage.data.len_bytes().map_err(Error::io("measuring the data file"))?;
        let pool = Pool {
            cache: NodeCache::new(Arc::clone(&storage.data), clean_bytes(options.cache_bytes)),
            options,
            uuid: superblock.uuid,
            seed: superblock.seed,
            created: superblock.created,
            journal,
            gate: RwLock::new(()),
            readers: RwLock::new(()),
            volumes: RwLock::new(BTreeMap::new()),
            has_shared: AtomicBool::new(lineage.has_shared()),
            lineage: Mutex::new(lineage),
            space: Mutex::new(space),
            views: Mutex::default(),
            unsynced: Default::default(),
            answers: Default::default(),
            epoch: AtomicU64::new(superblock.epoch.0),
            generation: AtomicU64::new(superblock.generation),
            checkpointing: Mutex::new(CheckpointState { tree, superblock }),
            changed: AtomicBool::new(false),
            dirty_nodes: AtomicU64::new(0),
            shared_nodes: AtomicU64::new(0),
            promised_bytes: AtomicU64::new(0),
            grown_blocks: Mutex::new(grown / BLOCK_SIZE as u64),
            failure: Mutex::new(None),
            background: Default::default(),
            scrub: Default::default(),
            storage,
        };
        Ok((Arc::new(pool), records))
    }

    /// Takes the heads' states out of the lineage.
    fn open_heads(self: &Arc<Self>) -> Result<()> {
        let mut lineage = self.lineage.lock();
        let heads: Vec<(VolumeId, MemberId)> = lineage
            .members()
            .filter(|(_, member)| member.record.kind == MemberKind::Head)
            .map(|(id, member)| (member.record.volume, id))
            .collect();
        let mut opened = Vec::new();
        for (volume, head) in heads {
            let root = lineage.take_root(head).ok_or_else(|| unknown("root of member", head.0))?;
            opened.push((volume, Head::grown(&lineage, volume, head, root)?));
        }
        drop(lineage);
        for (volume, head) in opened {
            self.add_volume(volume, head);
        }
        Ok(())
    }

    fn replay(self: &Arc<Self>, records: crate::journal::Records) -> Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let count = records.len();
        let mut decoded = Vec::with_capacity(count);
        let mut answers = Vec::new();
        let mut mapped = Mapped::default();
        for (seq, payload) in records {
            let entry = Entry::decode(&payload);
            let entry = entry.map_err(|e| Error::Corrupt(format!("journal record {seq}: {e}")))?;
            if self.options.keep_answers {
                answers.extend(entry.answers);
            }
            if let Some(record) = entry.record {
                self.prepare_replay(&record, &mut mapped)?;
                decoded.push(record);
            }
        }
        self.answers.found(&answers);
        let mut lost = Lost::new();
        for record in &decoded {
            match record {
                Record::Commit { volume, edits } => {
                    self.replay_commit(*volume, edits, &mut lost)?;
                }
                other => self.apply_lineage(other)?,
            }
        }
        // What these records map is not noted as unsynced: an fsync to come must be able to rely on it.
        self.storage.data.sync().map_err(Error::io("syncing data"))?;
        self.changed.store(true, Ordering::Relaxed);
        tracing::info!("replayed {count} records of the journal");
        Ok(())
    }

    /// The first pass over a record: copies go to their places, mapped blocks are reserved.
    fn prepare_replay(&self, record: &Record, mapped: &mut Mapped) -> Result<()> {
        if let Record::Copy { addr, bytes } = record {
            self.replay_content(*addr, bytes, mapped)?;
        }
        for edit in record.edits() {
            match edit {
                Edit::Content { addr, bytes } => self.replay_content(*addr, bytes, mapped)?,
                Edit::Map { extent, shared: false, .. } => {
                    let reserved = self.space.lock().reserve(extent.run());
                    reserved.map_err(|e| Error::Corrupt(format!("a journal record maps {e}")))?;
                    self.grow_to(extent.run().end())?;
                    mapped.0.insert(extent.addr.0, extent.run().end());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Puts file data from the journal in its place, which a record of this tail has mapped: anything else
    /// may be what the checkpoint refers to.
    fn replay_content(&self, addr: BlockNo, bytes: &[u8], mapped: &Mapped) -> Result<()> {
        let blocks = (bytes.len() / BLOCK_SIZE) as u64;
        if !mapped.covers(addr.0, addr.0 + blocks) {
            let why = format!(
                "the journal has content for {blocks} blocks at {addr}, and maps none there"
            );
            return Err(Error::Corrupt(why));
        }
        let written = self.storage.data.write_urgently(addr.offset_bytes(), bytes);
        written.map_err(Error::io("writing data"))
    }

    fn replay_commit(&self, volume: VolumeId, edits: &[Edit], lost: &mut Lost) -> Result<()> {
        let volume = self.volume_by_id(volume)?;
        let mut edits_now = Vec::with_capacity(edits.len());
        for edit in edits {
            let Edit::Map { ino, block, extent, shared } = edit else {
                edits_now.push(edit.clone());
                continue;
            };
            if !shared {
                let mut read = |at, buf: &mut [u8]| self.storage.data.read_at(at, buf);
                let gone = invalid_parts(extent, &mut read);
                lost.extend(gone.iter().map(|run| (run.start.0, run.end())));
                self.free_runs(&gone);
            }
            for (skip, extent) in parts_left(extent, lost) {
                let (ino, block) = (*ino, block + u64::from(skip));
                edits_now.push(Edit::Map { ino, block, extent, shared: *shared });
            }
        }
        let mut head = volume.head.write();
        let head = &mut *head;
        let mut store = HeadStore::new(self, self.epoch());
        // What can't be read shows here: a record is carried out whole or not at all.
        let mut apply = Apply { root: &mut head.root, store: &mut store, dropped: Vec::new() };
        edits_now.iter().try_for_each(|edit| apply.prepare(edit))?;
        let mut dropped = Vec::new();
        self.apply_edits(&edits_now, &mut head.root, &mut store, &mut dropped)?;
        self.drop_references(head.parent_epoch, &head.ancestors, &dropped, &mut head.dead);
        self.drop_nodes(head.parent_epoch, &head.ancestors, &store.retired, &mut head.dead);
        Ok(())
    }
}

/// Blocks that the journal's records map, as start and end of ranges that don't overlap.
#[derive(Default)]
struct Mapped(BTreeMap<u64, u64>);

impl Mapped {
    fn covers(&self, start: u64, end: u64) -> bool {
        let mut at = start;
        while at < end {
            match self.0.range(..=at).next_back() {
                Some((_, to)) if *to > at => at = *to,
                _ => return false,
            }
        }
        true
    }
}

/// Blocks of mapped extents that a power cut kept from the disk, as start and end of ranges. What shares them
/// has lost them too.
type Lost = BTreeMap<u64, u64>;

/// Returns what is left of an extent without the lost blocks, each part with its offset in the extent.
fn parts_left(extent: &Extent, lost: &Lost) -> Vec<(u32, Extent)> {
    let (start, end) = (extent.addr.0, extent.run().end());
    let mut parts = Vec::new();
    let mut at = start;
    let mut push = |from: u64, to: u64| {
        if from < to {
            let skip = (from - start) as u32;
            parts.push((skip, extent.part(skip, (to - from) as u32)));
        }
    };
    let before = lost.range(..start).next_back().filter(|(_, to)| **to > start);
    for (from, to) in before.into_iter().chain(lost.range(start..end)) {
        push(at, (*from).max(start));
        at = (*to).min(end);
    }
    push(at, end);
    parts
}

/// Nodes of a pool that is being made: only in memory.
struct FirstNodes {
    space: SpaceMap,
}

impl Load for FirstNodes {
    fn load(&self, child: &Child, _level: u8) -> std::result::Result<Arc<Node>, cache::Error> {
        child.node.clone().ok_or(cache::Error::Hash { addr: child.addr })
    }
}

impl Store for FirstNodes {
    fn epoch(&self) -> Epoch {
        NO_EPOCH
    }
    fn allocate(&mut self) -> std::result::Result<BlockNo, btree::Error> {
        self.space.allocate_node().ok_or(btree::Error::NoSpace)
    }
    fn retire(&mut self, _addr: BlockNo, _birth: Epoch) {}
}

/// Where the journal ends is where it goes on at its beginning: another length would hide records.
fn check_journal_length(journal: &dyn BlockDevice, superblock: &Superblock) -> Result<()> {
    let found = journal.len_bytes().map_err(Error::io("measuring the journal"))?;
    let expected = superblock.journal_bytes;
    if found == expected {
        return Ok(());
    }
    Err(Error::Corrupt(format!("the journal has {found} bytes, and must have {expected}")))
}

/// Returns the valid slot with the higher generation.
///
/// A slot that is whole, and of a version or with features that are not known here, counts as newer than any
/// other: the state that the other slot leads to is one that a newer program has gone on from.
pub(crate) fn read_superblock(device: &dyn BlockDevice) -> Result<Superblock> {
    let mut best: Option<Superblock> = None;
    let mut worst = SlotError::Magic;
    let mut unread = None;
    for (slot, offset) in SLOT_OFFSETS.into_iter().enumerate() {
        let mut bytes = vec![0; SLOT_SIZE];
        if let Err(error) = device.read_at(offset, &mut bytes) {
            tracing::warn!("superblock slot {slot}: {error}");
            unread = Some(Error::io("reading the superblock")(error));
            continue;
        }
        match Superblock::decode(&bytes) {
            Ok(found) => {
                if best.as_ref().is_none_or(|best| best.generation < found.generation) {
                    best = Some(found);
                }
            }
            Err(error @ SlotError::Unsupported { .. }) => return Err(Error::Superblock(error)),
            Err(error) => {
                tracing::warn!("superblock slot {slot}: {error}");
                if worst == SlotError::Magic {
                    worst = error;
                }
            }
        }
    }
    best.filter(|found| found.total_blocks <= MAX_TOTAL_BLOCKS.min(MAX_BLOCKS))
        .ok_or(unread.unwrap_or(Error::Superblock(worst)))
}

pub(crate) fn stored_tree(record: &RootRecord) -> Tree {
    Tree::stored(record.ptr, record.level, record.nodes)
}

/// Says in what damage was found that keeps a pool from being opened.
fn within(what: &'static str) -> impl Fn(Error) -> Error {
    move |error| match error {
        Error::Corrupt(why) => Error::Corrupt(format!("its {what}: {why}")),
        other => other,
    }
}

fn load_space(tree: &Tree, load: &dyn Load, total_blocks: u64) -> Result<SpaceMap> {
    let mut space = SpaceMap::new(total_blocks);
    let mut bad = None;
    let (from, to) = (Key::region(0), Key::region(u32::MAX));
    Reader::new(tree, load).range(from, to, &mut |key, value| {
        let image = RegionImage::decode(value).map_err(Error::from);
        let loaded = image.and_then(|image| {
            let region = u32::try_from(key.sub()).unwrap_or(u32::MAX);
            space.load_region(region, &image).map_err(|e| Error::Corrupt(e.to_string()))
        });
        match loaded {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                bad = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    bad.map_or(Ok(space), Err)
}

fn load_lineage(tree: &Tree, load: &dyn Load, superblock: &Superblock) -> Result<Lineage> {
    let mut root_of = |id: MemberId| -> std::result::Result<Root, snapshot::Error> {
        let record = Reader::new(tree, load).get(Key::root(id), RootRecord::decode)?;
        let record = record.ok_or_else(|| {
            snapshot::Error::Missing(format!("the root of member {id} is missing"))
        })??;
        Ok(Root {
            tree: stored_tree(&record),
            data_blocks: record.data_blocks,
            next_inode: record.next_inode,
        })
    };
    let catalog = root_of(CATALOG).map_err(|error| within("checkpoint tree")(error.into()))?.tree;
    let lineage = Lineage::load(catalog, load, &mut root_of);
    let mut lineage = lineage.map_err(|error| within("catalog and its roots")(error.into()))?;
    lineage.next_member = superblock.next_member;
    lineage.next_volume = superblock.next_volume;
    lineage.next_object = superblock.next_object;
    Ok(lineage)
}
