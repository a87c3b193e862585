//! What fuzzers call: the decoder of requests, and the whole adapter with a fuzzer in the kernel's place.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::retry_on_intr;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

use super::decode::{Header, Operation, Request};
use super::mount::Mount;
use crate::fs::Filesystem;

pub use super::abi::{IN_HEADER_BYTES, MAX_PAYLOAD_BYTES, RESENT, opcode};

/// Decodes bytes as a request, with a header that says their length.
pub fn request(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_ne_bytes();
    if let Some(field) = bytes.first_chunk_mut::<4>() {
        *field = len;
    }
    decodes(&bytes);
}

/// Whether bytes are a request.
pub fn decodes(bytes: &[u8]) -> bool {
    let Ok((header, body, extensions)) = Header::decode(bytes) else { return false };
    let _ = header.wants_reply();
    let request = Request::decode_body(header, body, extensions);
    if let Ok(Operation::BatchForget { forgets }) = request.as_ref().map(|it| it.operation) {
        forgets.for_each(|_, _| {});
    }
    request.is_ok()
}

/// A session with workers and lanes as a mount has them, on a socket in the place of `/dev/fuse`.
#[derive(Debug)]
pub struct Session {
    mount: Mount,
    kernel: OwnedFd,
}

impl Session {
    /// Serves `fs`.
    ///
    /// # Errors
    /// There is no socket, or no thread.
    pub fn new(fs: Arc<Filesystem>) -> io::Result<Session> {
        /// Beside the largest payload the system counts what it needs for the message itself.
        const ROOM: usize = 4 * MAX_PAYLOAD_BYTES;
        let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let (kernel, ours) = rustix::net::socketpair(family, kind, SocketFlags::CLOEXEC, None)?;
        for end in [&kernel, &ours] {
            // Only root gets so much; for others the largest messages are refused, as the kernel may, too.
            if sockopt::set_socket_send_buffer_size_force(end, ROOM).is_err() {
                sockopt::set_socket_send_buffer_size(end, ROOM)?;
            }
        }
        Ok(Session { mount: Mount::unseen(fs, ours)?, kernel })
    }

    /// Sends a request.
    ///
    /// # Errors
    /// EMSGSIZE when it is larger than the socket takes, EAGAIN when replies have to be received first.
    pub fn send(&self, bytes: &[u8]) -> io::Result<()> {
        rustix::net::send(&self.kernel, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Receives a reply or a notification, and returns its length; none when none comes in time.
    ///
    /// # Errors
    /// The socket's.
    pub fn receive(&self, buffer: &mut [u8], timeout: Duration) -> io::Result<Option<usize>> {
        let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
        let mut polled = [PollFd::new(&self.kernel, PollFlags::IN)];
        // libFuzzer watches by a timer, whose signals interrupt.
        if retry_on_intr(|| rustix::event::poll(&mut polled, Some(&timeout)))? == 0 {
            return Ok(None);
        }
        let (_, len) = rustix::net::recv(&self.kernel, buffer, RecvFlags::TRUNC)?;
        Ok(Some(len))
    }

    /// Ends the session as an unmount does; whether its workers and lanes have ended in time.
    ///
    /// # Errors
    /// The socket's.
    pub fn end(&self, timeout: Duration) -> io::Result<bool> {
        rustix::net::shutdown(&self.kernel, rustix::net::Shutdown::Write)?;
        Ok(self.mount.wait_timeout(timeout))
    }
}
