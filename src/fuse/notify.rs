//! Notifications: telling the kernel what changed behind its back.
//!
//! Lock order: one that writes pages back waits for requests to be served, so it is never sent
//! from a worker. None here waits for a directory's lock.

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
        // Offset 0 and length 0: from the start to the end.
        self.inval(node, 0)
    }

    /// Drops the node's cached attributes; waits for nothing.
    pub(crate) fn inval_attributes(&self, node: u64) -> io::Result<()> {
        // A negative offset leaves the pages alone.
        self.inval(node, -1)
    }

    /// Has every request sent again that was read and not replied to.
    pub(crate) fn resend(&self) -> io::Result<()> {
        self.send(notify::RESEND, &[])
    }

    /// `fuse_notify_inval_inode_out`.
    fn inval(&self, node: u64, offset: i64) -> io::Result<()> {
        let mut out = Out::new();
        out.u64(node).i64(offset).i64(0);
        self.send(notify::INVAL_INODE, out.bytes())
    }

    /// Not an error: ENOENT, the kernel has nothing of the kind cached.
    fn send(&self, code: i32, payload: &[u8]) -> io::Result<()> {
        let header = out_header(OUT_HEADER_BYTES + payload.len(), code, 0);
        match self.device.send(&[IoSlice::new(&header), IoSlice::new(payload)]) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other,
        }
    }
}
