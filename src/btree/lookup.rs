//! Reading: a key's value, and the entries of a range in order.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::{Error, Load, Tree, load_within};
use crate::cache::{self, Body, Child, Internal, Node};
use crate::format::{Key, Leaf};

/// A tree and the store that its nodes are in: what reading needs.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    tree: &'a Tree,
    store: &'a dyn Load,
}

impl std::fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reader({:?})", self.tree)
    }
}

type Visit<'v> = &'v mut dyn FnMut(Key, &[u8]) -> ControlFlow<()>;

impl<'a> Reader<'a> {
    /// Reads `tree` through `store`.
    pub fn new(tree: &'a Tree, store: &'a dyn Load) -> Self {
        Reader { tree, store }
    }

    /// Calls `f` with the value of `key` and returns its answer; `None` where the key is absent.
    pub fn get<R>(&self, key: Key, f: impl FnOnce(&[u8]) -> R) -> Result<Option<R>, Error> {
        let held: Arc<Node>;
        let mut child = &self.tree.root;
        let mut level = self.tree.level;
        let mut bounds = (Key::MIN, Key::MAX);
        loop {
            let node: &Node = match &child.node {
                Some(node) => node,
                None => {
                    held = self.store.load(child, level)?;
                    // Cached nodes link no others, so all below is held one node at a time.
                    return Self::get_held(self.store, held, level, bounds, key, f);
                }
            };
            match &node.body {
                Body::Leaf(leaf) => return Ok(find(leaf, bounds, key, f)),
                Body::Internal(internal) => {
                    child = descend(internal, &mut bounds, key);
                    level = internal.level - 1;
                }
            }
        }
    }

    fn get_held<R>(
        store: &dyn Load,
        mut node: Arc<Node>,
        mut level: u8,
        mut bounds: (Key, Key),
        key: Key,
        f: impl FnOnce(&[u8]) -> R,
    ) -> Result<Option<R>, Error> {
        loop {
            let next = match &node.body {
                Body::Leaf(leaf) => return Ok(find(leaf, bounds, key, f)),
                Body::Internal(internal) => {
                    level -= 1;
                    store.load(descend(internal, &mut bounds, key), level)?
                }
            };
            node = next;
        }
    }

    /// Returns the value of `key`.
    pub fn get_vec(&self, key: Key) -> Result<Option<Vec<u8>>, Error> {
        self.get(key, <[u8]>::to_vec)
    }

    /// Calls `f` with every entry from `from` to `to`, both included, in order, until it breaks.
    pub fn range(&self, from: Key, to: Key, f: Visit<'_>) -> Result<(), Error> {
        self.range_in(&self.tree.root, self.tree.level, None, (from, to), f).map(|_| ())
    }

    fn range_in(
        &self,
        child: &Child,
        level: u8,
        bounds: Bounds,
        (from, to): (Key, Key),
        f: Visit<'_>,
    ) -> Result<ControlFlow<()>, Error> {
        let held;
        let node = match &child.node {
            Some(node) => node,
            None => {
                held = self.store.load(child, level)?;
                check_bounds(&held, bounds)?;
                &held
            }
        };
        match &node.body {
            Body::Leaf(leaf) => {
                let start = leaf.search(from).unwrap_or_else(|at| at);
                for at in start..leaf.len() {
                    let key = leaf.key(at);
                    if key > to || f(key, leaf.value(at)).is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
            }
            Body::Internal(internal) => {
                for at in internal.child_for(from)..internal.children.len() {
                    if internal.keys[at] > to {
                        return Ok(ControlFlow::Break(()));
                    }
                    let (child, below) = (&internal.children[at], below(internal, at, bounds));
                    if self.range_in(child, level - 1, below, (from, to), f)?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Returns the entry with the largest key that is at most `key`.
    pub fn last_at_or_before(&self, key: Key) -> Result<Option<(Key, Vec<u8>)>, Error> {
        self.with_last(key, &mut |key, value| (key, value.to_vec()))
    }

    /// As [`Reader::last_at_or_before`]: calls `f` with the entry and returns its answer.
    pub fn with_last<R>(
        &self,
        key: Key,
        f: &mut dyn FnMut(Key, &[u8]) -> R,
    ) -> Result<Option<R>, Error> {
        self.last_in(&self.tree.root, self.tree.level, None, key, f)
    }

    fn last_in<R>(
        &self,
        child: &Child,
        level: u8,
        bounds: Bounds,
        key: Key,
        f: &mut dyn FnMut(Key, &[u8]) -> R,
    ) -> Result<Option<R>, Error> {
        let node = load_within(child, level, bounds, self.store)?;
        match &node.body {
            Body::Leaf(leaf) => {
                let behind = leaf.search(key).map_or_else(|at| at, |at| at + 1);
                Ok(behind.checked_sub(1).map(|at| f(leaf.key(at), leaf.value(at))))
            }
            Body::Internal(internal) => {
                for at in (0..=internal.child_for(key)).rev() {
                    let below = below(internal, at, bounds);
                    let found = self.last_in(&internal.children[at], level - 1, below, key, f)?;
                    if found.is_some() {
                        return Ok(found);
                    }
                }
                Ok(None)
            }
        }
    }
}

/// What a node's keys lie between: at least the first, below the second, where there is one. None for a root.
pub type Bounds = Option<(Key, Option<Key>)>;

/// Bounds of an internal node's child.
pub(super) fn below(internal: &Internal, at: usize, bounds: Bounds) -> Bounds {
    let high = internal.keys.get(at + 1).copied().or(bounds.and_then(|bounds| bounds.1));
    Some((internal.keys[at], high))
}

/// Fails where a node that was read holds keys that do not belong there, or none (T2, T5).
///
/// Hashes authenticate what a pool's maker wrote, whoever that was: without this, a few nodes whose pointers
/// all lead to the same ones make a walk that never ends.
pub fn check_bounds(node: &Node, bounds: Bounds) -> Result<(), cache::Error> {
    let Some((low, high)) = bounds else { return Ok(()) };
    let inside = |(first, last): (Key, Key)| low <= first && high.is_none_or(|high| last < high);
    match node.key_range().is_some_and(inside) {
        true => Ok(()),
        false => Err(cache::Error::Range { addr: node.addr }),
    }
}

/// The child that `key` belongs to; `bounds` becomes what its keys lie between.
fn descend<'n>(internal: &'n Internal, bounds: &mut (Key, Key), key: Key) -> &'n Child {
    let at = internal.child_for(key);
    let high = internal.keys.get(at + 1).copied().unwrap_or(bounds.1);
    *bounds = (internal.keys[at], high);
    &internal.children[at]
}

fn find<R>(leaf: &Leaf, bounds: (Key, Key), key: Key, f: impl FnOnce(&[u8]) -> R) -> Option<R> {
    leaf.search_within(key, bounds.0, bounds.1).ok().map(|at| f(leaf.value(at)))
}
