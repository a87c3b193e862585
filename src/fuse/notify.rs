//! Notifications: telling the kernel what changed behind its back.
//!
//! Lock order: a notification may wait for pages under write-back and for directory locks, which
//! other requests hold while they wait for a worker. So none is ever sent from a worker.

use std::io::{self, IoSlice};
use std::sync::Arc;

use super::abi::{OUT_HEADER_BYTES, notify};
use super::device::Device;
use super::encode::Out;
use super::reply::out_header;

/// Sends notifications over a session's descriptor.
#[derive(Debug, Clone)]
pub(crate) struct Notifier {
    device: Arc<Device>,
}

impl Notifier {
    pub(crate) fn new(device: Arc<Device>) -> Self {
        Notifier { device }
    }

    /// Writes the node's dirty pages back, then drops its cached attributes and pages.
    pub(crate) fn inval_inode(&self, node: u64) -> io::Result<()> {
        let mut out = Out::new();
        // Offset 0 and length 0: from the start to the end.
        out.u64(node).u64(0).u64(0);
        self.send(notify::INVAL_INODE, &[out.bytes()])
    }

    /// Drops what is cached about a name, and the subtree's dentries below it.
    pub(crate) fn inval_entry(&self, parent: u64, name: &[u8]) -> io::Result<()> {
        let mut out = Out::new();
        out.u64(parent).u32(u32::try_from(name.len()).unwrap_or(u32::MAX)).u32(0);
        self.send(notify::INVAL_ENTRY, &[out.bytes(), name, b"\0"])
    }

    /// Not an error: ENOENT, the kernel has nothing of the kind cached.
    fn send(&self, code: i32, parts: &[&[u8]]) -> io::Result<()> {
        let len = OUT_HEADER_BYTES + parts.iter().map(|part| part.len()).sum::<usize>();
        let header = out_header(len, code, 0);
        let mut slices = vec![IoSlice::new(&header)];
        slices.extend(parts.iter().map(|part| IoSlice::new(part)));
        match self.device.send(&slices) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other,
        }
    }
}
