//! The copy-on-write B+tree that every state in a pool is kept in.
//!
//! A [`Tree`] is a root pointer and its level. Readers walk it through a [`Store`], which finds nodes in
//! memory or on disk. Writers go from the root down and *own* each node on their way: a clean node, or a
//! dirty one that somebody else shares (a snapshot, a checkpoint that is writing it) or that an earlier
//! epoch bore, is copied to a new address with the current epoch as its birth, and the old reference is retired; a dirty node that is
//! nobody else's is changed in place. Whether it is shared is what its [`Arc`]'s count says, so freezing a
//! tree is cloning its root, whatever its size.
//!
//! Invariants, verified by [`crate::check`] under these numbers:
//! - T1. A node's address, birth and level are those of its parent's pointer, and the BLAKE3 hash of its page
//!   is the one in the pointer.
//! - T2. Keys rise strictly within a node, and every key of child `i` lies in `[keys[i], keys[i + 1])`.
//! - T3. All leaves are at level 0; a node's children are one level below it.
//! - T4. A child is never younger than its parent: its birth is at most its parent's.
//! - T5. No node but a root leaf is empty.
//! - T6. [`Tree::nodes`] is the number of nodes.
//!
//! Crash safety: nothing here writes over a node that a checkpoint refers to; a node gets its address when
//! it is made, and is written by [`write_dirty`] before the superblock that leads to it.

mod insert;
mod lookup;
mod remove;
#[cfg(test)]
mod tests;
mod write;

use std::sync::Arc;

use crate::cache::{self, Body, Child, Node, NodeCache};
use crate::format::{BlockNo, Epoch, Leaf, NodePtr};

pub use lookup::{Bounds, Reader, check_bounds};
pub use write::{Writeback, sweep, write_dirty};

/// Why a tree could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A node could not be read.
    #[error(transparent)]
    Read(#[from] cache::Error),
    /// A record has the right hash, but is not what its reader can use.
    #[error("{0}")]
    Malformed(String),
    /// There is no room for a node.
    #[error("no space for a tree node")]
    NoSpace,
}

/// Finds nodes for reading.
pub trait Load {
    /// Returns the node that `child` points to.
    fn load(&self, child: &Child, level: u8) -> Result<Arc<Node>, cache::Error>;
}

impl Load for NodeCache {
    fn load(&self, child: &Child, level: u8) -> Result<Arc<Node>, cache::Error> {
        NodeCache::load(self, child, level)
    }
}

/// Where a tree's nodes come from and go to.
pub trait Store: Load {
    /// Birth of nodes made now.
    fn epoch(&self) -> Epoch;
    /// Returns the address for a new node.
    fn allocate(&mut self) -> Result<BlockNo, Error>;
    /// Takes back a reference to a node that this tree no longer has.
    fn retire(&mut self, addr: BlockNo, birth: Epoch);
}

/// One state: a root and what is known of the whole.
#[derive(Debug, Clone)]
pub struct Tree {
    /// Root node.
    pub root: Child,
    /// Level of the root; 0 when it is a leaf.
    pub level: u8,
    /// Number of nodes.
    pub nodes: u64,
}

impl Tree {
    /// Makes a tree with no entry, in memory.
    pub fn new(store: &mut dyn Store) -> Result<Tree, Error> {
        let node = Node::new(store.allocate()?, store.epoch(), Body::Leaf(Leaf::default()));
        Ok(Tree { root: Child::dirty(node), level: 0, nodes: 1 })
    }

    /// A tree that stands on disk.
    pub fn stored(ptr: NodePtr, level: u8, nodes: u64) -> Tree {
        Tree { root: Child::clean(ptr), level, nodes }
    }

    /// Makes the way to `key` dirty: all the I/O that a change there can need is done after this, and
    /// nothing has changed.
    pub fn prepare(&mut self, store: &mut dyn Store, key: crate::format::Key) -> Result<(), Error> {
        let mut level = self.level;
        let mut child = &mut self.root;
        let mut bounds = None;
        loop {
            let node = own(child, level, bounds, store)?;
            match &mut node.body {
                Body::Leaf(_) => return Ok(()),
                Body::Internal(internal) => {
                    let at = internal.child_for(key);
                    bounds = lookup::below(internal, at, bounds);
                    child = &mut internal.children[at];
                    level -= 1;
                }
            }
        }
    }
}

/// Loads a node; one that was read must hold what its parent says.
fn load_within(
    child: &Child,
    level: u8,
    bounds: Bounds,
    store: &dyn Load,
) -> Result<Arc<Node>, cache::Error> {
    let node = store.load(child, level)?;
    if child.node.is_none() {
        check_bounds(&node, bounds)?;
    }
    Ok(node)
}

/// Makes `child` a dirty node that is this tree's alone, and returns it.
///
/// On an error the child is as it was. A node whose keys are not within `bounds` is not worked on: splits and
/// merges would spread the disorder.
fn own<'a>(
    child: &'a mut Child,
    level: u8,
    bounds: Bounds,
    store: &mut dyn Store,
) -> Result<&'a mut Node, Error> {
    let epoch = store.epoch();
    let in_place = match &mut child.node {
        // An older birth would make the node younger children's parent (T4).
        Some(node) => {
            node.birth == epoch && node.hash.get().is_none() && Arc::get_mut(node).is_some()
        }
        None => false,
    };
    if !in_place {
        let old = load_within(child, level, bounds, store)?;
        let node = Node::new(store.allocate()?, epoch, old.body.clone());
        drop(old);
        store.retire(child.addr, child.birth);
        *child = Child::dirty(node);
    }
    let node = child.node.as_mut().and_then(Arc::get_mut);
    Ok(node.expect("an owned node is linked once"))
}
