//! A session whose filesystem can't be served any more: every request is answered with EIO.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::abi::MAX_PAYLOAD_BYTES;
use super::decode::Header;
use super::device::{Device, Received};
use super::in_flight::InFlight;
use super::notify::Notifier;
use super::reply::Reply;

/// Room for the largest request.
const REQUEST_BYTES: usize = MAX_PAYLOAD_BYTES + (64 << 10);

/// Answers every request of a session with EIO, those first that an earlier process has not replied to
/// (in `requests`, or sent again by the kernel), until the session ends.
///
/// # Errors
/// What reading from the descriptor gives beyond the session's end.
pub fn refuse_everything(session: OwnedFd, requests: Option<OwnedFd>) -> io::Result<()> {
    let device = Arc::new(Device::new(session));
    if let Some(requests) = requests {
        let left = InFlight::open(requests).and_then(|requests| requests.left_uniques());
        let left = left.unwrap_or_else(|error| {
            tracing::error!(%error, "who waits for an earlier process waits until the unmount");
            HashSet::new()
        });
        for unique in left {
            Reply::new(Arc::clone(&device), unique, true).error(libc::EIO);
        }
    } else if let Err(error) = Notifier::new(Arc::clone(&device)).resend() {
        tracing::debug!(%error, "nothing is sent again");
    }
    let mut buffer = vec![0; REQUEST_BYTES];
    loop {
        let Received::Request(len) = device.receive(&mut buffer)? else { return Ok(()) };
        if let Ok((header, ..)) = Header::decode(buffer.get(..len).unwrap_or_default()) {
            Reply::new(Arc::clone(&device), header.unique, header.wants_reply()).error(libc::EIO);
        }
    }
}
