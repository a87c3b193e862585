//! Background reclaim: frees what deleted members held, in bounded steps that survive a crash.

use std::ops::ControlFlow;

use super::{Error, Lineage};
use crate::btree::{Store, check_bounds};
use crate::cache::{Body, Child};
use crate::format::{
    Epoch, Extent, Key, KeyKind, Leaf, MAX_SUB, MemberId, MemberKind, NODE_BLOCKS, Run,
};

/// Larger than every epoch that a key can hold.
pub(super) const ALL: Epoch = Epoch(MAX_SUB);

/// What a step of reclaim did.
#[derive(Debug, Default)]
pub struct Progress {
    /// Blocks to which a reference is gone: data, whose shared count is still to be lowered.
    pub data: Vec<Run>,
    /// Nodes to which the only reference is gone.
    pub nodes: Vec<Run>,
    /// The member whose tree is now freed wholly.
    pub finished: Option<MemberId>,
    /// Nodes that could not be read; what lies below them is lost until a check with repair.
    pub unreadable: Vec<String>,
}

impl Lineage {
    /// Number of items of work left: chains of dead references, and trees.
    pub fn work_left(&self) -> u64 {
        let trees = self.members.values().filter(|m| m.record.kind == MemberKind::Freeing);
        (self.work.len() + trees.count()) as u64
    }

    /// Does about `budget` chunks or nodes of work; `None` when there is none.
    pub fn reclaim(
        &mut self,
        mut budget: usize,
        store: &mut dyn Store,
    ) -> Result<Option<Progress>, Error> {
        let mut progress = Progress::default();
        if let Some(number) = self.work.keys().next().copied() {
            while budget > 0 && self.reclaim_chunk(number, &mut progress, store)? {
                budget -= 1;
            }
            return Ok(Some(progress));
        }
        let freeing = |(id, m): (&MemberId, &super::Member)| {
            (m.record.kind == MemberKind::Freeing).then_some(*id)
        };
        let Some(id) = self.members.iter().find_map(freeing) else { return Ok(None) };
        self.reclaim_tree(id, budget, &mut progress, store)?;
        Ok(Some(progress))
    }

    /// Frees the references of an item's first chunk; false when the item is done.
    fn reclaim_chunk(
        &mut self,
        number: u64,
        progress: &mut Progress,
        store: &mut dyn Store,
    ) -> Result<bool, Error> {
        let Some(mut chain) = self.work.get(&number).copied() else { return Ok(false) };
        if chain.first != 0 {
            let chunk = self.chunk(chain.first, store)?;
            self.tree.remove(store, Key::chunk(chain.first))?;
            chain.first = chunk.next;
            for dead in &chunk.refs {
                chain.blocks = chain.blocks.saturating_sub(u64::from(dead.run.len_blocks));
                if !chain.forget {
                    progress.data.push(dead.run);
                }
            }
        }
        if chain.first == 0 {
            self.work.remove(&number);
            self.tree.remove(store, Key::reclaim(number))?;
            return Ok(false);
        }
        self.work.insert(number, chain);
        self.tree.insert(store, Key::reclaim(number), &chain.to_bytes())?;
        Ok(true)
    }

    /// Walks on in the tree of a freeing member, from its cursor.
    fn reclaim_tree(
        &mut self,
        id: MemberId,
        budget: usize,
        progress: &mut Progress,
        store: &mut dyn Store,
    ) -> Result<(), Error> {
        let member = self.member_mut(id)?;
        let Some(root) = member.root.clone() else {
            return Err(Error::Missing(format!("the root of member {} is missing", id.0)));
        };
        let mut walk = Walk {
            keep: member.record.keep_birth,
            cursor: member.record.cursor,
            budget,
            progress,
            store,
        };
        let done = walk.free(&root.tree.root, root.tree.level, None, None).is_continue();
        let cursor = walk.cursor;
        if done {
            progress.finished = Some(id);
            return self.forget_member(id, store);
        }
        self.member_mut(id)?.record.cursor = cursor;
        self.put_member(id, store)
    }
}

struct Walk<'a> {
    keep: Epoch,
    cursor: Key,
    budget: usize,
    progress: &'a mut Progress,
    store: &'a mut dyn Store,
}

impl Walk<'_> {
    /// Frees the part of the subtree at `child` that lies behind the cursor, children before parents, and
    /// breaks when the budget is spent. `end` is the subtree's upper bound; none for the rightmost.
    ///
    /// Whatever has its upper bound at or before the cursor is freed already and must not be read.
    fn free(
        &mut self,
        child: &Child,
        level: u8,
        low: Option<Key>,
        end: Option<Key>,
    ) -> ControlFlow<()> {
        if child.birth <= self.keep || end.is_some_and(|end| end <= self.cursor) {
            return ControlFlow::Continue(());
        }
        if self.budget == 0 {
            return ControlFlow::Break(());
        }
        let bounds = low.map(|low| (low, end));
        let loaded = self.store.load(child, level);
        match loaded.and_then(|node| check_bounds(&node, bounds).map(|()| node)) {
            Err(error) => self.progress.unreadable.push(error.to_string()),
            Ok(node) => {
                match &node.body {
                    Body::Leaf(leaf) => {
                        self.free_leaf(leaf);
                        self.budget -= 1;
                    }
                    Body::Internal(internal) => {
                        for (at, below) in internal.children.iter().enumerate() {
                            let end = internal.keys.get(at + 1).copied().or(end);
                            self.free(below, level - 1, Some(internal.keys[at]), end)?;
                        }
                    }
                }
                self.progress.nodes.push(Run::new(child.addr, NODE_BLOCKS));
            }
        }
        self.cursor = self.cursor.max(end.unwrap_or(Key::MAX));
        ControlFlow::Continue(())
    }

    fn free_leaf(&mut self, leaf: &Leaf) {
        for at in (0..leaf.len()).filter(|at| leaf.key(*at).is(KeyKind::Extent)) {
            match Extent::decode(leaf.value(at)) {
                Ok(extent) if extent.birth > self.keep => self.progress.data.push(extent.run()),
                Ok(_) => {}
                Err(error) => self.progress.unreadable.push(error.to_string()),
            }
        }
    }
}
