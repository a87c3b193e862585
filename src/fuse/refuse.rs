//! A session whose filesystem can't be served any more: every request is answered with EIO.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::decode::Header;
use super::device::{Device, Received};
use super::in_flight::{InFlight, Inbox};
use super::notify::Notifier;
use super::reply::Reply;

/// Answers every request of a session with EIO, those first that an earlier process has not replied to
/// (in `requests`, or sent again by the kernel), until the session ends.
///
/// # Errors
/// What reading from the descriptor gives beyond the session's end.
pub fn refuse_everything(session: OwnedFd, requests: Option<OwnedFd>) -> io::Result<()> {
    let device = Arc::new(Device::new(session));
    match requests {
        Some(requests) => {
            if let Err(error) = refuse_left(&device, requests) {
                tracing::error!(%error, "who waits for an earlier process waits until the unmount");
            }
        }
        None => {
            if let Err(error) = Notifier::new(Arc::clone(&device)).resend() {
                tracing::debug!(%error, "nothing is sent again");
            }
        }
    }
    let mut inbox = Inbox::own();
    loop {
        let Received::Request(len) = device.receive(inbox.open())? else { return Ok(()) };
        refuse(&device, inbox.request(len).unwrap_or_default());
    }
}

/// Refuses what an earlier process has left. One that is there twice is answered twice, and the kernel takes the
/// first.
fn refuse_left(device: &Arc<Device>, requests: OwnedFd) -> io::Result<()> {
    let requests = InFlight::open(requests)?;
    for left in requests.left() {
        refuse(device, &left.bytes);
    }
    for worker in 0..requests.workers() {
        if let Some(bytes) = Inbox::shared(&requests, worker)?.left() {
            refuse(device, bytes);
        }
    }
    Ok(())
}

fn refuse(device: &Arc<Device>, bytes: &[u8]) {
    if let Ok((header, ..)) = Header::decode(bytes) {
        Reply::new(Arc::clone(device), header.unique, header.wants_reply()).error(libc::EIO);
    }
}
