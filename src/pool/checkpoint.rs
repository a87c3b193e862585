//! Checkpoints: the whole pool durable and consistent in place, while operations go on.
//!
//! 1. *Freeze*, with the gate closed: gathered dead references go into the catalog, every changed root is
//!    cloned, the space map's images are taken, the journal's position is noted. No I/O.
//! 2. *Write*, with the gate open: all dirty nodes of the frozen trees, then the checkpoint tree with the new
//!    roots and the space map. All go to blocks that the previous checkpoint says are free.
//! 3. *Sync* the data file, then write one superblock slot and sync it: this is the instant at which the new
//!    checkpoint counts. Then the other slot, so that either alone leads to the current state.
//! 4. *Release*: written nodes become clean, blocks freed before the freeze are punched out and can be
//!    allocated again, the journal before the noted position can be written over.
//!
//! A crash before the end of 3 finds the previous checkpoint whole, with its journal; after it, the new one.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Weak;
use std::sync::atomic::Ordering;

use super::store::{CatalogStore, CheckpointStore};
use super::{Error, Pool, Result};
use crate::btree::{Reader, Tree, Writeback, sweep, write_dirty};
use crate::device::BlockDevice;
use crate::format::{
    BLOCK_SIZE, Epoch, Key, MemberId, REGION_BLOCKS, RegionImage, RootRecord, Run, SLOT_OFFSETS,
    Seq, Superblock, region_of,
};
use crate::journal::Position;
use crate::snapshot::Root;
use crate::space::Batch;
use crate::threads::{Planted, planted};

/// Member number under which the catalog's root is stored.
pub(super) const CATALOG: MemberId = MemberId(0);

/// What a checkpoint owns alone: the checkpoint tree and the last superblock.
#[derive(Debug)]
pub(super) struct CheckpointState {
    pub(super) tree: Tree,
    pub(super) superblock: Superblock,
}

/// Images taken, and freed runs released, under one hold of the space map's lock: a fraction of a
/// millisecond.
const BATCH_IMAGES: usize = 64;
const BATCH_RUNS: usize = 1000;

/// The pool at the instant of a freeze.
struct Freeze {
    roots: Vec<(MemberId, Root)>,
    gone: Vec<MemberId>,
    /// Of the space map.
    generation: u64,
    tail: Position,
    /// Last record of those right behind the tail that keep answers.
    kept: Seq,
    epoch: Epoch,
    next: (u64, u64, u64),
    unsynced: u64,
}

impl Pool {
    /// Makes the whole pool durable in place; does nothing when nothing has changed.
    pub fn checkpoint(&self) -> Result<()> {
        self.checkpoint_if(&|| true)
    }

    /// Makes a checkpoint if there are changes and `due` still says so once it is this one's turn.
    pub(super) fn checkpoint_if(&self, due: &dyn Fn() -> bool) -> Result<()> {
        let mut state = self.checkpointing.lock();
        self.check_failed()?;
        if !self.changed.load(Ordering::Relaxed) || !due() {
            return Ok(());
        }
        let _changing = self.changing();
        let done = self.freeze().and_then(|freeze| self.write_checkpoint(&mut state, freeze));
        done.map_err(|error| self.fail("writing a checkpoint", error))
    }

    fn freeze(&self) -> Result<Freeze> {
        let mut gate = Some(self.gate.write());
        // What failed while this waited may have left half a change.
        self.check_failed()?;
        self.changed.store(false, Ordering::Relaxed);
        let mut roots = Vec::new();
        let mut dead = Vec::new();
        for volume in self.volumes.read().values() {
            let mut head = volume.head.write();
            dead.push((head.deadlist, std::mem::take(&mut head.dead)));
            roots.push((head.member, head.root.clone()));
        }
        if planted(Planted::FreezeInTwoSteps) {
            drop(gate.take());
        }
        self.count_shared_nodes();
        let mut lineage = self.lineage.lock();
        for (deadlist, dead) in dead {
            lineage.buffer_dead(deadlist, dead);
        }
        lineage.flush_dead(&mut CatalogStore { pool: self })?;
        for id in std::mem::take(&mut lineage.unstored) {
            roots.extend(lineage.member(id).and_then(|m| Some((id, m.root.clone()?))));
        }
        let catalog = Root { tree: lineage.tree.clone(), data_blocks: 0, next_inode: 0 };
        roots.push((CATALOG, catalog));
        let tail = self.journal.position();
        self.keep_answers();
        self.dirty_nodes.store(0, Ordering::Relaxed);
        Ok(Freeze {
            roots,
            gone: std::mem::take(&mut lineage.gone).into_iter().collect(),
            generation: self.space.lock().begin_freeze(),
            tail,
            kept: self.journal.last_seq(),
            epoch: self.epoch(),
            next: (lineage.next_member, lineage.next_volume, lineage.next_object),
            unsynced: self.unsynced.freeze(),
        })
    }

