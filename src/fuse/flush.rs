//! Bringing in the pages that are still dirty in the kernel.
//!
//! With the writeback cache a write(2) or a store to a shared mapping that has returned is known to
//! the kernel alone. Before a snapshot every inode that is open for writing is flushed: a closed
//! one has been, by close, release or munmap. syncfs(2) would not do it: on FUSE it starts no
//! write-back (see docs/architecture.md).
//!
//! The way: the inode is opened by its handle and fsynced, which writes back what was dirty when
//! the call began, no more, and sends the times that the kernel keeps. The WRITE, SETATTR and FSYNC
//! requests that this causes are served by the workers meanwhile; that FSYNC has nothing to do, for
//! a snapshot is made durable as a whole. A helper process does it where there is one
//! ([`super::helper`] says why), otherwise the calling thread.
//!
//! The mount is opened for the time of the flush alone, since an open descriptor would keep it
//! from being unmounted. Where the daemon may not open by handle (CAP_DAC_READ_SEARCH), because an
//! ordinary user mounted, it opens by path. What has none any more, or is out of reach because
//! another mount covers the mount point, the kernel is told to drop the pages of, and writes them
//! back first: slower by an order of magnitude, and the file's mtime stays behind until the file is
//! closed.
//!
//! Lock order: a flush waits for inode locks, whose holders wait for workers or for a lane. So none
//! runs on a worker, none runs in the lane in which FSYNC requests wait, and the write-back for a
//! caller that holds an inode's lock waits for no flush: it has a helper of its own.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard};

use super::helper::Helper;
use super::notify::Notifier;
use super::write_back::{How, Place, Target};
use crate::fs::NodeId;

/// Flushes inodes of one mount.
#[derive(Debug)]
pub(crate) struct Flusher {
    dir: PathBuf,
    place: OnceLock<Place>,
    notifier: Notifier,
    /// For flushes, and for write-backs on behalf of a caller that holds the inode's lock.
    helpers: Option<(Helper, Helper)>,
    /// Held while the kernel is asked what it has, which keeps the mount busy.
    asking: Mutex<()>,
    /// Thread ids that are flushing now, and how many, so that the common case takes no lock.
    threads: Mutex<Vec<u32>>,
    running: AtomicUsize,
}

impl Flusher {
    /// `program` is what runs [`super::flush_helper`] when started with its argument.
    pub(crate) fn new(dir: PathBuf, notifier: Notifier, program: Option<PathBuf>) -> Self {
        let (asking, threads, running) = Default::default();
        let helpers = program.map(|program| (Helper::new(program.clone()), Helper::new(program)));
        Flusher { dir, place: OnceLock::new(), notifier, helpers, asking, threads, running }
    }

    /// Says by which `st_dev` the mount is known.
    pub(crate) fn set_device_number(&self, device_number: u64) {
        self.place.get_or_init(|| Place { dir: self.dir.clone(), device_number });
    }

    /// Whether a request with this thread id comes from a flush.
    pub(crate) fn is_flushing(&self, thread: u32) -> bool {
        self.running.load(Ordering::Acquire) > 0 && self.threads.lock().contains(&thread)
    }

    /// Brings in what was dirty of these nodes when the call began. `path` says where a node is.
    pub(crate) fn flush(&self, nodes: &[NodeId], path: impl Fn(NodeId) -> Option<Vec<u8>>) {
        let nodes = nodes.iter().filter(|node| node.is_live());
        let targets: Vec<_> = nodes.map(|node| Target::by_handle(node.0)).collect();
        let helper = self.helpers.as_ref().map(|(flush, _)| flush);
        let refused = self.bring_in(helper, &targets, How::Fsync);
        let named = refused.iter().filter_map(|&node| {
            let path = path(NodeId(node))?;
            Some(Target { node, path })
        });
        let named: Vec<_> = named.collect();
        let still = self.bring_in(helper, &named, How::Fsync);
        let reached =
            |node: &u64| named.iter().any(|target| target.node == *node) && !still.contains(node);
        self.drop_pages(refused.iter().copied().filter(|node| !reached(node)));
    }

    /// Brings in the nodes' pages for a caller that holds an inode's lock: fsync would wait for
    /// it, and it for us.
    pub(crate) fn write_back(&self, nodes: &[NodeId]) {
        let helper = self.helpers.as_ref().map(|(_, write_back)| write_back);
        let targets: Vec<_> = nodes.iter().map(|node| Target::by_handle(node.0)).collect();
        let refused = self.bring_in(helper, &targets, How::Pages);
        self.drop_pages(refused.into_iter());
    }

    /// Has the kernel ask for the attributes of these nodes again.
    pub(crate) fn forget_attributes(&self, nodes: &[NodeId]) {
        for node in nodes {
            if let Err(error) = self.notifier.inval_attributes(node.0) {
                tracing::debug!(node = node.0, %error, "attributes stay with the kernel");
            }
        }
    }

    /// Returns those of the nodes that the kernel has nothing of; none where it can't be asked.
    pub(crate) fn absent(&self, nodes: &[NodeId]) -> Vec<NodeId> {
        if self.place.get().is_none() {
            return Vec::new();
        }
        let helper = self.helpers.as_ref().map(|(_, write_back)| write_back);
        let targets: Vec<_> = nodes.iter().map(|node| Target::by_handle(node.0)).collect();
        let _asking = self.asking.lock();
        self.bring_in(helper, &targets, How::Absent).into_iter().map(NodeId).collect()
    }

    /// While it lives, nobody is asked what is absent, and so the mount is not busy by that.
    pub(crate) fn without_asking(&self) -> MutexGuard<'_, ()> {
        self.asking.lock()
    }

    /// The last resort.
    fn drop_pages(&self, nodes: impl Iterator<Item = u64>) {
        for node in nodes {
            if let Err(error) = self.notifier.inval_inode(node) {
                tracing::warn!(node, %error, "the kernel did not write a file back");
            }
        }
    }

    /// Brings in what can be opened; returns the other nodes.
    fn bring_in(&self, helper: Option<&Helper>, targets: &[Target], how: How) -> Vec<u64> {
        if targets.is_empty() {
            return Vec::new();
        }
        let Some(place) = self.place.get() else {
            return targets.iter().map(|target| target.node).collect();
        };
        if let Some(helper) = helper {
            let known = |process| self.register(process);
            match helper.bring_in(place, targets, how, known) {
                Ok(refused) => return refused,
                Err(error) => tracing::warn!(%error, "the flush helper failed; doing without"),
            }
        }
        // A thread id is positive.
        let thread = rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned();
        let _flushing = self.register(thread);
        place.bring_in(targets, how, || true)
    }

    fn register(&self, thread: u32) -> Flushing<'_> {
        self.threads.lock().push(thread);
        self.running.fetch_add(1, Ordering::Release);
        Flushing { flusher: self, thread }
    }
}

/// While it lives, requests of this thread are known as a flush's.
struct Flushing<'a> {
    flusher: &'a Flusher,
    thread: u32,
}

impl Drop for Flushing<'_> {
    fn drop(&mut self) {
        self.flusher.running.fetch_sub(1, Ordering::Release);
        let mut threads = self.flusher.threads.lock();
        if let Some(at) = threads.iter().position(|&thread| thread == self.thread) {
            threads.swap_remove(at);
        }
    }
}
