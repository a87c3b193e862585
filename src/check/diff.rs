//! What a tree has that another one has not: nodes by whole subtrees, then entries of the leaves that differ.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::sync::Arc;

use super::Checker;
use super::tree::Place;
use crate::cache::{Body, Node};
use crate::format::{BlockNo, Epoch, Hash, Key, RootRecord};

/// Nodes that only one of two trees has.
#[derive(Debug, Default)]
pub(super) struct Difference {
    /// Leaves of the tree, in order.
    pub(super) leaves: Vec<Place>,
    /// Leaves of the older tree, in order.
    pub(super) old_leaves: Vec<Place>,
    /// All nodes of the tree.
    pub(super) nodes: Vec<(BlockNo, Epoch)>,
    /// All nodes of the older tree.
    pub(super) old_nodes: Vec<(BlockNo, Epoch)>,
}

/// Called with a key that is new, gone or has another value: the old and the new value.
pub(super) type OnChange<'f, 'c> =
    &'f mut dyn FnMut(&mut Checker<'c>, Key, Option<&[u8]>, Option<&[u8]>);
/// Called with each leaf that is new, and with the place of the new leaf behind it.
pub(super) type OnLeaf<'f, 'c> = &'f mut dyn FnMut(&mut Checker<'c>, &Place, &Node, Option<&Place>);

fn identity(place: &Place) -> (BlockNo, Epoch, Hash) {
    (place.child.addr, place.child.birth, place.child.hash)
}

/// Drops what is in both lists.
fn cancel(new: &mut Vec<Place>, old: &mut Vec<Place>) {
    let mut common: HashSet<_> = new.iter().map(identity).collect();
    let olds: HashSet<_> = old.iter().map(identity).collect();
    common.retain(|id| olds.contains(id));
    new.retain(|place| !common.contains(&identity(place)));
    old.retain(|place| !common.contains(&identity(place)));
}

fn note(nodes: &mut Vec<(BlockNo, Epoch)>, places: &[Place]) {
    nodes.extend(places.iter().map(|place| (place.child.addr, place.child.birth)));
}

impl<'c> Checker<'c> {
    /// Compares two trees level by level. Internal nodes that are new are verified; leaves are not read.
    pub(super) fn diff(&mut self, new: &RootRecord, old: Option<&RootRecord>) -> Difference {
        let mut found = Difference::default();
        let (mut mine, mut theirs): (Vec<Place>, Vec<Place>) = (Vec::new(), Vec::new());
        let top = new.level.max(old.map_or(0, |old| old.level));
        for level in (0..=top).rev() {
            if new.level == level {
                mine.push(Place::root(new));
            }
            theirs.extend(old.filter(|old| old.level == level).map(Place::root));
            cancel(&mut mine, &mut theirs);
            note(&mut found.nodes, &mine);
            note(&mut found.old_nodes, &theirs);
            if level == 0 {
                break;
            }
            let mut below = Vec::new();
            for place in mine {
                below.extend(self.load_new(&place).map(|node| place.children(&node)));
            }
            let mut old_below = Vec::new();
            for place in theirs {
                old_below.extend(self.load_known(&place).map(|node| place.children(&node)));
            }
            mine = below.concat();
            theirs = old_below.concat();
        }
        (found.leaves, found.old_leaves) = (mine, theirs);
        found
    }

    /// Reads the leaves of a difference, and calls `on_leaf` and `on_change` in the order of keys.
    pub(super) fn entries(
        &mut self,
        difference: &Difference,
        on_leaf: OnLeaf<'_, 'c>,
        on_change: OnChange<'_, 'c>,
    ) {
        let mut new = Stream { places: &difference.leaves, ..Stream::default() };
        let mut old = Stream { places: &difference.old_leaves, ..Stream::default() };
        loop {
            let ours = new.peek(&mut |place, behind| {
                let node = self.load_new(place)?;
                on_leaf(self, place, &node, behind);
                Some(node)
            });
            let theirs = old.peek(&mut |place, _| self.load_known(place));
            let order = match (&ours, &theirs) {
                (None, None) => return,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(ours), Some(theirs)) => ours.key().cmp(&theirs.key()),
            };
            match (ours.filter(|_| order.is_le()), theirs.filter(|_| order.is_ge())) {
                (Some(ours), Some(theirs)) => {
                    if ours.value() != theirs.value() {
                        on_change(self, ours.key(), Some(theirs.value()), Some(ours.value()));
                    }
                }
                (Some(ours), None) => on_change(self, ours.key(), None, Some(ours.value())),
                (None, Some(theirs)) => on_change(self, theirs.key(), Some(theirs.value()), None),
                (None, None) => return,
            }
            new.at += usize::from(order.is_le());
            old.at += usize::from(order.is_ge());
        }
    }
}

/// An entry, and the leaf that it is in.
struct Entry {
    node: Arc<Node>,
    at: usize,
}

impl Entry {
    fn key(&self) -> Key {
        match &self.node.body {
            Body::Leaf(leaf) => leaf.key(self.at),
            Body::Internal(_) => Key::MIN,
        }
    }

    fn value(&self) -> &[u8] {
        match &self.node.body {
            Body::Leaf(leaf) => leaf.value(self.at),
            Body::Internal(_) => &[],
        }
    }
}

/// Reads the leaf at a place; the place of the leaf behind it comes too.
type Load<'f> = &'f mut dyn FnMut(&Place, Option<&Place>) -> Option<Arc<Node>>;

/// Entries of some leaves, one after the other.
#[derive(Default)]
struct Stream<'p> {
    places: &'p [Place],
    next: usize,
    leaf: Option<Arc<Node>>,
    at: usize,
}

impl Stream<'_> {
    /// The entry that is next; reads leaves as they are needed. One that does not read is left out.
    fn peek(&mut self, load: Load<'_>) -> Option<Entry> {
        loop {
            if let Some(node) = &self.leaf
                && let Body::Leaf(leaf) = &node.body
                && self.at < leaf.len()
            {
                return Some(Entry { node: Arc::clone(node), at: self.at });
            }
            let place = self.places.get(self.next)?;
            self.next += 1;
            self.at = 0;
            self.leaf = load(place, self.places.get(self.next));
        }
    }
}