    fn write_checkpoint(&self, state: &mut CheckpointState, freeze: Freeze) -> Result<()> {
        let data = &*self.storage.data;
        let mut out = Writeback::new(data);
        let images = self.take_images();
        for (_, root) in &freeze.roots {
            write_dirty(&root.tree.root, &mut out).map_err(Error::io("writing nodes"))?;
        }
        // Records before the tail have been acknowledged or are about to be: none is left out. The answers
        // behind it must outlive this process once those are given up.
        self.journal.write_out(freeze.kept)?;
        let generation = freeze.generation;
        let mut store = CheckpointStore { pool: self, generation, changes: Vec::new() };
        store_roots(&mut state.tree, &mut store, &freeze)?;
        store_regions(&mut state.tree, &mut store, images)?;
        write_dirty(&state.tree.root, &mut out).map_err(Error::io("writing nodes"))?;
        out.flush().map_err(Error::io("writing nodes"))?;
        data.sync().map_err(Error::io("syncing data"))?;

        let mut superblock = state.superblock.clone();
        superblock.generation += 1;
        superblock.tail_offset = freeze.tail.offset;
        superblock.tail_seq = freeze.tail.seq.0;
        superblock.tail_chain = freeze.tail.chain;
        superblock.epoch = freeze.epoch;
        (superblock.next_member, superblock.next_volume, superblock.next_object) = freeze.next;
        superblock.root =
            stored_root(&Root { tree: state.tree.clone(), data_blocks: 0, next_inode: 0 })?;
        if planted(Planted::ReleaseBeforeSuperblock) {
            self.release(generation);
        }
        write_superblock(&*self.storage.superblock, &superblock)?;
        self.generation.store(superblock.generation, Ordering::Relaxed);
        state.superblock = superblock;
        sweep(&mut state.tree.root, &self.cache);

        let members: Vec<_> = freeze.roots.iter().map(|(id, _)| *id).collect();
        // The frozen clones go first: nodes that only they share are then swept too.
        drop(freeze.roots);
        self.sweep_members(&members);
        self.unsynced.synced(freeze.unsynced);
        self.release(generation);
        self.journal.release(freeze.tail);
        Ok(())
    }

    fn sweep_members(&self, members: &[MemberId]) {
        let volumes: Vec<_> = self.volumes.read().values().cloned().collect();
        for volume in volumes {
            sweep(&mut volume.head.write().root.tree.root, &self.cache);
        }
        let mut viewed = Vec::new();
        let mut lineage = self.lineage.lock();
        sweep(&mut lineage.tree.root, &self.cache);
        for id in members {
            let Some(root) = lineage.root_mut(*id) else { continue };
            sweep(&mut root.tree.root, &self.cache);
            let view = self.views.lock().get(id).and_then(Weak::upgrade);
            viewed.extend(view.map(|view| (view, root.tree.clone())));
        }
        drop(lineage);
        for (view, swept) in viewed {
            view.refresh_tree(swept);
        }
    }

    /// Gives back what was freed before the freeze.
    fn release(&self, generation: u64) {
        // Whoever began to read before now may still read blocks that are to be given back.
        if !planted(Planted::ReadersNotAwaited) {
            drop(self.readers.write());
        }
        loop {
            let batch = self.space.lock().next_batch(generation, BATCH_RUNS);
            let Some(batch) = batch else { return };
            self.punch(batch);
        }
    }

    /// Punches a batch's chunks out and makes its blocks free; false when the host could not take them back.
    fn punch(&self, batch: Batch) -> bool {
        let punched = batch
            .chunks
            .iter()
            .try_for_each(|run| self.storage.data.punch(run.start.offset_bytes(), run_bytes(*run)));
        if let Err(error) = &punched {
            // Nothing is read out of free blocks: the host merely does not get these back yet. One that is
            // full can fail so.
            tracing::warn!("freed blocks stay with the pool: {error}");
        }
        self.space.lock().release_batch(batch);
        punched.is_ok()
    }

