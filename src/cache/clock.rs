//! CLOCK replacement for one shard of the node cache.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use super::node::Node;
use crate::format::BlockNo;

/// Block numbers are spread by one multiplication: they come from our allocator, not from outside.
#[derive(Default, Debug)]
pub(super) struct BlockHasher(u64);

impl Hasher for BlockHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.write_u64(u64::from(*b)));
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
}

#[derive(Debug)]
struct Slot {
    node: Arc<Node>,
    used: bool,
    /// Place in the ring.
    at: usize,
}

/// One shard: nodes by address, and a ring of their addresses with a hand that sweeps it.
#[derive(Debug)]
pub(super) struct Clock {
    slots: HashMap<BlockNo, Slot, BuildHasherDefault<BlockHasher>>,
    ring: Vec<BlockNo>,
    hand: usize,
    bytes: usize,
    limit: usize,
    hits: u64,
}

impl Clock {
    pub(super) fn new(limit: usize) -> Self {
        Clock { slots: HashMap::default(), ring: Vec::new(), hand: 0, bytes: 0, limit, hits: 0 }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn hits(&self) -> u64 {
        self.hits
    }

    pub(super) fn get(&mut self, addr: BlockNo) -> Option<Arc<Node>> {
        let slot = self.slots.get_mut(&addr)?;
        slot.used = true;
        self.hits += 1;
        Some(Arc::clone(&slot.node))
    }

    pub(super) fn insert(&mut self, node: Arc<Node>) {
        let addr = node.addr;
        self.remove(addr);
        self.bytes += node.memory_bytes();
        self.slots.insert(addr, Slot { node, used: false, at: self.ring.len() });
        self.ring.push(addr);
        while self.bytes > self.limit && self.ring.len() > 1 {
            self.evict();
        }
    }

    /// Drops the first node under the hand that was not used since the hand passed it last.
    fn evict(&mut self) {
        loop {
            if self.hand >= self.ring.len() {
                self.hand = 0;
            }
            // The newest, last in the ring, is what the caller is about to use.
            let newest = self.hand + 1 == self.ring.len();
            let addr = self.ring[self.hand];
            match self.slots.get_mut(&addr) {
                Some(slot) if slot.used || newest => {
                    slot.used = false;
                    self.hand += 1;
                }
                _ => return self.remove(addr),
            }
        }
    }

    pub(super) fn remove(&mut self, addr: BlockNo) {
        let Some(slot) = self.slots.remove(&addr) else { return };
        self.bytes -= slot.node.memory_bytes();
        self.ring.swap_remove(slot.at);
        if let Some(moved) = self.ring.get(slot.at).and_then(|moved| self.slots.get_mut(moved)) {
            moved.at = slot.at;
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Clock { hits: self.hits, ..Clock::new(self.limit) };
    }
}

#[cfg(test)]
mod tests {
    use super::super::node::tests::leaf_at;
    use super::*;

    #[test]
    fn it_keeps_to_its_limit_and_keeps_what_is_used() {
        let size = leaf_at(0).memory_bytes();
        let mut clock = Clock::new(size * 10);
        for addr in 0..10 {
            clock.insert(Arc::new(leaf_at(addr)));
        }
        for round in 0..100 {
            assert!(clock.get(BlockNo(3)).is_some(), "round {round}");
            clock.insert(Arc::new(leaf_at(100 + round)));
            assert!(clock.bytes() <= size * 10);
            assert_eq!(clock.ring.len(), clock.slots.len());
        }
        clock.remove(BlockNo(3));
        assert!(clock.get(BlockNo(3)).is_none());
    }

    #[test]
    fn a_cache_too_small_for_one_node_still_serves_it() {
        let mut clock = Clock::new(1);
        clock.insert(Arc::new(leaf_at(1)));
        assert!(clock.get(BlockNo(1)).is_some());
        clock.insert(Arc::new(leaf_at(2)));
        assert!(clock.get(BlockNo(1)).is_none());
    }
}
