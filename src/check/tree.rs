//! T1 to T5: nodes, as their parents' pointers say.

use std::sync::Arc;

use super::Checker;
use crate::btree::{Bounds, Tree, check_bounds};
use crate::cache::{self, Body, Child, Node};
use crate::format::{Key, NODE_BLOCKS, RootRecord, Run};

/// Where a node is, and what it must be.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) child: Child,
    pub(super) level: u8,
    /// Every key of the node is at least `low`, and less than `high` where there is one.
    pub(super) low: Key,
    pub(super) high: Option<Key>,
    pub(super) is_root: bool,
}

impl Place {
    pub(super) fn root(record: &RootRecord) -> Place {
        let child = Child::clean(record.ptr);
        Place { child, level: record.level, low: Key::MIN, high: None, is_root: true }
    }

    fn bounds(&self) -> Bounds {
        (!self.is_root).then_some((self.low, self.high))
    }

    /// Places of a node's children; none for a leaf.
    pub(super) fn children(&self, node: &Node) -> Vec<Place> {
        let Body::Internal(internal) = &node.body else { return Vec::new() };
        let below = internal.children.iter().zip(&internal.keys).enumerate();
        below
            .map(|(at, (child, low))| Place {
                child: child.clone(),
                level: self.level.saturating_sub(1),
                low: *low,
                high: internal.keys.get(at + 1).copied().or(self.high),
                is_root: false,
            })
            .collect()
    }
}

/// The tree that a record leads to, for readers.
pub(super) fn stored(record: &RootRecord) -> Tree {
    Tree::stored(record.ptr, record.level, record.nodes)
}

/// Which invariant does not hold where a node does not read.
fn broken(error: &cache::Error) -> &'static str {
    match error {
        cache::Error::Io { .. } | cache::Error::Hash { .. } => "T1",
        cache::Error::Level { .. } => "T3",
        cache::Error::Range { .. } => "T2",
        cache::Error::Decode { source, .. } => match (source.record, source.field) {
            (_, "key order") => "T2",
            ("internal node", "level") => "T3",
            ("internal node", "birth") => "T4",
            ("internal node", "count") => "T5",
            _ => "T1",
        },
    }
}

impl Checker<'_> {
    /// Reads a node that has been verified before, as part of another tree.
    pub(super) fn load_known(&mut self, place: &Place) -> Option<Arc<Node>> {
        // What is wrong with it has been said then.
        let node = self.cache.load(&place.child, place.level).ok()?;
        check_bounds(&node, place.bounds()).ok().map(|()| node)
    }

    /// Reads a node for the first time, verifies it and counts its blocks.
    pub(super) fn load_new(&mut self, place: &Place) -> Option<Arc<Node>> {
        self.report.count_node();
        self.nodes.add(Run::new(place.child.addr, NODE_BLOCKS));
        match self.cache.read(&place.child, place.level) {
            Ok(node) => {
                let node = Arc::new(node);
                self.cache.insert(Arc::clone(&node));
                if self.verify_node(place, &node) {
                    return Some(node);
                }
                // Where it leads may be anywhere, and as often as it likes.
                self.incomplete = true;
                None
            }
            Err(error) => {
                self.incomplete = true;
                self.report.problem(broken(&error), error);
                None
            }
        }
    }

    /// Whether the node holds what its parent says; the decoder has seen that its keys rise.
    fn verify_node(&mut self, place: &Place, node: &Node) -> bool {
        let addr = place.child.addr;
        if node.key_range().is_none() {
            let leaf_root = place.is_root && place.level == 0;
            self.report.expect(leaf_root, "T5", || format!("the node at block {addr} is empty"));
            return leaf_root;
        }
        let inside = check_bounds(node, place.bounds()).is_ok();
        self.report.expect(inside, "T2", || {
            format!("the node at block {addr} has keys outside of the range that its parent says")
        });
        inside
    }
}
