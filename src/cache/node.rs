//! A node in memory: a leaf in its on-disk form, or an internal node's keys and children.

use std::sync::{Arc, OnceLock};

use crate::format::{
    BlockNo, DecodeError, Epoch, Hash, Key, Leaf, MAX_CHILDREN, NODE_SIZE, NodePtr, Page,
    decode_internal, encode_internal, page_level,
};

/// A child as its parent knows it.
#[derive(Debug, Clone)]
pub struct Child {
    /// Block where it lies or will lie.
    pub addr: BlockNo,
    /// Epoch in which it came to be.
    pub birth: Epoch,
    /// BLAKE3 of its page; meaningless while `node` links a dirty node.
    pub hash: Hash,
    /// The node itself while it is dirty, or written but not yet swept.
    pub node: Option<Arc<Node>>,
}

impl Child {
    /// A child that stands on disk.
    pub fn clean(ptr: NodePtr) -> Self {
        Child { addr: ptr.addr, birth: ptr.birth, hash: ptr.hash, node: None }
    }

    /// A child that is only in memory.
    pub fn dirty(node: Node) -> Self {
        let (addr, birth) = (node.addr, node.birth);
        Child { addr, birth, hash: Hash::default(), node: Some(Arc::new(node)) }
    }

    /// Pointer with the hash; none while the node has not been written.
    pub fn ptr(&self) -> Option<NodePtr> {
        let hash = match &self.node {
            None => self.hash,
            Some(node) => *node.hash.get()?,
        };
        Some(NodePtr { addr: self.addr, birth: self.birth, hash })
    }

    /// Whether it is in memory and not yet written.
    pub fn is_dirty(&self) -> bool {
        self.node.as_ref().is_some_and(|node| node.hash.get().is_none())
    }
}

/// A node in memory.
#[derive(Debug)]
pub struct Node {
    /// Block where it lies or will lie.
    pub addr: BlockNo,
    /// Epoch in which it came to be.
    pub birth: Epoch,
    /// Set when it has been given to a checkpoint's writer: from then on it must not change.
    pub hash: OnceLock<Hash>,
    /// Content.
    pub body: Body,
}

/// Content of a node.
#[derive(Debug, Clone)]
pub enum Body {
    /// Keys and values.
    Leaf(Leaf),
    /// Keys and children.
    Internal(Internal),
}

/// Keys and children of an internal node; child `i` holds the keys from `keys[i]` up to `keys[i + 1]`.
#[derive(Debug, Clone, Default)]
pub struct Internal {
    /// Height above the leaves, at least 1.
    pub level: u8,
    /// Lower bounds of the children's keys, rising.
    pub keys: Vec<Key>,
    /// Children, as many as keys.
    pub children: Vec<Child>,
}

impl Internal {
    /// Index of the child that `key` belongs to.
    pub fn child_for(&self, key: Key) -> usize {
        self.keys.partition_point(|k| *k <= key).saturating_sub(1)
    }
}

impl Node {
    /// Makes a dirty node.
    pub fn new(addr: BlockNo, birth: Epoch, body: Body) -> Self {
        Node { addr, birth, hash: OnceLock::new(), body }
    }

    /// Decodes a page whose hash has been verified against `child`.
    pub(super) fn decode(page: Page, child: &Child) -> Result<Node, DecodeError> {
        let body = if page_level(&page) == 0 {
            Body::Leaf(Leaf::decode(page, child.addr, child.birth)?)
        } else {
            let (level, entries) = decode_internal(&page, child.addr, child.birth)?;
            let (keys, ptrs): (Vec<_>, Vec<_>) = entries.into_iter().unzip();
            let children = ptrs.into_iter().map(Child::clean).collect();
            Body::Internal(Internal { level, keys, children })
        };
        Ok(Node { hash: OnceLock::from(child.hash), ..Node::new(child.addr, child.birth, body) })
    }

    /// Writes the node's page to `out` and fixes its hash. Every child has been sealed before.
    pub fn seal(&self, out: &mut [u8; NODE_SIZE]) -> Hash {
        match &self.body {
            Body::Leaf(leaf) => leaf.encode(self.addr, self.birth, out),
            Body::Internal(internal) => {
                let entries = internal.keys.iter().zip(&internal.children).map(|(key, child)| {
                    let ptr =
                        child.ptr().unwrap_or_else(|| panic!("child {} has no hash", child.addr));
                    (*key, ptr)
                });
                encode_internal(internal.level, entries, self.addr, self.birth, out);
            }
        }
        let hash = Hash(*blake3::hash(out.as_slice()).as_bytes());
        *self.hash.get_or_init(|| hash)
    }

    /// The first and the last key; of an internal node the children's lower bounds. None for an empty leaf.
    pub fn key_range(&self) -> Option<(Key, Key)> {
        match &self.body {
            Body::Leaf(leaf) => {
                let last = leaf.len().checked_sub(1)?;
                Some((leaf.key(0), leaf.key(last)))
            }
            Body::Internal(internal) => Some((*internal.keys.first()?, *internal.keys.last()?)),
        }
    }

    /// Height above the leaves; 0 for a leaf.
    pub fn level(&self) -> u8 {
        match &self.body {
            Body::Leaf(_) => 0,
            Body::Internal(internal) => internal.level,
        }
    }

    /// Bytes that the node takes in memory, for the cache's limit.
    pub fn memory_bytes(&self) -> usize {
        let body = match &self.body {
            Body::Leaf(_) => NODE_SIZE,
            Body::Internal(_) => MAX_CHILDREN * (size_of::<Key>() + size_of::<Child>()),
        };
        // The node itself, its counts, and its place in the cache's ring and index.
        body + size_of::<Node>() + 64
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An empty leaf at block `addr`.
    pub(in crate::cache) fn leaf_at(addr: u64) -> Node {
        Node::new(BlockNo(addr), Epoch(1), Body::Leaf(Leaf::default()))
    }
}
