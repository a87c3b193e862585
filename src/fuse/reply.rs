//! Replies: each request that wants one gets exactly one.
//!
//! Invariant 1: a [`Reply`] that is dropped unsent, also by a panic that unwinds through its
//! handler, answers EIO. So no caller hangs for a handler's mistake.

use std::io::IoSlice;
use std::sync::Arc;

use super::abi::OUT_HEADER_BYTES;
use super::device::Device;
use super::in_flight::Noted;
use crate::pool::{EarlierAnswers, Pool};

/// The place where a request's reply goes.
#[derive(Debug)]
pub(crate) struct Reply {
    device: Arc<Device>,
    unique: u64,
    pending: bool,
    /// Dropped after the reply has been sent.
    noted: Option<Noted>,
    /// An earlier process may have carried the request out, and its answer is kept until then.
    earlier: Option<Arc<EarlierAnswers>>,
}

impl Reply {
    /// For the request `unique`; `wanted` is false for those that get no reply (FORGET).
    pub(crate) fn new(device: Arc<Device>, unique: u64, wanted: bool) -> Self {
        Reply { device, unique, pending: wanted, noted: None, earlier: None }
    }

    /// The request is kept there, and no longer where it was before, until it has its reply.
    pub(crate) fn noted(&mut self, noted: Option<Noted>) {
        self.noted = noted;
    }

    /// The request has come before.
    pub(crate) fn comes_again(&mut self, pool: &Pool) {
        self.earlier = Some(pool.earlier_answers());
    }

    /// Succeeds without a payload.
    pub(crate) fn ok(mut self) {
        self.write(0, None);
    }

    /// Succeeds with a payload.
    pub(crate) fn data(self, payload: &[u8]) {
        self.deliver(payload);
    }

    /// Succeeds with a payload; false when the kernel did not take it.
    pub(crate) fn deliver(mut self, payload: &[u8]) -> bool {
        self.write(0, Some(payload))
    }

    /// Fails with a positive errno.
    pub(crate) fn error(mut self, errno: i32) {
        self.write(errno, None);
    }

    /// Sends nothing: for requests that take no reply, and for a session that has ended.
    pub(crate) fn none(mut self) {
        self.pending = false;
    }

    fn write(&mut self, errno: i32, payload: Option<&[u8]>) -> bool {
        if !std::mem::take(&mut self.pending) {
            return true;
        }
        let payload = payload.unwrap_or_default();
        let len = OUT_HEADER_BYTES + payload.len();
        let header = out_header(len, -errno, self.unique);
        let sent = self.device.send(&[IoSlice::new(&header), IoSlice::new(payload)]);
        match sent {
            Ok(()) => true,
            Err(error) => {
                self.refused(&error, len);
                false
            }
        }
    }

    /// ENOENT: the caller was killed and its request is gone. Anything else is told to the kernel
    /// as EIO, because the caller would wait for ever.
    fn refused(&self, error: &std::io::Error, len: usize) {
        if error.raw_os_error() == Some(libc::ENOENT) || self.device.ended() {
            return;
        }
        tracing::warn!(unique = self.unique, len, %error, "the kernel refused a reply");
        let header = out_header(OUT_HEADER_BYTES, -libc::EIO, self.unique);
        if let Err(error) = self.device.send(&[IoSlice::new(&header)]) {
            tracing::debug!(unique = self.unique, %error, "and the error that replaced it");
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.write(libc::EIO, None);
    }
}

/// Builds `fuse_out_header`: length, negative errno (or a notification's code), request.
pub(crate) fn out_header(len: usize, error: i32, unique: u64) -> [u8; OUT_HEADER_BYTES] {
    let mut header = [0; OUT_HEADER_BYTES];
    // No reply comes near 4 GiB: payloads end at `MAX_PAYLOAD_BYTES`.
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    let (words, rest) = header.split_at_mut(8);
    let (first, second) = words.split_at_mut(4);
    first.copy_from_slice(&len.to_ne_bytes());
    second.copy_from_slice(&error.to_ne_bytes());
    rest.copy_from_slice(&unique.to_ne_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    fn pair() -> (Arc<Device>, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Arc::new(Device::new(ours.into())), theirs)
    }

    fn read(stream: &mut UnixStream, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn sends_header_and_payload() {
        let (device, mut kernel) = pair();
        Reply::new(device, 9, true).data(b"hello");
        let mut expected = out_header(21, 0, 9).to_vec();
        expected.extend(b"hello");
        assert_eq!(read(&mut kernel, 21), expected);
    }

    #[test]
    fn a_panicking_handler_answers_eio() {
        let (device, mut kernel) = pair();
        let reply = Reply::new(device, 5, true);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _reply = reply;
            panic!("on purpose");
        }));
        assert!(outcome.is_err());
        assert_eq!(read(&mut kernel, 16), out_header(16, -libc::EIO, 5));
    }

    #[test]
    fn nothing_is_sent_where_nothing_is_wanted() {
        let (device, mut kernel) = pair();
        drop(Reply::new(device.clone(), 5, false));
        Reply::new(device.clone(), 6, true).none();
        drop(device);
        let mut rest = Vec::new();
        kernel.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty());
    }
}
