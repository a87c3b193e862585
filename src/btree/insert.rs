//! Setting a key's value, and the splits that it can cause.

use super::{Error, Store, Tree, own};
use crate::cache::{Body, Child, Internal, Node};
use crate::format::{Key, LEAF_CAPACITY, LEAF_ENTRY, Leaf, MAX_CHILDREN, MAX_VALUE};

/// What a split leaves for the parent: the new right node and its lower bound.
type Split = Option<(Key, Child)>;

impl Tree {
    /// Sets the value of `key`, of at most [`MAX_VALUE`] bytes.
    ///
    /// After [`Tree::prepare`] for the same key it does no I/O, and fails only for want of space for the
    /// nodes of splits.
    pub fn insert(&mut self, store: &mut dyn Store, key: Key, value: &[u8]) -> Result<(), Error> {
        assert!(value.len() <= MAX_VALUE, "value of {} bytes", value.len());
        let split = insert_in(&mut self.root, self.level, store, key, value, &mut self.nodes)?;
        if let Some((bound, right)) = split {
            let addr = store.allocate()?;
            let level = self.level + 1;
            let mut internal =
                Internal { level, keys: vec![Key::MIN, bound], children: Vec::with_capacity(2) };
            let node = Node::new(addr, store.epoch(), Body::Internal(Internal::default()));
            let left = std::mem::replace(&mut self.root, Child::dirty(node));
            internal.children.extend([left, right]);
            own(&mut self.root, level, store)?.body = Body::Internal(internal);
            self.level = level;
            self.nodes += 1;
        }
        Ok(())
    }

    /// Calls `f` with the value of `key`, which it may change but not lengthen; `None` where absent.
    pub fn modify<R>(
        &mut self,
        store: &mut dyn Store,
        key: Key,
        f: impl FnOnce(&mut [u8]) -> R,
    ) -> Result<Option<R>, Error> {
        let mut level = self.level;
        let mut child = &mut self.root;
        loop {
            let node = own(child, level, store)?;
            match &mut node.body {
                Body::Leaf(leaf) => {
                    return Ok(leaf.search(key).ok().map(|at| f(leaf.value_mut(at))));
                }
                Body::Internal(internal) => {
                    let at = internal.child_for(key);
                    child = &mut internal.children[at];
                    level -= 1;
                }
            }
        }
    }
}

fn insert_in(
    child: &mut Child,
    level: u8,
    store: &mut dyn Store,
    key: Key,
    value: &[u8],
    nodes: &mut u64,
) -> Result<Split, Error> {
    let node = own(child, level, store)?;
    match &mut node.body {
        Body::Leaf(leaf) => insert_in_leaf(leaf, store, key, value, nodes),
        Body::Internal(internal) => {
            let at = internal.child_for(key);
            let below = &mut internal.children[at];
            let Some((bound, right)) = insert_in(below, level - 1, store, key, value, nodes)?
            else {
                return Ok(None);
            };
            internal.keys.insert(at + 1, bound);
            internal.children.insert(at + 1, right);
            if internal.children.len() <= MAX_CHILDREN {
                return Ok(None);
            }
            // Keys that only rise leave full nodes behind; any other order leaves halves.
            let last = internal.children.len() - 1;
            let from = if at + 1 == last { last } else { last.div_ceil(2) };
            let right = Internal {
                level,
                keys: internal.keys.split_off(from),
                children: internal.children.split_off(from),
            };
            let bound = right.keys[0];
            *nodes += 1;
            let right = Node::new(store.allocate()?, store.epoch(), Body::Internal(right));
            Ok(Some((bound, Child::dirty(right))))
        }
    }
}

fn insert_in_leaf(
    leaf: &mut Leaf,
    store: &mut dyn Store,
    key: Key,
    value: &[u8],
    nodes: &mut u64,
) -> Result<Split, Error> {
    let at = match leaf.search(key) {
        Ok(at) if leaf.fits_replaced(at, value.len()) => {
            leaf.replace(at, value);
            return Ok(None);
        }
        Ok(at) => {
            leaf.remove(at);
            at
        }
        Err(at) => at,
    };
    if leaf.fits(value.len()) {
        leaf.insert(at, key, value);
        return Ok(None);
    }
    let addr = store.allocate()?;
    let (from, into_left) = split_point(leaf, at, LEAF_ENTRY + value.len());
    let mut right = leaf.split_off(from);
    if into_left {
        leaf.insert(at, key, value);
    } else {
        right.insert(at - from, key, value);
    }
    let bound = right.key(0);
    *nodes += 1;
    let right = Node::new(addr, store.epoch(), Body::Leaf(right));
    Ok(Some((bound, Child::dirty(right))))
}

/// Chooses where to split a leaf that is to take a new entry of `size` bytes at `at`: the index of the
/// first entry that goes right, and whether the new entry goes left.
///
/// A run of rising keys is cut behind its end, so that what it leaves is full; else the bytes are halved.
fn split_point(leaf: &Leaf, at: usize, size: usize) -> (usize, bool) {
    let count = leaf.len();
    if at == count {
        return (count, false);
    }
    let entry = |index: usize| LEAF_ENTRY + leaf.value(index).len();
    if leaf.continues_run(at) {
        let left: usize = (0..at).map(entry).sum();
        if left >= LEAF_CAPACITY / 3 && left + size <= LEAF_CAPACITY {
            return (at, true);
        }
    }
    // The first cut with at least half of all bytes on the left: an entry is at most a quarter of a
    // leaf, so both sides fit.
    let total = leaf.used_bytes() + size;
    let mut left = 0;
    for index in 0..count {
        if index == at {
            left += size;
            if left * 2 >= total {
                return (index, true);
            }
        }
        left += entry(index);
        if left * 2 >= total {
            return (index + 1, at <= index);
        }
    }
    (count, false)
}
