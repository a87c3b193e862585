//! Where the nodes of each kind of tree come from and go to.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Error, Pool};
use crate::btree::{self, Load, Store};
use crate::cache::{self, Child, Node};
use crate::format::{BlockNo, Epoch, NODE_BLOCKS, Run};

/// Births in trees that are never frozen as snapshots: the catalog and the checkpoint tree.
pub(super) const NO_EPOCH: Epoch = Epoch(0);

/// Nodes of a head's tree. What is retired is gathered; the head decides what is freed.
pub(super) struct HeadStore<'a> {
    pub(super) pool: &'a Pool,
    pub(super) epoch: Epoch,
    pub(super) retired: Vec<(BlockNo, Epoch)>,
    /// Whether the operation can still be refused: then it leaves alone what is kept for those that can't.
    pub(super) refusable: bool,
}

impl<'a> HeadStore<'a> {
    /// For changes that must not fail for want of space any more.
    pub(super) fn new(pool: &'a Pool, epoch: Epoch) -> Self {
        HeadStore { pool, epoch, retired: Vec::new(), refusable: false }
    }
}

/// Nodes of the catalog tree: what is retired is freed.
pub(super) struct CatalogStore<'a> {
    pub(super) pool: &'a Pool,
}

/// Nodes of the checkpoint tree, changed while a checkpoint is under way: what it allocates and frees is
/// part of that checkpoint's own space map.
pub(super) struct CheckpointStore<'a> {
    pub(super) pool: &'a Pool,
    pub(super) generation: u64,
    /// Runs allocated (true) and freed since the caller looked last.
    pub(super) changes: Vec<(Run, bool)>,
}

macro_rules! load_through_cache {
    ($($store:ident),*) => {$(
        impl Load for $store<'_> {
            fn load(&self, child: &Child, level: u8) -> Result<Arc<Node>, cache::Error> {
                self.pool.cache.load(child, level)
            }
        }
    )*};
}
load_through_cache!(HeadStore, CatalogStore, CheckpointStore);

impl Pool {
    /// Allocates a node that stays dirty until the next checkpoint.
    fn new_dirty_node(&self, refusable: bool) -> Result<BlockNo, btree::Error> {
        let addr = {
            let mut space = self.space.lock();
            let kept = if refusable { self.kept_blocks(space.total_blocks()) } else { 0 };
            if space.node_blocks() > kept { space.allocate_node() } else { None }
        };
        self.dirty_nodes.fetch_add(1, Ordering::Relaxed);
        self.new_node(addr)
    }

    fn new_node(&self, addr: Option<BlockNo>) -> Result<BlockNo, btree::Error> {
        let addr = addr.ok_or(btree::Error::NoSpace)?;
        // The block's last content may have been a node that is still cached.
        self.cache.forget(addr);
        Ok(addr)
    }
}

impl Store for HeadStore<'_> {
    fn epoch(&self) -> Epoch {
        self.epoch
    }
    fn allocate(&mut self) -> Result<BlockNo, btree::Error> {
        self.pool.new_dirty_node(self.refusable)
    }
    fn retire(&mut self, addr: BlockNo, birth: Epoch) {
        self.retired.push((addr, birth));
    }
}

impl Store for CatalogStore<'_> {
    fn epoch(&self) -> Epoch {
        NO_EPOCH
    }
    fn allocate(&mut self) -> Result<BlockNo, btree::Error> {
        self.pool.new_dirty_node(false)
    }
    fn retire(&mut self, addr: BlockNo, _birth: Epoch) {
        self.pool.free_runs(&[Run::new(addr, NODE_BLOCKS)]);
    }
}

impl Store for CheckpointStore<'_> {
    fn epoch(&self) -> Epoch {
        NO_EPOCH
    }
    fn allocate(&mut self) -> Result<BlockNo, btree::Error> {
        let addr = self.pool.space.lock().allocate_node_in_checkpoint();
        let addr = self.pool.new_node(addr)?;
        self.changes.push((Run::new(addr, NODE_BLOCKS), true));
        Ok(addr)
    }
    fn retire(&mut self, addr: BlockNo, _birth: Epoch) {
        let run = Run::new(addr, NODE_BLOCKS);
        let freed = self.pool.space.lock().free_in_checkpoint(self.generation, run);
        if let Err(error) = freed {
            self.pool.fail("freeing a checkpoint's node", Error::Corrupt(error.to_string()));
        }
        self.changes.push((run, false));
    }
}
