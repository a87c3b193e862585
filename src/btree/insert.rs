//! Setting a key's value, and the splits that it can cause.

use super::lookup::below;
use super::{Bounds, Error, Store, Tree, own};
use crate::cache::{Body, Child, Internal, Node};
use crate::format::{BlockNo, Key, LEAF_CAPACITY, LEAF_ENTRY, Leaf, MAX_CHILDREN, MAX_VALUE};

/// What a split leaves for the parent: the new right node and its lower bound.
type Split = Option<(Key, Child)>;

impl Tree {
    /// Sets the value of `key`, of at most [`MAX_VALUE`] bytes.
    ///
    /// After [`Tree::prepare`] for the same key it does no I/O, and fails only for want of space for the
    /// nodes of splits. On an error no key's value has changed.
    pub fn insert(&mut self, store: &mut dyn Store, key: Key, value: &[u8]) -> Result<(), Error> {
        assert!(value.len() <= MAX_VALUE, "value of {} bytes", value.len());
        let mut insertion = Insertion { store, key, value, nodes: 0, spare: Vec::new() };
        let split = insertion.insert(&mut self.root, self.level, None, 1)?;
        if let Some((bound, right)) = split {
            let addr = insertion.take_spare();
            let level = self.level + 1;
            let keys = vec![Key::MIN, bound];
            let epoch = insertion.store.epoch();
            let node = Node::new(addr, epoch, Body::Internal(Internal::default()));
            let left = std::mem::replace(&mut self.root, Child::dirty(node));
            let internal = Internal { level, keys, children: vec![left, right] };
            own(&mut self.root, level, None, insertion.store)?.body = Body::Internal(internal);
            self.level = level;
        }
        assert!(insertion.spare.is_empty(), "addresses were allocated and not used");
        self.nodes += insertion.nodes;
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
        let mut bounds = None;
        loop {
            let node = own(child, level, bounds, store)?;
            match &mut node.body {
                Body::Leaf(leaf) => {
                    return Ok(leaf.search(key).ok().map(|at| f(leaf.value_mut(at))));
                }
                Body::Internal(internal) => {
                    let at = internal.child_for(key);
                    bounds = below(internal, at, bounds);
                    child = &mut internal.children[at];
                    level -= 1;
                }
            }
        }
    }
}

/// One insertion on its way down, and back up with splits.
struct Insertion<'a> {
    store: &'a mut dyn Store,
    key: Key,
    value: &'a [u8],
    /// Nodes added.
    nodes: u64,
    /// Addresses for the nodes that this insertion adds: all are allocated before the first is used, so
    /// that a split never stops half way.
    spare: Vec<BlockNo>,
}

impl Insertion<'_> {
    /// Inserts below `child`; `above` is how many nodes its split would add further up.
    fn insert(
        &mut self,
        child: &mut Child,
        level: u8,
        bounds: Bounds,
        above: usize,
    ) -> Result<Split, Error> {
        let node = own(child, level, bounds, self.store)?;
        let internal = match &mut node.body {
            Body::Leaf(leaf) => return self.insert_in_leaf(leaf, above),
            Body::Internal(internal) => internal,
        };
        let at = internal.child_for(self.key);
        let above = if internal.children.len() < MAX_CHILDREN { 0 } else { above + 1 };
        let bounds = below(internal, at, bounds);
        let split = self.insert(&mut internal.children[at], level - 1, bounds, above)?;
        let Some((bound, right)) = split else { return Ok(None) };
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
        Ok(Some((bound, self.new_node(Body::Internal(right)))))
    }

    fn insert_in_leaf(&mut self, leaf: &mut Leaf, above: usize) -> Result<Split, Error> {
        let (key, value) = (self.key, self.value);
        let found = leaf.search(key);
        match found {
            Ok(at) if leaf.fits_replaced(at, value.len()) => {
                leaf.replace(at, value);
                return Ok(None);
            }
            Err(at) if leaf.fits(value.len()) => {
                leaf.insert(at, key, value);
                return Ok(None);
            }
            _ => self.allocate(1 + above)?,
        }
        let at = found.unwrap_or_else(|at| at);
        if found.is_ok() {
            leaf.remove(at);
        }
        let (from, into_left) = split_point(leaf, at, LEAF_ENTRY + value.len());
        let mut right = leaf.split_off(from);
        if into_left {
            leaf.insert(at, key, value);
        } else {
            right.insert(at - from, key, value);
        }
        let bound = right.key(0);
        Ok(Some((bound, self.new_node(Body::Leaf(right)))))
    }

    /// Allocates `count` addresses or none.
    fn allocate(&mut self, count: usize) -> Result<(), Error> {
        for _ in 0..count {
            match self.store.allocate() {
                Ok(addr) => self.spare.push(addr),
                Err(error) => {
                    let epoch = self.store.epoch();
                    self.spare.drain(..).for_each(|addr| self.store.retire(addr, epoch));
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn take_spare(&mut self) -> BlockNo {
        self.nodes += 1;
        self.spare.pop().expect("a split's addresses are allocated before it")
    }

    fn new_node(&mut self, body: Body) -> Child {
        Child::dirty(Node::new(self.take_spare(), self.store.epoch(), body))
    }
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
