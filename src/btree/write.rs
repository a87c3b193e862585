//! Writing dirty nodes at a checkpoint, and turning them into clean ones after it.

use std::io;
use std::sync::Arc;

use crate::cache::{Body, Child, Node, NodeCache};
use crate::device::BlockDevice;
use crate::format::{BlockNo, NODE_BLOCKS, NODE_SIZE, Page, empty_page};

/// Nodes gathered before they are sorted and written: 4 MiB.
const BATCH_NODES: usize = 256;

/// Gathers sealed nodes and writes them in large sequential writes.
#[derive(Debug)]
pub struct Writeback<'a> {
    device: &'a dyn BlockDevice,
    batch: Vec<(BlockNo, Page)>,
    spare: Vec<Page>,
    buffer: Vec<u8>,
    /// Nodes written so far.
    pub nodes: u64,
}

impl<'a> Writeback<'a> {
    /// Writes to the pool's data device.
    pub fn new(device: &'a dyn BlockDevice) -> Self {
        Writeback { device, batch: Vec::new(), spare: Vec::new(), buffer: Vec::new(), nodes: 0 }
    }

    fn push(&mut self, node: &Node) -> io::Result<()> {
        let mut page = self.spare.pop().unwrap_or_else(empty_page);
        node.seal(&mut page);
        self.batch.push((node.addr, page));
        self.nodes += 1;
        if self.batch.len() >= BATCH_NODES { self.flush() } else { Ok(()) }
    }

    /// Writes what has been gathered.
    pub fn flush(&mut self) -> io::Result<()> {
        self.batch.sort_unstable_by_key(|(addr, _)| *addr);
        let mut at = 0;
        while at < self.batch.len() {
            let start = self.batch[at].0;
            self.buffer.clear();
            while let Some((addr, page)) = self.batch.get(at)
                && addr.0
                    == start.0 + (self.buffer.len() / NODE_SIZE) as u64 * u64::from(NODE_BLOCKS)
            {
                self.buffer.extend_from_slice(page.as_slice());
                at += 1;
            }
            self.device.write_urgently(start.offset_bytes(), &self.buffer)?;
        }
        self.spare.extend(self.batch.drain(..).map(|(_, page)| page));
        Ok(())
    }
}

/// Seals and writes every dirty node below `child`, children before parents. The tree must be frozen: no
/// one changes its nodes any more.
pub fn write_dirty(child: &Child, out: &mut Writeback<'_>) -> io::Result<()> {
    let Some(node) = &child.node else { return Ok(()) };
    if node.hash.get().is_some() {
        return Ok(());
    }
    if let Body::Internal(internal) = &node.body {
        for below in &internal.children {
            write_dirty(below, out)?;
        }
    }
    out.push(node)
}

/// Turns every written node below `child` into a clean one, which the cache may drop.
///
/// A dirty node that something else shares is left as it is, with what it links; the checkpoint that
/// writes it lets it go.
pub fn sweep(child: &mut Child, cache: &NodeCache) {
    let Some(node) = child.node.take() else { return };
    match node.hash.get() {
        Some(hash) => {
            child.hash = *hash;
            retire_to_cache(node, cache);
        }
        None => {
            let mut node = node;
            if let Some(own) = Arc::get_mut(&mut node)
                && let Body::Internal(internal) = &mut own.body
            {
                internal.children.iter_mut().for_each(|below| sweep(below, cache));
            }
            child.node = Some(node);
        }
    }
}

/// Gives a written node and all below it to the cache, with no links left in them.
fn retire_to_cache(mut node: Arc<Node>, cache: &NodeCache) {
    if let Body::Internal(internal) = &node.body
        && internal.children.iter().any(|below| below.node.is_some())
    {
        let mut internal = internal.clone();
        // With the original gone, the children's nodes are linked here alone where nobody shares them.
        let (addr, birth, hash) = (node.addr, node.birth, node.hash.clone());
        drop(node);
        for below in &mut internal.children {
            if let (Some(ptr), Some(linked)) = (below.ptr(), below.node.take()) {
                below.hash = ptr.hash;
                retire_to_cache(linked, cache);
            }
        }
        node = Arc::new(Node { addr, birth, hash, body: Body::Internal(internal) });
    }
    cache.insert(node);
}
