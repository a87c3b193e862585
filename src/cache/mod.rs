//! Nodes in memory: the type of a node, and the cache of clean ones.
//!
//! A *clean* node stands on disk; any number of readers share it through this cache, which holds at
//! most a fixed number of bytes and drops what was not used lately (CLOCK). A *dirty* node is linked
//! from its parent by an [`Arc`] and is not here: it can't be dropped before a checkpoint has written it.
//!
//! Invariants:
//! 1. A node that comes out of [`NodeCache::load`] has the address, birth, level and BLAKE3 hash that
//!    its parent's pointer says.
//! 2. The cache holds no node of an address that is free: [`NodeCache::forget`] is called when an
//!    address is handed out again.
//! 3. A cached node links no other node, so that dropping it gives its memory back.
//!
//! Locks: one mutex per shard, held for a look-up or an insertion, never during I/O, and below every
//! other lock.

mod clock;
mod node;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::device::BlockDevice;
use crate::format::{BlockNo, DecodeError, Hash, NODE_SIZE, empty_page};
use crate::threads::{Mutex, Planted, planted};
use clock::Clock;
pub use node::{Body, Child, Internal, Node};

/// Shards: more than threads, so that two rarely meet at one lock.
const SHARDS: usize = 64;

/// Why a node could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The device failed.
    #[error("reading the node at block {addr}: {source}")]
    Io {
        /// Block of the node.
        addr: BlockNo,
        /// Cause.
        source: std::io::Error,
    },
    /// The bytes do not have the hash that the parent's pointer says.
    #[error("the node at block {addr} is damaged: its hash does not match")]
    Hash {
        /// Block of the node.
        addr: BlockNo,
    },
    /// The bytes have the right hash, but are no well-formed node.
    #[error("the node at block {addr} is malformed: {source}")]
    Decode {
        /// Block of the node.
        addr: BlockNo,
        /// What is wrong.
        source: DecodeError,
    },
    /// The node holds keys that its parent does not send there, or nothing where it must hold something.
    #[error(
        "the node at block {addr} is empty, or has keys outside of the range that its parent says"
    )]
    Range {
        /// Block of the node.
        addr: BlockNo,
    },
    /// The node stands at another level than its parent says.
    #[error("the node at block {addr} has level {found}, expected {expected}")]
    Level {
        /// Block of the node.
        addr: BlockNo,
        /// Level in the node.
        found: u8,
        /// Level that follows from its parent.
        expected: u8,
    },
}

/// Counts since the cache was made.
#[derive(Debug, Clone, Copy, Default)]
pub struct CacheStatus {
    /// Bytes of cached nodes.
    pub bytes: u64,
    /// Limit.
    pub limit_bytes: u64,
    /// Look-ups that found the node.
    pub hits: u64,
    /// Look-ups that read it.
    pub misses: u64,
}

/// The clean nodes of a pool.
#[derive(Debug)]
pub struct NodeCache {
    device: Arc<dyn BlockDevice>,
    shards: Vec<Mutex<Clock>>,
    limit_bytes: u64,
    misses: AtomicU64,
}

impl NodeCache {
    /// Makes an empty cache of at most `limit_bytes` over the pool's data device.
    pub fn new(device: Arc<dyn BlockDevice>, limit_bytes: u64) -> Self {
        let per_shard = usize::try_from(limit_bytes).unwrap_or(usize::MAX) / SHARDS;
        let shards = (0..SHARDS).map(|_| Mutex::new(Clock::new(per_shard))).collect();
        NodeCache { device, shards, limit_bytes, misses: AtomicU64::new(0) }
    }

    fn shard(&self, addr: BlockNo) -> &Mutex<Clock> {
        // Node addresses are often multiples of four: mix before the cut.
        let mixed = (addr.0 ^ (addr.0 >> 8)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        &self.shards[mixed as usize % SHARDS]
    }

    /// Returns the node that `child` points to, at `level`, from memory or verified from the device.
    pub fn load(&self, child: &Child, level: u8) -> Result<Arc<Node>, Error> {
        if let Some(node) = &child.node {
            return Ok(Arc::clone(node));
        }
        if let Some(node) = self.shard(child.addr).lock().get(child.addr)
            && node.birth == child.birth
            && node.level() == level
        {
            return Ok(node);
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        let node = Arc::new(self.read(child, level)?);
        self.insert(Arc::clone(&node));
        Ok(node)
    }

    /// Reads and verifies a node past the cache.
    pub fn read(&self, child: &Child, level: u8) -> Result<Node, Error> {
        let addr = child.addr;
        let mut page = empty_page();
        self.device
            .read_at(addr.offset_bytes(), page.as_mut_slice())
            .map_err(|source| Error::Io { addr, source })?;
        debug_assert_eq!(page.len(), NODE_SIZE);
        if Hash(*blake3::hash(page.as_slice()).as_bytes()) != child.hash {
            return Err(Error::Hash { addr });
        }
        let node = Node::decode(page, child).map_err(|source| Error::Decode { addr, source })?;
        if node.level() != level {
            return Err(Error::Level { addr, found: node.level(), expected: level });
        }
        Ok(node)
    }

    /// Adds a clean node, which must link no other (invariant 3).
    pub fn insert(&self, node: Arc<Node>) {
        self.shard(node.addr).lock().insert(node);
    }

    /// Drops the node at `addr`, whose block gets another content.
    pub fn forget(&self, addr: BlockNo) {
        if !planted(Planted::NothingForgotten) {
            self.shard(addr).lock().remove(addr);
        }
    }

    /// Drops every node: for tests and measurements of cold reads.
    pub fn clear(&self) {
        self.shards.iter().for_each(|shard| shard.lock().clear());
    }

    /// Figures of the cache.
    pub fn status(&self) -> CacheStatus {
        let mut status = CacheStatus {
            limit_bytes: self.limit_bytes,
            misses: self.misses.load(Ordering::Relaxed),
            ..CacheStatus::default()
        };
        for shard in &self.shards {
            let shard = shard.lock();
            status.bytes += shard.bytes() as u64;
            status.hits += shard.hits();
        }
        status
    }
}