    /// Gives the host some of the small pieces back that a release leaves; false when there are none.
    pub(super) fn trim_some(&self) -> bool {
        let batch = self.space.lock().next_trim(BATCH_RUNS);
        batch.is_some_and(|batch| self.punch(batch))
    }

    /// Returns the images of the last freeze, with pauses in which others get at the space map.
    fn take_images(&self) -> Vec<(u32, RegionImage)> {
        let mut images = Vec::new();
        loop {
            let more = self.space.lock().take_images(BATCH_IMAGES);
            if more.is_empty() {
                return images;
            }
            images.extend(more);
        }
    }
}

/// Writes both slots, the one that an older superblock may still be needed in last.
pub(super) fn write_superblock(device: &dyn BlockDevice, superblock: &Superblock) -> Result<()> {
    let bytes = superblock.to_bytes();
    let first = (superblock.generation % 2) as usize;
    for slot in [first, 1 - first] {
        let written = device.write_at(SLOT_OFFSETS[slot], &bytes);
        written.map_err(Error::io("writing the superblock"))?;
        device.sync().map_err(Error::io("syncing the superblock"))?;
    }
    Ok(())
}

fn run_bytes(run: Run) -> u64 {
    u64::from(run.len_blocks) * BLOCK_SIZE as u64
}

fn stored_root(root: &Root) -> Result<RootRecord> {
    let ptr = root.tree.root.ptr();
    Ok(RootRecord {
        ptr: ptr.ok_or_else(|| Error::Corrupt("a root was not written".into()))?,
        level: root.tree.level,
        nodes: root.tree.nodes,
        data_blocks: root.data_blocks,
        next_inode: root.next_inode,
    })
}

fn store_roots(tree: &mut Tree, store: &mut CheckpointStore<'_>, freeze: &Freeze) -> Result<()> {
    for (id, root) in &freeze.roots {
        let record = stored_root(root)?.to_bytes();
        let key = Key::root(*id);
        let same = Reader::new(tree, store).get(key, |old| old == record.as_slice())?;
        if same != Some(true) {
            tree.insert(store, key, &record)?;
        }
    }
    for id in &freeze.gone {
        tree.remove(store, Key::root(*id))?;
    }
    Ok(())
}

/// Stores the images, and then what storing them allocates and frees, until nothing changes any more: the
/// nodes on the way are dirty after the first round, so that there are few.
fn store_regions(
    tree: &mut Tree,
    store: &mut CheckpointStore<'_>,
    images: Vec<(u32, RegionImage)>,
) -> Result<()> {
    let mut images: BTreeMap<u32, RegionImage> = images.into_iter().collect();
    let mut dirty: Vec<u32> = images.keys().copied().collect();
    loop {
        for (run, used) in std::mem::take(&mut store.changes) {
            for (region, first, len) in region_parts(run) {
                let image = match images.entry(region) {
                    Entry::Occupied(image) => image.into_mut(),
                    Entry::Vacant(none) => {
                        let key = Key::region(region);
                        let stored = Reader::new(tree, store).get(key, RegionImage::decode)?;
                        none.insert(stored.transpose()?.unwrap_or(RegionImage::ALL_FREE))
                    }
                };
                if used {
                    image.set(first, len)
                } else {
                    image.clear(first, len)
                };
                dirty.push(region);
            }
        }
        if dirty.is_empty() {
            return Ok(());
        }
        dirty.sort_unstable();
        dirty.dedup();
        for region in dirty.drain(..) {
            if let Some(image) = images.get(&region) {
                tree.insert(store, Key::region(region), &image.to_bytes())?;
            }
        }
    }
}

/// Parts of a run by region: region, first block in it, length.
fn region_parts(run: Run) -> Vec<(u32, u32, u32)> {
    let mut parts = Vec::new();
    let (mut at, mut left) = (run.start, run.len_blocks);
    while left > 0 {
        let (region, first) = region_of(at);
        let len = left.min(REGION_BLOCKS - first);
        parts.push((region, first, len));
        at.0 += u64::from(len);
        left -= len;
    }
    parts
}
