//! Removing a key, and the merges that keep nodes full.

use super::lookup::below;
use super::{Bounds, Error, Store, Tree, load_within, own};
use crate::cache::{Body, Child, Internal, Node};
use crate::format::{Key, LEAF_CAPACITY, Leaf, MAX_CHILDREN};

/// A leaf with fewer bytes, an internal node with fewer children, looks for a neighbour to merge with.
const LEAF_LOW: usize = LEAF_CAPACITY / 2;
const CHILDREN_LOW: usize = MAX_CHILDREN / 2;
/// A merge leaves room, so that the next insertion does not split again.
const LEAF_MERGED: usize = LEAF_CAPACITY * 9 / 10;
const CHILDREN_MERGED: usize = MAX_CHILDREN * 9 / 10;

impl Tree {
    /// Removes `key` and says whether it was there.
    ///
    /// After [`Tree::prepare`] for the same key it needs no I/O: a neighbour that can't be read is not
    /// merged with.
    pub fn remove(&mut self, store: &mut dyn Store, key: Key) -> Result<bool, Error> {
        let removed = remove_in(&mut self.root, self.level, None, store, key, &mut self.nodes)?;
        while self.level > 0 && self.drop_root_level(store)? {}
        Ok(removed)
    }

    /// Takes the root away if it has one child or none, and says whether there can be more to take.
    fn drop_root_level(&mut self, store: &mut dyn Store) -> Result<bool, Error> {
        // A root that can't be read keeps its level: it is well-formed with one child, too.
        let Ok(root) = store.load(&self.root, self.level) else { return Ok(false) };
        let Body::Internal(internal) = &root.body else { return Ok(false) };
        match internal.children.as_slice() {
            [] => {
                drop(root);
                // Removing its last child has made it this tree's own.
                own(&mut self.root, self.level, None, store)?.body = Body::Leaf(Leaf::default());
                self.level = 0;
                Ok(false)
            }
            [only] => {
                let only = only.clone();
                store.retire(self.root.addr, self.root.birth);
                self.root = only;
                self.level -= 1;
                self.nodes = self.nodes.saturating_sub(1);
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

fn remove_in(
    child: &mut Child,
    level: u8,
    bounds: Bounds,
    store: &mut dyn Store,
    key: Key,
    nodes: &mut u64,
) -> Result<bool, Error> {
    let node = own(child, level, bounds, store)?;
    match &mut node.body {
        Body::Leaf(leaf) => {
            let found = leaf.search(key);
            if let Ok(at) = found {
                leaf.remove(at);
            }
            Ok(found.is_ok())
        }
        Body::Internal(internal) => {
            let at = internal.child_for(key);
            let inside = below(internal, at, bounds);
            let child = &mut internal.children[at];
            let removed = remove_in(child, level - 1, inside, store, key, nodes)?;
            if removed && is_low(&internal.children[at]) {
                relieve(internal, at, bounds, store, nodes);
            }
            Ok(removed)
        }
    }
}

/// Whether a node that was just changed has become small.
fn is_low(child: &Child) -> bool {
    match child.node.as_deref().map(|node| &node.body) {
        Some(Body::Leaf(leaf)) => leaf.used_bytes() < LEAF_LOW,
        Some(Body::Internal(internal)) => internal.children.len() < CHILDREN_LOW,
        None => false,
    }
}

fn is_empty(child: &Child) -> bool {
    match child.node.as_deref().map(|node| &node.body) {
        Some(Body::Leaf(leaf)) => leaf.is_empty(),
        Some(Body::Internal(internal)) => internal.children.is_empty(),
        None => false,
    }
}

/// Drops the child at `at` if it is empty, else merges it with a neighbour if both fit in one node.
fn relieve(
    internal: &mut Internal,
    at: usize,
    bounds: Bounds,
    store: &mut dyn Store,
    nodes: &mut u64,
) {
    if is_empty(&internal.children[at]) {
        drop_child(internal, at, store, nodes);
        return;
    }
    for left in [at.checked_sub(1), Some(at)].into_iter().flatten() {
        if left + 1 < internal.children.len() && merge(internal, left, bounds, store, nodes) {
            return;
        }
    }
}

fn drop_child(internal: &mut Internal, at: usize, store: &mut dyn Store, nodes: &mut u64) {
    let child = internal.children.remove(at);
    store.retire(child.addr, child.birth);
    // The node's own lower bound stays that of its first child.
    internal.keys.remove(if at == 0 && internal.keys.len() > 1 { 1 } else { at });
    *nodes = nodes.saturating_sub(1);
}

/// Moves the content of child `left + 1` into child `left` and says whether it did.
fn merge(
    internal: &mut Internal,
    left: usize,
    bounds: Bounds,
    store: &mut dyn Store,
    nodes: &mut u64,
) -> bool {
    let level = internal.level - 1;
    let inside = [left, left + 1].map(|at| below(internal, at, bounds));
    let load = |at: usize| load_within(&internal.children[left + at], level, inside[at], store);
    let (Ok(low), Ok(high)) = (load(0), load(1)) else { return false };
    let fits = match (&low.body, &high.body) {
        (Body::Leaf(a), Body::Leaf(b)) => a.used_bytes() + b.used_bytes() <= LEAF_MERGED,
        (Body::Internal(a), Body::Internal(b)) => {
            a.children.len() + b.children.len() <= CHILDREN_MERGED
        }
        _ => false,
    };
    drop(low);
    if !fits {
        return false;
    }
    let Ok(into) = own(&mut internal.children[left], level, inside[0], store) else { return false };
    append(into, &high, internal.keys[left + 1]);
    drop(high);
    drop_child(internal, left + 1, store, nodes);
    true
}

fn append(into: &mut Node, from: &Node, bound: Key) {
    match (&mut into.body, &from.body) {
        (Body::Leaf(a), Body::Leaf(b)) => a.append(b),
        (Body::Internal(a), Body::Internal(b)) => {
            let first = a.keys.len();
            a.keys.extend_from_slice(&b.keys);
            a.keys[first] = bound;
            a.children.extend_from_slice(&b.children);
        }
        _ => unreachable!("neighbours are at one level"),
    }
}
